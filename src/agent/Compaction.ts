/**
 * Makes a conversation smaller that has outgrown its model's context.
 *
 * **When to use**
 *
 * Every agent does it once its conversation does not fit any more. Say how, or turn it off, with the option `compaction`
 * of an agent; use {@link compact} alone on a prompt of your own.
 *
 * @since 0.1.0
 */
import * as Prompt from "effect/ai/Prompt"
import * as config from "../internal/config.ts"
import { boundedJson } from "./internal/boundedJson.ts"
import { callsIn } from "./internal/pairing.ts"

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `share`: what is to be left of the conversation, as a share of its characters. Default: 0.5.
 * - `keepResults`: how many of the last messages with results of tools keep them, as long as leaving out others is
 *   enough. Default: 1.
 * - `summary`: whether the model is asked for a summary of turns that are left out. Default: no.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly share?: number | undefined
  readonly keepResults?: number | undefined
  readonly summary?: boolean | undefined
}

/**
 * How conversations are made smaller.
 *
 * @category models
 * @since 0.1.0
 */
export interface Compaction {
  readonly share: number
  readonly keepResults: number
  readonly summary: boolean
}

/**
 * What {@link compact} came to.
 *
 * **Details**
 *
 * `results` of tools and `messages` were left out; `dropped` are these messages, their long results left out as well.
 *
 * @category models
 * @since 0.1.0
 */
export interface Compacted {
  readonly prompt: Prompt.Prompt
  readonly results: number
  readonly messages: number
  readonly dropped: ReadonlyArray<Prompt.Message>
}

/**
 * What {@link compact} is told.
 *
 * **Details**
 *
 * - `protect`: so many messages at the beginning stay, though not the results in them. System messages always do.
 * - `target`: characters that are to be left.
 * - `keepResults`: see {@link Options}.
 * - `summary`: a text in place of the messages that are left out. Default: a note that some were.
 *
 * @category models
 * @since 0.1.0
 */
export interface CompactOptions {
  readonly protect: number
  readonly target: number
  readonly keepResults: number
  readonly summary?: string | undefined
}

const module = "Compaction"

/**
 * Makes a compaction; throws `Fault.InvalidConfig` for options that it cannot work with.
 *
 * **Example** (Keeping the results of the last two turns)
 *
 * ```ts import.meta.vitest
 * import { Compaction } from "effect-resilience"
 *
 * Compaction.make({ keepResults: 2 }) // => { share: 0.5, keepResults: 2, summary: false }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): Compaction => ({
  share: config.numberBetween(module, "share", options.share ?? 0.5, 0.01, 0.99),
  keepResults: config.integer(module, "keepResults", options.keepResults ?? 1, 0, 1_000),
  summary: options.summary ?? false
})

const lengthOf = (value: unknown): number => {
  const json = boundedJson(value, { length: 10_000_000, depth: 256 })
  return json._tag === "Json" ? json.text.length : json._tag === "TooLong" ? json.start.length : 0
}

const fileLength = ({ data }: Prompt.FilePart): number =>
  data instanceof Uint8Array ? Math.ceil(data.length / 3) * 4 : String(data).length

const partLength = (part: Prompt.Part): number => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return part.text.length + 20
    case "file":
      return fileLength(part) + 50
    case "tool-call":
      return part.name.length + lengthOf(part.params) + 50
    case "tool-result":
      return part.modelOutput === undefined
        ? part.name.length + lengthOf(part.result) + 50
        : part.modelOutput.reduce((sum, shown) => sum + partLength(shown), part.name.length + 50)
    default:
      return 100
  }
}

const messageLength = (message: Prompt.Message): number =>
  message.role === "system"
    ? message.content.length + 20
    : message.content.reduce((sum: number, part: Prompt.Part) => sum + partLength(part), 20)

/**
 * Measures a conversation, in characters: what grows with what a provider counts in tokens.
 *
 * @category getters
 * @since 0.1.0
 */
export const sizeOf = (prompt: Prompt.Prompt): number =>
  prompt.content.reduce((sum, message) => sum + messageLength(message), 0)

const omitted = (part: Prompt.ToolResultPart): Prompt.ToolResultPart =>
  Prompt.makePart("tool-result", {
    id: part.id,
    name: part.name,
    isFailure: part.isFailure,
    result: { omitted: true, message: "this result was left out to make room" },
    providerExecuted: part.providerExecuted,
    options: part.options
  })

