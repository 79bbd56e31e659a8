import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import { InvalidConfig } from "../../Fault.ts"
import { canonicalJson } from "../../internal/canonicalJson.ts"
import * as config from "../../internal/config.ts"
import * as leaving from "../../internal/leaving.ts"
import * as Telemetry from "../../Telemetry.ts"
import { CheckpointStore, CheckpointStoreError, type RunStatus } from "../CheckpointStore.ts"
import {
  CheckpointCorrupt,
  CheckpointMismatch,
  InputNotJson,
  RunCancelled,
  RunConflict,
  RunDeadLettered,
  RunLeased
} from "./checkpointErrors.ts"
import { unreadable } from "./checkpointHistory.ts"
import type { Halt, Journal } from "./checkpointJournal.ts"
import type { RecordedRun } from "./checkpointMigration.ts"
import type { Scope } from "./checkpointScope.ts"
import { isSuspension } from "./checkpointStep.ts"

/**
 * A run's id, if it can be one.
 *
 * @internal
 */
export const idOf = (module: string, id: string): string => {
  const runId = config.nonEmpty(module, "id", id)
  // Stores write text as UTF-8, in which two ids with different halves of surrogate pairs would be the same, and some
  // end a text at NUL.
  if (runId.isWellFormed() && !runId.includes("\0")) return runId
  const expected = "well-formed text, without NUL and halves of surrogate pairs"
  throw new InvalidConfig({ module, option: "id", value: JSON.stringify(runId), expected })
}

/** @internal */
export interface Opening {
  readonly version: number
  readonly input: { readonly json: Schema.Json; readonly text: string } | undefined
  readonly crashes: number
  readonly maxCrashes: number
  readonly migrate: ((run: RecordedRun) => RecordedRun | undefined) | undefined
}

/**
 * Writes the first record of a new run, or says whether an old one may go on with this version and input. Gives whether
 * the journal was written anew for this version, and has to be read once more.
 *
 * @internal
 */
export const opening = Effect.fnUntraced(function*(journal: Journal, options: Opening) {
  const { crashes, input, maxCrashes, version } = options
  const { history, runId } = journal
  if (history === undefined) {
    const opened = { _tag: "RunOpened", version, salt: journal.salt } as const
    yield* journal.appendRun(input === undefined ? opened : { ...opened, input: input.json }, "running")
    return false
  }
  if (history.status === "cancelled") return yield* new RunCancelled({ runId })
  if (history.status === "deadLettered") return yield* new RunDeadLettered({ runId, crashes: maxCrashes })
  if (history.status !== "completed" && crashes >= maxCrashes) {
    yield* journal.appendRun({ _tag: "RunDeadLettered", crashes }, "deadLettered")
    yield* Telemetry.emit(() => ({ _tag: "RunChanged", runId, status: "deadLettered" }))
    return yield* new RunDeadLettered({ runId, crashes })
  }
  if (history.version !== version) {
    const migrated = options.migrate?.({ version: history.version, input: history.input, ...journal.recorded() })
    if (migrated !== undefined) {
      yield* journal.rewrite({ ...migrated, version })
      return true
    }
    return yield* new RunConflict({
      runId,
      reason: "Version",
      expected: String(history.version),
      found: String(version)
    })
  }
  // What was read from JSON text is JSON.
  const before = history.input === undefined ? undefined : Result.getOrThrow(canonicalJson(history.input))
  if (before !== input?.text) {
    return yield* new RunConflict({
      runId,
      reason: "Input",
      expected: before ?? "none",
      found: input?.text ?? "none"
    })
  }
  // Written only when something is executed: a program that does not go with the journal leaves it as it was.
  if (history.status !== "running" && history.status !== "completed") {
    journal.announce({ _tag: "RunResumed" }, "running")
  }
  return false
})

/**
 * Writes how the run ended, and ends with what the program ended with.
 *
 * @internal
 */
