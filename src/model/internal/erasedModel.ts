import * as LanguageModel from "effect/ai/LanguageModel"
import type * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import type * as answers from "./resilientAnswer.ts"
import type * as requests from "./resilientRequest.ts"

/**
 * A model without the type parameters of its methods, which only relate a caller's options to the parts of the answer.
 *
 * @internal
 */
export interface Erased {
  readonly generateText: (options: requests.CallOptions) => Effect.Effect<answers.Answered, unknown>
  readonly generateObject: (options: requests.CallOptions) => Effect.Effect<answers.Answered, unknown>
  readonly streamText: (options: requests.CallOptions) => Stream.Stream<answers.Part, unknown>
}

/** @internal */
export const erased = (model: LanguageModel.LanguageModel): Erased => model as unknown as Erased

/** @internal */
export const restored = (
  model: Erased,
  supportsSystemMessagesInHistory: LanguageModel.LanguageModel["supportsSystemMessagesInHistory"]
): LanguageModel.LanguageModel => ({
  [LanguageModel.TypeId]: LanguageModel.TypeId,
  supportsSystemMessagesInHistory,
  ...model as unknown as Omit<LanguageModel.LanguageModel, LanguageModel.TypeId>
})
