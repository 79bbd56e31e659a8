/**
 * Keeps the results of `Idempotency` in whatever Effect can persist to.
 *
 * **When to use**
 *
 * Use it beside `PersistenceCheckpointStore`, for one process.
 *
 * @since 0.1.0
 */
import * as Arr from "effect/Array"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Persistence from "effect/persistence/Persistence"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as config from "../../internal/config.ts"
import { sha256 } from "../../internal/sha256.ts"
import * as Idempotency from "../Idempotency.ts"
import { kindOf, turns } from "../internal/persistenceStore.ts"

/**
 * Options of {@link makeStore}.
 *
 * **Details**
 *
 * `storeId` is the part of the backing that belongs to this store; default `effect_resilience_idempotency`.
 *
 * @category models
 * @since 0.1.0
 */
export interface StoreOptions {
  readonly storeId?: string | undefined
}

/**
 * Options of {@link layerPersistence}: those of {@link StoreOptions} and of `Idempotency.make`.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options extends Idempotency.Options, StoreOptions {}

type Operation = Idempotency.IdempotencyStoreError["operation"]

const module = "PersistenceIdempotency"

const pageSize = 100

// How many results that have expired are removed for each that is recorded: more than come in.
const sweptAtOnce = 2

/**
 * The results that a scope may have: a slot for each, from `first` to before `next`. The generation tells those of the
 * scope before it was cleared.
 */
const Results = Schema.Struct({
  generation: Schema.String,
  first: Schema.Finite,
  next: Schema.Finite,
  expiresAt: Schema.Finite
})
type Results = typeof Results.Type

const Slot = Schema.Struct({ key: Schema.String, expiresAt: Schema.Finite })

const Recorded = Schema.Struct({
  outcome: Schema.String,
  recordedAt: Schema.Finite,
  expiresAt: Schema.Finite,
  slot: Schema.Finite
})

/** What was cleared, as long as not all of it is removed. */
const Cleared = Schema.Struct({ scopes: Schema.Array(Schema.Struct({ hash: Schema.String, results: Results })) })

const scopeKey = (hash: string) => `scope-${hash}`
const slotKey = (hash: string, { generation }: Results, slot: number) => `${hash}-${generation}-slot-${slot}`
const resultKey = (hash: string, { generation }: Results, key: string) => `${hash}-${generation}-result-${key}`

// What lasts longer is kept for ever.
const longest = 1e14

const timeToLive = (millis: number): Duration.Duration | undefined =>
  millis > longest ? undefined : Duration.millis(Math.max(Math.ceil(millis), 1))

