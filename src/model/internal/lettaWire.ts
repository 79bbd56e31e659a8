import type { LettaStreamingResponse, Message } from "@letta-ai/letta-client/resources/agents/messages"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

// The client's types are what the API promises; nothing checks it. These are the fields on which the program relies.

const nullable = <S extends Schema.Top>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

const text = nullable(Schema.String)

const Content = Schema.Union([
  Schema.String,
  Schema.Array(Schema.Struct({ type: Schema.optionalKey(Schema.String), text: Schema.optionalKey(Schema.String) }))
])

const known = {
  assistant_message: Schema.Struct({ content: Content }),
  reasoning_message: Schema.Struct({ reasoning: Schema.String }),
  stop_reason: Schema.Struct({ stop_reason: Schema.String }),
  error_message: Schema.Struct({ error_type: Schema.String, message: text, detail: text, run_id: text })
}

const checks: ReadonlyMap<string, (value: unknown) => boolean> = new Map(
  Object.entries(known).map(([type, schema]) => [type, Schema.is(schema)])
)

/** @internal */
export const typeOf = (value: unknown): string | undefined =>
  Predicate.hasProperty(value, "message_type") && typeof value.message_type === "string"
    ? value.message_type
    : undefined

/**
 * What is wrong with a message or an event, `undefined` if nothing. Of the fields of a type, those are checked that
 * the program reads; Letta has announced that it drops others.
 *
 * @internal
 */
export const flaw = (value: unknown): string | undefined => {
  const type = typeOf(value)
  if (type === undefined) return "it has no message_type"
  return checks.get(type)?.(value) === false ? `its fields are not those of ${type}` : undefined
}

const quiet = new Set(["user_message", "system_message", "ping", "stop_reason", "usage_statistics", "error_message"])

/**
 * Whether a message is something that the agent did. Letta keeps nothing of a step that failed, so an agent that has
 * done nothing yet is as it was.
 *
 * @internal
 */
export const isDeed = (value: unknown): boolean => !quiet.has(typeOf(value) ?? "")

const count = nullable(Schema.Number)

const Answer = Schema.Struct({
  messages: Schema.Array(Schema.Unknown),
  stop_reason: Schema.Struct({ stop_reason: Schema.String }),
  usage: Schema.Struct({ prompt_tokens: count, completion_tokens: count, total_tokens: count, step_count: count })
})

/** @internal */
export const decodeAnswer = Schema.decodeUnknownEffect(Answer)

/** @internal */
export const Health = Schema.Struct({ status: Schema.String, version: text })

/** @internal */
export const Block = Schema.Struct({
  id: text,
  label: text,
  value: Schema.String,
  limit: count,
  description: text,
  read_only: nullable(Schema.Boolean)
})

/** @internal */
export const Tool = Schema.Struct({
  id: Schema.String,
  name: text,
  description: text,
  tool_type: text,
  default_requires_approval: nullable(Schema.Boolean)
})

/** @internal */
export const Agent = Schema.Struct({
  id: Schema.String,
  name: Schema.String,
  agent_type: text,
  model: text,
  system: text,
  tags: nullable(Schema.Array(Schema.String)),
  // Left out they would not be known to be empty: Letta sends them only where they are asked for.
  blocks: Schema.Array(Block),
  tools: Schema.Array(Tool)
})

/** @internal */
export const AnyAgent = Schema.Struct({ id: Schema.String })

const completed = ["end_turn", "max_steps", "tool_rule", "requires_approval"] as const

/** @internal */
export type Completed = (typeof completed)[number]

/**
 * Whether a turn that ended so is one that Letta counts as completed.
 *
 * @internal
 */
export const isCompleted = (reason: string): reason is Completed => completed.some((one) => one === reason)

/** @internal */
export type Part = Exclude<
  LettaStreamingResponse,
  LettaStreamingResponse.LettaPing | LettaStreamingResponse.LettaErrorMessage
>

/** @internal */
export const isPart = (value: LettaStreamingResponse): value is Part =>
  value.message_type !== "ping" && value.message_type !== "error_message"

const contentText = (content: string | ReadonlyArray<{ readonly text: string }>): string =>
  typeof content === "string" ? content : content.map((piece) => piece.text).join("")

/**
 * What the agent said to the user. Pieces of one message have its id.
 *
 * @internal
 */
export const spokenText = (messages: Iterable<Message | Part>): string => {
  let said = ""
  let last: string | undefined
  for (const message of messages) {
    if (message.message_type !== "assistant_message") continue
    const piece = contentText(message.content)
    said += (said !== "" && message.id !== last ? "\n" : "") + piece
    last = message.id
  }
  return said
}
