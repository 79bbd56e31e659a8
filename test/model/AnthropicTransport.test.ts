import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Fiber, Layer, Queue, Redacted, Result, Stream } from "effect"
import { Deadline, Fault } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as AnthropicClient from "effect-resilience/model/AnthropicClient"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { type AiError, LanguageModel, type Response as AiResponse } from "effect/ai"
import { TestClock } from "effect/testing"
import { controlled, json, observed, sse } from "../support/fetch.ts"

const message = {
  id: "msg_1",
  type: "message",
  role: "assistant",
  model: "claude-opus-5-5",
  content: [{ type: "text", text: "Hello" }],
  stop_reason: "end_turn",
  usage: { input_tokens: 3, output_tokens: 1 }
}

const event = (data: { readonly type: string; readonly [field: string]: unknown }) =>
  `event: ${data.type}\ndata: ${JSON.stringify(data)}\n\n`

const events = [
  event({ type: "message_start", message: { ...message, content: [], stop_reason: null } }),
  event({ type: "content_block_start", index: 0, content_block: { type: "text", text: "" } }),
  event({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "Hel" } }),
  event({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text: "lo" } }),
  event({ type: "content_block_stop", index: 0 }),
  event({ type: "message_delta", delta: { stop_reason: "end_turn" }, usage: { output_tokens: 1 } }),
  event({ type: "message_stop" })
]

const layer = (options: Partial<Anthropic.Options>) =>
  Layer.orDie(Anthropic.layer({ model: "claude-opus-5-5", apiKey: "test", ...options }))

const generate = (options: Partial<Anthropic.Options>) =>
  LanguageModel.generateText({ prompt: "Hello" }).pipe(
    Effect.map((response) => response.text),
    Effect.provide(layer(options))
  )

const texts = <E, R>(parts: Stream.Stream<AiResponse.AnyPart, E, R>) =>
  Stream.filterMap(parts, (part) => part.type === "text-delta" ? Result.succeed(part.delta) : Result.failVoid)

const started = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const judged = Effect.fnUntraced(function*(error: AiError.AiError) {
  return [error.reason._tag, (yield* Fault.classify(error))._tag]
})

