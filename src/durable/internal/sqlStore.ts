import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Scheduler from "effect/Scheduler"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Migrator from "effect/sql/Migrator"
import * as SqlClient from "effect/sql/SqlClient"
import * as SqlError from "effect/sql/SqlError"

/**
 * A 64-bit integer that fits a JavaScript number, as drivers hand it over: SQLite's as a number, PostgreSQL's as a
 * bigint or, with some drivers, as text.
 *
 * @internal
 */
export const BigInteger = Schema.Union([
  Schema.Finite,
  Schema.FiniteFromString,
  Schema.BigInt.pipe(Schema.decodeTo(Schema.Finite, SchemaTransformation.transform({ decode: Number, encode: BigInt })))
])

// SQLite's IOERR and FULL, which Effect does not tell apart from lasting errors: a disk may be back or have room again.
const isDiskTrouble = (cause: object): boolean => {
  if (!Predicate.hasProperty(cause, "errcode") || typeof cause.errcode !== "number") return false
  const primary = cause.errcode & 0xff
  return primary === 10 || primary === 13
}

// What Effect does not tell apart either, of PostgreSQL's classes of errors: out of resources (its disk or its
// connections), ended or not ready by its operator, and failed in the system below it. A server that only reads is one
// that another one takes over from.
const isServerTrouble = (cause: object): boolean =>
  Predicate.hasProperty(cause, "code") && typeof cause.code === "string" &&
  /^(53...|57P0.|58...|25006)$/.test(cause.code)

/**
 * Whether the database could not do it now, and may later: busy, locked, disconnected, stopped, its disk away or full.
 *
 * @internal
 */
export const isUnavailable = (error: unknown): boolean => {
  if (!SqlError.isSqlError(error)) return false
  const { cause } = error.reason
  return error.isRetryable || (Predicate.isObject(cause) && (isDiskTrouble(cause) || isServerTrouble(cause)))
}

/**
 * What to tell of a failure: what the database said, where its driver does not say it again.
 *
 * @internal
 */
export const causeOf = (error: unknown): unknown => {
  if (!SqlError.isSqlError(error)) return error
  const { cause } = error.reason
  return cause instanceof Error && !error.message.includes(cause.message) ? cause : error
}

/**
 * Runs a transaction without giving the thread away in its middle. A fiber whose turn ends inside a transaction leaves
 * it open while other fibers run. Where the driver is synchronous, another connection of this process would then block
 * the very thread that has to end the transaction.
 *
 * @internal
 */
export const inOneTurn = <A, E, R>(transaction: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(transaction, Scheduler.PreventSchedulerYield, true)

/**
 * Runs a write, unless the caller is in a transaction of its own, which could take back later what the store has
 * acknowledged now.
 *
 * @internal
 */
export const outsideTransaction = <Refused>(
  sql: SqlClient.SqlClient,
  refused: () => Refused
) =>
<A, E, R>(write: Effect.Effect<A, E, R>): Effect.Effect<A, E | Refused, R> =>
  Effect.contextWith((context: Context.Context<R>): Effect.Effect<A, E | Refused, R> =>
    Option.isSome(Context.getOption(context, sql.transactionService)) ? Effect.fail(refused()) : write
  )

const decodeVersions = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ version: Schema.NullOr(BigInteger) })))

/**
 * Brings the tables of a store up to date. Fails where a newer release has already changed them.
 *
 * @internal
 */
export const migrated = <TooNew>(
  table: string,
  migrations: Record<string, Effect.Effect<void, unknown, SqlClient.SqlClient>>,
  tooNew: (found: number, known: number) => TooNew
) =>
  Effect.gen(function*() {
    const sql = (yield* SqlClient.SqlClient).withoutTransforms()
    yield* inOneTurn(Migrator.make({})({ table, loader: Migrator.fromRecord(migrations) }))
    const [latest] = yield* Effect.flatMap(
      sql`SELECT MAX(migration_id) AS version FROM ${sql(table)}`,
      decodeVersions
    )
    const known = Object.keys(migrations).length
    const found = latest?.version ?? 0
    if (found > known) return yield* Effect.fail(tooNew(found, known))
  })
