/**
 * What a failure means, decided once and read by every guard.
 *
 * **Details**
 *
 * A verdict is found in this order: the one that the error carries itself ({@link verdictOf}), the user's
 * {@link Classifier}, the built-in rules. Where the operation is marked {@link Idempotent}, `Ambiguous` becomes
 * `Transient` in the end. The built-in rules:
 *
 * | failure | verdict |
 * | --- | --- |
 * | an error of this toolkit | the verdict it carries |
 * | `AiError` with a verdict in `metadata["effect-resilience"]` | that verdict |
 * | `AiError`: RateLimitError | Throttled, with its `retryAfter` |
 * | `AiError`: InternalProviderError | Overloaded for 503, 529 and "overloaded", TimedOut for 504, else Transient |
 * | `AiError`: InvalidRequestError | ContextOverflow where it says that the prompt is too long, else Permanent |
 * | `AiError`: NetworkError | by its cause; TransportError without one Ambiguous; EncodeError, InvalidUrlError Permanent |
 * | `AiError`: InvalidResponse, InvalidOutput, StructuredOutput, ToolNotFound, ToolParameterValidation | Malformed |
 * | `AiError`: ContentPolicyError | Refused |
 * | `AiError`: UnknownError | by its HTTP status, else unknown |
 * | `AiError`: every other reason | Permanent |
 * | HTTP 408, 409 | Transient (a 409 that waits for an approval: Permanent) |
 * | HTTP 413; 400 or 422 with "prompt is too long" and the like | ContextOverflow |
 * | HTTP 429 | Throttled; Permanent for a spend limit or an exhausted quota |
 * | HTTP 400 with a content filter's code | Refused |
 * | every other 4xx; 501, 505, 511 | Permanent |
 * | HTTP 503, 529, and `overloaded_error` with another or no status | Overloaded |
 * | HTTP 504, 524 | TimedOut |
 * | every other 5xx | Transient |
 * | an SDK's error inside a stream (no status) | by its `type`: overloaded_error, rate_limit_error, timeout_error, api_error … |
 * | `APIConnectionError`, `fetch failed`, `terminated` | by the cause, else Ambiguous |
 * | `APIConnectionTimeoutError`, `DOMException` TimeoutError | TimedOut |
 * | `APIUserAbortError`, `AbortError` | Ambiguous |
 * | a `SyntaxError` about JSON; a stream that ended without its last event | Malformed |
 * | Letta `error_type` and `stop_reason` | by name: llm_timeout, llm_rate_limit, insufficient_credits, max_steps … |
 * | `HttpClientError`: StatusCodeError | as the HTTP status above, with its Retry-After |
 * | `HttpClientError`: TransportError; DecodeError; EmptyBodyError | by the cause, else Ambiguous; Malformed; Malformed |
 * | `HttpClientError`: EncodeError, InvalidUrlError | Permanent |
 * | `SqlError`: Deadlock, Serialization, LockTimeout | Transient |
 * | `SqlError`: StatementTimeout | TimedOut |
 * | `SqlError`: ConnectionError | by the cause, else Transient while connecting, Ambiguous afterwards |
 * | `SqlError`: UnknownError | by the cause's code, else unknown |
 * | `SqlError`: every other reason | Permanent |
 * | `PlatformError`: Busy, WouldBlock; TimedOut | Transient; TimedOut |
 * | `PlatformError`: Unknown | by the cause's code, else unknown |
 * | `PlatformError`: every other reason | Permanent |
 * | `TimeoutError` of Effect | TimedOut |
 * | `RateLimiterError`, `CircuitBreakerError` | Rejected, with its `retryAfter`; Transient where their store failed |
 * | `SchemaError` | Malformed: in agent programs a schema stands where an answer comes in |
 * | ECONNREFUSED, ENOTFOUND, EAI_AGAIN, EHOSTUNREACH, a connect timeout, EBUSY, EMFILE | Transient: nothing was executed |
 * | ECONNRESET, EPIPE, ETIMEDOUT, a body timeout, EIO | Ambiguous: it may have been executed |
 * | ENOSPC, EDQUOT, EROFS, EACCES, EPERM, ENOENT, a bad certificate | Permanent |
 * | `PersistenceError`, `KeyValueStoreError`, `RedisError`, `UnknownError` of Effect | by the cause |
 * | `ConfigError`, `NoSuchElementError`, `IllegalArgumentError` | Permanent |
 * | everything else | Permanent and marked `unknown` |
 *
 * A Retry-After comes from `retry-after-ms`, else from `retry-after`: seconds, also with a fraction, or an HTTP date
 * measured from the `Clock` at hand (a date that is past means now; what is neither is ignored).
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import { dual } from "effect/Function"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as rules from "./internal/faultRules.ts"
import * as internal from "./internal/verdict.ts"

/**
 * Schema of {@link Verdict}, so that a verdict can travel inside an error through a journal or over HTTP.
 *
 * **Details**
 *
 * Durations are encoded in milliseconds.
 *
 * **Example** (Sending a verdict)
 *
 * ```ts import.meta.vitest
 * import { Schema } from "effect"
 * import { Fault } from "effect-resilience"
 *
 * Schema.encodeSync(Fault.Verdict)(Fault.throttled("7 seconds")) // => { _tag: "Throttled", retryAfter: 7000 }
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const Verdict = internal.Verdict

/**
 * What a failure means for the guards around a call.
 *
 * **Details**
 *
 * - `Transient`: it failed and is safe to try again.
 * - `Throttled`: the provider asks us to slow down, and may say until when.
 * - `Overloaded`: the provider has no capacity, and may say until when.
 * - `TimedOut`: no answer within the time allowed.
 * - `Malformed`: an answer came and is not what was asked for (a soft failure).
 * - `ContextOverflow`: the request is too large for the model; compact it, never send it again as it is.
 * - `Refused`: the model declined.
 * - `Permanent`: it will fail again in the same way. `unknown: true` says that no rule knew the error.
 * - `Ambiguous`: the effect may have happened.
 * - `Rejected`: one of our own guards refused, and nothing was sent.
 *
 * @category models
 * @since 0.1.0
 */
