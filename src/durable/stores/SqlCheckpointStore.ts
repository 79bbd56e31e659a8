/**
 * Keeps the journals of runs in a SQL database.
 *
 * **When to use**
 *
 * Use it on a `SqlClient` that the program has anyway; `Sqlite` and `Postgres` bring their own.
 *
 * @since 0.1.0
 */
import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Arr from "effect/Array"
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
  type Entry,
  type Lease,
  type LeaseOwner,
  type RunSummary
} from "../CheckpointStore.ts"
import * as Sql from "../internal/sqlCheckpoint.ts"
import { causeOf, isUnavailable, migrated, outsideTransaction } from "../internal/sqlStore.ts"

const toSummary = (row: Sql.Run): RunSummary => ({
  runId: row.run_id,
  status: row.status,
  entries: row.entries,
  createdAt: row.created_at,
  updatedAt: row.updated_at,
  lease: row.lease_owner === null ? undefined : { owner: row.lease_owner, expiresAt: row.lease_expires_at }
})

const reasonOf = (error: unknown): typeof CheckpointStoreReason.Type =>
  Schema.isSchemaError(error)
    ? { _tag: "Corrupt", detail: `its rows cannot be read: ${error.message}` }
    : { _tag: isUnavailable(error) ? "Unavailable" : "Rejected", cause: causeOf(error) }

/**
 * Options of {@link layerWith}.
 *
 * **Details**
 *
 * - `owner` is who takes leases, default a random name per layer.
 * - `clock` is what leases are measured by: `"database"` is the clock of the database, so that hosts whose clocks differ
 *   agree on them; `"process"` is Effect's `Clock`. Default: `"database"` on PostgreSQL, `"process"` on SQLite, whose
 *   processes share one machine.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly owner?: LeaseOwner | undefined
  readonly clock?: "database" | "process" | undefined
}

/**
 * Creates a store on the `SqlClient` at hand (SQLite, PostgreSQL), with its tables.
 *
 * **Details**
 *
 * What is appended is one statement or one transaction, which is what acknowledges it. A journal has room for
 * 16,777,216 records.
 *
 * On PostgreSQL an append and a take-over of its run wait for each other: what an owner wrote is there before another
 * one follows it, or it is `Fenced`. That a lease was given back does not wait for the disk.
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
  const store = Sql.make(sql, options.clock)

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
      Sql.migrationsTable,
      Sql.migrations,
      (found, known) => failure("open", undefined, { _tag: "SchemaTooNew", found, known })
    )
  )

  const writing = <A, E>(operation: string, runId: string, write: Effect.Effect<A, E>) =>
    mapped(
      operation,
      runId,
      outsideTransaction(sql, () => failure(operation, runId, { _tag: "InTransaction" }))(write)
    )

  const fencedUnless = (operation: string, { runId, token }: Lease) => (rows: ReadonlyArray<unknown>) =>
    rows.length > 0 ? Effect.void : Effect.fail(failure(operation, runId, { _tag: "Fenced", token }))

  const millis = (ttl: Duration.Duration) => Math.ceil(Duration.toMillis(ttl))

  // Why nothing was written: it may be there already, and only the answer was lost.
  const unlessRepeated = Effect.fnUntraced(function*(lease: Lease, entries: NonEmptyReadonlyArray<Entry>) {
    const { runId, token } = lease
    const { position } = entries[0]
    const last = yield* store.writtenSince(runId, position)
    // Asked for last: what was read of a run that is still this lease's is this lease's, too.
    const [run] = yield* store.length(runId)
    if (run?.token !== token) return yield* failure("append", runId, { _tag: "Fenced", token })
    const repeated = last.length === entries.length && entries.every(({ body, position, step }, index) => {
      const there = last[index]
      return there?.position === position && there.token === token && there.step === step && there.body === body
    })
    if (!repeated) return yield* failure("append", runId, { _tag: "PositionTaken", position, length: run.entries })
  })

  const full = (runId: string) =>
    failure("append", runId, { _tag: "Rejected", cause: new Error(`a journal has room for ${Sql.room} records`) })

  const acquire = Effect.fnUntraced(function*(runId: string, ttl: number, takeOver: boolean) {
    // Asked before it is tried: whoever waits for a run writes nothing, and SQL cannot tell which owner is gone.
    for (;;) {
      const [run] = yield* store.holder(runId)
      const holder = run !== undefined && run.lease_owner !== null && run.remaining > 0 ? run.lease_owner : undefined
      if (run !== undefined && holder !== undefined && !takeOver && !(yield* owner.isGone(holder))) {
        return yield* failure("acquire", runId, {
          _tag: "LeaseHeld",
          owner: holder,
          expiresAt: run.lease_expires_at,
          remaining: Duration.millis(run.remaining)
        })
      }
      const whose = takeOver ? "anybody's" : holder === undefined ? undefined : run?.token
      const [granted] = yield* store.grant(runId, owner.id, ttl, whose)
      // Without a grant another one was faster, and is the holder now.
      if (granted !== undefined) return { runId, token: granted.token, abandoned: granted.abandoned }
    }
  })

  return CheckpointStore.of({
    acquire: (runId, ttl, { takeOver = false } = {}) =>
      writing("acquire", runId, acquire(runId, millis(ttl), takeOver)),
    renew: (lease, ttl, { recovered = false } = {}) =>
      writing(
        "renew",
        lease.runId,
        Effect.flatMap(store.renew(lease, owner.id, millis(ttl), recovered), fencedUnless("renew", lease))
      ),
    release: (lease) =>
      writing(
        "release",
        lease.runId,
        Effect.gen(function*() {
          const released = yield* store.release(lease)
          yield* fencedUnless("release", lease)(released)
          // A run without a record is only a lease.
          if (released[0]?.entries === 0) yield* store.remove(lease, "empty")
        })
      ),
    append: (lease, entries, status) =>
      writing(
        "append",
        lease.runId,
        entries[0].position + entries.length > Sql.room
          ? Effect.fail(full(lease.runId))
          : Effect.flatMap(
            store.append(lease, entries, status),
            (written) => written ? Effect.void : unlessRepeated(lease, entries)
          )
      ),
    read: (runId) => mapped("read", runId, store.read(runId)),
    get: (runId) => mapped("get", runId, Effect.map(store.get(runId), (runs) => Option.map(Arr.head(runs), toSummary))),
    list: (options = {}) =>
      mapped(
        "list",
        undefined,
        store.list(options).pipe(
          // One row that cannot be read must not hide the other runs.
          Effect.flatMap(Effect.forEach((row) =>
            Sql.decodeRun(row).pipe(
              Effect.map((run) => [toSummary(run)]),
              Effect.catch((error) =>
                Effect.as(
                  Effect.logError(`run "${String(row["run_id"])}" is left out of the list: its row is corrupt`, error),
                  []
                )
              )
            )
          )),
          Effect.map((runs) => runs.flat())
        )
      ),
    remove: (lease) =>
      writing(
        "remove",
        lease.runId,
        Effect.flatMap(store.remove(lease, "whole"), fencedUnless("remove", lease))
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
