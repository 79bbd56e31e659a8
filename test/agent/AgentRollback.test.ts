import { assert, describe } from "@effect/vitest"
import { Effect, Layer, Ref, Schema } from "effect"
import { Agent, Checkpoint, EscalationQueue, Fault, Telemetry } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { replaying } from "../support/replaying.ts"
import { call, counting, durable, kit } from "./support.ts"

const it = replaying()

const refusal = ScriptedModel.turn("I will not.", { finishReason: "content-filter" })
const agent = Agent.make({ name: "support", instructions: "Be kind.", toolkit: kit })
const options = { runId: "run-1", prompt: "Go" }

const run = <Value, E, R>(
  agent: Agent.Agent<typeof kit["tools"], Value, E, R>,
  script: ScriptedModel.Script
) =>
  Effect.gen(function*() {
    const { handlers, refunds } = yield* counting
    const events: Array<Telemetry.Event> = []
    const world = Layer.mergeAll(handlers, ScriptedModel.layer(script))
    return yield* Effect.gen(function*() {
      const result = yield* Effect.result(Agent.run(agent, options))
      return { result, requests: yield* ScriptedModel.requests, events, refunds: yield* Ref.get(refunds) }
    }).pipe(
      Effect.provide(world),
      Effect.provideService(Telemetry.Listener, (event) => void events.push(event))
    )
  })

const roles = (request: ScriptedModel.Request | undefined) => request?.prompt.content.map(({ role }) => role)

describe("an agent whose model call fails because of what was said", () => {
  it.effect("goes back to the turn before, tells the model why, and counts it", () =>
    Effect.gen(function*() {
      const { requests, result } = yield* run(agent, [call("1", "Lookup", { order: "7" }), refusal, "Done."])
      assert.isTrue(result._tag === "Success")
      if (result._tag !== "Success") return
      assert.strictEqual(result.success.text, "Done.")
      assert.strictEqual(result.success.counters.rollbacks, 1)
      assert.deepStrictEqual(result.success.turns.map(({ finishReason }) => finishReason), [
        "tool-calls",
        "error",
        "stop"
      ])
      assert.deepStrictEqual(roles(requests[2]), ["system", "user", "user"])
      assert.include(JSON.stringify(requests[2]?.prompt), "was taken back")
    }).pipe(Effect.provide(durable)))

  it.effect("tells the model what went wrong in words for it, without ids and advice to operators", () =>
    Effect.gen(function*() {
      const look = call("1", "Lookup", { order: "7" })
      for (
        const [failure, why] of [
          [refusal, "you declined to go on"],
          [ScriptedModel.turn("Half a", { finishReason: "length" }), "your answer was too long and was cut off"],
          [ScriptedModel.turn("What", { finishReason: "other" }), "your answer was not a whole one"],
          [ScriptedModel.fail(Fault.contextOverflow), "the conversation had become too long"],
          [ScriptedModel.fail(Fault.malformed), "Invalid output: scripted failure (Malformed)"]
        ] as const
      ) {
        const { requests } = yield* run(agent, [look, failure, "Done."]).pipe(Effect.provide(Layer.fresh(durable)))
        const last = requests.at(-1)?.prompt.content.at(-1)
        assert.deepStrictEqual(
          last?.role === "user" && last.content.map((part) => part.type === "text" ? part.text : part.type),
          [`The last step of this task failed and was taken back: ${why}. Go on in another way.`]
        )
      }
    }))

  it.effect("never goes back past a call that must not happen twice", () =>
    Effect.gen(function*() {
      const { refunds, requests, result } = yield* run(agent, [call("1", "Refund", { order: "7" }), refusal, "Done."])
      assert.isTrue(result._tag === "Success" && result.success.counters.rollbacks === 1)
      assert.deepStrictEqual(roles(requests[2]), ["system", "user", "assistant", "tool", "user"])
      assert.deepStrictEqual(refunds, ["7"])
    }).pipe(Effect.provide(durable)))

  it.effect("goes back twice and no oftener, then fails with the last error", () =>
    Effect.gen(function*() {
      const script = [call("1", "Lookup", { order: "7" }), refusal, refusal, refusal, refusal, "Done."]
      const { events, requests, result } = yield* run(agent, script)
      assert.isTrue(
        result._tag === "Failure" && result.failure._tag === "AgentError" && result.failure.reason._tag === "Refused"
      )
      assert.strictEqual(requests.length, 4)
      assert.strictEqual(events.filter(({ _tag }) => _tag === "AgentWentBack").length >= 2, true)
    }).pipe(Effect.provide(durable)))

  it.effect("fails at once in its first turn, where it must not go back, and where another history changes nothing", () =>
    Effect.gen(function*() {
      const look = call("1", "Lookup", { order: "7" })
      const strict = Agent.make({ name: "support", instructions: "Be kind.", toolkit: kit, rollback: false })
      for (
        const [one, script, asked] of [
          [agent, [refusal, "Done."], 1],
          [strict, [look, refusal, "Done."], 2],
          [agent, [look, ScriptedModel.fail(Fault.permanent), "Done."], 2]
        ] as const
      ) {
        const { requests, result } = yield* run(one, script).pipe(Effect.provide(Layer.fresh(durable)))
        assert.strictEqual(result._tag, "Failure")
        assert.strictEqual(requests.length, asked)
      }
    }))

  it.effect("goes back where repairs did not help", () =>
    Effect.gen(function*() {
      const judge = Agent.make({
        name: "judge",
        instructions: "",
        toolkit: kit,
        result: Schema.Struct({ score: Schema.Int }),
        maxRepairs: 1
      })
      const script = [call("1", "Lookup", { order: "7" }), "three", "Three.", `{"score":3}`]
      const { result } = yield* run(judge, script)
      assert.isTrue(result._tag === "Success" && result.success.value?.score === 3)
      if (result._tag === "Success") {
        assert.deepInclude(result.success.counters, { repairs: 1, rollbacks: 1, iterations: 4 })
      }
    }).pipe(Effect.provide(durable)))
})

