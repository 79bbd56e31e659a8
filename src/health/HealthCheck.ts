/**
 * Named checks that say how something is: an effect each, with a status and one sentence for people.
 *
 * A check is a plain value. `HealthMonitor` runs it, again and again, and takes what fails, dies or hangs as a critical
 * result.
 *
 * **Details**
 *
 * Checks of an agent at Letta are in `effect-resilience/health/LettaHealth`.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import { CheckpointStore } from "../durable/CheckpointStore.ts"
import { EscalationQueue } from "../durable/EscalationQueue.ts"
import * as config from "../internal/config.ts"
import { millisOf } from "../internal/monotonic.ts"
import { CircuitBreaker } from "../policy/CircuitBreaker.ts"
import { SafeMode } from "../policy/SafeMode.ts"
import * as model from "./internal/checkModel.ts"
import * as internal from "./internal/healthStatus.ts"

const module = "HealthCheck"

/**
 * Schema of {@link Status}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Status = Schema.Literals(internal.statuses)

/**
 * How something is, from best to worst: `healthy`; `slow` (it works, and too slowly); `degraded` (it works in part, and
 * somebody should look); `critical` (it does not work).
 *
 * @category models
 * @since 0.1.0
 */
export type Status = typeof Status.Type

/**
 * What a check has found.
 *
 * **Details**
 *
 * `message` is one sentence for people, and is shown to whoever may ask for the readiness of the process: put no secret
 * into it. `details` are for those who run the program: they are in reports, and not in the answers over HTTP.
 *
 * @category models
 * @since 0.1.0
 */
export interface Result extends model.Result {}

/**
 * A named check. Made by {@link make} and the constructors below; run by `HealthMonitor`. `R` is what it needs.
 *
 * @category models
 * @since 0.1.0
 */
export interface HealthCheck<out R = never> extends model.Check<R> {}

/**
 * Any check, whatever it needs.
 *
 * @category models
 * @since 0.1.0
 */
export type Any = HealthCheck<unknown>

/**
 * What a check needs.
 *
 * @category models
 * @since 0.1.0
 */
export type Services<Check> = Check extends HealthCheck<infer R> ? R : never

/**
 * Options of every check.
 *
 * **Details**
 *
 * - `key`: whose health it is, as in `HealthMonitor.track` and `HealthMonitor.gate`; default: the name of the check.
 * - `timeout`: after how long without a result it is critical; default that of the monitor, 10 seconds. What cannot be
 *   interrupted goes on after that, and holds up the end of the monitor.
 * - `interval`: how long it rests between two runs; default that of the monitor, 30 seconds.
 * - `required`: whether the whole is critical when this is; default `true`. Otherwise it makes the whole degraded at most.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends model.CheckOptions {}

/**
 * Creates a check from an effect that says how something is.
 *
 * **Details**
 *
 * An effect that fails or dies is a critical result, named after its error. Throws `Fault.InvalidConfig` for an empty
 * name or key, or a time under a millisecond.
 *
 * **Example** (Checking how far an index is behind)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthCheck, HealthMonitor } from "effect-resilience"
 *
 * const behind = Effect.succeed(1_200)
 * const index = HealthCheck.make(
 *   "search index",
 *   Effect.map(behind, (n) => n > 1_000 ? HealthCheck.degraded(`${n} documents behind`) : HealthCheck.healthy("up to date"))
 * )
 *
 * const program = HealthMonitor.check.pipe(
 *   Effect.map((report) => `${report.status}: ${report.message}`),
 *   Effect.provide(HealthMonitor.layer({ checks: [index] }))
 * )
 *
 * await Effect.runPromise(program) // => "degraded: search index: 1200 documents behind"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <E, R>(
  name: string,
  run: Effect.Effect<Result, E, R>,
  options?: Options
): HealthCheck<R> => model.make(name, run, options)

const saying = (status: Status) => (message: string, details?: Readonly<Record<string, unknown>>): Result => ({
  status,
  message,
  details
})

/**
 * Says that something is well.
 *
 * @category results
 * @since 0.1.0
 */
export const healthy = saying("healthy")

/**
 * Says that something works in part.
 *
 * @category results
 * @since 0.1.0
 */
export const degraded = saying("degraded")

/**
 * Says that something does not work.
 *
 * @category results
 * @since 0.1.0
 */
export const critical = saying("critical")

