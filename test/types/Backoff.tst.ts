import { type Duration, Effect, type Schedule, type Scope } from "effect"
import { Backoff } from "effect-resilience"
import { describe, expect, it } from "tstyche"

describe("Backoff", () => {
  it("is a Schedule of delays over any error", () => {
    expect(Backoff.fullJitter()).type.toBe<Schedule.Schedule<Duration.Duration, unknown>>()
    expect(Backoff.equalJitter()).type.toBe<Schedule.Schedule<Duration.Duration, unknown>>()
    expect(Backoff.decorrelatedJitter()).type.toBe<Schedule.Schedule<Duration.Duration, unknown>>()
    expect(Backoff.exponential()).type.toBe<Schedule.Schedule<Duration.Duration, unknown>>()
    expect(Backoff.constant({ delay: 1 })).type.toBe<Schedule.Schedule<Duration.Duration, unknown>>()
  })

  it("adds nothing to an effect that it retries", () => {
    const call: Effect.Effect<number, "down", Scope.Scope> = Effect.succeed(1)
    expect(Effect.retry(call, Backoff.fullJitter())).type.toBe<Effect.Effect<number, "down", Scope.Scope>>()
  })

  it("needs a delay where there is no sensible default", () => {
    expect(Backoff.constant).type.not.toBeCallableWith({})
  })
})
