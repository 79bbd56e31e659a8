import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Logger, References, Schema } from "effect"
import { Agent, Checkpoint, CheckpointStore, EscalationQueue, Fault, Idempotency, Telemetry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { TestConsole } from "effect/testing"
import { oneOfEach } from "../support/events.ts"

const toolkit = Toolkit.make(
  Tool.make("Look", { parameters: Schema.Struct({ at: Schema.String }), success: Schema.String }).annotate(
    Tool.Readonly,
    true
  )
)

const scout = Agent.make({ name: "scout", instructions: "Look around.", toolkit })

const unsure = Agent.reviewed(Agent.make({ name: "unsure", instructions: "" }), { when: () => true })

const services = Layer.mergeAll(
  toolkit.toLayer({ Look: () => Effect.succeed("a tree") }),
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory,
  Idempotency.layerMemory
)

const answering = ScriptedModel.layer([
  ScriptedModel.toolCall({ id: "call_1", name: "Look", params: { at: "north" } }),
  ScriptedModel.text("There is a tree.", { usage: { inputTokens: 10, outputTokens: 5 } })
])

interface Entry {
  readonly level: string
  readonly message: string
  readonly annotations: Readonly<Record<string, unknown>>
}

const entry = Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.Struct({
  level: Schema.String,
  message: Schema.Unknown,
  annotations: Schema.Record(Schema.String, Schema.Unknown)
})))

/** The lines that an effect writes on the console, each of which has to be one JSON object. */
const lines = <A, E, R>(self: Effect.Effect<A, E, R>, options?: Telemetry.LogOptions) =>
  Effect.exit(self).pipe(
    Effect.provide(Telemetry.layerLogJson(options)),
    Effect.andThen(TestConsole.logLines),
    Effect.flatMap(Effect.forEach((line) => entry(line))),
    Effect.map((found): ReadonlyArray<Entry> => found.map((line) => ({ ...line, message: String(line.message) }))),
    Effect.provide(TestConsole.layer)
  )

const run = (model: typeof answering) =>
  Agent.run(scout, { runId: "scout-1", prompt: "What is there?" }).pipe(Effect.provide(Layer.merge(services, model)))

