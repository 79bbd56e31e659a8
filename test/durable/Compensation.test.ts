import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Layer, Option, Redacted, Schema } from "effect"
import {
  Backoff,
  Checkpoint,
  CheckpointStore,
  Compensation,
  EscalationQueue,
  Fault,
  Retry,
  Telemetry
} from "effect-resilience"
import { TestClock } from "effect/testing"

class Down extends Schema.TaggedError<Down>()("Down", { why: Schema.String }) {}
class Other extends Schema.TaggedError<Other>()("Other", {}) {}
class Busy extends Schema.TaggedError<Busy>()("Busy", {}) {
  readonly [Fault.verdictOf] = Fault.overloaded()
}
class Slow extends Schema.TaggedError<Slow>()("Slow", {}) {
  readonly [Fault.verdictOf] = Fault.timedOut
}

type Services = CheckpointStore.CheckpointStore | EscalationQueue.EscalationQueue

const World = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)

const test = (name: string, body: () => Effect.Effect<void, unknown, Services>) =>
  it.effect(name, () => Effect.suspend(body).pipe(Effect.provide(World)))

/** What was really done, and the compensations that undo it. */
const makeWorld = () => {
  const log: Array<string> = []
  const did = (what: string) => Effect.sync(() => (log.push(what), what))
  const undo = Compensation.make("undo", { input: Schema.String }, (what) => did(`-${what}`))
  const once = Compensation.make("undoOnce", { input: Schema.String, effects: "atMostOnce" }, (what) => did(`-${what}`))
  const step = (name: string, what = name) => Checkpoint.step(name, { success: Schema.String, undo }, did(what))
  const saga = Compensation.saga({ name: "saga", undo: [undo, once], error: Down })
  const run = Checkpoint.run({ id: "r" })
  return { log, did, undo, once, step, saga, run }
}

const kinds = Effect.map(
  Checkpoint.inspect("r"),
  ({ records }) => records.map(({ kind, step }) => `${kind} ${step}`.trim())
)
const status = Effect.map(Checkpoint.status("r"), Option.getOrUndefined)
const twice = Retry.policy({ maxAttempts: 2, backoff: Backoff.constant({ delay: "1 second" }) })
const down = new Down({ why: "no hotel" })

const openEscalation = Effect.gen(function*() {
  const queue = yield* EscalationQueue.EscalationQueue
  const open = yield* queue.list({ status: "open" })
  assert.lengthOf(open, 1)
  const [escalation] = open
  return escalation === undefined ? yield* Effect.die("no escalation") : escalation
})

const decide = (decision: EscalationQueue.Decision) =>
  Effect.flatMap(openEscalation, ({ id }) => EscalationQueue.decide(id, decision, { by: "ann" }))

const suspended = <A, E, R>(run: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const error = yield* Effect.flip(run)
    assert.instanceOf(error, Checkpoint.RunSuspended)
    assert.strictEqual(yield* status, "escalated")
  })

describe("A saga that fails for good", () => {
  test("undoes its steps, the latest first, and fails with what it failed with", () =>
    Effect.gen(function*() {
      const { log, run, saga, step } = makeWorld()
      const program = Effect.gen(function*() {
        yield* step("flight")
        yield* step("hotel")
        yield* step("car")
        return yield* down
      }).pipe(saga, run)
      assert.deepStrictEqual(yield* Effect.flip(program), down)
      assert.deepStrictEqual(log, ["flight", "hotel", "car", "-car", "-hotel", "-flight"])
      assert.strictEqual(yield* status, "failed")
      const before = yield* kinds
      assert.deepStrictEqual(before.slice(-5), [
        "SagaFailed saga~",
        "StepSucceeded saga~/~undo[car]/undo",
        "StepSucceeded saga~/~undo[hotel]/undo",
        "StepSucceeded saga~/~undo[flight]/undo",
        "RunFailed"
      ])
      assert.deepStrictEqual(yield* Effect.flip(program), down)
      assert.lengthOf(log, 6)
    }))

  test("says what it failed with, and what became of its steps, where it has no schema for its failure", () =>
    Effect.gen(function*() {
      const { run, step, undo } = makeWorld()
      const program = step("flight").pipe(
        Effect.andThen(down),
        Compensation.saga({ name: "trip", undo: [undo] }),
        run
      )
      const settled = [{ step: "trip~/flight", compensation: "undo", outcome: "undone" }] as const
      const failed = { runId: "r", saga: "trip~", reason: "Failed", failure: "Down", settled } as const
      assert.deepStrictEqual(
        yield* Effect.flip(program),
        new Compensation.SagaFailed({ ...failed, cause: down })
      )
      // What went wrong is not told by the journal, which could tell a secret.
      const resumed = yield* Effect.flip(program)
      assert.deepStrictEqual(resumed, new Compensation.SagaFailed(failed))
      assert.include(resumed.message, `run "r": saga "trip" failed (Down)`)
    }))

  test("fails with SagaFailed for a failure that its schema does not accept, and for one too large to write", () =>
    Effect.gen(function*() {
      const { log, saga, step } = makeWorld()
      const ending = (id: string, error: Down | Other) =>
        step("a").pipe(
          Effect.andThen(Effect.fail(error)),
          saga,
          Checkpoint.run({ id, maxRecordBytes: 1024 }),
          Effect.flip
        )
      for (const [id, error] of [["other", new Other()], ["large", new Down({ why: "x".repeat(2000) })]] as const) {
        for (let life = 0; life < 2; life++) {
          const failed = yield* ending(id, error)
          assert.instanceOf(failed, Compensation.SagaFailed)
          assert.strictEqual(failed.failure, error._tag)
        }
      }
      assert.deepStrictEqual(log, ["a", "-a", "a", "-a"])
    }))

  test("dies with nothing left behind", () =>
    Effect.gen(function*() {
      const { log, run, saga, step } = makeWorld()
      const program = step("a").pipe(Effect.andThen(Effect.die(new TypeError("a bug"))), saga, run)
      const failed = yield* Effect.flip(program)
      assert.instanceOf(failed, Compensation.SagaFailed)
      assert.strictEqual(failed.reason, "Died")
      assert.instanceOf(failed.cause, TypeError)
      assert.deepStrictEqual(log, ["a", "-a"])
    }))

  test("never goes forward again, also if the step that failed would succeed now", () =>
    Effect.gen(function*() {
      const { did, log, run, saga, step } = makeWorld()
      const store = yield* CheckpointStore.CheckpointStore
      let isDown = true
      const program = Effect.gen(function*() {
        yield* step("a")
        yield* Checkpoint.step("b", {}, Effect.suspend(() => isDown ? Effect.fail(down) : Effect.asVoid(did("b"))))
      }).pipe(saga, run)
      // Opened, a tried, a, b failed, the saga failed; then the store is gone.
      yield* Effect.flip(program.pipe(Effect.provideService(CheckpointStore.CheckpointStore, cutAfter(store, 5))))
      assert.deepStrictEqual(log, ["a", "-a"])
      assert.include(yield* kinds, "SagaFailed saga~")
      isDown = false
      assert.deepStrictEqual(yield* Effect.flip(program), down)
      assert.deepStrictEqual(log, ["a", "-a", "-a"])
    }))

  test("undoes nothing of a run that succeeds, and a completed run stays as it is", () =>
    Effect.gen(function*() {
      const { log, run, saga, step } = makeWorld()
      let fails = false
      const program = Effect.tap(step("a"), () => fails ? down : Effect.void).pipe(saga, run)
      assert.strictEqual(yield* program, "a")
      assert.strictEqual(yield* program, "a")
      fails = true
      const records = yield* kinds
      const error = yield* Effect.flip(program)
      assert.instanceOf(error, Checkpoint.CheckpointMismatch)
      assert.include(error.message, `the failure of the saga "saga"`)
      assert.deepStrictEqual(yield* kinds, records)
      assert.strictEqual(yield* status, "completed")
      assert.deepStrictEqual(log, ["a"])
    }))

  test("can be handled by the run, which goes on with other steps, the same way when it is resumed", () =>
    Effect.gen(function*() {
      const { did, log, run, saga, step } = makeWorld()
      let crash = true
      const program = Effect.gen(function*() {
        const trip = yield* step("a").pipe(
          Effect.andThen(Effect.suspend(() => down)),
          saga,
          Effect.catchTag("Down", ({ why }) => Effect.succeed(why))
        )
        yield* Checkpoint.step("tell", { success: Schema.String }, did(`tell ${trip}`))
        if (crash) return yield* Effect.interrupt
        return trip
      }).pipe(run)
      yield* Effect.exit(program)
      crash = false
      assert.strictEqual(yield* program, "no hotel")
      assert.strictEqual(yield* program, "no hotel")
      assert.deepStrictEqual(log, ["a", "-a", "tell no hotel"])
      assert.strictEqual(yield* status, "completed")
    }))
})

