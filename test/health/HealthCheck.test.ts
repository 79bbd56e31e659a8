import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Layer, Logger, Scope } from "effect"
import { CircuitBreaker, EscalationQueue, HealthCheck, HealthMonitor, SafeMode } from "effect-resilience"
import { TestClock, TestConsole } from "effect/testing"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { invalid } from "../support/invalid.ts"

const ran = <R>(check: HealthCheck.HealthCheck<R>) => check.run

const alone = (check: HealthCheck.HealthCheck, options: HealthMonitor.Options = {}) =>
  HealthMonitor.make({ ...options, checks: [check] })

const messages = ({ checks }: HealthMonitor.Report) => checks.map(({ message, status }) => `${status}: ${message}`)

describe("HealthCheck: whatever a check does", () => {
  it.effect("a failure is critical, told by its name alone, with its text in the details", () =>
    Effect.gen(function*() {
      const error = new Error("no route to postgres://ada:secret@db:5432/runs, user:secret")
      error.name = "ConnectionError"
      const monitor = yield* alone(HealthCheck.reachable("db", Effect.fail(error)))
      const { checks, status } = yield* monitor.check
      assert.strictEqual(status, "critical")
      assert.deepInclude(checks[0], {
        message: "the check failed with ConnectionError",
        details: { error: "no route to postgres://***@db:5432/runs, user:secret" }
      })
    }))

  it.effect("a defect is critical, and so is a check that interrupts itself or throws", () =>
    Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({
        checks: [
          HealthCheck.make("dies", Effect.die(new TypeError("bug"))),
          HealthCheck.make("interrupts", Effect.interrupt),
          HealthCheck.make(
            "throws",
            Effect.suspend((): Effect.Effect<HealthCheck.Result> => {
              throw new RangeError("bug")
            })
          )
        ]
      })
      assert.deepStrictEqual(messages(yield* monitor.check), [
        "critical: the check died of TypeError",
        "critical: the check was interrupted",
        "critical: the check died of RangeError"
      ])
    }))

  it.effect("one that hangs is critical after its timeout, 10 seconds by default, and is interrupted", () =>
    Effect.gen(function*() {
      let interrupted = 0
      const hanging = Effect.onInterrupt(Effect.never, () => Effect.sync(() => interrupted++))
      const monitor = yield* HealthMonitor.make({
        checks: [
          HealthCheck.reachable("patient", hanging),
          HealthCheck.reachable("short", hanging, { timeout: "1 second" })
        ]
      })
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(messages(yield* monitor.snapshot), ["critical: no result within 1s"])
      yield* TestClock.adjust("9 seconds")
      assert.deepStrictEqual(messages(yield* monitor.snapshot), [
        "critical: no result within 10s",
        "critical: no result within 1s"
      ])
      assert.strictEqual(interrupted, 2)
    }))

  it.effect("one that cannot be interrupted is not run again beside itself, and stops nobody else", () =>
    Effect.gen(function*() {
      const latch = yield* Deferred.make<void>()
      let running = 0
      let most = 0
      let others = 0
      const stuck = Effect.gen(function*() {
        most = Math.max(most, ++running)
        yield* Deferred.await(latch)
        running--
      }).pipe(Effect.uninterruptible)
      const monitor = yield* HealthMonitor.make({
        checks: [
          HealthCheck.reachable("stuck", stuck),
          HealthCheck.reachable("other", Effect.sync(() => others++))
        ]
      })
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual([running, most], [1, 1])
      assert.isAbove(others, 6)
      assert.deepStrictEqual(messages(yield* monitor.snapshot), [
        "critical: the run before has not ended, although it was interrupted",
        "healthy: reachable"
      ])
      yield* Deferred.succeed(latch, undefined)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(messages(yield* monitor.snapshot), ["healthy: reachable", "healthy: reachable"])
    }))

  it.effect("one that cannot be interrupted keeps the end of the monitor waiting for 5 seconds, and no longer", () =>
    Effect.gen(function*() {
      const latch = yield* Deferred.make<void>()
      const scope = yield* Scope.make()
      const stuck = HealthCheck.reachable("stuck", Effect.uninterruptible(Deferred.await(latch)))
      yield* HealthMonitor.make({ checks: [stuck] }).pipe(Scope.provide(scope))
      yield* TestClock.adjust("1 second")
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("4 seconds")
      assert.isUndefined(closing.pollUnsafe())
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      yield* Deferred.succeed(latch, undefined)
    }))

  it.effect("one that the end of the monitor interrupts is waited for, says nothing and closes no gate", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      let isCleanedUp = false
      const hanging = Effect.onInterrupt(Effect.never, () =>
        Effect.andThen(
          Effect.yieldNow,
          Effect.sync(() => {
            isCleanedUp = true
          })
        ))
      const monitor = yield* HealthMonitor.make({
        checks: [HealthCheck.reachable("store", hanging)],
        gate: { closeAfter: 1 }
      }).pipe(Scope.provide(scope))
      const asked = yield* Effect.forkChild(monitor.check, { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(asked)
      assert.isTrue(isCleanedUp)
      assert.deepStrictEqual(yield* TestConsole.logLines, [])
      assert.strictEqual((yield* monitor.status("store")).gate, "open")
    }).pipe(Effect.provide(Layer.provideMerge(Logger.layer([Logger.consoleJson]), TestConsole.layer))))
})

