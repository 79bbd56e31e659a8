import { assert, describe, it } from "@effect/vitest"
import { Deferred, Effect, Exit, Fiber, Queue, Redacted, Ref, Result, Stream } from "effect"
import { CircuitBreaker, Fault, Policy, Retry, RetryBudget } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import * as Backoff from "effect-resilience/policy/Backoff"
import * as LettaServer from "effect-resilience/testing/LettaServer"
import { TestClock } from "effect/testing"
import { controlled, json, observed, sse } from "../support/fetch.ts"

const event = (data: { readonly message_type: string; readonly [field: string]: unknown }) =>
  `data: ${JSON.stringify(data)}\n\n`

const ping = event({ message_type: "ping", id: "ping-1", run_id: "run-1" })
const says = (content: string, seq_id: number) =>
  event({ message_type: "assistant_message", id: "message-1", run_id: "run-1", seq_id, content })
const stop = event({ message_type: "stop_reason", stop_reason: "end_turn" })
const usage = event({ message_type: "usage_statistics", step_count: 1 })

const base = "http://letta.test"
const make = (options: Letta.Options) => Letta.make({ baseURL: base, ...options })

const spoken = <E, R>(parts: Stream.Stream<Letta.Part, E, R>) =>
  Stream.filterMap(
    parts,
    (part) => part.message_type === "assistant_message" ? Result.succeed(Letta.text([part])) : Result.failVoid
  )

const started = <A, E, R>(effect: Effect.Effect<A, E, R>) => Effect.forkChild(effect, { startImmediately: true })

const judged = (error: Letta.LettaError) => [error.reason._tag, error.verdict._tag]

