import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Queue, Ref } from "effect"
import { Agent, Policy, ResilientModel, Telemetry } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { TestClock } from "effect/testing"
import { controlled, listened, sse } from "../support/fetch.ts"
import { counting, durable, kit } from "./support.ts"

// The real SDK over a real connection. The client's own watch over silences waits longer than the agent's.
const provider = (server: ProviderServer.ProviderServer["Service"]) =>
  Anthropic.layer({ model: "claude-opus-5-5", apiKey: "key", baseURL: server.url, stallTimeout: "10 minutes" })

const base = { name: "support", instructions: "You refund orders.", toolkit: kit } as const
const options = { runId: "run-1", prompt: "Refund order 7" }

const answer: NonNullable<ProviderServer.Options["answer"]> = ({ messages }) =>
  messages.some(({ content }) => JSON.stringify(content).includes("tool_result"))
    ? "Done."
    : {
      content: [
        { type: "text", text: "I look at it, and then I refund it." },
        { type: "tool_use", name: "Refund", input: { order: "7" } }
      ]
    }

/** Lets the time pass when the run waits for it: before it asks again, and when a stream stands still. */
const inTime = <A, E, R>(run: (onEvent: (event: Agent.Progress) => Effect.Effect<void>) => Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const waits = yield* Queue.unbounded<"retry" | "silence">()
    const passing = Effect.forever(
      Effect.flatMap(Queue.take(waits), (wait) => TestClock.adjust(wait === "retry" ? "5 seconds" : "30 seconds"))
    )
    const stalled = (event: Agent.Progress) =>
      event._tag === "TextDelta" && event.text.includes("STALL") ? Queue.offer(waits, "silence") : Effect.void
    yield* Effect.forkChild(passing)
    return yield* Effect.provideService(
      run((event) => Effect.asVoid(stalled(event))),
      Telemetry.Listener,
      (event) => void (event._tag === "RetryScheduled" && Queue.offerUnsafe(waits, "retry"))
    )
  })

const event = (data: { readonly type: string; readonly [field: string]: unknown }) =>
  `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`
const ping = event({ type: "ping" })
/** An answer whose thoughts are not shown: there is nothing between the beginning and the end of them. */
const thinking = [
  event({
    type: "message_start",
    message: {
      id: "msg_1",
      type: "message",
      role: "assistant",
      model: "claude-opus-5-5",
      content: [],
      stop_reason: null,
      usage: { input_tokens: 3, output_tokens: 1 }
    }
  }),
  event({ type: "content_block_start", index: 0, content_block: { type: "thinking", thinking: "", signature: "" } }),
  event({ type: "content_block_delta", index: 0, delta: { type: "signature_delta", signature: "s" } }),
  event({ type: "content_block_stop", index: 0 }),
  event({ type: "content_block_start", index: 1, content_block: { type: "text", text: "" } }),
  event({ type: "content_block_delta", index: 1, delta: { type: "text_delta", text: "Done." } }),
  event({ type: "content_block_stop", index: 1 }),
  event({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 9 } }),
  event({ type: "message_stop" })
]

const cuts: ReadonlyArray<ProviderServer.Fault> = [
  { _tag: "StreamClose", afterEvents: 3 },
  { _tag: "StreamReset", afterEvents: 5 },
  { _tag: "StreamError", afterEvents: 6 },
  { _tag: "StreamBadJson", afterEvents: 4 },
  { _tag: "StreamNoStopReason" },
  { _tag: "StreamToolJsonCut", stopReason: "tool_use" },
  // All but its last event.
  { _tag: "StreamClose", afterEvents: 1_000 }
]

