import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { DateTime, Effect, Exit, Layer, type Scope, Struct } from "effect"
import { EscalationQueue } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as RedisEscalationQueue from "effect-resilience/durable/stores/RedisEscalationQueue"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import { StoreContract } from "effect-resilience/testing"
import { Redis } from "effect/persistence"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { connectRedis, describeWithRedis, redisPrefix } from "../support/redis.ts"

type Store = EscalationQueue.Store
type Escalation = EscalationQueue.Escalation

const suite = <E>(name: string, open: Effect.Effect<Store, E, Scope.Scope>) =>
  describe(`EscalationQueue.Store contract: ${name}`, () => {
    for (const { effect, name } of StoreContract.escalationStore(open)) it.effect(name, () => effect)
  })

/** A record with other fields. */
const but = (record: Escalation, fields: Partial<Pick<Escalation, "revision" | "task">>) =>
  new EscalationQueue.Escalation(Struct.assign(record, { revision: record.revision, task: record.task, ...fields }))

/** What a layer provides has to live as long as the test. */
const on = <A, E, R, E2>(layer: Layer.Layer<R, E2>, open: Effect.Effect<A, E, R | Scope.Scope>) =>
  Effect.flatMap(Layer.build(layer), (context) => Effect.provide(open, context))

suite("memory", EscalationQueue.makeStoreMemory())
suite("SQLite", on(NodeSqlite.layer({ filename: ":memory:" }), SqlEscalationQueue.makeStore))

describeWithPostgres("on PostgreSQL", () => {
  const schema = suiteSchema()
  suite("PostgreSQL", Effect.flatMap(schema, (options) => on(PgClient.layer(options), SqlEscalationQueue.makeStore)))
})

describeWithRedis("on Redis", () => {
  suite(
    "Redis",
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      return yield* Effect.provideService(
        RedisEscalationQueue.makeStore({ prefix }),
        Redis.Redis,
        yield* connectRedis()
      )
    })
  )
})

const reading = (change: (record: Escalation) => Escalation) => (store: Store): Store => ({
  ...store,
  find: (id) => Effect.map(store.find(id), (record) => record && change(record)),
  insert: (record) => Effect.map(store.insert(record), ({ inserted, record }) => ({ inserted, record: change(record) }))
})

const selecting = (
  change: (filter: Parameters<Store["select"]>[0]) => Parameters<Store["select"]>[0],
  after: (records: ReadonlyArray<Escalation>) => ReadonlyArray<Escalation> = (records) => records
) =>
(store: Store): Store => ({ ...store, select: (filter) => Effect.map(store.select(change(filter)), after) })

const changing =
  (change: (records: ReadonlyArray<Escalation>) => ReadonlyArray<Escalation>) => (store: Store): Store => ({
    ...store,
    changedSince: (since, options) =>
      Effect.map(
        store.changedSince(since, options),
        ({ records, revision }) => ({ records: change(records), revision })
      )
  })

/** Tells another kind of changes besides, or instead, for one that was asked for. */
const telling = (
  asked: EscalationQueue.Changed,
  only: (record: Escalation) => boolean
) =>
(store: Store): Store => ({
  ...store,
  changedSince: (since, options) =>
    options.only !== asked
      ? store.changedSince(since, options)
      : Effect.map(store.changedSince(since, { only: "all", limit: 10_000 }), ({ records }) => {
        const told = records.filter(only).slice(0, options.limit)
        return { records: told, revision: told.at(-1)?.revision ?? since }
      })
})

const isOver = ({ closed, resolution }: Escalation) => closed !== undefined || resolution !== undefined
const wasExpired = ({ closed, runId }: Escalation) => closed?.as === "expired" && runId !== undefined
const wasDecided = ({ resolution, runId }: Escalation) => resolution !== undefined && runId !== undefined

const everything = { limit: 10_000, now: 0 }

