/**
 * Guards composed into one value, in the one order that works.
 *
 * A policy says what stands between a program and something that fails: a deadline, fallbacks, retries, a bulkhead, a
 * circuit breaker, a hedge and a timeout for each try. Each is optional, each also stands alone in its own module, and
 * what the policy can fail with is in its type.
 *
 * **Details**
 *
 * The order is always the same, from the outside in: deadline > fallback > retry > bulkhead > circuit > hedge > attempt
 * timeout > work. So the deadline bounds everything, a fallback answers when the tries are over, every try asks for its
 * slot and its circuit anew, a retry's delay holds no slot, and the circuit judges and times a call only from when it
 * really starts. An open circuit refuses before anything is queued.
 *
 * @since 0.1.0
 */
// effect/ExecutionPlan goes through a list of layers and retries; it has no guard that refuses.
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import type * as Types from "effect/Types"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as Bulkhead from "./Bulkhead.ts"
import * as CircuitBreaker from "./CircuitBreaker.ts"
import * as Deadline from "./Deadline.ts"
import * as Fallback from "./Fallback.ts"
import * as Hedge from "./Hedge.ts"
import * as bulkheads from "./internal/bulkheadEngine.ts"
import * as circuits from "./internal/circuitSettings.ts"
import * as stack from "./internal/policyStack.ts"
import * as Retry from "./Retry.ts"
import * as RetryBudget from "./RetryBudget.ts"

const module = "Policy.make"

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
export interface CircuitOptions extends CircuitBreaker.CircuitOptions {
  readonly failures?: number | undefined
  readonly successes?: number | undefined
}

/**
 * Options of {@link make}. What is left out does not guard.
 *
 * **Details**
 *
 * - `name`: names the policy in errors, events and spans.
 * - `key`: what its circuit and its bulkhead are shared by. Default: `name`. See also {@link keyed}.
 * - `deadline`: bounds all of it; fails with `DeadlineExceeded`. See `Deadline.within`.
 * - `fallback`: what answers instead, one step of `Fallback` or several in order. The result becomes an `Answer`, whose
 *   first source is `"primary"`.
 * - `retry`: options of `Retry.policy` or such a policy. `{}` is its default: full jitter from 1 second, cap 60 seconds,
 *   5 attempts. Adds no error; with a `budget` it asks for a `RetryBudget`.
 * - `bulkhead`: options of one key of `Bulkhead`; `{}` is 3 at a time. Fails with `BulkheadFull`.
 * - `circuit`: options of one key of `CircuitBreaker`, see {@link CircuitOptions}; `{}` is 5 failures in a row, 60 seconds
 *   open, 2 successes to close. Fails with `CircuitOpen`.
 * - `hedge`: options of `Hedge.policy` or such a policy. Adds no error.
 * - `timeout`: how long one try may take, a hedge's tries each by themselves; fails with `AttemptTimeout`, which is
 *   retried.
 *
 * Where the layer of `CircuitBreaker` or `Bulkhead` configures the very key (`keys`), that wins: operations can overrule a
 * program.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly name: string
  readonly key?: string | undefined
  readonly deadline?: Duration.Input | undefined
  readonly fallback?: Fallback.Step | readonly [Fallback.Step, ...Array<Fallback.Step>] | undefined
  readonly retry?: Retry.Options | Retry.Policy<unknown> | undefined
  readonly bulkhead?: Bulkhead.LimitOptions | undefined
  readonly circuit?: CircuitOptions | undefined
  readonly hedge?: Hedge.Options | Hedge.Policy<unknown> | undefined
  readonly timeout?: Duration.Input | undefined
}

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
  readonly bulkhead: Bulkhead.LimitOptions | undefined
  readonly circuit: CircuitBreaker.CircuitOptions | undefined
  readonly hedge: Hedge.Policy<unknown> | undefined
  readonly timeout: Duration.Duration | undefined
}

type Has<O, K extends keyof Options> = K extends keyof O ? [O[K]] extends [undefined] ? false : true : false

type When<Condition, Then> = Condition extends true ? Then : never

/**
 * What a policy of these options can fail with.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ErrorOf<O> =
  | When<Has<O, "deadline">, Deadline.DeadlineExceeded>
  | When<Has<O, "bulkhead">, Bulkhead.BulkheadFull>
  | When<Has<O, "circuit">, CircuitBreaker.CircuitOpen>
  | When<Has<O, "timeout">, Deadline.AttemptTimeout>

type Part<O, K extends keyof Options> = K extends keyof O ? Exclude<O[K], undefined> : never

type BudgetOf<P> = P extends { readonly budget?: infer B } ? [Extract<B, string>] extends [never] ? undefined : string
  : undefined

type RetryServices<P> = P extends Retry.Policy<infer R> ? R
  : BudgetOf<P> extends string ? RetryBudget.RetryBudget
  : never

type HedgeServices<P> = P extends Hedge.Policy<infer R> ? R
  : P extends { readonly delay: infer D } ? Hedge.ServicesOf<D, BudgetOf<P>>
  : never

/**
 * The services that a policy of these options needs.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ServicesOf<O> =
  | When<Has<O, "bulkhead">, Bulkhead.Bulkhead>
  | When<Has<O, "circuit">, CircuitBreaker.CircuitBreaker>
  | RetryServices<Part<O, "retry">>
  | HedgeServices<Part<O, "hedge">>

/**
 * The fallback of a policy of these options, as a list.
 *
 * @category type-level
 * @since 0.1.0
 */
