import { NodeFileSystem } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, FileSystem, Layer, Ref } from "effect"
import { Agent, EscalationQueue } from "effect-resilience"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import { ScriptedModel } from "effect-resilience/testing"
import { call, counting, kit } from "./support.ts"

const agent = Agent.make({ name: "support", instructions: "", toolkit: kit, approval: "atMostOnce" })
const options = { runId: "run-1", prompt: "Refund order 7" }

describe("an agent over SQLite", () => {
  it.effect("goes on after its process, with the decision that was made in between", () =>
    Effect.gen(function*() {
      const files = yield* FileSystem.FileSystem
      const filename = `${yield* files.makeTempDirectoryScoped()}/runs.db`
      const { handlers, lookups, refunds } = yield* counting
      // A layer of its own for each process: nothing is shared but the file.
      const process = <A, E, R>(effect: Effect.Effect<A, E, R>, script: ScriptedModel.Script) =>
        Effect.provide(
          effect,
          Layer.mergeAll(handlers, ScriptedModel.layer(script), Layer.fresh(Sqlite.layer({ filename })))
        )

      const suspended = yield* process(Effect.flip(Agent.run(agent, options)), [
        ScriptedModel.turn(call("1", "Lookup", { order: "7" }), call("2", "Refund", { order: "7" }))
      ])
      assert.strictEqual(suspended._tag, "RunSuspended")
      yield* process(
        Effect.gen(function*() {
          const queue = yield* EscalationQueue.EscalationQueue
          for (const { id } of yield* queue.list({ status: "open" })) yield* queue.decide(id, { _tag: "Approve" })
        }),
        []
      )
      const result = yield* process(Agent.run(agent, options), ["Done."])
      assert.strictEqual(result.text, "Done.")
      assert.strictEqual(result.counters.replayedSteps, 2)
      assert.deepStrictEqual([yield* Ref.get(lookups), yield* Ref.get(refunds)], [1, ["7"]])
      const again = yield* process(Agent.run(agent, options), [])
      assert.deepStrictEqual(again.text, result.text)
    }).pipe(Effect.scoped, Effect.provide(NodeFileSystem.layer)))
})