describe("Telemetry.layerLogJson", () => {
  it.effect("tells of an agent's session in JSON: start, model and tool calls, completion, each with agent, run and session", () =>
    Effect.gen(function*() {
      const found = yield* lines(Effect.provideService(run(answering), Telemetry.CurrentSession, "chat-7"))
      assert.deepStrictEqual(found.map(({ level, message }) => `${level} ${message}`), [
        "INFO run changed",
        "INFO session started",
        "INFO model called",
        "INFO tool called",
        "INFO model called",
        "INFO session completed",
        "INFO run changed"
      ])
      const inside = found.filter(({ message }) => message !== "run changed")
      for (const { annotations } of inside) {
        assert.deepInclude(annotations, { agent: "scout", runId: "scout-1", sessionId: "chat-7" })
      }
      const [, , tool, model, completed] = inside.map(({ annotations }) => annotations)
      assert.deepInclude(tool, {
        event: "ToolCalled",
        tool: "Look",
        callId: "call_1",
        outcome: "success",
        resultLength: "\"a tree\"".length,
        durationMillis: 0
      })
      assert.notProperty(tool, "arguments")
      assert.deepInclude(model, { event: "ModelCalled", inputTokens: 10, outputTokens: 5, durationMillis: 0 })
      assert.deepInclude(completed, { event: "SessionCompleted", completion: "complete", turns: 2, toolCalls: 1 })
    }))

  it.effect("takes the run for the session where none is named", () =>
    Effect.gen(function*() {
      const found = yield* lines(run(answering))
      const started = found.find(({ message }) => message === "session started")
      assert.deepStrictEqual(started?.annotations["sessionId"], "scout-1")
    }))

  it.effect("tells of a session that fails by the name of its error and its verdict", () =>
    Effect.gen(function*() {
      const found = yield* lines(run(ScriptedModel.layer([ScriptedModel.fail(Fault.permanent)])))
      const failed = found.find(({ message }) => message === "session failed")
      assert.strictEqual(failed?.level, "ERROR")
      assert.deepInclude(failed?.annotations, { event: "SessionFailed", verdict: "Permanent" })
      assert.match(String(failed?.annotations["error"]), /^AiError\//)
    }))

  it.effect("tells of a session that waits for people, and of one that is interrupted, that they are paused", () =>
    Effect.gen(function*() {
      const heard: Array<unknown> = []
      const listening = Telemetry.listen((event) =>
        event._tag === "SessionPaused" ? void heard.push(event.reason) : undefined
      )
      const looking = yield* Deferred.make<void>()
      const asking = toolkit.toLayer({ Look: () => Effect.andThen(Deferred.succeed(looking, undefined), Effect.never) })
      const world = Layer.mergeAll(services, asking, answering)
      const running = Agent.run(scout, { runId: "scout-2", prompt: "What?" }).pipe(Effect.provide(world), listening)
      const fiber = yield* Effect.forkChild(running, { startImmediately: true })
      yield* Deferred.await(looking)
      yield* Fiber.interrupt(fiber)
      assert.deepStrictEqual(heard, ["Interrupted"])
      yield* Agent.loop(unsure, { prompt: "What?" }).pipe(
        Checkpoint.run({ id: "scout-3" }),
        Effect.provide(Layer.merge(services, ScriptedModel.layer(["There."]))),
        listening,
        Effect.exit
      )
      assert.deepStrictEqual(heard, ["Interrupted", "Suspended"])
    }))

  it.effect("has a line for every event at its level, and none where the option says so", () =>
    Effect.gen(function*() {
      const all = Effect.forEach(oneOfEach, (event) => Telemetry.emit(() => event), { discard: true }).pipe(
        Effect.provideService(References.MinimumLogLevel, "Trace")
      )
      const found = yield* lines(all, { levels: { StepCompleted: "None", CircuitChanged: "Error" } })
      assert.sameMembers(
        found.map(({ annotations }) => annotations["event"]),
        oneOfEach.flatMap(({ _tag }) => _tag === "StepCompleted" ? [] : [_tag])
      )
      const circuit = found.find(({ annotations }) => annotations["event"] === "CircuitChanged")
      assert.deepStrictEqual(circuit, {
        level: "ERROR",
        message: "circuit changed",
        annotations: { event: "CircuitChanged", key: "k", from: "Closed", to: "Open" }
      })
    }))
})

describe("Telemetry.CaptureContent", () => {
  it.effect("shows prompts, answers, arguments and results", () =>
    Effect.gen(function*() {
      const found = yield* lines(Effect.provideService(run(answering), Telemetry.CaptureContent, true))
      const of = (message: string) => found.find((line) => line.message === message)?.annotations
      assert.strictEqual(of("session started")?.["prompt"], "What is there?")
      assert.deepInclude(of("tool called"), { arguments: "{\"at\":\"north\"}", result: "\"a tree\"" })
      assert.match(String(of("model called")?.["prompt"]), /Look around\.\nWhat is there\?/)
      assert.strictEqual(of("session completed")?.["answer"], "There is a tree.")
    }))

  it.effect("cuts them at 2,000 characters", () =>
    Effect.gen(function*() {
      const long = yield* lines(
        Agent.run(scout, { runId: "scout-1", prompt: "x".repeat(5_000) }).pipe(
          Effect.provide(Layer.merge(services, answering)),
          Effect.provideService(Telemetry.CaptureContent, true)
        )
      )
      assert.strictEqual(
        String(long.find(({ message }) => message === "session started")?.annotations["prompt"]).length,
        2_000
      )
    }))
})

describe("Telemetry.layerLogJson and other loggers", () => {
  /** The lines on the console, and those that a logger of another layer has got, such as that of `Otlp`. */
  const heardBy = (watching: (other: Layer.Layer<never>) => Layer.Layer<never>) =>
    Effect.gen(function*() {
      const exported: Array<string> = []
      const other = Logger.layer([Logger.make(({ message }) => void exported.push(String(message)))], {
        mergeWithExisting: true
      })
      yield* Effect.logInfo("begun").pipe(
        Effect.andThen(Telemetry.emit(() => ({ _tag: "OutageEnded", key: "model", afterMillis: 1, probes: 1 }))),
        Effect.provide(watching(other))
      )
      const written = yield* Effect.forEach(yield* TestConsole.logLines, (line) => entry(line))
      return [written.map(({ message }) => String(message)), exported]
    }).pipe(Effect.provide(TestConsole.layer))

  const both = [["begun", "outage ended"], ["begun", "outage ended"]]

  it.effect("are both there when it is provided to the other one, and no line is written twice", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* heardBy(Layer.provideMerge(Telemetry.layerLogJson())), both)
    }))

  it.effect("are both there when the other one is provided to it, and no line is written twice", () =>
    Effect.gen(function*() {
      const inside = (other: Layer.Layer<never>) => Telemetry.layerLogJson().pipe(Layer.provideMerge(other))
      assert.deepStrictEqual(yield* heardBy(inside), both)
    }))

  it.effect("takes the place of loggers that write on the console", () =>
    Effect.gen(function*() {
      const replacing = (other: Layer.Layer<never>) =>
        Layer.provideMerge(other, Logger.layer([Logger.consoleJson, Logger.defaultLogger])).pipe(
          (layer) => Layer.provideMerge(Telemetry.layerLogJson(), layer)
        )
      assert.deepStrictEqual(yield* heardBy(replacing), both)
    }))
})
