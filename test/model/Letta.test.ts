import { assert, describe, it } from "@effect/vitest"
import { ConfigProvider, Duration, Effect, Exit, Fiber, Redacted, Schema, Stream } from "effect"
import { Fault } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import * as LettaServer from "effect-resilience/testing/LettaServer"
import { TestClock } from "effect/testing"

const around = Effect.fnUntraced(function*(options: LettaServer.Options = {}, client: Letta.Options = {}) {
  const server = yield* LettaServer.make(options)
  const letta = yield* Letta.make({ baseURL: server.url, ...client })
  return { server, letta }
})

const answering = (body: unknown, init?: ResponseInit): typeof globalThis.fetch => () =>
  Promise.resolve(Response.json(body, init))

const at = (fetch: typeof globalThis.fetch, options: Letta.Options = {}) =>
  Letta.make({ baseURL: "http://letta.test", fetch, ...options })

const wholeAnswer = {
  messages: [{ id: "message-1", message_type: "assistant_message", content: "Hello" }],
  stop_reason: { message_type: "stop_reason", stop_reason: "end_turn" },
  usage: { message_type: "usage_statistics", step_count: 1 }
}

describe("Letta: a turn", () => {
  const busyTurn: LettaServer.AnswerContent = {
    deeds: [
      { type: "reasoning", text: "They want the weather." },
      { type: "assistant", text: "Let me look." },
      { type: "tool", name: "weather", arguments: "{\"city\":\"Paris\"}", result: "21 C" },
      { type: "assistant", text: "It is 21 C." }
    ],
    usage: { prompt_tokens: 100, completion_tokens: 20 }
  }

  it.effect("comes whole, with what was said, the stop reason and the usage", () =>
    Effect.gen(function*() {
      const { letta } = yield* around({ answer: () => busyTurn })
      const answer = yield* letta.sendMessage("agent-1", "How is the weather?")
      assert.deepStrictEqual(answer.messages.map((message) => message.message_type), [
        "reasoning_message",
        "assistant_message",
        "tool_call_message",
        "tool_return_message",
        "assistant_message"
      ])
      assert.strictEqual(answer.text, "Let me look.\nIt is 21 C.")
      assert.strictEqual(answer.stopReason, "end_turn")
      assert.deepInclude(answer.usage, { prompt_tokens: 100, completion_tokens: 20, total_tokens: 120 })
    }))

  it.effect("streams the same, message by message or as it is written", () =>
    Effect.gen(function*() {
      const { letta } = yield* around({ answer: () => busyTurn })
      for (const tokens of [false, true]) {
        const parts = yield* Stream.runCollect(letta.streamMessage("agent-1", "How is the weather?", { tokens }))
        assert.strictEqual(Letta.text(parts), "Let me look.\nIt is 21 C.")
        assert.lengthOf(parts, tokens ? 15 : 7)
        assert.deepInclude(parts.at(-2), { message_type: "stop_reason", stop_reason: "end_turn" })
        assert.deepInclude(parts.at(-1), { message_type: "usage_statistics", total_tokens: 120 })
      }
    }))

  it.effect.each(["max_steps", "requires_approval", "tool_rule"] as const)(
    "%s is an answer that says so",
    (stop_reason) =>
      Effect.gen(function*() {
        const { letta } = yield* around({
          answer: () => ({ deeds: [{ type: "assistant", text: "So far" }], stop_reason })
        })
        assert.strictEqual((yield* letta.sendMessage("agent-1", "Go on")).stopReason, stop_reason)
        yield* Stream.runDrain(letta.streamMessage("agent-1", "Go on"))
      })
  )

  it.effect("sends what it was given, once, with the token and the headers", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around({ token: "secret" }, {
        token: Redacted.make("secret"),
        headers: { "x-tenant": "acme" }
      })
      yield* letta.sendMessage("agent-1", "Hello", { maxSteps: 3, request: { override_model: "openai/gpt-4.1" } })
      yield* Stream.runDrain(
        letta.streamMessage(
          "agent-1",
          [{ role: "user", content: "a" }, { role: "user", content: "b", otid: "mine" }, {
            role: "user",
            content: "c"
          }],
          { otid: "otid" }
        )
      )
      const [first, second] = yield* server.requests
      assert.deepStrictEqual(first?.body, {
        override_model: "openai/gpt-4.1",
        messages: [{ role: "user", content: "Hello" }],
        max_steps: 3,
        streaming: false
      })
      assert.deepInclude(first?.headers, { authorization: "Bearer secret", "x-tenant": "acme" })
      assert.match(first?.headers["user-agent"] ?? "", /^Letta\/JS /)
      assert.deepStrictEqual(second?.body, {
        messages: [
          { role: "user", content: "a", otid: "otid" },
          { role: "user", content: "b", otid: "mine" },
          { role: "user", content: "c", otid: "otid-2" }
        ],
        streaming: true,
        include_pings: true,
        stream_tokens: false,
        background: true
      })
    }))

  it.effect("the answer to an approval is an input like another", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around({
        answer: ({ body }) =>
          body.messages?.[0]?.["type"] === "approval"
            ? "Booked."
            : { deeds: [{ type: "approval", name: "book", arguments: "{}" }] }
      })
      const asked = yield* letta.sendMessage("agent-1", "Book it")
      assert.strictEqual(asked.stopReason, "requires_approval")
      const [request] = asked.messages
      const answer = yield* letta.sendMessage("agent-1", [
        { type: "approval", approve: true, approval_request_id: request?.id ?? null }
      ])
      assert.strictEqual(answer.text, "Booked.")
      assert.lengthOf(yield* server.requests, 2)
    }))

  it.effect.each([
    { name: "no id of an agent", call: (letta: Letta.Letta["Service"]) => letta.sendMessage("", "Hello") },
    { name: "a way out of the path", call: (letta: Letta.Letta["Service"]) => letta.sendMessage("..", "Hello") },
    { name: "an empty message", call: (letta: Letta.Letta["Service"]) => letta.sendMessage("agent-1", "") },
    { name: "no messages", call: (letta: Letta.Letta["Service"]) => letta.sendMessage("agent-1", []) },
    {
      name: "half a step",
      call: (letta: Letta.Letta["Service"]) => letta.sendMessage("agent-1", "Hello", { maxSteps: 0.5 })
    },
    {
      name: "an empty otid",
      call: (letta: Letta.Letta["Service"]) => Stream.runDrain(letta.streamMessage("agent-1", "Hello", { otid: "" }))
    },
    { name: "no id of a run", call: (letta: Letta.Letta["Service"]) => Stream.runDrain(letta.resumeRun("")) },
    { name: "no id to look for", call: (letta: Letta.Letta["Service"]) => letta.agentExists("") }
  ])("$name is refused before anything is sent", ({ call }) =>
    Effect.gen(function*() {
      const { letta, server } = yield* around()
      const error = yield* Effect.flip<unknown, Letta.LettaError, never>(call(letta))
      assert.deepStrictEqual([error.reason._tag, error.verdict], ["InvalidRequest", Fault.permanent])
      assert.lengthOf(yield* server.requests, 0)
    }))

  it.effect("what the callback of use throws is a typed error, and no defect", () =>
    Effect.gen(function*() {
      const { letta } = yield* around()
      const error = yield* Effect.flip(letta.use(() => Promise.reject(new Error("oops"))))
      assert.deepStrictEqual([error.reason._tag, error.verdict], ["UnknownFailure", Fault.unknown])
      const thrown = yield* Effect.flip(letta.use(() => {
        throw new Error("at once")
      }))
      assert.match(thrown.message, /at once/)
    }))

  it.effect("use gives the client, which retries nothing", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around()
      const health = yield* letta.use((client, signal) => client.health({ signal }))
      assert.strictEqual(health.status, "ok")
      yield* server.inject({ _tag: "ServerError" }, { _tag: "ServerError" })
      const read = yield* Effect.flip(letta.use((client, signal) => client.agents.retrieve("agent-1", {}, { signal })))
      assert.deepStrictEqual(read.verdict, Fault.transient)
      const written = yield* Effect.flip(
        letta.use((client, signal) => client.agents.messages.create("agent-1", { input: "Hi" }, { signal }))
      )
      assert.deepStrictEqual(written.verdict, Fault.ambiguous)
      assert.lengthOf(yield* server.requests, 3)
    }))

  it.effect("an abort by the program itself is told apart", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around()
      yield* server.inject({ _tag: "Hang" })
      const abort = new AbortController()
      const error = yield* letta.use((client) => {
        setImmediate(() => abort.abort())
        return client.agents.messages.create("agent-1", { input: "Hello" }, { signal: abort.signal })
      }).pipe(Effect.flip)
      assert.deepStrictEqual([error.reason._tag, error.verdict], ["Aborted", Fault.ambiguous])
    }))
})

