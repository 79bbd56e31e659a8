/**
 * Runs a model with tools in a loop that survives crashes, keeps to a budget and never repeats what must not be repeated.
 *
 * **When to use**
 *
 * Use it for the work of a model that calls tools: one run for each request, ticket or job, under an id of its own.
 * `layerProduction` has what it needs in production, `answer` an answer in every case. It stands on `Checkpoint`, so a
 * run that was cut off goes on where it was.
 *
 * @since 0.1.0
 */
import type * as AiError from "effect/ai/AiError"
import type * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Toolkit from "effect/ai/Toolkit"
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import { identity } from "effect/Function"
import * as Option from "effect/Option"
import * as Queue from "effect/Queue"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import * as SubscriptionRef from "effect/SubscriptionRef"
import * as Checkpoint from "../durable/Checkpoint.ts"
import * as CheckpointStore from "../durable/CheckpointStore.ts"
import type * as EscalationQueue from "../durable/EscalationQueue.ts"
import * as Idempotency from "../durable/Idempotency.ts"
import type * as HealthMonitor from "../health/HealthMonitor.ts"
import * as config from "../internal/config.ts"
import type * as Deadline from "../policy/Deadline.ts"
import type * as Fallback from "../policy/Fallback.ts"
import type * as LastGood from "../policy/LastGood.ts"
import * as AgentBudget from "./AgentBudget.ts"
import type * as AgentTools from "./AgentTools.ts"
import { idempotencyScope } from "./AgentTools.ts"
import * as Compaction from "./Compaction.ts"
import { AgentError } from "./internal/agentError.ts"
import * as AgentOptions from "./internal/agentOptions.ts"
import * as answers from "./internal/answer.ts"
import * as internal from "./internal/loop.ts"
import type { ModelGuard } from "./internal/modelTurn.ts"
import * as production from "./internal/production.ts"
import type { Progress, State } from "./internal/progress.ts"
import * as session from "./internal/session.ts"
import * as Streaming from "./internal/streaming.ts"
import * as ToolCall from "./internal/toolCall.ts"
import type { Reconcile } from "./internal/toolTurn.ts"
import type { Base } from "./internal/turns.ts"
import * as WellFormed from "./internal/wellFormed.ts"
import * as LoopDetector from "./LoopDetector.ts"

export { AgentError, AgentErrorReason, Reached } from "./internal/agentError.ts"
export type { ModelAnswer } from "./internal/modelAnswer.ts"
export type { ModelGuard } from "./internal/modelTurn.ts"
export {
  type OtherModel,
  Production,
  type ProductionGuards,
  type ProductionMetrics,
  type ProductionOptions,
  type ProductionStores
} from "./internal/production.ts"
export type { Progress, State } from "./internal/progress.ts"
export { type FailedAt, reached } from "./internal/reached.ts"
export type { StreamOptions } from "./internal/streaming.ts"
export type { Counters, Turn, TurnToolCall } from "./internal/turns.ts"

/**
 * An agent: a model's instructions, its tools and the guards around both. A plain value, run with {@link run}.
 *
 * **Details**
 *
 * `E` is what a model call can fail with behind its guard, `R` what the guards, the model, the handlers of the tools and
 * the result schema need.
 *
 * @category models
 * @since 0.1.0
 */
export interface Agent<in out Tools extends Record<string, Tool.Any>, out Value, out E, out R> {
  readonly name: string
  readonly version: number
  readonly toolkit: Toolkit.Toolkit<Tools> | undefined
  readonly budget: AgentBudget.AgentBudget
  /** @internal */
  readonly definition: internal.Definition<Value, E, R>
}

/**
 * What every {@link Result} has.
 *
 * **Details**
 *
 * - `text`: the text of the answer.
 * - `usage`: tokens over the whole run, estimated where nobody reported them (see `Counters.unmetered`), those of calls
 *   that failed included. `cost` is there where the budget has a price table.
 * - `elapsed`: time in which the run was active, see `AgentBudget.Options`.
 * - `turns`: where the answer comes from, call by call.
 *
 * @category models
 * @since 0.1.0
 */
export interface ResultBase extends Base {}

/**
 * What an agent came to.
 *
 * **Details**
 *
 * `review` says that people approved the answer, or supplied another one, see {@link reviewed}.
 * With `completion: "graceful"` the budget named by `budget` was used up: the text is the best answer so far, and
 * `value` is `undefined` where it does not match the result schema. Run again with a larger budget, the run goes on. With `completion: "looped"` the agent went round in
 * circles, as `loop` says, also after it was told, and the text is its best answer so far as well.
 *
 * @category models
 * @since 0.1.0
 */
export type Result<Value> =
  | (ResultBase & {
    readonly completion: "complete"
    readonly value: Value
    readonly review?: "approved" | "supplied"
  })
  | (ResultBase & {
    readonly completion: "graceful"
    readonly budget: AgentBudget.Name
    readonly value: Value | undefined
  })
  | (ResultBase & {
    readonly completion: "looped"
    readonly loop: LoopDetector.Loop
    readonly value: Value | undefined
  })

/**
 * How the tools of a kit run, by their names.
 *
 * @category models
 * @since 0.1.0
 */
export type ToolsOptions<Tools extends Record<string, Tool.Any>> = {
  readonly [Name in keyof Tools]?: AgentTools.ToolOptions<Tools[Name], unknown>
}

type ServicesOf<F> = F extends (...args: never) => Effect.Effect<unknown, unknown, infer R> ? R : never

type ServicesIn<Options, Key extends string> = {
  [Name in keyof Options]-?: NonNullable<Options[Name]> extends { readonly [K in Key]?: infer F } ? ServicesOf<F>
    : never
}[keyof Options]

/** What the functions among the options of single tools need. */
type OptionServices<Options> = ServicesIn<Options, "reconcile"> | ServicesIn<Options, "guard">

/**
 * What the handlers of tools need.
 *
 * @category models
 * @since 0.1.0
 */
export type ToolServices<Tools extends Record<string, Tool.Any>> =
  | Tool.HandlersFor<Tools>
  | Tool.HandlerServices<Tools[keyof Tools]>
  | Tool.ParametersEncodingServices<Tools[keyof Tools]>

/**
 * What a run needs besides its model and its guards: the queue and the store of results only where it has tools.
 *
 * @category models
 * @since 0.1.0
 */
