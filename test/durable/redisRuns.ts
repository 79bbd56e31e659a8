import { NodeRedis } from "@effect/platform-node"
import { Context, Duration, Effect, Layer } from "effect"
import type { CheckpointStore } from "effect-resilience"
import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
import { Redis } from "effect/persistence"
import { keysOf, redisPrefix } from "../support/redis.ts"
import { redisUrl } from "../support/servers.ts"

/** What the keys of a test begin with. */
export class Prefix extends Context.Service<Prefix, string>()("test/durable/Prefix") {}

/** A store on a Redis connection, under a prefix. */
export const storeOn = (
  redis: Redis.Redis["Service"],
  options: RedisCheckpointStore.Options
): Effect.Effect<CheckpointStore.CheckpointStore["Service"], CheckpointStore.CheckpointStoreError> =>
  Effect.provideService(RedisCheckpointStore.make(options), Redis.Redis, redis)

/** A store that holds nothing, on a connection of its own. */
export const onRedis = Layer.unwrap(Effect.map(redisPrefix, (prefix) =>
  RedisCheckpointStore.layer({ prefix }).pipe(
    Layer.provideMerge(Layer.merge(NodeRedis.layer({ url: redisUrl }), Layer.succeed(Prefix, prefix)))
  )))

const setBack = Redis.script((keys: ReadonlyArray<string>, millis: number) => [...keys, millis], {
  numberOfKeys: (keys) => keys.length,
  lua: `
for _, key in ipairs(KEYS) do
  for _, time in ipairs({"createdAt", "updatedAt", "expiresAt"}) do
    if redis.call("HEXISTS", key, time) == 1 then redis.call("HINCRBY", key, time, -tonumber(ARGV[1])) end
  end
end
`
})

/** Lets time go by for the runs in Redis, whose clock nobody moves: sets back what is stored. */
export const elapse = (duration: Duration.Duration): Effect.Effect<void, never, Redis.Redis | Prefix> =>
  Effect.gen(function*() {
    const redis = yield* Redis.Redis
    const keys = yield* keysOf(redis, `${yield* Prefix}run:`)
    yield* redis.eval(setBack)(keys, Duration.toMillis(duration))
  }).pipe(Effect.orDie)
