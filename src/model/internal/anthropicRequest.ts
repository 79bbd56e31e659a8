import type * as Messages from "@anthropic-ai/sdk/resources/messages"
import type * as AiError from "effect/ai/AiError"
import * as AiErrors from "effect/ai/AiError"
import * as AnthropicStructuredOutput from "effect/ai/AnthropicStructuredOutput"
import type * as LanguageModel from "effect/ai/LanguageModel"
import type * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Effect from "effect/Effect"
import * as Base64 from "effect/encoding/Base64"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { badInput } from "./anthropicErrors.ts"

type Encoded<A> = Effect.Effect<A, AiError.AiErrorReason>

const CacheControl = Schema.Struct({
  type: Schema.Literal("ephemeral"),
  ttl: Schema.optionalKey(Schema.Literals(["5m", "1h"]))
})

const decodeCacheControl = Schema.decodeUnknownOption(
  Schema.Struct({ anthropic: Schema.Struct({ cacheControl: CacheControl }) })
)

const decodeThinking = Schema.decodeUnknownOption(Schema.Struct({
  anthropic: Schema.Union([Schema.Struct({ signature: Schema.String }), Schema.Struct({ redacted: Schema.String })])
}))

const decodeServerBlock = Schema.decodeUnknownOption(
  Schema.Struct({ anthropic: Schema.Struct({ blockType: Schema.String }) })
)

const cacheControlOf = (options: Prompt.ProviderOptions): { cache_control?: Messages.CacheControlEphemeral } =>
  Option.match(decodeCacheControl(options), {
    onNone: () => ({}),
    onSome: ({ anthropic }) => ({ cache_control: anthropic.cacheControl })
  })

// ---- files

const imageTypes = ["image/jpeg", "image/png", "image/gif", "image/webp"] as const
const isImageType = (mediaType: string): mediaType is (typeof imageTypes)[number] =>
  (imageTypes as ReadonlyArray<string>).includes(mediaType)

type FileData = { readonly url: string } | { readonly base64: string } | { readonly unusable: string }

const dataOf = ({ data }: Prompt.FilePart): FileData => {
  if (data instanceof Uint8Array) return { base64: Base64.encode(data) }
  const address = String(data)
  const inline = /^data:[^,]*;base64,/i.exec(address)
  if (inline !== null) return { base64: address.slice(inline[0].length) }
  // Base64 has no colon.
  const scheme = /^([a-z][a-z0-9+.-]*):/i.exec(address)?.[1]?.toLowerCase()
  switch (scheme) {
    case undefined:
      return { base64: address }
    case "http":
    case "https":
      return { url: address }
    case "data":
      return { unusable: "a data: URL has to be in base64; encode it, or give the bytes" }
    default:
      return { unusable: `the provider cannot read a ${scheme}: URL; read it, and give the bytes` }
  }
}

const refuseFile = (part: Prompt.FilePart, why: string) =>
  Effect.fail(badInput(`A file of type ${part.mediaType} cannot be sent: ${why}`))

const encodeFile = (part: Prompt.FilePart): Encoded<Messages.ImageBlockParam | Messages.DocumentBlockParam> => {
  const data = dataOf(part)
  if ("unusable" in data) return refuseFile(part, data.unusable)
  // Media types ignore case, and may have parameters (RFC 9110, 8.3.1).
  const mediaType = part.mediaType.replace(/;.*$/s, "").trim().toLowerCase()
  if (mediaType.startsWith("image/")) {
    if ("url" in data) {
      return Effect.succeed({ type: "image", source: { type: "url", url: data.url }, ...cacheControlOf(part.options) })
    }
    return isImageType(mediaType)
      ? Effect.succeed({
        type: "image",
        source: { type: "base64", media_type: mediaType, data: data.base64 },
        ...cacheControlOf(part.options)
      })
      : refuseFile(part, `images are ${imageTypes.join(", ")}`)
  }
  const document = (source: Messages.DocumentBlockParam["source"]): Encoded<Messages.DocumentBlockParam> =>
    Effect.succeed({
      type: "document",
      source,
      ...(part.fileName === undefined ? {} : { title: part.fileName }),
      ...cacheControlOf(part.options)
    })
  if (mediaType === "application/pdf") {
    return document(
      "url" in data
        ? { type: "url", url: data.url }
        : { type: "base64", media_type: "application/pdf", data: data.base64 }
    )
  }
  if (!mediaType.startsWith("text/")) return refuseFile(part, "files are images, PDF documents or text")
  if ("url" in data) return refuseFile(part, "a text has to be sent itself, not its URL")
  return Result.match(Base64.decodeString(data.base64), {
    onFailure: () => refuseFile(part, "its data is no base64"),
    onSuccess: (text) => document({ type: "text", media_type: "text/plain", data: text })
  })
}

