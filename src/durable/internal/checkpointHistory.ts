import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type { CheckpointStore, CheckpointStoreError, Entry, RunStatus } from "../CheckpointStore.ts"
import { CheckpointCorrupt } from "./checkpointErrors.ts"
import * as Record from "./checkpointRecord.ts"
import { type Undoables, undoables } from "./checkpointUndo.ts"

/** @internal */
export interface Positioned<R extends Record.Record = Record.Record> {
  readonly position: number
  readonly step: string
  readonly record: R
}

/**
 * What the records of a journal come to once migrations and rollbacks are reckoned in.
 *
 * @internal
 */
export interface History {
  readonly length: number
  readonly status: RunStatus
  readonly salt: string
  readonly version: number
  readonly input: Schema.Json | undefined
  /** The records about steps that count. */
  readonly steps: ReadonlyArray<Positioned<Record.StepRecord>>
  /** The last record, if it says that the run was completed. */
  readonly ending: Extract<Record.Record, { readonly _tag: "RunCompleted" }> | undefined
  /** The attempts that must not happen twice, and that a rollback took back: how many of each step. */
  readonly undone: ReadonlyMap<string, number>
  readonly undoables: Undoables
  /** What stands before is of the run that this one was forked from. */
  readonly forked: number
}

/** @internal */
export const statusAfter = (record: Record.Record, before: RunStatus): RunStatus => {
  switch (record._tag) {
    case "RunOpened":
    case "RunResumed":
      return "running"
    case "RunSuspended":
      return record.escalationId === undefined ? "suspended" : "escalated"
    case "RunRolledBack":
    case "RunForked":
    case "RunRevived":
      return "suspended"
    case "RunCompleted":
      return "completed"
    case "RunFailed":
      return "failed"
    case "RunCancelled":
      return "cancelled"
    case "RunDeadLettered":
      return "deadLettered"
    default:
      return before
  }
}

/**
 * Reads the records of a run. What cannot be read, for the store or for this code, is `CheckpointCorrupt`.
 *
 * @internal
 */
export const read = Effect.fnUntraced(function*<Refused = never>(
  store: CheckpointStore["Service"],
  runId: string,
  refusal?: (entry: Entry) => Refused | undefined
): Effect.fn.Return<ReadonlyArray<Positioned>, CheckpointCorrupt | CheckpointStoreError | Refused> {
  const records: Array<Positioned> = []
  for (const entry of yield* Effect.mapError(store.read(runId), unreadable(runId))) {
    const { body, position, step } = entry
    const corrupt = (detail: string) => new CheckpointCorrupt({ runId, step, detail })
    if (position !== records.length) {
      return yield* corrupt(`record ${records.length} is missing, the next one is ${position}`)
    }
    const refused = refusal?.(entry)
    if (refused !== undefined) return yield* Effect.fail(refused)
    const record = yield* Effect.mapError(Record.decode(body), (error) => corrupt(Record.where(error, body)))
    if ((record._tag === "RunOpened") !== (position === 0)) {
      return yield* corrupt(position === 0 ? "it does not open the run" : "it opens the run a second time")
    }
    if (Record.isStep(record) && record.order.length !== step.split("/").length) {
      return yield* corrupt("its order does not belong to its id")
    }
    if (record._tag === "RunRolledBack" && (record.to < 1 || record.to > position)) {
      return yield* corrupt("it rolls the run back to where it has never been")
    }
    records.push({ position, step, record })
  }
  return records
})

/** @internal */
export const unreadable = (runId: string) => (error: CheckpointStoreError): CheckpointStoreError | CheckpointCorrupt =>
  error.reason._tag === "Corrupt" ? new CheckpointCorrupt({ runId, step: "", detail: error.reason.detail }) : error

/**
 * Reckons up the records of a run, or gives nothing if there is none.
 *
 * @internal
 */
export const reckon = (records: ReadonlyArray<Positioned>): History | undefined => {
  const opened = records[0]?.record
  if (opened?._tag !== "RunOpened") return undefined
  let { input, version } = opened
  let status: RunStatus = "running"
  let ending: History["ending"]
  let steps: Array<Positioned<Record.StepRecord>> = []
  const undone = new Map<string, number>()
  const undo = undoables()
  let forked = 0
  for (const { position, record, step } of records) {
    status = statusAfter(record, status)
    // Where the scopes ended when the run completed, unless something has sent the program another way since.
    ending = record._tag === "RunCompleted" ? record : undefined
    if (Record.isStep(record)) {
      undo.track(step, record, position)
      if (record._tag !== "StepUndoable") steps.push({ position, record, step })
    } else if (record._tag === "RunMigrated") {
      input = record.input
      version = record.version
      steps = []
      undone.clear()
      undo.clear()
    } else if (record._tag === "RunForked") {
      undo.clear()
      forked = position
    } else if (record._tag === "RunRolledBack") {
      const first = steps.findIndex((step) => step.position >= record.to)
      for (const { record: { _tag }, step } of first < 0 ? [] : steps.splice(first)) {
        if (_tag === "StepIntended") undone.set(step, (undone.get(step) ?? 0) + 1)
        else if (_tag !== "StepSucceeded" && _tag !== "StepOversized") undone.delete(step)
      }
    }
  }
  const { salt } = opened
  return { length: records.length, status, salt, version, input, steps, ending, undone, undoables: undo, forked }
}
