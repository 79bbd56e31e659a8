/**
 * Anthropic's models as an effect/ai `LanguageModel`, over the official SDK.
 *
 * **When to use**
 *
 * Use it as the model of a program written against effect/ai; put a `ResilientModel` around it for retries, limits and
 * stand-ins. What effect/ai has no word for is reached by `AnthropicClient`.
 *
 * @since 0.1.0
 */
import type * as Messages from "@anthropic-ai/sdk/resources/messages"
import * as AiError from "effect/ai/AiError"
import * as AnthropicStructuredOutput from "effect/ai/AnthropicStructuredOutput"
import * as LanguageModel from "effect/ai/LanguageModel"
import type * as Response from "effect/ai/Response"
import * as AiTelemetry from "effect/ai/Telemetry"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import { InvalidConfig } from "../Fault.ts"
import * as chatSpans from "../internal/chatSpans.ts"
import * as config from "../internal/config.ts"
import * as AnthropicClient from "./AnthropicClient.ts"
import * as metadata from "./internal/anthropicMetadata.ts"
import { encodeRequest, type Parameters, unsendable } from "./internal/anthropicRequest.ts"
import { messageParts } from "./internal/anthropicResponse.ts"
import { EventDecoder } from "./internal/anthropicStream.ts"
import { defaults } from "./internal/clientOptions.ts"
import { erased, restored } from "./internal/erasedModel.ts"
import * as OutputTokens from "./OutputTokens.ts"

/**
 * Schema of {@link RateLimits}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const RateLimits = metadata.RateLimits

/**
 * The `anthropic-ratelimit-*` headers of an answer: limit, what is left, and when it is full again.
 *
 * @category models
 * @since 0.1.0
 */
export type RateLimits = typeof RateLimits.Type

/**
 * Schema of {@link FinishMetadata}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const FinishMetadata = metadata.FinishMetadata

/**
 * What the finish part of an answer carries under `metadata.anthropic`.
 *
 * **Details**
 *
 * `stopReason` is the provider's own word: it tells a full context window (`model_context_window_exceeded`) from
 * `max_tokens`, which both finish with `"length"`. `stopDetails` says why a model refused. `truncatedToolCall` is a call
 * that the answer was cut in; there is no part for it, since its parameters are not complete.
 *
 * @category models
 * @since 0.1.0
 */
export type FinishMetadata = typeof FinishMetadata.Type

/**
 * Schema of {@link ErrorMetadata}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const ErrorMetadata = metadata.ErrorMetadata

/**
 * What an `AiError` of this provider carries under `reason.metadata.anthropic`.
 *
 * @category models
 * @since 0.1.0
 */
export type ErrorMetadata = typeof ErrorMetadata.Type

/**
 * Parameters of the Messages API that are not made from the prompt, the tools and the output format: `thinking`,
 * `stop_sequences`, `output_config.effort`, `service_tier`, `metadata`, and so on, in the API's own spelling.
 *
 * @category models
 * @since 0.1.0
 */
export type RequestParameters = Parameters

/**
 * Parameters that replace those of the layer, see {@link withRequest}. Default: none.
 *
 * @category services
 * @since 0.1.0
 */
export const RequestOverrides: Context.Reference<RequestParameters> = Context.Reference(
  "effect-resilience/model/Anthropic/RequestOverrides",
  { defaultValue: () => ({}) }
)

/**
 * Options of {@link layer}.
 *
 * **Details**
 *
 * - `maxTokens`: of an answer. Default: what an agent prefers, see `OutputTokens`, or 4096. What is left in the budget of
 *   an agent bounds it, but not below what the model may think (`thinking.budget_tokens`).
 * - `cacheControl`: marks the end of each request for the prompt cache; `true` for 5 minutes. Default off. A single part
 *   or message is marked by {@link cached}.
 * - `request`: further parameters of each request, see {@link withRequest} for those of some.
 *
 * The rest are those of {@link AnthropicClient.Options}: `apiKey` (default `ANTHROPIC_API_KEY`), `baseURL`,
 * `responseTimeout` (5 minutes), `streamTimeout` and `stallTimeout` (30 seconds), `fetch`, `headers`, `sdk`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends AnthropicClient.Options, ModelOptions {}

/**
 * Options of {@link model}, without those of the client.
 *
 * @category models
 * @since 0.1.0
 */
export interface ModelOptions {
  readonly model: (string & {}) | Messages.Model
  readonly maxTokens?: number | undefined
  readonly cacheControl?: boolean | "5m" | "1h" | undefined
  readonly request?: RequestParameters | undefined
}

