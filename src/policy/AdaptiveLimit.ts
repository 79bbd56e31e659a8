/**
 * Finds out how many calls a provider takes at the same time and keeps to it, and stops sending while nothing gets
 * through: the part of a provider's governor that needs no known limits.
 *
 * One limit per key, shared by every call to it. Calls wait for a slot in the order in which they came.
 *
 * **Details**
 *
 * The limit falls when the provider says that it is overloaded, when connections break or calls time out, and when
 * answers begin to come much later than they used to. It grows while it is used to the full, and only then. All calls that
 * were under way when it fell are one event, however many of them fail.
 *
 * | how a call ends | what it says |
 * | --- | --- |
 * | success, or {@link firstToken} | the provider took it: the limit may grow, an outage is over |
 * | `Overloaded` | no room for that many calls |
 * | `TimedOut`, `Ambiguous`, `Transient` | perhaps too much load: less once, and soon back again |
 * | every other verdict, a defect, an interruption | nothing |
 *
 * After `outageAfter` failures with nothing taken in between the key is out: all wait but for one call, the probe, which is
 * sent at growing intervals. The first that is taken ends the outage; the limit then doubles with each round of calls up to
 * what it was, as long as somebody waits. Those who wait are started one after the other, and not at one instant: as many
 * in a second as the limit is, and from when it is what it was, twice as many each second, until all slots are taken or
 * nobody waits any more.
 *
 * **Gotchas**
 *
 * Put timeouts inside of it, and retries outside: a call that somebody outside interrupts says nothing, so that one that
 * hangs is never noticed, and a retry's delay would hold a slot. A call inside a call of the same key needs a slot of its
 * own.
 *
 * @since 0.1.0
 */
// Effect's Semaphore can be resized, and that is all: nothing in it learns, bounds its queue or says why it refuses. Its
// RateLimiter counts how many calls start in a time, which says nothing of how many a provider serves at once, and its
// CircuitBreaker refuses everybody while it is open, lets one caller try when its time is over, and then all of them at one
// instant, which is what brings a provider down again. Here the number of slots, the probe and the way back are one state,
// changed in one synchronous step each.
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import * as Fault from "../Fault.ts"
import { millisIn } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import { type Call, Engine, type Outcome, type Snapshot } from "./internal/adaptiveEngine.ts"
import * as settings from "./internal/adaptiveSettings.ts"
import { onlyFailure } from "./internal/failure.ts"
import { answerTo } from "./internal/overloads.ts"
import { sendingOf } from "./internal/quotaSending.ts"
import { withoutStack } from "./internal/withoutStack.ts"

/**
 * What is known about one key.
 *
 * **Details**
 *
 * `running` calls hold one of `limit` slots, and `waiting` calls have none yet. There may be more running than the limit
 * says after it fell. `givenUp` calls hang since before an outage ended: they run, and their slots were given to others.
 *
 * The phase is `Steady`; `Out` while nothing gets through, with `retryAfter` until the next probe may start at the latest;
 * or `Recovering` while the limit is on its way back.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly key: string
  readonly phase: "Steady" | "Out" | "Recovering"
  readonly limit: number
  readonly running: number
  readonly waiting: number
  readonly givenUp: number
  readonly retryAfter?: Duration.Duration
}

/**
 * Failure of a call that got no slot: it was not started.
 *
 * **Details**
 *
 * - `QueueFull`: no slot was free, and as many calls waited as may.
 * - `WaitTooLong`: it waited for `maxWait` and got none; or it would have had to wait, and there was no time for it (a
 *   `maxWait` of zero, a deadline that was over).
 * - `Outage`: nothing gets through to the provider, and the caller does not wait for it (`inOutage: "fail"`), has waited
 *   for `maxWait`, or cannot wait until the next probe. `retryAfter` says when that may start at the latest.
 *
 * `running`, `waiting` and `limit` are those of the key when the call was refused, without the call itself.
 *
 * @category errors
 * @since 0.1.0
 */
