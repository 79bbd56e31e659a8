import * as Response from "effect/ai/Response"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import * as AgentBudget from "../AgentBudget.ts"
import * as LoopDetector from "../LoopDetector.ts"
import { Counted } from "./records.ts"

/**
 * Why an agent came to no answer.
 *
 * **Details**
 *
 * - `Refused`: the model declined; `text` is what it said.
 * - `Truncated`: the answer was cut at the model's own limit of tokens.
 * - `EmptyAnswer`: the model said nothing, twice.
 * - `IncompleteAnswer`: the answer ended in another way than a whole answer does.
 * - `CutOff`: the stream of the answer broke off, stood still or ended without its finish part, also when it was asked
 *   for again as often as `stream.maxCuts` allows; `text` is what had come (the first 8,000 characters), `cause` what
 *   went wrong.
 * - `InvalidResult`: the final answer did not decode, and neither did the repaired ones.
 * - `BudgetExhausted`: a budget was used up, and the last call for the best answer so far failed too.
 * - `BudgetExceeded`: a budget was used up, and the agent is to stop then: run it again with a larger one to go on.
 * - `LoopDetected`: the agent went round in circles, and the last call for the best answer so far failed too.
 * - `AnswerAbandoned`: a person ended the run instead of accepting its answer.
 * - `Abandoned`: a person ended the run where it had asked about `tool`.
 *
 * @category schemas
 * @since 0.1.0
 */
export const AgentErrorReason = Schema.TaggedUnion({
  Refused: { text: Schema.String },
  Truncated: { text: Schema.String },
  EmptyAnswer: {},
  IncompleteAnswer: { finishReason: Response.FinishReason },
  CutOff: { text: Schema.String, verdict: Fault.Verdict, cause: Schema.Defect() },
  InvalidResult: { repairs: Schema.Finite, issue: Schema.String, text: Schema.String },
  BudgetExhausted: { budget: AgentBudget.Name, cause: Schema.Defect() },
  BudgetExceeded: { budget: AgentBudget.Name },
  LoopDetected: { loop: LoopDetector.Loop, cause: Schema.Defect() },
  Unsure: {},
  Undecided: { about: Schema.String, cause: Schema.Defect() },
  AnswerAbandoned: { reason: Schema.String },
  Abandoned: { tool: Schema.String, reason: Schema.String }
})

/**
 * Why an agent came to no answer.
 *
 * @category models
 * @since 0.1.0
 */
export type AgentErrorReason = typeof AgentErrorReason.Type

/**
 * How far a run had come when it failed, and what of it is kept.
 *
 * **Details**
 *
 * - `step`: the step of the journal that it failed in, or that the budget had no room for.
 * - `attempts`: how often the call of that step was made; 0 where it was not.
 * - `lastError`: the last thing that went wrong, in a model call, a tool or an answer, whether it was the reason or not.
 * - `counters`, `usage`, `cost`: what was done and spent, over all processes of the run, failed calls included. `cost` is
 *   there where the budget has a price table.
 * - `elapsedMillis`: time in which the run was active.
 * - `kept`: what is in the journal, from which the run goes on where it is run again: what model calls came to
 *   (`turns`), and this and the results of tools together (`steps`).
 *
 * @category schemas
 * @since 0.1.0
 */
export const Reached = Schema.Struct({
  step: Schema.String,
  attempts: Schema.Finite,
  lastError: Schema.optionalKey(Schema.Struct({ tag: Schema.String, message: Schema.String })),
  counters: Counted,
  usage: AgentBudget.Usage,
  cost: Schema.optionalKey(Schema.Finite),
  elapsedMillis: Schema.Finite,
  kept: Schema.Struct({ turns: Schema.Finite, steps: Schema.Finite })
})

/**
 * How far a run had come when it failed, and what of it is kept.
 *
 * @category models
 * @since 0.1.0
 */
export type Reached = typeof Reached.Type

const messageOf = (cause: unknown): string => cause instanceof Error ? cause.message : String(cause)

