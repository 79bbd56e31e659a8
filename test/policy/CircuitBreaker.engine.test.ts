import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Exit, Fiber, Stream } from "effect"
import { CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { type CircuitEngine, engineOf } from "../../src/policy/internal/circuitEngine.ts"

const down = Effect.fail({ [Fault.verdictOf]: Fault.transient })
const failed = Exit.fail({ [Fault.verdictOf]: Fault.transient })

const quick: CircuitBreaker.Options = {
  trip: CircuitBreaker.consecutive(1),
  openFor: "10 seconds",
  successThreshold: 1,
  idleTimeToLive: "1 minute"
}

const made = Effect.gen(function*() {
  const breaker = yield* CircuitBreaker.make(quick)
  return { breaker, engine: engineOf(breaker) ?? assert.fail("no engine") }
})

const admitted = (engine: CircuitEngine, now: number) => {
  const admission = engine.admit("k", undefined, now, Context.empty())
  return admission._tag === "Ticket" ? admission : assert.fail(admission.message)
}

describe("the engine of a circuit breaker", () => {
  it.effect("decides as protect does, for the same circuits", () =>
    Effect.gen(function*() {
      const { breaker, engine } = yield* made
      const none = Context.empty()
      engine.settle(admitted(engine, 0), failed, 0, none)
      assert.deepStrictEqual(
        engine.admit("k", undefined, 1, none),
        engine.check("k", undefined, 1, none)
      )
      yield* TestClock.adjust(1)
      const refused = yield* Effect.flip(breaker.protect("k")(Effect.void))
      assert.deepStrictEqual(engine.admit("k", undefined, 1, none), refused)
      yield* TestClock.adjust(9_999)
      assert.deepStrictEqual(yield* Effect.exit(breaker.protect("k")(Effect.void)), Exit.void)
      assert.deepStrictEqual(yield* breaker.state("k"), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
    }))

  it.effect("announces once what is pending, in the order in which it happened", () =>
    Effect.gen(function*() {
      const { breaker, engine } = yield* made
      const reader = yield* breaker.transitions.pipe(
        Stream.take(3),
        Stream.map(({ from, to }) => `${from} -> ${to}`),
        Stream.runCollect,
        Effect.forkChild({ startImmediately: true })
      )
      assert.isFalse(engine.pending)
      engine.settle(admitted(engine, 0), failed, 0, Context.empty())
      engine.settle(admitted(engine, 10_000), Exit.void, 10_000, Context.empty())
      assert.isTrue(engine.pending)
      yield* engine.announce
      assert.isFalse(engine.pending)
      assert.deepStrictEqual(yield* Fiber.join(reader), ["Closed -> Open", "Open -> HalfOpen", "HalfOpen -> Closed"])
    }))

  it.effect("frees the slot and throws on when the user's classifier throws", () =>
    Effect.gen(function*() {
      const { breaker, engine } = yield* made
      engine.settle(admitted(engine, 0), failed, 0, Context.empty())
      const probe = admitted(engine, 10_000)
      const broken = Context.make(Fault.Classifier, () => {
        throw new Error("bad classifier")
      })
      assert.throws(() => engine.settle(probe, Exit.fail("?"), 10_000, broken), "bad classifier")
      yield* TestClock.adjust(10_000)
      assert.deepInclude(yield* breaker.state("k"), { _tag: "HalfOpen", probes: 0, failures: 0 })
    }))

  it.effect("is that of the service itself, and not of a copy that may do something else", () =>
    Effect.gen(function*() {
      const { breaker } = yield* made
      assert.isUndefined(engineOf({ ...breaker, protect: () => () => Effect.die("mine") }))
      assert.isUndefined(engineOf(yield* Effect.provide(CircuitBreaker.CircuitBreaker, CircuitBreaker.layerNoop)))
      assert.isDefined(engineOf(yield* Effect.provide(CircuitBreaker.CircuitBreaker, CircuitBreaker.layer())))
    }))

  it.effect("may be used again by a listener in the middle of a transition", () => {
    const events: Array<string> = []
    return Effect.gen(function*() {
      const breaker = yield* CircuitBreaker.make(quick)
      const context = yield* Effect.context<never>()
      const heard = (event: Telemetry.Event) => {
        if (event._tag !== "CircuitChanged") return
        events.push(`${event.from} -> ${event.to}`)
        // a listener that does not leave it at listening
        if (event.to === "Open") Effect.runSyncWith(Context.add(context, Telemetry.Listener, heard))(breaker.reset("k"))
      }
      yield* Effect.exit(Effect.provideService(breaker.protect("k")(down), Telemetry.Listener, heard))
      assert.deepStrictEqual(events, ["Closed -> Open", "Open -> Closed"])
      assert.deepStrictEqual(yield* Effect.exit(breaker.protect("k")(Effect.void)), Exit.void)
    })
  })
})
