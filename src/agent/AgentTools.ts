/**
 * How an agent runs the tools that its model asks for.
 *
 * **When to use**
 *
 * Use it to say of single tools which may run twice, how a call that was cut off is found out about, and what guards it
 * has; and in a tool, to know which call it is.
 *
 * @since 0.1.0
 */
import type * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Context from "effect/Context"
import type * as Effect from "effect/Effect"
import type * as Checkpoint from "../durable/Checkpoint.ts"
import type { ToolFailed } from "./internal/toolFailed.ts"

export { ToolFailed } from "./internal/toolFailed.ts"

/**
 * A tool call under way.
 *
 * **Details**
 *
 * - `id`: the id that the model gave the call. Models repeat ids: it names the call within one answer only.
 * - `attempt`: counts from 1.
 * - `idempotencyKey`: a SHA-256 that is the same for every attempt at this call, in this process and after a crash, for
 *   the other side to recognise a repetition by. Where the tool's calls are deduplicated, all calls of the run with the
 *   same arguments have the same key; of those that people have approved, all that were asked about in one answer.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToolCall {
  readonly agent: string
  readonly runId: string
  readonly tool: string
  readonly id: string
  readonly attempt: number
  readonly idempotencyKey: string
}

/**
 * The tool call that runs here, for the handlers of tools; `undefined` outside of an agent.
 *
 * **Example** (Handing the key to a payment provider)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Tool, Toolkit } from "effect/ai"
 * import { Agent, AgentTools, CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const sent: Array<string | undefined> = []
 *
 * const toolkit = Toolkit.make(Tool.make("Refund", { parameters: Schema.Struct({ order: Schema.String }) }))
 *
 * const handlers = toolkit.toLayer({
 *   Refund: () => Effect.map(AgentTools.CurrentToolCall, (call) => void sent.push(call?.idempotencyKey))
 * })
 *
 * const refund = (id: string) => ScriptedModel.toolCall({ id, name: "Refund", params: { order: "7" } })
 *
 * const world = Layer.mergeAll(
 *   handlers,
 *   ScriptedModel.layer([refund("call_1"), refund("call_2"), "Refunded."]),
 *   CheckpointStore.layerMemory,
 *   EscalationQueue.layerMemory,
 *   Idempotency.layerMemory
 * )
 *
 * const agent = Agent.make({ name: "support", instructions: "You refund.", toolkit })
 * await Effect.runPromise(Effect.provide(Agent.run(agent, { runId: "run-1", prompt: "Refund 7" }), world))
 *
 * // the second call is the first one again, and is answered with its result
 * sent.length // => 1
 * sent[0]?.length // => 64
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const CurrentToolCall = Context.Reference<ToolCall | undefined>(
  "effect-resilience/agent/AgentTools/CurrentToolCall",
  { defaultValue: () => undefined }
)

/**
 * What a tool answered, before the model is told.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToolAnswer {
  readonly encoded: unknown
  readonly modelOutput: ReadonlyArray<Prompt.ToolModelOutputPart> | undefined
}

/**
 * A guard around each attempt at a tool call. It is told the tool, to give each its own circuit or bulkhead.
 *
 * **Details**
 *
 * What the guard fails with is told to the model like a failure of the tool, so its errors are not in the error type of
 * the agent. Attempts are repeated by the agent itself: a guard does not retry.
 *
 * @category models
 * @since 0.1.0
 */
export type ToolGuard<R = never> = (
  self: Effect.Effect<ToolAnswer, ToolFailed | Checkpoint.RunSuspended>,
  tool: { readonly name: string }
) => Effect.Effect<ToolAnswer, unknown, R>

/**
 * What is known of a call whose outcome is not, for {@link ToolOptions.reconcile}.
 *
 * @category models
 * @since 0.1.0
 */
export interface UncertainCall<T extends Tool.Any> extends Omit<ToolCall, "attempt"> {
  readonly params: Tool.Parameters<T>
}

