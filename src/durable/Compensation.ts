/**
 * Undoes what the steps of a run have done when it fails for good: sagas.
 *
 * A step says how it is undone, and it is written in the journal with what the step gives. When the saga around it fails
 * for good, that is written first, and then the steps are undone, the latest first, each as a step of its own. A crash
 * in the middle of it changes nothing: the resumed run goes on undoing, and never goes forward again.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { dual } from "effect/Function"
import type * as Schema from "effect/Schema"
import * as config from "../internal/config.ts"
import type * as Retry from "../policy/Retry.ts"
import * as Checkpoint from "./Checkpoint.ts"
import * as EscalationQueue from "./EscalationQueue.ts"
import { codecOf } from "./internal/checkpointCodec.ts"
import { TypeId as UndoTypeId } from "./internal/checkpointUndo.ts"
import {
  type Any,
  type CanUndo,
  type Compensation,
  type Handler,
  type SagaError,
  type SagaFailed,
  TypeId,
  type Undoing
} from "./internal/compensationModel.ts"
import * as internal from "./internal/compensationSaga.ts"

export { SagaFailed, Settled } from "./internal/compensationModel.ts"
export type { Any, CanUndo, Compensation, SagaError, Undoing } from "./internal/compensationModel.ts"

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `input`: schema of what the compensation is given, which is written in the journal. It must hold no `Redacted`.
 * - `effects`, `retry`: as of a `Checkpoint.step`. Default `"idempotent"`, never tried again.
 * - `reconcile`: finds out whether an unfinished `"atMostOnce"` attempt has undone the step. People are asked where there
 *   is none, where it does not know, and where it fails.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<Input extends Schema.Constraint, E2 = never, R2 = never> {
  readonly input: Input
  readonly effects?: "idempotent" | "atMostOnce" | undefined
  readonly retry?: Retry.Policy | undefined
  readonly reconcile?:
    | ((
      input: NoInfer<Input["Type"]>,
      undoing: Undoing
    ) => Effect.Effect<Checkpoint.Reconciliation<unknown>, E2, R2>)
    | undefined
}

/**
 * Creates a {@link Compensation}: a way to undo steps, under a name that has to stay the same for as long as there are
 * journals that know it.
 *
 * **Details**
 *
 * A step names it in its `undo`, a {@link saga} lists it. It is no closure over the program that took the step, for that
 * may be long gone: its input is read from the journal. It runs as a step of its own, so it may have steps inside, and
 * `Checkpoint.idempotencyKey` gives a key of its own, the same however often it is tried for one step. What it gives is
 * not kept.
 *
 * It fails into no error channel: when its retries are used up, when it fails without any, or when nobody knows whether
 * an `"atMostOnce"` one took effect, people are asked.
 *
 * **Example** (Giving back a seat)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Checkpoint, CheckpointStore, Compensation, EscalationQueue } from "effect-resilience"
 *
 * const log: Array<string> = []
 * const did = (what: string) => Effect.sync(() => log.push(what))
 *
 * const cancelSeat = Compensation.make("cancelSeat", { input: Schema.String }, (seat) => did(`cancelled ${seat}`))
 *
 * const trip = Effect.gen(function*() {
 *   yield* Checkpoint.step("seat", { success: Schema.String, undo: cancelSeat }, Effect.as(did("booked 12A"), "12A"))
 *   return yield* Effect.fail("no hotel")
 * }).pipe(
 *   Compensation.saga({ name: "trip", undo: [cancelSeat] }),
 *   Checkpoint.run({ id: "trip-7" })
 * )
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(Effect.flip(trip), world))
 * log // => ["booked 12A", "cancelled 12A"]
 * ```
 *
 * **Example** (Undoing what may have happened)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Checkpoint, CheckpointStore, Compensation, EscalationQueue, Fault } from "effect-resilience"
 *
 * const log: Array<string> = []
 *
 * const refund = Compensation.make("refund", { input: Schema.String }, (order, { inDoubt }) =>
 *   Effect.sync(() => log.push(inDoubt ? `refund ${order} if it was charged` : `refund ${order}`)))
 *
 * const pay = Checkpoint.step(
 *   "pay",
 *   {
 *     success: Schema.Struct({ order: Schema.String, receipt: Schema.Int }),
 *     effects: "atMostOnce",
 *     undo: { by: refund, input: ({ order }) => order, inDoubt: () => "order 7" }
 *   },
 *   Effect.fail({ [Fault.verdictOf]: Fault.timedOut })
 * )
 *
 * const shop = pay.pipe(
 *   Compensation.saga({ name: "shop", undo: [refund] }),
 *   Checkpoint.run({ id: "order-7" }),
 *   Effect.flip,
 *   Effect.map((error) => error._tag)
 * )
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(shop, world)) // => "SagaFailed"
 * log // => ["refund order 7 if it was charged"]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = <
  const Name extends string,
  Input extends Schema.Constraint,
  E,
  R,
  E2 = never,
  R2 = never
>(
  name: Name,
  options: Options<Input, E2, R2>,
  undo: (input: NoInfer<Input["Type"]>, undoing: Undoing) => Effect.Effect<unknown, E, R>
): Compensation<Name, Input["Type"], R | R2 | Input["DecodingServices"], Input["EncodingServices"]> => {
  config.nonEmpty("Compensation.make", "name", name)
  const { effects, input, reconcile, retry } = options
  const { decode, hasRedacted, roundTrip } = codecOf(input)
  return {
    name,
    [UndoTypeId]: {
      name,
      hasRedacted,
      encode: (value) => Effect.map(roundTrip(value), ({ json }) => json)
    },
    [TypeId]: {
      atMostOnce: effects === "atMostOnce",
      retry,
      prepare: (json) =>
        Effect.map(decode(json), (value) => ({
          execute: (undoing) => Effect.suspend(() => undo(value, undoing)),
          reconcile: (undoing) =>
            Effect.suspend(() => reconcile?.(value, undoing) ?? Effect.succeed(Checkpoint.unknown))
        })),
      ask: (question) => EscalationQueue.ask({ ...question, accepts: input })
    }
  }
}

/**
 * Options of {@link saga}.
 *
 * **Details**
 *
 * - `name`: the scope of its steps in the journal.
 * - `undo`: the compensations that the steps inside name. A saga inside of another one may leave out what that one lists,
 *   and must not list what that one does not: its steps are undone with the rest. Default: none.
 * - `error`: how the failure is written. With it the saga fails with a failure that it accepts, with its tag and fields,
 *   also when the run is resumed. Without it, and for any other failure, it fails with {@link SagaFailed}.
 * - `onStuck`: what becomes of the steps that are left where a compensation has failed for good. `"wait"` (default): they
 *   wait for the decision of people, for what was done first may be what the later rests on. `"continue"`: they are
 *   undone at once.
 *
 * @category models
 * @since 0.1.0
 */
