import { assert, describe } from "@effect/vitest"
import { Effect, Layer, Ref } from "effect"
import { Agent, AgentBudget, Backoff, Fault, OutputTokens, Retry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { replaying } from "../support/replaying.ts"
import { call, counting, durable, kit } from "./support.ts"

const it = replaying({
  "counts each attempt that was lost, and makes none that would pass the limit": "it counts attempts of this process"
})

const options = { runId: "run-1", prompt: "Go" }

/** Calls one tool after the other; each answer has so many tokens, or as many as it may. */
const talkative = (outputTokens: number) => {
  const limits: Array<number> = []
  const honest: ScriptedModel.Script = (request) =>
    Effect.map(OutputTokens.OutputTokens, ({ atMost }) => {
      limits.push(atMost)
      // What was sent, by the rule of thumb of four characters a token.
      const inputTokens = Math.ceil(JSON.stringify(request.prompt).length / 4)
      if (request.toolChoice === "none") {
        return ScriptedModel.text("So far.", { usage: { inputTokens, outputTokens: 9 } })
      }
      const usage = { inputTokens, outputTokens: Math.min(outputTokens, atMost) }
      return outputTokens > atMost
        ? ScriptedModel.turn("It is", { usage, finishReason: "length" })
        : ScriptedModel.turn(call(`${request.index}`, "Lookup", { order: `${request.index}` }), { usage })
    })
  return { limits, model: ScriptedModel.layer(honest) }
}

const agent = (budget: AgentBudget.Options, whenSpent: "answer" | "fail" = "answer") =>
  Agent.make({ name: "talker", instructions: "", toolkit: kit, budget: { iterations: 50, ...budget }, whenSpent })

const spentBy = (result: Agent.Result<string>) => ({
  input: result.usage.inputTokens,
  // Without those of the last answer, which is allowed beyond the limit.
  output: result.usage.outputTokens - 9
})

describe("a budget of tokens", () => {
  for (const inputTokens of [1, 500, 2_000, 10_000]) {
    it.effect(`of ${inputTokens} for the input is not passed but by the last answer`, () =>
      Effect.gen(function*() {
        const { handlers } = yield* counting
        const { limits, model } = talkative(20)
        const run = Agent.run(agent({ inputTokens }, "fail"), options)
        const error = yield* Effect.flip(run).pipe(Effect.provide(Layer.merge(handlers, model)))
        assert.isTrue(
          error._tag === "AgentError" && error.reason._tag === "BudgetExceeded" && error.reason.budget === "inputTokens"
        )
        const spent = error._tag === "AgentError" ? error.reached?.usage.inputTokens ?? -1 : -1
        assert.isAtMost(spent, inputTokens)
        // Nearly all of it is of use.
        assert.isAtLeast(spent, inputTokens * 0.4 - 250)
        assert.strictEqual(limits.length === 0, inputTokens === 1)
      }).pipe(Effect.provide(durable)))
  }

  it.effect("for the output bounds each answer by what is left, and one that is cut there is the end", () =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      const { limits, model } = talkative(300)
      const result = yield* Agent.run(agent({ outputTokens: 1_000 }), options).pipe(
        Effect.provide(Layer.merge(handlers, model))
      )
      assert.isTrue(result.completion === "graceful" && result.budget === "outputTokens")
      assert.deepStrictEqual(limits, [1_000, 700, 400, 100, Infinity])
      assert.deepStrictEqual([spentBy(result).output, yield* Ref.get(lookups)], [1_000, 3])
    }).pipe(Effect.provide(durable)))

  it.effect("for the output fails the run where it is to fail, with what was cut paid for", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const { limits, model } = talkative(300)
      const world = Layer.merge(handlers, model)
      for (const _ of [1, 2]) {
        const error = yield* Effect.flip(Agent.run(agent({ outputTokens: 1_000 }, "fail"), options)).pipe(
          Effect.provide(world)
        )
        assert.isTrue(
          error._tag === "AgentError" && error.reason._tag === "BudgetExceeded" &&
            error.reason.budget === "outputTokens" && error.reached?.usage.outputTokens === 1_000
        )
      }
      assert.strictEqual(limits.length, 4)
      const result = yield* Agent.run(agent({ outputTokens: 1_500 }), options).pipe(Effect.provide(world))
      assert.strictEqual(spentBy(result).output, 1_500)
    }).pipe(Effect.provide(durable)))

  it.effect("bounds the last answer by what one may have", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const { limits, model } = talkative(300)
      yield* Agent.run(agent({ outputTokens: 500, outputTokensPerTurn: 350 }), options).pipe(
        Effect.provide(Layer.merge(handlers, model))
      )
      assert.deepStrictEqual(limits, [350, 200, 350])
    }).pipe(Effect.provide(durable)))

  it.effect("is told to the guard, for a provider that has a parameter of its own", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const { model } = talkative(300)
      const seen: Array<OutputTokens.OutputTokens> = []
      const guarded = Agent.make({
        name: "talker",
        instructions: "",
        toolkit: kit,
        budget: { outputTokens: 500 },
        policies: {
          model: (self) =>
            Effect.andThen(Effect.map(OutputTokens.OutputTokens, (tokens) => void seen.push(tokens)), self)
        }
      })
      yield* Agent.run(guarded, options).pipe(Effect.provide(Layer.merge(handlers, model)))
      assert.deepStrictEqual(seen, [
        { preferred: 4_096, atMost: 500 },
        { preferred: 4_096, atMost: 200 },
        { preferred: 4_096, atMost: Infinity }
      ])
    }).pipe(Effect.provide(durable)))

  it.effect("counts each attempt that was lost, and makes none that would pass the limit", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const losing = Agent.make({
        name: "talker",
        instructions: "",
        toolkit: kit,
        budget: { outputTokens: 10_000 },
        policies: {
          model: Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 50 }))
        },
        whenSpent: "fail"
      })
      yield* Effect.gen(function*() {
        const error = yield* Effect.flip(Agent.run(losing, options))
        assert.isTrue(
          error._tag === "AgentError" && error.reason._tag === "BudgetExceeded" &&
            error.reason.budget === "outputTokens"
        )
        // 4096 each: the third one has 1808 left to it, and may be lost as well.
        assert.strictEqual((yield* ScriptedModel.requests).length, 3)
        yield* Effect.flip(Agent.run(losing, options))
        assert.strictEqual((yield* ScriptedModel.requests).length, 3, "also for the next process")
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(() => ScriptedModel.fail(Fault.timedOut)))))
    }).pipe(Effect.provide(durable)))
})

