import * as Arr from "effect/Array"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schedule from "effect/Schedule"
import type * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { InvalidConfig } from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import {
  type CheckpointStore,
  CheckpointStoreError,
  type Entry,
  type Lease,
  type ListOptions,
  type RunStatus,
  type RunSummary
} from "../CheckpointStore.ts"
import {
  type CheckpointCorrupt,
  RollbackTooFar,
  RunExists,
  type RunLeased,
  RunNotFound,
  StepNotFound
} from "./checkpointErrors.ts"
import * as History from "./checkpointHistory.ts"
import * as Held from "./checkpointLease.ts"
import * as Life from "./checkpointLife.ts"
import * as Record from "./checkpointRecord.ts"
import { defaults, stop } from "./checkpointRun.ts"
import * as Scope from "./checkpointScope.ts"

type Store = CheckpointStore["Service"]

/**
 * Lists the runs of the store, oldest first.
 *
 * **Details**
 *
 * A run that the store cannot read is left out and logged. Fails with `CheckpointStoreError`.
 *
 * @category inspecting
 * @since 0.1.0
 */
export const list = (
  options?: ListOptions
): Effect.Effect<ReadonlyArray<RunSummary>, CheckpointStoreError, CheckpointStore> =>
  Life.asking((store) => store.list(options))

/**
 * Tells the status of a run, if there is one.
 *
 * @category inspecting
 * @since 0.1.0
 */
export const status = (
  runId: string
): Effect.Effect<Option.Option<RunStatus>, CheckpointStoreError, CheckpointStore> =>
  Life.asking((store) => Effect.map(store.get(runId), Option.map((run) => run.status)))

/**
 * Follows the status of a run, wherever it is at work: the one it has, and each one that it comes to.
 *
 * **Details**
 *
 * - `pollInterval`: how often the store is asked, default 1 second. A status that the run has for less than that may be
 *   missed.
 *
 * The stream waits for a run that is not there yet. It ends when the run is `completed`, or is not there any more. It
 * fails with `CheckpointStoreError`.
 *
 * **Example** (Waiting for the end)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const program = Effect.sleep("20 millis").pipe(
 *   Checkpoint.run({ id: "r" }),
 *   Effect.forkChild({ startImmediately: true }),
 *   Effect.andThen(Stream.runCollect(Checkpoint.changes("r", { pollInterval: "1 millis" }))),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => ["running", "completed"]
 * ```
 *
 * @category inspecting
 * @since 0.1.0
 */
export const changes = (
  runId: string,
  options: { readonly pollInterval?: Duration.Input | undefined } = {}
): Stream.Stream<RunStatus, CheckpointStoreError, CheckpointStore> => {
  const pollInterval = config.duration("Checkpoint.changes", "pollInterval", options.pollInterval ?? "1 second", {
    minimum: "1 millis"
  })
  return Stream.fromEffectSchedule(status(runId), Schedule.spaced(pollInterval)).pipe(
    Stream.dropWhile(Option.isNone),
    Stream.map(Option.getOrUndefined),
    Stream.changes,
    Stream.takeUntil((status) => status === undefined || status === "completed"),
    Stream.filter((status) => status !== undefined)
  )
}

