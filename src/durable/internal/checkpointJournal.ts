import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import { type CheckpointStore, CheckpointStoreError, type Lease, type RunStatus } from "../CheckpointStore.ts"
import { CheckpointCorrupt, CheckpointMismatch } from "./checkpointErrors.ts"
import * as Record from "./checkpointRecord.ts"
import * as Scope from "./checkpointScope.ts"

/**
 * What the journal knows about a step. `attempts` counts the intents written for it.
 *
 * @internal
 */
export type Outcome =
  | { readonly _tag: "Open" | "Intended"; readonly attempts: number }
  | { readonly _tag: "Succeeded"; readonly value: Schema.Json; readonly attempts: number }
  | { readonly _tag: "Failed"; readonly error: Schema.Json; readonly attempts: number }

type WithoutTime<R> = R extends { readonly at: number } ? Omit<R, "at"> : never

/** @internal */
export interface Journal {
  readonly runId: string
  /** The first record and the last word on the run's status, or undefined for a journal without records. */
  readonly opened: Extract<Record.Record, { readonly _tag: "RunOpened" }> | undefined
  readonly status: RunStatus
  readonly outcome: (id: string) => Outcome | undefined
  /** Why a step or group may not go on: the journal is broken, or expects another one in its place. */
  readonly refusal: (
    scope: Scope.Scope,
    claim: Scope.Claim
  ) => CheckpointStoreError | CheckpointMismatch | undefined
  /** The step that the journal has in the run's own scope after all that the program asked for. */
  readonly leftOver: (scope: Scope.Scope) => CheckpointMismatch | undefined
  readonly appendRun: (
    record: WithoutTime<Exclude<Record.Record, Record.StepRecord>>,
    status: RunStatus
  ) => Effect.Effect<void, CheckpointStoreError>
  readonly appendStep: (
    step: string,
    record: WithoutTime<Record.StepRecord>
  ) => Effect.Effect<void, CheckpointStoreError>
  readonly isBroken: () => boolean
  readonly breakDown: (error: CheckpointStoreError) => Effect.Effect<void>
  /** Fails when the journal breaks. */
  readonly broken: Effect.Effect<never, CheckpointStoreError>
}

const statusAfter = (record: Record.Record, before: RunStatus): RunStatus => {
  switch (record._tag) {
    case "RunOpened":
    case "RunResumed":
      return "running"
    case "RunSuspended":
      return record.escalationId === undefined ? "suspended" : "escalated"
    case "RunCompleted":
      return "completed"
    case "RunFailed":
      return "failed"
    default:
      return before
  }
}

const isStep = (record: Record.Record): record is Record.StepRecord => "order" in record

const isForgotten = (record: WithoutTime<Record.StepRecord>): boolean =>
  record._tag === "StepReleased" || (record._tag === "StepFailed" && record.error === undefined)

const outcomeAfter = (record: Record.StepRecord, attempts: number): Outcome => {
  switch (record._tag) {
    case "StepIntended":
      return { _tag: "Intended", attempts: attempts + 1 }
    case "StepReleased":
      return { _tag: "Open", attempts }
    case "StepSucceeded":
      return { _tag: "Succeeded", value: record.value, attempts }
    case "StepFailed":
      return record.error === undefined
        ? { _tag: "Open", attempts }
        : { _tag: "Failed", error: record.error, attempts }
  }
}

/** @internal */
export const readRecords = Effect.fnUntraced(function*(store: CheckpointStore["Service"], runId: string) {
  const records: Array<{ readonly position: number; readonly step: string; readonly record: Record.Record }> = []
  for (const { body, position, step } of yield* store.read(runId)) {
    const corrupt = (detail: string) => new CheckpointCorrupt({ runId, step, detail })
    if (position !== records.length) {
      return yield* corrupt(`record ${records.length} is missing, the next one is ${position}`)
    }
    const record = yield* Effect.mapError(Record.decode(body), (error) => corrupt(Record.where(error)))
    if ((record._tag === "RunOpened") !== (position === 0)) {
      return yield* corrupt(position === 0 ? "it does not open the run" : "it opens the run a second time")
    }
    if (isStep(record) && record.order.length !== step.split("/").length) {
      return yield* corrupt("its order does not belong to its id")
    }
    records.push({ position, step, record })
  }
  return records
})

