import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Layer, Result, Schema } from "effect"
import {
  Agent,
  Backoff,
  CheckpointStore,
  CircuitBreaker,
  EscalationQueue,
  Fault,
  HealthMonitor,
  Policy
} from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { call, counting, durable, kit } from "./support.ts"

const desk = Agent.make({ name: "desk", instructions: "Be kind.", toolkit: kit })
const ask = { runId: "run-1", prompt: "Where is my parcel?" }
const key = `ann/${ask.prompt}`
const whole = { ...ask, lastGood: { key }, simplified: () => "Short, please.", emergency: "We answer soon." }

const refusal = ScriptedModel.turn("I will not.", { finishReason: "content-filter" })
const down = ScriptedModel.fail(Fault.overloaded())

type Production = Parameters<typeof Agent.layerProduction<never, never, never, never>>[0]

const production = (script: ScriptedModel.Script, options?: Partial<Production>) =>
  Layer.merge(
    Agent.layerProduction<never, never, never, never>({
      model: ScriptedModel.layer(script),
      store: durable,
      ...options
    }),
    Layer.unwrap(Effect.map(counting, ({ handlers }) => handlers))
  )

/** Time goes on until the effect is over: the quota of the default policy lets the first calls go one after the other. */
const inTime = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(effect)
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
    return yield* Fiber.join(fiber)
  })

const answer: typeof Agent.answer = (agent, options) => inTime(Agent.answer(agent, options))

const open = EscalationQueue.EscalationQueue.use((queue) => queue.list({ status: "open" }))

const failing = new CheckpointStore.CheckpointStoreError({
  operation: "acquire",
  reason: { _tag: "Unavailable", cause: new Error("connection refused") }
})
const brokenStore = Layer.mergeAll(
  durable,
  Layer.effect(
    CheckpointStore.CheckpointStore,
    Effect.map(CheckpointStore.makeMemory(), (store) => ({
      ...store,
      acquire: () => Effect.fail(failing),
      get: () => Effect.fail(failing)
    }))
  )
)

