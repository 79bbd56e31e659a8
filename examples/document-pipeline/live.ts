/**
 * The same over real things: PDF files in a folder, the real SDK against a stormy provider on loopback, and a real
 * database, whose table is locked by somebody else for a while. The first process kills itself in the middle.
 *
 * With `LEDGER_DATABASE_URL` the runs and the books are in that PostgreSQL, in a schema of their own that goes in the end.
 */
import { PgClient } from "@effect/sql-pg"
import {
  Clock,
  Config,
  Console,
  Context,
  Effect,
  FileSystem,
  Layer,
  Option,
  Path,
  Random,
  Redacted,
  References,
  Schema
} from "effect"
import { Policy, Telemetry } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as Postgres from "effect-resilience/durable/stores/Postgres"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { SqlClient } from "effect/sql"
import * as ChildProcess from "../support/childProcess.ts"
import * as Ledger from "./Ledger.ts"
import { answer } from "./model.ts"
import * as Pdf from "./Pdf.ts"
import * as Person from "./person.ts"
import type * as Pipeline from "./Pipeline.ts"
import * as Report from "./report.ts"
import { make24 } from "./samples.ts"

/** What is simulated answers in milliseconds and is down for seconds, so the waits are short as well. */
export const brisk: Pipeline.Patience = {
  base: "50 millis",
  cap: "1 second",
  atMost: "10 minutes",
  openFor: "300 millis"
}

export interface Place {
  readonly data: string
  readonly providerUrl: string
  /** The schema in PostgreSQL; without one it is SQLite. */
  readonly schema: string | undefined
}

/** Where PostgreSQL is. It holds a password, so it is in the environment, and not among the arguments of a process. */
const databaseUrl = Config.Redacted("LEDGER_DATABASE_URL")

const inSchema = (schema: string) =>
  Effect.map(databaseUrl, (url): Postgres.Options => ({
    url,
    startupParameters: { search_path: schema, lock_timeout: "100", client_min_messages: "warning" }
  }))

const ledgerFile = (data: string) => NodeSqlite.layer({ filename: `${data}/ledger.db`, busyTimeout: "20 millis" })

const databases = ({ data, schema }: Place) =>
  schema === undefined
    ? Layer.merge(Sqlite.layer({ filename: `${data}/runs.db` }), Layer.provide(Ledger.layer, ledgerFile(data)))
    : Layer.unwrap(Effect.map(inSchema(schema), (options) => Layer.provideMerge(Ledger.layer, Postgres.layer(options))))

export const world = (place: Place) =>
  Layer.mergeAll(
    databases(place),
    Pdf.layer,
    Policy.layer,
    Anthropic.layer({
      model: "claude-opus-5-5",
      apiKey: "simulated",
      baseURL: place.providerUrl,
      responseTimeout: "2 seconds",
      stallTimeout: "1 second"
    })
  )

/** The PDF files of the inbox. */
export const inbox = Effect.fnUntraced(function*(data: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const folder = path.join(data, "inbox")
  const files = (yield* fs.readDirectory(folder)).filter((name) => name.endsWith(".pdf")).toSorted()
  return yield* Effect.forEach(
    files,
    (file) =>
      Effect.map(fs.readFile(path.join(folder, file)), (bytes): Pdf.Document => ({
        id: path.basename(file, ".pdf"),
        bytes
      }))
  )
})

/** Somebody else's transaction holds the table: no write gets through until it ends. */
const lockBooks = ({ data, schema }: Place) => {
  const held = SqlClient.SqlClient.use((sql) => {
    const lock = schema === undefined
      ? Effect.void
      : Effect.asVoid(sql`LOCK TABLE invoices IN ACCESS EXCLUSIVE MODE`)
    return sql.withTransaction(Effect.andThen(lock, Effect.sleep("2 seconds")))
  })
  const client = schema === undefined
    ? ledgerFile(data)
    : Layer.unwrap(Effect.map(inSchema(schema), (options) => PgClient.layer(options)))
  return Effect.provide(held, client)
}

