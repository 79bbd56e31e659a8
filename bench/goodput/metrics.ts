/**
 * What came of a simulation, in numbers, most of them beside what the oracle made of the same seed.
 */
import type { Done } from "./agents.ts"
import type { Log } from "./provider.ts"
import type { Result } from "./simulation.ts"

export const units = [
  "goodput",
  "amplification",
  "wasted",
  "lost",
  "repeated",
  "p50-ratio",
  "p99-ratio",
  "recovery-ratio",
  "outage-calls",
  "peak",
  "jain",
  "cost"
] as const
export type Unit = (typeof units)[number]

const sum = (values: Iterable<number>): number => {
  let total = 0
  for (const value of values) total += value
  return total
}

const quantile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = Float64Array.from(values).toSorted()
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

const logsOf = ({ fallback, provider }: Result): ReadonlyArray<Log> =>
  fallback === undefined ? [provider] : [provider, fallback]

/** Steps that were not thrown away until the end; their tasks are finished, or will be. */
const keptOf = ({ work }: Result): ReadonlyArray<Done> => work.done.filter((done) => done.thrownAwayAt === undefined)

/** Work is counted in input tokens, of which the limits allow so many: small steps are no more work for being many. */
const workOf = (done: ReadonlyArray<Done>): number => sum(done.map(({ inputTokens }) => inputTokens))

/** Jain's index of what the agents had done by half time: 1 where all had the same, 1/n where one had everything. */
const jainOf = ({ scenario, work }: Result): number => {
  const half = scenario.millis / 2
  const shares = new Float64Array(scenario.agents)
  for (const { agent, at, inputTokens, thrownAwayAt = Infinity } of work.done) {
    if (at <= half && thrownAwayAt > half) shares[agent] = (shares[agent] ?? 0) + inputTokens
  }
  const squares = sum(shares.map((share) => share * share))
  return squares === 0 ? 1 : sum(shares) ** 2 / (shares.length * squares)
}

const peakOf = (result: Result): number => {
  const perSecond = new Map<number, number>()
  for (const { calls } of logsOf(result)) {
    for (const at of calls) perSecond.set(Math.floor(at / 1_000), (perSecond.get(Math.floor(at / 1_000)) ?? 0) + 1)
  }
  return Math.max(0, ...perSecond.values())
}

const between = (values: ReadonlyArray<number>, from: number, to: number): number =>
  values.filter((at) => from <= at && at < to).length

const recoveryWindow = 60_000
const recoveryShare = 0.9

/**
 * How long after its end a trouble is over: until the steps of the last minute are 90 % of what a minute brings the
 * oracle before the trouble.
 */
const recoveryOf = (result: Result, oracle: Result): number => {
  const [trouble] = result.scenario.troubles
  if (trouble === undefined) return Number.NaN
  const { from, to } = trouble
  const warm = from / 2
  const wanted = recoveryShare * recoveryWindow * between(keptOf(oracle).map(({ at }) => at), warm, from) /
    (from - warm)
  const times = keptOf(result).map(({ at }) => at).filter((at) => at > to)
  let first = 0
  for (const [index, at] of times.entries()) {
    while ((times[first] ?? at) <= at - recoveryWindow) first++
    if (index - first + 1 >= wanted) return at - to
  }
  return result.scenario.millis - to
}

/** A call of the second provider costs so many of the first. */
const fallbackPrice = 4

export const measure = (result: Result, oracle: Result): Partial<Record<Unit, number>> => {
  const { fallback, provider, scenario, work } = result
  const logs = logsOf(result)
  const kept = keptOf(result)
  const underWay = logs.flatMap((log) => log.underWay)
  const calls = sum(logs.map((log) => log.calls.length))
  const inputTokens = sum(logs.map((log) => log.inputTokens))
  const needed = kept.length + underWay.length
  const outage = scenario.troubles.find(({ kind }) => kind === "outage")
  return {
    goodput: workOf(kept) / workOf(keptOf(oracle)),
    amplification: calls / needed,
    wasted: 1 - (workOf(kept) + sum(underWay)) / inputTokens,
    lost: work.lost,
    repeated: work.repeated,
    // who has finished nothing has no time of a task
    ...work.taskMillis.length > 0 && {
      "p50-ratio": quantile(work.taskMillis, 0.5) / quantile(oracle.work.taskMillis, 0.5),
      "p99-ratio": quantile(work.taskMillis, 0.99) / quantile(oracle.work.taskMillis, 0.99)
    },
    ...scenario.troubles.length > 0 && {
      "recovery-ratio": recoveryOf(result, oracle) / recoveryOf(oracle, oracle)
    },
    ...outage !== undefined && { "outage-calls": between(provider.calls, outage.from, outage.to) },
    peak: peakOf(result),
    jain: jainOf(result),
    ...fallback !== undefined && {
      cost: (provider.inputTokens + fallbackPrice * fallback.inputTokens) / (workOf(kept) + sum(underWay))
    }
  }
}
