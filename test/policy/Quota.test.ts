import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Duration, Effect, Exit, Fiber, Logger, Random, Schema } from "effect"
import { Bulkhead, Deadline, Fault, Policy, Quota, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Engine } from "../../src/policy/internal/quotaEngine.ts"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

class Refused extends Schema.TaggedError<Refused>("test/Refused")("Refused", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const throttled = (retryAfter?: Duration.Input) => Effect.fail(new Refused({ verdict: Fault.throttled(retryAfter) }))

const withLayer = (options: Quota.Options = {}) => <A, E>(self: Effect.Effect<A, E, Quota.Quota>) =>
  Effect.provide(self, Quota.layer(options))

const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 4 }))

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const available = (dimension: Quota.Dimension, key = "k") =>
  Effect.map(Quota.state(key), ({ limits }) => Math.round((limits[dimension]?.available ?? Number.NaN) * 1_000) / 1_000)

const counted = (key = "k") => Effect.map(Quota.state(key), ({ running, waiting }) => [running, waiting])

/** A call that notes when it is sent. */
const noting = (times: Array<number>) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.sync(() => times.push(now)))

const exceeded = (exit: Exit.Exit<unknown, unknown> | undefined): Quota.QuotaExceeded => {
  const error = exit !== undefined && Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  assert.instanceOf(error, Quota.QuotaExceeded)
  return error
}

