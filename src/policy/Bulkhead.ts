/**
 * Keeps one slow dependency, or one busy agent, from taking everything: so many calls of a key run at the same time, so
 * many more wait for a bounded time, and the rest is refused at once.
 *
 * One compartment per key, and a total over all keys where asked for, shared fairly between them.
 *
 * **Details**
 *
 * Calls get their slots in the order in which they came, and nobody overtakes. A slot is held until the work has
 * stopped, so that work which goes on after its caller gave up still counts. Put retries outside of it, so that a delay
 * holds no slot.
 *
 * **Gotchas**
 *
 * A call inside a call of the same key needs a slot of its own: where all of them wait for inner calls, these are refused
 * after `maxWait`.
 *
 * @since 0.1.0
 */
// Effect's Semaphore is the limit alone: no bound on its queue, no refusal that says what it saw, no keys, and a timeout
// around it counts the work too, while its withPermitsIfAvailable overtakes those who wait. PartitionedSemaphore shares a
// total between keys, but knows no limit for each, and hands out permits one by one. Here a slot goes from one call to
// the next in one synchronous step that also counts them.
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Fault from "../Fault.ts"
import { millisIn } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import * as bulkheads from "./internal/bulkheadEngine.ts"
import { sendingOf } from "./internal/quotaSending.ts"
import { withoutStack } from "./internal/withoutStack.ts"

/**
 * What is known about the compartment of one key.
 *
 * **Details**
 *
 * `running` calls hold one of `limit` slots, and `waiting` calls one of `maxQueue` places. There may be more running than
 * the limit says after it was made smaller. A `closed` key starts nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly key: string
  readonly running: number
  readonly waiting: number
  readonly limit: number
  readonly maxQueue: number
  readonly closed: boolean
}

/**
 * Failure of a call that got no slot: it was not started.
 *
 * **Details**
 *
 * - `QueueFull`: no slot was free, and as many calls waited as may.
 * - `WaitTooLong`: it waited for `maxWait` and got none; or it would have had to wait, and there was no time for it (a
 *   `maxWait` of zero, a deadline that was over).
 * - `Closed`: the key was closed, before the call or while it waited.
 *
 * `running`, `waiting` and `limit` are those of the key when the call was refused, without the call itself. `total` is
 * there when the key had a free slot and the total over all keys had none.
 *
 * @category errors
 * @since 0.1.0
 */
export class BulkheadFull extends Schema.TaggedError<BulkheadFull>("effect-resilience/policy/Bulkhead/BulkheadFull")(
  "BulkheadFull",
  {
    key: Schema.String,
    reason: Schema.Literals(["QueueFull", "WaitTooLong", "Closed"]),
    running: Schema.Finite,
    waiting: Schema.Finite,
    limit: Schema.Finite,
    total: Schema.optionalKey(Schema.Finite)
  }
) {
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return Fault.rejected()
  }
  override get message() {
    const taken = this.total === undefined
      ? `${this.running} of ${this.limit} slots are taken`
      : `all ${this.total} slots of all keys together are taken`
    const seen = `${taken}, ${this.waiting} ${this.waiting === 1 ? "call waits" : "calls wait"}`
    switch (this.reason) {
      case "QueueFull":
        return `Bulkhead "${this.key}" is full and started nothing (${seen}): try again later, or fall back`
      case "WaitTooLong":
        return `Bulkhead "${this.key}" had no free slot in time and started nothing (${seen}): ` +
          "try again later, or fall back"
      case "Closed":
        return `Bulkhead "${this.key}" is closed and started nothing: open it, or fall back`
    }
  }
}

/**
 * How many calls of one key may run and wait.
 *
 * **Details**
 *
 * - `maxConcurrent`: how many run at the same time; default 3.
 * - `maxQueue`: how many wait for a slot; default 100. With 0 nobody waits.
 * - `maxWait`: how long a call waits, the work itself not counted; default 1 minute. At exactly this time a call that has
 *   got its slot runs, and one that has not is refused.
 *
 * @category models
 * @since 0.1.0
 */
export interface LimitOptions extends bulkheads.BulkheadOptions {}

