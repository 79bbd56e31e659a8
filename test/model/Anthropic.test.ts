import { assert, describe, it } from "@effect/vitest"
import {
  Config,
  ConfigProvider,
  DateTime,
  Effect,
  Exit,
  Layer,
  Option,
  Redacted,
  Ref,
  Schema,
  Stream,
  Tracer
} from "effect"
import { Fault, OutputTokens } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as AnthropicClient from "effect-resilience/model/AnthropicClient"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { AiError, Chat, LanguageModel, Prompt, type Response as AiResponse, Tool, Toolkit } from "effect/ai"
import { recordingTracer } from "../recordingTracer.ts"

const model = "claude-opus-5-5"

const provided = (server: ProviderServer.ProviderServer["Service"], options?: Partial<Anthropic.Options>) =>
  Layer.orDie(Anthropic.layer({ model, apiKey: "test", baseURL: server.url, ...options }))

/** What the server was sent for one call. */
const bodyOf = Effect.fnUntraced(function*(
  call: Effect.Effect<unknown, unknown, LanguageModel.LanguageModel>,
  options?: Partial<Anthropic.Options>
) {
  const server = yield* ProviderServer.make({ answer: () => "{}" })
  yield* Effect.ignore(Effect.provide(call, provided(server, options)))
  const [request] = yield* server.requests
  assert.isDefined(request, "nothing was sent")
  return request.body as Record<string, unknown>
})

const generate = (prompt: Prompt.RawInput) => LanguageModel.generateText({ prompt })

interface Sent {
  readonly role: string
  readonly content: ReadonlyArray<Record<string, unknown>>
}

const messagesOf = (prompt: Prompt.RawInput) =>
  Effect.map(bodyOf(generate(prompt)), (body) => body["messages"] as ReadonlyArray<Sent>)

type Fetch = typeof globalThis.fetch

const message = (fields: Record<string, unknown>) => ({
  id: "msg_1",
  type: "message",
  role: "assistant",
  model,
  content: [],
  stop_reason: "end_turn",
  stop_sequence: null,
  stop_details: null,
  usage: { input_tokens: 3, output_tokens: 1 },
  ...fields
})

const answering = (body: unknown, headers?: Record<string, string>): Fetch => () =>
  Promise.resolve(Response.json(body, headers === undefined ? {} : { headers }))

interface Event {
  readonly type: string
  readonly [field: string]: unknown
}

const streaming = (events: ReadonlyArray<Event>, headers?: Record<string, string>): Fetch => () =>
  Promise.resolve(
    new Response(events.map((event) => `event: ${event.type}\ndata: ${JSON.stringify(event)}\n\n`).join(""), {
      headers: { "content-type": "text/event-stream", ...headers }
    })
  )

const block = (index: number, content: Record<string, unknown>, ...deltas: ReadonlyArray<Record<string, unknown>>) => [
  { type: "content_block_start", index, content_block: content },
  ...deltas.map((delta) => ({ type: "content_block_delta", index, delta })),
  { type: "content_block_stop", index }
]

const stream = (content: ReadonlyArray<Event>, stop_reason = "end_turn", usage: Record<string, unknown> = {}) => [
  { type: "message_start", message: message({ stop_reason: null }) },
  ...content,
  { type: "message_delta", delta: { stop_reason, stop_sequence: null }, usage: { output_tokens: 9, ...usage } },
  { type: "message_stop" }
]

const through = (fetch: Fetch, options?: Partial<Anthropic.Options>) =>
  Layer.orDie(Anthropic.layer({ model, apiKey: "test", fetch, ...options }))

const Search = Tool.make("search", {
  description: "Search the index",
  parameters: Schema.Struct({ query: Schema.String, limit: Schema.optionalKey(Schema.Int) }),
  success: Schema.Struct({ hits: Schema.Array(Schema.String) }),
  failure: Schema.String,
  failureMode: "return"
})
const Kit = Toolkit.make(Search)
const KitLive = Kit.toLayer({
  search: ({ query }) => query === "bad" ? Effect.fail("no such index") : Effect.succeed({ hits: [`about ${query}`] })
})

