import * as AiError from "effect/ai/AiError"
import * as Prompt from "effect/ai/Prompt"
import type * as Response from "effect/ai/Response"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Result from "effect/Result"
import * as Schema from "effect/Schema"
import * as Checkpoint from "../../durable/Checkpoint.ts"
import * as EscalationQueue from "../../durable/EscalationQueue.ts"
import * as ResilientModel from "../../model/ResilientModel.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as AgentBudget from "../AgentBudget.ts"
import type { ToolGuard } from "../AgentTools.ts"
import type * as Compaction from "../Compaction.ts"
import * as LoopDetector from "../LoopDetector.ts"
import * as ActiveTime from "./activeTime.ts"
import { AgentError, type AgentErrorReason, type Reached } from "./agentError.ts"
import { clientCalls, textOf } from "./answerParts.ts"
import { cut } from "./boundedJson.ts"
import * as Ending from "./ending.ts"
import { user } from "./modelAnswer.ts"
import * as ModelTurn from "./modelTurn.ts"
import { observed } from "./observed.ts"
import { paired } from "./pairing.ts"
import * as Progress from "./progress.ts"
import { note } from "./reached.ts"
import type { Answer, ModelRecord } from "./records.ts"
import * as Room from "./room.ts"
import * as session from "./session.ts"
import { type LastError, nothingSpent } from "./spending.ts"
import type { Streaming } from "./streaming.ts"
import * as Told from "./told.ts"
import * as ToolCall from "./toolCall.ts"
import * as ToolTurn from "./toolTurn.ts"
import { type Base, nothingDone, type Turn } from "./turns.ts"

/** @internal */
export interface Definition<Value, E, R> {
  readonly name: string
  readonly instructions: string
  readonly kit: Effect.Effect<ToolCall.ErasedToolkit, never, R>
  readonly plans: ReadonlyMap<string, ToolCall.Plan>
  readonly budget: AgentBudget.AgentBudget
  readonly modelGuard: ModelTurn.ModelGuard<E, R>
  readonly toolGuard: ToolGuard<R>
  readonly toolGuards: ReadonlyMap<string, ToolGuard<R>>
  readonly reconcile: ReadonlyMap<string, ToolTurn.Reconcile<R>>
  readonly approval: "declared" | "atMostOnce"
  readonly approvalTimeToLive: Duration.Duration | undefined
  readonly concurrency: number
  readonly limits: ToolCall.ResolvedLimits
  readonly stream: Streaming | undefined
  readonly loops: LoopDetector.LoopDetector | undefined
  readonly compaction: Compaction.Compaction | undefined
  readonly sharedBudget: AgentBudget.Shared | undefined
  readonly whenSpent: "answer" | "fail"
  readonly rollback: Rollback
  readonly review: Review<Value> | undefined
  readonly result: Schema.Codec<unknown, unknown, R, unknown>
  readonly accept: (supplied: unknown) => Effect.Effect<Value, Schema.SchemaError, R>
  readonly decode: (text: string) => Effect.Effect<Value, Schema.SchemaError, R>
  readonly maxRepairs: number
}

const system = (text: string): Prompt.Prompt =>
  text === "" ? Prompt.empty : Prompt.make([{ role: "system", content: text }])

/** How far back a run may go, and how often. */
interface Rollback {
  readonly max: number
  readonly keep: number
}

/** When people are asked about an answer. */
interface Review<Value> {
  // A method: the answers that it is asked about are this agent's own.
  when(answer: { readonly text: string; readonly value: Value }): boolean
  readonly max: number
}

/** A turn from whose beginning the run can go on in another way. */
interface Good {
  readonly history: Prompt.Prompt
  readonly paused: string
}

interface Options {
  readonly prompt: Prompt.Prompt
  readonly setState: (state: Progress.State) => Effect.Effect<void>
  readonly watcher: Progress.Watcher | undefined
  /** Whether the agent has its run for itself, so that nothing follows from what it once answered. */
  readonly alone: boolean
}

/** What has come of a run so far, for the error that it may fail with. */
interface Watched {
  reached: () => Reached | undefined
}

/** What failed: of a model with guards around it, the guard. */
const nameOf = (error: unknown): string => {
  const guard = AiError.isAiError(error) ? ResilientModel.guardError(error) : Option.none()
  return Option.isSome(guard) ? guard.value._tag : ToolCall.nameOf(error)
}

