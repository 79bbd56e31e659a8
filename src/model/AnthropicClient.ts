/**
 * The official Anthropic SDK as a plain Effect service: interruptible, watched for stalls, and with every failure typed.
 *
 * **When to use**
 *
 * Use it to call the Messages API as it is. For effect/ai's `LanguageModel` use `Anthropic`.
 *
 * @since 0.1.0
 */
import Sdk, { type ClientOptions } from "@anthropic-ai/sdk"
import type * as Messages from "@anthropic-ai/sdk/resources/messages"
import * as AiError from "effect/ai/AiError"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Redacted from "effect/Redacted"
import * as Stream from "effect/Stream"
import { InvalidConfig } from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as errors from "./internal/anthropicErrors.ts"
import { readReply } from "./internal/anthropicMetadata.ts"
import { wholeMessage } from "./internal/anthropicResponse.ts"
import { defaults, secret, validateHeaders } from "./internal/clientOptions.ts"
import { Exchange, watchedFetch } from "./internal/watchedFetch.ts"

/**
 * Where a call comes from; `AiError` carries it as its `module` and `method`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Origin {
  readonly module: string
  readonly method: string
}

/**
 * Service that calls the SDK.
 *
 * **When to use**
 *
 * Use it for what effect/ai's `LanguageModel` does not cover (token counting, batches, files, models), or in programs
 * that do not use effect/ai at all.
 *
 * **Details**
 *
 * The SDK given to the callback does not retry by itself: put `Retry` around the effect. Interruption
 * aborts every request that the callback started, also if the callback did not hand on the signal. Every failure is an
 * `AiError` whose verdict `Fault.classify` reads, also after a round trip through JSON.
 *
 * @category services
 * @since 0.1.0
 */
export class AnthropicClient extends Context.Service<AnthropicClient, {
  /**
   * Runs one call of the SDK to its end, body included. What the SDK returns is passed on as it is; it validates no
   * answer, so `messages.create` can give a text or `null` under HTTP 200: see {@link message}.
   */
  readonly use: <A>(
    call: (sdk: Sdk, signal: AbortSignal) => PromiseLike<A>,
    origin?: Origin
  ) => Effect.Effect<A, AiError.AiError>
  /**
   * Runs a call that answers with a sequence: the events of a stream, or the items of a list. A message whose stream
   * ends before `message_stop` is a failure. The connection is closed when the stream is.
   */
  readonly stream: <A>(
    call: (sdk: Sdk, signal: AbortSignal) => PromiseLike<AsyncIterable<A>>,
    origin?: Origin
  ) => Stream.Stream<A, AiError.AiError>
}>()("effect-resilience/model/AnthropicClient") {}

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `apiKey`: default `ANTHROPIC_API_KEY` from `Config`.
 * - `baseURL`: default `ANTHROPIC_BASE_URL` from `Config`, else `https://api.anthropic.com`.
 * - `responseTimeout`: time until an answer begins, default 5 minutes. Node's own `fetch` gives up after 300 seconds
 *   whatever is set here; to wait longer, stream, or pass a `fetch` with another dispatcher.
 * - `streamTimeout`: the same for a stream, whose answer begins long before it is whole, default 30 seconds, and no longer
 *   than `responseTimeout`.
 * - `stallTimeout`: time without a byte of a body or stream while somebody waits for one, default 30 seconds. Neither
 *   the SDK nor `fetch` has such a limit below 300 seconds. Each byte is a sign of life for the watchdogs around
 *   (`Deadline.stall`, `Deadline.watch`).
 * - `fetch`: default the global one.
 * - `headers`: sent with every request, for example `anthropic-beta`. The SDK's `ANTHROPIC_CUSTOM_HEADERS` is not read.
 * - `sdk`: further options of the SDK, such as `fetchOptions`, `middleware`, `logger`. Its log is off by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly apiKey?: Redacted.Redacted | string | undefined
  readonly baseURL?: string | undefined
  readonly responseTimeout?: Duration.Input | undefined
  readonly streamTimeout?: Duration.Input | undefined
  readonly stallTimeout?: Duration.Input | undefined
  readonly fetch?: typeof globalThis.fetch | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly sdk?:
    | Omit<
      ClientOptions,
      | "apiKey"
      | "authToken"
      | "baseURL"
      | "config"
      | "credentials"
      | "defaultHeaders"
      | "fetch"
      | "maxRetries"
      | "profile"
      | "timeout"
    >
    | undefined
}

