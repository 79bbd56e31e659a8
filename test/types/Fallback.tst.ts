import { Effect, Schema, type Scope } from "effect"
import { Fallback, Fault } from "effect-resilience"
import { describe, expect, it } from "tstyche"

class Busy {
  readonly _tag = "Busy"
  readonly [Fault.verdictOf] = Fault.overloaded()
}
class Broken {
  readonly _tag = "Broken"
  readonly [Fault.verdictOf] = Fault.permanent
}
class Either {
  readonly _tag = "Either"
  readonly [Fault.verdictOf]: Fault.Verdict = Fault.transient
}
class Unmarked {
  readonly _tag = "Unmarked"
}
interface Outline {
  readonly title: string
}

declare const ask: Effect.Effect<Outline, Busy | Broken | Either | Unmarked, Scope.Scope>

describe("Fallback.orElse", () => {
  it("removes by default the errors whose class is never Permanent, and no other", () => {
    expect(ask.pipe(Fallback.orElse("template", () => Effect.succeed("text")))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | string, "primary" | "template">, Broken | Either | Unmarked, Scope.Scope>
    >()
    expect(Fallback.orElse(ask, "template", () => Effect.succeed("text"))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | string, "primary" | "template">, Broken | Either | Unmarked, Scope.Scope>
    >()
    expect(ask.pipe(Fallback.orElse("template", () => Effect.succeed("text"), {}))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | string, "primary" | "template">, Broken | Either | Unmarked, Scope.Scope>
    >()
  })

  it("adds the errors and the requirements of the fallback", () => {
    class Late {
      readonly _tag = "Late"
    }
    expect(
      Effect.succeed(1).pipe(Fallback.orElse("t", () =>
        Effect.as(Effect.scope, 2).pipe(
          Effect.andThen(Effect.fail(new Late()))
        )))
    ).type.toBe<Effect.Effect<Fallback.Answer<number, "primary" | "t">, Late, Scope.Scope>>()
  })

  it("unites the labels of a chain in one answer and ends in never with takes: all", () => {
    const outline = ask.pipe(
      Fallback.orElse("smaller model", () => ask),
      Fallback.orElse("template", () => Effect.succeed({ title: "" }), { takes: "all" })
    )
    expect(outline).type.toBe<
      Effect.Effect<
        Fallback.Answer<Outline | { title: string }, "primary" | "smaller model" | "template">,
        never,
        Scope.Scope
      >
    >()
  })

  it("removes exactly the tags named, and knows them", () => {
    expect(ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), { takes: ["Broken", "Unmarked"] }))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Busy | Either, Scope.Scope>
    >()
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes: ["Busy"] })).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Broken | Either | Unmarked, Scope.Scope>
    >()
    expect(Fallback.orElse).type.not.toBeCallableWith(ask, "t", () => Effect.succeed(1), { takes: ["Nobody"] })
  })

  it("keeps the errors of tags that are not sure to be named", () => {
    type Kept = Effect.Effect<
      Fallback.Answer<Outline | number, "primary" | "t">,
      Busy | Broken | Either | Unmarked,
      Scope.Scope
    >
    const one = "Busy" as "Busy" | "Broken"
    expect(ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), { takes: [one] }))).type.toBe<Kept>()
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes: [one] })).type.toBe<Kept>()
    const more: readonly ["Either", ...Array<"Busy" | "Broken">] = ["Either"]
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes: more })).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Busy | Broken | Unmarked, Scope.Scope>
    >()
    expect(ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), { takes: more }))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Busy | Broken | Unmarked, Scope.Scope>
    >()
    const either = ["Busy"] as ["Busy"] | ["Broken"]
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes: either })).type.toBe<Kept>()
  })

  it("removes what a refinement takes, and nothing for a predicate", () => {
    expect(
      ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), {
        takes: (error): error is Busy | Unmarked => error._tag === "Busy" || error._tag === "Unmarked"
      }))
    ).type.toBe<Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Broken | Either, Scope.Scope>>()
    expect(
      ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), {
        takes: (error, verdict) => error._tag === "Broken" && verdict._tag === "Permanent"
      }))
    ).type.toBe<
      Effect.Effect<
        Fallback.Answer<Outline | number, "primary" | "t">,
        Busy | Broken | Either | Unmarked,
        Scope.Scope
      >
    >()
  })

  it("takes the same with the data first", () => {
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), {
      takes: (error): error is Busy | Unmarked => error._tag === "Busy" || error._tag === "Unmarked"
    })).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Broken | Either, Scope.Scope>
    >()
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes: "all" })).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, never, Scope.Scope>
    >()
    expect(Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes: (error) => error._tag === "Broken" })).type
      .toBe<
        Effect.Effect<
          Fallback.Answer<Outline | number, "primary" | "t">,
          Busy | Broken | Either | Unmarked,
          Scope.Scope
        >
      >()
  })

  it("removes what a refinement over more than the errors takes", () => {
    const isForeign = (error: unknown): error is Busy | RangeError => error instanceof RangeError
    expect(ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), { takes: isForeign }))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Broken | Either | Unmarked, Scope.Scope>
    >()
  })

  it("fits where the result is declared, in both styles", () => {
    type Left = Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, Busy | Either, Scope.Scope>
    const takes = ["Broken", "Unmarked"] as const
    const listed = (): Left =>
      ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), { takes: ["Broken", "Unmarked"] }))
    const first = (): Left => Fallback.orElse(ask, "t", () => Effect.succeed(1), { takes })
    const refined = (): Left =>
      ask.pipe(Fallback.orElse("t", () => Effect.succeed(1), {
        takes: (error): error is Broken | Unmarked => error._tag === "Broken" || error._tag === "Unmarked"
      }))
    expect([listed, first, refined]).type.toBe<Array<() => Left>>()
  })

  it("keeps an unknown error", () => {
    const call: Effect.Effect<number, unknown> = Effect.succeed(1)
    expect(call.pipe(Fallback.orElse("t", () => Effect.succeed(1)))).type.toBe<
      Effect.Effect<Fallback.Answer<number, "primary" | "t">, unknown>
    >()
  })

  it("does not name a primary that never answers", () => {
    expect(Effect.fail(new Busy()).pipe(Fallback.orElse("t", () => Effect.succeed(1)))).type.toBe<
      Effect.Effect<Fallback.Answer<number, "t">>
    >()
  })

  it("works in a function that knows nothing of its effect", () => {
    const guarded = <A, E, R>(self: Effect.Effect<A, E, R>) =>
      self.pipe(Fallback.orElse("t", () => Effect.succeed(1), { takes: "all" }))
    expect(guarded(ask)).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "primary" | "t">, never, Scope.Scope>
    >()
  })
})

