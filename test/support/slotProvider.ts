/** A provider of inference slots in virtual time, and agents that keep calling it. */
import { Clock, Deferred, Effect, Random, Schema } from "effect"
import { Fault } from "effect-resilience"

export class ProviderError extends Schema.TaggedError<ProviderError>()("ProviderError", {
  kind: Schema.Literals(["overloaded", "reset"])
}) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.kind === "overloaded" ? Fault.overloaded() : Fault.ambiguous
  }
}

export interface ProviderOptions {
  readonly slots: number
  /** In milliseconds; the time of a whole answer is lognormal around it. */
  readonly median?: number | undefined
  readonly sigma?: number | undefined
  /** The part of an answer's time until its first token. */
  readonly firstToken?: number | undefined
  /** How long a request takes to get there, and an answer to come back. A slot is free while they do. */
  readonly network?: number | undefined
  /** Of 1, how many calls hang for ever. */
  readonly stalls?: number | undefined
}

/** What the provider has seen since it was asked last. */
export interface Seen {
  readonly done: number
  readonly refused: number
  readonly broken: number
  readonly hung: number
  readonly calls: number
  /** Slots in use, on average. */
  readonly busy: number
}

const normal = Effect.map(
  Effect.all([Random.next, Random.next]),
  ([a, b]) => Math.sqrt(-2 * Math.log(1 - a)) * Math.cos(2 * Math.PI * b)
)

/**
 * Refuses with 529, at once and without a word of when to come back, what finds no slot. In an outage it breaks all calls
 * under way, refuses four of five new ones and lets the others hang.
 */
export const makeProvider = Effect.fnUntraced(function*(options: ProviderOptions) {
  const { firstToken = 0.2, median = 4_000, network = 0, sigma = 0.7, stalls = 0 } = options
  let slots = options.slots
  let running = 0
  let isOut = false
  let broken = yield* Deferred.make<void>()
  let counts = { done: 0, refused: 0, broken: 0, hung: 0, calls: 0 }
  let busyMillis = 0
  let since = yield* Clock.currentTimeMillis
  let changedAt = since

  const change = (by: number) =>
    Effect.map(Clock.currentTimeMillis, (now) => {
      busyMillis += running * (now - changedAt)
      changedAt = now
      running += by
    })

  const answer = Effect.fnUntraced(function*(onFirstToken: Effect.Effect<void>) {
    const millis = median * Math.exp(sigma * (yield* normal))
    yield* Effect.sleep(millis * firstToken)
    yield* onFirstToken
    yield* Effect.sleep(millis * (1 - firstToken))
    counts.done++
  })

  const hang = Effect.suspend(() => {
    counts.hung++
    return Effect.never
  })

  const refuse = Effect.suspend(() => {
    counts.refused++
    return Effect.andThen(Effect.sleep(100), new ProviderError({ kind: "overloaded" }))
  })

  const call = (onFirstToken: Effect.Effect<void> = Effect.void): Effect.Effect<void, ProviderError> =>
    Effect.gen(function*() {
      if (network > 0) yield* Effect.sleep(network)
      counts.calls++
      const dice = yield* Random.next
      if (isOut) return yield* dice < 0.2 ? hang : refuse
      if (running >= slots) return yield* refuse
      const reset = Effect.andThen(
        Deferred.await(broken),
        Effect.suspend(() => {
          counts.broken++
          return new ProviderError({ kind: "reset" })
        })
      )
      const work = dice < stalls ? hang : answer(onFirstToken)
      yield* Effect.acquireUseRelease(change(1), () => Effect.raceFirst(work, reset), () => change(-1))
      if (network > 0) yield* Effect.sleep(network)
    })

  return {
    call,
    running: () => running,
    setSlots: (n: number) =>
      Effect.sync(() => {
        slots = n
      }),
    beginOutage: Effect.gen(function*() {
      isOut = true
      const now = broken
      broken = yield* Deferred.make<void>()
      yield* Deferred.succeed(now, undefined)
    }),
    endOutage: Effect.sync(() => {
      isOut = false
    }),
    /** What was seen since the last time. */
    seen: Effect.gen(function*() {
      yield* change(0)
      const now = yield* Clock.currentTimeMillis
      const seen: Seen = { ...counts, busy: now === since ? 0 : busyMillis / (now - since) }
      counts = { done: 0, refused: 0, broken: 0, hung: 0, calls: 0 }
      busyMillis = 0
      since = now
      return seen
    })
  }
})

/** Agents that ask again and again, and wait about a second after a failure. */
export const agents = <E>(n: number, call: Effect.Effect<void, E>) =>
  Effect.forEach(
    Array.from({ length: n }),
    () =>
      call.pipe(
        Effect.catch(() => Effect.flatMap(Random.nextBetween(500, 1_500), Effect.sleep)),
        Effect.forever,
        Effect.forkChild
      )
  )
