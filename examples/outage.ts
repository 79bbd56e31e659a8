/**
 * The same agents with and without the governor of their provider, on the virtual clock: it takes two requests a second,
 * there are agents for five, and for three minutes it is out.
 */
import { Clock, Console, Effect, Fiber, Layer, Random, Ref, Schema } from "effect"
import { AdaptiveLimit, Backoff, Fault, Quota, Retry } from "effect-resilience"
import { TestClock } from "effect/testing"

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
const perMinute = 120
const outage = { from: 2 * minute, to: 5 * minute }
const minutes = 10
const agents = 40
const stepsOfTask = 8

/** What came of the calls and the work that began in one half minute. */
interface Row {
  calls: number
  steps: number
  thrownAway: number
}

type World = Record<"rows", Array<Row>> & { readonly row: Effect.Effect<Row> }

const makeWorld = (): World => {
  const rows: Array<Row> = Array.from({ length: 2 * minutes + 1 }, () => ({ calls: 0, steps: 0, thrownAway: 0 }))
  const row = Effect.map(
    Clock.currentTimeMillis,
    (now) => rows[Math.floor(now / minute * 2)] ?? { calls: 0, steps: 0, thrownAway: 0 }
  )
  return { rows, row }
}

/** A provider whose balance of requests refills continuously. */
const makeProvider = Effect.fnUntraced(function*(world: World) {
  const balance = yield* Ref.make({ requests: perMinute / 6, at: 0 })
  return Effect.gen(function*() {
    const now = yield* Clock.currentTimeMillis
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

/** Ten minutes of all agents. */
const run = Effect.fnUntraced(
  function*(guard: (call: Call) => Effect.Effect<void, unknown, Quota.Quota | AdaptiveLimit.AdaptiveLimit>) {
    const world = makeWorld()
    const governor = yield* Layer.build(Layer.mergeAll(Quota.layer(), AdaptiveLimit.layer()))
    const call = retried(Effect.provideContext(guard(yield* makeProvider(world)), governor))
    const work = Effect.forEach(Array.from({ length: agents }), () => agent(world, call), {
      concurrency: "unbounded",
      discard: true
    })
    const fiber = yield* Effect.forkChild(Random.withSeed(work, 1), { startImmediately: true })
    yield* TestClock.adjust(minutes * minute)
    yield* Fiber.interrupt(fiber)
    return world.rows.slice(0, 2 * minutes)
  },
  Effect.scoped,
  Effect.provide(TestClock.layer(), { local: true })
)

const sum = (rows: ReadonlyArray<Row>, of: (row: Row) => number): number =>
  rows.reduce((total, row) => total + of(row), 0)

const kept = ({ steps, thrownAway }: Row): number => steps - thrownAway

const column = (row: Row | undefined): string => {
  if (row === undefined) return ""
  const bar = "#".repeat(Math.round(kept(row) / 3)) + ".".repeat(Math.round(row.thrownAway / 3))
  return `${String(row.calls).padStart(5)}  ${bar.padEnd(24)}`
}

export const program = Effect.gen(function*() {
  const without = yield* run((call) => call)
  const withGovernor = yield* run(governed)
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
})
