import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as config from "../../internal/config.ts"
import { millisIn } from "../../internal/monotonic.ts"
import { LastGoodStoreError } from "./lastGoodErrors.ts"
import * as records from "./lastGoodKeyValueStore.ts"
import { type Entry, LastGoodMemory } from "./lastGoodMemory.ts"

const module = "LastGood"

/** @internal */
export type { Entry } from "./lastGoodMemory.ts"

/** @internal */
export type KeyValueStore = records.KeyValueStore

/** @internal */
export interface Stored {
  readonly json: string
  readonly asOf: number
  readonly ageMillis: number
}

/** @internal */
export interface Options {
  readonly maxEntries?: number | undefined
  readonly timeToLive?: Duration.Input | undefined
}

/** @internal */
export interface KeyValueStoreOptions extends Options {
  readonly prefix?: string | undefined
  readonly storeTimeout?: Duration.Input | undefined
}

/** @internal */
export interface Service {
  readonly remember: (slot: string, key: string, entry: Entry) => Effect.Effect<void, LastGoodStoreError>
  readonly recall: (slot: string, key: string) => Effect.Effect<Stored | undefined, LastGoodStoreError>
  readonly keys: (slot: string) => Effect.Effect<ReadonlyArray<string>, LastGoodStoreError>
  readonly forget: (slot: string, key: string) => Effect.Effect<void, LastGoodStoreError>
}

const atLeastAMilli = { minimum: "1 millis" } as const

/** @internal */
export const defaults = { maxEntries: 1_000, timeToLive: "1 day", storeTimeout: "5 seconds" } as const

const boundsOf = (options: Options) => ({
  maxEntries: config.integer(module, "maxEntries", options.maxEntries ?? defaults.maxEntries, 1),
  timeToLive: Duration.toMillis(
    config.duration(module, "timeToLive", options.timeToLive ?? defaults.timeToLive, {
      ...atLeastAMilli,
      infinite: true
    })
  )
})

/** @internal */
export const idOf = (slot: string, key: string): string => `${slot}/${key}`

/** @internal */
export const nowIn = (context: Context.Context<never>) => ({
  wall: Math.floor(Context.get(context, Clock.Clock).currentTimeMillisUnsafe()),
  monotonic: millisIn(context)
})

const timed = <A, E>(step: (now: ReturnType<typeof nowIn>) => Effect.Effect<A, E>): Effect.Effect<A, E> =>
  Effect.contextWith((context: Context.Context<never>) => step(nowIn(context)))

const storedOf = ({ asOf, json, startedAt }: Entry, now: number): Stored => ({
  json,
  asOf,
  ageMillis: Math.max(0, now - startedAt)
})

/** @internal */
export const memory = (options: Options = {}): Effect.Effect<Service> =>
  Effect.sync(() => {
    const memory = new LastGoodMemory(boundsOf(options))
    return {
      remember: (slot, key, entry) =>
        timed((now) => Effect.sync(() => void memory.put(idOf(slot, key), entry, now.monotonic))),
      recall: (slot, key) =>
        timed(({ monotonic }) => {
          const entry = memory.get(idOf(slot, key), monotonic)
          return Effect.succeed(entry === undefined ? undefined : storedOf(entry, monotonic))
        }),
      keys: (slot) => timed((now) => Effect.succeed(memory.keys(idOf(slot, ""), now.monotonic))),
      forget: (slot, key) => Effect.sync(() => memory.delete(idOf(slot, key)))
    }
  })

/** What the keys begin with, up to a slash: no key of somebody else begins like that by chance. */
const prefixOf = (prefix: string): string => {
  config.nonEmpty(module, "prefix", prefix)
  return prefix.endsWith("/") ? prefix : `${prefix}/`
}

// More than the clocks of two machines differ. What is further ahead was written by a clock that was wrong.
const maxAheadMillis = 5 * 60_000

/** @internal */
export const keyValueStore = Effect.fnUntraced(function*(options: KeyValueStoreOptions) {
  const bounds = boundsOf(options)
  const memory = new LastGoodMemory(bounds)
  const store = yield* records.make({
    prefix: prefixOf(options.prefix ?? "last-good"),
    maxEntries: bounds.maxEntries,
    timeout: config.duration(module, "storeTimeout", options.storeTimeout ?? defaults.storeTimeout, atLeastAMilli)
  })
  const failed = (operation: LastGoodStoreError["operation"], slot: string) =>
    Effect.mapError((cause: unknown) => new LastGoodStoreError({ operation, slot, cause }))

  const service: Service = {
    remember: (slot, key, entry) =>
      timed((now) =>
        memory.put(idOf(slot, key), entry, now.monotonic) ? store.put(idOf(slot, key), entry) : Effect.void
      ),
    recall: (slot, key) =>
      timed((now) => {
        const entry = memory.get(idOf(slot, key), now.monotonic)
        const own = entry === undefined ? undefined : storedOf(entry, now.monotonic)
        const recorded = Effect.filterOrFail(
          store.get(idOf(slot, key)),
          (record) => record === undefined || record.asOf - now.wall <= maxAheadMillis,
          () => new Error("the record in the store is from the future")
        )
        return Effect.matchEffect(recorded.pipe(failed("recall", slot)), {
          onFailure: (error) =>
            own === undefined ? Effect.fail(error) : Effect.as(
              Effect.logWarning("LastGood could not ask its store, and serves what it has in memory", error),
              own
            ),
          onSuccess: (record) => {
            if (record === undefined || (own !== undefined && own.asOf >= record.asOf)) return Effect.succeed(own)
            const ageMillis = Math.max(0, now.wall - record.asOf)
            return Effect.succeed(ageMillis > bounds.timeToLive ? own : { ...record, ageMillis })
          }
        })
      }),
    keys: (slot) =>
      timed((now) => {
        const prefix = idOf(slot, "")
        const own = memory.keys(prefix, now.monotonic)
        return Effect.map(store.ids.pipe(failed("list", slot)), (ids) => {
          const stored = ids.filter((id) => id.startsWith(prefix)).map((id) => id.slice(prefix.length))
          return Array.from(new Set([...own, ...stored]))
        })
      }),
    forget: (slot, key) =>
      Effect.suspend(() => {
        memory.delete(idOf(slot, key))
        return store.remove(idOf(slot, key)).pipe(failed("forget", slot))
      })
  }
  return service
})
