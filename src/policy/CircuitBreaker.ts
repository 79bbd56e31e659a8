/**
 * Stops calling what keeps failing, and finds out carefully when it works again.
 *
 * One circuit per key: closed, it runs calls and watches how they end; open, it refuses them at once; half-open, it lets
 * a few probes through, which close it or open it again. What counts as a failure is the verdict of `Fault`.
 *
 * **Details**
 *
 * The circuit breaker never waits. Put a timeout inside of it, so that a call that hangs is a failure, and retries
 * outside of it, so that each attempt counts. Time is measured with the monotonic clock.
 *
 * @since 0.1.0
 */
// effect/persistence/CircuitBreaker is experimental and shaped by its shared store: one probe, two trip rules, no holds,
// no slow calls, no verdicts, and two effects of the store around each call, some 25 us where this one takes less than
// one. Here admission and record are one synchronous step each.
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type * as Redis from "effect/persistence/Redis"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as DrainedRedis from "../internal/drainedRedis.ts"
import { CircuitOpen } from "./internal/circuitOpen.ts"
import * as circuitRedis from "./internal/circuitRedis.ts"
import type * as circuitRedisSettings from "./internal/circuitRedisSettings.ts"
import * as rules from "./internal/circuitRules.ts"
import * as circuitService from "./internal/circuitService.ts"
import * as circuitSettings from "./internal/circuitSettings.ts"
import type * as circuits from "./internal/circuitState.ts"

const module = "CircuitBreaker"

/**
 * The name of a circuit's state.
 *
 * **Details**
 *
 * - `Closed`: calls run, and the trip rule watches how they end.
 * - `Open`: calls are refused until the open time is over.
 * - `HalfOpen`: a few probes run, the rest is refused.
 * - `Isolated`: somebody holds the circuit open by hand, and every call is refused.
 * - `MetricsOnly`: calls run and are counted, and the circuit never opens by itself.
 *
 * @category models
 * @since 0.1.0
 */
export type StateTag = State["_tag"]

/**
 * What is known about one circuit.
 *
 * **Details**
 *
 * `calls` and `failures` count what ended since the circuit was last closed, without what does not count. An `Open`
 * circuit whose `retryAfter` is zero becomes `HalfOpen` with the next call. `openings` counts the openings in a row.
 * `probes` run at this moment. `wouldOpen` says what the trip rule thought of the last call.
 *
 * @category models
 * @since 0.1.0
 */
export type State =
  | { readonly _tag: "Closed"; readonly key: string; readonly calls: number; readonly failures: number }
  | {
    readonly _tag: "Open"
    readonly key: string
    readonly retryAfter: Duration.Duration
    readonly openings: number
  }
  | {
    readonly _tag: "HalfOpen"
    readonly key: string
    readonly probes: number
    readonly successes: number
    readonly failures: number
    readonly openings: number
  }
  | { readonly _tag: "Isolated"; readonly key: string; readonly holders: number }
  | {
    readonly _tag: "MetricsOnly"
    readonly key: string
    readonly calls: number
    readonly failures: number
    readonly wouldOpen: boolean
  }

/**
 * A circuit went from one state to another.
 *
 * @category models
 * @since 0.1.0
 */
export interface Transition {
  readonly key: string
  readonly from: StateTag
  readonly to: StateTag
}

export { CircuitOpen }

/**
 * One finished call, as a trip rule sees it. `elapsed` and `now` are in milliseconds, `now` from a monotonic clock.
 *
 * @category trip rules
 * @since 0.1.0
 */
export interface Sample extends rules.Sample {}

/**
 * What a trip rule remembers about one circuit while it is closed.
 *
 * @category trip rules
 * @since 0.1.0
 */
export interface TripWindow extends rules.TripWindow {}

/**
 * Decides when a closed circuit opens.
 *
 * **When to use**
 *
 * Use {@link consecutive}, {@link rate}, {@link rateOver}, {@link slowRate} and {@link any}; implement it for a rule of
 * your own. A rule holds no state, so one rule can serve any number of circuits.
 *
 * @category trip rules
 * @since 0.1.0
 */
