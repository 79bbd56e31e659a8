/**
 * Keeps the results of `Idempotency` in files.
 *
 * **When to use**
 *
 * Use it beside `FileCheckpointStore`, by way of `Files`.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as config from "../../internal/config.ts"
import { sha256 } from "../../internal/sha256.ts"
import * as Idempotency from "../Idempotency.ts"
import { line } from "../internal/fileLines.ts"
import * as Series from "../internal/fileSeries.ts"

/**
 * Options of {@link layer}.
 *
 * **Details**
 *
 * `directory` for the files, which is made if it is not there. It must not be empty.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Idempotency.Options {
  readonly directory: string
}

/** The format of the files, which the first line of each tells. */
const format = 1

const Claim = Schema.Struct({ format: Schema.Finite, scope: Schema.String, key: Schema.String, at: Schema.Finite })
// Null where there was a result that counts no more.
const Recorded = Schema.NullOr(Schema.Struct({
  outcome: Schema.String,
  recordedAt: Schema.Finite,
  expiresAt: Schema.Finite
}))
const decodeClaim = Schema.decodeResult(Schema.fromJsonString(Claim))
const decodeRecorded = Schema.decodeResult(Schema.fromJsonString(Recorded))

const shardOf = (scope: string) => sha256(scope).slice(0, 2)
const prefixOf = (scope: string) => `${shardOf(scope)}/${sha256(scope).slice(0, 32)}-`
const nameOf = (scope: string, key: string) => `${prefixOf(scope)}${sha256(key).slice(0, 32)}`

type Failure = PlatformError | Series.Contended | Series.Damaged | Idempotency.IdempotencyStoreError

const attempts = 100
/** Every so many results, those in one of 256 folders that have expired are deleted. */
const sweepEvery = 100
/** How long ago a claim must have been made to be taken for what a killed process left. */
const abandonedAfter = 60_000

