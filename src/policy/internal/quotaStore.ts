import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as RateLimiter from "effect/persistence/RateLimiter"
import * as config from "../../internal/config.ts"
import { millisIn, rounding } from "../../internal/monotonic.ts"
import { Outage } from "./circuitRedisOutage.ts"
import { remainingIn } from "./deadline.ts"
import { type Amounts, type Dimension, dimensions, nothing } from "./quotaAmounts.ts"
import type { CallOptions, Engine, Pass, Refusal } from "./quotaEngine.ts"
import type { Limits } from "./quotaGovernor.ts"
import type { ServiceOptions } from "./quotaSettings.ts"

const module = "Quota.layerStore"

/** How long an answer of the store is of use, in milliseconds, though nobody waits for it. */
const longestAnswer = 10_000

/** @internal */
export interface StoreOptions extends ServiceOptions {
  readonly prefix?: string | undefined
  readonly storeTimeout?: Duration.Input | undefined
}

/** What one call has in the store. */
interface Ticket {
  readonly pass: Pass
  readonly limits: Limits
  /** Whether nobody waits for the answer any more. */
  isGone: boolean
  isReserved: boolean
  delay: number
  dimension: Dimension | undefined
  gate: number
}

/** What stands between the leave that this process gives and the call, where several processes share the limits. */
export interface Shared {
  /** Reserves what a call costs with the others, and waits until it is there. */
  readonly wait: (
    pass: Pass,
    options: CallOptions | undefined,
    arrivedAt: number,
    context: Context.Context<never>
  ) => Effect.Effect<void, Refusal>
  /** Tells the others what the call has really cost, and of a refusal. Does not wait for the answer. */
  readonly end: (pass: Pass) => Effect.Effect<void>
}

