/** The bad day on the virtual clock, with an HTTP client that is scripted and a model that is overloaded now and then. */
import { Clock, Console, Effect, Layer, References, Schema } from "effect"
import { CheckpointStore, EscalationQueue, Fault, Idempotency, Policy } from "effect-resilience"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { HttpClient, HttpClientError, type HttpClientRequest, HttpClientResponse } from "effect/http"
import { inVirtualTime } from "../support/virtualTime.ts"
import { script } from "./model.ts"
import { show } from "./report.ts"
import * as Researcher from "./Researcher.ts"
import * as Sources from "./Sources.ts"
import * as Web from "./web.ts"

/** A response whose body is there already. One of the web's is read by a promise, and no virtual clock waits for that. */
const responseOf = (
  request: HttpClientRequest.HttpClientRequest,
  { body, headers, status }: Web.Reply
): HttpClientResponse.HttpClientResponse => {
  const response = HttpClientResponse.fromWeb(request, new Response(null, { status, headers }))
  const json = Effect.mapError(
    decodeJson(body),
    (cause) =>
      new HttpClientError.HttpClientError({ reason: new HttpClientError.DecodeError({ request, response, cause }) })
  )
  return new Proxy(response, {
    get: (target, property): unknown => property === "json" ? json : Reflect.get(target, property)
  })
}

const decodeJson = Schema.decodeEffect(Schema.fromJsonString(Schema.Unknown))

/** A client that asks the hosts without a network. */
export const client = (web: Web.Web) =>
  HttpClient.make((request, url) =>
    Effect.gen(function*() {
      const host = Sources.hosts.find((host) => `${host}.example` === url.hostname) ?? "patents"
      const before = yield* web.note(host)
      if (Web.down.has(host)) {
        const cause = Object.assign(new Error(`connect ECONNREFUSED ${host}`), { code: "ECONNREFUSED" })
        return yield* new HttpClientError.HttpClientError({
          reason: new HttpClientError.TransportError({ request, cause, description: cause.message })
        })
      }
      return responseOf(request, yield* web.reply(host, url.searchParams.get("q") ?? "", before))
    })
  )

const badModel = (seed: number) =>
  Layer.unwrap(Effect.map(
    FaultPlan.make({
      seed,
      faults: [
        FaultPlan.delay({ by: FaultPlan.logNormal({ median: "2 seconds", p99: "10 seconds" }) }),
        FaultPlan.fail({ probability: 0.3, error: ScriptedModel.fail(Fault.overloaded("5 seconds")) })
      ]
    }),
    (plan) => FaultPlan.layerLanguageModel(plan)(ScriptedModel.layer(script))
  ))

const question = "How high are the spring tides of Saint-Malo?"

const story = Effect.fnUntraced(function*(web: Web.Web) {
  const answer = Researcher.make()
  const report = yield* answer(question)
  const seconds = (yield* Clock.currentTimeMillis) / 1_000
  yield* show(report)
  const requests = yield* web.requests
  yield* Console.log(`${requests.length} requests to the sources, ${seconds.toFixed(0)} virtual seconds`)
  // Asked again, it is answered from the journal.
  const again = yield* answer(question)
  return { report, again, requests, requestsAgain: (yield* web.requests).length - requests.length, seconds }
})

export const run = Effect.fnUntraced(
  function*(seed: number) {
    const web = yield* Web.make(seed, { retryAfter: 7, slow: "2 minutes", usual: "300 millis" })
    const world = Researcher.toolsLayer().pipe(
      Layer.provideMerge(Layer.mergeAll(
        Layer.succeed(HttpClient.HttpClient, client(web)),
        Layer.succeed(Sources.Addresses, Web.addresses((host) => `https://${host}.example`)),
        badModel(seed),
        CheckpointStore.layerMemory,
        EscalationQueue.layerMemory,
        Idempotency.layerMemory,
        Policy.layer
      ))
    )
    const { mirrorSpoilt, refusals } = web
    return { ...yield* inVirtualTime(Effect.provide(story(web), world), seed), mirrorSpoilt, refusals }
  },
  Effect.provideService(References.MinimumLogLevel, "Error")
)
