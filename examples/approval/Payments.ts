/** One invoice is one run: look it up, ask, pay. What it waits for may take days and happens in another process. */
import { Effect, Schema } from "effect"
import { Checkpoint, EscalationQueue } from "effect-resilience"
import { Books, Payment } from "./Books.ts"

export class Invoice extends Schema.Class<Invoice>("approval/Invoice")({
  id: Schema.String,
  supplier: Schema.String,
  cents: Schema.Int
}) {}

export const invoices: ReadonlyArray<Invoice> = [
  new Invoice({ id: "R-1", supplier: "Papyrus", cents: 12_000 }),
  new Invoice({ id: "R-2", supplier: "Papyrus", cents: 90_000 }),
  new Invoice({ id: "R-3", supplier: "Unheard Of", cents: 6_000 })
]

export const runOf = (invoice: string) => `payment of ${invoice}`

/** Other terms that may be approved. */
export const Terms = Schema.Struct({ cents: Schema.Int.check(Schema.isGreaterThan(0)) })

export const euros = (cents: number) => `${(cents / 100).toFixed(2)} EUR`

const isTerms = Schema.is(Terms)

export const pay = ({ cents, id, supplier }: Invoice) =>
  Effect.gen(function*() {
    const books = yield* Books
    yield* Checkpoint.step("look up", {}, books.lookUp(id))
    const decision = yield* EscalationQueue.ask({
      name: "approval",
      reason: "IrreversibleAction",
      task: `Pay ${euros(cents)} to ${supplier} for invoice ${id}?`,
      about: { tool: "pay", invoice: id, supplier, cents }, // the approval is for this payment and no other
      context: { invoice: id, supplier, cents },
      decisions: ["Approve", "Reject"],
      edits: Terms
    })
    if (decision._tag !== "Approve") return `${id}: not paid${decision._tag === "Reject" ? `, ${decision.reason}` : ""}`
    const amount = isTerms(decision.arguments) ? decision.arguments.cents : cents
    yield* Checkpoint.step(
      "pay",
      {},
      Effect.flatMap(
        Checkpoint.idempotencyKey,
        (key) => books.pay(new Payment({ invoice: id, supplier, cents: amount, key }))
      )
    )
    return `${id}: paid ${euros(amount)} to ${supplier}`
  }).pipe(Checkpoint.run({ id: runOf(id), input: { cents, id, supplier } }))
