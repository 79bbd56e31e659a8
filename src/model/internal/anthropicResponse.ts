import type * as AiError from "effect/ai/AiError"
import * as AiErrors from "effect/ai/AiError"
import type * as LanguageModel from "effect/ai/LanguageModel"
import type * as Response from "effect/ai/Response"
import * as Tool from "effect/ai/Tool"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import { cutShort, fromErrorBody, notAMessage, reasonFields } from "./anthropicErrors.ts"
import type { FinishMetadata, Reply } from "./anthropicMetadata.ts"
import { recodeParameters } from "./anthropicRequest.ts"

// The SDK's types are what the API promises; nothing checks it. These are the fields on which the program relies.

const tokens = Schema.optionalKey(Schema.NullOr(Schema.Int))

const Usage = Schema.Struct({
  input_tokens: tokens,
  output_tokens: tokens,
  cache_creation_input_tokens: tokens,
  cache_read_input_tokens: tokens,
  output_tokens_details: Schema.optionalKey(Schema.NullOr(Schema.Struct({ thinking_tokens: tokens }))),
  service_tier: Schema.optionalKey(Schema.NullOr(Schema.String))
})

type Usage = typeof Usage.Type

const citations = Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Json)))

const Known = Schema.Union([
  Schema.Struct({ type: Schema.Literal("text"), text: Schema.String, citations }),
  Schema.Struct({ type: Schema.Literal("thinking"), thinking: Schema.String, signature: Schema.String }),
  Schema.Struct({ type: Schema.Literal("redacted_thinking"), data: Schema.String }),
  Schema.Struct({
    type: Schema.Literals(["tool_use", "server_tool_use"]),
    id: Schema.String,
    name: Schema.String,
    input: Schema.Unknown
  })
])

const knownTypes = ["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"]

/** Results of server tools, and what the API may add. A known block with a field missing is not one of these. */
const Other = Schema.Struct({
  type: Schema.String.check(Schema.makeFilter((type) => !knownTypes.includes(type))),
  tool_use_id: Schema.optionalKey(Schema.String),
  content: Schema.optionalKey(Schema.Unknown)
})

const Block = Schema.Union([Known, Other])

type Block = typeof Block.Type

const Message = Schema.Struct({
  type: Schema.Literal("message"),
  id: Schema.String,
  model: Schema.String,
  content: Schema.Array(Block),
  stop_reason: Schema.String,
  stop_sequence: Schema.optionalKey(Schema.NullOr(Schema.String)),
  stop_details: Schema.optionalKey(Schema.NullOr(Schema.Json)),
  usage: Schema.optionalKey(Schema.NullOr(Usage))
})

const index = Schema.Int

const Event = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("message_start"),
    message: Schema.Struct({
      type: Schema.Literal("message"),
      id: Schema.String,
      model: Schema.String,
      usage: Schema.optionalKey(Schema.NullOr(Usage))
    })
  }),
  Schema.Struct({ type: Schema.Literal("content_block_start"), index, content_block: Block }),
  Schema.Struct({
    type: Schema.Literal("content_block_delta"),
    index,
    delta: Schema.Union([
      Schema.Struct({ type: Schema.Literal("text_delta"), text: Schema.String }),
      Schema.Struct({ type: Schema.Literal("input_json_delta"), partial_json: Schema.String }),
      Schema.Struct({ type: Schema.Literal("thinking_delta"), thinking: Schema.String }),
      Schema.Struct({ type: Schema.Literal("signature_delta"), signature: Schema.String }),
      Schema.Struct({ type: Schema.Literal("citations_delta"), citation: Schema.Json }),
      Schema.Struct({
        type: Schema.String.check(
          Schema.makeFilter((type) =>
            !["text_delta", "input_json_delta", "thinking_delta", "signature_delta", "citations_delta"].includes(type)
          )
        )
      })
    ])
  }),
  Schema.Struct({ type: Schema.Literal("content_block_stop"), index }),
  Schema.Struct({
    type: Schema.Literal("message_delta"),
    delta: Schema.Struct({
      stop_reason: Schema.optionalKey(Schema.NullOr(Schema.String)),
      stop_sequence: Schema.optionalKey(Schema.NullOr(Schema.String)),
      stop_details: Schema.optionalKey(Schema.NullOr(Schema.Json))
    }),
    usage: Schema.optionalKey(Schema.NullOr(Usage))
  }),
  Schema.Struct({ type: Schema.Literal("message_stop") })
])

