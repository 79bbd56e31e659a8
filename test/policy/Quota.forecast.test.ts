import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Fiber, Random, Schema } from "effect"
import { Fault, Quota } from "effect-resilience"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

class Refused extends Schema.TaggedError<Refused>("test/Refused")("Refused", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const Call = Schema.Struct({
  /** How long after the call before it. */
  after: Schema.Literals([0, 0, 0, 0, 3, 40, 700, 5_000]),
  maxWait: Schema.Literals([100, 1_000, 2_500, 6_000, 60_000])
})

const Plan = Schema.Struct({
  calls: Schema.Array(Call).check(Schema.isMinLength(2), Schema.isMaxLength(60)),
  seed: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 1_000_000 }))
})

interface Calls {
  readonly calls: ReadonlyArray<{ readonly after: number; readonly maxWait: number; readonly inputTokens?: number }>
  readonly seed: number
  readonly limits?: Quota.QuotaOptions
}

interface Seen {
  readonly arrivedAt: number
  readonly maxWait: number
  sentAt: number | undefined
  refusedAt: number | undefined
  /** What the refusal says of when it could be sent. */
  retryAfter: number | undefined
}

const unlimited: Quota.QuotaOptions = {}

/** What becomes of calls of a key, by default one that nothing is known of, and that is told nothing. */
const run = ({ calls, limits = unlimited, seed }: Calls) =>
  Effect.gen(function*() {
    const quota = yield* Quota.make(limits)
    const clock = yield* Clock.Clock
    const now = () => Number(clock.monotonicTimeNanosUnsafe()) / 1e6
    const seen: Array<Seen> = []
    const fibers: Array<Fiber.Fiber<unknown>> = []
    for (const { after, inputTokens = 0, maxWait } of calls) {
      yield* TestClock.adjust(after)
      const one: Seen = { arrivedAt: now(), maxWait, sentAt: undefined, refusedAt: undefined, retryAfter: undefined }
      seen.push(one)
      const call = Effect.sync(() => {
        one.sentAt = now()
      }).pipe(
        quota.withQuota("k", { maxWait, cost: { inputTokens } }),
        Effect.catch((error) =>
          Effect.sync(() => {
            one.refusedAt = now()
            one.retryAfter = error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
          })
        )
      )
      fibers.push(yield* Effect.forkChild(call, { startImmediately: true }))
    }
    yield* TestClock.adjust(limits === unlimited ? "2 minutes" : "1 hour")
    assert.isTrue(fibers.every((fiber) => fiber.pollUnsafe() !== undefined), "every call ends")
    return seen
  }).pipe(Effect.provide(TestClock.layer()), Random.withSeed(seed))

const options = { arbitrary: { runs: runs(100, 5_000) }, timeout: runs(60_000, 1_800_000) }

describe("Quota of a key that nothing is known of", () => {
  it.effect.prop(
    "who is let wait is sent within maxWait, and who is refused is refused at once",
    { plan: Plan },
    ({ plan }) =>
      Effect.gen(function*() {
        for (const { arrivedAt, maxWait, refusedAt, sentAt } of yield* run(plan)) {
          if (sentAt === undefined) assert.strictEqual(refusedAt, arrivedAt)
          else assert.isAtMost(sentAt - arrivedAt, maxWait + 0.01)
        }
      }),
    options
  )

  it.effect.prop(
    "who is refused could not have been sent within maxWait, and is told when it could",
    { plan: Plan },
    ({ plan }) =>
      Effect.gen(function*() {
        const seen = yield* run(plan)
        for (const [at, { arrivedAt, maxWait, refusedAt, retryAfter }] of seen.entries()) {
          if (refusedAt === undefined) continue
          const patient = plan.calls.map((call, other) => at === other ? { ...call, maxWait: 100_000 } : call)
          const others = yield* run({ ...plan, calls: patient })
          const sentAt = others[at]?.sentAt ?? Number.NaN
          const before = Math.max(0, ...others.slice(0, at).map((one) => one.sentAt ?? 0))
          // It goes up to half of what the rate keeps it from the one before it sooner than in its turn.
          const apart = sentAt - before
          assert.isAtLeast(sentAt - arrivedAt, maxWait - apart)
          assert.isAtMost(sentAt - arrivedAt, (retryAfter ?? Number.NaN) + 0.01)
          assert.isAtLeast(sentAt - arrivedAt, (retryAfter ?? Number.NaN) - 1 - apart)
        }
      }),
    options
  )

  it.effect("however many wait for it, no two of them are sent together, and none is refused that can be sent", () =>
    Effect.gen(function*() {
      const seen = yield* run({
        calls: Array.from({ length: 1_001 }, () => ({ after: 0, maxWait: 60_000 })),
        seed: 1
      })
      const times = seen.map(({ sentAt }) => sentAt ?? Number.NaN)
      for (const [at, time] of times.entries()) {
        if (at > 0) assert.isAtLeast(time - (times[at - 1] ?? 0), 1 - 0.01)
      }
      // 5 a second at first, twice as many every 1.5 seconds: 1,000 of them take less than 10 seconds
      assert.isBelow(times.at(-1) ?? Number.NaN, 10_000)
    }))
})

const Joint = Schema.Struct({
  calls: Schema.Array(
    Schema.Struct({ ...Call.fields, inputTokens: Schema.Literals([0, 1, 20, 300, 1_000]) })
  ).check(Schema.isMinLength(2), Schema.isMaxLength(40)),
  limits: Schema.Struct({
    requests: Schema.Struct({ limit: Schema.Literals([30, 60, 600]), burst: Schema.Literals([1, 3, 40]) }),
    inputTokens: Schema.Struct({ limit: Schema.Literals([3_000, 60_000]), burst: Schema.Literals([1_000, 5_000]) })
  }),
  seed: Schema.Literal(1)
})

describe("Quota with limits on requests and tokens", () => {
  it.effect.prop(
    "who cannot be sent within maxWait is refused when it comes, with the time at which it could, and nobody else is",
    { plan: Joint },
    ({ plan }) =>
      Effect.gen(function*() {
        const seen = yield* run(plan)
        for (const [at, { arrivedAt, maxWait, refusedAt, retryAfter, sentAt }] of seen.entries()) {
          if (sentAt !== undefined) {
            assert.isAtMost(sentAt - arrivedAt, maxWait + 0.01)
            continue
          }
          assert.strictEqual(refusedAt, arrivedAt)
          const patient = plan.calls.map((call, other) => at === other ? { ...call, maxWait: 3_600_000 } : call)
          const others = yield* run({ ...plan, calls: patient })
          const waited = (others[at]?.sentAt ?? Number.NaN) - arrivedAt
          assert.isAbove(waited, maxWait - 0.01)
          assert.approximately(waited, retryAfter ?? Number.NaN, 1.1)
        }
      }),
    options
  )
})

describe("Quota after a refusal", () => {
  it.effect("lets all wait that are sent in time when the rate grows back", () =>
    Effect.gen(function*() {
      const quota = yield* Quota.make()
      yield* Effect.exit(quota.withQuota("k")(Effect.fail(new Refused({ verdict: Fault.overloaded("1 second") }))))
      const calls = yield* Effect.replicateEffect(
        Effect.forkChild(Effect.exit(quota.withQuota("k", { maxWait: "20 seconds" })(Effect.void)), {
          startImmediately: true
        }),
        100
      )
      yield* TestClock.adjust("20 seconds")
      const exits = yield* Effect.forEach(calls, Fiber.join)
      assert.strictEqual(exits.filter(Exit.isSuccess).length, 100)
    }))
})
