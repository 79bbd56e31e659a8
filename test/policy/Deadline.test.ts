import { assert, describe, it } from "@effect/vitest"
import {
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Option,
  Queue,
  Ref,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import { Backoff, Deadline, Fault, Retry, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { recordingTracer } from "../recordingTracer.ts"
import { cancelSources, everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"
import { runs } from "../support/runs.ts"

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const listening = () => {
  const events: Array<Telemetry.Event> = []
  return { events, listen: Effect.provideService(Telemetry.Listener, (event) => void events.push(event)) }
}

const second = Duration.seconds(1)

const exceeded = (name: string, after: Duration.Duration, started = true) =>
  new Deadline.DeadlineExceeded({ name, after, started })
const timedOut = (name: string, after: Duration.Duration) => new Deadline.AttemptTimeout({ name, after })
const stalled = (name: string, idle: Duration.Duration) => new Deadline.Stalled({ name, idle })

/** Notes when something happened. */
const journal = () => {
  const lines: Array<string> = []
  const note = (what: string) => Effect.map(Clock.currentTimeMillis, (now) => void lines.push(`${now} ${what}`))
  return { lines, note }
}

type Bounded<E2> = <A, E>(self: Effect.Effect<A, E>) => Effect.Effect<A, E | E2>

/** The guards that stop work after one second, each with the error that it stops it with. */
const guards: ReadonlyArray<{
  readonly name: string
  readonly bound: Bounded<Deadline.DeadlineExceeded | Deadline.AttemptTimeout | Deadline.Stalled>
  readonly error: Deadline.DeadlineExceeded | Deadline.AttemptTimeout | Deadline.Stalled
  readonly event: Telemetry.Event
}> = [
  {
    name: "within",
    bound: Deadline.within(second, { name: "job" }),
    error: exceeded("job", second),
    event: { _tag: "DeadlineExceeded", name: "job", afterMillis: 1000, started: true }
  },
  {
    name: "attempt",
    bound: Deadline.attempt(second, { name: "job" }),
    error: timedOut("job", second),
    event: { _tag: "AttemptTimedOut", name: "job", afterMillis: 1000 }
  },
  {
    name: "watch",
    bound: (self) => Deadline.watch({ idle: second, name: "job" }, () => self),
    error: stalled("job", second),
    event: { _tag: "Stalled", name: "job", idleMillis: 1000 }
  }
]

for (const { bound, error, event, name } of guards) {
  describe(`Deadline.${name}`, () => {
    it.effect("passes on how work ends that ends in time", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const boom = new Error("boom")
        const ends: ReadonlyArray<Effect.Effect<number, string>> = [
          Effect.succeed(1),
          Effect.fail("no"),
          Effect.die(boom),
          Effect.interrupt
        ]
        for (const end of ends) {
          const expected = yield* Effect.exit(end)
          const now = yield* Effect.exit(bound(end))
          const fiber = yield* start(Effect.exit(listen(bound(Effect.andThen(Effect.sleep(999), end)))))
          yield* TestClock.adjust("1 minute")
          for (const exit of [now, yield* Fiber.join(fiber)]) {
            assert.strictEqual(exit._tag, expected._tag)
            if (Exit.isFailure(exit) && Exit.isFailure(expected)) {
              assert.deepStrictEqual(exit.cause.reasons.map((r) => r._tag), expected.cause.reasons.map((r) => r._tag))
              assert.deepStrictEqual(Cause.squash(exit.cause), Cause.squash(expected.cause))
            } else assert.deepStrictEqual(exit, expected)
          }
        }
        assert.deepStrictEqual(events, [])
      }))

    it.effect("stops work that takes too long at its time and not before, and tells", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const fiber = yield* start(Effect.exit(listen(bound(Effect.never))))
        yield* TestClock.adjust(999)
        assert.isUndefined(fiber.pollUnsafe())
        assert.deepStrictEqual(events, [])
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail(error))
        assert.deepStrictEqual(events, [event])
      }))

    it.effect("the timed-out work has stopped before the error is seen, its finalizers and its children's included", () =>
      Effect.gen(function*() {
        const { lines, note } = journal()
        const slowly = (what: string) =>
          Effect.onInterrupt(Effect.never, () => Effect.andThen(Effect.sleep(100), note(what)))
        const work = slowly("grandchild").pipe(
          start,
          Effect.andThen(slowly("child")),
          start,
          Effect.andThen(slowly("work"))
        )
        const fiber = yield* bound(work).pipe(Effect.catch(() => note("seen")), start)
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(lines, ["1100 work", "1200 child", "1300 grandchild", "1300 seen"])
      }))

    it.effect("finishing at the very tick gives exactly one result", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        // The work's timer is set before the guard's, and after it.
        const works: ReadonlyArray<Effect.Effect<string>> = [
          Effect.as(Effect.sleep(1000), "done"),
          Effect.as(Effect.andThen(Effect.sleep(500), Effect.sleep(500)), "done")
        ]
        for (const work of works) {
          let results = 0
          const fiber = yield* listen(bound(work)).pipe(
            Effect.exit,
            Effect.tap(() => Effect.sync(() => results++)),
            start
          )
          yield* TestClock.adjust("1 minute")
          const exit = yield* Fiber.join(fiber)
          assert.strictEqual(results, 1)
          const timeouts = events.splice(0).length
          if (Exit.isSuccess(exit)) assert.deepStrictEqual([exit.value, timeouts], ["done", 0])
          else assert.deepStrictEqual([exit, timeouts], [Exit.fail(error), 1])
        }
      }))

    it.effect("work that cannot be interrupted is waited for: it has ended when the error is seen", () =>
      Effect.gen(function*() {
        const { lines, note } = journal()
        const work = Effect.uninterruptible(Effect.andThen(Effect.sleep(5000), note("written")))
        const fiber = yield* bound(work).pipe(Effect.catch(() => note("seen")), start)
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(lines, ["5000 written", "5000 seen"])
      }))

    it.effect("where it ends by itself with a failure, that failure is handed on", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const own = Effect.sleep(5000).pipe(Effect.andThen(Effect.fail("own failure")), Effect.uninterruptible)
        const fiber = yield* start(Effect.exit(listen(bound(own))))
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual<Exit.Exit<unknown, unknown>>(yield* Fiber.join(fiber), Exit.fail("own failure"))
        assert.deepStrictEqual(events, [])
      }))

    it.effect("what its finalizers die of is kept beside the error, and is not retried", () =>
      Effect.gen(function*() {
        let calls = 0
        const work = Effect.suspend(() => {
          calls++
          return Effect.onInterrupt(Effect.never, () => Effect.die("finalizer"))
        })
        const fiber = yield* bound(work).pipe(
          Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: 1 }) })),
          Effect.exit,
          start
        )
        yield* TestClock.adjust("1 minute")
        const exit = yield* Fiber.join(fiber)
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) {
          assert.deepStrictEqual(exit.cause.reasons.filter(Cause.isFailReason).map((r) => r.error), [error])
          assert.deepStrictEqual(exit.cause.reasons.filter(Cause.isDieReason).map((r) => r.defect), ["finalizer"])
          assert.isFalse(Cause.hasInterrupts(exit.cause))
        }
        assert.strictEqual(calls, 1)
      }))

    it.effect("stops work inside an uninterruptible region, too, which its caller's cancellation does not", () =>
      Effect.gen(function*() {
        const { lines, note } = journal()
        const fiber = yield* Effect.never.pipe(
          bound,
          Effect.catch(() => note("stopped")),
          Effect.uninterruptible,
          start
        )
        yield* TestClock.adjust(500)
        const canceller = yield* start(Fiber.interrupt(fiber))
        yield* TestClock.adjust(499)
        assert.isUndefined(canceller.pollUnsafe())
        yield* TestClock.adjust(1)
        yield* Fiber.join(canceller)
        assert.deepStrictEqual(lines, ["1000 stopped"])
      }))

    describe("the caller's cancellation is a cancellation and no timeout", () => {
      const cancelled = (fiber: Fiber.Fiber<unknown, unknown>, events: ReadonlyArray<Telemetry.Event>) =>
        Effect.map(Fiber.await(fiber), (exit) => {
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause), String(exit))
          assert.deepStrictEqual(events, [])
        })

      it.effect("before the time is over", () =>
        Effect.gen(function*() {
          const { events, listen } = listening()
          const fiber = yield* start(listen(bound(Effect.never)))
          yield* TestClock.adjust(999)
          yield* Fiber.interrupt(fiber)
          yield* TestClock.adjust(1000)
          yield* cancelled(fiber, events)
        }))

      it.effect("at the same tick, when it comes first", () =>
        Effect.gen(function*() {
          const { events, listen } = listening()
          const held = yield* Deferred.make<Fiber.Fiber<unknown, unknown>>()
          const canceller = yield* start(
            Effect.andThen(Effect.sleep(1000), Effect.flatMap(Deferred.await(held), (fiber) => Fiber.interrupt(fiber)))
          )
          const fiber = yield* start(listen(bound(Effect.never)))
          yield* Deferred.succeed(held, fiber)
          yield* TestClock.adjust(1000)
          yield* Fiber.join(canceller)
          yield* cancelled(fiber, events)
        }))

      it.effect("at the same tick, when it comes last and the work is not yet stopped", () =>
        Effect.gen(function*() {
          const { events, listen } = listening()
          const { lines, note } = journal()
          const work = Effect.onInterrupt(Effect.never, () => Effect.andThen(Effect.sleep(100), note("stopped")))
          const fiber = yield* start(listen(bound(work)))
          const canceller = yield* start(Effect.andThen(Effect.sleep(1000), Fiber.interrupt(fiber)))
          yield* TestClock.adjust(1099)
          assert.isUndefined(fiber.pollUnsafe())
          assert.isUndefined(canceller.pollUnsafe())
          yield* TestClock.adjust(1)
          yield* Fiber.join(canceller)
          yield* cancelled(fiber, events)
          assert.deepStrictEqual(lines, ["1100 stopped"])
        }))

      it.effect("at the same tick, when it comes last and the work is stopped: it was a timeout, once", () =>
        Effect.gen(function*() {
          const { events, listen } = listening()
          const fiber = yield* start(Effect.exit(listen(bound(Effect.never))))
          const canceller = yield* start(Effect.andThen(Effect.sleep(1000), Fiber.interrupt(fiber)))
          yield* TestClock.adjust(1000)
          yield* Fiber.join(canceller)
          assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.succeed(Exit.fail(error)))
          assert.deepStrictEqual(events, [event])
        }))

      it.effect("while the work is being stopped, and the work is waited for", () =>
        Effect.gen(function*() {
          const { events, listen } = listening()
          const fiber = yield* start(listen(bound(Effect.onInterrupt(Effect.never, () => Effect.sleep(500)))))
          yield* TestClock.adjust(1200)
          const canceller = yield* start(Fiber.interrupt(fiber))
          yield* TestClock.adjust(299)
          assert.isUndefined(canceller.pollUnsafe())
          yield* TestClock.adjust(1)
          yield* Fiber.join(canceller)
          yield* cancelled(fiber, events)
        }))

      it.effect("whoever cancels, the work has stopped when the canceller comes back", () =>
        everyCancelSource({
          arrange: Effect.sync(() => {
            let running = 0
            const work = Effect.acquireUseRelease(
              Effect.sync(() => running++),
              () => Effect.never,
              () => Effect.andThen(Effect.sleep(50), Effect.sync(() => running--))
            )
            return { effect: bound(work), check: () => Effect.sync(() => assert.strictEqual(running, 0)) }
          }),
          sources: [
            ...cancelSources,
            { name: "a deadline", cancel: (self, after) => Deadline.within(self, after) },
            { name: "an attempt's timeout", cancel: (self, after) => Deadline.attempt(self, after) },
            { name: "a silence", cancel: (self, after) => Deadline.watch({ idle: after }, () => self) }
          ]
        }))

      it.effect(
        "at whatever step, nothing is left over: no fiber, no sleep, no resource, no second result",
        () =>
          Effect.gen(function*() {
            const arrange = (stops: boolean) =>
              Effect.sync(() => {
                let running = 0
                let results = 0
                const { events, listen } = listening()
                const work = Effect.acquireUseRelease(
                  Effect.sync(() => running++),
                  () => stops ? Effect.never : Effect.sleep(500),
                  () => Effect.andThen(Effect.sleep(50), Effect.sync(() => running--))
                )
                return {
                  effect: Effect.onExit(listen(bound(work)), () => Effect.sync(() => results++)),
                  check: (exit: Exit.Exit<unknown, unknown>) =>
                    Effect.sync(() => {
                      assert.strictEqual(running, 0)
                      assert.isAtMost(results, 1)
                      const interrupted = Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
                      if (!interrupted) assert.deepStrictEqual(exit, stops ? Exit.fail(error) : Exit.succeed(undefined))
                      if (!stops) assert.deepStrictEqual(events, [])
                      if (stops && !interrupted) assert.deepStrictEqual(events, [event])
                    })
                }
              })
            yield* interruptEverywhere({ arrange: arrange(true) })
            yield* interruptEverywhere({ arrange: arrange(false) })
          }),
        60_000
      )
    })

    it.effect("services, spans and references of the caller are there inside, and attributes reach the caller's span", () =>
      Effect.gen(function*() {
        class Service extends Context.Service<Service, string>()("test/Service") {}
        const { spans, tracer } = recordingTracer()
        const inside = Effect.gen(function*() {
          yield* Effect.yieldNow
          yield* Effect.annotateCurrentSpan("inside", "yes")
          const context = yield* Effect.context<Service>()
          return [Context.get(context, Service), yield* Fault.Idempotent, (yield* Effect.currentSpan).name] as const
        })
        const seen = yield* Effect.contextWith((context: Context.Context<Service>) =>
          bound(Effect.provideContext(inside, context))
        ).pipe(
          Effect.withSpan("caller"),
          Effect.withTracer(tracer),
          Effect.provideService(Service, "given"),
          Fault.idempotent
        )
        assert.deepStrictEqual(seen, ["given", true, "caller"])
        assert.deepStrictEqual(spans.map((span) => [span.name, span.attributes.get("inside")]), [["caller", "yes"]])
      }))

    it.effect("keeps the caller's scope: what is acquired inside is released with it", () =>
      Effect.gen(function*() {
        const { lines, note } = journal()
        const scope = yield* Scope.make()
        const resource = Effect.acquireRelease(note("acquired"), () => note("released"))
        yield* Effect.contextWith((context: Context.Context<Scope.Scope>) =>
          bound(Effect.provideContext(resource, context))
        ).pipe(Effect.provideService(Scope.Scope, scope))
        yield* note("after")
        yield* Scope.close(scope, Exit.void)
        assert.deepStrictEqual(lines, ["0 acquired", "0 after", "0 released"])
      }))

    it.effect("works the same for every call of one guard, also for calls at once", () =>
      Effect.gen(function*() {
        const fibers: Array<Fiber.Fiber<Exit.Exit<never, unknown>>> = []
        for (let i = 0; i < 3; i++) {
          fibers.push(yield* start(Effect.exit(bound(Effect.never))))
          yield* TestClock.adjust(400)
        }
        yield* TestClock.adjust(600)
        for (const fiber of fibers) assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(Exit.fail(error)))
      }))
  })
}

