import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Scheduler, Schema } from "effect"
import { TestClock } from "effect/testing"
import { execFile } from "node:child_process"
import * as path from "node:path"
import { promisify } from "node:util"
import { timedIn, Timeouts, timeoutsOf } from "../../src/policy/internal/timeouts.ts"
import { runs } from "../support/runs.ts"

const late = () => "late" as const

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const now = Clock.currentTimeMillis

/** The test's clock with some of it replaced. */
const withClock = (change: (clock: TestClock.TestClock) => Partial<Clock.Clock>) =>
<A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  TestClock.testClockWith((clock) => Effect.provideService(self, Clock.Clock, { ...clock, ...change(clock) }))

/** Counts the sleeps that are going on, and all that there were. */
const countingSleeps = () => {
  const count = { open: 0, all: 0 }
  const counted = withClock((clock) => ({
    sleep: (duration) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          count.open++
          count.all++
        }),
        () => clock.sleep(duration),
        () =>
          Effect.sync(() => {
            count.open--
          })
      )
  }))
  return { count, counted }
}

/** Lets what was put off to the next turn of the scheduler happen. */
const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 4 }))

const timed = <A, E, R, E2>(self: Effect.Effect<A, E, R>, timeouts: Timeouts, error: () => E2) =>
  Effect.contextWith((context: Context.Context<R>) => timedIn(context, self, timeouts, error))

