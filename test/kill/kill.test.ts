import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { isFull } from "../support/runs.ts"
import * as campaign from "./campaign.ts"
import type { Rule } from "./checks.ts"
import * as driver from "./driver.ts"
import type { Fault } from "./faults.ts"
import { available, stores } from "./stores.ts"

const names = Object.keys(stores)

const unharmed = Effect.runSync(Effect.cached(driver.unharmed({ store: "sqlite" })))

// Twenty kills over the stores, and hundreds, are those of `npm run test:kill`.
describe("runs that are killed with SIGKILL, over every store", () => {
  it.live(
    "give what unharmed ones give, repeat nothing that must not be, and lose nothing that was acknowledged",
    () =>
      Effect.gen(function*() {
        const { able, schema } = yield* available(names)
        const [kills, pauses] = isFull ? [5, 1] : [1, 0]
        const orders = { stores: able, seed: 1, kills, pauses, givenUp: false, schema, concurrency: 2 }
        const { findings, tallies } = yield* campaign.run(orders)
        assert.deepStrictEqual(findings, [])
        for (const tally of tallies) {
          assert.isAtLeast(campaign.killsOf(tally), kills, tally.store)
          assert.strictEqual(tally.pauses, pauses, tally.store)
        }
      }),
    240_000
  )

  it.live(
    "are given up when they kill every process, and have a fresh start when they are revived",
    () =>
      Effect.gen(function*() {
        const { lives, violations } = yield* driver.givenUp({ store: "sqlite" }, yield* unharmed)
        assert.deepStrictEqual(violations, [])
        assert.strictEqual(lives.length, 5)
      }),
    60_000
  )
})

const killedAt = Effect.fnUntraced(function*(fault: Fault, boundary: string) {
  const fate = { _tag: "KilledAt" as const, boundary }
  return yield* driver.story({ store: "sqlite", fault }, yield* unharmed, { lives: [{ fate, glanceAt: [] }] })
})

const spared = Effect.fnUntraced(function*(fault: Fault) {
  return yield* driver.story({ store: "sqlite", fault }, yield* unharmed, { lives: [] })
})

const pausedAt = Effect.fnUntraced(function*(fault: Fault, boundary: string) {
  return yield* driver.paused({ store: "sqlite", fault }, yield* unharmed, boundary)
})

describe("the harness, when a fault is planted,", () => {
  it.live.each<readonly [what: string, found: Effect.Effect<driver.Told, unknown>, rules: ReadonlyArray<Rule>]>([
    [
      "a store that drops the intents of steps that must not happen twice",
      killedAt("dropsIntents", "after charge"),
      ["unintended", "duplicated"]
    ],
    [
      "a store that acknowledges a record before it is written",
      killedAt("acknowledgesEarly", "before append StepIntended charge"),
      ["lost"]
    ],
    ["a store that keeps the lease of a finished run", spared("keepsItsLease"), ["leased"]],
    ["a program that gives something else in every process", spared("isNotPure"), ["result", "restless"]],
    [
      "a holder that goes on after its lease was taken over",
      pausedAt("isNotFenced", "before append StepSucceeded plan"),
      ["unfenced"]
    ]
  ])("finds %s", ([, found, rules]) =>
    Effect.gen(function*() {
      const { violations } = yield* found
      // What else comes of a fault depends on what the next life finds.
      assert.includeMembers(violations.map(({ rule }) => rule), [...rules])
    }), 180_000)
})
