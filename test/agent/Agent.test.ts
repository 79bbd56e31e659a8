import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { Agent, CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Prompt, Tool, Toolkit } from "effect/ai"

const Lookup = Tool.make("Lookup", {
  parameters: Schema.Struct({ order: Schema.String }),
  success: Schema.Struct({ price: Schema.Number })
}).annotate(Tool.Readonly, true)

const Refund = Tool.make("Refund", {
  parameters: Schema.Struct({ order: Schema.String }),
  success: Schema.String
})

const kit = Toolkit.make(Lookup, Refund)
const durable = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory, Idempotency.layerMemory)

const call = (id: string, name: string, params: unknown) => ScriptedModel.toolCall({ id, name, params })

const agent = Agent.make({ name: "support", instructions: "Be kind.", toolkit: kit })

describe("Agent", () => {
  it.effect("calls tools in a loop until the model answers", () =>
    Effect.gen(function*() {
      const result = yield* Agent.run(agent, { runId: "run-1", prompt: "Refund order 7" })
      assert.strictEqual(result.text, "Done.")
      assert.strictEqual(result.completion, "complete")
      assert.deepStrictEqual(result.counters, {
        iterations: 3,
        toolCalls: 2,
        toolErrors: 0,
        retries: 0,
        repairs: 0,
        replayedSteps: 0
      })
      const requests = yield* ScriptedModel.requests
      const last = requests.at(-1)?.prompt
      assert.deepStrictEqual(last?.content.map((message) => message.role), [
        "system",
        "user",
        "assistant",
        "tool",
        "assistant",
        "tool"
      ])
      assert.isTrue(Prompt.isPrompt(last))
    }).pipe(Effect.provide(Layer.mergeAll(
      durable,
      kit.toLayer({
        Lookup: () => Effect.succeed({ price: 10 }),
        Refund: ({ order }) => Effect.succeed(`refunded ${order}`)
      }),
      ScriptedModel.layer([
        ScriptedModel.turn("Let me see.", call("1", "Lookup", { order: "7" })),
        call("2", "Refund", { order: "7" }),
        "Done."
      ])
    ))))
})
