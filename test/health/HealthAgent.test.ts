import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Agent, CheckpointStore, HealthMonitor } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { AiError } from "effect/ai"
import { TestClock } from "effect/testing"

const down = AiError.make({
  module: "test",
  method: "generateText",
  reason: new AiError.InternalProviderError({ description: "the provider is down" })
})

const agent = Agent.make({
  name: "support",
  instructions: "Be kind.",
  policies: { model: HealthMonitor.track("model") }
})

const run = (runId: string) => Agent.run(agent, { runId, prompt: "Hello" }).pipe(HealthMonitor.gate("model"))

describe("HealthMonitor around an agent", () => {
  it.effect("keeps new runs from beginning while the model is down, tries with one run, and lets them all in again", () =>
    Effect.gen(function*() {
      let begun = 0
      let isDown = true
      const model = ScriptedModel.layer(() => {
        begun++
        return isDown ? Effect.fail(down) : "Hello."
      })
      yield* Effect.gen(function*() {
        for (let n = 0; n < 20; n++) yield* Effect.exit(run(`run-${n}`))
        assert.deepInclude(yield* HealthMonitor.status("model"), { status: "critical", gate: "closed" })
        assert.strictEqual(begun, 7)
        const store = yield* CheckpointStore.CheckpointStore
        assert.lengthOf(yield* store.list(), 7, "a run that was refused has no journal")

        yield* TestClock.adjust("30 seconds")
        const tried = yield* Effect.all([Effect.flip(run("probe-1")), Effect.flip(run("probe-2"))], { concurrency: 2 })
        assert.sameMembers(tried.map(({ _tag }) => _tag), ["AiError", "HealthGateClosed"])
        assert.strictEqual(begun, 8, "one of them was let through")

        isDown = false
        yield* TestClock.adjust("30 seconds")
        for (const runId of ["run-0", "run-1", "run-2"]) assert.strictEqual((yield* run(runId)).text, "Hello.")
        assert.deepInclude(yield* HealthMonitor.status("model"), { gate: "open" })
      }).pipe(Effect.provide(Layer.mergeAll(model, CheckpointStore.layerMemory, HealthMonitor.layer())))
    }))
})
