import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Response from "effect/ai/Response"

/** @internal */
export type Output = "truncated" | "garbage" | "empty" | "unfinished" | ((value: unknown) => unknown)

const garbage = "<!doctype html><title>502 Bad Gateway</title>"

/**
 * A value that an effect should not have given.
 *
 * @internal
 */
export const malformedValue = (output: Output, value: unknown): unknown => {
  if (typeof output === "function") return output(value)
  if (typeof value !== "string") return undefined
  switch (output) {
    case "truncated":
      return value.slice(0, Math.floor(value.length / 2))
    case "garbage":
      return garbage
    case "empty":
      return ""
    case "unfinished":
      return value.slice(0, -1)
  }
}

const malformedText = (output: Output, text: string): string => {
  const value = malformedValue(output, text)
  return typeof value === "string" ? value : JSON.stringify(value) ?? ""
}

/** @internal */
export type Part = Response.AllParts<{}>

const finishedBy = (output: Output, part: Response.FinishPart): ReadonlyArray<Part> => {
  if (output === "unfinished") return []
  if (output !== "truncated") return [part]
  return [
    Response.makePart("finish", {
      reason: "length",
      usage: part.usage,
      response: part.response,
      metadata: part.metadata
    })
  ]
}

/**
 * Makes the function that spoils one answer part by part, whether they are the parts of a whole answer or of a stream.
 *
 * @internal
 */
export const partSpoiler = (output: Output): (part: Part) => ReadonlyArray<Part> => {
  let seen = false
  const spoilText = (text: string): string | undefined => {
    // what is spoilt by name breaks off in its first piece
    if (typeof output === "function") return malformedText(output, text)
    if (seen) return undefined
    seen = true
    return malformedText(output, text)
  }
  return (part) => {
    if (part.type === "finish") return finishedBy(output, part)
    if (output === "unfinished" || part.type === "response-metadata") return [part]
    switch (part.type) {
      case "text": {
        const text = output === "empty" ? undefined : spoilText(part.text)
        return text === undefined ? [] : [Response.makePart("text", { text, metadata: part.metadata })]
      }
      case "text-delta": {
        const delta = output === "empty" ? undefined : spoilText(part.delta)
        return delta === undefined ? [] : [Response.makePart("text-delta", { id: part.id, delta })]
      }
      case "text-start":
      case "text-end":
        return output === "empty" ? [] : [part]
      default:
        // reasoning and tool calls are not text: only a function of the user leaves them
        return typeof output === "function" ? [part] : []
    }
  }
}

/** @internal */
export const malformedResponse = (
  output: Output,
  response: LanguageModel.GenerateTextResponse<{}>
): LanguageModel.GenerateTextResponse<{}> =>
  new LanguageModel.GenerateTextResponse<{}>(
    response.content.flatMap((part) => partContent(partSpoiler(output)(part)))
  )

const partContent = (parts: ReadonlyArray<Part>): Array<Response.Part<{}>> =>
  parts.filter((part): part is Response.Part<{}> => part.type !== "error")

/**
 * What decoding the spoilt text of an object would have failed with.
 *
 * @internal
 */
export const malformedObject = (output: Output, text: string): AiError.AiError =>
  AiError.make({
    module: "FaultPlan",
    method: "generateObject",
    reason: new AiError.StructuredOutputError({
      description: "the answer was malformed on purpose",
      responseText: malformedText(output, text)
    })
  })