describe("Quota", () => {
  describe("the balance", () => {
    it.effect("lets a burst through, then as many as refill, in the order in which they came", () =>
      Effect.gen(function*() {
        const times: Array<number> = []
        const order: Array<number> = []
        const calls = yield* Effect.forEach([0, 1, 2, 3, 4, 5], (id) =>
          start(
            Effect.andThen(noting(times), Effect.sync(() => order.push(id))).pipe(
              Quota.withQuota("k", { requests: { limit: 60, burst: 3 } })
            )
          ))
        yield* settle
        assert.deepStrictEqual(times, [0, 0, 0])
        yield* TestClock.adjust("3 seconds")
        yield* Effect.forEach(calls, Fiber.await)
        assert.deepStrictEqual(times, [0, 0, 0, 1_000, 2_000, 3_000])
        assert.deepStrictEqual(order, [0, 1, 2, 3, 4, 5])
      }).pipe(withLayer()))

    it.effect("a number is so many a minute, all of them at once", () =>
      Effect.gen(function*() {
        yield* Effect.replicateEffect(Quota.withQuota(Effect.void, "k", { requests: 5 }), 5)
        assert.strictEqual(yield* available("requests"), 0)
        yield* TestClock.adjust("12 seconds")
        assert.strictEqual(yield* available("requests"), 1)
        yield* TestClock.adjust("10 minutes")
        assert.strictEqual(yield* available("requests"), 5)
      }).pipe(withLayer()))

    it.effect("less than one request in a minute is one in some minutes", () =>
      Effect.gen(function*() {
        const options = { requests: 0.5, maxWait: "2 minutes" } as const
        yield* Quota.withQuota(Effect.void, "k", options)
        const next = yield* start(Quota.withQuota(Effect.void, "k", options))
        yield* TestClock.adjust("119 seconds")
        assert.isUndefined(next.pollUnsafe())
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(next)
      }).pipe(withLayer()))

    it.effect("a call waits for all of its limits together", () =>
      Effect.gen(function*() {
        const options = { requests: 60, inputTokens: 6_000, outputTokens: 600, tokens: 6_100 }
        const cost = (inputTokens: number, outputTokens: number) => ({
          ...options,
          cost: { inputTokens, outputTokens }
        })
        yield* Quota.withQuota(Effect.void, "k", cost(5_900, 0))
        const times: Array<number> = []
        const input = yield* start(Quota.withQuota(noting(times), "k", cost(200, 10)))
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(times, [1_000])
        yield* Fiber.join(input)
      }).pipe(withLayer()))

    it.effect("what a call really cost moves the balance by the difference, down and up", () =>
      Effect.gen(function*() {
        const ask = (outputTokens: number) =>
          Quota.withQuota(Effect.succeed({ usage: { inputTokens: 10, outputTokens } }), "k", {
            inputTokens: 1_000,
            outputTokens: 1_000,
            cost: { inputTokens: 100, outputTokens: 100 }
          })
        yield* ask(400)
        assert.strictEqual(yield* available("outputTokens"), 600)
        assert.strictEqual(yield* available("inputTokens"), 990)
        yield* ask(1_000)
        assert.strictEqual(yield* available("outputTokens"), -400)
      }).pipe(withLayer()))

    it.effect("what has come back by itself does not come back once more when a call turns out to have cost less", () =>
      Effect.gen(function*() {
        const options = { outputTokens: 8_000, cost: { outputTokens: 8_000 }, maxWait: "10 minutes" } as const
        const sent: Array<readonly [at: number, name: string]> = []
        const call = (name: string, seconds: number, outputTokens: number) =>
          start(
            Effect.gen(function*() {
              sent.push([yield* Clock.currentTimeMillis, name])
              yield* Effect.sleep(seconds * 1_000)
              return { usage: { outputTokens } }
            }).pipe(Quota.withQuota("k", options))
          )
        yield* call("long", 120, 100)
        yield* TestClock.adjust("119 seconds")
        yield* call("second", 60, 8_000)
        yield* call("third", 60, 8_000)
        yield* TestClock.adjust("5 minutes")
        assert.deepStrictEqual(sent, [[0, "long"], [119_000, "second"], [179_000, "third"]])
      }).pipe(Effect.provide(Quota.layer())))

    it.effect("input that was read from a cache counts only where the key says so", () =>
      Effect.gen(function*() {
        const result = Effect.succeed({ usage: { input_tokens: 10, cache_read_input_tokens: 500, output_tokens: 0 } })
        const cost = { inputTokens: 10, cachedInputTokens: 500 }
        yield* Quota.withQuota(result, "a", { inputTokens: 1_000, cost })
        yield* Quota.withQuota(result, "b", { inputTokens: 1_000, cost, countCachedInput: true })
        assert.strictEqual(yield* available("inputTokens", "a"), 990)
        assert.strictEqual(yield* available("inputTokens", "b"), 490)
      }).pipe(withLayer()))

    it.effect("what an estimate leaves out is what calls of the key have usually cost", () =>
      Effect.gen(function*() {
        const options = { outputTokens: 1_000 }
        yield* Quota.withQuota(Effect.succeed({ usage: { outputTokens: 300 } }), "k", options)
        assert.strictEqual(yield* available("outputTokens"), 700)
        const running = yield* start(Quota.withQuota(Effect.never, "k", options))
        assert.strictEqual(yield* available("outputTokens"), 400)
        yield* Fiber.interrupt(running)
      }).pipe(withLayer()))

    it.effect("a usage function of the user's says what a result has cost", () =>
      Effect.gen(function*() {
        yield* Quota.withQuota(Effect.succeed(250), "k", {
          outputTokens: 1_000,
          usage: (result: number) => ({ outputTokens: result })
        })
        assert.strictEqual(yield* available("outputTokens"), 750)
      }).pipe(withLayer()))

    it.effect("a usage that is no amount leaves the estimate", () =>
      Effect.gen(function*() {
        yield* Quota.withQuota(Effect.void, "k", {
          outputTokens: 1_000,
          cost: { outputTokens: 100 },
          usage: () => ({ outputTokens: Number.NaN })
        })
        assert.strictEqual(yield* available("outputTokens"), 900)
      }).pipe(withLayer()))
  })

  describe("who is refused", () => {
    it.effect("a cost above the burst fails at once, and says of what", () =>
      Effect.gen(function*() {
        const call = Quota.withQuota(Effect.void, "k", { inputTokens: 1_000, cost: { inputTokens: 1_001 } })
        const error = yield* Effect.flip(call)
        const { available: most, dimension, key, needed, reason } = error
        assert.deepStrictEqual([key, reason, dimension, needed, most], ["k", "TooLarge", "inputTokens", 1_001, 1_000])
        assert.isUndefined(error.retryAfter)
        assert.strictEqual(yield* available("inputTokens"), 1_000)
      }).pipe(withLayer()))

    it.effect("who cannot be sent within maxWait is refused at once, with the time, and reserves nothing", () =>
      Effect.gen(function*() {
        const options = { requests: { limit: 6, burst: 1 }, maxWait: "25 seconds" } as const
        yield* Quota.withQuota(Effect.void, "k", options)
        const waiting = yield* Effect.replicateEffect(start(Quota.withQuota(Effect.void, "k", options)), 2)
        const error = yield* Effect.flip(Quota.withQuota(Effect.void, "k", options))
        assert.strictEqual(error.reason, "WaitTooLong")
        assert.deepStrictEqual(error.retryAfter, Duration.seconds(30))
        assert.deepStrictEqual(error[Fault.verdictOf], Fault.rejected("30 seconds"))
        yield* TestClock.adjust("20 seconds")
        yield* Effect.forEach(waiting, Fiber.join)
        assert.strictEqual(yield* available("requests"), 0)
      }).pipe(withLayer()))

    it.effect("exactly maxWait is in time", () =>
      Effect.gen(function*() {
        const options = { requests: { limit: 6, burst: 1 }, maxWait: "10 seconds" } as const
        yield* Quota.withQuota(Effect.void, "k", options)
        const fiber = yield* start(Quota.withQuota(Effect.void, "k", options))
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(fiber)
      }).pipe(withLayer()))

    it.effect("who cannot be sent before the deadline around it is refused at once", () =>
      Effect.gen(function*() {
        const options = { requests: { limit: 6, burst: 1 } }
        yield* Quota.withQuota(Effect.void, "k", options)
        const error = yield* Quota.withQuota(Effect.void, "k", options).pipe(
          Deadline.within("5 seconds", { name: "d" }),
          Effect.flip
        )
        assert.strictEqual(error._tag === "QuotaExceeded" ? error.reason : undefined, "WaitTooLong")
        assert.strictEqual(yield* Clock.currentTimeMillis, 0)
      }).pipe(withLayer()))

    it.effect("a waiter whose time gets longer than thought is refused at maxWait and not later", () =>
      Effect.gen(function*() {
        const options = { requests: { limit: 6, burst: 1 }, maxWait: "15 seconds" } as const
        yield* Quota.withQuota(Effect.void, "k", options)
        const fiber = yield* start(Effect.exit(Quota.withQuota(Effect.void, "k", options)))
        yield* Quota.observe("k", { retryAfter: "1 minute" })
        yield* TestClock.adjust(14_999)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual(exceeded(yield* Fiber.join(fiber)).reason, "WaitTooLong")
        assert.deepStrictEqual(yield* counted(), [0, 0])
      }).pipe(withLayer()))

    it.effect("as many wait as may", () =>
      Effect.gen(function*() {
        const options = { requests: { limit: 60, burst: 1 }, maxQueue: 2 }
        yield* Quota.withQuota(Effect.void, "k", options)
        yield* Effect.replicateEffect(start(Quota.withQuota(Effect.void, "k", options)), 2)
        const error = yield* Effect.flip(Quota.withQuota(Effect.void, "k", options))
        assert.strictEqual(error.reason, "QueueFull")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* counted(), [0, 1])
      }).pipe(withLayer()))

    it("says what happened, to which key, and what to do", () => {
      const error = new Quota.QuotaExceeded({
        key: "anthropic",
        reason: "WaitTooLong",
        dimension: "inputTokens",
        needed: 900,
        available: 12.5,
        retryAfter: Duration.seconds(80)
      })
      assert.strictEqual(
        error.message,
        "Quota \"anthropic\" does not allow this call in time and sent nothing (it needs 900 input tokens, and 12 are " +
          "available, again in 1m 20s): allow more time, try again later, or fall back"
      )
    })
  })

  describe("priorities", () => {
    const one = { requests: { limit: 60, burst: 1 }, ageAfter: "10 seconds" } as const

    it.effect("interactive calls go before batch calls, each in the order in which they came", () =>
      Effect.gen(function*() {
        const order: Array<string> = []
        const call = (name: string, priority: Quota.Priority) =>
          start(Quota.withQuota(Effect.sync(() => order.push(name)), "k", { ...one, priority }))
        yield* Quota.withQuota(Effect.void, "k", one)
        yield* call("b1", "batch")
        yield* call("b2", "batch")
        yield* call("i1", "interactive")
        yield* call("i2", "interactive")
        yield* TestClock.adjust("4 seconds")
        assert.deepStrictEqual(order, ["i1", "i2", "b1", "b2"])
      }).pipe(withLayer()))

    it.effect("a batch call does not starve: it waits for nobody who came `ageAfter` later than it", () =>
      Effect.gen(function*() {
        const sent: Array<number> = []
        yield* Quota.withQuota(Effect.void, "k", one)
        const interactive = Effect.forkChild(Quota.withQuota(Effect.void, "k", one))
        yield* interactive
        yield* start(Quota.withQuota(noting(sent), "k", { ...one, priority: "batch" }))
        for (let second = 0; second < 20; second++) {
          yield* interactive
          yield* TestClock.adjust("1 second")
        }
        assert.strictEqual(sent.length, 1)
        assert.isAtMost(sent[0] ?? Infinity, 13_000)
        assert.isAtLeast(sent[0] ?? 0, 10_000)
      }).pipe(withLayer()))

    it.effect("the priority of the surroundings holds where a call brings none", () =>
      Effect.gen(function*() {
        const order: Array<string> = []
        yield* Quota.withQuota(Effect.void, "k", one)
        yield* start(
          Quota.withQuota(Effect.sync(() => order.push("b")), "k", one).pipe(
            Effect.provideService(Quota.CurrentPriority, "batch")
          )
        )
        yield* start(Quota.withQuota(Effect.sync(() => order.push("i")), "k", one))
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(order, ["i", "b"])
      }).pipe(withLayer()))
  })

  describe("refusals", () => {
    it.effect("one refusal closes the whole key until the time it says, and the waiters start spread out", () =>
      Effect.gen(function*() {
        const times: Array<number> = []
        yield* Effect.exit(Quota.withQuota(throttled("7 seconds"), "k"))
        assert.deepStrictEqual((yield* Quota.state("k")).gatedFor, Duration.seconds(7))
        yield* Effect.replicateEffect(start(Quota.withQuota(noting(times), "k", { maxWait: "10 minutes" })), 20)
        yield* TestClock.adjust("7 seconds")
        assert.deepStrictEqual(times, [])
        for (let i = 0; i < 600; i++) yield* TestClock.adjust("1 second")
        assert.strictEqual(times.length, 20)
        assert.strictEqual(new Set(times).size, 20)
        assert.isAbove(Math.min(...times), 7_000)
      }).pipe(withLayer()))

    it.effect("other keys go on", () =>
      Effect.gen(function*() {
        yield* Effect.exit(Quota.withQuota(throttled("7 seconds"), "k"))
        yield* Quota.withQuota(Effect.void, "other")
      }).pipe(withLayer()))

    it.effect("refusals of calls that were sent before the gate was closed do not close it again", () =>
      Effect.gen(function*() {
        const late = yield* Deferred.make<void>()
        const call = Effect.andThen(Deferred.await(late), throttled("50 seconds"))
        const fibers = yield* Effect.replicateEffect(
          start(Effect.exit(Quota.withQuota(call, "k", { requests: 10 }))),
          3
        )
        yield* Effect.exit(Quota.withQuota(throttled("2 seconds"), "k"))
        const after = yield* Quota.state("k")
        yield* TestClock.adjust("1 second")
        yield* Deferred.succeed(late, undefined)
        yield* Effect.forEach(fibers, Fiber.await)
        const later = yield* Quota.state("k")
        assert.deepStrictEqual(later.gatedFor, Duration.seconds(1))
        assert.strictEqual(later.requestsPerMinute, after.requestsPerMinute)
      }).pipe(withLayer()))

    it.effect("a gate is no longer than maxGate", () =>
      Effect.gen(function*() {
        yield* Effect.exit(Quota.withQuota(throttled("1 hour"), "k", { maxGate: "1 minute" }))
        assert.deepStrictEqual((yield* Quota.state("k")).gatedFor, Duration.minutes(1))
      }).pipe(withLayer()))

    it.effect("a refusal without a time closes the key shortly, longer each time until a call comes through", () =>
      Effect.gen(function*() {
        const gates: Array<number> = []
        const refuse = Effect.gen(function*() {
          yield* Effect.exit(Quota.withQuota(Effect.fail(new Refused({ verdict: Fault.overloaded() })), "k", {
            maxWait: "1 hour"
          }))
          gates.push(Duration.toMillis((yield* Quota.state("k")).gatedFor))
        })
        for (let i = 0; i < 12; i++) {
          const fiber = yield* start(refuse)
          for (let j = 0; j < 200 && fiber.pollUnsafe() === undefined; j++) yield* TestClock.adjust("5 seconds")
          yield* Fiber.join(fiber)
        }
        assert.isBelow(gates[0] ?? Infinity, 130)
        assert.isAbove(gates[4] ?? 0, 1_000)
        assert.isAbove(gates[11] ?? 0, 7_000)
        assert.isAtMost(gates[11] ?? Infinity, 12_500)
        const through = yield* start(Quota.withQuota(Effect.void, "k", { maxWait: "1 hour" }))
        yield* TestClock.adjust("10 minutes")
        yield* Fiber.join(through)
        yield* refuse
        assert.isBelow(gates[12] ?? Infinity, 130)
      }).pipe(withLayer()))

    it.effect("what is refused costs nothing; a spend limit is no rate limit and closes nothing", () =>
      Effect.gen(function*() {
        const exhausted = Effect.fail({ status: 429, error: { error: { code: "insufficient_quota" } } })
        const error = yield* Effect.flip(Quota.withQuota(exhausted, "k", { requests: 10 }))
        assert.strictEqual("status" in error ? error.status : undefined, 429)
        assert.deepStrictEqual((yield* Quota.state("k")).gatedFor, Duration.zero)
        const before = yield* available("outputTokens", "other")
        assert.isNaN(before)
        yield* Effect.exit(
          Quota.withQuota(throttled(0), "other", { outputTokens: 100, cost: { outputTokens: 60 } })
        )
        yield* TestClock.adjust("1 minute")
        assert.strictEqual(yield* available("outputTokens", "other"), 100)
      }).pipe(withLayer()))

    it.effect("what our own guards refuse inside was not sent and costs nothing", () =>
      Effect.gen(function*() {
        const full = Effect.fail(new Refused({ verdict: Fault.rejected("1 hour") }))
        yield* Effect.exit(Quota.withQuota(full, "k", { requests: 10 }))
        assert.strictEqual(yield* available("requests"), 10)
        assert.deepStrictEqual((yield* Quota.state("k")).gatedFor, Duration.zero)
      }).pipe(withLayer()))

    it.effect("any other failure has cost its request and its input", () =>
      Effect.gen(function*() {
        yield* Effect.exit(Quota.withQuota(Effect.fail("reset"), "k", {
          requests: 10,
          inputTokens: 100,
          outputTokens: 100,
          cost: { inputTokens: 30, outputTokens: 50 }
        }))
        assert.strictEqual(yield* available("requests"), 9)
        assert.strictEqual(yield* available("inputTokens"), 70)
        assert.strictEqual(yield* available("outputTokens"), 100)
      }).pipe(withLayer()))
  })

  describe("headers", () => {
    const answered = (remaining: number, limit = 60) =>
      Effect.succeed({ rateLimits: { requests: { limit, remaining, reset: "1970-01-01T00:01:00Z" } } })

    it.effect("set the limits of a key that has none", () =>
      Effect.gen(function*() {
        yield* Quota.withQuota(answered(10), "k")
        const { limits, requestsPerMinute } = yield* Quota.state("k")
        assert.deepStrictEqual(limits, {
          requests: { limit: 60, per: Duration.minutes(1), burst: 60, available: 10 }
        })
        assert.isUndefined(requestsPerMinute)
      }).pipe(withLayer()))

    it.effect("correct the balance of a configured limit downwards and never upwards", () =>
      Effect.gen(function*() {
        yield* Quota.withQuota(answered(5), "k", { requests: 60 })
        assert.strictEqual(yield* available("requests"), 5)
        yield* Quota.withQuota(answered(50), "k")
        assert.strictEqual(yield* available("requests"), 4)
      }).pipe(withLayer()))

    it.effect("what is in flight and was not seen yet is counted off", () =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        const first = yield* start(
          Quota.withQuota(Effect.andThen(Deferred.await(gate), answered(20)), "k", { requests: 60 })
        )
        yield* Effect.replicateEffect(start(Quota.withQuota(Effect.never, "k")), 7)
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(first)
        assert.strictEqual(yield* available("requests"), 13)
      }).pipe(withLayer()))

    it.effect("of a call sent before the one that corrected last are ignored", () =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        const old = yield* start(
          Quota.withQuota(Effect.andThen(Deferred.await(gate), answered(1)), "k", { requests: 60 })
        )
        yield* Quota.withQuota(answered(30), "k")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(old)
        assert.strictEqual(yield* available("requests"), 30)
      }).pipe(withLayer()))

    it.effect("of a call sent before the last refusal are ignored", () =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        const old = yield* start(
          Quota.withQuota(Effect.andThen(Deferred.await(gate), answered(1)), "k", { requests: 60 })
        )
        yield* Effect.exit(Quota.withQuota(throttled("30 seconds"), "k"))
        yield* TestClock.adjust("30 seconds")
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(old)
        assert.strictEqual(yield* available("requests"), 30)
      }).pipe(withLayer()))

    it("are read in the spellings of Anthropic and OpenAI", () => {
      const anthropic = Quota.fromHeaders({
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-remaining": "49",
        "anthropic-ratelimit-requests-reset": "2026-10-01T00:00:00Z",
        "anthropic-ratelimit-input-tokens-remaining": "1000",
        "retry-after": "3"
      }, 0)
      assert.deepStrictEqual(anthropic?.requests, { limit: 50, remaining: 49, reset: "2026-10-01T00:00:00Z" })
      assert.deepStrictEqual(anthropic?.inputTokens, { limit: undefined, remaining: 1_000, reset: undefined })
      assert.deepStrictEqual(anthropic?.retryAfter, Duration.seconds(3))
      const openai = Quota.fromHeaders(
        new Headers({ "x-ratelimit-limit-requests": "200", "x-ratelimit-remaining-requests": "0" }),
        0
      )
      assert.deepStrictEqual(openai?.requests, { limit: 200, remaining: 0, reset: undefined })
      assert.isUndefined(Quota.fromHeaders({ "content-type": "text/html" }, 0))
    })

    it.effect("what cannot be keeps no key closed", () =>
      Effect.gen(function*() {
        const told = [
          { limit: 100, remaining: -1e18 },
          { limit: 1e-300, remaining: 0 },
          { limit: 100, remaining: 0, reset: "8760000h" },
          { limit: 1e308, remaining: 1e308 },
          { limit: -1, remaining: -1, reset: "-1s" }
        ]
        for (const requests of told) {
          const key = JSON.stringify(requests)
          yield* Quota.observe(key, { requests })
          for (let times = 0; times < 3; times++) {
            const call = yield* start(Quota.withQuota(Effect.void, key, { maxWait: "15 minutes" }))
            yield* TestClock.adjust("15 minutes")
            yield* Fiber.join(call)
          }
        }
      }).pipe(withLayer()))

    it.effect("a limit that is back only after hours is not taken for a minute's", () =>
      Effect.gen(function*() {
        yield* Quota.observe("k", { requests: { limit: 200, remaining: 0, reset: "24h" } })
        assert.deepStrictEqual((yield* Quota.state("k")).limits.requests?.per, Duration.hours(24))
      }).pipe(withLayer()))
  })

  describe("interruption", () => {
    it.effect("a waiter gives back all of it and its place", () =>
      Effect.gen(function*() {
        const options = { requests: { limit: 60, burst: 1 } }
        yield* Quota.withQuota(Effect.void, "k", options)
        const waiting = yield* Effect.replicateEffect(start(Quota.withQuota(Effect.void, "k", options)), 3)
        assert.deepStrictEqual(yield* counted(), [0, 3])
        yield* Effect.forEach(waiting.slice(0, 2), Fiber.interrupt)
        yield* TestClock.adjust("1 second")
        yield* Effect.forEach(waiting.slice(2), Fiber.join)
        assert.deepStrictEqual(yield* counted(), [0, 0])
        assert.strictEqual(yield* available("requests"), 0)
      }).pipe(withLayer()))

    it.effect("a call that had been sent has cost its request and its input, and gives the output back", () =>
      Effect.gen(function*() {
        const fiber = yield* start(Quota.withQuota(Effect.never, "k", {
          requests: 10,
          inputTokens: 100,
          outputTokens: 100,
          cost: { inputTokens: 30, outputTokens: 50 }
        }))
        yield* Fiber.interrupt(fiber)
        assert.strictEqual(yield* available("requests"), 9)
        assert.strictEqual(yield* available("inputTokens"), 70)
        assert.strictEqual(yield* available("outputTokens"), 100)
        assert.deepStrictEqual(yield* counted(), [0, 0])
      }).pipe(withLayer()))

    const arranged = Effect.gen(function*() {
      const quota = yield* Quota.make({ requests: { limit: 60, burst: 2 }, outputTokens: 1_000 })
      let sent = 0
      const options = { cost: { outputTokens: 100 } }
      const work = Effect.suspend(() => {
        sent++
        return Effect.sleep("100 millis")
      })
      yield* quota.withQuota("k", options)(Effect.void)
      yield* quota.withQuota("k", options)(Effect.void)
      return {
        effect: work.pipe(quota.withQuota("k", options)),
        check: () =>
          Effect.gen(function*() {
            yield* TestClock.adjust("1 hour")
            const state = yield* quota.state("k")
            assert.deepStrictEqual([state.running, state.waiting], [0, 0])
            assert.strictEqual(state.limits.requests?.available, 2)
            assert.strictEqual(state.limits.outputTokens?.available, 1_000)
            // nothing that is left over keeps the next one from being sent
            yield* quota.withQuota("k", options)(Effect.void)
            assert.isAtMost(sent, 1)
          })
      }
    })

    it.effect("nothing leaks at any step", () => interruptEverywhere({ arrange: arranged }))

    it.effect("nothing leaks, however it is cancelled", () => everyCancelSource({ arrange: arranged }))

    it.effect("a reservation that is interrupted anywhere gives all of it back", () =>
      interruptEverywhere({
        arrange: Effect.gen(function*() {
          const quota = yield* Quota.make({ requests: { limit: 60, burst: 1 } })
          yield* quota.withQuota("k")(Effect.void)
          const from = yield* Clock.currentTimeMillis
          return {
            effect: Effect.scoped(Effect.andThen(quota.reserve("k"), Effect.sleep("1 second"))),
            check: () =>
              Effect.gen(function*() {
                const passed = (yield* Clock.currentTimeMillis) - from
                const { limits, running, waiting } = yield* quota.state("k")
                assert.deepStrictEqual([running, waiting], [0, 0])
                // what it reserved is back: only of the first call something may be missing
                assert.strictEqual(limits.requests?.available, Math.min(1, passed / 1_000))
              })
          }
        })
      }))
  })

  describe("reserve", () => {
    it.effect("is settled once, whatever comes after", () =>
      Effect.gen(function*() {
        const reservation = yield* Quota.reserve("k", { outputTokens: 100, cost: { outputTokens: 40 } })
        assert.strictEqual(yield* available("outputTokens"), 60)
        yield* reservation.settle({ outputTokens: 10 })
        assert.strictEqual(yield* available("outputTokens"), 90)
        yield* reservation.cancel
        yield* reservation.settle()
        assert.strictEqual(yield* available("outputTokens"), 90)
      }).pipe(Effect.scoped, withLayer()))

    it.effect("what has not been settled is given back at the end of its scope", () =>
      Effect.gen(function*() {
        yield* Effect.scoped(Quota.reserve("k", { outputTokens: 100, cost: { outputTokens: 40 } }))
        assert.strictEqual(yield* available("outputTokens"), 100)
        assert.deepStrictEqual(yield* counted(), [0, 0])
      }).pipe(withLayer()))

    it.effect("is refused like a call", () =>
      Effect.gen(function*() {
        const reservation = yield* Quota.reserve("k")
        yield* reservation.refused({ status: 429, headers: { "retry-after": "4" } })
        assert.deepStrictEqual((yield* Quota.state("k")).gatedFor, Duration.seconds(4))
      }).pipe(Effect.scoped, withLayer()))

    it.effect("hears of limits before it has ended", () =>
      Effect.gen(function*() {
        const reservation = yield* Quota.reserve("k")
        yield* reservation.observe({ requests: { limit: 10, remaining: 3 } })
        assert.strictEqual(yield* available("requests"), 3)
        assert.deepStrictEqual(yield* counted(), [1, 0])
      }).pipe(Effect.scoped, withLayer()))
  })

  describe("options", () => {
    it.effect("a key of the layer wins over those of a caller", () =>
      Effect.gen(function*() {
        yield* Quota.withQuota(Effect.void, "k", { requests: 10 })
        assert.strictEqual(yield* available("requests"), 2)
      }).pipe(withLayer({ keys: { k: { requests: 3 } } })))

    it.effect("those of the first caller hold, and others are warned of once", () => {
      const logs: Array<string> = []
      return Effect.gen(function*() {
        yield* Quota.withQuota(Effect.void, "k", { requests: 10 })
        yield* Quota.withQuota(Effect.void, "k", { requests: 10 })
        yield* Quota.withQuota(Effect.void, "k", { requests: 20, maxQueue: 1 })
        yield* Quota.withQuota(Effect.void, "k", { requests: 20 })
        assert.strictEqual(yield* available("requests"), 6)
        assert.deepStrictEqual(logs, [
          "Quota \"k\" keeps the options of its first caller; those of another one differ in requests, maxQueue and do " +
          "nothing: configure the key in the layer (\"keys\"), or use another key"
        ])
      }).pipe(withLayer(), Effect.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))])))
    })

    it("are refused when they cannot work, by name", () => {
      const refused = (options: Quota.CallOptions, option: string, key = "k") => {
        try {
          Quota.withQuota(key, options)
        } catch (error) {
          assert.instanceOf(error, Fault.InvalidConfig)
          assert.strictEqual(error.option, option)
          return
        }
        assert.fail(`${option} was accepted`)
      }
      refused({ requests: 0 }, "requests")
      refused({ inputTokens: Number.NaN }, "inputTokens")
      refused({ tokens: { limit: -1 } }, "tokens.limit")
      refused({ outputTokens: { limit: 1, per: 0 } }, "outputTokens.per")
      refused({ outputTokens: { limit: 1, burst: Infinity } }, "outputTokens.burst")
      refused({ maxQueue: -1 }, "maxQueue")
      refused({ maxWait: "never" as "1 second" }, "maxWait")
      refused({ requests: { limit: 10, burst: 0.5 } }, "requests.burst")
      refused({ priority: "urgent" as "batch" }, "priority")
      refused({ cost: { outputTokens: -1 } }, "cost.outputTokens")
      refused({}, "key", "")
      const none = JSON.parse("null")
      refused({ cost: none }, "cost")
      refused(none, "options")
      assert.throws(() => new Engine({ keys: { a: none } }), Fault.InvalidConfig)
      assert.throws(() => new Engine(none), Fault.InvalidConfig)
      const misspelt = { limit: 1, bursts: 1 }
      refused({ requests: misspelt }, "requests.bursts")
      assert.throws(() => Quota.reserve("k", { priority: "urgent" as "batch" }), Fault.InvalidConfig)
      assert.throws(() => Policy.make({ name: "k", quota: { priority: "urgent" as "batch" } }), Fault.InvalidConfig)
    })

    it.effect("a key of the layer keeps the caller's maxWait, unless it names one", () =>
      Effect.gen(function*() {
        const calls = { k: "WaitTooLong", named: undefined } as const
        for (const [key, reason] of Object.entries(calls)) {
          yield* Quota.withQuota(Effect.void, key)
          const fiber = yield* start(Effect.exit(Quota.withQuota(Effect.void, key, { maxWait: 0 })))
          yield* TestClock.adjust("1 minute")
          const exit = yield* Fiber.join(fiber)
          assert.strictEqual(Exit.isSuccess(exit) ? undefined : exceeded(exit).reason, reason)
        }
      }).pipe(withLayer({
        keys: {
          k: { requests: { limit: 60, burst: 1 } },
          named: { requests: { limit: 60, burst: 1 }, maxWait: "1 minute" }
        }
      })))

    it.effect("a caller's limit that a key of the layer does not name is warned of once", () => {
      const logs: Array<string> = []
      return Effect.gen(function*() {
        yield* Quota.withQuota(Effect.void, "k", { requests: 10, outputTokens: 5 })
        yield* Quota.withQuota(Effect.void, "k", { requests: 10, outputTokens: 5 })
        yield* Quota.withQuota(Effect.void, "other", { requests: 10 })
        assert.deepStrictEqual(logs, [
          "Quota \"k\" is configured by name in the layer (\"keys\"), without a limit on outputTokens; that of a caller " +
          "does nothing: name it in the layer, too"
        ])
      }).pipe(
        withLayer({ keys: { k: { requests: 3 }, other: { requests: 3 } } }),
        Effect.provide(Logger.layer([Logger.make(({ message }) => logs.push(String(message)))]))
      )
    })

    it.effect("a function that gives a cost that is no amount is a defect of the program", () =>
      Effect.gen(function*() {
        const cost = () => ({ inputTokens: Number.NaN })
        const exit = yield* Effect.exit(Quota.withQuota(Effect.void, "k", { cost }))
        const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.instanceOf(error, Fault.InvalidConfig)
        assert.strictEqual(error.option, "cost.inputTokens")
        assert.deepStrictEqual(yield* counted(), [0, 0])
      }).pipe(withLayer()))

    it.effect("a service that does nothing lets everything through", () =>
      Effect.gen(function*() {
        yield* Quota.withQuota(Effect.void, "k", { requests: 1 })
        yield* Quota.withQuota(Effect.void, "k", { requests: 1 })
        assert.deepStrictEqual((yield* Quota.state("k")).limits, {})
      }).pipe(Effect.provide(Quota.layerNoop)))
  })

  describe("keys", () => {
    it.effect("unused ones are forgotten, and never while that would let more through", () =>
      Effect.gen(function*() {
        const engine = new Engine({ requests: 60, maxKeys: 10, idleTimeToLive: "1 second" })
        const context = yield* Effect.context()
        for (let i = 0; i < 30; i++) {
          const pass = engine.tryTake(`k${i}`, undefined, 0, context)
          assert.isDefined(pass)
          if (pass !== undefined) engine.end(pass, { _tag: "Used", usage: undefined }, undefined, 0, context)
        }
        assert.strictEqual(engine.size, 30)
        assert.strictEqual(engine.snapshots(999).length, 30)
        assert.strictEqual(engine.snapshots(1_500).length, 0)
      }))
  })

  it.effect("tells of waiting, of refusing and of closing", () => {
    const events: Array<Telemetry.Event> = []
    return Effect.gen(function*() {
      const options = { requests: { limit: 60, burst: 1 } }
      yield* Quota.withQuota(Effect.void, "k", options)
      const waiting = yield* start(Quota.withQuota(Effect.void, "k", options))
      yield* Effect.exit(Quota.withQuota(Effect.void, "k", { ...options, maxWait: "1 second" }))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(waiting)
      yield* Effect.exit(Quota.withQuota(throttled("3 seconds"), "other"))
      assert.deepStrictEqual(events, [
        { _tag: "QuotaRejected", key: "k", reason: "WaitTooLong", waitedMillis: 0 },
        { _tag: "QuotaWaited", key: "k", priority: "interactive", waitedMillis: 1_000 },
        { _tag: "QuotaGated", key: "other", verdict: "Throttled", forMillis: 3_000 }
      ])
    }).pipe(withLayer(), Effect.provideService(Telemetry.Listener, (event) => events.push(event)))
  })

  it.effect("a slot of a bulkhead inside is waited for with the cost reserved", () =>
    Effect.gen(function*() {
      const call = Effect.sleep("1 second").pipe(
        Bulkhead.limit("k", { maxConcurrent: 1 }),
        Quota.withQuota("k", { requests: 10 })
      )
      const calls = yield* Effect.replicateEffect(start(call), 2)
      assert.strictEqual(yield* available("requests"), 8)
      yield* TestClock.adjust("2 seconds")
      yield* Effect.forEach(calls, Fiber.join)
    }).pipe(Effect.provide(Bulkhead.layer()), withLayer(), Random.withSeed(1)))
})
