import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Predicate from "effect/Predicate"
import type * as Fault from "../../Fault.ts"

/** @internal */
export interface FailedStep {
  readonly label: string
  readonly tag: string
  readonly message: string
  readonly verdict: Fault.VerdictTag
}

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

const shorten = (text: string): string => text.length <= maxMessageLength ? text : `${text.slice(0, maxMessageLength)}…`

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
  verdict: verdict._tag
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
export const withTrail = <E>(cause: Cause.Cause<E>, trail: ReadonlyArray<FailedStep>): Cause.Cause<E> =>
  Cause.annotate(cause, Context.make(Trail, trail), { overwrite: true })
