/**
 * A language model that answers by script, for tests without a network.
 *
 * **When to use**
 *
 * Use it in place of a provider's layer, in a test of whatever calls a `LanguageModel`.
 *
 * @since 0.1.0
 */
import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import type * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import type * as Tool from "effect/ai/Tool"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import type { Verdict } from "../Fault.ts"
import * as config from "../internal/config.ts"
import { verdictMetadata } from "../internal/verdict.ts"
import { streamParts } from "./internal/streamParts.ts"

/**
 * What the model was asked in one call.
 *
 * **Details**
 *
 * `index` counts the calls from 0 in the order in which they began, whether they stream or not.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request {
  readonly index: number
  readonly prompt: Prompt.Prompt
  readonly tools: ReadonlyArray<Tool.Any>
  readonly toolChoice: LanguageModel.ProviderOptions["toolChoice"]
  readonly responseFormat: LanguageModel.ProviderOptions["responseFormat"]
  readonly stream: boolean
}

/**
 * What the model does in one call.
 *
 * **Details**
 *
 * A text or a single part is a whole turn and gets its finish part; an array of parts is sent exactly as it is, so that
 * a test can also leave the finish out; {@link streamed} makes a stream that pauses or breaks off; an `AiError` is what
 * the call fails with. For `generateObject` the answer is the
 * JSON text of the object.
 *
 * @category models
 * @since 0.1.0
 */
export type Answer =
  | string
  | Response.PartEncoded
  | ReadonlyArray<Response.PartEncoded>
  | Streamed
  | AiError.AiError

/**
 * An answer whose stream pauses or breaks off, made by {@link streamed}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Streamed {
  readonly _tag: "Streamed"
  readonly answer: string | Response.PartEncoded | ReadonlyArray<Response.PartEncoded>
  readonly pause: Duration.Duration
  readonly after: number | undefined
  readonly end: "whole" | "cut" | "silence" | AiError.AiError
}

/**
 * Options of {@link streamed}.
 *
 * **Details**
 *
 * - `pause`: the time before each part, on the clock of the test. Default: none.
 * - `end`: how the stream ends. `"whole"`: with all of its parts. `"cut"`: without any of the rest, as if that were all.
 *   `"silence"`: never. A failure: with that. Default: `"whole"`.
 * - `after`: how many parts of the stream come before that end. Default: all but the finish part. It has no meaning for
 *   `"whole"`.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamedOptions {
  readonly pause?: Duration.Input | undefined
  readonly end?: "whole" | "cut" | "silence" | Verdict | AiError.AiErrorReason | AiError.AiError | undefined
  readonly after?: number | undefined
}

/**
 * The answers of a model: one per call in order, or computed from each request.
 *
 * **Details**
 *
 * Where an answer is an `Effect` it runs inside the call, so it can sleep on the clock of the test, wait for a latch, or
 * fail.
 *
 * @category models
 * @since 0.1.0
 */
export type Script =
  | ReadonlyArray<Answer | Effect.Effect<Answer, AiError.AiError>>
  | ((request: Request) => Answer | Effect.Effect<Answer, AiError.AiError>)

/**
 * Tokens that a turn says it has used.
 *
 * @category models
 * @since 0.1.0
 */
export interface Usage {
  readonly inputTokens?: number | undefined
  readonly outputTokens?: number | undefined
}

/**
 * Options of {@link turn}.
 *
 * **Details**
 *
 * `finishReason` is `"tool-calls"` by default where the turn asks the program for a tool, else `"stop"`. `usage` is zero
 * by default, so that only the turns that say so spend a budget.
 *
 * @category models
 * @since 0.1.0
 */
export interface TurnOptions {
  readonly finishReason?: Response.FinishReason | undefined
  readonly usage?: Usage | undefined
}

/**
 * What a turn is made of: a text, a part, or another answer's parts (whose finish part is dropped).
 *
 * @category models
 * @since 0.1.0
 */
export type TurnPart = string | Response.PartEncoded | ReadonlyArray<Response.PartEncoded>

/**
 * The requests that the scripted model around has seen.
 *
 * @category services
 * @since 0.1.0
 */
