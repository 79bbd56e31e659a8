import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Logger, Schema, Scope } from "effect"
import { Fault, Hedge, Retry, RetryBudget, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import * as deadline from "../../src/policy/internal/deadline.ts"
import { recordingTracer } from "../recordingTracer.ts"
import { cancelSources, everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

class Busy extends Schema.TaggedError<Busy>("test/Busy")("Busy", { n: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.transient
}
class Broken extends Schema.TaggedError<Broken>("test/Broken")("Broken", {}) {
  readonly [Fault.verdictOf] = Fault.permanent
}
class Limited extends Schema.TaggedError<Limited>("test/Limited")("Limited", { millis: Schema.Finite }) {
  get [Fault.verdictOf]() {
    return Fault.throttled(this.millis)
  }
}
class Late extends Schema.TaggedError<Late>("test/Late")("Late", {}) {
  readonly [Fault.verdictOf] = Fault.timedOut
}
class Unclear extends Schema.TaggedError<Unclear>("test/Unclear")("Unclear", {}) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}

/** One attempt after the other: how long each takes, and how it ends. The last one repeats. */
const scripted = <E = never>(...script: ReadonlyArray<readonly [millis: number, end: Effect.Effect<string, E>]>) => {
  const starts: Array<number> = []
  const interrupted: Array<readonly [attempt: number, at: number]> = []
  let running = 0
  const effect: Effect.Effect<string, E> = Effect.suspend(() => {
    const attempt = starts.length + 1
    const [millis, end] = script[Math.min(attempt, script.length) - 1] ?? [0, Effect.succeed("nothing")]
    const work = Clock.currentTimeMillis.pipe(
      Effect.tap((now) => Effect.sync(() => starts.push(now))),
      Effect.andThen(millis === Infinity ? Effect.never : millis === 0 ? Effect.void : Effect.sleep(millis)),
      Effect.andThen(end),
      Effect.onInterrupt(() => Effect.map(Clock.currentTimeMillis, (now) => void interrupted.push([attempt, now])))
    )
    return Effect.acquireUseRelease(Effect.sync(() => running++), () => work, () => Effect.sync(() => running--))
  })
  return { effect, starts, interrupted, running: () => running }
}

const ok = (value: string): Effect.Effect<string> => Effect.succeed(value)

const busy = (n: number) => Effect.fail(new Busy({ n }))

const listening = () => {
  const events: Array<Telemetry.Event> = []
  return { events, listen: Effect.provideService(Telemetry.Listener, (event) => void events.push(event)) }
}

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const aSecond = Hedge.policy({ name: "search", delay: "1 second", idempotent: true })

const three = Hedge.policy({ name: "search", delay: "1 second", maxAttempts: 3, idempotent: true })

/** Runs to the end, however long that takes. */
const ended = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* start(effect)
    yield* TestClock.adjust("1 hour")
    return yield* Fiber.await(fiber)
  })

const clockWithSleep = (sleep: (clock: Clock.Clock) => Clock.Clock["sleep"]) =>
  Clock.clockWith((clock) =>
    Effect.succeed<Clock.Clock>({
      currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
      currentTimeMillis: clock.currentTimeMillis,
      currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
      currentTimeNanos: clock.currentTimeNanos,
      monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe(),
      monotonicTimeNanos: clock.monotonicTimeNanos,
      sleep: sleep(clock)
    })
  )

/** A clock that counts the sleeps that were started. */
const countingSleeps = Effect.gen(function*() {
  const sleeps: Array<number> = []
  const clock = yield* clockWithSleep((clock) => (duration) =>
    Effect.suspend(() => {
      sleeps.push(Duration.toMillis(duration))
      return clock.sleep(duration)
    })
  )
  return { sleeps, counted: Effect.provideService(Clock.Clock, clock) }
})

