import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Effect, Exit, Layer } from "effect"
import { Checkpoint, CheckpointStore, EscalationQueue, Idempotency, Policy } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import * as Ledger from "../../examples/document-pipeline/Ledger.ts"
import * as Live from "../../examples/document-pipeline/live.ts"
import { script } from "../../examples/document-pipeline/model.ts"
import * as Pdf from "../../examples/document-pipeline/Pdf.ts"
import * as Person from "../../examples/document-pipeline/person.ts"
import * as Pipeline from "../../examples/document-pipeline/Pipeline.ts"
import * as Report from "../../examples/document-pipeline/report.ts"
import { type Kind, make24, type Sample } from "../../examples/document-pipeline/samples.ts"
import * as Virtual from "../../examples/document-pipeline/virtual.ts"
import { describeWithPostgres } from "../support/postgres.ts"
import { isFull, runs } from "../support/runs.ts"
import { databaseUrl } from "../support/servers.ts"

const supplied: ReadonlyArray<Kind> = ["wrong total", "no number"]
const written: ReadonlySet<Kind> = new Set(["good", "smudged", ...supplied])

/** How a document has to end. */
const fates: Readonly<Record<Kind, Report.Ended["_tag"]>> = {
  "good": "Written",
  "smudged": "Written",
  "wrong total": "Written",
  "no number": "Written",
  "unknown supplier": "Waiting",
  "injected": "Rejected",
  "empty page": "Failed",
  "corrupt": "Failed"
}

/** The books, the outcomes and the report say what is really on the documents, each once. */
const assertRight = (result: {
  readonly samples: ReadonlyArray<Sample>
  readonly ended: ReadonlyArray<Report.Ended>
  readonly entries: ReadonlyArray<Ledger.Entry>
  readonly report: Report.Report
}) => {
  const { ended, entries, report, samples } = result
  const paid = samples.filter(({ kind }) => written.has(kind))
  assert.deepStrictEqual(
    entries.map(({ approvedBy, cents, document, number, supplier }) => [document, number, supplier, cents, approvedBy]),
    paid.map(({ id, kind, truth }) => [
      id,
      truth.number,
      truth.supplier,
      truth.totalCents,
      supplied.includes(kind) ? "a person" : "the rules"
    ])
  )
  assert.deepStrictEqual(
    ended.map(({ _tag, document }) => [document, _tag]),
    samples.map(({ id, kind }) => [id, fates[kind]])
  )
  assert.deepInclude(report, {
    documents: 24,
    written: 19,
    byPerson: 3,
    escalated: { waiting: 1, rejected: 2 },
    failed: 2,
    cents: paid.reduce((sum, { truth }) => sum + truth.totalCents, 0)
  })
}

const seeds = isFull ? Array.from({ length: 30 }, (_, seed) => seed) : [1, 2, 3]

describe("the document pipeline in virtual time", () => {
  it.effect.each(seeds)(
    "writes each payable invoice once, and accounts for all others, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const result = yield* Virtual.run(seed)
        assertRight(result)
        assert.strictEqual(result.waitingBefore, 6)
        assert.isAtLeast(result.circuitOpened, 2, "the books were down for ten minutes")
      })
  )

  it.effect.each(seeds)(
    "redoes nothing that was done before the kill or the decisions, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const { askedAfterDecisions, askedAfterKill, entriesAtKill } = yield* Virtual.run(seed)
        assert.isAtLeast(entriesAtKill.length, 3)
        for (const { number } of entriesAtKill) {
          assert.isFalse(askedAfterKill.some((prompt) => prompt.includes(number)), `${number} was read again`)
        }
        assert.strictEqual(askedAfterDecisions, 0)
      })
  )
})

const documentsOf = Effect.fnUntraced(function*(kinds: ReadonlyArray<Kind>) {
  const samples = yield* make24(1)
  return kinds.flatMap((kind) => samples.filter((sample) => sample.kind === kind).slice(0, 1))
})

