import type * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as EscalationQueue from "../../durable/EscalationQueue.ts"
import * as Idempotency from "../../durable/Idempotency.ts"
import * as Fault from "../../Fault.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as AgentBudget from "../AgentBudget.ts"
import type { ToolGuard } from "../AgentTools.ts"
import * as Compaction from "../Compaction.ts"
import * as LoopDetector from "../LoopDetector.ts"
import * as ActiveTime from "./activeTime.ts"
import { AgentError, type AgentErrorReason } from "./agentError.ts"
import { beyondBounds } from "./argumentBounds.ts"
import { cut } from "./boundedJson.ts"
import { callsIn, paired } from "./pairing.ts"
import { type Answer, type Compacted, ModelRecord } from "./records.ts"
import * as ToolCall from "./toolCall.ts"
import * as ToolTurn from "./toolTurn.ts"

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
 * A whole answer of the model.
 *
 * @category models
 * @since 0.1.0
 */
export interface ModelAnswer extends Pick<Answer, "message" | "finishReason" | "model" | "unusable"> {}

/**
 * A guard around a model call, for instance `CircuitBreaker.protect("anthropic")` or a `flow` of several.
 *
 * **Details**
 *
 * It may fail with other errors, handle some, and make the call again with another model: what it can fail with, and
 * what it needs, is what the agent can fail with and needs.
 *
 * @category models
 * @since 0.1.0
 */
export type ModelGuard<E = AiError.AiError | AgentError, R = LanguageModel.LanguageModel> = (
  self: Effect.Effect<ModelAnswer, AiError.AiError | AgentError, LanguageModel.LanguageModel>
) => Effect.Effect<ModelAnswer, E, R>

/**
 * What an agent did, counted over the whole run, what a resumed run replayed included.
 *
 * **Details**
 *
 * - `iterations`: model calls of the loop; the last call of a graceful completion is not one.
 * - `toolCalls`: tool calls that the model asked for; `toolErrors`: those that it got an error for.
 * - `retries`: attempts at model and tool calls beyond the first.
 * - `repairs`: answers that did not match the result schema and were asked for again.
 * - `loops`: how often it went round in circles and was told, or stopped.
 * - `compactions`: how often the conversation was made smaller because it had outgrown the model's context.
 * - `rollbacks`: how often it went back to an earlier turn after an error, and on from there.
 * - `reviews`: how often people were asked about its answer.
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
  readonly unmetered: number
  readonly replayedSteps: number
}

/**
 * A tool call of a {@link Turn}. `replayed` says that its result came from the journal, `decision` what people decided
 * about it before it ran; with `"edited"` it ran with other arguments than the model gave it.
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
  readonly decision?: ToolTurn.Decided
}

/**
 * One model call and the tool calls of its answer: where the result comes from. `replayed` says that the answer came
 * from the journal.
 *
 * @category models
 * @since 0.1.0
 */
export interface Turn {
  readonly finishReason: Response.FinishReason
  readonly attempts: number
  readonly replayed: boolean
  readonly toolCalls: ReadonlyArray<TurnToolCall>
}

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

/** @internal */
export interface Definition<Value, E, R> {
  readonly name: string
  readonly instructions: string
  readonly kit: Effect.Effect<ToolCall.ErasedToolkit, never, R>
  readonly plans: ReadonlyMap<string, ToolCall.Plan>
  readonly budget: AgentBudget.AgentBudget
  readonly modelGuard: ModelGuard<E, R>
  readonly toolGuard: ToolGuard<R>
  readonly toolGuards: ReadonlyMap<string, ToolGuard<R>>
  readonly reconcile: ReadonlyMap<string, ToolTurn.Reconcile<R>>
  readonly approval: "declared" | "atMostOnce"
  readonly concurrency: number
  readonly limits: ToolCall.ResolvedLimits
  readonly loops: LoopDetector.LoopDetector | undefined
  readonly compaction: Compaction.Compaction | undefined
  readonly sharedBudget: AgentBudget.Shared | undefined
  readonly whenSpent: "answer" | "fail"
  readonly rollback: Rollback
  readonly review: Review<Value> | undefined
  readonly result: Schema.Codec<unknown, unknown, R, unknown>
  readonly accept: (supplied: unknown) => Effect.Effect<Value, Schema.SchemaError, R>
  readonly decode: (text: string) => Effect.Effect<Value, Schema.SchemaError, R>
  readonly maxRepairs: number
}