describe("what answers where the agent does not", () => {
  it.effect("the agent itself, where it does", () =>
    Effect.gen(function*() {
      const answered = yield* answer(desk, whole)
      assert.deepStrictEqual([answered.source, answered.degraded, answered.value.value], ["agent", false, "It comes."])
      assert.strictEqual(answered.value.result?.completion, "complete")
      assert.deepStrictEqual(yield* open, [])
    }).pipe(Effect.provide(production(["It comes."]))))

  it.effect("its last whole answer under the same key, with its age", () =>
    Effect.gen(function*() {
      yield* answer(desk, whole)
      yield* TestClock.adjust("1 hour")
      const answered = yield* answer(desk, { ...whole, runId: "run-2" })
      assert.deepStrictEqual([answered.source, answered.degraded, answered.value.value], [
        "last good",
        true,
        "It comes."
      ])
      assert.deepStrictEqual(answered.errors.map(({ label, tag }) => [label, tag]), [["agent", "AgentError"]])
      assert.isTrue(answered.value.age !== undefined && answered.value.result === undefined)
      const sourceOf = (options: Partial<typeof whole & Agent.AnswerOptions<string, never, never>>) =>
        Effect.map(answer(desk, { ...whole, ...options }), ({ source }) => source)
      assert.strictEqual(yield* sourceOf({ runId: "run-3", lastGood: { key: "ann/Another question" } }), "simplified")
      assert.strictEqual(yield* sourceOf({ runId: "run-4", lastGood: { key, maxAge: "59 minutes" } }), "simplified")
      assert.strictEqual((yield* answer(desk, { ...whole, runId: "run-5", lastGood: undefined })).source, "simplified")
    }).pipe(
      Effect.provide(
        production(({ index, tools }) => tools.length === 0 ? "Briefly." : index === 0 ? "It comes." : refusal)
      )
    ))

  it.effect("never another one's answer to the same words: without a key none is served again", () => {
    const helper = Agent.make({ name: "helper", instructions: "" })
    const from = (customer: string) => ({
      runId: `ticket-${customer}`,
      prompt: ask.prompt,
      emergency: "We answer soon."
    })
    return Effect.gen(function*() {
      const [first, second] = [yield* answer(helper, from("ann")), yield* answer(helper, from("bob"))]
      assert.deepStrictEqual([first.source, second.source], ["agent", "emergency"])
      const keyed = (customer: string) => ({ ...from(customer), lastGood: { key: `${customer}/${ask.prompt}` } })
      assert.strictEqual((yield* answer(helper, { ...keyed("cid"), runId: "1" })).source, "agent")
      assert.strictEqual((yield* answer(helper, { ...keyed("dan"), runId: "2" })).source, "emergency")
      assert.strictEqual((yield* answer(helper, { ...keyed("cid"), runId: "3" })).source, "last good")
      const raised = Agent.make({ name: "helper", instructions: "", version: 2 })
      assert.strictEqual((yield* answer(raised, { ...keyed("cid"), runId: "4" })).source, "emergency")
    }).pipe(
      Effect.provide(
        production(["Ann's parcel is at 5 Main Street.", refusal, "At 7 Elm Street.", refusal, refusal, refusal])
      )
    )
  })

  it("a key that is none is refused where it is given", () => {
    const made = Result.try(() => Agent.answer(desk, { ...ask, lastGood: { key: "" } }))
    assert.isTrue(Result.isFailure(made) && String(made.failure).includes("lastGood.key"), String(made))
  })

  it.effect("itself without tools, asked for less, also when the store does not work", () => {
    const requests: Array<ScriptedModel.Request> = []
    const script: ScriptedModel.Script = (request) => {
      requests.push(request)
      return "Briefly."
    }
    return Effect.gen(function*() {
      const answered = yield* answer(desk, whole)
      assert.deepStrictEqual([answered.source, answered.value.value], ["simplified", "Briefly."])
      assert.deepStrictEqual(answered.errors.map(({ label, tag }) => [label, tag]), [
        ["agent", "CheckpointStoreError"],
        ["last good", "NoLastGood"]
      ])
      assert.deepStrictEqual(requests.map(({ tools }) => tools.length), [0])
      assert.include(JSON.stringify(requests[0]?.prompt), "Short, please.")
    }).pipe(Effect.provide(production(script, { store: brokenStore })))
  })

  it.effect("a template, and an emergency answer where that fails too", () =>
    Effect.gen(function*() {
      const template = (fails: boolean) => () => fails ? Effect.fail("no template" as const) : Effect.succeed("Hello,")
      const first = yield* answer(desk, { ...whole, template: template(false) })
      const second = yield* answer(desk, { ...whole, template: template(true) })
      assert.deepStrictEqual([first, second].map(({ source, value: { value } }) => [source, value]), [
        ["template", "Hello,"],
        ["emergency", "We answer soon."]
      ])
      assert.deepStrictEqual(second.errors.map(({ label }) => label), [
        "agent",
        "last good",
        "simplified",
        "template"
      ])
    }).pipe(Effect.provide(production(() => down))))

  it.effect("nothing, where the options give nothing: then it fails with what the agent failed with", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(answer(desk, ask))
      assert.isTrue(error instanceof Agent.AgentError && error.reason._tag === "Refused")
    }).pipe(Effect.provide(production([refusal]))))

  it.effect("another model, before any of these", () =>
    Effect.gen(function*() {
      const answered = yield* answer(desk, whole)
      assert.deepStrictEqual([answered.source, answered.value.value], ["agent", "From the small one."])
      assert.isTrue(answered.degraded, "it is not the answer of the model that was asked first")
      assert.deepStrictEqual(answered.value.result?.turns.map(({ standIn }) => standIn), ["smaller"])
    }).pipe(
      Effect.provide(production(() => down, {
        others: [{ label: "smaller", model: ScriptedModel.layer(["From the small one."]) }]
      }))
    ))

  it.effect("not a result that does not match its schema, though the best that the budget allowed", () => {
    const typed = Agent.make({
      name: "typed",
      instructions: "Answer.",
      result: Schema.Struct({ price: Schema.Number }),
      budget: { iterations: 1 },
      toolkit: kit
    })
    return Effect.gen(function*() {
      const answered = yield* answer(typed, { ...ask, emergency: { price: 0 } })
      assert.deepStrictEqual([answered.source, answered.value.value], ["emergency", { price: 0 }])
      assert.deepStrictEqual((yield* open).map(({ reason, runId }) => [reason, runId]), [["BudgetExceeded", "run-1"]])
    }).pipe(Effect.provide(production([call("1", "Lookup", { order: "7" }), "I do not know."])))
  })

  it.effect("a graceful result counts as the agent's own, and is not served again", () => {
    const short = Agent.make({ name: "short", instructions: "", toolkit: kit, budget: { iterations: 1 } })
    return Effect.gen(function*() {
      const first = yield* answer(short, whole)
      assert.deepStrictEqual([first.source, first.value.result?.completion], ["agent", "graceful"])
      const second = yield* answer(short, { ...whole, runId: "run-2" })
      assert.strictEqual(second.source, "simplified")
    }).pipe(
      Effect.provide(production([call("1", "Lookup", { order: "7" }), "So far.", refusal, "Briefly."]))
    )
  })
})

