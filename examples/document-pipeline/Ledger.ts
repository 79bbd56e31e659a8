/** The books that invoices are written into: one table, in SQLite or in PostgreSQL. */
import { Context, Effect, Layer, Schema } from "effect"
import { Fault } from "effect-resilience"
import { SqlClient, type SqlError, SqlSchema } from "effect/sql"

export class Entry extends Schema.Class<Entry>("document-pipeline/Entry")({
  document: Schema.String,
  number: Schema.String,
  supplier: Schema.String,
  cents: Schema.Int,
  approvedBy: Schema.String
}) {}

/** The books did not answer. An entry is known by its document, so it may be sent again whatever became of it. */
export class LedgerUnavailable extends Schema.TaggedError<LedgerUnavailable>("document-pipeline/LedgerUnavailable")(
  "LedgerUnavailable",
  { problem: Schema.String, verdict: Fault.Verdict }
) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
  override get message() {
    return `the books do not answer: ${this.problem}`
  }
}

export class Ledger extends Context.Service<Ledger, {
  /** Writes an entry. One that its document has already stays as it is. */
  readonly write: (entry: Entry) => Effect.Effect<void, LedgerUnavailable>
  readonly entries: Effect.Effect<ReadonlyArray<Entry>, LedgerUnavailable>
  /** Makes the table where there is none. */
  readonly open: Effect.Effect<void, LedgerUnavailable>
}>()("document-pipeline/Ledger") {}

const unavailable = <A, R>(effect: Effect.Effect<A, SqlError.SqlError | Schema.SchemaError, R>) =>
  effect.pipe(
    Effect.catch((error) =>
      Effect.flatMap(
        Fault.classify(error),
        (verdict) => Effect.fail(new LedgerUnavailable({ problem: error.message, verdict }))
      )
    )
  )

export const layer = Layer.effect(
  Ledger,
  Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const entries = SqlSchema.findAll({
      Request: Schema.Void,
      Result: Entry,
      execute: () =>
        sql`SELECT document, number, supplier, cents, approved_by AS "approvedBy" FROM invoices ORDER BY document`
    })
    return Ledger.of({
      open: unavailable(Effect.asVoid(
        sql`CREATE TABLE IF NOT EXISTS invoices (document VARCHAR(64) PRIMARY KEY, number TEXT NOT NULL,
          supplier TEXT NOT NULL, cents INTEGER NOT NULL, approved_by TEXT NOT NULL)`
      )),
      write: ({ approvedBy, cents, document, number, supplier }) =>
        unavailable(Effect.asVoid(
          sql`INSERT INTO invoices (document, number, supplier, cents, approved_by)
            VALUES (${document}, ${number}, ${supplier}, ${cents}, ${approvedBy}) ON CONFLICT (document) DO NOTHING`
        )),
      entries: unavailable(entries(undefined))
    })
  })
)
