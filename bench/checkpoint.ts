/**
 * What it costs to remember a step, in time and bytes, and whether that grows with the steps before it: our stores, the
 * limit of each store, and what others do on the same store.
 */
import { Effect } from "effect"
import * as os from "node:os"
import * as dbos from "./peers/dbos.ts"
import * as effectWorkflow from "./peers/effectWorkflow.ts"
import * as langgraph from "./peers/langgraph.ts"
import * as bare from "./support/bare.ts"
import { diskOfTemporaryFolder } from "./support/files.ts"
import { type Implementation, LeftOut, makeTask, messageLength, prove, type Subject } from "./support/journal.ts"
import { inTurn, median, medianRatio } from "./support/measure.ts"
import { collect } from "./support/memory.ts"
import { serverDurability } from "./support/postgres.ts"
import type { Bench, Measurement } from "./support/report.ts"
import * as stores from "./support/stores.ts"

const implementations: ReadonlyArray<Implementation> = [
  ...stores.implementations,
  ...bare.implementations,
  ...langgraph.implementations,
  ...dbos.implementations,
  ...effectWorkflow.implementations
]

interface Rounds {
  readonly rounds: number
  /** The rounds of those whose steps cost more and more. */
  readonly growingRounds: number
}

interface Size {
  readonly steps: number
  /** So many steps compile the code, and fill the first pages of a table, before anything is measured. */
  readonly warmUp: number
  readonly journal: Rounds
  readonly resume?: Rounds
}

const sizes: ReadonlyArray<Size> = [
  { steps: 10, warmUp: 100, journal: { rounds: 50, growingRounds: 20 } },
  { steps: 100, warmUp: 100, journal: { rounds: 15, growingRounds: 3 } },
  { steps: 1_000, warmUp: 100, journal: { rounds: 5, growingRounds: 1 }, resume: { rounds: 3, growingRounds: 1 } }
]

const once: Rounds = { rounds: 1, growingRounds: 1 }
const quickSizes: ReadonlyArray<Size> = [
  { steps: 10, warmUp: 0, journal: once },
  { steps: 20, warmUp: 0, journal: once, resume: once }
]

/** For each implementation its values, one for each round in which it took part. */
type Values = Map<string, Array<number>>

type Subjects = ReadonlyArray<readonly [Implementation, Subject]>

/** Opens all that this machine can measure, each on an empty storage of its own. */
const open = Effect.fnUntraced(function*(leftOut: Map<string, LeftOut>) {
  const subjects: Array<readonly [Implementation, Subject]> = []
  for (const implementation of implementations) {
    if (leftOut.has(implementation.name)) continue
    yield* Effect.matchEffect(implementation.open, {
      onSuccess: (subject) => Effect.sync(() => subjects.push([implementation, subject])),
      onFailure: (error) =>
        error instanceof LeftOut
          ? Effect.sync(() => {
            leftOut.set(implementation.name, error)
            process.stderr.write(`LEFT OUT: ${implementation.name}: ${error.message}\n`)
          })
          : Effect.fail(error)
    })
  }
  return subjects
})

/** Milliseconds. What somebody else left behind is collected before. */
const timed = <A, E>(effect: Effect.Effect<A, E>) =>
  Effect.suspend(() => {
    collect()
    const started = performance.now()
    return Effect.map(effect, (value) => [value, performance.now() - started] as const)
  })

const journal = Effect.fnUntraced(function*(subject: Subject, id: string, steps: number) {
  const task = makeTask(steps)
  const [messages, millis] = yield* timed(subject.run(id, task))
  yield* prove(task, messages, steps)
  return millis
})

const resume = Effect.fnUntraced(function*(subject: Subject, id: string, steps: number) {
  const task = makeTask(steps)
  const resumed = yield* subject.cut(id, task)
  const [messages, millis] = yield* timed(resumed)
  // No step was carried out again.
  yield* prove(task, messages, steps)
  return millis
})

/** Lets all take their turn in every round, and gives the milliseconds of each. */
const inRounds = Effect.fnUntraced(function*(
  subjects: Subjects,
  { growingRounds, rounds }: Rounds,
  one: (subject: Subject, round: number) => Effect.Effect<number, unknown>
) {
  const times: Values = new Map()
  for (let round = 0; round < rounds; round++) {
    for (const [{ growing, name }, subject] of inTurn(subjects, round)) {
      if (growing === true && round >= growingRounds) continue
      times.set(name, [...times.get(name) ?? [], yield* one(subject, round)])
    }
  }
  return times
})

/** How many times faster one is than another: the median of the rounds in which both took part. */
const speedup = (times: Values, name: string, rival: string): number | undefined => {
  const theirs = times.get(rival) ?? []
  const own = times.get(name)?.slice(0, theirs.length) ?? []
  return own.length === 0 ? undefined : medianRatio(theirs.slice(0, own.length), own)
}

/** Whom our stores are compared with, on the same store; one column each. */
const rivals: ReadonlyArray<readonly [unit: string, rival: Readonly<Record<string, string>>]> = [
  ["x bare", { sqlite: "bare-sqlite", postgres: "bare-postgres" }],
  ["x LangGraph", { sqlite: "langgraph-sqlite", postgres: "langgraph-postgres" }],
  ["x DBOS", { postgres: "dbos-postgres" }],
  ["x Workflow", { memory: "effect-workflow" }]
]

