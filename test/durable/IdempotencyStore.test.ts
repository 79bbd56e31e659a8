import { NodeServices } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, FileSystem, Layer } from "effect"
import type { Scope } from "effect"
import { Idempotency } from "effect-resilience"
import * as FileIdempotency from "effect-resilience/durable/stores/FileIdempotency"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as PersistenceIdempotency from "effect-resilience/durable/stores/PersistenceIdempotency"
import * as SqlIdempotency from "effect-resilience/durable/stores/SqlIdempotency"
import { StoreContract } from "effect-resilience/testing"
import { TestClock } from "effect/testing"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { keyValueStore } from "./backings.ts"

type Store = Idempotency.Store

const suite = <E>(name: string, open: Effect.Effect<Store, E, Scope.Scope>) =>
  describe(`Idempotency.Store contract: ${name}`, () => {
    for (const { effect, name } of StoreContract.idempotencyStore(open)) it.effect(name, () => effect)
  })

suite("memory", Idempotency.makeStoreMemory())
/** What a layer provides has to live as long as the test. */
const on = <A, E, R, E2>(layer: Layer.Layer<R, E2>, open: Effect.Effect<A, E, R | Scope.Scope>) =>
  Effect.flatMap(Layer.build(layer), (context) => Effect.provide(open, context))

suite("SQLite", on(NodeSqlite.layer({ filename: ":memory:" }), SqlIdempotency.makeStore))
suite("Persistence", on(keyValueStore, PersistenceIdempotency.makeStore()))
suite(
  "files",
  FileSystem.FileSystem.use((fs) => fs.makeTempDirectoryScoped()).pipe(
    Effect.flatMap((directory) => FileIdempotency.makeStore({ directory })),
    Effect.provide(NodeServices.layer)
  )
)

describeWithPostgres("on a server", () => {
  const schema = suiteSchema()
  for (const { effect, name } of StoreContract.idempotencyStore(SqlIdempotency.makeStore)) {
    it.effect(`PostgreSQL: ${name}`, () =>
      Effect.scoped(Effect.gen(function*() {
        // The pool has timers of its own, which need not go through the years of a test.
        const client = yield* TestClock.withLive(Layer.build(PgClient.layer(yield* schema)))
        yield* Effect.provide(effect, client)
      })))
  }
})

const naming = (name: (scope: string) => string) => (store: Store): Store => ({
  get: (scope, key) => store.get(name(scope), key),
  put: (scope, key, entry) => store.put(name(scope), key, entry),
  clear: (scope) => store.clear(name(scope))
})

const reading = (change: (outcome: string) => string) => (store: Store): Store => ({
  ...store,
  get: (scope, key) =>
    Effect.map(store.get(scope, key), (entry) => entry && { ...entry, outcome: change(entry.outcome) })
})

const faults: Record<string, (store: Store) => Store> = {
  "put overwrites": (store) => {
    const latest = new Map<string, Idempotency.Entry>()
    const keyOf = (scope: string, key: string) => JSON.stringify([scope, key])
    return {
      get: (scope, key) => Effect.sync(() => latest.get(keyOf(scope, key))),
      put: (scope, key, entry) => Effect.sync(() => (latest.set(keyOf(scope, key), entry), entry)),
      clear: store.clear
    }
  },
  "put gives what it was given": (store) => ({
    ...store,
    put: (scope, key, entry) => Effect.as(store.put(scope, key, entry), entry)
  }),
  "put looks first and writes then": (store) => ({
    ...store,
    put: (scope, key, entry) =>
      Effect.gen(function*() {
        const there = yield* store.get(scope, key)
        yield* Effect.yieldNow
        if (there !== undefined) return yield* store.put(scope, key, entry)
        yield* store.put(scope, key, entry)
        return entry
      })
  }),
  "put never replaces": (store) => ({
    ...store,
    put: (scope, key, entry) =>
      Effect.flatMap(
        store.get(scope, key),
        (there) => there === undefined ? store.put(scope, key, entry) : Effect.succeed(there)
      )
  }),
  "put takes everything for expired": (store) => ({
    ...store,
    put: (scope, key, entry) => store.put(scope, key, { ...entry, expiresAt: entry.recordedAt })
  }),
  "nothing lasts longer than a year": (store) => ({
    ...store,
    put: (scope, key, entry) =>
      store.put(scope, key, { ...entry, expiresAt: Math.min(entry.expiresAt, entry.recordedAt + 31_536_000_000) })
  }),
  "nothing is found": (store) => ({ ...store, get: () => Effect.undefined }),
  "times are not kept": (store) => ({
    ...store,
    get: (scope, key) => Effect.map(store.get(scope, key), (entry) => entry && { ...entry, recordedAt: 0 })
  }),
  "text ends after 64 KiB": reading((outcome) => outcome.slice(0, 65_535)),
  "text has no control characters": reading((outcome) => outcome.replaceAll(/\p{Cc}/gu, "")),
  "scopes are known in lower case": naming((scope) => scope.toLowerCase()),
  "scopes are known without blanks at the end": naming((scope) => scope.trimEnd()),
  "scope and key are joined by a blank": (store) => ({
    get: (scope, key) => store.get("", `${scope} ${key}`),
    put: (scope, key, entry) => store.put("", `${scope} ${key}`, entry),
    clear: store.clear
  }),
  "scope and key are joined by a colon": (store) => ({
    get: (scope, key) => store.get("", `${scope}:${key}`),
    put: (scope, key, entry) => store.put("", `${scope}:${key}`, entry),
    clear: store.clear
  }),
  "clear does nothing": (store) => ({ ...store, clear: () => Effect.void }),
  "clear forgets everything": (store) => {
    const scopes = new Set<string>()
    return {
      ...store,
      put: (scope, key, entry) => Effect.suspend(() => (scopes.add(scope), store.put(scope, key, entry))),
      clear: () => Effect.forEach(scopes, (scope) => store.clear(scope), { discard: true })
    }
  },
  "clear takes a scope for the beginning of one": (store) => {
    const scopes = new Set<string>()
    return {
      ...store,
      put: (scope, key, entry) => Effect.suspend(() => (scopes.add(scope), store.put(scope, key, entry))),
      clear: (scope) =>
        Effect.forEach(scopes, (other) => other.startsWith(scope) ? store.clear(other) : Effect.void, { discard: true })
    }
  }
}

const brokenBy = Effect.fnUntraced(function*(spoil: (store: Store) => Store) {
  const broken: Array<string> = []
  for (const { effect, name } of StoreContract.idempotencyStore(Effect.map(Idempotency.makeStoreMemory(), spoil))) {
    if (Exit.isFailure(yield* Effect.exit(effect))) broken.push(name)
  }
  return broken
})

describe("StoreContract.idempotencyStore", () => {
  for (const [name, spoil] of Object.entries(faults)) {
    it.effect(`finds that ${name}`, () =>
      Effect.gen(function*() {
        assert.isNotEmpty(yield* brokenBy(spoil))
      }))
  }

  it.effect("has no case that nothing can break", () =>
    Effect.gen(function*() {
      const broken = new Set((yield* Effect.forEach(Object.values(faults), brokenBy)).flat())
      const cases = StoreContract.idempotencyStore(Idempotency.makeStoreMemory())
      assert.deepStrictEqual(cases.filter(({ name }) => !broken.has(name)).map(({ name }) => name), [])
    }))
})
