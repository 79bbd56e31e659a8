import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Ref } from "effect"
import { Agent, Backoff, EscalationQueue, Retry } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import { ScriptedModel } from "effect-resilience/testing"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { call, counting, durable, kit } from "./support.ts"

// The same program for the scripted model and for the real SDK over a real connection.
const agent = Agent.make({
  name: "support",
  instructions: "You refund orders.",
  toolkit: kit,
  approval: "atMostOnce",
  policies: { model: Retry.apply(Retry.policy({ backoff: Backoff.constant({ delay: 0 }), maxAttempts: 10 })) }
})

const options = { runId: "run-1", prompt: "Refund order 7" }

const story = Effect.gen(function*() {
  const suspended = yield* Effect.flip(Agent.run(agent, options))
  assert.strictEqual(suspended._tag, "RunSuspended")
  const queue = yield* EscalationQueue.EscalationQueue
  for (const { id } of yield* queue.list({ status: "open" })) yield* queue.decide(id, { _tag: "Approve" })
  const { text, turns } = yield* Agent.run(agent, options)
  return { text, tools: turns.map((turn) => turn.toolCalls.map(({ isFailure, name }) => [name, isFailure])) }
})

const expected = {
  text: "Done.",
  tools: [[["Lookup", false], ["Delete", true]], [["Refund", false]], []]
}

const provider = (server: ProviderServer.ProviderServer["Service"]) =>
  Anthropic.layer({ model: "claude-opus-5-5", apiKey: "key", baseURL: server.url })

const answer: NonNullable<ProviderServer.Options["answer"]> = ({ messages }) => {
  switch (messages.filter((turn) => turn.role === "assistant").length) {
    case 0:
      return {
        content: [
          { type: "thinking", thinking: "First the price.", signature: "signed" },
          { type: "tool_use", name: "Lookup", input: { order: "7" } },
          { type: "tool_use", name: "Delete", input: {} }
        ]
      }
    case 1:
      return { content: [{ type: "tool_use", name: "Refund", input: { order: "7" } }] }
    default:
      return "Done."
  }
}

describe("the same agent", () => {
  it.effect("runs on the scripted model", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const script: ScriptedModel.Script = ({ prompt }) => {
        switch (prompt.content.filter((message) => message.role === "assistant").length) {
          case 0:
            return ScriptedModel.turn(call("1", "Lookup", { order: "7" }), call("2", "Delete", {}))
          case 1:
            return call("3", "Refund", { order: "7" })
          default:
            return "Done."
        }
      }
      assert.deepStrictEqual(
        yield* Effect.provide(story, Layer.merge(handlers, ScriptedModel.layer(script))),
        expected
      )
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
    }).pipe(Effect.provide(durable)))

  it.effect("runs on the provider's SDK, and through its faults", () =>
    Effect.gen(function*() {
      const { handlers, lookups, refunds } = yield* counting
      const server = yield* ProviderServer.make({ answer })
      const faults: ReadonlyArray<ProviderServer.Fault> = [
        { _tag: "Overloaded" },
        { _tag: "ResetMidBody" },
        { _tag: "TruncatedJson" },
        { _tag: "EmptyContent" },
        { _tag: "MaxTokens" },
        { _tag: "ServerError" }
      ]
      yield* server.inject(...faults)
      const result = yield* Effect.provide(story, Layer.merge(handlers, provider(server)))
      assert.deepStrictEqual(result, expected)
      assert.deepStrictEqual([yield* Ref.get(lookups), yield* Ref.get(refunds)], [1, ["7"]])
      // Three answers, each asked for once besides the faults, and not again when the run went on.
      assert.strictEqual((yield* server.stats).requests, 3 + faults.length)
    }).pipe(Effect.scoped, Effect.provide(durable)))

  it.effect("ends gracefully on the provider's SDK, with the tools it has used in its history", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const server = yield* ProviderServer.make({
        answer: ({ messages }) =>
          messages.some((turn) => JSON.stringify(turn.content).includes("is used up"))
            ? "So far: 10."
            : { content: [{ type: "tool_use", name: "Lookup", input: { order: String(messages.length) } }] }
      })
      const short = Agent.make({ name: "short", instructions: "", toolkit: kit, budget: { iterations: 2 } })
      const result = yield* Agent.run(short, options).pipe(Effect.provide(Layer.merge(handlers, provider(server))))
      assert.deepStrictEqual([result.completion, result.text], ["graceful", "So far: 10."])
    }).pipe(Effect.scoped, Effect.provide(durable)))
})
