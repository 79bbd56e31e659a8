import { Effect, Schema } from "effect"
import { Idempotency } from "effect-resilience"
import { describe, expect, it } from "tstyche"

class Declined extends Schema.TaggedError<Declined>()("Declined", { code: Schema.Int }) {}
interface Bank {
  readonly bank: "bank"
}

declare const pay: Effect.Effect<number, "offline", Bank>

describe("Idempotency", () => {
  const call = { scope: "run", tool: "pay", args: { amount: 1 }, success: Schema.Int }

  it("once adds its own errors and its service, and keeps those of the effect", () => {
    type Expected = Effect.Effect<number, "offline" | Idempotency.OnceError, Bank | Idempotency.Idempotency>
    expect(Idempotency.once(call, pay)).type.toBe<Expected>()
    expect(pay.pipe(Idempotency.once(call))).type.toBe<Expected>()
  })

  it("once adds the failures that it remembers", () => {
    expect(Idempotency.once({ ...call, error: Declined }, pay)).type.toBe<
      Effect.Effect<number, "offline" | Declined | Idempotency.OnceError, Bank | Idempotency.Idempotency>
    >()
  })

  it("once refuses an effect that its schema cannot write", () => {
    expect(Idempotency.once).type.not.toBeCallableWith(call, Effect.succeed("text"))
  })

  it("a key fails with nothing but NotJson", () => {
    expect(Idempotency.key("t", 1)).type.toBe<Effect.Effect<string, Idempotency.NotJson>>()
  })
})
