import { type Duration, Effect, Schema } from "effect"
import { Fault } from "effect-resilience"
import { describe, expect, it } from "tstyche"

interface Service {
  readonly _: unique symbol
}
declare const work: Effect.Effect<number, "e", Service>

describe("Fault", () => {
  it("classify never fails and needs nothing", () => {
    expect(Fault.classify(new Error())).type.toBe<Effect.Effect<Fault.Verdict>>()
  })

  it("constants and constructors are narrow", () => {
    expect(Fault.permanent._tag).type.toBe<"Permanent">()
    expect(Fault.unknown._tag).type.toBe<"Permanent">()
    expect(Fault.rejected("1 second")).type.toBe<
      { readonly _tag: "Rejected"; readonly retryAfter?: Duration.Duration }
    >()
    expect(Fault.rejected()).type.toBeAssignableTo<Fault.Verdict>()
    expect(Fault.throttled).type.not.toBeCallableWith({ soon: true })
  })

  it("an error class keeps the static type of its verdict", () => {
    class Full extends Schema.TaggedError<Full>()("Full", {}) {
      readonly [Fault.verdictOf] = Fault.rejected()
    }
    expect<Full[typeof Fault.verdictOf]["_tag"]>().type.toBe<"Rejected">()
  })

  it("combinators keep A, E and R", () => {
    expect(Fault.idempotent(work)).type.toBe<Effect.Effect<number, "e", Service>>()
    expect(work.pipe(Fault.withClassifier(() => Fault.transient))).type.toBe<Effect.Effect<number, "e", Service>>()
    expect(Fault.withClassifier(work, () => undefined)).type.toBe<Effect.Effect<number, "e", Service>>()
  })

  it("a classifier answers with a verdict or not at all", () => {
    expect(Fault.withClassifier).type.not.toBeCallableWith(() => "Transient")
    expect(Effect.provideService(work, Fault.Classifier, () => undefined)).type.toBe<
      Effect.Effect<number, "e", Service>
    >()
  })

  it("retryAfter is there or is not", () => {
    expect(Fault.retryAfter(Fault.transient)).type.toBe<Duration.Duration | undefined>()
  })
})
