import { assert, describe, it } from "@effect/vitest"
import { Cause, Duration, Effect, Exit, Fiber, Layer, Schema } from "effect"
import { Fault, Idempotency } from "effect-resilience"
import * as PersistenceIdempotency from "effect-resilience/durable/stores/PersistenceIdempotency"
import { KeyValueStore, Persistence } from "effect/persistence"
import { TestClock } from "effect/testing"
import { describeWithRedis } from "../../support/redis.ts"
import { type Backing, backings, redisBacking } from "../backings.ts"
import { idempotencyContract } from "../contracts/IdempotencyContract.ts"
import { Line } from "../cutEverywhere.ts"

type BackingService = Persistence.BackingPersistence["Service"]
type BackingStore = Persistence.BackingPersistenceStore

const { layerPersistence } = PersistenceIdempotency

const day = Duration.toMillis(Duration.days(1))

const entry = (outcome: string, recordedAt = 0, expiresAt = recordedAt + day): Idempotency.Entry => ({
  outcome,
  recordedAt,
  expiresAt
})

const storeOn = (backing: BackingService, options?: PersistenceIdempotency.StoreOptions) =>
  Effect.provideService(PersistenceIdempotency.makeStore(options), Persistence.BackingPersistence, backing)

/** Processes over one backing. */
const over = (backing: Backing, options?: PersistenceIdempotency.Options) =>
  Effect.map(
    Layer.build(backing),
    (built) => layerPersistence(options).pipe(Layer.provide(Layer.succeedContext(built)))
  )

/** A backing on a key-value store, whose keys can be seen. */
const visible = Effect.gen(function*() {
  const kv = yield* KeyValueStore.KeyValueStore
  const backing = yield* Persistence.BackingPersistence
  const keys = (storeId = "effect_resilience_idempotency") =>
    Effect.map(Effect.orDie(kv.keys), (keys) => keys.filter((key) => key.startsWith(`${storeId}:`)))
  return { kv, backing, keys }
}).pipe(Effect.provide(Persistence.layerBackingKvs.pipe(Layer.provideMerge(KeyValueStore.layerMemory))))

const lost = new Persistence.PersistenceError({ message: "the backing is gone" })

const through = (backing: BackingService, line: Line): BackingService => ({
  make: (storeId) =>
    Effect.map(backing.make(storeId), (store): BackingStore => ({
      get: (key) => line.through(store.get(key), lost),
      getMany: (keys) => line.through(store.getMany(keys), lost),
      set: (key, value, ttl) => line.through(store.set(key, value, ttl), lost),
      setMany: (entries) => line.through(store.setMany(entries), lost),
      remove: (key) => line.through(store.remove(key), lost),
      clear: line.through(store.clear, lost)
    }))
})

for (const [name, backing] of Object.entries(backings)) {
  idempotencyContract(`Idempotency in Persistence, ${name}`, over(backing), { durable: true })
}

describeWithRedis("PersistenceIdempotency on Redis", () => {
  idempotencyContract(
    "Idempotency in Persistence, Redis",
    Effect.flatMap(redisBacking, ({ backing, storeId }) => over(backing, { storeId })),
    { durable: true }
  )
})

