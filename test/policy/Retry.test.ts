import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Random, Schedule, Schema } from "effect"
import {
  Backoff,
  Bulkhead,
  Checkpoint,
  CheckpointStore,
  CircuitBreaker,
  Deadline,
  Fault,
  Hedge,
  Policy,
  Retry,
  RetryBudget,
  Telemetry
} from "effect-resilience"
import { TestClock } from "effect/testing"
import * as deadline from "../../src/policy/internal/deadline.ts"
import { recordingTracer } from "../recordingTracer.ts"
import {
  type CancelSource,
  cancelSources,
  everyCancelSource,
  interruptEverywhere
} from "../support/interruptEverywhere.ts"

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

  for (const verdict of [Fault.timedOut, Fault.malformed, Fault.ambiguous]) {
    it.effect(`with idempotent: false repeats nothing that may have happened (${verdict._tag})`, () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted([{ [Fault.verdictOf]: verdict }])
        const policy = Retry.policy({ backoff: everySecond, idempotent: false })
        yield* Effect.flip(Retry.apply(effect, policy))
        assert.lengthOf(calls, 1)
        const surely = scripted([{ [Fault.verdictOf]: Fault.transient }])
        const fiber = yield* start(Retry.apply(surely.effect, policy))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), 2)
      }))
  }

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

  it.effect("makes one attempt and never waits with maxAttempts 1", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(2))
      assert.deepStrictEqual(
        yield* Effect.exit(Retry.apply(effect, Retry.policy({ maxAttempts: 1 }))),
        Exit.fail(new Busy({ n: 1 }))
      )
      assert.deepStrictEqual(calls, [0])
    }))

  it.effect("tells the effect which retry it is", () =>
    Effect.gen(function*() {
      const seen: Array<number> = []
      const call = Effect.gen(function*() {
        seen.push((yield* Schedule.CurrentMetadata).attempt)
        return yield* new Busy({ n: 1 })
      })
      const nested = Effect.andThen(Effect.ignore(call), call)
      const fiber = yield* start(Retry.apply(nested, Retry.policy({ backoff: everySecond, maxAttempts: 3 })))
      yield* TestClock.adjust("1 hour")
      yield* Fiber.await(fiber)
      assert.deepStrictEqual(seen, [0, 0, 1, 1, 2, 2])
    }))

  it.effect("begins anew where it stands inside another retry", () =>
    Effect.gen(function*() {
      const seen: Array<number> = []
      const call = Effect.gen(function*() {
        seen.push((yield* Schedule.CurrentMetadata).attempt)
        return yield* new Busy({ n: 1 })
      })
      const twice = Retry.policy({ backoff: everySecond, maxAttempts: 2 })
      const outer = Effect.gen(function*() {
        seen.push((yield* Schedule.CurrentMetadata).attempt)
        return yield* Retry.apply(call, twice)
      })
      const fiber = yield* start(Retry.apply(outer, twice))
      yield* TestClock.adjust("1 hour")
      yield* Fiber.await(fiber)
      assert.deepStrictEqual(seen, [0, 0, 1, 1, 0, 1])
    }))

  it.effect("tells the effect what Effect.retry tells it", () =>
    Effect.gen(function*() {
      const seenBy = (retry: (call: Effect.Effect<never, Busy>) => Effect.Effect<never, Busy>) =>
        Effect.gen(function*() {
          yield* TestClock.setTime(0)
          const seen: Array<Schedule.Metadata> = []
          const call = Effect.gen(function*() {
            seen.push(yield* Schedule.CurrentMetadata)
            yield* Effect.sleep("300 millis")
            return yield* new Busy({ n: seen.length })
          })
          const fiber = yield* start(retry(call))
          yield* TestClock.adjust("1 hour")
          yield* Fiber.await(fiber)
          return seen
        })
      const policy = Retry.policy({ backoff: Backoff.exponential(), maxAttempts: 4 })
      const seen = yield* seenBy(Retry.apply(policy))
      assert.strictEqual(seen.length, 4)
      assert.deepStrictEqual(seen, yield* seenBy(Effect.retry(Retry.schedule(policy))))
    }))

  describe("what is retried", () => {
    it.effect("fails at once with an error that must not be retried", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted([new Busy({ n: 1 }), new Broken(), new Busy({ n: 3 })])
        const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff: everySecond })))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Broken()))
        assert.deepStrictEqual(calls, [0, 1000])
      }))

    it.effect("never retries a defect, nor a failure beside a defect or an interruption", () =>
      Effect.gen(function*() {
        const failures: ReadonlyArray<Cause.Cause<Busy>> = [
          Cause.die("bug"),
          Cause.combine(Cause.fail(new Busy({ n: 1 })), Cause.die("bug")),
          Cause.combine(Cause.fail(new Busy({ n: 1 })), Cause.interrupt(7)),
          Cause.interrupt(7)
        ]
        for (const cause of failures) {
          let calls = 0
          const call = Effect.suspend(() => {
            calls++
            return Effect.failCause(cause)
          })
          assert.deepStrictEqual(yield* Effect.exit(Retry.apply(call, Retry.policy())), Exit.failCause(cause))
          assert.strictEqual(calls, 1)
        }
      }))

    it.effect("retries a failed parallel step although its siblings were interrupted", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(busy(1))
        let interrupted = 0
        const sibling = Effect.suspend(() => calls.length < 2 ? Effect.never : Effect.void).pipe(
          Effect.onInterrupt(() => Effect.sync(() => interrupted++))
        )
        const both = Effect.all([sibling, Effect.andThen(Effect.yieldNow, effect), sibling], { concurrency: 3 })
        const fiber = yield* start(
          both.pipe(Retry.apply(Retry.policy({ backoff: everySecond, maxAttempts: 2 })), Effect.exit)
        )
        yield* TestClock.adjust("1 second")
        assert.strictEqual(calls.length, 2)
        assert.strictEqual(interrupted, 2)
        yield* Fiber.interrupt(fiber)
      }))

    it.effect("passes on the cause of the last failure as it was", () =>
      Effect.gen(function*() {
        const cause = Cause.combine(Cause.fail(new Busy({ n: 1 })), Cause.fail(new Busy({ n: 2 })))
        const fiber = yield* start(
          Retry.apply(Effect.failCause(cause), Retry.policy({ backoff: everySecond, maxAttempts: 2 }))
        )
        yield* TestClock.adjust("1 second")
        const exit = yield* Fiber.await(fiber)
        assert.deepStrictEqual(Exit.isFailure(exit) && exit.cause.reasons.length, 2)
      }))

    it.effect("lets retryIf overrule the verdict both ways, and leaves the rest to it", () =>
      Effect.gen(function*() {
        const policy = Retry.policy({
          backoff: everySecond,
          maxAttempts: 2,
          retryIf: (error, verdict) => {
            if (verdict._tag === "Permanent") return true
            return error instanceof Busy && error.n === 13 ? false : undefined
          }
        })
        const attempts = (error: Busy | Broken | Unclear) =>
          Effect.gen(function*() {
            const { calls, effect } = scripted([error, error, error])
            const fiber = yield* start(Retry.apply(effect, policy))
            yield* TestClock.adjust("1 hour")
            assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(error))
            return calls.length
          })
        assert.strictEqual(yield* attempts(new Broken()), 2)
        assert.strictEqual(yield* attempts(new Busy({ n: 13 })), 1)
        assert.strictEqual(yield* attempts(new Busy({ n: 1 })), 2)
        assert.strictEqual(yield* attempts(new Unclear()), 1)
      }))

    it.effect("waits for a refusal by a guard of ours where retryIf says so", () =>
      Effect.gen(function*() {
        const error = { [Fault.verdictOf]: Fault.rejected("7 seconds") }
        const { calls, effect } = scripted([error])
        const fiber = yield* start(
          Retry.apply(effect, Retry.policy({ backoff: everySecond, retryIf: (_, { _tag }) => _tag === "Rejected" }))
        )
        yield* TestClock.adjust("1 hour")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(calls, [0, 7000])
      }))

    it.effect("does not retry what our own guards refused, so that a fallback answers at once", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const error = { [Fault.verdictOf]: Fault.rejected("7 seconds") }
        const { calls, effect } = scripted([error])
        assert.deepStrictEqual(yield* Effect.exit(listen(Retry.apply(effect, Retry.policy()))), Exit.fail(error))
        assert.deepStrictEqual(calls, [0])
        assert.deepStrictEqual(events, [
          { _tag: "RetryGaveUp", policy: "retry", attempts: 1, verdict: "Rejected", reason: "NotRetryable" }
        ])
      }))

    it.effect("retryRejected waits at least the time that the refusal names, and tries again", () =>
      Effect.gen(function*() {
        const refused = (retryAfter?: Duration.Input) => ({ [Fault.verdictOf]: Fault.rejected(retryAfter) })
        const { calls, effect } = scripted([refused("7 seconds"), refused(), refused("100 millis")])
        const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff: everySecond, retryRejected: true })))
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* Fiber.join(fiber), 4)
        assert.deepStrictEqual(calls, [0, 7000, 8000, 9000])
      }))

    it.effect("retryRejected gives up where the refusal names a longer time than the cap, and leaves retryIf the last word", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const fail = (options: Retry.Options & { readonly budget?: undefined }) =>
          Effect.fail({ [Fault.verdictOf]: Fault.rejected("2 minutes") }).pipe(
            Retry.apply(Retry.policy({ retryRejected: true, ...options })),
            listen,
            Effect.exit
          )
        yield* fail({})
        yield* fail({ retryIf: () => false })
        assert.deepStrictEqual(events.map((event) => event._tag === "RetryGaveUp" ? event.reason : event._tag), [
          "RetryAfterTooLong",
          "NotRetryable"
        ])
      }))

    it.effect("retries what may have happened only where that is harmless", () =>
      Effect.gen(function*() {
        const seen: Array<boolean> = []
        const call = Effect.gen(function*() {
          seen.push(yield* Fault.Idempotent)
          return yield* new Unclear()
        })
        const attempts = (effect: Effect.Effect<never, Unclear>) =>
          Effect.gen(function*() {
            seen.length = 0
            const fiber = yield* start(effect)
            yield* TestClock.adjust("1 hour")
            yield* Fiber.await(fiber)
            return [...seen]
          })
        const policy = (idempotent?: boolean) => Retry.policy({ backoff: everySecond, maxAttempts: 2, idempotent })
        assert.deepStrictEqual(yield* attempts(Retry.apply(call, policy())), [false])
        assert.deepStrictEqual(yield* attempts(Retry.apply(call, policy(true))), [true, true])
        assert.deepStrictEqual(yield* attempts(Fault.idempotent(Retry.apply(call, policy()))), [true, true])
        assert.deepStrictEqual(yield* attempts(Fault.idempotent(Retry.apply(call, policy(false)))), [false])
        assert.deepStrictEqual(yield* attempts(Effect.retry(call, Retry.schedule(policy(true)))), [false, false])
      }))

    it.effect("reads the classifier of the surroundings", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(["busy", "busy", "other"])
        const fiber = yield* effect.pipe(
          Retry.apply(Retry.policy({ backoff: everySecond })),
          Fault.withClassifier((error) => error === "busy" ? Fault.throttled("3 seconds") : undefined),
          start
        )
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail("other"))
        assert.deepStrictEqual(calls, [0, 3000, 6000])
      }))
  })

  describe("retryAfter", () => {
    it.effect("is never undercut, whatever the schedule", () =>
      Effect.gen(function*() {
        const backoffs = [
          Backoff.fullJitter({ base: 1 }),
          Schedule.jittered(Backoff.exponential({ base: 1 })),
          Schedule.spaced(1),
          Schedule.recurs(9)
        ]
        for (const backoff of backoffs) {
          const { calls, effect } = scripted([new Limited({ millis: 30_000 })])
          const begin = yield* Clock.currentTimeMillis
          const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff })))
          yield* TestClock.adjust(29_999)
          assert.strictEqual(calls.length, 1)
          yield* TestClock.adjust("1 minute")
          assert.strictEqual(yield* Fiber.join(fiber), 2)
          assert.isAtLeast((calls[1] ?? 0) - begin, 30_000)
        }
      }))

    it.effect("is read from seconds, milliseconds and HTTP dates; a past date means now, and garbage is ignored", () =>
      Effect.gen(function*() {
        // a round second, as an HTTP date has no smaller unit
        yield* TestClock.setTime(1_790_000_000_000)
        const date = (millis: number) => new Date(1_790_000_000_000 + millis).toUTCString()
        const delayOf = (headers: Record<string, string>) =>
          Effect.gen(function*() {
            yield* TestClock.setTime(1_790_000_000_000)
            const { calls, effect } = scripted([{ status: 429, headers }])
            const fiber = yield* start(
              Retry.apply(effect, Retry.policy({ backoff: Backoff.constant({ delay: "3 seconds", cap: "1 hour" }) }))
            )
            yield* TestClock.adjust("1 hour")
            yield* Fiber.join(fiber)
            return (calls[1] ?? NaN) - (calls[0] ?? NaN)
          })
        assert.strictEqual(yield* delayOf({ "retry-after": "20" }), 20_000)
        assert.strictEqual(yield* delayOf({ "retry-after": "4.5" }), 4_500)
        assert.strictEqual(yield* delayOf({ "retry-after-ms": "4321" }), 4_321)
        assert.strictEqual(yield* delayOf({ "retry-after-ms": "4321", "retry-after": "20" }), 4_321)
        assert.strictEqual(yield* delayOf({ "retry-after": date(90_000) }), 90_000)
        assert.strictEqual(yield* delayOf({ "retry-after": date(-90_000) }), 3_000)
        for (const garbage of ["soon", "-5", "NaN", "", "Infinity", "1e999", "12 parsecs"]) {
          assert.strictEqual(yield* delayOf({ "retry-after": garbage }), 3_000, garbage)
        }
      }))

    it.effect("longer than the cap ends the retrying without a wait", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const { calls, effect } = scripted([new Limited({ millis: 60_001 })])
        const exit = yield* Retry.apply(effect, Retry.policy()).pipe(listen, Effect.exit)
        assert.deepStrictEqual(exit, Exit.fail(new Limited({ millis: 60_001 })))
        assert.deepStrictEqual(calls, [0])
        assert.deepStrictEqual(events, [
          { _tag: "RetryGaveUp", policy: "retry", attempts: 1, verdict: "Throttled", reason: "RetryAfterTooLong" }
        ])
      }))

    it.effect("longer than what is left of maxElapsed ends the retrying without a wait", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted([new Limited({ millis: 10_001 })])
        const policy = Retry.policy({ backoff: everySecond, maxElapsed: "10 seconds" })
        assert.deepStrictEqual(
          yield* Effect.exit(Retry.apply(effect, policy)),
          Exit.fail(new Limited({ millis: 10_001 }))
        )
        assert.deepStrictEqual(calls, [0])
      }))
  })

  describe("a refusal by a guard of ours after a try that was sent", () => {
    class Refused extends Schema.TaggedError<Refused>("test/Refused")("Refused", { millis: Schema.Finite }) {
      get [Fault.verdictOf]() {
        return Fault.rejected(this.millis)
      }
    }
    const refused = (millis: number) => new Refused({ millis })

    it.effect("by an open circuit or a full bulkhead, gives the caller its own error", () =>
      Effect.gen(function*() {
        const policy = Retry.policy({ backoff: everySecond })

        const first = scripted(busy(9))
        const tripping = first.effect.pipe(
          CircuitBreaker.protect("circuit", { trip: CircuitBreaker.consecutive(1) }),
          Retry.apply(policy)
        )
        const inOutage = yield* start(tripping)
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.await(inOutage), Exit.fail(new Busy({ n: 1 })))
        assert.strictEqual(first.calls.length, 1)
        const error = yield* Effect.flip(tripping)
        assert.strictEqual(error._tag, "CircuitOpen")

        const one = Bulkhead.limit("bulkhead", { maxConcurrent: 1, maxQueue: 0 })
        const second = yield* start(scripted(busy(9)).effect.pipe(one, Retry.apply(policy)))
        yield* start(one(Effect.never))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.await(second), Exit.fail(new Busy({ n: 1 })))
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("gives the caller its own error with retryRejected, too, for whatever reason it gives up", () =>
      Effect.gen(function*() {
        const policies: ReadonlyArray<readonly [reason: string, Retry.Options & { readonly budget?: undefined }]> = [
          ["Exhausted", { maxAttempts: 4 }],
          ["RetryAfterTooLong", { backoff: Backoff.constant({ delay: "1 second", cap: "6999 millis" }) }],
          ["Elapsed", { maxElapsed: "7 seconds" }],
          ["Deadline", {}],
          ["NotRetryable", { retryIf: (error) => error instanceof Refused && error.millis > 1 ? false : undefined }]
        ]
        for (const [reason, options] of policies) {
          const { events, listen } = listening()
          const { effect } = scripted([
            new Busy({ n: 1 }),
            refused(1),
            new Busy({ n: 2 }),
            refused(7000),
            refused(7000)
          ])
          const end = (yield* Clock.currentTimeMillis) + 9_000
          const fiber = yield* effect.pipe(
            Retry.apply(Retry.policy({ backoff: everySecond, retryRejected: true, ...options })),
            listen,
            reason === "Deadline" ? Effect.provideService(deadline.Current, end) : (self) => self,
            start
          )
          yield* TestClock.adjust("1 hour")
          assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 2 })), reason)
          const told = events.flatMap((event) =>
            event._tag === "RetryGaveUp" ? [`${event.verdict} ${event.reason}`] : []
          )
          assert.deepStrictEqual(told, [`Rejected ${reason}`])
        }
      }))

    it.effect("is what the caller gets only where nothing was ever sent", () =>
      Effect.gen(function*() {
        const { effect } = scripted([refused(1), refused(2), refused(3)])
        const policy = Retry.policy({ backoff: everySecond, retryRejected: true, maxAttempts: 3 })
        const fiber = yield* start(Retry.apply(effect, policy))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(refused(3)))
      }))

    it.effect("passes on the cause of the failure as it was", () =>
      Effect.gen(function*() {
        const cause = Cause.combine(Cause.fail(new Busy({ n: 1 })), Cause.fail(new Busy({ n: 2 })))
        let calls = 0
        const call = Effect.suspend((): Effect.Effect<never, Busy | Refused> =>
          ++calls === 1 ? Effect.failCause(cause) : refused(1)
        )
        const fiber = yield* start(Retry.apply(call, Retry.policy({ backoff: everySecond })))
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.failCause(cause))
      }))

    it.effect("does not make an \"atMostOnce\" step run again: it is AmbiguousStep, now and on resume", () =>
      Effect.gen(function*() {
        let paid = 0
        const pay = Effect.suspend(() => {
          paid++
          return Effect.never
        })
        const policy = Policy.make({
          name: "payments",
          timeout: "1 second",
          retry: { backoff: everySecond, maxAttempts: 2 },
          circuit: { failures: 1 }
        })
        const program = Checkpoint.step("pay", { effects: "atMostOnce" }, Policy.apply(pay, policy)).pipe(
          Checkpoint.run({ id: "invoice" }),
          Effect.flip
        )
        for (const reason of ["Failed", "Unfinished"]) {
          const fiber = yield* start(program)
          yield* TestClock.adjust("5 minutes")
          const error = yield* Fiber.join(fiber)
          assert.deepStrictEqual(error._tag === "AmbiguousStep" && [error.step, error.reason], ["pay", reason])
        }
        assert.strictEqual(paid, 1)
      }).pipe(Effect.provide([Policy.layer, CheckpointStore.layerMemory])))
  })

  describe("maxElapsed", () => {
    it.effect("starts no try later, and does not wait for a delay that does not fit", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(busy(9))
        const policy = Retry.policy({ backoff: Backoff.exponential(), maxElapsed: "7 seconds", maxAttempts: 9 })
        const fiber = yield* start(Retry.apply(effect, policy))
        yield* TestClock.adjust("7 seconds")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 4 })))
        assert.deepStrictEqual(calls, [0, 1000, 3000, 7000])
      }))

    it.effect("counts the time of the tries themselves, from the start of the first", () =>
      Effect.gen(function*() {
        const callsWithin = (maxElapsed: Duration.Input) =>
          Effect.gen(function*() {
            const { calls, effect } = scripted(busy(9))
            const begin = yield* Clock.currentTimeMillis
            const slow = effect.pipe(Effect.ensuring(Effect.sleep("4 seconds")))
            const fiber = yield* start(Retry.apply(slow, Retry.policy({ backoff: everySecond, maxElapsed })))
            yield* TestClock.adjust("1 hour")
            assert.isTrue(Exit.isFailure(yield* Fiber.await(fiber)))
            return calls.map((at) => at - begin)
          })
        assert.deepStrictEqual(yield* callsWithin("10 seconds"), [0, 5000, 10_000])
        assert.deepStrictEqual(yield* callsWithin("9 seconds"), [0, 5000])
        assert.deepStrictEqual(yield* callsWithin("4 seconds"), [0])
      }))

    it.effect("of nothing is one try, whatever the backoff", () =>
      Effect.gen(function*() {
        for (
          const backoff of [everySecond, Backoff.fullJitter(), Backoff.equalJitter(), Backoff.decorrelatedJitter()]
        ) {
          const { effect } = scripted(busy(9))
          const policy = Retry.policy({ backoff, maxElapsed: 0 })
          assert.deepStrictEqual(yield* Effect.exit(Retry.apply(effect, policy)), Exit.fail(new Busy({ n: 1 })))
        }
      }))

    describe("and a last delay that does not fit", () => {
      const drawing = (value: number) =>
        Effect.provideService(Random.Random, {
          nextDoubleUnsafe: () => value,
          nextIntUnsafe: () => Math.floor(value * Number.MAX_SAFE_INTEGER)
        })
      const callsWith = (backoff: Schedule.Schedule<unknown, unknown>, errors: ReadonlyArray<Busy | Limited>) =>
        Effect.gen(function*() {
          const begin = yield* Clock.currentTimeMillis
          const { events, listen } = listening()
          const { calls, effect } = scripted(errors)
          const policy = Retry.policy({ backoff, maxElapsed: "10 seconds", maxAttempts: 100 })
          const fiber = yield* start(Retry.apply(effect, policy).pipe(listen, drawing(0.5), Effect.exit))
          yield* TestClock.adjust("1 hour")
          yield* Fiber.join(fiber)
          const reasons = events.flatMap((event) => event._tag === "RetryGaveUp" ? [event.reason] : [])
          return [calls.map((at) => at - begin), ...reasons]
        })

      it.effect("is drawn again from what fits where it has jitter, and the try after it is the last", () =>
        Effect.gen(function*() {
          // 4 and 8 seconds, of which the second is cut to half of the 6 that are left
          const full = Backoff.fullJitter({ base: "8 seconds" })
          assert.deepStrictEqual(yield* callsWith(full, busy(9)), [[0, 4_000, 7_000], "Elapsed"])
          // twice 5.25, of which the second is drawn again from 3.5 to the 4.75 that are left
          const equal = Backoff.equalJitter({ base: "7 seconds", cap: "7 seconds" })
          assert.deepStrictEqual(yield* callsWith(equal, busy(9)), [[0, 5_250, 9_375], "Elapsed"])
          // 6 seconds: the half that is always waited is all that is left, and nothing is to be drawn
          const slow = Backoff.equalJitter({ base: "8 seconds", cap: "8 seconds" })
          assert.deepStrictEqual(yield* callsWith(slow, busy(9)), [[0, 6_000], "Elapsed"])
          // 4, then 7 out of 2 to 12, of which 2 to 6 fits
          const decorrelated = Backoff.decorrelatedJitter({ base: "2 seconds" })
          assert.deepStrictEqual(yield* callsWith(decorrelated, busy(9)), [[0, 4_000, 8_000], "Elapsed"])
        }))

      it.effect("is skipped where it has no jitter, or comes from another schedule", () =>
        Effect.gen(function*() {
          const eight = Backoff.constant({ delay: "8 seconds" })
          assert.deepStrictEqual(yield* callsWith(eight, busy(9)), [[0, 8_000], "Elapsed"])
          const doubling = Backoff.exponential({ base: "2 seconds" })
          assert.deepStrictEqual(yield* callsWith(doubling, busy(9)), [[0, 2_000, 6_000], "Elapsed"])
          const spaced = Schedule.spaced("4 seconds")
          assert.deepStrictEqual(yield* callsWith(spaced, busy(9)), [[0, 4_000, 8_000], "Elapsed"])
        }))

      it.effect("is never shortened below what the refusing side asked for", () =>
        Effect.gen(function*() {
          const full = Backoff.fullJitter({ base: "8 seconds" })
          const limited = (millis: number) => new Limited({ millis })
          // 9 and 4 of jitter do not fit, 9 and half of the second that is left do
          assert.deepStrictEqual(yield* callsWith(full, [limited(9_000), ...busy(9)]), [[0, 9_500], "Elapsed"])
          assert.deepStrictEqual(yield* callsWith(full, [limited(10_000), ...busy(9)]), [[0], "Elapsed"])
          assert.deepStrictEqual(yield* callsWith(full, [limited(10_001), ...busy(9)]), [[0], "Elapsed"])
        }))
    })
  })

  describe("under a deadline", () => {
    const until = (millis: number) => Effect.provideService(deadline.Current, millis)

    it.effect("does not wait for a retry that cannot begin before it, and gives the original error", () =>
      Effect.gen(function*() {
        const ends: ReadonlyArray<readonly [end: number, made: ReadonlyArray<number>]> = [
          [3_001, [0, 1_000, 3_000]],
          [3_000, [0, 1_000]],
          [1_000, [0]],
          [0, [0]]
        ]
        for (const [end, made] of ends) {
          const begin = yield* Clock.currentTimeMillis
          const { events, listen } = listening()
          const { calls, effect } = scripted(busy(9))
          const policy = Retry.policy({ backoff: Backoff.exponential() })
          const fiber = yield* start(Retry.apply(effect, policy).pipe(listen, until(begin + end)))
          yield* TestClock.adjust(end)
          assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: made.length })))
          assert.deepStrictEqual(calls.map((at) => at - begin), [...made])
          assert.deepStrictEqual(events.at(-1), {
            _tag: "RetryGaveUp",
            policy: "retry",
            attempts: made.length,
            verdict: "Transient",
            reason: "Deadline"
          })
        }
      }))

    it.effect("gives up rather than shorten a delay to it", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(busy(9))
        const policy = Retry.policy({ backoff: Schedule.spaced("2 seconds"), maxElapsed: "1 hour" })
        const exit = yield* Retry.apply(effect, policy).pipe(until(1_500), Effect.exit)
        assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
        assert.deepStrictEqual(calls, [0])
      }))

    it.effect("of which nothing is left does not retry at once either", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(busy(9))
        const policy = Retry.policy({ backoff: Backoff.constant({ delay: 0 }) })
        yield* Retry.apply(effect, policy).pipe(until(0), Effect.exit)
        assert.deepStrictEqual(calls, [0])
      }))
  })

  it.effect("does not wait for ever on a schedule that has overflown", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(2))
      const exit = yield* Effect.exit(Retry.apply(effect, Retry.policy({ backoff: Schedule.spaced("Infinity") })))
      assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
      assert.deepStrictEqual(calls, [0])
    }))

  it.effect("tells a wait without end from a deadline that is too near", () =>
    Effect.gen(function*() {
      const { events, listen } = listening()
      const policy = Retry.policy({ backoff: Schedule.spaced("Infinity") })
      yield* Retry.apply(new Busy({ n: 1 }), policy).pipe(listen, Effect.exit)
      yield* Retry.apply(Effect.fail("for ever"), policy).pipe(
        Fault.withClassifier(() => ({ _tag: "Throttled", retryAfter: Duration.infinity })),
        listen,
        Effect.exit
      )
      assert.deepStrictEqual(events.map((event) => event._tag === "RetryGaveUp" && event.reason), [
        "Exhausted",
        "RetryAfterTooLong"
      ])
    }))

  it.effect("keeps nothing of the tries before, however many there are", () =>
    Effect.gen(function*() {
      const depths: Array<number> = []
      let calls = 0
      const call = Effect.withFiber<never, Busy>((fiber) => {
        calls++
        if (calls % 5_000 === 0) depths.push(Reflect.get(fiber, "_stack").length)
        return Effect.fail(new Busy({ n: calls }))
      })
      const policy = Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 20_000, budget: "a" })
      const exit = yield* Retry.apply(call, policy).pipe(Effect.provide(RetryBudget.layerNoop), Effect.exit)
      assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 20_000 })))
      const refused = Effect.mapError(call, (error) => ({ [Fault.verdictOf]: Fault.rejected(), error }))
      yield* Retry.apply(refused, { ...policy, retryRejected: true }).pipe(
        Effect.provide(RetryBudget.layerNoop),
        Effect.exit
      )
      assert.strictEqual(calls, 40_000)
      assert.strictEqual(new Set(depths).size, 2)
    }))

  it.effect("ends with the schedule where that ends first", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(9))
      const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff: Schedule.recurs(2), maxAttempts: 9 })))
      yield* TestClock.adjust("1 second")
      assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 3 })))
      assert.strictEqual(calls.length, 3)
    }))

  describe("interruption", () => {
    it.effect("ends a delay at once and calls nothing more", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(busy(9))
        const fiber = yield* start(Retry.apply(effect, Retry.policy({ backoff: everySecond })))
        yield* TestClock.adjust("1500 millis")
        assert.strictEqual(calls.length, 2)
        yield* Fiber.interrupt(fiber)
        const exit = yield* Fiber.await(fiber)
        assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(calls.length, 2)
      }))

    it.effect("ends a running try, runs its finalizers and calls nothing more", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const log: Array<string> = []
        const call = Effect.andThen(Effect.sync(() => log.push("start")), Effect.never).pipe(
          Effect.onInterrupt(() => Effect.sync(() => log.push("stop")))
        )
        const fiber = yield* start(listen(Retry.apply(call, Retry.policy())))
        yield* Fiber.interrupt(fiber)
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(log, ["start", "stop"])
        assert.deepStrictEqual(events, [])
      }))

    it.effect("at any step stops the calls", () =>
      Effect.gen(function*() {
        for (let steps = 0; steps < 40; steps++) {
          let calls = 0
          const call = Effect.suspend(() => {
            calls++
            return Effect.andThen(Effect.yieldNow, Effect.fail(new Busy({ n: 1 })))
          })
          const policy = Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 1_000 })
          const fiber = yield* Effect.forkChild(Retry.apply(call, policy), { startImmediately: steps % 2 === 0 })
          for (let i = 0; i < steps; i++) yield* Effect.yieldNow
          yield* Fiber.interrupt(fiber)
          const made = calls
          yield* TestClock.adjust("1 hour")
          assert.strictEqual(calls, made)
          const exit = yield* Fiber.await(fiber)
          assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
        }
      }))
  })

  describe("interruption, whoever asks for it and whenever", () => {
    const arrange = (budget?: "a") =>
      Effect.gen(function*() {
        const service = yield* RetryBudget.make()
        const { calls, effect } = scripted(busy(3))
        const { events, listen } = listening()
        const slow = Effect.andThen(Effect.sleep("50 millis"), effect)
        const policy = Retry.policy({ budget, backoff: everySecond })
        const retried = Retry.apply(slow, policy).pipe(listen, Effect.provideService(RetryBudget.RetryBudget, service))
        return { calls, events, retried }
      })

    const hedge: CancelSource = {
      name: "losing against its hedge",
      cancel: (self, after) =>
        Effect.flatMap(Hedge.CurrentAttempt, (attempt) => attempt === 1 ? Effect.asVoid(self) : Effect.void).pipe(
          Hedge.apply(Hedge.policy({ delay: after, idempotent: true }))
        )
    }
    // Before a deadline there is no delay that ends after it: what it interrupts is a try.
    const byDeadline: CancelSource = {
      name: "a deadline",
      cancel: (self, after) => Deadline.within(self, after)
    }

    it.effect("ends the delay at once and calls nothing more, by every cancel source", () =>
      Effect.gen(function*() {
        for (const after of ["20 millis", "500 millis", "1070 millis"] as const) {
          yield* everyCancelSource({
            after,
            sources: [...cancelSources, hedge, ...(after === "20 millis" ? [byDeadline] : [])],
            arrange: Effect.map(arrange(), ({ calls, retried }) => ({
              effect: retried,
              check: Effect.fnUntraced(function*(exit) {
                assert.isTrue(Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
                const made = calls.length
                assert.strictEqual(made, after === "20 millis" ? 0 : 1)
                yield* TestClock.adjust("1 hour")
                assert.strictEqual(calls.length, made)
              })
            }))
          })
        }
      }))

    for (const budget of ["a", undefined] as const) {
      it.effect(`leaves nothing behind at whatever step it comes${budget === undefined ? "" : ", with a budget"}`, () =>
        interruptEverywhere({
          arrange: Effect.map(arrange(budget), ({ calls, events, retried }) => ({
            effect: retried,
            check: Effect.fnUntraced(function*(exit, step) {
              if (step === 0) assert.deepStrictEqual(exit, Exit.succeed(4))
              const made = calls.length
              yield* TestClock.adjust("1 hour")
              assert.strictEqual(calls.length, made)
              assert.isTrue(events.every((event) => event._tag === "RetryScheduled"))
            })
          }))
        }))
    }
  })

  describe("sharing", () => {
    it.effect("gives two fibers with one policy delays and attempts of their own", () =>
      Effect.gen(function*() {
        const policy = Retry.policy({ backoff: Backoff.exponential(), maxAttempts: 3 })
        const first = scripted(busy(9))
        const second = scripted(busy(9))
        const a = yield* start(Retry.apply(first.effect, policy))
        yield* TestClock.adjust("500 millis")
        const b = yield* start(Retry.apply(second.effect, policy))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual([yield* Fiber.await(a), yield* Fiber.await(b)], [
          Exit.fail(new Busy({ n: 3 })),
          Exit.fail(new Busy({ n: 3 }))
        ])
        assert.deepStrictEqual(first.calls, [0, 1000, 3000])
        assert.deepStrictEqual(second.calls, [500, 1500, 3500])
      }))

    it.effect("starts anew with every run of one retried effect", () =>
      Effect.gen(function*() {
        const policy = Retry.policy({ backoff: Backoff.exponential(), maxAttempts: 3, maxElapsed: "10 seconds" })
        const calls: Array<number> = []
        const call = Effect.flatMap(Clock.currentTimeMillis, (now) => {
          calls.push(now)
          return Effect.fail(new Busy({ n: 1 }))
        })
        const retried = Retry.apply(call, policy)
        const fiber = yield* start(Effect.all([Effect.exit(retried), Effect.exit(retried)], { discard: true }))
        yield* TestClock.adjust("1 hour")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(calls, [0, 1000, 3000, 3000, 4000, 6000])
      }))
  })

  describe("telemetry", () => {
    it.effect("says every retry and its delay, and why it gave up", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        const { effect } = scripted([new Busy({ n: 1 }), new Limited({ millis: 5000 }), new Busy({ n: 3 })])
        const policy = Retry.policy({ name: "model", backoff: Backoff.exponential(), maxAttempts: 3 })
        const fiber = yield* start(listen(Retry.apply(effect, policy)))
        yield* TestClock.adjust("1 hour")
        yield* Fiber.await(fiber)
        assert.deepStrictEqual(events, [
          { _tag: "RetryScheduled", policy: "model", attempt: 1, delayMillis: 1000, verdict: "Transient" },
          { _tag: "RetryScheduled", policy: "model", attempt: 2, delayMillis: 5000, verdict: "Throttled" },
          { _tag: "RetryGaveUp", policy: "model", attempts: 3, verdict: "Transient", reason: "Exhausted" }
        ])
      }))

    it.effect("names the other reasons for giving up", () =>
      Effect.gen(function*() {
        const reason = (error: Broken | Busy, options: Retry.Options & { readonly budget?: undefined }) =>
          Effect.gen(function*() {
            const { events, listen } = listening()
            yield* Retry.apply(Effect.fail(error), Retry.policy(options)).pipe(listen, Effect.exit)
            return events.map((event) => event._tag === "RetryGaveUp" ? event.reason : event._tag)
          })
        assert.deepStrictEqual(yield* reason(new Broken(), {}), ["NotRetryable"])
        assert.deepStrictEqual(yield* reason(new Busy({ n: 1 }), { backoff: everySecond, maxElapsed: 999 }), [
          "Elapsed"
        ])
        assert.deepStrictEqual(yield* reason(new Busy({ n: 1 }), { backoff: Schedule.recurs(0) }), ["Exhausted"])
      }))

    it.effect("says nothing for a success or a defect", () =>
      Effect.gen(function*() {
        const { events, listen } = listening()
        yield* listen(Retry.apply(Effect.void, Retry.policy()))
        yield* Retry.apply(Effect.die("bug"), Retry.policy()).pipe(listen, Effect.exit)
        assert.deepStrictEqual(events, [])
      }))

    it.effect("notes the attempts in the span around", () =>
      Effect.gen(function*() {
        const attributes = (errors: ReadonlyArray<Busy>) =>
          Effect.gen(function*() {
            const { spans, tracer } = recordingTracer()
            const fiber = yield* scripted(errors).effect.pipe(
              Retry.apply(Retry.policy({ name: "model", backoff: everySecond, maxAttempts: 3 })),
              Effect.withSpan("around"),
              Effect.withTracer(tracer),
              start
            )
            yield* TestClock.adjust("1 hour")
            yield* Fiber.await(fiber)
            return Object.fromEntries(spans[0]?.attributes ?? [])
          })
        assert.deepStrictEqual(yield* attributes([]), {})
        assert.deepStrictEqual(yield* attributes(busy(2)), { "retry.policy": "model", "retry.attempts": 3 })
        assert.deepStrictEqual(yield* attributes(busy(3)), {
          "retry.policy": "model",
          "retry.attempts": 3,
          "retry.gave_up": "Exhausted"
        })
      }))
  })

  it.effect("measures the time of a run with the monotonic clock: the wall clock may jump", () =>
    Effect.gen(function*() {
      const clock = yield* TestClock.testClockWith(Effect.succeed)
      for (const jump of [-3_600_000, 3_600_000]) {
        const begin = yield* Clock.currentTimeMillis
        let offset = 0
        const jumping: TestClock.TestClock = {
          ...clock,
          currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + offset,
          currentTimeMillis: Effect.sync(() => clock.currentTimeMillisUnsafe() + offset)
        }
        const calls: Array<number> = []
        const call = Effect.suspend(() => {
          calls.push(clock.currentTimeMillisUnsafe() - begin)
          offset += jump
          return Effect.fail(new Busy({ n: calls.length }))
        })
        const policy = Retry.policy({ backoff: everySecond, maxElapsed: "3 seconds", maxAttempts: 9 })
        const fiber = yield* start(Retry.apply(call, policy).pipe(Effect.provideService(Clock.Clock, jumping)))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 4 })))
        assert.deepStrictEqual(calls, [0, 1_000, 2_000, 3_000])
      }
    }))

  describe("schedule", () => {
    it.effect("is the policy for Effect.retry", () =>
      Effect.gen(function*() {
        const { calls, effect } = scripted(busy(9))
        const policy = Retry.policy({ backoff: Backoff.exponential(), maxAttempts: 9, maxElapsed: "5 seconds" })
        const fiber = yield* start(Effect.retry(effect, Retry.schedule(policy)))
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 3 })))
        assert.deepStrictEqual(calls, [0, 1000, 3000])
      }))

    it.effect("gives its delays as output", () =>
      Effect.gen(function*() {
        const step = yield* Schedule.toStep(Retry.schedule(Retry.policy({ backoff: everySecond })))
        assert.deepStrictEqual(yield* step(0, new Busy({ n: 1 })), [Duration.seconds(1), Duration.seconds(1)])
      }))
  })

  it("refuses options that cannot work, by option and value", () => {
    assert.throws(() => Retry.policy({ maxAttempts: 0 }), /Retry.policy: option "maxAttempts" is 0/)
    assert.throws(() => Retry.policy({ maxAttempts: Infinity }), /option "maxAttempts" is Infinity/)
    assert.throws(() => Retry.policy({ maxElapsed: "-1 seconds" }), /option "maxElapsed"/)
    assert.throws(() => Retry.policy({ maxElapsed: "Infinity" }), /option "maxElapsed"/)
    assert.throws(() => Retry.policy({ name: "" }), /option "name"/)
    assert.throws(() => Retry.policy({ budget: "" }), /option "budget"/)
  })
})
