import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Schema from "effect/Schema"
import { InvalidConfig } from "../../Fault.ts"
import { excerptText } from "./escalationExcerpt.ts"
import { EscalationError } from "./escalationModel.ts"

const invalid = (option: string, value: unknown, expected: string) =>
  new InvalidConfig({ module: "EscalationQueue", option, value: excerptText(format(value), 200), expected })

/** @internal */
export const text = (option: string, value: unknown): string => {
  if (typeof value === "string" && value !== "") return value
  throw invalid(option, value, "a text that is not empty")
}

/** @internal */
export const some = <A>(option: string, values: ReadonlyArray<A>): ReadonlyArray<A> => {
  if (Array.isArray(values) && values.length > 0) return values
  throw invalid(option, values, "a list that is not empty")
}

/** @internal */
export const oneOf = <A extends string>(
  option: string,
  schema: Schema.Literals<ReadonlyArray<A>>,
  value: unknown
): A => {
  if (Schema.is(schema)(value)) return value
  throw invalid(option, value, `one of ${schema.literals.join(", ")}`)
}

/**
 * Checks what comes in with a call: a mistake there is a failure of the call and not a defect.
 *
 * @internal
 */
export const reading = <A>(
  operation: string,
  id: string | undefined,
  read: () => A
): Effect.Effect<A, EscalationError> =>
  Effect.try({
    try: read,
    catch: (error) =>
      new EscalationError({
        operation,
        ...(id === undefined ? {} : { id }),
        reason: { _tag: "InvalidRequest", issue: error instanceof Error ? error.message : String(error) }
      })
  })

/** @internal */
export const optionally = <A, B>(value: A | undefined, read: (value: A) => B): B | undefined =>
  value === undefined ? undefined : read(value)
