import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Fiber, Layer } from "effect"
import { EscalationQueue } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import * as path from "node:path"
import { live, virtual, world, worldAround } from "../../examples/desk-outage.ts"
import { script } from "../../examples/support-desk/models.ts"
import { Shop } from "../../examples/support-desk/Shop.ts"
import * as SupportDesk from "../../examples/support-desk/SupportDesk.ts"
import { readFolder } from "../../examples/support-desk/Ticket.ts"

const folder = path.resolve(import.meta.dirname, "../../examples/support-desk/tickets")

describe("the support desk in virtual time", () => {
  it.effect.each([1, 2, 3])(
    "answers the ticket after twenty minutes without a provider, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const outcome = yield* virtual(seed)
        assert.deepInclude(outcome, { status: "done", triageBy: "rules", answerBy: "agent", refunded: true })
        assert.isAtLeast(outcome.seconds, 20 * 60)
        assert.isAtMost(outcome.seconds, 23 * 60)
      })
  )

  it.live("does the same over the real SDK and loopback", () =>
    Effect.gen(function*() {
      const outcome = yield* live(1)
      assert.deepInclude(outcome, { status: "done", answerBy: "agent", refunded: true })
      assert.isAbove(outcome.requests, outcome.answered)
    }))

  it.effect("sorts by its rules where the model hangs over the sorting, and asks people where these are not sure", () => {
    const isSorting = ({ responseFormat }: ScriptedModel.Request) => responseFormat.type === "json"
    const model = ScriptedModel.layer((request) => isSorting(request) ? Effect.never : script(request))
    return Effect.gen(function*() {
      const { tickets } = yield* readFolder(folder)
      const work = SupportDesk.make({ model: "scripted" })
      const ends = yield* Effect.forEach(
        tickets.slice(0, 20),
        (ticket) =>
          work(ticket).pipe(
            Effect.map(({ answerBy, reason, triageBy }) => ({ answerBy, reason, triageBy })),
            Effect.catchTag("RunSuspended", () => Effect.succeed(undefined))
          ),
        { concurrency: 4 }
      ).pipe(Effect.forkChild({ startImmediately: true }))
      while (ends.pollUnsafe() === undefined) yield* TestClock.adjust("1 minute")
      const ended = (yield* Fiber.join(ends)).filter((end) => end !== undefined)
      assert.deepStrictEqual(new Set(ended.map(({ triageBy }) => triageBy)), new Set(["rules"]))
      const unsure = ended.filter(({ reason }) => reason === "LowConfidence")
      assert.isAtLeast(unsure.length, 1)
      assert.isTrue(unsure.every(({ answerBy }) => answerBy === "holding reply"))
      const open = yield* EscalationQueue.EscalationQueue.use((queue) => queue.list({ status: "open" }))
      assert.strictEqual(open.filter(({ reason }) => reason === "LowConfidence").length, unsure.length)
    }).pipe(Effect.provide(Layer.mergeAll(worldAround(model), NodeServices.layer)))
  })

  it.effect("works the whole folder through the same outage, and refunds no order twice", () =>
    Effect.gen(function*() {
      const { tickets, unreadable } = yield* readFolder(folder)
      assert.deepStrictEqual(unreadable, [])
      assert.isAtLeast(tickets.length, 40)
      const work = SupportDesk.make({ model: "scripted" })
      const ends = yield* Effect.forEach(
        tickets,
        (ticket) =>
          work(ticket).pipe(
            Effect.map(({ status }): string => status),
            Effect.catchTag("RunSuspended", () => Effect.succeed("waiting"))
          ),
        { concurrency: 6 }
      ).pipe(Effect.forkChild({ startImmediately: true }))
      yield* TestClock.adjust("20 minutes")
      assert.isUndefined(ends.pollUnsafe())
      yield* TestClock.adjust("2 hours")
      const ended = yield* Fiber.join(ends)
      assert.deepStrictEqual(new Set(ended), new Set(["done", "escalated", "waiting"]))
      const refunds = yield* (yield* Shop).refunds
      assert.strictEqual(new Set(refunds.map(({ orderId }) => orderId)).size, refunds.length)
      assert.isAtLeast(refunds.length, 10)
    }).pipe(Effect.provide(Layer.mergeAll(world({ outage: "20 minutes" }), NodeServices.layer))))
})
