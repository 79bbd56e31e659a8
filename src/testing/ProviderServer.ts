/**
 * A real HTTP server on loopback that speaks the Anthropic wire format and misbehaves on command, so that a test or a
 * demo runs the real SDK against every failure a provider has.
 *
 * **When to use**
 *
 * Use it in tests and demos that are to go through the real SDK and real sockets. Where the wire does not matter,
 * `ScriptedModel` and `FaultPlan` are quicker, and run in virtual time.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as config from "../internal/config.ts"
import * as server from "./internal/faultyServer.ts"
import type { MessagesRequest } from "./internal/messagesRequest.ts"
import * as incoming from "./internal/messagesRequest.ts"
import type { AnswerContent } from "./internal/messagesWire.ts"
import * as wire from "./internal/messagesWire.ts"
import type { Fault, FaultTag } from "./internal/providerFault.ts"
import { noneInjected } from "./internal/providerFault.ts"
import * as reply from "./internal/providerReply.ts"
import * as rateWindow from "./internal/rateWindow.ts"
import type { Reply } from "./internal/reply.ts"
import * as weather from "./internal/storm.ts"

export type { MessagesRequest, RequestBlock, RequestTurn } from "./internal/messagesRequest.ts"
export type { AnswerBlock, AnswerContent, StopReason } from "./internal/messagesWire.ts"
export type { Fault, FaultTag } from "./internal/providerFault.ts"

/**
 * A request that is about to be served, as a {@link FaultRule} sees it.
 *
 * **Details**
 *
 * `index` is its place among all requests, from 0. `attemptOf` is the index of the first request with the very same
 * body, when this one repeats it. `millisSinceStart` counts from the start of the server.
 *
 * @category models
 * @since 0.1.0
 */
export interface FaultRequest {
  readonly index: number
  readonly attemptOf: number | undefined
  readonly stream: boolean
  readonly body: MessagesRequest
  readonly millisSinceStart: number
}

/**
 * Chooses the fault of each request; `undefined` is a healthy answer.
 *
 * @category models
 * @since 0.1.0
 */
export type FaultRule = (request: FaultRequest) => Fault | undefined

/**
 * What the server knows about one request.
 *
 * **Details**
 *
 * `body` is the decoded JSON, or the text where it is none. How it ended: `completed` once the response was sent whole,
 * whatever its status, `closedByClient` once the client closed the connection before that, `cutByServer` once a fault or
 * the end of the scope cut it. Until then all three are false.
 *
 * @category models
 * @since 0.1.0
 */
export interface RequestLog {
  readonly index: number
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly attemptOf: number | undefined
  readonly fault: FaultTag | undefined
  readonly completed: boolean
  readonly closedByClient: boolean
  readonly cutByServer: boolean
}

/**
 * Counts since the start of the server.
 *
 * **Details**
 *
 * `answered` counts the healthy messages that were sent whole, and `injected` every fault that was chosen.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  readonly requests: number
  readonly answered: number
  readonly closedByClient: number
  readonly injected: Readonly<Record<FaultTag, number>>
}

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `answer`: the healthy answer to a request: a text, the blocks of one, or an object with more of the message, see
 *   {@link AnswerContent}. Also as an effect, which may wait. It is not asked about a request that is
 *   refused, hangs or is reset before its headers. Default: `Echo: ` and the text of the last user turn.
 * - `faults`: a queue for the first requests, or a rule for all.
 * - `seed`: of message ids and latencies. Default 0.
 * - `latency`: added to every answer, drawn evenly from the range. Default none.
 * - `rateLimit`: limits that are enforced, as token buckets that fill all the time. Without it the headers tell of
 *   limits that nobody reaches.
 * - `history`: how many requests are kept for `requests` and the waits. Default 10,000.
 * - `port`: default 0, any free one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly answer?:
    | ((request: MessagesRequest, index: number) => AnswerContent | Effect.Effect<AnswerContent>)
    | undefined
  readonly faults?: ReadonlyArray<Fault> | FaultRule | undefined
  readonly seed?: number | string | undefined
  readonly latency?: { readonly min: Duration.Input; readonly max: Duration.Input } | undefined
  readonly rateLimit?: {
    readonly requestsPerMinute?: number | undefined
    readonly inputTokensPerMinute?: number | undefined
    readonly outputTokensPerMinute?: number | undefined
  } | undefined
  readonly history?: number | undefined
  readonly port?: number | undefined
}

/**
 * A running server.
 *
 * **Details**
 *
 * - `url`: the base URL for the SDK.
 * - `inject`: the next requests to `/v1/messages` get these faults, one each, in order. A request that the provider
 *   would refuse as it stands (no credentials, a field missing, a tool call without its result) gets its own error and
 *   takes no fault.
 * - `setFaults`: asked for each request while nothing is injected; `undefined` ends it.
 * - `requests`: what came in, oldest first.
 * - `awaitRequest(index)`: waits until this request, counted from 0, has come in whole and its fault is chosen.
 * - `awaitClosedByClient(index)`: waits until the client has closed the connection of this request before its answer was
 *   complete.
 * - `stats`: counts since the start.
 *
 * Both waits end by state and never poll. One that can never end, because the request ended otherwise or the server has
 * closed, dies and says why.
 *
 * @category services
 * @since 0.1.0
 */
