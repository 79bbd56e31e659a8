import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"

/** @internal */
export const verdictOf = "~effect-resilience/Fault/verdict"

/** @internal */
export const metadataKey = "effect-resilience"

/**
 * Whether a delay is a finite number of milliseconds: JSON has no infinity.
 *
 * @internal
 */
export const isFiniteDelay = (delay: Duration.Duration): boolean => Number.isFinite(Duration.toMillis(delay))

const retryAfter = Schema.optionalKey(
  Schema.DurationFromMillis.check(Schema.makeFilter(isFiniteDelay, { expected: "a finite duration" }))
)

/** @internal */
export const Verdict = Schema.TaggedUnion({
  Transient: {},
  Throttled: { retryAfter },
  Overloaded: { retryAfter },
  TimedOut: {},
  Malformed: {},
  ContextOverflow: {},
  Refused: {},
  Permanent: { unknown: Schema.optionalKey(Schema.Literal(true)) },
  Ambiguous: {},
  Rejected: { retryAfter }
})

/** @internal */
export type Verdict = typeof Verdict.Type

const isTag = (tag: string): tag is Verdict["_tag"] => Object.hasOwn(Verdict.cases, tag)

/** @internal */
export const VerdictTag = Schema.Literals(Object.keys(Verdict.cases).filter(isTag))

const encode = Schema.encodeSync(Verdict)

/**
 * What a provider puts into the metadata of an `AiError` reason, for `Fault.classify` to read.
 *
 * @internal
 */
export const verdictMetadata = (verdict: Verdict) => ({ [metadataKey]: { verdict: { ...encode(verdict) } } })
