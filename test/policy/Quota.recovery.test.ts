import { assert, describe, it } from "@effect/vitest"
import { Clock, Effect } from "effect"
import { Fault, Policy, type Quota } from "effect-resilience"
import { TestClock } from "effect/testing"

const minute = 60_000

/** How many calls came through in each minute of 20 agents that ask for 600 a minute. */
const answered = Effect.fnUntraced(function*(
  refuse: (now: number, refused: number) => Fault.Verdict | undefined,
  quota: Quota.QuotaOptions = {}
) {
  const policy = Policy.make({
    name: "k",
    retry: { maxAttempts: 20 },
    quota: { maxWait: "30 minutes", ...quota },
    limit: { inOutage: "wait" },
    timeout: "5 minutes"
  })
  const counts = Array.from({ length: 10 }, () => 0)
  let refused = 0
  const call = Effect.gen(function*() {
    yield* Effect.sleep("1 second")
    const now = yield* Clock.currentTimeMillis
    const verdict = refuse(now, refused)
    if (verdict !== undefined) {
      refused++
      return yield* Effect.fail({ [Fault.verdictOf]: verdict })
    }
    const at = Math.floor(now / minute)
    counts[at] = (counts[at] ?? 0) + 1
  })
  const agent = Effect.forever(Effect.andThen(Effect.ignore(Policy.apply(call, policy)), Effect.sleep("1 second")))
  yield* Effect.replicateEffect(Effect.forkChild(agent), 20, { discard: true })
  yield* Effect.repeat(TestClock.adjust("1 second"), { times: 10 * 60 - 1 })
  return counts
}, Effect.provide(Policy.layer))

const during = (from: number, to: number, verdict: Fault.Verdict) => (now: number) =>
  now >= from * minute && now < to * minute ? verdict : undefined

describe("Quota after refusals", () => {
  const stories = {
    "that say when": [during(3, 5, Fault.throttled(30_000)), {}],
    "that do not say when": [during(3, 5, Fault.throttled()), {}],
    "of a key whose limits are configured": [during(3, 5, Fault.throttled(30_000)), { requests: 600 }]
  } as const
  for (const [name, [refuse, quota]] of Object.entries(stories)) {
    it.effect(
      `is back at the rate before within two minutes after two minutes of them: ${name}`,
      () =>
        Effect.gen(function*() {
          const counts = yield* answered(refuse, quota)
          assert.isAbove(counts[2] ?? 0, 590)
          assert.isAbove(counts[7] ?? 0, 580)
        }),
      60_000
    )
  }

  it.effect(
    "loses no more than half a minute and a little to a single one with a time of 30 seconds",
    () =>
      Effect.gen(function*() {
        const counts = yield* answered((now, n) => now >= 3 * minute && n < 1 ? Fault.throttled(30_000) : undefined)
        assert.isAbove(counts[3] ?? 0, 200)
        assert.isAbove(counts[4] ?? 0, 580)
      }),
    60_000
  )
})
