import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"

const Block = Schema.StructWithRest(Schema.Struct({ type: Schema.String }), [
  Schema.Record(Schema.String, Schema.Unknown)
])

const Turn = Schema.Struct({
  role: Schema.Literals(["user", "assistant", "system"]),
  content: Schema.Union([Schema.String, Schema.Array(Block)])
})

const Tool = Schema.StructWithRest(Schema.Struct({ name: Schema.String }), [
  Schema.Record(Schema.String, Schema.Unknown)
])

const counted = {
  model: Schema.String.check(Schema.isMinLength(1)),
  messages: Schema.Array(Turn),
  system: Schema.optional(Schema.Union([Schema.String, Schema.Array(Block)])),
  tools: Schema.optional(Schema.Array(Tool))
}

/**
 * A content block of a request: its `type`, and what this type brings.
 *
 * @category models
 * @since 0.1.0
 */
export interface RequestBlock {
  readonly type: string
  readonly [field: string]: unknown
}

/**
 * A turn of the conversation in a request.
 *
 * @category models
 * @since 0.1.0
 */
export interface RequestTurn {
  readonly role: "user" | "assistant" | "system"
  readonly content: string | ReadonlyArray<RequestBlock>
}

/**
 * The body of a valid `POST /v1/messages`: the fields that the server reads, and every other one as it came.
 *
 * @category models
 * @since 0.1.0
 */
export interface MessagesRequest {
  readonly model: string
  readonly max_tokens: number
  readonly messages: ReadonlyArray<RequestTurn>
  readonly system?: string | ReadonlyArray<RequestBlock> | undefined
  readonly tools?: ReadonlyArray<{ readonly name: string; readonly [field: string]: unknown }> | undefined
  readonly stream?: boolean | undefined
  readonly [field: string]: unknown
}

/** @internal */
export type CountRequest = Pick<MessagesRequest, "model" | "messages" | "system" | "tools">

const Count = Schema.Struct(counted)

const Messages: Schema.Codec<MessagesRequest, unknown> = Schema.StructWithRest(
  Schema.Struct({
    ...counted,
    max_tokens: Schema.Int.check(Schema.isGreaterThanOrEqualTo(1)),
    stream: Schema.optional(Schema.Boolean)
  }),
  [Schema.Record(Schema.String, Schema.Unknown)]
)

const issues = SchemaIssue.makeFormatterStandardSchemaV1()

const decode = <A>(
  schema: Schema.Codec<A, unknown>,
  required: ReadonlyArray<string>,
  body: unknown
): Result.Result<A, string> => {
  if (typeof body !== "object" || body === null || Array.isArray(body)) {
    return Result.fail("The request body is not valid JSON: expected an object")
  }
  for (const field of required) {
    if (!(field in body)) return Result.fail(`${field}: Field required`)
  }
  return Result.mapError(Schema.decodeUnknownResult(schema)(body), (error) => {
    const issue = issues(error.issue).issues[0]
    const path = issue?.path?.map((key) => String(typeof key === "object" ? key.key : key)).join(".")
    return `${path ?? "body"}: ${issue?.message ?? error.message}`
  })
}

const idsOf = (turn: ReadonlyArray<RequestBlock>, type: string, field: string): ReadonlyArray<string> =>
  turn.flatMap((block) => {
    const id = block[field]
    return block.type === type && typeof id === "string" ? [id] : []
  })

/** The provider joins neighbouring turns of one role before it looks at them. */
const joinTurns = (turns: ReadonlyArray<RequestTurn>) => {
  const joined: Array<{ readonly role: string; readonly content: ReadonlyArray<RequestBlock> }> = []
  for (const turn of turns) {
    const content = typeof turn.content === "string" ? [{ type: "text", text: turn.content }] : turn.content
    const last = joined.at(-1)
    if (last?.role === turn.role) joined.splice(-1, 1, { role: turn.role, content: [...last.content, ...content] })
    else joined.push({ role: turn.role, content })
  }
  return joined
}

const brokenToolTurns = (turns: ReadonlyArray<RequestTurn>): string | undefined => {
  const joined = joinTurns(turns)
  for (const [index, turn] of joined.entries()) {
    const next = joined[index + 1]
    const answered = new Set(next?.role === "user" ? idsOf(next.content, "tool_result", "tool_use_id") : [])
    const open = turn.role === "assistant"
      ? idsOf(turn.content, "tool_use", "id").filter((id) => !answered.has(id))
      : []
    if (open.length > 0) {
      return `messages.${index}: \`tool_use\` ids were found without \`tool_result\` blocks immediately after: ${
        open.join(", ")
      }. Each \`tool_use\` block must have a corresponding \`tool_result\` block in the next message.`
    }
    const before = joined[index - 1]
    const asked = new Set(before?.role === "assistant" ? idsOf(before.content, "tool_use", "id") : [])
    const unasked = idsOf(turn.content, "tool_result", "tool_use_id").filter((id) => !asked.has(id))
    if (unasked.length > 0) {
      return `messages.${index}: unexpected \`tool_use_id\` found in \`tool_result\` blocks: ${
        unasked.join(", ")
      }. Each \`tool_result\` block must have a corresponding \`tool_use\` block in the previous message.`
    }
  }
  return undefined
}

const checkConversation = <A extends CountRequest>(request: A): Result.Result<A, string> => {
  if (request.messages.length === 0) return Result.fail("messages: at least one message is required")
  const names = request.tools?.map((tool) => tool.name) ?? []
  if (new Set(names).size < names.length) return Result.fail("tools: Tool names must be unique.")
  const broken = brokenToolTurns(request.messages)
  return broken === undefined ? Result.succeed(request) : Result.fail(broken)
}

/** @internal */
export const decodeMessages = (body: unknown): Result.Result<MessagesRequest, string> =>
  Result.flatMap(decode(Messages, ["model", "max_tokens", "messages"], body), checkConversation)

/** @internal */
export const decodeCount = (body: unknown): Result.Result<CountRequest, string> =>
  Result.flatMap(decode(Count, ["model", "messages"], body), checkConversation)
