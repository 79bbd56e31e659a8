import { assert, describe } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Option, Schema } from "effect"
import { Checkpoint, CheckpointStore, Fault } from "effect-resilience"
import { TestClock } from "effect/testing"
import { replaying } from "../support/replaying.ts"

const it = replaying({
  "runs nothing again where a failure that was not remembered comes once more":
    "it counts how often a step fails that is not remembered",
  "pays no invoice twice, and gives none the receipt of another one":
    "resumed within its first life, it is refused there already"
})

class Busy extends Schema.TaggedError<Busy>()("Busy", {}) {
  readonly [Fault.verdictOf] = Fault.overloaded()
}
class Down extends Schema.TaggedError<Down>()("Down", {}) {}
class Refused extends Schema.TaggedError<Refused>()("Refused", {}) {}
class Stop extends Schema.TaggedError<Stop>()("Stop", {}) {}

const text = { success: Schema.String }
const once = { success: Schema.String, effects: "atMostOnce" } as const

/** Says what was really done, and how often. */
const makeLog = () => {
  const log: Array<string> = []
  return { log, did: (what: string) => Effect.sync(() => (log.push(what), what)) }
}

const test = (name: string, body: () => Effect.Effect<void, unknown, CheckpointStore.CheckpointStore>) =>
  it.effect(name, () => Effect.suspend(body).pipe(Effect.provide(CheckpointStore.layerMemory)))

const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(100)
  return yield* Fiber.join(fiber)
})

const reason = (error: { readonly _tag: string }) =>
  error instanceof Checkpoint.CheckpointMismatch ? error.reason : error._tag
const kinds = (runId: string) =>
  Effect.map(Checkpoint.inspect(runId), ({ records }) => records.map(({ kind, step }) => `${kind} ${step}`.trim()))

