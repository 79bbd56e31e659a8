import * as DateTime from "effect/DateTime"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

/**
 * Why a run asks for help.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Reason = Schema.Literals([
  "MaxRetriesExceeded",
  "AmbiguousState",
  "LowConfidence",
  "RequiresHuman",
  "IrreversibleAction",
  "BudgetExceeded",
  "LoopDetected",
  "InvalidOutput"
])

/**
 * Why a run asks for help.
 *
 * @category models
 * @since 0.1.0
 */
export type Reason = typeof Reason.Type

/**
 * Schema of {@link Decision}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Decision = Schema.TaggedUnion({
  Retry: {},
  Approve: { arguments: Schema.optionalKey(Schema.Json) },
  Reject: { reason: Schema.String },
  Supply: { value: Schema.Json },
  Abandon: { reason: Schema.String }
})

/**
 * What a supervisor answers: try again, go on (with other arguments, where the question takes such), do not do it, take
 * this value instead, or give up.
 *
 * @category models
 * @since 0.1.0
 */
export type Decision = typeof Decision.Type

/**
 * Schema of {@link DecisionTag}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const DecisionTag = Schema.Literals(["Retry", "Approve", "Reject", "Supply", "Abandon"])

/**
 * The tag of a decision.
 *
 * @category models
 * @since 0.1.0
 */
export type DecisionTag = typeof DecisionTag.Type

/**
 * Schema of {@link Status}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Status = Schema.Literals(["open", "claimed", "resolved", "expired", "withdrawn"])

/**
 * Where an escalation stands: waiting, held by somebody for the time of a lease, decided, out of time undecided, or taken
 * back by whoever asked.
 *
 * @category models
 * @since 0.1.0
 */
export type Status = typeof Status.Type

/**
 * A question to a supervisor, and its answer once there is one.
 *
 * **Details**
 *
 * - `about` is what exactly is decided on, the arguments of a call for instance: in full, and without secrets as far as those
 *   can be told. `task` and `context` may be cut, this never is.
 * - `error`, `state` and `context` are excerpts: bounded in size, and without secrets as far as those can be told.
 * - `checkpoint` says where the whole state is.
 * - `decisions` are those it takes, `accepts` is the JSON Schema of a value that can be supplied, and `edits` that of
 *   other arguments that can be approved, which are within `editLimits`.
 * - `revision` grows with every change to any record of the queue.
 * - `resolution` is the decision; `resolution.used` says that a run has gone on with it. `closed` says that there will be
 *   none. An escalation whose time is over is `expired` for everybody from that moment on; `closed` is there once it has
 *   been recorded, and no clock that is late can decide it after that.
 * - `refused` is the decision before, where the run that asked could not go on with it, and why: a value may be one by its
 *   JSON Schema and none by the schema of the program. It is open again.
 * - `delivered` says that the run has been woken with its outcome.
 *
 * @category models
 * @since 0.1.0
 */
export class Escalation extends Schema.Class<Escalation>("effect-resilience/durable/EscalationQueue/Escalation")({
  id: Schema.String,
  revision: Schema.Int,
  reason: Reason,
  task: Schema.String,
  runId: Schema.optionalKey(Schema.String),
  step: Schema.optionalKey(Schema.String),
  error: Schema.optionalKey(Schema.Struct({ tag: Schema.String, message: Schema.String })),
  checkpoint: Schema.optionalKey(Schema.String),
  state: Schema.optionalKey(Schema.Json),
  context: Schema.optionalKey(Schema.Json),
  about: Schema.optionalKey(Schema.Json),
  decisions: Schema.Array(DecisionTag),
  accepts: Schema.optionalKey(Schema.Json),
  edits: Schema.optionalKey(Schema.Json),
  editLimits: Schema.optionalKey(Schema.Struct({ arguments: Schema.Int, depth: Schema.Int })),
  submittedAt: Schema.DateTimeUtcFromMillis,
  expiresAt: Schema.optionalKey(Schema.DateTimeUtcFromMillis),
  status: Status,
  claim: Schema.optionalKey(Schema.Struct({ by: Schema.String, until: Schema.DateTimeUtcFromMillis })),
  resolution: Schema.optionalKey(Schema.Struct({
    decision: Decision,
    by: Schema.optionalKey(Schema.String),
    at: Schema.DateTimeUtcFromMillis,
    used: Schema.optionalKey(Schema.Boolean)
  })),
  refused: Schema.optionalKey(Schema.Struct({
    decision: Decision,
    by: Schema.optionalKey(Schema.String),
    issue: Schema.String,
    at: Schema.DateTimeUtcFromMillis
  })),
  closed: Schema.optionalKey(Schema.Struct({
    as: Schema.Literals(["expired", "withdrawn"]),
    at: Schema.DateTimeUtcFromMillis,
    reason: Schema.optionalKey(Schema.String)
  })),
  delivered: Schema.optionalKey(Schema.Boolean)
}) {}

