import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Schema, Scope, Stream } from "effect"
import { CircuitBreaker, Fault, HealthCheck, HealthMonitor } from "effect-resilience"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { withMessages } from "../support/logs.ts"
import { runs } from "../support/runs.ts"

const withoutLogs = <A, E, R>(self: Effect.Effect<A, E, R>) => withMessages(() => self)

type Monitor = HealthMonitor.HealthMonitor["Service"]

class Down extends Schema.TaggedError<Down>()("Down", {}) {
  get [Fault.verdictOf](): Fault.Verdict {
    return Fault.transient
  }
}

const failure = { outcome: "failure", latency: 1 } as const
const success = { outcome: "success", latency: 1 } as const

const close = (monitor: Monitor, key: string) => Effect.repeat(monitor.record(key, failure), { times: 6 })

const gateOf = (monitor: Monitor, key: string) => Effect.map(monitor.status(key), ({ gate }) => gate)

/** A check whose result is set from outside. */
const settable = (key: string) => {
  let result = HealthCheck.healthy("fine")
  return {
    check: HealthCheck.make("ping", Effect.sync(() => result), { key }),
    set: (next: HealthCheck.Result) =>
      Effect.sync(() => {
        result = next
      })
  }
}

describe("HealthMonitor.gate: closing", () => {
  it.effect("lets everything through whose key is not critical, and adds nothing to it", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      assert.strictEqual(yield* Effect.succeed("done").pipe(monitor.gate("key")), "done")
      assert.instanceOf(yield* Effect.flip(Effect.fail(new Down()).pipe(monitor.gate("key"))), Down)
      assert.deepStrictEqual(yield* monitor.statuses, [])
    }))

  it.effect("closes after three critical calls in a row, and not while the calls are too few", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      for (let n = 0; n < 6; n++) yield* monitor.record("key", failure)
      assert.strictEqual(yield* gateOf(monitor, "key"), "open")
      yield* monitor.record("key", failure)
      assert.strictEqual(yield* gateOf(monitor, "key"), "closed")
    }))

  it.effect("refuses without starting the work, with an error that says why, since when and what to do", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(Date.UTC(2026, 2, 1, 12))
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "model")
      yield* TestClock.adjust("10 seconds")
      let started = 0
      const work = Effect.sync(() => started++)
      const error = yield* Effect.flip(work.pipe(monitor.gate("model")))
      assert.strictEqual(started, 0)
      assert.strictEqual(
        error.message,
        "Health gate \"model\" has been closed since 2026-03-01T12:00:00.000Z and started nothing, because the health is " +
          "critical (7 of 7 calls failed (100 %), 0 s on average): try again in 20s, or fall back; it reopens by itself when " +
          "a few checks or calls in a row have gone well"
      )
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.rejected("20 seconds"))
      const decoded = yield* Schema.decodeEffect(HealthMonitor.HealthGateClosed)(
        yield* Schema.encodeEffect(HealthMonitor.HealthGateClosed)(error)
      )
      assert.strictEqual(decoded.message, error.message)
    }))

  it.effect("a refusal counts neither for the key nor for one around it", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "model")
      yield* Effect.exit(Effect.void.pipe(monitor.gate("model"), monitor.track("agent")))
      assert.deepInclude(yield* monitor.status("model"), { calls: 7 })
      assert.deepInclude(yield* monitor.status("agent"), { calls: 0 })
    }))

  it.effect("work that has begun goes on", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const work = yield* Effect.as(Effect.sleep("1 minute"), "done").pipe(
        monitor.gate("key"),
        Effect.forkChild({ startImmediately: true })
      )
      yield* close(monitor, "key")
      yield* TestClock.adjust("1 minute")
      assert.strictEqual(yield* Fiber.join(work), "done")
    }))

  it.effect("a critical check closes it, and while it is nothing is let through", () =>
    Effect.gen(function*() {
      const { check, set } = settable("key")
      const monitor = yield* HealthMonitor.make({ checks: [check] })
      yield* set(HealthCheck.critical("no answer"))
      for (let n = 0; n < 3; n++) yield* monitor.check
      assert.strictEqual(yield* gateOf(monitor, "key"), "closed")
      yield* TestClock.adjust("10 minutes")
      const error = yield* Effect.flip(Effect.void.pipe(monitor.gate("key")))
      assert.deepStrictEqual([error.reason, error.retryAfter], ["ping: no answer", undefined])
    }))
})

