import Anthropic from "@anthropic-ai/sdk"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Latch, Schema, Scope } from "effect"
import { Fault } from "effect-resilience"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { TestClock } from "effect/testing"
import { execFile } from "node:child_process"
import * as path from "node:path"

type Server = ProviderServer.ProviderServer["Service"]

const params = {
  model: "claude-opus-5-5",
  max_tokens: 256,
  messages: [{ role: "user" as const, content: "What is the weather like in Paris?" }]
}
const weatherTool = {
  name: "get_weather",
  input_schema: { type: "object" as const, properties: { city: { type: "string" } }, required: ["city"] }
}

const sdkOf = (server: Server) => new Anthropic({ apiKey: "test", baseURL: server.url, maxRetries: 0, logLevel: "off" })

/** What an SDK failure looks like to a program. */
const shape = (error: unknown) => {
  if (error instanceof Anthropic.APIError) {
    return {
      name: error.constructor.name,
      ...(error.status === undefined ? {} : { status: error.status }),
      ...(error.type === undefined || error.type === null ? {} : { type: error.type })
    }
  }
  if (error instanceof Error) return { name: error.constructor.name }
  return { value: error }
}

const settle = <A>(run: (signal: AbortSignal) => PromiseLike<A>) =>
  Effect.tryPromise({ try: (signal) => run(signal), catch: shape }).pipe(
    Effect.match({ onSuccess: (value) => ({ ok: value }), onFailure: (failure) => ({ failed: failure }) })
  )

/** One call without a stream, one with the stream helper, and one that reads the raw events. */
const callers = (server: Server) => {
  const sdk = sdkOf(server)
  const rawEvents = async (signal: AbortSignal) => {
    const names: Array<string> = []
    for await (const event of await sdk.messages.create({ ...params, stream: true }, { signal })) names.push(event.type)
    return names
  }
  return {
    json: settle((signal) => sdk.messages.create(params, { signal })),
    stream: settle((signal) => sdk.messages.stream(params, { signal }).finalMessage()),
    raw: settle(rawEvents)
  }
}

const post = (server: Server, body: unknown, init: RequestInit = {}) =>
  Effect.promise((signal) =>
    fetch(`${server.url}/v1/messages`, {
      method: "POST",
      headers: { authorization: "Bearer test", "content-type": "application/json" },
      body: typeof body === "string" ? body : JSON.stringify(body),
      signal,
      ...init
    })
  )

const ErrorBody = Schema.Struct({
  type: Schema.Literal("error"),
  error: Schema.Struct({ type: Schema.String, message: Schema.String }),
  request_id: Schema.String
})

const errorOf = (response: Response) =>
  Effect.promise(() => response.json()).pipe(
    Effect.flatMap(Schema.decodeUnknownEffect(ErrorBody)),
    Effect.map(({ error }) => [response.status, error.type, error.message] as const)
  )

const readUntil = async (response: Response, enough: (text: string) => boolean) => {
  let text = ""
  const chunks = response.body?.pipeThrough(new TextDecoderStream()).values({ preventCancel: true })
  for await (const chunk of chunks ?? []) {
    text += chunk
    if (enough(text)) break
  }
  return text
}

