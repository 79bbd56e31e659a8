import * as Effect from "effect/Effect"
import * as Telemetry from "../../Telemetry.ts"
import type * as AgentBudget from "../AgentBudget.ts"
import * as LoopDetector from "../LoopDetector.ts"
import type { AgentErrorReason } from "./agentError.ts"

/**
 * Why an agent has to answer without tools now.
 *
 * @internal
 */
export type Ending =
  | { readonly completion: "graceful"; readonly budget: AgentBudget.Name }
  | { readonly completion: "looped"; readonly loop: LoopDetector.Loop }

/** @internal */
export const pastTheEnd = (end: Ending): string =>
  (end.completion === "graceful"
    ? `The budget of this task (${end.budget}) is used up. `
    : `You go round in circles: ${LoopDetector.describe(end.loop)}. `) +
  "Do not call tools. Give the best answer that you can give from what you have so far."

/** @internal */
export const noLastAnswer = (end: Ending, cause: unknown): AgentErrorReason =>
  end.completion === "graceful"
    ? { _tag: "BudgetExhausted", budget: end.budget, cause }
    : { _tag: "LoopDetected", loop: end.loop, cause }

/** @internal */
export const announce = (name: string, runId: string, end: Ending): Effect.Effect<void> =>
  end.completion === "graceful"
    ? Effect.andThen(
      Telemetry.emit(() => ({ _tag: "BudgetExceeded", agent: name, runId, budget: end.budget })),
      Effect.logWarning("budget used up, asking for the best answer so far").pipe(
        Effect.annotateLogs({ budget: end.budget })
      )
    )
    : Effect.andThen(
      Telemetry.emit(() => ({ _tag: "LoopDetected", agent: name, runId, loop: end.loop._tag, stopped: true })),
      Effect.logWarning("the agent goes round in circles, asking for the best answer so far").pipe(
        Effect.annotateLogs({ loop: end.loop })
      )
    )
