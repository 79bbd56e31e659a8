import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Metric, Schema, Stream } from "effect"
import { Fault, HealthCheck, HealthMonitor, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { invalid } from "../support/invalid.ts"

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const failing = Effect.fail(new Told({ verdict: Fault.transient }))

const calls = (monitor: HealthMonitor.HealthMonitor["Service"], key: string, failures: number, successes: number) =>
  Effect.gen(function*() {
    for (let n = 0; n < failures; n++) yield* monitor.record(key, { outcome: "failure", latency: 10 })
    for (let n = 0; n < successes; n++) yield* monitor.record(key, { outcome: "success", latency: 10 })
    return (yield* monitor.status(key)).status
  })

describe("HealthMonitor: the status of a key", () => {
  it.effect("is healthy where nothing is known, and says so", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const { latency, message, status } = yield* monitor.status("unheard")
      assert.deepStrictEqual([status, message, latency], ["healthy", "no calls lately", undefined])
      assert.deepStrictEqual(yield* monitor.statuses, [])
    }))

  it.effect.each(
    [
      { failures: 51, successes: 49, status: "critical" },
      { failures: 50, successes: 50, status: "degraded" },
      { failures: 11, successes: 89, status: "degraded" },
      { failures: 10, successes: 90, status: "healthy" },
      { failures: 3, successes: 2, status: "critical" },
      { failures: 4, successes: 0, status: "degraded" }
    ] as const
  )(
    "$failures failures and $successes successes are $status",
    ({ failures, status, successes }) =>
      Effect.gen(function*() {
        const monitor = yield* HealthMonitor.make()
        assert.strictEqual(yield* calls(monitor, "key", failures, successes), status)
      })
  )

  it.effect("is slow above a mean of 5 seconds, and not at it", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* monitor.record("key", { outcome: "success", latency: "5 seconds" })
      assert.strictEqual((yield* monitor.status("key")).status, "healthy")
      yield* monitor.record("key", { outcome: "success", latency: "5100 millis" })
      assert.strictEqual((yield* monitor.status("key")).status, "slow")
    }))

  it.effect("gets better when 5 minutes have passed, without another call", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      assert.strictEqual(yield* calls(monitor, "key", 10, 0), "critical")
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* monitor.status("key")).status, "critical")
      yield* TestClock.adjust(1)
      const { calls: left, status } = yield* monitor.status("key")
      assert.deepStrictEqual([status, left], ["healthy", 0])
    }))

  it.effect("follows the options of the key, and for the rest those of all", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        minimumCalls: 1,
        degradedAbove: 0.2,
        keys: { strict: { criticalAbove: 0.25 }, patient: { slowAbove: "1 minute" } }
      })
      assert.strictEqual(yield* calls(monitor, "strict", 3, 7), "critical")
      assert.strictEqual(yield* calls(monitor, "other", 3, 7), "degraded")
      assert.strictEqual(yield* calls(monitor, "patient", 2, 8), "healthy")
      yield* monitor.record("patient", { outcome: "success", latency: "2 minutes" })
      assert.strictEqual((yield* monitor.status("patient")).status, "healthy")
    }))

  it.effect("is that of its calls and checks together, the worse of them", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        checks: [HealthCheck.make("ping", Effect.succeed(HealthCheck.critical("no answer")), { key: "key" })]
      })
      yield* monitor.record("key", { outcome: "success", latency: 1 })
      yield* monitor.check
      const { message, status } = yield* monitor.status("key")
      assert.deepStrictEqual([status, message], ["critical", "ping: no answer"])
    }))

  it.effect("is forgotten after an hour without a call, and while one runs it is not", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ maxKeys: 1 })
      const gate = yield* Deferred.make<void>()
      const running = yield* Deferred.await(gate).pipe(
        monitor.track("running"),
        Effect.forkChild({ startImmediately: true })
      )
      yield* calls(monitor, "idle", 1, 0)
      const remembered = Effect.map(monitor.statuses, (all) => all.map(({ key }) => key))
      assert.sameMembers(yield* remembered, ["running", "idle"])
      yield* TestClock.adjust("1 hour")
      assert.sameMembers(yield* remembered, ["running"])
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(running)
      yield* TestClock.adjust("59 minutes")
      assert.sameMembers(yield* remembered, ["running"])
      yield* TestClock.adjust("1 minute")
      assert.sameMembers(yield* remembered, [])
    }))
})