export class LimitExceeded
  extends Schema.TaggedError<LimitExceeded>("effect-resilience/policy/AdaptiveLimit/LimitExceeded")(
    "LimitExceeded",
    {
      key: Schema.String,
      reason: Schema.Literals(["QueueFull", "WaitTooLong", "Outage"]),
      running: Schema.Finite,
      waiting: Schema.Finite,
      limit: Schema.Finite,
      retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
    }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return Fault.rejected(this.retryAfter)
  }
  override get message() {
    const seen = `${this.running} of ${this.limit} slots are taken, ` +
      `${this.waiting} ${this.waiting === 1 ? "call waits" : "calls wait"}`
    switch (this.reason) {
      case "QueueFull":
        return `AdaptiveLimit "${this.key}" is full and started nothing (${seen}): try again later, or fall back`
      case "WaitTooLong":
        return `AdaptiveLimit "${this.key}" had no free slot in time and started nothing (${seen}): ` +
          "try again later, or fall back"
      case "Outage": {
        const wait = this.retryAfter === undefined ? "later" : `in ${Duration.format(this.retryAfter)}`
        return `AdaptiveLimit "${this.key}" gets nothing through to its provider and started nothing: ` +
          `fall back, or try again ${wait}`
      }
    }
  }
}

/**
 * What holds for one key, and what a caller does while nothing gets through.
 *
 * **Details**
 *
 * Of the caller, for each call by itself:
 *
 * - `maxWait`: how long a call waits for its slot, also in an outage; default 30 minutes. A deadline around bounds it too.
 * - `inOutage`: `"wait"` (default) for the end of the outage, or `"fail"` at once, for a fallback to take over. Where no
 *   one waits, a call that fails in an outage is the probe when it is time for one.
 *
 * How many calls run:
 *
 * - `min`, `max`: between what the limit stays; default 1 and 200.
 * - `initial`: where it begins; default 10. Where one of these three is given and does not fit to the others, those that
 *   are not given beside it give way, also where the layer says them of all keys: `{ initial: 500 }` has a `max` of 500.
 * - `latencyTolerance`: how many times its low the latency may rise before the limit falls; default 5. What counts is the
 *   time to the first token ({@link firstToken}) and the time per token ({@link tokens}), each against its own low.
 * - `learnFromTotalTime`: whether the whole time counts for calls that report neither; default no, since it says more of
 *   the request than of the provider.
 * - `maxQueue`: how many calls wait for a slot; default 1,000.
 *
 * Outages:
 *
 * - `outageAfter`: after how many failures with nothing taken in between the key is out; default 5.
 * - `probeInterval`, `maxProbeInterval`: the time before the first probe, which doubles from one to the next up to the
 *   second, each up to a quarter shorter, by chance; default 1 second and 20 seconds. A Retry-After makes it longer.
 * - `maxRetryAfter`: the longest Retry-After that is believed; default 10 minutes.
 * - `probeTimeout`: how long others wait for a probe; default 10 seconds. It goes on after that, and may still end the
 *   outage. Where two calls have failed and those that hold all slots are silent for as long, the key is out, too.
 * - `maxQueueInOutage`: how many calls wait then; default 10,000.
 *
 * @category models
 * @since 0.1.0
 */
export interface LimitOptions extends settings.LimitOptions {}

/**
 * Options of {@link make} and {@link layer}: what holds for every key, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named. What a caller says of such a key does nothing, but for
 *   `maxWait` and `inOutage`, which are the caller's own.
 * - `maxKeys`: how many keys are remembered; default 10,000. The ones unused for longest make room, a tenth at a time. A
 *   key with a call is never forgotten, so there are more while so many are in use.
 * - `idleTimeToLive`: how long an unused key, and what was learned of it, is remembered at least; default one hour. It is
 *   forgotten with a call to any key, the first after twice that time at the latest.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends settings.ServiceOptions {}

/**
 * Limits how many calls of a key run at the same time, and learns how many that are.
 *
 * **Details**
 *
 * - `withLimit(key, options)` runs an effect in a slot of the key; fails with `LimitExceeded` where there is none. See
 *   {@link withLimit}.
 * - `state(key)` reads one key, `states` all that are remembered. Neither changes anything.
 *
 * **Example** (Looking at what was learned)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AdaptiveLimit, Fault } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const limits = yield* AdaptiveLimit.AdaptiveLimit
 *   const overloaded = Effect.fail({ [Fault.verdictOf]: Fault.overloaded() })
 *   yield* Effect.flip(limits.withLimit("anthropic")(overloaded))
 *   const { limit, phase } = yield* limits.state("anthropic")
 *   return [limit, phase]
 * }).pipe(Effect.provide(AdaptiveLimit.layer({ initial: 10 })))
 *
 * await Effect.runPromise(program) // => [1, "Steady"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class AdaptiveLimit extends Context.Service<AdaptiveLimit, {
  readonly withLimit: (
    key: string,
    options?: LimitOptions
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LimitExceeded, R>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
}>()("effect-resilience/policy/AdaptiveLimit") {}

/** The call around, for what it reports. */
const Inside = Context.Reference<Call | undefined>("effect-resilience/policy/AdaptiveLimit/Inside", {
  defaultValue: () => undefined
})

