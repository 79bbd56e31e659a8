import { Context, Effect, type Layer, Schema, type Scope } from "effect"
import { Fallback, Fault, LastGood } from "effect-resilience"
import type { KeyValueStore } from "effect/persistence"
import { describe, expect, it } from "tstyche"

class Busy {
  readonly _tag = "Busy"
  readonly [Fault.verdictOf] = Fault.overloaded()
}
class Broken {
  readonly _tag = "Broken"
  readonly [Fault.verdictOf] = Fault.permanent
}
class Cipher extends Context.Service<Cipher, {}>()("Cipher") {}

interface Forecast {
  readonly sky: string
}

declare const ask: Effect.Effect<Forecast, Busy | Broken, Scope.Scope>
declare const secretive: Schema.Codec<Forecast, string, Cipher, Cipher>
const forecasts = LastGood.slot("forecast", Schema.Struct({ sky: Schema.String }))

describe("LastGood.remember", () => {
  it("keeps value, errors and requirements, and needs the service", () => {
    type Remembered = Effect.Effect<Forecast, Busy | Broken, Scope.Scope | LastGood.LastGood>
    expect(ask.pipe(LastGood.remember(forecasts, "Zurich"))).type.toBe<Remembered>()
    expect(LastGood.remember(ask, forecasts, "Zurich")).type.toBe<Remembered>()
  })

  it("keeps a value that is more than the slot asks for", () => {
    const more = Effect.succeed({ sky: "sunny", wind: 3 })
    expect(more.pipe(LastGood.remember(forecasts, "Zurich"))).type.toBe<
      Effect.Effect<{ sky: string; wind: number }, never, LastGood.LastGood>
    >()
  })

  it("takes no value of another kind", () => {
    expect(LastGood.remember).type.not.toBeCallableWith(Effect.succeed("sunny"), forecasts, "Zurich")
  })

  it("needs what the schema needs", () => {
    const slot = LastGood.slot("secretive", secretive)
    expect(ask.pipe(LastGood.remember(slot, "k"))).type.toBe<
      Effect.Effect<Forecast, Busy | Broken, Scope.Scope | Cipher | LastGood.LastGood>
    >()
    expect(LastGood.recall(slot, "k")).type.toBe<
      Effect.Effect<
        LastGood.Aged<Forecast>,
        LastGood.NoLastGood | LastGood.LastGoodStoreError,
        Cipher | LastGood.LastGood
      >
    >()
  })
})

describe("LastGood.recall", () => {
  it("is aged in its type, and fails with what a fallback takes", () => {
    expect(
      ask.pipe(
        Fallback.orElse("last good", () => LastGood.recall(forecasts, "Zurich"), { takes: "all" }),
        Fallback.orElse("template", () => Effect.succeed("no idea"))
      )
    ).type.toBe<
      Effect.Effect<
        Fallback.Answer<
          Forecast | LastGood.Aged<{ readonly sky: string }> | string,
          "primary" | "last good" | "template"
        >,
        never,
        Scope.Scope | LastGood.LastGood
      >
    >()
  })
})

describe("LastGood.orElse", () => {
  it("keeps every error, since nothing may be remembered", () => {
    type Served = Effect.Effect<
      Fallback.Answer<Forecast | LastGood.Aged<{ readonly sky: string }>, "primary" | "last good">,
      Busy | Broken,
      Scope.Scope | LastGood.LastGood
    >
    expect(ask.pipe(LastGood.orElse(forecasts, "Zurich"))).type.toBe<Served>()
    expect(LastGood.orElse(ask, forecasts, "Zurich", { maxAge: "1 hour" })).type.toBe<Served>()
  })

  it("has its label in the type, and joins the steps before and after", () => {
    expect(
      ask.pipe(
        Fallback.orElse("small", () => ask, { takes: ["Broken"] }),
        LastGood.orElse(forecasts, "Zurich", { label: "cache", takes: "all" }),
        Fallback.orElse("template", () => Effect.succeed("no idea"))
      )
    ).type.toBe<
      Effect.Effect<
        Fallback.Answer<
          Forecast | LastGood.Aged<{ readonly sky: string }> | string,
          "primary" | "small" | "cache" | "template"
        >,
        Broken,
        Scope.Scope | LastGood.LastGood
      >
    >()
  })
})

describe("LastGood layers", () => {
  it("need nothing, or a KeyValueStore", () => {
    expect(LastGood.layer()).type.toBe<Layer.Layer<LastGood.LastGood>>()
    expect(LastGood.layerKeyValueStore()).type.toBe<
      Layer.Layer<LastGood.LastGood, never, KeyValueStore.KeyValueStore>
    >()
  })
})

describe("LastGood.forget", () => {
  it("fails with the store", () => {
    expect(LastGood.forget(forecasts, "Zurich")).type.toBe<
      Effect.Effect<void, LastGood.LastGoodStoreError, LastGood.LastGood>
    >()
  })
})
