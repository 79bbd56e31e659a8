import { isSameFailure, openOutcome, type Outcome, outcomeAfter } from "./checkpointOutcome.ts"
import type * as Record from "./checkpointRecord.ts"
import * as Scope from "./checkpointScope.ts"

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

/**
 * What a journal says about each step, and where it stands among the others: which step a program that is run again has
 * to ask for next, and what does not count any more because the program has gone another way.
 *
 * @internal
 */
export interface Places {
  /** All steps, in the order in which they first came. */
  readonly outcomes: ReadonlyMap<string, Outcome>
  /** Notes one more record about a step, and gives what is known about the step now. */
  readonly place: (step: string, record: Record.WithoutTime<Record.StepRecord>, position: number) => Outcome
  /** Notes attempts at a step that a rollback took back; says whether that is all that is known of it. */
  readonly undone: (step: string, attempts: number) => boolean
  /** Takes back what was recorded in a scope from a place on. */
  readonly takeBackFrom: (scope: string, ordinal: number) => void
  /** What stands at a place of a scope. */
  readonly entry: (scope: string, ordinal: number) => string | undefined
  /** What stands first in a scope from a place on. */
  readonly next: (scope: string, ordinal: number) => string | undefined
  /** How many places of a scope are known. */
  readonly count: (scope: string) => number
  /** The first place of a scope whose step failed once more as it had failed before. */
  readonly failedAgain: (scope: string) => number | undefined
  /** The branches of a group. */
  readonly branches: (group: string) => Iterable<string>
  /** What was recorded after a step, or after what is known of it. */
  readonly behind: (claim: Scope.Claim) => string | undefined
}

const isInStep = (path: string, step: string): boolean => path === step || path.startsWith(`${step}/`)

const getOrPut = <K, V>(map: Map<K, V>, key: K, make: () => V): V => {
  const found = map.get(key)
  if (found !== undefined) return found
  const made = make()
  map.set(key, made)
  return made
}

/**
 * The scopes in which something may have come after a step because of what it gave, from the inside to the outside. The
 * record of a step around decides about what came after that step; groups and branches have no record of theirs.
 *
 * @internal
 */
export const after = function*(parts: ReadonlyArray<Scope.Part>) {
  for (let index = parts.length - 1; index >= 0; index--) {
    const part = parts[index]
    const isInner = index === parts.length - 1
    if (part === undefined || (part.kind === "undo" && isInner)) continue
    if (part.kind === "reconcile" || part.kind === "undo" || (!isInner && part.kind === "step")) return
    yield part
  }
}

/** @internal */
export const make = (): Places => {
  const outcomes = new Map<string, Outcome>()
  /** By scope, what stands at which ordinal. A place is empty if what was asked for there gave no result. */
  const lines = new Map<string, Array<Placed | undefined>>()
  /** By scope, the branches opened there by key; by id, the scopes of a group's branches. */
  const branches = new Map<string, Map<string, Branch>>()
  const groups = new Map<string, Set<string>>()
  const failedAgain = new Map<string, number>()

  // What was recorded on a way that the program has left answers nobody on the way that it takes now: its names mean
  // other things there. Of an attempt that must not happen twice only its reconcile can tell.
  const takeBack = (isStale: (path: string) => boolean) => {
    for (const [id, outcome] of outcomes) {
      if (!isStale(id)) continue
      const { _tag, attempts, position } = outcome
      const again = { attempts, position }
      if (attempts === 0) outcomes.delete(id)
      else if (_tag === "Open" || _tag === "Failed") outcomes.set(id, { ...again, ...openOutcome })
      else outcomes.set(id, { ...again, _tag: "Intended" })
    }
    for (const map of [lines, branches, groups]) {
      for (const scope of map.keys()) if (isStale(scope)) map.delete(scope)
    }
  }

  const takeBackPlaces = (scope: string, from: number, isStale: (placed: Placed) => boolean) => {
    const line = lines.get(scope) ?? []
    for (let ordinal = from; ordinal < line.length; ordinal++) {
      const placed = line[ordinal]
      if (placed === undefined || !isStale(placed)) continue
      line[ordinal] = undefined
      const path = Scope.join(scope, placed.entry)
      if (path.endsWith("[]")) {
        const group = path.slice(0, -1)
        groups.delete(group.slice(0, -1))
        takeBack((other) => other.startsWith(group))
      } else takeBack((other) => isInStep(other, path))
    }
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
    takeBackPlaces(scope, ordinal, () => true)
    takeBackBranches(scope, (branch) => branch.opened > ordinal)
  }

  // A step that comes to something else than before, or to something for the first time, takes back what an earlier
  // attempt at the program recorded after it: there a failure that was not remembered, or an interruption, sent the
  // program the way it went. A branch may run beside the steps of the scope around, so what was recorded there came
  // after it only if the branch had gone on from a failure before.
  const comesTo = (parts: ReadonlyArray<Scope.Part>, before: Outcome | undefined) => {
    for (const { kind, ordinal, path, scope } of after(parts)) {
      if (kind !== "branch") takeBackFrom(scope, ordinal + 1)
      else if (before?._tag === "Open") {
        takeBackPlaces(scope, 0, (placed) => placed.first > before.position)
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

  const place = (step: string, record: Record.WithoutTime<Record.StepRecord>, position: number) => {
    const parts = Scope.parts(step, record.order)
    const before = outcomes.get(step)
    const latest = outcomeAfter(record, before, position)
    const failsOnceMore = isSameFailure(before, latest)
    // What came after the first of equal failures came of it.
    const outcome = failsOnceMore ? { ...latest, position: before?.position ?? position } : latest
    if (failsOnceMore) failsAgain(parts)
    else comesTo(parts, before)
    for (const [index, { entry, kind, ordinal, path, scope }] of parts.entries()) {
      if (kind === "branch") {
        getOrPut(getOrPut(branches, scope, () => new Map<string, Branch>()), path, () => ({
          opened: ordinal,
          first: position
        }))
      } else if (kind !== "reconcile" && kind !== "undo") {
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
    return outcome
  }

  return {
    outcomes,
    place,
    undone: (step, attempts) => {
      const before = outcomes.get(step)
      if (before !== undefined && before._tag !== "Open") return false
      outcomes.set(step, { _tag: "Intended", position: 0, attempts: (before?.attempts ?? 0) + attempts })
      return true
    },
    takeBackFrom,
    entry: (scope, ordinal) => lines.get(scope)?.[ordinal]?.entry,
    next: (scope, ordinal) => lines.get(scope)?.slice(ordinal).find((placed) => placed !== undefined)?.entry,
    count: (scope) => lines.get(scope)?.length ?? 0,
    failedAgain: (scope) => failedAgain.get(scope),
    branches: (group) => groups.get(group) ?? [],
    behind: (claim) => {
      const { position } = outcomes.get(claim.id) ?? {}
      for (const { kind, ordinal, path, scope } of after(Scope.parts(claim.id, claim.order))) {
        const isBehind = ({ first }: Placed) => position !== undefined && first > position
        const line = lines.get(scope) ?? []
        const placed = kind === "branch"
          ? line.find((placed) => placed !== undefined && isBehind(placed))
          : line.slice(ordinal + 1).find((placed) => placed !== undefined)
        const branch = Array.from(branches.get(scope) ?? []).find(([other, { first, opened }]) =>
          kind === "branch" ? other !== path && position !== undefined && first > position : opened > ordinal
        )
        const behind = placed === undefined ? branch && `the branch "${branch[0]}"` : Scope.describe(placed.entry)
        if (behind !== undefined) return behind
      }
      return undefined
    }
  }
}
