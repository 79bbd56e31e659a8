/** Chooses what becomes of a run. All of it is drawn before the run begins, so that a seed tells it exactly. */
import { Effect, Random } from "effect"
import type { Unharmed } from "./checks.ts"
import type { Plan } from "./driver.ts"

/** Everything that a run passes which nobody harms, and what it passes if it lasts. */
const boundariesOf = ({ events }: Unharmed): ReadonlyArray<string> => [
  ...events.flatMap((event) => event._tag === "Passing" && event.at > 0 ? [event.where] : []),
  "before renew",
  "after renew"
]

/** What a boundary has in common with others of other steps. */
const sortOf = ({ deeds }: Unharmed) => {
  const effects = new Map(deeds.map((deed) => [deed.step, deed.effects]))
  return (boundary: string): string =>
    boundary.replace(/ \(\d+\)$/, "").replaceAll(/[^\s:]+/g, (word) => effects.get(word) ?? word)
}

/**
 * All boundaries of a run, shuffled, one of every sort after the other, so that a few of them already are of many
 * sorts. Those around what people do are few, and come first.
 */
const deck = (seed: string, unharmed: Unharmed): Effect.Effect<ReadonlyArray<string>> =>
  Effect.gen(function*() {
    const sorts = Map.groupBy(yield* Random.shuffle(boundariesOf(unharmed)), sortOf(unharmed))
    const rounds = Math.max(...Array.from(sorts.values(), (sort) => sort.length))
    const all = Array.from(
      { length: rounds },
      (_, round) => Array.from(sorts.values()).flatMap((sort) => sort[round] ?? [])
    ).flat()
    const people = new Set(
      unharmed.events.flatMap((event) => event._tag === "Passing" && event.kind === "person" ? [event.where] : [])
    )
    return [...all.filter((where) => people.has(where)), ...all.filter((where) => !people.has(where))]
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
      const boundary = (index === 0 ? boundaries[n % boundaries.length] : undefined) ??
        String(yield* between(1, resumedLength))
      return { fate: { _tag: "KilledAt" as const, boundary }, glanceAt: [yield* between(1, length)] }
    })
    return yield* Effect.forEach(Array.from({ length: yield* between(1, 4) }, (_, index) => index), one)
  }).pipe(Random.withSeed(`${seed}/${n}`))

/**
 * The boundaries at which a lease is held and the journal has been read: a run that waits for people has no lease, and
 * who has read nothing yet finds the finished run, and gives what it gave.
 */
const held = (boundaries: ReadonlyArray<string>): ReadonlyArray<string> => {
  let holds = false
  const end = boundaries.indexOf("before append RunCompleted") + 1
  return boundaries.slice(0, end).filter((boundary) => {
    if (boundary.startsWith("before release")) holds = false
    if (boundary.startsWith("after acquire")) holds = true
    return holds && !/^(after acquire|read:)/.test(boundary)
  })
}

/**
 * Where the nth holder of a lease is paused: it holds it already, and has something to write still.
 *
 * Between the intent of a step that must not happen twice and what the step does, no store can help: whoever takes over
 * finds that nothing has happened, and the one who was paused there goes on.
 */
export const pause = (
  seed: string,
  n: number,
  unharmed: Unharmed,
  locks: boolean,
  mayPause: (boundary: string, unharmed: Unharmed) => boolean = () => true
): Effect.Effect<string> =>
  Effect.gen(function*() {
    const all = boundariesOf(unharmed)
    const once = new Set(unharmed.deeds.filter((deed) => deed.effects === "atMostOnce").map((deed) => deed.step))
    const fit = held(all).filter((boundary) =>
      mayPause(boundary, unharmed) &&
      !(locks && boundary.includes(":")) && !boundary.startsWith("after append StepIntended") &&
      !(boundary.startsWith("before ") && once.has(boundary.slice("before ".length)))
    )
    return yield* Effect.orDie(Random.choice(fit))
  }).pipe(Random.withSeed(`${seed}/pause/${n}`))
