import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { Journal } from "./checkpointJournal.ts"
import type { Scope } from "./checkpointScope.ts"

/**
 * The run that a program is part of. `Checkpoint.run` provides it; a step needs it.
 *
 * **Details**
 *
 * `scope` is the path of the scope that steps called here belong to, empty for the run's own.
 *
 * @category services
 * @since 0.1.0
 */
export class Run extends Context.Service<Run, {
  readonly runId: string
  readonly scope: string
  /** @internal */
  readonly journal: Journal
  /** @internal */
  readonly place: Scope
}>()("effect-resilience/durable/Checkpoint/Run") {}

/** @internal */
export const at = (journal: Journal, place: Scope): Run["Service"] => ({
  runId: journal.runId,
  scope: place.path,
  journal,
  place
})

/** @internal */
export const inside = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  run: Run["Service"],
  place: Scope
): Effect.Effect<A, E, Exclude<R, Run>> => Effect.provideService(effect, Run, at(run.journal, place))
