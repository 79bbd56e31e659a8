import { assert, it } from "@effect/vitest"
import { Effect } from "effect"
import * as fs from "node:fs"
import * as path from "node:path"
import { Fallback, Policy } from "../../src/index.ts"

const readme = fs.readFileSync(path.join(import.meta.dirname, "../../README.md"), "utf8")

/** The solid arrows of a flow chart, from and to. */
const arrows = (chart: string): ReadonlyArray<readonly [string, string]> =>
  chart.split("\n").filter((line) => line.includes("-->")).flatMap((line) => {
    const nodes = line.split(/-->(?:\|[^|]*\|)?/).map((node) => /\w+/.exec(node)?.[0] ?? "")
    return nodes.slice(1).map((to, at) => [nodes[at] ?? "", to] as const)
  })

it("the picture of a call shows the guards in the order in which a policy has them", () => {
  const [, chart = ""] = /```mermaid\n(flowchart LR[\s\S]*?)```/.exec(readme) ?? []
  const next = new Map(arrows(chart))
  const shown: Array<string> = []
  for (let node = next.get("program"); node !== undefined; node = next.get(node)) shown.push(node)

  const policy = Policy.make({
    name: "all",
    deadline: "1 minute",
    fallback: Fallback.step("other", Effect.void),
    retry: {},
    quota: {},
    limit: {},
    bulkhead: {},
    circuit: {},
    hedge: { delay: "1 second" },
    timeout: "10 seconds"
  })
  const guards = Policy.describe(policy).split("\n").slice(1)
    .map((line) => line.trim().split(/ {2,}/)[0]?.replace("attempt timeout", "timeout"))
  assert.deepStrictEqual(shown.filter((node) => node !== "open"), guards)
  assert.deepStrictEqual([next.get("retry"), next.get("open")], ["open", "quota"])
})

it("the page names every public module", () => {
  const root = path.join(import.meta.dirname, "../../src")
  const files = fs.globSync("**/*.ts", { cwd: root })
    .filter((file) => !file.split(path.sep).includes("internal") && path.basename(file) !== "index.ts")
  assert.isAbove(files.length, 40)
  const missing = files.map((file) => path.basename(file, ".ts")).filter((name) =>
    !new RegExp(`\\b${name}\\b`).test(readme)
  )
  assert.deepStrictEqual(missing, [])
})
