import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import * as Telemetry from "../../Telemetry.ts"
import { timedIn, type Timeouts, timeoutsOf } from "./timeouts.ts"
import { withoutStack } from "./withoutStack.ts"

/**
 * One try took longer than it may. Verdict: `TimedOut`, so that `Retry` tries again.
 *
 * @category errors
 * @since 0.1.0
 */
export class AttemptTimeout
  extends Schema.TaggedError<AttemptTimeout>("effect-resilience/policy/Deadline/AttemptTimeout")(
    "AttemptTimeout",
    { name: Schema.String, after: Schema.DurationFromMillis }
  )
{
  readonly [Fault.verdictOf] = Fault.timedOut
  override get message() {
    return `Attempt of "${this.name}" took longer than ${Duration.format(this.after)} and was stopped: ` +
      "try again, or allow more time"
  }
}

/** @internal */
export interface Attempt {
  readonly timeouts: Timeouts
  readonly stopped: () => AttemptTimeout
  readonly announce: () => Effect.Effect<void>
}

/** @internal */
export const make = (after: Duration.Duration, name: string): Attempt => {
  const timeouts = timeoutsOf(Duration.toMillis(after))
  const { millis } = timeouts
  return {
    timeouts,
    stopped: () => withoutStack(() => new AttemptTimeout({ name, after })),
    announce: () =>
      Effect.andThen(
        Effect.annotateCurrentSpan({ "attempt.name": name, "attempt.timeout_millis": millis }),
        Telemetry.emit(() => ({ _tag: "AttemptTimedOut", name, afterMillis: millis }))
      )
  }
}

/**
 * Bounds one try. It counts from `startedAt`, where somebody has looked at the clock already, else from when the try
 * first waits.
 *
 * @internal
 */
export const bounded = <A, E, R>(
  { announce, stopped, timeouts }: Attempt,
  context: Context.Context<R>,
  self: Effect.Effect<A, E, R>,
  startedAt?: number
): Effect.Effect<A, E | AttemptTimeout> => timedIn(context, self, timeouts, stopped, { announce, startedAt })