/**
 * Reads a run's journal once and goes on writing it.
 *
 * @internal
 */
export const open = Effect.fnUntraced(function*(store: CheckpointStore["Service"], lease: Lease) {
  const { runId } = lease
  const records = yield* readRecords(store, runId)
  const outcomes = new Map<string, Outcome>()
  const expected = new Map<string, Array<string>>()
  let opened: Journal["opened"]
  let status: RunStatus = "running"
  let length = records.length
  let ending: number | undefined
  let failure: CheckpointStoreError | undefined
  const broken = yield* Deferred.make<never, CheckpointStoreError>()
  const writing = yield* Semaphore.make(1)

  // A step that is written at an ordinal takes back what an earlier, interrupted attempt recorded behind it: there a
  // failure that was not remembered, or an interruption, may have sent the program another way.
  // A step that only failed binds nobody: it leaves its place free.
  const place = (step: string, record: WithoutTime<Record.StepRecord>) => {
    const entries = Scope.entries(step, record.order)
    entries.forEach(({ entry, ordinal, scope }, index) => {
      const line = expected.get(scope) ?? []
      line.length = Math.min(line.length, ordinal)
      if (index < entries.length - 1 || !isForgotten(record)) line[ordinal] = entry
      expected.set(scope, line)
    })
  }

  for (const { record, step } of records) {
    status = statusAfter(record, status)
    if (isStep(record)) {
      outcomes.set(step, outcomeAfter(record, outcomes.get(step)?.attempts ?? 0))
      place(step, record)
    } else if (record._tag === "RunOpened") {
      opened = record
    }
    // Where the run's own scope ended when the run completed, unless a gap has sent the program another way since.
    ending = record._tag === "RunCompleted" ? record.steps : undefined
  }

  const breakDown = (error: CheckpointStoreError) =>
    Effect.suspend(() => {
      failure ??= error
      return Effect.asVoid(Deferred.fail(broken, failure))
    })

  // Whatever became of a record that was not acknowledged, only the store knows how long the journal is now.
  const giveUp = (cause: Cause.Cause<CheckpointStoreError>) =>
    breakDown(Option.getOrElse(
      Cause.findErrorOption(cause),
      () =>
        new CheckpointStoreError({
          operation: "append",
          runId,
          reason: { _tag: "Rejected", cause: Cause.squash(cause) }
        })
    ))

  const append = (step: string, record: WithoutTime<Record.Record>, next: RunStatus | undefined) =>
    writing.withPermit(Effect.gen(function*() {
      if (failure !== undefined) return yield* failure
      const at = yield* Clock.currentTimeMillis
      // Every value in a record is JSON already: that this does not encode is not a failure of the world.
      const body = yield* Effect.orDie(Record.encode({ ...record, at }))
      yield* Effect.tapCause(store.append(lease, { position: length, step, body }, next), giveUp)
      length++
    })).pipe(Effect.uninterruptible)

  const mismatch = (scope: Scope.Scope, wanted: string | undefined, found: string) =>
    new CheckpointMismatch({
      runId,
      scope: scope.path,
      expected: wanted === undefined ? "its end" : Scope.describe(wanted),
      found
    })

  const journal: Journal = {
    runId,
    opened,
    status,
    outcome: (id) => outcomes.get(id),
    refusal: (scope, claim) => {
      if (failure !== undefined) return failure
      const wanted = expected.get(scope.path)?.[claim.ordinal]
      if (wanted === claim.entry) return undefined
      const beyond = scope.path === "" && ending !== undefined && claim.ordinal >= ending
      return wanted === undefined && !beyond ? undefined : mismatch(scope, wanted, Scope.describe(claim.entry))
    },
    leftOver: (scope) => {
      const wanted = expected.get(scope.path)?.[scope.next]
      return wanted === undefined ? undefined : mismatch(scope, wanted, "its end")
    },
    appendRun: (record, next) => append("", record, next),
    appendStep: (step, record) =>
      Effect.tap(append(step, record, undefined), () =>
        Effect.sync(() => {
          ending = undefined
          place(step, record)
        })),
    isBroken: () => failure !== undefined,
    breakDown,
    broken: Deferred.await(broken)
  }
  return journal
})
