import { NodeServices } from "@effect/platform-node"
import { Effect, FileSystem, Layer, type Scope } from "effect"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { KeyValueStore, Persistence, Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { randomUUID } from "node:crypto"
import { connectRedis, keysOf } from "../support/redis.ts"

export type Backing = Layer.Layer<Persistence.BackingPersistence, unknown>

export const keyValueStore: Backing = Persistence.layerBackingKvs.pipe(Layer.provide(KeyValueStore.layerMemory))

/** Backings that hold nothing yet, by name, and that need no server. */
export const backings: Record<string, Backing> = {
  "memory": Persistence.layerBackingMemory,
  "KeyValueStore in memory": keyValueStore,
  "KeyValueStore in files": Layer.unwrap(
    Effect.map(
      FileSystem.FileSystem.use((fs) => fs.makeTempDirectoryScoped()),
      (folder) => Persistence.layerBackingKvs.pipe(Layer.provide(KeyValueStore.layerFileSystem(folder)))
    )
  ).pipe(Layer.provide(NodeServices.layer)),
  "SQLite": Persistence.layerBackingSql.pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))
}

/** The backing of Redis, under an id that nobody else uses. What is stored there goes when the scope does. */
export const redisBacking: Effect.Effect<
  { readonly backing: Backing; readonly storeId: string },
  Redis.RedisError,
  Scope.Scope
> = Effect.gen(function*() {
  // The driver has timers of its own, which need not go through the months of a test.
  const redis = yield* TestClock.withLive(connectRedis())
  const storeId = yield* Effect.acquireRelease(
    Effect.sync(() => `effect_resilience_test_${randomUUID()}`),
    (storeId) =>
      keysOf(redis, `${storeId}:`).pipe(
        Effect.flatMap((keys) => keys.length === 0 ? Effect.void : redis.send("DEL", ...keys)),
        Effect.orDie
      )
  )
  return { storeId, backing: Persistence.layerBackingRedis.pipe(Layer.provide(Layer.succeed(Redis.Redis, redis))) }
})