/**
 * Creates a store on the `BackingPersistence` at hand: memory, a `KeyValueStore`, SQL or Redis.
 *
 * **When to use**
 *
 * Use it where a program has a backing of Effect's `Persistence` already and runs in one process. Where several processes
 * make the same calls, take `SqlIdempotency` or `RedisIdempotency`.
 *
 * **Details**
 *
 * A backing compares nothing before it writes. Within one layer the outcome recorded first is the one that is kept, for
 * the calls about one scope take turns. Of two processes that record the same call in the same moment the later may
 * overwrite the earlier, which both have answered by then. A call that is recorded while another process clears its scope
 * may bring the scope back in part.
 *
 * What has expired goes by and by as new results of its scope are recorded, and with the backing's own sweeping where it
 * has any: SQL and Redis do, memory and a `KeyValueStore` keep a scope that is never used again until it is cleared.
 * `clear` forgets all results of a scope with one write and then removes them one by one; cut off, the next `clear` or the
 * next layer goes on.
 *
 * In a transaction of the same `SqlClient` a recorded result can be rolled back later, and nobody sees it here: call
 * before or after it.
 *
 * An option out of range throws `Fault.InvalidConfig`. Fails with `IdempotencyStoreError`, `operation: "open"`, if the
 * backing cannot be asked.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStore = Effect.fnUntraced(function*(options: StoreOptions = {}) {
  const storeId = config.nonEmpty(module, "storeId", options.storeId ?? "effect_resilience_idempotency")
  const backing = yield* (yield* Persistence.BackingPersistence).make(storeId)
  const { take } = turns(yield* Effect.scope)

  /** The records of the backing, for one operation on one scope. */
  const at = (operation: Operation, scope: string) => {
    const failure = (reason: "Unavailable" | "Rejected", cause: unknown) =>
      new Idempotency.IdempotencyStoreError({ operation, scope, reason, cause })
    const asked = <A>(call: Effect.Effect<A, Persistence.PersistenceError>) =>
      Effect.mapError(call, (error) => failure(kindOf(error) === "Unavailable" ? "Unavailable" : "Rejected", error))
    const get = <A>(schema: Schema.Codec<A, unknown>, key: string) =>
      Effect.flatMap(asked(backing.get(key)), (value) =>
        value === undefined ? Effect.undefined : Effect.mapError(
          Schema.decodeUnknownEffect(schema)(value),
          (error) => failure("Rejected", error)
        ))
    return {
      get,
      /** For what is only there to find something else by: what cannot be read is none. */
      find: <A>(schema: Schema.Codec<A, unknown>, key: string) =>
        get(schema, key).pipe(
          Effect.catch((error) => error.reason === "Rejected" ? Effect.undefined : Effect.fail(error))
        ),
      set: (key: string, value: object, millis: number) => asked(backing.set(key, value, timeToLive(millis))),
      remove: (key: string) => asked(backing.remove(key))
    }
  }
  type Records = ReturnType<typeof at>

  const removeSlot = Effect.fnUntraced(function*(records: Records, hash: string, results: Results, slot: number) {
    const key = (yield* records.find(Slot, slotKey(hash, results, slot)))?.key
    if (key !== undefined) {
      const recorded = yield* records.find(Recorded, resultKey(hash, results, key))
      // A result that was recorded anew has another slot.
      if (recorded?.slot === slot) yield* records.remove(resultKey(hash, results, key))
    }
    yield* records.remove(slotKey(hash, results, slot))
  })

  /** Removes some of what has expired, the oldest first, and says where what is left begins. */
  const sweepExpired = Effect.fnUntraced(function*(records: Records, hash: string, results: Results, now: number) {
    let { first } = results
    for (; first < Math.min(results.first + sweptAtOnce, results.next); first++) {
      const slot = yield* records.find(Slot, slotKey(hash, results, first))
      if (slot !== undefined && slot.expiresAt > now) break
      yield* removeSlot(records, hash, results, first)
    }
    return first
  })

  const editCleared = (
    { get, remove, set }: Records,
    edit: (scopes: typeof Cleared.Type["scopes"]) => typeof scopes
  ) =>
    take(
      "cleared",
      Effect.gen(function*() {
        const scopes = edit((yield* get(Cleared, "cleared"))?.scopes ?? [])
        yield* scopes.length === 0 ? remove("cleared") : set("cleared", { scopes }, Infinity)
      })
    )

  const sweepCleared = Effect.fnUntraced(function*(records: Records) {
    for (const { hash, results } of (yield* records.get(Cleared, "cleared"))?.scopes ?? []) {
      const current = yield* records.get(Results, scopeKey(hash))
      // Where the scope is still there, its clearing did not come to pass.
      if (current?.generation !== results.generation) {
        for (const slots of Arr.chunksOf(Arr.range(results.first, results.next), pageSize)) {
          yield* Effect.forEach(slots, (slot) => removeSlot(records, hash, results, slot), {
            concurrency: 16,
            discard: true
          })
        }
      }
      yield* editCleared(records, (scopes) => scopes.filter((other) => other.results.generation !== results.generation))
    }
  })

  yield* sweepCleared(at("open", ""))

  const read = Effect.fnUntraced(function*({ get }: Records, hash: string, results: Results, key: string) {
    const found = yield* get(Recorded, resultKey(hash, results, key))
    if (found === undefined) return undefined
    const { expiresAt, outcome, recordedAt } = found
    return { outcome, recordedAt, expiresAt } satisfies Idempotency.Entry
  })

  const store: Idempotency.Store = {
    get: Effect.fnUntraced(function*(scope, key) {
      const records = at("lookup", scope)
      const hash = sha256(scope)
      const results = yield* records.get(Results, scopeKey(hash))
      return results && (yield* read(records, hash, results, key))
    }),
    put: (scope, key, entry) =>
      take(
        `scope ${scope}`,
        Effect.gen(function*() {
          const records = at("record", scope)
          const hash = sha256(scope)
          const { expiresAt, recordedAt } = entry
          const known = yield* records.get(Results, scopeKey(hash))
          const results = known ?? { generation: yield* newGeneration(recordedAt), first: 0, next: 0, expiresAt }
          const found = known && (yield* read(records, hash, known, key))
          if (found !== undefined && found.expiresAt > recordedAt) return found
          const first = yield* sweepExpired(records, hash, results, recordedAt)
          const last = Math.max(results.expiresAt, expiresAt)
          // A result without a slot would not be found to be removed, so the slot comes before it.
          const slot = results.next
          yield* records.set(
            scopeKey(hash),
            { ...results, first, next: slot + 1, expiresAt: last },
            last - recordedAt
          )
          yield* records.set(slotKey(hash, results, slot), { key, expiresAt }, expiresAt - recordedAt)
          yield* records.set(resultKey(hash, results, key), { ...entry, slot }, expiresAt - recordedAt)
          return entry
        })
      ),
    clear: (scope) =>
      Effect.gen(function*() {
        const records = at("clear", scope)
        const hash = sha256(scope)
        yield* take(
          `scope ${scope}`,
          Effect.gen(function*() {
            const results = yield* records.get(Results, scopeKey(hash))
            if (results === undefined) return
            yield* editCleared(records, (scopes) => [...scopes, { hash, results }])
            yield* records.remove(scopeKey(hash))
          })
        )
        yield* sweepCleared(records)
      })
  }
  return store
})

/** A name that no earlier one had, even where somebody has fixed what is random. */
const newGeneration = (now: number) =>
  Effect.map(
    Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER),
    (n) => `${Math.floor(now).toString(36)}-${n.toString(36)}`
  )

/**
 * Provides an `Idempotency` on the `BackingPersistence` at hand, see {@link makeStore} for what it promises. Results are
 * remembered for 30 days unless `timeToLive` says otherwise.
 *
 * **Example** (Remembering results in a key-value store)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { KeyValueStore, Persistence } from "effect/persistence"
 * import { Idempotency } from "effect-resilience"
 * import * as PersistenceIdempotency from "effect-resilience/durable/stores/PersistenceIdempotency"
 *
 * const Live = PersistenceIdempotency.layerPersistence().pipe(
 *   Layer.provide(Persistence.layerBackingKvs),
 *   Layer.provide(KeyValueStore.layerMemory)
 * )
 *
 * let sent = 0
 * const send = Effect.sync(() => ++sent).pipe(Idempotency.once({ scope: "run-1", tool: "send", success: Schema.Int }))
 *
 * await Effect.runPromise(Effect.provide(Effect.all([send, send]), Live)) // => [1, 1]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerPersistence = (
  options: Options = {}
): Layer.Layer<Idempotency.Idempotency, Idempotency.IdempotencyStoreError, Persistence.BackingPersistence> =>
  Layer.effect(
    Idempotency.Idempotency,
    Effect.flatMap(makeStore(options), (store) => Idempotency.make({ ...options, store }))
  )
