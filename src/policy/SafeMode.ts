/**
 * Answers with a safe response what has failed several times in a row, until it works again.
 *
 * Every call is still tried. As long as a key has failed less often than the limit, its errors go to the caller; from
 * there on a call that fails is answered with the safe response of its key, and the first call that succeeds ends that.
 *
 * **Details**
 *
 * The difference to `Fallback`: a fallback answers every failure at once, and safe mode only what keeps failing, and it
 * shows in `states`, where a health check can read it. Put it around everything else as the last resort, with a
 * `CircuitBreaker` inside, which stops calling what is down.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import { dual, identity } from "effect/Function"
import * as Layer from "effect/Layer"
import * as PubSub from "effect/PubSub"
import * as References from "effect/References"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Take from "effect/Take"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import { millisIn } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import type * as Fallback from "./Fallback.ts"
import { onlyFailure } from "./internal/failure.ts"
import { answerFirst, answerWith } from "./internal/fallbackAnswer.ts"
import * as keys from "./internal/safeModeKeys.ts"

const module = "SafeMode"

/**
 * What is known about one key: whether it is in safe mode, and how many calls in a row have failed.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly key: string
  readonly active: boolean
  readonly failures: number
}

/**
 * When a key goes into safe mode.
 *
 * **Details**
 *
 * - `failures`: after how many failed calls in a row; default 3.
 * - `countsAsFailure`: which errors are failed calls; default: all, whatever their verdict, since whoever asked has no
 *   answer, and counting too much does no harm where every call is tried. That includes what a guard of ours refused,
 *   such as an open circuit, which so keeps being answered. An error that does not count is never answered with the
 *   safe response, and changes nothing.
 *
 * @category models
 * @since 0.1.0
 */
export interface KeyOptions {
  readonly failures?: number | undefined
  readonly countsAsFailure?: ((verdict: Fault.Verdict, error: unknown) => boolean) | undefined
}

/**
 * Options of {@link make} and {@link layer}: how every key behaves, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above, and those of {@link guard}, for the keys named.
 * - `maxKeys`: how many keys without a running call are remembered; default 10,000. Only those are that have failed, or
 *   are in safe mode. The ones unused for longest make room, those not in safe mode first.
 * - `idleTimeToLive`: when the failures of an unused key that is not in safe mode are forgotten; default one hour.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends KeyOptions {
  readonly keys?: Readonly<Record<string, KeyOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

/**
 * Options of {@link guard}.
 *
 * **Details**
 *
 * - `safe`: what answers in safe mode. Let it need nothing that can fail.
 * - `label`: its label as the source of the answer; default `"safe"`.
 * - `failures`, `countsAsFailure`: as in {@link KeyOptions}, for keys that the layer does not configure by name.
 *
 * @category models
 * @since 0.1.0
 */
export interface GuardOptions<out A, out E, out R, out Label extends string = "safe"> extends KeyOptions {
  readonly safe: Effect.Effect<A, E, R>
  readonly label?: Label | undefined
}

/**
 * The answer of a guarded call: its own, or the safe response.
 *
 * @category models
 * @since 0.1.0
 */
export type Answered<A, B, Label extends string> = Fallback.Answer<
  Fallback.ValueOf<A> | B,
  Fallback.SourceOf<A, "primary"> | Label
>

