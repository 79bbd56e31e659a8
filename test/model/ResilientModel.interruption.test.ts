import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, Stream } from "effect"
import { AdaptiveLimit, Backoff, Bulkhead, Fault, LastGood, Policy, Quota, ResilientModel } from "effect-resilience"
import { ScriptedModel } from "effect-resilience/testing"
import { LanguageModel, Tool, Toolkit } from "effect/ai"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"
import { isFull } from "../support/runs.ts"

const everything = Policy.make({
  name: "x",
  deadline: "10 minutes",
  retry: { backoff: Backoff.constant({ delay: "1 second" }) },
  quota: { requests: 100 },
  limit: {},
  bulkhead: { maxConcurrent: 1 },
  circuit: { failures: 5 },
  hedge: { delay: "2 seconds", idempotent: true },
  timeout: "5 seconds"
})

const Kit = Toolkit.make(Tool.make("search", {
  parameters: Schema.Struct({ query: Schema.String }),
  success: Schema.String
}))

const overloaded = ScriptedModel.fail(Fault.overloaded())

/** A model that counts its open requests: it fails once, and then answers slowly. */
const makeModel = (open: { count: number }, call: boolean) => {
  let calls = 0
  const opened = Effect.acquireRelease(
    Effect.sync(() => {
      open.count++
      return calls++
    }),
    () =>
      Effect.sync(() => {
        open.count--
      })
  )
  const usage = {
    inputTokens: { uncached: 1, total: 1, cacheRead: 0, cacheWrite: 0 },
    outputTokens: { total: 1, text: 1, reasoning: 0 }
  }
  const parts = call
    ? [{ type: "tool-call", id: "call_1", name: "search", params: { query: "x" } } as const]
    : []
  return LanguageModel.make({
    generateText: () =>
      Effect.gen(function*() {
        if ((yield* opened) === 0) return yield* overloaded
        yield* Effect.sleep("3 seconds")
        return [{ type: "text" as const, text: "Hi" }, ...parts, {
          type: "finish" as const,
          reason: "stop" as const,
          usage
        }]
      }).pipe(Effect.scoped),
    streamText: () =>
      Stream.unwrap(Effect.map(opened, (at) =>
        at === 0 ? Stream.fail(overloaded) : Stream.fromIterable([
          { type: "text-start" as const, id: "0" },
          { type: "text-delta" as const, id: "0", delta: "Hi" },
          { type: "text-end" as const, id: "0" },
          ...parts,
          { type: "finish" as const, reason: "stop" as const, usage }
        ], { chunkSize: 1 }).pipe(Stream.tap(() => Effect.sleep("1 second")))))
  })
}

const arrange = (method: "generateText" | "streamText", options: {
  readonly tools?: boolean
  readonly buffer?: boolean
  readonly fallback?: boolean
}) =>
  Effect.gen(function*() {
    const context = yield* Layer.build(Layer.merge(Policy.layer, LastGood.layer()))
    const open = { count: 0 }
    const model = yield* makeModel(open, options.tools === true)
    const down = yield* LanguageModel.make({
      generateText: () => Effect.andThen(Effect.sleep("1 second"), overloaded),
      streamText: () => Stream.fromEffect(Effect.andThen(Effect.sleep("1 second"), overloaded))
    })
    const shared = { buffer: options.buffer ?? false, lastGood: {} }
    const careful = yield* (options.fallback === true
      ? ResilientModel.makeFallback([
        { label: "down", model: down, policy: Policy.make({ name: "down", bulkhead: {} }) },
        { label: "slow", model, policy: everything }
      ], shared)
      : ResilientModel.make(model, everything, shared)).pipe(Effect.provideContext(context))
    const kit = yield* Kit.pipe(Effect.provide(Kit.toLayer({
      search: () => Effect.as(Effect.sleep("1 second"), "found")
    })))
    const prompt = "?"
    const whole = options.tools === true
      ? Effect.asVoid(careful.generateText({ prompt, toolkit: kit }))
      : Effect.asVoid(careful.generateText({ prompt }))
    const parts = options.tools === true
      ? Stream.runDrain(careful.streamText({ prompt, toolkit: kit }))
      : Stream.runDrain(careful.streamText({ prompt }))
    return {
      effect: method === "generateText" ? whole : parts,
      check: () =>
        Effect.gen(function*() {
          assert.strictEqual(open.count, 0)
          const held = yield* Effect.all([
            Bulkhead.Bulkhead.use(({ states }) => states),
            AdaptiveLimit.AdaptiveLimit.use(({ states }) => states),
            Quota.Quota.use(({ states }) => states)
          ])
          for (const { key, running, waiting } of held.flat()) {
            assert.deepStrictEqual({ key, running, waiting }, { key, running: 0, waiting: 0 })
          }
        }).pipe(Effect.provideContext(context))
    }
  })

describe("ResilientModel leaks nothing", () => {
  const cases = [
    ["generateText", {}],
    ["generateText", { tools: true }],
    ["streamText", {}],
    ["streamText", { buffer: true }],
    ["streamText", { tools: true }],
    ["streamText", { fallback: true }]
  ] as const

  for (const [method, options] of cases) {
    const name = [method, ...Object.keys(options)].join(", ")
    // one sweep takes seconds: the others are part of `npm run test:full`
    if (isFull || Object.keys(options).length === 0) {
      it.effect(
        `interrupted at any step: ${name}`,
        () => interruptEverywhere({ arrange: arrange(method, options), moments: isFull ? undefined : ["during"] }),
        600_000
      )
    }

    it.effect(`whoever cancels: ${name}`, () =>
      everyCancelSource({ arrange: arrange(method, options), after: "2500 millis" }))
  }
})
