import type { Telemetry } from "effect-resilience"

type Tag = Telemetry.Event["_tag"]

const session = { agent: "a", runId: "run-secret", sessionId: "session-secret" }

const one: { readonly [T in Tag]: Omit<Extract<Telemetry.Event, { readonly _tag: T }>, "_tag"> } = {
  RetryScheduled: { policy: "p", attempt: 1, delayMillis: 100, verdict: "Transient" },
  RetryGaveUp: { policy: "p", attempts: 3, verdict: "Transient", reason: "Exhausted" },
  CircuitChanged: { key: "k", from: "Closed", to: "Open" },
  CircuitRejected: { key: "k", retryAfterMillis: 1_000 },
  BulkheadWaited: { key: "k", waitedMillis: 20 },
  BulkheadRejected: { key: "k", reason: "QueueFull", waitedMillis: 0 },
  LimitChanged: { key: "k", from: 1, to: 2, reason: "Used" },
  LimitWaited: { key: "k", waitedMillis: 20 },
  LimitRejected: { key: "k", reason: "QueueFull", waitedMillis: 0 },
  OutageBegan: { key: "k", failures: 3 },
  OutageEnded: { key: "k", afterMillis: 1_000, probes: 2 },
  QuotaWaited: { key: "k", priority: "batch", waitedMillis: 20 },
  QuotaRejected: { key: "k", reason: "TooLarge", waitedMillis: 0 },
  QuotaGated: { key: "k", verdict: "Throttled", forMillis: 2_000 },
  AttemptTimedOut: { name: "n", afterMillis: 10 },
  DeadlineExceeded: { name: "n", afterMillis: 10, started: true },
  Stalled: { name: "n", idleMillis: 10 },
  HedgeStarted: { policy: "p", attempt: 2, afterMillis: 10 },
  HedgeWon: { policy: "p", attempt: 2 },
  HedgeSkipped: { policy: "p", reason: "Deadline" },
  FallbackUsed: { source: "s", failed: ["primary"], skipped: [] },
  LastGoodServed: { key: "k", ageMillis: 60_000 },
  HealthChanged: { key: "k", check: "c", from: "healthy", to: "critical", message: "m" },
  SafeModeChanged: { key: "k", active: true, failures: 3 },
  StepCompleted: { runId: "run-secret", step: "s", replayed: false },
  StepFailed: { runId: "run-secret", step: "s", replayed: true },
  StepAmbiguous: { runId: "run-secret", step: "s" },
  RunChanged: { runId: "run-secret", status: "completed" },
  CheckpointStoreFailed: { runId: "run-secret", operation: "append", reason: "Unavailable" },
  SagaFailed: { runId: "run-secret", saga: "s" },
  CompensationFailed: { runId: "run-secret", step: "s", compensation: "c" },
  EscalationOpened: { id: "escalation-secret", runId: "run-secret", reason: "RequiresHuman" },
  EscalationDecided: { id: "escalation-secret", decision: "Approve", waitedMillis: 1_000 },
  EscalationClosed: { id: "escalation-secret", runId: "run-secret", as: "expired", waitedMillis: 1_000 },
  EscalationUndelivered: {
    id: "escalation-secret",
    runId: "run-secret",
    attempts: 2,
    error: "CheckpointMismatch",
    retryInMillis: 20_000
  },
  EscalationsMeasured: { depth: 1, oldestAgeMillis: 1_000 },
  IdempotencyHit: { key: "key-secret", joined: false },
  SessionStarted: session,
  SessionCompleted: {
    ...session,
    completion: "complete",
    turns: 1,
    toolCalls: 0,
    inputTokens: 10,
    outputTokens: 5,
    durationMillis: 100
  },
  SessionFailed: { ...session, error: "AgentError", verdict: "Permanent", durationMillis: 100 },
  SessionPaused: { ...session, reason: "Suspended", durationMillis: 100 },
  ModelCalled: {
    ...session,
    turn: 1,
    model: "m",
    attempts: 1,
    inputTokens: 10,
    outputTokens: 5,
    durationMillis: 100
  },
  ToolCalled: {
    ...session,
    tool: "t",
    callId: "call-secret",
    attempts: 2,
    outcome: "success",
    resultLength: 10,
    durationMillis: 100
  },
  BudgetUsed: { agent: "a", runId: "run-secret", scope: "run", shares: { iterations: 0.5 } },
  AnswerCut: { agent: "a", runId: "r", turn: 1, cuts: 1, characters: 7, verdict: "Transient" },
  BudgetExceeded: { agent: "a", runId: "run-secret", budget: "iterations" },
  LoopDetected: { agent: "a", runId: "run-secret", loop: "Repeated", stopped: false },
  ContextCompacted: { agent: "a", runId: "run-secret", messages: 1, results: 1 },
  AgentWentBack: { agent: "a", runId: "run-secret", turn: 1, error: "InvalidResult" }
}

const withTag = ([tag, fields]: [string, object]) => Object.assign({ _tag: tag }, fields) as Telemetry.Event

/** One event of each kind; the type says that none is missing. */
export const oneOfEach: ReadonlyArray<Telemetry.Event> = Object.entries(one).map(withTag)
