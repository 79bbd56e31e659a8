import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import type * as Schema from "effect/Schema"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import { CheckpointStoreError } from "../../durable/CheckpointStore.ts"
import * as EscalationQueue from "../../durable/EscalationQueue.ts"
import * as Fault from "../../Fault.ts"
import * as HealthMonitor from "../../health/HealthMonitor.ts"
import * as config from "../../internal/config.ts"
import * as leaving from "../../internal/leaving.ts"
import * as logged from "../../internal/logged.ts"
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
  readonly key: string
}

/** @internal */
export interface Options<Result extends Ended> {
  readonly agent: string
  readonly version: number
  readonly runId: string
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

/** How long the store may take to say whether a run has begun, and how long people's hearing of it may hold an answer up. */
const patience = Duration.seconds(5)

const isSilent = ({ reason }: CheckpointStoreError) => reason._tag === "Unavailable"

/** Whether a run has begun, as far as its store says so in time. */
const hasBegun = (runId: string) =>
  Effect.map(Checkpoint.status(runId), Option.isSome).pipe(
    leaving.timeoutOrElse({
      duration: patience,
      orElse: () =>
        Effect.fail(new CheckpointStoreError({ operation: "get", runId, reason: { _tag: "Unavailable" } }))
    })
  )

/**
 * Asks an agent, and what stands in for it, in order, where it does not answer.
 *
 * @internal
 */
export const answer = <Result extends Ended>(
  options: Options<Result>
): Effect.Effect<Fallback.Answer<Answered<Result>>, unknown, unknown> => {
  const { agent, lastGood, primary, runId, version, withoutValue } = options
  // An answer of another version may be another one.
  const slot = LastGood.slot(`${agent.replaceAll("/", "%2F")}@${version}`, options.result)
  const key = lastGood === undefined ? "" : config.nonEmpty("Agent.answer", "lastGood.key", lastGood.key)
  return Effect.gen(function*() {
    const production = yield* Production
    let failure: unknown

    const given = (result: Result): Effect.Effect<Answered<Result>, AgentError> =>
      result.value === undefined
        ? Effect.fail(withoutValue(result))
        : Effect.succeed({ value: result.value, result, age: undefined })

    const gated = (run: typeof primary) => HealthMonitor.gate(run, production.name)
    const run = HealthMonitor.track(primary, production.name)
    const asked = Effect.matchEffect(hasBegun(runId), {
      // A run that has begun is gone on with: others may wait for it, and what it needs may be there again.
      onSuccess: (begun) => begun ? run : gated(run),
      // A store that does not say so would keep the run waiting as well, for longer, and somebody waits for an answer.
      onFailure: (error) => gated(isSilent(error) ? HealthMonitor.track(Effect.fail(error), production.name) : run)
    })
    const noting = Effect.tapError((error: unknown) => Effect.sync(() => void (failure = error)))

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
  // The queue has bounds of its own for its store. Whoever asked waits for less than that, and people hear of it all the same.
  const telling = told("").pipe(
    Effect.catchCause((cause) => logged.warning(`nobody could be told that run "${runId}" came to no answer`, cause))
  )
  const fiber = yield* Effect.forkDetach(telling, { startImmediately: true })
  yield* Effect.timeoutOption(Fiber.await(fiber), patience)
})
