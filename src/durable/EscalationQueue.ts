/**
 * Asks a supervisor, a person or another program, what no policy can decide, and resumes with the answer.
 *
 * **When to use**
 *
 * Use it where a program must not go on by itself: something that cannot be undone, an answer nobody is sure of, an
 * outcome that nobody knows. While it waits there is no process, no fiber and no lease.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as PubSub from "effect/PubSub"
import * as RcRef from "effect/RcRef"
import * as Result from "effect/Result"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { boundedJson } from "../internal/boundedJson.ts"
import * as config from "../internal/config.ts"
import * as leaving from "../internal/leaving.ts"
import { sha256 } from "../internal/sha256.ts"
import * as Telemetry from "../Telemetry.ts"
import { CheckpointStore, type CheckpointStoreError } from "./CheckpointStore.ts"
import { excerpt, excerptText, summary } from "./internal/escalationExcerpt.ts"
import * as Input from "./internal/escalationInput.ts"
import {
  DecisionTag,
  Escalation,
  EscalationError,
  type FailureReason,
  Reason,
  Status
} from "./internal/escalationModel.ts"
import {
  type ClaimOptions,
  EscalationQueue,
  pageSize,
  randomId,
  type Submission
} from "./internal/escalationService.ts"
import * as State from "./internal/escalationState.ts"
import { type Changed, type Filter, makeStoreMemory, type Store } from "./internal/escalationStore.ts"

export { ask, cancel, type Question, reconcile } from "./internal/escalationAsk.ts"
export * from "./internal/escalationModel.ts"
export {
  depthGauge,
  layerMetrics,
  layerResumeRuns,
  measure,
  oldestAgeGauge,
  resumeRuns,
  type ResumeRunsOptions
} from "./internal/escalationResume.ts"
export { type ClaimOptions, decide, EscalationQueue, type Submission, submit } from "./internal/escalationService.ts"
export * from "./internal/escalationStore.ts"

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `excerptLimit`: characters of `error`, `state` and `context` that are kept, each. Default: 8000.
 * - `aboutLimit`: characters of `about` at most, as JSON. It is kept in full, or refused. Default: 1,000,000.
 * - `pollInterval`: how often the streams look for what other processes have changed. Default: never.
 * - `storeTimeout`: how long the store may take for an answer, to a read or a write; then it is `Unavailable`. Default: 30
 *   seconds.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly excerptLimit?: number | undefined
  readonly aboutLimit?: number | undefined
  readonly pollInterval?: Duration.Input | undefined
  readonly storeTimeout?: Duration.Input | undefined
}

const waitedMillis = ({ submittedAt }: Escalation, now: number): number =>
  Math.max(0, now - DateTime.toEpochMillis(submittedAt))

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
  const limit = config.integer(
    "EscalationQueue",
    "excerptLimit",
    options.excerptLimit ?? State.defaults.excerptLimit,
    1
  )
  const aboutLimit = config.integer(
    "EscalationQueue",
    "aboutLimit",
    options.aboutLimit ?? State.defaults.aboutLimit,
    1
  )
  const poll = config.duration("EscalationQueue", "pollInterval", options.pollInterval ?? Duration.infinity, {
    minimum: "1 millis",
    infinite: true
  })
  const storeTimeout = config.duration(
    "EscalationQueue",
    "storeTimeout",
    options.storeTimeout ?? State.defaults.storeTimeout,
    {
      minimum: "1 millis"
    }
  )
  const bounded = (operation: string, id?: string) =>
    leaving.timeoutOrElse({
      duration: storeTimeout,
      orElse: () => {
        const reason = { _tag: "Unavailable", cause: new Error("the store did not answer") } as const
        return Effect.fail(new EscalationError(id === undefined ? { operation, reason } : { operation, id, reason }))
      }
    })
  // Only says that something has changed: what, is read from the store. So one place is enough for any number of
  // changes, and a reader that sleeps holds nothing up.
  const touched = yield* Effect.acquireRelease(PubSub.sliding<void>(1), PubSub.shutdown)
  // One for all streams, and none where there is no stream. While it is down, the streams look by themselves.
  const listening = yield* RcRef.make({
    acquire: store.listen === undefined ? Effect.void : Effect.forkScoped(
      Stream.runForEach(store.listen, () => PubSub.publish(touched, undefined)).pipe(
        Effect.tapError((error) => Effect.logDebug("not listening to the escalation queue for now", error)),
        Effect.ignore,
        Effect.repeat(Schedule.spaced("1 second"))
      ),
      { startImmediately: true }
    )
  })
  const ownRuns = yield* Effect.serviceOption(CheckpointStore)

  const asOfNow = (record: Escalation) => Effect.map(Clock.currentTimeMillis, (now) => State.asOf(record, now))

  /** What is decided on is shown as a whole or not at all. */
  const isWhole = Effect.fnUntraced(function*(about: unknown) {
    const json = boundedJson(about, { length: aboutLimit, depth: State.defaults.aboutDepth })
    switch (json._tag) {
      case "Json":
        return
      case "TooLong":
        return yield* new EscalationError({ operation: "submit", reason: { _tag: "TooLong", limit: aboutLimit } })
      default: {
        const issue = `"about" ${
          json._tag === "NotJson"
            ? `is no JSON: it holds ${json.found}`
            : `has more than ${State.defaults.aboutDepth} levels`
        }`
        return yield* new EscalationError({ operation: "submit", reason: { _tag: "InvalidRequest", issue } })
      }
    }
  })

  const recordOf = (submission: Submission, id: string, now: DateTime.Utc): Escalation => {
    const {
      about,
      accepts,
      checkpoint,
      context,
      decisions,
      editLimits,
      edits,
      error,
      reason,
      runId,
      state,
      step,
      task
    } = submission
    const timeToLive = Input.optionally(
      submission.timeToLive,
      (value) => config.duration("EscalationQueue", "timeToLive", value, { minimum: "1 millis" })
    )
    return new Escalation({
      id,
      revision: 0,
      reason: Input.oneOf("reason", Reason, reason),
      task: excerptText(Input.text("task", task), limit),
      decisions: Input.some("decisions", decisions ?? DecisionTag.literals).map((tag) =>
        Input.oneOf("decisions", DecisionTag, tag)
      ),
      submittedAt: now,
      status: "open",
      ...(runId === undefined ? {} : { runId: Input.text("runId", runId) }),
      ...(step === undefined ? {} : { step: Input.text("step", step) }),
      ...(error === undefined ? {} : { error: summary(error, limit) }),
      ...(checkpoint === undefined ? {} : { checkpoint: Input.text("checkpoint", checkpoint) }),
      ...(state === undefined ? {} : { state: excerpt(state, limit) }),
      ...(context === undefined ? {} : { context: excerpt(context, limit) }),
      ...(about === undefined ? {} : { about: excerpt(about, Infinity, State.defaults.aboutDepth) }),
      ...(accepts === undefined
        ? {}
        : Option.match(State.acceptsOf(accepts), { onNone: () => ({}), onSome: (accepts) => ({ accepts }) })),
      // Without a JSON Schema of its own any value may be one: the program has the last word when the run resumes.
      ...(edits === undefined ? {} : { edits: Option.getOrElse(State.acceptsOf(edits), () => ({})) }),
      ...(editLimits === undefined ? {} : {
        editLimits: {
          arguments: config.integer("EscalationQueue", "editLimits.arguments", editLimits.arguments, 1),
          depth: config.integer("EscalationQueue", "editLimits.depth", editLimits.depth, 1)
        }
      }),
      ...(timeToLive === undefined ? {} : { expiresAt: DateTime.addDuration(now, timeToLive) })
    })
  }

  const submit = Effect.fnUntraced(function*(submission: Submission) {
    const now = yield* DateTime.now
    const { dedupeKey } = submission
    const id = dedupeKey === undefined
      ? yield* randomId
      : yield* Input.reading("submit", undefined, () => sha256(Input.text("dedupeKey", dedupeKey)).slice(0, 32))
    if (submission.about !== undefined) yield* isWhole(submission.about)
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
      bounded(operation, id)(store.find(id)),
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
    transition: State.Transition,
    allowed: (record: Escalation) => Effect.Effect<void, EscalationError> = () => Effect.void
  ): Effect.Effect<Escalation, EscalationError> =>
    Effect.gen(function*() {
      const now = yield* Clock.currentTimeMillis
      const before = yield* get(operation, id)
      const after = transition(before, now)
      if (Result.isFailure(after)) return yield* new EscalationError({ operation, id, reason: after.failure })
      if (after.success === before) return before
      yield* allowed(before)
      const written = yield* write(operation, after.success)
      return written ?? (yield* change(operation, id, transition, allowed))
    })

  const runIsNotCancelled = Effect.fnUntraced(function*({ id, runId }: Escalation) {
    const runs = Option.getOrUndefined(Option.orElse(yield* Effect.serviceOption(CheckpointStore), () => ownRuns))
    if (runs === undefined || runId === undefined) return
    const run = yield* bounded("decide", id)(
      Effect.mapError(runs.get(runId), (error) => unreadable("decide", id, error))
    )
    if (Option.isSome(run) && run.value.status === "cancelled") {
      return yield* new EscalationError({ operation: "decide", id, reason: { _tag: "RunCancelled", runId } })
    }
  })

  const expire: Effect.Effect<number, EscalationError> = Effect.gen(function*() {
    let count = 0
    while (true) {
      const now = yield* Clock.currentTimeMillis
      const overdue = yield* bounded("expire")(store.overdue(now, { limit: pageSize }))
      let recorded = 0
      for (const record of overdue) {
        // Who has lost against another writer has nothing to record any more, or finds it again.
        const closed = State.final(State.asOf(record, now), now)
        if ((yield* write("expire", closed)) === undefined) continue
        recorded += 1
        yield* Telemetry.emit(() => ({
          _tag: "EscalationClosed",
          id: record.id,
          runId: record.runId,
          as: "expired",
          waitedMillis: waitedMillis(record, now)
        }))
      }
      count += recorded
      if (overdue.length < pageSize || recorded === 0) return count
    }
  })

  const leaseOf = (operation: string, id: string | undefined, options: ClaimOptions) =>
    Input.reading(operation, id, () => {
      const { by, lease } = options
      const duration = config.duration("EscalationQueue", "lease", lease ?? State.defaults.lease, {
        minimum: "1 millis"
      })
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
      const [oldest] = yield* bounded("claimNext")(
        store.select({ status: "open", reason, runId, limit: pageSize, now })
      )
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
  const page = (subscription: PubSub.Subscription<void>, cursor: number, only: Changed) =>
    Effect.gen(function*() {
      while (true) {
        const { records, revision } = yield* bounded("changes")(
          store.changedSince(cursor, { only, limit: pageSize })
        )
        if (revision > cursor) return [yield* Effect.forEach(records, asOfNow), Option.some(revision)] as const
        const wait = PubSub.take(subscription)
        yield* Duration.isFinite(poll) ? Effect.timeoutOption(wait, poll) : wait
      }
    })

  const watch = (from: Effect.Effect<number, EscalationError>, only: Changed) =>
    Stream.unwrap(Effect.gen(function*() {
      // Subscribed before the first look at the store, so that nothing can come between unheard.
      const subscription = yield* PubSub.subscribe(touched)
      yield* RcRef.get(listening)
      const cursor = yield* from
      return Stream.paginate(cursor, (cursor) => page(subscription, cursor, only))
    }))

  return EscalationQueue.of({
    submit,
    get: (id) => get("get", id),
    list: (filter = {}) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const wanted = yield* Input.reading("list", undefined, () => filterOf(filter))
        const records = yield* bounded("list")(store.select({ ...wanted, now }))
        return records.map((record) => State.asOf(record, now))
      }),
    decide: (id, decision, options) =>
      Effect.gen(function*() {
        const by = yield* Input.reading("decide", id, () => Input.optionally(options?.by, (by) => Input.text("by", by)))
        const decided = yield* change("decide", id, State.decide(decision, by), runIsNotCancelled)
        const now = yield* Clock.currentTimeMillis
        yield* Telemetry.emit(() => ({
          _tag: "EscalationDecided",
          id,
          decision: decision._tag,
          waitedMillis: waitedMillis(decided, now)
        }))
        return decided
      }),
    reopen: (id, options) => change("reopen", id, State.reopen(options?.refused)),
    withdraw: (id, options) =>
      Effect.gen(function*() {
        const why = yield* Input.reading("withdraw", id, () =>
          Input.optionally(options?.reason, (reason) =>
            excerptText(Input.text("reason", reason), limit)))
        const { revision } = yield* get("withdraw", id)
        const withdrawn = yield* change("withdraw", id, State.withdraw(why))
        const { closed, runId } = withdrawn
        if (closed?.as === "withdrawn" && withdrawn.revision !== revision) {
          const now = yield* Clock.currentTimeMillis
          yield* Telemetry.emit(() => ({
            _tag: "EscalationClosed",
            id,
            runId,
            as: "withdrawn",
            waitedMillis: waitedMillis(withdrawn, now)
          }))
        }
        return withdrawn
      }),
    expire,
    confirm: (escalation) =>
      Effect.flatMap(
        Clock.currentTimeMillis,
        (now) => Effect.map(write("confirm", State.final(escalation, now)), (written) => written !== undefined)
      ),
    acknowledge: (told) => change("acknowledge", told.id, State.acknowledge(told)),
    claim: (id, options) =>
      Effect.flatMap(leaseOf("claim", id, options), (transition) => change("claim", id, transition)),
    claimNext,
    release: (id, options) =>
      Effect.flatMap(
        Input.reading("release", id, () => Input.text("by", options.by)),
        (by) => change("release", id, State.release(by))
      ),
    depth: Effect.flatMap(
      Clock.currentTimeMillis,
      (now) => Effect.map(bounded("depth")(store.waiting(now)), ({ count }) => count)
    ),
    oldestAge: Effect.flatMap(Clock.currentTimeMillis, (now) =>
      Effect.map(
        bounded("oldestAge")(store.waiting(now)),
        ({ oldest }) => Option.map(Option.fromUndefinedOr(oldest), (at) => Duration.millis(now - at))
      )),
    changes: watch(bounded("changes")(store.revision), "all"),
    open: Stream.filter(watch(Effect.succeed(-1), "undecided"), ({ status }) => status === "open"),
    undelivered: watch(Effect.succeed(-1), "undelivered"),
    prune: (olderThan) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const age = yield* Input.reading("prune", undefined, () =>
          config.duration("EscalationQueue", "olderThan", olderThan))
        return yield* bounded("prune")(store.prune(now - Duration.toMillis(age)))
      })
  })
})

const isLost = (reason: FailureReason): boolean =>
  reason._tag === "AlreadyClaimed" || reason._tag === "AlreadyDecided" || reason._tag === "Expired" ||
  reason._tag === "Withdrawn" || reason._tag === "NotFound"

const unreadable = (operation: string, id: string, cause: CheckpointStoreError) =>
  new EscalationError({
    operation,
    id,
    reason: { _tag: cause.reason._tag === "Unavailable" ? "Unavailable" : "Rejected", cause }
  })

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
