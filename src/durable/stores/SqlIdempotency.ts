/**
 * Keeps the results of `Idempotency` in a SQL database.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Migrator from "effect/sql/Migrator"
import * as SqlClient from "effect/sql/SqlClient"
import * as Idempotency from "../Idempotency.ts"
import { inOneTurn, isUnavailable } from "../internal/sqlStore.ts"

const migrate = Migrator.make({})({
  table: "effect_resilience_idempotency_migrations",
  loader: Migrator.fromRecord({
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
  })
})

// PostgreSQL hands a BIGINT over as text, SQLite as a number.
const Millis = Schema.Union([Schema.Finite, Schema.FiniteFromString])
const Rows = Schema.Array(Schema.Struct({ outcome: Schema.String, recorded_at: Millis, expires_at: Millis }))
const decodeRows = Schema.decodeUnknownEffect(Rows)

/**
 * Creates a store on the `SqlClient` at hand (SQLite, PostgreSQL), with its table.
 *
 * **Details**
 *
 * Safe for several processes over one database. Each recorded result also removes those that have expired.
 *
 * Fails with `IdempotencyStoreError`, `operation: "open"`, if the table cannot be made.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore: Effect.Effect<
  Idempotency.Store,
  Idempotency.IdempotencyStoreError,
  SqlClient.SqlClient
> = Effect.gen(function*() {
  const failed = (operation: Idempotency.IdempotencyStoreError["operation"], scope: string) => (cause: unknown) =>
    new Idempotency.IdempotencyStoreError({
      operation,
      scope,
      reason: isUnavailable(cause) ? "Unavailable" : "Rejected",
      cause
    })
  yield* Effect.mapError(migrate, failed("open", ""))
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()

  const find = (scope: string, hash: string) =>
    Effect.map(
      Effect.flatMap(
        sql`SELECT outcome, recorded_at, expires_at FROM effect_resilience_idempotency
            WHERE scope = ${scope} AND hash = ${hash}`,
        decodeRows
      ),
      ([row]): Idempotency.Entry | undefined =>
        row && { outcome: row.outcome, recordedAt: row.recorded_at, expiresAt: row.expires_at }
    )

  return {
    get: (scope, hash) => Effect.mapError(find(scope, hash), failed("lookup", scope)),
    put: (scope, hash, entry) =>
      inOneTurn(sql.withTransaction(Effect.gen(function*() {
        yield* sql`DELETE FROM effect_resilience_idempotency WHERE expires_at <= ${entry.recordedAt}`
        yield* sql`INSERT INTO effect_resilience_idempotency (scope, hash, outcome, recorded_at, expires_at)
          VALUES (${scope}, ${hash}, ${entry.outcome}, ${entry.recordedAt}, ${entry.expiresAt})
          ON CONFLICT (scope, hash) DO NOTHING`
        return (yield* find(scope, hash)) ?? entry
      }))).pipe(Effect.mapError(failed("record", scope))),
    clear: (scope) =>
      sql`DELETE FROM effect_resilience_idempotency WHERE scope = ${scope}`.pipe(
        Effect.asVoid,
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
