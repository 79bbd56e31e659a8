import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Redis from "effect/persistence/Redis"
import * as Predicate from "effect/Predicate"
import * as config from "../../internal/config.ts"

/**
 * The clock of the server, and whole numbers as text, which Lua would write as `1.7e+12`.
 *
 * @internal
 */
export const prelude = `
local time = redis.call("TIME")
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function text(n) return string.format("%.0f", n) end
`

const textOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

/** The first word of what the server answers; nothing for what the driver itself says of its connection. */
const codeOf = (cause: unknown): string | undefined =>
  // Errors of the system name themselves the same way, as in "EPIPE".
  Predicate.hasProperty(cause, "code") && typeof cause.code === "string"
    ? undefined
    : /^-?([A-Z][A-Z0-9]+)\b/.exec(textOf(cause))?.[1]

// It starts, is busy or full, has become a replica, misses its replicas, cannot write its disk, or its cluster moves.
const later = new Set(
  ("LOADING BUSY OOM READONLY MASTERDOWN NOREPLICAS MISCONF CLUSTERDOWN TRYAGAIN MOVED ASK NOSCRIPT UNBLOCKED").split(
    " "
  )
)

// Redis 6 wraps what a script ran into.
const laterInScript = /-(?:OOM|READONLY|MISCONF|NOREPLICAS|MASTERDOWN)\b|max number of clients/

/**
 * Whether Redis could not do it now, and may later: no answer, a lost connection, and all that passes by itself.
 *
 * @internal
 */
export const isUnavailable = (cause: unknown): boolean => {
  const code = codeOf(cause)
  return code === undefined || later.has(code) || laterInScript.test(textOf(cause))
}

/**
 * Whether a key holds another kind of value than the one this code writes.
 *
 * @internal
 */
export const isForeign = (cause: unknown): boolean => /(?:^|-)WRONGTYPE\b/.test(textOf(cause))

/** @internal */
export const replicaDefaults = { waitReplicas: 0, waitTimeout: "1 second" } as const

/** @internal */
export interface ReplicaOptions {
  readonly waitReplicas?: number | undefined
  readonly waitTimeout?: Duration.Input | undefined
}

/**
 * How scripts that write are run: with `waitReplicas`, each on a connection of its own on which Redis is then asked how
 * many replicas have it, so that no other caller waits too. `hasWritten` tells by the answer whether there is anything to
 * wait for.
 *
 * @internal
 */
export const writer = (
  module: string,
  redis: Redis.Redis["Service"],
  options: ReplicaOptions,
  hasWritten: (answer: unknown) => boolean
): Redis.Redis["Service"]["eval"] => {
  const replicas = config.integer(module, "waitReplicas", options.waitReplicas ?? replicaDefaults.waitReplicas, 0)
  const timeout = config.duration(module, "waitTimeout", options.waitTimeout ?? replicaDefaults.waitTimeout, {
    minimum: "1 millis"
  })
  if (replicas === 0) return redis.eval
  const millis = String(Math.ceil(Duration.toMillis(timeout)))
  return (script) => (...params) =>
    Effect.scoped(Effect.gen(function*() {
      const connection = yield* redis.reserve
      const answer = yield* connection.eval(script)(...params)
      if (!hasWritten(answer)) return answer
      const reached = yield* connection.send<number>("WAIT", String(replicas), millis)
      if (reached >= replicas) return answer
      const late = `${reached} of ${replicas} replicas have it after ${Duration.format(timeout)}`
      return yield* new Redis.RedisError({ cause: new Cause.TimeoutError(late) })
    }))
}

/**
 * Warns once of a server that may throw away what it was given to keep.
 *
 * @internal
 */
export const warnOfEviction = (module: string, redis: Redis.Redis["Service"]): Effect.Effect<void> =>
  redis.send<unknown>("INFO", "memory").pipe(
    Effect.flatMap((info) => {
      const policy = /^maxmemory_policy:(\S+)/m.exec(String(info))?.[1]
      return policy?.startsWith("allkeys-") === true
        ? Effect.logWarning(
          `${module}: Redis evicts keys (maxmemory-policy ${policy}); set noeviction, or it forgets runs`
        )
        : Effect.void
    }),
    // Where INFO is not allowed, nobody can tell.
    Effect.ignore
  )
