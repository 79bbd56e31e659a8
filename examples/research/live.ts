/** The same over real sockets: an HTTP server for each host, the real SDK, and a stormy provider, all on loopback. */
import { NodeHttpServer } from "@effect/platform-node"
import { Clock, Console, Effect, Layer, References } from "effect"
import { CheckpointStore, EscalationQueue, Idempotency, Policy } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { FetchHttpClient, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { createServer } from "node:http"
import { answer } from "./model.ts"
import { show } from "./report.ts"
import * as Researcher from "./Researcher.ts"
import * as Sources from "./Sources.ts"
import * as Web from "./web.ts"

/** A host answers or takes no connection within milliseconds, so the waits are short as well. */
const brisk: Sources.Patience = { base: "50 millis", cap: "5 seconds", timeout: "5 seconds", hedgeAfter: "200 millis" }

const serve = Effect.fnUntraced(function*(web: Web.Web, host: Sources.Host) {
  const http = createServer()
  const server = yield* NodeHttpServer.make(() => http, {
    host: "127.0.0.1",
    port: 0,
    disablePreemptiveShutdown: true
  })
  // Neither idle connections nor the slow answer hold up the end of the story.
  yield* Effect.addFinalizer(() => Effect.sync(() => http.closeAllConnections()))
  const respond = Effect.gen(function*() {
    const before = yield* web.note(host)
    const { url } = yield* HttpServerRequest.HttpServerRequest
    const query = new URL(url, "http://127.0.0.1").searchParams.get("q") ?? ""
    const { body, headers, status } = yield* web.reply(host, query, before)
    return HttpServerResponse.text(body, { status, headers })
  })
  yield* server.serve(Effect.interruptible(respond))
  return HttpServer.formatAddress(server.address)
})

/** An address at which nobody listens any more. */
const nobody = Effect.scoped(
  Effect.map(
    NodeHttpServer.make(() => createServer(), { host: "127.0.0.1", port: 0 }),
    ({ address }) => HttpServer.formatAddress(address)
  )
)

export const run = Effect.fnUntraced(
  function*(seed: number) {
    const web = yield* Web.make(seed, { retryAfter: 1, slow: "20 seconds", usual: "20 millis" })
    const urls = new Map<Sources.Host, string>()
    for (const host of Sources.hosts) urls.set(host, Web.down.has(host) ? yield* nobody : yield* serve(web, host))
    const provider = yield* ProviderServer.make({
      answer,
      seed,
      faults: ProviderServer.storm({ seed, severity: "mild", retryAfter: "200 millis" }),
      latency: { min: "20 millis", max: "80 millis" }
    })
    yield* Console.log("six hosts and a simulated model on loopback")
    const world = Researcher.toolsLayer(brisk).pipe(
      Layer.provideMerge(Layer.mergeAll(
        FetchHttpClient.layer,
        Layer.succeed(Sources.Addresses, Web.addresses((host) => urls.get(host) ?? "")),
        Anthropic.layer({
          model: "claude-opus-5-5",
          apiKey: "simulated",
          baseURL: provider.url,
          responseTimeout: "2 seconds",
          stallTimeout: "1 second"
        }),
        CheckpointStore.layerMemory,
        EscalationQueue.layerMemory,
        Idempotency.layerMemory,
        Policy.layer
      ))
    )
    const started = yield* Clock.currentTimeMillis
    const research = Researcher.make({ base: "50 millis" })
    const report = yield* Effect.provide(research("How high are the spring tides of Saint-Malo?"), world)
    yield* show(report)
    const requests = yield* web.requests
    const seconds = ((yield* Clock.currentTimeMillis) - started) / 1_000
    yield* Console.log(`${requests.length} requests reached a source, ${seconds.toFixed(1)} s`)
    const { mirrorSpoilt, refusals } = web
    return { report, requests, mirrorSpoilt, refusals }
  },
  Effect.scoped,
  Effect.provideService(References.MinimumLogLevel, "Error")
)
