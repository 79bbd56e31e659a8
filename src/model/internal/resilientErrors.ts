import * as AiError from "effect/ai/AiError"
import type * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import { metadataKey, verdictMetadata } from "../../internal/verdict.ts"
import * as AdaptiveLimit from "../../policy/AdaptiveLimit.ts"
import * as Bulkhead from "../../policy/Bulkhead.ts"
import * as CircuitBreaker from "../../policy/CircuitBreaker.ts"
import * as Deadline from "../../policy/Deadline.ts"
import * as Quota from "../../policy/Quota.ts"

/** @internal */
export const module = "ResilientModel"

/** @internal */
export const GuardError = Schema.Union([
  AdaptiveLimit.LimitExceeded,
  Bulkhead.BulkheadFull,
  CircuitBreaker.CircuitOpen,
  Deadline.AttemptTimeout,
  Deadline.DeadlineExceeded,
  Deadline.Stalled,
  Quota.QuotaExceeded
])

const isGuardError = Schema.is(GuardError)
const encodeGuard = Schema.encodeSync(GuardError)
const decodeGuard = Schema.decodeUnknownOption(GuardError)

/** What a guard's error becomes for a caller who only knows errors of models. */
const reasonOf = (
  verdict: Fault.Verdict,
  description: string,
  metadata: AiError.ProviderMetadata
): AiError.AiErrorReason =>
  verdict._tag === "Rejected"
    ? new AiError.UnknownError({ description, metadata })
    : new AiError.InternalProviderError({ description, metadata })

const messageOf = (error: unknown): string =>
  Predicate.hasProperty(error, "message") && Predicate.isString(error.message) ? error.message : String(error)

/** The verdict is a property, too, so that no classifier of the user's stands before it. */
const carrying = (error: AiError.AiError, verdict: Fault.Verdict): AiError.AiError =>
  Object.defineProperty(error, Fault.verdictOf, { value: verdict })

/** @internal */
export const toAiError = (method: string) => (error: unknown): Effect.Effect<AiError.AiError> => {
  if (AiError.isAiError(error)) return Effect.succeed(error)
  return Effect.contextWith((context: Context.Context<never>) =>
    Effect.sync(() => {
      const verdict = isGuardError(error) ? error[Fault.verdictOf] : Fault.classifyIn(context, error)
      const metadata = {
        [metadataKey]: {
          ...verdictMetadata(verdict)[metadataKey],
          ...(isGuardError(error) ? { guard: { ...encodeGuard(error) } } : undefined)
        }
      }
      return carrying(AiError.make({ module, method, reason: reasonOf(verdict, messageOf(error), metadata) }), verdict)
    })
  )
}

/** @internal */
export const guardError = (error: AiError.AiError): Option.Option<typeof GuardError.Type> => {
  if (!("metadata" in error.reason)) return Option.none()
  const entry = error.reason.metadata[metadataKey]
  return Predicate.hasProperty(entry, "guard") ? decodeGuard(entry.guard) : Option.none()
}

/** @internal */
export const unfinished = (method: string): AiError.AiError =>
  AiError.make({
    module,
    method,
    reason: new AiError.InvalidOutputError({
      description:
        "The answer ended without its finish part, so it may not be whole. Ask again, or allow such answers " +
        "with the option requireFinish: false",
      metadata: verdictMetadata(Fault.malformed)
    })
  })

/** @internal */
export const unknownTool = (
  method: string,
  toolName: string,
  availableTools: ReadonlyArray<string>
): AiError.AiError =>
  AiError.make({ module, method, reason: new AiError.ToolNotFoundError({ toolName, availableTools }) })

// What is about the account or the dialect of one provider, and not about what was asked.
const providersOwn = new Set(["QuotaExhaustedError", "AuthenticationError", "UnsupportedSchemaError"])

/**
 * Whether another model may take over after this error; `elsewhere` says whether it is one of another provider.
 *
 * @internal
 */
export const mayBeTaken = (elsewhere: boolean) => (error: unknown, verdict: Fault.Verdict): boolean =>
  verdict._tag !== "Permanent" || (elsewhere && AiError.isAiError(error) && providersOwn.has(error.reason._tag))
