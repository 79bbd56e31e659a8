/**
 * Keeps the journals of runs in whatever Effect can persist to.
 *
 * **When to use**
 *
 * Use it in a program of one process that has a backing of Effect's `Persistence` anyway. Processes that share one could
 * overtake each other between a look at the lease and the write after it: they need another store.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Persistence from "effect/persistence/Persistence"
import * as Schema from "effect/Schema"
import * as config from "../../internal/config.ts"
import { sha256 } from "../../internal/sha256.ts"
import {
  anonymousOwner,
  CheckpointStore,
  CheckpointStoreError,
  type CheckpointStoreReason,
  type Entry,
  type Lease,
  type LeaseOwner,
  RunStatus,
  type RunSummary
} from "../CheckpointStore.ts"
import { kindOf, turns } from "../internal/persistenceStore.ts"

/**
 * Options of {@link make} and {@link layerPersistence}.
 *
 * **Details**
 *
 * - `storeId`: the part of the backing that belongs to this store; default `effect_resilience_checkpoint`.
 * - `owner`: who takes leases; default a random name per layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly storeId?: string | undefined
  readonly owner?: LeaseOwner | undefined
}

type Reason = typeof CheckpointStoreReason.Type

const module = "PersistenceCheckpointStore"

const knownFormat = 1

// A new run rewrites the ids of its bucket alone.
const buckets = 64

const pageSize = 100

// What a process that was cut off has left is not taken for what another one is about to write.
const grace = Duration.toMillis(Duration.days(1))

const Store = Schema.Struct({ format: Schema.Finite, token: Schema.Finite })

/** The runs of a bucket: id, generation, and when it was put there. */
const Bucket = Schema.Struct({ runs: Schema.Array(Schema.Tuple([Schema.String, Schema.Finite, Schema.Finite])) })

/**
 * What is known about a run, and how much of its journal counts: records at `entries` and above were never acknowledged.
 * `generation` is the token of its first lease, `from` where the last append of the present lease began, and `reach` the
 * position below which records may be stored.
 */
const Head = Schema.Struct({
  runId: Schema.String,
  generation: Schema.Finite,
  status: RunStatus,
  entries: Schema.Finite,
  from: Schema.NullOr(Schema.Finite),
  reach: Schema.Finite,
  createdAt: Schema.Finite,
  updatedAt: Schema.Finite,
  token: Schema.Finite,
  abandoned: Schema.Finite,
  owner: Schema.NullOr(Schema.String),
  expiresAt: Schema.Finite,
  removed: Schema.Boolean
})
type Head = typeof Head.Type

const Body = Schema.Struct({ step: Schema.String, body: Schema.String })

const toSummary = (head: Head): RunSummary => ({
  runId: head.runId,
  status: head.status,
  entries: head.entries,
  createdAt: head.createdAt,
  updatedAt: head.updatedAt,
  lease: head.owner === null ? undefined : { owner: head.owner, expiresAt: head.expiresAt }
})

const isThere = (head: Head | undefined): head is Head => head !== undefined && !head.removed

const ifCorrupt = <A, B, R>(
  effect: Effect.Effect<A, CheckpointStoreError, R>,
  instead: (error: CheckpointStoreError) => Effect.Effect<B>
) =>
  effect.pipe(
    Effect.catch((error): Effect.Effect<B, CheckpointStoreError> =>
      error.reason._tag === "Corrupt" ? instead(error) : Effect.fail(error)
    )
  )

const indexKeys = Array.from({ length: buckets }, (_, bucket) => `index-${bucket}`)

/** Where a run is stored: a backing may be particular about the length of keys, their characters and their case. */
const placeOf = (runId: string) => {
  const hash = sha256(runId)
  return {
    head: `run-${hash}`,
    index: indexKeys[Number.parseInt(hash.slice(0, 4), 16) % buckets] ?? "index-0",
    entry: (generation: number, position: number) => `${hash}-${generation}-${position}`
  }
}