describe("HealthMonitor.gate: reopening", () => {
  it.effect("lets one at a time through to try once 30 seconds are over, and reopens after two that succeed", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "key")
      yield* TestClock.adjust("29999 millis")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.void.pipe(monitor.gate("key")))))
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* gateOf(monitor, "key"), "probing")
      const latch = yield* Deferred.make<void>()
      const probe = yield* Deferred.await(latch).pipe(
        monitor.gate("key"),
        Effect.forkChild({ startImmediately: true })
      )
      assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.void.pipe(monitor.gate("key")))), "one at a time")
      yield* Deferred.succeed(latch, undefined)
      yield* Fiber.join(probe)
      assert.strictEqual(yield* gateOf(monitor, "key"), "probing")
      yield* Effect.void.pipe(monitor.gate("key"))
      assert.strictEqual(yield* gateOf(monitor, "key"), "open")
    }))

  it.effect("of a hundred that come at the same time one is let through", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "key")
      yield* TestClock.adjust("30 seconds")
      const work = Effect.exit(Effect.sleep("1 second").pipe(monitor.gate("key")))
      const all = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 100 }), () => work, { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("1 second")
      assert.lengthOf((yield* Fiber.join(all)).filter(Exit.isSuccess), 1)
    }))

  it.effect("a probe that fails begins the time anew; one that is interrupted or refused does not count", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "key")
      yield* TestClock.adjust("30 seconds")
      yield* Effect.exit(Effect.interrupt.pipe(monitor.gate("key")))
      assert.strictEqual(yield* gateOf(monitor, "key"), "probing")
      yield* Effect.exit(Effect.fail(new Down()).pipe(monitor.gate("key")))
      assert.strictEqual(yield* gateOf(monitor, "key"), "closed")
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* gateOf(monitor, "key"), "probing")
    }))

  it.effect("the calls inside of a probe are counted, and only its own end says whether it went well", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "key")
      yield* TestClock.adjust("30 seconds")
      const call = Effect.void.pipe(monitor.track("key"))
      yield* Effect.all([call, call, call]).pipe(monitor.gate("key"))
      assert.deepInclude(yield* monitor.status("key"), { calls: 10, gate: "probing" })
    }))

  it.effect("a probe that does not end makes way for another after 5 minutes, and its late end says nothing", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ gate: { reopenAfter: 1 } })
      yield* close(monitor, "key")
      yield* TestClock.adjust("30 seconds")
      const latch = yield* Deferred.make<void>()
      const hanging = yield* Deferred.await(latch).pipe(
        monitor.gate("key"),
        Effect.forkChild({ startImmediately: true })
      )
      const second = yield* Deferred.make<void>()
      const trying = Deferred.await(second).pipe(monitor.gate("key"))
      yield* TestClock.adjust("299999 millis")
      assert.isTrue(Exit.isFailure(yield* Effect.exit(trying)))
      yield* TestClock.adjust(1)
      const next = yield* Effect.forkChild(trying, { startImmediately: true })
      yield* Deferred.succeed(latch, undefined)
      yield* Fiber.join(hanging)
      assert.strictEqual(yield* gateOf(monitor, "key"), "probing")
      yield* Deferred.succeed(second, undefined)
      yield* Fiber.join(next)
      assert.strictEqual(yield* gateOf(monitor, "key"), "open")
    }))

  it.effect("checks alone reopen it, by themselves, without a call", () =>
    Effect.gen(function*() {
      const { check, set } = settable("key")
      const monitor = yield* HealthMonitor.make({ checks: [check] })
      yield* set(HealthCheck.critical("no answer"))
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* gateOf(monitor, "key"), "closed")
      yield* set(HealthCheck.healthy("fine"))
      yield* TestClock.adjust("2 minutes")
      assert.strictEqual(yield* gateOf(monitor, "key"), "open")
      assert.strictEqual(yield* Effect.succeed("done").pipe(monitor.gate("key")), "done")
    }))

  it.effect("the failures that closed it do not close it again, though they still show", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* Effect.repeat(monitor.record("key", failure), { times: 40 })
      yield* TestClock.adjust("30 seconds")
      yield* Effect.repeat(Effect.void.pipe(monitor.gate("key")), { times: 1 })
      for (let n = 0; n < 5; n++) yield* monitor.record("key", success)
      assert.deepInclude(yield* monitor.status("key"), { gate: "open", status: "critical", calls: 46 })
    }))

  it.effect("calls that pass by it reopen it, though a few of them fail", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "key")
      for (let n = 0; n < 200; n++) {
        yield* TestClock.adjust("1 second")
        yield* monitor.record("key", n % 10 === 9 ? failure : success)
      }
      assert.strictEqual(yield* gateOf(monitor, "key"), "open")
    }))

  it.effect("calls from before it closed do not reopen it, and from before it reopened do not close it", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ gate: { closedFor: "1 milli" } })
      const latch = yield* Deferred.make<void, Down>()
      const before = yield* Effect.forEach(
        Array.from({ length: 20 }),
        () => Effect.exit(Deferred.await(latch).pipe(monitor.track("key"))),
        { concurrency: "unbounded" }
      ).pipe(Effect.forkChild({ startImmediately: true }))
      yield* close(monitor, "key")
      yield* TestClock.adjust("1 second")
      yield* Effect.repeat(Effect.void.pipe(monitor.gate("key")), { times: 1 })
      assert.strictEqual(yield* gateOf(monitor, "key"), "open")
      yield* Deferred.fail(latch, new Down())
      yield* Fiber.join(before)
      assert.deepInclude(yield* monitor.status("key"), { gate: "open", calls: 7 })
    }))

  it.effect("an unused key is forgotten with its closed gate, an hour after it could have tried", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ gate: { closedFor: "3 hours" } })
      yield* close(monitor, "key")
      yield* TestClock.adjust("239 minutes")
      assert.lengthOf(yield* monitor.statuses, 1)
      yield* TestClock.adjust("1 minute")
      assert.lengthOf(yield* monitor.statuses, 0)
      assert.strictEqual(yield* Effect.succeed("done").pipe(monitor.gate("key")), "done")
    }))

  it.effect("makes the whole degraded at least, so that a gate that needs a call to try does not keep calls away", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* close(monitor, "key")
      assert.strictEqual((yield* monitor.snapshot).status, "critical")
      yield* TestClock.adjust("6 minutes")
      assert.strictEqual((yield* monitor.status("key")).status, "healthy")
      const { message, status } = yield* monitor.snapshot
      assert.strictEqual(status, "degraded")
      assert.match(message, /the gate is closed/)
    }))

  it.effect("says once in the message of the whole why it is closed", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        checks: [HealthCheck.make("dies", Effect.die(new Error("no")))],
        gate: { closeAfter: 1 }
      })
      const { keys, message } = yield* monitor.check
      assert.strictEqual(message, "dies: the check died of Error; dies: the gate is closed")
      assert.strictEqual(keys[0]?.message, "the gate is closed (dies: the check died of Error)")
    }))
})