const wholeMillis = (millis: number): Duration.Duration => Duration.millis(Math.ceil(millis))

const refuse = (call: Call, now: number, context: Context.Context<never>): Effect.Effect<never, LimitExceeded> => {
  const { limited: { key }, refusal, since } = call
  const { limit = 0, reason = "WaitTooLong", retryAfterMillis, running = 0, waiting = 0 } = refusal ?? {}
  const seen = { key, reason, running, waiting, limit }
  const error = withoutStack(() =>
    new LimitExceeded(retryAfterMillis === undefined ? seen : { ...seen, retryAfter: wholeMillis(retryAfterMillis) })
  )
  const heard = Telemetry.emitIn(context, () => ({ _tag: "LimitRejected", key, reason, waitedMillis: now - since }))
  return Effect.andThen(heard, Effect.fail(error))
}

/** What a call does when it is told of the slot that it waited for, or of its refusal. */
const afterWaiting = <A, E, R>(
  call: Call,
  self: Effect.Effect<A, E, R>,
  context: Context.Context<never>
): Effect.Effect<A, E | LimitExceeded, R> => {
  const now = millisIn(context)
  if (call.state === "Refused") return refuse(call, now, context)
  call.engine.begin(call, now)
  const work = Effect.provideService(self, Inside, call)
  if (!call.hadToWait) return work
  const { limited: { key }, since } = call
  const heard = Telemetry.emitIn(context, () => ({ _tag: "LimitWaited", key, waitedMillis: now - since }))
  return Effect.andThen(heard, sendingOf(key, context)?.resume(work) ?? work)
}

const awaitTurn = <A, E, R>(
  call: Call,
  self: Effect.Effect<A, E, R>,
  context: Context.Context<never>
): Effect.Effect<A, E | LimitExceeded, R> =>
  Effect.callback((resume) =>
    call.onEnd(() => {
      // Whoever gives a slot away goes on first, and does not run the work of the next one in its own step.
      resume(Effect.flatMap(Effect.yieldNow, () => afterWaiting(call, self, context)))
    })
  )

const success: Outcome = { _tag: "Success" }
const ignored = { _tag: "Ignored", retryAfterMillis: 0 } satisfies Outcome

const outcomeOf = (cause: Cause.Cause<unknown>, context: Context.Context<never>): Outcome => {
  const failure = onlyFailure(cause)
  if (failure === undefined) return ignored
  const verdict = Fault.classifyIn(context, failure.error)
  const retryAfter = Fault.retryAfter(verdict)
  const retryAfterMillis = retryAfter === undefined ? 0 : Duration.toMillis(retryAfter)
  switch (verdict._tag) {
    case "Overloaded":
      answerTo(failure.error)
      return { _tag: "Overloaded", retryAfterMillis }
    case "TimedOut":
    case "Ambiguous":
    case "Transient":
      return { _tag: "Failed", retryAfterMillis }
    default:
      return { _tag: "Ignored", retryAfterMillis }
  }
}

const withLimitOf = (engine: Engine): AdaptiveLimit["Service"]["withLimit"] => (key, options) => {
  settings.checkCall(key, options)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | LimitExceeded, R> =>
    Effect.withFiber(({ context }) => {
      let entered: Call | undefined
      // The finalizer is in place before a slot is taken or waited for, and not after: no interruption fits in between.
      return Effect.onExitPrimitive(
        Effect.suspend((): Effect.Effect<A, E | LimitExceeded, R> => {
          const now = millisIn(context)
          const call = engine.enter(key, options, Context.get(context, Inside), now, context)
          entered = call
          const turn = call.state === "Running"
            ? Effect.provideService(self, Inside, call)
            : call.state === "Refused"
            ? refuse(call, now, context)
            : awaitTurn(call, self, context)
          if (call.state === "Waiting") sendingOf(key, context)?.pause()
          const warning = engine.takeWarning(call)
          return warning === undefined ? turn : Effect.andThen(Effect.logWarning(warning), turn)
        }),
        (exit) => {
          if (entered === undefined) return undefined
          let outcome: Outcome = ignored
          try {
            outcome = Exit.isSuccess(exit) ? success : outcomeOf(exit.cause, context)
          } finally {
            // also when a classifier of the user's throws
            engine.end(entered, outcome, millisIn(context), context)
          }
          return engine.announce(context)
        }
      )
    })
}