describe("HealthMonitor.track", () => {
  it.effect("counts time and end of a call, and passes both on", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      const call = Effect.as(Effect.sleep("2 seconds"), "found").pipe(monitor.track("key"))
      const fiber = yield* Effect.forkChild(call)
      yield* TestClock.adjust("2 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "found")
      const { calls, errors, latency } = yield* monitor.status("key")
      assert.deepStrictEqual([calls, errors, latency && Duration.toMillis(latency.p50)], [1, 0, 2_000])
    }))

  it.effect.each([
    { verdict: Fault.transient, counts: 1 },
    { verdict: Fault.timedOut, counts: 1 },
    { verdict: Fault.malformed, counts: 1 },
    { verdict: Fault.ambiguous, counts: 1 },
    { verdict: Fault.overloaded(), counts: 1 },
    { verdict: Fault.unknown, counts: 1 },
    { verdict: Fault.permanent, counts: 0 },
    { verdict: Fault.rejected(), counts: 0 },
    { verdict: Fault.throttled(), counts: 0 },
    { verdict: Fault.refused, counts: 0 },
    { verdict: Fault.contextOverflow, counts: 0 }
  ])("a failure whose verdict is $verdict counts $counts times", ({ counts, verdict }) =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      yield* Effect.exit(Effect.fail(new Told({ verdict })).pipe(monitor.track("key")))
      const { calls, errors } = yield* monitor.status("key")
      assert.deepStrictEqual([calls, errors], [counts, counts])
    }))

  it.effect("counts a defect, and by a filter of one's own what it says", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ countsAsFailure: (verdict) => verdict._tag === "Permanent" })
      yield* Effect.exit(Effect.die("bug").pipe(monitor.track("key")))
      yield* Effect.exit(Effect.fail(new Told({ verdict: Fault.permanent })).pipe(monitor.track("key")))
      yield* Effect.exit(failing.pipe(monitor.track("key")))
      assert.deepInclude(yield* monitor.status("key"), { calls: 2, errors: 2 })
    }))

  it.effect("a classifier that throws ends the call, and nothing is counted or left running", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ maxKeys: 1 })
      const exit = yield* Effect.fail("odd").pipe(
        monitor.track("key"),
        Fault.withClassifier(() => {
          throw new Error("classifier")
        }),
        Effect.exit
      )
      assert.isTrue(Exit.hasDies(exit))
      assert.deepInclude(yield* monitor.status("key"), { calls: 0 })
      yield* calls(monitor, "other", 0, 1)
      assert.deepStrictEqual((yield* monitor.statuses).map(({ key }) => key), ["other"])
    }))

  it.effect("interrupted at any step a call counts for nothing, and no key stays in use", () =>
    interruptEverywhere({
      arrange: Effect.gen(function*() {
        const monitor = yield* HealthMonitor.make({ idleTimeToLive: 1 })
        let slept = false
        const sleep = Effect.sleep("1 second").pipe(Effect.tap(() =>
          Effect.sync(() => {
            slept = true
          })
        ))
        return {
          effect: monitor.track("key")(sleep),
          check: (exit) =>
            Effect.gen(function*() {
              const { calls, errors } = yield* monitor.status("key")
              assert.strictEqual(errors, 0)
              if (Exit.isSuccess(exit)) assert.strictEqual(calls, 1)
              if (!slept) assert.strictEqual(calls, 0)
              yield* TestClock.adjust(10)
              assert.deepStrictEqual(yield* monitor.statuses, [])
            }),
          // its own rounds
          sleepsLeft: 1
        }
      })
    }))

  it.effect("counts every one of many calls at the same time", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ size: 1_000 })
      const call = (n: number) =>
        Effect.andThen(Effect.sleep(n % 7), n % 4 === 0 ? failing : Effect.void).pipe(monitor.track("key"), Effect.exit)
      const all = yield* Effect.forkChild(
        Effect.forEach(Array.from({ length: 1_000 }, (_, n) => n), call, { concurrency: "unbounded" })
      )
      yield* TestClock.adjust(10)
      yield* Fiber.join(all)
      assert.deepInclude(yield* monitor.status("key"), { calls: 1_000, errors: 250 })
    }))
})

