import * as AiError from "effect/ai/AiError"
import type * as Tool from "effect/ai/Tool"
import * as Toolkit from "effect/ai/Toolkit"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import type * as Schedule from "effect/Schedule"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as Idempotency from "../../durable/Idempotency.ts"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import * as logged from "../../internal/logged.ts"
import * as Retry from "../../policy/Retry.ts"
import {
  CurrentToolCall,
  effectsOf,
  idempotencyScope,
  type Limits,
  type ToolAnswer,
  type ToolGuard,
  type ToolOptions
} from "../AgentTools.ts"
import type { ActiveTime } from "./activeTime.ts"
import { oneOf } from "./agentOptions.ts"
import { boundedJson, cut } from "./boundedJson.ts"
import { boundedOutput } from "./boundedOutput.ts"
import { Outcome } from "./records.ts"
import * as session from "./session.ts"
import { ToolFailed } from "./toolFailed.ts"

/**
 * A tool whose types are forgotten. Its services are in the type of the agent, from which they reach the caller.
 *
 * @internal
 */
export type ErasedTool = Tool.Tool<string, {
  readonly parameters: Schema.Codec<unknown>
  readonly success: Schema.Codec<unknown>
  readonly failure: Schema.Codec<unknown>
  readonly failureMode: Tool.FailureMode
}>

/** @internal */
export type ErasedToolkit = Toolkit.WithHandler<Record<string, ErasedTool>>

/** @internal */
export interface Plan {
  readonly tool: ErasedTool
  readonly effects: "idempotent" | "atMostOnce"
  readonly dedupe: boolean
  readonly uncertain: "ask" | "tell"
  readonly retry: Retry.Policy
}

/** @internal */
export type ResolvedLimits = { readonly [K in keyof Limits]-?: number }

/** @internal */
export const limits = (options: Limits = {}): ResolvedLimits => ({
  arguments: config.integer("Agent", "limits.arguments", options.arguments ?? 100_000, 1),
  results: config.integer("Agent", "limits.results", options.results ?? 100_000, 1),
  depth: config.integer("Agent", "limits.depth", options.depth ?? 64, 1)
})

const provesNothingHappened = (verdict: Fault.Verdict): boolean =>
  verdict._tag === "Throttled" || verdict._tag === "Overloaded" || verdict._tag === "Rejected"

/** @internal */
export const plan = (
  tool: ErasedTool,
  backoff: Schedule.Schedule<unknown, unknown> | undefined,
  options: Pick<ToolOptions<Tool.Any>, "effects" | "attempts" | "dedupe" | "uncertain"> = {}
): Plan => {
  const effects = oneOf(`tools.${tool.name}.effects`, options.effects ?? effectsOf(tool), ["idempotent", "atMostOnce"])
  return {
    tool,
    effects,
    dedupe: options.dedupe ?? effects === "atMostOnce",
    uncertain: oneOf(`tools.${tool.name}.uncertain`, options.uncertain ?? "ask", ["ask", "tell"]),
    retry: Retry.policy({
      name: tool.name,
      backoff,
      maxAttempts: config.integer("Agent", `tools.${tool.name}.attempts`, options.attempts ?? 3, 1),
      retryIf: (_, verdict) =>
        provesNothingHappened(verdict) || (effects === "idempotent" && Fault.isRetryable(verdict))
    })
  }
}

const messageLength = 2_000

/** @internal */
export const messageOf = (error: unknown): string => {
  const message = Predicate.hasProperty(error, "message") && typeof error.message === "string" ? error.message : error
  if (typeof message === "string") return cut(message, messageLength)
  const json = boundedJson(message, { length: messageLength, depth: 8 })
  return json._tag === "Json" ? json.text : json._tag === "TooLong" ? json.start : "a failure without a message"
}

/** @internal */
export const nameOf = (error: unknown): string => {
  if (AiError.isAiError(error)) return error.reason._tag
  if (Predicate.hasProperty(error, "_tag") && typeof error._tag === "string") return error._tag
  return error instanceof Error ? error.name : "ToolFailure"
}

const fromJson = Schema.decodeEffect(Schema.fromJsonString(Schema.Json))

/** JSON that is the same now and when it is read back from the journal. */
const asJson = (value: unknown, bounds: { readonly length: number; readonly depth: number }) => {
  const json = boundedJson(value, bounds)
  return json._tag === "Json" ? Effect.option(fromJson(json.text)) : Effect.succeed(Option.none<Schema.Json>())
}

/** @internal */
export interface Failure {
  readonly error: string
  readonly message: string
  readonly attempts: number
  readonly details?: Schema.Json
}

/**
 * The result by which the model learns of a failure.
 *
 * @internal
 */