/** A store as a process sees it that loses it after some records. */
const cutAfter = (store: CheckpointStore.CheckpointStore["Service"], records: number) => {
  let written = 0
  return CheckpointStore.CheckpointStore.of({
    ...store,
    append: (lease, entries, status) =>
      Effect.suspend(() =>
        ++written <= records
          ? store.append(lease, entries, status)
          : new CheckpointStore.CheckpointStoreError({ operation: "append", reason: { _tag: "Rejected" } })
      )
  })
}

describe("What is no failure of a saga", () => {
  test("an interruption, a suspension, a store that is gone, and a mistake of the program leave it to be resumed", () =>
    Effect.gen(function*() {
      const { log, saga, step } = makeWorld()
      const store = yield* CheckpointStore.CheckpointStore
      const endings = {
        interruption: Effect.interrupt,
        suspension: Checkpoint.suspend("shop", "it opens on Monday"),
        concurrency: Effect.all([Checkpoint.step("x", {}, Effect.sleep(1)), Checkpoint.step("x", {}, Effect.void)], {
          concurrency: 2
        }),
        encoding: Checkpoint.step("y", { success: Schema.Redacted(Schema.String) }, Effect.succeed(Redacted.make("s"))),
        queue: new EscalationQueue.EscalationError({ operation: "ask", reason: { _tag: "QueueFull", capacity: 1 } }),
        store: Effect.void
      }
      for (const [id, ending] of Object.entries(endings)) {
        let first = true
        const program = Effect.gen(function*() {
          yield* step("a")
          if (first) yield* ending
          yield* step("b")
          return "done"
        }).pipe(saga, Checkpoint.run({ id }))
        const used = id === "store" ? cutAfter(store, 3) : store
        const exit = yield* Effect.exit(Effect.provideService(program, CheckpointStore.CheckpointStore, used))
        assert.isTrue(Exit.isFailure(exit), id)
        assert.deepStrictEqual(log, ["a"], id)
        first = false
        assert.strictEqual(yield* program, "done", id)
        assert.deepStrictEqual(log, ["a", "b"], id)
        log.length = 0
      }
    }))

  test("a timeout around it leaves it to be resumed, one inside undoes it", () =>
    Effect.gen(function*() {
      const { log, saga, step } = makeWorld()
      const waiting = Effect.andThen(step("a"), Effect.never)
      const outside = waiting.pipe(saga, Effect.timeout("1 second"), Checkpoint.run({ id: "outside" }))
      const inside = waiting.pipe(Effect.timeout("1 second"), saga, Checkpoint.run({ id: "inside" }))
      for (const program of [outside, inside]) {
        const fiber = yield* Effect.forkChild(Effect.flip(program), { startImmediately: true })
        yield* TestClock.adjust("2 seconds")
        yield* Fiber.join(fiber)
      }
      assert.deepStrictEqual(log, ["a", "a", "-a"])
    }))

  test("a run that is cancelled undoes nothing, and goes on when it is revived", () =>
    Effect.gen(function*() {
      const { log, run, saga, step } = makeWorld()
      const waiting = yield* Deferred.make<void>()
      const program = Effect.andThen(step("a"), Deferred.await(waiting)).pipe(Effect.andThen(step("b")), saga, run)
      const fiber = yield* Effect.forkChild(Effect.flip(program), { startImmediately: true })
      yield* TestClock.adjust(1)
      yield* Checkpoint.cancel("r")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "RunCancelled")
      assert.strictEqual((yield* Effect.flip(program))._tag, "RunCancelled")
      yield* Checkpoint.revive("r")
      yield* Deferred.succeed(waiting, undefined)
      assert.strictEqual(yield* program, "b")
      assert.deepStrictEqual(log, ["a", "b"])
    }))
})

