import type * as Context from "effect/Context"
import * as Metric from "effect/Metric"
import type { Counted, Event } from "./events.ts"
import { type Definition, labelValues, table } from "./metricTable.ts"

/**
 * What makes the Effect metric of a definition without labels.
 *
 * @internal
 */
export const named = ({ description, name, unit }: Definition) => [name, { description, attributes: { unit } }] as const

/** What stands in a label for all values beyond the bound. */
const other = "other"

/** What is counted together in one metric at most: label by label bounded, all of them might still make many. */
const maxSeries = 1_000

type Labels<Label extends string> = { readonly [K in Label]: string }

const seriesOf = (definition: Definition, labels: Labels<string>): Metric.Metric<number, unknown> => {
  const { boundaries, description, name, type, unit } = definition
  const options = { description, attributes: { ...labels, unit } }
  switch (type) {
    case "counter":
      return Metric.counter(name, { ...options, incremental: true })
    case "gauge":
      return Metric.gauge(name, options)
    case "histogram":
      return Metric.histogram(name, { ...options, boundaries: boundaries ?? [] })
  }
}

/**
 * The policy by which an agent asks again for an answer whose stream was cut. The calls inside of it are counted by their own
 * policies; counted here too, each call of a model would be counted twice.
 *
 * @internal
 */
export const askAgain = "agent.stream"

/** @internal */
export const defaults = { maxLabelValues: 100 } as const

/**
 * Updates the metrics of the table, within bounds.
 *
 * @internal
 */
export class Recorder {
  private readonly context: Context.Context<never>
  private readonly maxLabelValues: number
  private readonly values = new Map<string, Set<string>>()
  private readonly series = new Map<Definition, Map<string, Metric.Metric<number, unknown>>>()

  constructor(context: Context.Context<never>, maxLabelValues: number) {
    this.context = context
    this.maxLabelValues = maxLabelValues
  }

  add<Label extends string>(definition: Definition<Label>, labels: Labels<Label>, value = 1): void {
    this.metric(definition, labels).updateUnsafe(value, this.context)
  }

  private metric<Label extends string>(definition: Definition<Label>, labels: Labels<Label>) {
    let known = this.series.get(definition)
    if (known === undefined) this.series.set(definition, known = new Map())
    const isFull = known.size >= maxSeries
    const bounded = definition.labels.map((label) => this.bounded(definition, label, labels[label]))
    let id = JSON.stringify(bounded)
    if (isFull && !known.has(id)) {
      bounded.fill(other)
      id = JSON.stringify(bounded)
    }
    let metric = known.get(id)
    if (metric === undefined) {
      metric = seriesOf(
        definition,
        Object.fromEntries(definition.labels.map((label, at) => [label, bounded[at] ?? ""]))
      )
      known.set(id, metric)
    }
    return metric
  }

  /** A value that was there before the label was full, or the one for all others. */
  private bounded(definition: Definition, label: string, value: string): string {
    const key = `${definition.name} ${label}`
    let known = this.values.get(key)
    if (known === undefined) this.values.set(key, known = new Set())
    if (known.has(value)) return value
    if (known.size >= this.maxLabelValues) return other
    known.add(value)
    return value
  }
}

type Rules = { readonly [Tag in Event["_tag"]]: (event: Extract<Event, { readonly _tag: Tag }>, to: Recorder) => void }

const yesNo = (value: boolean): string => value ? "true" : "false"

const inSeconds = (millis: number): number => millis / 1_000

const ended =
  (outcome: string) =>
  ({ agent, durationMillis }: { readonly agent: string; readonly durationMillis: number }, to: Recorder): void =>
    to.add(table.sessions, { agent, outcome }, inSeconds(durationMillis))

