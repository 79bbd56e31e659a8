import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import type { ErasedTool } from "./toolCall.ts"

const keep = (given: unknown, known: unknown): unknown => {
  if (Array.isArray(given)) {
    return Array.isArray(known) && known.length === given.length
      ? given.map((item, index) => keep(item, known[index]))
      : given
  }
  if (!Predicate.isObject(given) || Array.isArray(known) || !Predicate.isObject(known)) return given
  return Object.fromEntries(
    Object.entries(given).flatMap(([name, value]) =>
      Object.hasOwn(known, name) ? [[name, keep(value, Reflect.get(known, name))] as const] : []
    )
  )
}

/**
 * The arguments without what the tool's schema drops, so that calls which differ in nothing that their handler can see
 * are the same call.
 *
 * The values stay as the model wrote them: those that a schema fills in may be others the next time, and the key of a
 * call must not change.
 *
 * @internal
 */
export const knownArguments = (tool: ErasedTool, given: unknown): Effect.Effect<unknown> =>
  Schema.decodeUnknownEffect(tool.parametersSchema)(given).pipe(
    Effect.flatMap(Schema.encodeUnknownEffect(tool.parametersSchema)),
    Effect.match({ onSuccess: (known) => keep(given, known), onFailure: () => given }),
    // A schema that throws is told where the call is executed.
    Effect.catchDefect(() => Effect.succeed(given))
  )
