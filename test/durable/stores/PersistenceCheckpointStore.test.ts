import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Duration, Effect, Exit, Fiber, Layer, Option } from "effect"
import { type CheckpointStore, Fault } from "effect-resilience"
import * as PersistenceCheckpointStore from "effect-resilience/durable/stores/PersistenceCheckpointStore"
import { KeyValueStore, Persistence } from "effect/persistence"
import { SqlError } from "effect/sql"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../../support/interruptEverywhere.ts"
import { withMessages } from "../../support/logs.ts"
import { describeWithRedis } from "../../support/redis.ts"
import { isFull } from "../../support/runs.ts"
import { backings, redisBacking } from "../backings.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"
import { cutEverywhere, type Line } from "../cutEverywhere.ts"

type Backing = Persistence.BackingPersistence["Service"]
type BackingStore = Persistence.BackingPersistenceStore
type Entries = Parameters<CheckpointStore.CheckpointStore["Service"]["append"]>[1]

const { layerPersistence } = PersistenceCheckpointStore

const minute = Duration.minutes(1)
const entry = (position: number, body = "{}") => ({ position, step: position === 0 ? "" : "s", body })
const one = (position: number, body?: string): Entries => [entry(position, body)]
const many = (from: number, to: number): Entries => [
  entry(from),
  ...Array.from({ length: to - from - 1 }, (_, index) => entry(from + index + 1))
]

const storeOn = (backing: Backing, options?: PersistenceCheckpointStore.Options) =>
  Effect.provideService(PersistenceCheckpointStore.make(options), Persistence.BackingPersistence, backing)

const reasonOf = <A, R>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError, R>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

const tagOf = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
  Effect.map(reasonOf(effect), ({ _tag }) => _tag)

type Through = <A>(
  name: keyof BackingStore,
  call: Effect.Effect<A, Persistence.PersistenceError>,
  half?: Effect.Effect<unknown, Persistence.PersistenceError>
) => Effect.Effect<A, Persistence.PersistenceError>

/** Hands every call to `through`, with half of it where it can be done by halves. */
const passing = (backing: Backing, through: Through): Backing => ({
  make: (storeId) =>
    Effect.map(backing.make(storeId), (store): BackingStore => ({
      get: (key) => through("get", store.get(key)),
      getMany: (keys) => through("getMany", store.getMany(keys)),
      set: (key, value, ttl) => through("set", store.set(key, value, ttl)),
      setMany: (entries) => through("setMany", store.setMany(entries), store.setMany([entries[0]])),
      remove: (key) => through("remove", store.remove(key)),
      clear: through("clear", store.clear)
    }))
})

const lost = new Persistence.PersistenceError({ message: "the backing is gone" })

/** A backing on a key-value store, whose keys can be seen. */
const visible = Effect.gen(function*() {
  const kv = yield* KeyValueStore.KeyValueStore
  const backing = yield* Persistence.BackingPersistence
  const keys = (storeId = "effect_resilience_checkpoint") =>
    Effect.map(
      kv.keys,
      (keys) =>
        keys.filter((key) => key.startsWith(`${storeId}:`)).map((key) => key.slice(storeId.length + 1)).toSorted()
    )
  return { kv, backing, keys }
}).pipe(Effect.provide(Persistence.layerBackingKvs.pipe(Layer.provideMerge(KeyValueStore.layerMemory))))

for (const [name, backing] of Object.entries(backings)) {
  suite(`Persistence, ${name}`, layerPersistence().pipe(Layer.provide(backing)))
}

describeWithRedis("PersistenceCheckpointStore on Redis", () => {
  suite(
    "Persistence, Redis",
    Layer.unwrap(
      Effect.map(redisBacking, ({ backing, storeId }) => layerPersistence({ storeId }).pipe(Layer.provide(backing)))
    )
  )
})

