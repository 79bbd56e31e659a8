import { NodeRedis } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Logger, Option, Schema, Scope } from "effect"
import { Fault, Quota } from "effect-resilience"
import { RateLimiter, Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { connectRedis, describeWithRedis, redisPrefix } from "../support/redis.ts"
import { describeWithRedisServer, redisServer } from "../support/redisServer.ts"

type Service = Quota.Quota["Service"]
type Store = RateLimiter.RateLimiterStore["Service"]

class Refused extends Schema.TaggedError<Refused>("test/Refused")("Refused", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 10 }))

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const memory = Effect.map(Layer.build(RateLimiter.layerStoreMemory), Context.get(RateLimiter.RateLimiterStore))

/** A quota as one process has it. */
const processOn = (store: Store, options: Quota.StoreOptions) =>
  Effect.map(
    Layer.build(Quota.layerStore(options).pipe(Layer.provide(Layer.succeed(RateLimiter.RateLimiterStore, store)))),
    Context.get(Quota.Quota)
  )

const twoProcesses = (options: Quota.StoreOptions) =>
  Effect.gen(function*() {
    const store = yield* memory
    return [yield* processOn(store, options), yield* processOn(store, options)] as const
  })

const noting = (times: Array<number>) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => times.push(now)))

const send = (service: Service, times: Array<number>, options?: Quota.CallOptions) =>
  start(service.withQuota("k", options)(noting(times)))

/** A store that fails, or hangs, for as long as it is told to. */
const unsteady = Effect.map(memory, (store) => {
  const control: { mode: "up" | "failing" | "hanging" } = { mode: "up" }
  const down = new RateLimiter.RateLimiterError({
    reason: new RateLimiter.RateLimitStoreError({ message: "connection lost" })
  })
  const unsteadily = <A>(operation: Effect.Effect<A, RateLimiter.RateLimiterError>) =>
    Effect.suspend(() => {
      if (control.mode === "up") return operation
      return control.mode === "failing" ? Effect.fail(down) : Effect.never
    })
  return {
    control,
    store: { ...store, tokenBucket: (options) => unsteadily(store.tokenBucket(options)) } satisfies Store
  }
})

