/**
 * Ends what takes too long: all of a piece of work ({@link within}), one try of it ({@link attempt}), or a silence
 * ({@link stall}, {@link watch}).
 *
 * **Details**
 *
 * Whatever ran out of time is interrupted, and its finalizers have run before anybody sees the error. What cannot be
 * interrupted is waited for; where it then fails by itself, its failure is what the caller gets, and a defect, also of a
 * finalizer, is kept beside the error. Whoever interrupts the caller interrupts the work, and that is an interruption and
 * no timeout, also when both come at the same time.
 *
 * The work runs in a fiber of its own, as under `Effect.timeout`: it can be interrupted also where the caller cannot, and
 * what it starts with `Effect.forkChild` ends with it. Time is measured with the monotonic clock.
 *
 * @since 0.1.0
 */
// Not Effect.timeout: it races two fibers and sets a timer for every call, drops how the call ends that it stops, defects
// of finalizers included, and its TimeoutError says neither which timeout it was nor whether anything had been started,
// which the verdict depends on.
import * as Channel from "effect/Channel"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import { millisIn, rounding } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import * as internalAttempt from "./internal/attempt.ts"
import { AttemptTimeout } from "./internal/attempt.ts"
import * as internal from "./internal/deadline.ts"
import * as heartbeat from "./internal/heartbeat.ts"
import { defaultIdle, defaultMaxSilence, timedIn, type Timeouts, timeoutsOf } from "./internal/timeouts.ts"
import { withoutStack } from "./internal/withoutStack.ts"

/**
 * The time allowed for all of it was over.
 *
 * **Details**
 *
 * `name` and `after` are those of the deadline. `started` says whether the work had begun: if so, nobody knows how far it
 * got, and the verdict is `TimedOut`; if not, because no time was left to begin with, it is `Rejected`.
 *
 * @category errors
 * @since 0.1.0
 */
export class DeadlineExceeded
  extends Schema.TaggedError<DeadlineExceeded>("effect-resilience/policy/Deadline/DeadlineExceeded")(
    "DeadlineExceeded",
    { name: Schema.String, after: Schema.DurationFromMillis, started: Schema.Boolean }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "TimedOut" | "Rejected" }> {
    return this.started ? Fault.timedOut : Fault.rejected()
  }
  override get message() {
    return this.started
      ? `Deadline "${this.name}" was over after ${Duration.format(this.after)} and the work was stopped: ` +
        "look up how far it got before it is repeated, or allow more time"
      : `Deadline "${this.name}" found no time left and started nothing: begin earlier, or allow more time around it`
  }
}

export { AttemptTimeout }

/**
 * Nothing came any more. Verdict: `TimedOut`.
 *
 * @category errors
 * @since 0.1.0
 */
export class Stalled extends Schema.TaggedError<Stalled>("effect-resilience/policy/Deadline/Stalled")(
  "Stalled",
  { name: Schema.String, idle: Schema.DurationFromMillis }
) {
  readonly [Fault.verdictOf] = Fault.timedOut
  override get message() {
    return `Nothing came from "${this.name}" for ${Duration.format(this.idle)} and it was stopped: ` +
      "try again, or allow longer silences"
  }
}

/**
 * Options of {@link within} and {@link attempt}.
 *
 * **Details**
 *
 * - `name`: what is named in the error, in events and in the span. Default: `"deadline"`, `"attempt"`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly name?: string | undefined
}

/**
 * Options of {@link stall}.
 *
 * **Details**
 *
 * - `maxSilence`: how long a stream may go without an element, whatever signs of life come from inside ({@link beat}).
 *   Default: 10 minutes, or `idle` where that is longer.
 * - `name`: what is named in the error, in events and in the span. Default: `"stream"`.
 *
 * @category models
 * @since 0.1.0
 */
export interface StallOptions extends Options {
  readonly maxSilence?: Duration.Input | undefined
}

