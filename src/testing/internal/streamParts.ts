import type * as Response from "effect/ai/Response"

/**
 * The parts that a provider would have streamed for a whole answer: text by words, the parameters of a tool call before
 * the call, everything else as it is.
 *
 * @internal
 */
export const streamParts = (parts: ReadonlyArray<Response.PartEncoded>): Array<Response.StreamPartEncoded> =>
  parts.flatMap((part, index): ReadonlyArray<Response.StreamPartEncoded> => {
    const id = String(index)
    switch (part.type) {
      case "text":
        return [
          { type: "text-start", id },
          ...words(part.text).map((delta) => ({ type: "text-delta", id, delta }) as const),
          { type: "text-end", id, metadata: part.metadata }
        ]
      case "reasoning":
        return [
          { type: "reasoning-start", id },
          ...words(part.text).map((delta) => ({ type: "reasoning-delta", id, delta }) as const),
          { type: "reasoning-end", id, metadata: part.metadata }
        ]
      case "tool-call":
        return [
          { type: "tool-params-start", id: part.id, name: part.name, providerExecuted: part.providerExecuted ?? false },
          { type: "tool-params-delta", id: part.id, delta: JSON.stringify(part.params ?? {}) },
          { type: "tool-params-end", id: part.id },
          part
        ]
      default:
        return [part]
    }
  })

const words = (text: string): ReadonlyArray<string> => text.match(/\s*\S+(?:\s+$)?|\s+/g) ?? []