export interface TripRule extends rules.TripRule {}

/**
 * A trip rule that circuits in Redis can follow, too: {@link consecutive} and {@link rate} make them.
 *
 * @category trip rules
 * @since 0.1.0
 */
export interface SharedTripRule extends rules.SharedTripRule {}

/**
 * Opens after `failures` failures in a row, in the order in which calls end.
 *
 * **Example** (Opening after two failures in a row)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.CircuitBreaker
 *   const failing = Effect.exit(CircuitBreaker.protect(Effect.fail("connection lost"), "search"))
 *   yield* failing
 *   yield* failing
 *   return (yield* breaker.state("search"))._tag
 * }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(2) })))
 *
 * await Effect.runPromise(program) // => "Open"
 * ```
 *
 * @category trip rules
 * @since 0.1.0
 */
export const consecutive: (failures: number) => SharedTripRule = rules.consecutive

/**
 * Opens when the share of failures among the last calls reaches a threshold.
 *
 * **Details**
 *
 * `threshold` is from 0 to 1 (default 0.5) and compared with `>=`; without a failure the circuit never opens. `size` is
 * how many calls are remembered (default 100, at most 1,000,000: a circuit with failures keeps a byte for each), `minimumCalls`
 * how many there have to be (default 10, or `size` where that is less). Calls that are running, refused, interrupted or do not count are not among them.
 *
 * **Example** (Opening when half of the last 20 calls failed)
 *
 * ```ts import.meta.vitest
 * import { CircuitBreaker } from "effect-resilience"
 *
 * export const Live = CircuitBreaker.layer({
 *   trip: CircuitBreaker.rate({ threshold: 0.5, size: 20, minimumCalls: 10 })
 * })
 * ```
 *
 * @category trip rules
 * @since 0.1.0
 */
export const rate: (options?: {
  readonly threshold?: number | undefined
  readonly size?: number | undefined
  readonly minimumCalls?: number | undefined
}) => SharedTripRule = rules.rate

/**
 * Opens when the share of failures among the calls of the last while reaches a threshold.
 *
 * **Details**
 *
 * As {@link rate}, over a span of time. The span is kept in 20 buckets, so that a call is forgotten when it is between
 * 95 % and 100 % of `window` old, and neither cost nor memory grow with the traffic: some 300 bytes for each circuit, and
 * 200 more for one that has seen a failure.
 *
 * **Example** (Opening when a fifth of the last minute's calls failed)
 *
 * ```ts import.meta.vitest
 * import { CircuitBreaker } from "effect-resilience"
 *
 * export const Live = CircuitBreaker.layer({
 *   trip: CircuitBreaker.rateOver({ window: "1 minute", threshold: 0.2, minimumCalls: 20 })
 * })
 * ```
 *
 * @category trip rules
 * @since 0.1.0
 */
export const rateOver: (options: {
  readonly window: Duration.Input
  readonly threshold?: number | undefined
  readonly minimumCalls?: number | undefined
}) => TripRule = rules.rateOver

/**
 * Opens when the share of calls that took longer than `slowerThan` reaches a threshold.
 *
 * **Details**
 *
 * Counts over the last `size` calls (default 100), or over a span of time where `window` is given. A slow success is
 * slow and not failed; a slow failure is both. A half-open probe that was slow does not speak for closing. The other
 * options are those of {@link rate}.
 *
 * **Example** (Opening when most calls take longer than 20 seconds)
 *
 * ```ts import.meta.vitest
 * import { CircuitBreaker } from "effect-resilience"
 *
 * export const Live = CircuitBreaker.layer({
 *   trip: CircuitBreaker.slowRate({ slowerThan: "20 seconds", threshold: 0.8, window: "5 minutes" })
 * })
 * ```
 *
 * @category trip rules
 * @since 0.1.0
 */
