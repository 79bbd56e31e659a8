import type * as Schema from "effect/Schema"
import { InvalidConfig } from "../../Fault.ts"
import type * as Record from "./checkpointRecord.ts"
import * as Scope from "./checkpointScope.ts"

/**
 * What became of a step: its result as JSON, a failure that was remembered, one that was not, or an attempt that must
 * not happen twice and of which nobody knows whether it took effect.
 *
 * @category models
 * @since 0.1.0
 */
export type StepOutcome =
  | { readonly _tag: "Succeeded"; readonly value: Schema.Json }
  | { readonly _tag: "Failed"; readonly error: Schema.Json }
  | { readonly _tag: "Unremembered" }
  | { readonly _tag: "Uncertain" }

/**
 * A step of a run, with the path of its scopes in its `id`, as `Checkpoint.inspect` shows it.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecordedStep {
  readonly id: string
  readonly outcome: StepOutcome
}

/**
 * How something is undone that a step of a run has done, or may have done (`done` is `false`), if its saga fails: by
 * which compensation, and from what, as JSON.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecordedUndo {
  readonly id: string
  readonly name: string
  readonly input: Schema.Json | undefined
  readonly done: boolean
}

/**
 * What a run is resumed from: its version and input, its steps in the order in which the program asked for them, and how
 * what they did is undone, in the order in which it was done.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecordedRun {
  readonly version: number
  readonly input: Schema.Json | undefined
  readonly steps: ReadonlyArray<RecordedStep>
  readonly undo: ReadonlyArray<RecordedUndo>
}

const isIn = (id: string, path: string): boolean =>
  id === path || id.startsWith(`${path}/`) || id.startsWith(`${path}[`)

/**
 * Gives a step, or a group of branches, another name in a {@link RecordedRun}, with all that is inside of it. For the
 * `migrate` of `Checkpoint.run`.
 *
 * **Example** (Renaming a step between two versions)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const text = { success: Schema.String }
 * const before = Checkpoint.step("draft", text, Effect.succeed("tides")).pipe(
 *   Effect.andThen(Effect.interrupt),
 *   Checkpoint.run({ id: "report", version: 1 })
 * )
 * const after = Checkpoint.step("outline", text, Effect.succeed("not executed again")).pipe(
 *   Checkpoint.run({ id: "report", version: 2, migrate: Checkpoint.renameStep("draft", "outline") })
 * )
 *
 * const program = Effect.andThen(Effect.exit(before), after).pipe(Effect.provide(CheckpointStore.layerMemory))
 * await Effect.runPromise(program) // => "tides"
 * ```
 *
 * @category migrating
 * @since 0.1.0
 */
export const renameStep = (from: string, to: string) => {
  const renamed = <A extends { readonly id: string }>(one: A): A =>
    isIn(one.id, from) ? { ...one, id: `${to}${one.id.slice(from.length)}` } : one
  return (run: RecordedRun): RecordedRun => ({ ...run, steps: run.steps.map(renamed), undo: run.undo.map(renamed) })
}

/**
 * Leaves a step, or a group of branches, out of a {@link RecordedRun}, with all that is inside of it. What it has done
 * is not undone by that: it is, with the rest, if its saga fails. That it was done is forgotten: a later version that asks
 * for it again executes it again, also an `"atMostOnce"` one. For the `migrate` of `Checkpoint.run`.
 *
 * @category migrating
 * @since 0.1.0
 */
export const removeStep = (id: string) => (run: RecordedRun): RecordedRun => ({
  ...run,
  steps: run.steps.filter((step) => !isIn(step.id, id))
})

const recordOf = (outcome: StepOutcome, order: ReadonlyArray<number>): Record.WithoutTime<Record.StepRecord> => {
  switch (outcome._tag) {
    case "Succeeded":
      return { _tag: "StepSucceeded", order, value: outcome.value }
    case "Failed":
      return { _tag: "StepFailed", order, verdict: "Permanent", error: outcome.error }
    case "Unremembered":
      return { _tag: "StepFailed", order, verdict: "Permanent" }
    case "Uncertain":
      return { _tag: "StepIntended", order }
  }
}

/**
 * The records that a journal begins anew with.
 *
 * @internal
 */
export const recordsOf = ({ steps, undo }: Pick<RecordedRun, "steps" | "undo">) => {
  const scopes = new Map<string, Map<string, number>>()
  const seen = new Set<string>()
  const orderOf = (id: string) => {
    let scope = ""
    return id.split("/").map((part) => {
      const asked = scopes.get(scope) ?? new Map<string, number>()
      scopes.set(scope, asked)
      scope = Scope.join(scope, part)
      const { entry, kind } = Scope.kindOf(part)
      if (kind === "reconcile" || kind === "undo") return -1
      if (kind === "branch") return -1 - asked.size
      const ordinal = asked.get(entry) ?? asked.size
      asked.set(entry, ordinal)
      return ordinal
    })
  }
  const records = steps.map(({ id, outcome }): Written => {
    if (id === "" || seen.has(id)) {
      const expected = "steps with ids of their own"
      throw new InvalidConfig({ module: "Checkpoint.run", option: "migrate", value: JSON.stringify(id), expected })
    }
    seen.add(id)
    return [id, recordOf(outcome, orderOf(id))]
  })
  const undoable = undo.map(({ done, id, input, name }): Written => [id, {
    _tag: "StepUndoable",
    order: orderOf(id),
    undo: { name, ...(input === undefined ? {} : { input }) },
    done
  }])
  return [...records, ...undoable]
}

type Written = readonly [id: string, record: Record.WithoutTime<Record.StepRecord>]
