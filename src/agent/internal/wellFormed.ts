import * as Prompt from "effect/ai/Prompt"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"

const schema = Schema.toCodecJson(Prompt.Prompt)
const encode = Schema.encodeEffect(schema)
const decode = Schema.decodeUnknownEffect(schema)

const isWellFormed = (json: unknown): boolean =>
  typeof json === "string"
    ? json.isWellFormed()
    : Array.isArray(json)
    ? json.every(isWellFormed)
    : !Predicate.isObject(json) ||
      Object.entries(json).every(([key, value]) => key.isWellFormed() && isWellFormed(value))

const mended = (json: unknown): unknown =>
  typeof json === "string"
    ? json.toWellFormed()
    : Array.isArray(json)
    ? json.map(mended)
    : Predicate.isObject(json)
    ? Object.fromEntries(Object.entries(json).map(([key, value]) => [key.toWellFormed(), mended(value)]))
    : json

/**
 * A prompt as JSON. Half of a surrogate pair, as a text has that was cut in the middle of a character, is in no JSON that
 * another process could read: the replacement character stands there instead.
 *
 * @internal
 */
export const encoded = (prompt: Prompt.Prompt) =>
  // A prompt was made by its own schema, so it encodes.
  Effect.orDie(Effect.gen(function*() {
    const input = yield* encode(prompt)
    if (isWellFormed(input)) return { prompt, input }
    const whole = yield* decode(mended(input))
    return { prompt: whole, input: yield* encode(whole) }
  }))
