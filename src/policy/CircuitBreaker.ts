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
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Take from "effect/Take"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as Telemetry from "../Telemetry.ts"
import { withoutStack } from "./internal/circuitRejection.ts"
import * as rules from "./internal/circuitRules.ts"
import * as circuits from "./internal/circuitState.ts"

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

/**
 * Failure of a call that a circuit refused: nothing was sent.
 *
 * **Details**
 *
 * `retryAfter` is the rest of the open time; for a `HalfOpen` circuit the time after which a probe slot is free at the
 * latest; absent for an `Isolated` one, which only a person can let go. The verdict asks callers to wait for the rest of
 * an open time only: a probe mostly ends long before its bound, and nobody should give up for it.
 *
 * @category errors
 * @since 0.1.0
 */
export class CircuitOpen extends Schema.TaggedError<CircuitOpen>("effect-resilience/policy/CircuitBreaker/CircuitOpen")(
  "CircuitOpen",
  {
    key: Schema.String,
    state: Schema.Literals(["Open", "HalfOpen", "Isolated"]),
    retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
  }
) {
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return this.state === "Open" ? Fault.rejected(this.retryAfter) : Fault.rejected()
  }
  override get message() {
    const wait = this.retryAfter === undefined ? "later" : `in ${Duration.format(this.retryAfter)}`
    switch (this.state) {
      case "Open":
        return `Circuit "${this.key}" is open after too many failures and sent nothing: try again ${wait}, or fall back`
      case "HalfOpen":
        return `Circuit "${this.key}" is probing whether its dependency works again and sent nothing: ` +
          `try again ${wait} at the latest, or fall back`
      case "Isolated":
        return `Circuit "${this.key}" is held open by hand and sent nothing: release the hold, or fall back`
    }
  }
}

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
export const consecutive: (failures: number) => TripRule = rules.consecutive