export class Calls extends Context.Service<Calls, {
  /** The requests so far, in the order in which they began. */
  readonly requests: Effect.Effect<ReadonlyArray<Request>>
}>()("effect-resilience/testing/ScriptedModel/Calls") {}

/**
 * Reads what the model was asked so far.
 *
 * **Example** (Looking at the prompts)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const program = Effect.gen(function*() {
 *   yield* LanguageModel.generateText({ prompt: "Hello?" })
 *   const requests = yield* ScriptedModel.requests
 *   return requests.map((request) => request.prompt.content[0]?.role)
 * })
 *
 * await Effect.runPromise(Effect.provide(program, ScriptedModel.layer(["Hi"]))) // => ["user"]
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const requests: Effect.Effect<ReadonlyArray<Request>, never, Calls> = Calls.use((calls) => calls.requests)

const isPart = (value: TurnPart | TurnOptions): value is Response.PartEncoded =>
  typeof value === "object" && "type" in value

const isParts = (value: TurnPart | TurnOptions): value is ReadonlyArray<Response.PartEncoded> => Array.isArray(value)

/**
 * Makes a whole turn of texts, parts and tool calls, and adds the finish part.
 *
 * **Details**
 *
 * The last argument may be {@link TurnOptions}.
 *
 * **Example** (Asking for a tool)
 *
 * ```ts import.meta.vitest
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const parts = ScriptedModel.turn(
 *   "Let me look.",
 *   ScriptedModel.toolCall({ id: "call_1", name: "Search", params: { query: "x" } }),
 *   { usage: { outputTokens: 20 } }
 * )
 *
 * parts.map((part) => part.type) // => ["text", "tool-call", "finish"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const turn: {
  (...parts: ReadonlyArray<TurnPart>): ReadonlyArray<Response.PartEncoded>
  (...args: readonly [...parts: ReadonlyArray<TurnPart>, options: TurnOptions]): ReadonlyArray<Response.PartEncoded>
} = (...args: ReadonlyArray<TurnPart | TurnOptions>): ReadonlyArray<Response.PartEncoded> => {
  const parts: Array<Response.PartEncoded> = []
  let options: TurnOptions = {}
  for (const arg of args) {
    if (typeof arg === "string") parts.push({ type: "text", text: arg })
    else if (isParts(arg)) parts.push(...arg.filter((part) => part.type !== "finish"))
    else if (isPart(arg)) parts.push(arg)
    else options = arg
  }
  const asksForTools = parts.some((part) => part.type === "tool-call" && part.providerExecuted !== true)
  const input = options.usage?.inputTokens ?? 0
  const output = options.usage?.outputTokens ?? 0
  parts.push({
    type: "finish",
    reason: options.finishReason ?? (asksForTools ? "tool-calls" : "stop"),
    usage: {
      inputTokens: { uncached: input, total: input, cacheRead: 0, cacheWrite: 0 },
      outputTokens: { total: output, text: output, reasoning: 0 }
    }
  })
  return parts
}

/**
 * Makes a whole turn of one text.
 *
 * @category constructors
 * @since 0.1.0
 */
export const text = (text: string, options: TurnOptions = {}): ReadonlyArray<Response.PartEncoded> =>
  turn(text, options)

/**
 * Makes the part by which the model asks for a tool; as an answer of its own it is a whole turn.
 *
 * @category constructors
 * @since 0.1.0
 */
export const toolCall = (call: {
  readonly id: string
  readonly name: string
  readonly params: unknown
}): Response.ToolCallPartEncoded => ({ type: "tool-call", id: call.id, name: call.name, params: call.params })

const module = "ScriptedModel"

const reasonOf = (verdict: Verdict): AiError.AiErrorReason => {
  const metadata = verdictMetadata(verdict)
  const description = `scripted failure (${verdict._tag})`
  switch (verdict._tag) {
    case "Throttled":
      return new AiError.RateLimitError({ retryAfter: verdict.retryAfter, metadata })
    case "Malformed":
      return new AiError.InvalidOutputError({ description, metadata })
    case "ContextOverflow":
    case "Permanent":
      return new AiError.InvalidRequestError({ description, metadata })
    case "Refused":
      return new AiError.ContentPolicyError({ description, metadata })
    case "Rejected":
      return new AiError.UnknownError({ description, metadata })
    case "Transient":
    case "Overloaded":
    case "TimedOut":
    case "Ambiguous":
      return new AiError.InternalProviderError({ description, metadata })
  }
}

