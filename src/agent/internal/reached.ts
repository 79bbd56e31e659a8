import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { AgentError, type Reached } from "./agentError.ts"

/**
 * How far a run had come when it failed, with the agent, the run and the turn.
 *
 * @category models
 * @since 0.1.0
 */
export interface FailedAt extends Reached {
  readonly agent: string
  readonly runId: string
  readonly turn: number
}

// Beside the errors and not in them: they are the provider's or the guard's, and may be frozen.
const known = new WeakMap<object, FailedAt>()

/**
 * Notes where a run failed with an error. What an agent inside of this one has noted stays.
 *
 * @internal
 */
export const note = (error: unknown, at: FailedAt): void => {
  if (!Predicate.isObject(error) || error instanceof AgentError) return
  const before = known.get(error)
  if (before?.runId !== at.runId || before.agent === at.agent) known.set(error, at)
}

/**
 * Says how far a run had come that failed with this error, whatever error it is: an `AgentError`, the provider's own, a
 * guard's, or one of the journal.
 *
 * **When to use**
 *
 * Use it where a run fails, to log or to tell in which step that was, after how many attempts, what it has spent, and what
 * is kept. The error itself stays what it is, so that its verdict counts for everybody who handles it.
 *
 * **Details**
 *
 * None for an error that no agent of this process has failed with, for one that is not an object, and for
 * `Checkpoint.RunSuspended`, with which no run fails for good. An `AgentError` carries it along; of other errors it is known
 * in this process only, by the error object: of one that several runs fail with, that of the last.
 *
 * **Example** (A provider that is down)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Option } from "effect"
 * import { Agent, CheckpointStore, Fault } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const poet = Agent.make({ name: "poet", instructions: "" })
 *
 * const world = Layer.mergeAll(ScriptedModel.layer([ScriptedModel.fail(Fault.overloaded())]), CheckpointStore.layerMemory)
 *
 * const error = await Effect.runPromise(
 *   Effect.flip(Agent.run(poet, { runId: "poem-1", prompt: "Rain" })).pipe(Effect.provide(world))
 * )
 *
 * error._tag // => "AiError"
 * Option.map(Agent.reached(error), ({ attempts, runId, step }) => [runId, step, attempts]) // => Option.some(["poem-1", "[poet]/[turn-1]/model", 1])
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const reached = (error: unknown): Option.Option<FailedAt> => {
  if (error instanceof AgentError) {
    const { agent, reached, runId, turn } = error
    return reached === undefined ? Option.none() : Option.some({ agent, runId, turn, ...reached })
  }
  return Predicate.isObject(error) ? Option.fromUndefinedOr(known.get(error)) : Option.none()
}