export interface SagaOptions<Undo extends ReadonlyArray<Any>, Failure extends Schema.Constraint> {
  readonly name: string
  readonly undo?: Undo | undefined
  readonly error?: Failure | undefined
  readonly onStuck?: "wait" | "continue" | undefined
}

type NameOf<C> = C extends Compensation<infer Name, never, unknown, unknown> ? Name : never
type ServicesOf<C> = C extends Compensation<string, never, infer R, unknown> ? R : never

// A handler may need more than is at hand where a saga inside fails: that is taken from where it is listed.
const handlerOf = <R>(one: Compensation<string, never, R, unknown>, listed: Context.Context<R>): Handler => {
  const { ask, atMostOnce, prepare, retry } = one[TypeId]
  const within = <R2>(context: Context.Context<R2>) => <A, E>(effect: Effect.Effect<A, E, R | R2>) =>
    Effect.provideContext(effect, Context.merge(listed, context))
  const provided = <A, E>(effect: Effect.Effect<A, E, R>) =>
    Effect.contextWith((context: Context.Context<never>) => within(context)(effect))
  return {
    name: one.name,
    atMostOnce,
    retry,
    ask: (question) =>
      Effect.contextWith((context: Context.Context<EscalationQueue.EscalationQueue | Checkpoint.Run>) =>
        within(context)(ask(question))
      ),
    prepare: (input) =>
      Effect.map(provided(prepare(input)), ({ execute, reconcile }) => ({
        execute: (undoing) => provided(execute(undoing)),
        reconcile: (undoing) => provided(reconcile(undoing))
      }))
  }
}

