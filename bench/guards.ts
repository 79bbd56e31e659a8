/**
 * What a guard adds to a call that nothing is wrong with, and what a refused call costs: the bare effect, Effect's own
 * combinators and the toolkit's, in the same rounds of the same process.
 */
import { Effect, Layer, Schedule } from "effect"
import { CircuitBreaker, Fallback, Fault, Retry } from "effect-resilience"
import { CircuitBreaker as EffectBreaker } from "effect/persistence"
import { interleaved, median, medianRatio } from "./support/measure.ts"
import type { Bench, Measurement } from "./support/report.ts"

const implementations = ["bare effect", "Effect", "effect-resilience"] as const
type Implementation = (typeof implementations)[number]

/** One call, made anew each time, as programs make their calls. */
type Call = (key: string) => Effect.Effect<unknown, unknown>

interface Case {
  readonly name: string
  readonly keys?: number
  readonly calls: Partial<Record<Implementation, Call>>
}

const down = { [Fault.verdictOf]: Fault.transient, _tag: "Down" } as const

let count = 0
const succeeding = (): Effect.Effect<number, typeof down> => Effect.sync(() => ++count)
const failing = (): Effect.Effect<number, typeof down> => Effect.fail(down)

const openFor = "1 hour"

const toolkitBreaker = (options?: CircuitBreaker.Options) =>
  Effect.map(CircuitBreaker.make({ openFor, ...options }), ({ protect }) => protect)

const effectBreaker = Effect.fnUntraced(function*(tripPolicy: EffectBreaker.TripPolicy) {
  const store = yield* Layer.build(EffectBreaker.layerStoreMemory())
  const { execute } = yield* Effect.provideContext(EffectBreaker.make({ tripPolicy, openDuration: openFor }), store)
  return (key: string) => execute({ key })
})

const policy = Retry.policy()
const times4 = { schedule: Schedule.jittered(Schedule.exponential("1 second")), times: 4 }

/** A case of its own circuits, that have seen nothing before. */
const withCircuits = Effect.fnUntraced(function*(
  name: string,
  options: {
    readonly keys?: number
    readonly trip?: CircuitBreaker.TripRule
    readonly effectTrip?: EffectBreaker.TripPolicy
  }
) {
  const toolkit = yield* toolkitBreaker(options.trip === undefined ? {} : { trip: options.trip })
  const effect = yield* effectBreaker(options.effectTrip ?? EffectBreaker.consecutive(5))
  const own: Case["calls"] = { "effect-resilience": (key) => succeeding().pipe(toolkit(key)) }
  const found: Case = {
    name,
    ...(options.keys === undefined ? {} : { keys: options.keys }),
    calls: options.trip !== undefined && options.effectTrip === undefined
      ? own
      : { Effect: (key) => succeeding().pipe(effect(key)), ...own }
  }
  return found
})

const cases = Effect.gen(function*() {
  const toolkit = yield* toolkitBreaker()
  const effect = yield* effectBreaker(EffectBreaker.consecutive(5))

  const toolkitOpen = yield* toolkitBreaker({ trip: CircuitBreaker.consecutive(1) })
  const effectOpen = yield* effectBreaker(EffectBreaker.consecutive(1))
  yield* Effect.ignore(failing().pipe(toolkitOpen(keyOf(0))))
  yield* Effect.ignore(failing().pipe(effectOpen(keyOf(0))))

  const found: ReadonlyArray<Case> = [
    { name: "success, no guard", calls: { "bare effect": succeeding } },
    {
      name: "success, retry",
      calls: {
        Effect: () => succeeding().pipe(Effect.retry(times4)),
        "effect-resilience": () => succeeding().pipe(Retry.apply(policy))
      }
    },
    {
      name: "success, circuit",
      calls: {
        Effect: (key) => succeeding().pipe(effect(key)),
        "effect-resilience": (key) => succeeding().pipe(toolkit(key))
      }
    },
    {
      name: "success, retry + circuit",
      calls: {
        Effect: (key) => succeeding().pipe(effect(key), Effect.retry(times4)),
        "effect-resilience": (key) => succeeding().pipe(toolkit(key), Retry.apply(policy))
      }
    },
    {
      name: "success, retry + circuit + fallback",
      calls: {
        Effect: (key) => succeeding().pipe(effect(key), Effect.retry(times4), Effect.catch(succeeding)),
        "effect-resilience": (key) =>
          succeeding().pipe(toolkit(key), Retry.apply(policy), Fallback.orElse("template", succeeding))
      }
    },
    yield* withCircuits("circuit, 1 key", { keys: 1 }),
    yield* withCircuits("circuit, 10,000 keys", { keys: 10_000 }),
    yield* withCircuits("circuit, 20,000 keys", { keys: 20_000 }),
    yield* withCircuits("circuit, rate of 100 calls", {
      trip: CircuitBreaker.rate({ size: 100 }),
      effectTrip: EffectBreaker.rate({ size: 100 })
    }),
    yield* withCircuits("circuit, rate of 10,000 calls", {
      trip: CircuitBreaker.rate({ size: 10_000 }),
      effectTrip: EffectBreaker.rate({ size: 10_000 })
    }),
    yield* withCircuits("circuit, rate over a minute", { trip: CircuitBreaker.rateOver({ window: "1 minute" }) }),
    {
      name: "rejected, open circuit",
      calls: {
        "bare effect": () => Effect.ignore(failing()),
        Effect: (key) => succeeding().pipe(effectOpen(key), Effect.ignore),
        "effect-resilience": (key) => succeeding().pipe(toolkitOpen(key), Effect.ignore)
      }
    }
  ]
  return found
})

