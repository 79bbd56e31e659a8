import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as SqlClient from "effect/sql/SqlClient"
import type * as SqlError from "effect/sql/SqlError"
import { type Entry, type Lease, type ListOptions, RunStatus } from "../CheckpointStore.ts"
import { BigInteger, inOneTurn } from "./sqlStore.ts"

/** @internal */
export const migrationsTable = "effect_resilience_checkpoint_migrations"

/** @internal */
export const migrations = {
  "0001_create_runs_and_journal": Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    const either = (options: { readonly pg: string; readonly sqlite: string }) =>
      sql.literal(sql.onDialectOrElse({ pg: () => options.pg, orElse: () => options.sqlite }))
    // In SQLite this very word makes a column the key of the table's own tree, instead of a second tree beside it.
    const key = either({ pg: "BIGINT", sqlite: "INTEGER" })
    // PostgreSQL keeps the plan of a statement, and plans to read all of a table that it has counted and found small. So
    // it is to count none that is small: what it has not counted it takes for larger.
    const uncounted = "autovacuum_analyze_threshold = 1000, autovacuum_vacuum_threshold = 1000"
    // And room in each page for the next state of its rows, which can then be written without touching an index.
    const ofRuns = either({ pg: `WITH (fillfactor = 70, ${uncounted})`, sqlite: "" })
    const ofJournal = either({ pg: `WITH (${uncounted})`, sqlite: "" })
    yield* sql`CREATE TABLE effect_resilience_runs (
      number ${key} NOT NULL PRIMARY KEY,
      run_id TEXT NOT NULL UNIQUE,
      status TEXT NOT NULL,
      created_at BIGINT NOT NULL,
      updated_at BIGINT NOT NULL,
      token BIGINT NOT NULL,
      abandoned INTEGER NOT NULL,
      lease_owner TEXT,
      lease_expires_at BIGINT NOT NULL
    ) ${ofRuns}`
    yield* sql`CREATE TABLE effect_resilience_journal (
      key ${key} NOT NULL PRIMARY KEY,
      token BIGINT NOT NULL,
      step TEXT NOT NULL,
      body TEXT NOT NULL
    ) ${ofJournal}`
    // One counter for all runs, so that a run that is removed and started anew never sees an old token again.
    yield* sql.onDialectOrElse({
      pg: () => sql`CREATE SEQUENCE effect_resilience_tokens`,
      orElse: () =>
        Effect.andThen(
          sql`CREATE TABLE effect_resilience_tokens (last BIGINT NOT NULL)`,
          sql`INSERT INTO effect_resilience_tokens (last) VALUES (0)`
        )
    })
  })
}

/**
 * How many records a journal has room for.
 *
 * @internal
 */
export const room = 16_777_216

// The key of a record is its run's number and its position in one integer: a record is one row in one tree, a journal is
// a range of keys, and its length is a seek. A key may be beyond 2^53, so it is never more than a term in SQL.
const first = `number * ${room}`
const end = `(number + 1) * ${room}`
const length = `CAST(COALESCE((
  SELECT MAX(key) FROM effect_resilience_journal WHERE key >= ${first} AND key < ${end}
) - ${first} + 1, 0) AS INTEGER)`
const position = `CAST(key & ${room - 1} AS INTEGER)`

const Run = Schema.Struct({
  run_id: Schema.String,
  status: RunStatus,
  entries: Schema.Finite,
  created_at: BigInteger,
  updated_at: BigInteger,
  lease_owner: Schema.NullOr(Schema.String),
  lease_expires_at: BigInteger
})

/** @internal */
export type Run = typeof Run.Type

const Record = Schema.Struct({ position: Schema.Finite, step: Schema.String, body: Schema.String })

const rowsOf = <Row extends Schema.ConstraintDecoder<unknown>>(row: Row) =>
  Schema.decodeUnknownEffect(Schema.Array(row))

