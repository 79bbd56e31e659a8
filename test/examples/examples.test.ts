import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Queue } from "effect"
import * as path from "node:path"
import * as Approval from "../../examples/approval/example.ts"
import * as LettaAgent from "../../examples/letta-agent/example.ts"
import * as SupportDesk from "../../examples/support-desk/example.ts"
import * as Process from "../support/process.ts"
import { isFull } from "../support/runs.ts"

const seeds = isFull ? Array.from({ length: 20 }, (_, seed) => seed) : [1, 2, 3]

describe("the examples in virtual time", () => {
  it.effect.each(seeds)(
    "approval: pays what was approved, once, whatever the books lose, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const { lookUps, payments } = yield* Approval.example.virtual(seed)
        assert.deepStrictEqual(payments.map(({ cents, invoice }) => [invoice, cents]), [["R-1", 12_000], [
          "R-2",
          85_000
        ]])
        assert.deepStrictEqual(lookUps, ["R-1", "R-2", "R-3"])
      })
  )

  it.effect.each(seeds)(
    "letta-agent: the scripted evening ends as the live one, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const { replies, requests, refusals, turns } = yield* LettaAgent.example.virtual(seed)
        assert.deepStrictEqual(
          replies.map(({ by }) => by),
          ["concierge", "concierge", "concierge", "concierge", "concierge", "closed", "template"]
        )
        assert.lengthOf(turns, 5)
        assert.strictEqual(new Set(turns).size, 5, "no message reaches the agent twice")
        // Three checks a question; a refusal costs one request more, and so does following a turn that goes on.
        assert.strictEqual(requests, 1 + 6 * 3 + 5 + (refusals + 1) + 1 + 2 + refusals + 4)
      })
  )

  it.effect.each(seeds.slice(0, 2))(
    "support-desk: every ticket ends, and no order is refunded twice, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const { approved, before, ended, refunds, replies, tickets } = yield* SupportDesk.example.virtual(seed)
        assert.deepStrictEqual(ended.map(({ ticket }) => ticket), tickets.map(({ id }) => id))
        assert.isAbove(approved, 0)
        assert.strictEqual(before.filter(({ status }) => status === "waiting").length, approved)
        assert.isTrue(ended.every(({ status }) => status === "done" || status === "escalated"))
        assert.lengthOf(replies, tickets.length)
        assert.isAtLeast(refunds.length, 10)
        assert.strictEqual(new Set(refunds.map(({ orderId }) => orderId)).size, refunds.length)
      }).pipe(Effect.provide(NodeServices.layer))
  )
})

const main = path.resolve(import.meta.dirname, "../../examples/run.ts")

const command = (...args: ReadonlyArray<string>) =>
  Effect.scoped(Effect.gen(function*() {
    const child = yield* Process.start(main, args)
    const lines = yield* Queue.collect(child.lines)
    const { code, errors } = yield* child.ended
    return { code, output: lines.join("\n"), errors }
  }))

describe("npm run example", () => {
  it.live("lists the examples", () =>
    Effect.gen(function*() {
      const { code, output } = yield* command()
      assert.strictEqual(code, 0)
      const names = output.split("\n").flatMap((line) => /^ {2}(\S+)/.exec(line)?.[1] ?? [])
      assert.deepStrictEqual(names, [
        "production-agent",
        "support-desk",
        "document-pipeline",
        "research",
        "approval",
        "letta-agent",
        "desk-outage",
        "outage"
      ])
    }), 90_000)

  it.live("runs one by its name and seed, the same each time", () =>
    Effect.gen(function*() {
      const once = yield* command("research", "--virtual", "--seed", "4")
      const again = yield* command("research", "--virtual", "--seed", "4")
      assert.strictEqual(once.code, 0, once.errors)
      const withoutTimes = (text: string) => text.replaceAll(/\(\d+ ms of real time\)/g, "")
      assert.strictEqual(withoutTimes(again.output), withoutTimes(once.output))
      assert.include(once.output, "research, in virtual time, seed 4")
    }), 90_000)

  it.live("says in a line that there is no such example", () =>
    Effect.gen(function*() {
      const { code, errors } = yield* command("reserch")
      assert.strictEqual(code, 1)
      assert.include(errors, "there is no example \"reserch\"")
      assert.notInclude(errors, "    at ")
    }), 90_000)
})
