/**
 * Asks a supervisor, a person or another program, what no policy can decide, and resumes with the answer.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as Random from "effect/Random"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as config from "../internal/config.ts"
import { sha256 } from "../internal/sha256.ts"
import * as Telemetry from "../Telemetry.ts"
import * as Checkpoint from "./Checkpoint.ts"
import { excerpt, excerptText, summary } from "./internal/escalationExcerpt.ts"
import * as Input from "./internal/escalationInput.ts"
import {
  Abandoned,
  Decision,
  DecisionTag,
  Escalation,
  EscalationError,
  type FailureReason,
  Reason,
  Status
} from "./internal/escalationModel.ts"
import * as State from "./internal/escalationState.ts"
import { type Filter, makeStoreMemory, type Store } from "./internal/escalationStore.ts"

export * from "./internal/escalationModel.ts"
export * from "./internal/escalationStore.ts"

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
 * - `decisions`: the decisions that make sense. Default: all.
 * - `accepts`: schema of a value that can be supplied. Other values are refused when they are supplied, as far as the
 *   schema's JSON Schema can tell them.
 * - `timeToLive`: after this time without a decision it is expired. Default: never.
 * - `dedupeKey`: a second submission with the same key is the first one, decided or not. Default: none.
 *
 * `error`, `state` and `context` are bounded (by default to 8000 characters each, with a marker where something was
 * left out) and lose what is `Redacted`, what stands under the name of a secret, and what looks like one.
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
  readonly decisions?: ReadonlyArray<DecisionTag> | undefined
  readonly accepts?: Schema.Constraint | undefined
  readonly timeToLive?: Duration.Input | undefined
  readonly dedupeKey?: string | undefined
}

/**
 * Who claims, and for how long. `lease` defaults to 5 minutes; claiming again prolongs it.
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
  /** Lists escalations, the oldest first. */
  readonly list: (filter?: Filter) => Effect.Effect<ReadonlyArray<Escalation>, EscalationError>
  /**
   * Decides an escalation. Of several deciders exactly one wins, the others get `AlreadyDecided`. While somebody holds
   * it, nobody else can decide it.
   */
  readonly decide: (
    id: string,
    decision: Decision,
    options?: { readonly by?: string | undefined }
  ) => Effect.Effect<Escalation, EscalationError>
  /**
   * Takes back a decision that no run has used, so that it can be decided again. What somebody holds stays with them.
   */
  readonly reopen: (id: string) => Effect.Effect<Escalation, EscalationError>
  /**
   * Notes that a run goes on with the decision, which can then not be taken back. Answers whether it still stands as it
   * was read. {@link ask} and {@link reconcile} do it.
   */
  readonly confirm: (escalation: Escalation) => Effect.Effect<boolean, EscalationError>
  /** Holds an escalation for the time of a lease; once that is over, it is open again. */
  readonly claim: (id: string, options: ClaimOptions) => Effect.Effect<Escalation, EscalationError>
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
  /** Removes what was decided, or has expired, longer ago than this, and returns how many. */
  readonly prune: (olderThan: Duration.Input) => Effect.Effect<number, EscalationError>
}>()("effect-resilience/durable/EscalationQueue/EscalationQueue") {}

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `excerptLimit`: characters of `error`, `state` and `context` that are kept, each. Default: 8000.
 * - `pollInterval`: how often the streams look for what other processes have changed. Default: never.
 * - `storeTimeout`: how long the store may take for a write, which nothing else interrupts. Default: 30 seconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly excerptLimit?: number | undefined
  readonly pollInterval?: Duration.Input | undefined
  readonly storeTimeout?: Duration.Input | undefined
}

/** Records read from the store at a time. */
const pageSize = 100

const randomId = Effect.map(
  Effect.all(Array.from({ length: 4 }, () => Random.nextIntBetween(0, 2 ** 32, { halfOpen: true }))),
  (words) => words.map((word) => word.toString(16).padStart(8, "0")).join("")
)

