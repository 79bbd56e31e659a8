/**
 * Answers with something else when the best answer cannot be had, and says so in the type of the answer.
 *
 * **Details**
 *
 * A step is any effect. What usually stands in, best first:
 *
 * | step | how |
 * | --- | --- |
 * | another model or provider | the same effect with another layer: `() => Effect.provide(ask(question), smallModel)` |
 * | the last good answer | `LastGood.orElse`, or `LastGood.recall` as the effect of a step |
 * | a simplified prompt | the same effect with less in it: `() => ask(shortened(question))` |
 * | what can be had of the parts | {@link partial} |
 * | a template by message kind | a record with an entry for every kind: `() => Effect.succeed(templates[kind](name))` |
 * | a fixed emergency answer | `() => Effect.succeed("…")` with `takes: "all"`: whatever happened, there is an answer |
 *
 * A layer that a step provides is built when the step is needed, and released when it has answered. Build what is
 * expensive once, around the program.
 *
 * **Example** (Going down the whole ladder)
 *
 * ```ts import.meta.vitest
 * import { Context, Effect, Layer } from "effect"
 * import { Fallback, Fault } from "effect-resilience"
 *
 * class Model extends Context.Service<Model, {
 *   readonly complete: (prompt: string) => Effect.Effect<string, { readonly [Fault.verdictOf]: Fault.Verdict }>
 * }>()("Model") {}
 *
 * const overloaded = { [Fault.verdictOf]: Fault.overloaded() }
 * const tooLong = { [Fault.verdictOf]: Fault.contextOverflow }
 * const large = Layer.succeed(Model, { complete: () => Effect.fail(overloaded) })
 * const small = Layer.succeed(Model, {
 *   complete: (prompt) => prompt.length > 11 ? Effect.fail(tooLong) : Effect.succeed(`about ${prompt}`)
 * })
 *
 * const templates = {
 *   question: (name: string) => `We will answer you soon, ${name}.`,
 *   complaint: (name: string) => `We are sorry, ${name}.`
 * }
 * const ask = (prompt: string) => Effect.flatMap(Model, (model) => model.complete(prompt))
 *
 * const reply = (kind: keyof typeof templates, name: string, prompt: string) =>
 *   Effect.provide(ask(prompt), large).pipe(
 *     Fallback.orElse("other model", () => Effect.provide(ask(prompt), small)),
 *     Fallback.orElse("short prompt", () => Effect.provide(ask(prompt.slice(0, 11)), small)),
 *     Fallback.orElse("template", () => Effect.succeed(templates[kind](name)), { takes: "all" })
 *   )
 *
 * const answer = await Effect.runPromise(reply("question", "Ann", "the history of bridges"))
 * answer.source // => "short prompt"
 * answer.value // => "about the history"
 * ```
 *
 * @since 0.1.0
 */
import type * as Arr from "effect/Array"
import * as Effect from "effect/Effect"
import { dual, identity } from "effect/Function"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import type * as Types from "effect/Types"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as internal from "./internal/fallback.ts"
import {
  Answer,
  type Answered,
  answerFirst,
  failFirst,
  isAnswer,
  run,
  type SourceOf,
  type ValueOf
} from "./internal/fallbackAnswer.ts"

export { Answer, type Answered, isAnswer, type SourceOf, type ValueOf }

/**
 * What is left of the failure of a step: plain data that a log or a journal can take.
 *
 * **Details**
 *
 * `tag` is the error's `_tag`, or its name; `message` is cut after 1,000 characters. `skipped` says that the step was not
 * tried: a guard of ours refused it (the verdict is `Rejected`), such as an open circuit or a full bulkhead.
 *
 * @category models
 * @since 0.1.0
 */
export interface FailedStep extends internal.FailedStep {}

/**
 * Which errors of the steps before it a step takes.
 *
 * **Details**
 *
 * - `undefined`, the default: every error whose verdict is not `Permanent`.
 * - `"all"`: every error.
 * - tags: the errors with these tags, whatever their verdict.
 * - a predicate or a refinement over the error and its verdict.
 *
 * @category models
 * @since 0.1.0
 */
export type Takes = internal.Takes