export const closing = Effect.fnUntraced(function*<A, E>(
  journal: Journal,
  place: Scope,
  exit: Exit.Exit<A, E>
) {
  const { runId } = journal
  journal.close()
  const changed = (status: RunStatus) => Telemetry.emit(() => ({ _tag: "RunChanged", runId, status }))
  // A program that was refused a step is not the one that the journal is of, also when it has caught the refusal.
  const refused = Exit.isSuccess(exit)
    ? journal.halted() ?? journal.leftOver(place) ?? journal.unresolved()
    : undefined
  const ended: Exit.Exit<A, E | Halt> = refused === undefined ? exit : Exit.fail(refused)
  if (Exit.isSuccess(ended)) {
    if (!journal.isCompleted()) {
      yield* journal.appendRun({ _tag: "RunCompleted", ...journal.ending(place) }, "completed")
    }
    yield* changed("completed")
    return ended.value
  }
  const end = endOf(ended)
  const isWritten = journal.history?.status !== "completed" && !journal.isBroken() && !isForAnother(journal, ended)
  if (end !== undefined && isWritten) {
    // The failure that ended the run is what the caller needs to hear, not that it could not be written down as well:
    // the run is still `running` in the store, as after a crash, and can be resumed.
    yield* Effect.ignore(journal.appendRun(end.record, end.status))
    yield* changed(end.status)
  }
  return yield* ended
})

const isCorrupt = Schema.is(CheckpointCorrupt)
const isMismatch = Schema.is(CheckpointMismatch)

// Whether the run is for another program to go on with, which is to find everything as it was.
const isForAnother = <A, E>(journal: Journal, exit: Exit.Exit<A, E>): boolean => {
  if (journal.halted() !== undefined) return true
  const error = Option.getOrUndefined(Exit.findErrorOption(exit))
  return (isCorrupt(error) || (isMismatch(error) && error.reason === "Unremembered")) && error.runId === journal.runId
}

// A run that was interrupted is neither failed nor suspended: it stays as it is, to be resumed.
const endOf = <A, E>(exit: Exit.Exit<A, E>) => {
  const error = Exit.findErrorOption(exit)
  if (Option.isNone(error)) {
    return Exit.hasDies(exit)
      ? { status: "failed" as const, record: { _tag: "RunFailed" as const, error: "Defect" } }
      : undefined
  }
  if (isSuspension(error.value)) {
    const { escalationId, reason, step } = error.value
    return escalationId === undefined
      ? { status: "suspended" as const, record: { _tag: "RunSuspended" as const, step, reason } }
      : { status: "escalated" as const, record: { _tag: "RunSuspended" as const, step, reason, escalationId } }
  }
  const tag = Predicate.hasProperty(error.value, "_tag") && typeof error.value._tag === "string"
    ? error.value._tag
    : undefined
  return {
    status: "failed" as const,
    record: tag === undefined ? { _tag: "RunFailed" as const } : { _tag: "RunFailed" as const, error: tag }
  }
}

/**
 * What a lease that was lost says where the run was cancelled: that, and not that another owner has it.
 *
 * @internal
 */
export const cancelled =
  (store: CheckpointStore["Service"], runId: string) =>
  <E>(error: E | CheckpointStoreError): Effect.Effect<never, E | CheckpointStoreError | RunCancelled> =>
    isFenced(error) && error.runId === runId
      ? Effect.flatMap(
        Effect.option(store.get(runId)),
        (found) =>
          Effect.fail(
            Option.getOrUndefined(Option.flatten(found))?.status === "cancelled" ? new RunCancelled({ runId }) : error
          )
      )
      : Effect.fail(error)

const isStoreError = Schema.is(CheckpointStoreError)
const isFenced = (error: unknown): error is CheckpointStoreError =>
  isStoreError(error) && error.reason._tag === "Fenced"

/** @internal */
export const leased =
  (runId: string) => (error: CheckpointStoreError): CheckpointStoreError | CheckpointCorrupt | RunLeased =>
    error.reason._tag === "LeaseHeld"
      ? new RunLeased({
        runId,
        holder: error.reason.owner,
        expiresAt: error.reason.expiresAt,
        remaining: error.reason.remaining
      })
      : unreadable(runId)(error)

const failed = (runId: string, operation: string, { reason }: CheckpointStoreError) =>
  Telemetry.emit(() => ({ _tag: "CheckpointStoreFailed", runId, operation, reason: reason._tag }))