describe("a healthy server", () => {
  it.live("answers the SDK with a whole message", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: () => "Sunny" })
      const { data, request_id, response } = yield* Effect.promise(() =>
        sdkOf(server).messages.create(params).withResponse()
      )
      assert.strictEqual(data.type, "message")
      assert.strictEqual(data.role, "assistant")
      assert.strictEqual(data.model, params.model)
      assert.deepStrictEqual(data.content, [{ type: "text", text: "Sunny", citations: null }])
      assert.strictEqual(data.stop_reason, "end_turn")
      assert.strictEqual(data.usage.output_tokens, 2)
      assert.match(data.id, /^msg_01/)
      assert.match(request_id ?? "", /^req_01/)
      for (const limited of ["requests", "tokens", "input-tokens", "output-tokens"]) {
        const header = (part: string) => response.headers.get(`anthropic-ratelimit-${limited}-${part}`) ?? ""
        assert.isAbove(Number(header("limit")), 0)
        assert.isAtMost(Number(header("remaining")), Number(header("limit")))
        assert.match(header("reset"), /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/)
      }
    }))

  it.live("takes the blocks of an answer alone, and says that it ends for a tool call", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        answer: () => [{ type: "tool_use", id: "toolu_1", name: "get_weather", input: { city: "Paris" } }]
      })
      const message = yield* Effect.promise(() => sdkOf(server).messages.create(params))
      assert.strictEqual(message.stop_reason, "tool_use")
      const [call] = message.content
      assert.deepInclude(call, { type: "tool_use", id: "toolu_1", input: { city: "Paris" } })
    }))

  it.live("streams the same message as events, with thinking and tool calls", () =>
    Effect.gen(function*() {
      const input = { city: "Paris", note: "größer als 🌍🌍🌍 gedacht, in Stücken" }
      const server = yield* ProviderServer.make({
        answer: () => ({
          content: [
            { type: "thinking", thinking: "The user wants the weather, so a tool it is.", signature: "signed" },
            { type: "text", text: "Let me look that up — 🌦️ one moment." },
            { type: "tool_use", id: "toolu_1", name: "get_weather", input }
          ],
          usage: { input_tokens: 11, output_tokens: 22, cache_read_input_tokens: 5 }
        })
      })
      const sdk = sdkOf(server)
      const whole = yield* Effect.promise(() => sdk.messages.create(params))
      const streamed = yield* Effect.promise(() => sdk.messages.stream(params).finalMessage())
      assert.deepStrictEqual(streamed.content, whole.content)
      assert.deepStrictEqual(whole.content.map((block) => block.type), ["thinking", "text", "tool_use"])
      assert.deepInclude(streamed.content.at(-1), { type: "tool_use", id: "toolu_1", input })
      assert.strictEqual(streamed.stop_reason, "tool_use")
      assert.strictEqual(whole.stop_reason, "tool_use")
      assert.deepInclude(streamed.usage, { input_tokens: 11, output_tokens: 22, cache_read_input_tokens: 5 })

      const response = yield* post(server, { ...params, stream: true })
      const events = (yield* Effect.promise(() => response.text())).trim().split("\n\n")
      assert.strictEqual(response.headers.get("content-type"), "text/event-stream; charset=utf-8")
      for (const event of events) assert.match(event, /^event: (\w+)\ndata: \{"type":"\1"/)
      assert.isTrue(events[0]?.startsWith("event: message_start"))
      assert.isTrue(events[2]?.startsWith("event: ping"))
      assert.strictEqual(events.at(-1), `event: message_stop\ndata: {"type":"message_stop"}`)
    }))

  it.effect.prop(
    "loses no character of a text on its way through the stream",
    [Schema.String],
    ([text]) =>
      Effect.scoped(Effect.gen(function*() {
        const server = yield* ProviderServer.make({ answer: () => text })
        const streamed = yield* Effect.promise(() => sdkOf(server).messages.stream(params).finalMessage())
        assert.deepStrictEqual<unknown>(streamed.content, [{ type: "text", text, citations: null }])
      })),
    { arbitrary: { runs: 30, seed: 4 } }
  )

  it.live("computes the answer from the request, also in an effect that waits", () =>
    Effect.gen(function*() {
      const gate = yield* Latch.make()
      const server = yield* ProviderServer.make({
        answer: (request, index) => Effect.as(gate.await, `${index}: ${request.model}`)
      })
      const call = yield* Effect.forkChild(callers(server).json)
      const request = yield* server.awaitRequest(0)
      assert.isFalse(request.completed)
      yield* gate.open
      assert.nestedPropertyVal(yield* Fiber.join(call), "ok.content[0].text", "0: claude-opus-5-5")
      assert.isTrue((yield* server.awaitRequest(0)).completed)
    }))

  it.live("does not compute the answer to a request that it refuses, leaves hanging or resets", () =>
    Effect.gen(function*() {
      const asked: Array<number> = []
      const server = yield* ProviderServer.make({
        answer: (_, index) => {
          asked.push(index)
          return "Hello"
        },
        faults: [{ _tag: "Overloaded" }, { _tag: "ResetBeforeHeaders" }, { _tag: "ResetMidBody" }, { _tag: "Hang" }]
      })
      const { json } = callers(server)
      yield* json
      yield* json
      yield* json
      yield* Effect.forkChild(json)
      yield* server.awaitRequest(3)
      assert.deepStrictEqual(asked, [2])
    }))

  it.live("counts tokens", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.inject({ _tag: "Overloaded" })
      const short = yield* Effect.promise(() => sdkOf(server).messages.countTokens(params))
      const long = yield* Effect.promise(() =>
        sdkOf(server).messages.countTokens({ ...params, system: "x".repeat(4_000) })
      )
      assert.isAtLeast(short.input_tokens, 1)
      assert.isAtLeast(long.input_tokens, short.input_tokens + 1_000)
      assert.strictEqual((yield* server.stats).injected.Overloaded, 0)
    }))

  it.live("logs what came in and marks a repeated body as another attempt", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const { json, stream } = callers(server)
      yield* json
      yield* stream
      yield* json
      const requests = yield* server.requests
      assert.deepStrictEqual(requests.map(({ attemptOf, index }) => [index, attemptOf]), [
        [0, undefined],
        [1, undefined],
        [2, 0]
      ])
      for (const request of requests) {
        assert.deepInclude(request, {
          method: "POST",
          path: "/v1/messages",
          fault: undefined,
          completed: true,
          closedByClient: false
        })
        assert.deepInclude(request.body, params)
        assert.strictEqual(request.headers["authorization"], "Bearer test")
      }
      assert.deepInclude(yield* server.stats, { requests: 3, answered: 3, closedByClient: 0 })
    }))

  it.live("keeps no more requests than its history, and says so to who waits for an older one", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ history: 2 })
      yield* Effect.replicateEffect(callers(server).json, 4)
      assert.deepStrictEqual((yield* server.requests).map(({ index }) => index), [2, 3])
      const exit = yield* Effect.exit(server.awaitRequest(0))
      assert.isTrue(Exit.hasDies(exit))
      assert.deepInclude(yield* server.stats, { requests: 4, answered: 4 })
    }))

  it.live("gives the same ids for the same seed and others for another", () =>
    Effect.gen(function*() {
      const ids = (seed: number) =>
        Effect.scoped(Effect.gen(function*() {
          const server = yield* ProviderServer.make({ seed })
          const message = yield* Effect.promise(() => sdkOf(server).messages.create(params))
          return [message.id, message._request_id]
        }))
      assert.deepStrictEqual(yield* ids(1), yield* ids(1))
      assert.notDeepEqual(yield* ids(1), yield* ids(2))
    }))

  it.live("is a layer", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.ProviderServer
      assert.property(yield* callers(server).json, "ok")
    }).pipe(Effect.provide(ProviderServer.layer())))

  it.live("refuses options that it cannot work with", () =>
    Effect.gen(function*() {
      for (const options of [{ port: -1 }, { port: 99_999 }, { history: 0 }, { latency: { min: 2, max: 1 } }]) {
        const error = yield* Effect.flip(Effect.catchDefect(ProviderServer.make(options), Effect.fail))
        assert.instanceOf(error, Fault.InvalidConfig)
      }
    }))
})