describe("HealthMonitor: changes", () => {
  it.effect("are told once each, in order, to the stream and to the listener", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      const seen: Array<HealthMonitor.Change> = []
      const monitor = yield* HealthMonitor.make({ size: 10 })
      yield* Stream.runForEach(monitor.changes, (change) => Effect.sync(() => seen.push(change))).pipe(
        Effect.forkScoped({ startImmediately: true })
      )
      yield* calls(monitor, "key", 6, 10).pipe(
        Effect.provideService(Telemetry.Listener, (event) => {
          events.push(event)
        })
      )
      yield* TestClock.adjust(0)
      assert.deepStrictEqual(seen.map(({ from, to }) => `${from} -> ${to}`), [
        "healthy -> degraded",
        "degraded -> critical",
        "critical -> degraded",
        "degraded -> healthy"
      ])
      assert.deepStrictEqual(events, seen.map((change) => ({ _tag: "HealthChanged", ...change })))
      assert.deepStrictEqual(seen[1], {
        key: "key",
        check: undefined,
        from: "degraded",
        to: "critical",
        message: "5 of 5 calls failed (100 %), 0 s on average"
      })
    }))

  it.effect("name the check that has changed, and the stream ends with the monitor", () =>
    Effect.gen(function*() {
      let status = HealthCheck.healthy("fine")
      const check = HealthCheck.make("ping", Effect.sync(() => status), { key: "key" })
      const seen = yield* Effect.scoped(Effect.gen(function*() {
        const monitor = yield* HealthMonitor.make({ checks: [check] })
        const fiber = yield* Stream.runCollect(monitor.changes).pipe(Effect.forkDetach({ startImmediately: true }))
        yield* monitor.check
        status = HealthCheck.degraded("late")
        yield* monitor.check
        return fiber
      }))
      assert.deepStrictEqual(yield* Fiber.join(seen), [
        { key: "key", check: "ping", from: "healthy", to: "degraded", message: "late" },
        { key: "key", check: undefined, from: "healthy", to: "degraded", message: "ping: late" }
      ])
    }))

  it.effect("show in gauges, with a name of its own for no more keys than allowed", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ maxMetricKeys: 2 })
      for (const key of ["a", "b", "c"]) yield* calls(monitor, key, 10, 0)
      yield* monitor.snapshot
      const gauges = (yield* Metric.snapshot).filter(({ id }) => id.startsWith("effect_resilience_health"))
      const of = (id: string) =>
        gauges.filter((gauge) => gauge.id === `effect_resilience_health_${id}`).map((gauge) =>
          gauge.type === "Gauge" ? [Object.values(gauge.attributes ?? {}).join(), gauge.state.value] : []
        )
      assert.sameDeepMembers(of("status"), [["a", 3], ["b", 3]])
      assert.sameDeepMembers(of("gate_closed"), [["a", 1], ["b", 1]])
      assert.sameDeepMembers(of("keys"), [["healthy", 0], ["slow", 0], ["degraded", 0], ["critical", 3]])
    }).pipe(Effect.provideService(Metric.MetricRegistry, new Map())))
})

