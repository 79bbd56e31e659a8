import * as Prompt from "effect/ai/Prompt"

/** @internal */
export const outcomeUnknown = "OutcomeUnknown"

/** @internal */
export const unknownMessage =
  "nobody knows whether this call took effect; find that out before anything is done about it again"

const unknownResult = (call: Prompt.ToolCallPart): Prompt.ToolResultPart =>
  Prompt.makePart("tool-result", {
    id: call.id,
    name: call.name,
    isFailure: true,
    result: { error: outcomeUnknown, message: unknownMessage, attempts: 1 },
    providerExecuted: false
  })

/**
 * The calls of an answer that the program runs.
 *
 * @internal
 */
export const callsIn = (message: Prompt.Message | undefined): ReadonlyArray<Prompt.ToolCallPart> =>
  message?.role === "assistant"
    ? message.content.flatMap((part) => part.type === "tool-call" && !part.providerExecuted ? [part] : [])
    : []

/**
 * A conversation in which every call has one result right after the answer that made it, and every result has its call,
 * since a provider refuses any other one for ever. A call without a result gets one that says that nobody knows.
 *
 * @internal
 */
export const paired = (prompt: Prompt.Prompt): Prompt.Prompt => {
  const messages: Array<Prompt.Message> = []
  let open = new Map<string, Prompt.ToolCallPart>()
  let changed = false
  const settle = () => {
    if (open.size === 0) return
    changed = true
    const missing = Array.from(open.values(), unknownResult)
    open = new Map()
    const last = messages.at(-1)
    if (last?.role !== "tool") {
      messages.push(Prompt.makeMessage("tool", { content: missing }))
      return
    }
    const { content, options } = last
    messages[messages.length - 1] = Prompt.makeMessage("tool", { content: [...content, ...missing], options })
  }
  for (const message of prompt.content) {
    if (message.role !== "tool") {
      settle()
      messages.push(message)
      for (const call of callsIn(message)) open.set(call.id, call)
      continue
    }
    const content = message.content.filter((part) => part.type !== "tool-result" || open.delete(part.id))
    if (content.length === message.content.length) messages.push(message)
    else {
      changed = true
      if (content.length > 0) messages.push(Prompt.makeMessage("tool", { content, options: message.options }))
    }
  }
  settle()
  return changed ? Prompt.fromMessages(messages) : prompt
}
