import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer } from "effect"
import { Agent, AgentBudget, Checkpoint, CheckpointStore, EscalationQueue, Telemetry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { TestClock } from "effect/testing"

const heardBy = <Tag extends Telemetry.Event["_tag"]>(tag: Tag) => {
  const heard: Array<Extract<Telemetry.Event, { readonly _tag: Tag }>> = []
  const isIt = (event: Telemetry.Event): event is Extract<Telemetry.Event, { readonly _tag: Tag }> => event._tag === tag
  return { heard, listening: Telemetry.listen((event) => isIt(event) ? void heard.push(event) : undefined) }
}

describe("Telemetry events", () => {
  it.effect("tell of every operation of a run's store that fails, and why", () =>
    Effect.gen(function*() {
      const { heard, listening } = heardBy("CheckpointStoreFailed")
      const memory = yield* CheckpointStore.CheckpointStore
      const failing = (operation: string) =>
        Effect.fail(new CheckpointStore.CheckpointStoreError({ operation, reason: { _tag: "Unavailable" } }))
      const run = Checkpoint.step("s", {}, Effect.void).pipe(Checkpoint.run({ id: "r" }), Effect.exit, listening)
      for (const operation of ["acquire", "get", "read", "append", "release"] as const) {
        yield* Effect.provideService(run, CheckpointStore.CheckpointStore, {
          ...memory,
          [operation]: () => failing(operation)
        })
      }
      yield* run
      assert.deepStrictEqual(
        [...new Set(heard.map(({ operation, reason }) => `${operation} ${reason}`))],
        [
          "acquire Unavailable",
          "get Unavailable",
          "read Unavailable",
          "append Unavailable",
          "release Unavailable",
          "acquire LeaseHeld"
        ]
      )
      assert.isTrue(heard.every(({ runId }) => runId === "r"))
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("tell after each model call how much of the budgets is used, those without a limit left out", () =>
    Effect.gen(function*() {
      const { heard, listening } = heardBy("BudgetUsed")
      const agent = Agent.make({
        name: "poet",
        instructions: "",
        budget: { iterations: 4, toolCalls: 10, outputTokens: 100, wallTime: "100 seconds" },
        sharedBudget: AgentBudget.shared({ outputTokens: 8_000 })
      })
      const model = ScriptedModel.layer([
        ScriptedModel.text("It rains.", { usage: { inputTokens: 9, outputTokens: 20 } })
      ])
      yield* Agent.run(agent, { runId: "poem-1", prompt: "Rain" }).pipe(Effect.provide(model), listening)
      assert.deepStrictEqual(heard.map(({ scope, shares }) => ({ scope, shares })), [
        { scope: "run", shares: { iterations: 0.25, toolCalls: 0, outputTokens: 0.2, wallTime: 0 } },
        { scope: "shared", shares: { outputTokens: 0.0025 } }
      ])
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))

  it.effect("tell how long a question waited for its decision, and how many wait for how long", () =>
    Effect.gen(function*() {
      const decided = heardBy("EscalationDecided")
      const measured = heardBy("EscalationsMeasured")
      const queue = yield* EscalationQueue.EscalationQueue
      const { id } = yield* queue.submit({ reason: "RequiresHuman", task: "may I?" })
      yield* TestClock.adjust("90 seconds")
      yield* measured.listening(EscalationQueue.measure)
      yield* decided.listening(queue.decide(id, { _tag: "Approve" }))
      yield* measured.listening(EscalationQueue.measure)
      assert.deepStrictEqual(decided.heard.map((event) => event.waitedMillis), [90_000])
      assert.deepStrictEqual(
        measured.heard.map(({ depth, oldestAgeMillis }) => [depth, oldestAgeMillis]),
        [[1, 90_000], [0, 0]]
      )
    }).pipe(Effect.provide(EscalationQueue.layerMemory)))

  it.effect("of an agent are the same with a listener as without: none changes what it does", () =>
    Effect.gen(function*() {
      const run = (runId: string) =>
        Agent.run(Agent.make({ name: "poet", instructions: "" }), { runId, prompt: "Rain" }).pipe(
          Effect.provide(ScriptedModel.layer(["It rains."]))
        )
      const all = Layer.mergeAll(Telemetry.layerMetrics(), Telemetry.layerSpans, Telemetry.layerLog({ levels: {} }))
      assert.deepStrictEqual(yield* Effect.provide(run("a"), all), yield* run("b"))
    }).pipe(Effect.provide(CheckpointStore.layerMemory)))
})
