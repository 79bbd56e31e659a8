import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect, Fiber, Random } from "effect"
import { Fault, Quota, Retry } from "effect-resilience"
import { TestClock } from "effect/testing"

const perSecond = 2
const burst = 10
const minutes = 10

/** A provider that tells nothing of its limit, which is on requests. Every answer has far fewer tokens than it might. */
const makeProvider = () => {
  let balance = burst
  let at = 0
  let answered = 0
  const call = Effect.gen(function*() {
    const now = yield* Clock.currentTimeMillis
    balance = Math.min(burst, balance + (now - at) * perSecond / 1_000)
    at = now
    if (balance < 1) {
      return yield* Effect.fail({ [Fault.verdictOf]: Fault.throttled("1 second"), _tag: "Throttled" } as const)
    }
    balance--
    yield* Effect.sleep("3 seconds")
    answered++
    return { usage: { inputTokens: 100, outputTokens: 100 } }
  })
  return { call, answered: () => answered }
}

const answeredWith = (outputTokens: number) =>
  Effect.gen(function*() {
    const { answered, call } = makeProvider()
    const worker = call.pipe(
      Quota.withQuota("provider", { maxWait: "1 hour", cost: { inputTokens: 100, outputTokens } }),
      Retry.apply(Retry.policy({ maxAttempts: 100 })),
      Effect.forever
    )
    const workers = Effect.forEach(Array.from({ length: 20 }), () => worker, {
      concurrency: "unbounded",
      discard: true
    })
    const fiber = yield* Effect.forkChild(workers, { startImmediately: true })
    yield* TestClock.adjust(minutes * 60_000)
    yield* Fiber.interrupt(fiber)
    return answered()
  }).pipe(Effect.provide(Quota.layer()), Random.withSeed("estimate"))

describe("Quota and estimates", () => {
  it.effect("sends as much where answers are estimated ten times as long as they are", () =>
    Effect.gen(function*() {
      const exact = yield* answeredWith(100)
      assert.isAbove(exact, 0.75 * perSecond * minutes * 60)
      assert.isAbove(yield* answeredWith(1_000), 0.9 * exact)
    }))
})
