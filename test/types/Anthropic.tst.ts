import { Config, type Effect, type Layer, type Redacted } from "effect"
import type { Fault } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import type * as AnthropicClient from "effect-resilience/model/AnthropicClient"
import type { AiError, LanguageModel } from "effect/ai"
import { describe, expect, it } from "tstyche"

describe("Anthropic", () => {
  it("layer needs nothing and fails only with the option that is wrong", () => {
    expect(Anthropic.layer({ model: "claude-opus-5-5" })).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, Fault.InvalidConfig>
    >()
  })

  it("model needs the client", () => {
    expect(Anthropic.model({ model: "claude-opus-5-5" })).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, Fault.InvalidConfig, AnthropicClient.AnthropicClient>
    >()
  })

  it("layerConfig also fails with what the configuration lacks", () => {
    expect(Anthropic.layerConfig({ model: Config.String("MODEL"), maxTokens: Config.Int("TOKENS") })).type.toBe<
      Layer.Layer<LanguageModel.LanguageModel, Fault.InvalidConfig | Config.ConfigError>
    >()
  })

  it("takes the key in clear or redacted, and no option that it owns itself", () => {
    expect<Anthropic.Options["apiKey"]>().type.toBe<Redacted.Redacted | string | undefined>()
    expect(Anthropic.layer).type.not.toBeCallableWith({ model: "m", sdk: { maxRetries: 3 } })
    expect(Anthropic.layer).type.not.toBeCallableWith({ model: "m", request: { messages: [] } })
    expect(Anthropic.layer).type.not.toBeCallableWith({})
  })

  it("withRequest changes nothing in the type of the effect", () => {
    const effect = {} as Effect.Effect<1, "e", "r">
    expect(Anthropic.withRequest(effect, { max_tokens: 1 })).type.toBe<Effect.Effect<1, "e", "r">>()
    expect(effect.pipe(Anthropic.withRequest({ max_tokens: 1 }))).type.toBe<Effect.Effect<1, "e", "r">>()
  })
})

describe("AnthropicClient", () => {
  it("use has the callback's result and one error", () => {
    const client = {} as AnthropicClient.AnthropicClient["Service"]
    expect(client.use(() => Promise.resolve(1))).type.toBe<Effect.Effect<number, AiError.AiError>>()
  })
})
