/**
 * A language model with guards around it, and others that stand in for it: still an effect/ai `LanguageModel`, so that the
 * program that calls it stays what it is.
 *
 * **Details**
 *
 * `generateText`, `generateObject` and `streamText` all go through a `Policy`. What is inside of it is one answer of the
 * model and nothing else: tools are run after it, outside of all guards, so that no tool is run twice because an answer
 * was asked for twice, no slot is held while a tool runs, and a tool's failure says nothing of the provider.
 *
 * | failure | what the caller gets |
 * | --- | --- |
 * | of the provider | its `AiError`, as it is |
 * | of a guard: an open circuit, a full bulkhead, a quota or limit, a timeout, a deadline, a stream that stands still | an `AiError` that holds the guard's error: {@link guardError} |
 * | an answer without its finish part | an `AiError` with the verdict `Malformed` |
 *
 * The methods of a `LanguageModel` fail with `AiError` and nothing else, so a guard's error travels in one, in
 * `reason.metadata`: also through a journal or over HTTP, its verdict and its Retry-After are what they were for
 * `Fault.classify`. The reason is `UnknownError`, which effect/ai does not retry, where nothing was sent (`Rejected`), and
 * `InternalProviderError` where the time was over (`TimedOut`). It is never a `RateLimitError`: that is the provider's word.
 *
 * A stream is tried again, hedged and replaced by another model's until its first part with content. After that a failure is
 * what the reader gets: parts of two answers are never mixed. Calls of tools and the finish part are kept back until the
 * answer is known to be whole, so that no tool starts for one that is not. See `Policy.applyStream` for the rest.
 *
 * @since 0.1.0
 */
// effect/ExecutionPlan goes from layer to layer too, for effects and streams: it retries by schedule, has no guards, does
// not say which layer answered, and retries what is around it, the tools included.
import type * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Model from "effect/ai/Model"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Scope from "effect/Scope"
import { InvalidConfig } from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as AdaptiveLimit from "../policy/AdaptiveLimit.ts"
import * as Bulkhead from "../policy/Bulkhead.ts"
import * as CircuitBreaker from "../policy/CircuitBreaker.ts"
import * as Fallback from "../policy/Fallback.ts"
import * as Hedge from "../policy/Hedge.ts"
import * as LastGood from "../policy/LastGood.ts"
import * as Policy from "../policy/Policy.ts"
import * as Quota from "../policy/Quota.ts"
import * as RetryBudget from "../policy/RetryBudget.ts"
import * as erasedModel from "./internal/erasedModel.ts"
import * as answers from "./internal/resilientAnswer.ts"
import * as errors from "./internal/resilientErrors.ts"
import * as internal from "./internal/resilientModel.ts"
import * as requests from "./internal/resilientRequest.ts"

/**
 * What a model is asked, whichever of its methods is called.
 *
 * @category models
 * @since 0.1.0
 */
export interface Request extends requests.Request {}

/**
 * Options of one model.
 *
 * **Details**
 *
 * - `provider`, `modelName`: their names, for spans and for the key. Default: those of effect/ai's `Model`, where the layer is
 *   one, or where one is around.
 * - `key`: what the guards of the policy are shared by, or a function that says so of each request. Default: provider and
 *   model, as `anthropic/claude-opus-5-5`, as far as they are given; else the key of the policy, where it has one of its
 *   own; else the names of the `Model`; else the name of the policy. The quota goes by its own `key` where the policy has
 *   one.
 * - `maxOutputTokens`: how long the answer may be, for the quota. Default: what answers of the key have usually had.
 *
 * @category models
 * @since 0.1.0
 */
export interface ModelOptions {
  readonly provider?: string | undefined
  readonly modelName?: string | undefined
  readonly key?: string | ((request: Request) => string) | undefined
  readonly maxOutputTokens?: number | ((request: Request) => number | undefined) | undefined
}

