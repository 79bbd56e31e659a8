import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Schema } from "effect"
import {
  AdaptiveLimit,
  Backoff,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  Fallback,
  Fault,
  Hedge,
  Policy,
  Quota,
  Telemetry
} from "effect-resilience"
import { TestClock } from "effect/testing"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

class Down extends Schema.TaggedError<Down>("test/Down")("Down", {}) {
  readonly [Fault.verdictOf] = Fault.transient
}

const down = Effect.fail(new Down({}))

const everySecond = Backoff.constant({ delay: "1 second" })

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const failureOf = (exit: Exit.Exit<unknown, unknown> | undefined): unknown =>
  exit !== undefined && Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined

/** How many calls are inside the bulkhead and the circuit of a key. */
const inside = (key: string) =>
  Effect.gen(function*() {
    const { running, waiting } = yield* (yield* Bulkhead.Bulkhead).state(key)
    const circuit = yield* (yield* CircuitBreaker.CircuitBreaker).state(key)
    return { running, waiting, probes: circuit._tag === "HalfOpen" ? circuit.probes : 0 }
  })

const nothing = { running: 0, waiting: 0, probes: 0 }

describe("Policy", () => {
  it.effect("without guards leaves the effect as it is", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* Effect.succeed(1).pipe(Policy.apply(Policy.make({ name: "p" }))), 1)
      assert.strictEqual(yield* Policy.apply(Effect.succeed(2), Policy.make({ name: "p" })), 2)
    }))

  describe("the order", () => {
    it.effect("an open circuit refuses before anything is queued", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          bulkhead: { maxConcurrent: 1, maxQueue: 10 },
          circuit: { failures: 1, openFor: "1 minute" }
        })
        yield* Effect.flip(Policy.apply(down, policy))
        const slow = yield* start(Bulkhead.limit(Effect.never, "p"))
        const refused = yield* start(Policy.apply(Effect.succeed("sent"), policy))
        assert.instanceOf(failureOf(refused.pollUnsafe()), CircuitBreaker.CircuitOpen)
        assert.deepStrictEqual(yield* inside("p"), { running: 1, waiting: 0, probes: 0 })
        yield* Fiber.interrupt(slow)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("an open circuit refuses before anything waits for the learned limit, whose slot a try holds to its end", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          retry: { backoff: everySecond, maxAttempts: 2 },
          limit: { max: 1 },
          bulkhead: { maxConcurrent: 1, maxQueue: 0 },
          circuit: { failures: 2, openFor: "1 minute" }
        })
        const limit = AdaptiveLimit.AdaptiveLimit.use((service) => service.state("p"))
        // Two calls wait for the limit, and none is refused by the bulkhead behind it.
        const calls = yield* Effect.forEach([1, 2], () => start(Policy.apply(Effect.sleep("1 second"), policy)))
        assert.deepInclude(yield* limit, { running: 1, waiting: 1 })
        yield* TestClock.adjust("2 seconds")
        for (const call of calls) assert.isTrue(Exit.isSuccess(yield* Fiber.await(call)))
        const failing = yield* start(Policy.apply(down, policy))
        assert.deepInclude(yield* limit, { running: 0 })
        yield* TestClock.adjust("1 second")
        assert.instanceOf(failureOf(failing.pollUnsafe()), Down)
        const slow = yield* start(AdaptiveLimit.withLimit(Effect.never, "p"))
        const refused = yield* start(Policy.apply(Effect.succeed("sent"), policy))
        assert.instanceOf(failureOf(refused.pollUnsafe()), CircuitBreaker.CircuitOpen)
        assert.deepInclude(yield* limit, { running: 1, waiting: 0 })
        yield* Fiber.interrupt(slow)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("who waits for a slot while the circuit opens is refused when it gets the slot, and passes it on", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          bulkhead: { maxConcurrent: 1 },
          circuit: { failures: 1, openFor: "1 minute" }
        })
        const gate = yield* Deferred.make<void>()
        const failing = yield* start(Policy.apply(Effect.andThen(Deferred.await(gate), down), policy))
        const waiting = yield* Effect.forEach([1, 2], () => start(Policy.apply(Effect.succeed("sent"), policy)))
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.await(failing)
        for (const fiber of waiting) {
          assert.instanceOf(failureOf(yield* Fiber.await(fiber)), CircuitBreaker.CircuitOpen)
        }
        assert.deepStrictEqual(yield* inside("p"), nothing)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("waiting for a slot is never a slow call", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          bulkhead: { maxConcurrent: 1 },
          circuit: {
            trip: CircuitBreaker.slowRate({ slowerThan: "2 seconds", size: 2, minimumCalls: 1, threshold: 0.1 })
          }
        })
        const calls = yield* Effect.forEach([1, 2, 3], () => start(Policy.apply(Effect.sleep("2 seconds"), policy)))
        yield* TestClock.adjust("6 seconds")
        for (const call of calls) assert.isTrue(Exit.isSuccess(yield* Fiber.await(call)))
        assert.strictEqual((yield* (yield* CircuitBreaker.CircuitBreaker).state("p"))._tag, "Closed")
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("a retry's delay holds no slot, and each try counts for the circuit", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          retry: { backoff: everySecond, maxAttempts: 3 },
          bulkhead: { maxConcurrent: 1, maxQueue: 0 },
          circuit: { failures: 3 }
        })
        const fiber = yield* start(Policy.apply(down, policy))
        assert.deepStrictEqual(yield* inside("p"), nothing)
        assert.strictEqual(
          yield* Policy.apply(
            Effect.succeed("between two tries"),
            Policy.make({
              name: "other",
              key: "p",
              bulkhead: { maxConcurrent: 1, maxQueue: 0 }
            })
          ),
          "between two tries"
        )
        yield* TestClock.adjust("2 seconds")
        assert.instanceOf(failureOf(fiber.pollUnsafe()), Down)
        assert.strictEqual((yield* (yield* CircuitBreaker.CircuitBreaker).state("p"))._tag, "Open")
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("who waits for a limit holds no slot, and every try asks for its share anew", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          retry: { backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 2 },
          quota: { requests: { limit: 60, burst: 1 } },
          bulkhead: { maxConcurrent: 1, maxQueue: 0 }
        })
        const fiber = yield* start(Policy.apply(down, policy))
        yield* TestClock.adjust("500 millis")
        assert.deepStrictEqual(yield* inside("p"), nothing)
        assert.strictEqual((yield* Quota.state("p")).waiting, 1)
        yield* TestClock.adjust("500 millis")
        assert.instanceOf(failureOf(fiber.pollUnsafe()), Down)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("an open circuit refuses before a limit is waited for", () =>
      Effect.gen(function*() {
        const policy = Policy.make({
          name: "p",
          quota: { requests: { limit: 60, burst: 1 } },
          circuit: { failures: 1, openFor: "1 minute" }
        })
        yield* Effect.flip(Policy.apply(down, policy))
        const refused = yield* start(Policy.apply(Effect.succeed("sent"), policy))
        assert.instanceOf(failureOf(refused.pollUnsafe()), CircuitBreaker.CircuitOpen)
        assert.strictEqual((yield* Quota.state("p")).waiting, 0)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("the quota of a provider may be shared by policies that have circuits of their own", () =>
      Effect.gen(function*() {
        const quota = { key: "provider", requests: 10 }
        const large = Policy.make({ name: "large", quota, circuit: {} })
        const small = Policy.keyed(Policy.make({ name: "small", quota, circuit: {} }), "small/tenant")
        yield* Policy.apply(Effect.void, large)
        yield* Policy.apply(Effect.void, small)
        assert.strictEqual((yield* Quota.state("provider")).limits.requests?.available, 8)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("a timeout bounds one try, the deadline all of them", () =>
      Effect.gen(function*() {
        const events: Array<string> = []
        const policy = Policy.make({
          name: "p",
          deadline: "5 seconds",
          retry: { backoff: everySecond },
          timeout: "1 second"
        })
        const fiber = yield* start(
          Policy.apply(Effect.never, policy).pipe(
            Effect.provideService(Telemetry.Listener, (event) => events.push(event._tag))
          )
        )
        yield* TestClock.adjust("10 seconds")
        const error = failureOf(fiber.pollUnsafe())
        // the third try ends at the deadline itself, where no further one fits
        assert.include(
          ["AttemptTimeout", "DeadlineExceeded"],
          error instanceof Object && "_tag" in error ? error._tag : ""
        )
        assert.strictEqual(events.filter((tag) => tag === "RetryScheduled").length, 2)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("hedges are inside the circuit: one call, one outcome", () =>
      Effect.gen(function*() {
        let tries = 0
        const policy = Policy.make({
          name: "p",
          circuit: { failures: 5 },
          hedge: { delay: "1 second", idempotent: true },
          timeout: "10 seconds"
        })
        const slow = Effect.suspend(() => ++tries === 1 ? Effect.never : Effect.succeed("second"))
        const fiber = yield* start(Policy.apply(slow, policy))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.succeed("second"))
        const state = yield* (yield* CircuitBreaker.CircuitBreaker).state("p")
        assert.deepStrictEqual(state, { _tag: "Closed", key: "p", calls: 1, failures: 0 })
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("a fallback answers when the tries are over, and the deadline bounds it too", () =>
      Effect.gen(function*() {
        const make = (fallback: Effect.Effect<string>) =>
          Policy.make({
            name: "p",
            deadline: "3 seconds",
            retry: { backoff: everySecond, maxAttempts: 2 },
            fallback: Fallback.step("template", fallback, { takes: "all" })
          })
        const answered = yield* start(Policy.apply(down, make(Effect.succeed("standard"))))
        const late = yield* start(Policy.apply(down, make(Effect.never)))
        yield* TestClock.adjust("1 second")
        const answer = yield* Fiber.join(answered)
        assert.deepStrictEqual([answer.value, answer.source, answer.degraded], ["standard", "template", true])
        assert.strictEqual(answer.errors[0]?.tag, "Down")
        yield* TestClock.adjust("2 seconds")
        assert.instanceOf(failureOf(late.pollUnsafe()), Deadline.DeadlineExceeded)
      }))
  })

  describe("guards made elsewhere", () => {
    it.effect("a circuit breaker that is not of this process is asked by its public methods", () =>
      Effect.gen(function*() {
        const asked: Array<string> = []
        const own = CircuitBreaker.CircuitBreaker.of({
          ...(yield* CircuitBreaker.make()),
          check: (key) => Effect.sync(() => asked.push(`check ${key}`)),
          protect: (key) => (self) => {
            asked.push(`protect ${key}`)
            return self
          }
        })
        const policy = Policy.make({ name: "p", bulkhead: {}, circuit: { failures: 1 } })
        const program = Policy.apply(Effect.succeed("sent"), policy)
        assert.strictEqual(yield* Effect.provideService(program, CircuitBreaker.CircuitBreaker, own), "sent")
        assert.deepStrictEqual(asked, ["check p", "protect p"])
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("a bulkhead that is not of this process is asked by its public methods", () =>
      Effect.gen(function*() {
        const asked: Array<string> = []
        const own = Bulkhead.Bulkhead.of({
          ...(yield* Bulkhead.make()),
          limit: (key, options) => (self) => {
            asked.push(`limit ${key} ${options?.maxConcurrent}`)
            return self
          }
        })
        const policy = Policy.make({ name: "p", bulkhead: { maxConcurrent: 7 }, circuit: { failures: 1 } })
        const program = Policy.apply(Effect.succeed("sent"), policy)
        assert.strictEqual(yield* Effect.provideService(program, Bulkhead.Bulkhead, own), "sent")
        assert.deepStrictEqual(asked, ["limit p 7"])
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("layerNoop lets every call through", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "p", bulkhead: { maxConcurrent: 1, maxQueue: 0 }, circuit: { failures: 1 } })
        yield* Effect.flip(Policy.apply(down, policy))
        const slow = yield* start(Policy.apply(Effect.never, policy))
        assert.strictEqual(yield* Policy.apply(Effect.succeed("sent"), policy), "sent")
        yield* Fiber.interrupt(slow)
      }).pipe(Effect.provide(Policy.layerNoop)))

    it.effect("what the layer says for the very key wins over the policy", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "p", circuit: { failures: 1 } })
        yield* Effect.flip(Policy.apply(down, policy))
        assert.strictEqual(yield* Policy.apply(Effect.succeed("sent"), policy), "sent")
      }).pipe(
        Effect.provide(CircuitBreaker.layer({ keys: { p: { trip: CircuitBreaker.consecutive(2) } } }))
      ))
  })

  describe("interruption", () => {
    const policy = Policy.make({
      name: "p",
      deadline: "1 minute",
      retry: { backoff: everySecond, maxAttempts: 2 },
      bulkhead: { maxConcurrent: 1, maxQueue: 1 },
      circuit: { failures: 5 },
      timeout: "10 seconds"
    })
    const arrange = Effect.sync(() => {
      let calls = 0
      const effect = Effect.suspend(() => ++calls === 1 ? Effect.andThen(Effect.sleep("1 second"), down) : Effect.void)
      return {
        effect: Policy.apply(effect, policy),
        drive: TestClock.adjust("3 seconds"),
        check: () => Effect.map(inside("p"), (left) => assert.deepStrictEqual(left, nothing))
      }
    })

    it.effect("at every step leaves no slot, no probe and no timer behind", () =>
      Effect.gen(function*() {
        assert.isAbove(yield* interruptEverywhere({ arrange }), 50)
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("at every step of a probe leaves its slot to the next one", () =>
      Effect.gen(function*() {
        const probing = Policy.make({
          name: "probe",
          bulkhead: { maxConcurrent: 1 },
          circuit: { failures: 1, openFor: "1 second", successes: 1_000_000 },
          timeout: "10 seconds"
        })
        yield* Effect.flip(Policy.apply(down, probing))
        yield* TestClock.adjust("1 second")
        yield* interruptEverywhere({
          arrange: Effect.sync(() => ({
            effect: Policy.apply(Effect.sleep("1 second"), probing),
            check: () => Effect.map(inside("probe"), (left) => assert.deepStrictEqual(left, nothing))
          }))
        })
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("by whatever cancels the call leaves nothing behind", () =>
      everyCancelSource({ arrange, after: "500 millis" }).pipe(Effect.provide(Policy.layer)))

    it.effect("of the caller is an interruption, whatever the guards make of the stop", () =>
      Effect.gen(function*() {
        const stubborn = Effect.uninterruptible(Effect.sleep("30 seconds"))
        const fiber = yield* start(Policy.apply(stubborn, policy))
        const interrupting = yield* start(Fiber.interrupt(fiber))
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* inside("p"), { running: 1, waiting: 0, probes: 0 })
        yield* TestClock.adjust("20 seconds")
        yield* Fiber.await(interrupting)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.deepStrictEqual(yield* inside("p"), nothing)
      }).pipe(Effect.provide(Policy.layer)))
  })

  it.effect("a key of its own is a circuit and a bulkhead of its own", () =>
    Effect.gen(function*() {
      const policy = Policy.make({ name: "p", bulkhead: { maxConcurrent: 1, maxQueue: 0 }, circuit: { failures: 1 } })
      const other = Policy.keyed(policy, "other")
      const busy = yield* start(Policy.apply(Effect.never, policy))
      assert.instanceOf(yield* Effect.flip(Policy.apply(Effect.void, policy)), Bulkhead.BulkheadFull)
      assert.instanceOf(yield* Effect.flip(Policy.apply(down, other)), Down)
      assert.instanceOf(yield* Effect.flip(Policy.apply(Effect.void, other)), CircuitBreaker.CircuitOpen)
      yield* Fiber.interrupt(busy)
      yield* Policy.apply(Effect.void, policy)
      assert.deepStrictEqual([other.name, other.key], ["p", "other"])
    }).pipe(Effect.provide(Policy.layer)))

  describe("what may be repeated", () => {
    const unclear = Effect.fail({ [Fault.verdictOf]: Fault.ambiguous })

    const triesOf = (policy: Policy.Policy) =>
      Effect.gen(function*() {
        let tries = 0
        const fiber = yield* start(Policy.apply(Effect.andThen(Effect.sync(() => ++tries), unclear), policy))
        yield* TestClock.adjust("1 minute")
        yield* Fiber.await(fiber)
        return tries
      })

    it.effect("is said once for the whole policy, or by a guard for itself", () =>
      Effect.gen(function*() {
        const retry = { backoff: everySecond, maxAttempts: 2 }
        assert.strictEqual(yield* triesOf(Policy.make({ name: "p", retry })), 1)
        assert.strictEqual(yield* triesOf(Policy.make({ name: "p", retry, idempotent: true })), 2)
        assert.strictEqual(yield* triesOf(Policy.make({ name: "p", retry: { ...retry, idempotent: true } })), 2)
        const never = { ...retry, idempotent: false }
        assert.strictEqual(yield* triesOf(Policy.make({ name: "p", retry: never, idempotent: true })), 1)
      }))

    it.effect("is hedged, and what is not is not", () =>
      Effect.gen(function*() {
        const startsOf = (policy: Policy.Policy) =>
          Effect.gen(function*() {
            let starts = 0
            const fiber = yield* start(Policy.apply(Effect.andThen(Effect.sync(() => ++starts), Effect.never), policy))
            yield* TestClock.adjust("2 seconds")
            yield* Fiber.interrupt(fiber)
            return starts
          })
        const hedge = { delay: "1 second" } as const
        assert.strictEqual(yield* startsOf(Policy.make({ name: "p", hedge })), 1)
        assert.strictEqual(yield* startsOf(Policy.make({ name: "p", hedge, idempotent: true })), 2)
        const never = { ...hedge, idempotent: false }
        assert.strictEqual(yield* startsOf(Policy.make({ name: "p", hedge: never, idempotent: true })), 1)
      }))

    it.effect("is also what retryIf says", () =>
      Effect.gen(function*() {
        const retry = { backoff: everySecond, maxAttempts: 3, retryIf: () => true }
        assert.strictEqual(yield* triesOf(Policy.make({ name: "p", retry })), 3)
      }))
  })

  it.effect("never more than the limit at any point, and everybody served", () =>
    Effect.gen(function*() {
      const policy = Policy.make({
        name: "p",
        retry: { backoff: everySecond, maxAttempts: 100, retryRejected: true },
        bulkhead: { maxConcurrent: 3, maxQueue: 20 },
        circuit: {},
        timeout: "1 minute"
      })
      let running = 0
      let most = 0
      const work = Effect.acquireUseRelease(
        Effect.sync(() => {
          most = Math.max(most, ++running)
        }),
        () => Effect.sleep("1 second"),
        () => Effect.sync(() => running--)
      )
      const all = yield* start(
        Effect.forEach(Array.from({ length: 100 }), () => Policy.apply(work, policy), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("2 minutes")
      assert.isTrue(Exit.isSuccess(yield* Fiber.await(all)))
      assert.strictEqual(most, 3)
    }).pipe(Effect.provide(Policy.layer)))

  it.effect("one policy may guard any number of fibers, that share nothing but the guards' services", () =>
    Effect.gen(function*() {
      const policy = Policy.make({ name: "p", retry: { backoff: everySecond, maxAttempts: 3 }, timeout: "1 second" })
      const tries = new Map<number, number>()
      const work = (n: number) =>
        Effect.suspend(() => {
          const count = (tries.get(n) ?? 0) + 1
          tries.set(n, count)
          return count === 3 ? Effect.succeed(n) : down
        })
      const all = yield* start(
        Effect.forEach([1, 2, 3], (n) => Policy.apply(work(n), policy), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* Fiber.await(all), Exit.succeed([1, 2, 3]))
    }))

  describe("describe", () => {
    it("prints the guards in their order, from the outside in", () => {
      const policy = Policy.make({
        name: "anthropic",
        key: "tenant",
        timeout: "60 seconds",
        hedge: { delay: Hedge.percentile({ p: 0.9 }), budget: "b" },
        circuit: { failures: 5, openFor: 30_000, successes: 2, countsAsFailure: () => true },
        bulkhead: { maxConcurrent: 3, maxWait: "90 seconds" },
        retry: { maxAttempts: 4, maxElapsed: "2 minutes", budget: "b", retryRejected: true },
        fallback: [Fallback.step("smaller", Effect.void), Fallback.step("template", Effect.void)],
        deadline: "5 minutes"
      })
      assert.deepStrictEqual(Policy.describe(policy).split("\n"), [
        "policy \"anthropic\", key \"tenant\"",
        "  deadline         5m",
        "  fallback         \"smaller\", then \"template\"",
        "  retry            at most 4 attempts, within 2m, budget \"b\", also what the guards refuse",
        "  bulkhead         maxConcurrent 3, maxWait 1m 30s",
        "  circuit          openFor 30s, countsAsFailure by a function, trip consecutive (failures 5), successThreshold 2",
        "  hedge            at most 2 attempts, the next after the 90th percentile, budget \"b\", " +
        "only of what is marked idempotent",
        "  attempt timeout  1m",
        "  work"
      ])
    })
    it("says of a guard without options that the layer decides", () => {
      const policy = Policy.make({
        name: "p",
        circuit: {},
        bulkhead: { maxQueue: undefined },
        hedge: { delay: 500, idempotent: true }
      })
      assert.deepStrictEqual(Policy.describe(policy).split("\n"), [
        "policy \"p\"",
        "  bulkhead         as the layer says",
        "  circuit          as the layer says",
        "  hedge            at most 2 attempts, the next after 500ms",
        "  work"
      ])
    })
    it("says of what must not be repeated that it is not", () => {
      const hedge = { delay: Hedge.percentile({ p: 0.55 }) }
      const policy = Policy.make({ name: "p", idempotent: false, retry: {}, hedge })
      assert.deepStrictEqual(Policy.describe(policy).split("\n"), [
        "policy \"p\"",
        "  retry            at most 5 attempts, nothing that may have happened",
        "  hedge            at most 2 attempts, the next after the 55th percentile, never: not idempotent",
        "  work"
      ])
    })
    it("says of a quota what it limits, and of what is estimated how", () => {
      const policy = Policy.make({
        name: "p",
        quota: {
          requests: { limit: 10, per: "1 second", burst: 2 },
          inputTokens: 40_000,
          maxWait: "90 seconds",
          cost: { inputTokens: 500 },
          usage: () => undefined
        }
      })
      assert.include(
        Policy.describe(policy),
        "  quota            requests 10 per 1s (2 at once), inputTokens 40000, maxWait 1m 30s, cost 500 inputTokens"
      )
    })

    it("says what is no number by what it is", () => {
      const policy = Policy.make({
        name: "p",
        circuit: { openFor: Backoff.exponential(), trip: CircuitBreaker.rateOver({ window: "1 minute" }) }
      })
      assert.match(Policy.describe(policy), /openFor by a schedule, trip /)
    })
  })

  describe("bad options fail when the policy is made, naming the option and the value", () => {
    // for callers without types, whose options come from a file
    const make = (options: Record<string, unknown>) =>
      Reflect.apply(Policy.make, undefined, [{ name: "p", ...options }])
    const step = Fallback.step("a", Effect.void)
    const cases: ReadonlyArray<readonly [option: string, value: string, make: () => unknown]> = [
      ["name", "\"\"", () => Policy.make({ name: "" })],
      ["name", "undefined", () => make({ name: undefined })],
      ["key", "\"\"", () => Policy.make({ name: "p", key: "" })],
      ["timeout", "0", () => Policy.make({ name: "p", timeout: 0 })],
      ["timeout", "Infinity", () => Policy.make({ name: "p", timeout: Infinity })],
      ["deadline", "-1", () => Policy.make({ name: "p", deadline: -1 })],
      ["retry.maxAttempts", "0", () => Policy.make({ name: "p", retry: { maxAttempts: 0 } })],
      ["limit.max", "0", () => Policy.make({ name: "p", limit: { max: 0 } })],
      ["bulkhead.maxConcurrent", "0", () => Policy.make({ name: "p", bulkhead: { maxConcurrent: 0 } })],
      ["quota.requests", "0", () => Policy.make({ name: "p", quota: { requests: 0 } })],
      ["quota.key", "\"\"", () => Policy.make({ name: "p", quota: { key: "" } })],
      ["quota", "3", () => make({ quota: 3 })],
      ["circuit.openFor", "0", () => Policy.make({ name: "p", circuit: { openFor: 0 } })],
      ["circuit.successes", "0", () => Policy.make({ name: "p", circuit: { successes: 0 } })],
      ["circuit.failures", "0", () => Policy.make({ name: "p", circuit: { failures: 0 } })],
      [
        "circuit.failures",
        "3",
        () => Policy.make({ name: "p", circuit: { failures: 3, trip: CircuitBreaker.consecutive(3) } })
      ],
      ["circuit.successes", "3", () => Policy.make({ name: "p", circuit: { successes: 3, successThreshold: 3 } })],
      ["hedge.delay", "-1", () => Policy.make({ name: "p", hedge: { delay: -1 } })],
      ["retry", "3", () => make({ retry: 3 })],
      ["bulkhead", "3", () => make({ bulkhead: 3 })],
      ["circuit", "true", () => make({ circuit: true })],
      ["circuit", "null", () => make({ circuit: null })],
      ["hedge", "\"1 second\"", () => make({ hedge: "1 second" })],
      ["fallback", "[]", () => make({ fallback: [] })],
      ["fallback", "{}", () => make({ fallback: [{}] })],
      ["fallback", "\"a\"", () => Policy.make({ name: "p", fallback: [step, step] })],
      ["fallback", "\"primary\"", () => Policy.make({ name: "p", fallback: Fallback.step("primary", Effect.void) })],
      ["key", "\"\"", () => Policy.keyed(Policy.make({ name: "p" }), "")]
    ]
    for (const [option, value, make] of cases) {
      it(`${option} ${value}`, () => {
        try {
          make()
        } catch (error) {
          assert.instanceOf(error, Fault.InvalidConfig)
          assert.include(error.message, `option "${option}" is`)
          assert.include(error.message, value)
          return
        }
        assert.fail("it was accepted")
      })
    }

    it("and the policy", () => {
      assert.throws(() => Policy.make({ name: "search", bulkhead: { maxConcurrent: 0 } }), /Policy.make of "search"/)
    })
  })
})
