/**
 * The events that every guard emits, and who hears them.
 *
 * @since 0.1.0
 */
import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type { VerdictTag } from "./Fault.ts"

/**
 * What a guard did. Plain data, so that it can be logged, counted or sent as it is.
 *
 * **Details**
 *
 * Times are in milliseconds. `attempt` and `attempts` count the tries made so far, the first one included.
 *
 * - `RetryScheduled`, `RetryGaveUp`: `Retry` waits, or hands on the last error.
 * - `CircuitChanged`, `CircuitRejected`: a circuit went to another state, or refused a call.
 * - `BulkheadWaited`, `BulkheadRejected`: a call got its slot after waiting for it, or got none.
 * - `LimitChanged`, `LimitWaited`, `LimitRejected`: an `AdaptiveLimit` lets more or fewer calls run, or a call got its slot
 *   after waiting for it, or got none.
 * - `OutageBegan`, `OutageEnded`: nothing got through any more and single calls are sent to see whether it does, or one of
 *   these `probes` did.
 * - `QuotaWaited`, `QuotaRejected`, `QuotaGated`: a call was sent after waiting for its share of a limit, or got none; or a
 *   provider has refused a call, and for so long none is sent.
 * - `AttemptTimedOut`, `DeadlineExceeded`, `Stalled`: a call was stopped, because one try took too long, because the
 *   time for everything was over (`started` says whether there was any left to begin with), or because nothing came any
 *   more.
 * - `HedgeStarted`, `HedgeWon`, `HedgeSkipped`: a second try was started beside the first, gave the result, or was not
 *   started.
 * - `LastGoodServed`: an older answer was given, `ageMillis` old.
 * - `SafeModeChanged`: a key went into safe mode, or left it.
 * - `FallbackUsed`: an answer came from another step than the first; `failed` and `skipped` are the labels before it:
 *   those that were tried, and those that a guard of ours, such as an open circuit, did not let try.
 * - `HealthChanged`: a `HealthMonitor` found a key, or with `check` one of its checks, in another state than before.
 * - `StepCompleted`, `StepFailed`, `StepAmbiguous`, `RunChanged`: what a `Checkpoint` run does; `replayed` says that a
 *   result came from the journal.
 * - `SagaFailed`, `CompensationFailed`: a saga has failed for good, so that its steps are undone; people are asked, because
 *   one of them could not be.
 * - `EscalationOpened`, `EscalationDecided`, `EscalationClosed`: a person is asked, has decided, or is not asked any more.
 * - `IdempotencyHit`: a call was answered by an earlier one, or joined one that was under way.
 * - `ModelCalled`, `ToolCalled`, `BudgetExceeded`, `LoopDetected`, `ContextCompacted`, `AgentWentBack`: what an `Agent` does; `stopped` says whether it was
 *   only told of the loop.
 * - `AnswerCut`: the stream of an answer to an `Agent` was cut after `characters`; `cuts` counts those of the turn.
 *
 * @category models
 * @since 0.1.0
 */