/** How far it has come, for a log: what the last error said may be what a model said. */
const loggable = (reached: Reached | undefined) => {
  if (reached === undefined) return {}
  const { lastError, ...rest } = reached
  return { ...rest, ...(lastError === undefined ? {} : { lastError: lastError.tag }) }
}

const answeredBy = ({ model, standIn }: Answer) => ({
  ...(model === undefined ? {} : { model }),
  ...(standIn === undefined ? {} : { standIn })
})

/** @internal */
export const loop = <Value, E, R>(agent: Definition<Value, E, R>, options: Options) =>
  Effect.suspend(() => {
    const watched: Watched = { reached: () => undefined }
    return iterate(agent, options, watched).pipe(
      Effect.mapError((error) => {
        const reached = watched.reached()
        if (!(error instanceof AgentError) || error.agent !== agent.name || reached === undefined) return error
        const { reason, runId, turn } = error
        return error.reached === undefined
          ? new AgentError({ agent: error.agent, runId, turn, reason, reached })
          : error
      }),
      Effect.tapError((error) => {
        if (error instanceof Checkpoint.RunSuspended) return Effect.void
        const reached = watched.reached()
        return Effect.logWarning("agent failed").pipe(
          Effect.annotateLogs({ error: nameOf(error), ...loggable(reached) }),
          Effect.andThen(Effect.map(Checkpoint.Run, ({ runId }) => {
            if (reached === undefined) return
            note(error, { agent: agent.name, runId, turn: reached.counters.iterations, ...reached })
          }))
        )
      })
    )
  })

/** How many last answers a run pays for, where it is run again after one that failed or was interrupted. */
const lastAnswers = 3

const nth = (name: string, n: number): string => n === 1 ? name : `${name}#${n}`

