import * as Prompt from "effect/ai/Prompt"
import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Struct from "effect/Struct"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as EscalationQueue from "../../durable/EscalationQueue.ts"
import * as Idempotency from "../../durable/Idempotency.ts"
import * as logged from "../../internal/logged.ts"
import { AgentError } from "./agentError.ts"
import { beyondBounds } from "./argumentBounds.ts"
import { boundedJson, cut } from "./boundedJson.ts"
import * as EqualCalls from "./equalCalls.ts"
import { knownArguments } from "./knownArguments.ts"
import { outcomeUnknown, unknownMessage } from "./pairing.ts"
import { Check, Outcome } from "./records.ts"
import { shownArguments } from "./session.ts"
import * as ToolCall from "./toolCall.ts"
import { ToolFailed } from "./toolFailed.ts"

/** @internal */
export interface Uncertain {
  readonly agent: string
  readonly runId: string
  readonly tool: string
  readonly id: string
  readonly idempotencyKey: string
  readonly params: unknown
}

/** @internal */
export type Reconcile<R> = (call: Uncertain) => Effect.Effect<Checkpoint.Reconciliation<unknown>, unknown, R>

/** @internal */
export interface Environment<R> extends ToolCall.Environment<R> {
  readonly reconcile: ReadonlyMap<string, Reconcile<R>>
  readonly approval: "declared" | "atMostOnce"
  /** How long people have to decide about a call. */
  readonly timeToLive: Duration.Duration | undefined
  readonly concurrency: number
  /** Milliseconds of the run's time, and those that a call which must not happen twice has beyond it. */
  readonly wallTime: number
  readonly grace: number
  /** Hears of each call that has come to its end. */
  readonly ended: (done: Done) => Effect.Effect<void>
}

/** @internal */
export interface Call {
  readonly id: string
  readonly name: string
  readonly params: unknown
  readonly plan: ToolCall.Plan | undefined
  readonly unusable: string | undefined
  readonly overBudget: boolean
}

/**
 * What people decided about a call before it ran.
 *
 * @internal
 */
export type Decided = "approved" | "edited" | "rejected" | "supplied"

/** @internal */
export interface Done {
  readonly call: Call
  readonly outcome: Outcome
  readonly replayed: boolean
  readonly decision?: Decided
}

interface Wanted {
  readonly position: number
  readonly plan: ToolCall.Plan
  readonly call: Call
  /** The arguments by which it is recognised. */
  readonly known: unknown
}

interface Runnable extends Wanted {
  /** What people are asked in this answer and no other: a call that they approve anew is another one. */
  readonly approval?: string
  /** What the call shares with those that it must not run beside or after in doubt, if there can be any. */
  readonly equal: { readonly key: string; readonly call: EqualCalls.Equal } | undefined
}

/** @internal */
export interface Turn {
  readonly calls: ReadonlyArray<Call>
  readonly turn: number
}

/**
 * Which calls of a turn the journal knows of, by their positions.
 *
 * @internal
 */
export const recorded = (journal: Checkpoint.Run["Service"]["journal"], scope: string) => {
  const groups = ["tools", "approvals", "checks"].map((group) => `${scope}/${group}[`)
  return (position: number): boolean =>
    journal.recorded().steps.some(({ id }) => groups.some((group) => id.startsWith(`${group}${position}]/`)))
}

const refused = (error: string, message: string): Outcome =>
  ToolCall.failure({ error, message, attempts: 0, elapsedMillis: 0 })

const refusal = <R>(env: Environment<R>, call: Call): Outcome | undefined => {
  if (call.plan === undefined) {
    const known = Object.keys(env.kit.tools).join(", ")
    return refused("UnknownTool", `there is no tool "${cut(call.name, 100)}"; the tools are: ${known}`)
  }
  if (call.unusable !== undefined) return refused("InvalidArguments", call.unusable)
  if (call.overBudget) return refused("BudgetExceeded", "no tool call is left in the budget of this task")
  return undefined
}

