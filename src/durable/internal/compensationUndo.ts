import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"
import * as SchemaTransformation from "effect/SchemaTransformation"
import * as logged from "../../internal/logged.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as EscalationQueue from "../EscalationQueue.ts"
import { CheckpointCorrupt, CheckpointMismatch } from "./checkpointErrors.ts"
import type { FailedSaga } from "./checkpointJournal.ts"
import { inside, type Run } from "./checkpointRun.ts"
import * as Scope from "./checkpointScope.ts"
import * as Step from "./checkpointStep.ts"
import { keyOf } from "./checkpointTools.ts"
import type { Undoable } from "./checkpointUndo.ts"
import {
  type Handler,
  Handlers,
  isSagaError,
  type Prepared,
  type SagaError,
  type Settled,
  type Undoing
} from "./compensationModel.ts"

type Service = Run["Service"]

/** A failure of a compensation as the journal has it: what it was, and nothing of what it said, which may be a secret. */
class CompensationFailed extends Schema.TaggedError<CompensationFailed>(
  "effect-resilience/durable/Compensation/CompensationFailed"
)("CompensationFailed", { failure: Schema.optionalKey(Schema.String) }) {
  override get message() {
    return this.failure === undefined ? "the compensation failed" : `the compensation failed with ${this.failure}`
  }
}

/** @internal */
export const tagOf = (error: unknown): string | undefined =>
  Predicate.hasProperty(error, "_tag") && typeof error._tag === "string" ? error._tag : undefined

// Whatever a compensation fails with is remembered, so that it does not run again on its own. What the journal itself
// fails with is not: the run is resumed, and comes here again.
const Failure = Schema.Struct({ failure: Schema.optionalKey(Schema.String) }).pipe(
  Schema.decodeTo(
    Schema.Unknown,
    SchemaTransformation.transformEffect({
      decode: (fields) => Effect.succeed(new CompensationFailed(fields)),
      encode: (error: unknown) => {
        if (isSagaError(error)) return Effect.fail(new SchemaIssue.InvalidValue())
        const failure = tagOf(error)
        return Effect.succeed(failure === undefined ? {} : { failure })
      }
    })
  )
)

const Done = Schema.Literals(["undone", "byHand"])

/** People have decided to leave the step as it is. */
class Left extends Schema.TaggedError<Left>("effect-resilience/durable/Compensation/Left")("Left", {}) {}

/** A defect of a compensation that may run again. Where it must not happen twice, the step makes more of it. */
class Died extends Schema.TaggedError<Died>("effect-resilience/durable/Compensation/Died")("Died", {
  cause: Schema.Defect()
}) {}

type Item =
  | { readonly _tag: "Step"; readonly position: number; readonly key: string; readonly undoable: Undoable }
  | { readonly _tag: "Saga"; readonly position: number; readonly saga: FailedSaga }

/** What there is to undo in a saga, the latest first: its steps, and what sagas inside have not finished. */
const itemsOf = ({ journal }: Service, { id }: Pick<FailedSaga, "id">): ReadonlyArray<Item> => {
  const failed = Array.from(journal.failedSagas().values()).filter((other) => Scope.isInSaga(other.id, id))
  const isOwn = (path: string) => Scope.isInSaga(path, id) && !failed.some((other) => path.startsWith(`${other.id}/`))
  const sagas = failed.filter((other) => isOwn(other.id)).map((saga): Item => ({
    _tag: "Saga",
    position: saga.position,
    saga
  }))
  const counts = new Map<string, number>()
  const steps = journal.undoables.all().filter(({ step }) => isOwn(step)).map((undoable): Item => {
    const { position, step } = undoable
    const count = (counts.get(step) ?? 0) + 1
    counts.set(step, count)
    const key = `${step.slice(id.length + 1)}${count === 1 ? "" : `#${count}`}`
    return { _tag: "Step", position, key, undoable }
  })
  return [...steps, ...sagas].toSorted((one, other) => other.position - one.position)
}

