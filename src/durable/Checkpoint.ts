/**
 * Runs whose steps are remembered, so that a program cut off anywhere goes on where it was.
 *
 * A run is opened or resumed by its id. Inside it each step runs once: its result is written to an append-only journal
 * before the program sees it, and a resumed program gets it from there. The program itself is run again from its start
 * and has to ask for the same steps: what depends on time, chance or the world belongs inside a step.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type { Concurrency } from "effect/Types"
import * as config from "../internal/config.ts"
import { Insists } from "../internal/insists.ts"
import * as spans from "../internal/spans.ts"
import type * as Retry from "../policy/Retry.ts"
import * as Telemetry from "../Telemetry.ts"
import { CheckpointStore, type CheckpointStoreError, type Lease } from "./CheckpointStore.ts"
import type {
  AmbiguousStep,
  CheckpointCorrupt,
  CheckpointMismatch,
  ConcurrentSteps,
  InputNotJson,
  RecordTooLarge,
  RunCancelled,
  RunConflict,
  RunDeadLettered,
  RunLeased,
  StepNotEncodable
} from "./internal/checkpointErrors.ts"
import * as Journal from "./internal/checkpointJournal.ts"
import * as Held from "./internal/checkpointLease.ts"
import * as Life from "./internal/checkpointLife.ts"
import type { RecordedRun } from "./internal/checkpointMigration.ts"
import * as Replay from "./internal/checkpointReplay.ts"
import * as Run_ from "./internal/checkpointRun.ts"
import * as Scope from "./internal/checkpointScope.ts"
import * as Step from "./internal/checkpointStep.ts"
import { type UndoBy, undoer } from "./internal/checkpointUndo.ts"

export {
  AmbiguousStep,
  CheckpointCorrupt,
  CheckpointMismatch,
  ConcurrentSteps,
  InputNotJson,
  RecordTooLarge,
  RollbackTooFar,
  RunCancelled,
  RunConflict,
  RunDeadLettered,
  RunExists,
  RunLeased,
  RunNotFound,
  RunSuspended,
  StepNotEncodable,
  StepNotFound
} from "./internal/checkpointErrors.ts"
export {
  type RecordedRun,
  type RecordedStep,
  type RecordedUndo,
  removeStep,
  renameStep,
  type StepOutcome
} from "./internal/checkpointMigration.ts"
export { AlwaysReplay } from "./internal/checkpointReplay.ts"
export { Run } from "./internal/checkpointRun.ts"
export {
  cancel,
  changes,
  clear,
  fork,
  type ForkOptions,
  inspect,
  type Inspection,
  list,
  prune,
  type PruneOptions,
  type RecordSummary,
  revive,
  rollback,
  type RollbackOptions,
  status
} from "./internal/checkpointRuns.ts"
export type { Reconciliation } from "./internal/checkpointStep.ts"
export { current, deadline, idempotencyKey, now, random, sleep, suspend, uuid } from "./internal/checkpointTools.ts"
export type { Undo, UndoBy } from "./internal/checkpointUndo.ts"

type Run = Run_.Run
type Reconciliation<A> = Step.Reconciliation<A>

/**
 * What any step, and any group of branches, can fail with besides its own errors.
 *
 * @category errors
 * @since 0.1.0
 */
export type StepError =
  | CheckpointStoreError
  | CheckpointCorrupt
  | CheckpointMismatch
  | ConcurrentSteps
  | RecordTooLarge
  | StepNotEncodable

/**
 * What any run can fail with besides its program's errors.
 *
 * @category errors
 * @since 0.1.0
 */
export type RunError =
  | CheckpointStoreError
  | CheckpointCorrupt
  | CheckpointMismatch
  | InputNotJson
  | RecordTooLarge
  | RunCancelled
  | RunConflict
  | RunDeadLettered
  | RunLeased

