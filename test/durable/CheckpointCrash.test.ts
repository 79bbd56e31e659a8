import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { layerPersistence } from "effect-resilience/durable/stores/PersistenceCheckpointStore"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { TestClock } from "effect/testing"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { describeWithRedis } from "../support/redis.ts"
import { isFull } from "../support/runs.ts"
import { backings } from "./backings.ts"
import { elapse, onRedis } from "./redisRuns.ts"
import { withSqliteFile } from "./sqliteFile.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

class NoStock extends Schema.TaggedError<NoStock>()("NoStock", { item: Schema.String }) {}

/**
 * A store as a process sees it that loses it after some records: the next one is written but never acknowledged, or
 * not even written, and nothing works from then on.
 */
const cutAfter = (store: Store, records: number, last: "lost" | "unacknowledged"): Store => {
  let written = 0
  const gone = (operation: string) =>
    Effect.fail(new CheckpointStore.CheckpointStoreError({ operation, reason: { _tag: "Unavailable" } }))
  return {
    ...store,
    append: (lease, entry, status) =>
      Effect.suspend(() => {
        written++
        if (written <= records) return store.append(lease, entry, status)
        const reached = written === records + 1 && last === "unacknowledged"
        return Effect.andThen(reached ? store.append(lease, entry, status) : Effect.void, gone("append"))
      }),
    renew: (lease, ttl) => written > records ? gone("renew") : store.renew(lease, ttl),
    release: (lease) => written > records ? gone("release") : store.release(lease)
  }
}

/** The world outside, which remembers what was done to it whatever becomes of the program. */
class World {
  readonly done: Array<string> = []
  readonly act = (what: string) => Effect.andThen(Effect.yieldNow, Effect.sync(() => void this.done.push(what)))
  readonly count = (what: string) => this.done.filter((done) => done === what).length
  readonly look = (what: string) =>
    Effect.sync(() => this.count(what) > 0 ? Checkpoint.happened(undefined) : Checkpoint.notHappened)
}

const program = (world: World) =>
  Effect.gen(function*() {
    const text = { success: Schema.String }
    const plan = yield* Checkpoint.step("plan", text, Effect.as(world.act("plan"), "the plan"))
    yield* Checkpoint.step(
      "charge",
      { effects: "atMostOnce", reconcile: world.look("charge") },
      world.act("charge")
    )
    const parts = yield* Checkpoint.forEach([1, 2, 3], (n) =>
      Effect.gen(function*() {
        const draft = yield* Checkpoint.step("write", text, Effect.as(world.act(`write ${n}`), `part ${n}`))
        return yield* Checkpoint.step(
          "review",
          text,
          Effect.gen(function*() {
            const note = yield* Checkpoint.step("note", text, Effect.as(world.act(`note ${n}`), `${draft}, noted`))
            return yield* Effect.as(world.act(`review ${n}`), `${note}, reviewed`)
          })
        )
      }), { concurrency: 2 })
    const stock = yield* Checkpoint.step(
      "stock",
      { error: NoStock },
      Effect.andThen(world.act("stock"), new NoStock({ item: "paper" }))
    ).pipe(
      Effect.as("in stock"),
      Effect.catchTag("NoStock", (error) => Effect.succeed(`no ${error.item}`))
    )
    yield* Checkpoint.step(
      "publish",
      { effects: "atMostOnce", reconcile: world.look("publish") },
      world.act("publish")
    )
    return { plan, parts, stock }
  }).pipe(Checkpoint.run({ id: "r", input: { topic: "tides" } }))

const expected = {
  plan: "the plan",
  parts: [1, 2, 3].map((n) => `part ${n}, noted, reviewed`),
  stock: "no paper"
}

// Opened, plan, charge twice, three branches of three, stock, publish twice, completed.
const records = 1 + 1 + 2 + 9 + 1 + 2 + 1

const using = (store: Store) => Effect.provideService(CheckpointStore.CheckpointStore, store)

const acknowledged = (store: Store) =>
  Effect.map(
    store.read("r"),
    (entries) =>
      new Set(entries.filter((entry) => /"_tag":"Step(Succeeded|Failed)"/.test(entry.body)).map((entry) => entry.step))
  )

const stepOf = (deed: string): string => {
  const [kind, n] = deed.split(" ")
  if (n === undefined) return deed
  const branch = `each[${Number(n) - 1}]`
  return kind === "note" ? `${branch}/review/note` : `${branch}/${kind}`
}

