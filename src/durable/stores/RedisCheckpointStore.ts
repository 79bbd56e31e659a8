/**
 * Keeps the journals of runs in Redis.
 *
 * **When to use**
 *
 * Use it where several hosts share the work and Redis is what they have. It is as durable as the `appendfsync` of the
 * server.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Redis from "effect/persistence/Redis"
import * as Schema from "effect/Schema"
import * as config from "../../internal/config.ts"
import * as DrainedRedis from "../../internal/drainedRedis.ts"
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
import * as scripts from "../internal/checkpointRedisScripts.ts"
import { isForeign, isUnavailable, warnOfEviction, writer } from "../internal/redisStore.ts"

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `prefix`: what every key in Redis begins with; default `{effect-resilience:checkpoint}:`. Stores with prefixes of
 *   their own know nothing of each other. In a Redis Cluster it has to hold a hash tag, the part in braces: all keys of
 *   one store live in one slot.
 * - `owner`: who takes leases; default a random name per layer.
 * - `waitReplicas`: how many replicas must have received a lease, a record or a removal before it is acknowledged;
 *   default 0. If they have not after `waitTimeout`, default 1 second, the operation is `Unavailable`. Such a write takes
 *   a connection of the driver's pool (`Redis.reserve`) and one more round trip.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly prefix?: string | undefined
  readonly owner?: LeaseOwner | undefined
  readonly waitReplicas?: number | undefined
  readonly waitTimeout?: Duration.Input | undefined
}

type Reason = typeof CheckpointStoreReason.Type

const module = "RedisCheckpointStore"

// Enough for one round trip to carry a good part of a journal, and little enough not to keep others waiting.
const pageSize = 100

const facts = ["status", "entries", "createdAt", "updatedAt", "owner", "expiresAt"]
const Facts = Schema.Tuple([
  RunStatus,
  Schema.FiniteFromString,
  Schema.FiniteFromString,
  Schema.FiniteFromString,
  Schema.NullOr(Schema.String),
  Schema.NullOr(Schema.FiniteFromString)
])
const decodeFacts = Schema.decodeUnknownEffect(Facts)

const toSummary = (
  runId: string,
  [status, entries, createdAt, updatedAt, owner, expiresAt]: typeof Facts.Type
): RunSummary => ({
  runId,
  status,
  entries,
  createdAt,
  updatedAt,
  lease: owner === null || expiresAt === null ? undefined : { owner, expiresAt }
})

// A step may hold any character, so its length comes first.
const toRecord = ({ body, step }: Entry): string => `${step.length}:${step}${body}`

const toEntry = (record: string, position: number): Entry | undefined => {
  const head = /^(\d+):/.exec(record)
  if (head === null) return undefined
  const begin = head[0].length
  const end = begin + Number(head[1])
  return end > record.length ? undefined : { position, step: record.slice(begin, end), body: record.slice(end) }
}

// Redis does nothing else meanwhile, and a driver hands all of them over as arguments of one call.
const mostAtOnce = 50_000

// Longer than any lease, and short enough for Redis to reckon with.
const longest = 1e14

const toMillis = (ttl: Duration.Duration): string => String(Math.min(Math.ceil(Duration.toMillis(ttl)), longest))

const hasWritten = (answer: unknown): boolean =>
  Array.isArray(answer) && (answer[0] === "done" || answer[0] === "granted")

const toReason = ({ cause }: Redis.RedisError): Reason => {
  if (isUnavailable(cause)) return { _tag: "Unavailable", cause }
  return isForeign(cause)
    ? { _tag: "Corrupt", detail: "a key of it in Redis holds a value of another kind" }
    : { _tag: "Rejected", cause }
}

/**
 * Creates a store on the `Redis` at hand.
 *
 * **Details**
 *
 * Every change is one script, which Redis carries out whole or not at all. Leases are measured by the clock of the
 * Redis server, so that hosts whose clocks differ agree on who holds a run.
 *
 * What an acknowledged record is worth is for the settings of Redis to say:
 *
 * - `appendonly yes`, `appendfsync always`: it is on the disk, as in a database.
 * - `appendonly yes`, `appendfsync everysec`: it survives the end of the Redis process; the end of its machine takes the
 *   last second with it, two when the disk is busy.
 * - Snapshots alone: the end of Redis takes all that came after the last one.
 * - Replicas follow later. A failover loses what the new primary had not received. With `waitReplicas` so many have a
 *   record in memory before it is acknowledged; it is not said that one of those is made the primary.
 * - `maxmemory-policy` must be `noeviction`, or one of the `volatile-` ones. Otherwise Redis throws runs away to make
 *   room, whole ones, and they start anew. Building the store warns of it.
 *
 * Where Redis has lost the end of a journal, the run goes on from what is left, and executes the lost steps again; a
 * holder that was at work is stopped at its next record (`Fenced`, `PositionTaken`).
 *
 * A full Redis (`OOM`), one that loads, fails over or does not answer, and a lost connection are `Unavailable`. What was
 * under way then may have been written, and can be asked for again. A value that this store has not written, or an
 * incomplete journal, is `Corrupt`; what Redis refuses for good, as with `NOAUTH`, `NOPERM` and `CROSSSLOT`, is `Rejected`.
 *
 * An append takes 50,000 records at most.
 *
 * A run that was given a lease and never a record is forgotten a day after the lease ran out.
 *
 * An option out of range throws `Fault.InvalidConfig`. Fails with `CheckpointStoreError` if Redis cannot be asked, or
 * holds the runs of a newer release (`SchemaTooNew`).
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const redis = yield* Redis.Redis
  const prefix = config.nonEmpty(module, "prefix", options.prefix ?? "{effect-resilience:checkpoint}:")
  const writing = writer(module, redis, options, hasWritten)
  const owner = options.owner ?? (yield* anonymousOwner)

  const storeKey = `${prefix}store`
  const indexKey = `${prefix}runs`
  const runKey = (runId: string) => `${prefix}run:${runId}`

  const failure = (operation: string, runId: string | undefined, reason: Reason) =>
    new CheckpointStoreError({ operation, reason, ...(runId === undefined ? {} : { runId }) })

  const asked = <A>(operation: string, runId: string | undefined, answer: Effect.Effect<A, Redis.RedisError>) =>
    Effect.mapError(answer, (error) => failure(operation, runId, toReason(error)))

  const corrupt = (operation: string, runId: string, detail: string) =>
    failure(operation, runId, { _tag: "Corrupt", detail: `in Redis, ${detail}` })

  const refused = (operation: string, { runId, token }: Lease, answer: scripts.Refused) =>
    answer[0] === "fenced"
      ? failure(operation, runId, { _tag: "Fenced", token })
      : corrupt(operation, runId, answer[1])

  const held = (
    operation: string,
    lease: Lease,
    answer: Effect.Effect<readonly ["done"] | scripts.Refused, Redis.RedisError>
  ): Effect.Effect<void, CheckpointStoreError> =>
    Effect.flatMap(
      asked(operation, lease.runId, answer),
      (answer) => answer[0] === "done" ? Effect.void : Effect.fail(refused(operation, lease, answer))
    )

  const format = yield* asked("open", undefined, redis.send<string | null>("HGET", storeKey, "format"))
  if (Number(format ?? 0) > scripts.knownFormat) {
    return yield* failure("open", undefined, {
      _tag: "SchemaTooNew",
      found: Number(format),
      known: scripts.knownFormat
    })
  }
  yield* warnOfEviction(module, redis)

  const acquire = writing(scripts.acquire)
  const append = writing(scripts.append)
  const remove = writing(scripts.remove)
  const renew = redis.eval(scripts.renew)
  const release = redis.eval(scripts.release)
  const page = redis.eval(scripts.page)

  const find = (operation: string, runId: string) =>
    Effect.gen(function*() {
      const found = yield* asked(
        operation,
        runId,
        redis.send<ReadonlyArray<string | null>>("HMGET", runKey(runId), ...facts)
      )
      if (found.every((fact) => fact === null)) return Option.none()
      const known = yield* Effect.mapError(decodeFacts(found), (error) => corrupt(operation, runId, error.message))
      return Option.some(toSummary(runId, known))
    })

  const read = Effect.fnUntraced(function*(runId: string): Effect.fn.Return<
    ReadonlyArray<Entry>,
    CheckpointStoreError
  > {
    const entries: Array<Entry> = []
    const get = (fields: ReadonlyArray<string>) =>
      asked("read", runId, redis.send<ReadonlyArray<string | null>>("HMGET", runKey(runId), ...fields))
    const [length, born] = yield* get(["entries", "born"])
    if (length === null && born === null) return entries
    if (!/^\d+$/.test(length ?? "")) return yield* corrupt("read", runId, "the length of its journal is not there")
    while (entries.length < Number(length)) {
      const begin = entries.length
      const size = Math.min(pageSize, Number(length) - begin)
      const positions = Array.from({ length: size }, (_, index) => String(begin + index))
      const [sameBorn, ...records] = yield* get(["born", ...positions])
      // Removed, and perhaps begun anew, between two pages.
      if (sameBorn !== born) return yield* read(runId)
      for (const [index, record] of records.entries()) {
        const entry = record === null ? undefined : toEntry(record, begin + index)
        if (entry === undefined) {
          return yield* corrupt("read", runId, `its record ${begin + index} is not there or not one of this store`)
        }
        entries.push(entry)
      }
    }
    return entries
  })

  return CheckpointStore.of({
    acquire: Effect.fnUntraced(function*(runId, ttl, { takeOver = false } = {}) {
      const ask = (gone: string) =>
        asked(
          "acquire",
          runId,
          acquire(runKey(runId), storeKey, { owner: owner.id, ttl: toMillis(ttl), takeOver, gone })
        )
      const first = yield* ask("")
      const isGone = first[0] === "held" && (yield* owner.isGone(first[2]))
      // Bound to the lease that was seen: another one may have been granted since.
      const answer = isGone ? yield* ask(first[1]) : first
      switch (answer[0]) {
        case "granted":
          return { runId, token: Number(answer[1]), abandoned: Number(answer[2]) }
        case "held": {
          const [, , holder, expiresAt, remaining] = answer
          return yield* failure("acquire", runId, {
            _tag: "LeaseHeld",
            owner: holder,
            expiresAt: Number(expiresAt),
            remaining: Duration.millis(Number(remaining))
          })
        }
        case "corrupt":
          return yield* corrupt("acquire", runId, answer[1])
      }
    }),
    renew: (lease, ttl, { recovered = false } = {}) =>
      held("renew", lease, renew(runKey(lease.runId), lease.token, owner.id, toMillis(ttl), recovered)),
    release: (lease) => held("release", lease, release(runKey(lease.runId), lease.token, owner.id)),
    append: Effect.fnUntraced(function*(lease, entries, status) {
      const { runId } = lease
      const { position } = entries[0]
      if (entries.length > mostAtOnce) {
        const cause = new Error(`an append takes ${mostAtOnce} records at once, not ${entries.length}`)
        return yield* failure("append", runId, { _tag: "Rejected", cause })
      }
      const answer = yield* asked(
        "append",
        runId,
        append(runKey(runId), indexKey, lease, owner.id, position, status ?? "", entries.map(toRecord))
      )
      if (answer[0] === "done") return
      if (answer[0] !== "taken") return yield* refused("append", lease, answer)
      return yield* failure("append", runId, { _tag: "PositionTaken", position, length: Number(answer[1]) })
    }),
    read,
    get: (runId) => Effect.map(find("get", runId), (found) => Option.filter(found, ({ entries }) => entries > 0)),
    list: Effect.fnUntraced(function*({ limit = Infinity, status, updatedBefore = Infinity } = {}) {
      const runs: Array<RunSummary> = []
      let after = "-inf"
      while (runs.length < limit) {
        const found = yield* asked("list", undefined, page(indexKey, after, pageSize))
        const ids = found.filter((_, index) => index % 2 === 0)
        // All of a page in one go; one run that cannot be read must not hide the other runs.
        const summaries = yield* Effect.forEach(ids, (runId) =>
          Effect.catchIf(
            find("list", runId),
            ({ reason }) => reason._tag === "Corrupt",
            (error) => Effect.as(Effect.logError(`run "${runId}" is left out of the list`, error), Option.none())
          ), { concurrency: "unbounded" })
        for (const summary of summaries) {
          if (Option.isNone(summary)) continue
          const run = summary.value
          if ((status === undefined || run.status === status) && run.updatedAt < updatedBefore) runs.push(run)
        }
        if (ids.length < pageSize) break
        after = `(${found.at(-1)}`
      }
      return runs.slice(0, limit)
    }),
    remove: (lease) => held("remove", lease, remove(runKey(lease.runId), indexKey, lease, owner.id))
  })
})

/**
 * Provides a {@link CheckpointStore} on the `Redis` at hand, see {@link make}.
 *
 * **Details**
 *
 * The driver is yours: any layer of `effect/persistence/Redis`, such as `NodeRedis.layer` of `@effect/platform-node`.
 *
 * **Gotchas**
 *
 * A node-redis client that has lost its connection holds back what it is asked for 5 seconds (`commandOptions.timeout`).
 * This layer closes when nothing is asked any more, 10 seconds after it is told to at most, and the client after it. With
 * `disableOfflineQueue: true`, as below, an operation fails at once while Redis is away. A run whose record is not taken stops
 * then, to be resumed.
 *
 * **Example** (Keeping runs in Redis)
 *
 * ```ts import.meta.vitest
 * import { NodeRedis } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
 *
 * export const Live = RedisCheckpointStore.layer({ prefix: "{my-agents}:" }).pipe(
 *   Layer.provide(NodeRedis.layer({ url: "redis://127.0.0.1:6379", disableOfflineQueue: true }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<CheckpointStore, CheckpointStoreError, Redis.Redis> =>
  Layer.provide(Layer.effect(CheckpointStore, make(options)), DrainedRedis.layer)