describe("the document pipeline, crashed", () => {
  it.effect(
    "comes to the same books wherever it is cut off",
    () =>
      Effect.gen(function*() {
        const samples = yield* documentsOf(["good", "smudged", "no number", "corrupt"])
        const pages = yield* Layer.build(Pdf.layerReadBefore(samples))
        const ledger = Layer.effect(
          Ledger.Ledger,
          Ledger.Ledger.use((ledger) =>
            Effect.as(ledger.open, {
              ...ledger,
              write: (entry) => ledger.write(entry).pipe(CrashPoints.effect(`write ${entry.document}`))
            })
          )
        ).pipe(Layer.provide(Ledger.layer), Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))
        const world = Layer.mergeAll(
          ledger,
          CheckpointStore.layerMemory,
          EscalationQueue.layerMemory,
          Layer.succeedContext(pages)
        )
        const process = Layer.mergeAll(Policy.layer, ScriptedModel.layer(script), Idempotency.layerMemory)
        const work = Pipeline.make()
        const decided = Effect.as(Person.decideAll(samples), true)
        const program = Effect.gen(function*() {
          const outcomes = yield* Effect.forEach(samples, (sample) =>
            Effect.retry(work(sample), {
              while: (error) => error instanceof Checkpoint.RunSuspended ? decided : Effect.succeed(false)
            }))
          const { entries } = yield* Ledger.Ledger
          return {
            outcomes: outcomes.map(({ _tag }) => _tag),
            entries: (yield* entries).map(({ cents, number }) => `${number} ${cents}`)
          }
        })
        const { boundaries, exit } = yield* CrashPoints.check({
          program,
          world,
          process,
          ways: isFull ? undefined : ["killed"],
          limit: runs(40, 10_000),
          again: runs(2, 50)
        })
        const expected = samples.slice(0, 3).map(({ id, truth }) => ({
          id,
          line: `${truth.number} ${truth.totalCents}`
        }))
        assert.deepStrictEqual(
          exit,
          Exit.succeed({
            outcomes: ["Written", "Written", "Written", "Failed"],
            entries: expected.toSorted((a, b) => a.id.localeCompare(b.id)).map(({ line }) => line)
          })
        )
        assert.isAbove(boundaries.length, 30)
      }),
    runs(60_000, 900_000)
  )
})

describe("the report of the document pipeline", () => {
  it.effect("fails where the books have an entry that nobody wrote", () =>
    Effect.gen(function*() {
      const samples = yield* documentsOf(["good", "corrupt"])
      const pages = yield* Layer.build(Pdf.layerReadBefore(samples))
      const story = Effect.gen(function*() {
        const ledger = yield* Ledger.Ledger
        yield* ledger.open
        const ended = yield* Report.workAll(Pipeline.patient, samples)
        yield* Report.make(samples, ended)
        const stray = new Ledger.Entry({ document: "X", number: "X", supplier: "X", cents: 1, approvedBy: "nobody" })
        yield* ledger.write(stray)
        return yield* Effect.flip(Report.make(samples, ended))
      })
      const error = yield* Effect.provide(
        story,
        Layer.mergeAll(
          Ledger.layer.pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" }))),
          CheckpointStore.layerMemory,
          EscalationQueue.layerMemory,
          Policy.layer,
          ScriptedModel.layer(script),
          Layer.succeedContext(pages)
        )
      )
      assert.include(error.message, "written, and entries in the books: 1 and 2")
    }))
})

const live = (env: Readonly<Record<string, string>>) =>
  Live.run(2).pipe(
    Effect.provide(NodeServices.layer),
    Effect.provide(ConfigProvider.layer(ConfigProvider.fromUnknown(env)))
  )

const assertLive = (result: Effect.Success<ReturnType<typeof live>>) => {
  assertRight(result)
  assert.isAtLeast(result.entriesAtKill, 3)
  assert.isAtLeast(result.circuitOpened, 1, "the table was locked for two seconds")
}

describe("the document pipeline, live", () => {
  it.live(
    "over PDF files, the real SDK and a locked SQLite file, after a kill",
    () => Effect.map(live({}), assertLive),
    120_000
  )
})

describeWithPostgres("the document pipeline on PostgreSQL", () => {
  it.live(
    "over PDF files, the real SDK and a locked table, after a kill",
    () => Effect.map(live({ LEDGER_DATABASE_URL: databaseUrl }), assertLive),
    120_000
  )
})