// ---- messages

const encodeJson = Schema.encodeUnknownEffect(Schema.fromJsonString(Schema.Unknown))

const encodeModelOutput = (
  part: Prompt.ToolModelOutputPart
): Encoded<Messages.TextBlockParam | Messages.ImageBlockParam | Messages.DocumentBlockParam> =>
  part.type === "text" ? Effect.succeed({ type: "text", text: part.text }) : encodeFile(part)

const toolResultContent = Effect.fnUntraced(function*(part: Prompt.ToolResultPart) {
  if (part.modelOutput !== undefined) return yield* Effect.forEach(part.modelOutput, encodeModelOutput)
  if (typeof part.result === "string") return part.result
  return yield* Effect.mapError(
    encodeJson(part.result),
    () => badInput(`The result of tool ${part.name} (${part.id}) is no JSON`)
  )
})

const encodeToolResult = Effect.fnUntraced(function*(part: Prompt.ToolResultPart) {
  const block: Messages.ToolResultBlockParam = {
    type: "tool_result",
    tool_use_id: part.id,
    is_error: part.isFailure,
    ...cacheControlOf(part.options)
  }
  // A tool without a result: the field is left out, since JSON has no word for it.
  return part.result === undefined && part.modelOutput === undefined
    ? block
    : { ...block, content: yield* toolResultContent(part) }
})

const encodeText = (part: Prompt.TextPart): ReadonlyArray<Messages.TextBlockParam> =>
  // The API refuses empty texts, and a stream that was cut may have left one in the history.
  part.text === "" ? [] : [{ type: "text", text: part.text, ...cacheControlOf(part.options) }]

const encodeReasoning = (part: Prompt.ReasoningPart): ReadonlyArray<Messages.ContentBlockParam> =>
  Option.match(decodeThinking(part.options), {
    // Only thoughts that this provider signed are accepted; those of other models are not passed on.
    onNone: () => [],
    onSome: ({ anthropic }) =>
      "signature" in anthropic
        ? [{ type: "thinking", thinking: part.text, signature: anthropic.signature }]
        : [{ type: "redacted_thinking", data: anthropic.redacted }]
  })

/** What a tool of the provider's own (web search, code execution) said, sent back word for word. */
const encodeServerResult = (part: Prompt.ToolResultPart): ReadonlyArray<Messages.ContentBlockParam> =>
  Option.match(decodeServerBlock(part.options), {
    onNone: () => [],
    // The types of these blocks and of their contents are the provider's, and so is the text that comes back here.
    onSome: ({ anthropic }) => [
      { type: anthropic.blockType, tool_use_id: part.id, content: part.result } as unknown as Messages.ContentBlockParam
    ]
  })

const encodeAssistantPart = (
  part: Prompt.AssistantMessagePart,
  names: Tool.NameMapper<ReadonlyArray<Tool.Any>>
): Encoded<ReadonlyArray<Messages.ContentBlockParam>> => {
  switch (part.type) {
    case "text":
      return Effect.succeed(encodeText(part))
    case "reasoning":
      return Effect.succeed(encodeReasoning(part))
    case "tool-call": {
      const type = part.providerExecuted ? "server_tool_use" : "tool_use"
      const name = part.providerExecuted ? names.getProviderName(part.name) : part.name
      // The names of server tools are a closed union in the SDK, and an open set in its API.
      return Effect.succeed([
        { type, id: part.id, name, input: part.params, ...cacheControlOf(part.options) } as Messages.ToolUseBlockParam
      ])
    }
    case "tool-result":
      return part.providerExecuted
        ? Effect.succeed(encodeServerResult(part))
        : Effect.fail(badInput(`The result of tool ${part.name} (${part.id}) is in an assistant message`))
    case "file":
      return refuseFile(part, "the model takes no files as its own words")
    case "tool-approval-request":
      return Effect.succeed([])
  }
}

const encodeUserPart = (part: Prompt.UserMessagePart): Encoded<ReadonlyArray<Messages.ContentBlockParam>> =>
  part.type === "text" ? Effect.succeed(encodeText(part)) : Effect.map(encodeFile(part), (block) => [block])