/**
 * Counts per key the calls that fail in a row.
 *
 * **Details**
 *
 * - `guard(key, options)` runs an effect and answers its failure while the key is in safe mode.
 * - `state(key)` reads a key, `states` all that have failed or are in safe mode. Neither changes anything.
 * - `changes` emits from now on when a key goes into safe mode or leaves it, and ends with the service; a slow reader
 *   loses the oldest.
 * - `enter(key)` puts a key into safe mode before it has failed so often; a success still ends it.
 * - `reset(key)` ends safe mode and forgets the failures.
 *
 * How a call ends counts only if it began after the key last succeeded, was reset, or went into safe mode: a call from
 * before says nothing about now. An interrupted call counts for nothing.
 *
 * **Example** (Showing in a health check what is in safe mode)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { SafeMode } from "effect-resilience"
 *
 * const unhealthy = Effect.gen(function*() {
 *   const safeMode = yield* SafeMode.SafeMode
 *   yield* safeMode.enter("billing agent")
 *   const states = yield* safeMode.states
 *   return states.filter((state) => state.active).map((state) => state.key)
 * }).pipe(Effect.provide(SafeMode.layer()))
 *
 * await Effect.runPromise(unhealthy) // => ["billing agent"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class SafeMode extends Context.Service<SafeMode, {
  readonly guard: <B, E2, R2, const Label extends string = "safe">(
    key: string,
    options: GuardOptions<B, E2, R2, Label>
  ) => <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<Answered<A, B, Label>, E | E2, R | R2>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
  readonly changes: Stream.Stream<State>
  readonly enter: (key: string) => Effect.Effect<void>
  readonly reset: (key: string) => Effect.Effect<void>
}>()("effect-resilience/policy/SafeMode") {}

const checked = (options: KeyOptions, path = ""): KeyOptions => {
  if (options.failures !== undefined) config.integer(module, `${path}failures`, options.failures, 1)
  return options
}

const checkedGuard = (options: GuardOptions<unknown, unknown, unknown, string>): void => {
  checked(options, "guard.")
  if (options.label !== undefined) config.nonEmpty(module, "guard.label", options.label)
}

const isAlways = () => true

const outcomeOf = (
  exit: Exit.Exit<unknown, unknown>,
  counts: (verdict: Fault.Verdict, error: unknown) => boolean,
  context: Context.Context<never>
): keys.Outcome => {
  if (Exit.isSuccess(exit)) return "success"
  const failed = exit.cause.reasons.some((reason) =>
    Cause.isDieReason(reason) ||
    (Cause.isFailReason(reason) && counts(Fault.classifyIn(context, reason.error), reason.error))
  )
  return failed ? "failure" : "ignored"
}

/**
 * Creates a `SafeMode` that keeps its keys in this process.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * **Example** (Counting on one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { SafeMode } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const safeMode = yield* SafeMode.make({ failures: 1 })
 *   const answer = yield* Effect.fail("down").pipe(safeMode.guard("search", { safe: Effect.succeed("later") }))
 *   return answer.value
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => "later"
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make: (
  options?: Options
) => Effect.Effect<SafeMode["Service"], never, Scope.Scope> = Effect.fnUntraced(function*(options = {}) {
  const base = checked(options)
  const byName = new Map(
    Object.entries(options.keys ?? {}).map(([key, own]) => [key, checked(own, `keys[${JSON.stringify(key)}].`)])
  )
  const settingsOf = (key: string, caller: KeyOptions) => {
    const named = byName.get(key)
    return {
      threshold: named?.failures ?? caller.failures ?? base.failures ?? keys.defaults.failures,
      counts: named?.countsAsFailure ?? caller.countsAsFailure ?? base.countsAsFailure ?? isAlways
    }
  }

  const hub = yield* PubSub.sliding<Take.Take<State>>(256)
  yield* Effect.addFinalizer(() => PubSub.end(hub, Exit.void))

  // Filled in the very step that makes a change and emptied in order: readers see changes as they happened, whichever
  // fiber gets to publish first and whichever is interrupted before it does.
  let unpublished: Array<State> = []
  let fresh: Array<State> = []

  const states = new keys.SafeModeKeys({
    maxKeys: config.integer(module, "maxKeys", options.maxKeys ?? keys.defaults.maxKeys, 1),
    idleTimeToLive: Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? keys.defaults.idleTimeToLive, {
        minimum: "1 millis"
      })
    )
  }, (change) => fresh.push(change))

  const publish = Effect.suspend(() => {
    const [first, ...rest] = unpublished
    unpublished = []
    return first === undefined ? Effect.void : Effect.asVoid(PubSub.publish(hub, [first, ...rest]))
    // A fiber that yielded between taking and publishing would let another one publish first what came later.
  }).pipe(Effect.provideService(References.PreventSchedulerYield, true))

  const announce = (context: Context.Context<never>): Effect.Effect<void> => {
    const changes = fresh
    if (changes.length === 0) return Effect.void
    fresh = []
    unpublished.push(...changes)
    const heard = changes.map((change) => Telemetry.emitIn(context, () => ({ _tag: "SafeModeChanged", ...change })))
    return Effect.andThen(publish, Effect.all(heard, { discard: true }))
  }

  const byHand = (step: (now: number) => void): Effect.Effect<void> =>
    Effect.uninterruptible(Effect.contextWith((context: Context.Context<never>) => {
      step(millisIn(context))
      return announce(context)
    }))

  const guard = <B, E2, R2, Label extends string>(key: string, options: GuardOptions<B, E2, R2, Label>) => {
    checkedGuard(options)
    const { counts, threshold } = settingsOf(key, options)
    return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<Answered<A, B, Label>, E | E2, R | R2> =>
      Effect.suspend(() => {
        let call: keys.Ticket | undefined
        let isSafe = false

        const settle = (exit: Exit.Exit<A, E>) =>
          Effect.contextWith((context: Context.Context<never>) => {
            if (call === undefined) return Effect.void
            let outcome: keys.Outcome = "ignored"
            try {
              outcome = outcomeOf(exit, counts, context)
            } finally {
              // Also when the user's classifier throws: the call dies of it, and is no longer running all the same.
              const active = states.settle(call, outcome, threshold, millisIn(context))
              isSafe = active && outcome === "failure"
            }
            return announce(context)
          })

        // The finalizer is in place before the call is entered, and not after: no interruption fits in between.
        const watched = Effect.onExit(
          Effect.contextWith((context: Context.Context<R>) => {
            call = states.begin(key, millisIn(context))
            return self
          }),
          settle
        )

        return Effect.matchCauseEffect(watched, {
          onSuccess: (value) => answerFirst("primary", value),
          onFailure: (cause): Effect.Effect<Fallback.Answer<B, Label>, E | E2, R2> => {
            const failure = isSafe ? onlyFailure(cause) : undefined
            if (failure === undefined) return Effect.failCause(cause)
            return Effect.flatMap(
              Fault.classify(failure.error),
              (verdict) => answerWith(labelOf(options), options.safe, { failure, verdict }, identity)
            )
          }
        })
      })
  }

  return SafeMode.of({
    guard,
    state: (key) =>
      Effect.contextWith((context: Context.Context<never>) => Effect.sync(() => states.state(key, millisIn(context)))),
    states: Effect.contextWith((context: Context.Context<never>) =>
      Effect.sync(() => states.states(millisIn(context)))
    ),
    changes: Stream.fromPubSubTake(hub),
    enter: (key) => byHand((now) => states.enter(key, now)),
    reset: (key) => byHand((now) => states.reset(key, now))
  })
})

// without a label the type parameter is its default
const labelOf = <Label extends string>(options: GuardOptions<unknown, unknown, unknown, Label>): Label =>
  options.label ?? "safe" as Label

/**
 * Provides a `SafeMode` that keeps its keys in this process.
 *
 * **Details**
 *
 * By default a key goes into safe mode after 3 failed calls in a row. Building the layer dies with `InvalidConfig` when
 * an option is out of range.
 *
 * **Example** (Waiting longer with one key, and letting callers see what is their own mistake)
 *
 * ```ts import.meta.vitest
 * import { SafeMode } from "effect-resilience"
 *
 * export const Live = SafeMode.layer({
 *   countsAsFailure: (verdict) => verdict._tag !== "Permanent" && verdict._tag !== "Refused",
 *   keys: { "flaky agent": { failures: 10 } }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<SafeMode> => Layer.effect(SafeMode, make(options))

/**
 * Provides a `SafeMode` that counts nothing: every failure goes to its caller.
 *
 * **Example** (Testing without safe mode)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { SafeMode } from "effect-resilience"
 *
 * const search = SafeMode.guard(Effect.fail("down"), "search", { safe: Effect.succeed("later"), failures: 1 })
 *
 * await Effect.runPromise(Effect.flip(Effect.provide(search, SafeMode.layerNoop))) // => "down"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<SafeMode> = Layer.succeed(SafeMode, {
  guard: () => (self) => Effect.flatMap(self, (value) => answerFirst("primary", value)),
  state: (key) => Effect.succeed({ key, active: false, failures: 0 }),
  states: Effect.succeed([]),
  changes: Stream.empty,
  enter: () => Effect.void,
  reset: () => Effect.void
})

/**
 * Answers the failures of an effect with a safe response while its key is in safe mode.
 *
 * **When to use**
 *
 * Use it where a user must get some answer although everything is down, and errors are wanted for a single failure: an
 * agent that hands over to a person, a job that is put off, a reply that says so.
 *
 * **Details**
 *
 * The answer says where it came from: its source is `"primary"`, or that of an `Answer` inside, or the label. It is
 * degraded where it is the safe response, and keeps the failure. The call that fails as the last of the row is the first
 * to be answered so. All errors of the effect stay in the error type, since the first ones go to the caller; those of
 * `safe` join them. A defect counts as a failed call and is never answered; an interruption is neither.
 *
 * `Telemetry` gets `SafeModeChanged` when a key goes into safe mode or leaves it, and `FallbackUsed` for each answer.
 * Throws `Fault.InvalidConfig` for an empty label or `failures` under 1.
 *
 * **Example** (Answering the third failure in a row)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { SafeMode } from "effect-resilience"
 *
 * const reply = Effect.fail("the model is down").pipe(
 *   SafeMode.guard("support agent", { safe: Effect.succeed("A person will answer you today.") })
 * )
 *
 * const program = Effect.gen(function*() {
 *   const first = yield* Effect.flip(reply)
 *   yield* Effect.flip(reply)
 *   const third = yield* reply
 *   return [first, third.source, third.value]
 * }).pipe(Effect.provide(SafeMode.layer({ failures: 3 })))
 *
 * await Effect.runPromise(program) // => ["the model is down", "safe", "A person will answer you today."]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const guard: {
  <B, E2, R2, const Label extends string = "safe">(
    key: string,
    options: GuardOptions<B, E2, R2, Label>
  ): <A, E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<Answered<A, B, Label>, E | E2, R | R2 | SafeMode>
  <A, E, R, B, E2, R2, const Label extends string = "safe">(
    self: Effect.Effect<A, E, R>,
    key: string,
    options: GuardOptions<B, E2, R2, Label>
  ): Effect.Effect<Answered<A, B, Label>, E | E2, R | R2 | SafeMode>
} = dual(
  3,
  <A, E, R, B, E2, R2, const Label extends string>(
    self: Effect.Effect<A, E, R>,
    key: string,
    options: GuardOptions<B, E2, R2, Label>
  ): Effect.Effect<Answered<A, B, Label>, E | E2, R | R2 | SafeMode> => {
    checkedGuard(options)
    return Effect.contextWith((context: Context.Context<SafeMode>) =>
      Context.get(context, SafeMode).guard(key, options)(self)
    )
  }
)