/**
 * Options of {@link run}.
 *
 * **Details**
 *
 * - `id` names the run: what has this id before is resumed. Well-formed text, not empty, without NUL.
 * - `version`: of the program's steps, default 1. A run that another version started is a `RunConflict`, unless
 *   `migrate` says what this version goes on from.
 * - `migrate`: what a run of another version comes to in this one (see {@link renameStep}, {@link removeStep}), or
 *   `undefined` to refuse it. It is asked once; its answer is written, and older versions cannot resume the run then.
 *   Steps may be left out, renamed, put in another order, or put in with a result of their own. Default: none.
 * - `input`: what the run is about, as plain JSON data. A run is resumed only with an equal input; the order of keys
 *   and the spelling of numbers make no difference.
 * - `lease`: how long this process may be silent before another one may take the run over, default 30 seconds. The
 *   lease is renewed at every third of it while the program runs, and released when it ends, however it ends. It is
 *   also how long the store may take for an answer, whether it is asked for the journal or to keep a record; then it is
 *   `Unavailable`. And it is how long what a step came to is offered to a store that is `Unavailable`, first after 100
 *   milliseconds, then ever more rarely, but at every tenth of the lease. (What looks at runs from outside, such as
 *   `inspect` and `cancel`, waits 30 seconds for each answer.)
 * - `maxRecordBytes`: how many bytes of UTF-8 the JSON of one record may have, default 4 MiB (4 194 304).
 * - `maxCrashes`: how often the run may be cut off (its process killed, its lease lost) without finishing a step in
 *   between, default 10. After that it is `deadLettered`, until {@link revive}.
 * - `clearOnSuccess`: whether the run is removed from the store once it has completed, default `false`. The same id
 *   begins a new run then.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunOptions {
  readonly id: string
  readonly version?: number | undefined
  readonly migrate?: ((run: RecordedRun) => RecordedRun | undefined) | undefined
  readonly input?: unknown
  readonly lease?: Duration.Input | undefined
  readonly maxRecordBytes?: number | undefined
  readonly maxCrashes?: number | undefined
  readonly clearOnSuccess?: boolean | undefined
}

/**
 * Opens a run, or resumes the one that has this id, and runs the program in it.
 *
 * **When to use**
 *
 * Use it around a program whose steps must survive a crash. To resume, call it again with the same program, id,
 * version and input, in this process or another one.
 *
 * **Details**
 *
 * The program runs from its start; steps that are in the journal give back what they gave. The run ends `completed`,
 * `failed` (also resumable: steps that failed without a remembered error run again), or, when the program fails with
 * `RunSuspended`, `suspended` or `escalated`. An interrupted run stays `running`, as after a crash.
 *
 * One process at a time works on a run. It holds a lease whose token every record carries to the store: if another
 * process has taken the run over, the next record is refused, and this program is interrupted and fails with
 * `CheckpointStoreError`. A record the store did not acknowledge stops the run in the same way: at once before a step is
 * executed, and after it, when only this process knows what it came to, once the store has been `Unavailable` for the
 * time of the lease. A lease that cannot be given back then ends with its time; this process itself may run the run
 * again, or clear it, as soon as the store is back.
 *
 * How a program failed or suspended the run is told to the caller also where the store could not write it down: the run
 * stays `running` there, as after a crash, and is resumed in the same way.
 *
 * A program that does not go with its journal (`CheckpointMismatch`, `CheckpointCorrupt`) leaves the journal and the
 * run's status as they were: with the program that wrote it, the run goes on.
 *
 * Fails with the program's errors and with
 * - `CheckpointStoreError`: the store could not do what it was asked, or another owner has taken the run over.
 * - `CheckpointCorrupt`: a record does not decode.
 * - `CheckpointMismatch`: the program ended before the journal did, or over an `"atMostOnce"` step whose fate nobody
 *   told it.
 * - `RunConflict`: the run has another input or version.
 * - `RunLeased`: another owner is working on it.
 * - `RunCancelled`, `RunDeadLettered`: it is, and nobody has revived it.
 * - `RecordTooLarge`: its input, or a record of it, is larger than it may be.
 * - `InputNotJson`.
 *
 * **Example** (Resuming where a run failed)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const calls: Array<string> = []
 * let down = true
 *
 * const report = Effect.gen(function*() {
 *   const plan = yield* Checkpoint.step("plan", { success: Schema.String }, Effect.sync(() => {
 *     calls.push("plan")
 *     return "three parts"
 *   }))
 *   yield* Checkpoint.step("publish", {}, Effect.suspend(() => {
 *     calls.push("publish")
 *     return down ? Effect.fail("the site is down") : Effect.void
 *   }))
 *   return plan
 * }).pipe(Checkpoint.run({ id: "report-7", input: { topic: "tides" } }))
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.flip(report)
 *   down = false
 *   return yield* report
 * })
 *
 * await Effect.runPromise(Effect.provide(program, CheckpointStore.layerMemory)) // => "three parts"
 * calls // => ["plan", "publish", "publish"]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run: {
  (
    options: RunOptions
  ): <A, E, R>(
    program: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | RunError, Exclude<R, Run> | CheckpointStore>
  <A, E, R>(
    program: Effect.Effect<A, E, R>,
    options: RunOptions
  ): Effect.Effect<A, E | RunError, Exclude<R, Run> | CheckpointStore>
} = dual(2, <A, E, R>(program: Effect.Effect<A, E, R>, options: RunOptions) => {
  const runId = Life.idOf("Checkpoint.run", options.id)
  const version = config.integer("Checkpoint.run", "version", options.version ?? 1, 0)
  const ttl = config.duration("Checkpoint.run", "lease", options.lease ?? Run_.defaults.lease, { minimum: "1 second" })
  const maxCrashes = config.integer("Checkpoint.run", "maxCrashes", options.maxCrashes ?? Run_.defaults.maxCrashes, 1)
  const maxRecordBytes = config.integer(
    "Checkpoint.run",
    "maxRecordBytes",
    options.maxRecordBytes ?? Run_.defaults.maxRecordBytes,
    1024
  )
  const { clearOnSuccess = false, migrate } = options
  const running = Effect.gen(function*() {
    const input = yield* Life.readInput(runId, options.input)
    const shared = yield* CheckpointStore
    const store = Life.bounded(shared, ttl)
    const alwaysReplay = yield* Replay.AlwaysReplay
    const insisting = (yield* Insists) ? Life.insisting(shared, ttl) : store.append
    const salt = (yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)).toString(36)

    const opened = Effect.fnUntraced(function*(lease: Lease) {
      const open = Journal.open(store, lease, { salt, maxRecordBytes, ttl, alwaysReplay, insisting })
      const opening = { version, input, crashes: lease.abandoned, maxCrashes, migrate }
      const journal = yield* open
      if (!(yield* Life.opening(journal, opening))) return journal
      const rewritten = yield* open
      yield* Life.opening(rewritten, { ...opening, migrate: undefined })
      return rewritten
    })

    const work = Effect.fnUntraced(function*(lease: Lease) {
      const journal = yield* opened(lease)
      if (journal.history?.status !== "completed") {
        yield* Telemetry.emit(() => ({ _tag: "RunChanged", runId, status: "running" }))
      }
      const place = Scope.root()
      // A store that cannot be reached costs nothing yet: as long as nobody took the run over, the lease is good.
      const renewing = Effect.sleep(Duration.divideUnsafe(ttl, 3)).pipe(
        Effect.andThen(Effect.retry(Effect.suspend(() => store.renew(lease, ttl)), {
          while: (error) => error.reason._tag !== "Fenced",
          schedule: Schedule.spaced(Duration.divideUnsafe(ttl, 10))
        })),
        Effect.catch(journal.breakDown),
        // A run that has been at work for so long is told to be, also if it has not come to a new step.
        Effect.andThen(Effect.ignore(journal.flush)),
        Effect.forever
      )
      const watched = Effect.raceAllFirst([
        Effect.provideService(program, Run_.Run, Run_.at(journal, place)),
        journal.broken,
        renewing
      ])
      return yield* Effect.uninterruptibleMask((restore) =>
        Effect.exit(restore(watched)).pipe(
          Effect.flatMap((exit) => Life.closing(journal, place, exit)),
          Effect.tap(clearOnSuccess ? Effect.ignore(store.remove(lease)) : Effect.void)
        )
      ).pipe(Run_.live(shared, journal))
    })

    return yield* Effect.acquireUseRelease(
      Effect.mapError(Held.acquire(shared, store, runId, ttl), Life.leased(runId)),
      (lease) => Effect.retry(work(lease), { while: Replay.isStartOver }),
      // A lease that cannot be given back ends by itself, or when this process asks for the run again.
      (lease) => Effect.ignore(Held.release(shared, store, lease, ttl))
    ).pipe(Effect.catch(Life.cancelled(store, runId)))
  })
  return spans.aroundTraced("checkpoint.run", () => ({ "run.id": runId, "run.version": version }), running)
})

/**
 * Options of {@link step}.
 *
 * **Details**
 *
 * - `success`: how the result is written, default `Schema.Void`, with which only an effect without a value compiles. It
 *   must hold no `Redacted`: JSON would show it in
 *   clear, so such a step fails with `StepNotEncodable` before it runs.
 * - `error`: how a failure is written. With it a failure is remembered and given back on resume; without it, and for an
 *   error that the schema does not accept, the failure is only noted and the step runs again on resume. Give it where
 *   the program handles the failure and goes on, so that a resumed program goes the same way. Where it is missing and
 *   the step comes to something else on resume, what was recorded after it is taken back: idempotent steps run again,
 *   `"atMostOnce"` ones are `AmbiguousStep` or asked about by `reconcile`. An `"atMostOnce"` step is itself not run
 *   again once the program has gone on from its failure (`CheckpointMismatch`).
 * - `effects`: `"idempotent"` (default) runs an unfinished step again. `"atMostOnce"` writes an intent before the step
 *   runs, and an intent without a result is never run again on its own. That goes for a step that suspended the run
 *   too: nobody knows what it had done by then. Ask people before such a step, or in an idempotent step around it.
 * - `reconcile`: finds out whether an unfinished `"atMostOnce"` attempt took effect: {@link happened},
 *   {@link notHappened} (the step runs now) or {@link unknown} (`AmbiguousStep`). It may have steps of its own.
 * - `retry`: when to try again what has failed, and how often, by a `Retry.policy` without a budget. Each failure is
 *   recorded with the time of the next try, so that a resumed run goes on counting, and waits for the rest of a delay.
 *   Once the tries are used up, a run that is resumed after that has as many again.
 *   An `"atMostOnce"` step is tried again only where nothing can have happened. Default: never. A retry inside of the
 *   step (`Retry.apply` around `execute`) begins anew when the run is resumed.
 * - `undo`: how what the step has done is undone if the saga around it fails, a `Compensation`. It is written together
 *   with the result, and before the step runs that it will: an idempotent step has one more record by that.
 *
 * @category models
 * @since 0.1.0
 */
