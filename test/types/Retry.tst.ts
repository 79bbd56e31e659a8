import { type Duration, Effect, type Schedule, type Scope } from "effect"
import { type Fault, Retry, type RetryBudget } from "effect-resilience"
import { describe, expect, it } from "tstyche"

declare const call: Effect.Effect<number, "down" | { readonly _tag: "Busy" }, Scope.Scope>

describe("Retry", () => {
  it("apply keeps the value, the error and the requirements as they are", () => {
    expect(Retry.apply(call, Retry.policy())).type.toBe<typeof call>()
    expect(call.pipe(Retry.apply(Retry.policy({ maxAttempts: 3 })))).type.toBe<typeof call>()
    expect(Retry.apply(Effect.succeed("a"), Retry.policy())).type.toBe<Effect.Effect<string>>()
  })

  it("apply is a guard that fits any effect", () => {
    const guard: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R> = Retry.apply(Retry.policy())
    expect(guard(call)).type.toBe<typeof call>()
  })

  it("schedule is a Schedule of delays over any error", () => {
    expect(Retry.schedule(Retry.policy())).type.toBe<Schedule.Schedule<Duration.Duration, unknown>>()
    expect(Effect.retry(call, Retry.schedule(Retry.policy()))).type.toBe<typeof call>()
    expect(Retry.schedule(Retry.policy({ budget: "model" }))).type.toBe<
      Schedule.Schedule<Duration.Duration, unknown, never, RetryBudget.RetryBudget>
    >()
  })

  it("retryIf sees the verdict, and may leave the decision to it", () => {
    Retry.policy({
      retryIf: (error, verdict) => {
        expect(error).type.toBe<unknown>()
        expect(verdict).type.toBe<Fault.Verdict>()
        return undefined
      }
    })
    expect(Retry.policy).type.not.toBeCallableWith({ retryIf: () => "yes" })
  })
})
