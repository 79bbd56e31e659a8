import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

/**
 * Failure of work that a health gate did not let begin: nothing was started.
 *
 * **Details**
 *
 * `reason` says why the gate has closed, `since` when. `retryAfter` is the time until it lets one through to try, where
 * it is known: while a check is critical, or another one tries, nobody knows it.
 *
 * @category errors
 * @since 0.1.0
 */
export class HealthGateClosed
  extends Schema.TaggedError<HealthGateClosed>("effect-resilience/health/HealthMonitor/HealthGateClosed")(
    "HealthGateClosed",
    {
      key: Schema.String,
      since: Schema.DateTimeUtcFromMillis,
      reason: Schema.String,
      retryAfter: Schema.optionalKey(Schema.DurationFromMillis)
    }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" }> {
    return Fault.rejected(this.retryAfter)
  }
  get status(): "critical" {
    return "critical"
  }
  override get message() {
    const wait = this.retryAfter === undefined ? "later" : `in ${Duration.format(this.retryAfter)}`
    return `Health gate "${this.key}" has been closed since ${DateTime.formatIso(this.since)} and started nothing, ` +
      `because the health is ${this.status} (${this.reason}): try again ${wait}, or fall back; ` +
      "it reopens by itself when a few checks or calls in a row have gone well"
  }
}
