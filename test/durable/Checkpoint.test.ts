import { assert, describe } from "@effect/vitest"
import { Deferred, Duration, Effect, Exit, Fiber, Option, Redacted, Schema } from "effect"
import { Checkpoint, CheckpointStore, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { replaying } from "../support/replaying.ts"

const it = replaying({
  "what steps do is told to the listener": "it counts what is told, also of the steps that are replayed",
  "a step that timed out and is in no record does not disturb the order":
    "the timeout is outside of a step, and begins anew in every life",
  "a resumed run reads its journal once and writes one record a step": "it counts what is asked of the store",
  "a branch that suspends lets the others finish, and the first by order is reported":
    "the branches sleep outside of a step, anew in every life",
  "current tells run and scope": "it counts how often it is told outside of a step"
})

class Full extends Schema.TaggedError<Full>()("Full", { room: Schema.Finite }) {}
class Lost extends Schema.TaggedError<Lost>()("Lost", {}) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}
class Late extends Schema.TaggedError<Late>()("Late", {}) {
  readonly [Fault.verdictOf] = Fault.timedOut
}
class Stop extends Schema.TaggedError<Stop>()("Stop", {}) {}

const stop = Checkpoint.step("stop", {}, new Stop())

/** Says what was really done, and how often. */
const makeLog = () => {
  const log: Array<string> = []
  return { log, did: (what: string) => Effect.sync(() => void log.push(what)) }
}

const test = (name: string, body: () => Effect.Effect<void, unknown, CheckpointStore.CheckpointStore>) =>
  it.effect(name, () => Effect.suspend(body).pipe(Effect.provide(CheckpointStore.layerMemory)))

/** Runs an effect to its end, moving the clock as long as it waits. */
const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(1)
  return yield* Fiber.join(fiber)
})

const kinds = (runId: string) =>
  Effect.map(Checkpoint.inspect(runId), ({ records }) => records.map((record) => record.kind))
const steps = (runId: string) =>
  Effect.map(
    Checkpoint.inspect(runId),
    ({ records }) => records.filter((record) => record.step !== "").map((record) => record.step)
  )
const statusOf = (runId: string) => Effect.map(Checkpoint.status(runId), Option.getOrUndefined)

