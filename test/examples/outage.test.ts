import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { virtual } from "../../examples/outage.ts"

describe("the example of the governor", () => {
  it.effect.each([1, 2, 3])(
    "finishes many times as much with it, and wastes hardly a call, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const totals = yield* virtual(seed)
        assert.isAbove(totals.with.steps, 4 * totals.without.steps)
        assert.isAbove(totals.with.steps, 0.9 * totals.with.calls)
      })
  )
})