const eventTypes = [
  "message_start",
  "content_block_start",
  "content_block_delta",
  "content_block_stop",
  "message_delta",
  "message_stop"
]

const decodeMessage = Schema.decodeUnknownEffect(Message)
const decodeEvent = Schema.decodeUnknownEffect(Event)
const decodeJson = Schema.decodeUnknownOption(Schema.fromJsonString(Schema.Unknown))

/**
 * What a decoder knows of the call that it decodes the answer of.
 *
 * @internal
 */
export interface Call {
  readonly options: LanguageModel.ProviderOptions
  readonly reply: Reply
  readonly nowMillis: number
}

// ---- finish

const finishReasons: Record<string, Response.FinishReason> = {
  end_turn: "stop",
  stop_sequence: "stop",
  max_tokens: "length",
  model_context_window_exceeded: "length",
  tool_use: "tool-calls",
  pause_turn: "pause",
  refusal: "content-filter"
}

const isCutReason = (stopReason: string): boolean => finishReasons[stopReason] === "length"

const encodeUsage = (usage: Usage | null | undefined): typeof Response.Usage.Encoded => {
  const count = (value: number | null | undefined) => value ?? undefined
  const uncached = count(usage?.input_tokens)
  const cacheRead = count(usage?.cache_read_input_tokens)
  const cacheWrite = count(usage?.cache_creation_input_tokens)
  const total = count(usage?.output_tokens)
  const reasoning = count(usage?.output_tokens_details?.thinking_tokens)
  return {
    inputTokens: {
      uncached,
      total: uncached === undefined ? undefined : uncached + (cacheRead ?? 0) + (cacheWrite ?? 0),
      cacheRead,
      cacheWrite
    },
    outputTokens: {
      total,
      text: total === undefined || reasoning === undefined ? total : total - reasoning,
      reasoning
    }
  }
}

interface Ending {
  readonly stopReason: string
  readonly stopSequence: string | null
  readonly stopDetails: Schema.Json
  readonly usage: Usage | null | undefined
  readonly truncated: { readonly id: string; readonly name: string } | undefined
}

const finishPart = ({ reply }: Call, ending: Ending): Response.FinishPartEncoded => {
  const anthropic: typeof FinishMetadata.Encoded = {
    stopReason: ending.stopReason,
    stopSequence: ending.stopSequence,
    stopDetails: ending.stopDetails,
    serviceTier: ending.usage?.service_tier ?? null,
    requestId: reply.requestId,
    rateLimits: reply.rateLimits,
    ...(ending.truncated === undefined ? {} : { truncatedToolCall: ending.truncated })
  }
  return {
    type: "finish",
    reason: finishReasons[ending.stopReason] ?? "other",
    usage: encodeUsage(ending.usage),
    ...(reply.status === null ? {} : { response: { status: reply.status, headers: reply.headers } }),
    metadata: { anthropic: { ...anthropic, rateLimits: { ...reply.rateLimits } } }
  }
}

const metadataPart = (
  { nowMillis, reply }: Call,
  message: { readonly id: string; readonly model: string }
): Response.ResponseMetadataPartEncoded => ({
  type: "response-metadata",
  id: message.id,
  modelId: message.model,
  timestamp: DateTime.formatIso(DateTime.makeUnsafe(nowMillis)),
  metadata: { anthropic: { requestId: reply.requestId, rateLimits: { ...reply.rateLimits } } }
})

// ---- parts

const citationMetadata = (cited: ReadonlyArray<Schema.Json> | null | undefined) =>
  cited === null || cited === undefined || cited.length === 0 ? {} : { metadata: { anthropic: { citations: cited } } }

const toolCall = Effect.fnUntraced(function*(
  { options }: Call,
  block: { readonly type: "tool_use" | "server_tool_use"; readonly id: string; readonly name: string },
  input: unknown
) {
  if (block.type === "server_tool_use") {
    const name = new Tool.NameMapper(options.tools).getCustomName(block.name)
    return { type: "tool-call", id: block.id, name, params: input, providerExecuted: true } as const
  }
  const tool = options.tools.find((tool) => tool.name === block.name)
  if (tool === undefined && options.toolCallValidation !== "deferred") {
    return yield* new AiErrors.ToolNotFoundError({
      toolName: block.name,
      availableTools: options.tools.map((tool) => tool.name)
    })
  }
  const params = tool === undefined ? input : yield* recodeParameters(tool, input)
  return { type: "tool-call", id: block.id, name: block.name, params } as const
})