export class ProviderServer extends Context.Service<ProviderServer, {
  readonly url: string
  readonly port: number
  readonly inject: (...faults: ReadonlyArray<Fault>) => Effect.Effect<void>
  readonly setFaults: (rule: FaultRule | undefined) => Effect.Effect<void>
  readonly requests: Effect.Effect<ReadonlyArray<RequestLog>>
  readonly awaitRequest: (index: number) => Effect.Effect<RequestLog>
  readonly awaitClosedByClient: (index: number) => Effect.Effect<RequestLog>
  readonly stats: Effect.Effect<Stats>
}>()("effect-resilience/testing/ProviderServer/ProviderServer") {}

const lastUserText = (request: MessagesRequest): string => {
  const content = request.messages.findLast((turn) => turn.role === "user")?.content ?? ""
  if (typeof content === "string") return content
  return content.flatMap((block) => typeof block["text"] === "string" ? [block["text"]] : []).join("\n")
}

const echo = (request: MessagesRequest): AnswerContent => `Echo: ${lastUserText(request)}`

const module = "ProviderServer"

const latencyRange = (options: Options): { readonly min: number; readonly max: number } => {
  if (options.latency === undefined) return { min: 0, max: 0 }
  const min = config.duration(module, "latency.min", options.latency.min)
  const max = config.duration(module, "latency.max", options.latency.max, { minimum: min })
  return { min: Duration.toMillis(min), max: Duration.toMillis(max) }
}

const limitsOf = (given: NonNullable<Options["rateLimit"]>): rateWindow.Limits => {
  const limit = (option: keyof typeof given, unreached: number) =>
    config.integer(module, `rateLimit.${option}`, given[option] ?? unreached, 1)
  return {
    requestsPerMinute: limit("requestsPerMinute", 4_000),
    inputTokensPerMinute: limit("inputTokensPerMinute", 2_000_000),
    outputTokensPerMinute: limit("outputTokensPerMinute", 400_000)
  }
}