describe("Anthropic: what is sent", () => {
  it.effect("model, tokens, headers and the prompt", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* Effect.provide(generate("Hello"), provided(server, { headers: { "anthropic-beta": "x" } }))
      const [request] = yield* server.requests
      assert.deepStrictEqual(request?.body, {
        model,
        max_tokens: 4096,
        messages: [{ role: "user", content: [{ type: "text", text: "Hello" }] }]
      })
      assert.deepInclude(request?.headers, {
        "authorization": "Bearer test",
        "anthropic-beta": "x",
        "x-stainless-timeout": "300",
        "x-stainless-retry-count": "0"
      })
    }))

  it.effect("no more tokens than are left to whoever pays, but as many as the model may think", () =>
    Effect.gen(function*() {
      const asked = (
        outputTokens: OutputTokens.OutputTokens,
        options: Parameters<typeof bodyOf>[1] = {},
        parameters: Anthropic.RequestParameters = {}
      ) =>
        bodyOf(
          generate("Hello").pipe(
            Anthropic.withRequest(parameters),
            Effect.provideService(OutputTokens.OutputTokens, outputTokens)
          ),
          options
        )
      const tokens = (body: Record<string, unknown>) => body["max_tokens"]
      const preferred = { preferred: 2_000, atMost: Infinity }
      const bounded = { preferred: 2_000, atMost: 1_000 }
      assert.strictEqual(tokens(yield* asked(preferred)), 2_000)
      assert.strictEqual(tokens(yield* asked(preferred, { maxTokens: 9_000 })), 9_000)
      assert.strictEqual(tokens(yield* asked(bounded)), 1_000)
      assert.strictEqual(tokens(yield* asked(bounded, { maxTokens: 9_000 })), 1_000)
      assert.strictEqual(tokens(yield* asked(bounded, {}, { max_tokens: 300 })), 300)
      const thinking = { type: "enabled", budget_tokens: 5_000 } as const
      assert.strictEqual(tokens(yield* asked(bounded, { maxTokens: 9_000, request: { thinking } })), 5_001)
    }))

  it.effect("parameters of the layer, replaced by those of the call", () =>
    Effect.gen(function*() {
      const body = yield* bodyOf(
        generate("Hello").pipe(
          Anthropic.withRequest({ max_tokens: 100, stop_sequences: ["END"] }),
          Anthropic.withRequest({ max_tokens: 200, service_tier: "standard_only" })
        ),
        { maxTokens: 50, cacheControl: "1h", request: { thinking: { type: "adaptive" } } }
      )
      assert.deepInclude(body, {
        max_tokens: 100,
        stop_sequences: ["END"],
        service_tier: "standard_only",
        thinking: { type: "adaptive" },
        cache_control: { type: "ephemeral", ttl: "1h" }
      })
    }))

  it.effect("system messages at the beginning as `system`, later ones in their place", () =>
    Effect.gen(function*() {
      const body = yield* bodyOf(generate([
        { role: "system", content: "Be brief", options: Anthropic.cached() },
        { role: "system", content: "Be kind" },
        { role: "user", content: "Hello" },
        { role: "assistant", content: "Hi" },
        { role: "system", content: "Now be formal" },
        { role: "user", content: "Hello again" }
      ]))
      assert.deepStrictEqual(body["system"], [
        { type: "text", text: "Be brief", cache_control: { type: "ephemeral" } },
        { type: "text", text: "Be kind" }
      ])
      assert.deepStrictEqual(body["messages"], [
        { role: "user", content: [{ type: "text", text: "Hello" }] },
        { role: "assistant", content: [{ type: "text", text: "Hi" }] },
        { role: "system", content: [{ type: "text", text: "Now be formal" }] },
        { role: "user", content: [{ type: "text", text: "Hello again" }] }
      ])
    }))

  const file = (mediaType: string, data: string | Uint8Array | URL, fileName?: string) =>
    Prompt.filePart({ mediaType, data, ...(fileName === undefined ? {} : { fileName }) })

  it.effect.each(
    [
      [
        "an image of bytes",
        file("image/png", new Uint8Array([1, 2, 3])),
        { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } }
      ],
      [
        "an image of a data URL",
        file("image/gif", "data:image/gif;base64,AQID"),
        { type: "image", source: { type: "base64", media_type: "image/gif", data: "AQID" } }
      ],
      [
        "an image by URL",
        file("image/*", new URL("https://example.com/a.png")),
        { type: "image", source: { type: "url", url: "https://example.com/a.png" } }
      ],
      [
        "a PDF in base64",
        file("application/pdf", "AQID", "report.pdf"),
        {
          type: "document",
          source: { type: "base64", media_type: "application/pdf", data: "AQID" },
          title: "report.pdf"
        }
      ],
      [
        "a PDF by URL",
        file("application/pdf", "https://example.com/a.pdf"),
        { type: "document", source: { type: "url", url: "https://example.com/a.pdf" } }
      ],
      [
        "media types ignore case",
        file("IMAGE/Png", new Uint8Array([1, 2, 3])),
        { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } }
      ],
      [
        "media types may have parameters",
        file("application/pdf; x=1", "DATA:application/pdf;BASE64,AQID"),
        { type: "document", source: { type: "base64", media_type: "application/pdf", data: "AQID" } }
      ],
      [
        "a text",
        file("text/markdown", new TextEncoder().encode("# Grüße")),
        { type: "document", source: { type: "text", media_type: "text/plain", data: "# Grüße" } }
      ]
    ] as const
  )("files: %s", ([, part, expected]) =>
    Effect.gen(function*() {
      const messages = yield* messagesOf([{ role: "user", content: [Prompt.textPart({ text: "See" }), part] }])
      assert.deepStrictEqual(messages, [{ role: "user", content: [{ type: "text", text: "See" }, expected] }])
    }))

  it.effect.each([
    file("image/tiff", "AQID"),
    file("video/mp4", "AQID"),
    file("text/plain", new URL("https://example.com/a.txt")),
    file("text/plain", "not base64!"),
    file("text/plain", new URL("data:text/plain,hello%20world")),
    file("image/png", "data:image/png,xyz"),
    file("application/pdf", new URL("file:///reports/may.pdf")),
    file("application/pdf", "file:///reports/may.pdf")
  ])(
    "a file that the provider does not take fails before anything is sent: $mediaType",
    (part) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make()
        const error = yield* generate([{ role: "user", content: [part] }]).pipe(
          Effect.provide(provided(server)),
          Effect.flip
        )
        assert.strictEqual(error.reason._tag, "InvalidRequestError")
        assert.include(error.message, part.mediaType)
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.permanent)
        assert.deepStrictEqual(yield* server.requests, [])
      })
  )

  it.effect("tool calls and results, the results in one message and in the order of the calls", () =>
    Effect.gen(function*() {
      const call = (id: string, query: string) =>
        Prompt.toolCallPart({ id, name: "search", params: { query }, providerExecuted: false })
      const result = (id: string, result: unknown, isFailure = false) =>
        Prompt.toolResultPart({ id, name: "search", result, isFailure, providerExecuted: false })
      const messages = yield* messagesOf([
        { role: "user", content: "Find" },
        { role: "assistant", content: [Prompt.textPart({ text: "" }), call("a", "x"), call("b", "y"), call("c", "z")] },
        { role: "tool", content: [result("c", undefined), result("a", { hits: [1] })] },
        { role: "tool", content: [result("b", "broken", true)] },
        { role: "user", content: [Prompt.textPart({ text: "and?", options: Anthropic.cached("5m") })] }
      ])
      assert.deepStrictEqual(messages, [
        { role: "user", content: [{ type: "text", text: "Find" }] },
        {
          role: "assistant",
          content: [
            { type: "tool_use", id: "a", name: "search", input: { query: "x" } },
            { type: "tool_use", id: "b", name: "search", input: { query: "y" } },
            { type: "tool_use", id: "c", name: "search", input: { query: "z" } }
          ]
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "a", is_error: false, content: "{\"hits\":[1]}" },
            { type: "tool_result", tool_use_id: "b", is_error: true, content: "broken" },
            { type: "tool_result", tool_use_id: "c", is_error: false },
            { type: "text", text: "and?", cache_control: { type: "ephemeral", ttl: "5m" } }
          ]
        }
      ])
    }))

  it.effect("what a file is to be made of is said where its URL cannot be read", () =>
    Effect.gen(function*() {
      const refused = (data: string) =>
        Effect.flip(
          Effect.provide(generate([{ role: "user", content: [file("image/png", data)] }]), through(answering({})))
        )
      assert.include(
        (yield* refused("data:image/png,xyz")).message,
        "has to be in base64; encode it, or give the bytes"
      )
      assert.include((yield* refused("file:///a.png")).message, "cannot read a file: URL; read it, and give the bytes")
    }))

  it.effect("a system message between tool calls and their results comes after them", () =>
    Effect.gen(function*() {
      const call = (id: string) =>
        Prompt.toolCallPart({ id, name: "search", params: { query: id }, providerExecuted: false })
      const result = (id: string) =>
        Prompt.toolResultPart({ id, name: "search", result: id, isFailure: false, providerExecuted: false })
      const messages = yield* messagesOf([
        { role: "user", content: "Find" },
        { role: "assistant", content: [call("a"), call("b")] },
        { role: "system", content: "First" },
        { role: "tool", content: [result("b")] },
        { role: "system", content: "Second" },
        { role: "tool", content: [result("a")] },
        { role: "user", content: "and?" }
      ])
      const order = messages.map(({ content, role }) =>
        content.map((block) => `${role} ${String(block["tool_use_id"] ?? block["text"] ?? block["id"])}`)
      )
      assert.deepStrictEqual(order, [
        ["user Find"],
        ["assistant a", "assistant b"],
        ["user a", "user b"],
        ["system First"],
        ["system Second"],
        ["user and?"]
      ])
    }))

  it.effect.each(["json", "stream"] as const)(
    "%s: parameters that are no JSON are the caller's mistake",
    (mode) =>
      Effect.gen(function*() {
        const circular: Record<string, unknown> = {}
        circular["self"] = circular
        for (const value of [1n, circular]) {
          const request: Record<string, unknown> = { metadata: { user_id: value } }
          const call = mode === "json"
            ? generate("Hi")
            : Stream.runDrain(LanguageModel.streamText({ prompt: "Hi" }))
          const error = yield* Effect.flip(Effect.provide(call, through(answering(message({})), { request })))
          assert.strictEqual(error.reason._tag, "InvalidRequestError", error.message)
          assert.include(error.message, "cannot be written as JSON")
          assert.deepStrictEqual(yield* Fault.classify(error), Fault.permanent)
        }
      })
  )

  it.effect("what a tool shows the model goes as text and images", () =>
    Effect.gen(function*() {
      const messages = yield* messagesOf([
        { role: "user", content: "Look" },
        {
          role: "assistant",
          content: [Prompt.toolCallPart({ id: "a", name: "look", params: {}, providerExecuted: false })]
        },
        {
          role: "tool",
          content: [Prompt.toolResultPart({
            id: "a",
            name: "look",
            result: {},
            isFailure: false,
            providerExecuted: false,
            modelOutput: [Prompt.textPart({ text: "seen" }), file("image/png", "AQID")]
          })]
        }
      ])
      assert.deepStrictEqual(messages[2]?.content[0]?.["content"], [
        { type: "text", text: "seen" },
        { type: "image", source: { type: "base64", media_type: "image/png", data: "AQID" } }
      ])
    }))

  it.effect("thoughts of this provider are sent back, those of others are not", () =>
    Effect.gen(function*() {
      const messages = yield* messagesOf([
        { role: "user", content: "Think" },
        {
          role: "assistant",
          content: [
            Prompt.reasoningPart({ text: "foreign" }),
            Prompt.reasoningPart({ text: "mine", options: { anthropic: { signature: "sig" } } }),
            Prompt.reasoningPart({ text: "", options: { anthropic: { redacted: "opaque" } } }),
            Prompt.textPart({ text: "Done" })
          ],
          options: Anthropic.cached()
        },
        { role: "user", content: "More" }
      ])
      assert.deepStrictEqual(messages[1]?.content, [
        { type: "thinking", thinking: "mine", signature: "sig" },
        { type: "redacted_thinking", data: "opaque" },
        { type: "text", text: "Done", cache_control: { type: "ephemeral" } }
      ])
    }))

  const withTools = (
    toolChoice: LanguageModel.ToolChoice<"search" | "strict" | "dynamic">,
    toolkit = Toolkit.make(
      Search,
      Tool.make("strict", {
        parameters: Schema.Struct({ at: Schema.optionalKey(Schema.String) })
      }).annotate(Tool.Strict, true),
      Tool.dynamic("dynamic", { parameters: { type: "object", properties: { a: { type: "string" } } } })
    )
  ) => LanguageModel.generateText({ prompt: "Find", toolkit, toolChoice, disableToolCallResolution: true })

  it.effect("tools with their schemas, strict ones in the strict dialect", () =>
    Effect.gen(function*() {
      const { tools } = yield* bodyOf(withTools("auto"))
      assert.deepStrictEqual(tools, [
        {
          name: "search",
          description: "Search the index",
          input_schema: Tool.getJsonSchema(Search)
        },
        {
          name: "strict",
          strict: true,
          input_schema: {
            type: "object",
            properties: { at: { anyOf: [{ type: "string" }, { type: "null" }] } },
            required: ["at"],
            additionalProperties: false
          }
        },
        { name: "dynamic", input_schema: { type: "object", properties: { a: { type: "string" } } } }
      ])
    }))

  it.effect.each(
    [
      ["auto", { type: "auto" }, 3],
      ["required", { type: "any" }, 3],
      ["none", { type: "none" }, 3],
      [{ tool: "search" }, { type: "tool", name: "search" }, 3],
      [{ oneOf: ["search"] }, { type: "auto" }, 1],
      [{ mode: "required", oneOf: ["search", "strict"] }, { type: "any" }, 2]
    ] as const
  )("tool choice %j", ([choice, expected, count]) =>
    Effect.gen(function*() {
      const body = yield* bodyOf(withTools(choice))
      assert.deepStrictEqual(body["tool_choice"], expected)
      assert.lengthOf(body["tools"] as ReadonlyArray<unknown>, count)
    }))

  it.effect("the schema of an object that is asked for", () =>
    Effect.gen(function*() {
      const body = yield* bodyOf(
        LanguageModel.generateObject({ prompt: "Who?", schema: Schema.Struct({ name: Schema.String }) }),
        { request: { output_config: { effort: "low" } } }
      )
      assert.deepStrictEqual(body["output_config"], {
        effort: "low",
        format: {
          type: "json_schema",
          schema: {
            type: "object",
            properties: { name: { type: "string" } },
            required: ["name"],
            additionalProperties: false
          }
        }
      })
    }))

  it.effect("a schema that the provider cannot take is a typed error", () =>
    Effect.gen(function*() {
      interface Tree {
        readonly children: ReadonlyArray<Tree>
      }
      const Tree: Schema.Codec<Tree> = Schema.Struct({ children: Schema.Array(Schema.suspend(() => Tree)) })
        .annotate({ identifier: "Tree" })
      const error = yield* LanguageModel.generateObject({ prompt: "Grow", schema: Tree }).pipe(
        Effect.provide(through(answering({}))),
        Effect.flip
      )
      assert.strictEqual(error.reason._tag, "UnsupportedSchemaError")
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.permanent)
    }))
})

