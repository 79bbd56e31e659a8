import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Layer, Schema, Stream } from "effect"
import {
  Agent,
  Backoff,
  Checkpoint,
  CheckpointStore,
  CircuitBreaker,
  EscalationQueue,
  Fallback,
  Fault,
  Idempotency,
  Policy,
  ResilientModel,
  Retry,
  Telemetry
} from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as Letta from "effect-resilience/model/Letta"
import { ScriptedModel } from "effect-resilience/testing"
import * as LettaServer from "effect-resilience/testing/LettaServer"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { LanguageModel, Model, Tool, Toolkit } from "effect/ai"
import { recordingTracer } from "../recordingTracer.ts"
import { collected, spansOf, treeOf } from "../support/collector.ts"

const down = { [Fault.verdictOf]: Fault.transient }
const twice = Retry.policy({ name: "model", backoff: Backoff.constant({ delay: 0 }), maxAttempts: 2 })

const toolkit = Toolkit.make(
  Tool.make("Look", { parameters: Schema.Struct({ at: Schema.String }), success: Schema.String }).annotate(
    Tool.Readonly,
    true
  )
)

const scout = Agent.make({
  name: "scout",
  instructions: "Look around.",
  toolkit,
  policies: { model: Retry.apply(twice) }
})

const world = Layer.mergeAll(
  toolkit.toLayer({ Look: () => Effect.succeed("a tree") }),
  ScriptedModel.layer([
    ScriptedModel.fail(Fault.overloaded()),
    ScriptedModel.toolCall({ id: "call_1", name: "Look", params: { at: "north" } }),
    "There is a tree."
  ]),
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory,
  Idempotency.layerMemory
)

const scouting = Agent.run(scout, { runId: "scout-1", prompt: "What is there?" }).pipe(Effect.provide(world))

