import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Agent, CheckpointStore, EscalationQueue, Fault, LastGood } from "effect-resilience"
import * as Postgres from "effect-resilience/durable/stores/Postgres"
import { ScriptedModel } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { postgresProxy } from "../support/postgresProxy.ts"
import { durable } from "./support.ts"

const desk = Agent.make({ name: "desk", instructions: "Be kind." })
const ask = { runId: "run-1", prompt: "Where is my parcel?", emergency: "We answer soon." }
const refusal = ScriptedModel.fail(Fault.refused)

/** What it comes to, and how many seconds of the test's clock that takes. */
const timed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const began = yield* Clock.currentTimeMillis
    const fiber = yield* Effect.forkChild(effect)
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
    return [yield* Fiber.join(fiber), ((yield* Clock.currentTimeMillis) - began) / 1000] as const
  })

const silent = (operations: ReadonlyArray<keyof CheckpointStore.CheckpointStore["Service"]>) =>
  Layer.merge(
    durable,
    Layer.effect(
      CheckpointStore.CheckpointStore,
      Effect.map(CheckpointStore.makeMemory(), (store) => ({
        ...store,
        ...Object.fromEntries(operations.map((operation) => [operation, () => Effect.never]))
      }))
    )
  )

describe("an answer comes within its bound", () => {
  for (
    const [what, operations, seconds] of [
      ["no read", ["get"], 5],
      ["no write", ["acquire"], 30],
      ["nothing", ["get", "acquire", "read", "append", "release", "renew", "list"], 5]
    ] as const
  ) {
    it.effect(`of a store that answers ${what}: within ${seconds} seconds`, () =>
      Effect.gen(function*() {
        const [answered, took] = yield* timed(Agent.answer(desk, ask))
        assert.strictEqual(answered.source, "emergency")
        assert.deepStrictEqual(answered.errors[0]?.tag, "CheckpointStoreError")
        assert.isAtMost(took, seconds + 1)
      }).pipe(
        Effect.provide(Agent.layerProduction({ model: ScriptedModel.layer(["It comes."]), store: silent(operations) }))
      ))
  }

  it.effect("of a queue that takes no question: 5 seconds more, and who is told late is told", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const told: Array<string> = []
      const slow = EscalationQueue.EscalationQueue.of({
        ...queue,
        submit: (submission) =>
          Effect.sleep("20 seconds").pipe(
            Effect.andThen(Effect.sync(() => void told.push(submission.task))),
            Effect.andThen(queue.submit(submission))
          )
      })
      const [answered, took] = yield* timed(
        Effect.provideService(Agent.answer(desk, ask), EscalationQueue.EscalationQueue, slow)
      )
      assert.strictEqual(answered.source, "emergency")
      assert.isAtMost(took, 6)
      assert.deepStrictEqual(told, [])
      yield* TestClock.adjust("20 seconds")
      assert.lengthOf(told, 1)
    }).pipe(Effect.provide(Agent.layerProduction({ model: ScriptedModel.layer([refusal]), store: durable }))))
})

const refusing = (lastGood = LastGood.layer()) =>
  Agent.layerProduction({ model: ScriptedModel.layer(() => refusal), store: durable, lastGood })

const hanging = Layer.succeed(LastGood.LastGood, {
  remember: () => Effect.never,
  recall: () => Effect.never,
  keys: () => Effect.never,
  forget: () => Effect.never
})

const dying = Layer.succeed(LastGood.LastGood, {
  remember: () => Effect.die("a bug"),
  recall: () => Effect.die("a bug"),
  keys: () => Effect.die("a bug"),
  forget: () => Effect.die("a bug")
})

describe("a step that hangs gives way to the next one", () => {
  it.effect("a template, and an own bound for it, also where it cannot be interrupted", () =>
    Effect.gen(function*() {
      const template = () => Effect.uninterruptible(Effect.never)
      const [first, took] = yield* timed(Agent.answer(desk, { ...ask, template }))
      assert.strictEqual(first.source, "emergency")
      assert.isTrue(took >= 30 && took <= 36, String(took))
      assert.deepStrictEqual(first.errors.map(({ label, tag }) => [label, tag]), [
        ["agent", "AiError"],
        ["template", "DeadlineExceeded"]
      ])
      const [second, less] = yield* timed(
        Agent.answer(desk, { ...ask, runId: "run-2", template, stepTimeout: "2 seconds", escalate: false })
      )
      assert.deepStrictEqual([second.source, less <= 4], ["emergency", true])
    }).pipe(Effect.provide(refusing())))

  it.effect("a store of answers to serve again", () =>
    Effect.gen(function*() {
      const [answered, took] = yield* timed(Agent.answer(desk, { ...ask, lastGood: { key: "ann" } }))
      assert.deepStrictEqual([answered.source, took <= 36], ["emergency", true])
    }).pipe(Effect.provide(refusing(hanging))))
})

