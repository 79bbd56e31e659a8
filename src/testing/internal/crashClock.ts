import type * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { rounding } from "../../internal/monotonic.ts"

/**
 * One request to the outside that is under way, and how many of its fibers sleep.
 *
 * @internal
 */
export interface Request {
  readonly isToStore: boolean
  sleeping: number
}

/** The request that the work here belongs to. @internal */
export const CurrentRequest = Context.Reference<Request | undefined>(
  "effect-resilience/testing/CrashPoints/CurrentRequest",
  { defaultValue: () => undefined }
)

/**
 * The clock of one process: what its machine has, set forward by the time that nobody was at work. It knows who sleeps.
 *
 * @internal
 */
export const make = (base: Clock.Clock, ahead: Duration.Duration) => {
  const aheadMillis = Duration.toMillis(ahead)
  const aheadNanos = Duration.toNanosUnsafe(ahead)
  const wakes = new Set<{ readonly at: number }>()
  const currentTimeMillisUnsafe = () => base.currentTimeMillisUnsafe() + aheadMillis
  const currentTimeNanosUnsafe = () => base.currentTimeNanosUnsafe() + aheadNanos
  const monotonicTimeNanosUnsafe = () => base.monotonicTimeNanosUnsafe() + aheadNanos
  const own: Clock.Clock = {
    currentTimeMillisUnsafe,
    currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
    currentTimeNanosUnsafe,
    currentTimeNanos: Effect.sync(currentTimeNanosUnsafe),
    monotonicTimeNanosUnsafe,
    monotonicTimeNanos: Effect.sync(monotonicTimeNanosUnsafe),
    sleep: (duration) =>
      Effect.flatMap(CurrentRequest, (request) =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            const wake = { at: base.currentTimeMillisUnsafe() + Duration.toMillis(duration) }
            wakes.add(wake)
            if (request !== undefined) request.sleeping++
            return wake
          }),
          () => base.sleep(duration),
          (wake) =>
            Effect.sync(() => {
              wakes.delete(wake)
              if (request !== undefined) request.sleeping--
            })
        ))
  }
  return {
    // A program under test may move a clock that can be moved.
    clock: Object.assign({}, base, own),
    /**
     * How many milliseconds it is until the next one wakes, if there is one that ever will. Never less than the sum of
     * two fractions of a millisecond may miss: a clock that was moved by that would not get there.
     */
    untilWake: (): number | undefined => {
      const next = Math.min(...Array.from(wakes, ({ at }) => at))
      return Number.isFinite(next) ? Math.max(rounding, next - base.currentTimeMillisUnsafe()) : undefined
    }
  }
}
