import { assert, describe } from "@effect/vitest"
import { Clock, Duration, Effect, Fiber } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { TestClock } from "effect/testing"
import { inVirtualTime, kinds, makeLog, statusOf, test, text } from "./runs.ts"

type Store = CheckpointStore.CheckpointStore["Service"]

const busy = (operation: string, runId: string) =>
  new CheckpointStore.CheckpointStoreError({
    operation,
    runId,
    reason: { _tag: "Unavailable", cause: new Error("database is locked") }
  })

/** A store that is away from when it is told to be, for so long. Hears what leases there were. */
const makeOutage = Effect.map(CheckpointStore.CheckpointStore, (store) => {
  let until = 0
  const leases: Array<CheckpointStore.Lease> = []
  const unlessAway = <A>(
    operation: string,
    runId: string,
    call: Effect.Effect<A, CheckpointStore.CheckpointStoreError>
  ) =>
    Effect.flatMap(
      Clock.currentTimeMillis,
      (now): typeof call => now < until ? Effect.fail(busy(operation, runId)) : call
    )
  const away: Store = {
    ...store,
    acquire: (runId, ttl, options) =>
      Effect.tap(
        unlessAway("acquire", runId, store.acquire(runId, ttl, options)),
        (lease) => Effect.sync(() => leases.push(lease))
      ),
    renew: (lease, ttl, options) => unlessAway("renew", lease.runId, store.renew(lease, ttl, options)),
    append: (lease, entries, status) => unlessAway("append", lease.runId, store.append(lease, entries, status)),
    release: (lease) => unlessAway("release", lease.runId, store.release(lease))
  }
  return {
    away,
    leases,
    goAway: (duration: Duration.Input) =>
      Effect.map(Clock.currentTimeMillis, (now) => {
        until = now + Duration.toMillis(Duration.fromInputUnsafe(duration))
      }),
    over: <A, E, R>(effect: Effect.Effect<A, E, R>) =>
      Effect.provideService(effect, CheckpointStore.CheckpointStore, away)
  }
})

