import { assert, describe, it } from "@effect/vitest"
import { Context, DateTime, Effect, Fiber, Layer, Schema } from "effect"
import { Agent, Checkpoint, CheckpointStore, EscalationQueue, Fault, Idempotency } from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import { Prompt, Tool, Toolkit } from "effect/ai"
import { isFull, runs } from "../support/runs.ts"
import { call, durable } from "./support.ts"

const Look = Tool.make("Look", { parameters: Schema.Struct({ at: Schema.String }), success: Schema.String })
  .annotate(Tool.Readonly, true)
const Pay = Tool.make("Pay", { parameters: Schema.Struct({ to: Schema.String }), success: Schema.String })
const Sign = Tool.make("Sign", { success: Schema.String, needsApproval: true }).annotate(Tool.Idempotent, true)
const toolkit = Toolkit.make(Look, Pay, Sign)

// The same answer to the same prompt, whichever process asks.
const script: ScriptedModel.Script = (request) => {
  switch (request.prompt.content.filter((message) => message.role === "tool").length) {
    case 0:
      return ScriptedModel.turn(
        call("1", "Look", { at: "a" }),
        call("2", "Pay", { to: "ann" }),
        call("3", "Look", { at: "b" })
      )
    case 1:
      return call("4", "Sign", {})
    case 2:
      return ScriptedModel.turn(call("5", "Pay", { to: "bob" }), call("6", "Pay", { to: "cid" }))
    default:
      return "All paid."
  }
}

/** Whom money went out to. */
class Paid extends Context.Service<Paid, Array<string>>()("Paid") {
  static readonly layer = Layer.sync(Paid, () => [])
}

const tools = toolkit.toLayer(Effect.map(Paid, (paid) =>
  toolkit.of({
    Look: ({ at }) => Effect.succeed(`saw ${at}`),
    Pay: ({ to }) => Effect.sync(() => (paid.push(to), `paid ${to}`)).pipe(CrashPoints.effect(`pay ${to}`)),
    Sign: () => Effect.succeed("signed")
  })))

/** What is remembered of calls outlives a process, and those who wait for one do not. */
class Remembered extends Context.Service<Remembered, Idempotency.Store>()("Remembered") {
  static readonly layer = Layer.effect(Remembered, Idempotency.makeStoreMemory())
}

const world = Layer.mergeAll(
  Paid.layer,
  Remembered.layer,
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory
)

const process = Layer.mergeAll(
  tools,
  ScriptedModel.layer(script),
  Layer.effect(Idempotency.Idempotency, Effect.flatMap(Remembered, (store) => Idempotency.make({ store })))
)

const options = { runId: "run-1", prompt: "Pay them" }

/** Does what people do: approves, and answers truthfully whether a payment went out. */
const people = Effect.gen(function*() {
  const paid = yield* Paid
  const queue = yield* EscalationQueue.EscalationQueue
  for (const { id, reason, task } of yield* queue.list({ status: "open" })) {
    const to = ["ann", "bob", "cid"].find((name) => task.includes(name))
    const decision: EscalationQueue.Decision = reason !== "AmbiguousState"
      ? { _tag: "Approve" }
      : to !== undefined && paid.includes(to)
      ? { _tag: "Supply", value: `paid ${to}` }
      : { _tag: "Retry" }
    yield* queue.decide(id, decision)
  }
})

/** Runs to the end with people who decide, and gives up after a while. */
const toTheEnd = <Tools extends Record<string, Tool.Any>, R>(agent: Agent.Agent<Tools, string, unknown, R>) =>
  Effect.gen(function*() {
    for (let i = 0; i < 10; i++) {
      const result = yield* Effect.result(Agent.run(agent, options))
      if (result._tag === "Success") return facts(result.success)
      if (!(result.failure instanceof Checkpoint.RunSuspended)) return yield* Effect.fail(result.failure)
      yield* people
    }
    return yield* Effect.fail("still suspended")
  })

