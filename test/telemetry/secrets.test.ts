import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Logger, Metric, Redacted, References, Schema } from "effect"
import {
  Agent,
  Backoff,
  Checkpoint,
  CheckpointStore,
  EscalationQueue,
  Fallback,
  Idempotency,
  Policy,
  Retry,
  Telemetry
} from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import { Tool, Toolkit } from "effect/ai"
import { PrometheusMetrics } from "effect/observability"
import { TestConsole } from "effect/testing"
import { collected, spansOf } from "../support/collector.ts"
import { sse } from "../support/fetch.ts"

/** What must stay where it was put: each planted in one place, and found nowhere else by its own name. */
const secret = {
  apiKey: "sk-planted-api-key-000000000000000",
  header: "planted-header-value",
  redactedArgument: "planted-redacted-argument",
  instructions: "planted-instructions",
  prompt: "planted-prompt",
  answer: "planted-answer",
  argument: "planted-argument",
  result: "planted-tool-result",
  toolError: "planted-tool-error",
  defect: "planted-defect",
  frame: "planted-frame",
  providerError: "planted-provider-error",
  userError: "planted-user-error"
}

const always = [secret.apiKey, secret.header, secret.redactedArgument]

const toolkit = Toolkit.make(
  Tool.make("Look", {
    parameters: Schema.Struct({ at: Schema.String, using: Schema.RedactedFromValue(Schema.String) }),
    success: Schema.String
  }).annotate(Tool.Readonly, true),
  Tool.make("Break", { parameters: Schema.Struct({ how: Schema.Literals(["fail", "die"]) }), success: Schema.String }),
  Tool.make("Send", {
    parameters: Schema.Struct({ using: Schema.RedactedFromValue(Schema.String) }),
    success: Schema.String
  })
)

class Broken extends Schema.TaggedError<Broken>()("Broken", { message: Schema.String }) {}

const handlers = toolkit.toLayer({
  Look: () => Effect.succeed(secret.result),
  Break: ({ how }) =>
    how === "die"
      ? Effect.die(new Error(`${secret.defect}\n    at ${secret.frame} (a.ts:1:1)`))
      : Effect.die(new Broken({ message: secret.toolError })),
  Send: () => Effect.die(new Error(`${secret.defect}\n    at ${secret.frame} (a.ts:1:1)`))
})

const usage = { input_tokens: 8, output_tokens: 2 }

type Block =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "tool_use"; readonly id: string; readonly name: string; readonly input: unknown }

const begun = (block: Block) => block.type === "text" ? { ...block, text: "" } : { ...block, input: {} }
const delta = (block: Block) =>
  block.type === "text"
    ? { type: "text_delta", text: block.text }
    : { type: "input_json_delta", partial_json: JSON.stringify(block.input) }

/** A whole message, as the events of a stream. */
const message = (content: ReadonlyArray<Block>, stop_reason: string) => {
  const head = { type: "message", id: "msg_1", model: "claude-opus-5-5", role: "assistant", usage }
  const events = [
    { type: "message_start", message: { ...head, content: [], stop_reason: null } },
    ...content.flatMap((block, index) => [
      { type: "content_block_start", index, content_block: begun(block) },
      { type: "content_block_delta", index, delta: delta(block) },
      { type: "content_block_stop", index }
    ]),
    { type: "message_delta", delta: { stop_reason }, usage },
    { type: "message_stop" }
  ]
  return new Response(events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(""), sse)
}

const toolUse = (name: string, input: unknown) =>
  message([{ type: "text", text: secret.answer }, { type: "tool_use", id: `toolu_${name}`, name, input }], "tool_use")

/** Repeats what it was sent, as a careless proxy does. */
const echo = (status: number) =>
  Response.json({
    type: "error",
    error: {
      type: "invalid_request_error",
      message: `${secret.providerError}: ${secret.prompt} with ${secret.apiKey} and ${secret.header}`
    }
  }, { status, headers: { "x-echo": `${secret.apiKey} ${secret.header}` } })

const model = (answers: ReadonlyArray<() => Response>) => {
  let index = 0
  return Anthropic.layer({
    model: "claude-opus-5-5",
    apiKey: Redacted.make(secret.apiKey),
    headers: { "x-planted": secret.header },
    fetch: () =>
      Promise.resolve((answers[index++] ?? (() => message([{ type: "text", text: secret.answer }], "end_turn")))())
  })
}

const agent = Agent.make({
  name: "careless",
  instructions: secret.instructions,
  toolkit,
  tools: { Send: { effects: "atMostOnce" } },
  policies: {
    model: Retry.apply(Retry.policy({ name: "model", backoff: Backoff.constant({ delay: 0 }), maxAttempts: 2 }))
  }
})

const run = (runId: string, answers: ReadonlyArray<() => Response>) =>
  Agent.run(agent, { runId, prompt: secret.prompt }).pipe(
    Effect.provide(Layer.merge(handlers, model(answers))),
    Effect.exit
  )

