import {
  APIConnectionError,
  APIConnectionTimeoutError,
  APIError,
  APIUserAbortError,
  LettaError as SdkError
} from "@letta-ai/letta-client"
import type { LettaStreamingResponse } from "@letta-ai/letta-client/resources/agents/messages"
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as Fault from "../../Fault.ts"
import { httpVerdict } from "../../internal/httpFaults.ts"
import { systemVerdict } from "../../internal/systemFaults.ts"
import { causes, excerpt, explain, textAt } from "./foreignErrors.ts"
import { LettaError, type LettaErrorReason } from "./lettaError.ts"
import * as wire from "./lettaWire.ts"
import type { Exchange } from "./watchedFetch.ts"

/**
 * One call, and what is known about what it has done so far.
 *
 * @internal
 */
export interface Call {
  readonly method: string
  readonly agentId: string | null
  readonly exchange: Exchange
  /** The same request twice does what it does once, whatever its HTTP method says. */
  readonly repeatable: boolean
  /** Where a stream has come to. */
  readonly progress: Progress
}

interface Progress {
  /** The agent has done something: at least one part of its turn came. */
  acted: boolean
  runId: string | null
  sequence: number | null
}

/** @internal */
export const noProgress = (): Progress => ({ acted: false, runId: null, sequence: null })

/** Whether the failed request had an effect: not at all, or nobody knows. */
type Effects = "none" | "unknown"

interface Judged {
  readonly reason: LettaErrorReason
  readonly verdict: Fault.Verdict
  readonly effects: Effects
}

// RFC 9110, 9.2.2
const idempotentMethods = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])

const requestIdOf = (headers: Headers | undefined): string | null =>
  headers?.get("x-request-id") ?? headers?.get("request-id") ?? null

/**
 * A request that changes the agent is not repeated on suspicion: unless it is known that nothing was done, a verdict that
 * invites to retry becomes `Ambiguous`. One that may be repeated is never ambiguous.
 */
const settle = (call: Call, { effects, verdict }: Judged): Fault.Verdict => {
  const method = call.exchange.request?.method.toUpperCase()
  if (call.repeatable || method === undefined || idempotentMethods.has(method)) {
    return verdict._tag === "Ambiguous" ? Fault.transient : verdict
  }
  return effects === "unknown" && Fault.isRetryable(verdict) ? Fault.ambiguous : verdict
}

const make = (call: Call, judged: Judged, headers: Headers | undefined): LettaError =>
  new LettaError({
    method: call.method,
    agentId: call.agentId,
    reason: judged.reason,
    verdict: settle(call, judged),
    requestId: requestIdOf(headers)
  })

/** What broke inside of the turn, in the words of Letta's own types: some of its steps may have been taken. */
const insideTurn = /^(?:llm_|mcp_)/

interface Body {
  readonly fromLetta: boolean
  readonly type: string | null
  readonly message: string | null
  readonly runId: string | null
}

const bodyOf = (body: unknown): Body => {
  const error = Predicate.hasProperty(body, "error") ? body.error : undefined
  const detail = Predicate.hasProperty(body, "detail") ? body.detail : undefined
  const validation = detail !== undefined && detail !== null && typeof detail !== "string"
    ? textAt(detail, "message") ?? JSON.stringify(detail)
    : null
  const message = textAt(error, "message") ?? textAt(error, "detail") ?? textAt(body, "detail") ?? validation ??
    textAt(body, "message")
  return {
    fromLetta: detail !== undefined || error !== undefined,
    type: textAt(error, "type"),
    message: message === null ? null : excerpt(message),
    runId: textAt(body, "run_id") ?? textAt(detail, "run_id") ?? textAt(error, "run_id")
  }
}

const busy = /currently being processed|already (?:being processed|running)|is busy/i
const awaitsApproval = /waiting for approval|pending approval/i

/** The client's own words for a body that is no JSON: the status and the body. */
const plain = (text: string): string => {
  const said = text.replace(/^\d{3} /, "").trim()
  return said.startsWith("<") ? "a page of HTML" : excerpt(said)
}

