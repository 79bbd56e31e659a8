import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Layer, Option, Schema } from "effect"
import { Backoff, Checkpoint, CheckpointStore, Compensation, EscalationQueue, Fault, Retry } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import { CrashPoints } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { isFull, runs } from "../support/runs.ts"
import { sqliteFile, withSqliteFile } from "./sqliteFile.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

class NoStock extends Schema.TaggedError<NoStock>()("NoStock", { item: Schema.String }) {}
class Busy extends Schema.TaggedError<Busy>()("Busy", {}) {
  readonly [Fault.verdictOf] = Fault.overloaded()
}

/**
 * A store as a process sees it that loses it after some records: the next one is written but never acknowledged, or
 * not even written, and nothing works from then on.
 */
const cutAfter = (store: Store, appends: number, last: "lost" | "unacknowledged"): Store => {
  let written = 0
  const gone = (operation: string) =>
    Effect.fail(new CheckpointStore.CheckpointStoreError({ operation, reason: { _tag: "Unavailable" } }))
  return {
    ...store,
    append: (lease, entry, status) =>
      Effect.suspend(() => {
        written++
        if (written <= appends) return store.append(lease, entry, status)
        const reached = written === appends + 1 && last === "unacknowledged"
        return Effect.andThen(reached ? store.append(lease, entry, status) : Effect.void, gone("append"))
      }),
    renew: (lease, ttl) => written > appends ? gone("renew") : store.renew(lease, ttl),
    release: (lease) => written > appends ? gone("release") : store.release(lease)
  }
}

/** Counts what is written. */
const counting = (store: Store) => {
  const counted = { appends: 0 }
  const counter: Store = {
    ...store,
    append: (lease, entry, status) =>
      Effect.suspend(() => {
        counted.appends++
        return store.append(lease, entry, status)
      })
  }
  return { counted, counter }
}

interface Deed {
  readonly what: string
  readonly key: string
}

/** The world outside, which remembers what was done to it whatever becomes of the program. */
class World {
  readonly done: Array<Deed> = []
  busy = 1
  readonly act = (what: string) =>
    Effect.gen({ self: this }, function*() {
      yield* Effect.yieldNow
      const key = yield* Checkpoint.idempotencyKey
      this.done.push({ what, key })
      yield* Effect.yieldNow
    })
  readonly count = (what: string) => this.done.filter((done) => done.what === what).length
  readonly look = (what: string) =>
    Effect.sync(() => this.count(what) > 0 ? Checkpoint.happened(what) : Checkpoint.notHappened)
}

const text = { success: Schema.String }

const makeCompensations = (world: World) => ({
  release: Compensation.make(
    "release",
    { input: Schema.String, retry: Retry.policy({ maxAttempts: 3, backoff: Backoff.constant({ delay: "1 second" }) }) },
    (what) =>
      Effect.suspend(() => what === "reserve" && world.busy-- > 0 ? Effect.fail(new Busy()) : world.act(`undo ${what}`))
  ),
  refund: Compensation.make(
    "refund",
    { input: Schema.String, effects: "atMostOnce", reconcile: (what) => world.look(`undo ${what}`) },
    (what) => world.act(`undo ${what}`)
  )
})

/** Everything is done, one after the other and side by side, and then nothing is in stock. */
const inOrder = (world: World) => {
  const { refund, release } = makeCompensations(world)
  const act = (name: string, what = name) =>
    Checkpoint.step(
      name,
      { ...text, undo: { by: release, input: (what) => what, inDoubt: () => what } },
      Effect.as(world.act(what), what)
    )
  return Effect.gen(function*() {
    yield* Checkpoint.step("plan", text, Effect.as(world.act("plan"), "plan"))
    yield* act("reserve")
    yield* Checkpoint.step(
      "charge",
      { ...text, effects: "atMostOnce", reconcile: world.look("charge"), undo: refund },
      Effect.as(world.act("charge"), "charge")
    )
    yield* Checkpoint.forEach(
      [1, 2],
      (n) => Checkpoint.step("order", text, Effect.andThen(act("room", `room ${n}`), act("meal", `meal ${n}`))),
      {
        concurrency: 2
      }
    )
    yield* act("train").pipe(
      Effect.andThen(new NoStock({ item: "seats" })),
      Compensation.saga({ name: "seats" }),
      Effect.catchTag("SagaFailed", () => act("bus"))
    )
    yield* act("car").pipe(Compensation.saga({ name: "car" }))
    return yield* new NoStock({ item: "paper" })
  }).pipe(
    Compensation.saga({ name: "trip", undo: [refund, release], error: NoStock }),
    Checkpoint.run({ id: "r" })
  )
}

