/**
 * Finds what a guarded call leaks when it is interrupted: at every step of a run in turn, and by every kind of canceller.
 *
 * How to use it, in a test under `TestClock` (`it.effect`):
 *
 * ```ts
 * yield* interruptEverywhere({
 *   arrange: Effect.gen(function*() {
 *     const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1 }) // everything anew for every run, in a scope of its own
 *     return {
 *       effect: Effect.sleep("1 second").pipe(bulkhead.limit("key")), // the call that is interrupted
 *       check: () => Effect.map(bulkhead.running("key"), (n) => assert.strictEqual(n, 0)) // what holds when it has ended
 *     }
 *   })
 * })
 * ```
 *
 * `drive` moves the virtual clock or opens latches while the call runs; without it the clock goes from one sleep to the
 * next until the call has ended. Whether fibers or sleeps are left over is checked without asking. A failure names the
 * step: `{ only: { moment, step } }` runs that one alone.
 */
import { Cause, Clock, Duration, Effect, Exit, Fiber, Metric, Scheduler, Scope } from "effect"
import { TestClock } from "effect/testing"

/**
 * Where an interruption falls:
 *
 * - `during`: while an operation of any fiber of the run is carried out, which it still is, and the next one is not;
 * - `before`: an operation gives way to the rest of the program, and the interruption comes while it waits;
 * - `yield`: between two tasks of the scheduler, where the program itself gives way. These are few, for long programs.
 */
export type Moment = "during" | "before" | "yield"

export interface Run<A, E, R> {
  readonly effect: Effect.Effect<A, E, R>
  /** Runs beside the effect and is interrupted when the effect has ended. Its steps are steps of the run too. */
  readonly drive?: Effect.Effect<unknown, unknown, R> | undefined
  /** Asserts what must hold when the effect has ended; the step is 0 in the run that nothing interrupted. */
  readonly check: (exit: Exit.Exit<A, E>, step: number) => Effect.Effect<unknown, unknown, R>
  /** How many sleeps the call may leave behind in what outlives it, such as a layer's own housekeeping. Default 0. */
  readonly sleepsLeft?: number | undefined
}

export interface Options<A, E, R, E2, R2> {
  readonly arrange: Effect.Effect<Run<A, E, R>, E2, R2>
  /** Default `["during", "before", "yield"]`, one sweep for each. */
  readonly moments?: ReadonlyArray<Moment> | undefined
  /** Fails when the sweeps `during` and `before` have fewer steps than that, which would show nothing. Default 10. */
  readonly minSteps?: number | undefined
  /** Fails when the effect has not ended by itself after so many. Default 5,000. */
  readonly maxSteps?: number | undefined
  readonly only?: { readonly moment: Moment; readonly step: number } | undefined
}

/** Counts the steps of a run and interrupts its root fiber at one of them. */
class Stepper implements Scheduler.Scheduler {
  readonly executionMode: "sync" | "async"
  root: Fiber.Fiber<unknown, unknown> | undefined
  fired = false
  private count = 0
  private readonly parent: Scheduler.Scheduler
  private readonly moment: Moment
  private readonly step: number

  constructor(parent: Scheduler.Scheduler, moment: Moment, step: number) {
    this.executionMode = parent.executionMode
    this.parent = parent
    this.moment = moment
    this.step = step
  }

  /** The root fiber, when the moment to interrupt it has come. */
  private due(): Fiber.Fiber<unknown, unknown> | undefined {
    if (this.fired || this.root === undefined || this.root.pollUnsafe() !== undefined) return undefined
    if (++this.count !== this.step) return undefined
    this.fired = true
    return this.root
  }

  // The run loop asks before every operation.
  shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    const root = this.moment === "yield" ? undefined : this.due()
    if (root === undefined) return this.parent.shouldYield(fiber)
    if (this.moment === "during") {
      root.interruptUnsafe()
      return this.parent.shouldYield(fiber)
    }
    // Comes before the fiber's own resumption, which is scheduled next.
    fiber.currentDispatcher.scheduleTask(() => root.interruptUnsafe(), 0)
    return true
  }

  makeDispatcher(): Scheduler.SchedulerDispatcher {
    const dispatcher = this.parent.makeDispatcher()
    return {
      scheduleTask: (task, priority) =>
        dispatcher.scheduleTask(() => {
          task()
          if (this.moment === "yield") this.due()?.interruptUnsafe()
        }, priority),
      flush: () => dispatcher.flush()
    }
  }
}