const note = "Earlier turns of this task were left out to make room."

const inPlaceOf = (summary: string | undefined): Prompt.Message =>
  Prompt.makeMessage("user", {
    content: [Prompt.textPart({ text: summary === undefined ? note : `${note} A summary of them:\n${summary}` })]
  })

/** The messages of one answer and what follows it up to the next one. */
interface Turn {
  readonly messages: ReadonlyArray<Prompt.Message>
  readonly isOpen: boolean
}

const turnsOf = (messages: ReadonlyArray<Prompt.Message>): ReadonlyArray<Turn> => {
  const groups: Array<Array<Prompt.Message>> = []
  for (const message of messages) {
    const last = groups.at(-1)
    if (last === undefined || message.role === "assistant") groups.push([message])
    else last.push(message)
  }
  return groups.map((messages) => {
    const answered = new Set(
      messages.flatMap((message) =>
        message.role === "tool" ? message.content.flatMap((part) => part.type === "tool-result" ? [part.id] : []) : []
      )
    )
    return { messages, isOpen: messages.some((message) => callsIn(message).some(({ id }) => !answered.has(id))) }
  })
}

/**
 * Leaves out, until a conversation has come down to `target`: the oldest results of tools, then the oldest turns, then
 * the last results too. A result that is left out says so, a call is never without its result, and a call that has none
 * yet stays, like system messages and the last turn.
 *
 * **Details**
 *
 * The same for the same conversation. It may come out above `target`: what has to stay, stays.
 *
 * **Example** (Leaving out an old result)
 *
 * ```ts import.meta.vitest
 * import { Prompt } from "effect/ai"
 * import { Compaction } from "effect-resilience"
 *
 * const turn = (id: string, result: string): ReadonlyArray<Prompt.MessageEncoded> => [
 *   { role: "assistant", content: [{ type: "tool-call", id, name: "Read", params: {}, providerExecuted: false }] },
 *   { role: "tool", content: [{ type: "tool-result", id, name: "Read", isFailure: false, result }] }
 * ]
 * const prompt = Prompt.make([
 *   { role: "user", content: "Read it all" },
 *   ...turn("1", "old ".repeat(1_000)),
 *   ...turn("2", "new ".repeat(1_000))
 * ])
 *
 * const compacted = Compaction.compact(prompt, { protect: 1, target: 5_000, keepResults: 1 })
 *
 * compacted.results // => 1
 * compacted.messages // => 0
 * Compaction.sizeOf(compacted.prompt) < 5_000 // => true
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const compact = (prompt: Prompt.Prompt, options: CompactOptions): Compacted => {
  let size = sizeOf(prompt)
  let results = 0
  const withoutResults = (messages: ReadonlyArray<Prompt.Message>, until: number): ReadonlyArray<Prompt.Message> =>
    messages.map((message, index) => {
      if (index >= until || message.role !== "tool" || size <= options.target) return message
      let changed = false
      const content = message.content.map((part) => {
        if (part.type !== "tool-result" || size <= options.target) return part
        const less = partLength(part) - partLength(omitted(part))
        if (less <= 0) return part
        size -= less
        results++
        changed = true
        return omitted(part)
      })
      return changed ? Prompt.makeMessage("tool", { content, options: message.options }) : message
    })

  const places = prompt.content.flatMap((message, index) => message.role === "tool" ? [index] : [])
  const keepFrom = options.keepResults === 0 ? Infinity : places.at(-options.keepResults) ?? 0
  let messages = withoutResults(prompt.content, keepFrom)

  const dropped: Array<Prompt.Message> = []
  if (size > options.target) {
    const kept: Array<Prompt.Message> = []
    const turns = turnsOf(messages.slice(options.protect))
    for (const [index, turn] of turns.entries()) {
      const stays = index === turns.length - 1 || turn.isOpen || size <= options.target
      for (const message of turn.messages) {
        if (stays || message.role === "system") kept.push(message)
        else {
          dropped.push(message)
          size -= messageLength(message)
        }
      }
    }
    if (dropped.length > 0) {
      const place = inPlaceOf(options.summary)
      size += messageLength(place)
      messages = [...messages.slice(0, options.protect), place, ...kept]
    }
  }
  messages = withoutResults(messages, Infinity)
  return {
    prompt: results === 0 && dropped.length === 0 ? prompt : Prompt.fromMessages(messages),
    results,
    messages: dropped.length,
    dropped
  }
}
