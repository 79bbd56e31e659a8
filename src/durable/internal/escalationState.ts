import * as DateTime from "effect/DateTime"
import { format } from "effect/Formatter"
import type * as JsonSchema from "effect/JsonSchema"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as SchemaRepresentation from "effect/SchemaRepresentation"
import * as Struct from "effect/Struct"
import { excerptText } from "./escalationExcerpt.ts"
import { Decision, DecisionTag, Escalation, type FailureReason } from "./escalationModel.ts"

const without = <K extends "claim" | "resolution">(record: Escalation, ...keys: ReadonlyArray<K>) =>
  Struct.omit(record, keys)

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
 * The record as it stands at a time: leases and deadlines pass without anybody writing.
 *
 * @internal
 */
export const asOf = (record: Escalation, now: number): Escalation => {
  if (record.resolution !== undefined) return record
  if (record.expiresAt !== undefined && DateTime.toEpochMillis(record.expiresAt) <= now) {
    return new Escalation({ ...without(record, "claim"), status: "expired" })
  }
  if (record.claim !== undefined && DateTime.toEpochMillis(record.claim.until) <= now) {
    return new Escalation({ ...without(record, "claim"), status: "open" })
  }
  return record
}

/** Why nobody may touch the record any more, or only its holder. */
const refusal = (record: Escalation, by: string | undefined): FailureReason | undefined => {
  const { claim, expiresAt, resolution } = record
  if (resolution !== undefined) {
    const decided = { _tag: "AlreadyDecided", decision: resolution.decision._tag } as const
    return resolution.by === undefined ? decided : { ...decided, by: resolution.by }
  }
  if (record.status === "expired" && expiresAt !== undefined) return { _tag: "Expired", at: expiresAt }
  return claim !== undefined && claim.by !== by ? { _tag: "AlreadyClaimed", ...claim } : undefined
}

const isDocument = Schema.is(Schema.Struct({
  dialect: Schema.Literal("draft-2020-12"),
  schema: Schema.Record(Schema.String, Schema.Json),
  definitions: Schema.Record(Schema.String, Schema.Record(Schema.String, Schema.Json))
}))

/** What is wrong with a supplied value, as far as the JSON Schema of the record can tell. */
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
    : undefined
  if (issue !== undefined) return Result.fail({ _tag: "InvalidDecision", decision: nameOf(decision), issue })
  const at = DateTime.makeUnsafe(now)
  return Result.succeed(
    new Escalation({
      ...without(record, "claim"),
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

/** @internal */
export const reopen: Transition = (record) => {
  const { claim, expiresAt, resolution } = record
  if (record.status === "expired" && expiresAt !== undefined) return Result.fail({ _tag: "Expired", at: expiresAt })
  if (claim !== undefined) return Result.fail({ _tag: "AlreadyClaimed", ...claim })
  if (resolution?.used === true) return Result.fail({ _tag: "AlreadyUsed", decision: resolution.decision._tag })
  return Result.succeed(new Escalation({ ...without(record, "resolution"), status: "open" }))
}

/**
 * The record of a decision that a run goes on with.
 *
 * @internal
 */
export const used = (record: Escalation): Escalation =>
  record.resolution === undefined
    ? record
    : new Escalation(Struct.assign(record, { resolution: { ...record.resolution, used: true } }))

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
