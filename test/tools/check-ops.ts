// Checks the alert rules and the dashboard in `ops/`: what they ask Prometheus for has to be what the toolkit emits.
import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { alertProblems, dashboardExpressions, dashboardProblems } from "./ops.ts"

const folder = path.resolve(import.meta.dirname, "../../ops")
const alerts = path.join(folder, "prometheus-alerts.yml")
const dashboard = path.join(folder, "grafana-dashboard.json")

const problems = [
  ...alertProblems(fs.readFileSync(alerts, "utf8")),
  ...dashboardProblems(fs.readFileSync(dashboard, "utf8"))
]
for (const problem of problems) console.error(problem)

let isMissing = false

const promtool = (...args: ReadonlyArray<string>): boolean => {
  const { error, status, stderr, stdout } = spawnSync("promtool", args, { cwd: folder, encoding: "utf8" })
  if (error !== undefined && "code" in error && error.code === "ENOENT") {
    if (isMissing) return true
    isMissing = true
    console.warn("!! promtool is not on the PATH: the rules were NOT run through Prometheus' own parser")
    console.warn("!! (Debian: apt-get install prometheus)")
    return true
  }
  if (status === 0) return true
  console.error(stdout, stderr)
  return false
}

/** The expressions of the dashboard as rules, which is what promtool reads. */
const dashboardIsValid = (): boolean => {
  const scratch = fs.mkdtempSync(path.join(os.tmpdir(), "effect-resilience-ops-"))
  try {
    const rules = dashboardExpressions(fs.readFileSync(dashboard, "utf8")).map((expr, index) => ({
      record: `panel:${index}`,
      expr
    }))
    const file = path.join(scratch, "dashboard.yml")
    // JSON is YAML.
    fs.writeFileSync(file, JSON.stringify({ groups: [{ name: "dashboard", rules }] }))
    return promtool("check", "rules", file)
  } finally {
    fs.rmSync(scratch, { recursive: true })
  }
}

const isValid = promtool("check", "rules", "prometheus-alerts.yml") &&
  promtool("test", "rules", "prometheus-alerts.test.yml") && dashboardIsValid()

if (problems.length > 0 || !isValid) process.exit(1)
console.log("ops: every metric, label and value in the alerts and the dashboard is one that the toolkit emits")
