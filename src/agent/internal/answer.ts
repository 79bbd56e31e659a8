import * as Prompt from "effect/ai/Prompt"
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as EscalationQueue from "../../durable/EscalationQueue.ts"
import * as Idempotency from "../../durable/Idempotency.ts"
import * as Fault from "../../Fault.ts"
import * as HealthMonitor from "../../health/HealthMonitor.ts"
import * as Fallback from "../../policy/Fallback.ts"
import * as LastGood from "../../policy/LastGood.ts"
import { AgentError, type AgentErrorReason } from "./agentError.ts"
import { firstSource, Production } from "./production.ts"

/** What the answer of an agent is made of here, whatever its types are. */
interface Ended {
  readonly completion: "complete" | "graceful" | "looped"
  readonly value: unknown
}

/** @internal */
export interface Answered<out Result> {
  readonly value: unknown
  readonly result: Result | undefined
  readonly age: Duration.Duration | undefined
}

/** @internal */
export interface LastGoodOptions extends LastGood.RecallOptions {
  readonly key?: string | undefined
}

/** @internal */
export interface Options<Result extends Ended> {
  readonly agent: string
  readonly version: number
  readonly runId: string
  readonly prompt: Prompt.Prompt
  readonly primary: Effect.Effect<Result, unknown, unknown>
  readonly result: Schema.Codec<unknown, unknown, unknown, unknown>
  readonly withoutValue: (result: Result) => AgentError
  readonly lastGood: LastGoodOptions | undefined
  readonly simplified: Effect.Effect<Result, unknown, unknown> | undefined
  readonly template: Effect.Effect<unknown, unknown, unknown> | undefined
  readonly emergency: Option.Option<unknown>
  readonly escalate: boolean
}

/** Nobody but the caller can do something about these, or somebody does already: no other answer stands in for them. */
const kept: ReadonlySet<unknown> = new Set([
  "RunSuspended",
  "RunLeased",
  "RunCancelled",
  "RunConflict",
  "InputNotJson"
])

const isDecided = ({ _tag }: AgentErrorReason): boolean => _tag === "Abandoned" || _tag === "AnswerAbandoned"

const isKept = (error: unknown): boolean =>
  error instanceof AgentError ? isDecided(error.reason) : Predicate.hasProperty(error, "_tag") && kept.has(error._tag)

const takes = (error: unknown): boolean => !isKept(error)

const reasonFor = (error: unknown): EscalationQueue.Reason => {
  if (!(error instanceof AgentError)) return "MaxRetriesExceeded"
  switch (error.reason._tag) {
    case "BudgetExhausted":
    case "BudgetExceeded":
      return "BudgetExceeded"
    case "LoopDetected":
      return "LoopDetected"
    case "InvalidResult":
      return "InvalidOutput"
    default:
      return "MaxRetriesExceeded"
  }
}

/** The result of a run that was stopped, which is an answer, and not one to be served again. */
class Stopped<out Result> {
  readonly result: Result
  constructor(result: Result) {
    this.result = result
  }
}

const encodePrompt = Schema.encodeEffect(Schema.toCodecJson(Prompt.Prompt))

/** What the answers to a prompt are remembered under. */
const keyOf = Effect.fnUntraced(
  function*({ agent, lastGood, prompt, version }: Pick<Options<Ended>, "agent" | "lastGood" | "prompt" | "version">) {
    if (lastGood?.key !== undefined) return lastGood.key
    // A prompt was made by its own schema, so it encodes, and what its schema encodes is JSON.
    return yield* Effect.orDie(
      Effect.flatMap(encodePrompt(prompt), (encoded) => Idempotency.key(`${agent}/${version}`, encoded))
    )
  }
)

/**
 * Asks an agent, and what stands in for it, in order, where it does not answer.
 *
 * @internal
 */
