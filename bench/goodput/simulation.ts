/**
 * Runs one scenario with one implementation and one seed, and says what came of it.
 */
import { Context, Effect, Fiber, Random, Scope } from "effect"
import { uniform } from "../../src/testing/internal/seeded.ts"
import * as Agents from "./agents.ts"
import type { Implementation, World } from "./client.ts"
import { withGlobals } from "./globals.ts"
import { type Log, Provider } from "./provider.ts"
import type { Scenario } from "./scenarios.ts"
import { VirtualTime } from "./virtualTime.ts"

export interface Result {
  readonly scenario: Scenario
  readonly impl: string
  readonly seed: number
  readonly work: Agents.Work
  readonly provider: Log
  readonly fallback: Log | undefined
}

/** Dice with a state of their own, by the counter that they are hashed with. */
const dice = (seed: number, name: string) => {
  let count = 0
  return () => uniform(seed, count++, name)
}

const randomOf = (next: () => number): Random.Random => ({
  nextDoubleUnsafe: next,
  nextIntUnsafe: () => Math.floor(next() * 2 ** 53) - 2 ** 52
})

export const simulate = Effect.fnUntraced(function*(scenario: Scenario, implementation: Implementation, seed: number) {
  const { agents, headers, limits, millis, processes, refusalsCharged, slots, steps, troubles } = scenario
  const time = new VirtualTime()
  const provider = new Provider(time, seed, {
    name: "primary",
    limits,
    slots,
    troubles,
    headers,
    refusalsCharged
  })
  const half: typeof limits = {
    requestsPerMinute: limits.requestsPerMinute / 2,
    inputTokensPerMinute: limits.inputTokensPerMinute / 2,
    outputTokensPerMinute: limits.outputTokensPerMinute / 2
  }
  const fallback = scenario.hasFallback
    ? new Provider(time, seed, { name: "fallback", limits: half, slots: slots / 2, headers, refusalsCharged })
    : undefined
  const work: Agents.Work = { done: [], taskMillis: [], lost: 0, repeated: 0, failed: 0 }

  const process = Effect.fnUntraced(function*(number: number) {
    const random = dice(seed, `process ${number}`)
    const world: World = { time, provider, fallback, random }
    const call = yield* implementation.make(world)
    const own = Array.from({ length: agents }, (_, index) => index).filter((index) => index % processes === number)
    yield* Effect.forEach(
      own,
      (index) => Agents.agent({ time, seed, number: index, steps, repeats: implementation.repeats, call, work }),
      { concurrency: "unbounded", discard: true }
    ).pipe(Effect.provideService(Random.Random, randomOf(random)))
  })

  const context = Context.make(Scope.Scope, yield* Effect.scope)
  if (implementation.promises === true) yield* withGlobals(time, dice(seed, "globals"))
  const fibers = Array.from({ length: processes }, (_, number) => time.fork(process(number), context))
  if (implementation.promises === true) yield* Effect.promise(() => time.runPromisesUntil(millis))
  else time.runUntil(millis)
  const result: Result = {
    scenario,
    impl: implementation.name,
    seed,
    work: { ...work, done: work.done.map((done) => ({ ...done })), taskMillis: work.taskMillis.slice() },
    provider: provider.log,
    fallback: fallback?.log
  }
  for (const fiber of fibers) {
    const exit = fiber.pollUnsafe()
    if (exit !== undefined) yield* Fiber.join(fiber)
    fiber.interruptUnsafe()
  }
  time.drain()
  return result
}, Effect.scoped)
