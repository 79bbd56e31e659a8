import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Stream } from "effect"
import { CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

const down = Effect.fail({ [Fault.verdictOf]: Fault.transient })

const quick: CircuitBreaker.Options = {
  trip: CircuitBreaker.consecutive(1),
  openFor: "10 seconds",
  successThreshold: 1,
  idleTimeToLive: "1 minute"
}

type Breaker = CircuitBreaker.CircuitBreaker["Service"]

const work = Effect.andThen(Effect.yieldNow, Effect.sleep("1 second"))

/** Circuits of which `k` is in a state, for a call that is then interrupted. */
const circuits = {
  closed: CircuitBreaker.make(quick),
  "half-open": CircuitBreaker.make(quick).pipe(
    Effect.tap((breaker) => Effect.exit(breaker.protect("k")(down))),
    Effect.tap(TestClock.adjust("10 seconds"))
  ),
  open: CircuitBreaker.make(quick).pipe(Effect.tap((breaker) => Effect.exit(breaker.protect("k")(down)))),
  isolated: CircuitBreaker.make(quick).pipe(Effect.tap((breaker) => breaker.isolate("k")))
}

/** What must be so for a service that no call uses any more: a circuit that a call still held would be remembered. */
const nothingIsHeld = Effect.fnUntraced(function*(breaker: Breaker) {
  const state = yield* breaker.state("k")
  if (state._tag === "HalfOpen") assert.strictEqual(state.probes, 0)
  if (state._tag === "Isolated") return
  yield* TestClock.adjust("10 minutes")
  assert.deepStrictEqual(yield* breaker.states, [])
})

describe("interruption at every step", () => {
  it.effect("of a call through a closed circuit leaves nothing behind, and counts only what came to its end", () =>
    interruptEverywhere({
      arrange: Effect.map(circuits.closed, (breaker) => {
        let worked = 0
        return {
          effect: breaker.protect("k")(Effect.tap(work, () => Effect.sync(() => worked++))),
          check: Effect.fnUntraced(function*(exit: Exit.Exit<void, unknown>) {
            const state = yield* breaker.state("k")
            assert.deepInclude(state, { _tag: "Closed", failures: 0 })
            const calls = state._tag === "Closed" ? state.calls : -1
            assert.isAtMost(calls, worked)
            if (Exit.isSuccess(exit)) assert.strictEqual(calls, 1)
            yield* nothingIsHeld(breaker)
          })
        }
      })
    }))

  it.effect("of a failing call leaves nothing behind, and counts it as failed or not at all", () =>
    interruptEverywhere({
      arrange: Effect.map(circuits.closed, (breaker) => ({
        effect: breaker.protect("k")(Effect.andThen(work, down)),
        check: Effect.fnUntraced(function*(exit: Exit.Exit<never, unknown>) {
          const { _tag } = yield* breaker.state("k")
          if (Exit.isFailure(exit) && !Exit.hasInterrupts(exit)) assert.strictEqual(_tag, "Open")
          yield* nothingIsHeld(breaker)
        })
      }))
    }))

  it.effect("of a probe frees its slot, and neither opens nor closes unless it came to its end", () =>
    interruptEverywhere({
      arrange: Effect.map(circuits["half-open"], (breaker) => {
        let worked = 0
        return {
          effect: breaker.protect("k")(Effect.tap(work, () => Effect.sync(() => worked++))),
          check: Effect.fnUntraced(function*(exit: Exit.Exit<void, unknown>) {
            const state = yield* breaker.state("k")
            if (Exit.isSuccess(exit)) assert.strictEqual(state._tag, "Closed")
            if (state._tag === "Closed") assert.strictEqual(worked, 1)
            else if (state._tag === "Open") assert.strictEqual(state.openings, 1)
            else assert.deepInclude(state, { _tag: "HalfOpen", probes: 0, successes: 0, failures: 0, openings: 1 })
            assert.deepStrictEqual(yield* Effect.exit(breaker.protect("k")(Effect.void)), Exit.void)
            yield* nothingIsHeld(breaker)
          })
        }
      })
    }))

  for (const refusing of ["open", "isolated"] as const) {
    it.effect(`of a call that is refused (${refusing}) changes nothing and never starts its work`, () =>
      interruptEverywhere({
        moments: ["during", "before"],
        minSteps: 3,
        arrange: Effect.gen(function*() {
          const breaker = yield* circuits[refusing]
          const before = yield* breaker.state("k")
          let started = false
          return {
            effect: breaker.protect("k")(Effect.sync(() => {
              started = true
            })),
            check: Effect.fnUntraced(function*(exit: Exit.Exit<void, unknown>) {
              assert.isTrue(Exit.isFailure(exit))
              assert.isFalse(started)
              assert.deepStrictEqual(yield* breaker.state("k"), before)
              yield* nothingIsHeld(breaker)
            })
          }
        })
      }))
  }

  it.effect("of check, isolate, reset and configure leaves no half of a change", () =>
    interruptEverywhere({
      moments: ["during", "before"],
      arrange: Effect.gen(function*() {
        const breaker = yield* circuits.open
        const holds: Array<CircuitBreaker.Hold> = []
        return {
          effect: Effect.gen(function*() {
            yield* Effect.ignore(breaker.check("k"))
            yield* Effect.acquireUseRelease(
              breaker.isolate("k"),
              (hold) => Effect.andThen(Effect.sync(() => holds.push(hold)), Effect.yieldNow),
              (hold) => hold.release
            )
            yield* breaker.reset("k")
            yield* breaker.configure({ ...quick, metricsOnly: true })
          }),
          check: Effect.fnUntraced(function*() {
            const { _tag } = yield* breaker.state("k")
            assert.include(["Open", "Closed", "MetricsOnly"], _tag)
            yield* nothingIsHeld(breaker)
          })
        }
      })
    }))

  for (const change of ["isolate", "reset", "configure"] as const) {
    it.effect(`of ${change} tells of what it changed, or changes nothing`, () =>
      interruptEverywhere({
        minSteps: 3,
        arrange: Effect.gen(function*() {
          const breaker = yield* circuits.open
          const seen: Array<string> = []
          yield* breaker.transitions.pipe(
            Stream.runForEach(({ to }) => Effect.sync(() => seen.push(to))),
            Effect.forkScoped({ startImmediately: true })
          )
          const changes = {
            isolate: breaker.isolate("k"),
            reset: breaker.reset("k"),
            configure: breaker.configure({ ...quick, metricsOnly: true })
          }
          return {
            effect: changes[change],
            check: Effect.fnUntraced(function*() {
              const { _tag } = yield* breaker.state("k")
              yield* Effect.replicateEffect(Effect.yieldNow, 5)
              assert.deepStrictEqual(seen, _tag === "Open" ? [] : [_tag])
            })
          }
        })
      }))
  }

  it.effect("of a scoped hold releases it", () =>
    interruptEverywhere({
      arrange: Effect.map(circuits.closed, (breaker) => ({
        effect: CircuitBreaker.isolateScoped("k").pipe(
          Effect.andThen(CircuitBreaker.state("k")),
          Effect.tap((state) => Effect.sync(() => assert.deepInclude(state, { _tag: "Isolated", holders: 1 }))),
          Effect.andThen(work),
          Effect.scoped,
          Effect.provideService(CircuitBreaker.CircuitBreaker, breaker)
        ),
        check: Effect.fnUntraced(function*() {
          assert.strictEqual((yield* breaker.state("k"))._tag, "Closed")
          yield* nothingIsHeld(breaker)
        })
      }))
    }))

  it.effect("of calls whose listener throws leaves nothing behind", () =>
    interruptEverywhere({
      arrange: Effect.map(circuits.closed, (breaker) => ({
        effect: breaker.protect("k")(Effect.andThen(Effect.yieldNow, down)).pipe(
          Effect.exit,
          Effect.andThen(breaker.check("k")),
          Effect.provideService(Telemetry.Listener, () => {
            throw new Error("listener")
          })
        ),
        check: () => nothingIsHeld(breaker)
      }))
    }))
})

describe("every cancel source", () => {
  it.effect("of a call through a closed circuit counts for nothing", () =>
    everyCancelSource({
      arrange: Effect.map(circuits.closed, (breaker) => ({
        effect: breaker.protect("k")(work),
        check: Effect.fnUntraced(function*() {
          assert.deepStrictEqual(yield* breaker.state("k"), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
          yield* nothingIsHeld(breaker)
        })
      }))
    }))

  it.effect("of a probe frees its slot, and neither opens nor closes", () =>
    everyCancelSource({
      arrange: Effect.map(circuits["half-open"], (breaker) => ({
        effect: breaker.protect("k")(work),
        check: Effect.fnUntraced(function*() {
          const state = { _tag: "HalfOpen", key: "k", probes: 0, successes: 0, failures: 0, openings: 1 } as const
          assert.deepStrictEqual(yield* breaker.state("k"), state)
          yield* nothingIsHeld(breaker)
        })
      }))
    }))
})