describe("PersistenceCheckpointStore", () => {
  it.effect("a backing that is lost at any call, before or after it, loses nothing that was acknowledged", () =>
    Effect.gen(function*() {
      const { backing, keys } = yield* visible
      const cuts = yield* cutEverywhere({
        open: (storeId, line: Line) =>
          storeOn(passing(backing, (_, call, half) => line.through(call, lost, half)), { storeId }),
        elapse: (_, duration) => TestClock.adjust(duration),
        left: (storeId) => Effect.map(Effect.orDie(keys(storeId)), (keys) => keys.filter((key) => key !== "store"))
      })
      assert.isAbove(cuts, 100)
    }))

  it.effect("a removal that is cut off anywhere has removed the run, and the rest goes with time", () =>
    Effect.gen(function*() {
      const { backing, keys } = yield* visible
      for (let cutAt = 1;; cutAt++) {
        const storeId = `removal-${cutAt}`
        let calls = 0
        const mortal = passing(backing, (_, call) => ++calls < cutAt ? call : Effect.fail(lost))
        const whole = yield* storeOn(backing, { storeId })
        yield* whole.append(yield* whole.acquire("other", minute), one(0))
        calls = -1_000
        const store = yield* storeOn(mortal, { storeId })
        const lease = yield* store.acquire("r", minute)
        yield* store.append(lease, many(0, 6))
        calls = 0
        const removed = yield* Effect.exit(store.remove(lease))
        const { length } = yield* whole.read("r")
        assert.isTrue(length === 0 || (length === 6 && calls <= 2), `${length} records after ${calls} calls`)
        assert.strictEqual((yield* whole.list()).length, length === 0 ? 1 : 2)
        yield* TestClock.adjust("2 days")
        if (length === 6) yield* whole.remove(yield* whole.acquire("r", minute))
        assert.deepStrictEqual((yield* whole.list()).map(({ runId }) => runId), ["other"])
        yield* whole.remove(yield* whole.acquire("other", minute))
        assert.deepStrictEqual(yield* keys(storeId), ["store"], storeId)
        if (Exit.isSuccess(removed)) break
        assert.isBelow(cutAt, 50)
      }
    }))

  it.effect("a step costs the same however many there were: one value is read, and two are written", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const calls: Array<string> = []
      const store = yield* storeOn(passing(backing, (name, call) => {
        calls.push(name)
        return call
      }))
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, many(0, 1_000))
      for (const n of [1_000, 1_001, 1_002]) {
        calls.length = 0
        yield* store.append(lease, one(n), "running")
        assert.deepStrictEqual(calls, ["get", "setMany", "set"])
      }
    }))

  it.effect("a journal of 10,000 records is read in pages, in order, each record once", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const calls: Array<string> = []
      const store = yield* storeOn(passing(backing, (name, call) => {
        calls.push(name)
        return call
      }))
      yield* store.append(yield* store.acquire("r", minute), many(0, 10_000))
      calls.length = 0
      const entries = yield* store.read("r")
      assert.deepStrictEqual(entries.map(({ position }) => position), Array.from({ length: 10_000 }, (_, n) => n))
      assert.deepStrictEqual([calls.length, new Set(calls)], [101, new Set(["get", "getMany"])])
    }))

  it.effect("a write that goes on after its caller has gone is over before the next one begins", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const gate = yield* Deferred.make<void>()
      const reached = yield* Deferred.make<void>()
      let isSlow = false
      const store = yield* storeOn(passing(backing, (name, call) => {
        if (!isSlow || name !== "setMany") return call
        isSlow = false
        return Deferred.succeed(reached, undefined).pipe(Effect.andThen(Deferred.await(gate)), Effect.andThen(call))
      }))
      const lease = yield* store.acquire("r", minute)
      isSlow = true
      const caller = yield* Effect.forkChild(store.append(lease, one(0)), { startImmediately: true })
      yield* Deferred.await(reached)
      yield* Fiber.interrupt(caller)
      const next = yield* Effect.forkChild(store.acquire("r", minute, { takeOver: true }), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      assert.isUndefined(next.pollUnsafe())
      // Who waits for its turn and gives up does nothing later.
      const impatient = yield* Effect.forkChild(store.remove(lease), { startImmediately: true })
      yield* Fiber.interrupt(impatient)
      yield* Deferred.succeed(gate, undefined)
      const granted = yield* Fiber.join(next)
      assert.deepStrictEqual(yield* store.read("r"), [entry(0)])
      yield* store.append(granted, one(1))
      assert.strictEqual(yield* tagOf(store.append(lease, one(1))), "Fenced")
    }))

  it.effect("an interruption at any step leaves a run that can be taken over, read and written", () =>
    Effect.gen(function*() {
      const { backing, keys } = yield* visible
      const slow = passing(backing, (_, call) => Effect.andThen(Effect.yieldNow, call))
      let arranged = 0
      const steps = yield* interruptEverywhere({
        moments: isFull ? ["during", "before", "yield"] : ["before"],
        arrange: Effect.gen(function*() {
          const storeId = `interrupted-${arranged++}`
          const store = yield* storeOn(slow, { storeId })
          let acknowledged = 0
          return {
            effect: Effect.gen(function*() {
              const lease = yield* store.acquire("r", minute)
              for (const entries of [one(0), many(1, 4), one(4)]) {
                yield* store.append(lease, entries, "running")
                acknowledged += entries.length
              }
              yield* store.release(lease)
            }),
            check: () =>
              Effect.gen(function*() {
                const lease = yield* store.acquire("r", minute, { takeOver: true })
                const { length } = yield* store.read("r")
                assert.isTrue(length >= acknowledged && [0, 1, 4, 5].includes(length))
                yield* store.append(lease, one(length))
                yield* store.remove(lease)
                assert.deepStrictEqual(yield* keys(storeId), ["store"])
              })
          }
        })
      })
      assert.isAbove(steps, 100)
    }))

  it.effect("the holder of another process is fenced at its next call when its lease was taken over", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const a = yield* storeOn(backing)
      const b = yield* storeOn(backing)
      const lease = yield* a.acquire("r", minute)
      yield* a.append(lease, one(0))
      assert.strictEqual(yield* tagOf(b.acquire("r", minute)), "LeaseHeld")
      yield* TestClock.adjust(minute)
      const next = yield* b.acquire("r", minute)
      assert.isAbove(next.token, lease.token)
      for (const deed of [a.append(lease, one(1)), a.renew(lease, minute), a.release(lease), a.remove(lease)]) {
        assert.strictEqual(yield* tagOf(deed), "Fenced")
      }
      yield* b.append(next, one(1))
    }))

  it.effect("of two processes that are granted the same token at the same moment one is fenced", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const a = yield* storeOn(backing)
      let meanwhile: Effect.Effect<unknown, CheckpointStore.CheckpointStoreError> = Effect.void
      let calls = 0
      // Stands still after it has seen that the run is free, and has drawn its token.
      const b = yield* storeOn(
        passing(backing, (_, call) => Effect.tap(call, () => ++calls === 3 ? Effect.orDie(meanwhile) : Effect.void))
      )
      let first: CheckpointStore.Lease | undefined
      meanwhile = Effect.map(a.acquire("r", minute), (lease) => {
        first = lease
      })
      calls = 0
      const second = yield* b.acquire("r", minute)
      assert.isDefined(first)
      assert.strictEqual(first?.token, second.token)
      yield* b.append(second, one(0))
      assert.strictEqual(first && (yield* tagOf(a.append(first, one(1)))), "Fenced")
    }))

  it.effect("a lease whose owner is known to be gone is taken over at once", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const gone = new Set<string>()
      const named = (id: string) =>
        storeOn(backing, { owner: { id, isGone: (owner) => Effect.sync(() => gone.has(owner)) } })
      const [a, b] = [yield* named("a"), yield* named("b")]
      const lease = yield* a.acquire("r", minute)
      assert.strictEqual(yield* tagOf(b.acquire("r", minute)), "LeaseHeld")
      gone.add("a")
      assert.isAbove((yield* b.acquire("r", minute)).token, lease.token)
      assert.strictEqual(yield* tagOf(a.renew(lease, minute)), "Fenced")
    }))

  it.effect("a run that another process begins while this one looks for it is held, and not corrupt", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const other = yield* storeOn(backing)
      const begin = Effect.flatMap(other.acquire("r", minute), (lease) => other.append(lease, one(0)))
      let isAwake = true
      // Stands still after it has found no run, until another process has begun it.
      const sleepy = passing(backing, (name, call) =>
        Effect.tap(call, () => {
          if (name !== "get" || isAwake) return Effect.void
          isAwake = true
          return Effect.orDie(begin)
        }))
      const store = yield* storeOn(sleepy)
      isAwake = false
      assert.strictEqual(yield* tagOf(store.acquire("r", minute)), "LeaseHeld")
      assert.deepStrictEqual(yield* other.read("r"), one(0))
    }))

  it.effect("a run that another process wrote out of the index is listed again when it is acquired", () =>
    Effect.gen(function*() {
      const { backing, kv } = yield* visible
      const store = yield* storeOn(backing)
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, one(0))
      const keys = yield* kv.keys
      for (const key of keys.filter((key) => key.includes(":index-"))) yield* kv.remove(key)
      assert.deepStrictEqual(yield* store.list(), [])
      yield* store.acquire("r", minute, { takeOver: true })
      assert.deepStrictEqual((yield* store.list()).map(({ runId }) => runId), ["r"])
    }))

  it.effect("what cannot be read is Corrupt, is touched by nobody, and hides no other run", () =>
    withMessages((logs) =>
      Effect.gen(function*() {
        const { backing, kv } = yield* visible
        const store = yield* storeOn(backing)
        const prefix = "effect_resilience_checkpoint:"
        const keyOf = (part: string, id: string) =>
          Effect.map(kv.keys, (keys) =>
            keys.find((key) => key.includes(part) && key.includes(hashes.get(id) ?? "?")) ?? "")
        const hashes = new Map<string, string>()
        const create = Effect.fnUntraced(function*(id: string) {
          const before = new Set(yield* kv.keys)
          yield* store.append(yield* store.acquire(id, minute), many(0, 3), "running")
          const head = (yield* kv.keys).find((key) =>
            key.startsWith(`${prefix}run-`) && !before.has(key)
          ) ?? ""
          hashes.set(id, head.slice(`${prefix}run-`.length))
        })
        yield* create("sound")
        yield* create("donor")
        const head = (id: string) => keyOf("run-", id)
        const record = (id: string) => keyOf("-1", id)
        const damages: Record<string, (id: string) => Effect.Effect<unknown, KeyValueStore.KeyValueStoreError>> = {
          "a record is missing": (id) => Effect.flatMap(record(id), kv.remove),
          "a record is no JSON": (id) => Effect.flatMap(record(id), (key) => kv.set(key, "[{\"step\":")),
          "a record is another one": (id) => Effect.flatMap(record(id), (key) => kv.set(key, "[{\"n\":1},null]")),
          "the head is cut off": (id) => Effect.flatMap(head(id), (key) => kv.set(key, "")),
          "the head is another one": (id) => Effect.flatMap(head(id), (key) => kv.set(key, "[{},null]")),
          "the head is lost": (id) => Effect.flatMap(head(id), kv.remove),
          "the head is of another run": (id) =>
            Effect.gen(function*() {
              const donor = yield* kv.get(yield* head("donor"))
              yield* kv.set(yield* head(id), donor ?? "")
            })
        }
        for (const id of Object.keys(damages)) yield* create(id)
        for (const [id, damage] of Object.entries(damages)) yield* damage(id)
        const snapshot = Effect.flatMap(kv.keys, (keys) =>
          Effect.forEach(keys.toSorted(), (key) => Effect.map(kv.get(key), (value) => [key, value])))
        yield* TestClock.adjust("1 hour")
        const before = yield* snapshot
        const found = yield* Effect.forEach(Object.keys(damages), (id) =>
          Effect.gen(function*() {
            const deeds: ReadonlyArray<Effect.Effect<unknown, CheckpointStore.CheckpointStoreError>> = [
              store.read(id),
              store.get(id),
              id.startsWith("the head") ? store.acquire(id, minute) : Effect.void
            ]
            return [
              id,
              yield* Effect.forEach(deeds, (deed) =>
                Effect.match(deed, {
                  onSuccess: () =>
                    "ok",
                  onFailure: ({ reason }) => reason._tag
                }))
            ]
          }))
        assert.deepStrictEqual(Object.fromEntries(found), {
          "a record is missing": ["Corrupt", "ok", "ok"],
          "a record is no JSON": ["Corrupt", "ok", "ok"],
          "a record is another one": ["Corrupt", "ok", "ok"],
          "the head is cut off": ["Corrupt", "Corrupt", "Corrupt"],
          "the head is another one": ["Corrupt", "Corrupt", "Corrupt"],
          "the head is lost": ["ok", "ok", "Corrupt"],
          "the head is of another run": ["Corrupt", "Corrupt", "Corrupt"]
        })
        yield* TestClock.adjust("2 days")
        const listed = (yield* store.list()).map(({ runId }) => runId)
        assert.deepStrictEqual(listed, [
          "sound",
          "donor",
          "a record is missing",
          "a record is no JSON",
          "a record is another one"
        ])
        assert.strictEqual(logs.filter((line) => line.includes("left out")).length, 3)
        assert.strictEqual(logs.filter((line) => line.includes("could not be removed")).length, 1)
        assert.deepStrictEqual(yield* snapshot, before)
      })
    ))

  it.effect("an index that cannot be read hides its own runs alone, and holds up none that is there", () =>
    withMessages((logs) =>
      Effect.gen(function*() {
        const { backing, kv } = yield* visible
        const store = yield* storeOn(backing)
        for (const id of ["a", "b", "c", "d"]) {
          const lease = yield* store.acquire(id, minute)
          yield* store.append(lease, one(0))
          yield* store.release(lease)
        }
        const index = (yield* kv.keys).find((key) => key.includes(":index-")) ?? ""
        yield* kv.set(index, "[1")
        assert.isBelow((yield* store.list()).length, 4)
        assert.isAbove((yield* store.list()).length, 0)
        for (const id of ["a", "b", "c", "d"]) yield* store.acquire(id, minute)
        assert.include(logs.join("\n"), "may be missing in the list")
        assert.strictEqual(yield* kv.get(index), "[1")
      })
    ))

  it.effect("leases without a record are forgotten a day after they ran out, when runs are listed", () =>
    Effect.gen(function*() {
      const { backing, keys } = yield* visible
      const store = yield* storeOn(backing)
      const lease = yield* store.acquire("r", minute)
      yield* TestClock.adjust("23 hours")
      yield* store.list()
      yield* store.renew(lease, Duration.hours(2))
      yield* TestClock.adjust("25 hours")
      yield* store.list()
      assert.strictEqual((yield* keys()).length, 3)
      yield* TestClock.adjust("1 hour")
      yield* store.list()
      assert.deepStrictEqual(yield* keys(), ["store"])
      assert.strictEqual(yield* tagOf(store.append(lease, one(0))), "Fenced")
    }))

  it.effect("the runs of a newer release are refused with both versions", () =>
    Effect.gen(function*() {
      const { backing, kv } = yield* visible
      yield* kv.set("effect_resilience_checkpoint:store", "[{\"format\":99,\"token\":1},null]")
      assert.deepStrictEqual(yield* reasonOf(storeOn(backing)), { _tag: "SchemaTooNew", found: 99, known: 1 })
      const exit = yield* Effect.exit(storeOn(backing, { storeId: "" }))
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
    }))

  it.effect("what a backing says is typed by whether it can pass", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      let cause: unknown
      let isDown = false
      const store = yield* storeOn(
        passing(
          backing,
          (_, call) => isDown ? Effect.fail(new Persistence.PersistenceError({ message: "failed", cause })) : call
        )
      )
      const lease = yield* store.acquire("r", minute)
      const says = (what: unknown) => {
        cause = what
        isDown = true
        return tagOf(store.append(lease, one(0)))
      }
      const sql = (reason: SqlError.SqlError["reason"]) => new SqlError.SqlError({ reason })
      assert.strictEqual(yield* says(undefined), "Unavailable")
      assert.strictEqual(yield* says(sql(new SqlError.ConnectionError({ cause: "gone" }))), "Unavailable")
      assert.strictEqual(yield* says(sql(new SqlError.SqlSyntaxError({ cause: "no such table" }))), "Rejected")
      assert.strictEqual(yield* says(new Error("OOM command not allowed")), "Unavailable")
      assert.strictEqual(yield* says(new Error("NOPERM this user has no permissions")), "Rejected")
      assert.strictEqual(yield* says(new Error("WRONGTYPE Operation against a key")), "Corrupt")
      assert.strictEqual(
        yield* says(new KeyValueStore.KeyValueStoreError({ method: "set", message: "" })),
        "Unavailable"
      )
      isDown = false
      yield* store.append(lease, one(0))
      assert.strictEqual(Option.getOrUndefined(yield* store.get("r"))?.entries, 1)
    }))
})