describe("HealthCheck: run by the monitor", () => {
  it.effect("at once, and then every 30 seconds, give or take a fifth", () =>
    Effect.gen(function*() {
      const at: Array<number> = []
      let now = 0
      yield* alone(HealthCheck.reachable("check", Effect.sync(() => at.push(now))))
      for (let n = 0; n < 600; n++) {
        yield* TestClock.adjust("1 second")
        now++
      }
      assert.strictEqual(at[0], 0)
      const pauses = at.slice(1).map((time, index) => time - (at[index] ?? 0))
      assert.isAbove(pauses.length, 15)
      for (const pause of pauses) assert.isTrue(pause >= 24 && pause <= 37, `${pause} s`)
      assert.isAbove(new Set(pauses).size, 1)
    }))

  it.effect("at an interval of its own, which a slow one of the others does not change", () =>
    Effect.gen(function*() {
      let runs = 0
      yield* HealthMonitor.make({
        timeout: "1 hour",
        checks: [
          HealthCheck.reachable("slow", Effect.sleep("50 minutes")),
          HealthCheck.reachable("often", Effect.sync(() => runs++), { interval: "1 second" })
        ]
      })
      yield* TestClock.adjust("1 minute")
      assert.isAtLeast(runs, 50)
    }))

  it.effect("never beside itself: those who ask while it runs are answered by one run after it", () =>
    Effect.gen(function*() {
      let running = 0
      let most = 0
      let runs = 0
      const check = Effect.gen(function*() {
        runs++
        most = Math.max(most, ++running)
        yield* Effect.sleep("1 second")
        running--
      })
      const monitor = yield* alone(HealthCheck.reachable("check", check), { interval: "1 day" })
      yield* Effect.yieldNow
      const asked = yield* Effect.forkChild(
        Effect.all(Array.from({ length: 20 }, () => monitor.check), { concurrency: "unbounded" })
      )
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(asked)
      assert.deepStrictEqual([most, runs], [1, 2])
    }))

  it.effect("asked for and interrupted it runs for the next one who asks", () =>
    Effect.gen(function*() {
      const monitor = yield* alone(HealthCheck.reachable("check", Effect.sleep("1 second")), { interval: "1 day" })
      yield* TestClock.adjust("1 second")
      const first = yield* Effect.forkChild(monitor.check, { startImmediately: true })
      const second = yield* Effect.forkChild(monitor.check, { startImmediately: true })
      yield* TestClock.adjust("500 millis")
      yield* Fiber.interrupt(first)
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(messages(yield* Fiber.join(second)), ["healthy: reachable"])
    }))

  it.effect("interrupted at any step it leaves nothing behind that would keep it from being run again", () =>
    interruptEverywhere({
      arrange: Effect.gen(function*() {
        let running = 0
        const check = Effect.acquireUseRelease(
          Effect.sync(() => running++),
          () => Effect.sleep("1 second"),
          () => Effect.sync(() => running--)
        )
        const monitor = yield* alone(HealthCheck.reachable("check", check), { interval: "1 day" })
        yield* TestClock.adjust("1 second")
        return {
          effect: monitor.check,
          check: () =>
            Effect.gen(function*() {
              assert.strictEqual(running, 0)
              const again = yield* Effect.forkChild(monitor.check, { startImmediately: true })
              yield* TestClock.adjust("1 second")
              assert.deepStrictEqual(messages(yield* Fiber.join(again)), ["healthy: reachable"])
            }),
          sleepsLeft: 0
        }
      })
    }))

  it.effect("as long as the scope of the monitor, whose end waits until it has stopped", () =>
    Effect.gen(function*() {
      let started = 0
      let stopped = 0
      const check = Effect.sync(() => started++).pipe(
        Effect.andThen(Effect.sleep("5 seconds")),
        Effect.onExit(() => Effect.sync(() => stopped++))
      )
      const scope = yield* Scope.make()
      yield* alone(HealthCheck.reachable("check", check)).pipe(Effect.provideService(Scope.Scope, scope))
      yield* TestClock.adjust("1 second")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual([started, stopped], [1, 1])
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual([started, stopped], [1, 1])
    }))

  it.effect("with a scope for each run, and with when and how long", () =>
    Effect.gen(function*() {
      let closed = 0
      const check = HealthCheck.make(
        "check",
        Effect.as(
          Effect.andThen(Effect.addFinalizer(() => Effect.sync(() => closed++)), Effect.sleep("2 seconds")),
          HealthCheck.degraded("late", { behind: 7 })
        )
      )
      const monitor = yield* HealthMonitor.make({ checks: [check] })
      yield* TestClock.adjust("3 seconds")
      assert.strictEqual(closed, 1)
      const [result] = (yield* monitor.snapshot).checks
      assert.isDefined(result)
      assert.deepInclude(result, { name: "check", key: "check", status: "degraded", details: { behind: 7 } })
      assert.strictEqual(Duration.toMillis(result?.took ?? 0), 2_000)
      assert.strictEqual(result?.checkedAt.epochMilliseconds, 2_000)
    }))
})