describe("A resumed program that goes another way", () => {
  for (
    const [name, wrap] of [
      ["in the run's own scope", (self) => self],
      ["in a branch of a group", (self) => Effect.map(Checkpoint.forEach([0], () => self), (found) => found.join())],
      ["in a branch opened by key", (self) => self.pipe(Checkpoint.within("k"))]
    ] satisfies ReadonlyArray<
      [
        string,
        <E, R>(
          self: Effect.Effect<string, E, R>
        ) => Effect.Effect<string, E | Checkpoint.StepError, R | Checkpoint.Run>
      ]
    >
  ) {
    test(`gives no item the data of another one, ${name}`, () =>
      Effect.gen(function*() {
        let down = true
        let crash = true
        const ask = (item: string) =>
          Checkpoint.step(
            "primary",
            text,
            Effect.suspend(() => down ? Effect.fail(new Down()) : Effect.succeed(`primary on ${item}`))
          ).pipe(
            Effect.catchTag("Down", () => Checkpoint.step("secondary", text, Effect.succeed(`secondary on ${item}`)))
          )
        const items = Effect.gen(function*() {
          const one = yield* ask("one")
          if (crash) return yield* new Stop()
          down = true
          const two = yield* ask("two")
          return `${one}, ${two}`
        })
        const program = wrap(items).pipe(Checkpoint.run({ id: "r" }))
        yield* Effect.flip(program)
        crash = false
        down = false
        assert.strictEqual(yield* program, "primary on one, secondary on two")
      }))
  }

  test("gives no item the data of another one after a timeout", () =>
    Effect.gen(function*() {
      let slow = true
      let crash = true
      const ask = (item: string) =>
        Checkpoint.step(
          "ask",
          text,
          Effect.suspend(() => {
            if (!slow) return Effect.succeed(`answer to ${item}`)
            slow = false
            return Effect.never
          })
        )
      const timed = (item: string) =>
        ask(item).pipe(Effect.timeout("1 second"), Effect.catchTag("TimeoutError", () => ask(item)))
      const program = Effect.gen(function*() {
        const one = yield* timed("one")
        if (crash) return yield* new Stop()
        return [one, yield* timed("two")]
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* inVirtualTime(Effect.flip(program))
      crash = false
      assert.deepStrictEqual(yield* inVirtualTime(program), ["answer to one", "answer to two"])
    }))

  test("takes back what came after a group or a branch in which a failure went away", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let down = true
      const part = Checkpoint.step("part", text, Effect.suspend(() => down ? Effect.fail(new Down()) : did("part")))
        .pipe(
          Effect.catchTag("Down", () => Effect.succeed("nothing"))
        )
      const program = (id: string, parts: Effect.Effect<string, Checkpoint.StepError, Checkpoint.Run>) =>
        Effect.gen(function*() {
          const found = yield* parts
          const sum = yield* Checkpoint.step("sum", text, did(`sum of ${found}`))
          const sent = yield* Checkpoint.step("send", text, did(`send ${sum}`)).pipe(Checkpoint.within("mail"))
          if (down) return yield* new Stop()
          return sent
        }).pipe(Checkpoint.run({ id }))
      for (
        const [id, parts] of [
          ["group", Effect.map(Checkpoint.forEach([0], () => part), (found) => found.join())],
          ["branch", part.pipe(Checkpoint.within("parts"))]
        ] as const
      ) {
        down = true
        yield* Effect.flip(program(id, parts))
        down = false
        assert.strictEqual(yield* program(id, parts), "send sum of part")
        log.length = 0
        assert.strictEqual(yield* program(id, parts), "send sum of part")
        assert.deepStrictEqual(log, [])
      }
    }))

  test("takes back what came after a branch whose failure came twice before it went away", () =>
    Effect.gen(function*() {
      const { did } = makeLog()
      let down = true
      let crash = true
      const part = Checkpoint.step("part", text, Effect.suspend(() => down ? Effect.fail(new Down()) : did("part")))
        .pipe(Effect.catchTag("Down", () => Effect.succeed("nothing")), Checkpoint.within("parts"))
      const program = Effect.gen(function*() {
        const found = yield* part
        const sum = yield* Checkpoint.step("sum", text, did(`sum of ${found}`))
        return crash ? yield* new Stop() : sum
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      yield* Effect.flip(program)
      down = false
      crash = false
      assert.strictEqual(yield* program, "sum of part")
    }))

  test("runs nothing again where a failure that was not remembered comes once more", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let crash = true
      const program = Effect.gen(function*() {
        yield* Effect.ignore(Checkpoint.step("notify", {}, Effect.andThen(did("notify"), new Down())))
        yield* Checkpoint.step("pay", once, did("pay"))
        yield* Checkpoint.step("part", text, did("part")).pipe(Checkpoint.within("k"))
        if (crash) return yield* new Stop()
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      yield* Effect.flip(program)
      crash = false
      yield* program
      yield* program
      assert.deepStrictEqual(log, ["notify", "pay", "part", "notify", "notify", "notify"])
    }))

  test("may take another way when the same step fails once more", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let way = "left"
      const program = Effect.gen(function*() {
        yield* Effect.ignore(Checkpoint.step("look", {}, new Down()))
        yield* Checkpoint.step(way, text, did(way))
        yield* Checkpoint.step("after", text, did(`after ${way}`))
        if (way === "left") return yield* new Stop()
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      way = "right"
      yield* program
      yield* program
      assert.deepStrictEqual(log, ["left", "after left", "right", "after right"])
    }))

  test("takes back what came after a step that fails in another way now", () =>
    Effect.gen(function*() {
      let error: Down | Refused = new Down()
      const program = Effect.gen(function*() {
        const why = yield* Checkpoint.step("ask", text, Effect.suspend(() => Effect.fail(error))).pipe(
          Effect.catchTag(["Down", "Refused"], ({ _tag }) => Effect.succeed(_tag))
        )
        const note = yield* Checkpoint.step("note", text, Effect.succeed(`noted ${why}`))
        return why === "Down" ? yield* new Stop() : note
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      error = new Refused()
      assert.strictEqual(yield* program, "noted Refused")
    }))

  test("asks reconcile about what it had done at most once on the other way", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let down = true
      const program = (reconcile?: Effect.Effect<Checkpoint.Reconciliation<string>>) =>
        Effect.gen(function*() {
          yield* Effect.ignore(
            Checkpoint.step("notify", text, Effect.suspend(() => down ? Effect.fail(new Down()) : did("notify")))
          )
          const receipt = yield* Checkpoint.step("pay", { ...once, reconcile }, did("pay"))
          return down ? yield* new Stop() : receipt
        }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program())
      down = false
      assert.strictEqual((yield* Effect.flip(program()))._tag, "AmbiguousStep")
      assert.strictEqual(yield* program(Effect.succeed(Checkpoint.happened("receipt"))), "receipt")
      assert.deepStrictEqual(log, ["pay", "notify"])
    }))

  test("does not complete over what was done at most once on a way that it left", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let down = true
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("primary", text, Effect.suspend(() => down ? Effect.fail(new Down()) : did("primary")))
          .pipe(Effect.catchTag("Down", () => Checkpoint.step("secondary", once, did("secondary"))))
        if (down) return yield* new Stop()
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      down = false
      assert.strictEqual(reason(yield* Effect.flip(program)), "Unresolved")
      assert.deepStrictEqual(log, ["secondary", "primary"])
    }))

  test("pays no invoice twice, and gives none the receipt of another one", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let busy = true
      let crash = true
      const pay = (invoice: string) => {
        const step = Checkpoint.step(
          "pay",
          once,
          Effect.suspend(() => {
            if (!busy) return did(`pay ${invoice}`)
            busy = false
            return Effect.fail(new Busy())
          })
        )
        return Effect.catchTag(step, "Busy", () => step)
      }
      const program = Effect.gen(function*() {
        yield* pay("one")
        if (crash) return yield* new Stop()
        yield* pay("two")
      }).pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual((yield* Effect.flip(program))._tag, "Stop")
      crash = false
      const error = yield* Effect.flip(program)
      assert.strictEqual(reason(error), "Unremembered")
      assert.include(error.message, "error schema")
      assert.deepStrictEqual(log, ["pay one"])
    }))

  test("pays no invoice twice when it tries a step again from outside", () =>
    Effect.gen(function*() {
      const { did } = makeLog()
      let busy = true
      let crash = true
      const pay = (invoice: string) =>
        Effect.retry(
          Checkpoint.step(
            "pay",
            once,
            Effect.suspend(() => {
              if (!busy) return did(`pay ${invoice}`)
              busy = false
              return Effect.fail(new Busy())
            })
          ),
          { times: 2 }
        )
      const program = Effect.gen(function*() {
        const one = yield* pay("one")
        if (crash) return yield* new Stop()
        return [one, yield* pay("two")]
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      crash = false
      // The refusal is tried again as the failure was, and so the program comes to what it came to.
      assert.deepStrictEqual(yield* program, ["pay one", "pay two"])
      assert.deepStrictEqual(yield* program, ["pay one", "pay two"])
    }))
})

