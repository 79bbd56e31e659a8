import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"

/**
 * Failure of a recall that found nothing to serve.
 *
 * **Details**
 *
 * - `Nothing`: no answer is remembered, or only one older than the layer's `timeToLive`.
 * - `TooOld`: there is one, older than `maxAge`; `age` says how old, and `key` whether it is one of a similar key.
 * - `Unreadable`: there is one, and the schema of the slot does not accept it, as `issue` tells; the verdict is
 *   `Malformed`, so that it is not taken for the others.
 *
 * The verdict of the first two is `Rejected`: nothing was done. A `Fallback` takes all of them.
 *
 * @category errors
 * @since 0.1.0
 */
export class NoLastGood extends Schema.TaggedError<NoLastGood>("effect-resilience/policy/LastGood/NoLastGood")(
  "NoLastGood",
  {
    slot: Schema.String,
    key: Schema.String,
    reason: Schema.Literals(["Nothing", "TooOld", "Unreadable"]),
    age: Schema.optionalKey(Schema.DurationFromMillis),
    issue: Schema.optionalKey(Schema.String)
  }
) {
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Rejected" | "Malformed" }> {
    return this.reason === "Unreadable" ? Fault.malformed : Fault.rejected()
  }
  override get message() {
    const what = `the last good answer of slot "${this.slot}" for key "${this.key}"`
    switch (this.reason) {
      case "Nothing":
        return `LastGood: ${what} is not known: remember one first, or fall back to something else`
      case "TooOld":
        return `LastGood: ${what} is ${this.age === undefined ? "too" : Duration.format(this.age)} old: ` +
          `allow a higher maxAge, or fall back to something else`
      case "Unreadable":
        return `LastGood: ${what} cannot be read: ${this.issue}; the next good answer replaces it`
    }
  }
}

/**
 * Failure of the store that keeps the answers. The verdict is `Transient`.
 *
 * @category errors
 * @since 0.1.0
 */
export class LastGoodStoreError
  extends Schema.TaggedError<LastGoodStoreError>("effect-resilience/policy/LastGood/LastGoodStoreError")(
    "LastGoodStoreError",
    {
      operation: Schema.Literals(["remember", "recall", "list", "forget"]),
      slot: Schema.String,
      cause: Schema.Defect()
    }
  )
{
  get [Fault.verdictOf](): Extract<Fault.Verdict, { readonly _tag: "Transient" }> {
    return Fault.transient
  }
  override get message() {
    const cause = this.cause instanceof Error ? this.cause.message : String(this.cause)
    return `LastGood: the store failed to ${this.operation} in slot "${this.slot}": ${cause}; ` +
      `try again, or fall back to something else`
  }
}