/**
 * What `takes` leaves of the error type `E`.
 *
 * **Details**
 *
 * By default only those errors are taken for granted whose class says with the type of its `Fault.verdictOf` that it is
 * never `Permanent`; an error without one may turn out to be, and stays. Of a list of tags only those are that are sure
 * to be in it: a list of unknown length, or an element that is one of several tags, promises none.
 *
 * @category type level
 * @since 0.1.0
 */
export type NotTaken<E, T> = [T] extends [undefined] ? MaybePermanent<E>
  : T extends "all" ? never
  : T extends ReadonlyArray<string> ? Types.ExcludeTag<E, SureTags<T>>
  : T extends ((error: unknown, verdict: Fault.Verdict) => error is infer Refined) ? Exclude<E, Refined>
  : T extends ((error: E, verdict: Fault.Verdict) => error is infer Refined extends E) ? Exclude<E, Refined>
  : E

/**
 * The {@link Takes} of an effect that fails with `E`: only tags that there are.
 *
 * @category type level
 * @since 0.1.0
 */
export type TakesOf<E> =
  | "all"
  | Arr.NonEmptyReadonlyArray<Types.Tags<E>>
  | ((error: NoInfer<E>, verdict: Fault.Verdict) => boolean)
  | undefined

type SureTags<T extends ReadonlyArray<string>> = T extends
  readonly [infer Tag extends string, ...infer Rest extends ReadonlyArray<string>] ? SingleTag<Tag> | SureTags<Rest>
  : never

// a record of one literal has a required property; that of `string` or of a template has an index, and `{}` fits
type SingleTag<Tag extends string> = Types.IsUnion<Tag> extends true ? never
  : {} extends Record<Tag, unknown> ? never
  : Tag

// The errors of an effect, and not those that a declared result leaves of them. NotTaken cannot look through NoInfer.
type NotInferred<E> = [E][E extends unknown ? 0 : never]

type MaybePermanent<E> = E extends { readonly [Fault.verdictOf]: { readonly _tag: infer Tag } }
  ? "Permanent" extends Tag ? E : never
  : E