/** A test clock that knows who sleeps. */
const countingClock = (clock: TestClock.TestClock) => {
  const wakes = new Set<{ readonly at: number }>()
  const counting: TestClock.TestClock = {
    ...clock,
    sleep: (duration) =>
      Effect.acquireUseRelease(
        Effect.sync(() => {
          const wake = { at: clock.currentTimeMillisUnsafe() + Duration.toMillis(duration) }
          wakes.add(wake)
          return wake
        }),
        () => clock.sleep(duration),
        (wake) => Effect.sync(() => wakes.delete(wake))
      )
  }
  return {
    counting,
    sleeps: () => wakes.size,
    /** Goes from one sleep to the next, for as long as it is let. */
    drive: Effect.forever(Effect.suspend(() => {
      const next = Math.min(...[...wakes].map(({ at }) => at))
      return Number.isFinite(next) ? clock.setTime(Math.max(next, clock.currentTimeMillisUnsafe())) : Effect.yieldNow
    }))
  }
}

/** Counts the fibers that have started and not ended. */
const countingFibers = () => {
  let running = 0
  const metrics: Metric.FiberRuntimeMetricsService = {
    recordFiberStart: () => {
      running++
    },
    recordFiberEnd: () => {
      running--
    }
  }
  return { metrics, running: () => running }
}

/** Lets what was only put off, such as stopping a shared timer, come to its end. */
const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 4 }))

const because = (what: string) => <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, never, R> =>
  Effect.catchCause(self, (cause) => {
    const error = Cause.squash(cause)
    const message = error instanceof Error ? error.message : String(error)
    return Effect.die(new Error(`${what}: ${message}`, { cause: error }))
  })

const ensure = (holds: boolean, message: string): Effect.Effect<void> =>
  holds ? Effect.void : Effect.die(new Error(message))

const ended = <A, E>(fiber: Fiber.Fiber<A, E>): Effect.Effect<Exit.Exit<A, E>> =>
  TestClock.withLive(Effect.timeoutOrElse(Fiber.await(fiber), {
    duration: "10 seconds",
    orElse: () => Effect.die(new Error("the effect did not end within 10 s of real time"))
  }))

/** Runs what is arranged once and interrupts it at a step; says whether it came to that. */
const once = Effect.fnUntraced(function*<A, E, R, E2, R2>(
  options: Options<A, E, R, E2, R2>,
  moment: Moment,
  step: number,
  label: string
) {
  // The clock's warning that nobody moves it is over with the first move, and would be a step of the first run alone.
  yield* TestClock.adjust(0)
  const scheduler = yield* Scheduler.Scheduler
  const clock = countingClock(yield* TestClock.testClockWith(Effect.succeed))
  const fibers = countingFibers()
  const stepper = new Stepper(scheduler, moment, step)
  const watched = <B, E3, R3>(self: Effect.Effect<B, E3, R3>) =>
    self.pipe(
      Effect.provideService(Scheduler.Scheduler, stepper),
      Effect.provideService(Clock.Clock, clock.counting),
      Effect.provideService(Metric.FiberRuntimeMetrics, fibers.metrics)
    )

  const carryOut = Effect.fnUntraced(function*(run: Run<A, E, R>) {
    yield* settle
    const sleepsBefore = clock.sleeps()
    const fiber = yield* Effect.withFiber<A, E, R>((self) => {
      stepper.root = self
      return run.effect
    }).pipe(Effect.forkChild, watched)
    const driver = yield* watched(Effect.forkChild(Effect.exit(run.drive ?? clock.drive)))
    const exit = yield* ended(fiber)
    yield* Fiber.interrupt(driver)
    yield* settle
    const sleepsLeft = clock.sleeps() - sleepsBefore
    yield* ensure(sleepsLeft <= (run.sleepsLeft ?? 0), `${sleepsLeft} sleeps are left over from the call`)
    yield* watched(run.check(exit, stepper.fired ? step : 0))
  }, because(label))

  yield* watched(options.arrange).pipe(Effect.flatMap(carryOut), Effect.scoped)
  yield* settle
  yield* ensure(clock.sleeps() === 0, `${label}: ${clock.sleeps()} sleeps outlive the scope`)
  yield* ensure(fibers.running() === 0, `${label}: ${fibers.running()} fibers outlive the scope`)
  return stepper.fired
})

/**
 * Runs what `arrange` gives again and again and interrupts it one step later each time, until a run ends before its
 * step has come. Gives the number of interrupted runs.
 */
