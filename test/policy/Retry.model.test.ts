import { assert, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Random, Schema } from "effect"
import { Backoff, Fault, Retry, RetryBudget, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import * as deadline from "../../src/policy/internal/deadline.ts"
import { runs } from "../support/runs.ts"

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))
const maybe = <S extends Schema.Top>(schema: S) => Schema.Union([Schema.Undefined, schema])

const kinds = [
  "success",
  "defect",
  "Transient",
  "Throttled",
  "Overloaded",
  "TimedOut",
  "Malformed",
  "Ambiguous",
  "Rejected",
  "Permanent"
] as const

const Outcome = Schema.Struct({
  took: Schema.Union([Schema.Literal(0), upTo(3_000)]),
  // mostly what goes on, so that long runs are not rare
  kind: Schema.Literals([...kinds, "Transient", "Transient", "Throttled", "Overloaded", "Rejected"]),
  asked: maybe(upTo(12_000))
})

const Plan = Schema.Struct({
  outcomes: Schema.Array(Outcome).check(Schema.isMinLength(1), Schema.isMaxLength(10)),
  maxAttempts: Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: 8 })),
  maxElapsed: maybe(upTo(40_000)),
  deadline: maybe(upTo(40_000)),
  tokens: maybe(upTo(5)),
  retryRejected: Schema.Boolean,
  idempotent: maybe(Schema.Boolean),
  jitter: maybe(Schema.Literals([0, 0.25, 0.5, 0.75])),
  cap: Schema.Literals([500, 2_000, 10_000])
})
type Plan = typeof Plan.Type
type Outcome = typeof Outcome.Type

const base = 500

const delayed = new Set(["Throttled", "Overloaded", "Rejected"])

const verdictOf = (outcome: Outcome): Fault.Verdict => {
  const { asked, kind } = outcome
  switch (kind) {
    case "success":
    case "defect":
    case "Permanent":
      return Fault.permanent
    case "Throttled":
      return Fault.throttled(asked)
    case "Overloaded":
      return Fault.overloaded(asked)
    case "Rejected":
      return Fault.rejected(asked)
    default:
      return { _tag: kind }
  }
}

/** What must happen, told by the clock: when each try begins, what the listener hears, how and when it ends. */
const expected = (plan: Plan) => {
  const { cap, deadline = Infinity, jitter, maxAttempts, maxElapsed = Infinity, outcomes } = plan
  const calls: Array<number> = []
  const events: Array<Telemetry.Event> = []
  let now = 0
  let tokens = plan.tokens ?? Infinity
  let isPaid = false
  let isLast = false
  let wasSent = false
  let failure: string | undefined
  const ended = (end: string) => ({ calls, events, end, at: now, tokens, firstAttempts: wasSent ? 1 : 0 })

  for (let attempt = 1;; attempt++) {
    calls.push(now)
    const outcome = outcomes[attempt - 1]
    if (outcome?.kind !== "Rejected") wasSent = true
    if (outcome === undefined) return ended("success")
    now += outcome.took
    if (outcome.kind === "success" || outcome.kind === "defect") return ended(outcome.kind)

    if (outcome.kind !== "Rejected") {
      failure = `${outcome.kind} ${attempt}`
      isPaid = false
    }
    const tag = outcome.kind === "Ambiguous" && plan.idempotent === true ? "Transient" : outcome.kind
    const gaveUp = (reason: Extract<Telemetry.Event, { readonly _tag: "RetryGaveUp" }>["reason"]) => {
      events.push({ _tag: "RetryGaveUp", policy: "model", attempts: attempt, verdict: tag, reason })
      // what was paid for a try that a guard refused
      if (isPaid) tokens++
      return ended(failure ?? `${outcome.kind} ${attempt}`)
    }
    const again = ["Transient", "Throttled", "Overloaded"].includes(tag) ||
      (["TimedOut", "Malformed"].includes(tag) && plan.idempotent !== false) ||
      (tag === "Rejected" && plan.retryRejected)
    if (!again) return gaveUp("NotRetryable")
    if (attempt >= maxAttempts) return gaveUp("Exhausted")
    if (isLast) return gaveUp("Elapsed")
    const asked = delayed.has(tag) ? outcome.asked ?? 0 : 0
    if (asked > cap) return gaveUp("RetryAfterTooLong")

    const ceiling = Math.min(cap, base * 2 ** (attempt - 1))
    const room = maxElapsed - now
    let delayMillis = jitter === undefined ? Math.max(asked, ceiling) : asked + jitter * ceiling
    if (delayMillis > room && jitter !== undefined && room > asked) {
      delayMillis = asked + jitter * (room - asked)
      isLast = true
    }
    if (delayMillis > room) return gaveUp("Elapsed")
    if (delayMillis >= deadline - now) return gaveUp("Deadline")
    if (plan.tokens !== undefined && tag !== "Rejected") {
      if (tokens < 1) return gaveUp("BudgetEmpty")
      tokens--
      isPaid = true
    }
    events.push({ _tag: "RetryScheduled", policy: "model", attempt, delayMillis, verdict: tag })
    now += delayMillis
  }
}

