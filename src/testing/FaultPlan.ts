/**
 * Seeded faults, latency and malformed output around any effect or language model, in virtual time.
 *
 * **When to use**
 *
 * Use it to tell a failure story in a test: this fails from then to then, that one in ten comes late. The same seed
 * gives the same story.
 *
 * @since 0.1.0
 */
import type * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Random from "effect/Random"
import * as Stream from "effect/Stream"
import * as config from "../internal/config.ts"
import {
  malformedObject,
  malformedResponse,
  malformedValue,
  type Output,
  type Part,
  partSpoiler
} from "./internal/malformed.ts"

const module = "FaultPlan"

/**
 * When a rule applies; every condition that is given must hold.
 *
 * **Details**
 *
 * - `keys`: only calls under these keys. Default: all.
 * - `calls`: only these calls of a key, counted from 1. Default: all.
 * - `from`, `to`: only calls that begin in this time since the plan was made (`to` excluded). Default: always.
 * - `probability`: from 0 to 1. Default: 1.
 *
 * @category models
 * @since 0.1.0
 */
export interface When {
  readonly keys?: ReadonlyArray<string> | ((key: string) => boolean) | undefined
  readonly calls?: ReadonlyArray<number> | undefined
  readonly from?: Duration.Input | undefined
  readonly to?: Duration.Input | undefined
  readonly probability?: number | undefined
}

/**
 * The call that a fault happens to: its key, its number under that key from 1, and the milliseconds since the plan was
 * made.
 *
 * @category models
 * @since 0.1.0
 */
export interface Call {
  readonly key: string
  readonly call: number
  readonly atMillis: number
}

/**
 * A distribution of latencies.
 *
 * @category models
 * @since 0.1.0
 */
export interface Latency {
  /** Milliseconds for two independent draws from [0, 1). */
  readonly sample: (first: number, second: number) => number
}

/**
 * What goes wrong with an output.
 *
 * **Details**
 *
 * In the answer of a language model `"truncated"` breaks the text off, drops what follows and finishes with `length`;
 * `"garbage"` is a page of HTML; `"empty"` has no content; `"unfinished"` lacks the finish part. Of the result of an
 * effect that is a text, `"truncated"` keeps the first half and `"unfinished"` all but the last character; a result
 * that is no text becomes `undefined`. A function gets the text or the result and gives what takes its place.
 *
 * @category models
 * @since 0.1.0
 */
export type Malformation = Output

type Action<E> =
  | { readonly _tag: "Fail"; readonly error: (call: Call) => E; readonly after: boolean }
  | { readonly _tag: "Hang"; readonly after: boolean }
  | { readonly _tag: "Malform"; readonly output: Output }
  | { readonly _tag: "Delay"; readonly latency: Latency }

/**
 * One kind of fault and when it happens.
 *
 * @category models
 * @since 0.1.0
 */
export interface Rule<out E> {
  readonly applies: (call: Call, draw: number) => boolean
  readonly action: Action<E>
}

/**
 * What a plan did to one call.
 *
 * @category models
 * @since 0.1.0
 */
export interface Injection extends Call {
  readonly kind: "failed" | "hung" | "malformed" | "delayed"
  /** How long the call was delayed; 0 for the other kinds. */
  readonly delayMillis: number
}

/**
 * How many calls a plan has seen, and what it did to them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counts {
  readonly calls: number
  readonly failed: number
  readonly hung: number
  readonly malformed: number
  readonly delayed: number
}

interface Decision<out E> {
  readonly delayMillis: number
  readonly fault: Exclude<Action<E>, { readonly _tag: "Delay" }> | undefined
  readonly call: Call
}

/**
 * A plan of faults and the record of what it did.
 *
 * @category models
 * @since 0.1.0
 */
export interface FaultPlan<out E> {
  /** Counts a call and says what happens to it. */
  readonly decide: (key: string) => Effect.Effect<Decision<E>>
  /** What was done so far, in the order in which the calls began. */
  readonly injections: Effect.Effect<ReadonlyArray<Injection>>
  /** The sums of what was done so far. */
  readonly counts: Effect.Effect<Counts>
}