/**
 * One record of a journal, as {@link inspect} shows it.
 *
 * **Details**
 *
 * `step` is empty for records about the run itself. `at` is in milliseconds since the epoch. `value` is the JSON of a
 * result, of a remembered failure, or of the run's input. `error` is the tag of a failure, `verdict` what it meant.
 * `undo` names the compensation that undoes the step.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecordSummary {
  readonly position: number
  readonly at: number
  readonly kind:
    | "RunOpened"
    | "RunResumed"
    | "RunMigrated"
    | "RunRolledBack"
    | "RunForked"
    | "RunRevived"
    | "RunSuspended"
    | "RunCompleted"
    | "RunFailed"
    | "RunCancelled"
    | "RunDeadLettered"
    | "StepIntended"
    | "StepUndoable"
    | "StepReleased"
    | "StepRetried"
    | "StepOversized"
    | "StepSucceeded"
    | "StepFailed"
    | "SagaFailed"
  readonly step: string
  readonly value?: Schema.Json
  readonly error?: string
  readonly verdict?: string
  readonly undo?: string
}

/**
 * A run with its whole journal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Inspection extends RunSummary {
  readonly version: number
  readonly records: ReadonlyArray<RecordSummary>
}

const summarize = (position: number, step: string, record: Record.Record): RecordSummary => {
  const undo = "undo" in record && record.undo !== undefined ? { undo: record.undo.name } : {}
  const base = { position, at: record.at, kind: record._tag, step, ...undo }
  switch (record._tag) {
    case "RunOpened":
    case "RunMigrated":
      return record.input === undefined ? base : { ...base, value: record.input }
    case "RunFailed":
      return record.error === undefined ? base : { ...base, error: record.error }
    case "StepSucceeded": {
      const saga = Scope.failedSaga(step)
      return { ...base, ...(saga === undefined ? {} : { kind: "SagaFailed", step: saga }), value: record.value }
    }
    case "StepRetried":
      return { ...base, verdict: record.verdict, ...(record.tag === undefined ? {} : { error: record.tag }) }
    case "StepFailed":
      return {
        ...base,
        verdict: record.verdict,
        ...(record.tag === undefined ? {} : { error: record.tag }),
        ...(record.error === undefined ? {} : { value: record.error })
      }
    default:
      return base
  }
}

const found = Effect.fnUntraced(function*(store: Store, runId: string) {
  const summary = yield* Effect.mapError(store.get(runId), History.unreadable(runId))
  return Option.isNone(summary) ? yield* new RunNotFound({ runId }) : summary.value
})

const reckoned = Effect.fnUntraced(function*(store: Store, runId: string) {
  const records = yield* History.read(store, runId)
  const history = History.reckon(records)
  return history === undefined ? yield* new RunNotFound({ runId }) : { history, records }
})

/**
 * Reads the journal of a run. Needs no lease: it may be called while the run is at work.
 *
 * **Details**
 *
 * Fails with `RunNotFound`, `CheckpointCorrupt` (a record does not decode), or `CheckpointStoreError`.
 *
 * **Example** (Looking at a finished run)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const program = Checkpoint.step("sum", { success: Schema.Finite }, Effect.succeed(7)).pipe(
 *   Checkpoint.run({ id: "r", input: [3, 4] }),
 *   Effect.andThen(Checkpoint.inspect("r")),
 *   Effect.map(({ records, status }) => [status, ...records.map((record) => record.kind)]),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => ["completed", "RunOpened", "StepSucceeded", "RunCompleted"]
 * ```
 *
 * @category inspecting
 * @since 0.1.0
 */
export const inspect = (
  runId: string
): Effect.Effect<Inspection, RunNotFound | CheckpointCorrupt | CheckpointStoreError, CheckpointStore> =>
  Life.asking(Effect.fnUntraced(function*(store) {
    const summary = yield* found(store, runId)
    const { history, records } = yield* reckoned(store, runId)
    return {
      ...summary,
      version: history.version,
      records: records.map(({ position, record, step }) => summarize(position, step, record))
    }
  }))

/**
 * Does something to a run that nobody works on. Interrupted, it is done all the same or not at all.
 */
const holding = <A, E, R>(
  runId: string,
  use: (store: Store, lease: Lease) => Effect.Effect<A, E, R>,
  options?: { readonly takeOver: boolean }
): Effect.Effect<A, E | RunLeased | CheckpointCorrupt | CheckpointStoreError, R | CheckpointStore> =>
  Life.asking((store, unbounded) =>
    Effect.uninterruptible(
      Effect.acquireUseRelease(
        Effect.mapError(Held.acquire(unbounded, store, runId, Life.patience, options), Life.leased(runId)),
        (lease) => use(store, lease),
        (lease) => Effect.ignore(Held.release(unbounded, store, lease, Life.patience))
      )
    )
  )

const noted = (record: Record.WithoutTime<Record.Record>) =>
  Effect.map(Clock.currentTimeMillis, (at) => Record.encode({ ...record, at }))

const append = Effect.fnUntraced(function*(
  store: Store,
  lease: Lease,
  position: number,
  record: Record.WithoutTime<Record.Record>,
  status: RunStatus
) {
  yield* store.append(lease, [{ position, step: "", body: yield* noted(record) }], status)
})

/**
 * Deletes a run and its journal, whatever its status.
 *
 * **Details**
 *
 * A run that the store cannot read is deleted, too, where the store can do that. Fails with `RunLeased` while an owner
 * works on the run, `CheckpointCorrupt` if it has to be deleted by hand, or `CheckpointStoreError`. A run that is not
 * there is no failure.
 *
 * @category running
 * @since 0.1.0
 */
export const clear = (
  runId: string
): Effect.Effect<void, RunLeased | CheckpointCorrupt | CheckpointStoreError, CheckpointStore> => {
  const remove = (options?: { readonly takeOver: boolean }) =>
    holding(runId, (store, lease) => store.remove(lease), options)
  // Nobody can work on what cannot be read, whoever holds it.
  return Effect.catchTag(remove(), "CheckpointCorrupt", () => remove({ takeOver: true }))
}

