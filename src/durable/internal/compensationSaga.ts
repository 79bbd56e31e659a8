import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { InvalidConfig } from "../../Fault.ts"
import * as Telemetry from "../../Telemetry.ts"
import type * as EscalationQueue from "../EscalationQueue.ts"
import { codecOf } from "./checkpointCodec.ts"
import { CheckpointCorrupt, CheckpointMismatch } from "./checkpointErrors.ts"
import type { FailedSaga } from "./checkpointJournal.ts"
import type { Run } from "./checkpointRun.ts"
import * as Scope from "./checkpointScope.ts"
import * as Step from "./checkpointStep.ts"
import { type Handler, Handlers, isSagaError, type SagaError, SagaFailed } from "./compensationModel.ts"
import { tagOf, undoable, undoAll } from "./compensationUndo.ts"

type Service = Run["Service"]

/** What the journal has of a failure. */
const Written = Schema.Struct({
  reason: Schema.Literals(["Failed", "Died"]),
  failure: Schema.optionalKey(Schema.String),
  error: Schema.optionalKey(Schema.Json)
})

const isFailWith = <E>(reason: Cause.Reason<E>): reason is Cause.Fail<E> => Cause.isFailReason(reason)
const isResumable = (reason: Cause.Reason<unknown>): reason is Cause.Reason<SagaError> =>
  !isFailWith(reason) || isSagaError(reason.error)

const isMistake = Schema.is(InvalidConfig)

/** How a program ended that has not failed: the run is to be resumed. Gives nothing where it has failed for good. */
const resumable = (
  { journal, runId, scope }: Service,
  saga: Scope.Claim,
  { reasons }: Cause.Cause<unknown>
): Effect.Effect<never, SagaError> | undefined => {
  if (journal.isBroken()) return journal.broken
  const halted = journal.halted()
  if (halted !== undefined) return Effect.fail(halted)
  const isForNow = reasons.some((reason) =>
    isFailWith(reason) ? isResumable(reason) : Cause.isDieReason(reason) && isMistake(reason.defect)
  )
  if (isForNow || !reasons.some((reason) => isFailWith(reason) || Cause.isDieReason(reason))) {
    return Effect.failCause(Cause.fromReasons(reasons.filter(isResumable)))
  }
  // What is completed stays as it is, also where its program does not go with it any more.
  if (!journal.isCompleted()) return undefined
  const found = `the failure of ${Scope.describe(saga.entry)}`
  return Effect.fail(new CheckpointMismatch({ runId, reason: "Order", scope, expected: "its end", found }))
}

/** Writes that the saga has failed, and why. */
const fail = Effect.fnUntraced(function*<Failure extends Schema.Constraint>(
  { journal, runId }: Service,
  saga: Scope.Claim,
  schema: Failure | undefined,
  { reasons }: Cause.Cause<unknown>
) {
  const found = reasons.find(isFailWith)
  const failure = found === undefined ? undefined : tagOf(found.error)
  const noted: typeof Written.Type = {
    reason: found === undefined ? "Died" : "Failed",
    ...(failure === undefined ? {} : { failure })
  }
  const written = schema === undefined || found === undefined
    ? Option.none()
    : yield* Effect.option(codecOf(schema).roundTrip(found.error))
  yield* journal.executing
  const withoutError = journal.failSaga(saga, noted)
  const failed = yield* Option.isNone(written)
    ? withoutError
    : Effect.catchTag(
      journal.failSaga(saga, { ...noted, error: written.value.json }),
      "RecordTooLarge",
      () => withoutError
    )
  yield* Telemetry.emit(() => ({ _tag: "SagaFailed", runId, saga: saga.id }))
  return failed
})

const read = <S extends Schema.Constraint>({ journal, runId }: Service, saga: string, schema: S, value: Schema.Json) =>
  Effect.mapError(codecOf(schema).decode(value), (detail) => {
    const corrupt = new CheckpointCorrupt({ runId, step: saga, detail })
    journal.halt(corrupt)
    return corrupt
  })

/** Undoes a saga that has failed, and fails with what it failed with. */
const undo = Effect.fnUntraced(function*<Failure extends Schema.Constraint>(
  run: Service,
  saga: FailedSaga,
  options: Options<Failure>,
  handlers: ReadonlyMap<string, Handler>,
  cause: { readonly cause?: unknown }
): Effect.fn.Return<
  never,
  Failure["Type"] | SagaFailed | SagaError,
  EscalationQueue.EscalationQueue | Failure["DecodingServices"]
> {
  yield* undoable(run, saga, handlers)
  const { error, failure, reason } = yield* read(run, saga.id, Written, saga.value)
  const known = options.error === undefined || error === undefined
    ? Option.none()
    : Option.some(yield* read(run, saga.id, options.error, error))
  const settled = yield* undoAll(run, saga, handlers, options.onStuck)
  if (Option.isSome(known)) return yield* Effect.fail(known.value)
  const { runId } = run
  return yield* new SagaFailed({
    runId,
    saga: saga.id,
    reason,
    ...(failure === undefined ? {} : { failure }),
    settled,
    ...cause
  })
})

/** @internal */
export interface Options<Failure extends Schema.Constraint> {
  readonly name: string
  readonly error: Failure | undefined
  readonly onStuck: "wait" | "continue"
}

const invalid = (value: string, expected: string) =>
  new InvalidConfig({ module: "Compensation.saga", option: "undo", value: JSON.stringify(value), expected })

/** @internal */
export const distinct = <A extends { readonly name: string }>(list: ReadonlyArray<A>): ReadonlyArray<A> => {
  const names = new Set<string>()
  for (const { name } of list) {
    if (names.has(name)) throw invalid(name, "compensations with names of their own")
    names.add(name)
  }
  return list
}

/**
 * The life of one saga.
 *
 * @internal
 */
export const saga = <A, E, R, Failure extends Schema.Constraint>(
  program: Effect.Effect<A, E, R>,
  own: ReadonlyArray<Handler>,
  options: Options<Failure>
) =>
  Step.claiming(options.name, Scope.enterSaga, (run, claim, restore) =>
    Effect.gen(function*() {
      const { journal } = run
      const around = yield* Handlers
      const stranger = around && own.find(({ name }) => !around.has(name))
      if (stranger !== undefined) {
        return yield* Effect.die(invalid(stranger.name, "compensations that the saga around lists too"))
      }
      const handlers = new Map(around)
      for (const handler of own) handlers.set(handler.name, handler)

      const earlier = journal.failedSagas().get(claim.id)
      if (earlier !== undefined) return yield* restore(undo(run, earlier, options, handlers, {}))
      const forward = Effect.provideService(program, Handlers, handlers)
      const exit = yield* Effect.exit(restore(Step.scoped(forward, run, Scope.insideSaga(claim))))
      if (Exit.isSuccess(exit)) return exit.value
      const ended = resumable(run, claim, exit.cause)
      if (ended !== undefined) return yield* ended
      yield* undoable(run, claim, handlers)
      const failed = yield* fail(run, claim, options.error, exit.cause)
      return yield* restore(undo(run, failed, options, handlers, { cause: Cause.squash(exit.cause) }))
    }))
