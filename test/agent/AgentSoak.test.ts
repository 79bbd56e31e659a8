import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema } from "effect"
import { Agent, Backoff, Checkpoint, EscalationQueue, Fault } from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import { Tool, Toolkit } from "effect/ai"
import { TestClock } from "effect/testing"
import { isFull, runs } from "../support/runs.ts"
import { call, durable } from "./support.ts"

class Down extends Schema.TaggedError<Down>("test/agent/AgentSoak/Down")("Down", { at: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.transient
}
class Lost extends Schema.TaggedError<Lost>("test/agent/AgentSoak/Lost")("Lost", { at: Schema.Finite }) {
  readonly [Fault.verdictOf] = Fault.ambiguous
}

const parameters = Schema.Struct({ at: Schema.Finite })
const Look = Tool.make("Look", { parameters, success: Schema.String, failure: Down }).annotate(Tool.Readonly, true)
const Pay = Tool.make("Pay", { parameters, success: Schema.String, failure: Schema.Union([Down, Lost]) })
const Sign = Tool.make("Sign", { parameters, success: Schema.String, needsApproval: true })
const toolkit = Toolkit.make(Look, Pay, Sign)

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
const Story = Schema.Struct({
  answers: Schema.Array(Answer).check(Schema.isMaxLength(7)),
  budget: Schema.Literals([2, 4, 20]),
  decision: Schema.Literals(["Approve", "Reject", "Abandon"])
})
type Story = typeof Story.Type

const agentOf = (story: Story) =>
  Agent.make({
    name: "soaked",
    instructions: "Work.",
    toolkit,
    toolBackoff: Backoff.constant({ delay: 0 }),
    budget: { iterations: story.budget },
    concurrency: 2
  })

/** The call of a step, the same one again where it repeats an earlier one. */
const placeOf = (turn: number, position: number, repeats: boolean) => repeats ? 0 : turn * 10 + position + 1

const scriptOf = (story: Story): ScriptedModel.Script => {
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
        return ScriptedModel.turn(
          ...answer.map((step, position) =>
            call(`${asked}.${position}`, step.tool, { at: placeOf(asked, position, step.repeats) })
          )
        )
    }
  }
}

/** What the world did: how often each payment went out. */
interface Ledger {
  readonly paid: Map<number, number>
  readonly signed: Map<number, number>
}

const bump = (counts: Map<number, number>, at: number) => void counts.set(at, (counts.get(at) ?? 0) + 1)

