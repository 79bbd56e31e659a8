import { type Context, type Duration, Effect, type Layer, type Scope } from "effect"
import { Hedge, type RetryBudget } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const call: Effect.Effect<number, "down" | { readonly _tag: "Busy" }, Scope.Scope>
declare const anyBudget: string | undefined
declare const anyDelay: Duration.Input | Hedge.Percentile
declare const anyOptions: Hedge.Options

const fixed = Hedge.policy({ delay: "1 second" })
const learned = Hedge.policy({ name: "search", delay: Hedge.percentile() })
const paid = Hedge.policy({ delay: { seconds: 1 }, budget: "search" })
const both = Hedge.policy({ name: "search", delay: Hedge.percentile({ p: 0.9 }), budget: "search" })

describe("Hedge", () => {
  it("apply keeps the value, the error and the requirements as they are", () => {
    expect(Hedge.apply(call, fixed)).type.toBe<typeof call>()
    expect(call.pipe(Hedge.apply(fixed))).type.toBe<typeof call>()
    expect(Hedge.apply(Effect.succeed("a"), fixed)).type.toBe<Effect.Effect<string>>()
  })

  it("needs a RetryBudget only with a budget", () => {
    expect(fixed).type.toBe<Hedge.Policy>()
    expect(paid).type.toBe<Hedge.Policy<RetryBudget.RetryBudget>>()
    expect(Hedge.policy({ delay: 1, budget: undefined })).type.toBe<Hedge.Policy>()
    expect(Hedge.policy({ delay: 1, budget: anyBudget })).type.toBe<Hedge.Policy<RetryBudget.RetryBudget>>()
    expect(Hedge.apply(call, paid)).type.toBe<
      Effect.Effect<number, "down" | { readonly _tag: "Busy" }, Scope.Scope | RetryBudget.RetryBudget>
    >()
  })

  it("needs Latencies only with a percentile", () => {
    expect(learned).type.toBe<Hedge.Policy<Hedge.Latencies>>()
    expect(Hedge.policy({ name: "search", delay: anyDelay })).type.toBe<Hedge.Policy<Hedge.Latencies>>()
    expect(call.pipe(Hedge.apply(learned))).type.toBe<
      Effect.Effect<number, "down" | { readonly _tag: "Busy" }, Scope.Scope | Hedge.Latencies>
    >()
    expect(Hedge.layer()).type.toBe<Layer.Layer<Hedge.Latencies>>()
    expect(Hedge.layerNoop).type.toBe<Layer.Layer<Hedge.Latencies>>()
  })

  it("needs both with both, and where the options do not tell", () => {
    expect(both).type.toBe<Hedge.Policy<RetryBudget.RetryBudget | Hedge.Latencies>>()
    expect(Hedge.policy(anyOptions)).type.toBe<Hedge.Policy<RetryBudget.RetryBudget | Hedge.Latencies>>()
  })

  it("a policy that needs services is not one that needs none, and a policy may be taken for its options", () => {
    expect<Hedge.Policy>().type.not.toBeAssignableFrom(paid)
    expect<Hedge.Policy<RetryBudget.RetryBudget>>().type.toBeAssignableFrom(fixed)
    expect<Hedge.Options>().type.toBeAssignableFrom(both)
  })

  it("policy takes no option that there is not", () => {
    expect(Hedge.policy).type.not.toBeCallableWith({ delay: "1 second", maxHedges: 2 })
    expect(Hedge.policy).type.not.toBeCallableWith({})
  })

  it("CurrentAttempt needs nothing", () => {
    expect(Hedge.CurrentAttempt).type.toBe<Context.Reference<number>>()
  })
})
