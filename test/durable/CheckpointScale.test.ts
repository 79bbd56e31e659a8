import { assert, describe } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { makeLog, statusOf, Stop, test, text } from "./runs.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

/** Counts what is asked of a store. */
const counting = (store: Store) => {
  const counts = { append: 0, read: 0, other: 0 }
  const count = (key: keyof typeof counts) => Effect.sync(() => void counts[key]++)
  const counted: Store = {
    ...store,
    append: (...args) => Effect.andThen(count("append"), store.append(...args)),
    read: (...args) => Effect.andThen(count("read"), store.read(...args)),
    get: (...args) => Effect.andThen(count("other"), store.get(...args)),
    acquire: (...args) => Effect.andThen(count("other"), store.acquire(...args)),
    renew: (...args) => Effect.andThen(count("other"), store.renew(...args)),
    release: (...args) => Effect.andThen(count("other"), store.release(...args))
  }
  return { counts, counted }
}

describe("Checkpoint at size", () => {
  test("200 parallel steps in one run are done once each, and give their own results on resume", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let stop = true
      const items = Array.from({ length: 200 }, (_, n) => `item ${n}`)
      const program = Checkpoint.forEach(
        items,
        (item) => Checkpoint.step("work", text, Effect.andThen(Effect.yieldNow, did(item))),
        { concurrency: "unbounded" }
      ).pipe(
        Effect.tap(() => stop ? new Stop() : Effect.void),
        Checkpoint.run({ id: "r" })
      )
      yield* Effect.flip(program)
      stop = false
      assert.deepStrictEqual(yield* program, items)
      assert.strictEqual(log.length, 200)
      assert.strictEqual(new Set(log).size, 200)
    }))

  test("1,000 runs at once in one process keep apart", () =>
    Effect.gen(function*() {
      const ids = Array.from({ length: 1000 }, (_, n) => `run ${n}`)
      const run = (id: string) =>
        Effect.gen(function*() {
          const a = yield* Checkpoint.step("a", text, Effect.as(Effect.yieldNow, `${id} a`))
          const b = yield* Checkpoint.step("b", text, Effect.as(Effect.yieldNow, `${a} b`))
          return b
        }).pipe(Checkpoint.run({ id }))
      const results = yield* Effect.forEach(ids, run, { concurrency: "unbounded" })
      assert.deepStrictEqual(results, ids.map((id) => `${id} a b`))
      const runs = yield* Checkpoint.list()
      assert.isTrue(
        runs.length === 1000 && runs.every(({ lease, status }) => status === "completed" && lease === undefined)
      )
    }))

  test(
    "a run with 10,000 steps resumes with one read of its journal, and asks the store for nothing else",
    () =>
      Effect.gen(function*() {
        const { counted, counts } = counting(yield* CheckpointStore.CheckpointStore)
        const steps = 10_000
        let done = 0
        const program = Effect.gen(function*() {
          let sum = 0
          for (let n = 0; n < steps; n++) {
            sum += yield* Checkpoint.step("add", { success: Schema.Finite }, Effect.sync(() => (done++, n)))
          }
          return sum
        }).pipe(Checkpoint.run({ id: "r" }), Effect.provideService(CheckpointStore.CheckpointStore, counted))
        const sum = yield* program
        assert.strictEqual(counts.append, steps + 2)
        counts.append = counts.read = counts.other = 0
        assert.strictEqual(yield* program, sum)
        assert.strictEqual(done, steps)
        assert.deepStrictEqual(counts, { append: 0, read: 1, other: 3 })
        assert.strictEqual(yield* statusOf("r"), "completed")
      }),
    60_000
  )
})
