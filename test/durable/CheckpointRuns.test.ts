import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Option, Schema, Stream } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { TestClock } from "effect/testing"
import { emptyStore, inVirtualTime, killed, kinds, makeLog, statusOf, Stop, test, text } from "./runs.ts"

const once = { success: Schema.String, effects: "atMostOnce" } as const

const bodies = (runId: string) => CheckpointStore.CheckpointStore.use((store) => store.read(runId))

/** Steps of these names, one after the other, that tell what is done. */
const steps = (did: (what: string) => Effect.Effect<string>, ...names: ReadonlyArray<string>) =>
  Effect.forEach(names, (name) => Checkpoint.step(name, text, did(name)))

describe("A program that does not go with its journal", () => {
  const before = (did: (what: string) => Effect.Effect<string>) =>
    Effect.andThen(steps(did, "a", "b", "c"), new Stop()).pipe(Checkpoint.run({ id: "r" }))
  const after = (...names: ReadonlyArray<string>) => steps(Effect.succeed, ...names).pipe(Checkpoint.run({ id: "r" }))

  for (
    const [what, names, expected] of [
      ["renames a step", ["a", "x", "c"], ["step \"b\"", "step \"x\""]],
      ["leaves a step out", ["a", "c"], ["step \"b\"", "step \"c\""]],
      ["puts steps in another order", ["b", "a", "c"], ["step \"a\"", "step \"b\""]],
      ["puts a step between two others", ["a", "x", "b", "c"], ["step \"b\"", "step \"x\""]],
      ["ends early", ["a"], ["step \"b\"", "its end"]]
    ] as const
  ) {
    test(`and ${what} is a mismatch naming both, writes nothing, and the old program finishes the run`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        yield* Effect.flip(before(did))
        const journal = yield* bodies("r")
        const error = yield* Effect.flip(after(...names))
        assert.strictEqual(
          error._tag === "CheckpointMismatch" && [error.expected, error.found].join(),
          expected.join()
        )
        assert.deepStrictEqual(yield* bodies("r"), journal)
        assert.strictEqual(yield* statusOf("r"), "failed")
        yield* steps(did, "a", "b", "c").pipe(Checkpoint.run({ id: "r" }))
        assert.deepStrictEqual(log, ["a", "b", "c"])
        assert.strictEqual(yield* statusOf("r"), "completed")
      }))
  }

  test("may not go on with other steps after it has caught the mismatch", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      yield* Effect.flip(before(did))
      const journal = yield* bodies("r")
      const program = steps(did, "a", "x").pipe(
        Effect.catchTag("CheckpointMismatch", () => steps(did, "b", "c", "d")),
        Checkpoint.run({ id: "r" })
      )
      assert.strictEqual((yield* Effect.flip(program))._tag, "CheckpointMismatch")
      assert.deepStrictEqual(yield* bodies("r"), journal)
      assert.deepStrictEqual(log, ["a", "b", "c"])
    }))

  test("and reads a record with another schema is corrupt, writes nothing, and the old program finishes the run", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      yield* Effect.flip(before(did))
      const journal = yield* bodies("r")
      const other = Checkpoint.step("a", { success: Schema.Finite }, Effect.succeed(1)).pipe(
        Effect.catchTag("CheckpointCorrupt", () => Checkpoint.step("b", text, did("b again"))),
        Checkpoint.run({ id: "r" })
      )
      const error = yield* Effect.flip(other)
      assert.isTrue(error._tag === "CheckpointCorrupt" && error.step === "a")
      assert.deepStrictEqual(yield* bodies("r"), journal)
      yield* steps(did, "a", "b", "c").pipe(Checkpoint.run({ id: "r" }))
      assert.deepStrictEqual(log, ["a", "b", "c"])
    }))

  for (
    const [what, options, tag] of [
      ["another input", { input: { n: 2 } }, "RunConflict"],
      ["no input", {}, "RunConflict"],
      ["another version", { input: { n: 1 }, version: 2 }, "RunConflict"],
      ["a smaller limit for records", { input: { n: 1 }, maxRecordBytes: 1024 }, "RecordTooLarge"]
    ] as const
  ) {
    test(`and has ${what} is refused, and the journal is left as it was`, () =>
      Effect.gen(function*() {
        const program = Checkpoint.step("a", text, Effect.succeed("x".repeat(2000)))
        const first = program.pipe(Checkpoint.run({ id: "r", input: { n: 1 } }))
        const result = yield* first
        const journal = yield* bodies("r")
        const error = yield* Effect.flip(program.pipe(Checkpoint.run({ id: "r", ...options })))
        assert.strictEqual(error._tag, tag)
        assert.deepStrictEqual(yield* bodies("r"), journal)
        assert.strictEqual(yield* first, result)
      }))
  }

  for (
    const [what, damage] of [
      ["cut off", (body: string) => body.slice(0, -5)],
      ["of another shape", () => "{\"_tag\":\"StepSucceeded\"}"],
      ["no JSON", () => "what?"],
      ["empty", () => ""],
      ["of a kind that nobody knows", () => "{\"_tag\":\"StepDreamt\",\"at\":0,\"order\":[0]}"]
    ] as const
  ) {
    test(`a record that is ${what} is corrupt, also for those who look, and left as it is`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const program = steps(did, "a", "b").pipe(Checkpoint.run({ id: "r" }))
        yield* program
        const store = yield* CheckpointStore.CheckpointStore
        const damaged = {
          ...store,
          read: (runId: string) =>
            Effect.map(
              store.read(runId),
              (entries) => entries.map((entry) => entry.step === "b" ? { ...entry, body: damage(entry.body) } : entry)
            )
        }
        const seen = Effect.provideService(CheckpointStore.CheckpointStore, damaged)
        for (
          const effect of [
            program.pipe(Effect.flip, seen),
            Checkpoint.inspect("r").pipe(Effect.flip, seen),
            Checkpoint.rollback("r").pipe(Effect.flip, seen),
            Checkpoint.fork("r", { id: "r2" }).pipe(Effect.flip, seen)
          ]
        ) {
          const error = yield* effect
          assert.isTrue(error._tag === "CheckpointCorrupt" && error.step === "b" && error.runId === "r")
        }
        assert.deepStrictEqual((yield* Checkpoint.list().pipe(seen)).map(({ runId }) => runId), ["r"])
        yield* program
        assert.deepStrictEqual(log, ["a", "b"])
      }))
  }

  test("a suspended run that is asked for other steps stays suspended", () =>
    Effect.gen(function*() {
      const waiting = Effect.andThen(steps(Effect.succeed, "a"), Checkpoint.suspend("b", "wait"))
      yield* Effect.flip(waiting.pipe(Checkpoint.run({ id: "r" })))
      assert.strictEqual((yield* Effect.flip(after("x")))._tag, "CheckpointMismatch")
      assert.strictEqual(yield* statusOf("r"), "suspended")
    }))

  test("a suspended run that replays only, and suspends again, is resumed when it executes something", () =>
    Effect.gen(function*() {
      let came = false
      const program = Effect.gen(function*() {
        yield* steps(Effect.succeed, "a")
        if (!came) return yield* Checkpoint.suspend("b", "wait")
        yield* Checkpoint.step(
          "b",
          {},
          Effect.flatMap(statusOf("r"), (status) => Effect.sync(() => seen.push(status))).pipe(
            Effect.orDie,
            Effect.asVoid
          )
        )
      }).pipe(Checkpoint.run({ id: "r" }))
      const seen: Array<string | undefined> = []
      yield* Effect.flip(program)
      came = true
      yield* program
      assert.deepStrictEqual(seen, ["running"], "at work it is running")
      assert.deepStrictEqual(yield* kinds("r"), [
        "RunOpened",
        "StepSucceeded a",
        "RunSuspended",
        "RunResumed",
        "StepSucceeded b",
        "RunCompleted"
      ])
    }))
})