export interface StepOptions<
  Success extends Schema.Constraint,
  Failure extends Schema.Constraint,
  Effects extends "idempotent" | "atMostOnce",
  E2,
  R2,
  R3 = never,
  Input = never
> {
  readonly success?: Success | undefined
  readonly error?: Failure | undefined
  readonly effects?: Effects | undefined
  readonly reconcile?: Effect.Effect<Reconciliation<NoInfer<Success["Type"]>>, E2, R2> | undefined
  readonly retry?: Retry.Policy | undefined
  readonly undo?: UndoBy<NoInfer<Success["Type"]>, Input, R3> | undefined
}

/**
 * Runs an effect once in the life of a run: its result is in the journal before anybody sees it.
 *
 * **Details**
 *
 * A step's identity is the path of its scopes, its name, and from the second time on its occurrence in its scope:
 * `plan`, `section[3]/write`, `turn#2`. Steps called by the effect itself get a scope of their own. Fibers that run at
 * the same time need scopes of their own: see {@link forEach}, {@link all} and {@link within}. Steps that meet in one
 * scope are refused (`ConcurrentSteps`); steps of two fibers that happen not to meet cannot be told from those of one,
 * and would be given each other's results when they come in another order on resume.
 *
 * What a step gives is what its record holds, also the first time: the value as its schema decodes it again.
 *
 * The effect runs with `Fault.Idempotent` set to whether the step is idempotent. With `effects: "atMostOnce"`, a failure
 * with the verdict `Ambiguous`, `TimedOut` or `Malformed`, a defect and an interruption leave the attempt open, exactly
 * as a crash does: on the spot (for an interruption: on resume) `reconcile` decides, or the step fails with
 * `AmbiguousStep`. Any other typed failure says that nothing was done, and the step may run again on resume. A step that
 * may be retried is retried inside: `Checkpoint.step("a", {}, Retry.apply(call, policy))`.
 *
 * Fails with the effect's errors, those of `reconcile`, `AmbiguousStep` (only with `"atMostOnce"`), `ConcurrentSteps`,
 * `CheckpointMismatch` (the journal has another step in this place), `CheckpointCorrupt` (the record does not decode),
 * `StepNotEncodable`, and `CheckpointStoreError` (the record was not acknowledged; the run stops).
 *
 * **Example** (Never paying twice)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const paid: Array<string> = []
 * const pay = Effect.andThen(Effect.sync(() => paid.push("invoice 7")), Effect.die("the process is killed"))
 *
 * const program = Checkpoint.step("pay", { effects: "atMostOnce" }, pay).pipe(
 *   Checkpoint.run({ id: "invoice-7" }),
 *   Effect.catchTag("AmbiguousStep", (error) => Effect.succeed(error.reason))
 * )
 *
 * const twice = Effect.all([program, program]).pipe(Effect.provide(CheckpointStore.layerMemory))
 * await Effect.runPromise(twice) // => ["Died", "Unfinished"]
 * paid // => ["invoice 7"]
 * ```
 *
 * @category steps
 * @since 0.1.0
 */
