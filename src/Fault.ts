/**
 * What a failure means, decided once and read by every guard.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Schema from "effect/Schema"
import * as rules from "./internal/faultRules.ts"
import * as internal from "./internal/verdict.ts"

/**
 * Schema of {@link Verdict}, so that a verdict can travel inside an error through a journal or over HTTP.
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
 * - `Permanent`: it will fail again in the same way.
 * - `Ambiguous`: the effect may have happened.
 * - `Rejected`: one of our own guards refused, and nothing was sent.
 *
 * @category models
 * @since 0.1.0
 */
export type Verdict = typeof internal.Verdict.Type

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
 * @category protocol
 * @since 0.1.0
 */
export const verdictOf: typeof internal.verdictOf = internal.verdictOf

/** @category constructors @since 0.1.0 */
export const transient: Extract<Verdict, { readonly _tag: "Transient" }> = { _tag: "Transient" }
export const timedOut: Extract<Verdict, { readonly _tag: "TimedOut" }> = { _tag: "TimedOut" }
export const malformed: Extract<Verdict, { readonly _tag: "Malformed" }> = { _tag: "Malformed" }
export const contextOverflow: Extract<Verdict, { readonly _tag: "ContextOverflow" }> = { _tag: "ContextOverflow" }
export const refused: Extract<Verdict, { readonly _tag: "Refused" }> = { _tag: "Refused" }
export const permanent: Extract<Verdict, { readonly _tag: "Permanent" }> = { _tag: "Permanent" }
export const ambiguous: Extract<Verdict, { readonly _tag: "Ambiguous" }> = { _tag: "Ambiguous" }

const timed = <Tag extends "Throttled" | "Overloaded" | "Rejected">(_tag: Tag) =>
(
  retryAfter?: Duration.Input | undefined
): { readonly _tag: Tag; readonly retryAfter?: Duration.Duration } =>
  retryAfter === undefined ? { _tag } : { _tag, retryAfter: Duration.fromInputUnsafe(retryAfter) }

export const throttled = timed("Throttled")
export const overloaded = timed("Overloaded")
export const rejected = timed("Rejected")

/**
 * A user's own rules: a verdict for the errors it knows, `undefined` for the rest.
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
  const verdict = rules.carriedVerdict(error) ?? Context.get(context, Classifier)(error) ?? rules.builtInVerdict(error)
  return verdict._tag === "Ambiguous" && Context.get(context, Idempotent) ? transient : verdict
}

/**
 * Whether a plain repetition of the call makes sense.
 *
 * @category predicates
 * @since 0.1.0
 */
export const isRetryable = (verdict: Verdict): boolean =>
  verdict._tag === "Transient" || verdict._tag === "Throttled" || verdict._tag === "Overloaded" ||
  verdict._tag === "TimedOut" || verdict._tag === "Malformed"

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
 * @category combinators
 * @since 0.1.0
 */
export const idempotent = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(self, Idempotent, true)

/**
 * Adds rules that are asked before the classifier already in place.
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