export type StepsOf<O> = O extends { readonly fallback: infer S }
  ? S extends ReadonlyArray<Fallback.Step> ? S : S extends Fallback.Step ? readonly [S] : readonly []
  : readonly []

type KeyOf<T> = T extends unknown ? keyof T : never

type KnownPart<P, Shape> = P extends object
  ? { readonly [J in keyof P]: J extends KeyOf<NonNullable<Shape>> ? unknown : never }
  : P

/** Refuses options that there are not, also inside the parts: a misspelt guard does not guard. */
type Known<O> = {
  readonly [K in keyof O]: K extends "retry" | "bulkhead" | "circuit" | "hedge" ? KnownPart<O[K], Options[K]>
    : K extends keyof Options ? unknown
    : never
}

const circuitOptions = (options: CircuitOptions): CircuitBreaker.CircuitOptions => {
  const { failures, successes, ...rest } = options
  const twice = (long: string, value: unknown) => {
    throw new Fault.InvalidConfig({
      module,
      option: `circuit.${long}`,
      value: String(value),
      expected: "either the short form or the long one, not both"
    })
  }
  if (failures !== undefined && rest.trip !== undefined) twice("failures", failures)
  if (successes !== undefined && rest.successThreshold !== undefined) twice("successes", successes)
  const trip = failures === undefined
    ? undefined
    : CircuitBreaker.consecutive(config.integer(module, "circuit.failures", failures, 1))
  const long = {
    ...rest,
    ...(trip === undefined ? {} : { trip }),
    ...(successes === undefined
      ? {}
      : { successThreshold: config.integer(module, "circuit.successes", successes, 1) })
  }
  circuits.checkOptions(module, long, "circuit.")
  return long
}

const positive = { minimum: "1 millis" } as const

const stepsOf = (fallback: Options["fallback"]): ReadonlyArray<Fallback.Step> =>
  fallback === undefined ? [] : "label" in fallback ? [fallback] : fallback

const variance = { _E: (_: never) => _, _R: (_: never) => _ }

type Settings = Omit<Policy<unknown, unknown, ReadonlyArray<Fallback.Step>>, typeof TypeId>