const partsOf = (message: Prompt.Prompt): ReadonlyArray<Prompt.AssistantMessagePart> =>
  message.content.flatMap((message) => message.role === "assistant" ? message.content : [])

const clientCalls = (message: Prompt.Prompt) => message.content.flatMap(callsIn)

const textOf = (message: Prompt.Prompt): string =>
  partsOf(message).map((part) => part.type === "text" ? part.text : "").join("")

// Two characters a token are more tokens than any text has in practice, and 4096 is what an answer has at most by default.
const estimated = (prompt: Prompt.Prompt): AgentBudget.Usage => ({
  ...AgentBudget.noUsage,
  inputTokens: Math.ceil(Compaction.sizeOf(prompt) / 2),
  outputTokens: 4096
})

const tokensOf = ({ inputTokens, outputTokens }: AgentBudget.Usage) => ({ inputTokens, outputTokens })

const isMetered = ({ inputTokens, outputTokens }: Response.Usage): boolean =>
  inputTokens.total !== undefined && outputTokens.total !== undefined

const usageOf = (usage: Response.Usage, prompt: Prompt.Prompt): AgentBudget.Usage => ({
  inputTokens: usage.inputTokens.total ?? estimated(prompt).inputTokens,
  outputTokens: usage.outputTokens.total ?? estimated(prompt).outputTokens,
  cacheReadTokens: usage.inputTokens.cacheRead ?? 0,
  cacheWriteTokens: usage.inputTokens.cacheWrite ?? 0
})

const user = (text: string): Prompt.Prompt => Prompt.make(text)

const system = (text: string): Prompt.Prompt =>
  text === "" ? Prompt.empty : Prompt.make([{ role: "system", content: text }])

/** Why an agent has to answer without tools now. */
type End =
  | { readonly completion: "graceful"; readonly budget: AgentBudget.Name }
  | { readonly completion: "looped"; readonly loop: LoopDetector.Loop }

const pastTheEnd = (end: End): string =>
  (end.completion === "graceful"
    ? `The budget of this task (${end.budget}) is used up. `
    : `You go round in circles: ${LoopDetector.describe(end.loop)}. `) +
  "Do not call tools. Give the best answer that you can give from what you have so far."

const inALoop = (loop: LoopDetector.Loop): string =>
  `You go round in circles: ${LoopDetector.describe(loop)}. The same again will not help: ` +
  "go another way, or answer with what you have."

/** A text that is the same for what is the same. What has none is like nothing else. */
const sameness = (name: string, value: unknown, otherwise: string): Effect.Effect<string> =>
  Effect.orElseSucceed(Idempotency.key(name, value), () => otherwise)