const mayAsk = <R>(env: Environment<R>, { effects, tool }: ToolCall.Plan): boolean =>
  (tool.needsApproval !== undefined && tool.needsApproval !== false) ||
  (env.approval === "atMostOnce" && effects === "atMostOnce")

const checked = <R>(env: Environment<R>, turn: Turn, { call, plan, position }: Wanted) =>
  Checkpoint.step(
    "check",
    { success: Check },
    Effect.gen(function*(): Effect.fn.Return<Check, AgentError> {
      const { needsApproval, parametersSchema } = plan.tool
      const params = yield* Effect.result(Schema.decodeUnknownEffect(parametersSchema)(call.params))
      if (Result.isFailure(params)) return { _tag: "Invalid", message: params.failure.message }
      if (typeof needsApproval !== "function" || (env.approval === "atMostOnce" && plan.effects === "atMostOnce")) {
        return { _tag: "NeedsApproval" }
      }
      // The arguments alone: what a tool, a page or the model itself has said must not talk anybody out of asking.
      const needed = yield* Effect.suspend(() => {
        const asked = needsApproval(params.success, { toolCallId: `${turn.turn}/${position}`, messages: [] })
        return Effect.isEffect(asked) ? asked : Effect.succeed(asked)
      }).pipe(
        // What cannot say that nobody has to be asked has not said so.
        Effect.catchCause((cause): Effect.Effect<never, AgentError> =>
          Cause.hasInterrupts(cause)
            ? Effect.failCause(Cause.fromReasons(cause.reasons.filter(Cause.isInterruptReason)))
            : undecided(env, turn, plan.tool.name, Cause.squash(cause))
        )
      )
      return { _tag: needed ? "NeedsApproval" : "Free" }
    })
  )

const excerpt = (params: unknown): string => {
  const json = boundedJson(params, { length: 500, depth: 32 })
  return json._tag === "Json" ? json.text : json._tag === "TooLong" ? `${json.start}... (cut)` : "(arguments)"
}

const shown = ({ params, plan }: Call): unknown =>
  plan === undefined ? params : shownArguments(plan.tool.parametersSchema, params)

/** What people decide on, as a whole: tool and arguments, without what the tool takes as `Redacted`. */
const subject = ({ name, params, plan }: Call): unknown => ({
  tool: name,
  arguments: plan === undefined ? params : shownArguments(plan.tool.parametersSchema, params)
})

// Not the arguments: they could be cut here, and be taken for all there is.
const context = <R>(env: Environment<R>, turn: Turn, call: Call) => ({
  agent: env.agent,
  turn: turn.turn,
  tool: call.name,
  toolCallId: call.id
})

const undecided = <R>(env: Environment<R>, turn: Turn, tool: string, cause: unknown) =>
  Effect.fail(
    new AgentError({
      agent: env.agent,
      runId: env.runId,
      turn: turn.turn,
      reason: { _tag: "Undecided", about: `a call of tool "${tool}"`, cause }
    })
  )

const abandoned = <R>(env: Environment<R>, turn: Turn, tool: string, reason: string) =>
  new AgentError({ agent: env.agent, runId: env.runId, turn: turn.turn, reason: { _tag: "Abandoned", tool, reason } })

/** What the model is told where somebody else than the handler knows the result. */
const encoded = <R>(
  env: Environment<R>,
  tool: ToolCall.ErasedTool,
  value: unknown,
  told: { readonly attempts: number; readonly elapsedMillis: number }
) =>
  Effect.flatMap(
    Schema.encodeUnknownEffect(tool.successSchema)(value),
    (encoded) =>
      ToolCall.succeeded(
        env.limits,
        { encoded, modelOutput: tool.toModelOutput?.(value) },
        told.attempts,
        told.elapsedMillis
      )
  )

