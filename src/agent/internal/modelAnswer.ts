import * as AiError from "effect/ai/AiError"
import * as LanguageModel from "effect/ai/LanguageModel"
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Fault from "../../Fault.ts"
import * as AttemptMeter from "../../internal/attemptMeter.ts"
import * as logged from "../../internal/logged.ts"
import * as OutputTokens from "../../model/OutputTokens.ts"
import * as ResilientModel from "../../model/ResilientModel.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as AgentBudget from "../AgentBudget.ts"
import { AgentError, type AgentErrorReason } from "./agentError.ts"
import { Gathered, goingOnFrom, isFinish, longest, textOf } from "./answerParts.ts"
import { beyondBounds } from "./argumentBounds.ts"
import { cut } from "./boundedJson.ts"
import type * as Progress from "./progress.ts"
import type { Answer } from "./records.ts"
import * as Room from "./room.ts"
import type { Spending } from "./spending.ts"
import type { Streaming } from "./streaming.ts"
import type * as ToolCall from "./toolCall.ts"

/**
 * A whole answer of the model.
 *
 * @category models
 * @since 0.1.0
 */
export interface ModelAnswer extends Pick<Answer, "message" | "finishReason" | "model" | "standIn" | "unusable"> {}

/** @internal */
export interface Environment {
  readonly agent: string
  readonly runId: string
  readonly kit: ToolCall.ErasedToolkit
  readonly budget: AgentBudget.AgentBudget
  readonly limits: ToolCall.ResolvedLimits
  readonly stream: Streaming | undefined
  /** Tokens that an answer must not pass, whatever is left in the budget. */
  readonly outputAtMost: number
}

/**
 * What is known of the streams of a model call that were cut.
 *
 * @internal
 */
export interface Cuts {
  count: number
  /** The beginning of the answer, to go on with: of the same model, for the same prompt. */
  kept: { readonly prompt: Prompt.Prompt; readonly model: unknown; readonly text: string } | undefined
}

/** @internal */
export interface Asking<Env extends Environment = Environment> {
  readonly env: Env
  readonly turn: number
  readonly last: boolean
  readonly spent: Spending
  readonly cuts: Cuts
  readonly attempts: Progress.Attempts
  /**
   * Sets aside what another attempt may come to, beside those under way, of a budget that is shared; names the limit that
   * has no room for it.
   */
  readonly another: (underWay: number) => AgentBudget.Name | undefined
  /** What the run has spent before, and a conversation of it whose tokens are known. */
  readonly before: Pick<AgentBudget.Spent, "usage" | "cost">
  readonly known: Room.Metered | undefined
}

/** @internal */
export const user = (text: string): Prompt.Prompt => Prompt.make(text)

/** @internal */
export const failWith = ({ agent, runId }: Environment, turn: number, reason: AgentErrorReason) =>
  new AgentError({ agent, runId, turn, reason })

/** @internal */
export const estimated = (
  { budget, kit }: Environment,
  prompt: Prompt.Prompt,
  { answered, known }: { readonly answered?: number; readonly known?: Room.Metered | undefined } = {}
): AgentBudget.Usage => ({
  ...AgentBudget.noUsage,
  inputTokens: Room.inputTokens(kit, prompt, known),
  outputTokens: Room.outputTokens(budget, answered)
})

/** What a provider reports of tokens; what cannot be a number of them is as good as nothing. */
const reported = (tokens: number | undefined): number | undefined =>
  tokens !== undefined && Number.isFinite(tokens) && tokens >= 0 ? tokens : undefined

const isMetered = ({ inputTokens, outputTokens }: Response.Usage): boolean =>
  reported(inputTokens.total) !== undefined && reported(outputTokens.total) !== undefined

const usageOf = ({ env }: Asking, usage: Response.Usage, prompt: Prompt.Prompt): AgentBudget.Usage => ({
  inputTokens: reported(usage.inputTokens.total) ?? estimated(env, prompt).inputTokens,
  outputTokens: reported(usage.outputTokens.total) ?? estimated(env, prompt).outputTokens,
  cacheReadTokens: reported(usage.inputTokens.cacheRead) ?? 0,
  cacheWriteTokens: reported(usage.inputTokens.cacheWrite) ?? 0
})

const modelOf = (parts: ReadonlyArray<Response.AnyPart>): string | undefined =>
  parts.find((part) => part.type === "response-metadata")?.modelId

