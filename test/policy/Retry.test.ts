import { assert, describe, it } from "@effect/vitest"
import {
  Arbitrary,
  Cause,
  Clock,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Random,
  Ref,
  Schedule,
  Schema,
  Tracer
} from "effect"
import { Backoff, Fault, Retry, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"

class Busy extends Schema.TaggedError<Busy>("test/Busy")("Busy", { n: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.transient
}
class Broken extends Schema.TaggedError<Broken>("test/Broken")("Broken", {}) {
  readonly [Fault.verdictOf] = Fault.permanent
}
class Limited extends Schema.TaggedError<Limited>("test/Limited")("Limited", { millis: Schema.Finite }) {
  get [Fault.verdictOf]() {
    return Fault.throttled(this.millis)
  }
}
class Unclear extends Schema.TaggedError<Unclear>("test/Unclear")("Unclear", {}) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}

const everySecond = Backoff.constant({ delay: "1 second" })

/** Fails with the nth error on the nth call, and succeeds with the number of calls after the last. */
const scripted = <E>(errors: ReadonlyArray<E>) => {
  const calls: Array<number> = []
  const effect: Effect.Effect<number, E> = Effect.flatMap(Clock.currentTimeMillis, (now) => {
    calls.push(now)
    const error = errors[calls.length - 1]
    return error === undefined ? Effect.succeed(calls.length) : Effect.fail(error)
  })
  return { calls, effect }
}

const listening = () => {
  const events: Array<Telemetry.Event> = []
  return { events, listen: Effect.provideService(Telemetry.Listener, (event) => void events.push(event)) }
}

const busy = (n: number) => Array.from({ length: n }, (_, i) => new Busy({ n: i + 1 }))

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

describe("Retry", () => {
  it.effect("passes a success through without waiting, in both call styles", () =>
    Effect.gen(function*() {
      const policy = Retry.policy()
      assert.strictEqual(yield* Retry.apply(Effect.succeed(1), policy), 1)
      assert.strictEqual(yield* Effect.succeed(2).pipe(Retry.apply(policy)), 2)
    }))

  it.effect("tries again after the delay and not before", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(2))
      const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff: everySecond })))
      yield* TestClock.adjust("999 millis")
      assert.deepStrictEqual(calls, [0])
      yield* TestClock.adjust("1 millis")
      assert.deepStrictEqual(calls, [0, 1000])
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), 3)
    }))

  it.effect("counts the first try in maxAttempts, and fails with the last error", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(9))
      const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff: everySecond, maxAttempts: 3 })))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 3 })))
      assert.deepStrictEqual(calls, [0, 1000, 2000])
    }))

  it.effect("makes 5 attempts with full jitter from 1 second by default", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(9))
      const fiber = yield* start(Retry.apply(effect, Retry.policy()))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 5 })))
      const delays = calls.slice(1).map((at, i) => at - (calls[i] ?? 0))
      assert.strictEqual(delays.length, 4)
      delays.forEach((delay, i) => assert.isAtMost(delay, 1000 * 2 ** i))
    }))
})