describe("Anthropic: the stall watchdog", () => {
  it.effect("gives up after 5 minutes without headers, and closes the connection", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<AbortSignal | null | undefined>()
      const fiber = yield* generate({
        fetch: (_, init) => {
          Deferred.doneUnsafe(asked, Effect.succeed(init?.signal))
          return new Promise<Response>(() => {})
        }
      }).pipe(Effect.flip, started)
      const signal = yield* Deferred.await(asked)
      yield* TestClock.adjust(5 * 60_000 - 1)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* judged(error), ["InternalProviderError", "TimedOut"])
      assert.match(error.message, /5m.*responseTimeout/)
      assert.isTrue(signal?.aborted)
    }))

  it.effect.each(
    [
      [undefined, undefined, 30_000, "streamTimeout"],
      ["10 seconds", undefined, 10_000, "streamTimeout"],
      ["10 minutes", "45 seconds", 45_000, "streamTimeout"]
    ] as const
  )(
    "gives up when no stream begins (%s, %s: %s)",
    ([responseTimeout, streamTimeout, millis, option]) =>
      Effect.gen(function*() {
        const asked = yield* Deferred.make<void>()
        const silent = () => {
          Deferred.doneUnsafe(asked, Effect.void)
          return new Promise<Response>(() => {})
        }
        const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
          Stream.runDrain,
          Effect.provide(layer({ fetch: silent, responseTimeout, streamTimeout })),
          Effect.flip,
          started
        )
        yield* Deferred.await(asked)
        yield* TestClock.adjust(millis - 1)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust("1 millis")
        const error = yield* Fiber.join(fiber)
        assert.deepStrictEqual(yield* Effect.map(Fault.classify(error), ({ _tag }) => _tag), "TimedOut")
        assert.include(error.message, option)
      })
  )

  it.effect("counts from the last byte of a body, not from its beginning", () =>
    Effect.gen(function*() {
      const server = yield* controlled(json)
      const fiber = yield* started(Effect.flip(generate({ fetch: server.fetch })))
      for (const piece of ["{\"id\":", "\"msg_1\",", "\"type\":"]) {
        yield* server.awaited
        yield* TestClock.adjust("29 seconds")
        yield* server.send(piece)
      }
      yield* server.awaited
      yield* TestClock.adjust("29999 millis")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* judged(error), ["InvalidResponseError", "Ambiguous"])
      assert.match(error.message, /30s.*stallTimeout/)
      yield* server.aborted
    }))

  it.effect("a slow body that keeps coming is an answer, however long it takes", () =>
    Effect.gen(function*() {
      const server = yield* controlled(json)
      const fiber = yield* started(generate({ fetch: server.fetch, stallTimeout: "10 seconds" }))
      for (const letter of JSON.stringify(message)) {
        yield* server.awaited
        yield* TestClock.adjust("9 seconds")
        yield* server.send(letter)
      }
      yield* server.awaited
      yield* server.end
      assert.strictEqual(yield* Fiber.join(fiber), "Hello")
    }))

  it.effect("a stream that stalls fails after the parts that came", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const seen: Array<string> = []
      const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
        texts,
        Stream.runForEach((text) => Effect.sync(() => seen.push(text))),
        Effect.provide(layer({ fetch: server.fetch })),
        Effect.flip,
        started
      )
      for (const text of events.slice(0, 3)) {
        yield* server.awaited
        yield* server.send(text)
      }
      yield* server.awaited
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(yield* judged(yield* Fiber.join(fiber)), ["InvalidResponseError", "Ambiguous"])
      assert.deepStrictEqual(seen, ["Hel"])
      yield* server.aborted
    }))

  it.effect("pings are signs of life for the watchdogs around, and no parts", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const seen: Array<string> = []
      const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
        Deadline.stall("30 seconds"),
        texts,
        Stream.runForEach((text) => Effect.sync(() => seen.push(text))),
        Effect.provide(layer({ fetch: server.fetch, stallTimeout: "1 minute" })),
        started
      )
      for (const text of events) {
        for (let pings = 0; pings < 6; pings++) {
          yield* server.awaited
          yield* TestClock.adjust("20 seconds")
          yield* server.send(event({ type: "ping" }))
        }
        yield* server.awaited
        yield* server.send(text)
      }
      yield* server.awaited
      yield* server.end
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, ["Hel", "lo"])
    }))

  it.effect("where there are no pings either, a watchdog around is the first to notice", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
        Deadline.stall("30 seconds"),
        Stream.runDrain,
        Effect.flip,
        Effect.provide(layer({ fetch: server.fetch, stallTimeout: "1 minute" })),
        started
      )
      yield* server.awaited
      yield* server.send(event({ type: "ping" }))
      yield* server.awaited
      yield* TestClock.adjust("29 seconds")
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "Stalled")
      yield* server.aborted
    }))

  it.effect("the bytes of an answer in one piece are signs of life, too", () =>
    Effect.gen(function*() {
      const server = yield* controlled(json)
      const call = generate({ fetch: server.fetch })
      const fiber = yield* started(Deadline.watch({ idle: "30 seconds" }, () => call))
      for (const character of JSON.stringify(message)) {
        yield* server.awaited
        yield* TestClock.adjust("29 seconds")
        yield* server.send(character)
      }
      yield* server.awaited
      yield* server.end
      assert.strictEqual(yield* Fiber.join(fiber), "Hello")
    }))

  it.effect("a slow consumer is not a stalled provider", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const seen: Array<string> = []
      const working = yield* Queue.unbounded<void>()
      const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
        texts,
        Stream.runForEach((text) =>
          Effect.gen(function*() {
            seen.push(text)
            yield* Queue.offer(working, undefined)
            yield* Effect.sleep("10 minutes")
          })
        ),
        Effect.provide(layer({ fetch: server.fetch })),
        started
      )
      for (const text of events) {
        yield* server.awaited
        yield* server.send(text)
        if (text.includes("text_delta")) {
          yield* Queue.take(working)
          yield* TestClock.adjust("10 minutes")
        }
      }
      yield* server.awaited
      yield* server.end
      yield* Fiber.join(fiber)
      assert.deepStrictEqual(seen, ["Hel", "lo"])
    }))

  it.effect.each(["end", "stall", "break"] as const)(
    "a message that is whole is not lost in what follows: %s",
    (then) =>
      Effect.gen(function*() {
        const server = yield* controlled(sse)
        const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
          texts,
          Stream.runCollect,
          Effect.provide(layer({ fetch: server.fetch })),
          started
        )
        for (const text of events) {
          yield* server.awaited
          yield* server.send(text)
        }
        yield* server.awaited
        if (then === "end") yield* server.end
        if (then === "stall") yield* TestClock.adjust("1 second")
        if (then === "break") yield* server.reset
        assert.deepStrictEqual(yield* Fiber.join(fiber), ["Hel", "lo"])
      })
  )

  it.effect("an error answer whose body stalls is still that error", () =>
    Effect.gen(function*() {
      const server = yield* controlled({ status: 429, headers: { "retry-after": "5" } })
      const fiber = yield* started(Effect.flip(generate({ fetch: server.fetch })))
      yield* server.awaited
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.throttled("5 seconds"))
    }))

  it.effect.each(["HangBody", "StreamStall"] as const)(
    "finds a real connection in %s",
    (_tag) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make()
        yield* server.inject({ _tag })
        const { awaited, fetch } = yield* observed
        const call: Effect.Effect<unknown, AiError.AiError, LanguageModel.LanguageModel> = _tag === "HangBody"
          ? LanguageModel.generateText({ prompt: "Hello" })
          : Stream.runDrain(LanguageModel.streamText({ prompt: "Hello" }))
        const fiber = yield* call.pipe(Effect.provide(layer({ baseURL: server.url, fetch })), Effect.flip, started)
        yield* awaited
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(yield* judged(yield* Fiber.join(fiber)), ["InvalidResponseError", "Ambiguous"])
        yield* server.awaitClosedByClient(0)
        assert.strictEqual((yield* server.requests).length, 1)
      })
  )
})

