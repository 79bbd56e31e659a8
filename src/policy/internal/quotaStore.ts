import * as Cause from "effect/Cause"
import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Option from "effect/Option"
import * as RateLimiter from "effect/persistence/RateLimiter"
import * as config from "../../internal/config.ts"
import { millisIn, rounding } from "../../internal/monotonic.ts"
import { Outage } from "./circuitRedisOutage.ts"
import { type Amounts, type Dimension, dimensions, each, nothing, type PerDimension } from "./quotaAmounts.ts"
import type { Draw } from "./quotaBalance.ts"
import type { CallOptions, Engine, Pass, Refusal } from "./quotaEngine.ts"
import type { Limit, Limits } from "./quotaGovernor.ts"
import { Mirror } from "./quotaMirror.ts"
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
  readonly mirrors: PerDimension<Mirror | undefined>
  readonly draws: { -readonly [D in Dimension]: Draw | undefined }
  /** Whether nobody waits for the answer any more. */
  isGone: boolean
  isReserved: boolean
  delay: number
  dimension: Dimension | undefined
  /** What there was of that. */
  available: number
  gate: number
  hasSlept: boolean
}

/** Whether a call may be sent that has its cost reserved, or has to wait once more, and how long it has waited for it. */
export interface Agreed {
  readonly isClosed: boolean
  readonly waitedMillis: number
}

/** Sums of fractions miss by a little. */
const slack = 1e-6

const sent: Agreed = { isClosed: false, waitedMillis: 0 }

const noAnswer = Cause.fail(new Cause.TimeoutError("no answer in time"))

/** What stands between the leave that this process gives and the call, where several processes share the limits. */
export interface Shared {
  /** Reserves what a call costs with the others, and waits until it is there. */
  readonly wait: (
    pass: Pass,
    options: CallOptions | undefined,
    context: Context.Context<never>
  ) => Effect.Effect<Agreed, Refusal>
  /** Tells the others what the call has really cost, and of a refusal, once. Does not wait for the answer. */
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
  const mirrors = new WeakMap<Pass["share"], PerDimension<Mirror | undefined>>()

  const mirrorsOf = ({ share }: Pass): PerDimension<Mirror | undefined> => {
    const known = mirrors.get(share)
    if (known !== undefined) return known
    const made = each((dimension) => {
      const limit = share.settings.limits[dimension]
      return limit === undefined ? undefined : new Mirror(limit)
    })
    mirrors.set(share, made)
    return made
  }

  /** Who does not wait any longer leaves the operation to end by itself: it cannot be taken back from the driver. */
  const consume = (bucket: Parameters<typeof store.tokenBucket>[0]) =>
    Effect.flatMap(FiberSet.run(operations, Effect.timeout(store.tokenBucket(bucket), longestAnswer)), Fiber.join)

