import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, identity, Layer, Option, Struct } from "effect"
import { Agent, type CheckpointStore, EscalationQueue } from "effect-resilience"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { runs } from "../support/runs.ts"
import { virtually } from "../support/virtually.ts"
import * as BrokenStores from "./brokenStores.ts"
import {
  agentOf,
  decide,
  differences,
  handlersOf,
  isOfTheStore,
  isSuspended,
  newLedger,
  noting,
  plain,
  plainScriptOf,
  type Ran,
  type Story,
  storyOf,
  violations
} from "./stories.ts"

/** What stores are told to do, by what that is. */
const weathers: Readonly<Record<string, BrokenStores.Weather>> = {
  "fail at random": (error) => [FaultPlan.fail({ probability: 0.08, error: error("Unavailable") })],
  "lose their acknowledgements": (error) => [
    FaultPlan.fail({ probability: 0.08, after: true, error: error("Unavailable") })
  ],
  "are slow, beyond what anybody waits for": () => [
    FaultPlan.delay({ probability: 0.3, by: FaultPlan.logNormal({ median: "1 second", p99: "3 minutes" }) })
  ],
  "do not answer to what they are asked for": () => [
    FaultPlan.hang({ probability: 0.15, keys: BrokenStores.reads }),
    FaultPlan.hang({ probability: 0.15, keys: BrokenStores.reads, after: true })
  ],
  "do not answer": () => [
    FaultPlan.hang({ probability: 0.03, keys: BrokenStores.writes }),
    FaultPlan.hang({ probability: 0.03, keys: BrokenStores.writes, after: true })
  ],
  "have a full disk for a while": (error) => [
    FaultPlan.outage({ from: "2 seconds", to: "20 minutes", keys: BrokenStores.writes, error: error("Rejected") })
  ],
  "do all of that": (error) => [
    FaultPlan.outage({ from: "3 seconds", to: "5 minutes", keys: BrokenStores.writes, error: error("Rejected") }),
    FaultPlan.delay({ probability: 0.1, by: FaultPlan.logNormal({ median: "200 millis", p99: "90 seconds" }) }),
    FaultPlan.hang({ probability: 0.02, keys: BrokenStores.writes, after: true }),
    FaultPlan.fail({ probability: 0.04, after: true, error: error("Unavailable") }),
    FaultPlan.fail({ probability: 0.04, error: error("Unavailable") })
  ]
}

const runId = "run-1"

/** Runs a plain story over stores that fail, in a process after the other, and looks at what is left. */
const throughFaults = (
  story: Story,
  seed: number,
  weather: BrokenStores.Weather,
  planted: BrokenStores.Planted & { readonly guard?: Agent.ModelGuard; readonly people?: typeof decide } = {}
) =>
  Effect.gen(function*() {
    const { guard = identity, people = decide } = planted
    const stores = yield* BrokenStores.make({ seed, weather, planted })
    const ledger = newLedger()
    const prompts: Array<ScriptedModel.Request> = []
    // Its time goes on while nothing is done.
    const agent = agentOf(story, { budget: { wallTime: Duration.infinity }, policies: { model: guard } })
    const said = plainScriptOf(story)
    const script = noting((request) => Effect.delay(Effect.sync(() => said(request)), "1 second"), prompts)
    const ends: Array<string> = []
    let asked = 0
    let end: Ran["end"] | undefined
    const process = Layer.mergeAll(stores.process, handlersOf(story, ledger), ScriptedModel.layer(script))
    for (let round = 0; end === undefined && round < 500; round++) {
      const exit = yield* Effect.exit(Effect.provide(
        Effect.gen(function*() {
          const result = yield* Effect.result(Agent.run(agent, { runId, prompt: "Go" }))
          if (result._tag === "Failure" && isSuspended(result.failure)) {
            asked += (yield* people(story, ledger, runId)).asked
            return undefined
          }
          return result._tag === "Failure" && isOfTheStore(result.failure) ? yield* Effect.fail(result.failure) : result
        }),
        Layer.fresh(process)
      ))
      if (Exit.isSuccess(exit)) end = exit.value
      else {
        const error = Option.getOrUndefined(Exit.findErrorOption(exit))
        ends.push(isOfTheStore(error) ? error._tag : `untyped: ${Cause.pretty(exit.cause)}`)
        // Longer than a lease that could not be given back.
        yield* Effect.sleep("40 seconds")
      }
    }
    if (end === undefined) return yield* Effect.die(`the run never ends: ${ends.slice(0, 3).join(", ")}`)
    yield* Effect.sleep("1 minute")
    const found = (yield* stores.runs.get(runId)).pipe(Option.getOrUndefined)
    const queue = yield* stores.questions
    return {
      ran: { ...ledger, end, asked, prompts },
      ends,
      faults: yield* stores.faults,
      lost: yield* stores.lost,
      status: found?.status,
      open: (yield* queue.list({ status: "open" })).length,
      recorded: stores.modelRecords.get(runId) ?? 0,
      leased: found?.lease !== undefined &&
        found.lease.expiresAt > (yield* Effect.clockWith((clock) => clock.currentTimeMillis))
    }
  }).pipe(Effect.scoped, virtually)

