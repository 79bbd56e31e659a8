import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { canonicalJson } from "../../internal/canonicalJson.ts"
import * as Telemetry from "../../Telemetry.ts"
import { type CheckpointStore, CheckpointStoreError, type RunStatus } from "../CheckpointStore.ts"
import { type CheckpointMismatch, InputNotJson, RunConflict, RunLeased } from "./checkpointErrors.ts"
import type { Journal } from "./checkpointJournal.ts"
import type { Scope } from "./checkpointScope.ts"
import { isSuspension } from "./checkpointStep.ts"

/**
 * Writes the first record of a new run, or says whether an old one may go on with this version and input.
 *
 * @internal
 */
export const opening = Effect.fnUntraced(function*(
  journal: Journal,
  version: number,
  input: { readonly json: Schema.Json; readonly text: string } | undefined
) {
  const { opened, runId } = journal
  if (opened === undefined) {
    return yield* journal.appendRun(
      { _tag: "RunOpened", version, ...(input === undefined ? {} : { input: input.json }) },
      "running"
    )
  }
  if (opened.version !== version) {
    return yield* new RunConflict({
      runId,
      reason: "Version",
      expected: String(opened.version),
      found: String(version)
    })
  }
  // What was read from JSON text is JSON.
  const before = opened.input === undefined ? undefined : Result.getOrThrow(canonicalJson(opened.input))
  if (before !== input?.text) {
    return yield* new RunConflict({
      runId,
      reason: "Input",
      expected: before ?? "none",
      found: input?.text ?? "none"
    })
  }
  if (journal.status === "suspended" || journal.status === "escalated" || journal.status === "failed") {
    yield* journal.appendRun({ _tag: "RunResumed" }, "running")
  }
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
    ? journal.mismatched() ?? journal.leftOver(place) ?? journal.unresolved()
    : undefined
  const ended: Exit.Exit<A, E | CheckpointMismatch> = refused === undefined ? exit : Exit.fail(refused)
  if (Exit.isSuccess(ended)) {
    if (!journal.isCompleted()) {
      yield* journal.appendRun({ _tag: "RunCompleted", ...journal.ending(place) }, "completed")
    }
    yield* changed("completed")
    return ended.value
  }
  const end = endOf(ended)
  if (end !== undefined && journal.status !== "completed" && !journal.isBroken()) {
    // The failure that ended the run is what the caller needs to hear, not that it could not be written down as well:
    // the run is still `running` in the store, as after a crash, and can be resumed.
    yield* Effect.ignore(journal.appendRun(end.record, end.status))
    yield* changed(end.status)
  }
  return yield* ended
})

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

/** @internal */
export const locked = (runId: string) => (error: CheckpointStoreError): CheckpointStoreError | RunLeased =>
  error.reason._tag === "LeaseHeld"
    ? new RunLeased({
      runId,
      holder: error.reason.owner,
      expiresAt: error.reason.expiresAt,
      remaining: error.reason.remaining
    })
    : error

/**
 * A store that answers within a time. What holds a lease is asked for and written where nothing may interrupt it, so it
 * must not wait for ever; and a store that is silent for the time of a lease may have lost it anyway.
 *
 * @internal
 */
export const bounded = (store: CheckpointStore["Service"], limit: Duration.Duration): CheckpointStore["Service"] => {
  const within = (operation: string, runId: string, duration = limit) =>
    Effect.timeoutOrElse({
      duration,
      orElse: () => new CheckpointStoreError({ operation, runId, reason: { _tag: "Unavailable" } })
    })
  return {
    ...store,
    // A lost answer is asked for again before the lease is over.
    renew: (lease, ttl, options) =>
      within("renew", lease.runId, Duration.divideUnsafe(limit, 3))(store.renew(lease, ttl, options)),
    remove: (lease) => within("remove", lease.runId)(store.remove(lease)),
    acquire: (runId, ttl, options) => within("acquire", runId)(store.acquire(runId, ttl, options)),
    release: (lease) => within("release", lease.runId)(store.release(lease)),
    append: (lease, entries, status) => within("append", lease.runId)(store.append(lease, entries, status))
  }
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
