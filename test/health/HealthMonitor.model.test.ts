import { assert, it } from "@effect/vitest"
import { Duration, Effect, Schema } from "effect"
import { HealthMonitor } from "effect-resilience"
import { TestClock } from "effect/testing"
import { runs } from "../support/runs.ts"

const names = ["a", "b", "c", "d"] as const

const Command = Schema.Struct({
  key: Schema.Literals(names),
  outcome: Schema.Literals(["success", "failure"]),
  latency: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 20_000 })),
  wait: Schema.Literals([0, 0, 1, 1_000, 60_000, 150_000, 300_000])
})

const Commands = Schema.Array(Command).check(Schema.isMinLength(20), Schema.isMaxLength(120))

interface Call {
  readonly at: number
  readonly latency: number
  readonly failed: boolean
}

/** One key as one would tell it: every call that ever ended, looked through anew each time. */
const told = (past: ReadonlyArray<Call>, size: number, now: number) => {
  const calls = past.slice(-size).filter(({ at }) => now - at <= 300_000)
  const errors = calls.filter(({ failed }) => failed).length
  const latencies = calls.map(({ latency }) => latency).toSorted((one, other) => one - other)
  const percentile = (percent: number) =>
    latencies.find((_, index) => (index + 1) / latencies.length >= percent / 100) ?? Number.NaN
  const mean = latencies.reduce((sum, one) => sum + one, 0) / latencies.length
  const rate = calls.length === 0 ? 0 : errors / calls.length
  const status = rate > 0.5 && calls.length >= Math.min(5, size)
    ? "critical"
    : rate > 0.1
    ? "degraded"
    : mean > 5_000
    ? "slow"
    : "healthy"
  return {
    status,
    calls: calls.length,
    errors,
    rate,
    mean,
    percentiles: calls.length === 0 ? undefined : [50, 95, 99].map(percentile)
  }
}

it.effect.prop(
  "window, rate of the last 5 minutes, percentiles and status are those of its model, under any calls and pauses",
  { size: Schema.Literals([1, 3, 10, 100]), commands: Commands },
  ({ commands, size }) =>
    Effect.scoped(Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ size, idleTimeToLive: "10 days" })
      const past: Record<typeof names[number], Array<Call>> = { a: [], b: [], c: [], d: [] }
      let now = 0
      for (const { key, latency, outcome, wait } of commands) {
        yield* TestClock.adjust(wait)
        now += wait
        yield* monitor.record(key, { outcome, latency })
        past[key].push({ at: now, latency, failed: outcome === "failure" })
        for (const name of names) {
          const health = yield* monitor.status(name)
          const expected = told(past[name], size, now)
          assert.strictEqual(health.status, expected.status)
          assert.deepInclude(health, {
            calls: expected.calls,
            errors: expected.errors,
            successes: expected.calls - expected.errors,
            errorRate: expected.rate
          })
          const { latency } = health
          assert.deepStrictEqual(
            latency && [latency.p50, latency.p95, latency.p99].map((one) => Duration.toMillis(one)),
            expected.percentiles
          )
          if (latency !== undefined) assert.closeTo(Duration.toMillis(latency.mean), expected.mean, 1e-6)
        }
      }
    })).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(40, 2_000), size: 120, seed: 1 }, timeout: runs(60_000, 1_800_000) }
)

it.effect.prop(
  "remembers at most so many keys: those used last",
  {
    maxKeys: Schema.Literals([1, 2, 3]),
    keys: Schema.Array(Schema.Literals(names)).check(Schema.isMinLength(5), Schema.isMaxLength(40))
  },
  ({ keys, maxKeys }) =>
    Effect.scoped(Effect.gen(function*() {
      const monitor = yield* HealthMonitor.make({ maxKeys })
      let used: ReadonlyArray<string> = []
      for (const key of keys) {
        yield* monitor.record(key, { outcome: "success", latency: 1 })
        used = [...used.filter((one) => one !== key), key].slice(-maxKeys)
        const remembered = (yield* monitor.statuses).map((health) => health.key)
        assert.sameMembers(remembered, [...used])
      }
    })).pipe(Effect.provide(TestClock.layer())),
  { arbitrary: { runs: runs(100, 5_000), size: 40, seed: 1 }, timeout: runs(60_000, 1_800_000) }
)
