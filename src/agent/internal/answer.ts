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
import * as Deadline from "../../policy/Deadline.ts"
import * as Fallback from "../../policy/Fallback.ts"
import * as LastGood from "../../policy/LastGood.ts"
import { AgentError, type AgentErrorReason } from "./agentError.ts"
import { firstSource, Production } from "./production.ts"

/** What the answer of an agent is made of here, whatever its types are. */
interface Ended {
  readonly completion: "complete" | "graceful" | "looped"
  readonly value: unknown
  readonly turns: ReadonlyArray<{ readonly standIn?: string }>
}

/** Whether another model answered in place of the first one, at any turn. */
const isByStandIn = ({ turns }: Ended): boolean => turns.some(({ standIn }) => standIn !== undefined)

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
  readonly timeout: Duration.Duration
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

/** A step that died where another one stands in for it. It comes out again where none answers. */
class Died {
  readonly _tag = "Defect"
  readonly [Fault.verdictOf] = Fault.permanent
  readonly cause: Cause.Cause<unknown>
  readonly message: string
  constructor(cause: Cause.Cause<unknown>) {
    const defect = Cause.squash(cause)
    this.cause = cause
    this.message = defect instanceof Error ? defect.message : String(defect)
  }
}

/** What was remembered, from a store that answers in time, and whose bugs are its own. */
const guardedStore = (
  store: LastGood.LastGood["Service"],
  timeout: Duration.Duration
): LastGood.LastGood["Service"] => {
  const guarded =
    (operation: LastGood.LastGoodStoreError["operation"], slot: string) =>
    <A>(self: Effect.Effect<A, LastGood.LastGoodStoreError>): Effect.Effect<A, LastGood.LastGoodStoreError> => {
      const failed = (cause: unknown) => new LastGood.LastGoodStoreError({ operation, slot, cause })
      return self.pipe(
        Effect.catchDefect((defect) => Effect.fail(failed(defect))),
        leaving.timeoutOrElse({
          duration: timeout,
          orElse: () => Effect.fail(failed(new Error("the store did not answer")))
        })
      )
    }
  return {
    remember: (slot, key, entry) => guarded("remember", slot)(store.remember(slot, key, entry)),
    recall: (slot, key) => guarded("recall", slot)(store.recall(slot, key)),
    keys: (slot) => guarded("list", slot)(store.keys(slot)),
    forget: (slot, key) => guarded("forget", slot)(store.forget(slot, key))
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
      orElse: () => Effect.fail(new CheckpointStoreError({ operation: "get", runId, reason: { _tag: "Unavailable" } }))
    })
  )

/** What finds a similar key is no reason to have no answer. */
const similarOf = ({ similar }: LastGoodOptions): LastGoodOptions["similar"] =>
  similar && ((wanted, candidates) => {
    try {
      return similar(wanted, candidates)
    } catch {
      return undefined
    }
  })

/**
 * Asks an agent, and what stands in for it, in order, where it does not answer.
 *
 * @internal
 */
export const answer = <Result extends Ended>(
  options: Options<Result>
): Effect.Effect<Fallback.Answer<Answered<Result>>, unknown, unknown> => {
  const { agent, emergency, lastGood, primary, runId, simplified, template, timeout, version, withoutValue } = options
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
    const noting = Effect.tapError((error: unknown) =>
      Effect.sync(() => void (failure = error instanceof Died ? Cause.squash(error.cause) : error))
    )
    const hasOthers = lastGood !== undefined || simplified !== undefined || template !== undefined ||
      Option.isSome(emergency)
    const living = (label: string) => <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | Died, R> =>
      hasOthers
        ? Effect.catchCause(
          self,
          (cause): Effect.Effect<never, E | Died> =>
            Cause.hasDies(cause) && !Cause.hasInterrupts(cause)
              ? Effect.andThen(
                logged.error(`agent "${agent}", run "${runId}": the step "${label}" of its answer died`, cause),
                Effect.fail(new Died(cause))
              )
              : Effect.failCause(cause)
        )
        : self
    const inTime = (label: string) =>
      leaving.timeoutOrElse({
        duration: timeout,
        orElse: () =>
          Effect.fail(new Deadline.DeadlineExceeded({ name: `${agent}/${label}`, after: timeout, started: true }))
      })

    /** The run, whose whole answers are remembered. */
    const store = yield* LastGood.LastGood
    const remembered = Effect.suspend(() => {
      let last: Result | undefined
      return asked.pipe(
        Effect.provideService(LastGood.LastGood, store),
        Effect.flatMap((result) => {
          last = result
          return result.completion === "complete" && !isByStandIn(result)
            ? Effect.succeed(result.value)
            : Effect.fail(new Stopped(result))
        }),
        LastGood.remember(slot, key),
        Effect.map((value): Answered<Result> => ({ value, result: last, age: undefined })),
        Effect.catch((error) => error instanceof Stopped ? given(error.result) : Effect.fail(error))
      )
    })
    // What another model has answered in place of the first one is the agent's own answer, and no full one.
    const served = (
      answer: Fallback.Answer<Answered<Result> | LastGood.Aged<unknown>>
    ): Fallback.Answer<Answered<Result>> => {
      const { errors, source, value } = answer
      const degraded = answer.degraded ||
        (!LastGood.isAged(value) && value.result !== undefined && isByStandIn(value.result))
      return new Fallback.Answer({
        degraded,
        errors,
        source,
        value: LastGood.isAged(value) ? { value: value.value, result: undefined, age: value.age } : value
      })
    }
    let chain: Effect.Effect<Fallback.Answer<Answered<Result>>, unknown, unknown> = lastGood === undefined
      ? Effect.flatMap(asked, given).pipe(
        living(firstSource),
        noting,
        Fallback.primary(firstSource),
        Effect.map(served)
      )
      : remembered.pipe(
        living(firstSource),
        noting,
        Fallback.primary(firstSource),
        LastGood.orElse(slot, key, { ...lastGood, similar: similarOf(lastGood), takes }),
        Effect.map(served),
        Effect.provideService(LastGood.LastGood, guardedStore(store, timeout))
      )
    if (simplified !== undefined) {
      const answered = Effect.flatMap(simplified, given).pipe(inTime("simplified"), living("simplified"))
      chain = Fallback.orElse(chain, "simplified", () => answered, { takes })
    }
    const alone = (value: unknown): Answered<Result> => ({ value, result: undefined, age: undefined })
    if (template !== undefined) {
      const answered = Effect.map(template, alone).pipe(inTime("template"), living("template"))
      chain = Fallback.orElse(chain, "template", () => answered, { takes })
    }
    if (Option.isSome(emergency)) {
      chain = Fallback.orElse(chain, "emergency", () => Effect.succeed(alone(emergency.value)), { takes })
    }

    return yield* chain.pipe(
      Effect.catchIf((error) => error instanceof Died, ({ cause }) => Effect.failCause(cause)),
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
