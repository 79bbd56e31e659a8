// The one file that knows Effect's KeyValueStore, which is unstable.
import * as Cause from "effect/Cause"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as KeyValueStore from "effect/persistence/KeyValueStore"
import * as Semaphore from "effect/Semaphore"
import type { Entry } from "./lastGoodMemory.ts"

/** @internal */
export { KeyValueStore } from "effect/persistence/KeyValueStore"

/** @internal */
export interface Record {
  readonly json: string
  readonly asOf: number
}

const textOf = ({ asOf, json }: Record): string => `${asOf} ${json}`

// what a Date can be
const maxEpochMillis = 8.64e15

const recordOf = (text: string): Record | undefined => {
  const [, asOf, json] = /^(-?\d+) (.*)$/s.exec(text) ?? []
  if (json === undefined || Math.abs(Number(asOf)) > maxEpochMillis) return undefined
  return { asOf: Number(asOf), json }
}

/** Not even a logger that throws ends the writer. */
const warn = (message: string, cause?: Cause.Cause<unknown>): Effect.Effect<void> =>
  Effect.asVoid(Effect.exit(cause === undefined ? Effect.logWarning(message) : Effect.logWarning(message, cause)))

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
  const pending = new Map<string, Entry>()
  /** Ends when nothing is left to write; there while somebody writes. */
  let writing: Deferred.Deferred<void> | undefined
  let isClosing = false
  /**
   * The ids in the store, the one unused for longest first, as far as this process knows, and when the call began whose
   * answer it has stored there itself.
   */
  let known: Map<string, number> | undefined

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

  const makeRoom = Effect.fnUntraced(function*(id: string, startedAt: number) {
    known ??= new Map((yield* ids).map((stored) => [stored, Number.NEGATIVE_INFINITY]))
    known.delete(id)
    known.set(id, startedAt)
    for (const oldest of known.keys()) {
      if (known.size <= options.maxEntries) return
      yield* ask(() => kv.remove(options.prefix + oldest))
      known.delete(oldest)
    }
  })

  const warned = (message: string) => (self: Effect.Effect<void, unknown>): Effect.Effect<boolean> =>
    Effect.matchCauseEffect(self, {
      onSuccess: () => Effect.succeed(true),
      onFailure: (cause) => Effect.as(warn(message, cause), false)
    })

  const write = Effect.fnUntraced(function*(id: string, entry: Entry) {
    const stored = known?.get(id)
    if (stored !== undefined && stored > entry.startedAt) return true
    const written = yield* ask(() => kv.set(options.prefix + id, textOf(entry))).pipe(
      warned(`LastGood could not store the answer for "${id}"; this process alone remembers it`)
    )
    if (!written) return false
    return yield* makeRoom(id, entry.startedAt).pipe(
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
        yield* warn(`LastGood closes with ${pending.size} more answers that it did not store`)
        pending.clear()
      }
    }
    // In the very step that has seen nothing left: whoever comes next starts a writer of its own.
    writing = undefined
  })

  yield* Effect.addFinalizer(() => {
    isClosing = true
    return writing === undefined ? Effect.void : Deferred.await(writing)
  })

  return {
    /** Writes the entry behind, unless it knows of one of a call that began later. */
    put: (id: string, entry: Entry): Effect.Effect<void> =>
      Effect.suspend(() => {
        const waiting = pending.get(id)
        if (waiting !== undefined && waiting.startedAt > entry.startedAt) return Effect.void
        pending.delete(id)
        pending.set(id, entry)
        const [oldest] = pending.keys()
        if (pending.size > options.maxEntries && oldest !== undefined) pending.delete(oldest)
        if (writing !== undefined) return Effect.void
        // Noted before it is forked: the scheduler may run all of it before the caller goes on.
        const end = Deferred.makeUnsafe<void>()
        writing = end
        const ended = Effect.suspend(() => {
          if (writing === end) writing = undefined
          return Deferred.succeed(end, undefined)
        })
        // Not a child of the caller, which may end before; the finalizer above waits for it.
        return Effect.asVoid(Effect.forkDetach(Effect.ensuring(writeAll, ended)))
      }).pipe(Effect.uninterruptible),
    get: Effect.fnUntraced(function*(id: string): Effect.fn.Return<Record | undefined, unknown> {
      const unwritten = pending.get(id)
      if (unwritten !== undefined) return unwritten
      const text = yield* ask(() => kv.get(options.prefix + id))
      if (text === undefined) return undefined
      const startedAt = known?.get(id)
      if (startedAt !== undefined) {
        known?.delete(id)
        known?.set(id, startedAt)
      }
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