/**
 * Creates a store on the `BackingPersistence` at hand: memory, a `KeyValueStore`, SQL or Redis.
 *
 * **When to use**
 *
 * Use it where a program has a backing of Effect's `Persistence` already and runs in one process. Where several processes
 * share the runs, or runs are long and many, take `SqlCheckpointStore`, `RedisCheckpointStore` or a file.
 *
 * **Details**
 *
 * A backing knows values by key. It compares nothing before it writes, writes several keys one by one, and lists none. So
 * a record is a value of its own, and a run has a head that says how many of them count: an append writes the record and
 * then the head, which acknowledges it. Cut off after any call, a run is readable and has all that was acknowledged. What
 * a step costs does not depend on how many there were: one value is read and two are written.
 *
 * What it promises is less than what the other stores do:
 *
 * - Within one layer, fencing is exact: the calls about one run take turns. Between layers and processes it is not. Every
 *   write looks at the lease first, but a process that stands still between looking and writing, for longer than its
 *   lease, can undo what the next holder wrote meanwhile; and two that ask for a free run at the same moment may both be
 *   granted it, until the first call of the one that wrote first finds itself `Fenced`.
 * - Two processes that begin runs at the same moment may leave one of them out of `list`, until it is acquired again.
 * - Leases are measured by this machine's clock.
 * - What is acknowledged is as durable as the backing, and no more whole than its `set` is: `KeyValueStore.layerFileSystem`
 *   writes over a file in place and does not sync it, so that a process killed in that moment leaves a run that is
 *   `Corrupt`.
 * - In a transaction of the same `SqlClient`, what is acknowledged can be rolled back later, and nobody sees it here.
 * - `remove` removes one value at a time. `list` reads an index and then the heads, and sweeps what processes that were
 *   cut off left behind more than a day ago: leases without a record, and runs removed by half.
 *
 * What cannot be decoded, and a record that is missing, is `Corrupt`. A failure of the backing is `Unavailable` unless it
 * is known to last.
 *
 * An option out of range throws `Fault.InvalidConfig`. Fails with `CheckpointStoreError` if the backing cannot be asked,
 * or holds the runs of a newer release (`SchemaTooNew`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const storeId = config.nonEmpty(module, "storeId", options.storeId ?? "effect_resilience_checkpoint")
  const backing = yield* (yield* Persistence.BackingPersistence).make(storeId)
  const owner = options.owner ?? (yield* anonymousOwner)
  const { take } = turns(yield* Effect.scope)

  /** The records of the backing, for one operation on one run, or on none. */
  const at = (operation: string, runId?: string) => {
    const failure = (reason: Reason) =>
      new CheckpointStoreError({ operation, reason, ...(runId === undefined ? {} : { runId }) })
    const corrupt = (detail: string) => failure({ _tag: "Corrupt", detail })
    const asked = <A>(key: string, call: Effect.Effect<A, Persistence.PersistenceError>) =>
      Effect.mapError(call, (error) => {
        const _tag = kindOf(error)
        return _tag === "Corrupt" ? corrupt(`the value at "${key}" is not JSON`) : failure({ _tag, cause: error })
      })
    const decoded = <A>(schema: Schema.Codec<A, unknown>, key: string, value: object) =>
      Effect.mapError(
        Schema.decodeUnknownEffect(schema)(value),
        (error) => corrupt(`the value at "${key}" is not of this store: ${error.message}`)
      )
    const get = <A>(schema: Schema.Codec<A, unknown>, key: string) =>
      Effect.flatMap(
        asked(key, backing.get(key)),
        (value) => value === undefined ? Effect.undefined : decoded(schema, key, value)
      )
    return {
      place: placeOf(runId ?? ""),
      failure,
      corrupt,
      decoded,
      get,
      set: (key: string, value: object) => asked(key, backing.set(key, value, undefined)),
      setMany: (values: Arr.NonEmptyReadonlyArray<readonly [key: string, value: object]>) =>
        asked(values[0][0], backing.setMany(Arr.map(values, ([key, value]) => [key, value, undefined] as const))),
      remove: (key: string) => asked(key, backing.remove(key)),
      // A backing may leave out what it cannot read, or fail for all because of one.
      getMany: (keys: Arr.NonEmptyReadonlyArray<string>) =>
        ifCorrupt(
          asked(keys[0], backing.getMany(Arr.map(keys, (key) => key))),
          () => Effect.succeed(keys.map((): object | undefined => undefined))
        )
    }
  }
  type Records = ReturnType<typeof at>

  const headOf = Effect.fnUntraced(function*({ corrupt, get, place }: Records, runId: string) {
    const head = yield* get(Head, place.head)
    if (head !== undefined && head.runId !== runId) {
      return yield* corrupt(`the value at "${place.head}" is of run "${head.runId}"`)
    }
    return head
  })

  const { get: getStore } = at("open")
  const found = yield* getStore(Store, "store")
  if (found !== undefined && found.format > knownFormat) {
    return yield* at("open").failure({ _tag: "SchemaTooNew", found: found.format, known: knownFormat })
  }

  const nextToken = ({ get, set }: Records, above: number) =>
    take(
      "store",
      Effect.gen(function*() {
        const token = Math.max((yield* get(Store, "store"))?.token ?? 0, above) + 1
        yield* set("store", { format: knownFormat, token })
        return token
      })
    )

  const editIndex = (
    { get, remove, set }: Records,
    key: string,
    edit: (runs: typeof Bucket.Type["runs"]) => typeof runs
  ) =>
    take(
      key,
      Effect.gen(function*() {
        const runs = (yield* get(Bucket, key))?.runs ?? []
        const edited = edit(runs)
        if (edited === runs) return
        yield* edited.length === 0 ? remove(key) : set(key, { runs: edited })
      })
    )

  const putInIndex = (records: Records, runId: string, generation: number, now: number) =>
    editIndex(
      records,
      records.place.index,
      (runs) =>
        runs.some(([id, of]) => id === runId && of === generation)
          ? runs
          : [...runs.filter(([id]) => id !== runId), [runId, generation, now]]
    )

  const takeFromIndex = (records: Records, runId: string) =>
    editIndex(
      records,
      records.place.index,
      (runs) => runs.some(([id]) => id === runId) ? runs.filter(([id]) => id !== runId) : runs
    )

  // The head says that the run is removed until all else is gone, and what is left to remove.
  const erase = Effect.fnUntraced(function*(records: Records, head: Head, now: number) {
    const { place } = records
    if (!head.removed) yield* records.set(place.head, { ...head, removed: true, owner: null, updatedAt: now })
    const positions = Array.from({ length: Math.max(head.reach, head.entries + 1) }, (_, position) => position)
    yield* Effect.forEach(positions, (position) => records.remove(place.entry(head.generation, position)), {
      concurrency: 16,
      discard: true
    })
    yield* records.remove(place.head)
    yield* takeFromIndex(records, head.runId)
  })

  const holding = <A>(
    operation: string,
    lease: Lease,
    use: (head: Head, now: number, records: Records) => Effect.Effect<A, CheckpointStoreError>
  ) => {
    const { runId, token } = lease
    const records = at(operation, runId)
    return take(
      `run ${runId}`,
      Effect.gen(function*() {
        const head = yield* headOf(records, runId)
        // Two processes may have been granted the same token.
        if (!isThere(head) || head.token !== token || (head.owner !== null && head.owner !== owner.id)) {
          return yield* records.failure({ _tag: "Fenced", token })
        }
        return yield* use(head, yield* Clock.currentTimeMillis, records)
      })
    )
  }

  const expiryOf = (now: number, ttl: Duration.Duration) =>
    Math.min(Math.ceil(now + Duration.toMillis(ttl)), Number.MAX_SAFE_INTEGER)

  /** The records from a position on, or nothing where one is missing. */
  const readPages = Effect.fnUntraced(function*(records: Records, head: Head, from: number) {
    const { place } = records
    const entries: Array<Entry> = []
    for (let begin = from; begin < head.entries; begin += pageSize) {
      const end = Math.min(begin + pageSize, head.entries)
      const keys = Arr.map(Arr.range(begin, end - 1), (position) => place.entry(head.generation, position))
      for (const [index, value] of (yield* records.getMany(keys)).entries()) {
        if (value === undefined) return undefined
        const { body, step } = yield* records.decoded(Body, keys[index] ?? "", value)
        entries.push({ position: begin + index, step, body })
      }
    }
    return entries
  })

  const isRepeated = Effect.fnUntraced(function*(records: Records, head: Head, entries: ReadonlyArray<Entry>) {
    if (head.from === null || head.from !== entries[0]?.position || head.from + entries.length !== head.entries) {
      return false
    }
    const stored = yield* readPages(records, head, head.from)
    return stored !== undefined &&
      stored.every(({ body, step }, index) => entries[index]?.step === step && entries[index].body === body)
  })

  const read = Effect.fnUntraced(function*(runId: string): Effect.fn.Return<
    ReadonlyArray<Entry>,
    CheckpointStoreError
  > {
    const records = at("read", runId)
    const head = yield* headOf(records, runId)
    if (!isThere(head)) return []
    const entries = yield* readPages(records, head, 0)
    if (entries !== undefined) return entries
    // Removed, and perhaps begun anew, between two pages.
    const after = yield* headOf(records, runId)
    if (!isThere(after) || after.generation !== head.generation) return yield* read(runId)
    return yield* records.corrupt("a record of it is missing, or cannot be read")
  })

  const isStored = ({ get, place }: Records, generation: number) =>
    Effect.map(get(Schema.Unknown, place.entry(generation, 0)), (first) => first !== undefined)

  /**
   * The head of a run that had none a moment ago: one that is missing where a record is stored was lost, unless another
   * process has begun the run since.
   */
  const headAfter = Effect.fnUntraced(function*(records: Records, runId: string) {
    const head = yield* headOf(records, runId)
    if (head !== undefined) return head
    return yield* records.corrupt(`it has records, and the value at "${records.place.head}" is missing`)
  })

  /** Looks once more for a run whose head is not there. */
  const headOfNew = Effect.fnUntraced(function*(records: Records, runId: string) {
    for (const [id, generation] of (yield* records.get(Bucket, records.place.index))?.runs ?? []) {
      if (id === runId && (yield* isStored(records, generation))) return yield* headAfter(records, runId)
    }
    return undefined
  })

  const isLeft = (head: Head, now: number): boolean => {
    if (head.removed) return head.updatedAt + grace <= now
    const since = head.owner === null ? head.updatedAt : Math.max(head.updatedAt, head.expiresAt)
    return head.entries === 0 && since + grace <= now
  }

  /** Removes what a process that was cut off has left of a run, and of none that is at work. */
  const sweep = (runId: string, generation: number) => {
    const records = at("list", runId)
    return take(
      `run ${runId}`,
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const head = yield* headOf(records, runId)
        if (head !== undefined) return isLeft(head, now) ? yield* erase(records, head, now) : undefined
        if (yield* isStored(records, generation)) return yield* headAfter(records, runId)
        yield* takeFromIndex(records, runId)
      })
    ).pipe(Effect.catch((error) => Effect.logError(`what is left of run "${runId}" could not be removed`, error)))
  }

  const index = Effect.fnUntraced(function*() {
    const records = at("list")
    const keys = Arr.map(Arr.range(0, buckets - 1), (bucket) => `index-${bucket}`)
    const many = yield* records.getMany(keys)
    const found = yield* Effect.forEach(keys, (key, n) => {
      const value = many[n]
      const bucket: Effect.Effect<typeof Bucket.Type | undefined, CheckpointStoreError> = value === undefined
        ? records.get(Bucket, key)
        : records.decoded(Bucket, key, value)
      return ifCorrupt(
        Effect.map(bucket, (bucket) => bucket?.runs ?? []),
        (error) => Effect.as(Effect.logError("some runs are left out of the list", error), [])
      )
    })
    return found.flat().toSorted(([, one], [, other]) => one - other)
  })

  return CheckpointStore.of({
    acquire: (runId, ttl, { takeOver = false } = {}) => {
      const records = at("acquire", runId)
      const { place } = records
      return take(
        `run ${runId}`,
        Effect.gen(function*() {
          const before = yield* headOf(records, runId)
          if (before?.removed === true) yield* erase(records, before, before.updatedAt)
          const found = isThere(before) ? before : yield* headOfNew(records, runId)
          const head = isThere(found) ? found : undefined
          const holder = head?.owner ?? null
          const isGone = holder !== null && (yield* owner.isGone(holder))
          const now = yield* Clock.currentTimeMillis
          if (head !== undefined && holder !== null && head.expiresAt > now && !takeOver && !isGone) {
            return yield* records.failure({
              _tag: "LeaseHeld",
              owner: holder,
              expiresAt: head.expiresAt,
              remaining: Duration.millis(head.expiresAt - now)
            })
          }
          const token = yield* nextToken(records, head?.token ?? 0)
          const lease = { token, owner: owner.id, expiresAt: expiryOf(now, ttl), updatedAt: now, from: null }
          if (head !== undefined) {
            const abandoned = holder === null ? 0 : head.abandoned + 1
            // Another process may have written over the index.
            yield* ifCorrupt(
              putInIndex(records, runId, head.generation, now),
              (error) => Effect.logError(`run "${runId}" may be missing in the list`, error)
            )
            yield* records.set(place.head, { ...head, ...lease, abandoned })
            return { runId, token, abandoned }
          }
          yield* putInIndex(records, runId, token, now)
          yield* records.set(
            place.head,
            {
              ...lease,
              runId,
              generation: token,
              status: "running",
              entries: 0,
              reach: 0,
              createdAt: now,
              abandoned: 0,
              removed: false
            } satisfies Head
          )
          return { runId, token, abandoned: 0 }
        })
      )
    },
    renew: (lease, ttl, { recovered = false } = {}) =>
      holding("renew", lease, (head, now, records) =>
        records.set(records.place.head, {
          ...head,
          owner: owner.id,
          expiresAt: expiryOf(now, ttl),
          updatedAt: now,
          ...(recovered ? { abandoned: 0 } : {})
        })),
    release: (lease) =>
      holding("release", lease, (head, now, records) =>
        head.entries === 0
          ? erase(records, head, now)
          : records.set(records.place.head, { ...head, owner: null, expiresAt: 0, updatedAt: now })),
    append: (lease, entries, status) =>
      holding("append", lease, (head, now, records) =>
        Effect.gen(function*() {
          const { position } = entries[0]
          if (position !== head.entries) {
            if (yield* isRepeated(records, head, entries)) return
            return yield* records.failure({ _tag: "PositionTaken", position, length: head.entries })
          }
          const { place } = records
          const end = position + entries.length
          const next = {
            ...head,
            from: position,
            entries: end,
            reach: Math.max(head.reach, end),
            ...(status === undefined ? {} : { status, updatedAt: now })
          }
          // One record that never came to count has a known place; of several, `remove` would not know how many.
          if (entries.length > 1 && end > head.reach) yield* records.set(place.head, { ...head, reach: end })
          const values = Arr.map(
            entries,
            ({ body, position, step }) => [place.entry(head.generation, position), { step, body }] as const
          )
          for (const page of Arr.chunksOf(values, pageSize)) yield* records.setMany(page)
          yield* records.set(place.head, next)
        })),
    read,
    get: (runId) =>
      Effect.map(
        headOf(at("get", runId), runId),
        (head) => isThere(head) && head.entries > 0 ? Option.some(toSummary(head)) : Option.none()
      ),
    list: Effect.fnUntraced(function*({ limit = Infinity, status, updatedBefore = Infinity } = {}) {
      const now = yield* Clock.currentTimeMillis
      const runs: Array<RunSummary> = []
      for (const page of Arr.chunksOf(yield* index(), pageSize)) {
        if (runs.length >= limit) break
        const recordsOf = Arr.map(page, ([runId]) => at("list", runId))
        const many = yield* at("list").getMany(Arr.map(recordsOf, ({ place }) => place.head))
        for (const [n, [runId, generation, since]] of page.entries()) {
          const records = recordsOf[n] ?? at("list", runId)
          const value = many[n]
          // One run that cannot be read must not hide the other runs.
          const found = yield* Effect.result(
            value === undefined ? headOf(records, runId) : records.decoded(Head, records.place.head, value)
          )
          if (found._tag === "Failure") {
            if (found.failure.reason._tag !== "Corrupt") return yield* found.failure
            yield* Effect.logError(`run "${runId}" is left out of the list`, found.failure)
            continue
          }
          const head = found.success
          if (head === undefined ? since + grace <= now : isLeft(head, now)) yield* sweep(runId, generation)
          else if (
            isThere(head) && head.entries > 0 && (status === undefined || head.status === status) &&
            head.updatedAt < updatedBefore
          ) runs.push(toSummary(head))
        }
      }
      return runs.slice(0, limit)
    }),
    remove: (lease) => holding("remove", lease, (head, now, records) => erase(records, head, now))
  })
})

/**
 * Provides a {@link CheckpointStore} on the `BackingPersistence` at hand, see {@link make} for what it promises.
 *
 * **Example** (Keeping runs in a key-value store)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { KeyValueStore, Persistence } from "effect/persistence"
 * import { Checkpoint } from "effect-resilience"
 * import * as PersistenceCheckpointStore from "effect-resilience/durable/stores/PersistenceCheckpointStore"
 *
 * const Live = PersistenceCheckpointStore.layerPersistence().pipe(
 *   Layer.provide(Persistence.layerBackingKvs),
 *   Layer.provide(KeyValueStore.layerMemory)
 * )
 *
 * const program = Effect.succeed("done").pipe(Checkpoint.run({ id: "r" }), Effect.andThen(Checkpoint.list()))
 * const runs = await Effect.runPromise(Effect.provide(program, Live))
 * runs.map((run) => [run.runId, run.status]) // => [["r", "completed"]]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerPersistence = (
  options?: Options
): Layer.Layer<CheckpointStore, CheckpointStoreError, Persistence.BackingPersistence> =>
  Layer.effect(CheckpointStore, make(options))
