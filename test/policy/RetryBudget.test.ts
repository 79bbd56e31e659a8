import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Schedule, Schema } from "effect"
import { Backoff, CircuitBreaker, Deadline, Fault, Retry, RetryBudget, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Budgets, engineOf, settings } from "../../src/policy/internal/retryBudget.ts"
import { cancelSources, everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

class Busy extends Schema.TaggedError<Busy>("test/Busy")("Busy", { n: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.transient
}

type Service = RetryBudget.RetryBudget["Service"]

/** How many retries the budget pays for, one after the other, until it is empty. */
const drain = Effect.fnUntraced(function*(budget: Service, key: string) {
  let paid = 0
  while (paid < 1_000 && (yield* budget.withdraw(key)) !== undefined) paid++
  return paid
})

const depositing = (budget: Service, key: string, times: number) =>
  Effect.forEach(Array.from({ length: times }), () => budget.deposit(key), { discard: true })

const available = (budget: Service, key: string) => Effect.map(budget.state(key), (state) => state.available)

const provided = (budget: Service) => Effect.provideService(RetryBudget.RetryBudget, budget)

const everySecond = Backoff.constant({ delay: "1 second" })

/** Fails with Busy the first `failures` times, and counts its calls. */
const failing = (failures: number) => {
  const count = { calls: 0 }
  const effect = Effect.suspend(() =>
    ++count.calls <= failures ? Effect.fail(new Busy({ n: count.calls })) : Effect.succeed(count.calls)
  )
  return { count, effect }
}

const listening = () => {
  const events: Array<Telemetry.Event> = []
  return { events, listen: Effect.provideService(Telemetry.Listener, (event) => void events.push(event)) }
}

const start = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const strict = (options: RetryBudget.Options = {}) => RetryBudget.make({ minPerSecond: 0, ...options })

describe("RetryBudget", () => {
  describe("what it allows", () => {
    it.effect("is a fifth of the first attempts of 10 seconds and half a retry a second by default", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make()
        yield* depositing(budget, "a", 100)
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 100, retries: 0, available: 25 })
        assert.strictEqual(yield* drain(budget, "a"), 25)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* drain(budget, "a"), 5)
      }))

    it.effect("is a floor at low traffic, also without any first attempt", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ minPerSecond: 0.3, window: "10 seconds" })
        assert.strictEqual(yield* drain(budget, "a"), 3)
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(yield* drain(budget, "a"), 0)
        yield* TestClock.adjust("5 seconds")
        assert.strictEqual(yield* drain(budget, "a"), 3)
      }))

    it.effect("is nothing at ratio 0 without a floor", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 0 })
        yield* depositing(budget, "a", 1_000)
        assert.strictEqual(yield* drain(budget, "a"), 0)
      }))

    it.effect("loses no retry to how fractions are computed", () =>
      Effect.gen(function*() {
        for (const [ratio, deposits, retries] of [[0.29, 100, 29], [0.1, 30, 3], [0.7, 10, 7], [0.2, 15, 3]] as const) {
          const budget = yield* strict({ ratio })
          yield* depositing(budget, "a", deposits)
          assert.strictEqual(yield* drain(budget, "a"), retries, `${ratio} of ${deposits}`)
        }
      }))

    it.effect("grows with a first attempt only by its ratio", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 0.5 })
        assert.isUndefined(yield* budget.withdraw("a"))
        yield* budget.deposit("a")
        assert.isUndefined(yield* budget.withdraw("a"))
        yield* budget.deposit("a")
        assert.isDefined(yield* budget.withdraw("a"))
        assert.isUndefined(yield* budget.withdraw("a"))
      }))
  })

  describe("age", () => {
    it.effect("deposits expire when they are as old as the window, and not before 95 % of it", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1, window: "20 seconds" })
        yield* depositing(budget, "a", 4)
        yield* TestClock.adjust(18_999)
        assert.strictEqual(yield* available(budget, "a"), 4)
        yield* TestClock.adjust(1_001)
        assert.strictEqual(yield* available(budget, "a"), 0)
        assert.isUndefined(yield* budget.withdraw("a"))
      }))

    it.effect("deposits expire also when nobody called for longer than the window", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1, window: "20 seconds" })
        yield* depositing(budget, "a", 4)
        for (const idle of ["20 seconds", "21 seconds", "1 hour", "365 days"] as const) {
          yield* depositing(budget, "a", 4)
          yield* TestClock.adjust(idle)
          assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 0, retries: 0, available: 0 })
          assert.isUndefined(yield* budget.withdraw("a"), idle)
        }
      }))

    it.effect("retries expire as deposits do, so that no window has more than its share", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 0.5, window: "20 seconds" })
        yield* depositing(budget, "a", 10)
        yield* TestClock.adjust("15 seconds")
        assert.strictEqual(yield* drain(budget, "a"), 5)
        yield* TestClock.adjust("5 seconds")
        // the deposits have gone and the retries have not
        yield* depositing(budget, "a", 8)
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 8, retries: 5, available: 0 })
        assert.strictEqual(yield* drain(budget, "a"), 0)
        yield* TestClock.adjust("15 seconds")
        assert.strictEqual(yield* drain(budget, "a"), 4)
      }))

    it.effect("is measured with the monotonic clock: the wall clock may jump", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1 })
        yield* TestClock.setTime(1_000_000)
        yield* depositing(budget, "a", 3)
        const clock = yield* TestClock.testClockWith(Effect.succeed)
        for (const jump of [-3_600_000, 3_600_000]) {
          const jumped = {
            ...clock,
            currentTimeMillisUnsafe: () => clock.currentTimeMillisUnsafe() + jump,
            currentTimeNanosUnsafe: () => clock.currentTimeNanosUnsafe() + BigInt(jump) * 1_000_000n
          }
          const state = yield* Effect.provideService(budget.state("a"), Clock.Clock, jumped)
          assert.strictEqual(state.available, 3)
        }
      }))
  })

  describe("keys", () => {
    it.effect("never touch each other", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ minPerSecond: 0.2 })
        yield* depositing(budget, "a", 50)
        assert.strictEqual(yield* drain(budget, "b"), 2)
        assert.strictEqual(yield* drain(budget, "a"), 12)
        assert.strictEqual(yield* available(budget, "c"), 2)
        assert.deepStrictEqual((yield* budget.states).map(({ key }) => key), ["a", "b"])
      }))

    it.effect("have options of their own, over those of the service", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({
          minPerSecond: 0.5,
          keys: { billing: { minPerSecond: 0.1 }, slow: { window: "1 minute" } }
        })
        assert.strictEqual(yield* drain(budget, "any"), 5)
        assert.strictEqual(yield* drain(budget, "billing"), 1)
        assert.strictEqual(yield* drain(budget, "slow"), 30)
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* drain(budget, "any"), 5)
        assert.strictEqual(yield* drain(budget, "slow"), 0)
      }))

    it.effect("are only names: a key may be called like a property of every object", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ keys: { billing: { minPerSecond: 0 } } })
        for (const key of ["constructor", "__proto__", "toString", ""]) {
          assert.strictEqual(yield* drain(budget, key), 5)
        }
      }))

    it.effect("that nobody has used for their window are forgotten, and as good as new", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make()
        yield* depositing(budget, "old", 5)
        yield* TestClock.adjust("9 seconds")
        yield* budget.deposit("young")
        yield* TestClock.adjust("1 second")
        assert.deepStrictEqual((yield* budget.states).map(({ key }) => key), ["young"])
        assert.strictEqual(yield* available(budget, "old"), 5)
      }))

    it("that nobody has used for their window are forgotten as new ones come, also when nobody looks", () => {
      const own = settings({})
      const budgets = new Budgets(() => own, 1_000_000, own.windowMillis)
      let most = 0
      for (let now = 0; now < 200_000; now++) {
        budgets.deposit(`key ${now}`, now)
        most = Math.max(most, budgets.size)
      }
      assert.isAtMost(most, 2 * own.windowMillis)
    })

    it.effect("are forgotten so, too, where some have a window of their own", () =>
      Effect.gen(function*() {
        const engine = engineOf(
          yield* RetryBudget.make({ window: "1 second", keys: { slow: { window: "3 seconds" } } })
        )
        assert.instanceOf(engine, Budgets)
        let most = 0
        for (let now = 0; now < 20_000; now++) {
          engine.deposit(`key ${now}`, now)
          most = Math.max(most, engine.size)
        }
        assert.isAtMost(most, 4_000)
      }))

    it.effect("that are read are not remembered", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make()
        assert.strictEqual(yield* available(budget, "a"), 5)
        assert.deepStrictEqual(yield* budget.states, [])
      }))

    it.effect("are never more than maxKeys, and those unused for longest make room", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ maxKeys: 10, window: "1 hour" })
        for (let i = 0; i < 10; i++) {
          yield* budget.deposit(`key ${i}`)
          yield* TestClock.adjust(1)
        }
        yield* budget.deposit("key 0")
        yield* budget.deposit("new")
        const keys = (yield* budget.states).map(({ key }) => key)
        assert.strictEqual(keys.length, 10)
        assert.notInclude(keys, "key 1")
        assert.includeMembers(keys, ["key 0", "key 2", "new"])
        for (let i = 0; i < 1_000; i++) yield* budget.deposit(`another ${i}`)
        assert.isAtMost((yield* budget.states).length, 10)
      }))
  })

  describe("taking back", () => {
    it.effect("makes a first attempt never have been, once", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1 })
        yield* budget.deposit("a")
        const deposit = yield* budget.deposit("a")
        assert.isTrue(deposit !== undefined)
        if (deposit === undefined) return
        yield* deposit.takeBack
        yield* deposit.takeBack
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 1, retries: 0, available: 1 })
      }))

    it.effect("takes back the deposit of its own time, and one that has expired not at all", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1, window: "20 seconds" })
        const early = yield* budget.deposit("a")
        yield* TestClock.adjust("10 seconds")
        yield* depositing(budget, "a", 2)
        const late = yield* budget.deposit("a")
        assert.isTrue(early !== undefined && late !== undefined)
        if (early === undefined || late === undefined) return
        yield* late.takeBack
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* available(budget, "a"), 2)
        yield* early.takeBack
        assert.strictEqual(yield* available(budget, "a"), 2)
      }))

    it.effect("leaves no less than nothing where retries were paid from it meanwhile", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1 })
        const deposit = yield* budget.deposit("a")
        assert.strictEqual(yield* drain(budget, "a"), 1)
        if (deposit !== undefined) yield* deposit.takeBack
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 0, retries: 1, available: 0 })
        yield* budget.deposit("a")
        assert.isUndefined(yield* budget.withdraw("a"))
      }))
  })

  describe("giving back", () => {
    it.effect("makes room for another retry, once", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ minPerSecond: 0.2 })
        const withdrawal = yield* budget.withdraw("a")
        yield* budget.withdraw("a")
        assert.isUndefined(yield* budget.withdraw("a"))
        assert.isDefined(withdrawal)
        yield* withdrawal.giveBack
        yield* withdrawal.giveBack
        assert.strictEqual(yield* available(budget, "a"), 1)
      }))

    it.effect("never gives back more than was withdrawn", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ minPerSecond: 0.2 })
        const engine = engineOf(budget)
        assert.isDefined(engine)
        assert.isTrue(engine.tryWithdraw("a", 0))
        for (let i = 0; i < 3; i++) engine.giveBack("a", 0)
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 0, retries: 0, available: 2 })
      }))

    it.effect("does nothing for a withdrawal that has expired, or whose budget was forgotten since", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ minPerSecond: 0.2, maxKeys: 1 })
        const expired = yield* budget.withdraw("a")
        yield* TestClock.adjust("10 seconds")
        assert.strictEqual(yield* drain(budget, "a"), 2)
        assert.isDefined(expired)
        yield* expired.giveBack
        assert.strictEqual(yield* available(budget, "a"), 0)

        yield* TestClock.adjust("1 minute")
        const forgotten = yield* budget.withdraw("a")
        yield* TestClock.adjust(1)
        yield* budget.deposit("b")
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* drain(budget, "a"), 2)
        assert.isDefined(forgotten)
        yield* forgotten.giveBack
        assert.strictEqual(yield* available(budget, "a"), 0)
      }))
  })

  describe("under Retry", () => {
    const policy = Retry.policy({ budget: "a", backoff: everySecond, maxAttempts: 4 })

    it.effect("first attempts are never blocked and never pay, also with an empty budget", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 0 })
        for (let i = 0; i < 50; i++) {
          assert.strictEqual(yield* Effect.succeed(i).pipe(Retry.apply(policy), provided(budget)), i)
        }
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 50, retries: 0, available: 0 })
      }))

    it.effect("an empty budget refuses without waiting, and the caller gets its own error", () =>
      Effect.gen(function*() {
        const budget = yield* strict()
        const { events, listen } = listening()
        const { count, effect } = failing(9)
        const exit = yield* effect.pipe(Retry.apply(policy), listen, provided(budget), Effect.exit)
        assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
        assert.strictEqual(count.calls, 1)
        assert.deepStrictEqual(events, [
          { _tag: "RetryGaveUp", policy: "retry", attempts: 1, verdict: "Transient", reason: "BudgetEmpty" }
        ])
      }))

    it.effect("each retry pays, and the last real error is what the caller gets when the budget runs out", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ ratio: 0, minPerSecond: 0.2 })
        const { count, effect } = failing(9)
        const fiber = yield* start(effect.pipe(Retry.apply(policy), provided(budget)))
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 3 })))
        assert.strictEqual(count.calls, 3)
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 1, retries: 2, available: 0 })
      }))

    it.effect("bounds what an outage adds: 1,000 calls that all fail make 200 retries and not 3,000", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ window: "1 minute" })
        let calls = 0
        const call = Effect.suspend(() => {
          calls++
          return Effect.fail(new Busy({ n: 1 }))
        })
        const all = Effect.forEach(Array.from({ length: 1_000 }), () => Effect.exit(Retry.apply(call, policy)), {
          concurrency: "unbounded",
          discard: true
        })
        const fiber = yield* start(provided(budget)(all))
        yield* TestClock.adjust("10 seconds")
        yield* Fiber.join(fiber)
        assert.isAtMost(calls, 1_200)
        // the first callers find fewer deposits than there will be
        assert.isAtLeast(calls, 1_190)
      }))

    it.effect("what is not retried for another reason does not pay", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ minPerSecond: 1 })
        const reasons: Array<string> = []
        const listen = Effect.provideService(
          Telemetry.Listener,
          (event) => event._tag === "RetryGaveUp" ? reasons.push(event.reason) : undefined
        )
        const fail = (verdict: Fault.Verdict, options: Retry.Options = {}) =>
          Effect.fail({ [Fault.verdictOf]: verdict }).pipe(
            Retry.apply(Retry.policy({ backoff: everySecond, ...options, budget: "a" })),
            listen,
            Effect.exit,
            provided(budget)
          )
        yield* fail(Fault.permanent)
        yield* fail(Fault.transient, { maxAttempts: 1 })
        yield* fail(Fault.throttled("2 minutes"))
        yield* fail(Fault.transient, { maxElapsed: 999 })
        yield* fail(Fault.transient, { backoff: Schedule.recurs(0) })
        assert.deepStrictEqual(reasons, ["NotRetryable", "Exhausted", "RetryAfterTooLong", "Elapsed", "Exhausted"])
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 5, retries: 0, available: 11 })
      }))

    it.effect("trying again what our own guards refused costs nothing, for nothing was sent", () =>
      Effect.gen(function*() {
        const budget = yield* strict()
        const rejected = { [Fault.verdictOf]: Fault.rejected("1 second") }
        let calls = 0
        const call = Effect.suspend(() => ++calls < 3 ? Effect.fail(rejected) : Effect.succeed(calls))
        const waiting = Retry.policy({ budget: "a", backoff: everySecond, retryRejected: true })
        const fiber = yield* start(call.pipe(Retry.apply(waiting), provided(budget)))
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* Fiber.join(fiber), 3)
        assert.strictEqual((yield* budget.state("a")).retries, 0)
      }))

    it.effect("calls that a guard refused are no first attempts: after 100 of them an outage is as bounded as before", () =>
      Effect.gen(function*() {
        const budget = yield* strict()
        let sent = 0
        const work = Effect.suspend(() => {
          sent++
          return Effect.fail(new Busy({ n: sent }))
        })
        const guarded = Effect.exit(work.pipe(
          CircuitBreaker.protect("a", { trip: CircuitBreaker.consecutive(1_000) }),
          Retry.apply(Retry.policy({ budget: "a", backoff: everySecond, maxAttempts: 2 })),
          provided(budget)
        ))
        const hold = yield* CircuitBreaker.isolate("a")
        for (let i = 0; i < 100; i++) yield* guarded
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 0, retries: 0, available: 0 })
        yield* hold.release
        const fiber = yield* start(Effect.forEach(Array.from({ length: 20 }), () => guarded, { concurrency: 20 }))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        assert.strictEqual(sent, 24)
      }).pipe(Effect.provide(CircuitBreaker.layer())))

    it.effect("what was refused at first is a first attempt when it is sent, also long after", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1 })
        const verdicts = [Fault.rejected("1 minute"), Fault.rejected("1 minute"), Fault.transient]
        let calls = 0
        const call = Effect.suspend(() => {
          const verdict = verdicts[calls++]
          return verdict === undefined ? Effect.succeed(calls) : Effect.fail({ [Fault.verdictOf]: verdict })
        })
        const waiting = Retry.policy({ budget: "a", backoff: everySecond, retryRejected: true })
        const fiber = yield* start(call.pipe(Retry.apply(waiting), provided(budget)))
        assert.strictEqual((yield* budget.state("a")).firstAttempts, 0)
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* budget.state("a")).firstAttempts, 0)
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 1, retries: 1, available: 0 })
        yield* TestClock.adjust("1 second")
        assert.strictEqual(yield* Fiber.join(fiber), 4)
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 1, retries: 1, available: 0 })
      }))

    it.effect("a refusal after a try that was sent takes the retry back, and not the first attempt", () =>
      Effect.gen(function*() {
        const budget = yield* strict({ ratio: 1 })
        let calls = 0
        const call = Effect.suspend(() =>
          Effect.fail(++calls === 1 ? new Busy({ n: 1 }) : { [Fault.verdictOf]: Fault.rejected() })
        )
        const fiber = yield* start(call.pipe(Retry.apply(policy), provided(budget), Effect.exit))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 1, retries: 0, available: 1 })
      }))

    it.effect("counts one first attempt at most where some were refused, at whatever step it is interrupted", () =>
      interruptEverywhere({
        arrange: Effect.gen(function*() {
          const budget = yield* strict()
          let calls = 0
          const call = Effect.suspend(() =>
            ++calls < 3 ? Effect.fail({ [Fault.verdictOf]: Fault.rejected() }) : Effect.never
          )
          const waiting = Retry.policy({ budget: "a", backoff: everySecond, retryRejected: true })
          return {
            effect: call.pipe(Retry.apply(waiting), Deadline.within("5 seconds"), provided(budget), Effect.exit),
            check: Effect.fnUntraced(function*() {
              const { firstAttempts, retries } = yield* budget.state("a")
              assert.strictEqual(retries, 0)
              // a try that had begun when the interruption came may have been sent
              assert.isAtMost(firstAttempts, 1)
              if (calls === 3) assert.strictEqual(firstAttempts, 1)
            })
          }
        })
      }))

    it.effect("a retry whose delay is interrupted is given back, by every cancel source", () =>
      everyCancelSource({
        sources: cancelSources,
        arrange: Effect.gen(function*() {
          const budget = yield* RetryBudget.make()
          const { count, effect } = failing(9)
          return {
            effect: effect.pipe(Retry.apply(policy), provided(budget)),
            check: () =>
              Effect.map(budget.state("a"), (state) => {
                assert.strictEqual(count.calls, 1)
                assert.deepStrictEqual(state, { key: "a", firstAttempts: 1, retries: 0, available: 5 })
              })
          }
        })
      }))

    it.effect("pays for exactly the retries that begin, at whatever step it is interrupted", () =>
      interruptEverywhere({
        arrange: Effect.gen(function*() {
          const budget = yield* RetryBudget.make()
          const { count, effect } = failing(3)
          const begin = (yield* Clock.currentTimeMillis) / 1_000
          return {
            effect: effect.pipe(Retry.apply(policy), provided(budget)),
            check: Effect.fnUntraced(function*() {
              const { firstAttempts, retries } = yield* budget.state("a")
              const delaysOver = Math.floor((yield* Clock.currentTimeMillis) / 1_000) - begin
              assert.isAtMost(firstAttempts, 1)
              assert.isAtLeast(retries, Math.max(0, count.calls - 1))
              assert.isAtMost(retries, delaysOver)
            })
          }
        })
      }))

    it.effect("a try that is interrupted has been paid for", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make()
        let calls = 0
        const call = Effect.suspend(() => ++calls === 1 ? Effect.fail(new Busy({ n: 1 })) : Effect.never)
        const fiber = yield* start(call.pipe(Retry.apply(policy), provided(budget)))
        yield* TestClock.adjust("1 second")
        assert.strictEqual(calls, 2)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* budget.state("a")).retries, 1)
      }))

    it.effect("as a Schedule hears of failed first attempts, and pays for each retry", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.make({ ratio: 1, minPerSecond: 0 })
        const { count, effect } = failing(9)
        const retried = effect.pipe(Effect.retry(Retry.schedule(policy)), provided(budget))
        const fiber = yield* start(retried)
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* Fiber.await(fiber), Exit.fail(new Busy({ n: 2 })))
        assert.strictEqual(count.calls, 2)
      }))

    it.effect("as a Schedule does not hear of what was refused", () =>
      Effect.gen(function*() {
        const budget = yield* RetryBudget.RetryBudget
        const waiting = Retry.policy({ budget: "a", backoff: everySecond, retryRejected: true })
        const step = yield* Schedule.toStep(Retry.schedule(waiting))
        const firstAttempts = Effect.map(budget.state("a"), (state) => state.firstAttempts)
        yield* step(0, { [Fault.verdictOf]: Fault.rejected() })
        assert.strictEqual(yield* firstAttempts, 0)
        for (const n of [1, 2]) {
          yield* step(0, new Busy({ n }))
          assert.strictEqual(yield* firstAttempts, 1)
        }
      }).pipe(Effect.provide(RetryBudget.layer())))
  })

  describe("a service of the user's own", () => {
    const own = () => {
      const log: Array<string> = []
      const budget: Service = {
        deposit: (key) =>
          Effect.sync(() => {
            log.push(`deposit ${key}`)
            return { takeBack: Effect.sync(() => log.push(`take back ${key}`)) }
          }),
        withdraw: (key) =>
          Effect.sync(() => {
            log.push(`withdraw ${key}`)
            return { giveBack: Effect.sync(() => log.push(`give back ${key}`)) }
          }),
        state: (key) => Effect.succeed({ key, firstAttempts: 0, retries: 0, available: 0 }),
        states: Effect.succeed([])
      }
      return { budget, log }
    }
    const policy = Retry.policy({ budget: "a", backoff: everySecond, maxAttempts: 3 })

    it.effect("is asked by its methods", () =>
      Effect.gen(function*() {
        const { budget, log } = own()
        const fiber = yield* start(failing(2).effect.pipe(Retry.apply(policy), provided(budget)))
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* Fiber.join(fiber), 3)
        assert.deepStrictEqual(log, ["deposit a", "withdraw a", "withdraw a"])
      }))

    it.effect("hears of the first attempt that failed, and of each retry, under a Schedule", () =>
      Effect.gen(function*() {
        const { budget, log } = own()
        const fiber = yield* start(failing(2).effect.pipe(Effect.retry(Retry.schedule(policy)), provided(budget)))
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* Fiber.join(fiber), 3)
        assert.deepStrictEqual(log, ["deposit a", "withdraw a", "withdraw a"])
      }))

    it.effect("may refuse", () =>
      Effect.gen(function*() {
        const budget: Service = { ...own().budget, withdraw: () => Effect.undefined }
        const exit = yield* failing(2).effect.pipe(Retry.apply(policy), provided(budget), Effect.exit)
        assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
      }))

    it.effect("gets back what was paid for a delay that is interrupted", () =>
      Effect.gen(function*() {
        const { budget, log } = own()
        const fiber = yield* start(failing(2).effect.pipe(Retry.apply(policy), provided(budget)))
        yield* TestClock.adjust("1500 millis")
        yield* Fiber.interrupt(fiber)
        assert.deepStrictEqual(log, ["deposit a", "withdraw a", "withdraw a", "give back a"])
      }))

    it.effect("takes back first attempts that a guard refused, where it can", () =>
      Effect.gen(function*() {
        const { budget, log } = own()
        const refused = Effect.fail({ [Fault.verdictOf]: Fault.rejected() })
        const twice = Retry.policy({ budget: "a", backoff: everySecond, retryRejected: true, maxAttempts: 2 })
        const fiber = yield* start(Effect.exit(refused.pipe(Retry.apply(twice), provided(budget))))
        yield* TestClock.adjust("1 second")
        yield* Fiber.join(fiber)
        assert.deepStrictEqual(log, ["deposit a", "take back a", "deposit a", "take back a"])

        const plain: Service = { ...budget, deposit: (key) => Effect.sync(() => void log.push(`deposit ${key}`)) }
        const exit = yield* refused.pipe(Retry.apply(policy), provided(plain), Effect.exit)
        assert.isTrue(Exit.isFailure(exit) && !Cause.hasDies(exit.cause))
        assert.deepStrictEqual(log.slice(4), ["deposit a"])
      }))

    it.effect("that replaces a method of ours is asked by that, however the copy was made", () =>
      Effect.gen(function*() {
        const inProcess = yield* RetryBudget.make()
        const empty: Pick<Service, "withdraw"> = { withdraw: () => Effect.undefined }
        const copies: ReadonlyArray<Service> = [
          { ...inProcess, ...empty },
          Object.assign(Object.create(inProcess), empty)
        ]
        for (const budget of copies) {
          const exit = yield* failing(2).effect.pipe(Retry.apply(policy), provided(budget), Effect.exit)
          assert.deepStrictEqual(exit, Exit.fail(new Busy({ n: 1 })))
        }
        assert.strictEqual((yield* inProcess.state("a")).firstAttempts, 2)
      }))
  })

  it.effect("layerNoop is never empty", () =>
    Effect.gen(function*() {
      const budget = yield* RetryBudget.RetryBudget
      yield* budget.deposit("a")
      assert.strictEqual(yield* drain(budget, "a"), 1_000)
      const withdrawal = yield* budget.withdraw("a")
      assert.isDefined(withdrawal)
      yield* withdrawal.giveBack
      assert.deepStrictEqual(yield* budget.state("a"), { key: "a", firstAttempts: 0, retries: 0, available: Infinity })
      assert.deepStrictEqual(yield* budget.states, [])
      const fiber = yield* start(Retry.apply(failing(2).effect, Retry.policy({ budget: "a", backoff: everySecond })))
      yield* TestClock.adjust("1 hour")
      assert.strictEqual(yield* Fiber.join(fiber), 3)
    }).pipe(Effect.provide(RetryBudget.layerNoop)))

  it.effect("layer refuses options that cannot work, by option and value", () =>
    Effect.gen(function*() {
      const refusal = (options: RetryBudget.Options) =>
        Effect.map(Effect.exit(Effect.provide(Effect.void, RetryBudget.layer(options))), (exit) => {
          const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
          return error instanceof Fault.InvalidConfig ? `${error.module} ${error.option} ${error.value}` : error
        })
      assert.strictEqual(yield* refusal({ ratio: 20 }), "RetryBudget ratio 20")
      assert.strictEqual(yield* refusal({ ratio: NaN }), "RetryBudget ratio NaN")
      assert.strictEqual(yield* refusal({ minPerSecond: -1 }), "RetryBudget minPerSecond -1")
      assert.strictEqual(yield* refusal({ minPerSecond: Infinity }), "RetryBudget minPerSecond Infinity")
      assert.strictEqual(yield* refusal({ window: 0 }), "RetryBudget window 0")
      assert.strictEqual(yield* refusal({ window: Duration.infinity }), "RetryBudget window Infinity")
      assert.strictEqual(yield* refusal({ maxKeys: 0 }), "RetryBudget maxKeys 0")
      assert.strictEqual(yield* refusal({ keys: { a: { ratio: -1 } } }), `RetryBudget keys["a"].ratio -1`)
    }))
})
