/**
 * Remembers the last good answer, and gives it with its age when there is no better one.
 *
 * A {@link slot} says what kind of answer it is; {@link remember} goes around the first choice and keeps every success,
 * {@link orElse} serves what was kept when the first choice fails.
 *
 * **Details**
 *
 * Answers are kept as JSON, in memory too: what comes out is what went in, whatever somebody did with the object since,
 * and it is read by the schema of the slot. What cannot be kept never fails the call that gave it: a warning says so.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import { hasRedacted } from "../internal/hasRedacted.ts"
import { rounding } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import * as Fallback from "./Fallback.ts"
import { onlyFailure } from "./internal/failure.ts"
import { run } from "./internal/fallbackAnswer.ts"
import { Aged, isAged } from "./internal/lastGoodAged.ts"
import { LastGoodStoreError, NoLastGood } from "./internal/lastGoodErrors.ts"
import * as stores from "./internal/lastGoodStores.ts"

const module = "LastGood"

export { Aged, isAged, LastGoodStoreError, NoLastGood }

/**
 * A kind of answer that is remembered, by key.
 *
 * @category models
 * @since 0.1.0
 */
export interface Slot<in out A, out RD = never, out RE = never> {
  readonly name: string
  readonly codec: Schema.Codec<A, string, RD, RE>
}

/**
 * Creates a {@link Slot}: a name for a kind of answer, and the schema that writes and reads it.
 *
 * **Details**
 *
 * Slots of one name share their answers, and each reads them by its own schema. Throws `Fault.InvalidConfig` for a name
 * that is empty or has a slash in it, and for a schema with a `Redacted`, which the store would show in clear: leave the
 * secret out of the answer.
 *
 * @category constructors
 * @since 0.1.0
 */
export const slot = <A, RD, RE>(name: string, schema: Schema.Codec<A, unknown, RD, RE>): Slot<A, RD, RE> => {
  config.nonEmpty(`${module}.slot`, "name", name)
  if (name.includes("/")) {
    throw new Fault.InvalidConfig({ module: `${module}.slot`, option: "name", value: name, expected: "no slash" })
  }
  if (hasRedacted(schema)) {
    throw new Fault.InvalidConfig({
      module: `${module}.slot`,
      option: "schema",
      value: `that of slot "${name}"`,
      expected: "a schema without a Redacted, which the store would show in clear"
    })
  }
  return { name, codec: Schema.fromJsonString(Schema.toCodecJson(schema)) }
}

/**
 * What is written down of an answer.
 *
 * **Details**
 *
 * `asOf` is when its call began, in milliseconds since the epoch, and `startedAt` the same moment on the monotonic
 * clock, whose origin is known to this process alone.
 *
 * @category models
 * @since 0.1.0
 */
export interface Entry extends stores.Entry {}

/**
 * What a store gives back of an {@link Entry}, with its age in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stored extends stores.Stored {}

/**
 * Keeps the last good answers: the contract to implement for another store.
 *
 * **Details**
 *
 * - `remember` keeps an entry, unless it has one of a call that began later.
 * - `recall` gives the entry of exactly this key, and none that has expired.
 * - `keys` lists the keys of a slot, the likelier ones first.
 * - `forget` drops an entry. A call under way is remembered all the same when it ends.
 *
 * @category services
 * @since 0.1.0
 */
export class LastGood extends Context.Service<LastGood, {
  readonly remember: (slot: string, key: string, entry: Entry) => Effect.Effect<void, LastGoodStoreError>
  readonly recall: (slot: string, key: string) => Effect.Effect<Stored | undefined, LastGoodStoreError>
  readonly keys: (slot: string) => Effect.Effect<ReadonlyArray<string>, LastGoodStoreError>
  readonly forget: (slot: string, key: string) => Effect.Effect<void, LastGoodStoreError>
}>()("effect-resilience/policy/LastGood") {}

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `maxEntries`: how many answers are kept, over all slots and keys; default 1,000. Those unused for longest make room.
 * - `timeToLive`: when an answer is forgotten; default one day.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends stores.Options {}