describe("Deadline.within", () => {
  it.effect("bounds everything inside: tries, delays and queues", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const policy = Retry.policy({ backoff: Backoff.constant({ delay: "1 second" }), maxAttempts: 100 })
      const busy = Effect.andThen(
        note("try"),
        Effect.andThen(Effect.sleep(700), Effect.fail({ [Fault.verdictOf]: Fault.transient }))
      )
      const trying = yield* busy.pipe(Retry.apply(policy), Deadline.within("2 seconds"), Effect.flip, start)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(trying), exceeded("deadline", Duration.seconds(2)))
      assert.deepStrictEqual(lines, ["0 try", "1700 try"])

      const queue = yield* Queue.unbounded<string>()
      const waiting = yield* Queue.take(queue).pipe(Deadline.within("2 seconds"), Effect.flip, start)
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* Fiber.join(waiting), exceeded("deadline", Duration.seconds(2)))
      // nobody waits there any more
      yield* Queue.offer(queue, "for the next")
      assert.strictEqual(yield* Queue.take(queue), "for the next")
    }))

  it.effect("a retry that does not fit is not waited for, and the last real error is what the caller gets", () =>
    Effect.gen(function*() {
      const { events, listen } = listening()
      const down = { [Fault.verdictOf]: Fault.transient }
      const policy = Retry.policy({ backoff: Backoff.constant({ delay: "5 seconds" }) })
      const error = yield* Effect.fail(down).pipe(
        Retry.apply(policy),
        Deadline.within("5 seconds"),
        Effect.flip,
        listen
      )
      assert.strictEqual(error, down)
      assert.deepStrictEqual(events, [
        { _tag: "RetryGaveUp", policy: "retry", attempts: 1, verdict: "Transient", reason: "Deadline" }
      ])
    }))

  it.effect("starts nothing when nothing remains, and says so", () =>
    Effect.gen(function*() {
      const { events, listen } = listening()
      const { spans, tracer } = recordingTracer()
      let started = 0
      const work = Effect.sync(() => started++)
      const none = yield* work.pipe(
        Deadline.within(0, { name: "none" }),
        Effect.flip,
        Effect.withSpan("caller"),
        Effect.withTracer(tracer),
        listen
      )
      assert.deepStrictEqual(none, exceeded("none", Duration.zero, false))
      assert.deepStrictEqual(Array.from(spans[0]?.attributes ?? []), [
        ["deadline.name", "none"],
        ["deadline.after_millis", 0],
        ["deadline.started", false]
      ])
      // Work that the outer deadline cannot stop comes to an inner one when the outer one is over.
      const errors: Array<Deadline.DeadlineExceeded> = []
      const inner = Deadline.within(work, "1 hour", { name: "inner" }).pipe(
        Effect.catch((error) => Effect.sync(() => errors.push(error)))
      )
      const outer = yield* Effect.sleep(1500).pipe(
        Effect.andThen(inner),
        Effect.uninterruptible,
        Deadline.within("1 second", { name: "outer" }),
        Effect.exit,
        listen,
        start
      )
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(outer), Exit.fail(exceeded("outer", second)))
      assert.deepStrictEqual(errors, [exceeded("inner", Duration.hours(1), false)])
      assert.strictEqual(started, 0)
      assert.deepStrictEqual(events, [
        { _tag: "DeadlineExceeded", name: "none", afterMillis: 0, started: false },
        { _tag: "DeadlineExceeded", name: "inner", afterMillis: 3_600_000, started: false },
        { _tag: "DeadlineExceeded", name: "outer", afterMillis: 1000, started: true }
      ])
    }))

  it.effect("an inner deadline that would end later, or at the same time, sets no timer of its own", () =>
    Effect.gen(function*() {
      let sleeps = 0
      const clock = yield* TestClock.testClockWith(Effect.succeed)
      const counting: TestClock.TestClock = {
        ...clock,
        sleep: (duration) => {
          sleeps++
          return clock.sleep(duration)
        }
      }
      const inner = (duration: Duration.Input) =>
        Effect.never.pipe(Deadline.within(duration, { name: "inner" }), Deadline.within("1 second", { name: "outer" }))
      for (const duration of ["1 second", "1001 millis", "1 hour"] as const) {
        sleeps = 0
        const fiber = yield* inner(duration).pipe(Effect.exit, Effect.provideService(Clock.Clock, counting), start)
        assert.strictEqual(sleeps, 1)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail(exceeded("outer", second)))
      }
    }))

  it.effect("the outer one's error is what its caller gets, and nothing inside can catch it", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const inside = Effect.never.pipe(
        Deadline.within("1 hour", { name: "inner" }),
        Effect.catchTag("DeadlineExceeded", () => Effect.andThen(note("caught inside"), Effect.never)),
        Effect.onInterrupt(() => note("interrupted inside"))
      )
      const fiber = yield* inside.pipe(
        Deadline.within("1 second", { name: "outer" }),
        Effect.catchTag("DeadlineExceeded", (error) => note(`${error.name} caught outside`)),
        start
      )
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(lines, ["1000 interrupted inside", "1000 outer caught outside"])
    }))

  it.effect("an inner one that ends earlier is the inner caller's, and the outer time goes on", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const inner = Effect.never.pipe(
        Deadline.within("400 millis", { name: "inner" }),
        Effect.catchTag("DeadlineExceeded", (error) => note(error.name))
      )
      const fiber = yield* inner.pipe(
        Effect.forever,
        Deadline.within("1 second", { name: "outer" }),
        Effect.catchTag("DeadlineExceeded", (error) => note(error.name)),
        start
      )
      yield* TestClock.adjust("1 hour")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(lines, ["400 inner", "800 inner", "1000 outer"])
    }))

  const Level = Schema.Struct({
    before: Schema.Literals([0, 1, 10, 50]),
    duration: Schema.Literals([0, 1, 40, 50, 60, 100, 200])
  })

  it.effect("counts what the work takes before it first waits, and stops it when nothing is left", () =>
    TestClock.testClockWith((clock) => {
      let computed = 0
      const computing = {
        ...clock,
        monotonicTimeNanosUnsafe: () => clock.monotonicTimeNanosUnsafe() + BigInt(computed) * 1_000_000n
      }
      return Effect.gen(function*() {
        const work = Effect.gen(function*() {
          computed = 400
          assert.deepStrictEqual(yield* Deadline.remaining, Option.some(Duration.millis(600)))
          return yield* Effect.never
        })
        const fiber = yield* start(Effect.exit(Deadline.within(work, second, { name: "job" })))
        yield* TestClock.adjust(599)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(fiber.pollUnsafe(), Exit.succeed(Exit.fail(exceeded("job", second))))
      }).pipe(Effect.provideService(Clock.Clock, computing))
    }))

  it.effect.prop(
    "nested deadlines take the minimum, in any order and over many levels",
    {
      levels: Schema.Array(Level).check(Schema.isMinLength(1), Schema.isMaxLength(8)),
      work: Schema.Literals([0, 5, 45, 90, 300])
    },
    ({ levels, work }) =>
      Effect.gen(function*() {
        const begin = yield* Clock.currentTimeMillis
        const seen: Array<string> = []
        let started = false
        const job = Effect.andThen(Effect.sync(() => void (started = true)), Effect.sleep(work))
        const nested = levels.reduceRight<Effect.Effect<void, Deadline.DeadlineExceeded>>(
          (inside, level, i) =>
            Effect.andThen(
              Effect.sleep(level.before),
              inside.pipe(
                Deadline.within(level.duration, { name: String(i) }),
                Effect.tapError((error) => Effect.sync(() => seen.push(`${error.name} at ${i}`)))
              )
            ),
          job
        )
        const fiber = yield* nested.pipe(
          Effect.exit,
          Effect.flatMap((exit) => Effect.map(Clock.currentTimeMillis, (now) => [exit, now - begin] as const)),
          start
        )
        yield* TestClock.adjust("1 hour")
        const [exit, at] = yield* Fiber.join(fiber)

        // The model: walk inwards, and see which end comes first.
        let now = 0
        let end = Infinity
        let holder = -1
        let refused = -1
        for (const [i, level] of levels.entries()) {
          now += level.before
          if (now > end) break
          if (level.duration === 0 || now === end) {
            refused = i
            break
          }
          if (now + level.duration < end) {
            end = now + level.duration
            holder = i
          }
        }
        const ready = refused === -1 && now < end
        const name = Exit.isFailure(exit)
          ? exit.cause.reasons.filter(Cause.isFailReason).map((reason) => reason.error.name).join()
          : undefined
        if (ready && now + work < end) assert.deepStrictEqual([name, at, started], [undefined, now + work, true])
        else if (ready && now + work > end) assert.deepStrictEqual([name, at, started], [String(holder), end, true])
        else if (ready) {
          // at the very tick: one or the other, and never both
          assert.include([undefined, String(holder)], name)
          assert.strictEqual(at, end)
        } else {
          assert.isFalse(started)
          // coming to an inner deadline at the very tick: either it refuses, or the outer one is faster
          assert.include(
            [refused === -1 ? undefined : String(refused), holder === -1 ? undefined : String(holder)],
            name
          )
          assert.strictEqual(at, Math.min(now, end))
        }
        // Who it is the error of, and everybody around, see it; nobody inside does.
        const from = name === undefined ? -1 : Number(name)
        assert.deepStrictEqual(seen, Array.from({ length: from + 1 }, (_, i) => `${from} at ${from - i}`))
      }),
    {
      arbitrary: { runs: runs(300, 20_000), seed: runs(1, 0) || undefined },
      timeout: runs(30_000, 1_800_000)
    }
  )

  it.effect("a bad duration or name is refused when the guard is built", () =>
    Effect.gen(function*() {
      const wrong: ReadonlyArray<readonly [() => unknown, string]> = [
        [() => Deadline.within(-1), "Deadline.within: option \"duration\""],
        [() => Deadline.within(Infinity), "Deadline.within: option \"duration\""],
        [() => Deadline.within(Number.NaN), "Deadline.within: option \"duration\""],
        [() => Deadline.within(1, { name: "" }), "Deadline.within: option \"name\""],
        [() => Deadline.attempt(0), "Deadline.attempt: option \"duration\""],
        [() => Deadline.attempt(Infinity), "Deadline.attempt: option \"duration\""],
        [() => Deadline.attempt(1, { name: "" }), "Deadline.attempt: option \"name\""],
        [() => Deadline.stall(Stream.empty, 0), "Deadline.stall: option \"idle\""],
        [() => Deadline.stall(-1), "Deadline.stall: option \"idle\""],
        [() => Deadline.stall(1, { name: "" }), "Deadline.stall: option \"name\""],
        [() => Deadline.watch({ idle: 0 }, () => Effect.void), "Deadline.watch: option \"idle\""],
        [() => Deadline.watch({ name: "" }, () => Effect.void), "Deadline.watch: option \"name\""]
      ]
      for (const [build, message] of wrong) {
        const thrown = yield* Effect.flip(Effect.try({ try: build, catch: (error) => error }))
        assert.instanceOf(thrown, Fault.InvalidConfig)
        assert.include(String(thrown), message)
      }
    }))

  it.effect("works in both call styles, with a default name", () =>
    Effect.gen(function*() {
      const calls: ReadonlyArray<Effect.Effect<void, unknown>> = [
        Deadline.within(Effect.never, 1),
        Effect.never.pipe(Deadline.within(1)),
        Deadline.attempt(Effect.never, 1),
        Effect.never.pipe(Deadline.attempt(1)),
        Stream.runDrain(Deadline.stall(Stream.never, 1)),
        Stream.runDrain(Stream.never.pipe(Deadline.stall(1))),
        Deadline.watch({ idle: 1 }, () => Effect.never)
      ]
      const fibers = yield* Effect.forEach(calls, (call) => start(Effect.flip(call)))
      yield* TestClock.adjust(1)
      const one = Duration.millis(1)
      assert.deepStrictEqual<ReadonlyArray<unknown>>(yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber)), [
        exceeded("deadline", one),
        exceeded("deadline", one),
        timedOut("attempt", one),
        timedOut("attempt", one),
        stalled("stream", one),
        stalled("stream", one),
        stalled("work", one)
      ])
    }))
})