/**
 * Creates an `EscalationQueue` over a store.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options: Options & { readonly store: Store }
): Effect.fn.Return<EscalationQueue["Service"], never, Scope.Scope> {
  const { store } = options
  const limit = config.integer("EscalationQueue", "excerptLimit", options.excerptLimit ?? 8000, 1)
  const poll = config.duration("EscalationQueue", "pollInterval", options.pollInterval ?? Duration.infinity, {
    minimum: "1 millis",
    infinite: true
  })
  const storeTimeout = config.duration("EscalationQueue", "storeTimeout", options.storeTimeout ?? "30 seconds", {
    minimum: "1 millis"
  })
  const bounded = (operation: string, id: string) =>
    Effect.timeoutOrElse({
      duration: storeTimeout,
      orElse: () => {
        const cause = new Error("the store did not answer")
        return Effect.fail(new EscalationError({ operation, id, reason: { _tag: "Unavailable", cause } }))
      }
    })
  // Only says that something has changed: what, is read from the store. So one place is enough for any number of
  // changes, and a reader that sleeps holds nothing up.
  const touched = yield* Effect.acquireRelease(PubSub.sliding<void>(1), PubSub.shutdown)

  const asOfNow = (record: Escalation) => Effect.map(Clock.currentTimeMillis, (now) => State.asOf(record, now))

  const recordOf = (submission: Submission, id: string, now: DateTime.Utc): Escalation => {
    const { accepts, checkpoint, context, decisions, error, reason, runId, state, step, task } = submission
    const timeToLive = Input.optionally(
      submission.timeToLive,
      (value) => config.duration("EscalationQueue", "timeToLive", value, { minimum: "1 millis" })
    )
    return new Escalation({
      id,
      revision: 0,
      reason: Input.oneOf("reason", Reason, reason),
      task: excerptText(Input.text("task", task), limit),
      decisions: (decisions ?? DecisionTag.literals).map((tag) => Input.oneOf("decisions", DecisionTag, tag)),
      submittedAt: now,
      status: "open",
      ...(runId === undefined ? {} : { runId: Input.text("runId", runId) }),
      ...(step === undefined ? {} : { step: Input.text("step", step) }),
      ...(error === undefined ? {} : { error: summary(error, limit) }),
      ...(checkpoint === undefined ? {} : { checkpoint: Input.text("checkpoint", checkpoint) }),
      ...(state === undefined ? {} : { state: excerpt(state, limit) }),
      ...(context === undefined ? {} : { context: excerpt(context, limit) }),
      ...(accepts === undefined
        ? {}
        : Option.match(State.acceptsOf(accepts), { onNone: () => ({}), onSome: (accepts) => ({ accepts }) })),
      ...(timeToLive === undefined ? {} : { expiresAt: DateTime.addDuration(now, timeToLive) })
    })
  }

  const submit = Effect.fnUntraced(function*(submission: Submission) {
    const now = yield* DateTime.now
    const { dedupeKey } = submission
    const id = dedupeKey === undefined
      ? yield* randomId
      : yield* Input.reading("submit", undefined, () => sha256(Input.text("dedupeKey", dedupeKey)).slice(0, 32))
    const record = yield* Input.reading("submit", undefined, () => recordOf(submission, id, now))
    const kept = yield* Effect.uninterruptible(Effect.tap(
      bounded("submit", record.id)(store.insert(record)),
      ({ inserted, record: { id, reason, runId } }) =>
        inserted
          ? Effect.andThen(
            PubSub.publish(touched, undefined),
            Telemetry.emit(() => ({ _tag: "EscalationOpened", id, runId, reason }))
          )
          : Effect.void
    ))
    return yield* asOfNow(kept.record)
  })

  const get = (operation: string, id: string) =>
    Effect.flatMap(
      store.find(id),
      (record) =>
        record === undefined
          ? Effect.fail(new EscalationError({ operation, id, reason: { _tag: "NotFound" } }))
          : asOfNow(record)
    )

  const write = (operation: string, record: Escalation) =>
    Effect.uninterruptible(Effect.tap(
      bounded(operation, record.id)(store.replace(record)),
      (written) => written === undefined ? Effect.void : PubSub.publish(touched, undefined)
    ))

  // Read, decide, compare and set: who loses against another writer looks again, and finds what that one has done. So
  // it goes round again only when another writer has got on.
  const change = (
    operation: string,
    id: string,
    transition: State.Transition
  ): Effect.Effect<Escalation, EscalationError> =>
    Effect.gen(function*() {
      const now = yield* Clock.currentTimeMillis
      const before = yield* get(operation, id)
      const after = transition(before, now)
      if (Result.isFailure(after)) return yield* new EscalationError({ operation, id, reason: after.failure })
      const written = yield* write(operation, after.success)
      return written ?? (yield* change(operation, id, transition))
    })

  const leaseOf = (operation: string, id: string | undefined, options: ClaimOptions) =>
    Input.reading(operation, id, () => {
      const { by, lease } = options
      const duration = config.duration("EscalationQueue", "lease", lease ?? "5 minutes", { minimum: "1 millis" })
      return State.claim(Input.text("by", by), Duration.toMillis(duration))
    })

  const filterOf = ({ limit, reason, runId, status }: Filter) => ({
    limit: config.integer("EscalationQueue", "limit", limit ?? pageSize, 1),
    reason: Input.optionally(reason, (reason) => Input.oneOf("reason", Reason, reason)),
    runId: Input.optionally(runId, (runId) => Input.text("runId", runId)),
    status: Input.optionally(status, (status) => Input.oneOf("status", Status, status))
  })

  const claimNext = (
    options: ClaimOptions & Pick<Filter, "reason" | "runId">
  ): Effect.Effect<Option.Option<Escalation>, EscalationError> =>
    Effect.gen(function*() {
      const transition = yield* leaseOf("claimNext", undefined, options)
      const { reason, runId } = yield* Input.reading("claimNext", undefined, () => filterOf(options))
      const now = yield* Clock.currentTimeMillis
      // More than one, because one that does not decode is left out and must not hide the next.
      const [oldest] = yield* store.select({ status: "open", reason, runId, limit: pageSize, now })
      if (oldest === undefined) return Option.none()
      // Its `by` may be the same in two workers: an open record that is gone by now is not theirs.
      const onlyOpen: State.Transition = (record, now) =>
        record.claim === undefined ? transition(record, now) : Result.fail({ _tag: "AlreadyClaimed", ...record.claim })
      const claimed = yield* change("claimNext", oldest.id, onlyOpen).pipe(
        Effect.map(Option.some),
        Effect.catchIf(({ reason }) => isLost(reason), () => Effect.succeedNone)
      )
      return Option.isSome(claimed) ? claimed : yield* claimNext(options)
    })

  /** A page of changes, as soon as there is one. */
  const page = (subscription: PubSub.Subscription<void>, cursor: number, undecided: boolean) =>
    Effect.gen(function*() {
      while (true) {
        const { records, revision } = yield* store.changedSince(cursor, { undecided, limit: pageSize })
        if (revision > cursor) return [yield* Effect.forEach(records, asOfNow), Option.some(revision)] as const
        const wait = PubSub.take(subscription)
        yield* Duration.isFinite(poll) ? Effect.timeoutOption(wait, poll) : wait
      }
    })

  const watch = (from: Effect.Effect<number, EscalationError>, undecided: boolean) =>
    Stream.unwrap(Effect.gen(function*() {
      // Subscribed before the first look at the store, so that nothing can come between unheard.
      const subscription = yield* PubSub.subscribe(touched)
      const cursor = yield* from
      return Stream.paginate(cursor, (cursor) => page(subscription, cursor, undecided))
    }))

  return EscalationQueue.of({
    submit,
    get: (id) => get("get", id),
    list: (filter = {}) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const records = yield* store.select({ ...yield* Input.reading("list", undefined, () => filterOf(filter)), now })
        return records.map((record) => State.asOf(record, now))
      }),
    decide: (id, decision, options) =>
      Effect.gen(function*() {
        const by = yield* Input.reading("decide", id, () => Input.optionally(options?.by, (by) => Input.text("by", by)))
        const decided = yield* change("decide", id, State.decide(decision, by))
        yield* Telemetry.emit(() => ({ _tag: "EscalationDecided", id, decision: decision._tag }))
        return decided
      }),
    reopen: (id) => change("reopen", id, State.reopen),
    confirm: (escalation) => Effect.map(write("confirm", State.used(escalation)), (written) => written !== undefined),
    claim: (id, options) =>
      Effect.flatMap(leaseOf("claim", id, options), (transition) => change("claim", id, transition)),
    claimNext,
    release: (id, options) =>
      Effect.flatMap(
        Input.reading("release", id, () => Input.text("by", options.by)),
        (by) => change("release", id, State.release(by))
      ),
    depth: Effect.flatMap(Clock.currentTimeMillis, (now) => Effect.map(store.waiting(now), ({ count }) => count)),
    oldestAge: Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.map(
        store.waiting(now),
        ({ oldest }) => Option.map(Option.fromUndefinedOr(oldest), (at) => Duration.millis(now - at))
      )),
    changes: watch(store.revision, false),
    open: Stream.filter(watch(Effect.succeed(-1), true), ({ status }) => status === "open"),
    prune: (olderThan) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const age = yield* Input.reading("prune", undefined, () =>
          config.duration("EscalationQueue", "olderThan", olderThan))
        return yield* store.prune(now - Duration.toMillis(age))
      })
  })
})

