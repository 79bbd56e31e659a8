/** What must hold of a run that was killed, told from what could be seen of it from outside. */
import type { Event } from "./Event.ts"
import type { Deed } from "./World.ts"

/**
 * What was to become of a life: killed or paused at a boundary that it knows itself, killed from outside a moment
 * after a line, refused with an error, or left alone.
 */
export type Fate =
  | { readonly _tag: "KilledAt"; readonly boundary: string }
  | { readonly _tag: "KilledAfter"; readonly lines: number; readonly micros: number }
  | { readonly _tag: "PausedAt"; readonly boundary: string }
  | { readonly _tag: "Refused"; readonly tag: string }
  | { readonly _tag: "Spared" }

export interface JournalLine {
  readonly step: string
  readonly kind: string
  /** Whether it holds what the step gives from now on. */
  readonly settles: boolean
  readonly digest: string
}

/** What a process that holds no lease reads of a run. */
export type Reading =
  | { readonly _tag: "Absent" }
  | { readonly _tag: "Unreadable"; readonly error: string }
  | {
    readonly _tag: "Journal"
    readonly status: string
    readonly leased: boolean
    readonly lines: ReadonlyArray<JournalLine>
  }

/** One process that worked on a run, and what was there when it had ended. */
export interface Life {
  readonly life: number
  readonly fate: Fate
  readonly events: ReadonlyArray<Event>
  readonly ended: { readonly code: number | null; readonly signal: string | null; readonly errors: string }
  /** What was read while it worked. */
  readonly glances: ReadonlyArray<Reading>
  readonly journal: Reading
  readonly deeds: ReadonlyArray<Deed>
}

/** What a run that nobody kills does and gives. */
export interface Unharmed {
  readonly result: string
  readonly deeds: ReadonlyArray<Deed>
  readonly events: ReadonlyArray<Event>
}

/** A run from its first life to its last one, and once more after that. */
export interface Story {
  readonly lives: ReadonlyArray<Life>
  /** The finished program run again by yet another process: what it gave, and how much it did. */
  readonly again:
    | { readonly result: string; readonly deeds: number; readonly unanswered: number }
    | undefined
  readonly unharmed: Unharmed
  /** Whether the store knows at once that an owner on this machine was killed. */
  readonly knowsTheDead: boolean
}

export type Rule =
  | "duplicated" // what must not happen twice did
  | "lost" // what was acknowledged is not in the journal
  | "repeated" // what the journal had, or the program, was executed again
  | "changed" // a step gave something else than before
  | "rewritten" // the journal is not what it was and something more
  | "unintended" // what must not happen twice happened before its intent was written
  | "unreadable" // the journal could not be read
  | "keys" // an idempotency key changed, or is shared
  | "listed" // a run that was given up is not listed as such
  | "waited" // a run whose owner is known to be dead was not taken over at once
  | "ended" // a life ended by itself before the program did
  | "deeds" // something was never done, or something else was
  | "order" // what must not happen twice happened in another order
  | "result" // the run gave something else than an unharmed one
  | "status" // the finished run is not completed
  | "leased" // the finished run is still held
  | "restless" // the finished run did something when it was run again
  | "unpaired" // a model was sent a call without its result, or a result without its call
  | "retold" // a model was sent something else than the model of an unharmed run
  | "unanswered" // the finished run still asks people
  | "unfenced" // a holder that was paused past its lease wrote, or did not say why it could not
export interface Violation {
  readonly rule: Rule
  readonly detail: string
}

const stepsOf = (deeds: ReadonlyArray<Deed>) => Map.groupBy(deeds, (deed) => deed.step)

const settled = (reading: Reading): ReadonlySet<string> =>
  new Set(reading._tag === "Journal" ? reading.lines.filter((line) => line.settles).map((line) => line.step) : [])

const isContinuation = (before: Reading, after: Reading): boolean => {
  if (before._tag !== "Journal") return true
  return after._tag === "Journal" && before.lines.every((line, index) => line.digest === after.lines[index]?.digest)
}

export const howItEnded = ({ ended, events }: Life): string => {
  const said = events.findLast((event) => event._tag === "Failed")
  const why = said === undefined ? ended.errors.slice(0, 2_000) : `${said.tag} ${said.reason}: ${said.message}`
  return `ended with ${ended.signal ?? `code ${ended.code}`}${why === "" ? "" : `, ${why}`}`
}

export const isDone = (life: Life): boolean => life.events.some((event) => event._tag === "Done")

