import { assert, describe, it } from "@effect/vitest"
import { Clock, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Option, Random, Schema } from "effect"
import { Backoff, Checkpoint, CheckpointStore, Fault, Retry } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { CrashPoints } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { sqliteFile } from "../durable/sqliteFile.ts"
import { runs } from "../support/runs.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

class Declined extends Schema.TaggedError<Declined>()("Declined", { card: Schema.String }) {}

/** What stands for the outside, and outlives every crash. */
class Bank extends Context.Service<Bank, {
  readonly paid: Array<string>
  locked: boolean
}>()("Bank") {}

const bank = Layer.sync(Bank, () => ({ paid: [], locked: false }))

const pay = (to: string, options?: { readonly atMostOnce?: boolean }) =>
  Bank.useSync(({ paid }) => void paid.push(to)).pipe(CrashPoints.effect(`pay ${to}`, options))

const look = (to: string) =>
  Bank.useSync(({ paid }) => paid.includes(to) ? Checkpoint.happened(undefined) : Checkpoint.notHappened)

const once = (to: string) => Checkpoint.step(`pay ${to}`, { effects: "atMostOnce", reconcile: look(to) }, pay(to))

const text = { success: Schema.String }
const run = Checkpoint.run({ id: "r" })

const kinds = <A, E>({ differences }: CrashPoints.Report<A, E>) => new Set(differences.map(({ kind }) => kind))
const found = <A, E>({ differences }: CrashPoints.Report<A, E>) =>
  new Set(differences.map(({ kind, subject }) => `${kind}: ${subject}`))

/** A store that breaks a promise, made anew for every story. */
const spoiled = (spoil: (store: Store) => Store) =>
  Layer.effect(CheckpointStore.CheckpointStore, Effect.map(CheckpointStore.makeMemory(), spoil))

