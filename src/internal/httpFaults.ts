import * as Duration from "effect/Duration"
import * as Headers from "effect/http/Headers"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import type { Verdict } from "./verdict.ts"

/**
 * What an HTTP provider's failure tells, whichever client reported it. `codes` are the machine-readable codes, the most
 * specific first.
 *
 * @internal
 */
export interface Signal {
  readonly status: number | undefined
  readonly codes: ReadonlyArray<string>
  readonly text: string
  readonly headers: unknown
}

const header = (headers: unknown, name: string): string | undefined => {
  if (!Predicate.isObject(headers)) return undefined
  if ("get" in headers && typeof headers.get === "function") {
    const value: unknown = headers.get(name)
    return typeof value === "string" ? value : undefined
  }
  for (const [key, value] of Object.entries(headers)) {
    if (key.toLowerCase() === name && typeof value === "string") return value
  }
  return undefined
}

const decimal = /^\d+(?:\.\d+)?$/

const positive = (text: string | undefined, unit: number): Duration.Duration | undefined => {
  if (text === undefined || !decimal.test(text.trim())) return undefined
  const millis = Number(text) * unit
  return Number.isSafeInteger(Math.ceil(millis)) ? Duration.millis(millis) : undefined
}

/**
 * Reads `retry-after-ms`, else `retry-after` (seconds, also with a fraction, or an HTTP date measured from `now`). A
 * date that is past means now; what is neither is ignored.
 *
 * @internal
 */
export const retryAfter = (headers: unknown, now: () => number): Duration.Duration | undefined => {
  const millis = positive(header(headers, "retry-after-ms"), 1)
  if (millis !== undefined) return millis
  const value = header(headers, "retry-after")
  if (value === undefined) return undefined
  const seconds = positive(value, 1000)
  if (seconds !== undefined || decimal.test(value.trim())) return seconds
  return Result.match(Headers.parseRetryAfter(value), {
    onFailure: () => undefined,
    onSuccess: (parsed) => Headers.retryAfterDelay(parsed, now())
  })
}

const withDelay = (_tag: "Throttled" | "Overloaded", headers: unknown, now: () => number): Verdict => {
  const delay = retryAfter(headers, now)
  return delay === undefined ? { _tag } : { _tag, retryAfter: delay }
}

// a limit of money: waiting does not help, another provider may
const exhausted =
  /spend_limit|insufficient_(?:quota|credits)|billing_hard_limit|quota_exceeded|^billing_error$|credit_balance/
