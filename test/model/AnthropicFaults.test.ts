import Sdk from "@anthropic-ai/sdk"
import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer, Schema, Stream } from "effect"
import { Fault } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { AiError, LanguageModel, Tool, Toolkit } from "effect/ai"

const Tools = Toolkit.make(Tool.make("book", {
  parameters: Schema.Struct({ seat: Schema.String }),
  success: Schema.String
}))

type Mode = "json" | "stream"

type Parts = ReadonlyArray<{ readonly type: string; readonly metadata?: unknown }>

const generated = LanguageModel.generateText({ prompt: "Hello", toolkit: Tools }).pipe(
  Effect.map((response): Parts => response.content)
)

const streamed = Stream.runCollect(LanguageModel.streamText({ prompt: "Hello", toolkit: Tools })).pipe(
  Effect.map((parts): Parts => parts)
)

const ask = (mode: Mode): typeof generated => mode === "json" ? generated : streamed

/** One call with the real SDK against a server that has one fault ready. */
const callOnce = (
  fault: ProviderServer.Fault,
  mode: Mode,
  answer: NonNullable<ProviderServer.Options["answer"]> = () => "A text that is long enough to be cut in the middle."
) =>
  Effect.gen(function*() {
    const server = yield* ProviderServer.make({ answer })
    yield* server.inject(fault)
    const booked: Array<string> = []
    const result = yield* ask(mode).pipe(
      Effect.exit,
      Effect.provide(Layer.merge(
        Anthropic.layer({ model: "claude-opus-5-5", apiKey: "test", baseURL: server.url }),
        Tools.toLayer({
          book: ({ seat }) =>
            Effect.sync(() => {
              booked.push(seat)
              return "booked"
            })
        })
      ))
    )
    return { result, booked, requests: yield* server.requests }
  })

const failure = Effect.fnUntraced(function*(...[fault, mode, answer]: Parameters<typeof callOnce>) {
  const { booked, requests, result } = yield* callOnce(fault, mode, answer)
  const error = yield* Effect.flip(result)
  assert.isTrue(AiError.isAiError(error), String(error))
  assert.strictEqual(requests.length, 1, "the SDK sent the request again")
  assert.deepStrictEqual(booked, [], "a tool ran")
  return error
})

const Json = Schema.fromJsonString(Schema.toCodecJson(AiError.AiError))

const roundTrip = (error: AiError.AiError) =>
  Effect.flatMap(Schema.encodeEffect(Json)(error), Schema.decodeUnknownEffect(Json))

type Expected = readonly [reason: AiError.AiErrorReason["_tag"], verdict: Fault.Verdict]

interface Case {
  readonly name: string
  readonly fault: ProviderServer.Fault
  readonly json: Expected
  readonly stream?: Expected
}

const status = (status: number, type: string, message = "No", errorCode?: string): ProviderServer.Fault => ({
  _tag: "StatusError",
  status,
  type,
  message,
  ...(errorCode === undefined ? {} : { errorCode })
})

const both = (name: string, fault: ProviderServer.Fault, ...expected: Expected): Case => ({
  name,
  fault,
  json: expected
})