const spend = (
  { env, spent }: Asking,
  used: AgentBudget.Usage,
  model: string | undefined,
  isMetered: boolean
): void => {
  if (!isMetered) spent.unmetered++
  spent.usage = AgentBudget.addUsage(spent.usage, used)
  spent.cost += AgentBudget.costOf(env.budget, model, used)
}

/** What has come of an answer is paid for, whole or not. A meter that is missing counts as spent. */
const settle = (asking: Asking, prompt: Prompt.Prompt, parts: ReadonlyArray<Response.AnyPart>, length = 0): void => {
  const usage = parts.find(isFinish)?.usage
  if (usage === undefined) spend(asking, estimated(asking.env, prompt, { answered: length }), modelOf(parts), false)
  else spend(asking, usageOf(asking, usage, prompt), modelOf(parts), isMetered(usage))
}

/** A request that may have been answered, and whose answer is lost, is paid for. */
const lost = Effect.fnUntraced(function*(asking: Asking, prompt: Prompt.Prompt, cause: Cause.Cause<unknown>) {
  const verdict = Cause.hasInterruptsOnly(cause) ? Fault.timedOut : yield* Fault.classify(Cause.squash(cause))
  if (verdict._tag === "TimedOut" || verdict._tag === "Ambiguous") settle(asking, prompt, [])
})

const requestOptions = ({ env, last }: Asking, prompt: Prompt.Prompt) => ({
  prompt,
  toolkit: env.kit,
  toolChoice: last ? "none" : "auto",
  disableToolCallResolution: true,
  toolCallValidation: "deferred"
} as const)

/** An answer as it came: its parts, and the text that came before them. */
interface Received {
  readonly parts: ReadonlyArray<Response.AnyPart>
  readonly beginning: string
}

/** The tries that are made at one request below the model that is asked. */
interface Tries {
  readonly meter: AttemptMeter.AttemptMeter
  /** Whether they are told of, each with what it has spent. */
  readonly areTold: () => boolean
  /** The limit that had no room for another one. */
  readonly refused: () => AgentBudget.Name | undefined
}

const triesAt = (asking: Asking, prompt: Prompt.Prompt): Tries => {
  const { env, spent } = asking
  let areTold = false
  let count = 0
  let underWay = 0
  let refused: AgentBudget.Name | undefined
  const ended: AttemptMeter.Ended = (outcome) =>
    Effect.suspend(() => {
      underWay--
      if (outcome._tag === "Came") return Effect.sync(() => settle(asking, prompt, outcome.parts, outcome.length))
      if (outcome._tag === "Lost") return lost(asking, prompt, outcome.cause)
      return Effect.void
    })
  const begin = Effect.suspend(() => {
    // The first one was asked for with the request.
    if (count > 0) {
      const one = estimated(env, prompt, { known: asking.known })
      const room = roomFor(asking, prompt, Array.from({ length: underWay }, () => one))
      refused = room._tag === "Gone" ? room.budget : asking.another(underWay)
      if (refused !== undefined) return Effect.fail(new AttemptMeter.AttemptRefused({ budget: refused }))
      spent.attempts++
    }
    count++
    underWay++
    return Effect.succeed(ended)
  })
  return {
    meter: {
      join: Effect.sync(() => {
        areTold = true
      }),
      begin
    },
    areTold: () => areTold,
    refused: () => refused
  }
}

const generated = (asking: Asking, prompt: Prompt.Prompt, tries: Tries) =>
  LanguageModel.generateText(requestOptions(asking, prompt)).pipe(
    Effect.onExit((exit) => Exit.isFailure(exit) && !tries.areTold() ? lost(asking, prompt, exit.cause) : Effect.void),
    Effect.map(({ content }): Received => {
      if (!tries.areTold()) settle(asking, prompt, content)
      return { parts: content, beginning: "" }
    })
  )

const goOn =
  "Your answer was cut off. Go on with it, exactly from where it ends: repeat nothing of it, add nothing before."

/** What a text is cut to that an error carries. */
const keptLength = 8_000

/** A stream that ended, but not with its finish part: nobody knows whether the answer is whole. */
class Unfinished extends Schema.TaggedError<Unfinished>("effect-resilience/agent/internal/Unfinished")(
  "Unfinished",
  {}
) {
  readonly [Fault.verdictOf] = Fault.malformed
  override get message() {
    return "it ended without its finish part"
  }
}