describe("Letta: time", () => {
  const silent = Effect.gen(function*() {
    const asked = yield* Deferred.make<AbortSignal | null | undefined>()
    const fetch = (_: unknown, init?: RequestInit) => {
      Deferred.doneUnsafe(asked, Effect.succeed(init?.signal))
      return new Promise<Response>(() => {})
    }
    return { fetch, asked: Deferred.await(asked) }
  })

  it.effect("a turn may take 5 minutes to begin, and is then Ambiguous", () =>
    Effect.gen(function*() {
      const { asked, fetch } = yield* silent
      const letta = yield* make({ fetch })
      const fiber = yield* started(Effect.flip(letta.sendMessage("agent-1", "Hello")))
      const signal = yield* asked
      yield* TestClock.adjust(5 * 60_000 - 1)
      assert.isUndefined(fiber.pollUnsafe())
      yield* TestClock.adjust("1 millis")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual(judged(error), ["NoAnswer", "Ambiguous"])
      assert.match(error.message, /within 5m; .*look before sending it again/)
      assert.isTrue(signal?.aborted)
    }))

  it.effect("what only reads may take 30 seconds, and may be asked again", () =>
    Effect.gen(function*() {
      const { asked, fetch } = yield* silent
      const letta = yield* make({ fetch })
      const fiber = yield* started(Effect.flip(letta.tools("agent-1")))
      yield* asked
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(judged(yield* Fiber.join(fiber)), ["NoAnswer", "TimedOut"])
    }))

  it.effect("a body that stands still for 30 seconds is cut", () =>
    Effect.gen(function*() {
      const server = yield* controlled(json)
      const letta = yield* make({ fetch: server.fetch })
      const fiber = yield* started(Effect.flip(letta.sendMessage("agent-1", "Hello")))
      yield* server.awaited
      yield* server.send("{\"messages\":")
      yield* server.awaited
      yield* TestClock.adjust("30 seconds")
      assert.deepStrictEqual(judged(yield* Fiber.join(fiber)), ["CutShort", "Ambiguous"])
      yield* server.aborted
    }))

  it.effect("a stream that stands still fails after the parts that came, and says where", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const seen: Array<string> = []
      const letta = yield* make({ fetch: server.fetch })
      const fiber = yield* letta.streamMessage("agent-1", "Hello").pipe(
        spoken,
        Stream.runForEach((text) => Effect.sync(() => seen.push(text))),
        Effect.flip,
        started
      )
      for (const text of [ping, says("Hel", 0), says("lo", 1)]) {
        yield* server.awaited
        yield* server.send(text)
      }
      yield* server.awaited
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(fiber)
      assert.deepStrictEqual({ ...error.reason }, {
        _tag: "CutShort",
        message: "nothing came for 30s (stallTimeout)",
        runId: "run-1",
        sequence: 1
      })
      assert.deepStrictEqual(seen, ["Hel", "lo"])
      yield* server.aborted
    }))

  it.effect("signs of life keep a slow turn alive, and are no parts", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const letta = yield* make({ fetch: server.fetch })
      const fiber = yield* started(Stream.runCollect(letta.streamMessage("agent-1", "Hello")))
      for (let minutes = 0; minutes < 60; minutes++) {
        yield* server.awaited
        yield* TestClock.adjust("29 seconds")
        yield* server.send(ping)
      }
      for (const text of [says("Hello", 0), stop, usage]) {
        yield* server.awaited
        yield* server.send(text)
      }
      yield* server.awaited
      yield* server.end
      const parts = yield* Fiber.join(fiber)
      assert.deepStrictEqual(parts.map((part) => part.message_type), [
        "assistant_message",
        "stop_reason",
        "usage_statistics"
      ])
    }))

  it.effect("a slow consumer is not a stalled server", () =>
    Effect.gen(function*() {
      const server = yield* controlled(sse)
      const working = yield* Queue.unbounded<void>()
      const letta = yield* make({ fetch: server.fetch })
      const fiber = yield* letta.streamMessage("agent-1", "Hello").pipe(
        Stream.runForEach(() => Effect.andThen(Queue.offer(working, undefined), Effect.sleep("10 minutes"))),
        started
      )
      for (const text of [says("Hello", 0), stop, usage]) {
        yield* server.awaited
        yield* server.send(text)
        yield* Queue.take(working)
        yield* TestClock.adjust("10 minutes")
      }
      yield* server.awaited
      yield* server.end
      yield* Fiber.join(fiber)
    }))

  it.effect.each(["end", "stall", "break"] as const)(
    "a turn that has its stop reason is not lost in what follows: %s",
    (then) =>
      Effect.gen(function*() {
        const server = yield* controlled(sse)
        const letta = yield* make({ fetch: server.fetch })
        const fiber = yield* started(Stream.runCollect(spoken(letta.streamMessage("agent-1", "Hello"))))
        for (const text of [says("Hello", 0), stop]) {
          yield* server.awaited
          yield* server.send(text)
        }
        yield* server.awaited
        if (then === "end") yield* server.end
        if (then === "stall") yield* TestClock.adjust("1 second")
        if (then === "break") yield* server.reset
        assert.deepStrictEqual(yield* Fiber.join(fiber), ["Hello"])
      })
  )

  it.effect.each(["end", "stall", "break"] as const)(
    "neither is the failure of one that failed: %s",
    (then) =>
      Effect.gen(function*() {
        const server = yield* controlled(sse)
        const letta = yield* make({ fetch: server.fetch })
        const fiber = yield* started(Effect.flip(Stream.runDrain(letta.streamMessage("agent-1", "Hello"))))
        yield* server.awaited
        yield* server.send(event({ message_type: "stop_reason", stop_reason: "llm_api_error" }))
        yield* server.awaited
        if (then === "end") yield* server.end
        if (then === "stall") yield* TestClock.adjust("1 second")
        if (then === "break") yield* server.reset
        assert.deepStrictEqual(judged(yield* Fiber.join(fiber)), ["RunFailed", "Transient"])
      })
  )

  it.effect.each(["HangBody", "StreamStall"] as const)(
    "finds a real connection in %s",
    (_tag) =>
      Effect.gen(function*() {
        const server = yield* LettaServer.make()
        yield* server.inject({ _tag })
        const { awaited, fetch } = yield* observed
        const letta = yield* make({ baseURL: server.url, fetch })
        const call: Effect.Effect<unknown, Letta.LettaError> = _tag === "HangBody"
          ? letta.sendMessage("agent-1", "Hello")
          : Stream.runDrain(letta.streamMessage("agent-1", "Hello"))
        const fiber = yield* started(Effect.flip(call))
        yield* awaited
        yield* TestClock.adjust("30 seconds")
        assert.deepStrictEqual(judged(yield* Fiber.join(fiber)), ["CutShort", "Ambiguous"])
        yield* server.awaitClosedByClient(0)
        assert.lengthOf(yield* server.requests, 1)
      })
  )

  it.effect("nothing but signs of life ends with the deadline around", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      yield* server.inject({ _tag: "StreamPings", everyMillis: 10_000 })
      const letta = yield* make({ baseURL: server.url })
      const fiber = yield* started(
        Stream.runDrain(letta.streamMessage("agent-1", "Hello")).pipe(Effect.timeoutOption("5 minutes"))
      )
      yield* server.awaitRequest(0)
      for (let seconds = 0; seconds < 300; seconds += 10) yield* TestClock.adjust("10 seconds")
      assert.strictEqual((yield* Fiber.join(fiber))._tag, "None")
      yield* server.awaitClosedByClient(0)
    }))
})