describe("CrashPoints finds", () => {
  it.effect("an effect that has no step around it", () =>
    Effect.gen(function*() {
      const program = Effect.gen(function*() {
        yield* pay("ann")
        yield* once("bob")
      }).pipe(run)
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.isTrue(found(report).has("DoneTooOften: \"pay ann\" in run \"r\", outside of any step"))
      assert.isFalse(found(report).has("DoneTooOften: \"pay bob\" in run \"r\", \"pay bob\""))
    }))

  it.effect("a program that reads the Clock outside of a step", () =>
    Effect.gen(function*() {
      const program = Effect.gen(function*() {
        const at = yield* Clock.currentTimeMillis
        yield* Checkpoint.step("a", text, Effect.succeed("a"))
        return at
      }).pipe(run)
      const report = yield* CrashPoints.explore({ program })
      assert.deepStrictEqual(
        report.differences.map(({ crashes, found, kind, subject }) => [kind, subject, found, crashes]),
        [
          ["OtherResult", "the result of a replay", "60000", []]
        ]
      )
    }))

  it.effect("a program that reads Random outside of a step, to choose one", () =>
    Effect.gen(function*() {
      const program = Effect.gen(function*() {
        yield* Checkpoint.step(`a ${yield* Random.nextIntBetween(0, 1_000_000)}`, {}, Effect.void)
      }).pipe(run)
      const report = yield* CrashPoints.explore({ program })
      assert.isTrue(found(report).has("OtherResult: the result of a replay"))
      assert.include(report.differences[0]?.found, "CheckpointMismatch")
    }))

  it.effect("an effect that must not happen twice in a step that may", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("pay", {}, pay("ann", { atMostOnce: true })).pipe(run)
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.deepStrictEqual(found(report), new Set(["DoneTooOften: \"pay ann\" in run \"r\", \"pay\""]))
      const [first] = report.differences
      assert.deepStrictEqual([first?.expected, first?.found], ["once", "2 times"])
      assert.deepStrictEqual(first?.crashes, [
        { boundary: 6, way: "killed", at: "after \"pay ann\" in run \"r\", \"pay\"" }
      ])
    }))

  it.effect("a reconcile that says that nothing had happened, although it had", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step(
        "pay",
        { effects: "atMostOnce", reconcile: Effect.succeed(Checkpoint.notHappened) },
        pay("ann")
      ).pipe(run)
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.deepStrictEqual(found(report), new Set(["DoneTooOften: \"pay ann\" in run \"r\", \"pay\""]))
    }))

  it.effect("a reconcile that says that it had happened, although nothing had", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step(
        "pay",
        { effects: "atMostOnce", reconcile: Effect.succeed(Checkpoint.happened(undefined)) },
        pay("ann")
      ).pipe(run)
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.deepStrictEqual(found(report), new Set(["NotDone: \"pay ann\" in run \"r\", \"pay\""]))
    }))

  it.effect("a store that acknowledges without writing", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("a", text, Effect.succeed("a")).pipe(run)
      const world = spoiled((store) => ({
        ...store,
        append: (lease, entries, status) =>
          entries[0].position === 2 ? Effect.void : store.append(lease, entries, status)
      }))
      const report = yield* CrashPoints.explore({ program, world })
      assert.isTrue(found(report).has("RecordLost: record 2 of run \"r\""))
      assert.deepStrictEqual(report.differences[0]?.crashes, [])
    }))

  it.effect("a store that writes half a batch", () =>
    Effect.gen(function*() {
      const program = Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        const lease = yield* store.acquire("batch", Duration.minutes(1))
        const { length } = yield* store.read("batch")
        if (length === 0) {
          yield* store.append(lease, [{ position: 0, step: "", body: "1" }, { position: 1, step: "", body: "2" }])
        }
        yield* store.release(lease)
      })
      const half = spoiled((store) => ({
        ...store,
        append: (lease, entries, status) => store.append(lease, [entries[0]], status)
      }))
      const report = yield* CrashPoints.explore({ program, world: half })
      assert.deepStrictEqual(kinds(report), new Set(["RecordLost"]))
      assert.isTrue(found(report).has("RecordLost: record 1 of run \"batch\""))
      assert.deepStrictEqual((yield* CrashPoints.explore({ program })).differences, [])
    }))

  it.effect("a journal that forgets its last record when its process is gone", () =>
    Effect.gen(function*() {
      class Disk extends Context.Service<Disk, Store>()("Disk") {}
      const program = Effect.andThen(once("ann"), once("bob")).pipe(run)
      const world = Layer.merge(bank, Layer.effect(Disk, CheckpointStore.makeMemory()))
      const process = (forgets: boolean) =>
        Layer.effect(
          CheckpointStore.CheckpointStore,
          Effect.gen(function*() {
            const disk = yield* Disk
            const { length } = yield* disk.read("r")
            // What was there when this process started, less the last.
            const last = forgets && length > 3 ? length - 1 : Infinity
            return { ...disk, read: (runId) => Effect.map(disk.read(runId), (all) => all.toSpliced(last, 1)) }
          })
        )
      const report = yield* CrashPoints.explore({ program, world, process: process(true) })
      assert.isTrue(kinds(report).has("RecordLost"), JSON.stringify(report.differences[0]))
      assert.deepStrictEqual((yield* CrashPoints.explore({ program, world, process: process(false) })).differences, [])
    }))

  it.effect("a lock in the outside that only a finalizer gives back, and that only kill -9 leaves behind", () =>
    Effect.gen(function*() {
      const lock = Bank.use((bank) =>
        bank.locked
          ? Effect.never
          : Effect.sync(() => {
            bank.locked = true
          })
      )
      const unlock = () =>
        Bank.useSync((bank) => {
          bank.locked = false
        })
      const program = Effect.acquireUseRelease(lock, () => once("ann").pipe(run), unlock)
      const explore = (way: CrashPoints.Way) =>
        CrashPoints.explore({ program, world: bank, ways: [way], again: 0, patience: "100 millis" })
      assert.deepStrictEqual(kinds(yield* explore("killed")), new Set(["NeverEnded"]))
      assert.deepStrictEqual((yield* explore("interrupted")).differences, [])
      assert.deepStrictEqual((yield* explore("disconnected")).differences, [])
    }))

  it.effect("a program that says that it has succeeded although its store was gone", () =>
    Effect.gen(function*() {
      const program = once("ann").pipe(
        run,
        Effect.as("paid"),
        Effect.catchTag("CheckpointStoreError", () => Effect.succeed("who cares"))
      )
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.isTrue(found(report).has("OtherResult: the result of the process that crashed"))
      assert.isTrue(report.differences.every(({ crashes }) => crashes[0]?.way !== "killed"))
    }))

  it.effect("an effect that a resumed program believes to be done", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step(
        "pay",
        {},
        Effect.gen(function*() {
          const bank = yield* Bank
          if (bank.locked) return
          bank.locked = true
          yield* pay("ann")
        })
      ).pipe(run)
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.deepStrictEqual(found(report), new Set(["NotDone: \"pay ann\" in run \"r\", \"pay\""]))
    }))

  it.effect("an effect of a step that is executed again although the journal has its result", () =>
    Effect.gen(function*() {
      // The run is cleared and begun anew by whoever resumes it.
      const program = Effect.gen(function*() {
        const bank = yield* Bank
        if (bank.paid.length > 0) yield* Checkpoint.clear("r")
        yield* Checkpoint.step("pay", {}, pay("ann")).pipe(run)
      })
      const report = yield* CrashPoints.explore({ program, world: bank, ways: ["killed"] })
      assert.deepStrictEqual(found(report), new Set(["DoneAgain: \"pay ann\" in run \"r\", \"pay\""]))
    }))

  it.effect("what only a second crash brings about", () =>
    Effect.gen(function*() {
      // Looks at the bank in the first life after the crash, and takes it for known in the second.
      const reconcile = Effect.gen(function*() {
        const bank = yield* Bank
        if (bank.locked) return Checkpoint.notHappened
        bank.locked = true
        return yield* look("ann")
      })
      const program = Checkpoint.step("pay", { effects: "atMostOnce", reconcile }, pay("ann")).pipe(run)
      const explore = (again: number) => CrashPoints.explore({ program, world: bank, again, seed: 3 })
      assert.deepStrictEqual((yield* explore(0)).differences, [])
      const report = yield* explore(200)
      assert.deepStrictEqual(kinds(report), new Set(["DoneTooOften"]))
      assert.isTrue(report.differences.every(({ crashes }) => crashes.length === 2))
    }))
})