describe("PersistenceIdempotency", () => {
  it.effect("a backing that is lost at any call, before or after it, loses no outcome and keeps no cleared one", () =>
    Effect.gen(function*() {
      const { backing, keys } = yield* visible
      for (const last of ["lost", "unacknowledged"] as const) {
        for (let cutAt = 1;; cutAt++) {
          const storeId = `${last}-${cutAt}`
          const line = new Line(cutAt, last)
          // Beside what is cut off, what the scope had before.
          const whole = yield* storeOn(backing, { storeId })
          yield* whole.put("s", "old", entry("old"))
          yield* whole.put("other", "k", entry("other"))
          const known = new Map<string, string>([["old", "old"]])
          const may = new Map<string, string>()
          const died = yield* Effect.exit(Effect.gen(function*() {
            const store = yield* storeOn(through(backing, line), { storeId })
            for (const key of ["a", "b"]) {
              may.set(key, key)
              yield* store.put("s", key, entry(key))
              known.set(key, key)
            }
            assert.strictEqual((yield* store.put("s", "a", entry("again", 1))).outcome, "a")
            for (const key of known.keys()) may.set(key, "cleared")
            yield* store.clear("s")
            known.clear()
            may.clear()
            may.set("a", "new")
            yield* store.put("s", "a", entry("new", 2))
            known.set("a", "new")
          }))
          const store = yield* storeOn(backing, { storeId })
          for (const key of ["old", "a", "b"]) {
            const found = (yield* store.get("s", key))?.outcome
            const maybe = may.get(key)
            const allowed = [known.get(key), maybe === "cleared" ? undefined : maybe]
            assert.include(allowed, found, `${storeId}, ${key}`)
          }
          yield* store.clear("s")
          for (const key of ["old", "a", "b"]) assert.isUndefined(yield* store.get("s", key))
          assert.strictEqual((yield* store.get("other", "k"))?.outcome, "other")
          yield* store.clear("other")
          assert.deepStrictEqual(yield* keys(storeId), [], storeId)
          if (Exit.isSuccess(died)) {
            assert.isAbove(cutAt, 30)
            break
          }
        }
      }
    }))

  it.effect("what has expired goes as new results of the scope are recorded, and what was recorded anew stays", () =>
    Effect.gen(function*() {
      const { backing, keys } = yield* visible
      const store = yield* storeOn(backing)
      for (let n = 0; n < 20; n++) yield* store.put("s", `k${n}`, entry(`${n}`, 0, Number.MAX_SAFE_INTEGER))
      yield* store.clear("s")
      for (let n = 0; n < 20; n++) yield* store.put("s", `k${n}`, entry(`${n}`))
      yield* store.put("s", "k9", entry("anew", day))
      for (let n = 0; n < 20; n++) yield* store.put("s", `l${n}`, entry(`${n}`, day))
      assert.strictEqual((yield* store.get("s", "k9"))?.outcome, "anew")
      assert.isUndefined(yield* store.get("s", "k1"))
      // The scope, and a slot and a result for each of the twenty-one that are left.
      assert.strictEqual((yield* keys()).length, 1 + 2 * 21)
    }))

  it.effect("a clearing that did not come to pass takes nothing that is recorded after it", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      let spared = 0
      for (let cutAt = 1; cutAt < 12; cutAt++) {
        const storeId = `clear-${cutAt}`
        const whole = yield* storeOn(backing, { storeId })
        yield* whole.put("s", "a", entry("a"))
        yield* whole.put("other", "k", entry("other"))
        // Its first call is made when it is opened.
        const mortal = yield* storeOn(through(backing, new Line(cutAt + 1)), { storeId })
        yield* Effect.ignore(mortal.clear("s"))
        const isSpared = (yield* whole.get("s", "a")) !== undefined
        if (isSpared) spared++
        yield* whole.put("s", "b", entry("b"))
        yield* whole.clear("other")
        assert.strictEqual((yield* whole.get("s", "a"))?.outcome, isSpared ? "a" : undefined)
        assert.strictEqual((yield* whole.get("s", "b"))?.outcome, "b")
      }
      assert.isTrue(spared > 2 && spared < 11)
    }))

  it.effect("a scope outlives the results that were recorded last, where earlier ones last longer", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const store = yield* storeOn(backing)
      yield* store.put("s", "long", entry("long", 0, 10 * day))
      yield* store.put("s", "short", entry("short", 0, day))
      yield* TestClock.adjust("9 days")
      assert.strictEqual((yield* store.get("s", "long"))?.outcome, "long")
      yield* TestClock.adjust("1 day")
      assert.isUndefined(yield* store.get("s", "long"))
    }))

  it.effect("outcomes, scopes and keys come back as they went in", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const store = yield* storeOn(backing)
      const texts = ["", "/", "..", "a\nb\u0000", "🦉", "__proto__", "é e\u0301", "x".repeat(10_000)]
      for (const text of texts) {
        const recorded = entry(text, 1.5, 2 ** 53 - 1)
        assert.deepStrictEqual(yield* store.put(text, "k", recorded), recorded)
        assert.deepStrictEqual(yield* store.get(text, "k"), recorded)
      }
      yield* Effect.forEach(texts, store.clear)
      for (const text of texts) assert.isUndefined(yield* store.get(text, "k"))
    }))

  it.effect("of many calls that record the same at once all answer the outcome of the first", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const store = yield* storeOn(backing)
      const kept = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, n) => n),
        (n) => store.put("s", "k", entry(`${n}`)),
        { concurrency: "unbounded" }
      )
      assert.deepStrictEqual(new Set(kept.map(({ outcome }) => outcome)), new Set(["0"]))
    }))

  it.effect("a record that cannot be read stops the call before it is executed, and is left as it is", () =>
    Effect.gen(function*() {
      const { backing, keys, kv } = yield* visible
      const store = yield* storeOn(backing)
      const service = yield* Idempotency.make({ store })
      const options = { scope: "s", tool: "t", success: Schema.Int }
      yield* service.once(options, Effect.succeed(1))
      for (const part of ["-result-", ":scope-"]) {
        const key = (yield* keys()).find((key) => key.includes(part)) ?? ""
        const sound = (yield* kv.get(key)) ?? ""
        for (const broken of ["[{\"outcome\":", "[{\"n\":1},null]"]) {
          yield* kv.set(key, broken)
          const error = yield* Effect.flip(service.once(options, Effect.die("must not run")))
          assert.isTrue(error._tag === "IdempotencyStoreError" && error.reason === "Rejected")
          assert.strictEqual((yield* Fault.classify(error))._tag, "Permanent")
          const hash = yield* Idempotency.key("t")
          assert.strictEqual((yield* Effect.flip(store.put("s", hash, entry("2", day * 60)))).reason, "Rejected")
          assert.strictEqual(yield* kv.get(key), broken)
        }
        yield* kv.set(key, sound)
      }
      assert.strictEqual(yield* service.once(options, Effect.die("must not run")), 1)
    }))

  it.effect("a backing that does not answer makes an executed call ambiguous, and holds nobody up", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      let isSilent = false
      const store = yield* storeOn({
        make: (storeId) =>
          Effect.map(backing.make(storeId), (store): BackingStore => ({
            ...store,
            set: (key, value, ttl) => Effect.suspend(() => isSilent ? Effect.never : store.set(key, value, ttl))
          }))
      })
      const service = yield* Idempotency.make({ store })
      isSilent = true
      const call = service.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.succeed(1))
      const caller = yield* Effect.forkChild(Effect.flip(call), { startImmediately: true })
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* Fault.classify(yield* Fiber.join(caller)))._tag, "Ambiguous")
    }))

  it.effect("a backing that is away stops the call before it is executed", () =>
    Effect.gen(function*() {
      const { backing } = yield* visible
      const away = new Line(2)
      const service = yield* Idempotency.make({ store: yield* storeOn(through(backing, away)) })
      const error = yield* Effect.flip(
        service.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.die("must not run"))
      )
      assert.strictEqual((yield* Fault.classify(error))._tag, "Transient")
      const opening = yield* Effect.flip(storeOn(through(backing, new Line(1))))
      assert.deepStrictEqual([opening.operation, opening.reason], ["open", "Unavailable"])
      const exit = yield* Effect.exit(storeOn(backing, { storeId: "" }))
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
    }))
})