describe("Checkpoint.step", () => {
  test("a finished step is not run again, and gives the value it gave", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let stopped = false
      const program = Effect.gen(function*() {
        const date = yield* Checkpoint.step("a", { success: Schema.Date }, Effect.as(did("a"), new Date(7)))
        if (!stopped) yield* stop
        return date
      }).pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual((yield* Effect.flip(program))._tag, "Stop")
      stopped = true
      assert.deepStrictEqual(yield* program, new Date(7))
      assert.deepStrictEqual(yield* program, new Date(7))
      assert.deepStrictEqual(log, ["a"])
    }))

  test("a step is named by its scopes, its name and its occurrence", () =>
    Effect.gen(function*() {
      const empty = (name: string) => Checkpoint.step(name, {}, Effect.void)
      yield* Effect.gen(function*() {
        yield* empty("turn")
        yield* empty("turn")
        yield* Checkpoint.step("outer", {}, Effect.andThen(empty("inner"), empty("inner")))
        yield* Checkpoint.forEach(["x", "y"], () => empty("write"), { name: "section" })
        yield* Checkpoint.forEach(["x"], () => empty("write"), { name: "section", key: (item) => item })
        yield* Checkpoint.all({ left: empty("l"), right: empty("r") })
        yield* empty("a").pipe(Checkpoint.within("k"))
        yield* empty("a").pipe(Checkpoint.within("k"))
        yield* empty("a/b#2[3]")
        yield* empty("[k]")
        yield* empty("each[]")
        yield* empty("half \ud83d, tab \t, whole 🙂")
      }).pipe(Checkpoint.run({ id: "r" }))
      assert.deepStrictEqual(yield* steps("r"), [
        "turn",
        "turn#2",
        "outer/inner",
        "outer/inner#2",
        "outer",
        "section[0]/write",
        "section[1]/write",
        "section#2[x]/write",
        "all[left]/l",
        "all[right]/r",
        "[k]/a",
        "[k]#2/a",
        "a%2Fb%232%5B3%5D",
        "%5Bk%5D",
        "each%5B%5D",
        "half %D83D, tab %9, whole 🙂"
      ])
    }))

  test("a failure is remembered when an error schema is given", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Checkpoint.step("a", { error: Full }, Effect.andThen(did("a"), new Full({ room: 3 }))).pipe(
        Checkpoint.run({ id: "r" })
      )
      assert.deepStrictEqual(yield* Effect.flip(program), new Full({ room: 3 }))
      assert.deepStrictEqual(yield* Effect.flip(program), new Full({ room: 3 }))
      assert.deepStrictEqual(log, ["a"])
    }))

  test("a failure is noted without its value, and the step run again, when there is no error schema", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Checkpoint.step("a", {}, Effect.andThen(did("a"), new Full({ room: 3 }))).pipe(
        Checkpoint.run({ id: "r" })
      )
      yield* Effect.flip(program)
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["a", "a"])
      const { records } = yield* Checkpoint.inspect("r")
      assert.deepStrictEqual(records[1], {
        position: 1,
        at: 0,
        kind: "StepFailed",
        step: "a",
        verdict: "Permanent",
        error: "Full"
      })
    }))

  test("a failure that the error schema does not accept is only noted", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Checkpoint.step("a", { error: Full }, Effect.andThen(did("a"), new Stop())).pipe(
        Checkpoint.run({ id: "r" })
      )
      yield* Effect.flip(program)
      assert.strictEqual((yield* Effect.flip(program))._tag, "Stop")
      assert.deepStrictEqual(log, ["a", "a"])
    }))

  test("Fault.Idempotent says inside a step which kind it is", () =>
    Effect.gen(function*() {
      const seen: Array<boolean> = []
      const look = Effect.map(Fault.Idempotent, (idempotent) => void seen.push(idempotent))
      yield* Effect.gen(function*() {
        yield* Checkpoint.step("a", {}, look)
        yield* Checkpoint.step("b", { effects: "atMostOnce" }, look)
        yield* Checkpoint.step("c", { effects: "atMostOnce" }, Checkpoint.step("d", {}, look))
      }).pipe(Fault.idempotent, Checkpoint.run({ id: "r" }))
      assert.deepStrictEqual(seen, [true, false, true])
    }))

  test("a step inside a finished step is not asked for again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let stopped = false
      const program = Checkpoint.step(
        "outer",
        {},
        Effect.gen(function*() {
          yield* Checkpoint.step("inner", {}, did("inner"))
          if (!stopped) return yield* new Stop()
          yield* did("outer")
        })
      ).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      stopped = true
      yield* program
      yield* program
      assert.deepStrictEqual(log, ["inner", "outer"])
    }))

  test("a value that its schema does not accept is a typed failure that does not quote it", () =>
    Effect.gen(function*() {
      const error = yield* Checkpoint.step(
        "a",
        { success: Schema.Struct({ n: Schema.Finite }) },
        Effect.succeed({ n: Number.NaN })
      ).pipe(Checkpoint.run({ id: "r" }), Effect.flip)
      assert.isTrue(error._tag === "StepNotEncodable" && error.reason === "Value")
      assert.include(error.message, "$.n")
      assert.include(error.message, "found a number")
      assert.notInclude(error.message, "NaN")
    }))

  test("a schema that holds a Redacted is refused before the step runs", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const secret = Redacted.make("hunter2")
      const refused = <S extends Schema.Codec<unknown, unknown>>(success: S, value: S["Type"]) =>
        Checkpoint.step("a", { success }, Effect.as(did("a"), value)).pipe(
          Checkpoint.run({ id: "r" }),
          Effect.flip,
          Effect.map((error) => error._tag === "StepNotEncodable" && error.reason)
        )
      class Login extends Schema.Class<Login>("Login")({ password: Schema.RedactedFromValue(Schema.String) }) {}
      interface Tree {
        readonly secret: Redacted.Redacted | undefined
        readonly next: Tree | undefined
      }
      const Tree: Schema.Codec<Tree, unknown> = Schema.Struct({
        secret: Schema.UndefinedOr(Schema.Redacted(Schema.String)),
        next: Schema.UndefinedOr(Schema.suspend(() => Tree))
      })
      const found = [
        yield* refused(Schema.Redacted(Schema.String), secret),
        yield* refused(Schema.RedactedFromValue(Schema.String), secret),
        yield* refused(Schema.Array(Schema.Struct({ k: Schema.optional(Schema.Redacted(Schema.String)) })), []),
        yield* refused(Schema.Option(Schema.Redacted(Schema.String)), Option.some(secret)),
        yield* refused(Login, new Login({ password: secret })),
        yield* refused(Schema.Record(Schema.String, Schema.Redacted(Schema.String)), { secret }),
        yield* refused(Tree, { secret, next: undefined })
      ]
      assert.deepStrictEqual(found, found.map(() => "Redacted"))
      assert.deepStrictEqual(log, [])
      const error = yield* Checkpoint.step("a", {
        error: Schema.Struct({ token: Schema.Redacted(Schema.String) })
      }, Effect.fail({ token: secret })).pipe(Checkpoint.run({ id: "r" }), Effect.flip)
      assert.isTrue("_tag" in error && error._tag === "StepNotEncodable")
      const store = yield* CheckpointStore.CheckpointStore
      assert.notInclude(JSON.stringify(yield* store.read("r")), "hunter2")
    }))

  test("a Redacted inside an untyped value never reaches the store in clear", () =>
    Effect.gen(function*() {
      const value = { nested: [Redacted.make("hunter2")] }
      yield* Checkpoint.step("a", { success: Schema.Unknown }, Effect.succeed(value)).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.flip
      )
      const store = yield* CheckpointStore.CheckpointStore
      assert.notInclude(JSON.stringify(yield* store.read("r")), "hunter2")
    }))

  test("what steps do is told to the listener", () =>
    Effect.gen(function*() {
      const events: Array<string> = []
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", {}, Effect.void)
        yield* Checkpoint.step("b", { effects: "atMostOnce" }, new Lost())
      }).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.provideService(Telemetry.Listener, (event) => {
          if (event._tag === "StepCompleted") events.push(`${event.step} ${event.replayed ? "again" : "first"}`)
          if (event._tag === "StepAmbiguous") events.push(`${event.step} ambiguous`)
          if (event._tag === "RunChanged") events.push(event.status)
        })
      )
      yield* Effect.flip(program)
      yield* Effect.flip(program)
      assert.deepStrictEqual(events, [
        "running",
        "a first",
        "b ambiguous",
        "failed",
        "running",
        "a again",
        "b ambiguous",
        "failed"
      ])
    }))
})

