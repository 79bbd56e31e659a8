import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Result } from "effect"
import { type Agent, Checkpoint } from "effect-resilience"
import { CrashPoints } from "effect-resilience/testing"
import { Prompt } from "effect/ai"
import { TestClock } from "effect/testing"
import { isFull, runs } from "../support/runs.ts"
import {
  agentOf,
  decide,
  type Difference,
  differences,
  type End,
  endOf,
  handlersOf,
  type Parts,
  Plain,
  plainScriptOf,
  type Ran,
  type Rule,
  Story,
  storyOf,
  told,
  toolkit,
  toTheEnd,
  violations
} from "./stories.ts"
import { durable } from "./support.ts"

describe("any agent in any world", () => {
  it.effect.prop(
    "pairs every call with a result, pays nobody twice, keeps its bounds, and comes to the same when resumed after each step",
    { story: Story },
    ({ story }) =>
      Effect.gen(function*() {
        const ran = yield* toTheEnd(story, "run-1").pipe(Effect.provide(Layer.fresh(durable)))
        assert.deepStrictEqual(violations(story, ran), [])
        const resumed = yield* CrashPoints.alwaysReplay(toTheEnd(story, "run-1")).pipe(
          Effect.provide(Layer.fresh(durable))
        )
        assert.deepStrictEqual(violations(story, resumed), [])
        assert.deepStrictEqual(told(resumed), told(ran))
      }),
    { arbitrary: { runs: runs(60, 2_000), seed: 1 }, timeout: runs(60_000, 1_800_000) }
  )
})

describe("a random agent, crashed after each of its steps", () => {
  it.effect.prop(
    "comes to what a reference interpreter reads from its story",
    { story: Plain },
    ({ story }) =>
      Effect.gen(function*() {
        const ran = yield* CrashPoints.alwaysReplay(toTheEnd(story, "run-1")).pipe(Effect.provide(Layer.fresh(durable)))
        assert.deepStrictEqual(differences(story, ran), [])
      }),
    { arbitrary: { runs: runs(60, 2_000), seed: 1 }, timeout: runs(60_000, 1_800_000) }
  )
})

const step = (tool: "Look" | "Pay" | "Sign", fate: "works" | "down" = "works") => ({ tool, fate, repeats: false })

const story: Story = { budget: 20, decision: "Approve", answers: [[step("Look"), step("Pay")], [step("Sign")]] }
const idle: Story = { ...story, answers: Array.from({ length: 6 }, () => [step("Look", "down")]) }
const rejected: Story = { ...story, decision: "Reject" }

/** A run that is told with something else in it than there was. */
const retold = (change: (result: Extract<Ran["end"], { _tag: "Success" }>["success"]) => object) => (ran: Ran): Ran =>
  ran.end._tag === "Failure" ? ran : {
    ...ran,
    end: Result.succeed({ ...ran.end.success, ...change(ran.end.success) })
  }

const counted = (counters: Partial<Agent.Counters>) =>
  retold((result) => ({ counters: { ...result.counters, ...counters } }))

/** Does what it does once more. */
const twice: Parts["handlers"] = (ledger) => {
  const bumped = (at: number) => void ledger.paid.set(at, (ledger.paid.get(at) ?? 0) + 2)
  return toolkit.toLayer({
    Look: ({ at }) => Effect.succeed(`saw ${at}`),
    Pay: ({ at }) => Effect.sync(() => (bumped(at), `paid ${at}`)),
    Sign: ({ at }) => Effect.succeed(`signed ${at}`)
  })
}

interface Planted {
  readonly story?: Story
  readonly parts?: Parts
  readonly ran?: (ran: Ran) => Ran
  readonly finds: ReadonlyArray<Rule | Difference>
}