describe("through the provider's SDK", () => {
  for (const fault of cuts) {
    const name = `${fault._tag}${"afterEvents" in fault ? ` after ${fault.afterEvents} events` : ""}`

    it.effect(`no tool runs of an answer that was cut (${name})`, () =>
      Effect.gen(function*() {
        const { handlers, refunds } = yield* counting
        const server = yield* ProviderServer.make({ answer })
        yield* server.inject(fault)
        const once = Agent.make({ ...base, stream: { maxCuts: 0 } })
        const error = yield* Agent.run(once, options).pipe(
          Effect.provide(Layer.merge(handlers, provider(server))),
          Effect.flip
        )
        assert.isTrue(error._tag === "AgentError" && error.reason._tag === "CutOff")
        if (error._tag === "AgentError" && error.reason._tag === "CutOff") {
          assert.isTrue("I look at it, and then I refund it.".startsWith(error.reason.text))
        }
        assert.deepStrictEqual(yield* Ref.get(refunds), [])
        assert.strictEqual((yield* server.stats).requests, 1)
      }).pipe(Effect.scoped, Effect.provide(durable)))

    it.effect(`its tool runs once when it is asked for again (${name})`, () =>
      Effect.gen(function*() {
        const { handlers, refunds } = yield* counting
        const server = yield* ProviderServer.make({ answer })
        yield* server.inject(fault, fault)
        const result = yield* inTime((onEvent) => Agent.run(Agent.make(base), { ...options, onEvent })).pipe(
          Effect.provide(Layer.merge(handlers, provider(server)))
        )
        assert.strictEqual(result.text, "Done.")
        assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
        assert.deepInclude(result.counters, { cuts: 2, unmetered: 2 })
        assert.strictEqual((yield* server.stats).requests, 4)
      }).pipe(Effect.scoped, Effect.provide(durable)))
  }

  it.effect("a stream that stands still is closed after 30 seconds, and the answer asked for again", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const server = yield* ProviderServer.make({
        answer: (request, index) => index === 0 ? `STALL ${"and more ".repeat(50)}` : answer(request, index)
      })
      yield* server.inject({ _tag: "StreamStall", afterEvents: 4 })
      const result = yield* inTime((onEvent) => Agent.run(Agent.make(base), { ...options, onEvent })).pipe(
        Effect.provide(Layer.merge(handlers, provider(server)))
      )
      yield* server.awaitClosedByClient(0)
      assert.strictEqual(result.text, "Done.")
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
      assert.strictEqual(result.counters.cuts, 1)
    }).pipe(Effect.scoped, Effect.provide(durable)))

  const careful = Policy.make({ name: "provider", timeout: "5 minutes" })
  for (const guard of ["nothing", "a ResilientModel", "a ResilientModel that collects"] as const) {
    it.effect(`a model that thinks silently for two minutes and pings is not cut, behind ${guard}`, () =>
      Effect.gen(function*() {
        const { handlers } = yield* counting
        const connection = yield* controlled(sse)
        const bare = Anthropic.layer({ model: "claude-opus-5-5", apiKey: "key", fetch: connection.fetch })
        const resilient = ResilientModel.layer(careful, { buffer: guard !== "a ResilientModel" })
        const model = guard === "nothing" ? bare : Layer.provide(resilient, [bare, Policy.layer])
        const fiber = yield* Agent.run(Agent.make(base), options).pipe(
          Effect.provide(Layer.merge(handlers, model)),
          Effect.forkChild
        )
        for (const event of thinking) {
          for (let pings = 0; pings < 6; pings++) {
            yield* connection.awaited
            yield* TestClock.adjust(event.includes("\"signature_delta\"") ? "20 seconds" : "500 millis")
            yield* connection.send(ping)
          }
          yield* connection.awaited
          yield* connection.send(event)
        }
        yield* connection.awaited
        yield* connection.end
        const result = yield* Fiber.join(fiber)
        assert.strictEqual(result.text, "Done.")
        assert.strictEqual(result.counters.cuts, 0)
      }).pipe(Effect.scoped, Effect.provide(durable)))
  }

  it.effect("a stream of nothing but pings is closed after 10 minutes, and the answer asked for again", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      // Its pings come by the time of the machine, and each of them is waited for.
      const server = yield* TestClock.withLive(ProviderServer.make({ answer }))
      yield* server.inject({ _tag: "StreamPings", everyMillis: 1, afterEvents: 4 })
      const { fetch, heard } = yield* listened
      const patient = Agent.make({ ...base, budget: { wallTime: "1 hour" } })
      const model = Anthropic.layer({ model: "claude-opus-5-5", apiKey: "key", baseURL: server.url, fetch })
      const fiber = yield* inTime((onEvent) => Agent.run(patient, { ...options, onEvent })).pipe(
        Effect.provide(Layer.merge(handlers, model)),
        Effect.forkChild
      )
      for (let seconds = 0; seconds < 600; seconds += 20) {
        assert.strictEqual((yield* server.stats).closedByClient, 0)
        yield* heard
        yield* TestClock.adjust("20 seconds")
      }
      yield* server.awaitClosedByClient(0)
      const result = yield* Fiber.join(fiber)
      assert.strictEqual(result.text, "Done.")
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
      assert.strictEqual(result.counters.cuts, 1)
    }).pipe(Effect.scoped, Effect.provide(durable)))

  it.effect("an answer is gone on with from where it was cut, and is joined of its pieces", () =>
    Effect.gen(function*() {
      const { handlers } = yield* counting
      const server = yield* ProviderServer.make({
        answer: (_, index) => index === 0 ? `Once ${"upon a time ".repeat(20)}` : "there was an end."
      })
      yield* server.inject({ _tag: "StreamClose", afterEvents: 5 })
      const resuming = Agent.make({ ...base, stream: { onCut: "resume" } })
      const result = yield* inTime((onEvent) => Agent.run(resuming, { ...options, onEvent })).pipe(
        Effect.provide(Layer.merge(handlers, provider(server)))
      )
      assert.match(result.text, /^Once .*there was an end\.$/)
      const [, second] = yield* server.requests
      const body = JSON.parse(JSON.stringify(second?.body)) as { readonly messages: ReadonlyArray<{ role: string }> }
      assert.deepStrictEqual(body.messages.map(({ role }) => role), ["user", "assistant", "user"])
    }).pipe(Effect.scoped, Effect.provide(durable)))

  it.effect("interruption in the middle of a stream closes the connection, and the run goes on by asking again", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const server = yield* ProviderServer.make({ answer })
      yield* server.inject({ _tag: "StreamStall", afterEvents: 4 })
      const begun = yield* Deferred.make<void>()
      const world = Layer.merge(handlers, provider(server))
      const fiber = yield* Agent.run(Agent.make(base), {
        ...options,
        onEvent: ({ _tag }) => _tag === "TextDelta" ? Effect.asVoid(Deferred.succeed(begun, undefined)) : Effect.void
      }).pipe(Effect.provide(world), Effect.forkChild)
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
      const result = yield* Effect.provide(Agent.run(Agent.make(base), options), world)
      assert.strictEqual(result.text, "Done.")
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
    }).pipe(Effect.scoped, Effect.provide(durable)))

  it.effect("behind a ResilientModel too: no tool runs of an answer that was cut, and it is asked for again", () =>
    Effect.gen(function*() {
      const { handlers, refunds } = yield* counting
      const server = yield* ProviderServer.make({ answer })
      yield* server.inject({ _tag: "StreamClose", afterEvents: 1_000 }, { _tag: "StreamReset", afterEvents: 5 })
      const resilient = ResilientModel.layer(
        Policy.make({ name: "provider", timeout: "30 seconds", circuit: { failures: 10 } })
      ).pipe(Layer.provide([provider(server), Policy.layer]))
      const result = yield* inTime((onEvent) => Agent.run(Agent.make(base), { ...options, onEvent })).pipe(
        Effect.provide(Layer.merge(handlers, resilient))
      )
      assert.strictEqual(result.text, "Done.")
      assert.deepStrictEqual(yield* Ref.get(refunds), ["7"])
      assert.strictEqual(result.counters.cuts, 2)
    }).pipe(Effect.scoped, Effect.provide(durable)))
})