export type Event =
  | {
    readonly _tag: "RetryScheduled"
    readonly policy: string
    readonly attempt: number
    readonly delayMillis: number
    readonly verdict: VerdictTag
  }
  | {
    readonly _tag: "RetryGaveUp"
    readonly policy: string
    readonly attempts: number
    readonly verdict: VerdictTag
    readonly reason: "Exhausted" | "NotRetryable" | "RetryAfterTooLong" | "Elapsed" | "Deadline" | "BudgetEmpty"
  }
  | { readonly _tag: "CircuitChanged"; readonly key: string; readonly from: string; readonly to: string }
  | { readonly _tag: "CircuitRejected"; readonly key: string; readonly retryAfterMillis: number | undefined }
  | { readonly _tag: "BulkheadWaited"; readonly key: string; readonly waitedMillis: number }
  | {
    readonly _tag: "BulkheadRejected"
    readonly key: string
    readonly reason: "QueueFull" | "WaitTooLong" | "Closed"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "LimitChanged"
    readonly key: string
    readonly from: number
    readonly to: number
    readonly reason: LimitChangeReason
  }
  | { readonly _tag: "LimitWaited"; readonly key: string; readonly waitedMillis: number }
  | {
    readonly _tag: "LimitRejected"
    readonly key: string
    readonly reason: "QueueFull" | "WaitTooLong" | "Outage"
    readonly waitedMillis: number
  }
  | { readonly _tag: "OutageBegan"; readonly key: string; readonly failures: number }
  | { readonly _tag: "OutageEnded"; readonly key: string; readonly afterMillis: number; readonly probes: number }
  | {
    readonly _tag: "QuotaWaited"
    readonly key: string
    readonly priority: "interactive" | "batch"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "QuotaRejected"
    readonly key: string
    readonly reason: "TooLarge" | "QueueFull" | "WaitTooLong"
    readonly waitedMillis: number
  }
  | {
    readonly _tag: "QuotaGated"
    readonly key: string
    readonly verdict: "Throttled" | "Overloaded"
    readonly forMillis: number
  }
  | { readonly _tag: "AttemptTimedOut"; readonly name: string; readonly afterMillis: number }
  | {
    readonly _tag: "DeadlineExceeded"
    readonly name: string
    readonly afterMillis: number
    readonly started: boolean
  }
  | { readonly _tag: "Stalled"; readonly name: string; readonly idleMillis: number }
  | { readonly _tag: "HedgeStarted"; readonly policy: string; readonly attempt: number; readonly afterMillis: number }
  | { readonly _tag: "HedgeWon"; readonly policy: string; readonly attempt: number }
  | {
    readonly _tag: "HedgeSkipped"
    readonly policy: string
    readonly reason: "NotIdempotent" | "BudgetEmpty" | "Deadline" | "TooFewSamples"
  }
  | {
    readonly _tag: "FallbackUsed"
    readonly source: string
    readonly failed: ReadonlyArray<string>
    readonly skipped: ReadonlyArray<string>
  }
  | { readonly _tag: "LastGoodServed"; readonly key: string; readonly ageMillis: number }
  | { readonly _tag: "SafeModeChanged"; readonly key: string; readonly active: boolean; readonly failures: number }
  | {
    readonly _tag: "HealthChanged"
    readonly key: string
    readonly check: string | undefined
    readonly from: string
    readonly to: string
    readonly message: string
  }
  | { readonly _tag: "StepCompleted"; readonly runId: string; readonly step: string; readonly replayed: boolean }
  | { readonly _tag: "StepFailed"; readonly runId: string; readonly step: string; readonly replayed: boolean }
  | { readonly _tag: "StepAmbiguous"; readonly runId: string; readonly step: string }
  | { readonly _tag: "RunChanged"; readonly runId: string; readonly status: string }
  | { readonly _tag: "SagaFailed"; readonly runId: string; readonly saga: string }
  | {
    readonly _tag: "CompensationFailed"
    readonly runId: string
    readonly step: string
    readonly compensation: string
  }
  | {
    readonly _tag: "EscalationOpened"
    readonly id: string
    readonly runId: string | undefined
    readonly reason: string
  }
  | { readonly _tag: "EscalationDecided"; readonly id: string; readonly decision: string }
  | {
    readonly _tag: "EscalationClosed"
    readonly id: string
    readonly runId: string | undefined
    readonly as: "expired" | "withdrawn"
  }
  | { readonly _tag: "IdempotencyHit"; readonly key: string; readonly joined: boolean }
  | {
    readonly _tag: "ModelCalled"
    readonly agent: string
    readonly runId: string
    readonly turn: number
    readonly inputTokens: number
    readonly outputTokens: number
  }
  | {
    readonly _tag: "ToolCalled"
    readonly agent: string
    readonly runId: string
    readonly tool: string
    readonly attempts: number
    readonly outcome: "success" | "failure"
  }
  | {
    readonly _tag: "AnswerCut"
    readonly agent: string
    readonly runId: string
    readonly turn: number
    readonly cuts: number
    readonly characters: number
    readonly verdict: VerdictTag
  }
  | { readonly _tag: "BudgetExceeded"; readonly agent: string; readonly runId: string; readonly budget: string }
  | {
    readonly _tag: "AgentWentBack"
    readonly agent: string
    readonly runId: string
    readonly turn: number
    readonly error: string
  }
  | {
    readonly _tag: "ContextCompacted"
    readonly agent: string
    readonly runId: string
    readonly messages: number
    readonly results: number
  }
  | {
    readonly _tag: "LoopDetected"
    readonly agent: string
    readonly runId: string
    readonly loop: "Repeated" | "Cycle" | "NoProgress"
    readonly stopped: boolean
  }

