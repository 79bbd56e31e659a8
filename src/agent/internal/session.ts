import type * as Prompt from "effect/ai/Prompt"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as Fault from "../../Fault.ts"
import { hasRedacted } from "../../internal/hasRedacted.ts"
import * as spans from "../../internal/spans.ts"
import { nameOf } from "../../internal/withheld.ts"
import * as Telemetry from "../../Telemetry.ts"
import type * as AgentBudget from "../AgentBudget.ts"
import { boundedJson, cut } from "./boundedJson.ts"

/** Characters of a prompt, an answer, arguments or a result in an event that has them. */
const contentLength = 2_000

/** @internal */
export const excerpt = (value: unknown): string => {
  if (typeof value === "string") return cut(value, contentLength)
  const json = boundedJson(value, { length: contentLength, depth: 32 })
  return json._tag === "Json" ? json.text : json._tag === "TooLong" ? json.start : "no JSON"
}

/**
 * The arguments of a tool call for people to see: without what the tool's schema takes as `Redacted`.
 *
 * @internal
 */
export const shownArguments = (schema: Schema.Decoder<unknown>, value: unknown): unknown =>
  hasRedacted(schema)
    ? Option.getOrElse(Schema.decodeUnknownOption(schema)(value), () => "<redacted>")
    : value

/** @internal */
export const textsOf = (prompt: Prompt.Prompt): string =>
  prompt.content.flatMap((message) =>
    message.role === "system"
      ? [message.content]
      : message.content.map((part) => part.type === "text" ? part.text : `(${part.type})`)
  ).join("\n")

interface Around {
  readonly sessionId: string
  readonly content: boolean
}

/**
 * Emits an event of the session around.
 *
 * @internal
 */
export const emit = (runId: string, event: (around: Around) => Telemetry.Event): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) =>
    Telemetry.emitIn(context, () =>
      event({
        sessionId: Context.get(context, Telemetry.CurrentSession) ?? runId,
        content: Context.get(context, Telemetry.CaptureContent)
      }))
  )

interface Ended {
  readonly completion: string
  readonly text: string
  readonly usage: AgentBudget.Usage
  readonly counters: { readonly iterations: number; readonly toolCalls: number }
}

/**
 * Puts an agent's work into a span, annotates its logs, and tells how it began and ended.
 *
 * @internal
 */
export const around = <A extends Ended, E, R>(
  { agent, prompt, runId }: { readonly agent: string; readonly runId: string; readonly prompt: () => Prompt.Prompt },
  self: Effect.Effect<A, E, R>
) =>
  Effect.gen(function*() {
    const sessionId = (yield* Telemetry.CurrentSession) ?? runId
    const session = { agent, runId, sessionId }
    const began = yield* Clock.currentTimeMillis

    const announce = (exit: Exit.Exit<A, E>) =>
      Effect.flatMap(Clock.currentTimeMillis, (now) =>
        Effect.contextWith((context: Context.Context<never>) => {
          const told = { ...session, durationMillis: now - began }
          return emit(runId, ({ content }): Telemetry.Event => {
            if (Exit.isSuccess(exit)) {
              const { completion, counters: { iterations, toolCalls }, text, usage } = exit.value
              const { inputTokens, outputTokens } = usage
              const spent = { completion, turns: iterations, toolCalls, inputTokens, outputTokens }
              return { _tag: "SessionCompleted", ...told, ...spent, ...(content ? { answer: excerpt(text) } : {}) }
            }
            const error = Cause.squash(exit.cause)
            if (error instanceof Checkpoint.RunSuspended) {
              return { _tag: "SessionPaused", ...told, reason: "Suspended" }
            }
            if (Cause.hasInterruptsOnly(exit.cause)) return { _tag: "SessionPaused", ...told, reason: "Interrupted" }
            const verdict = Fault.classifyIn(context, error)._tag
            return { _tag: "SessionFailed", ...told, error: nameOf(error), verdict }
          })
        }))

    return yield* emit(runId, ({ content }) => ({
      _tag: "SessionStarted",
      ...session,
      ...(content ? { prompt: excerpt(textsOf(prompt())) } : {})
    })).pipe(
      Effect.andThen(self),
      Effect.onExit(announce),
      Effect.annotateLogs(session),
      Effect.withSpan(`invoke_agent ${agent}`, {
        attributes: {
          "gen_ai.operation.name": "invoke_agent",
          "gen_ai.agent.name": agent,
          "gen_ai.conversation.id": sessionId,
          "run.id": runId
        }
      }),
      Effect.provideService(Telemetry.CurrentSession, sessionId),
      spans.withheld
    )
  })

const shareOf = (spent: number, limit: number): number | undefined =>
  Number.isFinite(limit) && limit > 0 ? spent / limit : undefined

const shares = (of: { readonly [budget: string]: readonly [spent: number, limit: number] }) => {
  const found: Record<string, number> = {}
  for (const [budget, [spent, limit]] of Object.entries(of)) {
    const share = shareOf(spent, limit)
    if (share !== undefined) found[budget] = share
  }
  return found
}

/**
 * Tells how much of the budgets is used.
 *
 * @internal
 */
export const budgetUsed = (
  { agent, runId }: { readonly agent: string; readonly runId: string },
  budget: AgentBudget.AgentBudget,
  spent: AgentBudget.Spent,
  shared: AgentBudget.Shared | undefined
): Effect.Effect<void> => {
  const own = Telemetry.emit(() => ({
    _tag: "BudgetUsed",
    agent,
    runId,
    scope: "run",
    shares: shares({
      iterations: [spent.iterations, budget.iterations],
      toolCalls: [spent.toolCalls, budget.toolCalls],
      inputTokens: [spent.usage.inputTokens, budget.inputTokens],
      outputTokens: [spent.usage.outputTokens, budget.outputTokens],
      wallTime: [spent.elapsedMillis, Duration.toMillis(budget.wallTime)],
      cost: [spent.cost, budget.cost]
    })
  }))
  if (shared === undefined) return own
  return Effect.andThen(
    own,
    Telemetry.emit(() => {
      const { limits } = shared
      const { cost, inputTokens, outputTokens } = shared.spent()
      const all = shares({
        inputTokens: [inputTokens, limits.inputTokens],
        outputTokens: [outputTokens, limits.outputTokens],
        cost: [cost, limits.cost]
      })
      return { _tag: "BudgetUsed", agent, runId, scope: "shared", shares: all }
    })
  )
}