export type RunServices<Tools extends Record<string, Tool.Any>> = [keyof Tools] extends [never] ? never
  : EscalationQueue.EscalationQueue | Idempotency.Idempotency

/**
 * What {@link loop} can fail with besides what a model call behind its guard fails with.
 *
 * @category errors
 * @since 0.1.0
 */
export type LoopError<Tools extends Record<string, Tool.Any>> =
  | AgentError
  | Checkpoint.StepError
  | ([keyof Tools] extends [never] ? never
    :
      | Checkpoint.RunSuspended
      | EscalationQueue.EscalationError
      | Idempotency.IdempotencyStoreError
      | Idempotency.IdempotencyCorrupt)

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `name`: names the agent in its journal, events and errors.
 * - `instructions`: the system prompt.
 * - `toolkit`: the tools. Default: none.
 * - `budget`: see `AgentBudget.Options`; by default 10 iterations, 100 tool calls, 300 seconds.
 * - `policies`: `policies.model` guards every model call, `policies.tool` every attempt at a tool call. Default: no guard.
 * - `tools`: how single tools run, see `AgentTools.ToolOptions`.
 * - `toolBackoff`: the wait between the attempts at a tool call. Default: `Backoff.fullJitter()`.
 * - `approval`: `"declared"` asks a person where the tool's `needsApproval` says so, `"atMostOnce"` also before every
 *   call that must not happen twice. Default: `"declared"`. A person approves exactly this call of this tool with these
 *   arguments, approves it with others (`Approve` with `arguments`), rejects it, supplies its result, or abandons the run; the
 *   model is told so. Arguments and results are checked against the tool's schemas when they are given. A
 *   `needsApproval` that is a function gets the arguments alone: no conversation, and no id that the model chose. Where it
 *   fails or throws, the run fails (`Undecided`), and the call does not run.
 * - `approvalTimeToLive`: how long people have to decide about a call, or about an answer of an agent that is
 *   {@link reviewed}. After that the run fails with `Expired`, and asks anew when it is run again. Default: for ever.
 * - `concurrency`: how many tool calls of one answer run at the same time. Default: 4.
 * - `limits`: bounds of arguments and results, see `AgentTools.Limits`.
 * - `stream`: how answers are streamed, see {@link StreamOptions}; `false` asks for each in one piece. They are streamed by
 *   default, because only a stream shows within seconds that an answer stands still: one in a piece that hangs takes the
 *   time of the whole run.
 * - `loops`: when calls of tools are a loop, see `LoopDetector.Options`. The model is told first, and then asked for its
 *   best answer without tools. `false` looks for none.
 * - `compaction`: how a conversation is made smaller that has outgrown the model's context (verdict `ContextOverflow`),
 *   see `Compaction.Options`. The call is then made once more, and the run goes on with the smaller one. `false` fails.
 * - `sharedBudget`: a budget that several runs spend together, see `AgentBudget.shared`. A run that it has no room for from
 *   the beginning fails with `BudgetExceeded`, whatever `whenSpent` says. Default: none.
 * - `whenSpent`: what becomes of a run whose budget is used up: `"answer"` asks for the best answer so far, `"fail"` fails
 *   with `BudgetExceeded`. Run again with a larger budget, {@link run} goes on from where the run was: what it has spent stays
 *   spent, and its best answer so far, which is paid for, is not part of the conversation. Without a larger budget it ends as
 *   before, and spends nothing. Default: `"answer"`.
 * - `rollback`: after a model call whose failure another history may avoid (verdict `Refused`, `Malformed` or
 *   `ContextOverflow`), or an answer that repairs did not make match, the run goes back to the turn before, but never past
 *   a tool call that must not happen twice, and the model is told why. At most `max` times (default 2), by the last `keep`
 *   turns (default 5). `false` fails. A first turn that fails has nothing to go back to.
 * - `maxRepairs`: how often a final answer that does not match `result` is asked for again. Default: 2.
 * - `version`: raise it when a change to the agent makes its unfinished runs unusable. Default: 1.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<
  Tools extends Record<string, Tool.Any>,
  ToolOptions extends ToolsOptions<Tools>,
  E,
  RM,
  RT
> {
  readonly name: string
  readonly instructions: string
  readonly toolkit?: Toolkit.Toolkit<Tools> | undefined
  readonly budget?: AgentBudget.Options | undefined
  readonly policies?: {
    readonly model?: ModelGuard<E, RM> | undefined
    readonly tool?: AgentTools.ToolGuard<RT> | undefined
  } | undefined
  readonly tools?: (ToolOptions & ToolsOptions<Tools>) | undefined
  readonly toolBackoff?: Schedule.Schedule<unknown, unknown> | undefined
  readonly approval?: "declared" | "atMostOnce" | undefined
  readonly approvalTimeToLive?: Duration.Input | undefined
  readonly concurrency?: number | undefined
  readonly limits?: AgentTools.Limits | undefined
  readonly stream?: Streaming.StreamOptions | false | undefined
  readonly loops?: LoopDetector.Options | false | undefined
  readonly compaction?: Compaction.Options | false | undefined
  readonly sharedBudget?: AgentBudget.Shared | undefined
  readonly whenSpent?: "answer" | "fail" | undefined
  readonly rollback?: { readonly max?: number | undefined; readonly keep?: number | undefined } | false | undefined
  readonly maxRepairs?: number | undefined
  readonly version?: number | undefined
}

type ErasedOptions = Pick<AgentTools.ToolOptions<Tool.Any>, "effects" | "attempts" | "dedupe" | "uncertain"> & {
  readonly guard?: AgentTools.ToolGuard<unknown> | undefined
  readonly reconcile?: Reconcile<unknown> | undefined
}

// A toolkit is invariant in its tools, so no type holds all of them. What these tools need is in the type of the agent,
// and reaches them through the context of the run.
const erasedKit = (toolkit: unknown) => toolkit as Effect.Effect<ToolCall.ErasedToolkit> & ToolCall.ErasedToolkit

const fenced = /^\s*```(?:json)?\s*\n([\s\S]*?)\n\s*```\s*$/

const instructionsFor = (result: Schema.Constraint): string =>
  "When you are done, answer with JSON alone, without any other text. It has to match this JSON schema:\n" +
  JSON.stringify(Tool.getJsonSchemaFromSchema(result))

