import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"

describe("Checkpoint", () => {
  it.effect("a resumed run gets the results of finished steps from the journal", () =>
    Effect.gen(function*() {
      const calls: Array<string> = []
      let down = true
      const program = Effect.gen(function*() {
        const a = yield* Checkpoint.step(
          "a",
          { success: Schema.Date },
          Effect.sync(() => {
            calls.push("a")
            return new Date(7)
          })
        )
        yield* Checkpoint.step(
          "b",
          {},
          Effect.suspend(() => {
            calls.push("b")
            return down ? Effect.fail("down") : Effect.void
          })
        )
        return a.getTime()
      }).pipe(Checkpoint.run({ id: "r", input: { topic: "tides" } }))
      assert.strictEqual(yield* Effect.flip(program), "down")
      down = false
      assert.strictEqual(yield* program, 7)
      assert.strictEqual(yield* program, 7)
      assert.deepStrictEqual(calls, ["a", "b", "b"])
      const { records } = yield* Checkpoint.inspect("r")
      assert.deepStrictEqual(records.map((record) => record.kind), [
        "RunOpened",
        "StepSucceeded",
        "StepFailed",
        "RunFailed",
        "RunResumed",
        "StepSucceeded",
        "RunCompleted"
      ])
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))
})