describe("A program that has other steps than its journal", () => {
  const empty = (name: string) => Checkpoint.step(name, {}, Effect.void)
  const scopes = [
    ["within", (self) => self.pipe(Checkpoint.within("k"))],
    ["forEach", (self) => Effect.asVoid(Checkpoint.forEach([1], () => self))],
    ["step", (self) => Checkpoint.step("outer", {}, self)]
  ] satisfies ReadonlyArray<
    [
      string,
      <E, R>(self: Effect.Effect<void, E, R>) => Effect.Effect<void, E | Checkpoint.StepError, R | Checkpoint.Run>
    ]
  >

  for (const [name, wrap] of scopes) {
    test(`is a mismatch when it has fewer in a ${name}`, () =>
      Effect.gen(function*() {
        let fewer = false
        const inner = Effect.gen(function*() {
          yield* empty("a")
          if (fewer) return
          yield* empty("b")
          return yield* new Stop()
        })
        const program = wrap(inner).pipe(Checkpoint.run({ id: "r" }))
        yield* Effect.flip(program)
        fewer = true
        const error = yield* Effect.flip(program)
        assert.deepStrictEqual(
          error._tag === "CheckpointMismatch" && [error.reason, error.expected, error.found],
          ["Order", "step \"b\"", "its end"]
        )
      }))

    test(`is a mismatch before anything is executed when it has more in a ${name} of a completed run`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        let more = false
        const inner = Effect.gen(function*() {
          yield* empty("a")
          if (more) yield* Checkpoint.step("new", text, did("new"))
        })
        const program = wrap(inner).pipe(Checkpoint.run({ id: "r" }))
        yield* program
        const before = yield* kinds("r")
        more = true
        // A step that is in the journal is not entered again.
        if (name === "step") yield* program
        else assert.strictEqual(reason(yield* Effect.flip(program)), "Order")
        assert.deepStrictEqual(log, [])
        assert.deepStrictEqual(yield* kinds("r"), before)
      }))
  }

  test("is a mismatch before anything is executed when a group has fewer branches", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let items = [1, 2, 3]
      const program = Effect.suspend(() =>
        Checkpoint.forEach(items, (n) => Checkpoint.step("part", text, did(`${n}`)), { key: String })
      ).pipe(Effect.andThen(new Stop()), Checkpoint.run({ id: "r" }))
      yield* Effect.flip(program)
      log.length = 0
      items = [1, 4]
      const error = yield* Effect.flip(program)
      assert.deepStrictEqual(
        error._tag === "CheckpointMismatch" && [error.reason, error.expected],
        ["Order", "the branch \"each[2]\""]
      )
      assert.deepStrictEqual(log, [])
    }))

  test("is a mismatch when a step with an unfinished attempt is no longer at most once", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const pay = (options: { readonly effects?: "atMostOnce" }) =>
        Checkpoint.step("pay", { ...text, ...options }, Effect.andThen(did("pay"), Effect.interrupt)).pipe(
          Checkpoint.run({ id: "r" })
        )
      yield* Effect.exit(pay({ effects: "atMostOnce" }))
      assert.strictEqual(reason(yield* Effect.flip(pay({}))), "Effects")
      assert.deepStrictEqual(log, ["pay"])
    }))
})

