/**
 * Starts a second attempt beside one that is slow, and takes the answer that comes first.
 *
 * Most calls are quick and a few are very slow, and where those are slow by chance (a busy replica, a lost packet, an
 * unlucky queue) the same call made again is quick. A hedge makes it again once the first has taken longer than most do,
 * which cuts the slow ones off for a few percent more calls.
 *
 * **Details**
 *
 * A call is made twice, so only operations that may be repeated without harm are hedged: those inside
 * `Fault.idempotent`, or of a policy with `idempotent: true`. Everything else simply runs once.
 *
 * - The next attempt starts when the one before it has run for the delay, or at once when one has failed with a verdict
 *   that makes a repetition sensible (`Fault.isRetryable`). `maxAttempts` counts all of them.
 * - The first success is the result. The others are interrupted, and the result is seen when their finalizers have run.
 * - A failed attempt does not end the call while another runs. When all have failed, the call fails as the first attempt
 *   did, with its cause as it was.
 * - Any other failure (`Permanent`, `Rejected`, `Refused`, ...) would come again: it starts no further attempt, while those
 *   that run may still win. One that says when to come back (`retryAfter`) starts none before that time, and waits for it
 *   only beside an attempt that runs; otherwise the waiting is left to `Retry`.
 * - A defect is a bug, and an interruption inside of an attempt is somebody's wish: either ends the call at once, and is
 *   what it ends with.
 * - Whoever interrupts the caller interrupts all attempts, and waits for all of them.
 * - Nothing is started that a deadline around leaves no time for, or that the budget cannot pay for. Neither fails the
 *   call.
 *
 * Put a hedge inside of `Retry` and around the attempt timeout. Time is measured with the monotonic clock; a call that
 * ends at once starts no timer.
 *
 * Hedged requests and the delay at a high percentile are from Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013
 * (https://research.google/pubs/the-tail-at-scale/); the rules for failures are those of gRPC's hedging policy
 * (https://github.com/grpc/proposal/blob/master/A6-client-retries.md), except that a failure which would come again does
 * not stop an attempt that runs.
 *
 * @since 0.1.0
 */
// Effect.race starts everything it has at once, and every call would start a fiber and a timer for a hedge that is
// seldom needed; it cannot start the next because one has failed.
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import type * as Types from "effect/Types"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import { millisIn, rounding } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import * as latencies from "./internal/hedgeLatencies.ts"
import * as internal from "./internal/hedgeRun.ts"
import * as budgets from "./internal/retryBudget.ts"
import { Timeouts } from "./internal/timeouts.ts"
import { RetryBudget } from "./RetryBudget.ts"

const TypeId = "~effect-resilience/policy/Hedge/Policy"

const PercentileId = "~effect-resilience/policy/Hedge/Percentile"

/**
 * Options of {@link percentile}.
 *
 * **Details**
 *
 * - `p`: the share of calls that are quick enough, from 0 to 1; default 0.95, which hedges about one call in twenty.
 * - `minSamples`: how many attempts have to be known before their percentile is used; default 20.
 * - `window`: how many of the latest attempts count; default 100, at most 10,000.
 * - `initial`: the delay until there are enough samples. Default: until then no call is hedged for being slow.
 * - `min`, `max`: no delay is shorter or longer; default 1 millisecond and no limit.
 *
 * @category models
 * @since 0.1.0
 */
export interface PercentileOptions {
  readonly p?: number | undefined
  readonly minSamples?: number | undefined
  readonly window?: number | undefined
  readonly initial?: Duration.Input | undefined
  readonly min?: Duration.Input | undefined
  readonly max?: Duration.Input | undefined
}