describe("timed", () => {
  it.effect("passes on how an effect ends that ends at once, without looking at the clock", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      assert.strictEqual(yield* timed(Effect.succeed(1), timeouts, late), 1)
      assert.deepStrictEqual(yield* Effect.exit(timed(Effect.fail("no"), timeouts, late)), Exit.fail("no"))
      assert.deepStrictEqual(yield* Effect.exit(timed(Effect.die("bug"), timeouts, late)), Exit.die("bug"))
    }).pipe(withClock(() => ({
      monotonicTimeNanosUnsafe: () => {
        throw new Error("nobody was to look")
      }
    }))))

  it.effect(
    "10,000 concurrent calls with one timeout: exactly the overdue expire, in order, with one sleep at a time",
    () => {
      const { count, counted } = countingSleeps()
      const story = Effect.fnUntraced(function*(plain: Clock.Clock) {
        const timeouts = new Timeouts(1000)
        const ended: Array<readonly [call: number, at: number]> = []
        const fibers: Array<Fiber.Fiber<void>> = []
        for (let i = 0; i < 10_000; i++) {
          // Ten start each millisecond; every third is done after 999 ms, which is in time.
          const work = i % 3 === 0 ? plain.sleep(Duration.millis(999)) : Effect.never
          fibers.push(
            yield* timed(work, timeouts, late).pipe(
              Effect.catch(() => Effect.map(now, (at) => void ended.push([i, at]))),
              start
            )
          )
          if (i % 10 === 9) yield* TestClock.adjust(1)
          assert.strictEqual(count.open, 1)
        }
        yield* TestClock.adjust("1 minute")
        yield* Effect.forEach(fibers, Fiber.await)
        const expected = fibers.flatMap((_, i) => i % 3 === 0 ? [] : [[i, Math.floor(i / 10) + 1000] as const])
        assert.deepStrictEqual(ended, expected)
        yield* settle
        assert.strictEqual(count.open, 0)
      })
      return TestClock.testClockWith((plain) => counted(story(plain)))
    },
    60_000
  )

  it.effect("needs one sleep for as many calls as there are before it is over", () => {
    const { count, counted } = countingSleeps()
    return Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      for (let i = 0; i < 100; i++) {
        yield* timed(Effect.callback<void>((resume) => queueMicrotask(() => resume(Effect.void))), timeouts, late)
      }
      assert.strictEqual(count.all, 1)
    }).pipe(counted)
  })

  it.effect("needs no more sleeps for calls that end before the others, or begin when others time out", () => {
    const { count, counted } = countingSleeps()
    return Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const context = yield* Effect.context<never>()
      yield* TestClock.adjust(300)
      yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      yield* start(Effect.exit(timedIn(context, Effect.never, timeouts, late, { startedAt: 100 })))
      assert.deepStrictEqual(count, { open: 1, all: 2 })
      yield* TestClock.adjust(1000)
      yield* settle

      const before = count.all
      const again = timed(Effect.never, timeouts, late).pipe(Effect.catch(() => timed(Effect.never, timeouts, late)))
      const fiber = yield* start(Effect.exit(again))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(count, { open: 1, all: before + 2 })
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail("late"))
    }).pipe(counted)
  })

  it.effect("a call that begins in the step in which the last one ended is timed", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const gate = yield* Deferred.make<void>()
      const first = yield* start(timed(Deferred.await(gate), timeouts, late))
      const second = yield* start(
        Effect.andThen(Fiber.await(first), Effect.exit(timed(Effect.never, timeouts, late)))
      )
      yield* Deferred.succeed(gate, undefined)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* Fiber.join(second), Exit.fail("late"))
    }))

  it.effect("a call begun by what timed out, in the very step in which it did, has its whole time", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const ends: Array<number> = []
      let tries = 0
      const once = timed(
        Effect.suspend(() => {
          tries++
          return Effect.never
        }),
        timeouts,
        late
      )
      const fiber = yield* once.pipe(
        Effect.tapError(() => Effect.map(now, (at) => ends.push(at))),
        Effect.retry({ times: 3 }),
        Effect.exit,
        start
      )
      const other = yield* start(Effect.exit(Effect.andThen(Effect.sleep(1), once)))
      yield* TestClock.adjust("10 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail("late"))
      assert.deepStrictEqual(yield* Fiber.join(other), Exit.fail("late"))
      assert.deepStrictEqual(ends, [1000, 2000, 3000, 4000])
      assert.strictEqual(tries, 5)
    }))

  it.effect("the wall clock jumping changes nothing", () => {
    let jump = 0
    return Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const before = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      jump = 1e12
      yield* TestClock.adjust(500)
      const between = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      jump = -1e12
      yield* TestClock.adjust(499)
      assert.isUndefined(before.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(before.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      yield* TestClock.adjust(499)
      assert.isUndefined(between.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(between.pollUnsafe(), Exit.succeed(Exit.fail("late")))
    }).pipe(withClock((clock) => ({
      currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + jump,
      currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe() + jump),
      currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe() + BigInt(jump) * 1_000_000n
    })))
  })

  it.effect("fractions of a millisecond are exact where the clock's are", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1.5)
      yield* TestClock.adjust(0.25)
      const fiber = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      yield* TestClock.adjust(1.25)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(0.25)
      assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(Exit.fail("late")))
    }))

  it.effect("sums of fractions cost no tick: the timeout comes with its own time, however odd", () =>
    Effect.gen(function*() {
      for (let i = 1; i <= 200; i++) {
        const millis = i * 0.7 + 1
        yield* TestClock.adjust(i * 0.1)
        const fiber = yield* start(Effect.exit(timed(Effect.never, new Timeouts(millis), late)))
        yield* TestClock.adjust(millis)
        assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(Exit.fail("late")), `${i}`)
      }
    }))

  it.effect("a timer that comes early by a fraction ends nothing early", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(10.75)
      const fiber = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      yield* TestClock.adjust(10)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(Exit.fail("late")))
    }).pipe(withClock((clock) => ({
      sleep: (duration) => clock.sleep(Duration.millis(Math.floor(Duration.toMillis(duration))))
    }))))

  it.effect("a timer that drops fractions is set once for whole milliseconds, however long the machine has been up", () => {
    const { count, counted } = countingSleeps()
    const dropping = withClock((clock) => ({
      sleep: (duration) => clock.sleep(Duration.millis(Math.trunc(Duration.toMillis(duration))))
    }))
    return Effect.gen(function*() {
      for (let i = 1; i <= 100; i++) {
        if (i % 25 === 0) yield* TestClock.setTime(10 ** (i / 10))
        yield* TestClock.adjust(i * 0.1)
        const fiber = yield* start(Effect.exit(timed(Effect.never, new Timeouts(1000), late)))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      }
      assert.strictEqual(count.all, 100)
    }).pipe(counted, dropping)
  })

  describe("no sleep stays when no call is running", () => {
    for (
      const [name, end] of [
        [
          "after a success",
          (fiber: Fiber.Fiber<unknown>, gate: Deferred.Deferred<void>) =>
            Effect.andThen(Deferred.succeed(gate, undefined), Fiber.await(fiber))
        ],
        ["after an interruption", (fiber: Fiber.Fiber<unknown>) => Fiber.interrupt(fiber)],
        [
          "after the timeout",
          (fiber: Fiber.Fiber<unknown>) => Effect.andThen(TestClock.adjust("1 hour"), Fiber.await(fiber))
        ]
      ] as const
    ) {
      it.effect(name, () => {
        const { count, counted } = countingSleeps()
        return Effect.gen(function*() {
          const gate = yield* Deferred.make<void>()
          const fiber = yield* start(Effect.exit(timed(Deferred.await(gate), new Timeouts(3_600_000), late)))
          assert.strictEqual(count.open, 1)
          yield* end(fiber, gate)
          yield* settle
          assert.strictEqual(count.open, 0)
        }).pipe(counted)
      })
    }

    it.live("and the process may exit, with an hour left", () =>
      Effect.gen(function*() {
        const script = `
          import { Effect } from "effect"
          import { Deadline } from "effect-resilience"
          const call = Effect.sleep(5).pipe(
            Deadline.attempt("1 hour"), Deadline.within("2 hours"), Effect.as("answered")
          )
          console.log(await Effect.runPromise(call))
          const fiber = Effect.runFork(Deadline.attempt(Effect.never, "1 hour"))
          await Effect.runPromise(Effect.exit(Deadline.attempt(Effect.never, 5)))
          fiber.interruptUnsafe()
          process.on("beforeExit", () => console.log(process.getActiveResourcesInfo().filter((name) => name === "Timeout").length))
        `
        // Node ends when no timer holds it. It would not for an hour, which is longer than this test may take.
        const { stdout } = yield* Effect.promise(() =>
          promisify(execFile)(
            process.execPath,
            ["--conditions=effect-resilience-source", "--input-type=module", "--eval", script],
            { cwd: path.resolve(import.meta.dirname, "..") }
          )
        )
        assert.strictEqual(stdout, "answered\n0\n")
      }), 60_000)
  })

  it.effect("no sleep stays that was just beginning when its last call ended, and none is missed that began then", () => {
    const { count, counted } = countingSleeps()
    let meanwhile: () => void = () => undefined
    const disturbed = withClock((clock) => ({
      sleep: (duration) =>
        Effect.suspend(() => {
          const todo = meanwhile
          meanwhile = () => undefined
          todo()
          return clock.sleep(duration)
        })
    }))
    return Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const run = Effect.runForkWith(yield* Effect.context<never>())

      const first = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      yield* TestClock.adjust(400)
      const last = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      // When the sleep for the first is over, one begins for the last, which ends in that very step.
      meanwhile = () => last.interruptUnsafe()
      yield* TestClock.adjust(600)
      assert.deepStrictEqual(first.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      assert.isDefined(last.pollUnsafe())
      yield* settle
      assert.strictEqual(count.open, 0)

      let nested: Fiber.Fiber<Exit.Exit<never, string>> | undefined
      meanwhile = () => {
        nested = run(Effect.exit(timed(Effect.never, timeouts, late)))
      }
      const outer = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      assert.strictEqual(count.open, 1)
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(outer.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      assert.deepStrictEqual(nested?.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      yield* settle
      assert.strictEqual(count.open, 0)
    }).pipe(disturbed, counted)
  })

  describe("a clock that is broken", () => {
    const boom = new Error("no time")

    it.effect("whose time throws when a call first waits: the call is stopped and dies of it", () =>
      Effect.gen(function*() {
        let stopped = false
        const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (stopped = true)))
        const exit = yield* Effect.exit(timed(work, new Timeouts(1000), late))
        assert.deepStrictEqual(exit, Exit.die(boom))
        assert.isTrue(stopped)
      }).pipe(withClock(() => ({
        monotonicTimeNanosUnsafe: () => {
          throw boom
        }
      }))))

    it.effect("whose time throws when a call first waits: the call dies of it also when it takes longer to stop", () => {
      let broken = true
      return Effect.gen(function*() {
        const timeouts = new Timeouts(1000)
        const stopped = yield* Deferred.make<void>()
        const work = Effect.onInterrupt(Effect.never, () => Deferred.await(stopped))
        const context = yield* Effect.context<never>()
        const first = yield* start(Effect.exit(timedIn(context, work, timeouts, late, { startedAt: 0 })))
        broken = false
        const second = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* Fiber.join(second), Exit.fail("late"))
        assert.isUndefined(first.pollUnsafe())
        yield* Deferred.succeed(stopped, undefined)
        assert.deepStrictEqual(yield* Fiber.join(first), Exit.die(boom))
      }).pipe(withClock((clock) => ({
        monotonicTimeNanosUnsafe: () => {
          if (broken) throw boom
          return clock.monotonicTimeNanosUnsafe()
        }
      })))
    })

    it.effect("whose time throws when the time is over: every call ends of it, and later ones are timed", () => {
      let broken = false
      return Effect.gen(function*() {
        const timeouts = new Timeouts(1000)
        const first = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
        const second = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
        broken = true
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* Fiber.join(first), Exit.die(boom))
        assert.deepStrictEqual(yield* Fiber.join(second), Exit.die(boom))
        broken = false
        const third = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(yield* Fiber.join(third), Exit.fail("late"))
      }).pipe(withClock((clock) => ({
        monotonicTimeNanosUnsafe: () => {
          if (broken) throw boom
          return clock.monotonicTimeNanosUnsafe()
        }
      })))
    })

    it.effect("whose time throws once: a call begun by what ended of it has its whole time", () => {
      let broken = false
      return Effect.gen(function*() {
        const timeouts = new Timeouts(1000)
        const call = Effect.exit(timed(Effect.never, timeouts, late))
        const twice = yield* Effect.forEach([1, 2], () => start(Effect.all([call, call])))
        broken = true
        yield* TestClock.adjust(1000)
        for (const fiber of twice) assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(999)
        for (const fiber of twice) assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        for (const fiber of twice) assert.deepStrictEqual(yield* Fiber.join(fiber), [Exit.die(boom), Exit.fail("late")])
      }).pipe(withClock((clock) => ({
        monotonicTimeNanosUnsafe: () => {
          const throws = broken
          broken = false
          if (throws) throw boom
          return clock.monotonicTimeNanosUnsafe()
        }
      })))
    })

    it.effect("whose sleep throws, dies or is interrupted: every call that waits for it ends of it", () =>
      Effect.gen(function*() {
        const ways: ReadonlyArray<readonly [() => Effect.Effect<void>, Exit.Exit<never>]> = [
          [() => {
            throw boom
          }, Exit.die(boom)],
          [() => Effect.die(boom), Exit.die(boom)],
          [() => Effect.andThen(Effect.yieldNow, Effect.die(boom)), Exit.die(boom)],
          [() => Effect.andThen(Effect.yieldNow, Effect.interrupt), Exit.interrupt()]
        ]
        for (const [sleep, expected] of ways) {
          const timeouts = new Timeouts(1000)
          const both = yield* Effect.all(
            [Effect.exit(timed(Effect.never, timeouts, late)), Effect.exit(timed(Effect.never, timeouts, late))],
            { concurrency: "unbounded" }
          ).pipe(withClock(() => ({ sleep })))
          for (const exit of both) {
            assert.isTrue(Exit.isFailure(exit) && Exit.isFailure(expected))
            if (Exit.isFailure(exit) && Exit.isFailure(expected)) {
              assert.deepStrictEqual(exit.cause.reasons.map((r) => r._tag), expected.cause.reasons.map((r) => r._tag))
            }
          }
        }
      }))

    it.effect("whose sleep takes no time: its sleep decides, and nothing turns round for ever", () =>
      Effect.gen(function*() {
        const timeouts = new Timeouts(1000)
        const sleeps: ReadonlyArray<Effect.Effect<void>> = [Effect.void, Effect.yieldNow]
        for (const sleep of sleeps) {
          const exits = yield* Effect.forEach(
            [1, 2, 3],
            () => Effect.exit(timed(Effect.never, timeouts, late)),
            { concurrency: "unbounded" }
          ).pipe(withClock(() => ({ sleep: () => sleep })))
          assert.deepStrictEqual(exits, [Exit.fail("late"), Exit.fail("late"), Exit.fail("late")])
        }
      }))
  })

  describe("schedulers that differ between callers", () => {
    /** Does nothing until it is told. */
    const byHand = (parent: Scheduler.Scheduler) => {
      let tasks: Array<() => void> = []
      const scheduler: Scheduler.Scheduler = {
        executionMode: "async",
        shouldYield: (fiber) => parent.shouldYield(fiber),
        makeDispatcher: () => ({ scheduleTask: (task) => void tasks.push(task), flush: () => undefined })
      }
      return {
        scheduler,
        run: Effect.sync(() => {
          const due = tasks
          tasks = []
          for (const task of due) task()
        })
      }
    }

    it.effect("one that stands still holds up nobody else's timeout, and its own come when it goes on", () =>
      Effect.gen(function*() {
        const timeouts = new Timeouts(1000)
        const slow = byHand(yield* Scheduler.Scheduler)
        const call = Effect.exit(timed(Effect.never, timeouts, late))
        const still = yield* start(Effect.provideService(call, Scheduler.Scheduler, slow.scheduler))
        const normal = yield* start(call)
        yield* TestClock.adjust(1000)
        assert.deepStrictEqual(normal.pollUnsafe(), Exit.succeed(Exit.fail("late")))
        assert.isUndefined(still.pollUnsafe())
        yield* slow.run
        assert.deepStrictEqual(still.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      }).pipe(withClock((clock) => ({ sleep: (duration) => Effect.andThen(clock.sleep(duration), Effect.yieldNow) }))))

    it.effect("a call under Effect.runSync, which cannot wait, fails there and is timed all the same", () =>
      Effect.gen(function*() {
        const context = yield* Effect.context<never>()
        let stopped = false
        const work = Effect.onInterrupt(Effect.never, () => Effect.sync(() => void (stopped = true)))
        assert.throws(() => Effect.runSyncWith(context)(timed(work, new Timeouts(1000), late)))
        yield* TestClock.adjust(1000)
        yield* settle
        assert.isTrue(stopped)
      }))
  })

  it.effect("ends once, whoever stops it how often: the timeout, its end and its caller", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const others = yield* Effect.forEach([1, 2], () => start(Effect.exit(timed(Effect.never, timeouts, late))))
      let results = 0
      // Is stopped by its timeout, takes a while, is interrupted by its caller meanwhile, and then ends.
      const work = Effect.onInterrupt(Effect.never, () => Effect.sleep(500))
      const fiber = yield* timed(work, timeouts, late).pipe(
        Effect.onExit(() => Effect.sync(() => results++)),
        start
      )
      yield* TestClock.adjust(1000)
      const interrupting = yield* start(Fiber.interrupt(fiber))
      yield* TestClock.adjust(500)
      yield* Fiber.join(interrupting)
      assert.strictEqual(results, 1)
      for (const other of others) assert.deepStrictEqual(yield* Fiber.join(other), Exit.fail("late"))
      const next = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      yield* TestClock.adjust(1000)
      assert.deepStrictEqual(yield* Fiber.join(next), Exit.fail("late"))
    }))

  it.effect("a call whose beginning is known counts from there, also after one that was begun inside of it", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const context = yield* Effect.context<never>()
      yield* TestClock.adjust(300)
      const recent = yield* start(Effect.exit(timed(Effect.never, timeouts, late)))
      const earlier = yield* start(Effect.exit(timedIn(context, Effect.never, timeouts, late, { startedAt: 100 })))
      yield* TestClock.adjust(799)
      assert.isUndefined(earlier.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(earlier.pollUnsafe(), Exit.succeed(Exit.fail("late")))
      assert.isUndefined(recent.pollUnsafe())
      yield* TestClock.adjust(200)
      assert.deepStrictEqual(recent.pollUnsafe(), Exit.succeed(Exit.fail("late")))
    }))

  it.effect("an error that throws is a defect of its caller, and an observer that throws costs nobody else his timeout", () =>
    Effect.gen(function*() {
      const timeouts = new Timeouts(1000)
      const boom = new Error("boom")
      const call = Effect.exit(timed(Effect.never, timeouts, late))
      const throwing = yield* start(Effect.exit(timed(Effect.never, timeouts, () => {
        throw boom
      })))
      const run = Effect.runForkWith(yield* Effect.context<never>())
      run(call).addObserver(() => {
        throw boom
      })
      const last = yield* start(call)
      const thrown = yield* Effect.exit(TestClock.adjust(1000))
      assert.deepStrictEqual(thrown, Exit.die(boom))
      assert.deepStrictEqual(throwing.pollUnsafe(), Exit.succeed(Exit.die(boom)))
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(last.pollUnsafe(), Exit.succeed(Exit.fail("late")))
    }))

  describe("a sign of life after the end does nothing", () => {
    for (
      const [name, end] of [
        [
          "after a success",
          (_: Fiber.Fiber<unknown>, gate: Deferred.Deferred<void>) => Deferred.succeed(gate, undefined)
        ],
        ["after an interruption", (fiber: Fiber.Fiber<unknown>) => Fiber.interrupt(fiber)],
        ["after the timeout", () => TestClock.adjust(1000)]
      ] as const
    ) {
      it.effect(name, () => {
        const { count, counted } = countingSleeps()
        return Effect.gen(function*() {
          const gate = yield* Deferred.make<void>()
          const context = yield* Effect.context<never>()
          let beat: () => void = () => undefined
          const onStart = (given: () => void) => void (beat = given)
          const timeouts = new Timeouts(1000)
          const fiber = yield* start(Effect.exit(timedIn(context, Deferred.await(gate), timeouts, late, { onStart })))
          yield* end(fiber, gate)
          yield* Fiber.await(fiber)
          yield* settle
          const { all } = count
          beat()
          assert.deepStrictEqual(count, { open: 0, all })
        }).pipe(counted)
      })
    }
  })

  it.effect("who succeeds while he is stopped for his caller leaves no defect behind", () =>
    Effect.gen(function*() {
      const work = Effect.uninterruptible(Effect.sleep(100))
      const fiber = yield* start(timed(work, new Timeouts(1000), late))
      const interrupting = yield* start(Fiber.interrupt(fiber))
      yield* TestClock.adjust(100)
      yield* Fiber.join(interrupting)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
    }))

  it.effect("tells what its finalizers died of, also to the caller who interrupts it", () =>
    Effect.gen(function*() {
      const work = Effect.onInterrupt(Effect.never, () => Effect.die("finalizer"))
      const fiber = yield* start(timed(work, new Timeouts(1000), late))
      yield* Fiber.interrupt(fiber)
      const exit = yield* Fiber.await(fiber)
      assert.isTrue(Exit.isFailure(exit))
      if (Exit.isFailure(exit)) {
        assert.isTrue(Cause.hasInterrupts(exit.cause))
        assert.deepStrictEqual(exit.cause.reasons.filter(Cause.isDieReason).map((r) => r.defect), ["finalizer"])
      }
    }))
})

