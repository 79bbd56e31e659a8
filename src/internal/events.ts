import type { VerdictTag } from "../Fault.ts"

/**
 * What a guard did. Plain data, so that it can be logged, counted or sent as it is.
 *
 * **Details**
 *
 * Times are in milliseconds. `attempt` and `attempts` count the tries made so far, the first one included.
 *
 * - `RetryScheduled`, `RetryGaveUp`: `Retry` waits, or hands on the last error.
 * - `CircuitChanged`, `CircuitRejected`: a circuit went to another state, or refused a call.
 * - `BulkheadWaited`, `BulkheadRejected`: a call got its slot after waiting for it, or got none.
 * - `LimitChanged`, `LimitWaited`, `LimitRejected`: an `AdaptiveLimit` lets more or fewer calls run, or a call got its slot
 *   after waiting for it, or got none.
 * - `OutageBegan`, `OutageEnded`: nothing got through any more and single calls are sent to see whether it does, or one of
 *   these `probes` did.
 * - `QuotaWaited`, `QuotaRejected`, `QuotaGated`: a call was sent after waiting for its share of a limit, or got none; or a
 *   provider has refused a call, and for so long none is sent.
 * - `AttemptTimedOut`, `DeadlineExceeded`, `Stalled`: a call was stopped, because one try took too long, because the
 *   time for everything was over (`started` says whether there was any left to begin with), or because nothing came any
 *   more.
 * - `HedgeStarted`, `HedgeWon`, `HedgeSkipped`: a second try was started beside the first, gave the result, or was not
 *   started.
 * - `LastGoodServed`: an older answer was given, `ageMillis` old.
 * - `SafeModeChanged`: a key went into safe mode, or left it.
 * - `FallbackUsed`: an answer came from another step than the first; `failed` and `skipped` are the labels before it:
 *   those that were tried, and those that a guard of ours, such as an open circuit, did not let try.
 * - `HealthChanged`: a `HealthMonitor` found a key, or with `check` one of its checks, in another state than before.
 * - `StepCompleted`, `StepFailed`, `StepAmbiguous`, `RunChanged`: what a `Checkpoint` run does; `replayed` says that a
 *   result came from the journal.
 * - `CheckpointStoreFailed`: a run's store did not do what it was asked to; `reason` is the tag of the error's reason.
 * - `SagaFailed`, `CompensationFailed`: a saga has failed for good, so that its steps are undone; people are asked, because
 *   one of them could not be.
 * - `EscalationOpened`, `EscalationDecided`, `EscalationClosed`: a person is asked, has decided, or is not asked any more,
 *   `waitedMillis` after it was asked.
 * - `EscalationUndelivered`: a run was resumed with an outcome and has not heard of it, so that it will be resumed again;
 *   `error` is what the resumption ended with, `"none"` where it succeeded.
 * - `EscalationsMeasured`: how many escalations wait, and since when the oldest does.
 * - `IdempotencyHit`: a call was answered by an earlier one, or joined one that was under way.
 * - `SessionStarted`, `SessionCompleted`, `SessionFailed`, `SessionPaused`: an `Agent` begins or goes on with a run, and it
 *   ends: with a result, with an error, or to be resumed later, when people have decided or after an interruption.
 * - `ModelCalled`, `ToolCalled`, `BudgetUsed`, `BudgetExceeded`, `LoopDetected`, `ContextCompacted`, `AgentWentBack`: what
 *   an `Agent` does. `shares` are the parts of the limits that are used, from 0 to 1 and beyond, without those that have no
 *   limit; `scope` says whether they are those of this run or shared by several. `stopped` says whether it was only told of
 *   the loop. `ModelCalled` is emitted once for each call that came to something or was paid for, all its attempts together;
 *   `ToolCalled` once for each call that ran and came to its end, also where it died or its result
 *   could not be recorded; one that people have made again ran twice.
 * - `AnswerCut`: the stream of an answer to an `Agent` was cut after `characters`; `cuts` counts those of the turn.
 *
 * What people and models say (`prompt`, `answer`, `arguments`, `result`) is there only where `Telemetry.CaptureContent`
 * asks for it.
 *
 * @category models
 * @since 0.1.0
 */
