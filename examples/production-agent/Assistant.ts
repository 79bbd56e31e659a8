/**
 * The program: an assistant of a shop, and what answers where it cannot. It knows nothing of models, stores and outages:
 * `Agent.layerProduction` is the world around it.
 */
import { Context, Effect, Layer, Schema } from "effect"
import { Agent, AgentTools } from "effect-resilience"
import { Tool, Toolkit } from "effect/ai"

const toolkit = Toolkit.make(
  Tool.make("orderStatus", {
    description: "Says where an order is.",
    parameters: Schema.Struct({ order: Schema.String }),
    success: Schema.String
  }).annotate(Tool.Readonly, true),
  Tool.make("sendVoucher", {
    description: "Sends a voucher to whoever placed an order. It cannot be taken back.",
    parameters: Schema.Struct({ order: Schema.String, euros: Schema.Int }),
    success: Schema.String
  }).annotate(Tool.Destructive, true)
)

/** Which vouchers went out, and for which call. */
export class Vouchers extends Context.Service<Vouchers, { readonly sent: Array<string> }>()("examples/Vouchers") {
  static readonly layer = Layer.sync(Vouchers, () => ({ sent: [] }))
}

export const toolsLayer = toolkit.toLayer(Effect.gen(function*() {
  const { sent } = yield* Vouchers
  return toolkit.of({
    orderStatus: ({ order }) => Effect.succeed(`order ${order} left the harbour yesterday`),
    sendVoucher: Effect.fnUntraced(function*({ euros, order }) {
      const call = yield* AgentTools.CurrentToolCall
      sent.push(call?.idempotencyKey ?? order)
      return `a voucher of ${euros} euros is on its way`
    })
  })
}))

const assistant = Agent.make({
  name: "assistant",
  instructions: "You answer customers of a shop. Look orders up before you speak of them.",
  toolkit,
  budget: { iterations: 5 },
  // To ask the shop's own books would say more; here a voucher that may have gone out is not sent again.
  tools: { sendVoucher: { uncertain: "tell" } }
})

export interface Question {
  readonly id: string
  readonly kind: "order" | "complaint" | "other"
  readonly text: string
}

/** An answer to a question, whatever happens. */
export const answer = ({ id, kind, text }: Question) =>
  Agent.answer(assistant, {
    runId: `question-${id}`,
    prompt: text,
    // What is said of an order or a complaint is for whoever asked, and not for others who ask in the same words.
    lastGood: kind === "other" ? { key: text, maxAge: "30 minutes" } : undefined,
    simplified: () => `Answer in one sentence, and promise nothing: ${text}`,
    template: () =>
      kind === "order" ? Effect.succeed("Follow your order under shop.example/orders.") : Effect.fail("no template"),
    emergency: "We have your message and answer it by tomorrow."
  })