describe("validation, as the provider does it", () => {
  const toolTurn = (result: ReadonlyArray<object>) => ({
    ...params,
    messages: [
      ...params.messages,
      { role: "assistant", content: [{ type: "tool_use", id: "toolu_1", name: "get_weather", input: {} }] },
      ...result
    ]
  })
  const toolResult = { type: "tool_result", tool_use_id: "toolu_1", content: "21C" }

  const refused: ReadonlyArray<readonly [name: string, body: unknown, message: RegExp]> = [
    ["a body that is no JSON", "{", /not valid JSON/],
    ["a body that is no object", [], /expected an object/],
    ["no model", { ...params, model: undefined }, /^model: Field required/],
    ["no max_tokens", { ...params, max_tokens: undefined }, /^max_tokens: Field required/],
    ["no messages", { ...params, messages: undefined }, /^messages: Field required/],
    ["max_tokens of 0", { ...params, max_tokens: 0 }, /^max_tokens: /],
    ["an empty conversation", { ...params, messages: [] }, /at least one message/],
    ["an unknown role", { ...params, messages: [{ role: "tool", content: "x" }] }, /^messages\.0\.role: /],
    ["two tools of one name", { ...params, tools: [weatherTool, weatherTool] }, /names must be unique/],
    ["a tool call at the end", toolTurn([]), /messages\.1: `tool_use` ids were found without .*: toolu_1\./],
    ["a tool call that is not answered", toolTurn([{ role: "user", content: "never mind" }]), /toolu_1/],
    [
      "the result of a call that nobody made",
      { ...params, messages: [{ role: "user", content: [toolResult] }] },
      /messages\.0: unexpected `tool_use_id` .*: toolu_1\./
    ]
  ]

  it.live.each(refused)("refuses %s", ([, body, message]) =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "Overloaded" }] })
      const [status, type, text] = yield* Effect.flatMap(post(server, body), errorOf)
      assert.deepStrictEqual([status, type], [400, "invalid_request_error"])
      assert.match(text, message)
      // the fault waits for a request that the provider would have served
      assert.strictEqual((yield* server.stats).injected.Overloaded, 0)
    }))

  it.live("takes a tool result in the next user turn, also when that turn comes in two messages", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const one = yield* post(server, toolTurn([{ role: "user", content: [toolResult] }]))
      const two = yield* post(
        server,
        toolTurn([{ role: "user", content: "Here it is:" }, { role: "user", content: [toolResult] }])
      )
      assert.deepStrictEqual([one.status, two.status], [200, 200])
    }))

  it.live("refuses a request without credentials, of another method, or to another path", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const anonymous = yield* Effect.flatMap(post(server, params, { headers: {} }), errorOf)
      assert.deepStrictEqual(anonymous.slice(0, 2), [401, "authentication_error"])
      assert.strictEqual((yield* post(server, params, { headers: { "x-api-key": "test" } })).status, 200)
      assert.strictEqual((yield* post(server, params, { method: "PUT" })).status, 405)
      const elsewhere = yield* Effect.promise(() => fetch(`${server.url}/v1/models`))
      assert.deepStrictEqual((yield* errorOf(elsewhere)).slice(0, 2), [404, "not_found_error"])
    }))

  it.live("shows an answer or a rule that throws as a 500 that says so", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        answer: () => {
          throw new Error("expected the second turn")
        }
      })
      const response = yield* post(server, params)
      assert.strictEqual(response.headers.get("x-should-retry"), "false")
      const [status, , message] = yield* errorOf(response)
      assert.strictEqual(status, 500)
      assert.match(message, /the test's own code failed: Error: expected the second turn/)
      yield* server.setFaults(() => {
        throw new Error("no such request")
      })
      assert.match((yield* Effect.flatMap(post(server, params), errorOf))[2], /no such request/)
      assert.deepInclude(yield* server.awaitRequest(1), { fault: undefined, completed: true })
      yield* server.setFaults(() => ({ _tag: "StatusError", status: 7, type: "x", message: "y" }))
      assert.match((yield* Effect.flatMap(post(server, params), errorOf))[2], /Invalid status code: 7/)
    }))
})

interface Case {
  readonly fault: ProviderServer.Fault
  /** What `messages.create` throws; absent where it returns. */
  readonly json?: object
  /** What `messages.stream().finalMessage()` throws; absent where it returns. */
  readonly stream?: object
}

const both = (fault: ProviderServer.Fault, failure: object): Case => ({ fault, json: failure, stream: failure })

const terminated = { json: { name: "TypeError" }, stream: { name: "AnthropicError" } }
const cutText = { json: { name: "SyntaxError" }, stream: { name: "AnthropicError" } }

