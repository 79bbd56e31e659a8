import { assert, describe } from "@effect/vitest"
import { Effect, Layer, Ref } from "effect"
import { Agent, AgentBudget, Checkpoint, CheckpointStore } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { replaying } from "../support/replaying.ts"
import { call, counting, durable, kit } from "./support.ts"

const it = replaying({
  "has one last answer of a run that had turns beyond it, and not another one where that failed":
    "a run that starts over after each record keeps no failed calls"
})

const options = { runId: "run-1", prompt: "Go" }
const agent = (budget: AgentBudget.Options) =>
  Agent.make({ name: "support", instructions: "", toolkit: kit, budget, whenSpent: "fail" })

/** Looks up one order after the other, all of them new, and answers after the sixth. */
const looking: ScriptedModel.Script = ({ prompt }) => {
  const turn = prompt.content.filter(({ role }) => role === "tool").length
  return turn === 6 ? "Done." : ScriptedModel.turn(
    call(`a${turn}`, "Lookup", { order: `a${turn}` }),
    call(`b${turn}`, "Refund", { order: `b${turn}` }),
    { usage: { inputTokens: 100, outputTokens: 10 } }
  )
}

describe("a run that has spent its budget and is to fail then", () => {
  for (
    const [budget, small, large] of [
      ["iterations", { iterations: 3 }, { iterations: 20 }],
      ["toolCalls", { toolCalls: 5 }, { toolCalls: 50 }],
      ["inputTokens", { inputTokens: 300 }, { inputTokens: 10_000 }]
    ] as const
  ) {
    it.effect(`goes on with more ${budget}, with what it spent before, and does nothing twice`, () =>
      Effect.gen(function*() {
        const { handlers, lookups, refunds } = yield* counting
        yield* Effect.gen(function*() {
          const error = yield* Effect.flip(Agent.run(agent(small), options))
          assert.isTrue(
            error._tag === "AgentError" && error.reason._tag === "BudgetExceeded" && error.reason.budget === budget
          )
          const before = (yield* ScriptedModel.requests).length
          const again = yield* Effect.flip(Agent.run(agent(small), options))
          assert.strictEqual(again.message, error.message)
          assert.strictEqual((yield* ScriptedModel.requests).length, before, "nothing is spent after the end")
          const result = yield* Agent.run(agent(large), options)
          assert.strictEqual(result.completion, "complete")
          assert.deepInclude(result.counters, { iterations: 7, toolCalls: 12 })
          assert.strictEqual(result.usage.inputTokens, 600)
          assert.strictEqual((yield* ScriptedModel.requests).length, 7)
          assert.strictEqual(yield* Ref.get(lookups), 6)
          assert.deepStrictEqual(yield* Ref.get(refunds), ["b0", "b1", "b2", "b3", "b4", "b5"])
        }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(looking))))
      }).pipe(Effect.provide(durable)))
  }
})

describe("a meter that is missing", () => {
  it.effect("counts as spent, and the result says how often", () =>
    Effect.gen(function*() {
      const unmetered = [
        call("1", "Lookup", { order: "7" }),
        {
          type: "finish",
          reason: "tool-calls",
          usage: { inputTokens: {}, outputTokens: {} },
          response: undefined
        }
      ] as const
      const { handlers } = yield* counting
      const talker = Agent.make({ name: "support", instructions: "", toolkit: kit, budget: { inputTokens: 1 } })
      const result = yield* Agent.run(talker, options).pipe(
        Effect.provide(Layer.merge(handlers, ScriptedModel.layer([unmetered, "The best so far.", "More."])))
      )
      assert.isTrue(result.completion === "graceful" && result.budget === "inputTokens")
      assert.strictEqual(result.counters.unmetered, 1)
      assert.isAbove(result.usage.inputTokens, 0)
    }).pipe(Effect.provide(durable)))
})

describe("a meter that says what cannot be", () => {
  it.effect("counts as one that is missing, and gives nothing back", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const refunding = ScriptedModel.text("Done.", { usage: { inputTokens: 10, outputTokens: -4_000 } })
      const result = yield* Agent.run(agent({}), options).pipe(
        Effect.provide(Layer.merge(handlers, ScriptedModel.layer([refunding])))
      )
      assert.strictEqual(result.usage.outputTokens, AgentBudget.defaultOutputTokens)
      assert.strictEqual(result.counters.unmetered, 1)
    }).pipe(Effect.provide(durable)))
})

