/**
 * Keeps the results of `Idempotency` in files.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as config from "../../internal/config.ts"
import type { CheckpointStoreError, Lease, LeaseOwner } from "../CheckpointStore.ts"
import * as Idempotency from "../Idempotency.ts"
import { sha256 } from "../internal/idempotencyDigest.ts"
import * as FileCheckpointStore from "./FileCheckpointStore.ts"

const Entry = Schema.fromJsonString(Schema.Struct({
  outcome: Schema.String,
  recordedAt: Schema.Finite,
  expiresAt: Schema.Finite
}))
const encode = Schema.encodeEffect(Entry)
const decode = Schema.decodeUnknownEffect(Entry)

// A result is written in less than a moment: who holds it for longer is gone.
const ttl = Duration.seconds(10)
const patience = Schedule.max([Schedule.spaced("20 millis"), Schedule.recurs(1_000)])

/** How many results are recorded between two looks for those that have expired. */
const sweepEvery = 256

/**
 * Options of {@link layerWith}.
 *
 * **Details**
 *
 * - `directory` to keep the results in, which is made. It must not be empty, nor that of a `FileCheckpointStore`.
 * - `owner`: who takes the right to record a result, default a random name per layer. One that knows who is gone, as
 *   `stores/Files` gives, does not wait for a process that was killed in the middle of it.
 * - `timeToLive`, `storeTimeout`: as of `Idempotency.make`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Idempotency.Options {
  readonly directory: string
  readonly owner?: LeaseOwner | undefined
}

/**
 * Creates a store of results in a directory.
 *
 * **Details**
 *
 * It promises what `FileCheckpointStore` promises, on which it stands: each result is a record in a journal of its own,
 * written by one process at a time, and synced. So of several processes that executed the same call the first one's
 * result is answered by all. Each 256th recorded result also removes those that have expired.
 *
 * Fails with `IdempotencyStoreError`, `operation: "open"`, if the directory cannot be used.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore = Effect.fnUntraced(function*(
  options: Pick<Options, "directory" | "owner">
): Effect.fn.Return<
  Idempotency.Store,
  Idempotency.IdempotencyStoreError,
  FileSystem.FileSystem | Path.Path | Scope.Scope
> {
  const directory = config.nonEmpty("FileIdempotency", "directory", options.directory)
  type Operation = Idempotency.IdempotencyStoreError["operation"]
  const failed = (operation: Operation, scope: string) => (cause: CheckpointStoreError | Schema.SchemaError) => {
    const tag = Schema.isSchemaError(cause) ? "Rejected" : cause.reason._tag
    const reason = tag === "SchemaTooNew" || tag === "Unavailable" ? tag : "Rejected"
    // Somebody else has it, or was faster: the same request may work later.
    const isPassing = tag === "LeaseHeld" || tag === "Fenced" || tag === "PositionTaken"
    return new Idempotency.IdempotencyStoreError({
      operation,
      scope,
      reason: isPassing ? "Unavailable" : reason,
      cause
    })
  }
  const store = yield* Effect.mapError(FileCheckpointStore.make({ ...options, directory }), failed("open", ""))

  // A scope may be any text, and a run's id has to be well-formed.
  const scopeOf = (scope: string) => `${sha256(scope)} `
  const idOf = (scope: string, key: string) => `${scopeOf(scope)}${key}`

  const holding = <A, E>(runId: string, use: (lease: Lease) => Effect.Effect<A, E>) =>
    Effect.acquireUseRelease(
      Effect.retry(store.acquire(runId, ttl), {
        while: ({ reason }) => reason._tag === "LeaseHeld",
        schedule: patience
      }),
      use,
      (lease) => Effect.ignore(store.release(lease))
    )

  const latest = Effect.fnUntraced(function*(runId: string) {
    const entries = yield* store.read(runId)
    const last = entries.at(-1)
    return { length: entries.length, entry: last === undefined ? undefined : yield* decode(last.body) }
  })

  const sweep = Effect.gen(function*() {
    const now = yield* Clock.currentTimeMillis
    for (const { runId } of yield* store.list()) {
      const { entry } = yield* latest(runId)
      if (entry === undefined || entry.expiresAt > now) continue
      yield* holding(
        runId,
        (lease) =>
          Effect.flatMap(
            latest(runId),
            ({ entry }) => entry === undefined || entry.expiresAt > now ? Effect.void : store.remove(lease)
          )
      )
    }
  })
  let recorded = 0

  return {
    get: (scope, key) =>
      Effect.mapError(Effect.map(latest(idOf(scope, key)), ({ entry }) => entry), failed("lookup", scope)),
    put: (scope, key, entry) => {
      const runId = idOf(scope, key)
      return holding(
        runId,
        Effect.fnUntraced(function*(lease) {
          const there = yield* latest(runId)
          if (there.entry !== undefined && there.entry.expiresAt > entry.recordedAt) return there.entry
          const body = yield* encode(entry)
          yield* store.append(lease, [{ position: there.length, step: "", body }])
          return entry
        })
      ).pipe(
        Effect.mapError(failed("record", scope)),
        // What cannot be swept now is with the next sweep, and no reason to doubt what was recorded.
        Effect.tap(() => ++recorded % sweepEvery === 0 ? Effect.ignore(sweep) : Effect.void)
      )
    },
    clear: (scope) =>
      store.list().pipe(
        Effect.map(Arr.filter(({ runId }) => runId.startsWith(scopeOf(scope)))),
        Effect.flatMap(Effect.forEach(({ runId }) => holding(runId, store.remove), { discard: true })),
        Effect.mapError(failed("clear", scope))
      )
  }
})

/**
 * Provides an `Idempotency` whose results are kept in files.
 *
 * **Example** (Remembering in another process)
 *
 * ```ts import.meta.vitest
 * import { NodeServices } from "@effect/platform-node"
 * import { Effect, FileSystem, Schema } from "effect"
 * import { Idempotency } from "effect-resilience"
 * import * as FileIdempotency from "effect-resilience/durable/stores/FileIdempotency"
 *
 * const charge = (receipt: string) =>
 *   Effect.succeed(receipt).pipe(
 *     Idempotency.once({ scope: "order-7", tool: "charge", args: { cents: 500 }, success: Schema.String })
 *   )
 *
 * const program = Effect.gen(function*() {
 *   const directory = yield* (yield* FileSystem.FileSystem).makeTempDirectoryScoped()
 *   // Each layer opens the directory anew, as another process would.
 *   const inAProcess = (receipt: string) => Effect.provide(charge(receipt), FileIdempotency.layerWith({ directory }))
 *   return [yield* inAProcess("the first"), yield* inAProcess("the second")]
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.scoped, Effect.provide(NodeServices.layer))) // => ["the first", "the first"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWith = (
  options: Options
): Layer.Layer<Idempotency.Idempotency, Idempotency.IdempotencyStoreError, FileSystem.FileSystem | Path.Path> =>
  Layer.effect(
    Idempotency.Idempotency,
    Effect.flatMap(makeStore(options), (store) => Idempotency.make({ ...options, store }))
  )
