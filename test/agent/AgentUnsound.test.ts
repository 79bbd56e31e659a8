import { assert, describe } from "@effect/vitest"
import { Effect, Layer, Option, Schema } from "effect"
import { Agent, Fault } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { replaying } from "../support/replaying.ts"
import { call, counting, durable, kit } from "./support.ts"

const it = replaying({
  "is among the turns that are kept, where it was paid for":
    "a run that starts over after each record keeps no failed calls"
})

const options = { runId: "run-1", prompt: "Go" }
const agent = Agent.make({ name: "support", instructions: "", toolkit: kit })

describe("an answer that is not what it should be", () => {
  it.effect("with two calls of one id has two results, each with an id of its own", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const twice = ScriptedModel.turn(
        call("1", "Lookup", { order: "7" }),
        call("1", "Lookup", { order: "8" }),
        call("1_2", "Lookup", { order: "9" })
      )
      yield* Effect.gen(function*() {
        const result = yield* Agent.run(agent, options)
        const ids = result.turns[0]?.toolCalls.map(({ id }) => id)
        assert.deepStrictEqual(ids, ["1", "1_3", "1_2"])
        const sent = (yield* ScriptedModel.requests).at(-1)?.prompt.content ?? []
        const idsOf = (type: "tool-call" | "tool-result") =>
          sent.flatMap((message) =>
            message.role === "assistant" || message.role === "tool"
              ? message.content.flatMap((part) => part.type === type ? [part.id] : [])
              : []
          )
        assert.deepStrictEqual(idsOf("tool-call"), ["1", "1_3", "1_2"])
        assert.deepStrictEqual(idsOf("tool-result"), ["1", "1_3", "1_2"])
      }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer([twice, "Done."]))))
    }).pipe(Effect.provide(durable)))

  it.effect("that ends for calls of tools and has none is incomplete", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const error = yield* Effect.flip(Agent.run(agent, options)).pipe(
        Effect.provide(Layer.merge(
          handlers,
          ScriptedModel.layer([ScriptedModel.turn("I look it up.", { finishReason: "tool-calls" })])
        ))
      )
      assert.isTrue(error._tag === "AgentError")
      if (error._tag !== "AgentError") return
      assert.deepStrictEqual(error.reason, { _tag: "IncompleteAnswer", finishReason: "tool-calls" })
    }).pipe(Effect.provide(durable)))

  it.effect("with other arguments that the tool does not know is the same call to the loop detector", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const result = yield* Agent.run(agent, options).pipe(
        Effect.provide(Layer.merge(
          handlers,
          ScriptedModel.layer(({ index, toolChoice }) =>
            toolChoice === "none"
              ? "So far."
              : call(`${index}`, "Lookup", { order: "a", z: index })
          )
        ))
      )
      assert.isTrue(result.completion === "looped")
    }).pipe(Effect.provide(durable)))

  it.effect("is as large as the run allows", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const long = "x".repeat(3_000)
      const run = (runId: string, maxRecordBytes?: number) =>
        Agent.run(agent, { runId, prompt: "Go", maxRecordBytes }).pipe(
          Effect.provide(Layer.merge(handlers, ScriptedModel.layer([long])))
        )
      const error = yield* Effect.flip(run("small", 2_048))
      assert.strictEqual(error._tag, "RecordTooLarge")
      assert.strictEqual((yield* run("large")).text, long)
    }).pipe(Effect.provide(durable)))

  it.effect("is among the turns that are kept, where it was paid for", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const error = yield* Effect.flip(Agent.run(agent, options)).pipe(
        Effect.provide(Layer.merge(
          handlers,
          ScriptedModel.layer([
            ScriptedModel.turn("No.", { finishReason: "content-filter", usage: { inputTokens: 10, outputTokens: 2 } })
          ])
        ))
      )
      assert.isTrue(error._tag === "AgentError")
      if (error._tag !== "AgentError") return
      assert.deepStrictEqual(error.reached?.kept, { turns: 1, steps: 1 })
      assert.include(error.message, "kept: 1 step of 1 turn,")
    }).pipe(Effect.provide(durable)))
})

describe("a run that failed", () => {
  it.effect("says how far it had come also where the error is the provider's own, or a guard's", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      class Closed extends Schema.TaggedError<Closed>("Closed")("Closed", {}) {}
      const guarded = Agent.make({
        name: "guarded",
        instructions: "",
        policies: { model: () => Effect.fail(new Closed()) }
      })
      yield* Effect.gen(function*() {
        const down = yield* Effect.flip(Agent.run(agent, options))
        assert.strictEqual(down._tag, "AiError")
        assert.strictEqual((yield* Fault.classify(down))._tag, "Overloaded")
        const at = Option.getOrUndefined(Agent.reached(down))
        assert.deepInclude(at, { agent: "support", runId: "run-1", turn: 2, attempts: 1 })
        assert.strictEqual(at?.step, "[support]/[turn-2]/model")
        assert.deepStrictEqual(at?.kept, { turns: 1, steps: 2 })
        const closed = yield* Effect.flip(Agent.run(guarded, { runId: "run-2", prompt: "Go" }))
        assert.deepInclude(Option.getOrUndefined(Agent.reached(closed)), {
          agent: "guarded",
          runId: "run-2",
          attempts: 0
        })
      }).pipe(Effect.provide(Layer.merge(
        handlers,
        ScriptedModel.layer([call("1", "Lookup", { order: "7" }), ScriptedModel.fail(Fault.overloaded())])
      )))
      for (const other of [new Error("other"), "text", undefined]) assert.isTrue(Option.isNone(Agent.reached(other)))
    }).pipe(Effect.provide(durable)))
})
