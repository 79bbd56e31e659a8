import type * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as AgentBudget from "../AgentBudget.ts"
import type { ToolGuard } from "../AgentTools.ts"
import * as ActiveTime from "./activeTime.ts"
import { AgentError, type AgentErrorReason } from "./agentError.ts"
import { boundedJson, cut } from "./boundedJson.ts"
import { type Answer, ModelRecord } from "./records.ts"
import type * as ToolCall from "./toolCall.ts"
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
  readonly replayedSteps: number
}

/**
 * A tool call of a {@link Turn}. `replayed` says that its result came from the journal.
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
  readonly reconcile: ReadonlyMap<string, ToolTurn.Reconcile<R>>
  readonly approval: "declared" | "atMostOnce"
  readonly concurrency: number
  readonly limits: ToolCall.ResolvedLimits
  readonly decode: (text: string) => Effect.Effect<Value, Schema.SchemaError, R>
  readonly maxRepairs: number
}

interface ClientCall {
  readonly id: string
  readonly name: string
  readonly params: unknown
}

const partsOf = (message: Prompt.Prompt): ReadonlyArray<Prompt.AssistantMessagePart> =>
  message.content.flatMap((message) => message.role === "assistant" ? message.content : [])

const clientCalls = (message: Prompt.Prompt): ReadonlyArray<ClientCall> =>
  partsOf(message).flatMap((part) => part.type === "tool-call" && !part.providerExecuted ? [part] : [])

const textOf = (message: Prompt.Prompt): string =>
  partsOf(message).map((part) => part.type === "text" ? part.text : "").join("")

const usageOf = (usage: Response.Usage): AgentBudget.Usage => ({
  inputTokens: usage.inputTokens.total ?? 0,
  outputTokens: usage.outputTokens.total ?? 0,
  cacheReadTokens: usage.inputTokens.cacheRead ?? 0,
  cacheWriteTokens: usage.inputTokens.cacheWrite ?? 0
})

const beyondBounds = (params: unknown, limits: ToolCall.ResolvedLimits): string | undefined => {
  const json = boundedJson(params, { length: limits.arguments, depth: limits.depth })
  switch (json._tag) {
    case "Json":
      return undefined
    case "TooLong":
      return `the arguments are longer than ${limits.arguments} characters`
    case "TooDeep":
      return `the arguments are nested more than ${limits.depth} levels deep`
    case "NotJson":
      return `the arguments are not JSON: they hold ${json.found}`
  }
}

const user = (text: string): Prompt.Prompt => Prompt.make(text)

const system = (text: string): Prompt.Prompt =>
  text === "" ? Prompt.empty : Prompt.make([{ role: "system", content: text }])

const pastTheEnd = (budget: AgentBudget.Name): string =>
  `The budget of this task (${budget}) is used up. Do not call tools. ` +
  "Give the best answer that you can give from what you have so far."

const emptyAgain = "Your last answer was empty. Give your answer."

const notValid = (issue: string): string =>
  `Your answer does not match the schema that it has to match:\n${issue}\n` +
  "Answer again, with the corrected JSON alone."

/** @internal */
export const loop = <Value, E, R>(
  agent: Definition<Value, E, R>,
  options: {
    readonly prompt: Prompt.Prompt
    readonly setState: (state: State) => Effect.Effect<void>
  }
) =>
  Effect.gen(function*() {
    const { runId } = yield* Checkpoint.current
    const kit = yield* agent.kit
    const time = yield* ActiveTime.make
    const { budget, name } = agent
    const wallTime = Duration.toMillis(budget.wallTime)
    const tools: ToolTurn.Environment<R> = {
      agent: name,
      runId,
      kit,
      guard: agent.toolGuard,
      limits: agent.limits,
      time,
      reconcile: agent.reconcile,
      approval: agent.approval,
      concurrency: agent.concurrency,
      wallTime,
      grace: Duration.toMillis(budget.grace)
    }

    let history = Prompt.concat(system(agent.instructions), options.prompt)
    let usage = AgentBudget.noUsage
    let cost = 0
    let paused = ""
    const turns: Array<Turn> = []
    const counters = { iterations: 0, toolCalls: 0, toolErrors: 0, retries: 0, repairs: 0, replayedSteps: 0 }

    const failWith = (reason: AgentErrorReason) =>
      new AgentError({ agent: name, runId, turn: counters.iterations, reason })

    const exhausted = (gone: AgentBudget.Name, cause: unknown) =>
      failWith({ _tag: "BudgetExhausted", budget: gone, cause })

    /** One request. What an answer must not be, it fails with, for the guard around to see. */
    const request = Effect.fnUntraced(function*(
      prompt: Prompt.Prompt,
      last: boolean,
      spent: { usage: AgentBudget.Usage; cost: number }
    ) {
      const response = yield* LanguageModel.generateText({
        prompt,
        toolkit: kit,
        toolChoice: last ? "none" : "auto",
        disableToolCallResolution: true,
        toolCallValidation: "deferred"
      })
      const used = usageOf(response.usage)
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
      spent: { usage: AgentBudget.Usage; cost: number; attempts: number }
    ) {
      spent.attempts++
      const first = yield* request(prompt, last, spent)
      if (Option.isSome(first)) return first.value
      spent.attempts++
      const second = yield* request(Prompt.concat(prompt, user(emptyAgain)), last, spent)
      return Option.isSome(second) ? second.value : yield* failWith({ _tag: "EmptyAnswer" })
    })

    /**
     * The model's answer as a step of its own, in the journal before anything in it is acted upon. With a budget that is
     * gone it is the last one.
     */
    const ask = Effect.fnUntraced(function*(gone?: AgentBudget.Name) {
      yield* options.setState("running")
      const prompt = history
      const turn = counters.iterations
      const left = Math.max(0, wallTime - time.marked())
      const within = Duration.millis(gone === undefined ? left : left + Duration.toMillis(budget.grace))
      let replayed = true
      const execute = Effect.gen(function*() {
        replayed = false
        if (gone !== undefined) {
          yield* Telemetry.emit(() => ({ _tag: "BudgetExceeded", agent: name, runId, budget: gone }))
          yield* Effect.logWarning("budget used up, asking for the best answer so far").pipe(
            Effect.annotateLogs({ budget: gone })
          )
        }
        const spent = { usage: AgentBudget.noUsage, cost: 0, attempts: 0 }
        const answer = yield* agent.modelGuard(Effect.suspend(() => answerOf(prompt, gone !== undefined, spent))).pipe(
          Effect.mapError((error) => gone === undefined ? error : exhausted(gone, error)),
          Effect.timeoutOption(within)
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
        return Option.isNone(answer)
          ? { _tag: "OutOfTime" as const, ...record }
          : { _tag: "Answer" as const, ...answer.value, ...record }
      })
      const record = yield* Checkpoint.step("model", { success: ModelRecord }, execute)
      yield* time.mark(record.elapsedMillis)
      usage = AgentBudget.addUsage(usage, record.usage)
      cost += record.cost
      counters.retries += Math.max(0, record.attempts - 1)
      if (replayed) counters.replayedSteps++
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

    const gracefully = Effect.fnUntraced(function*(gone: AgentBudget.Name) {
      history = Prompt.concat(history, user(pastTheEnd(gone)))
      const { record, replayed } = yield* Checkpoint.within("last")(ask(gone))
      if (record._tag === "OutOfTime") {
        return yield* exhausted(gone, "the model did not answer within the grace period")
      }
      turns.push({ finishReason: record.finishReason, attempts: record.attempts, replayed, toolCalls: [] })
      const text = textOf(record.message)
      const value = yield* Effect.option(agent.decode(text))
      return {
        ...result(text, record.finishReason),
        completion: "graceful" as const,
        budget: gone,
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
      if (gone !== undefined) return yield* gracefully(gone)

      counters.iterations++
      const { outcomes, record, replayed } = yield* Checkpoint.within(`turn-${counters.iterations}`)(takeTurn)
      if (record._tag === "OutOfTime") return yield* gracefully("wallTime")

      const text = textOf(record.message)
      turns.push({
        finishReason: record.finishReason,
        attempts: record.attempts,
        replayed,
        toolCalls: outcomes.map(({ call, outcome, replayed }) => ({
          id: call.id,
          name: call.name,
          isFailure: outcome.isFailure,
          attempts: outcome.attempts,
          replayed
        }))
      })
      history = Prompt.concat(history, record.message)
      if (outcomes.length > 0) {
        paused = ""
        history = Prompt.concat(history, ToolTurn.results(outcomes))
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
        return { ...result(whole, record.finishReason), completion: "complete" as const, value: value.success }
      }
      const issue = cut(value.failure.message, 2_000)
      if (counters.repairs >= agent.maxRepairs) {
        return yield* failWith({ _tag: "InvalidResult", repairs: counters.repairs, issue, text: whole })
      }
      counters.repairs++
      history = Prompt.concat(history, user(notValid(issue)))
    }
  })
