import * as Schema from "effect/Schema"

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

/** @internal */
export type Usage = typeof Usage.Type

const optionalText = Schema.optionalKey(Schema.String)

const citations = Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.Json)))

const Known = Schema.Union([
  Schema.Struct({ type: Schema.Literal("text"), text: Schema.String, citations }),
  Schema.Struct({ type: Schema.Literal("thinking"), thinking: Schema.String, signature: optionalText }),
  Schema.Struct({ type: Schema.Literal("redacted_thinking"), data: Schema.String }),
  Schema.Struct({
    type: Schema.Literals(["tool_use", "server_tool_use"]),
    id: Schema.String,
    name: Schema.String,
    input: Schema.Unknown
  })
])

const knownTypes = new Set(["text", "thinking", "redacted_thinking", "tool_use", "server_tool_use"])

/** Results of server tools, and what the API may add. A known block with a field missing is not one of these. */
const Other = Schema.Struct({
  type: Schema.String.check(Schema.makeFilter((type) => !knownTypes.has(type))),
  tool_use_id: Schema.optionalKey(Schema.String),
  content: Schema.optionalKey(Schema.Unknown)
})

const Block = Schema.Union([Known, Other])

/** @internal */
export type Block = typeof Block.Type

const Message = Schema.Struct({
  type: Schema.Literal("message"),
  id: optionalText,
  model: optionalText,
  content: Schema.Array(Block),
  stop_reason: Schema.String,
  stop_sequence: Schema.optionalKey(Schema.NullOr(Schema.String)),
  stop_details: Schema.optionalKey(Schema.NullOr(Schema.Json)),
  usage: Schema.optionalKey(Schema.NullOr(Usage))
})

/** @internal */
export type Message = typeof Message.Type

const index = Schema.Int

const knownDeltas = new Set(["text_delta", "input_json_delta", "thinking_delta", "signature_delta", "citations_delta"])

const Event = Schema.Union([
  Schema.Struct({
    type: Schema.Literal("message_start"),
    message: Schema.Struct({
      type: Schema.Literal("message"),
      id: optionalText,
      model: optionalText,
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
          Schema.makeFilter((type) => !knownDeltas.has(type))
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

/** @internal */
export type Event = typeof Event.Type

/**
 * The events that are read. Others come without notice in a stream that is all right.
 *
 * @internal
 */
export const eventTypes: ReadonlySet<unknown> = new Set([
  "message_start",
  "content_block_start",
  "content_block_delta",
  "content_block_stop",
  "message_delta",
  "message_stop"
])

/** @internal */
export const decodeMessage = Schema.decodeUnknownEffect(Message)

/** @internal */
export const decodeEvent = Schema.decodeUnknownEffect(Event)

/** @internal */
export type Known = typeof Known.Type

/** @internal */
export type Other = typeof Other.Type

/** @internal */
export type ToolBlock = Extract<Known, { readonly input: unknown }>

/** @internal */
export const isOther = (block: Block): block is Other => !knownTypes.has(block.type)

/**
 * Results are told apart by the ids of their calls, and a call that is there twice would run twice.
 *
 * @internal
 */
export const sameId = (id: string): string => `two tool calls have the id ${id}`

/** @internal */
export const isTool = (block: Block): block is ToolBlock =>
  block.type === "tool_use" || block.type === "server_tool_use"
