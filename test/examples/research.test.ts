import { NodeServices } from "@effect/platform-node"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Layer } from "effect"
import { CheckpointStore, EscalationQueue, Idempotency, Policy } from "effect-resilience"
import { CrashPoints, ScriptedModel } from "effect-resilience/testing"
import { HttpClient } from "effect/http"
import * as Live from "../../examples/research/live.ts"
import { script } from "../../examples/research/model.ts"
import * as Researcher from "../../examples/research/Researcher.ts"
import * as Sources from "../../examples/research/Sources.ts"
import * as Virtual from "../../examples/research/virtual.ts"
import * as Web from "../../examples/research/web.ts"
import { isFull } from "../support/runs.ts"

const assertRight = (
  { mirrorSpoilt, report }: { readonly report: Researcher.Report; readonly mirrorSpoilt: boolean }
) => {
  assert.deepStrictEqual(
    report.claims.map(({ degraded, source, via }) => ({ source, via, degraded })),
    [
      { source: "library", via: mirrorSpoilt ? "snapshot" : "mirror", degraded: true },
      { source: "news", via: "news", degraded: false },
      { source: "statistics", via: "statistics", degraded: false }
    ]
  )
  for (const { source, url, via } of report.claims) {
    assert.strictEqual(url, via === "snapshot" ? "file:snapshot/1" : `https://${via}.example/1`, source)
  }
  assert.deepStrictEqual(report.unfounded, ["Everybody agrees that it is so."])
  assert.deepStrictEqual(
    report.unavailable.map(({ label, skipped, verdict }) => ({ label, verdict, skipped })),
    [
      { label: "forum", verdict: "Malformed", skipped: false },
      { label: "patents", verdict: "Transient", skipped: false }
    ]
  )
}

const timesOf = (requests: ReadonlyArray<Web.Request>, host: Web.Request["host"]) =>
  requests.flatMap((one) => one.host === host ? [one.atMillis] : [])

const seeds = isFull ? Array.from({ length: 50 }, (_, seed) => seed) : [1, 2, 3, 4]

describe("research in virtual time", () => {
  it.effect.each(seeds)(
    "says where each claim is from, what it lacks and why, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const result = yield* Virtual.run(seed)
        assertRight(result)
        assert.deepStrictEqual(result.again, result.report)
        assert.strictEqual(result.requestsAgain, 0, "the second answer is the journal's")
      })
  )

  it.effect.each(seeds)(
    "waits as long as the news ask for, and not for the slow answer, seed %i",
    (seed) =>
      Effect.gen(function*() {
        const { refusals, requests } = yield* Virtual.run(seed)
        const news = timesOf(requests, "news")
        assert.lengthOf(news, refusals + 1)
        for (const [index, at] of news.entries()) {
          const before = news[index - 1]
          if (before !== undefined) assert.isAtLeast(at - before, 7_000)
        }
        const [first = Number.NaN, hedge = Number.NaN, ...more] = timesOf(requests, "statistics")
        assert.strictEqual(Math.round(hedge - first), 3_000)
        assert.deepStrictEqual(more, [])
      })
  )

  it.effect("meets both kinds of day: a good mirror, and one full of garbage", () =>
    Effect.gen(function*() {
      const days = yield* Effect.forEach([1, 2, 3, 4], (seed) => Virtual.run(seed))
      assert.deepStrictEqual(new Set(days.map(({ mirrorSpoilt }) => mirrorSpoilt)), new Set([true, false]))
    }))

  it.effect("is the same for a seed each time", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* Virtual.run(7), yield* Virtual.run(7))
    }))
})

describe("research, crashed", () => {
  it.effect(
    "comes to the same report wherever it is cut off",
    () =>
      Effect.gen(function*() {
        // One for each story, which outlives the processes in it.
        const web = Web.make(1, { retryAfter: 7, slow: "2 minutes", usual: "300 millis" })
        const { mirrorSpoilt } = yield* web
        const world = Layer.mergeAll(
          Layer.effect(HttpClient.HttpClient, Effect.map(web, Virtual.client)),
          Layer.succeed(Sources.Addresses, Web.addresses((host) => `https://${host}.example`)),
          CheckpointStore.layerMemory,
          EscalationQueue.layerMemory
        )
        const process = Layer.provideMerge(
          Researcher.toolsLayer(),
          Layer.mergeAll(ScriptedModel.layer(script), Policy.layer, Idempotency.layerMemory)
        )
        const answer = Researcher.make()
        const { boundaries, exit } = yield* CrashPoints.check({
          program: answer("How high are the tides?"),
          world,
          process,
          ways: isFull ? undefined : ["killed"]
        })
        if (Exit.isFailure(exit)) return assert.fail(String(exit.cause))
        assertRight({ report: exit.value, mirrorSpoilt })
        assert.isAbove(boundaries.length, 5)
      }),
    60_000
  )
})

describe("research, live", () => {
  it.live.each([1, 2])("over HTTP servers and the real SDK on loopback, seed %i", (seed) =>
    Effect.gen(function*() {
      const result = yield* Live.run(seed)
      assertRight(result)
      const news = timesOf(result.requests, "news")
      assert.lengthOf(news, result.refusals + 1)
    }).pipe(Effect.provide(NodeServices.layer)), 60_000)
})
