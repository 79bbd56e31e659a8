import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import type { CountRequest, MessagesRequest } from "./messagesRequest.ts"
import { identifier } from "./seeded.ts"

/**
 * A content block of an answer. The `id` of a tool call is made up where it is left out.
 *
 * @category models
 * @since 0.1.0
 */
export type AnswerBlock =
  | { readonly type: "text"; readonly text: string }
  | { readonly type: "thinking"; readonly thinking: string; readonly signature?: string | undefined }
  | {
    readonly type: "tool_use"
    readonly id?: string | undefined
    readonly name: string
    readonly input: Readonly<Record<string, unknown>>
  }

/**
 * Why an answer ends.
 *
 * @category models
 * @since 0.1.0
 */
export type StopReason =
  | "end_turn"
  | "max_tokens"
  | "stop_sequence"
  | "tool_use"
  | "pause_turn"
  | "refusal"
  | "model_context_window_exceeded"

/**
 * A healthy answer: a text, its blocks, or either of them with what else the message says.
 *
 * **Details**
 *
 * `stop_reason` defaults to `tool_use` where a block is a tool call and to `end_turn` elsewhere; `usage` defaults to an
 * estimate of one token for four characters.
 *
 * @category models
 * @since 0.1.0
 */
export type AnswerContent = string | ReadonlyArray<AnswerBlock> | {
  readonly content: string | ReadonlyArray<AnswerBlock>
  readonly stop_reason?: StopReason | undefined
  readonly stop_sequence?: string | undefined
  readonly usage?: {
    readonly input_tokens?: number | undefined
    readonly output_tokens?: number | undefined
    readonly cache_creation_input_tokens?: number | undefined
    readonly cache_read_input_tokens?: number | undefined
  } | undefined
}

/** @internal */
export type WireBlock =
  | { readonly type: "text"; readonly text: string; readonly citations: null }
  | { readonly type: "thinking"; readonly thinking: string; readonly signature: string }
  | {
    readonly type: "tool_use"
    readonly id: string
    readonly name: string
    readonly input: unknown
    /** What the stream sends instead of the whole input. */
    readonly cutInput?: string
  }

/** @internal */
export interface WireMessage {
  readonly id: string
  readonly model: string
  readonly content: ReadonlyArray<WireBlock>
  readonly stopReason: StopReason | null
  readonly stopSequence: string | null
  readonly stopDetails: { readonly type: "refusal"; readonly category: null; readonly explanation: string } | null
  readonly usage: {
    readonly input_tokens: number
    readonly output_tokens: number
    readonly cache_creation_input_tokens: number
    readonly cache_read_input_tokens: number
  }
}

/** @internal */
export interface WireEvent {
  readonly name: string
  readonly data: string
}

const tokens = (text: string): number => Math.max(1, Math.ceil(text.length / 4))

const spokenText = (block: WireBlock): string => {
  switch (block.type) {
    case "text":
      return block.text
    case "thinking":
      return block.thinking
    case "tool_use":
      return block.name + JSON.stringify(block.input)
  }
}

/** @internal */
export const inputTokens = (request: CountRequest): number =>
  tokens(JSON.stringify([request.system ?? "", request.messages, request.tools ?? []]))

// `Array.isArray` does not narrow to an array that is read only.
const isBlocks = (answer: AnswerContent): answer is ReadonlyArray<AnswerBlock> => Array.isArray(answer)