/**
 * Makes an agent; throws `Fault.InvalidConfig` for options that it cannot work with.
 *
 * **Details**
 *
 * What tools answer and fail with is written into the journal and told to the model, so their schemas, and `result`,
 * must not hold a `Redacted`.
 *
 * With a `result` schema the final answer has to be JSON that decodes with it: the model is told the schema, an answer
 * that does not match is asked for again with the error, and `value` of the result is what was decoded. Without one
 * `value` is the text.
 *
 * **Example** (Running an agent with a tool)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Tool, Toolkit } from "effect/ai"
 * import { Agent, CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const Search = Tool.make("Search", {
 *   parameters: Schema.Struct({ query: Schema.String }),
 *   success: Schema.Array(Schema.String)
 * }).annotate(Tool.Readonly, true)
 *
 * const toolkit = Toolkit.make(Search)
 *
 * const librarian = Agent.make({ name: "librarian", instructions: "You find books.", toolkit })
 *
 * const world = Layer.mergeAll(
 *   toolkit.toLayer({ Search: ({ query }) => Effect.succeed([`A book on ${query}`]) }),
 *   ScriptedModel.layer([
 *     ScriptedModel.toolCall({ id: "call_1", name: "Search", params: { query: "bees" } }),
 *     "Read 'A book on bees'."
 *   ]),
 *   CheckpointStore.layerMemory,
 *   EscalationQueue.layerMemory,
 *   Idempotency.layerMemory
 * )
 *
 * const result = await Effect.runPromise(
 *   Agent.run(librarian, { runId: "ask-1", prompt: "What can I read about bees?" }).pipe(Effect.provide(world))
 * )
 *
 * result.text // => "Read 'A book on bees'."
 * result.counters.toolCalls // => 1
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export function make<
  Result extends Schema.Constraint,
  Tools extends Record<string, Tool.Any> = {},
  const ToolOptions extends ToolsOptions<Tools> = {},
  E = AiError.AiError | AgentError,
  RM = LanguageModel.LanguageModel,
  RT = never
>(
  options: Options<Tools, ToolOptions, E, RM, RT> & { readonly result: Result }
): Agent<
  Tools,
  Result["Type"],
  E,
  RM | RT | ToolServices<Tools> | OptionServices<ToolOptions> | Result["DecodingServices"]
>
export function make<
  Tools extends Record<string, Tool.Any> = {},
  const ToolOptions extends ToolsOptions<Tools> = {},
  E = AiError.AiError | AgentError,
  RM = LanguageModel.LanguageModel,
  RT = never
>(
  options: Options<Tools, ToolOptions, E, RM, RT>
): Agent<Tools, string, E, RM | RT | ToolServices<Tools> | OptionServices<ToolOptions>>
export function make<Tools extends Record<string, Tool.Any>, ToolOptions extends ToolsOptions<Tools>, E, RM, RT>(
  options: Options<Tools, ToolOptions, E, RM, RT> & { readonly result?: Schema.Constraint | undefined }
): Agent<Tools, unknown, E | AiError.AiError | AgentError, unknown> {
  const { policies, result } = options
  const name = config.nonEmpty("Agent", "name", options.name)
  AgentOptions.checkKinds(options.toolkit, result)
  const erased = erasedKit(options.toolkit ?? Toolkit.empty)
  const toolOptions = (options.tools ?? {}) as { readonly [name: string]: ErasedOptions | undefined }
  const handled = Object.values(erased.tools).filter((tool) => !Tool.isProviderDefined(tool) || tool.requiresHandler)
  AgentOptions.checkTools(handled, toolOptions)
  if (result !== undefined) AgentOptions.withoutSecrets("result", result)
  const reconcile = new Map<string, Reconcile<unknown>>()
  const toolGuards = new Map<string, AgentTools.ToolGuard<unknown>>()
  for (const [tool, options = {}] of Object.entries(toolOptions)) {
    if (options.reconcile !== undefined) reconcile.set(tool, options.reconcile)
    if (options.guard !== undefined) toolGuards.set(tool, options.guard)
  }
  const budget = AgentBudget.make(options.budget)
  AgentOptions.checkShared(options.sharedBudget, budget)
  return {
    name,
    version: config.integer("Agent", "version", options.version ?? 1, 0),
    toolkit: options.toolkit,
    budget,
    definition: {
      name,
      instructions: [options.instructions, ...(result === undefined ? [] : [instructionsFor(result)])]
        .filter((text) => text !== "").join("\n\n"),
      kit: erased,
      plans: new Map(
        handled.map((tool) => [tool.name, ToolCall.plan(tool, options.toolBackoff, toolOptions[tool.name])])
      ),
      budget,
      modelGuard: policies?.model ?? identity,
      toolGuard: policies?.tool ?? identity,
      toolGuards,
      reconcile,
      approval: AgentOptions.oneOf("approval", options.approval ?? "declared", ["declared", "atMostOnce"]),
      approvalTimeToLive: options.approvalTimeToLive === undefined
        ? undefined
        : config.duration("Agent", "approvalTimeToLive", options.approvalTimeToLive, { minimum: "1 millis" }),
      concurrency: config.integer("Agent", "concurrency", options.concurrency ?? 4, 1),
      limits: ToolCall.limits(options.limits),
      stream: options.stream === false ? undefined : Streaming.make(name, options.stream),
      loops: options.loops === false ? undefined : LoopDetector.make(options.loops),
      compaction: options.compaction === false ? undefined : Compaction.make(options.compaction),
      sharedBudget: options.sharedBudget,
      whenSpent: AgentOptions.oneOf("whenSpent", options.whenSpent ?? "answer", ["answer", "fail"]),
      rollback: {
        max: options.rollback === false ? 0 : config.integer("Agent", "rollback.max", options.rollback?.max ?? 2, 0),
        keep: options.rollback === false
          ? 1
          : config.integer("Agent", "rollback.keep", options.rollback?.keep ?? 5, 1, 100)
      },
      review: undefined,
      result: jsonOf(result ?? Schema.String),
      accept: Schema.decodeUnknownEffect(jsonOf(result ?? Schema.String)),
      decode: decoder(result),
      maxRepairs: config.integer("Agent", "maxRepairs", options.maxRepairs ?? 2, 0)
    }
  }
}

const jsonOf = (result: Schema.Constraint) => Schema.toCodecJson(result)

const decoder = (result: Schema.Constraint | undefined) => {
  if (result === undefined) return (text: string) => Effect.succeed(text)
  const decode = Schema.decodeUnknownEffect(Schema.fromJsonString(result))
  // Models like to put JSON into a code block, whatever they are told.
  return (text: string) => decode(fenced.exec(text)?.[1] ?? text)
}

/**
 * Options of {@link reviewed}.
 *
 * **Details**
 *
 * - `when`: which answers people are asked about: a predicate, or a number in the value that is too low. What it says of an
 *   answer is written into the journal.
 * - `maxReviews`: how often people may send an answer back. After that they approve, supply or abandon. Default: 2.
 *
 * @category models
 * @since 0.1.0
 */