const thrown: ReadonlyArray<Case> = [
  both({ _tag: "RateLimited", retryAfter: 7 }, { name: "RateLimitError", status: 429, type: "rate_limit_error" }),
  both({ _tag: "Overloaded" }, { name: "OverloadedError", status: 529, type: "overloaded_error" }),
  both({ _tag: "ServerError" }, { name: "InternalServerError", status: 500, type: "api_error" }),
  both({ _tag: "ServerError", status: 502, html: true }, { name: "InternalServerError", status: 502 }),
  both({ _tag: "Unavailable" }, { name: "ServiceUnavailableError", status: 503, type: "api_error" }),
  both({ _tag: "StatusError", status: 403, type: "permission_error", message: "no" }, {
    name: "PermissionDeniedError",
    status: 403,
    type: "permission_error"
  }),
  both({ _tag: "PromptTooLong" }, { name: "BadRequestError", status: 400, type: "invalid_request_error" }),
  both({ _tag: "RequestTooLarge" }, { name: "ContentTooLargeError", status: 413, type: "request_too_large" }),
  both({ _tag: "ResetBeforeHeaders" }, { name: "APIConnectionError" }),
  { fault: { _tag: "ResetMidBody" }, ...terminated },
  { fault: { _tag: "CloseMidBody" }, ...terminated },
  { fault: { _tag: "StreamReset" }, ...terminated },
  { fault: { _tag: "TruncatedJson" }, ...cutText },
  { fault: { _tag: "MalformedJson" }, ...cutText },
  { fault: { _tag: "StreamClose" }, ...cutText },
  { fault: { _tag: "StreamClose", afterEvents: 99 }, ...cutText },
  { fault: { _tag: "StreamBadJson" }, ...cutText },
  { fault: { _tag: "StreamEmpty" }, stream: { name: "AnthropicError" } },
  { fault: { _tag: "StreamWithoutEventNames" }, stream: { name: "AnthropicError" } },
  { fault: { _tag: "StreamAsJson" }, stream: { name: "AnthropicError" } },
  {
    fault: { _tag: "StreamError" },
    json: { name: "OverloadedError", status: 529, type: "overloaded_error" },
    stream: { name: "APIError", type: "overloaded_error" }
  },
  {
    fault: { _tag: "StreamError", type: "api_error", message: "Internal server error", afterEvents: 0 },
    json: { name: "InternalServerError", status: 500, type: "api_error" },
    stream: { name: "APIError", type: "api_error" }
  }
]

const title = ({ _tag, ...options }: ProviderServer.Fault) =>
  Object.keys(options).length === 0 ? _tag : `${_tag} ${JSON.stringify(options)}`

describe("faults that the SDK throws", () => {
  it.live.each(thrown.map((one) => [title(one.fault), one] as const))(
    "%s",
    ([, { fault, json, stream }]) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make()
        const call = callers(server)
        yield* server.inject(fault, fault)
        const first = yield* call.json
        const second = yield* call.stream
        if (json === undefined) assert.property(first, "ok")
        else assert.deepStrictEqual<unknown>(first, { failed: json })
        if (stream === undefined) assert.property(second, "ok")
        else assert.deepStrictEqual<unknown>(second, { failed: stream })
        // one request each: nothing was repeated, and afterwards the server is well again
        assert.property(yield* call.json, "ok")
        assert.property(yield* call.stream, "ok")
        const requests = yield* server.requests
        assert.deepStrictEqual(requests.map((request) => request.fault), [fault._tag, fault._tag, undefined, undefined])
        const stats = yield* server.stats
        assert.deepInclude(stats, { requests: 4, answered: 2, closedByClient: 0 })
        assert.strictEqual(stats.injected[fault._tag], 2)
      })
  )

  it.live("a rate limit carries its retry-after, in seconds or as a date", () =>
    Effect.gen(function*() {
      const date = "Wed, 21 Oct 2026 07:28:00 GMT"
      const server = yield* ProviderServer.make({
        faults: [
          { _tag: "RateLimited", retryAfter: 7 },
          { _tag: "RateLimited", retryAfter: date },
          { _tag: "Overloaded", retryAfter: 0.5 },
          { _tag: "RateLimited" }
        ]
      })
      const headers = yield* Effect.replicateEffect(post(server, params), 4)
      assert.deepStrictEqual(headers.map((response) => response.headers.get("retry-after")), ["7", date, "0.5", null])
      assert.strictEqual(headers[0]?.headers.get("anthropic-ratelimit-requests-remaining"), "0")
    }))

  it.live("a spend limit carries the error code that tells it from a rate limit", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "SpendLimit" }] })
      const error = yield* Effect.flip(
        Effect.tryPromise({ try: () => sdkOf(server).messages.create(params), catch: (error) => error })
      )
      assert.instanceOf(error, Anthropic.RateLimitError)
      assert.strictEqual(error.errorCode, "enforced_spend_limit_reached")
      assert.strictEqual(error.requestID, yield* Effect.succeed(error.headers?.get("request-id")))
    }))

  it.live("a prompt that is too long says so in the provider's words", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "PromptTooLong" }] })
      const [, , message] = yield* Effect.flatMap(post(server, params), errorOf)
      assert.match(message, /^prompt is too long: \d+ tokens > \d+ maximum$/)
    }))
})