/**
 * What is remembered of good answers, and when one of them is served.
 *
 * **Details**
 *
 * - `slot`: the name that the answers are kept under; default `"model"`.
 * - `key`: which answer is remembered for a request; none for `undefined`. Default: the digest of prompt, tools and schema.
 * - `label`: the source of an answer that was served again; default `"last good"`.
 * - `maxAge`: how old it may be; default as old as `LastGood` keeps them.
 * - `takes`: which failures it stands in for; default every verdict but `Permanent`.
 *
 * @category models
 * @since 0.1.0
 */
export interface LastGoodOptions {
  readonly slot?: string | undefined
  readonly key?: ((request: Request) => string | undefined) | undefined
  readonly label?: string | undefined
  readonly maxAge?: Duration.Input | undefined
  readonly takes?: Fallback.Takes
}

/**
 * Options that hold for all models of a {@link fallback} alike.
 *
 * **Details**
 *
 * - `estimate`: how many input tokens a request has, for the quota. Default: {@link estimateInputTokens}. What an answer has
 *   really cost is settled from its usage.
 * - `idempotent`: whether an answer may be asked for twice at the same time (`hedge`), and again where nobody knows what
 *   became of it (`Ambiguous`). Default: requests without tools, and whatever the surroundings say (`Fault.Idempotent`).
 * - `buffer`: whether a stream is collected before any of it is handed on, so that all of it can be tried again or replaced;
 *   default no.
 * - `stall`: how long a stream may be silent after its first part; default 30 seconds, and infinity for as long as it likes.
 *   The provider's signs of life, such as pings, count for up to 10 minutes, or for `stall` where that is longer. The time
 *   to the first part, pings or not, is the `timeout` of the policy.
 * - `requireFinish`: whether an answer without a finish part is a failure; default yes.
 * - `lastGood`: keeps good answers of the first model, and serves them, marked as old, when no model answers. Needs a
 *   `LastGood`. Not kept are answers that call tools, those without a finish part, and objects with a `Redacted` in them.
 *   Default: nothing is kept.
 *
 * @category models
 * @since 0.1.0
 */
export interface AnswerOptions {
  readonly estimate?: ((request: Request) => number) | undefined
  readonly idempotent?: boolean | ((request: Request) => boolean) | undefined
  readonly buffer?: boolean | undefined
  readonly stall?: Duration.Input | undefined
  readonly requireFinish?: boolean | undefined
  readonly lastGood?: LastGoodOptions | undefined
}

/**
 * Options of {@link layer} and {@link make}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends ModelOptions, AnswerOptions {}

/**
 * One model of a {@link fallback}.
 *
 * **Details**
 *
 * - `label`: the source of its answers.
 * - `model`: a `LanguageModel`, or a layer of one, which is built once.
 * - `policy`: its guards; default none.
 * - `takes`: which errors of the models before it it stands in for, see `Fallback.Takes`. Default: every verdict but
 *   `Permanent`; and where it is not known to be of the same provider as the one before it, also what is about that
 *   provider: an exhausted quota, a refused key, a schema that it does not support.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry<out E = unknown, out R = unknown, out PE = unknown, out PR = unknown> extends ModelOptions {
  readonly label: string
  readonly model: LanguageModel.LanguageModel | Layer.Layer<LanguageModel.LanguageModel, E, R>
  readonly policy?: Policy.StreamPolicy<PE, PR> | undefined
  readonly takes?: Fallback.Takes
}

/**
 * Schema of {@link Provenance}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Provenance = answers.Provenance

/**
 * Where an answer came from.
 *
 * **Details**
 *
 * - `source`: the label of the model that answered; `"primary"` where there is one only.
 * - `degraded`: whether it is not what was asked for first.
 * - `errors`: what became of the models before it, as in a `Fallback.Answer`.
 * - `lastGood`: of an answer that was served again, from when it is and how old that was.
 *
 * @category models
 * @since 0.1.0
 */
export type Provenance = typeof Provenance.Type

/**
 * Schema of {@link GuardError}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const GuardError = errors.GuardError

/**
 * An error of one of the guards of a policy.
 *
 * @category models
 * @since 0.1.0
 */