describe("the time that is left", () => {
  it.effect("is none without a deadline, falls, and is the nearest deadline's", () =>
    Effect.gen(function*() {
      const left = Effect.map(Deadline.remaining, Option.map(Duration.toMillis))
      assert.deepStrictEqual(yield* left, Option.none())
      assert.strictEqual(Deadline.remainingIn(yield* Effect.context<never>()), Infinity)
      const fiber = yield* Effect.gen(function*() {
        const seen = [yield* left]
        yield* Effect.sleep(300)
        seen.push(yield* left)
        seen.push(yield* Deadline.within(left, "100 millis"))
        seen.push(yield* Deadline.within(left, "1 hour"))
        seen.push(yield* Effect.flatMap(start(Effect.andThen(Effect.sleep(100), left)), Fiber.join))
        seen.push(yield* Deadline.attempt(left, "1 millis"))
        return seen
      }).pipe(Deadline.within("1 second"), start)
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(fiber), [1000, 700, 100, 700, 600, 600].map(Option.some))
    }))

  it.effect("is nothing in the finalizers of what was stopped, and unbounded where they say so", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const tell = Effect.flatMap(
        Deadline.remaining,
        (left) => note(Option.match(left, { onNone: () => "unbounded", onSome: Duration.format }))
      )
      const work = Effect.onInterrupt(Effect.never, () =>
        tell.pipe(
          Effect.andThen(Effect.sleep(1)),
          Effect.andThen(tell),
          Effect.andThen(Deadline.unbounded(tell)),
          Effect.andThen(Deadline.unbounded(Effect.exit(Deadline.within(Effect.never, 10))))
        ))
      const fiber = yield* work.pipe(Deadline.within("1 second"), Effect.exit, start)
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(lines, ["1000 0", "1001 0", "1001 unbounded"])
    }))

  it.effect("unbounded takes work out of what guards think, and a deadline waits for it where it is uninterruptible", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const policy = Retry.policy({ backoff: Backoff.constant({ delay: "1 second" }), maxAttempts: 3 })
      const busy = Effect.andThen(note("write"), Effect.fail({ [Fault.verdictOf]: Fault.transient }))
      const write = Effect.ignore(Retry.apply(busy, policy))
      const fiber = yield* Effect.uninterruptible(Deadline.unbounded(write)).pipe(
        Deadline.within("500 millis"),
        Effect.exit,
        start
      )
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail(exceeded("deadline", Duration.millis(500))))
      assert.deepStrictEqual(lines, ["0 write", "1000 write", "2000 write"])
    }))

  it.effect("what outlives the call keeps its deadline, unless it is unbounded", () =>
    Effect.gen(function*() {
      const seen = yield* Ref.make<ReadonlyArray<boolean>>([])
      const later = Effect.flatMap(
        Effect.andThen(Effect.sleep("1 minute"), Deadline.remaining),
        (left) => Ref.update(seen, (all) => [...all, Option.isSome(left)])
      )
      yield* Effect.all([Effect.forkDetach(later), Effect.forkDetach(Deadline.unbounded(later))]).pipe(
        Deadline.within("1 second")
      )
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Ref.get(seen), [true, false])
    }))
})

