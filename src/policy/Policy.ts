/**
 * Guards composed into one value, in one order.
 *
 * A policy says what stands between a program and something that fails: a deadline, fallbacks, retries, a quota, a learned
 * limit, a bulkhead, a circuit breaker, a hedge and a timeout for each try. Each is optional, each also stands alone in its
 * own module, and what the policy can fail with is in its type.
 *
 * **Details**
 *
 * The order is always the same, from the outside in: deadline > fallback > retry > quota > limit > bulkhead > circuit >
 * hedge > attempt timeout > work. So the deadline bounds everything, a fallback answers when the tries are over, every try
 * asks for its share of the limits, its slot and its circuit anew, neither a retry's delay nor the wait for a limit holds a
 * slot, and the circuit judges and times a call only from when it really starts. An open circuit refuses before anything is
 * queued.
 *
 * @since 0.1.0
 */
// effect/ExecutionPlan goes through a list of layers and retries; it has no guard that refuses.
import type * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Stream from "effect/Stream"
import type * as Types from "effect/Types"
import * as config from "../internal/config.ts"
import * as AdaptiveLimit from "./AdaptiveLimit.ts"
import * as Bulkhead from "./Bulkhead.ts"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Deadline from "./Deadline.ts"
import * as Fallback from "./Fallback.ts"
import * as Hedge from "./Hedge.ts"
import * as attempts from "./internal/attempt.ts"
import * as description from "./internal/policyDescription.ts"
import * as internal from "./internal/policyOptions.ts"
import * as stack from "./internal/policyStack.ts"
import * as streams from "./internal/policyStream.ts"
import * as Quota from "./Quota.ts"
import * as Retry from "./Retry.ts"
import * as RetryBudget from "./RetryBudget.ts"

/**
 * The circuit breaker of a policy: what `CircuitBreaker` takes, and two short forms.
 *
 * **Details**
 *
 * - `failures`: opens after that many failures in a row, short for `trip: CircuitBreaker.consecutive(failures)`.
 * - `successes`: closes after that many successful probes, short for `successThreshold`.
 *
 * @category models
 * @since 0.1.0
 */
export interface CircuitOptions extends internal.CircuitOptions {}

/**
 * The quota of a policy: what `Quota.withQuota` takes, and whose limits these are.
 *
 * **Details**
 *
 * - `key`: the key of the quota; default the key of the policy. Give the policies of several models of one provider the
 *   same one where they share its limits.
 *
 * @category models
 * @since 0.1.0
 */
export interface QuotaOptions extends internal.QuotaOptions {}