/** A branch fails and cuts the others off, in the middle of what they do or not. */
const sideBySide = (world: World) => {
  const { refund, release } = makeCompensations(world)
  type Either = Checkpoint.Undo<string, Compensation.CanUndo<"refund" | "release">>
  const act = (what: string, effects: "idempotent" | "atMostOnce", by: Either) =>
    Checkpoint.step(
      "act",
      { ...text, effects, reconcile: world.look(what), undo: { by, input: () => what, inDoubt: () => what } },
      Effect.andThen(world.act(what), Effect.as(Effect.yieldNow, what))
    )
  return Checkpoint.all({
    one: act("a", "idempotent", release),
    two: act("b", "atMostOnce", refund),
    three: Effect.andThen(act("c", "idempotent", refund), new NoStock({ item: "paper" })),
    four: Effect.andThen(act("d", "atMostOnce", release), act("e", "idempotent", release))
  }, { concurrency: 4 }).pipe(
    Compensation.saga({ name: "trip", undo: [refund, release], error: NoStock }),
    Checkpoint.run({ id: "r" })
  )
}

const memory = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)

const programs = { inOrder, sideBySide }
type Program = (typeof programs)[keyof typeof programs]

const expected = new NoStock({ item: "paper" })
const onceOnly = ["charge", "b", "d", "undo charge", "undo b", "undo c"]

const using = (store: Store) => Effect.provideService(CheckpointStore.CheckpointStore, store)

const hasFailed = (store: Store) =>
  Effect.map(store.read("r"), (entries) => entries.some(({ step }) => step === "trip~/~undo"))

const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(100)
  return yield* Fiber.join(fiber)
})

const isUndo = ({ what }: Deed) => what.startsWith("undo ")

/** Resumes a run that was cut off, and sees that nothing is left of what it did. */
const resumed = Effect.fnUntraced(function*(program: Program, world: World, store: Store) {
  const failedBefore = yield* hasFailed(store)
  const before = world.done.length
  // Whoever is gone holds the lease until it is over.
  yield* TestClock.adjust("1 minute")
  const error = yield* inVirtualTime(Effect.flip(program(world).pipe(using(store))))
  assert.deepStrictEqual(error, expected)
  if (failedBefore) assert.isTrue(world.done.slice(before).every(isUndo), "a failed saga never goes forward")

  const deeds = world.done.filter((deed) => !isUndo(deed) && deed.what !== "plan").map(({ what }) => what)
  const undos = world.done.filter(isUndo)
  for (const deed of deeds) {
    const keys = undos.filter(({ what }) => what === `undo ${deed}`).map(({ key }) => key)
    assert.isAtLeast(keys.length, 1, `${deed} is undone`)
    assert.isAtMost(keys.length, 2, `${deed} is undone, and once more where a crash came between`)
    assert.lengthOf(new Set(keys), 1, `${deed} is undone under one key`)
  }
  for (const { what } of undos) {
    // Of "a" and the like nobody knows, where it was cut off; what undoes it is told so.
    if (program === inOrder) assert.include(deeds, what.slice("undo ".length), "what did not happen is not undone")
  }
  for (const what of onceOnly) assert.isAtMost(world.count(what), 1, what)

  const total = world.done.length
  const again = yield* inVirtualTime(Effect.flip(program(world).pipe(using(store))))
  assert.deepStrictEqual(again, expected)
  assert.strictEqual(world.done.length, total, "it is undone once and for all")
  // The order is that of the journal, however often it was resumed in between.
  const entries = yield* store.read("r")
  const settled = entries.flatMap(({ body, step }) => {
    const [, key] = /^trip~\/~undo\[(.*?)\]\/[^/]*$/.exec(step) ?? []
    return key !== undefined && body.includes("\"StepSucceeded\"") ? [decodeURIComponent(key)] : []
  })
  const results = entries.flatMap(({ body, step }) => {
    const isResult = body.includes("\"StepSucceeded\"") || body.includes("\"StepOversized\"")
    return isResult && step.startsWith("trip~/") && !step.includes("~undo") ? [step.slice("trip~/".length)] : []
  })
  const known = settled.filter((step) => results.includes(step))
  assert.deepStrictEqual(known, results.toReversed().filter((step) => known.includes(step)))
})

