import { Effect } from "effect"
import { Bench } from "tinybench"

/** The middle of the values, NaN where there are none. */
export const median = (values: Iterable<number>): number => {
  const sorted = Float64Array.from(values).toSorted()
  const middle = sorted.length >> 1
  const upper = sorted[middle] ?? Number.NaN
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2
}

/** The median of the ratios taken round by round, so that what slowed a whole round down slows both sides of it. */
export const medianRatio = (values: ReadonlyArray<number>, base: ReadonlyArray<number>): number =>
  median(values.map((value, round) => value / (base[round] ?? Number.NaN)))

/** The items in the order of a round: each round begins with another one, so that none always comes after the same. */
export const inTurn = <A>(items: ReadonlyArray<A>, round: number): ReadonlyArray<A> => {
  const rotated = items.map((_, index) => items[(index + round) % items.length]).filter((item) => item !== undefined)
  return round % 2 === 0 ? rotated : rotated.toReversed()
}

/**
 * Measures tasks side by side, in rounds of all tasks, and gives for each task the milliseconds that its median
 * execution took in each round, which other programs of the machine hardly change.
 */
export const interleaved = Effect.fnUntraced(function*<Id>(
  tasks: ReadonlyMap<Id, () => Promise<unknown>>,
  options: { readonly rounds: number; readonly millis: number; readonly warmupMillis: number }
) {
  const measured = new Map<Id, Array<number>>()
  for (let round = 0; round < options.rounds; round++) {
    const bench = new Bench({
      time: options.millis,
      iterations: 1,
      // The first round compiles what all the others run.
      warmup: round === 0,
      warmupTime: options.warmupMillis,
      warmupIterations: 1,
      throws: true
    })
    const ids = inTurn([...tasks], round).map(([id, run], index) => {
      bench.add(String(index), run, { async: true })
      return id
    })
    const results = yield* Effect.promise(() => bench.run())
    results.forEach((task, index) => {
      const id = ids[index]
      if (id === undefined || task.result.state !== "completed") return
      const values = measured.get(id) ?? []
      values.push(task.result.latency.p50)
      measured.set(id, values)
    })
  }
  return measured
})