  /** How much the balance lacks when so much has been taken. */
  const take = (key: string, dimension: Dimension, { burst, limit, perMillis }: Limit, tokens: number) => {
    const refillMillis = perMillis / limit
    const bucket = {
      key: `${prefix}${key}:${dimension}`,
      tokens,
      limit: burst,
      refillRate: Duration.millis(refillMillis),
      allowOverflow: true
    }
    return Effect.map(
      consume(bucket),
      ([remaining, elapsed]) => burst - remaining - Math.min(1, elapsed / refillMillis)
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

  /** Takes what a call costs, or what it has cost more. */
  const draw = (ticket: Ticket, dimension: Dimension, tokens: number) =>
    Effect.flatMap(now, (asked) => {
      const limit = ticket.limits[dimension]
      const mirror = ticket.mirrors[dimension]
      if (limit === undefined || mirror === undefined || tokens === 0) return Effect.void
      return Effect.map(take(ticket.pass.share.key, dimension, limit, tokens), (lacks) => {
        ticket.draws[dimension] = mirror.drawn(tokens, lacks, asked)
        const beyond = lacks - limit.burst
        const delay = beyond <= rounding ? 0 : beyond * limit.perMillis / limit.limit
        if (delay <= ticket.delay) return
        ticket.delay = delay
        ticket.dimension = dimension
        ticket.available = Math.max(0, tokens - beyond)
      })
    })

  /** Moves what is reserved to what was used. */
  const correct = (ticket: Ticket, used: Amounts): Effect.Effect<void> =>
    Effect.flatMap(now, (at) => {
      const { limits, pass: { admission: { cost }, share: { key } } } = ticket
      const moves = dimensions.flatMap((dimension): ReadonlyArray<Effect.Effect<unknown, unknown>> => {
        const limit = limits[dimension]
        const more = used[dimension] - cost[dimension]
        if (limit === undefined || more === 0) return []
        if (more > 0) return [draw(ticket, dimension, more)]
        const back = ticket.mirrors[dimension]?.giveBack(ticket.draws[dimension], -more, at) ?? 0
        return back <= 0 ? [] : [take(key, dimension, limit, -back)]
      })
      return moves.length === 0 ? Effect.void : tell(Effect.all(moves, { concurrency: "unbounded" }))
    })

  /** Draws for a call, and reads for how long the key is closed. What nobody waits for any more is given back. */
  const asking = (
    ticket: Ticket,
    draws: (dimension: Dimension) => Effect.Effect<void, RateLimiter.RateLimiterError | Cause.TimeoutError>
  ): Effect.Effect<void, RateLimiter.RateLimiterError | Cause.TimeoutError> => {
    const { pass } = ticket
    ticket.isReserved = false
    ticket.delay = 0
    const all = Effect.all(dimensions.map(draws), { concurrency: "unbounded" })
    return Effect.all([all, gate(pass.share.key, 0)], { concurrency: 2 }).pipe(
      Effect.flatMap(([, closed]) => {
        ticket.isReserved = true
        ticket.gate = closed
        return ticket.isGone ? correct(ticket, pass.used ?? nothing) : Effect.void
      })
    )
  }

  const ask = (ticket: Ticket) => {
    const { cost } = ticket.pass.admission
    return asking(ticket, (dimension) => draw(ticket, dimension, cost[dimension]))
  }

  /** The same for a call that has waited for what it has reserved. */
  const review = (ticket: Ticket) => {
    const { limits, mirrors, pass: { admission: { cost }, share: { key } } } = ticket
    return asking(ticket, (dimension) =>
      Effect.flatMap(now, (asked) => {
        const limit = limits[dimension]
        const mirror = mirrors[dimension]
        if (limit === undefined || mirror === undefined || cost[dimension] === 0) return Effect.void
        return Effect.flatMap(take(key, dimension, limit, 0), (lacks) => {
          mirror.see(lacks, asked)
          const renewed = mirror.renew(ticket.draws[dimension], cost[dimension], asked)
          ticket.draws[dimension] = renewed.draw
          return renewed.lost <= slack ? Effect.void : draw(ticket, dimension, renewed.lost)
        })
      }))
  }

  /**
   * The answer of the store to a call that waits for it, `storeTimeout` at most. A fiber of its own asks: who is
   * interrupted, or has waited long enough, goes at once, and what is reserved after that is given back.
   */
  const answered = (
    ticket: Ticket,
    asked: Effect.Effect<void, RateLimiter.RateLimiterError | Cause.TimeoutError>,
    options: CallOptions | undefined,
    context: Context.Context<never>
  ): Effect.Effect<Agreed, Refusal> =>
    FiberSet.run(operations, Effect.exit(asked)).pipe(
      Effect.flatMap((asking) => Effect.timeoutOption(Fiber.join(asking), storeTimeout)),
      Effect.flatMap((answer): Effect.Effect<Agreed, Refusal> => {
        if (Option.isSome(answer) && Exit.isSuccess(answer.value)) {
          return Effect.andThen(back, pause(ticket, options, context))
        }
        const cause = Option.isSome(answer) && Exit.isFailure(answer.value) ? answer.value.cause : noAnswer
        return Effect.andThen(away(cause), Effect.suspend(() => Effect.succeed(agreed(ticket, 0, context))))
      })
    )

  const shared: Shared = {
    wait: (pass, callOptions, context) =>
      Effect.suspend(() => {
        if (!outage.asks(millisIn(context))) return Effect.succeed(sent)
        const ticket: Ticket = {
          pass,
          limits: pass.share.settings.limits,
          mirrors: mirrorsOf(pass),
          draws: each(() => undefined),
          isGone: false,
          isReserved: false,
          delay: 0,
          dimension: undefined,
          available: 0,
          gate: 0,
          hasSlept: false
        }
        held.set(pass, ticket)
        return answered(ticket, ask(ticket), callOptions, context)
      }),
    end: (pass) =>
      Effect.suspend(() => {
        const ticket = held.get(pass)
        if (ticket === undefined) return Effect.void
        held.delete(pass)
        ticket.isGone = true
        const { closedFor, share: { key }, used } = pass
        const settled = ticket.isReserved ? correct(ticket, used ?? nothing) : Effect.void
        if (closedFor === undefined) return settled
        // Where others have closed it already, only what is longer is added.
        const closing = Effect.flatMap(gate(key, 0), (closed) => gate(key, Math.max(0, Math.round(closedFor - closed))))
        return Effect.andThen(settled, tell(closing))
      })
  }

  /** How it stands with a call that has had to wait since its leave was given. */
  const agreed = ({ hasSlept, pass }: Ticket, others: number, context: Context.Context<never>): Agreed => {
    const at = millisIn(context)
    const waitedMillis = at - pass.admission.sentAt
    pass.waitedMillis += waitedMillis
    return { isClosed: engine.isClosed(pass, others, at, context), waitedMillis: hasSlept ? waitedMillis : 0 }
  }

  const pause = (
    ticket: Ticket,
    callOptions: CallOptions | undefined,
    context: Context.Context<never>
  ): Effect.Effect<Agreed, Refusal> =>
    Effect.suspend(() => {
      const { available, delay, dimension, gate, pass } = ticket
      if (delay <= 0 || gate > 0) return Effect.succeed(agreed(ticket, gate, context))
      const at = millisIn(context)
      const waited = pass.waitedMillis + at - pass.admission.sentAt
      if (delay > engine.patience(pass.share.key, callOptions, waited, context)) {
        const needed = dimension === undefined ? undefined : pass.admission.cost[dimension]
        const refusal = { dimension, needed, available, retryAfterMillis: delay }
        return Effect.fail<Refusal>({ _tag: "Refusal", reason: "WaitTooLong", ...refusal })
      }
      let release: ((now: number) => void) | undefined
      const slept = Effect.onExitPrimitive(
        Effect.suspend(() => {
          ticket.hasSlept = true
          release = engine.hold(pass, at + delay, at)
          return Effect.sleep(delay)
        }),
        () => {
          release?.(millisIn(context))
          return undefined
        }
      )
      // Meanwhile the key may have been closed, and others may have given back what they had reserved before.
      return Effect.andThen(
        slept,
        Effect.suspend(() =>
          engine.isClosed(pass, 0, millisIn(context), context)
            ? Effect.succeed(agreed(ticket, 0, context))
            : answered(ticket, review(ticket), callOptions, context)
        )
      )
    })

  return shared
})