export const isKilled = ({ ended, events, fate }: Life): boolean =>
  (fate._tag === "KilledAt" || fate._tag === "KilledAfter") && ended.signal === "SIGKILL" &&
  !events.some((event) => event._tag === "Failed")

const isAsItWasToBe = (life: Life): boolean => {
  switch (life.fate._tag) {
    case "PausedAt":
      return true
    case "Refused": {
      const last = life.events.at(-1)
      return last?._tag === "Failed" && last.tag === life.fate.tag
    }
    default:
      return isKilled(life) || (isDone(life) && life.ended.code === 0)
  }
}

const ofLives = function*({ knowsTheDead, lives }: Pick<Story, "lives" | "knowsTheDead">): Generator<Violation> {
  const given = new Map<string, string>()
  const kept = new Map<string, number>()
  let before: Reading = { _tag: "Absent" }
  for (const life of lives) {
    const { deeds, events, glances, journal } = life
    const where = `in life ${life.life}`
    if (!isAsItWasToBe(life)) yield { rule: "ended", detail: `${where}: ${howItEnded(life)}` }
    for (const reading of [...glances, journal]) {
      if (reading._tag === "Unreadable") yield { rule: "unreadable", detail: `${where}: ${reading.error}` }
      else if (!isContinuation(before, reading)) {
        yield { rule: "rewritten", detail: `${where}: what the journal had before is gone or not the same` }
      }
      before = reading
    }
    const now = settled(journal)
    for (const event of events) {
      if (event._tag === "Waiting" && knowsTheDead) {
        yield { rule: "waited", detail: `${where}: for ${event.holder}, which is dead` }
      }
      if (event._tag !== "Given") continue
      if (!now.has(event.step)) {
        yield { rule: "lost", detail: `${where}: step "${event.step}" gave its ${event.as}, which the journal lacks` }
      }
      const what = `${event.as} ${event.digest}`
      const first = given.get(event.step)
      if (first !== undefined && first !== what) {
        yield { rule: "changed", detail: `${where}: step "${event.step}" gave ${what}, and before ${first}` }
      }
      given.set(event.step, first ?? what)
    }
    for (const deed of deeds) {
      const since = kept.get(deed.step)
      if (deed.life === life.life && since !== undefined) {
        yield { rule: "repeated", detail: `${where}: step "${deed.step}", whose result is there since life ${since}` }
      }
      if (deed.effects === "idempotent" || deed.life !== life.life || journal._tag === "Unreadable") continue
      const intended = journal._tag === "Journal" && journal.lines.some((line) => line.step === deed.step)
      if (!intended) yield { rule: "unintended", detail: `${where}: the journal knows nothing of "${deed.step}"` }
    }
    for (const step of [...now, ...given.keys()]) kept.set(step, kept.get(step) ?? life.life)
  }
}

/** What a model is sent by any life is what the one of an unharmed run is sent. */
const ofTheModel = function*({ lives, unharmed }: Story): Generator<Violation> {
  const sent = new Map<string, string>()
  for (const event of unharmed.events) if (event._tag === "Asked") sent.set(event.step, event.prompt)
  for (const { events, life } of lives) {
    for (const event of events) {
      if (event._tag !== "Asked") continue
      const where = `in life ${life}, step "${event.step}"`
      if (event.unpaired.length > 0) yield { rule: "unpaired", detail: `${where}: ${event.unpaired.join(", ")}` }
      if (sent.get(event.step) !== event.prompt) yield { rule: "retold", detail: where }
    }
  }
}

const ofDeeds = function*(deeds: ReadonlyArray<Deed>): Generator<Violation> {
  const owners = new Map<string, string>()
  for (const [step, done] of stepsOf(deeds)) {
    const lives = done.map((deed) => deed.life).join(", ")
    if (done.length > 1 && done[0]?.effects === "atMostOnce") {
      yield { rule: "duplicated", detail: `step "${step}" happened ${done.length} times, in lives ${lives}` }
    }
    for (const { key } of done) {
      const owner = owners.get(key) ?? step
      owners.set(key, owner)
      if (owner !== step) yield { rule: "keys", detail: `steps "${owner}" and "${step}" share the key ${key}` }
    }
    if (new Set(done.map((deed) => deed.key)).size > 1) {
      yield { rule: "keys", detail: `step "${step}" had another key in each of lives ${lives}` }
    }
    if (new Set(done.map((deed) => deed.result)).size > 1) {
      yield { rule: "changed", detail: `step "${step}" did something else in each of lives ${lives}` }
    }
  }
}

/** Calls of one turn of an agent have no order among themselves. */
const placeOf = (step: string): string => step.replace(/\/(tools|approvals)\[\d+\].*$/, "")