describe("What is undone", () => {
  test("steps inside of steps and scopes, also of those that a resumed program does not ask for any more", () =>
    Effect.gen(function*() {
      const { log, run, saga, step } = makeWorld()
      let crash = true
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("around", {}, Effect.asVoid(Effect.andThen(step("x", "inner"), step("y", "inner 2"))))
        yield* step("x", "branch").pipe(Checkpoint.within("k"))
        yield* Checkpoint.all({ one: step("x", "one"), two: step("x", "two") })
        if (crash) return yield* Effect.interrupt
        return yield* down
      }).pipe(saga, run)
      yield* Effect.exit(program)
      crash = false
      yield* Effect.flip(program)
      const done = ["inner", "inner 2", "branch", "one", "two"]
      assert.deepStrictEqual(log, [...done, ...done.toReversed().map((what) => `-${what}`)])
    }))

  test("parallel steps in the opposite order of their results, whatever the timing when the run is resumed", () =>
    Effect.gen(function*() {
      for (const delays of [[1, 2, 3], [3, 1, 2], [2, 3, 1]]) {
        for (const later of [[1, 2, 3], [3, 2, 1]]) {
          const { did, log, saga, undo } = makeWorld()
          const store = yield* CheckpointStore.CheckpointStore
          let life = delays
          const program = (id: string) =>
            Checkpoint.forEach(
              delays,
              (_, n) =>
                Effect.andThen(
                  Effect.suspend(() => Effect.sleep(life[n] ?? 0)),
                  Checkpoint.step("a", { success: Schema.String, undo }, did(`${n}`))
                ),
              { concurrency: 3 }
            ).pipe(Effect.andThen(down), saga, Checkpoint.run({ id }), Effect.flip)
          const id = JSON.stringify([delays, later])
          // Cut off when the saga has failed, before the first step is undone.
          yield* inVirtualTime(
            Effect.provideService(program(id), CheckpointStore.CheckpointStore, cutAfter(store, 8))
          )
          const done = log.splice(0).filter((what) => !what.startsWith("-"))
          assert.lengthOf(done, 3)
          life = later
          yield* inVirtualTime(program(id))
          assert.deepStrictEqual(log, done.toReversed().map((n) => `-${n}`))
        }
      }
    }))

  test("a step on the way around a failure that is gone when the run is resumed", () =>
    Effect.gen(function*() {
      const { did, log, run, saga, step } = makeWorld()
      let isDown = true
      let crash = true
      const program = Effect.gen(function*() {
        const primary = Checkpoint.step(
          "primary",
          { success: Schema.String },
          Effect.suspend(() => isDown ? Effect.fail(new Other()) : did("primary"))
        )
        yield* Effect.catchTag(primary, "Other", () => step("secondary"))
        if (crash) return yield* Effect.interrupt
        return yield* down
      }).pipe(saga, run)
      yield* Effect.exit(program)
      crash = false
      isDown = false
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["secondary", "primary", "-secondary"])
    }))

  test("a step that is executed again on another way is undone once if it did the same, and else twice", () =>
    Effect.gen(function*() {
      for (const same of [true, false]) {
        const { log, did, saga, undo } = makeWorld()
        let isDown = true
        let crash = true
        const program = Effect.gen(function*() {
          yield* Effect.ignore(
            Checkpoint.step(
              "look",
              { success: Schema.String },
              Effect.suspend(() => isDown ? new Other() : did("look"))
            )
          )
          yield* Checkpoint.step("act", { success: Schema.String, undo }, did(same || isDown ? "one" : "two"))
          if (crash) return yield* Effect.interrupt
          return yield* down
        }).pipe(saga, Checkpoint.run({ id: String(same) }))
        yield* Effect.exit(program)
        crash = false
        isDown = false
        yield* Effect.flip(program)
        assert.deepStrictEqual(log, ["one", "look", ...same ? ["one", "-one"] : ["two", "-two", "-one"]])
      }
    }))

  test("a step whose record does not say it, because the program could not undo it yet", () =>
    Effect.gen(function*() {
      const { did, log, run, saga, undo } = makeWorld()
      const before = Effect.gen(function*() {
        yield* Checkpoint.step("a", { success: Schema.String }, did("a"))
        yield* Checkpoint.step("b", { success: Schema.String, undo }, did("b"))
        return yield* Effect.interrupt
      }).pipe(saga, run)
      const after = Effect.gen(function*() {
        yield* Checkpoint.step("a", { success: Schema.String, undo }, did("a"))
        yield* Checkpoint.step("b", { success: Schema.String, undo }, did("b"))
        return yield* down
      }).pipe(saga, run)
      yield* Effect.exit(before)
      const store = yield* CheckpointStore.CheckpointStore
      // Resumed, the saga failed; then the store is gone: what was registered is written with the failure.
      yield* Effect.flip(Effect.provideService(after, CheckpointStore.CheckpointStore, cutAfter(store, 1)))
      assert.deepStrictEqual(log.splice(0), ["a", "b", "-b"])
      yield* Effect.flip(before)
      assert.deepStrictEqual(log, ["-b", "-a"])
    }))

  test("a step from something else than what it gave", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const cancel = Compensation.make("cancel", { input: Schema.Int }, (n) => did(`cancel ${n}`))
      const Booking = Schema.Struct({ id: Schema.Int, at: Schema.DateFromMillis })
      const program = Checkpoint.step(
        "book",
        { success: Booking, undo: { by: cancel, input: ({ at, id }) => id + at.getTime() } },
        Effect.succeed({ id: 7, at: new Date(1000) })
      ).pipe(Effect.andThen(down), Compensation.saga({ name: "saga", undo: [cancel] }), run)
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["cancel 1007"])
    }))

  test("nothing that certainly has not happened", () =>
    Effect.gen(function*() {
      const { did, log, once, run, saga, undo } = makeWorld()
      const text = { success: Schema.String }
      const program = Effect.gen(function*() {
        yield* Effect.ignore(Checkpoint.step("a", { ...text, undo }, Effect.fail(new Other())))
        yield* Effect.ignore(Checkpoint.step("b", { ...text, undo, effects: "atMostOnce" }, Effect.fail(new Busy())))
        yield* Effect.ignore(Checkpoint.step(
          "c",
          { ...text, undo: once, effects: "atMostOnce", reconcile: Effect.succeed(Checkpoint.notHappened) },
          Effect.fail(new Slow())
        ))
        yield* Checkpoint.step("d", { ...text, undo }, did("d"))
        return yield* down
      }).pipe(saga, run)
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["d", "-d"])
    }))
})

const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(100)
  return yield* Fiber.join(fiber)
})

