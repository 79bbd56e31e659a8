import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Schedule } from "effect"
import { CircuitBreaker, Fault, Policy, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { withLogs } from "../support/logs.ts"

const down = Effect.fail({ [Fault.verdictOf]: Fault.transient })
const bad = Effect.fail({ [Fault.verdictOf]: Fault.permanent })
const ok = Effect.succeed("ok")

const fragile: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.consecutive(1), openFor: "7 seconds" }
const sturdy: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.consecutive(6) }

const call = <A, E, R>(self: Effect.Effect<A, E, R>, options?: CircuitBreaker.CircuitOptions, key = "k") =>
  Effect.exit(CircuitBreaker.protect(self, key, options))

const objection = (key: string, differing: string) =>
  `Warn: Circuit "${key}" keeps the options of its first caller; those of another one differ in ${differing} ` +
  "and do nothing: configure the key in the layer (\"keys\"), or use another key"

const times = <A, E, R>(n: number, self: Effect.Effect<A, E, R>) => Effect.replicateEffect(self, n, { discard: true })

const tagOf = (key = "k") => Effect.map(CircuitBreaker.state(key), (state) => state._tag)

const configure = (options: CircuitBreaker.Options) =>
  CircuitBreaker.CircuitBreaker.use((breaker) => breaker.configure(options))

/** A call that runs until `end` is given, and then ends like it. */
const start = (options?: CircuitBreaker.CircuitOptions) =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<Effect.Effect<unknown, unknown>>()
    const fiber = yield* Effect.flatten(Deferred.await(gate)).pipe(
      CircuitBreaker.protect("k", options),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    return {
      fiber,
      end: (end: Effect.Effect<unknown, unknown>) => Effect.andThen(Deferred.succeed(gate, end), Fiber.join(fiber))
    }
  })

const invalid = (self: () => unknown): readonly [string, string] => {
  try {
    self()
  } catch (error) {
    assert.instanceOf(error, Fault.InvalidConfig)
    return [error.module, error.option]
  }
  return assert.fail("it was accepted")
}

