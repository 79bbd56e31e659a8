/**
 * The same agents with and without the governor of their provider: on the virtual clock it takes two requests a second,
 * there are agents for five, and for three minutes it is out. Live it is the real SDK against a server that enforces its
 * limit, all smaller, and with a clock that runs twenty times as fast.
 */
import { Clock, Console, Duration, Effect, Fiber, Layer, Random, Ref, Schema } from "effect"
import { AdaptiveLimit, Backoff, Fault, Quota, Retry } from "effect-resilience"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { LanguageModel } from "effect/ai"
import { TestClock } from "effect/testing"
import type { Example } from "./support/Example.ts"
import { withFastClock } from "./support/fastClock.ts"

class Refused extends Schema.TaggedError<Refused>("examples/Refused")("Refused", {
  status: Schema.Literals([429, 529]),
  retryAfterMillis: Schema.optionalKey(Schema.Finite)
}) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.status === 529 ? Fault.overloaded() : Fault.throttled(this.retryAfterMillis)
  }
  override get message() {
    return `the provider answered ${this.status}: wait, then try again`
  }
}

const minute = 60_000
const stepsOfTask = 8

/** How much there is of everything. */
interface Size {
  readonly perMinute: number
  readonly agents: number
  readonly minutes: number
  readonly outage: { readonly from: number; readonly to: number }
}

const virtualSize: Size = { perMinute: 120, agents: 40, minutes: 10, outage: { from: 2 * minute, to: 5 * minute } }
const liveSize: Size = { perMinute: 40, agents: 24, minutes: 3, outage: { from: minute, to: 1.5 * minute } }

/** What came of the calls and the work that began in one half minute. */
interface Row {
  calls: number
  steps: number
  thrownAway: number
}

interface World {
  readonly rows: Array<Row>
  readonly row: Effect.Effect<Row>
  /** Milliseconds since its beginning. */
  readonly now: Effect.Effect<number>
}

const makeWorld = (minutes: number): Effect.Effect<World> =>
  Effect.map(Clock.currentTimeMillis, (began) => {
    const rows: Array<Row> = Array.from({ length: 2 * minutes + 1 }, () => ({ calls: 0, steps: 0, thrownAway: 0 }))
    const now = Effect.map(Clock.currentTimeMillis, (now) => now - began)
    const row = Effect.map(now, (now) => rows[Math.floor(now / minute * 2)] ?? { calls: 0, steps: 0, thrownAway: 0 })
    return { rows, row, now }
  })

/** A provider whose balance of requests refills continuously. */
const makeProvider = Effect.fnUntraced(function*(world: World, { outage, perMinute }: Size) {
  const balance = yield* Ref.make({ requests: perMinute / 6, at: 0 })
  return Effect.gen(function*() {
    const now = yield* world.now
    const row = yield* world.row
    row.calls++
    yield* Effect.sleep("100 millis")
    if (outage.from <= now && now < outage.to) return yield* new Refused({ status: 529 })
    const isLeft = yield* Ref.modify(balance, ({ at, requests }) => {
      const left = Math.min(perMinute / 6, requests + (now - at) * perMinute / minute)
      return [left >= 1, { requests: left >= 1 ? left - 1 : left, at: now }]
    })
    if (!isLeft) return yield* new Refused({ status: 429, retryAfterMillis: 1_000 })
    yield* Effect.sleep(yield* Random.nextBetween(2_000, 6_000))
  })
})

type Call = Effect.Effect<void, unknown>

/** An agent that works through one task after the other. What a task has done is lost when one of its calls fails. */
const agent = (world: World, call: Call): Effect.Effect<never> =>
  Effect.forever(Effect.gen(function*() {
    const done: Array<Row> = []
    const step = Effect.gen(function*() {
      yield* Effect.sleep(yield* Random.nextBetween(2_000, 4_000))
      yield* call
      const row = yield* world.row
      row.steps++
      done.push(row)
    })
    yield* Effect.repeat(step, { times: stepsOfTask - 1 }).pipe(
      Effect.catch(() =>
        Effect.sync(() => {
          for (const row of done) row.thrownAway++
        })
      )
    )
  }))

const retried = (call: Call): Call =>
  Retry.apply(
    call,
    Retry.policy({ maxAttempts: 5, backoff: Backoff.fullJitter({ base: "1 second", cap: "60 seconds" }) })
  )

/** The one line that makes the difference. */
const governed = (call: Call) =>
  call.pipe(AdaptiveLimit.withLimit("provider"), Quota.withQuota("provider", { maxWait: "1 hour" }))

type Guard = (call: Call) => Effect.Effect<void, unknown, Quota.Quota | AdaptiveLimit.AdaptiveLimit>