/** Crashes a run, and resumes it. */
const check = Effect.fnUntraced(function*(
  program: Program,
  crash: (world: World, store: Store) => Effect.Effect<void, never, EscalationQueue.EscalationQueue>
) {
  const store = yield* CheckpointStore.CheckpointStore
  const world = new World()
  yield* crash(world, store)
  yield* resumed(program, world, store)
})

const suite = (name: string, layer: Layer.Layer<CheckpointStore.CheckpointStore, unknown>) =>
  describe(`Compensation crashes: ${name}`, () => {
    const world = Layer.mergeAll(layer, EscalationQueue.layerMemory)

    for (const [name, program] of Object.entries(programs)) {
      for (const last of ["lost", "unacknowledged"] as const) {
        it.effect(`${name}: the store is cut off at every record, the next one ${last}`, () =>
          Effect.gen(function*() {
            const appends = yield* Effect.gen(function*() {
              const { counted, counter } = counting(yield* CheckpointStore.CheckpointStore)
              assert.deepStrictEqual(
                yield* inVirtualTime(Effect.flip(program(new World()).pipe(using(counter)))),
                expected
              )
              return counted.appends
            }).pipe(Effect.provide(world))
            assert.isAbove(appends, 15)
            // All but the last one, which says that the run has failed: that is said anyway.
            for (let n = 0; n < appends - 1; n++) {
              yield* check(program, (world, store) =>
                Effect.gen(function*() {
                  const error = yield* inVirtualTime(
                    program(world).pipe(using(cutAfter(store, n, last)), Effect.flip, Effect.orDie)
                  )
                  assert.strictEqual(error._tag, "CheckpointStoreError", `cut after ${n}`)
                })).pipe(Effect.provide(world))
            }
          }))
      }
    }
  })

suite("memory", CheckpointStore.layerMemory)
if (isFull) {
  suite(
    "SQLite file",
    withSqliteFile((filename) => SqlCheckpointStore.layer.pipe(Layer.provide(NodeSqlite.layer({ filename }))))
  )
}

describe("Compensation interruptions", () => {
  for (const [name, program] of Object.entries(programs)) {
    it.effect(`${name}: the run is interrupted at every turn of the scheduler, and goes on at once`, () =>
      Effect.gen(function*() {
        const interruptAfter = (turns: number) => {
          let interrupted = false
          return check(program, (world, store) =>
            Effect.gen(function*() {
              const fiber = yield* program(world).pipe(using(store), Effect.exit, Effect.forkChild)
              for (let i = 0; i < turns; i++) {
                yield* i % 10 === 9 ? TestClock.adjust("1 second") : Effect.yieldNow
              }
              yield* Fiber.interrupt(fiber)
              interrupted = Exit.isFailure(yield* Fiber.await(fiber))
            })).pipe(Effect.map(() => interrupted), Effect.provide(memory))
        }
        let turns = 0
        while (yield* interruptAfter(turns)) turns++
        assert.isAbove(turns, 10)
      }))
  }
})

/** What is reserved and not given back. It outlives every crash. */
class Held extends Context.Service<Held, Set<string>>()("Held") {
  static readonly layer = Layer.sync(Held, () => new Set<string>())
}

const told = Effect.gen(function*() {
  const take = (what: string) =>
    Held.use((held) => Effect.andThen(Effect.yieldNow, Effect.sync(() => void held.add(what)))).pipe(
      CrashPoints.effect(`take ${what}`),
      Effect.as(what)
    )
  const give = (what: string) =>
    Held.use((held) => Effect.andThen(Effect.yieldNow, Effect.sync(() => void held.delete(what)))).pipe(
      CrashPoints.effect(`give ${what}`)
    )
  const isHeld = (what: string, held: boolean) =>
    Held.useSync((all) => all.has(what) === held ? Checkpoint.happened(what) : Checkpoint.notHappened)

  const release = Compensation.make("release", { input: Schema.String }, give)
  const refund = Compensation.make(
    "refund",
    { input: Schema.String, effects: "atMostOnce", reconcile: (what) => isHeld(what, false) },
    give
  )
  const reserve = (what: string) => Checkpoint.step("reserve", { ...text, undo: release }, take(what))
  const failed = yield* Effect.gen(function*() {
    yield* reserve("seat")
    yield* Checkpoint.step(
      "charge",
      { ...text, effects: "atMostOnce", reconcile: isHeld("money", true), undo: refund },
      take("money")
    )
    yield* Checkpoint.forEach(["room 1", "room 2"], reserve, { concurrency: 2 })
    return yield* new NoStock({ item: "paper" })
  }).pipe(
    Compensation.saga({ name: "trip", undo: [release, refund], error: NoStock }),
    Effect.catchTag("NoStock", ({ item }) => Effect.succeed(item)),
    Checkpoint.run({ id: "r" })
  )
  return { failed, held: Array.from(yield* Held) }
})

