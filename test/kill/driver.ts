/** Lets real processes work a run, kills them, and looks at what they leave. */
import { Cause, type Context, Duration, Effect, Layer, Option, Queue, References } from "effect"
import { Checkpoint } from "effect-resilience"
import { randomUUID } from "node:crypto"
import * as path from "node:path"
import * as Process from "../support/process.ts"
import {
  type Fate,
  howItEnded,
  isAsking,
  isKilled,
  type JournalLine,
  type Life,
  ofContinued,
  ofStory,
  type Reading,
  type Story,
  type Unharmed,
  type Violation
} from "./checks.ts"
import { decode, type Event } from "./Event.ts"
import type { Fault } from "./faults.ts"
import * as Points from "./Points.ts"
import * as PostgresLog from "./PostgresLog.ts"
import { digest } from "./program.ts"
import { type Program, programs } from "./programs.ts"
import { type Everything, folder, type Store, stores } from "./stores.ts"
import * as World from "./World.ts"

const worker = path.join(import.meta.dirname, "worker.ts")

/** Where one run is worked: what its processes are told, and this process's own view of the same. */
interface Site {
  readonly program: Program
  readonly store: Store
  readonly args: ReadonlyArray<string>
  readonly runId: string
  readonly file: World.Log
  readonly table: World.Log
  readonly context: Effect.Effect<Context.Context<Everything>, unknown>
  readonly deeds: Effect.Effect<ReadonlyArray<World.Deed>>
}

// A store that knows that an owner is dead waits for none; one that does not should wait for the shortest that there is.
const longLease = 60_000
const shortLease = 1_000

interface Bounds {
  readonly lease?: number
  readonly maxCrashes?: number
}

const flag = (name: string, value: string | number | undefined): ReadonlyArray<string> =>
  value === undefined ? [] : [`--${name}`, String(value)]

export interface Options {
  /** Default: `durable`. */
  readonly program?: string | undefined
  readonly store: string
  /** The schema of the table outside; without it all deeds are in the file. */
  readonly schema?: string | undefined
  readonly fault?: Fault | undefined
}

const site = Effect.fnUntraced(function*(options: Options, { lease, maxCrashes }: Bounds = {}) {
  const store = stores[options.store]
  if (store === undefined) return yield* Effect.die(`no store is named ${options.store}`)
  const name = options.program ?? "durable"
  const program = programs[name]
  if (program === undefined) return yield* Effect.die(`no program is named ${name}`)
  const runId = randomUUID()
  const place = yield* store.place
  const log = path.join(yield* folder, "deeds")
  const file = World.file(log)
  const table = options.schema === undefined ? file : yield* PostgresLog.make(options.schema, runId)
  // Opened after the first life and not before it, so that the first life finds nothing, and may die while it opens it.
  const scope = yield* Effect.scope
  const context = yield* Effect.cached(
    Effect.flatMap(
      Effect.promise(() => program.layer(store, place, Points.none)),
      (layer) => Layer.buildWithScope(layer, scope)
    )
  )
  const one: Site = {
    program,
    store,
    runId,
    file,
    table,
    context,
    args: [
      ...flag("program", name),
      ...flag("store", options.store),
      ...flag("place", place),
      ...flag("log", log),
      ...flag("run", runId),
      ...flag("lease", lease ?? (store.knowsTheDead ? longLease : shortLease)),
      ...flag("max-crashes", maxCrashes),
      ...flag("schema", options.schema),
      ...flag("fault", options.fault)
    ],
    deeds: table === file ? file.read : Effect.zipWith(file.read, table.read, (one, two) => [...one, ...two])
  }
  return one
})

const journalLine = (record: Checkpoint.RecordSummary): JournalLine => ({
  step: record.step,
  kind: record.kind,
  settles: record.kind === "StepSucceeded" || (record.kind === "StepFailed" && record.value !== undefined),
  digest: digest(record)
})

/** Reads the run as anybody may at any moment, without a lease. */
const read = ({ context, runId }: Site): Effect.Effect<Reading> =>
  Effect.flatMap(context, (context) => Effect.provideContext(Checkpoint.inspect(runId), context)).pipe(
    Effect.map(({ lease, records, status }): Reading => ({
      _tag: "Journal",
      status,
      leased: lease !== undefined,
      lines: records.map(journalLine)
    })),
    Effect.catchCause((cause) => {
      const error = Cause.squash(cause)
      return Effect.succeed<Reading>(
        error instanceof Checkpoint.RunNotFound
          ? { _tag: "Absent" }
          : { _tag: "Unreadable", error: Cause.pretty(cause) }
      )
    })
  )