const spoil = (value: unknown, path: ReadonlyArray<string | number>, poison: unknown): unknown => {
  const [key, ...rest] = path
  if (key === undefined) return poison
  if (Array.isArray(value)) return value.map((item, index) => index === key ? spoil(item, rest, poison) : item)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(
    Object.entries(value).map(([name, item]) => [name, name === key ? spoil(item, rest, poison) : item])
  )
}

const paths = (value: unknown): ReadonlyArray<ReadonlyArray<string | number>> =>
  typeof value !== "object" || value === null
    ? [[]]
    : [
      [],
      ...Object.entries(value).flatMap(([key, item]) =>
        paths(item).map((path) => path.toSpliced(0, 0, Array.isArray(value) ? Number(key) : key))
      )
    ]

describe("Letta: hostile answers", () => {
  const poisons: ReadonlyArray<unknown> = [null, 0, -1.5, 1e308, "", "x", true, [], {}, [null], { a: 1 }, [{ text: 1 }]]

  it.effect("an answer with any field spoiled is an answer or a typed error, never a defect", () =>
    Effect.gen(function*() {
      for (const path of paths(wholeAnswer)) {
        for (const value of poisons) {
          const letta = yield* at(answering(spoil(wholeAnswer, path, value)))
          const exit = yield* Effect.exit(letta.sendMessage("agent-1", "Hello"))
          if (Exit.isFailure(exit)) {
            const error = yield* Effect.flip(exit)
            assert.isTrue(Schema.is(Letta.LettaError)(error), `${path.join(".")}: ${String(error)}`)
            yield* Schema.encodeEffect(Schema.toCodecJson(Letta.LettaError))(error)
          } else {
            assert.isString(exit.value.text)
          }
        }
      }
    }))

  it.effect("so is a stream, and an error body of any status", () =>
    Effect.gen(function*() {
      const events: ReadonlyArray<object> = [...wholeAnswer.messages, wholeAnswer.stop_reason, wholeAnswer.usage]
      for (const path of paths(events)) {
        for (const value of poisons) {
          const spoilt = spoil(events, path, value)
          const text = Array.isArray(spoilt) ? spoilt.map((one) => `data: ${JSON.stringify(one)}\n\n`).join("") : ""
          const letta = yield* at(() =>
            Promise.resolve(new Response(text, { headers: { "content-type": "text/event-stream" } }))
          )
          const exit = yield* Effect.exit(Stream.runCollect(letta.streamMessage("agent-1", "Hello")))
          if (Exit.isFailure(exit)) {
            assert.isTrue(Schema.is(Letta.LettaError)(yield* Effect.flip(exit)), path.join("."))
          }
        }
      }
      const body = { detail: { message: "No", run_id: "run-1" }, error: { type: "llm_error", message: "No" } }
      for (const path of paths(body)) {
        for (const value of poisons) {
          for (const status of [400, 404, 409, 429, 500]) {
            const letta = yield* at(answering(spoil(body, path, value), { status }))
            const error = yield* Effect.flip(letta.sendMessage("agent-1", "Hello"))
            assert.isTrue(Schema.is(Letta.LettaError)(error), String(error))
          }
        }
      }
    }))

  it.effect("a 404 of a proxy does not say that there is no such agent", () =>
    Effect.gen(function*() {
      const proxy = yield* at(() => Promise.resolve(new Response("<h1>Not here</h1>", { status: 404 })))
      assert.strictEqual((yield* Effect.flip(proxy.agentExists("agent-1"))).reason._tag, "StatusError")
    }))

  it.effect("an empty body is no empty list", () =>
    Effect.gen(function*() {
      for (const body of ["", "null", "{}", "\"\""]) {
        const letta = yield* at(() =>
          Promise.resolve(new Response(body, { headers: { "content-type": "application/json" } }))
        )
        for (const read of [letta.memoryBlocks("agent-1"), letta.tools("agent-1")]) {
          const error = yield* Effect.flip<unknown, Letta.LettaError, never>(read)
          assert.strictEqual(error.reason._tag, "MalformedAnswer")
        }
      }
    }))

  it.effect("a server that gives the same page again and again does not keep the program", () =>
    Effect.gen(function*() {
      let pages = 0
      const page = Array.from({ length: 100 }, (_, index) => ({ id: `tool-${index}`, name: `tool${index}` }))
      const letta = yield* at(() => {
        pages++
        return Promise.resolve(Response.json(page))
      })
      assert.lengthOf(yield* letta.tools("agent-1"), 100)
      assert.strictEqual(pages, 2)
    }))
})