/**
 * Options of {@link watch}.
 *
 * **Details**
 *
 * - `idle`: the longest silence. Default: 30 seconds.
 * - `name`: what is named in the error, in events and in the span. Default: `"work"`.
 *
 * @category models
 * @since 0.1.0
 */
export interface WatchOptions extends Options {
  readonly idle?: Duration.Input | undefined
}

interface Limit {
  readonly name: string
  readonly after: Duration.Duration
  readonly timeouts: Timeouts
}

const limit = (
  where: string,
  option: string,
  duration: Duration.Input,
  minimum: Duration.Input,
  name: string
): Limit => {
  const after = config.duration(where, option, duration, { minimum })
  return { name: config.nonEmpty(where, "name", name), after, timeouts: timeoutsOf(Duration.toMillis(after)) }
}

// Not `dual`: a guard in the data-last style is built, and its options are looked at, before it sees an effect.
type EffectFirst = [
  self: Effect.Effect<unknown, unknown, unknown>,
  duration: Duration.Input,
  options?: Options | undefined
]
type EffectLast = [duration: Duration.Input, options?: Options | undefined]

const isEffectFirst = (args: EffectFirst | EffectLast): args is EffectFirst => Effect.isEffect(args[0])

/**
 * When everything around has to be over, in milliseconds of the monotonic clock; `undefined` without a deadline. For
 * guards of one's own; see {@link remaining} for programs.
 *
 * @category services
 * @since 0.1.0
 */
export const Current: Context.Reference<number | undefined> = internal.Current

/**
 * The milliseconds left of a context's deadline: Infinity without one, never negative. For guards of one's own; see
 * {@link remaining} for programs.
 *
 * @category getters
 * @since 0.1.0
 */
export const remainingIn: (context: Context.Context<never>) => number = internal.remainingIn

/**
 * The time that is left until the nearest deadline; none without a deadline.
 *
 * **When to use**
 *
 * Use it in loops of your own, to stop before a deadline does, and to tell a remote side how long its answer is wanted.
 *
 * **Example** (Doing as much as there is time for)
 *
 * ```ts import.meta.vitest
 * import { Duration, Effect, Option } from "effect"
 * import { Deadline } from "effect-resilience"
 *
 * const enough = Effect.map(Deadline.remaining, Option.exists(Duration.isGreaterThan(Duration.seconds(10))))
 *
 * await Effect.runPromise(enough) // => false
 * await Effect.runPromise(Deadline.within(enough, "1 minute")) // => true
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const remaining: Effect.Effect<Option.Option<Duration.Duration>> = Effect.contextWith(
  (context: Context.Context<never>) => {
    const millis = remainingIn(context)
    return Effect.succeed(millis === Infinity ? Option.none() : Option.some(Duration.millis(millis)))
  }
)

/**
 * What a watchdog is told from inside of it: `alive` for the other side being there, `progress` for something of its
 * answer having come.
 *
 * @category models
 * @since 0.1.0
 */
export interface Heartbeat extends heartbeat.Heartbeat {}

