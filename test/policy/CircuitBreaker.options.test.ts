import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber } from "effect"
import { CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"

const down = Effect.fail({ [Fault.verdictOf]: Fault.transient })
const bad = Effect.fail({ [Fault.verdictOf]: Fault.permanent })
const ok = Effect.succeed("ok")

const fragile: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.consecutive(1), openFor: "7 seconds" }
const sturdy: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.consecutive(6) }

const call = <A, E, R>(self: Effect.Effect<A, E, R>, options?: CircuitBreaker.CircuitOptions, key = "k") =>
  Effect.exit(CircuitBreaker.protect(self, key, options))

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

  it.effect("of two callers the last one wins, and no counts are lost", () =>
    Effect.gen(function*() {
      yield* times(4, call(down, sturdy))
      yield* call(bad, fragile)
      assert.deepStrictEqual(yield* CircuitBreaker.state("k"), { _tag: "Closed", key: "k", calls: 4, failures: 4 })
      yield* call(down, sturdy)
      assert.strictEqual(yield* tagOf(), "Closed")
      yield* call(down, sturdy)
      assert.deepInclude(yield* CircuitBreaker.state("k"), { _tag: "Open", retryAfter: Duration.minutes(1) })
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("a caller without options takes the circuit as it is", () =>
    Effect.gen(function*() {
      yield* times(4, call(down, sturdy))
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Closed")
      yield* call(down)
      assert.strictEqual(yield* tagOf(), "Open")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.effect("count for a call that is running when another caller gives them", () =>
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

  it.effect("metricsOnly of a caller lets through what was refused", () =>
    Effect.gen(function*() {
      yield* call(down, fragile)
      assert.strictEqual(yield* tagOf(), "Open")
      yield* CircuitBreaker.check("k", { metricsOnly: true })
      assert.strictEqual(yield* tagOf(), "Open")
      assert.deepStrictEqual(yield* call(ok, { metricsOnly: true }), Exit.succeed("ok"))
      assert.strictEqual(yield* tagOf(), "MetricsOnly")
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it("out of range throw when the guard is built, naming the option", () => {
    const wrong = { halfOpenPermits: 0 }
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

  it.effect("out of range only together with the layer's die when they meet, and the layer's go on", () =>
    Effect.gen(function*() {
      const guarded = CircuitBreaker.protect(ok, "k", { successOutOf: 2 })
      const exit = yield* Effect.exit(guarded)
      assert.isTrue(Exit.hasDies(exit))
      assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
      assert.strictEqual(yield* tagOf(), "Closed")
      yield* configure({ successThreshold: 2 })
      assert.deepStrictEqual(yield* Effect.exit(guarded), Exit.succeed("ok"))
      // the circuit's options no longer fit these, which are refused as a whole
      assert.isTrue(Exit.hasDies(yield* Effect.exit(configure({ successThreshold: 3 }))))
      assert.deepStrictEqual(yield* Effect.exit(guarded), Exit.succeed("ok"))
    }).pipe(Effect.provide(CircuitBreaker.layer({ successThreshold: 3 }))))
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
