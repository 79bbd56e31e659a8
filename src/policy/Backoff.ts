/**
 * How long to wait before the next try: schedules that read the error.
 *
 * Every schedule here takes the error as its input, stops at once on an error that must not be retried, waits at least
 * as long as the refusing side asked for, and ends instead of waiting when that is longer than the cap. None of them
 * limits the number of tries: combine with `Schedule.upTo`, or use `Retry`, which does. `Retry` also has those with jitter
 * draw a last delay that does not fit into `maxElapsed` once more, from what does.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import type * as Schedule from "effect/Schedule"
import * as config from "../internal/config.ts"
import * as internal from "./internal/backoff.ts"

/**
 * Options of {@link fullJitter}, {@link equalJitter}, {@link decorrelatedJitter} and {@link exponential}.
 *
 * **Details**
 *
 * - `base`: the delay that the growth starts from. Default: 1 second.
 * - `cap`: the longest delay of the strategy's own, and the longest wait asked for by the refusing side that is waited
 *   out: a longer one ends the retrying. Where jitter comes on top of a wait asked for, both may reach the cap. Default:
 *   60 seconds.
 * - `factor`: growth from one delay to the next, at least 1. Default: 2, and 3 for {@link decorrelatedJitter}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly base?: Duration.Input | undefined
  readonly cap?: Duration.Input | undefined
  readonly factor?: number | undefined
}

const parse = (module: string, options: Options | undefined, defaultFactor: number) => {
  const base = config.duration(module, "base", options?.base ?? internal.defaults.base)
  const cap = config.duration(module, "cap", options?.cap ?? internal.defaults.cap, { minimum: base })
  return {
    base: Duration.toMillis(base),
    cap: Duration.toMillis(cap),
    factor: config.numberBetween(module, "factor", options?.factor ?? defaultFactor, 1, Number.MAX_VALUE)
  }
}

/**
 * Waits a random time between nothing and an exponentially growing ceiling: the strategy that spreads clients best.
 *
 * **When to use**
 *
 * Use it unless you know better. It is the default of `Retry`.
 *
 * **Details**
 *
 * Before the nth retry: `random(0, min(cap, base * factor^(n - 1)))`, "full jitter" of M. Brooker, Exponential Backoff
 * And Jitter, AWS Architecture Blog, 2015. It comes on top of a wait asked for by the refusing side, so that callers
 * that were told the same instant do not all come back at it. Throws `Fault.InvalidConfig`.
 *
 * **Example** (Retrying with full jitter)
 *
 * ```ts import.meta.vitest
 * import { Effect, Ref } from "effect"
 * import { Backoff, Fault } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const calls = yield* Ref.make(0)
 *   const call = Ref.updateAndGet(calls, (n) => n + 1).pipe(
 *     Effect.filterOrFail((n) => n === 3, () => ({ [Fault.verdictOf]: Fault.transient }))
 *   )
 *   return yield* Effect.retry(call, Backoff.fullJitter({ base: "1 millis" }))
 * })
 *
 * await Effect.runPromise(program) // => 3
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fullJitter = (options?: Options): Schedule.Schedule<Duration.Duration, unknown> => {
  const { base, cap, factor } = parse("Backoff.fullJitter", options, internal.defaults.factor)
  const ceiling = internal.ceiling(base, factor, cap)
  return internal.schedule({
    capMillis: cap,
    join: internal.onTop,
    start: () => (retry, random) => random() * ceiling(retry),
    shortest: () => 0
  })
}

/**
 * Waits half of an exponentially growing delay, and a random part of the other half.
 *
 * **When to use**
 *
 * Use it where a retry must never come at once, at the price of less spread than {@link fullJitter}.
 *
 * **Details**
 *
 * Before the nth retry, with `d = min(cap, base * factor^(n - 1))`: `d / 2 + random(0, d / 2)`, "equal jitter" of
 * M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015. It comes on top of a wait asked for by the
 * refusing side. Throws `Fault.InvalidConfig`.
 *
 * **Example** (Bounding the delay from both sides)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Schedule } from "effect"
 * import { Backoff, Fault } from "effect-resilience"
 *
 * const error = { [Fault.verdictOf]: Fault.transient }
 *
 * const program = Effect.gen(function*() {
 *   const step = yield* Schedule.toStep(Backoff.equalJitter({ base: "1 second" }))
 *   const delays = yield* Effect.forEach([1, 2, 3], () => step(0, error))
 *   return delays.every(([delay], i) => Duration.toMillis(delay) >= 500 * 2 ** i)
 * })
 *
 * await Effect.runPromise(program) // => true
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const equalJitter = (options?: Options): Schedule.Schedule<Duration.Duration, unknown> => {
  const { base, cap, factor } = parse("Backoff.equalJitter", options, internal.defaults.factor)
  const ceiling = internal.ceiling(base, factor, cap)
  return internal.schedule({
    capMillis: cap,
    join: internal.onTop,
    start: () => (retry, random) => ceiling(retry) / 2 * (1 + random()),
    shortest: (retry) => ceiling(retry) / 2
  })
}

/**
 * Waits a random time between the base and three times the previous delay.
 *
 * **When to use**
 *
 * Use it where delays should grow with the waiting done and not with the number of tries.
 *
 * **Details**
 *
 * `min(cap, random(base, previous * factor))` with the base as the first previous delay, "decorrelated jitter" of
 * M. Brooker, Exponential Backoff And Jitter, AWS Architecture Blog, 2015. It comes on top of a wait asked for by the
 * refusing side, which is no part of the previous delay. Throws `Fault.InvalidConfig`.
 *
 * **Example** (Growing with the waiting done)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Schedule } from "effect"
 * import { Backoff, Fault } from "effect-resilience"
 *
 * const error = { [Fault.verdictOf]: Fault.transient }
 *
 * const program = Effect.gen(function*() {
 *   const step = yield* Schedule.toStep(Backoff.decorrelatedJitter({ base: "1 second" }))
 *   const delays = yield* Effect.forEach([1, 2, 3], () => step(0, error))
 *   return delays.every(([delay], i) => Duration.toMillis(delay) <= 1000 * 3 ** (i + 1))
 * })
 *
 * await Effect.runPromise(program) // => true
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const decorrelatedJitter = (options?: Options): Schedule.Schedule<Duration.Duration, unknown> => {
  const { base, cap, factor } = parse("Backoff.decorrelatedJitter", options, internal.decorrelatedFactor)
  return internal.schedule({
    capMillis: cap,
    join: internal.onTop,
    start: () => {
      let previous = base
      return (_retry, random) => {
        // a factor near the largest number overflows, which the cap catches only as long as it is not multiplied by 0
        const highest = internal.ceiling(previous, factor, Number.MAX_VALUE)(1)
        previous = Math.min(cap, base + random() * (highest - base))
        return previous
      }
    },
    shortest: () => base
  })
}

/**
 * Waits an exponentially growing time, without any randomness.
 *
 * **When to use**
 *
 * Use it for a single caller, or in a test that must know the delays. Many callers that failed together come back
 * together.
 *
 * **Details**
 *
 * Before the nth retry: `min(cap, base * factor^(n - 1))`, or the wait asked for by the refusing side where that is
 * longer. Throws `Fault.InvalidConfig`.
 *
 * **Example** (Doubling up to a cap)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Schedule } from "effect"
 * import { Backoff, Fault } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const step = yield* Schedule.toStep(Backoff.exponential({ cap: "3 seconds" }))
 *   const delays = yield* Effect.forEach([Fault.transient, Fault.timedOut, Fault.malformed], (verdict) => step(0, { [Fault.verdictOf]: verdict }))
 *   return delays.map(([delay]) => Duration.toMillis(delay))
 * })
 *
 * await Effect.runPromise(program) // => [1000, 2000, 3000]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const exponential = (options?: Options): Schedule.Schedule<Duration.Duration, unknown> => {
  const { base, cap, factor } = parse("Backoff.exponential", options, internal.defaults.factor)
  const ceiling = internal.ceiling(base, factor, cap)
  return internal.schedule({ capMillis: cap, join: internal.atLeast, start: () => ceiling })
}

/**
 * Waits the same time before every retry.
 *
 * **When to use**
 *
 * Use it for polling something near by, or in a test that must know the delays.
 *
 * **Details**
 *
 * Waits `delay`, or the wait asked for by the refusing side where that is longer. `cap` is the longest wait asked for
 * that is waited out. Default: 60 seconds, or `delay` where that is longer. Throws `Fault.InvalidConfig`.
 *
 * **Example** (Waiting as long as asked)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Schedule } from "effect"
 * import { Backoff, Fault } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const step = yield* Schedule.toStep(Backoff.constant({ delay: "1 second" }))
 *   const delays = yield* Effect.forEach([Fault.transient, Fault.throttled("5 seconds")], (verdict) => step(0, { [Fault.verdictOf]: verdict }))
 *   return delays.map(([delay]) => Duration.toMillis(delay))
 * })
 *
 * await Effect.runPromise(program) // => [1000, 5000]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const constant = (options: {
  readonly delay: Duration.Input
  readonly cap?: Duration.Input | undefined
}): Schedule.Schedule<Duration.Duration, unknown> => {
  const delay = config.duration("Backoff.constant", "delay", options.delay)
  const cap = config.duration("Backoff.constant", "cap", options.cap ?? Duration.max(delay, internal.defaults.cap), {
    minimum: delay
  })
  const millis = Duration.toMillis(delay)
  return internal.schedule({
    capMillis: Duration.toMillis(cap),
    join: internal.atLeast,
    start: () => () => millis
  })
}