describe("Checkpoint.step at most once", () => {
  const once = <E, R, E2 = never>(
    execute: Effect.Effect<void, E, R>,
    reconcile?: Effect.Effect<Checkpoint.Reconciliation<void>, E2>
  ) => Checkpoint.step("pay", { effects: "atMostOnce", reconcile }, execute).pipe(Checkpoint.run({ id: "r" }))

  test("the intent is written before the step runs", () =>
    Effect.gen(function*() {
      let seen: ReadonlyArray<string> = []
      const store = yield* CheckpointStore.CheckpointStore
      yield* once(Effect.map(store.read("r"), (entries) => {
        seen = entries.map((entry) => entry.body.replace(/.*"_tag":"(\w+)".*/, "$1"))
      }))
      assert.deepStrictEqual(seen, ["RunOpened", "StepIntended"])
      assert.deepStrictEqual(yield* kinds("r"), ["RunOpened", "StepIntended", "StepSucceeded", "RunCompleted"])
    }))

  for (const [name, failure] of [["an ambiguous failure", new Lost()], ["a timeout", new Late()]] as const) {
    test(`${name} is an AmbiguousStep now and on resume, and the step is not run again`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const program = once(Effect.andThen(did("pay"), Effect.fail<Lost | Late>(failure)))
        const now = yield* Effect.flip(program)
        const later = yield* Effect.flip(program)
        assert.deepStrictEqual(
          [now, later].map((error) => error._tag === "AmbiguousStep" && [error.step, error.reason]),
          [["pay", "Failed"], ["pay", "Unfinished"]]
        )
        assert.deepStrictEqual(log, ["pay"])
        assert.strictEqual(yield* statusOf("r"), "failed")
      }))
  }

  test("a defect is an AmbiguousStep now and on resume", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = once(Effect.andThen(did("pay"), Effect.die("boom")))
      const errors = [yield* Effect.flip(program), yield* Effect.flip(program)]
      assert.deepStrictEqual(
        errors.map((error) => error._tag === "AmbiguousStep" && error.reason),
        ["Died", "Unfinished"]
      )
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("an interruption leaves the attempt open, and resuming is an AmbiguousStep", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const started = yield* Deferred.make<void>()
      const program = once(
        did("pay").pipe(
          Effect.andThen(Deferred.succeed(started, undefined)),
          Effect.andThen(Effect.never)
        )
      )
      const fiber = yield* Effect.forkChild(program)
      yield* Deferred.await(started)
      yield* Fiber.interrupt(fiber)
      assert.strictEqual(yield* statusOf("r"), "running")
      const error = yield* Effect.flip(program)
      assert.strictEqual(error._tag, "AmbiguousStep")
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("any other typed failure says that nothing was done, and the step runs again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let full = true
      const program = once(Effect.suspend(() => full ? Effect.fail(new Full({ room: 0 })) : did("pay")))
      assert.strictEqual((yield* Effect.flip(program))._tag, "Full")
      full = false
      yield* program
      yield* program
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("reconcile that finds the effect gives the step its result, without running it", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Checkpoint.step("pay", {
        success: Schema.String,
        effects: "atMostOnce",
        reconcile: Effect.as(did("look"), Checkpoint.happened("receipt 7"))
      }, Effect.andThen(did("pay"), new Lost())).pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual(yield* program, "receipt 7")
      assert.strictEqual(yield* program, "receipt 7")
      assert.deepStrictEqual(log, ["pay", "look"])
    }))

  test("reconcile that finds nothing lets the failure through, and the step runs on resume", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let down = true
      const program = once(
        Effect.suspend(() => down ? Effect.fail(new Lost()) : did("pay")),
        Effect.as(did("look"), Checkpoint.notHappened)
      )
      assert.strictEqual((yield* Effect.flip(program))._tag, "Lost")
      down = false
      yield* program
      assert.deepStrictEqual(log, ["look", "pay"])
    }))

  test("reconcile decides on resume over what a crash left open", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let crash = true
      const program = once(
        Effect.andThen(did("pay"), Effect.suspend(() => crash ? Effect.interrupt : Effect.void)),
        Effect.as(did("look"), Checkpoint.notHappened)
      )
      assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(program)))
      crash = false
      yield* program
      assert.deepStrictEqual(log, ["pay", "look", "pay"])
    }))

  test("reconcile that cannot tell is an AmbiguousStep, and is asked again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = once(Effect.andThen(did("pay"), new Lost()), Effect.as(did("look"), Checkpoint.unknown))
      assert.strictEqual((yield* Effect.flip(program))._tag, "AmbiguousStep")
      assert.strictEqual((yield* Effect.flip(program))._tag, "AmbiguousStep")
      assert.deepStrictEqual(log, ["pay", "look", "look"])
    }))

  test("what was found out about one attempt says nothing about the next", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const reconcile = Checkpoint.step(
        "ask",
        { success: Schema.Literal("not happened") },
        Effect.as(did("ask"), "not happened" as const)
      )
        .pipe(Effect.as(Checkpoint.notHappened))
      const program = Checkpoint.step(
        "pay",
        { effects: "atMostOnce", reconcile },
        Effect.andThen(did("pay"), Effect.interrupt)
      ).pipe(Checkpoint.run({ id: "r" }))
      for (let i = 0; i < 3; i++) yield* Effect.exit(program)
      assert.deepStrictEqual(log, ["pay", "ask", "pay", "ask", "pay"])
      assert.deepStrictEqual(
        (yield* steps("r")).filter((step) => step.endsWith("ask")),
        ["pay/~reconcile/ask", "pay/~reconcile#2/ask"]
      )
    }))
})

