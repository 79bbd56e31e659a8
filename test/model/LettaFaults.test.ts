import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Schema, Stream } from "effect"
import { Fault } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import * as LettaServer from "effect-resilience/testing/LettaServer"

type Mode = "send" | "stream" | "read"

const calls = (letta: Letta.Letta["Service"], mode: Mode): Effect.Effect<unknown, Letta.LettaError> => {
  switch (mode) {
    case "send":
      return letta.sendMessage("agent-1", "Hello, I am Ada")
    case "stream":
      return Stream.runCollect(letta.streamMessage("agent-1", "Hello, I am Ada"))
    case "read":
      return letta.memoryBlocks("agent-1")
  }
}

const turn: LettaServer.AnswerContent = {
  deeds: [
    { type: "reasoning", text: "They say their name." },
    { type: "tool", name: "core_memory_append", arguments: "{\"name\":\"Ada\"}", result: "done" },
    { type: "assistant", text: "Hello, Ada" }
  ]
}

/** One call with the real client against a server that has one fault ready. */
const failure = Effect.fnUntraced(function*(fault: LettaServer.Fault, mode: Mode) {
  const server = yield* LettaServer.make({ answer: () => turn })
  yield* server.inject(fault)
  const letta = yield* Letta.make({ baseURL: server.url })
  const error = yield* Effect.flip(calls(letta, mode))
  assert.isTrue(Schema.is(Letta.LettaError)(error), String(error))
  assert.lengthOf(yield* server.requests, 1, "the client sent the request again")
  const { turns } = yield* server.agent("agent-1")
  return { error, taken: turns.length }
})

const Json = Schema.fromJsonString(Schema.toCodecJson(Letta.LettaError))

const roundTrip = (error: Letta.LettaError) =>
  Effect.flatMap(Schema.encodeEffect(Json)(error), Schema.decodeUnknownEffect(Json))

type Expected = readonly [reason: Letta.LettaErrorReason["_tag"], verdict: Fault.Verdict]

interface Case {
  readonly name: string
  readonly fault: LettaServer.Fault
  readonly send: Expected
  readonly stream: Expected
  readonly read: Expected
}

const every = (name: string, fault: LettaServer.Fault, ...expected: Expected): Case => ({
  name,
  fault,
  send: expected,
  stream: expected,
  read: expected
})

/** Ambiguous where a turn was asked for, and another verdict where something was read. */
const unsure = (
  name: string,
  fault: LettaServer.Fault,
  reason: Letta.LettaErrorReason["_tag"],
  read: Fault.Verdict
): Case => ({
  name,
  fault,
  send: [reason, Fault.ambiguous],
  stream: [reason, Fault.ambiguous],
  read: [reason, read]
})

const status = (status: number, message: string, type?: string): LettaServer.Fault => ({
  _tag: "StatusError",
  status,
  message,
  ...(type === undefined ? {} : { type })
})

