import { assert, describe, it } from "@effect/vitest"
import {
  type Continued,
  isAsking,
  type Life,
  ofContinued,
  ofStory,
  type Reading,
  type Rule,
  type Story
} from "./checks.ts"
import type { Event } from "./Event.ts"
import type { Deed } from "./World.ts"

type Journal = Extract<Reading, { readonly _tag: "Journal" }>

const planned: Deed = { step: "plan", effects: "idempotent", life: 1, key: "k1", result: "a plan" }
const charged: Deed = { step: "charge", effects: "atMostOnce", life: 1, key: "k2", result: "a receipt" }

const givenPlan: Event = { _tag: "Given", step: "plan", as: "result", digest: "p" }
const givenCharge: Event = { _tag: "Given", step: "charge", as: "result", digest: "c" }
const done: Event = { _tag: "Done", result: "all" }
const passing: Event = { _tag: "Passing", at: 7, kind: "effect", where: "after charge" }

const line = (kind: string, step: string, settles: boolean) => ({ kind, step, settles, digest: `${kind} ${step}` })
const opened = line("RunOpened", "", false)
const plan = line("StepSucceeded", "plan", true)
const intended = line("StepIntended", "charge", false)
const charge = line("StepSucceeded", "charge", true)
const completed = line("RunCompleted", "", false)

const killed = { code: null, signal: "SIGKILL", errors: "" }
const exited = { code: 0, signal: null, errors: "" }

/** Killed after the charge and before its record, and resumed. */
const first: Life = {
  life: 1,
  fate: { _tag: "KilledAt", boundary: "after charge" },
  events: [givenPlan, passing],
  ended: killed,
  glances: [{ _tag: "Absent" }, { _tag: "Journal", status: "running", leased: true, lines: [opened] }],
  journal: { _tag: "Journal", status: "running", leased: true, lines: [opened, plan, intended] },
  deeds: [planned, charged]
}

const finished: Journal = {
  _tag: "Journal",
  status: "completed",
  leased: false,
  lines: [opened, plan, intended, charge, completed]
}

const second: Life = {
  life: 2,
  fate: { _tag: "Spared" },
  events: [givenPlan, { _tag: "Reconciled", step: "charge", happened: true }, givenCharge, done],
  ended: exited,
  glances: [],
  journal: finished,
  deeds: [planned, charged]
}

const story: Story = {
  lives: [first, second],
  again: { result: "all", deeds: 0, unanswered: 0 },
  unharmed: { result: "all", deeds: [planned, charged], events: [] },
  knowsTheDead: true
}

const rulesOf = (violations: ReturnType<typeof ofStory>): ReadonlyArray<Rule> => [
  ...new Set(violations.map(({ rule }) => rule))
]

const withFirst = (change: Partial<Life>): Story => ({ ...story, lives: [{ ...first, ...change }, second] })
const withSecond = (change: Partial<Life>): Story => ({ ...story, lives: [first, { ...second, ...change }] })
const expecting = (change: Partial<Story["unharmed"]>): Story => ({
  ...story,
  unharmed: { ...story.unharmed, ...change }
})

/** A run that was killed before the plan's record, so that the plan was made again. */
const planAgain = (again: Partial<Deed>): Story => ({
  ...story,
  lives: [
    { ...first, events: [passing], journal: { ...finished, status: "running", lines: [opened] }, deeds: [planned] },
    { ...second, deeds: [planned, { ...planned, life: 2, ...again }, { ...charged, life: 2 }] }
  ]
})

const asked: Extract<Event, { readonly _tag: "Asked" }> = {
  _tag: "Asked",
  step: "agent/turn-1/model",
  prompt: "what an unharmed one is sent",
  unpaired: []
}

/** An agent whose second life asks its model. */
const asking = (change: Partial<typeof asked>): Story => {
  const { events } = second
  return {
    ...withSecond({ events: [{ ...asked, ...change }, ...events] }),
    unharmed: { ...story.unharmed, events: [asked] }
  }
}

