/**
 * Keeps the journals of runs in files.
 *
 * **When to use**
 *
 * Use it for runs on one machine without a database, and with `FileIdempotency` by way of `Files`.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as FileSystem from "effect/FileSystem"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Path from "effect/Path"
import type { PlatformError } from "effect/PlatformError"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as config from "../../internal/config.ts"
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
import * as Journal from "../internal/fileJournal.ts"
import * as Series from "../internal/fileSeries.ts"

/**
 * Options of {@link layer}.
 *
 * **Details**
 *
 * - `directory` for the files, which is made if it is not there. It must not be empty.
 * - `owner` is who takes leases, default a random name per layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly directory: string
  readonly owner?: LeaseOwner | undefined
}

type Failure = CheckpointStoreError | PlatformError | Journal.TooNew | Series.Contended | Series.Damaged

const reasonOf = (error: Exclude<Failure, CheckpointStoreError>): typeof CheckpointStoreReason.Type => {
  switch (error._tag) {
    case "Damaged":
      return { _tag: "Corrupt", detail: error.message }
    case "TooNew":
      return { _tag: "SchemaTooNew", found: error.found, known: error.known }
    case "Contended":
      return { _tag: "Unavailable", cause: error }
    case "PlatformError":
      return { _tag: Series.isUnavailable(error) ? "Unavailable" : "Rejected", cause: error }
  }
}

/** What the holder of a lease knows of its run, so that it need not read it again for every record. */
interface Held {
  readonly token: number
  readonly opening: Pick<Journal.Opening, "createdAt" | "lost">
  tail: Series.Tail
  state: Journal.State
}

const attempts = 100

const isSame = (one: ReadonlyArray<Entry>, other: ReadonlyArray<Entry>): boolean =>
  one.length === other.length && one.every(({ body, position, step }, index) => {
    const there = other[index]
    return there?.position === position && there.step === step && there.body === body
  })

