import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import { canonicalJson } from "../../internal/canonicalJson.ts"
import { sha256 } from "../../internal/sha256.ts"
import * as Checkpoint from "../Checkpoint.ts"
import type { CheckpointStore, CheckpointStoreError, RunStatus } from "../CheckpointStore.ts"
import { Abandoned, Decision, type DecisionTag, type Escalation, EscalationError } from "./escalationModel.ts"
import { EscalationQueue, pageSize, randomId, type Submission } from "./escalationService.ts"
import * as State from "./escalationState.ts"

/**
 * What to ask, for {@link ask}: a {@link Submission} with the `name` of the step. Run, step and de-duplication come
 * from the run around.
 *
 * **Details**
 *
 * - `about`: what exactly the answer is for, as plain JSON data: the tool and its arguments, say. The key order and the
 *   spelling of numbers make no difference. An answer that was given for something else, before the program or its data
 *   changed, does not count: the question is asked anew, and what is still open of the old one is withdrawn. Who decides
 *   sees it in full, see {@link Submission}. Default: the answer is for the step, whatever it is about.
 * - `shown`: what of it who decides sees, in full, where that is not all: without what is secret. Default: `about`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Question<Accepts extends Schema.Constraint = never, Edits extends Schema.Constraint = never>
  extends Omit<Submission, "runId" | "step" | "dedupeKey" | "accepts" | "edits">
{
  readonly name: string
  readonly about?: unknown
  readonly shown?: unknown
  readonly accepts?: Accepts | undefined
  readonly edits?: Edits | undefined
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
 * one that this schema decodes, and with `edits` approved arguments are: a decision that is none for the program, though
 * its JSON Schema could not tell, is taken back when the run is resumed, and asked for again with the reason
 * (`Escalation.refused`).
 *
 * Fails with
 * - `Checkpoint.RunSuspended`: there is no decision yet.
 * - {@link EscalationError}: `Expired`, if its time ran out: running the run again asks anew, with a new deadline.
 *   `InvalidDecision`, if a run has gone on with a decision that this program cannot read any more. Otherwise the
 *   failure of the store.
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
export const ask = <Accepts extends Schema.Constraint = never, Edits extends Schema.Constraint = never>(
  question: Question<Accepts, Edits>
): Effect.Effect<
  Decision,
  EscalationError | Checkpoint.RunSuspended | Checkpoint.StepError,
  EscalationQueue | Checkpoint.Run | Accepts["DecodingServices"] | Edits["DecodingServices"]
> => Effect.map(answered(question), ({ decision }) => decision)

const Answer = Schema.TaggedStruct("Answer", {
  id: Schema.String,
  decision: Decision,
  about: Schema.optionalKey(Schema.String)
})

/** One question and what became of it: an answer, none in time, or none because it was taken back. */
const Round = Schema.Union([
  Answer,
  Schema.TaggedStruct("Expired", { id: Schema.String, at: Schema.DateTimeUtcFromMillis }),
  Schema.TaggedStruct("Withdrawn", { id: Schema.String })
])

/**
 * The decision as a step. It is checked, and cannot be taken back any more, before it is written into the journal: from
 * there it could not be taken back.
 */
const answered = <Accepts extends Schema.Constraint = never, Edits extends Schema.Constraint = never>(
  { about, name, shown = about, ...submission }: Question<Accepts, Edits>
) => {
  const { accepts, edits } = submission

  /** What only the program knows of a decision: the queue has the JSON Schema of what it takes, and no more. */
  const issueWith = Effect.fnUntraced(function*(escalation: Escalation, decision: Decision) {
    if (decision._tag === "Supply") {
      return accepts === undefined ? undefined : yield* issueOf(accepts, decision.value)
    }
    if (decision._tag !== "Approve" || decision.arguments === undefined || edits === undefined) return undefined
    return State.editsIssue(escalation, decision.arguments) ?? (yield* issueOf(edits, decision.arguments))
  })

  const once = Effect.fnUntraced(function*(runId: string, step: string, digest: string | undefined) {
    const queue = yield* EscalationQueue
    // The journal knows which question it is: a run that was cleared and begins anew under the same id must not find
    // the approval that the old one was given.
    const question = yield* Checkpoint.step("question", { success: Schema.String }, randomId)
    const dedupeKey = digest === undefined ? `${runId}/${step}/${question}` : `${runId}/${step}/${question}/${digest}`
    while (true) {
      const escalation = yield* queue.submit({ ...submission, about: shown, runId, step, dedupeKey })
      const { expiresAt, id, resolution, status } = escalation
      if (resolution !== undefined) {
        const { decision } = resolution
        const issue = yield* issueWith(escalation, decision)
        if (issue !== undefined) {
          if (resolution.used === true) return yield* invalid(id, decision._tag, issue)
          yield* queue.reopen(id, { refused: { read: escalation, issue } })
          yield* Effect.logWarning("a decision cannot be gone on with, and is asked for again").pipe(
            Effect.annotateLogs({ escalation: id, decision: decision._tag })
          )
          continue
        }
        if (resolution.used !== true && !(yield* queue.confirm(escalation))) continue
        return Answer.make(digest === undefined ? { id, decision } : { id, decision, about: digest })
      }
      if (status === "withdrawn") return { _tag: "Withdrawn" as const, id }
      if (status === "expired" && expiresAt !== undefined) {
        // The run must not go on as if nobody had decided while a clock that is late still lets somebody decide.
        if (escalation.closed === undefined && !(yield* queue.confirm(escalation))) continue
        return { _tag: "Expired" as const, id, at: expiresAt }
      }
      if (digest !== undefined) yield* withdrawOthers(queue, runId, step, id)
      const reason = `waiting for a decision (${submission.reason})`
      return yield* new Checkpoint.RunSuspended({ runId, step, escalationId: id, reason })
    }
  })

  const asked = (digest: string | undefined) =>
    Checkpoint.step(
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
              return once(runId, step, digest)
            })
          )
          if (round._tag === "Answer") return round
          // Said once, by the run that found it out; the next one asks anew.
          if (round._tag === "Expired" && !told) {
            const { at, id } = round
            return yield* new EscalationError({ operation: "ask", id, reason: { _tag: "Expired", at } })
          }
        }
      })
    )

  return Effect.gen(function*() {
    const digest = about === undefined ? undefined : yield* digestOf(about)
    while (true) {
      const answer = yield* asked(digest)
      if (digest === undefined || answer.about === digest) return answer
    }
  })
}

