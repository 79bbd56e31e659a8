/**
 * The rate part of the governor of a provider: keeps all calls of a key within its limits on requests and tokens, so that
 * few are refused, nothing of the limit is left unused, and nobody starves.
 *
 * Retries decide when one call is tried again. How many calls a limited provider answers is decided by what all of them
 * do together, and that is one quota for each provider, shared by every call.
 *
 * **Details**
 *
 * A call reserves what it is thought to cost before it is sent, and settles what it really cost afterwards. Limits are
 * balances that refill continuously up to a burst. What is known of them comes from three sources:
 *
 * - options, where somebody knows the limits: what is sent never exceeds them;
 * - rate-limit headers of answers, which set limits that nobody configured and correct the balance, never upwards. Those
 *   of a call that was sent before the one that the balance was last corrected by, or before the last refusal, are old
 *   news and are ignored;
 * - refusals. One that says `Throttled` or `Overloaded` closes the key for everybody until the time it says. Those who
 *   wait for that time start spread out after it, at a learned rate. Refusals of calls that were sent before the gate was
 *   closed change nothing. An overload that says no time is left to an `AdaptiveLimit` inside of the quota, where there
 *   is one: how many calls a provider takes at once says nothing of how many it takes in a minute.
 *
 * The learned rate is what is left where several processes share a limit and nothing else, or where no header is sent:
 * what was let through between two refusals. It goes on a little below that, comes back to it and carefully above, as
 * CUBIC does, and never grows while it is not used. Where headers show that others draw on the same limit, each process
 * sends in proportion to what is left of it, so that all of them send the same and none is refused.
 *
 * Calls are sent in the order in which they came, `"interactive"` ones before `"batch"` ones; a batch call goes among the
 * interactive ones as if it had come `ageAfter` later, and so waits no longer than that for those who came after it.
 * Where a limit or a bulkhead inside is what calls wait for, they go in the order in which the quota has let them through.
 * What such a call has reserved is given back, and reserved anew when it has its slot: it counts at the time at which it is
 * really sent, and keeps to a gate that was closed meanwhile. A policy sees to that whatever keys its parts have. Guards
 * that are put together by hand have to have the key of the quota for it.
 *
 * @since 0.1.0
 */
// effect/persistence RateLimiter limits one number per key, by a window or a bucket, and lets nobody out of the queue that
// its delays make: no joint limit on requests and tokens, nothing settled or given back, no order, no bound on those who
// wait, none on how long, no correction by headers, and after a refusal everybody's delay ends at the same instant. What
// its adaptive part learns is one window after each refusal, at the full rate until it is over.
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import type * as RateLimiter from "effect/persistence/RateLimiter"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Fault from "../Fault.ts"
import { millisIn } from "../internal/monotonic.ts"
import * as Telemetry from "../Telemetry.ts"
import * as amounts from "./internal/quotaAmounts.ts"
import * as quotas from "./internal/quotaEngine.ts"
import { Current, type Sending } from "./internal/quotaSending.ts"
import * as settings from "./internal/quotaSettings.ts"
import * as stores from "./internal/quotaStore.ts"
import * as told from "./internal/quotaTold.ts"
import { withoutStack } from "./internal/withoutStack.ts"

/**
 * What a limit is about. `tokens` is input and output together, for providers that limit the sum.
 *
 * @category models
 * @since 0.1.0
 */
export type Dimension = amounts.Dimension

/**
 * Who goes first: `"interactive"` before `"batch"`.
 *
 * @category models
 * @since 0.1.0
 */
export type Priority = settings.Priority

/**
 * The priority of the calls around that do not bring one of their own. Default: `"interactive"`.
 *
 * **Example** (Running all of a job behind the people)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Quota } from "effect-resilience"
 *
 * const nightly = Effect.succeed("done").pipe(
 *   Quota.withQuota("anthropic", { requests: 50 }),
 *   Effect.provideService(Quota.CurrentPriority, "batch"),
 *   Effect.provide(Quota.layer())
 * )
 *
 * await Effect.runPromise(nightly) // => "done"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const CurrentPriority: Context.Reference<Priority> = Context.Reference(
  "effect-resilience/policy/Quota/CurrentPriority",
  { defaultValue: (): Priority => "interactive" }
)

/**
 * What the calls around are thought to cost that do not bring a cost of their own: an amount, or a function that says so
 * when a call comes. Default: none.
 *
 * **When to use**
 *
 * Use it where the quota is part of something that is made once, such as a policy, and every call costs something else.
 *
 * **Example** (Saying what one call costs)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Policy, Quota } from "effect-resilience"
 *
 * const careful = Policy.make({ name: "anthropic", quota: { outputTokens: { limit: 8_000, per: "1 day" } } })
 *
 * const program = Effect.never.pipe(
 *   Policy.apply(careful),
 *   Effect.provideService(Quota.CurrentCost, { outputTokens: 3_000 }),
 *   Effect.forkChild({ startImmediately: true }),
 *   Effect.andThen(Quota.state("anthropic")),
 *   Effect.map(({ limits }) => Math.round(limits.outputTokens?.available ?? 0)),
 *   Effect.provide(Policy.layer)
 * )
 *
 * await Effect.runPromise(program) // => 5000
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const CurrentCost: Context.Reference<Cost | (() => Cost) | undefined> = quotas.CurrentCost

/**
 * What a call costs, or has cost.
 *
 * **Details**
 *
 * - `requests`: default 1.
 * - `inputTokens`: without those that the provider read from its cache.
 * - `cachedInputTokens`: those. They count only where a key says so (`countCachedInput`): Anthropic does not limit them.
 * - `outputTokens`.
 *
 * What an estimate leaves out is what calls of the key have usually cost so far. What a usage report leaves out is what
 * was estimated.
 *
 * @category models
 * @since 0.1.0
 */
