import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type * as Option from "effect/Option"
import * as Random from "effect/Random"
import type * as Schema from "effect/Schema"
import type * as Stream from "effect/Stream"
import type { Decision, DecisionTag, Escalation, EscalationError, Reason } from "./escalationModel.ts"
import type { Filter } from "./escalationStore.ts"

/**
 * What to ask, for {@link submit}.
 *
 * **Details**
 *
 * - `reason`, `task`: why, and about what, in words that a person understands.
 * - `runId`, `step`: which run waits, and where.
 * - `error`: the failure behind it. Its tag and message are kept.
 * - `checkpoint`: where the whole state of the agent is; `state`: the state itself, or what matters of it.
 * - `context`: whatever helps to decide.
 * - `about`: what exactly is decided on, which is never cut: what is longer than the queue's `aboutLimit` is not asked
 *   about (`TooLong`).
 * - `decisions`: the decisions that make sense. Default: all.
 * - `accepts`: schema of a value that can be supplied. Other values are refused when they are supplied, as far as the
 *   schema's JSON Schema can tell them.
 * - `edits`: schema of other arguments that can be approved instead of those that are asked about, and are checked in the
 *   same way. Default: none can.
 * - `editLimits`: characters (as JSON) and levels of such arguments at most. Default: 1,000,000 and 200.
 * - `timeToLive`: after this time without a decision it is expired. Default: never.
 * - `dedupeKey`: a second submission with the same key is the first one, decided or not. Default: none.
 *
 * `error`, `state` and `context` are bounded (by default to 8000 characters each, with a marker where something was
 * left out). These and `about` lose what is `Redacted`, what stands under the name of a secret, and what looks like one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Submission {
  readonly reason: Reason
  readonly task: string
  readonly runId?: string | undefined
  readonly step?: string | undefined
  readonly error?: unknown
  readonly checkpoint?: string | undefined
  readonly state?: unknown
  readonly context?: unknown
  readonly about?: unknown
  readonly decisions?: ReadonlyArray<DecisionTag> | undefined
  readonly accepts?: Schema.Constraint | undefined
  readonly edits?: Schema.Constraint | undefined
  readonly editLimits?: { readonly arguments: number; readonly depth: number } | undefined
  readonly timeToLive?: Duration.Input | undefined
  readonly dedupeKey?: string | undefined
}

/**
 * Who claims (`by`), and for how long. `lease` defaults to 5 minutes; claiming again prolongs it.
 *
 * @category models
 * @since 0.1.0
 */
export interface ClaimOptions {
  readonly by: string
  readonly lease?: Duration.Input | undefined
}

