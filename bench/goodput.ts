/**
 * How much of a limited provider ends in finished work: agents on a virtual clock, with this toolkit, with what is used
 * today, and with an oracle that knows the state of the provider.
 */
import { Effect } from "effect"
import { measure, type Unit, units } from "./goodput/metrics.ts"
import { draw } from "./goodput/results.ts"
import { scenarios } from "./goodput/scenarios.ts"
import type { Result } from "./goodput/simulation.ts"
import { simulateAll } from "./goodput/threads.ts"
import type { Bench, Measurement } from "./support/report.ts"

const seeds = [1, 2, 3, 4, 5]

const simulations = Effect.fnUntraced(function*(quick: boolean) {
  const jobs = scenarios.flatMap((scenario) => {
    const looked = quick ? { ...scenario, millis: Math.min(scenario.millis, 60_000) } : scenario
    return (quick ? seeds.slice(0, 1) : seeds).map((seed) => ({ scenario: looked, seed }))
  })
  const results = yield* simulateAll(jobs)
  return results.flatMap((ofJob) => {
    const [oracle] = ofJob
    return oracle === undefined ? [] : ofJob.map((result) => ({ result, oracle }))
  })
})

const mean = (values: ReadonlyArray<number>): number => values.reduce((sum, value) => sum + value, 0) / values.length

/** A line a seed, and one with the mean. */
const linesOf = (seeds: ReadonlyArray<{ readonly result: Result; readonly oracle: Result }>): Array<Measurement> => {
  const measured = seeds.map(({ oracle, result }) => ({ result, values: measure(result, oracle) }))
  const line = ({ result }: (typeof measured)[number], unit: Unit, value: number): Measurement => ({
    bench: "goodput",
    case: result.scenario.name,
    impl: result.impl,
    unit,
    value
  })
  return units.flatMap((unit) => {
    const found = measured.flatMap((one) => {
      const value = one.values[unit]
      return value === undefined || !Number.isFinite(value) ? [] : [{ one, value }]
    })
    const [first] = found
    if (first === undefined) return []
    return [
      ...found.map(({ one, value }) => ({ ...line(one, unit, value), seed: one.result.seed })),
      { ...line(first.one, unit, mean(found.map(({ value }) => value))), n: found.length }
    ]
  })
}

export const bench: Bench = Effect.fnUntraced(function*({ quick }) {
  const results = yield* simulations(quick)
  const groups = Map.groupBy(results, ({ result }) => `${result.scenario.name} ${result.impl}`)
  const measurements = [...groups.values()].flatMap(linesOf)
  const charts = quick ? [] : yield* draw(measurements, results.map(({ result }) => result))
  return {
    title: "goodput: work of a limited provider that ends in finished steps, beside an oracle, in virtual time",
    measurements,
    units,
    notes: [
      "A provider with 400 requests, 2,000,000 input and 250,000 output tokens a minute (token buckets that hold a " +
      "minute's worth) and 60 answers at a time; answers of 4 s in the median, 1 in 100 far longer, 3 in 1,000 stall and " +
      "never end. Agents of 15 steps a task, whose context grows from 2,000 to 11,800 tokens, and who use a tool for 3 s " +
      "between two steps; one that has finished begins the next. 36 agents are 0.8 of what the limits allow, 112 are 2.5 " +
      "times as much. A call that failed for good is tried again by its agent after 5 s, 10 times in a row; then the task " +
      "is given up.",
      "goodput: work (input tokens of answered steps that were not thrown away later) over that of the oracle with the " +
      "same seed, to which refusals, stalls and the end of an outage are known at once, what will come is not. " +
      "amplification: calls per needed step. wasted: the share of the input tokens taken from the bucket that ended in no " +
      "such step. lost: tasks given up; repeated: answered steps asked for again. p50, p99: the time of finished tasks " +
      "over the oracle's. recovery: time after a trouble until a minute brings 90 % of the oracle's usual steps, over the " +
      "oracle's. outage-calls: calls that came during an outage. peak: most calls in a second. jain: fairness between " +
      "agents at half time. cost: input tokens per needed one, those of the second provider four times.",
      "overload-charged: a refused call takes from the buckets, too. 10p: in ten processes that share nothing. brownout: " +
      "8 answers at a time for 60 s. outage: what is under way is reset, of new calls 80 % get 529 or 503 and 20 % hang; " +
      "then capacity grows from a tenth to all in two minutes. no-headers: no limits and no retry-after. two-providers: " +
      "outage-180, with a second provider of half the limits; peers ask it when the first has failed for good.",
      "effect-resilience and cockatiel are the real code on a virtual clock. sdk-* (Anthropic's), ai-sdk (Vercel's) and " +
      "aws-adaptive are their retry rules, written anew after their sources. -task begins the task anew when a call has " +
      "failed for good, as ai-sdk (its tool loop is one call) and naive do, -step and the others repeat the step. Without " +
      "a timeout of their own, calls end after Node's 300 s. cockatiel has a bulkhead of 30, which is what these limits " +
      "allow one process, and a timeout of 60 s.",
      ...(charts.length === 0 ? [] : [`charts: ${charts.join(", ")}`])
    ]
  }
})