describe("options of a caller", () => {
  it.effect("say how its circuit behaves, and leave the rest as the layer has it", () =>
    Effect.gen(function*() {
      yield* call(down, fragile)
      const error = yield* Effect.flip(CircuitBreaker.protect(ok, "k"))
      assert.deepStrictEqual(
        error,
        new CircuitBreaker.CircuitOpen({
          key: "k",
          state: "Open",
          retryAfter: Duration.seconds(7)
        })
      )
      yield* TestClock.adjust("7 seconds")
      yield* times(3, call(ok))
      assert.strictEqual(yield* tagOf(), "HalfOpen")
      yield* call(ok)
      assert.strictEqual(yield* tagOf(), "Closed")
    }).pipe(Effect.provide(CircuitBreaker.layer({ successThreshold: 4 }))))

  it.effect("an option that is undefined is one that is left out, also for a key of the layer", () =>
    Effect.gen(function*() {
      for (const key of ["k", "named"]) {
        yield* call(down, { trip: undefined, openFor: "3 seconds" }, key)
        assert.strictEqual(yield* tagOf(key), "Open")
      }
    }).pipe(Effect.provide(CircuitBreaker.layer({
      trip: CircuitBreaker.consecutive(1),
      keys: { named: { trip: undefined } }
    }))))

  it.effect("say nothing for a key that the layer configures by name", () =>
    Effect.gen(function*() {
      yield* call(down, fragile)
      assert.strictEqual(yield* tagOf(), "Closed")
      yield* call(down, fragile)
      assert.deepStrictEqual(yield* CircuitBreaker.state("k"), {
        _tag: "Open",
        key: "k",
        retryAfter: Duration.minutes(1),
        openings: 1
      })
    }).pipe(Effect.provide(CircuitBreaker.layer({ keys: { k: { trip: CircuitBreaker.consecutive(2) } } }))))

  it.effect("of two callers the first one's hold, and the other one is warned of what differs, once for each key", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        for (const key of ["k", "other"]) {
          yield* times(4, call(down, sturdy, key))
          assert.deepStrictEqual(yield* call(ok, { ...fragile, metricsOnly: true }, key), Exit.succeed("ok"))
          yield* call(bad, fragile, key)
          assert.deepInclude(yield* CircuitBreaker.state(key), { _tag: "Closed", calls: 5, failures: 4 })
          yield* times(6, call(down, key === "k" ? fragile : sturdy, key))
          assert.deepInclude(yield* CircuitBreaker.state(key), { _tag: "Open", retryAfter: Duration.minutes(1) })
        }
        assert.deepStrictEqual(logs, [
          objection("k", "trip, openFor, metricsOnly"),
          objection("other", "trip, openFor, metricsOnly")
        ])
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  it.effect("of one key with rules of two kinds open its circuit as the first one's say, also for two policies of one name", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        let sent = 0
        const failing = Effect.andThen(Effect.sync(() => sent++), down)
        const chat = Policy.make({ name: "anthropic", circuit: { failures: 5 } })
        const batch = Policy.make({ name: "anthropic", circuit: { trip: CircuitBreaker.rate({ minimumCalls: 10 }) } })
        for (let i = 0; i < 500; i++) {
          yield* Effect.exit(Policy.apply(failing, chat))
          yield* Effect.exit(Policy.apply(failing, batch))
        }
        assert.strictEqual(sent, 5)
        assert.strictEqual(yield* tagOf("anthropic"), "Open")
        assert.deepStrictEqual(logs, [objection("anthropic", "trip")])
      }).pipe(Effect.provide(Policy.layer))
    ))

  it.effect("of another caller close nothing that is open, not even metricsOnly", () =>
    withLogs(() =>
      Effect.gen(function*() {
        yield* call(down, fragile)
        const error = yield* Effect.flip(CircuitBreaker.check("k", { metricsOnly: true }))
        assert.deepStrictEqual(yield* call(ok, { metricsOnly: true }), Exit.fail(error))
        assert.strictEqual(error.state, "Open")
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  const counting: CircuitBreaker.TripRule = {
    window: () => ({ record: ({ failed }) => failed }),
    healthy: ({ failed }) => !failed
  }
  const backoff = Schedule.exponential("1 second")
  const everything = (): CircuitBreaker.CircuitOptions => ({
    trip: CircuitBreaker.any(
      CircuitBreaker.consecutive(5),
      CircuitBreaker.any(CircuitBreaker.rate({ size: 30 }), counting),
      CircuitBreaker.rateOver({ window: "2 minutes" }),
      CircuitBreaker.slowRate({ slowerThan: "1 second" }),
      CircuitBreaker.slowRate({ slowerThan: "1 second", window: "1 minute" })
    ),
    openFor: "30 seconds",
    maxOpenFor: "1 hour",
    halfOpenPermits: 2,
    successThreshold: 3,
    successOutOf: 4,
    probeTimeout: { minutes: 3 },
    metricsOnly: false,
    countsAsFailure: Fault.countsAsFailure
  })

  it.effect("that mean the same are the same, however they are written", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        yield* call(ok, everything())
        yield* call(ok, everything())
        yield* call(ok, { ...everything(), openFor: 30_000, maxOpenFor: undefined, probeTimeout: "180 seconds" })
        yield* call(ok, { openFor: backoff }, "schedule")
        yield* call(ok, { openFor: backoff, successThreshold: 2 }, "schedule")
        yield* call(ok, { trip: counting }, "rule")
        yield* call(ok, { trip: counting, openFor: undefined }, "rule")
        yield* call(ok, {}, "default")
        yield* call(ok, { trip: CircuitBreaker.consecutive(5), openFor: "60 seconds" }, "default")
        assert.deepStrictEqual(logs, [])
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  it.effect("are told apart in every detail", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { any, consecutive, rate, rateOver, slowRate } = CircuitBreaker
        const first = rate({ size: 20, threshold: 0.5, minimumCalls: 10 })
        const trips: ReadonlyArray<readonly [CircuitBreaker.TripRule, CircuitBreaker.TripRule]> = [
          [consecutive(5), consecutive(6)],
          [first, rate({ size: 21, threshold: 0.5, minimumCalls: 10 })],
          [first, rate({ size: 20, threshold: 0.6, minimumCalls: 10 })],
          [first, rate({ size: 20, threshold: 0.5, minimumCalls: 11 })],
          [rateOver({ window: "1 minute" }), rateOver({ window: "2 minutes" })],
          [rateOver({ window: 20 }), rate({ size: 20 })],
          [slowRate({ slowerThan: 1 }), slowRate({ slowerThan: 2 })],
          [slowRate({ slowerThan: 1, size: 20 }), slowRate({ slowerThan: 1, window: 20 })],
          [any(first, consecutive(5)), any(first, consecutive(6))],
          [any(first), any(first, consecutive(5))],
          [any(first), first],
          [counting, { ...counting }],
          [first, { ...first }]
        ]
        for (const [at, [one, other]] of trips.entries()) {
          yield* call(ok, { trip: one }, `trip ${at}`)
          yield* call(ok, { trip: other }, `trip ${at}`)
        }
        assert.deepStrictEqual(logs, trips.map((_, at) => objection(`trip ${at}`, "trip")))
        logs.length = 0

        const others: CircuitBreaker.CircuitOptions = {
          openFor: Schedule.exponential("1 second"),
          maxOpenFor: "2 hours",
          halfOpenPermits: 3,
          successThreshold: 2,
          successOutOf: 5,
          probeTimeout: "1 minute",
          metricsOnly: true,
          countsAsFailure: (verdict) => Fault.countsAsFailure(verdict)
        }
        const changed = Object.entries(others)
        for (const [option, value] of changed) {
          yield* call(ok, { ...everything(), openFor: backoff }, option)
          yield* call(ok, { ...everything(), openFor: backoff, [option]: value }, option)
        }
        assert.deepStrictEqual(logs, changed.map(([option]) => objection(option, option)))
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  it.effect("that come after a caller without any are the first ones: they hold, once, and no counts are lost", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        yield* times(4, call(down))
        assert.deepStrictEqual(yield* call(bad, sturdy), yield* call(bad))
        yield* call(down)
        assert.deepStrictEqual(yield* CircuitBreaker.state("k"), { _tag: "Closed", key: "k", calls: 5, failures: 5 })
        yield* call(down, fragile)
        assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "Open", retryAfter: Duration.minutes(1) })
        assert.deepStrictEqual(logs, [objection("k", "trip, openFor")])
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  it.effect("of a forgotten circuit are forgotten with it", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        yield* call(ok, sturdy)
        yield* TestClock.adjust("1 hour")
        yield* call(down, fragile)
        assert.strictEqual(yield* tagOf(), "Open")
        assert.deepStrictEqual(logs, [])
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  it.effect("are compared again when the layer's have changed", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const same: CircuitBreaker.CircuitOptions = { openFor: "1 minute" }
        yield* call(ok, {})
        yield* call(ok, same)
        assert.deepStrictEqual(logs, [])
        yield* configure({ openFor: "2 minutes" })
        yield* call(ok, same)
        assert.deepStrictEqual(logs, [objection("k", "openFor")])
      }).pipe(Effect.provide(CircuitBreaker.layer()))
    ))

  it.effect("a caller without options takes the circuit as it is", () =>
    Effect.gen(function*() {
      yield* times(4, call(down, sturdy))
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Closed")
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("count for a call that is running when the first caller gives them", () =>
    Effect.gen(function*() {
      const running = yield* start()
      yield* call(ok, fragile)
      yield* running.end(down)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("stay when the layer's are changed, and what they left out changes", () =>
    Effect.gen(function*() {
      yield* call(ok, { trip: CircuitBreaker.consecutive(2) })
      yield* configure({ openFor: "3 seconds", trip: CircuitBreaker.consecutive(99) })
      yield* times(2, call(down))
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "Open", retryAfter: Duration.seconds(3) })
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("metricsOnly of the first caller with options lets through what was refused", () =>
    Effect.gen(function*() {
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Open")
      yield* CircuitBreaker.check("k", { metricsOnly: true })
      assert.strictEqual(yield* tagOf(), "Open")
      assert.deepStrictEqual(yield* call(ok, { metricsOnly: true }), Exit.succeed("ok"))
      assert.strictEqual(yield* tagOf(), "MetricsOnly")
    }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) }))))

  it("out of range throw when the guard is built, naming the option", () => {
    const wrong = { halfOpenPermits: 0 }
    assert.deepStrictEqual(invalid(() => CircuitBreaker.protect("k", wrong)), ["CircuitBreaker", "halfOpenPermits"])
    assert.deepStrictEqual(invalid(() => CircuitBreaker.protect(ok, "k", wrong)), ["CircuitBreaker", "halfOpenPermits"])
    assert.deepStrictEqual(invalid(() => ok.pipe(CircuitBreaker.protect("k", wrong))), [
      "CircuitBreaker",
      "halfOpenPermits"
    ])
    assert.deepStrictEqual(invalid(() => CircuitBreaker.check("k", { openFor: -1 })), ["CircuitBreaker", "openFor"])
    assert.deepStrictEqual(
      invalid(() => CircuitBreaker.protect(ok, "k", { successThreshold: 3, successOutOf: 2 })),
      ["CircuitBreaker", "successOutOf"]
    )
  })

  const limits: CircuitBreaker.Options = {
    trip: CircuitBreaker.consecutive(1),
    openFor: "10 seconds",
    maxOpenFor: "1 minute",
    successThreshold: 3,
    successOutOf: 4
  }

  it.effect("and the layer's that exclude each other die nowhere: the layer's give way", () =>
    Effect.gen(function*() {
      const opening = Effect.fnUntraced(function*(key: string, options: CircuitBreaker.CircuitOptions) {
        yield* call(down, options, key)
        const { retryAfter } = yield* Effect.flip(CircuitBreaker.check(key))
        yield* TestClock.adjust(retryAfter ?? assert.fail("isolated"))
        return retryAfter
      })
      assert.deepStrictEqual(yield* opening("long", { openFor: "2 minutes" }), Duration.minutes(2))
      assert.deepStrictEqual(yield* opening("short", { maxOpenFor: "5 seconds" }), Duration.seconds(5))
      // two successes of two are enough
      yield* opening("two", { successOutOf: 2 })
      yield* times(2, call(ok, undefined, "two"))
      assert.strictEqual(yield* tagOf("two"), "Closed")
      // one failure of six is too many
      yield* opening("six", { successThreshold: 6 })
      yield* times(5, call(ok, undefined, "six"))
      assert.strictEqual(yield* tagOf("six"), "HalfOpen")
      yield* call(down, undefined, "six")
      assert.strictEqual(yield* tagOf("six"), "Open")
      // also those that the layer gets later
      yield* configure({ ...limits, maxOpenFor: "1 second", openFor: "1 second" })
      yield* CircuitBreaker.reset("long")
      yield* call(down, undefined, "long")
      assert.deepInclude(yield* CircuitBreaker.state("long"), { _tag: "Open", retryAfter: Duration.minutes(2) })
    }).pipe(Effect.provide(CircuitBreaker.layer(limits))))

  it.effect("warn nobody of a key that the layer configures by name", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        yield* call(ok, fragile)
        yield* call(ok, sturdy)
        assert.deepStrictEqual(logs, [])
      }).pipe(Effect.provide(CircuitBreaker.layer({ keys: { k: {} } })))
    ))
})

describe("check", () => {
  it.effect("refuses exactly when a call would be refused at this moment", () =>
    Effect.gen(function*() {
      const agrees = Effect.fnUntraced(function*(expected: "Open" | "HalfOpen" | "Isolated" | undefined) {
        const checked = yield* Effect.exit(CircuitBreaker.check("k"))
        if (expected === undefined) return assert.deepStrictEqual(checked, Exit.void)
        const called = yield* Effect.flip(CircuitBreaker.protect(Effect.void, "k"))
        assert.strictEqual(called instanceof CircuitBreaker.CircuitOpen ? called.state : called, expected)
        assert.deepStrictEqual(checked, Exit.fail(called))
      })
      yield* agrees(undefined)
      yield* call(down, fragile)
      yield* agrees("Open")
      yield* TestClock.adjust(6_999)
      yield* agrees("Open")
      yield* TestClock.adjust(1)
      yield* agrees(undefined)
      const probe = yield* start()
      yield* agrees("HalfOpen")
      yield* TestClock.adjust("5 minutes")
      yield* agrees(undefined)
      yield* probe.end(ok)
      yield* agrees(undefined)
      const hold = yield* CircuitBreaker.isolate("k")
      yield* agrees("Isolated")
      yield* hold.release
      yield* CircuitBreaker.reset("k")
      yield* agrees(undefined)
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("changes no state, takes no probe and remembers no key", () =>
    Effect.gen(function*() {
      yield* CircuitBreaker.check("other")
      yield* call(down, fragile)
      yield* TestClock.adjust("7 seconds")
      const before = yield* CircuitBreaker.state("k")
      yield* times(3, CircuitBreaker.check("k"))
      assert.deepStrictEqual(yield* CircuitBreaker.state("k"), before)
      const states = yield* CircuitBreaker.CircuitBreaker.use((breaker) => breaker.states)
      assert.deepStrictEqual(states.map(({ key }) => key), ["k"])
      assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
      assert.strictEqual(yield* tagOf(), "HalfOpen")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("tells the listener of a refusal, as a call does", () => {
    const events: Array<Telemetry.Event> = []
    return Effect.gen(function*() {
      yield* call(down, fragile)
      yield* Effect.flip(CircuitBreaker.check("k"))
      assert.deepStrictEqual(events.slice(1), [{ _tag: "CircuitRejected", key: "k", retryAfterMillis: 7_000 }])
    }).pipe(
      Effect.provide(CircuitBreaker.layer()),
      Effect.provideService(Telemetry.Listener, (event) => events.push(event))
    )
  })

  it.effect("lets everything through with layerNoop", () =>
    Effect.gen(function*() {
      yield* times(9, call(down, fragile))
      yield* CircuitBreaker.isolate("k")
      yield* CircuitBreaker.check("k")
      assert.strictEqual(yield* tagOf(), "Closed")
    }).pipe(Effect.provide(CircuitBreaker.layerNoop)))
})

describe("settings changed while half-open", () => {
  const quick: CircuitBreaker.Options = { trip: CircuitBreaker.consecutive(1), openFor: "1 second" }

  const probing = Effect.andThen(call(down), TestClock.adjust("1 second"))

  it.effect("with fewer permits than probes, the time told is that of the probe that frees a slot", () =>
    Effect.gen(function*() {
      yield* probing
      for (let i = 0; i < 3; i++) {
        yield* start()
        yield* TestClock.adjust("1 second")
      }
      yield* configure({ ...quick, halfOpenPermits: 1, probeTimeout: "1 minute" })
      const { retryAfter } = yield* Effect.flip(CircuitBreaker.check("k"))
      assert.deepStrictEqual(retryAfter, Duration.seconds(59))
      yield* TestClock.adjust("59 seconds")
      assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
    }).pipe(Effect.provide(CircuitBreaker.layer({ ...quick, halfOpenPermits: 3, probeTimeout: "1 minute" }))))

  it.effect("a probe that has lost its slot stays without a say, also with a longer probeTimeout", () =>
    Effect.gen(function*() {
      yield* probing
      const first = yield* start()
      yield* TestClock.adjust("1 minute")
      const second = yield* start()
      yield* configure({ ...quick, successThreshold: 1, probeTimeout: "1 hour" })
      yield* first.end(ok)
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "HalfOpen", probes: 1, successes: 0 })
      yield* second.end(ok)
      assert.strictEqual(yield* tagOf(), "Closed")
    }).pipe(Effect.provide(CircuitBreaker.layer({ ...quick, successThreshold: 1, probeTimeout: "1 minute" }))))

  it.effect("with a lower threshold that is already reached, a failed probe does not close the circuit", () =>
    Effect.gen(function*() {
      yield* probing
      yield* times(2, call(ok))
      yield* configure({ ...quick, successThreshold: 1, successOutOf: 1 })
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer({ ...quick, successThreshold: 3, successOutOf: 5 }))))

  it.effect("with a higher threshold that is out of reach, a successful probe opens the circuit", () =>
    Effect.gen(function*() {
      yield* probing
      yield* times(2, call(down))
      yield* configure({ ...quick, successThreshold: 2, successOutOf: 2 })
      yield* call(ok)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer({ ...quick, successThreshold: 1, successOutOf: 4 }))))

  it.effect("to metricsOnly, it closes, its probes change nothing, and back it counts from there", () =>
    Effect.gen(function*() {
      yield* probing
      const probe = yield* start()
      yield* configure({ ...quick, metricsOnly: true })
      yield* probe.end(down)
      assert.deepStrictEqual(yield* CircuitBreaker.state("k"), {
        _tag: "MetricsOnly",
        key: "k",
        calls: 0,
        failures: 0,
        wouldOpen: false
      })
      yield* call(down)
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "MetricsOnly", wouldOpen: true })
      yield* configure({ ...quick, trip: CircuitBreaker.consecutive(2) })
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer(quick))))

  it.effect("a rule that is the same object keeps what it has counted, whatever it is", () =>
    Effect.gen(function*() {
      const third: CircuitBreaker.TripRule = {
        window: () => {
          let calls = 0
          return { record: () => ++calls === 3 }
        },
        healthy: ({ failed }) => !failed
      }
      yield* configure({ trip: third })
      yield* times(2, call(ok))
      yield* configure({ trip: third, openFor: "3 seconds" })
      yield* call(ok)
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "Open", retryAfter: Duration.seconds(3) })
    }).pipe(Effect.provide(CircuitBreaker.layer())))
})

describe("a hold", () => {
  it.effect("keeps the counts of a closed circuit", () =>
    Effect.gen(function*() {
      yield* times(4, call(down))
      const hold = yield* CircuitBreaker.isolate("k")
      yield* TestClock.adjust("1 minute")
      yield* hold.release
      assert.deepStrictEqual(yield* CircuitBreaker.state("k"), { _tag: "Closed", key: "k", calls: 4, failures: 4 })
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("on a half-open circuit starts the probes again when it is released, and no earlier probe counts", () =>
    Effect.gen(function*() {
      yield* call(down, fragile)
      yield* TestClock.adjust("7 seconds")
      const probe = yield* start()
      const hold = yield* CircuitBreaker.isolate("k")
      assert.strictEqual((yield* Effect.flip(CircuitBreaker.check("k"))).state, "Isolated")
      yield* hold.release
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "Open", retryAfter: Duration.zero })
      const again = yield* start()
      yield* probe.end(down)
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "HalfOpen", probes: 1, failures: 0 })
      yield* again.end(ok)
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "HalfOpen", successes: 1 })
    }).pipe(Effect.provide(CircuitBreaker.layer())))
})
