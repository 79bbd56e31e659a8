import { assert, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Random, Schema } from "effect"
import { Fault, Quota } from "effect-resilience"
import { TestClock } from "effect/testing"
import { counts, each } from "../../src/policy/internal/quotaAmounts.ts"
import { type Admission, Governor } from "../../src/policy/internal/quotaGovernor.ts"
import { runs } from "../support/runs.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

class Refused extends Schema.TaggedError<Refused>("test/Refused")("Refused", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

// ---- the service, by what can be seen from outside

const Call = Schema.Struct({
  /** How long after the call before it. */
  after: Schema.Literals([0, 0, 0, 1, 50, 400, 2_000, 15_000]),
  outputTokens: Schema.Literals([0, 1, 10, 60, 100]),
  priority: Schema.Literals(["interactive", "interactive", "batch"]),
  millis: Schema.Literals([0, 1, 300, 4_000, 40_000]),
  end: Schema.Literals([
    "estimate",
    "estimate",
    "less",
    "more",
    "told",
    "throttled",
    "throttled at once",
    "overloaded",
    "rejected",
    "failed",
    "defect"
  ]),
  interruptedAfter: Schema.Literals([-1, -1, -1, 0, 1, 700, 5_000]),
  maxWait: Schema.Literals([0, 1_000, 20_000, 3_600_000])
})

const Plan = Schema.Struct({
  calls: Schema.Array(Call).check(Schema.isMinLength(1), Schema.isMaxLength(30)),
  limits: Schema.Literals(["requests", "both", "tokens", "slow", "none"]),
  seed: upTo(1_000_000)
})

interface Limit {
  readonly limit: number
  readonly burst: number
}

const requests: Limit = { limit: 60, burst: 3 }
const slow: Limit = { limit: 20, burst: 1 }
const outputTokens: Limit = { limit: 1_200, burst: 100 }

const limitsOf = (plan: typeof Plan.Type): { readonly requests?: Limit; readonly outputTokens?: Limit } => {
  switch (plan.limits) {
    case "requests":
      return { requests }
    case "both":
      return { requests, outputTokens }
    case "tokens":
      return { outputTokens }
    case "slow":
      return { requests: slow }
    case "none":
      return {}
  }
}

const ageAfter = 5_000

interface Seen {
  readonly id: number
  readonly priority: Quota.Priority
  readonly arrivedAt: number
  readonly outputTokens: number
  sentAt: number | undefined
  /** When it ended, sent or not. */
  endedAt: number | undefined
  /** What it gave back when it ended. */
  returned: { readonly requests: number; readonly outputTokens: number }
  isRefused: boolean
  /** When it may be tried again, where the refusal says so. */
  refusedUntil: number | undefined
}

const nothingBack = { requests: 0, outputTokens: 0 }

const run = (plan: typeof Plan.Type) =>
  Effect.gen(function*() {
    const quota = yield* Quota.make({ ...limitsOf(plan), ageAfter })
    const clock = yield* Clock.Clock
    const now = () => clock.currentTimeMillisUnsafe()
    const seen: Array<Seen> = []
    const order: Array<Seen> = []

    const call = (given: typeof Call.Type, id: number) => {
      const { end, maxWait, millis, outputTokens, priority } = given
      const one: Seen = {
        id,
        priority,
        arrivedAt: now(),
        outputTokens,
        sentAt: undefined,
        endedAt: undefined,
        returned: nothingBack,
        isRefused: false,
        refusedUntil: undefined
      }
      seen.push(one)
      const all = { requests: 1, outputTokens }
      const ends: Record<typeof end, Effect.Effect<unknown, unknown>> = {
        "estimate": Effect.void,
        "less": Effect.succeed({ usage: { outputTokens: Math.floor(outputTokens / 2) } }),
        "more": Effect.succeed({ usage: { outputTokens: outputTokens + 40 } }),
        "told": Effect.succeed({ rateLimits: { requests: { limit: 60, remaining: id % 4 } } }),
        "throttled": Effect.fail(new Refused({ verdict: Fault.throttled(1_500) })),
        "throttled at once": Effect.fail(new Refused({ verdict: Fault.throttled(700) })),
        "overloaded": Effect.fail(new Refused({ verdict: Fault.overloaded() })),
        "rejected": Effect.fail(new Refused({ verdict: Fault.rejected() })),
        "failed": Effect.fail("reset"),
        "defect": Effect.die("bug")
      }
      const back: Partial<Record<typeof end, Seen["returned"]>> = {
        "less": { requests: 0, outputTokens: outputTokens - Math.floor(outputTokens / 2) },
        "throttled": all,
        "throttled at once": all,
        "overloaded": all,
        "rejected": all,
        "failed": { requests: 0, outputTokens },
        "defect": { requests: 0, outputTokens }
      }
      const refusals = { "throttled": true, "throttled at once": true, "overloaded": true }
      const retryAfter = { "throttled": 1_500, "throttled at once": 700 }
      const work = Effect.suspend(() => {
        one.sentAt = now()
        order.push(one)
        return end === "throttled at once" ? ends[end] : Effect.andThen(Effect.sleep(millis), ends[end])
      }).pipe(
        Effect.onExit((exit) =>
          Effect.sync(() => {
            const interrupted = exit._tag === "Failure" &&
              exit.cause.reasons.some((reason) => reason._tag === "Interrupt")
            one.returned = interrupted ? { requests: 0, outputTokens } : back[end] ?? nothingBack
            one.isRefused = !interrupted && end in refusals
            if (!interrupted && (end === "throttled" || end === "throttled at once")) {
              one.refusedUntil = now() + retryAfter[end]
            }
          })
        )
      )
      return work.pipe(
        quota.withQuota("k", { cost: { outputTokens }, priority, maxWait }),
        Effect.ensuring(Effect.sync(() => {
          one.endedAt = now()
        })),
        Effect.exit
      )
    }

    const fibers: Array<Fiber.Fiber<unknown>> = []
    for (const [id, given] of plan.calls.entries()) {
      yield* TestClock.adjust(given.after)
      const fiber = yield* Effect.forkChild(call(given, id), { startImmediately: true })
      fibers.push(fiber)
      if (given.interruptedAfter >= 0) {
        const { interruptedAfter } = given
        yield* Effect.forkChild(Effect.andThen(Effect.sleep(interruptedAfter), Fiber.interrupt(fiber)))
      }
    }
    for (let step = 0; step < 400 && fibers.some((fiber) => fiber.pollUnsafe() === undefined); step++) {
      yield* TestClock.adjust("10 seconds")
    }
    assert.isTrue(fibers.every((fiber) => fiber.pollUnsafe() !== undefined), "every call ends")
    const left = yield* quota.state("k")
    assert.deepStrictEqual([left.running, left.waiting], [0, 0], "nothing is held")
    yield* TestClock.adjust("1 hour")
    return { seen, order, state: yield* quota.state("k") }
  }).pipe(Effect.provide(TestClock.layer()), Random.withSeed(plan.seed))

/** Rank in the queue: what a batch call gives way to came before its time is up. */
const rank = ({ arrivedAt, priority }: Seen): number => arrivedAt + (priority === "batch" ? ageAfter : 0)

const options = { arbitrary: { runs: runs(300, 10_000) }, timeout: runs(60_000, 1_800_000) }

it.effect.prop(
  "what calls have cost stays within limit and burst over every window, and all of it comes back",
  { plan: Plan },
  ({ plan }) =>
    Effect.gen(function*() {
      const { order, state } = yield* run(plan)
      for (const dimension of ["requests", "outputTokens"] as const) {
        const given = limitsOf(plan)[dimension]
        if (given === undefined) continue
        const { burst, limit } = given
        // A provider that says no more than this has no refusal to give, however late it is known what a call has cost.
        const costOf = (one: Seen) => (dimension === "requests" ? 1 : one.outputTokens) - one.returned[dimension]
        for (const from of order) {
          for (const to of order) {
            if (from.sentAt === undefined || to.sentAt === undefined || to.sentAt < from.sentAt) continue
            const start = from.sentAt
            const end = to.sentAt
            let admitted = 0
            for (const one of order) {
              if (one.sentAt !== undefined && one.sentAt >= start && one.sentAt <= end) admitted += costOf(one)
            }
            const allowed = burst + (end - start) * limit / 60_000
            assert.isAtMost(admitted, allowed + 0.01, `${dimension} from ${start} to ${end}`)
          }
        }
        assert.strictEqual(state.limits[dimension]?.available, burst, "after a while all of it is back")
      }
    }),
  options
)

it.effect.prop(
  "calls are sent in the order in which they came, interactive first, and a batch call waits no longer than its age",
  { plan: Plan },
  ({ plan }) =>
    Effect.gen(function*() {
      const { order } = yield* run(plan)
      for (const [at, one] of order.entries()) {
        for (const later of order.slice(at + 1)) {
          const wasThere = later.arrivedAt < (one.sentAt ?? 0)
          if (!wasThere) continue
          if (one.priority === later.priority) assert.isBelow(one.id, later.id, "the order of arrival")
          else assert.isAtMost(rank(one), rank(later), `${one.id} before ${later.id}`)
        }
      }
    }),
  options
)

it.effect.prop(
  "nothing is sent before the time that a refusal says, and who waited for it is never sent together",
  { plan: Plan },
  ({ plan }) =>
    Effect.gen(function*() {
      const { order, seen } = yield* run(plan)
      // what counts is the refusal that closed the gate: of a call sent after all refusals before it were known
      let knownAt = -1
      const gates = seen
        .filter(({ isRefused }) => isRefused)
        .toSorted((a, b) => (a.endedAt ?? 0) - (b.endedAt ?? 0))
        .filter(({ endedAt, sentAt }) => {
          const isNews = sentAt !== undefined && sentAt > knownAt
          if (isNews) knownAt = endedAt ?? knownAt
          return isNews
        })
      for (const { endedAt, id, refusedUntil } of gates) {
        if (endedAt === undefined || refusedUntil === undefined) continue
        for (const { id: other, sentAt } of order) {
          assert.isFalse(
            sentAt !== undefined && sentAt > endedAt && sentAt < refusedUntil,
            `${other} was sent at ${sentAt}, in the gate of ${id}`
          )
        }
        // what a guard inside has refused was not sent, and the next one goes in its place
        const waited = order.filter(({ arrivedAt, id, sentAt }) =>
          arrivedAt < refusedUntil && (sentAt ?? 0) > endedAt && plan.calls[id]?.end !== "rejected"
        )
        const times = waited.map(({ sentAt }) => sentAt)
        assert.strictEqual(new Set(times).size, times.length, `two of those who waited for ${id} were sent together`)
      }
    }),
  options
)

const Arrival = Schema.Struct({
  after: Schema.Literals([0, 50, 400, 2_000, 2_000]),
  priority: Schema.Literals(["interactive", "interactive", "batch"])
})

it.effect.prop(
  "however many interactive calls come, a batch call goes before those that came ageAfter later than it",
  { arrivals: Schema.Array(Arrival).check(Schema.isMinLength(10), Schema.isMaxLength(40)) },
  ({ arrivals }) =>
    Effect.gen(function*() {
      const calls = arrivals.map(({ after, priority }): typeof Call.Type => ({
        after,
        priority,
        outputTokens: 0,
        millis: 0,
        end: "estimate",
        interruptedAfter: -1,
        maxWait: 3_600_000
      }))
      const { order } = yield* run({ calls, limits: "slow", seed: 1 })
      assert.strictEqual(order.length, arrivals.length)
      const ranked = order.slice(1)
      for (const [at, one] of ranked.entries()) {
        for (const later of ranked.slice(at + 1)) {
          if (later.arrivedAt < (one.sentAt ?? 0)) {
            assert.isAtMost(rank(one), rank(later), `${one.id} before ${later.id}`)
          }
        }
      }
    }),
  options
)

// ---- the governor, against a naive account of the same

const Step = Schema.Struct({
  what: Schema.Literals(["take", "take", "settle", "settle", "refuse", "observe", "wait"]),
  which: upTo(20),
  amount: upTo(50),
  millis: Schema.Literals([0, 1, 37, 900, 6_000])
})

const limit = { limit: 600, perMillis: 60_000, burst: 100 }

it.prop(
  "the balance is what it would be had all been known from the start, and what is told of older calls changes nothing",
  { steps: Schema.Array(Step).check(Schema.isMaxLength(80)) },
  ({ steps }) => {
    const governor = new Governor({ ...each(() => undefined), inputTokens: limit }, 300_000, 0)
    const cost = (amount: number) => ({ ...counts(0), requests: 1, inputTokens: amount, tokens: amount })
    const available = () => governor.limitOf("inputTokens", now)?.available ?? Number.NaN
    interface Drawn {
      readonly at: number
      amount: number
    }
    const sent: Array<{ readonly admission: Admission; readonly drawn: Drawn; isSettled: boolean }> = []
    const drawn: Array<Drawn> = []
    let now = 0
    const draw = (amount: number): Drawn => {
      const one = { at: now, amount }
      drawn.push(one)
      return one
    }
    const level = (): number => {
      let level = limit.burst
      let at = 0
      const until = (time: number) => {
        level = Math.min(limit.burst, level + (time - at) * limit.limit / limit.perMillis)
        at = time
      }
      for (const one of drawn) {
        until(one.at)
        level -= one.amount
      }
      until(now)
      return level
    }
    const settle = (one: (typeof sent)[number], used: number) => {
      if (one.isSettled) return
      one.isSettled = true
      if (used > one.drawn.amount) draw(used - one.drawn.amount)
      else one.drawn.amount = used
    }
    const totals: Array<number> = []
    let corrected = 0
    let gated = 0
    let gate = Number.NEGATIVE_INFINITY
    for (const { amount, millis, what, which } of steps) {
      const one = sent.at(which % Math.max(1, sent.length))
      switch (what) {
        case "wait":
          now += millis
          break
        case "take":
          sent.push({
            admission: governor.take(cost(amount), now, false, 0.5),
            drawn: draw(amount),
            isSettled: false
          })
          totals.push(amount)
          break
        case "settle":
          if (one === undefined) break
          governor.settle(one.admission, cost(Math.floor(amount / 2)), now)
          settle(one, Math.floor(amount / 2))
          break
        case "refuse": {
          if (one === undefined) break
          const closed = governor.refuse(one.admission, { isOverload: false, retryAfterMillis: millis }, now, () => 0.5)
          settle(one, 0)
          if (one.admission.number > gated) {
            gate = Math.max(gate, now + millis)
            gated = sent.length
            corrected = sent.length
            draw(Math.max(0, level()))
            assert.closeTo(closed ?? Number.NaN, gate - now, 1e-6)
          } else assert.isUndefined(closed, "a refusal that is no news")
          break
        }
        case "observe": {
          if (one === undefined) break
          const before = available()
          const told = {
            ...each(() => undefined),
            inputTokens: { limit: 600, remaining: amount, resetMillis: undefined }
          }
          governor.observe(one.admission, told, now)
          if (one.admission.number <= corrected) {
            assert.strictEqual(available(), before, "headers of an older epoch")
            break
          }
          corrected = one.admission.number
          const unseen = totals.slice(one.admission.number).reduce((sum, amount) => sum + amount, 0)
          const most = amount - unseen + (now - one.admission.sentAt) * limit.limit / limit.perMillis
          assert.isAtMost(available(), Math.max(before, -Infinity), "never upwards")
          assert.isAtMost(available(), most + 1e-6, "what was sent since is counted off")
          draw(before - available())
          break
        }
      }
      // Parts of less than a four-thousandth are not told apart, and then it is a little less.
      assert.isAtMost(available(), level() + 1e-6, what)
      assert.isAtLeast(available(), level() - 0.5, what)
      assert.strictEqual(governor.gatedUntil, gate)
    }
  },
  { arbitrary: { runs: runs(1_000, 50_000) }, timeout: runs(30_000, 600_000) }
)