describe("Letta: a stream that is cut", () => {
  it.effect("anywhere before its stop reason is a failure, and never an answer", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({
        answer: () => ({ deeds: [{ type: "reasoning", text: "hm" }, { type: "assistant", text: "one two three" }] })
      })
      const letta = yield* make({ baseURL: server.url })
      const collected = Stream.runCollect(letta.streamMessage("agent-1", "Hello", { tokens: true }))
      // the sign of life comes first, and the stop reason is the last but one
      const before = (yield* collected).length - 1
      const ask = Effect.exit(collected)
      for (const _tag of ["StreamClose", "StreamReset"] as const) {
        for (let afterEvents = 0; afterEvents < before; afterEvents++) {
          yield* server.inject({ _tag, afterEvents })
          const cut = yield* ask
          assert.isTrue(Exit.isFailure(cut), `${_tag} after ${afterEvents}`)
          yield* server.inject({ _tag: "StreamBadJson", afterEvents })
          assert.isTrue(Exit.isFailure(yield* ask), `StreamBadJson after ${afterEvents}`)
        }
      }
    }))
})

describe("Letta: interruption closes the connection", () => {
  const modes = ["send", "stream", "read"] as const
  const calls = (
    letta: Letta.Letta["Service"],
    mode: (typeof modes)[number]
  ): Effect.Effect<unknown, Letta.LettaError> =>
    mode === "send"
      ? letta.sendMessage("agent-1", "Hello")
      : mode === "stream"
      ? Stream.runDrain(letta.streamMessage("agent-1", "Hello"))
      : letta.memoryBlocks("agent-1")

  it.effect.each(modes)("%s: before the headers", (mode) =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      yield* server.inject({ _tag: "Hang" })
      const letta = yield* make({ baseURL: server.url })
      const fiber = yield* started(calls(letta, mode))
      yield* server.awaitRequest(0)
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect.each(modes)("%s: in the middle of the body", (mode) =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      yield* server.inject({ _tag: "HangBody" })
      const { awaited, fetch } = yield* observed
      const letta = yield* make({ baseURL: server.url, fetch })
      const fiber = yield* started(calls(letta, mode))
      yield* awaited
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("when the consumer of a stream has enough", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      yield* server.inject({ _tag: "StreamStall", afterEvents: 2 })
      const letta = yield* make({ baseURL: server.url })
      const seen = yield* letta.streamMessage("agent-1", "Hello").pipe(Stream.take(1), Stream.runCollect)
      assert.lengthOf(seen, 1)
      yield* server.awaitClosedByClient(0)
    }))

  it.effect("also where the call did not hand on the signal", () =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make()
      yield* server.inject({ _tag: "Hang" })
      const letta = yield* make({ baseURL: server.url, token: Redacted.make("secret") })
      const fiber = yield* started(letta.use((client) => client.agents.messages.create("agent-1", { input: "Hello" })))
      yield* server.awaitRequest(0)
      yield* Fiber.interrupt(fiber)
      yield* server.awaitClosedByClient(0)
    }))
})

