import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

const excerpt = (text: string, from: number): string =>
  `${from > 0 ? "…" : ""}${text.slice(from, from + 80)}${text.length > from + 80 ? "…" : ""}`

/** Both texts from a little before their first difference on. */
const difference = (one: string, two: string): readonly [string, string] => {
  let same = 0
  while (same < one.length && one[same] === two[same]) same++
  const from = one.length <= 80 && two.length <= 80 ? 0 : Math.max(0, same - 20)
  return [excerpt(one, from), excerpt(two, from)]
}

/**
 * A journal record that does not decode. Nothing is run again in its place: repair or clear the run.
 *
 * @category errors
 * @since 0.1.0
 */
export class CheckpointCorrupt
  extends Schema.TaggedError<CheckpointCorrupt>("effect-resilience/durable/Checkpoint/CheckpointCorrupt")(
    "CheckpointCorrupt",
    { runId: Schema.String, step: Schema.String, detail: Schema.String }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const record = this.step === "" ? "a record about the run itself" : `the record of step "${this.step}"`
    return `run "${this.runId}": ${record} is corrupt: ${this.detail}; ` +
      "nothing was changed: resume with the program that wrote it, raise its version and migrate the run, or clear it"
  }
}

/**
 * A program that does not go with its journal. Raise `version` when a program changes its steps, and say with `migrate`
 * what a run of the version before goes on from.
 *
 * **Details**
 *
 * `reason` is
 * - `Order`: the program asks for something else than the journal has in this place.
 * - `Ended`: a step was called, or came to its end, after the run, or a saga, had ended: the program did not wait for a
 *   fiber.
 * - `Unremembered`: an `"atMostOnce"` step failed without an error schema, the program went on, and what it did then is
 *   in the journal. The failure cannot be given back, and running the step now could do twice what was done since.
 * - `Unresolved`: the program succeeded although an `"atMostOnce"` step may have taken effect, and nobody told it.
 * - `Undone`: a step came to something else than before, and after it the journal has a saga whose steps are being undone,
 *   or have been. Give the step an error schema, so that its failure is remembered.
 * - `Effects`: an unfinished `"atMostOnce"` attempt at a step that is not `"atMostOnce"` any more.
 *
 * @category errors
 * @since 0.1.0
 */
export class CheckpointMismatch
  extends Schema.TaggedError<CheckpointMismatch>("effect-resilience/durable/Checkpoint/CheckpointMismatch")(
    "CheckpointMismatch",
    {
      runId: Schema.String,
      reason: Schema.Literals(["Order", "Ended", "Unremembered", "Unresolved", "Undone", "Effects"]),
      scope: Schema.String,
      expected: Schema.String,
      found: Schema.String
    }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const { expected, found } = this
    const where = `run "${this.runId}"${this.scope === "" ? "" : ` in scope "${this.scope}"`}`
    switch (this.reason) {
      case "Order":
        return `${where}: the journal has ${expected} where the program asks for ${found}; ` +
          "nothing was changed: resume with the program that wrote the journal, or raise its version and migrate the run"
      case "Ended":
        return `${where}: ${found} came after ${
          this.scope === "" ? "the run" : "it"
        } had ended, and was not recorded; ` +
          "let the program wait for the fibers that call its steps"
      case "Unremembered":
        return `${where}: ${found} failed without being remembered, the program went on, and the journal has ` +
          `${expected} after it; it is not run again, for that could repeat what was done since: give it an error ` +
          "schema so that the failure is remembered, or retry inside of it; this run has to be rolled back or cleared"
      case "Unresolved":
        return `${where}: ${expected} may have taken effect, and the program ended without its result; put a timeout ` +
          "inside of the step and not around it, and let its reconcile find out what happened"
      case "Undone":
        return `${where}: ${found} came to something else than before, and after it the journal has ${expected}, whose ` +
          "steps are being undone; nothing was written: give the step an error schema, so that its failure is " +
          "remembered, and until then see that it fails as it failed before"
      case "Effects":
        return `${where}: the journal has ${expected} where the program asks for ${found}; ` +
          "make the step atMostOnce again, it may have taken effect"
    }
  }
}

/**
 * Steps called at the same time in one scope, whose identity would depend on timing. Give parallel branches scopes of
 * their own with `Checkpoint.forEach`, `Checkpoint.all` or `Checkpoint.within`.
 *
 * @category errors
 * @since 0.1.0
 */
export class ConcurrentSteps
  extends Schema.TaggedError<ConcurrentSteps>("effect-resilience/durable/Checkpoint/ConcurrentSteps")(
    "ConcurrentSteps",
    { runId: Schema.String, scope: Schema.String, running: Schema.String, requested: Schema.String }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const where = this.scope === "" ? "the run's own scope" : `scope "${this.scope}"`
    return `run "${this.runId}": "${this.requested}" was called in ${where} while "${this.running}" was still running; ` +
      "give parallel branches scopes of their own with Checkpoint.forEach, Checkpoint.all or Checkpoint.within, " +
      "and no two of them the same key"
  }
}

