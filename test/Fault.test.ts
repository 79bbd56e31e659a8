import {
  AnthropicError,
  APIConnectionError,
  APIConnectionTimeoutError,
  APIError,
  APIUserAbortError,
  RetryableError
} from "@anthropic-ai/sdk"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Config, ConfigProvider, DateTime, Duration, Effect, Option, PlatformError, Schema } from "effect"
import { Fault } from "effect-resilience"
import { AiError, LanguageModel } from "effect/ai"
import { HttpClientError, HttpClientRequest, HttpClientResponse } from "effect/http"
import { CircuitBreaker, KeyValueStore, Persistence, RateLimiter, Redis } from "effect/persistence"
import { Socket } from "effect/socket"
import { SqlError } from "effect/sql"
import { TestClock } from "effect/testing"

const unique = <A>(value: A, at: number, all: ReadonlyArray<A>): boolean => all.indexOf(value) === at

type Row = readonly [name: string, error: unknown, verdict: Fault.Verdict]

const table = (rows: ReadonlyArray<Row>) =>
  it.effect.each(rows.map(([name, error, verdict]) => ({ name, error, verdict })))(
    "$name",
    ({ error, verdict }) =>
      Effect.gen(function*() {
        assert.deepStrictEqual(yield* Fault.classify(error), verdict)
      })
  )

const system = (code: string, more: object = {}) => Object.assign(new Error(code), { code, ...more })

const api = (
  status: number | undefined,
  error: { readonly type: string; readonly message?: string; readonly details?: object } | undefined,
  headers: Record<string, string> = {}
) =>
  APIError.generate(status, error === undefined ? undefined : { type: "error", error }, undefined, new Headers(headers))

// what the SDK throws for an `error` event inside a stream: no status
const inStream = (type: string, message = type) =>
  new APIError(undefined, { type: "error", error: { type, message } }, undefined, new Headers())

const ai = (reason: AiError.AiErrorReason) => AiError.make({ module: "test", method: "generateText", reason })
const http = (status: number, headers: Record<string, string> = {}) => ({ response: { status, headers } })
const network = (cause?: unknown, description?: string) =>
  new AiError.NetworkError({ reason: "TransportError", method: "POST", url: "https://x", cause, description })

const request = HttpClientRequest.post("https://example.com/v1/messages")
const response = (status: number, headers: Record<string, string> = {}) =>
  HttpClientResponse.fromWeb(request, new Response(null, { status, headers }))
const status = (code: number, headers: Record<string, string> = {}, description?: string) =>
  new HttpClientError.HttpClientError({
    reason: new HttpClientError.StatusCodeError({ request, response: response(code, headers), description })
  })
const transport = (cause?: unknown) =>
  new HttpClientError.HttpClientError({ reason: new HttpClientError.TransportError({ request, cause }) })

const sql = (reason: SqlError.SqlErrorReason) => new SqlError.SqlError({ reason })
const platform = (_tag: PlatformError.SystemErrorTag, cause?: unknown) =>
  PlatformError.systemError({ _tag, module: "FileSystem", method: "writeFile", cause })

const fetchFailed = (cause?: Error) => new TypeError("fetch failed", { cause })
const terminated = (cause?: Error) => new TypeError("terminated", { cause })

