import { Schema } from "effect"
import { Telemetry } from "effect-resilience"
import { Yaml } from "effect/encoding"
import * as promql from "./promql.ts"

const Filled = Schema.String.check(Schema.isMinLength(1))

const Rule = Schema.Struct({
  alert: Filled,
  expr: Filled,
  for: Schema.String.check(Schema.isPattern(/^\d+[smhd]$/)),
  labels: Schema.Struct({ severity: Schema.Literals(["warning", "critical"]) }),
  annotations: Schema.Struct({ summary: Filled, description: Filled, runbook: Filled })
})

const Alerts = Schema.Struct({
  groups: Schema.Array(Schema.Struct({ name: Filled, rules: Schema.Array(Rule) }))
})

const Target = Schema.Struct({ expr: Filled })
const Panel = Schema.Struct({
  id: Schema.Int,
  title: Filled,
  type: Filled,
  gridPos: Schema.Struct({ h: Schema.Int, w: Schema.Int, x: Schema.Int, y: Schema.Int }),
  targets: Schema.optional(Schema.Array(Target))
})
const Dashboard = Schema.Struct({
  title: Filled,
  uid: Filled,
  schemaVersion: Schema.Int,
  templating: Schema.Struct({ list: Schema.Array(Schema.Struct({ name: Filled, type: Filled })) }),
  panels: Schema.Array(Panel)
})

const decodeAlerts = Schema.decodeUnknownSync(Alerts)
const decodeDashboard = Schema.decodeUnknownSync(Schema.fromJsonString(Dashboard))

// What a scrape adds to every series.
const scraped = new Set(["job", "instance"])

const suffixes = ["_bucket", "_sum", "_count"]

const metricCalled = (name: string): Telemetry.Metric | undefined =>
  Telemetry.metrics.find((metric) =>
    metric.type === "histogram" ? suffixes.some((suffix) => `${metric.name}${suffix}` === name) : metric.name === name
  )

/** What is wrong with an expression: names, labels and values that the toolkit does not emit. */
export const problemsOf = (expression: string): ReadonlyArray<string> => {
  let named: promql.Named
  try {
    named = promql.read(expression)
  } catch (error) {
    return [String(error)]
  }
  const problems: Array<string> = []
  const labels = new Set(scraped)
  if (named.selectors.length === 0) problems.push("it names no metric")
  for (const { matchers, metric: name } of named.selectors) {
    const metric = metricCalled(name)
    if (metric === undefined) {
      problems.push(`${name} is no metric of Telemetry.metrics`)
      continue
    }
    const own = new Set([...scraped, ...metric.labels, ...(name.endsWith("_bucket") ? ["le"] : [])])
    own.forEach((label) => labels.add(label))
    for (const { label, operator, value } of matchers) {
      if (!own.has(label)) problems.push(`${name} has no label ${label}`)
      const values = metric.values[label]
      if (values === undefined || value.startsWith("$")) continue
      const asked = operator === "=~" || operator === "!~" ? value.split("|") : [value]
      for (const each of asked) {
        if (!values.includes(each)) problems.push(`${name} has no ${label}="${each}", but ${values.join(", ")}`)
      }
    }
  }
  for (const label of named.grouped) {
    if (!labels.has(label)) problems.push(`it groups by ${label}, which none of its metrics has`)
  }
  return problems
}

const named = (where: string, expression: string) => problemsOf(expression).map((problem) => `${where}: ${problem}`)

/** What is wrong with alert rules; throws where they are none. */
export const alertProblems = (yaml: string): ReadonlyArray<string> => {
  const { groups } = decodeAlerts(Yaml.parse(yaml))
  const rules = groups.flatMap((group) => group.rules)
  const twice = rules.filter(({ alert }, index) => rules.findIndex((rule) => rule.alert === alert) !== index)
  return [
    ...twice.map(({ alert }) => `${alert}: there are two`),
    ...rules.flatMap(({ alert, expr }) => named(alert, expr))
  ]
}

/** What is wrong with a dashboard; throws where it is none. */
export const dashboardProblems = (json: string): ReadonlyArray<string> => {
  const { panels } = decodeDashboard(json)
  const twice = panels.filter(({ id }, index) => panels.findIndex((panel) => panel.id === id) !== index)
  return [
    ...twice.map(({ title }) => `${title}: its id is not its own`),
    ...panels.flatMap(({ targets, title, type }) =>
      type === "row"
        ? []
        : targets === undefined || targets.length === 0
        ? [`${title}: it shows nothing`]
        : targets.flatMap(({ expr }) => named(title, expr))
    )
  ]
}

/** The expressions of a dashboard as they are where its variables are filled in. */
export const dashboardExpressions = (json: string): ReadonlyArray<string> =>
  decodeDashboard(json).panels.flatMap(({ targets }) =>
    (targets ?? []).map(({ expr }) => expr.replaceAll("$__rate_interval", "5m").replaceAll("$job", ".*"))
  )

/** The metrics that neither an alert nor a panel shows. */
export const unshown = (yaml: string, json: string): ReadonlyArray<string> => {
  const rules = decodeAlerts(Yaml.parse(yaml)).groups.flatMap((group) => group.rules.map(({ expr }) => expr))
  const shown = new Set(
    [...rules, ...dashboardExpressions(json)].flatMap((expression) =>
      promql.read(expression).selectors.flatMap(({ metric }) => metricCalled(metric)?.name ?? [])
    )
  )
  return Telemetry.metrics.map(({ name }) => name).filter((name) => !shown.has(name))
}