// Shorter than any timer: what a process does between two lines takes microseconds.
const spin = (micros: number) => {
  const end = performance.now() + micros / 1_000
  while (performance.now() < end);
}

const flagsOf = (life: number, fate: Fate): ReadonlyArray<string> => [
  ...flag("life", life),
  ...flag("kill-at", fate._tag === "KilledAt" ? fate.boundary : undefined),
  ...flag("pause-at", fate._tag === "PausedAt" ? fate.boundary : undefined),
  // A renewal comes with a third of the lease, for which the program has to wait.
  ...(fate._tag === "KilledAt" && fate.boundary.endsWith(" renew")
    ? [...flag("lease", shortLease), ...flag("linger", shortLease)]
    : [])
]

/** Takes what a process says until it ends, or until it has said this. */
const listen = (
  process: Process.Process,
  events: Array<Event>,
  heard: (event: Event) => Effect.Effect<void> = () => Effect.void,
  until: (event: Event) => boolean = () => false
): Effect.Effect<void> =>
  Queue.take(process.lines).pipe(
    Effect.flatMap((line) =>
      Option.match(decode(line), {
        onNone: () => Effect.die(`a worker said ${line}`),
        onSome: (event) => {
          events.push(event)
          return Effect.as(heard(event), until(event))
        }
      })
    ),
    Effect.repeat({ until: (stop) => stop }),
    Effect.catch(() => Effect.void),
    Effect.asVoid
  )

/** How long a life may take on a machine that is busy with others. */
const patience = Duration.minutes(2)

const live = (
  one: Site,
  life: number,
  fate: Fate,
  glanceAt: ReadonlyArray<number> = []
): Effect.Effect<Life> =>
  Effect.scoped(Effect.gen(function*() {
    const process = yield* Process.start(worker, [...one.args, ...flagsOf(life, fate)])
    const events: Array<Event> = []
    const glances: Array<Reading> = []
    const heard = (event: Event) =>
      Effect.gen(function*() {
        if (fate._tag === "KilledAfter" && events.length === fate.lines) {
          spin(fate.micros)
          yield* process.signal("SIGKILL")
        }
        // What is read before the store is open may be nothing at all.
        if (event._tag === "Passing" && event.kind !== "inside" && glanceAt.includes(events.length)) {
          glances.push(yield* read(one))
        }
      })
    yield* listen(process, events, heard).pipe(
      Effect.timeoutOrElse({
        duration: patience,
        orElse: () => {
          const message = `nothing came of it in ${Duration.format(patience)}`
          events.push({ _tag: "Failed", tag: "Stuck", reason: "", message })
          return process.signal("SIGKILL")
        }
      })
    )
    const ended = yield* process.ended
    return { life, fate, events, ended, glances, journal: yield* read(one), deeds: yield* one.deeds }
  }))

const runAgain = (one: Site, life: number): Effect.Effect<Story["again"]> =>
  Effect.gen(function*() {
    const before = (yield* one.deeds).length
    const context = yield* one.context
    const { input, run, unanswered } = yield* Effect.promise(one.program.load)
    const world: World.World = {
      file: one.file,
      table: one.table,
      life,
      linger: 0,
      points: Points.none,
      say: () => undefined
    }
    const result = yield* run(world).pipe(
      Checkpoint.run({ id: one.runId, input }),
      Effect.provideContext(context),
      Effect.provideService(References.MinimumLogLevel, "None")
    )
    return {
      result: JSON.stringify(result),
      deeds: (yield* one.deeds).length - before,
      unanswered: yield* Effect.provideContext(unanswered(one.runId), context)
    }
  }).pipe(Effect.catchCause((cause) => Effect.succeed({ result: Cause.pretty(cause), deeds: 0, unanswered: 0 })))

/** Lets a run be, to know what it does and gives. */
export const unharmed = (options: Options): Effect.Effect<Unharmed, unknown> =>
  Effect.scoped(Effect.gen(function*() {
    const life = yield* live(yield* site(options), 1, { _tag: "Spared" })
    const done = life.events.findLast((event) => event._tag === "Done")
    if (done === undefined) return yield* Effect.die(`a run that nobody harms fails: ${howItEnded(life)}`)
    return { result: done.result, deeds: life.deeds, events: life.events }
  }))