const overflow = /^request_too_large$|context_length_exceeded|context_window|contextwindow/
// these come without a code: the text is all there is
const exhaustedText = /credit balance is too low|usage limits?\b.*regain access|spend(?:ing)? limit/i
const overflowText =
  /prompt is too long|input is too long|exceeds? context limit|(?:maximum|exceeds? the|exceeded) (?:model'?s? )?context|context (?:window|length)|contextwindowexceeded|too many (?:input )?tokens/i
const awaitsApproval = /waiting for approval|pending approval/i

const refusedCodes = new Set(["content_filter", "content_policy_violation", "refusal"])
const overloadedCodes = new Set([
  "overloaded_error",
  "overloaded",
  "server_overloaded",
  "engine_overloaded",
  "engine_overloaded_error",
  "slow_down"
])
const throttledCodes = new Set(["rate_limit_error", "rate_limit_exceeded", "ramp_limit_exceeded", "llm_rate_limit"])

const byCode: ReadonlyMap<string, Verdict["_tag"]> = new Map<string, Verdict["_tag"]>([
  ["timeout_error", "TimedOut"],
  ["llm_timeout", "TimedOut"],
  ["api_error", "Transient"],
  ["server_error", "Transient"],
  ["internal_error", "Transient"],
  ["internal_server_error", "Transient"],
  ["conflict_error", "Transient"],
  ["llm_error", "Transient"],
  ["llm_api_error", "Transient"],
  ["mcp_connection_error", "Transient"],
  ["stream_incomplete", "Ambiguous"],
  ["llm_empty_response", "Malformed"],
  ["invalid_llm_response", "Malformed"],
  ["invalid_tool_call", "Malformed"],
  ["no_tool_call", "Malformed"],
  ["max_tokens", "Malformed"],
  ["max_tokens_exceeded", "Malformed"],
  ["invalid_request_error", "Permanent"],
  ["authentication_error", "Permanent"],
  ["permission_error", "Permanent"],
  ["not_found_error", "Permanent"],
  ["invalid_api_key", "Permanent"],
  ["model_not_found", "Permanent"],
  ["llm_authentication", "Permanent"],
  ["llm_bad_request", "Permanent"],
  ["llm_permission_denied", "Permanent"],
  ["llm_not_found", "Permanent"],
  ["llm_unprocessable_entity", "Permanent"],
  ["max_steps", "Permanent"],
  ["cancelled", "Permanent"],
  ["requires_approval", "Permanent"]
])

const byStatus = (status: number, signal: Signal, now: () => number): Verdict => {
  switch (status) {
    case 408:
      return { _tag: "Transient" }
    case 409:
      return { _tag: awaitsApproval.test(signal.text) ? "Permanent" : "Transient" }
    case 413:
      return { _tag: "ContextOverflow" }
    case 429:
      return withDelay("Throttled", signal.headers, now)
    case 503:
    case 529:
      return withDelay("Overloaded", signal.headers, now)
    case 504:
    case 524:
      return { _tag: "TimedOut" }
    case 501:
    case 505:
    case 511:
      return { _tag: "Permanent" }
  }
  if (status >= 500) {
    if (signal.codes.some((code) => overloadedCodes.has(code))) return withDelay("Overloaded", signal.headers, now)
    return { _tag: signal.codes.some((code) => byCode.get(code) === "TimedOut") ? "TimedOut" : "Transient" }
  }
  if (status >= 200 && status < 300) return { _tag: "Malformed" }
  return { _tag: "Permanent" }
}

const isOneOf = (status: number | undefined, ...known: ReadonlyArray<number>): boolean =>
  status === undefined || known.includes(status)

/**
 * Whether a limit of money was reached.
 *
 * @internal
 */
export const isExhausted = ({ codes, status, text }: Pick<Signal, "codes" | "status" | "text">): boolean =>
  status === 402 || codes.some((code) => exhausted.test(code)) ||
  (isOneOf(status, 400, 403, 429) && exhaustedText.test(text))

/**
 * The verdict of an HTTP provider's failure, `undefined` where nothing in it is known.
 *
 * @internal
 */
export const httpVerdict = (signal: Signal, now: () => number): Verdict | undefined => {
  const { codes, status, text } = signal
  // the codes say more than the status: a spend limit is a 429, a refusal and an overflow are 400
  if (isExhausted(signal)) return { _tag: "Permanent" }
  if (codes.some((code) => overflow.test(code))) return { _tag: "ContextOverflow" }
  if (status === undefined || status < 500) {
    if (codes.some((code) => refusedCodes.has(code))) return { _tag: "Refused" }
  }
  // "too many tokens" in a 429 is a rate, and in a 5xx anything
  if (isOneOf(status, 400, 422) && overflowText.test(text)) return { _tag: "ContextOverflow" }
  if (status !== undefined) return byStatus(status, signal, now)
  for (const code of codes) {
    if (overloadedCodes.has(code)) return withDelay("Overloaded", signal.headers, now)
    if (throttledCodes.has(code)) return withDelay("Throttled", signal.headers, now)
    const tag = byCode.get(code)
    if (tag !== undefined) return { _tag: tag }
  }
  return undefined
}

const pushCode = (codes: Array<string>, value: unknown): void => {
  if (typeof value === "string" && value !== "error") codes.push(value.toLowerCase())
}

const isStatus = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 100 && value <= 599

const field = (value: unknown, key: string): unknown => Predicate.isObject(value) ? Reflect.get(value, key) : undefined

/**
 * Reads an error of an HTTP client or of a provider's SDK by its shape: `status` or `response.status`, `headers`, and the
 * body under `error`, with Anthropic's, OpenAI's and Letta's fields. `undefined` for what has no such shape.
 *
 * @internal
 */
export const signalOf = (error: object): Signal | undefined => {
  const response = field(error, "response")
  const status = [field(error, "status"), field(error, "statusCode"), field(response, "status")].find(isStatus)
  const stopReason = field(error, "stop_reason")
  const known = status !== undefined || "status" in error || typeof field(error, "error_type") === "string" ||
    stopReason !== undefined || field(error, "type") === "error"
  if (!known) return undefined

  const codes: Array<string> = []
  const texts: Array<unknown> = [field(error, "message"), field(error, "detail")]
  const body = field(error, "error") ?? field(response, "data")
  for (const source of [field(body, "error"), body, error]) {
    pushCode(codes, field(source, "errorCode"))
    pushCode(codes, field(field(source, "details"), "error_code"))
    pushCode(codes, field(source, "code"))
    pushCode(codes, field(source, "error_type"))
    pushCode(codes, field(source, "type"))
    texts.push(field(source, "message"), field(source, "detail"))
  }
  const stop = typeof stopReason === "string" ? stopReason : field(stopReason, "stop_reason")
  pushCode(codes, stop)
  // an agent's turn that Letta ended with "error" may have run some of its steps
  if (stop === "error") codes.push("stream_incomplete")
  return {
    status,
    codes,
    text: texts.filter(Predicate.isString).join("\n"),
    headers: field(error, "headers") ?? field(response, "headers")
  }
}
