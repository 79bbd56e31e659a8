import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Pull, Random, Ref, Schedule, Schema } from "effect"
import { Backoff, Fault } from "effect-resilience"
import { TestClock } from "effect/testing"
import { ceiling } from "../../src/policy/internal/backoff.ts"
import { runs } from "../support/runs.ts"

const carrying = (verdict: Fault.Verdict) => ({ [Fault.verdictOf]: verdict })

const transient = carrying(Fault.transient)

/** The delays in milliseconds for the errors given, until the schedule ends. */
const delays = (schedule: Schedule.Schedule<Duration.Duration, unknown>, errors: ReadonlyArray<unknown>) =>
  Effect.gen(function*() {
    const step = yield* Schedule.toStep(schedule)
    const out: Array<number> = []
    for (const error of errors) {
      const next = yield* step(0, error).pipe(
        Effect.map(([, delay]) => Duration.toMillis(delay)),
        Pull.catchDone(() => Effect.undefined)
      )
      if (next === undefined) break
      out.push(next)
    }
    return out
  })

const times = (n: number, error: unknown = transient) => Array.from({ length: n }, () => error)

/** Always draws the same number. */
const drawing = (value: number) =>
  Effect.provideService(Random.Random, {
    nextDoubleUnsafe: () => value,
    nextIntUnsafe: () => Math.floor(value * Number.MAX_SAFE_INTEGER)
  })

const almostOne = 1 - Number.EPSILON

const strategies = {
  fullJitter: Backoff.fullJitter,
  equalJitter: Backoff.equalJitter,
  decorrelatedJitter: Backoff.decorrelatedJitter,
  exponential: Backoff.exponential
}

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const millis = upTo
const Settings = {
  base: millis(100_000),
  above: millis(10_000_000),
  factor: Schema.Finite.check(Schema.isBetween({ minimum: 1, maximum: 1e300 })),
  retries: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 1_100 })),
  seed: Schema.Int
}

