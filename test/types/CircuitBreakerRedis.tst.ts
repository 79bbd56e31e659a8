import { type Layer, Schedule } from "effect"
import { Backoff, CircuitBreaker } from "effect-resilience"
import type { Redis } from "effect/persistence"
import { describe, expect, it } from "tstyche"

describe("CircuitBreaker.layerRedis", () => {
  it("needs a Redis and cannot fail", () => {
    type Shared = Layer.Layer<CircuitBreaker.CircuitBreaker, never, Redis.Redis>
    expect(CircuitBreaker.layerRedis()).type.toBe<Shared>()
    expect(CircuitBreaker.layerRedis({ prefix: "circuits:", onStoreError: "allow" })).type.toBe<Shared>()
  })

  it("takes the rules that Redis can follow, and no others", () => {
    expect(CircuitBreaker.layerRedis).type.toBeCallableWith({ trip: CircuitBreaker.consecutive(3) })
    expect(CircuitBreaker.layerRedis).type.toBeCallableWith({ trip: CircuitBreaker.rate({ size: 20 }) })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({
      trip: CircuitBreaker.rateOver({ window: "1 minute" })
    })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({ trip: CircuitBreaker.slowRate({ slowerThan: 1 }) })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({
      trip: CircuitBreaker.any(CircuitBreaker.consecutive(3))
    })
    expect(CircuitBreaker.layerRedis).type.toBeCallableWith({ keys: { a: { trip: CircuitBreaker.consecutive(3) } } })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({
      keys: { a: { trip: CircuitBreaker.slowRate({ slowerThan: 1 }) } }
    })
  })

  it("rules for Redis are rules for every circuit", () => {
    expect<CircuitBreaker.SharedTripRule>().type.toBeAssignableTo<CircuitBreaker.TripRule>()
    expect<CircuitBreaker.TripRule>().type.not.toBeAssignableTo<CircuitBreaker.SharedTripRule>()
    expect(CircuitBreaker.any).type.toBeCallableWith(CircuitBreaker.consecutive(1), CircuitBreaker.rate({}))
  })

  it("takes durations, schedules and backoffs as open times", () => {
    expect(CircuitBreaker.layerRedis).type.toBeCallableWith({ openFor: "30 seconds" })
    expect(CircuitBreaker.layerRedis).type.toBeCallableWith({ openFor: Schedule.exponential("1 second") })
    expect(CircuitBreaker.layerRedis).type.toBeCallableWith({ openFor: Backoff.fullJitter({}) })
  })

  it("has no option that Redis cannot follow, and no mode that refuses", () => {
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({ halfOpenPermits: 2 })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({ successThreshold: 2 })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({ metricsOnly: true })
    expect(CircuitBreaker.layerRedis).type.not.toBeCallableWith({ onStoreError: "refuse" })
  })
})