export const step: {
  // `undefined` makes a difference: an effect of a text passes for one of `void`, and the text would be lost.
  <
    E,
    R,
    Failure extends Schema.Constraint = typeof Schema.Never,
    Effects extends "idempotent" | "atMostOnce" = "idempotent",
    E2 = never,
    R2 = never,
    R3 = never,
    Input = never
  >(
    name: string,
    options: StepOptions<typeof Schema.Void, Failure, Effects, E2, R2, R3, Input> & { readonly success?: undefined },
    execute: Effect.Effect<void | undefined, E, R>
  ): StepEffect<E, R | R3, typeof Schema.Void, Failure, Effects, E2, R2>
  <
    E,
    R,
    Success extends Schema.Constraint,
    Failure extends Schema.Constraint = typeof Schema.Never,
    Effects extends "idempotent" | "atMostOnce" = "idempotent",
    E2 = never,
    R2 = never,
    R3 = never,
    Input = never
  >(
    name: string,
    options: StepOptions<Success, Failure, Effects, E2, R2, R3, Input> & { readonly success: Success },
    execute: Effect.Effect<NoInfer<Success["Type"]>, E, R>
  ): StepEffect<E, R | R3, Success, Failure, Effects, E2, R2>
} = <
  E,
  R,
  Success extends Schema.Constraint,
  Failure extends Schema.Constraint,
  Effects extends "idempotent" | "atMostOnce",
  E2,
  R2,
  R3,
  Input