/**
 * Options of {@link make} and {@link layer}: what holds for every key, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named, also where a caller brings options of its own.
 * - `total`: how many calls run at the same time over all keys; default no limit. Keys that wait for it are served in
 *   turn: a key with a thousand waiting calls delays the first one of another key by one slot at most.
 * - `maxKeys`: how many keys are remembered; default 10,000. The ones unused for longest make room, a tenth at a time. A
 *   key with a call, and one that was resized or closed by hand, is never forgotten, so there are more while so many are.
 * - `idleTimeToLive`: how long an unused key is remembered at least; default one hour. It is forgotten with a call to any
 *   key, the first after twice that time at the latest.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends bulkheads.ServiceOptions {}

/**
 * Limits how many calls of a key run at the same time.
 *
 * **Details**
 *
 * - `limit(key, options)` runs an effect in a slot of the key; fails with `BulkheadFull` where there is none. The options
 *   of the first caller hold for a key that the service does not configure by name: see {@link limit}.
 * - `state(key)` reads one key, `states` all that are remembered. Neither changes anything.
 * - `resize(key, maxConcurrent)` changes how many calls run. Into new slots go at once those who wait, in order; of fewer
 *   slots, calls that run keep theirs to their end. It holds whatever options say, until the key is resized again;
 *   `resize(key, undefined)` goes back to what they say. Dies with `InvalidConfig` where the number is none of at least 1.
 * - `close(key)` refuses the calls of the key from now on and those that wait, and lets those that run end. It returns
 *   when nothing runs any more; whoever interrupts it stops waiting, and the key stays closed. `closeAll` does so for all
 *   keys, also those not used yet.
 * - `open(key)` and `openAll` end this. A `close` that still waits returns then, and `closeAll` waits for the other keys.
 *
 * **Gotchas**
 *
 * `close(key)` and `closeAll` inside of a call of the key wait for this very call, and so for ever: start them in a fiber
 * of their own (`Effect.forkDetach`).
 *
 * **Example** (Changing the limit under way)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Bulkhead } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const bulkhead = yield* Bulkhead.Bulkhead
 *   yield* bulkhead.resize("search", 10)
 *   return (yield* bulkhead.state("search")).limit
 * }).pipe(Effect.provide(Bulkhead.layer()))
 *
 * await Effect.runPromise(program) // => 10
 * ```
 *
 * **Example** (Letting work end before a shutdown)
 *
 * ```ts import.meta.vitest
 * import { Effect, Fiber } from "effect"
 * import { Bulkhead } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const bulkhead = yield* Bulkhead.Bulkhead
 *   const running = yield* Effect.sleep("10 millis").pipe(
 *     Effect.as("written"),
 *     Bulkhead.limit("disk"),
 *     Effect.forkChild({ startImmediately: true })
 *   )
 *   yield* bulkhead.closeAll
 *   const late = yield* Effect.flip(Bulkhead.limit(Effect.succeed("written"), "disk"))
 *   return [yield* Fiber.join(running), late.reason]
 * }).pipe(Effect.provide(Bulkhead.layer()))
 *
 * await Effect.runPromise(program) // => ["written", "Closed"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class Bulkhead extends Context.Service<Bulkhead, {
  readonly limit: (
    key: string,
    options?: LimitOptions
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
  readonly resize: (key: string, maxConcurrent: number | undefined) => Effect.Effect<void>
  readonly close: (key: string) => Effect.Effect<void>
  readonly closeAll: Effect.Effect<void>
  readonly open: (key: string) => Effect.Effect<void>
  readonly openAll: Effect.Effect<void>
}>()("effect-resilience/policy/Bulkhead") {}

const refuse = (
  key: string,
  { limit, reason, running, total, waiting }: bulkheads.Refusal,
  waitedMillis: number,
  context: Context.Context<never>
): Effect.Effect<never, BulkheadFull> => {
  const seen = { key, reason, running, waiting, limit }
  const error = withoutStack(() => new BulkheadFull(total === undefined ? seen : { ...seen, total }))
  const heard = Telemetry.emitIn(context, () => ({ _tag: "BulkheadRejected", key, reason, waitedMillis }))
  return Effect.andThen(heard, Effect.fail(error))
}

/** What a call does when it is told of the slot that it waited for, or of its refusal. */
const afterWaiting = <A, E, R>(
  engine: bulkheads.Engine,
  waiter: bulkheads.Waiter,
  self: Effect.Effect<A, E, R>,
  context: Context.Context<never>
): Effect.Effect<A, E | BulkheadFull, R> => {
  const { key } = waiter.compartment
  const waitedMillis = millisIn(context) - waiter.since
  if (waiter.refusal !== undefined) return refuse(key, waiter.refusal, waitedMillis, context)
  engine.begin(waiter)
  if (!waiter.hadToWait) return self
  const heard = Telemetry.emitIn(context, () => ({ _tag: "BulkheadWaited", key, waitedMillis }))
  return Effect.andThen(heard, sendingOf(key, context)?.resume(self) ?? self)
}