describe("a budget of money", () => {
  it.effect("bounds each answer by what it can pay at the highest price", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const { limits, model } = talkative(400)
      const prices = { cheap: { input: 0, output: 1 }, dear: { input: 0, output: 10 } }
      const result = yield* Agent.run(agent({ cost: 0.01, prices }), options).pipe(
        Effect.provide(Layer.merge(handlers, model))
      )
      assert.isTrue(result.completion === "graceful" && result.budget === "cost")
      assert.deepStrictEqual(limits, [1_000, 600, 200, Infinity])
      assert.isAtMost((result.cost ?? Infinity) - 9 * 10 / 1_000_000, 0.01)
    }).pipe(Effect.provide(durable)))
})

describe("a budget that several runs share", () => {
  it.effect("bounds their model calls together", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const { limits, model } = talkative(20)
      const sharedBudget = AgentBudget.shared({ iterations: 7 })
      const one = Agent.make({
        name: "talker",
        instructions: "",
        toolkit: kit,
        budget: { iterations: 3 },
        sharedBudget
      })
      const results = yield* Effect.forEach(
        [1, 2, 3, 4],
        (run) => Agent.run(one, { runId: `run-${run}`, prompt: "Go" }),
        { concurrency: 4 }
      ).pipe(Effect.provide(Layer.merge(handlers, model)))
      assert.strictEqual(results.reduce((sum, { counters }) => sum + counters.iterations, 0), 7)
      assert.strictEqual(sharedBudget.spent().iterations, 7)
      assert.strictEqual(limits.length, 7 + 4)
    }).pipe(Effect.provide(durable)))
})

describe("a budget of tool calls", () => {
  it.effect("holds for the calls of one answer that run side by side, and goes on counting when resumed", () =>
    Effect.gen(function*() {
      const { handlers, lookups } = yield* counting
      const many: ScriptedModel.Script = ({ prompt, toolChoice }) => {
        const turn = prompt.content.filter(({ role }) => role === "tool").length
        return toolChoice === "none" ? "So far." : ScriptedModel.turn(
          ...Array.from({ length: 4 }, (_, n) => call(`${turn}-${n}`, "Lookup", { order: `${turn}-${n}` }))
        )
      }
      const counted = (toolCalls: number, whenSpent: "answer" | "fail") =>
        Agent.run(agent({ toolCalls }, whenSpent), options)
      yield* Effect.gen(function*() {
        yield* Effect.flip(counted(3, "fail"))
        assert.strictEqual(yield* Ref.get(lookups), 3)
        yield* Effect.flip(counted(6, "fail"))
        assert.strictEqual(yield* Ref.get(lookups), 6)
        const result = yield* counted(10, "answer")
        assert.isTrue(result.completion === "graceful" && result.budget === "toolCalls")
        assert.strictEqual(yield* Ref.get(lookups), 10)
        // What has run has run, whatever the budget is by now.
        const again = yield* counted(3, "answer")
        assert.deepStrictEqual([again.text, again.counters.toolCalls], [result.text, result.counters.toolCalls])
        assert.strictEqual(yield* Ref.get(lookups), 10)
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(many))))
    }).pipe(Effect.provide(durable)))
})