describe("A step of which nobody knows whether it took effect", () => {
  const told = (log: Array<string>) =>
    Compensation.make(
      "cancel",
      { input: Schema.String },
      (what, { inDoubt }) => Effect.sync(() => void log.push(inDoubt ? `-${what}?` : `-${what}`))
    )

  test("is undone from what was said before it ran, in its place", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const cancel = told(log)
      const act = (name: string, effects: "idempotent" | "atMostOnce", ending: Effect.Effect<never, Slow | Other>) =>
        Checkpoint.step(
          name,
          {
            success: Schema.String,
            effects,
            undo: { by: cancel, input: (what) => what, inDoubt: () => `${name} tried` }
          },
          Effect.andThen(did(name), ending)
        )
      const program = Effect.gen(function*() {
        yield* Effect.ignore(act("slow", "idempotent", Effect.fail(new Slow())))
        yield* Effect.ignore(act("slow once", "atMostOnce", Effect.fail(new Slow())))
        yield* Effect.ignoreCause(act("died", "idempotent", Effect.die("a bug")))
        yield* Effect.timeoutOption(act("cut off", "idempotent", Effect.never), "1 second")
        yield* Effect.timeoutOption(act("cut off once", "atMostOnce", Effect.never), "1 second")
        yield* Checkpoint.step("known", { success: Schema.String, undo: cancel }, did("known"))
        return yield* down
      }).pipe(Compensation.saga({ name: "saga", undo: [cancel] }), run)
      const failed = yield* inVirtualTime(Effect.flip(program))
      const done = ["slow", "slow once", "died", "cut off", "cut off once", "known"]
      assert.deepStrictEqual(log, [
        ...done,
        "-known",
        ...done.slice(0, -1).toReversed().map((name) => `-${name} tried?`)
      ])
      assert.instanceOf(failed, Compensation.SagaFailed)
      assert.lengthOf(failed.settled, 6)
    }))

  test("is one that a failing branch cut off", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const cancel = told(log)
      const act = (n: number) =>
        Checkpoint.step(
          "act",
          { success: Schema.String, undo: { by: cancel, input: (what) => what, inDoubt: () => `${n}` } },
          n === 1 ? Effect.andThen(Effect.sleep(10), down) : Effect.andThen(did(`${n}`), Effect.never)
        )
      const program = Checkpoint.forEach([0, 1, 2], act, { concurrency: 3 }).pipe(
        Compensation.saga({ name: "saga", undo: [cancel] }),
        run
      )
      yield* inVirtualTime(Effect.flip(program))
      assert.deepStrictEqual(log, ["0", "2", "-2?", "-0?"])
    }))

  test("stays one when a later try certainly did nothing", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const cancel = told(log)
      const errors: Array<Slow | Busy> = [new Slow(), new Busy()]
      const step = (name: string) =>
        Checkpoint.step(
          name,
          {
            retry: Retry.policy({ maxAttempts: 2, backoff: Backoff.constant({ delay: "1 second" }) }),
            undo: { by: cancel, input: () => name, inDoubt: () => name }
          },
          Effect.andThen(did(name), Effect.suspend(() => Effect.fail(errors.shift() ?? new Busy())))
        )
      const program = Effect.andThen(Effect.ignore(step("slow, then busy")), Effect.ignore(step("busy"))).pipe(
        Effect.andThen(down),
        Compensation.saga({ name: "saga", undo: [cancel] }),
        run
      )
      yield* inVirtualTime(Effect.flip(program))
      assert.deepStrictEqual(log, ["slow, then busy", "slow, then busy", "busy", "busy", "-slow, then busy?"])
    }))

  test("is one that an earlier life of the run was cut off in, on a way that it has left", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const cancel = told(log)
      let isDown = true
      const program = Effect.gen(function*() {
        const primary = Checkpoint.step(
          "primary",
          { success: Schema.String },
          Effect.suspend(() => isDown ? Effect.fail(new Other()) : did("primary"))
        )
        const secondary = Checkpoint.step(
          "secondary",
          { success: Schema.String, undo: { by: cancel, input: (what) => what, inDoubt: () => "secondary" } },
          Effect.andThen(did("secondary"), Effect.never)
        )
        yield* Effect.catchTag(primary, "Other", () => secondary)
        return yield* down
      }).pipe(Compensation.saga({ name: "saga", undo: [cancel] }), run)
      yield* inVirtualTime(Effect.timeoutOption(program, "1 second"))
      isDown = false
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["secondary", "primary", "-secondary?"])
    }))

  test("is what a fiber was still at that the program did not wait for", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const cancel = told(log)
      const ended = yield* Deferred.make<Exit.Exit<unknown, unknown>>()
      const program = Effect.gen(function*() {
        yield* Checkpoint.step(
          "late",
          { success: Schema.String, undo: { by: cancel, input: (what) => what, inDoubt: () => "late" } },
          Effect.delay(did("late"), "2 seconds")
        ).pipe(
          Checkpoint.within("late"),
          Effect.exit,
          Effect.flatMap((exit) => Deferred.succeed(ended, exit)),
          Effect.forkDetach
        )
        yield* Effect.sleep("1 second")
        return yield* down
      }).pipe(
        Compensation.saga({ name: "saga", undo: [cancel] }),
        Effect.tapError(() => Deferred.await(ended)),
        run
      )
      yield* inVirtualTime(Effect.flip(program))
      assert.deepStrictEqual(log, ["-late?", "late"])
      const exit = yield* Deferred.await(ended)
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      assert.instanceOf(error, Checkpoint.CheckpointMismatch)
      assert.strictEqual(error.reason, "Ended")
    }))

  const asked: ReadonlyArray<readonly [EscalationQueue.Decision, Array<string>, Compensation.Settled["outcome"]]> = [
    [{ _tag: "Supply", value: "what it booked" }, ["act", "-what it booked?"], "undone"],
    [{ _tag: "Approve" }, ["act"], "byHand"],
    [{ _tag: "Reject", reason: "not worth it" }, ["act"], "left"],
    [{ _tag: "Abandon", reason: "not worth it" }, ["act"], "left"]
  ]
  for (const [decision, expected, outcome] of asked) {
    test(`is for people to decide where nothing was said: ${decision._tag}`, () =>
      Effect.gen(function*() {
        const { did, log, run } = makeWorld()
        const cancel = told(log)
        const program = Checkpoint.step(
          "act",
          { success: Schema.String, effects: "atMostOnce", undo: cancel },
          Effect.andThen(did("act"), new Slow())
        ).pipe(Compensation.saga({ name: "saga", undo: [cancel] }), run)
        yield* suspended(program)
        const escalation = yield* openEscalation
        assert.strictEqual(escalation.reason, "AmbiguousState")
        assert.include(escalation.task, `step "saga~/act"`)
        yield* decide(decision)
        const failed = yield* Effect.flip(program)
        assert.instanceOf(failed, Compensation.SagaFailed)
        assert.deepStrictEqual(failed.settled, [{ step: "saga~/act", compensation: "cancel", outcome }])
        assert.deepStrictEqual(log, expected)
        yield* Effect.flip(program)
        assert.deepStrictEqual(log, expected)
      }))
  }

  test("is not undone from a value that its compensation does not take", () =>
    Effect.gen(function*() {
      const { log, run } = makeWorld()
      const cancel = told(log)
      const program = Checkpoint.step(
        "act",
        { success: Schema.String, effects: "atMostOnce", undo: cancel },
        Effect.fail(new Slow())
      ).pipe(Compensation.saga({ name: "saga", undo: [cancel] }), run)
      yield* suspended(program)
      const error = yield* Effect.flip(decide({ _tag: "Supply", value: 7 }))
      assert.strictEqual(error instanceof EscalationQueue.EscalationError && error.reason._tag, "InvalidDecision")
    }))
})

