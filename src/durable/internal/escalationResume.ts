import type * as Cause from "effect/Cause"
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
import * as Telemetry from "../../Telemetry.ts"
import * as Checkpoint from "../Checkpoint.ts"
import { CheckpointStore, CheckpointStoreError } from "../CheckpointStore.ts"
import * as Life from "./checkpointLife.ts"
import { type Escalation, EscalationError } from "./escalationModel.ts"
import { EscalationQueue } from "./escalationService.ts"

/** @internal */
export const defaults = { concurrency: 8, maxAttempts: 10, interval: "10 seconds" } as const

/**
 * Options of {@link resumeRuns}.
 *
 * **Details**
 *
 * - `resume`: runs the program of a run again, as `Checkpoint.run` with its id. How it ends is its own affair: a failure
 *   is in the journal of the run, and logged at debug level here, a defect as a warning.
 * - `only`: which escalations are for this program, where several programs share a queue. Default: all.
 * - `concurrency`: how many runs are resumed at a time. Default: 8.
 * - `interval`: how often it records what has run out of time, and looks again for runs that could not be resumed (another
 *   process works on them, the store was away). Default: 10 seconds. What is decided is heard of at once, or as fast as
 *   the queue hears of other processes.
 * - `maxAttempts`: how often a run is resumed with an outcome without getting on: it was interrupted, or waits for the same
 *   decision again. After that it is logged as a warning and left to other processes, or to the next start of this one.
 *   Default: 10.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResumeRunsOptions<E, R> {
  readonly resume: (runId: string, escalation: Escalation) => Effect.Effect<unknown, E, R>
  readonly only?: ((escalation: Escalation) => boolean) | undefined
  readonly concurrency?: number | undefined
  readonly interval?: Duration.Input | undefined
  readonly maxAttempts?: number | undefined
}

const isLeased = Schema.is(Checkpoint.RunLeased)
const isSuspended = Schema.is(Checkpoint.RunSuspended)
const isStoreError = Schema.is(CheckpointStoreError)
const isEscalationError = Schema.is(EscalationError)

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
 * An outcome stays undelivered in the store until the run was resumed with it, whatever happens in between: the decision
 * may be made before the run is suspended, while it is, or after this process was killed and started again, in the middle
 * of resuming it. Each outcome is delivered at least once; the journal makes of it once. Several processes may do this
 * side by side: one of them resumes the run, the others find its lease taken.
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
  const maxAttempts = config.integer(module, "maxAttempts", options.maxAttempts ?? defaults.maxAttempts, 1)
  const interval = config.duration(module, "interval", options.interval ?? defaults.interval, { minimum: "1 millis" })
  const isOurs = options.only ?? (() => true)

  return Effect.gen(function*() {
    const queue = yield* EscalationQueue
    const runs = Life.bounded(yield* CheckpointStore, Life.patience)
    /** What each run that is being resumed is still to hear of. */
    const busy = new Map<string, Map<string, Escalation>>()
    const attempts = new Map<string, number>()

    /** Whether the run has heard of the outcome, or there is none that could. */
    const wake = Effect.fnUntraced(function*(escalation: Escalation, runId: string) {
      const run = yield* runs.get(runId)
      if (Option.isNone(run)) return false
      const { status } = run.value
      if (status === "completed" || status === "cancelled" || status === "deadLettered") return true
      const exit = yield* Effect.exit(
        Effect.retry(options.resume(runId, escalation), aMoment)
      )
      if (Exit.isSuccess(exit)) return true
      const error = Option.getOrUndefined(Exit.findErrorOption(exit))
      if (isHindered(error)) {
        yield* logged.debug(`run "${runId}" could not be resumed with a decision yet`, exit.cause)
        return false
      }
      if (Exit.hasInterrupts(exit) || (isSuspended(error) && error.escalationId === escalation.id)) {
        return yield* gaveUp(escalation, runId, exit.cause)
      }
      if (Exit.hasDies(exit)) {
        yield* logged.warning(`run "${runId}" was resumed with a decision, and ended with a defect`, exit.cause)
      } else if (!isSuspended(error)) {
        yield* logged.debug(`run "${runId}" was resumed with a decision, and failed`, exit.cause)
      }
      return true
    })

    const gaveUp = ({ id }: Escalation, runId: string, cause: Cause.Cause<unknown>) =>
      Effect.suspend(() => {
        const count = (attempts.get(id) ?? 0) + 1
        attempts.set(id, count)
        return Effect.as(
          count < maxAttempts ? Effect.void : logged.warning(
            `run "${runId}" did not get on with escalation "${id}" in ${count} attempts; run it by hand`,
            cause
          ),
          false
        )
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

    const deliver = (escalation: Escalation) => {
      const { id, runId } = escalation
      if (runId === undefined || (attempts.get(id) ?? 0) >= maxAttempts || !isOurs(escalation)) return Effect.void
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
    }

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