const cases: ReadonlyArray<Case> = [
  every("429 with retry-after", { _tag: "RateLimited", retryAfter: 7 }, "StatusError", Fault.throttled("7 seconds")),
  every("429 without", { _tag: "RateLimited" }, "StatusError", Fault.throttled()),
  every("429, retry-after: -5", { _tag: "RateLimited", retryAfter: -5 }, "StatusError", Fault.throttled()),
  every("429, retry-after: abc", { _tag: "RateLimited", retryAfter: "abc" }, "StatusError", Fault.throttled()),
  every("429, retry-after: 0", { _tag: "RateLimited", retryAfter: 0 }, "StatusError", Fault.throttled("0 millis")),
  every(
    "429, retry-after of 90 s",
    { _tag: "RateLimited", retryAfter: 90 },
    "StatusError",
    Fault.throttled("90 seconds")
  ),
  every(
    "503 with an HTTP date",
    { _tag: "Unavailable", retryAfter: "Thu, 01 Jan 1970 00:00:20 GMT" },
    "StatusError",
    Fault.overloaded("20 seconds")
  ),
  unsure(
    "429 llm_rate_limit, in the middle of a turn",
    status(429, "The model is rate limited", "llm_rate_limit"),
    "StatusError",
    Fault.throttled()
  ),
  unsure("504 llm_timeout", status(504, "Timeout", "llm_timeout"), "StatusError", Fault.timedOut),
  unsure("502 mcp_connection_error", status(502, "MCP", "mcp_connection_error"), "StatusError", Fault.transient),
  unsure("500 llm_error", status(500, "LLM", "llm_error"), "StatusError", Fault.transient),
  every("402 llm_insufficient_credits", status(402, "Pay", "llm_insufficient_credits"), "StatusError", Fault.permanent),
  every("401 llm_authentication", status(401, "Key", "llm_authentication"), "StatusError", Fault.permanent),
  every("400 llm_bad_request", status(400, "Bad", "llm_bad_request"), "StatusError", Fault.permanent),
  every("400 ContextWindowExceeded", status(400, "ContextWindowExceeded: 9 > 8"), "StatusError", Fault.contextOverflow),
  every("400", status(400, "Invalid argument"), "StatusError", Fault.permanent),
  every("401", status(401, "Unauthorized"), "StatusError", Fault.permanent),
  every("403", status(403, "Forbidden"), "StatusError", Fault.permanent),
  every("404", status(404, "Agent not found"), "NotFound", Fault.permanent),
  unsure("408", status(408, "MCP server timed out"), "StatusError", Fault.transient),
  every("409 of a busy agent", { _tag: "AgentBusy", runId: "run-7" }, "AgentBusy", Fault.transient),
  every("409 of an approval that is asked for", { _tag: "ApprovalPending" }, "ApprovalPending", Fault.permanent),
  every("409 of a database lock", status(409, "could not obtain lock"), "StatusError", Fault.transient),
  every("410", status(410, "expired"), "StatusError", Fault.permanent),
  every("415", status(415, "type"), "StatusError", Fault.permanent),
  every("422", status(422, "unprocessable"), "StatusError", Fault.permanent),
  every("499", status(499, "client closed request"), "StatusError", Fault.permanent),
  unsure("500", { _tag: "ServerError" }, "StatusError", Fault.transient),
  unsure("502 of a proxy", { _tag: "ServerError", status: 502, html: true }, "StatusError", Fault.transient),
  unsure("520", { _tag: "ServerError", status: 520 }, "StatusError", Fault.transient),
  every("521, which no server saw", status(521, "Web server is down"), "StatusError", Fault.transient),
  every("529", status(529, "Overloaded"), "StatusError", Fault.overloaded()),
  unsure("524", { _tag: "ServerError", status: 524 }, "StatusError", Fault.timedOut),
  unsure("a reset before the headers", { _tag: "ResetBeforeHeaders" }, "ConnectionFailed", Fault.transient),
  unsure("a reset in the body", { _tag: "ResetMidBody" }, "CutShort", Fault.transient),
  unsure("a connection closed in the body", { _tag: "CloseMidBody" }, "CutShort", Fault.transient),
  {
    name: "JSON that is cut",
    fault: { _tag: "TruncatedJson" },
    send: ["MalformedAnswer", Fault.ambiguous],
    stream: ["CutShort", Fault.ambiguous],
    read: ["MalformedAnswer", Fault.malformed]
  },
  unsure("what is no JSON", { _tag: "MalformedJson" }, "MalformedAnswer", Fault.malformed),
  ...(["html", "empty", "noContent", "emptyObject"] as const).map((variant) =>
    unsure(`HTTP 200 with ${variant}`, { _tag: "NotAnAnswer", variant }, "MalformedAnswer", Fault.malformed)
  ),
  {
    name: "a stream that ends early",
    fault: { _tag: "StreamClose", afterEvents: 2 },
    send: ["MalformedAnswer", Fault.ambiguous],
    stream: ["CutShort", Fault.ambiguous],
    read: ["MalformedAnswer", Fault.malformed]
  },
  unsure("a stream that is reset", { _tag: "StreamReset", afterEvents: 2 }, "CutShort", Fault.transient),
  unsure("an empty stream", { _tag: "StreamEmpty" }, "MalformedAnswer", Fault.malformed),
  unsure("an event that is no JSON", { _tag: "StreamBadJson" }, "MalformedAnswer", Fault.malformed),
  unsure("the other format than asked for", { _tag: "StreamAsJson" }, "MalformedAnswer", Fault.malformed),
  unsure("events with names", { _tag: "StreamWithEventNames" }, "MalformedAnswer", Fault.malformed),
  {
    name: "no stop reason",
    fault: { _tag: "StreamNoStopReason" },
    send: ["MalformedAnswer", Fault.ambiguous],
    stream: ["CutShort", Fault.ambiguous],
    read: ["StatusError", Fault.transient]
  }
]