/** A stream that goes on and on. */
class TooLong extends Schema.TaggedError<TooLong>("effect-resilience/agent/internal/TooLong")("TooLong", {}) {
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `it has more than ${longest} characters; tell the model to answer with less`
  }
}

/** Nothing in an answer that was cut was acted upon, so that it can be asked for again. */
const verdictOfCut = (verdict: Fault.Verdict): Fault.Verdict =>
  verdict._tag === "Malformed" || verdict._tag === "Ambiguous" ? Fault.transient : verdict

/** A stream is an answer only when it has come to its end, with its finish part. */
const streamed = Effect.fnUntraced(function*(
  asking: Asking,
  prompt: Prompt.Prompt,
  tries: Tries,
  { onCut, stall }: Streaming
) {
  const { attempts, cuts, env, turn } = asking
  const { agent, runId } = env
  const model = yield* LanguageModel.LanguageModel
  const beginning = cuts.kept?.prompt === prompt && cuts.kept.model === model ? cuts.kept.text : ""
  const asked = beginning === ""
    ? prompt
    : Prompt.concat(Prompt.concat(prompt, [{ role: "assistant", content: beginning }]), user(goOn))
  const gathered = new Gathered()
  const attempt = yield* attempts.begin(turn, beginning !== "")
  const failed = (error: unknown) =>
    Effect.gen(function*() {
      // Before anything of an answer has come, it is the request that failed.
      if (!gathered.hasBegun && AiError.isAiError(error)) return yield* error
      const text = beginning + gathered.text
      cuts.count++
      cuts.kept = onCut === "resume" && text.trim() !== "" ? { prompt, model, text } : undefined
      const verdict = verdictOfCut(yield* Fault.classify(error))
      yield* Telemetry.emit(() => ({
        _tag: "AnswerCut",
        agent,
        runId,
        turn,
        cuts: cuts.count,
        characters: text.length,
        verdict: verdict._tag
      }))
      yield* Effect.logWarning(`the stream of an answer was cut after ${text.length} characters: ${verdict._tag}`).pipe(
        Effect.annotateLogs({ turn })
      )
      yield* logged.debug("the error that cut the stream of an answer", error).pipe(Effect.annotateLogs({ turn }))
      return yield* failWith(env, turn, { _tag: "CutOff", text: cut(text, keptLength), verdict, cause: error })
    })
  yield* LanguageModel.streamText(requestOptions(asking, asked)).pipe(
    stall,
    Stream.runForEach((part) => {
      if (part.type === "error") return Effect.fail(part.error)
      gathered.add(part)
      if (gathered.isTooLong) return Effect.fail(new TooLong())
      return attempts.part(turn, attempt, part)
    }),
    Effect.andThen(Effect.suspend(() => gathered.parts.some(isFinish) ? Effect.void : Effect.fail(new Unfinished()))),
    Effect.onExit((exit) => {
      if (tries.areTold()) return Effect.void
      const { hasBegun, length, parts } = gathered
      if (Exit.isFailure(exit) && !hasBegun) return lost(asking, asked, exit.cause)
      return Effect.sync(() => settle(asking, asked, parts, length))
    }),
    Effect.catch(failed)
  )
  cuts.kept = undefined
  return { parts: gathered.parts, beginning }
})

/**
 * What is left of the run's budget for a call, and how long its answer may be. The last answer is allowed beyond it.
 *
 * @internal
 */
export const roomFor = (
  { before, env, known, last, spent }: Pick<Asking, "before" | "env" | "known" | "last" | "spent">,
  prompt: Prompt.Prompt,
  underWay: ReadonlyArray<AgentBudget.Usage> = []
): Room.Room => {
  const { budget, kit, outputAtMost } = env
  if (last) return { _tag: "Room", outputTokens: outputAtMost }
  const usage = underWay.reduce(AgentBudget.addUsage, AgentBudget.addUsage(before.usage, spent.usage))
  const cost = underWay.reduce(
    (sum, one) => sum + AgentBudget.costOf(budget, undefined, one),
    before.cost + spent.cost
  )
  const room = Room.roomIn(budget, { usage, cost }, Room.inputTokens(kit, prompt, known))
  return room._tag === "Gone" ? room : { ...room, outputTokens: Math.min(room.outputTokens, outputAtMost) }
}

