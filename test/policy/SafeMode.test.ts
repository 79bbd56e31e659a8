import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, References, Schema, Stream } from "effect"
import { CircuitBreaker, Fallback, Fault, SafeMode, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { SafeModeKeys } from "../../src/policy/internal/safeModeKeys.ts"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

class Told extends Schema.TaggedError<Told>("test/Told")("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
  override get message() {
    return `told to be ${this.verdict._tag}`
  }
}

const down = new Told({ verdict: Fault.overloaded() })
const failing = Effect.fail(down)
const safe = Effect.succeed("a person will answer")

const guarded = <A, E, R>(self: Effect.Effect<A, E, R>, key = "k") => SafeMode.guard(self, key, { safe })

const stateOf = (key: string) => Effect.flatMap(SafeMode.SafeMode, (safeMode) => safeMode.state(key))

/** A call that begins now and ends as it is told. */
const begin = <A = string>(key = "k") =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<Effect.Effect<A, Told>>()
    const fiber = yield* Effect.flatten(Deferred.await(gate)).pipe(
      SafeMode.guard(key, { safe }),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    return {
      interrupt: Fiber.interrupt(fiber),
      end: (how: Effect.Effect<A, Told>) =>
        Effect.andThen(Deferred.succeed(gate, how), Effect.flatten(Fiber.join(fiber)))
    }
  })

const errorOf = (verdict: Fault.Verdict) => Effect.fail(new Told({ verdict }))