/**
 * How the watchdogs around ({@link stall}, {@link watch}) hear that work is alive; `undefined` without one.
 *
 * **When to use**
 *
 * Use it in a client of one's own, where a callback sees signs of life; see {@link beat} for effects.
 *
 * **Example** (A callback of an SDK)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Deadline } from "effect-resilience"
 *
 * const onPing = Effect.map(Deadline.Heartbeat, (heartbeat) => () => heartbeat?.alive())
 *
 * typeof Effect.runSync(onPing) // => "function"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const Heartbeat: Context.Reference<Heartbeat | undefined> = heartbeat.Heartbeat

/**
 * Tells all watchdogs around ({@link stall}, {@link watch}) that the other side is alive, though nothing of its answer has
 * come: their idle time begins anew.
 *
 * **When to use**
 *
 * Use it in a client whose connection has signs of life of its own, such as pings. This toolkit's own do: each byte that
 * comes to `Anthropic` or `Letta` is one.
 *
 * **Details**
 *
 * All watchdogs hear it, however they are nested, also from fibers started inside. It may come for ever, so that a
 * {@link stall} listens to it only until its `maxSilence` is over. Without a watchdog, and after its end, it does nothing.
 *
 * **Example** (Pings between two parts)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { Deadline } from "effect-resilience"
 *
 * const ping = Effect.andThen(Effect.sleep("10 millis"), Deadline.beat)
 * const thinking = Stream.fromEffect(Effect.as(Effect.repeat(ping, { times: 9 }), "answer"))
 *
 * await Effect.runPromise(thinking.pipe(Deadline.stall("80 millis"), Stream.mkString)) // => "answer"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const beat: Effect.Effect<void> = heartbeat.alive

/**
 * Runs an effect as if no deadline were around it: no guard inside gives up for lack of time.
 *
 * **When to use**
 *
 * Use it for what has to be done after a deadline too, such as a finalizer that calls something with retries, and for
 * what outlives the call, such as a fiber started with `Effect.forkDetach`.
 *
 * **Gotchas**
 *
 * It does not keep the work from being interrupted when the deadline is over: what must not be has
 * `Effect.uninterruptible` around it, as always, and the deadline then waits for it.
 *
 * **Example** (Writing the journal whatever the time)
 *
 * ```ts import.meta.vitest
 * import { Effect, Option } from "effect"
 * import { Deadline } from "effect-resilience"
 *
 * const write = Deadline.remaining // a write to a journal, with its own retries
 *
 * const program = Effect.uninterruptible(Deadline.unbounded(write)).pipe(Deadline.within("10 seconds"))
 *
 * await Effect.runPromise(program) // => Option.none()
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const unbounded = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(self, Current, undefined)

const makeWithin = (duration: Duration.Input, options: Options = {}) => {
  const { after, name, timeouts } = limit("Deadline.within", "duration", duration, 0, options.name ?? "deadline")

  const exceeded = (started: boolean) => withoutStack(() => new DeadlineExceeded({ name, after, started }))
  const announce = ({ started }: DeadlineExceeded) =>
    Effect.andThen(
      Effect.annotateCurrentSpan({
        "deadline.name": name,
        "deadline.after_millis": timeouts.millis,
        "deadline.started": started
      }),
      Telemetry.emit(() => ({ _tag: "DeadlineExceeded", name, afterMillis: timeouts.millis, started }))
    )
  const stopped = () => exceeded(true)
  const refuse = Effect.suspend(() => {
    const error = exceeded(false)
    return Effect.andThen(announce(error), Effect.fail(error))
  })

  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | DeadlineExceeded, R> =>
    Effect.contextWith((context: Context.Context<R>): Effect.Effect<A, E | DeadlineExceeded, R> => {
      const now = millisIn(context)
      const outer = Context.get(context, Current) ?? Infinity
      const own = now + timeouts.millis
      if (Math.min(own, outer) - now <= rounding) return refuse
      // Of two that end at the same time it is the outer one's, too: whoever set it hears of it.
      if (outer - own <= rounding) return self
      return timedIn(Context.add(context, Current, own), self, timeouts, stopped, { startedAt: now, announce })
    })
}

/**
 * Allows an effect a time for everything: tries, delays, queues and hedges. When it is over, the work is stopped and
 * fails with `DeadlineExceeded`.
 *
 * **Details**
 *
 * Guards inside know the time that is left ({@link remaining}) and start nothing that cannot end in time. The guards of
 * this toolkit do; so does every fiber started inside.
 *
 * Of nested deadlines the one that is over first holds. One that would be over later than the one around it, or at the
 * same time, is not set at all: it is the outer one that interrupts the work, and its error is what the caller of the
 * outer one gets. The inner `DeadlineExceeded` is in the type all the same, because it depends on the time of day which
 * of them is first; but nothing inside can catch the outer one's.
 *
 * Where nothing is left, or the duration is zero, nothing is started, and `started` in the error is false. Throws
 * `Fault.InvalidConfig` for what is no duration of zero or more, or has no end.
 *
 * `Telemetry` gets `DeadlineExceeded`; the span around gets `deadline.name`, `deadline.after_millis` and
 * `deadline.started`.
 *
 * **Gotchas**
 *
 * A callback or a promise that does not say how to stop goes on, and nobody hears how it ends. An inner deadline that is
 * not set stops nothing: where its work is in an uninterruptible region inside of the outer one, the outer one waits.
 *
 * **Example** (Answering in time, retries included)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Backoff, Deadline, Fault, Retry } from "effect-resilience"
 *
 * const down = { [Fault.verdictOf]: Fault.transient, _tag: "Down" } as const
 * const everyMillisecond = Retry.policy({ backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 1_000_000 })
 * const everyMinute = Retry.policy({ backoff: Backoff.constant({ delay: "1 minute" }) })
 *
 * const hanging = Effect.never.pipe(Retry.apply(everyMillisecond), Deadline.within("5 millis"), Effect.flip)
 * const failing = Effect.fail(down).pipe(Retry.apply(everyMinute), Deadline.within("5 seconds"), Effect.flip)
 *
 * const error = await Effect.runPromise(hanging)
 * error._tag // => "DeadlineExceeded"
 * // at once: a minute is more than there is left
 * await Effect.runPromise(failing) // => down
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function within(
  duration: Duration.Input,
  options?: Options
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | DeadlineExceeded, R>
export function within<A, E, R>(
  self: Effect.Effect<A, E, R>,
  duration: Duration.Input,
  options?: Options
): Effect.Effect<A, E | DeadlineExceeded, R>
export function within(...args: EffectFirst | EffectLast): unknown {
  return isEffectFirst(args) ? makeWithin(args[1], args[2])(args[0]) : makeWithin(args[0], args[1])
}

const makeAttempt = (duration: Duration.Input, options: Options = {}) => {
  const { after, name } = limit("Deadline.attempt", "duration", duration, "1 millis", options.name ?? "attempt")
  const attempt = internalAttempt.make(after, name)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | AttemptTimeout, R> =>
    Effect.contextWith((context: Context.Context<R>) => internalAttempt.bounded(attempt, context, self))
}

/**
 * Allows an effect a time for one try. When it is over, the work is stopped and fails with `AttemptTimeout`.
 *
 * **When to use**
 *
 * Use it inside of `Retry`, `Hedge` and a circuit, so that a call that hangs is a failure that they see; and
 * {@link within} for the time of all of it.
 *
 * **Details**
 *
 * The time counts from when the work first waits for something. Does not change what guards inside think is left. Throws
 * `Fault.InvalidConfig` for what is no duration of at least 1 millisecond, or has no end.
 *
 * `Telemetry` gets `AttemptTimedOut`; the span around gets `attempt.name` and `attempt.timeout_millis`.
 *
 * **Example** (Trying again what hangs)
 *
 * ```ts import.meta.vitest
 * import { Effect, Ref } from "effect"
 * import { Backoff, Deadline, Retry } from "effect-resilience"
 *
 * const policy = Retry.policy({ backoff: Backoff.constant({ delay: "1 millis" }) })
 *
 * const program = Effect.gen(function*() {
 *   const calls = yield* Ref.make(0)
 *   const call = Effect.flatMap(
 *     Ref.updateAndGet(calls, (n) => n + 1),
 *     (n) => n === 1 ? Effect.never : Effect.succeed(`answer ${n}`)
 *   )
 *   return yield* call.pipe(Deadline.attempt("5 millis", { name: "search" }), Retry.apply(policy))
 * })
 *
 * await Effect.runPromise(program) // => "answer 2"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function attempt(
  duration: Duration.Input,
  options?: Options
): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | AttemptTimeout, R>
export function attempt<A, E, R>(
  self: Effect.Effect<A, E, R>,
  duration: Duration.Input,
  options?: Options
): Effect.Effect<A, E | AttemptTimeout, R>
export function attempt(...args: EffectFirst | EffectLast): unknown {
  return isEffectFirst(args) ? makeAttempt(args[1], args[2])(args[0]) : makeAttempt(args[0], args[1])
}

/** Runs an effect under a watchdog, and says so when it was too silent. */
const makeSilence = (
  where: string,
  idle: Duration.Input,
  silent: string,
  longest?: (idle: Duration.Duration) => Duration.Duration
) => {
  const { after, name, timeouts } = limit(where, "idle", idle, "1 millis", silent)
  const maxSilence = longest?.(after)
  const maxMillis = maxSilence === undefined ? undefined : Duration.toMillis(maxSilence)
  const stopped = (waited: number) => {
    const idle = maxSilence !== undefined && waited >= Duration.toMillis(maxSilence) - rounding ? maxSilence : after
    return withoutStack(() => new Stalled({ name, idle }))
  }
  const announce = ({ idle }: Stalled) => {
    const idleMillis = Duration.toMillis(idle)
    return Effect.andThen(
      Effect.annotateCurrentSpan({ "stalled.name": name, "stalled.idle_millis": idleMillis }),
      Telemetry.emit(() => ({ _tag: "Stalled", name, idleMillis }))
    )
  }
  return {
    watched: () => new heartbeat.Watched(maxMillis),
    guard: <A, E, R>(self: Effect.Effect<A, E, R>, watched: heartbeat.Watched): Effect.Effect<A, E | Stalled, R> =>
      Effect.contextWith((context: Context.Context<R>) => {
        const timed = timedIn(watched.enter(context), self, timeouts, stopped, { announce, onStart: watched.start })
        return watched.isWatched ? Effect.tap(timed, watched.passed) : timed
      })
  }
}