/**
 * Options of {@link make}. What is left out does not guard.
 *
 * **Details**
 *
 * - `name`: names the policy in errors, events and spans.
 * - `key`: what its quota, its limit, its bulkhead and its circuit are shared by. Default: `name`. See also {@link keyed}.
 * - `idempotent`: whether the work may be repeated without harm, for `retry` and `hedge` where these do not say it
 *   themselves. Default: what the surroundings say (`Fault.Idempotent`).
 * - `deadline`: bounds all of it; fails with `DeadlineExceeded`. See `Deadline.within`.
 * - `fallback`: what answers instead, one step of `Fallback` or several in order. The result becomes an `Answer`, whose
 *   first source is `"primary"`.
 * - `retry`: options of `Retry.policy` or such a policy. `{}` is its default: full jitter from 1 second, cap 60 seconds,
 *   5 attempts. Adds no error; with a `budget` it asks for a `RetryBudget`.
 * - `quota`: options of one key of `Quota`, see {@link QuotaOptions}; `{}` learns the limits. Fails with `QuotaExceeded`.
 * - `limit`: options of one key of `AdaptiveLimit`; `{}` begins with 10 at a time and learns how many there may be. In an
 *   outage it does what a circuit does, and better where callers wait: use one of the two. Fails with `LimitExceeded`.
 * - `bulkhead`: options of one key of `Bulkhead`; `{}` is 3 at a time. Fails with `BulkheadFull`.
 * - `circuit`: options of one key of `CircuitBreaker`, see {@link CircuitOptions}; `{}` is 5 failures in a row, 60 seconds
 *   open, 2 successes to close. Fails with `CircuitOpen`.
 * - `hedge`: options of `Hedge.policy` or such a policy. Adds no error.
 * - `timeout`: how long one try may take, a hedge's tries each by themselves; fails with `AttemptTimeout`, which is
 *   retried.
 *
 * Where the layer of `AdaptiveLimit`, `CircuitBreaker`, `Bulkhead` or `Quota` configures the very key (`keys`), that wins:
 * operations can overrule a program. Of two policies of one key, the options of these guards hold that were used first; the
 * other policy is warned of once.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends internal.Options {}

const TypeId = "~effect-resilience/policy/Policy"

interface Variance<out E, out R> extends stack.Guards {
  readonly _E: Types.Covariant<E>
  readonly _R: Types.Covariant<R>
}

/**
 * A composed policy. A plain value: any number of programs and fibers may share one, and what the guards remember lives
 * in their layers.
 *
 * **Details**
 *
 * `E` is what the policy can fail with, `R` the services it needs, `Steps` its fallback.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy<
  out E = never,
  out R = never,
  out Steps extends ReadonlyArray<Fallback.Step> = readonly []
> {
  readonly [TypeId]: Variance<E, R>
  readonly name: string
  readonly key: string
  readonly deadline: Duration.Duration | undefined
  readonly fallback: Steps
  readonly retry: Retry.Policy<unknown> | undefined
  readonly quota: QuotaOptions | undefined
  readonly limit: AdaptiveLimit.LimitOptions | undefined
  readonly bulkhead: Bulkhead.LimitOptions | undefined
  readonly circuit: CircuitBreaker.CircuitOptions | undefined
  readonly hedge: Hedge.Policy<unknown> | undefined
  readonly timeout: Duration.Duration | undefined
}

type Has<O, K extends keyof Options> = K extends keyof O ? [O[K]] extends [undefined] ? false : true : false

type When<Condition, Then> = Condition extends true ? Then : never

/**
 * What a policy of these options can fail with. Options that may be there count as there.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ErrorOf<O> = O extends unknown ?
    | When<Has<O, "deadline">, Deadline.DeadlineExceeded>
    | When<Has<O, "quota">, Quota.QuotaExceeded>
    | When<Has<O, "limit">, AdaptiveLimit.LimitExceeded>
    | When<Has<O, "bulkhead">, Bulkhead.BulkheadFull>
    | When<Has<O, "circuit">, CircuitBreaker.CircuitOpen>
    | When<Has<O, "timeout">, Deadline.AttemptTimeout>
  : never

type Part<O, K extends keyof Options> = K extends keyof O ? Exclude<O[K], undefined> : never

type BudgetOf<P> = P extends { readonly budget?: infer B } ? [Extract<B, string>] extends [never] ? undefined : string
  : undefined

/** A policy of `unknown` services may need all that there are. */
type Known<R, All> = unknown extends R ? All : R

type RetryServices<P> = P extends Retry.Policy<infer R> ? Known<R, RetryBudget.RetryBudget>
  : BudgetOf<P> extends string ? RetryBudget.RetryBudget
  : never

type HedgeServices<P> = P extends Hedge.Policy<infer R> ? Known<R, stack.HedgeServices>
  : P extends { readonly delay: infer D } ? Hedge.ServicesOf<D, BudgetOf<P>>
  : never

/**
 * The services that a policy of these options needs. Options that may be there count as there.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ServicesOf<O> = O extends unknown ?
    | When<Has<O, "quota">, Quota.Quota>
    | When<Has<O, "limit">, AdaptiveLimit.AdaptiveLimit>
    | When<Has<O, "bulkhead">, Bulkhead.Bulkhead>
    | When<Has<O, "circuit">, CircuitBreaker.CircuitBreaker>
    | RetryServices<Part<O, "retry">>
    | HedgeServices<Part<O, "hedge">>
  : never

/**
 * The fallback of a policy of these options, as a list; of options that may be there, a union of lists.
 *
 * @category type-level
 * @since 0.1.0
 */
export type StepsOf<O> = O extends unknown ? "fallback" extends keyof O ? StepsIn<O["fallback"]> : readonly [] : never

