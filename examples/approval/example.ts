/** The approval story in one process on the virtual clock, and in many processes, as it is lived. */
import { Clock, Console, Effect, Layer, Random, References } from "effect"
import { CheckpointStore, EscalationQueue } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { FaultPlan } from "effect-resilience/testing"
import type { Example } from "../support/Example.ts"
import { inVirtualTime } from "../support/virtualTime.ts"
import * as Books from "./Books.ts"
import { euros, invoices, pay, runOf } from "./Payments.ts"
import * as Story from "./story.ts"
import * as Supervisor from "./Supervisor.ts"

const lost = new Books.BooksUnavailable({ problem: "the connection broke" })

/** Books that lose the answer to the first payment, and now and then refuse one. */
const badBooks = (seed: number) =>
  Layer.effect(
    Books.Books,
    Effect.gen(function*() {
      const books = yield* Books.Books
      const plan = yield* FaultPlan.make({
        seed,
        faults: [
          FaultPlan.fail({ calls: [1], after: true, error: lost }),
          FaultPlan.fail({ probability: 0.3, error: lost })
        ]
      })
      return { ...books, pay: (payment) => FaultPlan.apply(books.pay(payment), plan, "pay") }
    })
  ).pipe(Layer.provide(Books.layer), Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))

const hours = Effect.map(Clock.currentTimeMillis, (now) => `${(now / 3_600_000).toFixed(0)} h`)

/** Runs what can go on, until nothing fails any more; what waits for a decision is left. */
const workAll = Effect.forEach(
  invoices,
  (invoice) =>
    pay(invoice).pipe(
      Effect.tapError((error) =>
        error._tag === "BooksUnavailable" ? Console.log(`${invoice.id}: ${error.message}; once more`) : Effect.void
      ),
      // The same run again: what was paid in it has the same key, and is not paid twice.
      Effect.retry({ while: ({ _tag }) => _tag === "BooksUnavailable", times: 20 }),
      Effect.catchTag("RunSuspended", ({ reason }) => Effect.succeed(`${invoice.id}: ${reason}`)),
      Effect.tap((line) => Effect.flatMap(hours, (now) => Console.log(`${now}: ${line}`)))
    ),
  { discard: true }
)

const decide = Effect.fnUntraced(function*(invoice: string, decision: EscalationQueue.Decision) {
  const queue = yield* EscalationQueue.EscalationQueue
  for (const { id, task } of yield* queue.list({ runId: runOf(invoice), status: "open" })) {
    yield* queue.decide(id, decision, { by: "ann" })
    yield* Console.log(`${yield* hours}: ann decides: ${decision._tag}, ${task}`)
  }
})

const story = Effect.gen(function*() {
  yield* workAll
  yield* Effect.sleep("1 hour")
  yield* Supervisor.superviseOnce(Supervisor.rules)
  yield* workAll
  yield* Effect.sleep(`${yield* Random.nextIntBetween(10, 60)} hours`)
  yield* decide("R-2", { _tag: "Approve", arguments: { cents: 85_000 } })
  yield* decide("R-3", { _tag: "Reject", reason: "nobody knows them" })
  yield* workAll
  const books = yield* Books.Books
  const payments = yield* books.payments
  yield* Console.log(`in the books: ${payments.map(({ cents, invoice }) => `${invoice} ${euros(cents)}`).join(", ")}`)
  return { payments, lookUps: yield* books.lookUps }
})

const virtual = Effect.fnUntraced(
  function*(seed: number) {
    const world = Layer.mergeAll(badBooks(seed), CheckpointStore.layerMemory, EscalationQueue.layerMemory)
    const program = Effect.provide(story, world)
    return yield* inVirtualTime(program, seed)
  },
  Effect.provideService(References.MinimumLogLevel, "Error")
)

export const example = {
  name: "approval",
  about: "payments wait for approval while no process runs, are decided from other processes, and go on",
  virtual,
  live: () => Story.program
} satisfies Example