const cases: ReadonlyArray<Case> = [
  both(
    "429 with retry-after",
    { _tag: "RateLimited", retryAfter: 7 },
    "RateLimitError",
    Fault.throttled("7 seconds")
  ),
  both(
    "429 with an HTTP date",
    { _tag: "RateLimited", retryAfter: "Thu, 01 Jan 1970 00:01:30 GMT" },
    "RateLimitError",
    Fault.throttled("90 seconds")
  ),
  both("429 without retry-after", { _tag: "RateLimited" }, "RateLimitError", Fault.throttled()),
  both(
    "429 with a senseless retry-after",
    { _tag: "RateLimited", retryAfter: "soon" },
    "RateLimitError",
    Fault.throttled()
  ),
  both("a spend limit", { _tag: "SpendLimit" }, "QuotaExhaustedError", Fault.permanent),
  both("402", status(402, "billing_error"), "QuotaExhaustedError", Fault.permanent),
  both(
    "400 for want of credit",
    status(400, "invalid_request_error", "Your credit balance is too low to access the Anthropic API."),
    "QuotaExhaustedError",
    Fault.permanent
  ),
  both("529", { _tag: "Overloaded" }, "InternalProviderError", Fault.overloaded()),
  both(
    "529 with retry-after",
    { _tag: "Overloaded", retryAfter: 20 },
    "InternalProviderError",
    Fault.overloaded("20 seconds")
  ),
  both("503", { _tag: "Unavailable" }, "InternalProviderError", Fault.overloaded()),
  both("500", { _tag: "ServerError" }, "InternalProviderError", Fault.transient),
  both("500 with a page of HTML", { _tag: "ServerError", html: true }, "InternalProviderError", Fault.transient),
  both("502", { _tag: "ServerError", status: 502 }, "InternalProviderError", Fault.transient),
  both("520", { _tag: "ServerError", status: 520 }, "InternalProviderError", Fault.transient),
  both("504", status(504, "timeout_error"), "InternalProviderError", Fault.timedOut),
  both("408", status(408, "timeout_error"), "InternalProviderError", Fault.transient),
  both("409", status(409, "conflict_error"), "InternalProviderError", Fault.transient),
  both("400", status(400, "invalid_request_error"), "InvalidRequestError", Fault.permanent),
  both("401", status(401, "authentication_error"), "AuthenticationError", Fault.permanent),
  both("403", status(403, "permission_error"), "AuthenticationError", Fault.permanent),
  both("404", status(404, "not_found_error"), "InvalidRequestError", Fault.permanent),
  both("418", status(418, "teapot_error"), "InvalidRequestError", Fault.permanent),
  both("422", status(422, "invalid_request_error"), "InvalidRequestError", Fault.permanent),
  both("a prompt that is too long", { _tag: "PromptTooLong" }, "InvalidRequestError", Fault.contextOverflow),
  both(
    "a prompt that leaves no room for the answer",
    status(400, "invalid_request_error", "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000"),
    "InvalidRequestError",
    Fault.contextOverflow
  ),
  both("413", { _tag: "RequestTooLarge" }, "InvalidRequestError", Fault.contextOverflow),
  both("a reset before the headers", { _tag: "ResetBeforeHeaders" }, "NetworkError", Fault.ambiguous),
  both("a reset in the body", { _tag: "ResetMidBody" }, "InvalidResponseError", Fault.ambiguous),
  both("a connection closed in the body", { _tag: "CloseMidBody" }, "InvalidResponseError", Fault.ambiguous),
  {
    name: "JSON that is cut",
    fault: { _tag: "TruncatedJson" },
    json: ["InvalidResponseError", Fault.malformed],
    stream: ["InvalidResponseError", Fault.ambiguous]
  },
  both("what is no JSON", { _tag: "MalformedJson" }, "InvalidResponseError", Fault.malformed),
  ...(["html", "text", "empty", "noContent", "emptyObject"] as const).map((variant) =>
    both(`HTTP 200 with ${variant}`, { _tag: "NotAMessage", variant }, "InvalidResponseError", Fault.malformed)
  ),
  {
    name: "HTTP 200 with an error body",
    fault: { _tag: "NotAMessage", variant: "errorBody" },
    json: ["InternalProviderError", Fault.transient],
    stream: ["InvalidResponseError", Fault.malformed]
  },
  {
    name: "an overloaded_error event",
    fault: { _tag: "StreamError" },
    json: ["InternalProviderError", Fault.overloaded()],
    stream: ["InternalProviderError", Fault.overloaded()]
  },
  both(
    "an api_error event",
    { _tag: "StreamError", type: "api_error", afterEvents: 3 },
    "InternalProviderError",
    Fault.transient
  ),
  both(
    "a rate_limit_error event",
    { _tag: "StreamError", type: "rate_limit_error" },
    "RateLimitError",
    Fault.throttled()
  ),
  {
    name: "an error event of a type not known yet",
    fault: { _tag: "StreamError", type: "moon_error" },
    json: ["InternalProviderError", Fault.transient],
    stream: ["InternalProviderError", Fault.transient]
  },
  {
    name: "a stream that ends before message_stop",
    fault: { _tag: "StreamClose", afterEvents: 4 },
    json: ["InvalidResponseError", Fault.malformed],
    stream: ["InvalidResponseError", Fault.ambiguous]
  },
  both(
    "a stream that is reset",
    { _tag: "StreamReset", afterEvents: 3 },
    "InvalidResponseError",
    Fault.ambiguous
  ),
  both("an empty stream", { _tag: "StreamEmpty" }, "InvalidResponseError", Fault.malformed),
  both("an event that is no JSON", { _tag: "StreamBadJson" }, "InvalidResponseError", Fault.malformed),
  both("no stop reason", { _tag: "StreamNoStopReason" }, "InvalidResponseError", Fault.malformed),
  both("events without names", { _tag: "StreamWithoutEventNames" }, "InvalidResponseError", Fault.malformed),
  both("the other format than asked for", { _tag: "StreamAsJson" }, "InvalidResponseError", Fault.malformed)
]