describe("A run that has ended", () => {
  test("executes no step of a fiber that was left behind", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const go = yield* Deferred.make<void>()
      const late = yield* Deferred.make<unknown, unknown>()
      const program = Effect.gen(function*() {
        yield* Checkpoint.step("a", text, did("a"))
        yield* Deferred.await(go).pipe(
          Effect.andThen(Checkpoint.step("late", once, did("late"))),
          Effect.exit,
          Effect.flatMap((exit) => Deferred.done(late, exit)),
          Effect.forkDetach
        )
        return "result"
      }).pipe(Checkpoint.run({ id: "r" }))
      yield* program
      yield* Deferred.succeed(go, undefined)
      const error = yield* Effect.flip(Deferred.await(late))
      assert.isTrue(error instanceof Checkpoint.CheckpointMismatch && error.reason === "Ended")
      assert.deepStrictEqual(log, ["a"])
      assert.deepStrictEqual(yield* kinds("r"), ["RunOpened", "StepSucceeded a", "RunCompleted"])
      assert.strictEqual(yield* program, "result")
    }))

  test("takes no result of a step that was still running", () =>
    Effect.gen(function*() {
      const go = yield* Deferred.make<void>()
      const late = yield* Deferred.make<unknown, unknown>()
      yield* Checkpoint.step("slow", {}, Deferred.await(go)).pipe(
        Effect.exit,
        Effect.flatMap((exit) => Deferred.done(late, exit)),
        Effect.forkDetach({ startImmediately: true }),
        Effect.andThen(Effect.yieldNow),
        Effect.andThen(Effect.yieldNow),
        Checkpoint.run({ id: "r" })
      )
      yield* Deferred.succeed(go, undefined)
      const error = yield* Effect.flip(Deferred.await(late))
      assert.isTrue(error instanceof Checkpoint.CheckpointMismatch && error.reason === "Ended")
      assert.deepStrictEqual(yield* kinds("r"), ["RunOpened", "RunCompleted"])
    }))

  test("is not completed while a step that may have taken effect was cut off, until reconcile knows", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = (reconcile?: Effect.Effect<Checkpoint.Reconciliation<string>>) =>
        Checkpoint.step("pay", { ...once, reconcile }, Effect.andThen(did("pay"), Effect.never)).pipe(
          Effect.timeoutOption("1 second"),
          Checkpoint.run({ id: "r" })
        )
      const error = yield* inVirtualTime(Effect.flip(program()))
      assert.strictEqual(reason(error), "Unresolved")
      assert.include(error.message, "pay")
      const known = program(Effect.succeed(Checkpoint.happened("receipt")))
      assert.deepStrictEqual(Option.getOrUndefined(yield* inVirtualTime(known)), "receipt")
      assert.deepStrictEqual(Option.getOrUndefined(yield* inVirtualTime(known)), "receipt")
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("gives the same again when it handled an AmbiguousStep", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const program = Checkpoint.step("pay", once, Effect.andThen(did("pay"), Effect.die("boom"))).pipe(
        Effect.catchTag("AmbiguousStep", () => Checkpoint.step("tell", text, did("told"))),
        Checkpoint.run({ id: "r" })
      )
      assert.strictEqual(yield* program, "told")
      assert.strictEqual(yield* program, "told")
      assert.deepStrictEqual(log, ["pay", "told"])
    }))

  test("gives the same again when steps that gave no result stand at the end of its scopes", () =>
    Effect.gen(function*() {
      const slow = Checkpoint.step("slow", {}, Effect.never).pipe(Effect.timeoutOption("1 second"), Effect.as("late"))
      const program = Effect.all([
        slow.pipe(Checkpoint.within("k")),
        Effect.map(Checkpoint.forEach([1], () => slow), (found) => found.join())
      ]).pipe(Checkpoint.run({ id: "r" }))
      assert.deepStrictEqual(yield* inVirtualTime(program), ["late", "late"])
      assert.deepStrictEqual(yield* inVirtualTime(program), ["late", "late"])
    }))
})