type StepsIn<S> = S extends ReadonlyArray<Fallback.Step> ? S : S extends Fallback.Step ? readonly [S] : readonly []

type KeyOf<T> = T extends unknown ? keyof T : never

type NoSuchOption = "there is no such option"

type ExactPart<P, Shape> = P extends object
  ? { readonly [J in keyof P]: J extends KeyOf<NonNullable<Shape>> ? unknown : NoSuchOption }
  : P

/** Refuses options that there are not, also inside the parts: a misspelt guard does not guard. */
type Exact<O> = {
  readonly [K in keyof O]: K extends "retry" | "quota" | "limit" | "bulkhead" | "circuit" | "hedge"
    ? ExactPart<O[K], Options[K]>
    : K extends keyof Options ? unknown
    : NoSuchOption
}

const variance = { _E: (_: never) => _, _R: (_: never) => _ }

const guardsOf = (settings: internal.Settings): stack.Guards => {
  const { bulkhead, circuit, deadline, hedge, key, limit, name, quota, timeout } = settings
  const attempt = timeout === undefined ? undefined : Deadline.attempt(timeout, { name })
  // its services are in the type of the policy, where the options were seen
  const hedged = hedge === undefined ? undefined : Hedge.apply(hedge as Hedge.Policy<stack.HedgeServices>)
  const within = deadline === undefined ? undefined : Deadline.within(deadline, { name })
  const one: stack.Guards["bounded"] = (self) => attempt === undefined ? self : attempt(self)
  const tries: stack.Guards["hedged"] = (self) => hedged === undefined ? self : hedged(self)
  return {
    key,
    quota: quota === undefined ? undefined : { key: quota.key ?? key, options: quota },
    limit,
    bulkhead,
    circuit,
    inner: (self) => tries(one(self)),
    hedged: tries,
    bounded: one,
    attempt: timeout === undefined || hedged !== undefined ? undefined : attempts.make(timeout, name),
    outer: (self) => within === undefined ? self : within(self)
  }
}