const keyOf = (n: number): string => `provider-${n}`
const keys = Array.from({ length: 20_000 }, (_, n) => keyOf(n))

/** Makes so many calls one after the other in one fiber, going round the keys. */
const loop = ({ call, calls, keyCount }: { call: Call; calls: number; keyCount: number }) => {
  let next = 0
  let left = 0
  const program = Effect.whileLoop({
    while: () => left-- > 0,
    body: () => {
      const key = keys[next] ?? ""
      next = next + 1 === keyCount ? 0 : next + 1
      return call(key)
    },
    step: () => {}
  })
  return () => {
    left = calls
    Effect.runSync(program)
  }
}

export const bench: Bench = Effect.fnUntraced(function*({ quick }) {
  const calls = quick ? 10 : 1_000
  const rounds = quick ? 1 : 21
  const contenders = (yield* cases).flatMap((one) =>
    implementations.flatMap((impl) => {
      const call = one.calls[impl]
      if (call === undefined) return []
      const keyCount = one.keys ?? 1
      // Every key has been seen before anything is measured.
      loop({ call, calls: keyCount, keyCount })()
      return [{ case: one.name, impl, run: loop({ call, calls, keyCount }) }]
    })
  )
  const measured = yield* interleaved(
    new Map(contenders.map((contender) => [contender, contender.run])),
    quick ? { rounds, millis: 0, warmupMillis: 0 } : { rounds, millis: 30, warmupMillis: 300 }
  )
  const found = contenders.map((contender) => ({
    case: contender.case,
    impl: contender.impl,
    nanos: (measured.get(contender) ?? []).map((millis) => millis * 1_000_000 / calls)
  }))
  const nanosOf = (impl: Implementation, name: string) =>
    found.find((other) => other.impl === impl && other.case === name)?.nanos

  const noGuard = nanosOf("bare effect", "success, no guard") ?? []
  const measurements = found.flatMap(({ case: name, impl, nanos }) => {
    const of = (unit: string, value: number): ReadonlyArray<Measurement> =>
      Number.isNaN(value) ? [] : [{ bench: "guards", case: name, impl, unit, value, n: rounds }]
    // A base is not compared with itself, nor Effect with Effect.
    const base = impl === "bare effect" ? [] : nanosOf("bare effect", name) ?? noGuard
    const peer = impl === "effect-resilience" ? nanosOf("Effect", name) ?? [] : []
    return [
      of("ns/call", median(nanos)),
      of("ns added", median(nanos.map((value, round) => value - (base[round] ?? Number.NaN)))),
      of("x bare", medianRatio(nanos, base)),
      of("x Effect", medianRatio(nanos, peer))
    ].flat()
  })

  return {
    title: "guards: one call through its guards, in a fiber that is running",
    measurements,
    notes: [
      `Each value is the median of ${rounds} rounds; a round runs all rows in turn, and the ratios are taken within it.`,
      `Each sample makes ${
        calls.toLocaleString("en")
      } calls in one fiber. The bare effect is Effect.sync(() => ++n), ` +
      "for the rejected call Effect.ignore(Effect.fail(error)).",
      "Effect: Effect.retry with a jittered exponential Schedule of 4 retries, CircuitBreaker of effect/persistence on " +
      "its memory store, Effect.catch. It neither classifies errors nor says which answer was used.",
      "20,000 keys are twice what effect-resilience remembers by default: every call finds its circuit forgotten. " +
      "Effect's store forgets only by time.",
      "Effect has no rate over a span of time. Peers beyond Effect (cockatiel) are not installed and are left out."
    ]
  }
})
