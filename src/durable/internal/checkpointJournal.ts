import * as Arr from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Deferred from "effect/Deferred"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import type * as Schema from "effect/Schema"
import * as Semaphore from "effect/Semaphore"
import {
  type CheckpointStore,
  CheckpointStoreError,
  type Entry,
  type Lease,
  type RunStatus
} from "../CheckpointStore.ts"
import { byteLength } from "./byteLength.ts"
import { CheckpointCorrupt, CheckpointMismatch, RecordTooLarge } from "./checkpointErrors.ts"
import * as History from "./checkpointHistory.ts"
import { type RecordedRun, recordsOf } from "./checkpointMigration.ts"
import { isSameFailure, type Outcome, outcomeAfter, recorded } from "./checkpointOutcome.ts"
import * as Places from "./checkpointPlaces.ts"
import * as Record from "./checkpointRecord.ts"
import { mayStartOver, startOver } from "./checkpointReplay.ts"
import * as Scope from "./checkpointScope.ts"
import { type Undoables, undoables as noUndoables } from "./checkpointUndo.ts"

/**
 * A saga that has failed for good: where its failure stands in the journal, and what that was.
 *
 * @internal
 */
export interface FailedSaga extends Pick<Scope.Claim, "id" | "order"> {
  readonly position: number
  readonly value: Schema.Json
}

type WithoutTime<R> = Record.WithoutTime<R>
type RunRecord = WithoutTime<Exclude<Record.Record, Record.StepRecord>>
type RunCompleted = Extract<Record.Record, { readonly _tag: "RunCompleted" }>

/** @internal */
export interface Journal {
  readonly runId: string
  /** What was read when the run was opened, or undefined for a journal without records. */
  readonly history: History.History | undefined
  /** Tells this run from others that had or will have its id. */
  readonly salt: string
  readonly outcome: (id: string) => Outcome | undefined
  /** How large a record may be. */
  readonly maxRecordBytes: number
  /** All steps, in the order in which they first came, and what they have done, in the order in which it was done. */
  readonly recorded: () => Pick<RecordedRun, "steps" | "undo">
  /** Begins the journal anew with these steps, in one atomic step. It has to be opened once more after that. */
  readonly rewrite: (run: RecordedRun) => Effect.Effect<void, CheckpointStoreError | RecordTooLarge>
  /** Why a step or group may not go on: the journal is broken, closed, or expects another one in its place. */
  readonly refusal: (
    scope: Scope.Scope,
    claim: Scope.Claim
  ) => Refusal | undefined
  /** Why a step that must not happen twice may not run although nothing says that it happened. */
  readonly unremembered: (scope: Scope.Scope, claim: Scope.Claim) => CheckpointMismatch | undefined
  /** What the journal has in a scope after all that the program asked for there. */
  readonly leftOver: (scope: Scope.Scope) => CheckpointMismatch | undefined
  /** The branch of a group that the journal has and the program does not ask for. */
  readonly missingBranch: (
    scope: Scope.Scope,
    claim: Scope.Claim,
    paths: ReadonlySet<string>
  ) => CheckpointMismatch | undefined
  /** From now on no step may begin, and how the run ends is not written: it is for another program to go on with. */
  readonly halt: (error: Halt) => void
  /** Why the journal was halted first, whether the program let that be known or not. */
  readonly halted: () => Halt | undefined
  /** A step that may have taken effect, and whose fate nobody told the program. */
  readonly unresolved: () => CheckpointMismatch | undefined
  /** Notes that the program was told about the fate of a step, whatever it is. */
  readonly told: (id: string) => void
  /** Whether the run was completed, and nothing has been executed in it since. */
  readonly isCompleted: () => boolean
  /** Says that something is executed now: what comes after it may be new, and the run is at work again. */
  readonly executing: Effect.Effect<void, CheckpointStoreError | RecordTooLarge>
  /** Notes that a step is at work, until `executed`. */
  readonly execute: (id: string, atMostOnce: boolean) => void
  readonly executed: (id: string) => void
  /** What the record of a completed run tells about the places that no record stands in. */
  readonly ending: (root: Scope.Scope) => Pick<RunCompleted, "steps" | "scopes">
  /** From now on no step may be called, nor write its result. */
  readonly close: () => void
  /** Writes what was announced, if the program still goes with the journal. */
  readonly flush: Effect.Effect<void, CheckpointStoreError | RecordTooLarge>
  /** A record to be written together with the next one, when something is executed, or with {@link flush}. */
  readonly announce: (record: RunRecord, status: RunStatus) => void
  readonly appendRun: (
    record: RunRecord,
    status: RunStatus
  ) => Effect.Effect<void, CheckpointStoreError | RecordTooLarge>
  readonly appendStep: (
    step: string,
    record: WithoutTime<Record.StepRecord>
  ) => Effect.Effect<void, CheckpointStoreError | CheckpointMismatch | RecordTooLarge>
  /** Writes that a step is going to do what must not happen twice, and makes sure that the run is still its own. */
  readonly intend: (
    step: string,
    record: WithoutTime<Extract<Record.StepRecord, { readonly _tag: "StepIntended" }>>
  ) => Effect.Effect<void, CheckpointStoreError | CheckpointMismatch | RecordTooLarge>
  readonly undoables: Undoables
  /** Notes how a step is undone of which no record says it. Written when a saga around it fails. */
  readonly register: (claim: Scope.Claim, undo: Record.Undo, ran: number) => void
  readonly failedSagas: () => ReadonlyMap<string, FailedSaga>
  /** Writes that a saga has failed for good. From then on no step of it may be called, nor write its result. */
  readonly failSaga: (
    saga: Scope.Claim,
    value: Schema.Json
  ) => Effect.Effect<FailedSaga, CheckpointStoreError | CheckpointMismatch | RecordTooLarge>
  /** Takes a failed saga for whoever undoes it, which is one at a time, and notes that the program knows of its steps. */
  readonly undoing: (saga: string) => boolean
  readonly undoingEnded: (saga: string) => void
  readonly isBroken: () => boolean
  readonly breakDown: (error: CheckpointStoreError) => Effect.Effect<void>
  /** Fails when the journal breaks. */
  readonly broken: Effect.Effect<never, CheckpointStoreError>
}