describe("A compensation", () => {
  test("has a key of its own that never changes, and is told the key of the step", () =>
    Effect.gen(function*() {
      const { run } = makeWorld()
      const keys: Array<string> = []
      const stepKeys: Array<string> = []
      const told: Array<Compensation.Undoing> = []
      let fails = 3
      const undo = Compensation.make("undo", { input: Schema.String, retry: twice }, (_, undoing) =>
        Effect.gen(function*() {
          keys.push(yield* Checkpoint.idempotencyKey)
          told.push(undoing)
          if (fails-- > 0) {
            return yield* new Busy()
          }
        }))
      const program = Effect.gen(function*() {
        const key = Effect.tap(Checkpoint.idempotencyKey, (key) =>
          Effect.sync(() =>
            stepKeys.push(key)
          ))
        yield* Checkpoint.step("a", { success: Schema.String, undo }, key)
        return yield* down
      }).pipe(Compensation.saga({ name: "saga", undo: [undo] }), run)
      yield* inVirtualTime(suspended(program))
      yield* decide({ _tag: "Retry" })
      yield* inVirtualTime(Effect.flip(program))
      assert.lengthOf(keys, 4)
      assert.lengthOf(new Set(keys), 1)
      assert.notInclude(keys, stepKeys[0])
      assert.deepStrictEqual(told[0], {
        runId: "r",
        saga: "saga~",
        step: "saga~/a",
        idempotencyKey: stepKeys[0] ?? "",
        inDoubt: false
      })
    }))

  test("has steps of its own, which are done once", () =>
    Effect.gen(function*() {
      const { did, log, run, saga } = makeWorld()
      let fails = true
      const undo = Compensation.make("undo", { input: Schema.String }, () =>
        Effect.gen(function*() {
          yield* Checkpoint.step("look", { success: Schema.String }, did("look"))
          if (fails) return yield* Effect.interrupt
          yield* did("undo")
        }))
      const program = Checkpoint.step("a", { success: Schema.String, undo }, did("a")).pipe(
        Effect.andThen(down),
        Compensation.saga({ name: "saga", undo: [undo] }),
        run
      )
      yield* Effect.exit(program)
      fails = false
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["a", "look", "undo"])
      assert.isDefined(saga)
    }))

  test("that may run again does, after a crash; one that must not is asked about first", () =>
    Effect.gen(function*() {
      for (const effects of ["idempotent", "atMostOnce"] as const) {
        const { did, log } = makeWorld()
        let crash = true
        const undo = Compensation.make(
          "undo",
          {
            input: Schema.String,
            effects,
            reconcile: (what) => Effect.as(did(`did ${what} happen?`), Checkpoint.happened(undefined))
          },
          (what) => Effect.andThen(did(`-${what}`), Effect.suspend(() => crash ? Effect.interrupt : Effect.void))
        )
        const program = Checkpoint.step("a", { success: Schema.String, undo }, did("a")).pipe(
          Effect.andThen(down),
          Compensation.saga({ name: "saga", undo: [undo] }),
          Checkpoint.run({ id: effects })
        )
        yield* Effect.exit(program)
        crash = false
        yield* Effect.flip(program)
        yield* Effect.flip(program)
        assert.deepStrictEqual(log, ["a", "-a", effects === "idempotent" ? "-a" : "did a happen?"])
      }
    }))

  test("is tried again as its policy says, also by a run that is resumed in between", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      const undo = Compensation.make("undo", { input: Schema.String, retry: twice }, (what) =>
        Effect.andThen(did(`-${what}`), new Busy()))
      const program = Checkpoint.step("a", { success: Schema.String, undo }, did("a")).pipe(
        Effect.andThen(down),
        Compensation.saga({ name: "saga", undo: [undo] }),
        run
      )
      // Interrupted while it waits for its second try.
      yield* inVirtualTime(Effect.timeoutOption(program, "500 millis"))
      assert.deepStrictEqual(log, ["a", "-a"])
      yield* inVirtualTime(suspended(program))
      assert.deepStrictEqual(log, ["a", "-a", "-a"])
    }))

  test("that a step names must be listed, and its input must be readable; both leave the journal as it was", () =>
    Effect.gen(function*() {
      const { did, log, run, step } = makeWorld()
      const other = Compensation.make("other", { input: Schema.String }, () => Effect.void)
      const wrong = Compensation.make("undo", { input: Schema.Struct({ n: Schema.Int }) }, () => did("wrong"))
      const { undo } = makeWorld()
      const crashing = step("a").pipe(
        Effect.andThen(Effect.interrupt),
        Compensation.saga({ name: "saga", undo: [undo] }),
        run
      )
      yield* Effect.exit(crashing)
      const later = (undo: Compensation.Compensation<string, never, never>) =>
        Checkpoint.step("a", { success: Schema.String }, did("a")).pipe(
          Effect.andThen(down),
          Compensation.saga({ name: "saga", undo: [undo] }),
          run,
          Effect.flip
        )
      const before = yield* kinds
      const unlisted = yield* later(other)
      assert.instanceOf(unlisted, Checkpoint.CheckpointMismatch)
      assert.include(unlisted.message, `step "saga~/a", which "undo" undoes`)
      assert.deepStrictEqual(yield* kinds, before)
      const unreadable = yield* later(wrong)
      assert.instanceOf(unreadable, Checkpoint.CheckpointCorrupt)
      assert.include(unreadable.message, `what "undo" undoes it from`)
      assert.deepStrictEqual(yield* kinds, before)
      assert.deepStrictEqual(log, ["a"])
      assert.strictEqual(yield* status, "running")
    }))

  test("is never given a secret: a step is refused before it runs", () =>
    Effect.gen(function*() {
      const { log, did, run } = makeWorld()
      const undo = Compensation.make("undo", { input: Schema.Redacted(Schema.String) }, () => Effect.void)
      const step = Checkpoint.step(
        "a",
        { success: Schema.String, undo: { by: undo, input: (what) => Redacted.make(what) } },
        did("a")
      )
      const error = yield* step.pipe(Compensation.saga({ name: "saga", undo: [undo] }), run, Effect.flip)
      assert.strictEqual(error instanceof Checkpoint.StepNotEncodable && error.reason, "Redacted")
      assert.deepStrictEqual(log, [])
    }))

  test("whose input cannot be made is in doubt: the step has run", () =>
    Effect.gen(function*() {
      const { did, log, run, undo } = makeWorld()
      const text = { success: Schema.String }
      const broken = () => {
        throw new TypeError("a bug")
      }
      const program = Effect.gen(function*() {
        const { message } = yield* Effect.flip(
          Checkpoint.step("a", { ...text, undo: { by: undo, input: broken, inDoubt: () => "a" } }, did("a"))
        )
        assert.include(message, "the input of its undo threw")
        return yield* down
      }).pipe(Compensation.saga({ name: "saga", undo: [undo] }), run)
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["a", "-a"])
    }))
})

