import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { identifier } from "./seeded.ts"

/**
 * Something that an agent does in a turn. A tool call comes with its result, unless it asks for an approval.
 *
 * @category models
 * @since 0.1.0
 */
export type Deed =
  | { readonly type: "reasoning"; readonly text: string }
  | { readonly type: "assistant"; readonly text: string }
  | { readonly type: "tool"; readonly name: string; readonly arguments: string; readonly result: string }
  | { readonly type: "approval"; readonly name: string; readonly arguments: string }

/**
 * A healthy turn: a text, or what the agent does in it. The stop reason defaults to `requires_approval` where the last
 * deed asks for one and to `end_turn` elsewhere.
 *
 * @category models
 * @since 0.1.0
 */
export type AnswerContent = string | {
  readonly deeds: ReadonlyArray<Deed>
  readonly stop_reason?: string | undefined
  readonly usage?:
    | { readonly prompt_tokens?: number | undefined; readonly completion_tokens?: number | undefined }
    | undefined
}

/**
 * The body of a message that was sent to an agent: the fields that the server reads, and every other one as it came.
 *
 * @category models
 * @since 0.1.0
 */
export interface MessageRequest {
  readonly messages?: ReadonlyArray<{ readonly [field: string]: unknown }> | null | undefined
  readonly input?: unknown
  readonly streaming?: boolean | undefined
  readonly stream_tokens?: boolean | undefined
  readonly include_pings?: boolean | undefined
  readonly background?: boolean | undefined
  readonly [field: string]: unknown
}

const Request: Schema.Codec<MessageRequest, unknown> = Schema.StructWithRest(
  Schema.Struct({
    messages: Schema.optional(Schema.NullOr(Schema.Array(Schema.Record(Schema.String, Schema.Unknown)))),
    streaming: Schema.optional(Schema.Boolean),
    stream_tokens: Schema.optional(Schema.Boolean),
    include_pings: Schema.optional(Schema.Boolean),
    background: Schema.optional(Schema.Boolean)
  }),
  [Schema.Record(Schema.String, Schema.Unknown)]
)

/** @internal */
export const decodeRequest = (body: unknown): Result.Result<MessageRequest, string> =>
  Result.mapError(Schema.decodeUnknownResult(Request)(body), (error) => error.message).pipe(
    Result.flatMap((request) =>
      (request.messages?.length ?? 0) > 0 || typeof request.input === "string"
        ? Result.succeed(request)
        : Result.fail("Either messages or input has to be there")
    )
  )

const textOf = (content: unknown): string => {
  if (typeof content === "string") return content
  if (!Array.isArray(content)) return ""
  return content.flatMap((piece: unknown) =>
    Predicate.hasProperty(piece, "text") && typeof piece.text === "string" ? [piece.text] : []
  ).join("\n")
}

/** @internal */
export const userText = (request: MessageRequest): string =>
  typeof request.input === "string"
    ? request.input
    : (request.messages ?? []).map((message) => textOf(message["content"])).filter((text) => text !== "").join("\n")

/** @internal */
export const otidsOf = (request: MessageRequest): ReadonlyArray<string> =>
  (request.messages ?? []).flatMap(({ otid }) => typeof otid === "string" ? [otid] : [])

/** @internal */
export type WireMessage = { readonly message_type: string; readonly [field: string]: unknown }

/** @internal */
export interface Turn {
  readonly runId: string
  readonly messages: ReadonlyArray<WireMessage>
  readonly stopReason: string | null
  readonly usage: WireMessage
}

const tokens = (text: string): number => Math.max(1, Math.ceil(text.length / 4))

/** @internal */
export const build = (
  request: MessageRequest,
  content: AnswerContent,
  seed: number | string,
  index: number,
  date: string
): Turn => {
  const given = typeof content === "string" ? { deeds: [{ type: "assistant", text: content } as const] } : content
  const runId = identifier("run", seed, index, "run")
  const messages = given.deeds.flatMap((deed, place): ReadonlyArray<WireMessage> => {
    const common = {
      id: identifier("message", seed, index, `message${place}`),
      date,
      run_id: runId,
      step_id: identifier("step", seed, index, `step${place}`)
    }
    if (deed.type === "reasoning") return [{ ...common, message_type: "reasoning_message", reasoning: deed.text }]
    if (deed.type === "assistant") return [{ ...common, message_type: "assistant_message", content: deed.text }]
    const tool_call_id = identifier("call", seed, index, `call${place}`)
    const tool_call = { name: deed.name, arguments: deed.arguments, tool_call_id }
    if (deed.type === "approval") return [{ ...common, message_type: "approval_request_message", tool_call }]
    return [
      { ...common, message_type: "tool_call_message", tool_call },
      { ...common, message_type: "tool_return_message", tool_call_id, tool_return: deed.result, status: "success" }
    ]
  })
  const prompt_tokens = given.usage?.prompt_tokens ?? tokens(userText(request))
  const completion_tokens = given.usage?.completion_tokens ?? tokens(JSON.stringify(given.deeds))
  return {
    runId,
    messages,
    stopReason: given.stop_reason ?? (given.deeds.at(-1)?.type === "approval" ? "requires_approval" : "end_turn"),
    usage: {
      message_type: "usage_statistics",
      prompt_tokens,
      completion_tokens,
      total_tokens: prompt_tokens + completion_tokens,
      step_count: Math.max(1, given.deeds.length),
      run_ids: [runId]
    }
  }
}

/**
 * A turn of which only the first messages were made before it failed.
 *
 * @internal
 */
export const failed = (turn: Turn, stopReason: string, afterMessages: number): Turn => ({
  ...turn,
  stopReason,
  messages: turn.messages.slice(0, afterMessages),
  usage: { ...turn.usage, step_count: Math.min(afterMessages, turn.messages.length) }
})

/** @internal */
export const answerJson = (turn: Turn): string =>
  JSON.stringify({
    messages: turn.messages,
    ...(turn.stopReason === null
      ? {}
      : { stop_reason: { message_type: "stop_reason", stop_reason: turn.stopReason } }),
    usage: turn.usage
  })

const pieces = (message: WireMessage): ReadonlyArray<WireMessage> => {
  const field = message.message_type === "assistant_message" ? "content" : "reasoning"
  const text = message[field]
  if (typeof text !== "string") return [message]
  return (text.match(/\s*\S+(?:\s+$)?|\s+/g) ?? [text]).map((word) => Object.assign({}, message, { [field]: word }))
}

/** @internal */
export const ping = (turn: Turn, date: string): WireMessage => ({
  message_type: "ping",
  id: "message-ping",
  date,
  run_id: turn.runId
})

/** @internal */
export const eventsOf = (turn: Turn, request: MessageRequest, date: string): ReadonlyArray<WireMessage> => {
  const messages = request.stream_tokens === true ? turn.messages.flatMap(pieces) : turn.messages
  const all = [...(request.include_pings === true ? [ping(turn, date)] : []), ...messages]
  const numbered = request.background === true
    ? all.map((message, place) => Object.assign({}, message, { seq_id: place }))
    : all
  return [
    ...numbered,
    ...(turn.stopReason === null ? [] : [{ message_type: "stop_reason", stop_reason: turn.stopReason }]),
    turn.usage
  ]
}

/** @internal */
export const eventText = (message: WireMessage): string => `data: ${JSON.stringify(message)}\n\n`

/** @internal */
export const done = "data: [DONE]\n\n"

/** @internal */
export const errorMessage = (runId: string, type: string, message: string): WireMessage => ({
  message_type: "error_message",
  run_id: runId,
  error_type: type,
  message,
  detail: null
})
