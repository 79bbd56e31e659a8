/**
 * Keeps the journals of runs in a SQL database.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as SqlClient from "effect/sql/SqlClient"
import {
  anonymousOwner,
  CheckpointStore,
  CheckpointStoreError,
  type CheckpointStoreReason,
  type Lease,
  type LeaseOwner,
  RunStatus,
  type RunSummary
} from "../CheckpointStore.ts"
import { inOneTurn, isUnavailable, migrated, outsideTransaction } from "../internal/sqlStore.ts"

const migrationsTable = "effect_resilience_checkpoint_migrations"

const migrations = {
  "0001_create_runs_and_journal": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE effect_resilience_runs (
      run_id TEXT NOT NULL PRIMARY KEY,
      status TEXT NOT NULL,
      entries INTEGER NOT NULL,
      created_at BIGINT NOT NULL,
      updated_at BIGINT NOT NULL,
      token BIGINT NOT NULL,
      abandoned INTEGER NOT NULL,
      lease_owner TEXT,
      lease_expires_at BIGINT NOT NULL
    )`
    // Clustered by run where the database can: a record is one write, and a journal is read in one sweep.
    const clustered = sql.onDialectOrElse({ sqlite: () => sql.literal("WITHOUT ROWID"), orElse: () => sql.literal("") })
    yield* sql`CREATE TABLE effect_resilience_journal (
      run_id TEXT NOT NULL,
      position INTEGER NOT NULL,
      token BIGINT NOT NULL,
      step TEXT NOT NULL,
      body TEXT NOT NULL,
      PRIMARY KEY (run_id, position)
    ) ${clustered}`
    // One counter for all runs, so that a run that is removed and started anew never sees an old token again.
    yield* sql`CREATE TABLE effect_resilience_tokens (id INTEGER NOT NULL PRIMARY KEY, last BIGINT NOT NULL)`
    yield* sql`INSERT INTO effect_resilience_tokens (id, last) VALUES (1, 0)`
  })
}

// PostgreSQL hands a BIGINT over as text, SQLite as a number.
const Big = Schema.Union([Schema.Finite, Schema.FiniteFromString])

const decodeToken = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Struct({ last: Big })]))
const RunRow = Schema.Struct({
  run_id: Schema.String,
  status: RunStatus,
  entries: Schema.Finite,
  created_at: Big,
  updated_at: Big,
  token: Big,
  abandoned: Schema.Finite,
  lease_owner: Schema.NullOr(Schema.String),
  lease_expires_at: Big
})
const decodeRun = Schema.decodeUnknownEffect(RunRow)
const decodeRuns = Schema.decodeUnknownEffect(Schema.Array(RunRow))
const decodeEntries = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({
  position: Schema.Finite,
  token: Big,
  step: Schema.String,
  body: Schema.String
})))

type RunRow = typeof RunRow.Type

const toSummary = (row: RunRow): RunSummary => ({
  runId: row.run_id,
  status: row.status,
  entries: row.entries,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
  lease: row.lease_owner === null ? undefined : { owner: row.lease_owner, expiresAt: row.lease_expires_at }
})

const reasonOf = (cause: unknown): typeof CheckpointStoreReason.Type =>
  isUnavailable(cause)
    ? { _tag: "Unavailable", cause }
    : { _tag: "Rejected", cause }

/**
 * Options of {@link layerWith}.
 *
 * **Details**
 *
 * `owner` is who takes leases, default a random name per layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly owner?: LeaseOwner | undefined
}

/**
 * Creates a store on the `SqlClient` at hand (SQLite, PostgreSQL), with its tables.
 *
 * **Details**
 *
 * A record and what it changes about its run are one transaction, which is what acknowledges it. Leases are measured by
 * this machine's clock; keep the clocks of machines that share runs within a fraction of the lease time.
 *
 * A record written inside a transaction of the caller could be rolled back with it later, so writing there is refused
 * (`InTransaction`).
 *
 * Fails with `CheckpointStoreError` if the tables cannot be made, or are of a newer release (`SchemaTooNew`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()
  const owner = options.owner ?? (yield* anonymousOwner)

  const failure = (operation: string, runId: string | undefined, reason: typeof CheckpointStoreReason.Type) =>
    new CheckpointStoreError({ operation, reason, ...(runId === undefined ? {} : { runId }) })

  const mapped = <A, E, R>(operation: string, runId: string | undefined, effect: Effect.Effect<A, E, R>) =>
    Effect.mapError(
      effect,
      (cause) => cause instanceof CheckpointStoreError ? cause : failure(operation, runId, reasonOf(cause))
    )

  yield* mapped(
    "open",
    undefined,
    migrated(
      migrationsTable,
      migrations,
      (found, known) => failure("open", undefined, { _tag: "SchemaTooNew", found, known })
    )
  )

  const select = (runId: string) =>
    Effect.map(
      Effect.flatMap(sql`SELECT * FROM effect_resilience_runs WHERE run_id = ${runId}`, decodeRuns),
      ([row]) => row
    )

  const writing = <A, E>(operation: string, runId: string, effect: Effect.Effect<A, E>) =>
    mapped(
      operation,
      runId,
      inOneTurn(sql.withTransaction(effect)).pipe(
        outsideTransaction(sql, () => failure(operation, runId, { _tag: "InTransaction" }))
      )
    )

  const fencedUnless = (operation: string, { runId, token }: Lease) => (rows: ReadonlyArray<unknown>) =>
    rows.length > 0 ? Effect.void : Effect.fail(failure(operation, runId, { _tag: "Fenced", token }))

  const isHeld = (row: RunRow, now: number): row is RunRow & { readonly lease_owner: string } =>
    row.lease_owner !== null && row.lease_expires_at > now

  return CheckpointStore.of({
    acquire: Effect.fnUntraced(function*(runId, ttl, { takeOver = false } = {}) {
      // Asked before the transaction, and then bound to the token that was seen.
      const before = yield* mapped("acquire", runId, select(runId))
      const gone = before !== undefined && before.lease_owner !== null && (yield* owner.isGone(before.lease_owner))
      const now = yield* Clock.currentTimeMillis
      const expiresAt = Math.ceil(now + Duration.toMillis(ttl))
      return yield* writing(
        "acquire",
        runId,
        Effect.gen(function*() {
          const [{ last: token }] = yield* Effect.flatMap(
            sql`UPDATE effect_resilience_tokens SET last = last + 1 WHERE id = 1 RETURNING last`,
            decodeToken
          )
          const row = yield* select(runId)
          if (row === undefined) {
            yield* sql`INSERT INTO effect_resilience_runs
            (run_id, status, entries, created_at, updated_at, token, abandoned, lease_owner, lease_expires_at)
            VALUES (${runId}, 'running', 0, ${now}, ${now}, ${token}, 0, ${owner.id}, ${expiresAt})`
            return { runId, token, abandoned: 0 }
          }
          if (isHeld(row, now) && !takeOver && !(gone && row.token === before.token)) {
            return yield* failure("acquire", runId, {
              _tag: "LeaseHeld",
              owner: row.lease_owner,
              expiresAt: row.lease_expires_at,
              remaining: Duration.millis(row.lease_expires_at - now)
            })
          }
          const abandoned = row.lease_owner === null ? 0 : row.abandoned + 1
          yield* sql`UPDATE effect_resilience_runs SET token = ${token}, abandoned = ${abandoned}, updated_at = ${now},
            lease_owner = ${owner.id}, lease_expires_at = ${expiresAt} WHERE run_id = ${runId}`
          return { runId, token, abandoned }
        })
      )
    }),
    renew: (lease, ttl, { recovered = false } = {}) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        writing(
          "renew",
          lease.runId,
          Effect.flatMap(
            sql`UPDATE effect_resilience_runs
              SET lease_owner = ${owner.id}, lease_expires_at = ${Math.ceil(now + Duration.toMillis(ttl))},
                updated_at = ${now}, abandoned = ${recovered ? 0 : sql.literal("abandoned")}
              WHERE run_id = ${lease.runId} AND token = ${lease.token} RETURNING run_id`,
            fencedUnless("renew", lease)
          )
        )),
    release: (lease) =>
      writing(
        "release",
        lease.runId,
        Effect.gen(function*() {
          const now = yield* Clock.currentTimeMillis
          const released = yield* sql`UPDATE effect_resilience_runs
            SET lease_owner = NULL, lease_expires_at = 0, updated_at = ${now}
            WHERE run_id = ${lease.runId} AND token = ${lease.token} RETURNING run_id`
          yield* fencedUnless("release", lease)(released)
          yield* sql`DELETE FROM effect_resilience_runs WHERE run_id = ${lease.runId} AND entries = 0`
        })
      ),
    append: Effect.fnUntraced(function*(lease, entries, status) {
      const { runId, token } = lease
      const { position } = entries[0]
      const now = yield* Clock.currentTimeMillis
      yield* writing(
        "append",
        runId,
        Effect.gen(function*() {
          const next = sql`entries = entries + ${entries.length}`
          const moved = yield* sql`UPDATE effect_resilience_runs
          SET ${status === undefined ? next : sql`${next}, updated_at = ${now}, status = ${status}`}
          WHERE run_id = ${runId} AND token = ${token} AND entries = ${position} RETURNING run_id`
          if (moved.length > 0) {
            for (const { body, position, step } of entries) {
              yield* sql`INSERT INTO effect_resilience_journal (run_id, position, token, step, body)
              VALUES (${runId}, ${position}, ${token}, ${step}, ${body})`
            }
            return
          }
          const row = yield* select(runId)
          if (row === undefined || row.token !== token) {
            return yield* failure("append", runId, { _tag: "Fenced", token })
          }
          const last = yield* Effect.flatMap(
            sql`SELECT position, token, step, body FROM effect_resilience_journal
            WHERE run_id = ${runId} AND position >= ${position} ORDER BY position`,
            decodeEntries
          )
          const repeated = last.length === entries.length && entries.every(({ body, position, step }, index) => {
            const there = last[index]
            return there?.position === position && there.token === token && there.step === step && there.body === body
          })
          if (!repeated) {
            return yield* failure("append", runId, { _tag: "PositionTaken", position, length: row.entries })
          }
        })
      )
    }),
    read: (runId) =>
      mapped(
        "read",
        runId,
        sql`SELECT position, token, step, body FROM effect_resilience_journal
          WHERE run_id = ${runId} ORDER BY position`.pipe(
          Effect.flatMap(decodeEntries),
          Effect.map((rows) => rows.map(({ body, position, step }) => ({ position, step, body })))
        )
      ),
    get: (runId) =>
      mapped(
        "get",
        runId,
        Effect.map(select(runId), (row) =>
          row === undefined || row.entries === 0 ? Option.none() : Option.some(toSummary(row)))
      ),
    list: ({ limit, status, updatedBefore } = {}) =>
      mapped(
        "list",
        undefined,
        sql`SELECT * FROM effect_resilience_runs WHERE entries > 0
          ${status === undefined ? sql.literal("") : sql`AND status = ${status}`}
          ${updatedBefore === undefined ? sql.literal("") : sql`AND updated_at < ${updatedBefore}`}
          ORDER BY created_at, run_id ${limit === undefined ? sql.literal("") : sql`LIMIT ${limit}`}`.pipe(
          // One row that cannot be read must not hide the other runs.
          Effect.flatMap(Effect.forEach((row) =>
            decodeRun(row).pipe(
              Effect.map((run) => [toSummary(run)]),
              Effect.catch((error) =>
                Effect.as(
                  Effect.logError(`run "${String(row["run_id"])}" is left out of the list: its row is corrupt`, error),
                  []
                )
              )
            )
          )),
          Effect.map((rows) => rows.flat())
        )
      ),
    remove: (lease) =>
      writing(
        "remove",
        lease.runId,
        Effect.gen(function*() {
          const removed = yield* sql`DELETE FROM effect_resilience_runs
            WHERE run_id = ${lease.runId} AND token = ${lease.token} RETURNING run_id`
          yield* fencedUnless("remove", lease)(removed)
          yield* sql`DELETE FROM effect_resilience_journal WHERE run_id = ${lease.runId}`
        })
      )
  })
})

/**
 * Provides a {@link CheckpointStore} on the `SqlClient` at hand, see {@link make}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (
  options: Options
): Layer.Layer<CheckpointStore, CheckpointStoreError, SqlClient.SqlClient> =>
  Layer.effect(CheckpointStore, make(options))

/**
 * Provides a {@link CheckpointStore} on the `SqlClient` at hand, for an owner with a random name.
 *
 * **Example** (Keeping runs beside other tables)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { Checkpoint } from "effect-resilience"
 * import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
 * import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
 *
 * const program = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   yield* sql`CREATE TABLE orders (id TEXT)`
 *   const insert = Effect.asVoid(sql`INSERT INTO orders (id) VALUES ('7')`)
 *   yield* Checkpoint.step("order", {}, insert).pipe(Checkpoint.run({ id: "order-7" }))
 *   return (yield* sql`SELECT id FROM orders`).length
 * })
 *
 * const Live = SqlCheckpointStore.layer.pipe(Layer.provideMerge(NodeSqlite.layer({ filename: ":memory:" })))
 * await Effect.runPromise(Effect.provide(program, Live)) // => 1
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<CheckpointStore, CheckpointStoreError, SqlClient.SqlClient> = layerWith({})