/** @internal */
export const buildMessage = (
  request: MessagesRequest,
  answer: AnswerContent,
  seed: number | string,
  index: number
): WireMessage => {
  const given = typeof answer === "string" || isBlocks(answer) ? { content: answer } : answer
  const blocks = typeof given.content === "string" ? [{ type: "text" as const, text: given.content }] : given.content
  const content = blocks.map((block, position): WireBlock => {
    switch (block.type) {
      case "text":
        return { type: "text", text: block.text, citations: null }
      case "thinking":
        return {
          type: "thinking",
          thinking: block.thinking,
          signature: block.signature ?? identifier("sig", seed, index, `signature${position}`)
        }
      case "tool_use": {
        const id = block.id ?? identifier("toolu", seed, index, `tool${position}`)
        return { type: "tool_use", id, name: block.name, input: block.input }
      }
    }
  })
  return {
    id: identifier("msg", seed, index, "message"),
    model: request.model,
    content,
    stopReason: given.stop_reason ?? (content.some((block) => block.type === "tool_use") ? "tool_use" : "end_turn"),
    stopSequence: given.stop_sequence ?? null,
    stopDetails: null,
    usage: {
      input_tokens: given.usage?.input_tokens ?? inputTokens(request),
      output_tokens: given.usage?.output_tokens ?? tokens(content.map(spokenText).join("")),
      cache_creation_input_tokens: given.usage?.cache_creation_input_tokens ?? 0,
      cache_read_input_tokens: given.usage?.cache_read_input_tokens ?? 0
    }
  }
}

const wireUsage = (message: WireMessage, outputTokens: number) => ({
  ...message.usage,
  output_tokens: outputTokens,
  cache_creation: null,
  inference_geo: null,
  output_tokens_details: null,
  server_tool_use: null,
  service_tier: "standard",
  speed: null
})

const wireBlock = (block: WireBlock) =>
  block.type === "tool_use"
    ? { type: "tool_use", id: block.id, name: block.name, input: block.input, caller: { type: "direct" } }
    : block

/** @internal */
export const messageJson = (message: WireMessage): string =>
  JSON.stringify({
    id: message.id,
    type: "message",
    role: "assistant",
    model: message.model,
    content: message.content.map(wireBlock),
    stop_reason: message.stopReason,
    stop_sequence: message.stopSequence,
    stop_details: message.stopDetails,
    container: null,
    diagnostics: null,
    usage: wireUsage(message, message.usage.output_tokens)
  })

/** @internal */
export const event = (data: { readonly type: string; readonly [field: string]: unknown }): WireEvent => ({
  name: data.type,
  data: JSON.stringify(data)
})

/** Pieces of a text that never split a character, as the provider's deltas do not. */
const pieces = (text: string, size: number): ReadonlyArray<string> => {
  const characters = Array.from(text)
  return Array.from(
    { length: Math.ceil(characters.length / size) },
    (_, piece) => characters.slice(piece * size, (piece + 1) * size).join("")
  )
}

const blockEvents = (block: WireBlock, index: number): ReadonlyArray<WireEvent> => {
  const start = (content_block: object) => event({ type: "content_block_start", index, content_block })
  const deltas = (parts: ReadonlyArray<object>) =>
    parts.map((delta) => event({ type: "content_block_delta", index, delta }))
  const stop = event({ type: "content_block_stop", index })
  switch (block.type) {
    case "text":
      return [
        start({ type: "text", text: "", citations: null }),
        ...deltas(pieces(block.text, 12).map((text) => ({ type: "text_delta", text }))),
        stop
      ]
    case "thinking":
      return [
        start({ type: "thinking", thinking: "", signature: "" }),
        ...deltas(pieces(block.thinking, 12).map((thinking) => ({ type: "thinking_delta", thinking }))),
        ...deltas([{ type: "signature_delta", signature: block.signature }]),
        stop
      ]
    case "tool_use": {
      const json = block.cutInput ?? JSON.stringify(block.input)
      return [
        start({ type: "tool_use", id: block.id, name: block.name, input: {}, caller: { type: "direct" } }),
        ...deltas(["", ...pieces(json, 12)].map((partial_json) => ({ type: "input_json_delta", partial_json }))),
        stop
      ]
    }
  }
}