const encodeToolPart = (part: Prompt.ToolMessagePart): Encoded<ReadonlyArray<Messages.ContentBlockParam>> =>
  part.type === "tool-result" && !part.providerExecuted
    ? Effect.map(encodeToolResult(part), (block) => [block])
    : Effect.succeed([])

const encodeContent = (
  message: Exclude<Prompt.Message, Prompt.SystemMessage>,
  names: Tool.NameMapper<ReadonlyArray<Tool.Any>>
): Encoded<Array<Messages.ContentBlockParam>> => {
  const blocks: Encoded<ReadonlyArray<ReadonlyArray<Messages.ContentBlockParam>>> = message.role === "assistant"
    ? Effect.forEach(message.content, (part) => encodeAssistantPart(part, names))
    : message.role === "user"
    ? Effect.forEach(message.content, encodeUserPart)
    : Effect.forEach(message.content, encodeToolPart)
  return Effect.map(blocks, (nested) => {
    const content = nested.flat()
    const last = content.at(-1)
    // Options of a message mark its end, which for the cache is its last block. Thoughts cannot be marked.
    if (last !== undefined && last.type !== "thinking" && last.type !== "redacted_thinking") {
      Object.assign(last, cacheControlOf(message.options))
    }
    return content
  })
}

type Turn = Messages.MessageParam & { content: Array<Messages.ContentBlockParam> }

/**
 * Results come first, as the API wants them, and in the order of their calls. Tools that run side by side end in any
 * order, and a conversation that is spelled differently each time is never found in the prompt cache.
 */
const sortResults = (turn: Turn, before: Turn | undefined): void => {
  if (before?.role !== "assistant") return
  const calls = before.content.flatMap((block) => block.type === "tool_use" ? [block.id] : [])
  const place = (block: Messages.ContentBlockParam) =>
    block.type === "tool_result" && calls.includes(block.tool_use_id) ? calls.indexOf(block.tool_use_id) : calls.length
  turn.content = turn.content.toSorted((left, right) => place(left) - place(right))
}

const encodeMessages = Effect.fnUntraced(function*(
  prompt: Prompt.Prompt,
  names: Tool.NameMapper<ReadonlyArray<Tool.Any>>
) {
  const system: Array<Messages.TextBlockParam> = []
  const messages: Array<Turn> = []
  // Between calls and their results there may be nothing: what the system says there comes after them.
  const unanswered = new Set<string>()
  let held: Array<Turn> = []
  const release = () => {
    unanswered.clear()
    messages.push(...held)
    held = []
  }
  for (const message of prompt.content) {
    if (message.role === "system") {
      if (message.content === "") continue
      const block: Messages.TextBlockParam = { type: "text", text: message.content, ...cacheControlOf(message.options) }
      if (messages.length === 0) system.push(block)
      else (unanswered.size > 0 ? held : messages).push({ role: "system", content: [block] })
      continue
    }
    const content = yield* encodeContent(message, names)
    if (content.length === 0) continue
    // All results of a turn have to come in the one user message that follows it.
    const role = message.role === "assistant" ? "assistant" : "user"
    if (role === "assistant") release()
    const last = messages.at(-1)
    if (last?.role === role) last.content.push(...content)
    else messages.push({ role, content })
    for (const block of content) {
      if (block.type === "tool_use") unanswered.add(block.id)
      if (block.type === "tool_result") unanswered.delete(block.tool_use_id)
    }
    if (unanswered.size === 0) release()
  }
  release()
  for (const [index, message] of messages.entries()) sortResults(message, messages[index - 1])
  return { system, messages }
})

// ---- tools and output

const unsupported = (what: string) => (error: unknown) =>
  new AiErrors.UnsupportedSchemaError({
    description: `${what}: ${error instanceof Error ? error.message : String(error)}`
  })

const isObjectSchema = (schema: Record<string, unknown>): schema is { type: "object" } & Record<string, unknown> =>
  schema["type"] === "object"

