import type * as Prompt from "effect/ai/Prompt"

/** The calls without a result, and the results without a call, in what a model is sent. */
export const unpaired = (prompt: Prompt.Prompt): ReadonlyArray<string> => {
  const wrong: Array<string> = []
  let open: Array<string> = []
  for (const message of prompt.content) {
    if (message.role === "tool") {
      for (const part of message.content) {
        if (part.type !== "tool-result") continue
        if (!open.includes(part.id)) wrong.push(part.id)
        open = open.filter((id) => id !== part.id)
      }
      continue
    }
    wrong.push(...open)
    open = message.role === "assistant"
      ? message.content.flatMap((part) => part.type === "tool-call" ? [part.id] : [])
      : []
  }
  return [...wrong, ...open]
}
