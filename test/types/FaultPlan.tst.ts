import { type Effect, type Layer } from "effect"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { type AiError, type LanguageModel } from "effect/ai"
import { describe, expect, it } from "tstyche"

interface Service {
  readonly _: unique symbol
}
declare const work: Effect.Effect<number, "own", Service>
declare const plan: FaultPlan.FaultPlan<"down">
declare const quiet: FaultPlan.FaultPlan<never>
declare const aiPlan: FaultPlan.FaultPlan<AiError.AiError>
declare const model: Layer.Layer<LanguageModel.LanguageModel | Service, "layer", "needs">

describe("FaultPlan", () => {
  it("a plan fails with what its rules fail with", () => {
    const made = FaultPlan.make({
      seed: 1,
      faults: [
        FaultPlan.fail({ error: "reset" as const }),
        FaultPlan.outage({ from: 0, to: 1, error: () => 404 as const }),
        FaultPlan.hang()
      ]
    })
    expect(made).type.toBe<Effect.Effect<FaultPlan.FaultPlan<"reset" | 404>>>()
    expect(FaultPlan.make({ seed: 1, faults: [FaultPlan.delay({ by: 1 })] })).type.toBe<
      Effect.Effect<FaultPlan.FaultPlan<never>>
    >()
  })

  it("apply adds the plan's errors and keeps A, E and R", () => {
    expect(FaultPlan.apply(work, plan)).type.toBe<Effect.Effect<number, "own" | "down", Service>>()
    expect(work.pipe(FaultPlan.apply(plan, "key"))).type.toBe<Effect.Effect<number, "own" | "down", Service>>()
    expect(work.pipe(FaultPlan.apply(quiet))).type.toBe<Effect.Effect<number, "own", Service>>()
  })

  it("a model's plan fails with AiError, and its layer keeps its other services", () => {
    expect(model.pipe(FaultPlan.layerLanguageModel(aiPlan))).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel | Service, "layer", "needs">
    >()
    expect(FaultPlan.layerLanguageModel).type.not.toBeCallableWith(plan)
    expect(ScriptedModel.layer(["Hi"])).type.toBe<Layer.Layer<LanguageModel.LanguageModel | ScriptedModel.Calls>>()
  })
})