const holders = rowsOf(Schema.Struct({
  token: BigInteger,
  lease_owner: Schema.NullOr(Schema.String),
  lease_expires_at: BigInteger,
  remaining: BigInteger
}))
const granted = rowsOf(Schema.Struct({ token: BigInteger, abandoned: Schema.Finite }))
const lengths = rowsOf(Schema.Struct({ token: BigInteger, entries: Schema.Finite }))
const numbers = rowsOf(Schema.Struct({ number: BigInteger }))
const records = rowsOf(Record)
const written = rowsOf(Schema.Struct({ ...Record.fields, token: BigInteger }))
const runs = rowsOf(Run)

/** @internal */
export const decodeRun = Schema.decodeUnknownEffect(Run)

/**
 * What the store of journals does in SQL, on the database at hand.
 *
 * @internal
 */
export const make = (sql: SqlClient.SqlClient, clock: "database" | "process" | undefined) => {
  const isPostgres = sql.onDialectOrElse({ pg: () => true, orElse: () => false })
  const either = (options: { readonly pg: string; readonly sqlite: string }) =>
    sql.literal(isPostgres ? options.pg : options.sqlite)
  const nothing = sql.literal("")
  const firstKey = sql.literal(first)
  const summary = sql.literal(
    `run_id, status, ${length} AS entries, created_at, updated_at, lease_owner, lease_expires_at`
  )
  const hasRecords = sql.literal(
    `EXISTS (SELECT 1 FROM effect_resilience_journal WHERE key >= ${first} AND key < ${end})`
  )

  // Drivers of SQLite hand over a number as a float, and a sum with a float is one.
  const integer = (value: number) => sql`CAST(${value} AS BIGINT)`

  const databaseNow = either({
    pg: "CAST(extract(epoch FROM clock_timestamp()) * 1000 AS BIGINT)",
    sqlite: "CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)"
  })
  const now = (clock ?? (isPostgres ? "database" : "process")) === "database"
    ? Effect.succeed(databaseNow)
    : Effect.map(Clock.currentTimeMillis, integer)

  const mine = ({ runId, token }: Lease) => sql`run_id = ${runId} AND token = ${token}`

  const ofRun = (runId: string, from: number) =>
    sql`key >= (SELECT ${firstKey} FROM effect_resilience_runs WHERE run_id = ${runId}) + ${integer(from)}
      AND key < (SELECT ${sql.literal(end)} FROM effect_resilience_runs WHERE run_id = ${runId})`

  const follows = (from: number) =>
    sql`(${from} = 0
      OR EXISTS (SELECT 1 FROM effect_resilience_journal WHERE key = ${firstKey} + ${integer(from)} - 1))`

  // Whoever takes the run over waits for what is written under this lock, and whoever waits for the lock sees who took
  // the run over. SQLite has one writer at a time.
  const shared = either({ pg: "FOR SHARE", sqlite: "" })

  // Compiled once: this is what every step costs.
  const [insertion] = sql`INSERT INTO effect_resilience_journal (key, token, step, body)
    SELECT ${firstKey} + ${integer(0)}, token, ${""}, ${""} FROM effect_resilience_runs
    WHERE ${mine({ runId: "", token: 0, abandoned: 0 })} AND ${follows(0)} ${shared}
    ON CONFLICT (key) DO NOTHING RETURNING 1 AS written`.compile()

  const insert = ({ runId, token }: Lease, { body, position, step }: Entry) =>
    Effect.map(
      sql.unsafe(insertion, [position, step, body, runId, token, position, position]),
      (rows) => rows.length > 0
    )

  const change = (lease: Lease, from: number, status: RunStatus) =>
    Effect.map(now, (now) =>
      sql`UPDATE effect_resilience_runs SET status = ${status}, updated_at = ${now}
        WHERE ${mine(lease)} AND ${follows(from)} RETURNING number, token`)

  type Insert = (
    lease: Lease,
    entries: NonEmptyReadonlyArray<Entry>,
    status: RunStatus | undefined
  ) => Effect.Effect<boolean, SqlError.SqlError>

  const insertPostgres: Insert = Effect.fnUntraced(function*(lease, entries, status) {
    const from = entries[0].position
    const run = status === undefined
      ? sql`SELECT number, token FROM effect_resilience_runs WHERE ${mine(lease)} AND ${follows(from)} ${shared}`
      : yield* change(lease, from, status)
    const rows = yield* sql`WITH run AS (${run})
      INSERT INTO effect_resilience_journal (key, token, step, body)
      SELECT ${firstKey} + entry.position, token, entry.step, entry.body
      FROM run, unnest(
        CAST(${entries.map(({ position }) => position)} AS BIGINT[]),
        CAST(${entries.map(({ step }) => step)} AS TEXT[]),
        CAST(${entries.map(({ body }) => body)} AS TEXT[])
      ) AS entry (position, step, body)
      RETURNING 1 AS written`.pipe(
      Effect.catchIf(({ reason }) => reason._tag === "UniqueViolation", () => Effect.succeed([]))
    )
    return rows.length > 0
  })

  const insertSqlite: Insert = (lease, entries, status) =>
    inOneTurn(sql.withTransaction(Effect.gen(function*() {
      for (const entry of entries) {
        // What comes after a free place is free, so only the first one can be refused, before anything is written.
        if (!(yield* insert(lease, entry))) return false
      }
      if (status !== undefined) yield* yield* change(lease, entries[0].position, status)
      return true
    })))

  const insertMany = isPostgres ? insertPostgres : insertSqlite

  const nextToken = either({
    pg: "nextval('effect_resilience_tokens')",
    sqlite: "(SELECT last + 1 FROM effect_resilience_tokens)"
  })

  const upsert = (runId: string, owner: string, ttl: number, whose: number | "anybody's" | undefined) =>
    Effect.map(now, (now) => {
      const isFree = sql`WHERE run.lease_owner IS NULL OR run.lease_expires_at <= excluded.updated_at
        ${whose === undefined ? nothing : sql`OR run.token = ${whose}`}`
      // PostgreSQL takes a second token where the run exists, so that it is newer than all that were granted while this
      // statement waited for the run's row.
      return sql`INSERT INTO effect_resilience_runs AS run
          (number, run_id, status, created_at, updated_at, token, abandoned, lease_owner, lease_expires_at)
        SELECT token, ${runId}, 'running', at, at, token, 0, ${owner}, at + ${ttl}
        FROM (SELECT ${nextToken} AS token, ${now} AS at) AS fresh WHERE 1 = 1
        ON CONFLICT (run_id) DO UPDATE SET
          token = ${nextToken},
          abandoned = CASE WHEN run.lease_owner IS NULL THEN 0 ELSE run.abandoned + 1 END,
          updated_at = excluded.updated_at,
          lease_owner = excluded.lease_owner,
          lease_expires_at = excluded.lease_expires_at
        ${whose === "anybody's" ? nothing : isFree}
        RETURNING token, abandoned`
    })

  const counted = (grant: Effect.Effect<ReadonlyArray<unknown>, SqlError.SqlError>) =>
    inOneTurn(sql.withTransaction(
      Effect.tap(grant, (rows) =>
        rows.length === 0 ? Effect.void : Effect.asVoid(sql`UPDATE effect_resilience_tokens SET last = last + 1`))
    ))

  // A lease that is given back, and that the loss of power brings back, ends by itself: no need to wait for the disk.
  const unsynced = either({ pg: "AND set_config('synchronous_commit', 'off', true) = 'off'", sqlite: "" })

  return {
    /** Who holds a run, and for how long by the clock that leases are measured by. */
    holder: (runId: string) =>
      Effect.flatMap(now, (now) =>
        Effect.flatMap(
          sql`SELECT token, lease_owner, lease_expires_at, lease_expires_at - ${now} AS remaining
            FROM effect_resilience_runs WHERE run_id = ${runId}`,
          holders
        )),
    /** Gives no row where the run is held, unless by a lease that may be taken over: that with the token, or any. */
    grant: (runId: string, owner: string, ttl: number, whose: number | "anybody's" | undefined) =>
      Effect.flatMap(
        Effect.flatMap(upsert(runId, owner, ttl, whose), (grant) => isPostgres ? grant : counted(grant)),
        granted
      ),
    renew: (lease: Lease, owner: string, ttl: number, recovered: boolean) =>
      Effect.flatMap(
        now,
        (now) =>
          sql`UPDATE effect_resilience_runs SET lease_owner = ${owner}, lease_expires_at = ${now} + ${ttl},
            updated_at = ${now}, abandoned = ${recovered ? 0 : sql.literal("abandoned")}
          WHERE ${mine(lease)} RETURNING 1 AS renewed`
      ),
    release: (lease: Lease) =>
      Effect.flatMap(now, (now) =>
        Effect.flatMap(
          sql`UPDATE effect_resilience_runs SET lease_owner = NULL, lease_expires_at = 0, updated_at = ${now}
            WHERE ${mine(lease)} ${unsynced} RETURNING token, ${sql.literal(length)} AS entries`,
          lengths
        )),
    /** Says whether it wrote anything: not where the lease is not the newest, or the place is not the next. */
    append: (lease: Lease, entries: NonEmptyReadonlyArray<Entry>, status: RunStatus | undefined) =>
      entries.length === 1 && status === undefined ? insert(lease, entries[0]) : insertMany(lease, entries, status),
    length: (runId: string) =>
      Effect.flatMap(
        sql`SELECT token, ${sql.literal(length)} AS entries FROM effect_resilience_runs WHERE run_id = ${runId}`,
        lengths
      ),
    writtenSince: (runId: string, from: number) =>
      Effect.flatMap(
        sql`SELECT ${sql.literal(position)} AS position, token, step, body FROM effect_resilience_journal
          WHERE ${ofRun(runId, from)} ORDER BY key`,
        written
      ),
    read: (runId: string) =>
      Effect.flatMap(
        sql`SELECT ${sql.literal(position)} AS position, step, body FROM effect_resilience_journal
          WHERE ${ofRun(runId, 0)} ORDER BY key`,
        records
      ),
    get: (runId: string) =>
      Effect.flatMap(
        sql`SELECT ${summary} FROM effect_resilience_runs WHERE run_id = ${runId} AND ${hasRecords}`,
        runs
      ),
    /** In the order of their numbers, which is that in which they were begun. */
    list: ({ limit, status, updatedBefore }: ListOptions) =>
      sql`SELECT ${summary} FROM effect_resilience_runs WHERE ${hasRecords}
        ${status === undefined ? nothing : sql`AND status = ${status}`}
        ${updatedBefore === undefined ? nothing : sql`AND updated_at < ${updatedBefore}`}
        ORDER BY number ${limit === undefined ? nothing : sql`LIMIT ${limit}`}`,
    /** Gives no row where the lease is not the newest, or, with `"empty"`, the run has records. */
    remove: (lease: Lease, what: "whole" | "empty") =>
      inOneTurn(sql.withTransaction(Effect.gen(function*() {
        const removed = yield* Effect.flatMap(
          sql`DELETE FROM effect_resilience_runs
            WHERE ${mine(lease)} ${what === "empty" ? sql`AND NOT ${hasRecords}` : nothing} RETURNING number`,
          numbers
        )
        for (const { number } of removed) {
          yield* sql`DELETE FROM effect_resilience_journal
            WHERE key >= ${integer(number)} * ${integer(room)} AND key < (${integer(number)} + 1) * ${integer(room)}`
        }
        return removed
      })))
  }
}