export interface Cost extends amounts.Cost {}

/**
 * A limit: `limit` in the time `per` (default one minute), and `burst` at once (default: as much as `limit`; of requests
 * at least 1).
 *
 * @category models
 * @since 0.1.0
 */
export interface Limit extends settings.LimitInput {}

/**
 * How one key is limited.
 *
 * **Details**
 *
 * - `requests`, `inputTokens`, `outputTokens`, `tokens`: a number for each minute, or a {@link Limit}. Those left out are
 *   learned from headers and refusals. A key of which nothing is known starts with 5 requests a second, twice as many
 *   every 1.5 seconds in which calls had to wait, up to 500.
 * - `countCachedInput`: whether input read from a cache counts as input; default `false`.
 * - `maxWait`: how long a call waits, the work itself not counted; default 1 minute. What could not be sent by then, by
 *   what is known, is refused at once. Where a rate is still growing, that counts. All waits of a call together keep to
 *   it: one that a limit or a bulkhead inside has held back, and that the limits do not allow any more when it has its
 *   slot, waits for what is left of it, or is refused. What it was held back does not count: those guards have a
 *   `maxWait` of their own.
 * - `maxQueue`: how many wait; default 1,000. With 0 nobody waits.
 * - `ageAfter`: how much later than it came a batch call stands in the queue; default 30 seconds.
 * - `maxGate`: for how long a refusal may close the key, whatever it says; default 5 minutes.
 *
 * @category models
 * @since 0.1.0
 */
export interface QuotaOptions extends settings.QuotaOptions {}

/**
 * Options of one call: those of the key, and what is of the call alone.
 *
 * **Details**
 *
 * - `cost`: what it is thought to cost, or a function that says so when the call comes. Default: {@link CurrentCost}, else
 *   one request, and what calls of the key have usually cost. Where a limit on tokens is configured, say it: as long as no
 *   call of the key has ended, nothing is known of what they cost, and those that do not say it count as no tokens, however
 *   many of them are sent. `ResilientModel` says it of its calls.
 * - `usage`: reads from a result what it has really cost. Default: {@link usageOf}.
 * - `observe`: reads from the end of a call what the provider has told of its limits. Default: {@link observationOf} of the
 *   result or the failure.
 * - `priority`: default {@link CurrentPriority}.
 * - `maxWait` is this caller's own, also where those of another one hold for the rest.
 *
 * @category models
 * @since 0.1.0
 */
export interface CallOptions<in A = unknown> extends quotas.CallOptions<A> {}

/**
 * Options of {@link make} and {@link layer}: what holds for every key, and what single keys do differently.
 *
 * **Details**
 *
 * - `keys`: options that replace those above for the keys named. What a caller says of such a key does nothing, its
 *   limits, too: name here all limits that the key has. Where a caller has one that is not named here, that is logged as
 *   a warning, once for each key. `maxWait` is the caller's own, unless it is named here.
 * - `maxKeys`: how many keys are remembered; default 10,000. The ones unused for longest make room, a tenth at a time. A
 *   key with a call, a closed gate or a limit that has not refilled is never forgotten, so there are more while so many
 *   are.
 * - `idleTimeToLive`: how long an unused key is remembered at least; default one hour.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends settings.ServiceOptions {}

/**
 * What a provider told of one limit: its size, what is left of it, and when all of it is back (a time, or in how long).
 * What cannot be is not believed: a limit under 1, less than nothing that is left, and a time of more than a day.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observed extends told.Observed {}

/**
 * What a provider told of its limits. `retryAfter` closes the key for so long.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observation extends told.Observation {}

/**
 * What is known of one key.
 *
 * **Details**
 *
 * `running` calls have been sent and not ended, `waiting` ones have not been sent. Nothing starts for `gatedFor`.
 * `requestsPerMinute` is the learned rate, where one holds calls back. `limits` has those that are configured or learned,
 * with what is `available` of each, which is negative where more was used than was reserved.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  readonly key: string
  readonly running: number
  readonly waiting: number
  readonly gatedFor: Duration.Duration
  readonly requestsPerMinute: number | undefined
  readonly limits: {
    readonly [D in Dimension]?: {
      readonly limit: number
      readonly per: Duration.Duration
      readonly burst: number
      readonly available: number
    }
  }
}

/**
 * Failure of a call that was not sent, because its key's limits do not allow it in time.
 *
 * **Details**
 *
 * - `TooLarge`: it costs more than the burst of a limit, and would never be sent.
 * - `WaitTooLong`: it could not be sent within `maxWait` or before the deadline around it. Nothing stays reserved.
 * - `QueueFull`: as many calls waited as may.
 *
 * `dimension` is the limit that holds it back, with what the call `needed` of it and what was `available`; it is left out
 * where that is a closed gate or the learned rate. `retryAfter` is when it could be sent, by what is known now.
 *
 * @category errors
 * @since 0.1.0
 */