describe("HealthMonitor.gate: it cannot flap", () => {
  const Step = Schema.Struct({
    what: Schema.Literals(["failure", "success", "check", "gated failure", "gated success"]),
    times: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 10 })),
    result: Schema.Literals(["healthy", "critical"]),
    wait: Schema.Literals([0, 1, 500, 10_000, 30_000])
  })

  it.effect.prop(
    "whatever comes, in a time T it closes at most T / closedFor + 1 times, and stays closed for as long each time",
    { steps: Schema.Array(Step).check(Schema.isMinLength(20), Schema.isMaxLength(100)) },
    ({ steps }) =>
      Effect.scoped(Effect.gen(function*() {
        const closedFor = 30_000
        const { check, set } = settable("key")
        const monitor = yield* HealthMonitor.make({
          size: 20,
          checks: [check],
          // Nothing happens but what is said below.
          interval: "1000 days",
          gate: { closeAfter: 1, reopenAfter: 1, closedFor }
        })
        let now = 0
        const turns: Array<{ readonly to: string; readonly at: number }> = []
        yield* Stream.runForEach(monitor.gateChanges, ({ to }) => Effect.sync(() => turns.push({ to, at: now }))).pipe(
          Effect.forkScoped({ startImmediately: true })
        )
        for (const { result, times, wait, what } of steps) {
          for (let n = 0; n < times; n++) {
            now += wait
            yield* TestClock.adjust(wait)
            if (what === "check") {
              yield* set({ status: result, message: result })
              yield* monitor.check
            } else if (what === "failure" || what === "success") {
              yield* monitor.record("key", { outcome: what, latency: 1 })
            } else {
              const work = what === "gated failure" ? Effect.fail(new Down()) : Effect.void
              yield* Effect.exit(work.pipe(monitor.track("key"), monitor.gate("key")))
            }
            yield* TestClock.adjust(0)
          }
        }
        const closings = turns.filter(({ to }) => to === "closed")
        assert.isAtMost(closings.length, now / closedFor + 1)
        turns.forEach(({ at, to }, index) => {
          assert.strictEqual(to, index % 2 === 0 ? "closed" : "open")
          const before = turns[index - 1]
          if (to === "open" && before !== undefined) assert.isAtLeast(at - before.at, closedFor)
        })
      })).pipe(Effect.provide(TestClock.layer()), withoutLogs),
    { arbitrary: { runs: runs(60, 3_000), size: 100, seed: 1 }, timeout: runs(60_000, 1_800_000) }
  )

  it.effect("failures and successes in turn for an hour do not close it at all", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const turns: Array<string> = []
      yield* Stream.runForEach(monitor.gateChanges, ({ to }) => Effect.sync(() => turns.push(to))).pipe(
        Effect.forkScoped({ startImmediately: true })
      )
      for (let n = 0; n < 720; n++) {
        yield* monitor.record("key", n % 2 === 0 ? success : failure)
        yield* TestClock.adjust("5 seconds")
      }
      assert.deepStrictEqual(turns, [])
    }))

  it.effect("a probe interrupted at any step frees its place", () =>
    interruptEverywhere({
      arrange: Effect.gen(function*() {
        const monitor = yield* HealthMonitor.make({ interval: "10 days", gate: { closedFor: 1 } })
        yield* close(monitor, "key")
        yield* TestClock.adjust(1)
        return {
          effect: Effect.sleep("1 second").pipe(monitor.gate("key")),
          check: () =>
            Effect.gen(function*() {
              assert.strictEqual(yield* gateOf(monitor, "key"), "probing")
              assert.strictEqual(yield* Effect.succeed("through").pipe(monitor.gate("key")), "through")
            }),
          sleepsLeft: 1
        }
      })
    }).pipe(withoutLogs))
})