export type Verdict = typeof internal.Verdict.Type

/**
 * Schema of {@link VerdictTag}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const VerdictTag = internal.VerdictTag

/**
 * The tag of a verdict.
 *
 * @category models
 * @since 0.1.0
 */
export type VerdictTag = Verdict["_tag"]

/**
 * The property under which an error carries its own verdict, read before every other rule.
 *
 * **When to use**
 *
 * Use it on an error class of your own, to tell every guard what the error means.
 *
 * **Example** (An error that knows what it means)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Fault } from "effect-resilience"
 *
 * class IndexRebuilding extends Schema.TaggedError<IndexRebuilding>()("IndexRebuilding", {}) {
 *   readonly [Fault.verdictOf] = Fault.overloaded("30 seconds")
 * }
 *
 * const verdict = await Effect.runPromise(Fault.classify(new IndexRebuilding()))
 * verdict._tag // => "Overloaded"
 * ```
 *
 * @category protocol
 * @since 0.1.0
 */
export const verdictOf: typeof internal.verdictOf = internal.verdictOf

/**
 * It failed and is safe to try again.
 *
 * @category constructors
 * @since 0.1.0
 */
export const transient: Extract<Verdict, { readonly _tag: "Transient" }> = { _tag: "Transient" }

/**
 * No answer came within the time allowed.
 *
 * @category constructors
 * @since 0.1.0
 */
export const timedOut: Extract<Verdict, { readonly _tag: "TimedOut" }> = { _tag: "TimedOut" }

/**
 * An answer came and is not what was asked for.
 *
 * @category constructors
 * @since 0.1.0
 */
export const malformed: Extract<Verdict, { readonly _tag: "Malformed" }> = { _tag: "Malformed" }

/**
 * The request is too large for the model.
 *
 * @category constructors
 * @since 0.1.0
 */
export const contextOverflow: Extract<Verdict, { readonly _tag: "ContextOverflow" }> = { _tag: "ContextOverflow" }

/**
 * The model declined.
 *
 * @category constructors
 * @since 0.1.0
 */
export const refused: Extract<Verdict, { readonly _tag: "Refused" }> = { _tag: "Refused" }

/**
 * It will fail again in the same way, and we know why.
 *
 * @category constructors
 * @since 0.1.0
 */
export const permanent: Extract<Verdict, { readonly _tag: "Permanent" }> = { _tag: "Permanent" }

/**
 * No rule knows the error: never retried blindly, as {@link permanent}, but counted by a circuit.
 *
 * @category constructors
 * @since 0.1.0
 */
export const unknown: Extract<Verdict, { readonly _tag: "Permanent" }> = { _tag: "Permanent", unknown: true }

/**
 * The effect may have happened.
 *
 * @category constructors
 * @since 0.1.0
 */
export const ambiguous: Extract<Verdict, { readonly _tag: "Ambiguous" }> = { _tag: "Ambiguous" }