/**
 * Labels the first step, which is else called `"primary"`.
 *
 * **Details**
 *
 * The effect is one step, whatever there is inside of it; an {@link Answer} that it gives stays as it is.
 *
 * **Example** (Naming the first choice)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fallback } from "effect-resilience"
 *
 * const answer = Effect.succeed("42").pipe(Fallback.primary("large model"))
 *
 * await Effect.runPromise(Effect.map(answer, (a) => a.source)) // => "large model"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const primary: {
  <const Label extends string>(
    label: Label
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<Answer<ValueOf<A>, SourceOf<A, Label>>, E, R>
  <A, E, R, const Label extends string>(
    self: Effect.Effect<A, E, R>,
    label: Label
  ): Effect.Effect<Answer<ValueOf<A>, SourceOf<A, Label>>, E, R>
} = dual(2, <A, E, R, const Label extends string>(
  self: Effect.Effect<A, E, R>,
  label: Label
): Effect.Effect<Answer<ValueOf<A>, SourceOf<A, Label>>, E, R> => {
  config.nonEmpty("Fallback.primary", "label", label)
  return Effect.matchCauseEffect(self, {
    onSuccess: (value) => answerFirst(label, value),
    onFailure: (cause) => failFirst(label, cause)
  })
})

/**
 * Answers with `that` when the effect fails, under a label, and says in the answer which of them it was.
 *
 * **When to use**
 *
 * Use it wherever a second best answer is better than none: a smaller model, another provider, a template.
 *
 * **Details**
 *
 * On an effect that gives an {@link Answer} already it adds one more step to it: the answer is not nested, its sources
 * are the union of all. The first step is called `"primary"`, or as {@link primary} says. `that` is not flattened: what
 * it gives is the value, an {@link Answer} included.
 *
 * `takes` says which errors `that` stands in for, see {@link Takes}; the others stay in the error type. A last step that
 * must answer whatever happens says `takes: "all"`. Defects and interruption are never answered. Fails with the errors
 * not taken and with those of `that`.
 *
 * The span around gets `fallback.source`, `fallback.degraded`, `fallback.failed` and `fallback.skipped`; `Telemetry` gets
 * `FallbackUsed`.
 * Throws `Fault.InvalidConfig` for an empty label.
 *
 * **Gotchas**
 *
 * An error that says nothing of itself, such as a class of your own without `Fault.verdictOf`, is `Permanent`: by default no
 * fallback takes it and nothing retries it, although a circuit counts it as a failure. Give the class a verdict
 * (`readonly [Fault.verdictOf] = Fault.transient`), or put `Fault.withClassifier` around.
 *
 * **Example** (Falling back to a template)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fallback, Fault } from "effect-resilience"
 *
 * const overloaded = { [Fault.verdictOf]: Fault.overloaded(), _tag: "Overloaded" }
 *
 * const outline = Effect.fail(overloaded).pipe(
 *   Fallback.orElse("smaller model", () => Effect.fail(overloaded)),
 *   Fallback.orElse("template", () => Effect.succeed("Introduction, body, conclusion"), { takes: "all" })
 * )
 *
 * const answer = await Effect.runPromise(outline)
 * answer.source // => "template"
 * answer.degraded // => true
 * answer.errors.map((step) => step.label) // => ["primary", "smaller model"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const orElse: {
  // The last overload that a call could mean is the one that the compiler complains of: for each form the one with the tags.
  <A, E, R, const Label extends string, B, E2, R2, T extends "all" | undefined = undefined>(
    self: Effect.Effect<A, E, R>,
    label: Label,
    that: () => Effect.Effect<B, E2, R2>,
    options?: { readonly takes?: T }
  ): Effect.Effect<Answered<A, B, Label>, NotTaken<E, T> | E2, R | R2>
  <A, E, R, const Label extends string, B, E2, R2, const T extends TakesOf<E>>(
    self: Effect.Effect<A, E, R>,
    label: Label,
    that: () => Effect.Effect<B, E2, R2>,
    options: { readonly takes: T }
  ): Effect.Effect<Answered<A, B, Label>, NotTaken<E, T> | E2, R | R2>
  <const Label extends string, B, E2, R2, T extends "all" | undefined = undefined>(
    label: Label,
    that: () => Effect.Effect<B, E2, R2>,
    options?: { readonly takes?: T }
  ): <A, E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<Answered<A, B, Label>, NotTaken<E, T> | E2, R | R2>
  <const Label extends string, B, E2, R2, E, const T extends TakesOf<E>>(
    label: Label,
    that: () => Effect.Effect<B, E2, R2>,
    options: { readonly takes: T }
  ): <A, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<Answered<A, B, Label>, NotTaken<NotInferred<E>, T> | E2, R | R2>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R, B, E2, R2, Label extends string>(
    self: Effect.Effect<A, E, R>,
    label: Label,
    that: () => Effect.Effect<B, E2, R2>,
    options?: { readonly takes?: Takes }
  ): Effect.Effect<Answered<A, B, Label>, E | E2, R | R2> => {
    config.nonEmpty("Fallback.orElse", "label", label)
    return run(self, label, that, options?.takes, identity)
  }
)

/**
 * A labelled step of a {@link chain}, made by {@link step}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Step<
  out Label extends string = string,
  out A = unknown,
  out E = unknown,
  out R = unknown,
  out T extends Takes = Takes
> {
  readonly label: Label
  readonly effect: Effect.Effect<A, E, R>
  readonly takes: T
}

/**
 * Creates a step of a {@link chain}; `takes` says which errors of the steps before it stands in for, see {@link Takes}.
 *
 * @category constructors
 * @since 0.1.0
 */
export function step<const Label extends string, A, E, R>(
  label: Label,
  effect: Effect.Effect<A, E, R>
): Step<Label, A, E, R, undefined>
export function step<const Label extends string, A, E, R, const T extends Takes>(
  label: Label,
  effect: Effect.Effect<A, E, R>,
  options: { readonly takes: T }
): Step<Label, A, E, R, T>
export function step(
  label: string,
  effect: Effect.Effect<unknown, unknown, unknown>,
  options?: { readonly takes: Takes }
): Step {
  return { label: config.nonEmpty("Fallback.step", "label", label), effect, takes: options?.takes }
}

type ChainError<Steps extends ReadonlyArray<Step>, E = never> = Steps extends
  readonly [Step<string, unknown, infer E2, unknown, infer T>, ...infer Rest extends ReadonlyArray<Step>]
  ? ChainError<Rest, NotTaken<E, T> | E2>
  // of a list of unknown length nobody knows what is taken
  : Steps extends readonly [] ? E
  : E | Effect.Error<Steps[number]["effect"]>

type Steps = readonly [Step, ...Array<Step>]

