import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer } from "effect"
import { CheckpointStore } from "effect-resilience"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import { TestClock } from "effect/testing"
import { uniform } from "../../../src/testing/internal/seeded.ts"
import { type Around, Disk, refusal } from "../../support/disk.ts"
import { runs } from "../../support/runs.ts"

type Store = CheckpointStore.CheckpointStore["Service"]
type Entry = CheckpointStore.Entry

const minute = Duration.minutes(1)
const directory = "/data"
const newline = 10

const onDisk = <A, E>(disk: Disk, use: (store: Store) => Effect.Effect<A, E>, around?: Around) =>
  Effect.scoped(Effect.flatMap(
    Layer.build(FileCheckpointStore.layer({ directory }).pipe(Layer.provide(disk.layer(around)))),
    (context) => CheckpointStore.CheckpointStore.use(use).pipe(Effect.provideContext(context))
  ))

const entries = (from: number, count: number): [Entry, ...Array<Entry>] => {
  const entry = (position: number): Entry => ({ position, step: `s${position}`, body: `{"n":${position}}` })
  return [entry(from), ...Array.from({ length: count - 1 }, (_, index) => entry(from + 1 + index))]
}

const others = (disk: Disk) => disk.files(`${directory}/runs`).filter((file) => !file.includes("/epoch/"))

/** What a process has heard of its run before it was stopped. */
interface Known {
  acknowledged: number
  asked: number
  token: number
  removing: boolean
  removed: boolean
}

/** Two leases with all that one does with them, and the removal of the run. */
const life = Effect.fnUntraced(function*(store: Store, known: Known) {
  const append = Effect.fnUntraced(function*(lease: CheckpointStore.Lease, count: number) {
    known.asked = known.acknowledged + count
    yield* store.append(lease, entries(known.acknowledged, count), "running")
    known.acknowledged = known.asked
  })
  for (let lives = 0; lives < 2; lives++) {
    const lease = yield* store.acquire("r", minute)
    known.token = lease.token
    yield* append(lease, 1)
    yield* store.renew(lease, minute)
    yield* append(lease, 3)
    yield* append(lease, 1)
    yield* store.release(lease)
  }
  const lease = yield* store.acquire("r", minute)
  known.token = lease.token
  known.removing = true
  yield* store.remove(lease)
  known.removed = true
})

const none: Known = { acknowledged: 0, asked: 0, token: 0, removing: false, removed: false }

/** What the next process finds, and that it can go on. */
const checkAfter = Effect.fnUntraced(function*(disk: Disk, known: Known) {
  yield* TestClock.adjust("1 hour")
  yield* onDisk(disk, (store) =>
    Effect.gen(function*() {
      const found = yield* store.read("r")
      const isGone = known.removed || (known.removing && found.length === 0)
      if (isGone) assert.deepStrictEqual(found, [])
      else {
        assert.isAtLeast(found.length, known.acknowledged, "what was acknowledged is there")
        assert.include([known.acknowledged, known.asked], found.length, "and else at most what was asked for, whole")
      }
      if (found.length > 0) assert.deepStrictEqual(found, entries(0, found.length))
      const listed = (yield* store.list()).map(({ entries, runId }) => [runId, entries])
      const other = ["other", 1]
      assert.deepStrictEqual(listed, found.length === 0 ? [other] : [other, ["r", found.length]])
      const lease = yield* store.acquire("r", minute)
      assert.isAbove(lease.token, known.token)
      yield* store.append(lease, entries(found.length, 2))
      assert.deepStrictEqual(yield* store.read("r"), entries(0, found.length + 2))
      yield* store.remove(lease)
      yield* store.remove(yield* store.acquire("other", minute))
      yield* store.list()
      assert.deepStrictEqual(others(disk), [])
    }))
})

const prepared = Effect.gen(function*() {
  const disk = new Disk()
  yield* onDisk(disk, (store) =>
    Effect.gen(function*() {
      const lease = yield* store.acquire("other", minute)
      yield* store.append(lease, entries(0, 1))
      yield* store.release(lease)
    }))
  return disk
})