const say = (reason: AgentErrorReason): string => {
  switch (reason._tag) {
    case "Refused":
      return "the model refused; change the task, or let another model answer"
    case "Truncated":
      return "the answer was cut at the model's limit of output tokens; raise the limit, or ask for less at a time"
    case "EmptyAnswer":
      return "the model gave an empty answer, also when it was asked again"
    case "IncompleteAnswer":
      return `the answer is not a whole one (finish reason "${reason.finishReason}"), nothing in it was acted upon`
    case "CutOff":
      return `the stream of the answer was cut (${messageOf(reason.cause)}), ` +
        "nothing in it was acted upon; run it again to ask once more"
    case "InvalidResult":
      return `the answer does not match the result schema after ${reason.repairs} repairs: ${reason.issue}`
    case "BudgetExhausted":
      return `the budget (${reason.budget}) is used up, and the last call for the best answer so far failed ` +
        `(${messageOf(reason.cause)}); run it again to ask once more`
    case "BudgetExceeded":
      return `the budget (${reason.budget}) is used up; run it again with a larger one to go on from here`
    case "LoopDetected":
      return `stopped in a loop (${
        LoopDetector.describe(reason.loop)
      }), and the last call for the best answer so far ` +
        `failed (${messageOf(reason.cause)}); run it again to ask once more`
    case "Undecided":
      return `whether people have to be asked about ${reason.about} could not be told (${messageOf(reason.cause)}), ` +
        "so nothing became of it; correct what decides that, and run it again"
    case "Unsure":
      return "the answer of the simplified question is one that people review, and nobody has; run it again later"
    case "AnswerAbandoned":
      return `abandoned by a decision about its answer: ${reason.reason}`
    case "Abandoned":
      return `abandoned by a decision about tool "${reason.tool}": ${reason.reason}`
  }
}

const many = (count: number, what: string) => `${count} ${what}${count === 1 ? "" : "s"}`

const times = (attempts: number): string => attempts === 0 ? "" : ` after ${many(attempts, "attempt")}`

// What the reason says already is not said twice.
const leftBehind = ({ kept, lastError }: Reached, said: AgentErrorReason["_tag"]): string =>
  (lastError === undefined || lastError.tag === said ? "" : `; last error: ${lastError.tag}: ${lastError.message}`) +
  `; kept: ${many(kept.steps, "step")} of ${many(kept.turns, "turn")}, to go on from when it is run again`

/**
 * Failure of an agent that came to no answer.
 *
 * **Details**
 *
 * `turn` counts the model calls of the loop from 1. `reached` says in which step the run failed, after how many attempts,
 * with which last error, what it had done and spent, and what is kept; a guard around the model call sees the error before
 * that is known. It survives a journal or a queue, as everything in it does.
 *
 * A refused, truncated, empty or incomplete answer fails the model
 * call itself, inside the guard `policies.model`, so that a policy can retry it or fall back; its verdict is `Refused`
 * or `Malformed`. So does an answer whose stream was cut; its verdict is `TimedOut` for a stream that stood still,
 * `Transient` for one that broke off or ended too early, else what the provider said. The other reasons are `Permanent`.
 *
 * @category errors
 * @since 0.1.0
 */
export class AgentError extends Schema.TaggedError<AgentError>("effect-resilience/agent/Agent/AgentError")(
  "AgentError",
  {
    agent: Schema.String,
    runId: Schema.String,
    turn: Schema.Finite,
    reason: AgentErrorReason,
    reached: Schema.optionalKey(Reached)
  }
) {
  get [Fault.verdictOf](): Fault.Verdict {
    switch (this.reason._tag) {
      case "CutOff":
        return this.reason.verdict
      case "Refused":
        return Fault.refused
      case "Truncated":
      case "EmptyAnswer":
      case "IncompleteAnswer":
        return Fault.malformed
      default:
        return Fault.permanent
    }
  }
  override get message() {
    const { reached } = this
    const where = reached === undefined ? "" : `, step "${reached.step}"${times(reached.attempts)}`
    return `agent "${this.agent}", run "${this.runId}", turn ${this.turn}${where}: ${say(this.reason)}` +
      (reached === undefined ? "" : leftBehind(reached, this.reason._tag))
  }
}