export const slowRate: (
  options:
    & {
      readonly slowerThan: Duration.Input
      readonly threshold?: number | undefined
      readonly minimumCalls?: number | undefined
    }
    & (
      | { readonly size?: number | undefined; readonly window?: undefined }
      | { readonly window: Duration.Input; readonly size?: undefined }
    )
) => TripRule = rules.slowRate

/**
 * Opens when any of the rules would.
 *
 * **Example** (Opening after a row of failures or at a high rate of them)
 *
 * ```ts import.meta.vitest
 * import { CircuitBreaker } from "effect-resilience"
 *
 * export const Live = CircuitBreaker.layer({
 *   trip: CircuitBreaker.any(CircuitBreaker.consecutive(5), CircuitBreaker.rate({ threshold: 0.3, size: 100 }))
 * })
 * ```
 *
 * @category trip rules
 * @since 0.1.0
 */
export const any = (...anyOf: readonly [TripRule, ...Array<TripRule>]): TripRule => rules.any(anyOf)

/**
 * What a schedule of open times is given for each opening.
 *
 * @category models
 * @since 0.1.0
 */
export interface Opening extends circuits.Opening {}

/**
 * How one circuit behaves: given to the layer for all circuits and for single keys, or to {@link protect} by a caller.
 *
 * **Details**
 *
 * - `trip`: when it opens; default `consecutive(5)`.
 * - `openFor`: how long; default 60 seconds. With a schedule, the n-th opening in a row lasts its n-th delay, at least
 *   one millisecond, and its last delay repeats. The row ends once the circuit has stayed closed for as long as it was last open.
 * - `maxOpenFor`: longest open time; default one hour, or `openFor` where that is longer. A `Retry-After` of the
 *   failure that opens the circuit lengthens the open time up to it, and never shortens it.
 * - `halfOpenPermits`: how many probes run at the same time; default 1.
 * - `successThreshold`: how many probes have to succeed to close; default 2.
 * - `successOutOf`: among how many probes; default `successThreshold`, so that one failure opens the circuit again. It
 *   opens as soon as the threshold is out of reach.
 * - `probeTimeout`: how long a probe may hold its slot; default 5 minutes. It does not end the call: it lets the next
 *   caller probe and drops the late answer. Keep it longer than the slowest good answer.
 * - `metricsOnly`: count and never open; default `false`. A hold by hand still refuses.
 * - `countsAsFailure`: which verdicts count; default `Fault.countsAsFailure`. Defects always count, interruption never
 *   does. What does not count is neither a failure nor a success.
 *
 * @category models
 * @since 0.1.0
 */
export interface CircuitOptions extends circuitSettings.CircuitOptions {}

