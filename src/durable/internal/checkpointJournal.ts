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
 * What the journal knows about a step: `attempts` counts the intents written for it, `position` is that of the last
 * record about it. `failure` tells unremembered failures apart.
 *
 * @internal
 */
export type Outcome =
  & (
    | { readonly _tag: "Open"; readonly failure: string }
    | { readonly _tag: "Intended" }
    | { readonly _tag: "Succeeded"; readonly value: Schema.Json }
    | { readonly _tag: "Failed"; readonly error: Schema.Json }
  )
  & { readonly attempts: number; readonly position: number }

interface Placed {
  readonly entry: string
  /** Where the first record about it stands in the journal. */
  readonly first: number
}

interface Branch {
  /** How many steps and groups the scope around had been asked for when the branch was opened. */
  readonly opened: number
  readonly first: number
}

type WithoutTime<R> = R extends { readonly at: number } ? Omit<R, "at"> : never
type RunCompleted = Extract<Record.Record, { readonly _tag: "RunCompleted" }>

/** @internal */
export interface Journal {
  readonly runId: string
  /** The first record and the last word on the run's status, or undefined for a journal without records. */
  readonly opened: Extract<Record.Record, { readonly _tag: "RunOpened" }> | undefined
  readonly status: RunStatus
  readonly outcome: (id: string) => Outcome | undefined
  /** Why a step or group may not go on: the journal is broken, closed, or expects another one in its place. */
  readonly refusal: (
    scope: Scope.Scope,
    claim: Scope.Claim
  ) => CheckpointStoreError | CheckpointMismatch | undefined
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
  /** What the program was refused first, whether it let that be known or not. */
  readonly mismatched: () => CheckpointMismatch | undefined
  /** A step that may have taken effect, and whose fate nobody told the program. */
  readonly unresolved: () => CheckpointMismatch | undefined
  /** Notes that the program was told about the fate of a step, whatever it is. */
  readonly told: (id: string) => void
  /** Whether the run was completed, and nothing has been executed in it since. */
  readonly isCompleted: () => boolean
  /** Notes that something is executed, so that what comes after it may be new even in a completed run. */
  readonly executing: () => void
  /** What the record of a completed run tells about the places that no record stands in. */
  readonly ending: (root: Scope.Scope) => Pick<RunCompleted, "steps" | "scopes">
  /** From now on no step may be called, nor write its result. */
  readonly close: () => void
  readonly appendRun: (
    record: WithoutTime<Exclude<Record.Record, Record.StepRecord>>,
    status: RunStatus
  ) => Effect.Effect<void, CheckpointStoreError>
  readonly appendStep: (
    step: string,
    record: WithoutTime<Record.StepRecord>
  ) => Effect.Effect<void, CheckpointStoreError | CheckpointMismatch>
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

const outcomeAfter = (
  record: WithoutTime<Record.StepRecord>,
  before: Outcome | undefined,
  position: number
): Outcome => {
  const attempts = before?.attempts ?? 0
  switch (record._tag) {
    case "StepIntended":
      return { _tag: "Intended", attempts: attempts + 1, position }
    case "StepReleased":
      return { _tag: "Open", failure: "", attempts, position }
    case "StepSucceeded":
      return { _tag: "Succeeded", value: record.value, attempts, position }
    case "StepFailed":
      return record.error === undefined
        ? { _tag: "Open", failure: `${record.verdict} ${record.tag ?? ""}`, attempts, position }
        : { _tag: "Failed", error: record.error, attempts, position }
  }
}

const isSameFailure = (before: Outcome | undefined, after: Outcome): boolean =>
  before?._tag === "Open" && after._tag === "Open" && before.failure === after.failure

const isInStep = (path: string, step: string): boolean => path === step || path.startsWith(`${step}/`)

const getOrPut = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
  const found = map.get(key)
  if (found !== undefined) return found
  const made = make()
  map.set(key, made)
  return made
}