/**
 * Why an `AdaptiveLimit` lets more or fewer calls run.
 *
 * **Details**
 *
 * - `Used`: all that it let run were running, and the provider took them.
 * - `Overloaded`, `Failed`, `Slow`: the provider had no room, a call timed out or lost its connection, answers came late.
 * - `Outage`, `Recovering`: an outage began, or ended.
 *
 * @category models
 * @since 0.1.0
 */
export type LimitChangeReason = "Used" | "Overloaded" | "Failed" | "Slow" | "Outage" | "Recovering"

/**
 * Who hears the events. Default: nobody, and then an event is not even built.
 *
 * **When to use**
 *
 * Use it to count, log or show what the guards do: around one effect with `Effect.provideService`, or for a whole
 * program with `Layer.succeed`.
 *
 * **Gotchas**
 *
 * The listener is called in the middle of the guard's own step: keep it short. It cannot change how the guarded call
 * ends: what it throws, or rejects with, is logged as a warning that names the event, and nothing else comes of it.
 * Nobody waits for a promise that it returns.
 *
 * **Example** (Counting the retries)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Backoff, Fault, Retry, Telemetry } from "effect-resilience"
 *
 * const events: Array<string> = []
 * const policy = Retry.policy({ name: "search", backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 3 })
 *
 * const program = Effect.fail({ [Fault.verdictOf]: Fault.transient }).pipe(
 *   Retry.apply(policy),
 *   Effect.ignore,
 *   Effect.provideService(Telemetry.Listener, (event) => events.push(event._tag))
 * )
 *
 * await Effect.runPromise(program)
 * events // => ["RetryScheduled", "RetryScheduled", "RetryGaveUp"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const Listener = Context.Reference<((event: Event) => void) | undefined>(
  "effect-resilience/Telemetry/Listener",
  { defaultValue: () => undefined }
)

/**
 * Emits an event; the thunk is called only where there is a listener.
 *
 * **When to use**
 *
 * Use it in a guard of your own, to be heard by the same listener.
 *
 * **Example** (Telling of a cache of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Telemetry } from "effect-resilience"
 *
 * const hits: Array<string> = []
 *
 * const program = Telemetry.emit(() => ({ _tag: "IdempotencyHit", key: "weather", joined: false })).pipe(
 *   Effect.as("sunny"),
 *   Effect.provideService(Telemetry.Listener, (event) => hits.push(event._tag))
 * )
 *
 * await Effect.runPromise(program) // => "sunny"
 * hits // => ["IdempotencyHit"]
 * ```
 *
 * @category emitting
 * @since 0.1.0
 */
export const emit = (event: () => Event): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => emitIn(context, event))

/**
 * {@link emit} at once, against a context at hand, for a step that must not be divided. The effect it gives back is what
 * is left to do: nothing, or the warning about a listener that threw.
 *
 * @category emitting
 * @since 0.1.0
 */
export const emitIn = (context: Context.Context<never>, event: () => Event): Effect.Effect<void> => {
  const listener = Context.get(context, Listener)
  if (listener === undefined) return Effect.void
  let name = "an event"
  try {
    const built = event()
    name = built._tag
    const heard: unknown = listener(built)
    if (!Predicate.isPromiseLike(heard)) return Effect.void
    // An async function fits the type. Its rejection is taken up now, so that nobody's process ends of it.
    const end = Promise.resolve(heard).then(() => Effect.void, (reason: unknown) => threw(name, reason))
    return Effect.asVoid(Effect.forkDetach(Effect.flatten(Effect.promise(() => end))))
  } catch (thrown) {
    return threw(name, thrown)
  }
}

const threw = (event: string, thrown: unknown): Effect.Effect<void> =>
  Effect.logWarning(`The Telemetry listener threw at ${event}; the call goes on`, Cause.die(thrown))
