import * as Context from "effect/Context"

/**
 * Whether a record of what has been done is tried again while the store of runs is unavailable. `CrashPoints` turns it
 * off where it explores in real time, and the store that a process lost never comes back.
 *
 * @internal
 */
export const Insists: Context.Reference<boolean> = Context.Reference("effect-resilience/internal/insists/Insists", {
  defaultValue: () => true
})
