/**
 * Tries an effect again when its failure says that it makes sense.
 *
 * **When to use**
 *
 * Use it around a call that fails now and then and may be repeated. Put it outside of bulkheads, circuits and timeouts,
 * so that each try passes them anew; `Policy` does. Give it a budget where many calls share one dependency.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import type * as Pull from "effect/Pull"
import * as Schedule from "effect/Schedule"
import type * as Types from "effect/Types"
import type * as Fault from "../Fault.ts"
import * as config from "../internal/config.ts"
import * as internal from "./internal/retry.ts"
import type { RetryBudget } from "./RetryBudget.ts"

/**
 * Options of {@link policy}.
 *
 * **Details**
 *
 * - `name`: names the policy in events and spans. Default: `"retry"`.
 * - `backoff`: the delays, one of `Backoff` or any schedule. Whatever it is, no delay is shorter than the wait that the
 *   refusing side asked for. Default: `Backoff.fullJitter()`, base 1 second, cap 60 seconds.
 * - `maxAttempts`: how often the effect runs at most, the first try included. Default: 5.
 * - `maxElapsed`: no try starts later than this after the start of the first. A delay of `Backoff` with jitter that does
 *   not fit is drawn once more from what fits, and the try after it is the last; any other delay that does not fit (one
 *   without jitter, one that the refusing side asked for, one of another schedule) is not waited for. A try under way is
 *   not cut short: that is what `Deadline` is for. Default: no limit but `maxAttempts`.
 * - `idempotent`: whether the effect may be repeated without harm (`Fault.Idempotent`), for everything inside. With `true`
 *   an `Ambiguous` failure is tried again, too; with `false` nothing is that may have happened (`Fault.mayHaveHappened`:
 *   also a timeout and an answer that makes no sense). Default: what the surroundings say, where a timeout is tried again
 *   and an `Ambiguous` failure is not.
 * - `retryIf`: overrules the verdict for the errors it knows, and leaves the rest to it with `undefined`.
 * - `retryRejected`: whether what one of our own guards refused (`Rejected`: an open circuit, a full bulkhead) is tried
 *   again, after at least the time that the refusal names. It gives up where that time is longer than the cap of the
 *   backoff, 60 seconds by default: for a circuit that stays open longer, raise the cap. Default: `false`, so that a
 *   fallback can answer at once.
 * - `budget`: the key of the `RetryBudget` that retries are paid from. Default: none.
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
  readonly retryRejected?: boolean | undefined
  readonly budget?: string | undefined
}

const TypeId = "~effect-resilience/policy/Retry/Policy"

/**
 * When to try again, and when to give up. A plain value without state: any number of fibers may share one.
 *
 * **Details**
 *
 * `R` is what it takes to use it: `RetryBudget` for a policy with a `budget`, nothing for one without.
 *
 * @category models
 * @since 0.1.0
 */
export interface Policy<out R = never> extends internal.Settings {
  readonly [TypeId]: { readonly _R: Types.Covariant<R> }
}

const variance = { _R: (_: never) => _ }

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
export const policy: {
  (options?: Options & { readonly budget?: undefined }): Policy
  (options: Options): Policy<RetryBudget>
} = (options: Options = {}): Policy => ({
  [TypeId]: variance,
  name: config.nonEmpty("Retry.policy", "name", options.name ?? "retry"),
  backoff: options.backoff ?? internal.defaults.backoff(),
  maxAttempts: config.integer("Retry.policy", "maxAttempts", options.maxAttempts ?? internal.defaults.maxAttempts, 1),
  maxElapsed: options.maxElapsed === undefined
    ? undefined
    : config.duration("Retry.policy", "maxElapsed", options.maxElapsed),
  idempotent: options.idempotent,
  retryIf: options.retryIf,
  retryRejected: options.retryRejected ?? false,
  budget: options.budget === undefined ? undefined : config.nonEmpty("Retry.policy", "budget", options.budget)
})

