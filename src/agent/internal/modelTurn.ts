import type * as AiError from "effect/ai/AiError"
import type * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as Fault from "../../Fault.ts"
import * as logged from "../../internal/logged.ts"
import { askAgain } from "../../internal/metricRecorder.ts"
import * as Retry from "../../policy/Retry.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as AgentBudget from "../AgentBudget.ts"
import * as Compaction from "../Compaction.ts"
import type * as ActiveTime from "./activeTime.ts"
import { AgentError } from "./agentError.ts"
import { textOf } from "./answerParts.ts"
import { cut } from "./boundedJson.ts"
import * as Ending from "./ending.ts"
import * as ModelAnswer from "./modelAnswer.ts"
import * as Progress from "./progress.ts"
import { type Compacted, ModelRecord } from "./records.ts"
import type * as Room from "./room.ts"
import * as session from "./session.ts"
import { lastErrorOf, nothingSpent, type Spending } from "./spending.ts"
import { whyFailed } from "./told.ts"
import * as ToolCall from "./toolCall.ts"

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
  self: Effect.Effect<ModelAnswer.ModelAnswer, AiError.AiError | AgentError, LanguageModel.LanguageModel>
) => Effect.Effect<ModelAnswer.ModelAnswer, E, R>

const tokensOf = ({ inputTokens, outputTokens }: AgentBudget.Usage) => ({ inputTokens, outputTokens })

const summarise =
  "Sum up what was done and found so far in this task, for somebody who goes on with it and sees nothing " +
  "but your summary: facts, results, decisions, and what is left to do. Do not call tools."

const summaryLength = 8_000

const newCuts = (): ModelAnswer.Cuts => ({ count: 0, kept: undefined })

interface WhySetBack {
  readonly error: string
  readonly message: string
  readonly told: string
}

// What another history can change; a provider that is down, or a key that is wrong, stays that.
const isAboutTheHistory = ({ _tag }: Fault.Verdict): boolean =>
  _tag === "Refused" || _tag === "Malformed" || _tag === "ContextOverflow"

/**
 * What the model turns of a run have in common.
 *
 * @internal
 */
export interface Environment<E, R> extends ModelAnswer.Environment {
  /** What names the run in a budget that it shares with others: one that is begun anew under the same id is another one. */
  readonly account: string
  readonly guard: ModelGuard<E, R>
  readonly sharedBudget: AgentBudget.Shared | undefined
  readonly compaction: Compaction.Compaction | undefined
  /** Messages at the beginning that are never left out. */
  readonly protect: number
  readonly time: ActiveTime.ActiveTime
  readonly attempts: Progress.Attempts
}

/** @internal */
export interface Turn {
  readonly prompt: Prompt.Prompt
  readonly turn: number
  /** With an ending the answer is the last one. */
  readonly ending: Ending.Ending | undefined
  /** What the run has spent before. */
  readonly usage: AgentBudget.Usage
  readonly cost: number
  readonly mayGoBack: boolean
  /** Whether the run may make a last call where a budget has no room for this one. */
  readonly mayAnswer: boolean
  readonly known: Room.Metered | undefined
  /** What this call spends, also where it fails. */
  readonly spent: Spending
}

type Asking<E, R> = ModelAnswer.Asking<Environment<E, R>>

/** Whether an answer has come whole, and is not one to go on with. */
const isJudged = (error: unknown): boolean => error instanceof AgentError && error.reason._tag !== "CutOff"

/** Asks through the guard, and again where the stream of the answer was cut and the guard has not. */
const asked = <E, R>(asking: Asking<E, R>, prompt: Prompt.Prompt): Effect.Effect<ModelAnswer.ModelAnswer, E, R> => {
  const { cuts, env: { guard, stream } } = asking
  const guarded = guard(
    Effect.suspend(() =>
      Effect.tapError(ModelAnswer.answerOf(asking, prompt), (error) =>
        Effect.sync(() => {
          asking.spent.lastError = lastErrorOf(error)
        }))
    )
  )
  if (stream === undefined || stream.maxCuts === 0) return guarded
  const before = cuts.count
  const again = Retry.policy({
    name: askAgain,
    maxAttempts: stream.maxCuts + 1,
    // What the verdict says holds for an answer that had begun. Other failures are the guard's.
    retryIf: (error) => cuts.count > before && !isJudged(error) ? undefined : false
  })
  return Retry.apply(guarded, again)
}

