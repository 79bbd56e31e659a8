import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type * as Exit from "effect/Exit"
import { millisIn } from "../../internal/monotonic.ts"
import * as AdaptiveLimit from "../AdaptiveLimit.ts"
import * as Bulkhead from "../Bulkhead.ts"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import type * as Deadline from "../Deadline.ts"
import type * as Hedge from "../Hedge.ts"
import * as Quota from "../Quota.ts"
import type { RetryBudget } from "../RetryBudget.ts"
import * as attempts from "./attempt.ts"
import * as bulkheads from "./bulkheadEngine.ts"
import * as circuits from "./circuitEngine.ts"
import { sendingAs } from "./quotaSending.ts"

/** @internal */
export interface Guards {
  readonly key: string
  readonly quota: { readonly key: string; readonly options: Quota.CallOptions } | undefined
  readonly limit: AdaptiveLimit.LimitOptions | undefined
  readonly bulkhead: Bulkhead.LimitOptions | undefined
  readonly circuit: CircuitBreaker.CircuitOptions | undefined
  /** What stands between the circuit and the work: the hedge and the attempt timeout. */
  readonly inner: <A, E, R>(
    self: Effect.Effect<A, E, R>
  ) => Effect.Effect<A, E | Deadline.AttemptTimeout, R | HedgeServices>
  /** The two parts of that. */
  readonly hedged: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | HedgeServices>
  readonly bounded: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Deadline.AttemptTimeout, R>
  /** The attempt timeout, where that is all that stands there. */
  readonly attempt: attempts.Attempt | undefined
  /** The deadline around everything. */
  readonly outer: <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E | Deadline.DeadlineExceeded, R>
}

/** @internal */
export type HedgeServices = RetryBudget | Hedge.Latencies

type InnerErrors = CircuitBreaker.CircuitOpen | Bulkhead.BulkheadFull | Deadline.AttemptTimeout

type InnerServices = CircuitBreaker.CircuitBreaker | Bulkhead.Bulkhead | HedgeServices

type Errors = InnerErrors | Quota.QuotaExceeded | AdaptiveLimit.LimitExceeded

type Services = InnerServices | Quota.Quota | AdaptiveLimit.AdaptiveLimit

/** Whoever would be refused after the wait does not wait for it. */
const checked = <A, E, R>(
  waiting: Effect.Effect<A, E, R>,
  { circuit, key }: Guards
): Effect.Effect<A, E | CircuitBreaker.CircuitOpen, R | CircuitBreaker.CircuitBreaker> =>
  circuit === undefined ? waiting : Effect.andThen(CircuitBreaker.check(key, circuit), waiting)

/**
 * One try from the bulkhead inwards, put together from the public parts. It says what {@link fused} means, and serves
 * where a guard is not the one of this process (a fake, or one that is shared by several processes).
 *
 * @internal
 */
export const separate = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  guards: Guards
): Effect.Effect<A, E | InnerErrors, R | InnerServices> => {
  const { bulkhead, circuit, inner, key } = guards
  const work = inner(self)
  const once = circuit === undefined ? work : CircuitBreaker.protect(work, key, circuit)
  return bulkhead === undefined ? once : checked(Bulkhead.limit(once, key, bulkhead), guards)
}

const announced = <A, E, R>(
  breaker: circuits.CircuitEngine | undefined,
  next: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => breaker?.pending === true ? Effect.andThen(breaker.announce, next) : next

/** What one try holds while it runs. */
interface Held {
  readonly context: Context.Context<never>
  readonly slots: bulkheads.BulkheadEngine | undefined
  readonly slot: bulkheads.Slot | undefined
  readonly breaker: circuits.CircuitEngine | undefined
  admission: circuits.Admission | undefined
}

const leave = (
  { admission, breaker, context, slot, slots }: Held,
  exit: Exit.Exit<unknown, unknown>
): Effect.Effect<void> | undefined => {
  const now = millisIn(context)
  let announcement: Effect.Effect<void> | undefined
  try {
    if (breaker !== undefined && admission !== undefined) breaker.settle(admission, exit, now, context)
    if (breaker?.pending === true) announcement = breaker.announce
  } finally {
    if (slot !== undefined && announcement === undefined) slots?.release(slot, now)
  }
  if (announcement === undefined || slot === undefined) return announcement
  // The next in the queue starts when everybody has been told what this call did to the circuit, as in the parts.
  return Effect.ensuring(announcement, Effect.sync(() => slots?.release(slot, now)))
}

/**
 * One try from the bulkhead inwards as {@link separate} puts it together, in one step where nothing has to be waited for:
 * one finalizer and two readings of the clock instead of one and two for every guard.
 */
const fused = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  guards: Guards
): Effect.Effect<A, E | InnerErrors, R | InnerServices> => {
  const { attempt, bulkhead, circuit, inner, key } = guards
  if (bulkhead === undefined && circuit === undefined) return inner(self)

  return Effect.suspend(() => {
    // The finalizer is in place before anything is taken, and not after: no interruption fits in between.
    let held: Held | undefined
    return Effect.onExitPrimitive(
      Effect.contextWith((
        context: Context.Context<R | InnerServices>
      ): Effect.Effect<A, E | InnerErrors, R | InnerServices> => {
        const slots = bulkhead === undefined ? undefined : bulkheads.engineOf(Context.get(context, Bulkhead.Bulkhead))
        const breaker = circuit === undefined
          ? undefined
          : circuits.engineOf(Context.get(context, CircuitBreaker.CircuitBreaker))
        const isForeign = (bulkhead !== undefined && slots === undefined) ||
          (circuit !== undefined && breaker === undefined)
        if (isForeign) return separate(self, guards)

        const now = millisIn(context)
        const refusal = slots === undefined ? undefined : breaker?.check(key, circuit, now, context)
        if (refusal !== undefined) return announced(breaker, Effect.fail(refusal))
        const slot = slots?.tryAcquire(key, bulkhead, now)
        if (slots !== undefined && slot === undefined) return separate(self, guards)
        held = { context, slots, slot, breaker, admission: undefined }
        const work = attempt === undefined ? inner(self) : attempts.bounded(attempt, context, self, now)
        if (breaker === undefined) return work
        const admission = breaker.admit(key, circuit, now, context)
        if (admission instanceof CircuitBreaker.CircuitOpen) return announced(breaker, Effect.fail(admission))
        held.admission = admission
        return announced(breaker, work)
      }),
      (exit) => held === undefined ? undefined : leave(held, exit)
    )
  })
}

/**
 * One try through its guards. What it costs is reserved before it asks for a slot, so that no slot is held by who waits for
 * a limit, and settled in a finalizer of its own, which sees the end that the guards inside made of it. Quota and learned
 * limit stay parts of their own: they stand before calls of a provider, next to which they cost nothing.
 *
 * @internal
 */
export const guarded = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  guards: Guards
): Effect.Effect<A, E | Errors, R | Services> => {
  const { key, limit, quota } = guards
  const once = fused(self, guards)
  const limited = limit === undefined ? once : checked(AdaptiveLimit.withLimit(once, key, limit), guards)
  if (quota === undefined) return limited
  const held = quota.key === key ? limited : sendingAs(limited, key)
  return checked(Quota.withQuota(held, quota.key, quota.options), guards)
}