describe("faults that the SDK does not notice", () => {
  const quiet: ReadonlyArray<readonly [ProviderServer.Fault, unknown]> = [
    [{ _tag: "NotAMessage", variant: "html" }, /^<!DOCTYPE html>/],
    [{ _tag: "NotAMessage", variant: "text" }, /^\{"id":"msg_/],
    [{ _tag: "NotAMessage", variant: "empty" }, undefined],
    [{ _tag: "NotAMessage", variant: "noContent" }, null],
    [{ _tag: "NotAMessage", variant: "errorBody" }, { type: "error" }],
    [{ _tag: "NotAMessage", variant: "emptyObject" }, {}],
    [{ _tag: "StreamEmpty" }, undefined],
    [{ _tag: "StreamAsJson" }, /^event: message_start/]
  ]
  it.live.each(quiet.map(([fault, value]) => [title(fault), fault, value] as const))(
    "%s is returned as if it were a message",
    ([, fault, value]) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ faults: [fault] })
        const result = yield* callers(server).json
        assert.property(result, "ok")
        const returned: unknown = "ok" in result ? result.ok : undefined
        if (value instanceof RegExp) assert.match(String(returned), value)
        else if (typeof value === "object" && value !== null) assert.deepInclude(returned, value)
        else assert.strictEqual(returned, value)
        assert.deepInclude((yield* server.requests)[0], { fault: fault._tag, completed: true })
      })
  )

  const ends: ReadonlyArray<readonly [ProviderServer.Fault, ReadonlyArray<string>]> = [
    [{ _tag: "StreamClose", afterEvents: 4 }, ["message_start", "content_block_start", "content_block_delta"]],
    [{ _tag: "StreamEmpty" }, []],
    [{ _tag: "StreamAsJson" }, []],
    [{ _tag: "StreamWithoutEventNames" }, []],
    [{ _tag: "NotAMessage", variant: "html" }, []],
    [{ _tag: "NotAMessage", variant: "errorBody" }, []],
    [{ _tag: "NotAMessage", variant: "empty" }, []]
  ]
  it.live.each(ends.map(([fault, events]) => [title(fault), fault, events] as const))(
    "%s ends a raw stream as if it were complete",
    ([, fault, events]) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ faults: [fault] })
        assert.deepStrictEqual(yield* callers(server).raw, { ok: [...events] })
      })
  )

  it.live("a stream without its stop reason is a message whose stop reason is null", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "StreamNoStopReason" }] })
      assert.nestedPropertyVal(yield* callers(server).stream, "ok.stop_reason", null)
    }))
})

describe("whole messages that do not finish the work", () => {
  const text = "A rather long text that is going to be cut somewhere in the middle."
  const stops: ReadonlyArray<readonly [ProviderServer.Fault, string, string | undefined]> = [
    [{ _tag: "Refusal" }, "refusal", undefined],
    [{ _tag: "EmptyContent" }, "end_turn", undefined],
    [{ _tag: "MaxTokens" }, "max_tokens", text.slice(0, text.length / 2)],
    [{ _tag: "ContextWindow" }, "model_context_window_exceeded", text.slice(0, text.length / 2)],
    [{ _tag: "PauseTurn" }, "pause_turn", text]
  ]
  it.live.each(stops.map(([fault, stop, rest]) => [fault._tag, fault, stop, rest] as const))(
    "%s says so in its stop reason, as a message and as a stream",
    ([, fault, stopReason, rest]) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ answer: () => text, faults: [fault, fault] })
        const { json, stream } = callers(server)
        for (const result of [yield* json, yield* stream]) {
          const message = "ok" in result ? result.ok : undefined
          assert.strictEqual(message?.stop_reason, stopReason)
          const content = rest === undefined ? [] : [{ type: "text", text: rest, citations: null }]
          assert.deepStrictEqual<unknown>(message?.content, content)
          assert.strictEqual(message?.stop_details?.type, stopReason === "refusal" ? "refusal" : undefined)
        }
      })
  )

  const callsTool = {
    answer: () => ({
      content: [{ type: "tool_use" as const, id: "toolu_1", name: "get_weather", input: { city: "Paris" } }]
    })
  }

  it.live("WrongSchema gives every field of a tool's input and of a JSON text the wrong type", () =>
    Effect.gen(function*() {
      const fault = { _tag: "WrongSchema" } as const
      const tool = yield* ProviderServer.make({ ...callsTool, faults: [fault, fault] })
      for (const result of [yield* callers(tool).json, yield* callers(tool).stream]) {
        assert.nestedProperty(result, "ok.content[0].input")
        assert.deepNestedInclude(result, { "ok.content[0].input": { city: ["Paris"] } })
      }
      const answers = [`{"city":"Paris","days":[1,2]}`, `{}`, `[1,2]`, `7`, "prose"]
      const json = yield* ProviderServer.make({ answer: (_, index) => answers[index] ?? "", faults: () => fault })
      const texts: Array<string> = []
      for (const _ of answers) {
        const message = yield* Effect.promise(() => sdkOf(json).messages.create(params))
        texts.push(message.content[0]?.type === "text" ? message.content[0].text : "")
      }
      assert.deepStrictEqual(texts, [
        `{"city":["Paris"],"days":[[1,2]]}`,
        `{"unexpected":[]}`,
        `[[1],[2]]`,
        `{"unexpected":[]}`,
        "prose"
      ])
    }))

  it.live("StreamToolJsonCut leaves a tool call whose input is gone", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        ...callsTool,
        faults: [
          { _tag: "StreamToolJsonCut" },
          { _tag: "StreamToolJsonCut", stopReason: "tool_use" },
          { _tag: "StreamToolJsonCut" }
        ]
      })
      const { json, stream } = callers(server)
      for (const [call, stop] of [[stream, "max_tokens"], [stream, "tool_use"], [json, "max_tokens"]] as const) {
        const result = yield* call
        const message = "ok" in result ? result.ok : undefined
        assert.strictEqual(message?.stop_reason, stop)
        assert.deepInclude(message?.content[0], { type: "tool_use", name: "get_weather" })
        assert.notDeepInclude(message?.content[0], { input: { city: "Paris" } })
      }
    }))

  it.live("StreamToolJsonCut makes up a call of the first tool where the answer has none", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "StreamToolJsonCut" }] })
      const message = yield* Effect.promise(() =>
        sdkOf(server).messages.stream({ ...params, tools: [weatherTool] }).finalMessage()
      )
      assert.deepStrictEqual(message.content.map((block) => block.type), ["text", "tool_use"])
      assert.deepInclude(message.content[1], { name: "get_weather" })
      assert.strictEqual(message.stop_reason, "max_tokens")
    }))
})