export interface ReviewOptions<Value> {
  readonly when:
    | ((answer: { readonly text: string; readonly value: Value }) => boolean)
    | { readonly field: keyof Value & string; readonly below: number }
  readonly maxReviews?: number | undefined
}

/** @internal */
export const reviewDefaults = { maxReviews: 2 } as const

/**
 * Has people look at the answers of an agent that it is not sure of, before they are its result.
 *
 * **Details**
 *
 * They are asked through the escalation queue (`LowConfidence`), and the run is suspended until they have approved the
 * answer, supplied another one, sent it back (`Retry`, or `Reject` with the reason), or abandoned the run. Answers of a
 * run that was stopped by its budget or in a loop are marked as such already, and not asked about. {@link answer} does not
 * serve an answer of its step `simplified` that people would be asked about.
 *
 * **Example** (Asking about unsure answers)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Agent, CheckpointStore, EscalationQueue } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const judge = Agent.make({
 *   name: "judge",
 *   instructions: "Judge.",
 *   result: Schema.Struct({ guilty: Schema.Boolean, confidence: Schema.Number })
 * })
 * const careful = Agent.reviewed(judge, { when: { field: "confidence", below: 0.8 } })
 * const run = Agent.run(careful, { runId: "case-1", prompt: "The butler?" })
 *
 * const program = Effect.gen(function*() {
 *   const suspended = yield* Effect.flip(run)
 *   const queue = yield* EscalationQueue.EscalationQueue
 *   for (const { id } of yield* queue.list({ status: "open" })) yield* queue.decide(id, { _tag: "Approve" })
 *   return [suspended._tag, (yield* run).value?.guilty]
 * })
 *
 * const world = Layer.mergeAll(
 *   ScriptedModel.layer([`{"guilty":true,"confidence":0.4}`]),
 *   CheckpointStore.layerMemory,
 *   EscalationQueue.layerMemory
 * )
 * await Effect.runPromise(Effect.provide(program, world)) // => ["RunSuspended", true]
 * ```
 *
 * @category combinators
 * @since 0.1.0
 */
export const reviewed = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  agent: Agent<Tools, Value, E, R>,
  options: ReviewOptions<Value>
): Agent<
  Tools,
  Value,
  E | Checkpoint.RunSuspended | EscalationQueue.EscalationError,
  R | EscalationQueue.EscalationQueue
> => {
  const { when } = options
  const isUnsure = typeof when === "function" ? when : tooLow<Value>(AgentOptions.field(when))
  const max = config.integer("Agent", "maxReviews", options.maxReviews ?? reviewDefaults.maxReviews, 0, 100)
  return { ...agent, definition: { ...agent.definition, review: { when: isUnsure, max } } }
}

// A confidence that is none is not enough of one.
const tooLow = <Value>({ below, field }: { readonly field: keyof Value & string; readonly below: number }) => {
  const least = config.numberBetween("Agent", "when.below", below, -Number.MAX_VALUE, Number.MAX_VALUE)
  return ({ value }: { readonly value: Value }): boolean => {
    const found = value[field]
    return typeof found !== "number" || !(found >= least)
  }
}

/**
 * Options of {@link loop}.
 *
 * **Details**
 *
 * - `prompt`: what the agent is asked.
 * - `state`: is kept up to date while the agent runs.
 * - `onEvent`: is run for all that happens, see {@link Progress}. The run waits for it. Default: nobody watches. See
 *   {@link stream} for the events as a `Stream`.
 *
 * @category models
 * @since 0.1.0
 */
export interface LoopOptions {
  readonly prompt: Prompt.RawInput
  readonly state?: SubscriptionRef.SubscriptionRef<State> | undefined
  readonly onEvent?: ((event: Progress) => Effect.Effect<void>) | undefined
}