describe("Letta: what an agent is made of", () => {
  const agents = {
    "agent-7": {
      name: "Ada's helper",
      blocks: [{ label: "persona", value: "Kind", limit: 10 }, { label: "human", value: "" }],
      tools: Array.from({ length: 250 }, (_, index) => `tool${index}`)
    }
  }

  it.effect("exists or does not", () =>
    Effect.gen(function*() {
      const { letta } = yield* around({ agents })
      assert.isTrue(yield* letta.agentExists("agent-7"))
      assert.isFalse(yield* letta.agentExists("agent-8"))
    }))

  it.effect("has its blocks and tools, over several pages", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around({ agents })
      const agent = yield* letta.agent("agent-7")
      assert.deepStrictEqual([agent.id, agent.name, agent.tools.length], ["agent-7", "Ada's helper", 250])
      assert.deepStrictEqual(agent.blocks, yield* letta.memoryBlocks("agent-7"))
      assert.deepStrictEqual(agent.blocks[0], {
        id: "block-agent-7-persona",
        label: "persona",
        value: "Kind",
        limit: 10,
        description: null,
        readOnly: false
      })
      assert.deepStrictEqual((yield* letta.tools("agent-7")).map(({ name }) => name), agents["agent-7"].tools)
      assert.lengthOf(yield* server.requests, 5)
    }))
})