describe("silence", () => {
  const silent: ReadonlyArray<readonly [ProviderServer.Fault, boolean, RegExp]> = [
    [{ _tag: "HangBody" }, false, /^\{"id":"msg_/],
    [{ _tag: "StreamStall" }, false, /^\{"id":"msg_/],
    [{ _tag: "HangBody" }, true, /event: content_block_delta/],
    [{ _tag: "StreamPings", everyMillis: 1 }, false, /^\{"id":"msg_/],
    [{ _tag: "StreamStall", afterEvents: 3 }, true, /event: ping\n.*\n\n$/]
  ]
  it.live.each(silent.map(([fault, stream, seen]) => [fault._tag, stream, seen, fault] as const))(
    "%s (stream: %s) sends a part, then nothing, until the client goes away",
    ([, stream, seen, fault]) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ faults: [fault] })
        const controller = new AbortController()
        const response = yield* post(server, { ...params, stream }, { signal: controller.signal })
        assert.strictEqual(response.status, 200)
        assert.match(yield* Effect.promise(() => readUntil(response, (text) => seen.test(text))), seen)
        assert.deepInclude(yield* server.awaitRequest(0), {
          fault: fault._tag,
          completed: false,
          closedByClient: false
        })
        controller.abort()
        const gone = yield* server.awaitClosedByClient(0)
        assert.deepInclude(gone, { completed: false, closedByClient: true })
      })
  )

  it.live("StreamPings sends pings for ever, or so many and then the rest of the stream", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        faults: [
          { _tag: "StreamPings", everyMillis: 1 },
          { _tag: "StreamPings", everyMillis: 1, times: 5, afterEvents: 4 }
        ]
      })
      const pingsOf = (text: string) => text.split("event: ping\n").length - 1
      const controller = new AbortController()
      const forever = yield* post(server, { ...params, stream: true }, { signal: controller.signal })
      const seen = yield* Effect.promise(() => readUntil(forever, (text) => pingsOf(text) > 20))
      assert.notMatch(seen, /message_stop/)
      controller.abort()
      yield* server.awaitClosedByClient(0)
      const some = yield* post(server, { ...params, stream: true })
      const text = yield* Effect.promise(() => some.text())
      assert.strictEqual(pingsOf(text), 6)
      assert.match(text, /event: message_stop\n.*\n\n$/)
      assert.deepInclude(yield* server.stats, { requests: 2, answered: 0, closedByClient: 1 })
    }))

  it.live("an SDK call that waits for the rest of a body ends with its signal, and the server sees it", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "HangBody" }] })
      const headers = yield* Latch.make()
      const controller = new AbortController()
      const call = yield* settle(async () => {
        const response = await sdkOf(server).messages.create(params, { signal: controller.signal }).asResponse()
        headers.openUnsafe()
        return await response.json()
      }).pipe(Effect.forkChild)
      yield* headers.await
      controller.abort()
      assert.deepStrictEqual<unknown>(yield* Fiber.join(call), { failed: { name: "DOMException" } })
      assert.isTrue((yield* server.awaitClosedByClient(0)).closedByClient)
    }))

  it.live("a hang answers nothing, and the server sees that the client has gone", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "Hang" }] })
      const controller = new AbortController()
      const call = yield* Effect.forkChild(
        settle(() => sdkOf(server).messages.create(params, { signal: controller.signal }))
      )
      assert.deepInclude(yield* server.awaitRequest(0), { fault: "Hang", completed: false, closedByClient: false })
      assert.isUndefined(call.pollUnsafe())
      controller.abort()
      assert.deepStrictEqual(yield* Fiber.join(call), { failed: { name: "APIUserAbortError" } })
      assert.deepInclude(yield* server.awaitClosedByClient(0), { completed: false, closedByClient: true })
      assert.deepInclude(yield* server.stats, { requests: 1, answered: 0, closedByClient: 1 })
    }))

  it.live("a client that leaves in the middle of a stream is seen, and others are not disturbed", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ faults: [{ _tag: "StreamStall", afterEvents: 4 }] })
      const controller = new AbortController()
      const response = yield* post(server, { ...params, stream: true }, { signal: controller.signal })
      yield* Effect.promise(() => readUntil(response, (text) => text.includes("content_block_delta")))
      assert.property(yield* callers(server).stream, "ok")
      controller.abort()
      assert.strictEqual((yield* server.awaitClosedByClient(0)).fault, "StreamStall")
      assert.deepInclude(yield* server.stats, { requests: 2, answered: 1, closedByClient: 1 })
    }))

  it.live("an interrupted wait leaves nothing behind, and several may wait for one request", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      const gone = yield* Effect.forkChild(server.awaitRequest(0), { startImmediately: true })
      const waiting = yield* Effect.forkChild(Effect.all([server.awaitRequest(0), server.awaitRequest(1)], {
        concurrency: 2
      }))
      yield* Fiber.interrupt(gone)
      yield* callers(server).json
      yield* callers(server).json
      assert.deepStrictEqual((yield* Fiber.join(waiting)).map(({ index }) => index), [0, 1])
    }))

  it.live("a wait that can never end dies and says why", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* ProviderServer.make({ faults: [{ _tag: "ResetMidBody" }] }).pipe(Scope.provide(scope))
      const reason = (wait: Effect.Effect<unknown>) => Effect.flip(Effect.catchDefect(wait, Effect.fail))
      const { json } = callers(server)
      yield* json
      yield* json
      const late = yield* Effect.forkChild(reason(server.awaitRequest(2)), { startImmediately: true })
      assert.match(String(yield* reason(server.awaitClosedByClient(0))), /request 0: the server itself cut/)
      assert.match(String(yield* reason(server.awaitClosedByClient(1))), /request 1: it was answered whole/)
      assert.deepStrictEqual((yield* server.requests).map(({ cutByServer }) => cutByServer), [true, false])
      yield* Scope.close(scope, Exit.void)
      assert.match(String(yield* Fiber.join(late)), /request 2: the server has closed/)
    }))

  it.live("closing the scope ends every connection at once, whatever it waits for", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* ProviderServer.make({
        answer: () => Effect.never,
        faults: [{ _tag: "StreamStall" }, { _tag: "SlowFirstByte", millis: 3_600_000 }]
      }).pipe(Scope.provide(scope))
      const kept = yield* ProviderServer.make({ faults: () => ({ _tag: "Hang" }) }).pipe(Scope.provide(scope))
      const calls = yield* Effect.forEach([server, server, server, kept, kept], (target, index) =>
        Effect.gen(function*() {
          const { json, raw } = callers(target)
          return yield* Effect.forkChild(index % 2 === 0 ? raw : json, { startImmediately: true })
        }))
      yield* Effect.all([server.awaitRequest(2), kept.awaitRequest(1)])
      yield* Scope.close(scope, Exit.void)
      for (const call of calls) {
        assert.property(yield* Fiber.join(call), "failed")
      }
      assert.strictEqual((yield* server.stats).closedByClient, 0)
      assert.deepStrictEqual(yield* callers(server).json, { failed: { name: "APIConnectionError" } })
    }))

  it.live("keeps no process alive after its scope", () =>
    Effect.gen(function*() {
      const program = `
        import { Effect } from "effect"
        import * as ProviderServer from "effect-resilience/testing/ProviderServer"
        const program = Effect.gen(function*() {
          const server = yield* ProviderServer.make({ faults: () => ({ _tag: "Hang" }) })
          const body = JSON.stringify({ model: "m", max_tokens: 1, messages: [{ role: "user", content: "x" }] })
          fetch(server.url + "/v1/messages", { method: "POST", headers: { "x-api-key": "k" }, body }).catch(() => {})
          yield* server.awaitRequest(0)
        })
        await Effect.runPromise(Effect.scoped(program))
        process.stdout.write("closed")`
      const output = yield* Effect.callback<string>((resume) => {
        const root = path.resolve(import.meta.dirname, "../..")
        const flags = ["--conditions=effect-resilience-source", "--input-type=module", "--eval", program]
        const child = execFile(process.execPath, flags, { cwd: root }, (error, stdout, stderr) => {
          resume(Effect.succeed(error === null ? stdout : stderr))
        })
        return Effect.sync(() => child.kill())
      })
      assert.strictEqual(output, "closed")
    }))
})