/** @internal */
export const messageEvents = (message: WireMessage): ReadonlyArray<WireEvent> => {
  const [first, ...rest] = message.content.flatMap(blockEvents)
  return [
    event({
      type: "message_start",
      message: {
        id: message.id,
        type: "message",
        role: "assistant",
        model: message.model,
        content: [],
        stop_reason: null,
        stop_sequence: null,
        stop_details: null,
        container: null,
        diagnostics: null,
        usage: wireUsage(message, 1)
      }
    }),
    ...(first === undefined ? [] : [first]),
    event({ type: "ping" }),
    ...rest,
    event({
      type: "message_delta",
      delta: {
        stop_reason: message.stopReason,
        stop_sequence: message.stopSequence,
        stop_details: message.stopDetails,
        container: null
      },
      usage: {
        ...message.usage,
        output_tokens_details: null,
        server_tool_use: null
      }
    }),
    event({ type: "message_stop" })
  ]
}

/** @internal */
export const eventText = ({ name, data }: WireEvent): string => `event: ${name}\ndata: ${data}\n\n`

/** @internal */
export const withoutContent = (message: WireMessage): WireMessage => ({ ...message, content: [] })

/** @internal */
export const refused = (message: WireMessage): WireMessage => ({
  ...message,
  content: [],
  stopReason: "refusal",
  stopDetails: { type: "refusal", category: null, explanation: "The request was declined by a test." }
})

const half = (text: string): string => text.slice(0, Math.floor(text.length / 2))

const cutBlock = (block: WireBlock): WireBlock => {
  switch (block.type) {
    case "text":
      return { ...block, text: half(block.text) }
    case "thinking":
      return { ...block, thinking: half(block.thinking) }
    case "tool_use":
      // a lenient reader makes `{}` of the pieces that came, and so does the provider in a message without a stream
      return { ...block, input: {}, cutInput: half(JSON.stringify(block.input)) }
  }
}

/** @internal */
export const cut = (message: WireMessage, stopReason: StopReason): WireMessage => ({
  ...message,
  content: message.content.map((block, index) => index === message.content.length - 1 ? cutBlock(block) : block),
  stopReason
})

/** @internal */
export const paused = (message: WireMessage): WireMessage => {
  const content = message.content.filter((block) => block.type !== "tool_use")
  return {
    ...message,
    content: content.length > 0 ? content : [{ type: "text", text: "Still working on it.", citations: null }],
    stopReason: "pause_turn"
  }
}

/** @internal */
export const cutToolCall = (
  message: WireMessage,
  request: MessagesRequest,
  stopReason: "max_tokens" | "tool_use"
): WireMessage => {
  const last = message.content.findLastIndex((block) => block.type === "tool_use")
  const content = last >= 0 ? message.content.slice(0, last + 1) : [...message.content, {
    type: "tool_use" as const,
    id: message.id.replace("msg", "toolu"),
    name: request.tools?.[0]?.name ?? "unknown",
    input: { unfinished: "The rest of this input never came." }
  }]
  return cut({ ...message, content }, stopReason)
}

const decodeJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

/** Wrapped in an array, no value has the type that its schema asks for, and a list is a list of lists. */
const wronglyTyped = (value: object): unknown => {
  if (Array.isArray(value) && value.length > 0) return value.map((item) => [item])
  const fields = Object.entries(value).map(([key, field]) => [key, [field]])
  return fields.length === 0 ? { unexpected: [] } : Object.fromEntries(fields)
}

const wrongText = (text: string, request: MessagesRequest): string => {
  const value = Option.getOrUndefined(decodeJson(text))
  if (typeof value === "object" && value !== null) return JSON.stringify(wronglyTyped(value))
  return "output_config" in request || value !== undefined ? JSON.stringify({ unexpected: [] }) : text
}

/** @internal */
export const violatingSchema = (message: WireMessage, request: MessagesRequest): WireMessage => ({
  ...message,
  content: message.content.map((block): WireBlock => {
    if (block.type === "text") return { ...block, text: wrongText(block.text, request) }
    if (block.type === "thinking" || typeof block.input !== "object" || block.input === null) return block
    return { ...block, input: wronglyTyped(block.input) }
  })
})
