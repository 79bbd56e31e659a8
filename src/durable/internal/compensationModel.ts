import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import type * as Retry from "../../policy/Retry.ts"
import { CheckpointStoreError } from "../CheckpointStore.ts"
import type * as EscalationQueue from "../EscalationQueue.ts"
import {
  CheckpointCorrupt,
  CheckpointMismatch,
  ConcurrentSteps,
  RecordTooLarge,
  RunSuspended,
  StepNotEncodable
} from "./checkpointErrors.ts"
import type { Run } from "./checkpointRun.ts"
import type { Failure as StepFailure, Reconciliation } from "./checkpointStep.ts"
import type { Undo } from "./checkpointUndo.ts"
import { EscalationError } from "./escalationModel.ts"

/**
 * What a compensation is told besides its input: which step it undoes, in which saga and run, and the idempotency key
 * that this step had. `inDoubt` says that nobody knows whether the step took effect.
 *
 * @category models
 * @since 0.1.0
 */
export interface Undoing {
  readonly runId: string
  readonly saga: string
  readonly step: string
  readonly idempotencyKey: string
  readonly inDoubt: boolean
}

/** @internal */
export const CanUndoTypeId = "~effect-resilience/durable/Compensation/CanUndo"

/**
 * That a saga around lists the compensation of this name. A step that can be undone needs it, and a saga takes it away.
 *
 * @category services
 * @since 0.1.0
 */
export interface CanUndo<Name extends string> {
  readonly [CanUndoTypeId]: Name
}

/** @internal */
export const TypeId = "~effect-resilience/durable/Compensation"

/**
 * A way to undo steps, with a name by which a journal knows it. A plain value, to be listed by a saga.
 *
 * **Details**
 *
 * `Input` is what it is given. `R` is what it needs where it runs, `RE` what the steps need that it undoes.
 *
 * @category models
 * @since 0.1.0
 */
export interface Compensation<out Name extends string, in Input, out R = never, out RE = never>
  extends Undo<Input, CanUndo<Name> | RE>
{
  readonly name: Name
  readonly [TypeId]: {
    readonly atMostOnce: boolean
    readonly retry: Retry.Policy | undefined
    /** Reads its input, or fails with what is wrong with it. */
    readonly prepare: (input: Schema.Json) => Effect.Effect<Prepared<R>, string, R>
    /** Asks people for its input. */
    readonly ask: (
      question: EscalationQueue.Question
    ) => Effect.Effect<EscalationQueue.Decision, SagaError, EscalationQueue.EscalationQueue | Run | R>
  }
}

/** @internal */
export interface Prepared<out R> {
  readonly execute: (undoing: Undoing) => Effect.Effect<unknown, unknown, R>
  readonly reconcile: (undoing: Undoing) => Effect.Effect<Reconciliation<unknown>, unknown, R>
}

/**
 * Any {@link Compensation}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Any extends Compensation<string, never, unknown, unknown> {}

/**
 * What does not make a saga fail, although its program fails with it: the run is to be resumed, by this program or by
 * another one. It is also what a saga can fail with itself, besides {@link SagaFailed}.
 *
 * **Details**
 *
 * `RunSuspended` is also how a saga waits for people: they have to decide about a compensation that has failed.
 *
 * @category errors
 * @since 0.1.0
 */
export type SagaError = StepFailure | RunSuspended | EscalationError

const sagaErrors = Schema.Union([
  CheckpointStoreError,
  CheckpointCorrupt,
  CheckpointMismatch,
  ConcurrentSteps,
  RecordTooLarge,
  StepNotEncodable,
  RunSuspended,
  EscalationError
])

/** @internal */
export const isSagaError: (error: unknown) => error is SagaError = Schema.is(sagaErrors)

/**
 * Schema of {@link Settled}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Settled = Schema.Struct({
  step: Schema.String,
  compensation: Schema.String,
  outcome: Schema.Literals(["undone", "byHand", "left"])
})

/**
 * What became of a step of a failed saga: its compensation has run, people have undone it by hand, or people have
 * decided to leave it as it is.
 *
 * @category models
 * @since 0.1.0
 */
export type Settled = typeof Settled.Type

/**
 * A saga that has failed for good, and whose steps have been undone. It is not tried again in this run.
 *
 * **Details**
 *
 * - `reason`: `Failed` for a typed failure, whose tag is in `failure`, and `Died` for a defect.
 * - `settled`: what became of each step that could be undone, in the order in which they were.
 * - `cause`: the failure itself, in the process in which it happened. A resumed run does not have it.
 *
 * @category errors
 * @since 0.1.0
 */
export class SagaFailed
  extends Schema.TaggedError<SagaFailed>("effect-resilience/durable/Compensation/SagaFailed")("SagaFailed", {
    runId: Schema.String,
    saga: Schema.String,
    reason: Schema.Literals(["Failed", "Died"]),
    failure: Schema.optionalKey(Schema.String),
    settled: Schema.Array(Settled),
    cause: Schema.optionalKey(Schema.Defect())
  })
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const tag = this.failure === undefined ? "" : ` (${this.failure})`
    const left = this.settled.filter(({ outcome }) => outcome === "left").map(({ step }) => `"${step}"`)
    const rest = left.length === 0 ? "" : `; left as they are: ${left.join(", ")}`
    const undone = this.settled.length - left.length
    return `run "${this.runId}": saga "${this.saga.replace(/~$/, "")}" ${
      this.reason === "Died" ? "died" : "failed"
    }${tag}, and ${undone} ${undone === 1 ? "step of it was" : "steps of it were"} undone${rest}; ` +
      "to try again, start another run"
  }
}

/** @internal */
export interface Handler {
  readonly name: string
  readonly atMostOnce: boolean
  readonly retry: Retry.Policy | undefined
  readonly prepare: (input: Schema.Json) => Effect.Effect<Prepared<never>, string>
  readonly ask: (
    question: EscalationQueue.Question
  ) => Effect.Effect<EscalationQueue.Decision, SagaError, EscalationQueue.EscalationQueue | Run>
}

/**
 * The compensations that the sagas around list.
 *
 * @internal
 */
export const Handlers = Context.Reference<ReadonlyMap<string, Handler> | undefined>(
  "effect-resilience/durable/Compensation/Handlers",
  { defaultValue: () => undefined }
)
