import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, Ref, References, Schema, type Scope } from "effect"
import { Bulkhead, Fault, Policy, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Engine, engineOf } from "../../src/policy/internal/bulkheadEngine.ts"
import { Current as DeadlineCurrent } from "../../src/policy/internal/deadline.ts"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"
import { invalid } from "../support/invalid.ts"
import { withLogs } from "../support/logs.ts"

const bulkhead = Bulkhead.Bulkhead

const stateOf = (key = "k") => bulkhead.use((service) => service.state(key))
const running = (key = "k") => Effect.map(stateOf(key), (state) => state.running)
const waiting = (key = "k") => Effect.map(stateOf(key), (state) => state.waiting)

const withBulkhead =
  (options: Bulkhead.Options = {}) => <A, E>(self: Effect.Effect<A, E, Bulkhead.Bulkhead | Scope.Scope>) =>
    Effect.provide(self, Bulkhead.layer(options))

const one: Bulkhead.Options = { maxConcurrent: 1 }

/** Lets what was only scheduled come to its turn. */
const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 4 }))

/** A call that runs until it is ended, and says when it has started. */
const start = (key = "k", options?: Bulkhead.LimitOptions) =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<void>()
    let started = false
    const work = Effect.suspend(() => {
      started = true
      return Deferred.await(gate)
    })
    const fiber = yield* work.pipe(
      Bulkhead.limit(key, options),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    return {
      fiber,
      gate,
      hasStarted: () => started,
      end: Effect.andThen(Deferred.succeed(gate, undefined), Effect.andThen(Fiber.await(fiber), settle)),
      interrupt: Effect.andThen(Fiber.interrupt(fiber), settle)
    }
  })

const startMany = (n: number, key = "k", options?: Bulkhead.LimitOptions) =>
  Effect.replicateEffect(start(key, options), n)

const objection = (key: string, differing: string) =>
  `Warn: Bulkhead "${key}" keeps the options of its first caller; those of another one differ in ${differing} ` +
  "and do nothing: configure the key in the layer (\"keys\"), or use another key"

const started = (calls: ReadonlyArray<{ readonly hasStarted: () => boolean }>) =>
  calls.map(({ hasStarted }) => hasStarted())

const fullOf = (exit: Exit.Exit<unknown, unknown> | undefined): Bulkhead.BulkheadFull => {
  const error = exit !== undefined && Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  assert.instanceOf(error, Bulkhead.BulkheadFull)
  return error
}

const reasonOf = (fiber: Fiber.Fiber<Exit.Exit<unknown, unknown>>) =>
  Effect.map(Fiber.join(fiber), (exit) => fullOf(exit).reason)

const refusal = (key = "k", options?: Bulkhead.LimitOptions) =>
  Effect.void.pipe(
    Bulkhead.limit(key, options),
    Effect.andThen(() => Effect.die(`the bulkhead of ${key} let a call through`)),
    Effect.flip
  )