const readInput = ({ journal, runId }: Service, { input, step }: Undoable, { name, prepare }: Handler) =>
  Effect.mapError(prepare(input ?? null), (detail) => {
    const corrupt = new CheckpointCorrupt({ runId, step, detail: `what "${name}" undoes it from: ${detail}` })
    journal.halt(corrupt)
    return corrupt
  })

/**
 * Fails if there is a step that this program cannot undo: an earlier one named a compensation that it does not list, or
 * whose input it cannot read. Nothing is written then: it is for another program to go on with.
 *
 * @internal
 */
export const undoable = Effect.fnUntraced(function*(
  run: Service,
  saga: Pick<FailedSaga, "id">,
  handlers: ReadonlyMap<string, Handler>
) {
  const { journal, runId, scope } = run
  for (const one of journal.undoables.all().filter(({ step }) => Scope.isInSaga(step, saga.id))) {
    const handler = handlers.get(one.name)
    if (handler === undefined) {
      const expected = `step "${one.step}", which "${one.name}" undoes,`
      const found = `the saga "${saga.id}" without "${one.name}"`
      const mismatch = new CheckpointMismatch({ runId, reason: "Order", scope, expected, found })
      journal.halt(mismatch)
      return yield* mismatch
    }
    if (one.input !== undefined) yield* readInput(run, one, handler)
  }
})

const decisions = ["Retry", "Approve", "Reject", "Abandon"] as const

/** Undoes one step, in a scope of its own. */
const settle = (
  run: Service,
  saga: FailedSaga,
  { key, undoable }: Extract<Item, { readonly _tag: "Step" }>,
  handler: Handler
) => {
  const { journal, runId } = run
  const { inDoubt, step } = undoable
  const { atMostOnce, name, retry } = handler
  const undoing: Undoing = { runId, saga: saga.id, step, idempotencyKey: keyOf(journal, step), inDoubt }
  const context = { saga: saga.id, step, compensation: name, ...(inDoubt ? { inDoubt } : {}) }
  const settled = (outcome: Settled["outcome"]): Settled => ({ step, compensation: name, outcome })

  const ask = (reason: EscalationQueue.Reason, error: unknown) =>
    EscalationQueue.ask({
      name: "decision",
      reason,
      task: reason === "AmbiguousState"
        ? `Did "${name}" undo step "${step}" of saga "${saga.id}"? It was cut off. Retry runs it again, Approve says ` +
          "that it is done, Reject and Abandon leave the step as it is."
        : `"${name}" could not undo step "${step}" of saga "${saga.id}". Retry runs it again, Approve says that it was ` +
          "done by hand, Reject and Abandon leave the step as it is.",
      error,
      context,
      decisions
    })

  const attempt = Effect.fnUntraced(function*(prepared: Prepared<never>) {
    let failure: unknown
    const execute = prepared.execute(undoing).pipe(
      Effect.as("undone" as const),
      atMostOnce ? (self) => self : Effect.catchDefect((cause) => Effect.fail(new Died({ cause }))),
      Effect.tapError((error) =>
        Effect.sync(() => {
          failure = error
        })
      )
    )
    const reconcile = Effect.gen(function*() {
      const own = yield* prepared.reconcile(undoing).pipe(
        Effect.catch((error) =>
          isSagaError(error) ? Effect.fail(error) : Effect.as(
            logged.warning(`reconcile of compensation "${name}" failed, people are asked instead`, error),
            { _tag: "Unknown" as const }
          )
        )
      )
      if (own._tag === "NotHappened") return own
      if (own._tag === "Happened") return { _tag: "Happened" as const, value: "undone" as const }
      const decision = yield* ask("AmbiguousState", failure)
      switch (decision._tag) {
        case "Retry":
          return { _tag: "NotHappened" as const }
        case "Approve":
        case "Supply":
          return { _tag: "Happened" as const, value: "byHand" as const }
        case "Reject":
        case "Abandon":
          return yield* new Left()
      }
    })
    const options = { success: Done, error: Failure, atMostOnce, retry, reconcile, undo: undefined }
    const step_: Effect.Effect<typeof Done.Type, unknown, Run | EscalationQueue.EscalationQueue> = Step.step(
      name,
      options,
      execute
    )
    const result = yield* Effect.result(step_)
    if (Result.isSuccess(result)) return Option.some(settled(result.success))
    const error = result.failure
    if (error instanceof Left) return Option.some(settled("left"))
    if (isSagaError(error)) return yield* Effect.fail(error)
    if (failure !== undefined) {
      yield* Telemetry.emit(() => ({ _tag: "CompensationFailed", runId, step, compensation: name }))
    }
    const decision = yield* ask("MaxRetriesExceeded", failure ?? error)
    switch (decision._tag) {
      case "Retry":
        return Option.none<Settled>()
      case "Approve":
      case "Supply":
        return Option.some(settled("byHand"))
      case "Reject":
      case "Abandon":
        return Option.some(settled("left"))
    }
  })

  const body = Effect.gen(function*() {
    let known = undoable
    if (inDoubt && undoable.input === undefined) {
      const decision = yield* handler.ask({
        name: "doubt",
        reason: "AmbiguousState",
        task: `Did step "${step}" of saga "${saga.id}" take effect? Its saga has failed. Supply what "${name}" is to ` +
          "undo it from, Approve if there is nothing left to undo, Reject and Abandon leave it as it is.",
        context,
        decisions: ["Supply", "Approve", "Reject", "Abandon"]
      })
      if (decision._tag !== "Supply") return settled(decision._tag === "Approve" ? "byHand" : "left")
      known = { ...undoable, input: decision.value }
    }
    const prepared = yield* readInput(run, known, handler)
    while (true) {
      const done = yield* attempt(prepared)
      if (Option.isSome(done)) return done.value
    }
  })
  // A saga inside of a compensation is nobody else's to undo.
  return inside(Effect.provideService(body, Handlers, undefined), run, Scope.insideUndo(saga, key))
}