/**
 * Options of {@link make} and {@link layer}: how every circuit behaves, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named.
 * - `maxKeys`: how many circuits are remembered; default 10,000. The closed ones unused for longest make room, a tenth
 *   at a time; where there are none, those whose open time is over, and then those that are open. A circuit with a
 *   running call or a hold is never forgotten, so there are more while so many are busy. One takes 300 to 400 bytes, and
 *   what its rule says beside that.
 * - `idleTimeToLive`: how long an unused circuit is remembered at least; default one hour. It is forgotten with a call
 *   to any key, the first after twice that time at the latest. For one that has opened the time begins at the end of its
 *   open time, and is no shorter than that was: while it refuses calls it stays. A key that is used again after that
 *   starts closed, with all its calls and not with probes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends circuitSettings.Options {}

/**
 * A hold on a circuit. Releasing it twice does nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface Hold {
  readonly release: Effect.Effect<void>
}

/**
 * Guards calls with one circuit per key.
 *
 * **Details**
 *
 * - `protect(key)` runs an effect through a circuit; fails with `CircuitOpen` where the circuit refuses. A caller may
 *   give the options of its circuit: see {@link protect}.
 * - `check(key)` fails where `protect` would refuse at this moment; see {@link check}.
 * - `state(key)` reads a circuit, `states` all that are remembered. Neither changes anything.
 * - `transitions` emits the transitions from now on and ends with the service; a slow reader loses the oldest.
 * - `reset(key)` closes a circuit and forgets its counts. Holds stay.
 * - `isolate(key)` refuses every call until all holds are released; then the circuit goes on in the state it had, with
 *   its counts. One that was half-open starts its probes again.
 * - `configure(options)` replaces the options of the whole service. States and counts stay, and so do the options of the
 *   first callers.
 *
 * Calls that were running when a circuit opened, was reset or isolated run on, and how they end changes nothing.
 *
 * **Example** (Holding a circuit open during maintenance)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.CircuitBreaker
 *   const hold = yield* breaker.isolate("billing")
 *   const during = yield* Effect.flip(CircuitBreaker.protect(Effect.succeed("paid"), "billing"))
 *   yield* hold.release
 *   const after = yield* CircuitBreaker.protect(Effect.succeed("paid"), "billing")
 *   return [during.state, after]
 * }).pipe(Effect.provide(CircuitBreaker.layer()))
 *
 * await Effect.runPromise(program) // => ["Isolated", "paid"]
 * ```
 *
 * **Example** (Watching the transitions)
 *
 * ```ts import.meta.vitest
 * import { Effect, Fiber, Stream } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.CircuitBreaker
 *   const first = yield* breaker.transitions.pipe(
 *     Stream.take(1),
 *     Stream.runCollect,
 *     Effect.forkChild({ startImmediately: true })
 *   )
 *   yield* Effect.exit(CircuitBreaker.protect(Effect.die("connection lost"), "search"))
 *   return yield* Fiber.join(first)
 * }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) })))
 *
 * await Effect.runPromise(program) // => [{ key: "search", from: "Closed", to: "Open" }]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class CircuitBreaker extends Context.Service<CircuitBreaker, {
  readonly protect: (
    key: string,
    options?: CircuitOptions
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  readonly check: (key: string, options?: CircuitOptions) => Effect.Effect<void, CircuitOpen>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
  readonly transitions: Stream.Stream<Transition>
  readonly reset: (key: string) => Effect.Effect<void>
  readonly isolate: (key: string) => Effect.Effect<Hold>
  readonly configure: (options: Options) => Effect.Effect<void>
}>()("effect-resilience/policy/CircuitBreaker") {}

/**
 * Creates a `CircuitBreaker` that keeps its circuits in this process.
 *
 * **When to use**
 *
 * Use {@link layer} for the one of a program, and this for a set of circuits of your own.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Protecting calls with circuits of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const breaker = yield* CircuitBreaker.make({ openFor: "30 seconds" })
 *   return yield* Effect.succeed("found").pipe(breaker.protect("search"))
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => "found"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options?: Options): Effect.Effect<CircuitBreaker["Service"], never, Scope.Scope> =>
  Effect.map(circuitService.make(module, options), CircuitBreaker.of)

/**
 * Provides a `CircuitBreaker` that keeps its circuits in this process.
 *
 * **Details**
 *
 * By default a circuit opens after 5 failures in a row, for 60 seconds, and closes after 2 successful probes. Building
 * the layer dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Growing the open time, and treating one key differently)
 *
 * ```ts import.meta.vitest
 * import { Schedule } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * export const Live = CircuitBreaker.layer({
 *   openFor: Schedule.exponential("10 seconds"),
 *   maxOpenFor: "10 minutes",
 *   keys: { embeddings: { trip: CircuitBreaker.rate({ threshold: 0.2, size: 50 }) } }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<CircuitBreaker> => Layer.effect(CircuitBreaker, make(options))

/**
 * Provides a `CircuitBreaker` that lets every call through and remembers nothing.
 *
 * **Example** (Testing without circuits)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const search = CircuitBreaker.protect(Effect.succeed("found"), "search")
 *
 * await Effect.runPromise(Effect.provide(search, CircuitBreaker.layerNoop)) // => "found"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<CircuitBreaker> = Layer.succeed(CircuitBreaker, {
  protect: () => (self) => self,
  check: () => Effect.void,
  state: (key) => Effect.succeed({ _tag: "Closed", key, calls: 0, failures: 0 }),
  states: Effect.succeed([]),
  transitions: Stream.empty,
  reset: () => Effect.void,
  isolate: () => Effect.succeed({ release: Effect.void }),
  configure: () => Effect.void
})

// Not `dual`: a guard in the data-last style is built, and its options are looked at, before it sees an effect.
type EffectFirst = [self: Effect.Effect<unknown, unknown, unknown>, key: string, options?: CircuitOptions | undefined]
type EffectLast = [key: string, options?: CircuitOptions | undefined]

const isEffectFirst = (args: EffectFirst | EffectLast): args is EffectFirst => Effect.isEffect(args[0])

const makeProtect = (key: string, options?: CircuitOptions) => {
  circuitSettings.checkOptions(module, options)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R | CircuitBreaker> =>
    Effect.contextWith((context: Context.Context<CircuitBreaker>) =>
      Context.get(context, CircuitBreaker).protect(key, options)(self)
    )
}

/**
 * Runs an effect through the circuit of a key; fails with `CircuitOpen`, without running it, where the circuit refuses.
 *
 * **Details**
 *
 * A failure counts by its verdict, read with the `Fault.Classifier` around the call; a defect counts, an interruption
 * does not. When the classifier throws, the call dies of it and counts for nothing.
 *
 * `options` say how the circuit of this key behaves, where the layer does not configure the key by name (`keys`); what
 * they leave out is as the layer has it. Throws `InvalidConfig` where they are out of range. Where only together with the
 * layer's they would be, the layer's give way: with an `openFor` longer than its `maxOpenFor`, this is as long.
 *
 * A circuit follows the options of the first caller who gives any for as long as it is remembered; one that was there
 * before takes them over and keeps its counts. A caller without options takes the circuit as it is. So does one with
 * other options, and a warning is logged, once for each key, that says in what they differ: configure such a key in the
 * layer, or let each caller have a key of its own. `configure` changes settings while running.
 *
 * **Gotchas**
 *
 * Make the options once, outside of the function that calls: the same object is known again at once, a new one for each
 * call is read and compared each time. Schedules, functions and rules of your own are the same only where they are the
 * same object.
 *
 * **Example** (Falling back while a circuit is open)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const answer = Effect.fail("connection lost").pipe(
 *   CircuitBreaker.protect("search"),
 *   Effect.catchTag("CircuitOpen", (error) => Effect.succeed(`${error.key} is ${error.state}`))
 * )
 *
 * const program = Effect.gen(function*() {
 *   const first = yield* Effect.flip(answer)
 *   const second = yield* answer
 *   return [first, second]
 * }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) })))
 *
 * await Effect.runPromise(program) // => ["connection lost", "search is Open"]
 * ```
 *
 * **Example** (Giving a circuit its options where it is used)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const patient: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.rate({ threshold: 0.9 }), openFor: "10 seconds" }
 *
 * const answer = Effect.succeed("found").pipe(CircuitBreaker.protect("search", patient))
 *
 * await Effect.runPromise(Effect.provide(answer, CircuitBreaker.layer())) // => "found"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function protect(
  key: string,
  options?: CircuitOptions
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R | CircuitBreaker>
export function protect<A, E, R>(
  self: Effect.Effect<A, E, R>,
  key: string,
  options?: CircuitOptions
): Effect.Effect<A, E | CircuitOpen, R | CircuitBreaker>
export function protect(...args: EffectFirst | EffectLast): unknown {
  return isEffectFirst(args) ? makeProtect(args[1], args[2])(args[0]) : makeProtect(args[0], args[1])
}

/**
 * Fails with `CircuitOpen` exactly when {@link protect} would refuse a call at this moment. It is no call: it takes no
 * probe, counts nothing and changes no state.
 *
 * **When to use**
 *
 * Use it to find out before something costly or slow (a queue, a large prompt) that the call at its end would be refused.
 *
 * **Details**
 *
 * `options` are those of the call. The listener hears `CircuitRejected`, as for a call.
 *
 * **Gotchas**
 *
 * The call itself can still be refused: others may come between.
 *
 * **Example** (Building no prompt for a provider that is down)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.exit(CircuitBreaker.protect(Effect.fail("connection lost"), "search"))
 *   return yield* Effect.flip(CircuitBreaker.check("search"))
 * }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) })))
 *
 * const error = await Effect.runPromise(program)
 * error.state // => "Open"
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const check = (key: string, options?: CircuitOptions): Effect.Effect<void, CircuitOpen, CircuitBreaker> => {
  circuitSettings.checkOptions(module, options)
  return CircuitBreaker.use((breaker) => breaker.check(key, options))
}

/**
 * Reads the circuit of a key, and changes nothing.
 *
 * @category accessors
 * @since 0.1.0
 */
