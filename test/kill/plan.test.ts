import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Unharmed } from "./checks.ts"
import type { Event } from "./Event.ts"
import * as plan from "./plan.ts"

const boundaries = [
  "open: CREATE TABLE runs",
  "before acquire",
  "after acquire",
  "before plan",
  "after plan",
  "before append StepSucceeded plan",
  "append StepSucceeded plan: INSERT",
  "after append StepSucceeded plan",
  "before append StepIntended charge",
  "append StepIntended charge: INSERT",
  "after append StepIntended charge",
  "before charge",
  "after charge",
  "before append RunCompleted",
  "after append RunCompleted",
  "before release"
]

const unharmed: Unharmed = {
  result: "all",
  deeds: [
    { step: "plan", effects: "idempotent", life: 1, key: "k1", result: "a plan" },
    { step: "charge", effects: "atMostOnce", life: 1, key: "k2", result: "a receipt" }
  ],
  events: boundaries.map((where, index): Event => ({ _tag: "Passing", at: index + 1, kind: "store", where }))
}

const runs = Array.from({ length: 200 }, (_, n) => n)
const lives = (seed: string) => Effect.forEach(runs, (n) => plan.lives(seed, n, unharmed))

describe("the plan of a campaign", () => {
  it.effect("is the same for the same seed, and another one for another", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* lives("1"), yield* lives("1"))
      assert.notDeepEqual(yield* lives("1"), yield* lives("2"))
    }))

  it.effect("kills at every boundary, around renewals, and at random", () =>
    Effect.gen(function*() {
      const fates = (yield* lives("1")).flatMap((run) => run.map(({ fate }) => fate))
      const at = new Set(fates.flatMap((fate) => fate._tag === "KilledAt" ? [fate.boundary] : []))
      for (const boundary of [...boundaries, "before renew", "after renew"]) assert.isTrue(at.has(boundary), boundary)
      const random = fates.filter((fate) => fate._tag === "KilledAfter").length
      assert.isAbove(random, fates.length / 4)
      assert.isBelow(random, fates.length * 3 / 4)
    }))

  it.effect("pauses holders that have something to write, and where a store can still refuse them", () =>
    Effect.gen(function*() {
      const pauses = (locks: boolean) =>
        Effect.map(
          Effect.forEach(runs, (n) => plan.pause("1", n, unharmed, locks)),
          (pauses) => [...new Set(pauses)].toSorted()
        )
      const fit = [
        "before plan",
        "after plan",
        "before append StepSucceeded plan",
        "after append StepSucceeded plan",
        "before append StepIntended charge",
        "after charge",
        "before append RunCompleted"
      ]
      assert.deepStrictEqual(yield* pauses(true), fit.toSorted())
      const inside = ["append StepSucceeded plan: INSERT", "append StepIntended charge: INSERT"]
      assert.deepStrictEqual(yield* pauses(false), [...fit, ...inside].toSorted())
    }))
})