const limits = {
  "request-id": "req_9",
  "anthropic-ratelimit-requests-limit": "50",
  "anthropic-ratelimit-requests-remaining": "49",
  "anthropic-ratelimit-input-tokens-remaining": "1000",
  "anthropic-ratelimit-input-tokens-reset": "2026-11-22T10:00:00Z",
  "anthropic-ratelimit-tokens-limit": "much"
}

type AnyParts = ReadonlyArray<AiResponse.AnyPart>

const finishOf = (parts: AnyParts) => parts.find((part) => part.type === "finish")

const collect = (options: { readonly prompt: Prompt.RawInput }) => Stream.runCollect(LanguageModel.streamText(options))

describe("Anthropic: what comes back", () => {
  for (const mode of ["json", "stream"] as const) {
    it.effect.each(
      [
        ["end_turn", "stop"],
        ["stop_sequence", "stop"],
        ["max_tokens", "length"],
        ["model_context_window_exceeded", "length"],
        ["tool_use", "tool-calls"],
        ["pause_turn", "pause"],
        ["refusal", "content-filter"],
        ["something_new", "other"]
      ] as const
    )(
      `${mode}: %s finishes with %s, and the provider's word is kept`,
      ([stop_reason, reason]) =>
        Effect.gen(function*() {
          const text = { type: "text", text: "Hello" }
          const parts: AnyParts = yield* mode === "json"
            ? LanguageModel.generateText({ prompt: "Hi" }).pipe(
              Effect.map((response): AnyParts => response.content),
              Effect.provide(through(answering(message({ content: [text], stop_reason }))))
            )
            : collect({ prompt: "Hi" }).pipe(Effect.provide(through(streaming(stream(block(0, text), stop_reason)))))
          assert.strictEqual(finishOf(parts)?.reason, reason)
          assert.strictEqual(Option.getOrThrow(Anthropic.finishMetadata(parts)).stopReason, stop_reason)
        })
    )
  }

  it.effect("says why the model refused", () =>
    Effect.gen(function*() {
      const details = { type: "refusal", category: "bio", explanation: "No" }
      const response = yield* generate("Hi").pipe(
        Effect.provide(through(answering(message({ stop_reason: "refusal", stop_details: details }))))
      )
      assert.deepStrictEqual(Option.getOrThrow(Anthropic.finishMetadata(response.content)).stopDetails, details)
    }))

  it.effect("usage with the cache, limits, request id and model", () =>
    Effect.gen(function*() {
      const usage = {
        input_tokens: 10,
        cache_read_input_tokens: 100,
        cache_creation_input_tokens: 5,
        output_tokens: 30,
        output_tokens_details: { thinking_tokens: 20 },
        service_tier: "priority"
      }
      const json = yield* generate("Hi").pipe(Effect.provide(through(answering(message({ usage }), limits))))
      const events = [
        { type: "message_start", message: message({ stop_reason: null, usage: { ...usage, output_tokens: 1 } }) },
        {
          type: "message_delta",
          delta: { stop_reason: "end_turn" },
          usage: { output_tokens: 30, input_tokens: null, cache_read_input_tokens: null }
        },
        { type: "message_stop" }
      ]
      const streamed = yield* collect({ prompt: "Hi" }).pipe(Effect.provide(through(streaming(events, limits))))
      for (const parts of [json.content, streamed]) {
        const finish = finishOf(parts)
        assert.deepStrictEqual({ ...finish?.usage.inputTokens }, {
          uncached: 10,
          total: 115,
          cacheRead: 100,
          cacheWrite: 5
        })
        assert.deepStrictEqual({ ...finish?.usage.outputTokens }, { total: 30, text: 10, reasoning: 20 })
        assert.strictEqual(finish?.response?.headers["request-id"], "req_9")
        assert.deepStrictEqual(Option.getOrThrow(Anthropic.finishMetadata(parts)), {
          stopReason: "end_turn",
          stopSequence: null,
          stopDetails: null,
          serviceTier: "priority",
          requestId: "req_9",
          rateLimits: {
            requests: { limit: 50, remaining: 49 },
            inputTokens: { remaining: 1000, reset: DateTime.makeUnsafe("2026-11-22T10:00:00Z") }
          }
        })
        const metadata = parts.find((part) => part.type === "response-metadata")
        assert.deepStrictEqual([metadata?.id, metadata?.modelId], ["msg_1", model])
      }
    }))

  it.effect("text flows while the tool call is held back to the end", () =>
    Effect.gen(function*() {
      const call = block(
        1,
        { type: "tool_use", id: "t1", name: "search", input: {} },
        { type: "input_json_delta", partial_json: "" },
        { type: "input_json_delta", partial_json: "{\"query\":" },
        { type: "input_json_delta", partial_json: "\"x\"}" }
      )
      const events = [
        ...block(0, { type: "text", text: "" }, { type: "text_delta", text: "Let me " }, {
          type: "text_delta",
          text: "see"
        }),
        ...call,
        { type: "ping" },
        { type: "event_of_next_year" },
        ...block(2, { type: "text", text: "" }, { type: "text_delta", text: "." })
      ]
      const parts = yield* LanguageModel.streamText({ prompt: "Hi", toolkit: Kit, disableToolCallResolution: true })
        .pipe(Stream.runCollect, Effect.provide(through(streaming(stream(events, "tool_use")))))
      assert.deepStrictEqual(parts.map((part) => part.type), [
        "response-metadata",
        "text-start",
        "text-delta",
        "text-delta",
        "text-end",
        "tool-params-start",
        "tool-params-delta",
        "tool-params-delta",
        "tool-params-end",
        "text-start",
        "text-delta",
        "text-end",
        "tool-call",
        "finish"
      ])
      assert.deepInclude(parts.find((part) => part.type === "tool-call"), { id: "t1", params: { query: "x" } })
    }))

  const wrong = [undefined, null, 0, 1.5, "", "x", true, [], {}, [null], [{}], { type: "text" }]

  /** The value with each of its fields, at every depth, replaced by each of the wrong ones. */
  const spoiled = (value: unknown): ReadonlyArray<unknown> => {
    if (typeof value !== "object" || value === null) return wrong
    return Object.entries(value).flatMap(([key, field]) =>
      spoiled(field).map((replacement) =>
        Array.isArray(value) ? value.with(Number(key), replacement) : Object.assign({}, value, { [key]: replacement })
      )
    ).concat(wrong)
  }

  const assertTyped = Effect.fnUntraced(function*(call: Effect.Effect<unknown, unknown>, sent: unknown) {
    const exit = yield* Effect.exit(call)
    if (Exit.isSuccess(exit)) return
    const error = yield* Effect.orElseSucceed(Effect.flip(exit), () => undefined)
    assert.isTrue(AiError.isAiError(error), JSON.stringify(sent))
  })

  it.effect("a message with any field spoiled is an answer or a typed error, never a defect", () =>
    Effect.gen(function*() {
      const sound = message({
        content: [
          { type: "text", text: "a", citations: [] },
          { type: "thinking", thinking: "b", signature: "s" },
          { type: "tool_use", id: "t", name: "search", input: { query: "x" } },
          { type: "web_search_tool_result", tool_use_id: "s", content: [] }
        ],
        stop_reason: "tool_use"
      })
      for (const body of spoiled(sound)) {
        const call = LanguageModel.generateText({ prompt: "Hi", toolkit: Kit, disableToolCallResolution: true })
        yield* assertTyped(Effect.provide(call, through(answering(body ?? null))), body)
      }
    }))

  it.effect.each([200, 400, 429, 500])(
    "an error body of status %i with any field spoiled is a typed error",
    (status) =>
      Effect.gen(function*() {
        const sound = {
          type: "error",
          error: { type: "api_error", message: "No", details: { error_code: "x" } },
          request_id: "r"
        }
        for (const body of spoiled(sound)) {
          const call = Effect.provide(
            generate("Hi"),
            through(() => Promise.resolve(Response.json(body ?? null, { status })))
          )
          yield* assertTyped(call, body)
        }
      })
  )

  it.effect("a stream with any field spoiled is an answer or a typed error, never a defect", () =>
    Effect.gen(function*() {
      const sound = stream([
        ...block(0, { type: "thinking", thinking: "", signature: "" }, { type: "thinking_delta", thinking: "b" }, {
          type: "signature_delta",
          signature: "s"
        }),
        ...block(1, { type: "text", text: "" }, { type: "text_delta", text: "a" }),
        ...block(2, { type: "tool_use", id: "t", name: "search", input: {} }, {
          type: "input_json_delta",
          partial_json: "{\"query\":\"x\"}"
        })
      ], "tool_use")
      for (const [index, event] of sound.entries()) {
        for (const data of spoiled(event)) {
          const lines = sound.map((event, at) =>
            `event: ${event.type}\ndata: ${JSON.stringify(at === index ? data : event)}\n\n`
          )
          const body = () =>
            Promise.resolve(new Response(lines.join(""), { headers: { "content-type": "text/event-stream" } }))
          const call = LanguageModel.streamText({ prompt: "Hi", toolkit: Kit, disableToolCallResolution: true })
          yield* assertTyped(Effect.provide(Stream.runDrain(call), through(body)), data)
        }
      }
    }))

  it.effect.prop(
    "no part of a stream that was cut, wherever, gives a tool call or an end",
    { share: Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 0.999 })) },
    ({ share }) =>
      Effect.gen(function*() {
        const call = block(0, { type: "tool_use", id: "t1", name: "search", input: {} }, {
          type: "input_json_delta",
          partial_json: "{\"query\":\"Grüße\"}"
        })
        const whole = yield* Effect.promise(() => streaming(stream(call, "tool_use"))("").then((sent) => sent.bytes()))
        // Without the blank line after the last event the message is whole all the same.
        const cut = whole.slice(0, Math.floor(share * (whole.length - 2)))
        const seen: Array<string> = []
        const error = yield* LanguageModel.streamText({ prompt: "Hi", toolkit: Kit, disableToolCallResolution: true })
          .pipe(
            Stream.runForEach((part) => Effect.sync(() => seen.push(part.type))),
            Effect.provide(
              through(() => Promise.resolve(new Response(cut, { headers: { "content-type": "text/event-stream" } })))
            ),
            Effect.flip
          )
        assert.strictEqual(error.reason._tag, "InvalidResponseError")
        assert.notIncludeMembers(seen, ["tool-call", "finish"])
      }),
    { arbitrary: { runs: 100 } }
  )

  const content = [
    { type: "thinking", thinking: "Hm, hm", signature: "sig" },
    { type: "redacted_thinking", data: "opaque" },
    { type: "text", text: "Done" }
  ]
  const thoughts = [
    ...block(
      0,
      { type: "thinking", thinking: "", signature: "" },
      { type: "thinking_delta", thinking: "Hm, " },
      { type: "thinking_delta", thinking: "hm" },
      { type: "signature_delta", signature: "sig" }
    ),
    ...block(1, { type: "redacted_thinking", data: "opaque" }),
    ...block(2, { type: "text", text: "" }, { type: "text_delta", text: "Done" })
  ]

  it.effect.each(["json", "stream"] as const)(
    "%s: thoughts go back to the provider exactly as they came",
    (mode) =>
      Effect.gen(function*() {
        const parts: AnyParts = yield* mode === "json"
          ? generate("Hi").pipe(
            Effect.map((response): AnyParts => response.content),
            Effect.provide(through(answering(message({ content }))))
          )
          : collect({ prompt: "Hi" }).pipe(Effect.provide(through(streaming(stream(thoughts)))))
        const history = Prompt.concat(Prompt.make("Hi"), Prompt.fromResponseParts(parts))
        const messages = yield* messagesOf(Prompt.concat(history, "Go on"))
        assert.deepStrictEqual(messages[1]?.content, content)
      })
  )

  it.effect("tools of the provider's own: sent, read, and sent back word for word", () =>
    Effect.gen(function*() {
      const WebSearch = Tool.providerDefined({
        id: "anthropic.web_search_20260318",
        customName: "Web",
        providerName: "web_search",
        args: Schema.Struct({ max_uses: Schema.Int }),
        parameters: Schema.Struct({ query: Schema.String }),
        success: Schema.Array(Schema.Struct({ url: Schema.String }))
      })
      const toolkit = Toolkit.make(WebSearch({ max_uses: 2 }))
      const content = [
        { type: "server_tool_use", id: "s1", name: "web_search", input: { query: "x" } },
        { type: "web_search_tool_result", tool_use_id: "s1", content: [{ url: "https://example.com" }] },
        { type: "text", text: "Found", citations: [{ url: "https://example.com" }] }
      ]
      const events = [
        ...block(0, { ...content[0], input: {} }, { type: "input_json_delta", partial_json: "{\"query\":\"x\"}" }),
        ...block(1, content[1] ?? {}),
        ...block(2, { type: "text", text: "" }, { type: "text_delta", text: "Found" }, {
          type: "citations_delta",
          citation: { url: "https://example.com" }
        })
      ]
      const json = yield* LanguageModel.generateText({ prompt: "Hi", toolkit }).pipe(
        Effect.map((response): AnyParts => response.content),
        Effect.provide(through(answering(message({ content, stop_reason: "pause_turn" }))))
      )
      const streamed: AnyParts = yield* LanguageModel.streamText({ prompt: "Hi", toolkit }).pipe(
        Stream.runCollect,
        Effect.provide(through(streaming(stream(events, "pause_turn"))))
      )
      for (const parts of [json, streamed]) {
        assert.deepInclude(parts.find((part) => part.type === "tool-call"), { name: "Web", providerExecuted: true })
        const history = Prompt.concat(Prompt.make("Hi"), Prompt.fromResponseParts(parts))
        const body = yield* bodyOf(
          LanguageModel.generateText({ prompt: history, toolkit, disableToolCallResolution: true })
        )
        assert.deepStrictEqual(body["tools"], [{ type: "web_search_20260318", name: "web_search", max_uses: 2 }])
        assert.deepStrictEqual((body["messages"] as ReadonlyArray<Sent>)[1]?.content, [
          ...content.slice(0, 2),
          { type: "text", text: "Found" }
        ])
      }
    }))

  it.effect("parameters in the strict dialect become the tool's own", () =>
    Effect.gen(function*() {
      const seen = yield* Ref.make<unknown>(undefined)
      const Strict = Tool.make("strict", {
        parameters: Schema.Struct({
          at: Schema.optionalKey(Schema.String),
          point: Schema.Tuple([Schema.Int, Schema.Int])
        })
      }).annotate(Tool.Strict, true)
      const toolkit = Toolkit.make(Strict)
      const input = { at: null, point: { "0": 1, "1": 2 } }
      const body = message({
        content: [{ type: "tool_use", id: "t", name: "strict", input }],
        stop_reason: "tool_use"
      })
      yield* LanguageModel.generateText({ prompt: "Hi", toolkit }).pipe(
        Effect.provide([
          through(answering(body)),
          toolkit.toLayer({ strict: (params) => Ref.set(seen, params) })
        ])
      )
      assert.deepStrictEqual(yield* Ref.get(seen), { point: [1, 2] })
    }))

  it.effect("annotates the span in the words of OpenTelemetry", () =>
    Effect.gen(function*() {
      const { spans, tracer } = recordingTracer()
      yield* generate("Hi").pipe(
        Effect.provide(through(answering(message({})))),
        Effect.provideService(Tracer.Tracer, tracer)
      )
      const span = spans.find((span) => span.name === `chat ${model}`)
      assert.deepInclude(Object.fromEntries(span?.attributes ?? []), {
        "gen_ai.provider.name": "anthropic",
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": model,
        "gen_ai.request.max_tokens": 4096,
        "gen_ai.response.id": "msg_1",
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 1
      })
    }))
})