export type Event =
  | {
    readonly _tag: "RetryScheduled"
    readonly policy: string
    readonly attempt: number
    readonly delayMillis: number
    readonly verdict: VerdictTag
  }
  | {
    readonly _tag: "RetryGaveUp"
    readonly policy: string
    readonly attempts: number
    readonly verdict: VerdictTag
    readonly reason: "Exhausted" | "NotRetryable" | "RetryAfterTooLong" | "Elapsed" | "Deadline" | "BudgetEmpty"
  }
  | { readonly _tag: "CircuitChanged"; readonly key: string; readonly from: string; readonly to: string }
  | { readonly _tag: "CircuitRejected"; readonly key: string; readonly retryAfterMillis: number | undefined }
  | { readonly _tag: "BulkheadWaited"; readonly key: string; readonly waitedMillis: number }
  | {
    readonly _tag: "BulkheadRejected"
    readonly key: string
    readonly reason: "QueueFull" | "WaitTooLong" | "Closed"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "LimitChanged"
    readonly key: string
    readonly from: number
    readonly to: number
    readonly reason: LimitChangeReason
  }
  | { readonly _tag: "LimitWaited"; readonly key: string; readonly waitedMillis: number }
  | {
    readonly _tag: "LimitRejected"
    readonly key: string
    readonly reason: "QueueFull" | "WaitTooLong" | "Outage"
    readonly waitedMillis: number
  }
  | { readonly _tag: "OutageBegan"; readonly key: string; readonly failures: number }
  | { readonly _tag: "OutageEnded"; readonly key: string; readonly afterMillis: number; readonly probes: number }
  | {
    readonly _tag: "QuotaWaited"
    readonly key: string
    readonly priority: "interactive" | "batch"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "QuotaRejected"
    readonly key: string
    readonly reason: "TooLarge" | "QueueFull" | "WaitTooLong"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "QuotaGated"
    readonly key: string
    readonly verdict: "Throttled" | "Overloaded"
    readonly forMillis: number
  }
  | { readonly _tag: "AttemptTimedOut"; readonly name: string; readonly afterMillis: number }
  | {
    readonly _tag: "DeadlineExceeded"
    readonly name: string
    readonly afterMillis: number
    readonly started: boolean
  }
  | { readonly _tag: "Stalled"; readonly name: string; readonly idleMillis: number }
  | { readonly _tag: "HedgeStarted"; readonly policy: string; readonly attempt: number; readonly afterMillis: number }
  | { readonly _tag: "HedgeWon"; readonly policy: string; readonly attempt: number }
  | {
    readonly _tag: "HedgeSkipped"
    readonly policy: string
    readonly reason: "NotIdempotent" | "BudgetEmpty" | "Deadline" | "TooFewSamples"
  }
  | {
    readonly _tag: "FallbackUsed"
    readonly source: string
    readonly failed: ReadonlyArray<string>
    readonly skipped: ReadonlyArray<string>
  }
  | { readonly _tag: "LastGoodServed"; readonly key: string; readonly ageMillis: number }
  | { readonly _tag: "SafeModeChanged"; readonly key: string; readonly active: boolean; readonly failures: number }
  | {
    readonly _tag: "HealthChanged"
    readonly key: string
    readonly check: string | undefined
    readonly from: string
    readonly to: string
    readonly message: string
  }
  | { readonly _tag: "StepCompleted"; readonly runId: string; readonly step: string; readonly replayed: boolean }
  | { readonly _tag: "StepFailed"; readonly runId: string; readonly step: string; readonly replayed: boolean }
  | { readonly _tag: "StepAmbiguous"; readonly runId: string; readonly step: string }
  | { readonly _tag: "RunChanged"; readonly runId: string; readonly status: string }
  | {
    readonly _tag: "CheckpointStoreFailed"
    readonly runId: string
    readonly operation: string
    readonly reason: string
  }
  | { readonly _tag: "SagaFailed"; readonly runId: string; readonly saga: string }
  | {
    readonly _tag: "CompensationFailed"
    readonly runId: string
    readonly step: string
    readonly compensation: string
  }
  | {
    readonly _tag: "EscalationOpened"
    readonly id: string
    readonly runId: string | undefined
    readonly reason: string
  }
  | {
    readonly _tag: "EscalationDecided"
    readonly id: string
    readonly decision: string
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "EscalationClosed"
    readonly id: string
    readonly runId: string | undefined
    readonly as: "expired" | "withdrawn"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "EscalationUndelivered"
    readonly id: string
    readonly runId: string
    readonly attempts: number
    readonly error: string
    readonly retryInMillis: number
  }
  | { readonly _tag: "EscalationsMeasured"; readonly depth: number; readonly oldestAgeMillis: number }
  | { readonly _tag: "IdempotencyHit"; readonly key: string; readonly joined: boolean }
  | ({ readonly _tag: "SessionStarted"; readonly prompt?: string } & InSession)
  | ({
    readonly _tag: "SessionCompleted"
    readonly completion: string
    readonly turns: number
    readonly toolCalls: number
    readonly inputTokens: number
    readonly outputTokens: number
    readonly durationMillis: number
    readonly answer?: string
  } & InSession)
  | ({
    readonly _tag: "SessionFailed"
    readonly error: string
    readonly verdict: VerdictTag
    readonly durationMillis: number
  } & InSession)
  | ({
    readonly _tag: "SessionPaused"
    readonly reason: "Suspended" | "Interrupted"
    readonly durationMillis: number
  } & InSession)
  | ({
    readonly _tag: "ModelCalled"
    readonly turn: number
    /** The model that answered, as it calls itself. */
    readonly model: string | undefined
    readonly attempts: number
    readonly inputTokens: number
    readonly outputTokens: number
    readonly durationMillis: number
    readonly prompt?: string
    readonly answer?: string
  } & InSession)
  | ({
    readonly _tag: "ToolCalled"
    readonly tool: string
    readonly callId: string
    readonly attempts: number
    readonly outcome: "success" | "failure"
    /** Characters of the result as JSON, as the model is told it. */
    readonly resultLength: number
    readonly durationMillis: number
    readonly arguments?: string
    readonly result?: string
  } & InSession)
  | {
    readonly _tag: "BudgetUsed"
    readonly agent: string
    readonly runId: string
    readonly scope: "run" | "shared"
    readonly shares: Readonly<Record<string, number>>
  }
  | {
    readonly _tag: "AnswerCut"
    readonly agent: string
    readonly runId: string
    readonly turn: number
    readonly cuts: number
    readonly characters: number
    readonly verdict: VerdictTag
  }
  | { readonly _tag: "BudgetExceeded"; readonly agent: string; readonly runId: string; readonly budget: string }
  | {
    readonly _tag: "AgentWentBack"
    readonly agent: string
    readonly runId: string
    readonly turn: number
    readonly error: string
  }
  | {
    readonly _tag: "ContextCompacted"
    readonly agent: string
    readonly runId: string
    readonly messages: number
    readonly results: number
  }
  | {
    readonly _tag: "LoopDetected"
    readonly agent: string
    readonly runId: string
    readonly loop: "Repeated" | "Cycle" | "NoProgress"
    readonly stopped: boolean
  }

/**
 * What happens at every call, also where nothing is wrong: counted, and told to no listener.
 *
 * @internal
 */
export type Counted =
  | { readonly _tag: "CallBegan"; readonly policy: string }
  | { readonly _tag: "PrimaryUsed"; readonly source: string }

interface InSession {
  readonly agent: string
  readonly runId: string
  readonly sessionId: string
}

/**
 * Why an `AdaptiveLimit` lets more or fewer calls run.
 *
 * **Details**
 *
 * - `Used`: all that it let run were running, and the provider took them.
 * - `Overloaded`, `Failed`, `Slow`: the provider had no room, a call timed out or lost its connection, answers came late.
 * - `Outage`, `Recovering`: an outage began, or ended.
 *
 * @category models
 * @since 0.1.0
 */
export type LimitChangeReason = "Used" | "Overloaded" | "Failed" | "Slow" | "Outage" | "Recovering"
