import { type Effect, type Layer, Schedule, type Scope } from "effect"
import { Backoff, CircuitBreaker, type Fault } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const effect: Effect.Effect<number, "e", Scope.Scope>
declare const infallible: Effect.Effect<string>
declare const service: CircuitBreaker.CircuitBreaker["Service"]

describe("CircuitBreaker", () => {
  it("protect adds exactly CircuitOpen to E and CircuitBreaker to R", () => {
    type Protected = Effect.Effect<
      number,
      "e" | CircuitBreaker.CircuitOpen,
      Scope.Scope | CircuitBreaker.CircuitBreaker
    >
    expect(CircuitBreaker.protect(effect, "key")).type.toBe<Protected>()
    expect(effect.pipe(CircuitBreaker.protect("key"))).type.toBe<Protected>()
    expect(CircuitBreaker.protect(infallible, "key")).type.toBe<
      Effect.Effect<string, CircuitBreaker.CircuitOpen, CircuitBreaker.CircuitBreaker>
    >()
  })

  it("the service's protect adds CircuitOpen and keeps the caller's requirements", () => {
    expect(service.protect("key")(effect)).type.toBe<
      Effect.Effect<number, "e" | CircuitBreaker.CircuitOpen, Scope.Scope>
    >()
  })

  it("protect takes options of the caller, data first and data last", () => {
    const options: CircuitBreaker.CircuitOptions = { openFor: "1 second", successThreshold: 1 }
    type Protected = Effect.Effect<
      number,
      "e" | CircuitBreaker.CircuitOpen,
      Scope.Scope | CircuitBreaker.CircuitBreaker
    >
    expect(CircuitBreaker.protect(effect, "key", options)).type.toBe<Protected>()
    expect(effect.pipe(CircuitBreaker.protect("key", options))).type.toBe<Protected>()
    expect(service.protect("key", options)(effect)).type.toBe<
      Effect.Effect<number, "e" | CircuitBreaker.CircuitOpen, Scope.Scope>
    >()
    expect(CircuitBreaker.protect).type.not.toBeCallableWith(effect, "key", { maxKeys: 1 })
    expect(CircuitBreaker.protect).type.not.toBeCallableWith(effect, "key", { successes: 1 })
  })

  it("check fails with CircuitOpen alone, and the other accessors cannot fail", () => {
    type Needs = CircuitBreaker.CircuitBreaker
    expect(CircuitBreaker.check("key")).type.toBe<Effect.Effect<void, CircuitBreaker.CircuitOpen, Needs>>()
    expect(service.check("key", { openFor: 1 })).type.toBe<Effect.Effect<void, CircuitBreaker.CircuitOpen>>()
    expect(CircuitBreaker.state("key")).type.toBe<Effect.Effect<CircuitBreaker.State, never, Needs>>()
    expect(CircuitBreaker.reset("key")).type.toBe<Effect.Effect<void, never, Needs>>()
    expect(CircuitBreaker.isolate("key")).type.toBe<Effect.Effect<CircuitBreaker.Hold, never, Needs>>()
    expect(CircuitBreaker.isolateScoped("key")).type.toBe<Effect.Effect<void, never, Needs | Scope.Scope>>()
  })

  it("layers need nothing and cannot fail", () => {
    expect(CircuitBreaker.layer()).type.toBe<Layer.Layer<CircuitBreaker.CircuitBreaker>>()
    expect(CircuitBreaker.layerNoop).type.toBe<Layer.Layer<CircuitBreaker.CircuitBreaker>>()
    expect(CircuitBreaker.make()).type.toBe<
      Effect.Effect<CircuitBreaker.CircuitBreaker["Service"], never, Scope.Scope>
    >()
  })

  it("CircuitOpen says in its type that it is a rejection", () => {
    expect<CircuitBreaker.CircuitOpen[typeof Fault.verdictOf]["_tag"]>().type.toBe<"Rejected">()
  })

  it("takes durations, schedules and backoffs as open times, and no schedule with requirements", () => {
    expect(CircuitBreaker.layer).type.toBeCallableWith({ openFor: "30 seconds" })
    expect(CircuitBreaker.layer).type.toBeCallableWith({ openFor: Schedule.exponential("1 second") })
    expect(CircuitBreaker.layer).type.toBeCallableWith({ openFor: Backoff.fullJitter({}) })
    expect(CircuitBreaker.layer).type.not.toBeCallableWith({
      openFor: {} as Schedule.Schedule<number, CircuitBreaker.Opening, never, CircuitBreaker.CircuitBreaker>
    })
  })

  it("any needs at least one rule, and slowRate takes a size or a window", () => {
    expect(CircuitBreaker.any).type.not.toBeCallableWith()
    expect(CircuitBreaker.any).type.toBeCallableWith(CircuitBreaker.consecutive(1), CircuitBreaker.rate({}))
    expect(CircuitBreaker.slowRate).type.toBeCallableWith({ slowerThan: "1 second", size: 10 })
    expect(CircuitBreaker.slowRate).type.toBeCallableWith({ slowerThan: "1 second", window: "1 minute" })
    expect(CircuitBreaker.slowRate).type.not.toBeCallableWith({ slowerThan: 1, size: 10, window: "1 minute" })
  })
})
