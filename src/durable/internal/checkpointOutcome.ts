import type * as Schema from "effect/Schema"
import type { RecordedStep } from "./checkpointMigration.ts"
import type * as Record from "./checkpointRecord.ts"

/**
 * What the journal knows about a step: `attempts` counts the intents written for it, `position` is that of the last
 * record about it (of equal failures: the first), `oversized` is how large its result was where that was too large.
 * `failure` tells unremembered failures apart.
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
  & {
    readonly attempts: number
    readonly position: number
    readonly oversized?: number
    readonly retry?: RetryState
  }

/**
 * When a step that is to be tried again failed first, and the times at which it was to be tried again.
 *
 * @internal
 */
export interface RetryState {
  readonly since: number
  readonly times: ReadonlyArray<number>
}

/** @internal */
export const openOutcome = { _tag: "Open", failure: "" } as const

/**
 * What is known about a step after one more record about it.
 *
 * @internal
 */
export const outcomeAfter = (
  record: Record.WithoutTime<Record.StepRecord>,
  before: Outcome | undefined,
  position: number
): Outcome => {
  const { attempts = 0, retry } = before ?? {}
  const known = { attempts, position, ...(retry === undefined ? {} : { retry }) }
  switch (record._tag) {
    case "StepIntended":
      return { ...known, _tag: "Intended", attempts: attempts + 1 }
    case "StepReleased":
    case "StepUndoable":
      return { ...known, ...openOutcome }
    case "StepRetried": {
      const times = [...retry?.times ?? [], record.resumeAt]
      return { ...known, ...openOutcome, retry: { since: record.since, times } }
    }
    case "StepOversized":
      return { attempts, ...(before?._tag === "Intended" ? before : openOutcome), position, oversized: record.bytes }
    case "StepSucceeded":
      return { attempts, position, _tag: "Succeeded", value: record.value }
    case "StepFailed":
      return record.error === undefined
        ? { attempts, position, _tag: "Open", failure: `${record.verdict} ${record.tag ?? ""}` }
        : { attempts, position, _tag: "Failed", error: record.error }
  }
}

/** @internal */
export const recorded = (outcome: Outcome): RecordedStep["outcome"] => {
  switch (outcome._tag) {
    case "Succeeded":
      return { _tag: "Succeeded", value: outcome.value }
    case "Failed":
      return { _tag: "Failed", error: outcome.error }
    case "Open":
      return { _tag: "Unremembered" }
    case "Intended":
      return { _tag: "Uncertain" }
  }
}

/** @internal */
export const isSameFailure = (before: Outcome | undefined, after: Outcome): boolean =>
  before?._tag === "Open" && after._tag === "Open" && before.failure === after.failure
