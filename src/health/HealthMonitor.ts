/**
 * Watches how calls end and what checks say, tells the health of each key and of the whole, and holds back new work while
 * a key is critical.
 *
 * **Details**
 *
 * A key is whatever has a health of its own: a provider, an agent, a tool. Calls are told by {@link track} and
 * {@link record}, checks are run by the monitor; of what both say of a key the worse counts. Time is measured with the
 * monotonic clock.
 *
 * The monitor listens to no telemetry: its events have no latency, and say of a failure what was done about it and not
 * what it was. What is to be watched is tracked where it is called.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import type * as DateTime from "effect/DateTime"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Layer from "effect/Layer"
import type * as Scope from "effect/Scope"
import type * as Stream from "effect/Stream"
import { type CircuitBreaker, isolateScoped } from "../policy/CircuitBreaker.ts"
import type * as HealthCheck from "./HealthCheck.ts"
import { HealthGateClosed } from "./internal/healthGateClosed.ts"
import * as monitorService from "./internal/monitorService.ts"
import type * as monitorSettings from "./internal/monitorSettings.ts"

export { HealthGateClosed }

/**
 * When the gate of a key closes and reopens.
 *
 * **Details**
 *
 * - `closeAfter`: after how many critical observations in a row it closes; default 3. An observation is a call that ends,
 *   or a check that is run; it is critical where the key is, by its checks or by its calls since the gate last reopened.
 * - `closedFor`: how long it stays closed at least; default 30 seconds. What goes wrong while it is closed begins the time
 *   anew: a critical check, the failure of one that was let through to try, and, of calls that nobody leads through the
 *   gate, a share of failures above `criticalAbove`.
 * - `reopenAfter`: after how many good observations in a row it reopens, once that time is over; default 2. A good one is
 *   a call that succeeds, or a check after which no check of the key is critical.
 * - `probeTimeout`: how long one that was let through to try keeps the others out; default 5 minutes. It does not end it.
 *
 * So in a time T, however the calls and checks come, it closes at most `T / closedFor + 1` times.
 *
 * @category models
 * @since 0.1.0
 */
export interface GateOptions extends monitorSettings.GateOptions {}

/**
 * How the health of a key is told from its calls.
 *
 * **Details**
 *
 * - `size`, `maxAge`: which calls count: the last 100, and of these none that ended more than 5 minutes ago. At most
 *   100,000; a call takes 17 bytes.
 * - `criticalAbove`: the share of failures above which a key is critical; default 0.5.
 * - `minimumCalls`: how many calls that takes; default 5, or `size` where that is less. With fewer it is degraded at most.
 * - `degradedAbove`: the share of failures above which it is degraded; default 0.1, or `criticalAbove` where that is less.
 * - `slowAbove`: the mean time of a call above which it is slow; default 5 seconds.
 * - `countsAsFailure`: which verdicts are failures; default `Fault.countsAsFailure`, as for a `CircuitBreaker`: a
 *   `Rejected` was never sent, a known `Permanent` or a `Refused` is about the request, a `Throttled` the quota's business.
 *   What is no failure by this counts for nothing, as does an interrupted call. A defect is a failure.
 * - `required`: whether the whole is critical when this key is; default `true`. Otherwise it makes it degraded at most.
 * - `gate`: see {@link GateOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyOptions extends monitorSettings.KeyOptions {}

/**
 * Options of {@link make} and {@link layer}: how every key is told, what single keys do differently, and the checks.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named.
 * - `checks`: run once the monitor is built, and then at their interval. No two may have one name.
 * - `interval`: how long a check rests between two runs, give or take a fifth; default 30 seconds. Also how often the
 *   history is written.
 * - `timeout`: after how long without a result a check is critical; default 10 seconds.
 * - `historySize`: how many rounds are remembered; default 2,880, a day at 30 seconds. A round takes a byte for each key.
 * - `maxKeys`: how many keys without a running call or a check are remembered; default 1,000. The ones unused for longest
 *   make room, those with a closed gate last.
 * - `idleTimeToLive`: when an unused key is forgotten; default one hour.
 * - `maxMetricKeys`: how many keys have gauges of their own, in the order in which they are first heard of; default 100.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<Check extends HealthCheck.Any = never> extends monitorSettings.Options {
  readonly checks?: ReadonlyArray<Check> | undefined
}

/**
 * How long the calls of a key have taken: the mean, and nearest-rank percentiles.
 *
 * @category models
 * @since 0.1.0
 */