const moduleName = "Anthropic"

const parametersOf = (options: ModelOptions) =>
  Effect.try({
    try: () => ({
      model: config.nonEmpty(moduleName, "model", options.model),
      max_tokens: config.integer(moduleName, "maxTokens", options.maxTokens ?? defaults.maxTokens, 1),
      ...(options.cacheControl === undefined || options.cacheControl === false ? {} : {
        cache_control: {
          type: "ephemeral" as const,
          ...(options.cacheControl === true ? {} : { ttl: options.cacheControl })
        }
      }),
      ...options.request
    }),
    catch: (error) =>
      error instanceof InvalidConfig
        ? error
        : new InvalidConfig({ module: moduleName, option: "options", value: String(error), expected: "an object" })
  })

type InContext = (context: Context.Context<never>) => Context.Context<never>

/** effect/ai starts the span of a call before it asks the model, so that the name comes from around it. */
const named = (model: LanguageModel.LanguageModel, inContext: InContext): LanguageModel.LanguageModel => {
  const { generateObject, generateText, streamText } = erased(model)
  return restored({
    generateText: (options) => Effect.updateContext(generateText(options), inContext),
    generateObject: (options) => Effect.updateContext(generateObject(options), inContext),
    streamText: (options) => Stream.updateContext(streamText(options), inContext)
  }, model.supportsSystemMessagesInHistory)
}