describe("HealthCheck.responseTime", () => {
  it.effect.each(
    [
      [999, "healthy"],
      [1_000, "degraded"],
      [2_999, "degraded"],
      [3_000, "critical"]
    ] as const
  )("%d ms are %s", ([millis, status]) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(ran(HealthCheck.responseTime("agent", Effect.sleep(millis))))
      yield* TestClock.adjust(millis)
      assert.strictEqual((yield* Fiber.join(fiber)).status, status)
    }))

  it("bounds out of order are refused, and a default gives way to the bound that is given", () => {
    const made = (options: Parameters<typeof HealthCheck.responseTime>[2]) =>
      Effect.runSyncExit(Effect.sync(() => HealthCheck.responseTime("agent", Effect.void, options)))
    invalid("degraded")(made({ healthy: "2 seconds", degraded: "1 second" }))
    assert.isTrue(Exit.isSuccess(made({ healthy: "10 seconds" })))
  })
})

describe("HealthCheck: memory and tools", () => {
  const block = (label: string, value = "text") => ({ label, value })

  it.effect.each([
    { blocks: [block("persona"), block("human")], message: "memory intact (persona, human)" },
    { blocks: [block("persona")], message: "human is missing" },
    {
      blocks: [block("persona", " "), block("human"), block("human")],
      message: "persona is empty; human is there twice"
    }
  ])("memory: $message", ({ blocks, message }) =>
    Effect.gen(function*() {
      const check = HealthCheck.memoryIntact("memory", Effect.succeed(blocks), ["persona", "human"])
      const result = yield* ran(check)
      assert.strictEqual(result.message, message)
      assert.strictEqual(result.status, message.startsWith("memory intact") ? "healthy" : "critical")
    }))

  it.effect("tools that are there, and more, are healthy", () =>
    Effect.gen(function*() {
      const check = HealthCheck.toolsAvailable("tools", Effect.succeed(new Set(["a", "b", "c"])), ["a", "c"])
      assert.deepInclude(yield* ran(check), { status: "healthy", message: "tools available (a, c)" })
    }))
})