/**
 * Options of {@link run} and {@link start}.
 *
 * **Details**
 *
 * `runId` names the run: one that exists is resumed. Its `prompt` has to be the one it was started with. Half of a
 * surrogate pair in it, as in a text that was cut in the middle of a character, becomes the replacement character.
 * `maxRecordBytes` is how large one record of its journal may be, an answer or the result of a tool, see `Checkpoint.run`;
 * a larger one fails the run with `RecordTooLarge`. Default: 4 MiB.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunOptions extends LoopOptions {
  readonly runId: string
  readonly maxRecordBytes?: number | undefined
}

const stateAfter = (exit: Exit.Exit<unknown, unknown>): State => {
  if (Exit.isSuccess(exit)) return "completed"
  const error = Exit.findErrorOption(exit)
  if (error._tag === "Some") return error.value instanceof Checkpoint.RunSuspended ? "waitingForHuman" : "failed"
  return Cause.hasInterruptsOnly(exit.cause) ? "idle" : "failed"
}

/**
 * Runs an agent as part of the run around it, in a scope of its own.
 *
 * **When to use**
 *
 * Use it where the agent is one step of many in a durable program. It may be called several times in a run, one after
 * the other; at the same time only within scopes of their own (`Checkpoint.forEach`).
 *
 * **Details**
 *
 * Fails with {@link LoopError} and what the guarded model call fails with. Failures of tools are told to the model.
 *
 * A best answer so far, of a budget that was used up, stays the answer also with a larger budget: the run around may have
 * gone on from it. {@link run} goes on.
 *
 * **Example** (Asking an agent inside a run)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Agent, Checkpoint, CheckpointStore } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const poet = Agent.make({ name: "poet", instructions: "You write one line." })
 *
 * const program = Effect.gen(function*() {
 *   const first = yield* Agent.loop(poet, { prompt: "On rain" })
 *   const second = yield* Agent.loop(poet, { prompt: `A line to follow: ${first.text}` })
 *   return [first.text, second.text]
 * }).pipe(Checkpoint.run({ id: "poem-1" }))
 *
 * const world = Layer.mergeAll(ScriptedModel.layer(["It rains.", "It stops."]), CheckpointStore.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => ["It rains.", "It stops."]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const loop = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  agent: Agent<Tools, Value, E, R>,
  options: LoopOptions
): Effect.Effect<
  Result<Value>,
  E | LoopError<Tools>,
  Checkpoint.Run | RunServices<Tools> | R
> => looping(agent, options, false)

const looping = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  agent: Agent<Tools, Value, E, R>,
  options: LoopOptions,
  alone: boolean
): Effect.Effect<
  Result<Value>,
  E | LoopError<Tools>,
  Checkpoint.Run | RunServices<Tools> | R
> => {
  const { onEvent, state } = options
  const setState = (next: State) => state === undefined ? Effect.void : SubscriptionRef.set(state, next)
  const changeState = (next: State) =>
    onEvent === undefined
      ? setState(next)
      : Effect.andThen(setState(next), Effect.suspend(() => onEvent({ _tag: "StateChanged", state: next })))
  // Not in a finalizer: nobody may be there any more who takes the event.
  const announceEnd = (exit: Exit.Exit<unknown, unknown>) =>
    onEvent === undefined || (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause))
      ? Effect.void
      : onEvent({ _tag: "StateChanged", state: stateAfter(exit) })
  const program = Effect.gen(function*() {
    const { runId } = yield* Checkpoint.current
    const looped = Effect.gen(function*() {
      yield* Effect.logDebug("agent started")
      return yield* internal.loop(agent.definition, {
        prompt: Prompt.make(options.prompt),
        setState: changeState,
        watcher: onEvent,
        alone
      })
    })
    return yield* looped.pipe(
      Effect.onExit((exit) => {
        const state = stateAfter(exit)
        return Effect.andThen(setState(state), Effect.logDebug("agent stopped").pipe(Effect.annotateLogs({ state })))
      }),
      Effect.tap(() => announceEnd(Exit.void)),
      Effect.tapCause((cause) => announceEnd(Exit.failCause(cause))),
      (self) => session.around({ agent: agent.name, runId, prompt: () => Prompt.make(options.prompt) }, self)
    )
  }).pipe(Checkpoint.within(agent.name))
  // An agent without tools asks nobody and remembers no calls; TypeScript cannot see that the type says so.
  return program as Effect.Effect<
    Result<Value>,
    E | LoopError<Tools>,
    Checkpoint.Run | RunServices<Tools> | R
  >
}

/**
 * Runs an agent as a durable run of its own, or goes on with the run where it stopped.
 *
 * **Details**
 *
 * Every model answer is in the journal before its tools run, every tool call is a step. A call that must not happen
 * twice and was cut off is not repeated: its `reconcile` is asked, then people. A run that waits for people fails with
 * `Checkpoint.RunSuspended`; once they have decided, run it again with the same `runId` and prompt.
 *
 * Fails with {@link LoopError}, `Checkpoint.RunError` and what the guarded model call fails with; {@link reached} says of
 * each of them how far the run had come.
 *
 * **Example** (Ending with the best answer so far)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Tool, Toolkit } from "effect/ai"
 * import { Agent, CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const toolkit = Toolkit.make(Tool.make("Look", { success: Schema.String }).annotate(Tool.Readonly, true))
 *
 * const scout = Agent.make({ name: "scout", instructions: "Look around.", toolkit, budget: { iterations: 2 } })
 *
 * const world = Layer.mergeAll(
 *   toolkit.toLayer({ Look: () => Effect.succeed("more of the same") }),
 *   ScriptedModel.layer((request) =>
 *     request.toolChoice === "none"
 *       ? "It is much of the same."
 *       : ScriptedModel.toolCall({ id: `call_${request.index}`, name: "Look", params: {} })
 *   ),
 *   CheckpointStore.layerMemory,
 *   EscalationQueue.layerMemory,
 *   Idempotency.layerMemory
 * )
 *
 * const result = await Effect.runPromise(
 *   Agent.run(scout, { runId: "scout-1", prompt: "What is there?" }).pipe(Effect.provide(world))
 * )
 *
 * result.completion // => "graceful"
 * result.text // => "It is much of the same."
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const run = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  agent: Agent<Tools, Value, E, R>,
  options: RunOptions
): Effect.Effect<
  Result<Value>,
  E | LoopError<Tools> | Checkpoint.RunError,
  | CheckpointStore.CheckpointStore
  | RunServices<Tools>
  | Exclude<R, Checkpoint.Run>
> =>
  Effect.gen(function*() {
    const { input, prompt } = yield* WellFormed.encoded(Prompt.make(options.prompt))
    const { maxRecordBytes, runId: id } = options
    return yield* Checkpoint.run(looping(agent, { ...options, prompt }, true), {
      id,
      version: agent.version,
      input,
      maxRecordBytes
    })
  })

/**
 * Forgets a run, so that its id begins a new one: its journal, and the results of its calls that equal calls would be
 * answered with.
 *
 * **When to use**
 *
 * Use it instead of `Checkpoint.clear` for a run of an agent that is to start over. After `Checkpoint.clear` alone a call
 * that must not happen twice, and that the run had made before, is answered from memory (`deduplicated` in its turn).
 *
 * **Details**
 *
 * What the calls of the run did is done, and may be done once more. Fails with what `Checkpoint.clear` fails with
 * (`RunLeased` while somebody works on it), and where the results cannot be cleared: then the journal is gone, and it can be
 * called again.
 *
 * @category running
 * @since 0.1.0
 */
export const clear = (
  runId: string
): Effect.Effect<
  void,
  | Checkpoint.RunLeased
  | Checkpoint.CheckpointCorrupt
  | CheckpointStore.CheckpointStoreError
  | Idempotency.IdempotencyStoreError,
  CheckpointStore.CheckpointStore | Idempotency.Idempotency
> => Effect.andThen(Checkpoint.clear(runId), Idempotency.clear(idempotencyScope(runId)))