/** Everything that there is to go wrong, with a secret in every input. */
const everything = Effect.gen(function*() {
  yield* run("good", [() => toolUse("Look", { at: secret.argument, using: secret.redactedArgument })])
  yield* run("overloaded", [() => echo(529), () => echo(529)])
  yield* run("refused", [() => echo(400)])
  yield* run("denied", [() => echo(401)])
  yield* run("failing", [() => toolUse("Break", { how: "fail" })])
  yield* run("dying", [() => toolUse("Break", { how: "die" })])
  yield* run("asking", [() => toolUse("Send", { using: secret.redactedArgument })])
  const fails = Effect.fail(new Broken({ message: secret.userError }))
  const policy = Policy.make({
    name: "own",
    retry: { backoff: Backoff.constant({ delay: 0 }), maxAttempts: 2 },
    circuit: { failures: 1, openFor: "1 minute" }
  })
  yield* Effect.ignore(Policy.apply(fails, policy).pipe(Fallback.orElse("other", () => fails)))
  yield* Checkpoint.step(
    "pay",
    { effects: "atMostOnce" },
    Effect.die(new Error(`${secret.defect}\n    at ${secret.frame} (a.ts:1:1)`))
  ).pipe(
    Checkpoint.run({ id: "pay", input: { prompt: "none" } }),
    Effect.exit
  )
})

const stores = Layer.mergeAll(
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory,
  Idempotency.layerMemory,
  Policy.layer
)

/** All that leaves the program, by where it goes. */
const outputs = (content: boolean) =>
  Effect.gen(function*() {
    const events: Array<Telemetry.Event> = []
    const watched = Effect.gen(function*() {
      yield* everything
      const escalations = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list())
      const ids = ["good", "overloaded", "refused", "denied", "failing", "dying", "asking", "pay"]
      const journals = yield* Effect.forEach(
        ids,
        (id) => CheckpointStore.CheckpointStore.use((store) => store.read(id))
      )
      return {
        escalations: JSON.stringify(escalations),
        journal: JSON.stringify(journals),
        metrics: yield* PrometheusMetrics.format()
      }
    }).pipe(
      Effect.withSpan("request"),
      Telemetry.listen((event) => void events.push(event)),
      Effect.provide(Layer.mergeAll(
        Telemetry.layerMetrics(),
        Telemetry.layerLog(),
        Telemetry.layerSpans,
        Logger.layer([Logger.consoleJson, Logger.tracerLogger], { mergeWithExisting: true })
      )),
      Effect.provide(stores),
      Effect.provideService(References.MinimumLogLevel, "Trace"),
      Effect.provideService(Telemetry.CaptureContent, content)
    )
    const { bodies, result } = yield* collected(watched)
    const kept = yield* result
    return {
      ...kept,
      events: JSON.stringify(events),
      logs: JSON.stringify(yield* TestConsole.logLines),
      otlp: JSON.stringify(bodies),
      spans: yield* spansOf(bodies)
    }
  }).pipe(Effect.provideService(Metric.MetricRegistry, new Map()), Effect.provide(TestConsole.layer))

const howItEnded: ReadonlyArray<string> = [secret.toolError, secret.defect, secret.frame]

const foundIn = (text: string, secrets: ReadonlyArray<string>): ReadonlyArray<string> =>
  secrets.filter((planted) => text.includes(planted))

describe("secrets", () => {
  it.live("never leave by logs, metrics, spans, OTLP, events or escalation records: no key, no Redacted, no prompt", () =>
    Effect.gen(function*() {
      const { escalations, events, journal, logs, metrics, otlp, spans } = yield* outputs(false)
      // What is looked at is there, so that nothing is found for no other reason.
      assert.isAbove(spans.length, 20)
      assert.match(otlp, /\/v1\/logs/)
      assert.match(otlp, /\/v1\/metrics/)
      assert.match(logs, /SessionFailed/)
      assert.match(logs, /tool Break died/)
      assert.match(events, /ToolCalled/)
      assert.match(metrics, /effect_resilience_tool_call_seconds_count/)
      assert.match(escalations, /Send/)
      assert.match(journal, /RunOpened/)

      const all = Object.values(secret)
      assert.deepStrictEqual(
        {
          logs: foundIn(logs, all),
          metrics: foundIn(metrics, all),
          events: foundIn(events, all),
          otlp: foundIn(otlp, all),
          // Whoever has to say whether a call took effect is told how it ended.
          escalations: foundIn(escalations, all.filter((one) => !howItEnded.includes(one))),
          journal: foundIn(journal, [secret.apiKey, secret.header])
        },
        { logs: [], metrics: [], events: [], otlp: [], escalations: [], journal: [] }
      )
    }))

  it.live("that are keys or Redacted do not leave either where content is asked for", () =>
    Effect.gen(function*() {
      const { escalations, events, logs, metrics, otlp } = yield* outputs(true)
      assert.include(events, secret.prompt)
      assert.include(logs, secret.result)
      assert.deepStrictEqual(foundIn(metrics, Object.values(secret)), [])
      const kept = {
        events: foundIn(events, always),
        logs: foundIn(logs, always),
        otlp: foundIn(otlp, [secret.apiKey, secret.redactedArgument])
      }
      assert.deepStrictEqual(kept, { events: [], logs: [], otlp: [] })
      assert.deepStrictEqual(foundIn(escalations, always), [])
    }))
})