/** @internal */
export const compactedBy = <E, R>(
  { protect }: Environment<E, R>,
  prompt: Prompt.Prompt,
  { keepResults, summary, target }: Compacted
): Prompt.Prompt => Compaction.compact(prompt, { protect, target, keepResults, summary }).prompt

/** What the conversation is made smaller by, if it can be. */
const makeSmaller = Effect.fnUntraced(function*<E, R>(
  asking: Asking<E, R>,
  prompt: Prompt.Prompt,
  compaction: Compaction.Compaction
) {
  const { agent, protect, runId } = asking.env
  const { keepResults } = compaction
  const target = Math.floor(Compaction.sizeOf(prompt) * compaction.share)
  const { dropped, messages, results } = Compaction.compact(prompt, { protect, target, keepResults })
  if (messages + results === 0) return undefined
  const compacted = { target, keepResults, messages, results }
  yield* Telemetry.emit(() => ({ _tag: "ContextCompacted", agent, runId, messages, results }))
  yield* Effect.logWarning("the conversation has outgrown the model's context, going on with a smaller one").pipe(
    Effect.annotateLogs({ messages, results })
  )
  if (!compaction.summary || dropped.length === 0) return compacted
  const told = Prompt.concat(
    Prompt.fromMessages([...prompt.content.slice(0, protect), ...dropped]),
    ModelAnswer.user(summarise)
  )
  const summary = yield* asked({ ...asking, last: true, cuts: newCuts(), attempts: Progress.unwatched }, told).pipe(
    Effect.map(({ message }) => cut(textOf(message), summaryLength)),
    Effect.catch((error) => Effect.as(logged.warning("no summary, going on without one", error), undefined))
  )
  return summary === undefined ? compacted : { ...compacted, summary }
})

/** Asks once more with a smaller conversation where this one is too large. */
const answerWithRoom = Effect.fnUntraced(function*<E, R>(asking: Asking<E, R>, prompt: Prompt.Prompt) {
  const { compaction } = asking.env
  const first = yield* Effect.result(asked(asking, prompt))
  if (Result.isSuccess(first)) return first.success
  const verdict = yield* Fault.classify(first.failure)
  const compacted = verdict._tag === "ContextOverflow" && compaction !== undefined
    ? yield* makeSmaller(asking, prompt, compaction)
    : undefined
  if (compacted === undefined) return yield* Effect.fail(first.failure)
  return { ...(yield* asked(asking, compactedBy(asking.env, prompt, compacted))), compacted }
})

/** An error after which the run can go back, so that its journal says so. */
const setBack = <E>(error: E, mayGoBack: boolean): Effect.Effect<{ readonly setBack: WhySetBack }, E> =>
  Effect.flatMap(Fault.classify(error), (verdict) =>
    isAboutTheHistory(verdict) && mayGoBack
      ? Effect.succeed({
        setBack: {
          error: ToolCall.nameOf(error),
          message: ToolCall.messageOf(error),
          told: whyFailed(error, verdict)
        }
      })
      : Effect.fail(error))

/**
 * Tells the budget that several runs share what this one has spent.
 *
 * @internal
 */
export const reportShared = <E, R>(
  { account, sharedBudget }: Environment<E, R>,
  iterations: number,
  usage: AgentBudget.Usage,
  cost: number
): void => sharedBudget?.report(account, { iterations, ...tokensOf(usage), cost })

/**
 * Names the limit of the budget that several runs share which leaves no room for a call.
 *
 * @internal
 */
export const sharedGone = <E, R>(env: Environment<E, R>, options: Pick<Turn, "known" | "prompt">) => {
  const estimate = estimateOf(env, options)
  const full = env.sharedBudget?.reserve(estimate)
  if (full === undefined) env.sharedBudget?.release(estimate)
  return full
}

const estimateOf = <E, R>(env: Environment<E, R>, { known, prompt }: Pick<Turn, "known" | "prompt">) => {
  const needed = ModelAnswer.estimated(env, prompt, { known })
  return { iterations: 1, ...tokensOf(needed), cost: AgentBudget.costOf(env.budget, undefined, needed) }
}