const check = Effect.fnUntraced(function*<R = never>(
  crash: (world: World, store: Store) => Effect.Effect<void>,
  elapse: (duration: Duration.Duration) => Effect.Effect<void, never, R> = TestClock.adjust
) {
  const store = yield* CheckpointStore.CheckpointStore
  const world = new World()
  yield* crash(world, store)
  const kept = yield* acknowledged(store)
  const before = world.done.slice()
  // Whoever is gone holds the lease until it is over.
  yield* elapse(Duration.minutes(1))
  const result = yield* program(world).pipe(using(store))
  assert.deepStrictEqual(result, expected)
  for (const deed of new Set(world.done)) {
    const again = world.count(deed) - before.filter((done) => done === deed).length
    if (deed === "charge" || deed === "publish") assert.strictEqual(world.count(deed), 1, deed)
    else if (kept.has(stepOf(deed))) assert.strictEqual(again, 0, `${deed} was acknowledged`)
    else assert.isAtMost(again, 1, deed)
  }
  const { status } = yield* Checkpoint.inspect("r").pipe(using(store))
  assert.strictEqual(status, "completed")
  const total = world.done.length
  assert.deepStrictEqual(yield* program(world).pipe(using(store)), expected)
  assert.strictEqual(world.done.length, total, "a completed run does nothing")
})

const suite = <R = never>(
  name: string,
  layer: Layer.Layer<CheckpointStore.CheckpointStore | R, unknown>,
  elapse?: (duration: Duration.Duration) => Effect.Effect<void, never, R>
) =>
  describe(`Checkpoint crashes: ${name}`, () => {
    it.effect("the run without a crash writes the records that the crashes are counted by", () =>
      Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        assert.deepStrictEqual(yield* program(new World()), expected)
        assert.strictEqual((yield* store.read("r")).length, records)
      }).pipe(Effect.provide(layer)))

    for (const last of ["lost", "unacknowledged"] as const) {
      it.effect(`the store is cut off at every record, the next one ${last}`, () =>
        Effect.gen(function*() {
          for (let n = 0; n < records; n++) {
            yield* check((world, store) =>
              Effect.gen(function*() {
                const error = yield* program(world).pipe(using(cutAfter(store, n, last)), Effect.flip, Effect.orDie)
                assert.strictEqual(error._tag, "CheckpointStoreError", `cut after ${n}`)
              }), elapse).pipe(Effect.provide(layer))
          }
        }))
    }
  })

suite("memory", CheckpointStore.layerMemory)
suite(
  "SQLite file",
  withSqliteFile((filename) => SqlCheckpointStore.layer.pipe(Layer.provide(NodeSqlite.layer({ filename }))))
)
for (const [name, backing] of Object.entries(backings)) {
  // What is cut off here is the store, whatever is below it.
  if (isFull || name === "KeyValueStore in memory") {
    suite(`Persistence, ${name}`, layerPersistence().pipe(Layer.provide(backing)))
  }
}

describeWithRedis("with Redis", () => {
  suite("Redis", onRedis, elapse)
})

describeWithPostgres("PostgreSQL", () => {
  const store = SqlCheckpointStore.layerWith({ clock: "process" })
  suite(
    "PostgreSQL",
    Layer.unwrap(Effect.map(suiteSchema(), (options) => Layer.provide(store, PgClient.layer(options))))
  )
})

describe("Checkpoint interruptions", () => {
  it.effect("the run is interrupted at every turn of the scheduler, and goes on at once", () =>
    Effect.gen(function*() {
      let turns = 0
      const interruptAfter = (turns: number) => {
        let finished = false
        return check((world, store) =>
          Effect.gen(function*() {
            const fiber = yield* program(world).pipe(using(store), Effect.exit, Effect.forkChild)
            for (let i = 0; i < turns; i++) yield* Effect.yieldNow
            yield* Fiber.interrupt(fiber)
            finished = Exit.isSuccess(yield* Fiber.await(fiber))
            const { lease } = (yield* Effect.orDie(store.list()))[0] ?? { lease: undefined }
            assert.isUndefined(lease, "the lease is given back")
          })
        ).pipe(
          Effect.map(() => finished),
          Effect.provide(CheckpointStore.layerMemory)
        )
      }
      while (!(yield* interruptAfter(turns))) turns++
      assert.isAbove(turns, records)
    }))

  it.effect("a result is written even if the interruption comes while it is on its way to the store", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const slow: Store = {
        ...store,
        append: (lease, entry, status) => Effect.delay(store.append(lease, entry, status), "1 second")
      }
      const done: Array<string> = []
      const run = Checkpoint.step("a", {}, Effect.sync(() => void done.push("a"))).pipe(Checkpoint.run({ id: "r" }))
      const fiber = yield* run.pipe(using(slow), Effect.forkChild)
      yield* TestClock.adjust("1500 millis")
      assert.deepStrictEqual(done, ["a"])
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(interrupting)
      yield* run
      assert.deepStrictEqual(done, ["a"])
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("an intent whose step was interrupted before it began is taken back", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const slow: Store = {
        ...store,
        append: (lease, entry, status) => Effect.delay(store.append(lease, entry, status), "1 second")
      }
      const done: Array<string> = []
      const run = Checkpoint.step("pay", { effects: "atMostOnce" }, Effect.sync(() => void done.push("pay"))).pipe(
        Checkpoint.run({ id: "r" })
      )
      const fiber = yield* run.pipe(using(slow), Effect.forkChild)
      yield* TestClock.adjust("1500 millis")
      const interrupting = yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(interrupting)
      assert.deepStrictEqual(done, [])
      yield* run
      assert.deepStrictEqual(done, ["pay"])
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))
})