describe("Quota.layerStore", () => {
  it.effect("two processes together stay within a limit, whoever comes first", () =>
    Effect.gen(function*() {
      const [one, two] = yield* twoProcesses({ requests: { limit: 60, burst: 3 } })
      const times: Array<number> = []
      for (let i = 0; i < 3; i++) {
        yield* send(one, times)
        yield* send(two, times)
      }
      yield* settle
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(times, [0, 0, 0, 1_000, 2_000, 3_000])
    }).pipe(Effect.scoped))

  it.effect("what a call has not used is there for the others", () =>
    Effect.gen(function*() {
      const [one, two] = yield* twoProcesses({ outputTokens: { limit: 60, burst: 100 } })
      const cost = { cost: { outputTokens: 100 } }
      yield* one.withQuota("k", cost)(Effect.succeed({ usage: { outputTokens: 10 } }))
      yield* settle
      const times: Array<number> = []
      yield* send(two, times, cost)
      yield* settle
      yield* TestClock.adjust("11 seconds")
      assert.deepStrictEqual(times, [10_000])
    }).pipe(Effect.scoped))

  it.effect("a refusal in one closes the key in all, and they do not start together afterwards", () =>
    Effect.gen(function*() {
      const [one, two] = yield* twoProcesses({ requests: 100 })
      const times: Array<number> = []
      yield* Effect.exit(one.withQuota("k")(Effect.fail(new Refused({ verdict: Fault.throttled("5 seconds") }))))
      yield* settle
      for (let i = 0; i < 3; i++) {
        yield* send(one, times)
        yield* send(two, times)
      }
      yield* settle
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(times, [])
      for (let i = 0; i < 30; i++) yield* TestClock.adjust("1 second")
      assert.strictEqual(times.length, 6)
      assert.strictEqual(new Set(times).size, 6)
    }).pipe(Effect.scoped))

  it.effect("who would have to wait too long for the others is refused at once, and gives back what it reserved", () =>
    Effect.gen(function*() {
      const [one, two] = yield* twoProcesses({ requests: { limit: 6, burst: 1 } })
      yield* one.withQuota("k")(Effect.void)
      yield* settle
      const error = yield* Effect.flip(two.withQuota("k", { maxWait: "5 seconds" })(Effect.void))
      assert.strictEqual(error.reason, "WaitTooLong")
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(10))
      yield* settle
      yield* TestClock.adjust("10 seconds")
      yield* two.withQuota("k")(Effect.void)
    }).pipe(Effect.scoped))

  it.effect("nobody waits for what a call reserved that was refused, or interrupted while it waited for the others", () =>
    Effect.gen(function*() {
      const [one, two] = yield* twoProcesses({ inputTokens: 60 })
      const call = (service: Service, inputTokens: number, maxWait: Duration.Input) =>
        service.withQuota("k", { cost: { inputTokens }, maxWait })(Effect.void)
      yield* call(one, 60, "1 second")
      yield* Effect.flip(call(two, 60, "1 second"))
      const large = yield* start(call(two, 60, "2 minutes"))
      yield* settle
      assert.deepInclude(yield* two.state("k"), { running: 0, waiting: 1, gatedFor: Duration.zero })
      yield* Fiber.interrupt(large)
      assert.deepInclude(yield* two.state("k"), { running: 0, waiting: 0 })
      const small = yield* start(call(two, 1, "5 seconds"))
      yield* settle
      yield* TestClock.adjust("1 second")
      assert.isDefined(small.pollUnsafe())
    }).pipe(Effect.scoped))

  for (const which of ["the same process", "another process"]) {
    it.effect(`who waits for the others keeps to a gate that is closed meanwhile by ${which}`, () =>
      Effect.gen(function*() {
        const [one, two] = yield* twoProcesses({ requests: { limit: 60, burst: 20 } })
        const times: Array<number> = []
        for (let i = 0; i < 19; i++) yield* one.withQuota("k")(Effect.void)
        const refuses = which === "the same process" ? two : one
        const refused = Effect.fail(new Refused({ verdict: Fault.throttled("2 minutes") }))
        yield* start(Effect.exit(refuses.withQuota("k")(Effect.andThen(Effect.sleep("1500 millis"), refused))))
        yield* settle
        for (let i = 0; i < 19; i++) yield* send(two, times, { maxWait: "10 minutes" })
        for (let i = 0; i < 300; i++) {
          yield* TestClock.adjust("1 second")
          yield* settle
        }
        assert.strictEqual(times.length, 19)
        assert.deepStrictEqual(times.filter((at) => at > 1_500 && at < 121_500), [])
        assert.strictEqual(new Set(times).size, 19, "and not together afterwards")
      }).pipe(Effect.scoped))
  }

  it.effect("what has come back by itself is not given back once more, whoever drew on it", () =>
    Effect.gen(function*() {
      const [one, two] = yield* twoProcesses({ outputTokens: 8_000 })
      const sent: Array<readonly [at: number, name: string]> = []
      const call = (service: Service, name: string, seconds: number, outputTokens: number) =>
        start(
          Effect.gen(function*() {
            sent.push([yield* Clock.currentTimeMillis, name])
            yield* Effect.sleep(seconds * 1_000)
            return { usage: { outputTokens } }
          }).pipe(service.withQuota("k", { cost: { outputTokens: 8_000 }, maxWait: "10 minutes" }))
        )
      yield* call(one, "long", 120, 100)
      yield* settle
      yield* TestClock.adjust("119 seconds")
      for (const name of ["second", "third"]) {
        yield* call(two, name, 60, 8_000)
        yield* settle
      }
      for (let i = 0; i < 300; i++) {
        yield* TestClock.adjust("1 second")
        yield* settle
      }
      assert.deepStrictEqual(sent, [[0, "long"], [119_000, "second"], [179_000, "third"]])
    }).pipe(Effect.scoped))

  it.effect("nothing stays reserved wherever a call is interrupted", () =>
    interruptEverywhere({
      arrange: Effect.gen(function*() {
        const [one, two] = yield* twoProcesses({ requests: { limit: 60, burst: 1 }, outputTokens: 100 })
        const cost = { cost: { outputTokens: 60 } }
        yield* one.withQuota("k", cost)(Effect.void)
        yield* settle
        return {
          effect: two.withQuota("k", cost)(Effect.sleep("1 second")),
          check: () =>
            Effect.gen(function*() {
              yield* settle
              yield* TestClock.adjust("2 minutes")
              yield* settle
              assert.deepInclude(yield* two.state("k"), { running: 0, waiting: 0 })
              const before = yield* Clock.currentTimeMillis
              const next = yield* start(one.withQuota("k", cost)(Effect.void))
              yield* settle
              assert.isDefined(next.pollUnsafe())
              assert.strictEqual(yield* Clock.currentTimeMillis, before)
            })
        }
      })
    }), 60_000)

  describe("while the store is away", () => {
    const logging = (logs: Array<string>) =>
      Effect.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))]))

    it.effect("each process goes by the limits alone, and says so once", () => {
      const logs: Array<string> = []
      return Effect.gen(function*() {
        const { control, store } = yield* unsteady
        const one = yield* processOn(store, { requests: { limit: 60, burst: 2 } })
        const times: Array<number> = []
        control.mode = "failing"
        for (let i = 0; i < 4; i++) yield* send(one, times)
        yield* settle
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(times, [0, 0, 1_000, 2_000])
        assert.strictEqual(logs.filter((log) => log.includes("does not answer")).length, 1)
        control.mode = "up"
        yield* TestClock.adjust("5 seconds")
        yield* one.withQuota("k")(Effect.void)
        assert.strictEqual(logs.filter((log) => log.includes("answers again")).length, 1)
      }).pipe(Effect.scoped, logging(logs))
    })

    it.effect("a store that hangs costs a call storeTimeout, and after three of them one call a second", () =>
      Effect.gen(function*() {
        const { control, store } = yield* unsteady
        const one = yield* processOn(store, { requests: 1_000, storeTimeout: "100 millis" })
        control.mode = "hanging"
        const took: Array<number> = []
        for (let i = 0; i < 6; i++) {
          const from = yield* Clock.currentTimeMillis
          const done = yield* Deferred.make<void>()
          yield* start(
            one.withQuota("k")(Effect.andThen(
              Effect.flatMap(Clock.currentTimeMillis, (at) => Effect.sync(() => took.push(at - from))),
              Deferred.succeed(done, undefined)
            ))
          )
          yield* settle
          yield* TestClock.adjust("100 millis")
          yield* Deferred.await(done)
        }
        assert.deepStrictEqual(took, [100, 100, 100, 0, 0, 0])
        // Nothing is asked any more, and so the layer closes.
        yield* TestClock.adjust("10 seconds")
      }).pipe(Effect.scoped, logging([])))

    it.effect("the layer closes after ten seconds, whatever the store does not answer", () =>
      Effect.gen(function*() {
        const { control, store } = yield* unsteady
        const scope = yield* Scope.make()
        const one = yield* processOn(store, { requests: 1_000 }).pipe(Scope.provide(scope))
        control.mode = "hanging"
        const call = yield* start(one.withQuota("k")(Effect.void))
        yield* TestClock.adjust("250 millis")
        yield* Fiber.join(call)
        const closing = yield* start(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("9 seconds")
        assert.isUndefined(closing.pollUnsafe())
        yield* TestClock.adjust("1 second")
        assert.isDefined(closing.pollUnsafe())
      }).pipe(logging([])))

    it.effect("what the last call has told reaches the store before the layer is closed", () =>
      Effect.gen(function*() {
        const fast = yield* memory
        const slow: Store = {
          ...fast,
          tokenBucket: (options) => Effect.andThen(Effect.sleep("50 millis"), fast.tokenBucket(options))
        }
        const scope = yield* Scope.make()
        const options = { outputTokens: { limit: 60, burst: 100 } }
        const cost = { cost: { outputTokens: 100 } }
        const one = yield* processOn(slow, options).pipe(Scope.provide(scope))
        const call = yield* start(one.withQuota("k", cost)(Effect.succeed({ usage: { outputTokens: 10 } })))
        yield* TestClock.adjust("50 millis")
        yield* Fiber.join(call)
        const closing = yield* start(Scope.close(scope, Exit.void))
        yield* TestClock.adjust("100 millis")
        assert.isDefined(closing.pollUnsafe())
        const two = yield* processOn(fast, options)
        const times: Array<number> = []
        yield* send(two, times, cost)
        yield* settle
        yield* TestClock.adjust("15 seconds")
        // 90 of 100 are there: what lacks is 10 seconds away, and not 100
        assert.strictEqual(times.length, 1)
      }).pipe(Effect.scoped))
  })

  it.effect("bad options fail when the layer is built", () =>
    Effect.gen(function*() {
      const exit = yield* Effect.exit(processOn(yield* memory, { storeTimeout: 0 }))
      assert.include(String(exit), "storeTimeout")
    }).pipe(Effect.scoped))
})