/**
 * Creates the `LanguageModel` over an `AnthropicClient`. Fails with `Fault.InvalidConfig`, which names the option.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: ModelOptions) {
  const parameters = yield* parametersOf(options)
  const client = yield* AnthropicClient.AnthropicClient

  const failWith = (method: string) => (reason: AiError.AiErrorReason) =>
    AiError.make({ module: moduleName, method, reason })

  const begin = Effect.fnUntraced(function*(call: LanguageModel.ProviderOptions) {
    const overrides = yield* RequestOverrides
    const asked = { ...parameters, ...overrides }
    const wanted = yield* OutputTokens.wanted(overrides.max_tokens ?? options.request?.max_tokens ?? options.maxTokens)
    // With less than it may think, a request is refused.
    const thinking = asked.thinking?.type === "enabled" ? asked.thinking.budget_tokens + 1 : 1
    const max_tokens = Math.max(wanted ?? asked.max_tokens, thinking)
    const request = yield* encodeRequest({ ...asked, max_tokens }, call)
    AiTelemetry.addGenAIAnnotations(call.span, {
      provider: { name: "anthropic" },
      operation: { name: "chat" },
      request: { model: request.model, maxTokens: request.max_tokens, stopSequences: request.stop_sequences }
    })
    return request
  })

  const orUnsendable =
    (request: Messages.MessageCreateParamsNonStreaming, fail: (reason: AiError.AiErrorReason) => AiError.AiError) =>
    (error: AiError.AiError) =>
      error.reason._tag === "UnknownError"
        ? Effect.flatMap(
          unsendable(request),
          (reason) => Effect.fail(Option.isSome(reason) ? fail(reason.value) : error)
        )
        : Effect.fail(error)

  const callOf = (call: LanguageModel.ProviderOptions, response: globalThis.Response | undefined) =>
    Effect.map(Clock.currentTimeMillis, (nowMillis) => ({
      options: call,
      reply: metadata.readReply(response?.status, response?.headers, nowMillis),
      nowMillis
    }))

  const generateText = Effect.fnUntraced(function*(call: LanguageModel.ProviderOptions) {
    const origin = { module: moduleName, method: "generateText" }
    const fail = failWith(origin.method)
    const request = yield* Effect.mapError(begin(call), fail)
    const { data, response } = yield* client.use(
      (sdk, signal) => sdk.messages.create(request, { signal }).withResponse(),
      origin
    ).pipe(Effect.catch(orUnsendable(request, fail)))
    const parts = yield* Effect.mapError(messageParts(yield* callOf(call, response), data), fail)
    chatSpans.annotate(call.span, parts)
    return parts
  })

  const streamText = (
    call: LanguageModel.ProviderOptions
  ): Stream.Stream<Response.StreamPartEncoded, AiError.AiError> =>
    Stream.unwrap(Effect.gen(function*() {
      const origin = { module: moduleName, method: "streamText" }
      const fail = failWith(origin.method)
      const request = yield* Effect.mapError(begin(call), fail)
      let response: globalThis.Response | undefined
      const events = client.stream(async (sdk, signal) => {
        const opened = await sdk.messages.create({ ...request, stream: true }, { signal }).withResponse()
        response = opened.response
        return opened.data
      }, origin).pipe(Stream.catch((error) => Stream.fromEffect(orUnsendable(request, fail)(error))))
      const decoder = yield* Effect.cached(
        Effect.suspend(() => Effect.map(callOf(call, response), (known) => new EventDecoder(known)))
      )
      const parts = Stream.mapAccumEffect(events, () => undefined, (_, event) =>
        decoder.pipe(
          Effect.flatMap((decoder) => Effect.mapError(decoder.push(event), fail)),
          Effect.map((parts) => {
            chatSpans.annotate(call.span, parts)
            return [undefined, parts] as const
          })
        ))
      const end = Effect.flatMap(decoder, ({ incomplete }) =>
        incomplete === undefined ? Effect.void : Effect.fail(fail(incomplete)))
      return Stream.concat(parts, Stream.drain(Stream.fromEffect(end)))
    }))

  const model = yield* LanguageModel.make({
    generateText,
    streamText,
    codecTransformer: AnthropicStructuredOutput.toCodecAnthropic
  })
  return named(model, (context) =>
    chatSpans.forCall({
      provider: "anthropic",
      model: Context.get(context, RequestOverrides).model ?? parameters.model
    })(context))
})

/**
 * Provides the `LanguageModel` over the `AnthropicClient` around.
 *
 * **When to use**
 *
 * Use it where several models share one client, or where the program calls the client as well.
 *
 * **Example** (Two models over one client)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import * as Anthropic from "effect-resilience/model/Anthropic"
 * import * as AnthropicClient from "effect-resilience/model/AnthropicClient"
 *
 * const answer = () =>
 *   Promise.resolve(Response.json({
 *     type: "message",
 *     content: [{ type: "text", text: "Hello" }],
 *     stop_reason: "end_turn"
 *   }))
 *
 * const ask = Effect.map(LanguageModel.generateText({ prompt: "Say hello" }), (response) => response.text)
 *
 * const program = Effect.all([
 *   Effect.provide(ask, Anthropic.model({ model: "claude-opus-5-5" })),
 *   Effect.provide(ask, Anthropic.model({ model: "claude-haiku-4-5", maxTokens: 256 }))
 * ]).pipe(Effect.provide(AnthropicClient.layer({ apiKey: "key", fetch: answer })))
 *
 * await Effect.runPromise(program) // => ["Hello", "Hello"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const model = (
  options: ModelOptions
): Layer.Layer<LanguageModel.LanguageModel, InvalidConfig, AnthropicClient.AnthropicClient> =>
  Layer.effect(LanguageModel.LanguageModel, make(options))

/**
 * Provides one of Anthropic's models as the `LanguageModel`.
 *
 * **Details**
 *
 * Every failure of a call is an `AiError` whose verdict `Fault.classify` reads, also after a round trip through JSON.
 * The SDK's own retries are off: put `Retry` or a policy around the call.
 *
 * - A limit of the rate is `Throttled`, 529, 503 and `overloaded_error` inside a stream are `Overloaded`, both with the
 *   provider's `retryAfter`; a limit of money is a `QuotaExhaustedError` and `Permanent`; a prompt that is too long is
 *   `ContextOverflow`.
 * - No answer within `responseTimeout`, or `streamTimeout`, is `TimedOut`. An answer that breaks off or stalls after its
 *   headers is `Ambiguous`: it was executed and is billed. `Fault.idempotent` makes it retryable.
 * - What is no whole message under HTTP 200 is `Malformed`: another body, no `message_stop`, no stop reason, tool input
 *   that is no JSON.
 * - A refusal is no error but the finish reason `"content-filter"`, a full context window finishes with `"length"`; the
 *   provider's own word is in {@link finishMetadata}. Only where an object was asked for are they errors
 *   (`ContentPolicyError`, `StructuredOutputError`), since there is no object then.
 *
 * In a stream, text comes as it is written, and tool calls when the message is known to be whole. Interruption closes
 * the connection.
 *
 * The layer fails with `Fault.InvalidConfig`, which names the option, where the API key is missing or an option is not
 * usable.
 *
 * **Example** (Asking a question)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import * as Anthropic from "effect-resilience/model/Anthropic"
 *
 * const answer = () =>
 *   Promise.resolve(Response.json({
 *     type: "message",
 *     id: "msg_1",
 *     model: "claude-opus-5-5",
 *     role: "assistant",
 *     content: [{ type: "text", text: "Hello" }],
 *     stop_reason: "end_turn",
 *     usage: { input_tokens: 8, output_tokens: 2 }
 *   }))
 *
 * const program = LanguageModel.generateText({ prompt: "Say hello" }).pipe(
 *   Effect.map((response) => response.text),
 *   Effect.provide(Anthropic.layer({ model: "claude-opus-5-5", apiKey: "key", fetch: answer }))
 * )
 *
 * await Effect.runPromise(program) // => "Hello"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<LanguageModel.LanguageModel, InvalidConfig> =>
  Layer.provide(model(options), AnthropicClient.layer(options))

/**
 * Provides the model with options that are read from `Config`. Fails with `ConfigError` where one of them is missing or
 * wrong.
 *
 * **Example** (Reading everything from the environment)
 *
 * ```ts import.meta.vitest
 * import { Config, ConfigProvider, Effect, Layer } from "effect"
 * import * as Anthropic from "effect-resilience/model/Anthropic"
 *
 * const Live = Anthropic.layerConfig({
 *   model: Config.String("ANTHROPIC_MODEL"),
 *   apiKey: Config.Redacted("ANTHROPIC_API_KEY")
 * })
 *
 * const environment = ConfigProvider.fromUnknown({ ANTHROPIC_MODEL: "claude-opus-5-5" })
 *
 * const program = Effect.scoped(Layer.build(Live)).pipe(
 *   Effect.provideService(ConfigProvider.ConfigProvider, environment),
 *   Effect.catchTag("ConfigError", () => Effect.succeed("no API key"))
 * )
 *
 * await Effect.runPromise(program) // => "no API key"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerConfig = (
  options: Config.Wrap<Options>
): Layer.Layer<LanguageModel.LanguageModel, InvalidConfig | Config.ConfigError> =>
  Layer.unwrap(Effect.map(Config.unwrap(options), layer))

/**
 * Runs an effect whose model calls use other parameters than the layer's: another `model`, `max_tokens`, `thinking`.
 * Nested uses add up, the inner one wins.
 *
 * **Example** (Thinking longer about one question)
 *
 * ```ts import.meta.vitest
 * import { LanguageModel } from "effect/ai"
 * import * as Anthropic from "effect-resilience/model/Anthropic"
 *
 * export const hard = LanguageModel.generateText({ prompt: "Prove it" }).pipe(
 *   Anthropic.withRequest({ max_tokens: 32_000, thinking: { type: "enabled", budget_tokens: 16_000 } })
 * )
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const withRequest: {
  (parameters: RequestParameters): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, parameters: RequestParameters): Effect.Effect<A, E, R>
} = dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, parameters: RequestParameters): Effect.Effect<A, E, R> =>
    Effect.updateService(self, RequestOverrides, (outer) => ({ ...outer, ...parameters }))
)

/**
 * Marks a part or a message of a prompt as the end of what the prompt cache keeps, for 5 minutes by default.
 *
 * **Example** (Keeping a long system prompt)
 *
 * ```ts import.meta.vitest
 * import { Prompt } from "effect/ai"
 * import * as Anthropic from "effect-resilience/model/Anthropic"
 *
 * export const prompt = Prompt.make([
 *   { role: "system", content: "The rules of the house", options: Anthropic.cached("1h") },
 *   { role: "user", content: "May I smoke?" }
 * ])
 * ```
 *
 * @category prompts
 * @since 0.1.0
 */
export const cached = (ttl?: "5m" | "1h") => ({
  anthropic: { cacheControl: { type: "ephemeral" as const, ...(ttl === undefined ? {} : { ttl }) } }
})

const decodeFinish = Schema.decodeUnknownOption(Schema.Struct({ anthropic: FinishMetadata }))
const decodeError = Schema.decodeUnknownOption(Schema.Struct({ anthropic: ErrorMetadata }))

/**
 * Reads what the provider said about the end of an answer and its limits, from the parts of a response.
 *
 * @category getters
 * @since 0.1.0
 */
export const finishMetadata = (
  content: Iterable<{ readonly type: string; readonly metadata?: unknown }>
): Option.Option<FinishMetadata> => {
  for (const part of content) {
    if (part.type === "finish") return Option.map(decodeFinish(part.metadata), ({ anthropic }) => anthropic)
  }
  return Option.none()
}

/**
 * Reads status, error code, request id and rate limits from an error of this provider.
 *
 * @category getters
 * @since 0.1.0
 */
export const errorMetadata = (error: AiError.AiError): Option.Option<ErrorMetadata> =>
  "metadata" in error.reason
    ? Option.map(decodeError(error.reason.metadata), ({ anthropic }) => anthropic)
    : Option.none()
