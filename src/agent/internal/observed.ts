import type * as Prompt from "effect/ai/Prompt"
import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Idempotency from "../../durable/Idempotency.ts"
import type * as LoopDetector from "../LoopDetector.ts"
import { cut } from "./boundedJson.ts"
import { knownArguments } from "./knownArguments.ts"
import type { ErasedToolkit } from "./toolCall.ts"
import type * as ToolTurn from "./toolTurn.ts"

/** A text that is the same for what is the same. What has none is like nothing else. */
const sameness = (name: string, value: unknown, otherwise: string): Effect.Effect<string> =>
  Effect.orElseSucceed(Idempotency.key(name, value), () => otherwise)

/**
 * A call and what came of it, as a loop detector compares them: by the arguments that its handler sees. `place` tells apart
 * what cannot be compared.
 *
 * @internal
 */
export const observed = (
  { call, outcome }: ToolTurn.Done,
  kit: ErasedToolkit,
  place: string
): Effect.Effect<LoopDetector.Observed> => {
  const { isFailure, modelOutput, result } = outcome
  // How often it was attempted is not what came of it.
  const came = isFailure && Predicate.isObject(result)
    ? Object.fromEntries(Object.entries(result).filter(([name]) => name !== "attempts"))
    : result
  const tool = cut(call.name, 100)
  const own = call.plan === undefined ? undefined : kit.tools[call.name]
  const asked = call.unusable === undefined && own !== undefined
    ? knownArguments(own, call.params)
    : Effect.succeed(call.unusable ?? call.params)
  return Effect.map(
    Effect.all([
      Effect.flatMap(asked, (known) => sameness(tool, known, `${place}/call`)),
      sameness("result", { came, shown: modelOutput === undefined ? null : shown(modelOutput) }, `${place}/result`)
    ]),
    ([callKey, resultKey]) => ({ tool, call: callKey, result: resultKey, isFailure })
  )
}

const shown = (parts: ReadonlyArray<Prompt.ToolModelOutputPart>) =>
  parts.map((part) =>
    part.type === "text"
      ? part.text
      : [part.mediaType, part.data instanceof Uint8Array ? part.data.join(" ") : String(part.data)]
  )
