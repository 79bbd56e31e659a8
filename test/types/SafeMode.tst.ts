import { Context, Effect, type Scope } from "effect"
import { Fallback, SafeMode } from "effect-resilience"
import { describe, expect, it } from "tstyche"

class Down {
  readonly _tag = "Down"
}
class Late {
  readonly _tag = "Late"
}
class Clerk extends Context.Service<Clerk, { readonly answer: string }>()("Clerk") {}

declare const ask: Effect.Effect<number, Down, Scope.Scope>

describe("SafeMode.guard", () => {
  it("keeps every error, adds the label to the source, and needs the service", () => {
    type Guarded = Effect.Effect<
      Fallback.Answer<number | string, "primary" | "safe">,
      Down,
      Scope.Scope | SafeMode.SafeMode
    >
    expect(ask.pipe(SafeMode.guard("k", { safe: Effect.succeed("") }))).type.toBe<Guarded>()
    expect(SafeMode.guard(ask, "k", { safe: Effect.succeed("") })).type.toBe<Guarded>()
    expect(SafeMode.guard(ask, "k", { safe: Effect.succeed(""), failures: 2 })).type.toBe<Guarded>()
  })

  it("takes the errors and the requirements of the safe response, and its own label", () => {
    const safe = Effect.andThen(Clerk, Effect.fail(new Late()))
    expect(ask.pipe(SafeMode.guard("k", { safe, label: "emergency" }))).type.toBe<
      Effect.Effect<
        Fallback.Answer<number, "primary" | "emergency">,
        Down | Late,
        Scope.Scope | Clerk | SafeMode.SafeMode
      >
    >()
  })

  it("does not nest the answer of a fallback inside, and a fallback around does not nest its answer", () => {
    expect(
      ask.pipe(
        Fallback.orElse("small", () => ask, { takes: "all" }),
        SafeMode.guard("k", { safe: Effect.succeed("") }),
        Fallback.orElse("template", () => Effect.succeed(true), { takes: "all" })
      )
    ).type.toBe<
      Effect.Effect<
        Fallback.Answer<number | string | boolean, "primary" | "small" | "safe" | "template">,
        never,
        Scope.Scope | SafeMode.SafeMode
      >
    >()
  })

  it("is a method of the service, without the requirement", () => {
    const safeMode = {} as SafeMode.SafeMode["Service"]
    expect(ask.pipe(safeMode.guard("k", { safe: Effect.succeed("") }))).type.toBe<
      Effect.Effect<Fallback.Answer<number | string, "primary" | "safe">, Down, Scope.Scope>
    >()
  })
})