const awaitTurn = <A, E, R>(
  engine: bulkheads.Engine,
  waiter: bulkheads.Waiter,
  self: Effect.Effect<A, E, R>,
  context: Context.Context<never>
): Effect.Effect<A, E | BulkheadFull, R> =>
  Effect.callback((resume) =>
    waiter.onEnd(() => {
      // Whoever gives a slot away goes on first, and does not run the work of the next one in its own step.
      resume(Effect.flatMap(Effect.yieldNow, () => afterWaiting(engine, waiter, self, context)))
    })
  )

const limitWith = (engine: bulkheads.Engine): Bulkhead["Service"]["limit"] => (key, options) => {
  if (options !== undefined) bulkheads.checked(options)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | BulkheadFull, R> =>
    Effect.withFiber(({ context }) => {
      let slot: bulkheads.Slot | undefined
      let waiter: bulkheads.Waiter | undefined
      // The finalizer is in place before a slot is taken or waited for, and not after: no interruption fits in between.
      return Effect.onExitPrimitive(
        Effect.suspend((): Effect.Effect<A, E | BulkheadFull, R> => {
          const now = millisIn(context)
          slot = engine.tryAcquire(key, options, now)
          if (slot !== undefined) return self
          const place = engine.wait(key, options, now, context)
          if (place._tag === "Waiter") {
            waiter = place
            sendingOf(key, context)?.pause()
          }
          const turn = place._tag === "Refusal"
            ? refuse(key, place, 0, context)
            : awaitTurn(engine, place, self, context)
          const warning = engine.takeWarning(key)
          return warning === undefined ? turn : Effect.andThen(Effect.logWarning(warning), turn)
        }),
        () => {
          if (slot !== undefined) engine.release(slot, millisIn(context))
          else if (waiter !== undefined) engine.finish(waiter, millisIn(context))
          return undefined
        }
      )
    })
}

/** One change made by hand. */
const byHand = (step: (now: number) => void): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => Effect.sync(() => step(millisIn(context))))

/**
 * Closes and waits in one step, so that no `open` comes between. Whoever ends the last call goes on first, and does not
 * run what comes after closing in its own step.
 */
const closing = (close: (now: number, done: () => void) => () => void): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.callback<void>((resume) => Effect.sync(close(millisIn(context), () => resume(Effect.yieldNow))))
  )