const moduleName = "AnthropicClient"

const invalid = (option: string, value: string, expected: string) =>
  new InvalidConfig({ module: moduleName, option, value, expected })

const apiKeyOf = Effect.fnUntraced(function*(apiKey: Options["apiKey"]) {
  const expected = "an API key, as the option apiKey or as ANTHROPIC_API_KEY in the configuration"
  const key = apiKey ??
    (yield* Effect.mapError(Config.Redacted("ANTHROPIC_API_KEY"), () => invalid("apiKey", "missing", expected)))
  return yield* secret(moduleName, "apiKey", key, expected)
})

const baseURLOf = Effect.fnUntraced(function*(baseURL: Options["baseURL"]) {
  const url = baseURL ?? Option.getOrNull(yield* Effect.option(Config.String("ANTHROPIC_BASE_URL")))
  if (url === null || URL.canParse(url)) return url
  return yield* invalid("baseURL", JSON.stringify(url), "an absolute URL")
})

const validated = (options: Options) =>
  Effect.try({
    try: () => {
      const bounds = { minimum: "1 millis" } as const
      validateHeaders(moduleName, options.headers)
      const responseTimeout = config.duration(
        moduleName,
        "responseTimeout",
        options.responseTimeout ?? defaults.responseTimeout,
        bounds
      )
      return {
        responseTimeout,
        streamTimeout: config.duration(
          moduleName,
          "streamTimeout",
          options.streamTimeout ?? Duration.min(Duration.fromInputUnsafe(defaults.streamTimeout), responseTimeout),
          bounds
        ),
        stallTimeout: config.duration(moduleName, "stallTimeout", options.stallTimeout ?? defaults.stallTimeout, bounds)
      }
    },
    catch: (error) => error instanceof InvalidConfig ? error : invalid("options", String(error), "valid options")
  })

/**
 * The SDK without the headers that it takes from `ANTHROPIC_CUSTOM_HEADERS` in the environment of the process, behind the
 * back of `Config`. Each client that it makes of itself takes them again, and is one of these.
 */
class ConfiguredSdk extends Sdk {
  constructor(options: ClientOptions) {
    super(options)
    const kept: unknown = Reflect.get(this, "_options")
    if (Predicate.isObject(kept)) Reflect.set(kept, "defaultHeaders", options.defaultHeaders)
  }
}

