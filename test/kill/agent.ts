/**
 * A durable program of two agents, which look, pay, ask people, are refused and go back, answer wrongly, and use up a
 * budget. Its tools, its models and its people leave their marks on the world.
 */
import * as Agent from "effect-resilience/agent/Agent"
import * as AgentBudget from "effect-resilience/agent/AgentBudget"
import { CurrentToolCall } from "effect-resilience/agent/AgentTools"
import * as Checkpoint from "effect-resilience/durable/Checkpoint"
import * as EscalationQueue from "effect-resilience/durable/EscalationQueue"
import * as Fault from "effect-resilience/Fault"
import { ScriptedModel } from "effect-resilience/testing"
import * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Toolkit from "effect/ai/Toolkit"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import { unpaired } from "../support/unpaired.ts"
import type { Fault as Planted } from "./faults.ts"
import { digest } from "./program.ts"
import { act, find, type Where, type World } from "./World.ts"

class Gone extends Schema.TaggedError<Gone>("test/kill/agent/Gone")("Gone", { at: Schema.String }) {
  readonly [Fault.verdictOf] = Fault.permanent
}

const parameters = Schema.Struct({ at: Schema.String })
const success = Schema.String
const Look = Tool.make("Look", { parameters, success, failure: Gone }).annotate(Tool.Readonly, true)
/** Nobody is paid twice: the agent looks whether it happened. */
const Pay = Tool.make("Pay", { parameters, success })
/** And here it cannot look, so that people are asked. */
const Refund = Tool.make("Refund", { parameters, success })
/** People allow it before it happens. */
const Sign = Tool.make("Sign", { parameters, success, needsApproval: true })
const toolkit = Toolkit.make(Look, Pay, Refund, Sign)

const decodeContext = Schema.decodeUnknownEffect(
  Schema.Struct({ tool: Schema.String, arguments: Schema.Struct({ at: Schema.String }) })
)

/** What the run is about. */
export const input = { agents: ["clerk", "scout"] }

const outside: Readonly<Record<string, Where>> = { Pay: "file", Refund: "table", Sign: "file" }

const resultOf = (tool: string, at: string): string => `${tool} ${at}: done`