export const state = (key: string): Effect.Effect<State, never, CircuitBreaker> =>
  CircuitBreaker.use((breaker) => breaker.state(key))

/**
 * Closes the circuit of a key and forgets its counts. Holds stay.
 *
 * @category accessors
 * @since 0.1.0
 */
export const reset = (key: string): Effect.Effect<void, never, CircuitBreaker> =>
  CircuitBreaker.use((breaker) => breaker.reset(key))

/**
 * Refuses every call to a key until the hold is released, and all others on it.
 *
 * **Gotchas**
 *
 * A hold that nobody releases stays: {@link isolateScoped} cannot be forgotten.
 *
 * @category accessors
 * @since 0.1.0
 */
export const isolate = (key: string): Effect.Effect<Hold, never, CircuitBreaker> =>
  CircuitBreaker.use((breaker) => breaker.isolate(key))

/**
 * {@link isolate} until the scope closes, however it does.
 *
 * **Example** (Holding a circuit open during a migration)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const migration = CircuitBreaker.state("billing")
 *   const during = yield* Effect.scoped(Effect.andThen(CircuitBreaker.isolateScoped("billing"), migration))
 *   const after = yield* CircuitBreaker.state("billing")
 *   return [during._tag, after._tag]
 * }).pipe(Effect.provide(CircuitBreaker.layer()))
 *
 * await Effect.runPromise(program) // => ["Isolated", "Closed"]
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const isolateScoped = (key: string): Effect.Effect<void, never, CircuitBreaker | Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(isolate(key), (hold) => hold.release))

/**
 * How one circuit in Redis behaves.
 *
 * **Details**
 *
 * - `trip`: when it opens, {@link consecutive} or {@link rate} with at most 10,000 calls; default `consecutive(5)`.
 * - `openFor`, `maxOpenFor`: as in {@link CircuitOptions}, measured by the clock of the Redis server. A schedule is asked
 *   anew for each opening.
 * - `probeTimeout`: how long a probe may hold the slot while its process lives; default 5 minutes.
 * - `countsAsFailure`: as in {@link CircuitOptions}.
 *
 * One probe runs at a time, in one of the processes, and its success closes the circuit. Give all processes the same
 * options: nothing checks that.
 *
 * @category models
 * @since 0.1.0
 */
