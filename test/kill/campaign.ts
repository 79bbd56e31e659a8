/** Kills runs by the dozen, and counts. */
import { Cause, Effect, Semaphore } from "effect"
import { type Fate, isDone, isKilled, type Life, type Unharmed, type Violation } from "./checks.ts"
import * as driver from "./driver.ts"
import * as plan from "./plan.ts"
import { programs } from "./programs.ts"
import { stores } from "./stores.ts"

export interface Tally {
  readonly program: string
  readonly store: string
  runs: number
  lives: number
  /**
   * At a boundary of the store, in the middle of what it does, around what is done outside, around the decision of a
   * person, and from outside.
   */
  readonly kills: { store: number; inside: number; effect: number; person: number; random: number }
  /** How often something idempotent happened once more than it had to. */
  repeats: number
  duplicated: number
  lost: number
  /** What reconciles found out about attempts that nobody knew the end of. */
  readonly reconciled: { happened: number; notHappened: number }
  /** How often a life had to wait for the lease of a dead one. */
  waits: number
  /** How often the store took longer than a lease. */
  hindered: number
  pauses: number
  givenUp: number
  violations: number
}

const tallyOf = (program: string, store: string): Tally => ({
  program,
  store,
  runs: 0,
  lives: 0,
  kills: { store: 0, inside: 0, effect: 0, person: 0, random: 0 },
  repeats: 0,
  duplicated: 0,
  lost: 0,
  reconciled: { happened: 0, notHappened: 0 },
  waits: 0,
  hindered: 0,
  pauses: 0,
  givenUp: 0,
  violations: 0
})

export const killsOf = ({ kills }: Tally): number =>
  kills.store + kills.inside + kills.effect + kills.person + kills.random

/** The boundary that a life passed last. */
const lastBoundary = (life: Life) => life.events.findLast((event) => event._tag === "Passing")

const count = (tally: Tally, { lives, violations }: driver.Told): void => {
  tally.runs++
  tally.lives += lives.length
  for (const life of lives) {
    if (isKilled(life)) {
      if (life.fate._tag === "KilledAfter") tally.kills.random++
      else tally.kills[lastBoundary(life)?.kind ?? "store"]++
    }
    for (const event of life.events) {
      if (event._tag === "Reconciled") tally.reconciled[event.happened ? "happened" : "notHappened"]++
      if (event._tag === "Waiting") tally.waits++
      if (event._tag === "Hindered") tally.hindered++
    }
  }
  const deeds = lives.at(-1)?.deeds ?? []
  const idempotent = deeds.filter((deed) => deed.effects === "idempotent")
  tally.repeats += idempotent.length - new Set(idempotent.map((deed) => deed.step)).size
  tally.duplicated += violations.filter(({ rule }) => rule === "duplicated").length
  tally.lost += violations.filter(({ rule }) => rule === "lost" || rule === "repeated").length
  tally.violations += violations.length
}

const tell = (fate: Fate, life: Life): string => {
  const last = lastBoundary(life)
  const at = last === undefined ? "before its first boundary" : `at boundary ${last.at}, ${last.where}`
  switch (fate._tag) {
    case "KilledAt":
      return isKilled(life) ? `killed ${at}` : `was to be killed at ${fate.boundary}, and did not come to it`
    case "KilledAfter":
      return isKilled(life) ? `killed ${fate.micros} µs after line ${fate.lines}, ${at}` : "done before it was killed"
    case "PausedAt":
      return `paused ${at}`
    case "Refused":
      return `refused${
        life.events.some((event) => event._tag === "Failed" && event.tag === fate.tag) ? "" : ", or not"
      }`
    case "Spared":
      return isDone(life) ? "done" : `not done, ${at}`
  }
}

/** Something that must not be, and how to see it again. */
export interface Finding extends Violation {
  readonly program: string
  readonly store: string
  readonly seed: number
  /** The number of the run; of a pause, with a `p` before it; or `u` for the run that is given up. */
  readonly run: string
  readonly lives: ReadonlyArray<string>
}

export interface Orders {
  readonly programs: ReadonlyArray<string>
  readonly stores: ReadonlyArray<string>
  readonly seed: number
  /** How many kills of each program over each store. */
  readonly kills: number
  /** How many holders of each program are paused over each store. */
  readonly pauses: number
  /** Whether one run of each program over each store kills its processes until it is given up. */
  readonly givenUp: boolean
  readonly schema: string | undefined
  readonly concurrency: number
  /** Called after every run, with what was found in it. */
  readonly noted?: ((tally: Tally, findings: ReadonlyArray<Finding>) => void) | undefined
}

export interface Outcome {
  readonly tallies: ReadonlyArray<Tally>
  readonly findings: ReadonlyArray<Finding>
}

/** What is known of one program over one store. */
interface Desk {
  readonly tally: Tally
  readonly unharmed: Unharmed
  readonly seed: string
  readonly options: driver.Options
  readonly findings: Array<Finding>
  /** The run that each idempotency key was seen in. */
  readonly keys: Map<string, string>
}