describe("A compensation that fails for good", () => {
  /** A saga of two steps, whose compensations fail for as long as they are broken. */
  const twoSteps = (onStuck?: "wait" | "continue", effects?: "idempotent" | "atMostOnce") => {
    const { did, log, run } = makeWorld()
    const broken = new Set<string>()
    const undo = Compensation.make(
      "undo",
      { input: Schema.String, effects },
      (what) =>
        Effect.andThen(did(`-${what}`), Effect.suspend(() => broken.has(what) ? Effect.fail(new Other()) : Effect.void))
    )
    const step = (name: string) => Checkpoint.step(name, { success: Schema.String, undo }, did(name))
    const program = Effect.andThen(step("a"), step("b")).pipe(
      Effect.andThen(down),
      Compensation.saga({ name: "saga", undo: [undo], onStuck }),
      run
    )
    return { log, broken, program }
  }

  const outcomes = (error: unknown) =>
    error instanceof Compensation.SagaFailed ? error.settled.map(({ outcome }) => outcome) : error

  test("is asked about, and does not run again on its own", () =>
    Effect.gen(function*() {
      const { broken, log, program } = twoSteps()
      broken.add("b")
      yield* suspended(program)
      const escalation = yield* openEscalation
      assert.strictEqual(escalation.reason, "MaxRetriesExceeded")
      assert.strictEqual(escalation.runId, "r")
      assert.strictEqual(escalation.error?.tag, "Other")
      assert.deepStrictEqual(escalation.decisions, ["Retry", "Approve", "Reject", "Abandon"])
      assert.deepStrictEqual(escalation.context, { saga: "saga~", step: "saga~/b", compensation: "undo" })
      broken.clear()
      yield* suspended(program)
      assert.strictEqual((yield* openEscalation).id, escalation.id)
      assert.deepStrictEqual(log, ["a", "b", "-b"])
    }))

  test("runs again after Retry, and is asked about anew if it fails again", () =>
    Effect.gen(function*() {
      const { broken, log, program } = twoSteps()
      broken.add("b")
      yield* suspended(program)
      const { id } = yield* openEscalation
      yield* decide({ _tag: "Retry" })
      yield* suspended(program)
      assert.notStrictEqual((yield* openEscalation).id, id)
      broken.clear()
      yield* decide({ _tag: "Retry" })
      assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), ["undone", "undone"])
      assert.deepStrictEqual(log, ["a", "b", "-b", "-b", "-b", "-a"])
    }))

  test("counts as done by hand after Approve, and leaves the step after Reject and Abandon", () =>
    Effect.gen(function*() {
      for (const effects of ["idempotent", "atMostOnce"] as const) {
        const decisions: ReadonlyArray<readonly [EscalationQueue.Decision, string]> = [
          [{ _tag: "Approve" }, "byHand"],
          [{ _tag: "Reject", reason: "no" }, "left"],
          [{ _tag: "Abandon", reason: "no" }, "left"]
        ]
        for (const [decision, outcome] of decisions) {
          const { broken, log, program } = twoSteps("wait", effects)
          broken.add("b")
          yield* suspended(program)
          assert.deepStrictEqual(log, ["a", "b", "-b"])
          yield* decide(decision)
          const failed = yield* Effect.flip(program)
          assert.deepStrictEqual(outcomes(failed), [outcome, "undone"])
          if (outcome === "left" && failed instanceof Error) {
            assert.include(failed.message, `left as they are: "saga~/b"`)
          }
          assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), [outcome, "undone"])
          assert.deepStrictEqual(log, ["a", "b", "-b", "-a"])
          yield* Checkpoint.clear("r")
        }
      }
    }))

  test("lets the others wait, or go on where the saga says so, and each is asked about", () =>
    Effect.gen(function*() {
      const waiting = twoSteps("wait")
      waiting.broken.add("a").add("b")
      yield* suspended(waiting.program)
      assert.deepStrictEqual(waiting.log, ["a", "b", "-b"])
      yield* decide({ _tag: "Approve" })
      yield* Checkpoint.clear("r")

      const { broken, log, program } = twoSteps("continue")
      broken.add("a").add("b")
      yield* suspended(program)
      assert.deepStrictEqual(log, ["a", "b", "-b", "-a"])
      const queue = yield* EscalationQueue.EscalationQueue
      const open = yield* queue.list({ status: "open" })
      assert.lengthOf(open, 2)
      broken.clear()
      // The one of "a" first: nothing has to be decided in the order in which it failed.
      for (const { id } of open.toReversed()) {
        yield* EscalationQueue.decide(id, { _tag: "Retry" })
        yield* Effect.flip(program)
      }
      assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), ["undone", "undone"])
      assert.deepStrictEqual(log, ["a", "b", "-b", "-a", "-a", "-b"])
    }))

  test("at most once: it is asked about where nobody knows whether it took effect, and runs again only after Retry", () =>
    Effect.gen(function*() {
      for (const decision of ["Retry", "Approve"] as const) {
        for (const ending of [Effect.fail(new Slow()), Effect.die("a bug"), Effect.interrupt]) {
          const { did, log, run } = makeWorld()
          let ends: Effect.Effect<void, Slow> = ending
          const undo = Compensation.make(
            "undo",
            { input: Schema.String, effects: "atMostOnce", reconcile: () => Effect.fail(new Other()) },
            (what) => Effect.andThen(did(`-${what}`), Effect.suspend(() => ends))
          )
          const program = Checkpoint.step("a", { success: Schema.String, undo }, did("a")).pipe(
            Effect.andThen(down),
            Compensation.saga({ name: "saga", undo: [undo] }),
            run
          )
          yield* Effect.exit(program)
          yield* suspended(program)
          const escalation = yield* openEscalation
          assert.strictEqual(escalation.reason, "AmbiguousState")
          assert.include(escalation.task, `Did "undo" undo step "saga~/a"`)
          assert.deepStrictEqual(log, ["a", "-a"])
          ends = Effect.void
          yield* decide({ _tag: decision })
          assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), [decision === "Retry" ? "undone" : "byHand"])
          assert.deepStrictEqual(log, ["a", "-a", ...decision === "Retry" ? ["-a"] : []])
          yield* Effect.flip(program)
          assert.lengthOf(log, decision === "Retry" ? 3 : 2)
          yield* Checkpoint.clear("r")
        }
      }
    }))

  test("dies and is asked about like one that fails", () =>
    Effect.gen(function*() {
      const { run, step } = makeWorld()
      const undo = Compensation.make("undo", { input: Schema.String }, (): Effect.Effect<void> => {
        throw new TypeError("a bug")
      })
      const program = step("a").pipe(Effect.andThen(down), Compensation.saga({ name: "saga", undo: [undo] }), run)
      yield* suspended(program)
      yield* decide({ _tag: "Approve" })
      assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), ["byHand"])
    }))

  test("may itself wait for people: then it is not one that has failed", () =>
    Effect.gen(function*() {
      const { did, log, run, step } = makeWorld()
      const undo = Compensation.make("undo", { input: Schema.String }, (what) =>
        Effect.gen(function*() {
          const decision = yield* EscalationQueue.ask({ name: "ask", reason: "RequiresHuman", task: `undo ${what}?` })
          yield* did(decision._tag)
        }))
      const program = step("a").pipe(Effect.andThen(down), Compensation.saga({ name: "saga", undo: [undo] }), run)
      yield* suspended(program)
      assert.strictEqual((yield* openEscalation).task, "undo a?")
      yield* decide({ _tag: "Reject", reason: "no" })
      assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), ["undone"])
      assert.deepStrictEqual(log, ["a", "Reject"])
    }))

  test("is asked about later where the queue is gone", () =>
    Effect.gen(function*() {
      const { broken, log, program } = twoSteps("continue")
      const queue = yield* EscalationQueue.EscalationQueue
      const cause = new Error("down")
      const gone = EscalationQueue.EscalationQueue.of({
        ...queue,
        submit: () =>
          new EscalationQueue.EscalationError({ operation: "submit", reason: { _tag: "Unavailable", cause } })
      })
      broken.add("b")
      const error = yield* Effect.flip(Effect.provideService(program, EscalationQueue.EscalationQueue, gone))
      assert.instanceOf(error, EscalationQueue.EscalationError)
      assert.deepStrictEqual(log, ["a", "b", "-b", "-a"])
      yield* suspended(program)
      yield* decide({ _tag: "Approve" })
      assert.deepStrictEqual(outcomes(yield* Effect.flip(program)), ["byHand", "undone"])
      assert.lengthOf(log, 4)
    }))
})

