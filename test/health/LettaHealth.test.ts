import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { HealthMonitor } from "effect-resilience"
import * as LettaHealth from "effect-resilience/health/LettaHealth"
import * as Letta from "effect-resilience/model/Letta"
import * as LettaServer from "effect-resilience/testing/LettaServer"

const checks = [
  LettaHealth.reachable({ key: "letta" }),
  LettaHealth.memory("agent-1", { persona: {}, human: {} }, { key: "letta" }),
  LettaHealth.tools("agent-1", ["send_message", "refund"], { key: "letta" })
]

const agent = (blocks: ReadonlyArray<LettaServer.Block>, tools: ReadonlyArray<string>) => ({
  "agent-1": { name: "support", blocks, tools }
})

const persona = { label: "persona", value: "You are kind." }
const human = { label: "human", value: "Ada" }

const results = (options: LettaServer.Options) =>
  Effect.gen(function*() {
    const server = yield* LettaServer.make(options)
    const letta = yield* Letta.make({ baseURL: server.url })
    return yield* Effect.gen(function*() {
      // Through the rounds of its own alone: nobody asks twice.
      const monitor = yield* HealthMonitor.make({ checks, interval: "1 day" })
      const report = yield* monitor.check
      return {
        report,
        checks: Object.fromEntries(report.checks.map(({ message, name, status }) => [name, `${status}: ${message}`]))
      }
    }).pipe(Effect.provideService(Letta.Letta, letta))
  })

describe("LettaHealth", () => {
  it.effect("an agent with its memory and its tools is healthy", () =>
    Effect.gen(function*() {
      const { checks, report } = yield* results({
        agents: agent([persona, human], ["send_message", "refund", "archival_memory_search"])
      })
      assert.strictEqual(report.status, "healthy")
      assert.match(checks["letta"] ?? "", /^healthy: Letta .* answered in/)
      assert.strictEqual(checks["letta memory of agent-1"], "healthy: memory intact (persona, human)")
      assert.strictEqual(checks["letta tools of agent-1"], "healthy: tools attached (send_message, refund)")
    }))

  it.effect("a missing block and a missing tool are critical, each by its name, and the details tell which", () =>
    Effect.gen(function*() {
      const { checks, report } = yield* results({ agents: agent([persona], ["send_message"]) })
      assert.strictEqual(report.status, "critical")
      assert.strictEqual(checks["letta memory of agent-1"], "critical: human is missing")
      assert.strictEqual(checks["letta tools of agent-1"], "critical: not attached: refund")
      const memory = report.checks.find(({ name }) => name === "letta memory of agent-1")
      assert.deepStrictEqual(memory?.details?.["problems"], [{ _tag: "Missing", label: "human" }])
    }))

  it.effect.each(
    [{ _tag: "ServerError" }, { _tag: "ResetBeforeHeaders" }, { _tag: "NotAnAnswer", variant: "html" }] as const
  )(
    "a Letta that answers with $_tag is critical in every check, and its errors are no errors of the monitor",
    (fault) =>
      Effect.gen(function*() {
        const { checks, report } = yield* results({ agents: agent([persona, human], []), faults: () => fault })
        assert.strictEqual(report.status, "critical")
        for (const said of Object.values(checks)) assert.strictEqual(said, "critical: the check failed with LettaError")
      })
  )
})