describe("HealthMonitor.isolateCircuit", () => {
  const stateOf = (key: string) => Effect.map(CircuitBreaker.state(key), ({ _tag }) => _tag)
  const settled = TestClock.adjust(0)

  const program = Effect.fnUntraced(function*() {
    const monitor = yield* HealthMonitor.HealthMonitor
    yield* HealthMonitor.isolateCircuit("model", "anthropic")
    yield* close(monitor, "model")
    yield* settled
    assert.strictEqual(yield* stateOf("anthropic"), "Isolated")
    return monitor
  })

  it.effect("holds the circuit while the gate is closed, lets it go to try, and holds it again when that fails", () =>
    Effect.gen(function*() {
      const monitor = yield* program()
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual(yield* stateOf("anthropic"), "Closed")
      yield* monitor.record("model", failure)
      yield* settled
      assert.strictEqual(yield* stateOf("anthropic"), "Isolated")
      yield* TestClock.adjust("30 seconds")
      const call = Effect.void.pipe(CircuitBreaker.protect("anthropic"), HealthMonitor.track("model"))
      yield* call
      yield* call
      yield* settled
      assert.strictEqual(yield* gateOf(monitor, "model"), "open")
      assert.strictEqual(yield* stateOf("anthropic"), "Closed")
      yield* close(monitor, "model")
      yield* settled
      assert.strictEqual(yield* stateOf("anthropic"), "Isolated")
    }).pipe(Effect.provide(Layer.merge(HealthMonitor.layer(), CircuitBreaker.layer()))))

  it.effect("lets the circuit go when its scope ends", () =>
    Effect.gen(function*() {
      yield* Effect.scoped(program())
      assert.strictEqual(yield* stateOf("anthropic"), "Closed")
    }).pipe(Effect.provide(Layer.merge(HealthMonitor.layer(), CircuitBreaker.layer()))))

  it.effect("lets the circuit go when the monitor ends before it does", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const monitor = yield* HealthMonitor.make().pipe(Effect.provideService(Scope.Scope, scope))
      const breaker = yield* CircuitBreaker.make()
      yield* HealthMonitor.isolateCircuit("model").pipe(
        Effect.provideService(HealthMonitor.HealthMonitor, monitor),
        Effect.provideService(CircuitBreaker.CircuitBreaker, breaker)
      )
      yield* close(monitor, "model")
      yield* settled
      assert.strictEqual((yield* breaker.state("model"))._tag, "Isolated")
      yield* Scope.close(scope, Exit.void)
      yield* settled
      assert.strictEqual((yield* breaker.state("model"))._tag, "Closed")
      // What is called after its end still works.
      yield* close(monitor, "other")
      assert.strictEqual(yield* gateOf(monitor, "other"), "closed")
    }))

  it.effect("interrupted at any step, and however the gate changes, it leaves no hold behind", () =>
    interruptEverywhere({
      arrange: Effect.gen(function*() {
        const monitor = yield* HealthMonitor.make({ interval: "10 days", minimumCalls: 1, gate: { closeAfter: 1 } })
        const breaker = yield* CircuitBreaker.make()
        const changing = Effect.gen(function*() {
          yield* HealthMonitor.isolateCircuit("model")
          yield* monitor.record("model", failure)
          yield* Effect.sleep("31 seconds")
          yield* monitor.record("model", failure)
          yield* Effect.sleep("10 seconds")
        })
        return {
          effect: Effect.scoped(changing).pipe(
            Effect.provideService(HealthMonitor.HealthMonitor, monitor),
            Effect.provideService(CircuitBreaker.CircuitBreaker, breaker)
          ),
          check: () => Effect.map(breaker.state("model"), ({ _tag }) => assert.strictEqual(_tag, "Closed"))
        }
      })
    }).pipe(withoutLogs))

  it.effect("its hold never makes the check of the circuits critical, which would hold it for ever", () =>
    Effect.gen(function*() {
      yield* program()
      const { status } = yield* HealthCheck.circuits({ critical: ["anthropic"] }).run
      assert.strictEqual(status, "degraded")
    }).pipe(Effect.provide(Layer.merge(HealthMonitor.layer(), CircuitBreaker.layer()))))
})
