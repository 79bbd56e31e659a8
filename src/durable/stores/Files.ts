/**
 * Runs and results in one directory.
 *
 * **When to use**
 *
 * Use it on one machine without a database, where people may want to read what was written.
 *
 * @since 0.1.0
 */
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import * as config from "../../internal/config.ts"
import type { CheckpointStore, CheckpointStoreError } from "../CheckpointStore.ts"
import type { Idempotency, IdempotencyStoreError } from "../Idempotency.ts"
import { processOwner } from "../internal/checkpointOwner.ts"
import * as FileCheckpointStore from "./FileCheckpointStore.ts"
import * as FileIdempotency from "./FileIdempotency.ts"

/**
 * Options of {@link layer}.
 *
 * **Details**
 *
 * - `directory` to keep everything in, which is made: `runs` and `results` in it. It must not be empty.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly directory: string
}

/**
 * Provides `CheckpointStore` and `Idempotency` in one directory of this machine, for several of its processes.
 *
 * **Details**
 *
 * The owner of a lease is named by host, boot, process id and the time the process started, so that a run whose process
 * was killed since this host started is taken over at once. What the files promise is said of
 * `FileCheckpointStore.make`.
 *
 * An empty `directory` throws `Fault.InvalidConfig` where the layer is built. Fails with the stores' own errors if the
 * directory cannot be used.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options
): Layer.Layer<
  CheckpointStore | Idempotency,
  CheckpointStoreError | IdempotencyStoreError,
  FileSystem.FileSystem | Path.Path
> =>
  Layer.unwrap(Effect.gen(function*() {
    const directory = config.nonEmpty("Files", "directory", options.directory)
    const path = yield* Path.Path
    const owner = yield* processOwner
    return Layer.mergeAll(
      FileCheckpointStore.layer({ directory: path.join(directory, "runs"), owner }),
      FileIdempotency.layer({ directory: path.join(directory, "results") })
    )
  }))
