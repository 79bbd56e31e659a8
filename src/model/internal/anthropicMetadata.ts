import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { retryAfter } from "../../internal/httpFaults.ts"

const Limit = Schema.Struct({
  limit: Schema.optionalKey(Schema.Number),
  remaining: Schema.optionalKey(Schema.Number),
  reset: Schema.optionalKey(Schema.DateTimeUtcFromString)
})

/** @internal */
export const RateLimits = Schema.Struct({
  requests: Schema.optionalKey(Limit),
  tokens: Schema.optionalKey(Limit),
  inputTokens: Schema.optionalKey(Limit),
  outputTokens: Schema.optionalKey(Limit)
})

/** @internal */
export const ErrorMetadata = Schema.Struct({
  status: Schema.NullOr(Schema.Int),
  type: Schema.NullOr(Schema.String),
  errorCode: Schema.NullOr(Schema.String),
  message: Schema.NullOr(Schema.String),
  requestId: Schema.NullOr(Schema.String),
  retryAfterMillis: Schema.optionalKey(Schema.Number),
  rateLimits: RateLimits
})

/** @internal */
export const FinishMetadata = Schema.Struct({
  stopReason: Schema.String,
  stopSequence: Schema.NullOr(Schema.String),
  stopDetails: Schema.NullOr(Schema.Json),
  serviceTier: Schema.NullOr(Schema.String),
  requestId: Schema.NullOr(Schema.String),
  rateLimits: RateLimits,
  truncatedToolCall: Schema.optionalKey(Schema.Struct({ id: Schema.String, name: Schema.String }))
})

/**
 * What the headers of an answer say, as plain data.
 *
 * @internal
 */
export interface Reply {
  readonly status: number | null
  readonly requestId: string | null
  readonly retryAfterMillis: number | undefined
  readonly rateLimits: typeof RateLimits.Encoded
  readonly headers: Record<string, string>
}

const kept = new Set(["content-type", "request-id", "retry-after", "retry-after-ms", "x-should-retry"])

const buckets = {
  requests: "requests",
  tokens: "tokens",
  inputTokens: "input-tokens",
  outputTokens: "output-tokens"
} as const

const count = (text: string | null): number | undefined => {
  const value = text === null || text.trim() === "" ? Number.NaN : Number(text)
  return Number.isFinite(value) ? value : undefined
}

const limitOf = (headers: Headers, name: string): typeof Limit.Encoded | undefined => {
  const header = (field: string) => headers.get(`anthropic-ratelimit-${name}-${field}`)
  const limit = count(header("limit"))
  const remaining = count(header("remaining"))
  const reset = Option.flatMap(Option.fromNullOr(header("reset")), DateTime.make)
  if (limit === undefined && remaining === undefined && Option.isNone(reset)) return undefined
  return {
    ...(limit === undefined ? {} : { limit }),
    ...(remaining === undefined ? {} : { remaining }),
    ...(Option.isNone(reset) ? {} : { reset: DateTime.formatIso(reset.value) })
  }
}

const rateLimitsOf = (headers: Headers): typeof RateLimits.Encoded => {
  const limits: { -readonly [Key in keyof typeof RateLimits.Encoded]: (typeof RateLimits.Encoded)[Key] } = {}
  for (const key of ["requests", "tokens", "inputTokens", "outputTokens"] as const) {
    const limit = limitOf(headers, buckets[key])
    if (limit !== undefined) limits[key] = limit
  }
  return limits
}

/** @internal */
export const readReply = (
  status: number | undefined,
  headers: Headers | undefined,
  nowMillis: number
): Reply => {
  if (headers === undefined) {
    return { status: status ?? null, requestId: null, retryAfterMillis: undefined, rateLimits: {}, headers: {} }
  }
  const delay = retryAfter(headers, () => nowMillis)
  const copied: Record<string, string> = {}
  for (const [name, value] of headers) {
    if (kept.has(name) || name.startsWith("anthropic-ratelimit-")) copied[name] = value
  }
  return {
    status: status ?? null,
    requestId: headers.get("request-id"),
    retryAfterMillis: delay === undefined ? undefined : Duration.toMillis(delay),
    rateLimits: rateLimitsOf(headers),
    headers: copied
  }
}
