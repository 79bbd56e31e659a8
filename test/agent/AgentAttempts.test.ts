import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { Agent, AgentBudget, Backoff, Fault, Policy, ResilientModel } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import * as TestClock from "effect/testing/TestClock"
import { durable, kit } from "./support.ts"

const options = { runId: "run-1", prompt: "Go" }
const usage = { inputTokens: 10, outputTokens: 20 }
const done = ScriptedModel.text("Done.", { usage })
const estimate = AgentBudget.defaultOutputTokens

const careful = Policy.make({
  name: "model",
  retry: { maxAttempts: 5, backoff: Backoff.constant({ delay: "1 millis" }), retryRejected: false },
  timeout: "60 seconds"
})

/** A stream that the model below watches over. */
const patient: Agent.StreamOptions = { idleTimeout: "1 hour" }

/** Hangs so often, and answers then. */
const hanging = (times: number): ScriptedModel.Script => ({ index }) => index < times ? Effect.never : done

const handlers = kit.toLayer({
  Lookup: () => Effect.succeed({ price: 10 }),
  Refund: () => Effect.succeed("refunded")
})

const ended = Effect.fnUntraced(function*<A, E, R>(run: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(Effect.result(run))
  for (let n = 0; n < 300 && fiber.pollUnsafe() === undefined; n++) yield* TestClock.adjust("5 seconds")
  return yield* Fiber.join(fiber)
})

const agentWith = (
  budget: AgentBudget.Options,
  more: {
    readonly stream?: false | Agent.StreamOptions
    readonly sharedBudget?: AgentBudget.Shared
  } = {}
) =>
  Agent.make({
    name: "talker",
    instructions: "",
    toolkit: kit,
    budget: { wallTime: "1 hour", ...budget },
    stream: patient,
    ...more
  })

