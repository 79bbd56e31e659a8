import type * as Response from "effect/ai/Response"
import * as Effect from "effect/Effect"

/**
 * Where an agent is.
 *
 * **Details**
 *
 * `idle`: not started, or interrupted and ready to be resumed. `waitingForHuman`: suspended until a decision in the
 * escalation queue; run it again to go on.
 *
 * @category models
 * @since 0.1.0
 */
export type State = "idle" | "running" | "waitingForTool" | "waitingForHuman" | "completed" | "failed"

/**
 * What happens in a run, as it happens.
 *
 * **Details**
 *
 * - `StateChanged`: where the agent is now.
 * - `TextDelta`, `ReasoningDelta`: the next piece of an answer that is streamed. `turn` counts the model calls of the
 *   loop from 1, `attempt` the attempts at a turn from 1.
 * - `AttemptRestarted`: the turn is asked once more; drop what was shown of its earlier attempts. `AttemptResumed`: the
 *   model goes on with its answer; keep the text that was shown, the next pieces follow on it.
 * - `Answered`: a whole answer, also one that was not streamed. It is what counts, whatever was shown before. The pieces
 *   of a turn without it are void, the last one of a turn decides.
 * - `ToolStarted`: an attempt at a tool call begins. `ToolFinished`: a tool call has come to its end, also one that was
 *   refused and never started.
 * - `WentBack`: the run went back to an earlier turn after an error; drop what was shown of this one.
 *
 * `replayed` says that it happened before, and comes from the journal: a run that goes on says so of each answer and
 * each tool call that is remembered, without its pieces and without `ToolStarted`.
 *
 * @category models
 * @since 0.1.0
 */
export type Progress =
  | { readonly _tag: "StateChanged"; readonly state: State }
  | { readonly _tag: "TextDelta"; readonly turn: number; readonly attempt: number; readonly text: string }
  | { readonly _tag: "ReasoningDelta"; readonly turn: number; readonly attempt: number; readonly text: string }
  | { readonly _tag: "AttemptRestarted"; readonly turn: number; readonly attempt: number }
  | { readonly _tag: "AttemptResumed"; readonly turn: number; readonly attempt: number }
  | {
    readonly _tag: "Answered"
    readonly turn: number
    readonly text: string
    readonly finishReason: Response.FinishReason
    readonly replayed: boolean
  }
  | {
    readonly _tag: "ToolStarted"
    readonly turn: number
    readonly id: string
    readonly name: string
    readonly attempt: number
  }
  | {
    readonly _tag: "ToolFinished"
    readonly turn: number
    readonly id: string
    readonly name: string
    readonly isFailure: boolean
    readonly attempts: number
    readonly replayed: boolean
  }
  | { readonly _tag: "WentBack"; readonly turn: number; readonly error: string; readonly replayed: boolean }

/**
 * Somebody who watches a run.
 *
 * @internal
 */
export type Watcher = (event: Progress) => Effect.Effect<void>

/**
 * The attempts at the turns of a run, as somebody who watches it sees them.
 *
 * @internal
 */
export interface Attempts {
  /** A request begins, and goes on with the answer of the one before it or not. Gives the number of the attempt. */
  readonly begin: (turn: number, goesOn: boolean) => Effect.Effect<number>
  readonly part: (turn: number, attempt: number, part: Response.AnyPart) => Effect.Effect<void>
}

/**
 * Attempts that nobody watches.
 *
 * @internal
 */
export const unwatched: Attempts = { begin: () => Effect.succeed(0), part: () => Effect.void }

/** @internal */
export const attempts = (watcher: Watcher | undefined): Attempts => {
  if (watcher === undefined) return unwatched
  let current = 0
  let attempt = 0
  let shown = false
  return {
    begin: (turn, goesOn) =>
      Effect.suspend(() => {
        if (turn !== current) {
          current = turn
          attempt = 0
          shown = false
        }
        const number = ++attempt
        if (!shown) return Effect.succeed(number)
        shown = goesOn
        const event = { _tag: goesOn ? "AttemptResumed" : "AttemptRestarted", turn, attempt: number } as const
        return Effect.as(watcher(event), number)
      }),
    part: (turn, attempt, part) => {
      if (part.type !== "text-delta" && part.type !== "reasoning-delta") return Effect.void
      shown = true
      const _tag = part.type === "text-delta" ? "TextDelta" : "ReasoningDelta"
      return watcher({ _tag, turn, attempt, text: part.delta })
    }
  }
}