// Equal calls share a key only where they are to share an execution.
const keyOf = (runId: string, { dedupe, tool }: ToolCall.Plan, known: unknown, scope: string, approval?: string) =>
  Idempotency.key(tool.name, {
    runId,
    arguments: known,
    ...(dedupe ? {} : { scope }),
    // What people have approved anew is another call than the one before.
    ...(approval === undefined ? {} : { approval })
  })

/** Runs one call as a step. */
const runOne = <R>(env: Environment<R>, turn: Turn, { approval, call, equal, known, plan }: Runnable) =>
  Effect.gen(function*() {
    const { effects, tool } = plan
    const { agent, runId } = env
    const { scope } = yield* Checkpoint.current
    const key = yield* Effect.result(keyOf(runId, plan, known, scope, approval))
    if (Result.isFailure(key)) {
      return { call, outcome: refused("InvalidArguments", key.failure.message), replayed: false }
    }
    const prepared: ToolCall.Call = {
      plan,
      id: call.id,
      params: call.params,
      known,
      approval,
      idempotencyKey: key.success
    }
    let replayed = true

    const happened = Effect.fnUntraced(function*(value: unknown) {
      const elapsedMillis = yield* env.time.now
      const outcome = yield* encoded(env, tool, value, { attempts: 1, elapsedMillis }).pipe(
        Effect.catchTag(
          "SchemaError",
          ({ message }) => Effect.succeed(ToolCall.unreadableResult(message, 1, elapsedMillis))
        )
      )
      yield* ToolCall.remember(env, prepared, outcome)
      return Checkpoint.happened(outcome)
    })

    const ownAnswer = Effect.gen(function*() {
      const reconcile = env.reconcile.get(tool.name)
      if (reconcile === undefined) {
        return Checkpoint.unknown
      }
      const params = yield* Schema.decodeUnknownEffect(tool.parametersSchema)(call.params)
      return yield* reconcile({
        agent,
        runId,
        tool: tool.name,
        id: call.id,
        idempotencyKey: prepared.idempotencyKey,
        params
      })
    }).pipe(
      Effect.catch((error) =>
        Effect.as(
          logged.warning(`reconcile of tool "${tool.name}" failed, people are asked instead`, error),
          Checkpoint.unknown
        )
      )
    )

    let cutOff: Cause.Cause<unknown> | undefined
    const peoplesAnswer = Effect.suspend(() =>
      EscalationQueue.reconcile({
        task: `Did ${call.name}(${excerpt(shown(call))}) of agent "${agent}" take effect? ` +
          (cutOff === undefined
            ? "It had begun when its process stopped or was stopped."
            : `It ended with: ${cut(ToolCall.messageOf(Cause.squash(cutOff)), 500)}`),
        ...(cutOff === undefined ? {} : { error: Cause.squash(cutOff) }),
        success: tool.successSchema,
        shown: subject(call),
        context: context(env, turn, call)
      })
    ).pipe(Effect.catchTag("Abandoned", ({ reason }) => Effect.fail(abandoned(env, turn, tool.name, reason))))

    const reconcile = Effect.gen(function*() {
      replayed = false
      const known = yield* ToolCall.recorded(env, prepared)
      if (Option.isSome(known)) return Checkpoint.happened(known.value)
      const own = yield* ownAnswer
      if (own._tag === "Unknown" && plan.uncertain === "tell") {
        const elapsedMillis = yield* env.time.now
        const outcome = ToolCall.failure({ error: outcomeUnknown, message: unknownMessage, attempts: 1, elapsedMillis })
        yield* ToolCall.remember(env, prepared, outcome)
        return Checkpoint.happened(outcome)
      }
      const answer = own._tag === "Unknown" ? yield* peoplesAnswer : own
      return answer._tag === "Happened" ? yield* happened(answer.value) : answer
    })

    const execute = Effect.flatMap(env.time.now, (now) => {
      replayed = false
      const left = Math.max(0, env.wallTime - now) + (effects === "atMostOnce" ? env.grace : 0)
      return Effect.tapCause(
        ToolCall.execute(env, prepared, Duration.millis(left)),
        (cause) => Effect.sync(() => void (cutOff = Cause.hasInterrupts(cause) ? undefined : cause))
      )
    })
    const called = Checkpoint.step(
      tool.name,
      { success: Outcome, error: ToolFailed, effects, reconcile },
      execute
    ).pipe(
      Effect.catchTags({
        // Known by now not to have happened.
        ToolFailed: (failed) => Effect.succeed(ToolCall.told(failed)),
        // People do not answer that they do not know: they answer, or the run waits.
        AmbiguousStep: (error) => Effect.die(error)
      })
    )
    const outcome = yield* equal === undefined ? called : EqualCalls.run(equal.call, tool.name, called)
    return { call, outcome, replayed }
  })

