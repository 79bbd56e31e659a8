import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import * as spans from "../../internal/spans.ts"
import * as Retry from "../../policy/Retry.ts"
import * as Telemetry from "../../Telemetry.ts"
import type { CheckpointStoreError } from "../CheckpointStore.ts"
import { codecOf } from "./checkpointCodec.ts"
import {
  AmbiguousStep,
  CheckpointCorrupt,
  CheckpointMismatch,
  ConcurrentSteps,
  RecordTooLarge,
  RunSuspended,
  StepNotEncodable
} from "./checkpointErrors.ts"
import type { Undo } from "./checkpointRecord.ts"
import { inside, Run } from "./checkpointRun.ts"
import * as Scope from "./checkpointScope.ts"
import { isTried, type Undoer } from "./checkpointUndo.ts"

/**
 * What is known about an attempt whose result was never written.
 *
 * @category models
 * @since 0.1.0
 */
export type Reconciliation<A> =
  | { readonly _tag: "Happened"; readonly value: A }
  | { readonly _tag: "NotHappened" }
  | { readonly _tag: "Unknown" }

/** @internal */
export type Failure =
  | CheckpointStoreError
  | CheckpointCorrupt
  | CheckpointMismatch
  | ConcurrentSteps
  | RecordTooLarge
  | StepNotEncodable

/** @internal */
export const isSuspension = Schema.is(RunSuspended)

const tagged = (error: unknown): { readonly tag?: string } =>
  Predicate.hasProperty(error, "_tag") && typeof error._tag === "string" ? { tag: error._tag } : {}

interface RetryTime {
  readonly since: number
  readonly resumeAt: number
}

interface Doubt {
  readonly doubt?: true
}

interface Undoable {
  readonly undo?: Undo
}

const mayHaveHappened = (error: unknown) =>
  Effect.map(Effect.provideService(Fault.classify(error), Fault.Idempotent, false), Fault.mayHaveHappened)

/** Stands for the failures of earlier lives, of which only their times are known. */
const retried = { [Fault.verdictOf]: Fault.transient }

const notAgain = (_error: unknown) => Effect.succeed<RetryTime | undefined>(undefined)

/** @internal */
export const concurrent = (run: Run["Service"], running: string, requested: string): ConcurrentSteps =>
  new ConcurrentSteps({ runId: run.runId, scope: run.scope, running, requested })

/**
 * Takes the scope around for a step or a group of branches, and runs it unless the journal refuses.
 *
 * @internal
 */
export const claiming = <A, E, R>(
  name: string,
  enter: (scope: Scope.Scope, name: string) => Scope.Claim,
  use: (
    run: Run["Service"],
    claim: Scope.Claim,
    restore: <A2, E2, R2>(effect: Effect.Effect<A2, E2, R2>) => Effect.Effect<A2, E2, R2>
  ) => Effect.Effect<A, E, R>
): Effect.Effect<A, E | Failure, R | Run> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(Run, (run) => {
      const scope = run.place
      if (scope.running !== undefined) return Effect.fail<E | Failure>(concurrent(run, scope.running, name))
      const claim = enter(scope, name)
      const refused = run.journal.refusal(scope, claim)
      const body = refused === undefined ? use(run, claim, restore) : Effect.fail<E | Failure>(refused)
      return Effect.ensuring(body, Effect.sync(() => Scope.leave(scope)))
    })
  )

/**
 * Runs an effect in a scope of its own, which must not end before the journal does.
 *
 * @internal
 */
export const scoped = <A, E, R>(
  effect: Effect.Effect<A, E, R>,
  run: Run["Service"],
  place: Scope.Scope
): Effect.Effect<A, E | CheckpointMismatch, Exclude<R, Run>> =>
  Effect.flatMap(inside(effect, run, place), (value) => {
    const leftOver = run.journal.leftOver(place)
    return leftOver === undefined ? Effect.succeed(value) : Effect.fail(leftOver)
  })

/**
 * The life of one step. Interruptible while the caller's own effects run, and nowhere else: between a result and its
 * record nothing can come.
 *
 * @internal
 */
