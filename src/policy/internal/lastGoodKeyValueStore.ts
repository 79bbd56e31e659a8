// The one file that knows Effect's KeyValueStore, which is unstable.
import * as Cause from "effect/Cause"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Semaphore from "effect/Semaphore"

/** @internal */
export { KeyValueStore } from "effect/persistence/KeyValueStore"

/** @internal */
export interface Record {
  readonly json: string
  readonly asOf: number
}

const textOf = ({ asOf, json }: Record): string => `${asOf} ${json}`

const recordOf = (text: string): Record | undefined => {
  const [, asOf, json] = /^(\d+) (.*)$/s.exec(text) ?? []
  return asOf === undefined || json === undefined ? undefined : { asOf: Number(asOf), json }
}

/**
 * Records in a KeyValueStore. Reads are the caller's; writes are behind: one fiber carries them out one after another,
 * the latest record of a key only, so that no answer waits for a slow store, two writes of one key never change places,
 * and nobody's interruption leaves half a record.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(options: {
  readonly prefix: string
  readonly maxEntries: number
  readonly timeout: Duration.Duration
}) {
  const kv = yield* KeyValueStore.KeyValueStore
  const lock = yield* Semaphore.make(1)
  const pending = new Map<string, Record>()
  let writer: Fiber.Fiber<void> | undefined
  let isClosing = false
  /** The ids in the store, the one unused for longest first, as far as this process knows. */
  let known: Map<string, true> | undefined

  /** One operation of the store: what it throws, dies of or does not end is its failure. */
  const ask = <A>(operation: () => Effect.Effect<A, unknown>): Effect.Effect<A, unknown> =>
    Effect.suspend(operation).pipe(
      Effect.timeout(options.timeout),
      Effect.catchCause((cause) => {
        const interrupts = cause.reasons.filter(Cause.isInterruptReason)
        return interrupts.length > 0
          ? Effect.failCause(Cause.fromReasons(interrupts))
          : Effect.fail(Cause.squash(cause))
      })
    )

  const ids = Effect.map(
    ask(() => kv.keys),
    (all) => all.filter((key) => key.startsWith(options.prefix)).map((key) => key.slice(options.prefix.length))
  )

  const makeRoom = Effect.fnUntraced(function*(id: string) {
    known ??= new Map((yield* ids).map((stored) => [stored, true]))
    known.delete(id)
    known.set(id, true)
    for (const oldest of known.keys()) {
      if (known.size <= options.maxEntries) return
      yield* ask(() => kv.remove(options.prefix + oldest))
      known.delete(oldest)
    }
  })

  const warned = (message: string) => (self: Effect.Effect<void, unknown>): Effect.Effect<boolean> =>
    Effect.matchCauseEffect(self, {
      onSuccess: () => Effect.succeed(true),
      onFailure: (cause) => Effect.as(Effect.logWarning(message, cause), false)
    })

  const write = Effect.fnUntraced(function*(id: string, record: Record) {
    const written = yield* ask(() => kv.set(options.prefix + id, textOf(record))).pipe(
      warned(`LastGood could not store the answer for "${id}"; this process alone remembers it`)
    )
    if (!written) return false
    return yield* makeRoom(id).pipe(
      warned(`LastGood could not make room in its store, which now holds more than ${options.maxEntries} answers`)
    )
  })

  // Takes the record only with the lock in hand: one that is forgotten in the meantime must not come back.
  const writeNext = lock.withPermit(Effect.suspend(() => {
    const next = first(pending)
    if (next === undefined) return Effect.succeed(true)
    pending.delete(next[0])
    return write(...next)
  }))

  const writeAll = Effect.gen(function*() {
    while (pending.size > 0) {
      const isWell = yield* writeNext
      // A store that is down must not hold up the end of the program by its timeout for each record.
      if (!isWell && isClosing && pending.size > 0) {
        yield* Effect.logWarning(`LastGood closes with ${pending.size} more answers that it did not store`)
        pending.clear()
      }
    }
    writer = undefined
  })

  yield* Effect.addFinalizer(() => {
    isClosing = true
    return writer === undefined ? Effect.void : Effect.asVoid(Fiber.await(writer))
  })

  return {
    put: (id: string, record: Record): Effect.Effect<void> =>
      Effect.suspend(() => {
        pending.delete(id)
        pending.set(id, record)
        const [oldest] = pending.keys()
        if (pending.size > options.maxEntries && oldest !== undefined) pending.delete(oldest)
        if (writer !== undefined) return Effect.void
        // Not a child of the caller, which may end before; the finalizer above waits for it.
        return Effect.map(Effect.forkDetach(writeAll, { uninterruptible: true }), (fiber) => {
          writer = fiber
        })
      }).pipe(Effect.uninterruptible),
    get: Effect.fnUntraced(function*(id: string): Effect.fn.Return<Record | undefined, unknown> {
      const unwritten = pending.get(id)
      if (unwritten !== undefined) return unwritten
      const text = yield* ask(() => kv.get(options.prefix + id))
      if (text === undefined) return undefined
      if (known?.delete(id) === true) known.set(id, true)
      return recordOf(text) ?? (yield* Effect.fail(new Error("the record in the store is none of LastGood")))
    }),
    ids,
    remove: (id: string): Effect.Effect<void, unknown> =>
      Effect.gen(function*() {
        pending.delete(id)
        yield* ask(() => kv.remove(options.prefix + id))
        known?.delete(id)
      }).pipe(lock.withPermit)
  }
})

const first = <K, V>(map: ReadonlyMap<K, V>): readonly [K, V] | undefined => {
  const [entry] = map
  return entry
}
