import { assert, describe, it } from "@effect/vitest"
import { Deferred, Duration, Effect, Fiber, Schema, Stream } from "effect"
import { Fault } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { AiError, LanguageModel, type Response, Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { invalid } from "../support/invalid.ts"

const Search = Tool.make("Search", {
  description: "search the index",
  parameters: Schema.Struct({ query: Schema.String }),
  success: Schema.String
})
const Kit = Toolkit.make(Search)
const KitLive = Kit.toLayer({ Search: ({ query }) => Effect.succeed(`hits for ${query}`) })

const ask = (prompt: string) => LanguageModel.generateText({ prompt })
const stream = (prompt: string) => Stream.runCollect(LanguageModel.streamText({ prompt }))
const call = ScriptedModel.toolCall({ id: "call_1", name: "Search", params: { query: "x" } })

describe("ScriptedModel", () => {
  it.effect("gives the answers in order, and one turn's finish reason and usage", () =>
    Effect.gen(function*() {
      const first = yield* ask("1")
      const second = yield* ask("2")
      assert.deepStrictEqual([first.text, first.finishReason, second.text], ["one", "stop", "two"])
      assert.strictEqual(first.usage.outputTokens.total, 0)
      assert.deepStrictEqual([second.usage.inputTokens.total, second.usage.outputTokens.total], [10, 3])
    }).pipe(
      Effect.provide(
        ScriptedModel.layer(["one", ScriptedModel.text("two", { usage: { inputTokens: 10, outputTokens: 3 } })])
      )
    ))

  it.effect("asks for tools, which the toolkit runs", () =>
    Effect.gen(function*() {
      const response = yield* LanguageModel.generateText({ prompt: "find x", toolkit: Kit })
      assert.strictEqual(response.finishReason, "tool-calls")
      assert.strictEqual(response.text, "Let me look.")
      assert.deepStrictEqual(response.toolResults.map((part) => part.result), ["hits for x"])
      const alone = yield* LanguageModel.generateText({ prompt: "find x", toolkit: Kit })
      assert.deepStrictEqual(alone.toolCalls.map((part) => part.name), ["Search"])
      const [, second] = yield* ScriptedModel.requests
      assert.deepStrictEqual(second?.tools.map((tool) => tool.name), ["Search"])
      assert.strictEqual(second?.toolChoice, "auto")
    }).pipe(Effect.provide([KitLive, ScriptedModel.layer([ScriptedModel.turn("Let me look.", call), call])])))

  it("a turn drops the finish parts of the answers it is made of, and may name its own reason", () => {
    const parts = ScriptedModel.turn(ScriptedModel.text("a"), "b", { finishReason: "length" })
    assert.deepStrictEqual(parts.map((part) => part.type === "finish" ? part.reason : part.type), [
      "text",
      "text",
      "length"
    ])
  })

  it.effect("sends an array of parts exactly as it is", () =>
    Effect.gen(function*() {
      const response = yield* ask("?")
      assert.deepStrictEqual([response.text, response.finishReason], ["half", "unknown"])
    }).pipe(Effect.provide(ScriptedModel.layer([[{ type: "text", text: "half" }]]))))

  it.effect("a script that is over is a typed, permanent failure that names the call", () =>
    Effect.gen(function*() {
      yield* ask("1")
      const error = yield* Effect.flip(ask("2"))
      assert.isTrue(AiError.isAiError(error))
      assert.include(error.message, "call 1 (counted from 0) has no answer, the script has 1")
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.permanent)
      assert.include((yield* Effect.flip(stream("3"))).message, "call 2")
    }).pipe(Effect.provide(ScriptedModel.layer(["one"]))))

  it.effect("fails with every verdict, and the classifier reads it back", () =>
    Effect.forEach(
      [
        Fault.transient,
        Fault.throttled(),
        Fault.throttled("7 seconds"),
        Fault.overloaded("2 seconds"),
        Fault.timedOut,
        Fault.malformed,
        Fault.contextOverflow,
        Fault.refused,
        Fault.permanent,
        Fault.ambiguous,
        Fault.rejected("1 second")
      ],
      (verdict) =>
        Effect.gen(function*() {
          const error = yield* Effect.flip(ask("?"))
          assert.deepStrictEqual(yield* Fault.classify(error), verdict)
        }).pipe(Effect.provide(ScriptedModel.layer([ScriptedModel.fail(verdict)])))
    ))

  it.effect("fails with a reason or an error as it is", () =>
    Effect.gen(function*() {
      const reason = new AiError.RateLimitError({ retryAfter: Duration.seconds(3) })
      const error = ScriptedModel.fail(reason)
      assert.strictEqual(error.reason, reason)
      assert.strictEqual(ScriptedModel.fail(error), error)
      const seen = yield* Effect.flip(ask("?")).pipe(Effect.provide(ScriptedModel.layer([Effect.fail(error)])))
      assert.strictEqual(seen, error)
    }))

  it.effect("a function sees index, prompt and kind of call, and may sleep on the virtual clock", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(ask("hello"), { startImmediately: true })
      yield* TestClock.adjust("59 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber)).text, "0 false user")
      const parts = yield* Effect.forkChild(stream("hello"), { startImmediately: true })
      yield* TestClock.adjust("1 minute")
      const text = (yield* Fiber.join(parts)).flatMap((part) => part.type === "text-delta" ? [part.delta] : [])
      assert.deepStrictEqual(text, ["1", " true", " user"])
    }).pipe(
      Effect.provide(
        ScriptedModel.layer((request) =>
          Effect.as(
            Effect.sleep("1 minute"),
            `${request.index} ${request.stream} ${request.prompt.content.map((message) => message.role).join()}`
          )
        )
      )
    ))

  it.effect("streams the same answer part by part, the finish last", () =>
    Effect.gen(function*() {
      const parts = yield* Stream.runCollect(
        LanguageModel.streamText({ prompt: "?", toolkit: Kit, disableToolCallResolution: true })
      )
      assert.deepStrictEqual(parts.map((part) => part.type), [
        "reasoning-start",
        "reasoning-delta",
        "reasoning-end",
        "text-start",
        "text-delta",
        "text-delta",
        "text-delta",
        "text-end",
        "tool-params-start",
        "tool-params-delta",
        "tool-params-end",
        "tool-call",
        "finish"
      ])
      const text = parts.flatMap((part) => part.type === "text-delta" ? [part.delta] : []).join("")
      assert.strictEqual(text, "  Let me\n look. ")
      const delta = parts.find((part): part is Response.ToolParamsDeltaPart => part.type === "tool-params-delta")
      assert.strictEqual(delta?.delta, "{\"query\":\"x\"}")
    }).pipe(
      Effect.provide(
        ScriptedModel.layer([
          ScriptedModel.turn({ type: "reasoning", text: "Hm." }, "  Let me\n look. ", call)
        ])
      )
    ))

  it.effect("streams tool calls to handlers", () =>
    Effect.gen(function*() {
      const parts = yield* Stream.runCollect(LanguageModel.streamText({ prompt: "?", toolkit: Kit }))
      assert.isTrue(parts.some((part) => part.type === "tool-result" && part.result === "hits for x"))
      assert.strictEqual(parts.at(-1)?.type, "finish")
    }).pipe(Effect.provide([KitLive, ScriptedModel.layer([ScriptedModel.turn(call)])])))

  it.effect("answers generateObject with a JSON text, and a text that is not JSON is a typed failure", () =>
    Effect.gen(function*() {
      const object = LanguageModel.generateObject({ prompt: "?", schema: Schema.Struct({ city: Schema.String }) })
      assert.deepStrictEqual((yield* object).value, { city: "Wien" })
      const error = yield* Effect.flip(object)
      assert.strictEqual(error._tag, "AiError")
      assert.deepStrictEqual((yield* ScriptedModel.requests).map((request) => request.responseFormat.type), [
        "json",
        "json"
      ])
    }).pipe(Effect.provide(ScriptedModel.layer(["{\"city\":\"Wien\"}", "no json"]))))

  it.effect("an interrupted call is seen and has used its answer", () =>
    Effect.gen(function*() {
      const started = yield* Deferred.make<void>()
      const program = Effect.gen(function*() {
        const fiber = yield* Effect.forkChild(ask("1"))
        yield* Deferred.await(started)
        yield* Fiber.interrupt(fiber)
        assert.strictEqual((yield* ask("2")).text, "two")
        assert.strictEqual((yield* ScriptedModel.requests).length, 2)
      })
      yield* Effect.provide(
        program,
        ScriptedModel.layer([Effect.andThen(Deferred.succeed(started, undefined), Effect.never), "two"])
      )
    }))

  it.effect("concurrent calls get distinct answers", () =>
    Effect.gen(function*() {
      const answers = yield* Effect.forEach([1, 2, 3, 4], (n) => Effect.map(ask(`${n}`), (response) => response.text), {
        concurrency: "unbounded"
      })
      assert.deepStrictEqual(answers.toSorted(), ["0", "1", "2", "3"])
    }).pipe(Effect.provide(ScriptedModel.layer((request) => Effect.as(Effect.yieldNow, `${request.index}`)))))
})