const applies = (when: When): Rule<never>["applies"] => {
  const probability = config.numberBetween(module, "probability", when.probability ?? 1, 0, 1)
  const from = Duration.toMillis(config.duration(module, "from", when.from ?? 0))
  const to = Duration.toMillis(
    config.duration(module, "to", when.to ?? Duration.infinity, { minimum: when.from ?? 0, infinite: true })
  )
  for (const call of when.calls ?? []) config.integer(module, "calls", call, 1)
  const { calls, keys } = when
  const hasKey = typeof keys === "function" ? keys : (key: string) => keys === undefined || keys.includes(key)
  return ({ atMillis, call, key }, draw) =>
    draw < probability && atMillis >= from && atMillis < to && (calls === undefined || calls.includes(call)) &&
    hasKey(key)
}

const isErrorOf = <E>(error: E | ((call: Call) => E)): error is (call: Call) => E => typeof error === "function"

/**
 * Fails a call: before it is made, or with `after` when it has been made and its answer is lost.
 *
 * **Details**
 *
 * With `after` the effect runs to its success and the caller sees the error, as when a connection is reset while the
 * answer is on its way. A stream with `after` gives its parts and fails in place of its end. A failure of the effect's
 * own stays what it is.
 *
 * **Example** (Losing an answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { FaultPlan } from "effect-resilience/testing"
 *
 * const program = Effect.gen(function*() {
 *   const plan = yield* FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ calls: [1], after: true, error: "reset" })] })
 *   const sent: Array<string> = []
 *   const send = Effect.sync(() => sent.push("mail")).pipe(FaultPlan.apply(plan, "mail"))
 *   const error = yield* Effect.flip(send)
 *   return [error, sent.length]
 * })
 *
 * await Effect.runPromise(program) // => ["reset", 1]
 * ```
 *
 * @category rules
 * @since 0.1.0
 */
export const fail = <E>(
  options: When & { readonly error: E | ((call: Call) => E); readonly after?: boolean | undefined }
): Rule<E> => {
  const { error } = options
  return {
    applies: applies(options),
    action: { _tag: "Fail", error: isErrorOf(error) ? error : () => error, after: options.after ?? false }
  }
}

/**
 * Fails every call that begins between `from` and `to`, measured on the `Clock` since the plan was made.
 *
 * @category rules
 * @since 0.1.0
 */
export const outage = <E>(
  options: When & {
    readonly from: Duration.Input
    readonly to: Duration.Input
    readonly error: E | ((call: Call) => E)
  }
): Rule<E> => fail(options)

/**
 * Never answers: before the call is made, or with `after` when it has been made.
 *
 * @category rules
 * @since 0.1.0
 */
export const hang = (options: When & { readonly after?: boolean | undefined } = {}): Rule<never> => ({
  applies: applies(options),
  action: { _tag: "Hang", after: options.after ?? false }
})

/**
 * Spoils the output of a call, see {@link Malformation}.
 *
 * @category rules
 * @since 0.1.0
 */
export const malformed = (options: When & { readonly output: Malformation }): Rule<never> => ({
  applies: applies(options),
  action: { _tag: "Malform", output: options.output }
})

/**
 * Delays a call before it is made, by a duration or a distribution. The delays of several rules add up.
 *
 * @category rules
 * @since 0.1.0
 */
export const delay = (options: When & { readonly by: Duration.Input | Latency }): Rule<never> => {
  const { by } = options
  const latency = typeof by === "object" && "sample" in by ? by : constant(by)
  return { applies: applies(options), action: { _tag: "Delay", latency } }
}

const constant = (by: Duration.Input): Latency => {
  const millis = Duration.toMillis(config.duration(module, "by", by))
  return { sample: () => millis }
}

/**
 * Makes latencies spread evenly between `min` and `max`.
 *
 * @category latencies
 * @since 0.1.0
 */
export const uniform = (options: { readonly min: Duration.Input; readonly max: Duration.Input }): Latency => {
  const min = Duration.toMillis(config.duration(module, "min", options.min))
  const max = Duration.toMillis(config.duration(module, "max", options.max, { minimum: options.min }))
  return { sample: (draw) => min + draw * (max - min) }
}