export type GuardError = typeof GuardError.Type

/** Options, and what is kept by them: options that may be there count as there. */
type Keeping<O, Kept> = O & { readonly lastGood?: Kept }

/**
 * The services that the option `lastGood` needs.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ServicesOf<Kept> = [Kept] extends [undefined] ? never : LastGood.LastGood

type LayersOf<Entries> = Entries extends ReadonlyArray<infer Entry>
  ? Entry extends { readonly model: infer M } ? Extract<M, Layer.Layer<never, unknown, unknown>> : never
  : never

type PoliciesOf<Entries> = Entries extends ReadonlyArray<infer Entry>
  ? Entry extends { readonly policy?: infer P } ? Exclude<P, undefined> : never
  : never

/**
 * What the layers of these models can fail with while they are built.
 *
 * @category type-level
 * @since 0.1.0
 */
export type EntriesError<Entries> = Layer.Error<LayersOf<Entries>>

/**
 * What the layers and the policies of these models need.
 *
 * @category type-level
 * @since 0.1.0
 */
export type EntriesServices<Entries> =
  | Layer.Services<LayersOf<Entries>>
  | (PoliciesOf<Entries> extends infer P ? P extends Policy.StreamPolicy<unknown, infer R> ? R : never : never)

type Entries = readonly [Entry, ...Array<Entry>]

/** The services that guards can need: those at hand when the model is made stay with it. */
const guards = [
  AdaptiveLimit.AdaptiveLimit,
  Bulkhead.Bulkhead,
  CircuitBreaker.CircuitBreaker,
  Hedge.Latencies,
  LastGood.LastGood,
  Quota.Quota,
  RetryBudget.RetryBudget
] as const

const functionOf = <A>(given: A | ((request: Request) => A)): (request: Request) => A =>
  typeof given === "function" ? given as (request: Request) => A : () => given

interface Names {
  readonly provider: string | undefined
  readonly modelName: string | undefined
}

const namesIn = (context: Context.Context<never>): Names => ({
  provider: Option.getOrUndefined(Context.getOption(context, Model.ProviderName)),
  modelName: Option.getOrUndefined(Context.getOption(context, Model.ModelName))
})

const joined = ({ modelName, provider }: Names): string | undefined =>
  provider === undefined && modelName === undefined
    ? undefined
    : [provider, modelName].filter((name) => name !== undefined).join("/")

const keyOf = (
  where: string,
  options: ModelOptions,
  around: Names,
  policy: Policy.StreamPolicy,
  otherwise: string
): (request: Request) => string => {
  const { key, modelName, provider } = options
  if (typeof key === "function") return key
  if (key !== undefined) return functionOf(config.nonEmpty(where, "key", key))
  const own = policy.key === policy.name ? undefined : policy.key
  return functionOf(joined({ modelName, provider }) ?? own ?? joined(around) ?? otherwise)
}

const choiceOf = (
  where: string,
  label: string,
  model: LanguageModel.LanguageModel,
  policy: Policy.StreamPolicy,
  options: ModelOptions,
  around: Names,
  rest: { readonly takes: Fallback.Takes; readonly key: string }
): internal.Choice => {
  if (policy.fallback.length > 0) {
    throw new InvalidConfig({
      module: where,
      option: "policy",
      value: `policy ${format(policy.name)} with a fallback`,
      expected: "a policy without one: a model has models to fall back to, see ResilientModel.fallback"
    })
  }
  const { maxOutputTokens } = options
  if (typeof maxOutputTokens === "number") config.integer(where, "maxOutputTokens", maxOutputTokens, 1)
  const provider = options.provider ?? around.provider
  const name = options.modelName ?? around.modelName
  return {
    label,
    model: erasedModel.erased(model),
    policy,
    key: keyOf(where, options, around, policy, rest.key),
    takes: rest.takes,
    names: { provider, model: name },
    maxOutputTokens: functionOf(maxOutputTokens)
  }
}

