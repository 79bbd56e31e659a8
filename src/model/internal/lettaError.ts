import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

const nullableText = Schema.NullOr(Schema.String)

/**
 * Schema of {@link LettaErrorReason}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const LettaErrorReason = Schema.TaggedUnion({
  StatusError: { status: Schema.Int, type: nullableText, message: nullableText },
  NotFound: { message: nullableText },
  AgentBusy: { message: nullableText, runId: nullableText },
  ApprovalPending: { message: nullableText },
  RunFailed: { type: Schema.String, message: nullableText, runId: nullableText },
  NoAnswer: { waitedMillis: Schema.NullOr(Schema.Number) },
  ConnectionFailed: { message: Schema.String },
  CutShort: { message: Schema.String, runId: nullableText, sequence: Schema.NullOr(Schema.Int) },
  MalformedAnswer: { message: Schema.String },
  InvalidRequest: { message: Schema.String },
  Aborted: {},
  UnknownFailure: { message: Schema.String }
})

/**
 * Why a call failed.
 *
 * **Details**
 *
 * Refused:
 *
 * - `StatusError`: an HTTP status that says no; `type` and `message` are those of its body.
 * - `NotFound`: Letta itself says that there is no such agent, block or run. A 404 of a proxy is a `StatusError`.
 * - `AgentBusy`: another turn of the agent is running (409), in the run `runId` where Letta names it: wait, or follow that
 *   run with `resumeRun`.
 * - `ApprovalPending`: the agent waits for the answer to an approval that it asked for (409): answer that one.
 *
 * Sent, and not answered as it should be:
 *
 * - `RunFailed`: the agent's turn ended in failure, which Letta reports under HTTP 200. `type` is the type of its error
 *   (`llm_timeout`, `internal_error`, …) or the stop reason (`llm_api_error`, …).
 * - `NoAnswer`: none began in time. `ConnectionFailed`: none began, the connection was lost or never made.
 * - `CutShort`: it broke off or stood still. `runId` and `sequence` are where a background run can be resumed.
 * - `MalformedAnswer`: what came under HTTP 200 is no answer.
 *
 * Of the program's own: `InvalidRequest` (the client would not send it), `Aborted` (by a signal of the program's),
 * `UnknownFailure` (the callback of `use` threw something else).
 *
 * @category models
 * @since 0.1.0
 */
export type LettaErrorReason = typeof LettaErrorReason.Type

const messageOf = (reason: LettaErrorReason): string => {
  const because = "message" in reason && reason.message !== null && reason.message !== "" ? `: ${reason.message}` : ""
  switch (reason._tag) {
    case "StatusError":
      return `HTTP ${reason.status}${reason.type === null ? "" : ` (${reason.type})`}${because}`
    case "NotFound":
      return `Letta knows no such thing${because}`
    case "AgentBusy":
      return `the agent is busy with ${reason.runId === null ? "another turn" : `run ${reason.runId}`}${because}`
    case "ApprovalPending":
      return `the agent waits for an approval${because}`
    case "RunFailed":
      return `the agent's turn failed with ${reason.type}${because}`
    case "NoAnswer":
      return reason.waitedMillis === null
        ? "no answer began in time"
        : `no answer began within ${Duration.format(Duration.millis(reason.waitedMillis))}`
    case "ConnectionFailed":
      return `no answer began, the connection failed${because}`
    case "CutShort":
      return `the answer broke off${because}`
    case "MalformedAnswer":
      return `what came is no answer${because}`
    case "InvalidRequest":
      return `the request was not sent${because}`
    case "Aborted":
      return "the request was aborted by a signal of the program's"
    case "UnknownFailure":
      return `the call failed outside Letta${because}`
  }
}

const advice = (reason: LettaErrorReason, verdict: Fault.Verdict): string => {
  switch (reason._tag) {
    case "AgentBusy":
      return "wait until that turn is over, or follow it"
    case "ApprovalPending":
      return "answer the approval before sending anything else"
    case "NotFound":
      return "check the id"
    case "Aborted":
    case "UnknownFailure":
    case "InvalidRequest":
      return "check the program"
    default:
      break
  }
  switch (verdict._tag) {
    case "Ambiguous":
      return "it may have been done: look before sending it again"
    case "ContextOverflow":
      return "shorten the agent's memory or messages before sending it again"
    case "Refused":
      return "ask for something else"
    case "Permanent":
      return "sending it again will fail in the same way"
    default:
      return "it may be sent again"
  }
}

/**
 * A call of Letta failed.
 *
 * **Details**
 *
 * `method` is the method of {@link Letta} that was called, `agentId` the agent, or the run for `resumeRun`. `verdict` is
 * what `Fault.classify` reads, also after a round trip through JSON. `requestId` is the header of the answer that names
 * the request, where there is one.
 *
 * @category errors
 * @since 0.1.0
 */
export class LettaError extends Schema.TaggedError<LettaError>("effect-resilience/model/Letta/LettaError")(
  "LettaError",
  {
    method: Schema.String,
    agentId: nullableText,
    reason: LettaErrorReason,
    verdict: Fault.Verdict,
    requestId: nullableText
  }
) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
  override get message() {
    const target = this.agentId === null ? "" : ` (${this.agentId})`
    const request = this.requestId === null ? "" : ` [request ${this.requestId}]`
    return `Letta.${this.method}${target}: ${messageOf(this.reason)}${request}; ${advice(this.reason, this.verdict)}`
  }
}