describe("the errors", () => {
  it.effect("say what they mean to a retry, a circuit and a fallback", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Fault.classify(exceeded("job", second, true)), Fault.timedOut)
      assert.deepStrictEqual(yield* Fault.classify(exceeded("job", second, false)), Fault.rejected())
      assert.deepStrictEqual(yield* Fault.classify(timedOut("job", second)), Fault.timedOut)
      assert.deepStrictEqual(yield* Fault.classify(stalled("job", second)), Fault.timedOut)
    }))

  it("say what happened, to what, and what to do", () => {
    assert.strictEqual(
      exceeded("job", second, true).message,
      "Deadline \"job\" was over after 1s and the work was stopped: " +
        "look up how far it got before it is repeated, or allow more time"
    )
    assert.strictEqual(
      exceeded("job", second, false).message,
      "Deadline \"job\" found no time left and started nothing: begin earlier, or allow more time around it"
    )
    assert.strictEqual(
      timedOut("job", second).message,
      "Attempt of \"job\" took longer than 1s and was stopped: try again, or allow more time"
    )
    assert.strictEqual(
      stalled("job", second).message,
      "Nothing came from \"job\" for 1s and it was stopped: try again, or allow longer silences"
    )
  })

  it.effect("survive a journal", () =>
    Effect.gen(function*() {
      const All = Schema.Union([Deadline.DeadlineExceeded, Deadline.AttemptTimeout, Deadline.Stalled])
      for (const error of [exceeded("a", second), timedOut("b", second), stalled("c", second)]) {
        const json: unknown = JSON.parse(JSON.stringify(yield* Schema.encodeEffect(All)(error)))
        assert.deepStrictEqual(yield* Schema.decodeUnknownEffect(All)(json), error)
      }
    }))
})