describe("A run that ends its process again and again", () => {
  test("is a listed dead letter after the bound, and nothing is executed any more", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Effect.andThen(
        steps(did, "a"),
        Checkpoint.step("b", {}, Effect.andThen(did("b"), Effect.die("kill")))
      ).pipe(
        Checkpoint.run({ id: "r", maxCrashes: 3 })
      )
      for (let life = 0; life < 4; life++) yield* killed(program)
      assert.deepStrictEqual(log, ["a", "b", "b", "b"])
      const error = yield* Effect.flip(Effect.catchDefect(program, Effect.die))
      assert.isTrue(error._tag === "RunDeadLettered" && error.crashes === 3)
      assert.deepStrictEqual((yield* Checkpoint.list({ status: "deadLettered" })).map(({ runId }) => runId), ["r"])
      assert.strictEqual((yield* Effect.flip(program))._tag, "RunDeadLettered", "and stays one")
      assert.strictEqual(log.length, 4)
    }))

  test("has a fresh bound when it is revived by hand", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let deadly = true
      const program = Checkpoint.step(
        "b",
        text,
        Effect.andThen(did("b"), Effect.suspend(() => deadly ? Effect.die("kill") : Effect.succeed("done")))
      ).pipe(
        Checkpoint.run({ id: "r", maxCrashes: 2 })
      )
      for (let life = 0; life < 4; life++) yield* killed(program)
      assert.strictEqual(log.length, 2)
      yield* Checkpoint.revive("r")
      assert.strictEqual(yield* statusOf("r"), "suspended")
      yield* killed(program)
      yield* killed(program)
      assert.strictEqual(log.length, 4)
      assert.strictEqual((yield* Effect.flip(program))._tag, "RunDeadLettered")
      yield* Checkpoint.revive("r")
      deadly = false
      assert.strictEqual(yield* program, "done")
    }))

  test("is none as long as it finishes a step in between", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const names = ["a", "b", "c", "d", "e", "f"]
      let life = 0
      const program = Effect.forEach(names, (name, n) =>
        Checkpoint.step(name, text, Effect.suspend(() => n > life ? Effect.die("kill") : did(name)))).pipe(
          Checkpoint.run({ id: "r", maxCrashes: 2 })
        )
      for (; life < names.length - 1; life++) {
        yield* killed(program)
      }
      assert.deepStrictEqual(yield* program, names)
      assert.deepStrictEqual(log, names)
    }))

  test("is none for failing, being suspended, or being interrupted as often as it likes", () =>
    Effect.gen(function*() {
      const suspend = Effect.mapError(Checkpoint.suspend("s", "wait"), (error): Stop | Checkpoint.RunSuspended => error)
      for (const end of [Effect.fail(new Stop()), Effect.interrupt, suspend]) {
        const program = Effect.andThen(Effect.void, () => end).pipe(Checkpoint.run({ id: "r", maxCrashes: 1 }))
        for (let life = 0; life < 3; life++) {
          const exit = yield* Effect.exit(program)
          const error = Option.getOrUndefined(Exit.findErrorOption(exit))
          assert.notStrictEqual(error?._tag, "RunDeadLettered")
        }
      }
    }))

  test("by an at-most-once step whose reconcile finds nothing is a dead letter, too", () =>
    Effect.gen(function*() {
      let tries = 0
      const program = Checkpoint.step(
        "pay",
        { effects: "atMostOnce", reconcile: Effect.succeed(Checkpoint.notHappened) },
        // The process is killed: nothing after this is executed, and the lease is never released.
        Effect.andThen(Effect.sync(() => void tries++), Effect.interrupt)
      ).pipe(Checkpoint.run({ id: "r", maxCrashes: 3 }))
      for (let life = 0; life < 6; life++) yield* killed(program)
      assert.strictEqual(tries, 3)
      assert.strictEqual(yield* statusOf("r"), "deadLettered")
    }))
})

