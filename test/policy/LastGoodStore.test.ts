import { assert, describe, it } from "@effect/vitest"
import {
  Context,
  Duration,
  Effect,
  Exit,
  Fiber,
  Latch,
  Layer,
  Logger,
  References,
  Scheduler,
  Schema,
  Scope
} from "effect"
import { LastGood } from "effect-resilience"
import { KeyValueStore } from "effect/persistence"
import { TestClock } from "effect/testing"

const skies = LastGood.slot("skies", Schema.String)
const good = (sky: string, key = "k") => LastGood.remember(Effect.succeed(sky), skies, key)
const sky = (key = "k") => Effect.map(LastGood.recall(skies, key), (aged) => aged.value)
const failure = (key = "k") =>
  Effect.map(
    Effect.flip(LastGood.recall(skies, key)),
    (error) => error._tag === "NoLastGood" ? error.reason : error._tag
  )

/** A store whose operations can be held up or made to fail, and what it was asked. */
const makeStore = Effect.gen(function*() {
  const data = new Map<string, string>()
  const sets: Array<string> = []
  const removed: Array<string> = []
  const gate = yield* Latch.make(true)
  const control = { fails: false, throws: false, interrupted: 0 }
  const operation = <A>(step: () => A): Effect.Effect<A, KeyValueStore.KeyValueStoreError> => {
    if (control.throws) throw new TypeError("thrown by the store")
    return gate.await.pipe(
      Effect.andThen(Effect.suspend(() =>
        control.fails
          ? Effect.fail(new KeyValueStore.KeyValueStoreError({ method: "any", message: "the store is down" }))
          : Effect.succeed(step())
      )),
      Effect.onInterrupt(() => Effect.sync(() => control.interrupted++))
    )
  }
  const kv = KeyValueStore.makeStringOnly({
    get: (key) => operation(() => data.get(key)),
    set: (key, value) =>
      operation(() => {
        sets.push(value)
        data.set(key, value)
      }),
    remove: (key) =>
      operation(() => {
        removed.push(key)
        data.delete(key)
      }),
    clear: operation(() => data.clear()),
    size: Effect.suspend(() => operation(() => data.size)),
    keys: Effect.suspend(() => operation(() => Array.from(data.keys())))
  })
  return { kv, data, sets, removed, gate, control }
})

/** A process of its own over the store, in the scope around. */
const start = (kv: KeyValueStore.KeyValueStore, options?: LastGood.KeyValueStoreOptions) =>
  Layer.build(Layer.fresh(
    LastGood.layerKeyValueStore(options).pipe(
      Layer.provide(Layer.succeed(KeyValueStore.KeyValueStore, kv))
    )
  ))

/** Lets the first fiber that it sees give way at one of its steps, and no other. */
class YieldsAt extends Scheduler.MixedScheduler {
  private readonly step: number
  private first: Fiber.Fiber<unknown, unknown> | undefined
  private count = 0
  constructor(step: number) {
    super()
    this.step = step
  }
  override shouldYield(fiber: Fiber.Fiber<unknown, unknown>): boolean {
    this.first ??= fiber
    return fiber === this.first && ++this.count === this.step
  }
}

const written = Effect.repeat(Effect.yieldNow, { times: 20 })

const heard = Effect.sync(() => {
  const messages: Array<string> = []
  const logger = Logger.make(({ message }) => {
    messages.push(String(Array.isArray(message) ? message[0] : message))
  })
  return { messages, layer: Logger.layer([logger]) }
})

