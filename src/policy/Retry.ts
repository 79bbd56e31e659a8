/**
 * Tries an effect again when its failure says that it makes sense.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as Telemetry from "../Telemetry.ts"
import * as Backoff from "./Backoff.ts"
import * as internal from "./internal/backoff.ts"
import { onlyFailure } from "./internal/failure.ts"

/**
 * Options of {@link policy}.
 *
 * **Details**
 *
 * - `name`: names the policy in events and spans. Default: `"retry"`.
 * - `backoff`: the delays, one of `Backoff` or any schedule. Whatever it is, no delay is shorter than the wait that the
 *   refusing side asked for. Default: `Backoff.fullJitter()`, base 1 second, cap 60 seconds.
 * - `maxAttempts`: how often the effect runs at most, the first try included. Default: 5.
 * - `maxElapsed`: no try starts later than this after the start of the first; a delay that does not fit is not waited
 *   for. A try under way is not cut short. Default: no limit but `maxAttempts`.
 * - `idempotent`: whether the effect may be repeated without harm (`Fault.Idempotent`), for everything inside. Default:
 *   what the surroundings say.
 * - `retryIf`: overrules the verdict for the errors it knows, and leaves the rest to it with `undefined`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly name?: string | undefined
  readonly backoff?: Schedule.Schedule<unknown, unknown> | undefined
  readonly maxAttempts?: number | undefined
  readonly maxElapsed?: Duration.Input | undefined
  readonly idempotent?: boolean | undefined
  readonly retryIf?: ((error: unknown, verdict: Fault.Verdict) => boolean | undefined) | undefined
}

/**
 * When to try again, and when to give up. A plain value without state: any number of fibers may share one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy {
  readonly name: string
  readonly backoff: Schedule.Schedule<unknown, unknown>
  readonly maxAttempts: number
  readonly maxElapsed: Duration.Duration | undefined
  readonly idempotent: boolean | undefined
  readonly retryIf: ((error: unknown, verdict: Fault.Verdict) => boolean | undefined) | undefined
}

/**
 * Creates a {@link Policy}.
 *
 * **Details**
 *
 * Throws `Fault.InvalidConfig` for an option that cannot work. See {@link Options} for the defaults.
 *
 * **Example** (Retrying more than the verdict says)
 *
 * ```ts import.meta.vitest
 * import { Duration, Predicate } from "effect"
 * import { Backoff, Retry } from "effect-resilience"
 *
 * const patient = Retry.policy({
 *   name: "search",
 *   backoff: Backoff.fullJitter({ base: "200 millis", cap: "10 seconds" }),
 *   maxAttempts: 8,
 *   maxElapsed: "1 minute",
 *   retryIf: (error) => Predicate.isTagged(error, "IndexNotReady") ? true : undefined
 * })
 *
 * patient.maxElapsed // => Duration.minutes(1)
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const policy = (options: Options = {}): Policy => ({
  name: config.nonEmpty("Retry.policy", "name", options.name ?? "retry"),
  backoff: options.backoff ?? Backoff.fullJitter(),
  maxAttempts: config.integer("Retry.policy", "maxAttempts", options.maxAttempts ?? 5, 1),
  maxElapsed: options.maxElapsed === undefined
    ? undefined
    : config.duration("Retry.policy", "maxElapsed", options.maxElapsed),
  idempotent: options.idempotent,
  retryIf: options.retryIf
})

type GivenUp = Extract<Telemetry.Event, { readonly _tag: "RetryGaveUp" }>["reason"]

const millisBetween = (start: bigint, end: bigint): number => Number(end - start) / 1_000_000

const scheduleFrom = (
  policy: Policy,
  started: bigint | undefined
): Schedule.Schedule<Duration.Duration, unknown> =>
  Schedule.fromStep(Effect.map(Schedule.toStep(policy.backoff), (step) => {
    const maxElapsed = policy.maxElapsed === undefined ? Infinity : Duration.toMillis(policy.maxElapsed)
    let start = started
    let attempt = 0

    const giveUp = (verdict: Fault.Verdict, reason: GivenUp) =>
      Effect.annotateCurrentSpan({
        "retry.policy": policy.name,
        "retry.attempts": attempt,
        "retry.gave_up": reason
      }).pipe(
        Effect.andThen(Telemetry.emit(() => ({
          _tag: "RetryGaveUp",
          policy: policy.name,
          attempts: attempt,
          verdict: verdict._tag,
          reason
        }))),
        Effect.andThen(Cause.done(Duration.zero))
      )

    const wait = (verdict: Fault.Verdict, planned: Duration.Duration, elapsed: number) => {
      const asked = internal.retryAfterMillis(verdict)
      const delayMillis = Math.max(Duration.toMillis(planned), asked)
      if (!Number.isFinite(delayMillis)) return giveUp(verdict, asked === Infinity ? "RetryAfterTooLong" : "Exhausted")
      if (elapsed + delayMillis > maxElapsed) return giveUp(verdict, "Elapsed")
      const delay = Duration.millis(delayMillis)
      return Effect.annotateCurrentSpan({ "retry.policy": policy.name, "retry.attempts": attempt }).pipe(
        Effect.andThen(Telemetry.emit(() => ({
          _tag: "RetryScheduled",
          policy: policy.name,
          attempt,
          delayMillis,
          verdict: verdict._tag
        }))),
        Effect.as<[Duration.Duration, Duration.Duration]>([delay, delay])
      )
    }

    return (now: number, error: unknown): Pull.Pull<[Duration.Duration, Duration.Duration], never, Duration.Duration> =>
      Effect.contextWith((context: Context.Context<never>) => {
        attempt++
        const monotonic = Context.get(context, Clock.Clock).monotonicTimeNanosUnsafe()
        start ??= monotonic
        const elapsed = millisBetween(start, monotonic)
        const verdict = Fault.classifyIn(
          policy.idempotent === undefined ? context : Context.add(context, Fault.Idempotent, policy.idempotent),
          error
        )
        if (!(policy.retryIf?.(error, verdict) ?? Fault.isRetryable(verdict))) return giveUp(verdict, "NotRetryable")
        if (attempt >= policy.maxAttempts) return giveUp(verdict, "Exhausted")
        const planned: Pull.Pull<[unknown, Duration.Duration], never, unknown> = Effect.provideService(
          step(now, error),
          internal.Decided,
          verdict
        )
        return Pull.matchEffect(planned, {
          onSuccess: ([, delay]) => wait(verdict, delay, elapsed),
          onFailure: Effect.failCause,
          // a backoff ends early for one reason only, and says so by handing back the wait that it refused
          onDone: (leftover) =>
            giveUp(
              verdict,
              Duration.isDuration(leftover) && Duration.isPositive(leftover) &&
                Duration.toMillis(leftover) === internal.retryAfterMillis(verdict)
                ? "RetryAfterTooLong"
                : "Exhausted"
            )
        })
      })
  }))

/**
 * The policy as a `Schedule` of delays, to combine with other schedules or to use with `Effect.retry`.
 *
 * **Details**
 *
 * Its output is the delay. `maxElapsed` counts from the first failure, because a schedule does not see the start of the
 * first try; and `idempotent` holds for the classification only, because a schedule does not run the effect.
 * {@link apply} has neither limit.
 *
 * **Example** (Logging every retry)
 *
 * ```ts import.meta.vitest
 * import { Effect, Schedule } from "effect"
 * import { Backoff, Fault, Retry } from "effect-resilience"
 *
 * const policy = Retry.policy({ backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 2 })
 * const logged = Retry.schedule(policy).pipe(
 *   Schedule.tap(({ attempt }) => Effect.logDebug("retrying", { attempt }))
 * )
 * const down = { [Fault.verdictOf]: Fault.transient, text: "down" }
 *
 * await Effect.runPromise(Effect.fail(down).pipe(Effect.retry(logged), Effect.flip)) // => down
 * ```
 *
 * @category destructors
 * @since 0.1.0
 */