/**
 * Creates an `AnthropicClient`. Fails with `Fault.InvalidConfig`, which names the option, where the API key is missing
 * or an option is not usable.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const limits = yield* validated(options)
  const apiKey = yield* apiKeyOf(options.apiKey)
  const baseURL = yield* baseURLOf(options.baseURL)
  const fetch = options.fetch ?? globalThis.fetch
  const sdk = yield* Effect.try({
    try: () =>
      new ConfiguredSdk({
        logLevel: "off",
        webhookKey: null,
        ...options.sdk,
        defaultHeaders: {
          "x-stainless-timeout": String(Math.ceil(Duration.toSeconds(limits.responseTimeout))),
          ...options.headers
        },
        apiKey,
        // Not left out where there is none: the SDK would read the environment behind the back of `Config`.
        baseURL,
        maxRetries: 0,
        // The SDK's timer runs on the machine's clock and stops at the headers. `watchedFetch` keeps the time.
        timeout: 2 ** 31 - 1
      }),
    catch: (error) => invalid("sdk", String(error), "options that the SDK accepts")
  })

  const begin = Effect.fnUntraced(function*<A>(
    call: (sdk: Sdk, signal: AbortSignal) => PromiseLike<A>,
    origin: Origin,
    option: "responseTimeout" | "streamTimeout"
  ) {
    const watch = { answer: { option, after: limits[option] }, stallTimeout: limits.stallTimeout }
    const context = yield* Effect.context<never>()
    const exchange = new Exchange()
    const failure = (cause: unknown) =>
      errors.fromThrown(cause, exchange, origin, Context.get(context, Clock.Clock).currentTimeMillisUnsafe())
    const run = Effect.tryPromise({
      // A client of its own for each call is how `fetch` knows which call it works for.
      try: () => call(sdk.withOptions({ fetch: watchedFetch(fetch, exchange, context, watch) }), exchange.signal),
      catch: failure
    })
    return { exchange, failure, run }
  })

  return AnthropicClient.of({
    use: (call, origin = { module: moduleName, method: "use" }) =>
      Effect.flatMap(
        begin(call, origin, "responseTimeout"),
        ({ exchange, run }) => Effect.onInterrupt(run, () => Effect.sync(() => exchange.abort()))
      ),
    stream: (call, origin = { module: moduleName, method: "stream" }) =>
      Stream.unwrap(Effect.gen(function*() {
        const { exchange, failure, run } = yield* begin(call, origin, "streamTimeout")
        yield* Effect.addFinalizer(() => Effect.sync(() => exchange.abort()))
        const items = yield* run
        const watched = errors.watchEnd(items, exchange)
        return Stream.fromAsyncIterable(watched, failure)
      }))
  })
})

/**
 * Provides an `AnthropicClient`.
 *
 * **Example** (Counting tokens)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AnthropicClient } from "effect-resilience/model/AnthropicClient"
 * import * as Client from "effect-resilience/model/AnthropicClient"
 *
 * const answer = () => Promise.resolve(Response.json({ input_tokens: 12 }))
 *
 * const program = Effect.gen(function*() {
 *   const client = yield* AnthropicClient
 *   const count = yield* client.use((sdk, signal) =>
 *     sdk.messages.countTokens({ model: "claude-opus-5-5", messages: [{ role: "user", content: "Hello" }] }, { signal })
 *   )
 *   return count.input_tokens
 * }).pipe(Effect.provide(Client.layer({ apiKey: "key", fetch: answer })))
 *
 * await Effect.runPromise(program) // => 12
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<AnthropicClient, InvalidConfig> =>
  Layer.effect(AnthropicClient, make(options))

/**
 * Asks for one message, and fails unless a whole one comes: an object of type `message` with content and a stop reason.
 *
 * **Example** (Refusing what is no message)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as AnthropicClient from "effect-resilience/model/AnthropicClient"
 *
 * const loginPage = () => Promise.resolve(new Response("<html>", { headers: { "content-type": "text/html" } }))
 *
 * const program = AnthropicClient.message({
 *   model: "claude-opus-5-5",
 *   max_tokens: 64,
 *   messages: [{ role: "user", content: "Hello" }]
 * }).pipe(
 *   Effect.map((message) => message.stop_reason),
 *   Effect.catchReason("AiError", "InvalidResponseError", () => Effect.succeed("no message")),
 *   Effect.provide(AnthropicClient.layer({ apiKey: "key", fetch: loginPage }))
 * )
 *
 * await Effect.runPromise(program) // => "no message"
 * ```
 *
 * @category requests
 * @since 0.1.0
 */
export const message = Effect.fnUntraced(function*(
  parameters: Messages.MessageCreateParamsNonStreaming
): Effect.fn.Return<Messages.Message, AiError.AiError, AnthropicClient> {
  const origin = { module: moduleName, method: "message" }
  const client = yield* AnthropicClient
  const { data, response } = yield* client.use(
    (sdk, signal) => sdk.messages.create(parameters, { signal }).withResponse(),
    origin
  )
  const now = yield* Clock.currentTimeMillis
  yield* Effect.mapError(
    wholeMessage(data, readReply(response.status, response.headers, now), now),
    (reason) => AiError.make({ ...origin, reason })
  )
  return data
})