/**
 * Checks that something answers, whatever it says.
 *
 * **When to use**
 *
 * Use it for an agent, a model or a service, with the cheapest request that it answers.
 *
 * **Gotchas**
 *
 * A request to a model costs tokens each time: give it a long `interval`, or let `HealthMonitor.track` watch the calls
 * that are made anyway.
 *
 * **Example** (Asking an agent for a sign of life)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthCheck, HealthMonitor } from "effect-resilience"
 *
 * const agent = HealthCheck.reachable("agent", Effect.fail("connection refused"))
 *
 * const program = HealthMonitor.check.pipe(
 *   Effect.map((report) => report.message),
 *   Effect.provide(HealthMonitor.layer({ checks: [agent] }))
 * )
 *
 * await Effect.runPromise(program) // => "agent: the check failed with string"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const reachable = <A, E, R>(
  name: string,
  request: Effect.Effect<A, E, R>,
  options?: Options
): HealthCheck<R> => make(name, Effect.as(request, healthy("reachable")), options)

/**
 * Checks how fast something answers.
 *
 * **Details**
 *
 * An answer in less than `healthy` (default 1 second) is healthy, in less than `degraded` (default 3 seconds) degraded,
 * and a later one, or none, critical.
 *
 * **Example** (Wanting a fast answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthCheck } from "effect-resilience"
 *
 * const quick = HealthCheck.responseTime("search", Effect.succeed("found"), { healthy: "200 millis", degraded: "1 second" })
 *
 * const program = Effect.map(quick.run, (result) => result.status)
 * await Effect.runPromise(program) // => "healthy"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const responseTime = <A, E, R>(
  name: string,
  request: Effect.Effect<A, E, R>,
  options: Options & {
    readonly healthy?: Duration.Input | undefined
    readonly degraded?: Duration.Input | undefined
  } = {}
): HealthCheck<R> => {
  const good = config.duration(module, "healthy", options.healthy ?? model.responseDefaults.healthy, {
    minimum: "1 millis"
  })
  const bad = config.duration(
    module,
    "degraded",
    options.degraded ?? Duration.max(good, Duration.fromInputUnsafe(model.responseDefaults.degraded)),
    {
      minimum: good
    }
  )
  const timed = Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const started = millisOf(clock)
    yield* request
    const taken = Duration.millis(millisOf(clock) - started)
    const say = Duration.isLessThan(taken, good) ? healthy : Duration.isLessThan(taken, bad) ? degraded : critical
    return say(`answered in ${model.format(taken)}`)
  })
  return make(name, timed, options)
}

/**
 * Checks that blocks of memory are there, each once, and not empty.
 *
 * @category checks
 * @since 0.1.0
 */
export const memoryIntact = <E, R>(
  name: string,
  read: Effect.Effect<Iterable<{ readonly label: string; readonly value: string }>, E, R>,
  expected: ReadonlyArray<string>,
  options?: Options
): HealthCheck<R> =>
  make(
    name,
    Effect.map(read, (blocks) => {
      const all = Array.from(blocks)
      const problems = expected.flatMap((label) => {
        const [block, twin] = all.filter((one) => one.label === label)
        if (block === undefined) return [`${label} is missing`]
        if (twin !== undefined) return [`${label} is there twice`]
        return block.value.trim() === "" ? [`${label} is empty`] : []
      })
      return problems.length === 0 ? healthy(`memory intact (${expected.join(", ")})`) : critical(problems.join("; "))
    }),
    options
  )

/**
 * Checks that tools are available, by their names.
 *
 * **Example** (Missing a tool)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthCheck } from "effect-resilience"
 *
 * const tools = HealthCheck.toolsAvailable("tools", Effect.succeed(["search"]), ["search", "refund"])
 *
 * const program = Effect.map(tools.run, (result) => result.message)
 * await Effect.runPromise(program) // => "not available: refund"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const toolsAvailable = <E, R>(
  name: string,
  available: Effect.Effect<Iterable<string>, E, R>,
  expected: ReadonlyArray<string>,
  options?: Options
): HealthCheck<R> =>
  make(
    name,
    Effect.map(available, (names) => {
      const there = new Set(names)
      const missing = expected.filter((tool) => !there.has(tool))
      return missing.length === 0
        ? healthy(`tools available (${expected.join(", ")})`)
        : critical(`not available: ${missing.join(", ")}`)
    }),
    options
  )

/**
 * Checks that runs can be written, by writing one and removing it again.
 *
 * **Details**
 *
 * The run is called `effect-resilience/health-check/` and a random name, and is `completed`: where the process is killed
 * in between, nobody takes it up, and it goes with the retention of other completed runs.
 *
 * **Example** (Checking the store in memory)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CheckpointStore, HealthCheck } from "effect-resilience"
 *
 * const program = HealthCheck.checkpointStoreWritable().run.pipe(
 *   Effect.map((result) => result.status),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => "healthy"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const checkpointStoreWritable = (
  options: Options & { readonly name?: string | undefined } = {}
): HealthCheck<CheckpointStore> =>
  make(
    options.name ?? "checkpoint store",
    Effect.gen(function*() {
      const store = yield* CheckpointStore
      const name = yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)
      const runId = `effect-resilience/health-check/${name.toString(36)}`
      // Taken interruptibly, so that a store that hangs can be given up. What that may leave is a lease without a run.
      const lease = Duration.seconds(30)
      const taken = yield* store.acquire(runId, lease)
      yield* Effect.acquireUseRelease(
        Effect.succeed(taken),
        (lease) => store.append(lease, [{ position: 0, step: "", body: "{}" }], "completed"),
        // What was written is removed, and what was not is released: `remove` does both. Nothing interrupts it here.
        (taken) => Effect.timeout(store.remove(taken), lease)
      )
      return healthy("writable")
    }),
    options
  )

/**
 * Checks that escalations do not pile up unanswered.
 *
 * **Details**
 *
 * Degraded above `depth.degraded` (default 10) escalations that wait for a decision, or when the oldest has waited for
 * longer than `age.degraded` (default one hour); critical above `depth.critical` (default 100) or `age.critical` (default
 * 24 hours).
 *
 * @category checks
 * @since 0.1.0
 */
