/** What a metric counts in: `1` for things that are counted or compared. */
type Unit = "1" | "seconds" | "tokens"

/** @internal */
export interface Definition<Label extends string = string> {
  readonly name: string
  readonly type: "counter" | "gauge" | "histogram"
  readonly unit: Unit
  readonly labels: ReadonlyArray<Label>
  readonly description: string
  /** Upper bounds of the buckets of a histogram. */
  readonly boundaries?: ReadonlyArray<number>
}

const prefix = "effect_resilience_"

// From a wait that nobody notices to one that nobody waits for.
const seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600]
const days = [60, 300, 900, 3_600, 14_400, 43_200, 86_400, 259_200, 604_800]

const counter = <const Label extends string = never>(
  name: string,
  description: string,
  labels: ReadonlyArray<Label> = [],
  unit: Unit = "1"
): Definition<Label> => ({ name: `${prefix}${name}_total`, type: "counter", unit, labels, description })

const gauge = <const Label extends string = never>(
  name: string,
  description: string,
  labels: ReadonlyArray<Label> = [],
  unit: Unit = "1"
): Definition<Label> => ({ name: `${prefix}${name}`, type: "gauge", unit, labels, description })

const histogram = <const Label extends string = never>(
  name: string,
  description: string,
  labels: ReadonlyArray<Label> = [],
  boundaries: ReadonlyArray<number> = seconds
): Definition<Label> => ({
  name: `${prefix}${name}_seconds`,
  type: "histogram",
  unit: "seconds",
  labels,
  description,
  boundaries
})

/**
 * Every metric of the toolkit, in one place: names, labels and descriptions are read from here, by what updates them and
 * by what checks the documents.
 *
 * @internal
 */