describe("Fallback.primary", () => {
  it("names the first step", () => {
    expect(ask.pipe(Fallback.primary("large"), Fallback.orElse("t", () => Effect.succeed(1), { takes: "all" }))).type
      .toBe<Effect.Effect<Fallback.Answer<Outline | number, "large" | "t">, never, Scope.Scope>>()
  })
})

describe("Fallback.chain", () => {
  it("folds the errors as orElse does, and unites the labels", () => {
    expect(Fallback.chain(
      Fallback.step("large", ask),
      Fallback.step("small", Effect.fail(new Busy())),
      Fallback.step("template", Effect.succeed(""), { takes: ["Either"] })
    )).type.toBe<
      Effect.Effect<
        Fallback.Answer<Outline | string, "large" | "small" | "template">,
        Broken | Unmarked | Busy,
        Scope.Scope
      >
    >()
    type Kept = Effect.Effect<
      Fallback.Answer<Outline | number, "a" | "b">,
      Busy | Broken | Either | Unmarked,
      Scope.Scope
    >
    const some: Array<"Busy" | "Broken"> = ["Busy"]
    const texts: ReadonlyArray<string> = some
    const template = "Busy" as `B${string}`
    expect(Fallback.chain(Fallback.step("a", ask), Fallback.step("b", Effect.succeed(1), { takes: some }))).type
      .toBe<Kept>()
    expect(Fallback.chain(Fallback.step("a", ask), Fallback.step("b", Effect.succeed(1), { takes: texts }))).type
      .toBe<Kept>()
    expect(Fallback.chain(Fallback.step("a", ask), Fallback.step("b", Effect.succeed(1), { takes: [template] }))).type
      .toBe<Kept>()
    expect(
      Fallback.chain(Fallback.step("a", ask), Fallback.step("b", Effect.succeed(1), { takes: ["Busy", "Either"] }))
    ).type.toBe<Effect.Effect<Fallback.Answer<Outline | number, "a" | "b">, Broken | Unmarked, Scope.Scope>>()
    expect(Fallback.chain(Fallback.step("a", ask), Fallback.step("b", ask, { takes: "all" }))).type.toBe<
      Effect.Effect<Fallback.Answer<Outline, "a" | "b">, Busy | Broken | Either | Unmarked, Scope.Scope>
    >()
  })
})