describe("Anthropic: whole exchanges", () => {
  const script: NonNullable<ProviderServer.Options["answer"]> = (request) => {
    const turns = request.messages.length
    return turns === 1
      ? {
        content: [
          { type: "thinking", thinking: "I should look", signature: "s" },
          { type: "text", text: "Looking" },
          { type: "tool_use", id: "t1", name: "search", input: { query: "x" } },
          { type: "tool_use", id: "t2", name: "search", input: { query: "bad" } }
        ]
      }
      : "About x."
  }

  it.effect.each(["json", "stream"] as const)("%s: two turns with tools", (mode) =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: script })
      const chat = yield* Chat.empty
      const turn = (prompt: Prompt.RawInput) =>
        mode === "json"
          ? Effect.asVoid(chat.generateText({ prompt, toolkit: Kit }))
          : Stream.runDrain(chat.streamText({ prompt, toolkit: Kit }))
      yield* Effect.andThen(turn("Find x"), turn([])).pipe(Effect.provide([provided(server), KitLive]))
      const requests = yield* server.requests
      assert.lengthOf(requests, 2)
      const second = requests[1]?.body as Record<string, unknown> | undefined
      assert.deepStrictEqual(second?.["messages"], [
        { role: "user", content: [{ type: "text", text: "Find x" }] },
        {
          role: "assistant",
          content: [
            { type: "thinking", thinking: "I should look", signature: "s" },
            { type: "text", text: "Looking" },
            { type: "tool_use", id: "t1", name: "search", input: { query: "x" } },
            { type: "tool_use", id: "t2", name: "search", input: { query: "bad" } }
          ]
        },
        {
          role: "user",
          content: [
            { type: "tool_result", tool_use_id: "t1", is_error: false, content: "{\"hits\":[\"about x\"]}" },
            { type: "tool_result", tool_use_id: "t2", is_error: true, content: "no such index" }
          ]
        }
      ])
    }))

  const Person = Schema.Struct({ name: Schema.String, age: Schema.optionalKey(Schema.Int) })
  const who = LanguageModel.generateObject({ prompt: "Who?", schema: Person })

  it.effect("an object that keeps to its schema", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: () => "{\"name\":\"Ada\",\"age\":null}" })
      const response = yield* Effect.provide(who, provided(server))
      assert.deepStrictEqual(response.value, { name: "Ada" })
    }))

  it.effect("an object that violates its schema is Malformed", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: () => "{\"name\":\"Ada\",\"age\":null}" })
      yield* server.inject({ _tag: "WrongSchema" })
      const error = yield* Effect.flip(Effect.provide(who, provided(server)))
      assert.strictEqual(error.reason._tag, "StructuredOutputError")
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.malformed)
    }))

  it.effect.each(
    [
      ["Refusal", "ContentPolicyError", Fault.refused],
      ["ContextWindow", "StructuredOutputError", Fault.contextOverflow],
      ["MaxTokens", "StructuredOutputError", Fault.malformed]
    ] as const
  )("an object that is not given for %s says so", ([_tag, reason, verdict]) =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: () => "{\"name\":\"Ada\",\"age\":null}" })
      yield* server.inject({ _tag })
      const error = yield* Effect.flip(Effect.provide(who, provided(server)))
      assert.deepStrictEqual([error.reason._tag, yield* Fault.classify(error)], [reason, verdict])
    }))
})