const iterate = <Value, E, R>(agent: Definition<Value, E, R>, options: Options, watched: Watched) =>
  Effect.gen(function*() {
    const { journal, runId, scope } = yield* Checkpoint.Run
    const kit = yield* agent.kit
    const time = yield* ActiveTime.make
    const { budget, name } = agent
    const wallTime = Duration.toMillis(budget.wallTime)
    const watch: Progress.Watcher = options.watcher ?? (() => Effect.void)
    const tools: ToolTurn.Environment<R> = {
      agent: name,
      runId,
      kit,
      guard: agent.toolGuard,
      guards: agent.toolGuards,
      limits: agent.limits,
      time,
      started: (call) => watch({ _tag: "ToolStarted", turn: counters.iterations, ...call }),
      ended: (done) => toolFinished(done),
      reconcile: agent.reconcile,
      approval: agent.approval,
      timeToLive: agent.approvalTimeToLive,
      concurrency: agent.concurrency,
      wallTime,
      grace: Duration.toMillis(budget.grace)
    }

    // A conversation that was cut off between a call and its result is taken up like any other one.
    let history = Prompt.concat(system(agent.instructions), paired(options.prompt))
    const model: ModelTurn.Environment<E, R> = {
      agent: name,
      runId,
      account: `${runId}/${journal.salt}/${scope}`,
      kit,
      guard: agent.modelGuard,
      budget,
      sharedBudget: agent.sharedBudget,
      limits: agent.limits,
      stream: agent.stream,
      outputAtMost: Math.min(
        budget.outputTokensPerTurn ?? Infinity,
        agent.sharedBudget !== undefined && AgentBudget.boundsAnswers(agent.sharedBudget)
          ? Room.outputTokens(budget)
          : Infinity
      ),
      attempts: Progress.attempts(options.watcher),
      compaction: agent.compaction,
      protect: history.content.length,
      time
    }
    let usage = AgentBudget.noUsage
    let cost = 0
    let paused = ""
    let detected = LoopDetector.initial
    let good: ReadonlyArray<Good> = []
    let repairs = 0
    const turns: Array<Turn> = []
    const counters = { ...nothingDone }

    let at = { step: scope, attempts: 0 }
    let lastError: LastError | undefined
    let known: Room.Metered | undefined
    let recorded = 0
    let answered = 0
    /** Calls of the loop that were made once more in the same turn. */
    let madeAgain = 0
    // Turns as the journal counts them: also those for which no call was made.
    let turnNumber = 0

    watched.reached = () => ({
      ...at,
      ...(lastError === undefined ? {} : { lastError }),
      counters: { ...counters },
      usage,
      ...(budget.prices.size === 0 ? {} : { cost }),
      elapsedMillis: time.marked(),
      kept: { turns: answered, steps: recorded }
    })

    const failWith = (reason: AgentErrorReason) =>
      new AgentError({ agent: name, runId, turn: counters.iterations, reason })

    /** What the journal has of a model call. */
    const recordOf = (place: string, n = 1): string | undefined => {
      const outcome = journal.outcome(`${scope}/${place}/${nth("model", n)}`)
      if (outcome?._tag !== "Succeeded") return undefined
      return Predicate.hasProperty(outcome.value, "_tag") ? String(outcome.value._tag) : ""
    }

    /** A run that was completed with what its budget allowed is at work again. */
    const goOn = Effect.suspend(() => {
      if (!options.alone || !journal.isCompleted()) return Effect.void
      journal.announce({ _tag: "RunResumed" }, "running")
      return journal.executing
    })

    const budgetGone = (iterations: number) =>
      AgentBudget.exceeded(budget, {
        iterations,
        toolCalls: counters.toolCalls,
        usage,
        cost,
        elapsedMillis: time.marked()
      }) ?? ModelTurn.gone(model, { prompt: history, usage, cost, known })

    const mayGoBack = () => counters.iterations - madeAgain - repairs > 1 && counters.rollbacks < agent.rollback.max

    /**
     * Goes back to the beginning of the turn before the one that failed, or of this one where what was done since cannot be
     * taken back.
     */
    const goBack = Effect.fnUntraced(function*(error: string, why: string, replayed: boolean) {
      const [before, failed] = good.length > 1 ? good.slice(-2) : [good[0], good[0]]
      const to = before ?? failed
      if (to !== undefined) {
        history = to.history
        paused = to.paused
      }
      good = good.slice(0, -2)
      repairs = 0
      counters.rollbacks++
      history = Prompt.concat(history, user(Told.wentBack(cut(why, 500))))
      const turn = counters.iterations
      yield* watch({ _tag: "WentBack", turn, error, replayed })
      yield* Telemetry.emit(() => ({ _tag: "AgentWentBack", agent: name, runId, turn, error }))
      yield* Effect.logWarning("went back to an earlier turn").pipe(Effect.annotateLogs({ turn, error }))
    })

    /** What people say about an answer that the agent is not sure of. */
    const reviewed = Effect.fnUntraced(function*(review: Review<Value>, text: string, value: Value) {
      const isUnsure = yield* Checkpoint.step(
        "confidence",
        { success: Schema.Boolean },
        Effect.try({
          try: () => review.when({ text, value }),
          catch: (cause) => failWith({ _tag: "Undecided", about: "its answer", cause })
        })
      )
      if (!isUnsure) return undefined
      const again = counters.reviews < review.max ? ["Retry", "Reject"] as const : []
      counters.reviews++
      return yield* EscalationQueue.ask({
        name: "answer",
        reason: "LowConfidence",
        task: `May this be the answer of agent "${name}"? ${cut(text, 500)}`,
        context: { agent: name, turn: counters.iterations },
        shown: text,
        timeToLive: agent.approvalTimeToLive,
        decisions: ["Approve", "Supply", "Abandon", ...again],
        accepts: agent.result
      })
    })

    const supplied = (value: Schema.Json) =>
      Effect.gen(function*() {
        // The queue has checked that it is one.
        const text = typeof value === "string" ? value : JSON.stringify(value)
        return { text, value: yield* Effect.orDie(agent.accept(value)) }
      })

    const finished = new Set<ToolTurn.Call>()
    /** Says once of each call of a turn that it has come to its end. */
    const toolFinished = ({ call, outcome, replayed }: ToolTurn.Done) =>
      Effect.suspend(() => {
        if (finished.has(call)) return Effect.void
        finished.add(call)
        const { attempts, isFailure } = outcome
        const turn = counters.iterations
        return watch({ _tag: "ToolFinished", turn, id: call.id, name: call.name, isFailure, attempts, replayed })
      })

    /** Makes a model call, or has it from the journal, and counts what it has spent. */
    const call = Effect.fnUntraced(function*(step: string, ending: Ending.Ending | undefined) {
      const prompt = history
      const spent = nothingSpent()
      at = { step, attempts: 0 }
      const { failure, record, replayed } = yield* ModelTurn.ask(model, {
        prompt,
        turn: counters.iterations,
        ending,
        usage,
        cost,
        mayGoBack: mayGoBack(),
        mayAnswer: agent.whenSpent === "answer" && turns.length > 0,
        known,
        spent
      }).pipe(
        Effect.tapError((error) =>
          Effect.sync(() => {
            // One that a shared budget had no room for was not made.
            const isBudget = error instanceof AgentError && error.reason._tag === "BudgetExceeded"
            if (isBudget && ending === undefined && spent.attempts === 0) counters.iterations--
          })
        ),
        Effect.ensuring(Effect.sync(() => {
          at = { step, attempts: spent.attempts }
          lastError = spent.lastError ?? lastError
        }))
      )
      yield* account(record, replayed)
      if (!replayed) {
        const { iterations, toolCalls } = counters
        yield* session.budgetUsed({ agent: name, runId }, budget, {
          iterations,
          toolCalls,
          usage,
          cost,
          elapsedMillis: record.elapsedMillis
        }, agent.sharedBudget)
      }
      at = { step, attempts: record.attempts }
      if (Option.isSome(failure)) return yield* Effect.fail(failure.value)
      return { record, replayed }
    })

    const account = Effect.fnUntraced(function*(record: ModelRecord, replayed: boolean) {
      yield* time.mark(record.elapsedMillis)
      usage = AgentBudget.addUsage(usage, record.usage)
      cost += record.cost
      const unmade = record._tag === "NoRoom" && record.attempts === 0 ? 1 : 0
      ModelTurn.reportShared(model, counters.iterations - unmade, usage, cost)
      counters.unmetered += record.unmetered
      counters.cuts += record.cuts ?? 0
      counters.retries += Math.max(0, record.attempts - 1)
      recorded++
      answered++
      if (replayed) counters.replayedSteps++
      if (record._tag === "SetBack" || record._tag === "Failed") {
        lastError = { tag: record.error, message: cut(record.message, 1_000) }
      }
    })

    /**
     * Asks the model; with an ending its answer is the last one. A call that failed before is paid for, and made once more.
     */
    const ask = Effect.fnUntraced(function*(place: string, ending?: Ending.Ending) {
      yield* options.setState("running")
      // All calls of this place together, also those that the run had failed with.
      let attempts = 0
      for (let n = 1;; n++) {
        if (recordOf(place, n) === undefined) {
          const gone = n > 1 && ending === undefined ? budgetGone(counters.iterations - 1) : undefined
          // Beyond a budget that several runs share, a run has one last answer to pay for.
          const beyond = n > 1 && ending !== undefined
            ? ModelTurn.sharedGone(model, { prompt: history, known })
            : undefined
          if (beyond !== undefined) return yield* failWith({ _tag: "BudgetExceeded", budget: beyond })
          if (n > lastAnswers && ending !== undefined) {
            return yield* failWith(Ending.noLastAnswer(ending, `it was paid for ${lastAnswers} times and did not come`))
          }
          if (gone !== undefined) {
            return { record: { _tag: "NoRoom" as const, budget: gone }, replayed: false, attempts }
          }
          yield* goOn
        }
        const prompt = history
        const { record, replayed } = yield* call(`${scope}/${place}/${nth("model", n)}`, ending)
        attempts += record.attempts
        if (record._tag === "Failed" || record._tag === "Interrupted") {
          if (ending !== undefined) continue
          // What is made once more is another call of the loop.
          turns.push({ finishReason: "error", attempts: record.attempts, replayed, toolCalls: [] })
          counters.iterations++
          madeAgain++
          attempts = 0
          continue
        }
        const isMetered = record._tag === "Answer" && record.compacted === undefined && record.unmetered === 0
        if (isMetered && record.attempts === 1) known = Room.metered(prompt, record.usage.inputTokens)
        if (record._tag === "Answer" && record.compacted !== undefined) {
          counters.compactions++
          history = ModelTurn.compactedBy(model, prompt, record.compacted)
        }
        if (record._tag === "Answer") {
          const { finishReason, message } = record
          yield* watch({ _tag: "Answered", turn: counters.iterations, text: textOf(message), finishReason, replayed })
        }
        return { record, replayed, attempts }
      }
    })

    /** The answers with which the run once ended: they are paid for, and no part of what it goes on with. */
    const passBy = Effect.fnUntraced(function*(place: string) {
      for (let n = 1; recordOf(place, n) !== undefined; n++) {
        yield* call(`${scope}/${place}/${nth("model", n)}`, { completion: "graceful", budget: "iterations" })
      }
    })

    const result = (text: string, finishReason: Response.FinishReason): Base => ({
      text,
      finishReason,
      usage,
      cost: budget.prices.size === 0 ? undefined : cost,
      elapsed: Duration.millis(time.marked()),
      counters: { ...counters },
      turns: [...turns]
    })

    const lastly = Effect.fnUntraced(function*(end: Ending.Ending) {
      history = Prompt.concat(history, user(Ending.pastTheEnd(end)))
      const here = `last-${turnNumber}`
      const { record, replayed } = yield* Checkpoint.within(here)(ask(`[${here}]`, end))
      if (record._tag !== "Answer") {
        return yield* failWith(Ending.noLastAnswer(end, "the model did not answer"))
      }
      turns.push({
        finishReason: record.finishReason,
        ...answeredBy(record),
        attempts: record.attempts,
        replayed,
        toolCalls: []
      })
      const text = textOf(record.message)
      const value = yield* Effect.option(agent.decode(text))
      return {
        ...result(text, record.finishReason),
        // Whatever the budget is by now, it is the answer of one that was used up.
        ...(record.ending === undefined ? end : { completion: "graceful" as const, budget: record.ending }),
        value: Option.getOrUndefined(value)
      }
    })

    const isAnswered = (place: string): boolean => {
      for (let n = 1;; n++) {
        const record = recordOf(place, n)
        if (record === undefined || record === "Answer") return record !== undefined
      }
    }

    /** Runs the tools that an answer asks for. */
    const callTools = Effect.fnUntraced(function*(place: string, record: Answer) {
      const calls = clientCalls(record.message)
      if (calls.length === 0) return []
      const allowed = Math.max(0, budget.toolCalls - counters.toolCalls)
      counters.toolCalls += calls.length
      yield* options.setState("waitingForTool")
      at = { step: `${scope}/${place}/tools`, attempts: 0 }
      const known = ToolTurn.recorded(journal, `${scope}/${place}`)
      const wanted = calls.map(({ id, name, params }, position) => ({
        id,
        name,
        params,
        plan: agent.plans.get(name),
        unusable: record.unusable[position],
        // What ran under a larger budget has run.
        overBudget: position >= allowed && !known(position)
      }))
      const isNew = ({ overBudget, plan, unusable }: ToolTurn.Call, position: number) =>
        !overBudget && plan !== undefined && unusable === undefined && !known(position)
      if (journal.isCompleted() && wanted.some(isNew)) yield* goOn
      finished.clear()
      const outcomes = yield* ToolTurn.run(tools, { calls: wanted, turn: counters.iterations })
      recorded += outcomes.filter(({ outcome }) => outcome.attempts > 0).length
      for (const { outcome: { attempts, isFailure, result } } of outcomes) {
        if (!isFailure || !Predicate.isObject(result)) continue
        at = { ...at, attempts }
        lastError = { tag: String(result["error"]), message: cut(String(result["message"]), 1_000) }
      }
      yield* Effect.forEach(outcomes, toolFinished, { discard: true })
      yield* time.mark(Math.max(...outcomes.map(({ outcome }) => outcome.elapsedMillis)))
      counters.toolErrors += outcomes.filter(({ outcome }) => outcome.isFailure).length
      counters.replayedSteps += outcomes.filter((done) => done.replayed).length
      counters.retries += outcomes.reduce((sum, { outcome }) => sum + Math.max(0, outcome.attempts - 1), 0)
      return outcomes
    })

    /** Decided from what is in the journal alone, so that a resumed run decides the same. */
    const lookForLoop = Effect.fnUntraced(function*(outcomes: ReadonlyArray<ToolTurn.Done>) {
      if (agent.loops === undefined) return undefined
      const turn = counters.iterations
      const calls = yield* Effect.forEach(outcomes, (done, position) => observed(done, kit, `${turn}/${position}`))
      const { loop, state } = LoopDetector.observe(agent.loops, detected, calls)
      detected = state
      if (loop === undefined) return undefined
      counters.loops++
      return { found: loop, stop: LoopDetector.mustStop(agent.loops, state) }
    })

    const takeTurn = Effect.fnUntraced(function*(place: string) {
      const { attempts, record, replayed } = yield* ask(place)
      return { attempts, record, replayed, outcomes: record._tag === "Answer" ? yield* callTools(place, record) : [] }
    })

    let cutOff: AgentBudget.Name | undefined
    while (true) {
      const last = `[last-${turnNumber}]`
      const next = `turn-${turnNumber + 1}`
      // What was done was within the budget of its time: a budget is asked where something new would be spent.
      if (recordOf(`[${next}]`) === undefined) {
        const gone = cutOff ?? budgetGone(counters.iterations)
        if (gone !== undefined && agent.whenSpent === "fail") {
          at = { step: `${scope}/[${next}]/model`, attempts: 0 }
          return yield* failWith({ _tag: "BudgetExceeded", budget: gone })
        }
        if (gone !== undefined || (!options.alone && isAnswered(last))) {
          return yield* lastly({ completion: "graceful", budget: gone ?? "iterations" })
        }
      }
      cutOff = undefined
      if (recordOf(last) !== undefined) yield* Checkpoint.within(last.slice(1, -1))(passBy(last))

      turnNumber++
      counters.iterations++
      // A repair belongs to the turn whose answer it repairs.
      if (repairs === 0) good = [...good, { history, paused }].slice(-agent.rollback.keep)
      const { attempts, outcomes, record, replayed } = yield* Checkpoint.within(next)(takeTurn(`[${next}]`))
      const withoutAnswer = () => {
        turns.push({ finishReason: "error", attempts, replayed, toolCalls: [] })
      }
      if (record._tag === "OutOfTime") {
        withoutAnswer()
        cutOff = time.marked() < wallTime ? undefined : "wallTime"
        continue
      }
      if (record._tag === "NoRoom") {
        if (attempts === 0) counters.iterations--
        else withoutAnswer()
        // Where the run was stopped for it, there may be room by now.
        cutOff = replayed ? ModelTurn.sharedGone(model, { prompt: history, known }) : record.budget
        continue
      }
      if (record._tag === "SetBack") {
        withoutAnswer()
        yield* goBack(record.error, record.told ?? record.message, replayed)
        continue
      }

      const text = textOf(record.message)
      turns.push({
        finishReason: record.finishReason,
        ...answeredBy(record),
        attempts: record.attempts,
        replayed,
        toolCalls: outcomes.map(({ call, decision, outcome, replayed }) => ({
          id: call.id,
          name: call.name,
          isFailure: outcome.isFailure,
          attempts: outcome.attempts,
          replayed,
          ...(outcome.deduplicated === true ? { deduplicated: true } : {}),
          ...(decision === undefined ? {} : { decision })
        }))
      })
      history = Prompt.concat(history, record.message)
      if (outcomes.length > 0) {
        paused = ""
        repairs = 0
        history = Prompt.concat(history, ToolTurn.results(outcomes))
        // What may have changed the world is not taken back by forgetting it.
        if (outcomes.some(({ call, outcome }) => call.plan?.effects === "atMostOnce" && outcome.attempts > 0)) good = []
        const loop = yield* lookForLoop(outcomes)
        if (loop === undefined) continue
        if (loop.stop) return yield* lastly({ completion: "looped", loop: loop.found })
        history = Prompt.concat(history, user(Told.inALoop(loop.found)))
        if (!replayed) {
          const { _tag } = loop.found
          yield* Telemetry.emit(() => ({ _tag: "LoopDetected", agent: name, runId, loop: _tag, stopped: false }))
        }
        continue
      }
      if (record.finishReason === "pause") {
        paused += text
        continue
      }
      const whole = paused + text
      paused = ""
      const value = yield* Effect.result(agent.decode(whole))
      if (Result.isSuccess(value)) {
        const complete = () => ({ ...result(whole, record.finishReason), completion: "complete" as const })
        if (agent.review === undefined) return { ...complete(), value: value.success }
        const decision = yield* Checkpoint.within(`review-${counters.iterations}`)(
          reviewed(agent.review, whole, value.success)
        )
        if (decision === undefined) return { ...complete(), value: value.success }
        switch (decision._tag) {
          case "Approve":
            return { ...complete(), value: value.success, review: "approved" as const }
          case "Supply":
            return { ...complete(), ...(yield* supplied(decision.value)), review: "supplied" as const }
          case "Abandon":
            return yield* failWith({ _tag: "AnswerAbandoned", reason: decision.reason })
          default:
            history = Prompt.concat(
              history,
              user(Told.askedAgain(decision._tag === "Reject" ? cut(decision.reason, 2_000) : undefined))
            )
            continue
        }
      }
      const issue = cut(value.failure.message, 2_000)
      lastError = { tag: "InvalidResult", message: cut(issue, 1_000) }
      if (repairs >= agent.maxRepairs) {
        if (!mayGoBack()) {
          return yield* failWith({ _tag: "InvalidResult", repairs: counters.repairs, issue, text: whole })
        }
        yield* goBack("InvalidResult", Told.invalid(issue), replayed)
        continue
      }
      repairs++
      counters.repairs++
      history = Prompt.concat(history, user(Told.notValid(issue)))
    }
  })