export interface RedisCircuitOptions extends circuitRedisSettings.SharedCircuitOptions {}

/**
 * Options of {@link layerRedis}.
 *
 * **Details**
 *
 * - `keys`: options that replace those of {@link RedisCircuitOptions} for the keys named.
 * - `prefix`: what every key in Redis begins with; default `effect-resilience:circuit:`.
 * - `probeLease`: how long after the death of a process its probe still blocks others; default 10 seconds. While the
 *   process lives it renews the lease.
 * - `holdLease`: how long after the death of a process its holds stay; default 30 seconds.
 * - `idleTimeToLive`: when a circuit that nobody uses is forgotten, counted from the end of its open time; default one
 *   hour, and no shorter than `probeTimeout`. Every key in Redis has an expiry. A call that takes longer while no other
 *   one uses its key is forgotten with it, and how it ends is not counted.
 * - `storeTimeout`: how long a call waits for Redis, for its admission and again for its record; default 250
 *   milliseconds.
 * - `onStoreError`: what happens to calls while Redis does not answer. `"local"` (default): circuits in this process take
 *   over, closed at first, with the same options. `"allow"`: calls run without a circuit. None refuses: a guard must not
 *   become the outage.
 *
 * @category models
 * @since 0.1.0
 */
export interface RedisOptions extends circuitRedisSettings.SharedOptions {}

