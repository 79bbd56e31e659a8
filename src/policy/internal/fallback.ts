import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type * as Types from "effect/Types"
import * as Fault from "../../Fault.ts"
import * as Telemetry from "../../Telemetry.ts"
import { onlyFailure } from "./failure.ts"

/** @internal */
export interface FailedStep {
  readonly label: string
  readonly tag: string
  readonly message: string
  readonly verdict: Fault.VerdictTag
  readonly skipped: boolean
}

/**
 * Whether a step with this verdict did not get to run: a guard of ours refused it, and nothing was sent.
 *
 * @internal
 */
export const isSkipped = (verdict: Fault.VerdictTag): boolean => verdict === "Rejected"

/** @internal */
export const labelsOf = (steps: ReadonlyArray<FailedStep>) => ({
  failed: steps.filter((step) => !step.skipped).map((step) => step.label),
  skipped: steps.filter((step) => step.skipped).map((step) => step.label)
})

/** @internal */
export type Takes =
  | "all"
  | ReadonlyArray<string>
  | ((error: unknown, verdict: Fault.Verdict) => boolean)
  | undefined

/** @internal */
export const taken = (takes: Takes, error: unknown, verdict: Fault.Verdict): boolean => {
  if (takes === undefined) return verdict._tag !== "Permanent"
  if (takes === "all") return true
  if (typeof takes === "function") return takes(error, verdict)
  return Predicate.hasProperty(error, "_tag") && takes.some((tag) => tag === error._tag)
}

// An answer is kept, journalled and logged: a provider's error page must not come along as a whole.
const maxMessageLength = 1_000

const shorten = (text: string): string => {
  if (text.length <= maxMessageLength) return text
  // not between the halves of a character
  const cut = text.slice(0, maxMessageLength)
  return `${cut.isWellFormed() ? cut : cut.slice(0, -1)}…`
}

const tagOf = (error: unknown): string => {
  if (Predicate.hasProperty(error, "_tag") && typeof error._tag === "string") return error._tag
  return error instanceof Error ? error.name : typeof error
}

const messageOf = (error: unknown): string => {
  if (Predicate.hasProperty(error, "message") && typeof error.message === "string") return error.message
  return typeof error === "string" ? error : ""
}

const attempt = (read: () => string): string => {
  try {
    return read()
  } catch {
    // a foreign error's getter threw: that must not turn the failure into a defect
    return ""
  }
}

/** @internal */
export const summarise = (label: string, error: unknown, verdict: Fault.Verdict): FailedStep => ({
  label,
  tag: attempt(() => tagOf(error)),
  message: attempt(() => shorten(messageOf(error))),
  verdict: verdict._tag,
  skipped: isSkipped(verdict._tag)
})

/**
 * The steps that failed before and with this failure. It travels beside the failure and not in it, so that the next
 * step knows what came before while the error stays the one that the step failed with.
 */
const Trail = Context.Reference<ReadonlyArray<FailedStep> | undefined>(
  "effect-resilience/policy/internal/fallback/Trail",
  { defaultValue: () => undefined }
)

/** @internal */
export const trailOf = <E>(failure: Cause.Fail<E>): ReadonlyArray<FailedStep> | undefined =>
  Context.get(Cause.reasonAnnotations(failure), Trail)

/** @internal */
export const withTrail = <E>(cause: Cause.Cause<E>, trail: ReadonlyArray<FailedStep> | undefined): Cause.Cause<E> =>
  Cause.annotate(cause, Context.make(Trail, trail), { overwrite: true })

type Outcome =
  | { readonly _tag: "Available"; readonly entry: readonly [label: string, value: unknown] }
  | { readonly _tag: "Unavailable"; readonly step: FailedStep; readonly cause: Cause.Cause<unknown> }

const outcomeOf = <R>(
  label: string,
  part: Effect.Effect<unknown, unknown, R>
): Effect.Effect<Outcome, unknown, R> =>
  Effect.matchCauseEffect(part, {
    onSuccess: (value) => Effect.succeed({ _tag: "Available", entry: [label, value] }),
    onFailure: (cause) => {
      const failure = onlyFailure(cause)
      if (failure === undefined) return Effect.failCause(cause)
      return Effect.map(Fault.classify(failure.error), (verdict) => ({
        _tag: "Unavailable",
        step: summarise(label, failure.error, verdict),
        cause
      }))
    }
  })

/** @internal */
export const collect = Effect.fnUntraced(function*<R>(
  parts: Readonly<Record<string, Effect.Effect<unknown, unknown, R>>>,
  concurrency: Types.Concurrency | undefined
) {
  const outcomes = yield* Effect.forEach(Object.entries(parts), ([label, part]) => outcomeOf(label, part), {
    concurrency
  })
  const missing = outcomes.filter((outcome) => outcome._tag === "Unavailable")
  const [first] = missing
  // The parts are one step of what is around, whatever steps they have themselves.
  if (first !== undefined && missing.length === outcomes.length) {
    return yield* Effect.failCause(withTrail(first.cause, undefined))
  }
  const unavailable = missing.map(({ step }) => step)
  if (first !== undefined) {
    yield* Effect.annotateCurrentSpan({ "fallback.unavailable": unavailable.map(({ label }) => label) })
    yield* Telemetry.emit(() => ({ _tag: "FallbackUsed", source: "partial", ...labelsOf(unavailable) }))
  }
  const available: object = Object.fromEntries(
    outcomes.flatMap((outcome) => outcome._tag === "Available" ? [outcome.entry] : [])
  )
  return { available, unavailable }
})