export class QuotaExceeded extends Schema.TaggedError<QuotaExceeded>("effect-resilience/policy/Quota/QuotaExceeded")(
  "QuotaExceeded",
  {
    key: Schema.String,
    reason: Schema.Literals(["TooLarge", "WaitTooLong", "QueueFull"]),
    dimension: Schema.optionalKey(Schema.Literals(amounts.dimensions)),
    needed: Schema.optionalKey(Schema.Finite),
    available: Schema.optionalKey(Schema.Finite),
    retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
  }
) {
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return Fault.rejected(this.retryAfter)
  }
  override get message() {
    const words = { requests: "requests", inputTokens: "input tokens", outputTokens: "output tokens", tokens: "tokens" }
    const several = words[this.dimension ?? "requests"]
    const unit = this.needed === 1 ? several.slice(0, -1) : several
    const seen = this.dimension === undefined
      ? "the key sends no more at the moment, by a refusal or a learned rate"
      : `it needs ${this.needed} ${unit}, and ${Math.floor(this.available ?? 0)} are available`
    const when = this.retryAfter === undefined ? "" : `, again in ${Duration.format(this.retryAfter)}`
    switch (this.reason) {
      case "TooLarge":
        return `Quota "${this.key}" never allows this call and sent nothing (${seen} at most): ` +
          "make it smaller, or allow a larger burst"
      case "WaitTooLong":
        return `Quota "${this.key}" does not allow this call in time and sent nothing (${seen}${when}): ` +
          "allow more time, try again later, or fall back"
      case "QueueFull":
        return `Quota "${this.key}" has as many calls waiting as may and sent nothing (${seen}${when}): ` +
          "try again later, or fall back"
    }
  }
}

/**
 * What {@link reserve} has reserved, to be ended by one of its methods. The first one decides.
 *
 * **Details**
 *
 * - `settle(usage)`: the call has ended, and has cost so much; without a usage, what was reserved.
 * - `cancel`: the call was not sent. All of it is given back.
 * - `refused(error)`: the call has failed. The verdict of the error decides, as for {@link withQuota}.
 * - `observe(observation)`: what the provider told with the answer to this call, also before it has ended.
 *
 * @category models
 * @since 0.1.0
 */
export interface Reservation {
  readonly key: string
  readonly settle: (usage?: Cost) => Effect.Effect<void>
  readonly cancel: Effect.Effect<void>
  readonly refused: (error: unknown) => Effect.Effect<void>
  readonly observe: (observation: Observation) => Effect.Effect<void>
}

/**
 * Keeps the calls of a key within its limits.
 *
 * **Details**
 *
 * - `withQuota(key, options)` sends an effect when the key allows it: see {@link withQuota}.
 * - `reserve(key, options)` is the same for what is no single effect: see {@link reserve}.
 * - `observe(key, observation)` takes what was heard of a key outside of its calls.
 * - `state(key)` reads one key, `states` all that are remembered. Neither changes anything.
 *
 * @category services
 * @since 0.1.0
 */
export class Quota extends Context.Service<Quota, {
  readonly withQuota: <A = unknown>(
    key: string,
    options?: CallOptions<A>
  ) => <B extends A, E, R>(self: Effect.Effect<B, E, R>) => Effect.Effect<B, E | QuotaExceeded, R>
  readonly reserve: (key: string, options?: CallOptions) => Effect.Effect<Reservation, QuotaExceeded, Scope.Scope>
  readonly observe: (key: string, observation: Observation) => Effect.Effect<void>
  readonly state: (key: string) => Effect.Effect<State>
  readonly states: Effect.Effect<ReadonlyArray<State>>
}>()("effect-resilience/policy/Quota") {}