/**
 * A step whose result cannot be written down: its schema would store a `Redacted` value in clear (found before the
 * step runs), or the value is not what its schema says.
 *
 * @category errors
 * @since 0.1.0
 */
export class StepNotEncodable
  extends Schema.TaggedError<StepNotEncodable>("effect-resilience/durable/Checkpoint/StepNotEncodable")(
    "StepNotEncodable",
    {
      runId: Schema.String,
      step: Schema.String,
      reason: Schema.Literals(["Redacted", "Value"]),
      detail: Schema.String
    }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const what = `run "${this.runId}": the result of step "${this.step}" was not stored: ${this.detail}`
    return this.reason === "Redacted"
      ? `${what}; leave the secret out of the result, and read it from its source where it is needed`
      : `${what}; correct the step's schema or its result`
  }
}

/**
 * A record of more bytes than the run allows (`maxRecordBytes`): one that was to be written, which was not, or one that
 * is in the journal, which is left as it is.
 *
 * **Details**
 *
 * `step` is empty for a record about the run itself, such as its input. A step whose result was too large is not
 * executed again until the run is resumed with a limit that the result fits in. The result itself is lost: an
 * `"atMostOnce"` step is an `AmbiguousStep` then, or its `reconcile` is asked.
 *
 * @category errors
 * @since 0.1.0
 */
export class RecordTooLarge
  extends Schema.TaggedError<RecordTooLarge>("effect-resilience/durable/Checkpoint/RecordTooLarge")("RecordTooLarge", {
    runId: Schema.String,
    step: Schema.String,
    operation: Schema.Literals(["write", "read"]),
    bytes: Schema.Finite,
    limit: Schema.Finite
  })
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const record = this.step === "" ? "a record about the run itself" : `the record of step "${this.step}"`
    const what = this.operation === "write" ? "was not written" : "is in its journal"
    return `run "${this.runId}": ${record} of ${this.bytes} bytes ${what}, at most ${this.limit} are allowed; ` +
      "keep large things elsewhere and their names in the journal, or raise maxRecordBytes of the run"
  }
}

/**
 * A step marked `atMostOnce` of which nobody knows whether it took effect. It is never executed again on its own:
 * look, and give the step a `reconcile` effect that says what happened.
 *
 * **Details**
 *
 * `reason` is `Unfinished` when the process ended between the intent and the result, `Failed` when the attempt failed
 * with a verdict that leaves it open (`Ambiguous`, `TimedOut`, `Malformed`), and `Died` when it ended in a defect.
 *
 * @category errors
 * @since 0.1.0
 */
export class AmbiguousStep
  extends Schema.TaggedError<AmbiguousStep>("effect-resilience/durable/Checkpoint/AmbiguousStep")(
    "AmbiguousStep",
    {
      runId: Schema.String,
      step: Schema.String,
      reason: Schema.Literals(["Unfinished", "Failed", "Died"]),
      cause: Schema.optionalKey(Schema.Defect())
    }
  )
{
  readonly [Fault.verdictOf] = Fault.ambiguous
  override get message() {
    const what = this.reason === "Unfinished"
      ? "started earlier and was never finished"
      : this.reason === "Failed"
      ? "failed after it may have taken effect"
      : "died after it may have taken effect"
    return `run "${this.runId}": step "${this.step}" ${what}; it is not executed again: find out whether it happened, ` +
      "and let the step's reconcile say so"
  }
}

/**
 * A run opened with another input or version than its journal was written with, or started as another program.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunConflict extends Schema.TaggedError<RunConflict>("effect-resilience/durable/Checkpoint/RunConflict")(
  "RunConflict",
  {
    runId: Schema.String,
    reason: Schema.Literals(["Input", "Version", "Program"]),
    expected: Schema.String,
    found: Schema.String
  }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const option = this.reason.toLowerCase()
    const [expected, found] = difference(this.expected, this.found)
    const instead = this.reason === "Version" ? "migrate the run with the option migrate, use" : "use"
    return `run "${this.runId}" was started with ${option} ${expected} and resumed with ${found}; ` +
      `${instead} another run id, or clear the run to start over`
  }
}

/**
 * A run that somebody else is working on, in this process or another: who holds its lease, until when unless it is renewed (in milliseconds since
 * the epoch, by the clock that the store measures leases by), and how long that is from now.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunLeased extends Schema.TaggedError<RunLeased>("effect-resilience/durable/Checkpoint/RunLeased")(
  "RunLeased",
  {
    runId: Schema.String,
    holder: Schema.String,
    expiresAt: Schema.Finite,
    remaining: Schema.DurationFromMillis
  }
) {
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return Fault.rejected(this.remaining)
  }
  override get message() {
    return `run "${this.runId}" is being worked on by another owner (${this.holder}), whose lease lasts another ` +
      `${
        Duration.format(this.remaining)
      } and is renewed while it works; wait until it has finished or, if it is gone, ` +
      "until the lease has run out, and run again"
  }
}

/**
 * An input that is not JSON, so that a resumed run could not be compared with it.
 *
 * @category errors
 * @since 0.1.0
 */
