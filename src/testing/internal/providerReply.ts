import type { MessagesRequest } from "./messagesRequest.ts"
import * as wire from "./messagesWire.ts"
import type { Fault } from "./providerFault.ts"
import {
  eventStream,
  finish,
  half,
  html,
  json,
  noContent,
  page,
  partialJson,
  type Reply,
  retryAfter,
  silence,
  streamOf,
  succeed
} from "./reply.ts"

/** @internal */
export interface ErrorAnswer {
  readonly status: number
  readonly type: string
  readonly message: string
  readonly errorCode?: string | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
}

const errorBody = (error: ErrorAnswer, requestId: string): string =>
  JSON.stringify({
    type: "error",
    error: {
      type: error.type,
      message: error.message,
      ...(error.errorCode === undefined ? {} : { details: { error_code: error.errorCode } })
    },
    request_id: requestId
  })

/** @internal */
export const refuse = (error: ErrorAnswer, requestId: string): Reply =>
  finish(error.status, { ...json, ...error.headers }, errorBody(error, requestId))

/** @internal */
export const broken = (message: string): Reply =>
  refuse({ status: 500, type: "api_error", message, headers: { "x-should-retry": "false" } }, "req_defect")

/** @internal */
export const countedTokens = (inputTokens: number): Reply => succeed(JSON.stringify({ input_tokens: inputTokens }))

const statusOfType: Readonly<Record<string, number>> = {
  invalid_request_error: 400,
  authentication_error: 401,
  billing_error: 402,
  permission_error: 403,
  not_found_error: 404,
  conflict_error: 409,
  request_too_large: 413,
  rate_limit_error: 429,
  api_error: 500,
  timeout_error: 504,
  overloaded_error: 529
}

const rateLimited = (after: number | string | undefined): ErrorAnswer => ({
  status: 429,
  type: "rate_limit_error",
  message: "This request would exceed your organization's rate limit. Please try again later.",
  headers: retryAfter(after)
})

/** @internal */
export const throttled = (seconds: number, requestId: string): Reply => refuse(rateLimited(seconds), requestId)

const refusal = (fault: Fault): ErrorAnswer | undefined => {
  switch (fault._tag) {
    case "RateLimited":
      // a client that learns from the headers must not read that there is room
      return {
        ...rateLimited(fault.retryAfter),
        headers: { ...retryAfter(fault.retryAfter), "anthropic-ratelimit-requests-remaining": "0" }
      }
    case "SpendLimit":
      return {
        status: 429,
        type: "rate_limit_error",
        message: "Your organization has reached its spend limit for this month.",
        errorCode: "enforced_spend_limit_reached"
      }
    case "Overloaded":
      return {
        status: 529,
        type: "overloaded_error",
        message: "Overloaded",
        headers: retryAfter(fault.retryAfter)
      }
    case "ServerError":
      return { status: fault.status ?? 500, type: "api_error", message: "Internal server error" }
    case "Unavailable":
      return {
        status: 503,
        type: "api_error",
        message: "The service is temporarily unavailable.",
        headers: retryAfter(fault.retryAfter)
      }
    case "StatusError":
      return fault
    case "PromptTooLong":
      return {
        status: 400,
        type: "invalid_request_error",
        message: "prompt is too long: 214310 tokens > 200000 maximum"
      }
    case "RequestTooLarge":
      return {
        status: 413,
        type: "request_too_large",
        message: "Request exceeds the maximum allowed number of bytes."
      }
    default:
      return undefined
  }
}

const alteredMessage = (
  fault: Fault,
  message: wire.WireMessage,
  request: MessagesRequest
): wire.WireMessage => {
  switch (fault._tag) {
    case "WrongSchema":
      return wire.violatingSchema(message, request)
    case "Refusal":
      return wire.refused(message)
    case "EmptyContent":
      return wire.withoutContent(message)
    case "MaxTokens":
      return wire.cut(message, "max_tokens")
    case "ContextWindow":
      return wire.cut(message, "model_context_window_exceeded")
    case "PauseTurn":
      return wire.paused(message)
    case "StreamNoStopReason":
      return { ...message, stopReason: null }
    case "StreamToolJsonCut":
      return wire.cutToolCall(message, request, fault.stopReason ?? "max_tokens")
    default:
      return message
  }
}

const notAMessage = (
  variant: Extract<Fault, { readonly _tag: "NotAMessage" }>["variant"],
  message: wire.WireMessage,
  stream: boolean,
  requestId: string
): Reply => {
  switch (variant) {
    case "html":
      return finish(200, html, page("Sign in to continue"))
    case "text":
      return finish(200, { "content-type": "text/plain; charset=utf-8" }, wire.messageJson(message))
    case "empty":
      return finish(200, stream ? eventStream : json, "")
    case "noContent":
      return noContent
    case "errorBody":
      return succeed(errorBody({ status: 200, type: "api_error", message: "Internal server error" }, requestId))
    case "emptyObject":
      return succeed("{}")
  }
}

