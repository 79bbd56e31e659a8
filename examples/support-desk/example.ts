/** The support desk among the examples: its whole folder on the virtual clock, and its demo, made short, live. */
import { Clock, Console, Effect, FileSystem, References, Schema } from "effect"
import { EscalationQueue } from "effect-resilience"
import { world } from "../desk-outage.ts"
import * as ChildProcess from "../support/childProcess.ts"
import type { Example } from "../support/Example.ts"
import { inVirtualTime } from "../support/virtualTime.ts"
import * as Report from "./report.ts"
import * as Shop from "./Shop.ts"
import * as SupportDesk from "./SupportDesk.ts"
import { readFolder, type Ticket } from "./Ticket.ts"

const folder = new URL("tickets", import.meta.url).pathname

const workAll = Effect.fnUntraced(function*(tickets: ReadonlyArray<Ticket>) {
  const work = SupportDesk.make({ model: "claude-opus-5-5" })
  const ended = yield* Effect.forEach(
    tickets,
    (ticket) =>
      work(ticket).pipe(
        Effect.map(Report.fromOutcome),
        Effect.map(({ reason, status, ticket }) => ({ ticket, status, reason })),
        Effect.catchTag("RunSuspended", ({ reason }) =>
          Effect.succeed({ ticket: ticket.id, status: "waiting" as const, reason }))
      ),
    { concurrency: 6 }
  )
  const of = (status: (typeof ended)[number]["status"]) => ended.filter((one) => one.status === status).length
  yield* Console.log(
    `after ${((yield* Clock.currentTimeMillis) / 60_000).toFixed(0)} virtual minutes: ${of("done")} done, ` +
      `${of("escalated")} escalated, ${of("waiting")} waiting for an approval`
  )
  return ended
})

const story = Effect.fnUntraced(function*(tickets: ReadonlyArray<Ticket>) {
  const before = yield* workAll(tickets)
  yield* Effect.sleep("8 hours")
  const queue = yield* EscalationQueue.EscalationQueue
  const asked = yield* queue.list({ status: "open", reason: "IrreversibleAction" })
  yield* Effect.forEach(asked, ({ id }) => queue.decide(id, { _tag: "Approve" }, { by: "ann" }), { discard: true })
  yield* Console.log(`eight hours later a person approves ${asked.length} refunds`)
  const ended = yield* workAll(tickets)
  const refunds = yield* (yield* Shop.Shop).refunds
  const cents = refunds.reduce((sum, { amountCents }) => sum + amountCents, 0)
  yield* Console.log(`refunded: ${refunds.length} orders, ${(cents / 100).toFixed(2)} EUR`)
  return { before, ended, refunds, approved: asked.length, replies: yield* (yield* Shop.Shop).replies }
})

const virtual = Effect.fnUntraced(
  function*(seed: number) {
    const { tickets } = yield* readFolder(folder)
    const bad = world({ outage: "20 minutes", seed, badMoments: 0.1 })
    const result = yield* inVirtualTime(Effect.provide(story(tickets), bad), seed)
    return { ...result, tickets }
  },
  Effect.provideService(References.MinimumLogLevel, "Error")
)

class DemoFailed extends Schema.TaggedError<DemoFailed>("support-desk/DemoFailed")("DemoFailed", {
  code: Schema.NullOr(Schema.Int)
}) {
  override get message() {
    return `the demo ended with exit code ${this.code}`
  }
}

const live = Effect.fnUntraced(function*(seed: number) {
  const fs = yield* FileSystem.FileSystem
  const data = yield* fs.makeTempDirectoryScoped({ prefix: "support-desk-" })
  const { code } = yield* ChildProcess.run(new URL("main.ts", import.meta.url), [
    "--simulated",
    "--storm=mild",
    "--limit=16",
    `--seed=${seed}`,
    `--data=${data}`
  ])
  if (code !== 0) return yield* new DemoFailed({ code })
}, Effect.scoped)

export const example = {
  name: "support-desk",
  about: "an agent works a folder of tickets through an outage and a kill, and refunds no order twice (`npm run demo`)",
  virtual,
  live
} satisfies Example
