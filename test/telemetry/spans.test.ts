import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer, Schema } from "effect"
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
  Retry,
  Telemetry
} from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
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
      assert.strictEqual(named("LanguageModel.streamText").length, 3)
      assert.isTrue(
        named("LanguageModel.streamText").every(({ parent }) => attempts("model").some(({ id }) => id === parent))
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