export const step = <A, E, R, Success extends Schema.Constraint, Remembered extends Schema.Constraint, E2, R2, R3>(
  name: string,
  options: {
    readonly success: Success & { readonly Type: A }
    readonly error: Remembered | undefined
    readonly atMostOnce: boolean
    readonly reconcile: Effect.Effect<Reconciliation<A>, E2, R2> | undefined
    readonly retry: Retry.Policy | undefined
    readonly undo: Undoer<A, R3> | undefined
  },
  execute: Effect.Effect<A, E, R>
) =>
  claiming(name, Scope.enterStep, (run, claim, restore) => {
    const { atMostOnce, reconcile, undo } = options
    const { journal, runId } = run
    const { id, order } = claim
    const success = codecOf(options.success)
    const failure = options.error === undefined ? undefined : codecOf(options.error)

    const halted = <E3 extends CheckpointCorrupt | CheckpointMismatch>(error: E3): E3 => {
      journal.halt(error)
      return error
    }
    const corrupt = (detail: string) => halted(new CheckpointCorrupt({ runId, step: id, detail }))
    const notEncodable = (detail: string) => new StepNotEncodable({ runId, step: id, reason: "Value", detail })
    const completed = (replayed: boolean) =>
      Telemetry.emit(() => ({ _tag: "StepCompleted", runId, step: id, replayed }))
    const failed = (replayed: boolean) => Telemetry.emit(() => ({ _tag: "StepFailed", runId, step: id, replayed }))

    const traced = <A2, E3, R4>(self: Effect.Effect<A2, E3, R4>) =>
      spans.aroundTraced("checkpoint.step", () => ({ "run.id": runId, "step.id": id }), self)

    // Made only for a step that has to be executed: most steps of a resumed run have not.
    const execution = () => {
      // Gives what a resumed program will be given: the value as it comes back out of the record.
      const succeed = (value: A) =>
        Effect.flatMap(Effect.mapError(success.roundTrip(value), notEncodable), ({ decoded, json }) => {
          const write = (undoable: Undoable) =>
            Effect.matchEffect(journal.appendStep(id, { _tag: "StepSucceeded", order, value: json, ...undoable }), {
              onSuccess: () => Effect.as(completed(false), decoded),
              // That it has been executed is remembered all the same, or it would be executed again to the same end.
              onFailure: (error) =>
                error._tag === "RecordTooLarge"
                  ? Effect.andThen(journal.appendStep(id, { _tag: "StepOversized", order, bytes: error.bytes }), error)
                  : Effect.fail(error)
            })
          return undo === undefined
            ? write({})
            : Effect.flatMap(Effect.mapError(undo.succeeded(decoded, json), notEncodable), (undo) => write({ undo }))
        })

      // The outer scope of a reconcile is the attempt: what was found out about one attempt says nothing of the next.
      const settle = (reason: AmbiguousStep["reason"], attempt: number, cause: { readonly cause?: unknown }) =>
        Effect.gen(function*() {
          yield* Telemetry.emit(() => ({ _tag: "StepAmbiguous", runId, step: id }))
          yield* journal.executing
          const tell = Effect.sync(() => journal.told(id))
          const ambiguous = Effect.andThen(tell, new AmbiguousStep({ runId, step: id, reason, ...cause }))
          if (reconcile === undefined) return yield* ambiguous
          const answer = yield* Effect.tapError(
            restore(inside(reconcile, run, Scope.insideReconcile(claim, attempt))),
            () => tell
          )
          switch (answer._tag) {
            case "Happened":
              return Option.some(yield* succeed(answer.value))
            case "NotHappened":
              return Option.none<A>()
            case "Unknown":
              return yield* ambiguous
          }
        })

      // What the error is, but not what it says, which may be a secret. Gives the error that a resumed program will be
      // given, if it is remembered.
      const note = (error: E, verdict: Fault.Verdict, doubt: Doubt) =>
        Effect.gen(function*() {
          const failing = { _tag: "StepFailed", order, verdict: verdict._tag, ...tagged(error), ...doubt } as const
          const written = failure === undefined ? Option.none() : yield* Effect.option(failure.roundTrip(error))
          const remembered = Option.isNone(written)
            ? false
            : yield* journal.appendStep(id, { ...failing, error: written.value.json }).pipe(
              Effect.as(true),
              Effect.catchTag("RecordTooLarge", () => Effect.succeed(false))
            )
          if (!remembered) yield* journal.appendStep(id, failing)
          yield* failed(false)
          return remembered ? Option.map(written, ({ decoded }) => decoded) : Option.none()
        })

      // Schedules count for themselves: the retries of earlier lives are told to a new one again. Gives when a failure is
      // to be followed by another try, and when the first one was.
      const retrying = Effect.suspend(() => {
        const { retry } = options
        if (retry === undefined) return Effect.succeed(notAgain)
        return Effect.gen(function*() {
          const next = yield* Schedule.toStep(Retry.schedule(retry))
          const earlier = journal.outcome(id)?.retry
          for (const time of earlier?.times ?? []) {
            yield* Effect.provideService(Effect.exit(next(time, retried)), Telemetry.Listener, undefined)
          }
          let since = earlier?.since
          return Effect.fnUntraced(function*(error: E) {
            const now = yield* Clock.currentTimeMillis
            since ??= now
            const delay = yield* Effect.option(next(now, error))
            if (Option.isNone(delay)) return undefined
            const resumeAt = Math.ceil(now + Duration.toMillis(delay.value[1]))
            return retry.maxElapsed !== undefined && resumeAt > since + Duration.toMillis(retry.maxElapsed)
              ? undefined
              : { since, resumeAt }
          })
        })
      })

      const until = (time: number) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) => time > now ? restore(Effect.sleep(time - now)) : Effect.void)

      const isTriedAlready = (undo: Undo) => isTried(journal.undoables.of(id), undo)

      // Gives whether it was written what is being tried, and how that would be undone.
      const begin = Effect.flatMap(journal.executing, () => {
        if (undo === undefined) {
          return atMostOnce
            ? Effect.as(journal.intend(id, { _tag: "StepIntended", order }), false)
            : Effect.succeed(false)
        }
        return Effect.flatMap(Effect.mapError(undo.attempted, notEncodable), (undo) => {
          const isNoted = !isTriedAlready(undo)
          if (atMostOnce) return Effect.as(journal.intend(id, { _tag: "StepIntended", order, undo }), isNoted)
          const tried = { _tag: "StepUndoable", order, undo, done: false } as const
          return isNoted ? Effect.as(journal.appendStep(id, tried), true) : Effect.succeed(false)
        })
      })

      // Gives nothing where the step is to be tried again.
      const attempt = (number: number, retryAt: Effect.Success<typeof retrying>) =>
        Effect.flatMap(begin, (isNoted) => {
          let started = false
          const place = Scope.insideStep(claim)
          const work = Effect.suspend(() => {
            started = true
            return inside(execute, run, place)
          })
          return Effect.flatMap(
            Effect.exit(restore(Effect.provideService(work, Fault.Idempotent, !atMostOnce))),
            (exit) => {
              if (Exit.isFailure(exit)) return unsuccessful(exit.cause, number, retryAt, { isNoted, started })
              const leftOver = journal.leftOver(place)
              return leftOver === undefined ? Effect.asSome(succeed(exit.value)) : Effect.fail(leftOver)
            }
          )
        })

      const unsuccessful = (
        cause: Cause.Cause<E>,
        number: number,
        retryAt: Effect.Success<typeof retrying>,
        { isNoted, started }: { readonly isNoted: boolean; readonly started: boolean }
      ) =>
        Effect.gen(function*() {
          const again = Effect.failCause(cause)
          if (journal.isBroken()) return yield* again
          const release = journal.appendStep(id, { _tag: "StepReleased", order })
          if (Cause.hasDies(cause)) {
            yield* failed(false)
            if (!atMostOnce) return yield* again
            const happened = yield* settle("Died", number, { cause: Cause.squash(cause) })
            if (Option.isSome(happened)) return happened
            yield* release
            return yield* again
          }
          const found = Cause.findErrorOption(cause)
          if (Option.isNone(found)) {
            if ((atMostOnce || isNoted) && !started) yield* release
            return yield* again
          }
          const error = found.value
          // What the step had done before it suspended the run, only its reconcile can tell.
          if (isSuspension(error)) return yield* again
          const verdict = yield* Effect.provideService(Fault.classify(error), Fault.Idempotent, !atMostOnce)
          if (atMostOnce && Fault.mayHaveHappened(verdict)) {
            const happened = yield* settle("Failed", number, { cause: error })
            if (Option.isSome(happened)) return happened
          }
          // An earlier attempt that may have happened still may have.
          const doubt: Doubt = !atMostOnce && undo !== undefined && (!isNoted || (yield* mayHaveHappened(error)))
            ? { doubt: true }
            : {}
          const retry = yield* Effect.provideService(retryAt(error), Fault.Idempotent, !atMostOnce)
          if (retry !== undefined) {
            const retried = { _tag: "StepRetried", order, ...retry, verdict: verdict._tag, ...tagged(error) } as const
            yield* journal.appendStep(id, { ...retried, ...doubt })
            yield* until(retry.resumeAt)
            return Option.none<A>()
          }
          const remembered = yield* note(error, verdict, doubt)
          return Option.isSome(remembered) ? yield* Effect.fail(remembered.value) : yield* again
        })

      const tries = (first: number) =>
        Effect.gen(function*() {
          const retryAt = yield* retrying
          for (let number = first;; number++) {
            journal.execute(id, atMostOnce)
            const value = yield* Effect.ensuring(attempt(number, retryAt), Effect.sync(() => journal.executed(id)))
            if (Option.isSome(value)) return value.value
          }
        })

      return { settle, tries, until }
    }

    return Effect.gen(function*() {
      if (success.hasRedacted || failure?.hasRedacted === true || undo?.hasRedacted === true) {
        const detail = "its schema holds a Redacted value, which JSON would show in clear"
        return yield* new StepNotEncodable({ runId, step: id, reason: "Redacted", detail })
      }
      // Lets the fibers that were started together with this one come to their own steps while this scope is taken, so
      // that steps without a scope of their own meet here the first time they run.
      yield* restore(Effect.yieldNow)
      const outcome = journal.outcome(id)
      const attempts = outcome?.attempts ?? 0
      const { maxRecordBytes: limit } = journal
      if (outcome?.oversized !== undefined && outcome.oversized > limit) {
        return yield* new RecordTooLarge({ runId, step: id, operation: "write", bytes: outcome.oversized, limit })
      }
      switch (outcome?._tag) {
        case "Succeeded": {
          const value = yield* Effect.mapError(success.decode(outcome.value), corrupt)
          if (undo !== undefined && journal.undoables.of(id).length === 0) {
            const registered = yield* Effect.mapError(undo.succeeded(value, outcome.value), notEncodable)
            journal.register(claim, { input: outcome.value, ...registered }, outcome.position)
          }
          yield* completed(true)
          return value
        }
        case "Failed": {
          if (failure === undefined) {
            return yield* corrupt("it has a failure, and the step has no error schema any more")
          }
          const error = yield* Effect.mapError(failure.decode(outcome.error), corrupt)
          yield* failed(true)
          return yield* Effect.fail(error)
        }
        case "Intended": {
          if (!atMostOnce) {
            return yield* halted(
              new CheckpointMismatch({
                runId,
                reason: "Effects",
                scope: run.scope,
                expected: `an unfinished attempt at step "${claim.entry}", which must not happen twice,`,
                found: `step "${claim.entry}", which may`
              })
            )
          }
          const { settle, tries } = execution()
          return yield* traced(Effect.flatMap(
            settle("Unfinished", attempts, {}),
            (happened) => Option.isSome(happened) ? Effect.succeed(happened.value) : tries(attempts + 1)
          ))
        }
        default: {
          const unremembered = atMostOnce ? journal.unremembered(run.place, claim) : undefined
          if (unremembered !== undefined) return yield* unremembered
          const { tries, until } = execution()
          const resumeAt = outcome?.retry?.times.at(-1)
          if (resumeAt !== undefined) yield* until(resumeAt)
          return yield* traced(tries(attempts + 1))
        }
      }
    })
  })