describe("A suspension inside a step at most once", () => {
  const wait = new Checkpoint.RunSuspended({ runId: "r", step: "ask", reason: "waiting" })

  test("does not do again what the step did before", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let decided = false
      const program = Checkpoint.step(
        "pay",
        once,
        Effect.andThen(did("pay"), Effect.suspend(() => decided ? Effect.succeed("paid") : Effect.fail(wait)))
      ).pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual((yield* Effect.flip(program))._tag, "RunSuspended")
      decided = true
      assert.strictEqual((yield* Effect.flip(program))._tag, "AmbiguousStep")
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("runs the step on resume when reconcile says that nothing was done", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      let decided = false
      const program = Checkpoint.step(
        "pay",
        { ...once, reconcile: Effect.sync(() => log.length > 0 ? Checkpoint.unknown : Checkpoint.notHappened) },
        Effect.suspend(() => decided ? did("pay") : Effect.fail(wait))
      ).pipe(Checkpoint.run({ id: "r" }))
      assert.strictEqual((yield* Effect.flip(program))._tag, "RunSuspended")
      decided = true
      assert.strictEqual(yield* program, "pay")
      assert.strictEqual(yield* program, "pay")
      assert.deepStrictEqual(log, ["pay"])
    }))
})

describe("What a step gives", () => {
  test("is the same the first time and on resume", () =>
    Effect.gen(function*() {
      const success = Schema.Struct({ n: Schema.Finite, list: Schema.Array(Schema.Date) })
      const value = { n: -0, list: [new Date(3)], excess: 1 }
      const program = Checkpoint.step("a", { success }, Effect.succeed(value)).pipe(Checkpoint.run({ id: "r" }))
      const first = yield* program
      assert.deepStrictEqual(first, { n: 0, list: [new Date(3)] })
      assert.isTrue(Object.is(first.n, 0))
      assert.deepStrictEqual(yield* program, first)
    }))

  test("is a typed failure when it is not JSON under an untyped schema, or nested too deep", () =>
    Effect.gen(function*() {
      let deep: unknown = "bottom"
      for (let i = 0; i < 10_000; i++) deep = [deep]
      for (
        const [id, success, value] of [
          ["bigint", Schema.Any, { n: 1n }],
          ["date", Schema.Any, new Date(0)],
          ["function", Schema.Any, { f: () => 1 }],
          ["undefined", Schema.Any, [undefined]],
          ["deep any", Schema.Any, deep],
          ["deep unknown", Schema.Unknown, deep]
        ] as const
      ) {
        const error = yield* Effect.flip(
          Checkpoint.run(Checkpoint.step("a", { success }, Effect.succeed(value)), { id })
        )
        assert.strictEqual(error._tag, "StepNotEncodable", id)
      }
    }))
})

