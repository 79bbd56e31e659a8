import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

/**
 * Failure of an attempt at a tool call, in the words in which the model is told of it. Guards see it; the run never fails
 * with it.
 *
 * **Details**
 *
 * `error` is the tag or name of the tool's own error, or one of `InvalidArguments`, `UnreadableResult` (the tool ran),
 * `ToolDefect`, `ToolInterrupted` and `OutOfTime`. `details` is the error as the tool's failure schema encodes it. `verdict` is what the
 * tool's own error means.
 *
 * @category errors
 * @since 0.1.0
 */
export class ToolFailed extends Schema.TaggedError<ToolFailed>("effect-resilience/agent/AgentTools/ToolFailed")(
  "ToolFailed",
  {
    tool: Schema.String,
    error: Schema.String,
    reason: Schema.String,
    details: Schema.optionalKey(Schema.Json),
    verdict: Fault.Verdict,
    attempts: Schema.Finite.pipe(Schema.withConstructorDefault(Effect.succeed(1))),
    elapsedMillis: Schema.Finite.pipe(Schema.withConstructorDefault(Effect.succeed(0)))
  }
) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
  /** @internal */
  after(attempts: number, elapsedMillis: number, verdict: Fault.Verdict = this.verdict): ToolFailed {
    const { details, error, reason, tool } = this
    return new ToolFailed({
      tool,
      error,
      reason,
      ...(details === undefined ? {} : { details }),
      verdict,
      attempts,
      elapsedMillis
    })
  }
  override get message() {
    return `tool "${this.tool}" failed (${this.error}): ${this.reason}`
  }
}