/**
 * Options of {@link layerKeyValueStore}.
 *
 * **Details**
 *
 * - `maxEntries`, `timeToLive`: as in {@link Options}, for the memory and for the store each.
 * - `prefix`: what the keys in the store begin with, before a slash; default `"last-good"`. All keys that begin so are
 *   taken for answers, and make room for new ones.
 * - `storeTimeout`: how long one operation of the store may take; default 5 seconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyValueStoreOptions extends stores.KeyValueStoreOptions {}

/**
 * Creates a `LastGood` that keeps its answers in this process.
 *
 * **Details**
 *
 * Age and time to live are measured with the monotonic clock. Dies with `InvalidConfig` when an option is out of range.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<LastGood["Service"]> =>
  Effect.map(stores.memory(options), LastGood.of)

/**
 * Provides a `LastGood` that keeps its answers in this process: the last 1,000, for a day.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<LastGood> => Layer.effect(LastGood, make(options))

/**
 * Provides a `LastGood` that also keeps its answers in Effect's `KeyValueStore`, so that they outlive the process.
 *
 * **Details**
 *
 * No call waits for the store: answers are kept in memory at once and written behind, one after another and of each key
 * the latest; closing the layer writes what is left. A crash loses what was not yet written. What the store refuses is
 * told in a warning, and this process remembers it all the same.
 *
 * A recall asks memory and store and serves the newer answer. When the store fails or cannot be read it serves what it
 * has in memory, with a warning, and else fails with `LastGoodStoreError`. The age of an answer from the store is told
 * by the wall clock; one that is more than five minutes ahead of it cannot be read. Of several processes with one store,
 * the one that writes last is remembered.
 *
 * Keys must be such as the store takes: one on a file system has names of limited length. Building the layer dies with
 * `InvalidConfig` when an option is out of range.
 *
 * **Example** (Remembering in a store)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { LastGood } from "effect-resilience"
 * import { KeyValueStore } from "effect/persistence"
 *
 * const Live = LastGood.layerKeyValueStore({ timeToLive: "7 days" }).pipe(Layer.provide(KeyValueStore.layerMemory))
 * const forecasts = LastGood.slot("forecast", Schema.String)
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.succeed("sunny").pipe(LastGood.remember(forecasts, "Zurich"))
 *   return (yield* LastGood.recall(forecasts, "Zurich")).value
 * })
 *
 * await Effect.runPromise(Effect.provide(program, Live)) // => "sunny"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerKeyValueStore = (
  options: KeyValueStoreOptions = {}
): Layer.Layer<LastGood, never, stores.KeyValueStore> =>
  Layer.effect(LastGood, Effect.map(stores.keyValueStore(options), LastGood.of))

/**
 * Provides a `LastGood` that remembers nothing.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<LastGood> = Layer.succeed(LastGood, {
  remember: () => Effect.void,
  recall: () => Effect.undefined,
  keys: () => Effect.succeed([]),
  forget: () => Effect.void
})

const isDegraded = (value: unknown): boolean => Fallback.isAnswer(value) && value.degraded

/** Keeps a value. It was good, and nothing that goes wrong here makes it less so. */
const keep = <A, RD, RE>(
  slot: Slot<A, RD, RE>,
  key: string,
  value: A,
  began: ReturnType<typeof stores.nowIn>,
  store: LastGood["Service"]
): Effect.Effect<void, never, RE> =>
  Effect.suspend(() => Schema.encodeEffect(slot.codec)(value)).pipe(
    Effect.flatMap((json) => store.remember(slot.name, key, { json, asOf: began.wall, startedAt: began.monotonic })),
    Effect.catchCause((cause) => {
      const interrupts = cause.reasons.filter(Cause.isInterruptReason)
      return interrupts.length > 0
        ? Effect.failCause(Cause.fromReasons(interrupts))
        : Effect.logWarning(`LastGood could not remember the answer for "${stores.idOf(slot.name, key)}"`, cause)
    })
  )