/**
 * Asks people about exactly this call, and does what they say: an answer that was given for other arguments, or for
 * another tool, is not one for it.
 */
const askThenRun = <R>(env: Environment<R>, turn: Turn, runnable: Runnable) =>
  Effect.gen(function*() {
    const { call, known, plan } = runnable
    const { tool } = plan
    const over = (outcome: Outcome, decision: Decided): Done => ({ call, outcome, replayed: false, decision })
    const key = yield* Effect.result(keyOf(env.runId, plan, known, ""))
    if (Result.isFailure(key)) {
      return { call, outcome: refused("InvalidArguments", key.failure.message), replayed: false }
    }
    const asked = EscalationQueue.ask({
      name: approval,
      about: { tool: tool.name, arguments: known },
      shown: subject({ ...call, params: known }),
      reason: plan.effects === "atMostOnce" ? "IrreversibleAction" : "RequiresHuman",
      task: `May agent "${env.agent}" call ${call.name}(${excerpt(shown(call))})?`,
      context: context(env, turn, call),
      decisions: ["Approve", "Reject", "Supply", "Abandon"],
      accepts: tool.successSchema,
      edits: tool.parametersSchema,
      editLimits: { arguments: env.limits.arguments, depth: env.limits.depth },
      timeToLive: env.timeToLive
    })
    const decision = yield* Effect.catchIf(asked, isTooLong, ({ reason }) =>
      Effect.succeed(reason._tag === "TooLong" ? reason.limit : 0))
    if (typeof decision === "number") {
      const message =
        `a person has to approve this call, and sees at most ${decision} characters of it; make it shorter`
      return { call, outcome: refused("TooLongToApprove", message), replayed: false }
    }
    switch (decision._tag) {
      case "Approve":
      case "Retry": {
        const params = decision._tag === "Approve" ? decision.arguments : undefined
        if (params === undefined) {
          return { ...yield* runOne(env, turn, runnable), decision: "approved" as const }
        }
        const unusable = beyondBounds(params, env.limits)
        if (unusable !== undefined) {
          return over(refused("InvalidArguments", unusable), "edited")
        }
        const approved = { ...runnable, call: { ...call, params }, known: yield* recognisedBy(plan, params) }
        const own = yield* Effect.result(keyOf(env.runId, plan, approved.known, ""))
        if (Result.isFailure(own)) {
          return over(refused("InvalidArguments", own.failure.message), "edited")
        }
        if (own.success === key.success) {
          return { ...yield* runOne(env, turn, runnable), decision: "approved" as const }
        }
        const { outcome, replayed } = yield* runOne(
          env,
          turn,
          runnable.equal?.key === own.success ? approved : yield* withEqual(env, approved, [])
        )
        return { call, outcome: ofEdited(outcome, params), replayed, decision: "edited" as const }
      }
      case "Reject":
        return over(refused("Rejected", `a person did not allow this call: ${decision.reason}`), "rejected")
      case "Supply": {
        const value = yield* Effect.result(
          Effect.flatMap(
            Schema.decodeUnknownEffect(Schema.toCodecJson(tool.successSchema))(decision.value),
            (value) =>
              encoded(env, tool, value, { attempts: 0, elapsedMillis: 0 })
          )
        )
        return over(
          Result.isSuccess(value)
            ? value.success
            : refused("InvalidSupply", `the value that a person supplied is not a result: ${value.failure.message}`),
          "supplied"
        )
      }
      case "Abandon":
        return yield* abandoned(env, turn, call.name, decision.reason)
    }
  })