describe("Compensation crashes at every boundary and comes to the same end", () => {
  it.effect(
    "killed, disconnected, silent or interrupted, once or twice",
    () =>
      Effect.gen(function*() {
        const world = Layer.merge(Held.layer, EscalationQueue.layerMemory)
        const ways = ["killed", "disconnected", "silent", "interrupted"] as const
        const report = yield* CrashPoints.check({
          program: told,
          world,
          ways: isFull ? ways : ["killed"],
          again: runs(5, 300)
        })
        assert.deepStrictEqual(report.exit, Exit.succeed({ failed: "paper", held: [] }))
        assert.strictEqual(report.left, 0)
        assert.deepStrictEqual(
          report.effects.flatMap(({ atMostOnce, label }) => atMostOnce ? [label] : []),
          ["take money", "give money"]
        )
      }),
    runs(120_000, 1_200_000)
  )
})

// Thousands of runs: the turns of the scheduler are enough for every day.
describe.runIf(isFull)("Compensation interrupted at every step", () => {
  it.effect("nothing is left of what was done, and no fiber or sleep", () =>
    interruptEverywhere({
      moments: ["during"],
      arrange: Effect.gen(function*() {
        const services = yield* Layer.build(Layer.fresh(memory))
        const world = new World()
        const store = Context.get(services, CheckpointStore.CheckpointStore)
        return {
          effect: Effect.provide(Effect.exit(sideBySide(world)), services),
          check: () => Effect.provide(resumed(sideBySide, world, store), services)
        }
      })
    }), { timeout: 600_000 })
})

describe("Compensation in several processes", () => {
  it.effect("one fails and is killed, another one asks people, a third one goes on with what they decided", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      /** What a process has: connections and services of its own. */
      const process = () =>
        Layer.mergeAll(SqlCheckpointStore.layer, SqlEscalationQueue.layer).pipe(
          Layer.provide(NodeSqlite.layer({ filename })),
          Layer.fresh
        )
      const log: Array<string> = []
      const did = (what: string) => Effect.sync(() => void log.push(what))
      const program = (isBankOpen: boolean) => {
        const undo = Compensation.make(
          "undo",
          { input: Schema.String },
          (what) => Effect.andThen(did(`undo ${what}`), isBankOpen || what === "reserve" ? Effect.void : new Busy())
        )
        const step = (name: string) => Checkpoint.step(name, { ...text, undo }, Effect.as(did(name), name))
        return Effect.andThen(step("reserve"), step("charge")).pipe(
          Effect.andThen(new NoStock({ item: "paper" })),
          Compensation.saga({ name: "trip", undo: [undo], error: NoStock }),
          Checkpoint.run({ id: "r" })
        )
      }
      yield* Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        yield* Effect.flip(program(false).pipe(using(cutAfter(store, 5, "unacknowledged"))))
      }).pipe(Effect.provide(process()))
      assert.deepStrictEqual(log.splice(0), ["reserve", "charge"])

      yield* TestClock.adjust("1 minute")
      yield* Effect.gen(function*() {
        const error = yield* Effect.flip(program(false))
        assert.instanceOf(error, Checkpoint.RunSuspended)
        assert.strictEqual(Option.getOrUndefined(yield* Checkpoint.status("r")), "escalated")
      }).pipe(Effect.provide(process()))
      assert.deepStrictEqual(log.splice(0), ["undo charge"])

      yield* Effect.gen(function*() {
        const queue = yield* EscalationQueue.EscalationQueue
        const [waiting] = yield* queue.list({ status: "open", runId: "r" })
        assert.isDefined(waiting)
        if (waiting !== undefined) yield* queue.decide(waiting.id, { _tag: "Retry" }, { by: "ann" })
      }).pipe(Effect.provide(process()))

      yield* Effect.gen(function*() {
        assert.deepStrictEqual(yield* Effect.flip(program(true)), new NoStock({ item: "paper" }))
        assert.deepStrictEqual(yield* Effect.flip(program(true)), new NoStock({ item: "paper" }))
      }).pipe(Effect.provide(process()))
      assert.deepStrictEqual(log, ["undo charge", "undo reserve"])
    }))
})