/**
 * Keeps every success of an effect as the last good answer of a key.
 *
 * **When to use**
 *
 * Use it around the first choice, inside of the fallbacks, so that nothing second best is kept.
 *
 * **Details**
 *
 * What is kept is as old as the *start* of its call, which is when the other side may have looked (as HTTP caches count,
 * RFC 9111, 4.2.3): of two calls at the same time, the one that began later is kept, whichever ends first. Failures and
 * interrupted calls change nothing. A degraded `Fallback.Answer` is never kept. An answer that the schema or the store
 * does not take is given back all the same, with a warning in the log.
 *
 * **Gotchas**
 *
 * What `Fallback.partial` collected is kept with its gaps, since only an `Answer` says that it is degraded: remember the
 * parts rather than the whole.
 *
 * @category combinators
 * @since 0.1.0
 */
export const remember: {
  <A, RD, RE>(
    slot: Slot<A, RD, RE>,
    key: string
  ): <B extends A, E, R>(self: Effect.Effect<B, E, R>) => Effect.Effect<B, E, R | RE | LastGood>
  <A, B extends A, E, R, RD, RE>(
    self: Effect.Effect<B, E, R>,
    slot: Slot<A, RD, RE>,
    key: string
  ): Effect.Effect<B, E, R | RE | LastGood>
} = dual(
  3,
  <A, B extends A, E, R, RD, RE>(
    self: Effect.Effect<B, E, R>,
    slot: Slot<A, RD, RE>,
    key: string
  ): Effect.Effect<B, E, R | RE | LastGood> =>
    Effect.contextWith((context: Context.Context<LastGood>) => {
      const began = stores.nowIn(context)
      const store = Context.get(context, LastGood)
      return Effect.tap(self, (value) => isDegraded(value) ? Effect.void : keep(slot, key, value, began, store))
    })
)

/**
 * The encoded form of {@link Aged}: `asOf` in milliseconds since the epoch, `age` in milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface AgedEncoded<out A> {
  readonly value: A
  readonly key: string
  readonly exact: boolean
  readonly asOf: number
  readonly age: number
}

/**
 * Creates the schema of {@link Aged}, for a journal that keeps answers.
 *
 * **Example** (Keeping an answer that may be an old one)
 *
 * ```ts import.meta.vitest
 * import { Schema } from "effect"
 * import { Fallback, LastGood } from "effect-resilience"
 *
 * export const Answered = Fallback.AnswerSchema(
 *   Schema.Union([Schema.String, LastGood.AgedSchema(Schema.String)]),
 *   ["primary", "last good"]
 * )
 * ```
 *
 * @category schemas
 * @since 0.1.0
 */
export const AgedSchema = <A, Encoded, RD, RE>(
  value: Schema.Codec<A, Encoded, RD, RE>
): Schema.Codec<Aged<A>, AgedEncoded<Encoded>, RD, RE> => {
  const isValue = Schema.is(value)
  return Schema.Struct({
    value,
    key: Schema.String,
    exact: Schema.Boolean,
    asOf: Schema.DateTimeUtcFromMillis,
    age: Schema.DurationFromMillis
  }).pipe(
    Schema.decodeTo(
      Schema.declare((u): u is Aged<A> => isAged(u) && isValue(u.value)),
      SchemaTransformation.transform({
        decode: (fields) => new Aged<A>(fields),
        encode: ({ age, asOf, exact, key, value }) => ({ value, key, exact, asOf, age })
      })
    )
  )
}

/**
 * Options of {@link recall}.
 *
 * **Details**
 *
 * - `maxAge`: how old an answer may be; default: as old as the layer keeps them.
 * - `similar`: given the key and the other keys of the slot, says which of them is near enough to stand in, if any. It
 *   is asked only where the key itself has no answer that is young enough.
 *
 * @category models
 * @since 0.1.0
 */
export interface RecallOptions {
  readonly maxAge?: Duration.Input | undefined
  readonly similar?: ((wanted: string, candidates: ReadonlyArray<string>) => string | undefined) | undefined
}

const maxAgeOf = (options: RecallOptions | undefined): number =>
  options?.maxAge === undefined
    ? Number.POSITIVE_INFINITY
    : Duration.toMillis(config.duration(module, "maxAge", options.maxAge, { infinite: true }))