type Through = Effect.Success<ReturnType<typeof throughFaults>>

type Rule = "untyped" | "lost" | "status" | "leased" | "unanswered" | "askedAgain"

/** What must not be, whatever the stores did. */
const wrong = (story: Story, through: Through): ReadonlyArray<string> => {
  const { ends, leased, lost, open, ran, recorded, status } = through
  const completed = ran.end._tag === "Success"
  const rules: ReadonlyArray<readonly [Rule, boolean, unknown]> = [
    ["untyped", ends.every((end) => !end.startsWith("untyped")), ends],
    ["lost", lost.length === 0, lost],
    // That a run has failed may not be recorded either. It fails again then.
    ["status", completed ? status === "completed" : status === "failed" || status === "running", status],
    ["leased", !leased, status],
    ["unanswered", !completed || open === 0, open],
    // Each request was answered, and each answer was recorded, or the store was asked to.
    ["askedAgain", recorded === ran.prompts.length, `${ran.prompts.length} requests, ${recorded} records`]
  ]
  return [
    ...rules.flatMap(([rule, holds, detail]) => holds ? [] : [`${rule}: ${JSON.stringify(detail)}`]),
    ...[...violations(story, ran), ...differences(story, ran)].map(({ detail, rule }) => `${rule}: ${detail}`)
  ]
}

describe("an agent over stores that", () => {
  for (const [what, weather] of Object.entries(weathers)) {
    it.effect(
      `${what} ends with a typed error, is resumed, loses nothing acknowledged, pays nobody twice, and comes to the same`,
      () =>
        Effect.gen(function*() {
          let faults = 0
          let resumed = 0
          for (let seed = 0; seed < runs(12, 300); seed++) {
            const story = plain(storyOf(seed))
            const through = yield* throughFaults(story, seed, weather)
            assert.deepStrictEqual(wrong(story, through), [], `seed ${seed}, ${through.ends.join(", ")}`)
            faults += through.faults
            resumed += through.ends.length
          }
          assert.isAbove(faults, 12)
          assert.isAbove(resumed, 2)
        }),
      runs(60_000, 1_800_000)
    )
  }
})

const works = { fate: "works", repeats: false } as const
const story: Story = {
  budget: 20,
  decision: "Approve",
  answers: [[{ tool: "Pay", ...works }], [{ tool: "Sign", ...works }]]
}

const paying: Story = { ...story, answers: story.answers.slice(0, 1) }

/** The fourth record that is written is the result of the payment. */
const failsAtThePayment: BrokenStores.Weather = (error) => [
  FaultPlan.fail({ keys: ["append"], calls: [4], error: error("Unavailable") })
]
/** And its result is not remembered either. */
const forgetsThePayment: BrokenStores.Weather = (error) => [
  FaultPlan.fail({ keys: ["put"], calls: [1], error: error("Unavailable") })
]
const fair: BrokenStores.Weather = () => []