/**
 * Starts a server that runs until the scope closes, which destroys every connection at once.
 *
 * **When to use**
 *
 * Use it in a test that has to see what the real SDK, real sockets and a real event stream do.
 *
 * **Details**
 *
 * It serves `POST /v1/messages`, as JSON or as events, and `POST /v1/messages/count_tokens`. Delays run on the `Clock`
 * of the effect that starts it: under `TestClock` they pass when the test says so. An `answer` or a rule that throws
 * shows as a 500 that says so. A port in use is a defect.
 *
 * **Example** (Failing once, then answering)
 *
 * ```ts import.meta.vitest
 * import Anthropic from "@anthropic-ai/sdk"
 * import { Effect } from "effect"
 * import * as ProviderServer from "effect-resilience/testing/ProviderServer"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* ProviderServer.make({ answer: () => "Hello" })
 *   yield* server.inject({ _tag: "Overloaded" })
 *
 *   const sdk = new Anthropic({ apiKey: "test", baseURL: server.url, maxRetries: 0 })
 *   const ask = Effect.tryPromise({
 *     try: () => sdk.messages.create({ model: "m", max_tokens: 64, messages: [{ role: "user", content: "Hi" }] }),
 *     catch: (error) => error instanceof Anthropic.APIError ? error.status : "unknown"
 *   })
 *
 *   const status = yield* Effect.flip(ask)
 *   const message = yield* ask
 *   return [status, message.content]
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => [529, [{ type: "text", text: "Hello", citations: null }]]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options: Options = {}
): Effect.fn.Return<ProviderServer["Service"], never, Scope.Scope> {
  const port = config.integer(module, "port", options.port ?? 0, 0, 65_535)
  const history = config.integer(module, "history", options.history ?? 10_000, 1)
  const latency = latencyRange(options)
  const limits = limitsOf(options.rateLimit ?? {})
  const answer = options.answer ?? echo
  const seed = options.seed ?? 0
  const window = rateWindow.make(limits, yield* Clock.currentTimeMillis)

  const delayed = (planned: Reply, index: number): Reply => server.later(latency, seed, planned, index)

  const planMessage = Effect.fnUntraced(function*(
    body: MessagesRequest,
    fault: Fault | undefined,
    index: number,
    requestId: string
  ) {
    const unanswered = fault === undefined ? undefined : reply.unanswered(fault, requestId)
    if (unanswered !== undefined) return { planned: delayed(unanswered, index), healthy: false }

    const inputTokens = wire.inputTokens(body)
    const now = yield* Clock.currentTimeMillis
    const wait = options.rateLimit === undefined ? 0 : window.wait(now, inputTokens)
    if (wait > 0) {
      return { planned: delayed(reply.throttled(Math.ceil(wait / 1_000), requestId), index), healthy: false }
    }
    window.charge(now, { requests: 1, inputTokens, outputTokens: 0 })

    const given = answer(body, index)
    const content = Effect.isEffect(given) ? yield* given : given
    const message = wire.buildMessage(body, content, seed, index)
    window.charge(yield* Clock.currentTimeMillis, {
      requests: 0,
      inputTokens: message.usage.input_tokens - inputTokens,
      outputTokens: message.usage.output_tokens
    })
    return {
      planned: delayed(reply.answered(fault, body, message, requestId), index),
      healthy: fault === undefined || fault._tag === "SlowFirstByte"
    }
  })

  const decide = (
    { attemptOf, exchange, index, json, millisSinceStart, requestId }: server.Arrival,
    faultFor: (request: FaultRequest) => Fault | undefined
  ): { readonly fault: Fault | undefined; readonly plan: Effect.Effect<server.Planned> } => {
    const answerWith = (planned: Reply) => ({ fault: undefined, plan: Effect.succeed({ planned, healthy: false }) })
    const refuse = (status: number, type: string, message: string) =>
      answerWith(reply.refuse({ status, type, message }, requestId))
    const isMessages = exchange.path === "/v1/messages"
    if (!isMessages && exchange.path !== "/v1/messages/count_tokens") {
      return refuse(404, "not_found_error", `Not found: ${exchange.path}`)
    }
    if (exchange.method !== "POST") return refuse(405, "invalid_request_error", "Method Not Allowed")
    if (exchange.text === undefined) {
      return refuse(413, "request_too_large", "Request exceeds the maximum allowed number of bytes.")
    }
    if (!/^Bearer \S/i.test(exchange.headers["authorization"] ?? "") && !exchange.headers["x-api-key"]) {
      return refuse(401, "authentication_error", "Authentication is required: no credentials were sent.")
    }
    if (Result.isFailure(json)) return refuse(400, "invalid_request_error", "The request body is not valid JSON.")
    if (isMessages) {
      const decoded = incoming.decodeMessages(json.success)
      if (Result.isFailure(decoded)) return refuse(400, "invalid_request_error", decoded.failure)
      const body = decoded.success
      const fault = faultFor({ index, attemptOf, stream: body.stream === true, body, millisSinceStart })
      return { fault, plan: planMessage(body, fault, index, requestId) }
    }
    const decoded = incoming.decodeCount(json.success)
    if (Result.isFailure(decoded)) return refuse(400, "invalid_request_error", decoded.failure)
    return answerWith(reply.countedTokens(wire.inputTokens(decoded.success)))
  }

  const running = yield* server.make<FaultTag, Fault, FaultRequest>({
    port,
    history,
    seed,
    faults: options.faults,
    noneInjected: noneInjected(),
    decide,
    headers: (requestId, nowMillis) => ({ "request-id": requestId, ...window.headers(nowMillis) }),
    broken: reply.broken
  })
  return ProviderServer.of(running)
})

/**
 * Provides a running {@link ProviderServer}, see {@link make}.
 *
 * **Example** (Asking for a message without the SDK)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as ProviderServer from "effect-resilience/testing/ProviderServer"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* ProviderServer.ProviderServer
 *   const response = yield* Effect.promise(() => fetch(`${server.url}/v1/messages`, { method: "POST", body: "{}" }))
 *   const stats = yield* server.stats
 *   return [response.status, stats.requests]
 * })
 *
 * await Effect.runPromise(Effect.provide(program, ProviderServer.layer())) // => [401, 1]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<ProviderServer> => Layer.effect(ProviderServer, make(options))

/**
 * Options of {@link storm}.
 *
 * **Details**
 *
 * `severity` `mild` fails 15 % of the requests, with refusals, resets and errors inside streams; `severe` 45 %, and
 * brings malformed, truncated and cut answers too; `none` leaves only the outage. `outage` is a time in which nothing is
 * answered, counted from the start of the server; a severe storm has one from 2 s to 5 s unless told otherwise.
 * `retryAfter` of the rate limits defaults to 1 second. `seed` chooses which storm of that kind it is.
 *
 * @category models
 * @since 0.1.0
 */