const isTooLong = (error: unknown): error is EscalationQueue.EscalationError =>
  error instanceof EscalationQueue.EscalationError && error.reason._tag === "TooLong"

const recognisedBy = ({ dedupe, tool }: ToolCall.Plan, params: unknown): Effect.Effect<unknown> =>
  dedupe ? knownArguments(tool, params) : Effect.succeed(params)

const editedNote = "a person changed the arguments of this call before it ran; it ran with these"

/** The result of a call that ran with other arguments than the model gave it, which says so. */
const ofEdited = (outcome: Outcome, params: Schema.Json): Outcome => {
  const { modelOutput, result, ...rest } = outcome
  const edited = { message: editedNote, arguments: params }
  const shown = modelOutput === undefined ? {} : {
    modelOutput: [Prompt.textPart({ text: `${editedNote}: ${excerpt(params)}` }), ...modelOutput]
  }
  // A failure keeps its shape.
  return {
    ...rest,
    ...shown,
    result: outcome.isFailure && isObject(result) ? Struct.assign(result, { edited }) : { edited, result }
  }
}

const isObject = (json: Schema.Json): json is Schema.JsonObject => Predicate.isObject(json)

/** The branches in which calls run: as they are, and after a question. */
const groups = ["tools", "approvals"] as const

/** The step in which people are asked. */
const approval = "approval"

const decodeApproval = Schema.decodeUnknownOption(Schema.Struct({ decision: EscalationQueue.Decision }))

/** The call as people have approved it, where an earlier process has heard of that. */
const asApproved = Effect.fnUntraced(function*(wanted: Wanted) {
  const { journal, scope } = yield* Checkpoint.Run
  const answered = journal.outcome(`${scope}/approvals[${wanted.position}]/${approval}`)
  const found = answered?._tag === "Succeeded" ? decodeApproval(answered.value) : Option.none()
  const decision = Option.isSome(found) ? found.value.decision : undefined
  return decision?._tag === "Approve" && decision.arguments !== undefined
    ? yield* recognisedBy(wanted.plan, decision.arguments)
    : wanted.known
})

/** Finds what a call shares with its equals, and whether an earlier process left it open in one of these groups. */
const withEqual = Effect.fnUntraced(function*<R, W extends Wanted>(
  env: Environment<R>,
  wanted: W,
  inGroups: ReadonlyArray<string>,
  known = wanted.known
) {
  const { plan, position } = wanted
  const key = plan.dedupe && plan.effects === "atMostOnce"
    ? yield* Effect.option(keyOf(env.runId, plan, known, ""))
    : Option.none()
  const equal = Option.isSome(key)
    ? { key: key.value, call: yield* EqualCalls.find(key.value, plan.tool.name, inGroups, String(position)) }
    : undefined
  return { ...wanted, equal }
})

const isOpen = ({ equal }: Runnable): boolean => equal !== undefined && EqualCalls.isOpen(equal.call)

/**
 * What the tools of an agent can fail a run with.
 *
 * @internal
 */
export type ToolsError =
  | AgentError
  | Checkpoint.RunSuspended
  | Checkpoint.StepError
  | EscalationQueue.EscalationError
  | Idempotency.IdempotencyStoreError
  | Idempotency.IdempotencyCorrupt

/**
 * Runs the calls of one answer: first those that need no approval, then those that do. No call is cut off because
 * another one fails: all come to their end, and what they came to is in the journal.
 *
 * @internal
 */
