import { NodeServices } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Context, Effect, Exit, Layer } from "effect"
import { Checkpoint, CheckpointStore, CircuitBreaker, EscalationQueue, Idempotency } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import * as path from "node:path"
import { script } from "../../examples/support-desk/models.ts"
import * as Shop from "../../examples/support-desk/Shop.ts"
import * as SupportDesk from "../../examples/support-desk/SupportDesk.ts"
import { readFolder, type Ticket } from "../../examples/support-desk/Ticket.ts"
import { isFull, runs } from "../support/runs.ts"

/** The shop is outside: what is paid there, and what is written to customers, outlives every crash. */
const shop = Layer.effect(
  Shop.Shop,
  Effect.map(Shop.make, (shop) => ({
    ...shop,
    refund: (refund) =>
      shop.refund(refund).pipe(CrashPoints.effect(`refund ${refund.amountCents} for ${refund.orderId}`)),
    saveReply: (reply) => shop.saveReply(reply).pipe(CrashPoints.effect(`reply to ${reply.ticketId}`))
  }))
).pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))

class Remembered extends Context.Service<Remembered, Idempotency.Store>()("Remembered") {}

const world = Layer.mergeAll(
  shop,
  CheckpointStore.layerMemory,
  EscalationQueue.layerMemory,
  Layer.effect(Remembered, Idempotency.makeStoreMemory())
)

const process = Layer.mergeAll(
  SupportDesk.toolsLayer,
  CircuitBreaker.layer(),
  ScriptedModel.layer(script),
  Layer.effect(Idempotency.Idempotency, Effect.flatMap(Remembered, (store) => Idempotency.make({ store })))
)

const work = SupportDesk.make({ model: "claude-opus-5-5" })

const folder = path.resolve(import.meta.dirname, "../../examples/support-desk/tickets")

/** People say yes to what cannot be undone. */
const approve = Effect.gen(function*() {
  const queue = yield* EscalationQueue.EscalationQueue
  for (const { id } of yield* queue.list({ status: "open", reason: "IrreversibleAction" })) {
    yield* queue.decide(id, { _tag: "Approve" }, { by: "ann" })
  }
  return true
})

it.effect(
  "the support desk, crashed at any boundary in virtual time, answers every ticket and refunds each order once",
  () =>
    Effect.gen(function*() {
      const { tickets } = yield* readFolder(folder)
      // A refund, one that wants a person's word, and a complaint.
      const chosen = tickets.filter(({ id }) => ["T-001", "T-009", "T-005"].includes(id))
      const untilDone = (ticket: Ticket) =>
        Effect.retry(work(ticket), {
          while: (error) => error instanceof Checkpoint.RunSuspended ? approve : Effect.succeed(false)
        })
      const program = Effect.gen(function*() {
        const outcomes = yield* Effect.forEach(chosen, untilDone, { concurrency: 2 })
        const { refunds, replies } = yield* Shop.Shop
        return {
          outcomes: outcomes.map(({ answerBy, status, ticket }) => `${ticket} ${status} by ${answerBy}`),
          replies: (yield* replies).map(({ ticketId }) => ticketId),
          refunds: (yield* refunds).map(({ amountCents, orderId }) => `${amountCents} for ${orderId}`).toSorted()
        }
      })
      const { boundaries, effects, exit, stories } = yield* CrashPoints.check({
        program,
        world,
        process,
        ways: isFull ? undefined : ["killed"],
        limit: runs(30, 10_000),
        again: runs(2, 100)
      })
      assert.deepStrictEqual(
        exit,
        Exit.succeed({
          outcomes: chosen.map(({ id }) => `${id} done by agent`),
          replies: chosen.map(({ id }) => id),
          refunds: ["4900 for HB-1042", "58800 for HB-1088"]
        })
      )
      assert.deepStrictEqual(
        effects.flatMap(({ atMostOnce, label }) => atMostOnce ? [label] : []),
        ["refund 4900 for HB-1042", "refund 58800 for HB-1088"]
      )
      assert.isAbove(boundaries.length, 90)
      assert.isAtLeast(stories, runs(32, 3 * boundaries.length))
    }).pipe(Effect.provide(NodeServices.layer)),
  runs(120_000, 1_800_000)
)
