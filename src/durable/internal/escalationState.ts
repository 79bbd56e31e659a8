import * as DateTime from "effect/DateTime"
import * as Equal from "effect/Equal"
import { format } from "effect/Formatter"
import type * as JsonSchema from "effect/JsonSchema"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaRepresentation from "effect/SchemaRepresentation"
import * as Struct from "effect/Struct"
import { beyondBounds } from "../../internal/argumentBounds.ts"
import { excerptText } from "./escalationExcerpt.ts"
import { Decision, DecisionTag, Escalation, type FailureReason } from "./escalationModel.ts"

/** @internal */
export const defaults = {
  excerptLimit: 8_000,
  aboutLimit: 1_000_000,
  aboutDepth: 200,
  lease: "5 minutes",
  storeTimeout: "30 seconds",
  capacity: 10_000,
  history: 10_000
} as const

const without = <K extends "claim" | "resolution" | "delivered" | "refused">(
  record: Escalation,
  ...keys: ReadonlyArray<K>
) => Struct.omit(record, keys)

/**
 * The record with other fields.
 *
 * @internal
 */
export const changed = (
  record: Escalation,
  fields: Pick<Escalation, "revision"> | Required<Pick<Escalation, "status" | "claim">>
): Escalation => new Escalation(Struct.assign(record, fields))

/**
 * Whether it has an outcome that is recorded: a decision, or that there will be none.
 *
 * @internal
 */
export const isOver = (record: Escalation): boolean => record.resolution !== undefined || record.closed !== undefined

/**
 * Whether there is a run that is still to hear of the outcome.
 *
 * @internal
 */
export const isUndelivered = (record: Escalation): boolean =>
  isOver(record) && record.closed?.as !== "withdrawn" && record.runId !== undefined && record.delivered !== true

/**
 * The record as it stands at a time: leases and deadlines pass without anybody writing.
 *
 * @internal
 */
export const asOf = (record: Escalation, now: number): Escalation => {
  if (isOver(record)) return record
  if (record.expiresAt !== undefined && DateTime.toEpochMillis(record.expiresAt) <= now) {
    return new Escalation({ ...without(record, "claim"), status: "expired" })
  }
  if (record.claim !== undefined && DateTime.toEpochMillis(record.claim.until) <= now) {
    return new Escalation({ ...without(record, "claim"), status: "open" })
  }
  return record
}

const withdrawal = ({ closed }: Escalation): FailureReason | undefined => {
  if (closed?.as !== "withdrawn") return undefined
  const { at, reason: why } = closed
  return why === undefined ? { _tag: "Withdrawn", at } : { _tag: "Withdrawn", at, why }
}

const expiry = ({ expiresAt, status }: Escalation): FailureReason | undefined =>
  status === "expired" && expiresAt !== undefined ? { _tag: "Expired", at: expiresAt } : undefined

/** Why nobody may touch the record any more, or only its holder. */
const refusal = (record: Escalation, by: string | undefined): FailureReason | undefined => {
  const { claim, resolution } = record
  if (resolution !== undefined) {
    const decided = { _tag: "AlreadyDecided", decision: resolution.decision._tag } as const
    return resolution.by === undefined ? decided : { ...decided, by: resolution.by }
  }
  const ended = withdrawal(record) ?? expiry(record)
  if (ended !== undefined) return ended
  return claim !== undefined && claim.by !== by ? { _tag: "AlreadyClaimed", ...claim } : undefined
}

const isDocument = Schema.is(Schema.Struct({
  dialect: Schema.Literal("draft-2020-12"),
  schema: Schema.Record(Schema.String, Schema.Json),
  definitions: Schema.Record(Schema.String, Schema.Record(Schema.String, Schema.Json))
}))

/** What is wrong with a given value, as far as the JSON Schema of the record can tell. */
const issueWith = (value: Schema.Json, accepts: Schema.Json | undefined): string | undefined => {
  if (!isDocument(accepts)) return undefined
  const document: JsonSchema.Document<"draft-2020-12"> = accepts
  // The document was derived from a schema of the program, so that its patterns can be trusted. One that cannot be
  // read back checks nothing: the program's own schema has the last word when the run resumes.
  const schema = Result.getOrUndefined(Result.try({
    try: () => SchemaRepresentation.fromJsonSchemaDocument(document, { patterns: "apply" }),
    catch: () => undefined
  }))
  if (schema === undefined) return undefined
  const decoded = Schema.decodeUnknownResult(Schema.make<Schema.Codec<unknown>>(schema.ast))(value)
  return Result.isFailure(decoded) ? decoded.failure.message : undefined
}

/**
 * Why other arguments are none that may be approved, whatever their schema says.
 *
 * @internal
 */
export const editsIssue = ({ editLimits }: Escalation, edited: Schema.Json): string | undefined =>
  beyondBounds(edited, editLimits ?? { arguments: defaults.aboutLimit, depth: defaults.aboutDepth })

/** @internal */
export type Transition = (record: Escalation, now: number) => Result.Result<Escalation, FailureReason>

const decodeDecision = Schema.decodeUnknownResult(Decision)
const isTag = Schema.is(DecisionTag)

