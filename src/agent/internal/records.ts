import * as Prompt from "effect/ai/Prompt"
import * as Response from "effect/ai/Response"
import * as Schema from "effect/Schema"
import { Name, Usage } from "../AgentBudget.ts"

/**
 * How the conversation was made smaller before the call that succeeded. The loop goes on from the smaller one.
 *
 * @internal
 */
export const Compacted = Schema.Struct({
  target: Schema.Finite,
  keepResults: Schema.Finite,
  results: Schema.Finite,
  messages: Schema.Finite,
  summary: Schema.optionalKey(Schema.String)
})

/** @internal */
export type Compacted = typeof Compacted.Type

/**
 * What an agent did, counted over the whole run: see `Agent.Counters`.
 *
 * @internal
 */
export const Counted = Schema.Struct({
  iterations: Schema.Finite,
  toolCalls: Schema.Finite,
  toolErrors: Schema.Finite,
  retries: Schema.Finite,
  repairs: Schema.Finite,
  loops: Schema.Finite,
  compactions: Schema.Finite,
  rollbacks: Schema.Finite,
  reviews: Schema.Finite,
  cuts: Schema.Finite,
  unmetered: Schema.Finite,
  replayedSteps: Schema.Finite
})

/** Streams that were cut, where any were: an answer that was not says nothing of how it was asked for. */
const cuts = Schema.optionalKey(Schema.Finite)

const Spent = {
  usage: Usage,
  cost: Schema.Finite,
  /** Attempts whose usage is an estimate. */
  unmetered: Schema.Finite,
  attempts: Schema.Finite,
  cuts,
  /** Active time of the run when the call had ended. */
  elapsedMillis: Schema.Finite
}

/**
 * What one model call came to, as the journal keeps it: all that the loop decides from, so that a resumed run decides
 * the same.
 *
 * @internal
 */
export const Answer = Schema.TaggedStruct("Answer", {
  /** The answer as it goes back to the model. Not the parts of the response: they hold the headers of the request. */
  message: Prompt.Prompt,
  finishReason: Response.FinishReason,
  model: Schema.optionalKey(Schema.String),
  /** The label of the model that answered in place of the first one. */
  standIn: Schema.optionalKey(Schema.String),
  /** Why the call at this position must not run, for arguments beyond the bounds. */
  unusable: Schema.Record(Schema.String, Schema.String),
  compacted: Schema.optionalKey(Compacted),
  /** The budget that was used up, where this is the last answer for that reason. */
  ending: Schema.optionalKey(Name),
  ...Spent
})

/** @internal */
export type Answer = typeof Answer.Type

/**
 * A model call that the time of the run did not suffice for.
 *
 * @internal
 */
export const OutOfTime = Schema.TaggedStruct("OutOfTime", {
  ...Spent
})

/**
 * A model call that failed because of what the model was told or said, after which the run goes back and on from there.
 *
 * @internal
 */
export const SetBack = Schema.TaggedStruct("SetBack", {
  error: Schema.String,
  message: Schema.String,
  /** What the model is told of it. Records of older releases have none, and the model was told the message. */
  told: Schema.optionalKey(Schema.String),
  ...Spent
})

/**
 * A model call that failed for good, and was paid for. The run fails with its error; where it is run again, the call is
 * made once more.
 *
 * @internal
 */
export const Failed = Schema.TaggedStruct("Failed", { error: Schema.String, message: Schema.String, ...Spent })

/**
 * A model call that was interrupted, and may have been paid for: what its lost answer may have cost is an estimate. Where
 * the run is resumed, the call is made once more.
 *
 * @internal
 */
export const Interrupted = Schema.TaggedStruct("Interrupted", { ...Spent })

/**
 * A model call, or another attempt at one, that a budget had no room for: that of the run, or one that several runs share.
 *
 * @internal
 */
export const NoRoom = Schema.TaggedStruct("NoRoom", {
  budget: Name,
  ...Spent
})

/** @internal */
export const ModelRecord = Schema.Union([Answer, OutOfTime, SetBack, Failed, Interrupted, NoRoom])

/** @internal */
export type ModelRecord = typeof ModelRecord.Type

/**
 * What one tool call came to: what the model is told, and nothing that is not JSON.
 *
 * @internal
 */
export const Outcome = Schema.Struct({
  isFailure: Schema.Boolean,
  result: Schema.Json,
  modelOutput: Schema.optionalKey(Schema.Array(Prompt.ToolModelOutputPart)),
  attempts: Schema.Finite,
  elapsedMillis: Schema.Finite,
  /** Nothing ran: it is what an equal call of the run came to. */
  deduplicated: Schema.optionalKey(Schema.Boolean)
})

/** @internal */
export type Outcome = typeof Outcome.Type

/**
 * Whether a call may run at all, decided once where its tool may ask for approval.
 *
 * @internal
 */
export const Check = Schema.Union([
  Schema.TaggedStruct("Free", {}),
  Schema.TaggedStruct("NeedsApproval", {}),
  Schema.TaggedStruct("Invalid", { message: Schema.String })
])

/** @internal */
export type Check = typeof Check.Type
