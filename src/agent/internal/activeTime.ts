import * as Clock from "effect/Clock"
import * as Effect from "effect/Effect"

/**
 * The time a run has been active, over all the processes that worked on it.
 *
 * Its marks are read from the journal and written to it, so time between a crash and a resume is not counted, and a
 * replay takes the decisions that the first run took.
 *
 * @internal
 */
export interface ActiveTime {
  /** Time at the last mark. Decisions are taken from this one alone: it is in the journal. */
  readonly marked: () => number
  /** Time now, for the record of the step that ends now. */
  readonly now: Effect.Effect<number>
  readonly mark: (elapsedMillis: number) => Effect.Effect<void>
}

/** @internal */
export const make: Effect.Effect<ActiveTime> = Effect.gen(function*() {
  let marked = 0
  let since = yield* Clock.currentTimeMillis
  return {
    marked: () => marked,
    now: Effect.map(Clock.currentTimeMillis, (now) => marked + Math.max(0, now - since)),
    mark: (elapsedMillis) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        marked = Math.max(marked, elapsedMillis)
        since = now
      })
  }
})