describe("HealthMonitor: the whole", () => {
  it.effect("is as bad as the worst of it, and says what that is", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        checks: [
          HealthCheck.make("good", Effect.succeed(HealthCheck.healthy("fine"))),
          HealthCheck.make("late", Effect.succeed(HealthCheck.degraded("2 hours behind")))
        ]
      })
      assert.deepInclude(yield* monitor.check, { status: "degraded", message: "late: 2 hours behind" })
      yield* calls(monitor, "search", 10, 0)
      const report = yield* monitor.snapshot
      assert.strictEqual(report.status, "critical")
      assert.match(report.message, /late: 2 hours behind; search: .*10 of 10 calls failed/)
    }))

  it.effect("what is not required makes it degraded at most", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        keys: { search: { required: false } },
        checks: [HealthCheck.make("ping", Effect.succeed(HealthCheck.critical("down")), { required: false })]
      })
      yield* calls(monitor, "search", 10, 0)
      for (let n = 0; n < 5; n++) assert.strictEqual((yield* monitor.check).status, "degraded")
    }))

  it.effect("names the checks that have had no result yet", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ checks: [HealthCheck.reachable("slow", Effect.sleep("1 second"))] })
      assert.deepStrictEqual((yield* monitor.snapshot).pending, ["slow"])
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual((yield* monitor.snapshot).pending, [])
    }))
})

describe("HealthMonitor.trend", () => {
  const rounds = Effect.fnUntraced(function*(
    statuses: ReadonlyArray<HealthCheck.Status>,
    options: { readonly historySize?: number } = {}
  ) {
    let status: HealthCheck.Status = statuses[0] ?? "healthy"
    const monitor = yield* HealthMonitor.make({
      interval: "1 minute",
      checks: [HealthCheck.make("check", Effect.sync(() => ({ status, message: status })), { interval: "1 second" })],
      ...options
    })
    // Let its first round be over before the first that counts.
    yield* TestClock.adjust(0)
    for (const next of statuses.slice(1)) {
      status = next
      yield* TestClock.adjust("1 minute")
    }
    return monitor
  })

  it.effect("is no data before the first round, of what is unknown, and of a time without one", () =>
    Effect.gen(function*() {
      const over = Duration.hours(1)
      const waiting = yield* HealthMonitor.make({ checks: [HealthCheck.reachable("slow", Effect.never)] })
      assert.deepStrictEqual(yield* waiting.trend(), { _tag: "NoData", over })
      const monitor = yield* rounds(["healthy", "healthy"])
      assert.strictEqual((yield* monitor.trend({ key: "unheard" }))._tag, "NoData")
      assert.strictEqual((yield* monitor.trend({ check: "unheard" }))._tag, "NoData")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* monitor.trend({ over: "5 seconds" }))._tag, "NoData")
      assert.strictEqual((yield* monitor.trend({ over: "11 seconds" }))._tag, "Trend")
    }))

  it.effect.each(
    [
      { statuses: ["critical", "critical", "healthy", "healthy"], direction: "improving" },
      { statuses: ["healthy", "healthy", "degraded", "critical"], direction: "degrading" },
      { statuses: ["critical", "healthy", "healthy", "critical"], direction: "steady" },
      { statuses: ["healthy"], direction: "steady" },
      { statuses: ["healthy", "critical", "healthy"], direction: "steady" },
      { statuses: ["slow", "healthy"], direction: "improving" }
    ] as const
  )("$statuses is $direction", ({ direction, statuses }) =>
    Effect.gen(function*() {
      const monitor = yield* rounds(statuses)
      for (const options of [{}, { key: "check" }, { check: "check" }]) {
        const trend = yield* monitor.trend(options)
        assert.strictEqual(trend._tag === "Trend" ? trend.direction : "", direction)
        assert.strictEqual(trend._tag === "Trend" ? trend.samples : 0, statuses.length)
      }
    }))

  it.effect("gives the share of each status in the time asked for, which is the last", () =>
    Effect.gen(function*() {
      const monitor = yield* rounds(["critical", "critical", "degraded", "slow", "healthy", "healthy"])
      const trend = yield* monitor.trend({ over: "3 minutes" })
      assert.deepInclude(trend, {
        _tag: "Trend",
        samples: 4,
        percentages: { healthy: 50, slow: 25, degraded: 25, critical: 0 }
      })
    }))

  it.effect("goes over hours, and remembers no more rounds than it may", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ interval: "1 minute", historySize: 90 })
      yield* calls(monitor, "search", 10, 0)
      yield* TestClock.adjust("30 minutes")
      const { percentages } = yield* Effect.flatMap(
        monitor.trend({ over: "6 hours", key: "search" }),
        (trend) => trend._tag === "Trend" ? Effect.succeed(trend) : Effect.die("no data")
      )
      assert.isAbove(percentages.critical, 0)
      assert.isAbove(percentages.healthy, 50)
      yield* TestClock.adjust("6 hours")
      assert.deepInclude(yield* monitor.trend({ over: "6 hours" }), { samples: 90 })
      // A key that was forgotten has no trend any more.
      assert.strictEqual((yield* monitor.trend({ over: "6 hours", key: "search" }))._tag, "NoData")
    }))
})

