/** What must not be done to a Redis that others use. */
import { NodeRedis } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Context, Duration, Effect, Fiber, Layer, Logger, type Scope } from "effect"
import type { CheckpointStore } from "effect-resilience"
import { Redis } from "effect/persistence"
import { withMessages } from "../../support/logs.ts"
import { describeWithRedisServer, redisServer } from "../../support/redisServer.ts"
import { storeOn } from "../redisRuns.ts"

type RedisService = Redis.Redis["Service"]
type Entries = Parameters<CheckpointStore.CheckpointStore["Service"]["append"]>[1]

const minute = Duration.minutes(1)
const entry = (position: number, body = "{}") => ({ position, step: position === 0 ? "" : "s", body })
const one = (position: number): Entries => [entry(position)]

const tagOf = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason._tag)

const connected = (url: string): Effect.Effect<RedisService, Redis.RedisError, Scope.Scope> =>
  Effect.map(
    Layer.build(NodeRedis.layer({ url })),
    Context.get(Redis.Redis)
  )

describeWithRedisServer("RedisCheckpointStore, on servers of its own", () => {
  it.effect("a full Redis is Unavailable and half writes nothing, and the record is written when there is room", () =>
    Effect.gen(function*() {
      const redis = yield* connected((yield* redisServer()).url)
      const store = yield* storeOn(redis, {})
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, one(0), "running")
      yield* redis.send("CONFIG", "SET", "maxmemory", "1")
      const next: Entries = [entry(1), entry(2), entry(3)]
      assert.strictEqual(yield* tagOf(store.append(lease, next, "failed")), "Unavailable")
      assert.strictEqual(yield* tagOf(store.acquire("other", minute)), "Unavailable")
      assert.deepStrictEqual((yield* store.list()).map(({ entries, status }) => [status, entries]), [["running", 1]])
      assert.deepStrictEqual(yield* store.read("r"), [entry(0)])
      yield* redis.send("CONFIG", "SET", "maxmemory", "0")
      yield* store.append(lease, next, "failed")
      assert.strictEqual((yield* store.read("r")).length, 4)
    }))

  it.effect("a Redis that forgets its scripts in the middle of the work is told them again", () =>
    Effect.gen(function*() {
      const redis = yield* connected((yield* redisServer()).url)
      const store = yield* storeOn(redis, {})
      const flush = redis.send("SCRIPT", "FLUSH", "SYNC")
      const lease = yield* store.acquire("r", minute)
      for (let n = 0; n < 10; n++) {
        yield* flush
        yield* store.append(lease, one(n))
      }
      yield* flush
      yield* store.renew(lease, minute)
      yield* flush
      assert.strictEqual((yield* store.list()).length, 1)
      yield* flush
      yield* store.remove(lease)
    }))

  it.effect("what was acknowledged survives a kill of the Redis process when every write goes to the disk", () =>
    Effect.gen(function*() {
      const server = yield* redisServer("--appendonly", "yes", "--appendfsync", "always")
      const store = yield* storeOn(yield* connected(server.url), {})
      const lease = yield* store.acquire("r", minute)
      const counted = yield* Effect.forkChild(Effect.gen(function*() {
        let acknowledged = 0
        yield* Effect.ignore(Effect.gen(function*() {
          for (let n = 0;; n++) {
            yield* store.append(lease, one(n), "running")
            acknowledged = n + 1
            if (n === 50) yield* Effect.forkDetach(server.kill)
          }
        }))
        return acknowledged
      }))
      const acknowledged = yield* Fiber.join(counted)
      assert.isAbove(acknowledged, 50)
      yield* server.start
      const again = yield* storeOn(yield* connected(server.url), {})
      const { length } = yield* again.read("r")
      assert.isTrue(length === acknowledged || length === acknowledged + 1, `${length} of ${acknowledged}`)
      const next = yield* again.acquire("r", minute, { takeOver: true })
      assert.isAbove(next.token, lease.token)
      yield* again.append(next, one(length))
    }).pipe(Effect.provide(Logger.layer([]))))

  it.effect("a write is acknowledged when as many replicas have it as were asked for, and else Unavailable", () =>
    Effect.gen(function*() {
      const primary = yield* redisServer("--repl-diskless-sync-delay", "0")
      const redis = yield* connected(primary.url)
      const owner = { id: "me", isGone: () => Effect.succeed(false) }
      const store = yield* storeOn(redis, { owner, waitReplicas: 1, waitTimeout: "50 millis" })
      assert.strictEqual(yield* tagOf(store.acquire("r", minute)), "Unavailable")
      const replica = yield* redisServer(
        "--replicaof",
        "127.0.0.1",
        String(primary.port),
        "--repl-diskless-sync-delay",
        "0"
      )
      const there = yield* connected(replica.url)
      yield* Effect.repeat(there.send<string>("INFO", "replication"), {
        until: (info) => info.includes("master_link_status:up")
      })
      const patient = yield* storeOn(redis, { owner, waitReplicas: 1, waitTimeout: "5 seconds" })
      const lease = yield* patient.acquire("r", minute, { takeOver: true })
      for (let n = 0; n < 20; n++) {
        yield* patient.append(lease, one(n))
        assert.strictEqual(
          yield* there.send<string>("HGET", "{effect-resilience:checkpoint}:run:r", "entries"),
          `${n + 1}`
        )
      }
      // A replica answers for itself: it may be read, and not written.
      const onReplica = yield* storeOn(there, {})
      assert.strictEqual((yield* onReplica.read("r")).length, 20)
      assert.strictEqual(yield* tagOf(onReplica.acquire("other", minute)), "Unavailable")
      yield* replica.kill
      assert.strictEqual(yield* tagOf(store.append(lease, one(20))), "Unavailable")
      // The record is there, so asking once more writes none, and has to wait all the same.
      assert.strictEqual(yield* tagOf(store.append(lease, one(20))), "Unavailable")
      // What is refused has nothing to wait for.
      assert.strictEqual(yield* tagOf(store.append(lease, one(30))), "PositionTaken")
      yield* replica.start
      yield* patient.append(lease, one(20))
      assert.strictEqual((yield* patient.read("r")).length, 21)
    }).pipe(Effect.provide(Logger.layer([]))))

  it.effect("what is asked for again is written again, so that there is something for replicas to confirm", () =>
    Effect.gen(function*() {
      const redis = yield* connected((yield* redisServer()).url)
      const store = yield* storeOn(redis, {})
      const changes = Effect.map(
        redis.send<string>("INFO", "persistence"),
        (info) => Number(/rdb_changes_since_last_save:(\d+)/.exec(info)?.[1])
      )
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, one(0))
      const before = yield* changes
      yield* store.append(lease, one(0))
      assert.strictEqual(yield* changes, before + 1)
      assert.strictEqual(yield* tagOf(store.append(lease, one(5))), "PositionTaken")
      assert.strictEqual(yield* changes, before + 1)
    }))

  it.effect("all keys of a store are in one slot of a cluster, and a prefix without a hash tag is refused there", () =>
    Effect.gen(function*() {
      const server = yield* redisServer("--cluster-enabled", "yes")
      const redis = yield* connected(server.url)
      yield* redis.send("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
      yield* Effect.repeat(redis.send<string>("CLUSTER", "INFO"), {
        until: (info) => info.includes("cluster_state:ok")
      })
      const store = yield* storeOn(redis, {})
      for (const id of ["r", "}{", "{other}", "a}b"]) {
        const lease = yield* store.acquire(id, minute)
        yield* store.append(lease, one(0), "running")
        yield* store.release(lease)
      }
      assert.strictEqual((yield* store.list()).length, 4)
      for (const { runId } of yield* store.list()) yield* store.remove(yield* store.acquire(runId, minute))
      const untagged = yield* storeOn(redis, { prefix: "runs:" })
      const error = yield* Effect.flip(untagged.acquire("r", minute))
      assert.strictEqual(error.reason._tag, "Rejected")
      assert.include(error.message, "CROSSSLOT")
    }))

  it.effect("a Redis that may throw runs away is warned of", () =>
    withMessages((logs) =>
      Effect.gen(function*() {
        const redis = yield* connected((yield* redisServer("--maxmemory-policy", "allkeys-lru")).url)
        yield* storeOn(redis, {})
        assert.match(logs.join("\n"), /allkeys-lru/)
        logs.length = 0
        yield* redis.send("CONFIG", "SET", "maxmemory-policy", "volatile-lru")
        yield* storeOn(redis, {})
        assert.deepStrictEqual(logs, [])
      })
    ))
})
