/** The company's books: what was looked up, and what was paid, in two small SQLite tables that the example creates. */
import { Context, Effect, Layer, Schema } from "effect"
import { Fault } from "effect-resilience"
import { SqlClient, type SqlError, SqlSchema } from "effect/sql"

export class Payment extends Schema.Class<Payment>("approval/Payment")({
  invoice: Schema.String,
  supplier: Schema.String,
  cents: Schema.Int,
  key: Schema.String
}) {}

/** The books did not answer. Whether a payment got into them is not known. */
export class BooksUnavailable extends Schema.TaggedError<BooksUnavailable>("approval/BooksUnavailable")(
  "BooksUnavailable",
  { problem: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.ambiguous
  override get message() {
    return `the books do not answer: ${this.problem}`
  }
}

export class Books extends Context.Service<Books, {
  /** Notes that an invoice was looked up: the example counts it. */
  readonly lookUp: (invoice: string) => Effect.Effect<void, BooksUnavailable>
  /** Pays. A key that was seen before pays nothing again. */
  readonly pay: (payment: Payment) => Effect.Effect<void, BooksUnavailable>
  readonly payments: Effect.Effect<ReadonlyArray<Payment>, BooksUnavailable>
  readonly lookUps: Effect.Effect<ReadonlyArray<string>, BooksUnavailable>
}>()("approval/Books") {}

const unavailable = <A, R>(effect: Effect.Effect<A, SqlError.SqlError | Schema.SchemaError, R>) =>
  Effect.mapError(effect, ({ message }) => new BooksUnavailable({ problem: message }))

export const layer = Layer.effect(
  Books,
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE IF NOT EXISTS look_ups (invoice TEXT NOT NULL)`
    yield* sql`CREATE TABLE IF NOT EXISTS payments (key TEXT PRIMARY KEY, invoice TEXT NOT NULL,
      supplier TEXT NOT NULL, cents INTEGER NOT NULL)`
    const payments = SqlSchema.findAll({
      Request: Schema.Void,
      Result: Payment,
      execute: () => sql`SELECT key, invoice, supplier, cents FROM payments ORDER BY invoice`
    })
    const lookUps = SqlSchema.findAll({
      Request: Schema.Void,
      Result: Schema.Struct({ invoice: Schema.String }),
      execute: () => sql`SELECT invoice FROM look_ups ORDER BY invoice`
    })
    return Books.of({
      lookUp: (invoice) => unavailable(Effect.asVoid(sql`INSERT INTO look_ups (invoice) VALUES (${invoice})`)),
      pay: ({ cents, invoice, key, supplier }) =>
        unavailable(Effect.asVoid(
          sql`INSERT INTO payments (key, invoice, supplier, cents) VALUES (${key}, ${invoice}, ${supplier}, ${cents})
            ON CONFLICT (key) DO NOTHING`
        )),
      payments: unavailable(payments(undefined)),
      lookUps: unavailable(Effect.map(lookUps(undefined), (rows) => rows.map(({ invoice }) => invoice)))
    })
  })
)