/**
 * Cancels a run, wherever it is at work: what is under way is interrupted, and its `run` fails with `RunCancelled`.
 *
 * **When to use**
 *
 * Use it to stop a run from outside. Interrupting the fiber that runs it stops it too, but leaves it to be resumed.
 *
 * **Details**
 *
 * A run of this process is interrupted at once; one of another process hears of it at its next record or when it renews
 * its lease, after a third of it at the latest. It writes nothing more from the moment this effect has ended. The journal
 * stays; {@link revive} lets the run be resumed. A run that is completed stays completed. Gives the status that the run
 * has then.
 *
 * Fails with `RunNotFound`, `CheckpointCorrupt`, or `CheckpointStoreError`.
 *
 * **Example** (Stopping a run from outside)
 *
 * ```ts import.meta.vitest
 * import { Effect, Fiber } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const run = yield* Checkpoint.step("wait", {}, Effect.never).pipe(
 *     Checkpoint.run({ id: "r" }),
 *     Effect.flip,
 *     Effect.forkChild({ startImmediately: true })
 *   )
 *   yield* Effect.yieldNow
 *   yield* Checkpoint.cancel("r")
 *   return (yield* Fiber.join(run))._tag
 * })
 *
 * await Effect.runPromise(Effect.provide(program, CheckpointStore.layerMemory)) // => "RunCancelled"
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const cancel = (
  runId: string
): Effect.Effect<RunStatus, RunNotFound | CheckpointCorrupt | CheckpointStoreError, CheckpointStore> =>
  Life.asking(Effect.fnUntraced(function*(asked, shared) {
    const { status } = yield* found(asked, runId)
    if (status === "completed" || status === "cancelled") return status
    const cancelled = yield* holding(
      runId,
      Effect.fnUntraced(function*(store, lease) {
        const { entries, status } = yield* found(store, runId)
        if (status === "completed" || status === "cancelled") return status
        yield* append(store, lease, entries, { _tag: "RunCancelled" }, "cancelled")
        return "cancelled"
      }),
      { takeOver: true }
    ).pipe(Effect.catchTag("RunLeased", Effect.die))
    const reason = { _tag: "Fenced", token: 0 } as const
    yield* stop(shared, runId, new CheckpointStoreError({ operation: "cancel", runId, reason }))
    return cancelled
  }))

/**
 * Lets a run that was `cancelled` or `deadLettered` be resumed: it is `suspended` then, and its crashes are counted from
 * nothing.
 *
 * **Details**
 *
 * A run of another status stays as it is, but for its crashes. Fails with `RunNotFound`, `RunLeased`,
 * `CheckpointCorrupt`, or `CheckpointStoreError`.
 *
 * @category running
 * @since 0.1.0
 */
export const revive = (
  runId: string
): Effect.Effect<void, RunNotFound | RunLeased | CheckpointCorrupt | CheckpointStoreError, CheckpointStore> =>
  holding(
    runId,
    Effect.fnUntraced(function*(store, lease) {
      const { entries, status } = yield* found(store, runId)
      if (status !== "cancelled" && status !== "deadLettered") return
      yield* append(store, lease, entries, { _tag: "RunRevived" }, "suspended")
    })
  )

/** Where the first record about a step, or about anything inside of it, stands. */
const positionOf = (
  runId: string,
  steps: ReadonlyArray<History.Positioned<Record.StepRecord>>,
  id: string
): Effect.Effect<number, StepNotFound> => {
  const first = steps.find(({ step }) => step === id || step.startsWith(`${id}/`) || step.startsWith(`${id}[`))
  return first === undefined ? Effect.fail(new StepNotFound({ runId, step: id })) : Effect.succeed(first.position)
}