const day = 86_400_000

it.effect.prop(
  "tries at the same times, says the same and ends in the same way as its model, over any plan of verdicts",
  { plan: Plan },
  ({ plan }) =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.make({
        ratio: 0,
        window: day,
        minPerSecond: (plan.tokens ?? 1_000) * 1_000 / day
      })
      const calls: Array<number> = []
      const events: Array<Telemetry.Event> = []
      const call = Effect.gen(function*() {
        const attempt = calls.push(yield* Clock.currentTimeMillis)
        const outcome = plan.outcomes[attempt - 1]
        if (outcome === undefined) return "success"
        yield* Effect.sleep(outcome.took)
        if (outcome.kind === "success") return "success"
        if (outcome.kind === "defect") return yield* Effect.die("defect")
        return yield* Effect.fail({ [Fault.verdictOf]: verdictOf(outcome), text: `${outcome.kind} ${attempt}` })
      })
      const { cap, jitter } = plan
      const policy = Retry.policy({
        name: "model",
        backoff: jitter === undefined ? Backoff.exponential({ base, cap }) : Backoff.fullJitter({ base, cap }),
        maxAttempts: plan.maxAttempts,
        maxElapsed: plan.maxElapsed,
        idempotent: plan.idempotent,
        retryRejected: plan.retryRejected,
        budget: plan.tokens === undefined ? undefined : "key"
      })
      let at = NaN
      const fiber = yield* Retry.apply(call, policy).pipe(
        Effect.onExit(() => Effect.map(Clock.currentTimeMillis, (now) => void (at = now))),
        Effect.catch(({ text }) => Effect.succeed(text)),
        Effect.catchDefect(() => Effect.succeed("defect")),
        Effect.provideService(RetryBudget.RetryBudget, budget),
        Effect.provideService(deadline.Current, plan.deadline),
        Effect.provideService(Telemetry.Listener, (event) => void events.push(event)),
        Effect.provideService(Random.Random, {
          nextDoubleUnsafe: () => jitter ?? 0,
          nextIntUnsafe: () => 0
        }),
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("1 hour")
      const end = yield* Fiber.join(fiber)
      const model = expected(plan)
      assert.deepStrictEqual({ calls, events, end, at }, {
        calls: model.calls,
        events: model.events,
        end: model.end,
        at: model.at
      })
      if (plan.tokens === undefined) return
      const { available, firstAttempts } = yield* budget.state("key")
      assert.deepStrictEqual([available, firstAttempts], [model.tokens, model.firstAttempts])
    }).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(500, 20_000), seed: 1 }, timeout: runs(30_000, 600_000) }
)