/** What is to become of the lives of a run, one after the other. Those that are not told of are spared. */
export interface Plan {
  readonly lives: ReadonlyArray<{ readonly fate: Fate; readonly glanceAt: ReadonlyArray<number> }>
}

export interface Told {
  readonly lives: ReadonlyArray<Life>
  readonly violations: ReadonlyArray<Violation>
}

/** Lets a run live through its fates, and on until it is done. */
export const story = (options: Options, unharmed: Unharmed, plan: Plan): Effect.Effect<Told, unknown> =>
  Effect.scoped(Effect.gen(function*() {
    const one = yield* site(options)
    const lives: Array<Life> = []
    for (const { fate, glanceAt } of [...plan.lives, { fate: { _tag: "Spared" as const }, glanceAt: [] }]) {
      const life = yield* live(one, lives.length + 1, fate, glanceAt)
      lives.push(life)
      if (!isKilled(life)) break
    }
    const again = yield* runAgain(one, lives.length + 1)
    const { knowsTheDead } = one.store
    return { lives, violations: ofStory({ lives, again, unharmed, knowsTheDead }) }
  }))

/**
 * Lets a run kill its processes until it is given up, and once more after it was revived, before it is done.
 */
export const givenUp = (options: Options, unharmed: Unharmed): Effect.Effect<Told, unknown> =>
  Effect.scoped(Effect.gen(function*() {
    const one = yield* site(options, { maxCrashes: 2 })
    const lives: Array<Life> = []
    const next = (fate: Fate) => Effect.map(live(one, lives.length + 1, fate), (life) => void lives.push(life))
    const killed: Fate = { _tag: "KilledAt", boundary: one.program.deadly }
    const given = <A, E>(effect: Effect.Effect<A, E, Everything>) =>
      Effect.flatMap(one.context, (context) => Effect.provideContext(effect, context))

    yield* next(killed)
    yield* next(killed)
    yield* next({ _tag: "Refused", tag: "RunDeadLettered" })
    const listed = yield* given(Checkpoint.list({ status: "deadLettered" }))
    yield* given(Checkpoint.revive(one.runId))
    yield* next(killed)
    yield* next({ _tag: "Spared" })
    const again = yield* runAgain(one, lives.length + 1)
    const violations = ofStory({ lives, again, unharmed, knowsTheDead: one.store.knowsTheDead })
    const isListed = listed.some(({ runId }) => runId === one.runId)
    return {
      lives,
      violations: isListed
        ? violations
        : [...violations, { rule: "listed", detail: "a run that is given up is not in the list" }]
    }
  }))

/**
 * Pauses the holder of a run until its lease has lapsed and another process has finished the run, and lets it go on
 * then.
 */
export const paused = (options: Options, unharmed: Unharmed, boundary: string): Effect.Effect<Told, unknown> =>
  Effect.scoped(Effect.gen(function*() {
    const one = yield* site(options, { lease: shortLease })
    const look = Effect.all({ journal: read(one), deeds: one.deeds })
    const fate: Fate = { _tag: "PausedAt", boundary }
    const holder = yield* Process.start(worker, [...one.args, ...flagsOf(1, fate)])
    const events: Array<Event> = []
    yield* listen(holder, events, undefined, (event) => event._tag === "Passing" && event.where === boundary)
    const asleep: Life = {
      life: 1,
      fate,
      events: events.slice(),
      ended: { code: null, signal: null, errors: "" },
      glances: [],
      ...yield* look
    }
    const successor = yield* live(one, 2, { _tag: "Spared" })
    const before = yield* look
    yield* holder.signal("SIGCONT")
    events.length = 0
    yield* listen(holder, events)
    const ended = yield* holder.ended
    const after = yield* look
    const again = yield* runAgain(one, 3)
    const lives = [asleep, successor]
    return {
      lives,
      violations: [
        // A holder that is paused is not dead, and is waited for.
        ...ofStory({ lives, again, unharmed, knowsTheDead: false }),
        ...ofContinued({ life: { life: 1, events, ended }, asking: isAsking(asleep), before, after })
      ]
    }
  }))