const jsonReply = (fault: Fault | undefined, message: wire.WireMessage, requestId: string): Reply => {
  const text = wire.messageJson(message)
  switch (fault?._tag) {
    case "HangBody":
    case "StreamStall":
    case "StreamPings":
      return partialJson(text, "hang")
    case "ResetMidBody":
    case "StreamReset":
      return partialJson(text, "reset")
    case "CloseMidBody":
      return partialJson(text, "close")
    case "TruncatedJson":
    case "StreamClose":
      return succeed(half(text))
    case "MalformedJson":
    case "StreamBadJson":
      return succeed(`{"id": "${message.id}", "type": message, }`)
    case "StreamEmpty":
      return succeed("")
    case "StreamError": {
      const type = fault.type ?? "overloaded_error"
      const error = { status: statusOfType[type] ?? 500, type, message: fault.message ?? "Overloaded" }
      return refuse(error, requestId)
    }
    case "StreamWithoutEventNames":
    case "StreamAsJson":
      return streamReply(undefined, message, requestId)
    default:
      return succeed(text)
  }
}

const streamReply = (fault: Fault | undefined, message: wire.WireMessage, requestId: string): Reply => {
  const events = wire.messageEvents(message)
  const texts = events.map(wire.eventText)
  const middle = Math.floor(texts.length / 2)
  const first = (count: number | undefined) => texts.slice(0, Math.max(0, Math.min(count ?? 2, texts.length - 1)))
  switch (fault?._tag) {
    case "HangBody":
      return streamOf(texts.slice(0, middle), "hang")
    case "ResetMidBody":
      return streamOf(texts.slice(0, middle), "reset")
    case "CloseMidBody":
      return streamOf(texts.slice(0, middle), "close")
    case "TruncatedJson":
      return streamOf(texts.slice(0, middle))
    case "StreamClose":
      return streamOf(first(fault.afterEvents))
    case "StreamReset":
      return streamOf(first(fault.afterEvents), "reset")
    case "StreamStall":
      return streamOf(first(fault.afterEvents), "hang")
    case "StreamPings": {
      const { everyMillis, times } = fault
      const sent = first(fault.afterEvents)
      const rest = times === undefined ? undefined : { times, chunks: texts.slice(sent.length) }
      return {
        ...streamOf(sent, "hang"),
        beat: { everyMillis, text: wire.eventText(wire.event({ type: "ping" })), rest }
      }
    }
    case "StreamError": {
      const error = { type: fault.type ?? "overloaded_error", message: fault.message ?? "Overloaded" }
      const failure = wire.event({ type: "error", error, request_id: requestId })
      return streamOf([...first(fault.afterEvents), wire.eventText(failure)])
    }
    case "MalformedJson":
    case "StreamBadJson": {
      const sent = first(fault._tag === "StreamBadJson" ? fault.afterEvents : 0)
      // never the ping, whose data no client reads
      const broken = events.slice(sent.length).filter(({ name }) => name !== "ping").slice(0, 1)
      return streamOf([...sent, ...broken.map(({ name, data }) => wire.eventText({ name, data: half(data) }))])
    }
    case "StreamEmpty":
      return streamOf([])
    case "StreamNoStopReason":
      return streamOf(events.filter(({ name }) => name !== "message_delta").map(wire.eventText))
    case "StreamWithoutEventNames":
      return streamOf(events.map(({ data }) => `data: ${data}\n\n`))
    case "StreamAsJson":
      return succeed(wire.messageJson(message))
    default:
      return streamOf(texts)
  }
}

/**
 * The reply to a request whose answer is never made: it is refused, or the connection says nothing at all.
 *
 * @internal
 */
export const unanswered = (fault: Fault, requestId: string): Reply | undefined => {
  if (fault._tag === "Hang") return silence
  if (fault._tag === "ResetBeforeHeaders") return { ...silence, end: "reset" }
  const error = refusal(fault)
  if (error === undefined) return undefined
  return fault._tag === "ServerError" && fault.html === true
    ? finish(error.status, html, page(`${error.status} Server Error`))
    : refuse(error, requestId)
}

/** @internal */
export const answered = (
  fault: Fault | undefined,
  request: MessagesRequest,
  healthy: wire.WireMessage,
  requestId: string
): Reply => {
  const stream = request.stream === true
  const whole = stream ? streamReply : jsonReply
  if (fault === undefined) return whole(undefined, healthy, requestId)
  if (fault._tag === "NotAMessage") return notAMessage(fault.variant, healthy, stream, requestId)
  if (fault._tag === "SlowFirstByte") return { ...whole(undefined, healthy, requestId), delayMillis: fault.millis }
  return whole(fault, alteredMessage(fault, healthy, request), requestId)
}