describe("Letta: faults of the server", () => {
  for (const mode of ["send", "stream", "read"] as const) {
    it.effect.each(cases)(
      `${mode}: $name is a typed error with its verdict, and one request`,
      (one) =>
        Effect.gen(function*() {
          const [reason, verdict] = one[mode]
          const { error, taken } = yield* failure(one.fault, mode)
          assert.deepStrictEqual([error.reason._tag, yield* Fault.classify(error)], [reason, verdict], error.message)
          assert.deepStrictEqual(yield* Fault.classify(yield* roundTrip(error)), verdict)
          assert.strictEqual(error.agentId, "agent-1")
          // What matters most: a verdict that lets a policy send the message again means that it was not taken in.
          if (taken > 0) assert.isFalse(Fault.isRetryable(verdict), "the message would be sent twice")
        })
    )
  }

  it.effect.each(["send", "stream"] as const)(
    "%s: a whole answer as plain text is none",
    (mode) =>
      Effect.gen(function*() {
        const { error } = yield* failure({ _tag: "NotAnAnswer", variant: "text" }, mode)
        assert.deepStrictEqual([error.reason._tag, error.verdict], ["MalformedAnswer", Fault.ambiguous])
      })
  )

  it.effect("keeps the request id, the status, the type and the text", () =>
    Effect.gen(function*() {
      const { error } = yield* failure(status(402, "No credits left", "llm_insufficient_credits"), "send")
      assert.deepStrictEqual({ ...error.reason }, {
        _tag: "StatusError",
        status: 402,
        type: "llm_insufficient_credits",
        message: "No credits left"
      })
      assert.match(error.requestId ?? "", /^req_/)
      assert.match(error.message, /sendMessage \(agent-1\): HTTP 402 .*No credits left.*req_.*fail in the same way/)
    }))

  it.effect("a delay that Letta asks for is kept", () =>
    Effect.gen(function*() {
      const { error } = yield* failure({ _tag: "RateLimited", retryAfter: 3 }, "stream")
      assert.deepStrictEqual(Fault.retryAfter(error[Fault.verdictOf]), Duration.seconds(3))
    }))

  it.effect("what may have been done is retryable where the program says that it may be done twice", () =>
    Effect.gen(function*() {
      const { error } = yield* failure({ _tag: "ResetMidBody" }, "send")
      assert.deepStrictEqual(yield* Fault.idempotent(Fault.classify(error)), Fault.transient)
    }))
})

const stopReasons: ReadonlyArray<readonly [stopReason: string, untouched: Fault.Verdict, acted: Fault.Verdict]> = [
  ["error", Fault.ambiguous, Fault.ambiguous],
  ["llm_api_error", Fault.transient, Fault.ambiguous],
  ["invalid_llm_response", Fault.malformed, Fault.ambiguous],
  ["invalid_tool_call", Fault.malformed, Fault.ambiguous],
  ["no_tool_call", Fault.malformed, Fault.ambiguous],
  ["max_tokens_exceeded", Fault.malformed, Fault.ambiguous],
  ["cancelled", Fault.permanent, Fault.permanent],
  ["insufficient_credits", Fault.permanent, Fault.permanent],
  ["context_window_overflow_in_system_prompt", Fault.contextOverflow, Fault.contextOverflow],
  ["a_reason_of_the_future", Fault.transient, Fault.ambiguous]
]