const facts = (result: Agent.Result<string>) => ({
  text: result.text,
  turns: result.turns.map((turn) => turn.toolCalls.map(({ isFailure, name }) => [name, isFailure])),
  iterations: result.counters.iterations
})

for (const dedupe of [true, false]) {
  // Once with streams, which is the default, and once without.
  const agent = Agent.make({
    name: "payer",
    instructions: "",
    toolkit,
    tools: { Pay: { dedupe } },
    ...(dedupe ? {} : { stream: false })
  })
  const program = toTheEnd(agent)
  const withResults = dedupe ? "with remembered results" : "without remembered results"

  describe(`an agent that crashes, ${withResults}`, () => {
    it.effect(
      "at every boundary comes to the same end and pays nobody twice",
      () =>
        Effect.gen(function*() {
          const { boundaries, effects, left } = yield* CrashPoints.check({
            program,
            world,
            process,
            ways: isFull ? undefined : ["killed", "disconnected"],
            again: runs(5, 200)
          })
          assert.isAbove(boundaries.length, 50)
          assert.deepStrictEqual(effects.map(({ label }) => label), ["pay ann", "pay bob", "pay cid"])
          assert.isTrue(effects.every(({ atMostOnce }) => atMostOnce))
          assert.strictEqual(left, 0)
        }),
      runs(60_000, 900_000)
    )

    it.effect(
      "by an interruption at any moment comes to the same end and pays nobody twice",
      () =>
        Effect.gen(function*() {
          const inWorld = Effect.provide(Layer.fresh(Layer.provideMerge(process, world)))
          const expected = yield* inWorld(program)
          let interruptions = 0
          for (let moment = 0, reached = true; reached; moment++) {
            reached = yield* inWorld(Effect.gen(function*() {
              const fiber = yield* Effect.forkChild(program, { startImmediately: true })
              for (let i = 0; i < moment; i++) yield* Effect.yieldNow
              const ended = fiber.pollUnsafe() !== undefined
              yield* Fiber.interrupt(fiber)
              if (!ended) interruptions++
              assert.deepStrictEqual(yield* program, expected)
              assert.deepStrictEqual((yield* Paid).toSorted(), ["ann", "bob", "cid"])
              return !ended
            }))
          }
          assert.isAbove(interruptions, 15)
        }),
      60_000
    )
  })
}

describe("an agent that goes on", () => {
  it.effect("asks the model exactly what the undisturbed one would have asked", () =>
    Effect.gen(function*() {
      const Draw = Tool.make("Draw", {
        success: Schema.Struct({ at: Schema.DateTimeUtcFromString, size: Schema.Number }),
        toModelOutput: ({ size }) => [Prompt.textPart({ text: `${size} bytes` })]
      }).annotate(Tool.Readonly, true)
      const drawing = Toolkit.make(Draw)
      const agent = Agent.make({ name: "artist", instructions: "Draw.", toolkit: drawing })
      const handlers = drawing.toLayer({
        Draw: () => Effect.succeed({ at: DateTime.makeUnsafe(0), size: 3 })
      })
      const first = ScriptedModel.turn(
        { type: "reasoning", text: "Hm.", metadata: { anthropic: { signature: "abc" } } },
        "Let me draw.",
        call("1", "Draw", {})
      )
      const asked = (script: ScriptedModel.Script) =>
        Effect.gen(function*() {
          yield* Effect.exit(Agent.run(agent, options))
          const requests = yield* ScriptedModel.requests
          return requests.at(-1)?.prompt
        }).pipe(Effect.provide(Layer.merge(handlers, ScriptedModel.layer(script))))
      const undisturbed = yield* asked([first, ScriptedModel.fail(Fault.permanent)])
      const resumed = yield* asked(["Drawn."])
      assert.deepStrictEqual(resumed, undisturbed)
    }).pipe(Effect.provide(durable)))
})