const faults: Record<string, (store: Store) => Store> = {
  "nothing is found": (store) => ({ ...store, find: () => Effect.undefined }),
  "a field is not kept": reading((record) => new EscalationQueue.Escalation(Struct.omit(record, ["checkpoint"]))),
  "whether it is delivered is not kept": reading((record) =>
    new EscalationQueue.Escalation(Struct.omit(record, ["delivered"]))
  ),
  "text ends after 64 KiB": reading((record) => but(record, { task: record.task.slice(0, 65_535) })),
  "text has no control characters": reading((record) => but(record, { task: record.task.replaceAll(/\p{Cc}/gu, "") })),
  "insert overwrites": (store) => ({
    ...store,
    insert: (record) =>
      Effect.gen(function*() {
        const there = yield* store.find(record.id)
        if (there === undefined) return yield* store.insert(record)
        const written = yield* store.replace(but(record, { revision: there.revision }))
        return { inserted: true, record: written ?? there }
      })
  }),
  "insert gives what it was given": (store) => ({
    ...store,
    insert: (record) => Effect.map(store.insert(record), ({ inserted }) => ({ inserted, record }))
  }),
  "insert always says that it is new": (store) => ({
    ...store,
    insert: (record) => Effect.map(store.insert(record), ({ record }) => ({ inserted: true, record }))
  }),
  "insert looks first and writes then": (store) => ({
    ...store,
    insert: (record) =>
      Effect.gen(function*() {
        const there = yield* store.find(record.id)
        yield* Effect.yieldNow
        if (there !== undefined) return { inserted: false, record: there }
        return { inserted: true, record: (yield* store.insert(record)).record }
      })
  }),
  "replace does not look at the revision": (store) => ({
    ...store,
    replace: (record) =>
      Effect.flatMap(
        store.find(record.id),
        (there) => store.replace(but(record, { revision: there?.revision ?? record.revision }))
      )
  }),
  "replace looks first and writes then": (store) => ({
    ...store,
    replace: (record) =>
      Effect.gen(function*() {
        const there = yield* store.find(record.id)
        yield* Effect.yieldNow
        if (there?.revision !== record.revision) return undefined
        const now = yield* store.find(record.id)
        return yield* store.replace(
          but(record, { revision: now?.revision ?? record.revision })
        )
      })
  }),
  "replace writes what is not there": (store) => ({
    ...store,
    replace: (record) =>
      Effect.flatMap(store.find(record.id), (there) =>
        there === undefined
          ? Effect.map(store.insert(record), ({ record }) => record)
          : store.replace(record))
  }),
  "replace always refuses": (store) => ({ ...store, replace: () => Effect.undefined }),
  "replace gives the old revision": (store) => ({
    ...store,
    replace: (record) => Effect.map(store.replace(record), (written) => written && record)
  }),
  "revisions are counted for each record": (store) => {
    const revisions = new Map<string, number>()
    const count = (record: Escalation) => {
      const revision = (revisions.get(record.id) ?? 0) + 1
      revisions.set(record.id, revision)
      return but(record, { revision })
    }
    return {
      ...store,
      insert: (record) =>
        Effect.map(store.insert(record), ({ inserted, record }) => ({ inserted, record: count(record) }))
    }
  },
  "the revision of an empty store is below that of any": (store) => ({
    ...store,
    revision: Effect.map(store.revision, (revision) => revision === 0 ? -1 : revision)
  }),
  "the revision is always that of an empty store": (store) => ({ ...store, revision: Effect.succeed(0) }),
  "runs are known in lower case": (store) => ({
    ...store,
    select: ({ runId, ...filter }) =>
      Effect.map(
        store.select({ ...filter, limit: 10_000 }),
        (records) =>
          records.filter((record) => runId === undefined || record.runId?.toLowerCase() === runId.toLowerCase())
            .slice(0, filter.limit)
      )
  }),
  "runs are known by how they begin": (store) => ({
    ...store,
    select: ({ runId, ...filter }) =>
      Effect.map(
        store.select({ ...filter, limit: 10_000 }),
        (records) =>
          records.filter((record) => runId === undefined || record.runId?.startsWith(runId) === true)
            .slice(0, filter.limit)
      )
  }),
  "the newest come first": selecting((filter) => filter, (records) => records.toReversed()),
  "select does not look at the limit": selecting((filter) => ({ ...filter, limit: 10_000 })),
  "select gives 100 at most": selecting((filter) => ({ ...filter, limit: Math.min(filter.limit, 100) })),
  "select does not look at the status": selecting((filter) => ({ ...filter, status: undefined })),
  "select does not look at the reason": selecting((filter) => ({ ...filter, reason: undefined })),
  "select does not look at the run": selecting((filter) => ({ ...filter, runId: undefined })),
  "select does not look at the time": selecting((filter) => ({ ...filter, now: 7_900 })),
  "select filters what the limit has left": (store) => ({
    ...store,
    select: (filter) =>
      Effect.map(
        store.select({ ...everything, limit: filter.limit }),
        (records) =>
          records.filter(({ reason, runId, status }) =>
            (filter.reason === undefined || filter.reason === reason) &&
            (filter.runId === undefined || filter.runId === runId) &&
            (filter.status === undefined || filter.status === status)
          )
      )
  }),
  "what is claimed does not wait": (store) => ({
    ...store,
    waiting: (now) =>
      Effect.map(store.select({ ...everything, status: "open", now }), (records) => ({
        count: records.length,
        oldest: records[0] && DateTime.toEpochMillis(records[0].submittedAt)
      }))
  }),
  "what is out of time waits": (store) => ({ ...store, waiting: () => store.waiting(0) }),
  "the newest is told as the oldest that waits": (store) => ({
    ...store,
    waiting: (now) =>
      Effect.gen(function*() {
        const { count } = yield* store.waiting(now)
        const records = yield* store.select({ ...everything, now })
        const last = records.at(-1)
        return { count, oldest: last && DateTime.toEpochMillis(last.submittedAt) }
      })
  }),
  "what is withdrawn waits": (store) => ({
    ...store,
    waiting: (now) =>
      Effect.gen(function*() {
        const { count, oldest } = yield* store.waiting(now)
        return { count: count + (yield* store.select({ ...everything, status: "withdrawn", now })).length, oldest }
      })
  }),
  "overdue does not look at the time": (store) => ({
    ...store,
    overdue: (_, options) => store.overdue(Number.MAX_SAFE_INTEGER, options)
  }),
  "overdue does not look at the limit": (store) => ({ ...store, overdue: (now) => store.overdue(now, everything) }),
  "overdue tells the latest first": (store) => ({
    ...store,
    overdue: (now, options) => Effect.map(store.overdue(now, options), (records) => records.toReversed())
  }),
  "overdue tells what is recorded, too": (store) => ({
    ...store,
    overdue: (now, { limit }) => store.select({ limit, now, status: "expired" })
  }),
  "changedSince does not look at the revision": (store) => ({
    ...store,
    changedSince: (_, options) => store.changedSince(-1, options)
  }),
  "changedSince does not look at the limit": (store) => ({
    ...store,
    changedSince: (since, options) => store.changedSince(since, { ...options, limit: 10_000 })
  }),
  "changedSince tells everything": telling("undecided", () => true),
  "changedSince tells the newest first": changing((records) => records.toReversed()),
  "changedSince tells one less": changing((records) => records.slice(0, -1)),
  "changedSince tells records of another time": changing((records) =>
    records.map((record) => but(record, { task: "another" }))
  ),
  "changedSince goes on from the end of the store": (store) => ({
    ...store,
    changedSince: (since, options) =>
      Effect.zipWith(store.changedSince(since, options), store.revision, ({ records }, revision) => ({
        records,
        revision
      }))
  }),
  "what is withdrawn is to be heard of": telling(
    "undelivered",
    (record) => isOver(record) && record.runId !== undefined && record.delivered !== true
  ),
  "what is of no run is to be heard of": telling(
    "undelivered",
    (record) => isOver(record) && record.closed?.as !== "withdrawn" && record.delivered !== true
  ),
  "what is delivered is to be heard of": telling("undelivered", (record) => wasDecided(record) || wasExpired(record)),
  "nobody hears that it has expired": telling(
    "undelivered",
    (record) => wasDecided(record) && record.delivered !== true
  ),
  "prune does nothing": (store) => ({ ...store, prune: () => Effect.succeed(0) }),
  "prune counts 100 at most": (store) => ({
    ...store,
    prune: (before) => Effect.map(store.prune(before), (count) => Math.min(count, 100))
  }),
  "prune does not look at the time": (store) => ({ ...store, prune: () => store.prune(Number.MAX_SAFE_INTEGER - 1) }),
  "prune does not remove what has expired": (store) => ({
    ...store,
    prune: (before) =>
      Effect.gen(function*() {
        const expired = yield* store.select({ ...everything, status: "expired", now: before })
        const count = yield* store.prune(before)
        for (const record of expired) yield* store.insert(record)
        return count - expired.length
      })
  })
}

const brokenBy = Effect.fnUntraced(function*(spoil: (store: Store) => Store) {
  const broken: Array<string> = []
  for (const { effect, name } of StoreContract.escalationStore(Effect.map(EscalationQueue.makeStoreMemory(), spoil))) {
    if (Exit.isFailure(yield* Effect.exit(effect))) broken.push(name)
  }
  return broken
})

describe("StoreContract.escalationStore", () => {
  for (const [name, spoil] of Object.entries(faults)) {
    it.effect(`finds that ${name}`, () =>
      Effect.gen(function*() {
        assert.isNotEmpty(yield* brokenBy(spoil))
      }))
  }

  it.effect("has no case that nothing can break", () =>
    Effect.gen(function*() {
      const broken = new Set((yield* Effect.forEach(Object.values(faults), brokenBy)).flat())
      const cases = StoreContract.escalationStore(EscalationQueue.makeStoreMemory())
      assert.deepStrictEqual(cases.filter(({ name }) => !broken.has(name)).map(({ name }) => name), [])
    }))
})
