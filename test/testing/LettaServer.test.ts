import { assert, describe, it } from "@effect/vitest"
import { Letta as Client } from "@letta-ai/letta-client"
import { Effect, Exit, Fiber, Scope } from "effect"
import * as LettaServer from "effect-resilience/testing/LettaServer"
import { TestClock } from "effect/testing"

const clientOf = (server: LettaServer.LettaServer["Service"], apiKey: string | null = null) =>
  new Client({ apiKey, baseURL: server.url, maxRetries: 0, logLevel: "off" })

const promised = <A>(run: () => PromiseLike<A>) =>
  Effect.tryPromise({
    try: run,
    catch: (error) => error instanceof Client.LettaError ? error : new Error(String(error))
  })

describe("LettaServer", () => {
  it.effect("satisfies the real client: health, an agent, its blocks and tools, a turn, a stream", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      const client = clientOf(server)
      assert.deepStrictEqual((yield* promised(() => client.health())).status, "ok")
      const agent = yield* promised(() =>
        client.agents.retrieve("agent-1", { include: ["agent.blocks", "agent.tools"] })
      )
      assert.deepStrictEqual(agent.blocks.map(({ label }) => label), ["persona", "human"])
      assert.deepStrictEqual(agent.tools.map(({ name }) => name), ["send_message"])
      const bare = yield* promised(() => client.agents.retrieve("agent-1"))
      assert.notProperty(bare, "blocks")
      const blocks = yield* promised(() => client.agents.blocks.list("agent-1"))
      assert.lengthOf(blocks.items, 2)
      const tools = yield* promised(() => client.agents.tools.list("agent-1"))
      assert.lengthOf(tools.items, 1)
      const answer = yield* promised(() => client.agents.messages.create("agent-1", { input: "Hello" }))
      assert.deepStrictEqual(answer.stop_reason, { message_type: "stop_reason", stop_reason: "end_turn" })
      const events = yield* promised(async () => {
        const stream = await client.agents.messages.create("agent-1", { input: "Hello", streaming: true })
        const types: Array<string | undefined> = []
        for await (const event of stream) types.push(event.message_type)
        return types
      })
      assert.deepStrictEqual(events, ["assistant_message", "stop_reason", "usage_statistics"])
      assert.deepStrictEqual((yield* server.agent("agent-1")).turns, ["Hello", "Hello"])
      assert.strictEqual((yield* server.stats).answered, 7)
    }))

  it.effect("lists in pages, as large as it likes", () =>
    Effect.gen(function*() {
      const names = Array.from({ length: 7 }, (_, index) => `tool${index}`)
      const server = yield* LettaServer.make({ pageLimit: 3, agents: { "agent-1": { tools: names } } })
      const client = clientOf(server)
      const listed = yield* promised(async () => {
        const all: Array<string | null | undefined> = []
        for await (const tool of client.agents.tools.list("agent-1", { limit: 5 })) all.push(tool.name)
        return all
      })
      assert.deepStrictEqual(listed, names)
    }))

  it.effect("refuses what Letta refuses, and takes no fault for it", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({ token: "secret" })
      yield* server.inject({ _tag: "ServerError" })
      const statuses: Array<unknown> = []
      const call = (run: () => PromiseLike<unknown>) =>
        Effect.map(Effect.flip(promised(run)), (error) => statuses.push(Reflect.get(error, "status")))
      const client = clientOf(server, "secret")
      yield* call(() => clientOf(server).agents.retrieve("agent-1"))
      yield* call(() => client.agents.retrieve("agent-2"))
      yield* call(() => client.agents.messages.create("agent-1", {}))
      yield* call(() => client.get("/v1/elsewhere"))
      yield* call(() => client.agents.retrieve("agent-1"))
      assert.deepStrictEqual(statuses, [401, 404, 422, 404, 500])
      assert.strictEqual((yield* server.stats).injected.ServerError, 1)
    }))

  it.effect("takes a message in the background once, and keeps its run", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      const client = clientOf(server)
      const message = { role: "user" as const, content: "Hello", otid: "otid-1" }
      const send = promised(async () => {
        const stream = await client.agents.messages.create("agent-1", {
          messages: [message],
          streaming: true,
          background: true
        })
        const ids: Array<unknown> = []
        for await (const event of stream) ids.push(Reflect.get(event, "seq_id"))
        return ids
      })
      assert.deepStrictEqual(yield* send, [0, undefined, undefined])
      const error = yield* Effect.flip(send)
      assert.strictEqual(Reflect.get(error, "status"), 409)
      assert.deepStrictEqual((yield* server.agent("agent-1")).turns, ["Hello"])
    }))

  it.effect.each(
    [
      [{ _tag: "Unavailable" }, 0],
      [{ _tag: "RateLimited" }, 0],
      [{ _tag: "AgentBusy" }, 0],
      [{ _tag: "ApprovalPending" }, 0],
      [{ _tag: "StatusError", status: 429, message: "No", type: "llm_rate_limit" }, 0],
      [{ _tag: "StatusError", status: 429, message: "No", type: "llm_rate_limit", afterMessages: 1 }, 1],
      [{ _tag: "RunFailed", stopReason: "llm_api_error" }, 0],
      [{ _tag: "RunFailed", stopReason: "llm_api_error", afterMessages: 1 }, 1],
      [{ _tag: "ServerError" }, 1],
      [{ _tag: "ResetBeforeHeaders" }, 1],
      [{ _tag: "ResetMidBody" }, 1],
      [{ _tag: "TruncatedJson" }, 1],
      [{ _tag: "NotAnAnswer", variant: "html" }, 1]
    ] satisfies ReadonlyArray<readonly [LettaServer.Fault, number]>
  )("what its agents took in is known: %j, %i", ([fault, taken]) =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({ faults: [fault] })
      yield* Effect.exit(promised(() => clientOf(server).agents.messages.create("agent-1", { input: "Hello" })))
      assert.lengthOf((yield* server.agent("agent-1")).turns, taken)
    }))

  it.effect("answers later by the clock of its test, and chooses faults by what is asked for", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({
        latency: { min: "2 seconds", max: "2 seconds" },
        faults: ({ kind }) => kind === "tools" ? { _tag: "Unavailable" } : undefined
      })
      const client = clientOf(server)
      const fiber = yield* Effect.forkChild(promised(() => client.health()), { startImmediately: true })
      yield* server.awaitRequest(0)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("2 seconds")
      yield* Fiber.join(fiber)
      const error = yield* Effect.flip(promised(() => client.agents.tools.list("agent-1")))
      assert.strictEqual(Reflect.get(error, "status"), 503)
    }))

  it.effect("an answer of the test's own that throws shows as a 500 that says so", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({
        answer: () => {
          throw new Error("my mistake")
        }
      })
      const error = yield* Effect.flip(
        promised(() => clientOf(server).agents.messages.create("agent-1", { input: "Hi" }))
      )
      assert.match(error.message, /my mistake/)
    }))

  it.effect("an agent that is not there is a defect of the test", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      assert.isTrue(Exit.hasDies(yield* Effect.exit(server.agent("agent-9"))))
    }))

  it.effect("cuts every connection when its scope ends", () =>
    Effect.gen(function*() {
      const scope = yield* Scope.make()
      const server = yield* Effect.provideService(LettaServer.make({ faults: [{ _tag: "Hang" }] }), Scope.Scope, scope)
      const fiber = yield* Effect.forkChild(Effect.flip(promised(() => clientOf(server).health())), {
        startImmediately: true
      })
      yield* server.awaitRequest(0)
      yield* Scope.close(scope, Exit.void)
      yield* Fiber.join(fiber)
      const [request] = yield* server.requests
      assert.isTrue(request?.cutByServer)
    }))
})
