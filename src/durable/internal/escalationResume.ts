import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Layer from "effect/Layer"
import * as Metric from "effect/Metric"
import * as Option from "effect/Option"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as config from "../../internal/config.ts"
import * as logged from "../../internal/logged.ts"
import { named } from "../../internal/metricRecorder.ts"
import { table } from "../../internal/metricTable.ts"
import { nameOf } from "../../internal/withheld.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as Checkpoint from "../Checkpoint.ts"
import { CheckpointStore, CheckpointStoreError, type RunStatus } from "../CheckpointStore.ts"
import * as Life from "./checkpointLife.ts"
import { type Escalation, EscalationError } from "./escalationModel.ts"
import { EscalationQueue } from "./escalationService.ts"

/** @internal */
export const defaults = { concurrency: 8, interval: "10 seconds", maxInterval: "10 minutes" } as const

/**
 * Options of {@link resumeRuns}.
 *
 * **Details**
 *
 * - `resume`: runs the program of a run again, as `Checkpoint.run` with its id. How it ends is its own affair, as long as
 *   the run has heard of the outcome; see {@link resumeRuns} for when it has not.
 * - `only`: which escalations are for this program, where several programs share a queue. Default: all.
 * - `concurrency`: how many runs are resumed at a time. Default: 8.
 * - `interval`: how often it records what has run out of time, and looks again for runs that could not be resumed (another
 *   process works on them, the store was away). Default: 10 seconds. What is decided is heard of at once, or as fast as
 *   the queue hears of other processes.
 * - `maxInterval`: a run that was resumed and has not heard of the outcome is resumed again after the `interval`, then
 *   after twice that, and so on, up to this. Default: 10 minutes.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResumeRunsOptions<E, R> {
  readonly resume: (runId: string, escalation: Escalation) => Effect.Effect<unknown, E, R>
  readonly only?: ((escalation: Escalation) => boolean) | undefined
  readonly concurrency?: number | undefined
  readonly interval?: Duration.Input | undefined
  readonly maxInterval?: Duration.Input | undefined
}

const isLeased = Schema.is(Checkpoint.RunLeased)
const isSuspended = Schema.is(Checkpoint.RunSuspended)
const isStoreError = Schema.is(CheckpointStoreError)
const isEscalationError = Schema.is(EscalationError)

/** How many outcomes that their runs have not heard of yet are remembered with their attempts. */
const rememberedAttempts = 10_000

const isOver = (status: RunStatus): boolean =>
  status === "completed" || status === "cancelled" || status === "deadLettered"

/** Whether the run has not got on because of something outside of it. */
const isHindered = (error: unknown): boolean =>
  isLeased(error) || isStoreError(error) || (isEscalationError(error) && error.reason._tag === "Unavailable")

// A decision may land while the run is about to be suspended: it is free in a moment.
const aMoment = { while: isLeased, schedule: Schedule.exponential("20 millis"), times: 5 } as const

/**
 * Resumes the runs that were decided, here or in another process, or whose time to decide ran out, for ever.
 *
 * **When to use**
 *
 * Use it in the process that works on runs. A run that waits for a person is not there, only its journal is: it takes no
 * fiber, no lease and no memory, and this is what brings it back.
 *
 * **Details**
 *
 * An outcome stays undelivered in the store until the run has heard of it, whatever happens in between: the decision
 * may be made before the run is suspended, while it is, or after this process was killed and started again, in the middle
 * of resuming it. Each outcome is delivered at least once; the journal makes of it once. Several processes may do this
 * side by side: one of them resumes the run, the others find its lease taken.
 *
 * A run has heard of an outcome when it goes on with it (`resolution.used`), fails because of it (`Expired`,
 * `InvalidDecision`), or is over: completed, cancelled, dead-lettered or cleared. That `resume` succeeded or failed is not
 * enough: the program may be another one than wrote the journal (`CheckpointMismatch`, `RunConflict`), may have failed
 * before it came to the run, or may have answered without it. Such an outcome is kept, and its run resumed again, at a
 * falling rate (see `maxInterval`), by this process and by those after it. Each time it is logged as a warning, and is an
 * event: `EscalationUndelivered`.
 *
 * A run that is completed, cancelled or dead-lettered is not resumed; one that is not in the `CheckpointStore` is left
 * alone. Fails with `EscalationError` when the queue fails for good.
 *
 * **Example** (Deciding, and nothing else)
 *
 * ```ts import.meta.vitest
 * import { Deferred, Effect, Layer } from "effect"
 * import { Checkpoint, CheckpointStore, EscalationQueue } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const paid = yield* Deferred.make<string>()
 *   const transfer = (id: string) =>
 *     EscalationQueue.ask({ name: "approval", reason: "IrreversibleAction", task: "pay 900 to ann?" }).pipe(
 *       Effect.flatMap(({ _tag }) => Deferred.succeed(paid, _tag)),
 *       Checkpoint.run({ id })
 *     )
 *   yield* Effect.forkChild(EscalationQueue.resumeRuns({ resume: transfer }))
 *
 *   yield* Effect.flip(transfer("transfer-1")) // RunSuspended
 *   const [asked] = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list())
 *   yield* EscalationQueue.decide(asked?.id ?? "", { _tag: "Approve" }, { by: "bob" })
 *   return yield* Deferred.await(paid)
 * })
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => "Approve"
 * ```
 *
 * @category resuming
 * @since 0.1.0
 */
