import * as Effect from "effect/Effect"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import { hasRedacted } from "../../internal/hasRedacted.ts"
import { toJson } from "./checkpointJson.ts"
import { where } from "./checkpointRecord.ts"

/**
 * How the values of a schema are written and read.
 *
 * @internal
 */
export interface Codec<S extends Schema.Constraint> {
  readonly hasRedacted: boolean
  /** The JSON of a value and what it will be read back as, or why there is none. */
  readonly roundTrip: (
    value: unknown
  ) => Effect.Effect<
    { readonly json: Schema.Json; readonly decoded: S["Type"] },
    string,
    S["EncodingServices"] | S["DecodingServices"]
  >
  readonly decode: (json: Schema.Json) => Effect.Effect<S["Type"], string, S["DecodingServices"]>
}

const named = (defect: unknown): string => defect instanceof Error ? defect.name : "not an Error"

const make = <S extends Schema.Constraint>(schema: S): Codec<S> => {
  const codec = Schema.toCodecJson(schema)
  const encodeUnknown = Schema.encodeUnknownEffect(codec)
  const decodeUnknown = Schema.decodeUnknownEffect(codec)
  const decode: Codec<S>["decode"] = (json) => Effect.mapError(decodeUnknown(json), (error) => where(error, json))
  return {
    hasRedacted: hasRedacted(schema),
    decode,
    roundTrip: (value) =>
      Effect.matchEffect(encodeUnknown(value), {
        onFailure: (error) => Effect.fail(where(error, value)),
        onSuccess: (encoded) => {
          const made = toJson(encoded)
          if (Result.isFailure(made)) return Effect.fail(made.failure)
          const json = made.success
          return Effect.matchEffect(decodeUnknown(json), {
            onFailure: (error) => Effect.fail(`it cannot be read back: ${where(error, json)}`),
            onSuccess: (decoded) => Effect.succeed({ json, decoded })
          })
        }
      }).pipe(Effect.catchDefect((defect) => Effect.fail(`its schema threw: ${named(defect)}`)))
  }
}

const known = new WeakMap<Schema.Constraint, Codec<Schema.Constraint>>()

/**
 * The codec of a schema. A step that is asked for a thousand times has one.
 *
 * @internal
 */
export const codecOf = <S extends Schema.Constraint>(schema: S): Codec<S> => {
  const found = known.get(schema)
  // The map has under each schema the codec that was made of it.
  if (found !== undefined) return found as Codec<S>
  const made = make(schema)
  known.set(schema, made)
  return made
}
