import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"

const at = Schema.Finite
const order = Schema.Array(Schema.Finite)

/**
 * What a journal consists of. `order` places a step: for each part of its id its ordinal in the scope around, -1 for
 * a reconcile, and below it for a branch opened by key: -1 less how many steps and groups the scope around had been
 * asked for by then. `scopes` of a completed run are those that were asked for more than their records tell.
 *
 * @internal
 */
export const Record = Schema.TaggedUnion({
  RunOpened: { at, version: Schema.Finite, input: Schema.optionalKey(Schema.Json) },
  RunResumed: { at },
  RunSuspended: { at, step: Schema.String, reason: Schema.String, escalationId: Schema.optionalKey(Schema.String) },
  RunCompleted: { at, steps: Schema.Finite, scopes: Schema.optionalKey(Schema.Record(Schema.String, Schema.Finite)) },
  RunFailed: { at, error: Schema.optionalKey(Schema.String) },
  StepIntended: { at, order },
  StepReleased: { at, order },
  StepSucceeded: { at, order, value: Schema.Json },
  StepFailed: {
    at,
    order,
    error: Schema.optionalKey(Schema.Json),
    tag: Schema.optionalKey(Schema.String),
    verdict: Schema.String
  }
})

/** @internal */
export type Record = typeof Record.Type

/** @internal */
export type StepRecord = Extract<Record, { readonly order: ReadonlyArray<number> }>

const text = Schema.fromJsonString(Record)

/** @internal */
export const encode = Schema.encodeEffect(text)

/** @internal */
export const decode = Schema.decodeEffect(text)

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