export const failure = (
  options: Failure & { readonly elapsedMillis: number }
): Outcome => {
  const { elapsedMillis, ...told } = options
  return { isFailure: true, result: { ...told }, attempts: options.attempts, elapsedMillis }
}

/** @internal */
export const told = ({ attempts, details, elapsedMillis, error, reason }: ToolFailed): Outcome =>
  failure({ error, message: reason, attempts, ...(details === undefined ? {} : { details }), elapsedMillis })

// An error that no rule knows says nothing, and so not that nothing was done.
const isUnknown = (verdict: Fault.Verdict): boolean => verdict._tag === "Permanent" && verdict.unknown === true

/** @internal */
export interface Environment<RT> {
  readonly agent: string
  readonly runId: string
  readonly kit: ErasedToolkit
  readonly guard: ToolGuard<RT>
  /** The guards of single tools, inside of that for all. */
  readonly guards: ReadonlyMap<string, ToolGuard<RT>>
  readonly limits: ResolvedLimits
  readonly time: ActiveTime
  /** Hears of each handler that is about to run. */
  readonly started: (
    call: { readonly id: string; readonly name: string; readonly attempt: number }
  ) => Effect.Effect<void>
}

/** @internal */
export interface Call {
  readonly plan: Plan
  readonly id: string
  readonly params: unknown
  /** The arguments by which the call is recognised. */
  readonly known: unknown
  /** In which answer people were asked about it, if they were. */
  readonly approval: string | undefined
  readonly idempotencyKey: string
}

const unreadable = "UnreadableResult"
const executed = "the tool has run, but its result cannot be read; do not call it again for the same thing"

const toolFailed = Effect.fnUntraced(function*(
  call: Call,
  limits: ResolvedLimits,
  error: unknown,
  origin: Tool.FailureOrigin,
  encoded: unknown
) {
  const tool = call.plan.tool.name
  switch (origin) {
    case "parameters":
      return new ToolFailed({ tool, error: "InvalidArguments", reason: messageOf(error), verdict: Fault.permanent })
    case "result":
      return new ToolFailed({
        tool,
        error: unreadable,
        reason: `${executed}: ${messageOf(error)}`,
        verdict: Fault.permanent
      })
    case "handler": {
      const details = encoded === undefined
        ? Option.none<Schema.Json>()
        : yield* asJson(encoded, { length: limits.results, depth: limits.depth })
      return new ToolFailed({
        tool,
        error: nameOf(error),
        reason: messageOf(error),
        ...(Option.isSome(details) ? { details: details.value } : {}),
        verdict: yield* Fault.classify(error)
      })
    }
  }
})

/** Runs the handler once. A handler's `RunSuspended` (of a run inside) is not a failure and goes through as it is. */
const handle = <RT>(
  env: Environment<RT>,
  call: Call,
  attempt: number
): Effect.Effect<ToolAnswer, ToolFailed | Checkpoint.RunSuspended> => {
  const fail = (
    error: unknown,
    origin: Tool.FailureOrigin,
    encoded: unknown
  ): Effect.Effect<never, ToolFailed | Checkpoint.RunSuspended> =>
    error instanceof Checkpoint.RunSuspended
      ? Effect.fail(error)
      : Effect.flatMap(toolFailed(call, env.limits, error, origin, encoded), (failed) => Effect.fail(failed))

  const { id, params, plan: { tool: { name } } } = call
  return Effect.andThen(env.started({ id, name, attempt }), env.kit.handle(name, params, id)).pipe(
    Effect.flatMap((results) => Stream.runLast(Stream.filter(results, (result) => !result.preliminary))),
    // Progress reports go nowhere, so a handler that makes many must not fill the memory with them.
    Effect.provideService(Toolkit.PreliminaryBuffer, 16),
    Effect.matchCauseEffect({
      onSuccess: (last) => {
        if (Option.isNone(last)) return fail("the tool ended without a result", "result", undefined)
        const { encodedResult, failureOrigin, isFailure, modelOutput, result } = last.value
        return isFailure
          ? fail(result, failureOrigin ?? "result", encodedResult)
          : Effect.succeed({ encoded: encodedResult, modelOutput })
      },
      onFailure: (cause) => {
        if (Cause.hasDies(cause)) return Effect.die(Cause.squash(cause))
        const failed = Cause.findError(cause)
        if (Result.isFailure(failed)) {
          // Where the agent is interrupted nobody comes here: the tool did this to itself.
          const reason = "the tool was interrupted from within"
          const verdict = call.plan.effects === "idempotent" ? Fault.transient : Fault.ambiguous
          return Effect.fail(new ToolFailed({ tool: call.plan.tool.name, error: "ToolInterrupted", reason, verdict }))
        }
        const origin = Context.get(Cause.annotations(cause), Toolkit.FailureOrigin)
        return Effect.flatMap(
          Effect.option(Schema.encodeUnknownEffect(call.plan.tool.failureSchema)(failed.success)),
          (encoded) => fail(failed.success, origin, Option.getOrUndefined(encoded))
        )
      }
    })
  )
}

