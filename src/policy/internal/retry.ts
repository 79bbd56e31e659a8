import type * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Tracer from "effect/Tracer"
import * as Fault from "../../Fault.ts"
import { count } from "../../internal/heard.ts"
import { millisIn, rounding } from "../../internal/monotonic.ts"
import * as spans from "../../internal/spans.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as Backoff from "../Backoff.ts"
import { RetryBudget } from "../RetryBudget.ts"
import * as backoff from "./backoff.ts"
import * as deadline from "./deadline.ts"
import { onlyFailure } from "./failure.ts"
import { engineOf } from "./retryBudget.ts"

/** @internal */
export const defaults = { backoff: Backoff.fullJitter, maxAttempts: 5 } as const

/** @internal */
export interface Settings {
  readonly name: string
  readonly backoff: Schedule.Schedule<unknown, unknown>
  readonly maxAttempts: number
  readonly maxElapsed: Duration.Duration | undefined
  readonly idempotent: boolean | undefined
  readonly retryIf: ((error: unknown, verdict: Fault.Verdict) => boolean | undefined) | undefined
  readonly retryRejected: boolean
  readonly budget: string | undefined
  /** Tells nobody, but for its spans: what it repeats is told by who uses it, and its calls are counted further in. */
  readonly isQuiet?: boolean | undefined
}

type GivenUp = Extract<Telemetry.Event, { readonly _tag: "RetryGaveUp" }>["reason"]

type Step = Effect.Success<ReturnType<typeof Schedule.toStep<unknown, unknown, never, never>>>

/** How a run goes on after a failure. */
interface Then<A, E, R> {
  /** After this delay, announced and paid for, comes the next try. */
  readonly retry: (delay: Duration.Duration) => Effect.Effect<A, E, R>
  readonly giveUp: Effect.Effect<never, E>
}

/**
 * What one run of tries remembers, and what it decides after each failure. Made at the first failure: where nothing
 * fails, nothing is remembered.
 *
 * @internal
 */
export class Run<E> {
  private readonly policy: Settings
  private started: number | undefined
  private attempt = 0
  private isLast = false
  private step: Step | undefined
  /** Gives back what was paid for the next try, which has not begun. */
  private paid: Effect.Effect<void> | undefined
  /** Gives back what was paid for the try under way. */
  private spent: Effect.Effect<void> | undefined
  private takeBack: Effect.Effect<void> | undefined
  /** How the last try failed that no guard of ours refused: what such a guard says is not what went wrong. */
  private failed: Effect.Effect<never, E> | undefined
  private failedAt = 0
  private metadata = Schedule.CurrentMetadata.defaultValue()

  /**
   * `started` is when the first try began, in monotonic milliseconds; without it time counts from the first failure.
   * `takeBack` undoes what the budget was told of the first try; without it the budget has not been told.
   */
  constructor(policy: Settings, started: number | undefined, takeBack: Effect.Effect<void> | undefined) {
    this.policy = policy
    this.started = started
    this.takeBack = takeBack
  }

  /** Decides what comes after a failure. `wallMillis` is the time that the schedule of delays is told. */
  next<A, R>(error: unknown, then: Then<A, E, R>, wallMillis?: number): Effect.Effect<A, E, R> {
    return Effect.contextWith((context: Context.Context<never>) => {
      const { policy } = this
      const verdict = Fault.classifyIn(
        policy.idempotent === undefined ? context : Context.add(context, Fault.Idempotent, policy.idempotent),
        error
      )
      const counted = this.count(context, verdict)
      if (verdict._tag !== "Rejected") this.failed = then.giveUp
      // What was refused was not sent, and what was paid for it pays for the try that is.
      else this.paid = this.spent
      const decided = this.decide(context, error, then, verdict, wallMillis)
      return counted === undefined ? decided : Effect.andThen(counted, decided)
    })
  }

