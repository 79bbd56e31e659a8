import * as AiError from "effect/ai/AiError"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as HttpClientError from "effect/http/HttpClientError"
import * as Option from "effect/Option"
import * as PlatformError from "effect/PlatformError"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SqlError from "effect/sql/SqlError"
import { httpVerdict, retryAfter, signalOf } from "./httpFaults.ts"
import { systemVerdict } from "./systemFaults.ts"
import { metadataKey, Verdict, verdictOf } from "./verdict.ts"

const isVerdict = Schema.is(Verdict)
const isHttpError = Schema.is(HttpClientError.HttpClientErrorSchema)
const decodeVerdict = Schema.decodeUnknownOption(Verdict)

type Now = () => number

const unknown: Verdict = { _tag: "Permanent", unknown: true }

// what a chain of causes may cost, and the end of one that is circular
const maxDepth = 5

// a foreign error's getter that throws must not turn the failure into a defect
const orUndefined = (read: () => Verdict | undefined): Verdict | undefined => {
  try {
    return read()
  } catch {
    return undefined
  }
}

const readCarried = (error: unknown): Verdict | undefined => {
  if (!Predicate.hasProperty(error, verdictOf)) return undefined
  const verdict = error[verdictOf]
  if (isVerdict(verdict)) return verdict
  if (!Predicate.hasProperty(verdict, "retryAfter")) return undefined
  // a delay that says nothing (absent or infinite) must not cost the error its verdict
  const { retryAfter: _, ...rest } = verdict
  return isVerdict(rest) ? rest : undefined
}

/** @internal */
export const carriedVerdict = (error: unknown): Verdict | undefined => orUndefined(() => readCarried(error))

/** @internal */
export const builtInVerdict = (error: unknown, now: Now): Verdict =>
  orUndefined(() => verdictAt(error, now, 0)) ?? unknown

const verdictAt = (error: unknown, now: Now, depth: number): Verdict | undefined => {
  if (!Predicate.isObject(error) || depth > maxDepth) return undefined
  return carriedVerdict(error) ?? effectVerdict(error, now, depth) ?? foreignVerdict(error, now, depth)
}

const causeVerdict = (error: object, now: Now, depth: number): Verdict | undefined =>
  "cause" in error ? verdictAt(error.cause, now, depth + 1) : undefined

const effectVerdict = (error: object, now: Now, depth: number): Verdict | undefined => {
  if (AiError.isAiError(error)) return aiVerdict(error.reason, now, depth)
  if (AiError.isAiErrorReason(error)) return aiVerdict(error, now, depth)
  if (HttpClientError.isHttpClientError(error)) return httpClientVerdict(error, now, depth)
  // its serialisable form: the status is gone, the kind is left
  if (isHttpError(error)) return httpClientKind(error.kind, () => causeVerdict(error, now, depth))
  if (SqlError.isSqlError(error)) return sqlVerdict(error.reason, now, depth)
  if (SqlError.isSqlErrorReason(error)) return sqlVerdict(error, now, depth)
  if (PlatformError.isPlatformError(error)) return platformVerdict(error.reason, now, depth)
  if (Cause.isTimeoutError(error)) return { _tag: "TimedOut" }
  if (Schema.isSchemaError(error)) return { _tag: "Malformed" }
  // Effect.tryPromise and Effect.try wrap what they catch
  if (Cause.isUnknownError(error)) return causeVerdict(error, now, depth)
  return guardVerdict(error) ?? storeVerdict(error, now, depth)
}

const metadataVerdict = (reason: AiError.AiErrorReason): Verdict | undefined => {
  if (!("metadata" in reason)) return undefined
  const entry = reason.metadata[metadataKey]
  return Predicate.hasProperty(entry, "verdict") ? Option.getOrUndefined(decodeVerdict(entry.verdict)) : undefined
}