describe("Checkpoint.cancel", () => {
  test("interrupts a run of this process at once, and leaves it to be revived", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let wait = true
      const stopped = yield* Deferred.make<void>()
      const program = Effect.andThen(
        steps(did, "a"),
        Checkpoint.step("b", text, Effect.suspend(() => wait ? Effect.never : did("b"))).pipe(
          Effect.onInterrupt(() => Deferred.succeed(stopped, undefined))
        )
      ).pipe(Checkpoint.run({ id: "r" }))
      const fiber = yield* Effect.forkChild(Effect.flip(program), { startImmediately: true })
      yield* TestClock.adjust(1)
      assert.strictEqual(yield* Checkpoint.cancel("r"), "cancelled")
      yield* Deferred.await(stopped)
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "RunCancelled")
      assert.strictEqual(yield* statusOf("r"), "cancelled")
      assert.strictEqual((yield* Effect.flip(program))._tag, "RunCancelled", "it is not run again")
      assert.strictEqual(yield* Checkpoint.cancel("r"), "cancelled", "nor cancelled again")
      yield* Checkpoint.revive("r")
      wait = false
      assert.strictEqual(yield* program, "b")
      assert.deepStrictEqual(log, ["a", "b"])
    }))

  test("stops a run of another process at its next record", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const reached = yield* Deferred.make<void>()
      const go = yield* Deferred.make<void>()
      const { did, log } = makeLog()
      const program = Effect.andThen(
        Checkpoint.step(
          "a",
          text,
          Effect.andThen(Deferred.succeed(reached, undefined), Effect.as(Deferred.await(go), "a"))
        ),
        steps(did, "b")
      ).pipe(Checkpoint.run({ id: "r" }))
      const other = Effect.provideService(program, CheckpointStore.CheckpointStore, { ...store })
      const fiber = yield* Effect.forkChild(Effect.flip(other), { startImmediately: true })
      yield* Deferred.await(reached)
      yield* Checkpoint.cancel("r")
      const journal = yield* bodies("r")
      yield* Deferred.succeed(go, undefined)
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "RunCancelled")
      assert.deepStrictEqual(yield* bodies("r"), journal, "it wrote nothing after it was cancelled")
      assert.deepStrictEqual(log, [])
    }))

  test("stops a run of another process when it renews its lease", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const program = Checkpoint.step("a", {}, Effect.never).pipe(Checkpoint.run({ id: "r", lease: "30 seconds" }))
      const other = Effect.provideService(program, CheckpointStore.CheckpointStore, { ...store })
      const fiber = yield* Effect.forkChild(Effect.flip(other), { startImmediately: true })
      yield* TestClock.adjust(1)
      yield* Checkpoint.cancel("r")
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "RunCancelled")
    }))

  test("leaves a completed run completed, and a run that is not there is a typed failure", () =>
    Effect.gen(function*() {
      yield* Effect.void.pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual(yield* Checkpoint.cancel("r"), "completed")
      assert.strictEqual((yield* Effect.flip(Checkpoint.cancel("nobody")))._tag, "RunNotFound")
      assert.strictEqual((yield* Effect.flip(Checkpoint.revive("nobody")))._tag, "RunNotFound")
      assert.deepStrictEqual((yield* Checkpoint.list()).map(({ runId }) => runId), ["r"])
    }))

  test("at every turn of the scheduler leaves a run that can be revived and finished, paying once", () =>
    Effect.gen(function*() {
      const cancelAfter = (turns: number) =>
        Effect.gen(function*() {
          const { did: now, log } = makeLog()
          const did = (what: string) => Effect.andThen(Effect.yieldNow, now(what))
          const paid = Effect.sync(() => log.includes("pay") ? Checkpoint.happened("pay") : Checkpoint.notHappened)
          const program = Effect.gen(function*() {
            yield* steps(did, "a")
            yield* Checkpoint.step("pay", { ...once, reconcile: paid }, did("pay"))
            return yield* Checkpoint.forEach(["x", "y"], (name) => steps(did, name), { concurrency: 2 })
          }).pipe(Checkpoint.run({ id: "r" }))
          const fiber = yield* Effect.forkChild(Effect.exit(program))
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          const status = yield* Checkpoint.cancel("r").pipe(
            Effect.catchTag("RunNotFound", () => Effect.as(Fiber.interrupt(fiber), "none" as const))
          )
          yield* Fiber.await(fiber)
          if (status !== "none") yield* Checkpoint.revive("r")
          assert.deepStrictEqual(yield* program, [["x"], ["y"]])
          assert.strictEqual(log.filter((what) => what === "pay").length, 1)
          return status === "completed"
        }).pipe(Effect.provide(emptyStore))
      let turns = 0
      while (!(yield* cancelAfter(turns))) turns++
      assert.isAbove(turns, 6)
    }))
})