/**
 * Creates a {@link Policy}.
 *
 * **When to use**
 *
 * Use it once per dependency (a provider, a tool, a database), at the top of a module, and apply it to every call.
 *
 * **Details**
 *
 * Throws `Fault.InvalidConfig` for an option that cannot work. See {@link Options} for the defaults.
 *
 * **Example** (One policy for a provider)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Backoff, Fault, Policy } from "effect-resilience"
 *
 * const careful = Policy.make({
 *   name: "anthropic",
 *   timeout: "60 seconds",
 *   retry: { backoff: Backoff.fullJitter({ base: "1 millis" }), maxAttempts: 5 },
 *   circuit: { failures: 5, openFor: "60 seconds", successes: 2 },
 *   bulkhead: { maxConcurrent: 3, maxQueue: 100 }
 * })
 *
 * let calls = 0
 * const ask = Effect.suspend(() =>
 *   ++calls < 3 ? Effect.fail({ [Fault.verdictOf]: Fault.overloaded() }) : Effect.succeed("an outline")
 * )
 *
 * const program = ask.pipe(Policy.apply(careful), Effect.provide(Policy.layer))
 *
 * await Effect.runPromise(program) // => "an outline"
 * calls // => 3
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <const O extends Options>(
  options: O & Exact<O>
): Policy<ErrorOf<O>, ServicesOf<O>, StepsOf<O>> => {
  const settings = internal.settings(options)
  return {
    ...settings,
    [TypeId]: { ...variance, ...guardsOf(settings) },
    // those of the options, which the compiler has forgotten for their general type
    fallback: settings.fallback as StepsOf<O>
  }
}

/**
 * The same policy for another key: a limit, a circuit and a bulkhead of its own, and a quota where its options name no key;
 * all else shared.
 *
 * **When to use**
 *
 * Use it where calls through one policy reach different things that fail apart from each other: a tenant, a model, a
 * tool.
 *
 * **Example** (A circuit for each tenant)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Policy } from "effect-resilience"
 *
 * const careful = Policy.make({ name: "search", circuit: { failures: 1 } })
 * const search = (tenant: string, query: Effect.Effect<string, "down">) =>
 *   query.pipe(Policy.apply(Policy.keyed(careful, `search/${tenant}`)))
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.flip(search("a", Effect.fail("down")))
 *   const refused = yield* Effect.flip(search("a", Effect.succeed("found")))
 *   const other = yield* search("b", Effect.succeed("found"))
 *   return [refused === "down" ? refused : refused._tag, other]
 * })
 *
 * await Effect.runPromise(program.pipe(Effect.provide(Policy.layer))) // => ["CircuitOpen", "found"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const keyed: {
  (
    key: string
  ): <E, R, Steps extends ReadonlyArray<Fallback.Step>>(policy: Policy<E, R, Steps>) => Policy<E, R, Steps>
  <E, R, Steps extends ReadonlyArray<Fallback.Step>>(policy: Policy<E, R, Steps>, key: string): Policy<E, R, Steps>
} = dual(
  2,
  <E, R, Steps extends ReadonlyArray<Fallback.Step>>(
    policy: Policy<E, R, Steps>,
    key: string
  ): Policy<E, R, Steps> => ({
    ...policy,
    [TypeId]: rekeyed(policy, config.nonEmpty("Policy.keyed", "key", key)),
    key
  })
)

const rekeyed = <E, R>(
  { [TypeId]: guards, quota }: Policy<E, R, ReadonlyArray<Fallback.Step>>,
  key: string
): Variance<E, R> => ({
  ...guards,
  key,
  quota: quota === undefined ? undefined : { key: quota.key ?? key, options: quota }
})

type Chained<A, E, R, Steps extends ReadonlyArray<Fallback.Step>> = ReturnType<
  typeof Fallback.chain<readonly [Fallback.Step<"primary", A, E, R, undefined>, ...Steps]>
>

type Answered<A, E, R, PE, PR, Steps extends ReadonlyArray<Fallback.Step>> =
  Chained<A, E | Exclude<PE, Deadline.DeadlineExceeded>, R | PR, Steps> extends
    Effect.Effect<infer A2, infer E2, infer R2> ? Effect.Effect<A2, E2 | Extract<PE, Deadline.DeadlineExceeded>, R2>
    : never

/**
 * What {@link apply} makes of an effect: an `Answer` where the policy has a fallback, and either where that is not known.
 *
 * @category type-level
 * @since 0.1.0
 */
export type Applied<A, E, R, P> = P extends Policy<infer PE, infer PR, infer Steps>
  ? Steps extends readonly [] ? Effect.Effect<A, E | PE, R | PR>
  : readonly [] extends Steps ? Effect.Effect<A, E | PE, R | PR> | Answered<A, E, R, PE, PR, Steps>
  : Answered<A, E, R, PE, PR, Steps>
  : never

type AnyPolicy = Policy<unknown, unknown, ReadonlyArray<Fallback.Step>>