describe("LastGood.layerKeyValueStore", () => {
  it.effect("an answer outlives the process, with its age by the wall clock", () =>
    Effect.gen(function*() {
      yield* TestClock.setTime(1_700_000_000_000)
      const { data, kv } = yield* makeStore
      yield* Effect.scoped(Effect.flatMap(start(kv), (process) => Effect.provide(good("sunny"), process)))
      assert.deepStrictEqual([...data], [["last-good/skies/k", "1700000000000 \"sunny\""]])
      yield* TestClock.adjust("3 hours")
      const next = yield* start(kv)
      const aged = yield* Effect.provide(LastGood.recall(skies, "k"), next)
      assert.deepStrictEqual([aged.value, Duration.toHours(aged.age)], ["sunny", 3])
    }))

  it.effect("serves the newer of what it has in memory and what another process has stored", () =>
    Effect.gen(function*() {
      const { kv } = yield* makeStore
      const [one, other] = [yield* start(kv), yield* start(kv)]
      yield* Effect.provide(good("old"), one)
      yield* TestClock.adjust("1 minute")
      yield* Effect.provide(good("new"), other)
      yield* written
      assert.strictEqual(yield* Effect.provide(sky(), one), "new")
    }))

  it.effect("an answer from a process whose clock goes ahead is new, and not of negative age", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      data.set("last-good/skies/k", "60000 \"sunny\"")
      const process = yield* start(kv)
      assert.deepStrictEqual((yield* Effect.provide(LastGood.recall(skies, "k"), process)).age, Duration.zero)
    }))

  it.effect("of two answers of one moment its own is served", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      const process = yield* start(kv)
      yield* Effect.provide(good("own"), process)
      yield* written
      data.set("last-good/skies/k", "0 \"theirs\"")
      assert.strictEqual(yield* Effect.provide(sky(), process), "own")
    }))

  it.effect("a record of the far future is not believed", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      const process = yield* start(kv)
      data.set("last-good/skies/near", "300000 \"sunny\"")
      data.set("last-good/skies/far", "300001 \"sunny\"")
      assert.strictEqual(yield* Effect.provide(sky("near"), process), "sunny")
      assert.strictEqual(yield* Effect.provide(failure("far"), process), "LastGoodStoreError")
      yield* Effect.provide(good("own", "far"), process)
      assert.strictEqual(yield* Effect.provide(sky("far"), process), "own")
      yield* written
      assert.strictEqual(data.get("last-good/skies/far"), "0 \"own\"")
    }))

  it.effect("a moment that no date can be is no record of ours", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      const process = yield* start(kv, { timeToLive: Duration.infinity })
      data.set("last-good/skies/first", "-8640000000000000 \"sunny\"")
      data.set("last-good/skies/k", "-8640000000000001 \"sunny\"")
      assert.strictEqual(yield* Effect.provide(sky("first"), process), "sunny")
      assert.strictEqual(yield* Effect.provide(failure(), process), "LastGoodStoreError")
    }))

  it.effect("keeps the moment in whole milliseconds, also before 1970", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      yield* TestClock.setTime(-1000)
      yield* TestClock.adjust(Duration.micros(1_500n))
      yield* Effect.scoped(Effect.flatMap(start(kv), (process) => Effect.provide(good("sunny"), process)))
      assert.strictEqual(data.get("last-good/skies/k"), "-999 \"sunny\"")
      assert.strictEqual(yield* Effect.provide(sky(), yield* start(kv)), "sunny")
    }))

  it.effect("no call waits for the store, and of each key only the latest answer is written", () =>
    Effect.gen(function*() {
      const { data, gate, kv, sets } = yield* makeStore
      const process = yield* start(kv)
      yield* gate.close
      yield* Effect.provide(good("first"), process)
      yield* written
      for (const next of ["second", "third", "fourth"]) yield* Effect.provide(good(next), process)
      yield* Effect.provide(good("other", "l"), process)
      assert.strictEqual(data.size, 0)
      yield* gate.open
      yield* written
      assert.deepStrictEqual(sets.map((text) => text.split(" ")[1]), ["\"first\"", "\"fourth\"", "\"other\""])
    }))

  it.effect("no more than maxEntries answers wait to be written, the latest ones", () =>
    Effect.gen(function*() {
      const { gate, kv, sets } = yield* makeStore
      const process = yield* start(kv, { maxEntries: 2 })
      yield* gate.close
      yield* Effect.provide(good("a", "a"), process)
      yield* written
      for (const key of ["b", "c", "d", "e"]) yield* Effect.provide(good(key, key), process)
      yield* gate.open
      yield* written
      assert.deepStrictEqual(sets.map((text) => text.split(" ")[1]), ["\"a\"", "\"d\"", "\"e\""])
    }))

  it.effect("recalls what is not written yet", () =>
    Effect.gen(function*() {
      const { control, gate, kv } = yield* makeStore
      const process = yield* start(kv)
      yield* gate.close
      yield* Effect.provide(Effect.andThen(good("first", "l"), good("second")), process)
      assert.strictEqual(yield* Effect.provide(sky(), process), "second")
      control.fails = true
      yield* gate.open
    }))

  it.effect("closing writes what is left", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      yield* Effect.scoped(Effect.gen(function*() {
        const process = yield* start(kv)
        for (const key of ["a", "b", "c"]) yield* Effect.provide(good(key, key), process)
        assert.strictEqual(data.size, 0)
      }))
      assert.strictEqual(data.size, 3)
    }))

  it.effect("closing with a store that does not answer takes one timeout, and a warning says what is lost", () =>
    Effect.gen(function*() {
      const { gate, kv } = yield* makeStore
      const { layer, messages } = yield* heard
      const scope = yield* Scope.make()
      const process = yield* Scope.provide(start(kv), scope)
      yield* gate.close
      for (const key of ["a", "b", "c"]) yield* Effect.provide(good(key, key), process).pipe(Effect.provide(layer))
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* TestClock.adjust("5 seconds")
      assert.isDefined(closing.pollUnsafe())
      assert.deepStrictEqual(messages, [
        "LastGood could not store the answer for \"skies/a\"; this process alone remembers it",
        "LastGood closes with 2 more answers that it did not store"
      ])
    }))

  it.effect("goes on writing wherever the scheduler lets a caller give way", () =>
    Effect.gen(function*() {
      for (let step = 1; step < 60; step++) {
        const { data, kv } = yield* makeStore
        const process = yield* start(kv)
        yield* Effect.provide(good("first", "a"), process).pipe(
          Effect.provideService(Scheduler.Scheduler, new YieldsAt(step)),
          Effect.forkChild({ startImmediately: true }),
          Effect.flatMap(Fiber.await)
        )
        yield* written
        yield* Effect.provide(good("second", "b"), process)
        yield* written
        assert.deepStrictEqual([...data.keys()], ["last-good/skies/a", "last-good/skies/b"], `step ${step}`)
      }
    }))

  it.effect("goes on writing after a logger that throws", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      const throwing = Logger.layer([Logger.make(() => {
        throw new TypeError("thrown by the logger")
      })])
      let isFirst = true
      const process = yield* start({
        ...kv,
        set: (key, value) => {
          if (!isFirst) return kv.set(key, value)
          isFirst = false
          return Effect.die("the store is down")
        }
      })
      yield* Effect.provide(Effect.andThen(good("lost", "a"), good("kept", "b")), process).pipe(
        Effect.provide(throwing)
      )
      yield* written
      assert.deepStrictEqual([...data.keys()], ["last-good/skies/b"])
    }))

  it.effect("an answer that comes while the layer closes is written too", () =>
    Effect.gen(function*() {
      const { data, gate, kv } = yield* makeStore
      const scope = yield* Scope.make()
      const process = yield* Scope.provide(start(kv), scope)
      yield* gate.close
      yield* Effect.provide(good("sunny", "a"), process)
      yield* written
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void), { startImmediately: true })
      yield* Effect.provide(good("rain", "b"), process)
      assert.isUndefined(closing.pollUnsafe())
      yield* gate.open
      yield* Fiber.join(closing)
      assert.strictEqual(data.size, 2)
    }))

  it.effect("of two calls the answer to the one that began later stays in the store, whatever memory has forgotten", () =>
    Effect.gen(function*() {
      const { data, gate, kv } = yield* makeStore
      const process = yield* start(kv, { maxEntries: 2 })
      const slow = yield* Latch.make(false)
      const older = yield* Effect.provide(LastGood.remember(Effect.as(slow.await, "old"), skies, "k"), process).pipe(
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("1 second")
      // memory drops the one that was not asked for, and the store the one that was written first
      yield* gate.close
      yield* Effect.provide(good("x", "x"), process)
      yield* written
      yield* Effect.provide(Effect.andThen(good("a", "a"), good("new")), process)
      assert.strictEqual(yield* Effect.provide(sky("a"), process), "a")
      yield* gate.open
      yield* written
      yield* Effect.provide(good("b", "b"), process)
      yield* written
      assert.deepStrictEqual([...data.keys()], ["last-good/skies/k", "last-good/skies/b"])
      yield* slow.open
      yield* Fiber.join(older)
      yield* written
      assert.strictEqual(data.get("last-good/skies/k"), "1000 \"new\"")
      assert.strictEqual(yield* Effect.provide(sky(), process), "new")
    }))

  it.effect("of two calls the answer to the one that began later is written, whatever memory has forgotten", () =>
    Effect.gen(function*() {
      const { data, gate, kv } = yield* makeStore
      const process = yield* start(kv, { maxEntries: 2 })
      const slow = yield* Latch.make(false)
      const older = yield* Effect.provide(LastGood.remember(Effect.as(slow.await, "old"), skies, "k"), process).pipe(
        Effect.forkChild({ startImmediately: true })
      )
      yield* TestClock.adjust("1 second")
      yield* gate.close
      yield* Effect.provide(good("x", "x"), process)
      yield* written
      yield* Effect.provide(Effect.andThen(good("a", "a"), good("new")), process)
      assert.strictEqual(yield* Effect.provide(sky("a"), process), "a")
      yield* Effect.provide(good("b", "b"), process)
      yield* slow.open
      yield* Fiber.join(older)
      yield* gate.open
      yield* written
      assert.strictEqual(data.get("last-good/skies/k"), "1000 \"new\"")
    }))

  it.effect("an interrupted caller interrupts no write", () =>
    Effect.gen(function*() {
      const { control, data, gate, kv } = yield* makeStore
      const process = yield* start(kv)
      yield* gate.close
      const caller = yield* Effect.provide(good("sunny"), process).pipe(
        Effect.andThen(Effect.never),
        Effect.forkChild({ startImmediately: true })
      )
      yield* written
      yield* Fiber.interrupt(caller)
      yield* gate.open
      yield* written
      assert.strictEqual(control.interrupted, 0)
      assert.strictEqual(data.size, 1)
    }))

  it.effect("a store that is down loses no answer of this process, and warns of each", () =>
    Effect.gen(function*() {
      const { control, data, kv } = yield* makeStore
      const { layer, messages } = yield* heard
      const process = Context.merge(yield* start(kv), yield* Layer.build(layer))
      control.fails = true
      yield* Effect.provide(good("sunny"), process)
      yield* written
      assert.strictEqual(yield* Effect.provide(sky(), process), "sunny")
      assert.deepStrictEqual(messages, [
        "LastGood could not store the answer for \"skies/k\"; this process alone remembers it",
        "LastGood could not ask its store, and serves what it has in memory"
      ])
      assert.strictEqual(yield* Effect.provide(failure("other"), process), "LastGoodStoreError")
      control.fails = false
      control.throws = true
      assert.strictEqual(yield* Effect.provide(failure("other"), process), "LastGoodStoreError")
      const forgetting = Effect.flip(LastGood.forget(skies, "k"))
      assert.include((yield* Effect.provide(forgetting, process)).message, "failed to forget in slot \"skies\"")
      control.throws = false
      yield* Effect.provide(good("rain"), process)
      yield* written
      assert.strictEqual(data.size, 1)
    }))

  it.effect("a recall waits for the store no longer than the timeout", () =>
    Effect.gen(function*() {
      const { gate, kv } = yield* makeStore
      const process = yield* start(kv, { storeTimeout: "1 second" })
      yield* gate.close
      const fiber = yield* Effect.provide(failure(), process).pipe(Effect.forkChild({ startImmediately: true }))
      yield* TestClock.adjust("1 second")
      assert.strictEqual(yield* Fiber.join(fiber), "LastGoodStoreError")
    }))

  it.effect("never keeps more than maxEntries in the store, and touches no key but its own", () =>
    Effect.gen(function*() {
      const { data, kv, removed } = yield* makeStore
      data.set("somebody/else", "untouched")
      for (const key of ["x", "y", "z"]) data.set(`mine/skies/${key}`, "0 \"old\"")
      const process = yield* start(kv, { maxEntries: 3, prefix: "mine/" })
      yield* Effect.provide(good("a", "a"), process)
      yield* written
      assert.deepStrictEqual(removed, ["mine/skies/x"])
      yield* Effect.provide(sky("y"), process)
      yield* Effect.provide(good("b", "b"), process)
      yield* written
      assert.deepStrictEqual([...data.keys()], ["somebody/else", "mine/skies/y", "mine/skies/a", "mine/skies/b"])
    }))

  it.effect("takes no prefix for its own that only begins like it", () =>
    Effect.gen(function*() {
      const { data, kv, removed } = yield* makeStore
      for (const key of ["lg-users/1", "lg-users/2"]) data.set(key, "somebody else's")
      const process = yield* start(kv, { maxEntries: 1, prefix: "lg" })
      yield* Effect.provide(good("a", "a"), process)
      yield* written
      assert.deepStrictEqual(removed, [])
      assert.isTrue(data.has("lg/skies/a"))
      const empty = yield* Effect.exit(start(kv, { prefix: "" }))
      assert.include(String(empty), "option \"prefix\" is \"\"")
    }))

  it.effect("warns when it cannot make room, and goes on", () =>
    Effect.gen(function*() {
      const { kv } = yield* makeStore
      const { layer, messages } = yield* heard
      const broken = { ...kv, keys: Effect.die("no list today") }
      const process = Context.merge(yield* start(broken, { maxEntries: 1 }), yield* Layer.build(layer))
      yield* Effect.provide(good("a", "a"), process)
      yield* written
      assert.deepStrictEqual(messages, [
        "LastGood could not make room in its store, which now holds more than 1 answers"
      ])
    }))

  it.effect("gives nothing that has expired in the store, and no record of somebody else", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      yield* TestClock.setTime(10 * 86_400_000)
      data.set("last-good/skies/old", `${8 * 86_400_000} "old"`)
      data.set("last-good/skies/just", `${9 * 86_400_000} "just"`)
      data.set("last-good/skies/odd", "what is this")
      data.set("last-good/skies/huge", "99999999999999999999 \"sunny\"")
      data.set("last-good/skies/half", `${10 * 86_400_000} "sun`)
      const process = yield* start(kv)
      assert.strictEqual(yield* Effect.provide(failure("old"), process), "Nothing")
      assert.strictEqual(yield* Effect.provide(sky("just"), process), "just")
      assert.strictEqual(yield* Effect.provide(failure("odd"), process), "LastGoodStoreError")
      assert.strictEqual(yield* Effect.provide(failure("huge"), process), "LastGoodStoreError")
      assert.strictEqual(yield* Effect.provide(failure("half"), process), "Unreadable")
    }))

  it.effect("lists the keys of memory and store, and forgets in both", () =>
    Effect.gen(function*() {
      const { data, kv } = yield* makeStore
      data.set("last-good/skies/stored", "0 \"old\"")
      data.set("last-good/other/k", "0 \"old\"")
      const process = yield* start(kv)
      yield* Effect.gen(function*() {
        yield* good("sunny")
        const keys = LastGood.LastGood.use((store) => store.keys("skies"))
        assert.deepStrictEqual(yield* keys, ["k", "stored"])
        const near = yield* LastGood.recall(skies, "wanted", { similar: (_, candidates) => candidates[1] })
        assert.deepStrictEqual([near.value, near.key, near.exact], ["old", "stored", false])
        yield* written
        yield* LastGood.forget(skies, "k")
        yield* LastGood.forget(skies, "stored")
        assert.deepStrictEqual(yield* keys, [])
        assert.strictEqual(yield* failure(), "Nothing")
        assert.deepStrictEqual([...data.keys()], ["last-good/other/k"])
      }).pipe(Effect.provide(process))
    }))

  it.effect("what is forgotten does not come back, whether its write is under way or waits for another", () =>
    Effect.gen(function*() {
      const { data, gate, kv } = yield* makeStore
      const process = yield* start(kv)
      yield* gate.close
      yield* Effect.provide(good("under way", "a"), process)
      yield* written
      yield* Effect.provide(good("waits", "b"), process)
      const forgetting = yield* Effect.forEach(["a", "b"], (key) => LastGood.forget(skies, key), {
        concurrency: "unbounded"
      }).pipe(Effect.provide(process), Effect.forkChild({ startImmediately: true }))
      yield* gate.open
      yield* Fiber.join(forgetting)
      yield* written
      assert.deepStrictEqual([...data], [])
      assert.strictEqual(yield* Effect.provide(failure("b"), process), "Nothing")
    }))

  it.effect("writes what comes while a writer ends, wherever it gives way", () =>
    Effect.gen(function*() {
      const slot = LastGood.slot("late", Schema.String)
      for (const ops of [4, 6, 9]) {
        for (let yields = 0; yields < 25; yields++) {
          const stored = yield* Effect.gen(function*() {
            const store = yield* KeyValueStore.KeyValueStore
            yield* Effect.gen(function*() {
              yield* Effect.succeed("one").pipe(
                LastGood.remember(slot, "a"),
                Effect.provideService(References.MaxOpsBeforeYield, ops)
              )
              yield* Effect.repeat(Effect.yieldNow, { times: yields })
              yield* Effect.succeed("two").pipe(LastGood.remember(slot, "b"))
            }).pipe(Effect.provide(LastGood.layerKeyValueStore()))
            return yield* store.get("last-good/late/b")
          }).pipe(Effect.provide(KeyValueStore.layerMemory))
          assert.isDefined(stored, `${ops} operations a turn, ${yields} turns between`)
        }
      }
    }))
})