describeWithRedis("Quota.layerStore on Redis", () => {
  it.live("two connections share a limit and a gate", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const connected = Effect.gen(function*() {
        const redis = yield* connectRedis()
        const store = yield* Layer.build(
          RateLimiter.layerStoreRedis({ prefix }).pipe(Layer.provide(Layer.succeed(Redis.Redis, redis)))
        )
        return yield* processOn(Context.get(store, RateLimiter.RateLimiterStore), {
          requests: { limit: 600, burst: 2 },
          storeTimeout: "5 seconds"
        })
      })
      const one = yield* connected
      const two = yield* connected
      const from = yield* Clock.currentTimeMillis
      const calls = yield* Effect.forEach([one, two, one, two], (service) => start(service.withQuota("k")(Effect.void)))
      yield* Effect.forEach(calls, Fiber.join)
      assert.isAtLeast((yield* Clock.currentTimeMillis) - from, 190)
      yield* Effect.exit(one.withQuota("k")(Effect.fail(new Refused({ verdict: Fault.throttled("2 seconds") }))))
      yield* Effect.sleep("200 millis")
      const error = yield* Effect.flip(two.withQuota("k", { maxWait: "500 millis" })(Effect.void))
      assert.strictEqual(error.reason, "WaitTooLong")
    }).pipe(Effect.scoped), 30_000)
})