describe("A saga inside of a saga", () => {
  const nested = (end: (trip: string) => Effect.Effect<string, Down>, flight: Effect.Effect<void, Other>) => {
    const world = makeWorld()
    const { run, saga, step } = world
    const inner = step("flight").pipe(
      Effect.tap(flight),
      Compensation.saga({ name: "inner" }),
      Effect.catchTag("SagaFailed", () => step("train"))
    )
    const program = Effect.gen(function*() {
      yield* step("hotel")
      const trip = yield* inner
      yield* step("car")
      return yield* end(trip)
    }).pipe(saga, run)
    return { ...world, program }
  }

  test("that succeeded is undone by the one around", () =>
    Effect.gen(function*() {
      const { log, program } = nested(() => Effect.fail(down), Effect.void)
      assert.deepStrictEqual(yield* Effect.flip(program), down)
      assert.deepStrictEqual(log, ["hotel", "flight", "car", "-car", "-flight", "-hotel"])
    }))

  test("that failed and was undone is not undone twice", () =>
    Effect.gen(function*() {
      const { log, program } = nested(() => Effect.fail(down), new Other())
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["hotel", "flight", "-flight", "train", "car", "-car", "-train", "-hotel"])
      yield* Effect.flip(program)
      assert.lengthOf(log, 8)
    }))

  test("that failed and was handled lets the one around succeed", () =>
    Effect.gen(function*() {
      const { log, program } = nested(Effect.succeed, new Other())
      assert.strictEqual(yield* program, "train")
      assert.strictEqual(yield* program, "train")
      assert.deepStrictEqual(log, ["hotel", "flight", "-flight", "train", "car"])
    }))

  test("that waits for people is finished by the one around, and nothing twice", () =>
    Effect.gen(function*() {
      const { did, log, run } = makeWorld()
      let isBroken = true
      const undo = Compensation.make("undo", { input: Schema.String }, (what) =>
        Effect.andThen(
          did(`-${what}`),
          Effect.suspend(() => isBroken && what === "b" ? new Other() : Effect.void)
        ))
      const step = (name: string) => Checkpoint.step(name, { success: Schema.String, undo }, did(name))
      const inner = Effect.all([step("a"), step("b"), step("c")]).pipe(
        Effect.andThen(new Other()),
        Compensation.saga({ name: "inner" })
      )
      const program = Effect.gen(function*() {
        yield* step("first")
        // Waits for people, which the program does not let be known.
        yield* Effect.ignore(inner)
        yield* step("last")
        return yield* down
      }).pipe(Compensation.saga({ name: "outer", undo: [undo] }), run)
      yield* suspended(program)
      assert.deepStrictEqual(log, ["first", "a", "b", "c", "-c", "-b", "last", "-last"])
      isBroken = false
      yield* decide({ _tag: "Retry" })
      const failed = yield* Effect.flip(program)
      assert.deepStrictEqual(log.slice(8), ["-b", "-a", "-first"])
      assert.instanceOf(failed, Compensation.SagaFailed)
      assert.deepStrictEqual(failed.settled.map(({ step }) => step), [
        "outer~/last",
        "outer~/inner~/c",
        "outer~/inner~/b",
        "outer~/inner~/a",
        "outer~/first"
      ])
    }))

  test("must not list what the one around does not: it could not undo it", () =>
    Effect.gen(function*() {
      const { once, run, step, undo } = makeWorld()
      const program = step("a").pipe(
        Compensation.saga({ name: "inner", undo: [undo, once] }),
        Compensation.saga({ name: "outer", undo: [undo] }),
        run
      )
      const exit = yield* Effect.exit(program)
      assert.isTrue(Exit.hasDies(exit))
      assert.strictEqual(yield* status, "failed")
      assert.notInclude(yield* kinds, "SagaFailed outer~")
      assert.throws(() => Compensation.saga({ name: "saga", undo: [undo, undo] })(Effect.void), /names of their own/)
    }))

  test("of the same scope is another one, the second time", () =>
    Effect.gen(function*() {
      const { log, run, step, undo } = makeWorld()
      const one = (name: string) =>
        step("act", name).pipe(
          Effect.andThen(down),
          Compensation.saga({ name: "saga", undo: [undo] }),
          Effect.catchTag("SagaFailed", ({ saga }) => Effect.succeed(saga))
        )
      const program = Effect.all([one("x"), one("y")]).pipe(run)
      assert.deepStrictEqual(yield* program, ["saga~", "saga#2~"])
      assert.deepStrictEqual(yield* program, ["saga~", "saga#2~"])
      assert.deepStrictEqual(log, ["x", "-x", "y", "-y"])
    }))

  test("can be run by a compensation, whose steps are nobody else's to undo", () =>
    Effect.gen(function*() {
      const { did, log, run, step, undo } = makeWorld()
      const careful = Compensation.make("careful", { input: Schema.String }, (what) =>
        step("inside", `${what} inside`).pipe(
          Effect.andThen(down),
          Compensation.saga({ name: "saga", undo: [undo] }),
          Effect.catchTag("SagaFailed", () =>
            did(`-${what}`))
        ))
      const program = Checkpoint.step("a", { success: Schema.String, undo: careful }, did("a")).pipe(
        Effect.andThen(down),
        Compensation.saga({ name: "outer", undo: [careful] }),
        run
      )
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["a", "a inside", "-a inside", "-a"])
    }))
})