/**
 * Creates a `Bulkhead` that counts the calls of this process.
 *
 * **When to use**
 *
 * Use {@link layer} for the one of a program, and this for a set of compartments of your own.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Limiting calls with a bulkhead of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Bulkhead } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const bulkhead = yield* Bulkhead.make({ maxConcurrent: 1, maxQueue: 0 })
 *   const nested = Effect.succeed("found").pipe(bulkhead.limit("search"), Effect.flip)
 *   return yield* nested.pipe(bulkhead.limit("search"), Effect.map(({ reason }) => reason))
 * })
 *
 * await Effect.runPromise(program) // => "QueueFull"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<Bulkhead["Service"]> =>
  Effect.sync(() => {
    const engine = new bulkheads.Engine(options)
    const service = Bulkhead.of({
      limit: limitWith(engine),
      state: (key) => Effect.sync(() => engine.snapshot(key)),
      states: Effect.contextWith((context: Context.Context<never>) =>
        Effect.sync(() => engine.snapshots(millisIn(context)))
      ),
      resize: (key, maxConcurrent) =>
        byHand((now) => {
          if (maxConcurrent !== undefined) bulkheads.concurrency("resize.maxConcurrent", maxConcurrent)
          engine.resize(key, maxConcurrent, now)
        }),
      close: (key) => closing((now, done) => engine.close(key, now, done)),
      closeAll: closing((_, done) => engine.closeAll(done)),
      open: (key) => byHand((now) => engine.open(key, now)),
      openAll: Effect.sync(() => engine.openAll())
    })
    return bulkheads.withEngine(service, engine)
  })

/**
 * Provides a `Bulkhead` that counts the calls of this process.
 *
 * **Details**
 *
 * By default 3 calls of a key run at the same time, 100 more wait for up to a minute, and the rest is refused. Building
 * the layer dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (A total over all agents, and one key that gets less)
 *
 * ```ts import.meta.vitest
 * import { Bulkhead } from "effect-resilience"
 *
 * export const Live = Bulkhead.layer({
 *   maxConcurrent: 5,
 *   total: 20,
 *   keys: { browser: { maxConcurrent: 1, maxQueue: 10, maxWait: "30 seconds" } }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Bulkhead> => Layer.effect(Bulkhead, make(options))

/**
 * Provides a `Bulkhead` that starts every call at once and counts nothing.
 *
 * **Example** (Testing without limits)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Bulkhead } from "effect-resilience"
 *
 * const search = Bulkhead.limit(Effect.succeed("found"), "search")
 *
 * await Effect.runPromise(Effect.provide(search, Bulkhead.layerNoop)) // => "found"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<Bulkhead> = Layer.succeed(Bulkhead, {
  limit: () => (self) => self,
  state: (key) => Effect.succeed({ key, running: 0, waiting: 0, limit: Infinity, maxQueue: Infinity, closed: false }),
  states: Effect.succeed([]),
  resize: () => Effect.void,
  close: () => Effect.void,
  closeAll: Effect.void,
  open: () => Effect.void,
  openAll: Effect.void
})

// Not `dual`: a guard in the data-last style is built, and its options are looked at, before it sees an effect.
type EffectFirst = [self: Effect.Effect<unknown, unknown, unknown>, key: string, options?: LimitOptions | undefined]
type EffectLast = [key: string, options?: LimitOptions | undefined]

const isEffectFirst = (args: EffectFirst | EffectLast): args is EffectFirst => Effect.isEffect(args[0])

const makeLimit = (key: string, options?: LimitOptions) => {
  if (options !== undefined) bulkheads.checked(options)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | BulkheadFull, R | Bulkhead> =>
    Effect.contextWith((context: Context.Context<Bulkhead>) => Context.get(context, Bulkhead).limit(key, options)(self))
}

/**
 * Runs an effect in a slot of a key; fails with `BulkheadFull`, without running it, where there is none and none becomes
 * free in time.
 *
 * **Details**
 *
 * The options are those of {@link LimitOptions}, used for a key that the service does not configure by name (`keys`).
 * Those of the first caller who gives any hold for as long as the key is remembered. A caller without options takes the
 * key as it is; one with other options does, too, and a warning is logged, once for each key, that says in what they
 * differ. `resize` changes the limit while running. Throws `InvalidConfig` when an option is out of range.
 *
 * The slot is free when the work has stopped. Interrupting a call that waits frees its place at once; one that had just
 * got its slot hands it on. `Telemetry` gets `BulkheadWaited` when a call starts after waiting, and `BulkheadRejected`.
 *
 * **Example** (Answering with less while too many calls run)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Bulkhead } from "effect-resilience"
 *
 * const summary = Effect.succeed("a summary").pipe(
 *   Effect.delay("10 millis"),
 *   Bulkhead.limit("model", { maxConcurrent: 1, maxQueue: 1 }),
 *   Effect.catchTag("BulkheadFull", (error) => Effect.succeed(`${error.waiting} call waits`))
 * )
 *
 * const program = Effect.all([summary, summary, summary], { concurrency: "unbounded" }).pipe(
 *   Effect.provide(Bulkhead.layer())
 * )
 *
 * await Effect.runPromise(program) // => ["a summary", "a summary", "1 call waits"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function limit(
  key: string,
  options?: LimitOptions
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | BulkheadFull, R | Bulkhead>
export function limit<A, E, R>(
  self: Effect.Effect<A, E, R>,
  key: string,
  options?: LimitOptions
): Effect.Effect<A, E | BulkheadFull, R | Bulkhead>
export function limit(...args: EffectFirst | EffectLast): unknown {
  return isEffectFirst(args) ? makeLimit(args[1], args[2])(args[0]) : makeLimit(args[0], args[1])
}