/**
 * Names the limit of the run's budget that leaves no room for a call.
 *
 * @internal
 */
export const gone = <E, R>(env: Environment<E, R>, options: Pick<Turn, "prompt" | "usage" | "cost" | "known">) => {
  const { cost, known, prompt, usage } = options
  const asking = { env, last: false, spent: nothingSpent(), before: { usage, cost }, known }
  const room = ModelAnswer.roomFor(asking, prompt)
  return room._tag === "Gone" ? room.budget : undefined
}

/** The limit at which another attempt was not made, or an answer cut. */
const spentBy = <E, R>(asking: Asking<E, R>, prompt: Prompt.Prompt, error: unknown): AgentBudget.Name | undefined => {
  const { agent, runId } = asking.env
  if (!(error instanceof AgentError) || error.agent !== agent || error.runId !== runId) return undefined
  if (error.reason._tag === "BudgetExceeded") return error.reason.budget
  if (error.reason._tag !== "Truncated") return undefined
  const room = ModelAnswer.roomFor(asking, prompt)
  return room._tag === "Gone" ? room.budget : undefined
}

/** What the journal says where the call failed, if the run does not fail with it. */
const insteadOf = <E, R>(
  asking: Asking<E, R>,
  { ending, mayGoBack, prompt, turn }: Turn,
  error: E
): Effect.Effect<{ readonly setBack: WhySetBack } | { readonly noRoom: AgentBudget.Name }, E | AgentError> => {
  if (ending !== undefined) {
    return Effect.fail(ModelAnswer.failWith(asking.env, turn, Ending.noLastAnswer(ending, error)))
  }
  const noRoom = spentBy(asking, prompt, error)
  return noRoom === undefined ? setBack<E | AgentError>(error, mayGoBack) : Effect.succeed({ noRoom })
}

