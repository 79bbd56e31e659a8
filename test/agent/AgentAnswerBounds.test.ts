import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Layer } from "effect"
import { Agent, CheckpointStore, EscalationQueue, Fault } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import * as Postgres from "effect-resilience/durable/stores/Postgres"
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
