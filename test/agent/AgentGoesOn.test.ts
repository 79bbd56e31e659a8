import { assert, describe, it as plainIt } from "@effect/vitest"
import { Context, Duration, Effect, Fiber, Layer, Option, Ref, Schema } from "effect"
import {
  Agent,
  AgentBudget,
  Checkpoint,
  CheckpointStore,
  EscalationQueue,
  Idempotency,
  Telemetry
} from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import * as TestClock from "effect/testing/TestClock"
import { replaying } from "../support/replaying.ts"
import { isFull } from "../support/runs.ts"
import { call, counting, durable, kit } from "./support.ts"

const notRecorded = "what a failed call has spent is not recorded by a run that starts over after each record"

const it = replaying({
  "asks once more for the last answer where that was cut off, and pays for both": notRecorded,
  "is counted where the run is run again": notRecorded,
  "says how often the last call was attempted": notRecorded
})

const options = { runId: "run-1", prompt: "Go" }
const agent = (budget: AgentBudget.Options, whenSpent: "answer" | "fail" = "answer") =>
  Agent.make({ name: "support", instructions: "", toolkit: kit, budget, whenSpent, stream: false })

const usage = { inputTokens: 100, outputTokens: 10 }

/** Looks up one order and refunds another one, all of them new, and answers after so many times. */
const lookingFor = (turns: number): ScriptedModel.Script => ({ prompt, toolChoice }) => {
  const turn = prompt.content.filter(({ role }) => role === "tool").length
  return toolChoice === "none"
    ? ScriptedModel.text("The best so far.", { usage })
    : turn === turns
    ? ScriptedModel.text("Done.", { usage })
    : ScriptedModel.turn(
      call(`a${turn}`, "Lookup", { order: `a${turn}` }),
      call(`b${turn}`, "Refund", { order: `b${turn}` }),
      { usage }
    )
}

const looking = lookingFor(6)

const texts = (request: ScriptedModel.Request | undefined) => JSON.stringify(request?.prompt)

class Refunded extends Context.Service<Refunded, Array<string>>()("test/Refunded") {}