describeWithRedisServer("Quota.layerStore on a Redis that dies", () => {
  it.live("calls go on by the limits alone, and the layers of the program close", () =>
    Effect.gen(function*() {
      const server = yield* redisServer()
      const scope = yield* Scope.make()
      // A second instead of the 5 that are the default of the driver.
      const driver = NodeRedis.layer({ url: server.url, commandOptions: { timeout: 1_000 } })
      const live = Quota.layerStore({ requests: 6_000 }).pipe(
        Layer.provide(RateLimiter.layerStoreRedis()),
        Layer.provide(driver)
      )
      const quota = Context.get(yield* Layer.buildWithScope(live, scope), Quota.Quota)
      const call = quota.withQuota("k")(Effect.sleep("5 millis"))
      yield* call
      const running = yield* start(Effect.replicateEffect(call, 20))
      yield* server.kill
      yield* Fiber.join(running)
      yield* call
      const closing = yield* start(Scope.close(scope, Exit.void))
      const closed = yield* Effect.timeoutOption(Fiber.join(closing), "9 seconds")
      assert.isTrue(Option.isSome(closed))
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([]))), 30_000)

  it.live("when it is back, empty, limits are shared again", () =>
    Effect.gen(function*() {
      const server = yield* redisServer()
      const connected = Effect.gen(function*() {
        const driver = NodeRedis.layer({ url: server.url, disableOfflineQueue: true })
        const store = yield* Layer.build(RateLimiter.layerStoreRedis().pipe(Layer.provide(driver)))
        return yield* processOn(Context.get(store, RateLimiter.RateLimiterStore), {
          requests: { limit: 6, burst: 1 },
          maxWait: 0,
          storeTimeout: "2 seconds"
        })
      })
      const one = yield* connected
      const two = yield* connected
      let keys = 0
      /** Whether a call of one process is refused for a call of the other one. */
      const isShared = Effect.gen(function*() {
        const key = `k${keys++}`
        yield* one.withQuota(key)(Effect.void)
        return Exit.isFailure(yield* Effect.exit(two.withQuota(key)(Effect.void)))
      })
      assert.isTrue(yield* isShared)
      yield* server.kill
      assert.isFalse(yield* isShared)
      yield* server.start
      yield* isShared.pipe(
        Effect.andThen((shared) => Effect.as(Effect.sleep("50 millis"), shared)),
        Effect.repeat({ until: (shared) => shared })
      )
    }).pipe(Effect.scoped, Effect.provide(Logger.layer([]))), 30_000)
})
