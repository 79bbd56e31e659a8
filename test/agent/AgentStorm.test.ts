import { assert, describe, it } from "@effect/vitest"
import { Effect, Result } from "effect"
import { runs } from "../support/runs.ts"
import { differences, type End, type Violation, violations } from "./stories.ts"
import { phasesWithin, type Storm, storm, type Told } from "./storm.ts"

type Rule =
  | "said" // a run did not say why it ended as it did
  | "error" // a run failed with something else than it may
  | "status" // the store has a run in another state than it ended in
  | "leased" // a run that is over is still held
  | "open" // a run that is done still asks people, or one that waits asks nobody
  | "models" // the calls of models that were heard of are not those that were recorded
  | "tools" // the calls of tools that were heard of are not those that the turns tell of
  | "questions" // the questions that were heard of are not those in the queue
  | "completed" // a run was not heard to complete once
  | "fallbacks" // the answers of the backup that were heard of are not those that it gave
  | "sums" // what was heard of single runs is not what was heard of in all
  | "lost" // something acknowledged is not there
  | "left" // fibers, timers, permits, reservations or probes are left

/** What a model call may fail with behind its guards. */
const errors = new Set([
  "AgentError",
  "AiError",
  "AttemptTimeout",
  "BulkheadFull",
  "CircuitOpen",
  "DeadlineExceeded",
  "QuotaExceeded"
])

/** In these a run comes to the same as without a storm, if it comes to an end. */
const harmless: ReadonlySet<string> = new Set(["calm", "limited", "outage", "recovery", "brownout", "clearing"])

const ofRun = (told: Told) => {
  const { again, end, ended, from, heard, hindered, ledger, modelRecords, prompts, story, to } = told
  const found: Array<Violation<string>> = []
  const check = (rule: Rule, holds: boolean, detail: string) => void (holds || found.push({ rule, detail }))
  const within: ReadonlySet<string> = phasesWithin(from, to)
  const storesFailed = within.has("stores") || within.has("everything")
  const failure = ended !== undefined && Result.isFailure(ended) ? ended.failure : undefined
  const result = ended !== undefined && Result.isSuccess(ended) ? ended.success : undefined

  found.push(...violations(story, {
    ...ledger,
    prompts,
    end: result === undefined ? Result.fail({ _tag: "AgentError", message: "" }) : Result.succeed(result)
  }))
  check("said", told.why !== "", end)
  check("error", failure === undefined || errors.has(failure._tag), String(failure?._tag))
  check("leased", !told.leased, told.why)
  check("models", heard.modelCalls === modelRecords, `heard of ${heard.modelCalls}, recorded ${modelRecords}`)
  if (result === undefined) {
    const status = ended === undefined ? "escalated" : "failed"
    // How it ended may not have been recorded, where the store failed too.
    const isUnrecorded = told.status === "running" && storesFailed
    check("status", told.status === status || isUnrecorded, `${told.status} instead of ${status}`)
    check("open", ended !== undefined || told.open > 0, `${told.open} questions, and it waits`)
    return found
  }
  check("status", told.status === "completed", String(told.status))
  check("open", told.open === 0, `${told.open} questions, and it is done`)
  // Who was stopped by a store and resumed may have been heard twice, or said something that is not in the journal.
  if (hindered === 0) {
    const calls = result.turns.flatMap(({ toolCalls }) => toolCalls).filter(({ attempts }) => attempts > 0)
    const tools = calls.length + again
    check("tools", heard.toolCalls === tools, `heard of ${heard.toolCalls}, the turns of ${tools}`)
    check("questions", heard.questions === told.questions, `heard of ${heard.questions}, asked ${told.questions}`)
    check("completed", heard.completed === 1, `${heard.completed} times`)
  }
  if (!told.hurried && result.counters.rollbacks === 0 && [...within].every((at) => harmless.has(at))) {
    found.push(...differences(story, { ...ledger, end: Result.succeed(result) }))
  }
  return found
}

const wrong = ({ events, fallbacks, left, lost, runs }: Storm): ReadonlyArray<Violation<string>> => {
  const found: Array<Violation<string>> = runs.flatMap((told) =>
    ofRun(told).map(({ detail, rule }) => ({ rule, detail: `${told.runId}: ${detail}` }))
  )
  const check = (rule: Rule, holds: boolean, detail: unknown) =>
    void (holds || found.push({ rule, detail: JSON.stringify(detail) }))
  const sum = (of: (told: Told) => number) => runs.reduce((total, told) => total + of(told), 0)
  check("sums", sum(({ heard }) => heard.modelCalls) === events["ModelCalled"], events["ModelCalled"])
  check("sums", sum(({ heard }) => heard.toolCalls) === events["ToolCalled"], events["ToolCalled"])
  check("sums", sum(({ heard }) => heard.questions) === events["EscalationOpened"], events["EscalationOpened"])
  check("fallbacks", fallbacks.heard === fallbacks.used, fallbacks)
  check("lost", lost.length === 0, lost)
  check("left", Object.values(left).every((n) => n === 0), left)
  return found
}

