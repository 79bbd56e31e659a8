/**
 * What a guard adds to a call that nothing is wrong with, and what a refused call costs, beside the bare effect, Effect's
 * own parts, cockatiel and opossum, in the same rounds of the same process; and what the guards keep in memory.
 */
import * as cockatiel from "cockatiel"
import { Context, Effect, Layer, Schedule, Semaphore } from "effect"
import { CircuitBreaker as EffectBreaker } from "effect/persistence"
import Opossum from "opossum"
import { Bulkhead, CircuitBreaker, Deadline, Fallback, Fault, Policy, Retry } from "../src/index.ts"
import { type Calls, effectCalls, type Guard, type Mode, type PromiseCall, promiseCalls } from "./support/calls.ts"
import { interleaved, median, medianRatio } from "./support/measure.ts"
import { heapBytes } from "./support/memory.ts"
import type { Bench, Measurement } from "./support/report.ts"

const implementations = ["bare", "effect-resilience", "effect", "cockatiel", "opossum"] as const
type Implementation = (typeof implementations)[number]

/** The calls through one guard of one implementation, if it has any of that kind. */
type Contender = (mode: Mode, keys: ReadonlyArray<string>) => Calls | undefined

interface Case {
  readonly name: string
  /** Default: all three, each its own case. */
  readonly mode?: Mode
  readonly keys?: ReadonlyArray<string>
  readonly contenders: Partial<Record<Implementation, Contender>>
}

const effects = <R>(context: Context.Context<R>, guard: Guard<R>): Contender => (mode, keys) =>
  effectCalls({ context, guard, keys, mode })

const promises = (call: PromiseCall): Contender => (mode, keys) =>
  mode === "fiber/sync" ? undefined : promiseCalls({ call, context: Context.empty(), keys, mode })

const none = Context.empty()
const bare = effects(none, (self) => self)

const down = { [Fault.verdictOf]: Fault.transient, _tag: "Down" } as const
const failing = Effect.fail(down)
const rejecting = () => Promise.reject(new Error("down"))

const keyOf = (n: number): string => `provider-${n}`
const keysUpTo = (n: number): ReadonlyArray<string> => Array.from({ length: n }, (_, index) => keyOf(index))
const oneKey = keysUpTo(1)

const attempts = 5
const maxConcurrent = 3
const maxQueue = 100
const openMillis = 3_600_000
const timeoutMillis = 30_000
const manyKeys = 100_000

const toolkit = {
  circuit: Effect.fnUntraced(function*(options?: CircuitBreaker.Options) {
    return yield* Layer.build(CircuitBreaker.layer({ openFor: openMillis, maxKeys: 2 * manyKeys, ...options }))
  }),
  protect: (self, key) => CircuitBreaker.protect(self, key),
  bulkhead: () => Layer.build(Bulkhead.layer({ maxConcurrent, maxQueue, maxKeys: 2 * manyKeys })),
  retry: Retry.policy({ maxAttempts: attempts }),
  timeout: Deadline.attempt(timeoutMillis),
  policy: Policy.make({
    name: keyOf(0),
    retry: { maxAttempts: attempts },
    bulkhead: { maxConcurrent, maxQueue },
    circuit: { failures: 5, openFor: openMillis },
    timeout: timeoutMillis
  }),
  services: () => Layer.build(Policy.layer)
} satisfies { readonly protect: Guard<CircuitBreaker.CircuitBreaker>; readonly [part: string]: unknown }

const effect = {
  circuit: Effect.fnUntraced(function*(tripPolicy: EffectBreaker.TripPolicy) {
    const store = yield* Layer.build(EffectBreaker.layerStoreMemory())
    const made = EffectBreaker.make({ tripPolicy, openDuration: openMillis })
    const { execute } = yield* Effect.provideContext(made, store)
    return <A, E>(self: Effect.Effect<A, E>, key: string) => execute(self, { key })
  }),
  retries: { schedule: Schedule.jittered(Schedule.exponential("1 second")), times: attempts - 1 }
}

const peer = {
  circuit: (breaker: cockatiel.IBreaker) =>
    cockatiel.circuitBreaker(cockatiel.handleAll, { halfOpenAfter: openMillis, breaker }),
  retry: () =>
    cockatiel.retry(cockatiel.handleAll, { maxAttempts: attempts - 1, backoff: new cockatiel.ExponentialBackoff() }),
  bulkhead: () => cockatiel.bulkhead(maxConcurrent, maxQueue),
  // The strategy that waits for the work to end, as a timeout in Effect does.
  timeout: () => cockatiel.timeout(timeoutMillis, cockatiel.TimeoutStrategy.Cooperative)
}