/** @internal */
export const readRecords = Effect.fnUntraced(function*(store: CheckpointStore["Service"], runId: string) {
  const records: Array<{ readonly position: number; readonly step: string; readonly record: Record.Record }> = []
  for (const { body, position, step } of yield* store.read(runId)) {
    const corrupt = (detail: string) => new CheckpointCorrupt({ runId, step, detail })
    if (position !== records.length) {
      return yield* corrupt(`record ${records.length} is missing, the next one is ${position}`)
    }
    const record = yield* Effect.mapError(Record.decode(body), (error) => corrupt(Record.where(error, body)))
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
  const summary = yield* store.get(runId)
  const counted = Option.isSome(summary) ? summary.value.entries : 0
  if (counted !== records.length) {
    const detail = `the store counts ${counted} records of it and has ${records.length}`
    return yield* new CheckpointCorrupt({ runId, step: "", detail })
  }
  const outcomes = new Map<string, Outcome>()
  /** By scope, what stands at which ordinal. A place is empty if what was asked for there gave no result. */
  const lines = new Map<string, Array<Placed | undefined>>()
  /** By scope, the branches opened there by key; by id, the scopes of a group's branches. */
  const branches = new Map<string, Map<string, Branch>>()
  const groups = new Map<string, Set<string>>()
  /** By scope, the first place whose step failed once more as it had failed before. */
  const failedAgain = new Map<string, number>()
  /** By scope, how many steps and groups this program asked for. */
  const asked = new Map<string, number>()
  const told = new Set<string>()
  let opened: Journal["opened"]
  let status: RunStatus = "running"
  let length = records.length
  let ending: RunCompleted | undefined
  let failure: CheckpointStoreError | undefined
  let closed = false
  const broken = yield* Deferred.make<never, CheckpointStoreError>()
  const writing = yield* Semaphore.make(1)

  // What was recorded on a way that the program has left answers nobody on the way that it takes now: its names mean
  // other things there. Of an attempt that must not happen twice only its reconcile can tell.
  const takeBack = (isStale: (path: string) => boolean) => {
    for (const [id, outcome] of outcomes) {
      if (!isStale(id)) continue
      const { _tag, attempts, position } = outcome
      if (attempts === 0) outcomes.delete(id)
      else if (_tag === "Open" || _tag === "Failed") outcomes.set(id, { _tag: "Open", failure: "", attempts, position })
      else outcomes.set(id, { _tag: "Intended", attempts, position })
    }
    for (const map of [lines, branches, groups]) {
      for (const scope of map.keys()) if (isStale(scope)) map.delete(scope)
    }
  }

  const takeBackPlaces = (scope: string, isStale: (placed: Placed, ordinal: number) => boolean) => {
    const line = lines.get(scope) ?? []
    line.forEach((placed, ordinal) => {
      if (placed === undefined || !isStale(placed, ordinal)) return
      line[ordinal] = undefined
      const path = Scope.join(scope, placed.entry)
      if (!path.endsWith("[]")) return takeBack((other) => isInStep(other, path))
      const group = path.slice(0, -1)
      groups.delete(group.slice(0, -1))
      takeBack((other) => other.startsWith(group))
    })
    while (line.length > 0 && line.at(-1) === undefined) line.pop()
  }

  const takeBackBranches = (scope: string, isStale: (branch: Branch, path: string) => boolean) => {
    const known = branches.get(scope)
    known?.forEach((branch, path) => {
      if (!isStale(branch, path)) return
      known.delete(path)
      takeBack((other) => isInStep(other, path))
    })
  }

  const takeBackFrom = (scope: string, ordinal: number) => {
    takeBackPlaces(scope, (_, other) => other >= ordinal)
    takeBackBranches(scope, (branch) => branch.opened > ordinal)
  }

  // The scopes in which something may have come after a step because of what it gave, from the inside to the outside.
  // The record of a step around decides about what came after that step; groups and branches have no record of theirs.
  const after = function*(parts: ReadonlyArray<Scope.Part>) {
    for (const [index, part] of parts.toReversed().entries()) {
      if (part.kind === "reconcile" || (index > 0 && part.kind === "step")) return
      yield part
    }
  }

  // A step that comes to something else than before, or to something for the first time, takes back what an earlier
  // attempt at the program recorded after it: there a failure that was not remembered, or an interruption, sent the
  // program the way it went. A branch may run beside the steps of the scope around, so what was recorded there came
  // after it only if the branch had gone on from a failure before.
  const comesTo = (parts: ReadonlyArray<Scope.Part>, before: Outcome | undefined) => {
    for (const { kind, ordinal, path, scope } of after(parts)) {
      if (kind !== "branch") takeBackFrom(scope, ordinal + 1)
      else if (before?._tag === "Open") {
        takeBackPlaces(scope, (placed) => placed.first > before.position)
        takeBackBranches(scope, (branch, other) => other !== path && branch.first > before.position)
      }
    }
  }

  const failsAgain = (parts: ReadonlyArray<Scope.Part>) => {
    for (const { kind, ordinal, scope } of after(parts)) {
      if (kind !== "branch") failedAgain.set(scope, Math.min(ordinal, failedAgain.get(scope) ?? ordinal))
    }
  }

  const put = (scope: string, ordinal: number, entry: string, first: number) => {
    const line = getOrPut(lines, scope, () => [])
    const placed = line[ordinal]
    if (placed !== undefined && placed.entry !== entry) takeBackFrom(scope, ordinal)
    line[ordinal] ??= { entry, first }
  }

  const place = (step: string, record: WithoutTime<Record.StepRecord>, position: number) => {
    const parts = Scope.parts(step, record.order)
    const before = outcomes.get(step)
    const outcome = outcomeAfter(record, before, position)
    if (isSameFailure(before, outcome)) failsAgain(parts)
    else comesTo(parts, before)
    for (const [index, { entry, kind, ordinal, path, scope }] of parts.entries()) {
      if (kind === "branch") {
        getOrPut(getOrPut(branches, scope, () => new Map<string, Branch>()), path, () => ({
          opened: ordinal,
          first: position
        }))
      } else if (kind !== "reconcile") {
        // A step that only failed binds nobody: it leaves its place free.
        if (index < parts.length - 1 || outcome._tag !== "Open") put(scope, ordinal, entry, position)
        else {
          const line = lines.get(scope)
          if (line?.[ordinal]?.entry === entry) line[ordinal] = undefined
        }
        if (kind === "group") getOrPut(groups, Scope.join(scope, entry.slice(0, -2)), () => new Set<string>()).add(path)
      }
    }
    outcomes.set(step, outcome)
  }

  for (const { position, record, step } of records) {
    status = statusAfter(record, status)
    if (isStep(record)) place(step, record, position)
    else if (record._tag === "RunOpened") opened = record
    // Where the scopes ended when the run completed, unless a gap has sent the program another way since.
    ending = record._tag === "RunCompleted" ? record : undefined
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

  const append = <E = never>(
    step: string,
    record: WithoutTime<Record.Record>,
    next: RunStatus | undefined,
    refused: () => Effect.Effect<void, E> = () => Effect.void
  ) =>
    writing.withPermit(Effect.gen(function*() {
      if (failure !== undefined) return yield* failure
      yield* refused()
      const at = yield* Clock.currentTimeMillis
      // Every value in a record is JSON already: that this does not encode is not a failure of the world.
      const body = yield* Effect.orDie(Record.encode({ ...record, at }))
      yield* Effect.tapCause(store.append(lease, [{ position: length, step, body }], next), giveUp)
      return length++
    })).pipe(Effect.uninterruptible)

  const mismatch = (
    reason: CheckpointMismatch["reason"],
    scope: string,
    expected: string,
    found: string
  ) => {
    const error = new CheckpointMismatch({ runId, reason, scope, expected, found })
    if (reason === "Order") mismatched ??= error
    return error
  }
  let mismatched: CheckpointMismatch | undefined

  const theEnd = "its end"

  const ended = (step: string) => mismatch("Ended", "", theEnd, `step "${step}"`)

  const endOf = (scope: string, completed: RunCompleted): number =>
    scope === "" ? completed.steps : Math.max(lines.get(scope)?.length ?? 0, completed.scopes?.[scope] ?? 0)

  const journal: Journal = {
    runId,
    opened,
    status,
    outcome: (id) => outcomes.get(id),
    refusal: (scope, { entry, id, ordinal }) => {
      if (failure !== undefined) return failure
      if (closed) return ended(id)
      const found = Scope.describe(entry)
      const wanted = lines.get(scope.path)?.[ordinal]?.entry
      if (wanted === undefined) {
        if (ending !== undefined && ordinal >= endOf(scope.path, ending)) {
          return mismatch("Order", scope.path, theEnd, found)
        }
      } else if (wanted !== entry) {
        // What fails once more may, for all its tag says, have failed for another reason.
        if ((failedAgain.get(scope.path) ?? ordinal) >= ordinal) {
          return mismatch("Order", scope.path, Scope.describe(wanted), found)
        }
        takeBackFrom(scope.path, ordinal)
      }
      asked.set(scope.path, ordinal + 1)
      return undefined
    },
    unremembered: (scope, claim) => {
      const { position } = outcomes.get(claim.id) ?? {}
      for (const { kind, ordinal, path, scope: around } of after(Scope.parts(claim.id, claim.order))) {
        const isBehind = ({ first }: Placed, other: number) =>
          kind === "branch" ? position !== undefined && first > position : other > ordinal
        const placed = lines.get(around)?.find((placed, other) => placed !== undefined && isBehind(placed, other))
        const branch = Array.from(branches.get(around) ?? []).find(([other, { first, opened }]) =>
          kind === "branch" ? other !== path && position !== undefined && first > position : opened > ordinal
        )
        const behind = placed === undefined ? branch && `the branch "${branch[0]}"` : Scope.describe(placed.entry)
        if (behind !== undefined) {
          return mismatch("Unremembered", scope.path, behind, Scope.describe(claim.entry))
        }
      }
      return undefined
    },
    leftOver: (scope) => {
      const wanted = lines.get(scope.path)?.slice(scope.next).find((placed) => placed !== undefined)
      return wanted === undefined
        ? undefined
        : mismatch("Order", scope.path, Scope.describe(wanted.entry), theEnd)
    },
    missingBranch: (scope, claim, paths) => {
      for (const path of groups.get(claim.id) ?? []) {
        if (!paths.has(path)) {
          return mismatch("Order", scope.path, `the branch "${path}"`, `${Scope.describe(claim.entry)} without it`)
        }
      }
      return undefined
    },
    mismatched: () => mismatched,
    unresolved: () => {
      for (const [id, { _tag }] of outcomes) {
        if (_tag === "Intended" && !told.has(id)) return mismatch("Unresolved", "", `step "${id}"`, theEnd)
      }
      return undefined
    },
    told: (id) => {
      told.add(id)
    },
    isCompleted: () => ending !== undefined,
    executing: () => {
      ending = undefined
    },
    ending: (root) => {
      const open = Array.from(asked).filter(([scope, next]) => scope !== "" && next > (lines.get(scope)?.length ?? 0))
      return open.length === 0 ? { steps: root.next } : { steps: root.next, scopes: Object.fromEntries(open) }
    },
    close: () => {
      closed = true
    },
    appendRun: (record, next) => Effect.asVoid(append("", record, next)),
    appendStep: (step, record) =>
      Effect.map(
        append(step, record, undefined, () => closed ? Effect.fail(ended(step)) : Effect.void),
        (position) => place(step, record, position)
      ),
    isBroken: () => failure !== undefined,
    breakDown,
    broken: Deferred.await(broken)
  }
  return journal
})