const keptOf = (where: string, options: LastGoodOptions): internal.Kept => {
  const slot = internal.slot(options.slot ?? "model")
  const { key, takes } = options
  const { maxAge } = options
  if (maxAge !== undefined) config.duration(where, "lastGood.maxAge", maxAge, { infinite: true })
  return {
    slot,
    label: config.nonEmpty(where, "lastGood.label", options.label ?? "last good"),
    maxAge,
    takes,
    key: key === undefined
      ? (request) => requests.rememberedAs(slot.name, request)
      : (request) => Effect.sync(() => key(request))
  }
}

const settingsOf = (
  where: string,
  choices: internal.Settings["choices"],
  context: Context.Context<never>,
  options: AnswerOptions
): internal.Settings => {
  const { buffer, estimate, idempotent, lastGood, requireFinish } = options
  const stall = options.stall ?? internal.defaultStall
  config.duration(where, "stall", stall, { minimum: "1 millis", infinite: true })
  return {
    choices,
    services: Context.pick(...guards)(context),
    estimate: estimate ?? requests.estimateInputTokens,
    isIdempotent: idempotent === undefined ? ({ tools }) => tools.length === 0 : functionOf(idempotent),
    requireFinish: requireFinish ?? true,
    buffer: buffer ?? false,
    stall,
    kept: lastGood === undefined ? undefined : keptOf(where, lastGood)
  }
}

/** Whether all of them do; unknown where one of them does not say. */
const supported = (models: ReadonlyArray<LanguageModel.LanguageModel>) => {
  const all: Array<Effect.Effect<boolean>> = []
  for (const { supportsSystemMessagesInHistory } of models) {
    if (supportsSystemMessagesInHistory === undefined) return undefined
    all.push(supportsSystemMessagesInHistory)
  }
  return Effect.map(Effect.all(all), (each) => each.every((one) => one))
}