type StreamFirst = [
  self: Stream.Stream<unknown, unknown, unknown>,
  idle?: Duration.Input | undefined,
  options?: StallOptions | undefined
]
type StreamLast = [idle?: Duration.Input | undefined, options?: StallOptions | undefined]

const isStreamFirst = (args: StreamFirst | StreamLast): args is StreamFirst => Stream.isStream(args[0])

const makeStall = (idle: Duration.Input = defaultIdle, options: StallOptions = {}) => {
  const where = "Deadline.stall"
  const silence = makeSilence(where, idle, options.name ?? "stream", (idle) =>
    options.maxSilence === undefined
      ? Duration.max(idle, Duration.fromInputUnsafe(defaultMaxSilence))
      : config.duration(where, "maxSilence", options.maxSilence, { minimum: idle }))
  // Not Stream.timeoutOrElse: it counts with the wall clock, and pulls ahead of the consumer.
  return <A, E, R>(self: Stream.Stream<A, E, R>): Stream.Stream<A, E | Stalled, R> => {
    const source = Stream.toChannel(self)
    return Stream.fromChannel(
      Channel.fromTransform((_: unknown, scope) =>
        Effect.gen(function*() {
          const watched = silence.watched()
          yield* Scope.addFinalizer(scope, Effect.sync(() => watched.end()))
          const pull = yield* silence.guard(Channel.toPullScoped(source, scope), watched)
          return silence.guard(pull, watched)
        })
      )
    )
  }
}

