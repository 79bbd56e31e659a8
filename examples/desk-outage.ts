/**
 * The support desk's own program, unchanged, on a scripted model and a virtual clock: the provider is down for twenty
 * minutes, and nobody waits for it.
 */
import { Console, Effect, Fiber, Layer, References } from "effect"
import { CheckpointStore, CircuitBreaker, EscalationQueue, Fault, Idempotency } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { script } from "./support-desk/models.ts"
import * as Shop from "./support-desk/Shop.ts"
import * as SupportDesk from "./support-desk/SupportDesk.ts"
import { parse } from "./support-desk/Ticket.ts"

const ticket = `Id: T-900
From: Maria Lindqvist <maria@nordlicht.example>
Subject: Charged twice for October
Date: 2026-11-02

Our card was charged twice for HB-1042. Could you send one of the two back?`

/** The desk's world in memory, with a provider that is overloaded until the given virtual time. */
export const world = (options: { readonly outage: `${number} minutes` }) => {
  const model = Layer.unwrap(Effect.map(
    FaultPlan.make({
      seed: 1,
      faults: [FaultPlan.outage({ from: 0, to: options.outage, error: ScriptedModel.fail(Fault.overloaded()) })]
    }),
    (plan) => FaultPlan.layerLanguageModel(plan)(ScriptedModel.layer(script))
  ))
  const shop = Shop.layer.pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))
  return SupportDesk.toolsLayer.pipe(
    Layer.provideMerge(Layer.mergeAll(
      shop,
      model,
      CircuitBreaker.layer(),
      CheckpointStore.layerMemory,
      EscalationQueue.layerMemory,
      Idempotency.layerMemory
    ))
  )
}

export const program = Effect.gen(function*() {
  const work = SupportDesk.make({ model: "scripted" })
  const fiber = yield* Effect.forkChild(work(yield* parse("T-900", ticket)), { startImmediately: true })
  let minutes = 0
  while (fiber.pollUnsafe() === undefined && minutes < 60) {
    yield* TestClock.adjust("1 minute")
    minutes++
  }
  const outcome = yield* Fiber.join(fiber)
  const [refund] = yield* (yield* Shop.Shop).refunds
  yield* Console.log(
    `triage by the ${outcome.triageBy}, answer by the ${outcome.answerBy}, after ${minutes} virtual minutes`
  )
  yield* Console.log(`refunded: ${refund?.amountCents ?? 0} cents for ${refund?.orderId ?? "nothing"}`)
  return { ...outcome, minutes }
}).pipe(
  Effect.provide(world({ outage: "20 minutes" })),
  Effect.provide(TestClock.layer()),
  Effect.provideService(References.MinimumLogLevel, "Warn")
)