/** A policy of cockatiel, whatever it makes of the result. */
interface Executes {
  readonly execute: (work: () => Promise<number>) => Promise<unknown>
}

const executed = (policy: Executes): Contender => promises((work) => policy.execute(work))

/** A breaker of opossum, which has neither retry nor a queue. */
const opossum = (options: Opossum.Options) =>
  Effect.map(
    Effect.acquireRelease(
      Effect.sync(() =>
        new Opossum((work: () => Promise<number>) => work(), { timeout: false, resetTimeout: openMillis, ...options })
      ),
      (breaker) => Effect.sync(() => breaker.shutdown())
    ),
    (breaker): PromiseCall => (work) => breaker.fire(work)
  )

const rejected = Effect.gen(function*() {
  const own = yield* toolkit.circuit({ trip: CircuitBreaker.consecutive(1) })
  const theirs = yield* effect.circuit(EffectBreaker.consecutive(1))
  const breaker = peer.circuit(new cockatiel.ConsecutiveBreaker(1))
  const fire = yield* opossum({ errorThresholdPercentage: 1 })
  yield* Effect.provideContext(Effect.ignore(toolkit.protect(failing, keyOf(0))), own)
  yield* Effect.ignore(theirs(failing, keyOf(0)))
  yield* Effect.ignore(Effect.tryPromise(() => breaker.execute(rejecting)))
  yield* Effect.ignore(Effect.tryPromise(() => fire(rejecting, keyOf(0))))
  const ignored = () => {}
  const found: Case = {
    name: "circuit-rejected",
    contenders: {
      bare: effects(none, () => Effect.ignore(failing)),
      "effect-resilience": effects(own, (self, key) => Effect.ignore(toolkit.protect(self, key))),
      effect: effects(none, (self, key) => Effect.ignore(theirs(self, key))),
      cockatiel: promises((work) => breaker.execute(work).catch(ignored)),
      opossum: promises((work, key) => fire(work, key).catch(ignored))
    }
  }
  return found
})

/** The whole stack; `separate` is the same of the toolkit's parts. */
const stacks = Effect.gen(function*() {
  const own = yield* toolkit.services()
  const circuit = yield* effect.circuit(EffectBreaker.consecutive(5))
  const semaphore = yield* Semaphore.make(maxConcurrent)
  const wrapped = cockatiel.wrap(
    peer.retry(),
    peer.bulkhead(),
    peer.circuit(new cockatiel.ConsecutiveBreaker(5)),
    peer.timeout()
  )
  const separate: Guard<CircuitBreaker.CircuitBreaker | Bulkhead.Bulkhead> = (self, key) =>
    self.pipe(toolkit.timeout, CircuitBreaker.protect(key), Bulkhead.limit(key), Retry.apply(toolkit.retry))
  const stack: Case = {
    name: "stack",
    contenders: {
      "effect-resilience": effects(own, (self) => Policy.apply(self, toolkit.policy)),
      effect: effects(
        none,
        (self, key) =>
          circuit(Effect.timeout(self, timeoutMillis), key).pipe(semaphore.withPermits(1), Effect.retry(effect.retries))
      ),
      cockatiel: executed(wrapped),
      opossum: promises(yield* opossum({ capacity: maxConcurrent, timeout: timeoutMillis }))
    }
  }
  const parts: Case = { name: "stack-of-parts", contenders: { "effect-resilience": effects(own, separate) } }
  return [stack, parts]
})

const guards = Effect.gen(function*() {
  const circuit = yield* toolkit.circuit()
  const effectCircuit = yield* effect.circuit(EffectBreaker.consecutive(5))
  const bulkhead = yield* toolkit.bulkhead()
  const semaphore = yield* Semaphore.make(maxConcurrent)
  const found: ReadonlyArray<Case> = [
    { name: "bare", contenders: { bare } },
    {
      name: "circuit-closed",
      contenders: {
        "effect-resilience": effects(circuit, toolkit.protect),
        effect: effects(none, effectCircuit),
        cockatiel: executed(peer.circuit(new cockatiel.ConsecutiveBreaker(5))),
        opossum: promises(yield* opossum({}))
      }
    },
    yield* rejected,
    {
      name: "bulkhead",
      contenders: {
        "effect-resilience": effects(bulkhead, (self, key) => Bulkhead.limit(self, key)),
        effect: effects(none, (self) => semaphore.withPermits(1)(self)),
        cockatiel: executed(peer.bulkhead()),
        opossum: promises(yield* opossum({ capacity: maxConcurrent }))
      }
    },
    {
      name: "retry",
      contenders: {
        "effect-resilience": effects(none, (self) => Retry.apply(self, toolkit.retry)),
        effect: effects(none, (self) => Effect.retry(self, effect.retries)),
        cockatiel: executed(peer.retry())
      }
    },
    {
      name: "timeout",
      contenders: {
        "effect-resilience": effects(none, (self) => toolkit.timeout(self)),
        effect: effects(none, (self) => Effect.timeout(self, timeoutMillis)),
        cockatiel: executed(peer.timeout()),
        opossum: promises(yield* opossum({ timeout: timeoutMillis }))
      }
    },
    ...yield* stacks,
    {
      name: "fallback",
      contenders: {
        "effect-resilience": effects(none, (self) => Fallback.orElse(self, "template", () => Effect.succeed(0))),
        effect: effects(none, (self) => self.pipe(Effect.catch(() => Effect.succeed(0)))),
        cockatiel: executed(cockatiel.fallback(cockatiel.handleAll, 0))
      }
    }
  ]
  return found
})