const desk = (orders: Orders, program: string, store: string): Effect.Effect<Desk, unknown> => {
  const options: driver.Options = { program, store, schema: orders.schema }
  return Effect.map(driver.unharmed(options), (unharmed) => ({
    tally: tallyOf(program, store),
    unharmed,
    seed: program === "durable" ? `${orders.seed}/${store}` : `${orders.seed}/${program}/${store}`,
    options,
    findings: [],
    keys: new Map()
  }))
}

/** Keys that two runs share. */
const sharedKeys = ({ keys }: Desk, run: string, { lives }: driver.Told): ReadonlyArray<Violation> =>
  [...new Set(lives.at(-1)?.deeds.map(({ key }) => key))].flatMap((key) => {
    const other = keys.get(key)
    keys.set(key, run)
    return other === undefined ? [] : [{ rule: "keys", detail: `runs ${other} and ${run} share the key ${key}` }]
  })

const note = (orders: Orders, desk: Desk, run: string, story: Effect.Effect<driver.Told, unknown>) =>
  story.pipe(
    Effect.catchCauseIf(
      (cause) => !Cause.hasInterruptsOnly(cause),
      (cause) =>
        Effect.succeed<driver.Told>({ lives: [], violations: [{ rule: "ended", detail: Cause.pretty(cause) }] })
    ),
    Effect.map((told) => {
      const violations = [...told.violations, ...sharedKeys(desk, run, told)]
      count(desk.tally, { ...told, violations })
      const lives = told.lives.map((life) => tell(life.fate, life))
      const findings = violations.map(({ detail, rule }) => ({
        rule,
        detail,
        program: desk.tally.program,
        store: desk.tally.store,
        seed: orders.seed,
        run,
        lives
      }))
      desk.findings.push(...findings)
      orders.noted?.(desk.tally, findings)
    })
  )

const killRun = (orders: Orders, desk: Desk, n: number, lives: driver.Plan["lives"]) =>
  note(orders, desk, String(n), driver.story(desk.options, desk.unharmed, { lives }))

const pauseRun = Effect.fnUntraced(function*(orders: Orders, desk: Desk, n: number) {
  const { program, store } = desk.tally
  const mayPause = programs[program]?.mayPause ?? (() => false)
  const boundary = yield* plan.pause(desk.seed, n, desk.unharmed, stores[store]?.locks === true, mayPause)
  yield* note(orders, desk, `p${n}`, driver.paused(desk.options, desk.unharmed, boundary))
  desk.tally.pauses++
})

const giveUpRun = Effect.fnUntraced(function*(orders: Orders, desk: Desk) {
  yield* note(orders, desk, "u", driver.givenUp(desk.options, desk.unharmed))
  desk.tally.givenUp++
})

/** So many rounds one after the other in which nobody was killed are no accident: the last one may be of one life. */
const maxHarmless = 10

/** Kills over all the stores until each has had its share. */
export const run = Effect.fnUntraced(function*(orders: Orders) {
  const semaphore = yield* Semaphore.make(orders.concurrency)
  const turn = semaphore.withPermits(1)
  const work = Effect.fnUntraced(function*([program, store]: readonly [string, string]) {
    const one = yield* turn(desk(orders, program, store))
    const pauses = Array.from({ length: orders.pauses }, (_, n) => turn(pauseRun(orders, one, n)))
    const kills = Effect.gen(function*() {
      let n = 0
      let harmless = 0
      // A life may be done before its end comes, so that fewer were killed than were to be.
      while (killsOf(one.tally) < orders.kills) {
        const round: Array<Effect.Effect<void, unknown>> = []
        let wanted = orders.kills - killsOf(one.tally)
        while (wanted > 0) {
          const lives = (yield* plan.lives(one.seed, n, one.unharmed)).slice(0, wanted)
          round.push(turn(killRun(orders, one, n, lives)))
          wanted -= lives.length
          n++
        }
        const before = killsOf(one.tally)
        yield* Effect.all(round, { concurrency: "unbounded", discard: true })
        harmless = killsOf(one.tally) > before ? 0 : harmless + 1
        if (harmless > 0 && one.findings.length > 0) break
        if (harmless === maxHarmless) return yield* Effect.die(`nobody could be killed of ${program} over ${store}`)
      }
    })
    const givenUp = orders.givenUp ? [turn(giveUpRun(orders, one))] : []
    yield* Effect.all([...givenUp, ...pauses, kills], { concurrency: "unbounded", discard: true })
    return one
  })
  const all = orders.programs.flatMap((program) => orders.stores.map((store) => [program, store] as const))
  const desks = yield* Effect.forEach(all, work, { concurrency: "unbounded" })
  return { tallies: desks.map(({ tally }) => tally), findings: desks.flatMap(({ findings }) => findings) }
})

/** Does once more what a finding is of. */
export const again = Effect.fnUntraced(function*(orders: Orders, program: string, store: string, run: string) {
  const one = yield* desk(orders, program, store)
  if (run === "u") yield* giveUpRun(orders, one)
  else if (run.startsWith("p")) yield* pauseRun(orders, one, Number(run.slice(1)))
  else yield* killRun(orders, one, Number(run), yield* plan.lives(one.seed, Number(run), one.unharmed))
  return { tallies: [one.tally], findings: one.findings }
})