const isLost = (reason: FailureReason): boolean =>
  reason._tag === "AlreadyClaimed" || reason._tag === "AlreadyDecided" || reason._tag === "Expired" ||
  reason._tag === "NotFound"

/**
 * Provides an `EscalationQueue` in memory, for tests and for runs that need not outlive the process.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMemory: Layer.Layer<EscalationQueue> = Layer.effect(
  EscalationQueue,
  Effect.flatMap(makeStoreMemory(), (store) => make({ store }))
)

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
 * Decides an escalation.
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
 * What to ask, for {@link ask}: a {@link Submission} with the `name` of the step. Run, step and de-duplication come
 * from the run around.
 *
 * @category models
 * @since 0.1.0
 */
export interface Question<Accepts extends Schema.Constraint = never>
  extends Omit<Submission, "runId" | "step" | "dedupeKey" | "accepts">
{
  readonly name: string
  readonly accepts?: Accepts | undefined
}

/**
 * Asks for a decision inside a run, as a step of it.
 *
 * **When to use**
 *
 * Use it before an action that must be approved, or after a failure that no policy resolves.
 *
 * **Details**
 *
 * The escalation is opened once for the run and the step, however often the run is resumed. As long as it is undecided
 * the run ends with `Checkpoint.RunSuspended`. Once it is decided, here or in another process, running the run again
 * answers the decision, which is recorded in its journal and never asked for again. With `accepts` a supplied value is
 * one that this schema decodes.
 *
 * Fails with
 * - `Checkpoint.RunSuspended`: there is no decision yet.
 * - {@link EscalationError}: `Expired`, if its time ran out: running the run again asks anew, with a new deadline.
 *   `InvalidDecision`, if the supplied value does not decode: nothing is recorded, `reopen` the escalation to have it
 *   decided again. Otherwise the failure of the store.
 * - the errors of a step, `Checkpoint.StepError`.
 *
 * **Example** (Waiting for an approval)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Checkpoint, CheckpointStore, EscalationQueue } from "effect-resilience"
 *
 * const transfer = EscalationQueue.ask({ name: "approval", reason: "IrreversibleAction", task: "pay 900 to ann?" }).pipe(
 *   Effect.map((decision) => decision._tag === "Approve" ? "paid" : "kept"),
 *   Checkpoint.run({ id: "transfer-1" })
 * )
 *
 * const program = Effect.gen(function*() {
 *   const suspended = yield* Effect.flip(transfer)
 *   const queue = yield* EscalationQueue.EscalationQueue
 *   const [waiting] = yield* queue.list({ status: "open" })
 *   if (waiting !== undefined) yield* queue.decide(waiting.id, { _tag: "Approve" }, { by: "bob" })
 *   return [suspended._tag, yield* transfer]
 * })
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => ["RunSuspended", "paid"]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const ask = <Accepts extends Schema.Constraint = never>(
  question: Question<Accepts>
): Effect.Effect<
  Decision,
  EscalationError | Checkpoint.RunSuspended | Checkpoint.StepError,
  EscalationQueue | Checkpoint.Run | Accepts["DecodingServices"]
> => Effect.map(answered(question), ({ decision }) => decision)

const Answer = Schema.TaggedStruct("Answer", { id: Schema.String, decision: Decision })

/** One question and what became of it: an answer, or none in time. */
const Round = Schema.Union([
  Answer,
  Schema.TaggedStruct("Expired", { id: Schema.String, at: Schema.DateTimeUtcFromMillis })
])