const observed = ({ call, outcome }: ToolTurn.Done, place: string): Effect.Effect<LoopDetector.Observed> => {
  const { isFailure, modelOutput, result } = outcome
  // How often it was attempted is not what came of it.
  const came = isFailure && Predicate.isObject(result)
    ? Object.fromEntries(Object.entries(result).filter(([name]) => name !== "attempts"))
    : result
  const tool = cut(call.name, 100)
  return Effect.map(
    Effect.all([
      sameness(tool, call.unusable ?? call.params, `${place}/call`),
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

const summarise =
  "Sum up what was done and found so far in this task, for somebody who goes on with it and sees nothing " +
  "but your summary: facts, results, decisions, and what is left to do. Do not call tools."

const summaryLength = 8_000

const emptyAgain = "Your last answer was empty. Give your answer."

const notValid = (issue: string): string =>
  `Your answer does not match the schema that it has to match:\n${issue}\n` +
  "Answer again, with the corrected JSON alone."

const nothingDone = {
  iterations: 0,
  toolCalls: 0,
  toolErrors: 0,
  retries: 0,
  repairs: 0,
  loops: 0,
  compactions: 0,
  rollbacks: 0,
  reviews: 0,
  unmetered: 0,
  replayedSteps: 0
}

/** What a model call has spent so far, all its attempts together. */
interface Spending {
  usage: AgentBudget.Usage
  cost: number
  unmetered: number
  attempts: number
}

interface WhySetBack {
  readonly error: string
  readonly message: string
}

/** How far back a run may go, and how often. */
interface Rollback {
  readonly max: number
  readonly keep: number
}

/** When people are asked about an answer. */
interface Review<Value> {
  // A method: the answers that it is asked about are this agent's own.
  when(answer: { readonly text: string; readonly value: Value }): boolean
  readonly max: number
}

/** A turn from whose beginning the run can go on in another way. */
interface Good {
  readonly history: Prompt.Prompt
  readonly paused: string
}

const wentBack = (message: string): string =>
  `The last step of this task failed and was taken back (${message}). Go on in another way.`

const askedAgain = (reason: string | undefined): string =>
  `Your answer was not accepted${reason === undefined ? "" : `: ${reason}`}. Answer again, with more care.`

// What another history can change; a provider that is down, or a key that is wrong, stays that.
const isAboutTheHistory = ({ _tag }: Fault.Verdict): boolean =>
  _tag === "Refused" || _tag === "Malformed" || _tag === "ContextOverflow"

/** @internal */
export const loop = <Value, E, R>(
  agent: Definition<Value, E, R>,
  options: {
    readonly prompt: Prompt.Prompt
    readonly setState: (state: State) => Effect.Effect<void>
  }
) =>
  Effect.gen(function*() {
    const { runId, scope } = yield* Checkpoint.current
    const kit = yield* agent.kit
    const time = yield* ActiveTime.make
    const { budget, name } = agent
    const wallTime = Duration.toMillis(budget.wallTime)
    const tools: ToolTurn.Environment<R> = {
      agent: name,
      runId,
      kit,
      guard: agent.toolGuard,
      guards: agent.toolGuards,
      limits: agent.limits,
      time,
      reconcile: agent.reconcile,
      approval: agent.approval,
      concurrency: agent.concurrency,
      wallTime,
      grace: Duration.toMillis(budget.grace)
    }

    // A conversation that was cut off between a call and its result is taken up like any other one.
    let history = Prompt.concat(system(agent.instructions), paired(options.prompt))
    const protect = history.content.length
    let usage = AgentBudget.noUsage
    let cost = 0
    let paused = ""
    let detected = LoopDetector.initial
    let good: ReadonlyArray<Good> = []
    let repairs = 0
    const turns: Array<Turn> = []
    const counters = { ...nothingDone }

    const failWith = (reason: AgentErrorReason) =>
      new AgentError({ agent: name, runId, turn: counters.iterations, reason })

    const noLastAnswer = (end: End, cause: unknown) =>
      failWith(
        end.completion === "graceful"
          ? { _tag: "BudgetExhausted", budget: end.budget, cause }
          : { _tag: "LoopDetected", loop: end.loop, cause }
      )

    /** A request that may have been answered, and whose answer is lost, is paid for. */
    const lost = Effect.fnUntraced(function*(cause: Cause.Cause<unknown>, prompt: Prompt.Prompt, spent: Spending) {
      const verdict = Cause.hasInterruptsOnly(cause) ? Fault.timedOut : yield* Fault.classify(Cause.squash(cause))
      if (verdict._tag !== "TimedOut" && verdict._tag !== "Ambiguous") return
      const used = estimated(prompt)
      spent.unmetered++
      spent.usage = AgentBudget.addUsage(spent.usage, used)
      spent.cost += AgentBudget.costOf(budget, undefined, used)
    })

    /** One request. What an answer must not be, it fails with, for the guard around to see. */
    const request = Effect.fnUntraced(function*(
      prompt: Prompt.Prompt,
      last: boolean,
      spent: Spending
    ) {
      const response = yield* LanguageModel.generateText({
        prompt,
        toolkit: kit,
        toolChoice: last ? "none" : "auto",
        disableToolCallResolution: true,
        toolCallValidation: "deferred"
      }).pipe(Effect.onExit((exit) => Exit.isFailure(exit) ? lost(exit.cause, prompt, spent) : Effect.void))
      const used = usageOf(response.usage, prompt)
      if (!isMetered(response.usage)) spent.unmetered++
      const model = response.content.find((part) => part.type === "response-metadata")?.modelId
      spent.usage = AgentBudget.addUsage(spent.usage, used)
      spent.cost += AgentBudget.costOf(budget, model, used)
      const unusable: { [position: string]: string } = {}
      let position = 0
      const parts = response.content.map((part) => {
        if (part.type !== "tool-call" || part.providerExecuted) return part
        const why = beyondBounds(part.params, agent.limits)
        if (why !== undefined) unusable[position] = why
        position++
        return why === undefined ? part : { ...part, params: {} }
      })
      const { finishReason, text } = response
      switch (finishReason) {
        case "content-filter":
          return yield* failWith({ _tag: "Refused", text })
        case "length":
          if (last && text !== "") break
          return yield* failWith({ _tag: "Truncated", text })
        case "stop":
        case "tool-calls":
        case "pause":
          break
        default:
          return yield* failWith({ _tag: "IncompleteAnswer", finishReason })
      }
      const says = text.trim() !== ""
      const does = position > 0 || finishReason === "pause" || response.content.some((part) => part.type === "file")
      if (!says && (last || !does)) return Option.none()
      const message = Prompt.fromResponseParts(parts)
      return Option.some({ message, finishReason, unusable, ...(model === undefined ? {} : { model }) })
    })

    /** Asks again, once, where the answer is empty. */
    const answerOf = Effect.fnUntraced(function*(
      prompt: Prompt.Prompt,
      last: boolean,
      spent: Spending
    ) {
      spent.attempts++
      const first = yield* request(prompt, last, spent)
      if (Option.isSome(first)) return first.value
      spent.attempts++
      const second = yield* request(Prompt.concat(prompt, user(emptyAgain)), last, spent)
      return Option.isSome(second) ? second.value : yield* failWith({ _tag: "EmptyAnswer" })
    })

    const compactedBy = (prompt: Prompt.Prompt, { keepResults, summary, target }: Compacted): Compaction.Compacted =>
      Compaction.compact(prompt, { protect, target, keepResults, summary })

    /** What the conversation is made smaller by, if it can be. */
    const makeSmaller = Effect.fnUntraced(function*(
      prompt: Prompt.Prompt,
      compaction: Compaction.Compaction,
      spent: Spending
    ) {
      const { keepResults } = compaction
      const target = Math.floor(Compaction.sizeOf(prompt) * compaction.share)
      const { dropped, messages, results } = Compaction.compact(prompt, { protect, target, keepResults })
      if (messages + results === 0) return undefined
      const compacted = { target, keepResults, messages, results }
      yield* Telemetry.emit(() => ({ _tag: "ContextCompacted", agent: name, runId, messages, results }))
      yield* Effect.logWarning("the conversation has outgrown the model's context, going on with a smaller one").pipe(
        Effect.annotateLogs({ messages, results })
      )
      if (!compaction.summary || dropped.length === 0) return compacted
      const told = Prompt.concat(
        Prompt.fromMessages([...prompt.content.slice(0, protect), ...dropped]),
        user(summarise)
      )
      const summary = yield* agent.modelGuard(Effect.suspend(() => answerOf(told, true, spent))).pipe(
        Effect.map(({ message }) => cut(textOf(message), summaryLength)),
        Effect.catch((error) => Effect.as(Effect.logWarning("no summary, going on without one", error), undefined))
      )
      return summary === undefined ? compacted : { ...compacted, summary }
    })

    /** Asks once more with a smaller conversation where this one is too large. */
    const answerWithRoom = Effect.fnUntraced(function*(
      prompt: Prompt.Prompt,
      last: boolean,
      spent: Spending
    ) {
      const asked = (prompt: Prompt.Prompt) => agent.modelGuard(Effect.suspend(() => answerOf(prompt, last, spent)))
      const first = yield* Effect.result(asked(prompt))
      if (Result.isSuccess(first)) return first.success
      const verdict = yield* Fault.classify(first.failure)
      const compacted = verdict._tag === "ContextOverflow" && agent.compaction !== undefined
        ? yield* makeSmaller(prompt, agent.compaction, spent)
        : undefined
      if (compacted === undefined) return yield* Effect.fail(first.failure)
      return { ...(yield* asked(compactedBy(prompt, compacted).prompt)), compacted }
    })

    const reportShared = (usage: AgentBudget.Usage, cost: number) =>
      agent.sharedBudget?.report(`${runId}/${scope}`, { ...tokensOf(usage), cost })

    const mayGoBack = () => counters.iterations - repairs > 1 && counters.rollbacks < agent.rollback.max

    /** An error after which the run can go back, so that its journal says so. */
    const setBack = <E2>(error: E2) =>
      Effect.flatMap(Fault.classify(error), (verdict) =>
        isAboutTheHistory(verdict) && mayGoBack()
          ? Effect.succeed({ setBack: { error: ToolCall.nameOf(error), message: ToolCall.messageOf(error) } })
          : Effect.fail(error))

    /**
     * Goes back to the beginning of the turn before the one that failed, or of this one where what was done since cannot be
     * taken back.
     */
    const goBack = Effect.fnUntraced(function*(error: string, message: string) {
      const [before, failed] = good.length > 1 ? good.slice(-2) : [good[0], good[0]]
      const to = before ?? failed
      if (to !== undefined) {
        history = to.history
        paused = to.paused
      }
      good = good.slice(0, -2)
      repairs = 0
      counters.rollbacks++
      history = Prompt.concat(history, user(wentBack(cut(message, 500))))
      const turn = counters.iterations
      yield* Telemetry.emit(() => ({ _tag: "AgentWentBack", agent: name, runId, turn, error }))
      yield* Effect.logWarning("went back to an earlier turn").pipe(Effect.annotateLogs({ turn, error, message }))
    })

    /** What people say about an answer that the agent is not sure of. */
    const reviewed = Effect.fnUntraced(function*(review: Review<Value>, text: string, value: Value) {
      const isUnsure = yield* Checkpoint.step(
        "confidence",
        { success: Schema.Boolean },
        Effect.sync(() => review.when({ text, value }))
      )
      if (!isUnsure) return undefined
      const again = counters.reviews < review.max ? ["Retry", "Reject"] as const : []
      counters.reviews++
      return yield* EscalationQueue.ask({
        name: "answer",
        reason: "LowConfidence",
        task: `May this be the answer of agent "${name}"? ${cut(text, 500)}`,
        context: { agent: name, turn: counters.iterations, answer: cut(text, agent.limits.results) },
        decisions: ["Approve", "Supply", "Abandon", ...again],
        accepts: agent.result
      })
    })

    const supplied = (value: Schema.Json) =>
      Effect.gen(function*() {
        // The queue has checked that it is one.
        const text = typeof value === "string" ? value : JSON.stringify(value)
        return { text, value: yield* Effect.orDie(agent.accept(value)) }
      })

    const announceEnd = (end: End) =>
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

    /**
     * The model's answer as a step of its own, in the journal before anything in it is acted upon. With an end it is the
     * last one.
     */
    const ask = Effect.fnUntraced(function*(end?: End) {
      yield* options.setState("running")
      const prompt = history
      const turn = counters.iterations
      const left = Math.max(0, wallTime - time.marked())
      const within = Duration.millis(end === undefined ? left : left + Duration.toMillis(budget.grace))
      let replayed = true
      const execute = Effect.gen(function*() {
        replayed = false
        if (end !== undefined) yield* announceEnd(end)
        const spent: Spending = { usage: AgentBudget.noUsage, cost: 0, unmetered: 0, attempts: 0 }
        const needed = estimated(prompt)
        const estimate = { ...tokensOf(needed), cost: AgentBudget.costOf(budget, undefined, needed) }
        // The last answer is what the run is allowed beyond its budget.
        const full = end === undefined ? agent.sharedBudget?.reserve(estimate) : undefined
        if (full !== undefined) {
          if (agent.whenSpent === "fail") return yield* failWith({ _tag: "BudgetExceeded", budget: full })
          return { _tag: "NoRoom" as const, budget: full, ...spent, elapsedMillis: yield* time.now }
        }
        const answer = yield* answerWithRoom(prompt, end !== undefined, spent).pipe(
          Effect.catch((error): Effect.Effect<{ readonly setBack: WhySetBack }, E | AiError.AiError | AgentError> =>
            end === undefined ? setBack(error) : Effect.fail(noLastAnswer(end, error))
          ),
          Effect.timeoutOption(within),
          Effect.ensuring(Effect.sync(() => {
            if (end === undefined) agent.sharedBudget?.release(estimate)
            reportShared(AgentBudget.addUsage(usage, spent.usage), cost + spent.cost)
          }))
        )
        yield* Telemetry.emit(() => ({
          _tag: "ModelCalled",
          agent: name,
          runId,
          turn,
          inputTokens: spent.usage.inputTokens,
          outputTokens: spent.usage.outputTokens
        }))
        yield* Effect.logDebug("model called").pipe(
          Effect.annotateLogs({ turn, attempts: spent.attempts, ...spent.usage })
        )
        const record = { ...spent, elapsedMillis: yield* time.now }
        // Not in the journal: with more time the same call is made once more.
        if (Option.isNone(answer) && end === undefined && agent.whenSpent === "fail") {
          return yield* failWith({ _tag: "BudgetExceeded", budget: "wallTime" })
        }
        if (Option.isNone(answer)) return { _tag: "OutOfTime" as const, ...record }
        return "setBack" in answer.value
          ? { _tag: "SetBack" as const, ...answer.value.setBack, ...record }
          : { _tag: "Answer" as const, ...answer.value, ...record }
      })
      const record = yield* Checkpoint.step("model", { success: ModelRecord }, execute)
      yield* time.mark(record.elapsedMillis)
      usage = AgentBudget.addUsage(usage, record.usage)
      cost += record.cost
      reportShared(usage, cost)
      counters.unmetered += record.unmetered
      counters.retries += Math.max(0, record.attempts - 1)
      if (replayed) counters.replayedSteps++
      if (record._tag === "Answer" && record.compacted !== undefined) {
        counters.compactions++
        history = compactedBy(prompt, record.compacted).prompt
      }
      return { record, replayed }
    })

    const result = (text: string, finishReason: Response.FinishReason): Base => ({
      text,
      finishReason,
      usage,
      cost: budget.prices.size === 0 ? undefined : cost,
      elapsed: Duration.millis(time.marked()),
      counters: { ...counters },
      turns: [...turns]
    })

    const lastly = Effect.fnUntraced(function*(end: End) {
      history = Prompt.concat(history, user(pastTheEnd(end)))
      const { record, replayed } = yield* Checkpoint.within("last")(ask(end))
      if (record._tag !== "Answer") {
        return yield* noLastAnswer(end, "the model did not answer within the grace period")
      }
      turns.push({ finishReason: record.finishReason, attempts: record.attempts, replayed, toolCalls: [] })
      const text = textOf(record.message)
      const value = yield* Effect.option(agent.decode(text))
      return {
        ...result(text, record.finishReason),
        ...end,
        value: Option.getOrUndefined(value)
      }
    })

    /** Runs the tools that an answer asks for. */
    const callTools = Effect.fnUntraced(function*(record: Answer) {
      const calls = clientCalls(record.message)
      if (calls.length === 0) return []
      const allowed = Math.max(0, budget.toolCalls - counters.toolCalls)
      counters.toolCalls += calls.length
      yield* options.setState("waitingForTool")
      const outcomes = yield* ToolTurn.run(tools, {
        calls: calls.map(({ id, name, params }, position) => ({
          id,
          name,
          params,
          plan: agent.plans.get(name),
          unusable: record.unusable[position],
          overBudget: position >= allowed
        })),
        history: Prompt.concat(history, record.message),
        turn: counters.iterations
      })
      yield* time.mark(Math.max(...outcomes.map(({ outcome }) => outcome.elapsedMillis)))
      counters.toolErrors += outcomes.filter(({ outcome }) => outcome.isFailure).length
      counters.replayedSteps += outcomes.filter((done) => done.replayed).length
      counters.retries += outcomes.reduce((sum, { outcome }) => sum + Math.max(0, outcome.attempts - 1), 0)
      return outcomes
    })

    /** Decided from what is in the journal alone, so that a resumed run decides the same. */
    const lookForLoop = Effect.fnUntraced(function*(outcomes: ReadonlyArray<ToolTurn.Done>) {
      if (agent.loops === undefined) return undefined
      const turn = counters.iterations
      const calls = yield* Effect.forEach(outcomes, (done, position) => observed(done, `${turn}/${position}`))
      const { loop, state } = LoopDetector.observe(agent.loops, detected, calls)
      detected = state
      if (loop === undefined) return undefined
      counters.loops++
      return { found: loop, stop: LoopDetector.mustStop(agent.loops, state) }
    })

    const takeTurn = Effect.gen(function*() {
      const { record, replayed } = yield* ask()
      return { record, replayed, outcomes: record._tag === "Answer" ? yield* callTools(record) : [] }
    })

    while (true) {
      const spent = {
        iterations: counters.iterations,
        toolCalls: counters.toolCalls,
        usage,
        cost,
        elapsedMillis: time.marked()
      }
      const gone = AgentBudget.exceeded(budget, spent)
      if (gone !== undefined && agent.whenSpent === "fail") {
        return yield* failWith({ _tag: "BudgetExceeded", budget: gone })
      }
      if (gone !== undefined) return yield* lastly({ completion: "graceful", budget: gone })

      counters.iterations++
      // A repair belongs to the turn whose answer it repairs.
      if (repairs === 0) good = [...good, { history, paused }].slice(-agent.rollback.keep)
      const { outcomes, record, replayed } = yield* Checkpoint.within(`turn-${counters.iterations}`)(takeTurn)
      if (record._tag === "OutOfTime") return yield* lastly({ completion: "graceful", budget: "wallTime" })
      if (record._tag === "NoRoom") return yield* lastly({ completion: "graceful", budget: record.budget })
      if (record._tag === "SetBack") {
        turns.push({ finishReason: "error", attempts: record.attempts, replayed, toolCalls: [] })
        yield* goBack(record.error, record.message)
        continue
      }

      const text = textOf(record.message)
      turns.push({
        finishReason: record.finishReason,
        attempts: record.attempts,
        replayed,
        toolCalls: outcomes.map(({ call, decision, outcome, replayed }) => ({
          id: call.id,
          name: call.name,
          isFailure: outcome.isFailure,
          attempts: outcome.attempts,
          replayed,
          ...(decision === undefined ? {} : { decision })
        }))
      })
      history = Prompt.concat(history, record.message)
      if (outcomes.length > 0) {
        paused = ""
        repairs = 0
        history = Prompt.concat(history, ToolTurn.results(outcomes))
        // What may have changed the world is not taken back by forgetting it.
        if (outcomes.some(({ call, outcome }) => call.plan?.effects === "atMostOnce" && outcome.attempts > 0)) good = []
        const loop = yield* lookForLoop(outcomes)
        if (loop === undefined) continue
        if (loop.stop) return yield* lastly({ completion: "looped", loop: loop.found })
        history = Prompt.concat(history, user(inALoop(loop.found)))
        if (!replayed) {
          const { _tag } = loop.found
          yield* Telemetry.emit(() => ({ _tag: "LoopDetected", agent: name, runId, loop: _tag, stopped: false }))
        }
        continue
      }
      if (record.finishReason === "pause") {
        paused += text
        continue
      }
      const whole = paused + text
      paused = ""
      const value = yield* Effect.result(agent.decode(whole))
      if (Result.isSuccess(value)) {
        const complete = () => ({ ...result(whole, record.finishReason), completion: "complete" as const })
        if (agent.review === undefined) return { ...complete(), value: value.success }
        const decision = yield* Checkpoint.within(`review-${counters.iterations}`)(
          reviewed(agent.review, whole, value.success)
        )
        if (decision === undefined) return { ...complete(), value: value.success }
        switch (decision._tag) {
          case "Approve":
            return { ...complete(), value: value.success, review: "approved" as const }
          case "Supply":
            return { ...complete(), ...(yield* supplied(decision.value)), review: "supplied" as const }
          case "Abandon":
            return yield* failWith({ _tag: "AnswerAbandoned", reason: decision.reason })
          default:
            history = Prompt.concat(
              history,
              user(askedAgain(decision._tag === "Reject" ? cut(decision.reason, 2_000) : undefined))
            )
            continue
        }
      }
      const issue = cut(value.failure.message, 2_000)
      if (repairs >= agent.maxRepairs) {
        if (!mayGoBack()) {
          return yield* failWith({ _tag: "InvalidResult", repairs: counters.repairs, issue, text: whole })
        }
        yield* goBack("InvalidResult", issue)
        continue
      }
      repairs++
      counters.repairs++
      history = Prompt.concat(history, user(notValid(issue)))
    }
  })
