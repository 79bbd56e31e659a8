import { type Effect, type Layer, type Option, Schema, type Scope } from "effect"
import {
  type Bulkhead,
  type CircuitBreaker,
  Fallback,
  type LastGood,
  Policy,
  type Quota,
  ResilientModel,
  type RetryBudget
} from "effect-resilience"
import { type AiError, LanguageModel, type Response, Tool, Toolkit } from "effect/ai"
import { describe, expect, it } from "tstyche"

declare const model: LanguageModel.LanguageModel
declare const modelLayer: Layer.Layer<LanguageModel.LanguageModel, "no key", "client">
declare const anyOptions: ResilientModel.Options
declare const request: ResilientModel.Request

const plain = Policy.make({ name: "p" })
const careful = Policy.make({ name: "p", quota: {}, circuit: {}, retry: { budget: "b" }, timeout: "1 minute" })

type Careful = Quota.Quota | CircuitBreaker.CircuitBreaker | RetryBudget.RetryBudget

describe("ResilientModel", () => {
  it("layer decorates the model at hand and needs what its policy needs", () => {
    expect(ResilientModel.layer(plain)).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel>
    >()
    expect(ResilientModel.layer(careful)).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel | Careful>
    >()
    expect(ResilientModel.layer(careful, { provider: "anthropic", buffer: true })).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel | Careful>
    >()
  })

  it("needs a LastGood exactly where it keeps something", () => {
    expect(ResilientModel.layer(plain, { lastGood: {} })).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel | LastGood.LastGood>
    >()
    expect(ResilientModel.layer(plain, { lastGood: undefined })).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel>
    >()
    expect(ResilientModel.layer(plain, anyOptions)).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, never, LanguageModel.LanguageModel | LastGood.LastGood>
    >()
  })

  it("make is the same for a value", () => {
    expect(ResilientModel.make(model, plain)).type.toBe<Effect.Effect<LanguageModel.LanguageModel>>()
    expect(ResilientModel.make(model, careful, { lastGood: {} })).type.toBe<
      Effect.Effect<LanguageModel.LanguageModel, never, Careful | LastGood.LastGood>
    >()
  })

  it("refuses a policy with a fallback, and options that there are not", () => {
    const falling = Policy.make({ name: "p", fallback: Fallback.step("x", {} as Effect.Effect<string>) })
    expect(ResilientModel.layer).type.not.toBeCallableWith(falling)
    expect(ResilientModel.make).type.not.toBeCallableWith(model, falling)
    expect(ResilientModel.layer).type.not.toBeCallableWith(plain, { modelName: 1 })
  })

  it("fallback has the errors of its layers, and needs what they and the policies need", () => {
    expect(ResilientModel.fallback([{ label: "a", model }])).type.toBe<Layer.Layer<LanguageModel.LanguageModel>>()
    expect(ResilientModel.fallback([
      { label: "a", model: modelLayer, policy: careful },
      { label: "b", model, policy: Policy.make({ name: "q", bulkhead: {} }) }
    ], { lastGood: {} })).type.toBe<
      Layer.Layer<
        LanguageModel.LanguageModel,
        "no key",
        "client" | Careful | Bulkhead.Bulkhead | LastGood.LastGood
      >
    >()
    expect(ResilientModel.makeFallback([{ label: "a", model: modelLayer }])).type.toBe<
      Effect.Effect<LanguageModel.LanguageModel, "no key", "client" | Scope.Scope>
    >()
    expect(ResilientModel.fallback).type.not.toBeCallableWith([])
    expect(ResilientModel.fallback).type.not.toBeCallableWith([{ model }])
  })

  it("what a guard refuses is an AiError, so that the calls of a program stay what they are", () => {
    const ask = LanguageModel.generateText({ prompt: "Hello" })
    expect<Effect.Error<typeof ask>>().type.toBe<AiError.AiError>()
    expect(ResilientModel.guardError({} as AiError.AiError)).type.toBe<Option.Option<ResilientModel.GuardError>>()
    expect<ResilientModel.GuardError["_tag"]>().type.toBe<
      | "AttemptTimeout"
      | "BulkheadFull"
      | "CircuitOpen"
      | "DeadlineExceeded"
      | "LimitExceeded"
      | "QuotaExceeded"
      | "Stalled"
    >()
  })

  it("toAnswer keeps the response in the answer", () => {
    const Kit = Toolkit.make(Tool.make("search", { parameters: Schema.Struct({ query: Schema.String }) }))
    const response = {} as LanguageModel.GenerateTextResponse<typeof Kit.tools>
    expect(ResilientModel.toAnswer(response)).type.toBe<Fallback.Answer<typeof response>>()
    expect(ResilientModel.provenance(response.content)).type.toBe<Option.Option<ResilientModel.Provenance>>()
    expect(ResilientModel.provenance).type.toBeCallableWith([] as Array<Response.AnyPart>)
    expect(ResilientModel.estimateInputTokens(request)).type.toBe<number>()
  })
})
