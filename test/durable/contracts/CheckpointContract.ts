import { assert, layer } from "@effect/vitest"
import { Deferred, Effect, Fiber, type Layer, Option, Schema } from "effect"
import { Checkpoint, type CheckpointStore, Fault } from "effect-resilience"

class NoStock extends Schema.TaggedError<NoStock>()("NoStock", { item: Schema.String, left: Schema.Finite }) {}
class Down extends Schema.TaggedError<Down>()("Down", {}) {}

const text = { success: Schema.String }

/** Says what was really done, and how often. */
const makeLog = () => {
  const log: Array<string> = []
  return { log, did: (what: string) => Effect.sync(() => (log.push(what), what)) }
}

/** A place that a fiber comes to and does not leave before it is told to. */
const makeGate = Effect.gen(function*() {
  const reached = yield* Deferred.make<void>()
  const opened = yield* Deferred.make<void>()
  return {
    pass: Effect.andThen(Deferred.succeed(reached, undefined), Deferred.await(opened)),
    reached: Deferred.await(reached),
    open: Effect.asVoid(Deferred.succeed(opened, undefined))
  }
})

/** Runs a program up to a place, and cuts it off there. */
const cutOff = <A, E, R>(program: Effect.Effect<A, E, R>, place: Effect.Effect<void>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(program)
    yield* Effect.raceFirst(place, Effect.flatMap(Fiber.join(fiber), () => Effect.die("it was never cut off")))
    yield* Fiber.interrupt(fiber)
  })

/**
 * What every program may rely on, wherever its journal is kept and whoever runs it: the same programs for every layer.
 * They need no clock of their own, so that they run on a real database as well.
 */
