import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Exit, Fiber, Layer, Logger, Random, Schema, Stream } from "effect"
import {
  AdaptiveLimit,
  Backoff,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  Fallback,
  Fault,
  Hedge,
  Policy,
  Quota,
  Retry,
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
  wait: Schema.Literals(["500 millis", "5 seconds"]),
  quota: Schema.Literals(["none", "none", "requests", "tokens", "learned"]),
  quotaWait: Schema.Literals(["500 millis", "5 seconds", "1 minute"]),
  priority: Schema.Literals(["interactive", "batch"]),
  limited: Schema.Literals([0, 0, 1, 2]),
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
    "stubborn",
    "plain",
    "nested",
    "forks",
    "badFinalizer",
    "yields"
  ])
})

const Caller = Schema.Struct({
  at: upTo(4000),
  interruptedAfter: Schema.Literals([0, 0, 0, 1, 300, 700, 1800])
})

/** What somebody changes by hand in the middle. */
const Change = Schema.Struct({
  at: upTo(4000),
  what: Schema.Literals(["isolate", "release", "reset", "configure", "shrink", "grow", "close", "open"])
})

const Plan = Schema.Struct({
  setup: Setup,
  /** Every other caller comes through a second policy of the same key. */
  other: Setup,
  changes: Schema.Array(Change).check(Schema.isMaxLength(3)),
  layer: Schema.Literals(["plain", "plain", "keyedCircuit", "keyedBulkhead", "keyedQuota", "total"]),
  /** A guard that is not of this process. */
  foreign: Schema.Literals(["none", "none", "none", "circuit", "bulkhead", "quota"]),
  /** The listener, or the classifier, throws at every nth call. */
  badListener: Schema.Literals([0, 0, 0, 2, 3]),
  badClassifier: Schema.Literals([0, 0, 0, 2, 3]),
  uninterruptible: Schema.Boolean,
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

const quotaOptions = ({ priority, quota, quotaWait }: Setup): Quota.CallOptions => ({
  ...(quota === "requests" ? { requests: { limit: 30, burst: 2 } } : {}),
  ...(quota === "tokens" ? { outputTokens: { limit: 1_000, burst: 100 }, cost: { outputTokens: 40 } } : {}),
  usage: () => ({ outputTokens: 25 }),
  maxWait: quotaWait,
  ageAfter: "1 second",
  priority
})

const learned = ({ limited, queue, wait }: Setup): AdaptiveLimit.LimitOptions => ({
  initial: Math.max(1, limited),
  max: 3,
  outageAfter: 2,
  probeInterval: "300 millis",
  maxQueue: queue,
  maxWait: wait
})

const keyed = {
  circuit: { keys: { p: { trip: CircuitBreaker.consecutive(2), openFor: "700 millis" } } },
  bulkhead: { keys: { p: { maxConcurrent: 2, maxQueue: 1 } } },
  quota: { keys: { p: { requests: { limit: 60, burst: 1 } } } }
} as const

/** The guards' services; a copy of one is a stranger to the policy. */
const servicesOf = ({ foreign, layer }: typeof Plan.Type) => {
  const circuits = Effect.map(
    CircuitBreaker.make(layer === "keyedCircuit" ? keyed.circuit : {}),
    (service) => foreign === "circuit" ? { ...service } : service
  )
  const limits = layer === "keyedBulkhead" ? keyed.bulkhead : layer === "total" ? { total: 1 } : {}
  const bulkheads = Effect.map(
    Bulkhead.make(limits),
    (service) => foreign === "bulkhead" ? { ...service } : service
  )
  const quotas = Effect.map(
    Quota.make(layer === "keyedQuota" ? keyed.quota : {}),
    (service) => foreign === "quota" ? { ...service } : service
  )
  return Policy.layer.pipe(
    Layer.merge(Layer.effect(Quota.Quota, quotas)),
    Layer.merge(Layer.effect(CircuitBreaker.CircuitBreaker, circuits)),
    Layer.merge(Layer.effect(Bulkhead.Bulkhead, bulkheads)),
    Layer.provideMerge(TestClock.layer()),
    Layer.merge(Logger.layer([]))
  )
}

const template = Fallback.step("template", Effect.succeed("template"))

type Guard = (self: Effect.Effect<unknown, unknown, Services>) => Effect.Effect<unknown, unknown, Services>

type Services = Layer.Success<typeof Policy.layer>

/** The policy, as users write it. */
const fused = (setup: Setup): Guard => {
  const policy = Policy.make({
    name: "p",
    deadline: setup.deadline === "none" ? undefined : setup.deadline,
    fallback: setup.fallback ? template : undefined,
    retry: setup.attempts === 0 ? undefined : retryOptions(setup),
    quota: setup.quota === "none" ? undefined : quotaOptions(setup),
    limit: setup.limited === 0 ? undefined : learned(setup),
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
  const quota = quotaOptions(setup)
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
    if (setup.limited > 0) {
      guarded = AdaptiveLimit.withLimit(guarded, "p", learned(setup))
      if (setup.failures > 0) guarded = Effect.andThen(CircuitBreaker.check("p", circuit), guarded)
    }
    if (setup.quota !== "none") {
      guarded = Quota.withQuota(guarded, "p", quota)
      if (setup.failures > 0) guarded = Effect.andThen(CircuitBreaker.check("p", circuit), guarded)
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
const observe = (plan: typeof Plan.Type, guard: Guard, other: Guard) =>
  Effect.gen(function*() {
    const seen: Array<string> = []
    const clock = yield* Clock.Clock
    const note = (what: string) => seen.push(`${clock.currentTimeMillisUnsafe()} ${what}`)
    const everySo = (often: number, what: string) => {
      let times = 0
      return () => {
        if (often > 0 && ++times % often === 0) throw new Error(what)
      }
    }
    const listener = everySo(plan.badListener, "listener")
    const classifier = everySo(plan.badClassifier, "classifier")
    let calls = 0

    const work: Effect.Effect<unknown, unknown, Services> = Effect.suspend(() => {
      const call = calls++
      const { end, millis } = plan.tries[call % plan.tries.length] ?? { end: "success", millis: 0 }
      note(`try ${call} starts`)
      const told = (verdict: Fault.Verdict) => Effect.fail(new Told({ verdict, call }))
      const child = Effect.onExit(
        Effect.sleep(50),
        (exit) => Effect.sync(() => note(`child of ${call}: ${show(exit)}`))
      )
      const ends: Record<typeof end, Effect.Effect<unknown, unknown, Services>> = {
        success: Effect.succeed(call),
        transient: told(Fault.transient),
        overloaded: told(Fault.overloaded(400)),
        throttled: told(Fault.throttled(1200)),
        permanent: told(Fault.permanent),
        ambiguous: told(Fault.ambiguous),
        defect: Effect.die("bug"),
        interrupted: Effect.interrupt,
        stubborn: Effect.succeed(call),
        plain: Effect.fail("plain"),
        // the same policy again inside its own work
        nested: call > 40 ? Effect.succeed(call) : guard(Effect.delay(Effect.succeed(`inside ${call}`), 100)),
        forks: Effect.andThen(Effect.forkChild(child), Effect.delay(Effect.succeed(call), 20)),
        badFinalizer: Effect.onExit(Effect.delay(told(Fault.transient), 30), () => Effect.die("finalizer")),
        yields: Effect.andThen(Effect.yieldNow, Effect.succeed(call))
      }
      const timed = millis === 0 ? ends[end] : Effect.delay(ends[end], millis)
      return (end === "stubborn" ? Effect.uninterruptible(timed) : timed).pipe(
        Effect.onExit((exit) => Effect.sync(() => note(`try ${call} stops: ${show(exit)}`)))
      )
    })

    const caller = ({ at, interruptedAfter }: (typeof plan.callers)[number], index: number) =>
      Effect.gen(function*() {
        yield* Effect.sleep(at)
        const guarded = index % 2 === 0 ? guard(work) : other(work)
        const fiber = yield* Effect.forkChild(
          plan.uninterruptible && index === 0 ? Effect.uninterruptible(guarded) : guarded,
          { startImmediately: true }
        )
        fiber.addObserver((exit) => note(`caller ${index}: ${show(exit)}`))
        if (interruptedAfter > 0) yield* Effect.andThen(Effect.sleep(interruptedAfter), Fiber.interrupt(fiber))
        yield* Fiber.await(fiber)
      })

    const all = yield* Effect.forkChild(
      Effect.forEach(plan.callers, caller, { concurrency: "unbounded", discard: true }).pipe(
        Effect.provideService(Telemetry.Listener, (event) => {
          note(JSON.stringify(event))
          listener()
        }),
        Effect.provideService(Fault.Classifier, () => {
          classifier()
          return undefined
        })
      )
    )
    const circuit = yield* CircuitBreaker.CircuitBreaker
    const bulkhead = yield* Bulkhead.Bulkhead
    const holds: Array<CircuitBreaker.Hold> = []
    const change = ({ at, what }: typeof Change.Type) => {
      const changes: Record<typeof what, Effect.Effect<unknown>> = {
        isolate: Effect.tap(circuit.isolate("p"), (hold) => Effect.sync(() => holds.push(hold))),
        release: Effect.suspend(() => holds.pop()?.release ?? Effect.void),
        reset: circuit.reset("p"),
        configure: circuit.configure({ trip: CircuitBreaker.consecutive(1), openFor: "3 seconds" }),
        shrink: bulkhead.resize("p", 1),
        grow: bulkhead.resize("p", 5),
        close: Effect.timeoutOption(bulkhead.close("p"), "1 second"),
        open: bulkhead.open("p")
      }
      return Effect.andThen(Effect.sleep(at), Effect.andThen(Effect.sync(() => note(what)), changes[what]))
    }
    yield* Effect.forkChild(Effect.forEach(plan.changes, change, { concurrency: "unbounded", discard: true }))
    yield* circuit.transitions.pipe(
      Stream.runForEach((transition) => Effect.sync(() => note(`transition ${JSON.stringify(transition)}`))),
      Effect.forkScoped({ startImmediately: true })
    )
    for (let step = 0; step < 200 && all.pollUnsafe() === undefined; step++) yield* TestClock.adjust("10 seconds")
    assert.isDefined(all.pollUnsafe(), "every call ends")

    const left = yield* bulkhead.state("p")
    assert.strictEqual(left.running + left.waiting, 0, "no slot leaks")
    const { running, waiting } = yield* Quota.state("p")
    assert.strictEqual(running + waiting, 0, "no reserved cost leaks")
    const limit = yield* AdaptiveLimit.AdaptiveLimit.use((service) => service.state("p"))
    assert.strictEqual(limit.running + limit.waiting, 0, "no slot of the learned limit leaks")
    yield* Effect.forEach(holds, ({ release }) => release)
    const state = yield* circuit.state("p")
    assert.isFalse(state._tag === "HalfOpen" && state.probes > 0, "no probe leaks")
    note(JSON.stringify([yield* circuit.state("p"), left, limit]))
    return seen
  }).pipe(
    Effect.scoped,
    Effect.provide(servicesOf(plan)),
    Random.withSeed(plan.seed)
  )

describe("Policy", () => {
  const seen = new Set<string>()
  it.effect.prop(
    "the fused policy and the separate parts agree on results, errors, events and virtual timings",
    { plan: Plan },
    ({ plan }) =>
      Effect.gen(function*() {
        const one = yield* observe(plan, fused(plan.setup), fused(plan.other))
        const other = yield* observe(plan, parts(plan.setup), parts(plan.other))
        for (const line of one) seen.add(/"_tag":"(\w+)"|(interrupt|die)/.exec(line)?.[0] ?? "")
        assert.deepStrictEqual(one, other)
      }),
    { arbitrary: { runs: runs(500, 10_000), seed: 1 }, timeout: 600_000 }
  )

  it("the plans reach every guard", () => {
    const quota = ["QuotaWaited", "QuotaRejected", "QuotaGated"]
    const tags = [...quota, "RetryScheduled", "RetryGaveUp", "CircuitChanged", "CircuitRejected", "BulkheadWaited"]
    const more = ["BulkheadRejected", "AttemptTimedOut", "DeadlineExceeded", "HedgeStarted", "HedgeWon", "FallbackUsed"]
    const learned = ["LimitChanged", "LimitWaited", "LimitRejected", "OutageBegan", "OutageEnded"]
    for (const tag of [...tags, ...more, ...learned]) assert.include([...seen], `"_tag":"${tag}"`)
    assert.includeMembers([...seen], ["interrupt", "die"])
  })
})