describe("tries that are made below the model that an agent asks", () => {
  for (const stream of [false, patient] as const) {
    const how = stream === false ? "in one piece" : "streamed"

    it.effect(`count as attempts, and what was lost as spent: ${how}`, () =>
      Effect.gen(function*() {
        const model = ResilientModel.layer(careful, { stall: "Infinity" }).pipe(
          Layer.provideMerge(ScriptedModel.layer(hanging(3))),
          Layer.provide(Policy.layer)
        )
        const one = agentWith({}, { stream })
        const result = yield* ended(Agent.run(one, options)).pipe(Effect.provide(Layer.merge(handlers, model)))
        assert.isTrue(result._tag === "Success")
        if (result._tag !== "Success") return
        assert.deepInclude(result.success.counters, { iterations: 1, retries: 3, unmetered: 3 })
        assert.strictEqual(result.success.turns[0]?.attempts, 4)
        assert.strictEqual(result.success.usage.outputTokens, 3 * estimate + 20)
      }).pipe(Effect.provide(durable)))

    it.effect(`are not made where the budget has no room for them: ${how}`, () =>
      Effect.gen(function*() {
        const model = ResilientModel.layer(careful, { stall: "Infinity" }).pipe(
          Layer.provideMerge(ScriptedModel.layer(hanging(9))),
          Layer.provide(Policy.layer)
        )
        yield* Effect.gen(function*() {
          const one = Agent.make({
            name: "talker",
            instructions: "",
            toolkit: kit,
            budget: { wallTime: "1 hour", outputTokens: 2 * estimate },
            whenSpent: "fail",
            stream
          })
          const result = yield* ended(Agent.run(one, options))
          assert.strictEqual((yield* ScriptedModel.requests).length, 2)
          assert.isTrue(result._tag === "Failure")
          if (result._tag !== "Failure" || result.failure._tag !== "AgentError") return assert.fail("no AgentError")
          const { reached, reason } = result.failure
          assert.deepStrictEqual(reason, { _tag: "BudgetExceeded", budget: "outputTokens" })
          assert.strictEqual(reached?.usage.outputTokens, 2 * estimate)
        }).pipe(Effect.provide(Layer.merge(handlers, model)))
      }).pipe(Effect.provide(durable)))
  }

  it.effect("count where another model takes over, and where one hedges another", () =>
    Effect.gen(function*() {
      const hedging = Policy.make({ name: "hedging", hedge: { delay: "10 seconds" } })
      const second = ScriptedModel.layer(({ index }) => index === 0 ? Effect.never : done)
      const model = ResilientModel.fallback([
        { label: "large", model: ScriptedModel.layer([ScriptedModel.fail(Fault.timedOut)]) },
        { label: "small", model: second, policy: hedging }
      ], { idempotent: true, stall: "Infinity" }).pipe(Layer.provide(Policy.layer))
      const one = agentWith({}, { stream: false })
      const result = yield* ended(Agent.run(one, options)).pipe(Effect.provide(Layer.merge(handlers, model)))
      assert.isTrue(result._tag === "Success")
      if (result._tag !== "Success") return
      // One that timed out, one that was given up for the hedge, and the answer.
      assert.deepInclude(result.success.counters, { retries: 2, unmetered: 2 })
      assert.strictEqual(result.success.usage.outputTokens, 2 * estimate + 20)
    }).pipe(Effect.provide(durable)))

  it.effect("count once where one careful model stands around another", () =>
    Effect.gen(function*() {
      const inner = ResilientModel.layer(careful, { stall: "Infinity" }).pipe(
        Layer.provide(ScriptedModel.layer(hanging(2)))
      )
      const outer = Policy.make({ name: "outer", retry: { maxAttempts: 2 } })
      const model = ResilientModel.layer(outer, { stall: "Infinity" }).pipe(
        Layer.provide(inner),
        Layer.provide(Policy.layer)
      )
      const result = yield* ended(Agent.run(agentWith({}), options)).pipe(
        Effect.provide(Layer.merge(handlers, model))
      )
      assert.isTrue(result._tag === "Success")
      if (result._tag !== "Success") return
      assert.deepInclude(result.success.counters, { retries: 2, unmetered: 2 })
      assert.strictEqual(result.success.usage.outputTokens, 2 * estimate + 20)
    }).pipe(Effect.provide(durable)))

  it.effect("fit into a budget that several runs share, each of them", () =>
    Effect.gen(function*() {
      const sharedBudget = AgentBudget.shared({ outputTokens: 2 * estimate + 100 })
      const model = ResilientModel.layer(careful, { stall: "Infinity" }).pipe(
        Layer.provideMerge(
          ScriptedModel.layer(({ index, toolChoice }) => toolChoice === "none" ? done : index < 9 ? Effect.never : done)
        ),
        Layer.provide(Policy.layer)
      )
      yield* Effect.gen(function*() {
        const result = yield* ended(Agent.run(agentWith({}, { sharedBudget }), options))
        assert.isTrue(result._tag === "Success" && result.success.completion === "graceful")
        // Two tries, and the last answer beyond them.
        assert.strictEqual((yield* ScriptedModel.requests).length, 3)
        assert.strictEqual(sharedBudget.spent().outputTokens, 2 * estimate + 20)
      }).pipe(Effect.provide(Layer.merge(handlers, model)))
    }).pipe(Effect.provide(durable)))

  it.effect("that cost nothing take nothing from the room of the next one", () =>
    Effect.gen(function*() {
      const sharedBudget = AgentBudget.shared({ outputTokens: estimate })
      const model = ResilientModel.layer(careful).pipe(
        Layer.provideMerge(ScriptedModel.layer(({ index }) => index < 3 ? ScriptedModel.fail(Fault.transient) : done)),
        Layer.provide(Policy.layer)
      )
      const result = yield* ended(Agent.run(agentWith({}, { sharedBudget }), options)).pipe(
        Effect.provide(Layer.merge(handlers, model))
      )
      assert.isTrue(result._tag === "Success" && result.success.completion === "complete")
      assert.strictEqual(sharedBudget.spent().outputTokens, 20)
    }).pipe(Effect.provide(durable)))
})