/**
 * Puts the guards of a policy around a model at hand.
 *
 * **Details**
 *
 * See {@link layer}. The services of the policy are those at hand where this is run. Dies with `Fault.InvalidConfig` when an
 * option cannot work.
 *
 * **Example** (A model value)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Policy, ResilientModel } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const careful = Policy.make({ name: "model", bulkhead: { maxConcurrent: 3 }, retry: {} })
 *
 * const program = Effect.gen(function*() {
 *   const model = yield* ResilientModel.make(yield* LanguageModel.LanguageModel, careful)
 *   return (yield* model.generateText({ prompt: "Hello?" })).text
 * }).pipe(Effect.provide([ScriptedModel.layer(["Hi"]), Policy.layer]))
 *
 * await Effect.runPromise(program) // => "Hi"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <PE, PR, Kept extends LastGoodOptions | undefined = undefined>(
  model: LanguageModel.LanguageModel,
  policy: Policy.StreamPolicy<PE, PR>,
  options?: Keeping<Options, Kept>
): Effect.Effect<LanguageModel.LanguageModel, never, PR | ServicesOf<Kept>> =>
  Effect.contextWith((context: Context.Context<PR | ServicesOf<Kept>>) =>
    Effect.suspend(() => {
      const where = "ResilientModel"
      const given: Options = options ?? {}
      const choice = choiceOf(where, "primary", model, policy, given, namesIn(context), {
        takes: undefined,
        key: policy.key
      })
      return Effect.map(
        internal.make(settingsOf(where, [choice], context, given)),
        (made) => erasedModel.restored(made, model.supportsSystemMessagesInHistory)
      )
    })
  )

/**
 * Puts the guards of a policy around the `LanguageModel` at hand.
 *
 * **When to use**
 *
 * Use it where a program calls one model; {@link fallback} where others may stand in for it.
 *
 * **Details**
 *
 * - Quota: what a request costs is estimated by {@link AnswerOptions} (characters / 4) and `maxOutputTokens`, and settled
 *   from the usage of the answer; the provider's rate-limit headers are read from answers, from failures, and from the first
 *   part of a stream.
 * - Learned limit: the first part with content of a stream is its first token.
 * - Hedge: only requests without tools are asked twice, see `idempotent`.
 * - Slots, quota and limit of a stream are held until it has ended, or its reader has stopped.
 * - Retries: an answer is asked for again with the same prompt, tools and schema.
 *
 * Needs the services of the policy and, with `lastGood`, a `LastGood`. Building it dies with `Fault.InvalidConfig` when an
 * option cannot work; a policy with a `fallback` is refused, since a model cannot answer with an `Answer`.
 *
 * A span around all tries has `resilient_model.key`, `gen_ai.provider.name` and `gen_ai.request.model`; that of each try is
 * named `chat MODEL`, see `Telemetry.layerSpans`.
 *
 * **Example** (A careful model)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Backoff, Fault, Policy, ResilientModel } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const careful = Policy.make({
 *   name: "anthropic",
 *   retry: { backoff: Backoff.fullJitter({ base: "1 millis" }) },
 *   quota: { requests: 50, inputTokens: 40_000, outputTokens: 8_000 },
 *   limit: {},
 *   timeout: "60 seconds"
 * })
 *
 * const Live = ResilientModel.layer(careful, { provider: "anthropic", modelName: "claude-opus-5-5", maxOutputTokens: 4_096 })
 *   .pipe(Layer.provide([ScriptedModel.layer([ScriptedModel.fail(Fault.overloaded()), "Hello"]), Policy.layer]))
 *
 * const program = Effect.map(LanguageModel.generateText({ prompt: "Say hello" }), (response) => response.text)
 *
 * await Effect.runPromise(Effect.provide(program, Live)) // => "Hello"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <PE, PR, Kept extends LastGoodOptions | undefined = undefined>(
  policy: Policy.StreamPolicy<PE, PR>,
  options?: Keeping<Options, Kept>
): Layer.Layer<
  LanguageModel.LanguageModel,
  never,
  LanguageModel.LanguageModel | PR | ServicesOf<Kept>
> =>
  Layer.effect(
    LanguageModel.LanguageModel,
    Effect.flatMap(LanguageModel.LanguageModel, (model) => make<PE, PR, Kept>(model, policy, options))
  )

const unguarded = Policy.make({ name: "unguarded" })

const isModel = (model: Entry["model"]): model is LanguageModel.LanguageModel => LanguageModel.TypeId in model

const built = Effect.fnUntraced(function*({ model }: Entry) {
  if (isModel(model)) return { model, names: { provider: undefined, modelName: undefined } }
  const context = yield* Layer.build(model)
  return { model: Context.get(context, LanguageModel.LanguageModel), names: namesIn(context) }
})

const checkedEntries = (where: string, entries: ReadonlyArray<Entry>): void => {
  const labels = new Set<string>()
  if (entries.length === 0) {
    throw new InvalidConfig({ module: where, option: "entries", value: "[]", expected: "at least one model" })
  }
  for (const { label } of entries) {
    config.nonEmpty(where, "label", label)
    if (labels.has(label)) {
      throw new InvalidConfig({
        module: where,
        option: "label",
        value: format(label),
        expected: "another one for each model, or the answer could not say which it was"
      })
    }
    labels.add(label)
  }
}

/**
 * Makes a model of several, see {@link fallback}. The layers among them are built in the scope around.
 *
 * @category constructors
 * @since 0.1.0
 */
export const makeFallback = <const E extends Entries, Kept extends LastGoodOptions | undefined = undefined>(
  entries: E,
  options?: Keeping<AnswerOptions, Kept>
): Effect.Effect<
  LanguageModel.LanguageModel,
  EntriesError<E>,
  EntriesServices<E> | ServicesOf<Kept> | Scope.Scope
