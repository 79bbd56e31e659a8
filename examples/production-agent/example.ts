/** The assistant through a bad hour: on the virtual clock, and live with the real SDK, files and a server on loopback. */
import { NodeHttpServer } from "@effect/platform-node"
import { Console, Effect, FileSystem, Layer, References } from "effect"
import { Agent, CheckpointStore, EscalationQueue, Fault, Idempotency, Telemetry } from "effect-resilience"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import * as HealthHttp from "effect-resilience/health/HealthHttp"
import * as Anthropic from "effect-resilience/model/Anthropic"
import { ScriptedModel } from "effect-resilience/testing"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { FetchHttpClient, HttpClient, HttpRouter, HttpServer } from "effect/http"
import { createServer } from "node:http"
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
      const world = toolsLayer.pipe(
        Layer.provideMerge(HttpRouter.serve(HealthHttp.layer(), { disableLogger: true })),
        Layer.provideMerge(Layer.mergeAll(
          production,
          Vouchers.layer,
          FetchHttpClient.layer,
          NodeHttpServer.layer(createServer, { host: "127.0.0.1", port: 0 })
        )),
        Layer.provideMerge(Telemetry.layerMetrics())
      )
      const watched = Effect.gen(function*() {
        const { address } = yield* HttpServer.HttpServer
        const get = (path: string) =>
          HttpClient.get(`${HttpServer.formatAddress(address)}${path}`).pipe(
            Effect.flatMap((response) => Effect.all([Effect.succeed(response.status), response.text]))
          )
        const before = yield* get("/health/live")
        const day = yield* Day.run(Day.quarter)
        const ready = yield* get("/health/ready")
        const [, scraped] = yield* get("/metrics")
        yield* Console.log(`GET /health/ready: ${ready[0]}; GET /metrics, of it:`)
        const told = /^effect_resilience_(answers_total|circuit_transitions_total|health_status)/
        for (const line of scraped.split("\n").filter((line) => told.test(line))) yield* Console.log(`  ${line}`)
        return { ...day, live: before[0], ready: ready[0], scraped }
      })
      return yield* Effect.provide(watched, world)
    }))
  }).pipe(Effect.scoped, Effect.provideService(References.MinimumLogLevel, "None"))

export const example = {
  name: "production-agent",
  about: "an assistant answers through the outage of one model, of both, and of its store, and says from where",
  virtual,
  live
} satisfies Example
