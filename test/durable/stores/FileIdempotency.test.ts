import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { type Idempotency } from "effect-resilience"
import * as FileIdempotency from "effect-resilience/durable/stores/FileIdempotency"
import { uniform } from "../../../src/testing/internal/seeded.ts"
import { type Around, Disk, refusal } from "../../support/disk.ts"
import { runs } from "../../support/runs.ts"
import { Node, temporaryFolder } from "../../support/temporaryFolder.ts"
import { idempotencyContract } from "../contracts/IdempotencyContract.ts"

const directory = "/data"

idempotencyContract(
  "Idempotency contract: files",
  Effect.map(temporaryFolder, (directory) => FileIdempotency.layer({ directory }).pipe(Layer.provide(Node))),
  { durable: true }
)

idempotencyContract(
  "Idempotency contract: files on a disk in memory",
  Effect.sync(() => FileIdempotency.layer({ directory }).pipe(Layer.provide(new Disk().layer()))),
  { durable: true }
)

const onDisk = <A, E>(disk: Disk, use: (store: Idempotency.Store) => Effect.Effect<A, E>, around?: Around) =>
  Effect.scoped(
    Effect.flatMap(FileIdempotency.makeStore({ directory }), use).pipe(Effect.provide(disk.layer(around)))
  )

const entry = (outcome: string, recordedAt = 0, expiresAt = 1_000_000): Idempotency.Entry => ({
  outcome,
  recordedAt,
  expiresAt
})

const results = (disk: Disk) => disk.files(`${directory}/results`).filter((file) => !file.includes("/epoch/"))

describe("FileIdempotency", () => {
  it.effect("the first outcome is kept until it has expired, whatever the scope and the key are", () =>
    Effect.gen(function*() {
      const disk = new Disk()
      const names = ["../x", "__proto__", "", "a/b", "A", "a", "🦉", "x".repeat(5_000), "a\nb"]
      yield* onDisk(disk, (store) =>
        Effect.gen(function*() {
          for (const scope of names) {
            for (const key of names) yield* store.put(scope, key, entry(`${scope} ${key}`, 0, 10))
          }
          for (const scope of names) {
            for (const key of names) {
              assert.deepStrictEqual(yield* store.get(scope, key), entry(`${scope} ${key}`, 0, 10))
              assert.strictEqual((yield* store.put(scope, key, entry("second", 9, 20))).outcome, `${scope} ${key}`)
            }
          }
          for (const scope of names) {
            for (const key of names) {
              assert.strictEqual((yield* store.put(scope, key, entry("third", 10, 20))).outcome, "third")
            }
          }
          assert.strictEqual(results(disk).length, names.length ** 2, "of an expired result nothing is left")
          for (const scope of names) yield* store.clear(scope)
          assert.deepStrictEqual(results(disk), [])
        }))
    }))

  it.effect("results that have expired are deleted when others are recorded, without a look at all of them each time", () =>
    Effect.gen(function*() {
      const disk = new Disk()
      yield* onDisk(disk, (store) =>
        Effect.gen(function*() {
          for (let n = 0; n < 30; n++) yield* store.put("s", `old ${n}`, entry("x", 0, 10))
          const before = disk.calls
          yield* store.put("s", "live", entry("live", 5, 1_000))
          assert.isBelow(disk.calls - before, 60)
          for (let n = 0; n < 100; n++) yield* store.put("s", `later ${n}`, entry("x", 20, 1_000))
          assert.strictEqual(results(disk).length, 101)
          assert.strictEqual((yield* store.get("s", "live"))?.outcome, "live")
        }))
    }))

  it.effect("a damaged result is refused, naming the file, and another one is not", () =>
    Effect.gen(function*() {
      const disk = new Disk()
      yield* onDisk(disk, (store) => store.put("s", "k", entry("\"paid\"")))
      const [file = ""] = results(disk)
      const whole = disk.bytes(file)
      yield* onDisk(disk, (store) =>
        Effect.gen(function*() {
          yield* store.put("s", "other", entry("other"))
          for (let at = 0; at < whole.length; at++) {
            const changed = whole.slice()
            changed[at] = (changed[at] ?? 0) ^ 1
            disk.overwrite(file, changed)
            for (
              const error of [
                yield* Effect.flip(store.get("s", "k")),
                yield* Effect.flip(store.put("s", "k", entry("twice")))
              ]
            ) {
              assert.strictEqual(error.reason, "Rejected", `byte ${at}`)
              assert.include(error.message, file)
            }
            assert.deepStrictEqual(disk.bytes(file), changed)
          }
          assert.strictEqual((yield* store.get("s", "other"))?.outcome, "other")
          yield* store.clear("s")
          assert.isUndefined(yield* store.get("s", "k"))
        }))
    }))

  for (const where of ["before", "halfway", "after"] as const) {
    it.effect(
      `killed ${where} any system call, or without power: an outcome that was answered stays`,
      () =>
        Effect.gen(function*() {
          for (let stop = 1, stopped = true; stopped; stop += runs(3, 1)) {
            const disk = new Disk()
            const answered = new Map<string, string>()
            let calls = 0
            const killed: Around = (call, run) =>
              Effect.suspend(() => {
                calls++
                if (calls < stop) return run
                const dead = Effect.fail(refusal("EIO", call))
                if (calls > stop || where === "before") return dead
                return Effect.andThen(where === "after" ? Effect.ignore(run) : call.half, dead)
              })
            yield* Effect.ignore(onDisk(disk, (store) =>
              Effect.gen(function*() {
                for (
                  const [key, outcome, at] of [["a", "1", 0], ["b", "2", 0], ["a", "3", 1], ["b", "4", 2_000]] as const
                ) {
                  answered.set(key, (yield* store.put("s", key, entry(outcome, at, at + 1_000))).outcome)
                }
              }), killed))
            stopped = calls >= stop
            const restore = disk.snapshot()
            for (let seed = 0; seed <= runs(1, 20); seed++) {
              restore()
              if (seed > 0) disk.losePower((draw) => uniform(seed, draw, `power ${stop}`))
              yield* onDisk(disk, (store) =>
                Effect.gen(function*() {
                  for (const [key, outcome] of answered) {
                    const found = yield* store.get("s", key)
                    // Only the last one may have been replaced, by one that nobody was answered.
                    assert.include(
                      key === "b" ? [outcome, "4"] : [outcome],
                      found?.outcome,
                      `call ${stop}, seed ${seed}`
                    )
                  }
                  const last = yield* store.put("s", "a", entry("9", 3_000, 4_000))
                  assert.strictEqual(last.outcome, "9")
                  yield* store.clear("s")
                  assert.deepStrictEqual(results(disk), [])
                }))
            }
          }
        }),
      120_000
    )
  }
})
