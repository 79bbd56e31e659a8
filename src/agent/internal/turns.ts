import type * as Response from "effect/ai/Response"
import type * as Duration from "effect/Duration"
import type * as AgentBudget from "../AgentBudget.ts"
import type { Decided } from "./toolTurn.ts"

/**
 * What an agent did, counted over the whole run, what a resumed run replayed included.
 *
 * **Details**
 *
 * - `iterations`: model calls of the loop, also those that failed, were interrupted, or that the time did not suffice for,
 *   each of which is made once more where the run is resumed; the last call of
 *   a run that must come to its end is not one, and neither is a call that a budget had no room for, so that it was not
 *   made.
 * - `toolCalls`: tool calls that the model asked for; `toolErrors`: those that it got an error for.
 * - `retries`: attempts at model and tool calls beyond the first.
 * - `repairs`: answers that did not match the result schema and were asked for again.
 * - `loops`: how often it went round in circles and was told, or stopped.
 * - `compactions`: how often the conversation was made smaller because it had outgrown the model's context.
 * - `rollbacks`: how often it went back to an earlier turn after an error, and on from there.
 * - `reviews`: how often people were asked about its answer.
 * - `cuts`: how often the stream of an answer was cut, whether it was asked for again after that or not.
 * - `unmetered`: attempts at model calls whose tokens nobody reported, because the provider did not or the answer was lost.
 *   They are estimated, rather too high, and count as spent.
 * - `replayedSteps`: model and tool calls whose result came from the journal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Counters {
  readonly iterations: number
  readonly toolCalls: number
  readonly toolErrors: number
  readonly retries: number
  readonly repairs: number
  readonly loops: number
  readonly compactions: number
  readonly rollbacks: number
  readonly reviews: number
  readonly cuts: number
  readonly unmetered: number
  readonly replayedSteps: number
}

/**
 * A tool call of a {@link Turn}. `replayed` says that its result came from the journal, `decision` what people decided
 * about it before it ran; with `"edited"` it ran with other arguments than the model gave it. `deduplicated` says that it
 * did not run at all: an equal call of the run had, and its result is that one's, `attempts` included.
 *
 * @category models
 * @since 0.1.0
 */
export interface TurnToolCall {
  readonly id: string
  readonly name: string
  readonly isFailure: boolean
  readonly attempts: number
  readonly replayed: boolean
  readonly deduplicated?: boolean
  readonly decision?: Decided
}

/**
 * One model call and the tool calls of its answer: where the result comes from. `replayed` says that what it came to is
 * from the journal.
 *
 * **Details**
 *
 * `model` is the one that answered, as its provider names it, where it says so. `standIn` is the label of a model of
 * `ResilientModel.fallback` that answered in place of the first one.
 *
 * A result has a turn for each of its `counters.iterations`, and one more for the last answer where its `completion` is
 * not `"complete"`. A call that came to no answer to go on from has `finishReason: "error"` and no tool calls: after an
 * error the run went back to an earlier turn, or the time or another budget did not suffice for the answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Turn {
  readonly finishReason: Response.FinishReason
  readonly model?: string
  readonly standIn?: string
  readonly attempts: number
  readonly replayed: boolean
  readonly toolCalls: ReadonlyArray<TurnToolCall>
}

/** @internal */
export const nothingDone = {
  iterations: 0,
  toolCalls: 0,
  toolErrors: 0,
  retries: 0,
  repairs: 0,
  loops: 0,
  compactions: 0,
  rollbacks: 0,
  reviews: 0,
  cuts: 0,
  unmetered: 0,
  replayedSteps: 0
} satisfies Counters

/** @internal */
export interface Base {
  readonly text: string
  readonly finishReason: Response.FinishReason
  readonly usage: AgentBudget.Usage
  readonly cost: number | undefined
  readonly elapsed: Duration.Duration
  readonly counters: Counters
  readonly turns: ReadonlyArray<Turn>
}