describe("Deadline.attempt", () => {
  it.effect("gives a guard of one parameter, which can be handed to map", () =>
    Effect.gen(function*() {
      const waits = ["1 second", "2 seconds"] as const
      const fiber = yield* Effect.forkChild(
        Effect.all(waits.map((wait) => Effect.as(Effect.sleep(wait), wait)).map(Deadline.attempt("5 seconds")))
      )
      yield* TestClock.adjust("3 seconds")
      assert.deepStrictEqual(yield* Fiber.join(fiber), ["1 second", "2 seconds"])
    }))

  it.effect("is a fault that Retry tries again, each try with its whole time", () =>
    Effect.gen(function*() {
      const { events, listen } = listening()
      let tries = 0
      const call = Effect.suspend(() => ++tries < 3 ? Effect.never : Effect.as(Effect.sleep(900), tries))
      const fiber = yield* call.pipe(
        Deadline.attempt("1 second", { name: "model" }),
        Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: "1 second" }) })),
        listen,
        start
      )
      yield* TestClock.adjust(4899)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* Fiber.join(fiber), 3)
      assert.deepStrictEqual(events.map(({ _tag }) => _tag), [
        "AttemptTimedOut",
        "RetryScheduled",
        "AttemptTimedOut",
        "RetryScheduled"
      ])
    }))

  it.effect("within a deadline, whichever is over first stops the work", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const call = (timeout: Duration.Input) =>
        Effect.never.pipe(
          Deadline.attempt(timeout),
          Deadline.within("1 second"),
          Effect.catch(({ _tag }) => note(_tag)),
          start
        )
      const fibers = [yield* call("999 millis"), yield* call("1001 millis")]
      yield* TestClock.adjust("1 minute")
      yield* Effect.forEach(fibers, (fiber) => Fiber.join(fiber))
      assert.deepStrictEqual(lines, ["999 AttemptTimeout", "1000 DeadlineExceeded"])
    }))

  it.effect("puts its name and time on the span around", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      const fiber = yield* Effect.never.pipe(
        Deadline.attempt("1 second", { name: "model" }),
        Effect.exit,
        Effect.withSpan("caller"),
        Effect.withTracer(tracer),
        start
      )
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(Array.from(spans[0]?.attributes ?? []), [
        ["attempt.name", "model"],
        ["attempt.timeout_millis", 1000]
      ])
    }))
})

