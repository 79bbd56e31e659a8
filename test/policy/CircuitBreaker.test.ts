import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Layer,
  Logger,
  References,
  Schedule,
  Schema,
  type Scope,
  Stream
} from "effect"
import { Backoff, CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Circuits, engineOf } from "../../src/policy/internal/circuitEngine.ts"

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const fail = (verdict: Fault.Verdict) => Effect.fail(new Told({ verdict }))
const down = fail(Fault.transient)
const ok = Effect.succeed("ok")

const call = <A, E, R>(self: Effect.Effect<A, E, R>, key = "k") => Effect.exit(CircuitBreaker.protect(self, key))

const times = <A, E, R>(n: number, self: Effect.Effect<A, E, R>) => Effect.replicateEffect(self, n, { discard: true })

const breaker = CircuitBreaker.CircuitBreaker

const stateOf = (key = "k") => breaker.use((service) => service.state(key))
const tagOf = (key = "k") => Effect.map(stateOf(key), (state) => state._tag)

/** The error with which the circuit refuses a call; a defect if it does not. */
const refusal = (key = "k") =>
  CircuitBreaker.protect(Effect.void, key).pipe(
    Effect.andThen(() => Effect.die(`the circuit of ${key} let a call through`)),
    Effect.flip
  )

const isRefused = (exit: Exit.Exit<unknown, unknown>) =>
  Exit.isFailure(exit) &&
  exit.cause.reasons.some((reason) => reason._tag === "Fail" && reason.error instanceof CircuitBreaker.CircuitOpen)

/** A call that runs until `end` is given, and then ends like it. */
const start = (key = "k") =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<Effect.Effect<unknown, unknown>>()
    const fiber = yield* Effect.flatten(Deferred.await(gate)).pipe(
      CircuitBreaker.protect(key),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    return {
      fiber,
      end: (end: Effect.Effect<unknown, unknown>) => Effect.andThen(Deferred.succeed(gate, end), Fiber.join(fiber)),
      interrupt: Fiber.interrupt(fiber)
    }
  })

/** Opens the circuit with the default rule. */
const trip = (key = "k") => times(5, call(down, key))

const withBreaker =
  (options: CircuitBreaker.Options = {}) =>
  <A, E>(self: Effect.Effect<A, E, CircuitBreaker.CircuitBreaker | Scope.Scope>) =>
    Effect.provide(self, CircuitBreaker.layer(options))

const quick: CircuitBreaker.Options = {
  trip: CircuitBreaker.consecutive(1),
  openFor: "10 seconds",
  successThreshold: 1,
  probeTimeout: "1 minute"
}