describe("time", () => {
  it.effect("a slow first byte and the latency pass on the clock of the test", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        latency: { min: "1 minute", max: "1 minute" },
        faults: [{ _tag: "SlowFirstByte", millis: 60_000 }]
      })
      const call = yield* Effect.forkChild(callers(server).json)
      yield* server.awaitRequest(0)
      yield* TestClock.adjust("119 seconds")
      assert.isUndefined(call.pollUnsafe())
      assert.isFalse((yield* server.awaitRequest(0)).completed)
      yield* TestClock.adjust("1 second")
      assert.property(yield* Fiber.join(call), "ok")
      assert.deepInclude(yield* server.stats, { requests: 1, answered: 1 })
    }))

  it.effect("limits are enforced and refill with time", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ rateLimit: { requestsPerMinute: 2 } })
      const ask = post(server, params)
      const first = yield* ask
      assert.deepStrictEqual(
        ["limit", "remaining", "reset"].map((part) => first.headers.get(`anthropic-ratelimit-requests-${part}`)),
        ["2", "1", "1970-01-01T00:00:30.000Z"]
      )
      assert.strictEqual((yield* ask).status, 200)
      const refused = yield* ask
      assert.deepStrictEqual([refused.status, refused.headers.get("retry-after")], [429, "30"])
      yield* TestClock.adjust("29 seconds")
      assert.strictEqual((yield* ask).headers.get("retry-after"), "1")
      yield* TestClock.adjust("1 second")
      assert.strictEqual((yield* ask).status, 200)
      assert.strictEqual((yield* ask).status, 429)
      assert.deepInclude(yield* server.stats, { requests: 6, answered: 3 })
      assert.strictEqual((yield* server.stats).injected.RateLimited, 0)
    }))

  it.effect("token limits count what a call used, and a refused call uses nothing", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        answer: () => ({ content: "x", usage: { input_tokens: 60, output_tokens: 30 } }),
        rateLimit: { inputTokensPerMinute: 100, outputTokensPerMinute: 20 }
      })
      const first = yield* post(server, params)
      assert.strictEqual(first.headers.get("anthropic-ratelimit-input-tokens-remaining"), "40")
      assert.strictEqual(first.headers.get("anthropic-ratelimit-output-tokens-remaining"), "0")
      // 10 tokens of output were used that were not there, and one must be free: 33 s at 20 a minute
      for (let call = 0; call < 3; call++) {
        assert.strictEqual((yield* post(server, params)).headers.get("retry-after"), "33")
      }
      yield* TestClock.adjust("33 seconds")
      assert.strictEqual((yield* post(server, params)).status, 200)
    }))
})

