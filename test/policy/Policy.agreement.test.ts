import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Random, Schema } from "effect"
import {
  Backoff,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  Fallback,
  Fault,
  Hedge,
  Policy,
  Retry,
  type RetryBudget,
  Telemetry
} from "effect-resilience"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

class Told extends Schema.TaggedError<Told>("test/Told")("Told", { verdict: Fault.Verdict, call: Schema.Finite }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const upTo = (maximum: number) => Schema.Int.check(Schema.isBetween({ minimum: 0, maximum }))

const Setup = Schema.Struct({
  deadline: Schema.Literals(["none", "2500 millis", "9 seconds"]),
  fallback: Schema.Boolean,
  attempts: Schema.Literals([0, 1, 2, 4]),
  backoff: Schema.Literals(["constant", "jitter"]),
  budget: Schema.Boolean,
  rejected: Schema.Boolean,
  concurrent: Schema.Literals([0, 1, 2, 3]),
  queue: Schema.Literals([0, 1, 10]),
  wait: Schema.Literals(["500 millis", "1 minute"]),
  failures: Schema.Literals([0, 1, 2, 3]),
  permits: Schema.Literals([1, 2]),
  hedge: Schema.Literals(["none", "300 millis"]),
  timeout: Schema.Literals(["none", "700 millis", "2 seconds"])
})

/** How one try of the work goes. */
const Try = Schema.Struct({
  millis: Schema.Literals([0, 0, 1, 100, 300, 700, 1500, 60_000]),
  end: Schema.Literals([
    "success",
    "success",
    "success",
    "transient",
    "transient",
    "overloaded",
    "throttled",
    "permanent",
    "ambiguous",
    "defect",
    "interrupted",
    "stubborn"
  ])
})

const Caller = Schema.Struct({
  at: upTo(4000),
  interruptedAfter: Schema.Literals([0, 0, 0, 1, 300, 700, 1800])
})

const Plan = Schema.Struct({
  setup: Setup,
  tries: Schema.Array(Try).check(Schema.isMinLength(1), Schema.isMaxLength(25)),
  callers: Schema.Array(Caller).check(Schema.isMinLength(1), Schema.isMaxLength(8)),
  seed: upTo(1_000_000)
})

type Setup = typeof Setup.Type

const retryOptions = ({ attempts, backoff, budget, rejected }: Setup): Retry.Options => ({
  name: "p",
  maxAttempts: Math.max(1, attempts),
  backoff: backoff === "constant"
    ? Backoff.constant({ delay: "250 millis", cap: "5 seconds" })
    : Backoff.fullJitter({ base: "200 millis", cap: "5 seconds" }),
  retryRejected: rejected,
  ...(budget ? { budget: "p" } : {})
})

const circuitOptions = ({ failures, permits }: Setup): CircuitBreaker.CircuitOptions => ({
  trip: CircuitBreaker.consecutive(Math.max(1, failures)),
  openFor: "1 second",
  halfOpenPermits: permits
})

const limits = ({ concurrent, queue, wait }: Setup): Bulkhead.LimitOptions => ({
  maxConcurrent: Math.max(1, concurrent),
  maxQueue: queue,
  maxWait: wait
})

const template = Fallback.step("template", Effect.succeed("template"))

type Guard = (self: Effect.Effect<unknown, unknown>) => Effect.Effect<unknown, unknown, Services>

type Services = CircuitBreaker.CircuitBreaker | Bulkhead.Bulkhead | RetryBudget.RetryBudget | Hedge.Latencies

/** The policy, as users write it. */
const fused = (setup: Setup): Guard => {
  const policy = Policy.make({
    name: "p",
    deadline: setup.deadline === "none" ? undefined : setup.deadline,
    fallback: setup.fallback ? template : undefined,
    retry: setup.attempts === 0 ? undefined : retryOptions(setup),
    bulkhead: setup.concurrent === 0 ? undefined : limits(setup),
    circuit: setup.failures === 0 ? undefined : circuitOptions(setup),
    hedge: setup.hedge === "none" ? undefined : { delay: setup.hedge, idempotent: true },
    timeout: setup.timeout === "none" ? undefined : setup.timeout
  })
  return (self) => Policy.apply(self, policy)
}

/** The same from the parts, each by itself, in the order of the design. */
const parts = (setup: Setup): Guard => {
  const circuit = circuitOptions(setup)
  const attempt = setup.timeout === "none" ? undefined : Deadline.attempt(setup.timeout, { name: "p" })
  const hedge = setup.hedge === "none"
    ? undefined
    : Hedge.policy({ name: "p", delay: setup.hedge, idempotent: true })
  const retry = Retry.policy(retryOptions(setup))
  const within = setup.deadline === "none" ? undefined : Deadline.within(setup.deadline, { name: "p" })
  return (self) => {
    let guarded: Effect.Effect<unknown, unknown, Services> = self
    if (attempt !== undefined) guarded = attempt(guarded)
    if (hedge !== undefined) guarded = Hedge.apply(guarded, hedge)
    if (setup.failures > 0) guarded = CircuitBreaker.protect(guarded, "p", circuit)
    if (setup.concurrent > 0) guarded = Bulkhead.limit(guarded, "p", limits(setup))
    if (setup.failures > 0 && setup.concurrent > 0) {
      guarded = Effect.andThen(CircuitBreaker.check("p", circuit), guarded)
    }
    if (setup.attempts > 0) guarded = Retry.apply(guarded, retry)
    if (setup.fallback) guarded = Fallback.chain(Fallback.step("primary", guarded), template)
    return within === undefined ? guarded : within(guarded)
  }
}

const show = (exit: Exit.Exit<unknown, unknown>): string =>
  Exit.match(exit, {
    onSuccess: (value) => `success ${JSON.stringify(value)}`,
    onFailure: (cause) =>
      cause.reasons.map((reason) => {
        switch (reason._tag) {
          case "Fail":
            return `fail ${String(reason.error)} ${JSON.stringify(reason.error)}`
          case "Die":
            return `die ${String(reason.defect)}`
          case "Interrupt":
            return "interrupt"
        }
      }).join(" + ")
  })

/** Everything that can be seen of a plan from outside: what happened, when, and how it ended. */
const observe = (plan: typeof Plan.Type, guard: Guard) =>
  Effect.gen(function*() {
    const seen: Array<string> = []
    const clock = yield* Clock.Clock
    const note = (what: string) => seen.push(`${clock.currentTimeMillisUnsafe()} ${what}`)
    let calls = 0

    const work = Effect.suspend(() => {
      const call = calls++
      const { end, millis } = plan.tries[call % plan.tries.length] ?? { end: "success", millis: 0 }
      note(`try ${call} starts`)
      const told = (verdict: Fault.Verdict) => Effect.fail(new Told({ verdict, call }))
      const ends: Record<typeof end, Effect.Effect<number, Told>> = {
        success: Effect.succeed(call),
        transient: told(Fault.transient),
        overloaded: told(Fault.overloaded(400)),
        throttled: told(Fault.throttled(1200)),
        permanent: told(Fault.permanent),
        ambiguous: told(Fault.ambiguous),
        defect: Effect.die("bug"),
        interrupted: Effect.interrupt,
        stubborn: Effect.succeed(call)
      }
      const timed = millis === 0 ? ends[end] : Effect.delay(ends[end], millis)
      return (end === "stubborn" ? Effect.uninterruptible(timed) : timed).pipe(
        Effect.onExit((exit) => Effect.sync(() => note(`try ${call} stops: ${show(exit)}`)))
      )
    })

    const caller = ({ at, interruptedAfter }: (typeof plan.callers)[number], index: number) =>
      Effect.gen(function*() {
        yield* Effect.sleep(at)
        const fiber = yield* Effect.forkChild(guard(work), { startImmediately: true })
        fiber.addObserver((exit) => note(`caller ${index}: ${show(exit)}`))
        if (interruptedAfter > 0) yield* Effect.andThen(Effect.sleep(interruptedAfter), Fiber.interrupt(fiber))
        yield* Fiber.await(fiber)
      })

    const all = yield* Effect.forkChild(
      Effect.forEach(plan.callers, caller, { concurrency: "unbounded", discard: true }).pipe(
        Effect.provideService(Telemetry.Listener, (event) => note(JSON.stringify(event)))
      )
    )
    for (let step = 0; step < 60 && all.pollUnsafe() === undefined; step++) yield* TestClock.adjust("10 seconds")
    assert.isDefined(all.pollUnsafe(), "every call ends")

    const circuit = yield* CircuitBreaker.CircuitBreaker
    const bulkhead = yield* Bulkhead.Bulkhead
    const left = yield* bulkhead.state("p")
    assert.strictEqual(left.running + left.waiting, 0, "no slot leaks")
    note(JSON.stringify([yield* circuit.state("p"), left]))
    return seen
  }).pipe(
    Effect.scoped,
    Effect.provide(Policy.layer.pipe(Layer.provideMerge(TestClock.layer()))),
    Random.withSeed(plan.seed)
  )

describe("Policy", () => {
  const seen = new Set<string>()
  it.effect.prop(
    "the fused policy and the separate parts agree on results, errors, events and virtual timings",
    { plan: Plan },
    ({ plan }) =>
      Effect.gen(function*() {
        const one = yield* observe(plan, fused(plan.setup))
        const other = yield* observe(plan, parts(plan.setup))
        for (const line of one) seen.add(/"_tag":"(\w+)"|(interrupt|die)/.exec(line)?.[0] ?? "")
        assert.deepStrictEqual(one, other)
      }),
    { arbitrary: { runs: runs(300, 10_000) }, timeout: 600_000 }
  )

  it("the plans reach every guard", () => {
    const tags = ["RetryScheduled", "RetryGaveUp", "CircuitChanged", "CircuitRejected", "BulkheadWaited"]
    const more = ["BulkheadRejected", "AttemptTimedOut", "DeadlineExceeded", "HedgeStarted", "HedgeWon", "FallbackUsed"]
    for (const tag of [...tags, ...more]) assert.include([...seen], `"_tag":"${tag}"`)
    assert.includeMembers([...seen], ["interrupt", "die"])
  })
})