const stateOf = ({ retryAfterMillis, ...state }: Snapshot): State =>
  retryAfterMillis === undefined ? state : { ...state, retryAfter: wholeMillis(retryAfterMillis) }

const looking = <A>(look: (now: number) => A): Effect.Effect<A> =>
  Effect.contextWith((context: Context.Context<never>) => Effect.sync(() => look(millisIn(context))))

/**
 * Creates an `AdaptiveLimit` that counts the calls of this process.
 *
 * **When to use**
 *
 * Use {@link layer} for the one of a program, and this for a set of limits of your own.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Limiting calls with limits of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AdaptiveLimit } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const limits = yield* AdaptiveLimit.make({ max: 1, maxQueue: 0 })
 *   const nested = Effect.succeed("found").pipe(limits.withLimit("search"), Effect.flip)
 *   return yield* nested.pipe(limits.withLimit("search"), Effect.map(({ reason }) => reason))
 * })
 *
 * await Effect.runPromise(program) // => "QueueFull"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<AdaptiveLimit["Service"]> =>
  Effect.sync(() => {
    const engine = new Engine(new settings.ServiceSettings(options))
    return AdaptiveLimit.of({
      withLimit: withLimitOf(engine),
      state: (key) => looking((now) => stateOf(engine.snapshot(key, now))),
      states: looking((now) => engine.snapshots(now).map(stateOf))
    })
  })

/**
 * Provides an `AdaptiveLimit` that counts the calls of this process.
 *
 * **Details**
 *
 * Building the layer dies with `InvalidConfig` when an option is out of range. The defaults are those of
 * {@link LimitOptions}.
 *
 * **Example** (A provider of whom little is known, and one with few slots)
 *
 * ```ts import.meta.vitest
 * import { AdaptiveLimit } from "effect-resilience"
 *
 * export const Live = AdaptiveLimit.layer({
 *   max: 100,
 *   keys: { local: { initial: 1, max: 4, outageAfter: 3 } }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<AdaptiveLimit> => Layer.effect(AdaptiveLimit, make(options))

/**
 * Provides an `AdaptiveLimit` that starts every call at once and learns nothing.
 *
 * **Example** (Testing without limits)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AdaptiveLimit } from "effect-resilience"
 *
 * const search = AdaptiveLimit.withLimit(Effect.succeed("found"), "search")
 *
 * await Effect.runPromise(Effect.provide(search, AdaptiveLimit.layerNoop)) // => "found"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<AdaptiveLimit> = Layer.succeed(AdaptiveLimit, {
  withLimit: () => (self) => self,
  state: (key) => Effect.succeed({ key, phase: "Steady", limit: Infinity, running: 0, waiting: 0, givenUp: 0 }),
  states: Effect.succeed([])
})

// Not `dual`: a guard in the data-last style is built, and its options are looked at, before it sees an effect.
type EffectFirst = [self: Effect.Effect<unknown, unknown, unknown>, key: string, options?: LimitOptions | undefined]
type EffectLast = [key: string, options?: LimitOptions | undefined]

const isEffectFirst = (args: EffectFirst | EffectLast): args is EffectFirst => Effect.isEffect(args[0])

const makeWithLimit = (key: string, options?: LimitOptions) => {
  settings.checkCall(key, options)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | LimitExceeded, R | AdaptiveLimit> =>
    Effect.contextWith((context: Context.Context<AdaptiveLimit>) =>
      Context.get(context, AdaptiveLimit).withLimit(key, options)(self)
    )
}

/**
 * Runs an effect in a slot of a key; fails with `LimitExceeded`, without running it, where there is none and none becomes
 * free in time.
 *
 * **Details**
 *
 * The options are those of {@link LimitOptions}. What they say of a key that the service does not configure by name
 * (`keys`) holds as the first caller says it who says anything; another one, who would say otherwise, takes the key as it
 * is, and a warning is logged, once for each key, that says in what they differ. `maxWait` and `inOutage` are every
 * caller's own. Throws `InvalidConfig` when an option is out of range or the key is empty.
 *
 * The slot is free when the work has stopped. Interrupting a call that waits frees its place at once; one that had just
 * got its slot hands it on. `Telemetry` gets `LimitWaited` when a call starts after waiting, `LimitRejected`,
 * `LimitChanged`, `OutageBegan` and `OutageEnded`.
 *
 * **Gotchas**
 *
 * A call inside of a call of the same key takes a slot of its own. Where those around it have all slots that there are, it
 * waits for `maxWait` and fails, and they wait for it. That is logged as a warning, once for each key: use another key
 * inside, or a `maxWait` that is short.
 *
 * **Example** (Falling back while a provider is out)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AdaptiveLimit, Fault } from "effect-resilience"
 *
 * const answer = Effect.fail({ [Fault.verdictOf]: Fault.overloaded() }).pipe(
 *   AdaptiveLimit.withLimit("anthropic", { outageAfter: 2, inOutage: "fail" }),
 *   Effect.catch((error) => Effect.succeed("reason" in error ? error.reason : "Overloaded"))
 * )
 *
 * const program = Effect.all([answer, answer, answer]).pipe(Effect.provide(AdaptiveLimit.layer()))
 *
 * await Effect.runPromise(program) // => ["Overloaded", "Overloaded", "Outage"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function withLimit(
  key: string,
  options?: LimitOptions
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | LimitExceeded, R | AdaptiveLimit>
export function withLimit<A, E, R>(
  self: Effect.Effect<A, E, R>,
  key: string,
  options?: LimitOptions
): Effect.Effect<A, E | LimitExceeded, R | AdaptiveLimit>
export function withLimit(...args: EffectFirst | EffectLast): unknown {
  return isEffectFirst(args) ? makeWithLimit(args[1], args[2])(args[0]) : makeWithLimit(args[0], args[1])
}

/**
 * Reads a key, and changes nothing.
 *
 * @category accessors
 * @since 0.1.0
 */
