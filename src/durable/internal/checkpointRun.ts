import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { CheckpointStore, CheckpointStoreError } from "../CheckpointStore.ts"
import type { Journal } from "./checkpointJournal.ts"
import type { Scope } from "./checkpointScope.ts"

/** @internal */
export const defaults = {
  lease: "30 seconds",
  maxCrashes: 10,
  maxRecordBytes: 4_194_304,
  effects: "idempotent",
  rollbackSteps: 1,
  rollbackLimit: 5
} as const

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

// The runs of this process, by the store they are in: what happens to one of them here it hears of at once, and not
// with the next renewal of its lease.
const running = new WeakMap<CheckpointStore["Service"], Map<string, Journal>>()

/**
 * Lets a run be found by {@link stop} for as long as an effect runs.
 *
 * @internal
 */
export const live = (store: CheckpointStore["Service"], journal: Journal) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.acquireUseRelease(
    Effect.sync(() => {
      const runs = running.get(store) ?? new Map<string, Journal>()
      running.set(store, runs.set(journal.runId, journal))
      return runs
    }),
    () => self,
    (runs) =>
      Effect.sync(() => {
        if (runs.get(journal.runId) === journal) runs.delete(journal.runId)
      })
  )

/** @internal */
export const stop = (
  store: CheckpointStore["Service"],
  runId: string,
  error: CheckpointStoreError
): Effect.Effect<void> => Effect.suspend(() => running.get(store)?.get(runId)?.breakDown(error) ?? Effect.void)