/** One model call with all its attempts, as the journal keeps it. */
const execute = Effect.fnUntraced(function*<E, R>(
  env: Environment<E, R>,
  options: Turn,
  fail: (error: E | AgentError | AiError.AiError) => void
) {
  const { agent, budget, runId, sharedBudget, time } = env
  const { cost, ending, known, mayAnswer, prompt, spent, turn, usage } = options
  const began = yield* Clock.currentTimeMillis
  const wallTime = Duration.toMillis(budget.wallTime)
  const left = Math.max(0, wallTime - time.marked())
  const within = Duration.millis(ending === undefined ? left : left + Duration.toMillis(budget.grace))
  if (ending !== undefined) yield* Ending.announce(agent, runId, ending)
  const estimate = estimateOf(env, options)
  const cuts = newCuts()
  // What is set aside for the attempts under way; the first one of them is an iteration.
  let held: ReadonlyArray<AgentBudget.SharedSpent> = []
  const release = () => {
    for (const one of held) sharedBudget?.release(one)
    held = []
  }
  const report = () => reportShared(env, turn, AgentBudget.addUsage(usage, spent.usage), cost + spent.cost)
  let isFirst = true
  const another = (underWay: number) => {
    if (isFirst || ending !== undefined) {
      isFirst = false
      return undefined
    }
    if (underWay === 0) {
      release()
      report()
    }
    const one = { ...estimate, iterations: 0 }
    const full = sharedBudget?.reserve(one)
    if (full === undefined) held = [...held, one]
    return full
  }
  const ended = Effect.map(time.now, (elapsedMillis) => {
    const { attempts, cost, unmetered, usage } = spent
    return { attempts, cost, unmetered, usage, ...(cuts.count === 0 ? {} : { cuts: cuts.count }), elapsedMillis }
  })
  // The last answer is what the run is allowed beyond its budget.
  const full = ending === undefined ? sharedBudget?.reserve(estimate) : undefined
  if (full !== undefined) {
    if (!mayAnswer) return yield* ModelAnswer.failWith(env, turn, { _tag: "BudgetExceeded", budget: full })
    return { _tag: "NoRoom" as const, budget: full, ...yield* ended }
  }
  if (ending === undefined) held = [estimate]
  const asking: Asking<E, R> = {
    env,
    turn,
    last: ending !== undefined,
    spent,
    cuts,
    attempts: env.attempts,
    another,
    before: { usage, cost },
    known
  }
  const room = ModelAnswer.roomFor(asking, prompt)
  const answer = yield* answerWithRoom(asking, prompt).pipe(
    // For the guard to see, too.
    ModelAnswer.withOutputTokens(env, room._tag === "Room" ? room.outputTokens : 0),
    Effect.catch((error) => insteadOf<E, R>(asking, options, error)),
    Effect.timeoutOption(within),
    Effect.flatMap((answer) =>
      Option.isNone(answer) && ending !== undefined
        ? Effect.fail(
          ModelAnswer.failWith(env, turn, Ending.noLastAnswer(ending, "the model did not answer in the time of grace"))
        )
        : Effect.succeed(answer)
    ),
    Effect.result,
    Effect.ensuring(Effect.sync(() => {
      release()
      report()
    }))
  )
  const durationMillis = (yield* Clock.currentTimeMillis) - began
  const given = Result.isSuccess(answer) && Option.isSome(answer.success) && "message" in answer.success.value
    ? answer.success.value
    : undefined
  const isFree = spent.usage.inputTokens + spent.usage.outputTokens === 0
  // What was spent is heard of, whatever came of it.
  if (Result.isSuccess(answer) || !isFree) {
    yield* session.emit(runId, ({ content, sessionId }) => ({
      _tag: "ModelCalled",
      agent,
      runId,
      sessionId,
      turn,
      model: given?.model,
      attempts: spent.attempts,
      ...tokensOf(spent.usage),
      durationMillis,
      ...(content ? { prompt: session.excerpt(session.textsOf(prompt)) } : {}),
      ...(content && given !== undefined ? { answer: session.excerpt(textOf(given.message)) } : {})
    }))
  }
  if (Result.isFailure(answer)) {
    spent.lastError = lastErrorOf(answer.failure)
    // A run that starts over after each record would ask again and again, and never come to tell its failure.
    if (isFree || (yield* Checkpoint.AlwaysReplay)) return yield* Effect.fail(answer.failure)
    fail(answer.failure)
    const { message, tag: error } = spent.lastError
    return { _tag: "Failed" as const, error, message, ...yield* ended }
  }
  const record = yield* ended
  if (Option.isNone(answer.success)) {
    // A clock that wakes a little early leaves no time to ask again.
    return { _tag: "OutOfTime" as const, ...record, elapsedMillis: Math.max(record.elapsedMillis, wallTime) }
  }
  const said = answer.success.value
  if ("noRoom" in said) return { _tag: "NoRoom" as const, budget: said.noRoom, ...record }
  return "setBack" in said
    ? { _tag: "SetBack" as const, ...said.setBack, ...record }
    : {
      _tag: "Answer" as const,
      ...said,
      ...(ending?.completion === "graceful" ? { ending: ending.budget } : {}),
      ...record
    }
})

/**
 * The model's answer as a step of its own, in the journal before anything in it is acted upon. A call that failed and was
 * paid for is there too, and `failure` is what it failed with just now. So is one that was interrupted: it is written
 * before the interruption goes on, in the time that the store has for a record.
 *
 * @internal
 */
export const ask = Effect.fnUntraced(function*<E, R>(env: Environment<E, R>, turn: Turn) {
  let replayed = true
  let failure = Option.none<E | AgentError | AiError.AiError>()
  let interrupted = Option.none<Cause.Cause<never>>()
  const record = yield* Effect.uninterruptibleMask((restore) => {
    const executed = Effect.suspend(() => {
      replayed = false
      return execute(env, turn, (error) => {
        failure = Option.some(error)
      })
    })
    const whole = Effect.catchCauseIf(
      restore(executed),
      (cause) => Cause.hasInterruptsOnly(cause) && turn.spent.attempts > 0,
      (cause) =>
        Effect.map(env.time.now, (elapsedMillis) => {
          interrupted = Option.some(Cause.fromReasons(cause.reasons.filter(Cause.isInterruptReason)))
          const { attempts, cost, unmetered, usage } = turn.spent
          return { _tag: "Interrupted" as const, attempts, cost, unmetered, usage, elapsedMillis }
        })
    )
    return Checkpoint.step("model", { success: ModelRecord }, whole)
  })
  if (Option.isSome(interrupted)) return yield* Effect.failCause(interrupted.value)
  return { record, replayed, failure }
})