describe("what no other answer stands in for", () => {
  const approved = Agent.make({ name: "desk", instructions: "", toolkit: kit, approval: "atMostOnce" })
  const script = [call("1", "Refund", { order: "7" }), "Refunded."]

  it.effect("a run that waits for people, which goes on once they have decided", () =>
    Effect.gen(function*() {
      const suspended = yield* Effect.flip(answer(approved, whole))
      assert.strictEqual(suspended._tag, "RunSuspended")
      const queue = yield* EscalationQueue.EscalationQueue
      for (const { id } of yield* open) yield* queue.decide(id, { _tag: "Approve" })
      assert.strictEqual((yield* answer(approved, whole)).source, "agent")
      const { failed, fallbackUses, successful, suspended: waiting, total } = yield* Agent.metrics
      assert.deepStrictEqual([total, successful, failed, waiting, fallbackUses], [2, 1, 0, 1, 0])
    }).pipe(Effect.provide(production(script))))

  it.effect("a run that people have abandoned", () =>
    Effect.gen(function*() {
      yield* Effect.flip(answer(approved, whole))
      const queue = yield* EscalationQueue.EscalationQueue
      for (const { id } of yield* open) yield* queue.decide(id, { _tag: "Abandon", reason: "no" })
      const abandoned = yield* Effect.flip(answer(approved, whole))
      assert.isTrue(abandoned._tag === "AgentError" && abandoned.reason._tag === "Abandoned")
      assert.deepStrictEqual(yield* open, [])
    }).pipe(Effect.provide(production(script))))

  it.effect("a run that somebody else works on, and a prompt that is another one", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const lease = yield* store.acquire("run-1", Duration.minutes(1))
      assert.strictEqual((yield* Effect.flip(answer(desk, whole)))._tag, "RunLeased")
      yield* store.release(lease)
      yield* answer(desk, whole)
      const other = yield* Effect.flip(answer(desk, { ...whole, prompt: "Something else" }))
      assert.strictEqual(other._tag, "RunConflict")
    }).pipe(Effect.provide(production(["It comes."]))))
})

describe("the health gate", () => {
  const closing = { gate: { closeAfter: 1 }, minimumCalls: 1 }

  it.effect("refuses new runs while the agent is critical, and answers from elsewhere", () =>
    Effect.gen(function*() {
      yield* HealthMonitor.record("agent", { outcome: "failure", latency: "1 second" })
      const refused = yield* Effect.flip(answer(desk, ask))
      assert.strictEqual(refused._tag, "HealthGateClosed")
      const answered = yield* answer(desk, { ...ask, emergency: "We answer soon." })
      assert.deepStrictEqual(answered.errors.map(({ label, skipped, tag }) => [label, skipped, tag]), [
        ["agent", true, "HealthGateClosed"]
      ])
      assert.deepStrictEqual(yield* open, [], "nothing was begun that people could look at")
      assert.strictEqual((yield* Agent.metrics).health.status, "critical")
    }).pipe(Effect.provide(production([], { health: closing }))))

  it.effect("lets a run go on that has begun", () =>
    Effect.gen(function*() {
      const approved = Agent.make({ name: "desk", instructions: "", toolkit: kit, approval: "atMostOnce" })
      yield* Effect.flip(answer(approved, whole))
      const queue = yield* EscalationQueue.EscalationQueue
      for (const { id } of yield* open) yield* queue.decide(id, { _tag: "Approve" })
      yield* HealthMonitor.record("agent", { outcome: "failure", latency: "1 second" })
      assert.strictEqual((yield* answer(approved, whole)).source, "agent")
    }).pipe(Effect.provide(production([call("1", "Refund", { order: "7" }), "Refunded."], { health: closing }))))

  it.effect("begins no run while the store cannot be written to", () =>
    Effect.gen(function*() {
      yield* Effect.repeat(HealthMonitor.check, { times: 2 })
      const refused = yield* Effect.flip(answer(desk, ask))
      assert.strictEqual(refused._tag, "HealthGateClosed")
    }).pipe(Effect.provide(production([], { store: brokenStore, health: { gate: { closeAfter: 1 } } }))))
})

