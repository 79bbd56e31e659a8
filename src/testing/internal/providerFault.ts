/**
 * What goes wrong with one request, as plain data.
 *
 * **Details**
 *
 * Refused by status, with the provider's error body:
 *
 * - `RateLimited` (429 `rate_limit_error`): `retryAfter` is the header `retry-after`, seconds or an HTTP date.
 * - `SpendLimit` (429 with the error code `enforced_spend_limit_reached`): waiting cannot help.
 * - `Overloaded` (529 `overloaded_error`), `Unavailable` (503), `ServerError` (`status` 500 by default, with `html` the
 *   page of a proxy instead of the error body).
 * - `PromptTooLong` (400), `RequestTooLarge` (413).
 * - `StatusError`: any other status, type, message, error code and headers.
 *
 * Connections:
 *
 * - `SlowFirstByte`: the healthy answer, `millis` later. `Hang`: no headers, ever.
 * - `HangBody`: headers and half of the body, then silence.
 * - `ResetBeforeHeaders`, `ResetMidBody`: the connection is reset. `CloseMidBody`: it is closed in the middle.
 *
 * Answers with status 200 that are no answer:
 *
 * - `TruncatedJson`: a complete HTTP response whose JSON is cut. `MalformedJson`: it is no JSON from the start.
 * - `NotAMessage`: a login page, plain text, an empty body, status 204, an error body, or `{}`.
 * - `WrongSchema`: a whole message in which every value that a schema describes (fields of a JSON text, tool inputs) has
 *   the wrong type.
 * - `Refusal`, `EmptyContent`, `MaxTokens` (cut in half), `ContextWindow` (cut in half), `PauseTurn`: a whole message
 *   that does not finish the work.
 *
 * Streams, after `afterEvents` events (default 2, never the whole stream):
 *
 * - `StreamError`: an `error` event inside the stream of status 200, `overloaded_error` by default.
 * - `StreamClose`: a clean end before `message_stop`. `StreamReset`: a reset. `StreamStall`: silence.
 * - `StreamPings`: nothing but pings, one each `everyMillis`, as while a model thinks and does not show it; with `times`
 *   so many of them, and then the rest of the stream.
 * - `StreamBadJson`: the next event's data is cut. `StreamEmpty`: no event at all.
 * - `StreamNoStopReason`: the event with the stop reason is left out.
 * - `StreamToolJsonCut`: the input of a tool call is cut, and the stop reason is `max_tokens`; with `stopReason:
 *   "tool_use"` the stream looks complete. A tool call is made up where the answer has none.
 * - `StreamWithoutEventNames`: events without their `event:` lines. `StreamAsJson`: one JSON body instead of events.
 *
 * A fault meets the request whatever its kind. Status errors are the same for both; for a stream, `HangBody` is
 * `StreamStall` and `ResetMidBody` is `StreamReset` half way, `TruncatedJson` is `StreamClose` half way,
 * `MalformedJson` is `StreamBadJson` at the first event, `NotAMessage` has the body it names, and altered messages come
 * as events. For a request without a stream, `StreamError` is the status of its type, `StreamClose` is `TruncatedJson`,
 * `StreamReset` is `ResetMidBody`, `StreamStall` and `StreamPings` are `HangBody`, `StreamEmpty` is an empty body,
 * `StreamBadJson` is `MalformedJson`, `StreamNoStopReason` and `StreamToolJsonCut` come as one message, and `StreamWithoutEventNames` and
 * `StreamAsJson` are the other format too: events where JSON was asked for.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | { readonly _tag: "RateLimited"; readonly retryAfter?: number | string | undefined }
  | { readonly _tag: "SpendLimit" }
  | { readonly _tag: "Overloaded"; readonly retryAfter?: number | string | undefined }
  | { readonly _tag: "ServerError"; readonly status?: number | undefined; readonly html?: boolean | undefined }
  | { readonly _tag: "Unavailable"; readonly retryAfter?: number | string | undefined }
  | {
    readonly _tag: "StatusError"
    readonly status: number
    readonly type: string
    readonly message: string
    readonly errorCode?: string | undefined
    readonly headers?: Readonly<Record<string, string>> | undefined
  }
  | { readonly _tag: "PromptTooLong" }
  | { readonly _tag: "RequestTooLarge" }
  | { readonly _tag: "SlowFirstByte"; readonly millis: number }
  | { readonly _tag: "Hang" }
  | { readonly _tag: "HangBody" }
  | { readonly _tag: "ResetBeforeHeaders" }
  | { readonly _tag: "ResetMidBody" }
  | { readonly _tag: "CloseMidBody" }
  | { readonly _tag: "TruncatedJson" }
  | { readonly _tag: "MalformedJson" }
  | {
    readonly _tag: "NotAMessage"
    readonly variant: "html" | "text" | "empty" | "noContent" | "errorBody" | "emptyObject"
  }
  | { readonly _tag: "WrongSchema" }
  | { readonly _tag: "Refusal" }
  | { readonly _tag: "EmptyContent" }
  | { readonly _tag: "MaxTokens" }
  | { readonly _tag: "ContextWindow" }
  | { readonly _tag: "PauseTurn" }
  | {
    readonly _tag: "StreamError"
    readonly type?: string | undefined
    readonly message?: string | undefined
    readonly afterEvents?: number | undefined
  }
  | { readonly _tag: "StreamClose"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamReset"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamStall"; readonly afterEvents?: number | undefined }
  | {
    readonly _tag: "StreamPings"
    readonly everyMillis: number
    readonly times?: number | undefined
    readonly afterEvents?: number | undefined
  }
  | { readonly _tag: "StreamEmpty" }
  | { readonly _tag: "StreamBadJson"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamNoStopReason" }
  | { readonly _tag: "StreamToolJsonCut"; readonly stopReason?: "max_tokens" | "tool_use" | undefined }
  | { readonly _tag: "StreamWithoutEventNames" }
  | { readonly _tag: "StreamAsJson" }

/**
 * The tag of a {@link Fault}.
 *
 * @category models
 * @since 0.1.0
 */
export type FaultTag = Fault["_tag"]

const zero: Readonly<Record<FaultTag, number>> = {
  RateLimited: 0,
  SpendLimit: 0,
  Overloaded: 0,
  ServerError: 0,
  Unavailable: 0,
  StatusError: 0,
  PromptTooLong: 0,
  RequestTooLarge: 0,
  SlowFirstByte: 0,
  Hang: 0,
  HangBody: 0,
  ResetBeforeHeaders: 0,
  ResetMidBody: 0,
  CloseMidBody: 0,
  TruncatedJson: 0,
  MalformedJson: 0,
  NotAMessage: 0,
  WrongSchema: 0,
  Refusal: 0,
  EmptyContent: 0,
  MaxTokens: 0,
  ContextWindow: 0,
  PauseTurn: 0,
  StreamError: 0,
  StreamClose: 0,
  StreamReset: 0,
  StreamStall: 0,
  StreamPings: 0,
  StreamEmpty: 0,
  StreamBadJson: 0,
  StreamNoStopReason: 0,
  StreamToolJsonCut: 0,
  StreamWithoutEventNames: 0,
  StreamAsJson: 0
}

/** @internal */
export const noneInjected = (): Record<FaultTag, number> => ({ ...zero })