// the 99th percentile of the standard normal distribution
const z99 = 2.3263478740408408

/**
 * Makes latencies with a long tail, as services have them: log-normal, given by `median` and 99th percentile (`p99`).
 *
 * **Details**
 *
 * A normal variate comes from two draws by the Box-Muller transform (Box and Muller, "A Note on the Generation of Random
 * Normal Deviates", 1958).
 *
 * @category latencies
 * @since 0.1.0
 */
export const logNormal = (options: { readonly median: Duration.Input; readonly p99: Duration.Input }): Latency => {
  const median = Duration.toMillis(config.duration(module, "median", options.median, { minimum: 1 }))
  const p99 = Duration.toMillis(config.duration(module, "p99", options.p99, { minimum: options.median }))
  const sigma = Math.log(p99 / median) / z99
  return {
    // 1 - draw is in (0, 1], where the logarithm is finite
    sample: (first, second) =>
      median * Math.exp(sigma * Math.sqrt(-2 * Math.log(1 - first)) * Math.cos(2 * Math.PI * second))
  }
}

type ErrorOf<Rules extends ReadonlyArray<Rule<unknown>>> = Rules[number] extends infer R
  ? R extends Rule<infer E> ? E : never
  : never

const kinds = { Fail: "failed", Hang: "hung", Malform: "malformed" } as const