describe("Hedge", () => {
  it.effect("runs once when nothing is slow, in both call styles", () =>
    Effect.gen(function*() {
      const { effect, interrupted, starts } = scripted([999, ok("first")])
      assert.deepStrictEqual(yield* ended(Hedge.apply(effect, aSecond)), Exit.succeed("first"))
      assert.deepStrictEqual(yield* ended(effect.pipe(Hedge.apply(aSecond))), Exit.succeed("first"))
      assert.strictEqual(starts.length, 2)
      assert.deepStrictEqual(interrupted, [])
    }))

  it.effect("starts no timer for work that ends at once", () =>
    Effect.gen(function*() {
      const { counted, sleeps } = yield* countingSleeps
      assert.strictEqual(yield* counted(Hedge.apply(Effect.succeed(1), aSecond)), 1)
      assert.deepStrictEqual(yield* counted(Effect.exit(Hedge.apply(Effect.die("bug"), aSecond))), Exit.die("bug"))
      assert.deepStrictEqual(sleeps, [])
    }))

  it.effect("starts the first attempt in the very step of the call", () =>
    Effect.gen(function*() {
      const { effect, starts } = scripted([Infinity, ok("never")])
      const fiber = yield* start(Hedge.apply(effect, aSecond))
      assert.deepStrictEqual(starts, [0])
      yield* Fiber.interrupt(fiber)
    }))

  it.effect("starts a second attempt after the delay and not before", () =>
    Effect.gen(function*() {
      const { effect, starts } = scripted([Infinity, ok("first")], [100, ok("second")])
      const fiber = yield* start(Hedge.apply(effect, aSecond))
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual(starts, [0])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(starts, [0, 1000])
      yield* TestClock.adjust("100 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "second")
    }))

  it.effect("starts each further attempt one delay after the one before, up to maxAttempts", () =>
    Effect.gen(function*() {
      const { effect, interrupted, starts } = scripted([5000, ok("first")], [Infinity, ok("later")])
      assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("first"))
      assert.deepStrictEqual(starts, [0, 1000, 2000])
      assert.deepStrictEqual(interrupted, [[2, 5000], [3, 5000]])
    }))

  it.effect("starts one at a time with an infinite delay, and all at once with none", () =>
    Effect.gen(function*() {
      const slow = scripted([5000, ok("first")])
      const patient = Hedge.policy({ delay: Duration.infinity, idempotent: true })
      assert.deepStrictEqual(yield* ended(Hedge.apply(slow.effect, patient)), Exit.succeed("first"))
      assert.deepStrictEqual(slow.starts, [0])

      const failing = scripted([0, busy(1)], [10, ok("second")])
      assert.deepStrictEqual(yield* ended(Hedge.apply(failing.effect, patient)), Exit.succeed("second"))

      const racing = scripted([50, ok("first")], [30, ok("second")], [40, ok("third")])
      const eager = Hedge.policy({ delay: 0, maxAttempts: 3, idempotent: true })
      const fiber = yield* start(Hedge.apply(racing.effect, eager))
      assert.strictEqual(racing.starts.length, 3)
      yield* TestClock.adjust("30 millis")
      assert.strictEqual(yield* Fiber.join(fiber), "second")

      const quick = scripted([0, ok("first")])
      assert.deepStrictEqual(yield* ended(Hedge.apply(quick.effect, eager)), Exit.succeed("first"))
      assert.strictEqual(quick.starts.length, 1)
    }))

  it.effect("gives exactly one result when an attempt ends at the very tick at which the next would start", () =>
    Effect.gen(function*() {
      const { effect, running, starts } = scripted([1000, ok("first")], [1000, ok("second")])
      const results = yield* Effect.all(
        [ended(Hedge.apply(effect, aSecond)), ended(Hedge.apply(effect, aSecond))],
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(results.map(Exit.isSuccess), [true, true])
      assert.strictEqual(running(), 0)
      assert.isAtMost(starts.length, 4)
    }))

  describe("idempotent", () => {
    it.effect("hedges only what is marked idempotent, and says when it does not", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([5000, ok("first")])
        const { events, listen } = listening()
        const unmarked = Hedge.policy({ name: "search", delay: "1 second" })
        assert.deepStrictEqual(yield* ended(listen(Hedge.apply(effect, unmarked))), Exit.succeed("first"))
        assert.strictEqual(starts.length, 1)
        assert.deepStrictEqual(events, [{ _tag: "HedgeSkipped", policy: "search", reason: "NotIdempotent" }])

        yield* ended(Fault.idempotent(Hedge.apply(effect, unmarked)))
        assert.strictEqual(starts.length, 3)
      }))

    it.effect("a policy that says no overrules the surroundings, and the effect sees it", () =>
      Effect.gen(function*() {
        const no = Hedge.policy({ delay: 0, idempotent: false })
        const seen = yield* Effect.succeed(1).pipe(Effect.andThen(Fault.Idempotent), Hedge.apply(no), Fault.idempotent)
        assert.isFalse(seen)
      }))

    it.effect("does not start a second one where the effect is not idempotent, whatever it fails with", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([0, busy(1)])
        assert.deepStrictEqual(
          yield* Effect.exit(Hedge.apply(effect, Hedge.policy({ delay: 1 }))),
          Exit.fail(new Busy({ n: 1 }))
        )
        assert.strictEqual(starts.length, 1)
      }))

    it.effect("inside of the attempts everything is idempotent, also an Ambiguous failure", () =>
      Effect.gen(function*() {
        assert.isTrue(yield* Hedge.apply(Effect.service(Fault.Idempotent), aSecond))
        const { effect } = scripted([0, Effect.fail(new Unclear())], [0, ok("second")])
        assert.strictEqual(yield* Hedge.apply(effect, aSecond), "second")
      }))
  })

  describe("failures", () => {
    it.effect("a failed first attempt does not end the call while another runs", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([1500, busy(1)], [1000, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, aSecond)), Exit.succeed("second"))
        assert.deepStrictEqual(starts, [0, 1000])
      }))

    it.effect("a failed first attempt starts the next at once, and the one after a delay later", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([200, busy(1)], [5000, ok("second")], [100, ok("third")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("third"))
        assert.deepStrictEqual(starts, [0, 200, 1200])
      }))

    it.effect("a failure starts the next at once also beside one that runs", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([1500, busy(1)], [Infinity, ok("second")], [100, ok("third")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("third"))
        assert.deepStrictEqual(starts, [0, 1000, 1500])
      }))

    it.effect("all failed: the first attempt's error, its cause as it was", () =>
      Effect.gen(function*() {
        const cause = Cause.fromReasons([
          Cause.makeFailReason(new Busy({ n: 1 })),
          Cause.makeFailReason(new Busy({ n: 11 }))
        ])
        const { effect, starts } = scripted([1500, Effect.failCause(cause)], [100, busy(2)], [10, busy(3)])
        const exit = yield* ended(Hedge.apply(effect, three))
        assert.isTrue(Exit.isFailure(exit) && exit.cause === cause)
        assert.deepStrictEqual(starts, [0, 1000, 1100])
      }))

    it.effect("fails with the error of the first attempt, at the failure of the last, at once when all fail at once", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([0, busy(1)], [0, busy(2)], [0, busy(3)])
        assert.deepStrictEqual(yield* Effect.exit(Hedge.apply(effect, three)), Exit.fail(new Busy({ n: 1 })))
        assert.deepStrictEqual(starts, [0, 0, 0])
      }))

    it.effect("a failure that would come again starts no further attempt", () =>
      Effect.gen(function*() {
        for (const error of [new Broken(), new Unrepeatable(), "unknown"]) {
          const { effect, starts } = scripted<Broken | Unrepeatable | string>(
            [500, Effect.fail(error)],
            [0, ok("second")]
          )
          assert.deepStrictEqual(yield* ended(Hedge.apply(effect, aSecond)), Exit.fail(error))
          assert.strictEqual(starts.length, 1)
        }
      }))

    it.effect("a failure that would come again leaves the attempts that run their chance, and starts none beside them", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted<Broken>([1500, Effect.fail(new Broken())], [9000, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("second"))
        assert.deepStrictEqual(starts, [0, 1000])

        const failing = scripted<Broken | Busy>([9000, busy(1)], [500, Effect.fail(new Broken())])
        assert.deepStrictEqual(yield* ended(Hedge.apply(failing.effect, three)), Exit.fail(new Busy({ n: 1 })))
        assert.strictEqual(failing.starts.length, 2)
      }))

    it.effect("a failure that says when to come back starts nothing before that, and leaves the waiting to Retry", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([0, Effect.fail(new Limited({ millis: 5000 }))])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.fail(new Limited({ millis: 5000 })))
        assert.deepStrictEqual(starts, [0])

        const again = scripted([0, Effect.fail(new Limited({ millis: 5000 }))], [0, ok("second")])
        const retried = Retry.apply(Hedge.apply(again.effect, three), Retry.policy())
        const before = yield* Clock.currentTimeMillis
        assert.deepStrictEqual(yield* ended(retried), Exit.succeed("second"))
        assert.isAtLeast((again.starts[1] ?? 0) - before, 5000)
      }))

    it.effect("a failure that says when to come back puts off the next one beside an attempt that runs", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted(
          [9000, ok("first")],
          [500, Effect.fail(new Limited({ millis: 3000 }))],
          [Infinity, ok("third")]
        )
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("first"))
        assert.deepStrictEqual(starts, [0, 1000, 4500])
      }))

    it.effect("a failure that says when to come back does not shorten the delay either", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted(
          [9000, ok("first")],
          [500, Effect.fail(new Limited({ millis: 100 }))],
          [Infinity, ok("third")]
        )
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("first"))
        assert.deepStrictEqual(starts, [0, 1000, 2000])
      }))

    it.effect("one that fails at once and says when to come back does not end the hedging beside one that runs", () =>
      Effect.gen(function*() {
        for (const millis of [0, 1]) {
          const limited = Effect.fail(new Limited({ millis: 2000 - millis }))
          const { effect, starts } = scripted([Infinity, ok("never")], [millis, limited], [10, ok("third")])
          const began = yield* Clock.currentTimeMillis
          assert.deepStrictEqual(yield* ended(Hedge.apply(effect, three)), Exit.succeed("third"))
          assert.deepStrictEqual(starts.map((at) => at - began), [0, 1000, 3000])

          const soon = Effect.fail(new Limited({ millis: 500 }))
          const beside = scripted([Infinity, ok("never")], [millis, soon], [10, ok("third")])
          const again = yield* Clock.currentTimeMillis
          assert.deepStrictEqual(yield* ended(Hedge.apply(beside.effect, three)), Exit.succeed("third"))
          assert.deepStrictEqual(beside.starts.map((at) => at - again), [0, 1000, 2000])
        }
      }))

    it.effect("of two that say when to come back the later one holds", () =>
      Effect.gen(function*() {
        const limited = (millis: number) => Effect.fail(new Limited({ millis }))
        const { effect, starts } = scripted(
          [Infinity, ok("never")],
          [1500, limited(10)],
          [100, limited(5000)],
          [10, ok("fourth")]
        )
        const four = Hedge.policy({ delay: "1 second", maxAttempts: 4, idempotent: true })
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, four)), Exit.succeed("fourth"))
        assert.deepStrictEqual(starts, [0, 1000, 2000, 7100])
      }))

    it.effect("a retryAfter of zero is no wait", () =>
      Effect.gen(function*() {
        const { effect } = scripted([0, Effect.fail(new Limited({ millis: 0 }))], [0, ok("second")])
        assert.strictEqual(yield* Hedge.apply(effect, aSecond), "second")
      }))

    it.effect("a defect in any attempt ends the call at once and stops the others", () =>
      Effect.gen(function*() {
        const first = scripted([1500, Effect.die("bug")], [Infinity, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(first.effect, three)), Exit.die("bug"))
        assert.deepStrictEqual(first.interrupted, [[2, 1500]])

        const second = scripted([Infinity, ok("first")], [100, Effect.die("bug")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(second.effect, three)), Exit.die("bug"))
        assert.strictEqual(second.interrupted.length, 1)
        assert.strictEqual(second.starts.length, 2)
      }))

    it.effect("a failure beside a defect ends the call with both", () =>
      Effect.gen(function*() {
        const cause = Cause.combine(Cause.fail(new Busy({ n: 1 })), Cause.die("bug"))
        const { effect, starts } = scripted([0, Effect.failCause(cause)], [0, ok("second")])
        assert.deepStrictEqual(yield* Effect.exit(Hedge.apply(effect, aSecond)), Exit.failCause(cause))
        assert.strictEqual(starts.length, 1)
      }))

    it.effect("an interruption inside of an attempt ends the call as an interruption", () =>
      Effect.gen(function*() {
        const { effect, interrupted } = scripted([Infinity, ok("first")], [100, Effect.interrupt])
        const exit = yield* ended(Hedge.apply(effect, aSecond))
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        assert.deepStrictEqual(new Set(interrupted.map(([attempt]) => attempt)), new Set([1, 2]))
      }))

    it.effect("a classifier that throws ends the call, and stops the others", () =>
      Effect.gen(function*() {
        const { effect, interrupted } = scripted([1500, Effect.fail("odd")], [Infinity, ok("second")])
        const exit = yield* ended(
          Hedge.apply(effect, aSecond).pipe(Effect.provideService(Fault.Classifier, () => {
            throw new Error("bad classifier")
          }))
        )
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
        assert.deepStrictEqual(interrupted, [[2, 1500]])
      }))
  })

  describe("losers", () => {
    it.effect("losers are interrupted and awaited: the result is seen when their finalizers have run", () =>
      Effect.gen(function*() {
        const order: Array<string> = []
        const work = Effect.gen(function*() {
          const attempt = yield* Hedge.CurrentAttempt
          yield* Effect.sleep(attempt === 1 ? Duration.infinity : "100 millis").pipe(
            Effect.onInterrupt(() =>
              Effect.sleep("10 seconds").pipe(Effect.andThen(Effect.sync(() => order.push("cleaned up"))))
            )
          )
          return attempt
        })
        const fiber = yield* start(
          Effect.tap(Hedge.apply(work, aSecond), () => Effect.sync(() => order.push("result")))
        )
        yield* TestClock.adjust("1100 millis")
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* Fiber.join(fiber), 2)
        assert.deepStrictEqual(order, ["cleaned up", "result"])
      }))

    it.effect("the winner's result stands when a loser succeeds all the same, and when it dies of being stopped", () =>
      Effect.gen(function*() {
        const logged: Array<unknown> = []
        const logger = Logger.make(({ message }) => void logged.push(message))
        const work = Effect.gen(function*() {
          const attempt = yield* Hedge.CurrentAttempt
          if (attempt === 1) return yield* Effect.uninterruptible(Effect.as(Effect.sleep("5 seconds"), attempt))
          if (attempt === 2) return yield* Effect.ensuring(Effect.never, Effect.die("bad finalizer"))
          return yield* Effect.as(Effect.sleep("1 second"), attempt)
        })
        const exit = yield* ended(Hedge.apply(work, three)).pipe(Effect.provide(Logger.layer([logger])))
        assert.deepStrictEqual(exit, Exit.succeed(3))
        assert.deepStrictEqual(logged, [[`Hedge "search": an attempt died while it was stopped; the result stands`]])
      }))

    it.effect("a caller who is interrupted gets what attempts died of while they were stopped", () =>
      Effect.gen(function*() {
        const work = Effect.ensuring(Effect.never, Effect.die("bad finalizer"))
        const fiber = yield* start(Hedge.apply(work, aSecond))
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause) && Cause.hasInterrupts(exit.cause))
      }))

    it.effect("a caller who is interrupted after a win gets what losers died of, and no winner in the span", () =>
      Effect.gen(function*() {
        const { spans, tracer } = recordingTracer()
        const dying = Effect.never.pipe(
          Effect.onInterrupt(() => Effect.andThen(Effect.sleep("1 second"), Effect.die("bug")))
        )
        const { effect } = scripted([0, dying], [100, ok("second")])
        const fiber = yield* start(
          Hedge.apply(effect, aSecond).pipe(Effect.withSpan("call"), Effect.withTracer(tracer))
        )
        yield* TestClock.adjust("1500 millis")
        yield* start(Fiber.interrupt(fiber))
        yield* TestClock.adjust("1 hour")
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.hasInterrupts(exit) && Exit.hasDies(exit))
        assert.isFalse(spans[0]?.attributes.has("hedge.winner"))
        assert.strictEqual(spans[0]?.attributes.get("hedge.attempts"), 2)
      }))

    it.effect("an attempt that ends a beat after the winner changes nothing", () =>
      Effect.gen(function*() {
        const { effect, running } = scripted([1500, ok("first")], [500, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, aSecond)), Exit.succeed("first"))
        assert.strictEqual(running(), 0)
      }))

    it.effect("an attempt that makes another win while it starts is stopped before the result is seen", () =>
      Effect.gen(function*() {
        const won = yield* Deferred.make<string>()
        let cleaned = false
        const work = Effect.gen(function*() {
          if ((yield* Hedge.CurrentAttempt) === 1) return yield* Deferred.await(won)
          yield* Deferred.succeed(won, "first")
          return yield* Effect.never
        }).pipe(Effect.onInterrupt(() => Effect.sync(() => (cleaned = true))))
        const { events, listen } = listening()
        const exit = yield* ended(listen(Hedge.apply(work, aSecond)))
        assert.deepStrictEqual(exit, Exit.succeed("first"))
        assert.isTrue(cleaned)
        assert.deepStrictEqual(events.map(({ _tag }) => _tag), ["HedgeStarted"])
      }))
  })

  describe("interruption", () => {
    it.effect("whoever interrupts the caller interrupts all attempts and waits for all of them", () =>
      Effect.gen(function*() {
        let cleaned = 0
        let by: ReadonlySet<number> = new Set()
        const work = Effect.onInterrupt(
          Effect.never,
          (ids) => Effect.andThen(Effect.sleep("2 seconds"), Effect.sync(() => cleaned++ && (by = ids)))
        )
        const fiber = yield* start(Hedge.apply(work, three))
        yield* TestClock.adjust("1500 millis")
        const interrupting = yield* start(Fiber.interrupt(fiber))
        yield* TestClock.adjust("1999 millis")
        assert.isUndefined(interrupting.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        yield* Fiber.join(interrupting)
        assert.strictEqual(cleaned, 2)
        assert.deepStrictEqual(by, new Set([fiber.id]))
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      }))

    it.effect("interrupting the delay ends at once and starts nothing more", () =>
      Effect.gen(function*() {
        const { counted, sleeps } = yield* countingSleeps
        const { effect, starts } = scripted([Infinity, ok("never")])
        const fiber = yield* start(counted(Hedge.apply(effect, aSecond)))
        assert.deepStrictEqual(sleeps, [1000])
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(starts.length, 1)
      }))

    it.effect("interruption while losers are stopped waits for them, and is an interruption", () =>
      Effect.gen(function*() {
        let cleaned = false
        const work = Effect.gen(function*() {
          if ((yield* Hedge.CurrentAttempt) === 2) return yield* Effect.sleep("100 millis")
          return yield* Effect.onInterrupt(
            Effect.never,
            () => Effect.andThen(Effect.sleep("10 seconds"), Effect.sync(() => (cleaned = true)))
          )
        })
        const fiber = yield* start(Hedge.apply(work, aSecond))
        yield* TestClock.adjust("2 seconds")
        const interrupting = yield* start(Fiber.interrupt(fiber))
        yield* TestClock.adjust("1 second")
        assert.isUndefined(interrupting.pollUnsafe())
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(interrupting)
        assert.isTrue(cleaned)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      }))

    it.effect("leaks nothing, at whatever step and by whomever it is interrupted", () =>
      interruptEverywhere({
        arrange: Effect.gen(function*() {
          const budget = yield* RetryBudget.make({ minPerSecond: 1 })
          const latencies = yield* Hedge.make()
          const { effect, running } = scripted([1500, busy(1)], [2500, ok("second")], [500, ok("third")])
          const policy = Hedge.policy({
            name: "search",
            delay: Hedge.percentile({ initial: "1 second" }),
            maxAttempts: 3,
            budget: "search",
            idempotent: true
          })
          return {
            effect: effect.pipe(
              Effect.ensuring(Effect.sleep("100 millis")),
              Hedge.apply(policy),
              Effect.provideService(RetryBudget.RetryBudget, budget),
              Effect.provideService(Hedge.Latencies, latencies)
            ),
            check: (exit: Exit.Exit<string, Busy>, step: number) =>
              Effect.sync(() => {
                assert.strictEqual(running(), 0)
                if (step === 0) assert.deepStrictEqual(exit, Exit.succeed("third"))
              })
          }
        })
      }), 60_000)

    it.effect("is stopped by every cancel source, with all its attempts, and by losing to another hedge", () =>
      everyCancelSource({
        after: "2500 millis",
        sources: [...cancelSources, {
          name: "the winner of a hedge around",
          cancel: (self, after) =>
            Effect.flatMap(Hedge.CurrentAttempt, (attempt) => attempt === 1 ? self : Effect.void).pipe(
              Hedge.apply(Hedge.policy({ delay: after, idempotent: true }))
            )
        }],
        arrange: Effect.sync(() => {
          const { effect, interrupted, running } = scripted([Infinity, ok("never")])
          return {
            effect: Hedge.apply(effect, three),
            check: () =>
              Effect.sync(() => {
                assert.strictEqual(running(), 0)
                assert.deepStrictEqual(interrupted.map(([, at]) => at - (interrupted[0]?.[1] ?? 0)), [0, 0, 0])
              })
          }
        })
      }))

    it.effect("leaks nothing with a fixed delay and nothing else", () =>
      interruptEverywhere({
        arrange: Effect.sync(() => {
          const { effect, running } = scripted([Infinity, ok("first")], [500, ok("second")])
          return {
            effect: Hedge.apply(effect, Hedge.policy({ delay: "1 second", idempotent: true })),
            check: () => Effect.sync(() => assert.strictEqual(running(), 0))
          }
        })
      }), 60_000)
  })

  describe("deadline", () => {
    const within = (millis: number) => <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.flatMap(
        Clock.clockWith((clock) => Effect.succeed(Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000)),
        (now) => Effect.provideService(self, deadline.Current, now + millis)
      )

    it.effect("a hedge that cannot fit into what remains is not started, and not waited for", () =>
      Effect.gen(function*() {
        const { counted, sleeps } = yield* countingSleeps
        const { events, listen } = listening()
        for (const millis of [1000, 400, 0]) {
          const gate = yield* Deferred.make<string>()
          let calls = 0
          const work = Effect.andThen(Effect.sync(() => calls++), Deferred.await(gate))
          const fiber = yield* start(counted(listen(work.pipe(Hedge.apply(aSecond), within(millis)))))
          assert.deepStrictEqual(sleeps, [])
          yield* TestClock.adjust("1 minute")
          yield* Deferred.succeed(gate, "done")
          assert.strictEqual(yield* Fiber.join(fiber), "done")
          assert.strictEqual(calls, 1)
          assert.deepStrictEqual(events.splice(0), [{ _tag: "HedgeSkipped", policy: "search", reason: "Deadline" }])
        }
      }))

    it.effect("a hedge that fits is started", () =>
      Effect.gen(function*() {
        const { effect } = scripted([Infinity, ok("first")], [0, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, aSecond).pipe(within(1001))), Exit.succeed("second"))
      }))

    it.effect("a failure starts the next while something remains, and nothing after that", () =>
      Effect.gen(function*() {
        const early = scripted([400, busy(1)], [0, ok("second")])
        assert.deepStrictEqual(
          yield* ended(Hedge.apply(early.effect, aSecond).pipe(within(500))),
          Exit.succeed("second")
        )

        const { events, listen } = listening()
        const late = scripted([500, busy(1)], [0, ok("second")])
        const exit = yield* ended(listen(Hedge.apply(late.effect, aSecond).pipe(within(500))))
        assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
        assert.strictEqual(late.starts.length, 1)
        assert.deepStrictEqual(events, [{ _tag: "HedgeSkipped", policy: "search", reason: "Deadline" }])
      }))
  })

  describe("budget", () => {
    const paying = Hedge.policy({ name: "search", delay: "1 second", budget: "search", idempotent: true })

    it.effect("an empty budget stops hedging and never fails the call", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const slow = scripted([5000, ok("first")])
        assert.deepStrictEqual(yield* ended(listen(Hedge.apply(slow.effect, paying))), Exit.succeed("first"))
        assert.strictEqual(slow.starts.length, 1)

        const failing = scripted([10, busy(1)], [0, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(failing.effect, paying)), Exit.fail(new Busy({ n: 1 })))
        assert.strictEqual(failing.starts.length, 1)
        assert.deepStrictEqual(events, [{ _tag: "HedgeSkipped", policy: "search", reason: "BudgetEmpty" }])
      }).pipe(Effect.provide(RetryBudget.layer({ ratio: 0, minPerSecond: 0 }))))

    it.effect("an empty budget is asked once, and the attempts that run go on", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([1500, busy(1)], [4000, ok("second")], [0, ok("third")])
        const policy = Hedge.policy({ delay: "1 second", maxAttempts: 3, budget: "one", idempotent: true })
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, policy)), Exit.succeed("second"))
        assert.deepStrictEqual(starts, [0, 1000])
      }).pipe(Effect.provide(RetryBudget.layer({ ratio: 0, minPerSecond: 0.1, window: "10 seconds" }))))

    it.effect("first attempts are never blocked, never pay, and put into the budget; each hedge takes one out", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.RetryBudget
        for (let i = 0; i < 4; i++) yield* Hedge.apply(Effect.void, paying)
        const before = yield* budget.state("search")
        assert.deepStrictEqual([before.firstAttempts, before.retries], [4, 0])
        const { effect } = scripted([0, busy(1)], [0, ok("second")])
        assert.strictEqual(yield* Hedge.apply(effect, paying), "second")
        const after = yield* budget.state("search")
        assert.deepStrictEqual([after.firstAttempts, after.retries], [5, 1])
      }).pipe(Effect.provide(RetryBudget.layer({ ratio: 0.5, minPerSecond: 0 }))))

    it.effect("a call that is not idempotent leaves the budget alone", () =>
      Effect.gen(function*() {
        yield* Hedge.apply(Effect.void, Hedge.policy({ delay: 1, budget: "search" }))
        const { firstAttempts } = yield* RetryBudget.RetryBudget.use((budget) => budget.state("search"))
        assert.strictEqual(firstAttempts, 0)
      }).pipe(Effect.provide(RetryBudget.layer())))

    /** A budget of somebody else's, which takes its time to answer. */
    const remote = (answers: ReadonlyArray<boolean>, millis = 100) => {
      const seen: Array<string> = []
      let asked = 0
      const service: RetryBudget.RetryBudget["Service"] = {
        deposit: (key) => Effect.sync(() => void seen.push(`deposit ${key}`)),
        withdraw: () =>
          Effect.sleep(millis).pipe(
            Effect.map(() => {
              seen.push("withdraw")
              return answers[asked++] === true
                ? { giveBack: Effect.sync(() => void seen.push("giveBack")) }
                : undefined
            }),
            Effect.onInterrupt(() => Effect.sync(() => void seen.push("interrupted")))
          ),
        state: (key) => Effect.succeed({ key, firstAttempts: 0, retries: 0, available: 0 }),
        states: Effect.succeed([])
      }
      return { seen, layer: Layer.succeed(RetryBudget.RetryBudget, service) }
    }

    it.effect("asks a budget of the user's own by its methods", () =>
      Effect.gen(function*() {
        const { layer, seen } = remote([true, false])
        const paid = scripted([Infinity, ok("first")], [0, ok("second")])
        assert.deepStrictEqual(
          yield* ended(Hedge.apply(paid.effect, paying).pipe(Effect.provide(layer))),
          Exit.succeed("second")
        )
        const before = yield* Clock.currentTimeMillis
        const refused = scripted([500, busy(1)], [0, ok("second")])
        const fiber = yield* start(Hedge.apply(refused.effect, paying).pipe(Effect.provide(layer)))
        yield* TestClock.adjust("600 millis")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 1 })))
        assert.deepStrictEqual(refused.starts, [before])
        assert.deepStrictEqual(seen, ["deposit search", "withdraw", "deposit search", "withdraw"])
      }))

    it.effect("a result does not wait for the answer, and what is granted too late is given back", () =>
      Effect.gen(function*() {
        const { layer, seen } = remote([true], 1000)
        const { effect, starts } = scripted([1500, ok("first")])
        const fiber = yield* start(Hedge.apply(effect, paying).pipe(Effect.provide(layer)))
        yield* TestClock.adjust("1500 millis")
        assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed("first"))
        assert.deepStrictEqual(seen, ["deposit search"])
        yield* TestClock.adjust("500 millis")
        assert.deepStrictEqual(seen, ["deposit search", "withdraw", "giveBack"])
        assert.strictEqual(starts.length, 1)
      }))

    it.effect("an interrupted caller does not wait for the answer either", () =>
      Effect.gen(function*() {
        const { layer, seen } = remote([true], 1000)
        const { effect } = scripted([Infinity, ok("first")])
        const fiber = yield* start(Hedge.apply(effect, paying).pipe(Effect.provide(layer)))
        yield* TestClock.adjust("1500 millis")
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(seen, ["deposit search"])
        yield* TestClock.adjust("500 millis")
        assert.deepStrictEqual(seen, ["deposit search", "withdraw", "giveBack"])
      }))

    it.effect("nobody's interruption loses what is given back, and one that dies costs no answer", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.RetryBudget
        let held = 0
        const giving = (giveBack: Effect.Effect<void>) =>
          RetryBudget.RetryBudget.of({
            deposit: budget.deposit,
            state: budget.state,
            states: budget.states,
            withdraw: () =>
              Effect.andThen(
                Effect.sleep("1 second"),
                Effect.sync(() => {
                  held++
                  return { giveBack }
                })
              )
          })
        const slowly = giving(Effect.andThen(Effect.sleep("1 second"), Effect.sync(() => void held--)))
        const { effect } = scripted<Broken>([1500, Effect.fail(new Broken())], [Infinity, ok("second")])
        const fiber = yield* start(
          Hedge.apply(effect, paying).pipe(Effect.provideService(RetryBudget.RetryBudget, slowly))
        )
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(held, 1)
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 second")
        assert.strictEqual(held, 0)

        const messages: Array<unknown> = []
        const quick = scripted<Broken>([1500, Effect.fail(new Broken())])
        const exit = yield* ended(
          Hedge.apply(quick.effect, paying).pipe(
            Effect.provideService(RetryBudget.RetryBudget, giving(Effect.die("bad budget"))),
            Effect.provide(Logger.layer([Logger.make(({ message }) => void messages.push(message))]))
          )
        )
        assert.deepStrictEqual(exit, Exit.fail(new Broken()))
        assert.include(String(messages), "what was paid for an attempt could not be given back")
      }).pipe(Effect.provide(RetryBudget.layerNoop)))

    it.effect("a timeout of the budget's own ends the asking", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.RetryBudget
        const stuck = RetryBudget.RetryBudget.of({
          deposit: budget.deposit,
          state: budget.state,
          states: budget.states,
          withdraw: () =>
            Effect.timeoutOrElse(Effect.never, { duration: "1 second", orElse: () => Effect.succeed(undefined) })
        })
        const { effect } = scripted([1500, busy(1)])
        const fiber = yield* start(
          Hedge.apply(effect, paying).pipe(Effect.provideService(RetryBudget.RetryBudget, stuck))
        )
        yield* TestClock.adjust("1999 millis")
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 1 })))
      }).pipe(Effect.provide(RetryBudget.layerNoop)))

    it.effect("gives back what was paid for an attempt that must not start any more", () =>
      Effect.gen(function*() {
        const { layer, seen } = remote([true], 1000)
        const { effect, starts } = scripted<Broken>([1500, Effect.fail(new Broken())])
        assert.deepStrictEqual(
          yield* ended(Hedge.apply(effect, paying).pipe(Effect.provide(layer))),
          Exit.fail(new Broken())
        )
        assert.deepStrictEqual(seen, ["deposit search", "withdraw", "giveBack"])
        assert.strictEqual(starts.length, 1)
      }))

    it.effect("asks once at a time: a failure meanwhile does not ask again", () =>
      Effect.gen(function*() {
        const { layer, seen } = remote([true, true], 1000)
        const { effect, starts } = scripted([1500, busy(1)], [0, ok("second")])
        const policy = Hedge.policy({ delay: "1 second", maxAttempts: 3, budget: "search", idempotent: true })
        assert.deepStrictEqual(
          yield* ended(Hedge.apply(effect, policy).pipe(Effect.provide(layer))),
          Exit.succeed("second")
        )
        assert.deepStrictEqual(starts, [0, 2000])
        assert.deepStrictEqual(seen, ["deposit search", "withdraw"])
      }))

    it.effect("gives back what was paid for an attempt that must not start yet", () =>
      Effect.gen(function*() {
        const { layer, seen } = remote([true], 1000)
        const { effect } = scripted([1500, Effect.fail(new Limited({ millis: 5000 }))])
        assert.deepStrictEqual(
          yield* ended(Hedge.apply(effect, paying).pipe(Effect.provide(layer))),
          Exit.fail(new Limited({ millis: 5000 }))
        )
        assert.deepStrictEqual(seen, ["deposit search", "withdraw", "giveBack"])
      }))

    it.effect("asking may itself make the first attempt end", () =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<string>()
        const { layer, seen } = remote([true], 1000)
        const odd = Layer.effect(
          RetryBudget.RetryBudget,
          Effect.map(RetryBudget.RetryBudget, (budget) => ({
            ...budget,
            withdraw: (key) => Effect.andThen(Deferred.succeed(gate, "first"), budget.withdraw(key))
          }))
        ).pipe(Layer.provide(layer))
        const fiber = yield* start(Hedge.apply(Deferred.await(gate), paying).pipe(Effect.provide(odd)))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), "first")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(seen, ["deposit search", "withdraw", "giveBack"])
      }))

    it.effect("a budget of the user's own that dies ends the call, and stops what runs", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.RetryBudget
        const broken = RetryBudget.RetryBudget.of({
          deposit: budget.deposit,
          state: budget.state,
          states: budget.states,
          withdraw: () => Effect.die("bad budget")
        })
        const { effect, interrupted } = scripted([5000, ok("first")])
        const call = Hedge.apply(effect, paying).pipe(Effect.provideService(RetryBudget.RetryBudget, broken))
        assert.deepStrictEqual(yield* ended(call), Exit.die("bad budget"))
        assert.deepStrictEqual(interrupted, [[1, 1000]])
      }).pipe(Effect.provide(RetryBudget.layerNoop)))

    it.effect("leaks nothing while a budget of the user's own is asked", () =>
      interruptEverywhere({
        arrange: Effect.sync(() => {
          const { layer, seen } = remote([true, true])
          const { effect, running } = scripted([1500, busy(1)], [500, ok("second")])
          const { events, listen } = listening()
          return {
            effect: listen(Hedge.apply(effect, paying)).pipe(Effect.provide(layer)),
            // A clock that is stopped while it moves forgets whom it was about to wake.
            drive: Effect.forever(
              Effect.andThen(Effect.uninterruptible(TestClock.adjust("100 millis")), Effect.yieldNow)
            ),
            // the asking, which ends by itself
            sleepsLeft: 1,
            check: () =>
              Effect.gen(function*() {
                assert.strictEqual(running(), 0)
                yield* TestClock.adjust("1 hour")
                const granted = seen.filter((what) => what === "withdraw").length
                assert.isAtMost(granted, 1)
                const begun = events.filter(({ _tag }) => _tag === "HedgeStarted").length
                assert.strictEqual(seen.filter((what) => what === "giveBack").length, granted - begun)
              })
          }
        })
      }), 60_000)
  })

  describe("percentile", () => {
    const median = Hedge.percentile({ p: 0.5, minSamples: 3, window: 5 })
    const learning = Hedge.policy({ name: "search", delay: median, idempotent: true })

    const delay = Hedge.Latencies.use((latencies) => latencies.delay("search", median)).pipe(
      Effect.map((known) => known === undefined ? undefined : Duration.toMillis(known))
    )

    const takes = (...millis: ReadonlyArray<number>) =>
      Effect.forEach(millis, (ms) => ended(Hedge.apply(Effect.sleep(ms), learning)), { discard: true })

    it.effect("percentile delays need enough samples", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        yield* listen(takes(10, 20))
        const slow = scripted([60_000, ok("first")])
        assert.deepStrictEqual(yield* ended(listen(Hedge.apply(slow.effect, learning))), Exit.succeed("first"))
        assert.strictEqual(slow.starts.length, 1)
        assert.deepStrictEqual(
          events,
          Array.from({ length: 3 }, () => ({ _tag: "HedgeSkipped", policy: "search", reason: "TooFewSamples" }))
        )
        assert.strictEqual(yield* delay, 20)
        const hedged = scripted([60_000, ok("first")], [0, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(hedged.effect, learning)), Exit.succeed("second"))
        assert.strictEqual((hedged.starts[1] ?? 0) - (hedged.starts[0] ?? 0), 20)
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("without samples a failed first attempt starts the next all the same", () =>
      Effect.gen(function*() {
        const { effect } = scripted([0, busy(1)], [0, ok("second")])
        assert.strictEqual(yield* Hedge.apply(effect, learning), "second")
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("waits for initial until there are enough samples", () =>
      Effect.gen(function*() {
        const policy = Hedge.policy({
          name: "search",
          delay: Hedge.percentile({ initial: "300 millis" }),
          idempotent: true
        })
        const { effect, starts } = scripted([Infinity, ok("first")], [0, ok("second")])
        assert.deepStrictEqual(yield* ended(Hedge.apply(effect, policy)), Exit.succeed("second"))
        assert.deepStrictEqual(starts, [0, 300])
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("learns from interrupted losers, as long as they ran", () =>
      Effect.gen(function*() {
        yield* takes(100, 100, 100)
        const { effect } = scripted([60_000, ok("first")], [5000, ok("second")])
        // 100 ms until the hedge, which takes 5 s: the first attempt would have taken more than 5,100 ms
        yield* ended(Hedge.apply(effect, learning))
        yield* ended(Hedge.apply(scripted([60_000, ok("")], [5000, ok("")]).effect, learning))
        const latencies = yield* Hedge.Latencies
        const at = (p: number) =>
          Effect.map(latencies.delay("search", { ...median, p }), (known) => known && Duration.toMillis(known))
        // the window of five: 100, 5000, 5100, 5000, and 100 again from the second call, whose delay was 100 too
        assert.deepStrictEqual(yield* Effect.all([at(0.2), at(0.4), at(0.6), at(0.8), at(1)]), [
          100,
          5000,
          5000,
          5100,
          5100
        ])
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("a loser that was stopped while it was still quick does not make the delay shorter", () =>
      Effect.gen(function*() {
        yield* takes(1000, 1000, 1000)
        for (let i = 0; i < 2; i++) {
          const { effect, starts } = scripted([1500, ok("first")], [Infinity, ok("second")])
          yield* ended(Hedge.apply(effect, learning))
          assert.strictEqual(starts.length, 2)
        }
        const latencies = yield* Hedge.Latencies
        const least = yield* latencies.delay("search", { ...median, p: 0 })
        const most = yield* latencies.delay("search", { ...median, p: 1 })
        assert.deepStrictEqual([least, most], [Duration.millis(1000), Duration.millis(1500)])
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("an attempt that ran out of time counts as long as it ran, other failures for nothing", () =>
      Effect.gen(function*() {
        yield* takes(10, 10, 10)
        const policy = Hedge.policy({ name: "search", delay: median, maxAttempts: 1, idempotent: true })
        for (let i = 0; i < 5; i++) yield* ended(Hedge.apply(scripted([700, busy(1)]).effect, policy))
        assert.strictEqual(yield* delay, 10)
        for (let i = 0; i < 3; i++) {
          yield* ended(Hedge.apply(scripted([700, Effect.fail(new Late())]).effect, policy))
        }
        assert.strictEqual(yield* delay, 700)
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("a call that is interrupted from outside counts for nothing", () =>
      Effect.gen(function*() {
        yield* takes(10, 10, 10)
        for (let i = 0; i < 5; i++) {
          const fiber = yield* start(Hedge.apply(Effect.never, learning))
          yield* TestClock.adjust("1 minute")
          yield* Fiber.interrupt(fiber)
        }
        assert.strictEqual(yield* delay, 10)
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("is the nearest rank of the latest in the window, whatever came before", () =>
      Effect.gen(function*() {
        const latencies = yield* Hedge.Latencies
        const window = 7
        const samples: Array<number> = []
        let seed = 1
        for (let i = 0; i < 300; i++) {
          seed = (seed * 48_271) % 2_147_483_647
          const sample = 1 + seed % 20
          samples.push(sample)
          const settings = Hedge.percentile({ p: (seed % 101) / 100, minSamples: 1, window })
          yield* latencies.record("search", settings, Duration.millis(sample))
          const sorted = samples.slice(-window).toSorted((a, b) => a - b)
          const rank = sorted.findIndex((_, at) => (at + 1) / sorted.length >= settings.p - 1e-12)
          assert.deepStrictEqual(yield* latencies.delay("search", settings), Duration.millis(sorted[rank] ?? 0))
        }
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("keeps between min and max, and at least a millisecond by default", () =>
      Effect.gen(function*() {
        const latencies = yield* Hedge.Latencies
        const record = (millis: number) => latencies.record("search", median, Duration.millis(millis))
        yield* Effect.forEach([0.2, 0.2, 0.2], record)
        assert.deepStrictEqual(yield* latencies.delay("search", median), Duration.millis(1))
        const bounded = Hedge.percentile({ p: 0.5, minSamples: 3, min: 50, max: 80 })
        assert.deepStrictEqual(yield* latencies.delay("search", bounded), Duration.millis(50))
        yield* Effect.forEach([90, 90, 90], record)
        assert.deepStrictEqual(yield* latencies.delay("search", bounded), Duration.millis(80))
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("what is learned belongs to one name and one layer", () =>
      Effect.gen(function*() {
        yield* takes(10, 10, 10)
        const latencies = yield* Hedge.Latencies
        assert.isUndefined(yield* latencies.delay("other", median))
        assert.isUndefined(yield* Effect.provide(delay, Hedge.layer(), { local: true }))
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("policies of one name learn over the longest of their windows, and forget nothing when it grows", () =>
      Effect.gen(function*() {
        const latencies = yield* Hedge.Latencies
        const long = Hedge.percentile({ p: 1, minSamples: 1, window: 8 })
        const record = (settings: Hedge.Percentile) => (millis: number) =>
          latencies.record("search", settings, Duration.millis(millis))
        yield* Effect.forEach([900, 800, 700, 600, 500, 400], record(median))
        yield* Effect.forEach([10, 20], record(long))
        assert.deepStrictEqual(yield* latencies.delay("search", long), Duration.millis(800))
        yield* Effect.forEach([30, 30], record(median))
        assert.deepStrictEqual(yield* latencies.delay("search", long), Duration.millis(700))
      }).pipe(Effect.provide(Hedge.layer())))

    describe("forgetting", () => {
      const settings = Hedge.percentile({ minSamples: 1 })
      const record = (name: string) =>
        Hedge.Latencies.use((latencies) => latencies.record(name, settings, Duration.millis(5))).pipe(
          Effect.andThen(TestClock.adjust("1 millis"))
        )
      const known = (...names: ReadonlyArray<string>) =>
        Effect.filter(names, (name) =>
          Hedge.Latencies.use((latencies) => latencies.delay(name, settings)).pipe(
            Effect.map((delay) => delay !== undefined)
          ))

      it.effect("forgets the names unused for longest", () =>
        Effect.gen(function*() {
          yield* Effect.forEach(["a", "b", "a", "c"], record)
          assert.deepStrictEqual(yield* known("a", "b", "c"), ["a", "c"])
        }).pipe(Effect.provide(Hedge.layer({ maxKeys: 2 }))))

      it.effect("forgets the names that nobody has used for their time to live, and a question is a use", () =>
        Effect.gen(function*() {
          yield* Effect.forEach(["a", "b"], record)
          yield* TestClock.adjust("40 seconds")
          assert.deepStrictEqual(yield* known("a"), ["a"])
          yield* TestClock.adjust("20 seconds")
          yield* record("c")
          assert.deepStrictEqual(yield* known("a", "b", "c"), ["a", "c"])
        }).pipe(Effect.provide(Hedge.layer({ idleTimeToLive: "1 minute" }))))
    })

    it.effect("takes the rank that is meant, whatever floating point makes of it", () =>
      Effect.gen(function*() {
        const latencies = yield* Hedge.Latencies
        const seventh = Hedge.percentile({ p: 0.07, minSamples: 100 })
        for (let i = 1; i <= 100; i++) yield* latencies.record("search", seventh, Duration.millis(i))
        assert.deepStrictEqual(yield* latencies.delay("search", seventh), Duration.millis(7))
      }).pipe(Effect.provide(Hedge.layer())))

    it.effect("layerNoop learns nothing", () =>
      Effect.gen(function*() {
        const latencies = yield* Hedge.Latencies
        yield* takes(10, 10, 10)
        assert.isUndefined(yield* delay)
        yield* latencies.record("search", median, Duration.millis(5))
        const known = Hedge.percentile({ initial: 70 })
        assert.deepStrictEqual(yield* latencies.delay("search", known), Duration.millis(70))
      }).pipe(Effect.provide(Hedge.layerNoop)))

    it.effect("latencies of the user's own cost no answer when they cannot record, nor do they delay it", () =>
      Effect.gen(function*() {
        const thrown = () => {
          throw new TypeError("no method")
        }
        for (
          const [record, warnings] of [[() => Effect.die("full"), 1], [thrown, 1], [() => Effect.never, 0]] as const
        ) {
          const messages: Array<string> = []
          const exit = yield* ended(
            Hedge.apply(scripted([10, ok("first")]).effect, learning).pipe(
              Effect.provideService(Hedge.Latencies, { delay: () => Effect.undefined, record }),
              Effect.provide(Logger.layer([Logger.make(({ message }) => void messages.push(String(message)))]))
            )
          )
          assert.deepStrictEqual(exit, Exit.succeed("first"))
          assert.strictEqual(messages.length, warnings)
          assert.isTrue(messages.every((message) => message.includes("what an attempt took could not be recorded")))
        }
      }))

    it.effect("a delay of a fraction ends with the millisecond, and not before it", () =>
      Effect.gen(function*() {
        const { effect, starts } = scripted([Infinity, ok("first")], [0, ok("second")])
        const exit = yield* ended(
          Effect.provideService(Hedge.apply(effect, learning), Hedge.Latencies, {
            delay: () => Effect.succeed(Duration.micros(10_200n)),
            record: () => Effect.void
          })
        )
        assert.deepStrictEqual(exit, Exit.succeed("second"))
        assert.deepStrictEqual(starts, [0, 11])
      }))

    it.effect("asks latencies of the user's own by their methods", () =>
      Effect.gen(function*() {
        const recorded: Array<readonly [string, number]> = []
        const own = Layer.succeed(Hedge.Latencies, {
          delay: () => Effect.succeed(Duration.millis(50)),
          record: (name, _, latency) => Effect.sync(() => void recorded.push([name, Duration.toMillis(latency)]))
        })
        const { effect, starts } = scripted([Infinity, ok("first")], [20, ok("second")])
        assert.deepStrictEqual(
          yield* ended(Hedge.apply(effect, learning).pipe(Effect.provide(own))),
          Exit.succeed("second")
        )
        assert.deepStrictEqual(starts, [0, 50])
        assert.deepStrictEqual(recorded, [["search", 20], ["search", 70]])
        yield* Hedge.apply(Effect.void, learning).pipe(Effect.provide(own))
        assert.deepStrictEqual(recorded.at(2), ["search", 0])
      }))
  })

  describe("what it tells", () => {
    it.effect("tells of each hedge it starts, and of the one that wins", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const { effect } = scripted([Infinity, ok("first")], [Infinity, ok("second")], [10, ok("third")])
        yield* ended(listen(Hedge.apply(effect, three)))
        assert.deepStrictEqual(events, [
          { _tag: "HedgeStarted", policy: "search", attempt: 2, afterMillis: 1000 },
          { _tag: "HedgeStarted", policy: "search", attempt: 3, afterMillis: 2000 },
          { _tag: "HedgeWon", policy: "search", attempt: 3 }
        ])
      }))

    it.effect("tells of no winner when the first attempt wins, and of nothing when nothing is slow", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        yield* ended(listen(Hedge.apply(scripted([1500, ok("first")], [Infinity, ok("")]).effect, aSecond)))
        assert.deepStrictEqual(events.splice(0), [
          { _tag: "HedgeStarted", policy: "search", attempt: 2, afterMillis: 1000 }
        ])
        yield* ended(listen(Hedge.apply(Effect.sleep(500), aSecond)))
        assert.deepStrictEqual(events, [])
      }))

    it.effect("a listener that throws changes nothing, and is told of", () =>
      Effect.gen(function*() {
        const logged: Array<unknown> = []
        const { effect } = scripted([Infinity, ok("first")], [10, ok("second")])
        const exit = yield* ended(Hedge.apply(effect, aSecond)).pipe(
          Effect.provideService(Telemetry.Listener, () => {
            throw new Error("bad listener")
          }),
          Effect.provide(Logger.layer([Logger.make(({ logLevel }) => void logged.push(logLevel))]))
        )
        assert.deepStrictEqual(exit, Exit.succeed("second"))
        assert.deepStrictEqual(logged, ["Warn", "Warn"])
      }))

    it.effect("a listener that ends the call in the middle of a step leaves nothing behind", () =>
      Effect.gen(function*() {
        for (const at of ["HedgeStarted", "HedgeWon"]) {
          const { effect, running, starts } = scripted([Infinity, ok("first")], [10, ok("second")])
          const fiber = yield* start(
            Hedge.apply(effect, aSecond).pipe(Effect.provideService(Telemetry.Listener, (event) => {
              if (event._tag === at) fiber.interruptUnsafe()
            }))
          )
          yield* TestClock.adjust("1 minute")
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), at)
          assert.strictEqual(starts.length, at === "HedgeStarted" ? 1 : 2)
          assert.strictEqual(running(), 0)
        }
      }))

    it.effect("annotates the span around, and only when there was a hedge", () =>
      Effect.gen(function*() {
        const { spans, tracer } = recordingTracer()
        const traced = (work: Effect.Effect<string, Busy>) =>
          ended(Hedge.apply(work, aSecond).pipe(Effect.withSpan("call"), Effect.withTracer(tracer)))
        yield* traced(scripted([500, ok("first")]).effect)
        yield* traced(scripted([Infinity, ok("first")], [10, ok("second")]).effect)
        yield* traced(scripted([10, busy(1)]).effect)
        assert.deepStrictEqual(spans.map(({ attributes }) => Object.fromEntries(attributes)), [
          {},
          { "hedge.policy": "search", "hedge.attempts": 2, "hedge.winner": 2 },
          { "hedge.policy": "search", "hedge.attempts": 2 }
        ])
      }))

    it.effect("tells each attempt its number, counted anew in a hedge within", () =>
      Effect.gen(function*() {
        const seen: Array<readonly [number, number]> = []
        const work = Effect.gen(function*() {
          const outer = yield* Hedge.CurrentAttempt
          yield* Effect.flatMap(Hedge.CurrentAttempt, (inner) => Effect.sync(() => seen.push([outer, inner]))).pipe(
            Hedge.apply(Hedge.policy({ delay: "1 minute", idempotent: true }))
          )
          return yield* outer === 1 ? Effect.never : Effect.void
        })
        assert.strictEqual(yield* Hedge.CurrentAttempt, 1)
        yield* ended(Hedge.apply(work, aSecond))
        assert.deepStrictEqual(seen, [[1, 1], [2, 1]])
      }))
  })

  it.effect("the attempts see the context of the caller", () =>
    Effect.gen(function*() {
      class Region extends Context.Service<Region, string>()("test/Region") {}
      const policy = Hedge.policy({ delay: 0, idempotent: true })
      assert.strictEqual(
        yield* Hedge.apply(Effect.service(Region), policy).pipe(Effect.provideService(Region, "eu")),
        "eu"
      )
      const scope = yield* Scope.make()
      let closed = 0
      const acquire = Effect.acquireRelease(Effect.void, () => Effect.sync(() => closed++))
      yield* Hedge.apply(acquire, policy).pipe(Effect.provideService(Scope.Scope, scope))
      assert.strictEqual(closed, 0)
      yield* Scope.close(scope, Exit.void)
      assert.strictEqual(closed, 1)
    }))

  it.effect("many calls share one timer of a fixed delay", () =>
    Effect.gen(function*() {
      const { counted, sleeps } = yield* countingSleeps
      const policy = Hedge.policy({ delay: "1 second", idempotent: true })
      const fibers = yield* Effect.forEach(
        Array.from({ length: 50 }),
        () => start(counted(Hedge.apply(Effect.never, policy)))
      )
      assert.deepStrictEqual(sleeps, [1000])
      yield* Fiber.interruptAll(fibers)
    }))

  it.effect("a clock that fails ends the call rather than leave it hanging", () =>
    Effect.gen(function*() {
      const { effect, running } = scripted([Infinity, ok("first")])
      const broken = yield* clockWithSleep(() => () => Effect.die("no timers"))
      const exit = yield* ended(Hedge.apply(effect, aSecond).pipe(Effect.provideService(Clock.Clock, broken)))
      assert.deepStrictEqual(exit, Exit.die("no timers"))
      assert.strictEqual(running(), 0)
    }))

  it.effect("a clock that cannot be read ends the call, whenever that is", () =>
    Effect.gen(function*() {
      let ends = 0
      for (let n = 1; n <= 20; n++) {
        const { effect, running } = scripted([1500, busy(1)], [100, busy(2)], [100, ok("third")])
        const clock = yield* clockWithSleep((clock) => clock.sleep)
        let reads = 0
        let left = -1
        const broken: Clock.Clock = {
          currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe(),
          currentTimeMillis: clock.currentTimeMillis,
          currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe(),
          currentTimeNanos: clock.currentTimeNanos,
          monotonicTimeNanosUnsafe: () => {
            if (++reads === n) throw new Error("no time")
            return clock.monotonicTimeNanosUnsafe()
          },
          monotonicTimeNanos: clock.monotonicTimeNanos,
          sleep: (duration) => clock.sleep(duration)
        }
        const fiber = yield* start(
          Hedge.apply(effect, Hedge.policy({ delay: "1 second", maxAttempts: 3, idempotent: true })).pipe(
            Effect.onExit(() => Effect.sync(() => (left = running()))),
            Effect.provideService(Clock.Clock, broken)
          )
        )
        yield* TestClock.adjust("1 minute")
        const exit = fiber.pollUnsafe()
        assert.isDefined(exit, `hangs when reading ${n} fails`)
        assert.strictEqual(left, 0, `runs on when reading ${n} fails`)
        if (exit === undefined || Exit.isSuccess(exit)) continue
        assert.instanceOf(Cause.squash(exit.cause), Error)
        assert.strictEqual(String(Cause.squash(exit.cause)), "Error: no time")
        ends++
      }
      assert.isAtLeast(ends, 5)
    }))

  it("refuses options that cannot work, naming them", () => {
    const rejects = (build: () => unknown, option: string) => {
      try {
        build()
      } catch (error) {
        assert.instanceOf(error, Fault.InvalidConfig)
        return assert.strictEqual(error.option, option)
      }
      assert.fail(`${option} was taken`)
    }
    rejects(() => Hedge.policy({ delay: "1 second", name: "" }), "name")
    rejects(() => Hedge.policy({ delay: Hedge.percentile() }), "name")
    rejects(() => Hedge.policy({ delay: -1 }), "delay")
    rejects(() => Hedge.policy({ delay: Number.NaN }), "delay")
    rejects(() => Hedge.policy({ delay: 1, maxAttempts: 0 }), "maxAttempts")
    rejects(() => Hedge.policy({ delay: 1, maxAttempts: 11 }), "maxAttempts")
    rejects(() => Hedge.policy({ delay: 1, budget: "" }), "budget")
    rejects(() => Hedge.percentile({ p: 95 }), "p")
    rejects(() => Hedge.percentile({ minSamples: 0 }), "minSamples")
    rejects(() => Hedge.percentile({ minSamples: 11, window: 10 }), "minSamples")
    rejects(() => Hedge.percentile({ window: 10_001 }), "window")
    rejects(() => Hedge.percentile({ initial: Duration.infinity }), "initial")
    rejects(() => Hedge.percentile({ min: -1 }), "min")
    rejects(() => Hedge.percentile({ min: 10, max: 9 }), "max")
  })

  it.effect("building the layer dies of an option that cannot work", () =>
    Effect.gen(function*() {
      for (const options of [{ maxKeys: 0 }, { idleTimeToLive: 0 }]) {
        const exit = yield* Effect.exit(Effect.provide(Effect.service(Hedge.Latencies), Hedge.layer(options)))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
      }
    }))

  it("defaults to one hedge, the 95th percentile of 100 attempts and 20 samples", () => {
    const { maxAttempts, name } = Hedge.policy({ delay: 1 })
    assert.deepStrictEqual([name, maxAttempts], ["hedge", 2])
    const { initial, max, min, minSamples, p, window } = Hedge.percentile()
    assert.deepStrictEqual([p, minSamples, window, initial], [0.95, 20, 100, undefined])
    assert.deepStrictEqual([min, max], [Duration.millis(1), Duration.infinity])
    assert.strictEqual(Hedge.percentile({ window: 5 }).minSamples, 5)
  })
})

/** What a guard of ours within refused: nothing was sent, and nothing would be. */
class Unrepeatable extends Schema.TaggedError<Unrepeatable>("test/Unrepeatable")("Unrepeatable", {}) {
  readonly [Fault.verdictOf] = Fault.rejected()
}