/**
 * Fails a stream with `Stalled` when nothing comes for too long while somebody waits for it.
 *
 * **When to use**
 *
 * Use it for answers that come in parts. The timeouts of SDKs and HTTP clients are over with the headers, or count the
 * whole answer, and do not see a stream that stands still.
 *
 * **Details**
 *
 * Default: 30 seconds. Counts from the opening of the stream, from each part to the next, and from each sign of life
 * ({@link beat}), which bytes from `Anthropic` and `Letta` are, too; but without a part it is over after `maxSilence`,
 * by default 10 minutes. `idle` in the error is the limit that was passed.
 *
 * The time that the consumer takes between two parts does not count, so that a slow consumer is not a stalled provider.
 * The source is interrupted and its finalizers have run before the stream fails. A part is progress for the watchdogs
 * around, also where it does not come as far as them. Throws `Fault.InvalidConfig` for what is no duration of at least 1
 * millisecond, or has no end, and for a `maxSilence` below `idle`.
 *
 * `Telemetry` gets `Stalled`; the span around gets `stalled.name` and `stalled.idle_millis`.
 *
 * **Gotchas**
 *
 * Each part is pulled in a fiber of its own: what the source starts with `Effect.forkChild` while it is being pulled ends
 * with that pull. Operators of `Stream` use the stream's scope, as `Effect.forkScoped` does, and are not concerned.
 *
 * **Example** (Not waiting for ever for the next part)
 *
 * ```ts import.meta.vitest
 * import { Effect, Stream } from "effect"
 * import { Deadline } from "effect-resilience"
 *
 * const parts: Array<string> = []
 *
 * const program = Stream.concat(Stream.make("Once", "upon"), Stream.never).pipe(
 *   Deadline.stall("10 millis", { name: "model" }),
 *   Stream.runForEach((part) => Effect.sync(() => parts.push(part))),
 *   Effect.flip
 * )
 *
 * const error = await Effect.runPromise(program)
 * error._tag // => "Stalled"
 * parts // => ["Once", "upon"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function stall(
  idle?: Duration.Input,
  options?: StallOptions
): <A, E, R>(self: Stream.Stream<A, E, R>) => Stream.Stream<A, E | Stalled, R>
export function stall<A, E, R>(
  self: Stream.Stream<A, E, R>,
  idle?: Duration.Input,
  options?: StallOptions
): Stream.Stream<A, E | Stalled, R>
export function stall(...args: StreamFirst | StreamLast): unknown {
  return isStreamFirst(args) ? makeStall(args[1], args[2])(args[0]) : makeStall(args[0], args[1])
}

/**
 * Runs an effect that says again and again that it is alive, and stops it with `Stalled` when it does not for too long.
 *
 * **When to use**
 *
 * Use it for work that takes as long as it takes and reports progress: a download, a tool with a progress callback, a
 * client that is no `Stream`.
 *
 * **Details**
 *
 * The effect is given `beat`, to be run whenever something came; after the end it does nothing. Signs of life from inside
 * ({@link beat}) and the parts of a stream under {@link stall} are heard as well. The watchdogs around hear all of it. The
 * default of `idle` is 30 seconds, counted from when the work first waits; for how long the work may go on beating is for
 * {@link within} and {@link attempt} to say. Throws `Fault.InvalidConfig` for an option that cannot work.
 *
 * `Telemetry` gets `Stalled`; the span around gets `stalled.name` and `stalled.idle_millis`.
 *
 * **Example** (Working on for as long as there is progress)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Deadline } from "effect-resilience"
 *
 * const program = Deadline.watch(
 *   { idle: "100 millis", name: "import" },
 *   (beat) => Effect.andThen(Effect.sleep("1 millis"), beat).pipe(Effect.repeat({ times: 9 }), Effect.as("done"))
 * )
 *
 * await Effect.runPromise(program) // => "done"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const watch = <A, E, R>(
  options: WatchOptions,
  work: (beat: Effect.Effect<void>) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | Stalled, R> => {
  const silence = makeSilence("Deadline.watch", options.idle ?? defaultIdle, options.name ?? "work")
  return Effect.suspend(() => {
    const watched = silence.watched()
    const beat = Effect.sync(() => watched.progress())
    return Effect.onExit(
      silence.guard(Effect.suspend(() => work(beat)), watched),
      () => Effect.sync(() => watched.end())
    )
  })
}
