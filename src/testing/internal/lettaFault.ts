/**
 * What goes wrong with one request to Letta, as plain data.
 *
 * **Details**
 *
 * Refused by status, before the agent does anything:
 *
 * - `RateLimited` (429) and `Unavailable` (503), with the header `retry-after` in seconds or as an HTTP date.
 * - `AgentBusy` (409 with the run that is being processed), `ApprovalPending` (409).
 * - `StatusError`: any status with a body of Letta's: `{ detail }`, or `{ error: { type, message } }` where there is a
 *   `type`. A type that begins with `llm_` or `mcp_` broke inside of the turn, after `afterMessages` messages of it.
 *
 * Refused, and nobody knows whether the agent did something (it did):
 *
 * - `ServerError` (`status` 500 by default, with `html` the page of a proxy).
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
 * - `NotAnAnswer`: a login page, plain text, an empty body, status 204, or `{}`.
 * - `RunFailed`: a turn that ended in failure, with a `stopReason` that says so, after `afterMessages` messages (default
 *   0). A stream brings an `event: error` of the type `errorType` after the stop reason, unless that is `null`.
 *
 * Streams, after `afterEvents` events (default 1, never the whole stream):
 *
 * - `StreamError`: an error message as Letta sends it (`event: error`), or with `unnamed` as an ordinary event.
 * - `StreamClose`: a clean end. `StreamReset`: a reset. `StreamStall`: silence. `StreamPings`: nothing but signs of life,
 *   one each `everyMillis`, until the client leaves.
 * - `StreamBadJson`: the next event's data is cut. `StreamEmpty`: no event at all. `StreamAsJson`: one JSON body.
 * - `StreamNoStopReason`: the stop reason is left out. `StreamWithEventNames`: every event has a name.
 *
 * A request that asks for no stream meets these as its own kind has them: `StreamError` as a status, `StreamClose` and
 * `StreamBadJson` as `TruncatedJson`, `StreamReset` as `ResetMidBody`, `StreamStall` and `StreamPings` as `HangBody`,
 * `StreamEmpty` as an empty body, `StreamAsJson` and `StreamWithEventNames` as events where JSON was asked for, and
 * `StreamNoStopReason` as an answer without one. A request that only reads is answered as if it had been refused where
 * a turn would have failed, with status 500.
 *
 * @category models
 * @since 0.1.0
 */
export type Fault =
  | { readonly _tag: "RateLimited"; readonly retryAfter?: number | string | undefined }
  | { readonly _tag: "Unavailable"; readonly retryAfter?: number | string | undefined }
  | { readonly _tag: "AgentBusy"; readonly runId?: string | undefined }
  | { readonly _tag: "ApprovalPending" }
  | {
    readonly _tag: "StatusError"
    readonly status: number
    readonly message: string
    readonly type?: string | undefined
    readonly afterMessages?: number | undefined
    readonly headers?: Readonly<Record<string, string>> | undefined
  }
  | { readonly _tag: "ServerError"; readonly status?: number | undefined; readonly html?: boolean | undefined }
  | { readonly _tag: "SlowFirstByte"; readonly millis: number }
  | { readonly _tag: "Hang" }
  | { readonly _tag: "HangBody" }
  | { readonly _tag: "ResetBeforeHeaders" }
  | { readonly _tag: "ResetMidBody" }
  | { readonly _tag: "CloseMidBody" }
  | { readonly _tag: "TruncatedJson" }
  | { readonly _tag: "MalformedJson" }
  | { readonly _tag: "NotAnAnswer"; readonly variant: "html" | "text" | "empty" | "noContent" | "emptyObject" }
  | {
    readonly _tag: "RunFailed"
    readonly stopReason: string
    readonly errorType?: string | null | undefined
    readonly afterMessages?: number | undefined
  }
  | {
    readonly _tag: "StreamError"
    readonly type: string
    readonly message?: string | undefined
    readonly unnamed?: boolean | undefined
    readonly afterEvents?: number | undefined
  }
  | { readonly _tag: "StreamClose"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamReset"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamStall"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamPings"; readonly everyMillis: number; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamBadJson"; readonly afterEvents?: number | undefined }
  | { readonly _tag: "StreamEmpty" }
  | { readonly _tag: "StreamAsJson" }
  | { readonly _tag: "StreamNoStopReason" }
  | { readonly _tag: "StreamWithEventNames" }

/**
 * The tag of a {@link Fault}.
 *
 * @category models
 * @since 0.1.0
 */
export type FaultTag = Fault["_tag"]

/** @internal */
export const noneInjected = (): Record<FaultTag, number> => ({
  RateLimited: 0,
  Unavailable: 0,
  AgentBusy: 0,
  ApprovalPending: 0,
  StatusError: 0,
  ServerError: 0,
  SlowFirstByte: 0,
  Hang: 0,
  HangBody: 0,
  ResetBeforeHeaders: 0,
  ResetMidBody: 0,
  CloseMidBody: 0,
  TruncatedJson: 0,
  MalformedJson: 0,
  NotAnAnswer: 0,
  RunFailed: 0,
  StreamError: 0,
  StreamClose: 0,
  StreamReset: 0,
  StreamStall: 0,
  StreamPings: 0,
  StreamBadJson: 0,
  StreamEmpty: 0,
  StreamAsJson: 0,
  StreamNoStopReason: 0,
  StreamWithEventNames: 0
})
