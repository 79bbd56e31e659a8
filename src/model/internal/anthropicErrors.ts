import Sdk from "@anthropic-ai/sdk"
import * as AiError from "effect/ai/AiError"
import * as Duration from "effect/Duration"
import * as Predicate from "effect/Predicate"
import * as Fault from "../../Fault.ts"
import { httpVerdict, isExhausted } from "../../internal/httpFaults.ts"
import { verdictMetadata } from "../../internal/verdict.ts"
import { readReply, type Reply } from "./anthropicMetadata.ts"
import { causes, excerpt, explain, textAt } from "./foreignErrors.ts"
import type { Exchange } from "./watchedFetch.ts"

/** @internal */
export interface Origin {
  readonly module: string
  readonly method: string
}

interface Details {
  readonly type: string | null
  readonly errorCode: string | null
  readonly message: string | null
}

const noDetails: Details = { type: null, errorCode: null, message: null }

// Not read from the SDK's error, which passes on whatever is in these fields as if it were text.
const detailsOf = (body: unknown): Details => {
  if (!Predicate.hasProperty(body, "error")) return noDetails
  const { error } = body
  return {
    type: textAt(error, "type"),
    errorCode: Predicate.hasProperty(error, "details") ? textAt(error.details, "error_code") : null,
    message: textAt(error, "message")
  }
}

/** @internal */
export const reasonFields = (reply: Reply, verdict: Fault.Verdict, details: Details = noDetails) => ({
  metadata: {
    anthropic: {
      status: reply.status,
      type: details.type,
      errorCode: details.errorCode,
      message: details.message === null ? null : excerpt(details.message),
      requestId: reply.requestId,
      ...(reply.retryAfterMillis === undefined ? {} : { retryAfterMillis: reply.retryAfterMillis }),
      rateLimits: { ...reply.rateLimits }
    },
    ...verdictMetadata(verdict)
  },
  ...(reply.status === null ? {} : { http: { response: { status: reply.status, headers: reply.headers } } })
})

const describe = (reply: Reply, details: Details, advice: string): string => {
  const facts = [
    reply.status === null ? undefined : `HTTP ${reply.status}`,
    details.errorCode ?? details.type ?? undefined,
    reply.requestId === null ? undefined : `request ${reply.requestId}`
  ].filter(Predicate.isNotUndefined)
  const said = details.message === null || details.message === "" ? "" : `${excerpt(details.message)} `
  return `${said}(${facts.join(", ")}). ${advice}`
}

const fromVerdict = (
  verdict: Fault.Verdict,
  status: number | undefined,
  reply: Reply,
  details: Details
): AiError.AiErrorReason => {
  const fields = reasonFields(reply, verdict, details)
  const internal = (advice: string) =>
    new AiError.InternalProviderError({ description: describe(reply, details, advice), ...fields })
  const invalid = (advice: string) =>
    new AiError.InvalidRequestError({ description: describe(reply, details, advice), ...fields })
  const unauthorized = (kind: AiError.AuthenticationError["kind"], advice: string) =>
    new AiError.AuthenticationError({ kind, description: describe(reply, details, advice), ...fields })
  switch (verdict._tag) {
    case "Throttled":
      return new AiError.RateLimitError({
        ...(verdict.retryAfter === undefined ? {} : { retryAfter: verdict.retryAfter }),
        ...fields
      })
    case "Overloaded":
      return internal("The provider has no capacity; try again later")
    case "TimedOut":
      return internal("The provider gave up waiting for its own answer")
    case "ContextOverflow":
      return invalid("Shorten the conversation before sending it again")
    case "Refused":
      return new AiError.ContentPolicyError({
        description: describe(reply, details, "Ask for something else, or ask another model"),
        ...fields
      })
    case "Permanent": {
      if (status === 401 || details.type === "authentication_error") return unauthorized("InvalidKey", "Check the key")
      if (status === 403 || details.type === "permission_error") {
        return unauthorized("InsufficientPermissions", "Check what the key may do")
      }
      return invalid("Sending it again will fail in the same way")
    }
    default:
      return internal("The provider failed; send the request again")
  }
}

/** One table for every provider decides what a status and a code mean; here only the form of the error is chosen. */
const fromAnswer = (
  status: number | undefined,
  reply: Reply,
  details: Details,
  nowMillis: number
): AiError.AiErrorReason => {
  const signal = {
    status,
    codes: [details.errorCode, details.type].filter(Predicate.isNotNull),
    text: details.message ?? "",
    headers: reply.headers
  }
  if (isExhausted(signal)) return new AiError.QuotaExhaustedError(reasonFields(reply, Fault.permanent, details))
  const verdict = httpVerdict(signal, () => nowMillis)
  // An error event of a type not known yet: the provider says that it failed, as with a status of 500.
  return fromVerdict(verdict ?? Fault.transient, status, reply, details)
}

/**
 * The reason for an error body `{ type: "error", error: { type, message } }` that came where an answer was expected:
 * inside a stream, or under HTTP 200.
 *
 * @internal
 */
export const fromErrorBody = (body: unknown, reply: Reply, nowMillis: number): AiError.AiErrorReason | undefined => {
  if (textAt(body, "type") !== "error") return undefined
  const details = detailsOf(body)
  return details.type === null ? undefined : fromAnswer(undefined, reply, details, nowMillis)
}