const toPull = {
  retry: (delay: Duration.Duration): Pull.Pull<[Duration.Duration, Duration.Duration], never, Duration.Duration> =>
    Effect.succeed([delay, delay]),
  giveUp: Cause.done(Duration.zero)
}

/**
 * The policy as a `Schedule` of delays, to combine with other schedules or to use with `Effect.retry`.
 *
 * **Details**
 *
 * Its output is the delay. A schedule sees neither the start of the first try, nor a try that succeeds, nor that its delay
 * is interrupted, and does not run the effect. So `maxElapsed` counts from the first failure, a `budget` hears only of
 * the first attempts that fail and gets nothing back for an interrupted delay, and `idempotent` holds for the
 * classification only. `Effect.retry` fails with the last error, whatever it is: when a circuit opens or a bulkhead fills
 * up between two tries, with that refusal instead of what went wrong. {@link apply} has none of these limits.
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
export const schedule = <R>(policy: Policy<R>): Schedule.Schedule<Duration.Duration, unknown, never, R> =>
  Schedule.fromStep(Effect.sync(() => {
    const run = new internal.Run<Cause.Done<Duration.Duration>>(policy, undefined, undefined)
    return (now: number, error: unknown) => run.next(error, toPull, now)
  }))

/**
 * Runs an effect, and again as long as the policy allows; fails with the last error of the effect itself.
 *
 * **Details**
 *
 * Only typed failures are retried: never a defect, never an interruption, and never a failure beside one of these.
 * Adds no error. The last failure is passed on with its cause as it was. Inside the effect, `Schedule.CurrentMetadata`
 * tells which retry it is (0 for the first try).
 *
 * What one of our own guards refused (`Rejected`: an open circuit, a full bulkhead) is not retried, so that a fallback can
 * answer at once. Where there is nothing else to fall back to, wait for it with `retryRejected: true`, and bound the wait
 * with `maxElapsed` or a deadline. A refusal is what the caller gets only where no try was ever sent. After one that was
 * sent and failed, a refusal ends the retrying, and the caller gets the failure: it is what went wrong, and says whether
 * anything may have happened.
 *
 * A delay that does not end before the `Deadline` around is not waited for: the error comes back while there is still
 * time to answer something else.
 *
 * With a `budget`, each run puts a first attempt into it and each retry takes one out; where it is empty the error comes
 * back at once. A retry that never begins, because its delay is interrupted, is given back. What was `Rejected` was never
 * sent: it does not count as a first attempt, and trying it again costs nothing.
 *
 * The span around gets `retry.policy`, `retry.attempts` and, when the policy gave up, `retry.gave_up`, once a try has
 * failed; `Telemetry` gets `RetryScheduled` and `RetryGaveUp`, whose `attempt` and `attempts` count the tries made, and
 * whose `verdict` is that of the last of them, `Rejected` where it was refused.
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
 * **Example** (Paying for retries from a budget that many callers share)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Backoff, Fault, Retry, RetryBudget } from "effect-resilience"
 *
 * const policy = Retry.policy({ budget: "search", backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 2 })
 * const tries: Array<number> = []
 * const down = { [Fault.verdictOf]: Fault.transient }
 *
 * // an outage: ten calls fail, and two of them are tried again
 * const program = Effect.forEach([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], (call) =>
 *   Effect.suspend(() => {
 *     tries.push(call)
 *     return Effect.fail(down)
 *   }).pipe(Retry.apply(policy), Effect.ignore))
 *
 * await Effect.runPromise(Effect.provide(program, RetryBudget.layer({ ratio: 0.2, minPerSecond: 0 })))
 * tries // => [0, 1, 2, 3, 4, 4, 5, 6, 7, 8, 9, 9]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const apply: {
  <R2>(policy: Policy<R2>): <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R | R2>
  <A, E, R, R2>(self: Effect.Effect<A, E, R>, policy: Policy<R2>): Effect.Effect<A, E, R | R2>
} = dual(
  2,
  <A, E, R, R2>(self: Effect.Effect<A, E, R>, policy: Policy<R2>): Effect.Effect<A, E, R | R2> =>
    internal.retried(self, policy)
)
