import * as Context from "effect/Context"
import * as Effect from "effect/Effect"

/**
 * Something that others wait for, and what the work inside it waits for in turn.
 *
 * @internal
 */
export interface Awaited {
  readonly waitsFor: Set<Awaited>
}

/** @internal */
export const make = (): Awaited => ({ waitsFor: new Set() })

/** What the work here belongs to: as long as it waits, so does everybody who waits for that. */
const Inside = Context.Reference<Awaited | undefined>("effect-resilience/internal/waits/Inside", {
  defaultValue: () => undefined
})

/** @internal */
export const inside = (awaited: Awaited) => <A, E, R>(work: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(work, Inside, awaited)

const reaches = (from: Awaited, to: Awaited): boolean => {
  const seen = new Set<Awaited>()
  const pending = [from]
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    if (next === to) return true
    if (seen.has(next)) continue
    seen.add(next)
    pending.push(...next.waitsFor)
  }
  return false
}

/**
 * Waits, unless what is waited for waits for the work here, directly or over others: that would never end, and is a
 * defect of the program.
 *
 * @internal
 */
export const waiting = <A, E, R>(
  awaited: Awaited,
  what: string,
  wait: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.flatMap(Inside, (around) => {
    if (around === undefined) return wait
    if (reaches(awaited, around)) {
      return Effect.die(new Error(`a call inside the execution of ${what} waits for that execution`))
    }
    // An edge of its own: the work here may wait for the same thing twice at the same time.
    const edge: Awaited = { waitsFor: new Set([awaited]) }
    return Effect.suspend(() => {
      around.waitsFor.add(edge)
      return wait
    }).pipe(Effect.ensuring(Effect.sync(() => around.waitsFor.delete(edge))))
  })