describe("The lease of a run", () => {
  const silent = (limit: { unanswered: number }) =>
    Effect.map(
      CheckpointStore.CheckpointStore,
      (store) =>
        CheckpointStore.CheckpointStore.of({
          ...store,
          renew: (lease, ttl) => limit.unanswered-- > 0 ? Effect.never : store.renew(lease, ttl)
        })
    )

  test("is renewed in time after a renewal that was never answered", () =>
    Effect.gen(function*() {
      const store = yield* silent({ unanswered: 1 })
      const fiber = yield* Effect.sleep("5 minutes").pipe(
        Checkpoint.run({ id: "r", lease: "30 seconds" }),
        Effect.provideService(CheckpointStore.CheckpointStore, store),
        Effect.forkChild
      )
      for (let second = 0; second < 240; second++) {
        yield* TestClock.adjust("1 second")
        const error = yield* Effect.flip(store.acquire("r", Duration.minutes(1)))
        assert.strictEqual(error.reason._tag, "LeaseHeld", `after ${second + 1} seconds`)
      }
      yield* TestClock.adjust("2 minutes")
      yield* Fiber.join(fiber)
    }))

  test("is not waited for without end when a run is cleared", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.CheckpointStore
      for (const operation of ["acquire", "remove"] as const) {
        const fiber = yield* Checkpoint.clear(operation).pipe(
          Effect.provideService(CheckpointStore.CheckpointStore, { ...store, [operation]: () => Effect.never }),
          Effect.flip,
          Effect.forkChild
        )
        yield* TestClock.adjust("1 minute")
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Unavailable")
      }
    }))
})

describe("A program that catches the refusal of a step", () => {
  test("does not complete the run of another program", () =>
    Effect.gen(function*() {
      const { did, log } = makeLog()
      const first = Checkpoint.step("pay", once, did("pay")).pipe(
        Effect.andThen(new Stop()),
        Checkpoint.run({ id: "r" })
      )
      yield* Effect.flip(first)
      const other = Effect.ignore(Checkpoint.step("audit", text, did("audit"))).pipe(
        Effect.as("done"),
        Checkpoint.run({ id: "r" })
      )
      assert.strictEqual(reason(yield* Effect.flip(other)), "Order")
      assert.deepStrictEqual(yield* Checkpoint.status("r"), Option.some("failed"))
      // The first program is still the one that the journal is of.
      assert.strictEqual((yield* Effect.flip(first))._tag, "Stop")
      assert.deepStrictEqual(log, ["pay"])
    }))
})

describe("A journal that is not whole", () => {
  for (
    const [name, change] of [
      ["lacks its last record", (run) => ({ ...run, entries: run.entries + 1 })],
      ["has records that the store does not count", (run) => ({ ...run, entries: run.entries - 1 })]
    ] satisfies ReadonlyArray<[string, (run: CheckpointStore.RunSummary) => CheckpointStore.RunSummary]>
  ) {
    test(`is corrupt when it ${name}`, () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const program = Checkpoint.step("a", text, did("a")).pipe(
          Effect.andThen(new Stop()),
          Checkpoint.run({ id: "r" })
        )
        yield* Effect.flip(program)
        const store = yield* CheckpointStore.CheckpointStore
        const error = yield* program.pipe(
          Effect.provideService(CheckpointStore.CheckpointStore, {
            ...store,
            get: (runId) => Effect.map(store.get(runId), (run) => run.pipe(Option.map(change)))
          }),
          Effect.flip
        )
        assert.deepStrictEqual([error._tag, log], ["CheckpointCorrupt", ["a"]])
      }))
  }
})
