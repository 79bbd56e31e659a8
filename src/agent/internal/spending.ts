import * as AgentBudget from "../AgentBudget.ts"
import { AgentError } from "./agentError.ts"
import { cut } from "./boundedJson.ts"
import * as ToolCall from "./toolCall.ts"

/**
 * What a model call has spent so far, all its attempts together, and what went wrong last.
 *
 * @internal
 */
export interface Spending {
  usage: AgentBudget.Usage
  cost: number
  unmetered: number
  attempts: number
  lastError: LastError | undefined
}

/** @internal */
export interface LastError {
  readonly tag: string
  readonly message: string
}

/** @internal */
export const nothingSpent = (): Spending => ({
  usage: AgentBudget.noUsage,
  cost: 0,
  unmetered: 0,
  attempts: 0,
  lastError: undefined
})

/** @internal */
export const lastErrorOf = (error: unknown): LastError => {
  const reason = error instanceof AgentError ? error.reason : undefined
  // Of a last call that failed, what it failed with.
  if (reason?._tag === "BudgetExhausted" || reason?._tag === "LoopDetected") return lastErrorOf(reason.cause)
  return { tag: reason?._tag ?? ToolCall.nameOf(error), message: cut(ToolCall.messageOf(error), 1_000) }
}
