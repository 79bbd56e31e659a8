import { assert, describe, it } from "@effect/vitest"
import { Telemetry } from "effect-resilience"
import * as fs from "node:fs"
import * as path from "node:path"
import { alertProblems, dashboardProblems, problemsOf, unshown } from "../tools/ops.ts"
import { read } from "../tools/promql.ts"

const file = (name: string) => fs.readFileSync(path.resolve(import.meta.dirname, "../../ops", name), "utf8")

describe("ops", () => {
  it("asks for nothing that the toolkit does not emit", () => {
    assert.deepStrictEqual(alertProblems(file("prometheus-alerts.yml")), [])
    assert.deepStrictEqual(dashboardProblems(file("grafana-dashboard.json")), [])
  })

  it("shows every metric but those that only count the others", () => {
    assert.deepStrictEqual(unshown(file("prometheus-alerts.yml"), file("grafana-dashboard.json")), [
      "effect_resilience_events_total",
      "effect_resilience_adaptive_limit_changes_total",
      "effect_resilience_outages_total",
      "effect_resilience_safe_mode_changes_total",
      "effect_resilience_agent_sessions_started_total"
    ])
  })

  it("are the metrics that the README names", () => {
    const readme = fs.readFileSync(path.resolve(import.meta.dirname, "../../README.md"), "utf8")
    const table = /\| of \| metrics \|\n([\s\S]*?)\n\n/.exec(readme)?.[1] ?? ""
    const named = [...table.matchAll(/`(\w+)`/g)].flatMap(([, name]) =>
      name === "source" ? [] : [`effect_resilience_${name}`]
    )
    const known = new Set(Telemetry.metrics.map(({ name }) => name))
    assert.isAbove(named.length, 30)
    assert.deepStrictEqual(named.filter((name) => !known.has(name)), [])
  })

  it("would not get by with a wrong name, label, value or grouping", () => {
    const wrong = (expression: string, problem: RegExp) => assert.match(problemsOf(expression).join("\n"), problem)
    wrong("rate(effect_resilience_retry_total[5m])", /retry_total is no metric/)
    wrong("effect_resilience_agent_session_seconds", /no metric/)
    wrong("effect_resilience_retries_total_bucket", /no metric/)
    wrong("effect_resilience_circuit_state{name=\"x\"}", /has no label name/)
    wrong("effect_resilience_circuit_state{state=\"open\"}", /has no state="open"/)
    wrong("effect_resilience_circuit_state{state=~\"Open|Half\"}", /has no state="Half"/)
    wrong("effect_resilience_circuit_state{le=\"1\"}", /has no label le/)
    wrong("sum by (policy) (rate(effect_resilience_circuit_rejections_total[5m]))", /groups by policy/)
    wrong("sum(rate(effect_resilience_retries_total[5m])", /a parenthesis too few/)
    wrong("effect_resilience_retries_total{policy=}", /expected text/)
    wrong("1 > 0", /names no metric/)
    assert.throws(() => alertProblems(file("prometheus-alerts.yml").replace("severity: warning", "severity: low")))
    assert.throws(() => dashboardProblems("{}"))
  })

  it("is read as PromQL: functions, groupings, ranges and comments are no metrics", () => {
    const found = read(`
      histogram_quantile(0.95, sum by (le, key) (rate(a_bucket{x!~"b|c", y="d"}[$__rate_interval] offset 5m))) # comment
        > bool on (key) group_left (z) 2 * sum(e) without (f) or absent(g{h="i\\"j"})
    `)
    assert.deepStrictEqual(found.selectors.map(({ metric }) => metric), ["a_bucket", "e", "g"])
    assert.deepStrictEqual(found.selectors[2]?.matchers, [{ label: "h", operator: "=", value: "i\"j" }])
    assert.deepStrictEqual(found.grouped, ["le", "key", "key", "z", "f"])
  })
})