describe("Anthropic: interruption closes the connection", () => {
  it.effect.each(["json", "stream"] as const)("%s: before the headers", (mode) =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "Hang" })
      const call: Effect.Effect<unknown, AiError.AiError, LanguageModel.LanguageModel> = mode === "json"
        ? LanguageModel.generateText({ prompt: "Hello" })
        : Stream.runDrain(LanguageModel.streamText({ prompt: "Hello" }))
      const fiber = yield* call.pipe(Effect.provide(layer({ baseURL: server.url })), started)
      yield* server.awaitRequest(0)
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("in the middle of a body", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "HangBody" })
      const { awaited, fetch } = yield* observed
      const fiber = yield* started(generate({ baseURL: server.url, fetch }))
      yield* awaited
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("in the middle of a stream", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "StreamStall", afterEvents: 4 })
      const begun = yield* Deferred.make<void>()
      const fiber = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
        texts,
        Stream.runForEach(() => Deferred.succeed(begun, undefined)),
        Effect.provide(layer({ baseURL: server.url })),
        started
      )
      yield* Deferred.await(begun)
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("when the consumer of a stream has enough", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "StreamStall", afterEvents: 4 })
      const seen = yield* LanguageModel.streamText({ prompt: "Hello" }).pipe(
        texts,
        Stream.take(1),
        Stream.runCollect,
        Effect.provide(layer({ baseURL: server.url }))
      )
      assert.strictEqual(seen.length, 1)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("also where the call did not hand on the signal", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "Hang" })
      const client = yield* AnthropicClient.make({ apiKey: Redacted.make("test"), baseURL: server.url })
      const fiber = yield* started(client.use((sdk) => sdk.messages.create(request)))
      yield* server.awaitRequest(0)
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("also where `fetch` does not listen to its signal", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const fiber = yield* started(generate({
        fetch: () => {
          Deferred.doneUnsafe(asked, Effect.void)
          return new Promise<Response>(() => {})
        }
      }))
      yield* Deferred.await(asked)
      yield* Fiber.interrupt(fiber)
    }))
})

