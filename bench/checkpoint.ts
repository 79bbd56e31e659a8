/**
 * What it costs to remember a step, in time and bytes, and whether that grows with the steps before it.
 */
import { Effect, Layer, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { layer as sqliteLayer } from "effect-resilience/durable/stores/NodeSqlite"
import { layer as storeLayer } from "effect-resilience/durable/stores/SqlCheckpointStore"
import { SqlClient } from "effect/sql"
import * as fs from "node:fs/promises"
import * as os from "node:os"
import * as path from "node:path"
import { inTurn, median, medianRatio } from "./support/measure.ts"
import type { Bench, Measurement } from "./support/report.ts"

const Finding = Schema.Struct({ source: Schema.String, text: Schema.String, score: Schema.Finite })

const finding: typeof Finding.Type = {
  source: "https://example.org/tides",
  text: "The moon's pull raises two bulges of water on opposite sides of the earth. ".repeat(3),
  score: 0.87
}

/** Milliseconds, one for each step or row, in order. */
type Times = Float64Array

const timed = <A, E, R>(times: Times, index: number, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.suspend(() => {
    const started = performance.now()
    return Effect.tap(effect, () =>
      Effect.sync(() => {
        times[index] = performance.now() - started
      }))
  })

const inOrder = Effect.fnUntraced(function*<E, R>(
  n: number,
  one: (index: number) => Effect.Effect<unknown, E, R>
) {
  const times = new Float64Array(n)
  for (let index = 0; index < n; index++) yield* timed(times, index, one(index))
  return times
})

const step = Checkpoint.step("research", { success: Finding }, Effect.sync(() => finding))

const steps = (id: string, n: number) => Checkpoint.run(inOrder(n, () => step), { id })

const ofSteps = (id: string) =>
  CheckpointStore.CheckpointStore.use((store) =>
    Effect.map(store.read(id), (entries) => entries.filter((entry) => entry.step !== ""))
  )

const bytesOf = ({ body, step }: CheckpointStore.Entry): number => Buffer.byteLength(step) + Buffer.byteLength(body)

const createFloor = SqlClient.SqlClient.use((sql) =>
  Effect.andThen(
    sql`CREATE TABLE floor_rows (
      run_id TEXT NOT NULL, position INTEGER NOT NULL, token BIGINT NOT NULL, step TEXT NOT NULL, body TEXT NOT NULL,
      PRIMARY KEY (run_id, position)
    ) WITHOUT ROWID`,
    sql`CREATE TABLE floor_runs (run_id TEXT NOT NULL PRIMARY KEY, entries INTEGER NOT NULL) WITHOUT ROWID`
  )
)

type Entries = ReadonlyArray<CheckpointStore.Entry>

const insert = (sql: SqlClient.SqlClient, id: string, entry: CheckpointStore.Entry) =>
  sql`INSERT INTO floor_rows (run_id, position, token, step, body)
    VALUES (${id}, ${entry.position}, ${1}, ${entry.step}, ${entry.body})`

const inserts = (id: string, entries: Entries) =>
  SqlClient.SqlClient.use((sql) =>
    inOrder(entries.length, (index) => {
      const entry = entries[index]
      return entry === undefined ? Effect.void : insert(sql, id, entry)
    })
  )

// The least that keeps a second process from writing the same journal: a row of the run that moves with every record.
const transactions = (id: string, entries: Entries) =>
  SqlClient.SqlClient.use((sql) =>
    Effect.andThen(
      sql`INSERT INTO floor_runs (run_id, entries) VALUES (${id}, 0)`,
      inOrder(entries.length, (index) => {
        const entry = entries[index]
        return entry === undefined ? Effect.void : sql.withTransaction(Effect.andThen(
          sql`UPDATE floor_runs SET entries = entries + 1 WHERE run_id = ${id} AND entries = ${index}`,
          insert(sql, id, entry)
        ))
      })
    )
  )

const sqlite = (filename: string) => Layer.provideMerge(storeLayer, sqliteLayer({ filename }))

const temporaryFolder = Effect.acquireRelease(
  Effect.promise(() => fs.mkdtemp(path.join(os.tmpdir(), "effect-resilience-bench-"))),
  (folder) => Effect.promise(() => fs.rm(folder, { recursive: true, force: true }))
)

const sizeOf = (filename: string) => Effect.promise(async () => (await fs.stat(filename)).size)

/** What one run of `n` steps adds to a file of its own: to the database when all is moved there, and to its log. */
const fileBytes = Effect.fnUntraced(function*<E>(
  filename: string,
  work: Effect.Effect<unknown, E, SqlClient.SqlClient | CheckpointStore.CheckpointStore>
) {
  return yield* Effect.gen(function*() {
    const sql = yield* SqlClient.SqlClient
    yield* createFloor
    // The log is emptied before, and then left to grow.
    yield* sql`PRAGMA wal_autocheckpoint = 0`
    yield* sql`PRAGMA wal_checkpoint(TRUNCATE)`
    const before = yield* sizeOf(filename)
    yield* work
    const log = yield* sizeOf(`${filename}-wal`)
    yield* sql`PRAGMA wal_checkpoint(TRUNCATE)`
    return { log, file: (yield* sizeOf(filename)) - before }
  }).pipe(Effect.provide(sqlite(filename)))
})

const sum = (times: Times): number => times.reduce((total, time) => total + time, 0)

const growth = (times: Times): number => median(times.slice(-10)) / median(times.slice(0, 10))

const memoryName = "checkpoint, memory"
const sqliteName = "checkpoint, SQLite"
const insertName = "SQLite: INSERT"
const transactionName = "SQLite: UPDATE + INSERT"

interface Size {
  readonly n: number
  readonly rounds: number
  readonly sync: boolean
}

const measure = Effect.fnUntraced(function*(folder: string, { n, rounds, sync }: Size) {
  const name = `${n.toLocaleString("en")} steps${sync ? "" : ", no sync"}`
  const times = new Map<string, Array<Times>>()
  const replays = new Map<string, Array<Times>>()
  const noted = (kept: Map<string, Array<Times>>, impl: string) => (found: Times) =>
    Effect.sync(() => {
      kept.set(impl, [...kept.get(impl) ?? [], found])
    })

  const memory = yield* Layer.build(Layer.fresh(CheckpointStore.layerMemory))
  const database = yield* Layer.build(sqlite(path.join(folder, `time-${n}-${sync}.db`)))
  yield* Effect.provideContext(createFloor, database)
  if (!sync) {
    yield* Effect.provideContext(SqlClient.SqlClient.use((sql) => sql`PRAGMA synchronous = OFF`), database)
  }

  // The rows of the floor are those of a run.
  const entries = yield* Effect.provideContext(Effect.andThen(steps("rows", n), ofSteps("rows")), memory)

  const tasks: ReadonlyArray<readonly [string, (id: string) => Effect.Effect<Times, unknown>]> = [
    [memoryName, (id) => Effect.provideContext(steps(id, n), memory)],
    [sqliteName, (id) => Effect.provideContext(steps(id, n), database)],
    [insertName, (id) => Effect.provideContext(inserts(`insert-${id}`, entries), database)],
    [transactionName, (id) => Effect.provideContext(transactions(`transaction-${id}`, entries), database)]
  ]

  for (const [, task] of tasks) yield* task("warm-up")
  for (let round = 0; round < rounds; round++) {
    for (const [impl, task] of inTurn(tasks, round)) {
      const id = `run-${round}`
      yield* Effect.flatMap(task(id), noted(times, impl))
      if (impl !== memoryName && impl !== sqliteName) continue
      const whole = new Float64Array(1)
      // The run has ended: all its steps are given back from the journal, which is read once.
      yield* timed(whole, 0, task(id))
      yield* noted(replays, impl)(whole)
    }
  }

  // What is written does not depend on whether it is synced.
  const files = new Map(
    !sync ? [] : [
      [sqliteName, yield* fileBytes(path.join(folder, `checkpoint-${n}.db`), steps("bytes", n))],
      [insertName, yield* fileBytes(path.join(folder, `insert-${n}.db`), inserts("bytes", entries))],
      [transactionName, yield* fileBytes(path.join(folder, `transaction-${n}.db`), transactions("bytes", entries))]
    ]
  )

  const journal = entries.reduce((total, entry) => total + bytesOf(entry), 0) / n
  const perStep = (impl: string) => (times.get(impl) ?? []).map((found) => sum(found) * 1_000 / n)

  return tasks.flatMap(([impl]) => {
    const of = (unit: string, value: number | undefined, n = rounds): ReadonlyArray<Measurement> =>
      value === undefined ? [] : [{ bench: "checkpoint", case: name, impl, unit, value, n }]
    const micros = perStep(impl)
    const replayed = replays.get(impl)
    const file = files.get(impl)
    const aboveFloor = impl === sqliteName || impl === transactionName
    return [
      of("us/step", median(micros)),
      of("last 10 / first 10", n < 20 ? undefined : median((times.get(impl) ?? []).map(growth))),
      of("x INSERT", aboveFloor ? medianRatio(micros, perStep(insertName)) : undefined),
      of("us/step replayed", replayed && median(replayed.map(sum)) * 1_000 / n),
      of("journal bytes/step", journal, 1),
      of("log bytes/step", file && file.log / n, 1),
      // A database grows by pages, of which a few steps fill none.
      of("file bytes/step", n < 100 ? undefined : file && file.file / n, 1)
    ].flat()
  })
})

const sizes: ReadonlyArray<Size> = [
  { n: 10, rounds: 40, sync: true },
  { n: 100, rounds: 20, sync: true },
  { n: 1_000, rounds: 9, sync: true },
  { n: 1_000, rounds: 9, sync: false }
]

const quickSizes: ReadonlyArray<Size> = [
  { n: 10, rounds: 1, sync: true },
  { n: 20, rounds: 1, sync: false }
]

export const bench: Bench = Effect.fnUntraced(function*({ quick }) {
  const folder = yield* temporaryFolder
  const measurements: Array<Measurement> = []
  for (const size of quick ? quickSizes : sizes) measurements.push(...yield* measure(folder, size))
  return {
    title: "checkpoint: steps of one run, one after the other",
    measurements,
    notes: [
      "Each time is the median of the rounds (n in the JSON lines). A round runs all rows of a case in turn, and the " +
      "ratios are taken within it.",
      `A step gives ${JSON.stringify(finding).length} bytes of JSON. SQLite syncs its log to the disk of ` +
      `${os.tmpdir()} at every commit (WAL, synchronous = FULL); set TMPDIR to measure another disk.`,
      "SQLite: INSERT is the floor: rows of the same content through the same SqlClient, one commit each. UPDATE + " +
      "INSERT also moves a row of the run in the same commit, as fencing another process off does.",
      "no sync is the same with synchronous = OFF: what the processor does, without the disk. Nobody should run it so.",
      "last 10 / first 10 is the ratio of their median costs in one run: 1 is flat.",
      "us/step replayed is a whole run again, with all its steps in the journal, over their number.",
      "Journal bytes are the step's id and its JSON; log bytes are whole pages written to SQLite's log; file bytes are " +
      "what the database grew by, in pages, in a file of its own."
    ]
  }
})
