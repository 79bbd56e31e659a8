import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { all, table, written } from "./defaults.ts"

const valueOf = (module: string, option: string): unknown => {
  const value = all.find((defaults) => defaults.module === module)?.options[option]
  return Duration.isDuration(value) ? Duration.format(value) : value
}

describe("the table of defaults", () => {
  // What the design promises. A change here is a change for everybody who left an option out.
  const promised: ReadonlyArray<readonly [module: string, option: string, value: unknown]> = [
    ["Backoff", "base", "1s"],
    ["Backoff", "cap", "1m"],
    ["Retry", "backoff", "Backoff.fullJitter()"],
    ["Retry", "maxAttempts", 5],
    ["Retry", "retryRejected", false],
    ["CircuitBreaker", "failures", 5],
    ["CircuitBreaker", "openFor", "1m"],
    ["CircuitBreaker", "successThreshold", 2],
    ["Bulkhead", "maxConcurrent", 3],
    ["Deadline.watch", "idle", "30s"],
    ["Anthropic", "maxTokens", 4096],
    ["Anthropic", "stallTimeout", "30s"],
    ["ResilientModel", "stall", "30s"],
    ["Letta.checkReachable", "healthy", "1s"],
    ["Letta.checkReachable", "degraded", "3s"],
    ["Checkpoint.rollback", "limit", 5],
    ["HealthMonitor", "size", 100],
    ["HealthMonitor", "maxAge", "5m"],
    ["HealthMonitor", "criticalAbove", 0.5],
    ["HealthMonitor", "degradedAbove", 0.1],
    ["HealthMonitor", "slowAbove", "5s"],
    ["HealthCheck.responseTime", "healthy", "1s"],
    ["HealthCheck.responseTime", "degraded", "3s"],
    ["Checkpoint.step", "effects", "idempotent"],
    ["AgentBudget", "outputTokensPerTurn", 4096],
    ["Agent", "tools.*.attempts", 3],
    ["Agent", "tools.*.effects", "atMostOnce"],
    ["Agent", "tools.*.uncertain", "ask"],
    ["Agent", "rollback.keep", 5],
    ["Agent.productionPolicy", "attempt timeout", "1m"],
    ["stores/Sqlite", "busyTimeout", "5s"],
    ["HealthHttp", "ready", "/health/ready"],
    ["AgentBudget", "iterations", 10],
    ["AgentBudget", "wallTime", "5m"]
  ]

  for (const [module, option, value] of promised) {
    it(`${module}.${option} is ${String(value)}`, () => {
      assert.deepStrictEqual(valueOf(module, option), value)
    })
  }

  it("has a default for every module that has options", () => {
    for (const { module, options } of all) assert.notStrictEqual(Object.keys(options).length, 0, module)
  })

  it("shows every default in a line of its own", () => {
    const lines = table.split("\n")
    assert.strictEqual(new Set(lines).size, 2 + all.reduce((sum, { options }) => sum + Object.keys(options).length, 0))
    assert.include(lines, "| `Retry` | `maxAttempts` | 5 |")
    assert.include(lines, "| `Backoff` | `base` | 1 second |")
    assert.include(lines, "| `CircuitBreaker` | `openFor` | 60 seconds |")
    assert.include(lines, "| `CircuitBreaker` | `idleTimeToLive` | 1 hour |")
    assert.include(lines, "| `AgentBudget` | `wallTime` | 5 minutes |")
    assert.include(lines, "| `AgentBudget` | `cost` | no limit |")
    assert.include(lines, "| `AdaptiveLimit` | `inOutage` | `wait` |")
  })

  it("replaces what stands between the marks of a page, and nothing else", () => {
    const page = "before\n<!-- defaults:start -->\nold\n<!-- defaults:end -->\nafter\n"
    const current = written(page, "new")
    assert.strictEqual(current, "before\n<!-- defaults:start -->\nnew\n<!-- defaults:end -->\nafter\n")
    assert.strictEqual(written(current, "new"), current)
    assert.notStrictEqual(written(page, "newer"), current)
    assert.throws(() => written("no marks", "new"), /lacks/)
  })
})
