import type * as Cause from "effect/Cause"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import { format } from "effect/Formatter"
import type { Entry } from "../../durable/CheckpointStore.ts"
import { concluded, describe as describeRecord } from "./crashStore.ts"
import { describe, type Done } from "./crashStory.ts"

/** @internal */
export type Kind = "OtherResult" | "DoneTooOften" | "DoneAgain" | "NotDone" | "RecordLost" | "NeverEnded"

/** @internal */
export interface Finding {
  readonly kind: Kind
  readonly subject: string
  readonly expected: string
  readonly found: string
}

/** What the run without a crash came to. @internal */
export interface Reference<A, E> {
  readonly exit: Exit.Exit<A, E>
  readonly effects: ReadonlyArray<Done>
}

const reasonsOf = (cause: Cause.Cause<unknown>): ReadonlyArray<unknown> =>
  cause.reasons.map((reason) =>
    reason._tag === "Fail" ? ["Fail", reason.error] : reason._tag === "Die" ? ["Die", reason.defect] : ["Interrupt"]
  )

/** Where an error came from, which spans and stack frames tell, makes no difference. @internal */
export const sameExit = (one: Exit.Exit<unknown, unknown>, other: Exit.Exit<unknown, unknown>): boolean =>
  Exit.isSuccess(one)
    ? Exit.isSuccess(other) && Equal.equals(one.value, other.value)
    : Exit.isFailure(other) && Equal.equals(reasonsOf(one.cause), reasonsOf(other.cause))

const shorten = (text: string, length = 500): string => text.length > length ? `${text.slice(0, length)}…` : text

/** @internal */
export const show = (exit: Exit.Exit<unknown, unknown>): string =>
  shorten(
    Exit.isSuccess(exit)
      ? format(exit.value)
      : exit.cause.reasons.map((reason) => {
        if (reason._tag === "Interrupt") return "an interruption"
        const error = reason._tag === "Fail" ? reason.error : reason.defect
        const text = error instanceof Error ? `${error.name}: ${error.message}` : format(error)
        return reason._tag === "Fail" ? `the failure ${text}` : `the defect ${text}`
      }).join(", ")
  )

const times = (n: number): string => n === 1 ? "once" : n === 0 ? "not at all" : `${n} times`

interface Count {
  readonly effect: Done
  done: number
  /** Of these nobody knows whether they took effect. */
  unsure: number
}

type Counts = ReadonlyMap<string, Count>

const none = { done: 0, unsure: 0 }

const overall = ({ label, runId }: Done): string => JSON.stringify([label, runId])
const inScope = ({ label, runId, scope }: Done): string => JSON.stringify([label, runId, scope])

const count = (effects: ReadonlyArray<Done>, keyOf: (effect: Done) => string): Counts => {
  const counts = new Map<string, Count>()
  for (const effect of effects) {
    const key = keyOf(effect)
    const known = counts.get(key) ?? { effect, done: 0, unsure: 0 }
    if (effect.outcome === "done") known.done++
    else known.unsure++
    counts.set(key, known)
  }
  return counts
}

/** What was done, and how often, for comparing two runs without a crash. @internal */
export const doings = (effects: ReadonlyArray<Done>): ReadonlyMap<string, number> =>
  new Map(Array.from(count(effects, inScope), ([key, { done }]) => [key, done]))

// A program that tries again by another step does there what it would have done here: then the sum is what counts.
const tooOften = (found: ReadonlyArray<Done>, expected: ReadonlyArray<Done>): ReadonlyArray<Finding> => {
  const [before, sumNow, sumBefore] = [count(expected, inScope), count(found, overall), count(expected, overall)]
  return Array.from(count(found, inScope)).flatMap(([key, { done, effect }]): ReadonlyArray<Finding> => {
    const once = before.get(key)?.done ?? 0
    const sum = overall(effect)
    const isMoved = once === 0 && (sumNow.get(sum) ?? none).done <= (sumBefore.get(sum) ?? none).done
    return effect.atMostOnce && done > once && !isMoved
      ? [{ kind: "DoneTooOften", subject: describe(effect), expected: times(once), found: times(done) }]
      : []
  })
}

const notDone = (found: ReadonlyArray<Done>, expected: ReadonlyArray<Done>): ReadonlyArray<Finding> => {
  const now = count(found, overall)
  return Array.from(count(expected, overall)).flatMap(([key, { done, effect }]): ReadonlyArray<Finding> => {
    const there = now.get(key) ?? none
    return there.done + there.unsure < done
      ? [{ kind: "NotDone", subject: describe(effect), expected: times(done), found: times(there.done) }]
      : []
  })
}

/**
 * What was done too often or too seldom until a program came to its end. One that ended in another way, as with a
 * failure that says that nobody knows, need not have done all.
 *
 * @internal
 */
export const effects = (
  found: ReadonlyArray<Done>,
  reference: Reference<unknown, unknown>,
  exit: Exit.Exit<unknown, unknown>
): ReadonlyArray<Finding> => {
  const isSameEnd = Exit.isSuccess(exit) || sameExit(reference.exit, exit)
  return [...tooOften(found, reference.effects), ...(isSameEnd ? notDone(found, reference.effects) : [])]
}

/** What was done when all had been done. @internal */
export const afterTheEnd = (effects: ReadonlyArray<Done>): ReadonlyArray<Finding> =>
  effects.filter(({ atMostOnce }) => atMostOnce).map((effect) => ({
    kind: "DoneAgain",
    subject: describe(effect),
    expected: "not any more, the run has completed",
    found: "it was done again when the program was run once more"
  }))

/** Tells the same thing once. @internal */
export const distinct = (findings: ReadonlyArray<Finding>): ReadonlyArray<Finding> =>
  findings.filter(({ kind, subject }, index) =>
    !findings.slice(0, index).some((other) =>
      other.subject === subject && (other.kind === kind || (other.kind === "DoneTooOften" && kind === "DoneAgain"))
    )
  )

const isWithin = (scope: string, step: string): boolean => scope === step || scope.startsWith(`${step}/`)

/** By run, what was in its journal when a life began. @internal */
export type Journals = ReadonlyMap<string, ReadonlyArray<Entry>>

/** What was done in a step that had its result already. @internal */
export const again = (effects: ReadonlyArray<Done>, journals: Journals): ReadonlyArray<Finding> => {
  if (effects.length === 0) return []
  const steps = new Map(Array.from(journals, ([runId, entries]) => [runId, concluded(entries)]))
  return effects.flatMap((effect): ReadonlyArray<Finding> => {
    const known = effect.runId === undefined ? undefined : steps.get(effect.runId)
    const step = Array.from(known ?? []).find((step) => isWithin(effect.scope, step))
    return step === undefined ? [] : [{
      kind: "DoneAgain",
      subject: describe(effect),
      expected: `not any more, step "${step}" has its result in the journal`,
      found: `it was done again in life ${effect.life}`
    }]
  })
}

/** What was acknowledged and is not there. @internal */
export const lostRecord = (
  runId: string,
  acknowledged: ReadonlyMap<number, Entry>,
  records: ReadonlyArray<Entry>
): Finding | undefined => {
  const byPosition = new Map(records.map((entry) => [entry.position, entry]))
  for (const [position, entry] of acknowledged) {
    const there = byPosition.get(position)
    if (there?.step === entry.step && there.body === entry.body) continue
    return {
      kind: "RecordLost",
      subject: `record ${position} of run "${runId}"`,
      expected: `${describeRecord(entry)}, which was acknowledged`,
      found: there === undefined ? `${records.length} records, and not this one` : describeRecord(there)
    }
  }
  return undefined
}