/** Stories with one thing wrong, and what it has to be called. */
const wrong: ReadonlyArray<readonly [what: string, rules: ReadonlyArray<Rule>, story: Story]> = [
  [
    "a charge that happened twice",
    ["duplicated"],
    withSecond({ deeds: [planned, charged, { ...charged, life: 2 }] })
  ],
  [
    "a result that was given and is not in the journal",
    ["lost"],
    withFirst({ events: [givenPlan, givenCharge, passing] })
  ],
  [
    "a step that is executed again although its result is in the journal",
    ["repeated"],
    withSecond({ deeds: [planned, charged, { ...planned, life: 2 }] })
  ],
  [
    "a step that gives something else when it is resumed",
    ["changed"],
    withSecond({ events: [{ ...givenPlan, digest: "q" }, givenCharge, done] })
  ],
  ["a step that does something else when it is repeated", ["changed"], planAgain({ result: "another plan" })],
  ["a key that is another one in each life", ["keys"], planAgain({ key: "k3" })],
  ["a key that two steps share", ["keys"], withSecond({ deeds: [planned, { ...charged, key: planned.key }] })],
  [
    "a journal with another past",
    ["rewritten"],
    withSecond({
      journal: { ...finished, lines: [opened, { ...plan, digest: "forged" }, intended, charge, completed] }
    })
  ],
  ["a journal that is gone", ["rewritten", "lost", "unintended"], withFirst({ journal: { _tag: "Absent" } })],
  [
    "a charge that happened before its intent was written",
    ["unintended"],
    withFirst({ journal: { ...finished, status: "running", lines: [opened, plan] } })
  ],
  [
    "a journal that cannot be read while the run is at work",
    ["unreadable"],
    withFirst({ glances: [{ _tag: "Unreadable", error: "CheckpointCorrupt" }] })
  ],
  [
    "a life that waited for a dead one",
    ["waited"],
    withSecond({ events: [{ _tag: "Waiting", holder: "1", millis: 5 }, ...second.events] })
  ],
  ["a life that failed by itself", ["ended"], withFirst({ ended: { code: 1, signal: null, errors: "" } })],
  [
    "a life that had to be killed because nothing came of it",
    ["ended"],
    withFirst({ events: [givenPlan, { _tag: "Failed", tag: "Stuck", reason: "", message: "" }] })
  ],
  ["a run that is never done", ["ended"], withSecond({ events: [givenPlan, givenCharge], ended: killed })],
  [
    "a step that never happened",
    ["deeds"],
    expecting({ deeds: [planned, charged, { ...planned, step: "publish", key: "k3" }] })
  ],
  ["a step that is none of the program", ["deeds"], expecting({ deeds: [charged] })],
  [
    "two things that happened in another order",
    ["order"],
    {
      ...withSecond({
        journal: { ...finished, lines: [opened, plan, intended, charge, line("StepIntended", "publish", false)] },
        deeds: [planned, { ...charged, step: "publish", life: 2, key: "k3" }, charged]
      }),
      unharmed: { ...story.unharmed, deeds: [planned, charged, { ...charged, step: "publish", key: "k3" }] }
    }
  ],
  ["another result", ["result"], expecting({ result: "all and more" })],
  ["a run that is done and not completed", ["status"], withSecond({ journal: { ...finished, status: "running" } })],
  ["a lease that is left behind", ["leased"], withSecond({ journal: { ...finished, leased: true } })],
  [
    "a model that is sent a call without its result",
    ["unpaired"],
    asking({ unpaired: ["call_1"] })
  ],
  ["a model that is sent something else", ["retold"], asking({ prompt: "another one" })],
  [
    "a finished run that still asks people",
    ["unanswered"],
    { ...story, again: { result: "all", deeds: 0, unanswered: 1 } }
  ],
  ["a finished run that does something", ["restless"], { ...story, again: { result: "all", deeds: 1, unanswered: 0 } }],
  ["a finished run that gives something else", ["restless"], {
    ...story,
    again: { result: "none", deeds: 0, unanswered: 0 }
  }]
]

describe("the checks of a killed run", () => {
  it("find nothing where nothing is wrong", () => {
    assert.deepStrictEqual(ofStory(story), [])
    assert.deepStrictEqual(ofStory(planAgain({})), [])
    assert.deepStrictEqual(ofStory(asking({})), [])
  })

  it.each(wrong)("find %s", (_, rules, story) => {
    assert.deepStrictEqual(rulesOf(ofStory(story)), rules)
  })

  it("wait with a store that cannot know whether an owner is dead", () => {
    const waiting = withSecond({ events: [{ _tag: "Waiting", holder: "1", millis: 5 }, ...second.events] })
    assert.deepStrictEqual(ofStory({ ...waiting, knowsTheDead: false }), [])
  })
})

const fenced: Event = { _tag: "Failed", tag: "CheckpointStoreError", reason: "Fenced", message: "" }
const there = { journal: finished, deeds: [planned, { ...charged, life: 2 }] }
const continued: Continued = {
  life: { life: 1, events: [fenced], ended: { code: 1, signal: null, errors: "" } },
  asking: false,
  before: there,
  after: there
}

describe("the checks of a paused holder", () => {
  it("find nothing where it was refused", () => {
    assert.deepStrictEqual(ofContinued(continued), [])
  })

  it("let it do once more the idempotent effect that it was paused in", () => {
    const deeds = [...there.deeds, { ...planned, step: "turn", key: "k3" }]
    assert.deepStrictEqual(ofContinued({ ...continued, after: { ...there, deeds } }), [])
  })

  it("let it hear too late from a store that it had asked before", () => {
    const late: Continued = {
      ...continued,
      life: { ...continued.life, events: [{ ...fenced, reason: "Unavailable" }] }
    }
    assert.deepStrictEqual(ofContinued({ ...late, asking: true }), [])
    assert.isTrue(isAsking({ events: [{ _tag: "Passing", at: 1, kind: "store", where: "before append" }] }))
    assert.isFalse(isAsking({ events: [passing] }))
  })

  it.each<readonly [what: string, Continued]>([
    [
      "a journal that it has written to",
      { ...continued, after: { ...there, journal: { ...finished, lines: [...finished.lines, charge] } } }
    ],
    ["a charge that it has made", { ...continued, after: { ...there, deeds: [...there.deeds, charged] } }],
    [
      "more than one thing that it did",
      {
        ...continued,
        after: { ...there, deeds: [...there.deeds, { ...planned, step: "turn" }, { ...planned, step: "turn#2" }] }
      }
    ],
    ["an end that says nothing", { ...continued, life: { ...continued.life, events: [] } }],
    ["an end that looks like success", { ...continued, life: { ...continued.life, events: [done] } }],
    [
      "another error",
      { ...continued, life: { ...continued.life, events: [{ ...fenced, reason: "Unavailable" }] } }
    ]
  ])("find %s", (_, continued) => {
    assert.deepStrictEqual(rulesOf(ofContinued(continued)), ["unfenced"])
  })
})
