/** Agents under an `AdaptiveLimit` against a simulated provider of inference slots, in virtual time and with fixed seeds. */
import { assert, describe, it } from "@effect/vitest"
import { type Duration, Effect, Random } from "effect"
import { AdaptiveLimit, Deadline, type Telemetry, Telemetry as Events } from "effect-resilience"
import { TestClock } from "effect/testing"
import { isFull } from "../support/runs.ts"
import { agents, makeProvider, type ProviderOptions } from "../support/slotProvider.ts"

const seeds = isFull ? [1, 2, 3] : [1]
const reports = [true, false]

/** A provider and agents who call it, stopping what has had no answer for a minute, and a clock that says what was seen. */
const world = Effect.fnUntraced(function*(
  options: ProviderOptions & {
    readonly agents: number
    readonly report: boolean
    readonly limits?: AdaptiveLimit.Options
  }
) {
  const limits = yield* AdaptiveLimit.make(options.limits)
  const provider = yield* makeProvider(options)
  const events: Array<Telemetry.Event> = []
  const call = provider.call(options.report ? AdaptiveLimit.firstToken : Effect.void).pipe(
    Deadline.attempt("60 seconds"),
    limits.withLimit("provider")
  )
  yield* Effect.provideService(agents(options.agents, call), Events.Listener, (event) => events.push(event))
  return {
    ...provider,
    events,
    state: limits.state("provider"),
    after: (duration: Duration.Input) => Effect.andThen(TestClock.adjust(duration), provider.seen)
  }
})

/** Each of them in a run of its own, so that what fails says where. */
const everywhere = (name: string, run: (report: boolean) => Effect.Effect<void>) => {
  for (const seed of seeds) {
    for (const report of reports) {
      const how = report ? "first token reported" : "only the end seen"
      it.effect(`${name} (seed ${seed}, ${how})`, () => Effect.scoped(Random.withSeed(run(report), seed)), 60_000)
    }
  }
}

describe("AdaptiveLimit against a provider of slots", () => {
  everywhere("finds the capacity, and keeps it used with few refusals", (report) =>
    Effect.gen(function*() {
      const provider = yield* world({ slots: 20, stalls: 0.003, agents: 50, report })
      const first = yield* provider.after("30 seconds")
      assert.isAbove(first.busy, 17)
      assert.isAtMost(first.refused, 10)
      const later = yield* provider.after("10 minutes")
      assert.isAbove(later.busy, 19.6)
      assert.isBelow(later.refused / later.calls, 0.01)
      assert.isAtLeast((yield* provider.state).limit, 18)
    }))

  everywhere("finds a small capacity, too, from above", (report) =>
    Effect.gen(function*() {
      const provider = yield* world({ slots: 3, agents: 10, report })
      yield* provider.after("20 seconds")
      const later = yield* provider.after("10 minutes")
      assert.isAbove(later.busy, 2.8)
      assert.isBelow(later.refused / later.calls, 0.06)
    }))

  everywhere("has no refusals where there is room for all", (report) =>
    Effect.gen(function*() {
      const provider = yield* world({ slots: 20, stalls: 0.003, agents: 15, report })
      yield* provider.after("30 seconds")
      const later = yield* provider.after("10 minutes")
      assert.strictEqual(later.refused, 0)
      assert.isAbove(later.busy, 14.8)
      assert.isBelow((yield* provider.state).limit, 20)
    }))

  everywhere(
    "gives way in a brownout, and takes back what comes back within half a minute",
    (report) =>
      Effect.gen(function*() {
        const provider = yield* world({ slots: 20, agents: 50, report })
        yield* provider.after("5 minutes")
        yield* provider.setSlots(5)
        const brownout = yield* provider.after("60 seconds")
        assert.isAtMost(brownout.refused, 20)
        assert.isAtLeast(brownout.busy, 4.6)
        yield* provider.setSlots(20)
        yield* provider.after("30 seconds")
        const later = yield* provider.after("30 seconds")
        assert.isAbove(later.busy, 18)
        assert.isFalse(provider.events.some(({ _tag }) => _tag === "OutageBegan"))
      })
  )

  for (const seconds of [180, 861]) {
    everywhere(
      `sends few calls in an outage of ${seconds} s, and is back soon after it`,
      (report) =>
        Effect.gen(function*() {
          const provider = yield* world({ slots: 20, agents: 50, report })
          yield* provider.after("5 minutes")
          yield* provider.beginOutage
          const first = yield* provider.after("30 seconds")
          // what was under way, a few more, and the first probes
          assert.isAtMost(first.calls, 30)
          assert.strictEqual((yield* provider.state).phase, "Out")
          const outage = yield* provider.after((seconds - 30) * 1_000)
          assert.isAtMost(outage.calls, Math.ceil((seconds - 30) / 10))
          const { running, waiting } = yield* provider.state
          assert.isAtLeast(running + waiting, 47)
          yield* provider.endOutage
          // up to a probe interval until it is seen, a call, and a few rounds of calls to grow
          yield* provider.after(report ? "35 seconds" : "55 seconds")
          const later = yield* provider.after("30 seconds")
          assert.isAbove(later.busy, 18.5)
          assert.deepStrictEqual(
            provider.events.map(({ _tag }) => _tag).filter((tag) => tag.startsWith("Outage")),
            ["OutageBegan", "OutageEnded"]
          )
        })
    )
  }

  everywhere("keeps up with a provider that comes back bit by bit", (report) =>
    Effect.gen(function*() {
      const provider = yield* world({ slots: 40, agents: 80, report })
      yield* provider.after("3 minutes")
      yield* provider.beginOutage
      yield* provider.after("180 seconds")
      yield* provider.endOutage
      let busy = 0
      let room = 0
      let refused = 0
      for (let i = 1; i <= 12; i++) {
        yield* provider.setSlots(Math.ceil(40 * i / 12))
        const seen = yield* provider.after("10 seconds")
        refused += seen.refused
        if (i > 3) {
          busy += seen.busy
          room += Math.ceil(40 * i / 12)
        }
      }
      assert.isAbove(busy / room, 0.75)
      assert.isAtMost(refused, 40)
      assert.isAbove((yield* provider.after("60 seconds")).busy, 38)
    }))

  everywhere(
    "lets none of ten processes starve that share a provider and know nothing of each other",
    (report) =>
      Effect.gen(function*() {
        const provider = yield* makeProvider({ slots: 20, network: 50 })
        const done = Array.from({ length: 10 }, () => 0)
        for (const i of done.keys()) {
          const limits = yield* AdaptiveLimit.make()
          const call = provider.call(report ? AdaptiveLimit.firstToken : Effect.void).pipe(
            limits.withLimit("provider"),
            Effect.tap(() => Effect.sync(() => done[i] = (done[i] ?? 0) + 1))
          )
          yield* agents(10, call)
        }
        yield* TestClock.adjust("2 minutes")
        yield* provider.seen
        done.fill(0)
        yield* TestClock.adjust("20 minutes")
        const seen = yield* provider.seen
        assert.isAbove(seen.busy, 19)
        assert.isBelow(seen.refused / seen.calls, 0.4)
        const total = done.reduce((sum, n) => sum + n, 0)
        // Jain's index: 1 where all get the same, 0.1 where one gets everything
        assert.isAbove(total ** 2 / (10 * done.reduce((sum, n) => sum + n ** 2, 0)), 0.85)
        assert.isAbove(Math.min(...done), total / 40)
      })
  )
})
