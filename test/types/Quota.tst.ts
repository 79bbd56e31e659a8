import { Duration, type Effect, type Exit, type Layer, type Scope } from "effect"
import { type Fault, Quota } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const effect: Effect.Effect<number, "e", Scope.Scope>
declare const infallible: Effect.Effect<string>
declare const service: Quota.Quota["Service"]

describe("Quota", () => {
  it("withQuota adds exactly QuotaExceeded to E and Quota to R", () => {
    type Metered = Effect.Effect<number, "e" | Quota.QuotaExceeded, Scope.Scope | Quota.Quota>
    expect(Quota.withQuota(effect, "key")).type.toBe<Metered>()
    expect(effect.pipe(Quota.withQuota("key"))).type.toBe<Metered>()
    expect(Quota.withQuota(effect, "key", { requests: 50, cost: { inputTokens: 10 } })).type.toBe<Metered>()
    expect(effect.pipe(Quota.withQuota("key", { outputTokens: { limit: 10, per: "1 hour" } }))).type.toBe<Metered>()
    expect(Quota.withQuota(infallible, "key")).type.toBe<Effect.Effect<string, Quota.QuotaExceeded, Quota.Quota>>()
  })

  it("the service's withQuota adds QuotaExceeded and keeps the caller's requirements", () => {
    expect(service.withQuota("key")(effect)).type.toBe<Effect.Effect<number, "e" | Quota.QuotaExceeded, Scope.Scope>>()
    expect(service.withQuota("key", { maxWait: "1 second" })(infallible)).type.toBe<
      Effect.Effect<string, Quota.QuotaExceeded>
    >()
  })

  it("functions of the caller's see the result of the very effect", () => {
    const usage = (result: number) => ({ outputTokens: result })
    expect(Quota.withQuota(effect, "key", { usage })).type.toBe<
      Effect.Effect<number, "e" | Quota.QuotaExceeded, Scope.Scope | Quota.Quota>
    >()
    expect(effect.pipe(Quota.withQuota("key", { usage }))).type.toBe<
      Effect.Effect<number, "e" | Quota.QuotaExceeded, Scope.Scope | Quota.Quota>
    >()
    expect(Quota.withQuota).type.not.toBeCallableWith(infallible, "key", { usage })
    expect(Quota.withQuota("key", { usage })).type.not.toBeCallableWith(infallible)
    Quota.withQuota(effect, "key", {
      observe: (exit) => {
        expect(exit).type.toBe<Exit.Exit<number, unknown>>()
        return undefined
      }
    })
  })

  it("layers need nothing and cannot fail", () => {
    expect(Quota.layer()).type.toBe<Layer.Layer<Quota.Quota>>()
    expect(Quota.layerNoop).type.toBe<Layer.Layer<Quota.Quota>>()
    expect(Quota.make()).type.toBe<Effect.Effect<Quota.Quota["Service"]>>()
  })

  it("a reservation belongs to a scope, and ending it cannot fail", () => {
    expect(Quota.reserve("key")).type.toBe<
      Effect.Effect<Quota.Reservation, Quota.QuotaExceeded, Quota.Quota | Scope.Scope>
    >()
    expect<Quota.Reservation["cancel"]>().type.toBe<Effect.Effect<void>>()
    expect<ReturnType<Quota.Reservation["settle"]>>().type.toBe<Effect.Effect<void>>()
    expect<ReturnType<Quota.Reservation["refused"]>>().type.toBe<Effect.Effect<void>>()
  })

  it("QuotaExceeded says in its type why, and that it is a rejection", () => {
    expect<Quota.QuotaExceeded["reason"]>().type.toBe<"TooLarge" | "WaitTooLong" | "QueueFull">()
    expect<Quota.QuotaExceeded[typeof Fault.verdictOf]["_tag"]>().type.toBe<"Rejected">()
  })

  it("takes the service's options in layers, and those of one key alone from callers", () => {
    expect(Quota.layer).type.toBeCallableWith({ maxKeys: 10, keys: { search: { maxWait: Duration.seconds(1) } } })
    expect(Quota.layer).type.not.toBeCallableWith({ keys: { search: { maxKeys: 10 } } })
    expect(Quota.layer).type.not.toBeCallableWith({ cost: { inputTokens: 10 } })
    expect(Quota.withQuota).type.not.toBeCallableWith("key", { maxKeys: 10 })
    expect(Quota.withQuota).type.not.toBeCallableWith(effect)
    expect(Quota.withQuota).type.not.toBeCallableWith("key", { priority: "urgent" })
  })
})
