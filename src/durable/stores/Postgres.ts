/**
 * Everything durable in one PostgreSQL database.
 *
 * **When to use**
 *
 * Use it where several hosts share the work. Where the program has a `SqlClient` of its own, use the stores named `Sql…`
 * on that.
 *
 * @since 0.1.0
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as SqlClient from "effect/sql/SqlClient"
import type * as SqlError from "effect/sql/SqlError"
import type { CheckpointStore, CheckpointStoreError } from "../CheckpointStore.ts"
import type * as Escalations from "../EscalationQueue.ts"
import type { Idempotency, IdempotencyStoreError } from "../Idempotency.ts"
import { processOwner } from "../internal/checkpointOwner.ts"
import * as SqlCheckpointStore from "./SqlCheckpointStore.ts"
import * as SqlEscalationQueue from "./SqlEscalationQueue.ts"
import * as SqlIdempotency from "./SqlIdempotency.ts"

/**
 * Options of {@link layer}: those of the client of `@effect/sql-pg`.
 *
 * **Details**
 *
 * - `url`, redacted, or `host`, `port`, `database`, `username` and `password`.
 * - `maxConnections`: how many connections at most, default 10. Runs share them: none is held between two statements.
 * - `startupParameters`: what every connection sets, such as `search_path` for the schema that the tables are made in.
 *   With `synchronous_commit = off` the server loses what it acknowledged last when it crashes.
 * - `escalations`: options of the queue, see `EscalationQueue.Options`.
 *
 * The others are as they are there: `minConnections`, `connectTimeout`, `connectionTTL`, `idleTimeout`, `path`, `ssl`,
 * `stream`, `spanAttributes`, `types`, `transformJson`, `transformQueryNames` and `transformResultNames`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends PgClient.PgPoolConfig {
  readonly escalations?: Escalations.Options | undefined
}

/**
 * Provides all durable services on one PostgreSQL database, and the client they share. For programs on several hosts:
 * leases are measured by the clock of the database.
 *
 * **When to use**
 *
 * Use when several hosts work on the same runs, or when there is a PostgreSQL already. Install `@effect/sql-pg` beside
 * this package.
 *
 * **Details**
 *
 * The tables are made where they are missing, in the first schema of the search path; several processes may start at
 * once. The owner of a lease is named by host, boot, process id and the time the process started, so that a run whose
 * process was killed on this host is taken over at once, with a newer token, instead of when its lease is over. That of
 * a process on another host has to run out.
 *
 * A connection that is lost is opened anew with the next statement. What was asked for meanwhile fails as `Unavailable`,
 * and its run can be resumed: what was acknowledged is there.
 *
 * Fails with `SqlError` if the options make no connection, and with the stores' own errors if their tables cannot be
 * made.
 *
 * **Example** (Running durably on PostgreSQL)
 *
 * ```ts import.meta.vitest
 * import { Effect, Redacted, Schema } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import * as Postgres from "effect-resilience/durable/stores/Postgres"
 *
 * const program = Checkpoint.step("answer", { success: Schema.Finite }, Effect.succeed(42)).pipe(
 *   Checkpoint.run({ id: "answer" })
 * )
 *
 * const Live = Postgres.layer({
 *   url: Redacted.make("postgres://agents@db.example.org/agents"),
 *   startupParameters: { search_path: "agents" }
 * })
 *
 * export const main = Effect.provide(program, Live)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  { escalations = {}, ...options }: Options
): Layer.Layer<
  CheckpointStore | Escalations.EscalationQueue | Idempotency | SqlClient.SqlClient | PgClient.PgClient,
  CheckpointStoreError | Escalations.EscalationError | IdempotencyStoreError | SqlError.SqlError
> =>
  Layer.mergeAll(
    Layer.unwrap(Effect.map(processOwner, (owner) => SqlCheckpointStore.layerWith({ owner }))),
    SqlEscalationQueue.layerWith(escalations),
    SqlIdempotency.layer
  ).pipe(Layer.provideMerge(PgClient.layer(options)))