export const schedule = (policy: Policy): Schedule.Schedule<Duration.Duration, unknown> =>
  scheduleFrom(policy, undefined)

/**
 * Runs an effect, and again as long as the policy allows; fails with the last error of the effect.
 *
 * **Details**
 *
 * Only typed failures are retried: never a defect, never an interruption, and never a failure beside one of these.
 * Adds no error. The last failure is passed on with its cause as it was. Inside the effect, `Schedule.CurrentMetadata`
 * tells which retry it is (0 for the first try).
 *
 * What one of our own guards refused (`Rejected`: an open circuit) is not retried, so that a fallback can answer at once.
 * Where there is nothing else to fall back to, wait for the circuit with
 * `retryIf: (_, verdict) => verdict._tag === "Rejected" ? true : undefined`, and bound it with `maxElapsed`.
 *
 * The span around gets `retry.policy`, `retry.attempts` and, when the policy gave up, `retry.gave_up`, once a try has
 * failed; `Telemetry` gets `RetryScheduled` and `RetryGaveUp`, whose `attempt` and `attempts` count the tries made.
 *
 * **Example** (Retrying what fails for a moment)
 *
 * ```ts import.meta.vitest
 * import { Effect, Ref } from "effect"
 * import { Backoff, Fault, Retry } from "effect-resilience"
 *
 * const policy = Retry.policy({ backoff: Backoff.fullJitter({ base: "1 millis" }), maxAttempts: 5 })
 *
 * const program = Effect.gen(function*() {
 *   const calls = yield* Ref.make(0)
 *   const call = Ref.updateAndGet(calls, (n) => n + 1).pipe(
 *     Effect.filterOrFail((n) => n === 3, () => ({ [Fault.verdictOf]: Fault.transient }))
 *   )
 *   return yield* call.pipe(Retry.apply(policy))
 * })
 *
 * await Effect.runPromise(program) // => 3
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const apply: {
  (policy: Policy): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
  <A, E, R>(self: Effect.Effect<A, E, R>, policy: Policy): Effect.Effect<A, E, R>
} = dual(2, <A, E, R>(self: Effect.Effect<A, E, R>, policy: Policy): Effect.Effect<A, E, R> => {
  const retrying = Clock.clockWith((clock) => {
    const started = clock.monotonicTimeNanosUnsafe()
    let metadata: Schedule.Metadata = Schedule.CurrentMetadata.defaultValue()
    let step: ((error: unknown) => Pull.Pull<Schedule.Metadata, never, unknown>) | undefined

    // Not Effect.retry: it retries a failure beside an interruption, forgets the cause of the last one, and its
    // schedule cannot know when the first try began.
    const attempt: Effect.Effect<A, E, R> = Effect.catchCause(
      Effect.suspend(() => Effect.provideService(self, Schedule.CurrentMetadata, metadata)),
      (cause) => {
        const failure = onlyFailure(cause)
        if (failure === undefined) return Effect.failCause(cause)
        const next = step === undefined
          ? Effect.flatMap(Schedule.toStepWithMetadata(scheduleFrom(policy, started)), (made) => {
            step = made
            return made(failure.error)
          })
          : step(failure.error)
        return Pull.matchEffect(next, {
          onSuccess: (scheduled) => {
            metadata = scheduled
            return Effect.andThen(Effect.annotateCurrentSpan("retry.attempts", scheduled.attempt + 1), attempt)
          },
          onFailure: Effect.failCause,
          onDone: () => Effect.failCause(cause)
        })
      }
    )
    return attempt
  })
  return policy.idempotent === undefined
    ? retrying
    : Effect.provideService(retrying, Fault.Idempotent, policy.idempotent)
})
