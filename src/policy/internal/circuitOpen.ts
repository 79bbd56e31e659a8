import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

/**
 * Failure of a call that a circuit refused: nothing was sent.
 *
 * **Details**
 *
 * `retryAfter` is the rest of the open time; for a `HalfOpen` circuit the time after which a probe slot is free at the
 * latest; absent for an `Isolated` one, which only a person can let go. The verdict asks callers to wait for the rest of
 * an open time only: a probe mostly ends long before its bound, and nobody should give up for it.
 *
 * @category errors
 * @since 0.1.0
 */
export class CircuitOpen extends Schema.TaggedError<CircuitOpen>("effect-resilience/policy/CircuitBreaker/CircuitOpen")(
  "CircuitOpen",
  {
    key: Schema.String,
    state: Schema.Literals(["Open", "HalfOpen", "Isolated"]),
    retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
  }
) {
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return this.state === "Open" ? Fault.rejected(this.retryAfter) : Fault.rejected()
  }
  override get message() {
    const wait = this.retryAfter === undefined ? "later" : `in ${Duration.format(this.retryAfter)}`
    switch (this.state) {
      case "Open":
        return `Circuit "${this.key}" is open after too many failures and sent nothing: try again ${wait}, or fall back`
      case "HalfOpen":
        return `Circuit "${this.key}" is probing whether its dependency works again and sent nothing: ` +
          `try again ${wait} at the latest, or fall back`
      case "Isolated":
        return `Circuit "${this.key}" is held open by hand and sent nothing: release the hold, or fall back`
    }
  }
}