/**
 * The decision as a step. It is checked, and cannot be taken back any more, before it is written into the journal: from
 * there it could not be taken back.
 */
const answered = <Accepts extends Schema.Constraint = never>({ name, ...submission }: Question<Accepts>) => {
  const { accepts } = submission

  const once = Effect.fnUntraced(function*(runId: string, step: string) {
    const queue = yield* EscalationQueue
    // The journal knows which question it is: a run that was cleared and begins anew under the same id must not find
    // the approval that the old one was given.
    const question = yield* Checkpoint.step("question", { success: Schema.String }, randomId)
    const dedupeKey = `${runId}/${step}/${question}`
    while (true) {
      const escalation = yield* queue.submit({ ...submission, runId, step, dedupeKey })
      const { expiresAt, id, resolution, status } = escalation
      if (resolution !== undefined) {
        const { decision } = resolution
        if (accepts !== undefined && decision._tag === "Supply") yield* supplied(accepts, id, decision.value)
        if (resolution.used !== true && !(yield* queue.confirm(escalation))) continue
        return Answer.make({ id, decision })
      }
      if (status === "expired" && expiresAt !== undefined) return { _tag: "Expired" as const, id, at: expiresAt }
      const reason = `waiting for a decision (${submission.reason})`
      return yield* new Checkpoint.RunSuspended({ runId, step, escalationId: id, reason })
    }
  })

  return Checkpoint.step(
    name,
    { success: Answer },
    Effect.gen(function*() {
      const { runId, scope: step } = yield* Checkpoint.current
      while (true) {
        let told = true
        const round = yield* Checkpoint.step(
          "round",
          { success: Round },
          Effect.suspend(() => {
            told = false
            return once(runId, step)
          })
        )
        if (round._tag === "Answer") return round
        // Said once, by the run that found it out; the next one asks anew.
        if (!told) {
          const { at, id } = round
          return yield* new EscalationError({ operation: "ask", id, reason: { _tag: "Expired", at } })
        }
      }
    })
  )
}