const endsOf = ({ runs }: Storm) => {
  const ends: Record<End, number> = { completed: 0, degraded: 0, escalated: 0, failed: 0 }
  for (const { end } of runs) ends[end]++
  return ends
}

describe("runs through a storm that changes", () => {
  const count = runs(120, 10_000)

  it.effect(
    `all ${count} end completed, degraded, escalated or failed and say why; the sums add up, and nothing is left`,
    () =>
      Effect.gen(function*() {
        const told = yield* storm(1, count)
        assert.deepStrictEqual(wrong(told), [])
        const ends = endsOf(told)
        assert.strictEqual(Object.values(ends).reduce((sum, n) => sum + n, 0), count)
        for (const [end, n] of Object.entries(ends)) assert.isAbove(n, 0, `no run ended ${end}`)
        // It was a storm.
        const { events } = told
        for (
          const event of [
            "CircuitChanged",
            "CircuitRejected",
            "FallbackUsed",
            "QuotaGated",
            "QuotaWaited",
            "RetryScheduled",
            "RetryGaveUp",
            "StepAmbiguous"
          ]
        ) assert.isAbove(events[event] ?? 0, 0, event)
        assert.isAbove(told.runs.filter(({ hindered }) => hindered > 0).length, 0)
      }),
    runs(60_000, 1_800_000)
  )

  const digest = ({ events, fallbacks, runs }: Storm) =>
    JSON.stringify([
      runs.map(({ end, from, heard, ledger, prompts, to, why }) => [
        end,
        why,
        from,
        to,
        heard,
        [...ledger.paid],
        [...ledger.signed],
        prompts.length
      ]),
      events,
      fallbacks
    ])

  it.effect("come to the same with the same seed, and to something else with another", () =>
    Effect.gen(function*() {
      const [one, again, other] = [yield* storm(7, 25), yield* storm(7, 25), yield* storm(8, 25)]
      assert.strictEqual(digest(again), digest(one))
      assert.notStrictEqual(digest(other), digest(one))
    }))
})

/** A storm of which something is told otherwise for all runs. */
const retold = (change: (told: Told) => Partial<Told>) => (storm: Storm): Storm => ({
  ...storm,
  runs: storm.runs.map((told) => ({ ...told, ...change(told) }))
})

const planted: Readonly<Record<string, readonly [finds: Rule, (storm: Storm) => Storm]>> = {
  "a run that does not say why it ended": ["said", retold(() => ({ why: "" }))],
  "a run that fails with a defect": [
    "error",
    retold(() => ({ ended: Result.fail({ _tag: "TypeError", message: "" }) }))
  ],
  "a run that is still at work": ["status", retold(() => ({ status: "suspended" }))],
  "a lease that is left": ["leased", retold(() => ({ leased: true }))],
  "a question that is left": ["open", retold(() => ({ open: 1 }))],
  "a model call that nobody heard of": ["models", retold((told) => ({ modelRecords: told.modelRecords + 1 }))],
  "a tool call that nobody heard of": ["tools", retold((told) => ({ again: told.again + 1 }))],
  "a question that nobody heard of": ["questions", retold((told) => ({ questions: told.questions + 1 }))],
  "a run that completes twice": ["completed", retold(({ heard }) => ({ heard: { ...heard, completed: 2 } }))],
  "an event of no run": ["sums", (storm) => ({ ...storm, events: { ...storm.events, ToolCalled: 1 } })],
  "an answer of the backup that nobody heard of": [
    "fallbacks",
    (storm) => ({ ...storm, fallbacks: { ...storm.fallbacks, used: storm.fallbacks.used + 1 } })
  ],
  "a fiber that is left": ["left", (storm) => ({ ...storm, left: { ...storm.left, fibers: 1 } })],
  "a permit that is left": ["left", (storm) => ({ ...storm, left: { ...storm.left, running: 1 } })]
}

describe("the checks of a storm, when a fault is planted,", () => {
  const sound = Effect.runSync(Effect.cached(storm(2, 15)))
  const rulesOf = (storm: Storm) => new Set(wrong(storm).map(({ rule }) => rule))

  it.effect("find nothing where nothing is wrong", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(wrong(yield* sound), [])
    }))

  it.effect.each(Object.entries(planted))("find %s", ([, [finds, change]]) =>
    Effect.gen(function*() {
      assert.isTrue(rulesOf(change(yield* sound)).has(finds))
    }))

  it.effect("find a store that acknowledges an end which it does not write", () =>
    Effect.gen(function*() {
      const told = yield* storm(2, 15, {
        runs: (store) => ({
          ...store,
          append: (lease, entries, status) =>
            status === "completed" ? Effect.void : store.append(lease, entries, status)
        })
      })
      const rules = rulesOf(told)
      assert.isTrue(rules.has("lost") && rules.has("status"), [...rules].join(", "))
    }))
})