describe("a run that was completed with the best answer so far", () => {
  for (
    const [budget, small, large] of [
      ["iterations", { iterations: 3 }, { iterations: 20 }],
      ["toolCalls", { toolCalls: 5 }, { toolCalls: 50 }],
      ["inputTokens", { inputTokens: 300 }, { inputTokens: 10_000 }]
    ] as const
  ) {
    it.effect(`goes on with more ${budget} from where it was, and gives its result again without`, () =>
      Effect.gen(function*() {
        const { handlers, lookups, refunds } = yield* counting
        yield* Effect.gen(function*() {
          const first = yield* Agent.run(agent(small), options)
          assert.isTrue(first.completion === "graceful" && first.budget === budget)
          const before = (yield* ScriptedModel.requests).length
          const again = yield* Agent.run(agent(small), options)
          assert.isTrue(again.completion === "graceful" && again.budget === budget)
          assert.deepStrictEqual([again.text, again.usage], [first.text, first.usage])
          assert.strictEqual((yield* ScriptedModel.requests).length, before, "nothing is spent after the end")

          const result = yield* Agent.run(agent(large), options)
          assert.deepStrictEqual([result.completion, result.text], ["complete", "Done."])
          assert.deepInclude(result.counters, { iterations: 7, toolCalls: 12 })
          const requests = yield* ScriptedModel.requests
          assert.strictEqual(requests.length, 8)
          assert.strictEqual(result.usage.inputTokens, 800, "the last answer of the smaller budget is paid for")
          assert.isFalse(requests.slice(before).some((request) => texts(request).includes("best")), "and forgotten")
          assert.strictEqual(yield* Ref.get(lookups), 6)
          assert.deepStrictEqual(yield* Ref.get(refunds), ["b0", "b1", "b2", "b3", "b4", "b5"])

          for (const budget of [large, small]) {
            const replayed = yield* Agent.run(agent(budget), options)
            assert.deepStrictEqual([replayed.text, replayed.usage], [result.text, result.usage])
          }
          assert.strictEqual((yield* ScriptedModel.requests).length, 8)
          assert.deepStrictEqual(yield* Checkpoint.status("run-1"), Option.some("completed"))
        }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(looking))))
      }).pipe(Effect.provide(durable)))
  }

  it.effect("goes on several times, each time with what it has spent before", () =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      yield* Effect.gen(function*() {
        const ends: Array<string> = []
        for (const iterations of [1, 1, 2, 4, 4, 20]) {
          const { completion, counters } = yield* Agent.run(agent({ iterations }), options)
          ends.push(`${completion} ${counters.iterations}`)
        }
        assert.deepStrictEqual(ends, [
          "graceful 1",
          "graceful 1",
          "graceful 2",
          "graceful 4",
          "graceful 4",
          "complete 7"
        ])
        assert.deepStrictEqual([yield* Ref.get(lookups), (yield* ScriptedModel.requests).length], [6, 10])
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(looking))))
    }).pipe(Effect.provide(durable)))

  it.effect("goes on with more time, and the call that was cut off is paid for", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const slow = ScriptedModel.layer((request) =>
        request.toolChoice === "none" ? "The best so far." : Effect.as(Effect.sleep("2 minutes"), "Done.")
      )
      const run = (wallTime: Duration.Input) =>
        Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(Agent.run(agent({ wallTime }), options), { startImmediately: true })
          yield* TestClock.adjust("10 minutes")
          return yield* Fiber.join(fiber)
        }).pipe(Effect.provide(Layer.merge(handlers, slow)))
      const first = yield* run("1 minute")
      assert.isTrue(first.completion === "graceful" && first.budget === "wallTime")
      const paid = first.usage.outputTokens
      assert.isAtLeast(paid, 4_096)
      assert.strictEqual((yield* run("1 minute")).usage.outputTokens, paid)
      const result = yield* run("5 minutes")
      assert.deepStrictEqual([result.completion, result.text], ["complete", "Done."])
      assert.isAtLeast(result.usage.outputTokens, paid)
      assert.isAtLeast(Duration.toMinutes(result.elapsed), 3)
    }).pipe(Effect.provide(durable)))

  it.effect("goes on where a shared budget has room again", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const run = (sharedBudget: AgentBudget.Shared) =>
        Agent.run(Agent.make({ name: "support", instructions: "", toolkit: kit, sharedBudget }), options)
      yield* Effect.gen(function*() {
        const full = AgentBudget.shared({ outputTokens: 1_000 })
        for (const _ of [1, 2]) {
          const error = yield* Effect.flip(run(full))
          assert.isTrue(error._tag === "AgentError" && error.reason._tag === "BudgetExceeded")
        }
        assert.strictEqual((yield* ScriptedModel.requests).length, 0)
        const small = AgentBudget.shared({ iterations: 2 })
        for (const _ of [1, 2]) {
          const first = yield* run(small)
          assert.isTrue(first.completion === "graceful" && first.budget === "iterations")
        }
        assert.strictEqual((yield* ScriptedModel.requests).length, 3)
        const result = yield* run(AgentBudget.shared({ outputTokens: 100_000 }))
        assert.deepStrictEqual([result.completion, result.text], ["complete", "Done."])
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(looking))))
    }).pipe(Effect.provide(durable)))

  it.effect("asks once more for the last answer where that was cut off, and pays for both", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      let asked = 0
      const world = Layer.merge(
        handlers,
        ScriptedModel.layer((request) =>
          request.toolChoice !== "none"
            ? call(`${request.index}`, "Lookup", { order: `${request.index}` })
            : ++asked === 1
            ? Effect.never
            : "The best so far."
        )
      )
      const run = Effect.provide(Agent.run(agent({ iterations: 1, wallTime: "1 minute" }), options), world)
      const fiber = yield* Effect.forkChild(Effect.flip(run), { startImmediately: true })
      yield* TestClock.adjust("2 minutes")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "BudgetExhausted")
      const result = yield* run
      assert.deepStrictEqual([result.completion, result.text, asked], ["graceful", "The best so far.", 2])
      assert.isAtLeast(result.usage.outputTokens, 4_096)
      assert.strictEqual((yield* run).text, "The best so far.")
      assert.strictEqual(asked, 2)
    }).pipe(Effect.provide(durable)))

  it.effect("stays what it is where the agent is a part of a larger run, which has gone on from it", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const run = (iterations: number) =>
        Effect.gen(function*() {
          const { completion, text } = yield* Agent.loop(agent({ iterations }), { prompt: "Go" })
          const sent = yield* Checkpoint.step("send", { success: Schema.String }, Effect.succeed(text))
          return [completion, text, sent]
        }).pipe(Checkpoint.run({ id: "run-1" }))
      yield* Effect.gen(function*() {
        const first = yield* run(2)
        assert.deepStrictEqual(first, ["graceful", "The best so far.", "The best so far."])
        assert.deepStrictEqual(yield* run(20), first)
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(looking))))
    }).pipe(Effect.provide(durable)))

  plainIt.effect(
    "goes on to the same end, at whatever boundary its process crashes, and refunds nothing twice",
    () =>
      Effect.gen(function*() {
        const careful = (iterations: number) =>
          Agent.make({
            name: "support",
            instructions: "",
            toolkit: kit,
            budget: { iterations },
            tools: {
              Refund: {
                reconcile: ({ params: { order } }) =>
                  Effect.map(
                    Refunded,
                    (refunded) =>
                      refunded.includes(order) ? Checkpoint.happened(`refunded ${order}`) : Checkpoint.notHappened
                  )
              }
            }
          })
        // A process that crashed after it went on finds that it has gone on, whatever its budget.
        const program = Effect.gen(function*() {
          yield* Agent.run(careful(1), options)
          yield* Agent.run(careful(2), options)
          const { completion, counters, text } = yield* Agent.run(careful(20), options)
          return [completion, counters.iterations, text, yield* Checkpoint.status("run-1")]
        })
        const { boundaries, effects, left } = yield* CrashPoints.check({
          program,
          world: Layer.mergeAll(
            Layer.sync(Refunded, () => []),
            CheckpointStore.layerMemory,
            EscalationQueue.layerMemory
          ),
          process: Layer.mergeAll(
            kit.toLayer(Effect.map(Refunded, (refunded) =>
              kit.of({
                Lookup: () => Effect.succeed({ price: 10 }),
                Refund: ({ order }) =>
                  Effect.sync(() => (refunded.push(order), `refunded ${order}`)).pipe(
                    CrashPoints.effect(`refund ${order}`)
                  )
              }))),
            ScriptedModel.layer(lookingFor(3)),
            Idempotency.layerMemory
          ),
          ways: isFull ? undefined : ["killed"]
        })
        assert.isAbove(boundaries.length, 30)
        assert.strictEqual(effects.length, 3)
        assert.isTrue(effects.every(({ atMostOnce }) => atMostOnce))
        assert.strictEqual(left, 0)
      }),
    120_000
  )
})