describe("A store that never answers", () => {
  const looks: Readonly<Record<string, Effect.Effect<unknown, unknown, CheckpointStore.CheckpointStore>>> = {
    list: Checkpoint.list(),
    status: Checkpoint.status("r"),
    changes: Stream.runDrain(Checkpoint.changes("r")),
    inspect: Checkpoint.inspect("r"),
    clear: Checkpoint.clear("r"),
    cancel: Checkpoint.cancel("r"),
    revive: Checkpoint.revive("r"),
    rollback: Checkpoint.rollback("r"),
    fork: Checkpoint.fork("r", { id: "r2" }),
    prune: Checkpoint.prune({ olderThan: 0 })
  }
  const silent = {
    read: () => Effect.never,
    get: () => Effect.never,
    list: () => Effect.never,
    remove: () => Effect.never
  }
  for (const [name, look] of Object.entries(looks)) {
    test(`is a typed failure of ${name} after 30 seconds`, () =>
      Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        yield* Checkpoint.run(Effect.void, { id: "r" })
        const fiber = yield* look.pipe(
          Effect.provideService(CheckpointStore.CheckpointStore, { ...store, ...silent }),
          Effect.flip,
          Effect.forkChild
        )
        yield* TestClock.adjust("30 seconds")
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error instanceof CheckpointStore.CheckpointStoreError && error.reason._tag === "Unavailable")
      }))
  }
})

describe("Checkpoint.changes", () => {
  test("tells each status that the run comes to, and ends with the run", () =>
    Effect.gen(function*() {
      let came = false
      const program = Effect.suspend(() => came ? Effect.sleep("30 seconds") : Checkpoint.suspend("s", "wait")).pipe(
        Checkpoint.run({ id: "r" })
      )
      const seen = yield* Effect.forkChild(Stream.runCollect(Checkpoint.changes("r")), { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      yield* Effect.flip(program)
      yield* TestClock.adjust("2 seconds")
      came = true
      yield* Effect.forkChild(program, { startImmediately: true })
      yield* TestClock.adjust("35 seconds")
      assert.deepStrictEqual(yield* Fiber.join(seen), ["suspended", "running", "completed"])
    }))

  test("ends when the run is cleared, and fails when the store does", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      yield* Effect.flip(Checkpoint.run(new Stop(), { id: "r" }))
      const seen = yield* Effect.forkChild(Stream.runCollect(Checkpoint.changes("r")), { startImmediately: true })
      yield* TestClock.adjust("2 seconds")
      yield* Checkpoint.clear("r")
      yield* TestClock.adjust("2 seconds")
      assert.deepStrictEqual(yield* Fiber.join(seen), ["failed"])
      const gone = new CheckpointStore.CheckpointStoreError({ operation: "get", reason: { _tag: "Unavailable" } })
      const error = yield* Stream.runCollect(Checkpoint.changes("r")).pipe(
        Effect.provideService(CheckpointStore.CheckpointStore, { ...store, get: () => Effect.fail(gone) }),
        Effect.flip
      )
      assert.strictEqual(error, gone)
    }))
})

