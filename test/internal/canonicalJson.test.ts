import { assert, describe, it } from "@effect/vitest"
import { Equal, Option, Redacted, Result, Schema } from "effect"
import * as Arbitrary from "effect/Arbitrary"
import { canonicalJson, type NotJson } from "../../src/internal/canonicalJson.ts"

const written = (value: unknown): string => Result.getOrThrow(canonicalJson(value))
const refused = (value: unknown): NotJson => Result.getOrThrow(Result.flip(canonicalJson(value)))

/** The same value with the members of every object in the opposite order. */
const reversed = (value: Schema.Json): Schema.Json => {
  if (Array.isArray(value)) return value.map(reversed)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(Object.entries(value).toReversed().map(([key, member]) => [key, reversed(member)]))
}

// Random texts hold lone surrogates, which the tests below look at on their own; JSON.stringify escapes exactly those.
const json = Arbitrary.schema(Schema.Json).pipe(
  Arbitrary.filter((value) => !/\\ud[89a-f]/.test(JSON.stringify(value)))
)

describe("canonicalJson", () => {
  it("sorts keys by UTF-16 code units, as in RFC 8785, 3.2.3", () => {
    const value = {
      "\u20ac": "Euro Sign",
      "\r": "Carriage Return",
      "\ufb33": "Hebrew Letter Dalet With Dagesh",
      "1": "One",
      "\ud83d\ude00": "Emoji: Grinning Face",
      "\u0080": "Control",
      "\u00f6": "Latin Small Letter O With Diaeresis"
    }
    assert.strictEqual(
      written(value),
      "{\"\\r\":\"Carriage Return\",\"1\":\"One\",\"\u0080\":\"Control\",\"\u00f6\":\"Latin Small Letter O With Diaeresis\"," +
        "\"\u20ac\":\"Euro Sign\",\"\ud83d\ude00\":\"Emoji: Grinning Face\",\"\ufb33\":\"Hebrew Letter Dalet With Dagesh\"}"
    )
  })

  it("writes literals, numbers and texts as in RFC 8785, 3.2.2", () => {
    assert.strictEqual(
      written({
        numbers: [Number("333333333.33333329"), 1E30, 4.50, 2e-3, 0.000000000000000000000000001, -0],
        string: "\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"/",
        literals: [null, true, false]
      }),
      "{\"literals\":[null,true,false],\"numbers\":[333333333.3333333,1e+30,4.5,0.002,1e-27,0]," +
        "\"string\":\"\u20ac$\\u000f\\nA'B\\\"\\\\\\\\\\\"/\"}"
    )
  })

  it.prop("the order of keys does not matter", [json], ([value]) => {
    assert.strictEqual(written(reversed(value)), written(value))
  })

  it.prop("the spelling of a number does not matter", [Schema.Finite], ([value]) => {
    for (const spelling of [value.toString(), value.toExponential(), `${value}`.replace("e+", "E")]) {
      assert.strictEqual(written(JSON.parse(spelling)), written(value))
    }
  })

  it.prop("different values have different texts, and equal values the same", [json, json], ([one, other]) => {
    const copy: unknown = JSON.parse(JSON.stringify(one))
    assert.strictEqual(written(copy), written(one))
    const plain: unknown = JSON.parse(JSON.stringify(other))
    assert.strictEqual(written(one) === written(other), Equal.equals(copy, plain))
  })

  it.prop("the text is JSON that reads back as the same value", [json], ([value]) => {
    assert.deepStrictEqual(JSON.parse(written(value)), JSON.parse(JSON.stringify(value)))
  })

  it("an absent property and one that is undefined are the same", () => {
    assert.strictEqual(written({ a: 1, b: undefined }), written({ a: 1 }))
  })

  it("uses toJSON where there is one", () => {
    assert.strictEqual(
      written({ at: new Date(0), url: new URL("http://a.b/") }),
      written({ at: "1970-01-01T00:00:00.000Z", url: "http://a.b/" })
    )
    assert.notStrictEqual(written(Option.some(1)), written(Option.some(2)))
    const self = { a: 1, toJSON: (): unknown => self }
    assert.match(refused({ self }).found, /around it/)
  })

  it("takes objects without a prototype", () => {
    assert.strictEqual(written(Object.assign(Object.create(null), { b: 1, a: 2 })), "{\"a\":2,\"b\":1}")
  })

  it("names what is not JSON, and where", () => {
    const cases: ReadonlyArray<readonly [value: unknown, path: string, found: RegExp]> = [
      [undefined, "$", /undefined/],
      [[1, undefined], "$[1]", /undefined/],
      // oxlint-disable-next-line no-sparse-arrays
      [[1, , 2], "$[1]", /undefined/],
      [{ a: { "b c": [() => 1] } }, "$.a[\"b c\"][0]", /a function/],
      [{ n: 1n }, "$.n", /bigint/],
      [{ n: Number.NaN }, "$.n", /NaN/],
      [[Infinity], "$[0]", /Infinity/],
      [Symbol("s"), "$", /symbol/],
      [{ [Symbol("s")]: 1 }, "$", /symbol/],
      [{ m: new Map([[1, 2]]) }, "$.m", /Map/],
      [{ s: "\ud800" }, "$.s", /surrogate/],
      [{ "\ud800": 1 }, "$", /surrogate/],
      [{ key: Redacted.make("secret") }, "$.key", /Redacted/],
      [
        {
          get a(): number {
            throw new Error("boom")
          }
        },
        "$",
        /throws/
      ]
    ]
    for (const [value, path, found] of cases) {
      const error = refused(value)
      assert.strictEqual(error.path, path)
      assert.match(error.found, found)
      assert.include(error.message, path)
    }
  })

  it("refuses cycles, and takes the same object twice side by side", () => {
    const a: Record<string, unknown> = {}
    a["b"] = [a]
    assert.strictEqual(refused(a).path, "$.b[0]")
    const shared = { x: 1 }
    assert.strictEqual(written([shared, shared]), "[{\"x\":1},{\"x\":1}]")
  })

  it("refuses what is nested too deep instead of overflowing the stack", () => {
    const nest = (depth: number): unknown => {
      let value: unknown = 1
      for (let i = 0; i < depth; i++) value = [value]
      return value
    }
    assert.isTrue(Result.isSuccess(canonicalJson(nest(512))))
    assert.match(refused(nest(513)).found, /512/)
    assert.match(refused(nest(100_000)).found, /512/)
    const endless = { toJSON: () => ({ ...endless }) }
    assert.match(refused(endless).found, /512/)
  })
})