describe("spans", () => {
  it.live("of an agent's run come to a collector as one tree: agent, steps, attempts, model calls, tool calls", () =>
    Effect.gen(function*() {
      const { bodies, result } = yield* collected(Effect.withSpan(scouting, "request"))
      assert.strictEqual((yield* result).text, "There is a tree.")
      const spans = yield* spansOf(bodies)
      const named = (name: string) => spans.filter((span) => span.name === name)
      const childrenOf = (name: string) => {
        const ids = new Set(named(name).map(({ id }) => id))
        return spans.filter(({ parent }) => parent !== undefined && ids.has(parent)).map((span) => span.name)
      }
      assert.deepStrictEqual(treeOf(spans).slice(0, 3), ["request", "  checkpoint.run", "    invoke_agent scout"])
      assert.sameMembers(childrenOf("invoke_agent scout"), ["checkpoint.step", "checkpoint.step", "checkpoint.step"])
      // Around the attempts of the program's own policy is the one of the agent, which asks again for a stream that was cut.
      assert.sameMembers(childrenOf("checkpoint.step"), ["retry.attempt", "retry.attempt", "execute_tool Look"])
      assert.sameMembers(childrenOf("execute_tool Look"), ["retry.attempt"])
      const attempts = (policy: string) =>
        named("retry.attempt").filter(({ attributes }) => attributes["retry.policy"] === policy)
      assert.lengthOf(attempts("agent.stream"), 2)
      assert.lengthOf(attempts("model"), 3)
      assert.isTrue(
        attempts("model").every(({ parent }) => attempts("agent.stream").some(({ id }) => id === parent))
      )
      assert.strictEqual(named("chat").length, 3)
      assert.isTrue(
        named("chat").every(({ parent }) => attempts("model").some(({ id }) => id === parent))
      )

      const [agent] = named("invoke_agent scout")
      assert.deepInclude(agent?.attributes, {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": "scout",
        "gen_ai.conversation.id": "scout-1",
        "run.id": "scout-1"
      })
      assert.deepInclude(named("execute_tool Look")[0]?.attributes, {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "Look",
        "gen_ai.tool.call.id": "call_1"
      })
      assert.sameMembers(named("checkpoint.step").map(({ attributes }) => attributes["step.id"]), [
        "[scout]/[turn-1]/model",
        "[scout]/[turn-1]/tools[0]/Look",
        "[scout]/[turn-2]/model"
      ])
      const failed = named("retry.attempt").filter(({ attributes }) => attributes["retry.verdict"] !== undefined)
      assert.deepStrictEqual(failed.map(({ attributes }) => attributes), [
        { "retry.policy": "model", "retry.attempt": 1, "retry.verdict": "Overloaded" }
      ])
    }))

  it.effect("of attempts have their number, and what their failure means", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      let tries = 0
      const call = Effect.suspend(() => ++tries === 1 ? Effect.fail(down) : Effect.succeed("ok"))
      yield* Retry.apply(call, twice).pipe(Effect.withSpan("around"), Effect.withTracer(tracer))
      assert.deepStrictEqual(spans.map(({ attributes, name }) => [name, Object.fromEntries(attributes)]), [
        ["around", { "retry.policy": "model", "retry.attempts": 2 }],
        ["retry.attempt", { "retry.policy": "model", "retry.attempt": 1, "retry.verdict": "Transient" }],
        ["retry.attempt", { "retry.policy": "model", "retry.attempt": 2 }]
      ])
      assert.isTrue(spans.every(({ status }) => status._tag === "Ended"))
    }))

  it.effect("of attempts, runs and steps are not made without a tracer, nor without a span around", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      const inside: Array<string> = []
      const work = Effect.flatMap(
        Effect.option(Effect.currentSpan),
        (span) => Effect.sync(() => inside.push(span._tag === "Some" ? span.value.name : "none"))
      )
      const program = Retry.apply(work, twice).pipe(
        (self) => Checkpoint.step("s", { success: Schema.Number }, self),
        Checkpoint.run({ id: "r" }),
        Effect.provide(CheckpointStore.layerMemory)
      )
      yield* program
      yield* Effect.withSpan(program, "around")
      yield* Effect.withTracer(program, tracer)
      assert.deepStrictEqual(inside, ["none", "around", "none"])
      assert.deepStrictEqual(spans, [])
      yield* program.pipe(Effect.withSpan("around"), Effect.withTracer(tracer))
      assert.deepStrictEqual(spans.map(({ name }) => name), [
        "around",
        "checkpoint.run",
        "checkpoint.step",
        "retry.attempt"
      ])
    }))

  it.effect("are not made for steps whose result comes from the journal", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      const program = Checkpoint.step("s", { success: Schema.String }, Effect.succeed("done")).pipe(
        Checkpoint.run({ id: "r" })
      )
      yield* program
      yield* program.pipe(Effect.withSpan("around"), Effect.withTracer(tracer))
      assert.deepStrictEqual(spans.map(({ name }) => name), ["around", "checkpoint.run"])
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("end also where an attempt is interrupted", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      const fiber = yield* Retry.apply(Effect.never, twice).pipe(
        Effect.withSpan("around"),
        Effect.withTracer(tracer),
        Effect.forkChild({ startImmediately: true })
      )
      assert.deepStrictEqual(spans.map(({ status }) => status._tag), ["Started", "Started"])
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(spans.map(({ status }) => status._tag), ["Ended", "Ended"])
    }))

  it.effect("say which step of a fallback answered", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      yield* Effect.fail(down).pipe(
        Fallback.orElse("template", () => Effect.succeed("text")),
        Effect.withSpan("around"),
        Effect.withTracer(tracer)
      )
      assert.strictEqual(spans[0]?.attributes.get("fallback.source"), "template")
    }))
})

const ask = LanguageModel.generateText({ prompt: "Hello?" })
const asks: ReadonlyArray<readonly [string, Effect.Effect<unknown, unknown, LanguageModel.LanguageModel>]> = [
  ["generateText", ask],
  ["streamText", Stream.runDrain(LanguageModel.streamText({ prompt: "Hello?" }))],
  ["generateObject", LanguageModel.generateObject({ prompt: "Hello?", schema: Schema.Struct({ a: Schema.Number }) })]
]

/** The spans that come to a tracer, by name and in their order. */
const traced = <A, E>(self: Effect.Effect<A, E>) =>
  Effect.gen(function*() {
    const { spans, tracer } = recordingTracer()
    yield* Effect.exit(Effect.withTracer(self, tracer))
    assert.isTrue(spans.every(({ status }) => status._tag === "Ended"))
    return spans.map(({ attributes, kind, name }) => ({ attributes: Object.fromEntries(attributes), kind, name }))
  })

const claude = (server: ProviderServer.ProviderServer["Service"]) =>
  Layer.orDie(Anthropic.layer({ model: "claude-opus-5-5", apiKey: "key", baseURL: server.url }))