/**
 * A delay that is learned: a percentile of what the latest attempts of the policy took. See {@link percentile}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Percentile extends latencies.Settings {
  readonly [PercentileId]: typeof PercentileId
}

const isPercentile = (u: unknown): u is Percentile => Predicate.hasProperty(u, PercentileId)

/**
 * Options of {@link policy}.
 *
 * **Details**
 *
 * - `name`: names the policy in events, spans and {@link Latencies}. Required for a {@link percentile}, because policies
 *   of one name learn together. Default: `"hedge"`.
 * - `delay`: how long an attempt runs before the next starts beside it: a duration, or a {@link percentile}. Zero starts
 *   all at once, infinity starts the next only when one has failed.
 * - `maxAttempts`: how many attempts a call makes at most, the first included, from 1 to 10. Default: 2.
 * - `budget`: the key of a `RetryBudget` that every further attempt is paid from, so that hedges do not double the load of
 *   something that is slow because it is overloaded. First attempts put into it and never pay; under a `Retry` that pays from
 *   the same budget, the first attempt of each of its tries does. A budget of your own is asked to the end once it is
 *   asked, and given back to, behind the call: no result waits for either. Default: no budget.
 * - `idempotent`: whether the effect may be repeated without harm. Default: what the surroundings say
 *   (`Fault.Idempotent`).
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<
  Delay extends Duration.Input | Percentile = Duration.Input | Percentile,
  Budget extends string | undefined = string | undefined
> {
  readonly name?: string | undefined
  readonly delay: Delay
  readonly maxAttempts?: number | undefined
  readonly budget?: Budget
  readonly idempotent?: boolean | undefined
}

/**
 * When to make a call again beside itself. A plain value without state: any number of fibers may share one.
 *
 * **Details**
 *
 * `R` are the services that its use needs, see {@link ServicesOf}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy<out R = never> {
  readonly [TypeId]: { readonly _R: Types.Covariant<R> }
  readonly name: string
  readonly delay: Duration.Duration | Percentile
  readonly maxAttempts: number
  readonly budget: string | undefined
  readonly idempotent: boolean | undefined
}

const variance = { _R: (_: never) => _ }

/**
 * The services that a policy needs: `RetryBudget` with a budget, {@link Latencies} with a {@link percentile}.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ServicesOf<Delay, Budget> =
  | ([Extract<Delay, Percentile>] extends [never] ? never : Latencies)
  | ([Budget] extends [undefined] ? never : RetryBudget)

/**
 * The delay at which most calls have ended, learned from the latest attempts.
 *
 * **When to use**
 *
 * Use it rather than a fixed delay: the right one is different for every operation and changes with the load, and one
 * that is too short doubles the calls just when everything is slow.
 *
 * **Details**
 *
 * The percentile is the nearest rank: the smallest sample that a share of `p` of them does not exceed (Hyndman and Fan,
 * "Sample Quantiles in Statistical Packages", 1996, definition 1), up to whole milliseconds. Samples are
 *
 * - what each attempt took that succeeded;
 * - the time so far of an attempt that was interrupted because another won, and of one that failed with `TimedOut`. It
 *   would have taken longer, and without it the slow ones would never be seen. One that had not yet run for the delay is
 *   left out: it says nothing about slow ones, and to count it would shorten the delay.
 *
 * Other failures, and calls that were interrupted from outside, count for nothing. What is learned lives in
 * {@link layer}. Throws `Fault.InvalidConfig` for an option that cannot work.
 *
 * **Example** (Hedging the slowest tenth)
 *
 * ```ts import.meta.vitest
 * import { Duration } from "effect"
 * import { Hedge } from "effect-resilience"
 *
 * const slow = Hedge.percentile({ p: 0.9, initial: "2 seconds", max: "10 seconds" })
 *
 * slow.initial // => Duration.seconds(2)
 * slow.minSamples // => 20
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const percentile = (options: PercentileOptions = {}): Percentile => {
  const module = "Hedge.percentile"
  const window = config.integer(module, "window", options.window ?? 100, 1, 10_000)
  const min = config.duration(module, "min", options.min ?? "1 millis")
  return {
    [PercentileId]: PercentileId,
    p: config.numberBetween(module, "p", options.p ?? 0.95, 0, 1),
    minSamples: config.integer(module, "minSamples", options.minSamples ?? Math.min(20, window), 1, window),
    window,
    initial: options.initial === undefined ? undefined : config.duration(module, "initial", options.initial),
    min,
    max: config.duration(module, "max", options.max ?? Duration.infinity, { minimum: min, infinite: true })
  }
}

/**
 * Creates a {@link Policy}.
 *
 * **Details**
 *
 * Throws `Fault.InvalidConfig` for an option that cannot work. See {@link Options} for the defaults.
 *
 * **Example** (Hedging within a budget)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedge, RetryBudget } from "effect-resilience"
 *
 * const search = Hedge.policy({
 *   name: "search",
 *   delay: Hedge.percentile({ initial: "300 millis" }),
 *   budget: "search",
 *   idempotent: true
 * })
 *
 * const program = Effect.succeed("found").pipe(
 *   Hedge.apply(search),
 *   Effect.provide([Hedge.layer(), RetryBudget.layer({ ratio: 0.05 })])
 * )
 *
 * await Effect.runPromise(program) // => "found"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = <Delay extends Duration.Input | Percentile, Budget extends string | undefined = undefined>(
  options: Options<Delay, Budget>
): Policy<ServicesOf<Delay, Budget>> => {
  const module = "Hedge.policy"
  const delay: Duration.Input | Percentile = options.delay
  return {
    [TypeId]: variance,
    name: config.nonEmpty(module, "name", options.name ?? (isPercentile(delay) ? "" : "hedge")),
    delay: isPercentile(delay) ? delay : config.duration(module, "delay", delay, { infinite: true }),
    maxAttempts: config.integer(module, "maxAttempts", options.maxAttempts ?? 2, 1, 10),
    budget: options.budget === undefined ? undefined : config.nonEmpty(module, "budget", options.budget),
    idempotent: options.idempotent
  }
}

/**
 * Which attempt of the innermost hedge this is: 1 for the first, and outside of any.
 *
 * **When to use**
 *
 * Use it for a log line or a span attribute. An idempotency key belongs to the call and not to the attempt: make it
 * outside of the hedge, and all attempts send the same.
 *
 * **Example** (Asking another replica)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedge } from "effect-resilience"
 *
 * const call = Effect.gen(function*() {
 *   const attempt = yield* Hedge.CurrentAttempt
 *   return attempt === 1 ? yield* Effect.never : `replica ${attempt}`
 * })
 *
 * const program = Hedge.apply(call, Hedge.policy({ delay: "5 millis", idempotent: true }))
 *
 * await Effect.runPromise(program) // => "replica 2"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const CurrentAttempt: Context.Reference<number> = internal.CurrentAttempt

/**
 * Remembers, for each policy with a {@link percentile}, what its latest attempts took.
 *
 * **Details**
 *
 * Both methods take the name of the policy. Policies of one name learn together, over the longest of their windows.
 *
 * - `delay(name, percentile)`: after which time a call is slow; `undefined` as long as that is not known.
 * - `record(name, percentile, latency)`: an attempt took that long, or at least that long. It runs behind the call, whose
 *   result neither waits for it nor fails of it.
 *
 * **Example** (Looking at what was learned)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect } from "effect"
 * import { Hedge } from "effect-resilience"
 *
 * const median = Hedge.percentile({ p: 0.5, minSamples: 3 })
 *
 * const program = Effect.gen(function*() {
 *   const latencies = yield* Hedge.Latencies
 *   for (const n of [30, 10, 20]) yield* latencies.record("search", median, Duration.millis(n))
 *   return yield* latencies.delay("search", median)
 * }).pipe(Effect.provide(Hedge.layer()))
 *
 * await Effect.runPromise(program) // => Duration.millis(20)
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Latencies extends Context.Service<Latencies, {
  readonly delay: (name: string, percentile: Percentile) => Effect.Effect<Duration.Duration | undefined>
  readonly record: (name: string, percentile: Percentile, latency: Duration.Duration) => Effect.Effect<void>
}>()("effect-resilience/policy/Hedge/Latencies") {}

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `maxKeys`: how many names are remembered; default 10,000. Those unused for longest make room, a tenth at a time.
 * - `idleTimeToLive`: how long a name is remembered that nobody uses; default 1 hour.
 *
 * @category models
 * @since 0.1.0
 */
