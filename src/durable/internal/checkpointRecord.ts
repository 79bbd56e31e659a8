import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"

const at = Schema.Finite
const order = Schema.Array(Schema.Finite)
// What is read from JSON text is JSON, and what is written was made so by `toJson`: large values are not looked through
// once more.
const json = Schema.declare((value: unknown): value is Schema.Json => value !== undefined)
const undo = Schema.Struct({ name: Schema.String, input: Schema.optionalKey(json) })
// Only of steps that can be undone: what was tried may have happened all the same.
const doubt = Schema.optionalKey(Schema.Literal(true))

/**
 * What a journal consists of. `order` places a step: for each part of its id its ordinal in the scope around, -1 for
 * a reconcile and for what undoes a saga, and below it for a branch opened by key: -1 less how many steps and groups the scope around had been
 * asked for by then. `scopes` of a completed run are those that were asked for more than their records tell.
 *
 * `since` is when a step that is tried again failed for the first time.
 *
 * `undo` is how a step is undone: by which compensation, and from what; where that is missing in the record of a result,
 * it is the result. `StepUndoable` says it of a step that is about to run, or that has run (`done`): its result stands at
 * `ran`.
 *
 * `salt` tells runs of one id apart. What stands before `RunMigrated` is superseded by what follows it; what stands at
 * `to` or later before `RunRolledBack` does not count any more.
 *
 * @internal
 */
export const Record = Schema.TaggedUnion({
  RunOpened: { at, version: Schema.Finite, salt: Schema.String, input: Schema.optionalKey(json) },
  RunResumed: { at },
  RunMigrated: { at, version: Schema.Finite, input: Schema.optionalKey(json) },
  RunRolledBack: { at, to: Schema.Finite },
  RunForked: { at, from: Schema.String },
  RunRevived: { at },
  RunSuspended: { at, step: Schema.String, reason: Schema.String, escalationId: Schema.optionalKey(Schema.String) },
  RunCompleted: { at, steps: Schema.Finite, scopes: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)) },
  RunFailed: { at, error: Schema.optionalKey(Schema.String) },
  RunCancelled: { at },
  RunDeadLettered: { at, crashes: Schema.Finite },
  StepIntended: { at, order, undo: Schema.optionalKey(undo) },
  StepUndoable: { at, order, undo, done: Schema.Boolean, ran: Schema.optionalKey(Schema.Finite) },
  StepReleased: { at, order },
  StepRetried: {
    at,
    order,
    since: Schema.Finite,
    resumeAt: Schema.Finite,
    verdict: Schema.String,
    tag: Schema.optionalKey(Schema.String),
    doubt
  },
  StepOversized: { at, order, bytes: Schema.Finite },
  StepSucceeded: { at, order, value: json, undo: Schema.optionalKey(undo) },
  StepFailed: {
    at,
    order,
    error: Schema.optionalKey(json),
    tag: Schema.optionalKey(Schema.String),
    verdict: Schema.String,
    doubt
  }
})

/** @internal */
export type Undo = typeof undo.Type

/** @internal */
export type Record = typeof Record.Type

/** @internal */
export type StepRecord = Extract<Record, { readonly order: ReadonlyArray<number> }>

/** @internal */
export type WithoutTime<R> = R extends { readonly at: number } ? Omit<R, "at"> : never

/** @internal */
export const isStep = (record: Record): record is StepRecord => "order" in record

/**
 * The text of a record. What it consists of is JSON already and typed: a schema would find nothing to do, and each step
 * waits for it.
 *
 * @internal
 */
export const encode = (record: Record): string => JSON.stringify(record)

/** @internal */
export const decode = Schema.decodeEffect(Schema.fromJsonString(Record))

// Says what was expected, and nothing of the value: issues carry their input only where that was asked for.
const format = SchemaIssue.makeFormatterStandardSchemaV1()

const kindOf = (value: unknown): string =>
  value === null || value === undefined
    ? String(value)
    : Array.isArray(value)
    ? "an array"
    : typeof value === "object"
    ? "an object"
    : `a ${typeof value}`

/**
 * Says which parts of a value a schema did not accept, without quoting the value, which may be a secret.
 *
 * @internal
 */
export const where = (error: Schema.SchemaError, value: unknown): string => {
  const parts = format(error.issue).issues.slice(0, 5).map(({ message, path = [] }) => {
    const keys = path.map((segment) => typeof segment === "object" ? segment.key : segment)
    const found = keys.reduce<unknown>(
      (part, key) => Predicate.hasProperty(part, key) ? part[key] : undefined,
      value
    )
    return `${["$", ...keys.map(String)].join(".")}: ${message}, found ${kindOf(found)}`
  })
  return `it does not match its schema: ${parts.join("; ")}`
}
