import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue } from "effect"
import * as fs from "node:fs"
import * as os from "node:os"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import * as Process from "../support/process.ts"
import { isFull } from "../support/runs.ts"

const main = path.resolve(import.meta.dirname, "../../examples/support-desk/main.ts")

interface Life {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly output: string
}

/** Runs the demo as a process of its own, as a person would, and waits for its end. */
const live = (data: string, ...flags: ReadonlyArray<string>): Effect.Effect<Life> =>
  Effect.scoped(Effect.gen(function*() {
    const child = yield* Process.start(main, ["--data", data, "--simulated", "--limit", "10", ...flags])
    const lines = yield* Queue.collect(child.lines)
    const { code, errors, signal } = yield* child.ended
    return { code, signal, output: [...lines, errors].join("\n") }
  }))

const folder = Effect.acquireRelease(
  Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "support-desk-"))),
  (name) => Effect.sync(() => fs.rmSync(name, { recursive: true, force: true }))
)

/** What the customers and the shop have in the end. The order of the refunds depends on timing, and is left out. */
const books = (data: string) => {
  const db = new DatabaseSync(path.join(data, "shop.db"), { readOnly: true })
  try {
    return {
      replies: db.prepare("SELECT ticketId, category, language, body FROM replies ORDER BY ticketId").all(),
      refunds: db.prepare("SELECT orderId, amountCents, reason, key FROM refunds ORDER BY orderId, key").all()
    }
  } finally {
    db.close()
  }
}

/** A life that is not killed is the measure for all the others. */
const unharmed = Effect.runSync(Effect.cached(Effect.scoped(Effect.gen(function*() {
  const data = yield* folder
  const life = yield* live(data, "--storm", "none", "--crash-at", "1000000")
  assert.strictEqual(life.code, 0, life.output)
  return books(data)
}))))

// Each costs two processes. The virtual-time test of the desk beside this one crashes it at every boundary.
const journalPoints = isFull ? [1, 2, 11, 26, 47, 80, 113, 140] : [80]
const refundPoints = isFull ? [1, 2, 5, 6] : [1]

const flags = [
  ...journalPoints.map((at) => ["--crash-at", String(at)] as const),
  ...refundPoints.map((at) => ["--crash-at-refund", String(at)] as const)
]

describe("the support desk, killed with SIGKILL", () => {
  it.live(
    "resumes to the same replies, and refunds once each, wherever it was killed",
    () =>
      Effect.gen(function*() {
        const expected = yield* unharmed
        assert.isAbove(expected.replies.length, 8)
        assert.isAbove(expected.refunds.length, 2)
        assert.strictEqual(new Set(expected.refunds.map(({ key }) => key)).size, expected.refunds.length)

        yield* Effect.forEach(flags, (crash, index) =>
          Effect.scoped(Effect.gen(function*() {
            const where = crash.join(" ")
            const data = yield* folder
            const killed = yield* live(data, "--storm", "none", ...crash)
            assert.strictEqual(killed.signal, "SIGKILL", `${where} did not kill: ${killed.output}`)
            const resumed = yield* live(
              data,
              "--storm",
              index % 3 === 0 ? "mild" : "none",
              "--seed",
              String(index),
              "--resume"
            )
            assert.strictEqual(resumed.code, 0, `${where}: ${resumed.output}`)
            assert.deepStrictEqual(books(data), expected, where)
          })), { concurrency: 2 })
      }),
    300_000
  )

  it.live("goes on after two kills, the second one in the resumed life", () =>
    Effect.gen(function*() {
      const data = yield* folder
      const first = yield* live(data, "--storm", "none", "--crash-at", "60")
      const second = yield* live(data, "--storm", "none", "--resume", "--crash-at-refund", "2")
      const third = yield* live(data, "--storm", "none", "--resume")
      assert.deepStrictEqual([first.signal, second.signal, third.code], ["SIGKILL", "SIGKILL", 0], third.output)
      assert.deepStrictEqual(books(data), yield* unharmed)
    }), 180_000)
})

describe("the support desk's command line", () => {
  it.live("has nothing to resume in an empty folder, and says so", () =>
    Effect.gen(function*() {
      const data = yield* folder
      const life = yield* live(data, "--resume")
      assert.strictEqual(life.code, 1)
      assert.include(life.output, "there is nothing to go on with")
    }))

  it.live.each(
    [
      [["--crash-at-refund", "-1"], "--crash-at-refund -1 makes no sense"],
      [["--crash-at", "0"], "--crash-at 0 makes no sense"],
      [["--tickets", "/nonexistent"], "/nonexistent"]
    ] as const
  )("refuses %s in a line, before it touches the data", ([flags, message]) =>
    Effect.gen(function*() {
      const data = yield* folder
      fs.writeFileSync(path.join(data, "runs.db"), "precious")
      fs.writeFileSync(path.join(data, "finished"), "")
      const life = yield* live(data, ...flags)
      assert.strictEqual(life.code, 1)
      assert.include(life.output, message)
      assert.notInclude(life.output, "    at ")
      assert.strictEqual(fs.readFileSync(path.join(data, "runs.db"), "utf8"), "precious")
    }))

  it.live("names an unknown storm and the known ones", () =>
    Effect.gen(function*() {
      const data = yield* folder
      const life = yield* live(data, "--storm", "biblical")
      assert.notStrictEqual(life.code, 0)
      assert.include(life.output, "severe")
    }))
})