export interface Latency {
  readonly mean: Duration.Duration
  readonly p50: Duration.Duration
  readonly p95: Duration.Duration
  readonly p99: Duration.Duration
}

/**
 * The gate of a key: `open`, `closed`, or `probing`, when it is closed and lets one at a time through to try.
 *
 * @category models
 * @since 0.1.0
 */
export type Gate = "open" | "closed" | "probing"

/**
 * The health of one key.
 *
 * **Details**
 *
 * `status` is the worst of what its calls and its checks say; `since` is when it became so. `calls`, `errors` and `latency` are those of the calls that count (see {@link KeyOptions}), `errorRate` is
 * from 0 to 1. Without calls the rate is 0 and there is no latency.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyHealth {
  readonly key: string
  readonly status: HealthCheck.Status
  readonly message: string
  readonly since: DateTime.Utc
  readonly calls: number
  readonly errors: number
  readonly successes: number
  readonly errorRate: number
  readonly latency: Latency | undefined
  readonly gate: Gate
}

/**
 * The last result of a check. `since` is when it came to have its status, `checkedAt` when it was last run.
 *
 * @category models
 * @since 0.1.0
 */
export interface CheckHealth extends HealthCheck.Result {
  readonly name: string
  readonly key: string
  readonly since: DateTime.Utc
  readonly checkedAt: DateTime.Utc
  readonly took: Duration.Duration
}

/**
 * The health of the whole.
 *
 * **Details**
 *
 * `status` is the worst of all keys and checks, where what is not `required` counts as degraded at most, and a gate that
 * is not open as degraded at least. `message` names whatever is not healthy, or
 * what a first result is waited for of. `pending` are the checks that have not had a result yet.
 *
 * @category models
 * @since 0.1.0
 */
export interface Report {
  readonly status: HealthCheck.Status
  readonly message: string
  readonly at: DateTime.Utc
  readonly checks: ReadonlyArray<CheckHealth>
  readonly pending: ReadonlyArray<string>
  readonly keys: ReadonlyArray<KeyHealth>
}

/**
 * A key came to have another status, or, with `check`, one of its checks did. What was not known before was healthy.
 *
 * @category models
 * @since 0.1.0
 */
export interface Change {
  readonly key: string
  readonly check: string | undefined
  readonly from: HealthCheck.Status
  readonly to: HealthCheck.Status
  readonly message: string
}

/**
 * A gate closed or reopened.
 *
 * @category models
 * @since 0.1.0
 */
export interface GateChange {
  readonly key: string
  readonly to: "open" | "closed"
  readonly message: string
}

/**
 * How the health has developed.
 *
 * **Details**
 *
 * `percentages` says in which share of the rounds, from 0 to 100, it had which status. `direction` compares the mean
 * severity (`healthy` 0, `slow` 1, `degraded` 2, `critical` 3) of the second half of the rounds with that of the first:
 * `improving` or `degrading` where they differ by more than 0.1, else `steady`. `since` is when the first of them was.
 * `NoData` where there is no round in that time.
 *
 * @category models
 * @since 0.1.0
 */
export type Trend =
  | {
    readonly _tag: "Trend"
    readonly over: Duration.Duration
    readonly since: DateTime.Utc
    readonly samples: number
    readonly percentages: Readonly<Record<HealthCheck.Status, number>>
    readonly direction: "improving" | "degrading" | "steady"
  }
  | { readonly _tag: "NoData"; readonly over: Duration.Duration }

/**
 * Of what to tell the trend: the last `over` (default one hour) of a `key` or a `check`, or of the whole.
 *
 * @category models
 * @since 0.1.0
 */
export interface TrendOptions {
  readonly over?: Duration.Input | undefined
  readonly key?: string | undefined
  readonly check?: string | undefined
}