/**
 * Creates a store on the `FileSystem` at hand.
 *
 * **Details**
 *
 * Each result is a file, which is answered once it is on the disk (`fsync`). Several processes of one machine may share
 * the directory: the result recorded first is the one that all answer. A file that is damaged is an
 * `IdempotencyStoreError` (`Rejected`) naming it, and its call is not executed. Results that have expired are deleted a
 * few at a time, whenever others are recorded.
 *
 * It needs a local file system that has hard links and keeps what it has synced, as `FileCheckpointStore` does.
 *
 * An empty `directory` throws `Fault.InvalidConfig`. Fails with `IdempotencyStoreError`, `operation: "open"`, if it
 * cannot be made.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore = Effect.fnUntraced(function*(options: { readonly directory: string }): Effect.fn.Return<
  Idempotency.Store,
  Idempotency.IdempotencyStoreError,
  FileSystem.FileSystem | Path.Path | Scope.Scope
> {
  const directory = config.nonEmpty("FileIdempotency", "directory", options.directory)

  const mapped = <A, R>(
    operation: Idempotency.IdempotencyStoreError["operation"],
    scope: string,
    effect: Effect.Effect<A, Failure, R>
  ) =>
    Effect.mapError(effect, (cause) => {
      if (cause._tag === "IdempotencyStoreError") return cause
      const isUnavailable = cause._tag === "Contended" ||
        (cause._tag === "PlatformError" && Series.isUnavailable(cause))
      const reason = isUnavailable ? "Unavailable" : "Rejected"
      return new Idempotency.IdempotencyStoreError({ operation, scope, reason, cause })
    })

  const root = (yield* Path.Path).join(directory, "results")
  const series = yield* mapped("open", "", Series.make(root))
  let puts = 0

  const recordedIn = (edges: Series.Edges): Result.Result<typeof Recorded.Type, Failure> => {
    const { claimed, file, opening = "" } = edges
    return Result.mapError(
      decodeRecorded(opening),
      () => new Series.Damaged({ file, offset: claimed.length, detail: "a line is not what belongs there" })
    )
  }

  const claimIn = ({ claim = "", file }: Series.Edges) =>
    Result.mapError(
      decodeClaim(claim),
      () => new Series.Damaged({ file, offset: 0, detail: "a line is not what belongs there" })
    )

  /** The newest result, and whether nobody may be about to write another one. */
  const look = Effect.fnUntraced(function*(
    operation: Idempotency.IdempotencyStoreError["operation"],
    name: string,
    numbers: ReadonlyArray<number>
  ) {
    const { open, top } = yield* series.look(name, numbers)
    const claim = top?.claim === undefined ? undefined : yield* Effect.fromResult(claimIn(top))
    if (claim !== undefined && claim.format > format) {
      const cause = new Error(`${top?.file} is of format ${claim.format}, this release knows ${format}`)
      return yield* new Idempotency.IdempotencyStoreError({
        operation,
        scope: claim.scope,
        reason: "SchemaTooNew",
        cause
      })
    }
    if (claim !== undefined && nameOf(claim.scope, claim.key) !== name) {
      return yield* new Series.Damaged({ file: top?.file ?? name, offset: 0, detail: "it was written as another file" })
    }
    const entry = open === undefined ? null : yield* Effect.fromResult(recordedIn(open))
    return { claim, entry, open: open?.number, settled: open?.number === top?.number }
  })

  const keep = Effect.fnUntraced(function*(name: string, number: number) {
    yield* series.sync(name, number)
    yield* series.syncFolder(name)
  })

  /**
   * Makes the newest file of a result, with what `next` makes of the one that counts so far, and deletes the older ones.
   * A claim that was never opened may be opened late: whoever comes next has the last word, and says what counts.
   */
  const settle = Effect.fnUntraced(function*(
    operation: Idempotency.IdempotencyStoreError["operation"],
    { key, scope }: { readonly scope: string; readonly key: string },
    next: (entry: Idempotency.Entry | null) => Idempotency.Entry | null
  ) {
    const name = nameOf(scope, key)
    for (let attempt = 0; attempt < attempts; attempt++) {
      const epoch = yield* series.epoch
      const numbers = yield* series.numbers(name)
      const seen = yield* look(operation, name, numbers)
      if (seen.settled && seen.open !== undefined && seen.entry !== null && next(seen.entry) === seen.entry) {
        // Another process may have written it, and not synced yet.
        yield* keep(name, seen.open)
        return seen.entry
      }
      const at = yield* Clock.currentTimeMillis
      const tail = yield* series.claim(
        name,
        { epoch, numbers },
        () => line(JSON.stringify({ format, scope, key, at }))
      )
      if (tail === undefined) continue
      const { entry } = yield* Effect.onError(
        look(operation, name, numbers),
        () => series.withdraw(name, tail.number)
      )
      const kept = next(entry)
      const opened = line(JSON.stringify(kept === null ? null : { ...kept }))
      if ((yield* series.write(name, tail, opened, { durable: true })) !== "written") continue
      yield* series.syncFolder(name)
      const rest = kept === null ? [...numbers, tail.number] : numbers
      yield* Effect.ignore(series.discard(name, rest), { log: "Debug", message: "files of old results are left" })
      return kept
    }
    return yield* new Series.Contended({ name })
  })

  const expiredIn = Effect.fnUntraced(function*(shard: string, now: number) {
    for (const [name, numbers] of yield* series.all(shard)) {
      const { claim, entry, settled } = yield* look("record", name, numbers)
      const isOver = settled
        ? entry === null || entry.expiresAt <= now
        : (claim?.at ?? 0) <= now - abandonedAfter
      if (!isOver || claim === undefined) continue
      yield* settle("record", claim, (entry) => entry === null || entry.expiresAt <= now ? null : entry)
    }
  })

  const sweep = (shard: string, now: number) =>
    puts++ % sweepEvery === 0
      ? Effect.ignore(expiredIn(shard, now), { log: "Debug", message: "expired results are left to be deleted later" })
      : Effect.void

  return {
    get: (scope, key) =>
      mapped(
        "lookup",
        scope,
        Effect.gen(function*() {
          const name = nameOf(scope, key)
          const { entry, settled } = yield* look("lookup", name, yield* series.numbers(name))
          if (entry === null) return undefined
          if (settled) return entry
          return (yield* series.carryOut(name, settle("lookup", { scope, key }, (entry) => entry))) ?? undefined
        })
      ),
    put: (scope, key, entry) =>
      mapped(
        "record",
        scope,
        Effect.gen(function*() {
          const name = nameOf(scope, key)
          const { recordedAt } = entry
          const kept = yield* series.carryOut(
            name,
            settle("record", { scope, key }, (there) => there !== null && there.expiresAt > recordedAt ? there : entry)
          )
          yield* sweep(shardOf(scope), recordedAt)
          return kept ?? entry
        })
      ),
    clear: (scope) =>
      mapped(
        "clear",
        scope,
        Effect.gen(function*() {
          const prefix = prefixOf(scope)
          for (const [name, numbers] of yield* series.all(shardOf(scope))) {
            if (name.startsWith(prefix)) yield* series.carryOut(name, series.discard(name, numbers))
          }
        })
      )
  }
})

/**
 * Provides an `Idempotency` whose results survive a restart, in files.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options
): Layer.Layer<
  Idempotency.Idempotency,
  Idempotency.IdempotencyStoreError,
  FileSystem.FileSystem | Path.Path
> =>
  Layer.effect(
    Idempotency.Idempotency,
    Effect.flatMap(makeStore(options), (store) => Idempotency.make({ ...options, store }))
  )