describe("HealthMonitor: options", () => {
  it.effect.each(
    [
      [{ size: 0 }, "size"],
      [{ size: 100_001 }, "size"],
      [{ maxAge: 0 }, "maxAge"],
      [{ criticalAbove: 1.1 }, "criticalAbove"],
      [{ degradedAbove: 0.6 }, "degradedAbove"],
      [{ minimumCalls: 101 }, "minimumCalls"],
      [{ slowAbove: 0 }, "slowAbove"],
      [{ gate: { closeAfter: 0 } }, "gate.closeAfter"],
      [{ gate: { reopenAfter: 0.5 } }, "gate.reopenAfter"],
      [{ gate: { closedFor: 0 } }, "gate.closedFor"],
      [{ gate: { probeTimeout: "0 millis" } }, "gate.probeTimeout"],
      [{ keys: { a: { size: 0 } } }, "keys[\"a\"].size"],
      [{ keys: { a: { gate: { closedFor: 0 } } } }, "keys[\"a\"].gate.closedFor"],
      [{ interval: 0 }, "interval"],
      [{ timeout: 0 }, "timeout"],
      [{ historySize: 0 }, "historySize"],
      [{ maxKeys: 0 }, "maxKeys"],
      [{ idleTimeToLive: 0 }, "idleTimeToLive"],
      [{ maxMetricKeys: -1 }, "maxMetricKeys"],
      [{ checks: [HealthCheck.reachable("a", Effect.void), HealthCheck.reachable("a", Effect.void)] }, "checks"]
    ] as const
  )(
    "%j cannot work, and building says so",
    ([options, option]) => Effect.map(Effect.exit(HealthMonitor.make(options)), invalid(option))
  )

  it.effect("a latency that is none dies, naming it", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make()
      invalid("latency")(yield* Effect.exit(monitor.record("key", { outcome: "success", latency: Number.NaN })))
    }))

  it.effect("layerNoop counts nothing and lets all through", () =>
    Effect.gen(function*() {
      yield* Effect.exit(HealthMonitor.track(failing, "key"))
      yield* HealthMonitor.record("key", { outcome: "failure", latency: 1 })
      assert.strictEqual(yield* HealthMonitor.gate(Effect.succeed("through"), "key"), "through")
      assert.deepInclude(yield* HealthMonitor.status("key"), { status: "healthy", calls: 0 })
      assert.deepInclude(yield* HealthMonitor.check, { status: "healthy" })
      assert.deepInclude(yield* HealthMonitor.trend(), { _tag: "NoData" })
    }).pipe(Effect.provide(HealthMonitor.layerNoop)))
})