/**
 * Creates a store on the `FileSystem` at hand.
 *
 * **Details**
 *
 * Each lease writes a file of its own, line by line, and nothing that was written is ever changed. A record is
 * acknowledged when it is on the disk (`fsync`) and nobody had taken the run over. Every line has a checksum:
 *
 * - A process killed in the middle of a line leaves a line without an end, which counts for nothing, and goes on being
 *   ignored when the run goes on in the next file.
 * - Every other damage is `Corrupt`, with the file and the place, and the run is left as it is. Only an `acquire` that
 *   is to take over gets hold of a run whose newest file is damaged, to remove it.
 * - After a write that failed the lease goes on in a new file, behind what was acknowledged.
 *
 * Several processes of one machine may share the directory: nothing is locked, so that nothing stays locked. Leases
 * are measured by the `Clock`. A lease belongs to the store that took it: two stores must not append to one run with
 * the same lease at the same time.
 *
 * It needs a local file system that has hard links and keeps what it has synced (ext4, xfs, btrfs, APFS, NTFS). On a
 * network file system, where one machine may see late what another one wrote, it keeps runs safe only as long as one
 * machine uses them. Windows cannot sync a folder, so that a new run may be gone after a loss of power there. A file
 * system that loses the order of writes with the power may leave the last, unacknowledged line `Corrupt` instead of
 * absent.
 *
 * An operation that its caller gives up waiting for is carried out to its end, and a lease that nobody got is given
 * back.
 *
 * An empty `directory` throws `Fault.InvalidConfig`. Fails with `CheckpointStoreError` if it cannot be made.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options): Effect.fn.Return<
  CheckpointStore["Service"],
  CheckpointStoreError,
  FileSystem.FileSystem | Path.Path | Scope.Scope
> {
  const directory = config.nonEmpty("FileCheckpointStore", "directory", options.directory)
  const owner = options.owner ?? (yield* anonymousOwner)

  const failure = (operation: string, runId: string | undefined, reason: typeof CheckpointStoreReason.Type) =>
    new CheckpointStoreError({ operation, reason, ...(runId === undefined ? {} : { runId }) })

  const mapped = <A, R>(operation: string, runId: string | undefined, effect: Effect.Effect<A, Failure, R>) =>
    Effect.mapError(
      effect,
      (error) => error._tag === "CheckpointStoreError" ? error : failure(operation, runId, reasonOf(error))
    )

  const root = (yield* Path.Path).join(directory, "runs")
  const series = yield* mapped("open", undefined, Series.make(root))
  const leases = new Map<string, Held>()

  const viewOf = (name: string, numbers: ReadonlyArray<number>) =>
    Effect.flatMap(series.look(name, numbers), (found) => Journal.viewOf(name, found))

  const fenced = (operation: string, { runId, token }: Lease) => {
    leases.delete(runId)
    return failure(operation, runId, { _tag: "Fenced", token })
  }

  const acquire = Effect.fnUntraced(function*(
    runId: string,
    name: string,
    ttl: Duration.Duration | undefined,
    takeOver: boolean
  ) {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const epoch = yield* series.epoch
      const numbers = yield* series.numbers(name)
      const found = yield* Effect.result(viewOf(name, numbers))
      if (Result.isFailure(found) && !(takeOver && found.failure._tag === "Damaged")) {
        return yield* Effect.fail(found.failure)
      }
      const before = Result.isSuccess(found) ? found.success : undefined
      const held = before?.lease
      const gone = held !== undefined && (yield* owner.isGone(held.owner))
      const now = yield* Clock.currentTimeMillis
      if (held !== undefined && held.expiresAt > now && !takeOver && !gone) {
        const remaining = Duration.millis(held.expiresAt - now)
        return yield* failure("acquire", runId, { _tag: "LeaseHeld", ...held, remaining })
      }
      const expiresAt = ttl === undefined ? null : Math.ceil(now + Duration.toMillis(ttl))
      const abandoned = (view: Journal.View | undefined) => view?.lease === undefined ? 0 : view.abandoned + 1

      const tail = yield* series.claim(
        name,
        { epoch, numbers },
        (number) =>
          Journal.claimLine({
            run: runId,
            number,
            token: number,
            owner: owner.id,
            at: now,
            expiresAt,
            abandoned: abandoned(before)
          })
      )
      if (tail === undefined) continue

      // Whoever wrote until now has been fenced by the claim. Only now is it certain what is there.
      const taken = yield* Effect.gen(function*() {
        const after = before === undefined ? undefined : yield* viewOf(name, numbers)
        const open = after?.open
        if (open !== undefined) yield* series.sync(name, open.number)
        return { after, open }
      }).pipe(Effect.onError(() => series.withdraw(name, tail.number)))
      const { after, open } = taken
      if (before !== undefined && numbers.length > 0 && (open === undefined || open.state.status === "removed")) {
        // The run was removed, or there is nothing but claims of processes that were cut off: it begins anew above all
        // its old numbers, which are deleted once it is written down that they count no more.
        const gone: Journal.State = { entries: 0, status: "removed", updatedAt: now, expiresAt: null, abandoned: 0 }
        const line = Journal.openingLine({ after: 0, bytes: 0, createdAt: now }, gone)
        if ((yield* series.write(name, tail, line, { durable: true })) === "written") {
          yield* series.discard(name, [...numbers, tail.number])
        }
        continue
      }
      const state: Journal.State = {
        entries: open?.state.entries ?? 0,
        status: open === undefined || open.state.status === "removed" ? "running" : open.state.status,
        updatedAt: now,
        expiresAt,
        abandoned: abandoned(after)
      }
      const opening: Omit<Journal.Opening, "state"> = {
        after: open?.number ?? 0,
        bytes: open?.end ?? 0,
        createdAt: open?.opening.createdAt ?? now,
        ...(before === undefined ? { lost: true } : {})
      }
      if ((yield* series.write(name, tail, Journal.openingLine(opening, state), { durable: true })) !== "written") {
        continue
      }
      yield* series.syncFolder(name)
      leases.set(runId, { token: tail.number, opening, tail, state })
      return { runId, token: tail.number, abandoned: state.abandoned }
    }
    return yield* new Series.Contended({ name })
  })

  /** Finds a lease in the files, for a store that did not take it itself, or cannot trust what it knows. */
  const load = Effect.fnUntraced(function*(operation: string, name: string, lease: Lease) {
    const numbers = yield* series.numbers(name)
    const { open, top } = yield* viewOf(name, numbers)
    if (
      top?.claim?.token !== lease.token || open?.claim.token !== lease.token || open.state.status === "removed"
    ) return yield* fenced(operation, lease)
    yield* series.sync(name, open.number)
    const held: Held = {
      token: lease.token,
      opening: open.opening,
      state: open.state,
      tail: {
        number: open.number,
        claimed: open.claimed,
        tip: top.number,
        end: open.end,
        synced: open.end,
        broken: open.size > open.end || top.number > open.number
      }
    }
    leases.set(lease.runId, held)
    return held
  })

  /** Goes on in a new file, behind all that is known to be on the disk. */
  const moveOn = Effect.fnUntraced(function*(operation: string, name: string, lease: Lease, held: Held) {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const epoch = yield* series.epoch
      const numbers = yield* series.numbers(name)
      const { top } = yield* viewOf(name, numbers)
      // A file of ours that we did not hear of: the link was made, and its answer lost.
      if (top?.claim?.token === lease.token) held.tail.tip = Math.max(held.tail.tip, top.number)
      if (!(yield* series.isOurs(name, held.tail))) return yield* fenced(operation, lease)
      const { opening, state, token } = held
      const now = yield* Clock.currentTimeMillis
      const { abandoned, expiresAt } = state
      const tail = yield* series.claim(
        name,
        { epoch, numbers },
        (number) =>
          Journal.claimLine({ run: lease.runId, number, token, owner: owner.id, at: now, expiresAt, abandoned })
      )
      if (tail === undefined) continue
      held.tail.tip = tail.number
      const line = Journal.openingLine({ ...opening, after: held.tail.number, bytes: held.tail.synced }, state)
      if ((yield* series.write(name, tail, line, { durable: true })) !== "written") {
        return yield* fenced(operation, lease)
      }
      yield* series.syncFolder(name)
      held.tail = tail
      return
    }
    return yield* new Series.Contended({ name })
  })

  const holding = Effect.fnUntraced(function*(operation: string, name: string, lease: Lease) {
    const known = leases.get(lease.runId)
    const held = known?.token === lease.token ? known : yield* load(operation, name, lease)
    if (held.tail.broken) yield* moveOn(operation, name, lease, held)
    return held
  })

  /** What the first one that came after a file goes on from, as far as it has said so. */
  const followerOf = Effect.fnUntraced(function*(name: string, number: number) {
    for (const next of yield* series.numbers(name)) {
      const { open } = next > number ? yield* viewOf(name, [next]) : { open: undefined }
      if (open !== undefined) return open.opening
    }
    return undefined
  })

  /** Writes a line, unless the lease is over. Says whether the file was as long as this store knows it. */
  const write = Effect.fnUntraced(function*(
    operation: string,
    name: string,
    lease: Lease,
    held: Held,
    next: { readonly state: Journal.State; readonly records?: ReadonlyArray<Entry>; readonly durable: boolean }
  ) {
    const line = Journal.changeLine(next.state, next.records)
    const { end, number } = held.tail
    const result = yield* series.write(name, held.tail, line, { durable: next.durable })
    if (result === "followed") {
      const follower = yield* followerOf(name, number)
      const wasSeen = follower?.after === number && follower.bytes >= end + line.length
      const wasGivenUp = next.state.status === "removed"
        ? follower?.after === 0
        : next.state.expiresAt === null && (follower === undefined || wasSeen)
      // Who gives a run up is followed at once by whoever waited for it, and was not fenced for that.
      if (!wasGivenUp) return yield* fenced(operation, lease)
    }
    if (result === "changed") {
      leases.delete(lease.runId)
      return false
    }
    held.state = next.state
    return true
  })

  const change = Effect.fnUntraced(function*(
    operation: string,
    name: string,
    lease: Lease,
    next: (state: Journal.State, now: number) => Journal.State,
    durable = false
  ) {
    for (let attempt = 0; attempt < attempts; attempt++) {
      const held = yield* holding(operation, name, lease)
      const state = next(held.state, yield* Clock.currentTimeMillis)
      if (yield* write(operation, name, lease, held, { state, durable })) return held
    }
    return yield* new Series.Contended({ name })
  })

  const remove = Effect.fnUntraced(function*(operation: string, name: string, lease: Lease) {
    const removed = (state: Journal.State, now: number): Journal.State => ({
      ...state,
      status: "removed",
      updatedAt: now,
      expiresAt: null
    })
    const { tail } = yield* change(operation, name, lease, removed, true)
    leases.delete(lease.runId)
    // What is left of a removed run is no run any more, and whoever comes next deletes it.
    yield* Effect.ignore(
      Effect.flatMap(
        series.numbers(name),
        (numbers) => series.discard(name, numbers.filter((number) => number <= tail.tip))
      ),
      { log: "Warn", message: `the files of run "${lease.runId}" are left to be deleted later` }
    )
  })

  const release = Effect.fnUntraced(function*(name: string, lease: Lease) {
    const { state } = yield* holding("release", name, lease)
    if (state.entries === 0) return yield* remove("release", name, lease)
    yield* change("release", name, lease, (state, now) => ({ ...state, updatedAt: now, expiresAt: null }))
  }, (released, _name, lease) => Effect.ensuring(released, Effect.sync(() => leases.delete(lease.runId))))

  const append = Effect.fnUntraced(function*(
    name: string,
    lease: Lease,
    records: readonly [Entry, ...Array<Entry>],
    status: RunSummary["status"] | undefined
  ) {
    const { runId, token } = lease
    const { position } = records[0]
    for (let attempt = 0; attempt < attempts; attempt++) {
      let held = yield* holding("append", name, lease)
      if (position !== held.state.entries) {
        held = yield* load("append", name, lease)
        if (held.tail.broken) continue
      }
      if (position !== held.state.entries) {
        const last = (yield* batchesOf(name)).at(-1)
        if (last?.token === token && isSame(last.entries, records)) return
        return yield* failure("append", runId, { _tag: "PositionTaken", position, length: held.state.entries })
      }
      const now = yield* Clock.currentTimeMillis
      const state: Journal.State = {
        ...held.state,
        entries: position + records.length,
        ...(status === undefined ? {} : { status, updatedAt: now })
      }
      if (yield* write("append", name, lease, held, { state, records, durable: true })) return
    }
    return yield* new Series.Contended({ name })
  })

  const batchesOf = Effect.fnUntraced(function*(name: string) {
    let damage: string | undefined
    for (let attempt = 0; attempt < attempts; attempt++) {
      const numbers = yield* series.numbers(name)
      const { open } = yield* viewOf(name, numbers)
      if (open === undefined || open.state.status === "removed") return []
      const files = yield* Effect.result(filesOf(name, open.number))
      // Taken over or removed meanwhile: what was read may not be what counts.
      if ((yield* series.numbers(name)).at(-1) !== numbers.at(-1)) continue
      if (Result.isSuccess(files)) return files.success.flatMap(({ batches }) => batches)
      // So may be what is damaged or missing, unless it still is when one looks again.
      if (files.failure.message === damage) return yield* Effect.fail(files.failure)
      damage = files.failure.message
    }
    return yield* new Series.Contended({ name })
  })

  /** The files of a journal up to the one with the given number. */
  const filesOf = Effect.fnUntraced(function*(name: string, newest: number) {
    const files: Array<Journal.File> = []
    let number = newest
    let cut: number | undefined
    while (number > 0) {
      const file = series.fileOf(name, number)
      const bytes = yield* Effect.catchIf(
        series.read(name, number),
        Series.isNotFound,
        () => Effect.fail(new Series.Damaged({ file, offset: 0, detail: "it is missing" }))
      )
      const parsed = yield* Effect.fromResult(Journal.parse(name, { bytes, cut, file, number }))
      const after = files.at(-1)
      if (after !== undefined && after.opening.state[0] !== parsed.entries) {
        const detail = `it has ${parsed.entries} records, and ${after.opening.state[0]} for the next file`
        return yield* new Series.Damaged({ file, offset: cut ?? 0, detail })
      }
      files.push(parsed)
      number = parsed.opening.after
      cut = parsed.opening.bytes
    }
    return files.toReversed()
  })

  /** What is told of a run, and whether there is something of it to sweep away. */
  const summarize = Effect.fnUntraced(function*(name: string, numbers: ReadonlyArray<number>) {
    const view = yield* viewOf(name, numbers)
    const run = Journal.summaryOf(view)
    const now = yield* Clock.currentTimeMillis
    const isLeft = run === undefined && view.top !== undefined &&
      (view.lease === undefined || view.lease.expiresAt <= now)
    return { run, left: isLeft ? view.top?.claim?.run ?? "" : undefined }
  })

  const named = <A>(
    operation: string,
    runId: string,
    use: (name: string) => Effect.Effect<A, Failure>,
    undo?: (value: A) => Effect.Effect<void>
  ) =>
    Effect.suspend(() => {
      const name = Journal.nameOf(runId)
      return mapped(operation, runId, series.carryOut(name, use(name), undo))
    })

  return CheckpointStore.of({
    acquire: (runId, ttl, { takeOver = false } = {}) =>
      named(
        "acquire",
        runId,
        (name) => acquire(runId, name, ttl, takeOver),
        (lease) => Effect.ignore(series.carryOut(Journal.nameOf(runId), release(Journal.nameOf(runId), lease)))
      ),
    renew: (lease, ttl, { recovered = false } = {}) =>
      named("renew", lease.runId, (name) =>
        Effect.asVoid(change("renew", name, lease, (state, now) => ({
          ...state,
          updatedAt: now,
          expiresAt: Math.ceil(now + Duration.toMillis(ttl)),
          abandoned: recovered ? 0 : state.abandoned
        })))),
    release: (lease) => named("release", lease.runId, (name) => release(name, lease)),
    append: (lease, entries, status) => named("append", lease.runId, (name) => append(name, lease, entries, status)),
    remove: (lease) => named("remove", lease.runId, (name) => remove("remove", name, lease)),
    read: (runId) =>
      mapped(
        "read",
        runId,
        Effect.map(batchesOf(Journal.nameOf(runId)), (batches) => batches.flatMap(({ entries }) => entries))
      ),
    get: (runId) =>
      Effect.suspend(() => {
        const name = Journal.nameOf(runId)
        return mapped(
          "get",
          runId,
          series.numbers(name).pipe(
            Effect.flatMap((numbers) => viewOf(name, numbers)),
            Effect.map((view) => Option.fromUndefinedOr(Journal.summaryOf(view)))
          )
        )
      }),
    list: ({ limit, status, updatedBefore = Infinity } = {}) =>
      Effect.gen(function*() {
        const names = yield* mapped("list", undefined, series.all())
        const found = yield* Effect.forEach(names, ([name, numbers]) =>
          summarize(name, numbers).pipe(
            Effect.tap(({ left }) => left === undefined ? Effect.void : clean(left, name)),
            Effect.map(({ run }) => run === undefined ? [] : [run]),
            // One run that cannot be read must not hide the others.
            Effect.catch((error) =>
              Effect.as(Effect.logError(`a run is left out of the list: ${name} cannot be read`, error), [])
            )
          ), { concurrency: 16 })
        return found.flat()
          .filter((run) => (status === undefined || run.status === status) && run.updatedAt < updatedBefore)
          .toSorted((one, other) => one.createdAt - other.createdAt || (one.runId < other.runId ? -1 : 1))
          .slice(0, limit)
      })
  })

  // A run that was removed halfway, or whose process ended before its first record. It is taken without a lease, so
  // that nobody who wants it has to wait.
  function clean(runId: string, name: string) {
    return Effect.ignore(series.carryOut(
      name,
      Effect.flatMap(acquire(runId, name, undefined, false), (lease) => release(name, lease))
    ))
  }
})