describe("ScriptedModel.streamed", () => {
  /** What comes of a stream, and how it ends: with an error, or not at all. */
  const seen = (streamed: ScriptedModel.Streamed) =>
    Effect.gen(function*() {
      const types: Array<string> = []
      const fiber = yield* LanguageModel.streamText({ prompt: "?", toolkit: Kit, disableToolCallResolution: true })
        .pipe(
          Stream.runForEach((part) => Effect.sync(() => types.push(part.type))),
          Effect.flip,
          Effect.provide(ScriptedModel.layer([streamed])),
          Effect.forkChild({ startImmediately: true })
        )
      yield* TestClock.adjust("1 hour")
      const exit = fiber.pollUnsafe()
      yield* Fiber.interrupt(fiber)
      return { types, end: exit === undefined ? "open" : exit._tag === "Success" ? "failed" : "ended" }
    })

  it.effect("ends as it is told to, after as many parts, and by default before the finish part", () =>
    Effect.gen(function*() {
      const all = ["text-start", "text-delta", "text-delta", "text-end"]
      assert.deepStrictEqual(yield* seen(ScriptedModel.streamed("Hi there", {})), {
        types: [...all, "finish"],
        end: "ended"
      })
      assert.deepStrictEqual(yield* seen(ScriptedModel.streamed("Hi there", { end: "cut" })), {
        types: all,
        end: "ended"
      })
      assert.deepStrictEqual(yield* seen(ScriptedModel.streamed("Hi there", { end: "silence", after: 2 })), {
        types: all.slice(0, 2),
        end: "open"
      })
      assert.deepStrictEqual(yield* seen(ScriptedModel.streamed("Hi there", { end: Fault.transient, after: 0 })), {
        types: [],
        end: "failed"
      })
      const calls = yield* seen(ScriptedModel.streamed(call, { end: "cut" }))
      assert.strictEqual(calls.types.at(-1), "tool-call")
    }))

  it.effect("pauses before each part, on the clock of the test", () =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkChild(stream("?"), { startImmediately: true })
      yield* TestClock.adjust("4 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber)).length, 5)
    }).pipe(Effect.provide(ScriptedModel.layer([ScriptedModel.streamed("Hi there", { pause: "1 second" })]))))

  it.effect("in one piece waits, fails, or has no finish part", () =>
    Effect.gen(function*() {
      const slow = yield* Effect.forkChild(ask("1"), { startImmediately: true })
      yield* TestClock.adjust("5 seconds")
      assert.strictEqual((yield* Fiber.join(slow)).finishReason, "stop")
      assert.strictEqual((yield* ask("2")).finishReason, "unknown")
      assert.strictEqual((yield* Effect.flip(ask("3")))._tag, "AiError")
      const never = yield* Effect.forkChild(ask("4"), { startImmediately: true })
      yield* TestClock.adjust("1 hour")
      assert.isUndefined(never.pollUnsafe())
    }).pipe(Effect.provide(ScriptedModel.layer([
      ScriptedModel.streamed("Hi there", { pause: "1 second" }),
      ScriptedModel.streamed("Hi there", { end: "cut" }),
      ScriptedModel.streamed("Hi there", { end: Fault.ambiguous }),
      ScriptedModel.streamed("Hi there", { end: "silence" })
    ]))))

  it("refuses options that cannot work", () => {
    invalid("pause")(Effect.runSyncExit(Effect.try({
      try: () => ScriptedModel.streamed("Hi", { pause: -1 }),
      catch: (error) => error
    })))
    invalid("after")(Effect.runSyncExit(Effect.try({
      try: () => ScriptedModel.streamed("Hi", { after: 0.5 }),
      catch: (error) => error
    })))
  })
})