describe("CrashPoints finds nothing wrong with", () => {
  const right = <A, E>(name: string, program: Effect.Effect<A, E, CheckpointStore.CheckpointStore | Bank>) =>
    it.effect(name, () =>
      Effect.gen(function*() {
        const report = yield* CrashPoints.check({ program, world: bank, again: runs(3, 100) })
        assert.isAbove(report.stories, 2 * report.boundaries.length)
        assert.strictEqual(report.left, 0)
        assert.strictEqual(report.unreached, 0)
      }))

  right("steps that happen at most once", Effect.andThen(once("ann"), once("bob")).pipe(run))

  right(
    "steps inside of steps, beside each other, and in branches of their own",
    Effect.gen(function*() {
      const parts = yield* Checkpoint.forEach([1, 2, 3], (n) =>
        Checkpoint.step(
          "part",
          text,
          Effect.gen(function*() {
            const draft = yield* Checkpoint.step("draft", text, Effect.as(Effect.sleep(n * 10), `draft ${n}`))
            yield* once(`author ${n}`)
            return `${draft}, reviewed`
          })
        ), { concurrency: 2 })
      yield* once("printer").pipe(Checkpoint.within("print"))
      return parts
    }).pipe(run)
  )

  right(
    "failures that are remembered, and failures that end the run",
    Effect.gen(function*() {
      const card = yield* Checkpoint.step("check", { error: Declined }, new Declined({ card: "blue" })).pipe(
        Effect.as("none"),
        Effect.catchTag("Declined", ({ card }) => Effect.succeed(card))
      )
      yield* once("ann")
      yield* Checkpoint.step("charge", {}, new Declined({ card }))
    }).pipe(run)
  )

  right(
    "a run that suspends itself",
    Effect.gen(function*() {
      yield* once("ann")
      yield* Checkpoint.suspend("wait", "for Monday")
    }).pipe(run)
  )

  right(
    "a run that waits for a person, who decides meanwhile",
    Effect.gen(function*() {
      const bank = yield* Bank
      const working = Effect.gen(function*() {
        yield* once("ann")
        if (!bank.locked) yield* Checkpoint.suspend("wait", "for the key")
        yield* once("bob")
      }).pipe(run)
      yield* Effect.catchTag(working, "RunSuspended", () =>
        Effect.sync(() => {
          bank.locked = true
        }))
      yield* working
    })
  )

  right(
    "sleeps, durable and plain, timeouts and retries",
    Effect.gen(function*() {
      const bank = yield* Bank
      yield* Checkpoint.sleep("cool off", "30 seconds")
      yield* Effect.sleep("5 seconds")
      const flaky = Effect.suspend(() => bank.locked ? pay("ann") : Effect.fail(new Declined({ card: "red" })))
      yield* Checkpoint.step("pay", {}, Effect.ensuring(flaky, Effect.sync(() => (bank.locked = true)))).pipe(
        Effect.retry({ times: 3 }),
        Effect.timeout("1 hour")
      )
      return "done"
    }).pipe(run)
  )

  right(
    "several runs, one after the other and at the same time",
    Effect.forEach(["x", "y", "z"], (id) => once(id).pipe(Checkpoint.run({ id })), { concurrency: 2 })
  )

  right(
    "effects that may happen twice",
    Checkpoint.step("tell", {}, Effect.andThen(pay("ann"), pay("bob"))).pipe(run)
  )

  it.effect(
    "a right program over a SQLite file, with a connection of its own in every process",
    () =>
      Effect.gen(function*() {
        class File extends Context.Service<File, string>()("File") {}
        const process = Layer.unwrap(
          Effect.map(File, (filename) => SqlCheckpointStore.layer.pipe(Layer.provide(NodeSqlite.layer({ filename }))))
        )
        const report = yield* CrashPoints.check({
          program: Effect.andThen(once("ann"), once("bob")).pipe(run),
          world: Layer.merge(bank, Layer.effect(File, sqliteFile)),
          process,
          ways: ["killed", "disconnected"],
          again: 5
        })
        assert.isAbove(report.stories, report.boundaries.length)
      }),
    60_000
  )
})