const serverResult = (
  block: typeof Other.Type,
  names: ReadonlyMap<string, string>
): ReadonlyArray<Response.ToolResultPartEncoded> => {
  const name = block.tool_use_id === undefined ? undefined : names.get(block.tool_use_id)
  if (block.tool_use_id === undefined || name === undefined) return []
  const isFailure = Predicate.hasProperty(block.content, "type") && typeof block.content.type === "string" &&
    block.content.type.endsWith("_error")
  return [{
    type: "tool-result",
    id: block.tool_use_id,
    name,
    result: block.content,
    isFailure,
    providerExecuted: true,
    metadata: { anthropic: { blockType: block.type } }
  }]
}

const isOther = (block: Block): block is typeof Other.Type => !knownTypes.includes(block.type)

const blockParts = (
  call: Call,
  block: Block,
  names: Map<string, string>
): Effect.Effect<ReadonlyArray<Response.PartEncoded>, AiError.AiErrorReason> => {
  if (isOther(block)) return Effect.succeed(serverResult(block, names))
  switch (block.type) {
    case "text":
      return Effect.succeed([{ type: "text", text: block.text, ...citationMetadata(block.citations) }])
    case "thinking":
      return Effect.succeed([
        { type: "reasoning", text: block.thinking, metadata: { anthropic: { signature: block.signature } } }
      ])
    case "redacted_thinking":
      return Effect.succeed([{ type: "reasoning", text: "", metadata: { anthropic: { redacted: block.data } } }])
    default:
      return Effect.map(toolCall(call, block, block.input), (part) => {
        names.set(part.id, part.name)
        return [part]
      })
  }
}

// A message that ends for want of room ends inside its last block, and an input that was cut still looks like one: `{}`.
const truncatedBlock = (content: ReadonlyArray<Block>, stopReason: string) => {
  const last = content.at(-1)
  return isCutReason(stopReason) && last !== undefined && !isOther(last) &&
      (last.type === "tool_use" || last.type === "server_tool_use")
    ? last
    : undefined
}

const showBody = (body: unknown): string => {
  if (body === null || body === undefined) return "its body is empty"
  if (typeof body === "string") return `a text of ${body.length} characters came: ${body}`
  return `an object with the fields ${Object.keys(body).join(", ") || "of nothing"} came`
}

/**
 * Where an object was asked for, a text that was refused or cut cannot be decoded, and with it the reason would be lost.
 */
const endOfObject = (
  { options, reply }: Call,
  stopReason: string,
  text: string
): AiError.AiErrorReason | undefined => {
  if (options.responseFormat.type !== "json") return undefined
  switch (stopReason) {
    case "refusal":
      return new AiErrors.ContentPolicyError({
        description: "The model refused to give the object",
        ...reasonFields(reply, Fault.refused)
      })
    case "model_context_window_exceeded":
      return new AiErrors.StructuredOutputError({
        description: "The context window was full before the object was complete. Shorten the conversation",
        responseText: text,
        metadata: reasonFields(reply, Fault.contextOverflow).metadata
      })
    case "max_tokens":
      return new AiErrors.StructuredOutputError({
        description: "The object was cut at maxTokens. Allow more of them, or ask for less",
        responseText: text,
        metadata: reasonFields(reply, Fault.malformed).metadata
      })
    default:
      return undefined
  }
}

/**
 * The parts of a whole message, and an error for everything else that can come under HTTP 200.
 *
 * @internal
 */
export const messageParts = Effect.fnUntraced(function*(call: Call, body: unknown) {
  const message = yield* Effect.mapError(
    decodeMessage(body),
    (error) =>
      fromErrorBody(body, call.reply, call.nowMillis) ??
        notAMessage(
          call.reply,
          Predicate.hasProperty(body, "type") && body.type === "message" ? error.message : showBody(body)
        )
  )
  const text = message.content.map((block) => !isOther(block) && block.type === "text" ? block.text : "").join("")
  const failed = endOfObject(call, message.stop_reason, text)
  if (failed !== undefined) return yield* failed
  const truncated = truncatedBlock(message.content, message.stop_reason)
  const names = new Map<string, string>()
  const parts: Array<Response.PartEncoded> = [metadataPart(call, message)]
  for (const block of message.content) {
    if (block !== truncated) parts.push(...(yield* blockParts(call, block, names)))
  }
  parts.push(finishPart(call, {
    stopReason: message.stop_reason,
    stopSequence: message.stop_sequence ?? null,
    stopDetails: message.stop_details ?? null,
    usage: message.usage,
    truncated: truncated === undefined ? undefined : { id: truncated.id, name: truncated.name }
  }))
  return parts
})