const nameOf = (decision: unknown): string =>
  Predicate.hasProperty(decision, "_tag") && isTag(decision._tag) ? decision._tag : excerptText(format(decision), 200)

/** @internal */
export const decide = (decision: Decision, by: string | undefined): Transition => (record, now) => {
  const refused = refusal(record, by)
  if (refused !== undefined) return Result.fail(refused)
  // What decides may be a form or another program, of whose values no compiler has told anything.
  const decoded = decodeDecision(decision)
  const issue = Result.isFailure(decoded)
    ? decoded.failure.message
    : !record.decisions.includes(decision._tag)
    ? `it takes ${record.decisions.join(", ")}`
    : decision._tag === "Supply"
    ? issueWith(decision.value, record.accepts)
    : decision._tag === "Approve" && decision.arguments !== undefined
    ? record.edits === undefined
      ? "it takes no other arguments"
      : editsIssue(record, decision.arguments) ?? issueWith(decision.arguments, record.edits)
    : undefined
  if (issue !== undefined) return Result.fail({ _tag: "InvalidDecision", decision: nameOf(decision), issue })
  const at = DateTime.makeUnsafe(now)
  return Result.succeed(
    new Escalation({
      ...without(record, "claim", "refused"),
      status: "resolved",
      resolution: by === undefined ? { decision, at } : { decision, by, at }
    })
  )
}

/** @internal */
export const claim = (by: string, leaseMillis: number): Transition => (record, now) => {
  const refused = refusal(record, by)
  return refused !== undefined ? Result.fail(refused) : Result.succeed(
    changed(record, { status: "claimed", claim: { by, until: DateTime.makeUnsafe(now + leaseMillis) } })
  )
}

/** @internal */
export const release = (by: string): Transition => (record) => {
  const refused = refusal(record, by)
  return refused !== undefined
    ? Result.fail(refused)
    : Result.succeed(new Escalation({ ...without(record, "claim"), status: "open" }))
}

const outcomeOf = ({ closed, resolution }: Escalation) => [closed, resolution?.decision, resolution?.by, resolution?.at]

/** @internal */
export const reopen =
  (refused?: { readonly read: Escalation; readonly issue: string }): Transition => (record, now) => {
    if (refused !== undefined && !Equal.equals(outcomeOf(record), outcomeOf(refused.read))) {
      return Result.succeed(record)
    }
    const { claim, resolution } = record
    const ended = withdrawal(record) ?? expiry(record)
    if (ended !== undefined) return Result.fail(ended)
    if (claim !== undefined) return Result.fail({ _tag: "AlreadyClaimed", ...claim })
    if (resolution?.used === true) return Result.fail({ _tag: "AlreadyUsed", decision: resolution.decision._tag })
    const again = new Escalation({ ...without(record, "resolution", "delivered", "refused"), status: "open" })
    if (refused === undefined || resolution === undefined) return Result.succeed(again)
    const { by, decision } = resolution
    const told = { decision, issue: refused.issue, at: DateTime.makeUnsafe(now) }
    return Result.succeed(
      new Escalation(Struct.assign(again, { refused: by === undefined ? told : { ...told, by } }))
    )
  }

/**
 * Takes the question back. What is over stays as it is.
 *
 * @internal
 */
export const withdraw = (why: string | undefined): Transition => (record, now) => {
  if (isOver(record)) return Result.succeed(record)
  const at = DateTime.makeUnsafe(now)
  const closed = why === undefined ? { as: "withdrawn", at } as const : { as: "withdrawn", at, reason: why } as const
  return Result.succeed(new Escalation({ ...without(record, "claim"), status: "withdrawn", closed }))
}

/**
 * Notes that the run has heard of the outcome that was told. What has none, or another one by now, stays as it is.
 *
 * @internal
 */
export const acknowledge = (told: Escalation): Transition => (record) =>
  Result.succeed(
    isUndelivered(record) && Equal.equals(outcomeOf(record), outcomeOf(told))
      ? new Escalation(Struct.assign(record, { delivered: true }))
      : record
  )

/**
 * The record of an outcome that does not change any more: of a decision that a run goes on with, or of an expiry.
 *
 * @internal
 */
export const final = (record: Escalation, now: number): Escalation => {
  const { expiresAt, resolution, status } = record
  if (resolution !== undefined) {
    return new Escalation(Struct.assign(record, { resolution: { ...resolution, used: true } }))
  }
  if (record.closed !== undefined || status !== "expired" || expiresAt === undefined) return record
  const at = DateTime.makeUnsafe(Math.max(now, DateTime.toEpochMillis(expiresAt)))
  return new Escalation({ ...without(record, "claim"), status, closed: { as: "expired", at } })
}

/**
 * The JSON Schema of the values that a schema decodes, if it has one.
 *
 * @internal
 */
export const acceptsOf = (schema: Schema.Constraint): Option.Option<Schema.Json> =>
  Option.flatMap(
    Result.getSuccess(Result.try({ try: () => Schema.toJsonSchemaDocument(schema), catch: () => undefined })),
    Schema.decodeUnknownOption(Schema.Json)
  )