const ofTheEnd = function*({ again, lives, unharmed }: Story): Generator<Violation> {
  const last = lives.at(-1)
  const result = last?.events.find((event) => event._tag === "Done")?.result
  if (last === undefined || result === undefined) return yield { rule: "ended", detail: "the run was never finished" }
  if (result !== unharmed.result) {
    yield { rule: "result", detail: `${result} instead of ${unharmed.result}` }
  }
  const done = stepsOf(last.deeds)
  const expected = stepsOf(unharmed.deeds)
  for (const step of new Set([...done.keys(), ...expected.keys()])) {
    if (!done.has(step)) yield { rule: "deeds", detail: `step "${step}" never happened` }
    if (!expected.has(step)) yield { rule: "deeds", detail: `step "${step}" happened, and is none of the program` }
  }
  const order = (deeds: ReadonlyArray<Deed>) =>
    [...new Set(deeds.flatMap(({ effects, step }) => effects === "atMostOnce" ? [placeOf(step)] : []))].join(", ")
  if (order(last.deeds) !== order(unharmed.deeds)) {
    yield { rule: "order", detail: `${order(last.deeds)} instead of ${order(unharmed.deeds)}` }
  }
  if (last.journal._tag !== "Journal") return yield { rule: "status", detail: "the finished run is not there" }
  if (last.journal.status !== "completed") yield { rule: "status", detail: `it is ${last.journal.status}` }
  if (last.journal.leased) yield { rule: "leased", detail: "the finished run still has a lease" }
  if (again === undefined) return yield { rule: "restless", detail: "the finished run could not be run again" }
  if (again.result !== result) yield { rule: "restless", detail: `run again, it gave ${again.result}` }
  if (again.deeds > 0) yield { rule: "restless", detail: `run again, it did ${again.deeds} things more` }
  if (again.unanswered > 0) yield { rule: "unanswered", detail: `${again.unanswered} questions of a run that is done` }
}

/** Everything that is wrong with a run that was killed and resumed until it was done. */
export const ofStory = (story: Story): ReadonlyArray<Violation> => [
  ...ofLives(story),
  ...ofTheModel(story),
  ...ofDeeds(story.lives.at(-1)?.deeds ?? []),
  ...ofTheEnd(story)
]

/** Whether a life that ends here has asked the store for something that it has not been answered. */
export const isAsking = ({ events }: Pick<Life, "events">): boolean => {
  const count = (word: string) =>
    events.filter((event) => event._tag === "Passing" && event.kind === "store" && event.where.startsWith(word)).length
  return count("before ") > count("after ")
}

/** A holder that was paused, continued after another process had finished the run. */
export interface Continued {
  /** What it said and how it ended, from then on. */
  readonly life: Pick<Life, "life" | "ended" | "events">
  /** Whether it was waiting for an answer of the store when it was paused. */
  readonly asking: boolean
  readonly before: Pick<Life, "journal" | "deeds">
  readonly after: Pick<Life, "journal" | "deeds">
}

/**
 * Everything that is wrong with what a holder did after its lease had lapsed. The one thing that it may do once more is
 * the idempotent effect that it was paused in the middle of.
 */
export const ofContinued = ({ after, asking, before, life }: Continued): ReadonlyArray<Violation> => {
  const found: Array<Violation> = []
  const add = (detail: string) => found.push({ rule: "unfenced", detail })
  const last = life.events.at(-1)
  // An answer that was asked for before may be too late by now, whatever it would have been.
  const reasons = asking ? ["Fenced", "Unavailable"] : ["Fenced"]
  if (last?._tag !== "Failed" || last.tag !== "CheckpointStoreError" || !reasons.includes(last.reason)) {
    const how = last?._tag === "Failed" ? `${last.tag} ${last.reason}: ${last.message}` : last?._tag ?? "nothing"
    add(`it was to end with CheckpointStoreError Fenced, and ended with ${how} ${life.ended.errors.slice(0, 2_000)}`)
  }
  if (!isContinuation(before.journal, after.journal) || !isContinuation(after.journal, before.journal)) {
    add("the journal has changed")
  }
  const of = (deeds: ReadonlyArray<Deed>) => deeds.filter((deed) => deed.life === life.life)
  const had = stepsOf(of(before.deeds))
  const more = of(after.deeds).filter((deed) => !had.has(deed.step))
  if (of(after.deeds).length > of(before.deeds).length + 1 || more.some((deed) => deed.effects === "atMostOnce")) {
    add(`it did ${more.map((deed) => `"${deed.step}"`).join(", ")}`)
  }
  return found
}