describe("Checkpoint.fork", () => {
  const program = (id: string, did: (what: string) => Effect.Effect<string>) =>
    Effect.gen(function*() {
      const a = yield* Checkpoint.step("a", text, did("a"))
      const parts = yield* Checkpoint.forEach(["x", "y"], (name) => Checkpoint.step("part", text, did(name)), {
        name: "parts"
      })
      const b = yield* Checkpoint.step("b", text, did("b"))
      return [a, ...parts, b].join()
    }).pipe(Checkpoint.run({ id, input: { topic: "tides" } }))

  for (
    const [from, again] of [
      ["a", ["a", "x", "y", "b"]],
      ["parts", ["x", "y", "b"]],
      ["parts[1]", ["y", "b"]],
      ["parts[1]/part", ["y", "b"]],
      ["b", ["b"]],
      [undefined, []]
    ] as const
  ) {
    test(`goes on from ${from ?? "the end"}, and never changes the original`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const result = yield* program("r", did)
        const journal = yield* bodies("r")
        const summary = yield* Checkpoint.list()
        yield* Checkpoint.fork("r", from === undefined ? { id: "r2" } : { id: "r2", from })
        assert.strictEqual(yield* statusOf("r2"), "suspended")
        log.length = 0
        assert.strictEqual(yield* program("r2", did), result)
        assert.strictEqual(log.join(), again.join())
        assert.deepStrictEqual(yield* bodies("r"), journal)
        assert.deepStrictEqual((yield* Checkpoint.list()).filter(({ runId }) => runId === "r"), summary)
      }))
  }

  test("has idempotency keys of its own", () =>
    Effect.gen(function*() {
      const keys: Array<string> = []
      const program = (id: string) =>
        Checkpoint.step("a", {}, Effect.asVoid(Effect.map(Checkpoint.idempotencyKey, (key) => keys.push(key)))).pipe(
          Checkpoint.run({ id })
        )
      yield* program("r")
      yield* Checkpoint.fork("r", { id: "r2", from: "a" })
      yield* program("r2")
      assert.strictEqual(new Set(keys).size, 2)
    }))

  test("of a run that is there, or from a step that is not, is a typed failure, and leaves nothing", () =>
    Effect.gen(function*() {
      yield* program("r", Effect.succeed)
      yield* program("taken", Effect.succeed)
      assert.strictEqual((yield* Effect.flip(Checkpoint.fork("r", { id: "taken" })))._tag, "RunExists")
      assert.strictEqual((yield* Effect.flip(Checkpoint.fork("r", { id: "r" })))._tag, "RunExists")
      assert.strictEqual((yield* Effect.flip(Checkpoint.fork("r", { id: "r2", from: "z" })))._tag, "StepNotFound")
      assert.strictEqual((yield* Effect.flip(Checkpoint.fork("nobody", { id: "r2" })))._tag, "RunNotFound")
      assert.deepStrictEqual((yield* Checkpoint.list()).map(({ runId }) => runId), ["r", "taken"])
      assert.throws(() => Checkpoint.fork("r", { id: "" }), /id/)
    }))

  test("of a run that another process works on takes what is recorded by then", () =>
    Effect.gen(function*() {
      const go = yield* Deferred.make<void>()
      const { did } = makeLog()
      const long = (id: string) =>
        Effect.andThen(steps(did, "a"), Checkpoint.step("b", {}, Deferred.await(go))).pipe(Checkpoint.run({ id }))
      const fiber = yield* Effect.forkChild(long("r"), { startImmediately: true })
      yield* TestClock.adjust(1)
      yield* Checkpoint.fork("r", { id: "r2" })
      assert.deepStrictEqual(yield* kinds("r2"), ["RunOpened", "StepSucceeded a", "RunForked"])
      yield* Deferred.succeed(go, undefined)
      yield* Fiber.join(fiber)
      yield* long("r2")
    }))

  test("interrupted at any turn leaves the whole new run or none", () =>
    Effect.gen(function*() {
      yield* program("r", Effect.succeed)
      const whole = (yield* bodies("r")).length + 1
      const seen = new Set<number>()
      for (let turns = 0; turns < 40; turns++) {
        const id = `fork ${turns}`
        const fiber = yield* Effect.forkChild(Checkpoint.fork("r", { id }))
        for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
        yield* Fiber.interrupt(fiber)
        seen.add((yield* bodies(id)).length)
      }
      assert.isTrue([...seen].every((length) => length === 0 || length === whole), [...seen].join())
      assert.isTrue(seen.has(whole))
    }))
})

