/**
 * Draws what came of the simulations into `bench/results/`.
 */
import { Effect } from "effect"
import { mkdir, writeFile } from "node:fs/promises"
import type { Measurement } from "../support/report.ts"
import { barChart, timelineChart } from "./charts.ts"
import { scenarios } from "./scenarios.ts"
import type { Result } from "./simulation.ts"

const folder = new URL("../results/", import.meta.url)

const abouts: Readonly<Record<string, string>> = {
  nominal: "0.8 times what the limits allow",
  overload: "2.5 times what the limits allow",
  "overload-charged": "the same, refused calls are charged",
  "overload-charged-10p": "the same, ten processes, nothing shared",
  "brownout-60": "a minute with an eighth of the capacity",
  "outage-180": "three minutes of nothing",
  "outage-861": "a quarter of an hour of nothing",
  "no-headers": "2.5 times, and no headers tell the limits",
  "two-providers": "three minutes of nothing, and a second provider"
}

const goodputs = (measurements: ReadonlyArray<Measurement>): string =>
  barChart(
    "Goodput: finished work, as a share of what an oracle finishes",
    "Beside the bars: the share, and how many calls the provider got for each step that was needed. Mean of 5 seeds.",
    scenarios.map(({ name }) => {
      const means = measurements.filter((one) => one.case === name && one.seed === undefined)
      const of = (impl: string, unit: string) => means.find((one) => one.impl === impl && one.unit === unit)?.value
      const impls = [...new Set(means.map(({ impl }) => impl))].filter((impl) => impl !== "oracle")
      const calls = (value: number) => `${value >= 100 ? ">100" : value.toFixed(value < 10 ? 2 : 0)}×`
      return {
        name,
        about: abouts[name] ?? "",
        bars: impls.map((impl) => {
          const value = of(impl, "goodput") ?? 0
          return { impl, value, note: `${value.toFixed(2)}   ${calls(of(impl, "amplification") ?? Infinity)}` }
        })
      }
    })
  )

const stepSeconds = 10
const shown = ["oracle", "effect-resilience", "cockatiel", "sdk-step"]

const outage = (results: ReadonlyArray<Result>): string | undefined => {
  const found = results.filter(({ scenario }) => scenario.name === "outage-180")
  const trouble = found[0]?.scenario.troubles[0]
  if (trouble === undefined) return undefined
  const from = trouble.from / 1_000
  const fromSeconds = from - 90
  const toSeconds = trouble.to / 1_000 + 330
  const lines = (timesOf: (result: Result) => ReadonlyArray<number>) =>
    shown.map((impl) => {
      const runs = found.filter((result) => result.impl === impl)
      const values = Array.from({ length: Math.floor((toSeconds - fromSeconds) / stepSeconds) }, () => 0)
      for (const run of runs) {
        for (const at of timesOf(run)) {
          const step = Math.floor((at / 1_000 - fromSeconds) / stepSeconds)
          if (step >= 0 && step < values.length) values[step] = (values[step] ?? 0) + 1 / stepSeconds / runs.length
        }
      }
      return { impl, values }
    })
  return timelineChart({
    title: "An outage of three minutes",
    about:
      "36 agents, mean of 5 seeds. Shaded: the provider answers nothing; its capacity comes back over two minutes.",
    stepSeconds,
    fromSeconds,
    trouble: { from, to: trouble.to / 1_000 },
    panels: [
      {
        name: "finished steps a second, without those that were thrown away later",
        lines: lines(({ work }) => work.done.filter((done) => done.thrownAwayAt === undefined).map(({ at }) => at))
      },
      { name: "calls to the provider a second", lines: lines(({ provider }) => provider.calls) }
    ]
  })
}

export const draw = (
  measurements: ReadonlyArray<Measurement>,
  results: ReadonlyArray<Result>
): Effect.Effect<ReadonlyArray<string>> =>
  Effect.promise(async () => {
    await mkdir(folder, { recursive: true })
    const charts = { "goodput.svg": goodputs(measurements), "goodput-outage.svg": outage(results) }
    const written: Array<string> = []
    for (const [name, content] of Object.entries(charts)) {
      if (content === undefined) continue
      await writeFile(new URL(name, folder), content)
      written.push(`bench/results/${name}`)
    }
    return written
  })