describe("Deadline.watch", () => {
  it.effect("lets work go on for as long as it says that it is alive, and stops it at the end of the silence", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const fiber = yield* Deadline.watch({ idle: "1 second", name: "import" }, (beat) =>
        Effect.gen(function*() {
          for (let i = 0; i < 5; i++) {
            yield* Effect.sleep(999)
            yield* beat
          }
          return yield* Effect.never
        })).pipe(Effect.catchTag("Stalled", (error) => note(error.name)), start)
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(lines, [`${5 * 999 + 1000} import`])
    }))

  it.effect("hears a beat from any fiber, and before the work first waits, and after its end without harm", () =>
    Effect.gen(function*() {
      let kept: Effect.Effect<void> = Effect.die("not kept")
      const fiber = yield* Deadline.watch({ idle: "1 second" }, (beat) => {
        kept = beat
        return beat.pipe(
          Effect.andThen(start(Effect.forever(Effect.andThen(Effect.sleep(900), beat)))),
          Effect.andThen(Effect.sleep("10 seconds")),
          Effect.as("done")
        )
      }).pipe(start)
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* Fiber.join(fiber), "done")
      yield* kept

      const silent = yield* start(Effect.exit(Deadline.watch({ idle: "1 second" }, (beat) => {
        kept = beat
        return Effect.onInterrupt(Effect.never, () => Effect.andThen(beat, Effect.sleep("5 seconds")))
      })))
      yield* TestClock.adjust("1 second")
      yield* kept
      yield* TestClock.adjust("5 seconds")
      assert.deepStrictEqual(yield* Fiber.join(silent), Exit.fail(stalled("work", second)))
      yield* kept
    }))

  it.effect("allows 30 seconds of silence by default, and starts its work when it is run", () =>
    Effect.gen(function*() {
      let started = 0
      const watched = Deadline.watch({}, () => {
        started++
        return Effect.never
      })
      assert.strictEqual(started, 0)
      const fiber = yield* start(Effect.exit(watched))
      yield* TestClock.adjust(29_999)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.fail(stalled("work", Duration.seconds(30))))
      assert.strictEqual(started, 1)
    }))
})

describe("Deadline.stall", () => {
  const parts = (...delays: ReadonlyArray<number>) =>
    Stream.fromIterable(delays).pipe(
      Stream.mapEffect((delay) => Effect.as(Effect.sleep(delay), delay)),
      Stream.rechunk(1)
    )

  const collect = <A, E>(stream: Stream.Stream<A, E>) => {
    const seen: Array<A> = []
    return Effect.map(
      Effect.exit(Stream.runForEach(stream, (part) => Effect.sync(() => seen.push(part)))),
      (exit) => [seen, exit] as const
    )
  }

  it.effect("passes on every part and the end of a stream that never stands still for too long", () =>
    Effect.gen(function*() {
      const fiber = yield* start(collect(parts(999, 999, 0, 999).pipe(Deadline.stall("1 second"))))
      const failing = yield* start(
        collect(Stream.concat(parts(999), Stream.fail("own")).pipe(Deadline.stall("1 second")))
      )
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* Fiber.join(fiber), [[999, 999, 0, 999], Exit.void])
      assert.deepStrictEqual<unknown>(yield* Fiber.join(failing), [[999], Exit.fail("own")])
      assert.deepStrictEqual(yield* collect(Deadline.stall(Stream.empty)), [[], Exit.void])
      assert.deepStrictEqual((yield* collect(Deadline.stall(Stream.range(1, 10_000))))[0].length, 10_000)
    }))

  it.effect("fails at the end of the silence, with what came before it passed on, and tells", () =>
    Effect.gen(function*() {
      const { events, listen } = listening()
      const fiber = yield* start(
        listen(collect(parts(500, 700, 1001, 1).pipe(Deadline.stall("1 second", { name: "model" }))))
      )
      yield* TestClock.adjust(2199)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust(1)
      assert.deepStrictEqual<unknown>(yield* Fiber.join(fiber), [[500, 700], Exit.fail(stalled("model", second))])
      assert.deepStrictEqual(events, [{ _tag: "Stalled", name: "model", idleMillis: 1000 }])
    }))

  it.effect("counts from the opening of the stream, also while it is being opened, 30 seconds by default", () =>
    Effect.gen(function*() {
      const opening = "30 seconds"
      const silent: ReadonlyArray<Stream.Stream<never>> = [
        Stream.never,
        Stream.unwrap(Effect.never),
        Stream.fromEffect(Effect.never),
        Stream.fromPull(Effect.never),
        Stream.callback<never>(() => Effect.never)
      ]
      for (const stream of silent) {
        const fiber = yield* start(collect(Deadline.stall(stream)))
        yield* TestClock.adjust(29_999)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.deepStrictEqual<unknown>(yield* Fiber.join(fiber), [
          [],
          Exit.fail(stalled("stream", Duration.fromInputUnsafe(opening)))
        ])
      }
    }))

  it.effect("the time that the consumer takes between two parts is not silence", () =>
    Effect.gen(function*() {
      const slow = yield* parts(900, 900, 900).pipe(
        Deadline.stall("1 second"),
        Stream.mapEffect((part) => Effect.as(Effect.sleep("1 hour"), part)),
        Stream.runCollect,
        start
      )
      yield* TestClock.adjust("4 hours")
      assert.deepStrictEqual(yield* Fiber.join(slow), [900, 900, 900])
    }))

  it.effect("the source has been interrupted and closed before the error is seen", () =>
    Effect.gen(function*() {
      const { lines, note } = journal()
      const source = Stream.unwrap(
        Effect.as(
          Effect.acquireRelease(note("opened"), () => Effect.andThen(Effect.sleep(50), note("closed"))),
          Stream.fromEffect(Effect.onInterrupt(Effect.never, () => Effect.andThen(Effect.sleep(100), note("stopped"))))
        )
      )
      const fiber = yield* source.pipe(
        Deadline.stall("1 second"),
        Stream.runDrain,
        Effect.catchTag("Stalled", () => note("seen")),
        start
      )
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(lines, ["0 opened", "1100 stopped", "1150 closed", "1150 seen"])
    }))

  it.effect("watches what operators of Stream run at the same time, and does not disturb them", () =>
    Effect.gen(function*() {
      const step = (n: number) => Effect.as(Effect.sleep(400), n)
      const base = Stream.range(1, 6).pipe(Stream.rechunk(1))
      const asynchronous = async function*() {
        yield* [1, 2, 3, 4, 5, 6]
      }
      const streams: Record<string, Stream.Stream<number, unknown>> = {
        buffer: base.pipe(Stream.mapEffect(step), Stream.buffer({ capacity: 2 })),
        concurrent: base.pipe(Stream.mapEffect(step, { concurrency: 2 })),
        merge: Stream.merge(
          Stream.make(1, 2, 3).pipe(Stream.rechunk(1), Stream.mapEffect(step)),
          Stream.make(4, 5, 6).pipe(Stream.rechunk(1), Stream.mapEffect(step))
        ),
        flatMap: base.pipe(Stream.flatMap((n) => Stream.fromEffect(step(n)), { concurrency: "unbounded" })),
        callback: Stream.callback<number>(Effect.fnUntraced(function*(queue) {
          for (let n = 1; n <= 6; n++) yield* Queue.offer(queue, yield* step(n))
          yield* Queue.end(queue)
        })),
        forkScoped: Stream.unwrap(Effect.gen(function*() {
          const queue = yield* Queue.bounded<number, Cause.Done>(1)
          yield* Effect.forkScoped(
            Effect.forEach([1, 2, 3, 4, 5, 6], (n) => Effect.andThen(step(n), Queue.offer(queue, n))).pipe(
              Effect.andThen(Queue.end(queue))
            )
          )
          return Stream.fromQueue(queue)
        })),
        asyncIterable: Stream.fromAsyncIterable(asynchronous(), (error) => error)
      }
      for (const [name, stream] of Object.entries(streams)) {
        const fiber = yield* start(collect(stream.pipe(Deadline.stall("1 second"))))
        yield* TestClock.adjust("1 minute")
        const [seen, exit] = yield* Fiber.join(fiber)
        assert.deepStrictEqual(exit, Exit.void, name)
        assert.deepStrictEqual(seen.toSorted((a, b) => a - b), [1, 2, 3, 4, 5, 6], name)
      }
    }))

  it.effect("a consumer that goes away, at whatever step, leaves nothing over", () =>
    Effect.gen(function*() {
      const arrange = Effect.sync(() => {
        let open = 0
        const source = Stream.unwrap(
          Effect.as(
            Effect.acquireRelease(Effect.sync(() => open++), () => Effect.sync(() => open--)),
            Stream.concat(parts(300, 300), Stream.never)
          )
        )
        return {
          effect: Stream.runDrain(source.pipe(Deadline.stall("1 second"))),
          check: (exit: Exit.Exit<void, Deadline.Stalled>) =>
            Effect.sync(() => {
              assert.strictEqual(open, 0)
              const interrupted = Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
              if (!interrupted) assert.deepStrictEqual(exit, Exit.fail(stalled("stream", second)))
            })
        }
      })
      yield* interruptEverywhere({ arrange })
      yield* everyCancelSource({
        arrange: Effect.map(arrange, ({ check, effect }) => ({
          effect,
          check: (exit: Exit.Exit<void, Deadline.Stalled>) => check(exit)
        }))
      })
    }), 60_000)
})

