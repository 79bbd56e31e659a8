/**
 * Keeps the results of `Idempotency` in Redis.
 *
 * **When to use**
 *
 * Use it beside `RedisCheckpointStore`, or where processes on several hosts make the same calls.
 *
 * @since 0.1.0
 */
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"
import * as config from "../../internal/config.ts"
import * as DrainedRedis from "../../internal/drainedRedis.ts"
import * as Idempotency from "../Idempotency.ts"
import { isUnavailable, warnOfEviction, writer } from "../internal/redisStore.ts"

/**
 * Options of {@link makeStore}.
 *
 * **Details**
 *
 * - `prefix`: what every key in Redis begins with; default `{effect-resilience:idempotency}:`. In a Redis Cluster it has
 *   to hold a hash tag, the part in braces: all keys of one store live in one slot.
 * - `waitReplicas`: how many replicas must have received a result before it counts as recorded; default 0. If they have
 *   not after `waitTimeout`, default 1 second, recording it is `Unavailable`. Such a write takes a connection of the
 *   driver's pool (`Redis.reserve`) and one more round trip.
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
 * Options of {@link layer}: those of {@link StoreOptions} and of `Idempotency.make`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Idempotency.Options, StoreOptions {}

const module = "RedisIdempotency"

// A result is the version of its layout, its times and its outcome.
const knownFormat = 1

const toRecord = ({ expiresAt, outcome, recordedAt }: Idempotency.Entry): string =>
  `${knownFormat}:${recordedAt}:${expiresAt}:${outcome}`

const toEntry = (record: string): Idempotency.Entry | "newer" | "corrupt" => {
  const [, format, recordedAt, expiresAt, outcome] = /^(\d+):([^:]+):([^:]+):(.*)$/s.exec(record) ?? []
  if (Number(format) > knownFormat) return "newer"
  const entry = { outcome: outcome ?? "", recordedAt: Number(recordedAt), expiresAt: Number(expiresAt) }
  return Number.isFinite(entry.recordedAt) && Number.isFinite(entry.expiresAt) ? entry : "corrupt"
}

// A scope is a hash of its results and, for the sweeping, a sorted set of when they expire. Both go with the last of them.
const put = Redis.script(
  (results: string, expiry: string, key: string, entry: Idempotency.Entry) => [
    results,
    expiry,
    key,
    toRecord(entry),
    entry.recordedAt,
    entry.expiresAt,
    Math.ceil(entry.expiresAt - entry.recordedAt)
  ],
  {
    numberOfKeys: 2,
    lua: `
local found = redis.call("HGET", KEYS[1], ARGV[1])
if found then
  local expiresAt = tonumber(string.match(found, "^${knownFormat}:[^:]+:([^:]+):") or "")
  if not expiresAt then return {"foreign", found} end
  if expiresAt > tonumber(ARGV[3]) then
    -- Written once more, so that this connection has something to wait for where replicas have to have it.
    redis.call("HSET", KEYS[1], ARGV[1], found)
    return {"kept", found}
  end
end
local left = redis.call("PTTL", KEYS[1])
local expired = redis.call("ZRANGEBYSCORE", KEYS[2], "-inf", ARGV[3], "LIMIT", 0, 100)
for _, key in ipairs(expired) do
  redis.call("HDEL", KEYS[1], key)
  redis.call("ZREM", KEYS[2], key)
end
redis.call("ZADD", KEYS[2], ARGV[4], ARGV[1])
redis.call("HSET", KEYS[1], ARGV[1], ARGV[2])
local wanted = tonumber(ARGV[5])
for _, key in ipairs(KEYS) do
  if wanted > 1e14 then
    redis.call("PERSIST", key)
  elseif left ~= -1 then
    redis.call("PEXPIRE", key, string.format("%.0f", math.max(wanted, left, 1)))
  end
end
return {"put"}
`
  }
).withReturnType<readonly ["put"] | readonly ["kept", record: string] | readonly ["foreign", record: string]>()

const hasWritten = (answer: unknown): boolean => Array.isArray(answer) && answer[0] !== "foreign"

/**
 * Creates a store on the `Redis` at hand.
 *
 * **Details**
 *
 * Safe for several processes: a result is recorded by one script, which keeps the first. Results expire by the clocks of
 * the callers; each recorded one also removes those of its scope that have expired, and Redis forgets a scope with the
 * last of them.
 *
 * How durable a recorded result is, is for the settings of Redis to say, as with `RedisCheckpointStore.make`. A Redis that
 * evicts keys forgets the results of a whole scope, and their calls would be executed again; building the store warns of
 * it.
 *
 * An option out of range throws `Fault.InvalidConfig`.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore = Effect.fnUntraced(function*(
  options: StoreOptions = {}
): Effect.fn.Return<Idempotency.Store, never, Redis.Redis> {
  const redis = yield* Redis.Redis
  const prefix = config.nonEmpty(module, "prefix", options.prefix ?? "{effect-resilience:idempotency}:")
  const record = writer(module, redis, options, hasWritten)(put)
  yield* warnOfEviction(module, redis)

  const resultsOf = (scope: string) => `${prefix}results:${scope}`
  const expiryOf = (scope: string) => `${prefix}expiry:${scope}`

  type Operation = Idempotency.IdempotencyStoreError["operation"]

  const asked = <A>(operation: Operation, scope: string, answer: Effect.Effect<A, Redis.RedisError>) =>
    Effect.mapError(answer, ({ cause }) =>
      new Idempotency.IdempotencyStoreError({
        operation,
        scope,
        reason: isUnavailable(cause) ? "Unavailable" : "Rejected",
        cause
      }))

  const decode = Effect.fnUntraced(function*(operation: Operation, scope: string, key: string, record: string) {
    const entry = toEntry(record)
    if (typeof entry === "object") return entry
    return yield* new Idempotency.IdempotencyStoreError({
      operation,
      scope,
      ...(entry === "newer"
        ? { reason: "SchemaTooNew", cause: new Error(`the result ${key} was recorded by a newer release`) }
        : { reason: "Rejected", cause: new Error(`the record ${key} in Redis is none of this store`) })
    })
  })

  return {
    get: (scope, key) =>
      Effect.flatMap(
        asked("lookup", scope, redis.send<string | null>("HGET", resultsOf(scope), key)),
        (found) => found === null ? Effect.undefined : decode("lookup", scope, key, found)
      ),
    put: (scope, key, entry) =>
      Effect.flatMap(
        asked("record", scope, record(resultsOf(scope), expiryOf(scope), key, entry)),
        (answer) => answer[0] === "put" ? Effect.succeed(entry) : decode("record", scope, key, answer[1])
      ),
    clear: (scope) => Effect.asVoid(asked("clear", scope, redis.send("UNLINK", resultsOf(scope), expiryOf(scope))))
  }
})

/**
 * Provides an `Idempotency` whose results are in Redis, for 30 days unless `timeToLive` says otherwise.
 *
 * **Details**
 *
 * The driver is yours: any layer of `effect/persistence/Redis`, such as `NodeRedis.layer` of `@effect/platform-node`.
 *
 * **Gotchas**
 *
 * A node-redis client that has lost its connection holds back what it is asked for 5 seconds (`commandOptions.timeout`).
 * This layer closes when nothing is asked any more, 10 seconds after it is told to at most, and the client after it. With
 * `disableOfflineQueue: true`, as below, an operation fails at once while Redis is away.
 *
 * **Example** (Sharing results between processes)
 *
 * ```ts import.meta.vitest
 * import { NodeRedis } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import * as RedisIdempotency from "effect-resilience/durable/stores/RedisIdempotency"
 *
 * export const Live = RedisIdempotency.layer({ timeToLive: "7 days" }).pipe(
 *   Layer.provide(NodeRedis.layer({ url: "redis://127.0.0.1:6379", disableOfflineQueue: true }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<Idempotency.Idempotency, never, Redis.Redis> =>
  Layer.effect(
    Idempotency.Idempotency,
    Effect.flatMap(makeStore(options), (store) => Idempotency.make({ ...options, store }))
  ).pipe(Layer.provide(DrainedRedis.layer))