export const escalationBacklog = (
  options: Options & {
    readonly name?: string | undefined
    readonly depth?: { readonly degraded?: number | undefined; readonly critical?: number | undefined } | undefined
    readonly age?:
      | { readonly degraded?: Duration.Input | undefined; readonly critical?: Duration.Input | undefined }
      | undefined
  } = {}
): HealthCheck<EscalationQueue> => {
  const defaults = model.backlogDefaults
  const many = config.integer(module, "depth.degraded", options.depth?.degraded ?? defaults.depth.degraded, 0)
  const tooMany = config.integer(
    module,
    "depth.critical",
    options.depth?.critical ?? Math.max(defaults.depth.critical, many),
    many
  )
  const old = config.duration(module, "age.degraded", options.age?.degraded ?? defaults.age.degraded)
  const tooOld = config.duration(
    module,
    "age.critical",
    options.age?.critical ?? Duration.max(old, Duration.fromInputUnsafe(defaults.age.critical)),
    {
      minimum: old
    }
  )
  return make(
    options.name ?? "escalation backlog",
    Effect.gen(function*() {
      const queue = yield* EscalationQueue
      const depth = yield* queue.depth
      const age = Option.getOrElse(yield* queue.oldestAge, () => Duration.zero)
      const say = depth > tooMany || Duration.isGreaterThan(age, tooOld)
        ? critical
        : depth > many || Duration.isGreaterThan(age, old)
        ? degraded
        : healthy
      const message = depth === 0
        ? "nothing waits for a decision"
        : `${depth} wait for a decision, the oldest for ${model.format(age)}`
      return say(message, { depth, oldestAgeMillis: Duration.toMillis(age) })
    }),
    options
  )
}

/**
 * Checks the circuits: degraded while one is open, half-open or isolated.
 *
 * **Details**
 *
 * One that is open counts until its open time is over: then it may probe, and a gate that kept the probe away would keep
 * the circuit open. Critical while one of the keys named in `critical` is open. An isolated circuit never is: somebody,
 * such as the gate of `HealthMonitor`, holds it open.
 *
 * **Example** (Not being ready while the only provider is down)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { CircuitBreaker, HealthCheck } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.exit(CircuitBreaker.protect(Effect.fail("connection lost"), "anthropic"))
 *   const result = yield* HealthCheck.circuits({ critical: ["anthropic"] }).run
 *   return [result.status, result.message]
 * }).pipe(Effect.provide(CircuitBreaker.layer({ trip: CircuitBreaker.consecutive(1) })))
 *
 * await Effect.runPromise(program) // => ["critical", "anthropic is open"]
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const circuits = (
  options: Options & { readonly name?: string | undefined; readonly critical?: ReadonlyArray<string> | undefined } = {}
): HealthCheck<CircuitBreaker> =>
  make(
    options.name ?? "circuits",
    Effect.gen(function*() {
      const states = yield* CircuitBreaker.use((breaker) => breaker.states)
      // An open one whose time is over refuses nobody: it waits for the next call, which may never come.
      const refusing = states.filter((state) =>
        state._tag === "Open"
          ? Duration.isPositive(state.retryAfter)
          : state._tag === "HalfOpen" || state._tag === "Isolated"
      )
      if (refusing.length === 0) return healthy("no circuit refuses calls")
      const needed = new Set(options.critical)
      const down = refusing.some(({ _tag, key }) => _tag === "Open" && needed.has(key))
      return (down ? critical : degraded)(model.listed(refusing.map(({ _tag, key }) => `${key} is ${words[_tag]}`)))
    }),
    options
  )

const words = { Open: "open", HalfOpen: "half-open", Isolated: "isolated", Closed: "closed", MetricsOnly: "closed" }

/**
 * Checks that nothing is in safe mode: degraded while a key answers with its safe response.
 *
 * **Example** (Seeing who answers with a safe response)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { HealthCheck, SafeMode } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const safeMode = yield* SafeMode.SafeMode
 *   yield* safeMode.enter("billing agent")
 *   const result = yield* HealthCheck.safeMode().run
 *   return [result.status, result.message]
 * }).pipe(Effect.provide(SafeMode.layer()))
 *
 * await Effect.runPromise(program) // => ["degraded", "in safe mode: billing agent"]
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const safeMode = (
  options: Options & { readonly name?: string | undefined } = {}
): HealthCheck<SafeMode> =>
  make(
    options.name ?? "safe mode",
    Effect.gen(function*() {
      const states = yield* SafeMode.use((service) => service.states)
      const active = states.filter((state) => state.active).map(({ key }) => key)
      return active.length === 0
        ? healthy("nothing is in safe mode")
        : degraded(`in safe mode: ${model.listed(active)}`)
    }),
    options
  )