export const answer = <Result extends Ended>(
  options: Options<Result>
): Effect.Effect<Fallback.Answer<Answered<Result>>, unknown, unknown> => {
  const { agent, lastGood, primary, runId, withoutValue } = options
  const slot = LastGood.slot(agent.replaceAll("/", "%2F"), options.result)
  return Effect.gen(function*() {
    const production = yield* Production
    let failure: unknown

    const given = (result: Result): Effect.Effect<Answered<Result>, AgentError> =>
      result.value === undefined
        ? Effect.fail(withoutValue(result))
        : Effect.succeed({ value: result.value, result, age: undefined })

    // A run that has begun is gone on with: others may wait for it, and what it needs may be there again.
    const hasBegun = Effect.orElseSucceed(Effect.map(Checkpoint.status(runId), Option.isSome), () => false)
    const run = HealthMonitor.track(primary, production.name)
    const asked = Effect.flatMap(hasBegun, (begun) => begun ? run : HealthMonitor.gate(run, production.name))
    const noting = Effect.tapError((error: unknown) => Effect.sync(() => void (failure = error)))

    const key = yield* keyOf(options)
    /** The run, whose whole answers are remembered. */
    const remembered = Effect.suspend(() => {
      let last: Result | undefined
      return asked.pipe(
        Effect.flatMap((result) => {
          last = result
          return result.completion === "complete" ? Effect.succeed(result.value) : Effect.fail(new Stopped(result))
        }),
        LastGood.remember(slot, key),
        Effect.map((value): Answered<Result> => ({ value, result: last, age: undefined })),
        Effect.catch((error) => error instanceof Stopped ? given(error.result) : Effect.fail(error))
      )
    })
    const served = (
      answer: Fallback.Answer<Answered<Result> | LastGood.Aged<unknown>>
    ): Fallback.Answer<Answered<Result>> => {
      const { value } = answer
      const { degraded, errors, source } = answer
      return new Fallback.Answer({
        degraded,
        errors,
        source,
        value: LastGood.isAged(value) ? { value: value.value, result: undefined, age: value.age } : value
      })
    }
    let chain: Effect.Effect<Fallback.Answer<Answered<Result>>, unknown, unknown> = lastGood === undefined
      ? Effect.flatMap(asked, given).pipe(noting, Fallback.primary(firstSource))
      : remembered.pipe(
        noting,
        Fallback.primary(firstSource),
        LastGood.orElse(slot, key, { ...lastGood, takes }),
        Effect.map(served)
      )
    const { emergency, simplified, template } = options
    if (simplified !== undefined) {
      chain = Fallback.orElse(chain, "simplified", () => Effect.flatMap(simplified, given), { takes })
    }
    const alone = (value: unknown): Answered<Result> => ({ value, result: undefined, age: undefined })
    if (template !== undefined) {
      chain = Fallback.orElse(chain, "template", () => Effect.map(template, alone), { takes })
    }
    if (Option.isSome(emergency)) {
      chain = Fallback.orElse(chain, "emergency", () => Effect.succeed(alone(emergency.value)), { takes })
    }

    return yield* chain.pipe(
      Effect.onExit((exit) => {
        if (Exit.isFailure(exit) && Cause.hasInterruptsOnly(exit.cause)) return Effect.void
        const source = Exit.isSuccess(exit) ? exit.value.source : undefined
        return Effect.andThen(counted(production, exit), tellPeople(options, failure, source))
      })
    )
  })
}

const counted = (production: Production["Service"], exit: Exit.Exit<Fallback.Answer<unknown>, unknown>) => {
  if (Exit.isSuccess(exit)) return production.count(exit.value)
  const error = Exit.findErrorOption(exit)
  return production.count(
    Option.isSome(error) && error.value instanceof Checkpoint.RunSuspended ? "suspended" : "failed"
  )
}

/** Has people look at a run that came to nothing, and that no other answer of a model stands in for. */
const tellPeople = Effect.fnUntraced(function*(
  { agent, escalate, runId }: Pick<Options<Ended>, "agent" | "escalate" | "runId">,
  failure: unknown,
  source: string | undefined
) {
  const isAnswered = source !== undefined && source !== "template" && source !== "emergency"
  if (!escalate || failure === undefined || isAnswered || isKept(failure)) return
  // What our own guards refuse is no business of people: it was not begun.
  if ((yield* Fault.classify(failure))._tag === "Rejected") return
  const told = (after: string): Effect.Effect<void, EscalationQueue.EscalationError, EscalationQueue.EscalationQueue> =>
    EscalationQueue.submit({
      reason: reasonFor(failure),
      task: `Agent "${agent}" came to no answer in run "${runId}". Find out why, and run it again.`,
      runId,
      error: failure,
      context: { agent, answeredBy: source ?? "nobody" },
      decisions: ["Retry", "Abandon"],
      dedupeKey: `answer/${runId}${after}`
    }).pipe(
      // What was decided of an earlier failure is not about this one.
      Effect.flatMap(({ id, status }) => status === "open" || status === "claimed" ? Effect.void : told(`/${id}`))
    )
  yield* told("").pipe(
    Effect.catch((error) => Effect.logWarning(`nobody could be told that run "${runId}" came to no answer`, error))
  )
})