describe("Checkpoint.rollback", () => {
  test("takes back the last step, the last n, or all from a step on, and they are executed again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = steps(did, "a", "b", "c", "d").pipe(Checkpoint.run({ id: "r" }))
      yield* program
      for (
        const [options, again] of [
          [{}, ["d"]],
          [{ steps: 3 }, ["b", "c", "d"]],
          [{ to: "c" }, ["c", "d"]],
          [{ to: "a" }, ["a", "b", "c", "d"]],
          [{ steps: 4 }, ["a", "b", "c", "d"]]
        ] as const
      ) {
        log.length = 0
        yield* Checkpoint.rollback("r", options)
        assert.strictEqual(yield* statusOf("r"), "suspended")
        assert.deepStrictEqual(yield* program, ["a", "b", "c", "d"])
        assert.strictEqual(log.join(), again.join())
        yield* program
        assert.strictEqual(log.join(), again.join(), "and then they are done")
      }
    }))

  test("lets another program go on from where it went back to", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      yield* steps(did, "a", "b", "c").pipe(Checkpoint.run({ id: "r" }))
      yield* Checkpoint.rollback("r", { to: "b" })
      log.length = 0
      assert.deepStrictEqual(yield* steps(did, "a", "x", "y", "z").pipe(Checkpoint.run({ id: "r" })), [
        "a",
        "x",
        "y",
        "z"
      ])
      assert.deepStrictEqual(log, ["x", "y", "z"])
    }))

  test("takes back no more than its limit, and changes nothing then", () =>
    Effect.gen(function*() {
      const names = ["a", "b", "c", "d", "e", "f", "g"]
      const program = steps(Effect.succeed, ...names).pipe(Checkpoint.run({ id: "r" }))
      yield* program
      const journal = yield* bodies("r")
      const error = yield* Effect.flip(Checkpoint.rollback("r", { to: "a" }))
      assert.isTrue(error._tag === "RollbackTooFar" && error.steps === 7 && error.limit === 5)
      assert.strictEqual((yield* Effect.flip(Checkpoint.rollback("r", { steps: 6 })))._tag, "RollbackTooFar")
      assert.strictEqual((yield* Effect.flip(Checkpoint.rollback("r", { to: "z" })))._tag, "StepNotFound")
      assert.strictEqual((yield* Effect.flip(Checkpoint.rollback("nobody")))._tag, "RunNotFound")
      assert.deepStrictEqual(yield* bodies("r"), journal)
      yield* Checkpoint.rollback("r", { to: "a", limit: 7 })
      assert.deepStrictEqual(yield* program, names)
    }))

  test("never executes an at-most-once step again on its own: it is ambiguous, or reconciled", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = (reconcile?: Effect.Effect<Checkpoint.Reconciliation<string>>) =>
        Effect.andThen(
          steps(did, "a"),
          Checkpoint.step("pay", reconcile === undefined ? once : { ...once, reconcile }, did("pay"))
        ).pipe(Checkpoint.run({ id: "r" }))
      yield* program()
      yield* Checkpoint.rollback("r", { to: "a" })
      assert.strictEqual((yield* Effect.flip(program()))._tag, "AmbiguousStep")
      assert.strictEqual(yield* program(Effect.succeed(Checkpoint.happened("paid"))), "paid")
      assert.deepStrictEqual(log, ["a", "pay", "a"])
      // A program that does not ask for it any more may end all the same: whoever rolled back knows of it.
      yield* Checkpoint.rollback("r", { to: "a" })
      yield* steps(did, "a").pipe(Checkpoint.run({ id: "r" }))
    }))

  test("takes back steps of parallel branches, and those inside of others", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Checkpoint.forEach(["x", "y"], (name) =>
        Checkpoint.step("outer", text, Effect.andThen(Checkpoint.step("inner", text, did(`inner ${name}`)), did(name))))
        .pipe(
          Checkpoint.run({ id: "r" })
        )
      yield* program
      yield* Checkpoint.rollback("r", { to: "each[1]" })
      log.length = 0
      assert.deepStrictEqual(yield* program, ["x", "y"])
      assert.deepStrictEqual(log, ["inner y", "y"])
      yield* Checkpoint.rollback("r")
      log.length = 0
      yield* program
      assert.deepStrictEqual(log, ["y"])
    }))

  test("of a run that somebody works on is RunLeased", () =>
    Effect.gen(function*() {
      yield* Effect.forkChild(Checkpoint.step("a", {}, Effect.never).pipe(Checkpoint.run({ id: "r" })), {
        startImmediately: true
      })
      yield* TestClock.adjust(1)
      assert.strictEqual((yield* Effect.flip(Checkpoint.rollback("r")))._tag, "RunLeased")
    }))
})