describe("signs of life", () => {
  const beats = (times: number, millis: number) =>
    Effect.repeat(Effect.andThen(Effect.sleep(millis), Deadline.beat), { times: times - 1 })
  const beating = Effect.forever(Effect.andThen(Effect.sleep(500), Deadline.beat))
  /** One part after so many beats, half a second apart. */
  const late = (times: number) => Stream.fromEffect(Effect.as(beats(times, 500), times))
  const millisOf = (error: Deadline.Stalled) => Duration.toMillis(error.idle)
  const ended = <A, E>(effect: Effect.Effect<A, E>) =>
    Effect.gen(function*() {
      const fiber = yield* effect.pipe(
        Effect.exit,
        Effect.flatMap((exit) => Effect.map(Clock.currentTimeMillis, (now) => [now, exit] as const)),
        start
      )
      yield* TestClock.adjust("1 hour")
      return yield* Fiber.join(fiber)
    })

  it.effect("without a watchdog cost nothing and do nothing", () =>
    Effect.gen(function*() {
      yield* Deadline.beat
      assert.isUndefined(yield* Deadline.Heartbeat)
    }))

  it.effect("make the idle time of a stall begin anew, in its opening and between two parts", () =>
    Effect.gen(function*() {
      const opened = Stream.unwrap(Effect.as(beats(9, 500), Stream.concat(late(9), late(20))))
      const [now, exit] = yield* ended(opened.pipe(Deadline.stall("1 second"), Stream.runCollect))
      assert.deepStrictEqual(exit, Exit.succeed([9, 20]))
      assert.strictEqual(now, 19_000)
    }))

  it.effect("make the idle time of a watch begin anew", () =>
    Effect.gen(function*() {
      const [now, exit] = yield* ended(
        Deadline.watch({ idle: "1 second", name: "job" }, () => Effect.andThen(beats(9, 500), Effect.never))
      )
      assert.deepStrictEqual(exit, Exit.fail(stalled("job", second)))
      assert.strictEqual(now, 5500)
    }))

  it.effect("when they cease, the stream is stalled after the idle time", () =>
    Effect.gen(function*() {
      const source = Stream.concat(late(4), Stream.fromEffect(Effect.andThen(beats(3, 500), Effect.never)))
      const [now, exit] = yield* ended(source.pipe(Deadline.stall("1 second"), Stream.runDrain))
      assert.deepStrictEqual(exit, Exit.fail(stalled("stream", second)))
      assert.strictEqual(now, 4500)
    }))

  it.effect("are heard by all watchdogs around, however they are nested", () =>
    Effect.gen(function*() {
      const work = late(20).pipe(
        Deadline.stall("1 second"),
        Stream.map((part) => part + 1),
        Deadline.stall("2 seconds"),
        Stream.runCollect
      )
      const watched = Deadline.watch({ idle: "700 millis" }, () => Deadline.watch({ idle: "3 seconds" }, () => work))
      assert.deepStrictEqual(yield* ended(watched), [10_000, Exit.succeed([21])])
    }))

  it.effect("are heard from fibers started inside, and from callbacks", () =>
    Effect.gen(function*() {
      const forked = Stream.unwrap(Effect.as(Effect.forkScoped(beating), Stream.fromEffect(Effect.sleep(9000))))
      assert.isTrue(Exit.isSuccess((yield* ended(forked.pipe(Deadline.stall("1 second"), Stream.runDrain)))[1]))
      const callback = Effect.gen(function*() {
        const heartbeat = yield* Deadline.Heartbeat
        yield* Effect.forkChild(Effect.forever(Effect.delay(Effect.sync(() => heartbeat?.alive()), 500)))
        yield* Effect.sleep(9000)
      })
      const watched = yield* ended(Deadline.watch({ idle: "1 second" }, () => callback))
      assert.isTrue(Exit.isSuccess(watched[1]))
    }))

  it.effect("are for the stream, and not for one pull of it", () =>
    Effect.gen(function*() {
      const source = Stream.unwrap(Effect.as(
        Effect.forkScoped(beating),
        Stream.fromEffectSchedule(Effect.sleep(5000), Schedule.recurs(3))
      ))
      const [now, exit] = yield* ended(source.pipe(
        Deadline.stall("1 second"),
        Stream.mapEffect(() => Effect.sleep(5000)),
        Stream.runDrain
      ))
      assert.isTrue(Exit.isSuccess(exit))
      assert.strictEqual(now, 40_000)
    }))

  it.effect("are enough for 10 minutes, or for maxSilence, or for an idle time that is longer", () =>
    Effect.gen(function*() {
      const source = Stream.concat(Stream.make(1), Stream.fromEffect(beating))
      const minute = 60_000
      const cases: ReadonlyArray<readonly [Duration.Input, Deadline.StallOptions | undefined, number]> = [
        ["30 seconds", undefined, 10 * minute],
        ["30 seconds", { maxSilence: "90 seconds" }, 1.5 * minute],
        ["1 second", { maxSilence: "1250 millis" }, 1250],
        ["20 minutes", undefined, 20 * minute]
      ]
      for (const [idle, options, silence] of cases) {
        const before = yield* Clock.currentTimeMillis
        const { events, listen } = listening()
        const [now, exit] = yield* ended(source.pipe(Deadline.stall(idle, options), Stream.runDrain, listen))
        assert.strictEqual(now - before, silence)
        assert.deepStrictEqual(exit, Exit.fail(stalled("stream", Duration.millis(silence))))
        assert.deepStrictEqual(events, [{ _tag: "Stalled", name: "stream", idleMillis: silence }])
      }
    }))

  it.effect("each part begins the longest silence anew", () =>
    Effect.gen(function*() {
      const source = Stream.concat(Stream.concat(late(9), late(9)), late(11))
      const [now, exit] = yield* ended(source.pipe(
        Deadline.stall("1 second", { maxSilence: "5 seconds" }),
        Stream.runDrain,
        Effect.mapError(millisOf)
      ))
      assert.deepStrictEqual(exit, Exit.fail(5000))
      assert.strictEqual(now, 14_000)
    }))

  it.effect("a part is progress for the watchdogs around, also where it does not come as far as them", () =>
    Effect.gen(function*() {
      const source = Stream.range(1, 30).pipe(
        Stream.mapEffect((n) => Effect.as(Effect.sleep(900), n)),
        Deadline.stall("1 second"),
        Stream.filter((n) => n > 29),
        Deadline.stall("1 second", { maxSilence: "5 seconds" }),
        Stream.runCollect
      )
      assert.deepStrictEqual(yield* ended(source), [27_000, Exit.succeed([30])])
    }))

  it.effect("so is the beat of a watch", () =>
    Effect.gen(function*() {
      const work = Deadline.watch({ idle: "1 second" }, (beat) =>
        Effect.repeat(Effect.andThen(Effect.sleep(900), beat), { times: 29 }))
      const source = Stream.fromEffect(work).pipe(
        Deadline.stall("1 second", { maxSilence: "5 seconds" }),
        Stream.runDrain
      )
      assert.deepStrictEqual(yield* ended(source), [27_000, Exit.void])
    }))

  it.effect("what a watchdog no longer waits for does not keep those around it waiting", () =>
    Effect.gen(function*() {
      const detached = Effect.forkDetach(beating)
      const inners: ReadonlyArray<Effect.Effect<unknown, Deadline.Stalled>> = [
        Deadline.watch({}, () => detached),
        Stream.fromEffect(detached).pipe(Deadline.stall(), Stream.runDrain)
      ]
      for (const inner of inners) {
        const before = yield* Clock.currentTimeMillis
        const [now, exit] = yield* ended(
          Deadline.watch({ idle: "1 second", name: "outer" }, () => Effect.andThen(inner, Effect.never))
        )
        assert.deepStrictEqual(exit, Exit.fail(stalled("outer", second)))
        assert.strictEqual(now - before, 1000)
      }
    }))

  it.effect("end with the time that is allowed around them", () =>
    Effect.gen(function*() {
      const source = Stream.fromEffect(beating).pipe(Deadline.stall("1 second"), Stream.runDrain)
      const [now, exit] = yield* ended(source.pipe(Deadline.attempt("20 seconds")))
      assert.deepStrictEqual(exit, Exit.fail(timedOut("attempt", Duration.seconds(20))))
      assert.strictEqual(now, 20_000)
    }))

  it.effect("a consumer that goes away, at whatever step, leaves nothing over", () =>
    interruptEverywhere({
      arrange: Effect.sync(() => {
        let open = 0
        const source = Stream.unwrap(
          Effect.as(
            Effect.acquireRelease(Effect.sync(() => open++), () =>
              Effect.andThen(Deadline.beat, Effect.sync(() => open--))),
            Stream.concat(late(3), Stream.fromEffect(beating))
          )
        )
        const stall = Deadline.stall("1 second", { maxSilence: "2 seconds" })
        return {
          effect: Deadline.watch({ idle: "1 second" }, () =>
            Stream.runDrain(stall(source))),
          check: (exit: Exit.Exit<void, Deadline.Stalled>) =>
            Effect.sync(() => {
              assert.strictEqual(open, 0)
              const interrupted = Exit.isFailure(exit) && Cause.hasInterrupts(exit.cause)
              if (!interrupted) assert.deepStrictEqual(exit, Exit.fail(stalled("stream", Duration.seconds(2))))
            })
        }
      })
    }), 60_000)

  it.effect("a maxSilence that is shorter than the idle time is refused", () =>
    Effect.gen(function*() {
      for (const maxSilence of ["29 seconds", "-1 second", Infinity] as const) {
        const exit = yield* Effect.exit(Effect.sync(() => Deadline.stall("30 seconds", { maxSilence })))
        assert.isTrue(Exit.isFailure(exit))
        if (Exit.isFailure(exit)) assert.match(String(Cause.squash(exit.cause)), /Deadline\.stall.*maxSilence/)
      }
    }))
})
