import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Fiber, Layer, Schema } from "effect"
import { Agent, Checkpoint, CheckpointStore, EscalationQueue, Fault } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { Prompt, Tool, Toolkit } from "effect/ai"
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

const world = () => {
  const paid: Array<string> = []
  const handlers = toolkit.toLayer({
    Look: ({ at }) => Effect.succeed(`saw ${at}`),
    Pay: ({ to }) => Effect.sync(() => (paid.push(to), `paid ${to}`)),
    Sign: () => Effect.succeed("signed")
  })
  return { paid, layer: Layer.merge(handlers, ScriptedModel.layer(script)) }
}

const options = { runId: "run-1", prompt: "Pay them" }

/** A store that is lost at a write: just before it, or just after it. */
const losing = (store: CheckpointStore.CheckpointStore["Service"], at: number, written: boolean) => {
  let writes = 0
  const lost = new CheckpointStore.CheckpointStoreError({
    operation: "append",
    runId: options.runId,
    reason: { _tag: "Unavailable" }
  })
  return CheckpointStore.CheckpointStore.of({
    ...store,
    append: (lease, entry, status) => {
      writes++
      if (writes < at) return store.append(lease, entry, status)
      if (writes > at || !written) return Effect.fail(lost)
      return Effect.andThen(store.append(lease, entry, status), Effect.fail(lost))
    }
  })
}

/** Does what people do: approves, and answers truthfully whether a payment went out. */
const people = (paid: ReadonlyArray<string>) =>
  Effect.gen(function*() {
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
const toTheEnd = <Tools extends Record<string, Tool.Any>, R>(
  agent: Agent.Agent<Tools, string, unknown, R>,
  paid: ReadonlyArray<string>
) =>
  Effect.gen(function*() {
    for (let i = 0; i < 10; i++) {
      const result = yield* Effect.result(Agent.run(agent, options))
      if (result._tag === "Success") return result.success
      if (!(result.failure instanceof Checkpoint.RunSuspended)) return yield* Effect.fail(result.failure)
      yield* people(paid)
    }
    return yield* Effect.fail("still suspended")
  })

const facts = (result: Agent.Result<string>) => ({
  text: result.text,
  turns: result.turns.map((turn) => turn.toolCalls.map(({ isFailure, name }) => [name, isFailure])),
  iterations: result.counters.iterations
})

for (const dedupe of [true, false]) {
  const agent = Agent.make({ name: "payer", instructions: "", toolkit, tools: { Pay: { dedupe } } })
  const withResults = dedupe ? "with remembered results" : "without remembered results"

  const undisturbed = Effect.gen(function*() {
    const { layer, paid } = world()
    const result = yield* Effect.provide(toTheEnd(agent, paid), layer)
    assert.deepStrictEqual(paid, ["ann", "bob", "cid"])
    return facts(result)
  }).pipe(Effect.provide(durable))

  describe(`an agent that crashes, ${withResults}`, () => {
    for (const written of [false, true]) {
      it.effect(
        `at every write, ${written ? "after" : "before"} it, comes to the same end and pays nobody twice`,
        () =>
          Effect.gen(function*() {
            const expected = yield* undisturbed
            let crashes = 0
            for (let at = 1, reached = true; reached; at++) {
              reached = yield* Effect.gen(function*() {
                const { layer, paid } = world()
                const store = yield* CheckpointStore.CheckpointStore
                const crashing = losing(store, at, written)
                const crashed = yield* Effect.result(
                  toTheEnd(agent, paid).pipe(
                    Effect.provideService(CheckpointStore.CheckpointStore, crashing),
                    Effect.provide(layer)
                  )
                )
                if (crashed._tag === "Success") return false
                crashes++
                const result = yield* Effect.provide(toTheEnd(agent, paid), layer)
                assert.deepStrictEqual(facts(result), expected)
                assert.deepStrictEqual(paid.toSorted(), ["ann", "bob", "cid"])
                return true
              }).pipe(Effect.provide(Layer.fresh(durable)))
            }
            assert.isAbove(crashes, 15)
          }),
        60_000
      )
    }

    it.effect(
      "by an interruption at any moment comes to the same end and pays nobody twice",
      () =>
        Effect.gen(function*() {
          const expected = yield* undisturbed
          let interruptions = 0
          for (let moment = 0, reached = true; reached; moment++) {
            reached = yield* Effect.gen(function*() {
              const { layer, paid } = world()
              const fiber = yield* Effect.provide(toTheEnd(agent, paid), layer).pipe(
                Effect.forkChild({ startImmediately: true })
              )
              for (let i = 0; i < moment; i++) yield* Effect.yieldNow
              const ended = fiber.pollUnsafe() !== undefined
              yield* Fiber.interrupt(fiber)
              if (!ended) interruptions++
              const result = yield* Effect.provide(toTheEnd(agent, paid), layer)
              assert.deepStrictEqual(facts(result), expected)
              assert.deepStrictEqual(paid.toSorted(), ["ann", "bob", "cid"])
              return !ended
            }).pipe(Effect.provide(Layer.fresh(durable)))
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
