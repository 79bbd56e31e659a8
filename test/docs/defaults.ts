// The defaults of every module, read from the code: from settings made with no options, or from the constants that the
// code itself uses. `node --conditions=effect-resilience-source test/docs/defaults.ts` writes them into the README;
// with `--check` it only compares, and fails where they differ.
import { Duration, Option, Schema } from "effect"
import { Tool, Toolkit } from "effect/ai"
import * as fs from "node:fs"
import * as path from "node:path"
import * as Agent from "../../src/agent/Agent.ts"
import * as AgentBudget from "../../src/agent/AgentBudget.ts"
import * as checkpoints from "../../src/durable/internal/checkpointRun.ts"
import * as resume from "../../src/durable/internal/escalationResume.ts"
import * as escalations from "../../src/durable/internal/escalationState.ts"
import * as idempotency from "../../src/durable/internal/idempotencyFlights.ts"
import * as nodeSqlite from "../../src/durable/internal/nodeSqlite.ts"
import * as replicas from "../../src/durable/internal/redisStore.ts"
import * as checks from "../../src/health/internal/checkModel.ts"
import * as paths from "../../src/health/internal/httpPaths.ts"
import * as health from "../../src/health/internal/monitorSettings.ts"
import * as metrics from "../../src/internal/metricRecorder.ts"
import * as clients from "../../src/model/internal/clientOptions.ts"
import * as models from "../../src/model/internal/resilientModel.ts"
import * as Backoff from "../../src/policy/Backoff.ts"
import * as CircuitBreaker from "../../src/policy/CircuitBreaker.ts"
import * as Hedge from "../../src/policy/Hedge.ts"
import * as limitSettings from "../../src/policy/internal/adaptiveSettings.ts"
import * as backoff from "../../src/policy/internal/backoff.ts"
import * as bulkhead from "../../src/policy/internal/bulkheadEngine.ts"
import * as circuitRedis from "../../src/policy/internal/circuitRedisSettings.ts"
import * as circuitSettings from "../../src/policy/internal/circuitSettings.ts"
import * as latencies from "../../src/policy/internal/hedgeLatencies.ts"
import * as lastGood from "../../src/policy/internal/lastGoodStores.ts"
import * as quotaSettings from "../../src/policy/internal/quotaSettings.ts"
import * as retry from "../../src/policy/internal/retry.ts"
import * as budgets from "../../src/policy/internal/retryBudget.ts"
import * as safeModes from "../../src/policy/internal/safeModeKeys.ts"
import * as timeouts from "../../src/policy/internal/timeouts.ts"
import * as Policy from "../../src/policy/Policy.ts"
import * as Retry from "../../src/policy/Retry.ts"

type Value = number | string | boolean | Duration.Duration

/** The defaults of one module, by the name of the option. */
export interface Defaults {
  readonly module: string
  readonly options: Readonly<Record<string, Value>>
}

const time = (input: Duration.Input): Duration.Duration => Duration.fromInputUnsafe(input)

/** Settings by option, of which these are times: in milliseconds, or as somebody would write them. */
const read = (settings: object, times: ReadonlyArray<string> = []): Record<string, Value> =>
  Object.fromEntries(
    Object.entries(settings).flatMap(([option, value]: [string, unknown]): ReadonlyArray<[string, Value]> => {
      if (option.startsWith("~")) return []
      if (Duration.isDuration(value)) return [[option, value]]
      if (typeof value !== "number" && typeof value !== "string" && typeof value !== "boolean") return []
      const isTime = times.includes(option)
      return [[option, isTime ? Option.getOrThrow(Duration.fromInput(value as Duration.Input)) : value]]
    })
  )

/** The name under which a module exports a value. */
const nameIn = (module: object, value: unknown): string => {
  const [name] = Object.entries(module).find(([, exported]) => exported === value) ?? []
  if (name === undefined) throw new Error("the default is nothing that the module exports")
  return name
}

const tripOf = (rule: object): Record<string, Value> => {
  if (!("shared" in rule) || typeof rule.shared !== "object" || rule.shared === null) throw new Error("no shared rule")
  const { _tag: _, ...numbers } = { _tag: "", ...rule.shared }
  return read(numbers)
}

const kept = ["maxKeys", "idleTimeToLive"] as const
const bounds = (settings: Readonly<Record<typeof kept[number], unknown>>): Record<string, Value> =>
  read({ maxKeys: settings.maxKeys, idleTimeToLive: settings.idleTimeToLive }, kept.slice(1))