  /** The next try begins: what was paid for it is spent, and where all before it were refused, it is the first attempt. */
  begin<A, R>(once: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> {
    this.spent = this.paid
    this.paid = undefined
    const { budget } = this.policy
    if (budget === undefined || this.failed !== undefined) return once
    return Effect.contextWith((context: Context.Context<never>) =>
      depositing(context, budget, (takeBack) => {
        this.takeBack = takeBack
        return once
      })
    )
  }

  /** Gives back what was paid for a try that has not begun. */
  end(): Effect.Effect<void> {
    const { paid } = this
    this.paid = undefined
    return paid ?? Effect.void
  }

  /** What `Schedule.CurrentMetadata` says during the next try: as `Effect.retry` has it, with the delay as output. */
  describe(input: unknown, delay: Duration.Duration): Schedule.Metadata {
    const { attempt, failedAt } = this
    const { now: previous, start } = attempt === 1 ? { now: failedAt, start: failedAt } : this.metadata
    this.metadata = {
      input,
      output: delay,
      duration: delay,
      attempt,
      start,
      now: failedAt,
      elapsed: failedAt - start,
      elapsedSincePrevious: failedAt - previous
    }
    return this.metadata
  }

  /** Sees to it that the budget counts one first attempt, which is the first try that was sent. */
  private count(context: Context.Context<never>, verdict: Fault.Verdict): Effect.Effect<void> | undefined {
    const { policy: { budget }, takeBack } = this
    if (budget === undefined || this.failed !== undefined) return undefined
    this.takeBack = undefined
    if (verdict._tag === "Rejected") return takeBack
    return takeBack === undefined ? depositing(context, budget, () => Effect.void) : undefined
  }

  private decide<A, R>(
    context: Context.Context<never>,
    error: unknown,
    then: Then<A, E, R>,
    verdict: Fault.Verdict,
    wallMillis: number | undefined
  ): Effect.Effect<A, E, R> {
    const { policy } = this
    const now = millisIn(context)
    this.attempt++
    this.started ??= now
    if (!isWanted(policy, error, verdict)) return this.giveUp(context, then, verdict, "NotRetryable")
    if (this.attempt >= policy.maxAttempts) return this.giveUp(context, then, verdict, "Exhausted")
    if (this.isLast) return this.giveUp(context, then, verdict, "Elapsed")
    const maxElapsed = policy.maxElapsed === undefined ? Infinity : Duration.toMillis(policy.maxElapsed)
    const decision: backoff.Decision = { verdict, roomMillis: maxElapsed - (now - this.started), isShortened: false }
    const planned: ReturnType<Step> = Effect.provideService(
      this.plan(error, wallMillis ?? Context.get(context, Clock.Clock).currentTimeMillisUnsafe()),
      backoff.Decided,
      decision
    )
    return Pull.matchEffect(planned, {
      onSuccess: ([, planned]) => this.schedule(context, then, decision, planned),
      onFailure: Effect.failCause,
      // a backoff ends early for one reason only, and says so by handing back the wait that it refused
      onDone: (leftover) =>
        this.giveUp(
          context,
          then,
          verdict,
          Duration.isDuration(leftover) && Duration.isPositive(leftover) &&
            Duration.toMillis(leftover) === backoff.retryAfterMillis(verdict)
            ? "RetryAfterTooLong"
            : "Exhausted"
        )
    })
  }

  private plan(error: unknown, now: number): ReturnType<Step> {
    this.failedAt = now
    if (this.step !== undefined) return this.step(now, error)
    return Effect.flatMap(Schedule.toStep(this.policy.backoff), (step) => {
      this.step = step
      return step(now, error)
    })
  }

  private schedule<A, R>(
    context: Context.Context<never>,
    then: Then<A, E, R>,
    decision: backoff.Decision,
    planned: Duration.Duration
  ): Effect.Effect<A, E, R> {
    const { isShortened, roomMillis, verdict } = decision
    const asked = backoff.retryAfterMillis(verdict)
    const delayMillis = Math.max(Duration.toMillis(planned), asked)
    if (!Number.isFinite(delayMillis)) {
      return this.giveUp(context, then, verdict, asked === Infinity ? "RetryAfterTooLong" : "Exhausted")
    }
    if (delayMillis > roomMillis + rounding) return this.giveUp(context, then, verdict, "Elapsed")
    // A try needs time as well, so that a delay that ends with the deadline does not fit.
    if (delayMillis >= deadline.remainingIn(context)) return this.giveUp(context, then, verdict, "Deadline")
    this.isLast = isShortened
    const { budget } = this.policy
    // What our own guards refused was never sent, and sending it for the first time is no load more.
    if (budget === undefined || verdict._tag === "Rejected") return this.announce(context, then, verdict, delayMillis)
    return Effect.flatMap(
      this.pay(context, budget),
      (isPaid) =>
        isPaid ? this.announce(context, then, verdict, delayMillis) : this.giveUp(context, then, verdict, "BudgetEmpty")
    )
  }

  private pay(context: Context.Context<never>, key: string): Effect.Effect<boolean> {
    const service = Context.getUnsafe(context, RetryBudget)
    const engine = engineOf(service)
    if (engine === undefined) {
      // Recorded by the finalizer, so that no interruption comes between a payment and its record.
      return Effect.map(
        Effect.onExit(service.withdraw(key), (exit) => {
          if (Exit.isSuccess(exit)) this.paid = exit.value?.giveBack
          return Effect.void
        }),
        (withdrawal) => withdrawal !== undefined
      )
    }
    const now = millisIn(context)
    if (!engine.tryWithdraw(key, now)) return Effect.succeed(false)
    this.paid = Effect.sync(() => engine.giveBack(key, now))
    return Effect.succeed(true)
  }

  private announce<A, R>(
    context: Context.Context<never>,
    then: Then<A, E, R>,
    verdict: Fault.Verdict,
    delayMillis: number
  ): Effect.Effect<A, E, R> {
    const { attempt, policy } = this
    return annotateAround({ "retry.policy": policy.name, "retry.attempts": attempt }).pipe(
      Effect.andThen(this.tell(context, () => ({
        _tag: "RetryScheduled",
        policy: policy.name,
        attempt,
        delayMillis,
        verdict: verdict._tag
      }))),
      Effect.andThen(then.retry(Duration.millis(delayMillis)))
    )
  }

  private giveUp<A, R>(
    context: Context.Context<never>,
    then: Then<A, E, R>,
    verdict: Fault.Verdict,
    reason: GivenUp
  ): Effect.Effect<A, E, R> {
    const { attempt, policy } = this
    const heard = this.tell(context, () => ({
      _tag: "RetryGaveUp",
      policy: policy.name,
      attempts: attempt,
      verdict: verdict._tag,
      reason
    }))
    return Effect.andThen(
      annotateAround({
        "retry.policy": policy.name,
        "retry.attempts": attempt,
        "retry.gave_up": reason
      }),
      Effect.andThen(heard, this.failed ?? then.giveUp)
    )
  }

  private tell(context: Context.Context<never>, event: () => Telemetry.Event): Effect.Effect<void> {
    return this.policy.isQuiet === true ? Effect.void : Telemetry.emitIn(context, event)
  }
}

const attemptSpan = "retry.attempt"

/** The span of an attempt has a policy and a number of its own: one policy inside another has its attempts below it. */
const annotateAround = (attributes: Readonly<Record<string, unknown>>): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => {
    const span = Context.getOrUndefined(context, Tracer.ParentSpan)
    if (span?._tag === "Span" && span.name !== attemptSpan) {
      for (const [name, value] of Object.entries(attributes)) span.attribute(name, value)
    }
    return Effect.void
  })

