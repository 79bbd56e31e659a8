import { assert, describe, it } from "@effect/vitest"
import {
  Arbitrary,
  Cause,
  Clock,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Ref,
  Schedule,
  Schema,
  Stream
} from "effect"
import { CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"

class Down extends Schema.TaggedError<Down>()("Down", { retryAfter: Schema.optionalKey(Schema.DurationFromMillis) }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return Fault.overloaded(this.retryAfter)
  }
}

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const down = Effect.fail(new Down({}))
const downFor = (retryAfter: Duration.Input) =>
  Effect.fail(new Down({ retryAfter: Duration.fromInputUnsafe(retryAfter) }))
const ok = Effect.succeed("ok")

const call = <A, E, R>(self: Effect.Effect<A, E, R>, key = "k") => Effect.exit(CircuitBreaker.protect(self, key))
const times = <A, E, R>(n: number, self: Effect.Effect<A, E, R>) => Effect.replicateEffect(self, n, { discard: true })

const stateOf = (key = "k") => CircuitBreaker.CircuitBreaker.use((breaker) => breaker.state(key))
const tagOf = (key = "k") => Effect.map(stateOf(key), (state) => state._tag)

const rejection = (key = "k") => Effect.flip(CircuitBreaker.protect(Effect.void, key))

/** A call that runs until it is told how to end. */
const running = <A, E, R>(end: Effect.Effect<A, E, R>, key = "k") =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<void>()
    const fiber = yield* Deferred.await(gate).pipe(
      Effect.andThen(end),
      CircuitBreaker.protect(key),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    return { fiber, finish: Effect.andThen(Deferred.succeed(gate, undefined), Fiber.join(fiber)) }
  })

describe("CircuitBreaker", () => {
  it.effect("opens after five consecutive failures for a minute and closes after two successes", () =>
    Effect.gen(function*() {
      yield* times(4, call(down))
      assert.strictEqual(yield* tagOf(), "Closed")
      yield* call(down)
      assert.deepStrictEqual(yield* stateOf(), { _tag: "Open", key: "k", retryAfter: Duration.minutes(1), openings: 1 })
      yield* TestClock.adjust("1 minute")
      assert.deepStrictEqual(yield* call(ok), Exit.succeed("ok"))
      assert.strictEqual(yield* tagOf(), "HalfOpen")
      yield* call(ok)
      assert.deepStrictEqual(yield* stateOf(), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
    }).pipe(Effect.provide(CircuitBreaker.layer())))
})