/**
 * Provides a {@link CheckpointStore} on the `FileSystem` at hand, see {@link make}.
 *
 * **Example** (Resuming in another process)
 *
 * ```ts import.meta.vitest
 * import { NodeFileSystem, NodePath } from "@effect/platform-node"
 * import { Effect, FileSystem, Layer, Schema } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
 *
 * const count = (n: number) =>
 *   Checkpoint.step("count", { success: Schema.Finite }, Effect.succeed(n)).pipe(Checkpoint.run({ id: "count" }))
 *
 * const program = Effect.scoped(Effect.gen(function*() {
 *   const fs = yield* FileSystem.FileSystem
 *   const directory = yield* fs.makeTempDirectoryScoped()
 *   // Each layer looks at the files anew, as another process would.
 *   const one = yield* Effect.provide(count(1), FileCheckpointStore.layer({ directory }))
 *   const two = yield* Effect.provide(count(2), FileCheckpointStore.layer({ directory }))
 *   return [one, two]
 * }))
 *
 * const Node = Layer.mergeAll(NodeFileSystem.layer, NodePath.layer)
 * await Effect.runPromise(Effect.provide(program, Node)) // => [1, 1]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options
): Layer.Layer<CheckpointStore, CheckpointStoreError, FileSystem.FileSystem | Path.Path> =>
  Layer.effect(CheckpointStore, make(options))
