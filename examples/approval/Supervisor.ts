/**
 * A supervisor that is a program: it decides by rule what it may, and leaves the rest to people. It uses the queue as a
 * person does, so it may be at work beside them: whoever is first decides.
 */
import { Console, Effect, Option, Schema, Stream } from "effect"
import { EscalationQueue } from "effect-resilience"

const Payment = Schema.Struct({ invoice: Schema.String, supplier: Schema.String, cents: Schema.Int })
const decodePayment = Schema.decodeUnknownOption(Payment)

export interface Rules {
  readonly name: string
  /** Who has been paid before. */
  readonly known: ReadonlySet<string>
  /** What it may approve, at most. */
  readonly limitCents: number
}

export const rules: Rules = { name: "supervisor", known: new Set(["Papyrus"]), limitCents: 20_000 }

/** What the rules say, if they say anything. What they do not understand is for people. */
export const decision = (
  { known, limitCents }: Rules,
  { context, reason }: EscalationQueue.Escalation
): Option.Option<EscalationQueue.Decision> =>
  reason !== "IrreversibleAction" ? Option.none() : decodePayment(context).pipe(
    Option.filter(({ cents, supplier }) => known.has(supplier) && cents <= limitCents),
    Option.map(() => ({ _tag: "Approve" as const }))
  )

/** Decides one escalation, or leaves it. */
export const consider = (rules: Rules) => (escalation: EscalationQueue.Escalation) =>
  Option.match(decision(rules, escalation), {
    onNone: () => Console.log(`left to people: ${escalation.task}`),
    onSome: (decision) =>
      EscalationQueue.decide(escalation.id, decision, { by: rules.name }).pipe(
        Effect.andThen(Console.log(`approved by rule: ${escalation.task}`)),
        // Somebody was faster, or holds it: that is as good.
        Effect.catchIf(
          ({ reason }) => reason._tag === "AlreadyDecided" || reason._tag === "AlreadyClaimed",
          () => Console.log(`not needed any more: ${escalation.task}`)
        )
      )
  })

/** Decides what comes, for ever. */
export const supervise = (rules: Rules) =>
  EscalationQueue.EscalationQueue.use((queue) => Stream.runForEach(queue.open, consider(rules)))

/** Decides what is open now. */
export const superviseOnce = (rules: Rules) =>
  EscalationQueue.EscalationQueue.use((queue) =>
    Effect.flatMap(queue.list({ status: "open" }), Effect.forEach(consider(rules), { discard: true }))
  )