describe("Checkpoint.run migrate", () => {
  const v1 = (did: (what: string) => Effect.Effect<string>) =>
    Effect.gen(function*() {
      yield* Checkpoint.step("draft", text, Effect.andThen(Checkpoint.step("note", text, did("note")), did("draft")))
      yield* Checkpoint.forEach(["x", "y"], (name) => Checkpoint.step("part", text, did(name)), { name: "parts" })
      yield* steps(did, "obsolete")
      return yield* new Stop()
    }).pipe(Checkpoint.run({ id: "r", version: 1 }))

  const v2 = (did: (what: string) => Effect.Effect<string>) =>
    Effect.gen(function*() {
      const outline = yield* Checkpoint.step(
        "outline",
        text,
        Effect.andThen(Checkpoint.step("note", text, did("note 2")), did("outline"))
      )
      const sections = yield* Checkpoint.forEach(
        ["x", "y"],
        (name) => Checkpoint.step("part", text, did(`${name} 2`)),
        { name: "sections" }
      )
      return [outline, ...sections, ...yield* steps(did, "publish")]
    })

  const migrate = (run: Checkpoint.RecordedRun) =>
    Checkpoint.removeStep("obsolete")(
      Checkpoint.renameStep("parts", "sections")(Checkpoint.renameStep("draft", "outline")(run))
    )

  test("goes on with renamed and removed steps, and executes none again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      yield* Effect.flip(v1(did))
      log.length = 0
      const program = v2(did).pipe(Checkpoint.run({ id: "r", version: 2, migrate }))
      assert.deepStrictEqual(yield* program, ["draft", "x", "y", "publish"])
      assert.deepStrictEqual(log, ["publish"])
      assert.strictEqual((yield* Checkpoint.inspect("r")).version, 2)
      assert.deepStrictEqual(yield* program, ["draft", "x", "y", "publish"])
      // What was migrated needs no migration any more, and the old version is refused.
      assert.deepStrictEqual(yield* v2(did).pipe(Checkpoint.run({ id: "r", version: 2 })), [
        "draft",
        "x",
        "y",
        "publish"
      ])
      assert.strictEqual((yield* Effect.flip(v1(did)))._tag, "RunConflict")
    }))

  test("is asked once, with what the run was, and may give steps a result of their own", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      yield* Effect.flip(
        Effect.andThen(steps(did, "a", "b"), new Stop()).pipe(Checkpoint.run({ id: "r", input: { n: 1 } }))
      )
      const asked: Array<Checkpoint.RecordedRun> = []
      const program = steps(did, "a", "between", "b", "c").pipe(
        Checkpoint.run({
          id: "r",
          version: 2,
          input: { n: 1, m: 2 },
          migrate: (run) => {
            asked.push(run)
            const [a, ...rest] = run.steps
            if (a === undefined) return undefined
            const between = { id: "between", outcome: { _tag: "Succeeded", value: "put in" } } as const
            return { ...run, input: { n: 1, m: 2 }, steps: [a, between, ...rest] }
          }
        })
      )
      assert.deepStrictEqual(yield* program, ["a", "put in", "b", "c"])
      assert.deepStrictEqual(yield* program, ["a", "put in", "b", "c"])
      assert.deepStrictEqual(log, ["a", "b", "c"])
      assert.deepStrictEqual(asked, [{
        version: 1,
        input: { n: 1 },
        steps: [
          { id: "a", outcome: { _tag: "Succeeded", value: "a" } },
          { id: "b", outcome: { _tag: "Succeeded", value: "b" } }
        ],
        undo: []
      }])
    }))

  test("that gives nothing is a conflict, and one with two steps of one id a defect; neither writes", () =>
    Effect.gen(function*() {
      yield* Effect.flip(v1(Effect.succeed))
      const journal = yield* bodies("r")
      const refusing = Effect.void.pipe(Checkpoint.run({ id: "r", version: 2, migrate: () => undefined }))
      assert.strictEqual((yield* Effect.flip(refusing))._tag, "RunConflict")
      const doubled = Effect.void.pipe(
        Checkpoint.run({ id: "r", version: 2, migrate: (run) => ({ ...run, steps: [...run.steps, ...run.steps] }) })
      )
      assert.isTrue(Exit.hasDies(yield* Effect.exit(doubled)))
      assert.deepStrictEqual(yield* bodies("r"), journal)
    }))

  test("keeps remembered failures, and attempts that may have taken effect", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const failing = Checkpoint.step("try", { error: Stop }, Effect.andThen(did("try"), new Stop()))
      const pay = (name: string) => Checkpoint.step(name, once, Effect.andThen(did("pay"), Effect.interrupt))
      const program = (version: number, name: string) =>
        Effect.andThen(Effect.ignore(failing), pay(name)).pipe(
          Checkpoint.run({ id: "r", version, migrate: Checkpoint.renameStep("pay", "charge") })
        )
      yield* Effect.exit(program(1, "pay"))
      const error = yield* Effect.flip(program(2, "charge"))
      assert.isTrue(error._tag === "AmbiguousStep" && error.step === "charge")
      assert.deepStrictEqual(log, ["try", "pay"])
    }))

  test("cut off before or after it is written is asked again, or not", () =>
    Effect.gen(function*() {
      for (const written of [false, true]) {
        yield* Effect.gen(function*() {
          const { did, log } = makeLog()
          yield* Effect.flip(v1(did))
          const store = yield* CheckpointStore.CheckpointStore
          const lost = Effect.fail(
            new CheckpointStore.CheckpointStoreError({ operation: "append", reason: { _tag: "Unavailable" } })
          )
          const cut: CheckpointStore.CheckpointStore["Service"] = {
            ...store,
            append: (lease, entries, status) =>
              Effect.andThen(written ? store.append(lease, entries, status) : Effect.void, lost)
          }
          const program = v2(did).pipe(Checkpoint.run({ id: "r", version: 2, migrate }))
          yield* program.pipe(Effect.provideService(CheckpointStore.CheckpointStore, cut), Effect.flip)
          log.length = 0
          assert.deepStrictEqual(yield* program, ["draft", "x", "y", "publish"])
          assert.deepStrictEqual(log, ["publish"])
        }).pipe(Effect.provide(emptyStore))
      }
    }))
})