/**
 * A store that answers within a time. What holds a lease is asked for and written where nothing may interrupt it, and a
 * run that is read has no time of its own yet, so nothing of it may wait for ever; and a store that is silent for the time
 * of a lease may have lost it anyway.
 *
 * @internal
 */
export const bounded = (store: CheckpointStore["Service"], limit: Duration.Duration): CheckpointStore["Service"] => {
  const asked = <A, R>(
    operation: string,
    runId: string,
    self: Effect.Effect<A, CheckpointStoreError, R>,
    duration = limit
  ) =>
    self.pipe(
      leaving.timeoutOrElse({
        duration,
        orElse: () => Effect.fail(new CheckpointStoreError({ operation, runId, reason: { _tag: "Unavailable" } }))
      }),
      Effect.tapError((error) => failed(runId, operation, error))
    )
  return {
    // A lost answer is asked for again before the lease is over.
    renew: (lease, ttl, options) =>
      asked("renew", lease.runId, store.renew(lease, ttl, options), Duration.divideUnsafe(limit, 3)),
    read: (runId) => asked("read", runId, store.read(runId)),
    get: (runId) => asked("get", runId, store.get(runId)),
    list: (options) =>
      leaving.timeoutOrElse({
        duration: limit,
        orElse: () => Effect.fail(new CheckpointStoreError({ operation: "list", reason: { _tag: "Unavailable" } }))
      })(store.list(options)),
    remove: (lease) => asked("remove", lease.runId, store.remove(lease)),
    acquire: (runId, ttl, options) => asked("acquire", runId, store.acquire(runId, ttl, options)),
    release: (lease) => asked("release", lease.runId, store.release(lease)),
    append: (lease, entries, status) => asked("append", lease.runId, store.append(lease, entries, status))
  }
}

/**
 * How long a store may take where no run says so by its lease.
 *
 * @internal
 */
export const patience = Duration.seconds(30)

/**
 * Asks the store around, within that time.
 *
 * @internal
 */
export const asking = <A, E, R>(
  use: (store: CheckpointStore["Service"], unbounded: CheckpointStore["Service"]) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R | CheckpointStore> => CheckpointStore.use((store) => use(bounded(store, patience), store))

const isUnavailable = (error: unknown) => isStoreError(error) && error.reason._tag === "Unavailable"

/**
 * Appends what has been done, and tries again while the store is unavailable, until the limit is over. Nobody but this
 * process knows of it, and appending exactly the same again is safe.
 *
 * @internal
 */
export const insisting = (
  store: CheckpointStore["Service"],
  limit: Duration.Duration
): CheckpointStore["Service"]["append"] => {
  const longest = Duration.millis(Math.ceil(Duration.toMillis(limit) / 10))
  const schedule = Schedule.min([Schedule.exponential("100 millis"), Schedule.spaced(longest)])
  return (lease, entries, status) =>
    Effect.suspend(() => {
      const { runId } = lease
      let last: CheckpointStoreError | undefined
      const once = Effect.tapError(store.append(lease, entries, status), (error) => {
        last = error
        return failed(runId, "append", error)
      })
      const timedOut = new CheckpointStoreError({ operation: "append", runId, reason: { _tag: "Unavailable" } })
      return Effect.timeoutOrElse(Effect.retry(once, { while: isUnavailable, schedule }), {
        duration: limit,
        orElse: () => last === undefined ? Effect.andThen(failed(runId, "append", timedOut), timedOut) : last
      })
    })
}

/** @internal */
export const readInput = (runId: string, input: unknown) => {
  if (input === undefined) return Effect.succeed(undefined)
  return Effect.fromResult(canonicalJson(input)).pipe(
    Effect.mapError(({ found, path }) => new InputNotJson({ runId, path, found })),
    Effect.flatMap((text) =>
      // The canonical text is JSON, so reading it back cannot fail.
      Effect.map(Effect.orDie(Schema.decodeEffect(inputText)(text)), (json) => ({ json, text }))
    )
  )
}

const inputText = Schema.fromJsonString(Schema.Json)