/** Runs with one thing wrong, and what has to be found. */
const planted: Readonly<Record<string, Planted>> = {
  "a model that is not sent what its calls came to": {
    ran: (ran) => ({
      ...ran,
      prompts: ran.prompts.map((request) => ({
        ...request,
        prompt: Prompt.fromMessages(request.prompt.content.filter(({ role }) => role !== "tool"))
      }))
    }),
    finds: ["unpaired"]
  },
  "a payment that goes out twice": { parts: { handlers: twice }, finds: ["repeated", "signed"] },
  "people who are not heard": {
    story: rejected,
    parts: { decide: (story, ...args) => decide({ ...story, decision: "Approve" }, ...args) },
    finds: ["unallowed", "calls", "signed"]
  },
  "a run that ends with an error that is none of its own": {
    ran: (ran) => ({ ...ran, end: Result.fail(new Checkpoint.RunCancelled({ runId: "run-1" })) }),
    finds: ["error", "end"]
  },
  "an agent that asks its model oftener than it may": {
    story: { ...story, budget: 2, answers: [...story.answers, [step("Look")]] },
    parts: { agent: agentOf({ budget: 20 }) },
    finds: ["iterations", "end", "text", "calls"]
  },
  "an agent that stops too early": {
    parts: { agent: agentOf({ budget: 1 }) },
    finds: ["end", "text", "calls", "signed"]
  },
  "an agent that goes back for ever": { ran: counted({ rollbacks: 3 }), finds: ["bounds"] },
  "an agent that is told of loops for ever": { ran: counted({ loops: 3 }), finds: ["bounds", "loops"] },
  "an agent that makes its conversation smaller for ever": { ran: counted({ compactions: 9 }), finds: ["bounds"] },
  "a turn that is not told of": {
    ran: retold(({ turns }) => ({ turns: turns.slice(1) })),
    finds: ["turns", "toolCalls", "calls"]
  },
  "a call that is not counted": { ran: counted({ toolCalls: 2 }), finds: ["toolCalls"] },
  "a failure that is not counted": { story: idle, ran: counted({ toolErrors: 0 }), finds: ["toolErrors"] },
  "an agent that does not see that it goes round in circles": {
    story: idle,
    parts: { agent: agentOf({ budget: 20 }, { loops: false }) },
    finds: ["loops"]
  },
  "a payment that is not made": {
    parts: { handlers: (ledger) => handlersOf({ ...story, answers: [] }, { ...ledger, paid: new Map() }) },
    finds: ["paid"]
  }
}

describe("the checks of a run, when a fault is planted,", () => {
  const found = (planted: Omit<Planted, "finds">) =>
    Effect.gen(function*() {
      const { parts, ran = (ran) => ran, story: told = story } = planted
      const end = ran(yield* toTheEnd(told, "run-1", { script: plainScriptOf(told), ...parts }))
      return [...violations(told, end), ...differences(told, end)].map(({ rule }) => rule)
    }).pipe(Effect.provide(Layer.fresh(durable)))

  it.effect("find nothing where nothing is wrong", () =>
    Effect.gen(function*() {
      for (const one of [story, idle, rejected]) assert.deepStrictEqual(yield* found({ story: one }), [])
    }))

  it.effect.each(Object.entries(planted))("find %s", ([, { finds, ...rest }]) =>
    Effect.gen(function*() {
      assert.deepStrictEqual([...new Set(yield* found(rest))].toSorted(), finds.toSorted())
    }))
})

describe("a soak of runs through a storm", () => {
  const count = isFull ? 10_000 : 150

  it.effect(
    `${count} runs each end completed, degraded, escalated or failed, and the sums add up`,
    () =>
      Effect.gen(function*() {
        const ends: Record<End, number> = { completed: 0, degraded: 0, escalated: 0, failed: 0 }
        yield* Effect.forEach(
          Array.from({ length: count }, (_, seed) => seed),
          (seed) =>
            Effect.gen(function*() {
              const story = storyOf(seed)
              const ran = yield* toTheEnd(story, `run-${seed}`).pipe(Effect.provide(Layer.fresh(durable)))
              assert.deepStrictEqual(violations(story, ran), [])
              ends[endOf(ran)]++
            }),
          { concurrency: 16, discard: true }
        )
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(Object.values(ends).reduce((sum, n) => sum + n, 0), count)
        for (const [end, n] of Object.entries(ends)) assert.isAbove(n, 0, `no run ended ${end}`)
      }),
    runs(60_000, 1_800_000)
  )
})