describe("a step that dies gives way to the next one", () => {
  const bug = new Error("a bug")
  const thrown = (): never => {
    throw bug
  }

  it.effect("the model, what asks for less, the template and the store of answers", () =>
    Effect.gen(function*() {
      const [answered] = yield* timed(Agent.answer(desk, {
        ...ask,
        lastGood: { key: "ann", similar: thrown },
        simplified: thrown,
        template: () => Effect.die(bug)
      }))
      assert.strictEqual(answered.source, "emergency")
      assert.deepStrictEqual(answered.errors.map(({ label, tag }) => [label, tag]), [
        ["agent", "Defect"],
        ["last good", "LastGoodStoreError"],
        ["simplified", "Defect"],
        ["template", "Defect"]
      ])
    }).pipe(
      Effect.provide(
        Agent.layerProduction({
          model: ScriptedModel.layer(() => Effect.die(bug)),
          store: durable,
          lastGood: dying
        })
      )
    ))

  it.effect("and where nothing stands in for it, the defect comes out", () =>
    Effect.gen(function*() {
      const { emergency: _, ...rest } = ask
      const exit = yield* Effect.exit(
        timed(Agent.answer(desk, { ...rest, template: () => Effect.die(bug), escalate: false }))
      )
      assert.strictEqual(Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined, bug)
    }).pipe(Effect.provide(refusing())))

  it.effect("an interruption stays one, at every step", () =>
    Effect.forEach(["template", "simplified"] as const, (step) =>
      Effect.gen(function*() {
        const begun = yield* Deferred.make<void>()
        const waits = Effect.andThen(Deferred.succeed(begun, undefined), Effect.never)
        const options = step === "template"
          ? { ...ask, template: () => waits }
          : { ...ask, simplified: () => "Short" }
        const Live = Agent.layerProduction({
          model: ScriptedModel.layer(({ prompt }) => JSON.stringify(prompt).includes("Short") ? waits : refusal),
          store: durable
        })
        const exit = yield* Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(Agent.answer(desk, options))
          while (!(yield* Deferred.isDone(begun))) yield* TestClock.adjust("1 second")
          yield* Fiber.interrupt(fiber)
          return yield* Fiber.await(fiber)
        }).pipe(Effect.provide(Live))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      })))
})

describe("an answer that people would be asked about", () => {
  const judge = Agent.make({
    name: "judge",
    instructions: "Judge.",
    result: Schema.Struct({ guilty: Schema.Boolean, confidence: Schema.Number })
  })
  const careful = Agent.reviewed(judge, { when: { field: "confidence", below: 0.8 } })
  const question = {
    prompt: "The butler?",
    simplified: () => "Short, please.",
    emergency: { guilty: false, confidence: 0 }
  }

  it.effect("is not served in its simplified form, and a sure one is", () =>
    Effect.gen(function*() {
      const [unsure] = yield* timed(Agent.answer(careful, { ...question, runId: "case-1" }))
      assert.deepStrictEqual([unsure.source, unsure.errors.map(({ label, tag }) => [label, tag])], ["emergency", [
        ["agent", "AiError"],
        ["simplified", "AgentError"]
      ]])
      const [sure] = yield* timed(Agent.answer(careful, { ...question, runId: "case-2" }))
      assert.deepStrictEqual([sure.source, sure.value.value.confidence], ["simplified", 0.9])
    }).pipe(Effect.provide(Agent.layerProduction({
      model: ScriptedModel.layer([
        refusal,
        `{"guilty":true,"confidence":0.1}`,
        refusal,
        `{"guilty":true,"confidence":0.9}`
      ]),
      store: durable
    }))))
})

describe("who watches an answer", () => {
  it.effect("hears of all that its run does", () =>
    Effect.gen(function*() {
      const heard: Array<string> = []
      const onEvent = ({ _tag }: Agent.Progress) => Effect.sync(() => void heard.push(_tag))
      yield* timed(Agent.answer(desk, { ...ask, onEvent }))
      assert.includeMembers(heard, ["StateChanged", "TextDelta", "Answered"])
    }).pipe(Effect.provide(Agent.layerProduction({ model: ScriptedModel.layer(["It comes."]), store: durable }))))
})

describeWithPostgres("an answer comes within its bound", () => {
  const schema = suiteSchema()

  it.effect("of a PostgreSQL behind a network that swallows everything", () =>
    Effect.gen(function*() {
      const proxy = yield* postgresProxy
      const options = yield* schema
      const Live = Agent.layerProduction({
        model: ScriptedModel.layer(["It comes.", "It comes."]),
        store: Postgres.layer({ ...options, url: proxy.url })
      })
      yield* Effect.gen(function*() {
        assert.strictEqual((yield* Agent.answer(desk, ask)).source, "agent")
        yield* proxy.swallow
        const [answered, took] = yield* timed(Agent.answer(desk, { ...ask, runId: "run-2" }))
        assert.strictEqual(answered.source, "emergency")
        assert.isAtMost(took, 11)
      }).pipe(Effect.ensuring(proxy.cut), Effect.provide(Live))
    }))
})
