import { Effect, type Layer, type Scope, type Stream } from "effect"
import {
  type AdaptiveLimit,
  type Bulkhead,
  type CircuitBreaker,
  type Deadline,
  Fallback,
  Fault,
  Hedge,
  Policy,
  type Quota,
  Retry,
  type RetryBudget
} from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const call: Effect.Effect<number, "down", Scope.Scope>
declare const anyOptions: Policy.StreamOptions

describe("Policy", () => {
  it("without guards adds nothing", () => {
    expect(Policy.make({ name: "p" })).type.toBe<Policy.Policy>()
    expect(call.pipe(Policy.apply(Policy.make({ name: "p" })))).type.toBe<typeof call>()
    expect(Policy.apply(call, Policy.make({ name: "p" }))).type.toBe<typeof call>()
  })

  it("adds the error of a guard exactly when it has that guard", () => {
    expect(call.pipe(Policy.apply(Policy.make({ name: "p", circuit: {} })))).type.toBe<
      Effect.Effect<number, "down" | CircuitBreaker.CircuitOpen, Scope.Scope | CircuitBreaker.CircuitBreaker>
    >()
    expect(call.pipe(Policy.apply(Policy.make({ name: "p", bulkhead: { maxConcurrent: 3 } })))).type.toBe<
      Effect.Effect<number, "down" | Bulkhead.BulkheadFull, Scope.Scope | Bulkhead.Bulkhead>
    >()
    expect(call.pipe(Policy.apply(Policy.make({ name: "p", quota: { requests: 50 } })))).type.toBe<
      Effect.Effect<number, "down" | Quota.QuotaExceeded, Scope.Scope | Quota.Quota>
    >()
    expect(call.pipe(Policy.apply(Policy.make({ name: "p", limit: { max: 3 } })))).type.toBe<
      Effect.Effect<number, "down" | AdaptiveLimit.LimitExceeded, Scope.Scope | AdaptiveLimit.AdaptiveLimit>
    >()
    expect(call.pipe(Policy.apply(Policy.make({ name: "p", timeout: "1 second" })))).type.toBe<
      Effect.Effect<number, "down" | Deadline.AttemptTimeout, Scope.Scope>
    >()
    expect(call.pipe(Policy.apply(Policy.make({ name: "p", deadline: "1 second" })))).type.toBe<
      Effect.Effect<number, "down" | Deadline.DeadlineExceeded, Scope.Scope>
    >()
  })

  it("has all of them with the whole stack", () => {
    const all = Policy.make({
      name: "p",
      deadline: "1 minute",
      retry: { maxAttempts: 3 },
      limit: {},
      bulkhead: {},
      circuit: { failures: 5, openFor: "60 seconds", successes: 2 },
      timeout: "1 second"
    })
    expect(all).type.toBe<
      Policy.Policy<
        | Deadline.DeadlineExceeded
        | AdaptiveLimit.LimitExceeded
        | Bulkhead.BulkheadFull
        | CircuitBreaker.CircuitOpen
        | Deadline.AttemptTimeout,
        AdaptiveLimit.AdaptiveLimit | Bulkhead.Bulkhead | CircuitBreaker.CircuitBreaker
      >
    >()
    expect(Policy.keyed(all, "tenant")).type.toBe<typeof all>()
  })

  it("retry and hedge add no error, and the services that their options ask for", () => {
    expect(Policy.make({ name: "p", retry: {} })).type.toBe<Policy.Policy>()
    expect(Policy.make({ name: "p", retry: { budget: "b" } })).type.toBe<
      Policy.Policy<never, RetryBudget.RetryBudget>
    >()
    expect(Policy.make({ name: "p", retry: Retry.policy({ maxAttempts: 3 }) })).type.toBe<Policy.Policy>()
    expect(Policy.make({ name: "p", retry: Retry.policy({ budget: "b" }) })).type.toBe<
      Policy.Policy<never, RetryBudget.RetryBudget>
    >()
    expect(Policy.make({ name: "p", hedge: { delay: "1 second" } })).type.toBe<Policy.Policy>()
    expect(Policy.make({ name: "p", hedge: { delay: Hedge.percentile() } })).type.toBe<
      Policy.Policy<never, Hedge.Latencies>
    >()
    expect(Policy.make({ name: "p", hedge: { delay: Hedge.percentile(), budget: "b" } })).type.toBe<
      Policy.Policy<never, Hedge.Latencies | RetryBudget.RetryBudget>
    >()
    expect(Policy.make({ name: "p", hedge: Hedge.policy({ delay: "1 second", budget: "b" }) })).type.toBe<
      Policy.Policy<never, RetryBudget.RetryBudget>
    >()
  })

  it("options that may be there count as there", () => {
    const options = (circuit: Policy.CircuitOptions | undefined) => Policy.make({ name: "p", circuit })
    expect(options).type.toBe<
      (
        circuit: Policy.CircuitOptions | undefined
      ) => Policy.Policy<CircuitBreaker.CircuitOpen, CircuitBreaker.CircuitBreaker>
    >()
    expect(Policy.make({ name: "p", circuit: undefined })).type.toBe<Policy.Policy>()
  })

  it("a fallback turns the result into an Answer, and takes its errors away but for the deadline's", () => {
    const policy = Policy.make({
      name: "p",
      deadline: "1 minute",
      circuit: {},
      timeout: "1 second",
      fallback: [
        Fallback.step("smaller", Effect.fail("also down" as const)),
        Fallback.step("template", Effect.succeed("standard"), { takes: "all" })
      ]
    })
    expect(call.pipe(Policy.apply(policy))).type.toBe<
      Effect.Effect<
        Fallback.Answer<number | string, "primary" | "smaller" | "template">,
        Deadline.DeadlineExceeded,
        Scope.Scope | CircuitBreaker.CircuitBreaker
      >
    >()
    const one = Policy.make({ name: "p", fallback: Fallback.step("template", Effect.succeed("standard")) })
    const known = Effect.andThen(Effect.fail({ [Fault.verdictOf]: Fault.transient }), Effect.succeed(1))
    expect(known.pipe(Policy.apply(one))).type.toBe<
      Effect.Effect<Fallback.Answer<number | string, "primary" | "template">>
    >()
  })

  it("options that are not one exact literal add what any of them may add", () => {
    const wide = (options: Omit<Policy.Options, "name">) => Policy.make({ name: "p", ...options })
    expect(wide).type.toBe<
      (options: Omit<Policy.Options, "name">) => Policy.Policy<
        | Deadline.DeadlineExceeded
        | Quota.QuotaExceeded
        | AdaptiveLimit.LimitExceeded
        | Bulkhead.BulkheadFull
        | CircuitBreaker.CircuitOpen
        | Deadline.AttemptTimeout,
        | Quota.Quota
        | AdaptiveLimit.AdaptiveLimit
        | Bulkhead.Bulkhead
        | CircuitBreaker.CircuitBreaker
        | RetryBudget.RetryBudget
        | Hedge.Latencies,
        readonly [] | readonly [Fallback.Step] | readonly [Fallback.Step, ...Array<Fallback.Step>]
      >
    >()
    const either = (options: { name: string; circuit: object } | { name: string; timeout: "1 second" }) =>
      Policy.make(options)
    expect(either).type.toBe<
      (options: { name: string; circuit: object } | { name: string; timeout: "1 second" }) => Policy.Policy<
        CircuitBreaker.CircuitOpen | Deadline.AttemptTimeout,
        CircuitBreaker.CircuitBreaker
      >
    >()
    const any: Retry.Policy<unknown> = Retry.policy()
    expect(Policy.make({ name: "p", retry: any })).type.toBe<Policy.Policy<never, RetryBudget.RetryBudget>>()
  })

  it("a fallback that may be there gives an answer or the plain result", () => {
    type Template = Fallback.Step<"template", string, never, never, "all">
    const maybe = (options: { readonly name: string; readonly fallback?: Template }) =>
      call.pipe(Policy.apply(Policy.make(options)))
    expect(maybe).type.toBe<
      (options: { readonly name: string; readonly fallback?: Template }) =>
        | Effect.Effect<number, "down", Scope.Scope>
        | Effect.Effect<Fallback.Answer<number | string, "primary" | "template">, never, Scope.Scope>
    >()
  })

  it("one of two policies adds what either may add", () => {
    const one = (flag: boolean) =>
      Policy.apply(
        call,
        flag ? Policy.make({ name: "p", circuit: {} }) : Policy.make({ name: "p", timeout: "1 second" })
      )
    expect(one).type.toBe<
      (flag: boolean) =>
        | Effect.Effect<number, "down" | CircuitBreaker.CircuitOpen, Scope.Scope | CircuitBreaker.CircuitBreaker>
        | Effect.Effect<number, "down" | Deadline.AttemptTimeout, Scope.Scope>
    >()
  })

  it("fits helpers that are generic in the effect", () => {
    const policy = Policy.make({ name: "p", timeout: "1 second" })
    const guard: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Deadline.AttemptTimeout, R> = (self) =>
      Policy.apply(self, policy)
    expect(guard(call)).type.toBe<Effect.Effect<number, "down" | Deadline.AttemptTimeout, Scope.Scope>>()
    const helper = <E, R>(policy: Policy.Policy<E, R>) => Policy.apply(call, policy)
    expect(helper(policy)).type.toBe<Effect.Effect<number, "down" | Deadline.AttemptTimeout, Scope.Scope>>()
  })

  it("refuses options that there are not, also within the parts", () => {
    expect(Policy.make).type.not.toBeCallableWith({ name: "p", retires: {} })
    expect(Policy.make).type.not.toBeCallableWith({ name: "p", retry: { maxAttmpts: 3 } })
    expect(Policy.make).type.not.toBeCallableWith({ name: "p", circuit: { failure: 3 } })
    expect(Policy.make).type.not.toBeCallableWith({ name: "p", bulkhead: { maxConcurent: 3 } })
    expect(Policy.make).type.not.toBeCallableWith({ name: "p", limit: { maximum: 3 } })
    expect(Policy.make).type.not.toBeCallableWith({ name: "p", hedge: {} })
    expect(Policy.make).type.not.toBeCallableWith({})
    expect(Policy.make).type.toBeCallableWith({ name: "p", retry: Retry.policy() })
  })

  it("layer has every service that a policy can ask for", () => {
    type All =
      | Quota.Quota
      | AdaptiveLimit.AdaptiveLimit
      | CircuitBreaker.CircuitBreaker
      | Bulkhead.Bulkhead
      | RetryBudget.RetryBudget
      | Hedge.Latencies
    expect(Policy.layer).type.toBe<Layer.Layer<All>>()
    expect(Policy.layerNoop).type.toBe<Layer.Layer<All>>()
  })

  it("applyStream adds what the guards can fail with, and Stalled where the silence is limited", () => {
    const parts = {} as Stream.Stream<number, "down", Scope.Scope>
    const careful = Policy.make({ name: "p", circuit: {}, timeout: "1 second" })
    type Guarded<E = never> = Stream.Stream<
      number,
      "down" | CircuitBreaker.CircuitOpen | Deadline.AttemptTimeout | E,
      Scope.Scope | CircuitBreaker.CircuitBreaker
    >
    expect(Policy.applyStream(parts, careful)).type.toBe<Guarded>()
    expect(parts.pipe(Policy.applyStream(careful))).type.toBe<Guarded>()
    expect(Policy.applyStream(parts, careful, { buffer: true, isFirst: (n) => n > 0 })).type.toBe<Guarded>()
    expect(Policy.applyStream(parts, careful, { stall: "30 seconds" })).type.toBe<Guarded<Deadline.Stalled>>()
    expect(parts.pipe(Policy.applyStream(careful, { stall: "30 seconds" }))).type.toBe<Guarded<Deadline.Stalled>>()
    expect(Policy.applyStream(parts, careful, anyOptions)).type.toBe<Guarded<Deadline.Stalled>>()
    expect(Policy.applyStream(parts, Policy.make({ name: "p" }))).type.toBe<typeof parts>()
    expect(Policy.applyStream).type.not.toBeCallableWith(
      parts,
      Policy.make({ name: "p", fallback: Fallback.step("x", Effect.succeed(1)) })
    )
    expect(Policy.applyStream).type.not.toBeCallableWith(parts, careful, { isFirst: (text: string) => text === "" })
  })
})
