/**
 * A real Redis for tests: the one at `REDIS_URL`, by default on loopback. Where none answers, the suites that need it are
 * skipped and say so; in CI they fail.
 */
import { NodeRedis } from "@effect/platform-node"
import { describe } from "@effect/vitest"
import { Context, Effect, Layer, type Scope } from "effect"
import { Redis } from "effect/persistence"
import { randomUUID } from "node:crypto"
import { createClient } from "redis"
import { redisUrl } from "./servers.ts"

const silence = async (): Promise<string | undefined> => {
  const client = createClient({ url: redisUrl, socket: { reconnectStrategy: false, connectTimeout: 1_000 } })
  // It is told by `connect`, too.
  client.on("error", () => undefined)
  try {
    await client.connect()
    await client.ping()
    return undefined
  } catch (error) {
    return String(error)
  } finally {
    if (client.isOpen) client.destroy()
  }
}

const why = await silence()

/** A suite that needs Redis. */
export const describeWithRedis = (name: string, suite: () => void): void => {
  if (why === undefined || process.env["CI"] === "true") {
    describe(name, suite)
    return
  }
  console.warn(`SKIPPED, NOT TESTED: ${name}. No Redis answers at ${redisUrl} (REDIS_URL): ${why}`)
  describe.skip(name, suite)
}

/** A connection of its own. */
export const connectRedis = (
  url: string = redisUrl
): Effect.Effect<Redis.Redis["Service"], Redis.RedisError, Scope.Scope> =>
  Effect.map(Layer.build(NodeRedis.layer({ url })), Context.get(Redis.Redis))

/** The keys in Redis that begin like this. */
export const keysOf = (redis: Redis.Redis["Service"], prefix: string) =>
  Effect.gen(function*() {
    const keys: Array<string> = []
    let cursor = "0"
    do {
      const page = yield* redis.send<readonly [string, ReadonlyArray<string>]>("SCAN", cursor, "COUNT", "1000")
      keys.push(...page[1].filter((key) => key.startsWith(prefix)))
      cursor = page[0]
    } while (cursor !== "0")
    return [...new Set(keys)].toSorted()
  })

/** A prefix that nobody else uses. What begins with it goes when the scope does. */
export const redisPrefix: Effect.Effect<string, Redis.RedisError, Scope.Scope> = Effect.gen(function*() {
  const redis = yield* connectRedis()
  return yield* Effect.acquireRelease(
    Effect.sync(() => `effect-resilience-test:${randomUUID()}:`),
    (prefix) =>
      Effect.flatMap(keysOf(redis, prefix), (keys) => keys.length === 0 ? Effect.void : redis.send("DEL", ...keys))
        .pipe(
          Effect.orDie
        )
  )
})
