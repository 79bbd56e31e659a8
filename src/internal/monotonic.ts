import * as Clock from "effect/Clock"
import * as Context from "effect/Context"

/**
 * Elapsed time in milliseconds, from an origin of the clock's own. The wall clock may jump; open times, timeouts and
 * windows are elapsed time.
 *
 * @internal
 */
export const millisIn = (context: Context.Context<never>): number => millisOf(Context.get(context, Clock.Clock))

/** @internal */
export const millisOf = (clock: Clock.Clock): number => Number(clock.monotonicTimeNanosUnsafe()) / 1_000_000

/**
 * Milliseconds from a clock of nanoseconds are fractions, and the sum and the difference of two of them miss the true
 * value by a little. A microsecond is more than that, and less than anybody asks for.
 *
 * @internal
 */
export const rounding = 0.001