describe("spans of model calls", () => {
  for (const [method, call] of asks) {
    it.live(`are named by OpenTelemetry's conventions for GenAI, of which there is one a call: ${method}`, () =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ answer: () => JSON.stringify({ a: 1 }) })
        const [span, ...others] = yield* traced(Effect.provide(call, claude(server)))
        assert.deepStrictEqual(others, [])
        assert.deepInclude(span, { name: "chat claude-opus-5-5", kind: "client" })
        assert.deepInclude(span?.attributes, {
          "gen_ai.operation.name": "chat",
          "gen_ai.provider.name": "anthropic",
          "gen_ai.request.model": "claude-opus-5-5",
          "gen_ai.response.model": "claude-opus-5-5"
        })
        assert.isNumber(span?.attributes["gen_ai.usage.input_tokens"])
        assert.isNumber(span?.attributes["gen_ai.usage.output_tokens"])
        assert.notInclude(JSON.stringify(span), "Hello?")
      }))
  }

  it.live("have the model that the request asks for in place of the layer's", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const small = Anthropic.withRequest(ask, { model: "claude-haiku-4-5" })
      const [span] = yield* traced(Effect.provide(small, claude(server)))
      assert.strictEqual(span?.name, "chat claude-haiku-4-5")
      assert.strictEqual(span?.attributes["gen_ai.request.model"], "claude-haiku-4-5")
    }))

  it.live("that fail are named, too, each try of a policy on its own", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "Overloaded" })
      const policy = Policy.make({ name: "m", retry: { backoff: Backoff.constant({ delay: 0 }), maxAttempts: 2 } })
      const model = ResilientModel.layer(policy, { provider: "other", modelName: "their-name" })
      const spans = yield* traced(ask.pipe(Effect.provide(model), Effect.provide([claude(server), Policy.layer])))
      const chats = spans.filter(({ name }) => name.startsWith("chat"))
      assert.deepStrictEqual(chats.map(({ name }) => name), ["chat claude-opus-5-5", "chat claude-opus-5-5"])
      assert.strictEqual(spans[0]?.name, "ResilientModel.generateText")
    }))

  it.effect("of any provider are named by the model that a ResilientModel is told", () =>
    Effect.gen(function*() {
      const policy = Policy.make({ name: "m", retry: { backoff: Backoff.constant({ delay: 0 }), maxAttempts: 2 } })
      const script = ScriptedModel.layer([ScriptedModel.fail(Fault.overloaded()), "Hi", "Hi"])
      const model = ResilientModel.layer(policy, { provider: "acme", modelName: "small" })
      const spans = yield* traced(
        Effect.andThen(ask, Stream.runDrain(LanguageModel.streamText({ prompt: "Hello?" }))).pipe(
          Effect.provide(model),
          Effect.provide([script, Policy.layer])
        )
      )
      const chats = spans.filter(({ name }) => name.startsWith("chat"))
      assert.deepStrictEqual(chats.map(({ name }) => name), ["chat small", "chat small", "chat small"])
      for (const { attributes } of chats) {
        assert.deepInclude(attributes, {
          "gen_ai.operation.name": "chat",
          "gen_ai.provider.name": "acme",
          "gen_ai.request.model": "small"
        })
      }
    }))

  it.effect("of any provider are named by effect/ai's Model in layerSpans, and keep their name without", () =>
    Effect.gen(function*() {
      const model = Model.make("acme", "small", ScriptedModel.layer(["Hi", "Hi"]))
      const inLayer = ask.pipe(Effect.provide(model), Effect.provide(Telemetry.layerSpans))
      assert.deepStrictEqual((yield* traced(inLayer)).map(({ name }) => name), ["chat small"])
      assert.deepStrictEqual((yield* traced(Effect.provide(ask, model))).map(({ name }) => name), [
        "LanguageModel.generateText"
      ])
    }))

  it.effect("say in layerSpans what the answer of any provider says of itself", () =>
    Effect.gen(function*() {
      const usage = { inputTokens: 10, outputTokens: 2 }
      const model = ScriptedModel.layer([ScriptedModel.text("Hi", { usage }), ScriptedModel.text("Hi", { usage })])
      const calls = Effect.andThen(ask, Stream.runDrain(LanguageModel.streamText({ prompt: "Hello?" })))
      const spans = yield* traced(calls.pipe(Effect.provide(model), Effect.provide(Telemetry.layerSpans)))
      assert.lengthOf(spans, 2)
      for (const { attributes } of spans) {
        assert.deepInclude(attributes, {
          "gen_ai.operation.name": "chat",
          "gen_ai.response.finish_reasons": ["stop"],
          "gen_ai.usage.input_tokens": 10,
          "gen_ai.usage.output_tokens": 2
        })
      }
    }))

  it.effect("are one for each answer where tools are run between two, and calls by a tool have their own", () =>
    Effect.gen(function*() {
      const inner = Effect.provide(ask, ScriptedModel.layer(["a tree"]))
      const script = ScriptedModel.layer([
        ScriptedModel.toolCall({ id: "call_1", name: "Look", params: { at: "north" } })
      ])
      const model = ResilientModel.layer(Policy.make({ name: "m" }), { provider: "acme", modelName: "small" })
      const spans = yield* traced(
        LanguageModel.generateText({ prompt: "?", toolkit }).pipe(
          Effect.provide(toolkit.toLayer({ Look: () => Effect.as(Effect.orDie(inner), "a tree") })),
          Effect.provide(model),
          Effect.provide([script, Policy.layer])
        )
      )
      const names = spans.map(({ name }) => name).filter((name) => /^(chat|LanguageModel)/.test(name))
      assert.deepStrictEqual(names, ["LanguageModel.generateText", "chat small", "chat"])
    }))
})