>(
  name: string,
  options: StepOptions<Success, Failure, Effects, E2, R2, R3, Input>,
  execute: Effect.Effect<NoInfer<Success["Type"]>, E, R>
): StepEffect<E, R | R3, Success, Failure, Effects, E2, R2> =>
  Step.step(
    config.nonEmpty("Checkpoint.step", "name", name),
    {
      success: options.success ?? Schema.Void,
      error: options.error,
      atMostOnce: (options.effects ?? Run_.defaults.effects) === "atMostOnce",
      reconcile: options.reconcile,
      retry: options.retry,
      undo: options.undo === undefined ? undefined : undoer(options.undo)
    },
    execute
  )

type StepEffect<
  E,
  R,
  Success extends Schema.Constraint,
  Failure extends Schema.Constraint,
  Effects extends "idempotent" | "atMostOnce",
  E2,
  R2
> = Effect.Effect<
  Success["Type"],
  E | Failure["Type"] | E2 | StepError | (Effects extends "atMostOnce" ? AmbiguousStep : never),
  | R
  | R2
  | Run
  | Success["DecodingServices"]
  | Success["EncodingServices"]
  | Failure["DecodingServices"]
  | Failure["EncodingServices"]
>

/**
 * Says that the attempt took effect, and what it gave.
 *
 * @category reconciling
 * @since 0.1.0
 */