describe("Fallback.chain of what is not known before", () => {
  it("keeps all errors of steps from a list of unknown length", () => {
    class Late {
      readonly _tag = "Late"
    }
    const rest: Array<Fallback.Step<"c", number, Late, never, "all">> = []
    expect(Fallback.chain(Fallback.step("a", ask), Fallback.step("b", Effect.fail(new Busy())), ...rest)).type.toBe<
      Effect.Effect<
        Fallback.Answer<Outline | number, "a" | "b" | "c">,
        Broken | Either | Unmarked | Busy | Late,
        Scope.Scope
      >
    >()
  })

  it("takes tags of errors before it, and no verdict and no misspelt one", () => {
    const template = Effect.succeed("")
    const first = Fallback.step("a", ask)
    expect(Fallback.chain).type.toBeCallableWith(first, Fallback.step("b", template, { takes: ["Broken", "Busy"] }))
    expect(Fallback.chain).type.not.toBeCallableWith(first, Fallback.step("b", template, { takes: ["Overloaded"] }))
    expect(Fallback.chain).type.not.toBeCallableWith(first, Fallback.step("b", template, { takes: ["Busy", "Brokn"] }))
    expect(Fallback.chain).type.not.toBeCallableWith(
      first,
      Fallback.step("b", template),
      Fallback.step("c", template, { takes: ["Busy"] })
    )
    const anything: Effect.Effect<number, unknown> = Effect.succeed(1)
    expect(Fallback.chain).type.toBeCallableWith(
      Fallback.step("a", anything),
      Fallback.step("b", template, { takes: ["Busy"] })
    )
  })

  it("works in a function that knows nothing of its effect", () => {
    const guarded = <A, E, R>(self: Effect.Effect<A, E, R>) =>
      Fallback.chain(
        Fallback.step("a", self),
        Fallback.step("b", Effect.succeed(1)),
        Fallback.step("c", Effect.succeed(2), { takes: "all" })
      )
    expect(guarded(ask)).type.toBe<
      Effect.Effect<Fallback.Answer<Outline | number, "a" | "b" | "c">, never, Scope.Scope>
    >()
  })
})

describe("Fallback.partial", () => {
  it("knows every part, none of which need be there", () => {
    const parts = Fallback.partial({ outline: ask, count: Effect.succeed(1) })
    expect(parts).type.toBe<
      Effect.Effect<
        Fallback.Collected<{ readonly outline: Outline; readonly count: number }>,
        Busy | Broken | Either | Unmarked,
        Scope.Scope
      >
    >()
    expect<Effect.Success<typeof parts>["available"]["count"]>().type.toBe<number | undefined>()
  })
})

describe("Fallback.AnswerSchema", () => {
  it("is a codec of the answer whose sources it names", () => {
    const Answered = Fallback.AnswerSchema(Schema.DateFromString, ["primary", "template"])
    expect<typeof Answered.Type>().type.toBe<Fallback.Answer<Date, "primary" | "template">>()
    expect<(typeof Answered.Encoded)["value"]>().type.toBe<string>()
    expect<(typeof Answered.Encoded)["source"]>().type.toBe<"primary" | "template">()
    expect<typeof Answered.DecodingServices>().type.toBe<never>()
  })
})

describe("Fallback.FailedStep", () => {
  it("names every verdict", () => {
    expect<Fallback.FailedStep["verdict"]>().type.toBe<Fault.VerdictTag>()
    expect<typeof Fallback.FailedStep.Type>().type.toBeAssignableTo<Fallback.FailedStep>()
    expect<(typeof Fallback.FailedStep.Type)["verdict"]>().type.toBe<Fault.VerdictTag>()
  })
})