/** A schema of its own, where the environment names a PostgreSQL. */
const makeSchema = Effect.gen(function*() {
  const url = yield* Config.option(databaseUrl)
  if (Option.isNone(url) || Redacted.value(url.value) === "") return undefined
  const schema = `document_pipeline_${process.pid}_${yield* Random.nextIntBetween(0, 1_000_000)}`
  const sql = Context.get(yield* Layer.build(PgClient.layer({ url: url.value })), PgClient.PgClient)
  yield* Effect.acquireRelease(
    sql`CREATE SCHEMA ${sql(schema)}`,
    () => Effect.orDie(sql`DROP SCHEMA ${sql(schema)} CASCADE`)
  )
  return { schema, url: Redacted.value(url.value) }
})

class NotKilled extends Schema.TaggedError<NotKilled>("document-pipeline/NotKilled")("NotKilled", {
  code: Schema.NullOr(Schema.Int)
}) {
  override get message() {
    return `the first process was to be killed in the middle, and ended by itself with exit code ${this.code}`
  }
}

export const run = Effect.fnUntraced(
  function*(seed: number) {
    const fs = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const started = yield* Clock.currentTimeMillis
    const data = yield* fs.makeTempDirectoryScoped({ prefix: "document-pipeline-" })
    const samples = yield* make24(seed)
    yield* fs.makeDirectory(path.join(data, "inbox"))
    yield* Effect.forEach(
      samples,
      ({ bytes, id }) => fs.writeFile(path.join(data, "inbox", `${id}.pdf`), bytes),
      { discard: true }
    )
    const server = yield* ProviderServer.make({
      answer,
      seed,
      faults: ProviderServer.storm({ seed, severity: "mild", retryAfter: "200 millis" }),
      latency: { min: "20 millis", max: "80 millis" }
    })
    const postgres = yield* makeSchema
    const place: Place = { data, providerUrl: server.url, schema: postgres?.schema }
    yield* Console.log(
      `${samples.length} PDF files, ${
        postgres === undefined ? "SQLite" : "PostgreSQL"
      }, and a simulated model on loopback`
    )
    const life = yield* ChildProcess.run(
      new URL("life.ts", import.meta.url),
      [
        `--data=${data}`,
        `--provider-url=${server.url}`,
        ...(postgres === undefined ? [] : [`--schema=${postgres.schema}`]),
        "--kill-at-write=4"
      ],
      postgres === undefined ? {} : { LEDGER_DATABASE_URL: postgres.url }
    )
    if (life.signal !== "SIGKILL") return yield* new NotKilled({ code: life.code })
    return yield* Effect.gen(function*() {
      const documents = yield* inbox(data)
      const ledger = yield* Ledger.Ledger
      const before = (yield* ledger.entries).length
      yield* Console.log(`the first process is killed, with ${before} entries in the books`)
      let circuitOpened = 0
      const work = Effect.provideService(Report.workAll(brisk, documents), Telemetry.Listener, (event) => {
        if (event._tag === "CircuitChanged" && event.key === "books" && event.to === "Open") circuitOpened++
      })
      const [second] = yield* Effect.all([work, lockBooks(place)], { concurrency: 2 })
      const waiting = second.filter(({ _tag }) => _tag === "Waiting").length
      yield* Console.log(
        `a second one goes on, while the books are locked for two seconds: their circuit opened ${circuitOpened} times; ` +
          `${waiting} documents wait for a person:`
      )
      yield* Person.decideAll(samples)
      const ended = yield* Report.workAll(brisk, documents)
      const report = yield* Report.make(documents, ended)
      yield* Effect.forEach(report.lines, (line) => Console.log(line), { discard: true })
      const { answered, requests } = yield* server.stats
      const seconds = ((yield* Clock.currentTimeMillis) - started) / 1_000
      yield* Console.log(`the provider: ${requests} requests, ${answered} answered; ${seconds.toFixed(1)} s`)
      return { report, ended, samples, circuitOpened, entriesAtKill: before, entries: yield* ledger.entries }
    }).pipe(Effect.provide(world(place)))
  },
  Effect.scoped,
  Effect.provideService(References.MinimumLogLevel, "Error")
)