/** @internal */
export const withOutputTokens = ({ budget }: Environment, atMost: number) =>
  Effect.provideService(OutputTokens.OutputTokens, { preferred: Room.outputTokens(budget), atMost })

/** Ids of the calls of an answer, each of them another one: a provider takes no two results for one id. */
const idsOf = (parts: ReadonlyArray<Response.AnyPart>) => {
  const given = new Set(parts.flatMap((part) => part.type === "tool-call" ? [part.id] : []))
  const used = new Set<string>()
  return {
    next: (id: string): string => {
      let own = id
      for (let n = 2; used.has(own) || (own !== id && given.has(own)); n++) own = `${id}_${n}`
      used.add(own)
      return own
    }
  }
}

/** One request. What an answer must not be, it fails with, for the guard around to see. */
const request = Effect.fnUntraced(function*(asking: Asking, prompt: Prompt.Prompt) {
  const { env, last, spent, turn } = asking
  // Before each attempt: those before have been paid for.
  const room = roomFor(asking, prompt)
  const gone = room._tag === "Gone" ? room.budget : asking.another(0)
  if (room._tag === "Gone" || gone !== undefined) {
    return yield* failWith(env, turn, { _tag: "BudgetExceeded", budget: gone ?? "iterations" })
  }
  spent.attempts++
  const tries = triesAt(asking, prompt)
  const received: Effect.Effect<Received, AiError.AiError | AgentError, LanguageModel.LanguageModel> =
    env.stream === undefined ? generated(asking, prompt, tries) : streamed(asking, prompt, tries, env.stream)
  const { beginning, parts } = yield* withOutputTokens(env, room.outputTokens)(received).pipe(
    Effect.provideService(AttemptMeter.CurrentMeter, tries.meter),
    Effect.mapError((error) => {
      const refused = tries.refused()
      return refused === undefined ? error : failWith(env, turn, { _tag: "BudgetExceeded", budget: refused })
    })
  )
  const model = modelOf(parts)
  const unusable: { [position: string]: string } = {}
  let position = 0
  const ids = idsOf(parts)
  const usable = parts.map((part) => {
    if (part.type !== "tool-call" || part.providerExecuted) return part
    const why = beyondBounds(part.params, env.limits)
    if (why !== undefined) unusable[position] = why
    position++
    const id = ids.next(part.id)
    return why === undefined && id === part.id ? part : { ...part, id, ...(why === undefined ? {} : { params: {} }) }
  })
  const message = goingOnFrom(beginning, Prompt.fromResponseParts(usable))
  const text = textOf(message)
  const finishReason = parts.find(isFinish)?.reason ?? "unknown"
  switch (finishReason) {
    case "content-filter":
      return yield* failWith(env, turn, { _tag: "Refused", text })
    case "length":
      if (last && text !== "") break
      return yield* failWith(env, turn, { _tag: "Truncated", text })
    case "tool-calls":
      if (parts.some(({ type }) => type === "tool-call") || (last && text !== "")) break
      return yield* failWith(env, turn, { _tag: "IncompleteAnswer", finishReason })
    case "stop":
    case "pause":
      break
    default:
      return yield* failWith(env, turn, { _tag: "IncompleteAnswer", finishReason })
  }
  const says = text.trim() !== ""
  const does = position > 0 || finishReason === "pause" || parts.some((part) => part.type === "file")
  if (!says && (last || !does)) return Option.none()
  const from = ResilientModel.provenance(parts)
  return Option.some({
    message,
    finishReason,
    unusable,
    ...(model === undefined ? {} : { model }),
    ...(Option.isSome(from) && from.value.degraded ? { standIn: from.value.source } : {})
  })
})

const emptyAgain = "Your last answer was empty. Give your answer."

/**
 * Asks for an answer, and once more where it is empty.
 *
 * @internal
 */
export const answerOf = Effect.fnUntraced(function*(asking: Asking, prompt: Prompt.Prompt) {
  const { env, turn } = asking
  const first = yield* request(asking, prompt)
  if (Option.isSome(first)) return first.value
  const second = yield* request(asking, Prompt.concat(prompt, user(emptyAgain)))
  return Option.isSome(second) ? second.value : yield* failWith(env, turn, { _tag: "EmptyAnswer" })
})
