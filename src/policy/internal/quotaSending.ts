import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

/**
 * A call that its quota has let through, and that a guard inside may hold back before it is really sent.
 *
 * @internal
 */
export interface Sending {
  /** By what key the guards inside go that may hold it back. */
  readonly key: string
  /** It waits for something else, and has not been sent. */
  readonly pause: () => void
  /** It can be sent now: goes on once its share is there at this time, ahead of those who have not been let through. */
  readonly resume: <A, E, R>(call: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/** @internal */
export const Current = Context.Reference<Sending | undefined>("effect-resilience/policy/Quota/Sending", {
  defaultValue: () => undefined
})

/**
 * The call of a key that a guard around here is about to hold back.
 *
 * @internal
 */
export const sendingOf = (key: string, context: Context.Context<never>): Sending | undefined => {
  const sending = Context.get(context, Current)
  return sending?.key === key ? sending : undefined
}

/**
 * The guards of a policy go by its key, whatever key its quota goes by: what they hold back is what the quota has let
 * through. A call that has no quota around stays as it is.
 *
 * @internal
 */
export const sendingAs = <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E, R> =>
  Effect.updateService(self, Current, (sending) => sending === undefined ? undefined : { ...sending, key })
