import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Schedule, Schema } from "effect"
import { Backoff, Fault, Retry, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { recordingTracer } from "../recordingTracer.ts"

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

    it.effect("of nothing is one try", () =>
      Effect.gen(function*() {
        const { effect } = scripted(busy(9))
        const policy = Retry.policy({ backoff: everySecond, maxElapsed: 0 })
        assert.deepStrictEqual(yield* Effect.exit(Retry.apply(effect, policy)), Exit.fail(new Busy({ n: 1 })))
      }))
  })

  it.effect("does not wait for ever on a schedule that has overflown", () =>
    Effect.gen(function*() {
      const { calls, effect } = scripted(busy(2))
      const exit = yield* Effect.exit(Retry.apply(effect, Retry.policy({ backoff: Schedule.spaced("Infinity") })))
      assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
      assert.deepStrictEqual(calls, [0])
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
  })

  describe("against a model of itself", () => {
    const Outcome = Schema.Struct({
      took: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 3_000 })),
      kind: Schema.Literals(["transient", "transient", "limited", "permanent", "defect", "success"]),
      asked: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 12_000 }))
    })
    const Plan = {
      outcomes: Schema.Array(Outcome).check(Schema.isMaxLength(8)),
      maxAttempts: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 6 })),
      maxElapsed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 30_000 })),
      cap: Schema.Int.check(Schema.isBetween({ minimum: 500, maximum: 10_000 }))
    }
    type Plan = {
      readonly outcomes: ReadonlyArray<typeof Outcome.Type>
      readonly maxAttempts: number
      readonly maxElapsed: number
      readonly cap: number
    }
    const base = 500

    const expected = ({ cap, maxAttempts, maxElapsed, outcomes }: Plan) => {
      const calls: Array<number> = []
      let now = 0
      for (let attempt = 1;; attempt++) {
        calls.push(now)
        const outcome = outcomes[attempt - 1] ?? { took: 0, kind: "success", asked: 0 }
        now += outcome.took
        const ended = (end: string) => ({ calls, end, at: now })
        if (outcome.kind === "success") return ended("success")
        if (outcome.kind === "defect") return ended("defect")
        if (outcome.kind === "permanent") return ended(`Broken ${attempt} NotRetryable`)
        const error = outcome.kind === "limited" ? `Limited ${attempt}` : `Busy ${attempt}`
        if (attempt >= maxAttempts) return ended(`${error} Exhausted`)
        const asked = outcome.kind === "limited" ? outcome.asked : 0
        if (asked > cap) return ended(`${error} RetryAfterTooLong`)
        const delay = Math.max(asked, Math.min(cap, base * 2 ** (attempt - 1)))
        if (now + delay > maxElapsed) return ended(`${error} Elapsed`)
        now += delay
      }
    }

    it.effect.prop(
      "calls at the same times and ends in the same way over any plan of faults",
      Plan,
      (plan) =>
        Effect.gen(function*() {
          const begin = yield* Clock.currentTimeMillis
          const { events, listen } = listening()
          const calls: Array<number> = []
          const call = Effect.gen(function*() {
            const attempt = calls.push((yield* Clock.currentTimeMillis) - begin)
            const outcome = plan.outcomes[attempt - 1]
            if (outcome === undefined) return "success"
            yield* Effect.sleep(outcome.took)
            switch (outcome.kind) {
              case "success":
                return "success"
              case "defect":
                return yield* Effect.die("defect")
              case "permanent":
                return yield* Effect.fail({ [Fault.verdictOf]: Fault.permanent, text: `Broken ${attempt}` })
              case "limited":
                return yield* Effect.fail({
                  [Fault.verdictOf]: Fault.throttled(outcome.asked),
                  text: `Limited ${attempt}`
                })
              case "transient":
                return yield* Effect.fail({ [Fault.verdictOf]: Fault.transient, text: `Busy ${attempt}` })
            }
          })
          const policy = Retry.policy({
            backoff: Backoff.exponential({ base, cap: plan.cap }),
            maxAttempts: plan.maxAttempts,
            maxElapsed: plan.maxElapsed
          })
          let at = 0
          const fiber = yield* Retry.apply(call, policy).pipe(
            Effect.onExit(() => Effect.map(Clock.currentTimeMillis, (now) => void (at = now - begin))),
            Effect.catch(({ text }) => Effect.succeed(text)),
            Effect.catchDefect(() => Effect.succeed("defect")),
            listen,
            start
          )
          yield* TestClock.adjust("1 hour")
          const text = yield* Fiber.join(fiber)
          const gaveUp = events.flatMap((event) => event._tag === "RetryGaveUp" ? [event.reason] : [])
          assert.deepStrictEqual({ calls, end: [text, ...gaveUp].join(" "), at }, expected(plan))
          const delays = events.flatMap((event) => event._tag === "RetryScheduled" ? [event.delayMillis] : [])
          assert.strictEqual(delays.length, calls.length - 1)
        }),
      { arbitrary: { runs: 300 } }
    )
  })
})
