import { Duration, type Effect, type Layer, type Scope } from "effect"
import { Bulkhead, type Fault } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const effect: Effect.Effect<number, "e", Scope.Scope>
declare const infallible: Effect.Effect<string>
declare const service: Bulkhead.Bulkhead["Service"]

describe("Bulkhead", () => {
  it("limit adds exactly BulkheadFull to E and Bulkhead to R", () => {
    type Limited = Effect.Effect<number, "e" | Bulkhead.BulkheadFull, Scope.Scope | Bulkhead.Bulkhead>
    expect(Bulkhead.limit(effect, "key")).type.toBe<Limited>()
    expect(effect.pipe(Bulkhead.limit("key"))).type.toBe<Limited>()
    expect(Bulkhead.limit(effect, "key", { maxConcurrent: 1 })).type.toBe<Limited>()
    expect(effect.pipe(Bulkhead.limit("key", { maxQueue: 0 }))).type.toBe<Limited>()
    expect(Bulkhead.limit(infallible, "key")).type.toBe<
      Effect.Effect<string, Bulkhead.BulkheadFull, Bulkhead.Bulkhead>
    >()
  })

  it("the service's limit adds BulkheadFull and keeps the caller's requirements", () => {
    expect(service.limit("key")(effect)).type.toBe<
      Effect.Effect<number, "e" | Bulkhead.BulkheadFull, Scope.Scope>
    >()
    expect(service.limit("key", { maxWait: "1 second" })(infallible)).type.toBe<
      Effect.Effect<string, Bulkhead.BulkheadFull>
    >()
  })

  it("layers need nothing and cannot fail", () => {
    expect(Bulkhead.layer()).type.toBe<Layer.Layer<Bulkhead.Bulkhead>>()
    expect(Bulkhead.layerNoop).type.toBe<Layer.Layer<Bulkhead.Bulkhead>>()
    expect(Bulkhead.make()).type.toBe<Effect.Effect<Bulkhead.Bulkhead["Service"]>>()
  })

  it("what is done by hand cannot fail and needs nothing", () => {
    expect(service.close("key")).type.toBe<Effect.Effect<void>>()
    expect(service.closeAll).type.toBe<Effect.Effect<void>>()
    expect(service.resize("key", 1)).type.toBe<Effect.Effect<void>>()
    expect(service.resize("key", undefined)).type.toBe<Effect.Effect<void>>()
    expect(service.resize).type.not.toBeCallableWith("key")
    expect(service.states).type.toBe<Effect.Effect<ReadonlyArray<Bulkhead.State>>>()
  })

  it("BulkheadFull says in its type why, and that it is a rejection", () => {
    expect<Bulkhead.BulkheadFull["reason"]>().type.toBe<"QueueFull" | "WaitTooLong" | "Closed">()
    expect<Bulkhead.BulkheadFull[typeof Fault.verdictOf]["_tag"]>().type.toBe<"Rejected">()
  })

  it("takes the service's options in layers, and those of one key alone from callers", () => {
    expect(Bulkhead.layer).type.toBeCallableWith({ total: 10, keys: { search: { maxWait: Duration.seconds(1) } } })
    expect(Bulkhead.layer).type.not.toBeCallableWith({ keys: { search: { total: 10 } } })
    expect(Bulkhead.limit).type.not.toBeCallableWith("key", { total: 10 })
    expect(Bulkhead.limit).type.not.toBeCallableWith(effect)
  })
})