/**
 * Gives the last good answer of a key, with its age.
 *
 * **When to use**
 *
 * Use it as a step of a `Fallback`, or to show what was known last. {@link orElse} is the shorter way for one effect.
 *
 * **Details**
 *
 * Fails with `NoLastGood` where there is nothing to serve, and with `LastGoodStoreError` where the store failed. Throws
 * `Fault.InvalidConfig` for a `maxAge` that is no duration. `Telemetry` gets `LastGoodServed`, with the slot and the key
 * as `slot/key`.
 *
 * **Example** (Serving the answer to a similar question)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { LastGood } from "effect-resilience"
 *
 * const answers = LastGood.slot("answers", Schema.String)
 * const sameWords = (wanted: string, candidates: ReadonlyArray<string>) => {
 *   const words = (text: string) => text.toLowerCase().split(" ").toSorted().join(" ")
 *   return candidates.find((key) => words(key) === words(wanted))
 * }
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.succeed("in 1890").pipe(LastGood.remember(answers, "when was the bridge built"))
 *   const old = yield* LastGood.recall(answers, "When was built the bridge", { similar: sameWords })
 *   return [old.value, old.key, old.exact]
 * }).pipe(Effect.provide(LastGood.layer()))
 *
 * await Effect.runPromise(program) // => ["in 1890", "when was the bridge built", false]
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const recall = <A, RD, RE>(
  slot: Slot<A, RD, RE>,
  key: string,
  options?: RecallOptions
): Effect.Effect<Aged<A>, NoLastGood | LastGoodStoreError, LastGood | RD> => {
  const maxAge = maxAgeOf(options) + rounding

  const serve = Effect.fnUntraced(function*(from: string, { ageMillis, asOf, json }: Stored) {
    const value = yield* Effect.mapError(
      Schema.decodeEffect(slot.codec)(json),
      (error) => new NoLastGood({ slot: slot.name, key: from, reason: "Unreadable", issue: error.message })
    )
    yield* Telemetry.emit(() => ({ _tag: "LastGoodServed", key: stores.idOf(slot.name, from), ageMillis }))
    return new Aged({
      value,
      key: from,
      exact: from === key,
      asOf: DateTime.makeUnsafe(asOf),
      age: Duration.millis(ageMillis)
    })
  })

  return Effect.gen(function*() {
    const store = yield* LastGood
    const exact = yield* store.recall(slot.name, key)
    if (exact !== undefined && exact.ageMillis <= maxAge) return yield* serve(key, exact)
    let old = exact === undefined ? undefined : { key, ageMillis: exact.ageMillis }
    if (options?.similar !== undefined) {
      const candidates = (yield* store.keys(slot.name)).filter((candidate) => candidate !== key)
      const other = options.similar(key, candidates)
      const found = other === undefined || !candidates.includes(other)
        ? undefined
        : yield* store.recall(slot.name, other)
      if (other !== undefined && found !== undefined) {
        if (found.ageMillis <= maxAge) return yield* serve(other, found)
        old ??= { key: other, ageMillis: found.ageMillis }
      }
    }
    return yield* new NoLastGood(
      old === undefined
        ? { slot: slot.name, key, reason: "Nothing" }
        : { slot: slot.name, key: old.key, reason: "TooOld", age: Duration.millis(old.ageMillis) }
    )
  })
}

/**
 * Forgets the answer of a key. A call under way is remembered all the same when it ends.
 *
 * @category combinators
 * @since 0.1.0
 */
export const forget = <A, RD, RE>(
  slot: Slot<A, RD, RE>,
  key: string
): Effect.Effect<void, LastGoodStoreError, LastGood> => LastGood.use((store) => store.forget(slot.name, key))