/**
 * An agent that runs in the background.
 *
 * **Details**
 *
 * `states` begins with the current state and ends when the agent stops; it always ends with the last state. `result`
 * waits for the agent.
 *
 * @category models
 * @since 0.1.0
 */
export interface Running<Value, E> {
  readonly runId: string
  readonly state: Effect.Effect<State>
  readonly states: Stream.Stream<State>
  readonly result: Effect.Effect<Result<Value>, E>
  readonly interrupt: Effect.Effect<void>
}

/**
 * Starts an agent in the background, to watch its states while it runs. It is interrupted when the scope closes, and can
 * be resumed after that.
 *
 * **Example** (Watching the states)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Stream } from "effect"
 * import { Agent, CheckpointStore } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const greeter = Agent.make({ name: "greeter", instructions: "You greet." })
 *
 * const program = Effect.gen(function*() {
 *   const running = yield* Agent.start(greeter, { runId: "greet-1", prompt: "Hello" })
 *   const states = yield* Stream.runCollect(running.states)
 *   return [(yield* running.result).text, states.at(-1)]
 * }).pipe(Effect.scoped)
 *
 * const world = Layer.mergeAll(ScriptedModel.layer(["Hi"]), CheckpointStore.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world)) // => ["Hi", "completed"]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const start = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  agent: Agent<Tools, Value, E, R>,
  options: RunOptions
): Effect.Effect<
  Running<Value, E | LoopError<Tools> | Checkpoint.RunError>,
  never,
  | CheckpointStore.CheckpointStore
  | RunServices<Tools>
  | Exclude<R, Checkpoint.Run>
  | Scope.Scope
> =>
  Effect.gen(function*() {
    const state = options.state ?? (yield* SubscriptionRef.make<State>("idle"))
    const fiber = yield* Effect.forkScoped(run(agent, { ...options, state }))
    const states = SubscriptionRef.changes(state).pipe(
      Stream.merge(Stream.fromEffectDrain(Fiber.await(fiber)), { haltStrategy: "right" }),
      // The stream above may be ended before the last state comes through.
      Stream.concat(Stream.fromEffect(SubscriptionRef.get(state))),
      Stream.changes
    )
    return {
      runId: options.runId,
      state: SubscriptionRef.get(state),
      states,
      result: Fiber.join(fiber),
      interrupt: Fiber.interrupt(fiber)
    }
  })

/**
 * What {@link stream} gives: all that happens, and the result as the last one.
 *
 * @category models
 * @since 0.1.0
 */
export type Event<Value> = Progress | { readonly _tag: "Finished"; readonly result: Result<Value> }

/** How many events wait for their reader at most. */
const bufferSize = 64

/**
 * Runs an agent as {@link run} does, and gives what happens as it happens: the pieces of answers, tool calls, states, and
 * the result at the end.
 *
 * **When to use**
 *
 * Use it to show people an answer while it is written. Where an agent is a step of a program, watch it with `onEvent` of
 * {@link LoopOptions}.
 *
 * **Details**
 *
 * See {@link Progress} for the events. Pieces come where the agent streams its answers, which is the default, and before
 * anybody knows whether the answer is good: an attempt that is made once more says so (`AttemptRestarted`), and what counts
 * is `Answered`. A run that goes on repeats what is remembered as `replayed`, and the pieces of answers never.
 *
 * The stream fails with what {@link run} fails with, also with `Checkpoint.RunSuspended` where people are asked. Whoever
 * stops reading interrupts the run, which can be resumed. At most 64 events wait for their reader; then the run waits, and
 * its time passes.
 *
 * **Example** (Showing an answer while it is written)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Stream } from "effect"
 * import { Agent, CheckpointStore } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const greeter = Agent.make({ name: "greeter", instructions: "You greet." })
 * let shown = ""
 *
 * const program = Agent.stream(greeter, { runId: "greet-1", prompt: "Hello" }).pipe(
 *   Stream.runForEach((event) =>
 *     Effect.sync(() => {
 *       switch (event._tag) {
 *         case "TextDelta":
 *           shown += event.text
 *           break
 *         case "AttemptRestarted":
 *         case "WentBack":
 *           shown = ""
 *           break
 *         case "Finished":
 *           shown += `\n${event.result.completion}`
 *       }
 *     })
 *   )
 * )
 *
 * const world = Layer.merge(ScriptedModel.layer(["Hi there"]), CheckpointStore.layerMemory)
 * await Effect.runPromise(Effect.provide(program, world))
 * shown // => "Hi there\ncomplete"
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const stream = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  agent: Agent<Tools, Value, E, R>,
  options: RunOptions
): Stream.Stream<
  Event<Value>,
  E | LoopError<Tools> | Checkpoint.RunError,
  | CheckpointStore.CheckpointStore
  | RunServices<Tools>
  | Exclude<R, Checkpoint.Run>
> =>
  Stream.callback((queue) => {
    const offer = (event: Event<Value>) => Effect.asVoid(Queue.offer(queue, event))
    const { onEvent } = options
    const watch = (event: Progress) =>
      onEvent === undefined ? offer(event) : Effect.andThen(onEvent(event), offer(event))
    return run(agent, { ...options, onEvent: watch }).pipe(
      Effect.flatMap((result) => offer({ _tag: "Finished", result })),
      Effect.andThen(Queue.end(queue))
    )
  }, { bufferSize, strategy: "suspend" })

/**
 * What {@link answer} came to.
 *
 * **Details**
 *
 * `result` is that of the run that gave the value, of the agent's or of the simplified one; where another model answered
 * in place of the first one, the `Fallback.Answer` is degraded, and the turns say which (`standIn`); `age` is how old a value is
 * that was served again.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answered<out Value> {
  readonly value: Value
  readonly result: Result<Value> | undefined
  readonly age: Duration.Duration | undefined
}

/**
 * What answers are remembered and served again under, see {@link AnswerOptions}.
 *
 * @category models
 * @since 0.1.0
 */
export interface LastGoodOptions extends LastGood.RecallOptions {
  readonly key: string
}

