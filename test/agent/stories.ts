/**
 * Stories of agents: what their models do turn by turn, what the world does to their calls, and what people decide. And what
 * has to hold of every run of every story, whatever else happens to it.
 */
import { Effect, Layer, type Result, Schema } from "effect"
import {
  Agent,
  type AgentBudget,
  Backoff,
  Checkpoint,
  CheckpointStore,
  EscalationQueue,
  Fault,
  Idempotency
} from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { unpaired } from "../support/unpaired.ts"
import { call } from "./support.ts"

export class Down extends Schema.TaggedError<Down>("test/agent/AgentSoak/Down")("Down", { at: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.transient
}
export class Lost extends Schema.TaggedError<Lost>("test/agent/AgentSoak/Lost")("Lost", { at: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}

const parameters = Schema.Struct({ at: Schema.Finite })
const Look = Tool.make("Look", { parameters, success: Schema.String, failure: Down }).annotate(Tool.Readonly, true)
const Pay = Tool.make("Pay", { parameters, success: Schema.String, failure: Schema.Union([Down, Lost]) })
const Sign = Tool.make("Sign", { parameters, success: Schema.String, needsApproval: true })
export const toolkit = Toolkit.make(Look, Pay, Sign)

/** What a model does in its turns, and what the world does to the calls. */
const Step = Schema.Struct({
  tool: Schema.Literals(["Look", "Pay", "Sign", "Nothing"]),
  fate: Schema.Literals(["works", "works", "works", "down", "lost", "done and lost"]),
  repeats: Schema.Boolean
})
const Answer = Schema.Union([
  Schema.Array(Step).check(Schema.isMinLength(1), Schema.isMaxLength(3)),
  Schema.Literals(["refuses", "is empty", "is cut", "overflows"])
])
export const Story = Schema.Struct({
  answers: Schema.Array(Answer).check(Schema.isMaxLength(7)),
  budget: Schema.Literals([2, 4, 20]),
  decision: Schema.Literals(["Approve", "Reject", "Abandon"])
})
export type Story = typeof Story.Type

export const agentOf = (
  story: { readonly budget: number },
  options: {
    readonly budget?: AgentBudget.Options
    readonly loops?: false
    readonly policies?: { readonly model: Agent.ModelGuard }
  } = {}
) =>
  Agent.make({
    ...options,
    name: "soaked",
    instructions: "Work.",
    toolkit,
    toolBackoff: Backoff.constant({ delay: 0 }),
    budget: { iterations: story.budget, ...options.budget },
    concurrency: 2
  })

/** The call of a step, the same one again where it repeats an earlier one. */
const placeOf = (turn: number, position: number, repeats: boolean) => repeats ? 0 : turn * 10 + position + 1

const turnOf = (turn: number, answer: ReadonlyArray<typeof Step.Type>) =>
  ScriptedModel.turn(
    ...answer.map((step, position) =>
      call(`${turn}.${position}`, step.tool, { at: placeOf(turn, position, step.repeats) })
    )
  )

export const scriptOf = (story: Story): ScriptedModel.Script => {
  let asked = -1
  return (request) => {
    if (request.toolChoice === "none") return "The best so far."
    asked++
    const answer = story.answers[asked]
    switch (answer) {
      case undefined:
        return "Done."
      case "refuses":
        return ScriptedModel.turn("No.", { finishReason: "content-filter" })
      case "is empty":
        return ScriptedModel.turn("")
      case "is cut":
        return ScriptedModel.turn("Half a", { finishReason: "length" })
      case "overflows":
        return ScriptedModel.fail(Fault.contextOverflow)
      default:
        return turnOf(asked, answer)
    }
  }
}

/** What the world did: how often each payment went out. */
export interface Ledger {
  readonly paid: Map<number, number>
  readonly signed: Map<number, number>
}

export const bump = (counts: Map<number, number>, at: number) => void counts.set(at, (counts.get(at) ?? 0) + 1)

export const fates = (story: Story) => {
  const fate = new Map<number, typeof Step.Type["fate"]>()
  for (const [turn, answer] of story.answers.entries()) {
    if (typeof answer === "string") continue
    for (const [position, step] of answer.entries()) {
      const at = placeOf(turn, position, step.repeats)
      if (!fate.has(at)) fate.set(at, step.fate)
    }
  }
  return (at: number) => fate.get(at) ?? "works"
}

export const handlersOf = (story: Story, { paid, signed }: Ledger) => {
  const fate = fates(story)
  return toolkit.toLayer({
    Look: ({ at }) => fate(at) === "works" ? Effect.succeed(`saw ${at}`) : Effect.fail(new Down({ at })),
    Pay: ({ at }) => {
      if (fate(at) === "down") return Effect.fail(new Down({ at }))
      if (fate(at) === "lost") return Effect.fail(new Lost({ at }))
      bump(paid, at)
      return fate(at) === "done and lost" ? Effect.fail(new Lost({ at })) : Effect.succeed(`paid ${at}`)
    },
    Sign: ({ at }) => Effect.sync(() => (bump(signed, at), `signed ${at}`))
  })
}

/**
 * Answers what a run asks, as people do who tell the truth about payments. Returns how much that was, and how often they
 * had a call made again.
 */
export const decide = Effect.fnUntraced(function*(story: Story, { paid, signed }: Ledger, runId: string) {
  const queue = yield* EscalationQueue.EscalationQueue
  const fate = fates(story)
  const open = yield* queue.list({ status: "open", runId })
  let again = 0
  for (const { about, id, reason } of open) {
    const told = JSON.stringify(about)
    const at = Number(/"at":(\d+)/.exec(told)?.[1])
    const { decision } = story
    const happened = paid.has(at) || signed.has(at)
    // A payment that is lost each time is never known.
    const isLost = told.includes("\"tool\":\"Pay\"") && fate(at) === "lost"
    const isAgain = reason === "AmbiguousState" && !happened && !isLost
    yield* queue.decide(
      id,
      reason === "AmbiguousState"
        ? happened
          ? { _tag: "Supply", value: paid.has(at) ? `paid ${at}` : `signed ${at}` }
          : isAgain
          ? { _tag: "Retry" }
          : { _tag: "Abandon", reason: "never paid" }
        : decision === "Approve"
        // What was signed for an earlier answer is not signed again.
        ? happened ? { _tag: "Supply", value: `signed ${at}` } : { _tag: "Approve" }
        : { _tag: decision, reason: "no" }
    )
    if (isAgain) again++
  }
  return { asked: open.length, again }
})

export const isSuspended = Schema.is(Checkpoint.RunSuspended)

/** What a run may end with because of a store, to be resumed. */
export const isOfTheStore = Schema.is(Schema.Union([
  CheckpointStore.CheckpointStoreError,
  EscalationQueue.EscalationError,
  Idempotency.IdempotencyStoreError,
  Checkpoint.RunLeased
]))

export const newLedger = (): Ledger => ({ paid: new Map(), signed: new Map() })

/** What is put in the place of a part of a run. */
export interface Parts {
  readonly script?: ScriptedModel.Script | undefined
  readonly agent?: ReturnType<typeof agentOf> | undefined
  readonly handlers?: ((ledger: Ledger) => ReturnType<typeof handlersOf>) | undefined
  readonly decide?: typeof decide | undefined
}

/** A script that notes what it is asked. */
export const noting = (script: ScriptedModel.Script, requests: Array<ScriptedModel.Request>): ScriptedModel.Script => {
  let asked = 0
  return (request) => {
    requests.push(request)
    return typeof script === "function" ? script(request) : script[asked++] ?? "Done."
  }
}

export type End = "completed" | "degraded" | "escalated" | "failed"

/** Runs a story to its end. */
export const toTheEnd = (story: Story, runId: string, parts: Parts = {}) =>
  Effect.gen(function*() {
    const ledger = newLedger()
    const agent = parts.agent ?? agentOf(story)
    const prompts: Array<ScriptedModel.Request> = []
    const script = noting(parts.script ?? scriptOf(story), prompts)
    const rounds = Effect.gen(function*() {
      let asked = 0
      for (let round = 0; round < 50; round++) {
        const result = yield* Effect.result(Agent.run(agent, { runId, prompt: "Go" }))
        if (result._tag === "Success" || !(result.failure instanceof Checkpoint.RunSuspended)) {
          return { end: result, asked }
        }
        asked += (yield* (parts.decide ?? decide)(story, ledger, runId)).asked
      }
      return yield* Effect.die("the run never ends")
    })
    const handlers = parts.handlers === undefined ? handlersOf(story, ledger) : parts.handlers(ledger)
    const { asked, end } = yield* rounds.pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
    return { ...ledger, end, asked, prompts }
  })

/** How a run came to its end. */
export type Ran = Effect.Success<ReturnType<typeof toTheEnd>>

export const endOf = ({ asked, end }: { readonly asked: number; readonly end: Ended }): End =>
  end._tag === "Failure"
    ? "failed"
    : asked > 0
    ? "escalated"
    : (end.success.completion === "complete" ? "completed" : "degraded")

export type Rule =
  | "unpaired" // a model was sent a call without its result, or a result without its call
  | "repeated" // what must not happen twice did
  | "unallowed" // a call was made that people had not allowed
  | "error" // the run failed with something else than it may
  | "iterations" // more model calls than the budget has
  | "bounds" // it went back, was told of loops or made its conversation smaller more often than it may
  | "turns" // the turns are not as many as the model calls
  | "toolCalls" // the calls of the turns are not those that were counted
  | "toolErrors" // the failed calls of the turns are not those that were counted

export interface Violation<R extends string = Rule> {
  readonly rule: R
  readonly detail: string
}

/** A result, or an error. */
export type Ended = Result.Result<Agent.Result<string>, { readonly _tag: string; readonly message: string }>

/** What does not hold of a run, though it holds of every one, whatever happened in it. */
export const violations = (story: Story, ran: Pick<Ran, "paid" | "prompts" | "signed"> & { readonly end: Ended }) => {
  const { end, paid, prompts, signed } = ran
  const found: Array<Violation> = []
  const check = (rule: Rule, holds: boolean, detail: string) => void (holds || found.push({ rule, detail }))
  const loose = prompts.flatMap(({ prompt }) => unpaired(prompt))
  check("unpaired", loose.length === 0, loose.join(", "))
  for (const [at, times] of [...paid, ...signed]) check("repeated", times === 1, `${at} happened ${times} times`)
  if (story.decision !== "Approve") check("unallowed", signed.size === 0, `${signed.size} were signed`)
  if (end._tag === "Failure") {
    const { _tag, message } = end.failure
    check("error", _tag === "AgentError" || _tag === "AiError", `${_tag}: ${message}`)
    return found
  }
  const { completion, counters, turns } = end.success
  check("iterations", counters.iterations <= story.budget, `${counters.iterations} of ${story.budget}`)
  check("bounds", counters.rollbacks <= 2, `${counters.rollbacks} rollbacks`)
  check("bounds", counters.loops <= 2, `${counters.loops} loops`)
  check("bounds", counters.compactions <= counters.iterations + 1, `${counters.compactions} compactions`)
  const asked = counters.iterations + (completion === "complete" ? 0 : 1)
  check("turns", turns.length === asked, `${turns.length} turns, ${asked} model calls`)
  const calls = turns.flatMap(({ toolCalls }) => toolCalls)
  const failed = calls.filter(({ isFailure }) => isFailure).length
  check("toolCalls", calls.length === counters.toolCalls, `${calls.length}, counted ${counters.toolCalls}`)
  check("toolErrors", failed === counters.toolErrors, `${failed}, counted ${counters.toolErrors}`)
  return found
}

/** What a run came to, without what it has of how often it was resumed. */
export const told = (ran: Ran) => {
  const { end } = ran
  if (end._tag === "Failure") return { failed: end.failure._tag, paid: ran.paid, signed: ran.signed }
  const { completion, counters, text, turns } = end.success
  return {
    completion,
    text,
    counters: { ...counters, replayedSteps: 0 },
    turns: turns.map((
      { finishReason, toolCalls }
    ) => [finishReason, toolCalls.map(({ isFailure, name }) => [name, isFailure])]),
    paid: ran.paid,
    signed: ran.signed
  }
}

/** Numbers that look like chance and are always the same. */
export const dice = (seed: number) => {
  let state = seed
  return (sides: number) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0
    return ((state >>> 8) & 0xffff) % sides
  }
}

export const storyOf = (seed: number): Story => {
  const roll = dice(seed + 1)
  const pick = <A>(items: readonly [A, ...Array<A>]): A => items[roll(items.length)] ?? items[0]
  return {
    budget: pick([2, 4, 20] as const),
    decision: pick(["Approve", "Approve", "Reject", "Abandon"] as const),
    answers: Array.from({ length: roll(7) }, () =>
      roll(10) === 0
        ? pick(["refuses", "is empty", "is cut", "overflows"] as const)
        : Array.from({ length: 1 + roll(3) }, () => ({
          tool: pick(["Look", "Look", "Look", "Pay", "Sign", "Nothing"] as const),
          fate: pick(["works", "works", "works", "works", "down", "lost", "done and lost"] as const),
          repeats: roll(6) === 0
        })))
  }
}

/**
 * What a run comes to, read from its story alone: for stories whose model answers well and repeats nothing. It knows no
 * journal, no steps and no queue.
 */
export const interpret = (story: Story) => {
  const turns: Array<ReadonlyArray<readonly [string, boolean]>> = []
  const paid = new Set<number>()
  const signed = new Set<number>()
  let idle = 0
  let loops = 0
  for (const [turn, answer] of story.answers.entries()) {
    if (turns.length === story.budget) break
    if (typeof answer === "string") throw new Error("a story for the interpreter has steps alone")
    const calls: Array<readonly [string, boolean]> = []
    let abandoned = false
    for (const [position, { fate, tool }] of answer.entries()) {
      const at = placeOf(turn, position, false)
      if (tool === "Pay" && (fate === "works" || fate === "done and lost")) paid.add(at)
      // Nobody can say that it happened, so people end the run.
      if (tool === "Pay" && fate === "lost") abandoned = true
      if (tool === "Sign" && story.decision === "Abandon") abandoned = true
      if (tool === "Sign" && story.decision === "Approve") signed.add(at)
      const works = tool === "Look"
        ? fate === "works"
        : tool === "Pay"
        ? fate === "works" || fate === "done and lost"
        : tool === "Sign" && story.decision === "Approve"
      calls.push([tool, !works])
    }
    if (abandoned) return { end: "failed" as const, paid }
    turns.push(calls)
    idle = calls.some(([, isFailure]) => !isFailure) ? 0 : idle + 1
    if (idle === 5) {
      loops++
      idle = 0
    }
  }
  const answered = turns.length < story.budget
  return {
    end: answered ? "complete" as const : "graceful" as const,
    text: answered ? "Done." : "The best so far.",
    turns: [...turns, []],
    loops,
    paid,
    signed
  }
}

/** A story whose model answers well and repeats nothing. */
export const Plain = Schema.Struct({
  ...Story.fields,
  answers: Schema.Array(
    Schema.Array(Schema.Struct({ ...Step.fields, repeats: Schema.Literal(false) })).check(
      Schema.isMinLength(1),
      Schema.isMaxLength(3)
    )
  ).check(Schema.isMaxLength(7))
})

/** The same story without what a reference interpreter does not know. */
export const plain = (story: Story): Story => ({
  ...story,
  answers: story.answers.flatMap((answer) =>
    typeof answer === "string" ? [] : [answer.map((step) => ({ ...step, repeats: false }))]
  )
})

/** A model for plain stories that says the same to the same conversation, whichever process asks. */
export const plainScriptOf = (story: Story) => (request: ScriptedModel.Request): ScriptedModel.Answer => {
  if (request.toolChoice === "none") return "The best so far."
  const turn = request.prompt.content.filter(({ role }) => role === "tool").length
  const answer = story.answers[turn]
  return answer === undefined || typeof answer === "string" ? "Done." : turnOf(turn, answer)
}

/** In what a run differs from what a reference interpreter reads from its story. */
export type Difference = "paid" | "end" | "text" | "loops" | "calls" | "signed"

export const differences = (story: Story, ran: Pick<Ran, "paid" | "signed"> & { readonly end: Ended }) => {
  const { end, paid, signed } = ran
  const expected = interpret(story)
  const found: Array<Violation<Difference>> = []
  const compare = (rule: Difference, is: unknown, ought: unknown) => {
    const [one, other] = [JSON.stringify(is), JSON.stringify(ought)]
    if (one !== other) found.push({ rule, detail: `${one} instead of ${other}` })
  }
  const sorted = (places: Iterable<number>) => Array.from(places).toSorted((one, other) => one - other)
  compare("paid", sorted(paid.keys()), sorted(expected.paid))
  if (end._tag === "Failure" || expected.end === "failed") {
    const isAbandoned = end._tag === "Failure" && end.failure.message.includes("abandoned")
    compare("end", end._tag === "Failure" ? isAbandoned ? "failed" : end.failure.message : end._tag, expected.end)
    return found
  }
  const { completion, counters, text, turns } = end.success
  compare("end", completion, expected.end)
  compare("text", text, expected.text)
  compare("loops", counters.loops, expected.loops)
  const calls = turns.map(({ toolCalls }) => toolCalls.map(({ isFailure, name }) => [name, isFailure] as const))
  compare("calls", calls, expected.turns)
  compare("signed", sorted(signed.keys()), sorted(expected.signed))
  return found
}