> => {
  const where = "ResilientModel.fallback"
  const all: ReadonlyArray<Entry> = entries
  checkedEntries(where, all)
  const made = Effect.gen(function*() {
    const context = yield* Effect.context<never>()
    const models: Array<LanguageModel.LanguageModel> = []
    const choices: Array<internal.Choice> = []
    let before: string | undefined
    for (const entry of all) {
      const { label, policy = unguarded, takes } = entry
      const { model, names } = yield* built(entry)
      const provider = entry.provider ?? names.provider
      const elsewhere = provider === undefined || provider !== before
      before = provider
      models.push(model)
      choices.push(choiceOf(where, label, model, policy, entry, names, {
        takes: takes ?? errors.mayBeTaken(elsewhere),
        // of two models with one policy each has its own circuit
        key: `${policy.key}/${label}`
      }))
    }
    const [first, ...rest] = choices
    if (first === undefined) return yield* Effect.die(new Error("checkedEntries lets no empty list through"))
    const settings = settingsOf(where, [first, ...rest], context, options ?? {})
    return erasedModel.restored(yield* internal.make(settings), supported(models))
  })
  // the types fold over the entries as the loop does, which the compiler cannot see
  return made as Effect.Effect<
    LanguageModel.LanguageModel,
    EntriesError<E>,
    EntriesServices<E> | ServicesOf<Kept> | Scope.Scope
  >
}

/**
 * Provides a model that is made of several: the first answers, and where it cannot, the next one does.
 *
 * **When to use**
 *
 * Use it to go from a large model to a smaller one, or from one provider to another.
 *
 * **Details**
 *
 * Each model has its own policy and its own key, so that an open circuit of one does not keep another from answering. A
 * model is asked when the policy of the one before it has given up, retries and all, with an error that it takes: see
 * {@link Entry}. An error about the request itself (`Permanent`) is nobody's to take. Prompt, tools and schema are handed on
 * unchanged.
 *
 * Which of them has answered is never silent: {@link provenance} reads it from the answer, {@link toAnswer} makes it a
 * `Fallback.Answer`, and `Telemetry` gets `FallbackUsed`. When none answers, the caller gets the error of the last one that
 * was asked.
 *
 * A stream goes over to the next model until its first part with content; see `buffer` for later than that.
 *
 * Layers are built once, each apart from the others, when this one is built. Throws `Fault.InvalidConfig` for labels that
 * are empty or not all different.
 *
 * **Example** (A smaller model for when the large one is overloaded)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Fault, Policy, ResilientModel } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const large = ScriptedModel.layer([ScriptedModel.fail(Fault.overloaded())])
 * const small = ScriptedModel.layer(["Briefly: hello"])
 * const careful = Policy.make({ name: "anthropic", circuit: {}, timeout: "60 seconds" })
 *
 * const Live = ResilientModel.fallback([
 *   { label: "large", model: large, policy: careful },
 *   { label: "small", model: small, policy: careful }
 * ]).pipe(Layer.provide(Policy.layer))
 *
 * const program = LanguageModel.generateText({ prompt: "Say hello" }).pipe(
 *   Effect.map(ResilientModel.toAnswer),
 *   Effect.provide(Live)
 * )
 *
 * const answer = await Effect.runPromise(program)
 * answer.value.text // => "Briefly: hello"
 * answer.source // => "small"
 * answer.errors.map(({ label, verdict }) => `${label}: ${verdict}`) // => ["large: Overloaded"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const fallback = <const E extends Entries, Kept extends LastGoodOptions | undefined = undefined>(
  entries: E,
  options?: Keeping<AnswerOptions, Kept>
): Layer.Layer<LanguageModel.LanguageModel, EntriesError<E>, EntriesServices<E> | ServicesOf<Kept>> =>
  Layer.effect(LanguageModel.LanguageModel, makeFallback<E, Kept>(entries, options)) as Layer.Layer<
    LanguageModel.LanguageModel,
    EntriesError<E>,
    EntriesServices<E> | ServicesOf<Kept>
  >

/**
 * Estimates the input tokens of a request: a quarter of its characters, and 1,600 for each file.
 *
 * **Details**
 *
 * Counted are the texts of the prompt, the parameters and results of tools as JSON, and the names, descriptions and JSON
 * schemas of the tools and of the object that is asked for. Four characters a token is what providers give as a rule of
 * thumb for English text (https://platform.openai.com/tokenizer); 1,600 is about the most that Anthropic counts for an image
 * (https://docs.anthropic.com/en/docs/build-with-claude/vision).
 *
 * @category getters
 * @since 0.1.0
 */