/**
 * Makes a plan of `faults`; its time begins now, its counts at zero.
 *
 * **Details**
 *
 * Of all rules that apply to a call, the delays add up, and then the first other one in the list happens. A key has a
 * random sequence of its own, made of the `seed` and the key and moved on by its calls alone: the n-th call of a key draws
 * the same numbers whatever other keys do and however long anything takes. Throws `Fault.InvalidConfig` for options that
 * make no sense.
 *
 * **Example** (An outage, and some bad luck)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { FaultPlan } from "effect-resilience/testing"
 * import { TestClock } from "effect/testing"
 *
 * const program = Effect.gen(function*() {
 *   const plan = yield* FaultPlan.make({
 *     seed: "bad day",
 *     faults: [
 *       FaultPlan.outage({ from: "1 minute", to: "2 minutes", error: "down" as const }),
 *       FaultPlan.fail({ calls: [2], error: "reset" as const })
 *     ]
 *   })
 *   const call = Effect.succeed("ok").pipe(FaultPlan.apply(plan), Effect.catch(Effect.succeed))
 *   const early = [yield* call, yield* call, yield* call]
 *   yield* TestClock.adjust("90 seconds")
 *   return [...early, yield* call]
 * })
 *
 * await Effect.runPromise(Effect.provide(program, TestClock.layer())) // => ["ok", "reset", "ok", "down"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <const Rules extends ReadonlyArray<Rule<unknown>>>(options: {
  readonly seed: string | number
  readonly faults: Rules
}): Effect.Effect<FaultPlan<ErrorOf<Rules>>> => {
  // each element is a Rule of its own error type, which the type of a readonly array of them cannot say
  const rules = options.faults as ReadonlyArray<Rule<unknown>> as ReadonlyArray<Rule<ErrorOf<Rules>>>
  return Effect.gen(function*() {
    const start = yield* Clock.currentTimeMillis
    const keys = new Map<string, { calls: number; readonly random: (typeof Random.Random)["Service"] }>()
    const injections: Array<Injection> = []
    let calls = 0

    const stateOf = Effect.fnUntraced(function*(key: string) {
      const known = keys.get(key)
      if (known !== undefined) return known
      const random = yield* Random.withSeed(Effect.service(Random.Random), JSON.stringify([options.seed, key]))
      // another fiber may have been here in the meantime
      const state = keys.get(key) ?? { calls: 0, random }
      keys.set(key, state)
      return state
    })

    const decide = Effect.fnUntraced(function*(key: string) {
      const now = yield* Clock.currentTimeMillis
      const state = yield* stateOf(key)
      // no yield from here on: counting and drawing are one step
      const call: Call = { key, call: ++state.calls, atMillis: now - start }
      calls++
      let delayMillis = 0
      let fault: Decision<ErrorOf<Rules>>["fault"]
      for (const rule of rules) {
        // every rule draws in every call, so that what one draws never depends on another
        const draws = [0, 0, 0].map(() => state.random.nextDoubleUnsafe())
        const [chance = 0, first = 0, second = 0] = draws
        if (!rule.applies(call, chance)) continue
        if (rule.action._tag === "Delay") delayMillis += rule.action.latency.sample(first, second)
        else fault ??= rule.action
      }
      if (delayMillis > 0) injections.push({ ...call, kind: "delayed", delayMillis })
      if (fault !== undefined) injections.push({ ...call, kind: kinds[fault._tag], delayMillis: 0 })
      return { call, delayMillis, fault }
    })

    const count = (kind: Injection["kind"]) => injections.filter((injection) => injection.kind === kind).length

    return {
      decide,
      injections: Effect.sync(() => injections.slice()),
      counts: Effect.sync(() => ({
        calls,
        failed: count("failed"),
        hung: count("hung"),
        malformed: count("malformed"),
        delayed: count("delayed")
      }))
    }
  })
}

const decideAndWait = <E>(plan: FaultPlan<E>, key: string): Effect.Effect<Decision<E>> =>
  Effect.tap(plan.decide(key), ({ delayMillis }) => delayMillis > 0 ? Effect.sleep(delayMillis) : Effect.void)

const run = <A, E, R, E2>(
  self: Effect.Effect<A, E, R>,
  plan: FaultPlan<E2>,
  key: string,
  spoil: (output: Output, value: A) => Effect.Effect<A, E | E2, R>
): Effect.Effect<A, E | E2, R> =>
  Effect.flatMap(decideAndWait(plan, key), ({ call, fault }): Effect.Effect<A, E | E2, R> => {
    if (fault === undefined) return self
    switch (fault._tag) {
      case "Fail": {
        const failure = Effect.suspend(() => Effect.fail(fault.error(call)))
        return fault.after ? Effect.andThen(self, failure) : failure
      }
      case "Hang":
        return fault.after ? Effect.andThen(self, Effect.never) : Effect.never
      case "Malform":
        return Effect.flatMap(self, (value) => spoil(fault.output, value))
    }
  })

/**
 * Runs an effect under a plan, as one call of the key (default: `"default"`).
 *
 * **Example** (Counting what was injected)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { FaultPlan } from "effect-resilience/testing"
 *
 * const program = Effect.gen(function*() {
 *   const plan = yield* FaultPlan.make({ seed: 7, faults: [FaultPlan.fail({ probability: 0.5, error: "reset" })] })
 *   yield* Effect.void.pipe(FaultPlan.apply(plan, "search"), Effect.ignore, Effect.repeat({ times: 99 }))
 *   const { calls, failed } = yield* plan.counts
 *   return [calls, failed > 30 && failed < 70]
 * })
 *
 * await Effect.runPromise(program) // => [100, true]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const apply: {
  <E2>(plan: FaultPlan<E2>, key?: string): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | E2, R>
  <A, E, R, E2>(self: Effect.Effect<A, E, R>, plan: FaultPlan<E2>, key?: string): Effect.Effect<A, E | E2, R>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R, E2>(
    self: Effect.Effect<A, E, R>,
    plan: FaultPlan<E2>,
    key = "default"
  ): Effect.Effect<A, E | E2, R> =>
    // a malformed value is by intention not what its type says: that is the fault
    run(self, plan, key, (output, value) => Effect.succeed(malformedValue(output, value) as A))
)

// The methods of a LanguageModel without their type parameters, which only relate a caller's options to the parts of
// the answer: a plan hands both through.
interface Erased {
  readonly generateText: (options: object) => Effect.Effect<LanguageModel.GenerateTextResponse<{}>, AiError.AiError>
  readonly generateObject: (
    options: object
  ) => Effect.Effect<LanguageModel.GenerateObjectResponse<{}, unknown>, AiError.AiError>
  readonly streamText: (options: object) => Stream.Stream<Part, AiError.AiError>
}

const spoilObject = (output: Output, response: LanguageModel.GenerateObjectResponse<{}, unknown>) =>
  output === "unfinished"
    ? Effect.succeed(
      new LanguageModel.GenerateObjectResponse(response.value, malformedResponse(output, response).content)
    )
    : Effect.fail(malformedObject(output, response.text))

const runStream = (
  self: Stream.Stream<Part, AiError.AiError>,
  plan: FaultPlan<AiError.AiError>,
  key: string
): Stream.Stream<Part, AiError.AiError> =>
  decideAndWait(plan, key).pipe(
    Effect.map(({ call, fault }): Stream.Stream<Part, AiError.AiError> => {
      if (fault === undefined) return self
      // "after" is in place of the end: a stream that breaks off has no finish part
      const unfinished = Stream.filter(self, (part) => part.type !== "finish")
      switch (fault._tag) {
        case "Fail": {
          const failure = Stream.suspend(() => Stream.fail(fault.error(call)))
          return fault.after ? Stream.concat(unfinished, failure) : failure
        }
        case "Hang":
          return fault.after ? Stream.concat(unfinished, Stream.never) : Stream.never
        case "Malform":
          return Stream.suspend(() => {
            const spoil = partSpoiler(fault.output)
            return Stream.flatMap(self, (part) => Stream.fromIterable(spoil(part)))
          })
      }
    }),
    Stream.unwrap
  )

const decorate = (
  model: LanguageModel.LanguageModel,
  plan: FaultPlan<AiError.AiError>,
  key: string
): LanguageModel.LanguageModel => {
  const inner = model as unknown as Erased
  const outer: Erased = {
    generateText: (options) =>
      run(
        inner.generateText(options),
        plan,
        key,
        (output, response) => Effect.succeed(malformedResponse(output, response))
      ),
    generateObject: (options) => run(inner.generateObject(options), plan, key, spoilObject),
    streamText: (options) => runStream(inner.streamText(options), plan, key)
  }
  return { ...model, ...outer as unknown as Omit<LanguageModel.LanguageModel, typeof LanguageModel.TypeId> }
}

/**
 * Puts the language model that a layer provides under a plan, each request one call of the key (default: `"model"`).
 *
 * **Details**
 *
 * The faults are what a caller of the model sees: a failed request never reaches the model, except with `after`; a
 * malformed object is the `StructuredOutputError` that decoding it would have failed with. The layer's other services
 * stay as they are.
 *
 * **Example** (A model that is overloaded once)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { LanguageModel } from "effect/ai"
 * import { Fault } from "effect-resilience"
 * import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
 *
 * const overloaded = ScriptedModel.fail(Fault.overloaded("2 seconds"))
 * const model = FaultPlan.make({ seed: 1, faults: [FaultPlan.fail({ calls: [1], error: overloaded })] }).pipe(
 *   Effect.map((plan) => FaultPlan.layerLanguageModel(plan)(ScriptedModel.layer(["Hi"]))),
 *   Layer.unwrap
 * )
 *
 * const program = Effect.gen(function*() {
 *   const error = yield* Effect.flip(LanguageModel.generateText({ prompt: "Hello?" }))
 *   const answer = yield* LanguageModel.generateText({ prompt: "Hello?" })
 *   return [(yield* Fault.classify(error))._tag, answer.text]
 * })
 *
 * await Effect.runPromise(Effect.provide(program, model)) // => ["Overloaded", "Hi"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLanguageModel = (plan: FaultPlan<AiError.AiError>, key = "model") =>
<ROut, E, R>(
  layer: Layer.Layer<ROut, E, R>
): Layer.Layer<ROut | LanguageModel.LanguageModel, E, R | Exclude<LanguageModel.LanguageModel, ROut>> =>
  Layer.provideMerge(
    Layer.effect(
      LanguageModel.LanguageModel,
      Effect.map(LanguageModel.LanguageModel, (model) => decorate(model, plan, key))
    ),
    layer
  )
