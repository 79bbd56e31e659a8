import { assert, it } from "@effect/vitest"
import { Cause, Effect, Exit, Layer, Logger, Schema } from "effect"
import { Fault, Idempotency } from "effect-resilience"
import * as RedisIdempotency from "effect-resilience/durable/stores/RedisIdempotency"
import { StoreContract } from "effect-resilience/testing"
import { Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { connectRedis, describeWithRedis, keysOf, redisPrefix } from "../../support/redis.ts"
import { redisProxy } from "../../support/redisProxy.ts"
import { idempotencyContract } from "../contracts/IdempotencyContract.ts"

const storeOn = (redis: Redis.Redis["Service"], options: RedisIdempotency.StoreOptions) =>
  Effect.provideService(RedisIdempotency.makeStore(options), Redis.Redis, redis)

const day = 86_400_000

const entry = (outcome: string, recordedAt = 0, expiresAt = recordedAt + day): Idempotency.Entry => ({
  outcome,
  recordedAt,
  expiresAt
})

const newStore = Effect.gen(function*() {
  const prefix = yield* redisPrefix
  const redis = yield* connectRedis()
  return { prefix, redis, store: yield* storeOn(redis, { prefix }) }
})

describeWithRedis("RedisIdempotency", () => {
  idempotencyContract(
    "Idempotency in Redis",
    Effect.gen(function*() {
      // The driver has timers of its own, which need not go through the months of a test.
      const prefix = yield* TestClock.withLive(redisPrefix)
      const redis = yield* TestClock.withLive(connectRedis())
      return RedisIdempotency.layer({ prefix }).pipe(Layer.provide(Layer.succeed(Redis.Redis, redis)))
    }),
    { durable: true }
  )

  const onRedis = Effect.gen(function*() {
    const prefix = yield* TestClock.withLive(redisPrefix)
    const redis = yield* TestClock.withLive(connectRedis())
    return yield* storeOn(redis, { prefix })
  })
  for (const { effect, name } of StoreContract.idempotencyStore(onRedis)) {
    it.effect(`the contract: ${name}`, () => effect)
  }

  it.effect("of many processes that record the same call at once all answer the outcome of one", () =>
    Effect.gen(function*() {
      const { prefix, store } = yield* newStore
      const other = yield* storeOn(yield* connectRedis(), { prefix })
      const kept = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, n) => n),
        (n) => (n % 2 === 0 ? store : other).put("s", "k", entry(`"${n}"`)),
        { concurrency: "unbounded" }
      )
      assert.strictEqual(new Set(kept.map(({ outcome }) => outcome)).size, 1)
      assert.deepStrictEqual(yield* other.get("s", "k"), kept[0])
    }))

  it.effect("outcomes, scopes and keys come back as they went in", () =>
    Effect.gen(function*() {
      const { store } = yield* newStore
      const texts = ["", ":", "1:2:3:x", "a\nb\u0000", "🦉", "}{", "__proto__", "é e\u0301", "x".repeat(100_000)]
      for (const text of texts) {
        const recorded = entry(text, 1.5, 2 ** 53 - 1)
        assert.deepStrictEqual(yield* store.put(`scope ${text}`, `key ${text}`, recorded), recorded)
        assert.deepStrictEqual(yield* store.get(`scope ${text}`, `key ${text}`), recorded)
        assert.isUndefined(yield* store.get(`scope ${text}`, "other"))
      }
      yield* Effect.forEach(texts, (text) => store.clear(`scope ${text}`))
      for (const text of texts) assert.isUndefined(yield* store.get(`scope ${text}`, `key ${text}`))
    }))

  it.effect("an outcome that has expired when the new one is recorded gives way to it, and so do others of its scope", () =>
    Effect.gen(function*() {
      const { prefix, redis, store } = yield* newStore
      for (let n = 0; n < 50; n++) yield* store.put("s", `k${n}`, entry("old", n))
      assert.deepStrictEqual(yield* store.put("s", "k0", entry("new", day - 1)), entry("old", 0))
      assert.deepStrictEqual(yield* store.put("s", "k0", entry("new", day)), entry("new", day))
      const results = redis.send<number>("HLEN", `${prefix}results:s`)
      assert.strictEqual(yield* results, 50)
      yield* store.put("s", "later", entry("new", 2 * day))
      assert.strictEqual(yield* results, 1)
      assert.strictEqual(yield* redis.send<number>("ZCARD", `${prefix}expiry:s`), 1)
    }))

  it.effect("a scope goes with the last of its results, and one for ever stays", () =>
    Effect.gen(function*() {
      const { prefix, redis, store } = yield* newStore
      const left = Effect.all([
        redis.send<number>("PTTL", `${prefix}results:s`),
        redis.send<number>("PTTL", `${prefix}expiry:s`)
      ])
      const about = (found: ReadonlyArray<number>, wanted: number) =>
        assert.isTrue(found.every((time) => time <= wanted && time > wanted - 60_000), `${found.join()} for ${wanted}`)
      yield* store.put("s", "a", entry("a", 0, day))
      about(yield* left, day)
      yield* store.put("s", "b", entry("b", 0, 3 * day))
      about(yield* left, 3 * day)
      yield* store.put("s", "c", entry("c", 0, day))
      about(yield* left, 3 * day)
      yield* store.put("s", "d", entry("d", 0, Number.MAX_SAFE_INTEGER))
      assert.deepStrictEqual(yield* left, [-1, -1])
      yield* store.put("s", "e", entry("e", 0, day))
      assert.deepStrictEqual(yield* left, [-1, -1])
      yield* store.clear("s")
      assert.deepStrictEqual(yield* keysOf(redis, prefix), [])
    }))

  it.effect("a record that is none, or of a newer release, stops the call, and is left as it is", () =>
    Effect.gen(function*() {
      const { prefix, redis, store } = yield* newStore
      const service = yield* Idempotency.make({ store })
      const options = { scope: "s", tool: "t", success: Schema.Int }
      const key = yield* Idempotency.key("t")
      for (
        const [record, reason] of [["scrambled", "Rejected"], ["1:x:y:z", "Rejected"], ["2:new", "Rejected"], [
          "2:0:9:{}",
          "SchemaTooNew"
        ]] as const
      ) {
        yield* redis.send("HSET", `${prefix}results:s`, key, record)
        const error = yield* Effect.flip(service.once(options, Effect.die("must not run")))
        assert.isTrue(error._tag === "IdempotencyStoreError" && error.operation === "lookup")
        assert.strictEqual(error._tag === "IdempotencyStoreError" && error.reason, reason)
        const refused = yield* Effect.flip(store.put("s", key, entry("new", 2 * day)))
        assert.strictEqual(refused.reason, reason)
        assert.strictEqual(yield* redis.send<string>("HGET", `${prefix}results:s`, key), record)
      }
      yield* redis.send("DEL", `${prefix}results:s`)
      yield* redis.send("SET", `${prefix}results:s`, "text")
      const error = yield* Effect.flip(store.get("s", key))
      assert.strictEqual((yield* Fault.classify(error))._tag, "Permanent")
    }))

  it.effect("a result whose acknowledgement is lost is ambiguous, and is what later calls answer", () =>
    Effect.gen(function*() {
      const { prefix, store } = yield* newStore
      const proxy = yield* redisProxy
      const unlucky = yield* Idempotency.make({ store: yield* storeOn(yield* connectRedis(proxy.url), { prefix }) })
      const options = { scope: "s", tool: "t", success: Schema.Int }
      // The script is known before its answer is lost.
      yield* unlucky.once({ ...options, tool: "other" }, Effect.succeed(0))
      yield* proxy.loseAnswer
      const error = yield* Effect.flip(unlucky.once(options, Effect.succeed(1)))
      assert.strictEqual((yield* Fault.classify(error))._tag, "Ambiguous")
      const later = yield* Idempotency.make({ store })
      assert.strictEqual(yield* later.once(options, Effect.die("must not run")), 1)
    }).pipe(Effect.provide(Logger.layer([]))))

  it.effect("a Redis that does not answer stops the call before it is executed", () =>
    Effect.gen(function*() {
      const redis = yield* connectRedis()
      const lost = new Redis.RedisError({ cause: new Error("Socket closed unexpectedly") })
      const service = yield* Idempotency.make({
        store: yield* storeOn({ ...redis, send: () => Effect.fail(lost) }, {})
      })
      const error = yield* Effect.flip(
        service.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.die("must not run"))
      )
      assert.strictEqual((yield* Fault.classify(error))._tag, "Transient")
      assert.strictEqual((yield* Effect.flip(service.clear("s"))).reason, "Unavailable")
      const exit = yield* Effect.exit(storeOn(redis, { prefix: "" }))
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
    }))
})
