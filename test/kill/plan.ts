/** Chooses what becomes of a run. All of it is drawn before the run begins, so that a seed tells it exactly. */
import { Effect, Random } from "effect"
import type { Unharmed } from "./checks.ts"
import type { Plan } from "./driver.ts"
import type { Event } from "./Event.ts"

type Passing = Extract<Event, { readonly _tag: "Passing" }>

const boundariesOf = ({ events }: Unharmed): ReadonlyArray<Passing> =>
  events.filter((event) => event._tag === "Passing")

/** What a boundary has in common with others of other steps. */
const sortOf = ({ deeds }: Unharmed) => {
  const effects = new Map(deeds.map((deed) => [deed.step, deed.effects]))
  return ({ kind, where }: Passing): string => {
    if (kind === "inside") return where
    const words = where.split(" ")
    const ofStep = effects.get(words.at(-1) ?? "")
    return ofStep === undefined ? where : [...words.slice(0, -1), ofStep].join(" ")
  }
}

/**
 * All boundaries of a run, shuffled, one of every sort after the other, so that a few of them already are of many
 * sorts.
 */
const deck = (seed: string, unharmed: Unharmed): Effect.Effect<ReadonlyArray<number>> =>
  Effect.gen(function*() {
    const sorts = Map.groupBy(yield* Random.shuffle(boundariesOf(unharmed)), sortOf(unharmed))
    const rounds = Math.max(...Array.from(sorts.values(), (sort) => sort.length))
    return Array.from({ length: rounds }, (_, round) =>
      Array.from(sorts.values()).flatMap((sort) => {
        const boundary = sort[round]
        return boundary === undefined ? [] : [boundary.at]
      })).flat()
  }).pipe(Random.withSeed(`${seed}/deck`))

/** A resumed life does not do again what the lives before it have done: its first boundaries matter most. */
const resumedLength = 40

const between = (min: number, max: number) => Random.nextIntBetween(min, max, { halfOpen: false })

/** The fates of the lives of the nth run. */
export const lives = (seed: string, n: number, unharmed: Unharmed): Effect.Effect<Plan["lives"]> =>
  Effect.gen(function*() {
    const boundaries = yield* deck(seed, unharmed)
    const one = Effect.fnUntraced(function*(index: number) {
      const length = index === 0 ? unharmed.events.length : resumedLength
      if (yield* Random.nextBoolean) {
        const lines = yield* between(1, length)
        return { fate: { _tag: "KilledAfter" as const, lines, micros: yield* between(0, 1_500) }, glanceAt: [] }
      }
      const drawn = boundaries[n % boundaries.length] ?? 1
      const boundary = index === 0 ? drawn : yield* between(1, resumedLength)
      return { fate: { _tag: "KilledAt" as const, boundary }, glanceAt: [yield* between(1, boundary)] }
    })
    return yield* Effect.forEach(Array.from({ length: yield* between(1, 4) }, (_, index) => index), one)
  }).pipe(Random.withSeed(`${seed}/${n}`))

/**
 * Where the nth holder of a lease is paused: it holds it already, and has something to write still.
 *
 * Between the intent of a step that must not happen twice and what the step does, no store can help: whoever takes over
 * finds that nothing has happened, and the one who was paused there goes on.
 */
export const pause = (seed: string, n: number, unharmed: Unharmed): Effect.Effect<number> =>
  Effect.gen(function*() {
    const all = boundariesOf(unharmed)
    const once = new Set(unharmed.deeds.filter((deed) => deed.effects === "atMostOnce").map((deed) => deed.step))
    const from = all.findIndex(({ where }) => where === "after acquire")
    const to = all.findLastIndex(({ where }) => where === "before append RunCompleted")
    const fit = all.slice(from, to + 1).filter(({ kind, where }) =>
      kind !== "inside" && !where.startsWith("after append StepIntended") &&
      !(kind === "effect" && where.startsWith("before") && once.has(where.slice("before ".length)))
    )
    return (yield* Effect.orDie(Random.choice(fit))).at
  }).pipe(Random.withSeed(`${seed}/pause/${n}`))