const digestOf = (about: unknown) =>
  Effect.fromResult(canonicalJson(about)).pipe(
    Effect.mapError(({ found, path }) =>
      new EscalationError({
        operation: "ask",
        reason: { _tag: "InvalidRequest", issue: `"about" has ${found} at ${path}, which is not plain JSON data` }
      })
    ),
    Effect.map(sha256)
  )

/** What the step has asked before and does not ask any more. */
const withdrawOthers = Effect.fnUntraced(function*(
  queue: EscalationQueue["Service"],
  runId: string,
  step: string,
  id: string
) {
  for (const status of ["open", "claimed"] as const) {
    for (const other of yield* queue.list({ runId, status })) {
      if (other.step !== step || other.id === id) continue
      yield* queue.withdraw(other.id, { reason: "it is asked anew, about something else" })
    }
  }
})

/**
 * Cancels a run, as `Checkpoint.cancel`, and withdraws what it has asked.
 *
 * **When to use**
 *
 * Use it instead of `Checkpoint.cancel` for runs that ask people, so that nobody is left with a question that does not
 * matter any more. After `Checkpoint.cancel` alone, a decision is refused (`RunCancelled`) where the decider has the
 * `CheckpointStore` at hand.
 *
 * **Details**
 *
 * Returns the status that the run has then. A run that was completed stays so, and its questions with it. Fails with
 * what `Checkpoint.cancel` fails with, and {@link EscalationError}; what was done until then stays done, and it can be
 * called again. `reason` is what the withdrawn questions say of it; default: that their run was cancelled.
 *
 * **Example** (Too late to approve)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Checkpoint, CheckpointStore, EscalationQueue } from "effect-resilience"
 *
 * const transfer = EscalationQueue.ask({ name: "approval", reason: "IrreversibleAction", task: "pay 900 to ann?" }).pipe(
 *   Checkpoint.run({ id: "transfer-1" })
 * )
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.flip(transfer)
 *   const [asked] = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list())
 *   yield* EscalationQueue.cancel("transfer-1", { reason: "ann has been paid by hand" })
 *   return (yield* Effect.flip(EscalationQueue.decide(asked?.id ?? "", { _tag: "Approve" }))).reason._tag
 * })
 *
 * const world = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => "Withdrawn"
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const cancel = Effect.fnUntraced(function*(
  runId: string,
  options: { readonly reason?: string | undefined } = {}
): Effect.fn.Return<
  RunStatus,
  EscalationError | Checkpoint.RunNotFound | Checkpoint.CheckpointCorrupt | CheckpointStoreError,
  EscalationQueue | CheckpointStore
> {
  const queue = yield* EscalationQueue
  const status = yield* Checkpoint.cancel(runId)
  if (status !== "cancelled") return status
  const reason = options.reason ?? `run "${runId}" was cancelled`
  for (const status of ["open", "claimed"] as const) {
    while (true) {
      const asked = yield* queue.list({ runId, status, limit: pageSize })
      for (const { id } of asked) yield* queue.withdraw(id, { reason })
      if (asked.length < pageSize) break
    }
  }
  return status
})

const invalid = (id: string, decision: DecisionTag, issue: string) =>
  new EscalationError({ operation: "ask", id, reason: { _tag: "InvalidDecision", decision, issue } })

const issueOf = <S extends Schema.Constraint>(schema: S, value: Schema.Json) =>
  Effect.match(Schema.decodeUnknownEffect(Schema.toCodecJson(schema))(value), {
    onSuccess: () => undefined,
    onFailure: ({ message }) => message
  })

/** The value that a supervisor gave, as the program reads it. */
const given = <S extends Schema.Constraint>(schema: S, id: string, decision: DecisionTag, value: Schema.Json) =>
  Effect.mapError(
    Schema.decodeUnknownEffect(Schema.toCodecJson(schema))(value),
    ({ message }) => invalid(id, decision, message)
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
 * - {@link EscalationError}: as {@link ask}. A supplied value that does not decode is asked for again.
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
  options: Omit<Question, "name" | "reason" | "decisions" | "accepts" | "edits" | "editLimits"> & {
    readonly success: Success
  }
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
        return Checkpoint.happened(yield* given(success, id, decision._tag, decision.value))
      case "Reject":
      case "Abandon":
        return yield* new Abandoned({ escalationId: id, decision: decision._tag, reason: decision.reason })
      case "Approve":
      case "Retry":
        return Checkpoint.notHappened
    }
  })
}