describe("CrashPoints", () => {
  it.effect("counts what it goes over, before and after each", () =>
    Effect.gen(function*() {
      const { boundaries, effects, exit } = yield* CrashPoints.explore({
        program: Effect.as(once("ann"), "done").pipe(run),
        world: bank,
        ways: ["killed"]
      })
      assert.deepStrictEqual(exit, Exit.succeed("done"))
      assert.deepStrictEqual(
        boundaries.filter(({ moment }) => moment === "before").map(({ what }) => what),
        [
          "acquire in run \"r\"",
          "append RunOpened in run \"r\"",
          "append StepIntended of step \"pay ann\" in run \"r\"",
          "\"pay ann\" in run \"r\", \"pay ann\"",
          "append StepSucceeded of step \"pay ann\" in run \"r\"",
          "append RunCompleted in run \"r\"",
          "release in run \"r\""
        ]
      )
      assert.deepStrictEqual(boundaries.map(({ index }) => index), boundaries.map((_, index) => index + 1))
      assert.strictEqual(boundaries.length, 14)
      const [effect] = effects
      assert.deepStrictEqual(
        [effects.length, effect?.label, effect?.runId, effect?.scope, effect?.atMostOnce, effect?.outcome],
        [1, "pay ann", "r", "pay ann", true, "done"]
      )
      assert.match(effect?.idempotencyKey ?? "", /^[0-9a-f]{64}$/)
    }))

  it.effect("tells where, how, what and again in one message", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("pay", {}, pay("ann", { atMostOnce: true })).pipe(run)
      const error = yield* Effect.flip(CrashPoints.check({ program, world: bank, ways: ["killed"] }))
      assert.isTrue(error._tag === "CrashDifferences")
      assert.deepStrictEqual((yield* Fault.classify(error))._tag, "Permanent")
      for (
        const part of [
          "over 12 boundaries",
          "- DoneTooOften: \"pay ann\" in run \"r\", \"pay\"",
          "    killed at boundary 6, after \"pay ann\" in run \"r\", \"pay\"",
          "    expected: once",
          "    found:    2 times",
          "      life 1: killed at boundary 6",
          "      life 2: \"pay ann\" in run \"r\", \"pay\" done",
          "    this story alone: only: [{ boundary: 6, way: \"killed\" }]"
        ]
      ) assert.include(error.message, part)
      const encoded = yield* Schema.encodeEffect(Schema.toCodecJson(CrashPoints.CrashDifferences))(
        error as CrashPoints.CrashDifferences
      )
      assert.strictEqual(JSON.parse(JSON.stringify(encoded)).stories, 12 + 20)
    }))

  it.effect("tells one story alone when asked to", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("pay", {}, pay("ann", { atMostOnce: true })).pipe(run)
      const only = (boundary: number) =>
        CrashPoints.explore({ program, world: bank, only: [{ boundary, way: "killed" }] })
      const [five, six] = [yield* only(5), yield* only(6)]
      assert.deepStrictEqual([five.stories, six.stories], [1, 1])
      assert.deepStrictEqual([five.differences.length, six.differences.length], [0, 1])
    }))

  it.effect("draws stories when there are more than it may tell, the same ones for the same seed", () =>
    Effect.gen(function*() {
      const crashed = (seed: number) => {
        const log: Array<string> = []
        const program = Effect.andThen(once("ann"), once("bob")).pipe(
          run,
          Effect.onExit((exit) => Effect.sync(() => void log.push(Exit.isSuccess(exit) ? "success" : "failure")))
        )
        return Effect.map(
          CrashPoints.explore({ program, world: bank, limit: 10, again: 3, seed, ways: ["disconnected", "killed"] }),
          ({ left, stories }) => ({ left, stories, log: log.join() })
        )
      }
      const one = yield* crashed(1)
      assert.deepStrictEqual([one.stories, one.left], [13, 20 + 16 - 10])
      assert.deepStrictEqual(yield* crashed(1), one)
      assert.notDeepEqual(yield* crashed(2), one)
    }))

  it.effect("refuses a program without a boundary, one that never ends, and one that ends otherwise every time", () =>
    Effect.gen(function*() {
      const refused = <A, E>(
        program: Effect.Effect<A, E, CheckpointStore.CheckpointStore>,
        options: Partial<CrashPoints.Options<A, E, never>> = {}
      ) =>
        CrashPoints.explore({ program, patience: "50 millis", ...options }).pipe(
          Effect.flip,
          Effect.map((error) => [error.reason, error.detail])
        )
      assert.deepStrictEqual(yield* refused(Checkpoint.now.pipe(Effect.map(String), run)), [
        "NotRepeatable",
        "\"DateTime.Utc(1970-01-01T00:00:00.000Z)\", then \"DateTime.Utc(1970-01-01T00:01:00.000Z)\""
      ])
      assert.deepStrictEqual(yield* refused(Effect.succeed(1)), ["NoBoundaries", ""])
      assert.deepStrictEqual(
        yield* refused(Effect.provide(Effect.void.pipe(run), CheckpointStore.layerMemory)),
        ["NoBoundaries", ""]
      )
      assert.deepStrictEqual(yield* refused(Effect.never), ["NeverEnded", "it did not end within 50ms"])
      assert.deepStrictEqual(
        yield* refused(Effect.never.pipe(run), { maxBoundaries: 100, patience: "1 minute" }),
        ["NeverEnded", "it crossed 100 boundaries"]
      )
      assert.deepStrictEqual(
        yield* refused(Effect.forever(Effect.sleep("1 hour")), { patience: "1 minute" }),
        ["NeverEnded", "it woke up 10000 times"]
      )
      const label = Effect.flatMap(Random.next, (n) => Effect.void.pipe(CrashPoints.effect(`send ${n}`)))
      assert.deepStrictEqual(yield* refused(Checkpoint.step("send", {}, label).pipe(run)), [
        "NotRepeatable",
        "it does other things to the outside"
      ])
    }))

  it.effect("takes an end for as good as the expected one when it is told so", () =>
    Effect.gen(function*() {
      const program = Checkpoint.step("pay", { effects: "atMostOnce" }, pay("ann")).pipe(run)
      const report = yield* CrashPoints.explore({ program, world: bank })
      assert.deepStrictEqual(kinds(report), new Set(["OtherResult"]))
      assert.isTrue(report.differences.every(({ found }) => found.includes("AmbiguousStep")))
      yield* CrashPoints.check({
        program,
        world: bank,
        equals: (_, found) =>
          Exit.isSuccess(found) || Option.exists(Exit.findErrorOption(found), ({ _tag }) => _tag === "AmbiguousStep")
      })
      const now = Effect.map(Checkpoint.now, (at) => ({ at, sum: 7 })).pipe(run)
      yield* CrashPoints.check({
        program: now,
        equals: (expected, found) =>
          Exit.isSuccess(expected) && Exit.isSuccess(found) && expected.value.sum === found.value.sum
      })
    }))

  it.effect("makes a world for every story and what lives in memory for every process, and closes both", () =>
    Effect.gen(function*() {
      const counts = { worlds: 0, processes: 0, open: 0, lives: 0 }
      class World extends Context.Service<World, number>()("World") {}
      class Memory extends Context.Service<Memory, number>()("Memory") {}
      const counted = <I>(tag: Context.Key<I, number>, name: "worlds" | "processes") =>
        Layer.effect(
          tag,
          Effect.acquireRelease(
            Effect.sync(() => (counts.open++, ++counts[name])),
            () => Effect.sync(() => counts.open--)
          )
        )
      const program = Effect.gen(function*() {
        counts.lives++
        yield* World
        yield* Memory
        yield* once("ann")
      }).pipe(run)
      const report = yield* CrashPoints.check({
        program,
        world: Layer.merge(bank, counted(World, "worlds")),
        process: counted(Memory, "processes"),
        again: 0
      })
      // Twice without a crash, and each time once more to see that nothing is done; three lives with a crash.
      assert.strictEqual(counts.worlds, 2 + report.stories)
      assert.isAtMost(counts.processes, 4 + 3 * report.stories)
      assert.isAtLeast(counts.processes, 4 + 2 * report.stories)
      assert.isAtMost(counts.lives, counts.processes)
      assert.strictEqual(counts.open, 0)
    }))

  it.effect("closes the layers of a killed process although its fibers are theirs", () =>
    Effect.gen(function*() {
      class Worker extends Context.Service<Worker, {
        readonly run: <A, E>(work: Effect.Effect<A, E>) => Effect.Effect<A, E>
      }>()("Worker") {}
      let open = 0
      const worker = Layer.effect(
        Worker,
        Effect.gen(function*() {
          const scope = yield* Effect.scope
          yield* Effect.acquireRelease(Effect.sync(() => open++), () => Effect.sync(() => open--))
          return { run: (work) => Effect.flatMap(Effect.forkIn(work, scope), Fiber.join) }
        })
      )
      const program = Effect.gen(function*() {
        const { run } = yield* Worker
        const context = yield* Effect.context<Bank | Checkpoint.Run>()
        yield* run(Effect.provide(Effect.uninterruptible(once("ann")), context))
      }).pipe(run)
      yield* CrashPoints.check({ program, world: bank, process: worker })
      assert.strictEqual(open, 0)
    }))

  it.effect("lets what was asked of the outside arrive, whoever is killed meanwhile", () =>
    Effect.gen(function*() {
      const slow = (to: string, before: number) =>
        Effect.sleep(before).pipe(
          Effect.andThen(Bank.useSync(({ paid }) => void paid.push(to))),
          CrashPoints.effect(`pay ${to}`)
        )
      const program = Checkpoint.forEach(["ann", "bob"], (to) =>
        Checkpoint.step(
          "pay",
          { effects: "atMostOnce", reconcile: look(to) },
          slow(to, to === "ann" ? 1_000 : 10_000)
        ), { concurrency: 2 }).pipe(Effect.andThen(Bank.useSync(({ paid }) => paid.toSorted())), run)
      const { exit } = yield* CrashPoints.check({ program, world: bank })
      assert.deepStrictEqual(exit, Exit.succeed(["ann", "bob"]))
    }))

  it.effect("lets time go by between two lives, so that a durable sleep is shorter and a lease is over", () =>
    Effect.gen(function*() {
      const starts: Array<number> = []
      const program = Effect.gen(function*() {
        const started = yield* Clock.currentTimeMillis
        yield* Checkpoint.sleep("nap", "1 hour")
        starts.push((yield* Clock.currentTimeMillis) - started)
      }).pipe(run)
      const report = yield* CrashPoints.explore({
        program,
        downtime: "50 minutes",
        // After the step that remembers when the sleep is over.
        only: [{ boundary: 6, way: "killed" }]
      })
      assert.strictEqual(report.differences.length, 0)
      const minutes = starts.map((millis) => millis / 60_000)
      // Twice without a crash, each time with a replay after that, and the life that was resumed with its replay.
      assert.deepStrictEqual(minutes, [60, 0, 60, 0, 10, 0])
    }))

  it.effect("moves on by fractions of a millisecond, however late it is", () =>
    Effect.gen(function*() {
      yield* TestClock.adjust(Duration.millis(93_355.673824))
      const wait = Effect.flatMap(Random.nextBetween(0, 1_000), (millis) => Effect.sleep(Duration.millis(millis)))
      const waits = Effect.as(Effect.repeat(wait, { times: 300 }), "awake")
      const program = Checkpoint.step("wait", text, waits).pipe(run)
      const { exit } = yield* CrashPoints.check({ program, ways: ["killed"], limit: 4, again: 0 })
      assert.deepStrictEqual(exit, Exit.succeed("awake"))
    }))

  it.live("needs no virtual time", () =>
    Effect.gen(function*() {
      const program = Effect.andThen(once("ann"), Effect.sleep(1)).pipe(run)
      const report = yield* CrashPoints.check({ program, world: bank, again: 5 })
      assert.isAbove(report.stories, 2 * report.boundaries.length)
    }))

  it.effect("leaves nothing behind when it is interrupted", () =>
    Effect.gen(function*() {
      let open = 0
      const world = Layer.effectDiscard(
        Effect.acquireRelease(Effect.sync(() => open++), () => Effect.sync(() => open--))
      ).pipe(Layer.merge(bank))
      const started = yield* Deferred.make<void>()
      const program = Effect.andThen(Deferred.succeed(started, undefined), Effect.never).pipe(run)
      const fiber = yield* Effect.forkChild(CrashPoints.explore({ program, world }))
      yield* Deferred.await(started)
      assert.strictEqual(open, 1)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(open, 0)
    }))

  it.effect("marks cost nothing and change nothing where nobody explores", () =>
    Effect.gen(function*() {
      assert.strictEqual(yield* Effect.succeed(7).pipe(CrashPoints.effect("a")), 7)
      assert.strictEqual(yield* CrashPoints.effect(Effect.succeed(7), "a"), 7)
      assert.strictEqual(yield* Effect.flip(CrashPoints.effect(Effect.fail("no"), "a", { atMostOnce: false })), "no")
      assert.throws(() => CrashPoints.effect("")(Effect.void), /label/)
    }))

  it.effect("refuses options that make no sense", () =>
    Effect.sync(() => {
      const program = Effect.void
      assert.throws(() => CrashPoints.explore({ program, limit: 0 }), /limit/)
      assert.throws(() => CrashPoints.explore({ program, again: -1 }), /again/)
      assert.throws(() => CrashPoints.explore({ program, downtime: "-1 minute" }), /downtime/)
      assert.throws(() => CrashPoints.explore({ program, patience: Infinity }), /patience/)
      assert.throws(() => CrashPoints.explore({ program, maxBoundaries: 0.5 }), /maxBoundaries/)
    }))
})