describe("what a call has spent that failed", () => {
  it.effect("is counted where the run is run again", () =>
    Effect.gen(function*() {
      let asked = 0
      const refusing = ScriptedModel.layer(() =>
        ++asked < 3
          ? ScriptedModel.turn("No.", { finishReason: "content-filter", usage })
          : ScriptedModel.text("Done.", { usage })
      )
      const run = Effect.provide(Agent.run(Agent.make({ name: "writer", instructions: "" }), options), refusing)
      for (const spent of [100, 200]) {
        const error = yield* Effect.flip(run)
        assert.isTrue(error._tag === "AgentError" && error.reason._tag === "Refused")
        if (error._tag === "AgentError") assert.strictEqual(error.reached?.usage.inputTokens, spent)
      }
      const result = yield* run
      assert.deepStrictEqual([result.usage.inputTokens, result.counters.iterations], [300, 3])
    }).pipe(Effect.provide(durable)))

  it.effect("is counted where the time cut it off and the run is to fail then", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      let asked = 0
      const world = Layer.merge(handlers, ScriptedModel.layer(() => ++asked === 1 ? Effect.never : "Done."))
      const run = (wallTime: Duration.Input) => Effect.provide(Agent.run(agent({ wallTime }, "fail"), options), world)
      const fiber = yield* Effect.forkChild(Effect.flip(run("1 minute")), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(
        error._tag === "AgentError" && error.reason._tag === "BudgetExceeded" && error.reason.budget === "wallTime"
      )
      const again = yield* Effect.flip(run("1 minute"))
      assert.strictEqual(again.message, error.message)
      assert.strictEqual(asked, 1)
      const result = yield* run("2 minutes")
      assert.strictEqual(result.text, "Done.")
      assert.strictEqual(result.counters.unmetered, 1)
      assert.isAtLeast(result.usage.outputTokens, 4_096)
    }).pipe(Effect.provide(durable)))
})