/** All agents at work against a provider, for the time there is. */
const run = Effect.fnUntraced(
  function*(
    world: World,
    provider: Call,
    guard: Guard,
    { agents, minutes }: Size,
    pass: (time: Duration.Duration) => Effect.Effect<void>
  ) {
    const governor = yield* Layer.build(Layer.mergeAll(Quota.layer(), AdaptiveLimit.layer()))
    const call = retried(Effect.provideContext(guard(provider), governor))
    const work = Effect.forEach(Array.from({ length: agents }), () => agent(world, call), {
      concurrency: "unbounded",
      discard: true
    })
    const fiber = yield* Effect.forkChild(work, { startImmediately: true })
    yield* pass(Duration.minutes(minutes))
    yield* Fiber.interrupt(fiber)
    return world.rows.slice(0, 2 * minutes)
  },
  Effect.scoped
)

const virtually = (guard: Guard, seed: number) =>
  Effect.gen(function*() {
    const world = yield* makeWorld(virtualSize.minutes)
    return yield* run(world, yield* makeProvider(world, virtualSize), guard, virtualSize, TestClock.adjust)
  }).pipe(Random.withSeed(seed), Effect.provide(TestClock.layer(), { local: true }))

/** A server on loopback that refuses what is above its limit, and the real SDK. */
const overLoopback = (guard: Guard, seed: number) =>
  Effect.gen(function*() {
    const { minutes, outage, perMinute } = liveSize
    const world = yield* makeWorld(minutes)
    const server = yield* ProviderServer.make({
      seed,
      answer: () => Effect.as(Effect.flatMap(Random.nextBetween(2_000, 6_000), Effect.sleep), "done"),
      faults: ({ millisSinceStart: now }) => outage.from <= now && now < outage.to ? { _tag: "Overloaded" } : undefined,
      rateLimit: { requestsPerMinute: perMinute }
    })
    const model = yield* Layer.build(
      Anthropic.layer({ model: "claude-opus-5-5", apiKey: "simulated", baseURL: server.url })
    )
    const call = Effect.gen(function*() {
      const row = yield* world.row
      row.calls++
      yield* LanguageModel.generateText({ prompt: "Take the next step." })
    }).pipe(Effect.provideContext(model))
    return yield* run(world, call, guard, liveSize, Effect.sleep)
  }).pipe(Random.withSeed(seed), Effect.scoped)

const sum = (rows: ReadonlyArray<Row>, of: (row: Row) => number): number =>
  rows.reduce((total, row) => total + of(row), 0)

const kept = ({ steps, thrownAway }: Row): number => steps - thrownAway

const column = (row: Row | undefined): string => {
  if (row === undefined) return ""
  const bar = "#".repeat(Math.round(kept(row) / 3)) + ".".repeat(Math.round(row.thrownAway / 3))
  return `${String(row.calls).padStart(5)}  ${bar.padEnd(24)}`
}

const compare = Effect.fnUntraced(
  function*(without: ReadonlyArray<Row>, withGovernor: ReadonlyArray<Row>, { outage }: Size) {
    yield* Console.log(
      "time   without: calls, steps     with the governor: calls, steps   (# kept, . thrown away; 3 each)"
    )
    for (const [index, row] of without.entries()) {
      const at = index * minute / 2
      const time = `${Math.floor(index / 2)}:${index % 2 === 0 ? "00" : "30"}`
      const state = outage.from <= at && at < outage.to ? "out" : "   "
      yield* Console.log(`${time.padStart(4)} ${state} ${column(row)}  ${column(withGovernor[index])}`.trimEnd())
    }
    const total = (rows: ReadonlyArray<Row>) => ({ calls: sum(rows, ({ calls }) => calls), steps: sum(rows, kept) })
    const totals = { without: total(without), with: total(withGovernor) }
    yield* Console.log(`without: ${totals.without.steps} steps of ${totals.without.calls} calls`)
    yield* Console.log(`with:    ${totals.with.steps} steps of ${totals.with.calls} calls`)
    return totals
  }
)

const ungoverned: Guard = (call) => call

export const virtual = Effect.fnUntraced(function*(seed: number) {
  return yield* compare(yield* virtually(ungoverned, seed), yield* virtually(governed, seed), virtualSize)
})

/** Both at the same time, each with a provider of its own. */
export const live = Effect.fnUntraced(function*(seed: number) {
  const [without, withGovernor] = yield* Effect.all([overLoopback(ungoverned, seed), overLoopback(governed, seed)], {
    concurrency: 2
  }).pipe(withFastClock(20))
  return yield* compare(without, withGovernor, liveSize)
})

export const example = {
  name: "outage",
  about: "the same agents with and without the governor of their provider, through too much demand and an outage",
  virtual,
  live
} satisfies Example
