import { Effect, type Layer, type Scope } from "effect"
import { Retry, RetryBudget } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const call: Effect.Effect<number, "down", Scope.Scope>

describe("RetryBudget", () => {
  it("is what a policy with a budget needs, and only such a policy", () => {
    const plain = Retry.policy()
    const budgeted = Retry.policy({ budget: "model" })
    expect(plain).type.toBe<Retry.Policy>()
    expect(budgeted).type.toBe<Retry.Policy<RetryBudget.RetryBudget>>()
    expect(call.pipe(Retry.apply(plain))).type.toBe<typeof call>()
    expect(call.pipe(Retry.apply(budgeted))).type.toBe<
      Effect.Effect<number, "down", Scope.Scope | RetryBudget.RetryBudget>
    >()
    expect(Retry.apply(call, budgeted)).type.toBe<
      Effect.Effect<number, "down", Scope.Scope | RetryBudget.RetryBudget>
    >()
  })

  it("is needed where the options may name a budget", () => {
    const options: Retry.Options = {}
    expect(Retry.policy(options)).type.toBe<Retry.Policy<RetryBudget.RetryBudget>>()
    const without: Retry.Options & { readonly budget?: undefined } = {}
    expect(Retry.policy(without)).type.toBe<Retry.Policy>()
  })

  it("cannot be forgotten by widening the policy", () => {
    expect<Retry.Policy>().type.not.toBeAssignableFrom<Retry.Policy<RetryBudget.RetryBudget>>()
    expect<Retry.Policy<RetryBudget.RetryBudget>>().type.toBeAssignableFrom<Retry.Policy>()
  })

  it("goes away when it is provided", () => {
    const retried = Retry.apply(Effect.succeed(1), Retry.policy({ budget: "model" }))
    expect(Effect.provide(retried, RetryBudget.layer())).type.toBe<Effect.Effect<number>>()
    expect(Effect.provide(retried, RetryBudget.layerNoop)).type.toBe<Effect.Effect<number>>()
  })

  it("of the user's own may give back no deposit", () => {
    expect<RetryBudget.RetryBudget["Service"]["deposit"]>().type.toBeAssignableFrom(() => Effect.void)
    expect<RetryBudget.RetryBudget["Service"]["deposit"]>().type.toBeAssignableFrom(() =>
      Effect.succeed({ takeBack: Effect.void })
    )
  })

  it("is built from nothing, and its options only fail as defects", () => {
    expect(RetryBudget.layer({ ratio: 0.1 })).type.toBe<Layer.Layer<RetryBudget.RetryBudget>>()
    expect(RetryBudget.make()).type.toBe<Effect.Effect<RetryBudget.RetryBudget["Service"]>>()
  })
})
