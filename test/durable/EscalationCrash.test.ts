import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Schema } from "effect"
import { Checkpoint, CheckpointStore, EscalationQueue } from "effect-resilience"
import { CrashPoints } from "effect-resilience/testing"
import { isFull } from "../support/runs.ts"

const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)

const approvals = Checkpoint.forEach(["a", "b"], (call) =>
  EscalationQueue.ask({
    name: "approval",
    reason: "IrreversibleAction",
    task: call,
    about: { call },
    edits: Schema.Struct({ n: Schema.Int })
  }).pipe(
    Effect.map((decision) => `${call} ${JSON.stringify(decision)}`)
  ), { concurrency: 2 })

const payment = Effect.gen(function*() {
  yield* Checkpoint.step("look up", {}, Effect.void.pipe(CrashPoints.effect("look up")))
  const decisions = yield* approvals
  yield* Checkpoint.step("pay", {}, Effect.void.pipe(CrashPoints.effect("pay")))
  return decisions
}).pipe(Checkpoint.run({ id: "payment" }))

/** People who decide one thing at a time, each time the run waits. */
const people = Effect.gen(function*() {
  const queue = yield* EscalationQueue.EscalationQueue
  const [asked] = yield* queue.list({ status: "open" })
  if (asked === undefined) return
  yield* queue.decide(
    asked.id,
    asked.task === "a" ? { _tag: "Approve", arguments: { n: 1 } } : { _tag: "Reject", reason: "no" }
  )
})

const program = Effect.gen(function*() {
  for (let i = 0; i < 5; i++) {
    const result = yield* Effect.result(payment)
    if (result._tag === "Success") return result.success
    if (result.failure._tag !== "RunSuspended") return yield* result.failure
    yield* people
  }
  return ["never decided"]
})

describe("a run that asks people and crashes", () => {
  it.effect(
    "at every boundary has each decision for its own call, and does nothing again that it did before the wait",
    () =>
      Effect.gen(function*() {
        const { boundaries, effects, exit, left } = yield* CrashPoints.check({
          program,
          world,
          ways: isFull ? undefined : ["killed", "disconnected"]
        })
        assert.deepStrictEqual(
          exit,
          Exit.succeed([`a {"_tag":"Approve","arguments":{"n":1}}`, `b {"_tag":"Reject","reason":"no"}`])
        )
        assert.isAbove(boundaries.length, 30)
        assert.deepStrictEqual(effects.map(({ label }) => label), ["look up", "pay"])
        assert.strictEqual(left, 0)
      }),
    60_000
  )
})