const isWanted = (policy: Settings, error: unknown, verdict: Fault.Verdict): boolean =>
  policy.retryIf?.(error, verdict) ?? (verdict._tag === "Rejected"
    ? policy.retryRejected
    : Fault.isRetryable(verdict) && !(policy.idempotent === false && Fault.mayHaveHappened(verdict)))

/**
 * Tells the budget of a first attempt, and goes on with what undoes that.
 *
 * @internal
 */
export const depositing = <A, E, R>(
  context: Context.Context<never>,
  key: string,
  next: (takeBack: Effect.Effect<void>) => Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> => {
  const service = Context.getUnsafe(context, RetryBudget)
  const engine = engineOf(service)
  if (engine === undefined) {
    return Effect.flatMap(service.deposit(key), (deposit) => next(deposit?.takeBack ?? Effect.void))
  }
  const now = millisIn(context)
  engine.deposit(key, now)
  return next(Effect.sync(() => engine.takeBack(key, now)))
}

const afterFailure = <A, E, R>(
  self: Effect.Effect<A, E, R>,
  run: Run<E>,
  cause: Cause.Cause<E>
): Effect.Effect<A, E, R> => {
  const failure = onlyFailure(cause)
  if (failure === undefined) return Effect.failCause(cause)
  return run.next(failure.error, {
    retry: (delay) => {
      const metadata = run.describe(failure.error, delay)
      const next = Effect.suspend(() => run.begin(Effect.provideService(self, Schedule.CurrentMetadata, metadata)))
      return Effect.sleep(delay).pipe(
        Effect.andThen(annotateAround({ "retry.attempts": metadata.attempt + 1 })),
        Effect.andThen(Effect.catchCause(next, (cause) => afterFailure(self, run, cause)))
      )
    },
    giveUp: Effect.failCause(cause)
  })
}

// Not Effect.retry: it retries a failure beside an interruption, forgets the cause of the last one, and its schedule
// cannot know when the first try began.
const retrying = <A, E, R>(
  first: Effect.Effect<A, E, R>,
  self: Effect.Effect<A, E, R>,
  policy: Settings,
  started: number | undefined,
  takeBack: Effect.Effect<void> | undefined
): Effect.Effect<A, E, R> =>
  Effect.catchCause(first, (cause) => {
    const run = new Run<E>(policy, started, takeBack)
    const rest = afterFailure(self, run, cause)
    return policy.budget === undefined ? rest : Effect.onExit(rest, () => run.end())
  })

/** Each try in a span of its own, with its number and what its failure means. */
const traced = <A, E, R>(self: Effect.Effect<A, E, R>, { idempotent, name }: Settings): Effect.Effect<A, E, R> => {
  let number = 0
  return Effect.suspend(() => {
    const attributes = { "retry.policy": name, "retry.attempt": ++number }
    const one = spans.around(
      attemptSpan,
      attributes,
      (span) =>
        Effect.onExit(self, (exit) =>
          Effect.contextWith((context: Context.Context<never>) => {
            const failure = Exit.isSuccess(exit) ? undefined : onlyFailure(exit.cause)
            if (failure !== undefined) {
              const around = idempotent === undefined ? context : Context.add(context, Fault.Idempotent, idempotent)
              span.attribute("retry.verdict", Fault.classifyIn(around, failure.error)._tag)
            }
            return Effect.void
          }))
    )
    return one
  })
}

/**
 * Runs an effect, and again as long as the policy allows. Where nothing fails, that costs a look at the context and one
 * handler that is never called; what it needs of time and state is made at the first failure.
 *
 * @internal
 */
export const retried = <A, E, R>(self: Effect.Effect<A, E, R>, policy: Settings): Effect.Effect<A, E, R> => {
  const { budget, idempotent, maxElapsed, name } = policy
  const plain = retrying(self, self, policy, undefined, undefined)
  const outermost = Schedule.CurrentMetadata.defaultValue()
  const began = { _tag: "CallBegan", policy: name } as const

  const begin = (
    context: Context.Context<never>,
    isTraced: boolean,
    takeBack: Effect.Effect<void> | undefined
  ): Effect.Effect<A, E, R> => {
    let first = plain
    // A retry inside a retry begins with a first try of its own.
    const isFirst = Context.get(context, Schedule.CurrentMetadata).attempt === 0
    if (maxElapsed !== undefined || takeBack !== undefined || !isFirst || isTraced) {
      const once = isTraced ? traced(self, policy) : self
      first = retrying(
        isFirst ? once : Effect.provideService(once, Schedule.CurrentMetadata, outermost),
        once,
        policy,
        maxElapsed === undefined ? undefined : millisIn(context),
        takeBack
      )
    }
    return idempotent === undefined || Context.get(context, Fault.Idempotent) === idempotent
      ? first
      : Effect.provideService(first, Fault.Idempotent, idempotent)
  }

  return Effect.withFiber((fiber) => {
    const { context } = fiber
    const isTraced = spans.isTraced(fiber)
    if (policy.isQuiet !== true) count(context, began)
    return budget === undefined
      ? begin(context, isTraced, undefined)
      : depositing(context, budget, (takeBack) => begin(context, isTraced, takeBack))
  })
}