/**
 * Makes the error of a call that fails: with a verdict, with the reason of an `AiError`, or with an `AiError` as it is.
 *
 * **When to use**
 *
 * Use it with a verdict where the test is about what the guards do, and with an `AiError` where it is about the error.
 *
 * **Example** (Failing once, then answering)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Fault } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const program = LanguageModel.generateText({ prompt: "Hello?" }).pipe(
 *   Effect.retry({ times: 1 }),
 *   Effect.map((response) => response.text),
 *   Effect.provide(ScriptedModel.layer([ScriptedModel.fail(Fault.transient), "Hi"]))
 * )
 *
 * await Effect.runPromise(program) // => "Hi"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const fail = (failure: Verdict | AiError.AiErrorReason | AiError.AiError): AiError.AiError => {
  if (AiError.isAiError(failure)) return failure
  return AiError.make({
    module,
    method: "script",
    reason: AiError.isAiErrorReason(failure) ? failure : reasonOf(failure)
  })
}

/**
 * Makes an answer whose stream pauses between its parts, or is cut in the middle.
 *
 * **When to use**
 *
 * Use it to test what a program does with a stream that stands still, breaks off or ends too early.
 *
 * **Details**
 *
 * The parts that are counted are those of the stream: `text-start`, a `text-delta` for each word, `text-end`. A call that is
 * no stream waits for all the pauses, and gets the failure, never an answer (`"silence"`), or what is left of the answer
 * without its finish part (`"cut"`).
 *
 * Throws `Fault.InvalidConfig` for options that cannot work.
 *
 * **Example** (Breaking off after two words)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Fault } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const cut = ScriptedModel.streamed("Once upon a time", { after: 3, end: Fault.ambiguous })
 * let text = ""
 *
 * const program = LanguageModel.streamText({ prompt: "Tell!" }).pipe(
 *   Stream.runForEach((part) => Effect.sync(() => (text += part.type === "text-delta" ? part.delta : ""))),
 *   Effect.flip,
 *   Effect.provide(ScriptedModel.layer([cut]))
 * )
 *
 * const error = await Effect.runPromise(program)
 * text // => "Once upon"
 * error._tag // => "AiError"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const streamed = (
  answer: string | Response.PartEncoded | ReadonlyArray<Response.PartEncoded>,
  options: StreamedOptions
): Streamed => {
  const { after, end = "whole" } = options
  return {
    _tag: "Streamed",
    answer,
    pause: config.duration("ScriptedModel.streamed", "pause", options.pause ?? 0),
    after: after === undefined ? undefined : config.integer("ScriptedModel.streamed", "after", after, 0),
    end: typeof end === "string" ? end : fail(end)
  }
}

const scriptOver = (index: number, length: number) =>
  AiError.make({
    module,
    method: "script",
    reason: new AiError.UnknownError({
      description: `the script is over: call ${index} (counted from 0) has no answer, the script has ${length}. ` +
        "Add an answer, or find out why the program asks once more",
      metadata: verdictMetadata({ _tag: "Permanent" })
    })
  })

const isStreamed = (answer: Exclude<Answer, AiError.AiError>): answer is Streamed =>
  typeof answer === "object" && "_tag" in answer

const whole = (answer: Streamed["answer"]): ReadonlyArray<Response.PartEncoded> =>
  isParts(answer) ? answer : turn(answer)

/** What comes, and what comes of the stream after that. */
interface Coming {
  readonly parts: ReadonlyArray<Response.PartEncoded>
  readonly shown: ReadonlyArray<Response.StreamPartEncoded>
  readonly pause: Duration.Duration
  readonly rest: Stream.Stream<never, AiError.AiError>
}