/**
 * Options of {@link answer}: the run, and what answers where it does not, in this order.
 *
 * **Details**
 *
 * - `lastGood`: the last whole answer of this agent and version under the same `key`, from the source `"last good"`. The
 *   key says all that makes two answers the same to whoever asks: the tenant or customer where an answer can tell of one,
 *   and the question (`` `${customer}/${question}` ``). Two people who ask in the same words must not share a key where the
 *   answer is not the same for both. `maxAge` says how old it may be (default: as old as `LastGood` keeps them), `similar`
 *   which other key is near enough. Default: none is kept, and none served.
 * - `simplified`: a prompt that asks for less, made from the prompt. The agent answers it without tools, in a run that is
 *   not kept; from the source `"simplified"`. Of an agent that is {@link reviewed} an answer that people would be asked
 *   about is not served. Default: none.
 * - `template`: an answer without a model, from the source `"template"`. Default: none.
 * - `emergency`: a value that always serves, from the source `"emergency"`. Default: none.
 * - `stepTimeout`: how long `simplified` and `template` may take, each, and the store of `lastGood` for an answer. Default:
 *   30 seconds.
 * - `escalate`: whether people are told through the escalation queue of a run that came to nothing, once for each run, where
 *   neither a model nor an earlier answer stood in for it. Default: `true`.
 *
 * @category models
 * @since 0.1.0
 */
export interface AnswerOptions<Value, E, R> extends RunOptions {
  readonly lastGood?: LastGoodOptions | undefined
  readonly simplified?: ((prompt: Prompt.Prompt) => Prompt.RawInput) | undefined
  readonly template?: ((prompt: Prompt.Prompt) => Effect.Effect<Value, E, R>) | undefined
  readonly emergency?: Value | undefined
  readonly stepTimeout?: Duration.Input | undefined
  readonly escalate?: boolean | undefined
}

type MayHave<O, K extends string> = [Extract<keyof O, K>] extends [never] ? false
  : [O[Extract<keyof O, K>]] extends [undefined] ? false
  : true

type Has<O, K extends string> = K extends keyof O ? undefined extends O[K] ? false : true : false

/**
 * Where the answer of these options may come from.
 *
 * @category type-level
 * @since 0.1.0
 */
export type SourceOf<O> =
  | "agent"
  | (MayHave<O, "lastGood"> extends true ? "last good" : never)
  | (MayHave<O, "simplified"> extends true ? "simplified" : never)
  | (MayHave<O, "template"> extends true ? "template" : never)
  | (MayHave<O, "emergency"> extends true ? "emergency" : never)

/**
 * Failures of a run that no other answer stands in for.
 *
 * @category type-level
 * @since 0.1.0
 */
export type NotStoodInFor<E> = Extract<
  E,
  | Checkpoint.RunSuspended
  | Checkpoint.RunLeased
  | Checkpoint.RunCancelled
  | Checkpoint.RunConflict
  | Checkpoint.InputNotJson
  | AgentError
>

type TemplateOf<O> = O extends { readonly template: (prompt: never) => infer T } ? T : never

/**
 * What {@link answer} can fail with, of what the run can fail with and these options.
 *
 * @category type-level
 * @since 0.1.0
 */
export type AnswerError<E, O> = Has<O, "emergency"> extends true ? NotStoodInFor<E>
  : Has<O, "template"> extends true ? NotStoodInFor<E> | Deadline.DeadlineExceeded | Effect.Error<TemplateOf<O>>
  :
    | E
    | HealthMonitor.HealthGateClosed
    | Effect.Error<TemplateOf<O>>
    | (MayHave<O, "simplified" | "template"> extends true ? Deadline.DeadlineExceeded : never)

/**
 * Runs an agent in production: behind the health gate, and with answers that stand in for its own.
 *
 * **When to use**
 *
 * Use it where somebody waits for an answer whatever happens, and {@link run} where a failure is the better answer.
 *
 * **Details**
 *
 * A new run is begun only while the health of the agent is not critical (see {@link layerProduction}); one that has begun is
 * gone on with. What comes of it is counted for the health, and whole answers are remembered where
 * `lastGood` has a key for them. Where it fails, what the
 * options give answers, in their order, and the `Fallback.Answer` says where it came from and what failed before. The run
 * stays where it stopped: run it again with the same `runId` to go on.
 *
 * It takes as long as the run's budget allows (`wallTime`, and `grace` for a call that must not happen twice), and what
 * stands in as long as `stepTimeout`. A store that hangs adds a bound of its own: 5 seconds to say whether the run has begun, after which no run is
 * begun, and 30 seconds for anything else that the run asks of it. That people are told holds an answer up for 5 seconds
 * at most: what takes longer goes on beside it, and is logged where it fails.
 *
 * Not stood in for are failures that are no failures of the agent: `RunSuspended` (people decide first), `RunLeased`
 * (somebody else works on it), `RunCancelled`, `RunConflict` and `InputNotJson` (the call is wrong), and an `AgentError`
 * of a run that people have abandoned. With an `emergency` these are all that it fails with; with a `template` also what
 * that fails with, and `Deadline.DeadlineExceeded` where it takes too long; otherwise it fails with `HealthGateClosed` and
 * all that {@link run} fails with, too.
 *
 * A step that dies is logged with its cause, and the next one stands in for it; where none answers, its defect comes out.
 * An interruption stays one. `state` and `onEvent` are about the run of the agent alone, and not about that of `simplified`.
 *
 * **Example** (Always having an answer)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Agent, CheckpointStore, EscalationQueue, Fault, Idempotency } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const desk = Agent.make({ name: "desk", instructions: "Answer customers." })
 *
 * const reply = Agent.answer(desk, {
 *   runId: "ticket-7",
 *   prompt: "Where is my parcel?",
 *   simplified: () => "Say in one sentence that we look into it.",
 *   emergency: "We have your message and answer it as soon as we can."
 * })
 *
 * const program = Effect.gen(function*() {
 *   const { source, value } = yield* reply
 *   const { answerRate, fallbackUses, successRate } = yield* Agent.metrics
 *   return [source, value.value, fallbackUses, successRate, answerRate]
 * })
 *
 * const Live = Agent.layerProduction({
 *   model: ScriptedModel.layer([ScriptedModel.fail(Fault.refused), "We look into it."]),
 *   store: Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory, Idempotency.layerMemory)
 * })
 * await Effect.runPromise(Effect.provide(program, Live)) // => ["simplified", "We look into it.", 1, 0, 1]
 * ```
 *
 * @category running
 * @since 0.1.0
 */