/**
 * One call that has ended.
 *
 * @category models
 * @since 0.1.0
 */
export interface Sample {
  readonly outcome: "success" | "failure"
  readonly latency: Duration.Input
}

/**
 * Watches the health of keys.
 *
 * **Details**
 *
 * - `track(key)` runs an effect and counts how it ends; `record(key, sample)` counts a call by hand.
 * - `status(key)` tells the health of a key, `statuses` of all that are remembered, `snapshot` of the whole, with the last
 *   results of the checks. None runs a check.
 * - `check` runs every check and tells the health of the whole.
 * - `changes` and `gateChanges` emit from now on, and end with the monitor; a slow reader loses the oldest.
 * - `gate(key)` refuses an effect while the key is critical: see {@link gate}. `whileClosed`: see {@link whileClosed}.
 * - `trend(options)` tells how the health has developed.
 *
 * @category services
 * @since 0.1.0
 */
export class HealthMonitor extends Context.Service<HealthMonitor, {
  readonly track: (key: string) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  readonly record: (key: string, sample: Sample) => Effect.Effect<void>
  readonly status: (key: string) => Effect.Effect<KeyHealth>
  readonly statuses: Effect.Effect<ReadonlyArray<KeyHealth>>
  readonly snapshot: Effect.Effect<Report>
  readonly check: Effect.Effect<Report>
  readonly changes: Stream.Stream<Change>
  readonly gate: (
    key: string
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | HealthGateClosed, R>
  readonly gateChanges: Stream.Stream<GateChange>
  readonly whileClosed: <R>(
    key: string,
    effect: Effect.Effect<unknown, never, R>
  ) => Effect.Effect<void, never, Exclude<R, Scope.Scope> | Scope.Scope>
  readonly trend: (options?: TrendOptions) => Effect.Effect<Trend>
}>()("effect-resilience/health/HealthMonitor") {}

/**
 * Creates a `HealthMonitor` that lives as long as its scope, and whose checks do.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range, or two checks have one name.
 *
 * When the scope closes, a check that is under way is interrupted, and waited for 5 seconds at most: one that cannot be
 * interrupted goes on by itself. What it would have said counts for nothing.
 *
 * **Example** (Watching calls)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthMonitor } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const monitor = yield* HealthMonitor.make()
 *   yield* Effect.exit(Effect.fail("connection lost").pipe(monitor.track("search")))
 *   const health = yield* monitor.status("search")
 *   return [health.status, health.errorRate]
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => ["degraded", 1]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <const Check extends HealthCheck.Any = never>(
  options: Options<Check> = {}
): Effect.Effect<
  HealthMonitor["Service"],
  never,
  Scope.Scope | Exclude<HealthCheck.Services<Check>, Scope.Scope>
> => Effect.map(monitorService.make(options, checksOf(options)), HealthMonitor.of)

const checksOf = <Check extends HealthCheck.Any>({ checks = [] }: Options<Check>) => {
  // That each of them needs what all of them need is what the union of their types says.
  const all = checks as unknown as ReadonlyArray<HealthCheck.HealthCheck<HealthCheck.Services<Check>>>
  return all.map(({ run, ...check }) => Object.assign(check, { run: Effect.scoped(run) }))
}

/**
 * Provides a `HealthMonitor`, whose checks run as long as the layer lives.
 *
 * **Details**
 *
 * Building the layer waits for no check, and dies with `InvalidConfig` when an option is out of range, or two checks have
 * one name. What the checks need is what the layer needs.
 *
 * **Gotchas**
 *
 * A check that cannot be interrupted holds up the end of the layer, and so of the program, for as long as it runs.
 *
 * **Example** (Checking the store and the circuits)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { CheckpointStore, CircuitBreaker, HealthCheck, HealthMonitor } from "effect-resilience"
 *
 * const Live = HealthMonitor.layer({
 *   checks: [HealthCheck.checkpointStoreWritable(), HealthCheck.circuits({ required: false })],
 *   interval: "1 minute",
 *   keys: { "nightly report": { slowAbove: "2 minutes", required: false } }
 * }).pipe(Layer.provide([CheckpointStore.layerMemory, CircuitBreaker.layer()]))
 *
 * const program = Effect.map(HealthMonitor.check, (report) => [report.status, report.message])
 *
 * await Effect.runPromise(Effect.provide(program, Live)) // => ["healthy", "all is well"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = <const Check extends HealthCheck.Any = never>(
  options?: Options<Check>
): Layer.Layer<HealthMonitor, never, Exclude<HealthCheck.Services<Check>, Scope.Scope>> =>
  Layer.effect(HealthMonitor, make(options))

/**
 * Provides a `HealthMonitor` that counts nothing: all is always well.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<HealthMonitor> = Layer.effect(
  HealthMonitor,
  Effect.map(make({ historySize: 1 }).pipe(Effect.scoped), (ended) => ({
    ...ended,
    track: () => <A, E, R>(self: Effect.Effect<A, E, R>) => self,
    record: () => Effect.void,
    gate: () => <A, E, R>(self: Effect.Effect<A, E, R>) => self,
    whileClosed: () => Effect.void
  }))
)

/**
 * Counts how an effect ends for the health of a key.
 *
 * **Details**
 *
 * Counts the time and whether it was a failure: see `countsAsFailure` in {@link KeyOptions}. An interrupted call counts
 * for nothing, and so does one that began before the gate of the key last reopened. When the
 * `Fault.Classifier` throws, the call dies of it and counts for nothing.
 *
 * **Example** (Telling the health of a provider)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthMonitor } from "effect-resilience"
 *
 * const answer = Effect.succeed("found").pipe(HealthMonitor.track("search"))
 *
 * const program = Effect.gen(function*() {
 *   yield* answer
 *   const { calls, status } = yield* HealthMonitor.status("search")
 *   return [calls, status]
 * }).pipe(Effect.provide(HealthMonitor.layer()))
 *
 * await Effect.runPromise(program) // => [1, "healthy"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const track: {
  (key: string): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | HealthMonitor>
  <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E, R | HealthMonitor>
} = dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E, R | HealthMonitor> =>
    Effect.contextWith((context: Context.Context<HealthMonitor>) =>
      Context.get(context, HealthMonitor).track(key)(self)
    )
)

/**
 * Refuses an effect while its key is critical; fails with {@link HealthGateClosed} then, without starting it.
 *
 * **When to use**
 *
 * Use it around new work, such as the run of an agent, that should not begin while what it needs does not work.
 *
 * **Details**
 *
 * The gate closes and reopens by what {@link track}, {@link record} and the checks say of the key: see
 * {@link GateOptions}. While a check of the key is critical nothing is let through, and the check finds out when it works
 * again. Otherwise, once the time for which it stays closed at least is over, one at a time is let through to try: how it
 * ends is an observation. Work that has begun is never stopped.
 *
 * **Gotchas**
 *
 * It counts nothing while it is open: put `track` inside, here or where the calls are. A key with neither is always open.
 *
 * **Example** (Starting no run while the model is down)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthCheck, HealthMonitor } from "effect-resilience"
 *
 * const run = Effect.succeed("report").pipe(
 *   HealthMonitor.gate("model"),
 *   Effect.catchTag("HealthGateClosed", (error) => Effect.succeed(`put off: ${error.reason}`))
 * )
 * const down = HealthCheck.make("ping", Effect.succeed(HealthCheck.critical("no answer")), { key: "model" })
 *
 * const program = Effect.andThen(HealthMonitor.check, run).pipe(
 *   Effect.provide(HealthMonitor.layer({ checks: [down], gate: { closeAfter: 1 } }))
 * )
 *
 * await Effect.runPromise(program) // => "put off: ping: no answer"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const gate: {
  (
    key: string
  ): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | HealthGateClosed, R | HealthMonitor>
  <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E | HealthGateClosed, R | HealthMonitor>
} = dual(
  2,
  <A, E, R>(self: Effect.Effect<A, E, R>, key: string): Effect.Effect<A, E | HealthGateClosed, R | HealthMonitor> =>
    Effect.contextWith((context: Context.Context<HealthMonitor>) => Context.get(context, HealthMonitor).gate(key)(self))
)

/**
 * Counts a call that was not made through {@link track}.
 *
 * @category accessors
 * @since 0.1.0
 */
export const record = (key: string, sample: Sample): Effect.Effect<void, never, HealthMonitor> =>
  HealthMonitor.use((monitor) => monitor.record(key, sample))

/**
 * Tells the health of a key.
 *
 * @category accessors
 * @since 0.1.0
 */
export const status = (key: string): Effect.Effect<KeyHealth, never, HealthMonitor> =>
  HealthMonitor.use((monitor) => monitor.status(key))

/**
 * Tells the health of every key that is remembered.
 *
 * @category accessors
 * @since 0.1.0
 */
export const statuses: Effect.Effect<ReadonlyArray<KeyHealth>, never, HealthMonitor> = HealthMonitor.use((monitor) =>
  monitor.statuses
)

/**
 * Tells the health of the whole, with what the checks last said.
 *
 * @category accessors
 * @since 0.1.0
 */
export const snapshot: Effect.Effect<Report, never, HealthMonitor> = HealthMonitor.use((monitor) => monitor.snapshot)

/**
 * Runs every check and tells the health of the whole. A check never runs beside itself: those who ask while it runs wait,
 * and are told by one run after it.
 *
 * @category accessors
 * @since 0.1.0
 */
export const check: Effect.Effect<Report, never, HealthMonitor> = HealthMonitor.use((monitor) => monitor.check)

/**
 * Tells how the health of the whole, of a key or of a check has developed.
 *
 * **Example** (Having no data yet)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthMonitor } from "effect-resilience"
 *
 * const program = HealthMonitor.trend({ over: "6 hours", key: "search" }).pipe(
 *   Effect.map((trend) => trend._tag),
 *   Effect.provide(HealthMonitor.layer())
 * )
 *
 * await Effect.runPromise(program) // => "NoData"
 * ```
 *
 * @category accessors
 * @since 0.1.0
 */
export const trend = (options?: TrendOptions): Effect.Effect<Trend, never, HealthMonitor> =>
  HealthMonitor.use((monitor) => monitor.trend(options))

/**
 * Runs an effect each time the gate of a key closes, and closes its scope when the gate lets one through to try, or
 * reopens. Ends with the scope around.
 *
 * **When to use**
 *
 * Use it for what has to be so while a key is critical: a hold on a circuit, a sign on the status page.
 *
 * @category combinators
 * @since 0.1.0
 */
export const whileClosed = <R>(
  key: string,
  effect: Effect.Effect<unknown, never, R>
): Effect.Effect<void, never, Exclude<R, Scope.Scope> | Scope.Scope | HealthMonitor> =>
  HealthMonitor.use((monitor) => monitor.whileClosed(key, effect))

/**
 * Holds a circuit open while a key is critical: its calls are refused wherever they are made.
 *
 * **Details**
 *
 * `circuit` is the key of the circuit; default the key itself. The hold is released, and the circuit goes on in the state
 * it had, when the gate of the key lets one through to try. How the calls end that come then, all of them, says whether
 * the gate reopens or the circuit is held again: `track` them under the key, inside of the circuit or outside. The
 * circuit of a crashed scope is released too.
 *
 * **Example** (Opening the circuit of a model that is down)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker, HealthCheck, HealthMonitor } from "effect-resilience"
 *
 * const down = HealthCheck.make("ping", Effect.succeed(HealthCheck.critical("no answer")), { key: "model" })
 *
 * const program = Effect.gen(function*() {
 *   yield* HealthMonitor.isolateCircuit("model")
 *   yield* HealthMonitor.check
 *   yield* Effect.yieldNow
 *   return (yield* CircuitBreaker.state("model"))._tag
 * }).pipe(
 *   Effect.scoped,
 *   Effect.provide([HealthMonitor.layer({ checks: [down], gate: { closeAfter: 1 } }), CircuitBreaker.layer()])
 * )
 *
 * await Effect.runPromise(program) // => "Isolated"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const isolateCircuit = (
  key: string,
  circuit: string = key
): Effect.Effect<void, never, HealthMonitor | CircuitBreaker | Scope.Scope> => whileClosed(key, isolateScoped(circuit))