/** @internal */
export type Halt = CheckpointMismatch | CheckpointCorrupt

/** @internal */
export type Refusal = CheckpointStoreError | Halt

/** @internal */
export interface Options {
  /** Tells a new run from others that had or will have its id. */
  readonly salt: string
  /** How many bytes one record may have. */
  readonly maxRecordBytes: number
  /** How long the lease lasts from a renewal on. */
  readonly ttl: Duration.Duration
  /** Whether the run starts over after every step that it records. */
  readonly alwaysReplay: boolean
  /** Appends what has been done and cannot be known without its record. */
  readonly insisting: CheckpointStore["Service"]["append"]
}

// What was asked for in two statements may be of two owners, where this process stood still between them and was
// followed. Only of a run that it holds still is it certain that what does not fit is damaged.
const ifStillHeld =
  (store: CheckpointStore["Service"], lease: Lease, ttl: Duration.Duration) =>
  (corrupt: CheckpointCorrupt): Effect.Effect<never, CheckpointCorrupt | CheckpointStoreError> =>
    Effect.matchEffect(store.renew(lease, ttl), {
      onSuccess: () => Effect.fail(corrupt),
      onFailure: (error) =>
        Effect.fail(error.reason._tag === "Fenced" || error.reason._tag === "Unavailable" ? error : corrupt)
    })

// Before a step is executed a store that is away costs nothing but the wait. After it only this process knows.
const isDone = ({ _tag }: WithoutTime<Record.StepRecord>): boolean => _tag !== "StepIntended" && _tag !== "StepUndoable"

/**
 * Reads a run's journal once and goes on writing it.
 *
 * @internal
 */
