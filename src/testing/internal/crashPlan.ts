import type { Boundary, Crash, Way } from "./crashLife.ts"
import { uniform } from "./seeded.ts"

/** How a process can crash at a boundary: that its store is gone makes a difference only where it is asked. */
const waysAt = (boundary: Boundary, ways: ReadonlyArray<Way>): ReadonlyArray<Way> =>
  ways.filter((way) => way === "killed" || way === "interrupted" || boundary.operation !== "effect")

/**
 * Every way at every boundary, or as many of them as are allowed, spread over the run.
 *
 * @internal
 */
export const crashes = (
  boundaries: ReadonlyArray<Boundary>,
  ways: ReadonlyArray<Way>,
  limit: number,
  seed: string
): { readonly chosen: ReadonlyArray<Crash>; readonly left: number } => {
  const all = boundaries.flatMap((boundary) =>
    waysAt(boundary, ways).map((way): Crash => ({ boundary: boundary.index, way }))
  )
  if (all.length <= limit) return { chosen: all, left: 0 }
  const drawn = all
    .map((crash, index) => ({ crash, index, draw: uniform(seed, index, "crash") }))
    .toSorted((one, other) => one.draw - other.draw)
    .slice(0, limit)
    .toSorted((one, other) => one.index - other.index)
  return { chosen: drawn.map(({ crash }) => crash), left: all.length - limit }
}

/** A crash, and what the process after it crossed. @internal */
export interface Recovery {
  readonly crash: Crash
  readonly boundaries: ReadonlyArray<Boundary>
}

const pick = <A>(items: ReadonlyArray<A>, draw: number): A | undefined => items[Math.floor(draw * items.length)]

/**
 * Draws stories in which the process after the crash crashes too.
 *
 * @internal
 */
export const pairs = (
  recoveries: ReadonlyArray<Recovery>,
  ways: ReadonlyArray<Way>,
  count: number,
  seed: string
): ReadonlyArray<readonly [Crash, Crash]> => {
  const candidates = recoveries.filter(({ boundaries }) => boundaries.length > 0)
  return Array.from({ length: count }, (_, index) => index).flatMap((index): ReadonlyArray<readonly [Crash, Crash]> => {
    const recovery = pick(candidates, uniform(seed, index, "first"))
    const boundary = recovery && pick(recovery.boundaries, uniform(seed, index, "second"))
    const way = boundary && pick(waysAt(boundary, ways), uniform(seed, index, "way"))
    return recovery === undefined || boundary === undefined || way === undefined
      ? []
      : [[recovery.crash, { boundary: boundary.index, way }]]
  })
}
