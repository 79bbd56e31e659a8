import { assert, describe, it } from "@effect/vitest"
import { Effect, Schema } from "effect"
import { Arbitrary } from "effect"
import { boundedJson } from "../../../src/agent/internal/boundedJson.ts"

const wide = { length: 1_000_000, depth: 100 }

describe("boundedJson", () => {
  it.effect.prop(
    "writes what JSON.stringify writes",
    { value: Arbitrary.schema(Schema.Json) },
    ({ value }) =>
      Effect.sync(() => {
        assert.deepStrictEqual(boundedJson(value, wide), { _tag: "Json", text: JSON.stringify(value) })
      })
  )

  it.effect.prop(
    "never writes more than the bound, and cuts nowhere else, and no character in half",
    { value: Arbitrary.schema(Schema.Json) },
    ({ value }) =>
      Effect.sync(() => {
        const text = JSON.stringify(value)
        const bounded = boundedJson(value, { length: 10, depth: 100 })
        if (text.length <= 10) assert.deepStrictEqual(bounded, { _tag: "Json", text })
        else {assert.strictEqual(
            bounded._tag === "TooLong" ? bounded.start : undefined,
            text.slice(0, 10).toWellFormed()
          )}
      })
  )

  it("stops at values without end", () => {
    const circular: Array<unknown> = []
    circular.push(circular)
    assert.deepStrictEqual(boundedJson(circular, wide), { _tag: "TooDeep" })
    const endless = new Proxy([], { get: (_, key) => key === "length" ? Number.MAX_SAFE_INTEGER : undefined })
    assert.strictEqual(boundedJson(endless, { length: 1_000, depth: 10 })._tag, "TooLong")
  })

  it("names what is not JSON, and survives values that throw", () => {
    assert.deepStrictEqual(boundedJson({ a: 1n }, wide), { _tag: "NotJson", found: "a bigint" })
    assert.deepStrictEqual(boundedJson({ a: Symbol.iterator }, wide), { _tag: "NotJson", found: "a symbol" })
    const throwing = {
      get a() {
        throw new Error("no")
      }
    }
    assert.deepStrictEqual(boundedJson(throwing, wide), { _tag: "NotJson", found: "a value that throws when read" })
  })
})