describe("HealthCheck.escalationBacklog", () => {
  const submit = (n: number) => EscalationQueue.submit({ reason: "RequiresHuman", task: `may I? ${n}` })

  it.effect("goes by the depth", () =>
    Effect.gen(function*() {
      const check = HealthCheck.escalationBacklog({ depth: { degraded: 1, critical: 2 } })
      const seen: Array<string> = []
      for (let n = 0; n < 4; n++) {
        seen.push((yield* ran(check)).status)
        yield* submit(n)
      }
      assert.deepStrictEqual(seen, ["healthy", "healthy", "degraded", "critical"])
    }).pipe(Effect.provide(EscalationQueue.layerMemory)))

  it.effect("goes by the age of the oldest, an hour and a day by default", () =>
    Effect.gen(function*() {
      const status = Effect.map(ran(HealthCheck.escalationBacklog()), ({ message, status }) => `${status}: ${message}`)
      yield* submit(1)
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* status, "healthy: 1 wait for a decision, the oldest for 1h")
      yield* TestClock.adjust(1)
      assert.match(yield* status, /^degraded/)
      yield* TestClock.adjust("23 hours")
      assert.match(yield* status, /^critical/)
    }).pipe(Effect.provide(EscalationQueue.layerMemory)))
})

describe("HealthCheck.circuits", () => {
  const down = (key: string) => Effect.exit(CircuitBreaker.protect(Effect.fail("connection lost"), key))

  it.effect("names what is open, half-open or isolated, and is critical only for an open one that matters", () =>
    Effect.gen(function*() {
      const check = ran(HealthCheck.circuits({ critical: ["model"] }))
      assert.deepInclude(yield* check, { status: "healthy", message: "no circuit refuses calls" })
      yield* down("search")
      yield* CircuitBreaker.isolate("billing")
      assert.deepInclude(yield* check, { status: "degraded", message: "search is open, billing is isolated" })
      yield* down("model")
      assert.strictEqual((yield* check).status, "critical")
      yield* TestClock.adjust("1 minute")
      // Their open time is over: they refuse nobody, whether or not a call ever comes to close them.
      assert.deepInclude(yield* check, { status: "degraded", message: "billing is isolated" })
    }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) }))))

  it.effect("one sentence however many there are", () =>
    Effect.gen(function*() {
      for (let n = 0; n < 30; n++) yield* down(`c${n}`)
      assert.match((yield* ran(HealthCheck.circuits())).message, /c9 is open, and 20 more$/)
    }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) }))))
})

describe("HealthCheck.safeMode", () => {
  it.effect("is degraded while a key is in safe mode", () =>
    Effect.gen(function*() {
      const safeMode = yield* SafeMode.SafeMode
      const check = ran(HealthCheck.safeMode())
      assert.deepInclude(yield* check, { status: "healthy", message: "nothing is in safe mode" })
      yield* Effect.exit(Effect.fail("down").pipe(safeMode.guard("search", { safe: Effect.void })))
      assert.strictEqual((yield* check).status, "healthy", "one failure is not safe mode")
      yield* safeMode.enter("billing")
      assert.deepInclude(yield* check, { status: "degraded", message: "in safe mode: billing" })
    }).pipe(Effect.provide(SafeMode.layer())))
})

describe("HealthCheck: options", () => {
  it.effect.each(
    [
      [() => HealthCheck.reachable("", Effect.void), "name"],
      [() => HealthCheck.reachable("a", Effect.void, { key: "" }), "key"],
      [() => HealthCheck.reachable("a", Effect.void, { timeout: 0 }), "timeout"],
      [() => HealthCheck.reachable("a", Effect.void, { interval: 0 }), "interval"],
      [() => HealthCheck.responseTime("a", Effect.void, { healthy: 0 }), "healthy"],
      [() => HealthCheck.escalationBacklog({ depth: { degraded: -1 } }), "depth.degraded"],
      [() => HealthCheck.escalationBacklog({ depth: { degraded: 5, critical: 4 } }), "depth.critical"],
      [() => HealthCheck.escalationBacklog({ age: { degraded: "2 hours", critical: "1 hour" } }), "age.critical"]
    ] as const
  )(
    "%s cannot work, and building says so: %s",
    ([make, option]) => Effect.map(Effect.exit(Effect.sync((): unknown => make())), invalid(option))
  )
})
