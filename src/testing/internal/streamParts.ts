import type * as Response from "effect/ai/Response"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"

const encodeJson = Schema.encodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

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
          ...deltas(part),
          { type: "tool-params-end", id: part.id },
          part
        ]
      default:
        return [part]
    }
  })

// Arguments that no wire could carry, as a test may script them, come with the call alone.
const deltas = ({ id, params }: Response.ToolCallPartEncoded): ReadonlyArray<Response.StreamPartEncoded> =>
  Option.match(encodeJson(params ?? {}), {
    onNone: () => [],
    onSome: (delta) => [{ type: "tool-params-delta", id, delta }]
  })

const words = (text: string): ReadonlyArray<string> => text.match(/\s*\S+(?:\s+$)?|\s+/g) ?? []
