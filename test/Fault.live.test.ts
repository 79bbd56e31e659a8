// What the real SDK, Node's fetch and Effect's HttpClient throw over a real socket, against what the rules say of it.
import Anthropic from "@anthropic-ai/sdk"
import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import { Fault } from "effect-resilience"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { FetchHttpClient, HttpClient, HttpClientRequest, HttpClientResponse } from "effect/http"

const params = { model: "claude-opus-5-5", max_tokens: 64, messages: [{ role: "user" as const, content: "Hello?" }] }

type Calls = {
  readonly json?: Fault.Verdict | undefined
  readonly stream?: Fault.Verdict | undefined
  readonly raw?: Fault.Verdict | undefined
}

const classified = (call: () => PromiseLike<unknown>) =>
  Effect.tryPromise({ try: call, catch: (error) => error }).pipe(
    Effect.as(undefined),
    Effect.catch(Fault.classify)
  )

const both = (verdict: Fault.Verdict): Calls => ({ json: verdict, stream: verdict, raw: verdict })
const streams = (verdict: Fault.Verdict): Calls => ({ stream: verdict, raw: verdict })

// `undefined` where the SDK notices nothing
const faults: ReadonlyArray<readonly [ProviderServer.Fault, Calls]> = [
  [{ _tag: "RateLimited", retryAfter: 7 }, both(Fault.throttled("7 seconds"))],
  [{ _tag: "SpendLimit" }, both(Fault.permanent)],
  [{ _tag: "Overloaded", retryAfter: 0.5 }, both(Fault.overloaded("500 millis"))],
  [{ _tag: "Unavailable" }, both(Fault.overloaded())],
  [{ _tag: "ServerError" }, both(Fault.transient)],
  [{ _tag: "ServerError", status: 502, html: true }, both(Fault.transient)],
  [{ _tag: "ServerError", status: 504 }, both(Fault.timedOut)],
  [{ _tag: "StatusError", status: 409, type: "conflict_error", message: "?" }, both(Fault.transient)],
  [{ _tag: "StatusError", status: 401, type: "authentication_error", message: "?" }, both(Fault.permanent)],
  [{ _tag: "PromptTooLong" }, both(Fault.contextOverflow)],
  [{ _tag: "RequestTooLarge" }, both(Fault.contextOverflow)],
  [{ _tag: "ResetBeforeHeaders" }, both(Fault.ambiguous)],
  [{ _tag: "ResetMidBody" }, both(Fault.ambiguous)],
  [{ _tag: "CloseMidBody" }, both(Fault.ambiguous)],
  [{ _tag: "StreamError", afterEvents: 2 }, streams(Fault.overloaded())],
  [{ _tag: "StreamError", type: "api_error", afterEvents: 2 }, streams(Fault.transient)],
  [{ _tag: "StreamReset", afterEvents: 3 }, streams(Fault.ambiguous)],
  [{ _tag: "StreamClose", afterEvents: 3 }, { stream: Fault.malformed }],
  [{ _tag: "StreamEmpty" }, { stream: Fault.malformed }],
  [{ _tag: "StreamBadJson", afterEvents: 3 }, streams(Fault.malformed)]
]

describe("Fault on a real socket", () => {
  it.live.each(faults.map(([fault, verdicts]) => ({ name: JSON.stringify(fault), fault, verdicts })))(
    "the Anthropic SDK: $name",
    ({ fault, verdicts }) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make()
        yield* server.setFaults(() => fault)
        const sdk = new Anthropic({ apiKey: "test", baseURL: server.url, maxRetries: 0, logLevel: "off" })
        const raw = async () => {
          for await (const event of await sdk.messages.create({ ...params, stream: true })) void event
        }
        if (verdicts.json !== undefined) {
          assert.deepStrictEqual(yield* classified(() => sdk.messages.create(params)), verdicts.json, "json")
        }
        assert.deepStrictEqual(
          yield* classified(() => sdk.messages.stream(params).finalMessage()),
          verdicts.stream,
          "stream"
        )
        assert.deepStrictEqual(yield* classified(raw), verdicts.raw, "raw")
      })
  )

  it.live("a port that nobody listens on: the SDK, fetch and HttpClient alike", () =>
    Effect.gen(function*() {
      const { url } = yield* Effect.scoped(ProviderServer.make())
      const sdk = new Anthropic({ apiKey: "test", baseURL: url, maxRetries: 0, logLevel: "off" })
      assert.deepStrictEqual(yield* classified(() => sdk.messages.create(params)), Fault.transient)
      assert.deepStrictEqual(yield* classified(() => fetch(url)), Fault.transient)
      const error = yield* Effect.flip(HttpClient.get(url))
      assert.deepStrictEqual(yield* Fault.classify(error), Fault.transient)
    }).pipe(Effect.provide(FetchHttpClient.layer)))

  it.live("the SDK's timeout, and a caller's abort", () =>
    Effect.gen(function*() {
      const server = yield* ProviderServer.make()
      yield* server.setFaults(() => ({ _tag: "Hang" }))
      const sdk = new Anthropic({ apiKey: "test", baseURL: server.url, maxRetries: 0, logLevel: "off" })
      assert.deepStrictEqual(
        yield* classified(() => sdk.messages.create(params, { timeout: 1 })),
        Fault.timedOut
      )
      assert.deepStrictEqual(
        yield* classified(() => sdk.messages.create(params, { signal: AbortSignal.abort() })),
        Fault.ambiguous
      )
      assert.deepStrictEqual(
        yield* classified(() => fetch(`${server.url}/v1/messages`, { method: "POST", signal: AbortSignal.timeout(1) })),
        Fault.timedOut
      )
    }))

  const overHttp: ReadonlyArray<readonly [ProviderServer.Fault, Fault.Verdict]> = [
    [{ _tag: "RateLimited", retryAfter: 3 }, Fault.throttled("3 seconds")],
    [{ _tag: "Overloaded" }, Fault.overloaded()],
    [{ _tag: "ServerError" }, Fault.transient],
    [{ _tag: "RequestTooLarge" }, Fault.contextOverflow],
    [{ _tag: "ResetBeforeHeaders" }, Fault.ambiguous],
    [{ _tag: "ResetMidBody" }, Fault.ambiguous],
    [{ _tag: "MalformedJson" }, Fault.malformed]
  ]
  it.live.each(overHttp.map(([fault, verdict]) => ({ name: fault._tag, fault, verdict })))(
    "Effect's HttpClient: $name",
    ({ fault, verdict }) =>
      Effect.gen(function*() {
        const server = yield* ProviderServer.make()
        yield* server.setFaults(() => fault)
        const error = yield* HttpClientRequest.post(`${server.url}/v1/messages`).pipe(
          HttpClientRequest.bearerToken("test"),
          HttpClientRequest.bodyJson(params),
          Effect.flatMap(HttpClient.execute),
          Effect.flatMap(HttpClientResponse.filterStatusOk),
          Effect.flatMap((response) => response.json),
          Effect.flip
        )
        assert.deepStrictEqual(yield* Fault.classify(error), verdict)
      }).pipe(Effect.provide(FetchHttpClient.layer))
  )
})