describe("Checkpoint.prune", () => {
  const allStatuses = Effect.gen(function*() {
    yield* Effect.void.pipe(Checkpoint.run({ id: "completed" }))
    yield* Effect.flip(Checkpoint.run(new Stop(), { id: "failed" }))
    yield* Effect.flip(Checkpoint.run(Checkpoint.suspend("s", "wait"), { id: "suspended" }))
    const escalated = new Checkpoint.RunSuspended({ runId: "escalated", step: "s", reason: "ask", escalationId: "e" })
    yield* Effect.flip(Checkpoint.run(escalated, { id: "escalated" }))
    yield* Effect.exit(Checkpoint.run(Effect.interrupt, { id: "running" }))
    yield* Effect.flip(Checkpoint.run(new Stop(), { id: "cancelled" }))
    yield* Checkpoint.cancel("cancelled")
    const dying = Checkpoint.run(Effect.never, { id: "deadLettered", maxCrashes: 1 })
    yield* killed(Effect.timeoutOption(dying, 0))
    yield* Effect.flip(dying)
    yield* TestClock.adjust("1 hour")
  })

  test("removes what has completed long ago, and never a run that is to go on", () =>
    Effect.gen(function*() {
      yield* inVirtualTime(allStatuses)
      const left = Effect.map(Checkpoint.list(), (runs) => new Set(runs.map(({ status }) => status)))
      yield* Effect.void.pipe(Checkpoint.run({ id: "new" }))
      assert.deepStrictEqual(yield* Checkpoint.prune({ olderThan: "1 hour" }), ["completed"])
      assert.deepStrictEqual(yield* Checkpoint.prune({ olderThan: "1 hour" }), [])
      const statuses = ["failed", "cancelled", "deadLettered"] as const
      assert.deepStrictEqual(yield* Checkpoint.prune({ olderThan: "1 hour", statuses, limit: 2 }), [
        "failed",
        "cancelled"
      ])
      assert.deepStrictEqual(yield* Checkpoint.prune({ olderThan: "1 hour", statuses }), ["deadLettered"])
      assert.deepStrictEqual(yield* left, new Set(["completed", "suspended", "escalated", "running"]))
      assert.strictEqual(yield* statusOf("new"), "completed")
    }))

  it("refuses statuses of runs that are to go on", () => {
    for (const status of ["running", "suspended", "escalated"]) {
      const statuses = JSON.parse(JSON.stringify([status]))
      assert.throws(() => Checkpoint.prune({ olderThan: 0, statuses }), /statuses/)
    }
  })

  test("leaves alone a run that somebody works on, or that has changed meanwhile", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      yield* Effect.flip(Checkpoint.run(new Stop(), { id: "busy" }))
      yield* Effect.flip(Checkpoint.run(new Stop(), { id: "resumed" }))
      yield* TestClock.adjust("1 hour")
      const stale = yield* store.list()
      yield* store.acquire("busy", Duration.hours(2))
      yield* Effect.flip(Checkpoint.run(Checkpoint.suspend("s", "wait"), { id: "resumed" }))
      const removed = yield* Checkpoint.prune({ olderThan: "1 minute", statuses: ["failed"] }).pipe(
        Effect.provideService(CheckpointStore.CheckpointStore, { ...store, list: () => Effect.succeed(stale) })
      )
      assert.deepStrictEqual(removed, [])
      assert.strictEqual((yield* store.list()).length, 2)
    }))

  test("interrupted at any turn leaves each run whole or gone, and no lease", () =>
    Effect.gen(function*() {
      for (let turns = 0; turns < 30; turns++) {
        yield* Effect.gen(function*() {
          const ids = ["a", "b", "c"]
          for (const id of ids) yield* steps(Effect.succeed, "x", "y").pipe(Checkpoint.run({ id }))
          yield* TestClock.adjust("1 hour")
          const fiber = yield* Effect.forkChild(Checkpoint.prune({ olderThan: "1 minute" }))
          for (let turn = 0; turn < turns; turn++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          const left = yield* Checkpoint.list()
          assert.isTrue(left.every(({ lease }) => lease === undefined))
          for (const id of ids) {
            const { length } = yield* bodies(id)
            assert.strictEqual(length, left.some(({ runId }) => runId === id) ? 4 : 0)
          }
        }).pipe(Effect.provide(emptyStore))
      }
    }))
})

describe("Checkpoint.run clearOnSuccess", () => {
  test("removes a run that has completed, and no other", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let fail = true
      const program = Effect.andThen(steps(did, "a"), Effect.suspend(() => fail ? new Stop() : Effect.succeed("done")))
        .pipe(
          Checkpoint.run({ id: "r", clearOnSuccess: true })
        )
      yield* Effect.flip(program)
      assert.strictEqual(yield* statusOf("r"), "failed")
      fail = false
      assert.strictEqual(yield* program, "done")
      assert.deepStrictEqual(yield* Checkpoint.list(), [])
      assert.deepStrictEqual(log, ["a"])
      yield* program
      assert.deepStrictEqual(log, ["a", "a"], "the same id begins a new run")
    }))
})