const timed = <Tag extends "Throttled" | "Overloaded" | "Rejected">(_tag: Tag) =>
(
  retryAfter?: Duration.Input
): { readonly _tag: Tag; readonly retryAfter?: Duration.Duration } => {
  if (retryAfter === undefined) return { _tag }
  const duration = Duration.fromInput(retryAfter)
  if (Option.isSome(duration)) {
    return Duration.isFinite(duration.value)
      ? { _tag, retryAfter: Duration.max(duration.value, Duration.zero) }
      : { _tag }
  }
  throw new InvalidConfig({ module: "Fault", option: "retryAfter", value: format(retryAfter), expected: "a duration" })
}

/**
 * The provider asks us to slow down, and may say until when.
 *
 * **Details**
 *
 * A negative delay means now; an infinite one says nothing about when, and is left out. What is no duration is an
 * {@link InvalidConfig}, thrown. The same holds for {@link overloaded} and {@link rejected}.
 *
 * @category constructors
 * @since 0.1.0
 */
export const throttled = timed("Throttled")

/**
 * The provider has no capacity, and may say until when.
 *
 * @category constructors
 * @since 0.1.0
 */
export const overloaded = timed("Overloaded")

/**
 * One of our own guards refused, and nothing was sent.
 *
 * @category constructors
 * @since 0.1.0
 */
export const rejected = timed("Rejected")

/**
 * A user's own rules: a verdict for the errors it knows, `undefined` for the rest.
 *
 * **When to use**
 *
 * Use it for errors of other libraries; an error class of your own carries its verdict ({@link verdictOf}). To add rules
 * to the ones in place rather than replace them, use {@link withClassifier}.
 *
 * @category services
 * @since 0.1.0
 */
export const Classifier = Context.Reference<(error: unknown) => Verdict | undefined>(
  "effect-resilience/Fault/Classifier",
  { defaultValue: () => () => undefined }
)

/**
 * Whether the operation around may be repeated without harm. Where it may, an `Ambiguous` verdict becomes `Transient`.
 * Default: `false`.
 *
 * @category services
 * @since 0.1.0
 */
export const Idempotent: Context.Reference<boolean> = Context.Reference("effect-resilience/Fault/Idempotent", {
  defaultValue: () => false
})

/**
 * Says what an error means: its own verdict, then {@link Classifier}, then the built-in rules.
 *
 * **Details**
 *
 * The table of the built-in rules is in the head of this module. It never fails and never throws on a strange value.
 *
 * **Example** (Asking about an error)
 *
 * ```ts import.meta.vitest
 * import { Cause, Effect } from "effect"
 * import { Fault } from "effect-resilience"
 *
 * await Effect.runPromise(Fault.classify(new Cause.TimeoutError())) // => { _tag: "TimedOut" }
 * await Effect.runPromise(Fault.classify({ status: 529, headers: { "retry-after": "2" } })) // => Fault.overloaded("2 seconds")
 * await Effect.runPromise(Fault.classify("?")) // => { _tag: "Permanent", unknown: true }
 * ```
 *
 * @category classification
 * @since 0.1.0
 */
export const classify = (error: unknown): Effect.Effect<Verdict> =>
  Effect.contextWith((context: Context.Context<never>) => Effect.succeed(classifyIn(context, error)))

/**
 * {@link classify} against a context at hand, for code that is not an Effect.
 *
 * @category classification
 * @since 0.1.0
 */
export const classifyIn = (context: Context.Context<never>, error: unknown): Verdict => {
  const verdict = rules.carriedVerdict(error) ??
    Context.get(context, Classifier)(error) ??
    rules.builtInVerdict(error, () => Context.get(context, Clock.Clock).currentTimeMillisUnsafe())
  return verdict._tag === "Ambiguous" && Context.get(context, Idempotent) ? transient : verdict
}