describe("rules", () => {
  it.live("are asked while nothing is injected, with what they need to decide", () =>
    Effect.gen(function*() {
      const seen: Array<readonly [number, number | undefined, boolean]> = []
      const server = yield* ProviderServer.make()
      yield* server.setFaults(({ attemptOf, index, stream }) => {
        seen.push([index, attemptOf, stream])
        return attemptOf === undefined ? { _tag: "Overloaded" } : undefined
      })
      yield* server.inject({ _tag: "Unavailable" })
      const { json, stream } = callers(server)
      assert.nestedPropertyVal(yield* json, "failed.status", 503)
      assert.property(yield* json, "ok")
      assert.nestedPropertyVal(yield* stream, "failed.status", 529)
      assert.property(yield* stream, "ok")
      yield* server.setFaults(undefined)
      assert.property(yield* json, "ok")
      assert.deepStrictEqual(seen, [[1, 0, false], [2, undefined, true], [3, 2, true]])
    }))
})

describe("a storm", () => {
  const at = (rule: ProviderServer.FaultRule, index: number, millisSinceStart = 0) =>
    rule({ index, attemptOf: undefined, stream: false, body: { ...params, messages: [] }, millisSinceStart })
  const sequence = (options: ProviderServer.StormOptions, millis = 0) => {
    const rule = ProviderServer.storm(options)
    return Array.from({ length: 400 }, (_, index) => at(rule, index, millis))
  }
  const shareOf = (faults: ReadonlyArray<ProviderServer.Fault | undefined>) =>
    faults.filter((fault) => fault !== undefined).length / faults.length

  it.prop("is the same for the same seed, in whatever order it is asked", { seed: Schema.Int }, ({ seed }) => {
    const forwards = sequence({ seed, severity: "severe" })
    const rule = ProviderServer.storm({ seed, severity: "severe" })
    const backwards = forwards.map((_, index) => at(rule, forwards.length - 1 - index)).toReversed()
    assert.deepStrictEqual(backwards, forwards)
  })

  it("is another one for another seed", () => {
    assert.notDeepEqual(sequence({ seed: 1, severity: "severe" }), sequence({ seed: 2, severity: "severe" }))
  })

  it.prop("fails as much as its severity says", { seed: Schema.Int }, ({ seed }) => {
    assert.strictEqual(shareOf(sequence({ seed, severity: "none" })), 0)
    assert.closeTo(shareOf(sequence({ seed, severity: "mild" })), 0.15, 0.1)
    assert.closeTo(shareOf(sequence({ seed, severity: "severe" })), 0.45, 0.15)
  })

  it("brings rate limits with retry-after, malformed answers, cuts and resets when severe, and no refusal", () => {
    const faults = sequence({ seed: 3, severity: "severe", retryAfter: "2 seconds" })
    const tags = new Set(faults.map((fault) => fault?._tag))
    for (const tag of ["Overloaded", "MalformedJson", "TruncatedJson", "ResetMidBody", "StreamClose", "NotAMessage"]) {
      assert.include([...tags], tag)
    }
    for (const tag of ["Refusal", "EmptyContent", "MaxTokens", "WrongSchema", "Hang"]) assert.notInclude([...tags], tag)
    assert.deepInclude(faults, { _tag: "RateLimited", retryAfter: 2 })
  })

  it("has an outage in which every request fails with a 529 or a reset, and then it is over", () => {
    const outage = { after: "10 seconds", lasts: "5 seconds" } as const
    for (const severity of ["none", "mild", "severe"] as const) {
      const during = sequence({ seed: 5, severity, outage }, 10_000)
      assert.sameMembers([...new Set(during.map((fault) => fault?._tag))], ["Overloaded", "ResetBeforeHeaders"])
      assert.isBelow(shareOf(sequence({ seed: 5, severity, outage }, 9_999)), 0.7)
      assert.isBelow(shareOf(sequence({ seed: 5, severity, outage }, 15_000)), 0.7)
    }
    assert.strictEqual(shareOf(sequence({ seed: 5, severity: "severe" }, 3_000)), 1)
  })

  it.effect("meets the requests of a real client exactly as its seed says", () =>
    Effect.gen(function*() {
      const rule = ProviderServer.storm({ seed: 11, severity: "severe" })
      const server = yield* ProviderServer.make({ faults: rule })
      const { json, stream } = callers(server)
      for (let index = 0; index < 40; index++) yield* index % 2 === 0 ? json : stream
      const expected = Array.from({ length: 40 }, (_, index) => at(rule, index)?._tag)
      assert.deepStrictEqual((yield* server.requests).map(({ fault }) => fault), expected)
      const healthy = expected.filter((tag) => tag === undefined).length
      assert.deepInclude(yield* server.stats, { requests: 40, answered: healthy, closedByClient: 0 })
    }))
})
