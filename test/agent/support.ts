import { Effect, Layer, Ref, Schema } from "effect"
import { CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"

export const Lookup = Tool.make("Lookup", {
  parameters: Schema.Struct({ order: Schema.String }),
  success: Schema.Struct({ price: Schema.Number })
}).annotate(Tool.Readonly, true)

export const Refund = Tool.make("Refund", {
  parameters: Schema.Struct({ order: Schema.String }),
  success: Schema.String,
  failure: Schema.String
})

export const kit = Toolkit.make(Lookup, Refund)

export const durable = Layer.mergeAll(
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory,
  Idempotency.layerMemory
)

export const call = (id: string, name: string, params: unknown) => ScriptedModel.toolCall({ id, name, params })

/** Handlers that count what they did. */
export const counting = Effect.gen(function*() {
  const lookups = yield* Ref.make(0)
  const refunds = yield* Ref.make<ReadonlyArray<string>>([])
  const handlers = kit.toLayer({
    Lookup: () => Effect.as(Ref.update(lookups, (n) => n + 1), { price: 10 }),
    Refund: ({ order }) => Effect.as(Ref.update(refunds, (done) => [...done, order]), `refunded ${order}`)
  })
  return { lookups, refunds, handlers }
})

/** The result of the last tool message of a prompt, call by call. */
export const lastResults = (request: ScriptedModel.Request | undefined): ReadonlyArray<unknown> => {
  const message = request?.prompt.content.findLast((message) => message.role === "tool")
  return message?.role === "tool"
    ? message.content.flatMap((part) => part.type === "tool-result" ? [part.result] : [])
    : []
}