describe("Backoff", () => {
  describe("bounds", () => {
    it.effect.prop(
      "every delay is a number between nothing and the cap, at any attempt, base, cap and factor",
      Settings,
      ({ above, base, factor, retries, seed }) =>
        Effect.gen(function*() {
          const cap = base + above
          for (const make of Object.values(strategies)) {
            const waits = yield* delays(make({ base, cap, factor }), times(retries)).pipe(Random.withSeed(seed))
            assert.strictEqual(waits.length, retries)
            for (const wait of waits) assert.isTrue(wait >= 0 && wait <= cap, `${wait} of ${cap}`)
          }
        }),
      { arbitrary: { runs: 40 } }
    )

    it.effect.prop(
      "every delay keeps to the formula of its strategy",
      Settings,
      ({ above, base, retries, seed }) =>
        Effect.gen(function*() {
          const cap = base + above
          const factor = 2
          const options = { base, cap }
          const ceiling = (retry: number) => base === 0 ? 0 : Math.min(cap, base * factor ** retry)
          const seeded = Random.withSeed(seed)
          const full = yield* seeded(delays(Backoff.fullJitter(options), times(retries)))
          full.forEach((wait, retry) => assert.isAtMost(wait, ceiling(retry)))
          const equal = yield* seeded(delays(Backoff.equalJitter(options), times(retries)))
          equal.forEach((wait, retry) => {
            assert.isAtLeast(wait, ceiling(retry) / 2)
            assert.isAtMost(wait, ceiling(retry))
          })
          const decorrelated = yield* seeded(delays(Backoff.decorrelatedJitter(options), times(retries)))
          decorrelated.forEach((wait, retry) => {
            assert.isAtLeast(wait, base)
            // a delay is kept to the nanosecond
            assert.isAtMost(wait, Math.min(cap, 3 * (decorrelated[retry - 1] ?? base)) + 1e-5)
          })
          const plain = yield* delays(Backoff.exponential(options), times(retries))
          plain.forEach((wait, retry) => assert.strictEqual(wait, ceiling(retry)))
        }),
      { arbitrary: { runs: 40 } }
    )

    it.effect.prop(
      "no delay is shorter than the wait asked for, nor longer than that and the cap together",
      { ...Settings, asked: millis(200_000) },
      ({ above, asked, base, factor, seed }) =>
        Effect.gen(function*() {
          const cap = base + above
          const schedules = [
            ...Object.values(strategies).map((make) => make({ base, cap, factor })),
            Backoff.constant({ delay: base, cap })
          ]
          for (const schedule of schedules) {
            const waits = yield* delays(schedule, times(20, carrying(Fault.throttled(asked)))).pipe(
              Random.withSeed(seed)
            )
            assert.strictEqual(waits.length, asked <= cap ? 20 : 0)
            for (const wait of waits) assert.isTrue(wait >= asked && wait <= asked + cap)
          }
        }),
      { arbitrary: { runs: 100 } }
    )

    it.prop(
      "no attempt up to a billion gives a NaN, negative or infinite delay",
      {
        base: millis(100_000),
        above: millis(10_000_000),
        factor: Schema.Finite.check(Schema.isBetween({ minimum: 1, maximum: Number.MAX_VALUE })),
        attempt: Schema.Union([upTo(1_000_000_000), upTo(100)])
      },
      ({ above, attempt, base, factor }) => {
        const cap = base + above
        const delay = ceiling(base, factor, cap)(attempt)
        assert.isTrue(delay >= 0 && delay <= cap, `${delay} of ${cap}`)
        assert.isAtLeast(delay, Math.min(base, cap))
        assert.isAtLeast(ceiling(base, factor, cap)(attempt + 1), delay)
      },
      { arbitrary: { runs: runs(2_000, 100_000), seed: 1 }, timeout: 60_000 }
    )

    it.effect("ever more attempts in a row give no NaN, negative or infinite delay", () =>
      Effect.gen(function*() {
        for (const make of Object.values(strategies)) {
          const step = yield* Schedule.toStep(make({ base: 10, cap: 60_000 }))
          for (let attempt = 0; attempt < runs(20_000, 1_000_000); attempt++) {
            const [, delay] = yield* step(0, transient).pipe(Pull.catchDone(() => Effect.die("ended")))
            const waited = Duration.toMillis(delay)
            if (!(waited >= 0 && waited <= 60_000)) assert.fail(`${waited} at attempt ${attempt}`)
          }
        }
      }), runs(10_000, 300_000))

    it.effect("very high attempts give the cap, and no NaN, negative or infinite delay", () =>
      Effect.gen(function*() {
        for (const [name, make] of Object.entries(strategies)) {
          for (const base of [0, 1, 30_000]) {
            const waits = yield* delays(make({ base, cap: 60_000 }), times(5_000)).pipe(drawing(almostOne))
            assert.isTrue(waits.every((wait) => wait >= 0 && wait <= 60_000), name)
            if (base > 0) assert.approximately(waits[4_999] ?? NaN, 60_000, 1)
          }
        }
      }))

    it.effect("starts at 1 second and stays within 60 seconds by default", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(
          yield* delays(Backoff.exponential(), times(9)),
          [1, 2, 4, 8, 16, 32, 60, 60, 60].map((seconds) => seconds * 1000)
        )
        assert.deepStrictEqual(
          yield* delays(Backoff.exponential(), times(1, carrying(Fault.throttled("61 seconds")))),
          []
        )
      }))
  })

  describe("formulas", () => {
    it.effect("full jitter draws from nothing to the ceiling", () =>
      Effect.gen(function*() {
        const waits = delays(Backoff.fullJitter({ base: 100, cap: 500 }), times(5))
        assert.deepStrictEqual(yield* drawing(0)(waits), [0, 0, 0, 0, 0])
        assert.deepStrictEqual(yield* drawing(0.5)(waits), [50, 100, 200, 250, 250])
      }))

    it.effect("equal jitter keeps half and draws the other", () =>
      Effect.gen(function*() {
        const waits = delays(Backoff.equalJitter({ base: 100, cap: 500 }), times(4))
        assert.deepStrictEqual(yield* drawing(0)(waits), [50, 100, 200, 250])
        assert.deepStrictEqual(yield* drawing(0.5)(waits), [75, 150, 300, 375])
      }))

    it.effect("decorrelated jitter draws from the base to three times the delay before", () =>
      Effect.gen(function*() {
        const waits = delays(Backoff.decorrelatedJitter({ base: 100, cap: 500 }), times(4))
        assert.deepStrictEqual(yield* drawing(0)(waits), [100, 100, 100, 100])
        assert.deepStrictEqual(yield* drawing(0.5)(waits), [200, 350, 500, 500])
      }))

    it.effect("decorrelated jitter does not grow with a wait that was asked for", () =>
      Effect.gen(function*() {
        const waits = yield* delays(Backoff.decorrelatedJitter({ base: 100 }), [
          carrying(Fault.overloaded("10 seconds")),
          transient
        ]).pipe(drawing(0.5))
        assert.deepStrictEqual(waits, [10_200, 350])
      }))

    it.effect("without jitter waits the longer of its delay and the wait asked for", () =>
      Effect.gen(function*() {
        const errors = [carrying(Fault.throttled(1_500)), carrying(Fault.throttled(1_500)), transient]
        assert.deepStrictEqual(yield* delays(Backoff.exponential(), errors), [1_500, 2_000, 4_000])
        assert.deepStrictEqual(yield* delays(Backoff.constant({ delay: 100 }), errors), [1_500, 1_500, 100])
      }))

    it.effect("with jitter spreads callers that were told the same instant", () =>
      Effect.gen(function*() {
        for (const make of [Backoff.fullJitter, Backoff.equalJitter, Backoff.decorrelatedJitter]) {
          const waits = yield* Effect.forEach(
            Array.from({ length: 50 }),
            () => delays(make(), [carrying(Fault.throttled("30 seconds"))])
          ).pipe(Random.withSeed("spread"))
          assert.strictEqual(new Set(waits.flat()).size, 50)
        }
      }))

    it.effect("with jitter spreads callers that were told to wait as long as the cap", () =>
      Effect.gen(function*() {
        for (const make of [Backoff.fullJitter, Backoff.equalJitter, Backoff.decorrelatedJitter]) {
          const waits = yield* Effect.forEach(
            Array.from({ length: 50 }),
            () => delays(make(), [carrying(Fault.throttled("60 seconds"))])
          ).pipe(Random.withSeed("spread"))
          assert.strictEqual(new Set(waits.flat()).size, 50)
          assert.isTrue(waits.flat().every((wait) => wait >= 60_000))
        }
      }))

    it.effect("never rounds a wait asked for down to whole milliseconds", () =>
      Effect.gen(function*() {
        const asked = carrying(Fault.throttled(Duration.micros(1_000_500n)))
        assert.deepStrictEqual(yield* delays(Backoff.constant({ delay: 0 }), [asked]), [1_001])
      }))
  })

  describe("verdicts", () => {
    it.effect("goes on for what may be retried and stops at once for the rest", () =>
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
          Fault.ambiguous,
          Fault.rejected()
        ]
        for (const verdict of verdicts) {
          for (const make of Object.values(strategies)) {
            const waits = yield* delays(make(), [carrying(verdict)])
            assert.strictEqual(waits.length, Fault.isRetryable(verdict) ? 1 : 0, verdict._tag)
          }
        }
      }))

    it.effect("gives up instead of waiting longer than the cap", () =>
      Effect.gen(function*() {
        const schedule = Backoff.fullJitter({ cap: "10 seconds" })
        const longest = delays(schedule, [carrying(Fault.throttled("10 seconds"))])
        assert.deepStrictEqual(yield* drawing(0)(longest), [10_000])
        assert.deepStrictEqual(yield* delays(schedule, [carrying(Fault.throttled(10_001))]), [])
        const never = delays(schedule, ["never"]).pipe(
          Fault.withClassifier(() => ({ _tag: "Overloaded", retryAfter: Duration.infinity }))
        )
        assert.deepStrictEqual(yield* never, [])
      }))

    it.effect("reads the classifier and the idempotence of the fiber that retries", () =>
      Effect.gen(function*() {
        const constant = Backoff.constant({ delay: 1 })
        assert.deepStrictEqual(yield* delays(constant, ["busy"]), [])
        const classified = delays(constant, ["busy", "other"]).pipe(
          Fault.withClassifier((error) => error === "busy" ? Fault.throttled(5) : undefined)
        )
        assert.deepStrictEqual(yield* classified, [5])
        assert.deepStrictEqual(yield* delays(constant, [carrying(Fault.ambiguous)]), [])
        assert.deepStrictEqual(yield* Fault.idempotent(delays(constant, [carrying(Fault.ambiguous)])), [1])
      }))
  })

  describe("as a Schedule", () => {
    it.effect("drives Effect.retry on its own", () =>
      Effect.gen(function*() {
        const calls = yield* Ref.make<ReadonlyArray<number>>([])
        const call = Effect.flatMap(Clock.currentTimeMillis, (now) => Ref.update(calls, (all) => [...all, now])).pipe(
          Effect.andThen(Effect.fail(transient))
        )
        const fiber = yield* call.pipe(
          Effect.retry(Backoff.exponential().pipe(Schedule.upTo({ times: 3 }))),
          Effect.forkChild({ startImmediately: true })
        )
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(transient))
        assert.deepStrictEqual(yield* Ref.get(calls), [0, 1_000, 3_000, 7_000])
      }))

    it.effect("keeps no state between runs", () =>
      Effect.gen(function*() {
        const schedule = Backoff.exponential()
        assert.deepStrictEqual(yield* delays(schedule, times(3)), [1_000, 2_000, 4_000])
        assert.deepStrictEqual(yield* delays(schedule, times(3)), [1_000, 2_000, 4_000])
      }))

    it.effect("repeats exactly from the same seed", () =>
      Effect.gen(function*() {
        for (const make of Object.values(strategies)) {
          const run = delays(make(), times(20)).pipe(Random.withSeed("same"))
          assert.deepStrictEqual(yield* run, yield* run)
        }
      }))
  })

  describe("configuration", () => {
    it("is refused when it cannot work, by option and value", () => {
      assert.throws(() => Backoff.fullJitter({ base: "-1 seconds" }), /Backoff.fullJitter: option "base"/)
      assert.throws(() => Backoff.equalJitter({ base: "Infinity" }), /option "base" is .*, expected a finite duration/)
      assert.throws(
        () => Backoff.exponential({ base: 10, cap: 9 }),
        /option "cap" is 9, expected a duration of at least 10ms/
      )
      assert.throws(() => Backoff.exponential({ cap: "Infinity" }), /option "cap"/)
      assert.throws(() => Backoff.decorrelatedJitter({ factor: 0.5 }), /option "factor" is 0.5/)
      assert.throws(() => Backoff.fullJitter({ factor: NaN }), /option "factor" is NaN/)
      assert.throws(() => Backoff.constant({ delay: "soon" as "1 second" }), /Backoff.constant: option "delay"/)
      assert.throws(() => Backoff.constant({ delay: 10, cap: 1 }), /option "cap"/)
    })

    it("is refused where a duration is not a number", () => {
      assert.throws(() => Backoff.constant({ delay: NaN }), /option "delay" is NaN/)
      assert.throws(() => Backoff.fullJitter({ base: { seconds: NaN } }), /option "base" is .*NaN/)
      assert.throws(() => Backoff.exponential({ cap: [NaN, 0] }), /option "cap" is .*NaN/)
    })

    it.effect("lets a constant delay be longer than the default cap", () =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* delays(Backoff.constant({ delay: "5 minutes" }), times(2)), [300_000, 300_000])
      }))
  })
})
