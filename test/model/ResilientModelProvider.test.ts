import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Layer, Option, Schema, Stream } from "effect"
import { Backoff, Fault, Policy, Quota, ResilientModel } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { type AiError, LanguageModel, type Response, Tool, Toolkit } from "effect/ai"

const provided = (server: ProviderServer.ProviderServer["Service"], model = "claude-opus-5-5") =>
  Layer.orDie(Anthropic.layer({ model, apiKey: "test", baseURL: server.url }))

const retry = { backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 3 }

const text = (parts: ReadonlyArray<Response.AnyPart>) =>
  parts.map((part) => part.type === "text-delta" ? part.delta : part.type === "text" ? part.text : "").join("")

type Asked = Effect.Effect<ReadonlyArray<Response.AnyPart>, AiError.AiError, LanguageModel.LanguageModel>

const methods: ReadonlyArray<readonly [string, Asked]> = [
  ["generateText", Effect.map(LanguageModel.generateText({ prompt: "Hello" }), ({ content }) => content)],
  ["streamText", Stream.runCollect(LanguageModel.streamText({ prompt: "Hello" }))]
]

/** What a reader saw of a stream before it ended, and how it ended. */
const watched = Effect.suspend(() => {
  const seen: Array<Response.AnyPart> = []
  return LanguageModel.streamText({ prompt: "Hello" }).pipe(
    Stream.runForEach((part) => Effect.sync(() => seen.push(part))),
    Effect.exit,
    Effect.map((exit) => ({ seen, exit }))
  )
})

const answer = "A text that is long enough to be cut in the middle."