const rules: Rules = {
  RetryScheduled: ({ delayMillis, policy, verdict }, to) => {
    if (policy === askAgain) return
    to.add(table.retries, { policy, verdict })
    to.add(table.attempts, { policy })
    to.add(table.retryDelay, { policy }, inSeconds(delayMillis))
  },
  RetryGaveUp: ({ policy, reason }, to) => {
    if (policy !== askAgain) to.add(table.retriesGaveUp, { policy, reason })
  },
  CircuitChanged: ({ from, key, to: state }, to) => {
    to.add(table.circuitTransitions, { key, from, to: state })
    for (const each of labelValues["state"] ?? []) {
      to.add(table.circuitState, { key, state: each }, each === state ? 1 : 0)
    }
  },
  CircuitRejected: ({ key }, to) => to.add(table.circuitRejections, { key }),
  BulkheadWaited: ({ key, waitedMillis }, to) => to.add(table.bulkheadWait, { key }, inSeconds(waitedMillis)),
  BulkheadRejected: ({ key, reason }, to) => to.add(table.bulkheadRejections, { key, reason }),
  LimitChanged: ({ key, reason, to: limit }, to) => {
    to.add(table.limit, { key }, limit)
    to.add(table.limitChanges, { key, reason })
  },
  LimitWaited: ({ key, waitedMillis }, to) => to.add(table.limitWait, { key }, inSeconds(waitedMillis)),
  LimitRejected: ({ key, reason }, to) => to.add(table.limitRejections, { key, reason }),
  OutageBegan: ({ key }, to) => {
    to.add(table.outages, { key })
    to.add(table.outage, { key }, 1)
  },
  OutageEnded: ({ key }, to) => to.add(table.outage, { key }, 0),
  QuotaWaited: ({ key, priority, waitedMillis }, to) =>
    to.add(table.quotaWait, { key, priority }, inSeconds(waitedMillis)),
  QuotaRejected: ({ key, reason }, to) => to.add(table.quotaRejections, { key, reason }),
  QuotaGated: ({ forMillis, key, verdict }, to) => to.add(table.quotaGates, { key, verdict }, inSeconds(forMillis)),
  AttemptTimedOut: ({ name }, to) => to.add(table.timeouts, { name, kind: "attempt" }),
  DeadlineExceeded: ({ name }, to) => to.add(table.timeouts, { name, kind: "deadline" }),
  Stalled: ({ name }, to) => to.add(table.timeouts, { name, kind: "stall" }),
  HedgeStarted: ({ policy }, to) => to.add(table.hedges, { policy }),
  HedgeWon: ({ policy }, to) => to.add(table.hedgesWon, { policy }),
  HedgeSkipped: ({ policy, reason }, to) => to.add(table.hedgesSkipped, { policy, reason }),
  FallbackUsed: ({ source }, to) => to.add(table.answers, { source, degraded: "true" }),
  LastGoodServed: ({ ageMillis }, to) => to.add(table.lastGoodAge, {}, inSeconds(ageMillis)),
  SafeModeChanged: ({ active, key }, to) => {
    to.add(table.safeMode, { key }, active ? 1 : 0)
    to.add(table.safeModeChanges, { key, active: yesNo(active) })
  },
  HealthChanged: ({ check = "", key, to: status }, to) => to.add(table.healthChanges, { key, check, status }),
  StepCompleted: ({ replayed }, to) => to.add(table.steps, { outcome: "completed", replayed: yesNo(replayed) }),
  StepFailed: ({ replayed }, to) => to.add(table.steps, { outcome: "failed", replayed: yesNo(replayed) }),
  StepAmbiguous: (_, to) => to.add(table.steps, { outcome: "ambiguous", replayed: "false" }),
  RunChanged: ({ status }, to) => to.add(table.runs, { status }),
  CheckpointStoreFailed: ({ operation, reason }, to) => to.add(table.storeErrors, { operation, reason }),
  SagaFailed: (_, to) => to.add(table.sagasFailed, {}),
  CompensationFailed: ({ compensation }, to) => to.add(table.compensationsFailed, { compensation }),
  EscalationOpened: ({ reason }, to) => to.add(table.escalationsOpened, { reason }),
  EscalationDecided: ({ decision, waitedMillis }, to) => {
    to.add(table.escalationsDecided, { decision })
    to.add(table.escalationWait, {}, inSeconds(waitedMillis))
  },
  EscalationClosed: ({ as }, to) => to.add(table.escalationsClosed, { as }),
  // The affair of one run: the log says of which.
  EscalationUndelivered: () => {},
  // Its gauges are set by EscalationQueue.measure, also where nobody listens.
  EscalationsMeasured: () => {},
  IdempotencyHit: ({ joined }, to) => to.add(table.idempotencyHits, { joined: yesNo(joined) }),
  SessionStarted: ({ agent }, to) => to.add(table.sessionsStarted, { agent }),
  SessionCompleted: ended("completed"),
  SessionFailed: ended("failed"),
  SessionPaused: (event, to) => ended(event.reason === "Suspended" ? "suspended" : "interrupted")(event, to),
  ModelCalled: ({ agent, durationMillis, inputTokens, model = "unknown", outputTokens }, to) => {
    to.add(table.modelCalls, { agent, model }, inSeconds(durationMillis))
    to.add(table.modelTokens, { agent, model, direction: "input" }, inputTokens)
    to.add(table.modelTokens, { agent, model, direction: "output" }, outputTokens)
  },
  ToolCalled: ({ agent, attempts, durationMillis, outcome, tool }, to) => {
    to.add(table.toolCalls, { agent, tool, outcome }, inSeconds(durationMillis))
    to.add(table.toolAttempts, { agent, tool }, attempts)
  },
  AnswerCut: ({ agent, verdict }, to) => to.add(table.answersCut, { agent, verdict }),
  BudgetUsed: ({ agent, scope, shares }, to) => {
    for (const [budget, share] of Object.entries(shares)) to.add(table.budgetUsed, { agent, budget, scope }, share)
  },
  BudgetExceeded: ({ agent, budget }, to) => to.add(table.budgetExceeded, { agent, budget }),
  LoopDetected: ({ agent, loop, stopped }, to) => to.add(table.loops, { agent, loop, stopped: yesNo(stopped) }),
  ContextCompacted: ({ agent }, to) => to.add(table.compactions, { agent }),
  AgentWentBack: ({ agent, error }, to) => to.add(table.rollbacks, { agent, error })
}

/** @internal */
export const record = (event: Event, to: Recorder): void => {
  to.add(table.events, { event: event._tag })
  // An event and its rule have one tag, which TypeScript does not follow through the table.
  const rule = rules[event._tag] as (event: Event, to: Recorder) => void
  rule(event, to)
}

/** @internal */
export const count = (counted: Counted, to: Recorder): void => {
  switch (counted._tag) {
    case "CallBegan":
      if (counted.policy === askAgain) return
      to.add(table.calls, { policy: counted.policy })
      return to.add(table.attempts, { policy: counted.policy })
    case "PrimaryUsed":
      return to.add(table.answers, { source: counted.source, degraded: "false" })
  }
}
