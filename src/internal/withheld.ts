import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Predicate from "effect/Predicate"
import { masked } from "./secretText.ts"

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

/** The frames alone, without the message, lines of which may look like frames. */
const framesOf = (error: unknown): string => {
  if (!(error instanceof Error) || typeof error.stack !== "string") return ""
  const { message, stack } = error
  const at = stack.indexOf(message)
  // A message that was changed later is in the stack as it was before, wherever that ends.
  if (at < 0) return ""
  return stack.slice(at + message.length).split("\n").filter((line) => /^ {4}at /.test(line)).join("\n")
}

const noMessage = "message withheld, see Telemetry.CaptureContent"

// Enough of a message to know what it is about, and of a stack to know where it comes from.
const longest = { message: 2_000, stack: 8_000 }

const messageOf = (error: unknown): string =>
  Predicate.hasProperty(error, "message") && typeof error.message === "string" ? error.message : String(error)

const shownError = (error: unknown, content: boolean): Error => {
  const shown = new Error(content ? masked(messageOf(error).slice(0, longest.message)) : noMessage)
  shown.name = nameOf(error)
  const frames = framesOf(error).slice(0, longest.stack)
  shown.stack = `${shown.name}: ${shown.message}${frames === "" ? "" : `\n${frames}`}`
  return shown
}

/**
 * What may be written down of a cause: its reasons, by name and frames alone; with `content` also their messages, without
 * what looks like a secret.
 *
 * @internal
 */
export const shownCause = (cause: Cause.Cause<unknown>, content: boolean): Cause.Cause<unknown> =>
  Cause.fromReasons(cause.reasons.map((reason) => {
    switch (reason._tag) {
      case "Fail":
        return Cause.makeFailReason(shownError(reason.error, content))
      case "Die":
        return Cause.makeDieReason(shownError(reason.defect, content))
      case "Interrupt":
        return reason
    }
  }))

/**
 * The same of an error, or of a cause, where the context decides.
 *
 * @internal
 */
export const shownIn = (context: Context.Context<never>, error: unknown): Cause.Cause<unknown> =>
  shownCause(Cause.isCause(error) ? error : Cause.fail(error), Context.get(context, CaptureContent))