export const estimateInputTokens = (request: Request): number => requests.estimateInputTokens(request)

/**
 * Reads where an answer came from, from the parts of a response or of a stream.
 *
 * **Details**
 *
 * It is in the finish part, so that of a stream it is known at the end. None for an answer of a model without guards.
 *
 * **Example** (Which model was it?)
 *
 * ```ts import.meta.vitest
 * import { Effect, Option } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { ResilientModel } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const Live = ResilientModel.fallback([{ label: "large", model: ScriptedModel.layer(["Hello"]) }])
 *
 * const program = LanguageModel.generateText({ prompt: "Say hello" }).pipe(
 *   Effect.map(({ content }) => Option.map(ResilientModel.provenance(content), ({ source }) => source)),
 *   Effect.provide(Live)
 * )
 *
 * await Effect.runPromise(program) // => Option.some("large")
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const provenance = (
  content: Iterable<{ readonly type: string; readonly metadata?: unknown }>
): Option.Option<Provenance> => answers.provenanceIn(content)

/**
 * Makes a `Fallback.Answer` of a response, so that it can go through further steps of a `Fallback`, or into a journal.
 *
 * **Details**
 *
 * The response of a model without guards is one of the source `"primary"`.
 *
 * **Example** (A template after all models)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Fallback, Fault, ResilientModel } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const down = ScriptedModel.layer([ScriptedModel.fail(Fault.overloaded())])
 *
 * const program = LanguageModel.generateText({ prompt: "Say hello" }).pipe(
 *   Effect.map(ResilientModel.toAnswer),
 *   Fallback.orElse("template", () => Effect.succeed({ text: "Good day." }), { takes: "all" }),
 *   Effect.provide(ResilientModel.fallback([{ label: "large", model: down }]))
 * )
 *
 * const answer = await Effect.runPromise(program)
 * answer.value.text // => "Good day."
 * ```
 *
 * @category conversions
 * @since 0.1.0
 */
export const toAnswer = <
  A extends { readonly content: Iterable<{ readonly type: string; readonly metadata?: unknown }> }
>(response: A): Fallback.Answer<A> => {
  const { degraded, errors, source } = Option.getOrElse(
    provenance(response.content),
    (): Provenance => ({ source: "primary", degraded: false, errors: [] })
  )
  return new Fallback.Answer({ value: response, source, degraded, errors })
}

/**
 * Reads the guard's own error from an `AiError` that holds one.
 *
 * **When to use**
 *
 * Use it to tell what a guard has refused from what a provider has. For what to do about it, `Fault.classify` of the
 * `AiError` itself has the guard's verdict and Retry-After.
 *
 * **Example** (An open circuit)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Option } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Fault, Policy, ResilientModel } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const Live = ResilientModel.layer(Policy.make({ name: "anthropic", circuit: { failures: 1 } })).pipe(
 *   Layer.provide([ScriptedModel.layer([ScriptedModel.fail(Fault.overloaded())]), Policy.layer])
 * )
 * const ask = LanguageModel.generateText({ prompt: "Hello?" })
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.flip(ask)
 *   const error = yield* Effect.flip(ask)
 *   const { _tag } = yield* Fault.classify(error)
 *   return [_tag, Option.map(ResilientModel.guardError(error), (guard) => guard._tag)]
 * }).pipe(Effect.provide(Live))
 *
 * await Effect.runPromise(program) // => ["Rejected", Option.some("CircuitOpen")]
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const guardError = (error: AiError.AiError): Option.Option<GuardError> => errors.guardError(error)
