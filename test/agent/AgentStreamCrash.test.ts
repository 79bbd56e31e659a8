import { assert, describe, it } from "@effect/vitest"
import { Context, Effect, Layer, Schema, Stream } from "effect"
import { Agent, Checkpoint, CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import { LanguageModel, Tool, Toolkit } from "effect/ai"
import { isFull, runs } from "../support/runs.ts"
import { call } from "./support.ts"

const Look = Tool.make("Look", { parameters: Schema.Struct({ at: Schema.String }), success: Schema.String })
  .annotate(Tool.Readonly, true)
const Pay = Tool.make("Pay", { parameters: Schema.Struct({ to: Schema.String }), success: Schema.String })
const toolkit = Toolkit.make(Look, Pay)

/** The same to the same prompt, whichever process asks; each process has its first two streams cut. */
const script: ScriptedModel.Script = ({ index, prompt }) => {
  const answered = prompt.content.filter((message) => message.role === "tool").length
  const answer = answered === 0
    ? ScriptedModel.turn("I look and pay.", call("1", "Look", { at: "a" }), call("2", "Pay", { to: "ann" }))
    : answered === 1
    ? ScriptedModel.turn("Another one.", call("3", "Pay", { to: "bob" }))
    : ScriptedModel.text("All paid.")
  // Gone on with, the model adds nothing to what it said.
  const goesOn = prompt.content.at(-2)?.role === "assistant" && prompt.content.at(-1)?.role === "user"
  const rest = goesOn ? answer.filter(({ type }) => type !== "text") : answer
  return index === 0
    ? ScriptedModel.streamed(rest, { end: "cut" })
    : index === 1
    ? ScriptedModel.streamed(rest, { end: "silence", after: 0 })
    : rest
}

/** Whom money went out to. */
class Paid extends Context.Service<Paid, Array<string>>()("Paid") {
  static readonly layer = Layer.sync(Paid, () => [])
}

/** What is remembered of calls outlives a process. */
class Remembered extends Context.Service<Remembered, Idempotency.Store>()("Remembered") {
  static readonly layer = Layer.effect(Remembered, Idempotency.makeStoreMemory())
}

const tools = toolkit.toLayer(Effect.map(Paid, (paid) =>
  toolkit.of({
    Look: ({ at }) => Effect.succeed(`saw ${at}`),
    Pay: ({ to }) => Effect.sync(() => (paid.push(to), `paid ${to}`)).pipe(CrashPoints.effect(`pay ${to}`))
  })))

/** The scripted model, whose processes can also crash before and after each part that comes. */
const model = Layer.effect(
  LanguageModel.LanguageModel,
  Effect.map(ScriptedModel.make(script), (made) => {
    const scripted = Context.get(made, LanguageModel.LanguageModel)
    const streamText = (options: never) =>
      scripted.streamText(options).pipe(
        Stream.mapEffect((part) => CrashPoints.effect(Effect.succeed(part), `part ${part.type}`))
      )
    return { ...scripted, streamText } as unknown as LanguageModel.LanguageModel
  })
)

const world = Layer.mergeAll(Paid.layer, Remembered.layer, CheckpointStore.layerMemory, EscalationQueue.layerMemory)
const process = Layer.mergeAll(
  tools,
  model,
  Layer.effect(Idempotency.Idempotency, Effect.flatMap(Remembered, (store) => Idempotency.make({ store })))
)

const options = { runId: "run-1", prompt: "Pay them" }

/** Runs to the end with people who say truthfully whether a payment went out. */
const toTheEnd = <Tools extends Record<string, Tool.Any>, R>(agent: Agent.Agent<Tools, string, unknown, R>) =>
  Effect.gen(function*() {
    const paid = yield* Paid
    const queue = yield* EscalationQueue.EscalationQueue
    for (let i = 0; i < 10; i++) {
      const result = yield* Effect.result(Stream.runCollect(Agent.stream(agent, options)))
      if (result._tag === "Success") {
        const last = result.success.at(-1)
        if (last?._tag !== "Finished") return yield* Effect.fail("no result")
        return {
          text: last.result.text,
          turns: last.result.turns.map((turn) => turn.toolCalls.map(({ name }) => name))
        }
      }
      if (!(result.failure instanceof Checkpoint.RunSuspended)) return yield* Effect.fail(result.failure)
      for (const { id, task } of yield* queue.list({ status: "open" })) {
        const to = ["ann", "bob"].find((name) => task.includes(name))
        yield* queue.decide(
          id,
          to !== undefined && paid.includes(to) ? { _tag: "Supply", value: `paid ${to}` } : { _tag: "Retry" }
        )
      }
    }
    return yield* Effect.fail("still suspended")
  })

for (const onCut of ["askAgain", "resume"] as const) {
  describe(`a streaming agent that crashes (${onCut})`, () => {
    it.effect(
      "at every boundary, also between the parts of a stream, comes to the same end and pays nobody twice",
      () =>
        Effect.gen(function*() {
          const agent = Agent.make({ name: "payer", instructions: "", toolkit, stream: { onCut } })
          const { boundaries, effects, exit, left } = yield* CrashPoints.check({
            program: toTheEnd(agent),
            world,
            process,
            ways: isFull ? undefined : ["killed", "disconnected"],
            again: runs(5, 100)
          })
          assert.deepStrictEqual(
            exit,
            yield* Effect.exit(Effect.succeed({
              text: "All paid.",
              turns: [["Look", "Pay"], ["Pay"], []]
            }))
          )
          assert.isAbove(boundaries.length, 60)
          const payments = effects.filter(({ label }) => label.startsWith("pay"))
          assert.deepStrictEqual(payments.map(({ label }) => label), ["pay ann", "pay bob"])
          assert.isTrue(payments.every(({ atMostOnce }) => atMostOnce))
          assert.strictEqual(left, 0)
        }),
      runs(120_000, 900_000)
    )
  })
}