export const interruptEverywhere = Effect.fnUntraced(function*<A, E, R, E2, R2>(options: Options<A, E, R, E2, R2>) {
  const { maxSteps = 5_000, minSteps = 10, moments = ["during", "before", "yield"], only } = options
  const at = (moment: Moment, step: number) =>
    once(options, moment, step, `interrupted at { moment: "${moment}", step: ${step} }`)
  if (only !== undefined) {
    yield* at(only.moment, only.step)
    return 1
  }
  let runs = 0
  for (const moment of moments) {
    let step = 1
    while (yield* at(moment, step)) {
      yield* ensure(step < maxSteps, `${moment}: the effect has not ended by itself after ${maxSteps} steps`)
      step++
    }
    yield* ensure(moment === "yield" || step > minSteps, `${moment}: only ${step - 1} steps, which shows nothing`)
    runs += step - 1
  }
  return runs
})

/** A way of cancelling: gives up on the effect when a time is over, and ends when it has done so. */
export interface CancelSource {
  readonly name: string
  readonly cancel: <A, E, R>(
    self: Effect.Effect<A, E, R>,
    after: Duration.Input
  ) => Effect.Effect<unknown, unknown, R>
}

/** The cancellers of Effect itself. Add a guard's own, such as a deadline or the winner of a hedge. */
export const cancelSources: ReadonlyArray<CancelSource> = [
  {
    name: "its caller",
    cancel: Effect.fnUntraced(function*(self, after) {
      const fiber = yield* Effect.forkChild(self, { startImmediately: true })
      yield* Effect.sleep(after)
      yield* Fiber.interrupt(fiber)
    })
  },
  {
    name: "the end of its parent",
    cancel: (self, after) =>
      Effect.forkChild(self, { startImmediately: true }).pipe(
        Effect.andThen(Effect.sleep(after)),
        Effect.forkChild({ startImmediately: true }),
        Effect.flatMap(Fiber.await)
      )
  },
  { name: "a timeout", cancel: (self, after) => Effect.timeoutOption(self, after) },
  { name: "losing a race", cancel: (self, after) => Effect.raceFirst(self, Effect.sleep(after)) },
  {
    name: "a failing sibling",
    cancel: (self, after) =>
      Effect.all([self, Effect.andThen(Effect.sleep(after), Effect.fail("sibling"))], { concurrency: "unbounded" })
  },
  {
    name: "an AbortSignal",
    cancel: Effect.fnUntraced(function*<A, E, R>(self: Effect.Effect<A, E, R>, after: Duration.Input) {
      const abort = new AbortController()
      const ended = Effect.runPromiseExitWith(yield* Effect.context<R>())(self, { signal: abort.signal })
      yield* Effect.sleep(after)
      abort.abort()
      yield* Effect.promise(() => ended)
    })
  },
  {
    name: "the close of its scope",
    cancel: Effect.fnUntraced(function*(self, after) {
      const scope = yield* Scope.make()
      yield* Effect.forkIn(self, scope, { startImmediately: true })
      yield* Effect.sleep(after)
      yield* Scope.close(scope, Exit.void)
    })
  }
]

/**
 * Cancels what `arrange` gives, which must still be running at the time `after`, in each of the ways in turn. The check
 * sees how the cancelled effect itself ended, and it ended by interruption.
 */
export const everyCancelSource = Effect.fnUntraced(function*<A, E, R, E2, R2>(options: {
  readonly arrange: Effect.Effect<
    Omit<Run<A, E, R>, "check"> & {
      readonly check: (exit: Exit.Exit<A, E>, source: string) => Effect.Effect<unknown, unknown, R>
    },
    E2,
    R2
  >
  /** When to cancel, in virtual time. Default 100 ms. */
  readonly after?: Duration.Input | undefined
  readonly sources?: ReadonlyArray<CancelSource> | undefined
}) {
  const { after = "100 millis", sources = cancelSources } = options
  for (const { cancel, name } of sources) {
    const cancelled = Effect.map(options.arrange, (run): Run<unknown, never, R> => {
      let inner: Exit.Exit<A, E> | undefined
      const watched = Effect.onExit(run.effect, (exit) =>
        Effect.sync(() => {
          inner = exit
        }))
      return {
        drive: run.drive,
        sleepsLeft: run.sleepsLeft,
        effect: Effect.exit(cancel(watched, after)),
        check: Effect.fnUntraced(function*() {
          if (inner === undefined) {
            return yield* Effect.die(new Error("the canceller came back before the effect ended"))
          }
          yield* ensure(Exit.hasInterrupts(inner), `the effect was not interrupted, it ended with ${String(inner)}`)
          yield* run.check(inner, name)
        })
      }
    })
    yield* once({ arrange: cancelled }, "during", Infinity, `cancelled by ${name}`)
  }
})