const windows = Effect.forEach(
  [10, 100, 1_000, 10_000],
  Effect.fnUntraced(function*(size) {
    const circuit = yield* toolkit.circuit({ trip: CircuitBreaker.rate({ size }) })
    const found: Case = {
      name: `circuit-closed/window-${size}`,
      mode: "fiber/sync",
      contenders: {
        "effect-resilience": effects(circuit, toolkit.protect),
        effect: effects(none, yield* effect.circuit(EffectBreaker.rate({ size })))
      }
    }
    return found
  })
)

const keyCounts = Effect.forEach(
  [1, 10, 100, 1_000, 10_000, manyKeys],
  Effect.fnUntraced(function*(n) {
    const found: Case = {
      name: `circuit-closed/keys-${n}`,
      mode: "fiber/sync",
      keys: keysUpTo(n),
      contenders: {
        "effect-resilience": effects(yield* toolkit.circuit(), toolkit.protect),
        effect: effects(none, yield* effect.circuit(EffectBreaker.consecutive(5)))
      }
    }
    return found
  })
)

const allModes: ReadonlyArray<Mode> = ["fiber/sync", "fiber/async", "run/async"]

/** Everything that is measured, one run of it a call. */
const lined = (cases: ReadonlyArray<Case>) =>
  cases.flatMap(({ contenders, keys = oneKey, mode, name }) =>
    (mode === undefined ? allModes : [mode]).flatMap((each) =>
      implementations.flatMap((impl) => {
        const run = contenders[impl]?.(each, keys)
        return run === undefined ? [] : [{
          case: mode === undefined ? `${name}/${each}` : name,
          bare: name.startsWith("circuit-rejected") ? `${name}/${each}` : `bare/${each}`,
          impl,
          keyCount: keys.length,
          run
        }]
      })
    )
  )

/** How many calls a sample makes. */
const calls = 200

const times = Effect.fnUntraced(function*(quick: boolean) {
  const rounds = quick ? 1 : 21
  const contenders = lined([...yield* guards, ...yield* windows, ...yield* keyCounts])
  // Every key has been seen before anything is measured.
  for (const { keyCount, run } of contenders) yield* Effect.promise(() => run(keyCount))
  const measured = yield* interleaved(
    new Map(contenders.map((contender) => [contender, () => contender.run(calls)])),
    quick ? { rounds, millis: 0, warmupMillis: 0 } : { rounds, millis: 20, warmupMillis: 150 }
  )
  const found = contenders.map((contender) => ({
    contender,
    nanos: (measured.get(contender) ?? []).map((millis) => millis * 1_000_000 / calls)
  }))
  const nanosOf = (impl: Implementation, name: string) =>
    found.find(({ contender }) => contender.impl === impl && contender.case === name)?.nanos ?? []

  return found.flatMap(({ contender: { bare, case: name, impl }, nanos }) => {
    const of = (unit: string, value: number): ReadonlyArray<Measurement> =>
      Number.isNaN(value) ? [] : [{ bench: "overhead", case: name, impl, unit, value, n: rounds }]
    // The bare call is not compared with itself, nor a peer with a peer.
    const base = impl === "bare" ? [] : nanosOf("bare", bare)
    const against = (other: Implementation) => impl === "effect-resilience" ? nanosOf(other, name) : []
    return [
      of("ns/call", median(nanos)),
      of("ns added", median(nanos.map((value, round) => value - (base[round] ?? Number.NaN)))),
      of("x bare", medianRatio(nanos, base)),
      of("x effect", medianRatio(nanos, against("effect"))),
      of("x cockatiel", medianRatio(nanos, against("cockatiel")))
    ].flat()
  })
})

const bytes = (name: string, impl: Implementation, value: number): Measurement => ({
  bench: "overhead",
  case: name,
  impl,
  unit: "bytes",
  value
})

