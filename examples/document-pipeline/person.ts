/** The person of the story: knows the suppliers, so supplies what is missing, and does not pay to a stranger's account. */
import { Console, Effect, Schema } from "effect"
import { EscalationQueue } from "effect-resilience"
import { Invoice } from "./Invoice.ts"
import type { Sample } from "./samples.ts"

const Context = Schema.Struct({ document: Schema.String, issue: Schema.String })
const decodeContext = Schema.decodeUnknownEffect(Context)
const encode = Schema.encodeEffect(Schema.toCodecJson(Invoice))

const decide = Effect.fnUntraced(function*({ kind, truth }: Sample) {
  switch (kind) {
    case "injected":
      return { _tag: "Reject", reason: "the account is not the supplier's" } satisfies EscalationQueue.Decision
    case "unknown supplier":
      return undefined
    default:
      return { _tag: "Supply", value: yield* encode(truth) } satisfies EscalationQueue.Decision
  }
})

/** Decides what is open, as far as the person can. */
export const decideAll = Effect.fnUntraced(function*(samples: ReadonlyArray<Sample>) {
  const queue = yield* EscalationQueue.EscalationQueue
  for (const { context, id } of yield* queue.list({ status: "open" })) {
    const { document, issue } = yield* decodeContext(context)
    const sample = samples.find((one) => one.id === document)
    const decision = sample === undefined ? undefined : yield* decide(sample)
    if (decision !== undefined) yield* queue.decide(id, decision, { by: "ann" })
    yield* Console.log(
      `  ${document}: ${issue.replaceAll(/\s+/g, " ").slice(0, 76)} -> ${decision?._tag ?? "left, asks around"}`
    )
  }
})
