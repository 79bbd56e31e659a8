/**
 * Keeps escalations in Redis.
 *
 * **When to use**
 *
 * Use it beside `RedisCheckpointStore`; other processes hear of a decision at once.
 *
 * @since 0.1.0
 */
import * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as config from "../../internal/config.ts"
import * as DrainedRedis from "../../internal/drainedRedis.ts"
import * as EscalationQueue from "../EscalationQueue.ts"
import * as scripts from "../internal/escalationRedisScripts.ts"
import { asOf, changed, isUndelivered } from "../internal/escalationState.ts"
import { isForeign, isUnavailable, warnOfEviction, writer } from "../internal/redisStore.ts"

/**
 * Options of {@link makeStore}.
 *
 * **Details**
 *
 * - `prefix`: what every key in Redis begins with, and the channel on which changes are told; default
 *   `{effect-resilience:escalation}:`. In a Redis Cluster it has to hold a hash tag, the part in braces: all keys of one
 *   queue live in one slot.
 * - `waitReplicas`: how many replicas must have received a change before it is acknowledged; default 0. If they have not
 *   after `waitTimeout`, default 1 second, the operation is `Unavailable`. Such a write takes a connection of the driver's
 *   pool (`Redis.reserve`) and one more round trip.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoreOptions {
  readonly prefix?: string | undefined
  readonly waitReplicas?: number | undefined
  readonly waitTimeout?: Duration.Input | undefined
}

/**
 * Options of {@link layer}: those of {@link StoreOptions} and of `EscalationQueue.make`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends EscalationQueue.Options, StoreOptions {}

const module = "RedisEscalationQueue"

// Enough for one round trip to carry a good part of a queue, and little enough not to keep others waiting.
const pageSize = 100

const RecordText = Schema.fromJsonString(Schema.toCodecJson(EscalationQueue.Escalation))
const encodeRecord = Schema.encodeEffect(RecordText)
const decodeRecord = Schema.decodeEffect(RecordText)

const hasWritten = (answer: unknown): boolean => Array.isArray(answer) && answer[0] !== "changed"

const toReason = ({ cause }: Redis.RedisError): EscalationQueue.FailureReason => {
  if (isUnavailable(cause)) return { _tag: "Unavailable", cause }
  return isForeign(cause)
    ? { _tag: "Corrupt", issue: "a key of the queue in Redis holds a value of another kind" }
    : { _tag: "Rejected", cause }
}

const written = (record: EscalationQueue.Escalation, text: string): scripts.Written => ({
  id: record.id,
  record: text,
  submittedAt: DateTime.toEpochMillis(record.submittedAt),
  expiresAt: record.expiresAt && DateTime.toEpochMillis(record.expiresAt)
})

/**
 * Creates a store on the `Redis` at hand.
 *
 * **Details**
 *
 * Safe for several processes: every change is one script, a compare-and-set that Redis carries out whole or not at all,
 * and all changes have one order. Lists are read in pages of 100 records, so that no other caller of Redis waits for a
 * long one: what is open or claimed from an index of what waits, what is of a run from one of that run. What is over, and
 * what has a reason, is looked for in all that is kept, so `prune` from time to time.
 *
 * Changes are told on a channel, so that streams in other processes hear of them at once. What was told while the
 * connection was away is found by looking, every `pollInterval`.
 *
 * How durable an acknowledged decision is, is for the settings of Redis to say, as with `RedisCheckpointStore.make`. A
 * Redis that evicts keys forgets questions and decisions; building the store warns of it.
 *
 * An option out of range throws `Fault.InvalidConfig`. Fails with `EscalationError` if Redis cannot be asked, or holds the
 * queue of a newer release (`SchemaTooNew`).
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore = Effect.fnUntraced(function*(
  options: StoreOptions = {}
): Effect.fn.Return<EscalationQueue.Store, EscalationQueue.EscalationError, Redis.Redis> {
  const redis = yield* Redis.Redis
  const prefix = config.nonEmpty(module, "prefix", options.prefix ?? "{effect-resilience:escalation}:")
  const writing = writer(module, redis, options, hasWritten)
  const channel = `${prefix}changes`
  const keys: scripts.Keys = {
    store: `${prefix}store`,
    records: `${prefix}records`,
    runs: `${prefix}runs`,
    submitted: `${prefix}submitted`,
    waiting: `${prefix}waiting`,
    revisions: `${prefix}revisions`,
    undecided: `${prefix}undecided`,
    undelivered: `${prefix}undelivered`,
    deadlines: `${prefix}deadlines`,
    ended: `${prefix}ended`
  }
  const runKey = (runId: string) => `${prefix}run:${runId}`

  const failure = (operation: string, id: string | undefined, reason: EscalationQueue.FailureReason) =>
    new EscalationQueue.EscalationError({ operation, ...(id === undefined ? {} : { id }), reason })
  const asked = <A>(operation: string, id: string | undefined, answer: Effect.Effect<A, Redis.RedisError>) =>
    Effect.mapError(answer, (error) => failure(operation, id, toReason(error)))

  const format = yield* asked("open", undefined, redis.send<string | null>("HGET", keys.store, "format"))
  if (Number(format ?? 0) > scripts.knownFormat) {
    return yield* failure("open", undefined, {
      _tag: "SchemaTooNew",
      found: Number(format),
      known: scripts.knownFormat
    })
  }
  yield* warnOfEviction(module, redis)

  const insert = writing(scripts.insert)
  const replace = writing(scripts.replace)
  const remove = writing(scripts.remove)
  const page = redis.eval(scripts.page)
  const waiting = redis.eval(scripts.waiting)
  const old = redis.eval(scripts.old)

  const encode = (operation: string, record: EscalationQueue.Escalation) =>
    Effect.mapError(encodeRecord(record), (cause) => failure(operation, record.id, { _tag: "Rejected", cause }))
  const decode = (id: string, text: string) => {
    const [, revision, json = ""] = /^(\d+):(.*)$/s.exec(text) ?? []
    return decodeRecord(json).pipe(
      Effect.map((record) => changed(record, { revision: Number(revision) })),
      Effect.mapError(({ message: issue }) => failure("read", id, { _tag: "Corrupt", issue }))
    )
  }
  const readable = ([id, , text]: readonly [id: string, place: string, record: string]) =>
    Effect.option(Effect.tapError(decode(id, text), (error) => Effect.logWarning(error.message)))

  /** Those of an index by time that fit, the oldest first. */
  const search = Effect.fnUntraced(function*(
    index: string,
    limit: number,
    fits: (record: EscalationQueue.Escalation) => boolean
  ): Effect.fn.Return<ReadonlyArray<EscalationQueue.Escalation>, EscalationQueue.EscalationError> {
    const found: Array<EscalationQueue.Escalation> = []
    let from = "-inf"
    let size = pageSize
    // Several may have one time, and some of them were on the last page.
    let seen = new Set<string>()
    while (true) {
      const some = yield* asked("list", undefined, page(index, keys.records, from, "+inf", size))
      const fresh = some.filter(([id]) => !seen.has(id))
      for (const row of fresh) {
        const record = yield* readable(row)
        if (record._tag === "Some" && fits(record.value)) found.push(record.value)
        if (found.length === limit) return found
      }
      const last = some.at(-1)?.[1]
      if (last === undefined || some.length < size) return found
      size = last === from ? size * 2 : pageSize
      seen = new Set(some.filter(([, place]) => place === last).map(([id]) => id))
      from = last
    }
  })

  return {
    insert: Effect.fnUntraced(function*(record) {
      const { id, runId } = record
      const text = yield* encode("submit", record)
      const run = { key: runKey(runId ?? ""), id: runId }
      const answer = yield* asked("submit", id, insert(keys, channel, run, written(record, text)))
      return answer[0] === "found"
        ? { record: yield* decode(id, answer[1]), inserted: false }
        : { record: changed(record, { revision: Number(answer[1]) }), inserted: true }
    }),
    find: (id) =>
      Effect.flatMap(
        asked("get", id, redis.send<string | null>("HGET", keys.records, id)),
        (found) => found === null ? Effect.undefined : decode(id, found)
      ),
    replace: Effect.fnUntraced(function*(record) {
      const { closed, id, resolution, revision } = record
      const text = yield* encode("change", record)
      const end = resolution?.at ?? closed?.at
      const outcome = { endedAt: end && DateTime.toEpochMillis(end), undelivered: isUndelivered(record) }
      const answer = yield* asked("change", id, replace(keys, channel, revision, outcome, written(record, text)))
      return answer[0] === "changed" ? undefined : changed(record, { revision: Number(answer[1]) })
    }),
    select: ({ limit, now, reason, runId, status }) => {
      const isWaiting = status === "open" || status === "claimed"
      const index = runId !== undefined ? runKey(runId) : isWaiting ? keys.waiting : keys.submitted
      return search(index, limit, (record) =>
        (reason === undefined || record.reason === reason) &&
        (runId === undefined || record.runId === runId) &&
        (status === undefined || asOf(record, now).status === status))
    },
    waiting: (now) =>
      Effect.map(
        asked("depth", undefined, waiting(keys.waiting, keys.deadlines, now)),
        ([count, oldest]) => ({ count: Number(count), oldest: oldest === "" ? undefined : Number(oldest) })
      ),
    overdue: Effect.fnUntraced(function*(now, { limit }) {
      const rows = yield* asked("expire", undefined, page(keys.deadlines, keys.records, "-inf", String(now), limit))
      return (yield* Effect.forEach(rows, readable)).flatMap((record) => record._tag === "Some" ? [record.value] : [])
    }),
    revision: Effect.map(
      asked("changes", undefined, redis.send<string | null>("HGET", keys.store, "revision")),
      (revision) => Number(revision ?? 0)
    ),
    changedSince: Effect.fnUntraced(function*(revision, { limit, only }) {
      const index = only === "all" ? keys.revisions : keys[only]
      const rows = yield* asked("changes", undefined, page(index, keys.records, `(${revision}`, "+inf", limit))
      const records = yield* Effect.forEach(rows, readable)
      return {
        records: records.flatMap((record) => record._tag === "Some" ? [record.value] : []),
        revision: Number(rows.at(-1)?.[1] ?? revision)
      }
    }),
    prune: Effect.fnUntraced(function*(before) {
      let pruned = 0
      while (true) {
        const rows = yield* asked("prune", undefined, old(keys, before, pageSize))
        if (rows.length === 0) return pruned
        const runKeys = rows.map(([, run]) => runKey(run))
        const ids = rows.map(([id]) => id)
        const [, removed] = yield* asked("prune", undefined, remove(keys, runKeys, before, ids))
        if (removed === "0") return pruned
        pruned += Number(removed)
      }
    }),
    listen: Stream.unwrap(
      Effect.map(redis.subscribe(channel), (messages) =>
        // What came before the subscription was not told.
        Stream.concat(Stream.make(undefined), Stream.fromQueue(messages)))
    ).pipe(Stream.mapError((error) => failure("changes", undefined, toReason(error))))
  }
})