/**
 * Opens when the share of failures among the last calls reaches a threshold.
 *
 * **Details**
 *
 * `threshold` is from 0 to 1 (default 0.5) and compared with `>=`; without a failure the circuit never opens. `size` is
 * how many calls are remembered (default 100, at most 1,000,000: each circuit keeps a byte for each), `minimumCalls`
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
}) => TripRule = rules.rate

/**
 * Opens when the share of failures among the calls of the last while reaches a threshold.
 *
 * **Details**
 *
 * As {@link rate}, over a span of time. The span is kept in 20 buckets, so that a call is forgotten when it is between
 * 95 % and 100 % of `window` old, and neither cost nor memory grow with the traffic.
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
 * How one circuit behaves.
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
export interface CircuitOptions {
  readonly trip?: TripRule | undefined
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown, Opening> | undefined
  readonly maxOpenFor?: Duration.Input | undefined
  readonly halfOpenPermits?: number | undefined
  readonly successThreshold?: number | undefined
  readonly successOutOf?: number | undefined
  readonly probeTimeout?: Duration.Input | undefined
  readonly metricsOnly?: boolean | undefined
  readonly countsAsFailure?: ((verdict: Fault.Verdict, error: unknown) => boolean) | undefined
}

/**
 * Options of {@link make} and {@link layer}: how every circuit behaves, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named.
 * - `maxKeys`: how many circuits are remembered; default 10,000. The closed ones unused for longest make room, a tenth
 *   at a time; where there are none, those that have opened. A circuit with a running call or a hold is never forgotten,
 *   so there are more while so many are busy.
 * - `idleTimeToLive`: when an unused closed circuit is forgotten; default one hour. One that has opened is not, since
 *   only probes may close it: it stays, also when nobody calls any more, until `maxKeys` needs its room.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends CircuitOptions {
  readonly keys?: Readonly<Record<string, CircuitOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

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
 * - `protect(key)` runs an effect through a circuit; fails with `CircuitOpen` where the circuit refuses.
 * - `state(key)` reads a circuit, `states` all that are remembered. Neither changes anything.
 * - `transitions` emits the transitions from now on and ends with the service; a slow reader loses the oldest.
 * - `reset(key)` closes a circuit and forgets its counts. Holds stay.
 * - `isolate(key)` refuses every call until all holds are released; then the circuit goes on in the state it had.
 * - `configure(options)` replaces the options of the whole service. States and counts stay.
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
    key: string
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
  readonly transitions: Stream.Stream<Transition>
  readonly reset: (key: string) => Effect.Effect<void>
  readonly isolate: (key: string) => Effect.Effect<Hold>
  readonly configure: (options: Options) => Effect.Effect<void>
}>()("effect-resilience/policy/CircuitBreaker") {}

const atLeastAMilli = { minimum: "1 millis" } as const

const circuitSettings = (options: CircuitOptions, path = ""): circuits.Settings => {
  const { openFor = circuits.defaultOpenFor } = options
  const openTime = Schedule.isSchedule(openFor)
    ? openFor
    : Duration.toMillis(config.duration(module, `${path}openFor`, openFor, atLeastAMilli))
  const shortest = typeof openTime === "number" ? openTime : 1
  const maxOpenFor = config.duration(
    module,
    `${path}maxOpenFor`,
    options.maxOpenFor ?? Math.max(3_600_000, shortest),
    { minimum: shortest }
  )
  const successThreshold = config.integer(module, `${path}successThreshold`, options.successThreshold ?? 2, 1)
  return {
    rule: options.trip ?? consecutive(5),
    openFor: openTime,
    maxOpenFor: Duration.toMillis(maxOpenFor),
    halfOpenPermits: config.integer(module, `${path}halfOpenPermits`, options.halfOpenPermits ?? 1, 1),
    successThreshold,
    successOutOf: config.integer(
      module,
      `${path}successOutOf`,
      options.successOutOf ?? successThreshold,
      successThreshold
    ),
    probeTimeout: Duration.toMillis(
      config.duration(module, `${path}probeTimeout`, options.probeTimeout ?? "5 minutes", atLeastAMilli)
    ),
    metricsOnly: options.metricsOnly ?? false,
    countsAsFailure: options.countsAsFailure ?? Fault.countsAsFailure
  }
}

interface ServiceSettings {
  readonly settingsOf: (key: string) => circuits.Settings
  readonly maxKeys: number
  readonly idleTimeToLive: number
}

const serviceSettings = (options: Options): ServiceSettings => {
  const base = circuitSettings(options)
  const byKey = new Map(
    Object.entries(options.keys ?? {}).map(([key, own]) => [
      key,
      circuitSettings({ ...options, ...own }, `keys[${JSON.stringify(key)}].`)
    ])
  )
  return {
    settingsOf: (key) => byKey.get(key) ?? base,
    maxKeys: config.integer(module, "maxKeys", options.maxKeys ?? 10_000, 1),
    idleTimeToLive: Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? "1 hour", atLeastAMilli)
    )
  }
}

const longer = (a: Duration.Duration | undefined, b: Duration.Duration | undefined): Duration.Duration | undefined =>
  a === undefined || (b !== undefined && Duration.isLessThan(a, b)) ? b : a

/** How a call that did not succeed counts: any reason that counts makes a failure, whatever stands beside it. */
const judge = (
  cause: Cause.Cause<unknown>,
  settings: circuits.Settings,
  context: Context.Context<never>
): circuits.Outcome => {
  let counts = false
  let retryAfter: Duration.Duration | undefined
  for (const reason of cause.reasons) {
    if (Cause.isDieReason(reason)) {
      counts = true
    } else if (Cause.isFailReason(reason)) {
      const verdict = Fault.classifyIn(context, reason.error)
      if (settings.countsAsFailure(verdict, reason.error)) {
        counts = true
        retryAfter = longer(retryAfter, Fault.retryAfter(verdict))
      }
    }
  }
  return counts ? { _tag: "Failure", retryAfter } : circuits.ignored
}

const millis = (value: number): Duration.Duration => Duration.millis(Math.ceil(value - circuits.rounding))

const stateOf = (key: string, snapshot: circuits.Snapshot): State =>
  snapshot._tag === "Open"
    ? { _tag: "Open", key, retryAfter: millis(snapshot.retryAfter), openings: snapshot.openings }
    : { key, ...snapshot }