describe("What is done to a run from outside", () => {
  test("rollback does not take back that a saga has failed, but what undid a step it does", () =>
    Effect.gen(function*() {
      const { log, run, saga, step } = makeWorld()
      const program = Effect.andThen(step("a"), step("b")).pipe(Effect.andThen(down), saga, run)
      yield* Effect.flip(program)
      const refused = yield* Effect.flip(Checkpoint.rollback("r", { to: "saga~/a", limit: 10 }))
      assert.instanceOf(refused, Checkpoint.RollbackTooFar)
      assert.include(refused.message, `the failure of saga "saga~"`)
      yield* Checkpoint.rollback("r", { to: "saga~/~undo[a]/undo" })
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["a", "b", "-b", "-a", "-a"])
    }))

  test("rollback does not make anybody forget what a step has done", () =>
    Effect.gen(function*() {
      const { did, log, run, saga, undo } = makeWorld()
      const answers = ["one", "two"]
      let crash = true
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", { success: Schema.String, undo }, Effect.suspend(() => did(answers.shift() ?? "")))
        return crash ? yield* Effect.interrupt : yield* down
      }).pipe(saga, run)
      yield* Effect.exit(program)
      yield* Checkpoint.rollback("r")
      crash = false
      yield* Effect.flip(program)
      assert.deepStrictEqual(log, ["one", "two", "-two", "-one"])
    }))

  test("a fork leaves what it took over to the run that did it", () =>
    Effect.gen(function*() {
      const { log, saga, step } = makeWorld()
      let crash = true
      const program = (id: string) =>
        Effect.gen(function*() {
          yield* step("a")
          if (crash) return yield* Effect.interrupt
          yield* step("b")
          return yield* down
        }).pipe(saga, Checkpoint.run({ id }))
      yield* Effect.exit(program("r"))
      yield* Checkpoint.fork("r", { id: "fork" })
      crash = false
      yield* Effect.flip(program("fork"))
      assert.deepStrictEqual(log, ["a", "b", "-b"])
      yield* Effect.flip(program("r"))
      assert.deepStrictEqual(log.slice(3), ["b", "-b", "-a"])
    }))

  test("a migration keeps what there is to undo, under new names, and what has been undone", () =>
    Effect.gen(function*() {
      const { log, step, undo } = makeWorld()
      let crash = true
      const trip = (name: string, a: string) =>
        Effect.gen(function*() {
          yield* step(a, "a")
          yield* step("b")
          return crash ? yield* Effect.interrupt : yield* down
        }).pipe(Compensation.saga({ name, undo: [undo], error: Down }))
      yield* Effect.exit(trip("trip", "a").pipe(Checkpoint.run({ id: "r" })))
      crash = false
      const migrate = (run: Checkpoint.RecordedRun) => Checkpoint.renameStep("trip~/a", "trip~/first")(run)
      const store = yield* CheckpointStore.CheckpointStore
      const second = trip("trip", "first").pipe(Checkpoint.run({ id: "r", version: 2, migrate }))
      // Migrated, failed, and b is undone; then the store is gone.
      yield* Effect.flip(Effect.provideService(second, CheckpointStore.CheckpointStore, cutAfter(store, 3)))
      assert.deepStrictEqual(log, ["a", "b", "-b", "-a"])
      log.length = 0
      const third = trip("journey", "first").pipe(
        Checkpoint.run({ id: "r", version: 3, migrate: Checkpoint.renameStep("trip~", "journey~") })
      )
      assert.deepStrictEqual(yield* Effect.flip(third), down)
      assert.deepStrictEqual(log, ["-a"])
    }))

  test("a step left out by a migration is undone all the same", () =>
    Effect.gen(function*() {
      const { log, step, undo } = makeWorld()
      const saga = Compensation.saga({ name: "trip", undo: [undo] })
      yield* Effect.exit(step("a").pipe(Effect.andThen(Effect.interrupt), saga, Checkpoint.run({ id: "r" })))
      const second = Effect.andThen(step("b"), down).pipe(
        saga,
        Checkpoint.run({ id: "r", version: 2, migrate: Checkpoint.removeStep("trip~/a") })
      )
      yield* Effect.flip(second)
      assert.deepStrictEqual(log, ["a", "b", "-b", "-a"])
    }))

  test("inspect tells of it, and events do", () =>
    Effect.gen(function*() {
      const { run, saga, step } = makeWorld()
      const events: Array<string> = []
      const program = Effect.andThen(step("a"), down).pipe(
        saga,
        run,
        Effect.provideService(Telemetry.Listener, (event) => {
          if (event._tag === "SagaFailed") events.push(`${event._tag} ${event.saga}`)
          if (event._tag === "StepCompleted") events.push(`${event._tag} ${event.step} ${event.replayed}`)
        })
      )
      yield* Effect.flip(program)
      yield* Effect.flip(program)
      assert.deepStrictEqual(events, [
        "StepCompleted saga~/a false",
        "SagaFailed saga~",
        "StepCompleted saga~/~undo[a]/undo false",
        "StepCompleted saga~/~undo[a]/undo true"
      ])
      const { records } = yield* Checkpoint.inspect("r")
      assert.deepStrictEqual(records.slice(1, 4).map(({ kind, step, undo, value }) => [kind, step, undo, value]), [
        ["StepUndoable", "saga~/a", "undo", undefined],
        ["StepSucceeded", "saga~/a", "undo", "a"],
        ["SagaFailed", "saga~", undefined, {
          reason: "Failed",
          failure: "Down",
          error: { _tag: "Down", why: "no hotel" }
        }]
      ])
    }))
})

describe("A run that goes another way after a saga has failed", () => {
  const program = (world: ReturnType<typeof makeWorld>, look: Effect.Effect<string, Other | Busy>) => {
    const { run, saga, step } = world
    return Effect.gen(function*() {
      yield* Effect.ignore(Checkpoint.step("look", { success: Schema.String }, look))
      yield* Effect.ignore(Effect.andThen(step("a"), down).pipe(saga))
      return yield* Effect.interrupt
    }).pipe(run)
  }

  test("is refused before that is written, and goes on when the step fails as it had failed", () =>
    Effect.gen(function*() {
      const world = makeWorld()
      yield* Effect.exit(program(world, Effect.fail(new Other())))
      const before = yield* kinds
      for (const look of [Effect.succeed("found"), Effect.fail(new Busy())]) {
        const exit = yield* Effect.exit(program(world, look))
        const error = Option.getOrUndefined(Exit.findErrorOption(exit))
        assert.deepStrictEqual(yield* kinds, before)
        if (look !== undefined && error !== undefined) {
          assert.instanceOf(error, Checkpoint.CheckpointMismatch)
          assert.strictEqual(error.reason, "Undone")
          assert.include(error.message, `step "look" came to something else`)
        }
      }
      const exit = yield* Effect.exit(program(world, Effect.fail(new Other())))
      assert.isTrue(Exit.hasInterrupts(exit))
      assert.deepStrictEqual(world.log, ["a", "-a"])
    }))
})