describe("ResilientModel over the official SDK", () => {
  for (const [method, ask] of methods) {
    describe(method, () => {
      it.live("is asked again through a storm of failures", () =>
        Effect.gen(function*() {
          const server = yield* ProviderServer.make({ answer: () => answer })
          yield* server.inject({ _tag: "Overloaded" }, { _tag: "ResetBeforeHeaders" })
          const parts = yield* ask.pipe(
            Effect.provide(ResilientModel.layer(Policy.make({ name: "anthropic", retry }))),
            Effect.provide([provided(server), Policy.layer])
          )
          assert.strictEqual(text(parts), answer)
          assert.strictEqual((yield* server.requests).length, 3)
          assert.isTrue(Option.isSome(Anthropic.finishMetadata(parts)), "what the provider said is there")
          assert.deepInclude(Option.getOrThrow(ResilientModel.provenance(parts)), { source: "primary" })
        }))

      it.live("its limits are learned from the headers of answers", () =>
        Effect.gen(function*() {
          const server = yield* ProviderServer.make({
            answer: () => answer,
            rateLimit: { requestsPerMinute: 50, inputTokensPerMinute: 40_000, outputTokensPerMinute: 8_000 }
          })
          const { limits } = yield* Effect.andThen(ask, Quota.state("anthropic")).pipe(
            Effect.provide(ResilientModel.layer(Policy.make({ name: "anthropic", quota: {} }))),
            Effect.provide([provided(server), Policy.layer])
          )
          assert.strictEqual(limits.requests?.limit, 50)
          assert.strictEqual(limits.inputTokens?.limit, 40_000)
          assert.strictEqual(limits.outputTokens?.limit, 8_000)
          assert.isBelow(limits.requests?.available ?? 50, 50)
        }).pipe(Effect.provide(Policy.layer)))

      it.live("a refusal closes the key for as long as it says, and its headers are read", () =>
        Effect.gen(function*() {
          const server = yield* ProviderServer.make({
            answer: () => answer,
            rateLimit: { requestsPerMinute: 50 }
          })
          yield* server.inject({ _tag: "RateLimited", retryAfter: 30 })
          const services = yield* Layer.build(Policy.layer)
          yield* Effect.gen(function*() {
            const error = yield* Effect.flip(ask)
            assert.deepStrictEqual(yield* Fault.classify(error), Fault.throttled("30 seconds"))
            const { gatedFor, limits } = yield* Quota.state("anthropic")
            assert.isAbove(Duration.toMillis(gatedFor), 25_000)
            assert.isAtMost(limits.requests?.available ?? 0, 1)
            const refused = yield* Effect.flip(ask)
            assert.deepInclude(Option.getOrThrow(ResilientModel.guardError(refused)), {
              _tag: "QuotaExceeded",
              reason: "WaitTooLong"
            })
          }).pipe(
            Effect.provide(
              ResilientModel.layer(Policy.make({ name: "anthropic", quota: { requests: 50, maxWait: "1 second" } }))
                .pipe(
                  Layer.provide(provided(server))
                )
            ),
            Effect.provideContext(services)
          )
          assert.strictEqual((yield* server.requests).length, 1, "what would be refused is not sent")
        }))

      it.live("another model of the server takes over", () =>
        Effect.gen(function*() {
          const server = yield* ProviderServer.make({
            answer: ({ model }) => `from ${model}`,
            faults: ({ body }) => body.model === "large" ? { _tag: "Overloaded" } : undefined
          })
          const Live = ResilientModel.fallback([
            { label: "large", model: provided(server, "large"), policy: Policy.make({ name: "large", retry }) },
            { label: "small", model: provided(server, "small") }
          ])
          const parts = yield* Effect.provide(ask, Live)
          assert.strictEqual(text(parts), "from small")
          const { errors, source } = Option.getOrThrow(ResilientModel.provenance(parts))
          assert.strictEqual(source, "small")
          assert.deepStrictEqual(errors.map(({ label, verdict }) => [label, verdict]), [["large", "Overloaded"]])
          assert.deepStrictEqual(
            (yield* server.requests).map(({ body }) => (body as { model: string }).model),
            ["large", "large", "large", "small"]
          )
        }))
    })
  }

  const breaks: ReadonlyArray<ProviderServer.Fault> = [
    { _tag: "StreamError", afterEvents: 5 },
    { _tag: "StreamClose", afterEvents: 5 },
    { _tag: "StreamReset", afterEvents: 5 },
    { _tag: "StreamBadJson", afterEvents: 5 },
    { _tag: "StreamNoStopReason" }
  ]

  for (const fault of breaks) {
    it.live(`a stream with ${fault._tag} after its first part fails, and is whole with a buffer`, () =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make({ answer: () => answer })
        yield* server.inject(fault, fault)
        const policy = Policy.make({ name: "anthropic", retry })
        const { exit, seen } = yield* watched.pipe(
          Effect.provide(ResilientModel.layer(policy)),
          Effect.provide(provided(server))
        )
        assert.isTrue(Exit.isFailure(exit))
        assert.isTrue(answer.startsWith(text(seen)))
        assert.isFalse(seen.some(({ type }) => type === "finish"))
        assert.strictEqual((yield* server.requests).length, 1)
        const whole = yield* watched.pipe(
          Effect.provide(ResilientModel.layer(policy, { buffer: true })),
          Effect.provide(provided(server))
        )
        assert.isTrue(Exit.isSuccess(whole.exit))
        assert.strictEqual(text(whole.seen), answer)
        assert.strictEqual((yield* server.requests).length, 3)
      }))
  }

  it.live("a stream that fails before its first part with content is asked for again", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: () => answer })
      yield* server.inject({ _tag: "StreamError", type: "overloaded_error", afterEvents: 1 })
      const { exit, seen } = yield* watched.pipe(
        Effect.provide(ResilientModel.layer(Policy.make({ name: "anthropic", retry }))),
        Effect.provide(provided(server))
      )
      assert.isTrue(Exit.isSuccess(exit), Exit.isFailure(exit) ? Cause.pretty(exit.cause) : "")
      assert.strictEqual(text(seen), answer)
      assert.strictEqual(seen.filter(({ type }) => type === "response-metadata").length, 1)
    }))

  it.live("the limits are known with the first part of a stream, long before its end", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({ answer: () => answer, rateLimit: { requestsPerMinute: 50 } })
      yield* server.inject({ _tag: "StreamStall", afterEvents: 4 })
      const context = yield* Layer.build(Policy.layer)
      const program = Effect.gen(function*() {
        yield* Stream.runDrain(Stream.take(LanguageModel.streamText({ prompt: "Hello" }), 1))
        yield* server.awaitClosedByClient(0)
        return (yield* Quota.state("anthropic")).limits.requests?.limit
      })
      const limit = yield* program.pipe(
        Effect.provide(ResilientModel.layer(Policy.make({ name: "anthropic", quota: {} }))),
        Effect.provide(provided(server)),
        Effect.provideContext(context)
      )
      assert.strictEqual(limit, 50)
    }))

  it.live("tools and objects go through unchanged", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make({
        answer: ({ tools }) =>
          tools === undefined
            ? JSON.stringify({ city: "Zurich" })
            : { content: [{ type: "tool_use", name: "search", input: { query: "x" } }] }
      })
      yield* server.inject({ _tag: "Overloaded" })
      const Kit = Toolkit.make(Tool.make("search", {
        parameters: Schema.Struct({ query: Schema.String }),
        success: Schema.String
      }))
      const ran: Array<string> = []
      const Live = Layer.merge(
        ResilientModel.layer(Policy.make({ name: "anthropic", retry })).pipe(Layer.provide(provided(server))),
        Kit.toLayer({
          search: ({ query }) =>
            Effect.sync(() => {
              ran.push(query)
              return "found"
            })
        })
      )
      const { toolResults } = yield* Effect.provide(LanguageModel.generateText({ prompt: "?", toolkit: Kit }), Live)
      assert.deepStrictEqual(toolResults.map(({ result }) => result), ["found"])
      assert.deepStrictEqual(ran, ["x"])
      const parts = yield* Effect.provide(
        Stream.runCollect(LanguageModel.streamText({ prompt: "?", toolkit: Kit })),
        Live
      )
      assert.deepStrictEqual(parts.filter(({ type }) => type === "tool-result").length, 1)
      assert.deepStrictEqual(ran, ["x", "x"])
      const { value } = yield* Effect.provide(
        LanguageModel.generateObject({ prompt: "?", schema: Schema.Struct({ city: Schema.String }) }),
        Live
      )
      assert.deepStrictEqual(value, { city: "Zurich" })
    }))
})
