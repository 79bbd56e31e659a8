import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { program } from "../../examples/outage.ts"

describe("the example of the governor", () => {
  it.effect("finishes many times as much with it, and wastes hardly a call", () =>
    Effect.gen(function*() {
      const totals = yield* program
      assert.isAbove(totals.with.steps, 5 * totals.without.steps)
      assert.isAbove(totals.with.steps, 0.9 * totals.with.calls)
    }))
})