/** The steps, with those tags that the steps before can fail with; the first one's say nothing. */
type Checked<S extends ReadonlyArray<Step>, E = unknown> = S extends readonly [
  Step<infer Label, infer A, infer E2, infer R, infer T>,
  ...infer Rest extends ReadonlyArray<Step>
] ? readonly [
    Step<Label, A, E2, R, T> & WithTakes<E, T>,
    ...Checked<Rest, unknown extends E ? E2 : NotTaken<E, T> | E2>
  ]
  : S

type WithTakes<E, T> = T extends ReadonlyArray<string> ? unknown extends E ? unknown
  : [Exclude<SureTags<T>, Types.Tags<E>>] extends [never] ? unknown
  : { readonly takes: ReadonlyArray<Types.Tags<E>> }
  : unknown

type ChainAnswer<S extends Steps> = S extends readonly [
  Step<infer Label, infer A, unknown, unknown, Takes>,
  ...infer Rest extends ReadonlyArray<Step>
] ? Answer<
    ValueOf<A> | Effect.Success<Rest[number]["effect"]>,
    SourceOf<A, Label> | Rest[number]["label"]
  >
  : never

/**
 * Tries labelled steps in order until one answers: {@link orElse} as a list.
 *
 * **Details**
 *
 * Means what the first step with {@link primary} and the others with {@link orElse} mean; what the first step takes
 * says nothing, since nothing comes before it. Fails with every error that no later step takes. Throws
 * `Fault.InvalidConfig` for a label that two steps have.
 *
 * **Gotchas**
 *
 * A list in `takes` names errors by their `_tag`, and not verdicts: what is overloaded is taken by
 * `takes: (_, verdict) => verdict._tag === "Overloaded"`.
 *
 * **Example** (Listing the choices)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fallback, Fault } from "effect-resilience"
 *
 * const overloaded = { [Fault.verdictOf]: Fault.overloaded(), _tag: "Overloaded" }
 *
 * const outline = Fallback.chain(
 *   Fallback.step("large model", Effect.fail(overloaded)),
 *   Fallback.step("small model", Effect.fail(overloaded)),
 *   Fallback.step("template", Effect.succeed("Introduction, body, conclusion"), { takes: "all" })
 * )
 *
 * await Effect.runPromise(Effect.map(outline, (answer) => answer.source)) // => "template"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const chain = <const S extends Steps>(
  ...steps: S & Checked<S>
): Effect.Effect<ChainAnswer<S>, ChainError<S>, Effect.Services<S[number]["effect"]>> => {
  const [first, ...rest]: Steps = steps
  const labels = new Set<string>()
  for (const { label } of steps) {
    if (labels.has(label)) {
      throw new Fault.InvalidConfig({
        module: "Fallback.chain",
        option: "label",
        value: JSON.stringify(label),
        expected: "another one for each step, or the answer could not say which it was"
      })
    }
    labels.add(label)
  }
  let answer: Effect.Effect<Answer<unknown>, unknown, unknown> = primary(first.effect, first.label)
  for (const next of rest) answer = run(answer, next.label, () => next.effect, next.takes, identity)
  // the three types fold over the tuple as the loop does over the array, which the compiler cannot see
  return answer as Effect.Effect<ChainAnswer<S>, ChainError<S>, Effect.Services<S[number]["effect"]>>
}

/**
 * What {@link partial} collected.
 *
 * **Details**
 *
 * `available` has the values of the parts that worked, and `unavailable` a summary for each of the others, whose label
 * is the part's key.
 *
 * @category models
 * @since 0.1.0
 */
export interface Collected<out A> {
  readonly available: Partial<A>
  readonly unavailable: ReadonlyArray<FailedStep>
}

type Parts = Readonly<Record<string, Effect.Effect<unknown, unknown, unknown>>>

type PartValues<P extends Parts> = { readonly [K in keyof P]: Effect.Success<P[K]> }