/**
 * The limits of several processes, on the token buckets of Effect's `RateLimiterStore`.
 *
 * The bucket may be overdrawn: who does so has a place in it, and waits until what it took is there. What is given back is
 * a negative amount. The time until which a refusal closes a key is a bucket, too: it holds one and gets one back each
 * millisecond, so that a debt is a time.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(engine: Engine, options: StoreOptions) {
  const prefix = options.prefix ?? "effect-resilience:quota:"
  const storeTimeout = config.duration(module, "storeTimeout", options.storeTimeout ?? 250, { minimum: "1 millis" })
  const store = yield* RateLimiter.RateLimiterStore
  // A driver that closes may wait for the answers to all that it was asked, and for ever if it has lost its connection
  // (node-redis does). It drops what it could not send after a while, by default after 5 seconds; until then, this layer
  // is closed before it.
  const operations = yield* FiberSet.make<unknown, unknown>()
  yield* Effect.addFinalizer(() => Effect.timeoutOption(FiberSet.awaitEmpty(operations), longestAnswer))
  const outage = new Outage()
  const held = new WeakMap<Pass, Ticket>()

  /** Who does not wait any longer leaves the operation to end by itself: it cannot be taken back from the driver. */
  const consume = (bucket: Parameters<typeof store.tokenBucket>[0]) =>
    Effect.flatMap(FiberSet.run(operations, Effect.timeout(store.tokenBucket(bucket), longestAnswer)), Fiber.join)

  const take = (key: string, dimension: Dimension, limits: Limits, tokens: number) => {
    const limit = limits[dimension]
    if (limit === undefined || tokens === 0) return Effect.succeed(0)
    const refillMillis = limit.perMillis / limit.limit
    const bucket = {
      key: `${prefix}${key}:${dimension}`,
      tokens,
      limit: limit.burst,
      refillRate: Duration.millis(refillMillis),
      allowOverflow: true
    }
    return Effect.map(
      consume(bucket),
      ([remaining, elapsed]) => remaining >= 0 ? 0 : Math.max(0, Math.ceil(-remaining) * refillMillis - elapsed)
    )
  }

  const gate = (key: string, tokens: number) =>
    Effect.map(
      consume({
        key: `${prefix}${key}:gate`,
        tokens,
        limit: 1,
        refillRate: Duration.millis(1),
        allowOverflow: true
      }),
      ([remaining]) => Math.max(0, 1 - remaining)
    )

  const now = Effect.contextWith((context: Context.Context<never>) => Effect.succeed(millisIn(context)))

  const away = (cause: Cause.Cause<unknown>): Effect.Effect<void> =>
    Effect.flatMap(now, (at) =>
      outage.failed(at)
        ? Effect.logWarning(
          "The store of the quota does not answer: this process goes by the limits alone until it does",
          cause
        )
        : Effect.void)

  const back = Effect.flatMap(
    now,
    (at) =>
      outage.answered(at) ? Effect.logInfo("The store of the quota answers again: limits are shared") : Effect.void
  )

  /** What is only told. Who tells it does not wait. */
  const tell = (operation: Effect.Effect<unknown, unknown>): Effect.Effect<void> =>
    operation.pipe(
      Effect.timeout(storeTimeout),
      Effect.matchCauseEffect({ onSuccess: () => back, onFailure: away }),
      FiberSet.run(operations),
      Effect.asVoid
    )

  /** Moves what is reserved to what was used. */
  const correct = ({ limits, pass }: Ticket, used: Amounts): Effect.Effect<void> => {
    const { admission: { cost }, share: { key } } = pass
    const differing = dimensions.filter((dimension) => used[dimension] !== cost[dimension])
    if (differing.every((dimension) => limits[dimension] === undefined)) return Effect.void
    const moves = differing.map((dimension) => take(key, dimension, limits, used[dimension] - cost[dimension]))
    return tell(Effect.all(moves, { concurrency: "unbounded" }))
  }

  const ask = (ticket: Ticket): Effect.Effect<void, RateLimiter.RateLimiterError | Cause.TimeoutError> => {
    const { limits, pass: { admission, share: { key } } } = ticket
    const delays = dimensions.map((dimension) => take(key, dimension, limits, admission.cost[dimension]))
    return Effect.all([Effect.all(delays, { concurrency: "unbounded" }), gate(key, 0)], { concurrency: 2 }).pipe(
      Effect.flatMap(([delays, closed]) => {
        ticket.isReserved = true
        ticket.gate = closed
        for (const [at, delay] of delays.entries()) {
          if (delay <= ticket.delay) continue
          ticket.delay = delay
          ticket.dimension = dimensions[at]
        }
        return ticket.isGone ? correct(ticket, nothing) : Effect.void
      })
    )
  }

  const shared: Shared = {
    wait: (pass, callOptions, arrivedAt, context) =>
      Effect.suspend(() => {
        if (!outage.asks(millisIn(context))) return Effect.void
        const { limits } = pass.share.settings
        const ticket: Ticket = {
          pass,
          limits,
          isGone: false,
          isReserved: false,
          delay: 0,
          dimension: undefined,
          gate: 0
        }
        held.set(pass, ticket)
        // A fiber of its own asks: who is interrupted, or has waited long enough, goes at once, and what is reserved after
        // that is given back.
        return FiberSet.run(operations, Effect.exit(ask(ticket))).pipe(
          Effect.flatMap((asking) => Effect.timeoutOption(Fiber.join(asking), storeTimeout)),
          Effect.flatMap((answer) => {
            if (Option.isNone(answer)) return away(Cause.fail(new Cause.TimeoutError("no answer in time")))
            if (answer.value._tag === "Failure") return away(answer.value.cause)
            return Effect.andThen(back, pause(ticket, callOptions, arrivedAt, context))
          })
        )
      }),
    end: (pass) =>
      Effect.suspend(() => {
        const ticket = held.get(pass)
        if (ticket === undefined) return Effect.void
        ticket.isGone = true
        const { closedFor, share: { key }, used } = pass
        const settled = ticket.isReserved ? correct(ticket, used ?? nothing) : Effect.void
        if (closedFor === undefined) return settled
        // Where others have closed it already, only what is longer is added.
        const closing = Effect.flatMap(gate(key, 0), (closed) => gate(key, Math.max(0, Math.round(closedFor - closed))))
        return Effect.andThen(settled, tell(closing))
      })
  }

  const pause = (
    { delay, dimension, gate, pass }: Ticket,
    callOptions: CallOptions | undefined,
    arrivedAt: number,
    context: Context.Context<never>
  ): Effect.Effect<void, Refusal> =>
    Effect.suspend(() => {
      if (delay <= 0 && gate <= 0) return Effect.void
      const at = millisIn(context)
      const spread = engine.hold(pass, delay, gate, at, context)
      const wait = Math.max(delay, gate <= 0 ? 0 : gate + spread)
      const patience = Math.min(
        engine.maxWait(pass.share.key, callOptions) - (at - arrivedAt),
        remainingIn(context) - rounding
      )
      if (wait <= patience) return Effect.sleep(wait)
      const needed = dimension === undefined ? undefined : pass.admission.cost[dimension]
      const available = dimension === undefined ? undefined : 0
      return Effect.fail<Refusal>({
        _tag: "Refusal",
        reason: "WaitTooLong",
        dimension,
        needed,
        available,
        retryAfterMillis: wait
      })
    })

  return shared
})
