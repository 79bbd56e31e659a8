import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer, Option, Queue, Struct } from "effect"
import { CheckpointStore, EscalationQueue } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as Books from "../../examples/approval/Books.ts"
import { Invoice, invoices, pay, runOf } from "../../examples/approval/Payments.ts"
import * as Supervisor from "../../examples/approval/Supervisor.ts"
import * as Process from "../support/process.ts"

const world = Layer.mergeAll(
  Books.layer.pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" }))),
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory
)

/** Everybody does what there is to do now. */
const settled = Effect.repeat(Effect.yieldNow, { times: 500 })

const asked = (invoice: string) =>
  EscalationQueue.EscalationQueue.use((queue) =>
    Effect.map(queue.list({ runId: runOf(invoice), status: "open" }), ([first]) => first?.id ?? "")
  )

describe("the approval example", () => {
  it.effect("a supervisor decides what it may, people the rest, and each payment goes on by itself", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const byRun = new Map(invoices.map((invoice) => [runOf(invoice.id), invoice]))
      yield* Effect.forkChild(Supervisor.supervise(Supervisor.rules))
      yield* Effect.forkChild(EscalationQueue.resumeRuns({
        resume: (runId) => {
          const invoice = byRun.get(runId)
          return invoice === undefined ? Effect.void : pay(invoice)
        }
      }))
      yield* settled
      const ends = yield* Effect.forEach(invoices, (invoice) => Effect.exit(pay(invoice)), { concurrency: 3 })
      assert.isTrue(ends.every(Exit.isFailure))
      yield* settled
      assert.strictEqual(yield* queue.depth, 2)
      yield* TestClock.adjust("1 hour")
      yield* settled
      yield* queue.decide(yield* asked("R-2"), { _tag: "Approve", arguments: { cents: 85_000 } }, { by: "ann" })
      yield* queue.decide(yield* asked("R-3"), { _tag: "Reject", reason: "nobody knows them" }, { by: "ann" })
      yield* settled
      const books = yield* Books.Books
      assert.deepStrictEqual((yield* books.payments).map(({ cents, invoice }) => [invoice, cents]), [
        ["R-1", 12_000],
        ["R-2", 85_000]
      ])
      // What was done before the wait is not done again.
      assert.deepStrictEqual(yield* books.lookUps, ["R-1", "R-2", "R-3"])
    }).pipe(Effect.provide(world)))

  it.effect("the supervisor is as good as a person, and no better: who is first decides", () =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      const small = new Invoice({ id: "R-9", supplier: "Papyrus", cents: 100 })
      yield* Effect.flip(pay(small))
      const [open] = yield* queue.list()
      if (open === undefined) return assert.fail("nobody asks")
      yield* queue.decide(open.id, { _tag: "Reject", reason: "paid by hand" }, { by: "ann" })
      yield* Supervisor.consider(Supervisor.rules)(open)
      assert.strictEqual(yield* pay(small), "R-9: not paid, paid by hand")
      const { known, limitCents } = Supervisor.rules
      const says = (context: EscalationQueue.Escalation["context"], reason: EscalationQueue.Reason = open.reason) =>
        Option.isSome(Supervisor.decision(
          Supervisor.rules,
          new EscalationQueue.Escalation(
            Struct.assign(open, context === undefined ? { reason } : { reason, context })
          )
        ))
      const supplier = Array.from(known)[0] ?? ""
      assert.deepStrictEqual(
        [
          says({ invoice: "R", supplier, cents: limitCents }),
          says({ invoice: "R", supplier, cents: limitCents + 1 }),
          says({ invoice: "R", supplier: "Unheard Of", cents: 1 }),
          says({ invoice: "R", supplier, cents: "1" }),
          says(undefined, "AmbiguousState")
        ],
        [true, false, false, false, false]
      )
    }).pipe(Effect.provide(world)))
})

const main = path.resolve(import.meta.dirname, "../../examples/approval/main.ts")

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "approval-"))),
  (name) => Effect.sync(() => fs.rmSync(name, { recursive: true, force: true }))
)

/** One command, as a process of its own, until its end. */
const command = (data: string, ...args: ReadonlyArray<string>) =>
  Effect.scoped(Effect.gen(function*() {
    const child = yield* Process.start(main, [...args, "--data", data])
    const lines = yield* Queue.collect(child.lines)
    const { code, errors } = yield* child.ended
    return { code, output: [...lines, errors].join("\n") }
  }))

const rows = (data: string, query: string) => {
  const db = new DatabaseSync(path.join(data, "payments.db"), { readOnly: true })
  try {
    return db.prepare(query).all().map((row) => Object.values(row).join(" "))
  } finally {
    db.close()
  }
}

describe("the approval example, in processes of their own", () => {
  it.live("payments wait while no process runs, and go on when others have decided", () =>
    Effect.gen(function*() {
      const data = yield* folder
      const started = yield* command(data, "pay")
      assert.strictEqual(started.code, 0, started.output)
      assert.strictEqual(started.output.match(/waiting for a decision/g)?.length, 3)
      assert.deepStrictEqual(rows(data, "SELECT * FROM payments"), [])

      assert.include((yield* command(data, "supervise")).output, "approved by rule: Pay 120.00 EUR to Papyrus")
      const questions = yield* command(data, "questions")
      assert.notInclude(questions.output, "R-1")
      const wrong = yield* command(data, "approve", "R-2", "--cents", "-5")
      assert.strictEqual(wrong.code, 1, wrong.output)
      assert.include(wrong.output, "decide again")
      // Two people at once: one decides.
      const raced = yield* Effect.all([
        command(data, "approve", "R-2", "--cents", "85000", "--by", "ann"),
        command(data, "reject", "R-2", "--by", "bob")
      ], { concurrency: 2 })
      assert.deepStrictEqual(
        raced.map(({ code }) => String(code)).toSorted(),
        ["0", "1"],
        raced.map(({ output }) => output).join()
      )

      // The worker is at work when the last decision comes from another process.
      const worker = yield* Process.start(main, ["work", "--data", data])
      const first = yield* Queue.take(worker.lines)
      const rejected = yield* command(data, "reject", "R-3", "--because", "nobody knows them", "--by", "ann")
      assert.strictEqual(rejected.code, 0, rejected.output)
      const { code, errors } = yield* worker.ended
      assert.strictEqual(code, 0, [first, errors].join("\n"))

      const second = raced[0].code === 0 ? ["R-2 85000"] : []
      assert.deepStrictEqual(rows(data, "SELECT invoice, cents FROM payments ORDER BY invoice"), [
        "R-1 12000",
        ...second
      ])
      assert.deepStrictEqual(rows(data, "SELECT invoice FROM look_ups ORDER BY invoice"), ["R-1", "R-2", "R-3"])
      const late = yield* command(data, "approve", "R-3")
      assert.strictEqual(late.code, 1)
      assert.include(late.output, "nobody asks about invoice")
    }), 300_000)
})
