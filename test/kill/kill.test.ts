import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { isFull } from "../support/runs.ts"
import * as campaign from "./campaign.ts"
import type { Rule } from "./checks.ts"
import * as driver from "./driver.ts"
import type { Fault } from "./faults.ts"
import { available, stores } from "./stores.ts"

const names = Object.keys(stores)

const unharmed = {
  durable: Effect.runSync(Effect.cached(driver.unharmed({ program: "durable", store: "sqlite" }))),
  agent: Effect.runSync(Effect.cached(driver.unharmed({ program: "agent", store: "sqlite" })))
}

type Program = keyof typeof unharmed

// Twenty kills over the stores, and hundreds, are those of `npm run test:kill`.
describe("runs that are killed with SIGKILL, over every store", () => {
  it.live(
    "give what unharmed ones give, repeat nothing that must not be, and lose nothing that was acknowledged",
    () =>
      Effect.gen(function*() {
        const { able, schema } = yield* available(names)
        const [kills, pauses] = isFull ? [5, 1] : [1, 0]
        const orders = {
          programs: ["durable"],
          stores: able,
          seed: 1,
          kills,
          pauses,
          givenUp: false,
          schema,
          concurrency: 2
        }
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
        const { lives, violations } = yield* driver.givenUp({ store: "sqlite" }, yield* unharmed.durable)
        assert.deepStrictEqual(violations, [])
        assert.strictEqual(lives.length, 5)
      }),
    60_000
  )
})

const killedAt = Effect.fnUntraced(function*(
  program: Program,
  fault: Fault | undefined,
  ...boundaries: ReadonlyArray<string>
) {
  const lives = boundaries.map((boundary) => ({ fate: { _tag: "KilledAt" as const, boundary }, glanceAt: [] }))
  return yield* driver.story({ program, store: "sqlite", fault }, yield* unharmed[program], { lives })
})

const spared = (program: Program, fault: Fault) => killedAt(program, fault)

const pausedAt = Effect.fnUntraced(function*(fault: Fault, boundary: string) {
  return yield* driver.paused({ store: "sqlite", fault }, yield* unharmed.durable, boundary)
})

const clerk = (turn: number, what: string) => `[clerk]/[turn-${turn}]/${what}`

type Places = ReadonlyArray<readonly [where: string, boundaries: ReadonlyArray<string>]>

/** One run that is killed wherever most is at stake. */
const together: Places = [
  [
    "between a decision and its resume, when a call has happened and nobody knows, while people are asked, and when it goes back",
    [
      "after IrreversibleAction",
      `after ${clerk(3, "tools[1]/Refund")}`,
      "before AmbiguousState",
      `after append StepSucceeded ${clerk(6, "model")}`
    ]
  ]
]

/** The same one by one. Runs that are killed anywhere are the campaign's. */
const apart: Places = [
  [
    "after the model's answer is recorded, then between its calls",
    [`after append StepSucceeded ${clerk(1, "model")}`, `before append StepIntended ${clerk(1, "tools[2]/Pay")}`]
  ],
  [
    "when a call has happened and nobody knows, then while people are asked whether it has, then when they have said so",
    [`after ${clerk(3, "tools[1]/Refund")}`, "before AmbiguousState", "after AmbiguousState"]
  ],
  [
    "while the run waits for people, between their decision and its resume, and once they are obeyed",
    ["before IrreversibleAction", "after IrreversibleAction", `before ${clerk(2, "approvals[0]/Sign")}`]
  ],
  [
    "before and after it is in the journal that the run goes back, then in the turn after that",
    [
      `before append StepSucceeded ${clerk(6, "model")}`,
      `after append StepSucceeded ${clerk(6, "model")}`,
      `after ${clerk(7, "tools[0]/Look")}`
    ]
  ],
  [
    "when a budget is used up, before and after the last answer",
    ["before [scout]/[last]/model", "after append StepSucceeded [scout]/[last]/model"]
  ]
]

describe("agents that are killed with SIGKILL", () => {
  it.live.each(isFull ? [...together, ...apart] : together)(
    "come to what unharmed ones come to: %s",
    ([, boundaries]) =>
      Effect.gen(function*() {
        const { lives, violations } = yield* killedAt("agent", undefined, ...boundaries)
        assert.deepStrictEqual(violations, [])
        assert.deepStrictEqual(
          lives.map((life) => life.ended.signal),
          [...boundaries.map(() => "SIGKILL"), null]
        )
      }),
    60_000
  )

  it.live(
    "at random, over every store, repeat nothing that must not be, lose nothing that was acknowledged and leave no question",
    () =>
      Effect.gen(function*() {
        const { able, schema } = yield* available(isFull ? names : ["postgres"])
        const [kills, pauses] = isFull ? [5, 1] : [1, 0]
        const orders = {
          programs: ["agent"],
          stores: able,
          seed: 1,
          kills,
          pauses,
          givenUp: isFull,
          schema,
          concurrency: 2
        }
        const { findings, tallies } = yield* campaign.run(orders)
        assert.deepStrictEqual(findings, [])
        for (const tally of tallies) assert.isAtLeast(campaign.killsOf(tally), kills, tally.store)
      }),
    240_000
  )
})

describe("the harness, when a fault is planted,", () => {
  it.live.each<readonly [what: string, found: Effect.Effect<driver.Told, unknown>, rules: ReadonlyArray<Rule>]>([
    [
      "a store that drops the intents of steps that must not happen twice",
      killedAt("durable", "dropsIntents", "after charge"),
      ["unintended", "duplicated"]
    ],
    [
      "a store that acknowledges a record before it is written",
      killedAt("durable", "acknowledgesEarly", "before append StepIntended charge"),
      ["lost"]
    ],
    ["a store that keeps the lease of a finished run", spared("durable", "keepsItsLease"), ["leased"]],
    ["a program that gives something else in every process", spared("durable", "isNotPure"), ["result", "restless"]],
    [
      "a holder that goes on after its lease was taken over",
      pausedAt("isNotFenced", "before append StepSucceeded plan"),
      ["unfenced"]
    ],
    [
      "an agent whose store drops the intents of its calls",
      killedAt("agent", "dropsIntents", `after ${clerk(1, "tools[2]/Pay")}`),
      ["unintended", "duplicated"]
    ],
    [
      "an agent whose store gives back less than it has spent",
      killedAt("agent", "forgetsSpending", `after append StepSucceeded [scout]/[turn-2]/model`),
      ["result"]
    ],
    ["an agent whose model is not told what its calls came to", spared("agent", "losesResults"), [
      "unpaired",
      "retold"
    ]],
    ["an agent whose model is told something else in every process", spared("agent", "tellsItsProcess"), ["retold"]],
    ["a question that is left to people when the run is done", spared("agent", "asksInVain"), ["unanswered"]]
  ])("finds %s", ([, found, rules]) =>
    Effect.gen(function*() {
      const { violations } = yield* found
      // What else comes of a fault depends on what the next life finds.
      assert.includeMembers(violations.map(({ rule }) => rule), [...rules])
    }), 180_000)
})