/** The id of the step that asks, also in its reconcile. */
const ownStep = Effect.map(
  Effect.serviceOption(Checkpoint.Run),
  Option.match({ onNone: () => "", onSome: ({ scope }) => scope.replace(/\/~reconcile(#\d+)?$/, "") })
)

const call = (tool: string, at: string) => ScriptedModel.toolCall({ id: `${tool}-${at}`, name: tool, params: { at } })

/** What the clerk is to do, read from what it is sent, whichever process asks. */
const clerkSays = (results: number, told: string): ReadonlyArray<ScriptedModel.TurnPart> | "refuses" => {
  const wentBack = told.includes("was taken back")
  switch (results) {
    case 0:
      return [call("Look", "a"), call("Look", "b"), call("Pay", "ann")]
    case 1:
      return [call("Sign", "deed"), call("Look", "c")]
    case 2:
      return [call("Pay", "bob"), call("Refund", "cid")]
    case 3:
      // The same payment again is the one that was made.
      return [call("Pay", "ann"), call("Look", "nowhere")]
    case 4:
      return [call("Look", wentBack ? "e" : "d")]
    default:
      if (!wentBack) return "refuses"
      return [told.includes("does not match the schema") ? `{"paid":2}` : "Two of them."]
  }
}

const usage = { inputTokens: 100, outputTokens: 7 }

const answerOf = (request: ScriptedModel.Request): ScriptedModel.Answer => {
  const { content } = request.prompt
  const results = content.filter(({ role }) => role === "tool").length
  const told = JSON.stringify(content.filter(({ role }) => role !== "assistant"))
  if (request.toolChoice === "none") return ScriptedModel.text("As far as I have seen.", { usage })
  if (told.includes("You scout.")) return ScriptedModel.turn(call("Look", `place ${results}`), { usage })
  const says = clerkSays(results, told)
  return says === "refuses"
    ? ScriptedModel.turn("No.", { finishReason: "content-filter", usage })
    : ScriptedModel.turn(...says, { usage })
}

/** For which step of which run the model is asked, and under which key. */
const Asking = Context.Reference<{ readonly runId: string; readonly step: string; readonly key: string }>(
  "test/kill/agent/Asking",
  { defaultValue: () => ({ runId: "", step: "", key: "" }) }
)

const encodePrompt = Schema.encodeSync(Schema.toCodecJson(Prompt.Prompt))

/** What a fault makes of the conversation on its way to the model. */
const onItsWay = (prompt: Prompt.Prompt, fault: Planted | undefined): Prompt.Prompt => {
  switch (fault) {
    case "losesResults":
      return Prompt.fromMessages(prompt.content.filter(({ role }) => role !== "tool"))
    case "tellsItsProcess":
      return Prompt.concat(prompt, Prompt.make(`You are process ${process.pid}.`))
    default:
      return prompt
  }
}

/** A model that says what it is sent, and marks in the world that it was asked. */
const modelOf = (world: World, seen: Map<string, string>, fault: Planted | undefined) =>
  ScriptedModel.layer((request) =>
    Effect.gen(function*() {
      const { key, runId, step } = yield* Asking
      const prompt = onItsWay(request.prompt, fault)
      // What the model is told of, and all before it, has to be in the journal.
      for (const [done, digest] of seen) {
        if (isOfTurn(done, step)) continue
        world.say({ _tag: "Given", step: done, as: "result", digest })
        seen.delete(done)
      }
      // An error that it is told of names the run, which is another one in each story.
      const told = JSON.stringify(encodePrompt(prompt)).replaceAll(runId, "this run")
      world.say({ _tag: "Asked", step, prompt: digest(told), unpaired: unpaired(prompt) })
      const answer = answerOf(request)
      yield* act(world, "file", { step, effects: "idempotent", key, result: digest(answer) })
      seen.set(step, digest(answer))
      return answer
    })
  )

const turnOf = (step: string): string => step.split("/").slice(0, 2).join("/")
const isOfTurn = (one: string, other: string): boolean => turnOf(one) === turnOf(other)

const handlersOf = (world: World, seen: Map<string, string>) => {
  const mark = Effect.fnUntraced(function*(tool: string, at: string, effects: "idempotent" | "atMostOnce") {
    const step = yield* ownStep
    const current = yield* CurrentToolCall
    const result = resultOf(tool, at)
    yield* act(world, outside[tool] ?? "file", { step, effects, key: current?.idempotencyKey ?? "", result })
    seen.set(step, result)
    return result
  })
  return toolkit.toLayer({
    Look: ({ at }) =>
      Effect.delay(mark("Look", at, "idempotent"), world.linger).pipe(
        Effect.flatMap((result) => at === "nowhere" ? new Gone({ at }) : Effect.succeed(result))
      ),
    Pay: ({ at }) => mark("Pay", at, "atMostOnce"),
    Refund: ({ at }) => mark("Refund", at, "atMostOnce"),
    Sign: ({ at }) => mark("Sign", at, "atMostOnce")
  })
}

/** Asks the world whether a call has happened. */
const look = Effect.fnUntraced(function*(world: World, tool: string) {
  const step = yield* ownStep
  const found = yield* find(world, outside[tool] ?? "file", step)
  world.say({ _tag: "Reconciled", step, happened: Option.isSome(found) })
  return Option.match(found, { onNone: () => Checkpoint.notHappened, onSome: Checkpoint.happened })
})

const factsOf = <Value>(result: Agent.Result<Value>) => {
  const { completion, cost, counters, finishReason, text, turns, usage, value } = result
  return {
    completion,
    budget: result.completion === "graceful" ? result.budget : undefined,
    text,
    value,
    finishReason,
    usage,
    cost,
    // What a life has of another one depends on where that was killed.
    counters: { ...counters, replayedSteps: 0 },
    turns: turns.map(({ attempts, finishReason, toolCalls }) => ({
      attempts,
      finishReason,
      toolCalls: toolCalls.map(({ attempts, id, isFailure, name }) => ({ attempts, id, isFailure, name }))
    }))
  }
}

/** The program that a run works. Its result is the same whatever the run went through. */
export const program = (world: World, fault?: Planted) => {
  const seen = new Map<string, string>()
  const asked = (self: Parameters<Agent.ModelGuard>[0]) =>
    Effect.gen(function*() {
      const { runId, scope: step } = yield* Checkpoint.current
      return yield* Effect.provideService(self, Asking, { runId, step, key: yield* Checkpoint.idempotencyKey })
    })
  const sharedBudget = AgentBudget.shared()
  const common = { toolkit, policies: { model: asked }, concurrency: 2, sharedBudget }
  const clerk = Agent.make({
    ...common,
    name: "clerk",
    instructions: "You pay.",
    result: Schema.Struct({ paid: Schema.Finite }),
    tools: { Pay: { reconcile: () => look(world, "Pay") }, Sign: { reconcile: () => look(world, "Sign") } }
  })
  // It would look for ever; what it has spent, in whichever life, ends it.
  const scout = Agent.make({ ...common, name: "scout", instructions: "You scout.", budget: { inputTokens: 300 } })
  return Effect.gen(function*() {
    const paid = factsOf(yield* Agent.loop(clerk, { prompt: "Pay them." }))
    const scouted = factsOf(yield* Agent.loop(scout, { prompt: "Look around." }))
    for (const [step, digest] of seen) world.say({ _tag: "Given", step, as: "result", digest })
    return { paid, scouted, spent: sharedBudget.spent() }
  }).pipe(Effect.provide([handlersOf(world, seen), modelOf(world, seen, fault)]))
}

/** Somebody who looks at what is asked, sees in the world whether it has happened, and answers. */
export const people = (world: World, runId: string) =>
  Effect.gen(function*() {
    const queue = yield* EscalationQueue.EscalationQueue
    for (const { about, id, reason, step } of yield* queue.list({ status: "open", runId })) {
      yield* world.points.pass("person", `before ${reason}`)
      if (reason === "AmbiguousState") {
        const { arguments: { at }, tool } = yield* decodeContext(about)
        const happened = (yield* world.table.read).some((deed) => deed.result === resultOf(tool, at))
        world.say({ _tag: "Reconciled", step: step ?? "", happened })
        yield* queue.decide(id, happened ? { _tag: "Supply", value: resultOf(tool, at) } : { _tag: "Retry" })
      } else yield* queue.decide(id, { _tag: "Approve" })
      yield* world.points.pass("person", `after ${reason}`)
    }
  })

/** The questions that nobody has answered. */
export const unanswered = (runId: string) =>
  EscalationQueue.EscalationQueue.use((queue) =>
    Effect.map(queue.list({ status: "open", runId }), (open) => open.length)
  )