/** The value that a supervisor supplied, as the program reads it. */
const supplied = <Success extends Schema.Constraint>(success: Success, id: string, value: Schema.Json) =>
  Effect.mapError(
    Schema.decodeUnknownEffect(Schema.toCodecJson(success))(value),
    ({ message: issue }) =>
      new EscalationError({ operation: "ask", id, reason: { _tag: "InvalidDecision", decision: "Supply", issue } })
  )

/**
 * Creates a `reconcile` for `Checkpoint.step` that asks a supervisor whether the step took effect.
 *
 * **Details**
 *
 * `task` says what may have happened, `success` is the schema of the step's result. `Retry` says that it has not
 * happened and executes it again; `Supply` says that it has, and with which result; `Reject` and `Abandon` end it.
 * Without a decision the run is suspended.
 *
 * Fails with
 * - {@link Abandoned}: the decision was `Reject` or `Abandon`.
 * - {@link EscalationError}: `InvalidDecision`, if the supplied value does not decode; nothing is recorded, `reopen` the
 *   escalation to have it decided again. Otherwise as {@link ask}.
 *
 * **Example** (Asking whether a payment went out)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Checkpoint, CheckpointStore, EscalationQueue } from "effect-resilience"
 *
 * const reconcile = EscalationQueue.reconcile({ task: "did payment 7 go out? supply its number", success: Schema.Int })
 *
 * const pay = Checkpoint.step(
 *   "pay",
 *   { success: Schema.Int, effects: "atMostOnce", reconcile },
 *   Effect.die("the connection broke in the middle")
 * ).pipe(Checkpoint.run({ id: "payment-7" }))
 *
 * const program = Effect.gen(function*() {
 *   const suspended = yield* Effect.flip(pay)
 *   const queue = yield* EscalationQueue.EscalationQueue
 *   const [waiting] = yield* queue.list({ status: "open" })
 *   if (waiting !== undefined) yield* queue.decide(waiting.id, { _tag: "Supply", value: 4711 })
 *   return [suspended._tag, yield* pay]
 * })
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => ["RunSuspended", 4711]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const reconcile = <Success extends Schema.Constraint>(
  options: Omit<Question, "name" | "reason" | "decisions" | "accepts"> & { readonly success: Success }
): Effect.Effect<
  Checkpoint.Reconciliation<Success["Type"]>,
  Abandoned | EscalationError | Checkpoint.RunSuspended | Checkpoint.StepError,
  EscalationQueue | Checkpoint.Run | Success["DecodingServices"]
> => {
  const { success, ...submission } = options
  return Effect.gen(function*() {
    const { decision, id } = yield* answered({
      ...submission,
      name: "decision",
      reason: "AmbiguousState",
      decisions: ["Retry", "Supply", "Reject", "Abandon"],
      accepts: success
    })
    switch (decision._tag) {
      case "Supply":
        return Checkpoint.happened(yield* supplied(success, id, decision.value))
      case "Reject":
      case "Abandon":
        return yield* new Abandoned({ escalationId: id, decision: decision._tag, reason: decision.reason })
      case "Approve":
      case "Retry":
        return Checkpoint.notHappened
    }
  })
}