const circuits = new circuitSettings.ServiceSettings("CircuitBreaker", {})
const circuit = circuits.of("key", undefined)
const shared = circuitRedis.storeSettings("CircuitBreaker", {})
const quotas = new quotaSettings.ServiceSettings({})
const limits = new limitSettings.ServiceSettings({})
const bulkheads = new bulkhead.Engine({})
const tool = Tool.make("tool", { success: Schema.Void })
const { budget, definition } = Agent.make({ name: "agent", instructions: "", toolkit: Toolkit.make(tool) })

/** Of a tool without annotations. */
const toolDefaults = (plans: typeof definition.plans): Record<string, Value> => {
  const plan = plans.get("tool")
  if (plan === undefined) throw new Error("the agent has no plan for its tool")
  return {
    "tools.*.attempts": plan.retry.maxAttempts,
    "tools.*.effects": plan.effects,
    "tools.*.dedupe": plan.dedupe,
    "tools.*.uncertain": plan.uncertain
  }
}

/** The guards of a policy, from its description: a line for each, after that with its name and before the work. */
const described = (description: string): Record<string, Value> =>
  Object.fromEntries(
    description.split("\n").slice(1, -1).map((line) => {
      const [guard = "", ...options] = line.trim().split(/\s{2,}/)
      return [guard, options.join(" ")]
    })
  )

/** In the order of the floors. A module more is a line more. */
export const all: ReadonlyArray<Defaults> = [
  { module: "Telemetry.layerMetrics", options: read(metrics.defaults) },
  { module: "Backoff", options: read(backoff.defaults) },
  { module: "Backoff.decorrelatedJitter", options: { factor: backoff.decorrelatedFactor } },
  {
    module: "Retry",
    options: {
      backoff: `Backoff.${nameIn(Backoff, retry.defaults.backoff)}()`,
      ...read({ maxAttempts: Retry.policy().maxAttempts, retryRejected: Retry.policy().retryRejected })
    }
  },
  { module: "RetryBudget", options: read(budgets.defaults, ["window"]) },
  {
    module: "CircuitBreaker",
    options: {
      ...tripOf(circuit.rule),
      ...read(circuit, ["openFor", "maxOpenFor", "probeTimeout"]),
      ...bounds(circuits)
    }
  },
  { module: "CircuitBreaker.rate", options: tripOf(CircuitBreaker.rate()) },
  {
    module: "CircuitBreaker.layerRedis",
    options: {
      ...read({ ...shared, isLocal: undefined }, ["probeLease", "holdLease", "idleTimeToLive", "storeTimeout"]),
      onStoreError: shared.isLocal ? "local" : "allow"
    }
  },
  { module: "Bulkhead", options: { ...read(bulkhead.defaults, ["maxWait"]), ...bounds(bulkheads) } },
  {
    module: "Quota",
    options: { ...read(quotas.of("key", undefined), ["maxWait", "ageAfter", "maxGate"]), ...bounds(quotas) }
  },
  {
    module: "AdaptiveLimit",
    options: {
      ...read(limits.of("key", undefined), [
        "probeInterval",
        "maxProbeInterval",
        "probeTimeout",
        "maxRetryAfter",
        "maxWait"
      ]),
      ...bounds(limits)
    }
  },
  { module: "Deadline.watch", options: { idle: time(timeouts.defaultIdle) } },
  {
    module: "Deadline.stall",
    options: { idle: time(timeouts.defaultIdle), maxSilence: time(timeouts.defaultMaxSilence) }
  },
  { module: "Hedge", options: read({ maxAttempts: Hedge.policy({ delay: "1 second" }).maxAttempts }) },
  { module: "Hedge.percentile", options: read(Hedge.percentile()) },
  { module: "Hedge.layer", options: bounds(latencies.defaults) },
  { module: "LastGood", options: read(lastGood.defaults, ["timeToLive", "storeTimeout"]) },
  { module: "SafeMode", options: read(safeModes.defaults, ["idleTimeToLive"]) },
  { module: "ResilientModel", options: { stall: time(models.defaultStall) } },
  { module: "Anthropic", options: read(clients.defaults, ["responseTimeout", "streamTimeout", "stallTimeout"]) },
  { module: "Letta.checkReachable", options: read(clients.reachable, ["healthy", "degraded"]) },
  {
    module: "Checkpoint.run",
    options: read(
      {
        lease: checkpoints.defaults.lease,
        maxCrashes: checkpoints.defaults.maxCrashes,
        maxRecordBytes: checkpoints.defaults.maxRecordBytes
      },
      ["lease"]
    )
  },
  { module: "Checkpoint.step", options: { effects: checkpoints.defaults.effects } },
  {
    module: "Checkpoint.rollback",
    options: { steps: checkpoints.defaults.rollbackSteps, limit: checkpoints.defaults.rollbackLimit }
  },
  { module: "Idempotency", options: read(idempotency.defaults, ["timeToLive", "storeTimeout"]) },
  { module: "stores/Sqlite", options: read(nodeSqlite.defaults, ["busyTimeout"]) },
  { module: "stores/Redis…", options: read(replicas.replicaDefaults, ["waitTimeout"]) },
  { module: "EscalationQueue", options: read(escalations.defaults, ["lease", "storeTimeout"]) },
  { module: "EscalationQueue.resumeRuns", options: read(resume.defaults, ["interval", "maxInterval"]) },
  {
    module: "HealthMonitor",
    options: {
      ...read(health.defaults, ["maxAge", "slowAbove"]),
      ...read(health.serviceDefaults, ["interval", "timeout", "idleTimeToLive"])
    }
  },
  { module: "HealthMonitor.gate", options: read(health.defaults.gate, ["closedFor", "probeTimeout"]) },
  { module: "HealthHttp", options: read(paths.defaults) },
  { module: "HealthCheck.responseTime", options: read(checks.responseDefaults, ["healthy", "degraded"]) },
  {
    module: "HealthCheck.escalationBacklog",
    options: {
      "depth.degraded": checks.backlogDefaults.depth.degraded,
      "depth.critical": checks.backlogDefaults.depth.critical,
      "age.degraded": time(checks.backlogDefaults.age.degraded),
      "age.critical": time(checks.backlogDefaults.age.critical)
    }
  },
  {
    module: "Agent",
    options: {
      ...read({ ...definition, name: undefined, instructions: undefined }),
      ...toolDefaults(definition.plans),
      "rollback.max": definition.rollback.max,
      "rollback.keep": definition.rollback.keep
    }
  },
  { module: "Agent.stream", options: read(definition.stream ?? {}) },
  { module: "Agent.limits", options: read(definition.limits) },
  { module: "Agent.productionPolicy", options: described(Policy.describe(Agent.productionPolicy("agent"))) },
  { module: "Agent.reviewed", options: read(Agent.reviewDefaults) },
  { module: "AgentBudget", options: { ...read(budget), outputTokensPerTurn: AgentBudget.defaultOutputTokens } },
  { module: "LoopDetector", options: read(definition.loops ?? {}) },
  { module: "Compaction", options: read(definition.compaction ?? {}) }
]

