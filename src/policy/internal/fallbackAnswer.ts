import type * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Fault from "../../Fault.ts"
import * as Telemetry from "../../Telemetry.ts"
import { onlyFailure } from "./failure.ts"
import * as internal from "./fallback.ts"

const TypeId = "~effect-resilience/policy/Fallback/Answer"

/**
 * A value together with where it came from.
 *
 * **Details**
 *
 * - `value`: what the step that answered gave.
 * - `source`: the label of that step; all that can be are in the type.
 * - `degraded`: whether any step before it failed or was skipped, so that `false` means the first choice.
 * - `errors`: one summary for each step before, in order. A failure brings the steps it went through along, also
 *   across a retry between them; {@link primary} and {@link chain} begin anew, and whatever is inside of one of their
 *   steps is that one step.
 *
 * @category models
 * @since 0.1.0
 */
export class Answer<out A, out Source extends string = string> {
  readonly value: A
  readonly source: Source
  readonly degraded: boolean
  readonly errors: ReadonlyArray<internal.FailedStep>

  constructor(fields: {
    readonly value: A
    readonly source: Source
    readonly degraded: boolean
    readonly errors: ReadonlyArray<internal.FailedStep>
  }) {
    this.value = fields.value
    this.source = fields.source
    this.degraded = fields.degraded
    this.errors = fields.errors
  }

  get [TypeId](): typeof TypeId {
    return TypeId
  }
}

/**
 * Whether a value is an {@link Answer}.
 *
 * @category guards
 * @since 0.1.0
 */
export const isAnswer = (u: unknown): u is Answer<unknown> => Predicate.hasProperty(u, TypeId)

/**
 * The value inside, where `A` is an {@link Answer} already.
 *
 * @category type level
 * @since 0.1.0
 */
export type ValueOf<A> = A extends Answer<infer Value> ? Value : A

/**
 * The labels of `A` where it is an {@link Answer} already, and else the label given.
 *
 * @category type level
 * @since 0.1.0
 */
export type SourceOf<A, Label extends string> = A extends Answer<unknown, infer Source> ? Source : Label

/**
 * The answer of {@link orElse}: what `A` was, or a `B` under its label.
 *
 * @category type level
 * @since 0.1.0
 */
export type Answered<A, B, Label extends string> = Answer<ValueOf<A> | B, SourceOf<A, "primary"> | Label>

/** @internal */
export const answerFirst = <A, Label extends string>(
  label: Label,
  value: A
): Effect.Effect<Answer<ValueOf<A>, SourceOf<A, Label>>> => {
  const answer = isAnswer(value)
    ? Effect.succeed(value)
    : Effect.as(
      Effect.annotateCurrentSpan({ "fallback.source": label, "fallback.degraded": false }),
      new Answer({ value, source: label, degraded: false, errors: [] })
    )
  // the two conditional types ask of the type what isAnswer has asked of the value
  return answer as Effect.Effect<Answer<ValueOf<A>, SourceOf<A, Label>>>
}

/**
 * Fails as before, with the step's own entry noted in place of those that inner steps have left.
 *
 * @internal
 */
export const failFirst = <E>(label: string, cause: Cause.Cause<E>): Effect.Effect<never, E> => {
  const failure = onlyFailure(cause)
  if (failure === undefined) return Effect.failCause(cause)
  return Effect.flatMap(
    Fault.classify(failure.error),
    (verdict) => Effect.failCause(internal.withTrail(cause, [internal.summarise(label, failure.error, verdict)]))
  )
}

/** The steps before this failure and with it, the first of them called `"primary"`. */
const trailTo = <E>(failure: Cause.Fail<E>, verdict: Fault.Verdict): ReadonlyArray<internal.FailedStep> =>
  internal.trailOf(failure) ?? [internal.summarise("primary", failure.error, verdict)]

const spanAttributes = (trail: ReadonlyArray<internal.FailedStep>) => {
  const { failed, skipped } = internal.labelsOf(trail)
  return { "fallback.failed": failed, "fallback.skipped": skipped }
}

const degraded = <B, Label extends string>(
  label: Label,
  value: B,
  trail: ReadonlyArray<internal.FailedStep>
): Effect.Effect<Answer<B, Label>> =>
  Effect.annotateCurrentSpan({ "fallback.source": label, "fallback.degraded": true, ...spanAttributes(trail) }).pipe(
    Effect.andThen(
      Telemetry.emit(() => ({ _tag: "FallbackUsed", source: label, ...internal.labelsOf(trail) }))
    ),
    Effect.as(new Answer({ value, source: label, degraded: true, errors: trail }))
  )

/**
 * Answers a failure with `that`, whatever it was. Where `that` fails as well, `endWith` says from the two causes what
 * the caller gets.
 *
 * @internal
 */
export const answerWith = <E, B, E2, R2, Label extends string, E3>(
  label: Label,
  that: Effect.Effect<B, E2, R2>,
  failed: { readonly failure: Cause.Fail<E>; readonly verdict: Fault.Verdict },
  endWith: (cause: Cause.Cause<E2>) => Cause.Cause<E3>
): Effect.Effect<Answer<B, Label>, E3, R2> => {
  const before = trailTo(failed.failure, failed.verdict)
  return Effect.matchCauseEffect(that, {
    onSuccess: (value) => degraded(label, value, before),
    onFailure: (cause) => {
      const failure = onlyFailure(cause)
      if (failure === undefined) return Effect.failCause(endWith(cause))
      return Effect.flatMap(Fault.classify(failure.error), (verdict) => {
        const trail = [...before, internal.summarise(label, failure.error, verdict)]
        return Effect.andThen(
          Effect.annotateCurrentSpan(spanAttributes(trail)),
          Effect.failCause(internal.withTrail(endWith(cause), trail))
        )
      })
    }
  })
}

/** @internal */
export const run = <A, E, R, B, E2, R2, Label extends string, E3>(
  self: Effect.Effect<A, E, R>,
  label: Label,
  that: () => Effect.Effect<B, E2, R2>,
  takes: internal.Takes,
  endWith: (cause: Cause.Cause<E2>, failed: Cause.Cause<E>) => Cause.Cause<E3>
): Effect.Effect<Answered<A, B, Label>, E | E3, R | R2> =>
  Effect.matchCauseEffect(self, {
    onSuccess: (value) => answerFirst("primary", value),
    onFailure: (cause) => {
      const failure = onlyFailure(cause)
      if (failure === undefined) return Effect.failCause(cause)
      return Effect.flatMap(
        Fault.classify(failure.error),
        (verdict): Effect.Effect<Answer<B, Label>, E | E3, R2> =>
          internal.taken(takes, failure.error, verdict)
            ? answerWith(label, Effect.suspend(that), { failure, verdict }, (late) => endWith(late, cause))
            : Effect.failCause(cause)
      )
    }
  })