export const open = Effect.fnUntraced(function*(store: CheckpointStore["Service"], lease: Lease, options: Options) {
  const { runId } = lease
  const { insisting, maxRecordBytes } = options
  const tooLarge = (operation: RecordTooLarge["operation"], step: string, body: string) => {
    const bytes = byteLength(body)
    return bytes <= maxRecordBytes
      ? undefined
      : new RecordTooLarge({ runId, step, operation, bytes, limit: maxRecordBytes })
  }
  const whole = Effect.gen(function*() {
    const records = yield* History.read(store, runId, ({ body, step }) => tooLarge("read", step, body))
    const summary = yield* Effect.mapError(store.get(runId), History.unreadable(runId))
    const counted = Option.isSome(summary) ? summary.value.entries : 0
    if (counted !== records.length) {
      const detail = `the store counts ${counted} records of it and has ${records.length}`
      return yield* new CheckpointCorrupt({ runId, step: "", detail })
    }
    return records
  })
  const records = yield* Effect.catchTag(whole, "CheckpointCorrupt", ifStillHeld(store, lease, options.ttl))
  const history = History.reckon(records)
  const places = Places.make()
  /** By scope, how many steps and groups this program asked for. */
  const asked = new Map<string, number>()
  const told = new Set<string>()
  const atWork = new Map<string, boolean>()
  const undoables = history?.undoables ?? noUndoables()
  const registered = new Map<string, WithoutTime<Record.StepRecord>>()
  const failedSagas = new Map<string, FailedSaga>()
  const endedSagas = new Set<string>()
  const undoing = new Set<string>()
  const announced: Array<readonly [record: RunRecord, status: RunStatus]> = []
  let abandoned = lease.abandoned
  let length = records.length
  let ending = history?.ending
  let halted: Halt | undefined
  let failure: CheckpointStoreError | undefined
  let closed = false
  const broken = yield* Deferred.make<never, CheckpointStoreError>()
  const writing = yield* Semaphore.make(1)

  const place = (step: string, record: WithoutTime<Record.StepRecord>, position: number) => {
    const outcome = places.place(step, record, position)
    const saga = Scope.failedSaga(step)
    if (saga !== undefined && outcome._tag === "Succeeded") {
      failedSagas.set(saga, { id: saga, order: record.order.slice(0, -1), position, value: outcome.value })
      endedSagas.add(saga)
    }
  }

  const enter = (step: string, record: WithoutTime<Record.StepRecord>, position: number) => {
    undoables.track(step, record, position)
    if (record._tag !== "StepUndoable") place(step, record, position)
  }

  // A saga whose steps are being undone cannot be taken back: done again, they would be done under the old keys.
  const overturned = (step: string, record: WithoutTime<Record.StepRecord>): FailedSaga | undefined => {
    if (failedSagas.size === 0 || record._tag === "StepUndoable") return undefined
    const before = places.outcomes.get(step)
    if (isSameFailure(before, outcomeAfter(record, before, length))) return undefined
    for (const { kind, ordinal, path, scope } of Places.after(Scope.parts(step, record.order))) {
      for (const saga of failedSagas.values()) {
        const part = Scope.parts(saga.id, saga.order).find((part) => part.scope === scope)
        if (part === undefined || part.path === path) continue
        if (kind === "branch" ? before?._tag === "Open" && saga.position > before.position : part.ordinal > ordinal) {
          return saga
        }
      }
    }
    return undefined
  }

  for (const { position, record, step } of history?.steps ?? []) place(step, record, position)
  // Whoever rolled the run back knows of them: they may be asked for again, but nobody has to.
  for (const [id, attempts] of history?.undone ?? []) {
    if (places.undone(id, attempts)) told.add(id)
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

  // As few steps of the runtime as can be: this is what every step of a program costs.
  const append = <E = never>(
    written: ReadonlyArray<readonly [step: string, record: WithoutTime<Record.Record>]>,
    next: RunStatus | undefined,
    refused: () => E | undefined = () => undefined,
    write = store.append
  ) =>
    Effect.uninterruptible(writing.withPermit(Effect.flatMap(
      Clock.currentTimeMillis,
      (at): Effect.Effect<number, CheckpointStoreError | RecordTooLarge | E> => {
        if (failure !== undefined) return Effect.fail(failure)
        const refusal = refused()
        if (refusal !== undefined) return Effect.fail(refusal)
        const status = next ?? announced.at(-1)?.[1]
        const entries: Array<Entry> = []
        for (const [step, record] of [...announced.map(([record]) => ["", record] as const), ...written]) {
          const body = Record.encode({ ...record, at })
          const refused = tooLarge("write", step, body)
          if (refused !== undefined) return Effect.fail(refused)
          entries.push({ position: length + entries.length, step, body })
        }
        if (!Arr.isReadonlyArrayNonEmpty(entries)) return Effect.succeed(length - 1)
        return Effect.map(Effect.tapCause(write(lease, entries, status), giveUp), () => {
          announced.length = 0
          length += entries.length
          return length - 1
        })
      }
    )))

  // A run that gets on with its work is not one that keeps ending its process.
  const recovered = Effect.suspend(() => {
    if (abandoned === 0) return Effect.void
    abandoned = 0
    return Effect.ignore(store.renew(lease, options.ttl, { recovered: true }))
  })

  const mismatch = (
    reason: CheckpointMismatch["reason"],
    scope: string,
    expected: string,
    found: string
  ) => {
    const error = new CheckpointMismatch({ runId, reason, scope, expected, found })
    if (reason === "Order" || reason === "Undone") halted ??= error
    return error
  }

  const theEnd = "its end"

  const ended = (step: string, scope = "") => mismatch("Ended", scope, theEnd, `step "${step}"`)

  const endedSagaOf = (step: string) => Array.from(endedSagas).find((saga) => Scope.isInSaga(step, saga))

  const refusalOf = (named: string, step: string, record: WithoutTime<Record.StepRecord>) => {
    if (closed) return ended(named)
    const saga = endedSagaOf(named)
    if (saga !== undefined) return ended(named, saga)
    const undone = overturned(step, record)
    return undone && mismatch("Undone", "", `the saga "${undone.id}"`, `step "${named}"`)
  }

  const endings = new Map(Object.entries(ending?.scopes ?? {}))
  const endOf = (scope: string, completed: RunCompleted): number =>
    scope === "" ? completed.steps : Math.max(places.count(scope), endings.get(scope) ?? 0)

  const flush = Effect.suspend(() =>
    announced.length === 0 || halted !== undefined ? Effect.void : Effect.asVoid(append([], undefined))
  )

  const journal: Journal = {
    runId,
    history,
    salt: history?.salt ?? options.salt,
    outcome: (id) => places.outcomes.get(id),
    maxRecordBytes,
    recorded: () => ({
      steps: Array.from(places.outcomes, ([id, outcome]) => ({ id, outcome: recorded(outcome) })),
      undo: undoables.all().toSorted((one, other) => one.position - other.position).map(
        ({ inDoubt, input, name, step: id }) => ({ id, name, input, done: !inDoubt })
      )
    }),
    rewrite: ({ input, version, ...rest }) => {
      const begun = { _tag: "RunMigrated", version, ...(input === undefined ? {} : { input }) } as const
      return Effect.asVoid(append([["", begun], ...recordsOf(rest)], "running"))
    },
    refusal: (scope, { entry, id, ordinal }) => {
      if (failure !== undefined) return failure
      if (closed) return ended(id)
      const saga = endedSagaOf(id)
      if (saga !== undefined) return ended(id, saga)
      if (halted !== undefined) return halted
      const found = Scope.describe(entry)
      const wanted = places.entry(scope.path, ordinal)
      if (wanted === undefined) {
        if (ending !== undefined && ordinal >= endOf(scope.path, ending)) {
          return mismatch("Order", scope.path, theEnd, found)
        }
      } else if (wanted !== entry) {
        // What fails once more may, for all its tag says, have failed for another reason.
        if ((places.failedAgain(scope.path) ?? ordinal) >= ordinal) {
          return mismatch("Order", scope.path, Scope.describe(wanted), found)
        }
        for (const { id, order } of failedSagas.values()) {
          const part = Scope.parts(id, order).find((part) => part.scope === scope.path)
          if (part !== undefined && part.ordinal >= ordinal) {
            return mismatch("Undone", scope.path, `the saga "${id}"`, found)
          }
        }
        places.takeBackFrom(scope.path, ordinal)
      }
      asked.set(scope.path, ordinal + 1)
      return undefined
    },
    unremembered: (scope, claim) => {
      const behind = places.behind(claim)
      return behind === undefined
        ? undefined
        : mismatch("Unremembered", scope.path, behind, Scope.describe(claim.entry))
    },
    leftOver: (scope) => {
      const wanted = places.next(scope.path, scope.next)
      return wanted === undefined ? undefined : mismatch("Order", scope.path, Scope.describe(wanted), theEnd)
    },
    missingBranch: (scope, claim, paths) => {
      for (const path of places.branches(claim.id)) {
        if (!paths.has(path)) {
          return mismatch("Order", scope.path, `the branch "${path}"`, `${Scope.describe(claim.entry)} without it`)
        }
      }
      return undefined
    },
    halt: (error) => {
      halted ??= error
    },
    halted: () => halted,
    unresolved: () => {
      for (const [id, { _tag }] of places.outcomes) {
        if (_tag === "Intended" && !told.has(id)) return mismatch("Unresolved", "", `step "${id}"`, theEnd)
      }
      return undefined
    },
    told: (id) => {
      told.add(id)
    },
    isCompleted: () => ending !== undefined,
    executing: Effect.suspend(() => {
      ending = undefined
      return flush
    }),
    flush,
    execute: (id, atMostOnce) => {
      atWork.set(id, atMostOnce)
    },
    executed: (id) => {
      atWork.delete(id)
    },
    ending: (root) => {
      const open = Array.from(asked).filter(([scope, next]) => scope !== "" && next > places.count(scope))
      return open.length === 0 ? { steps: root.next } : { steps: root.next, scopes: Object.fromEntries(open) }
    },
    close: () => {
      closed = true
    },
    announce: (record, status) => {
      announced.push([record, status])
    },
    appendRun: (record, next) =>
      Effect.asVoid(append([["", record]], next, undefined, record._tag === "RunCompleted" ? insisting : undefined)),
    appendStep: (step, record) => {
      const refused = () => refusalOf(step, step, record)
      const written = append([[step, record]], undefined, refused, isDone(record) ? insisting : undefined)
      return Effect.flatMap(written, (position) => {
        enter(step, record, position)
        const isOver = record._tag === "StepSucceeded" || record._tag === "StepFailed"
        const startsOver = options.alwaysReplay && mayStartOver(step, record, atWork)
        const after = isOver ? recovered : Effect.void
        return startsOver ? Effect.andThen(after, breakDown(startOver)) : after
      })
    },
    // Whoever followed a process that stood still meanwhile found nothing done, and did it.
    intend: Effect.fnUntraced(function*(step, record) {
      const before = yield* Clock.currentTimeMillis
      yield* journal.appendStep(step, record)
      const elapsed = (yield* Clock.currentTimeMillis) - before
      if (elapsed < Duration.toMillis(options.ttl) / 3) return
      yield* Effect.tapCause(store.renew(lease, options.ttl), giveUp)
    }),
    undoables,
    register: ({ id, order }, undo, ran) => {
      if (ran > (history?.forked ?? 0)) registered.set(id, { _tag: "StepUndoable", order, undo, done: true, ran })
    },
    failedSagas: () => failedSagas,
    failSaga: (saga, value) => {
      const { id, order } = Scope.failureOf(saga)
      const late = Array.from(registered).filter(([step]) => Scope.isInSaga(step, saga.id))
      const records = [...late, [id, { _tag: "StepSucceeded", order, value }] as const]
      const refused = () => {
        const refused = refusalOf(saga.id, id, { _tag: "StepSucceeded", order, value })
        // Nothing can come between the failure and what is known of the steps by then.
        if (refused === undefined) endedSagas.add(saga.id)
        return refused
      }
      return Effect.map(append(records, undefined, refused), (position) => {
        records.forEach(([step, record], index) => enter(step, record, position - records.length + 1 + index))
        for (const [step] of late) registered.delete(step)
        return { ...saga, position, value }
      })
    },
    undoing: (saga) => {
      if (undoing.has(saga)) return false
      undoing.add(saga)
      for (const [id, { _tag }] of places.outcomes) if (_tag === "Intended" && Scope.isInSaga(id, saga)) told.add(id)
      return true
    },
    undoingEnded: (saga) => {
      undoing.delete(saga)
    },
    isBroken: () => failure !== undefined,
    breakDown,
    broken: Deferred.await(broken)
  }
  return journal
})