export const happened = <A>(value: A): Reconciliation<A> => ({ _tag: "Happened", value })

/**
 * Says that the attempt certainly did not take effect, so that the step may run.
 *
 * @category reconciling
 * @since 0.1.0
 */
export const notHappened: Reconciliation<never> = { _tag: "NotHappened" }

/**
 * Says that it could not be found out, which is an `AmbiguousStep`.
 *
 * @category reconciling
 * @since 0.1.0
 */
export const unknown: Reconciliation<never> = { _tag: "Unknown" }

/**
 * Options of {@link forEach} and {@link all}.
 *
 * **Details**
 *
 * - `name` of the group in its branches' paths, default `each` and `all`.
 * - `concurrency`: how many branches run at a time, default 1.
 *
 * @category models
 * @since 0.1.0
 */
export interface GroupOptions {
  readonly name?: string | undefined
  readonly concurrency?: Concurrency | undefined
}

// One branch that waits for a person must not cut off the others in the middle of what they do: they run to their own
// end first, and the group suspends after that.
const branches = <A, E, R>(
  name: string,
  concurrency: Concurrency | undefined,
  items: ReadonlyArray<readonly [key: string, effect: () => Effect.Effect<A, E, R>]>
): Effect.Effect<Array<A>, E | StepError, R | Run> =>
  Step.claiming(config.nonEmpty("Checkpoint", "name", name), Scope.enterGroup, (run_, claim, restore) => {
    const keys = new Set<string>()
    for (const [key] of items) {
      if (keys.has(key)) {
        const branch = `${claim.id}[${key}]`
        return Effect.fail<E | StepError>(Step.concurrent(run_, branch, branch))
      }
      keys.add(key)
    }
    const scopes = items.map(([key]) => Scope.insideGroup(claim, key))
    const missing = run_.journal.missingBranch(run_.place, claim, new Set(scopes.map((scope) => scope.path)))
    if (missing !== undefined) return Effect.fail<E | StepError>(missing)
    const one = ([key, effect]: (typeof items)[number]) =>
      Effect.suspend(() => Step.scoped(Effect.suspend(effect), run_, Scope.insideGroup(claim, key))).pipe(
        Effect.matchEffect({
          onSuccess: (value) => Effect.succeed(Result.succeed(value)),
          onFailure: (error) => Step.isSuspension(error) ? Effect.succeed(Result.fail(error)) : Effect.fail(error)
        })
      )
    return restore(Effect.forEach(items, one, { concurrency: concurrency ?? 1 })).pipe(
      Effect.flatMap((results) => Effect.forEach(results, Effect.fromResult))
    )
  })