/**
 * How calls of one tool run.
 *
 * **Details**
 *
 * - `effects`: what a repetition means. Default: `"idempotent"` for a tool annotated `Tool.Readonly` or
 *   `Tool.Idempotent`, else `"atMostOnce"`.
 * - `reconcile`: finds out whether a call that was cut off took effect. Where it says `unknown` or fails, and where
 *   there is none, people are asked through the escalation queue.
 * - `attempts`: how often a failing call is attempted. Default: 3. A call that must not happen twice is repeated only
 *   after a failure that proves that nothing was executed (`Throttled`, `Overloaded`, `Rejected`).
 * - `guard`: a guard around each attempt at a call of this tool, inside of the agent's `policies.tool`: its own bulkhead,
 *   circuit or timeout, written as `(self) => Bulkhead.limit(self, "search")`. Default: none.
 * - `dedupe`: whether the same call with the same arguments runs once per run and answers later calls with its result.
 *   Arguments that the tool's schema drops do not count. Default: yes for `"atMostOnce"`. As long as nobody knows whether a call took effect, the same call does not run
 *   anywhere in its run. A call that people are asked about and approve is executed, also where an equal one ran for an
 *   earlier answer; equal calls of one answer are executed once.
 * - `uncertain`: what becomes of a call of which nobody knows whether it took effect, `reconcile` included: `"ask"` asks
 *   people, `"tell"` tells the model that the outcome is unknown (`OutcomeUnknown`) and goes on. The same call does not run
 *   again in either case. Default: `"ask"`.
 *
 * A failure of an `"atMostOnce"` tool leaves its call uncertain where the verdict says so (`Fault.mayHaveHappened`), and
 * also where no rule knows the error (`Permanent` with `unknown`): a plain `Error` may stand for a connection that broke
 * after the request. Give errors that say that nothing was done a verdict (`[Fault.verdictOf] = Fault.permanent`, or a
 * `Fault.Classifier`): the model is told of those, and people are asked about the others.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToolOptions<T extends Tool.Any, R = never> {
  readonly effects?: "idempotent" | "atMostOnce" | undefined
  readonly reconcile?:
    | ((call: UncertainCall<T>) => Effect.Effect<Checkpoint.Reconciliation<Tool.Success<T>>, unknown, R>)
    | undefined
  readonly attempts?: number | undefined
  readonly guard?: ToolGuard<R> | undefined
  readonly dedupe?: boolean | undefined
  readonly uncertain?: "ask" | "tell" | undefined
}

/**
 * Bounds of what comes from a model or goes to it.
 *
 * **Details**
 *
 * `arguments` and `results` are characters of JSON text, `depth` counts objects and arrays inside one another.
 * Defaults: 100 000, 100 000 and 64. Arguments beyond the bounds are refused, and so are those with a key that would
 * change a prototype (`__proto__`), a longer result is cut and marked. What a
 * tool shows the model in place of its result is bounded by `results` too: a file by the length of its base64, and one
 * that does not fit is left out with a mark while the other parts stay.
 *
 * @category models
 * @since 0.1.0
 */
export interface Limits {
  readonly arguments?: number | undefined
  readonly results?: number | undefined
  readonly depth?: number | undefined
}

/**
 * Says what a repeated call of a tool means, by its annotations.
 *
 * **Example** (Reading the annotations)
 *
 * ```ts import.meta.vitest
 * import { Tool } from "effect/ai"
 * import { AgentTools } from "effect-resilience"
 *
 * AgentTools.effectsOf(Tool.make("Search").annotate(Tool.Readonly, true)) // => "idempotent"
 * AgentTools.effectsOf(Tool.make("Refund")) // => "atMostOnce"
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const effectsOf = (tool: Tool.Any): "idempotent" | "atMostOnce" =>
  Context.get(tool.annotations, Tool.Readonly) || Context.get(tool.annotations, Tool.Idempotent)
    ? "idempotent"
    : "atMostOnce"

/**
 * Names the scope in which `Idempotency` keeps the results of a run's calls, to clear it when the run is over. To begin a
 * run anew under its id use `Agent.clear`, which clears both.
 *
 * **Example** (Forgetting a run's results)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { AgentTools, Idempotency } from "effect-resilience"
 *
 * const forget = (runId: string) => Idempotency.clear(AgentTools.idempotencyScope(runId))
 *
 * await Effect.runPromise(Effect.provide(forget("run-1"), Idempotency.layerMemory))
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const idempotencyScope = (runId: string): string => `agent-run/${runId}`