describe("Anthropic: a fetch that does not listen to its signal", () => {
  /** A body that never ends, after the text given, and the moment at which nobody wants it any more. */
  const endless = Effect.fnUntraced(function*(text: string, init: ResponseInit) {
    const cancelled = yield* Deferred.make<void>()
    const body = new ReadableStream<Uint8Array>({
      start: (controller) => controller.enqueue(new TextEncoder().encode(text)),
      cancel: () => {
        Deferred.doneUnsafe(cancelled, Effect.void)
      }
    })
    return { response: new Response(body, init), cancelled: Deferred.await(cancelled) }
  })

  it.effect.each(["json", "stream"] as const)("%s: a body that stalls is cancelled", (mode) =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const { cancelled, response } = yield* mode === "json" ? endless("{", json) : endless(events[0] ?? "", sse)
      const fetch = () => {
        Deferred.doneUnsafe(asked, Effect.void)
        return Promise.resolve(response)
      }
      const call = mode === "json"
        ? Effect.asVoid(generate({ fetch }))
        : Stream.runDrain(LanguageModel.streamText({ prompt: "Hello" })).pipe(Effect.provide(layer({ fetch })))
      const fiber = yield* started(Effect.flip(call))
      yield* Deferred.await(asked)
      const clock = yield* started(Effect.forever(Effect.andThen(TestClock.adjust("30 seconds"), Effect.yieldNow)))
      assert.deepStrictEqual(yield* judged(yield* Fiber.join(fiber)), ["InvalidResponseError", "Ambiguous"])
      yield* cancelled
      yield* Fiber.interrupt(clock)
    }))

  it.effect("an answer that comes after its time is cancelled", () =>
    Effect.gen(function*() {
      const asked = yield* Deferred.make<void>()
      const late = Promise.withResolvers<Response>()
      const { cancelled, response } = yield* endless("{", json)
      const fiber = yield* started(Effect.flip(generate({
        fetch: () => {
          Deferred.doneUnsafe(asked, Effect.void)
          return late.promise
        }
      })))
      yield* Deferred.await(asked)
      yield* TestClock.adjust("5 minutes")
      assert.deepStrictEqual(yield* judged(yield* Fiber.join(fiber)), ["InternalProviderError", "TimedOut"])
      late.resolve(response)
      yield* cancelled
    }))
})

const request = {
  model: "claude-opus-5-5",
  max_tokens: 64,
  messages: [{ role: "user" as const, content: "Hello" }]
}