const bytesOf = Effect.fnUntraced(function*(subjects: Subjects) {
  const found = new Map<string, number>()
  for (const [{ name }, { bytes }] of subjects) if (bytes !== undefined) found.set(name, yield* bytes)
  return found
})

type Columns = Readonly<Record<string, number | undefined>>

/** What one implementation did in one case. */
const measurements = (name: string, impl: string, columns: Columns, n: number): ReadonlyArray<Measurement> =>
  Object.entries(columns).flatMap(([unit, value]) =>
    value === undefined || !Number.isFinite(value) ? [] : [{ bench: "checkpoint", case: name, impl, unit, value, n }]
  )

const speeds = (times: Values, name: string, steps: number): Columns => ({
  "steps/s": steps * 1_000 / median(times.get(name) ?? []),
  ...Object.fromEntries(rivals.map(([unit, rival]) => [unit, speedup(times, name, rival[name] ?? "")]))
})

const measure = Effect.fnUntraced(function*(size: Size, leftOut: Map<string, LeftOut>, shortest: Map<string, number>) {
  const { steps, warmUp } = size
  process.stderr.write(`  runs of ${steps.toLocaleString("en")} steps ...\n`)
  const subjects = yield* open(leftOut)
  const names = subjects.map(([{ name }]) => name)
  const warmUps = { rounds: Math.ceil(warmUp / steps), growingRounds: 1 }
  yield* inRounds(subjects, warmUps, (subject, round) => journal(subject, `warm-up-${round}`, Math.min(steps, warmUp)))

  const before = yield* bytesOf(subjects)
  const journals = yield* inRounds(
    subjects,
    size.journal,
    (subject, round) => journal(subject, `journal-${round}`, steps)
  )
  const after = yield* bytesOf(subjects)

  const sizes = (name: string): Columns => {
    const [start, end] = [before.get(name), after.get(name)]
    if (start === undefined || end === undefined) return {}
    const bytes = (end - start) / (steps * (journals.get(name)?.length ?? 0))
    const atFirst = shortest.get(name)
    if (atFirst === undefined) shortest.set(name, bytes)
    return {
      "bytes/step": bytes,
      "x data": bytes / messageLength,
      "x at 10": atFirst === undefined ? undefined : bytes / atFirst
    }
  }
  const found = names.flatMap((name) =>
    measurements(
      `journal/${steps}`,
      name,
      { ...speeds(journals, name, steps), ...sizes(name) },
      journals.get(name)?.length ?? 0
    )
  )
  if (size.resume === undefined) return found

  const resumes = yield* inRounds(subjects, size.resume, (subject, round) => resume(subject, `resume-${round}`, steps))
  return [
    ...found,
    ...names.flatMap((name) => {
      const ofJournal = median(resumes.get(name) ?? []) / median(journals.get(name) ?? [])
      const columns = { ...speeds(resumes, name, steps), "of journal": ofJournal }
      return measurements(`resume/${steps}`, name, columns, resumes.get(name)?.length ?? 0)
    })
  ]
})

export const bench: Bench = Effect.fnUntraced(function*({ quick }) {
  const leftOut = new Map<string, LeftOut>()
  const shortest = new Map<string, number>()
  const found: Array<Measurement> = []
  for (const size of quick ? quickSizes : sizes) {
    found.push(...yield* Effect.scoped(measure(size, leftOut, shortest)))
  }
  return {
    title: "checkpoint: runs of steps that each add a message to a list",
    measurements: found,
    units: ["steps/s", ...rivals.map(([unit]) => unit), "of journal", "bytes/step", "x data", "x at 10"],
    notes: [
      `A step adds one message of ${messageLength} characters. steps/s is a whole run, from its start to its end: with ` +
      "us also the lease and the records of its start and its end. It is the median of the rounds (n in the JSON " +
      "lines), in which all take turns; whose steps cost more and more takes part in fewer.",
      "x bare, x LangGraph, x DBOS, x Workflow: how many times faster than these on the same store, in the same rounds. " +
      "bare is the store's limit: a prepared INSERT of the same message, committed by itself.",
      "resume: the run had stopped after its last step; all messages come back and no step is carried out again. " +
      "Of journal is its time over that of the first run. bare reads its rows, LangGraph its last checkpoint; DBOS is " +
      "timed from where its queue, which it looks at every second, has started the run again.",
      "bytes/step is what the database grew by, with its indexes and no log; x data is that over the message's " +
      `${messageLength} bytes, x at 10 over that of runs of 10 steps.`,
      `All SQLite: WAL, synchronous = FULL, in ${os.tmpdir()}, ${diskOfTemporaryFolder()}; set TMPDIR to measure ` +
      "another disk.",
      "file: every record is synced to the same disk. redis: a server of its own that syncs every write there " +
      "(appendonly = yes, appendfsync = always), over loopback; its bytes are the memory that its keys take.",
      ...yield* Effect.match(serverDurability, {
        onSuccess: (settings) => [`All PostgreSQL: ${settings}.`],
        onFailure: () => []
      }),
      ...Array.from(leftOut, ([name, error]) => `LEFT OUT: ${name}: ${error.message}.`)
    ]
  }
})