describe("a process that is killed at any system call", () => {
  for (const where of ["before", "halfway", "after"] as const) {
    it.effect(
      `${where}: the next one finds what was acknowledged, goes on, and leaves nothing behind`,
      () =>
        Effect.gen(function*() {
          for (let stop = 1, stopped = true; stopped; stop += runs(7, 1)) {
            const disk = yield* prepared
            const known = { ...none }
            let calls = 0
            const killed: Around = (call, run) =>
              Effect.suspend(() => {
                calls++
                if (calls < stop) return run
                const dead = Effect.fail(refusal("EIO", call))
                if (calls > stop || where === "before") return dead
                return Effect.andThen(where === "after" ? Effect.ignore(run) : call.half, dead)
              })
            yield* onDisk(disk, (store) => Effect.ignore(life(store, known)), killed).pipe(Effect.ignore)
            stopped = calls >= stop
            const restore = disk.snapshot()
            yield* checkAfter(disk, known).pipe(because(`killed ${where} call ${stop}`))
            for (let seed = 0; seed < runs(1, 30); seed++) {
              restore()
              disk.losePower((draw) => uniform(seed, draw, `power ${stop}`))
              yield* checkAfter(disk, known).pipe(because(`power lost ${where} call ${stop}, seed ${seed}`))
            }
            if (!stopped) assert.isAbove(stop, 100, "the calls are counted")
          }
        }),
      300_000
    )
  }
})

const because = (what: string) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.tapCause(self, () => Effect.sync(() => console.log(what)))

describe("a file system that fails and comes back", () => {
  const codes = { ENOSPC: "Unavailable", EIO: "Unavailable", EMFILE: "Unavailable", EACCES: "Rejected" } as const

  for (const [code, reason] of Object.entries(codes)) {
    it.effect(
      `${code} at any system call is ${reason}, and what is asked for again is done once`,
      () =>
        Effect.gen(function*() {
          for (const lasts of [1, 7]) {
            let reached = true
            for (let first = lasts; reached; first += runs(23, 1)) {
              const disk = yield* prepared
              let calls = 0
              const failing: Around = (call, run) =>
                Effect.suspend(() => {
                  calls++
                  if (calls < first || calls >= first + lasts) return run
                  // Written in part, or done although it is refused, or not done.
                  const before = calls % 3 === 0 ? call.half : calls % 3 === 1 ? Effect.ignore(run) : Effect.void
                  return Effect.andThen(before, Effect.fail(refusal(code, call)))
                })
              const refusals = new Set<string>()
              const again = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
                Effect.gen(function*() {
                  for (let attempt = 0; attempt < 20; attempt++) {
                    const result = yield* Effect.result(effect)
                    if (result._tag === "Success") return result.success
                    refusals.add(result.failure.reason._tag)
                    // An acquire that failed may hold the run until its time is over.
                    if (result.failure.reason._tag === "LeaseHeld") yield* TestClock.adjust(minute)
                  }
                  return yield* Effect.die(new Error("it does not come back"))
                })
              const retrying = (store: Store): Store => ({
                ...store,
                acquire: (...args) => again(store.acquire(...args)),
                append: (...args) => again(store.append(...args)),
                renew: (...args) => again(store.renew(...args)),
                release: (lease) => Effect.ignore(store.release(lease)),
                remove: (lease) =>
                  again(Effect.catchTag(
                    store.remove(lease),
                    "CheckpointStoreError",
                    // Whether a removal that failed was done, the files tell.
                    (error) => error.reason._tag === "Fenced" ? Effect.void : Effect.fail(error)
                  ))
              })
              const known = { ...none }
              const open = onDisk(disk, (store) => life(retrying(store), known), failing)
              yield* again(open).pipe(because(`${code} at call ${first}, ${lasts} times`))
              reached = calls >= first
              assert.isTrue(known.removed)
              for (const refusal of refusals) assert.include([reason, "LeaseHeld"], refusal)
              yield* checkAfter(disk, known).pipe(because(`${code} at call ${first}, ${lasts} times`))
            }
          }
        }),
      300_000
    )
  }
})