/**
 * Provides an `EscalationQueue` in Redis, which several processes share.
 *
 * **Details**
 *
 * The driver is yours: any layer of `effect/persistence/Redis`, such as `NodeRedis.layer` of `@effect/platform-node`.
 *
 * `pollInterval` is how often the streams look for changes that they have not been told of. Default: 5 seconds.
 *
 * **Gotchas**
 *
 * A node-redis client that has lost its connection holds back what it is asked for 5 seconds (`commandOptions.timeout`).
 * This layer closes when nothing is asked any more, 10 seconds after it is told to at most, and the client after it. With
 * `disableOfflineQueue: true`, as below, an operation fails at once while Redis is away.
 *
 * **Example** (Sharing a queue between processes)
 *
 * ```ts import.meta.vitest
 * import { NodeRedis } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
 * import * as RedisEscalationQueue from "effect-resilience/durable/stores/RedisEscalationQueue"
 *
 * export const Live = Layer.merge(RedisEscalationQueue.layer(), RedisCheckpointStore.layer()).pipe(
 *   Layer.provide(NodeRedis.layer({ url: "redis://127.0.0.1:6379", disableOfflineQueue: true }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (
  options: Options = {}
): Layer.Layer<EscalationQueue.EscalationQueue, EscalationQueue.EscalationError, Redis.Redis> =>
  Layer.effect(
    EscalationQueue.EscalationQueue,
    Effect.flatMap(makeStore(options), (store) =>
      EscalationQueue.make({ ...options, pollInterval: options.pollInterval ?? "5 seconds", store }))
  ).pipe(Layer.provide(DrainedRedis.layer))