// ---- streams

type Known = typeof Known.Type

interface Open {
  readonly block: Known
  readonly citations: Array<Schema.Json>
  json: string
  signature: string
}

type ToolBlock = Extract<Known, { readonly type: "tool_use" | "server_tool_use" }>

const isTool = (block: Known): block is ToolBlock => block.type === "tool_use" || block.type === "server_tool_use"

const withoutNulls = (usage: Usage): Usage =>
  Object.fromEntries(Object.entries(usage).filter(([, value]) => value !== null))

/**
 * Turns the events of one message into parts. Text and thoughts pass as they come; a tool call is held back until the
 * message is known to be whole, because the program starts the tool as soon as it sees the call.
 *
 * @internal
 */
export class EventDecoder {
  readonly #call: Call
  readonly #open = new Map<number, Open>()
  readonly #calls: Array<{ readonly block: ToolBlock; readonly json: string; readonly index: number }> = []
  readonly #names = new Map<string, string>()
  #started = false
  #complete = false
  #lastIndex = -1
  #usage: Usage = {}
  #stopReason: string | null = null
  #stopSequence: string | null = null
  #stopDetails: Schema.Json = null

  constructor(call: Call) {
    this.#call = call
  }

  get isComplete(): boolean {
    return this.#complete
  }

  /** Why the message is not whole, asked when its events are over. */
  get incomplete(): AiError.AiErrorReason | undefined {
    if (this.#complete) return undefined
    return this.#started
      ? cutShort(this.#call.reply, "the stream ended before message_stop")
      : notAMessage(this.#call.reply, "the stream had no message in it")
  }

  readonly push = (
    event: unknown
  ): Effect.Effect<ReadonlyArray<Response.StreamPartEncoded>, AiError.AiErrorReason> => {
    const type = Predicate.hasProperty(event, "type") ? event.type : undefined
    if (this.#complete || (typeof type === "string" && !eventTypes.includes(type))) return Effect.succeed([])
    return decodeEvent(event).pipe(
      Effect.mapError((error) => notAMessage(this.#call.reply, `event ${String(type)}: ${error.message}`)),
      Effect.flatMap((decoded) => this.#step(decoded))
    )
  }

  #refuse(what: string) {
    return Effect.fail(notAMessage(this.#call.reply, what))
  }

  #step(
    event: typeof Event.Type
  ): Effect.Effect<ReadonlyArray<Response.StreamPartEncoded>, AiError.AiErrorReason> {
    if (event.type === "message_start") {
      if (this.#started) return this.#refuse("message_start came twice")
      this.#started = true
      this.#merge(event.message.usage)
      return Effect.succeed([metadataPart(this.#call, event.message)])
    }
    if (!this.#started) return this.#refuse(`${event.type} came before message_start`)
    switch (event.type) {
      case "content_block_start":
        this.#lastIndex = event.index
        return Effect.succeed(this.#startBlock(event.index, event.content_block))
      case "content_block_delta": {
        const open = this.#open.get(event.index)
        if (open === undefined) return this.#refuse(`a delta came for block ${event.index}, which is not open`)
        return Effect.succeed(this.#delta(String(event.index), open, event.delta))
      }
      case "content_block_stop":
        return Effect.succeed(this.#stopBlock(event.index))
      case "message_delta":
        this.#merge(event.usage)
        this.#stopReason = event.delta.stop_reason ?? this.#stopReason
        this.#stopSequence = event.delta.stop_sequence ?? this.#stopSequence
        this.#stopDetails = event.delta.stop_details ?? this.#stopDetails
        return Effect.succeed([])
      case "message_stop":
        return this.#finish()
    }
  }

  // The counters are cumulative: what is there replaces what was there, and null says nothing.
  #merge(usage: Usage | null | undefined): void {
    if (usage !== null && usage !== undefined) this.#usage = { ...this.#usage, ...withoutNulls(usage) }
  }

  #startBlock(index: number, block: Block): ReadonlyArray<Response.StreamPartEncoded> {
    const id = String(index)
    if (isOther(block)) return serverResult(block, this.#names)
    this.#open.set(index, {
      block,
      citations: [],
      json: "",
      signature: block.type === "thinking" ? block.signature : ""
    })
    switch (block.type) {
      case "text":
        return [
          { type: "text-start", id },
          ...(block.text === "" ? [] : [{ type: "text-delta" as const, id, delta: block.text }])
        ]
      case "thinking":
        return [
          { type: "reasoning-start", id },
          ...(block.thinking === "" ? [] : [{ type: "reasoning-delta" as const, id, delta: block.thinking }])
        ]
      case "redacted_thinking":
        return [{ type: "reasoning-start", id, metadata: { anthropic: { redacted: block.data } } }]
      default: {
        const server = block.type === "server_tool_use"
        const name = server ? new Tool.NameMapper(this.#call.options.tools).getCustomName(block.name) : block.name
        this.#names.set(block.id, name)
        return [{ type: "tool-params-start", id: block.id, name, providerExecuted: server }]
      }
    }
  }

  #delta(
    id: string,
    open: Open,
    delta: Extract<typeof Event.Type, { readonly type: "content_block_delta" }>["delta"]
  ): ReadonlyArray<Response.StreamPartEncoded> {
    if ("text" in delta) return [{ type: "text-delta", id, delta: delta.text }]
    if ("thinking" in delta) return [{ type: "reasoning-delta", id, delta: delta.thinking }]
    if ("signature" in delta) open.signature += delta.signature
    if ("citation" in delta) open.citations.push(delta.citation)
    if ("partial_json" in delta && isTool(open.block)) {
      open.json += delta.partial_json
      if (delta.partial_json !== "") {
        return [{ type: "tool-params-delta", id: open.block.id, delta: delta.partial_json }]
      }
    }
    return []
  }

  #stopBlock(index: number): ReadonlyArray<Response.StreamPartEncoded> {
    const open = this.#open.get(index)
    if (open === undefined) return []
    this.#open.delete(index)
    const id = String(index)
    if (isTool(open.block)) {
      const { block, json } = open
      const end = { type: "tool-params-end" as const, id: block.id }
      if (block.type === "tool_use") {
        this.#calls.push({ block, json, index })
        return [end]
      }
      // The provider runs it: nothing starts here, and its result follows at once.
      const params = json === "" ? block.input : Option.getOrElse(decodeJson(json), () => json)
      const name = this.#names.get(block.id) ?? block.name
      return [end, { type: "tool-call", id: block.id, name, params, providerExecuted: true }]
    }
    if (open.block.type === "text") return [{ type: "text-end", id, ...citationMetadata(open.citations) }]
    if (open.block.type === "redacted_thinking") return [{ type: "reasoning-end", id }]
    return [{ type: "reasoning-end", id, metadata: { anthropic: { signature: open.signature } } }]
  }

  #finish(): Effect.Effect<ReadonlyArray<Response.StreamPartEncoded>, AiError.AiErrorReason> {
    const stopReason = this.#stopReason
    if (stopReason === null) return this.#refuse("the stream had no stop reason")
    const cut = isCutReason(stopReason)
    // A message that was cut may have left its last block open; any other closes what it opened.
    if (!cut && this.#open.size > 0) return this.#refuse("message_stop came before the end of a block")
    const parts: Array<Response.StreamPartEncoded> = []
    for (const index of [...this.#open.keys()]) parts.push(...this.#stopBlock(index))
    const truncated = cut ? this.#calls.find(({ index }) => index === this.#lastIndex)?.block : undefined
    return Effect.gen({ self: this }, function*() {
      for (const { block, json } of this.#calls) {
        if (block === truncated) continue
        const input = json === "" ? Option.some(block.input) : decodeJson(json)
        if (Option.isNone(input)) {
          return yield* notAMessage(this.#call.reply, `the input of tool ${block.name} (${block.id}) is no JSON`)
        }
        parts.push(yield* toolCall(this.#call, block, input.value))
      }
      this.#complete = true
      parts.push(finishPart(this.#call, {
        stopReason,
        stopSequence: this.#stopSequence,
        stopDetails: this.#stopDetails,
        usage: this.#usage,
        truncated: truncated === undefined ? undefined : { id: truncated.id, name: truncated.name }
      }))
      return parts
    })
  }
}