export const resumeRuns = <E, R>(
  options: ResumeRunsOptions<E, R>
): Effect.Effect<never, EscalationError, EscalationQueue | CheckpointStore | R> => {
  const module = "EscalationQueue.resumeRuns"
  const concurrency = config.integer(module, "concurrency", options.concurrency ?? defaults.concurrency, 1)
  const interval = config.duration(module, "interval", options.interval ?? defaults.interval, { minimum: "1 millis" })
  const longest = config.duration(module, "maxInterval", options.maxInterval ?? defaults.maxInterval, {
    minimum: "1 millis"
  })
  const isOurs = options.only ?? (() => true)

  return Effect.gen(function*() {
    const queue = yield* EscalationQueue
    const runs = Life.bounded(yield* CheckpointStore, Life.patience)
    /** What each run that is being resumed is still to hear of. */
    const busy = new Map<string, Map<string, Escalation>>()
    /** How often the run of an outcome was resumed without hearing of it, and until when it is let be. */
    const attempts = new Map<string, { readonly outcome: number; readonly count: number; readonly until: number }>()

    /** Whether the run has heard of the outcome. */
    const wake = Effect.fnUntraced(function*(escalation: Escalation, runId: string) {
      const run = yield* runs.get(runId)
      if (Option.isNone(run)) return false
      const { status } = run.value
      if (isOver(status)) return true
      const { id } = escalation
      const before = yield* queue.get(id)
      const exit = yield* Effect.exit(
        Effect.retry(options.resume(runId, escalation), aMoment)
      )
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      if (Exit.isFailure(exit) && isHindered(error)) {
        yield* logged.debug(`run "${runId}" could not be resumed with a decision yet`, exit.cause)
        return false
      }
      const now = Option.map(yield* runs.get(runId), ({ status }) => status)
      if (Option.isNone(now) || isOver(now.value)) return true
      if (yield* hasHeard(before, exit, error, now.value)) {
        if (Exit.isFailure(exit) && !isSuspended(error)) {
          const how = Exit.hasDies(exit) ? "ended with a defect" : "failed"
          yield* logged.debug(`run "${runId}" was resumed with a decision, and ${how}`, exit.cause)
        }
        return true
      }
      yield* notHeard(escalation, runId, exit, error)
      return false
    })

    const hasHeard = Effect.fnUntraced(function*(
      before: Escalation,
      exit: Exit.Exit<unknown, unknown>,
      error: unknown,
      status: RunStatus
    ) {
      // It may have been stopped before the journal had it.
      if (Exit.isFailure(exit) && Exit.hasInterrupts(exit)) return false
      if (isEscalationError(error) && error.id === before.id) return true
      const isElsewhere = isSuspended(error) && error.escalationId !== before.id
      const { closed, resolution } = yield* queue.get(before.id)
      if (resolution === undefined) return closed !== undefined && (isElsewhere || status === "failed")
      if (resolution.used !== true) return false
      // One that was used before was not in the journal, maybe, when a process was killed: now the run has to get on.
      return before.resolution?.used !== true || isElsewhere || status === "failed"
    })

    const notHeard = Effect.fnUntraced(function*(
      { id, revision }: Escalation,
      runId: string,
      exit: Exit.Exit<unknown, unknown>,
      error: unknown
    ) {
      const known = attempts.get(id)
      const count = known?.outcome === revision ? known.count + 1 : 1
      const wait = Math.min(Duration.toMillis(interval) * 2 ** Math.min(count - 1, 50), Duration.toMillis(longest))
      attempts.delete(id)
      attempts.set(id, { outcome: revision, count, until: (yield* Clock.currentTimeMillis) + wait })
      const oldest = attempts.keys().next().value
      if (attempts.size > rememberedAttempts && oldest !== undefined) attempts.delete(oldest)
      const told = Exit.isSuccess(exit) ? "none" : Exit.hasDies(exit) ? "defect" : nameOf(error ?? "interruption")
      yield* Telemetry.emit(() => ({
        _tag: "EscalationUndelivered",
        id,
        runId,
        attempts: count,
        error: told,
        retryInMillis: wait
      }))
      const message = `run "${runId}" was resumed with the outcome of escalation "${id}" and has not heard of it ` +
        `(attempt ${count}, the next one in ${
          Duration.format(Duration.millis(wait))
        } or later); the outcome is kept. ` +
        "Resume it with the program that wrote its journal, or cancel the run"
      yield* Exit.isFailure(exit) ? logged.warning(message, exit.cause) : Effect.logWarning(message)
    })

    const deliverOne = (escalation: Escalation, runId: string) =>
      wake(escalation, runId).pipe(
        Effect.flatMap((heard) => {
          if (!heard) return Effect.void
          attempts.delete(escalation.id)
          return Effect.asVoid(queue.acknowledge(escalation))
        }),
        // Whatever it was, it is undelivered and comes again.
        Effect.catch((error) => Effect.logDebug(`run "${runId}" could not be looked at`, error))
      )

    /** An outcome that is new is told at once. */
    const isWaiting = ({ id, revision }: Escalation, now: number): boolean => {
      const known = attempts.get(id)
      return known !== undefined && known.outcome === revision && now < known.until
    }

    const deliver = (escalation: Escalation) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const { id, runId } = escalation
        if (runId === undefined || isWaiting(escalation, now) || !isOurs(escalation)) return Effect.void
        const others = busy.get(runId)
        if (others !== undefined) return Effect.sync(() => others.set(id, escalation))
        const mine = new Map([[id, escalation]])
        busy.set(runId, mine)
        return Effect.whileLoop({
          while: () => mine.size > 0,
          body: () => {
            const [next = escalation] = mine.values()
            mine.delete(next.id)
            return deliverOne(next, runId)
          },
          step: () => undefined
        }).pipe(Effect.ensuring(Effect.sync(() => busy.delete(runId))))
      })

    // From the start again at every interval: what was let go because its run was at work comes once more.
    return yield* Stream.concat(Stream.drain(Stream.fromEffect(queue.expire)), queue.undelivered).pipe(
      Stream.interruptWhen(Effect.sleep(interval)),
      Stream.forever,
      Stream.tapError((error) => Effect.logWarning("the escalation queue fails, and runs are not resumed", error)),
      Stream.retry(Schedule.while(Schedule.spaced(interval), ({ input }) => isHindered(input))),
      Stream.mapEffect(deliver, { concurrency, unordered: true }),
      Stream.runDrain,
      Effect.andThen(Effect.never)
    )
  })
}

