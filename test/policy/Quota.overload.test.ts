import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber, Layer, Random } from "effect"
import { AdaptiveLimit, Fault, Quota } from "effect-resilience"
import { TestClock } from "effect/testing"

const key = "provider"
const overloaded = (retryAfter?: Duration.Input) =>
  Effect.suspend(() => Effect.fail({ [Fault.verdictOf]: Fault.overloaded(retryAfter), _tag: "Overloaded" } as const))

const gatedMillis = Effect.map(Quota.state(key), ({ gatedFor }) => Duration.toMillis(gatedFor))

/** Calls that come at once, and when each of them was sent. */
const sentAt = (count: number, options?: Quota.QuotaOptions) =>
  Effect.gen(function*() {
    const times: Array<number> = []
    const call = Effect.andThen(Clock.currentTimeMillis, (now) => Effect.sync(() => times.push(now))).pipe(
      Quota.withQuota(key, options)
    )
    const calls = Effect.forEach(Array.from({ length: count }), () => call, { concurrency: "unbounded", discard: true })
    const fiber = yield* Effect.forkChild(calls, { startImmediately: true })
    yield* TestClock.adjust("2 minutes")
    yield* Fiber.join(fiber)
    return times
  })

const layer = Layer.mergeAll(Quota.layer(), AdaptiveLimit.layer())

const test = <A, E>(body: Effect.Effect<A, E, Quota.Quota | AdaptiveLimit.AdaptiveLimit>) =>
  body.pipe(Effect.provide(layer), Random.withSeed("quota"))

describe("Quota and overloads", () => {
  it.effect("leaves an overload without a time to the adaptive limit inside of it", () =>
    test(Effect.gen(function*() {
      yield* overloaded().pipe(AdaptiveLimit.withLimit(key), Quota.withQuota(key), Effect.flip)
      assert.strictEqual(yield* gatedMillis, 0)
      const { limit } = yield* AdaptiveLimit.AdaptiveLimit.use((limits) => limits.state(key))
      assert.isBelow(limit, 10)
    })))

  it.effect("closes the key for one that no adaptive limit has answered to", () =>
    test(Effect.gen(function*() {
      yield* overloaded().pipe(Quota.withQuota(key), Effect.flip)
      assert.isAbove(yield* gatedMillis, 0)
    })))

  it.effect("closes the key until the time that an overload says, whoever has answered to it", () =>
    test(Effect.gen(function*() {
      yield* overloaded("20 seconds").pipe(AdaptiveLimit.withLimit(key), Quota.withQuota(key), Effect.flip)
      assert.approximately(yield* gatedMillis, 20_000, 1)
    })))

  it.effect("gives back what a call reserved that was overloaded", () =>
    test(Effect.gen(function*() {
      const options = { requests: 60, cost: { requests: 1 } } as const
      yield* overloaded().pipe(AdaptiveLimit.withLimit(key), Quota.withQuota(key, options), Effect.flip)
      const { limits } = yield* Quota.state(key)
      assert.strictEqual(limits.requests?.available, 60)
    })))

  it.effect("where the limits are known, those who waited start one after the other", () =>
    test(Effect.gen(function*() {
      const options = { requests: 600 } as const
      yield* overloaded().pipe(Quota.withQuota(key, options), Effect.flip)
      const opensAt = yield* gatedMillis
      const times = yield* sentAt(50, options)
      assert.isAtLeast(Math.min(...times), Math.floor(opensAt))
      assert.isAtMost(Math.max(...times), opensAt + 10_000)
      assert.isAbove(new Set(times.slice(0, 10)).size, 8)
    })))

  it.effect("goes on at the rate that it had, where it had learned one", () =>
    test(Effect.gen(function*() {
      const refused = Effect.fail({ [Fault.verdictOf]: Fault.throttled("2 seconds"), _tag: "Throttled" } as const)
      yield* refused.pipe(Quota.withQuota(key), Effect.flip)
      yield* sentAt(20)
      const before = (yield* Quota.state(key)).requestsPerMinute ?? 0
      yield* overloaded().pipe(AdaptiveLimit.withLimit(key), Quota.withQuota(key), Effect.flip)
      assert.isAtLeast((yield* Quota.state(key)).requestsPerMinute ?? 0, before)
    })))
})
