import { assert, describe, it } from "@effect/vitest"
import { Effect } from "effect"
import type { Implementation } from "../../bench/goodput/client.ts"
import { measure } from "../../bench/goodput/metrics.ts"
import { ours } from "../../bench/goodput/ours.ts"
import { aiSdk } from "../../bench/goodput/peers/aiSdk.ts"
import { awsAdaptive } from "../../bench/goodput/peers/awsAdaptive.ts"
import { cockatielPeer } from "../../bench/goodput/peers/cockatiel.ts"
import { naive } from "../../bench/goodput/peers/naive.ts"
import { oracle } from "../../bench/goodput/peers/oracle.ts"
import { sdkStep, sdkTask } from "../../bench/goodput/peers/sdk.ts"
import { type Scenario, scenarios } from "../../bench/goodput/scenarios.ts"
import { type Result, simulate } from "../../bench/goodput/simulation.ts"

const all: ReadonlyArray<Implementation> = [oracle, ours, sdkTask, sdkStep, aiSdk, cockatielPeer, awsAdaptive, naive]

/** A minute and a half of a scenario, its troubles moved to where they fit in. */
const small = (name: string): Scenario => {
  const found = scenarios.find((scenario) => scenario.name === name)
  if (found === undefined) throw new Error(`there is no scenario ${name}`)
  const troubles = found.troubles.map((trouble) => ({ ...trouble, from: 20_000, to: 50_000 }))
  return { ...found, agents: Math.round(found.agents / 4), millis: 90_000, troubles }
}

/** The same, with a quarter of the limits. */
const limited = (name: string): Scenario => {
  const scenario = small(name)
  return {
    ...scenario,
    limits: { requestsPerMinute: 400, inputTokensPerMinute: 150_000, outputTokensPerMinute: 250_000 },
    slots: 15
  }
}

const consumed = ({ fallback, provider }: Result): number => provider.inputTokens + (fallback?.inputTokens ?? 0)

const tokens = (done: Result["work"]["done"]): number => done.reduce((sum, { inputTokens }) => sum + inputTokens, 0)

describe("simulation", () => {
  for (const implementation of all) {
    it.effect(`is the same for the same seed, and another one for another (${implementation.name})`, () =>
      Effect.gen(function*() {
        const scenario = limited("overload-charged-10p")
        const first = yield* simulate(scenario, implementation, 1)
        assert.deepStrictEqual(yield* simulate(scenario, implementation, 1), first)
        assert.notDeepEqual((yield* simulate(scenario, implementation, 2)).work, first.work)
      }))

    it.effect(`takes no more than the limits allow, and does no more than it takes (${implementation.name})`, () =>
      Effect.gen(function*() {
        const scenario = limited("overload")
        const result = yield* simulate(scenario, implementation, 1)
        const { inputTokensPerMinute, requestsPerMinute } = scenario.limits
        const minutes = 1 + scenario.millis / 60_000
        const { calls, refused } = result.provider
        assert.isAtMost(consumed(result), inputTokensPerMinute * minutes)
        assert.isAtMost(calls.length - refused, requestsPerMinute * minutes)
        assert.isAtMost(tokens(result.work.done), consumed(result))
        assert.isAtMost(result.work.done.length, calls.length - refused)
        assert.isAbove(result.work.done.length, 0)
      }))
  }

  for (const { name } of scenarios) {
    it.effect(`the oracle is never refused, loses nothing and repeats nothing (${name})`, () =>
      Effect.gen(function*() {
        const result = yield* simulate(limited(name), oracle, 1)
        assert.deepStrictEqual(
          [result.provider.refused, result.fallback?.refused ?? 0, result.work.lost, result.work.repeated],
          [0, 0, 0, 0]
        )
        assert.isAbove(result.work.done.length, 0)
        assert.strictEqual(measure(result, result).goodput, 1)
      }))
  }

  it.effect("the oracle leaves nothing of the limit unused that is asked for", () =>
    Effect.gen(function*() {
      const scenario = limited("overload")
      const result = yield* simulate(scenario, oracle, 1)
      const allowed = scenario.limits.inputTokensPerMinute * (1 + scenario.millis / 60_000)
      // what it waits for at the end is less than one call
      assert.isAbove(consumed(result), 0.9 * allowed)
    }))

  it.effect("steps of a task that begins anew are thrown away and asked for again", () =>
    Effect.gen(function*() {
      const scenario = limited("overload")
      const { work } = yield* simulate(scenario, sdkTask, 1)
      const thrownAway = work.done.filter((done) => done.thrownAwayAt !== undefined)
      assert.isAbove(work.repeated, 0)
      assert.isAtLeast(thrownAway.length, work.repeated)
      const durable = yield* simulate(scenario, sdkStep, 1)
      assert.strictEqual(durable.work.repeated, 0)
    }))

  it.effect("leaves the globals as they were", () =>
    Effect.gen(function*() {
      const globals = () => [setTimeout, clearTimeout, Date.now, performance.now, Math.random]
      const before = globals()
      yield* simulate(small("nominal"), cockatielPeer, 1)
      assert.deepStrictEqual(globals(), before)
    }))
})