export const suite = (
  name: string,
  store: Layer.Layer<CheckpointStore.CheckpointStore, unknown>,
  options: { readonly orders?: number } = {}
) =>
  layer(store, { excludeTestServices: true, timeout: "60 seconds" })(`Checkpoint contract: ${name}`, (it) => {
    it.effect("resumes where it failed", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        let down = true
        const program = Effect.gen(function*() {
          const plan = yield* Checkpoint.step("plan", text, did("plan"))
          yield* Checkpoint.step(
            "publish",
            {},
            Effect.suspend(() => down ? Effect.fail(new Down()) : Effect.asVoid(did("publish")))
          )
          return plan
        }).pipe(Checkpoint.run({ id: "failed" }))
        assert.strictEqual((yield* Effect.flip(program))._tag, "Down")
        assert.deepStrictEqual(yield* Checkpoint.status("failed"), Option.some("failed"))
        down = false
        assert.strictEqual(yield* program, "plan")
        assert.deepStrictEqual(yield* Checkpoint.status("failed"), Option.some("completed"))
        assert.strictEqual(yield* program, "plan")
        assert.deepStrictEqual(log, ["plan", "publish"])
      }))

    it.effect("resumes where it was cut off, and runs that step again under the same circumstances", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const gate = yield* makeGate
        const program = Effect.gen(function*() {
          const plan = yield* Checkpoint.step("plan", text, did("plan"))
          const draft = yield* Checkpoint.step(
            "draft",
            text,
            Effect.andThen(did("draft"), Effect.as(gate.pass, "draft"))
          )
          return [plan, draft, yield* Checkpoint.step("send", text, did("send"))]
        }).pipe(Checkpoint.run({ id: "cut off" }))
        yield* cutOff(program, gate.reached)
        assert.deepStrictEqual(yield* Checkpoint.status("cut off"), Option.some("running"))
        yield* gate.open
        assert.deepStrictEqual(yield* program, ["plan", "draft", "send"])
        assert.deepStrictEqual(log, ["plan", "draft", "draft", "send"])
      }))

    it.effect("never repeats an at-most-once effect on its own", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const gate = yield* makeGate
        const pay = Checkpoint.step(
          "pay",
          { effects: "atMostOnce" },
          Effect.asVoid(Effect.andThen(did("pay"), gate.pass))
        )
        const program = pay.pipe(Checkpoint.run({ id: "at most once" }))
        yield* cutOff(program, gate.reached)
        yield* gate.open
        for (const _ of [1, 2]) {
          const error = yield* Effect.flip(program)
          assert.isTrue(error._tag === "AmbiguousStep" && error.reason === "Unfinished" && error.step === "pay")
        }
        assert.deepStrictEqual(log, ["pay"])
      }))

    for (const happened of [true, false]) {
      it.effect(`asks reconcile about it, which says that it ${happened ? "happened" : "did not happen"}`, () =>
        Effect.gen(function*() {
          const { did, log } = makeLog()
          const gate = yield* makeGate
          const program = Checkpoint.step("pay", {
            ...text,
            effects: "atMostOnce",
            reconcile: Effect.as(did("look"), happened ? Checkpoint.happened("paid before") : Checkpoint.notHappened)
          }, Effect.andThen(did("pay"), Effect.as(gate.pass, "paid now"))).pipe(
            Checkpoint.run({ id: `reconciled ${happened}` })
          )
          yield* cutOff(program, gate.reached)
          yield* gate.open
          assert.strictEqual(yield* program, happened ? "paid before" : "paid now")
          assert.strictEqual(yield* program, happened ? "paid before" : "paid now")
          assert.deepStrictEqual(log, happened ? ["pay", "look"] : ["pay", "look", "pay"])
        }))
    }

    it.effect("refuses another input and another version, and gives the old ones their result", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const program = (input: unknown, version = 1) =>
          Checkpoint.step("a", text, did("a")).pipe(Checkpoint.run({ id: "input", input, version }))
        yield* program({ topic: "tides", pages: [1, 2] })
        const input = yield* Effect.flip(program({ topic: "moons", pages: [1, 2] }))
        assert.isTrue(input._tag === "RunConflict" && input.reason === "Input")
        const version = yield* Effect.flip(program({ topic: "tides", pages: [1, 2] }, 2))
        assert.isTrue(version._tag === "RunConflict" && version.reason === "Version")
        assert.strictEqual(yield* program({ pages: [1, 2], topic: "tides" }), "a")
        assert.deepStrictEqual(log, ["a"])
      }))

    it.effect("tells a renamed step from the one that the journal has, and lets the old program finish", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        let down = true
        const program = (first: string) =>
          Effect.gen(function*() {
            yield* Checkpoint.step(first, text, did(first))
            yield* Checkpoint.step("last", text, Effect.suspend(() => down ? Effect.fail(new Down()) : did("last")))
          }).pipe(Checkpoint.run({ id: "renamed" }))
        yield* Effect.flip(program("old"))
        const error = yield* Effect.flip(program("new"))
        assert.isTrue(
          error._tag === "CheckpointMismatch" && error.expected === "step \"old\"" && error.found === "step \"new\""
        )
        down = false
        yield* program("old")
        assert.deepStrictEqual(log, ["old", "last"])
      }))

    it.effect("tells a program that ends before its journal does", () =>
      Effect.gen(function*() {
        const { did } = makeLog()
        const program = (steps: ReadonlyArray<string>) =>
          Effect.forEach(steps, (step) => Checkpoint.step(step, text, did(step))).pipe(
            Checkpoint.run({ id: "shorter" })
          )
        yield* program(["a", "b"])
        assert.strictEqual((yield* Effect.flip(program(["a"])))._tag, "CheckpointMismatch")
        assert.deepStrictEqual(yield* program(["a", "b"]), ["a", "b"])
      }))

    it.effect("counts the steps of one name, in the order in which they were called", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        let limit = 2
        const program = Effect.forEach(
          [0, 1, 2, 3],
          (n) =>
            Checkpoint.step("turn", text, Effect.suspend(() => n >= limit ? Effect.fail(new Down()) : did(`turn ${n}`)))
        ).pipe(Checkpoint.run({ id: "turns" }))
        yield* Effect.flip(program)
        limit = 4
        assert.deepStrictEqual(yield* program, ["turn 0", "turn 1", "turn 2", "turn 3"])
        assert.deepStrictEqual(log, ["turn 0", "turn 1", "turn 2", "turn 3"])
      }))

    const orders = [[1, 2, 0], [2, 0, 1], [0, 1, 2], [0, 2, 1], [1, 0, 2], [2, 1, 0]]
    for (const order of orders.slice(0, options.orders)) {
      it.effect(`gives parallel branches their own results, finished first in the order ${order.join(", ")}`, () =>
        Effect.gen(function*() {
          const { did, log } = makeLog()
          const id = `order ${order.join("")}`
          const attempt = (order: ReadonlyArray<number>, cutAfter: number) =>
            Effect.gen(function*() {
              const turns = yield* Effect.forEach(order, () => Deferred.make<void>())
              // Branches whose step is in the journal do not wait for their turn, so whoever is next goes on.
              const done = (at: number): Effect.Effect<void> =>
                at + 1 === cutAfter
                  ? Effect.asVoid(Deferred.succeed(cut, undefined))
                  : at + 1 < turns.length
                  ? Effect.asVoid(Deferred.succeed(turns[at + 1] ?? cut, undefined))
                  : Effect.void
              const cut = yield* Deferred.make<void>()
              const branch = (n: number) =>
                Effect.gen(function*() {
                  const at = order.indexOf(n)
                  const first = yield* Checkpoint.step(
                    "ask",
                    text,
                    Effect.andThen(Deferred.await(turns[at] ?? cut), did(`ask ${n}`))
                  )
                  const second = yield* Checkpoint.step("check", text, did(`check ${first}`))
                  yield* done(at)
                  return second
                })
              const program = Checkpoint.forEach([0, 1, 2], branch, { concurrency: "unbounded" }).pipe(
                Checkpoint.run({ id })
              )
              yield* Deferred.succeed(turns[0] ?? cut, undefined)
              return yield* cutAfter === 0
                ? Effect.asSome(program)
                : Effect.as(cutOff(program, Deferred.await(cut)), Option.none())
            })
          yield* attempt(order, 2)
          const results = yield* attempt(order.toReversed(), 0)
          assert.deepStrictEqual(Option.getOrThrow(results), ["check ask 0", "check ask 1", "check ask 2"])
          assert.strictEqual(log.filter((entry) => entry.startsWith("ask")).length, 3)
        }))
    }

    it.effect("refuses steps that meet in one scope", () =>
      Effect.gen(function*() {
        const program = Effect.all(
          [Checkpoint.step("a", {}, Effect.void), Checkpoint.step("a", {}, Effect.void)],
          { concurrency: 2 }
        ).pipe(Checkpoint.run({ id: "meeting" }))
        assert.strictEqual((yield* Effect.flip(program))._tag, "ConcurrentSteps")
      }))

    it.effect("gives back a remembered error with its tag and fields, and runs nothing for it", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        let down = true
        const program = Effect.gen(function*() {
          const left = yield* Checkpoint.step(
            "stock",
            { error: NoStock },
            Effect.andThen(did("stock"), new NoStock({ item: "paper", left: 3 }))
          ).pipe(
            Effect.catchTag("NoStock", (error) => Effect.succeed([error instanceof NoStock, error.item, error.left]))
          )
          yield* Checkpoint.step("order", text, Effect.suspend(() => down ? Effect.fail(new Down()) : did("order")))
          return left
        }).pipe(Checkpoint.run({ id: "errors" }))
        yield* Effect.flip(program)
        down = false
        assert.deepStrictEqual(yield* program, [true, "paper", 3])
        assert.deepStrictEqual(log, ["stock", "order"])
      }))

    it.effect("gives back values as they were", () =>
      Effect.gen(function*() {
        const Value = Schema.Struct({
          nothing: Schema.Undefined,
          date: Schema.Date,
          map: Schema.ReadonlyMap(Schema.String, Schema.Finite),
          set: Schema.ReadonlySet(Schema.String),
          big: Schema.BigInt,
          notANumber: Schema.Number,
          bytes: Schema.Uint8Array,
          text: Schema.String
        })
        const value = {
          nothing: undefined,
          date: new Date(0),
          map: new Map([["a", 1]]),
          set: new Set(["a"]),
          big: 12345678901234567890n,
          notANumber: NaN,
          bytes: new Uint8Array([0, 255]),
          text: "\u0000 🦉 \u2028"
        }
        const program = Checkpoint.step("value", { success: Value }, Effect.succeed(value)).pipe(
          Checkpoint.run({ id: "values" })
        )
        assert.deepStrictEqual(yield* program, value)
        assert.deepStrictEqual(yield* program, value)
      }))

    it.effect("suspends, and resumes when it is run again", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        let answer: string | undefined
        const program = Effect.gen(function*() {
          yield* Checkpoint.step("ask", text, did("ask"))
          if (answer === undefined) {
            const { runId } = yield* Checkpoint.current
            return yield* new Checkpoint.RunSuspended({
              runId,
              step: "ask",
              escalationId: "e-1",
              reason: "a person has to say"
            })
          }
          return answer
        }).pipe(Checkpoint.run({ id: "suspended" }))
        const error = yield* Effect.flip(program)
        assert.isTrue(error._tag === "RunSuspended" && error.escalationId === "e-1")
        assert.deepStrictEqual(yield* Checkpoint.status("suspended"), Option.some("escalated"))
        answer = "yes"
        assert.strictEqual(yield* program, "yes")
        assert.deepStrictEqual(log, ["ask"])
      }))

    it.effect("lets one at a time work on a run", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const gate = yield* makeGate
        const program = Checkpoint.step("a", text, Effect.andThen(gate.pass, did("a"))).pipe(
          Checkpoint.run({ id: "leased" })
        )
        const first = yield* Effect.forkChild(program)
        yield* gate.reached
        assert.strictEqual((yield* Effect.flip(program))._tag, "RunLeased")
        assert.strictEqual((yield* Effect.flip(Checkpoint.clear("leased")))._tag, "RunLeased")
        yield* gate.open
        assert.strictEqual(yield* Fiber.join(first), "a")
        assert.strictEqual(yield* program, "a")
        assert.deepStrictEqual(log, ["a"])
      }))

    it.effect("shows a run, lists it, and starts it anew once it is cleared", () =>
      Effect.gen(function*() {
        const { did, log } = makeLog()
        const program = Checkpoint.step("a", text, did("a")).pipe(Checkpoint.run({ id: "../__proto__", input: 1 }))
        yield* program
        const { records, status } = yield* Checkpoint.inspect("../__proto__")
        assert.deepStrictEqual(
          [status, ...records.map(({ kind, step }) => `${kind} ${step}`.trim())],
          ["completed", "RunOpened", "StepSucceeded a", "RunCompleted"]
        )
        const listed = Effect.map(Checkpoint.list(), (runs) => runs.some(({ runId }) => runId === "../__proto__"))
        assert.isTrue(yield* listed)
        yield* Checkpoint.clear("../__proto__")
        assert.isFalse(yield* listed)
        assert.strictEqual((yield* Effect.flip(Checkpoint.inspect("../__proto__")))._tag, "RunNotFound")
        yield* program
        assert.deepStrictEqual(log, ["a", "a"])
      }))

    it.effect("tells a step whether it is idempotent", () =>
      Effect.gen(function*() {
        const told = yield* Effect.all([
          Checkpoint.step("a", { success: Schema.Boolean }, Effect.service(Fault.Idempotent)),
          Checkpoint.step("b", { success: Schema.Boolean, effects: "atMostOnce" }, Effect.service(Fault.Idempotent))
        ]).pipe(Checkpoint.run({ id: "idempotent" }))
        assert.deepStrictEqual(told, [true, false])
      }))

    it.effect("works on many branches and many runs at once", () =>
      Effect.gen(function*() {
        const branch = (n: number) => Checkpoint.step("square", { success: Schema.Finite }, Effect.succeed(n * n))
        const run = (id: number) =>
          Checkpoint.forEach([1, 2, 3, 4, 5], branch, { concurrency: "unbounded" }).pipe(
            Checkpoint.run({ id: `many ${id}` })
          )
        const results = yield* Effect.forEach([1, 2, 3, 4], run, { concurrency: "unbounded" })
        assert.deepStrictEqual(results, Array.from({ length: 4 }, () => [1, 4, 9, 16, 25]))
      }))
  })