describe("Bulkhead", () => {
  describe("the limit", () => {
    it.effect("runs three calls of a key, lets a hundred wait for a minute, and refuses the rest, by default", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(103)
        assert.deepStrictEqual(yield* stateOf(), {
          key: "k",
          running: 3,
          waiting: 100,
          limit: 3,
          maxQueue: 100,
          closed: false
        })
        assert.strictEqual((yield* refusal()).reason, "QueueFull")
        yield* TestClock.adjust(59_999)
        assert.strictEqual(yield* waiting(), 100)
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* waiting(), 0)
        const reasons = yield* Effect.forEach(calls.slice(3), ({ fiber }) => reasonOf(fiber))
        assert.deepStrictEqual(new Set(reasons), new Set(["WaitTooLong"]))
        assert.deepStrictEqual(started(calls.slice(0, 4)), [true, true, true, false])
      }).pipe(withBulkhead()))

    it.effect("never more than the limit at any point, in a storm of calls, interruptions and timeouts", () =>
      Effect.gen(function*() {
        let now = 0
        let most = 0
        let ran = 0
        const work = (i: number) =>
          Effect.acquireUseRelease(
            Effect.sync(() => {
              now++
              ran++
              most = Math.max(most, now)
            }),
            () => Effect.replicateEffect(Effect.yieldNow, i % 7),
            // stops slowly
            () => Effect.andThen(Effect.replicateEffect(Effect.yieldNow, i % 3), Effect.sync(() => now--))
          )
        for (let round = 0; round < 100; round++) {
          const fibers = yield* Effect.forEach(
            Array.from({ length: 12 }, (_, i) => i + round),
            (i) =>
              work(i).pipe(
                Bulkhead.limit("k"),
                Effect.exit,
                Effect.forkChild({ startImmediately: i % 2 === 0 })
              )
          )
          yield* Effect.replicateEffect(Effect.yieldNow, round % 11)
          yield* Fiber.interruptAll(fibers.filter((_, i) => (i + round) % 3 !== 0))
          yield* Effect.forEach(fibers, Fiber.await)
          assert.deepStrictEqual([yield* running(), yield* waiting(), now], [0, 0, 0])
        }
        assert.strictEqual(most, 2)
        assert.isAbove(ran, 400)
      }).pipe(withBulkhead({ maxConcurrent: 2 })))

    it.effect("a slot is free again however the work ended", () =>
      Effect.gen(function*() {
        const ends = [Effect.void, Effect.fail("no"), Effect.die("bug"), Effect.interrupt]
        yield* Effect.forEach(ends, (end: Effect.Effect<void, string>) => Effect.exit(Bulkhead.limit(end, "k")))
        assert.strictEqual(yield* running(), 0)
        assert.deepStrictEqual(yield* Effect.exit(Bulkhead.limit(Effect.die("bug"), "k")), Exit.die("bug"))
      }).pipe(withBulkhead({ ...one, maxQueue: 0 })))

    it.effect("two keys never touch each other", () =>
      Effect.gen(function*() {
        yield* startMany(2, "a")
        const b = yield* start("b")
        assert.isTrue(b.hasStarted())
        assert.deepStrictEqual([yield* waiting("a"), yield* waiting("b")], [1, 0])
        assert.strictEqual((yield* refusal("a")).key, "a")
        yield* bulkhead.use((service) => service.open("b"))
        yield* b.end
        assert.deepStrictEqual([yield* running("a"), yield* waiting("a")], [1, 1])
      }).pipe(withBulkhead({ ...one, maxQueue: 1 })))

    it.effect("one guarded effect can run many times at once", () =>
      Effect.gen(function*() {
        const count = yield* Ref.make(0)
        const guarded = Ref.update(count, (n) => n + 1).pipe(Effect.andThen(Effect.yieldNow), Bulkhead.limit("k"))
        yield* Effect.all(Array.from({ length: 20 }, () => guarded), { concurrency: "unbounded" })
        assert.strictEqual(yield* Ref.get(count), 20)
        assert.strictEqual(yield* running(), 0)
      }).pipe(withBulkhead(one)))

    it.effect("a slot of timed-out work is free when the work has stopped, not when the caller got the error", () =>
      Effect.gen(function*() {
        const stopped = yield* Deferred.make<void>()
        const slowToStop = Effect.onInterrupt(Effect.never, () => Deferred.await(stopped))
        const work = yield* Effect.forkChild(Bulkhead.limit(slowToStop, "k"), { startImmediately: true })
        const caller = yield* Fiber.join(work).pipe(
          Effect.onInterrupt(() => Effect.sync(() => work.interruptUnsafe())),
          Effect.timeout("1 second"),
          Effect.flip,
          Effect.forkChild({ startImmediately: true })
        )
        yield* TestClock.adjust("1 second")
        assert.isTrue(Cause.isTimeoutError(yield* Fiber.join(caller)))
        assert.isUndefined(work.pollUnsafe())
        assert.strictEqual(yield* running(), 1)
        const next = yield* start()
        assert.isFalse(next.hasStarted())
        yield* Deferred.succeed(stopped, undefined)
        yield* settle
        assert.isTrue(next.hasStarted())
        assert.strictEqual(yield* running(), 1)
      }).pipe(withBulkhead(one)))
  })

  describe("refusals", () => {
    it.effect("queue full is an immediate typed rejection that starts nothing", () =>
      Effect.gen(function*() {
        yield* startMany(2)
        const refused = yield* start()
        assert.isFalse(refused.hasStarted())
        // without a single suspension
        const exit = refused.fiber.pollUnsafe()
        assert.isTrue(exit !== undefined && Exit.isSuccess(exit))
        const error = yield* Effect.map(Fiber.join(refused.fiber), fullOf)
        assert.deepStrictEqual(
          error,
          new Bulkhead.BulkheadFull({ key: "k", reason: "QueueFull", running: 1, waiting: 1, limit: 1 })
        )
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.rejected())
        assert.strictEqual(
          error.message,
          "Bulkhead \"k\" is full and started nothing (1 of 1 slots are taken, 1 call waits): try again later, or fall back"
        )
      }).pipe(withBulkhead({ ...one, maxQueue: 1 })))

    it.effect("a refusal goes through JSON and back", () =>
      Effect.gen(function*() {
        const codec = Schema.fromJsonString(Schema.toCodecJson(Bulkhead.BulkheadFull))
        const error = new Bulkhead.BulkheadFull({
          key: "k",
          reason: "WaitTooLong",
          running: 0,
          waiting: 2,
          limit: 3,
          total: 5
        })
        const text = yield* Schema.encodeEffect(codec)(error)
        const back = yield* Schema.decodeEffect(codec)(text)
        assert.deepStrictEqual(back, error)
        assert.strictEqual(
          back.message,
          "Bulkhead \"k\" had no free slot in time and started nothing (all 5 slots of all keys together are taken, 2 calls wait): try again later, or fall back"
        )
      }))

    it.effect("a maxQueue of zero lets nobody wait, and a maxWait of zero neither", () =>
      Effect.gen(function*() {
        yield* start("a", { maxConcurrent: 1, maxQueue: 0 })
        assert.strictEqual((yield* refusal("a")).reason, "QueueFull")
        yield* start("b", { maxConcurrent: 1, maxWait: 0 })
        const refused = yield* start("b")
        assert.isDefined(refused.fiber.pollUnsafe())
        assert.strictEqual(yield* reasonOf(refused.fiber), "WaitTooLong")
      }).pipe(withBulkhead()))
  })

  describe("waiting", () => {
    it.effect("starts those who wait in the order in which they came", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(4)
        for (const [i, call] of calls.entries()) {
          assert.deepStrictEqual(started(calls), calls.map((_, at) => at <= i))
          yield* call.end
        }
      }).pipe(withBulkhead(one)))

    it.effect("interrupting a waiter frees its place at once and never lets its work start", () =>
      Effect.gen(function*() {
        const [holder, first, second] = yield* Effect.all([start(), start(), start()])
        assert.strictEqual((yield* refusal()).reason, "QueueFull")
        first.fiber.interruptUnsafe()
        assert.strictEqual(yield* waiting(), 1)
        const third = yield* start()
        assert.strictEqual(yield* waiting(), 2)
        yield* holder.end
        yield* second.end
        assert.deepStrictEqual(started([holder, first, second, third]), [true, false, true, true])
        yield* TestClock.adjust("1 hour")
        assert.isFalse(first.hasStarted())
        assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(first.fiber)))
      }).pipe(withBulkhead({ ...one, maxQueue: 2 })))

    it.effect("a waiter that had just been granted a slot but is interrupted before it runs passes it on", () =>
      Effect.gen(function*() {
        const [holder, first, second] = yield* Effect.all([start(), start(), start()])
        // The holder ends in this very step and hands its slot over; the first has no chance to run before the interruption.
        yield* Effect.withFiber(() => {
          Deferred.doneUnsafe(holder.gate, Exit.void)
          assert.isDefined(holder.fiber.pollUnsafe())
          assert.isFalse(first.hasStarted())
          first.fiber.interruptUnsafe()
          return Effect.void
        })
        yield* settle
        assert.deepStrictEqual(started([first, second]), [false, true])
        assert.deepStrictEqual([yield* running(), yield* waiting()], [1, 0])
        yield* second.end
        assert.strictEqual(yield* running(), 0)
      }).pipe(withBulkhead(one)))

    it.effect("a newcomer never overtakes a waiter, not even at the moment a slot is released", () =>
      Effect.gen(function*() {
        const gate = yield* Deferred.make<void>()
        const order: Array<string> = []
        const says = (name: string) => Effect.sync(() => order.push(name)).pipe(Bulkhead.limit("k"))
        // The holder comes back for more in the step after its release.
        const holder = yield* Deferred.await(gate).pipe(
          Bulkhead.limit("k"),
          Effect.andThen(says("holder again")),
          Effect.forkChild({ startImmediately: true })
        )
        const waiter = yield* Effect.forkChild(says("waiter"), { startImmediately: true })
        yield* Effect.withFiber(() => {
          Deferred.doneUnsafe(gate, Exit.void)
          return Effect.void
        })
        const newcomer = yield* Effect.forkChild(says("newcomer"), { startImmediately: true })
        yield* Effect.forEach([holder, waiter, newcomer], Fiber.join)
        assert.deepStrictEqual(order, ["waiter", "holder again", "newcomer"])
      }).pipe(withBulkhead(one)))

    it.effect("a newcomer with a free slot of its own does not begin before a waiter that was handed one", () =>
      Effect.gen(function*() {
        const order: Array<string> = []
        const says = (name: string) =>
          Effect.sync(() => {
            order.push(name)
          }).pipe(Bulkhead.limit("k"), Effect.forkChild({ startImmediately: true }))

        const round = Effect.gen(function*() {
          const gate = yield* Deferred.make<void>()
          const holders = yield* Effect.replicateEffect(
            Deferred.await(gate).pipe(Bulkhead.limit("k"), Effect.forkChild({ startImmediately: true })),
            2
          )
          const waiter = yield* says("waiter")
          yield* Effect.withFiber(() => {
            Deferred.doneUnsafe(gate, Exit.void)
            return Effect.void
          })
          assert.deepInclude(yield* stateOf(), { running: 1, waiting: 0 })
          const newcomer = yield* says("newcomer")
          assert.deepInclude(yield* stateOf(), { running: 2, waiting: 0 })
          // no slot is free for these, and one place
          const next = yield* says("next")
          const refused = yield* Effect.flip(Fiber.join(yield* says("one too many")))
          assert.strictEqual(refused.reason, "QueueFull")
          yield* Effect.forEach([...holders, waiter, newcomer, next], (fiber) => Fiber.join(fiber))
          assert.deepStrictEqual([yield* running(), yield* waiting()], [0, 0])
        })
        yield* Effect.replicateEffect(round, 3)
        assert.deepStrictEqual(order, Array.from({ length: 3 }, () => ["waiter", "newcomer", "next"]).flat())
      }).pipe(withBulkhead({ maxConcurrent: 2, maxQueue: 1 })))

    it.effect("nobody waits for a waiter that was handed its slot and has begun, or never will", () =>
      Effect.gen(function*() {
        const [first, second, gone, waiter] = yield* Effect.all([start(), start(), start(), start()])
        yield* Effect.withFiber(() => {
          Deferred.doneUnsafe(first.gate, Exit.void)
          Deferred.doneUnsafe(second.gate, Exit.void)
          gone.fiber.interruptUnsafe()
          return Effect.void
        })
        yield* settle
        assert.deepStrictEqual(started([gone, waiter]), [false, true])
        // begins in the step in which it is called
        assert.isTrue((yield* start()).hasStarted())
        assert.strictEqual(yield* running(), 2)
      }).pipe(withBulkhead({ maxConcurrent: 2 })))

    it.effect("the wait limit counts waiting only", () =>
      Effect.gen(function*() {
        const [holder, next] = yield* Effect.all([start(), start()])
        yield* TestClock.adjust("900 millis")
        yield* holder.end
        yield* TestClock.adjust("1 hour")
        assert.isTrue(next.hasStarted())
        assert.isUndefined(next.fiber.pollUnsafe())
        yield* next.end
        assert.deepStrictEqual(yield* Fiber.join(next.fiber), Exit.void)
      }).pipe(withBulkhead({ ...one, maxWait: "1 second" })))

    it.effect("at exactly maxWait a call that got its slot runs, one that did not is refused, never both", () =>
      Effect.gen(function*() {
        const calls: Array<string> = []
        const call = (name: string, millis: number) =>
          Effect.sync(() => calls.push(name)).pipe(
            Effect.andThen(Effect.sleep(millis)),
            Bulkhead.limit("k"),
            Effect.exit,
            Effect.forkChild({ startImmediately: true })
          )
        // Its sleep was asked for before their timers and ends first at that tick.
        const before = yield* call("holder", 1000)
        const first = yield* call("first", 1)
        const second = yield* call("second", 1)
        yield* TestClock.adjust(999)
        assert.deepStrictEqual(calls, ["holder"])
        assert.strictEqual(yield* waiting(), 2)
        yield* TestClock.adjust(1)
        assert.deepStrictEqual(calls, ["holder", "first"])
        assert.strictEqual(yield* reasonOf(second), "WaitTooLong")
        yield* TestClock.adjust(1)
        assert.deepStrictEqual([yield* Fiber.join(before), yield* Fiber.join(first)], [Exit.void, Exit.void])
        assert.strictEqual(yield* running(), 0)

        // Its sleep is asked for after the timer, and ends too late at the same tick.
        const gate = yield* Deferred.make<void>()
        const after = yield* Deferred.await(gate).pipe(
          Effect.andThen(Effect.sleep(1000)),
          Bulkhead.limit("k"),
          Effect.forkChild({ startImmediately: true })
        )
        const late = yield* call("late", 1)
        yield* Deferred.succeed(gate, undefined)
        yield* TestClock.adjust(1000)
        yield* Fiber.join(after)
        assert.strictEqual(yield* reasonOf(late), "WaitTooLong")
        assert.notInclude(calls, "late")
        assert.deepStrictEqual([yield* running(), yield* waiting()], [0, 0])
      }).pipe(withBulkhead({ ...one, maxWait: "1 second" })))

    it.effect("a queue does not start when the deadline has nothing left", () =>
      Effect.gen(function*() {
        yield* TestClock.adjust("5 seconds")
        const due = (at: number) => Effect.provideService(DeadlineCurrent, at)
        // A free slot needs no waiting.
        yield* Effect.void.pipe(Bulkhead.limit("k"), due(5000))
        yield* start()
        const error = yield* refusal().pipe(due(5000))
        assert.deepStrictEqual([error.reason, error.waiting], ["WaitTooLong", 0])
        const inTime = yield* Effect.forkChild(refusal().pipe(due(5001)), { startImmediately: true })
        assert.strictEqual(yield* waiting(), 1)
        yield* Fiber.interrupt(inTime)
      }).pipe(withBulkhead(one)))

    it.effect("an uninterruptible call that waits gets its slot in its turn", () =>
      Effect.gen(function*() {
        const holder = yield* start()
        let ran = false
        const call = yield* Effect.sync(() => {
          ran = true
        }).pipe(Bulkhead.limit("k"), Effect.uninterruptible, Effect.forkChild({ startImmediately: true }))
        call.interruptUnsafe()
        assert.strictEqual(yield* waiting(), 1)
        yield* holder.end
        assert.isTrue(ran)
        yield* Fiber.await(call)
        assert.strictEqual(yield* running(), 0)
      }).pipe(withBulkhead(one)))

    it.effect("five thousand short calls go through one slot one after the other", () =>
      Effect.gen(function*() {
        const holder = yield* start()
        let done = 0
        const calls = yield* Effect.forEach(
          Array.from({ length: 5_000 }),
          () => Effect.forkChild(Effect.sync(() => done++).pipe(Bulkhead.limit("k")), { startImmediately: true })
        )
        assert.strictEqual(yield* waiting(), 5_000)
        yield* holder.end
        yield* Effect.forEach(calls, Fiber.join)
        assert.strictEqual(done, 5_000)
      }).pipe(withBulkhead({ ...one, maxQueue: 5_000 })))
  })

  describe("interruption", () => {
    const check = (service: Bulkhead.Bulkhead["Service"]) => () =>
      Effect.gen(function*() {
        assert.deepInclude(yield* service.state("k"), { running: 0, waiting: 0 })
        assert.strictEqual(yield* Effect.succeed("free").pipe(service.limit("k")), "free")
      })

    it.effect("leaks nothing at whatever step a call is interrupted that gets its slot at once", () =>
      Effect.gen(function*() {
        const runs = yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make({ ...one, maxQueue: 0 })
            return { effect: Effect.sleep("1 second").pipe(service.limit("k")), check: check(service) }
          })
        })
        assert.isAbove(runs, 20)
      }))

    it.effect("leaks nothing at whatever step a call is interrupted that has to wait", () =>
      Effect.gen(function*() {
        const runs = yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make({ ...one, total: 1, maxQueue: 2 })
            const holder = yield* Effect.forkScoped(Effect.sleep("1 second").pipe(service.limit("k")), {
              startImmediately: true
            })
            const effect = Effect.sleep("1 second").pipe(service.limit("k"))
            return {
              effect,
              sleepsLeft: 1,
              check: () => Effect.andThen(Fiber.interrupt(holder), check(service)())
            }
          })
        })
        assert.isAbove(runs, 40)
      }))

    it.effect("leaks nothing at whatever step a call is interrupted whose wait ends in a refusal", () =>
      Effect.gen(function*() {
        yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make({ ...one, maxWait: "1 second" })
            const holder = yield* Effect.forkScoped(Effect.never.pipe(service.limit("k")), { startImmediately: true })
            return {
              effect: Effect.flip(Effect.void.pipe(service.limit("k"))),
              check: () => Effect.andThen(Fiber.interrupt(holder), check(service)())
            }
          })
        })
      }))

    it.effect("closing can be interrupted at every step, and the key stays as it is then", () =>
      Effect.gen(function*() {
        yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make(one)
            const holder = yield* Effect.forkScoped(Effect.sleep("1 second").pipe(service.limit("k")), {
              startImmediately: true
            })
            return {
              effect: Effect.andThen(service.close("k"), service.closeAll),
              sleepsLeft: 1,
              check: () =>
                Fiber.interrupt(holder).pipe(
                  Effect.andThen(service.openAll),
                  Effect.andThen(check(service)())
                )
            }
          })
        })
      }))

    it.effect("leaves no timer of a call that is refused because the key is closed", () =>
      Effect.gen(function*() {
        yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make(one)
            const holder = yield* Effect.forkScoped(Effect.never.pipe(service.limit("k")), { startImmediately: true })
            return {
              effect: Effect.flip(Effect.void.pipe(service.limit("k"))),
              drive: Effect.andThen(Effect.yieldNow, service.close("k")),
              check: () =>
                Fiber.interrupt(holder).pipe(
                  Effect.andThen(service.openAll),
                  Effect.andThen(check(service)())
                )
            }
          })
        })
      }))

    it.effect("frees the slot or the place for every way of cancelling", () =>
      Effect.gen(function*() {
        yield* everyCancelSource({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make(one)
            return { effect: Effect.never.pipe(service.limit("k")), check: check(service) }
          })
        })
        yield* everyCancelSource({
          arrange: Effect.gen(function*() {
            const service = yield* Bulkhead.make(one)
            let ran = false
            const holder = yield* Effect.forkScoped(Effect.never.pipe(service.limit("k")), { startImmediately: true })
            return {
              effect: Effect.sync(() => {
                ran = true
              }).pipe(service.limit("k")),
              check: () =>
                Effect.gen(function*() {
                  assert.deepInclude(yield* service.state("k"), { running: 1, waiting: 0 })
                  yield* Fiber.interrupt(holder)
                  assert.isFalse(ran)
                  yield* check(service)()
                })
            }
          })
        })
      }))
  })

  describe("total", () => {
    it.effect("never more than the total at any point, over all keys", () =>
      Effect.gen(function*() {
        const calls = yield* Effect.forEach(["a", "b", "c", "d"], (key) => startMany(3, key))
        const all = yield* bulkhead.use((service) => service.states)
        assert.strictEqual(all.reduce((sum, { running }) => sum + running, 0), 4)
        assert.strictEqual(all.reduce((sum, { waiting }) => sum + waiting, 0), 8)
        for (const { gate } of calls.flat()) {
          yield* Deferred.succeed(gate, undefined)
          const states = yield* bulkhead.use((service) => service.states)
          assert.isAtMost(states.reduce((sum, { running }) => sum + running, 0), 4)
        }
        yield* Effect.forEach(calls.flat(), ({ fiber }) => Fiber.join(fiber))
        assert.deepStrictEqual(started(calls.flat()), calls.flat().map(() => true))
      }).pipe(withBulkhead({ maxConcurrent: 2, total: 4 })))

    it.effect("a key with 1,000 waiters delays another key's first waiter by at most one grant", () =>
      Effect.gen(function*() {
        const holder = yield* start("big")
        const big = yield* startMany(1000, "big")
        const small = yield* start("small")
        const other = yield* startMany(2, "other")
        assert.isFalse(small.hasStarted())
        const order: Array<string> = []
        let current: { readonly end: Effect.Effect<unknown> } = holder
        for (let i = 0; i < 6; i++) {
          yield* current.end
          const next = ([["big", big], ["small", [small]], ["other", other]] as const)
            .flatMap(([name, calls]) => calls.map((call) => ({ name, call })))
            .find(({ call }) => call.hasStarted() && call.fiber.pollUnsafe() === undefined)
          assert.isDefined(next)
          if (next === undefined) return
          order.push(next.name)
          current = next.call
        }
        assert.deepStrictEqual(order, ["big", "small", "other", "big", "other", "big"])
      }).pipe(withBulkhead({ maxConcurrent: 1000, maxQueue: 1000, total: 1 })))

    it.effect("a key at its own limit does not hold up the others, and says what had no slot left", () =>
      Effect.gen(function*() {
        const [first] = yield* startMany(3, "a")
        const b = yield* start("b")
        assert.isTrue(b.hasStarted())
        const next = yield* start("c")
        assert.isFalse(next.hasStarted())
        const error = yield* refusal("c")
        assert.deepInclude(error, { reason: "QueueFull", running: 0, limit: 1, total: 2 })
        assert.include(error.message, "all 2 slots of all keys together are taken, 1 call waits")
        yield* bulkhead.use((service) => service.resize("a", 2))
        yield* b.end
        assert.isTrue(next.hasStarted())
        yield* first === undefined ? Effect.die("no call") : first.end
        assert.strictEqual(yield* running("a"), 1)
      }).pipe(withBulkhead({ ...one, maxQueue: 1, total: 2, keys: { a: { maxQueue: 2 } } })))

    it.effect("a key whose waiters are gone gives up its turn, and takes the next when it has some again", () =>
      Effect.gen(function*() {
        const service = yield* bulkhead
        const gone: ReadonlyArray<(call: Effect.Success<ReturnType<typeof start>>) => Effect.Effect<unknown>> = [
          ({ interrupt }) => interrupt,
          () => Effect.andThen(service.close("b"), service.open("b"))
        ]
        for (const leave of gone) {
          const holder = yield* start("a")
          yield* leave(yield* start("b"))
          const c = yield* start("c")
          const b = yield* start("b")
          yield* holder.end
          assert.deepStrictEqual(started([b, c]), [false, true])
          yield* c.end
          yield* b.end
        }
        for (const leave of gone) {
          const holder = yield* start("a")
          const first = yield* start("b")
          const c = yield* start("c")
          yield* leave(first)
          const b = yield* start("b")
          yield* holder.end
          assert.deepStrictEqual(started([first, b, c]), [false, false, true])
          yield* c.end
          yield* b.end
        }
      }).pipe(withBulkhead({ total: 1 })))
  })

  describe("resize", () => {
    it.effect("growing starts those who wait at once, in order", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(5)
        yield* bulkhead.use((service) => service.resize("k", 3))
        assert.strictEqual(yield* running(), 3)
        yield* settle
        assert.deepStrictEqual(started(calls), [true, true, true, false, false])
        assert.strictEqual((yield* stateOf()).limit, 3)
      }).pipe(withBulkhead(one)))

    it.effect("shrinking kills nothing and starts nothing until fewer run than the limit", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(4)
        yield* bulkhead.use((service) => service.resize("k", 1))
        assert.deepInclude(yield* stateOf(), { running: 3, waiting: 1, limit: 1 })
        for (const call of calls.slice(0, 2)) {
          yield* call.end
          assert.strictEqual(yield* waiting(), 1)
        }
        assert.isUndefined(calls[2]?.fiber.pollUnsafe())
        yield* calls[2]?.end ?? Effect.void
        assert.deepStrictEqual(started(calls), [true, true, true, true])
      }).pipe(withBulkhead()))

    it.effect("shrinking takes back the turn of a key that waits for the total", () =>
      Effect.gen(function*() {
        const [a, other] = yield* Effect.all([start("a"), start("other")])
        const next = yield* start("a")
        yield* bulkhead.use((service) => service.resize("a", 1))
        yield* other.end
        assert.deepInclude(yield* stateOf("a"), { running: 1, waiting: 1 })
        assert.isFalse(next.hasStarted())
        yield* a.end
        assert.isTrue(next.hasStarted())
      }).pipe(withBulkhead({ maxConcurrent: 2, total: 2 })))

    it.effect("holds whatever options a caller gives, and outlives the idle time", () =>
      Effect.gen(function*() {
        yield* bulkhead.use((service) => service.resize("k", 5))
        yield* Effect.void.pipe(Bulkhead.limit("k", { maxConcurrent: 2 }))
        assert.strictEqual((yield* stateOf()).limit, 5)
        yield* TestClock.adjust("2 hours")
        assert.strictEqual((yield* bulkhead.use((service) => service.states)).length, 1)
        // back to what the options say, and nothing is left to remember
        yield* bulkhead.use((service) => service.resize("k", undefined))
        assert.strictEqual((yield* stateOf()).limit, 2)
        yield* TestClock.adjust("2 hours")
        assert.deepStrictEqual(yield* bulkhead.use((service) => service.states), [])
      }).pipe(withBulkhead()))

    it.effect("to what the options happen to say holds as any other number does", () =>
      Effect.gen(function*() {
        yield* bulkhead.use((service) => service.resize("k", 3))
        const calls = yield* startMany(4, "k", { maxConcurrent: 10 })
        assert.deepStrictEqual(started(calls), [true, true, true, false])
        yield* TestClock.adjust("2 hours")
        assert.strictEqual((yield* stateOf()).limit, 3)
        yield* bulkhead.use((service) => service.resize("k", undefined))
        assert.strictEqual((yield* stateOf()).limit, 10)
      }).pipe(withBulkhead()))

    it.effect("refuses a number that is no limit", () =>
      Effect.gen(function*() {
        for (const wrong of [0, -1, 1.5, Number.NaN]) {
          invalid("resize.maxConcurrent")(yield* Effect.exit(bulkhead.use((service) => service.resize("k", wrong))))
        }
        assert.strictEqual((yield* stateOf()).limit, 3)
      }).pipe(withBulkhead()))
  })

  describe("close", () => {
    it.effect("refuses new and waiting calls, lets running work finish, and returns when it has", () =>
      Effect.gen(function*() {
        const [holder, waiter] = yield* Effect.all([start(), start()])
        const other = yield* start("other")
        const closing = yield* bulkhead.use((service) => service.close("k")).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        assert.strictEqual(yield* reasonOf(waiter.fiber), "Closed")
        const error = yield* refusal()
        assert.deepInclude(error, { reason: "Closed", running: 1, waiting: 0 })
        assert.strictEqual(error.message, "Bulkhead \"k\" is closed and started nothing: open it, or fall back")
        assert.isFalse(waiter.hasStarted())
        assert.isUndefined(closing.pollUnsafe())
        yield* holder.end
        yield* Fiber.join(closing)
        assert.deepStrictEqual(yield* Fiber.join(holder.fiber), Exit.void)
        assert.deepInclude(yield* stateOf(), { closed: true, running: 0 })
        assert.deepInclude(yield* stateOf("other"), { closed: false, running: 1 })
        yield* other.end
      }).pipe(withBulkhead(one)))

    it.effect("returns at once where nothing runs, and may be interrupted where something does", () =>
      Effect.gen(function*() {
        yield* bulkhead.use((service) => service.close("idle"))
        const holder = yield* start()
        const closing = yield* bulkhead.use((service) => service.close("k")).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        yield* Fiber.interrupt(closing)
        assert.deepInclude(yield* stateOf(), { closed: true, running: 1 })
        yield* holder.end
        assert.strictEqual((yield* refusal()).reason, "Closed")
      }).pipe(withBulkhead(one)))

    it.effect("open takes calls again, and ends a close that still waits", () =>
      Effect.gen(function*() {
        const holder = yield* start()
        const closing = yield* Effect.forEach(
          [bulkhead.use((service) => service.close("k")), bulkhead.use((service) => service.closeAll)],
          Effect.forkChild({ startImmediately: true })
        )
        yield* bulkhead.use((service) => service.open("k"))
        yield* Effect.forEach(closing, Fiber.join)
        assert.deepInclude(yield* stateOf(), { closed: false, running: 1 })
        const next = yield* start()
        yield* holder.end
        assert.isTrue(next.hasStarted())
      }).pipe(withBulkhead(one)))

    it.effect("closeAll closes every key, also those not used yet, until openAll", () =>
      Effect.gen(function*() {
        const [a, waiter] = yield* startMany(2, "a")
        const b = yield* start("b")
        const closing = yield* bulkhead.use((service) => service.closeAll).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        assert.deepStrictEqual(
          [(yield* refusal("a")).reason, (yield* refusal("b")).reason, (yield* refusal("new")).reason],
          ["Closed", "Closed", "Closed"]
        )
        assert.isTrue((yield* stateOf("never seen")).closed)
        assert.isFalse(waiter?.hasStarted())
        yield* a?.end ?? Effect.void
        assert.isUndefined(closing.pollUnsafe())
        yield* b.end
        yield* Fiber.join(closing)
        // one key alone
        yield* bulkhead.use((service) => service.open("a"))
        yield* Effect.void.pipe(Bulkhead.limit("a"))
        assert.strictEqual((yield* refusal("b")).reason, "Closed")
        // and it is not forgotten that it is open, nor that the others are closed
        yield* TestClock.adjust("2 hours")
        yield* Effect.void.pipe(Bulkhead.limit("a"))
        assert.strictEqual((yield* refusal("b")).reason, "Closed")
        yield* bulkhead.use((service) => service.openAll)
        yield* Effect.forEach(["a", "b", "new", "newer"], (key) => Effect.void.pipe(Bulkhead.limit(key)))
      }).pipe(withBulkhead(one)))

    it.effect("closeAll waits for what runs under the keys that stay closed, whichever of them is opened", () =>
      Effect.gen(function*() {
        const [a, b] = yield* Effect.all([start("a"), start("b")])
        const closing = yield* bulkhead.use((service) => service.closeAll).pipe(
          Effect.forkChild({ startImmediately: true })
        )
        yield* bulkhead.use((service) => service.open("other"))
        yield* bulkhead.use((service) => service.open("b"))
        const again = yield* start("b")
        yield* settle
        assert.isUndefined(closing.pollUnsafe())
        yield* a.end
        assert.deepStrictEqual(closing.pollUnsafe(), Exit.void)
        assert.strictEqual(yield* running("b"), 2)
        yield* Effect.andThen(b.end, again.end)
      }).pipe(withBulkhead()))

    for (const which of ["close", "closeAll"] as const) {
      it.effect(`an open right after ${which} is never missed, wherever its fiber yields`, () =>
        Effect.forEach([3, 4, 5, 6, 7, 8, 9, 10], (operations) =>
          Effect.gen(function*() {
            const service = yield* bulkhead
            const holder = yield* start()
            const closing = yield* (which === "close" ? service.close("k") : service.closeAll).pipe(
              Effect.provideService(References.MaxOpsBeforeYield, operations),
              Effect.forkChild({ startImmediately: true })
            )
            yield* service.openAll
            yield* Effect.replicateEffect(settle, 4)
            // it came before the open, which ended it, or after it
            assert.strictEqual(closing.pollUnsafe() !== undefined, !(yield* stateOf()).closed)
            yield* service.openAll
            yield* Fiber.join(closing)
            yield* holder.end
          }).pipe(withBulkhead())))
    }

    it.effect("whoever gives up waiting for it is not told any more", () =>
      Effect.sync(() => {
        const engine = new Engine({})
        const slot = engine.tryAcquire("k", undefined, 0) ?? assert.fail("no slot")
        let told = 0
        engine.close("k", 0, () => told++)
        const stop = engine.close("k", 0, () => assert.fail("told"))
        const stopAll = engine.closeAll(() => assert.fail("told"))
        stop()
        stopAll()
        engine.release(slot, 0)
        assert.strictEqual(told, 1)
      }))

    it.effect("a thousand closers, each of whom ends what the next one waits for, all return", () =>
      Effect.gen(function*() {
        const service = yield* bulkhead
        const first = yield* start("0")
        const closers = yield* Effect.forEach(
          Array.from({ length: 2000 }, (_, i) => i),
          (i) =>
            service.close(String(i)).pipe(service.limit(String(i + 1)), Effect.forkChild({ startImmediately: true }))
        )
        yield* first.end
        yield* Fiber.joinAll(closers)
        assert.strictEqual((yield* service.states).filter((state) => state.running > 0).length, 0)
      }).pipe(withBulkhead()))

    it.effect("takes the turn of its key, which queues up anew when it is open again", () =>
      Effect.gen(function*() {
        const holder = yield* start("holder")
        const gone = yield* start("a")
        yield* bulkhead.use((service) => service.close("a"))
        assert.strictEqual(yield* reasonOf(gone.fiber), "Closed")
        const b = yield* start("b")
        yield* bulkhead.use((service) => service.open("a"))
        const a = yield* start("a")
        yield* holder.end
        assert.deepStrictEqual(started([a, b]), [false, true])
        yield* b.end
        yield* a.end
      }).pipe(withBulkhead({ total: 1 })))

    it.effect("who is refused by it and opens the key again finds it open", () =>
      Effect.gen(function*() {
        yield* start()
        const back = yield* Effect.void.pipe(
          Bulkhead.limit("k"),
          Effect.catchTag("BulkheadFull", () => bulkhead.use((service) => service.open("k"))),
          Effect.andThen(Effect.void.pipe(Bulkhead.limit("k"))),
          Effect.forkChild({ startImmediately: true })
        )
        const other = yield* start()
        yield* bulkhead.use((service) => service.close("k"))
        assert.strictEqual(yield* reasonOf(other.fiber), "Closed")
        yield* settle
        assert.deepInclude(yield* stateOf(), { closed: false, waiting: 1 })
        yield* Fiber.interrupt(back)
      }).pipe(withBulkhead(one)))
  })

  describe("options", () => {
    it.effect("those of the service for a key by name go before the caller's, and these before the service's own", () =>
      Effect.gen(function*() {
        const own = { maxConcurrent: 7 }
        yield* Effect.forEach(["named", "other"], (key) => Effect.void.pipe(Bulkhead.limit(key, own)))
        yield* Effect.void.pipe(Bulkhead.limit("third"))
        assert.deepInclude(yield* stateOf("named"), { limit: 1, maxQueue: 9 })
        assert.deepInclude(yield* stateOf("other"), { limit: 7, maxQueue: 9 })
        assert.deepInclude(yield* stateOf("third"), { limit: 5, maxQueue: 9 })
        assert.deepInclude(yield* stateOf("not used yet"), { limit: 5, maxQueue: 9 })
      }).pipe(withBulkhead({ maxConcurrent: 5, maxQueue: 9, keys: { named: { maxConcurrent: 1 } } })))

    it.effect("of the first caller hold, and another one is warned of what differs, once for each key", () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          for (const key of ["k", "other"]) {
            const calls = yield* startMany(2, key, { maxConcurrent: 1, maxQueue: 1 })
            assert.deepStrictEqual(started(calls), [true, false])
            const other = { maxConcurrent: 2, maxWait: "1 second" } as const
            for (const options of [other, undefined, { maxConcurrent: 1, maxQueue: 2 }, other]) {
              assert.deepInclude(yield* refusal(key, options), { reason: "QueueFull", limit: 1 })
            }
            yield* Effect.forEach(calls, ({ interrupt }) => interrupt)
          }
          assert.deepStrictEqual(logs, [
            objection("k", "maxConcurrent, maxQueue, maxWait"),
            objection("other", "maxConcurrent, maxQueue, maxWait")
          ])
        }).pipe(withBulkhead())
      ))

    it.effect("that mean the same are the same, however they are written, and a call without any changes nothing", () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          yield* Effect.void.pipe(Bulkhead.limit("k", { maxConcurrent: 2, maxWait: "1 minute" }))
          yield* Effect.void.pipe(Bulkhead.limit("k", { maxConcurrent: 2, maxWait: 60_000 }))
          yield* Effect.void.pipe(Bulkhead.limit("k", { maxConcurrent: 2, maxQueue: 100, maxWait: { minutes: 1 } }))
          yield* Effect.void.pipe(Bulkhead.limit("k"))
          yield* Effect.void.pipe(Bulkhead.limit("named", { maxConcurrent: 2 }))
          yield* Effect.void.pipe(Bulkhead.limit("named", { maxConcurrent: 3 }))
          assert.strictEqual((yield* stateOf()).limit, 2)
          assert.deepStrictEqual(logs, [])
        }).pipe(withBulkhead({ keys: { named: {} } }))
      ))

    it.effect("that come after a caller without any are the first ones, also for who waits already", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(4)
        const fifth = yield* start("k", { maxConcurrent: 4 })
        yield* settle
        assert.deepStrictEqual(started([...calls, fifth]), [true, true, true, true, false])
        assert.deepInclude(yield* stateOf(), { running: 4, waiting: 1, limit: 4 })
      }).pipe(withBulkhead()))

    it.effect("that do nothing are warned of in a call through a policy, too, and the call runs", () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const one = Policy.make({ name: "p", bulkhead: { maxConcurrent: 1 } })
          const two = Policy.make({ name: "p", bulkhead: { maxConcurrent: 2, maxQueue: 0 } })
          for (let i = 0; i < 3; i++) {
            yield* Policy.apply(Effect.void, one)
            assert.strictEqual(yield* Policy.apply(Effect.succeed("sent"), two), "sent")
          }
          assert.deepInclude(yield* stateOf("p"), { running: 0, limit: 1 })
          assert.deepStrictEqual(logs, [objection("p", "maxConcurrent, maxQueue")])
        }).pipe(Effect.provide(Policy.layer))
      ))

    it.effect("that do nothing leak nothing at whatever step the call is interrupted", () =>
      interruptEverywhere({
        arrange: Effect.gen(function*() {
          const service = yield* Bulkhead.make(one)
          yield* Effect.void.pipe(service.limit("k", { maxConcurrent: 1, maxQueue: 1 }))
          return {
            effect: Effect.sleep("1 second").pipe(service.limit("k", { maxConcurrent: 2 })),
            check: () =>
              Effect.gen(function*() {
                assert.deepInclude(yield* service.state("k"), { running: 0, waiting: 0 })
                assert.strictEqual(yield* Effect.succeed("free").pipe(service.limit("k")), "free")
              })
          }
        })
      }))

    it.effect("wrong ones fail when the guard is built, naming the option and the value", () =>
      Effect.gen(function*() {
        const wrong: ReadonlyArray<readonly [string, Bulkhead.Options]> = [
          ["maxConcurrent", { maxConcurrent: 0 }],
          ["maxConcurrent", { maxConcurrent: 1.5 }],
          ["maxQueue", { maxQueue: -1 }],
          ["maxWait", { maxWait: "-1 seconds" }],
          ["maxWait", { maxWait: Infinity }],
          ["total", { total: 0 }],
          ["maxKeys", { maxKeys: 0 }],
          ["idleTimeToLive", { idleTimeToLive: 0 }],
          ["keys[\"x\"].maxQueue", { keys: { x: { maxQueue: Number.NaN } } }]
        ]
        for (const [option, options] of wrong) {
          invalid(option)(yield* Effect.exit(Effect.provide(stateOf(), Bulkhead.layer(options))))
        }
        const service = yield* Bulkhead.make()
        const build = Effect.sync(() => service.limit("k", { maxQueue: -1 }))
        const applied = Effect.sync(() => Bulkhead.limit(Effect.void, "k", { maxConcurrent: 0 }))
        const built = Effect.sync(() => Bulkhead.limit("k", { maxConcurrent: 0 }))
        invalid("maxQueue")(yield* Effect.exit(build))
        invalid("maxConcurrent")(yield* Effect.exit(applied))
        invalid("maxConcurrent")(yield* Effect.exit(built))
      }))
  })

  describe("memory", () => {
    const keys = Effect.map(bulkhead.use((service) => service.states), (states) => states.map(({ key }) => key))

    it.effect("forgets what has been idle for its time to live, and nothing that runs, waits, or was closed by hand", () =>
      Effect.gen(function*() {
        yield* Effect.void.pipe(Bulkhead.limit("idle"))
        const busy = yield* start("busy")
        yield* bulkhead.use((service) => service.close("closed"))
        yield* TestClock.adjust("59 minutes")
        yield* busy.end
        assert.deepStrictEqual(yield* keys, ["idle", "busy", "closed"])
        yield* TestClock.adjust("1 minute")
        assert.deepStrictEqual(yield* keys, ["busy", "closed"])
        yield* TestClock.adjust("1 hour")
        assert.deepStrictEqual(yield* keys, ["closed"])
        assert.strictEqual((yield* refusal("closed")).reason, "Closed")
      }).pipe(withBulkhead()))

    it.effect("what was forgotten begins anew, and is looked for with a call to any key", () =>
      Effect.gen(function*() {
        yield* Effect.void.pipe(Bulkhead.limit("k", { maxConcurrent: 7 }))
        yield* TestClock.adjust("30 minutes")
        yield* Effect.void.pipe(Bulkhead.limit("other"))
        yield* TestClock.adjust(30 * 60_000 - 1)
        yield* Effect.void.pipe(Bulkhead.limit("other"))
        assert.strictEqual((yield* stateOf()).limit, 7)
        yield* TestClock.adjust(1)
        yield* Effect.void.pipe(Bulkhead.limit("other"))
        assert.strictEqual((yield* stateOf()).limit, 3)
      }).pipe(withBulkhead()))

    it.effect("idle keys are forgotten also where no new key ever comes", () =>
      Effect.gen(function*() {
        const names = Array.from({ length: 100 }, (_, i) => `key-${i}`)
        yield* Effect.forEach(names, (key) => Effect.void.pipe(Bulkhead.limit(key)))
        const engine = engineOf(yield* bulkhead)
        assert.instanceOf(engine, Engine)
        yield* TestClock.adjust("1 minute")
        yield* Effect.void.pipe(Bulkhead.limit("key-7"))
        assert.strictEqual(engine.size, 1)
      }).pipe(withBulkhead({ idleTimeToLive: "1 minute" })))

    it.effect("a key that was used again is not the one unused for longest", () =>
      Effect.gen(function*() {
        const use = (i: number) => Effect.andThen(TestClock.adjust(1), Effect.void.pipe(Bulkhead.limit(`key-${i}`)))
        yield* Effect.forEach([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 0], use)
        yield* use(10)
        assert.deepStrictEqual(yield* keys, [0, 1, 3, 4, 5, 6, 7, 8, 9, 10].map((i) => `key-${i}`))
      }).pipe(withBulkhead({ maxKeys: 10 })))

    it.effect("never forgets a key whose only call waits for the total", () =>
      Effect.gen(function*() {
        const holder = yield* start("a")
        const waiter = yield* start("b")
        yield* TestClock.adjust("10 seconds")
        assert.deepStrictEqual(yield* keys, ["a", "b"])
        yield* Effect.forEach(Array.from({ length: 9 }, (_, i) => i), (i) => refusal(`other ${i}`, { maxQueue: 0 }))
        assert.includeMembers([...(yield* keys)], ["a", "b"])
        yield* holder.end
        assert.isTrue(waiter.hasStarted())
      }).pipe(withBulkhead({ total: 1, maxKeys: 2, idleTimeToLive: "1 second" })))

    it.effect("remembers so many keys at the most, and drops the ones unused for longest, a tenth at a time", () =>
      Effect.gen(function*() {
        const busy = yield* start("busy")
        for (let i = 0; i < 500; i++) {
          yield* TestClock.adjust(1)
          yield* Effect.void.pipe(Bulkhead.limit(`key ${i}`))
          assert.isAtMost((yield* keys).length, 101)
        }
        const left = yield* keys
        assert.include(left, "busy")
        assert.includeMembers(left, Array.from({ length: 80 }, (_, i) => `key ${420 + i}`))
        assert.strictEqual(yield* running("busy"), 1)
        yield* busy.end
      }).pipe(withBulkhead({ maxKeys: 100 })))
  })

  describe("events", () => {
    const listening = Effect.fnUntraced(function*<A, E, R>(self: Effect.Effect<A, E, R>) {
      const heard: Array<Telemetry.Event> = []
      yield* Effect.provideService(self, Telemetry.Listener, (event) => {
        heard.push(event)
      })
      return heard
    })

    it.effect("tells who waited for how long, and why a call was refused", () =>
      Effect.gen(function*() {
        const heard = yield* listening(Effect.gen(function*() {
          const [holder, next, late] = yield* Effect.all([start(), start(), start()])
          yield* refusal()
          yield* TestClock.adjust(400)
          yield* holder.end
          yield* TestClock.adjust(600)
          assert.strictEqual(yield* reasonOf(late.fiber), "WaitTooLong")
          const last = yield* start()
          yield* TestClock.adjust(100)
          yield* Effect.forkChild(bulkhead.use((service) => service.close("k")), { startImmediately: true })
          assert.strictEqual(yield* reasonOf(last.fiber), "Closed")
          yield* next.end
        }))
        assert.deepStrictEqual(heard, [
          { _tag: "BulkheadRejected", key: "k", reason: "QueueFull", waitedMillis: 0 },
          { _tag: "BulkheadWaited", key: "k", waitedMillis: 400 },
          { _tag: "BulkheadRejected", key: "k", reason: "WaitTooLong", waitedMillis: 1000 },
          { _tag: "BulkheadRejected", key: "k", reason: "Closed", waitedMillis: 100 }
        ])
      }).pipe(withBulkhead({ ...one, maxQueue: 2, maxWait: "1 second" })))

    it.effect("nothing is told of a call that got its slot at once, nor of an interrupted one", () =>
      Effect.gen(function*() {
        const heard = yield* listening(Effect.gen(function*() {
          const [holder, next] = yield* Effect.all([start(), start()])
          yield* next.interrupt
          yield* holder.interrupt
        }))
        assert.deepStrictEqual(heard, [])
      }).pipe(withBulkhead(one)))

    it.effect("nothing is told of a call with a free slot that only lets another one begin first", () =>
      Effect.gen(function*() {
        const heard = yield* listening(Effect.gen(function*() {
          const [first, second, waiter] = yield* Effect.all([start(), start(), start()])
          yield* Effect.withFiber(() => {
            Deferred.doneUnsafe(first.gate, Exit.void)
            Deferred.doneUnsafe(second.gate, Exit.void)
            return Effect.void
          })
          const newcomer = yield* start()
          assert.deepStrictEqual(started([waiter, newcomer]), [false, false])
          yield* settle
          assert.deepStrictEqual(started([waiter, newcomer]), [true, true])
        }))
        assert.deepStrictEqual(heard, [{ _tag: "BulkheadWaited", key: "k", waitedMillis: 0 }])
      }).pipe(withBulkhead({ maxConcurrent: 2 })))

    it.effect("a listener that throws changes nothing", () =>
      Effect.gen(function*() {
        const throwing = Effect.provideService(Telemetry.Listener, () => {
          throw new Error("listener")
        })
        const [holder, next] = yield* Effect.all([start(), start()]).pipe(throwing)
        yield* holder.end
        assert.isTrue(next.hasStarted())
        yield* next.end
        assert.deepStrictEqual(yield* Fiber.join(next.fiber), Exit.void)
      }).pipe(Effect.provideService(References.MinimumLogLevel, "None"), withBulkhead(one)))
  })

  describe("the engine for a fused policy", () => {
    it.effect("gives a slot only where one is free and nobody waits, and hands it to who waits", () =>
      Effect.gen(function*() {
        const engine = engineOf(yield* bulkhead)
        assert.isDefined(engine)
        if (engine === undefined) return
        const slot = engine.tryAcquire("k", undefined, 0)
        assert.isDefined(slot)
        assert.isUndefined(engine.tryAcquire("k", undefined, 0))
        const waiter = yield* start()
        assert.isFalse(waiter.hasStarted())
        if (slot !== undefined) {
          engine.release(slot, 0)
          assert.isUndefined(engine.tryAcquire("k", undefined, 0))
          yield* settle
          assert.isTrue(waiter.hasStarted())
          // giving it back twice does nothing
          engine.release(slot, 0)
        }
        assert.strictEqual(yield* running(), 1)
        yield* bulkhead.use((service) => service.close("other"))
        assert.isUndefined(engine.tryAcquire("other", undefined, 0))
      }).pipe(withBulkhead(one)))

    it.effect("is the service's own: neither a copy with other methods nor layerNoop has one", () =>
      Effect.gen(function*() {
        const service = yield* Bulkhead.make()
        assert.isDefined(engineOf(service))
        assert.isUndefined(engineOf(Bulkhead.Bulkhead.of({ ...service, limit: () => (self) => self })))
        assert.isUndefined(engineOf(yield* Effect.provide(bulkhead, Bulkhead.layerNoop)))
      }))
  })

  it.effect("layerNoop starts every call at once", () =>
    Effect.gen(function*() {
      const calls = yield* startMany(500)
      assert.deepStrictEqual(new Set(started(calls)), new Set([true]))
      yield* bulkhead.use((service) => service.closeAll)
      yield* Effect.void.pipe(Bulkhead.limit("k"))
      assert.strictEqual(yield* running(), 0)
    }).pipe(Effect.provide(Bulkhead.layerNoop)))
})
