import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { layerPersistence } from "effect-resilience/durable/stores/PersistenceCheckpointStore"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { CrashPoints } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { describeWithRedis } from "../support/redis.ts"
import { isFull, runs } from "../support/runs.ts"
import { withTemporaryFolder } from "../support/temporaryFolder.ts"
import { backings } from "./backings.ts"
import { onRedis } from "./redisRuns.ts"
import { sqliteFile } from "./sqliteFile.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

class NoStock extends Schema.TaggedError<NoStock>()("NoStock", { item: Schema.String }) {}

/** The world outside, which remembers what was done to it whatever becomes of the program. */
class World extends Context.Service<World, { readonly done: Array<string> }>()("World") {
  static readonly layer = Layer.sync(World, () => ({ done: [] }))
}

const act = (what: string) =>
  World.use(({ done }) => Effect.andThen(Effect.yieldNow, Effect.sync(() => void done.push(what)))).pipe(
    CrashPoints.effect(what)
  )

const look = (what: string) =>
  World.useSync(({ done }) => done.includes(what) ? Checkpoint.happened(undefined) : Checkpoint.notHappened)

const text = { success: Schema.String }

const program = Effect.gen(function*() {
  const plan = yield* Checkpoint.step("plan", text, Effect.as(act("plan"), "the plan"))
  yield* Checkpoint.step("charge", { effects: "atMostOnce", reconcile: look("charge") }, act("charge"))
  const parts = yield* Checkpoint.forEach([1, 2, 3], (n) =>
    Effect.gen(function*() {
      const draft = yield* Checkpoint.step("write", text, Effect.as(act(`write ${n}`), `part ${n}`))
      return yield* Checkpoint.step(
        "review",
        text,
        Effect.gen(function*() {
          const note = yield* Checkpoint.step("note", text, Effect.as(act(`note ${n}`), `${draft}, noted`))
          return yield* Effect.as(act(`review ${n}`), `${note}, reviewed`)
        })
      )
    }), { concurrency: 2 })
  const stock = yield* Checkpoint.step(
    "stock",
    { error: NoStock },
    Effect.andThen(act("stock"), new NoStock({ item: "paper" }))
  ).pipe(
    Effect.as("in stock"),
    Effect.catchTag("NoStock", (error) => Effect.succeed(`no ${error.item}`))
  )
  yield* Checkpoint.step("publish", { effects: "atMostOnce", reconcile: look("publish") }, act("publish"))
  return { plan, parts, stock }
}).pipe(Checkpoint.run({ id: "r", input: { topic: "tides" } }))

const expected = {
  plan: "the plan",
  parts: [1, 2, 3].map((n) => `part ${n}, noted, reviewed`),
  stock: "no paper"
}

// Plan, charge, three branches of three, stock, publish.
const deeds = 1 + 1 + 9 + 1 + 1
// Opened, charge and publish twice, the other steps once, completed.
const records = 1 + deeds + 2 + 1

const verify = (report: CrashPoints.Report<unknown, unknown>, ways: number) => {
  const { boundaries, effects, exit, left, stories } = report
  assert.deepStrictEqual(exit, Exit.succeed(expected))
  // Besides the records and the deeds there are the lease taken and given back.
  assert.strictEqual(boundaries.length, 2 * (records + deeds + 2))
  assert.strictEqual(effects.length, deeds)
  assert.deepStrictEqual(
    effects.flatMap(({ atMostOnce, label }) => atMostOnce ? [label] : []),
    ["charge", "publish"]
  )
  assert.isAtLeast(stories, ways * 2 * (records + 2))
  assert.strictEqual(left, 0)
}

// The whole stories are told in memory; elsewhere it is the store's word that counts, given and not given.
const ways: ReadonlyArray<CrashPoints.Way> = isFull
  ? ["killed", "interrupted", "disconnected", "silent"]
  : ["disconnected"]
const again = runs(0, 50)
const patience = "1 minute"

/** Crashes over a store that is empty whenever its layer is built, and is the same one for all processes of a story. */
const suite = <E>(name: string, layer: Layer.Layer<CheckpointStore.CheckpointStore, E>) =>
  it.effect(
    name,
    () =>
      Effect.gen(function*() {
        const world = Layer.merge(World.layer, layer)
        verify(yield* CrashPoints.check({ program, world, ways, again, patience }), ways.length)
      }),
    runs(120_000, 1_200_000)
  )

describe("Checkpoint crashes at every boundary and comes to the same end", () => {
  it.effect(
    "in memory, in every way",
    () =>
      Effect.gen(function*() {
        const ways = ["killed", "disconnected", "silent", "interrupted"] as const
        const told = ways.slice(0, runs(3, 4))
        verify(
          yield* CrashPoints.check({ program, world: World.layer, ways: told, again: runs(10, 500) }),
          told.length
        )
      }),
    runs(120_000, 1_200_000)
  )

  it.effect(
    "over a SQLite file that every process opens anew",
    () =>
      Effect.gen(function*() {
        class File extends Context.Service<File, string>()("File") {}
        const report = yield* CrashPoints.check({
          program,
          world: Layer.merge(World.layer, Layer.effect(File, sqliteFile)),
          process: Layer.unwrap(
            Effect.map(File, (filename) => SqlCheckpointStore.layer.pipe(Layer.provide(NodeSqlite.layer({ filename }))))
          ),
          ways,
          again,
          patience
        })
        verify(report, ways.length)
      }),
    runs(120_000, 1_200_000)
  )

  suite("over files", withTemporaryFolder((directory) => FileCheckpointStore.layer({ directory })))

  for (const [name, backing] of Object.entries(backings)) {
    // What is cut off here is the store, whatever is below it.
    if (isFull || name === "KeyValueStore in memory") {
      suite(`over Persistence, ${name}`, layerPersistence().pipe(Layer.provide(backing)))
    }
  }

  describeWithRedis("on a server", () => {
    suite("of Redis", onRedis)
  })

  describeWithPostgres("on another", () => {
    const store = SqlCheckpointStore.layerWith({ clock: "process" })
    suite(
      "of PostgreSQL",
      Layer.unwrap(Effect.map(suiteSchema(), (options) => Layer.provide(store, PgClient.layer(options))))
    )
  })
})

const using = (store: Store) => Effect.provideService(CheckpointStore.CheckpointStore, store)

describe("Checkpoint interruptions", () => {
  it.effect("the run is interrupted at every turn of the scheduler, and goes on at once", () =>
    Effect.gen(function*() {
      let turns = 0
      const interruptAfter = Effect.fnUntraced(
        function*(turns: number) {
          const { done } = yield* World
          const fiber = yield* program.pipe(Effect.exit, Effect.forkChild)
          for (let i = 0; i < turns; i++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          const finished = Exit.isSuccess(yield* Fiber.await(fiber))
          const { lease } = (yield* Checkpoint.list())[0] ?? { lease: undefined }
          assert.isUndefined(lease, "the lease is given back")
          assert.deepStrictEqual(yield* program, expected)
          for (const deed of ["charge", "publish"]) {
            assert.strictEqual(done.filter((other) => other === deed).length, 1, deed)
          }
          const total = done.length
          assert.isAtMost(total, deeds + 3, "only what was at work is done again")
          assert.deepStrictEqual(yield* program, expected)
          assert.strictEqual(done.length, total, "a completed run does nothing")
          return finished
        },
        (effect) => Effect.provide(effect, Layer.fresh(Layer.merge(World.layer, CheckpointStore.layerMemory)))
      )
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