describe("Letta: checks", () => {
  it.effect("reachable, by its response time", () =>
    Effect.gen(function*() {
      const { letta } = yield* around()
      const check = yield* Effect.provideService(Letta.checkReachable(), Letta.Letta, letta)
      assert.deepInclude(check, { name: "reachable", status: "healthy" })
      assert.match(check.message, /^Letta 0\.16\.0 answered in /)
      assert.isTrue(Duration.isDuration(check.responseTime))
    }))

  it.effect.each(
    [
      ["1 second", "healthy"],
      ["1001 millis", "degraded"],
      ["3 seconds", "degraded"],
      ["3001 millis", "critical"]
    ] as const
  )("an answer after %s is %s", ([takes, status]) =>
    Effect.gen(function*() {
      const slow = Letta.Letta.of({
        ...(yield* at(answering({}))),
        health: Effect.as(Effect.sleep(takes), { status: "ok", version: null })
      })
      const fiber = yield* Letta.checkReachable().pipe(
        Effect.provideService(Letta.Letta, slow),
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust(takes)
      assert.strictEqual((yield* Fiber.join(fiber)).status, status)
    }))

  it.effect("a server that is not well is degraded, and one that does not answer a failure", () =>
    Effect.gen(function*() {
      const ill = yield* at(answering({ status: "starting", version: "1" }))
      const check = yield* Effect.provideService(Letta.checkReachable(), Letta.Letta, ill)
      assert.deepStrictEqual([check.status, check.message], [
        "degraded",
        "Letta 1 answered in 0 and says that it is \"starting\""
      ])
      const { letta, server } = yield* around()
      yield* server.inject({ _tag: "NotAnAnswer", variant: "html" })
      const error = yield* Effect.flip(Effect.provideService(Letta.checkReachable(), Letta.Letta, letta))
      assert.strictEqual(error.reason._tag, "MalformedAnswer")
    }))

  const kind = { label: "persona", value: "You are kind.", limit: 20 }

  it.effect.each([
    { name: "intact", blocks: [kind], problems: [], status: "healthy" },
    { name: "missing", blocks: [], problems: [{ _tag: "Missing", label: "persona" }], status: "critical" },
    { name: "twice", blocks: [kind, kind], problems: [{ _tag: "Duplicated", label: "persona" }], status: "critical" },
    {
      name: "changed and too long, counted in characters and not in halves of surrogate pairs",
      blocks: [{ ...kind, value: "🏴‍☠️".repeat(6) }],
      problems: [
        { _tag: "OverLimit", label: "persona", length: 24, limit: 20 },
        { _tag: "Changed", label: "persona" }
      ],
      status: "critical"
    },
    {
      name: "blank",
      blocks: [{ ...kind, value: " " }],
      problems: [{ _tag: "Empty", label: "persona" }, { _tag: "Changed", label: "persona" }],
      status: "critical"
    },
    {
      name: "with another limit",
      blocks: [{ ...kind, limit: 30 }],
      problems: [{ _tag: "LimitChanged", label: "persona", expected: 20, limit: 30 }],
      status: "degraded"
    }
  ])("memory: $name", ({ blocks, problems, status }) =>
    Effect.gen(function*() {
      const { letta, server } = yield* around({ agents: { "agent-1": { blocks: [kind] } } })
      const expected = Letta.unchanged(yield* letta.memoryBlocks("agent-1"))
      yield* server.change("agent-1", () => ({ blocks }))
      const check = yield* Effect.provideService(Letta.checkMemory("agent-1", expected), Letta.Letta, letta)
      assert.strictEqual(check.status, status, check.message)
      assert.lengthOf(check.problems, problems.length)
      for (const [index, problem] of problems.entries()) assert.deepInclude({ ...check.problems[index] }, problem)
      assert.include(check.message, "persona")
    }))

  it.effect("memory: a block that may be empty, and nothing of those that are not named", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around({ agents: { "agent-1": { blocks: [{ label: "human", value: "" }] } } })
      const check = Effect.provideService(
        Letta.checkMemory("agent-1", Letta.unchanged(yield* letta.memoryBlocks("agent-1"))),
        Letta.Letta,
        letta
      )
      yield* server.change("agent-1", (agent) => ({ blocks: [...agent.blocks, { label: "notes", value: "" }] }))
      assert.strictEqual((yield* check).status, "healthy")
    }))

  it.effect("tools attached, or which are not", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around({ agents: { "agent-1": { tools: ["a", "b", "c"] } } })
      const check = Effect.provideService(Letta.checkTools("agent-1", ["a", "b"]), Letta.Letta, letta)
      assert.deepInclude(yield* check, { status: "healthy", message: "tools attached (a, b)" })
      yield* server.change("agent-1", () => ({ tools: ["b"] }))
      assert.deepInclude(yield* check, { status: "critical", message: "not attached: a", missing: ["a"] })
    }))
})

