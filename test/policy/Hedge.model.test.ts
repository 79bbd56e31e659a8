import { assert, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Fiber, Layer, Logger, Schema } from "effect"
import { Fault, Hedge, RetryBudget, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import * as deadline from "../../src/policy/internal/deadline.ts"
import * as latencies from "../../src/policy/internal/hedgeLatencies.ts"
import { runs } from "../support/runs.ts"

class Told extends Schema.TaggedError<Told>()("Told", { attempt: Schema.Finite, verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Attempt = Schema.Struct({
  /** In units of time; 0 ends at once. */
  lasts: Schema.Literals([0, 1, 2, 3, 5, 8]),
  end: Schema.Literals([
    "success",
    "transient",
    "transient",
    "limited",
    "timedOut",
    "permanent",
    "defect",
    "interrupt"
  ]),
  retryAfter: upTo(4),
  cleansUpFor: Schema.Literals([0, 0, 2]),
  mayBeInterrupted: Schema.Literals([true, true, true, false])
})

const Call = Schema.Struct({
  attempts: Schema.Array(Attempt).check(Schema.isMinLength(4), Schema.isMaxLength(4)),
  maxAttempts: Schema.Literals([1, 2, 2, 3, 4]),
  delay: Schema.Literals([0, 1, 2, 4, 999, -1]),
  delayFrom: Schema.Literals(["policy", "engine", "methods"]),
  budget: Schema.Literals([-1, -1, 0, 1, 2]),
  budgetFrom: Schema.Literals(["engine", "methods"]),
  deadline: Schema.Literals([-1, -1, 0, 1, 3, 6]),
  interruptAt: Schema.Literals([-1, -1, 0, 1, 2, 4, 7])
})

type Call = typeof Call.Type

/**
 * Every kind of time has bits of its own, so that no two things happen at the same time by chance: what happens first at
 * one tick is the clock's business.
 */
const unit = 100_000
const lastsOf = (attempt: number, units: number) => units === 0 ? 0 : units * unit + 2 ** attempt
const retryAfterOf = (attempt: number, units: number) => units === 0 ? 0 : units * unit + 2 ** (attempt + 4)
const cleanUpOf = (attempt: number, units: number) => units === 0 ? 0 : units * unit + 2 ** (attempt + 8)
const deadlineOf = (units: number) => units < 0 ? Infinity : units * unit + 2 ** 12
const interruptOf = (units: number) => units < 0 ? Infinity : units * unit + 2 ** 13
const delayOf = (units: number) => units === 999 ? Infinity : units < 0 ? undefined : units * unit

const verdictOf = (call: Call, index: number): Fault.Verdict => {
  const attempt = call.attempts[index]
  switch (attempt?.end) {
    case "limited":
      return Fault.throttled(retryAfterOf(index, attempt.retryAfter))
    case "timedOut":
      return Fault.timedOut
    case "permanent":
      return Fault.permanent
    default:
      return Fault.transient
  }
}

type Ending = "success" | "failure" | "defect" | "interrupted"

interface Story {
  /** When each attempt started, and when it ended or was told to. */
  readonly attempts: ReadonlyArray<{ readonly start: number; readonly end: number; readonly interrupted: boolean }>
  readonly ending: Ending
  /** Whose value, error or defect the caller sees, the first being 0. */
  readonly from: number | undefined
  readonly at: number
  /** Which attempts died while they were stopped. */
  readonly died: ReadonlyArray<number>
  readonly events: ReadonlyArray<string>
  readonly learned: ReadonlyArray<number>
}

/** A hedged call as one would tell it, from one event to the next. */
const model = (call: Call): Story => {
  // what is known to be slow is a duration of at least nothing; the policy's own is never unknown
  const delay = delayOf(call.delay) ?? (call.delayFrom === "policy" ? Infinity : undefined)
  const until = deadlineOf(call.deadline)
  const interruptAt = interruptOf(call.interruptAt)
  const attempts: Array<{ start: number; end: number; interrupted: boolean }> = []
  const running = new Map<number, number>()
  const events: Array<string> = []
  const learned: Array<number> = []
  let tokens = call.budget < 0 ? Infinity : call.budget
  let now = 0
  let due = Infinity
  let slowAt = Infinity
  let notBefore = 0
  let closed = false
  let lastSkipped = ""
  const result: { decided: { readonly ending: Ending; readonly from: number } | undefined } = { decided: undefined }

  const skip = (reason: string) => {
    if (lastSkipped !== reason) events.push(`skipped ${reason}`)
    lastSkipped = reason
  }
  const learnAtLeast = (millis: number) => {
    if (millis >= (delay ?? 0)) learned.push(millis)
  }
  const decide = (ending: Ending, from: number) => {
    result.decided = { ending, from }
    for (const [index] of running) learnAtLeast(now - (attempts[index]?.start ?? 0))
    if (ending === "success" && from > 0) events.push(`won ${from + 1}`)
  }
  const nobodyLeft = () => {
    if (running.size === 0 && result.decided === undefined) decide(failureOf(0), 0)
  }
  const failureOf = (index: number): Ending => call.attempts[index]?.end === "success" ? "success" : "failure"
  const planFor = (at: number) => {
    due = Infinity
    if (at === Infinity) return
    if (at - now >= until - now || now >= until) skip("Deadline")
    else due = at
  }
  const another = () => {
    due = Infinity
    if (now >= until || tokens < 1) {
      closed = true
      skip(now >= until ? "Deadline" : "BudgetEmpty")
      return nobodyLeft()
    }
    tokens--
    start()
  }
  const start = () => {
    const index = attempts.length
    due = Infinity
    slowAt = now + (delay ?? Infinity)
    attempts.push({ start: now, end: now, interrupted: false })
    if (index > 0) events.push(`started ${index + 1} after ${now}`)
    const lasts = lastsOf(index, call.attempts[index]?.lasts ?? 0)
    running.set(index, now + lasts)
    if (lasts === 0) return end(index)
    if (closed || attempts.length >= call.maxAttempts) return
    if (delay === undefined) return skip("TooFewSamples")
    const at = Math.max(now + delay, notBefore)
    if (at <= now) another()
    else planFor(at)
  }
  const end = (index: number) => {
    running.delete(index)
    const attempt = attempts[index]
    if (attempt !== undefined) attempt.end = now
    const lasted = now - (attempt?.start ?? 0)
    const how = call.attempts[index]?.end
    if (how === "success") learned.push(lasted)
    if (how === "success" || how === "defect") return decide(how, index)
    if (how === "interrupt") return decide("interrupted", index)
    const verdict = verdictOf(call, index)
    if (how === "timedOut") learnAtLeast(lasted)
    if (how === "permanent") closed = true
    const asked = Fault.retryAfter(verdict)
    if (asked !== undefined) notBefore = Math.max(notBefore, now + Duration.toMillis(asked))
    if (closed || attempts.length >= call.maxAttempts) due = Infinity
    else if (notBefore <= now) return another()
    else if (running.size > 0) planFor(Math.max(slowAt, notBefore))
    else due = Infinity
    nobodyLeft()
  }

  const died: Array<number> = []
  const stopAll = () => {
    let last = now
    for (const [index, endsBy] of running) {
      const { cleansUpFor = 0, mayBeInterrupted = true } = call.attempts[index] ?? {}
      const attempt = attempts[index]
      if (attempt === undefined) continue
      attempt.interrupted = mayBeInterrupted
      attempt.end = mayBeInterrupted ? now : endsBy
      if (!mayBeInterrupted && call.attempts[index]?.end === "defect") died.push(index)
      last = Math.max(last, mayBeInterrupted ? now + cleanUpOf(index, cleansUpFor) : endsBy)
    }
    died.sort((a, b) => (attempts[a]?.end ?? 0) - (attempts[b]?.end ?? 0))
    return last
  }

  start()
  while (result.decided === undefined) {
    const [index, at] = [...running].reduce((a, b) => b[1] < a[1] ? b : a, [-1, Infinity])
    now = Math.min(at, due, interruptAt)
    if (now === interruptAt) {
      return { attempts, ending: "interrupted", from: undefined, at: stopAll(), died, events, learned }
    }
    if (now === due) another()
    else end(index)
  }
  const { ending, from } = result.decided
  const seen = stopAll()
  return interruptAt < seen
    ? { attempts, ending: "interrupted", from: undefined, at: seen, died, events, learned }
    : { attempts, ending, from: ending === "interrupted" ? undefined : from, at: seen, died, events, learned }
}

const name = "call"

const defectsIn = (cause: Cause.Cause<unknown>): ReadonlyArray<number> =>
  cause.reasons.filter(Cause.isDieReason).map(({ defect }) => Number(defect))

const told = (event: Telemetry.Event): string => {
  switch (event._tag) {
    case "HedgeStarted":
      return `started ${event.attempt} after ${event.afterMillis}`
    case "HedgeWon":
      return `won ${event.attempt}`
    case "HedgeSkipped":
      return `skipped ${event.reason}`
    default:
      return event._tag
  }
}

/** Latencies that know one delay and remember everything, with an engine or without. */
const latenciesOf = (call: Call, learned: Array<number>): Layer.Layer<Hedge.Latencies> => {
  const known = delayOf(call.delay)
  const delay = Effect.succeed(known === undefined ? undefined : Duration.millis(known))
  const record = (_name: string, _settings: Hedge.Percentile, latency: Duration.Duration) =>
    Effect.sync(() => void learned.push(Duration.toMillis(latency)))
  const service = Hedge.Latencies.of({ delay: () => delay, record })
  const engine: latencies.Engine = {
    delay: () => known,
    record: (_name, _settings, millis) => void learned.push(millis)
  }
  return Layer.succeed(
    Hedge.Latencies,
    call.delayFrom === "methods" ? service : latencies.withEngine(service, engine)
  )
}

const budgetOf = (call: Call): Layer.Layer<RetryBudget.RetryBudget> => {
  const engined = RetryBudget.layer({ ratio: 0, window: "10000 days", minPerSecond: Math.max(0, call.budget) / 864e6 })
  if (call.budgetFrom === "engine") return engined
  // spread into a plain object it has no engine, and is asked by its methods
  return Layer.effect(
    RetryBudget.RetryBudget,
    Effect.map(
      Effect.service(RetryBudget.RetryBudget),
      ({ deposit, state, states, withdraw }) => ({ deposit, state, states, withdraw })
    )
  ).pipe(Layer.provide(engined))
}

/** The same call for real. */
const run = Effect.fnUntraced(function*(call: Call) {
  const attempts: Array<{ start: number; end: number; interrupted: boolean }> = []
  const events: Array<string> = []
  const learned: Array<number> = []
  const logged: Array<number> = []
  let running = 0

  const work = Effect.suspend(() => {
    const index = attempts.length
    const { cleansUpFor = 0, end = "success", lasts = 0, mayBeInterrupted = true } = call.attempts[index] ?? {}
    const attempt = { start: 0, end: 0, interrupted: false }
    attempts.push(attempt)
    const ends = {
      success: Effect.succeed(index),
      defect: Effect.die(index),
      interrupt: Effect.interrupt,
      failure: Effect.suspend(() => Effect.fail(new Told({ attempt: index, verdict: verdictOf(call, index) })))
    }
    const ending: Effect.Effect<number, Told> = end === "success" || end === "defect" || end === "interrupt"
      ? ends[end]
      : ends.failure
    const millis = lastsOf(index, lasts)
    const sleep = millis === 0 ? Effect.void : Effect.sleep(millis)
    const now = Clock.currentTimeMillis
    const body = Effect.map(now, (start) => (attempt.start = start)).pipe(
      Effect.andThen(sleep),
      Effect.onExit((exit) =>
        Effect.flatMap(now, (at) => {
          attempt.end = at
          attempt.interrupted = Exit.hasInterrupts(exit)
          const cleanUp = cleanUpOf(index, cleansUpFor)
          return attempt.interrupted && cleanUp > 0 ? Effect.sleep(cleanUp) : Effect.void
        })
      ),
      Effect.andThen(ending),
      mayBeInterrupted ? Effect.interruptible : Effect.uninterruptible
    )
    return Effect.acquireUseRelease(Effect.sync(() => running++), () => body, () => Effect.sync(() => running--))
  })

  const options = { name, maxAttempts: call.maxAttempts, idempotent: true }
  const delay: Duration.Input | Hedge.Percentile = call.delayFrom === "policy"
    ? delayOf(call.delay) ?? Infinity
    : Hedge.percentile()
  const policy = call.budget < 0
    ? Hedge.policy({ ...options, delay })
    : Hedge.policy({ ...options, delay, budget: name })

  let seenAt = -1
  const hedged = work.pipe(
    Hedge.apply(policy),
    Effect.onExit(() => Effect.map(Clock.currentTimeMillis, (at) => void (seenAt = at))),
    Effect.provideService(Telemetry.Listener, (event) => void events.push(told(event))),
    Effect.provideService(deadline.Current, call.deadline < 0 ? undefined : deadlineOf(call.deadline)),
    Effect.provide(Layer.merge(latenciesOf(call, learned), budgetOf(call))),
    Effect.provide(Logger.layer([Logger.make(({ cause }) => void logged.push(...defectsIn(cause)))]))
  )
  const fiber = yield* Effect.forkChild(hedged, { startImmediately: true })
  if (call.interruptAt >= 0) {
    yield* TestClock.adjust(interruptOf(call.interruptAt))
    yield* Effect.forkChild(Fiber.interrupt(fiber), { startImmediately: true })
  }
  yield* TestClock.adjust("10 hours")
  const exit = yield* Fiber.await(fiber)
  assert.strictEqual(running, 0)

  const outcome = (): Pick<Story, "ending" | "from"> => {
    if (Exit.isSuccess(exit)) return { ending: "success", from: exit.value }
    if (Cause.hasInterrupts(exit.cause)) return { ending: "interrupted", from: undefined }
    const failed = exit.cause.reasons.find(Cause.isFailReason)
    if (failed !== undefined) return { ending: "failure", from: failed.error.attempt }
    return { ending: "defect", from: defectsIn(exit.cause)[0] }
  }
  const result = outcome()
  const died = Exit.isSuccess(exit) ? logged : defectsIn(exit.cause).slice(result.ending === "defect" ? 1 : 0)
  const story: Story = { attempts, ...result, at: seenAt, died, events, learned }
  return story
})

it.effect.prop(
  "behaves like its model under random latencies, outcomes, delays, budgets, deadlines and interruptions",
  { call: Call },
  ({ call }) =>
    Effect.gen(function*() {
      const expected = model(call)
      const actual = yield* run(call)
      const learned = call.delayFrom === "policy" ? [] : expected.learned
      assert.deepStrictEqual(actual, { ...expected, learned }, JSON.stringify({ actual, expected }))
    }).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(500, 20_000), seed: 1 }, timeout: runs(30_000, 600_000) }
)