const encodeTool = (tool: Tool.Any): Encoded<Messages.ToolUnion> => {
  if (Tool.isProviderDefined(tool)) {
    const type = tool.id.replace(/^anthropic\./, "")
    return type === tool.id
      ? Effect.fail(badInput(`Tool ${tool.name} (${tool.id}) is another provider's`))
      // Which types exist and what they take is for the API to say.
      : Effect.succeed({ type, name: tool.providerName, ...(tool.args as object) } as Messages.ToolUnion)
  }
  return Effect.gen(function*() {
    const strict = Tool.getStrictMode(tool)
    // Only strict mode is held to the small dialect. The full schema says more, and what it accepts needs no rewriting.
    const schema = yield* Effect.try({
      try: () =>
        strict === true
          ? Tool.getJsonSchema(tool, { transformer: AnthropicStructuredOutput.toCodecAnthropic })
          : Tool.getJsonSchema(tool),
      catch: unsupported(`Tool ${tool.name}`)
    })
    if (!isObjectSchema(schema)) return yield* unsupported(`Tool ${tool.name}`)("its parameters are no object")
    const description = Tool.getDescription(tool)
    return {
      name: tool.name,
      input_schema: schema,
      ...(description === undefined ? {} : { description }),
      ...(strict === undefined ? {} : { strict })
    }
  })
}

const encodeToolChoice = (
  choice: LanguageModel.ProviderOptions["toolChoice"],
  names: Tool.NameMapper<ReadonlyArray<Tool.Any>>
): Messages.ToolChoice => {
  if (choice === "auto" || choice === "none") return { type: choice }
  if (choice === "required") return { type: "any" }
  if ("tool" in choice) return { type: "tool", name: names.getProviderName(choice.tool) }
  return { type: choice.mode === "required" ? "any" : "auto" }
}

const encodeFormat = (
  format: LanguageModel.ProviderOptions["responseFormat"]
): Encoded<Messages.OutputConfig | undefined> =>
  format.type === "text" ? Effect.undefined : Effect.try({
    try: () => ({
      format: {
        type: "json_schema" as const,
        schema: AnthropicStructuredOutput.toCodecAnthropic(format.schema).jsonSchema
      }
    }),
    catch: unsupported(`Output ${format.objectName}`)
  })

/** @internal */
export type Parameters = Partial<
  Omit<Messages.MessageCreateParamsNonStreaming, "messages" | "stream" | "system" | "tool_choice" | "tools">
>

/** @internal */
export const encodeRequest = Effect.fnUntraced(function*(
  parameters: Parameters & Pick<Messages.MessageCreateParamsNonStreaming, "model" | "max_tokens">,
  options: LanguageModel.ProviderOptions
) {
  const names = new Tool.NameMapper(options.tools)
  const { messages, system } = yield* encodeMessages(options.prompt, names)
  const tools = yield* Effect.forEach(options.tools, encodeTool)
  const format = yield* encodeFormat(options.responseFormat)
  const request: Messages.MessageCreateParamsNonStreaming = {
    ...parameters,
    messages,
    ...(system.length === 0 ? {} : { system }),
    ...(tools.length === 0 ? {} : { tools, tool_choice: encodeToolChoice(options.toolChoice, names) }),
    ...(format === undefined ? {} : { output_config: { ...parameters.output_config, ...format } })
  }
  return request
})

/**
 * Why a request cannot be sent, if it is no JSON. It is asked when a call has failed for no reason that is known: the SDK
 * writes the JSON, and what it cannot write it throws as it comes.
 *
 * @internal
 */
export const unsendable = (
  request: Messages.MessageCreateParamsNonStreaming
): Effect.Effect<Option.Option<AiError.AiErrorReason>> =>
  Effect.match(encodeJson(request), {
    onFailure: (error) => Option.some(badInput(`The request cannot be written as JSON: ${error.message}`)),
    onSuccess: () => Option.none()
  })

/**
 * The parameters of a call in the tool's own encoding. Strict mode sends a schema of its own dialect (optional fields as
 * required and nullable, tuples as objects), and the model answers in it. What does not decode is passed on as it is:
 * the toolkit refuses it in the way that the tool's `failureMode` says.
 *
 * @internal
 */
export const recodeParameters = (tool: Tool.Any, params: unknown): Effect.Effect<unknown> => {
  if (Tool.getStrictMode(tool) !== true || Tool.isDynamic(tool) || Tool.isProviderDefined(tool)) {
    return Effect.succeed(params)
  }
  const schema = tool.parametersSchema
  // A tool's schema may need services, which a provider is not told of; the toolkit has them, and decodes in its turn.
  const recode = Effect.try({
    try: () => AnthropicStructuredOutput.toCodecAnthropic(schema).codec,
    catch: () => params
  })
    .pipe(
      Effect.flatMap((codec) => Schema.decodeUnknownEffect(codec)(params)),
      Effect.flatMap(Schema.encodeUnknownEffect(schema)),
      Effect.catchCause(() => Effect.succeed(params))
    )
  return recode as Effect.Effect<unknown>
}