describe("Letta: configuration", () => {
  it.effect.each([
    { name: "no token for the cloud", options: {}, option: "token" },
    { name: "a token with a line break", options: { token: "a\nb" }, option: "token" },
    { name: "an empty token", options: { token: "", baseURL: "http://x" }, option: "token" },
    { name: "half a URL", options: { baseURL: "localhost" }, option: "baseURL" },
    { name: "no time for a turn", options: { baseURL: "http://x", turnTimeout: 0 }, option: "turnTimeout" },
    { name: "no time to read", options: { baseURL: "http://x", readTimeout: "-1 seconds" }, option: "readTimeout" },
    { name: "for ever", options: { baseURL: "http://x", stallTimeout: Duration.infinity }, option: "stallTimeout" },
    {
      name: "a header in two lines",
      options: { baseURL: "http://x", headers: { a: "b\nc" } },
      option: "headers[\"a\"]"
    }
  ] as ReadonlyArray<{ readonly name: string; readonly options: Letta.Options; readonly option: string }>)(
    "$name",
    ({ option, options }) =>
      Effect.gen(function*() {
        const error = yield* Effect.flip(Letta.make(options))
        assert.deepStrictEqual([error.module, error.option], ["Letta", option])
        assert.notInclude(error.message, "a\nb")
      }).pipe(Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({})))
  )

  it.effect("is read from Config and from nowhere else", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({ token: "from-config" })
      const before = { ...process.env }
      Object.assign(process.env, {
        LETTA_API_KEY: "from-process",
        LETTA_BASE_URL: "http://nowhere.invalid",
        LETTA_CUSTOM_HEADERS: "x-sneaky: yes"
      })
      yield* Effect.addFinalizer(() =>
        Effect.sync(() => {
          process.env = before
        })
      )
      const letta = yield* Letta.make().pipe(
        Effect.provideService(
          ConfigProvider.ConfigProvider,
          ConfigProvider.fromUnknown({ LETTA_BASE_URL: server.url, LETTA_API_KEY: "from-config" })
        )
      )
      assert.strictEqual((yield* letta.health).status, "ok")
      const [request] = yield* server.requests
      assert.notProperty(request?.headers, "x-sneaky")
    }))

  it.effect("a server of one's own needs no token", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around()
      yield* letta.health
      assert.notProperty((yield* server.requests)[0]?.headers, "authorization")
    }).pipe(Effect.provideService(ConfigProvider.ConfigProvider, ConfigProvider.fromUnknown({}))))
})