describe("CircuitBreaker", () => {
  describe("states", () => {
    it.effect("opens after five failures in a row for a minute, and closes after two successes", () =>
      Effect.gen(function*() {
        yield* times(4, call(down))
        yield* call(ok)
        yield* times(4, call(down))
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 9, failures: 8 })
        yield* call(down)
        assert.deepStrictEqual(yield* stateOf(), {
          _tag: "Open",
          key: "k",
          retryAfter: Duration.minutes(1),
          openings: 1
        })
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
        assert.strictEqual(yield* tagOf(), "HalfOpen")
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
      }).pipe(withBreaker()))

    it.effect("at exactly the end of the open time a call is admitted, one millisecond before it is not", () =>
      Effect.gen(function*() {
        yield* trip()
        yield* TestClock.adjust(59_999)
        assert.deepStrictEqual((yield* refusal()).retryAfter, Duration.millis(1))
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
      }).pipe(withBreaker()))

    it.effect("a call is slow, and a probe is late, at exactly the time given, whatever fraction of a millisecond the clock shows", () =>
      Effect.gen(function*() {
        // Milliseconds lose a digit where they pass a power of two, and only there a difference of two can be off.
        const passing = (power: number) => BigInt(2 ** power) * 1_000_000n - 500_000_000n + BigInt(power * 33_337)
        let nanos = 0n
        for (let power = 15; power < 32; power++) {
          const [call, probe] = [`call-${power}`, `probe-${power}`]
          yield* Effect.exit(CircuitBreaker.protect(down, probe))
          yield* TestClock.adjust(Duration.nanos(passing(power) - nanos))
          nanos = passing(power) + 1_000_000_000n
          const [inTime, late] = yield* Effect.all([start(call), start(probe)])
          yield* TestClock.adjust("1 second")
          yield* inTime.end(ok)
          yield* late.end(ok)
          assert.deepStrictEqual([yield* tagOf(call), yield* tagOf(probe)], ["Closed", "HalfOpen"])
        }
      }).pipe(withBreaker({
        ...quick,
        probeTimeout: "1 second",
        idleTimeToLive: "100 days",
        trip: CircuitBreaker.any(
          CircuitBreaker.consecutive(1),
          CircuitBreaker.slowRate({ slowerThan: "1 second", minimumCalls: 1 })
        )
      })))

    it.effect("of many callers at that tick exactly the permitted probes run, and the rest is refused at once with the remaining time", () =>
      Effect.gen(function*() {
        yield* trip()
        yield* TestClock.adjust("1 minute")
        const calls = yield* Effect.replicateEffect(start(), 50)
        const refused = calls.flatMap(({ fiber }) => fiber.pollUnsafe() ?? [])
        assert.strictEqual(refused.length, 47)
        assert.deepStrictEqual(yield* stateOf(), {
          _tag: "HalfOpen",
          key: "k",
          probes: 3,
          successes: 0,
          failures: 0,
          openings: 1
        })
        yield* TestClock.adjust("20 seconds")
        const error = yield* refusal()
        assert.strictEqual(error.state, "HalfOpen")
        assert.deepStrictEqual(error.retryAfter, Duration.seconds(70))
      }).pipe(withBreaker({ halfOpenPermits: 3, successThreshold: 3, probeTimeout: "90 seconds" })))

    it.effect("a failed probe opens the circuit again", () =>
      Effect.gen(function*() {
        yield* trip()
        yield* TestClock.adjust("1 minute")
        yield* call(ok)
        yield* call(down)
        assert.deepStrictEqual(yield* stateOf(), {
          _tag: "Open",
          key: "k",
          retryAfter: Duration.minutes(1),
          openings: 2
        })
      }).pipe(withBreaker()))

    it.effect("success out of n reopens as soon as it cannot be reached, and not before", () =>
      Effect.gen(function*() {
        yield* trip()
        yield* TestClock.adjust("1 minute")
        yield* call(down)
        yield* call(ok)
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "HalfOpen")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
        yield* TestClock.adjust("1 minute")
        yield* call(down)
        yield* call(down)
        yield* times(3, call(ok))
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(withBreaker({ successThreshold: 3, successOutOf: 5 })))

    it.effect("closing clears the window", () =>
      Effect.gen(function*() {
        yield* times(4, call(down))
        assert.strictEqual(yield* tagOf(), "Open")
        yield* TestClock.adjust("1 minute")
        yield* times(2, call(ok))
        yield* times(3, call(down))
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(withBreaker({ trip: CircuitBreaker.rate({ size: 10, minimumCalls: 4, threshold: 0.5 }) })))

    it.effect("two keys never touch each other", () =>
      Effect.gen(function*() {
        const probing = yield* start("b")
        yield* trip("a")
        assert.deepStrictEqual([yield* tagOf("a"), yield* tagOf("b")], ["Open", "Closed"])
        yield* times(4, call(down, "b"))
        yield* probing.end(down)
        assert.strictEqual(yield* tagOf("b"), "Open")
        yield* TestClock.adjust("1 minute")
        yield* times(2, call(ok, "a"))
        assert.deepStrictEqual([yield* tagOf("a"), yield* tagOf("b")], ["Closed", "Open"])
        yield* breaker.use((service) => service.isolate("a"))
        assert.deepStrictEqual(yield* call(ok, "b"), Exit.succeed("ok"))
      }).pipe(withBreaker()))

    it.effect("wall clock jumps change nothing", () =>
      Effect.gen(function*() {
        const clock = yield* Clock.Clock
        let wall = 0
        const jumping: Clock.Clock = {
          monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
          monotonicTimeNanos: clock.monotonicTimeNanos,
          sleep: (duration) => clock.sleep(duration),
          currentTimeMillisUnsafe: () => wall,
          currentTimeMillis: Effect.sync(() => wall),
          currentTimeNanosUnsafe: () => BigInt(wall) * 1_000_000n,
          currentTimeNanos: Effect.sync(() => BigInt(wall) * 1_000_000n)
        }
        const jump = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.provideService(self, Clock.Clock, jumping)
        yield* jump(trip())
        wall = 1e12
        assert.deepStrictEqual((yield* jump(refusal())).retryAfter, Duration.minutes(1))
        wall = -1e12
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* jump(call(ok)), Exit.succeed("ok"))
      }).pipe(withBreaker()))
  })

  describe("fencing", () => {
    const endings = [["success", ok], ["failure", down], ["defect", Effect.die("bug")]] as const

    for (const [name, ending] of endings) {
      it.effect(`a call started before a trip that ends in ${name} while open, half-open or recovered changes nothing`, () =>
        Effect.gen(function*() {
          const [early, later, last, evenLater] = yield* Effect.all([start(), start(), start(), start()])
          yield* trip()
          const open = yield* stateOf()
          yield* early.end(ending)
          assert.deepStrictEqual(yield* stateOf(), open)

          yield* TestClock.adjust("1 minute")
          yield* call(ok)
          const halfOpen = yield* stateOf()
          yield* later.end(ending)
          assert.deepStrictEqual(yield* stateOf(), halfOpen)

          yield* call(ok)
          yield* call(down)
          const closed = yield* stateOf()
          yield* last.end(ending)
          assert.deepStrictEqual(yield* stateOf(), closed)

          yield* breaker.use((service) => service.reset("k"))
          yield* evenLater.end(ending)
          assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
        }).pipe(withBreaker()))
    }

    it.effect("a probe that ends after its half-open state did changes nothing", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        const [first, second] = yield* Effect.all([start(), start()])
        yield* first.end(down)
        yield* TestClock.adjust("10 seconds")
        yield* call(ok)
        yield* second.end(down)
        assert.deepStrictEqual(yield* stateOf(), {
          _tag: "HalfOpen",
          key: "k",
          probes: 0,
          successes: 1,
          failures: 0,
          openings: 2
        })
      }).pipe(withBreaker({ ...quick, halfOpenPermits: 2, successThreshold: 2 })))

    it.effect("a probe that never returns stops blocking after probeTimeout, and its late answer is dropped", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        const stuck = yield* start()
        yield* TestClock.adjust(59_999)
        assert.deepStrictEqual((yield* refusal()).retryAfter, Duration.millis(1))
        yield* TestClock.adjust(1)
        const next = yield* start()
        assert.isUndefined(next.fiber.pollUnsafe())
        yield* stuck.end(ok)
        assert.strictEqual(yield* tagOf(), "HalfOpen")
        assert.strictEqual((yield* refusal()).state, "HalfOpen")
        yield* next.end(ok)
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(withBreaker(quick)))

    it.effect("the late answer of a probe is dropped even when nobody took its slot", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        const stuck = yield* start()
        yield* TestClock.adjust("1 minute")
        yield* stuck.end(down)
        assert.strictEqual(yield* tagOf(), "HalfOpen")
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(withBreaker(quick)))
  })

  describe("what counts", () => {
    const counted = [
      Fault.transient,
      Fault.overloaded(),
      Fault.timedOut,
      Fault.malformed,
      Fault.ambiguous,
      Fault.unknown
    ]
    const ignored = [
      Fault.permanent,
      Fault.throttled("1 second"),
      Fault.rejected(),
      Fault.refused,
      Fault.contextOverflow
    ]

    it.effect.each(counted)("a $_tag failure counts", (verdict) =>
      Effect.gen(function*() {
        yield* times(5, call(fail(verdict)))
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker()))

    it.effect.each(ignored)(
      "a $_tag failure counts neither as failure nor as success",
      (verdict) =>
        Effect.gen(function*() {
          yield* times(4, call(down))
          yield* times(9, call(fail(verdict)))
          assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 4, failures: 4 })
          yield* call(down)
          assert.strictEqual(yield* tagOf(), "Open")
        }).pipe(withBreaker())
    )

    it.effect("an unknown error and a defect count", () =>
      Effect.gen(function*() {
        yield* times(5, call(Effect.fail("?"), "unknown"))
        yield* times(5, call(Effect.die("bug"), "defect"))
        assert.deepStrictEqual([yield* tagOf("unknown"), yield* tagOf("defect")], ["Open", "Open"])
      }).pipe(withBreaker()))

    it.effect("countsAsFailure decides in place of the default", () =>
      Effect.gen(function*() {
        yield* times(9, call(down))
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* times(5, call(fail(Fault.throttled())))
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ countsAsFailure: (verdict) => verdict._tag === "Throttled" })))

    it.effect("reads the verdict of the classifier around the call, and an idempotent call's Ambiguous counts too", () =>
      Effect.gen(function*() {
        const permanent = Fault.withClassifier(call(Effect.fail("?"), "known"), () => Fault.permanent)
        yield* times(5, permanent)
        yield* times(5, Fault.idempotent(call(fail(Fault.ambiguous), "idempotent")))
        assert.deepStrictEqual([yield* tagOf("known"), yield* tagOf("idempotent")], ["Closed", "Open"])
      }).pipe(withBreaker()))

    it.effect("refused, interrupted and running calls are not in the failure ratio", () =>
      Effect.gen(function*() {
        const running = yield* start()
        const interrupted = yield* start()
        yield* interrupted.interrupt
        yield* call(CircuitBreaker.protect(ok, "other").pipe(Effect.andThen(down)))
        yield* times(2, call(ok))
        const hold = yield* breaker.use((service) => service.isolate("other"))
        yield* times(9, call(CircuitBreaker.protect(ok, "other")))
        yield* hold.release
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 3, failures: 1 })
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
        yield* running.end(ok)
      }).pipe(withBreaker({ trip: CircuitBreaker.rate({ size: 10, minimumCalls: 4, threshold: 0.5 }) })))

    it.effect("a mixed cause of failure and interruption is a failure", () =>
      Effect.gen(function*() {
        yield* call(Effect.ensuring(down, Effect.interrupt))
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker(quick)))

    it.effect("an interrupted or ignored probe frees its slot and neither opens nor closes", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        const probe = yield* start()
        assert.strictEqual((yield* refusal()).state, "HalfOpen")
        yield* probe.interrupt
        const free = yield* stateOf()
        assert.deepStrictEqual(free, {
          _tag: "HalfOpen",
          key: "k",
          probes: 0,
          successes: 0,
          failures: 0,
          openings: 1
        })
        yield* call(fail(Fault.permanent))
        assert.deepStrictEqual(yield* stateOf(), free)
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(withBreaker(quick)))

    it.effect("if the classifier dies, the call dies and the slot is freed", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        const exit = yield* Fault.withClassifier(call(Effect.fail("?")), () => {
          throw new Error("bad classifier")
        })
        assert.isTrue(Exit.hasDies(exit))
        assert.strictEqual(yield* tagOf(), "HalfOpen")
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(withBreaker(quick)))
  })

  describe("trip rules", () => {
    const half = CircuitBreaker.rate({ threshold: 0.5, size: 4, minimumCalls: 4 })

    it.effect("below the minimum volume nothing trips, at it it can", () =>
      Effect.gen(function*() {
        yield* times(3, call(down))
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: half })))

    it.effect("the comparison is >=, and only the last calls are looked at", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* times(3, call(ok))
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: half })))

    it.effect("zero failures never trip, even at a threshold of zero", () =>
      Effect.gen(function*() {
        yield* times(20, call(ok))
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: CircuitBreaker.rate({ threshold: 0 }) })))

    const overAMinute = CircuitBreaker.rateOver({ window: "1 minute", threshold: 0.5, minimumCalls: 4 })

    it.effect("a time window forgets by age", () =>
      Effect.gen(function*() {
        yield* times(3, call(down))
        yield* TestClock.adjust("30 seconds")
        yield* call(ok)
        yield* TestClock.adjust("30 seconds")
        // The three failures are a minute old: what is left is one success.
        yield* times(2, call(ok))
        yield* times(2, call(down))
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(
        withBreaker({ trip: CircuitBreaker.rateOver({ window: "1 minute", threshold: 0.5, minimumCalls: 5 }) })
      ))

    it.effect("a time window remembers what is up to 95 % of it old", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust(2999)
        yield* times(3, call(down))
        yield* TestClock.adjust("57 seconds")
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: overAMinute })))

    it.effect("a time window forgets everything after idling longer than the window", () =>
      Effect.gen(function*() {
        yield* times(3, call(down))
        yield* TestClock.adjust("1 hour")
        yield* times(3, call(down))
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: overAMinute })))

    const lasting = <A, E, R>(time: Duration.Input, end: Effect.Effect<A, E, R>) =>
      Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(call(Effect.andThen(Effect.sleep(time), end)), { startImmediately: true })
        yield* TestClock.adjust(time)
        return yield* Fiber.join(fiber)
      })

    it.effect("slow successes count as slow and not as failed", () =>
      Effect.gen(function*() {
        yield* lasting(1000, ok)
        yield* lasting(1001, ok)
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 2, failures: 0 })
        yield* lasting(1001, ok)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(
        withBreaker({ trip: CircuitBreaker.slowRate({ slowerThan: "1 second", threshold: 0.6, minimumCalls: 3 }) })
      ))

    it.effect("a slow probe does not speak for closing", () =>
      Effect.gen(function*() {
        yield* lasting(1001, ok)
        yield* TestClock.adjust("10 seconds")
        yield* lasting(1001, ok)
        assert.strictEqual(yield* tagOf(), "Open")
        yield* TestClock.adjust("10 seconds")
        yield* lasting(1000, ok)
        assert.strictEqual(yield* tagOf(), "Closed")
      }).pipe(
        withBreaker({ ...quick, trip: CircuitBreaker.slowRate({ slowerThan: "1 second", size: 1 }) })
      ))

    it.effect("slow calls can be counted over a span of time", () =>
      Effect.gen(function*() {
        yield* lasting(2000, ok)
        yield* TestClock.adjust("1 minute")
        yield* lasting(2000, ok)
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* lasting(2000, ok)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(
        withBreaker({
          trip: CircuitBreaker.slowRate({ slowerThan: "1 second", window: "1 minute", minimumCalls: 2 })
        })
      ))

    it.effect("any opens when one of its rules would", () =>
      Effect.gen(function*() {
        yield* times(3, call(down, "streak"))
        yield* times(2, Effect.andThen(call(down, "share"), call(ok, "share")))
        assert.deepStrictEqual([yield* tagOf("streak"), yield* tagOf("share")], ["Open", "Open"])
      }).pipe(withBreaker({ trip: CircuitBreaker.any(CircuitBreaker.consecutive(3), half) })))

    it.effect("a rule of one's own decides like those that are built in", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* times(2, call(ok))
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({
        trip: {
          window: () => {
            let calls = 0
            return { record: () => ++calls === 3 }
          },
          healthy: ({ failed }) => !failed
        }
      })))
  })

  describe("open time", () => {
    it.effect("is never told longer than it is, whatever fraction of a millisecond the clock shows", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 400; i++) {
          yield* TestClock.adjust(Duration.nanos(BigInt(1_000_000_000 + i * 37_333_337)))
          const key = String(i)
          yield* call(down, key)
          assert.deepStrictEqual((yield* refusal(key)).retryAfter, Duration.minutes(1))
          yield* TestClock.adjust("1 minute")
          assert.strictEqual((yield* call(ok, key))._tag, "Success")
        }
      }).pipe(withBreaker({ trip: CircuitBreaker.consecutive(1) })))

    it.effect("is lengthened by a Retry-After, never shortened, and capped", () =>
      Effect.gen(function*() {
        yield* call(fail(Fault.overloaded("45 seconds")), "longer")
        yield* call(fail(Fault.overloaded("1 second")), "shorter")
        yield* call(fail(Fault.overloaded("1 day")), "capped")
        const waits = yield* Effect.forEach(["longer", "shorter", "capped"], refusal)
        assert.deepStrictEqual(waits.map((error) => error.retryAfter), [
          Duration.seconds(45),
          Duration.seconds(10),
          Duration.minutes(2)
        ])
      }).pipe(withBreaker({ ...quick, maxOpenFor: "2 minutes" })))

    const nextOpening = Effect.gen(function*() {
      yield* call(down)
      const { retryAfter = Duration.zero } = yield* refusal()
      yield* TestClock.adjust(retryAfter)
      return Duration.toSeconds(retryAfter)
    })

    it.effect("follows a schedule, whose last delay repeats, and starts again after a time as long as the last", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 4), [1, 2, 4, 4])
        yield* call(ok)
        yield* TestClock.adjust(3999)
        assert.strictEqual(yield* nextOpening, 4)
        yield* call(ok)
        yield* TestClock.adjust(4000)
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 2), [1, 2])
      }).pipe(withBreaker({ ...quick, openFor: Schedule.exponential("1 second").pipe(Schedule.upTo({ times: 3 })) })))

    it.effect("goes on in its schedule when other settings change, and begins anew with another schedule", () =>
      Effect.gen(function*() {
        const openFor = Schedule.exponential("1 second")
        const configure = (options: CircuitBreaker.Options) => breaker.use((service) => service.configure(options))
        yield* configure({ ...quick, openFor })
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 3), [1, 2, 4])
        yield* configure({ ...quick, openFor, probeTimeout: "1 second" })
        assert.strictEqual(yield* nextOpening, 8)
        yield* configure({ ...quick, openFor: Schedule.exponential("3 seconds") })
        yield* breaker.use((service) => service.reset("k"))
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 2), [3, 6])
        // the row of openings ends with a reset
        yield* breaker.use((service) => service.reset("k"))
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 2), [3, 6])
      }).pipe(withBreaker(quick)))

    it.effect("steps a schedule once for each opening", () => {
      const seen: Array<number> = []
      const openFor = Schedule.spaced("1 second").pipe(
        Schedule.setInputType<CircuitBreaker.Opening>(),
        Schedule.tap(({ input }) => Effect.sync(() => seen.push(input.count)))
      )
      return Effect.gen(function*() {
        yield* Effect.replicateEffect(nextOpening, 2)
        yield* breaker.use((service) => service.configure({ ...quick, openFor, maxOpenFor: "1 minute" }))
        yield* nextOpening
        assert.deepStrictEqual(seen, [1, 2, 3])
      }).pipe(withBreaker({ ...quick, openFor }))
    })

    it.effect("is the longest of those that the failures of one call ask for", () =>
      Effect.gen(function*() {
        for (const asked of [[30, 20], [20, 30]]) {
          const cause = asked.map((seconds) =>
            Cause.fail(new Told({ verdict: Fault.overloaded(`${seconds} seconds`) }))
          )
            .reduce(Cause.combine)
          yield* call(Effect.failCause(cause))
          assert.deepInclude(yield* stateOf(), { _tag: "Open", retryAfter: Duration.seconds(30) })
          yield* breaker.use((service) => service.reset("k"))
        }
      }).pipe(withBreaker(quick)))

    it.effect("is told as zero once it is over, however long ago", () =>
      Effect.gen(function*() {
        yield* trip()
        yield* TestClock.adjust("2 minutes")
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Open", key: "k", retryAfter: Duration.zero, openings: 1 })
      }).pipe(withBreaker()))

    it.effect("can be one of the backoffs, and is capped by maxOpenFor", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 5), [1, 2, 4, 5, 5])
      }).pipe(
        withBreaker({
          ...quick,
          openFor: Backoff.exponential({ base: "1 second", factor: 2 }),
          maxOpenFor: "5 seconds"
        })
      ))

    it.effect("is at least a millisecond, whatever a schedule says", () =>
      Effect.gen(function*() {
        yield* trip()
        assert.deepInclude(yield* stateOf(), { _tag: "Open", retryAfter: Duration.millis(1) })
      }).pipe(withBreaker({ openFor: Schedule.recurs(3) })))

    it.effect("can be a schedule bounded by the time spent open", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* Effect.replicateEffect(nextOpening, 5), [1, 2, 4, 4, 4])
      }).pipe(withBreaker({
        ...quick,
        openFor: Schedule.exponential("1 second").pipe(Schedule.upTo({ duration: "5 seconds" }))
      })))

    it.effect("tells the schedule which opening it is", () => {
      const seen: Array<readonly [string, number]> = []
      const openFor = Schedule.spaced("1 second").pipe(
        Schedule.setInputType<CircuitBreaker.Opening>(),
        Schedule.tap(({ input }) => Effect.sync(() => seen.push([input.key, input.count])))
      )
      return Effect.gen(function*() {
        yield* Effect.replicateEffect(nextOpening, 2)
        assert.deepStrictEqual(seen, [["k", 1], ["k", 2]])
      }).pipe(withBreaker({ ...quick, openFor }))
    })
  })

  describe("by hand", () => {
    it.effect("holds are counted, and releasing twice does nothing", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        const first = yield* service.isolate("k")
        const second = yield* service.isolate("k")
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Isolated", key: "k", holders: 2 })
        const error = yield* refusal()
        assert.deepStrictEqual([error.state, error.retryAfter], ["Isolated", undefined])
        yield* first.release
        yield* first.release
        assert.strictEqual(yield* tagOf(), "Isolated")
        yield* second.release
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
        const third = yield* service.isolate("k")
        yield* second.release
        assert.strictEqual(yield* tagOf(), "Isolated")
        yield* third.release
      }).pipe(withBreaker()))

    it.effect("a circuit goes on where it was when the last hold is released", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        yield* call(down)
        const hold = yield* service.isolate("k")
        yield* TestClock.adjust("4 seconds")
        yield* hold.release
        assert.deepStrictEqual((yield* refusal()).retryAfter, Duration.seconds(6))
        yield* TestClock.adjust("6 seconds")
        const probe = yield* start()
        const again = yield* service.isolate("k")
        yield* probe.end(ok)
        yield* again.release
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker(quick)))

    it.effect("a call that was running when the circuit was isolated changes nothing", () =>
      Effect.gen(function*() {
        const running = yield* start()
        const hold = yield* breaker.use((service) => service.isolate("k"))
        yield* running.end(down)
        yield* hold.release
        assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
      }).pipe(withBreaker(quick)))

    it.effect("reset closes a circuit and forgets its counts, and leaves holds alone", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        yield* times(4, call(down))
        yield* service.reset("k")
        yield* times(4, call(down))
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        yield* service.reset("k")
        assert.strictEqual(yield* tagOf(), "Closed")
        const hold = yield* service.isolate("k")
        yield* service.reset("k")
        assert.strictEqual(yield* tagOf(), "Isolated")
        yield* hold.release
      }).pipe(withBreaker()))
  })

  describe("settings", () => {
    const reconfigure = (options: CircuitBreaker.Options) => breaker.use((service) => service.configure(options))

    it.effect("can be changed while running without losing counts", () =>
      Effect.gen(function*() {
        yield* times(4, call(down, "streak"))
        yield* trip("open")
        yield* reconfigure({ trip: CircuitBreaker.consecutive(6), openFor: "1 second" })
        yield* call(down, "streak")
        assert.strictEqual(yield* tagOf("streak"), "Closed")
        yield* call(down, "streak")
        assert.strictEqual(yield* tagOf("streak"), "Open")
        assert.deepStrictEqual((yield* refusal("streak")).retryAfter, Duration.seconds(1))
        assert.deepStrictEqual((yield* refusal("open")).retryAfter, Duration.minutes(1))
      }).pipe(withBreaker()))

    it.effect("a changed window keeps the calls that still fit", () =>
      Effect.gen(function*() {
        yield* times(2, call(down))
        yield* times(4, call(ok))
        yield* call(down)
        yield* reconfigure({ trip: CircuitBreaker.rate({ size: 3, minimumCalls: 3, threshold: 0.6 }) })
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: CircuitBreaker.rate({ size: 100, minimumCalls: 100 }) })))

    it.effect("a changed time window keeps the calls that are young enough", () =>
      Effect.gen(function*() {
        yield* times(3, call(down))
        yield* TestClock.adjust("20 seconds")
        yield* times(3, call(down))
        const trip = CircuitBreaker.rateOver({ window: "10 seconds", minimumCalls: 5 })
        yield* reconfigure({ trip: CircuitBreaker.any(CircuitBreaker.consecutive(99), trip) })
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: CircuitBreaker.rateOver({ window: "1 minute", minimumCalls: 99 }) })))

    it.effect("a rule that was one of any, or becomes one, goes on from its own counts", () =>
      Effect.gen(function*() {
        yield* times(3, call(down))
        yield* reconfigure({
          trip: CircuitBreaker.any(CircuitBreaker.rate({ size: 99 }), CircuitBreaker.consecutive(9))
        })
        yield* call(down)
        yield* reconfigure({ trip: CircuitBreaker.consecutive(5) })
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker()))

    const twoRates = () =>
      CircuitBreaker.any(
        CircuitBreaker.rate({ size: 2, minimumCalls: 2, threshold: 1 }),
        CircuitBreaker.rate({ size: 10, minimumCalls: 10, threshold: 0.5 })
      )

    it.effect("a changed time window keeps calls of every age that it still reaches", () =>
      Effect.gen(function*() {
        yield* Effect.replicateEffect(Effect.andThen(call(down), TestClock.adjust("5 seconds")), 3)
        yield* reconfigure({ trip: CircuitBreaker.rateOver({ window: "2 minutes", minimumCalls: 4 }) })
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: CircuitBreaker.rateOver({ window: "1 minute", minimumCalls: 99 }) })))

    it.effect("two rules of one kind each keep their own counts", () =>
      Effect.gen(function*() {
        yield* times(4, Effect.andThen(call(down), call(ok)))
        yield* reconfigure({ trip: twoRates() })
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({ trip: twoRates() })))

    it.effect("rules that are combined of combined ones keep their own counts, too", () =>
      Effect.gen(function*() {
        const nested = () =>
          CircuitBreaker.any(
            CircuitBreaker.any(
              CircuitBreaker.rate({ size: 4, minimumCalls: 4, threshold: 1 }),
              CircuitBreaker.rate({ size: 2, minimumCalls: 2, threshold: 1 })
            ),
            CircuitBreaker.rate({ size: 10, minimumCalls: 10, threshold: 0.3 })
          )
        const service = yield* CircuitBreaker.make({ trip: nested() })
        const run = (end: Effect.Effect<unknown, unknown>) => Effect.exit(service.protect("k")(end))
        yield* times(3, Effect.andThen(run(ok), Effect.andThen(run(down), run(ok))))
        // a rule that differs, so that all windows are made anew
        yield* service.configure({ trip: CircuitBreaker.any(nested(), CircuitBreaker.consecutive(99)) })
        assert.strictEqual((yield* service.state("k"))._tag, "Closed")
        yield* run(ok)
        assert.strictEqual((yield* service.state("k"))._tag, "Open")
      }))

    it.effect("a probe that one rule of any calls unhealthy does not speak for closing", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        yield* call(Effect.andThen(TestClock.adjust("2 seconds"), ok))
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({
        ...quick,
        trip: CircuitBreaker.any(
          CircuitBreaker.consecutive(1),
          CircuitBreaker.slowRate({ slowerThan: "1 second", minimumCalls: 1 })
        )
      })))

    it.effect("every rule of any sees every call, whichever would open the circuit", () =>
      Effect.gen(function*() {
        yield* times(3, call(down))
        yield* reconfigure({ trip: CircuitBreaker.consecutive(4) })
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
      }).pipe(withBreaker({
        metricsOnly: true,
        trip: CircuitBreaker.any(
          CircuitBreaker.rate({ size: 1, minimumCalls: 1, threshold: 1 }),
          CircuitBreaker.consecutive(9)
        )
      })))

    it.effect("a key can have settings of its own", () =>
      Effect.gen(function*() {
        yield* times(2, call(down, "fragile"))
        yield* times(2, call(down, "other"))
        assert.deepStrictEqual([yield* tagOf("fragile"), yield* tagOf("other")], ["Open", "Closed"])
        assert.deepStrictEqual((yield* refusal("fragile")).retryAfter, Duration.seconds(7))
      }).pipe(withBreaker({ openFor: "7 seconds", keys: { fragile: { trip: CircuitBreaker.consecutive(2) } } })))

    it.effect("metricsOnly counts and never opens, and a hold by hand refuses all the same", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        yield* times(7, call(down))
        assert.deepStrictEqual(yield* stateOf(), {
          _tag: "MetricsOnly",
          key: "k",
          calls: 7,
          failures: 7,
          wouldOpen: true
        })
        const hold = yield* service.isolate("k")
        assert.strictEqual((yield* refusal()).state, "Isolated")
        yield* hold.release
        yield* times(4, call(down))
        yield* service.configure({})
        yield* call(down)
        assert.strictEqual(yield* tagOf(), "Open")
        yield* service.configure({ metricsOnly: true })
        assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
      }).pipe(withBreaker({ metricsOnly: true })))

    const wrong: ReadonlyArray<readonly [string, () => unknown]> = [
      ["consecutive", () => CircuitBreaker.consecutive(0)],
      ["rate.size", () => CircuitBreaker.rate({ size: 0 })],
      ["rate.size", () => CircuitBreaker.rate({ size: 1e12 })],
      ["slowRate.size", () => CircuitBreaker.slowRate({ slowerThan: 1, size: 1e12 })],
      ["rate.threshold", () => CircuitBreaker.rate({ threshold: 1.1 })],
      ["rate.minimumCalls", () => CircuitBreaker.rate({ size: 10, minimumCalls: 11 })],
      ["rateOver.window", () => CircuitBreaker.rateOver({ window: 0 })],
      ["slowRate.slowerThan", () => CircuitBreaker.slowRate({ slowerThan: -1 })],
      ["openFor", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ openFor: 0 })))],
      [
        "maxOpenFor",
        () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ openFor: "2 minutes", maxOpenFor: "1 minute" })))
      ],
      ["halfOpenPermits", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ halfOpenPermits: 1.5 })))],
      ["successThreshold", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ successThreshold: 0 })))],
      ["successOutOf", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ successOutOf: 1 })))],
      ["probeTimeout", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ probeTimeout: 0 })))],
      ["maxKeys", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ maxKeys: 0 })))],
      ["openFor", () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ openFor: NaN })))],
      [
        "keys[\"a\"].halfOpenPermits",
        () => Effect.runSync(Effect.scoped(CircuitBreaker.make({ keys: { a: { halfOpenPermits: 0 } } })))
      ]
    ]

    for (const [option, build] of wrong) {
      it(`a wrong ${option} fails when it is built, naming the option`, () => {
        try {
          build()
        } catch (error) {
          assert.instanceOf(error, Fault.InvalidConfig)
          assert.deepStrictEqual([error.module, error.option], ["CircuitBreaker", option])
          return
        }
        assert.fail("it was accepted")
      })
    }
  })

  describe("memory", () => {
    const keys = breaker.use((service) => Effect.map(service.states, (states) => states.map(({ key }) => key)))

    it.effect("idle keys are forgotten after their time to live, held and busy ones are not", () =>
      Effect.gen(function*() {
        const hold = yield* breaker.use((service) => service.isolate("held"))
        const busy = yield* start("busy")
        yield* call(ok, "idle")
        yield* TestClock.adjust(59_999)
        assert.deepStrictEqual(yield* keys, ["held", "busy", "idle"])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* keys, ["held", "busy"])
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* keys, ["held", "busy"])
        yield* busy.end(ok)
        yield* hold.release
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* keys, [])
      }).pipe(withBreaker({ idleTimeToLive: "1 minute" })))

    it.effect("a circuit that has opened is forgotten a time to live after it would refuse nobody", () =>
      Effect.gen(function*() {
        yield* call(down, "open")
        yield* call(down, "half-open")
        yield* TestClock.adjust("10 seconds")
        yield* call(fail(Fault.permanent), "half-open")
        assert.deepStrictEqual([yield* tagOf("open"), yield* tagOf("half-open")], ["Open", "HalfOpen"])
        yield* TestClock.adjust(59_999)
        assert.deepStrictEqual(yield* keys, ["open", "half-open"])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* keys, [])
      }).pipe(withBreaker({ ...quick, idleTimeToLive: "1 minute" })))

    it.effect("no circuit is forgotten before it has been idle for as long as it was open, which ends the row of its openings", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("5 minutes")
        yield* call(ok)
        assert.strictEqual(yield* tagOf(), "Closed")
        yield* TestClock.adjust(299_999)
        assert.deepStrictEqual(yield* keys, ["k"])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* keys, [])
      }).pipe(withBreaker({ ...quick, openFor: "5 minutes", idleTimeToLive: "1 minute" })))

    it.effect("idle circuits are forgotten also where no new key ever comes", () =>
      Effect.gen(function*() {
        const names = Array.from({ length: 100 }, (_, i) => `key-${i}`)
        yield* Effect.forEach(names, (key) => call(ok, key))
        const circuits = engineOf(yield* breaker)
        assert.instanceOf(circuits, Circuits)
        assert.strictEqual(circuits.size, 100)
        yield* TestClock.adjust("1 minute")
        yield* call(ok, "key-7")
        assert.strictEqual(circuits.size, 1)
      }).pipe(withBreaker({ idleTimeToLive: "1 minute" })))

    it.effect("open circuits that nobody calls any more are bounded by maxKeys, the newest kept", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 100; i++) {
          yield* call(down, `key-${i}`)
          yield* TestClock.adjust(1)
        }
        assert.deepStrictEqual(yield* keys, Array.from({ length: 10 }, (_, i) => `key-${i + 90}`))
      }).pipe(withBreaker({ ...quick, maxKeys: 10 })))

    it.effect("of opened circuits those make room first that would refuse nobody", () =>
      Effect.gen(function*() {
        const long = { openFor: "1 hour" } as const
        for (let i = 0; i < 5; i++) yield* Effect.exit(CircuitBreaker.protect(down, `long-${i}`, long))
        yield* TestClock.adjust(1)
        for (let i = 0; i < 5; i++) yield* call(down, `short-${i}`)
        yield* TestClock.adjust("10 seconds")
        yield* call(down, "new")
        assert.deepStrictEqual(
          yield* keys,
          ["long-0", "long-1", "long-2", "long-3", "long-4", "short-1", "short-2", "short-3", "short-4", "new"]
        )
      }).pipe(withBreaker({ ...quick, maxKeys: 10 })))

    it.effect("a circuit that was used again is not the one unused for longest", () =>
      Effect.gen(function*() {
        const use = (i: number) => Effect.andThen(TestClock.adjust(1), call(ok, `key-${i}`))
        yield* Effect.forEach([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0], use)
        yield* use(10)
        assert.deepStrictEqual(yield* keys, [0, 1, 3, 4, 5, 6, 7, 8, 9, 10].map((i) => `key-${i}`))
      }).pipe(withBreaker({ maxKeys: 10 })))

    it.effect("busy circuits are kept beyond maxKeys, and make room when their calls have ended", () =>
      Effect.gen(function*() {
        const calls = yield* Effect.forEach(Array.from({ length: 100 }, (_, i) => `key-${i}`), (key) => start(key))
        assert.strictEqual((yield* keys).length, 100)
        yield* Effect.forEach(calls, ({ end }) => end(ok))
        yield* call(ok, "new")
        assert.isAtMost((yield* keys).length, 10)
      }).pipe(withBreaker({ maxKeys: 10 })))

    // looking through all of them for each new key took minutes
    it.effect("50,000 busy circuits cost a new one no more than 50 do", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        const never = Array.from({ length: 50_000 }, (_, i) => service.protect(`key-${i}`)(Effect.never))
        const fiber = yield* Effect.forkChild(Effect.all(never, { concurrency: "unbounded", discard: true }), {
          startImmediately: true
        })
        assert.strictEqual((yield* keys).length, 50_000)
        yield* Fiber.interrupt(fiber)
      }).pipe(withBreaker({ maxKeys: 1_000 })))

    it.effect("never remembers more than maxKeys circuits, and forgets harmless ones first", () =>
      Effect.gen(function*() {
        yield* call(down, "open")
        yield* Effect.forEach(Array.from({ length: 500 }, (_, i) => `key-${i}`), (key) => call(ok, key))
        const remembered = yield* keys
        assert.isAtMost(remembered.length, 20)
        assert.includeMembers(remembered, ["open", "key-499"])
        yield* Effect.forEach(Array.from({ length: 100 }, (_, i) => `down-${i}`), (key) => call(down, key))
        assert.isAtMost((yield* keys).length, 20)
      }).pipe(withBreaker({ ...quick, maxKeys: 20 })))

    it.effect("reading the state of a key that was never used remembers nothing", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* stateOf("never"), { _tag: "Closed", key: "never", calls: 0, failures: 0 })
        assert.deepStrictEqual(yield* keys, [])
      }).pipe(withBreaker()))
  })

  describe("interruption", () => {
    // With so few operations between two yields, every operation is a point at which the fiber can be interrupted.
    it.effect.each([3, 4, 5])(
      "at every step leaks nothing (yielding every %i operations)",
      (operations) =>
        Effect.gen(function*() {
          yield* call(down)
          yield* TestClock.adjust("10 seconds")
          let finished = 0
          for (let steps = 0; steps < 60; steps++) {
            const fiber = yield* times(3, Effect.void).pipe(
              Effect.andThen(fail(Fault.permanent)),
              CircuitBreaker.protect("k"),
              Effect.exit,
              Effect.provideService(References.MaxOpsBeforeYield, operations),
              Effect.forkChild({ startImmediately: true })
            )
            yield* times(steps, Effect.yieldNow)
            if (fiber.pollUnsafe() !== undefined) finished++
            yield* Fiber.interrupt(fiber)
            const state = yield* stateOf()
            assert.isTrue(state._tag === "Open" || (state._tag === "HalfOpen" && state.probes === 0))
          }
          assert.isTrue(finished > 0 && finished < 60)
          assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
          assert.strictEqual(yield* tagOf(), "Closed")
        }).pipe(withBreaker(quick))
    )

    it.effect("at every step loses no transition", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        const seen: Array<CircuitBreaker.Transition> = []
        yield* service.transitions.pipe(
          Stream.runForEach((transition) => Effect.sync(() => seen.push(transition))),
          Effect.forkScoped({ startImmediately: true })
        )
        const keys = Array.from({ length: 40 }, (_, i) => `key-${i}`)
        yield* Effect.forEach(keys, (key) => call(down, key))
        yield* TestClock.adjust("10 seconds")
        for (const [steps, key] of keys.entries()) {
          const fiber = yield* call(Effect.never, key).pipe(
            Effect.provideService(References.MaxOpsBeforeYield, 3),
            Effect.forkChild({ startImmediately: true })
          )
          yield* times(steps, Effect.yieldNow)
          yield* Fiber.interrupt(fiber)
          yield* TestClock.adjust(0)
          const last = seen.findLast((transition) => transition.key === key)
          assert.strictEqual(last?.to, yield* tagOf(key))
        }
      }).pipe(withBreaker(quick)))

    it.effect("a storm of interrupted and finished calls leaves no call running", () =>
      Effect.gen(function*() {
        yield* call(down)
        yield* TestClock.adjust("10 seconds")
        for (let round = 0; round < 100; round++) {
          const fibers = yield* Effect.forEach(
            [0, 1, 2, 3],
            (n) => call(times(n, Effect.yieldNow)).pipe(Effect.forkChild({ startImmediately: n % 2 === 0 }))
          )
          yield* times(round % 5, Effect.yieldNow)
          yield* Fiber.interruptAll(fibers)
        }
        assert.deepInclude(yield* stateOf(), { _tag: "HalfOpen", probes: 0 })
        // a closed circuit that is forgotten has no call running
        yield* breaker.use((service) => service.reset("k"))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* breaker.use((service) => service.states), [])
      }).pipe(withBreaker({ ...quick, successThreshold: 1000, idleTimeToLive: "1 minute" })))
  })

  describe("CircuitOpen", () => {
    it.effect("says what happened, to which key and what to do, and is a rejection", () =>
      Effect.gen(function*() {
        yield* trip("anthropic")
        const error = yield* refusal("anthropic")
        assert.strictEqual(
          error.message,
          "Circuit \"anthropic\" is open after too many failures and sent nothing: try again in 1m, or fall back"
        )
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.rejected("1 minute"))
        assert.isTrue(isRefused(yield* call(ok, "anthropic")))
      }).pipe(withBreaker()))

    it.effect("asks callers to wait for the rest of an open time, and not for the bound of a probe", () =>
      Effect.gen(function*() {
        const probing = new CircuitBreaker.CircuitOpen({ key: "k", state: "HalfOpen", retryAfter: Duration.minutes(5) })
        assert.deepStrictEqual(yield* Fault.classify(probing), Fault.rejected())
        const open = new CircuitBreaker.CircuitOpen({ key: "k", state: "Open", retryAfter: Duration.minutes(5) })
        assert.deepStrictEqual(yield* Fault.classify(open), Fault.rejected("5 minutes"))
      }))

    it.effect("survives a round trip through JSON", () =>
      Effect.gen(function*() {
        const codec = Schema.toCodecJson(CircuitBreaker.CircuitOpen)
        for (
          const error of [
            new CircuitBreaker.CircuitOpen({ key: "k", state: "Open", retryAfter: Duration.seconds(2) }),
            new CircuitBreaker.CircuitOpen({ key: "k", state: "Isolated" })
          ]
        ) {
          const json = JSON.stringify(yield* Schema.encodeEffect(codec)(error))
          assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(codec)(JSON.parse(json)), error)
        }
      }))

    it.effect("is built without a stack trace, and leaves the stacks of others alone", () =>
      Effect.gen(function*() {
        yield* trip()
        const error = yield* refusal()
        assert.notInclude(error.stack ?? "", "    at ")
        assert.include(new Error("other").stack, "    at ")
      }).pipe(withBreaker()))
  })

  describe("observation", () => {
    it.effect("emits CircuitChanged and CircuitRejected to the listener of the caller", () => {
      const events: Array<Telemetry.Event> = []
      return Effect.gen(function*() {
        yield* call(down)
        yield* call(ok)
        yield* TestClock.adjust("10 seconds")
        yield* call(ok)
        const hold = yield* breaker.use((service) => service.isolate("k"))
        yield* call(ok)
        yield* hold.release
        assert.deepStrictEqual(events, [
          { _tag: "CircuitChanged", key: "k", from: "Closed", to: "Open" },
          { _tag: "CircuitRejected", key: "k", retryAfterMillis: 10_000 },
          { _tag: "CircuitChanged", key: "k", from: "Open", to: "HalfOpen" },
          { _tag: "CircuitChanged", key: "k", from: "HalfOpen", to: "Closed" },
          { _tag: "CircuitChanged", key: "k", from: "Closed", to: "Isolated" },
          { _tag: "CircuitRejected", key: "k", retryAfterMillis: undefined },
          { _tag: "CircuitChanged", key: "k", from: "Isolated", to: "Closed" }
        ])
      }).pipe(withBreaker(quick), Effect.provideService(Telemetry.Listener, (event) => events.push(event)))
    })

    it.effect("warns of a listener that throws, once for each event, and the calls go on", () => {
      const logged: Array<unknown> = []
      const logger = Logger.make(({ message }) => logged.push(message))
      return Effect.gen(function*() {
        yield* call(down)
        assert.isTrue(isRefused(yield* call(ok)))
        const warning = (event: string) => [`The Telemetry listener threw at ${event}; the call goes on`]
        assert.deepStrictEqual(logged.map((message) => Array.isArray(message) ? message.slice(0, 1) : [message]), [
          warning("CircuitChanged"),
          warning("CircuitRejected")
        ])
      }).pipe(
        withBreaker(quick),
        Effect.provideService(Telemetry.Listener, () => {
          throw new Error("broken listener")
        }),
        Effect.provide(Logger.layer([logger]))
      )
    })

    it.effect("warns of a listener that throws when a check tells it of a refusal", () => {
      const logged: Array<unknown> = []
      return Effect.gen(function*() {
        yield* call(down)
        yield* Effect.exit(breaker.use((service) => service.check("k"))).pipe(
          Effect.provideService(Telemetry.Listener, () => {
            throw new Error("broken listener")
          })
        )
        assert.strictEqual(logged.length, 1)
      }).pipe(withBreaker(quick), Effect.provide(Logger.layer([Logger.make(({ message }) => logged.push(message))])))
    })

    /** All transitions from now on, as soon as they are published. */
    const watched = Effect.gen(function*() {
      const seen: Array<string> = []
      yield* breaker.use(({ transitions }) =>
        Stream.runForEach(transitions, ({ from, key, to }) => Effect.sync(() => seen.push(`${key}: ${from} -> ${to}`)))
      ).pipe(Effect.forkScoped({ startImmediately: true }))
      yield* Effect.yieldNow
      return seen
    })

    it.effect("transitions come in the order in which they happened, wherever a fiber yields", () =>
      Effect.forEach(Array.from({ length: 30 }, (_, i) => i), (steps) =>
        Effect.gen(function*() {
          const seen = yield* watched
          const failing = yield* Effect.andThen(times(steps, Effect.void), call(down)).pipe(
            Effect.provideService(References.MaxOpsBeforeYield, 30),
            Effect.forkChild({ startImmediately: true })
          )
          while ((yield* tagOf()) === "Closed") yield* Effect.yieldNow
          yield* breaker.use((service) => service.reset("k"))
          yield* Fiber.join(failing)
          yield* times(5, Effect.yieldNow)
          assert.deepStrictEqual(seen, ["k: Closed -> Open", "k: Open -> Closed"])
        }).pipe(withBreaker(quick), Effect.scoped)))

    it.effect("what a listener changes comes after what it was told of", () =>
      Effect.gen(function*() {
        const service = yield* breaker
        yield* Effect.forEach(["a", "b"], (key) => call(down, key))
        const seen = yield* watched
        const context = yield* Effect.context<never>()
        yield* service.configure({ metricsOnly: true }).pipe(
          Effect.provideService(Telemetry.Listener, (event) => {
            if (event._tag !== "CircuitChanged" || event.key !== "a" || event.to !== "MetricsOnly") return
            Effect.runSyncWith(context)(service.isolate("b"))
          })
        )
        yield* times(5, Effect.yieldNow)
        assert.deepStrictEqual(seen, [
          "a: Open -> MetricsOnly",
          "b: Open -> MetricsOnly",
          "b: MetricsOnly -> Isolated"
        ])
      }).pipe(withBreaker(quick)))

    it.effect("transitions emits every transition in order and ends with the service", () =>
      Effect.gen(function*() {
        const seen = yield* Effect.scoped(Effect.gen(function*() {
          const service = yield* CircuitBreaker.make(quick)
          const reader = yield* Effect.forkDetach(Stream.runCollect(service.transitions), { startImmediately: true })
          const guarded = service.protect("k")
          yield* Effect.exit(guarded(down))
          yield* TestClock.adjust("10 seconds")
          yield* Effect.exit(guarded(down))
          yield* TestClock.adjust("10 seconds")
          yield* guarded(ok)
          yield* service.reset("k")
          return reader
        }))
        assert.deepStrictEqual(
          (yield* Fiber.join(seen)).map(({ from, key, to }) => `${key}: ${from} -> ${to}`),
          [
            "k: Closed -> Open",
            "k: Open -> HalfOpen",
            "k: HalfOpen -> Open",
            "k: Open -> HalfOpen",
            "k: HalfOpen -> Closed"
          ]
        )
      }))
  })

  it.effect("protect keeps the caller's scope open", () =>
    Effect.gen(function*() {
      const log: Array<string> = []
      yield* Effect.scoped(Effect.gen(function*() {
        yield* CircuitBreaker.protect(Effect.addFinalizer(() => Effect.sync(() => log.push("closed"))), "k")
        log.push("protected")
      }))
      assert.deepStrictEqual(log, ["protected", "closed"])
    }).pipe(withBreaker()))

  it.effect("layerNoop lets every call through", () =>
    Effect.gen(function*() {
      yield* times(9, call(down))
      yield* breaker.use((service) => service.isolate("k"))
      assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
      assert.deepStrictEqual(yield* breaker.use((service) => service.states), [])
    }).pipe(Effect.provide(CircuitBreaker.layerNoop)))

  it.effect("a layer is one set of circuits, shared by everything built on it", () =>
    Effect.gen(function*() {
      const service = yield* breaker
      yield* trip()
      assert.strictEqual((yield* service.state("k"))._tag, "Open")
    }).pipe(Effect.provide(Layer.fresh(CircuitBreaker.layer()))))
})