describe("a budget that several runs share", () => {
  const talker = (sharedBudget: AgentBudget.Shared, whenSpent: "answer" | "fail" = "answer") =>
    Agent.make({ name: "talker", instructions: "", toolkit: kit, sharedBudget, whenSpent })
  const all = (budget: AgentBudget.Shared, whenSpent?: "answer" | "fail") =>
    Effect.forEach(
      Array.from({ length: 8 }, (_, run) => run),
      (run) => Effect.result(Agent.run(talker(budget, whenSpent), { runId: `run-${run}`, prompt: "Go" })),
      { concurrency: 8 }
    )
  const slow: ScriptedModel.Script = ({ toolChoice }) =>
    toolChoice === "none"
      ? "The best so far."
      : Effect.as(Effect.yieldNow, ScriptedModel.text("Hello.", { usage: { inputTokens: 10, outputTokens: 4_000 } }))

  it.effect("holds although they spend at the same time, and each says whether it had room", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const budget = AgentBudget.shared({ outputTokens: 13_000 })
      const results = yield* all(budget).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(slow))))
      const ends = results.map((result) =>
        result._tag === "Success"
          ? result.success.completion
          : result.failure._tag === "AgentError" && result.failure.reason._tag
      )
      assert.deepStrictEqual(ends.filter((end) => end === "complete").length, 3)
      assert.deepStrictEqual(ends.filter((end) => end === "BudgetExceeded").length, 5)
      assert.deepStrictEqual(budget.spent().outputTokens, 12_000)
    }).pipe(Effect.provide(durable)))

  it.effect("that is spent pays for no call of a run that had no turn: 50 runs", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const sharedBudget = AgentBudget.shared({ outputTokens: 10_000, iterations: 3 })
      const one = talker(sharedBudget)
      yield* Effect.gen(function*() {
        const results = yield* Effect.forEach(
          Array.from({ length: 50 }, (_, run) => run),
          (run) => Effect.result(Agent.run(one, { runId: `run-${run}`, prompt: "Go" }))
        )
        const failed = results.flatMap((result) => result._tag === "Failure" ? [result.failure] : [])
        assert.strictEqual(results.length - failed.length, 2)
        for (const error of failed) {
          assert.isTrue(error._tag === "AgentError" && error.reason._tag === "BudgetExceeded")
          assert.strictEqual(error._tag === "AgentError" && error.reached?.counters.iterations, 0)
        }
        assert.strictEqual((yield* ScriptedModel.requests).length, 2)
        assert.strictEqual(sharedBudget.spent().outputTokens, 8_000)
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(slow))))
    }).pipe(Effect.provide(durable)))

  it.effect("has one last answer of a run that had turns beyond it, and not another one where that failed", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const budget = AgentBudget.shared({ iterations: 1 })
      const script: ScriptedModel.Script = ({ toolChoice }) =>
        toolChoice === "none"
          ? ScriptedModel.turn("Cut", { usage: { inputTokens: 10, outputTokens: 7 }, finishReason: "error" })
          : call("1", "Lookup", { order: "7" })
      yield* Effect.gen(function*() {
        const run = Effect.flip(Agent.run(talker(budget), options))
        const first = yield* run
        assert.isTrue(first._tag === "AgentError" && first.reason._tag === "BudgetExhausted")
        const second = yield* run
        assert.isTrue(second._tag === "AgentError" && second.reason._tag === "BudgetExceeded")
        assert.strictEqual((yield* ScriptedModel.requests).length, 2)
        assert.strictEqual(budget.spent().outputTokens, 7)
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
    }).pipe(Effect.provide(durable)))

  it.effect("counts a run that is begun anew under the same id as another one", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const budget = AgentBudget.shared({ outputTokens: 1_000_000 })
      const script = () => ScriptedModel.text("Hello.", { usage: { inputTokens: 10, outputTokens: 400 } })
      yield* Effect.gen(function*() {
        for (const _ of [1, 2, 3, 4, 5]) {
          yield* Agent.run(talker(budget), options)
          yield* Agent.run(talker(budget), options)
          yield* Checkpoint.clear(options.runId)
        }
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
      assert.deepInclude(budget.spent(), { iterations: 5, outputTokens: 2_000 })
    }).pipe(Effect.provide(durable)))

  it.effect("counts a run that failed and the simplified one that answers for it", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const budget = AgentBudget.shared({ outputTokens: 1_000_000 })
      const script: ScriptedModel.Script = ({ index }) =>
        index === 0
          ? ScriptedModel.turn("No.", { finishReason: "content-filter", usage: { inputTokens: 10, outputTokens: 500 } })
          : ScriptedModel.text("Hello.", { usage: { inputTokens: 10, outputTokens: 400 } })
      yield* Effect.gen(function*() {
        const run = Agent.run(talker(budget), options)
        yield* Effect.flip(run)
        // As `Agent.answer` does: under the same id, in a store of its own.
        yield* Effect.provide(run, Layer.fresh(CheckpointStore.layerMemory))
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
      assert.strictEqual(budget.spent().outputTokens, 900)
    }).pipe(Effect.provide(durable)))

  it.effect("counts a run once, also one that is resumed by another process", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const world = Layer.merge(handlers, ScriptedModel.layer(slow))
      const budget = AgentBudget.shared({ outputTokens: 9_000 })
      const once = yield* all(budget, "fail").pipe(Effect.provide(world))
      assert.strictEqual(once.filter(({ _tag }) => _tag === "Success").length, 2)
      const larger = AgentBudget.shared({ outputTokens: 1_000_000 })
      yield* all(larger, "fail").pipe(Effect.provide(world))
      const again = yield* all(larger, "fail").pipe(Effect.provide(world))
      assert.isTrue(again.every(({ _tag }) => _tag === "Success"))
      assert.strictEqual(larger.spent().outputTokens, 8 * 4_000)
    }).pipe(Effect.provide(durable)))
})