export interface StormOptions {
  readonly seed: number | string
  readonly severity: "none" | "mild" | "severe"
  readonly outage?: { readonly after: Duration.Input; readonly lasts: Duration.Input } | undefined
  readonly retryAfter?: Duration.Input | undefined
}

/**
 * Makes a rule for a bad day of a provider, for `setFaults` or the option `faults`.
 *
 * **Details**
 *
 * The fault depends on the seed, the request's index and whether the outage is on, and on nothing else: the same seed
 * fails the same requests. Every fault of a storm can be told from a good answer by looking at the wire, so a client
 * that looks never takes one for an answer; refusals, empty, shortened or wrongly typed messages, and hangs come only
 * when injected.
 *
 * **Example** (Repeating a storm)
 *
 * ```ts import.meta.vitest
 * import * as ProviderServer from "effect-resilience/testing/ProviderServer"
 *
 * const body = { model: "m", max_tokens: 1, messages: [] }
 * const faults = (rule: ProviderServer.FaultRule) =>
 *   Array.from({ length: 100 }, (_, index) =>
 *     rule({ index, attemptOf: undefined, stream: false, body, millisSinceStart: 0 }))
 *
 * const once = faults(ProviderServer.storm({ seed: 7, severity: "severe" }))
 * const again = faults(ProviderServer.storm({ seed: 7, severity: "severe" }))
 * again // => once
 * ```
 *
 * @category faults
 * @since 0.1.0
 */
export const storm = (options: StormOptions): FaultRule => {
  const outage = options.outage ??
    (options.severity === "severe" ? { after: "2 seconds" as const, lasts: "3 seconds" as const } : undefined)
  const from = Duration.toMillis(config.duration("ProviderServer.storm", "outage.after", outage?.after ?? 0))
  const lasts = Duration.toMillis(config.duration("ProviderServer.storm", "outage.lasts", outage?.lasts ?? 0))
  const retryAfter = config.duration("ProviderServer.storm", "retryAfter", options.retryAfter ?? "1 second")
  const day: weather.Weather = {
    seed: options.seed,
    severity: options.severity,
    retryAfterSeconds: Duration.toSeconds(retryAfter),
    outage: { from, until: from + lasts }
  }
  return ({ index, millisSinceStart }) => weather.faultAt(day, index, millisSinceStart)
}