export const run = <R>(env: Environment<R>, turn: Turn): Effect.Effect<
  ReadonlyArray<Done>,
  ToolsError,
  Checkpoint.Run | EscalationQueue.EscalationQueue | Idempotency.Idempotency | R
> =>
  Effect.gen(function*() {
    const { concurrency } = env
    const done = new Map<number, Done>()
    const answer = (position: number, call: Call, outcome: Outcome) =>
      done.set(position, { call, outcome, replayed: false })
    const runnable: Array<Runnable> = []
    for (const [position, call] of turn.calls.entries()) {
      const { plan } = call
      const outcome = refusal(env, call)
      if (outcome !== undefined) answer(position, call, outcome)
      else if (plan !== undefined) {
        const wanted = { position, call, plan, known: yield* recognisedBy(plan, call.params) }
        runnable.push(yield* withEqual(env, wanted, groups, yield* asApproved(wanted)))
      }
    }
    const key = ({ position }: Runnable) => String(position)

    const asking = runnable.filter(({ plan }) => mayAsk(env, plan))
    const checks = yield* Checkpoint.forEach(asking, (one) => checked(env, turn, one), {
      name: "checks",
      key,
      concurrency
    })
    const verdicts = new Map(asking.map((one, index) => [one, checks[index]]))
    for (const [{ call, position }, check] of verdicts) {
      if (check?._tag === "Invalid") answer(position, call, refused("InvalidArguments", check.message))
    }

    const failures: Array<ToolsError> = []
    const runGroup = Effect.fnUntraced(function*<R2>(
      name: typeof groups[number],
      calls: ReadonlyArray<Runnable>,
      run: (one: Runnable) => Effect.Effect<Done, ToolsError, R2>
    ) {
      // Who settles what an earlier process left open goes first: the equal calls wait for that.
      const ordered = calls.toSorted((one, other) => Number(isOpen(other)) - Number(isOpen(one)))
      yield* Checkpoint.forEach(
        ordered,
        (one) =>
          Effect.match(Effect.tap(run(one), env.ended), {
            onSuccess: (ended) => void done.set(one.position, ended),
            onFailure: (error) => void failures.push(error)
          }),
        { name, key, concurrency }
      )
      const broken = failures.find((error) => !(error instanceof Checkpoint.RunSuspended))
      if (broken !== undefined) return yield* Effect.fail(broken)
    })

    const free = runnable.filter((one) => (verdicts.get(one)?._tag ?? "Free") === "Free")
    yield* runGroup("tools", free, (one) => runOne(env, turn, one))
    const guarded = asking.filter((one) => verdicts.get(one)?._tag === "NeedsApproval")
    // From the journal: a run that was cleared and begins anew has another one, and so has a later answer. Equal calls of
    // one answer share it, and run once: who approved the second did not know yet what became of the first.
    const approval = guarded.length === 0 ? undefined : yield* Checkpoint.uuid
    yield* runGroup(
      "approvals",
      guarded,
      (one) => askThenRun(env, turn, approval === undefined ? one : { ...one, approval })
    )
    const [failure] = failures
    if (failure !== undefined) return yield* Effect.fail(failure)
    return turn.calls.flatMap((_, position) => done.get(position) ?? [])
  })

/** The message that tells the model what its calls came to, in the order in which it made them. */
export const results = (done: ReadonlyArray<Done>): Prompt.Prompt =>
  Prompt.fromMessages([
    Prompt.makeMessage("tool", {
      content: done.map(({ call, outcome }) =>
        Prompt.makePart("tool-result", {
          id: call.id,
          name: call.name,
          isFailure: outcome.isFailure,
          result: outcome.result,
          providerExecuted: false,
          ...(outcome.modelOutput === undefined ? {} : { modelOutput: outcome.modelOutput })
        })
      )
    })
  ])