const fates = (story: Story) => {
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

const handlersOf = (story: Story, { paid, signed }: Ledger) => {
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

type End = "completed" | "degraded" | "escalated" | "failed"

/** Runs a story to its end, with people who tell the truth about payments. */
const toTheEnd = (story: Story, runId: string) =>
  Effect.gen(function*() {
    const ledger: Ledger = { paid: new Map(), signed: new Map() }
    const agent = agentOf(story)
    const prompts: Array<ScriptedModel.Request> = []
    const inner = scriptOf(story)
    const script: ScriptedModel.Script = (request) => {
      prompts.push(request)
      return typeof inner === "function" ? inner(request) : "Done."
    }
    const queue = yield* EscalationQueue.EscalationQueue
    const rounds = Effect.gen(function*() {
      let asked = 0
      for (let round = 0; round < 50; round++) {
        const result = yield* Effect.result(Agent.run(agent, { runId, prompt: "Go" }))
        if (result._tag === "Success") return { end: result, asked }
        if (!(result.failure instanceof Checkpoint.RunSuspended)) return { end: result, asked }
        const open = yield* queue.list({ status: "open" })
        for (const { context, id, reason } of open.filter((one) => one.runId === runId)) {
          asked++
          const at = Number(/"at":(\d+)/.exec(JSON.stringify(context))?.[1])
          yield* queue.decide(
            id,
            reason === "AmbiguousState"
              ? ledger.paid.has(at)
                ? { _tag: "Supply", value: `paid ${at}` }
                : { _tag: "Abandon", reason: "never paid" }
              : story.decision === "Approve"
              ? { _tag: "Approve" }
              : { _tag: story.decision, reason: "no" }
          )
        }
      }
      return yield* Effect.die("the run never ends")
    })
    const { asked, end } = yield* rounds.pipe(
      Effect.provide(Layer.merge(handlersOf(story, ledger), ScriptedModel.layer(script)))
    )
    return { ...ledger, agent, end, asked, prompts }
  })

const unpaired = (requests: ReadonlyArray<ScriptedModel.Request>): ReadonlyArray<string> =>
  requests.flatMap(({ prompt }) => {
    const wrong: Array<string> = []
    let open: Array<string> = []
    for (const message of prompt.content) {
      if (message.role === "tool") {
        for (const part of message.content) {
          if (part.type === "tool-result" && !open.includes(part.id)) wrong.push(part.id)
          if (part.type === "tool-result") open = open.filter((id) => id !== part.id)
        }
        continue
      }
      wrong.push(...open)
      open = message.role === "assistant"
        ? message.content.flatMap((part) => part.type === "tool-call" ? [part.id] : [])
        : []
    }
    return [...wrong, ...open]
  })

const endOf = (
  { asked, end }: { readonly asked: number; readonly end: { readonly _tag: string } },
  result: unknown
): End =>
  end._tag === "Failure"
    ? "failed"
    : asked > 0
    ? "escalated"
    : (result === "complete" ? "completed" : "degraded")

/** What holds at the end of every run, whatever happened in it. */
const holds = (story: Story, ran: Effect.Success<ReturnType<typeof toTheEnd>>): End => {
  const { end, paid, prompts, signed } = ran
  assert.deepStrictEqual(unpaired(prompts), [], "every call has a result in what the model is sent")
  for (const [at, times] of [...paid, ...signed]) assert.strictEqual(times, 1, `${at} happened ${times} times`)
  if (end._tag === "Failure") {
    assert.include(["AgentError", "AiError"], end.failure._tag)
    return endOf(ran, undefined)
  }
  const { completion, counters, turns } = end.success
  assert.isAtMost(counters.iterations, story.budget)
  assert.isAtMost(counters.rollbacks, 2)
  assert.isAtMost(counters.loops, 2)
  assert.isAtMost(counters.compactions, counters.iterations + 1)
  assert.strictEqual(turns.length, counters.iterations + (completion === "complete" ? 0 : 1))
  const calls = turns.flatMap(({ toolCalls }) => toolCalls)
  assert.strictEqual(calls.length, counters.toolCalls)
  assert.strictEqual(calls.filter(({ isFailure }) => isFailure).length, counters.toolErrors)
  if (story.decision !== "Approve") assert.strictEqual(signed.size, 0, "nothing is signed that nobody approved")
  return endOf(ran, completion)
}

const told = (ran: Effect.Success<ReturnType<typeof toTheEnd>>) => {
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

describe("any agent in any world", () => {
  it.effect.prop(
    "pairs every call with a result, pays nobody twice, keeps its bounds, and comes to the same when resumed after each step",
    { story: Story },
    ({ story }) =>
      Effect.gen(function*() {
        const ran = yield* toTheEnd(story, "run-1").pipe(Effect.provide(Layer.fresh(durable)))
        holds(story, ran)
        const resumed = yield* CrashPoints.alwaysReplay(toTheEnd(story, "run-1")).pipe(
          Effect.provide(Layer.fresh(durable))
        )
        holds(story, resumed)
        assert.deepStrictEqual(told(resumed), told(ran))
      }),
    { arbitrary: { runs: runs(60, 2_000), seed: 1 }, timeout: runs(60_000, 1_800_000) }
  )
})

/** Numbers that look like chance and are always the same. */
const dice = (seed: number) => {
  let state = seed
  return (sides: number) => {
    state = (Math.imul(state ^ (state >>> 15), 0x2c1b3c6d) + 0x9e3779b9) | 0
    return ((state >>> 8) & 0xffff) % sides
  }
}

const storyOf = (seed: number): Story => {
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
const interpret = (story: Story) => {
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

const Plain = Schema.Struct({
  ...Story.fields,
  answers: Schema.Array(
    Schema.Array(Schema.Struct({ ...Step.fields, repeats: Schema.Literal(false) })).check(
      Schema.isMinLength(1),
      Schema.isMaxLength(3)
    )
  ).check(Schema.isMaxLength(7))
})

describe("a random agent, crashed after each of its steps", () => {
  it.effect.prop(
    "comes to what a reference interpreter reads from its story",
    { story: Plain },
    ({ story }) =>
      Effect.gen(function*() {
        const { end, paid, signed } = yield* CrashPoints.alwaysReplay(toTheEnd(story, "run-1")).pipe(
          Effect.provide(Layer.fresh(durable))
        )
        const expected = interpret(story)
        assert.deepStrictEqual(new Set(paid.keys()), expected.paid)
        if (end._tag === "Failure" || expected.end === "failed") {
          assert.isTrue(expected.end === "failed" && end._tag === "Failure")
          if (end._tag === "Failure") assert.include(end.failure.message, "abandoned")
          return
        }
        const { completion, counters, text, turns } = end.success
        assert.deepStrictEqual(
          { end: completion, text, loops: counters.loops },
          { end: expected.end, text: expected.text, loops: expected.loops }
        )
        assert.deepStrictEqual(
          turns.map(({ toolCalls }) => toolCalls.map(({ isFailure, name }) => [name, isFailure] as const)),
          expected.turns
        )
        assert.deepStrictEqual(new Set(signed.keys()), expected.signed)
      }),
    { arbitrary: { runs: runs(60, 2_000), seed: 1 }, timeout: runs(60_000, 1_800_000) }
  )
})

describe("a soak of runs through a storm", () => {
  const count = isFull ? 10_000 : 150

  it.effect(
    `${count} runs each end completed, degraded, escalated or failed, and the sums add up`,
    () =>
      Effect.gen(function*() {
        const ends: Record<End, number> = { completed: 0, degraded: 0, escalated: 0, failed: 0 }
        yield* Effect.forEach(
          Array.from({ length: count }, (_, seed) => seed),
          (seed) =>
            Effect.gen(function*() {
              const story = storyOf(seed)
              const ran = yield* toTheEnd(story, `run-${seed}`).pipe(Effect.provide(Layer.fresh(durable)))
              ends[holds(story, ran)]++
            }),
          { concurrency: 16, discard: true }
        )
        yield* TestClock.adjust("1 hour")
        assert.strictEqual(Object.values(ends).reduce((sum, n) => sum + n, 0), count)
        for (const [end, n] of Object.entries(ends)) assert.isAbove(n, 0, `no run ended ${end}`)
      }),
    runs(60_000, 1_800_000)
  )
})