/**
 * Undoes what the steps of a failed saga have done, the latest first, and gives what became of each. One fiber at a time
 * does it: of two, each would do what the other does.
 *
 * @internal
 */
export const undoAll = (
  run: Service,
  saga: FailedSaga,
  handlers: ReadonlyMap<string, Handler>,
  onStuck: "wait" | "continue"
): Effect.Effect<ReadonlyArray<Settled>, SagaError, EscalationQueue.EscalationQueue> => {
  const one = (item: Item): ReturnType<typeof undoAll> => {
    if (item._tag === "Saga") return undoAll(run, item.saga, handlers, onStuck)
    const handler = handlers.get(item.undoable.name)
    // Looked for before anything was undone.
    return handler === undefined ? Effect.succeed([]) : Effect.map(settle(run, saga, item, handler), (one) => [one])
  }
  return Effect.acquireUseRelease(
    Effect.suspend(() =>
      run.journal.undoing(saga.id) ? Effect.void : Effect.fail(Step.concurrent(run, saga.id, saga.id))
    ),
    Effect.fnUntraced(function*() {
      const done: Array<Settled> = []
      let stuck: SagaError | undefined
      for (const item of itemsOf(run, saga)) {
        const result = yield* Effect.result(one(item))
        if (Result.isSuccess(result)) done.push(...result.success)
        else if (onStuck === "wait" || !isForPeople(result.failure)) return yield* Effect.fail(result.failure)
        else stuck ??= result.failure
      }
      return stuck === undefined ? done : yield* Effect.fail(stuck)
    }),
    () => Effect.sync(() => run.journal.undoingEnded(saga.id))
  )
}

// What waits for people, or could not ask them, keeps nothing else from being undone. What the journal fails with does.
const isForPeople = (error: SagaError): boolean => error._tag === "RunSuspended" || error._tag === "EscalationError"
