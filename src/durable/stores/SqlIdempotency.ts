/**
 * Keeps the results of `Idempotency` in a SQL database.
 *
 * **When to use**
 *
 * Use it on a `SqlClient` that the program has anyway; `Sqlite` and `Postgres` bring their own.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import * as Idempotency from "../Idempotency.ts"
import { BigInteger, causeOf, isUnavailable, migrated, outsideTransaction } from "../internal/sqlStore.ts"

const migrationsTable = "effect_resilience_idempotency_migrations"

const migrations = {
  "0001_create_results": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE effect_resilience_idempotency (
      scope TEXT NOT NULL,
      hash TEXT NOT NULL,
      outcome TEXT NOT NULL,
      recorded_at BIGINT NOT NULL,
      expires_at BIGINT NOT NULL,
      PRIMARY KEY (scope, hash)
    )`
    yield* sql`CREATE INDEX effect_resilience_idempotency_expiry ON effect_resilience_idempotency (expires_at)`
  })
}

const Rows = Schema.Array(Schema.Struct({ outcome: Schema.String, recorded_at: BigInteger, expires_at: BigInteger }))
const decodeRows = Schema.decodeUnknownEffect(Rows)

/**
 * Creates a store on the `SqlClient` at hand (SQLite, PostgreSQL), with its table.
 *
 * **Details**
 *
 * Safe for several processes over one database. Each recorded result also removes those that have expired.
 *
 * A result recorded inside a transaction of the caller could be rolled back with it later, and its call executed a
 * second time, so a call there is refused (`InTransaction`) before it is executed.
 *
 * Fails with `IdempotencyStoreError`, `operation: "open"`, if the table cannot be made, or is of a newer release
 * (`SchemaTooNew`).
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore: Effect.Effect<
  Idempotency.Store,
  Idempotency.IdempotencyStoreError,
  SqlClient.SqlClient
> = Effect.gen(function*() {
  const failure = (
    operation: Idempotency.IdempotencyStoreError["operation"],
    scope: string,
    reason: Idempotency.IdempotencyStoreError["reason"],
    cause: unknown
  ) => new Idempotency.IdempotencyStoreError({ operation, scope, reason, cause })
  const failed = (operation: Idempotency.IdempotencyStoreError["operation"], scope: string) => (cause: unknown) =>
    cause instanceof Idempotency.IdempotencyStoreError
      ? cause
      : failure(operation, scope, isUnavailable(cause) ? "Unavailable" : "Rejected", causeOf(cause))
  const tooNew = (found: number, known: number) =>
    failure("open", "", "SchemaTooNew", new Error(`its table is of version ${found}, this release knows ${known}`))
  yield* Effect.mapError(migrated(migrationsTable, migrations, tooNew), failed("open", ""))
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()

  const outside = (operation: Idempotency.IdempotencyStoreError["operation"], scope: string) =>
    outsideTransaction(
      sql,
      () => failure(operation, scope, "InTransaction", new Error("the call is inside a transaction of its caller"))
    )

  const entryOf = (rows: Effect.Effect<unknown, SqlError>) =>
    Effect.map(
      Effect.flatMap(rows, decodeRows),
      ([row]): Idempotency.Entry | undefined =>
        row && { outcome: row.outcome, recordedAt: row.recorded_at, expiresAt: row.expires_at }
    )

  const find = (scope: string, hash: string) =>
    entryOf(sql`SELECT outcome, recorded_at, expires_at FROM effect_resilience_idempotency
      WHERE scope = ${scope} AND hash = ${hash}`)

  const insert = (scope: string, hash: string, { expiresAt, outcome, recordedAt }: Idempotency.Entry) =>
    entryOf(sql`INSERT INTO effect_resilience_idempotency AS old (scope, hash, outcome, recorded_at, expires_at)
      VALUES (${scope}, ${hash}, ${outcome}, ${recordedAt}, ${expiresAt})
      ON CONFLICT (scope, hash) DO UPDATE SET
        outcome = excluded.outcome, recorded_at = excluded.recorded_at, expires_at = excluded.expires_at
        WHERE old.expires_at <= excluded.recorded_at
      RETURNING outcome, recorded_at, expires_at`)

  const removeExpired = (now: number) =>
    Effect.ignore(sql`DELETE FROM effect_resilience_idempotency WHERE expires_at <= ${now}`)

  return {
    // Refused here already: what cannot be recorded is not to be executed.
    get: (scope, hash) => find(scope, hash).pipe(outside("lookup", scope), Effect.mapError(failed("lookup", scope))),
    put: (scope, hash, entry) =>
      Effect.gen(function*() {
        const recorded = (yield* insert(scope, hash, entry)) ?? (yield* find(scope, hash)) ?? entry
        // What is recorded stays so if this fails; another result will remove them.
        yield* removeExpired(entry.recordedAt)
        return recorded
      }).pipe(outside("record", scope), Effect.mapError(failed("record", scope))),
    clear: (scope) =>
      sql`DELETE FROM effect_resilience_idempotency WHERE scope = ${scope}`.pipe(
        Effect.asVoid,
        outside("clear", scope),
        Effect.mapError(failed("clear", scope))
      )
  }
})

/**
 * Provides an `Idempotency` whose results survive a restart.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (
  options: Idempotency.Options
): Layer.Layer<Idempotency.Idempotency, Idempotency.IdempotencyStoreError, SqlClient.SqlClient> =>
  Layer.effect(
    Idempotency.Idempotency,
    Effect.flatMap(makeStore, (store) => Idempotency.make({ ...options, store }))
  )

/**
 * Provides an `Idempotency` whose results survive a restart, for 30 days.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<
  Idempotency.Idempotency,
  Idempotency.IdempotencyStoreError,
  SqlClient.SqlClient
> = layerWith({})