/**
 * Schema of {@link FailureReason}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const FailureReason = Schema.TaggedUnion({
  NotFound: {},
  AlreadyDecided: { decision: DecisionTag, by: Schema.optionalKey(Schema.String) },
  Expired: { at: Schema.DateTimeUtcFromMillis },
  Withdrawn: { at: Schema.DateTimeUtcFromMillis, why: Schema.optionalKey(Schema.String) },
  RunCancelled: { runId: Schema.String },
  AlreadyClaimed: { by: Schema.String, until: Schema.DateTimeUtcFromMillis },
  AlreadyUsed: { decision: DecisionTag },
  InvalidDecision: { decision: Schema.String, issue: Schema.String },
  InvalidRequest: { issue: Schema.String },
  TooLong: { limit: Schema.Int },
  QueueFull: { capacity: Schema.Int },
  Corrupt: { issue: Schema.String },
  InTransaction: {},
  SchemaTooNew: { found: Schema.Finite, known: Schema.Finite },
  Unavailable: { cause: Schema.Defect() },
  Rejected: { cause: Schema.Defect() }
})

/**
 * What the queue can refuse or fail with.
 *
 * **Details**
 *
 * - `NotFound`: no escalation has this id.
 * - `AlreadyDecided`: there is a decision, and the first one stands.
 * - `Expired`: its time has run out without a decision.
 * - `Withdrawn`: whoever asked has taken the question back, or its run was cancelled with it.
 * - `RunCancelled`: the run that asks was cancelled, and would not hear of a decision.
 * - `AlreadyClaimed`: somebody else holds it.
 * - `AlreadyUsed`: a run has gone on with the decision, so that it cannot be taken back.
 * - `InvalidDecision`: it does not take such a decision, or not with this value, or it is no decision at all.
 * - `InvalidRequest`: what was submitted or asked for has an option that it cannot have.
 * - `TooLong`: what it is about is longer than the queue's `aboutLimit`, and would not be seen in full.
 * - `QueueFull`: the queue in memory holds as many undecided escalations as it may.
 * - `Corrupt`: the stored record does not decode.
 * - `InTransaction`: the call is inside a transaction of its caller, which could take it back after it was answered.
 * - `SchemaTooNew`: what is stored is of a newer release.
 * - `Unavailable`, `Rejected`: the store failed, for now or for good.
 *
 * A refusal has changed nothing. A store that breaks off in the middle of a write may have written.
 *
 * @category models
 * @since 0.1.0
 */
export type FailureReason = typeof FailureReason.Type

/**
 * Failure of an operation on the queue, see {@link FailureReason}.
 *
 * @category errors
 * @since 0.1.0
 */
export class EscalationError
  extends Schema.TaggedError<EscalationError>("effect-resilience/durable/EscalationQueue/EscalationError")(
    "EscalationError",
    { operation: Schema.String, id: Schema.optionalKey(Schema.String), reason: FailureReason }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Transient" | "Rejected" | "Permanent" }> {
    switch (this.reason._tag) {
      case "Unavailable":
        return Fault.transient
      case "QueueFull":
        return Fault.rejected()
      default:
        return Fault.permanent
    }
  }
  override get message() {
    const { id, operation, reason } = this
    return `escalation queue, ${operation}${id === undefined ? "" : ` of "${id}"`}: ${explain(reason)}`
  }
}

const causeOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

const explain = (reason: FailureReason): string => {
  switch (reason._tag) {
    case "NotFound":
      return "there is no such escalation; list the open ones"
    case "AlreadyDecided":
      return `already decided (${reason.decision}${
        reason.by === undefined ? "" : ` by ${reason.by}`
      }); that decision stands`
    case "Expired":
      return `it expired undecided at ${DateTime.formatIso(reason.at)}; run the work again to ask anew`
    case "Withdrawn":
      return `it was withdrawn at ${DateTime.formatIso(reason.at)}${
        reason.why === undefined ? "" : ` (${reason.why})`
      }; there is nothing left to decide`
    case "RunCancelled":
      return `run "${reason.runId}" was cancelled and waits for no decision; withdraw it, or revive the run first`
    case "AlreadyClaimed":
      return `held by ${reason.by} until ${DateTime.formatIso(reason.until)}; ask them, or wait`
    case "AlreadyUsed":
      return `a run has gone on with the decision (${reason.decision}), which cannot be taken back any more`
    case "InvalidRequest":
      return `${reason.issue}; nothing was changed, correct it`
    case "TooLong":
      return `what it is about has more than ${reason.limit} characters, and nobody can decide on what they do not see; ` +
        "raise the option aboutLimit of the queue, or ask about less"
    case "InTransaction":
      return "the call is inside a transaction of its caller, which could take it back later; call before or after it"
    case "SchemaTooNew":
      return `what is stored is of version ${reason.found}, this release knows ${reason.known}; update it`
    case "InvalidDecision":
      return `${reason.decision} is not a decision it takes: ${reason.issue}; decide again`
    case "QueueFull":
      return `${reason.capacity} escalations are undecided and more are not held; decide some`
    case "Corrupt":
      return `the stored record does not decode: ${reason.issue}`
    case "Unavailable":
      return `the store is unavailable, try again: ${causeOf(reason.cause)}`
    case "Rejected":
      return `the store rejected it: ${causeOf(reason.cause)}`
  }
}

/**
 * Failure of a step or run that a supervisor rejected or abandoned.
 *
 * @category errors
 * @since 0.1.0
 */
export class Abandoned extends Schema.TaggedError<Abandoned>("effect-resilience/durable/EscalationQueue/Abandoned")(
  "Abandoned",
  { escalationId: Schema.String, decision: Schema.Literals(["Reject", "Abandon"]), reason: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const word = this.decision === "Reject" ? "rejected" : "abandoned"
    return `${word} by the decision on escalation "${this.escalationId}": ${this.reason}`
  }
}