/**
 * Runs an effect behind the guards of a policy.
 *
 * **Details**
 *
 * Adds to the error type exactly what the guards of this policy can fail with, and to the requirements the services that
 * they need; {@link layer} has all of them. With a `fallback` the result is an `Answer`, and the errors that its steps
 * take are gone from the error type.
 *
 * A try that ran into its timeout is retried as any other failure that is worth it; what the guards themselves refuse
 * (`CircuitOpen`, `BulkheadFull`, `LimitExceeded`, `QuotaExceeded`) is not, so that a fallback answers at once, unless
 * `retry: { retryRejected: true }` asks to wait for it.
 *
 * Semantics are those of the separate parts in that order. Where circuit breaker and bulkhead are the ones of this
 * process, one step does the work of all of them.
 *
 * **Example** (An answer whatever happens)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fallback, Fault, Policy } from "effect-resilience"
 *
 * const careful = Policy.make({
 *   name: "anthropic",
 *   timeout: "60 seconds",
 *   circuit: { failures: 1 },
 *   fallback: Fallback.step("template", Effect.succeed("a standard outline"), { takes: "all" })
 * })
 *
 * const outline = Effect.fail({ [Fault.verdictOf]: Fault.overloaded() }).pipe(Policy.apply(careful))
 *
 * const answer = await Effect.runPromise(outline.pipe(Effect.provide(Policy.layer)))
 * answer.value // => "a standard outline"
 * answer.source // => "template"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const apply: {
  <P extends AnyPolicy>(policy: P): <A, E, R>(self: Effect.Effect<A, E, R>) => Applied<A, E, R, P>
  <A, E, R, P extends AnyPolicy>(self: Effect.Effect<A, E, R>, policy: P): Applied<A, E, R, P>
} = dual(2, <A, E, R, P extends AnyPolicy>(self: Effect.Effect<A, E, R>, policy: P): Applied<A, E, R, P> => {
  const { [TypeId]: guards, fallback, retry } = policy
  const once: Effect.Effect<unknown, unknown, unknown> = stack.guarded(self, guards)
  const tried = retry === undefined ? once : Retry.apply(once, retry)
  const answered = fallback.length === 0 ? tried : Fallback.chain(Fallback.step(internal.primary, tried), ...fallback)
  // the types fold over the options as these lines do over the policy, which the compiler cannot see
  return guards.outer(answered) as Applied<A, E, R, P>
})

/**
 * Options of {@link applyStream}.
 *
 * **Details**
 *
 * - `buffer`: whether the whole stream is collected before any of it is handed on, so that all of it can be tried again;
 *   default no.
 * - `stall`: fails with `Stalled` when nothing comes for so long after the first element, while somebody waits for it. As
 *   under `Deadline.stall`, signs of life (`Deadline.beat`) count for up to 10 minutes. Default: no limit.
 * - `isFirst`: which element ends the wait for the first one. Those before it are kept back and come with it; a stream that
 *   fails among them is tried again. Default: any.
 * - `untilWhole`: which elements are kept back until the stream has come to a good end and the guards are done with it. None
 *   of them is a first one. Default: none.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamOptions<in A = unknown> extends streams.StreamOptions<A> {}

/**
 * What a policy that {@link applyStream} takes looks like: one without a fallback.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamPolicy<out E = unknown, out R = unknown> extends Policy<E, R, readonly []> {}

type StallOf<Stall> = [Stall] extends [undefined] ? never : Deadline.Stalled

type StreamFirst = [
  self: Stream.Stream<unknown, unknown, unknown>,
  policy: StreamPolicy,
  options?: StreamOptions<unknown> | undefined
]
type StreamLast = [policy: StreamPolicy, options?: StreamOptions<unknown> | undefined]

const isStreamFirst = (args: StreamFirst | StreamLast): args is StreamFirst => Stream.isStream(args[0])

const makeApplyStream = (
  { [TypeId]: guards, fallback, name, retry }: StreamPolicy,
  options?: StreamOptions<unknown>
) => {
  const settings = streams.settings(options)
  // also for a caller without types
  if (fallback.length > 0) throw streams.noFallback(name)
  return (self: Stream.Stream<unknown, unknown, unknown>) => streams.apply(self, { name, guards, retry }, settings)
}

/**
 * Runs a stream behind the guards of a policy.
 *
 * **When to use**
 *
 * Use it where the stream itself is handed on. A stream that an effect consumes as a whole is better guarded by
 * {@link apply} around that effect.
 *
 * **Details**
 *
 * The guards see one call, from the opening of the stream to its end: it holds its slots for as long, has its usage read
 * from the elements at its beginning and its end, and fails for the circuit with the failure of the stream. Whoever stops
 * reading gives all of that back.
 *
 * - `retry` and `hedge` repeat a stream until it has come to its first element. Once that was handed on, a failure is what
 *   the reader gets: elements of two tries are never mixed. With `buffer` all of it is collected first, and can be tried
 *   again to the end.
 * - `timeout` is the time to the first element, `stall` that between two; `deadline` counts all, also the time that the
 *   reader takes.
 * - The first element is reported to the learned limit (`AdaptiveLimit.firstToken`), and what the elements up to it say of
 *   the provider's limits to the quota.
 *
 * A policy with a `fallback` is refused: a stream cannot be an `Answer`. Throws `Fault.InvalidConfig` for an option that
 * cannot work. The elements come from a fiber of the stream's own, at most one of them ahead of the reader.
 *
 * **Example** (Trying a stream again that does not begin)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { Backoff, Fault, Policy } from "effect-resilience"
 *
 * const careful = Policy.make({
 *   name: "model",
 *   retry: { backoff: Backoff.constant({ delay: "1 millis" }) },
 *   bulkhead: { maxConcurrent: 3 }
 * })
 *
 * let tries = 0
 * const parts = Stream.suspend(() =>
 *   ++tries === 1 ? Stream.fail({ [Fault.verdictOf]: Fault.overloaded() }) : Stream.make("hel", "lo")
 * ).pipe(Policy.applyStream(careful, { stall: "30 seconds" }))
 *
 * await Effect.runPromise(Effect.provide(Stream.mkString(parts), Policy.layer)) // => "hello"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function applyStream<PE, PR, A = unknown, Stall extends Duration.Input | undefined = undefined>(
  policy: StreamPolicy<PE, PR>,
  options?: StreamOptions<A> & { readonly stall?: Stall }
): <B extends A, E, R>(self: Stream.Stream<B, E, R>) => Stream.Stream<B, E | PE | StallOf<Stall>, R | PR>
export function applyStream<A, E, R, PE, PR, Stall extends Duration.Input | undefined = undefined>(
  self: Stream.Stream<A, E, R>,
  policy: StreamPolicy<PE, PR>,
  options?: StreamOptions<NoInfer<A>> & { readonly stall?: Stall }
): Stream.Stream<A, E | PE | StallOf<Stall>, R | PR>
export function applyStream(...args: StreamFirst | StreamLast): unknown {
  return isStreamFirst(args) ? makeApplyStream(args[1], args[2])(args[0]) : makeApplyStream(args[0], args[1])
}

/**
 * All services that a policy can ask for, with their defaults: `Quota`, `AdaptiveLimit`, `CircuitBreaker`, `Bulkhead`,
 * `RetryBudget` and the latencies of `Hedge`, all in process.
 *
 * **When to use**
 *
 * Use it at the edge of a program; to configure one of them, or to share it between processes, merge the layers of the
 * modules instead.
 *
 * @category layers
 * @since 0.1.0
 */