const units = [["day", 86_400_000], ["hour", 3_600_000], ["minute", 60_000], ["second", 1_000], [
  "millisecond",
  1
]] as const

const number = (value: number): string => Number.isFinite(value) ? value.toLocaleString("en") : "no limit"

const show = (value: Value): string => {
  if (typeof value === "number") return number(value)
  if (!Duration.isDuration(value)) return `\`${value}\``
  const millis = Duration.toMillis(value)
  if (!Number.isFinite(millis)) return "no limit"
  // One minute is told as 60 seconds, as everybody does.
  const [unit, length] = units.find(([, length]) => millis % length === 0 && (length !== 60_000 || millis > length)) ??
    units[4]
  return millis === length ? `1 ${unit}` : `${number(millis / length)} ${unit}s`
}

/** The table of them, in Markdown. */
export const table: string = [
  "| module | option | default |",
  "| --- | --- | --- |",
  ...all.flatMap(({ module, options }) =>
    Object.entries(options).map(([option, value]) => `| \`${module}\` | \`${option}\` | ${show(value)} |`)
  )
].join("\n")

const marks = { start: "<!-- defaults:start -->", end: "<!-- defaults:end -->" }

/** The page with this table between its marks. Throws where there are none. */
export const written = (page: string, rows: string): string => {
  const start = page.indexOf(marks.start)
  const end = page.indexOf(marks.end)
  if (start < 0 || end < start) throw new Error(`the page lacks ${marks.start} and ${marks.end}`)
  return `${page.slice(0, start + marks.start.length)}\n${rows}\n${page.slice(end)}`
}

if (import.meta.main) {
  const file = path.join(import.meta.dirname, "../../README.md")
  const page = fs.readFileSync(file, "utf8")
  const current = written(page, table)
  if (!process.argv.includes("--check")) fs.writeFileSync(file, current)
  else if (current !== page) {
    console.error("README.md: the table of defaults is not that of the code: run npm run docs:defaults")
    process.exitCode = 1
  }
}
