import type * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Idempotency from "../../durable/Idempotency.ts"

/** @internal */
export type Method = "generateText" | "generateObject" | "streamText"

/** What a model is asked, whichever way. */
export interface Request {
  readonly method: Method
  readonly prompt: Prompt.Prompt
  readonly tools: ReadonlyArray<Tool.Any>
  readonly toolChoice: LanguageModel.ToolChoice<string>
  readonly schema: Schema.Top | undefined
}

/** The options of a call without their type parameters, which only relate them to the parts of the answer. */
export interface CallOptions {
  readonly prompt: Prompt.RawInput
  readonly toolkit?: unknown
  readonly toolChoice?: LanguageModel.ToolChoice<string> | undefined
  readonly disableToolCallResolution?: boolean | undefined
  readonly toolCallValidation?: "strict" | "deferred" | undefined
  readonly schema?: Schema.Top | undefined
  readonly objectName?: string | undefined
}

const isTools = (value: unknown): value is Readonly<Record<string, Tool.Any>> => Predicate.isObject(value)

/** @internal */
export const makeRequest = (method: Method, options: CallOptions): Request => {
  const tools = Predicate.hasProperty(options.toolkit, "tools") && isTools(options.toolkit.tools)
    ? Object.values(options.toolkit.tools)
    : []
  return {
    method,
    prompt: Prompt.make(options.prompt),
    tools,
    toolChoice: options.toolChoice ?? "auto",
    schema: options.schema
  }
}

/** @internal */
export const hasApprovals = ({ prompt }: Request): boolean =>
  prompt.content.some(({ content, role }) =>
    role === "tool" && content.some((part) => part.type === "tool-approval-response")
  )

const perToken = 4
const perFile = 1_600

const lengthOfJson = (value: unknown): number => {
  try {
    return JSON.stringify(value)?.length ?? 0
  } catch {
    // a value that is no JSON is refused by whoever sends it, and not by an estimate
    return 0
  }
}

const lengths = new WeakMap<object, number>()

/** Schemas are made once and sent with every call. */
const once = (of: object, measure: () => number): number => {
  let known = lengths.get(of)
  if (known === undefined) {
    try {
      known = measure()
    } catch {
      // the model itself says what is wrong with a schema
      known = 0
    }
    lengths.set(of, known)
  }
  return known
}

const charactersOf = (part: Prompt.Part): number => {
  switch (part.type) {
    case "text":
    case "reasoning":
      return part.text.length
    case "file":
      return perFile * perToken
    case "tool-call":
      return part.name.length + lengthOfJson(part.params)
    case "tool-result":
      return part.name.length + lengthOfJson(part.result)
    default:
      return 0
  }
}

/** @internal */
export const estimateInputTokens = ({ prompt, schema, tools }: Request): number => {
  let characters = 0
  for (const message of prompt.content) {
    if (message.role === "system") characters += message.content.length
    else for (const part of message.content) characters += charactersOf(part)
  }
  for (const tool of tools) {
    characters += once(
      tool,
      () => tool.name.length + (tool.description?.length ?? 0) + lengthOfJson(Tool.getJsonSchema(tool))
    )
  }
  if (schema !== undefined) characters += once(schema, () => lengthOfJson(Tool.getJsonSchemaFromSchema(schema)))
  return Math.ceil(characters / perToken)
}

/**
 * The key under which the answer to a request is remembered: equal requests have equal ones. None where the prompt is no
 * JSON.
 *
 * @internal
 */
export const rememberedAs = (name: string, request: Request): Effect.Effect<string | undefined> =>
  Schema.encodeEffect(Prompt.Prompt)(request.prompt).pipe(
    Effect.flatMap(({ content }) =>
      Idempotency.key(`${name}/${request.method}`, {
        prompt: content,
        tools: request.tools.map(({ name }) => name),
        toolChoice: request.toolChoice,
        schema: request.schema === undefined ? null : Tool.getJsonSchemaFromSchema(request.schema)
      })
    ),
    Effect.catchCause(() => Effect.undefined)
  )