/** A journal of two leases, with the length of its newest file after each of the last appends. */
const journal = Effect.gen(function*() {
  const disk = new Disk()
  const marks: Array<{ readonly size: number; readonly entries: number }> = []
  yield* onDisk(disk, (store) =>
    Effect.gen(function*() {
      const first = yield* store.acquire("r", minute)
      yield* store.append(first, entries(0, 2), "running")
      yield* store.release(first)
      const second = yield* store.acquire("r", minute)
      const mark = (entries: number) => {
        marks.push({ size: disk.bytes(others(disk).at(-1) ?? "").length, entries })
      }
      mark(2)
      yield* store.append(second, entries(2, 1))
      mark(3)
      yield* store.renew(second, minute)
      yield* store.append(second, entries(3, 3), "suspended")
      mark(6)
      yield* store.append(second, entries(6, 1))
      mark(7)
    }))
  const [older = "", newest = ""] = others(disk)
  return { disk, marks, older, newest }
})

describe("a journal whose bytes are cut or changed", () => {
  it.effect(
    "cut at every length it holds the records that are whole, and the run goes on",
    () =>
      Effect.gen(function*() {
        const { disk, marks, newest } = yield* journal
        const whole = disk.bytes(newest)
        const restore = disk.snapshot()
        yield* TestClock.adjust("1 hour")
        for (let length = 0; length <= whole.length; length += runs(3, 1)) {
          restore()
          for (const zeros of [0, 9]) {
            disk.overwrite(newest, new Uint8Array([...whole.slice(0, length), ...new Uint8Array(zeros)]))
            const expected = marks.findLast(({ size }) => size <= length)?.entries ?? 2
            // Whole but for its newline, and something else in its place: that is damage.
            const isDamaged = zeros > 0 && whole[length] === newline
            if (isDamaged) {
              const error = yield* onDisk(disk, (store) => Effect.flip(store.read("r")))
              assert.strictEqual(error.reason._tag, "Corrupt")
              continue
            }
            yield* onDisk(disk, (store) =>
              Effect.gen(function*() {
                assert.deepStrictEqual(yield* store.read("r"), entries(0, expected))
                assert.deepStrictEqual((yield* store.list()).map(({ entries }) => entries), [expected])
                const lease = yield* store.acquire("r", minute)
                yield* store.append(lease, entries(expected, 1))
                assert.deepStrictEqual(yield* store.read("r"), entries(0, expected + 1))
                yield* store.release(lease)
              })).pipe(because(`cut at ${length}, ${zeros} zeros after`))
            restore()
          }
        }
      }),
    120_000
  )

  it.effect(
    "a damaged byte is Corrupt with file and place, never other data, and nothing is changed",
    () =>
      Effect.gen(function*() {
        const { disk, newest, older } = yield* journal
        const torn = new TextEncoder().encode("0123abcd [7,\"runn")
        disk.overwrite(newest, new Uint8Array([...disk.bytes(newest), ...torn]))
        const all = entries(0, 7)
        const bits = Array.from({ length: 8 }, (_, bit) => 1 << bit)
        for (const file of [older, newest]) {
          const whole = disk.bytes(file)
          for (let at = 0; at < whole.length; at += runs(3, 1)) {
            for (const flip of runs(1, 8) === 1 ? [bits[at % 8] ?? 1] : [...bits, 0xff]) {
              const changed = whole.slice()
              changed[at] = (changed[at] ?? 0) ^ flip
              disk.overwrite(file, changed)
              yield* onDisk(disk, (store) =>
                Effect.gen(function*() {
                  const read = yield* Effect.result(store.read("r"))
                  const isTorn = file === newest && at >= whole.length - torn.length
                  if (read._tag === "Success") {
                    assert.isTrue(isTorn, `${file}, byte ${at}, ${flip}`)
                    assert.deepStrictEqual(read.success, all)
                  } else {
                    assert.strictEqual(read.failure.reason._tag, "Corrupt")
                    assert.include(read.failure.message, file)
                  }
                  const listed = yield* store.list()
                  if (listed.length > 0) {
                    assert.deepStrictEqual(listed.map(({ entries, status }) => [entries, status]), [[7, "suspended"]])
                  }
                })).pipe(because(`${file}, byte ${at}, ${flip}`))
              assert.deepStrictEqual(disk.bytes(file), changed)
            }
            disk.overwrite(file, whole)
          }
        }
      }),
    120_000
  )
})