const Command = Schema.Struct({
  action: Schema.Literals(["start", "start", "finish", "fail", "interrupt", "beat", "wait", "wait"]),
  which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 9 })),
  millis: Schema.Literals([0.5, 1, 5, 9.5, 10, 11, 25]),
  stopping: Schema.Literals([0, 0, 3, 12])
})

interface Expected {
  readonly at: number
  readonly order: number
  /** It was late, and stopped in the very step: those come in the order of their deadlines. */
  readonly atOnce: boolean
  readonly line: string
}

it.effect.prop(
  "behaves like its model under random calls, ends, interruptions, signs of life and clock moves",
  { commands: Schema.Array(Command).check(Schema.isMinLength(5), Schema.isMaxLength(80)) },
  ({ commands }) => {
    const { count, counted } = countingSleeps()
    return Effect.gen(function*() {
      const timeout = 10
      const timeouts = new Timeouts(timeout)
      const context = yield* Effect.context<never>()
      const begin = yield* now
      const ends: Array<string> = []
      const expected: Array<Expected> = []
      interface Running {
        readonly id: number
        readonly gate: Deferred.Deferred<string, string>
        readonly fiber: Fiber.Fiber<string, string>
        readonly beat: () => void
        readonly stopping: number
        deadline: number
        order: number
      }
      let running: Array<Running> = []
      let clock = 0
      let order = 0
      const endsAt = (call: Running, how: string, at: number) => {
        const atOnce = how === "late" && call.stopping === 0
        expected.push({ at, order: call.order, atOnce, line: `${call.id} ${how} ${at}` })
        running = running.filter((other) => other !== call)
      }
      const pass = (at: number) => {
        for (const call of running.filter((other) => other.deadline <= at)) {
          endsAt(call, "late", call.deadline + call.stopping)
        }
      }

      for (const [id, command] of commands.entries()) {
        const call = running[command.which % Math.max(1, running.length)]
        switch (command.action) {
          case "start": {
            const gate = yield* Deferred.make<string, string>()
            let beat: () => void = () => undefined
            const work = Effect.onInterrupt(Deferred.await(gate), () => Effect.sleep(command.stopping))
            const fiber = yield* timedIn(context, work, timeouts, late, { onStart: (given) => void (beat = given) })
              .pipe(
                Effect.onExit((exit) =>
                  Effect.map(now, (at) => {
                    const how = Exit.isSuccess(exit)
                      ? exit.value
                      : Cause.hasInterrupts(exit.cause)
                      ? "interrupted"
                      : String(Cause.squash(exit.cause))
                    ends.push(`${id} ${how} ${at - begin}`)
                  })
                ),
                start
              )
            const { stopping } = command
            running.push({ id, gate, fiber, beat, stopping, deadline: clock + timeout, order: order++ })
            break
          }
          case "finish":
            if (call === undefined) break
            yield* Deferred.succeed(call.gate, "finished")
            endsAt(call, "finished", clock)
            break
          case "fail":
            if (call === undefined) break
            yield* Deferred.fail(call.gate, "failed")
            endsAt(call, "failed", clock)
            break
          case "interrupt":
            if (call === undefined) break
            yield* start(Fiber.interrupt(call.fiber))
            endsAt(call, "interrupted", clock + call.stopping)
            break
          case "beat":
            if (call === undefined) break
            call.beat()
            call.deadline = clock + timeout
            call.order = order++
            break
          case "wait":
            yield* TestClock.adjust(command.millis)
            clock += command.millis
            pass(clock)
            break
        }
        yield* settle
        if (running.length === 0 && expected.every(({ at }) => at <= clock)) assert.strictEqual(count.open, 0)
      }
      yield* TestClock.adjust("1 minute")
      pass(Infinity)
      assert.deepStrictEqual(ends.toSorted(), expected.map(({ line }) => line).toSorted())
      const inOrder = expected.filter(({ atOnce }) => atOnce).toSorted((a, b) => a.at - b.at || a.order - b.order)
        .map(({ line }) => line)
      assert.deepStrictEqual(ends.filter((line) => inOrder.includes(line)), inOrder)
      yield* settle
      assert.strictEqual(count.open, 0)
    }).pipe(counted, Effect.provide(TestClock.layer()))
  },
  { arbitrary: { runs: runs(300, 20_000), seed: runs(1, 0) || undefined }, timeout: runs(30_000, 1_800_000) }
)

describe("timeoutsOf", () => {
  it.effect("gives everybody who asks for a duration the same, and does not grow with the durations", () =>
    Effect.gen(function*() {
      const first = timeoutsOf(1234)
      assert.strictEqual(timeoutsOf(1234), first)
      const running = yield* start(Effect.exit(timed(Effect.never, first, late)))
      for (let i = 1; i < 1000; i++) timeoutsOf(i / 7)
      assert.notStrictEqual(timeoutsOf(1234), first)
      yield* TestClock.adjust(1234)
      assert.deepStrictEqual(yield* Fiber.join(running), Exit.fail("late"))
    }))
})

it.effect("contexts of different clocks have different queues", () =>
  Effect.gen(function*() {
    const timeouts = new Timeouts(1000)
    const context = yield* Effect.context<never>()
    const other = Context.add(context, Clock.Clock, { ...(yield* TestClock.testClockWith(Effect.succeed)) })
    assert.strictEqual(timeouts.queueIn(context), timeouts.queueIn(context))
    assert.notStrictEqual(timeouts.queueIn(context), timeouts.queueIn(other))
    assert.strictEqual(timeouts.queueIn(other), timeouts.queueIn(other))
  }))