export const layer: Layer.Layer<
  | Quota.Quota
  | AdaptiveLimit.AdaptiveLimit
  | CircuitBreaker.CircuitBreaker
  | Bulkhead.Bulkhead
  | RetryBudget.RetryBudget
  | Hedge.Latencies
> = Layer.mergeAll(
  Quota.layer(),
  AdaptiveLimit.layer(),
  CircuitBreaker.layer(),
  Bulkhead.layer(),
  RetryBudget.layer(),
  Hedge.layer()
)

/**
 * The services of {@link layer}, that let every call through and remember nothing. Timeouts, deadlines and retries stay
 * what they are.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<
  | Quota.Quota
  | AdaptiveLimit.AdaptiveLimit
  | CircuitBreaker.CircuitBreaker
  | Bulkhead.Bulkhead
  | RetryBudget.RetryBudget
  | Hedge.Latencies
> = Layer.mergeAll(
  Quota.layerNoop,
  AdaptiveLimit.layerNoop,
  CircuitBreaker.layerNoop,
  Bulkhead.layerNoop,
  RetryBudget.layerNoop,
  Hedge.layerNoop
)

/**
 * Says what a policy does, a line for each guard, from the outside in.
 *
 * **Example** (Printing a policy)
 *
 * ```ts import.meta.vitest
 * import { Policy } from "effect-resilience"
 *
 * const careful = Policy.make({
 *   name: "anthropic",
 *   deadline: "5 minutes",
 *   retry: { maxAttempts: 3 },
 *   bulkhead: { maxConcurrent: 3, maxQueue: 100 },
 *   timeout: "60 seconds"
 * })
 *
 * Policy.describe(careful).split("\n")
 * // => [
 * //   'policy "anthropic"',
 * //   "  deadline         5m",
 * //   "  retry            at most 3 attempts",
 * //   "  bulkhead         maxConcurrent 3, maxQueue 100",
 * //   "  attempt timeout  1m",
 * //   "  work"
 * // ]
 * ```
 *
 * @category destructors
 * @since 0.1.0
 */
export const describe = (policy: AnyPolicy): string => description.describe(policy)