describe("an agent that is not sure of its answer", () => {
  const Verdict = Schema.Struct({ score: Schema.Int, confidence: Schema.Number })
  const judge = Agent.make({ name: "judge", instructions: "Judge.", result: Verdict })
  const careful = Agent.reviewed(judge, { when: { field: "confidence", below: 0.8 }, maxReviews: 1 })
  const unsure = (score: number) => JSON.stringify({ score, confidence: 0.5 })

  const decided = (script: ScriptedModel.Script, ...decisions: ReadonlyArray<EscalationQueue.Decision>) =>
    Effect.gen(function*() {
      const queue = yield* EscalationQueue.EscalationQueue
      for (const decision of decisions) {
        const suspended = yield* Effect.flip(Agent.run(careful, options))
        assert.strictEqual(suspended._tag, "RunSuspended")
        const open = yield* queue.list({ status: "open" })
        assert.deepStrictEqual(open.map(({ reason }) => reason), ["LowConfidence"])
        for (const { id } of open) yield* queue.decide(id, decision)
      }
      return yield* Effect.result(Agent.run(careful, options))
    }).pipe(Effect.provide(ScriptedModel.layer(script)), Effect.provide(Layer.fresh(durable)))

  it.effect("asks nobody where it is sure", () =>
    Effect.gen(function*() {
      const result = yield* decided([`{"score":3,"confidence":0.9}`])
      assert.isTrue(result._tag === "Success" && result.success.counters.reviews === 0)
    }))

  it.effect("answers what people approve, and says so", () =>
    Effect.gen(function*() {
      const result = yield* decided([unsure(3)], { _tag: "Approve" })
      assert.isTrue(result._tag === "Success" && result.success.completion === "complete")
      if (result._tag !== "Success" || result.success.completion !== "complete") return
      assert.strictEqual(result.success.review, "approved")
      assert.strictEqual(result.success.value.score, 3)
      assert.strictEqual(result.success.counters.reviews, 1)
    }))

  it.effect("answers what people supply, decoded", () =>
    Effect.gen(function*() {
      const result = yield* decided([unsure(3)], { _tag: "Supply", value: { score: 5, confidence: 1 } })
      assert.isTrue(result._tag === "Success" && result.success.completion === "complete")
      if (result._tag !== "Success" || result.success.completion !== "complete") return
      assert.strictEqual(result.success.review, "supplied")
      assert.deepStrictEqual(result.success.value, { score: 5, confidence: 1 })
    }))

  it.effect("answers again where people send it back, and asks again where it is still not sure", () =>
    Effect.gen(function*() {
      const result = yield* decided(
        [unsure(3), unsure(4)],
        { _tag: "Reject", reason: "too few facts" },
        { _tag: "Approve" }
      )
      assert.isTrue(result._tag === "Success" && result.success.value?.score === 4)
      assert.isTrue(result._tag === "Success" && result.success.counters.reviews === 2)
    }))

  it.effect("ends where people abandon it, with their reason", () =>
    Effect.gen(function*() {
      const result = yield* decided([unsure(3)], { _tag: "Abandon", reason: "no case" })
      assert.isTrue(
        result._tag === "Failure" && result.failure._tag === "AgentError" &&
          result.failure.reason._tag === "AnswerAbandoned"
      )
      assert.isTrue(result._tag === "Failure" && !(result.failure instanceof Checkpoint.RunSuspended))
    }))
})