/**
 * Provides a `CircuitBreaker` whose circuits several processes share through Redis.
 *
 * **When to use**
 *
 * Use it where many processes call one dependency, so that what one finds out spares the others. A call waits for two
 * round trips to Redis: keep {@link layer} where that is much beside the call.
 *
 * **Details**
 *
 * The driver is yours: any layer of `effect/persistence/Redis`, such as `NodeRedis.layer` of `@effect/platform-node`. What
 * that layer does when Redis cannot be reached while it is built is its own affair; this one asks Redis nothing then.
 *
 * What holds across all processes: one state per key; one probe at a time; an outcome from before a trip, a reset or the
 * next probe changes nothing; a Retry-After lengthens the open time up to `maxOpenFor`; a hold refuses everywhere once
 * `isolate` has returned; `state`, `states` and `check` read what is shared. `states` looks through all keys of the
 * Redis database.
 *
 * What differs from circuits in the process:
 *
 * - `transitions` and the listener tell what this process caused.
 * - `calls` and `failures` of a `Closed` state are 0, as are `successes` and `failures` of a `HalfOpen` one.
 * - Outcomes of calls that ran when the circuit was isolated count.
 * - A hold ends with the service that took it. While Redis is away it refuses in this process, and in the others as soon
 *   as Redis is back.
 * - `protect` and `check` follow a caller's options as far as {@link RedisCircuitOptions} go, and warn once about others.
 *   Each process goes by the first caller of its own, and remembers whose options hold for the 10,000 keys it used last.
 *   `configure` changes those, too, and dies with `InvalidConfig` for others; the options about Redis itself stay.
 * - Open times are measured by the wall clock of the Redis server, `probeTimeout` by this process.
 *
 * Redis being away is never an error of a call. It is logged once per outage, and once when it is over. After three
 * operations in a row without an answer, only one a second waits for one. A reset that does not reach Redis is logged.
 * A call whose record is lost still ends as it ended.
 *
 * Building the layer dies with `InvalidConfig` when an option is out of range, or names a rule that Redis cannot follow.
 *
 * **Gotchas**
 *
 * A node-redis client that has lost its connection holds back what it is asked for 5 seconds (`commandOptions.timeout`).
 * This layer closes when nothing is asked any more, 10 seconds after it is told to at most, and the client after it. With
 * `disableOfflineQueue: true`, as below, an operation fails at once while Redis is away.
 *
 * **Example** (Sharing circuits between the workers of a service)
 *
 * ```ts import.meta.vitest
 * import { NodeRedis } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import { CircuitBreaker } from "effect-resilience"
 *
 * export const Live = CircuitBreaker.layerRedis({
 *   trip: CircuitBreaker.rate({ threshold: 0.5, size: 100 }),
 *   prefix: "my-service:circuit:"
 * }).pipe(Layer.provide(NodeRedis.layer({ url: "redis://127.0.0.1:6379", disableOfflineQueue: true })))
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerRedis = (options?: RedisOptions): Layer.Layer<CircuitBreaker, never, Redis.Redis> =>
  Layer.effect(CircuitBreaker, Effect.map(circuitRedis.make(module, options), CircuitBreaker.of)).pipe(
    Layer.provide(DrainedRedis.layer)
  )
