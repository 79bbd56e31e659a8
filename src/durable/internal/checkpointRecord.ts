import * as Schema from "effect/Schema"
import * as SchemaIssue from "effect/SchemaIssue"

const at = Schema.Finite
const order = Schema.Array(Schema.Finite)

/**
 * What a journal consists of. `order` places a step: for each part of its id its ordinal in the scope around, or -1 for
 * a part that has no fixed place (a branch opened by `within`).
 *
 * @internal
 */
export const Record = Schema.TaggedUnion({
  RunOpened: { at, version: Schema.Finite, input: Schema.optionalKey(Schema.Json) },
  RunResumed: { at },
  RunSuspended: { at, step: Schema.String, reason: Schema.String, escalationId: Schema.optionalKey(Schema.String) },
  RunCompleted: { at, steps: Schema.Finite },
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

const format = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * Says which parts of a value a schema did not accept, without quoting the value, which may be a secret.
 *
 * @internal
 */
export const where = (error: Schema.SchemaError): string => {
  const paths = format(error.issue).issues.map((issue) =>
    (issue.path ?? []).reduce<string>(
      (path, segment) => `${path}.${String(typeof segment === "object" ? segment.key : segment)}`,
      "$"
    )
  )
  return `it does not match its schema at ${paths.join(", ")}`
}
