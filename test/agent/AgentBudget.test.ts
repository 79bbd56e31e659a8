import { assert, describe, it } from "@effect/vitest"
import { Duration } from "effect"
import { AgentBudget, Fault } from "effect-resilience"

const nothing: AgentBudget.Spent = {
  iterations: 0,
  toolCalls: 0,
  usage: AgentBudget.noUsage,
  elapsedMillis: 0,
  cost: 0
}

describe("AgentBudget", () => {
  it("has the documented defaults", () => {
    const budget = AgentBudget.make()
    assert.deepStrictEqual(
      [budget.iterations, budget.toolCalls, Duration.toSeconds(budget.wallTime), Duration.toSeconds(budget.grace)],
      [10, 100, 300, 30]
    )
    assert.deepStrictEqual([budget.inputTokens, budget.outputTokens, budget.cost], [Infinity, Infinity, Infinity])
    assert.deepStrictEqual([budget.outputTokensPerTurn, AgentBudget.defaultOutputTokens], [undefined, 4096])
  })

  it("refuses limits that cannot be one, naming the option", () => {
    const refused = (options: AgentBudget.Options) => {
      try {
        AgentBudget.make(options)
        return "made"
      } catch (error) {
        return error instanceof Fault.InvalidConfig ? error.option : "other"
      }
    }
    assert.strictEqual(refused({ iterations: 0 }), "iterations")
    assert.strictEqual(refused({ toolCalls: 1.5 }), "toolCalls")
    assert.strictEqual(refused({ inputTokens: Number.NaN }), "inputTokens")
    assert.strictEqual(refused({ outputTokensPerTurn: 0 }), "outputTokensPerTurn")
    assert.strictEqual(refused({ outputTokensPerTurn: Infinity }), "outputTokensPerTurn")
    assert.strictEqual(refused({ wallTime: 0 }), "wallTime")
    assert.strictEqual(refused({ cost: 1 }), "prices")
    assert.strictEqual(refused({ cost: -1, prices: { a: { input: 1, output: 1 } } }), "cost")
    assert.strictEqual(refused({ prices: { a: { input: -1, output: 1 } } }), "prices.a.input")
    assert.strictEqual(refused({ wallTime: Duration.infinity, iterations: Infinity }), "made")
  })

  it("names the first limit that is used up", () => {
    const budget = AgentBudget.make({
      iterations: 2,
      toolCalls: 2,
      inputTokens: 10,
      outputTokens: 10,
      wallTime: "1 second",
      cost: 1,
      prices: { a: { input: 1, output: 1 } }
    })
    const with_ = (spent: Partial<AgentBudget.Spent>) => AgentBudget.exceeded(budget, { ...nothing, ...spent })
    assert.isUndefined(with_({}))
    assert.isUndefined(with_({ iterations: 1, toolCalls: 2, elapsedMillis: 999, cost: 0.99 }))
    assert.strictEqual(with_({ iterations: 2 }), "iterations")
    assert.strictEqual(with_({ toolCalls: 3 }), "toolCalls")
    assert.strictEqual(with_({ usage: { ...AgentBudget.noUsage, inputTokens: 10 } }), "inputTokens")
    assert.strictEqual(with_({ usage: { ...AgentBudget.noUsage, outputTokens: 10 } }), "outputTokens")
    assert.strictEqual(with_({ elapsedMillis: 1000 }), "wallTime")
    assert.strictEqual(with_({ cost: 1 }), "cost")
  })

  it("charges cached tokens by their own price, and an unknown model the highest one", () => {
    const budget = AgentBudget.make({
      prices: {
        small: { input: 1, output: 2, cacheRead: 0.1, cacheWrite: 1.25 },
        large: { input: 10, output: 20 }
      }
    })
    const usage = {
      inputTokens: 3_000_000,
      outputTokens: 1_000_000,
      cacheReadTokens: 1_000_000,
      cacheWriteTokens: 1_000_000
    }
    assert.closeTo(AgentBudget.costOf(budget, "small", usage), 1 + 0.1 + 1.25 + 2, 1e-9)
    assert.closeTo(AgentBudget.costOf(budget, "large", usage), 50, 1e-9)
    assert.strictEqual(
      AgentBudget.costOf(budget, "another", usage),
      AgentBudget.costOf(budget, "large", usage)
    )
    assert.strictEqual(AgentBudget.costOf(AgentBudget.make(), "any", usage), 0)
  })
})