/**
 * Runs a program whose steps are undone when it fails for good: all of it comes about, or nothing stays.
 *
 * **When to use**
 *
 * Use it inside a run, around steps that belong together. What ends it from outside is no failure of it, so put timeouts
 * and deadlines inside.
 *
 * **Details**
 *
 * What it fails for good with: a typed failure, or a defect. What is to be resumed is neither: an interruption, a crash, a
 * cancelled run, a run that waits (`RunSuspended`: let a program that is to be resumed fail with it), the failures of the
 * journal, of the store and of the escalation queue ({@link SagaError}). Then nothing is undone, and the program goes on
 * when the run is resumed.
 *
 * That it has failed is written first. From then on nothing of it is executed any more, in this life of the run or
 * another, also if the step that failed would succeed now. Then each step that has taken effect is undone, in the
 * opposite order of their results in the journal, which is the same whatever the timing of a resumed run. That goes for
 * steps at any depth, in parallel branches, and for those that an earlier life of the run took on another way. What
 * counts is the journal, and not whether the program still asks for the step.
 *
 * A step of which nobody knows whether it took effect (it was cut off, or its failure leaves that open) is undone from
 * its `inDoubt`, or people are asked. Where it certainly has not, it is not undone. As for `"atMostOnce"` steps, a typed
 * failure with another verdict than `Ambiguous`, `TimedOut` or `Malformed` says that nothing was done: a step should do
 * one thing.
 *
 * Where a compensation has failed for good, people are asked in the `EscalationQueue`, and the run is `escalated` until
 * they have decided: `Retry` runs it again, `Approve` says that it was done by hand, `Reject` and `Abandon` leave the
 * step as it is. The decision counts when the run is resumed. In the end the saga fails with what it had failed with.
 *
 * What it gives when it succeeds can still be undone by a saga around. What a saga inside has undone is not undone twice,
 * and what it has not finished is finished by the one around.
 *
 * A run that is completed stays as it is. `Checkpoint.rollback` does not take back that a saga has failed. A fork does
 * not undo what was done before it. A migration keeps what there is to undo (`RecordedRun.undo`).
 *
 * Fails with {@link SagaFailed}, with what `error` gives back, and with {@link SagaError}. Dies with `Fault.InvalidConfig`
 * where it lists what a saga around does not; throws it for two compensations of one name.
 *
 * **Example** (Deciding about a refund that failed)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Checkpoint, CheckpointStore, Compensation, EscalationQueue } from "effect-resilience"
 *
 * class SoldOut extends Schema.TaggedError<SoldOut>()("SoldOut", {}) {}
 *
 * let isBankOpen = false
 * const refund = Compensation.make("refund", { input: Schema.Int }, () =>
 *   Effect.suspend(() => isBankOpen ? Effect.void : Effect.fail("the bank is closed")))
 *
 * const order = Checkpoint.step("pay", { success: Schema.Int, undo: refund }, Effect.succeed(4711)).pipe(
 *   Effect.andThen(new SoldOut()),
 *   Compensation.saga({ name: "order", undo: [refund], error: SoldOut }),
 *   Checkpoint.run({ id: "order-7" }),
 *   Effect.flip,
 *   Effect.map((error) => error._tag)
 * )
 *
 * const program = Effect.gen(function*() {
 *   const first = yield* order
 *   const queue = yield* EscalationQueue.EscalationQueue
 *   const [waiting] = yield* queue.list({ status: "open" })
 *   isBankOpen = true
 *   if (waiting !== undefined) yield* queue.decide(waiting.id, { _tag: "Retry" }, { by: "ann" })
 *   return [first, yield* order]
 * })
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => ["RunSuspended", "SoldOut"]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const saga: {
  <const Undo extends ReadonlyArray<Any> = [], Failure extends Schema.Constraint = typeof Schema.Never>(
    options: SagaOptions<Undo, Failure>
  ): <A, E, R>(program: Effect.Effect<A, E, R>) => Saga<A, R, Undo, Failure>
  <
    A,
    E,
    R,
    const Undo extends ReadonlyArray<Any> = [],
    Failure extends Schema.Constraint = typeof Schema.Never
  >(
    program: Effect.Effect<A, E, R>,
    options: SagaOptions<Undo, Failure>
  ): Saga<A, R, Undo, Failure>
} = dual(
  2,
  <A, E, R, const Undo extends ReadonlyArray<Any>, Failure extends Schema.Constraint>(
    program: Effect.Effect<A, E, R>,
    options: SagaOptions<Undo, Failure>
  ): Saga<A, R, Undo, Failure> => {
    // What each of them needs is in `ServicesOf`, which TypeScript cannot follow through an array.
    const list = (options.undo ?? []) as ReadonlyArray<Compensation<string, never, ServicesOf<Undo[number]>, unknown>>
    const listed = internal.distinct(list)
    const { error, onStuck = "wait" } = options
    const name = config.nonEmpty("Compensation.saga", "name", options.name)
    // `CanUndo` is known to the types only: it says that a compensation is listed, and here they are.
    const canUndo = Context.empty() as Context.Context<CanUndo<NameOf<Undo[number]>>>
    const forward = Effect.provideContext(program, canUndo)
    return Effect.contextWith((context: Context.Context<ServicesOf<Undo[number]>>) =>
      internal.saga(forward, listed.map((one) => handlerOf(one, context)), { name, error, onStuck })
    )
  }
)

type Saga<A, R, Undo extends ReadonlyArray<Any>, Failure extends Schema.Constraint> = Effect.Effect<
  A,
  Failure["Type"] | SagaFailed | SagaError,
  | Exclude<R, CanUndo<NameOf<Undo[number]>>>
  | ServicesOf<Undo[number]>
  | Failure["DecodingServices"]
  | Failure["EncodingServices"]
  | Checkpoint.Run
  | EscalationQueue.EscalationQueue
>