export interface LatenciesOptions {
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

const inProcess = (engine: latencies.Engine): Latencies["Service"] =>
  latencies.withEngine({
    delay: (name, settings) =>
      Effect.contextWith((context: Context.Context<never>) => {
        const millis = engine.delay(name, settings, millisIn(context))
        return Effect.succeed(millis === undefined ? undefined : Duration.millis(millis))
      }),
    record: (name, settings, latency) =>
      Effect.contextWith((context: Context.Context<never>) => {
        engine.record(name, settings, Duration.toMillis(latency), millisIn(context))
        return Effect.void
      })
  }, engine)

/**
 * Creates a `Latencies` that remembers in this process.
 *
 * **When to use**
 *
 * Use {@link layer} for the one of a program, and this for one of your own.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Knowing nothing yet)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedge } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const latencies = yield* Hedge.make({ maxKeys: 100 })
 *   return yield* latencies.delay("search", Hedge.percentile())
 * })
 *
 * await Effect.runPromise(program) // => undefined
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: LatenciesOptions = {}): Effect.Effect<Latencies["Service"]> =>
  Effect.sync(() => {
    const module = "Hedge.layer"
    const maxKeys = config.integer(module, "maxKeys", options.maxKeys ?? latencies.defaults.maxKeys, 1)
    const idleTimeToLive = config.duration(
      module,
      "idleTimeToLive",
      options.idleTimeToLive ?? latencies.defaults.idleTimeToLive,
      {
        minimum: "1 millis"
      }
    )
    return Latencies.of(inProcess(new latencies.Latencies(maxKeys, Duration.toMillis(idleTimeToLive))))
  })

/**
 * Provides a `Latencies` that remembers in this process.
 *
 * **Example** (Learning when a search is slow)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Hedge } from "effect-resilience"
 *
 * const policy = Hedge.policy({ name: "search", delay: Hedge.percentile(), idempotent: true })
 * const search = Effect.succeed("found").pipe(Hedge.apply(policy))
 *
 * await Effect.runPromise(Effect.provide(search, Hedge.layer())) // => "found"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: LatenciesOptions): Layer.Layer<Latencies> => Layer.effect(Latencies, make(options))

/**
 * Provides a `Latencies` that learns nothing: the delay of a percentile is its `initial`, and where it has none, no call
 * is hedged for being slow.
 *
 * **Example** (Testing with the same delay every time)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect } from "effect"
 * import { Hedge } from "effect-resilience"
 *
 * const program = Hedge.Latencies.use((latencies) =>
 *   latencies.delay("search", Hedge.percentile({ initial: "1 second" }))
 * )
 *
 * await Effect.runPromise(Effect.provide(program, Hedge.layerNoop)) // => Duration.seconds(1)
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<Latencies> = Layer.succeed(Latencies, inProcess(latencies.untaught))

// The timers that the calls of one policy share, which has no state itself. A percentile brings new ones when it moves.
const timeoutsByPolicy = new WeakMap<Policy<unknown>, Timeouts>()

const timeoutsOf = (policy: Policy<unknown>, millis: number): Timeouts => {
  let timeouts = timeoutsByPolicy.get(policy)
  if (timeouts === undefined || timeouts.millis !== millis) {
    timeouts = new Timeouts(millis)
    timeoutsByPolicy.set(policy, timeouts)
  }
  return timeouts
}

type Pay = internal.Setup["pay"]

/** Puts into the budget for a first attempt, and says how the others are paid for. */
const open = (context: Context.Context<never>, key: string | undefined): Pay | Effect.Effect<Pay> => {
  if (key === undefined) return undefined
  const service = Context.getUnsafe(context, RetryBudget)
  const engine = budgets.engineOf(service)
  if (engine === undefined) return Effect.as(service.deposit(key), () => service.withdraw(key))
  engine.deposit(key, millisIn(context))
  return (now) => engine.tryWithdraw(key, now)
}

type Learning = Pick<internal.Setup, "delay" | "learn" | "timeouts">

type Slowness = Pick<Learning, "delay" | "timeouts">

/** In whole milliseconds, as timers have it: so a percentile that has hardly moved keeps its timers. */
const slowAfter = (policy: Policy<unknown>, millis: number | undefined): Slowness => {
  if (millis === undefined) return { delay: undefined, timeouts: undefined }
  const delay = Math.ceil(millis - rounding)
  return { delay, timeouts: timeoutsOf(policy, delay) }
}

/** When an attempt is slow, and who wants to know how long it took. */
const learning = (context: Context.Context<never>, policy: Policy<unknown>): Learning | Effect.Effect<Learning> => {
  const { delay, name } = policy
  if (!isPercentile(delay)) {
    return { ...slowAfter(policy, Duration.toMillis(delay)), learn: undefined }
  }
  const service = Context.getUnsafe(context, Latencies)
  const engine = latencies.engineOf(service)
  if (engine === undefined) {
    return Effect.map(service.delay(name, delay), (known) => ({
      ...slowAfter(policy, known === undefined ? undefined : Duration.toMillis(known)),
      learn: (millis) => Effect.suspend(() => service.record(name, delay, Duration.millis(millis)))
    }))
  }
  return {
    ...slowAfter(policy, engine.delay(name, delay, millisIn(context))),
    learn: (millis, now) => {
      engine.record(name, delay, millis, now)
      return undefined
    }
  }
}

/**
 * Runs an effect, and beside it once more when it is slow, and once more when it has failed; the first success wins.
 *
 * **Details**
 *
 * See the head of this module for the rules. Adds no error. Needs a `RetryBudget` where the policy has a budget, and
 * {@link Latencies} where its delay is a percentile. Each attempt runs in a fiber of its own, and inside of it
 * `Fault.Idempotent` is true and {@link CurrentAttempt} its number.
 *
 * Once there was a second attempt, the span around gets `hedge.policy`, `hedge.attempts` and, when an attempt succeeded,
 * `hedge.winner`. `Telemetry` gets `HedgeStarted` for each further attempt, `HedgeWon` where one of them gave the result,
 * and `HedgeSkipped` where one could not start, with the reason: `NotIdempotent`, `TooFewSamples`, `Deadline` or
 * `BudgetEmpty`. It is told as soon as it is known, which for `TooFewSamples` and `Deadline` is when an attempt starts, also
 * of a call that turns out to be quick.
 *
 * **Gotchas**
 *
 * What stands around a hedge sees one call, however many attempts it makes: a bulkhead of `maxConcurrent` 10 around
 * `maxAttempts` 2 lets 20 calls through at once, and the one trial of a half-open circuit can be two (`Policy` has them in
 * that order). Where what is called must never see more than n at once, let `maxConcurrent` times `maxAttempts` be n, or
 * put `Bulkhead.limit` inside of the hedge, around the single attempt. While all attempts have failed and a budget of your
 * own is still asked for one more, the call waits for its answer: give it a timeout of its own.
 *
 * What an attempt acquires in a `Scope` from outside is kept by losers too until that scope closes: put `Effect.scoped`
 * inside of the hedge. An attempt that cannot be interrupted keeps the winner's result waiting until it has ended.
 *
 * **Example** (Not waiting for a slow replica)
 *
 * ```ts import.meta.vitest
 * import { Effect, Ref } from "effect"
 * import { Fault, Hedge } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const calls = yield* Ref.make(0)
 *   const read = Ref.updateAndGet(calls, (n) => n + 1).pipe(
 *     Effect.tap((n) => n === 1 ? Effect.never : Effect.void)
 *   )
 *   return yield* read.pipe(Hedge.apply(Hedge.policy({ delay: "10 millis" })), Fault.idempotent)
 * })
 *
 * await Effect.runPromise(program) // => 2
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const apply: {
  <R2>(policy: Policy<R2>): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R2>
  <A, E, R, R2>(self: Effect.Effect<A, E, R>, policy: Policy<R2>): Effect.Effect<A, E, R | R2>
} = dual(
  2,
  <A, E, R, R2>(self: Effect.Effect<A, E, R>, policy: Policy<R2>): Effect.Effect<A, E, R | R2> =>
    Effect.contextWith((context: Context.Context<R | R2>) => {
      const { budget, idempotent, maxAttempts, name } = policy
      if (!(idempotent ?? Context.get(context, Fault.Idempotent))) {
        const once = idempotent === undefined ? self : Effect.provideService(self, Fault.Idempotent, idempotent)
        const heard = Telemetry.emitIn(context, () => ({ _tag: "HedgeSkipped", policy: name, reason: "NotIdempotent" }))
        return heard === Effect.void ? once : Effect.andThen(heard, once)
      }
      const pay = open(context, budget)
      const learned = learning(context, policy)
      const run = (pay: Pay, learned: Learning) =>
        internal.hedged(self, { name, maxAttempts, pay, ...learned }, context)
      if (!Effect.isEffect(pay) && !Effect.isEffect(learned)) return run(pay, learned)
      return Effect.flatMap(
        Effect.isEffect(pay) ? pay : Effect.succeed(pay),
        (pay) =>
          Effect.flatMap(Effect.isEffect(learned) ? learned : Effect.succeed(learned), (learned) => run(pay, learned))
      )
    })
)