/**
 * Service that holds escalations until they are decided.
 *
 * **When to use**
 *
 * Use it directly to supervise: list, claim, decide. Inside a run use {@link ask} and {@link reconcile}.
 *
 * **Details**
 *
 * Every method fails with {@link EscalationError}, also for values that the types do not allow. A refusal has changed
 * nothing. A store that breaks off, or does not answer in time, may have written: call again, and the answer tells.
 *
 * **Example** (Deciding an escalation)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { EscalationQueue } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const queue = yield* EscalationQueue.EscalationQueue
 *   const { id } = yield* queue.submit({ reason: "IrreversibleAction", task: "delete the archive?" })
 *   yield* queue.decide(id, { _tag: "Reject", reason: "not today" }, { by: "ann" })
 *   const late = yield* Effect.flip(queue.decide(id, { _tag: "Approve" }, { by: "bob" }))
 *   return late.reason._tag
 * })
 *
 * await Effect.runPromise(Effect.provide(program, EscalationQueue.layerMemory)) // => "AlreadyDecided"
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export class EscalationQueue extends Context.Service<EscalationQueue, {
  /** Opens an escalation, or returns the one with the same `dedupeKey`, which may be decided already. */
  readonly submit: (submission: Submission) => Effect.Effect<Escalation, EscalationError>
  /** Reads an escalation. */
  readonly get: (id: string) => Effect.Effect<Escalation, EscalationError>
  /** Lists escalations, the oldest first, 100 of them unless `limit` says otherwise. */
  readonly list: (filter?: Filter) => Effect.Effect<ReadonlyArray<Escalation>, EscalationError>
  /**
   * Decides an escalation. Of several deciders exactly one wins, the others get `AlreadyDecided`. While somebody holds
   * it, nobody else can decide it. Where the caller, or whoever built the queue, has a `CheckpointStore`, a decision for a
   * run that was cancelled is `RunCancelled`.
   */
  readonly decide: (
    id: string,
    decision: Decision,
    options?: { readonly by?: string | undefined }
  ) => Effect.Effect<Escalation, EscalationError>
  /**
   * Takes back a decision that no run has used, so that it can be decided again. What somebody holds stays with them. With
   * `refused` a run says that it cannot go on with the decision as it was read, and why, which the next one to decide is
   * shown; another decision by now stays. {@link ask} and {@link reconcile} do it.
   */
  readonly reopen: (
    id: string,
    options?: { readonly refused: { readonly read: Escalation; readonly issue: string } }
  ) => Effect.Effect<Escalation, EscalationError>
  /** Takes an undecided question back: nobody can decide it any more. One that is over stays as it is. */
  readonly withdraw: (
    id: string,
    options?: { readonly reason?: string | undefined }
  ) => Effect.Effect<Escalation, EscalationError>
  /**
   * Records as expired what has run out of time, and returns how many. Nothing can be decided after its time anyway; from
   * here on `changes` and `undelivered` tell of it, too. {@link resumeRuns} does it.
   */
  readonly expire: Effect.Effect<number, EscalationError>
  /**
   * Notes that a run goes on with the outcome, which can then not change any more: a decision cannot be taken back, and
   * an expiry is recorded. Answers whether it still stands as it was read. {@link ask} and {@link reconcile} do it.
   */
  readonly confirm: (escalation: Escalation) => Effect.Effect<boolean, EscalationError>
  /** Holds an escalation for the time of a lease; once that is over, it is open again. */
  readonly claim: (id: string, options: ClaimOptions) => Effect.Effect<Escalation, EscalationError>
  /**
   * Notes that the run has been woken with the outcome as it was told, so that `undelivered` does not tell it again. If it
   * was reopened or decided otherwise since, that is told all the same. {@link resumeRuns} does it.
   */
  readonly acknowledge: (told: Escalation) => Effect.Effect<Escalation, EscalationError>
  /** Claims the oldest open escalation, if there is one. */
  readonly claimNext: (
    options: ClaimOptions & Pick<Filter, "reason" | "runId">
  ) => Effect.Effect<Option.Option<Escalation>, EscalationError>
  /** Gives a claimed escalation back before its lease is over. */
  readonly release: (id: string, options: { readonly by: string }) => Effect.Effect<Escalation, EscalationError>
  /** How many escalations wait for a decision, claimed or not. */
  readonly depth: Effect.Effect<number, EscalationError>
  /** How long the oldest of them has been waiting. */
  readonly oldestAge: Effect.Effect<Option.Option<Duration.Duration>, EscalationError>
  /**
   * Every escalation that changes from now on, as it stands after the change. Several changes of one escalation in a
   * row may be seen as one; a slow reader misses nothing else and holds nothing up.
   */
  readonly changes: Stream.Stream<Escalation, EscalationError>
  /**
   * The escalations that are open, and then each that comes to be. One that is open again because a lease ran out
   * is found by `claimNext`.
   */
  readonly open: Stream.Stream<Escalation, EscalationError>
  /**
   * What is decided or has expired and whose run is still to be woken, and then each that comes to be. Somebody else may
   * get the same ones: a run that is resumed twice does everything once.
   */
  readonly undelivered: Stream.Stream<Escalation, EscalationError>
  /** Removes what was decided, withdrawn, or has expired, longer ago than this, and returns how many. */
  readonly prune: (olderThan: Duration.Input) => Effect.Effect<number, EscalationError>
}>()("effect-resilience/durable/EscalationQueue/EscalationQueue") {}

/**
 * Opens an escalation, see {@link Submission}.
 *
 * Fails with {@link EscalationError}: `InvalidRequest`, `QueueFull`, or the failure of the store.
 *
 * @category combinators
 * @since 0.1.0
 */
export const submit = (submission: Submission): Effect.Effect<Escalation, EscalationError, EscalationQueue> =>
  EscalationQueue.use((queue) => queue.submit(submission))

/**
 * Decides an escalation; `by` is who did.
 *
 * Fails with {@link EscalationError}: `NotFound`, `AlreadyDecided`, `Expired`, `AlreadyClaimed`, `InvalidDecision`.
 *
 * @category combinators
 * @since 0.1.0
 */
export const decide = (
  id: string,
  decision: Decision,
  options?: { readonly by?: string | undefined }
): Effect.Effect<Escalation, EscalationError, EscalationQueue> =>
  EscalationQueue.use((queue) => queue.decide(id, decision, options))

/**
 * Records read from the store at a time.
 *
 * @internal
 */
export const pageSize = 100

/** @internal */
export const randomId = Effect.map(
  Effect.all(Array.from({ length: 4 }, () => Random.nextIntBetween(0, 2 ** 32, { halfOpen: true }))),
  (words) => words.map((word) => word.toString(16).padStart(8, "0")).join("")
)