/** Guards one attempt. What the guard itself fails with becomes a failure of the tool. */
const attempt = <RT>(
  env: Environment<RT>,
  call: Call,
  number: number
): Effect.Effect<ToolAnswer, ToolFailed | Checkpoint.RunSuspended, RT> => {
  const tool = call.plan.tool.name
  const told = <A, R>(self: Effect.Effect<A, unknown, R>) =>
    self.pipe(Effect.catch((error) =>
      error instanceof ToolFailed || error instanceof Checkpoint.RunSuspended
        ? Effect.fail(error)
        : Effect.flatMap(toolFailed(call, env.limits, error, "handler", undefined), (failed) => Effect.fail(failed))
    ))
  const own = env.guards.get(tool)
  const handled = handle(env, call, number)
  // What the tool's own guard needs is in the type of the agent, and reaches it through the guard for all.
  const inner = (own === undefined ? handled : told(own(handled, { name: tool }))) as typeof handled
  const guarded = told(env.guard(inner, { name: tool })).pipe(
    Effect.provideService(CurrentToolCall, {
      agent: env.agent,
      runId: env.runId,
      tool,
      id: call.id,
      attempt: number,
      idempotencyKey: call.idempotencyKey
    })
  )
  const watched = Effect.tapDefect(guarded, (defect) => logged.error(`tool ${tool} died`, defect))
  if (call.plan.effects === "atMostOnce") return watched
  // A bug in a tool that changes nothing ends this call and not the run. Where the tool may have changed something, the
  // defect is left to the step, which knows that it cannot know.
  return Effect.catchDefect(
    watched,
    (defect) =>
      Effect.fail(new ToolFailed({ tool, error: "ToolDefect", reason: messageOf(defect), verdict: Fault.permanent }))
  )
}

/** @internal */
export const unreadableResult = (why: string, attempts: number, elapsedMillis: number): Outcome =>
  failure({ error: unreadable, message: `${executed}: ${why}`, attempts, elapsedMillis })

/**
 * What the model is told of a result, within the bounds.
 *
 * @internal
 */
export const succeeded = Effect.fnUntraced(function*(
  limits: ResolvedLimits,
  done: ToolAnswer,
  attempts: number,
  elapsedMillis: number
): Effect.fn.Return<Outcome> {
  const bounds = { length: limits.results, depth: limits.depth }
  const told = (result: Schema.Json): Outcome => {
    const modelOutput = done.modelOutput && boundedOutput(done.modelOutput, bounds)
    return { isFailure: false, result, attempts, elapsedMillis, ...(modelOutput === undefined ? {} : { modelOutput }) }
  }
  const json = boundedJson(done.encoded, bounds)
  if (json._tag === "TooLong") {
    const message = `the result is longer than ${limits.results} characters, this is its beginning`
    return told({ truncated: true, message, start: json.start })
  }
  const result = json._tag === "Json" ? yield* Effect.option(fromJson(json.text)) : Option.none()
  if (Option.isNone(result)) {
    const why = json._tag === "NotJson" ? `it is ${json.found}` : `it is nested more than ${limits.depth} levels deep`
    return unreadableResult(why, attempts, elapsedMillis)
  }
  return told(result.value)
})

/** What came of a call; without a result it is not known. */
const announce = <RT>(
  env: Environment<RT>,
  call: Call,
  attempts: number,
  began: number,
  outcome: Outcome | undefined
) =>
  Effect.flatMap(Clock.currentTimeMillis, (now) =>
    session.emit(env.runId, ({ content, sessionId }) => {
      const { id, known, plan: { tool } } = call
      const result = outcome === undefined ? "" : JSON.stringify(outcome.result)
      return {
        _tag: "ToolCalled",
        agent: env.agent,
        runId: env.runId,
        sessionId,
        tool: tool.name,
        callId: id,
        attempts,
        outcome: outcome === undefined || outcome.isFailure ? "failure" : "success",
        resultLength: result.length,
        durationMillis: now - began,
        ...(content
          ? {
            arguments: session.excerpt(session.shownArguments(tool.parametersSchema, known)),
            result: session.excerpt(result)
          }
          : {})
      }
    }))

class NotRecorded extends Schema.TaggedError<NotRecorded>("effect-resilience/agent/internal/NotRecorded")(
  "NotRecorded",
  {}
) {}