/**
 * Options of {@link orElse}.
 *
 * **Details**
 *
 * - `label`: the source of the answer; default `"last good"`.
 * - `takes`: which errors it stands in for, as in `Fallback`; default: every verdict but `Permanent`.
 * - `maxAge`, `similar`: see {@link RecallOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export interface OrElseOptions<out Label extends string = "last good"> extends RecallOptions {
  readonly label?: Label | undefined
  readonly takes?: Fallback.Takes
}

/**
 * The answer of {@link orElse}: the effect's own, or an {@link Aged} one.
 *
 * @category models
 * @since 0.1.0
 */
export type Answered<A, B, Label extends string> = Fallback.Answer<
  Fallback.ValueOf<A> | Aged<B>,
  Fallback.SourceOf<A, "primary"> | Label
>

/** The end of a recall that did not answer: what the effect itself failed with, unless it was no mere failure. */
const endWith = <E>(missed: Cause.Cause<unknown>, failed: Cause.Cause<E>): Cause.Cause<E> => {
  if (onlyFailure(missed) !== undefined) return failed
  return Cause.fromReasons(missed.reasons.filter((reason) => !Cause.isFailReason(reason)))
}

/**
 * Answers with the last good answer of a key when the effect fails, as a step of a `Fallback`.
 *
 * **When to use**
 *
 * Use it after {@link remember}, with or without other fallbacks between, before and after.
 *
 * **Details**
 *
 * Means `Fallback.orElse` with {@link recall}, and one thing more: where nothing can be served, the effect fails with
 * the error it had. So all of its errors stay in the type, and the next step, or the caller, sees the real one; the step
 * is among the `errors` of the answer as one that was skipped. A store that failed, or an answer that cannot be read, is
 * told in a warning besides.
 *
 * The value is an {@link Aged} one and says how old it is; {@link isAged} tells it from a new one. Throws
 * `Fault.InvalidConfig` for an empty label or a `maxAge` that is no duration.
 *
 * **Example** (Serving the last forecast)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schema } from "effect"
 * import { Fault, LastGood } from "effect-resilience"
 *
 * const forecasts = LastGood.slot("forecast", Schema.String)
 * const overloaded = { [Fault.verdictOf]: Fault.overloaded() }
 *
 * const forecast = <E>(ask: Effect.Effect<string, E>) =>
 *   ask.pipe(
 *     LastGood.remember(forecasts, "Zurich"),
 *     LastGood.orElse(forecasts, "Zurich", { maxAge: "6 hours" })
 *   )
 *
 * const program = Effect.gen(function*() {
 *   yield* forecast(Effect.succeed("sunny"))
 *   const { source, value } = yield* forecast(Effect.fail(overloaded))
 *   return LastGood.isAged(value) ? [source, value.value] : [source]
 * }).pipe(Effect.provide(LastGood.layer()))
 *
 * await Effect.runPromise(program) // => ["last good", "sunny"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const orElse: {
  <B, RD, RE, const Label extends string = "last good">(
    slot: Slot<B, RD, RE>,
    key: string,
    options?: OrElseOptions<Label>
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<Answered<A, B, Label>, E, R | RD | LastGood>
  <A, E, R, B, RD, RE, const Label extends string = "last good">(
    self: Effect.Effect<A, E, R>,
    slot: Slot<B, RD, RE>,
    key: string,
    options?: OrElseOptions<Label>
  ): Effect.Effect<Answered<A, B, Label>, E, R | RD | LastGood>
} = dual(
  (args) => Effect.isEffect(args[0]),
  <A, E, R, B, RD, RE, const Label extends string = "last good">(
    self: Effect.Effect<A, E, R>,
    slot: Slot<B, RD, RE>,
    key: string,
    options: OrElseOptions<Label> = {}
  ): Effect.Effect<Answered<A, B, Label>, E, R | RD | LastGood> => {
    // without a label the type parameter is its default
    const label = options.label ?? "last good" as Label
    config.nonEmpty(`${module}.orElse`, "label", label)
    const recalled = Effect.tapError(
      recall(slot, key, options),
      (error) =>
        error[Fault.verdictOf]._tag === "Rejected" ? Effect.void : Effect.logWarning(error.message, Cause.fail(error))
    )
    return run(self, label, () => recalled, options.takes, endWith)
  }
)
