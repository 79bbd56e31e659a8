import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, type Layer, Option } from "effect"
import { CheckpointStore } from "effect-resilience"
import { TestClock } from "effect/testing"

const minute = Duration.minutes(1)

const entry = (position: number, body = `{"n":${position}}`): CheckpointStore.Entry => ({
  position,
  step: position === 0 ? "" : `step#${position}`,
  body
})

const reason = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
  Effect.map(Effect.flip(effect), (error) => error.reason._tag)

/**
 * What every store of journals has to do. The layer is built anew, and empty, for each test.
 */
export const suite = (name: string, layer: Layer.Layer<CheckpointStore.CheckpointStore, unknown>) =>
  describe(`CheckpointStore contract: ${name}`, () => {
    const test = (
      title: string,
      body: (store: CheckpointStore.CheckpointStore["Service"]) => Effect.Effect<void, unknown>
    ) => it.effect(title, () => CheckpointStore.CheckpointStore.use(body).pipe(Effect.provide(layer)))

    test("gives back the records of a run in order, and of no other run", (store) =>
      Effect.gen(function*() {
        const a = yield* store.acquire("a", minute)
        const b = yield* store.acquire("b", minute)
        yield* store.append(a, entry(0))
        yield* store.append(b, entry(0, "\"other\""))
        yield* store.append(a, entry(1))
        yield* store.append(a, entry(2, "{\"text\":\"\\u0000 ☃ 'quoted'\"}"))
        assert.deepStrictEqual(yield* store.read("a"), [
          entry(0),
          entry(1),
          entry(2, "{\"text\":\"\\u0000 ☃ 'quoted'\"}")
        ])
        assert.deepStrictEqual(yield* store.read("nobody"), [])
      }))

    test("refuses a record at any position but the next, and writes nothing", (store) =>
      Effect.gen(function*() {
        const lease = yield* store.acquire("a", minute)
        assert.strictEqual(yield* reason(store.append(lease, entry(1))), "PositionTaken")
        yield* store.append(lease, entry(0))
        yield* store.append(lease, entry(1))
        assert.strictEqual(yield* reason(store.append(lease, entry(0))), "PositionTaken")
        assert.strictEqual(yield* reason(store.append(lease, entry(1, "{}"), "failed")), "PositionTaken")
        assert.strictEqual(yield* reason(store.append(lease, entry(3))), "PositionTaken")
        assert.deepStrictEqual(yield* store.read("a"), [entry(0), entry(1)])
        assert.strictEqual(Option.getOrThrow(yield* store.get("a")).status, "running")
      }))

    test("takes the last record once more when its acknowledgement was lost", (store) =>
      Effect.gen(function*() {
        const lease = yield* store.acquire("a", minute)
        yield* store.append(lease, entry(0), "running")
        yield* store.append(lease, entry(0), "running")
        assert.deepStrictEqual(yield* store.read("a"), [entry(0)])
        yield* store.release(lease)
        const next = yield* store.acquire("a", minute)
        assert.strictEqual(yield* reason(store.append(next, entry(0))), "PositionTaken")
      }))

    test("grants a run to one owner at a time, and says for how long", (store) =>
      Effect.gen(function*() {
        yield* store.acquire("a", minute)
        yield* TestClock.adjust("15 seconds")
        const error = yield* Effect.flip(store.acquire("a", minute))
        assert.isTrue(error.reason._tag === "LeaseHeld" && Duration.toMillis(error.reason.remaining) === 45_000)
        yield* store.acquire("b", minute)
      }))

    test("grants a lease with a newer token when the old one ran out, and fences the old owner", (store) =>
      Effect.gen(function*() {
        const old = yield* store.acquire("a", minute)
        yield* store.append(old, entry(0))
        yield* TestClock.adjust(minute)
        const next = yield* store.acquire("a", minute)
        assert.isAbove(next.token, old.token)
        assert.strictEqual(yield* reason(store.append(old, entry(1))), "Fenced")
        assert.strictEqual(yield* reason(store.append(old, entry(0))), "Fenced")
        assert.strictEqual(yield* reason(store.renew(old, minute)), "Fenced")
        assert.strictEqual(yield* reason(store.release(old)), "Fenced")
        assert.strictEqual(yield* reason(store.remove(old)), "Fenced")
        yield* store.append(next, entry(1))
        assert.deepStrictEqual(yield* store.read("a"), [entry(0), entry(1)])
      }))

    test("lets an owner whose lease ran out go on as long as nobody took it over", (store) =>
      Effect.gen(function*() {
        const lease = yield* store.acquire("a", minute)
        yield* TestClock.adjust("2 minutes")
        yield* store.append(lease, entry(0))
        yield* store.renew(lease, minute)
        assert.strictEqual(yield* reason(store.acquire("a", minute)), "LeaseHeld")
      }))

    test("keeps a renewed lease", (store) =>
      Effect.gen(function*() {
        const lease = yield* store.acquire("a", minute)
        yield* TestClock.adjust("40 seconds")
        yield* store.renew(lease, minute)
        yield* TestClock.adjust("40 seconds")
        assert.strictEqual(yield* reason(store.acquire("a", minute)), "LeaseHeld")
      }))

    test("grants a released run at once", (store) =>
      Effect.gen(function*() {
        const lease = yield* store.acquire("a", minute)
        yield* store.append(lease, entry(0))
        yield* store.release(lease)
        const next = yield* store.acquire("a", minute)
        assert.isAbove(next.token, lease.token)
        assert.strictEqual(yield* reason(store.append(lease, entry(1))), "Fenced")
      }))

    test("tells the status of runs, and lists those that have a record, oldest first", (store) =>
      Effect.gen(function*() {
        yield* store.acquire("no record yet", minute)
        const a = yield* store.acquire("a", minute)
        yield* store.append(a, entry(0), "running")
        yield* TestClock.adjust("1 second")
        const b = yield* store.acquire("b", minute)
        yield* store.append(b, entry(0), "running")
        yield* TestClock.adjust("1 second")
        yield* store.append(b, entry(1), "suspended")
        yield* store.append(b, entry(2))
        yield* store.release(b)
        assert.deepStrictEqual((yield* store.list()).map((run) => run.runId), ["a", "b"])
        assert.deepStrictEqual((yield* store.list({ status: "suspended" })).map((run) => run.runId), ["b"])
        assert.deepStrictEqual(yield* store.list({ status: "failed" }), [])
        assert.deepStrictEqual(Option.getOrThrow(yield* store.get("b")), {
          runId: "b",
          status: "suspended",
          entries: 3,
          createdAt: 1000,
          updatedAt: 2000,
          lease: undefined
        })
        assert.strictEqual(Option.getOrThrow(yield* store.get("a")).lease?.expiresAt, 60_000)
        assert.isTrue(Option.isNone(yield* store.get("no record yet")))
      }))

    test("removes a run with its journal, and never grants an old token again", (store) =>
      Effect.gen(function*() {
        const old = yield* store.acquire("a", minute)
        yield* store.append(old, entry(0))
        yield* store.remove(old)
        assert.deepStrictEqual(yield* store.read("a"), [])
        assert.deepStrictEqual(yield* store.list(), [])
        const next = yield* store.acquire("a", minute)
        assert.isAbove(next.token, old.token)
        yield* store.append(next, entry(0, "\"new\""))
        assert.strictEqual(yield* reason(store.append(old, entry(1))), "Fenced")
        assert.deepStrictEqual(yield* store.read("a"), [entry(0, "\"new\"")])
      }))

    test("grants one of many that ask at the same time", (store) =>
      Effect.gen(function*() {
        const results = yield* Effect.forEach(
          Array.from({ length: 10 }),
          () => Effect.result(store.acquire("a", minute)),
          { concurrency: "unbounded" }
        )
        assert.strictEqual(results.filter((result) => result._tag === "Success").length, 1)
      }))
  })