export const table = {
  events: counter("events", "Events that guards emitted", ["event"]),

  calls: counter("calls", "Calls that came to a retry policy", ["policy"]),
  attempts: counter("attempts", "First tries and retries of these calls", ["policy"]),
  retries: counter("retries", "Tries that failed and are followed by another one", ["policy", "verdict"]),
  retryDelay: histogram("retry_delay", "Waits before retries", ["policy"]),
  retriesGaveUp: counter("retries_gave_up", "Calls that a retry policy handed on the last error of", [
    "policy",
    "reason"
  ]),

  circuitState: gauge("circuit_state", "1 for the state that a circuit is in, 0 for the others", ["key", "state"]),
  circuitTransitions: counter("circuit_transitions", "Changes of a circuit's state", ["key", "from", "to"]),
  circuitRejections: counter("circuit_rejections", "Calls that a circuit refused", ["key"]),

  bulkheadWait: histogram("bulkhead_wait", "Waits for a slot that were followed by a call", ["key"]),
  bulkheadRejections: counter("bulkhead_rejections", "Calls that got no slot", ["key", "reason"]),

  limit: gauge("adaptive_limit", "Calls that an adaptive limit lets run at a time", ["key"]),
  limitChanges: counter("adaptive_limit_changes", "Changes of an adaptive limit", ["key", "reason"]),
  limitWait: histogram("adaptive_limit_wait", "Waits for an adaptive limit that were followed by a call", ["key"]),
  limitRejections: counter("adaptive_limit_rejections", "Calls that an adaptive limit refused", ["key", "reason"]),
  outage: gauge("outage", "1 while nothing gets through and single calls probe, else 0", ["key"]),
  outages: counter("outages", "Outages that began", ["key"]),

  quotaWait: histogram("quota_wait", "Waits for a share of a limit that were followed by a call", ["key", "priority"]),
  quotaRejections: counter("quota_rejections", "Calls that got no share of a limit", ["key", "reason"]),
  quotaGates: histogram("quota_gate", "Times for which nothing is sent because the provider refused a call", [
    "key",
    "verdict"
  ]),

  timeouts: counter("timeouts", "Calls that were stopped for their time", ["name", "kind"]),
  hedges: counter("hedges", "Second tries that were started beside a first", ["policy"]),
  hedgesWon: counter("hedges_won", "Second tries that gave the result", ["policy"]),
  hedgesSkipped: counter("hedges_skipped", "Second tries that were not started", ["policy", "reason"]),

  answers: counter("answers", "Answers of fallbacks, by the step that gave them", ["source", "degraded"]),
  lastGoodAge: histogram("last_good_age", "Ages of older answers that were given for want of new ones", [], days),
  safeMode: gauge("safe_mode", "1 while a key is in safe mode, else 0", ["key"]),
  safeModeChanges: counter("safe_mode_changes", "Changes into safe mode and out of it", ["key", "active"]),

  healthStatus: gauge("health_status", "Health of a key: 0 healthy, 1 slow, 2 degraded, 3 critical", ["key"]),
  healthGateClosed: gauge("health_gate_closed", "1 while the health gate of a key is closed, else 0", ["key"]),
  healthKeys: gauge("health_keys", "Keys whose health is watched, by their status", ["status"]),
  healthChanges: counter("health_changes", "Changes of the health of a key, or of a check, by what it became", [
    "key",
    "check",
    "status"
  ]),

  steps: counter("checkpoint_steps", "Steps of runs, those included whose result came from the journal", [
    "outcome",
    "replayed"
  ]),
  runs: counter("checkpoint_runs", "Runs that came to a status", ["status"]),
  storeErrors: counter("checkpoint_store_errors", "Errors of the store of runs", ["operation", "reason"]),
  sagasFailed: counter("sagas_failed", "Sagas that failed for good, so that their steps are undone"),
  compensationsFailed: counter("compensations_failed", "Compensations that failed, so that people are asked", [
    "compensation"
  ]),

  escalationDepth: gauge("escalation_depth", "Escalations that wait for a decision, claimed or not"),
  escalationAge: gauge(
    "escalation_oldest_age_seconds",
    "Seconds for which the oldest escalation has been waiting for a decision",
    [],
    "seconds"
  ),
  escalationsOpened: counter("escalations_opened", "Questions that were put to people", ["reason"]),
  escalationsDecided: counter("escalations_decided", "Questions that people have decided", ["decision"]),
  escalationsClosed: counter("escalations_closed", "Questions that ended without a decision", ["as"]),
  escalationWait: histogram("escalation_wait", "Times from question to decision", [], days),

  idempotencyHits: counter("idempotency_hits", "Calls that an earlier or running call answered", ["joined"]),

  sessionsStarted: counter("agent_sessions_started", "Times that an agent began or went on with a run", ["agent"]),
  sessions: histogram("agent_session", "Times that agents were at work, by how that ended", ["agent", "outcome"], [
    ...seconds,
    1_800,
    3_600
  ]),
  modelCalls: histogram("model_call", "Model calls of agents, all attempts of one together", ["agent", "model"]),
  modelTokens: counter("model_tokens", "Tokens of model calls", ["agent", "model", "direction"], "tokens"),
  toolCalls: histogram("tool_call", "Tool calls of agents, all attempts of one together", [
    "agent",
    "tool",
    "outcome"
  ]),
  toolAttempts: counter("tool_attempts", "Tries of tool calls", ["agent", "tool"]),
  answersCut: counter("agent_answers_cut", "Streams of answers to agents that were cut", ["agent", "verdict"]),
  budgetUsed: gauge("budget_used_ratio", "The part of a budget that is used, as the last model call left it", [
    "agent",
    "budget",
    "scope"
  ]),
  budgetExceeded: counter("budget_exceeded", "Runs whose budget was used up", ["agent", "budget"]),
  loops: counter("agent_loops", "Loops that agents were found in", ["agent", "loop", "stopped"]),
  compactions: counter("agent_compactions", "Conversations that were made smaller", ["agent"]),
  rollbacks: counter("agent_rollbacks", "Times that agents went back to an earlier turn", ["agent", "error"])
} satisfies { readonly [name: string]: Definition<string> }

const yesNo = ["true", "false"]

/**
 * The values of labels that have a few fixed ones. The others are names and tags, and grow with the program.
 *
 * @internal
 */
export const labelValues: { readonly [label: string]: ReadonlyArray<string> } = {
  active: yesNo,
  degraded: yesNo,
  direction: ["input", "output"],
  joined: yesNo,
  kind: ["attempt", "deadline", "stall"],
  outcome: ["completed", "failed", "ambiguous", "suspended", "interrupted", "success", "failure"],
  priority: ["interactive", "batch"],
  replayed: yesNo,
  scope: ["run", "shared"],
  state: ["Closed", "Open", "HalfOpen"],
  stopped: yesNo
}