describe("people are told of a run that came to nothing", () => {
  it.effect("once for each run, and again after they have decided", () =>
    Effect.gen(function*() {
      const template = () => Effect.succeed("Hello,")
      yield* answer(desk, { ...ask, template })
      yield* answer(desk, { ...ask, template })
      const told = yield* open
      assert.deepStrictEqual(told.map(({ reason, runId }) => [reason, runId]), [["MaxRetriesExceeded", "run-1"]])
      const queue = yield* EscalationQueue.EscalationQueue
      for (const { id } of told) yield* queue.decide(id, { _tag: "Retry" })
      yield* answer(desk, { ...ask, template })
      assert.lengthOf(yield* open, 1)
      yield* answer(desk, { ...ask, template, runId: "run-2", escalate: false })
      assert.lengthOf(yield* open, 1)
    }).pipe(Effect.provide(production(() => refusal))))

  it.effect("not where the queue is down: the answer comes all the same", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const broken = EscalationQueue.EscalationQueue.of({
        ...queue,
        submit: () =>
          Effect.fail(
            new EscalationQueue.EscalationError({
              operation: "submit",
              reason: { _tag: "Unavailable", cause: new Error("connection refused") }
            })
          )
      })
      const answered = yield* answer(desk, { ...ask, emergency: "We answer soon." }).pipe(
        Effect.provideService(EscalationQueue.EscalationQueue, broken)
      )
      assert.strictEqual(answered.source, "emergency")
    }).pipe(Effect.provide(production(() => refusal))))
})

describe("the metrics of production", () => {
  it.effect("add up, whatever becomes of the answers", () =>
    Effect.gen(function*() {
      const before = yield* Agent.metrics
      assert.deepStrictEqual([before.total, before.successRate], [0, undefined])
      yield* answer(desk, { ...whole, runId: "1" })
      yield* answer(desk, { ...whole, runId: "2", lastGood: undefined })
      yield* answer(desk, { ...whole, runId: "3" })
      yield* Effect.flip(answer(desk, { ...ask, runId: "4" }))
      const after = yield* Agent.metrics
      assert.deepStrictEqual(after.sources, { agent: 1, simplified: 1, "last good": 1 })
      assert.deepStrictEqual([after.total, after.successful, after.failed, after.fallbackUses], [4, 3, 1, 2])
      assert.deepStrictEqual([after.answerRate, after.successRate], [0.75, 0.25])
    }).pipe(
      Effect.provide(
        production(({ index, tools }) => tools.length === 0 ? "Briefly." : index === 0 ? "It comes." : refusal)
      )
    ))

  it.effect("show the circuit that has opened", () =>
    Effect.gen(function*() {
      yield* answer(desk, whole)
      const { circuits } = yield* Agent.metrics
      assert.deepStrictEqual(circuits.map(({ _tag }) => _tag), ["Open"])
    }).pipe(Effect.provide(production(() => down))))

  it.effect("an answer that is interrupted at any time counts for nothing, and leaves nothing behind", () =>
    Effect.gen(function*() {
      const begun = yield* Deferred.make<void>()
      const script = () => Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
      return yield* Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(Agent.answer(desk, whole))
        yield* Deferred.await(begun)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* Agent.metrics).total, 0)
        assert.deepStrictEqual(yield* open, [])
        assert.strictEqual((yield* HealthMonitor.status("agent")).calls, 0)
      }).pipe(Effect.provide(production(script)))
    }))
})

describe("the parts of the layer", () => {
  it.effect("are those of the program around, piece by piece", () =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(answer(desk, ask))
      assert.strictEqual(error._tag, "AiError")
      // The policy given tries once.
      assert.deepStrictEqual(yield* CircuitBreaker.CircuitBreaker.use((breaker) => breaker.states), [])
      assert.strictEqual((yield* HealthMonitor.status("shop")).calls, 1)
    }).pipe(
      Effect.provide(production([down], {
        name: "shop",
        policy: Policy.make({ name: "once", retry: { maxAttempts: 1, backoff: Backoff.constant({ delay: 0 }) } })
      }))
    ))

  it("say what is wrong with the name", () => {
    const made = Result.try(() => production([], { name: "" }))
    assert.isTrue(Result.isFailure(made) && String(made.failure).includes("name"), String(made))
  })

  it("the default policy is the one that is described", () => {
    assert.deepStrictEqual(Policy.describe(Agent.productionPolicy("agent")).split("\n").map((line) => line.trim()), [
      "policy \"agent\"",
      "retry            at most 5 attempts, budget \"agent\"",
      "quota            as the layer says",
      "bulkhead         maxQueue 100",
      "circuit          as the layer says",
      "attempt timeout  1m",
      "work"
    ])
  })
})
