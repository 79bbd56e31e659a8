import { Duration, type Effect, type Layer, type Scope } from "effect"
import { AdaptiveLimit, type Fault } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const effect: Effect.Effect<number, "e", Scope.Scope>
declare const infallible: Effect.Effect<string>
declare const service: AdaptiveLimit.AdaptiveLimit["Service"]

describe("AdaptiveLimit", () => {
  it("withLimit adds exactly LimitExceeded to E and AdaptiveLimit to R", () => {
    type Limited = Effect.Effect<
      number,
      "e" | AdaptiveLimit.LimitExceeded,
      Scope.Scope | AdaptiveLimit.AdaptiveLimit
    >
    expect(AdaptiveLimit.withLimit(effect, "key")).type.toBe<Limited>()
    expect(effect.pipe(AdaptiveLimit.withLimit("key"))).type.toBe<Limited>()
    expect(AdaptiveLimit.withLimit(effect, "key", { max: 1 })).type.toBe<Limited>()
    expect(effect.pipe(AdaptiveLimit.withLimit("key", { inOutage: "fail" }))).type.toBe<Limited>()
    expect(AdaptiveLimit.withLimit(infallible, "key")).type.toBe<
      Effect.Effect<string, AdaptiveLimit.LimitExceeded, AdaptiveLimit.AdaptiveLimit>
    >()
  })

  it("the service's withLimit adds LimitExceeded and keeps the caller's requirements", () => {
    expect(service.withLimit("key")(effect)).type.toBe<
      Effect.Effect<number, "e" | AdaptiveLimit.LimitExceeded, Scope.Scope>
    >()
    expect(service.withLimit("key", { maxWait: "1 second" })(infallible)).type.toBe<
      Effect.Effect<string, AdaptiveLimit.LimitExceeded>
    >()
  })

  it("layers need nothing and cannot fail", () => {
    expect(AdaptiveLimit.layer()).type.toBe<Layer.Layer<AdaptiveLimit.AdaptiveLimit>>()
    expect(AdaptiveLimit.layerNoop).type.toBe<Layer.Layer<AdaptiveLimit.AdaptiveLimit>>()
    expect(AdaptiveLimit.make()).type.toBe<Effect.Effect<AdaptiveLimit.AdaptiveLimit["Service"]>>()
  })

  it("reporting and looking cannot fail and need nothing", () => {
    expect(AdaptiveLimit.firstToken).type.toBe<Effect.Effect<void>>()
    expect(AdaptiveLimit.tokens(1)).type.toBe<Effect.Effect<void>>()
    expect(AdaptiveLimit.tokens).type.not.toBeCallableWith()
    expect(service.state("key")).type.toBe<Effect.Effect<AdaptiveLimit.State>>()
    expect(service.states).type.toBe<Effect.Effect<ReadonlyArray<AdaptiveLimit.State>>>()
    expect(AdaptiveLimit.state("key")).type.toBe<
      Effect.Effect<AdaptiveLimit.State, never, AdaptiveLimit.AdaptiveLimit>
    >()
    expect<AdaptiveLimit.State["phase"]>().type.toBe<"Steady" | "Out" | "Recovering">()
  })

  it("LimitExceeded says in its type why, and that it is a rejection", () => {
    expect<AdaptiveLimit.LimitExceeded["reason"]>().type.toBe<"QueueFull" | "WaitTooLong" | "Outage">()
    expect<AdaptiveLimit.LimitExceeded[typeof Fault.verdictOf]["_tag"]>().type.toBe<"Rejected">()
  })

  it("takes the service's options in layers, and those of one key alone from callers", () => {
    expect(AdaptiveLimit.layer).type.toBeCallableWith({ maxKeys: 10, keys: { a: { maxWait: Duration.seconds(1) } } })
    expect(AdaptiveLimit.layer).type.not.toBeCallableWith({ keys: { a: { maxKeys: 10 } } })
    expect(AdaptiveLimit.withLimit).type.not.toBeCallableWith("key", { maxKeys: 10 })
    expect(AdaptiveLimit.withLimit).type.not.toBeCallableWith("key", { inOutage: "retry" })
    expect(AdaptiveLimit.withLimit).type.not.toBeCallableWith(effect)
  })
})
