import * as Prompt from "effect/ai/Prompt"
import * as Response from "effect/ai/Response"
import { callsIn } from "./pairing.ts"

/** @internal */
export const clientCalls = (message: Prompt.Prompt) => message.content.flatMap(callsIn)

/** @internal */
export const textOf = (message: Prompt.Prompt): string =>
  message.content
    .flatMap((message) => message.role === "assistant" ? message.content : [])
    .map((part) => part.type === "text" ? part.text : "")
    .join("")

/** @internal */
export const isFinish = (part: Response.AnyPart): part is Response.FinishPart => part.type === "finish"

const opening = { "text-delta": "text-start", "reasoning-delta": "reasoning-start" } as const

/**
 * Parts, and characters of text and thoughts, of a streamed answer at most, so that one without an end does not fill the memory.
 *
 * @internal
 */
export const longest = 10_000_000

/**
 * What has come of an answer so far.
 *
 * @internal
 */
export class Gathered {
  /** Without the pieces of arguments: the tool call has them whole. */
  readonly parts: Array<Response.AnyPart> = []
  readonly #open = new Set<string>()
  /** Whether anything has come. */
  hasBegun = false
  /** Characters of all pieces. */
  length = 0
  /** What the parts take in memory, by and large. */
  #size = 0

  get isTooLong(): boolean {
    return this.#size > longest
  }

  add(part: Response.AnyPart): void {
    this.hasBegun = true
    switch (part.type) {
      case "tool-params-delta":
        this.length += part.delta.length
        return
      case "tool-params-start":
      case "tool-params-end":
        return
      case "text-start":
      case "reasoning-start":
        this.#open.add(`${part.type} ${part.id}`)
        break
      case "text-end":
        this.#open.delete(`text-start ${part.id}`)
        break
      case "reasoning-end":
        this.#open.delete(`reasoning-start ${part.id}`)
        break
      case "text-delta":
      case "reasoning-delta": {
        // A piece of what never began is a piece all the same.
        const start = opening[part.type]
        if (!this.#open.has(`${start} ${part.id}`)) this.add(Response.makePart(start, { id: part.id }))
        this.length += part.delta.length
        break
      }
    }
    this.#size += 1 + ("delta" in part ? part.delta.length : 0)
    this.parts.push(part)
  }

  get text(): string {
    return this.parts.map((part) => part.type === "text-delta" ? part.delta : "").join("")
  }
}

/**
 * An answer whose beginning came before, as one message: thoughts first, as providers want them.
 *
 * @internal
 */
export const goingOnFrom = (beginning: string, message: Prompt.Prompt): Prompt.Prompt => {
  if (beginning === "") return message
  const [first, ...rest] = message.content
  const content = first?.role === "assistant" ? first.content : []
  const at = content.findIndex((part) => part.type !== "reasoning")
  const before = at < 0 ? content : content.slice(0, at)
  const after = at < 0 ? [] : content.slice(at)
  const [next, ...others] = after
  const joined = next?.type === "text"
    ? [Prompt.makePart("text", { text: beginning + next.text, options: next.options }), ...others]
    : [Prompt.makePart("text", { text: beginning }), ...after]
  return Prompt.fromMessages([
    Prompt.makeMessage("assistant", { content: [...before, ...joined] }),
    ...(first?.role === "assistant" ? rest : message.content)
  ])
}