/** @internal */
export const notAMessage = (reply: Reply, what: string): AiError.InvalidResponseError =>
  new AiError.InvalidResponseError({
    description: describe(reply, noDetails, `The answer is not a whole message: ${excerpt(what)}`),
    ...reasonFields(reply, Fault.malformed)
  })

/** @internal */
export const cutShort = (reply: Reply, what: string): AiError.InvalidResponseError =>
  new AiError.InvalidResponseError({
    description: describe(
      reply,
      noDetails,
      `The answer broke off: ${excerpt(what)}. The request was executed, at least in part`
    ),
    ...reasonFields(reply, Fault.ambiguous)
  })

/** @internal */
export const badInput = (description: string): AiError.InvalidRequestError =>
  new AiError.InvalidRequestError({
    description,
    ...reasonFields(readReply(undefined, undefined, 0), Fault.permanent)
  })

const noAnswer = (reply: Reply, description: string) =>
  new AiError.InternalProviderError({ description, ...reasonFields(reply, Fault.timedOut) })

const fromWire = (exchange: Exchange, reply: Reply): AiError.AiErrorReason | undefined => {
  if (exchange.expired !== undefined) {
    const { limit, option, waitedFor } = exchange.expired
    const waited = `${Duration.format(limit)} (${option})`
    return waitedFor === "body"
      ? cutShort(reply, `nothing came for ${waited}`)
      : noAnswer(reply, `No answer began within ${waited}`)
  }
  return exchange.broken === undefined ? undefined : cutShort(reply, explain(exchange.broken))
}

const abortedByCaller = (reply: Reply) =>
  new AiError.UnknownError({
    description: "The request was aborted by a signal of the caller's; it may have been executed",
    ...reasonFields(reply, Fault.ambiguous)
  })

const fromSdkError = (
  error: unknown,
  exchange: Exchange,
  reply: Reply,
  nowMillis: number
): AiError.AiErrorReason => {
  if (error instanceof Sdk.APIUserAbortError) return abortedByCaller(reply)
  if (error instanceof Sdk.APIConnectionTimeoutError) {
    return noAnswer(reply, "The connection timed out before an answer began")
  }
  if (error instanceof Sdk.APIConnectionError) {
    return new AiError.NetworkError({
      reason: "TransportError",
      method: exchange.request?.method ?? "POST",
      url: exchange.request?.url ?? "",
      description: explain(error)
    })
  }
  if (error instanceof Sdk.APIError) {
    return fromErrorBody(error.error, reply, nowMillis) ??
      fromAnswer(undefined, reply, { ...noDetails, message: error.message }, nowMillis)
  }
  if (causes(error).some((cause) => cause instanceof SyntaxError)) return notAMessage(reply, explain(error))
  if (error instanceof Sdk.AnthropicError) {
    if (exchange.response === undefined) return badInput(error.message)
    return exchange.response.body === null ? notAMessage(reply, "it has no body") : cutShort(reply, error.message)
  }
  // Last, because the SDK also aborts a request when it has thrown for another reason.
  if (exchange.aborted) return abortedByCaller(reply)
  return new AiError.UnknownError({
    description: `The call failed outside the provider: ${excerpt(explain(error))}`,
    ...reasonFields(reply, { _tag: "Permanent", unknown: true })
  })
}

/**
 * Says what went wrong, from what the SDK threw and from what was seen on the wire.
 *
 * @internal
 */
export const fromThrown = (
  error: unknown,
  exchange: Exchange,
  origin: Origin,
  nowMillis: number
): AiError.AiError => {
  if (AiError.isAiError(error)) return error
  // A complete error answer says more than whatever happened to the connection afterwards.
  if (error instanceof Sdk.APIError && typeof error.status === "number") {
    const reply = readReply(error.status, error.headers, nowMillis)
    const details = detailsOf(error.error)
    return AiError.make({
      ...origin,
      reason: fromAnswer(error.status, reply, { ...details, message: details.message ?? error.message }, nowMillis)
    })
  }
  const reply = readReply(exchange.response?.status, exchange.response?.headers, nowMillis)
  return AiError.make({
    ...origin,
    reason: fromWire(exchange, reply) ?? fromSdkError(error, exchange, reply, nowMillis)
  })
}

const typeOf = (event: unknown): string | null => textAt(event, "type")

/**
 * The same items, and at their end an error if the SDK ended the loop although the answer is not complete: it does so
 * where a message has no `message_stop` and where a signal of the caller's was aborted.
 *
 * @internal
 */
export const watchEnd = async function*<A>(items: AsyncIterable<A>, exchange: Exchange): AsyncGenerator<A, void> {
  let open = false
  try {
    for await (const item of items) {
      const type = typeOf(item)
      if (type === "message_start") open = true
      if (type === "message_stop") {
        open = false
        exchange.complete = true
      }
      yield item
    }
  } catch (cause) {
    // Whatever breaks after the last event, the message is whole.
    if (!exchange.complete) throw cause
  }
  if (exchange.complete) return
  if (exchange.aborted) throw new Sdk.APIUserAbortError()
  if (open) throw new Sdk.AnthropicError("the stream ended before message_stop")
}
