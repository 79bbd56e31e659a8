import * as AiError from "effect/ai/AiError"
import type * as Fault from "../../Fault.ts"
import * as LoopDetector from "../LoopDetector.ts"
import { AgentError, type AgentErrorReason } from "./agentError.ts"
import { cut } from "./boundedJson.ts"

// What the model is told by the agent: of its work alone, without ids and without advice to whoever operates it.

/** @internal */
export const inALoop = (loop: LoopDetector.Loop): string =>
  `You go round in circles: ${LoopDetector.describe(loop)}. The same again will not help: ` +
  "go another way, or answer with what you have."

/** @internal */
export const notValid = (issue: string): string =>
  `Your answer does not match the schema that it has to match:\n${issue}\n` +
  "Answer again, with the corrected JSON alone."

/** @internal */
export const wentBack = (why: string): string =>
  `The last step of this task failed and was taken back: ${why}. Go on in another way.`

/** @internal */
export const invalid = (issue: string): string => `your answer did not match the schema that it has to match (${issue})`

const ofAnswer = (reason: AgentErrorReason["_tag"]): string | undefined => {
  switch (reason) {
    case "Refused":
      return "you declined to go on"
    case "Truncated":
      return "your answer was too long and was cut off"
    case "EmptyAnswer":
      return "your answer was empty"
    case "IncompleteAnswer":
      return "your answer was not a whole one"
    default:
      return undefined
  }
}

const ofOutput: ReadonlySet<AiError.AiErrorReason["_tag"]> = new Set([
  "InvalidOutputError",
  "StructuredOutputError",
  "ToolNotFoundError",
  "ToolParameterValidationError"
])

/**
 * Why a model call failed, for the model. What an error says of providers, services and runs is not for it, but where
 * its own output was wrong it is told how.
 *
 * @internal
 */
export const whyFailed = (error: unknown, { _tag: verdict }: Fault.Verdict): string => {
  const answered = error instanceof AgentError ? ofAnswer(error.reason._tag) : undefined
  if (answered !== undefined) return answered
  if (AiError.isAiError(error) && ofOutput.has(error.reason._tag)) return cut(error.reason.message, 400)
  switch (verdict) {
    case "Refused":
      return "the answer was refused"
    case "ContextOverflow":
      return "the conversation had become too long"
    default:
      return "the answer could not be read"
  }
}

/** @internal */
export const askedAgain = (reason: string | undefined): string =>
  `Your answer was not accepted${reason === undefined ? "" : `: ${reason}`}. Answer again, with more care.`