const aiVerdict = (reason: AiError.AiErrorReason, now: Now, depth: number): Verdict | undefined => {
  const explicit = metadataVerdict(reason)
  if (explicit !== undefined) return explicit
  const http = "http" in reason ? reason.http?.response : undefined
  const fromHttp = (): Verdict | undefined =>
    httpVerdict({ status: http?.status, codes: [], text: reason.message, headers: http?.headers }, now)
  switch (reason._tag) {
    case "RateLimitError": {
      if (http !== undefined && http.status >= 500) return fromHttp()
      const delay = reason.retryAfter ?? retryAfter(http?.headers, now)
      return delay === undefined ? { _tag: "Throttled" } : { _tag: "Throttled", retryAfter: delay }
    }
    case "InternalProviderError": {
      if (http !== undefined && http.status >= 500) return fromHttp()
      return { _tag: /overloaded/i.test(reason.description) ? "Overloaded" : "Transient" }
    }
    case "InvalidRequestError": {
      const verdict = fromHttp()
      return verdict?._tag === "ContextOverflow" ? verdict : { _tag: "Permanent" }
    }
    case "UnknownError":
      return fromHttp()
    case "NetworkError":
      if (reason.reason !== "TransportError") return { _tag: "Permanent" }
      return causeVerdict(reason, now, depth) ?? namedCode(reason.description) ?? { _tag: "Ambiguous" }
    case "ContentPolicyError":
      return { _tag: "Refused" }
    case "InvalidResponseError":
    case "InvalidOutputError":
    case "StructuredOutputError":
    case "ToolNotFoundError":
    case "ToolParameterValidationError":
      return { _tag: "Malformed" }
    case "QuotaExhaustedError":
    case "AuthenticationError":
    case "UnsupportedSchemaError":
    case "InvalidToolResultError":
    case "ToolResultEncodingError":
    case "ToolConfigurationError":
    case "ToolkitRequiredError":
    case "InvalidUserInputError":
      return { _tag: "Permanent" }
  }
}

// a description such as "connect ECONNREFUSED 127.0.0.1:443" is all that is left of a cause that was not kept
const namedCode = (description: string | undefined): Verdict | undefined => {
  for (const [code] of description?.matchAll(/\b[A-Z][A-Z0-9_]{3,}\b/g) ?? []) {
    const verdict = systemVerdict({ code })
    if (verdict !== undefined) return verdict
  }
  return undefined
}

const httpClientVerdict = (
  error: HttpClientError.HttpClientError,
  now: Now,
  depth: number
): Verdict | undefined => {
  const { reason } = error
  if ("response" in reason) {
    const { headers, status } = reason.response
    if (reason._tag === "StatusCodeError" || status >= 300) {
      return httpVerdict({ status, codes: [], text: reason.description ?? "", headers }, now)
    }
  }
  return httpClientKind(reason._tag, () => causeVerdict(reason, now, depth) ?? namedCode(reason.description))
}

const httpClientKind = (
  kind: HttpClientError.HttpClientErrorReason["_tag"],
  cause: () => Verdict | undefined
): Verdict | undefined => {
  switch (kind) {
    case "EncodeError":
    case "InvalidUrlError":
      return { _tag: "Permanent" }
    case "TransportError":
      return cause() ?? { _tag: "Ambiguous" }
    case "DecodeError":
      return cause() ?? { _tag: "Malformed" }
    case "EmptyBodyError":
      return { _tag: "Malformed" }
    case "StatusCodeError":
      return undefined
  }
}

const sqlVerdict = (reason: SqlError.SqlErrorReason, now: Now, depth: number): Verdict | undefined => {
  switch (reason._tag) {
    case "ConnectionError": {
      const cause = causeVerdict(reason, now, depth)
      if (cause !== undefined) return cause
      return { _tag: /connect|acquire|open/i.test(reason.operation ?? "") ? "Transient" : "Ambiguous" }
    }
    case "DeadlockError":
    case "SerializationError":
    case "LockTimeoutError":
      return { _tag: "Transient" }
    case "StatementTimeoutError":
      return { _tag: "TimedOut" }
    case "UnknownError":
      return causeVerdict(reason, now, depth)
    case "AuthenticationError":
    case "AuthorizationError":
    case "SqlSyntaxError":
    case "UniqueViolation":
    case "ConstraintError":
      return { _tag: "Permanent" }
  }
}

const platformVerdict = (
  reason: PlatformError.BadArgument | PlatformError.SystemError,
  now: Now,
  depth: number
): Verdict | undefined => {
  switch (reason._tag) {
    case "Busy":
    case "WouldBlock":
      return { _tag: "Transient" }
    case "TimedOut":
      return { _tag: "TimedOut" }
    // a full disk and a lost connection have no tag of their own
    case "Unknown":
      return causeVerdict(reason, now, depth) ?? namedCode(reason.description)
    case "AlreadyExists":
    case "BadArgument":
    case "BadResource":
    case "InvalidData":
    case "NotFound":
    case "PermissionDenied":
    case "UnexpectedEof":
    case "WriteZero":
      return { _tag: "Permanent" }
  }
}

