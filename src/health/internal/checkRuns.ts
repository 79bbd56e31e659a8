import type * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Semaphore from "effect/Semaphore"
import { millisIn } from "../../internal/monotonic.ts"
import { type Check, format, type Result, resultOf } from "./checkModel.ts"

interface Running {
  readonly check: Check<unknown>
  readonly permit: Semaphore.Semaphore
  readonly first: Deferred.Deferred<void>
  /** The run that has not ended, also when nobody waits for it any more. */
  underWay: Fiber.Fiber<Result, unknown> | undefined
  begun: number
  /** The number of the last run that gave a result. */
  completed: number
}

/** @internal */
export interface Defaults {
  readonly interval: Duration.Duration
  readonly timeout: Duration.Duration
}

/** How long the end waits for checks that do not give way. */
const closing = Duration.seconds(5)

/**
 * Runs checks, by themselves and when asked, and no check beside itself. Whatever a check does, it gives a result in time.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*<R>(
  checks: ReadonlyArray<Check<R>>,
  { interval, timeout }: Defaults,
  context: Context.Context<R>,
  record: (check: Check<unknown>, result: Result, tookMillis: number) => Effect.Effect<void>
) {
  const all = checks.map((check): Running & { readonly check: Check<R> } => ({
    check,
    permit: Semaphore.makeUnsafe(1),
    first: Deferred.makeUnsafe(),
    underWay: undefined,
    begun: 0,
    completed: 0
  }))

  /** What the end interrupts says nothing about how anything is. */
  let isOver = false
  yield* Effect.addFinalizer(() =>
    Effect.suspend(() => {
      isOver = true
      const left = all.flatMap(({ underWay }) => underWay ?? [])
      for (const fiber of left) fiber.interruptUnsafe()
      return Effect.ignore(Effect.timeout(Fiber.awaitAll(left), closing))
    })
  )

  /** In a fiber of its own: one that cannot be interrupted would be waited for otherwise. */
  const attempt = (running: Running & { readonly check: Check<R> }) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const bound = running.check.timeout ?? timeout
        const fiber = yield* Effect.forkDetach(Effect.provideContext(running.check.run, context))
        running.underWay = fiber
        fiber.addObserver(() => {
          if (running.underWay === fiber) running.underWay = undefined
        })
        const exit = yield* restore(Effect.timeoutOption(Fiber.await(fiber), bound)).pipe(
          Effect.onInterrupt(() => Effect.sync(() => fiber.interruptUnsafe()))
        )
        if (Option.isSome(exit)) return resultOf(exit.value)
        fiber.interruptUnsafe()
        const result: Result = { status: "critical", message: `no result within ${format(bound)}` }
        return result
      })
    )

  const run = (running: Running & { readonly check: Check<R> }): Effect.Effect<void> =>
    Effect.suspend(() => {
      const asked = running.begun
      return running.permit.withPermits(1)(Effect.gen(function*() {
        // Somebody else had the same wish, and it was fulfilled after this one was made.
        if (running.completed > asked || isOver) return
        const number = ++running.begun
        const started = millisIn(yield* Effect.context<never>())
        const result: Result = running.underWay === undefined
          ? yield* attempt(running)
          : { status: "critical", message: "the run before has not ended, although it was interrupted" }
        const took = millisIn(yield* Effect.context<never>()) - started
        if (isOver) return
        yield* Effect.uninterruptible(Effect.suspend(() => {
          running.completed = number
          return Effect.ensuring(record(running.check, result, took), Deferred.succeed(running.first, undefined))
        }))
      }))
    })

  return {
    /** Runs every check once, unless it runs already; each at its own pace. */
    now: Effect.forEach(all, run, { concurrency: "unbounded", discard: true }),
    forever: Effect.forEach(
      all,
      (running) => Effect.repeat(run(running), Schedule.jittered(Schedule.spaced(running.check.interval ?? interval))),
      { concurrency: "unbounded", discard: true }
    ),
    /** When every check has had its first result. */
    ready: Effect.forEach(all, ({ first }) => Deferred.await(first), { discard: true }),
    pending: (): ReadonlyArray<string> => all.filter(({ completed }) => completed === 0).map(({ check }) => check.name)
  }
})