/**
 * Runs an effect for every item, each in a scope of its own, so that the steps of parallel branches never meet.
 *
 * **Details**
 *
 * The scope's key is the item's index, or what `key` gives, which has to be different for every item. Choose `key` when
 * the order of the items may differ on resume. The results are in the order of the items. When a branch suspends the
 * run, the others go on to their own end first; any other failure interrupts them.
 *
 * Fails with the effects' errors, with `ConcurrentSteps` (two items of one key, or a step running in the scope around),
 * and with what a {@link step} can fail with.
 *
 * **Example** (Writing sections side by side)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const write = (title: string) =>
 *   Checkpoint.step("write", { success: Schema.String }, Effect.succeed(`About ${title}`))
 *
 * const program = Checkpoint.forEach(["tides", "moons"], write, { name: "section", concurrency: 4 }).pipe(
 *   Checkpoint.run({ id: "report" }),
 *   Effect.andThen(Checkpoint.inspect("report")),
 *   Effect.map((run) => run.records.map((record) => record.step).filter((step) => step !== "")),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => ["section[0]/write", "section[1]/write"]
 * ```
 *
 * @category scopes
 * @since 0.1.0
 */
export const forEach = <A, B, E, R>(
  items: Iterable<A>,
  f: (item: A, index: number) => Effect.Effect<B, E, R>,
  options?: GroupOptions & { readonly key?: ((item: A, index: number) => string) | undefined }
): Effect.Effect<Array<B>, E | StepError, R | Run> =>
  Effect.suspend(() =>
    branches(
      options?.name ?? "each",
      options?.concurrency,
      Array.from(items, (item, index) => [options?.key?.(item, index) ?? String(index), () => f(item, index)])
    )
  )

/**
 * Runs the effects of a tuple or record, each in a scope of its own, named by its index or key. See {@link forEach}.
 *
 * **Example** (Asking two sources at once)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const ask = (source: string) =>
 *   Checkpoint.step("ask", { success: Schema.String }, Effect.succeed(`what ${source} says`))
 *
 * const program = Checkpoint.all({ news: ask("the news"), archive: ask("the archive") }, { concurrency: 2 }).pipe(
 *   Checkpoint.run({ id: "sources" }),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => { news: "what the news says", archive: "what the archive says" }
 * ```
 *
 * @category scopes
 * @since 0.1.0
 */
export const all = <
  const Arg extends ReadonlyArray<Effect.Effect<unknown, unknown, unknown>> | {
    readonly [key: string]: Effect.Effect<unknown, unknown, unknown>
  }
>(
  effects: Arg,
  options?: GroupOptions
): Effect.Effect<
  { -readonly [K in keyof Arg]: Effect.Success<Arg[K]> },
  Effect.Error<Arg[keyof Arg]> | StepError,
  Effect.Services<Arg[keyof Arg]> | Run
> => {
  const keys = Object.keys(effects)
  const items = Object.values(effects).map((effect, index) => [keys[index] ?? "", () => effect] as const)
  const results = Effect.map(
    branches(options?.name ?? "all", options?.concurrency, items),
    (values) => Array.isArray(effects) ? values : Object.fromEntries(values.map((value, index) => [keys[index], value]))
  )
  // The type of each value is known only by its key, which TypeScript cannot follow through an array.
  return results as never
}

/**
 * Runs an effect in a scope of its own, for parallel branches that {@link forEach} and {@link all} do not fit.
 *
 * **Details**
 *
 * Branches of different keys may run at the same time. The same key again, later, is another scope; the same key at
 * the same time fails with `ConcurrentSteps`. Fails with `CheckpointMismatch` if the journal has more steps in the scope
 * than the effect asked for.
 *
 * **Example** (Naming a branch)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const program = Checkpoint.current.pipe(
 *   Checkpoint.within("left"),
 *   Checkpoint.run({ id: "branches" }),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => { runId: "branches", scope: "[left]" }
 * ```
 *
 * @category scopes
 * @since 0.1.0
 */
export const within = (key: string) =>
<A, E, R>(
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E | ConcurrentSteps | CheckpointMismatch, R | Run> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Run_.Run, (run_) => {
      const { branches } = run_.place
      if (branches.has(key)) {
        return Effect.fail<E | ConcurrentSteps | CheckpointMismatch>(Step.concurrent(run_, `[${key}]`, `[${key}]`))
      }
      branches.add(key)
      return restore(Step.scoped(self, run_, Scope.openBranch(run_.place, key))).pipe(
        Effect.ensuring(Effect.sync(() => branches.delete(key)))
      )
    })
  )
