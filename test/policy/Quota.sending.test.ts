import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Layer } from "effect"
import { Fault, Policy, Quota } from "effect-resilience"
import { RateLimiter } from "effect/persistence"
import { TestClock } from "effect/testing"

const overloaded = Effect.suspend(() => Effect.fail({ [Fault.verdictOf]: Fault.overloaded() }))

const throttled = (after: Duration.Input) => Effect.fail({ [Fault.verdictOf]: Fault.throttled(after) })

const shared = Layer.provide(Quota.layerStore(), RateLimiter.layerStoreMemory)

/** What was sent in each stretch of ten seconds. */
const sends = () => {
  const counts: Array<number> = []
  return {
    counts,
    send: Effect.map(Clock.currentTimeMillis, (now) => {
      const stretch = Math.floor(now / 10_000)
      counts[stretch] = (counts[stretch] ?? 0) + 1
    })
  }
}

const advance = (seconds: number) => Effect.repeat(TestClock.adjust("1 second"), { times: seconds - 1 })

describe.each([
  ["Quota.layer", Policy.layer],
  ["Quota.layerStore", Layer.merge(Policy.layer, shared)]
])("%s around guards that hold a call back", (_, layer) => {
  it.effect("sends no more than the limits allow when an outage ends, however many were let through before", () =>
    Effect.gen(function*() {
      const policy = Policy.make({
        name: "k",
        quota: { requests: { limit: 60, burst: 10 }, maxWait: "2 hours" },
        limit: {},
        retry: { maxAttempts: 20 }
      })
      const { counts, send } = sends()
      const call = Effect.gen(function*() {
        yield* send
        yield* Effect.sleep("1 second")
        if ((yield* Clock.currentTimeMillis) < 600_000) yield* overloaded
      }).pipe(Policy.apply(policy), Effect.ignore)
      yield* Effect.forkChild(Effect.replicateEffect(call, 300, { concurrency: "unbounded", discard: true }))
      yield* advance(780)
      for (const [stretch, count = 0] of counts.entries()) {
        assert.isAtMost(count, 20, `${count} calls in the ten seconds from ${stretch * 10} on`)
      }
      assert.isAbove(counts.slice(66, 76).reduce((sum, count) => sum + count, 0), 80, "and uses what they allow")
    }).pipe(Effect.provide(layer)))

  for (const quotaKey of ["k", "provider"]) {
    it.effect(`sends no more than the limits allow where calls waited for one long call: quota of ${quotaKey}`, () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "k",
          quota: { key: quotaKey, requests: { limit: 60, burst: 10 }, maxWait: "2 hours" },
          bulkhead: { maxConcurrent: 1, maxQueue: 1_000, maxWait: "2 hours" }
        })
        const { counts, send } = sends()
        yield* Effect.forkChild(Policy.apply(Effect.sleep("5 minutes"), policy), { startImmediately: true })
        const call = Policy.apply(Effect.andThen(send, Effect.sleep("10 millis")), policy)
        yield* Effect.forkChild(Effect.replicateEffect(call, 300, { concurrency: "unbounded", discard: true }))
        yield* advance(400)
        for (const count of counts) assert.isAtMost(count ?? 0, 20)
        assert.isAbove(counts.slice(31, 39).reduce((sum, count) => sum + count, 0), 70)
      }).pipe(Effect.provide(layer)))

    it.effect(`a call that is held back keeps to a gate that is closed meanwhile: quota of ${quotaKey}`, () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "k",
          quota: { key: quotaKey, requests: 6_000, maxWait: "10 minutes" },
          limit: { max: 1 }
        })
        const times: Array<number> = []
        const refused = Effect.andThen(Effect.sleep("1 second"), throttled("1 minute"))
        yield* Effect.forkChild(Effect.ignore(Policy.apply(refused, policy)), { startImmediately: true })
        const call = Policy.apply(Effect.map(Clock.currentTimeMillis, (now) => times.push(now)), policy)
        yield* Effect.forkChild(Effect.replicateEffect(call, 30, { concurrency: "unbounded", discard: true }))
        yield* advance(300)
        assert.isAtLeast(Math.min(...times), 61_000)
        assert.strictEqual(times.length, 30)
      }).pipe(Effect.provide(layer)))
  }

  it.effect("a policy inside of another takes its share anew of its own quota, and not of that around", () =>
    Effect.gen(function*() {
      const outer = Policy.make({ name: "outer", quota: { key: "account", requests: { limit: 1, per: "1 day" } } })
      const inner = Policy.make({
        name: "inner",
        quota: { key: "provider", requests: { limit: 60, burst: 10 }, maxWait: "2 hours" },
        bulkhead: { maxConcurrent: 1 }
      })
      yield* Effect.forkChild(Policy.apply(Effect.sleep("1 minute"), inner), { startImmediately: true })
      const call = Policy.apply(Policy.apply(Effect.void, inner), outer)
      const fiber = yield* Effect.forkChild(call, { startImmediately: true })
      assert.strictEqual((yield* Quota.state("account")).limits.requests?.available, 0)
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.isBelow((yield* Quota.state("account")).limits.requests?.available ?? 1, 0.01)
      assert.approximately((yield* Quota.state("provider")).limits.requests?.available ?? 0, 9, 0.01)
    }).pipe(Effect.provide(layer)))

  for (const guard of ["limit", "bulkhead"] as const) {
    it.effect(`gives back all that a call reserved that is interrupted while it waits for a slot: ${guard}`, () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "k",
          quota: {
            requests: { limit: 10, per: "1 day" },
            inputTokens: { limit: 1_000, per: "1 day" },
            cost: { inputTokens: 100 }
          },
          ...(guard === "limit" ? { limit: { max: 1, initial: 1 } } : { bulkhead: { maxConcurrent: 1 } })
        })
        yield* Effect.forkChild(Policy.apply(Effect.never, policy), { startImmediately: true })
        const second = yield* Effect.forkChild(Policy.apply(Effect.void, policy), { startImmediately: true })
        yield* Fiber.interrupt(second)
        const { limits, running, waiting } = yield* Quota.state("k")
        assert.deepStrictEqual([running, waiting], [1, 0])
        assert.approximately(limits.requests?.available ?? 0, 9, 0.01)
        assert.approximately(limits.inputTokens?.available ?? 0, 900, 1)
      }).pipe(Effect.provide(layer)))
  }

  for (const guard of ["limit", "bulkhead"] as const) {
    it.effect(`lets no more through than a burst where calls waited for slots while the balance was full: ${guard}`, () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "k",
          quota: { requests: { limit: 60, burst: 20 } },
          ...(guard === "limit" ? { limit: { min: 40, initial: 40, max: 40 } } : { bulkhead: { maxConcurrent: 40 } })
        })
        const times: Array<number> = []
        const many = (number: number, seconds: number) =>
          Effect.gen(function*() {
            times.push(yield* Clock.currentTimeMillis)
            yield* Effect.sleep(seconds * 1_000)
          }).pipe(
            Policy.apply(policy),
            Effect.replicateEffect(number, { concurrency: "unbounded", discard: true }),
            Effect.forkChild({ startImmediately: true })
          )
        yield* many(20, 50)
        yield* advance(20)
        yield* many(20, 30)
        yield* advance(20)
        yield* many(10, 1)
        yield* advance(10)
        yield* many(30, 1)
        yield* TestClock.adjust("900 millis")
        assert.strictEqual(times.filter((at) => at >= 50_000).length, 20)
      }).pipe(Effect.provide(layer)))
  }

  it.effect("all waits of a call together keep to maxWait, and what could not be sent by then is refused at once", () =>
    Effect.gen(function*() {
      const policy = Policy.make({
        name: "k",
        quota: { requests: 6_000, maxWait: "1 second" },
        limit: { max: 1 }
      })
      const refused = Effect.andThen(Effect.sleep("500 millis"), throttled("4 minutes"))
      yield* Effect.forkChild(Effect.ignore(Policy.apply(refused, policy)), { startImmediately: true })
      const held = yield* Effect.forkChild(Effect.flip(Policy.apply(Effect.void, policy)), { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      const error = yield* Fiber.join(held)
      assert.strictEqual(error._tag, "QuotaExceeded")
      assert.isAtLeast(error._tag === "QuotaExceeded" ? Duration.toMinutes(error.retryAfter ?? 0) : 0, 4)
      assert.strictEqual(yield* Clock.currentTimeMillis, 500)
      const { running, waiting } = yield* Quota.state("k")
      assert.deepStrictEqual([running, waiting], [0, 0])
    }).pipe(Effect.provide(layer)))

  it.effect("what a call has waited before it was held back counts, and what it was held back does not", () =>
    Effect.gen(function*() {
      const policy = Policy.make({
        name: "k",
        quota: { requests: { limit: 60, burst: 1 }, maxWait: "2500 millis" },
        bulkhead: { maxConcurrent: 1 }
      })
      const call = (seconds: number) =>
        Effect.forkChild(Effect.exit(Policy.apply(Effect.sleep(seconds * 1_000), policy)), { startImmediately: true })
      yield* call(10)
      // Let through after one second and after two, and both held back until ten.
      const second = yield* call(0)
      const third = yield* call(0)
      yield* TestClock.adjust("10 seconds")
      assert.isTrue(Exit.isSuccess(yield* Fiber.join(second)))
      assert.isTrue(Exit.isFailure(yield* Fiber.join(third)), "it would have to wait for a second once more")
      assert.strictEqual(yield* Clock.currentTimeMillis, 10_000)
    }).pipe(Effect.provide(layer)))

  it.effect("leaks nothing where a call is interrupted that waits for its share once more", () =>
    Effect.gen(function*() {
      const policy = Policy.make({
        name: "k",
        quota: { requests: { limit: 1, burst: 2 }, maxWait: "2 hours" },
        bulkhead: { maxConcurrent: 1 }
      })
      const first = yield* Effect.forkChild(Policy.apply(Effect.sleep("10 seconds"), policy), {
        startImmediately: true
      })
      const second = yield* Effect.forkChild(Policy.apply(Effect.void, policy), { startImmediately: true })
      const third = yield* Effect.forkChild(Policy.apply(Effect.void, policy), { startImmediately: true })
      yield* TestClock.adjust("10 seconds")
      yield* Fiber.join(first)
      yield* Fiber.join(second)
      yield* Fiber.interrupt(third)
      const { running, waiting } = yield* Quota.state("k")
      assert.deepStrictEqual([running, waiting], [0, 0])
    }).pipe(Effect.provide(layer)))
})