describe("Anthropic: options", () => {
  const built = (layer: Layer.Layer<LanguageModel.LanguageModel, unknown>, environment: Record<string, string> = {}) =>
    Layer.build(layer).pipe(
      Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(environment)),
      Effect.exit
    )

  it.effect.each(
    [
      ["model", { model: "" }],
      ["maxTokens", { maxTokens: 0 }],
      ["stallTimeout", { stallTimeout: "0 seconds" }],
      ["responseTimeout", { responseTimeout: "Infinity" }],
      ["streamTimeout", { streamTimeout: 0 }],
      ["baseURL", { baseURL: "localhost" }],
      ["apiKey", { apiKey: "" }],
      ["apiKey", { apiKey: Redacted.make("a key\n") }],
      ["apiKey", { apiKey: undefined }],
      ["headers[\"x-team\"]", { headers: { "x-team": "€ a key" } }],
      ["headers[\"x-team\"]", { headers: { "x-team": "a\na key" } }],
      ["headers[\"x team\"]", { headers: { ok: "ok", "x team": "a key" } }]
    ] as const
  )("a wrong %s is a typed error that names it", ([option, options]) =>
    Effect.gen(function*() {
      const error = yield* Effect.flip(yield* built(Anthropic.layer({ model, apiKey: "k", ...options })))
      assert.instanceOf(error, Fault.InvalidConfig)
      assert.strictEqual(error.option, option)
      assert.notInclude(error.message, "a key")
    }))

  it.effect("a model that is left out is a typed error that names it", () =>
    Effect.gen(function*() {
      const untyped: unknown = { apiKey: "k" }
      const error = yield* Effect.flip(yield* built(Anthropic.layer(untyped as Anthropic.Options)))
      assert.instanceOf(error, Fault.InvalidConfig)
      assert.strictEqual(error.option, "model")
    }))

  it.effect("reads the API key from the configuration", () =>
    Effect.gen(function*() {
      assert.isTrue(Exit.isSuccess(yield* built(Anthropic.layer({ model }), { ANTHROPIC_API_KEY: "k" })))
    }))

  it.effect("reads the address from the configuration, and nothing from the environment of the process", () =>
    Effect.gen(function*() {
      const asked: Array<string> = []
      const layer = Anthropic.layer({
        model,
        apiKey: "k",
        fetch: (input) => {
          asked.push(input instanceof Request ? input.url : input.toString())
          return Promise.resolve(Response.json(message({})))
        }
      })
      const ask = (environment: Record<string, string>) =>
        generate("Hi").pipe(
          Effect.provide(layer),
          Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown(environment))
        )
      yield* ask({})
      yield* ask({ ANTHROPIC_BASE_URL: "http://proxy.test" })
      assert.deepStrictEqual(asked, ["https://api.anthropic.com/v1/messages", "http://proxy.test/v1/messages"])
    }))

  it.effect("sends no headers from the environment of the process, also from a client made of the SDK", () =>
    Effect.gen(function*() {
      const sent: Array<string | null> = []
      const client = yield* AnthropicClient.make({
        apiKey: "k",
        headers: { "x-own": "1" },
        fetch: (_, init) => {
          const headers = new Headers(init?.headers)
          sent.push(headers.get("x-behind"), headers.get("x-own"))
          return Promise.resolve(Response.json(message({})))
        }
      })
      const request = { model, max_tokens: 1, messages: [{ role: "user" as const, content: "Hi" }] }
      yield* client.use((sdk) => sdk.messages.create(request))
      yield* client.use((sdk) => sdk.withOptions({ maxRetries: 0 }).messages.create(request))
      assert.deepStrictEqual(sent, [null, "1", null, "1"])
    }).pipe(
      (test) =>
        Effect.acquireUseRelease(
          Effect.sync(() => {
            process.env["ANTHROPIC_CUSTOM_HEADERS"] = "x-behind: the back of Config"
          }),
          () => test,
          () => Effect.sync(() => delete process.env["ANTHROPIC_CUSTOM_HEADERS"])
        )
    ))

  it.effect("reads any option from the configuration", () =>
    Effect.gen(function*() {
      const live = Anthropic.layerConfig({
        model: Config.String("ANTHROPIC_MODEL"),
        apiKey: Config.Redacted("ANTHROPIC_API_KEY")
      })
      const environment = { ANTHROPIC_MODEL: model, ANTHROPIC_API_KEY: "k" }
      assert.isTrue(Exit.isSuccess(yield* built(live, environment)))
      const error = yield* Effect.flip(yield* built(live, { ANTHROPIC_MODEL: model }))
      assert.instanceOf(error, Config.ConfigError)
    }))

  it.effect("errors of other providers have no metadata of this one", () =>
    Effect.gen(function*() {
      const error = AiError.make({
        module: "Other",
        method: "generateText",
        reason: new AiError.RateLimitError({ metadata: { other: {} } })
      })
      assert.isTrue(Option.isNone(Anthropic.errorMetadata(error)))
      assert.isTrue(Option.isNone(Anthropic.finishMetadata([])))
    }))
})