/**
 * Whether a plain repetition of the call makes sense.
 *
 * **Details**
 *
 * True for `Transient`, `Throttled`, `Overloaded`, `TimedOut` and `Malformed`. For the last two the call may have
 * happened all the same ({@link mayHaveHappened}): a call that must not happen twice belongs in a step of a `Checkpoint`
 * with `effects: "atMostOnce"`, and not under `Retry`.
 *
 * **Example** (Deciding on a verdict)
 *
 * ```ts import.meta.vitest
 * import { Fault } from "effect-resilience"
 *
 * Fault.isRetryable(Fault.overloaded("2 seconds")) // => true
 * Fault.isRetryable(Fault.ambiguous) // => false
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const isRetryable = (verdict: Verdict): boolean =>
  verdict._tag === "Transient" || verdict._tag === "Throttled" || verdict._tag === "Overloaded" ||
  verdict._tag === "TimedOut" || verdict._tag === "Malformed"

/**
 * Whether the call that failed may have had its effect all the same.
 *
 * **When to use**
 *
 * Use it where a call must not happen twice: what may have happened has to be looked up, by a person or by a query,
 * before anybody does it again.
 *
 * **Details**
 *
 * True for `Ambiguous`, `TimedOut` (nobody knows how far it got) and `Malformed` (an answer came, so it was executed).
 * {@link isRetryable} asks something else: whether it makes sense to repeat a call that may be repeated.
 *
 * **Example** (Looking before doing it again)
 *
 * ```ts import.meta.vitest
 * import { Fault } from "effect-resilience"
 *
 * Fault.mayHaveHappened(Fault.ambiguous) // => true
 * Fault.mayHaveHappened(Fault.timedOut) // => true
 * Fault.mayHaveHappened(Fault.overloaded()) // => false
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const mayHaveHappened = (verdict: Verdict): boolean =>
  verdict._tag === "Ambiguous" || verdict._tag === "TimedOut" || verdict._tag === "Malformed"

/**
 * Whether a failure speaks against the health of what was called, so that a circuit counts it.
 *
 * **Details**
 *
 * True for `Transient`, `Overloaded`, `TimedOut`, `Malformed`, `Ambiguous` and for a `Permanent` that is `unknown`. A
 * `Throttled` is the quota's business, a `Rejected` our own, and a `Permanent` we know, a `ContextOverflow` or a
 * `Refused` is about the request.
 *
 * **Example** (Counting what is unknown)
 *
 * ```ts import.meta.vitest
 * import { Fault } from "effect-resilience"
 *
 * Fault.countsAsFailure(Fault.permanent) // => false
 * Fault.countsAsFailure(Fault.unknown) // => true
 * ```
 *
 * @category predicates
 * @since 0.1.0
 */
export const countsAsFailure = (verdict: Verdict): boolean => {
  switch (verdict._tag) {
    case "Transient":
    case "Overloaded":
    case "TimedOut":
    case "Malformed":
    case "Ambiguous":
      return true
    case "Permanent":
      return verdict.unknown === true
    case "Throttled":
    case "ContextOverflow":
    case "Refused":
    case "Rejected":
      return false
  }
}

/**
 * How long the refusing side asked us to wait, if it did.
 *
 * @category getters
 * @since 0.1.0
 */
export const retryAfter = (verdict: Verdict): Duration.Duration | undefined =>
  "retryAfter" in verdict ? verdict.retryAfter : undefined

/**
 * Marks an effect as safe to repeat, see {@link Idempotent}.
 *
 * **Example** (Repeating a read)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fault } from "effect-resilience"
 *
 * const reset = Fault.classify(Object.assign(new Error("read ECONNRESET"), { code: "ECONNRESET" }))
 *
 * await Effect.runPromise(reset) // => { _tag: "Ambiguous" }
 * await Effect.runPromise(Fault.idempotent(reset)) // => { _tag: "Transient" }
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const idempotent = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(self, Idempotent, true)

/**
 * Adds rules that are asked before the classifier already in place.
 *
 * **Example** (Knowing an error of another library)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fault } from "effect-resilience"
 *
 * const program = Fault.classify(new RangeError("index is rebuilding")).pipe(
 *   Fault.withClassifier((error) => error instanceof RangeError ? Fault.transient : undefined)
 * )
 *
 * await Effect.runPromise(program) // => { _tag: "Transient" }
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const withClassifier: {
  (
    classifier: (error: unknown) => Verdict | undefined
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, classifier: (error: unknown) => Verdict | undefined): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(
    self: Effect.Effect<A, E, R>,
    classifier: (error: unknown) => Verdict | undefined
  ): Effect.Effect<A, E, R> =>
    Effect.updateService(self, Classifier, (outer) => (error: unknown) => classifier(error) ?? outer(error))
)

/**
 * An option that a guard cannot work with, found when the guard is built. Thrown by constructors of plain values, a
 * defect in layers: it is a mistake of the program and not a failure of the world.
 *
 * @category errors
 * @since 0.1.0
 */
export class InvalidConfig extends Schema.TaggedError<InvalidConfig>("effect-resilience/Fault/InvalidConfig")(
  "InvalidConfig",
  { module: Schema.String, option: Schema.String, value: Schema.String, expected: Schema.String }
) {
  readonly [internal.verdictOf] = permanent
  override get message() {
    return `${this.module}: option "${this.option}" is ${this.value}, expected ${this.expected}`
  }
}
