import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import type * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"

/**
 * Whether what people and models say may leave the program by its telemetry. Public as `Telemetry.CaptureContent`.
 *
 * @internal
 */
export const CaptureContent = Context.Reference<boolean>("effect-resilience/Telemetry/CaptureContent", {
  defaultValue: () => false
})

const tagOf = (u: unknown): string | undefined =>
  Predicate.hasProperty(u, "_tag") && typeof u._tag === "string" ? u._tag : undefined

/**
 * What an error is, and not what it says: its tag, with that of its reason, or the name of its class.
 *
 * @internal
 */
export const nameOf = (error: unknown): string => {
  const tag = tagOf(error)
  if (tag === undefined) return error instanceof Error ? error.name : typeof error
  const reason = Predicate.hasProperty(error, "reason") ? tagOf(error.reason) : undefined
  return reason === undefined ? tag : `${tag}/${reason}`
}

/** The frames alone: what comes before them is the message, over however many lines. */
const framesOf = (error: unknown): string =>
  error instanceof Error && typeof error.stack === "string"
    ? error.stack.split("\n").filter((line) => /^ {4}at /.test(line)).join("\n")
    : ""

const withheldMessage = "message withheld, see Telemetry.CaptureContent"

const withheldError = (error: unknown): Error => {
  const shown = new Error(withheldMessage)
  shown.name = nameOf(error)
  const frames = framesOf(error)
  shown.stack = `${shown.name}: ${withheldMessage}${frames === "" ? "" : `\n${frames}`}`
  return shown
}

/**
 * The same reasons in the same order, by name alone.
 *
 * @internal
 */
export const withheldCause = (cause: Cause.Cause<unknown>): Cause.Cause<unknown> =>
  Cause.fromReasons(cause.reasons.map((reason) => {
    switch (reason._tag) {
      case "Fail":
        return Cause.makeFailReason(withheldError(reason.error))
      case "Die":
        return Cause.makeDieReason(withheldError(reason.defect))
      case "Interrupt":
        return reason
    }
  }))

/**
 * What may be written down of an error, or of a cause.
 *
 * @internal
 */
export const shownIn = (context: Context.Context<never>, error: unknown): unknown => {
  if (Context.get(context, CaptureContent)) return error
  return withheldCause(Cause.isCause(error) ? error : Cause.fail(error))
}

/** @internal */
export const errorOf = (exit: Exit.Exit<unknown, unknown>): Option.Option<unknown> =>
  exit._tag === "Success" ? Option.none() : Option.some(Cause.squash(exit.cause))