describe("SafeMode", () => {
  it.effect("hands the first errors to the caller, and answers from the third failure in a row", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Effect.flip(guarded(failing)), down)
      assert.deepStrictEqual(yield* Effect.flip(guarded(failing)), down)
      assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 2 })
      const answer = yield* guarded(failing)
      assert.strictEqual(answer.value, "a person will answer")
      assert.strictEqual(answer.source, "safe")
      assert.isTrue(answer.degraded)
      assert.deepStrictEqual(answer.errors, [
        { label: "primary", tag: "Told", message: "told to be Overloaded", verdict: "Overloaded", skipped: false }
      ])
      assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: true, failures: 3 })
      assert.strictEqual((yield* guarded(failing)).source, "safe")
      assert.strictEqual((yield* stateOf("k")).failures, 4)
    }).pipe(Effect.provide(SafeMode.layer())))

  it.effect("still tries every call, and the first success ends safe mode", () =>
    Effect.gen(function*() {
      const calls: Array<string> = []
      const call = (how: Effect.Effect<string, Told>) =>
        guarded(Effect.andThen(Effect.sync(() => calls.push("called")), how))
      yield* call(failing)
      yield* call(failing)
      const answer = yield* call(Effect.succeed("well"))
      assert.deepStrictEqual([answer.value, answer.source, answer.degraded], ["well", "primary", false])
      assert.strictEqual(calls.length, 3)
      assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 0 })
    }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

  it.effect("starts counting anew after a success", () =>
    Effect.gen(function*() {
      for (let round = 0; round < 3; round++) {
        yield* Effect.flip(guarded(failing))
        yield* Effect.flip(guarded(failing))
        yield* guarded(Effect.succeed("well"))
      }
      assert.isFalse((yield* stateOf("k")).active)
    }).pipe(Effect.provide(SafeMode.layer())))

  it.effect("keeps the keys apart", () =>
    Effect.gen(function*() {
      yield* guarded(failing, "a")
      assert.deepStrictEqual(yield* stateOf("b"), { key: "b", active: false, failures: 0 })
      yield* guarded(Effect.succeed("well"), "b")
      assert.isTrue((yield* stateOf("a")).active)
    }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

  it.effect("reset ends safe mode by hand, and enter begins it", () =>
    Effect.gen(function*() {
      const safeMode = yield* SafeMode.SafeMode
      yield* safeMode.enter("k")
      assert.strictEqual((yield* guarded(failing)).source, "safe")
      yield* safeMode.reset("k")
      assert.deepStrictEqual(yield* Effect.flip(guarded(failing)), down)
      assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 1 })
      yield* safeMode.enter("k")
      yield* guarded(Effect.succeed("well"))
      assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 0 })
      yield* safeMode.reset("nobody knows this one")
      assert.deepStrictEqual(yield* safeMode.states, [])
    }).pipe(Effect.provide(SafeMode.layer())))

  describe("what counts", () => {
    it.effect("is every verdict, what our own guards refused included", () =>
      Effect.gen(function*() {
        const verdicts = [
          Fault.transient,
          Fault.throttled(),
          Fault.overloaded(),
          Fault.timedOut,
          Fault.malformed,
          Fault.contextOverflow,
          Fault.refused,
          Fault.permanent,
          Fault.unknown,
          Fault.ambiguous,
          Fault.rejected()
        ]
        for (const verdict of verdicts) {
          assert.strictEqual((yield* guarded(errorOf(verdict), verdict._tag)).source, "safe", verdict._tag)
        }
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("keeps answering while a circuit inside refuses to call, and says that the call was skipped", () =>
      Effect.gen(function*() {
        let calls = 0
        const call = Effect.andThen(Effect.sync(() => calls++), failing).pipe(
          CircuitBreaker.protect("model"),
          SafeMode.guard("agent", { safe })
        )
        yield* Effect.flip(call)
        yield* Effect.flip(call)
        for (let i = 0; i < 5; i++) {
          const answer = yield* call
          assert.deepStrictEqual(answer.errors.map(({ skipped, tag }) => [tag, skipped]), [["CircuitOpen", true]])
        }
        assert.strictEqual(calls, 2)
      }).pipe(
        Effect.provide(SafeMode.layer()),
        Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(2) }))
      ))

    it.effect("leaves what does not count to the caller, in safe mode too, and changes nothing", () =>
      Effect.gen(function*() {
        const wrong = errorOf(Fault.permanent)
        yield* Effect.flip(guarded(failing))
        yield* Effect.flip(guarded(wrong))
        assert.strictEqual((yield* stateOf("k")).failures, 1)
        yield* guarded(failing)
        assert.strictEqual((yield* Effect.flip(guarded(wrong))).verdict._tag, "Permanent")
        assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: true, failures: 2 })
      }).pipe(Effect.provide(
        SafeMode.layer({ failures: 2, countsAsFailure: (verdict) => verdict._tag !== "Permanent" })
      )))

    it.effect("an interruption is no failure, a defect is one and is never answered", () =>
      Effect.gen(function*() {
        const call = yield* begin()
        yield* call.interrupt
        assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 0 })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(guarded(Effect.die("bug")))))
        assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: true, failures: 1 })
        assert.isTrue(Exit.hasDies(yield* Effect.exit(guarded(Effect.die("bug")))))
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("a failure beside an interruption counts, and stays an interruption", () =>
      Effect.gen(function*() {
        const mixed = Effect.failCause(Cause.combine(Cause.fail(down), Cause.interrupt(1)))
        assert.isTrue(Exit.hasInterrupts(yield* Effect.exit(guarded(mixed))))
        assert.isTrue((yield* stateOf("k")).active)
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("reads the classifier of the surroundings; when it throws the call dies and counts for nothing", () =>
      Effect.gen(function*() {
        const seen: Array<Fault.Verdict> = []
        const safeMode = yield* SafeMode.make({ failures: 1, countsAsFailure: (verdict) => seen.push(verdict) > 0 })
        const call = Effect.fail("slow down").pipe(safeMode.guard("k", { safe }))
        yield* Fault.withClassifier(call, () => Fault.throttled())
        assert.deepStrictEqual(seen, [Fault.throttled()])
        const broken = Fault.withClassifier(
          Effect.fail("slow down").pipe(safeMode.guard("other", { safe })),
          () => {
            throw new Error("a bug of the classifier")
          }
        )
        assert.isTrue(Exit.hasDies(yield* Effect.exit(broken)))
        assert.deepStrictEqual(yield* safeMode.state("other"), { key: "other", active: false, failures: 0 })
      }))
  })

  describe("late outcomes", () => {
    it.effect("a call from before a success that fails after it counts for nothing", () =>
      Effect.gen(function*() {
        const late = yield* begin()
        yield* guarded(Effect.succeed("well"))
        assert.deepStrictEqual(yield* Effect.flip(late.end(failing)), down)
        assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 0 })
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("a call from before safe mode that succeeds in it does not end it", () =>
      Effect.gen(function*() {
        const late = yield* begin()
        yield* guarded(failing)
        const answer = yield* late.end(Effect.succeed("from before"))
        assert.deepStrictEqual([answer.value, answer.source], ["from before", "primary"])
        assert.isTrue((yield* stateOf("k")).active)
        yield* guarded(Effect.succeed("well"))
        assert.isFalse((yield* stateOf("k")).active)
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("a call from before safe mode that fails in it is answered, and not counted", () =>
      Effect.gen(function*() {
        const late = yield* begin()
        yield* guarded(failing)
        assert.strictEqual((yield* late.end(failing)).source, "safe")
        assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: true, failures: 1 })
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("a call from before a reset changes nothing after it", () =>
      Effect.gen(function*() {
        const safeMode = yield* SafeMode.SafeMode
        yield* Effect.flip(guarded(failing))
        const late = yield* begin()
        yield* safeMode.reset("k")
        assert.deepStrictEqual(yield* Effect.flip(late.end(failing)), down)
        assert.deepStrictEqual(yield* stateOf("k"), { key: "k", active: false, failures: 0 })
      }).pipe(Effect.provide(SafeMode.layer({ failures: 2 }))))

    it.effect("calls side by side that all fail go into safe mode, and from the third on are answered", () =>
      Effect.gen(function*() {
        const calls = yield* Effect.forEach([1, 2, 3, 4], () => begin())
        const sources: Array<string> = []
        for (const call of calls) {
          sources.push(yield* Effect.match(call.end(failing), { onFailure: () => "error", onSuccess: (a) => a.source }))
        }
        assert.deepStrictEqual(sources, ["error", "error", "safe", "safe"])
      }).pipe(Effect.provide(SafeMode.layer())))
  })

  describe("the answer", () => {
    it.effect("keeps the answer of a fallback inside, and names the steps before the safe response", () =>
      Effect.gen(function*() {
        const inner = (last: Effect.Effect<string, Told>) =>
          failing.pipe(
            Fallback.primary("large"),
            Fallback.orElse("small", () => last),
            SafeMode.guard("k", { safe, label: "emergency" })
          )
        const small = yield* inner(Effect.succeed("small talk"))
        assert.deepStrictEqual([small.value, small.source, small.degraded], ["small talk", "small", true])
        const answer = yield* inner(failing)
        assert.strictEqual(answer.source, "emergency")
        assert.deepStrictEqual(answer.errors.map(({ label }) => label), ["large", "small"])
      }).pipe(Effect.provide(SafeMode.layer({ failures: 1 }))))

    it.effect("fails with what the safe response fails with", () =>
      Effect.gen(function*() {
        const call = failing.pipe(SafeMode.guard("k", { safe: Effect.fail("no response" as const), failures: 1 }))
        assert.strictEqual(yield* Effect.flip(call), "no response")
      }).pipe(Effect.provide(SafeMode.layer())))
  })

  describe("visibility", () => {
    it.effect("tells of going in and out once, and of every safe answer", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        const safeMode = yield* SafeMode.SafeMode
        const changes = yield* Stream.runCollect(Stream.take(safeMode.changes, 3)).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        yield* Effect.gen(function*() {
          yield* Effect.flip(guarded(failing))
          yield* guarded(failing)
          yield* guarded(failing)
          yield* guarded(Effect.succeed("well"))
          yield* safeMode.enter("other")
        }).pipe(Effect.provideService(Telemetry.Listener, (event) => void events.push(event)))
        const used = { _tag: "FallbackUsed", source: "safe", failed: ["primary"], skipped: [] } as const
        assert.deepStrictEqual(events, [
          { _tag: "SafeModeChanged", key: "k", active: true, failures: 2 },
          used,
          used,
          { _tag: "SafeModeChanged", key: "k", active: false, failures: 0 },
          { _tag: "SafeModeChanged", key: "other", active: true, failures: 0 }
        ])
        assert.deepStrictEqual(yield* Fiber.join(changes), [
          { key: "k", active: true, failures: 2 },
          { key: "k", active: false, failures: 0 },
          { key: "other", active: true, failures: 0 }
        ])
      }).pipe(Effect.provide(SafeMode.layer({ failures: 2 }))))

    it.effect("changes end with the service, and lists what has failed", () =>
      Effect.gen(function*() {
        const reader = yield* Effect.scoped(Effect.gen(function*() {
          const safeMode = yield* SafeMode.make()
          const reader = yield* Stream.runCollect(safeMode.changes).pipe(Effect.forkDetach({ startImmediately: true }))
          yield* Effect.exit(failing.pipe(safeMode.guard("a", { safe })))
          yield* Effect.exit(Effect.succeed(1).pipe(safeMode.guard("b", { safe })))
          yield* safeMode.enter("c")
          assert.deepStrictEqual(yield* safeMode.states, [
            { key: "a", active: false, failures: 1 },
            { key: "c", active: true, failures: 0 }
          ])
          return reader
        }))
        assert.deepStrictEqual(yield* Fiber.join(reader), [{ key: "c", active: true, failures: 0 }])
      }))
  })

  describe("options", () => {
    it.effect("of a key named in the layer go before those of the caller, and these before those of the layer", () =>
      Effect.gen(function*() {
        const after = (key: string, failures?: number) =>
          Effect.gen(function*() {
            for (let n = 1; n < 9; n++) {
              const exit = yield* Effect.exit(failing.pipe(SafeMode.guard(key, { safe, failures })))
              if (Exit.isSuccess(exit)) return n
            }
            return 0
          })
        assert.deepStrictEqual(
          yield* Effect.all([after("named", 4), after("caller", 4), after("layer")]),
          [2, 4, 5]
        )

        const counts = { countsAsFailure: (verdict: Fault.Verdict) => verdict._tag === "Refused", failures: 1 }
        const refusing = (key: string) => errorOf(Fault.refused).pipe(SafeMode.guard(key, { safe, ...counts }))
        const overloaded = (key: string) => failing.pipe(SafeMode.guard(key, { safe, ...counts }))
        assert.strictEqual((yield* refusing("caller's own")).source, "safe")
        assert.deepStrictEqual(yield* Effect.flip(overloaded("caller's other")), down)
        assert.strictEqual((yield* Effect.flip(refusing("strict"))).message, "told to be Refused")
        assert.strictEqual((yield* overloaded("strict")).source, "safe")
      }).pipe(Effect.provide(SafeMode.layer({
        failures: 5,
        keys: {
          named: { failures: 2 },
          strict: { countsAsFailure: (verdict) => verdict._tag === "Overloaded" }
        }
      }))))

    it.effect("that cannot work are refused when the guard is built", () =>
      Effect.gen(function*() {
        const refused = (options: SafeMode.Options) =>
          Effect.map(Effect.exit(Effect.scoped(SafeMode.make(options))), (exit) =>
            Exit.isFailure(exit) ? String(Cause.squash(exit.cause)) : "")
        assert.include(
          yield* refused({ failures: 0 }),
          "option \"failures\" is 0, expected a whole number of at least 1"
        )
        assert.include(yield* refused({ keys: { a: { failures: 0.5 } } }), "keys[\"a\"].failures")
        assert.include(yield* refused({ maxKeys: 0 }), "maxKeys")
        assert.include(yield* refused({ idleTimeToLive: 0 }), "idleTimeToLive")
        assert.throws(() =>
          SafeMode.guard("k", { safe, failures: 0 })(failing), /guard.failures/)
        assert.throws(() => SafeMode.guard(failing, "k", { safe, label: "" }), /guard.label/)
        const safeMode = yield* SafeMode.make()
        assert.throws(() => safeMode.guard("k", { safe, label: "" }), /guard.label/)
      }))

    it.effect("layerNoop answers nothing and remembers nothing", () =>
      Effect.gen(function*() {
        const safeMode = yield* SafeMode.SafeMode
        yield* safeMode.enter("k")
        for (let i = 0; i < 5; i++) assert.deepStrictEqual(yield* Effect.flip(guarded(failing)), down)
        assert.strictEqual((yield* guarded(Effect.succeed("well"))).source, "primary")
        assert.deepStrictEqual(yield* safeMode.states, [])
        assert.deepStrictEqual(yield* safeMode.state("k"), { key: "k", active: false, failures: 0 })
        assert.deepStrictEqual(yield* Stream.runCollect(safeMode.changes), [])
      }).pipe(Effect.provide(SafeMode.layerNoop)))
  })

  describe("memory", () => {
    it.effect("forgets the failures of an unused key after its time to live, and never that it is in safe mode", () =>
      Effect.gen(function*() {
        const safeMode = yield* SafeMode.SafeMode
        yield* Effect.flip(guarded(failing, "failing"))
        yield* guarded(failing, "active").pipe(Effect.exit, Effect.repeat({ times: 2 }))
        yield* TestClock.adjust("30 minutes")
        yield* Effect.flip(guarded(failing, "later"))
        yield* TestClock.adjust("29 minutes")
        assert.strictEqual((yield* safeMode.states).length, 3)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* safeMode.states, [
          { key: "active", active: true, failures: 3 },
          { key: "later", active: false, failures: 1 }
        ])
        yield* TestClock.adjust("10 hours")
        assert.deepStrictEqual(yield* stateOf("active"), { key: "active", active: true, failures: 3 })
        assert.strictEqual((yield* guarded(failing, "active")).source, "safe")
      }).pipe(Effect.provide(SafeMode.layer())))

    it.effect("what is forgotten is not counted on, whoever looks at it first", () =>
      Effect.gen(function*() {
        const safeMode = yield* SafeMode.SafeMode
        const failTwice = Effect.repeat(Effect.flip(guarded(failing)), { times: 1 })
        yield* failTwice
        yield* TestClock.adjust("59 minutes")
        assert.strictEqual((yield* stateOf("k")).failures, 2)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* stateOf("k")).failures, 0)
        yield* failTwice
        assert.strictEqual((yield* stateOf("k")).failures, 2)
        const running = yield* begin()
        yield* TestClock.adjust("2 hours")
        assert.strictEqual((yield* stateOf("k")).failures, 2)
        assert.strictEqual((yield* running.end(failing)).source, "safe")
        assert.isTrue((yield* safeMode.state("k")).active)
      }).pipe(Effect.provide(SafeMode.layer())))

    it("what works costs no memory, and what is forgotten none either", () => {
      const changes: Array<unknown> = []
      const keys = new SafeModeKeys({ maxKeys: 2, idleTimeToLive: 1000 }, (change) => changes.push(change))
      const call = (key: string, outcome: "success" | "failure" | "ignored", now: number) =>
        keys.settle(keys.begin(key, now), outcome, 9, now)
      call("a", "success", 0)
      call("a", "ignored", 0)
      assert.strictEqual(keys.size, 0)
      call("a", "failure", 0)
      keys.enter("a", 0)
      keys.reset("a", 0)
      assert.strictEqual(keys.size, 0)
      assert.strictEqual(changes.length, 2)
      call("a", "failure", 0)
      call("b", "failure", 500)
      call("c", "failure", 999)
      assert.strictEqual(keys.size, 2)
      call("d", "failure", 1999)
      assert.strictEqual(keys.size, 1)
      assert.strictEqual(changes.length, 2)
    })

    it.effect("healthy calls take no room from a key in safe mode, running or ended", () =>
      Effect.gen(function*() {
        const safeMode = yield* SafeMode.SafeMode
        yield* safeMode.enter("active")
        const calls = yield* Effect.forEach(["a", "b", "c"], (key) => begin(key))
        assert.isTrue((yield* stateOf("active")).active)
        for (const call of calls) yield* call.end(Effect.succeed("well"))
        assert.deepStrictEqual(yield* safeMode.states, [{ key: "active", active: true, failures: 0 }])
      }).pipe(Effect.provide(SafeMode.layer({ maxKeys: 1 }))))

    it.effect("makes room with the key unused for longest, one not in safe mode first, and tells of the other", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        const safeMode = yield* SafeMode.SafeMode
        const known = Effect.map(safeMode.states, (states) => states.map(({ key }) => key).toSorted())
        yield* safeMode.enter("active")
        yield* Effect.flip(guarded(failing, "a"))
        yield* Effect.flip(guarded(failing, "b"))
        yield* Effect.flip(guarded(failing, "a"))
        yield* Effect.flip(guarded(failing, "c"))
        assert.deepStrictEqual(yield* known, ["a", "active", "c"])
        for (const key of ["a", "c", "d"]) yield* safeMode.enter(key)
        yield* safeMode.enter("e").pipe(
          Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
        )
        assert.deepStrictEqual(yield* known, ["c", "d", "e"])
        assert.deepStrictEqual(events, [
          { _tag: "SafeModeChanged", key: "e", active: true, failures: 0 },
          { _tag: "SafeModeChanged", key: "a", active: false, failures: 0 }
        ])
      }).pipe(Effect.provide(SafeMode.layer({ maxKeys: 3 }))))

    it("makes room in the order of last use, however often and in whatever order keys were used", () => {
      const forgotten: Array<string> = []
      const keys = new SafeModeKeys({ maxKeys: 4, idleTimeToLive: 1000 }, ({ active, key }) => {
        if (!active) forgotten.push(key)
      })
      const use = (key: string) => keys.settle(keys.begin(key, 0), "failure", 1, 0)
      for (const key of ["a", "b", "c", "d", "b", "b", "a", "c", "b"]) use(key)
      const [one, other] = [keys.begin("d", 0), keys.begin("d", 0)]
      keys.settle(one, "ignored", 1, 0)
      keys.settle(other, "ignored", 1, 0)
      for (const key of ["e", "f", "g", "h"]) use(key)
      assert.deepStrictEqual(forgotten, ["a", "c", "b", "d"])
      assert.strictEqual(keys.size, 4)
    })

    it.effect("never forgets a key with a running call", () =>
      Effect.gen(function*() {
        yield* Effect.flip(guarded(failing, "busy"))
        const call = yield* begin("busy")
        for (const key of ["a", "b", "c"]) yield* Effect.flip(guarded(failing, key))
        assert.strictEqual((yield* stateOf("busy")).failures, 1)
        assert.strictEqual((yield* call.end(failing)).source, "safe")
      }).pipe(Effect.provide(SafeMode.layer({ maxKeys: 1, failures: 2, keys: { a: { failures: 9 } } }))))
  })

  describe("interruption", () => {
    const arrange = Effect.map(SafeMode.make({ failures: 1 }), (safeMode) => ({
      safeMode,
      effect: Effect.sleep("1 second").pipe(
        Effect.andThen(failing),
        safeMode.guard("k", { safe: Effect.as(Effect.sleep("1 second"), "later") })
      )
    }))

    it.effect("at every step leaves no call behind, and a call that was interrupted counts for nothing", () =>
      interruptEverywhere({
        arrange: Effect.map(arrange, ({ effect, safeMode }) => ({
          effect,
          check: (exit) =>
            Effect.gen(function*() {
              const { active, failures } = yield* safeMode.state("k")
              assert.isTrue(active ? failures === 1 : failures === 0)
              if (Exit.isSuccess(exit)) assert.isTrue(active)
              // A call that were still counted as running would keep its key from being forgotten.
              yield* safeMode.reset("k")
              yield* Effect.exit(failing.pipe(safeMode.guard("k", { safe, failures: 2 })))
              yield* TestClock.adjust("1 hour")
              assert.deepStrictEqual(yield* safeMode.states, [])
            })
        }))
      }))

    it.effect("at every step tells of a change that was made by hand", () =>
      interruptEverywhere({
        minSteps: 3,
        arrange: Effect.gen(function*() {
          const safeMode = yield* SafeMode.make()
          const changes: Array<SafeMode.State> = []
          yield* Stream.runForEach(safeMode.changes, (change) => Effect.sync(() => changes.push(change))).pipe(
            Effect.forkScoped({ startImmediately: true })
          )
          return {
            effect: Effect.andThen(safeMode.enter("k"), safeMode.reset("k")),
            check: () =>
              Effect.gen(function*() {
                yield* Effect.repeat(Effect.yieldNow, { times: 4 })
                const { active } = yield* safeMode.state("k")
                if (active) assert.deepStrictEqual(changes.map((change) => change.active), [true])
                else assert.isTrue(changes.length === 0 || changes.length === 2)
              })
          }
        })
      }))

    it.effect("from every source counts for nothing", () =>
      everyCancelSource({
        after: "500 millis",
        arrange: Effect.map(arrange, ({ effect, safeMode }) => ({
          effect,
          check: () =>
            Effect.gen(function*() {
              assert.deepStrictEqual(yield* safeMode.state("k"), { key: "k", active: false, failures: 0 })
            })
        }))
      }))
  })

  it.effect("a service of the user's own is used through its methods", () =>
    Effect.gen(function*() {
      const noop = Context.get(yield* Effect.context<SafeMode.SafeMode>(), SafeMode.SafeMode)
      const asked: Array<string> = []
      const answer = guarded(Effect.succeed("well"), "mine").pipe(
        Effect.provideService(SafeMode.SafeMode, {
          ...noop,
          guard: (key, options) => {
            asked.push(key)
            return noop.guard(key, options)
          }
        })
      )
      assert.strictEqual((yield* answer).value, "well")
      assert.deepStrictEqual(asked, ["mine"])
    }).pipe(Effect.provide(SafeMode.layerNoop)))

  it.effect("changes come in the order in which they happened, wherever a fiber gives way", () =>
    Effect.gen(function*() {
      for (const ops of [4, 5, 6, 7, 8, 9]) {
        for (let yields = 0; yields < 12; yields++) {
          const seen = yield* Effect.gen(function*() {
            const safeMode = yield* SafeMode.make()
            const changes = yield* Effect.forkChild(Stream.runCollect(safeMode.changes.pipe(Stream.take(2))), {
              startImmediately: true
            })
            const entering = yield* safeMode.enter("k").pipe(
              Effect.provideService(References.MaxOpsBeforeYield, ops),
              Effect.forkChild
            )
            yield* Effect.repeat(Effect.yieldNow, { times: yields })
            const { active } = yield* safeMode.state("k")
            if (!active) yield* Fiber.join(entering)
            yield* safeMode.reset("k")
            return (yield* Fiber.join(changes)).map((change) => change.active)
          }).pipe(Effect.scoped)
          assert.deepStrictEqual(seen, [true, false], `${ops} operations a turn, ${yields} turns between`)
        }
      }
    }))
})