export const state = (key: string): Effect.Effect<State, never, AdaptiveLimit> =>
  AdaptiveLimit.use((limits) => limits.state(key))

/** Reports something of the calls around, the nearest one and those around that. */
const reporting = (report: (call: Call, context: Context.Context<never>) => void): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.suspend(() => {
      let told: Effect.Effect<void> = Effect.void
      for (let call = Context.get(context, Inside); call !== undefined; call = call.outer) {
        report(call, context)
        const heard = call.engine.announce(context)
        if (heard !== undefined) told = Effect.andThen(told, heard)
      }
      return told
    })
  )

/**
 * Reports that the first token of an answer has come, from inside of a call under {@link withLimit}.
 *
 * **When to use**
 *
 * Use it where an answer is streamed. The time to the first token says how busy a provider is; the whole time says more of
 * how long the answer is. It also shows long before the end that the call was taken, so that the limit grows sooner and an
 * outage ends with the first token of a probe.
 *
 * **Details**
 *
 * The first time of each call counts. Without a limit around, and after the call has ended, it does nothing.
 *
 * **Example** (Reporting the first part of a stream)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { AdaptiveLimit } from "effect-resilience"
 *
 * const text = Stream.make("It ", "rains.").pipe(
 *   Stream.tap(() => AdaptiveLimit.firstToken),
 *   Stream.mkString,
 *   AdaptiveLimit.withLimit("anthropic")
 * )
 *
 * await Effect.runPromise(Effect.provide(text, AdaptiveLimit.layer())) // => "It rains."
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const firstToken: Effect.Effect<void> = reporting((call, context) =>
  call.engine.firstToken(call, millisIn(context), context)
)

/**
 * Reports how many tokens an answer has so far, from inside of a call under {@link withLimit}.
 *
 * **When to use**
 *
 * Use it where the length of an answer is known before its call ends, with or without {@link firstToken}: the time per
 * token, from the first one where that was reported, tells how busy a provider is, whatever the length.
 *
 * **Details**
 *
 * The last number of each call counts, when the call succeeds. What is no number of more than zero, and what comes without
 * a limit around or after the call has ended, does nothing.
 *
 * **Example** (Reporting the length of an answer)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AdaptiveLimit } from "effect-resilience"
 *
 * const text = Effect.succeed({ text: "It rains.", outputTokens: 4 }).pipe(
 *   Effect.tap(({ outputTokens }) => AdaptiveLimit.tokens(outputTokens)),
 *   Effect.map(({ text }) => text),
 *   AdaptiveLimit.withLimit("anthropic")
 * )
 *
 * await Effect.runPromise(Effect.provide(text, AdaptiveLimit.layer())) // => "It rains."
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const tokens = (count: number): Effect.Effect<void> =>
  reporting((call) => {
    if (count > 0 && Number.isFinite(count)) call.tokens = count
  })
