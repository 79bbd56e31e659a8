import * as Schema from "effect/Schema"

/** @internal */
export const verdictOf = "~effect-resilience/Fault/verdict"

/** @internal */
export const metadataKey = "effect-resilience"

const retryAfter = Schema.optionalKey(Schema.DurationFromMillis)

/** @internal */
export const Verdict = Schema.TaggedUnion({
  Transient: {},
  Throttled: { retryAfter },
  Overloaded: { retryAfter },
  TimedOut: {},
  Malformed: {},
  ContextOverflow: {},
  Refused: {},
  Permanent: {},
  Ambiguous: {},
  Rejected: { retryAfter }
})

/** @internal */
export type Verdict = typeof Verdict.Type