const onceOptions = <RT>(env: Environment<RT>, call: Call) => ({
  scope: idempotencyScope(env.runId),
  tool: call.plan.tool.name,
  args: call.approval === undefined ? call.known : { approval: call.approval, arguments: call.known },
  success: Outcome
})

const argumentsNotJson = (tool: string) => (error: Idempotency.NotJson) =>
  Effect.fail(new ToolFailed({ tool, error: "InvalidArguments", reason: error.message, verdict: Fault.permanent }))

/**
 * The result of an equal call of this run, if the idempotency store has one.
 *
 * @internal
 */
export const recorded = <RT>(env: Environment<RT>, call: Call) =>
  call.plan.dedupe
    ? Idempotency.once(onceOptions(env, call), Effect.fail(new NotRecorded())).pipe(
      Effect.map(Option.some),
      Effect.catchTag(["NotRecorded", "NotJson"], () => Effect.succeed(Option.none<Outcome>()))
    )
    : Effect.succeed(Option.none<Outcome>())

/**
 * Records what a call is found to have come to, so that an equal call does not repeat it.
 *
 * @internal
 */
export const remember = <RT>(env: Environment<RT>, call: Call, outcome: Outcome) =>
  call.plan.dedupe
    ? Effect.asVoid(Idempotency.once(onceOptions(env, call), Effect.succeed(outcome))).pipe(
      Effect.catchTag("NotJson", () => Effect.void)
    )
    : Effect.void

/**
 * Runs a call with its attempts, within the time that is left. Fails only where the journal must not hold a result: the
 * call may have taken effect, or a run inside is suspended, or the idempotency store failed.
 *
 * @internal
 */
export const execute = <RT>(
  env: Environment<RT>,
  call: Call,
  within: Duration.Duration
): Effect.Effect<
  Outcome,
  ToolFailed | Checkpoint.RunSuspended | Exclude<Idempotency.OnceError, Idempotency.NotJson>,
  Idempotency.Idempotency | RT
> =>
  Effect.gen(function*() {
    const tool = call.plan.tool.name
    const began = yield* Clock.currentTimeMillis
    let attempts = 0
    let came: Outcome | undefined
    const attempted = Effect.suspend(() => attempt(env, call, ++attempts)).pipe(
      Retry.apply(call.plan.retry),
      Effect.timeoutOrElse({
        duration: within,
        orElse: () =>
          Effect.fail(
            new ToolFailed({
              tool,
              error: "OutOfTime",
              reason: "the time of the run did not suffice for this call",
              verdict: Fault.timedOut
            })
          )
      }),
      Effect.flatMap((done) => Effect.flatMap(env.time.now, (now) => succeeded(env.limits, done, attempts, now))),
      // It ran: that is a result, to be remembered like every other one.
      Effect.catchTag("ToolFailed", (failed) =>
        failed.error === unreadable
          ? Effect.map(env.time.now, (now) => told(failed.after(attempts, now)))
          : Effect.fail(failed)),
      Effect.tap((outcome) =>
        Effect.sync(() => {
          came = outcome
        })
      )
    )
    const once = call.plan.dedupe
      ? Idempotency.once(onceOptions(env, call), attempted).pipe(Effect.catchTag("NotJson", argumentsNotJson(tool)))
      : attempted

    // It ran and is over, though the step may not come to know what it came to.
    const unrecorded = Effect.suspend(() => attempts === 0 ? Effect.void : announce(env, call, attempts, began, came))
    const outcome = yield* once.pipe(
      Effect.tapErrorTag(["IdempotencyStoreError", "IdempotencyCorrupt"], () => unrecorded),
      Effect.tapDefect(() => unrecorded),
      Effect.catchTag(
        "ToolFailed",
        Effect.fnUntraced(function*(failed) {
          const verdict = isUnknown(failed.verdict) ? Fault.ambiguous : failed.verdict
          const final = failed.after(attempts, yield* env.time.now, verdict)
          if (call.plan.effects === "idempotent" || !Fault.mayHaveHappened(verdict)) return told(final)
          yield* announce(env, call, attempts, began, undefined)
          return yield* final
        })
      )
    )
    yield* announce(env, call, attempts, began, outcome)
    // An earlier call's record has the time of that call.
    const now = { ...outcome, elapsedMillis: yield* env.time.now }
    return attempts === 0 && call.plan.dedupe && outcome.attempts > 0 ? { ...now, deduplicated: true } : now
  }).pipe(
    Effect.withSpan(`execute_tool ${call.plan.tool.name}`, {
      attributes: {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": call.plan.tool.name,
        "gen_ai.tool.call.id": call.id
      }
    })
  )