/**
 * Options of {@link rollback}.
 *
 * **Details**
 *
 * - `to`: the step to go back to, by its id as {@link inspect} shows it. It and all that was recorded after its first
 *   record is taken back. Default: by `steps`.
 * - `steps`: how many finished steps are taken back, default 1.
 * - `limit`: how many finished steps a rollback may take back, default 5. More is `RollbackTooFar`, and changes nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface RollbackOptions {
  readonly to?: string | undefined
  readonly steps?: number | undefined
  readonly limit?: number | undefined
}

/**
 * Takes back the last steps of a run, so that they are executed again when it is resumed.
 *
 * **When to use**
 *
 * Use it when the last steps went wrong in a way that they did not notice: a bad answer of a model, a bug in the program.
 *
 * **Details**
 *
 * Nothing is deleted: the journal gets a record that says what does not count any more. The run is `suspended` then,
 * whatever it was. An `"atMostOnce"` step that is taken back may have taken effect: asked for again, it is not executed
 * but `AmbiguousStep`, or its `reconcile` is asked. What a step has done that can be undone stays known, and is undone if
 * its saga fails. That a saga has failed cannot be taken back.
 *
 * Fails with `RunNotFound`, `RunLeased`, `StepNotFound`, `RollbackTooFar`, `CheckpointCorrupt`, or
 * `CheckpointStoreError`.
 *
 * **Example** (Asking a model once more)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * let asked = 0
 * const report = Checkpoint.step("ask", { success: Schema.Finite }, Effect.sync(() => ++asked)).pipe(
 *   Checkpoint.run({ id: "r" })
 * )
 *
 * const program = Effect.all([report, report, Effect.andThen(Checkpoint.rollback("r"), report)])
 * await Effect.runPromise(Effect.provide(program, CheckpointStore.layerMemory)) // => [1, 1, 2]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const rollback = (
  runId: string,
  options: RollbackOptions = {}
): Effect.Effect<
  void,
  RunNotFound | RunLeased | StepNotFound | RollbackTooFar | CheckpointCorrupt | CheckpointStoreError,
  CheckpointStore
> => {
  const wanted = config.integer("Checkpoint.rollback", "steps", options.steps ?? defaults.rollbackSteps, 1)
  const limit = config.integer("Checkpoint.rollback", "limit", options.limit ?? defaults.rollbackLimit, 1)
  const isFinished = ({ record: { _tag } }: History.Positioned) => _tag === "StepSucceeded" || _tag === "StepFailed"
  return holding(
    runId,
    Effect.fnUntraced(function*(store, lease) {
      const { history: { length, steps } } = yield* reckoned(store, runId)
      const finished = steps.filter(isFinished)
      const to = options.to === undefined
        ? finished.at(-wanted)?.position ?? finished[0]?.position ?? length
        : yield* positionOf(runId, steps, options.to)
      const taken = finished.filter(({ position }) => position >= to).length
      const counted = options.to === undefined ? Math.max(taken, wanted) : taken
      if (counted > limit) return yield* new RollbackTooFar({ runId, steps: counted, limit })
      for (const { position, step } of steps) {
        const saga = position >= to ? Scope.failedSaga(step) : undefined
        if (saga !== undefined) return yield* new RollbackTooFar({ runId, steps: counted, limit, saga })
      }
      yield* append(store, lease, length, { _tag: "RunRolledBack", to }, "suspended")
    })
  )
}

/**
 * Options of {@link fork}.
 *
 * **Details**
 *
 * - `id` of the new run, which must not be there yet.
 * - `from`: the step to go on from, by its id as {@link inspect} shows it: what was recorded before it is taken over, it
 *   and what came after it is not. Default: everything is taken over.
 *
 * @category models
 * @since 0.1.0
 */
export interface ForkOptions {
  readonly id: string
  readonly from?: string | undefined
}