const refuse = (
  key: string,
  refusal: quotas.Refusal,
  waitedMillis: number,
  context: Context.Context<never>
): Effect.Effect<never, QuotaExceeded> => {
  const { available, dimension, needed, reason, retryAfterMillis } = refusal
  const error = withoutStack(() =>
    new QuotaExceeded({
      key,
      reason,
      ...(dimension === undefined ? {} : { dimension }),
      ...(needed === undefined ? {} : { needed }),
      ...(available === undefined ? {} : { available }),
      ...(retryAfterMillis === undefined || retryAfterMillis === Infinity
        ? {}
        : { retryAfter: Duration.millis(Math.ceil(Math.max(0, retryAfterMillis))) })
    })
  )
  const heard = Telemetry.emitIn(context, () => ({ _tag: "QuotaRejected", key, reason, waitedMillis }))
  return Effect.andThen(heard, Effect.fail(error))
}

/** What a call does when it is told that it may go, or of its refusal. */
const afterWaiting = <A, E, R>(
  engine: quotas.Engine,
  waiter: quotas.Waiter,
  outcome: quotas.Pass | quotas.Refusal,
  sent: (pass: quotas.Pass) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | QuotaExceeded, R> => {
  const { context, hadToWait, priority, share: { key }, waitedBefore } = waiter
  const waitedMillis = millisIn(context) - waiter.since
  if (!(outcome instanceof quotas.Pass)) return refuse(key, outcome, waitedBefore + waitedMillis, context)
  const heard = hadToWait
    ? Telemetry.emitIn(context, () => ({ _tag: "QuotaWaited", key, priority, waitedMillis }))
    : Effect.void
  const begun = Effect.suspend(() => {
    engine.begin(waiter)
    return sent(outcome)
  })
  return Effect.andThen(heard, begun)
}

const awaitTurn = <A, E, R>(
  engine: quotas.Engine,
  waiter: quotas.Waiter,
  sent: (pass: quotas.Pass) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | QuotaExceeded, R> =>
  Effect.callback((resume) =>
    waiter.onEnd((outcome) => {
      // Whoever lets a call through goes on first, and does not run the work of that call in its own step.
      resume(Effect.flatMap(Effect.yieldNow, () => afterWaiting(engine, waiter, outcome, sent)))
    })
  )

const endWith = (
  shared: stores.Shared | undefined,
  pass: quotas.Pass,
  rest: Effect.Effect<void> | undefined
): Effect.Effect<void> | undefined =>
  shared === undefined ? rest : Effect.andThen(shared.end(pass), rest ?? Effect.void)

/** One call between its arrival and its end. */
interface Entry {
  readonly engine: quotas.Engine
  readonly shared: stores.Shared | undefined
  readonly key: string
  readonly options: quotas.CallOptions | undefined
  readonly context: Context.Context<never>
  /** What it holds, for the finalizer around. */
  held: quotas.Pass | quotas.Waiter | undefined
}

const priorityOf = ({ context, options }: Entry): Priority => options?.priority ?? Context.get(context, CurrentPriority)

/** Waits for a pass and goes on with it. What is held is noted in the very step in which it is taken. */
const enter = <A, E, R>(
  entry: Entry,
  sent: (pass: quotas.Pass) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | QuotaExceeded, R> =>
  Effect.suspend((): Effect.Effect<A, E | QuotaExceeded, R> => {
    const { context, engine, key, options } = entry
    const now = millisIn(context)
    const pass = engine.tryTake(key, options, now, context)
    if (pass !== undefined) {
      entry.held = pass
      return sent(pass)
    }
    const place = engine.wait(key, options, priorityOf(entry), now, context)
    if (place._tag === "Waiter") entry.held = place
    const turn = place._tag === "Refusal" ? refuse(key, place, 0, context) : awaitTurn(engine, place, sent)
    const warning = engine.takeWarning(key)
    return warning === undefined ? turn : Effect.andThen(Effect.logWarning(warning), turn)
  })

/** The pass of a call that was sent. What was held of one that was not is given back. */
const sentPass = ({ engine, held }: Entry, now: number): quotas.Pass | undefined => {
  if (held === undefined || held instanceof quotas.Pass) return held
  if (held.outcome instanceof quotas.Pass && !held.isStarting) return held.outcome
  engine.leave(held, now)
  return undefined
}

/** Gives back what a call was let through with, and takes it anew. */
const takeAgain = (entry: Entry, pass: quotas.Pass): Effect.Effect<quotas.Pass, QuotaExceeded> => {
  const { context, engine, key, options, shared } = entry
  const taking = Effect.suspend((): Effect.Effect<quotas.Pass, QuotaExceeded> => {
    const taken = engine.takeAgain(pass, options, priorityOf(entry), millisIn(context), context)
    if (!(taken instanceof quotas.Pass) && taken._tag === "Refusal") {
      return refuse(key, taken, pass.waitedMillis, context)
    }
    entry.held = taken
    return taken instanceof quotas.Pass ? Effect.succeed(taken) : awaitTurn(engine, taken, Effect.succeed)
  })
  return shared === undefined ? taking : Effect.andThen(Effect.uninterruptible(shared.end(pass)), taking)
}

/** The last step before a call is sent: with the other processes, where limits are shared. */
const agree = (entry: Entry, pass: quotas.Pass): Effect.Effect<quotas.Pass, QuotaExceeded> => {
  const { context, key, options, shared } = entry
  if (shared === undefined) return Effect.succeed(pass)
  return Effect.matchEffect(shared.wait(pass, options, context), {
    onFailure: (refusal) => refuse(key, refusal, pass.waitedMillis, context),
    onSuccess: ({ isClosed, waitedMillis }) => {
      // Who waited in vain, since the key was closed meanwhile, waits for that like all others.
      if (isClosed) return Effect.flatMap(takeAgain(entry, pass), (again) => agree(entry, again))
      if (waitedMillis === 0) return Effect.succeed(pass)
      const priority = priorityOf(entry)
      return Effect.as(Telemetry.emitIn(context, () => ({ _tag: "QuotaWaited", key, priority, waitedMillis })), pass)
    }
  })
}

const sendWith = <A, E, R>(
  entry: Entry,
  pass: quotas.Pass,
  sent: (pass: quotas.Pass) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | QuotaExceeded, R> => {
  const begun = (pass: quotas.Pass) =>
    Effect.suspend(() => {
      pass.isSent = true
      return sent(pass)
    })
  return entry.shared === undefined ? begun(pass) : Effect.flatMap(agree(entry, pass), begun)
}

const heldPass = ({ held }: Entry): quotas.Pass | undefined => {
  const pass = held instanceof quotas.Waiter ? held.outcome : held
  return pass instanceof quotas.Pass && !pass.isOver ? pass : undefined
}

/** How a guard inside tells that it holds back a call that was let through, and no longer does. */
const resending = (entry: Entry): Sending => ({
  key: entry.key,
  pause: () => {
    const pass = heldPass(entry)
    if (pass !== undefined) pass.isSent = false
  },
  resume: <A, E, R>(call: Effect.Effect<A, E, R>) => {
    const again = Effect.suspend((): Effect.Effect<A, E | QuotaExceeded, R> => {
      const pass = heldPass(entry)
      if (pass === undefined || pass.isSent) return call
      return Effect.flatMap(takeAgain(entry, pass), (again) => sendWith(entry, again, () => call))
    })
    // The guard in between does not know that the quota may refuse; the quota around, which the refusal comes to, does.
    return again as Effect.Effect<A, E, R>
  }
})

const withQuotaOf =
  (engine: quotas.Engine, shared: stores.Shared | undefined): Quota["Service"]["withQuota"] => (key, options) => {
    settings.checkCall(key, options)
    // A result is handed to the function that came with the very effect that gives it.
    const plain = options as quotas.CallOptions | undefined
    return (self) =>
      Effect.withFiber(({ context }) => {
        const entry: Entry = { engine, shared, key, options: plain, context, held: undefined }
        const sent = Effect.provideService(self, Current, resending(entry))
        // The finalizer is in place before anything is reserved or waited for, and not after: no interruption fits in
        // between.
        return Effect.onExitPrimitive(
          enter(entry, (pass) => sendWith(entry, pass, () => sent)),
          (exit) => {
            const now = millisIn(context)
            const pass = sentPass(entry, now)
            if (pass === undefined) return undefined
            return endWith(shared, pass, engine.conclude(pass, exit, plain, now, context))
          }
        )
      })
  }

const reserveOf =
  (engine: quotas.Engine, shared: stores.Shared | undefined): Quota["Service"]["reserve"] => (key, options) => {
    settings.checkCall(key, options)
    const giveBack = (entry: Entry) =>
      step((now, context) => {
        const pass = sentPass(entry, now)
        if (pass === undefined || pass.isOver) return undefined
        return endWith(shared, pass, engine.end(pass, { _tag: "Unsent" }, undefined, now, context))
      })
    return Effect.flatMap(
      Effect.acquireRelease(
        Effect.contextWith((context: Context.Context<never>) =>
          Effect.sync((): Entry => ({ engine, shared, key, options, context, held: undefined }))
        ),
        giveBack
      ),
      (entry) =>
        enter(entry, (pass) => sendWith(entry, pass, (sent) => Effect.succeed(reservation(engine, shared, sent))))
    )
  }

/** One step in the time and the context of whoever makes it. */
const step = (
  make: (now: number, context: Context.Context<never>) => Effect.Effect<void> | undefined
): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Effect.uninterruptible(Effect.suspend(() => make(millisIn(context), context) ?? Effect.void))
  )

const reservation = (
  engine: quotas.Engine,
  shared: stores.Shared | undefined,
  pass: quotas.Pass
): Reservation => {
  const ending = (
    end: (now: number, context: Context.Context<never>) => Effect.Effect<void> | undefined
  ): Effect.Effect<void> => step((now, context) => pass.isOver ? undefined : endWith(shared, pass, end(now, context)))
  return {
    key: pass.share.key,
    settle: (usage) => ending((now, context) => engine.end(pass, { _tag: "Used", usage }, undefined, now, context)),
    cancel: ending((now, context) => engine.end(pass, { _tag: "Unsent" }, undefined, now, context)),
    refused: (error) => ending((now, context) => engine.conclude(pass, Exit.fail(error), undefined, now, context)),
    observe: (observation) => step((now, context) => engine.observe(pass.share.key, pass, observation, now, context))
  }
}

const stateOf = ({ gatedForMillis, key, limits, requestsPerMinute, running, waiting }: quotas.Snapshot): State => {
  const shown: { -readonly [D in Dimension]?: NonNullable<State["limits"][D]> } = {}
  for (const dimension of amounts.dimensions) {
    const found = limits[dimension]
    if (found === undefined) continue
    const { available, burst, limit, perMillis } = found
    shown[dimension] = { limit, per: Duration.millis(perMillis), burst, available }
  }
  return { key, running, waiting, gatedFor: Duration.millis(gatedForMillis), requestsPerMinute, limits: shown }
}

/**
 * Creates a `Quota` that counts the calls of this process.
 *
 * **When to use**
 *
 * Use {@link layer} for the one of a program, and this for one of your own.
 *
 * **Details**
 *
 * Dies with `InvalidConfig` when an option is out of range.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Effect.Effect<Quota["Service"]> =>
  Effect.sync(() => serviceOf(new quotas.Engine(options), undefined))

const serviceOf = (engine: quotas.Engine, shared: stores.Shared | undefined): Quota["Service"] =>
  Quota.of({
    withQuota: withQuotaOf(engine, shared),
    reserve: reserveOf(engine, shared),
    observe: (key, observation) => step((now, context) => engine.observe(key, undefined, observation, now, context)),
    state: (key) =>
      Effect.contextWith((context: Context.Context<never>) =>
        Effect.sync(() => stateOf(engine.snapshot(key, millisIn(context))))
      ),
    states: Effect.contextWith((context: Context.Context<never>) =>
      Effect.sync(() => engine.snapshots(millisIn(context)).map(stateOf))
    )
  })

/**
 * Provides a `Quota` that counts the calls of this process.
 *
 * **Details**
 *
 * Without options every key learns its limits. Building the layer dies with `InvalidConfig` when an option is out of
 * range.
 *
 * **Example** (The limits of a provider, and of one that tells them itself)
 *
 * ```ts import.meta.vitest
 * import { Quota } from "effect-resilience"
 *
 * export const Live = Quota.layer({
 *   maxWait: "5 minutes",
 *   keys: {
 *     openai: { requests: 500, tokens: 200_000 },
 *     search: { requests: { limit: 10, per: "1 second", burst: 2 } }
 *   }
 * })
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<Quota> => Layer.effect(Quota, make(options))

/**
 * Options of {@link layerStore}: those of {@link Options}, and what is about the store.
 *
 * **Details**
 *
 * - `prefix`: what every key begins with that the store is given; default `effect-resilience:quota:`. The store puts its
 *   own before it: `RateLimiter.layerStoreRedis` has `ratelimiter:`, unless it is given another one.
 * - `storeTimeout`: how long a call waits for the answer of the store; default 250 milliseconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoreOptions extends stores.StoreOptions {}

/**
 * Provides a `Quota` whose configured limits several processes share, through the `RateLimiterStore` of
 * effect/persistence: in memory, or on Redis.
 *
 * **Details**
 *
 * Every process does all that {@link layer} does for its own calls, and before one of them is sent, its cost is reserved
 * in the store, too. Shared are the limits that are configured, to be the same in all processes, and the time until which
 * a refusal has closed a key. Not shared are what is learned from headers, the learned rate, and the order: priorities and
 * the order of arrival hold within each process, and between them who comes to the store first is first.
 *
 * What a call has really cost, and a refusal, are told to the store without waiting for its answer. What is given back
 * is at most what this process knows that the shared balance would hold more if the call had cost no more from the start.
 * `available` of a {@link State} is what this process has left by its own calls; what the others have drawn is not in it.
 * A call that waits for what the others have drawn counts as `waiting`.
 *
 * While the store is away, no call fails of it: each process goes by the limits alone, so that together they may send as
 * many times too much, and find out by refusals what they may. That is logged once, and once when it is over. After three
 * operations in a row without an answer, only one call a second waits for one. An answer is given up after 10 seconds, and
 * the layer closes when nothing is asked any more: so long after the last call at most.
 *
 * **Gotchas**
 *
 * A node-redis client that has lost its connection holds back what it is asked for 5 seconds (`commandOptions.timeout`),
 * and closes only after that. With `disableOfflineQueue: true`, as below, it fails at once instead: while the connection is
 * lost no call waits for it, and a program ends without delay. A Redis that keeps its connection and does not answer is
 * another matter: this layer closes 10 seconds after what it asked last, but the client of `NodeRedis.layer`, which is
 * closed after it, waits for the answers to all that it has sent, and the program ends only when Redis answers or the
 * connection breaks. One that must not wait for that has to end its process itself.
 *
 * Where a call gives up its place in the shared balance while one of another process waits behind it, that one does not
 * move up; what was given up may be sent beside it, once, above the burst.
 *
 * What has come back since the last call is counted by the clocks of the processes, which have to agree: after one whose
 * clock is ahead by a minute has ended, the others do not see what comes back for up to a minute.
 *
 * **Example** (Sharing the limits of a provider over Redis)
 *
 * ```ts import.meta.vitest
 * import { NodeRedis } from "@effect/platform-node"
 * import { Layer } from "effect"
 * import { Quota } from "effect-resilience"
 * import { RateLimiter } from "effect/persistence"
 *
 * export const Live = Quota.layerStore({ keys: { anthropic: { requests: 1_000, inputTokens: 400_000 } } }).pipe(
 *   Layer.provide(RateLimiter.layerStoreRedis()),
 *   Layer.provide(NodeRedis.layer({ url: "redis://127.0.0.1:6379", disableOfflineQueue: true }))
 * )
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerStore = (options: StoreOptions = {}): Layer.Layer<Quota, never, RateLimiter.RateLimiterStore> =>
  Layer.effect(
    Quota,
    Effect.suspend(() => {
      const engine = new quotas.Engine(options)
      return Effect.map(stores.make(engine, options), (shared) => serviceOf(engine, shared))
    })
  )

const noReservation = (key: string): Reservation => ({
  key,
  settle: () => Effect.void,
  cancel: Effect.void,
  refused: () => Effect.void,
  observe: () => Effect.void
})

/**
 * Provides a `Quota` that sends every call at once and learns nothing.
 *
 * **Example** (Testing without limits)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Quota } from "effect-resilience"
 *
 * const ask = Quota.withQuota(Effect.succeed("an answer"), "anthropic", { requests: 1 })
 *
 * await Effect.runPromise(Effect.provide(ask, Quota.layerNoop)) // => "an answer"
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerNoop: Layer.Layer<Quota> = Layer.succeed(Quota, {
  withQuota: () => (self) => self,
  reserve: (key) => Effect.succeed(noReservation(key)),
  observe: () => Effect.void,
  state: (key) =>
    Effect.succeed({
      key,
      running: 0,
      waiting: 0,
      gatedFor: Duration.zero,
      requestsPerMinute: undefined,
      limits: {}
    }),
  states: Effect.succeed([])
})

// Not `dual`: a guard in the data-last style is built, and its options are looked at, before it sees an effect.
type EffectFirst = [self: Effect.Effect<unknown, unknown, unknown>, key: string, options?: CallOptions | undefined]
type EffectLast = [key: string, options?: CallOptions | undefined]

const isEffectFirst = (args: EffectFirst | EffectLast): args is EffectFirst => Effect.isEffect(args[0])

const makeWithQuota = (key: string, options?: CallOptions) => {
  settings.checkCall(key, options)
  return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | QuotaExceeded, R | Quota> =>
    Effect.contextWith((context: Context.Context<Quota>) => Context.get(context, Quota).withQuota(key, options)(self))
}

/**
 * Sends an effect when the limits of a key allow what it costs; fails with `QuotaExceeded`, without running it, where they
 * do not in time.
 *
 * **Details**
 *
 * How the effect ends decides what it has cost:
 *
 * - a success: what its `usage` says, else what was reserved;
 * - a failure whose verdict is `Throttled` or `Overloaded`: nothing, and the key is closed for everybody until the time
 *   that it says. Without one, for a tenth of a second at first, and twice as long each time until a call comes through,
 *   up to 10 seconds. Overloads lower the learned rate only where nothing comes through between them; those that an
 *   `AdaptiveLimit` inside of the quota has answered to do nothing here. A spend limit or an exhausted quota is
 *   `Permanent`, and no reason to wait;
 * - a failure whose verdict is `Rejected`: nothing, since it was not sent;
 * - any other failure, an interruption or a defect: the request and its input, which were on their way. The output is
 *   given back.
 *
 * A call that is interrupted while it waits gives back all of it and its place.
 *
 * What is sent is one call to the quota, whatever it does inside: a hedge inside of it, as in a policy, sends a second
 * request that is not counted. Where hedges are many, give their calls a `cost` of as many requests and tokens more, or put
 * the quota inside, with `Hedge.apply` around it.
 *
 * The options of the key are those of {@link QuotaOptions}, used for a key that the service does not configure by name
 * (`keys`). Those of the first caller hold for as long as the key is remembered; another caller with other limits is warned
 * of once. Throws `InvalidConfig` when an option is out of range, a cost is no amount or the key is empty, and dies with it
 * where a function gives a cost that is none.
 *
 * `Telemetry` gets `QuotaWaited` when a call is sent after waiting, `QuotaRejected`, and `QuotaGated` when a refusal closes
 * the key.
 *
 * **Example** (Within the limits of a provider)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Quota } from "effect-resilience"
 *
 * const ask = (prompt: string) =>
 *   Effect.succeed({ text: "an answer", usage: { inputTokens: 9, outputTokens: 120 } }).pipe(
 *     Quota.withQuota("anthropic", {
 *       requests: 50,
 *       inputTokens: 40_000,
 *       outputTokens: { limit: 8_000, per: "1 day" },
 *       cost: { inputTokens: prompt.length / 4, outputTokens: 1_000 }
 *     })
 *   )
 *
 * const program = Effect.gen(function*() {
 *   yield* ask("Outline a report on tides")
 *   const { limits } = yield* Quota.state("anthropic")
 *   return Math.round(limits.outputTokens?.available ?? 0)
 * }).pipe(Effect.provide(Quota.layer()))
 *
 * await Effect.runPromise(program) // => 7880
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export function withQuota<A = unknown>(
  key: string,
  options?: CallOptions<A>
): <B extends A, E, R>(self: Effect.Effect<B, E, R>) => Effect.Effect<B, E | QuotaExceeded, R | Quota>
export function withQuota<A, E, R>(
  self: Effect.Effect<A, E, R>,
  key: string,
  options?: CallOptions<NoInfer<A>>
): Effect.Effect<A, E | QuotaExceeded, R | Quota>
export function withQuota(...args: EffectFirst | EffectLast): unknown {
  return isEffectFirst(args) ? makeWithQuota(args[1], args[2])(args[0]) : makeWithQuota(args[0], args[1])
}

/**
 * Reserves what a call is thought to cost, for a call that is no single effect, such as a stream.
 *
 * **Details**
 *
 * Waits and fails as {@link withQuota}. What has not been settled when the scope closes is given back.
 *
 * **Example** (Settling by hand)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Quota } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const reservation = yield* Quota.reserve("openai", {
 *     tokens: { limit: 10_000, per: "1 day" },
 *     cost: { inputTokens: 100, outputTokens: 900 }
 *   })
 *   yield* reservation.settle({ inputTokens: 100, outputTokens: 150 })
 *   const { limits } = yield* Quota.state("openai")
 *   return Math.round(limits.tokens?.available ?? 0)
 * }).pipe(Effect.scoped, Effect.provide(Quota.layer()))
 *
 * await Effect.runPromise(program) // => 9750
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const reserve = (
  key: string,
  options?: CallOptions
): Effect.Effect<Reservation, QuotaExceeded, Quota | Scope.Scope> => {
  settings.checkCall(key, options)
  return Quota.use((quota) => quota.reserve(key, options))
}

/**
 * Tells the quota what was heard of a key outside of its calls.
 *
 * @category accessors
 * @since 0.1.0
 */
export const observe = (key: string, observation: Observation): Effect.Effect<void, never, Quota> =>
  Quota.use((quota) => quota.observe(key, observation))

/**
 * Reads a key, and changes nothing.
 *
 * @category accessors
 * @since 0.1.0
 */
export const state = (key: string): Effect.Effect<State, never, Quota> => Quota.use((quota) => quota.state(key))

/**
 * What an answer or a failure says of the limits, where it carries that: under `rateLimits`, in the metadata of an
 * effect/ai answer or of an `AiError` (those of `Anthropic.layer` have it), or in its `headers`.
 *
 * @category getters
 * @since 0.1.0
 */
export const observationOf = (value: unknown): Effect.Effect<Observation | undefined> =>
  Effect.map(Clock.currentTimeMillis, (now) => told.observationIn(value, now))

/**
 * Reads rate-limit headers: `anthropic-ratelimit-*`, OpenAI's `x-ratelimit-*`, and Retry-After. `nowMillis` is what a
 * Retry-After that is a date is measured from.
 *
 * **Example** (What a provider says of its limits)
 *
 * ```ts import.meta.vitest
 * import { Quota } from "effect-resilience"
 *
 * const observation = Quota.fromHeaders({
 *   "x-ratelimit-limit-tokens": "200000",
 *   "x-ratelimit-remaining-tokens": "1500",
 *   "x-ratelimit-reset-tokens": "59.5s"
 * }, 0)
 * observation?.tokens // => { limit: 200000, remaining: 1500, reset: "59.5s" }
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const fromHeaders = (headers: unknown, nowMillis: number): Observation | undefined =>
  told.observedIn(headers, nowMillis)

/**
 * What a result says that it has cost: its `usage`, in the form of effect/ai, Anthropic, OpenAI, or of {@link Cost}.
 *
 * **Example** (Reading a usage report)
 *
 * ```ts import.meta.vitest
 * import { Quota } from "effect-resilience"
 *
 * const cost = Quota.usageOf({ usage: { input_tokens: 10, cache_read_input_tokens: 5_000, output_tokens: 7 } })
 * cost // => { inputTokens: 10, cachedInputTokens: 5_000, outputTokens: 7 }
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const usageOf = (result: unknown): Cost | undefined => amounts.usageIn(result)