describe("Anthropic: faults of the provider", () => {
  for (const mode of ["json", "stream"] as const) {
    it.effect.each(cases)(
      `${mode}: $name is a typed error with its verdict, and one request`,
      (one) =>
        Effect.gen(function*() {
          const [reason, verdict] = mode === "json" ? one.json : one.stream ?? one.json
          const error = yield* failure(one.fault, mode)
          assert.deepStrictEqual([error.reason._tag, yield* Fault.classify(error)], [reason, verdict], error.message)
          assert.deepStrictEqual(yield* Fault.classify(yield* roundTrip(error)), verdict)
          assert.deepStrictEqual([error.module, error.method], [
            "Anthropic",
            mode === "json" ? "generateText" : "streamText"
          ])
        })
    )
  }

  it.effect("keeps the delay, the error code, the request id and the limits", () =>
    Effect.gen(function*() {
      const error = yield* failure({
        _tag: "StatusError",
        status: 429,
        type: "rate_limit_error",
        message: "Slow down",
        errorCode: "ramp_limit_exceeded",
        headers: { "retry-after": "3" }
      }, "json")
      assert.deepStrictEqual(error.retryAfter, Duration.seconds(3))
      const metadata = yield* Effect.fromOption(Anthropic.errorMetadata(error))
      assert.deepInclude(metadata, {
        status: 429,
        type: "rate_limit_error",
        errorCode: "ramp_limit_exceeded",
        message: "Slow down",
        retryAfterMillis: 3000
      })
      assert.match(metadata.requestId ?? "", /^req_/)
      assert.isNumber(metadata.rateLimits.requests?.limit)
    }))

  const refusing = (status: number, type: string, message: string) => () =>
    Promise.resolve(Response.json({ type: "error", error: { type, message } }, { status }))
  const failing = (code: string) => () =>
    Promise.reject(new TypeError("fetch failed", { cause: Object.assign(new Error("tls"), { code }) }))

  it.effect.each([
    { name: "want of credit", fetch: refusing(400, "invalid_request_error", "Your credit balance is too low") },
    {
      name: "a usage limit",
      fetch: refusing(400, "invalid_request_error", "You reached your usage limits. You will regain access on May 1")
    },
    { name: "a spend limit without a code", fetch: refusing(429, "rate_limit_error", "You reached your spend limit") },
    { name: "no room left", fetch: refusing(400, "invalid_request_error", "Your input exceeds context limit") },
    { name: "an expired certificate", fetch: failing("CERT_HAS_EXPIRED") },
    { name: "a certificate signed by itself", fetch: failing("DEPTH_ZERO_SELF_SIGNED_CERT") },
    { name: "a certificate of another host", fetch: failing("ERR_TLS_CERT_ALTNAME_INVALID") },
    { name: "a refused connection", fetch: failing("ECONNREFUSED") }
  ])("the SDK's own error and the layer's mean the same: $name", ({ fetch }) =>
    Effect.gen(function*() {
      const sdk = new Sdk({ apiKey: "test", maxRetries: 0, fetch, logLevel: "off" })
      const raw = yield* Effect.flip(Effect.tryPromise({
        try: () => sdk.messages.create({ model: "m", max_tokens: 1, messages: [{ role: "user", content: "Hello" }] }),
        catch: (error) => error
      }))
      const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hello" })).pipe(
        Effect.provide(Anthropic.layer({ model: "m", apiKey: "test", fetch }))
      )
      const verdict = yield* Fault.classify(error)
      assert.deepStrictEqual(verdict, yield* Fault.classify(raw))
      assert.isTrue(verdict._tag !== "Ambiguous" && verdict._tag !== "Throttled" && !("unknown" in verdict))
    }))

  it.effect("an answer that broke off is retryable where the step is idempotent", () =>
    Effect.gen(function*() {
      const error = yield* failure({ _tag: "StreamReset" }, "stream")
      assert.deepStrictEqual(yield* Fault.idempotent(Fault.classify(error)), Fault.transient)
    }))

  const wantsSeat = () => ({ content: [{ type: "tool_use" as const, name: "book", input: { seat: "12A" } }] })

  it.effect.each(
    [
      { _tag: "StreamClose", afterEvents: 5 },
      { _tag: "StreamReset", afterEvents: 5 },
      { _tag: "StreamError", afterEvents: 5 },
      { _tag: "StreamNoStopReason" },
      { _tag: "StreamToolJsonCut", stopReason: "tool_use" }
    ] satisfies ReadonlyArray<ProviderServer.Fault>
  )("no tool starts when the stream that asks for it ends in $_tag", (fault) => failure(fault, "stream", wantsSeat))

  it.effect("a tool starts once when the stream that asks for it is whole", () =>
    Effect.gen(function*() {
      const { booked, result } = yield* callOnce({ _tag: "SlowFirstByte", millis: 0 }, "stream", wantsSeat)
      yield* result
      assert.deepStrictEqual(booked, ["12A"])
    }))

  it.effect.each(["json", "stream"] as const)(
    "%s: a tool call cut by max_tokens is no call",
    (mode) =>
      Effect.gen(function*() {
        const { booked, result } = yield* callOnce({ _tag: "StreamToolJsonCut" }, mode, wantsSeat)
        const parts = yield* result
        assert.deepStrictEqual(booked, [])
        assert.isFalse(parts.some((part) => part.type === "tool-call"))
        const { stopReason, truncatedToolCall } = yield* Effect.fromOption(Anthropic.finishMetadata(parts))
        assert.deepStrictEqual([stopReason, truncatedToolCall?.name], ["max_tokens", "book"])
      })
  )

  it.effect.each(["json", "stream"] as const)(
    "%s: two calls with one id are Malformed, and no tool starts",
    (mode) =>
      Effect.gen(function*() {
        const seat = (letter: string) => ({
          type: "tool_use" as const,
          id: "same",
          name: "book",
          input: { seat: letter }
        })
        const error = yield* failure(
          { _tag: "SlowFirstByte", millis: 0 },
          mode,
          () => ({ content: [seat("A"), seat("B")] })
        )
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.malformed)
        assert.include(error.message, "two tool calls have the id same")
      })
  )

  it.effect("parameters of the wrong type are the toolkit's typed error, and no tool starts", () =>
    Effect.gen(function*() {
      const error = yield* failure({ _tag: "WrongSchema" }, "json", wantsSeat)
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.malformed)
    }))

  it.effect("a call of a tool that does not exist is Malformed", () =>
    Effect.gen(function*() {
      const error = yield* failure({ _tag: "SlowFirstByte", millis: 0 }, "stream", () => ({
        content: [{ type: "tool_use", name: "sell", input: {} }]
      }))
      assert.strictEqual(error.reason._tag, "ToolNotFoundError")
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.malformed)
    }))
})