describe("Checkpoint.run", () => {
  test("a run ends completed, failed, suspended or escalated, and an interrupted one stays running", () =>
    Effect.gen(function*() {
      const suspended = (escalationId?: string) =>
        new Checkpoint.RunSuspended({ runId: "", step: "s", escalationId, reason: "waiting" })
      yield* Checkpoint.run(Effect.void, { id: "completed" })
      yield* Effect.ignore(Checkpoint.run(new Stop(), { id: "failed" }))
      yield* Effect.exit(Checkpoint.run(Effect.die("boom"), { id: "died" }))
      yield* Effect.ignore(Checkpoint.run(suspended(), { id: "suspended" }))
      yield* Effect.ignore(Checkpoint.run(suspended("e1"), { id: "escalated" }))
      yield* Effect.exit(Checkpoint.run(Effect.interrupt, { id: "interrupted" }))
      const runs = yield* Checkpoint.list()
      assert.deepStrictEqual(runs.map((run) => [run.runId, run.status, run.lease]), [
        ["completed", "completed", undefined],
        ["failed", "failed", undefined],
        ["died", "failed", undefined],
        ["suspended", "suspended", undefined],
        ["escalated", "escalated", undefined],
        ["interrupted", "running", undefined]
      ])
      assert.deepStrictEqual((yield* Checkpoint.list({ status: "escalated" })).map((run) => run.runId), ["escalated"])
    }))

  test("a suspension that the program handles does not suspend the run", () =>
    Effect.gen(function*() {
      yield* new Checkpoint.RunSuspended({ runId: "r", step: "s", reason: "waiting" }).pipe(
        Effect.catchTag("RunSuspended", () => Effect.void),
        Checkpoint.run({ id: "r" })
      )
      assert.strictEqual(yield* statusOf("r"), "completed")
    }))

  test("the same id with another input is a conflict, whatever the order of keys", () =>
    Effect.gen(function*() {
      const program = (input: unknown) => Checkpoint.run(Effect.void, { id: "r", input })
      yield* program({ a: 1, b: [2.0] })
      yield* program({ b: [2], a: 1 })
      const error = yield* Effect.flip(program({ a: 1, b: [3] }))
      assert.deepStrictEqual(
        error._tag === "RunConflict" && [error.reason, error.expected, error.found],
        ["Input", "{\"a\":1,\"b\":[2]}", "{\"a\":1,\"b\":[3]}"]
      )
      assert.strictEqual((yield* Effect.flip(program(undefined)))._tag, "RunConflict")
    }))

  test("a conflict of long inputs shows where they differ, and little more", () =>
    Effect.gen(function*() {
      const program = (last: string) =>
        Checkpoint.run(Effect.void, { id: "r", input: { text: "x".repeat(10_000), z: `${last}${"y".repeat(10_000)}` } })
      yield* program("first")
      const { message } = yield* Effect.flip(program("other"))
      assert.include(message, "firsty")
      assert.include(message, "othery")
      assert.isBelow(message.length, 400)
    }))

  test("the same id with another version is a conflict", () =>
    Effect.gen(function*() {
      yield* Checkpoint.run(Effect.void, { id: "r" })
      const error = yield* Effect.flip(Checkpoint.run(Effect.void, { id: "r", version: 2 }))
      assert.deepStrictEqual(
        error._tag === "RunConflict" && [error.reason, error.expected, error.found],
        ["Version", "1", "2"]
      )
    }))

  test("an input that is not JSON, or holds a secret, is refused", () =>
    Effect.gen(function*() {
      const errors = yield* Effect.forEach(
        [{ at: undefined, f: () => 1 }, { key: Redacted.make("hunter2") }, Number.NaN],
        (input) => Effect.flip(Checkpoint.run(Effect.void, { id: "r", input }))
      )
      assert.deepStrictEqual(
        errors.map((error) => error._tag === "InputNotJson" && error.path),
        ["$.f", "$.key", "$"]
      )
      assert.deepStrictEqual(yield* Checkpoint.list(), [])
    }))

  it("options that cannot work are named when the run is built", () => {
    const option = (options: Checkpoint.RunOptions) => {
      try {
        return Checkpoint.run(Effect.void, options)
      } catch (error) {
        return error instanceof Fault.InvalidConfig ? error.option : error
      }
    }
    assert.deepStrictEqual(
      [{ id: "" }, { id: "half \ud83d" }, { id: "r", version: 1.5 }, { id: "r", lease: 10 }, {
        id: "r",
        lease: Infinity
      }].map(option),
      ["id", "id", "version", "lease", "lease"]
    )
  })

  test("a store that dies over a record stops the run, and what it wrote is found on resume", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const { did, log } = makeLog()
      const dying = CheckpointStore.CheckpointStore.of({
        ...store,
        append: (lease, entry, status) =>
          Effect.andThen(store.append(lease, entry, status), entry[0].step === "a" ? Effect.die("boom") : Effect.void)
      })
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", {}, did("a")).pipe(Effect.catchDefect(() => Effect.void))
        yield* Checkpoint.step("b", {}, did("b"))
      }).pipe(Checkpoint.run({ id: "r" }))
      const error = yield* program.pipe(Effect.provideService(CheckpointStore.CheckpointStore, dying), Effect.flip)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Rejected")
      assert.deepStrictEqual(log, ["a"])
      yield* program
      assert.deepStrictEqual(log, ["a", "b"])
    }))

  for (const operation of ["acquire", "read", "get", "append"] as const) {
    test(`a store that never answers to ${operation} is a typed failure when the time of the lease is over`, () =>
      Effect.gen(function*() {
        const store = yield* CheckpointStore.CheckpointStore
        const hanging = CheckpointStore.CheckpointStore.of({ ...store, [operation]: () => Effect.never })
        const fiber = yield* Checkpoint.run(Effect.void, { id: "r" }).pipe(
          Effect.provideService(CheckpointStore.CheckpointStore, hanging),
          Effect.flip,
          Effect.forkChild
        )
        yield* TestClock.adjust("30 seconds")
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Unavailable")
        assert.include(error.message, operation)
      }))
  }

  test("a program that asks for another step than the journal has is a mismatch that names both", () =>
    Effect.gen(function*() {
      const program = (names: ReadonlyArray<string>) =>
        Effect.forEach(names, (name) => Checkpoint.step(name, {}, Effect.void)).pipe(Checkpoint.run({ id: "r" }))
      yield* program(["a", "b", "c"])
      const other = yield* Effect.flip(program(["a", "x", "c"]))
      const more = yield* Effect.flip(program(["a", "b", "c", "d"]))
      const fewer = yield* Effect.flip(program(["a", "b"]))
      assert.deepStrictEqual(
        [other, more, fewer].map((error) => error._tag === "CheckpointMismatch" && [error.expected, error.found]),
        [["step \"b\"", "step \"x\""], ["its end", "step \"d\""], ["step \"c\"", "its end"]]
      )
      assert.strictEqual(yield* statusOf("r"), "completed")
      yield* program(["a", "b", "c"])
    }))

  test("a program that ends before the journal does has failed", () =>
    Effect.gen(function*() {
      const step = Checkpoint.step("a", {}, Effect.void)
      yield* Effect.ignore(Checkpoint.run(Effect.andThen(step, new Stop()), { id: "r" }))
      const error = yield* Effect.flip(Checkpoint.run(Effect.void, { id: "r" }))
      assert.strictEqual(error._tag, "CheckpointMismatch")
      assert.strictEqual(yield* statusOf("r"), "failed")
      yield* Checkpoint.run(step, { id: "r" })
      assert.strictEqual(yield* statusOf("r"), "completed")
    }))

  test("a program that puts other branches where the journal has a step is a mismatch", () =>
    Effect.gen(function*() {
      const empty = Checkpoint.step("a", {}, Effect.void)
      yield* Checkpoint.run(Effect.andThen(empty, stop), { id: "r" }).pipe(Effect.ignore)
      const error = yield* Effect.flip(Checkpoint.run(Checkpoint.forEach([1], () => empty), { id: "r" }))
      assert.deepStrictEqual(
        error._tag === "CheckpointMismatch" && [error.expected, error.found],
        ["step \"a\"", "the branches \"each\""]
      )
    }))

  test("a failure that was handled and then goes away may send the resumed program another way", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let down = true
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", {}, did("a"))
        const primary = Checkpoint.step("primary", {}, Effect.suspend(() => down ? new Stop() : did("primary")))
        yield* Effect.catchTag(primary, "Stop", () => Checkpoint.step("secondary", {}, did("secondary")))
        yield* Checkpoint.step("after", {}, did("after"))
        if (down) return yield* new Stop()
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      down = false
      yield* program
      yield* program
      // What came after the failure belongs to the way that the program has left.
      assert.deepStrictEqual(log, ["a", "secondary", "after", "primary", "after"])
    }))

  test("a step that timed out and is in no record does not disturb the order", () =>
    Effect.gen(function*() {
      let slow = true
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", {}, Effect.suspend(() => slow ? Effect.never : Effect.void)).pipe(
          Effect.timeoutOption("1 second")
        )
        yield* Checkpoint.step("b", {}, Effect.void)
        if (slow) return yield* new Stop()
      }).pipe(Checkpoint.run({ id: "r" }))
      const fiber = yield* Effect.forkChild(Effect.exit(program))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* steps("r"), ["b"])
      slow = false
      yield* program
    }))

  test("a record that does not decode names run and step, and is not run again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = <S extends Schema.Codec<unknown, unknown>>(success: S, value: S["Type"]) =>
        Checkpoint.step("a", { success }, Effect.as(did("a"), value)).pipe(Checkpoint.run({ id: "r" }))
      yield* program(Schema.String, "text")
      const error = yield* Effect.flip(program(Schema.Finite, 1))
      assert.deepStrictEqual(
        error._tag === "CheckpointCorrupt" && [error.runId, error.step],
        ["r", "a"]
      )
      for (const part of ["Expected", "found a string", "raise its version"]) assert.include(error.message, part)
      assert.notInclude(error.message, "text")
      assert.deepStrictEqual(log, ["a"])
    }))

  test("a remembered failure without an error schema to read it is corrupt, and not run again", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const execute = Effect.andThen(did("a"), new Full({ room: 1 }))
      yield* Checkpoint.step("a", { error: Full }, execute).pipe(Checkpoint.run({ id: "r" }), Effect.ignore)
      const error = yield* Checkpoint.step("a", {}, execute).pipe(Checkpoint.run({ id: "r" }), Effect.flip)
      assert.strictEqual(error._tag, "CheckpointCorrupt")
      assert.deepStrictEqual(log, ["a"])
    }))

  for (
    const [name, body, step] of [
      ["is no JSON", "{", "a"],
      ["is of an unknown kind", "{\"_tag\":\"StepVanished\",\"at\":0}", "a"],
      ["has an order that is not its own", "{\"_tag\":\"StepSucceeded\",\"at\":0,\"order\":[0,1],\"value\":null}", "a"],
      ["opens the run twice", "{\"_tag\":\"RunOpened\",\"at\":0,\"version\":1}", ""]
    ] as const
  ) {
    test(`a journal with a record that ${name} is corrupt`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        yield* Checkpoint.run(Effect.void, { id: "r" })
        const store = yield* CheckpointStore.CheckpointStore
        const lease = yield* store.acquire("r", Duration.minutes(1))
        yield* store.append(lease, [{ position: 2, step, body }])
        yield* store.release(lease)
        const error = yield* Effect.flip(Checkpoint.run(Checkpoint.step("a", {}, did("a")), { id: "r" }))
        assert.deepStrictEqual(error._tag === "CheckpointCorrupt" && [error.runId, error.step], ["r", step])
        assert.strictEqual((yield* Effect.flip(Checkpoint.inspect("r")))._tag, "CheckpointCorrupt")
        assert.deepStrictEqual(log, [])
      }))
  }

  test("inspect shows the journal, clear deletes it, and a run that is not there is a typed failure", () =>
    Effect.gen(function*() {
      yield* Checkpoint.step("a", { success: Schema.Finite }, Effect.succeed(7)).pipe(
        Checkpoint.run({ id: "r", version: 3, input: { n: 1 } })
      )
      const run = yield* Checkpoint.inspect("r")
      assert.deepStrictEqual([run.version, run.status, run.entries], [3, "completed", 3])
      assert.deepStrictEqual(run.records, [
        { position: 0, at: 0, kind: "RunOpened", step: "", value: { n: 1 } },
        { position: 1, at: 0, kind: "StepSucceeded", step: "a", value: 7 },
        { position: 2, at: 0, kind: "RunCompleted", step: "" }
      ])
      yield* Checkpoint.clear("r")
      yield* Checkpoint.clear("r")
      assert.strictEqual(yield* statusOf("r"), undefined)
      assert.strictEqual((yield* Effect.flip(Checkpoint.inspect("r")))._tag, "RunNotFound")
      yield* Checkpoint.step("b", {}, Effect.void).pipe(Checkpoint.run({ id: "r", input: "new" }))
    }))

  test("a resumed run reads its journal once and writes one record a step", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      const calls: Array<string> = []
      const counting = CheckpointStore.CheckpointStore.of({
        ...store,
        read: (runId) => Effect.andThen(Effect.sync(() => calls.push("read")), store.read(runId)),
        append: (lease, entry, status) =>
          Effect.andThen(
            Effect.sync(() => calls.push(`append ${entry[0].body.length < 120}`)),
            store.append(lease, entry, status)
          )
      })
      const program = (n: number) =>
        Effect.forEach(Array.from({ length: n }), () =>
          Checkpoint.step("s", { success: Schema.String }, Effect.succeed("x"))).pipe(
            Effect.andThen(new Stop()),
            Checkpoint.run({ id: "r" }),
            Effect.provideService(CheckpointStore.CheckpointStore, counting),
            Effect.ignore
          )
      yield* program(200)
      calls.length = 0
      yield* program(201)
      assert.deepStrictEqual(calls, ["read", "append true", "append true", "append true"])
    }))
})

