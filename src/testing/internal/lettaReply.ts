import type { Fault } from "./lettaFault.ts"
import * as turns from "./lettaTurn.ts"
import * as replies from "./reply.ts"

/** @internal */
export const detail = (
  status: number,
  message: string,
  more: Readonly<Record<string, unknown>> = {},
  headers: Readonly<Record<string, string>> = {}
): replies.Reply =>
  replies.finish(status, { ...replies.json, ...headers }, JSON.stringify({ detail: message, ...more }))

const typed = (
  status: number,
  type: string,
  message: string,
  headers: Readonly<Record<string, string>> = {}
): replies.Reply =>
  replies.finish(
    status,
    { ...replies.json, ...headers },
    JSON.stringify({ error: { type, message, detail: null } })
  )

/** @internal */
export const broken = (message: string): replies.Reply => detail(500, message)

const statusOfType: Readonly<Record<string, number>> = {
  llm_bad_request: 400,
  llm_authentication: 401,
  llm_insufficient_credits: 402,
  llm_permission_denied: 403,
  llm_not_found: 404,
  llm_rate_limit: 429,
  mcp_connection_error: 502,
  llm_timeout: 504
}

const insideTurn = /^(?:llm_|mcp_)/

/** How a turn meets a fault: whether it is made at all, and how many of its messages were made before it failed. */
interface Meeting {
  /** The reply that comes instead of an answer. */
  readonly refusal: replies.Reply | undefined
  /** Messages that the agent has made and kept; `undefined` for the whole turn. */
  readonly made: number | undefined
}

/** @internal */
export const meet = (fault: Fault | undefined, request: turns.MessageRequest, runId: string): Meeting => {
  const refused = (refusal: replies.Reply, made = 0): Meeting => ({ refusal, made })
  const lost = (refusal: replies.Reply): Meeting => ({ refusal, made: undefined })
  switch (fault?._tag) {
    case "RateLimited":
      return refused(detail(429, "Rate limit exceeded", {}, replies.retryAfter(fault.retryAfter)))
    case "Unavailable":
      return refused(detail(503, "The service is unavailable", {}, replies.retryAfter(fault.retryAfter)))
    case "AgentBusy": {
      const message = "Cannot send a new message: another message is currently being processed for this agent."
      return refused(detail(409, message, { run_id: fault.runId ?? runId }))
    }
    case "ApprovalPending":
      return refused(detail(409, "Cannot send a new message: the agent is waiting for approval on a tool call."))
    case "StatusError":
      return fault.type === undefined
        ? refused(detail(fault.status, fault.message, {}, fault.headers))
        : refused(
          typed(fault.status, fault.type, fault.message, fault.headers),
          insideTurn.test(fault.type) ? fault.afterMessages ?? 0 : 0
        )
    case "ServerError": {
      const status = fault.status ?? 500
      const reply = fault.html === true
        ? replies.finish(status, replies.html, replies.page(`${status} Server Error`))
        : detail(status, "An internal server error occurred")
      return lost(reply)
    }
    case "Hang":
      return lost(replies.silence)
    case "ResetBeforeHeaders":
      return lost({ ...replies.silence, end: "reset" })
    case "RunFailed":
      return { refusal: undefined, made: fault.afterMessages ?? 0 }
    case "StreamError": {
      // Letta keeps nothing of a step that failed, and a sign of life is no step.
      const events = request.streaming === true ? fault.afterEvents ?? 1 : 0
      return { refusal: undefined, made: Math.max(0, events - (request.include_pings === true ? 1 : 0)) }
    }
    default:
      return { refusal: undefined, made: undefined }
  }
}

const notAnAnswer = (
  variant: Extract<Fault, { readonly _tag: "NotAnAnswer" }>["variant"],
  text: string,
  stream: boolean
): replies.Reply => {
  switch (variant) {
    case "html":
      return replies.finish(200, replies.html, replies.page("Sign in to continue"))
    case "text":
      return replies.finish(200, { "content-type": "text/plain; charset=utf-8" }, text)
    case "empty":
      return replies.finish(200, stream ? replies.eventStream : replies.json, "")
    case "noContent":
      return replies.noContent
    case "emptyObject":
      return replies.succeed("{}")
  }
}