describe("Fault", () => {
  describe("an Anthropic SDK error by status", () => {
    table([
      ["400", api(400, { type: "invalid_request_error", message: "max_tokens: required" }), Fault.permanent],
      [
        "400 input and max_tokens exceed the limit",
        api(400, {
          type: "invalid_request_error",
          message: "input length and `max_tokens` exceed context limit: 199000 + 4096 > 200000"
        }),
        Fault.contextOverflow
      ],
      [
        "400 prompt is too long",
        api(400, { type: "invalid_request_error", message: "prompt is too long: 250000 tokens > 200000 maximum" }),
        Fault.contextOverflow
      ],
      ["401", api(401, { type: "authentication_error" }), Fault.permanent],
      ["402", api(402, { type: "billing_error" }), Fault.permanent],
      ["403", api(403, { type: "permission_error" }), Fault.permanent],
      ["404", api(404, { type: "not_found_error" }), Fault.permanent],
      ["408", api(408, undefined), Fault.transient],
      ["409", api(409, { type: "conflict_error" }), Fault.transient],
      ["412", api(412, undefined), Fault.permanent],
      ["413", api(413, { type: "request_too_large" }), Fault.contextOverflow],
      ["418", api(418, undefined), Fault.permanent],
      ["422", api(422, { type: "invalid_request_error" }), Fault.permanent],
      ["429", api(429, { type: "rate_limit_error" }), Fault.throttled()],
      [
        "429 with retry-after",
        api(429, { type: "rate_limit_error" }, { "retry-after": "7" }),
        Fault.throttled("7 seconds")
      ],
      [
        "429 that speaks of too many tokens is a rate, not an overflow",
        api(429, { type: "rate_limit_error", message: "too many tokens per minute" }),
        Fault.throttled()
      ],
      [
        "429 ramp_limit_exceeded",
        api(429, { type: "rate_limit_error", details: { error_code: "ramp_limit_exceeded" } }, { "retry-after": "1" }),
        Fault.throttled("1 second")
      ],
      [
        "429 contract_spend_limit_reached",
        api(429, { type: "rate_limit_error", details: { error_code: "contract_spend_limit_reached" } }, {
          "retry-after": "9"
        }),
        Fault.permanent
      ],
      [
        "429 enforced_spend_limit_reached",
        api(429, { type: "rate_limit_error", details: { error_code: "enforced_spend_limit_reached" } }),
        Fault.permanent
      ],
      ["431", api(431, undefined), Fault.permanent],
      ["499", api(499, undefined), Fault.permanent],
      ["500", api(500, { type: "api_error" }), Fault.transient],
      ["500 with an empty body", api(500, undefined), Fault.transient],
      ["500 overloaded_error", api(500, { type: "overloaded_error" }), Fault.overloaded()],
      ["501", api(501, undefined), Fault.permanent],
      ["502", api(502, { type: "api_error" }), Fault.transient],
      ["503", api(503, { type: "api_error" }), Fault.overloaded()],
      ["503 with retry-after", api(503, undefined, { "retry-after": "3" }), Fault.overloaded("3 seconds")],
      ["504", api(504, { type: "timeout_error" }), Fault.timedOut],
      ["520", api(520, undefined), Fault.transient],
      ["524", api(524, undefined), Fault.timedOut],
      ["529", api(529, { type: "overloaded_error" }), Fault.overloaded()],
      [
        "529 with retry-after",
        api(529, { type: "overloaded_error" }, { "retry-after": "2" }),
        Fault.overloaded("2 seconds")
      ]
    ])
  })

  describe("an Anthropic SDK error without a status", () => {
    table([
      ["in-stream overloaded_error", inStream("overloaded_error"), Fault.overloaded()],
      ["in-stream rate_limit_error", inStream("rate_limit_error"), Fault.throttled()],
      ["in-stream api_error", inStream("api_error"), Fault.transient],
      ["in-stream timeout_error", inStream("timeout_error"), Fault.timedOut],
      ["in-stream invalid_request_error", inStream("invalid_request_error"), Fault.permanent],
      ["in-stream prompt is too long", inStream("invalid_request_error", "prompt is too long"), Fault.contextOverflow],
      ["in-stream authentication_error", inStream("authentication_error"), Fault.permanent],
      ["in-stream billing_error", inStream("billing_error"), Fault.permanent],
      ["in-stream type that nobody knows", inStream("weather_error"), Fault.unknown],
      ["connection error without a cause", new APIConnectionError({ message: "Connection error." }), Fault.ambiguous],
      [
        "connection refused",
        new APIConnectionError({ cause: fetchFailed(system("ECONNREFUSED")) }),
        Fault.transient
      ],
      ["connection reset", new APIConnectionError({ cause: fetchFailed(system("ECONNRESET")) }), Fault.ambiguous],
      ["socket closed", new APIConnectionError({ cause: fetchFailed(system("UND_ERR_SOCKET")) }), Fault.ambiguous],
      ["host not found", new APIConnectionError({ cause: fetchFailed(system("ENOTFOUND")) }), Fault.transient],
      ["connection timeout", new APIConnectionTimeoutError(), Fault.timedOut],
      ["aborted by a signal", new APIUserAbortError(), Fault.ambiguous],
      ["RetryableError", new RetryableError(), Fault.transient],
      ["body cut", new AnthropicError("terminated", { cause: terminated() }), Fault.ambiguous],
      ["body cut, cause lost", new AnthropicError("terminated"), Fault.ambiguous],
      [
        "stream without its last event",
        new AnthropicError("stream ended without producing a Message with role=assistant"),
        Fault.malformed
      ],
      ["stream without events", new AnthropicError("request ended without sending any chunks"), Fault.malformed],
      [
        "tool parameters that are no JSON",
        new AnthropicError("Unable to parse tool parameter JSON", {
          cause: new SyntaxError("Unexpected token in JSON")
        }),
        Fault.malformed
      ],
      [
        "long-request guard",
        new AnthropicError("Streaming is required for operations that may take longer"),
        Fault.permanent
      ],
      ["any other AnthropicError", new AnthropicError("?"), Fault.unknown]
    ])
  })

  describe("the runtime's errors", () => {
    table([
      ["JSON SyntaxError", new SyntaxError("Unexpected token '<', \"<html>\" is not valid JSON"), Fault.malformed],
      ["SyntaxError of a program", new SyntaxError("Invalid regular expression"), Fault.unknown],
      ["terminated", terminated(), Fault.ambiguous],
      ["terminated by a reset", terminated(system("ECONNRESET")), Fault.ambiguous],
      ["terminated by undici's body timeout", terminated(system("UND_ERR_BODY_TIMEOUT")), Fault.ambiguous],
      ["no headers in time", fetchFailed(system("UND_ERR_HEADERS_TIMEOUT")), Fault.timedOut],
      ["no connection in time", fetchFailed(system("UND_ERR_CONNECT_TIMEOUT")), Fault.transient],
      ["fetch failed, cause lost", fetchFailed(), Fault.ambiguous],
      ["a bad certificate", fetchFailed(system("CERT_HAS_EXPIRED")), Fault.permanent],
      ["TypeError of a program", new TypeError("x is not a function"), Fault.unknown],
      ["DOMException AbortError", new DOMException("aborted", "AbortError"), Fault.ambiguous],
      ["DOMException TimeoutError", new DOMException("timeout", "TimeoutError"), Fault.timedOut],
      [
        "Effect.tryPromise around a known error",
        new Cause.UnknownError(fetchFailed(system("ECONNREFUSED"))),
        Fault.transient
      ],
      ["Effect.tryPromise around an unknown one", new Cause.UnknownError(new Error("?")), Fault.unknown]
    ])
  })

  describe("a system error by its code", () => {
    table([
      ...["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "EBUSY", "EMFILE"].map(
        (code): Row => [code, system(code), Fault.transient]
      ),
      ...["ECONNRESET", "EPIPE", "ETIMEDOUT", "ECONNABORTED", "EIO"].map(
        (code): Row => [code, system(code), Fault.ambiguous]
      ),
      ...["ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "ENOENT", "EEXIST", "EISDIR", "ERR_INVALID_ARG_TYPE"].map(
        (code): Row => [code, system(code), Fault.permanent]
      ),
      ["ETIMEDOUT while connecting", system("ETIMEDOUT", { syscall: "connect" }), Fault.transient],
      [
        "AggregateError of refused connections",
        Object.assign(new AggregateError([]), { code: "ECONNREFUSED" }),
        Fault.transient
      ],
      ["node:sqlite full", system("ERR_SQLITE_ERROR", { errcode: 13 }), Fault.permanent],
      ["node:sqlite busy (extended code)", system("ERR_SQLITE_ERROR", { errcode: 517 }), Fault.transient],
      ["SQLITE_BUSY_SNAPSHOT", system("SQLITE_BUSY_SNAPSHOT"), Fault.transient],
      ["SQLITE_IOERR_FSYNC", system("SQLITE_IOERR_FSYNC"), Fault.ambiguous],
      ["a code that nobody knows", system("EWHATEVER"), Fault.unknown]
    ])
  })

  describe("an AiError by its reason", () => {
    table([
      ["RateLimitError", ai(new AiError.RateLimitError({})), Fault.throttled()],
      [
        "RateLimitError with retryAfter",
        ai(new AiError.RateLimitError({ retryAfter: Duration.seconds(4) })),
        Fault.throttled("4 seconds")
      ],
      [
        "RateLimitError with the header",
        ai(new AiError.RateLimitError({ http: http(429, { "Retry-After": "5" }) })),
        Fault.throttled("5 seconds")
      ],
      ["QuotaExhaustedError", ai(new AiError.QuotaExhaustedError({})), Fault.permanent],
      ["AuthenticationError", ai(new AiError.AuthenticationError({ kind: "InvalidKey" })), Fault.permanent],
      ["ContentPolicyError", ai(new AiError.ContentPolicyError({ description: "no" })), Fault.refused],
      ["InvalidRequestError", ai(new AiError.InvalidRequestError({})), Fault.permanent],
      [
        "InvalidRequestError: prompt is too long",
        ai(new AiError.InvalidRequestError({ description: "prompt is too long: 2 > 1" })),
        Fault.contextOverflow
      ],
      [
        "InvalidRequestError: maximum context length",
        ai(new AiError.InvalidRequestError({ description: "This model's maximum context length is 8192 tokens" })),
        Fault.contextOverflow
      ],
      ["InvalidResponseError", ai(new AiError.InvalidResponseError({ description: "?" })), Fault.malformed],
      [
        "InternalProviderError",
        ai(new AiError.InternalProviderError({ description: "Server error" })),
        Fault.transient
      ],
      [
        "InternalProviderError 500",
        ai(new AiError.InternalProviderError({ description: "?", http: http(500) })),
        Fault.transient
      ],
      [
        "InternalProviderError 504",
        ai(new AiError.InternalProviderError({ description: "?", http: http(504) })),
        Fault.timedOut
      ],
      [
        "InternalProviderError 529",
        ai(new AiError.InternalProviderError({ description: "?", http: http(529, { "retry-after": "6" }) })),
        Fault.overloaded("6 seconds")
      ],
      [
        "InternalProviderError: Overloaded",
        ai(new AiError.InternalProviderError({ description: "Overloaded" })),
        Fault.overloaded()
      ],
      ["NetworkError", ai(network()), Fault.ambiguous],
      ["NetworkError refused", ai(network(transport(fetchFailed(system("ECONNREFUSED"))))), Fault.transient],
      [
        "NetworkError that only describes",
        ai(network(undefined, "connect ECONNREFUSED 127.0.0.1:443")),
        Fault.transient
      ],
      [
        "NetworkError EncodeError",
        ai(new AiError.NetworkError({ reason: "EncodeError", method: "POST", url: "x" })),
        Fault.permanent
      ],
      [
        "NetworkError InvalidUrlError",
        ai(new AiError.NetworkError({ reason: "InvalidUrlError", method: "POST", url: "x" })),
        Fault.permanent
      ],
      ["InvalidOutputError", ai(new AiError.InvalidOutputError({ description: "?" })), Fault.malformed],
      [
        "StructuredOutputError",
        ai(new AiError.StructuredOutputError({ description: "?", responseText: "" })),
        Fault.malformed
      ],
      ["UnsupportedSchemaError", ai(new AiError.UnsupportedSchemaError({ description: "?" })), Fault.permanent],
      ["UnknownError", ai(new AiError.UnknownError({})), Fault.unknown],
      ["UnknownError 408", ai(AiError.reasonFromHttpStatus({ status: 408, http: http(408) })), Fault.transient],
      ["UnknownError 402", ai(AiError.reasonFromHttpStatus({ status: 402, http: http(402) })), Fault.permanent],
      ["UnknownError 409", ai(AiError.reasonFromHttpStatus({ status: 409, http: http(409) })), Fault.transient],
      ["UnknownError 413", ai(AiError.reasonFromHttpStatus({ status: 413, http: http(413) })), Fault.contextOverflow],
      ["ToolNotFoundError", ai(new AiError.ToolNotFoundError({ toolName: "x", availableTools: [] })), Fault.malformed],
      [
        "ToolParameterValidationError",
        ai(new AiError.ToolParameterValidationError({ toolName: "x", description: "?" })),
        Fault.malformed
      ],
      [
        "InvalidToolResultError",
        ai(new AiError.InvalidToolResultError({ toolName: "x", description: "?" })),
        Fault.permanent
      ],
      [
        "ToolResultEncodingError",
        ai(new AiError.ToolResultEncodingError({ toolName: "x", toolResult: 1, description: "?" })),
        Fault.permanent
      ],
      [
        "ToolConfigurationError",
        ai(new AiError.ToolConfigurationError({ toolName: "x", description: "?" })),
        Fault.permanent
      ],
      ["ToolkitRequiredError", ai(new AiError.ToolkitRequiredError({ pendingApprovals: [] })), Fault.permanent],
      ["InvalidUserInputError", ai(new AiError.InvalidUserInputError({ description: "?" })), Fault.permanent],
      ["a reason alone", new AiError.QuotaExhaustedError({}), Fault.permanent],
      [
        "an explicit verdict in the metadata wins over the reason",
        ai(
          new AiError.InternalProviderError({
            description: "Overloaded",
            metadata: { "effect-resilience": { verdict: { _tag: "Throttled", retryAfter: 1500 } } }
          })
        ),
        Fault.throttled("1500 millis")
      ],
      [
        "metadata that is no verdict is ignored",
        ai(
          new AiError.InternalProviderError({
            description: "?",
            metadata: { "effect-resilience": { verdict: { _tag: "Sunny" } }, anthropic: null }
          })
        ),
        Fault.transient
      ]
    ])

    it.effect("keeps an explicit verdict through JSON", () =>
      Effect.gen(function*() {
        const codec = Schema.fromJsonString(Schema.toCodecJson(AiError.AiError))
        const error = ai(
          new AiError.UnknownError({
            metadata: { "effect-resilience": { verdict: { _tag: "Overloaded", retryAfter: 2000 } } }
          })
        )
        const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(error))
        assert.deepStrictEqual(yield* Fault.classify(back), Fault.overloaded("2 seconds"))
      }))
  })

  describe("an HttpClientError", () => {
    table([
      ["StatusCodeError 400", status(400), Fault.permanent],
      ["StatusCodeError 404", status(404), Fault.permanent],
      ["StatusCodeError 408", status(408), Fault.transient],
      ["StatusCodeError 409", status(409), Fault.transient],
      ["StatusCodeError 413", status(413), Fault.contextOverflow],
      ["StatusCodeError 429", status(429, { "retry-after": "30" }), Fault.throttled("30 seconds")],
      ["StatusCodeError 500", status(500), Fault.transient],
      ["StatusCodeError 503", status(503), Fault.overloaded()],
      ["StatusCodeError 529", status(529, { "retry-after-ms": "250" }), Fault.overloaded("250 millis")],
      ["StatusCodeError 304", status(304), Fault.permanent],
      ["TransportError", transport(), Fault.ambiguous],
      ["TransportError refused", transport(fetchFailed(system("ECONNREFUSED"))), Fault.transient],
      ["TransportError reset", transport(fetchFailed(system("ECONNRESET"))), Fault.ambiguous],
      [
        "DecodeError",
        new HttpClientError.HttpClientError({
          reason: new HttpClientError.DecodeError({ request, response: response(200) })
        }),
        Fault.malformed
      ],
      [
        "DecodeError of a body that was cut",
        new HttpClientError.HttpClientError({
          reason: new HttpClientError.DecodeError({
            request,
            response: response(200),
            cause: terminated(system("ECONNRESET"))
          })
        }),
        Fault.ambiguous
      ],
      [
        "DecodeError of a failed response",
        new HttpClientError.HttpClientError({
          reason: new HttpClientError.DecodeError({ request, response: response(500) })
        }),
        Fault.transient
      ],
      [
        "EmptyBodyError",
        new HttpClientError.HttpClientError({
          reason: new HttpClientError.EmptyBodyError({ request, response: response(200) })
        }),
        Fault.malformed
      ],
      [
        "EncodeError",
        new HttpClientError.HttpClientError({ reason: new HttpClientError.EncodeError({ request }) }),
        Fault.permanent
      ],
      [
        "InvalidUrlError",
        new HttpClientError.HttpClientError({ reason: new HttpClientError.InvalidUrlError({ request }) }),
        Fault.permanent
      ],
      ["its serialisable form", HttpClientError.HttpClientErrorSchema.fromHttpClientError(transport()), Fault.ambiguous]
    ])
  })

  describe("an SqlError by its reason", () => {
    table([
      ["ConnectionError", sql(new SqlError.ConnectionError({ cause: new Error("gone") })), Fault.ambiguous],
      [
        "ConnectionError while connecting",
        sql(new SqlError.ConnectionError({ cause: new Error("?"), operation: "connect" })),
        Fault.transient
      ],
      [
        "ConnectionError refused",
        sql(new SqlError.ConnectionError({ cause: system("ECONNREFUSED") })),
        Fault.transient
      ],
      ["AuthenticationError", sql(new SqlError.AuthenticationError({ cause: null })), Fault.permanent],
      ["AuthorizationError", sql(new SqlError.AuthorizationError({ cause: null })), Fault.permanent],
      ["SqlSyntaxError", sql(new SqlError.SqlSyntaxError({ cause: null })), Fault.permanent],
      ["UniqueViolation", sql(new SqlError.UniqueViolation({ cause: null, constraint: "k" })), Fault.permanent],
      ["ConstraintError", sql(new SqlError.ConstraintError({ cause: null })), Fault.permanent],
      ["DeadlockError", sql(new SqlError.DeadlockError({ cause: null })), Fault.transient],
      ["SerializationError", sql(new SqlError.SerializationError({ cause: null })), Fault.transient],
      ["LockTimeoutError", sql(new SqlError.LockTimeoutError({ cause: null })), Fault.transient],
      ["StatementTimeoutError", sql(new SqlError.StatementTimeoutError({ cause: null })), Fault.timedOut],
      ["UnknownError", sql(new SqlError.UnknownError({ cause: new Error("?") })), Fault.unknown],
      [
        "UnknownError of a full disk",
        sql(new SqlError.UnknownError({ cause: system("ERR_SQLITE_ERROR", { errcode: 13 }) })),
        Fault.permanent
      ],
      [
        "UnknownError of a full PostgreSQL disk",
        sql(new SqlError.UnknownError({ cause: system("53100") })),
        Fault.permanent
      ],
      ["SQLite's own classification", sql(SqlError.classifySqliteError(system("SQLITE_FULL"))), Fault.permanent],
      ["a reason alone", new SqlError.DeadlockError({ cause: null }), Fault.transient]
    ])
  })

  describe("a PlatformError", () => {
    table([
      ...([
        "AlreadyExists",
        "BadResource",
        "InvalidData",
        "NotFound",
        "PermissionDenied",
        "UnexpectedEof",
        "WriteZero"
      ] as const)
        .map((tag): Row => [tag, platform(tag), Fault.permanent]),
      ["Busy", platform("Busy"), Fault.transient],
      ["WouldBlock", platform("WouldBlock"), Fault.transient],
      ["TimedOut", platform("TimedOut"), Fault.timedOut],
      ["Unknown", platform("Unknown"), Fault.unknown],
      ["disk full", platform("Unknown", system("ENOSPC")), Fault.permanent],
      ["permission denied", platform("PermissionDenied", system("EACCES")), Fault.permanent],
      ["BadArgument", PlatformError.badArgument({ module: "Path", method: "join" }), Fault.permanent]
    ])
  })

  describe("Effect's other errors", () => {
    const store = (cause: unknown) => new Persistence.PersistenceError({ message: "store", cause })
    table([
      ["TimeoutError", new Cause.TimeoutError(), Fault.timedOut],
      ["NoSuchElementError", new Cause.NoSuchElementError(), Fault.permanent],
      ["IllegalArgumentError", new Cause.IllegalArgumentError(), Fault.permanent],
      [
        "RateLimiterError",
        new RateLimiter.RateLimiterError({
          reason: new RateLimiter.RateLimitExceeded({
            key: "k",
            limit: 1,
            remaining: 0,
            retryAfter: Duration.seconds(3)
          })
        }),
        Fault.rejected("3 seconds")
      ],
      [
        "RateLimiterError of its store",
        new RateLimiter.RateLimiterError({ reason: new RateLimiter.RateLimitStoreError({ message: "?" }) }),
        Fault.transient
      ],
      [
        "CircuitBreakerError open",
        new CircuitBreaker.CircuitBreakerError({
          reason: new CircuitBreaker.CircuitOpen({ key: "k", retryAfter: Duration.minutes(1) })
        }),
        Fault.rejected("1 minute")
      ],
      [
        "CircuitBreakerError half-open",
        new CircuitBreaker.CircuitBreakerError({ reason: new CircuitBreaker.CircuitHalfOpen({ key: "k" }) }),
        Fault.rejected()
      ],
      [
        "CircuitBreakerError of its store",
        new CircuitBreaker.CircuitBreakerError({
          reason: new CircuitBreaker.CircuitBreakerStoreError({ message: "?" })
        }),
        Fault.transient
      ],
      ["PersistenceError refused", store(system("ECONNREFUSED")), Fault.transient],
      ["PersistenceError of a full disk", store(platform("Unknown", system("ENOSPC"))), Fault.permanent],
      ["PersistenceError without a cause", store(undefined), Fault.unknown],
      [
        "KeyValueStoreError",
        new KeyValueStore.KeyValueStoreError({ message: "?", method: "get", cause: system("EACCES") }),
        Fault.permanent
      ],
      ["RedisError", new Redis.RedisError({ cause: system("ECONNRESET") }), Fault.ambiguous],
      [
        "SocketError while opening",
        new Socket.SocketError({ reason: new Socket.SocketOpenError({ kind: "Timeout", cause: new Error("?") }) }),
        Fault.transient
      ],
      [
        "SocketError afterwards",
        new Socket.SocketError({ reason: new Socket.SocketCloseError({ code: 1006 }) }),
        Fault.ambiguous
      ]
    ])

    it.effect("a SchemaError is Malformed", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Schema.decodeUnknownEffect(Schema.Finite)("?"))
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.malformed)
      }))

    it.effect("a ConfigError is Permanent", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Config.String("KEY").parse(ConfigProvider.fromUnknown({})))
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.permanent)
      }))

    it.effect("Effect.timeout and Effect.tryPromise give errors it knows", () =>
      Effect.gen(function*() {
        const timeout = yield* Effect.flip(Effect.timeout(Effect.never, 0))
        assert.deepStrictEqual(yield* Fault.classify(timeout), Fault.timedOut)
        const refused = yield* Effect.flip(Effect.tryPromise(() => Promise.reject(fetchFailed(system("ECONNREFUSED")))))
        assert.deepStrictEqual(yield* Fault.classify(refused), Fault.transient)
      }))
  })

  describe("OpenAI-style and Letta errors, by their shape", () => {
    class OpenAIError extends Error {}
    class APIConnectionTimeoutError extends OpenAIError {}
    const openai = (status: number | undefined, body: Record<string, unknown>, headers: Record<string, string> = {}) =>
      Object.assign(new OpenAIError(`${status} ${String(body["message"])}`), {
        status,
        headers: new Headers(headers),
        error: body,
        code: body["code"],
        type: body["type"]
      })
    const letta = (status: number | undefined, body: object) =>
      Object.assign(new Error(`${status} ${JSON.stringify(body)}`), { status, headers: new Headers(), error: body })
    table([
      [
        "429 insufficient_quota",
        openai(429, { code: "insufficient_quota", type: "insufficient_quota" }),
        Fault.permanent
      ],
      [
        "429 rate_limit_exceeded",
        openai(429, { code: "rate_limit_exceeded", type: "requests" }, { "retry-after-ms": "20" }),
        Fault.throttled("20 millis")
      ],
      [
        "400 context_length_exceeded",
        openai(400, { code: "context_length_exceeded", type: "invalid_request_error" }),
        Fault.contextOverflow
      ],
      ["400 content_filter", openai(400, { code: "content_filter" }), Fault.refused],
      ["401 invalid_api_key", openai(401, { code: "invalid_api_key" }), Fault.permanent],
      ["500 server_error", openai(500, { type: "server_error" }), Fault.transient],
      ["503 slow_down", openai(503, { code: "slow_down" }), Fault.overloaded()],
      ["in-stream server_error", openai(undefined, { type: "server_error" }), Fault.transient],
      ["a timeout told by its class alone", new APIConnectionTimeoutError("Request timed out."), Fault.timedOut],
      ["missing finish_reason", new OpenAIError("missing finish_reason for choice 0"), Fault.malformed],
      ["axios", {
        response: { status: 429, headers: { "Retry-After": "2" }, data: { error: { code: "insufficient_quota" } } }
      }, Fault.permanent],
      [
        "Letta 409 busy",
        letta(409, { detail: "Conversation is currently being processed", run_id: "run-1" }),
        Fault.transient
      ],
      [
        "Letta 409 waiting for approval",
        letta(409, { detail: "The agent is waiting for approval on a tool call" }),
        Fault.permanent
      ],
      [
        "Letta 400 ContextWindowExceeded",
        letta(400, { detail: "ContextWindowExceeded: 1 > 0" }),
        Fault.contextOverflow
      ],
      ["Letta 400", letta(400, { detail: "bad argument" }), Fault.permanent],
      ["Letta 410", letta(410, { detail: "expired" }), Fault.permanent],
      ["Letta 408", letta(408, { detail: "MCP timeout" }), Fault.transient],
      ["Letta 504 llm_timeout", letta(504, { error: { type: "llm_timeout", message: "" } }), Fault.timedOut],
      ["Letta 429 llm_rate_limit", letta(429, { error: { type: "llm_rate_limit" } }), Fault.throttled()],
      [
        "Letta 402 llm_insufficient_credits",
        letta(402, { error: { type: "llm_insufficient_credits" } }),
        Fault.permanent
      ],
      ["Letta 502 mcp_connection_error", letta(502, { error: { type: "mcp_connection_error" } }), Fault.transient],
      ["Letta 500 llm_error", letta(500, { error: { type: "llm_error" } }), Fault.transient],
      ...([
        ["llm_timeout", Fault.timedOut],
        ["llm_rate_limit", Fault.throttled()],
        ["llm_authentication", Fault.permanent],
        ["llm_empty_response", Fault.malformed],
        ["llm_error", Fault.transient],
        ["stream_incomplete", Fault.ambiguous],
        ["internal_error", Fault.transient],
        ["llm_insufficient_credits", Fault.permanent],
        ["context_window_overflow_in_system_prompt", Fault.contextOverflow]
      ] as const).map(([type, verdict]): Row => [
        `Letta error_message ${type}`,
        { message_type: "error_message", run_id: "run-1", error_type: type, message: "" },
        verdict
      ]),
      ...([
        ["error", Fault.ambiguous],
        ["llm_api_error", Fault.transient],
        ["invalid_llm_response", Fault.malformed],
        ["invalid_tool_call", Fault.malformed],
        ["no_tool_call", Fault.malformed],
        ["max_steps", Fault.permanent],
        ["max_tokens_exceeded", Fault.malformed],
        ["cancelled", Fault.permanent],
        ["insufficient_credits", Fault.permanent],
        ["requires_approval", Fault.permanent],
        ["context_window_overflow_in_system_prompt", Fault.contextOverflow]
      ] as const).map(([reason, verdict]): Row => [
        `Letta stop_reason ${reason}`,
        { messages: [], stop_reason: { message_type: "stop_reason", stop_reason: reason } },
        verdict
      ]),
      [
        "a model's stop_reason model_context_window_exceeded",
        { stop_reason: "model_context_window_exceeded" },
        Fault.contextOverflow
      ],
      ["a model's stop_reason refusal", { stop_reason: "refusal" }, Fault.refused]
    ])
  })

  describe("what is unknown", () => {
    class Broken {
      get name(): string {
        throw new Error("getter")
      }
    }
    class Undecided {
      get [Fault.verdictOf](): Fault.Verdict {
        throw new Error("getter")
      }
    }
    const revoked = Proxy.revocable({}, {})
    revoked.revoke()
    const circular = new Cause.UnknownError(undefined)
    Object.defineProperty(circular, "cause", { value: circular })
    table([
      ["an Error", new Error("?"), Fault.unknown],
      ["a text", "?", Fault.unknown],
      ["undefined", undefined, Fault.unknown],
      ["null", null, Fault.unknown],
      ["an empty object", {}, Fault.unknown],
      ["an object without a prototype", Object.assign(Object.create(null), { name: "Error" }), Fault.unknown],
      ["an object whose getter throws", new Broken(), Fault.unknown],
      ["an object whose verdict throws", new Undecided(), Fault.unknown],
      ["an object that was revoked", revoked.proxy, Fault.unknown],
      ["a circular chain of causes", circular, Fault.unknown],
      ["a status that is no HTTP status", { status: "open" }, Fault.unknown]
    ])

    it("is never retried, and counts against a circuit", () => {
      assert.isFalse(Fault.isRetryable(Fault.unknown))
      assert.isTrue(Fault.countsAsFailure(Fault.unknown))
      assert.isFalse(Fault.countsAsFailure(Fault.permanent))
    })

    it.effect.prop("classify answers for any JSON value", [Schema.Json], ([value]) =>
      Effect.gen(function*() {
        assert.isTrue(Schema.is(Fault.Verdict)(yield* Fault.classify(value)))
      }))
  })

  describe("Retry-After", () => {
    const after = (headers: Record<string, string>) =>
      Effect.map(Fault.classify(status(429, headers)), (verdict) => {
        const delay = Fault.retryAfter(verdict)
        return delay === undefined ? undefined : Duration.toMillis(delay)
      })

    it.effect("is read in seconds, in fractions and in milliseconds, which win", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* after({ "retry-after": "7" }), 7000)
        assert.strictEqual(yield* after({ "retry-after": "0" }), 0)
        assert.strictEqual(yield* after({ "retry-after": "0.2" }), 200)
        assert.strictEqual(yield* after({ "retry-after": "7", "retry-after-ms": "1500.5" }), 1500.5)
        assert.strictEqual(yield* after({ "retry-after": "7", "retry-after-ms": "soon" }), 7000)
      }))

    it.effect("is read as an HTTP date against the clock at hand", () =>
      Effect.gen(function*() {
        yield* TestClock.setTime(DateTime.toEpochMillis(DateTime.makeUnsafe("2026-11-22T10:00:00Z")))
        assert.strictEqual(yield* after({ "retry-after": "Sun, 22 Nov 2026 10:00:30 GMT" }), 30_000)
        yield* TestClock.adjust("20 seconds")
        assert.strictEqual(yield* after({ "retry-after": "Sun, 22 Nov 2026 10:00:30 GMT" }), 10_000)
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(yield* after({ "retry-after": "Sun, 22 Nov 2026 10:00:30 GMT" }), 0)
      }))

    it.effect.each(["-5", "abc", "", "1e3", "Infinity", "NaN", "9".repeat(400), "Sun, 99 Nov 2026 10:00:30 GMT"])(
      "ignores %s",
      (value) =>
        Effect.gen(function*() {
          assert.isUndefined(yield* after({ "retry-after": value }))
          assert.isUndefined(yield* after({ "retry-after-ms": value }))
        })
    )
  })

  describe("precedence", () => {
    class Carrying extends Schema.TaggedError<Carrying>()("Carrying", {}) {
      readonly [Fault.verdictOf] = Fault.overloaded("3 seconds")
      readonly status = 400
    }

    it.effect("a carried verdict wins over the classifier, the classifier over the built-in rules", () =>
      Effect.gen(function*() {
        const says = Fault.withClassifier(() => Fault.refused)
        assert.deepStrictEqual(yield* says(Fault.classify(new Carrying())), Fault.overloaded("3 seconds"))
        assert.deepStrictEqual(yield* says(Fault.classify(status(400))), Fault.refused)
        assert.deepStrictEqual(yield* Fault.classify(status(400)), Fault.permanent)
      }))

    it.effect("what is carried and is no verdict is not believed", () =>
      Effect.gen(function*() {
        const error = { [Fault.verdictOf]: { _tag: "Sunny" }, status: 408 }
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.transient)
      }))

    it.effect.each([undefined, Duration.infinity, "soon"])(
      "a carried delay of %s is dropped, and the verdict kept",
      (retryAfter) =>
        Effect.gen(function*() {
          const error = { [Fault.verdictOf]: { _tag: "Throttled", retryAfter } }
          assert.deepStrictEqual(yield* Fault.classify(error), Fault.throttled())
        })
    )

    it.effect("a verdict carried by a cause is found", () =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Effect.tryPromise(() => Promise.reject(new Carrying())))
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.overloaded("3 seconds"))
      }))

    it.effect("withClassifier extends locally: the inner rules first, then the outer ones, then the built-in ones", () =>
      Effect.gen(function*() {
        const inner = Fault.withClassifier((error: unknown) => error === "inner" ? Fault.transient : undefined)
        const outer = Fault.withClassifier((error: unknown) =>
          error === "inner" || error === "outer" ? Fault.timedOut : undefined
        )
        const seen = yield* outer(inner(Effect.forEach(["inner", "outer", "none"], Fault.classify)))
        assert.deepStrictEqual(seen, [Fault.transient, Fault.timedOut, Fault.unknown])
        assert.deepStrictEqual(yield* Fault.classify("inner"), Fault.unknown)
        const data = Fault.withClassifier(Fault.classify("x"), () => Fault.refused)
        assert.deepStrictEqual(yield* data, Fault.refused)
      }))

    it.effect("Ambiguous becomes Transient under Idempotent, whoever gave it, and nothing else changes", () =>
      Effect.gen(function*() {
        const classify = Effect.fnUntraced(function*(verdict: Fault.Verdict) {
          return yield* Fault.classify({ [Fault.verdictOf]: verdict })
        })
        assert.deepStrictEqual(yield* classify(Fault.ambiguous), Fault.ambiguous)
        assert.deepStrictEqual(yield* Fault.idempotent(classify(Fault.ambiguous)), Fault.transient)
        assert.deepStrictEqual(yield* Fault.idempotent(classify(Fault.timedOut)), Fault.timedOut)
        assert.deepStrictEqual(yield* Fault.idempotent(Fault.classify(transport())), Fault.transient)
        const byUser = Fault.withClassifier(Fault.classify("x"), () => Fault.ambiguous)
        assert.deepStrictEqual(yield* Fault.idempotent(byUser), Fault.transient)
        const withdrawn = Effect.provideService(Fault.classify(transport()), Fault.Idempotent, false)
        assert.deepStrictEqual(yield* Fault.idempotent(withdrawn), Fault.ambiguous)
      }))

    it.effect("classifyIn reads a context at hand", () =>
      Effect.gen(function*() {
        const context = yield* Effect.context<never>()
        assert.deepStrictEqual(Fault.classifyIn(context, status(503)), Fault.overloaded())
      }))
  })

  describe("a verdict", () => {
    it.effect.prop("survives JSON", [Fault.Verdict], ([verdict]) =>
      Effect.gen(function*() {
        const codec = Schema.fromJsonString(Fault.Verdict)
        const millis = Option.fromUndefinedOr(Fault.retryAfter(verdict)).pipe(Option.map(Duration.toMillis))
        const back = yield* Schema.decodeEffect(codec)(yield* Schema.encodeEffect(codec)(verdict))
        assert.strictEqual(back._tag, verdict._tag)
        assert.deepStrictEqual(
          Option.fromUndefinedOr(Fault.retryAfter(back)).pipe(Option.map(Duration.toMillis)),
          millis
        )
        assert.strictEqual(Fault.countsAsFailure(back), Fault.countsAsFailure(verdict))
      }))

    it("says whether it is retried, whether it counts, and whether the call may have happened", () => {
      const rows: ReadonlyArray<readonly [Fault.Verdict, retryable: boolean, counts: boolean, happened: boolean]> = [
        [Fault.transient, true, true, false],
        [Fault.throttled(), true, false, false],
        [Fault.overloaded(), true, true, false],
        [Fault.timedOut, true, true, true],
        [Fault.malformed, true, true, true],
        [Fault.contextOverflow, false, false, false],
        [Fault.refused, false, false, false],
        [Fault.permanent, false, false, false],
        [Fault.unknown, false, true, false],
        [Fault.ambiguous, false, true, true],
        [Fault.rejected(), false, false, false]
      ]
      for (const [verdict, retryable, counts, happened] of rows) {
        assert.strictEqual(Fault.isRetryable(verdict), retryable, verdict._tag)
        assert.strictEqual(Fault.countsAsFailure(verdict), counts, verdict._tag)
        assert.strictEqual(Fault.mayHaveHappened(verdict), happened, verdict._tag)
      }
      assert.sameMembers([...Fault.VerdictTag.literals], rows.map(([{ _tag }]) => _tag).filter(unique))
    })

    it("a negative delay means now, an infinite one says nothing", () => {
      assert.deepStrictEqual(Fault.overloaded(-5), Fault.overloaded(0))
      assert.deepStrictEqual(Fault.rejected(Duration.infinity), Fault.rejected())
    })

    it("a delay that is no duration is refused when it is built", () => {
      const notADuration: unknown = "soon"
      assert.throws(
        () => Fault.throttled(notADuration as Duration.Input),
        "Fault: option \"retryAfter\" is \"soon\", expected a duration"
      )
    })
  })

  it.effect("the error of a failed model call is classified through LanguageModel", () =>
    Effect.gen(function*() {
      const model = yield* LanguageModel.make({
        generateText: () => Effect.fail(ai(new AiError.RateLimitError({ retryAfter: Duration.seconds(2) }))),
        streamText: () => {
          throw new Error("not asked")
        }
      })
      const error = yield* Effect.flip(model.generateText({ prompt: "?" }))
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.throttled("2 seconds"))
    }))
})
