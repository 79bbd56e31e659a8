/**
 * Everything durable in one SQLite file.
 *
 * **When to use**
 *
 * Use it on one machine: several processes may share the file, and no server is needed. While a statement is carried out
 * the whole process waits.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as SqlClient from "effect/sql/SqlClient"
import type * as SqlError from "effect/sql/SqlError"
import type { CheckpointStore, CheckpointStoreError } from "../CheckpointStore.ts"
import type * as Escalations from "../EscalationQueue.ts"
import type { Idempotency, IdempotencyStoreError } from "../Idempotency.ts"
import { processOwner } from "../internal/checkpointOwner.ts"
import * as NodeSqlite from "./NodeSqlite.ts"
import * as SqlCheckpointStore from "./SqlCheckpointStore.ts"
import * as SqlEscalationQueue from "./SqlEscalationQueue.ts"
import * as SqlIdempotency from "./SqlIdempotency.ts"

/**
 * Options of {@link layer}: those of the database, and `escalations` for the queue, see `EscalationQueue.Options`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends NodeSqlite.Options {
  readonly escalations?: Escalations.Options | undefined
}

/**
 * Provides all durable services on one SQLite file, and the `SqlClient` they share. The embedded default: nothing to
 * install, durable through `kill -9` and the loss of power.
 *
 * **Details**
 *
 * The file may be shared by several processes of one machine. The owner of a lease is named by host, boot, process id
 * and the time the process started, so that a run whose process was killed since this host started is taken over at
 * once, with a newer token, instead of when its lease is over.
 *
 * An empty `filename` throws `Fault.InvalidConfig` where the layer is built. Fails with `SqlError` if the file cannot be opened, and with the stores' own errors if their tables cannot be made.
 *
 * **Example** (Resuming in another process)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
 * import * as fs from "node:fs"
 * import * as os from "node:os"
 * import * as path from "node:path"
 *
 * const folder = fs.mkdtempSync(path.join(os.tmpdir(), "runs-"))
 * const filename = path.join(folder, "runs.db")
 *
 * const program = (n: number) =>
 *   Checkpoint.step("count", { success: Schema.Finite }, Effect.succeed(n)).pipe(Checkpoint.run({ id: "count" }))
 *
 * // Each layer opens the file anew, as another process would.
 * await Effect.runPromise(Effect.provide(program(1), Sqlite.layer({ filename }))) // => 1
 * await Effect.runPromise(Effect.provide(program(2), Sqlite.layer({ filename }))) // => 1
 * fs.rmSync(folder, { recursive: true })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  { escalations = {}, ...options }: Options
): Layer.Layer<
  CheckpointStore | Escalations.EscalationQueue | Idempotency | SqlClient.SqlClient,
  CheckpointStoreError | Escalations.EscalationError | IdempotencyStoreError | SqlError.SqlError
> =>
  Layer.mergeAll(
    Layer.unwrap(Effect.map(processOwner, (owner) => SqlCheckpointStore.layerWith({ owner }))),
    SqlEscalationQueue.layerWith(escalations),
    SqlIdempotency.layer
  ).pipe(Layer.provideMerge(NodeSqlite.layer(options)))