describe("an agent over a store that never answers a read", () => {
  const silences: Readonly<Record<string, BrokenStores.Planted>> = {
    "of the journal": { runs: (store) => ({ ...store, read: () => Effect.never }) },
    "of the run": { runs: (store) => ({ ...store, get: () => Effect.never }) },
    "of a question": { questions: (store) => ({ ...store, find: () => Effect.never }) },
    "of an earlier result": { results: (store) => ({ ...store, get: () => Effect.never }) }
  }
  const signing: Story = { ...story, answers: [[{ tool: "Sign", ...works }], [{ tool: "Pay", ...works }]] }
  it.effect.each(Object.entries(silences))(
    "%s fails with a typed error in the time of the store",
    ([, planted]) =>
      Effect.gen(function*() {
        const now = Effect.clockWith((clock) => clock.currentTimeMillis)
        const stores = yield* BrokenStores.make({ seed: 1, weather: fair, planted })
        const ledger = newLedger()
        const agent = agentOf(signing, { budget: { wallTime: "1 minute" } })
        const started = yield* now
        const run = Agent.run(agent, { runId, prompt: "Go" })
        const error = yield* Effect.flip(run).pipe(
          Effect.flatMap((error) => isSuspended(error) ? decide(signing, ledger, runId) : Effect.fail(error)),
          Effect.repeat({ times: 3 }),
          Effect.flip,
          Effect.provide(Layer.mergeAll(
            stores.process,
            handlersOf(signing, ledger),
            ScriptedModel.layer(plainScriptOf(signing))
          ))
        )
        assert.isTrue(isOfTheStore(error), JSON.stringify(error))
        assert.isAtMost((yield* now) - started, 150_000)
      }).pipe(Effect.scoped, virtually)
  )
})

const hasBody = (part: string) => ({ body }: CheckpointStore.Entry) => body.includes(part)

/** Stores, and an agent, with one thing wrong, and what has to be found. */
const planted: Readonly<Record<string, readonly [finds: string, through: ReturnType<typeof throughFaults>]>> = {
  "a store that acknowledges what it does not write": [
    "lost",
    throughFaults(story, 1, fair, {
      runs: (store) => ({
        ...store,
        append: (lease, entries, status) =>
          entries.some(hasBody("\"RunCompleted\"")) ? Effect.void : store.append(lease, entries, status)
      })
    })
  ],
  "a run that is done and not completed": [
    "status",
    throughFaults(story, 1, fair, {
      runs: (store) => ({ ...store, append: (lease, entries) => store.append(lease, entries) })
    })
  ],
  "people who say that a payment has not gone out": [
    "repeated",
    throughFaults(story, 1, forgetsThePayment, {
      people: (story, { signed }, runId) => decide(story, { signed, paid: new Map() }, runId)
    })
  ],
  "a store that keeps its leases": [
    "leased",
    throughFaults(paying, 1, fair, {
      runs: (store) => ({
        ...store,
        acquire: (runId, _, options) => store.acquire(runId, Duration.days(1), options),
        release: () => Effect.void
      })
    })
  ],
  "a queue that asks once more": [
    "unanswered",
    throughFaults(story, 1, fair, {
      questions: (store) => ({
        ...store,
        insert: (record) =>
          Effect.andThen(
            store.insert(
              EscalationQueue.Escalation.make(Struct.assign(record, { id: `${record.id}/again`, runId: "x" }))
            ),
            store.insert(record)
          )
      })
    })
  ],
  "an agent that asks its model twice": [
    "askedAgain",
    throughFaults(story, 1, fair, { guard: (self) => Effect.andThen(self, self) })
  ],
  "a bug that is none of the stores": [
    "untyped",
    Effect.suspend(() => {
      let calls = 0
      return throughFaults(story, 1, fair, { guard: (self) => ++calls === 2 ? Effect.die("a bug") : self })
    })
  ]
}

describe("the checks of a run over stores that fail, when a fault is planted,", () => {
  it.effect("find nothing where nothing is wrong", () =>
    Effect.gen(function*() {
      for (const weather of [fair, failsAtThePayment, forgetsThePayment]) {
        assert.deepStrictEqual(wrong(story, yield* throughFaults(story, 1, weather)), [])
      }
    }))

  it.effect.each(Object.entries(planted))("find %s", ([, [finds, through]]) =>
    Effect.gen(function*() {
      const found = wrong(story, yield* through).map((found) => found.split(":")[0])
      assert.include(found, finds)
    }))
})