describe("A store that is away when a step has its result", () => {
  for (const effects of ["atMostOnce", "idempotent"] as const) {
    test(`is asked until it has the record: an ${effects} step is neither ambiguous nor done again`, () =>
      Effect.gen(function*() {
        const { goAway, over } = yield* makeOutage
        const { did, log } = makeLog()
        const pay = Effect.andThen(goAway("8 seconds"), did("pay"))
        const program = Checkpoint.step("pay", { ...text, effects }, pay).pipe(Checkpoint.run({ id: "r" }))
        const started = yield* Clock.currentTimeMillis
        assert.strictEqual(yield* inVirtualTime(over(program)), "pay")
        // The store is asked again at every tenth of the lease at the latest.
        assert.isAtMost((yield* Clock.currentTimeMillis) - started, 11_000)
        assert.strictEqual(yield* program, "pay")
        assert.deepStrictEqual(log, ["pay"])
        assert.strictEqual(yield* statusOf("r"), "completed")
      }))
  }

  test("is asked until it has the failure of a step, and the end of the run", () =>
    Effect.gen(function*() {
      const { goAway, over } = yield* makeOutage
      const failing = Checkpoint.step("a", {}, Effect.andThen(goAway("8 seconds"), Effect.fail("no" as const)))
      const program = Effect.ignore(failing).pipe(Effect.andThen(goAway("8 seconds")), Checkpoint.run({ id: "r" }))
      yield* inVirtualTime(over(program))
      assert.deepStrictEqual(yield* kinds("r"), ["RunOpened", "StepFailed a", "RunCompleted"])
    }))

  test("is given up when it is away for the time of the lease, with what it said last", () =>
    Effect.gen(function*() {
      const { goAway, over } = yield* makeOutage
      const { did, log } = makeLog()
      const pay = Effect.andThen(goAway("5 minutes"), did("pay"))
      const program = Checkpoint.step("pay", { ...text, effects: "atMostOnce" }, pay).pipe(
        Checkpoint.run({ id: "r", lease: "20 seconds" })
      )
      const started = yield* Clock.currentTimeMillis
      const error = yield* inVirtualTime(Effect.flip(over(program)))
      assert.isTrue(error._tag === "CheckpointStoreError" && error.message.includes("database is locked"))
      assert.strictEqual((yield* Clock.currentTimeMillis) - started, 20_000)
      yield* TestClock.adjust("5 minutes")
      assert.strictEqual((yield* Effect.flip(over(program)))._tag, "AmbiguousStep")
      assert.deepStrictEqual(log, ["pay"])
    }))

  test("is not insisted on before a step is executed: nothing is lost by an error at once", () =>
    Effect.gen(function*() {
      const { goAway, over } = yield* makeOutage
      const { did, log } = makeLog()
      const program = goAway("8 seconds").pipe(
        Effect.andThen(Checkpoint.step("pay", { ...text, effects: "atMostOnce" }, did("pay"))),
        Checkpoint.run({ id: "r" })
      )
      const error = yield* Effect.flip(over(program))
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Unavailable")
      assert.deepStrictEqual(log, [])
    }))

  test("stops being asked when another owner has taken the run over meanwhile", () =>
    Effect.gen(function*() {
      const { goAway, over } = yield* makeOutage
      const store = yield* CheckpointStore.CheckpointStore
      const program = Checkpoint.step("a", {}, goAway("8 seconds")).pipe(Checkpoint.run({ id: "r" }))
      const fiber = yield* Effect.forkChild(Effect.flip(over(program)), { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* store.acquire("r", Duration.minutes(1), { takeOver: true })
      yield* TestClock.adjust("10 seconds")
      const error = yield* Fiber.join(fiber)
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Fenced")
    }))
})

describe("A lease that could not be given back", () => {
  const givenUp = Effect.gen(function*() {
    const outage = yield* makeOutage
    const { did, log } = makeLog()
    // Neither its end could be written, nor the lease be given back.
    const refused = Effect.andThen(outage.goAway("5 seconds"), Effect.fail("no" as const))
    yield* Effect.flip(outage.over(Checkpoint.run(refused, { id: "r" })))
    yield* TestClock.adjust("5 seconds")
    return { ...outage, log, again: Checkpoint.run(Checkpoint.step("pay", text, did("pay")), { id: "r" }) }
  })

  test("holds up nobody in the same process, and is followed by a newer token", () =>
    Effect.gen(function*() {
      const { again, leases, log, over } = yield* givenUp
      assert.strictEqual((yield* Effect.flip(again))._tag, "RunLeased", "for another process it lives")
      assert.strictEqual(yield* over(again), "pay")
      assert.deepStrictEqual(log, ["pay"])
      const [first, second] = leases
      assert.isTrue(first !== undefined && second !== undefined && second.token > first.token)
      assert.strictEqual(second?.abandoned, 0, "it does not count as a crash")
    }))

  test("is no way to write for whoever still works under it", () =>
    Effect.gen(function*() {
      const { again, away, leases, over } = yield* givenUp
      yield* over(again)
      const [first] = leases
      assert.isDefined(first)
      if (first === undefined) return
      const error = yield* Effect.flip(away.append(first, [{ position: 1, step: "", body: "{}" }]))
      assert.strictEqual(error.reason._tag, "Fenced")
      assert.strictEqual((yield* Effect.flip(away.renew(first, Duration.minutes(1)))).reason._tag, "Fenced")
    }))

  test("is left alone where another owner has taken the run over", () =>
    Effect.gen(function*() {
      const { again, over } = yield* givenUp
      const store = yield* CheckpointStore.CheckpointStore
      const other = yield* store.acquire("r", Duration.minutes(1), { takeOver: true })
      assert.strictEqual((yield* Effect.flip(over(again)))._tag, "RunLeased")
      yield* store.renew(other, Duration.minutes(1))
    }))

  test("holds up nobody who clears the run", () =>
    Effect.gen(function*() {
      const { over } = yield* givenUp
      yield* over(Checkpoint.clear("r"))
      assert.isUndefined(yield* statusOf("r"))
    }))

  test("is one run's, and of one run's at work nobody gives it back", () =>
    Effect.gen(function*() {
      const { over } = yield* givenUp
      const running = Checkpoint.run(Effect.sleep("1 minute"), { id: "r" })
      const fiber = yield* Effect.forkChild(over(running), { startImmediately: true })
      yield* Effect.yieldNow
      assert.strictEqual((yield* Effect.flip(over(Checkpoint.run(Effect.void, { id: "r" }))))._tag, "RunLeased")
      yield* TestClock.adjust("1 minute")
      yield* Fiber.join(fiber)
    }))
})