const guardsOf = ({ bulkhead, circuit, deadline, hedge, key, name, timeout }: Settings): stack.Guards => {
  const attempt = timeout === undefined ? undefined : Deadline.attempt(timeout, { name })
  // its services are in the type of the policy, where the options were seen
  const hedged = hedge === undefined ? undefined : Hedge.apply(hedge as Hedge.Policy<stack.HedgeServices>)
  const within = deadline === undefined ? undefined : Deadline.within(deadline, { name })
  return {
    key,
    bulkhead,
    circuit,
    inner: (self) => {
      const once = attempt === undefined ? self : attempt(self)
      return hedged === undefined ? once : hedged(once)
    },
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
  options: O & Known<O>
): Policy<ErrorOf<O>, ServicesOf<O>, StepsOf<O>> => {
  const { bulkhead, circuit, deadline, fallback, hedge, key, name, retry, timeout }: Options = options
  if (bulkhead !== undefined) bulkheads.checked(bulkhead)
  const settings: Settings = {
    name: config.nonEmpty(module, "name", name),
    key: config.nonEmpty(module, "key", key ?? name),
    deadline: deadline === undefined ? undefined : config.duration(module, "deadline", deadline, positive),
    fallback: stepsOf(fallback),
    retry: retry === undefined ? undefined : Retry.policy({ ...retry, name: retry.name ?? name }),
    bulkhead,
    circuit: circuit === undefined ? undefined : circuitOptions(circuit),
    hedge: hedge === undefined ? undefined : Hedge.policy({ ...hedge, name: hedge.name ?? name }),
    timeout: timeout === undefined ? undefined : config.duration(module, "timeout", timeout, positive)
  }
  // the steps are those of the options, which the compiler has forgotten for their general type
  return { [TypeId]: { ...variance, ...guardsOf(settings) }, ...settings } as unknown as Policy<
    ErrorOf<O>,
    ServicesOf<O>,
    StepsOf<O>
  >
}

/**
 * The same policy for another key: a circuit and a bulkhead of its own, all else shared.
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
    [TypeId]: { ...policy[TypeId], key: config.nonEmpty("Policy.keyed", "key", key) },
    key
  })
)

type Chained<A, E, R, Steps extends ReadonlyArray<Fallback.Step>> = ReturnType<
  typeof Fallback.chain<readonly [Fallback.Step<"primary", A, E, R, undefined>, ...Steps]>
>

/**
 * What {@link apply} makes of an effect.
 *
 * @category type-level
 * @since 0.1.0
 */
export type Applied<A, E, R, PE, PR, Steps extends ReadonlyArray<Fallback.Step>> = Steps extends readonly []
  ? Effect.Effect<A, E | PE, R | PR>
  : Chained<A, E | Exclude<PE, Deadline.DeadlineExceeded>, R | PR, Steps> extends Effect.Effect<
    infer A2,
    infer E2,
    infer R2
  > ? Effect.Effect<A2, E2 | Extract<PE, Deadline.DeadlineExceeded>, R2>
  : never

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
 * (`CircuitOpen`, `BulkheadFull`) is not, so that a fallback answers at once, unless `retry: { retryRejected: true }` asks
 * to wait for it.
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
  <PE, PR, Steps extends ReadonlyArray<Fallback.Step>>(
    policy: Policy<PE, PR, Steps>
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Applied<A, E, R, PE, PR, Steps>
  <A, E, R, PE, PR, Steps extends ReadonlyArray<Fallback.Step>>(
    self: Effect.Effect<A, E, R>,
    policy: Policy<PE, PR, Steps>
  ): Applied<A, E, R, PE, PR, Steps>
} = dual(
  2,
  <A, E, R, PE, PR, Steps extends ReadonlyArray<Fallback.Step>>(
    self: Effect.Effect<A, E, R>,
    policy: Policy<PE, PR, Steps>
  ): Applied<A, E, R, PE, PR, Steps> => {
    const guards = policy[TypeId]
    const once: Effect.Effect<unknown, unknown, unknown> = stack.guarded(self, guards)
    const tried = policy.retry === undefined ? once : Retry.apply(once, policy.retry)
    const answered = policy.fallback.length === 0
      ? tried
      : Fallback.chain(Fallback.step("primary", tried), ...policy.fallback)
    // the types fold over the options as these lines do over the policy, which the compiler cannot see
    return guards.outer(answered) as Applied<A, E, R, PE, PR, Steps>
  }
)

/**
 * All services that a policy can ask for, with their defaults: `CircuitBreaker`, `Bulkhead`, `RetryBudget` and the
 * latencies of `Hedge`, all in process.
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
  CircuitBreaker.CircuitBreaker | Bulkhead.Bulkhead | RetryBudget.RetryBudget | Hedge.Latencies
> = Layer.mergeAll(CircuitBreaker.layer(), Bulkhead.layer(), RetryBudget.layer(), Hedge.layer())

/**
 * The services of {@link layer}, that let every call through and remember nothing. Timeouts, deadlines and retries stay
 * what they are.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<
  CircuitBreaker.CircuitBreaker | Bulkhead.Bulkhead | RetryBudget.RetryBudget | Hedge.Latencies
> = Layer.mergeAll(CircuitBreaker.layerNoop, Bulkhead.layerNoop, RetryBudget.layerNoop, Hedge.layerNoop)

const text = (duration: Duration.Input): string => Duration.format(Duration.fromInputUnsafe(duration))

const shown = (given: object): string => {
  const parts = Object.entries(given).flatMap(([option, value]: [string, unknown]) => {
    if (value === undefined) return []
    if (typeof value === "string" || typeof value === "number" || typeof value === "boolean") {
      return [`${option} ${value}`]
    }
    return Duration.isDuration(value) ? [`${option} ${text(value)}`] : [`${option} of its own`]
  })
  return parts.length === 0 ? "as the layer says" : parts.join(", ")
}

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
export const describe = (policy: Policy<unknown, unknown, ReadonlyArray<Fallback.Step>>): string => {
  const { bulkhead, circuit, deadline, fallback, hedge, key, name, retry, timeout } = policy
  const lines: ReadonlyArray<readonly [guard: string, what: string | undefined]> = [
    ["deadline", deadline === undefined ? undefined : text(deadline)],
    [
      "fallback",
      fallback.length === 0 ? undefined : fallback.map(({ label }) => JSON.stringify(label)).join(", then ")
    ],
    ["retry", retry === undefined ? undefined : describeRetry(retry)],
    ["bulkhead", bulkhead === undefined ? undefined : shown(bulkhead)],
    ["circuit", circuit === undefined ? undefined : shown(circuit)],
    ["hedge", hedge === undefined ? undefined : describeHedge(hedge)],
    ["attempt timeout", timeout === undefined ? undefined : text(timeout)]
  ]
  return [
    `policy ${JSON.stringify(name)}${key === name ? "" : `, key ${JSON.stringify(key)}`}`,
    ...lines.flatMap(([guard, what]) => what === undefined ? [] : [`  ${guard.padEnd(15)}  ${what}`]),
    "  work"
  ].join("\n")
}

const describeRetry = ({ budget, maxAttempts, maxElapsed, retryRejected }: Retry.Policy<unknown>): string =>
  [
    `at most ${maxAttempts} attempts`,
    ...(maxElapsed === undefined ? [] : [`within ${text(maxElapsed)}`]),
    ...(budget === undefined ? [] : [`budget ${JSON.stringify(budget)}`]),
    ...(retryRejected ? ["also what the guards refuse"] : [])
  ].join(", ")

const describeHedge = ({ budget, delay, maxAttempts }: Hedge.Policy<unknown>): string =>
  [
    `at most ${maxAttempts} attempts`,
    Duration.isDuration(delay) ? `the next after ${text(delay)}` : `the next after the ${delay.p * 100}th percentile`,
    ...(budget === undefined ? [] : [`budget ${JSON.stringify(budget)}`])
  ].join(", ")