const refusal = (status: number, body: Body, text: string): LettaErrorReason => {
  const message = body.message ?? plain(text)
  if (status === 404 && body.fromLetta) return { _tag: "NotFound", message }
  if (status === 409 && awaitsApproval.test(message)) return { _tag: "ApprovalPending", message }
  if (status === 409 && (busy.test(message) || body.runId !== null)) {
    return { _tag: "AgentBusy", message, runId: body.runId }
  }
  return { _tag: "StatusError", status, type: body.type, message }
}

/** No server took the request: there is none to be had, or (521, 523 of Cloudflare) the proxy did not reach it. */
const notTaken = new Set([503, 521, 523, 529])

const effectsOf = (status: number, type: string | null): Effects => {
  if (type !== null && insideTurn.test(type)) return "unknown"
  return status === 408 || (status >= 500 && !notTaken.has(status)) ? "unknown" : "none"
}

const fromStatus = (error: APIError, status: number, nowMillis: number): Judged => {
  const body = bodyOf(error.error)
  const reason = refusal(status, body, error.message)
  const verdict = httpVerdict({
    status,
    codes: body.type === null ? [] : [body.type],
    text: "message" in reason ? reason.message ?? "" : "",
    headers: error.headers
  }, () => nowMillis)
  return { reason, verdict: verdict ?? Fault.permanent, effects: effectsOf(status, body.type) }
}

/** @internal */
export const runFailed = (
  call: Call,
  failure: {
    readonly type: string
    readonly message?: string | null | undefined
    readonly runId?: string | null | undefined
    readonly acted?: boolean | undefined
  },
  nowMillis: number
): LettaError => {
  const message = failure.message === null || failure.message === undefined ? null : excerpt(failure.message)
  const codes = [failure.type === "error" ? "stream_incomplete" : failure.type]
  const verdict = httpVerdict({ status: undefined, codes, text: message ?? "", headers: undefined }, () => nowMillis)
  return make(call, {
    reason: { _tag: "RunFailed", type: failure.type, message, runId: failure.runId ?? call.progress.runId },
    // A type not known yet: Letta says that it failed, as with a status of 500.
    verdict: verdict ?? Fault.transient,
    effects: failure.acted ?? call.progress.acted ? "unknown" : "none"
  }, call.exchange.response?.headers)
}

/** @internal */
export const notAnAnswer = (call: Call, what: string): LettaError =>
  make(
    call,
    {
      reason: { _tag: "MalformedAnswer", message: excerpt(what) },
      verdict: Fault.malformed,
      effects: "unknown"
    },
    call.exchange.response?.headers
  )

/** @internal */
export const invalidRequest = (method: string, agentId: string | null, message: string): LettaError =>
  new LettaError({
    method,
    agentId,
    reason: { _tag: "InvalidRequest", message },
    verdict: Fault.permanent,
    requestId: null
  })

const cutShort = ({ progress }: Call, message: string): Judged => ({
  reason: {
    _tag: "CutShort",
    message: excerpt(message),
    runId: progress.runId,
    sequence: progress.sequence
  },
  verdict: Fault.ambiguous,
  effects: "unknown"
})

const noAnswer = (waited: Duration.Duration | undefined): Judged => ({
  reason: { _tag: "NoAnswer", waitedMillis: waited === undefined ? null : Duration.toMillis(waited) },
  verdict: Fault.timedOut,
  effects: "unknown"
})

const aborted: Judged = { reason: { _tag: "Aborted" }, verdict: Fault.ambiguous, effects: "unknown" }

const connectionFailed = (error: unknown): Judged => {
  const known = causes(error).map((cause) => Predicate.isObject(cause) ? systemVerdict(cause) : undefined)
    .find(Predicate.isNotUndefined)
  return {
    reason: { _tag: "ConnectionFailed", message: excerpt(explain(error)) },
    verdict: known ?? Fault.ambiguous,
    // The table of system errors knows which of them come before anything is sent.
    effects: known?._tag === "Transient" ? "none" : "unknown"
  }
}

/**
 * An event that says that the turn failed.
 *
 * @internal
 */
export const failureIn = (event: unknown) =>
  wire.typeOf(event) === "error_message"
    ? {
      type: textAt(event, "error_type") ?? "error",
      message: textAt(event, "message") ?? textAt(event, "detail"),
      runId: textAt(event, "run_id")
    }
    : undefined

