import * as Prompt from "effect/ai/Prompt"
import * as Schema from "effect/Schema"
import { boundedJson, type Bounds, cut } from "./boundedJson.ts"

const isPart = Schema.is(Prompt.ToolModelOutputPart)

/** Characters of the data as it is written down and sent: bytes as base64. */
const lengthOf = ({ data }: Prompt.FilePart): number =>
  data instanceof Uint8Array ? Math.ceil(data.length / 3) * 4 : String(data).length

const left = ({ fileName, mediaType }: Prompt.FilePart, why: string): Prompt.TextPart =>
  Prompt.textPart({ text: `[${mediaType}${fileName === undefined ? "" : ` ${fileName}`} left out: ${why}]` })

/**
 * What a tool shows the model in place of its result, within the bounds: a longer text is cut, a file that does not fit
 * any more is left out, and both are marked. Nothing where it is not what the types say.
 *
 * @internal
 */
export const boundedOutput = (
  parts: ReadonlyArray<Prompt.ToolModelOutputPart>,
  bounds: Bounds
): ReadonlyArray<Prompt.ToolModelOutputPart> | undefined => {
  let room = bounds.length
  const shown: Array<Prompt.ToolModelOutputPart> = []
  for (const part of parts) {
    if (!isPart(part)) return undefined
    const options = boundedJson(part.options, { ...bounds, length: Math.max(room, 2) })
    if (part.type === "text") {
      const marker = `[cut: the text is longer than the ${bounds.length} characters of a result]`
      const text = part.text.length > room ? `${cut(part.text, room)}\n${marker}` : part.text
      shown.push(options._tag === "Json" && text === part.text ? part : Prompt.textPart({ text }))
      room = Math.max(0, room - part.text.length)
      continue
    }
    const length = lengthOf(part)
    const why = length > room
      ? `its ${length} characters are more than are left of the ${bounds.length} of a result`
      : options._tag === "Json"
      ? undefined
      : "its options are not JSON within the bounds"
    shown.push(why === undefined ? part : left(part, why))
    if (why === undefined) room -= length
  }
  return shown
}