/**
 * Runs the parts of an answer, collects what worked and lists what is unavailable.
 *
 * **When to use**
 *
 * Use it where an answer with a gap is better than none, alone or as a step of a fallback.
 *
 * **Details**
 *
 * Every typed failure counts as unavailable, whatever its verdict. Fails only where nothing worked, with the failure of
 * the first part. A defect or an interruption of one part ends them all. `concurrency` is that of `Effect.all`, default:
 * one part after another. Parts that are missing are noted in the span around as `fallback.unavailable` and told to
 * `Telemetry` as `FallbackUsed` with the source `"partial"`.
 *
 * **Example** (Answering without the news)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fallback } from "effect-resilience"
 *
 * const briefing = await Effect.runPromise(Fallback.partial({
 *   weather: Effect.succeed("sunny"),
 *   news: Effect.fail(new Error("the paper is on strike"))
 * }, { concurrency: "unbounded" }))
 *
 * briefing.available // => { weather: "sunny" }
 * briefing.unavailable.map((part) => part.label) // => ["news"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const partial = <const P extends Parts>(
  parts: P,
  options?: { readonly concurrency?: Types.Concurrency | undefined }
): Effect.Effect<Collected<PartValues<P>>, Effect.Error<P[keyof P]>, Effect.Services<P[keyof P]>> => {
  const collected = internal.collect(parts, options?.concurrency)
  // the record is built key by key, and its type is known only as a whole
  return collected as Effect.Effect<Collected<PartValues<P>>, Effect.Error<P[keyof P]>, Effect.Services<P[keyof P]>>
}

/**
 * The encoded form of a {@link FailedStep}.
 *
 * @category models
 * @since 0.1.0
 */
export interface FailedStepEncoded extends Omit<FailedStep, "skipped"> {
  readonly skipped?: boolean
}

const stepFields = { label: Schema.String, tag: Schema.String, message: Schema.String, verdict: Fault.VerdictTag }

/**
 * Schema of {@link FailedStep}. A record without `skipped` is read by its verdict.
 *
 * @category schemas
 * @since 0.1.0
 */
export const FailedStep: Schema.Codec<FailedStep, FailedStepEncoded> = Schema.Struct({
  ...stepFields,
  skipped: Schema.optionalKey(Schema.Boolean)
}).pipe(
  Schema.decodeTo(
    Schema.Struct({ ...stepFields, skipped: Schema.Boolean }),
    SchemaTransformation.transform({
      decode: (step) => ({ ...step, skipped: step.skipped ?? internal.isSkipped(step.verdict) }),
      encode: (step) => step
    })
  )
)

/**
 * The encoded form of an {@link Answer}.
 *
 * @category models
 * @since 0.1.0
 */
export interface AnswerEncoded<out A, out Source extends string = string> {
  readonly value: A
  readonly source: Source
  readonly degraded: boolean
  readonly errors: ReadonlyArray<FailedStepEncoded>
}

/**
 * Creates the schema of an {@link Answer}, so that a journal keeps where a value came from together with the value.
 *
 * **Details**
 *
 * Decoding fails for a source that is not among `sources`.
 *
 * **Example** (Keeping the source in a journal)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Fallback } from "effect-resilience"
 *
 * const Answered = Fallback.AnswerSchema(Schema.String, ["primary", "template"])
 *
 * const program = Effect.gen(function*() {
 *   const answer = yield* Effect.succeed("hello").pipe(Fallback.orElse("template", () => Effect.succeed("hi")))
 *   const record = yield* Schema.encodeEffect(Answered)(answer)
 *   return (yield* Schema.decodeEffect(Answered)(record)).source
 * })
 *
 * await Effect.runPromise(program) // => "primary"
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const AnswerSchema = <
  A,
  Encoded,
  RD,
  RE,
  const Sources extends Arr.NonEmptyReadonlyArray<string>
>(
  value: Schema.Codec<A, Encoded, RD, RE>,
  sources: Sources
): Schema.Codec<Answer<A, Sources[number]>, AnswerEncoded<Encoded, Sources[number]>, RD, RE> => {
  const isSource = Schema.is(Schema.Literals(sources))
  const isValue = Schema.is(value)
  return Schema.Struct({
    value,
    source: Schema.Literals(sources),
    degraded: Schema.Boolean,
    errors: Schema.Array(FailedStep)
  }).pipe(
    Schema.decodeTo(
      Schema.declare((u): u is Answer<A, Sources[number]> => isAnswer(u) && isSource(u.source) && isValue(u.value)),
      SchemaTransformation.transform({
        decode: (fields) => new Answer<A, Sources[number]>(fields),
        encode: ({ degraded, errors, source, value }) => ({ value, source, degraded, errors })
      })
    )
  )
}