describe("CrashPoints.alwaysReplay", () => {
  const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
    const fiber = yield* Effect.forkChild(effect)
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(10)
    return yield* Fiber.join(fiber)
  })

  const makeLog = () => {
    const log: Array<string> = []
    return { log, did: (what: string) => Effect.sync(() => (log.push(what), what)) }
  }

  it.effect("runs a program once more for each of its steps, and each step once", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Effect.gen(function*() {
        yield* did("start")
        const a = yield* Checkpoint.step("a", text, did("a"))
        const b = yield* Checkpoint.step("b", text, did(`${a}b`))
        return yield* Checkpoint.step("c", text, did(`${b}c`))
      }).pipe(run)
      assert.strictEqual(yield* CrashPoints.alwaysReplay(program), "abc")
      assert.deepStrictEqual(log, ["start", "a", "start", "ab", "start", "abc", "start"])
      assert.strictEqual(yield* CrashPoints.alwaysReplay(program), "abc")
      assert.strictEqual(log.length, 8)
      const { records } = yield* Checkpoint.inspect("r")
      assert.strictEqual(records.length, 5)
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("is what its layer does for all that it is provided to", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      yield* Effect.andThen(did("start"), Checkpoint.step("a", text, did("a"))).pipe(run)
      assert.deepStrictEqual(log, ["start", "a", "start"])
    }).pipe(Effect.provide([CheckpointStore.layerMemory, CrashPoints.layerAlwaysReplay])))

  it.effect("cuts off no step that is at work, unless it is around the one that was recorded and may happen twice", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const inner = (name: string) => Checkpoint.step(name, text, did(name))
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("twice", text, Effect.andThen(did("in twice"), Effect.andThen(inner("a"), inner("b"))))
        yield* Checkpoint.step(
          "once",
          { success: Schema.String, effects: "atMostOnce" },
          Effect.andThen(did("in once"), Effect.andThen(inner("c"), inner("d")))
        )
        yield* Checkpoint.forEach(
          [1, 2],
          (n) => Checkpoint.step("beside", {}, Effect.andThen(did(`beside ${n}`), Effect.sleep(n * 10))),
          { concurrency: 2 }
        )
      }).pipe(run)
      yield* inVirtualTime(CrashPoints.alwaysReplay(program))
      assert.deepStrictEqual(
        log,
        ["in twice", "a", "in twice", "b", "in twice", "in once", "c", "d", "beside 1", "beside 2"]
      )
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("starts over after a failure that is remembered and one that is tried again, and after no other", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let down = 2
      const flaky = Effect.suspend(() => down-- > 0 ? Effect.fail(new Declined({ card: "red" })) : Effect.void)
      const retry = Retry.policy({
        backoff: Backoff.constant({ delay: "1 second" }),
        maxAttempts: 3,
        retryIf: () => true
      })
      const program = Effect.gen(function*() {
        yield* did("start")
        yield* Effect.ignore(Checkpoint.step("noted", {}, new Declined({ card: "blue" })))
        yield* Effect.ignore(Checkpoint.step("remembered", { error: Declined }, new Declined({ card: "blue" })))
        yield* Checkpoint.step("retried", { retry }, flaky)
      }).pipe(run)
      yield* inVirtualTime(CrashPoints.alwaysReplay(program))
      assert.strictEqual(log.length, 1 + 1 + 2 + 1)
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("ends as the program does that fails, dies or suspends itself", () =>
    Effect.gen(function*() {
      const before = Checkpoint.step("a", {}, Effect.void)
      const endings: ReadonlyArray<Effect.Effect<void, string | Checkpoint.RunSuspended, Checkpoint.Run>> = [
        Effect.fail("no"),
        Effect.die("bug"),
        Checkpoint.suspend("wait", "for Monday"),
        Effect.interrupt
      ]
      const expected = ["failed", "failed", "suspended", "running"]
      for (const [index, ending] of endings.entries()) {
        const program = Effect.andThen(before, ending).pipe(run)
        const end = Effect.zip(
          Effect.map(Effect.exit(program), (exit) => String(exit).replace(/Interrupt\(\d+\)/, "Interrupt")),
          Checkpoint.status("r")
        )
        const plain = yield* Effect.provide(end, CheckpointStore.layerMemory)
        const replayed = yield* Effect.provide(CrashPoints.alwaysReplay(end), CheckpointStore.layerMemory)
        assert.deepStrictEqual(replayed, plain)
        assert.strictEqual(Option.getOrUndefined(plain[1]), expected[index])
      }
    }))
})