describe("a run that failed", () => {
  const codec = Schema.toCodecJson(Agent.AgentError)

  it.effect("says in which step, after how many attempts, with which last error, and what is kept", () =>
    Effect.gen(function*() {
      const broken = kit.toLayer({
        Lookup: () => Effect.die("the shelf is empty"),
        Refund: () => Effect.succeed("refunded")
      })
      const priced = { iterations: 2, prices: { any: { input: 1, output: 1 } } }
      const run = Agent.run(agent(priced, "fail"), options).pipe(
        Effect.provide(Layer.merge(broken, ScriptedModel.layer(looking)))
      )
      const error = yield* Effect.flip(run)
      assert.isTrue(error._tag === "AgentError")
      if (error._tag !== "AgentError") return
      const { counters, ...reached } = error.reached ?? assert.fail("nothing")
      assert.deepStrictEqual(reached, {
        step: "[support]/[turn-3]/model",
        attempts: 0,
        lastError: { tag: "ToolDefect", message: "the shelf is empty" },
        usage: { ...AgentBudget.noUsage, inputTokens: 200, outputTokens: 20 },
        cost: 0.00022,
        elapsedMillis: 0,
        kept: { turns: 2, steps: 6 }
      })
      assert.deepInclude(counters, { iterations: 2, toolCalls: 4, toolErrors: 2 })
      assert.strictEqual(
        error.message,
        `agent "support", run "run-1", turn 2, step "[support]/[turn-3]/model": the budget (iterations) is used up; ` +
          "run it again with a larger one to go on from here; last error: ToolDefect: the shelf is empty; " +
          "kept: 6 steps of 2 turns, to go on from when it is run again"
      )
      const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(error))
      assert.deepStrictEqual([back.message, back.reached], [error.message, error.reached])
    }).pipe(Effect.provide(durable)))

  it.effect("says how often the last call was attempted", () =>
    Effect.gen(function*() {
      const writer = Agent.make({ name: "writer", instructions: "" })
      const error = yield* Effect.flip(
        Effect.provide(
          Agent.run(writer, options),
          ScriptedModel.layer(() => ScriptedModel.turn("", { usage: { inputTokens: 5, outputTokens: 0 } }))
        )
      )
      assert.isTrue(error._tag === "AgentError" && error.reason._tag === "EmptyAnswer")
      assert.include(error.message, `turn 1, step "[writer]/[turn-1]/model" after 2 attempts: the model gave an empty`)
      assert.include(error.message, "kept: 1 step of 1 turn")
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("is heard of with what its last call was paid for", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      const writer = Agent.make({ name: "writer", instructions: "" })
      yield* Agent.run(writer, options).pipe(
        Effect.flip,
        Effect.provide(
          ScriptedModel.layer(() => ScriptedModel.turn("", { usage: { inputTokens: 5, outputTokens: 0 } }))
        ),
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
      )
      const called = events.filter((event) => event._tag === "ModelCalled")
      assert.deepStrictEqual(called.map(({ attempts, inputTokens }) => [attempts, inputTokens]), [[2, 10]])
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))
})