/**
 * The answer to a request for JSON.
 *
 * @internal
 */
export const jsonReply = (fault: Fault | undefined, text: string, events: () => replies.Reply): replies.Reply => {
  switch (fault?._tag) {
    case "SlowFirstByte":
      return { ...replies.succeed(text), delayMillis: fault.millis }
    case "HangBody":
    case "StreamStall":
    case "StreamPings":
      return replies.partialJson(text, "hang")
    case "ResetMidBody":
    case "StreamReset":
      return replies.partialJson(text, "reset")
    case "CloseMidBody":
      return replies.partialJson(text, "close")
    case "TruncatedJson":
    case "StreamClose":
    case "StreamBadJson":
      return replies.succeed(replies.half(text))
    case "MalformedJson":
      return replies.succeed(`{"messages": [, }`)
    case "NotAnAnswer":
      return notAnAnswer(fault.variant, text, false)
    case "StreamEmpty":
      return replies.succeed("")
    case "StreamError":
      return typed(statusOfType[fault.type] ?? 500, fault.type, fault.message ?? "The turn failed")
    case "StreamAsJson":
    case "StreamWithEventNames":
      return events()
    default:
      return replies.succeed(text)
  }
}

const errorEvent = (runId: string, type: string, message: string): string =>
  `event: error\n${turns.eventText(turns.errorMessage(runId, type, message))}`

/**
 * The answer to a request for a stream. `pings` are what `StreamPings` sends.
 *
 * @internal
 */
export const streamReply = (
  fault: Fault | undefined,
  turn: turns.Turn,
  request: turns.MessageRequest,
  date: string
): replies.Reply => {
  const events = turns.eventsOf(turn, request, date)
  const texts = [...events.map(turns.eventText), turns.done]
  const first = (count: number | undefined) => texts.slice(0, Math.max(0, Math.min(count ?? 1, texts.length - 2)))
  const middle = Math.floor(texts.length / 2)
  switch (fault?._tag) {
    case "SlowFirstByte":
      return { ...replies.streamOf(texts), delayMillis: fault.millis }
    case "HangBody":
      return replies.streamOf(texts.slice(0, middle), "hang")
    case "ResetMidBody":
      return replies.streamOf(texts.slice(0, middle), "reset")
    case "CloseMidBody":
      return replies.streamOf(texts.slice(0, middle), "close")
    case "TruncatedJson":
      return replies.streamOf(texts.slice(0, middle))
    case "MalformedJson":
      return replies.streamOf([`data: {"message_type": \n\n`])
    case "NotAnAnswer":
      return notAnAnswer(fault.variant, turns.answerJson(turn), true)
    case "RunFailed": {
      const type = fault.errorType === undefined ? "internal_error" : fault.errorType
      return replies.streamOf([
        ...texts.slice(0, -2),
        ...(type === null ? [] : [errorEvent(turn.runId, type, "An error occurred during agent execution.")]),
        turns.done
      ])
    }
    case "StreamError": {
      const message = fault.message ?? "The turn failed"
      const text = fault.unnamed === true
        ? turns.eventText(turns.errorMessage(turn.runId, fault.type, message))
        : errorEvent(turn.runId, fault.type, message)
      return replies.streamOf([...first(fault.afterEvents), text, turns.done])
    }
    case "StreamClose":
      return replies.streamOf(first(fault.afterEvents))
    case "StreamReset":
      return replies.streamOf(first(fault.afterEvents), "reset")
    case "StreamStall":
      return replies.streamOf(first(fault.afterEvents), "hang")
    case "StreamPings":
      return {
        ...replies.streamOf(first(fault.afterEvents), "hang"),
        beat: { everyMillis: fault.everyMillis, text: turns.eventText(turns.ping(turn, date)) }
      }
    case "StreamBadJson": {
      const sent = first(fault.afterEvents)
      return replies.streamOf([...sent, `${replies.half((texts[sent.length] ?? "").trim())}\n\n`])
    }
    case "StreamEmpty":
      return replies.streamOf([])
    case "StreamAsJson":
      return replies.succeed(turns.answerJson(turn))
    case "StreamWithEventNames":
      return replies.streamOf(texts.map((text) => `event: message\n${text}`))
    default:
      return replies.streamOf(texts)
  }
}
