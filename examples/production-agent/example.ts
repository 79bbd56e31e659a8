/** The assistant through a bad hour: on the virtual clock, and live with the real SDK, files and a server on loopback. */
import { Effect, FileSystem, Layer, References } from "effect"
import { Agent, CheckpointStore, EscalationQueue, Fault, Idempotency } from "effect-resilience"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import * as Anthropic from "effect-resilience/model/Anthropic"
import { ScriptedModel } from "effect-resilience/testing"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import type { Example } from "../support/Example.ts"
import { withFastClock } from "../support/fastClock.ts"
import { inVirtualTime } from "../support/virtualTime.ts"
import { toolsLayer, Vouchers } from "./Assistant.ts"
import * as Day from "./day.ts"
import * as Model from "./model.ts"

const inMemory = Layer.mergeAll(CheckpointStore.layerMemory, EscalationQueue.layerMemory, Idempotency.layerMemory)

const virtual = (seed: number) =>
  Effect.gen(function*() {
    const down = yield* Day.outages(Day.hour)
    const model = (which: "firstDown" | "secondDown") =>
      ScriptedModel.layer((request) =>
        Effect.map(Effect.delay(down.isDown(which), "2 seconds"), (isDown) =>
          isDown ? ScriptedModel.fail(Fault.overloaded()) : Model.script(request))
      )
    const production = Agent.layerProduction({
      name: "assistant",
      model: model("firstDown"),
      others: [{ label: "second", model: model("secondDown") }],
      store: Day.failing(down).pipe(Layer.provideMerge(inMemory))
    })
    const world = Layer.provideMerge(toolsLayer, Layer.mergeAll(production, Vouchers.layer))
    return yield* Effect.provide(Day.run(Day.hour), world)
  }).pipe((story) =>
    inVirtualTime(story, seed, { step: "5 seconds" }), Effect.provideService(References.MinimumLogLevel, "None"))

const live = (seed: number) =>
  Effect.gen(function*() {
    const fs = yield* FileSystem.FileSystem
    const folder = yield* fs.makeTempDirectoryScoped({ prefix: "production-agent-" })
    return yield* withFastClock(60)(Effect.gen(function*() {
      const down = yield* Day.outages(Day.quarter)
      const provider = Effect.fnUntraced(function*(which: "firstDown" | "secondDown") {
        const [from, to] = Day.quarter[which]
        const server = yield* ProviderServer.make({
          seed,
          answer: Model.answer,
          faults: ({ millisSinceStart }) =>
            from <= millisSinceStart / 60_000 && millisSinceStart / 60_000 < to ? { _tag: "Overloaded" } : undefined,
          latency: { min: "1 second", max: "3 seconds" }
        })
        return Anthropic.layer({ model: "claude-opus-5-5", apiKey: "simulated", baseURL: server.url })
      })
      const production = Agent.layerProduction({
        name: "assistant",
        model: yield* provider("firstDown"),
        others: [{ label: "second", model: yield* provider("secondDown") }],
        store: Day.failing(down).pipe(Layer.provideMerge(Sqlite.layer({ filename: `${folder}/runs.db` })))
      })
      const world = Layer.provideMerge(toolsLayer, Layer.mergeAll(production, Vouchers.layer))
      return yield* Effect.provide(Day.run(Day.quarter), world)
    }))
  }).pipe(Effect.scoped, Effect.provideService(References.MinimumLogLevel, "None"))

export const example = {
  name: "production-agent",
  about: "an assistant answers through the outage of one model, of both, and of its store, and says from where",
  virtual,
  live
} satisfies Example