describe("AnthropicClient", () => {
  it.effect("gives the SDK to programs that do not use effect/ai", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: server.url })
      const answer = yield* client.use((sdk, signal) => sdk.messages.create(request, { signal }))
      assert.deepInclude(answer.content[0], { type: "text", text: "Echo: Hello" })
      const collected = yield* client.stream((sdk) => sdk.messages.create({ ...request, stream: true })).pipe(
        Stream.runCollect
      )
      assert.deepInclude(collected.at(-1), { type: "message_stop" })
    }))

  it.effect("leaves retries to the program", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: () => ({ _tag: "Overloaded" }) })
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: server.url })
      const error = yield* Effect.flip(client.use((sdk) => sdk.messages.create(request)))
      assert.deepStrictEqual(yield* judged(error), ["InternalProviderError", "Overloaded"])
      assert.deepStrictEqual([error.module, error.method], ["AnthropicClient", "use"])
      assert.strictEqual((yield* server.requests).length, 1)
    }))

  it.effect("gives a message only if it is whole", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const ask = AnthropicClient.message(request).pipe(
        Effect.provide(Layer.orDie(AnthropicClient.layer({ apiKey: "test", baseURL: server.url })))
      )
      assert.strictEqual((yield* ask).stop_reason, "end_turn")
      yield* server.inject({ _tag: "NotAMessage", variant: "html" }, { _tag: "StreamNoStopReason" })
      for (const _ of [1, 2]) {
        const error = yield* Effect.flip(ask)
        assert.deepStrictEqual(yield* judged(error), ["InvalidResponseError", "Malformed"])
        assert.deepStrictEqual([error.module, error.method], ["AnthropicClient", "message"])
      }
    }))

  it.effect("fails a stream of a message that ends before its end", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "StreamClose", afterEvents: 4 })
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: server.url })
      const error = yield* client.stream((sdk) => sdk.messages.create({ ...request, stream: true })).pipe(
        Stream.runDrain,
        Effect.flip
      )
      assert.deepStrictEqual(yield* judged(error), ["InvalidResponseError", "Ambiguous"])
    }))

  it.effect("fails a stream that a signal of the caller's ended, where the SDK says nothing", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "StreamStall", afterEvents: 4 })
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: server.url })
      const own = new AbortController()
      const error = yield* client.stream((sdk) =>
        sdk.messages.create({ ...request, stream: true }, { signal: own.signal })
      ).pipe(
        Stream.runForEach((event) => Effect.sync(() => event.type === "content_block_delta" && own.abort())),
        Effect.flip
      )
      assert.deepStrictEqual(yield* judged(error), ["UnknownError", "Ambiguous"])
    }))

  it.effect("types what the callback itself throws", () =>
    Effect.gen(function*() {
      const client = yield* AnthropicClient.make({ apiKey: "test" })
      const thrown = yield* Effect.flip(client.use(() => {
        throw new Error("oops")
      }))
      const rejected = yield* Effect.flip(client.use(() => Promise.reject(new TypeError("oops"))))
      for (const error of [thrown, rejected]) {
        assert.deepStrictEqual(yield* judged(error), ["UnknownError", "Permanent"])
        assert.match(error.message, /oops/)
      }
    }))

  it.effect("tells the caller's own error from what became of an earlier request", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "ResetMidBody" })
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: server.url })
      const error = yield* Effect.flip(client.use(async (sdk) => {
        await sdk.messages.create(request).catch(() => undefined)
        await sdk.messages.create(request)
        throw new Error("oops")
      }))
      assert.deepStrictEqual(yield* judged(error), ["UnknownError", "Permanent"])
      assert.match(error.message, /oops/)
    }))

  it.effect("a call goes on after a request of its own has run out of time", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "Hang" })
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: server.url })
      const fiber = yield* started(client.use(async (sdk, signal) => {
        await sdk.messages.create(request, { signal }).catch(() => undefined)
        return (await sdk.messages.create(request, { signal })).stop_reason
      }))
      yield* server.awaitRequest(0)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual(yield* Fiber.join(fiber), "end_turn")
    }))

  it.effect("a refused connection is a NetworkError that nothing was executed by", () =>
    Effect.gen(function*() {
      const url = yield* Effect.scoped(Effect.map(ProviderServer.make(), (server) => server.url))
      const client = yield* AnthropicClient.make({ apiKey: "test", baseURL: url })
      const error = yield* Effect.flip(client.use((sdk) => sdk.messages.create(request)))
      assert.deepStrictEqual(yield* judged(error), ["NetworkError", "Transient"])
    }))
})
