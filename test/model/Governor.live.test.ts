/** The governor of a provider around the real SDK, over HTTP: time is the real one, only faster. */
import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Layer } from "effect"
import { AdaptiveLimit, Backoff, Quota, Retry, Telemetry } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { LanguageModel } from "effect/ai"

/** A clock that goes so many times faster than the one at hand. */
const faster = (times: number) =>
  Effect.map(Clock.Clock, (clock): Clock.Clock => {
    const start = clock.currentTimeMillisUnsafe()
    const currentTimeMillisUnsafe = () => start + (clock.currentTimeMillisUnsafe() - start) * times
    const monotonic = () => clock.monotonicTimeNanosUnsafe() * BigInt(times)
    const currentTimeNanosUnsafe = () => BigInt(Math.round(currentTimeMillisUnsafe())) * 1_000_000n
    return {
      currentTimeMillisUnsafe,
      currentTimeMillis: Effect.sync(currentTimeMillisUnsafe),
      currentTimeNanosUnsafe,
      currentTimeNanos: Effect.sync(currentTimeNanosUnsafe),
      monotonicTimeNanosUnsafe: monotonic,
      monotonicTimeNanos: Effect.sync(monotonic),
      sleep: (duration) => clock.sleep(Duration.divideUnsafe(duration, times))
    }
  })

const fibers = 50
const callsOfEach = 8
const calls = fibers * callsOfEach
/** Less than half of the calls go through at once; the others have to wait for their time. */
const requestsPerMinute = 150

const retries = Retry.policy({
  maxAttempts: 50,
  backoff: Backoff.fullJitter({ base: "1 second", cap: "30 seconds" }),
  idempotent: true
})

const ask = LanguageModel.generateText({ prompt: "How long is a piece of string?" })

/** What the server counted when many fibers asked it for more than it gives. */
const refusals = Effect.fnUntraced(function*(
  call: Effect.Effect<unknown, unknown, LanguageModel.LanguageModel | Quota.Quota | AdaptiveLimit.AdaptiveLimit>
) {
  const server = yield* ProviderServer.make({
    latency: { min: "500 millis", max: "3 seconds" },
    rateLimit: { requestsPerMinute }
  })
  // Only the clock of this test is fast, and not the machine: nothing is given up.
  const patience = { responseTimeout: "10 hours", streamTimeout: "10 hours", stallTimeout: "10 hours" } as const
  const model = Anthropic.layer({ model: "claude-opus-5-5", apiKey: "test", baseURL: server.url, ...patience })
  let waited = 0
  const listener = (event: Telemetry.Event) => {
    if (event._tag === "QuotaWaited") waited++
  }
  const agent = Effect.repeat(Effect.asVoid(call), { times: callsOfEach - 1 })
  yield* Effect.all(Array.from({ length: fibers }, () => agent), { concurrency: "unbounded", discard: true }).pipe(
    Effect.provide(Layer.mergeAll(model, Quota.layer(), AdaptiveLimit.layer())),
    Effect.provideService(Telemetry.Listener, listener)
  )
  const { answered, requests } = yield* server.stats
  return { answered, refused: requests - answered, waited }
}, Effect.scoped)

const rushed = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
  Effect.flatMap(faster(30), (clock) => Effect.provideService(effect, Clock.Clock, clock))

describe("the governor around the real SDK", () => {
  it.live("gets all calls of 50 fibers through, and has next to none refused", () =>
    rushed(Effect.gen(function*() {
      const governed = yield* refusals(ask.pipe(
        AdaptiveLimit.withLimit("anthropic"),
        Quota.withQuota("anthropic", { maxWait: "10 minutes" }),
        Retry.apply(retries)
      ))
      assert.strictEqual(governed.answered, calls)
      assert.isAtLeast(governed.waited, fibers / 2)
      assert.isAtMost(governed.refused, calls / 20)
    })), 60_000)
})