describe("spans of Letta", () => {
  const asking = (server: LettaServer.LettaServer["Service"], content = false) => {
    const message = (use: (letta: Letta.Letta["Service"]) => Effect.Effect<unknown, Letta.LettaError>) =>
      traced(
        Effect.flatMap(Letta.Letta, use).pipe(
          Effect.provide(Layer.orDie(Letta.layer({ baseURL: server.url }))),
          Effect.provideService(Telemetry.CaptureContent, content)
        )
      )
    return {
      send: message((letta) => letta.sendMessage("agent-1", "the secret plan")),
      stream: message((letta) => Stream.runDrain(letta.streamMessage("agent-1", "the secret plan")))
    }
  }

  for (const method of ["send", "stream"] as const) {
    it.live(`have the attributes of OpenTelemetry's conventions, and nothing that was said: ${method}`, () =>
      Effect.gen(function*() {
        const server = yield* LettaServer.make()
        const spans = yield* asking(server)[method]
        assert.lengthOf(spans, 1)
        assert.deepInclude(spans[0], { name: "invoke_agent", kind: "client" })
        assert.deepInclude(spans[0]?.attributes, {
          "gen_ai.operation.name": "invoke_agent",
          "gen_ai.provider.name": "letta",
          "gen_ai.agent.id": "agent-1",
          "gen_ai.response.finish_reasons": ["end_turn"],
          "server.address": "127.0.0.1"
        })
        assert.isNumber(spans[0]?.attributes["gen_ai.usage.input_tokens"])
        assert.isNumber(spans[0]?.attributes["gen_ai.usage.output_tokens"])
        assert.notInclude(JSON.stringify(spans), "secret plan")
      }))

    it.live(`end with the failure of the turn: ${method}`, () =>
      Effect.gen(function*() {
        const server = yield* LettaServer.make()
        yield* server.inject({ _tag: "StatusError", status: 400, message: "no secret plan" })
        const { spans, tracer } = recordingTracer()
        const letta = yield* Letta.make({ baseURL: server.url })
        const turn = method === "send"
          ? letta.sendMessage("agent-1", "Hello")
          : Stream.runDrain(letta.streamMessage("agent-1", "Hello"))
        assert.isTrue(Exit.isFailure(yield* Effect.exit(Effect.withTracer(turn, tracer))))
        const status = spans[0]?.status
        assert.isTrue(status?._tag === "Ended" && Exit.isFailure(status.exit))
        assert.notInclude(
          status?._tag === "Ended" && Exit.isFailure(status.exit) ? Cause.pretty(status.exit.cause) : "",
          "secret plan"
        )
      }))
  }

  it.live("end where a stream is interrupted or has enough", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      const letta = yield* Letta.make({ baseURL: server.url })
      const { spans, tracer } = recordingTracer()
      const first = Stream.runDrain(Stream.take(letta.streamMessage("agent-1", "Hello"), 1))
      yield* Effect.withTracer(first, tracer)
      yield* server.inject({ _tag: "StreamStall", afterEvents: 2 })
      const begun = yield* Deferred.make<void>()
      const fiber = yield* letta.streamMessage("agent-1", "Hello").pipe(
        Stream.runForEach(() => Deferred.succeed(begun, undefined)),
        Effect.withTracer(tracer),
        Effect.forkChild
      )
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(spans.map(({ status }) => status._tag), ["Ended", "Ended"])
    }))
})

describe("Telemetry.layerSpans", () => {
  it.effect("writes what circuits and other guards did into the span they are in", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      const breaker = yield* CircuitBreaker.make({ trip: CircuitBreaker.consecutive(1) })
      yield* Effect.fail(down).pipe(
        breaker.protect("search"),
        Effect.ignore,
        Effect.withSpan("around"),
        Effect.provide(Telemetry.layerSpans),
        Effect.withTracer(tracer)
      )
      const [around] = spans
      const events = around !== undefined && "events" in around && Array.isArray(around.events) ? around.events : []
      assert.deepStrictEqual(events.map(([name, , attributes]) => [name, attributes]), [
        ["CircuitChanged", {
          "effect_resilience.key": "search",
          "effect_resilience.from": "Closed",
          "effect_resilience.to": "Open"
        }]
      ])
    }))
})