export class InputNotJson extends Schema.TaggedError<InputNotJson>("effect-resilience/durable/Checkpoint/InputNotJson")(
  "InputNotJson",
  { runId: Schema.String, path: Schema.String, found: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `run "${this.runId}": its input has ${this.found} at ${this.path}; pass plain JSON data`
  }
}

/**
 * A run that the store does not have.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunNotFound extends Schema.TaggedError<RunNotFound>("effect-resilience/durable/Checkpoint/RunNotFound")(
  "RunNotFound",
  { runId: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `the store has no run "${this.runId}"; check the id, or list the runs`
  }
}

/**
 * A new run under an id that the store has already, as `Checkpoint.fork` was asked for.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunExists extends Schema.TaggedError<RunExists>("effect-resilience/durable/Checkpoint/RunExists")(
  "RunExists",
  { runId: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `the store has a run "${this.runId}" already, which was left as it is; choose another id, or clear that run`
  }
}

/**
 * A run that somebody cancelled with `Checkpoint.cancel`. What it had done stays in its journal.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunCancelled extends Schema.TaggedError<RunCancelled>("effect-resilience/durable/Checkpoint/RunCancelled")(
  "RunCancelled",
  { runId: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `run "${this.runId}" was cancelled; to go on with it all the same, call Checkpoint.revive and run it again`
  }
}

/**
 * A run that its process did not survive so many times, one after the other and without a step being finished in
 * between, that it is not tried again on its own.
 *
 * @category errors
 * @since 0.1.0
 */
export class RunDeadLettered
  extends Schema.TaggedError<RunDeadLettered>("effect-resilience/durable/Checkpoint/RunDeadLettered")(
    "RunDeadLettered",
    { runId: Schema.String, crashes: Schema.Finite }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `run "${this.runId}" was cut off ${this.crashes} times without finishing a step, and is not tried again; ` +
      "find out what ends its process, then call Checkpoint.revive and run it again"
  }
}

/**
 * A rollback that would take back more finished steps than it may, or that a saga has failed, whose steps are being
 * undone: taken back, they would count as done.
 *
 * @category errors
 * @since 0.1.0
 */
export class RollbackTooFar
  extends Schema.TaggedError<RollbackTooFar>("effect-resilience/durable/Checkpoint/RollbackTooFar")("RollbackTooFar", {
    runId: Schema.String,
    steps: Schema.Finite,
    limit: Schema.Finite,
    saga: Schema.optionalKey(Schema.String)
  })
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    if (this.saga !== undefined) {
      return `run "${this.runId}": the rollback would take back the failure of saga "${this.saga}", whose steps are ` +
        "being undone; nothing was changed, start another run to try again"
    }
    return `run "${this.runId}": the rollback would take back ${this.steps} finished steps, at most ${this.limit} are ` +
      "allowed; nothing was changed, raise its limit if they are to be executed again"
  }
}

/**
 * A step that the journal of a run does not have.
 *
 * @category errors
 * @since 0.1.0
 */
export class StepNotFound extends Schema.TaggedError<StepNotFound>("effect-resilience/durable/Checkpoint/StepNotFound")(
  "StepNotFound",
  { runId: Schema.String, step: Schema.String }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `run "${this.runId}" has no step "${this.step}" in its journal; Checkpoint.inspect shows those it has`
  }
}

/**
 * Ends a run on purpose, to be resumed by calling it again: something has to happen first that the program cannot do,
 * such as a person's decision.
 *
 * **Details**
 *
 * It travels like any failure and is never recorded as one. A run that ends with it is `escalated` if `escalationId`
 * names what is waited for, else `suspended`.
 *
 * **Example** (Waiting for Monday)
 *
 * ```ts import.meta.vitest
 * import { Effect, Option } from "effect"
 * import { Checkpoint, CheckpointStore } from "effect-resilience"
 *
 * const program = Effect.gen(function*() {
 *   const { runId } = yield* Checkpoint.current
 *   return yield* new Checkpoint.RunSuspended({ runId, step: "order", reason: "the shop opens on Monday" })
 * }).pipe(
 *   Checkpoint.run({ id: "order-7" }),
 *   Effect.catchTag("RunSuspended", () => Checkpoint.status("order-7")),
 *   Effect.map(Option.getOrUndefined),
 *   Effect.provide(CheckpointStore.layerMemory)
 * )
 *
 * await Effect.runPromise(program) // => "suspended"
 * ```
 *
 * @category errors
 * @since 0.1.0
 */
export class RunSuspended extends Schema.TaggedError<RunSuspended>("effect-resilience/durable/Checkpoint/RunSuspended")(
  "RunSuspended",
  {
    runId: Schema.String,
    step: Schema.String,
    escalationId: Schema.optional(Schema.String),
    reason: Schema.String
  }
) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    const waiting = this.escalationId === undefined ? "" : ` (escalation ${this.escalationId})`
    return `run "${this.runId}" is suspended at "${this.step}": ${this.reason}${waiting}; run it again to resume`
  }
}