/** What one idle key costs: the heap after a call to each of many keys, less the heap before. */
const perKey = Effect.fnUntraced(function*<R, E>(
  impl: Implementation,
  n: number,
  make: Effect.Effect<Contender, E, R>,
  name = "memory-per-key"
) {
  const keys = keysUpTo(n)
  const before = heapBytes()
  const run = (yield* make)("run/async", keys)
  if (run === undefined) return []
  yield* Effect.promise(() => run(n))
  const grown = heapBytes() - before
  // Whatever holds the circuits has to be alive up to here.
  yield* Effect.promise(() => run(1))
  return [bytes(name, impl, grown / n)]
})

/** What so many calls through the whole stack leave on the heap, once everything has been compiled and allocated. */
const growth = Effect.fnUntraced(function*(quick: boolean) {
  const calls = quick ? 100 : 1_000_000
  const guard: Guard<CircuitBreaker.CircuitBreaker | Bulkhead.Bulkhead> = (self) => Policy.apply(self, toolkit.policy)
  const run = effects(yield* toolkit.services(), guard)("fiber/async", oneKey)
  if (run === undefined) return []
  yield* Effect.promise(() => run(calls / 4))
  const before = heapBytes()
  yield* Effect.promise(() => run(calls))
  return [bytes("stack/heap-growth-1000000", "effect-resilience", heapBytes() - before)]
})

/** A program that has one policy of the peer for each key. */
const mapped = <P>(make: () => P, call: (policy: P) => PromiseCall): Contender => {
  const policies = new Map<string, PromiseCall>()
  return promises((work, key) => {
    const known = policies.get(key) ?? call(make())
    policies.set(key, known)
    return known(work, key)
  })
}

const memory = Effect.fnUntraced(function*(quick: boolean) {
  const n = quick ? 10 : manyKeys
  return [
    ...yield* perKey("effect-resilience", n, Effect.map(toolkit.circuit(), (made) => effects(made, toolkit.protect))),
    ...yield* perKey(
      "effect-resilience",
      n,
      Effect.map(toolkit.bulkhead(), (made) => effects(made, (self, key) => Bulkhead.limit(self, key))),
      "memory-per-key/bulkhead"
    ),
    ...yield* perKey(
      "effect",
      n,
      Effect.map(effect.circuit(EffectBreaker.consecutive(5)), (made) => effects(none, made))
    ),
    ...yield* perKey(
      "cockatiel",
      n,
      Effect.sync(() =>
        mapped(() => peer.circuit(new cockatiel.ConsecutiveBreaker(5)), (policy) => (work) => policy.execute(work))
      )
    )
  ]
})

export const bench: Bench = Effect.fnUntraced(function*({ quick }) {
  // First, while nothing else is on the heap.
  const kept = yield* Effect.scoped(memory(quick))
  const grown = yield* Effect.scoped(growth(quick))
  const timed = yield* times(quick)
  return {
    title: "overhead: one call through its guards, nothing failing",
    measurements: [...timed, ...kept, ...grown],
    notes: [
      `Each time is the median of the rounds (n in the JSON lines) and of its samples of ${calls} calls, the work included, ` +
      "the garbage collection between samples not. A round runs all rows in turn, and the ratios are taken within it. ns " +
      "added comes on top of the bare call of the same kind.",
      "fiber: calls of one fiber that runs anyway, one after the other, where what works on promises is reached by " +
      "Effect.promise. run: a run of its own for each call, by Effect.runPromise; cockatiel and opossum need none, and " +
      "are awaited as they are. sync: the work is () => ++n; async: async () => ++n. Those two have no sync mode.",
      "Policies are built once, calls are made anew. stack: retry > bulkhead > circuit > timeout > work; of the toolkit " +
      "Policy.apply, stack-of-parts the four combinators. effect: Effect.retry with a jittered Schedule, " +
      "Semaphore.withPermits, CircuitBreaker of effect/persistence on its memory store, Effect.timeout. cockatiel: wrap(" +
      "retry, bulkhead, circuitBreaker, timeout), the timeout cooperative, which is the cheaper one. opossum: capacity, " +
      "circuit and timeout of one breaker; it neither retries nor queues.",
      "circuit-rejected: the circuit is open, and the refusal is ignored; bare is a failure that is ignored.",
      "window-N: the failure rate over N calls; keys-N: N circuits in turn, all seen before. Both fiber/sync.",
      `memory-per-key: the heap that ${manyKeys.toLocaleString("en")} idle keys hold, over their number, after one ` +
      "call each; a Map of one policy a key for cockatiel. stack/heap-growth: what 1,000,000 calls (fiber/async) leave " +
      "on the heap, after 250,000 that warm up."
    ]
  }
})