describe("Letta: under a policy", () => {
  const policy = Policy.make({
    name: "letta",
    retry: { maxAttempts: 4, backoff: Backoff.constant({ delay: "1 millis" }) },
    circuit: {}
  })

  const around = (faults: ReadonlyArray<LettaServer.Fault>) =>
    Effect.gen(function*() {
      const server = yield* LettaServer.make({ faults })
      const letta = yield* make({ baseURL: server.url })
      return { server, letta }
    })

  it.live("refusals are retried until the agent answers, which then has one turn", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([
        { _tag: "Unavailable" },
        { _tag: "AgentBusy" },
        { _tag: "RateLimited" }
      ])
      const answer = yield* Policy.apply(letta.sendMessage("agent-1", "Hello"), policy)
      assert.strictEqual(answer.text, "Echo: Hello")
      assert.lengthOf(yield* server.requests, 4)
      assert.deepStrictEqual((yield* server.agent("agent-1")).turns, ["Hello"])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.live("a lost answer is not retried: the agent has the message", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([{ _tag: "ResetMidBody" }])
      const error = yield* Effect.flip(Policy.apply(letta.sendMessage("agent-1", "Hello"), policy))
      assert.strictEqual(error._tag, "LettaError")
      assert.lengthOf(yield* server.requests, 1)
      assert.deepStrictEqual((yield* server.agent("agent-1")).turns, ["Hello"])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.live("unless the program says that it may be done twice", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([{ _tag: "ResetMidBody" }])
      yield* Fault.idempotent(Policy.apply(letta.sendMessage("agent-1", "Hello"), policy))
      assert.deepStrictEqual((yield* server.agent("agent-1")).turns, ["Hello", "Hello"])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.live("a message with an otid is retried, taken in once, and its run is followed", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([{ _tag: "StreamReset", afterEvents: 1 }])
      const ask = letta.streamMessage("agent-1", "Hello", { otid: "otid-1" }).pipe(
        Stream.catchReason(
          "LettaError",
          "AgentBusy",
          (busy, error) => busy.runId === null ? Stream.fail(error) : letta.resumeRun(busy.runId)
        ),
        spoken,
        Stream.runCollect
      )
      assert.deepStrictEqual(yield* Policy.apply(ask, policy), ["Echo: Hello"])
      assert.deepStrictEqual((yield* server.requests).map(({ path }) => path.replace(/run_\w+/, "RUN")), [
        "/v1/agents/agent-1/messages",
        "/v1/agents/agent-1/messages",
        "/v1/runs/RUN/stream"
      ])
      assert.deepStrictEqual((yield* server.agent("agent-1")).turns, ["Hello"])
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.live("a stream that broke off is taken up after its last part", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([{ _tag: "StreamClose", afterEvents: 3 }])
      const seen = yield* Ref.make<ReadonlyArray<string>>([])
      const follow = (
        parts: Stream.Stream<Letta.Part, Letta.LettaError>
      ): Stream.Stream<Letta.Part, Letta.LettaError> =>
        Stream.catchReason(parts, "LettaError", "CutShort", (cut, error) =>
          cut.runId === null
            ? Stream.fail(error)
            : follow(letta.resumeRun(cut.runId, cut.sequence === null ? {} : { after: cut.sequence })))
      yield* follow(letta.streamMessage("agent-1", "one two three four", { otid: "otid-1", tokens: true })).pipe(
        spoken,
        Stream.runForEach((text) => Ref.update(seen, (all) => [...all, text]))
      )
      assert.strictEqual((yield* Ref.get(seen)).join(""), "Echo: one two three four")
      assert.lengthOf(yield* server.requests, 2)
    }))

  it.live("five failures open the circuit", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([])
      const breaker = yield* CircuitBreaker.CircuitBreaker
      const read = CircuitBreaker.protect(letta.tools("agent-1"), "letta")
      yield* server.setFaults(() => ({ _tag: "ServerError" }))
      for (let calls = 0; calls < 5; calls++) yield* Effect.flip(read)
      assert.strictEqual((yield* breaker.state("letta"))._tag, "Open")
      assert.strictEqual((yield* Effect.flip(read))._tag, "CircuitOpen")
      assert.lengthOf(yield* server.requests, 5)
    }).pipe(Effect.provide(CircuitBreaker.layer())))

  it.live("reading is retried by Retry alone", () =>
    Effect.gen(function*() {
      const { letta, server } = yield* around([{ _tag: "ResetMidBody" }, { _tag: "ServerError" }, {
        _tag: "TruncatedJson"
      }])
      const blocks = yield* Retry.apply(
        letta.memoryBlocks("agent-1"),
        Retry.policy({ maxAttempts: 4, backoff: Backoff.constant({ delay: "1 millis" }) })
      )
      assert.lengthOf(blocks, 2)
      assert.lengthOf(yield* server.requests, 4)
    }).pipe(Effect.provide(RetryBudget.layer())))
})