/**
 * Begins a new run with what another one has recorded until a step, and leaves that one as it is.
 *
 * **When to use**
 *
 * Use it to try another way from the middle of a run: another model, a corrected program, a look at what would have been.
 *
 * **Details**
 *
 * The new run has the version and the input of the other one, and is `suspended` until it is resumed under its own id.
 * It is another run: its steps have idempotency keys of their own, and an `"atMostOnce"` step that is not taken over is
 * executed in it too. What it took over is the other run's to undo (`Compensation`). Needs no lease of the other run, which may be at work.
 *
 * Fails with `RunNotFound`, `StepNotFound`, `RunExists`, `RunLeased` (the new id), `CheckpointCorrupt`, or
 * `CheckpointStoreError`.
 *
 * **Example** (Going another way)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const text = { success: Schema.String }
 * const report = (id: string, model: string) =>
 *   Effect.gen(function*() {
 *     const plan = yield* Checkpoint.step("plan", text, Effect.succeed(`planned by ${model}`))
 *     const draft = yield* Checkpoint.step("draft", text, Effect.succeed(`written by ${model}`))
 *     return `${plan}, ${draft}`
 *   }).pipe(Checkpoint.run({ id }))
 *
 * const program = report("r", "small").pipe(
 *   Effect.andThen(Checkpoint.fork("r", { id: "r2", from: "draft" })),
 *   Effect.andThen(report("r2", "large")),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => "planned by small, written by large"
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const fork = (
  runId: string,
  options: ForkOptions
): Effect.Effect<
  void,
  RunNotFound | StepNotFound | RunExists | RunLeased | CheckpointCorrupt | CheckpointStoreError,
  CheckpointStore
> => {
  const id = Life.idOf("Checkpoint.fork", options.id)
  return Life.asking(Effect.fnUntraced(function*(shared) {
    const { history, records } = yield* reckoned(shared, runId)
    const until = options.from === undefined ? records.length : yield* positionOf(runId, history.steps, options.from)
    const salt = (yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)).toString(36)
    const entries: Array<Entry> = records.slice(0, until).map(({ record, step }, position) => ({
      position,
      step,
      body: Record.encode(record._tag === "RunOpened" ? { ...record, salt } : record)
    }))
    entries.push({ position: entries.length, step: "", body: yield* noted({ _tag: "RunForked", from: runId }) })
    yield* holding(
      id,
      Effect.fnUntraced(function*(store, lease) {
        if (Option.isSome(yield* store.get(id))) return yield* new RunExists({ runId: id })
        // All in one: cut off at any point, there is the whole new run or none.
        if (Arr.isReadonlyArrayNonEmpty(entries)) yield* store.append(lease, entries, "suspended")
      })
    )
  }))
}

type Removable = Exclude<RunStatus, "running" | "suspended" | "escalated">

const isRemovable = (status: RunStatus): status is Removable =>
  status !== "running" && status !== "suspended" && status !== "escalated"

/**
 * Options of {@link prune}.
 *
 * **Details**
 *
 * - `olderThan`: how long ago the status or the lease of a run must have changed last. A completed run that is run
 *   again changes its lease.
 * - `statuses`: of the runs to remove, default `["completed"]`. Runs that are to go on (`running`, `suspended`,
 *   `escalated`) are never removed.
 * - `limit`: how many runs at most, the oldest first. Default: all.
 *
 * @category models
 * @since 0.1.0
 */
export interface PruneOptions {
  readonly olderThan: Duration.Input
  readonly statuses?: ReadonlyArray<Removable> | undefined
  readonly limit?: number | undefined
}

/**
 * Removes old runs that have ended, and gives their ids.
 *
 * **Details**
 *
 * Each run is removed as a whole. A run that somebody works on, that has changed meanwhile, or that cannot be read, is
 * left alone. Repeat it
 * with a `Schedule` to bound what the store holds.
 *
 * Fails with `CheckpointStoreError`. Throws `Fault.InvalidConfig` for a status that is never removed.
 *
 * **Example** (Keeping completed runs for a month)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 * import { TestClock } from "effect/testing"
 *
 * const program = Effect.void.pipe(
 *   Checkpoint.run({ id: "old" }),
 *   Effect.andThen(TestClock.adjust("31 days")),
 *   Effect.andThen(Checkpoint.run(Effect.void, { id: "new" })),
 *   Effect.andThen(Checkpoint.prune({ olderThan: "30 days" })),
 *   Effect.provide(CheckpointStore.layerMemory),
 *   Effect.provide(TestClock.layer())
 * )
 *
 * await Effect.runPromise(program) // => ["old"]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const prune = (
  options: PruneOptions
): Effect.Effect<ReadonlyArray<string>, CheckpointStoreError, CheckpointStore> => {
  const age = Duration.toMillis(config.duration("Checkpoint.prune", "olderThan", options.olderThan))
  const limit = options.limit === undefined
    ? Infinity
    : config.integer("Checkpoint.prune", "limit", options.limit, 1)
  const statuses: ReadonlyArray<RunStatus> = options.statuses ?? ["completed"]
  for (const status of statuses) {
    if (isRemovable(status)) continue
    const expected = "statuses of runs that have ended"
    throw new InvalidConfig({ module: "Checkpoint.prune", option: "statuses", value: status, expected })
  }
  return Life.asking(Effect.fnUntraced(function*(store) {
    const updatedBefore = (yield* Clock.currentTimeMillis) - age
    const removed: Array<string> = []
    for (const status of statuses) {
      for (const { runId } of yield* store.list({ status, updatedBefore })) {
        if (removed.length >= limit) return removed
        const isRemoved = yield* holding(
          runId,
          Effect.fnUntraced(function*(store, lease) {
            const run = yield* store.get(runId)
            if (Option.isNone(run) || run.value.status !== status) return false
            yield* store.remove(lease)
            return true
          })
        ).pipe(Effect.catchTags({
          RunLeased: () => Effect.succeed(false),
          CheckpointCorrupt: () => Effect.succeed(false)
        }))
        if (isRemoved) removed.push(runId)
      }
    }
    return removed
  }))
}