const coming = (answer: Exclude<Answer, AiError.AiError>): Coming => {
  if (!isStreamed(answer)) {
    const parts = whole(answer)
    return { parts, shown: streamParts(parts), pause: Duration.zero, rest: Stream.empty }
  }
  const { after, end, pause } = answer
  const parts = whole(answer.answer)
  const shown = streamParts(parts)
  if (end === "whole") return { parts, shown, pause, rest: Stream.empty }
  const rest = end === "cut" ? Stream.empty : end === "silence" ? Stream.never : Stream.fail(end)
  const isFinish = ({ type }: { readonly type: string }) => type === "finish"
  return {
    parts: parts.filter((part) => !isFinish(part)),
    shown: after === undefined ? shown.filter((part) => !isFinish(part)) : shown.slice(0, after),
    pause,
    rest
  }
}

const paused = (pause: Duration.Duration, times: number) =>
  Duration.isZero(pause) ? Effect.void : Effect.sleep(Duration.times(pause, times))

/**
 * Makes a scripted model and the record of its calls.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (
  script: Script
): Effect.Effect<Context.Context<LanguageModel.LanguageModel | Calls>> =>
  Effect.gen(function*() {
    const seen: Array<Request> = []

    const answerTo = (request: Request) => {
      if (typeof script === "function") return script(request)
      return script[request.index] ?? scriptOver(request.index, script.length)
    }

    const ask = (options: LanguageModel.ProviderOptions, stream: boolean) =>
      Effect.suspend(() => {
        const request: Request = {
          index: seen.length,
          prompt: options.prompt,
          tools: options.tools,
          toolChoice: options.toolChoice,
          responseFormat: options.responseFormat,
          stream
        }
        seen.push(request)
        const given = answerTo(request)
        // an AiError is an Effect too, one that fails with itself
        const answer = Effect.isEffect(given) ? given : Effect.succeed(given)
        return Effect.flatMap(
          answer,
          (answer) => AiError.isAiError(answer) ? Effect.fail(answer) : Effect.succeed(coming(answer))
        )
      })

    const model = yield* LanguageModel.make({
      generateText: (options) =>
        Effect.flatMap(ask(options, false), ({ parts, pause, rest, shown }) =>
          Effect.as(Effect.andThen(paused(pause, shown.length), Stream.runDrain(rest)), [...parts])),
      streamText: (options) =>
        ask(options, true).pipe(
          // one part a chunk, as they come from a wire
          Effect.map(({ pause, rest, shown }) =>
            Stream.fromIterable(shown, { chunkSize: 1 }).pipe(
              Stream.mapEffect((part) =>
                Effect.as(paused(pause, 1), part)
              ),
              Stream.concat(rest)
            )
          ),
          Stream.unwrap
        )
    })

    return Context.make(LanguageModel.LanguageModel, model).pipe(
      Context.add(Calls, { requests: Effect.sync(() => seen.slice()) })
    )
  })

/**
 * Provides a `LanguageModel` that answers by script, and {@link Calls}.
 *
 * **Details**
 *
 * Each call, streaming or not, takes the next answer when it begins, also when it is interrupted later. A call that the
 * script has no answer for fails with an `AiError` (reason `UnknownError`, verdict `Permanent`) that names the call. A
 * streamed answer comes part by part: text by words, the parameters of a tool call before the call, the finish last.
 *
 * **Example** (Answering in order)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const program = Effect.gen(function*() {
 *   const first = yield* LanguageModel.generateText({ prompt: "Hello?" })
 *   const second = yield* LanguageModel.generateText({ prompt: "Still there?" })
 *   const third = yield* Effect.flip(LanguageModel.generateText({ prompt: "And now?" }))
 *   return [first.text, second.text, third.reason._tag]
 * })
 * const scripted = ScriptedModel.layer(["Hi", ScriptedModel.text("Yes", { usage: { outputTokens: 3 } })])
 *
 * await Effect.runPromise(Effect.provide(program, scripted)) // => ["Hi", "Yes", "UnknownError"]
 * ```
 *
 * **Example** (Computing the answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const slow = ScriptedModel.layer((request) =>
 *   Effect.as(Effect.sleep("1 millis"), `answer ${request.index} with ${request.tools.length} tools`)
 * )
 *
 * const program = Effect.map(LanguageModel.generateText({ prompt: "Hello?" }), (response) => response.text)
 *
 * await Effect.runPromise(Effect.provide(program, slow)) // => "answer 0 with 0 tools"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (script: Script): Layer.Layer<LanguageModel.LanguageModel | Calls> =>
  Layer.effectContext(make(script))