// Known by their tags and not by their classes: importing effect/persistence for two `instanceof` would load its stores.
const guardVerdict = (error: object): Verdict | undefined => {
  if (!Predicate.hasProperty(error, "_tag") || !Predicate.hasProperty(error, "reason")) return undefined
  if (error._tag !== "RateLimiterError" && error._tag !== "CircuitBreakerError") return undefined
  const reason = error.reason
  if (!Predicate.hasProperty(reason, "_tag")) return undefined
  switch (reason._tag) {
    case "RateLimitExceeded":
    case "CircuitOpen":
    case "CircuitHalfOpen": {
      const delay = Predicate.hasProperty(reason, "retryAfter") && Duration.isDuration(reason.retryAfter)
        ? reason.retryAfter
        : undefined
      return delay === undefined ? { _tag: "Rejected" } : { _tag: "Rejected", retryAfter: delay }
    }
    // the store failed before the call was let through
    case "RateLimitStoreError":
    case "CircuitBreakerStoreError":
      return { _tag: "Transient" }
    default:
      return undefined
  }
}

const wrappers = new Set(["PersistenceError", "KeyValueStoreError", "PersistedQueueError", "RedisError"])

const storeVerdict = (error: object, now: Now, depth: number): Verdict | undefined => {
  if (!("_tag" in error) || typeof error._tag !== "string") return undefined
  if (wrappers.has(error._tag)) return causeVerdict(error, now, depth)
  switch (error._tag) {
    case "ConfigError":
    case "NoSuchElementError":
    case "IllegalArgumentError":
      return { _tag: "Permanent" }
    case "SocketError": {
      const cause = causeVerdict(error, now, depth)
      if (cause !== undefined) return cause
      const opening = Predicate.hasProperty(error, "reason") && Predicate.hasProperty(error.reason, "_tag") &&
        error.reason._tag === "SocketOpenError"
      return { _tag: opening ? "Transient" : "Ambiguous" }
    }
    default:
      return undefined
  }
}

// OpenAI's and Letta's classes leave `name` at "Error"
const nameOf = (error: object): unknown => {
  const name = "name" in error ? error.name : undefined
  return name === "Error" && typeof error.constructor === "function" ? error.constructor.name : name
}

const foreignVerdict = (error: object, now: Now, depth: number): Verdict | undefined => {
  const system = systemVerdict(error)
  if (system !== undefined) return system
  const message = "message" in error && typeof error.message === "string" ? error.message : ""
  switch (nameOf(error)) {
    // the SDKs' own errors without a response
    case "APIConnectionTimeoutError":
      return { _tag: "TimedOut" }
    case "APIConnectionError":
      return causeVerdict(error, now, depth) ?? { _tag: "Ambiguous" }
    // a signal fired while the call was under way
    case "APIUserAbortError":
    case "AbortError":
      return { _tag: "Ambiguous" }
    case "TimeoutError":
      return { _tag: "TimedOut" }
    case "RetryableError":
      return { _tag: "Transient" }
    case "LengthFinishReasonError":
      return { _tag: "Malformed" }
    case "ContentFilterFinishReasonError":
      return { _tag: "Refused" }
    case "AnthropicError":
    case "OpenAIError":
    case "LettaError": {
      const verdict = sdkVerdict(error, message, now, depth)
      if (verdict !== undefined) return verdict
      break
    }
    // the runtime's own errors
    case "SyntaxError":
      return /json/i.test(message) ? { _tag: "Malformed" } : undefined
    case "TypeError":
      // fetch's only error; every other TypeError is a bug
      return message === "terminated" || /fetch failed|failed to fetch|network ?error/i.test(message)
        ? causeVerdict(error, now, depth) ?? { _tag: "Ambiguous" }
        : undefined
  }
  const signal = signalOf(error)
  if (signal === undefined) return undefined
  return httpVerdict(signal, now) ?? causeVerdict(error, now, depth)
}

const endedEarly = /stream ended without|ended without sending any chunks|missing finish_reason/i

const sdkVerdict = (error: object, message: string, now: Now, depth: number): Verdict | undefined => {
  const cause = causeVerdict(error, now, depth)
  if (cause !== undefined) return cause
  if (endedEarly.test(message)) return { _tag: "Malformed" }
  if (/terminated/.test(message)) return { _tag: "Ambiguous" }
  return /streaming is required/i.test(message) ? { _tag: "Permanent" } : undefined
}
