import type * as AiError from "effect/ai/AiError"
import * as AiErrors from "effect/ai/AiError"
import type * as LanguageModel from "effect/ai/LanguageModel"
import type * as Response from "effect/ai/Response"
import * as Tool from "effect/ai/Tool"
import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import type * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import { fromErrorBody, notAMessage, reasonFields } from "./anthropicErrors.ts"
import type { FinishMetadata, Reply } from "./anthropicMetadata.ts"
import { recodeParameters } from "./anthropicRequest.ts"
import * as wire from "./anthropicWire.ts"

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

/** @internal */
export const isCutReason = (stopReason: string): boolean => finishReasons[stopReason] === "length"

const encodeUsage = (usage: wire.Usage | null | undefined): typeof Response.Usage.Encoded => {
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
  readonly usage: wire.Usage | null | undefined
  readonly truncated: { readonly id: string; readonly name: string } | undefined
}

/** @internal */
export const finishPart = ({ reply }: Call, ending: Ending): Response.FinishPartEncoded => {
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

/** @internal */
export const metadataPart = (
  { nowMillis, reply }: Call,
  message: { readonly id?: string; readonly model?: string }
): Response.ResponseMetadataPartEncoded => ({
  type: "response-metadata",
  id: message.id,
  modelId: message.model,
  timestamp: DateTime.formatIso(DateTime.makeUnsafe(nowMillis)),
  metadata: { anthropic: { requestId: reply.requestId, rateLimits: { ...reply.rateLimits } } }
})

// ---- parts

/** @internal */
export const citationMetadata = (cited: ReadonlyArray<Schema.Json> | null | undefined) =>
  cited === null || cited === undefined || cited.length === 0 ? {} : { metadata: { anthropic: { citations: cited } } }

/**
 * Without its signature a thought cannot be sent back, and without metadata it is not.
 *
 * @internal
 */
export const thoughtMetadata = (signature: string | undefined) =>
  signature === undefined || signature === "" ? {} : { metadata: { anthropic: { signature } } }

/** @internal */
export const toolCall = Effect.fnUntraced(function*(
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

/** @internal */
export const serverResult = (
  block: wire.Other,
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

const blockParts = (
  call: Call,
  block: wire.Block,
  names: Map<string, string>
): Effect.Effect<ReadonlyArray<Response.PartEncoded>, AiError.AiErrorReason> => {
  if (wire.isOther(block)) return Effect.succeed(serverResult(block, names))
  switch (block.type) {
    case "text":
      return Effect.succeed([{ type: "text", text: block.text, ...citationMetadata(block.citations) }])
    case "thinking":
      return Effect.succeed([
        { type: "reasoning", text: block.thinking, ...thoughtMetadata(block.signature) }
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
const truncatedBlock = (content: ReadonlyArray<wire.Block>, stopReason: string) => {
  const last = content.at(-1)
  return isCutReason(stopReason) && last !== undefined && wire.isTool(last)
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
 * A whole message, and an error for everything else that can come under HTTP 200.
 *
 * @internal
 */
export const wholeMessage = (
  body: unknown,
  reply: Reply,
  nowMillis: number
): Effect.Effect<wire.Message, AiError.AiErrorReason> =>
  Effect.mapError(wire.decodeMessage(body), (error) =>
    fromErrorBody(body, reply, nowMillis) ??
      notAMessage(
        reply,
        Predicate.hasProperty(body, "type") && body.type === "message" ? error.message : showBody(body)
      ))

/** @internal */
export const messageParts = Effect.fnUntraced(function*(call: Call, body: unknown) {
  const message = yield* wholeMessage(body, call.reply, call.nowMillis)
  const text = message.content.map((block) => !wire.isOther(block) && block.type === "text" ? block.text : "").join("")
  const failed = endOfObject(call, message.stop_reason, text)
  if (failed !== undefined) return yield* failed
  const truncated = truncatedBlock(message.content, message.stop_reason)
  const names = new Map<string, string>()
  const parts: Array<Response.PartEncoded> = [metadataPart(call, message)]
  for (const block of message.content) {
    if (!wire.isOther(block) && wire.isTool(block) && names.has(block.id)) {
      return yield* notAMessage(call.reply, wire.sameId(block.id))
    }
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