const circuitOpen = (key: string, { retryAfter, state }: circuits.Refusal): CircuitOpen =>
  withoutStack(() =>
    new CircuitOpen(retryAfter === undefined ? { key, state } : { key, state, retryAfter: millis(retryAfter) })
  )

// The wall clock may jump; open times, windows and slow calls are elapsed time.
const nowIn = (context: Context.Context<never>): number =>
  Number(Context.get(context, Clock.Clock).monotonicTimeNanosUnsafe()) / 1_000_000

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
export const make: (
  options?: Options
) => Effect.Effect<CircuitBreaker["Service"], never, Scope.Scope> = Effect.fnUntraced(function*(options = {}) {
  let settings = serviceSettings(options)
  const byKey = new Map<string, circuits.Circuit>()
  let sweptAt = Number.NEGATIVE_INFINITY
  // What may have made room or taken it since all circuits were last looked through: new keys, ended calls, changes by hand.
  let changes = 0

  const hub = yield* PubSub.sliding<Take.Take<Transition>>(256)
  yield* Effect.addFinalizer(() => PubSub.end(hub, Exit.void))

  // Filled in the very step that makes a transition and emptied in order: readers see transitions as they happened,
  // whichever fiber gets to publish first and whichever is interrupted before it does.
  let fresh: Array<Transition> = []
  let unpublished: Array<Transition> = []

  const publish = Effect.uninterruptible(Effect.suspend(() => {
    const [first, ...rest] = unpublished
    unpublished = []
    return first === undefined ? Effect.void : Effect.asVoid(PubSub.publish(hub, [first, ...rest]))
  }))

  const announce = (context: Context.Context<never>): Effect.Effect<void> => {
    const transitions = fresh
    if (transitions.length === 0) return unpublished.length === 0 ? Effect.void : publish
    fresh = []
    unpublished.push(...transitions)
    const heard = transitions.map((change) => Telemetry.emitIn(context, () => ({ _tag: "CircuitChanged", ...change })))
    return Effect.andThen(publish, Effect.all(heard, { discard: true }))
  }

  const makeCircuit = (key: string, now: number) =>
    new circuits.Circuit(key, settings.settingsOf(key), now, (transition) => fresh.push(transition))

  const sweep = (now: number): void => {
    sweptAt = now
    for (const [key, circuit] of byKey) {
      if (circuit.isHarmless() && now - circuit.lastUsed >= settings.idleTimeToLive) byKey.delete(key)
    }
  }

  const makeRoom = (now: number): void => {
    changes++
    if (now - sweptAt >= settings.idleTimeToLive) sweep(now)
    // What a look through all circuits costs is shared by a tenth as many changes. Where all of them are busy there is
    // nothing to find, and looking again for each new key would cost the square of their number.
    if (byKey.size < settings.maxKeys || changes < byKey.size / 10) return
    changes = 0
    const all = Array.from(byKey.values())
    const harmless = all.filter((circuit) => circuit.isHarmless())
    const unused = harmless.length > 0 ? harmless : all.filter((circuit) => circuit.isUnused())
    unused.sort((a, b) => a.lastUsed - b.lastUsed)
    const surplus = byKey.size - settings.maxKeys + Math.max(1, Math.floor(settings.maxKeys / 10))
    for (const circuit of unused.slice(0, surplus)) byKey.delete(circuit.key)
  }

  const circuitOf = (key: string, now: number): circuits.Circuit => {
    const known = byKey.get(key)
    if (known !== undefined) return known
    makeRoom(now)
    const circuit = makeCircuit(key, now)
    byKey.set(key, circuit)
    return circuit
  }

  const refuse = (key: string, refused: circuits.Refusal, context: Context.Context<never>) => {
    const error = circuitOpen(key, refused)
    const heard = Telemetry.emitIn(context, () => ({
      _tag: "CircuitRejected",
      key,
      retryAfterMillis: error.retryAfter === undefined ? undefined : Duration.toMillis(error.retryAfter)
    }))
    return Effect.andThen(heard, Effect.fail(error))
  }

  const settle = (
    { circuit, context, ticket }: RunningCall,
    exit: Exit.Exit<unknown, unknown>
  ): Effect.Effect<void> => {
    let outcome: circuits.Outcome = circuits.ignored
    try {
      outcome = Exit.isSuccess(exit) ? circuits.success : judge(exit.cause, circuit.settings, context)
    } finally {
      // Also when the user's classifier throws: the call dies of it, and the slot is free all the same.
      circuit.settle(ticket, outcome, nowIn(context), context)
      changes++
    }
    return announce(context)
  }

  const protect = (key: string) => <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> =>
    Effect.suspend(() => {
      // The finalizer is in place before the circuit admits, and not after: no interruption fits in between.
      let call: RunningCall | undefined
      return Effect.onExit(
        Effect.contextWith((context: Context.Context<R>): Effect.Effect<A, E | CircuitOpen, R> => {
          const now = nowIn(context)
          const circuit = circuitOf(key, now)
          const admission = circuit.admit(now)
          if (admission._tag === "Refusal") return refuse(key, admission, context)
          call = { circuit, ticket: admission, context }
          return fresh.length === 0 ? self : Effect.andThen(announce(context), self)
        }),
        (exit) => call === undefined ? Effect.void : settle(call, exit)
      )
    })

  /** One change made by hand, together with its announcement. */
  const byHand = <A>(step: (now: number) => A): Effect.Effect<A> =>
    Effect.uninterruptible(Effect.contextWith((context: Context.Context<never>) => {
      const result = step(nowIn(context))
      changes++
      return Effect.as(announce(context), result)
    }))

  return CircuitBreaker.of({
    protect,
    state: (key) =>
      Effect.contextWith((context: Context.Context<never>) => {
        const now = nowIn(context)
        return Effect.succeed(stateOf(key, (byKey.get(key) ?? makeCircuit(key, now)).snapshot(now)))
      }),
    states: Effect.contextWith((context: Context.Context<never>) => {
      const now = nowIn(context)
      sweep(now)
      return Effect.succeed(Array.from(byKey.values(), (circuit) => stateOf(circuit.key, circuit.snapshot(now))))
    }),
    transitions: Stream.fromPubSubTake(hub),
    reset: (key) => byHand((now) => byKey.get(key)?.reset(now)),
    isolate: (key) =>
      byHand((now) => {
        const circuit = circuitOf(key, now)
        const holder = {}
        circuit.hold(holder, now)
        return { release: byHand((later) => circuit.release(holder, later)) }
      }),
    configure: (next) =>
      byHand((now) => {
        settings = serviceSettings(next)
        for (const circuit of byKey.values()) circuit.configure(settings.settingsOf(circuit.key), now)
      })
  })
})

interface RunningCall {
  readonly circuit: circuits.Circuit
  readonly ticket: circuits.Ticket
  readonly context: Context.Context<never>
}

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
  state: (key) => Effect.succeed({ _tag: "Closed", key, calls: 0, failures: 0 }),
  states: Effect.succeed([]),
  transitions: Stream.empty,
  reset: () => Effect.void,
  isolate: () => Effect.succeed({ release: Effect.void }),
  configure: () => Effect.void
})

/**
 * Runs an effect through the circuit of a key; fails with `CircuitOpen`, without running it, where the circuit refuses.
 *
 * **Details**
 *
 * A failure counts by its verdict, read with the `Fault.Classifier` around the call; a defect counts, an interruption
 * does not. When the classifier throws, the call dies of it and counts for nothing.
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
 * @category combinators
 * @since 0.1.0
 */
export const protect: {
  (key: string): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | CircuitOpen, R | CircuitBreaker>
  <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E | CircuitOpen, R | CircuitBreaker>
} = dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E | CircuitOpen, R | CircuitBreaker> =>
    Effect.contextWith((context: Context.Context<CircuitBreaker>) =>
      Context.get(context, CircuitBreaker).protect(key)(self)
    )
)
