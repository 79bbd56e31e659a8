/**
 * The support desk's own program, unchanged, while the provider is down: for twenty minutes on a scripted model and a
 * virtual clock, for three seconds over the real SDK and loopback.
 */
import { Clock, Console, Effect, Layer, References } from "effect"
import { CheckpointStore, CircuitBreaker, EscalationQueue, Fault, Idempotency } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as Anthropic from "effect-resilience/model/Anthropic"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import type { LanguageModel } from "effect/ai"
import { answer, script } from "./support-desk/models.ts"
import * as Shop from "./support-desk/Shop.ts"
import * as SupportDesk from "./support-desk/SupportDesk.ts"
import { parse } from "./support-desk/Ticket.ts"
import type { Example } from "./support/Example.ts"
import { inVirtualTime } from "./support/virtualTime.ts"

const ticket = `Id: T-900
From: Maria Lindqvist <maria@nordlicht.example>
Subject: Charged twice for October
Date: 2026-11-02

Our card was charged twice for HB-1042. Could you send one of the two back?`

/** The desk's world in memory, around a model. */
export const worldAround = <E, R>(
  model: Layer.Layer<LanguageModel.LanguageModel, E, R>,
  circuit: CircuitBreaker.Options = {}
) => {
  const shop = Shop.layer.pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))
  return SupportDesk.toolsLayer.pipe(
    Layer.provideMerge(Layer.mergeAll(
      shop,
      model,
      CircuitBreaker.layer(circuit),
      CheckpointStore.layerMemory,
      EscalationQueue.layerMemory,
      Idempotency.layerMemory
    ))
  )
}

/** With a provider that is overloaded until the given virtual time, and has bad moments as `seed` has it after that. */
export const world = (options: {
  readonly outage: `${number} minutes`
  readonly seed?: number | undefined
  readonly badMoments?: number | undefined
}) => {
  const { badMoments = 0, outage, seed = 1 } = options
  const model = Layer.unwrap(Effect.map(
    FaultPlan.make({
      seed,
      faults: [
        FaultPlan.outage({ from: 0, to: outage, error: ScriptedModel.fail(Fault.overloaded()) }),
        FaultPlan.fail({ probability: badMoments, error: ScriptedModel.fail(Fault.throttled("3 seconds")) }),
        FaultPlan.malformed({ probability: badMoments, output: "truncated" })
      ]
    }),
    (plan) => FaultPlan.layerLanguageModel(plan)(ScriptedModel.layer(script))
  ))
  return worldAround(model)
}

const story = Effect.fnUntraced(function*(patience: SupportDesk.Patience) {
  const work = SupportDesk.make({ model: "claude-opus-5-5", patience })
  const started = yield* Clock.currentTimeMillis
  const outcome = yield* work(yield* parse("T-900", ticket))
  const seconds = ((yield* Clock.currentTimeMillis) - started) / 1_000
  const [refund] = yield* (yield* Shop.Shop).refunds
  yield* Console.log(
    `triage by the ${outcome.triageBy}, answer by the ${outcome.answerBy}, after ${seconds.toFixed(0)} seconds`
  )
  yield* Console.log(`refunded: ${refund?.amountCents ?? 0} cents for ${refund?.orderId ?? "nothing"}`)
  return { ...outcome, seconds }
})

export const virtual = Effect.fnUntraced(
  function*(seed: number) {
    const program = Effect.provide(story(SupportDesk.patient), world({ outage: "20 minutes", seed }))
    return yield* inVirtualTime(program, seed)
  },
  Effect.provideService(References.MinimumLogLevel, "Error")
)

export const live = Effect.fnUntraced(
  function*(seed: number) {
    const server = yield* ProviderServer.make({
      answer,
      seed,
      faults: ({ millisSinceStart }) => millisSinceStart < 3_000 ? { _tag: "Overloaded" } : undefined,
      latency: { min: "10 millis", max: "60 millis" }
    })
    const model = Anthropic.layer({ model: "claude-opus-5-5", apiKey: "simulated", baseURL: server.url })
    const circuit = { openFor: "1 second", successThreshold: 1 } as const
    const outcome = yield* Effect.provide(story(SupportDesk.brisk), worldAround(model, circuit))
    const { answered, requests } = yield* server.stats
    yield* Console.log(`the provider: ${requests} requests, ${answered} answered`)
    return { ...outcome, requests, answered }
  },
  Effect.scoped,
  Effect.provideService(References.MinimumLogLevel, "Error")
)

export const example = {
  name: "desk-outage",
  about:
    "one ticket of the support desk through an outage of its provider: the rules sort it, the agent waits and answers",
  virtual,
  live
} satisfies Example
