/**
 * Keeps the escalations of `EscalationQueue` in a SQL database.
 *
 * **When to use**
 *
 * Use it on a `SqlClient` that the program has anyway; `Sqlite` and `Postgres` bring their own.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SqlClient from "effect/sql/SqlClient"
import type { SqlError } from "effect/sql/SqlError"
import type { Fragment } from "effect/sql/Statement"
import * as EscalationQueue from "../EscalationQueue.ts"
import { changed, isOver, isUndelivered } from "../internal/escalationState.ts"
import { BigInteger, causeOf, inOneTurn, isUnavailable, migrated, outsideTransaction } from "../internal/sqlStore.ts"

// Times and what is asked for in a WHERE have columns of their own; the rest of a record is one JSON text. No column is
// null: never is a time that does not come.
const never = Number.MAX_SAFE_INTEGER

const migrationsTable = "effect_resilience_escalation_migrations"

const migrations = {
  "0001_create_escalations": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`CREATE TABLE effect_resilience_escalations (
      id TEXT NOT NULL PRIMARY KEY,
      revision BIGINT NOT NULL UNIQUE,
      reason TEXT NOT NULL,
      run_id TEXT NOT NULL,
      submitted_at BIGINT NOT NULL,
      expires_at BIGINT NOT NULL,
      claimed_until BIGINT NOT NULL,
      decided_at BIGINT NOT NULL,
      record TEXT NOT NULL
    )`
    yield* sql`CREATE INDEX effect_resilience_escalations_waiting
      ON effect_resilience_escalations (decided_at, submitted_at)`
    yield* sql`CREATE INDEX effect_resilience_escalations_run ON effect_resilience_escalations (run_id)`
  }),
  "0002_add_outcomes": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* sql`ALTER TABLE effect_resilience_escalations ADD COLUMN outcome TEXT NOT NULL DEFAULT ''`
    yield* sql`ALTER TABLE effect_resilience_escalations ADD COLUMN undelivered INTEGER NOT NULL DEFAULT 0`
    yield* sql`UPDATE effect_resilience_escalations SET outcome = 'resolved' WHERE decided_at <> ${never}`
    yield* sql`CREATE INDEX effect_resilience_escalations_undelivered
      ON effect_resilience_escalations (undelivered, revision)`
    yield* sql`CREATE INDEX effect_resilience_escalations_deadlines
      ON effect_resilience_escalations (decided_at, expires_at)`
  })
}

const Row = Schema.Struct({ id: Schema.String, revision: BigInteger, record: Schema.String })
const Rows = Schema.Array(Row)
const decodeRows = Schema.decodeUnknownEffect(Rows)
const decodeNumbers = Schema.decodeUnknownEffect(Schema.Array(Schema.Struct({ value: Schema.NullOr(BigInteger) })))
const decodeWaiting = Schema.decodeUnknownEffect(
  Schema.Array(Schema.Struct({ count: BigInteger, oldest: Schema.NullOr(BigInteger) }))
)
const RecordText = Schema.fromJsonString(Schema.toCodecJson(EscalationQueue.Escalation))
const encodeRecord = Schema.encodeEffect(RecordText)
const decodeRecord = Schema.decodeEffect(RecordText)

const millisOr = (at: DateTime.Utc | undefined, otherwise: number) =>
  at === undefined ? otherwise : DateTime.toEpochMillis(at)

/**
 * Creates a store on the `SqlClient` at hand (SQLite, PostgreSQL), with its table.
 *
 * **Details**
 *
 * Safe for several processes over one database: every change is a compare-and-set, and all changes have one order.
 *
 * What is written inside a transaction of the caller could be rolled back with it later, so writing there is refused
 * (`InTransaction`).
 *
 * Fails with `EscalationError` if the table cannot be made, or is of a newer release (`SchemaTooNew`).
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore: Effect.Effect<
  EscalationQueue.Store,
  EscalationQueue.EscalationError,
  SqlClient.SqlClient
> = Effect.gen(function*() {
  const failure = (operation: string, id: string | undefined, reason: EscalationQueue.FailureReason) =>
    new EscalationQueue.EscalationError({ operation, ...(id === undefined ? {} : { id }), reason })
  const failed = (operation: string, id?: string) => (cause: unknown) =>
    cause instanceof EscalationQueue.EscalationError
      ? cause
      : failure(operation, id, { _tag: isUnavailable(cause) ? "Unavailable" : "Rejected", cause: causeOf(cause) })
  const tooNew = (found: number, known: number) => failure("open", undefined, { _tag: "SchemaTooNew", found, known })
  yield* Effect.mapError(migrated(migrationsTable, migrations, tooNew), failed("open"))
  const sql = (yield* SqlClient.SqlClient).withoutTransforms()

  const decode = ({ id, record, revision }: typeof Row.Type) =>
    decodeRecord(record).pipe(
      Effect.map((record) => changed(record, { revision })),
      Effect.mapError(({ message: issue }) =>
        new EscalationQueue.EscalationError({ operation: "read", id, reason: { _tag: "Corrupt", issue } })
      )
    )
  const read = (operation: string, rows: Effect.Effect<unknown, SqlError>) =>
    Effect.mapError(Effect.flatMap(rows, decodeRows), failed(operation))
  const readable = (rows: typeof Rows.Type) =>
    Effect.map(
      Effect.forEach(rows, (row) =>
        Effect.option(Effect.tapError(decode(row), (error) => Effect.logWarning(error.message)))),
      Arr.getSomes
    )

  // All writers one after the other, so that revisions become visible in their order. SQLite is so by itself: its
  // transactions begin as writers.
  const lock = sql.onDialectOrElse({
    pg: () => Effect.asVoid(sql`LOCK TABLE effect_resilience_escalations IN EXCLUSIVE MODE`),
    orElse: () => Effect.void
  })
  const writing = <A, E>(operation: string, id: string | undefined, write: Effect.Effect<A, E>) =>
    inOneTurn(sql.withTransaction(Effect.andThen(lock, write))).pipe(
      outsideTransaction(sql, () => failure(operation, id, { _tag: "InTransaction" })),
      Effect.mapError(failed(operation, id))
    )

  const last = Effect.map(
    Effect.flatMap(
      sql`SELECT COALESCE(MAX(revision), 0) AS value FROM effect_resilience_escalations`,
      decodeNumbers
    ),
    ([row]) => row?.value ?? 0
  )
  const find = (id: string) =>
    Effect.flatMap(
      read("get", sql`SELECT id, revision, record FROM effect_resilience_escalations WHERE id = ${id}`),
      ([row]) => row === undefined ? Effect.succeed(undefined) : decode(row)
    )

  const columns = (record: EscalationQueue.Escalation) => ({
    expires_at: millisOr(record.expiresAt, never),
    claimed_until: millisOr(record.claim?.until, 0),
    decided_at: millisOr(record.resolution?.at ?? record.closed?.at, never),
    outcome: isOver(record) ? record.status : "",
    undelivered: isUndelivered(record) ? 1 : 0
  })

  const undecided = sql`decided_at = ${never}`
  const only: Record<EscalationQueue.Changed, ReadonlyArray<Fragment>> = {
    all: [],
    undecided: [undecided],
    undelivered: [sql`undelivered = 1`]
  }
  const isStatus = (status: EscalationQueue.Status, now: number): Fragment => {
    switch (status) {
      case "resolved":
      case "withdrawn":
        return sql`outcome = ${status}`
      case "expired":
        return sql.or([sql`outcome = 'expired'`, sql.and([undecided, sql`expires_at <= ${now}`])])
      case "claimed":
        return sql.and([undecided, sql`expires_at > ${now}`, sql`claimed_until > ${now}`])
      case "open":
        return sql.and([undecided, sql`expires_at > ${now}`, sql`claimed_until <= ${now}`])
    }
  }

  return {
    insert: (record) =>
      writing(
        "submit",
        record.id,
        Effect.gen(function*() {
          const found = yield* find(record.id)
          if (found !== undefined) return { record: found, inserted: false }
          const revision = (yield* last) + 1
          const { claimed_until, decided_at, expires_at, outcome, undelivered } = columns(record)
          yield* sql`INSERT INTO effect_resilience_escalations
            (id, revision, reason, run_id, submitted_at, expires_at, claimed_until, decided_at, outcome, undelivered,
              record)
            VALUES (${record.id}, ${revision}, ${record.reason}, ${record.runId ?? ""},
              ${DateTime.toEpochMillis(record.submittedAt)}, ${expires_at}, ${claimed_until}, ${decided_at},
              ${outcome}, ${undelivered}, ${yield* encodeRecord(record)})`
          return { record: changed(record, { revision }), inserted: true }
        })
      ),
    find,
    replace: (record) =>
      writing(
        "change",
        record.id,
        Effect.gen(function*() {
          const revision = (yield* last) + 1
          const { claimed_until, decided_at, expires_at, outcome, undelivered } = columns(record)
          const rows = yield* sql`UPDATE effect_resilience_escalations
            SET revision = ${revision}, expires_at = ${expires_at}, claimed_until = ${claimed_until},
              decided_at = ${decided_at}, outcome = ${outcome}, undelivered = ${undelivered}, record = ${yield* encodeRecord(
            record
          )}
            WHERE id = ${record.id} AND revision = ${record.revision}
            RETURNING id`
          return rows.length === 0 ? undefined : changed(record, { revision })
        })
      ),
    select: ({ limit, now, reason, runId, status }) => {
      const where = [
        ...(reason === undefined ? [] : [sql`reason = ${reason}`]),
        ...(runId === undefined ? [] : [sql`run_id = ${runId}`]),
        ...(status === undefined ? [] : [isStatus(status, now)])
      ]
      return read(
        "list",
        sql`SELECT id, revision, record FROM effect_resilience_escalations
          WHERE ${where.length === 0 ? sql`1 = 1` : sql.and(where)}
          ORDER BY submitted_at, id LIMIT ${limit}`
      ).pipe(Effect.flatMap(readable))
    },
    waiting: (now) =>
      Effect.mapError(
        Effect.map(
          Effect.flatMap(
            sql`SELECT COUNT(*) AS count, MIN(submitted_at) AS oldest FROM effect_resilience_escalations
              WHERE ${sql.and([undecided, sql`expires_at > ${now}`])}`,
            decodeWaiting
          ),
          ([row]) => ({ count: row?.count ?? 0, oldest: row?.oldest ?? undefined })
        ),
        failed("depth")
      ),
    overdue: (now, { limit }) =>
      read(
        "expire",
        sql`SELECT id, revision, record FROM effect_resilience_escalations
          WHERE ${sql.and([undecided, sql`expires_at <= ${now}`])}
          ORDER BY expires_at, id LIMIT ${limit}`
      ).pipe(Effect.flatMap(readable)),
    revision: Effect.mapError(last, failed("changes")),
    changedSince: (revision, options) =>
      read(
        "changes",
        sql`SELECT id, revision, record FROM effect_resilience_escalations
          WHERE ${sql.and([sql`revision > ${revision}`, ...only[options.only]])}
          ORDER BY revision LIMIT ${options.limit}`
      ).pipe(
        Effect.flatMap((rows) =>
          Effect.map(readable(rows), (records) => ({ records, revision: rows.at(-1)?.revision ?? revision }))
        )
      ),
    prune: (before) =>
      writing(
        "prune",
        undefined,
        Effect.map(
          // The newest revision stays: the next one must be greater than any that a stream has seen.
          sql`DELETE FROM effect_resilience_escalations
            WHERE (decided_at <= ${before} OR (${undecided} AND expires_at <= ${before}))
              AND revision < (SELECT MAX(revision) FROM effect_resilience_escalations)
            RETURNING id`,
          (rows) => rows.length
        )
      )
  }
})

/**
 * Provides an `EscalationQueue` that survives a restart and that several processes share.
 *
 * **Details**
 *
 * `pollInterval` is how often the streams look for the changes of other processes. Default: 1 second.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (
  options: EscalationQueue.Options
): Layer.Layer<EscalationQueue.EscalationQueue, EscalationQueue.EscalationError, SqlClient.SqlClient> =>
  Layer.effect(
    EscalationQueue.EscalationQueue,
    Effect.flatMap(makeStore, (store) =>
      EscalationQueue.make({ ...options, pollInterval: options.pollInterval ?? "1 second", store }))
  )

/**
 * Provides an `EscalationQueue` that survives a restart and that several processes share.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<
  EscalationQueue.EscalationQueue,
  EscalationQueue.EscalationError,
  SqlClient.SqlClient
> = layerWith({})