/**
 * Resumes runs as long as the layer lives, see {@link resumeRuns}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerResumeRuns = <E, R>(
  options: ResumeRunsOptions<E, R>
): Layer.Layer<never, never, EscalationQueue | CheckpointStore | R> =>
  Layer.effectDiscard(
    Effect.forkScoped(
      Effect.tapError(resumeRuns(options), (error) => Effect.logError("no runs are resumed any more", error))
    )
  )

/**
 * How many escalations wait for a decision: the gauge `effect_resilience_escalation_depth`, as {@link measure} last saw it.
 *
 * @category metrics
 * @since 0.1.0
 */
export const depthGauge: Metric.Gauge<number> = Metric.gauge(...named(table.escalationDepth))

/**
 * For how many seconds the oldest of them has been waiting, 0 without any: the gauge
 * `effect_resilience_escalation_oldest_age_seconds`, as {@link measure} last saw it.
 *
 * @category metrics
 * @since 0.1.0
 */
export const oldestAgeGauge: Metric.Gauge<number> = Metric.gauge(...named(table.escalationAge))

/**
 * Sets {@link depthGauge} and {@link oldestAgeGauge} to what the queue says now.
 *
 * **Example** (Reading the gauges)
 *
 * ```ts import.meta.vitest
 * import { Effect, Metric } from "effect"
 * import { EscalationQueue } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   yield* EscalationQueue.submit({ reason: "RequiresHuman", task: "may I?" })
 *   yield* EscalationQueue.measure
 *   return (yield* Metric.value(EscalationQueue.depthGauge)).value
 * })
 *
 * await Effect.runPromise(Effect.provide(program, EscalationQueue.layerMemory)) // => 1
 * ```
 *
 * @category metrics
 * @since 0.1.0
 */
export const measure: Effect.Effect<void, EscalationError, EscalationQueue> = EscalationQueue.use((queue) =>
  Effect.gen(function*() {
    const depth = yield* queue.depth
    const age = yield* queue.oldestAge
    yield* Metric.update(depthGauge, depth)
    const oldest = Option.getOrElse(age, () => Duration.zero)
    yield* Metric.update(oldestAgeGauge, Duration.toSeconds(oldest))
    yield* Telemetry.emit(() => ({
      _tag: "EscalationsMeasured",
      depth,
      oldestAgeMillis: Duration.toMillis(oldest)
    }))
  })
)

/**
 * Measures the queue at an interval, as long as the layer lives, for whatever exports Effect's metrics.
 *
 * **Details**
 *
 * `interval` defaults to 15 seconds. The queue is shared, so that one process is enough; several say the same. While the
 * store is away the gauges keep their last values.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMetrics = (
  options: { readonly interval?: Duration.Input | undefined } = {}
): Layer.Layer<never, never, EscalationQueue> => {
  const interval = config.duration("EscalationQueue.layerMetrics", "interval", options.interval ?? "15 seconds", {
    minimum: "1 millis"
  })
  return Layer.effectDiscard(
    measure.pipe(
      Effect.catch((error) => Effect.logWarning("the escalation queue could not be measured", error)),
      Effect.repeat(Schedule.spaced(interval)),
      Effect.forkScoped
    )
  )
}
