import * as Effect from "effect/Effect"
import type * as LogLevel from "effect/LogLevel"
import type { Event } from "./events.ts"

type Tag = Event["_tag"]

interface Line {
  readonly level: LogLevel.Severity
  readonly text: string
}

const line = (level: LogLevel.Severity, text: string): Line => ({ level, text })

// Of what is at Debug for the agents, these themselves log a warning.
const lines: { readonly [T in Tag]: Line } = {
  RetryScheduled: line("Warn", "retry scheduled"),
  RetryGaveUp: line("Warn", "retry gave up"),
  CircuitChanged: line("Warn", "circuit changed"),
  CircuitRejected: line("Warn", "circuit refused a call"),
  BulkheadWaited: line("Debug", "waited for a slot"),
  BulkheadRejected: line("Warn", "bulkhead refused a call"),
  LimitChanged: line("Debug", "adaptive limit changed"),
  LimitWaited: line("Debug", "waited for the adaptive limit"),
  LimitRejected: line("Warn", "adaptive limit refused a call"),
  OutageBegan: line("Error", "outage began"),
  OutageEnded: line("Info", "outage ended"),
  QuotaWaited: line("Debug", "waited for the quota"),
  QuotaRejected: line("Warn", "quota refused a call"),
  QuotaGated: line("Warn", "the provider refused a call, nothing is sent for a while"),
  AttemptTimedOut: line("Warn", "attempt timed out"),
  DeadlineExceeded: line("Warn", "deadline exceeded"),
  Stalled: line("Warn", "stalled"),
  HedgeStarted: line("Debug", "hedge started"),
  HedgeWon: line("Debug", "hedge won"),
  HedgeSkipped: line("Debug", "hedge skipped"),
  FallbackUsed: line("Warn", "a fallback answered"),
  LastGoodServed: line("Warn", "an older answer was given"),
  SafeModeChanged: line("Warn", "safe mode changed"),
  HealthChanged: line("Warn", "health changed"),
  StepCompleted: line("Debug", "step completed"),
  StepFailed: line("Warn", "step failed"),
  StepAmbiguous: line("Warn", "step ambiguous"),
  RunChanged: line("Info", "run changed"),
  CheckpointStoreFailed: line("Error", "checkpoint store failed"),
  SagaFailed: line("Error", "saga failed"),
  CompensationFailed: line("Error", "compensation failed"),
  EscalationOpened: line("Warn", "escalation opened"),
  EscalationDecided: line("Info", "escalation decided"),
  EscalationClosed: line("Warn", "escalation closed"),
  EscalationUndelivered: line("Warn", "escalation undelivered"),
  EscalationsMeasured: line("Debug", "escalations measured"),
  IdempotencyHit: line("Debug", "answered by an earlier call"),
  SessionStarted: line("Info", "session started"),
  SessionCompleted: line("Info", "session completed"),
  SessionFailed: line("Error", "session failed"),
  SessionPaused: line("Info", "session paused"),
  ModelCalled: line("Info", "model called"),
  ToolCalled: line("Info", "tool called"),
  AnswerCut: line("Debug", "answer cut"),
  BudgetUsed: line("Debug", "budget used"),
  BudgetExceeded: line("Debug", "budget exceeded"),
  LoopDetected: line("Debug", "loop detected"),
  ContextCompacted: line("Debug", "conversation made smaller"),
  AgentWentBack: line("Debug", "agent went back to an earlier turn")
}

/** @internal */
export type Levels = { readonly [T in Tag]?: LogLevel.Severity | "None" | undefined }

/**
 * Logs each event in the fiber of its guard, so that what is annotated there, such as agent and run, is in the line.
 *
 * @internal
 */
export const listener = (levels: Levels) => ({ _tag, ...fields }: Event): Effect.Effect<void> => {
  const level = levels[_tag] ?? lines[_tag].level
  if (level === "None") return Effect.void
  const shown = Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined))
  return Effect.logWithLevel(level)(lines[_tag].text).pipe(Effect.annotateLogs({ event: _tag, ...shown }))
}