export const answer = <
  Tools extends Record<string, Tool.Any>,
  Value,
  E,
  R,
  const O extends AnswerOptions<Value, unknown, unknown>
>(
  agent: Agent<Tools, Value, E, R>,
  options: O & AnswerOptions<Value, unknown, unknown>
): Effect.Effect<
  Fallback.Answer<Answered<Value>, SourceOf<O>>,
  AnswerError<E | LoopError<Tools> | Checkpoint.RunError, O>,
  | CheckpointStore.CheckpointStore
  | EscalationQueue.EscalationQueue
  | HealthMonitor.HealthMonitor
  | LastGood.LastGood
  | production.Production
  | RunServices<Tools>
  | Exclude<R, Checkpoint.Run>
  | Effect.Services<TemplateOf<O>>
> => {
  const { definition, name, version } = agent
  const given: AnswerOptions<Value, unknown, unknown> = options
  const { emergency, lastGood, runId, simplified, template } = given
  const prompt = Prompt.make(given.prompt)
  const chain = answers.answer({
    agent: name,
    version,
    runId,
    primary: run(agent, {
      runId,
      prompt,
      state: given.state,
      onEvent: given.onEvent,
      maxRecordBytes: given.maxRecordBytes
    }),
    result: definition.result,
    withoutValue: (result) => withoutValue(name, runId, result),
    lastGood,
    simplified: simplified === undefined
      ? undefined
      : Effect.suspend(() => run(withoutTools(agent), { runId, prompt: simplified(prompt) })).pipe(
        Effect.filterOrFail(
          ({ text, value }) => value === undefined || definition.review?.when({ text, value }) !== true,
          ({ counters }) =>
            new AgentError({ agent: name, runId, turn: counters.iterations, reason: { _tag: "Unsure" } })
        ),
        // It has no effects, so nothing has to be remembered, and it works when the store does not.
        Effect.provideServiceEffect(CheckpointStore.CheckpointStore, CheckpointStore.makeMemory())
      ),
    template: template === undefined ? undefined : Effect.suspend(() => template(prompt)),
    emergency: Option.fromUndefinedOr(emergency),
    timeout: config.duration("Agent.answer", "stepTimeout", given.stepTimeout ?? "30 seconds", { minimum: "1 millis" }),
    escalate: given.escalate ?? true
  })
  // Made of the same steps as the types, which the compiler cannot see.
  return chain as Effect.Effect<
    Fallback.Answer<Answered<Value>, SourceOf<O>>,
    AnswerError<E | LoopError<Tools> | Checkpoint.RunError, O>,
    | CheckpointStore.CheckpointStore
    | EscalationQueue.EscalationQueue
    | HealthMonitor.HealthMonitor
    | LastGood.LastGood
    | production.Production
    | RunServices<Tools>
    | Exclude<R, Checkpoint.Run>
    | Effect.Services<TemplateOf<O>>
  >
}

/** A result without a value is the best that the agent could do, and no answer. */
const withoutValue = (agent: string, runId: string, result: Result<unknown>): AgentError => {
  const cause = new Error("what it gave does not match the result schema")
  const turn = result.counters.iterations
  switch (result.completion) {
    case "graceful":
      return new AgentError({ agent, runId, turn, reason: { _tag: "BudgetExhausted", budget: result.budget, cause } })
    case "looped":
      return new AgentError({ agent, runId, turn, reason: { _tag: "LoopDetected", loop: result.loop, cause } })
    case "complete":
      return new AgentError({ agent, runId, turn, reason: { _tag: "EmptyAnswer" } })
  }
}

/** The same agent with nothing but its model, and nobody who looks at what it says. */
const withoutTools = <Tools extends Record<string, Tool.Any>, Value, E, R>(
  { definition, ...agent }: Agent<Tools, Value, E, R>
): Agent<{}, Value, E, R> => ({
  ...agent,
  toolkit: undefined,
  definition: { ...definition, kit: erasedKit(Toolkit.empty), plans: new Map(), review: undefined }
})

/**
 * The guards around a model's calls that {@link layerProduction} has by default: a timeout of 60 seconds for each try, 5
 * tries with full jitter (base 1 second, cap 60 seconds) that are paid from a `RetryBudget`, a quota that learns the
 * limits, 3 calls at a time and 100 that wait, and a circuit that opens for 60 seconds after 5 failures in a row.
 *
 * **When to use**
 *
 * Use it to see what it does (`Policy.describe`), or as the policy of a layer made piece by piece.
 *
 * @category production
 * @since 0.1.0
 */
export const productionPolicy: (name: string) => ReturnType<typeof production.productionPolicy> =
  production.productionPolicy

/**
 * Provides all that an agent in production goes by, in one layer.
 *
 * **When to use**
 *
 * Use it whole, replace the parts that are different for you by its options, or merge the layers that it is made of by
 * yourself: each is public, and none knows of the others.
 *
 * **Details**
 *
 * | part | layer | replaced by |
 * | --- | --- | --- |
 * | the model, others that stand in for it, and their guards | `ResilientModel.fallback` | `model`, `others`, `policy`, `answers` |
 * | what the guards go by | `Policy.layer` | `guards` |
 * | journal, idempotent tools, escalations | none by default | `store` |
 * | answers to serve again | `LastGood.layer()` | `lastGood` |
 * | health, its checks and the gate of new runs | `HealthMonitor.layer` | `health` |
 * | what {@link answer} counts | {@link Production} | |
 *
 * The checks are those of the store (while it does not work, no run is begun), of the escalations that wait and of the
 * circuits (which make the whole degraded at most), and yours. Throws `Fault.InvalidConfig` for an empty `name`; building the
 * layer fails with what the layers given fail with.
 *
 * @category production
 * @since 0.1.0
 */
export const layerProduction: <EM, RM, ES, RS, EO = never, RO = never, EL = never, RL = never>(
  options: production.ProductionOptions<EM, RM, EO, RO, ES, RS, EL, RL>
) => ReturnType<typeof production.layerProduction<EM, RM, EO, RO, ES, RS, EL, RL>> = production.layerProduction

/**
 * What became of the answers so far, and how circuits and health are. See {@link ProductionMetrics}.
 *
 * @category production
 * @since 0.1.0
 */
export const metrics: Effect.Effect<production.ProductionMetrics, never, production.Production> = production.Production
  .use((made) => made.metrics)