const judge = (error: unknown, call: Call): Judged => {
  const { exchange } = call
  if (exchange.expired !== undefined) {
    const { limit, waitedFor } = exchange.expired
    return waitedFor === "headers"
      ? noAnswer(limit)
      : cutShort(call, `nothing came for ${Duration.format(limit)} (stallTimeout)`)
  }
  if (exchange.broken !== undefined) return cutShort(call, explain(exchange.broken))
  if (error instanceof APIUserAbortError) return aborted
  if (error instanceof APIConnectionTimeoutError) return noAnswer(undefined)
  if (error instanceof APIConnectionError) return connectionFailed(error)
  const malformed = (message: string): Judged => ({
    reason: { _tag: "MalformedAnswer", message: excerpt(message) },
    verdict: Fault.malformed,
    effects: "unknown"
  })
  if (error instanceof APIError) return malformed(error.message)
  if (causes(error).some((cause) => cause instanceof SyntaxError)) return malformed(explain(error))
  if (error instanceof SdkError) {
    return exchange.response === undefined
      ? {
        reason: { _tag: "InvalidRequest", message: excerpt(error.message) },
        verdict: Fault.permanent,
        effects: "none"
      }
      : malformed(error.message)
  }
  // Last, because the client also aborts a request when it has thrown for another reason.
  if (exchange.aborted) return aborted
  return {
    reason: { _tag: "UnknownFailure", message: excerpt(explain(error)) },
    verdict: Fault.unknown,
    effects: "unknown"
  }
}

/**
 * Says what went wrong, from what the client threw and from what was seen on the wire.
 *
 * @internal
 */
export const fromThrown = (error: unknown, call: Call, nowMillis: number): LettaError => {
  if (error instanceof LettaError) return error
  // A complete error answer says more than whatever happened to the connection afterwards.
  if (error instanceof APIError) {
    if (typeof error.status === "number") {
      return make(call, fromStatus(error, error.status, nowMillis), error.headers)
    }
    const failure = failureIn(error.error) ??
      (Predicate.hasProperty(error.error, "error") ? failureIn(error.error.error) : undefined)
    if (failure !== undefined) return runFailed(call, failure, nowMillis)
  }
  return make(call, judge(error, call), call.exchange.response?.headers)
}

const note = (progress: Progress, event: unknown): void => {
  if (wire.isDeed(event)) progress.acted = true
  progress.runId = textAt(event, "run_id") ?? progress.runId
  if (Predicate.hasProperty(event, "seq_id") && typeof event.seq_id === "number") progress.sequence = event.seq_id
}

/**
 * The parts of a turn, and a failure unless it ends with a stop reason that Letta counts as completed. The client ends
 * the loop normally where a stream is cut, empty, or in another format, and passes on an error as if it were a message.
 *
 * @internal
 */
export const wholeTurn = async function*(
  events: AsyncIterable<LettaStreamingResponse>,
  call: Call,
  now: () => number
): AsyncGenerator<wire.Part, void> {
  const { exchange, progress } = call
  // The stop reason of a failed turn; what the error is in full comes after it.
  let failed: string | undefined
  let seen = false
  try {
    for await (const event of events) {
      const flaw = wire.flaw(event)
      if (flaw !== undefined) throw notAnAnswer(call, flaw)
      seen = true
      note(progress, event)
      const failure = failureIn(event)
      if (failure !== undefined) throw runFailed(call, failure, now())
      if (event.message_type === "stop_reason") {
        exchange.complete = true
        if (!wire.isCompleted(event.stop_reason)) failed = event.stop_reason
      }
      if (failed === undefined && wire.isPart(event)) yield event
    }
  } catch (cause) {
    const error = fromThrown(cause, call, now())
    if (error.reason._tag === "RunFailed" || !exchange.complete) throw error
    // Whatever breaks after the stop reason, the turn is over.
  }
  if (failed !== undefined) throw runFailed(call, { type: failed }, now())
  if (exchange.complete) return
  if (exchange.aborted) throw fromThrown(new APIUserAbortError(), call, now())
  if (!seen) throw notAnAnswer(call, "no event came where a stream was asked for")
  throw make(call, cutShort(call, "the stream ended before its stop reason"), exchange.response?.headers)
}
