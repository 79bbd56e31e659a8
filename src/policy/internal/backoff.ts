import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import * as Fault from "../../Fault.ts"

/** @internal */
export const defaults = { base: Duration.seconds(1), cap: Duration.seconds(60), factor: 2 }

/** @internal */
export const decorrelatedFactor = 3

/**
 * What a retry policy has decided about a failure before it asks how long to wait.
 *
 * @internal
 */
export interface Decision {
  /** A policy may overrule it, and a backoff that classified the error once more would stop where the policy goes on. */
  readonly verdict: Fault.Verdict
  /** A longer delay than this is not waited for. */
  readonly roomMillis: number
  /** Set by the backoff: its delay was longer than the room, and was drawn again from what fits. */
  isShortened: boolean
}

/** @internal */
export const Decided = Context.Reference<Decision | undefined>(
  "effect-resilience/policy/internal/backoff/Decided",
  { defaultValue: () => undefined }
)

/** @internal */
export interface Strategy {
  readonly capMillis: number
  /** How the strategy's own delay and the wait that the refusing side asked for come together. */
  readonly join: (delayMillis: number, retryAfterMillis: number) => number
  /** Opens one run of retries, whose delays keep to the cap; `random` is in [0, 1) and `retry` counts from 0. */
  readonly start: () => (retry: number, random: () => number) => number
  /** The lower end of what a strategy with jitter draws from; absent where a delay must not be shortened. */
  readonly shortest?: ((retry: number) => number) | undefined
}

/** @internal */
export const atLeast = (delayMillis: number, retryAfterMillis: number): number =>
  Math.max(delayMillis, retryAfterMillis)

/**
 * Jitter on top of the wait asked for: everybody was told the same instant, and the longer of the two would have
 * everybody come back at it.
 *
 * @internal
 */
export const onTop = (delayMillis: number, retryAfterMillis: number): number => delayMillis + retryAfterMillis

/** @internal */
export const ceiling = (baseMillis: number, factor: number, capMillis: number) => (retry: number): number =>
  // zero times an overflown power is not a number
  baseMillis === 0 ? 0 : Math.min(capMillis, baseMillis * Math.pow(factor, retry))

/** @internal */
export const retryAfterMillis = (verdict: Fault.Verdict): number => {
  const retryAfter = Fault.retryAfter(verdict)
  // timers drop the fraction of a millisecond, which would be too early
  return retryAfter === undefined ? 0 : Math.max(0, Math.ceil(Duration.toMillis(retryAfter)))
}

/** @internal */
export const schedule = (strategy: Strategy): Schedule.Schedule<Duration.Duration, unknown> =>
  Schedule.fromStep(Effect.sync(() => {
    const next = strategy.start()
    let retry = 0
    return (_now: number, error: unknown) =>
      Effect.contextWith((context: Context.Context<never>) => {
        const decided = Context.get(context, Decided)
        const verdict = decided?.verdict ?? Fault.classifyIn(context, error)
        if (decided === undefined && !Fault.isRetryable(verdict)) return Cause.done(Duration.zero)
        const asked = retryAfterMillis(verdict)
        if (asked > strategy.capMillis) return Cause.done(Duration.millis(asked))
        const source = Context.get(context, Random.Random)
        const random = () => source.nextDoubleUnsafe()
        // Not capped as a whole: where the cap is what was asked for, it would cut off the very jitter that tells apart
        // those who were told the same instant.
        let millis = strategy.join(next(retry, random), asked)
        if (decided !== undefined && millis > decided.roomMillis && strategy.shortest !== undefined) {
          // Drawn again and not cut off, which would send all who began together back together.
          const shortest = asked + strategy.shortest(retry)
          const room = decided.roomMillis - shortest
          if (room > 0) {
            millis = shortest + random() * room
            decided.isShortened = true
          }
        }
        retry++
        const delay = Duration.millis(millis)
        return Effect.succeed<[Duration.Duration, Duration.Duration]>([delay, delay])
      })
  }))
