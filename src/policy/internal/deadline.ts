import * as Context from "effect/Context"
import { millisIn } from "../../internal/monotonic.ts"

/**
 * When everything around has to be over, in milliseconds of the monotonic clock (`millisIn`); `undefined` without a
 * deadline. A reference, so that every fiber started inside has it too.
 *
 * @internal
 */
export const Current = Context.Reference<number | undefined>("effect-resilience/Deadline/Current", {
  defaultValue: () => undefined
})

/**
 * The milliseconds that are left: Infinity without a deadline, never negative.
 *
 * @internal
 */
export const remainingIn = (context: Context.Context<never>): number => {
  const deadline = Context.get(context, Current)
  return deadline === undefined ? Infinity : Math.max(0, deadline - millisIn(context))
}