describe("Checkpoint scopes", () => {
  test("steps called at the same time in one scope are refused the first time", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Effect.all([Checkpoint.step("a", {}, did("a")), Checkpoint.step("b", {}, did("b"))], {
        concurrency: 2
      }).pipe(Checkpoint.run({ id: "r" }))
      const first = yield* Effect.flip(program)
      assert.deepStrictEqual(
        first._tag === "ConcurrentSteps" && [first.running, first.requested],
        ["a", "b"]
      )
      assert.notInclude(log, "b")
      assert.strictEqual((yield* Effect.flip(program))._tag, "ConcurrentSteps")
    }))

  test("a step beside a group of branches, and two branches of one key, are refused", () =>
    Effect.gen(function*() {
      const empty = Checkpoint.step("a", {}, Effect.void)
      const beside = Effect.all([Checkpoint.forEach([1, 2], () => empty), empty], { concurrency: 2 })
      assert.strictEqual((yield* Effect.flip(Checkpoint.run(beside, { id: "1" })))._tag, "ConcurrentSteps")
      const sameKey = Checkpoint.forEach([1, 2], () => empty, { key: () => "k" })
      assert.strictEqual((yield* Effect.flip(Checkpoint.run(sameKey, { id: "2" })))._tag, "ConcurrentSteps")
      const sameWithin = Effect.all([1, 2].map(() => empty.pipe(Checkpoint.within("k"))), { concurrency: 2 })
      assert.strictEqual((yield* Effect.flip(Checkpoint.run(sameWithin, { id: "3" })))._tag, "ConcurrentSteps")
      const apart = Effect.all(["k", "l"].map((key) => empty.pipe(Checkpoint.within(key))), { concurrency: 2 })
      yield* Checkpoint.run(apart, { id: "4" })
    }))

  test("a branch that suspends lets the others finish, and the first by order is reported", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const branch = Effect.fnUntraced(function*(n: number) {
        if (n % 2 === 1) {
          return yield* new Checkpoint.RunSuspended({ runId: "r", step: `ask ${n}`, reason: "waiting" })
        }
        yield* Effect.sleep(`${n} seconds`)
        yield* Checkpoint.step("work", { effects: "atMostOnce" }, did(`work ${n}`))
      })
      const program = Checkpoint.forEach([3, 1, 2, 4], branch, { concurrency: "unbounded" }).pipe(
        Checkpoint.run({ id: "r" })
      )
      const fiber = yield* Effect.forkChild(Effect.flip(program))
      yield* TestClock.adjust("4 seconds")
      const error = yield* Fiber.join(fiber)
      assert.strictEqual(error._tag === "RunSuspended" && error.step, "ask 3")
      assert.deepStrictEqual(log, ["work 2", "work 4"])
      assert.strictEqual(yield* statusOf("r"), "suspended")
    }))

  test("another failure of a branch interrupts the others", () =>
    Effect.gen(function*() {
      const branch = (n: number) => n === 0 ? Effect.andThen(Effect.sleep("1 second"), new Stop()) : Effect.never
      const fiber = yield* Checkpoint.forEach([0, 1], branch, { concurrency: 2 }).pipe(
        Checkpoint.run({ id: "r" }),
        Effect.flip,
        Effect.forkChild
      )
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Stop")
    }))

  test("current tells run and scope", () =>
    Effect.gen(function*() {
      const seen: Array<unknown> = []
      const look = Effect.map(Checkpoint.current, (at) => void seen.push(at))
      yield* Effect.andThen(look, Checkpoint.forEach([1], () => Checkpoint.step("s", {}, look))).pipe(
        Checkpoint.run({ id: "r" })
      )
      assert.deepStrictEqual(seen, [{ runId: "r", scope: "" }, { runId: "r", scope: "each[0]/s" }])
    }))

  const Delays = Schema.Array(Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 5 }))).check(
    Schema.isMinLength(4),
    Schema.isMaxLength(4)
  )
  it.effect.prop(
    "branches that finish in another order on resume get their own results",
    [Delays, Delays, Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 12 }))],
    ([first, second, cut]) =>
      Effect.gen(function*() {
        const executions = new Map<string, number>()
        const program = (delays: ReadonlyArray<number>, cutAt: number) => {
          let done = 0
          const part = (branch: number, name: string) =>
            Checkpoint.step(
              name,
              { success: Schema.String },
              Effect.gen(function*() {
                yield* Effect.sleep(delays[branch] ?? 0)
                if (done++ >= cutAt) return yield* new Stop()
                const key = `${branch}/${name}`
                executions.set(key, (executions.get(key) ?? 0) + 1)
                return key
              })
            )
          return Checkpoint.forEach([0, 1, 2, 3], (branch) =>
            Effect.all([part(branch, "x"), part(branch, "y"), part(branch, "x")]), { concurrency: 3 }).pipe(
              Checkpoint.run({ id: "r" })
            )
        }
        yield* inVirtualTime(Effect.exit(program(first, cut)))
        assert.deepStrictEqual(
          yield* inVirtualTime(program(second, Infinity)),
          [0, 1, 2, 3].map((n) => [`${n}/x`, `${n}/y`, `${n}/x`])
        )
        for (const [key, count] of executions) {
          assert.isAtMost(count, key.endsWith("x") ? 2 : 1)
        }
      }).pipe(Effect.provide(CheckpointStore.layerMemory)),
    { arbitrary: { runs: 60, seed: 1 } }
  )
})