const errorTypes: ReadonlyArray<readonly [type: string, untouched: Fault.Verdict, acted: Fault.Verdict]> = [
  ["llm_timeout", Fault.timedOut, Fault.ambiguous],
  ["llm_rate_limit", Fault.throttled(), Fault.ambiguous],
  ["llm_authentication", Fault.permanent, Fault.permanent],
  ["llm_bad_request", Fault.permanent, Fault.permanent],
  ["llm_insufficient_credits", Fault.permanent, Fault.permanent],
  ["llm_permission_denied", Fault.permanent, Fault.permanent],
  ["llm_not_found", Fault.permanent, Fault.permanent],
  ["llm_unprocessable_entity", Fault.permanent, Fault.permanent],
  ["llm_empty_response", Fault.malformed, Fault.ambiguous],
  ["llm_error", Fault.transient, Fault.ambiguous],
  ["stream_incomplete", Fault.ambiguous, Fault.ambiguous],
  ["internal_error", Fault.transient, Fault.ambiguous],
  ["context_window_overflow_in_system_prompt", Fault.contextOverflow, Fault.contextOverflow]
]

const runFailure = Effect.fnUntraced(function*(fault: LettaServer.Fault, mode: Mode) {
  const { error, taken } = yield* failure(fault, mode)
  if (error.reason._tag !== "RunFailed") return yield* Effect.die(error)
  if (taken > 0) assert.isFalse(Fault.isRetryable(error.verdict), "the message would be sent twice")
  return { ...error.reason, verdict: error.verdict }
})

describe("Letta: a turn that failed under HTTP 200", () => {
  it.effect.each(stopReasons)(
    "JSON with the stop reason %s",
    ([stopReason, untouched, acted]) =>
      Effect.gen(function*() {
        const nothing = yield* runFailure({ _tag: "RunFailed", stopReason }, "send")
        assert.deepStrictEqual([nothing.type, nothing.verdict], [stopReason, untouched])
        assert.match(nothing.runId ?? "", /^run_/)
        const something = yield* runFailure({ _tag: "RunFailed", stopReason, afterMessages: 1 }, "send")
        assert.deepStrictEqual(something.verdict, acted)
      })
  )

  it.effect.each(stopReasons)(
    "a stream with the stop reason %s and no more",
    ([stopReason, untouched, acted]) =>
      Effect.gen(function*() {
        const fault = { _tag: "RunFailed", stopReason, errorType: null } as const
        const nothing = yield* runFailure(fault, "stream")
        assert.deepStrictEqual([nothing.type, nothing.verdict], [stopReason, untouched])
        const something = yield* runFailure({ ...fault, afterMessages: 1 }, "stream")
        assert.deepStrictEqual(something.verdict, acted)
      })
  )

  for (const unnamed of [false, true]) {
    it.effect.each(errorTypes)(
      `a stream with the error %s, ${unnamed ? "as an ordinary event" : "as an error event"}`,
      ([type, untouched, acted]) =>
        Effect.gen(function*() {
          const fault = { _tag: "StreamError", type, unnamed } as const
          // The first event is a sign of life.
          const nothing = yield* runFailure({ ...fault, afterEvents: 1 }, "stream")
          assert.deepStrictEqual(nothing.verdict, untouched)
          const something = yield* runFailure({ ...fault, afterEvents: 2 }, "stream")
          assert.deepStrictEqual([something.type, something.verdict], [type, acted])
          assert.match(something.runId ?? "", /^run_/)
        })
    )
  }

  it.effect("what Letta says after the stop reason is the more exact one", () =>
    Effect.gen(function*() {
      const reason = yield* runFailure(
        { _tag: "RunFailed", stopReason: "llm_api_error", errorType: "llm_authentication" },
        "stream"
      )
      assert.deepStrictEqual([reason.type, reason.verdict], ["llm_authentication", Fault.permanent])
    }))
})
