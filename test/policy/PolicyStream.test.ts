import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Deferred, Duration, Effect, Exit, Fiber, Layer, Ref, Stream } from "effect"
import {
  AdaptiveLimit,
  Backoff,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  Fallback,
  Fault,
  Policy,
  Quota
} from "effect-resilience"
import { TestClock } from "effect/testing"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"

const overloaded = { [Fault.verdictOf]: Fault.overloaded(), _tag: "Overloaded" } as const
const retry = { backoff: Backoff.constant({ delay: "1 second" }), maxAttempts: 3 }

/** A stream for each try, and how many are open. */
const tries = <A, E>(...streams: ReadonlyArray<Stream.Stream<A, E>>) =>
  Effect.gen(function*() {
    const opened = yield* Ref.make(0)
    const open = yield* Ref.make(0)
    const stream = Stream.unwrap(Effect.gen(function*() {
      const at = yield* Ref.getAndUpdate(opened, (n) => n + 1)
      yield* Effect.acquireRelease(Ref.update(open, (n) => n + 1), () => Ref.update(open, (n) => n - 1))
      return streams[Math.min(at, streams.length - 1)] ?? Stream.empty
    }))
    return { stream, opened, open }
  })

const brokenAfter = <A>(...elements: ReadonlyArray<A>) =>
  Stream.concat(Stream.fromIterable(elements, { chunkSize: 1 }), Stream.fail(overloaded))

const run = <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.gen(function*() {
    const fiber = yield* Effect.forkChild(Effect.exit(self), { startImmediately: true })
    yield* TestClock.adjust("1 hour")
    return yield* Fiber.join(fiber)
  })

const collected = <A, E, R>(self: Stream.Stream<A, E, R>) => {
  const seen: Array<A> = []
  return Effect.map(
    run(Stream.runForEach(self, (element) => Effect.sync(() => seen.push(element)))),
    (exit) => ({ seen, exit, error: Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined })
  )
}

describe("Policy.applyStream", () => {
  describe("retry", () => {
    it.effect("tries again a stream that fails before its first element", () =>
      Effect.gen(function*() {
        const { open, opened, stream } = yield* tries(Stream.fail(overloaded), Stream.make(1, 2, 3))
        const { exit, seen } = yield* collected(Policy.applyStream(stream, Policy.make({ name: "x", retry })))
        assert.deepStrictEqual(seen, [1, 2, 3])
        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(yield* Ref.get(opened), 2)
        assert.strictEqual(yield* Ref.get(open), 0)
      }))

    it.effect("does not try again one that fails after it, and hands the failure on as it is", () =>
      Effect.gen(function*() {
        const { open, opened, stream } = yield* tries<number, typeof overloaded>(brokenAfter(1, 2), Stream.make(7))
        const { error, seen } = yield* collected(Policy.applyStream(stream, Policy.make({ name: "x", retry })))
        assert.deepStrictEqual(seen, [1, 2])
        assert.strictEqual(error, overloaded)
        assert.strictEqual(yield* Ref.get(opened), 1)
        assert.strictEqual(yield* Ref.get(open), 0)
      }))

    it.effect("tries it again with a buffer, and mixes nothing", () =>
      Effect.gen(function*() {
        const { open, opened, stream } = yield* tries<number, typeof overloaded>(brokenAfter(1, 2), Stream.make(7, 8))
        const { exit, seen } = yield* collected(
          Policy.applyStream(stream, Policy.make({ name: "x", retry }), { buffer: true })
        )
        assert.deepStrictEqual(seen, [7, 8])
        assert.isTrue(Exit.isSuccess(exit))
        assert.strictEqual(yield* Ref.get(opened), 2)
        assert.strictEqual(yield* Ref.get(open), 0)
      }))

    it.effect("elements before the first one that counts do not keep it from trying again", () =>
      Effect.gen(function*() {
        const { stream } = yield* tries<number, typeof overloaded>(brokenAfter(-1, -2), Stream.make(-3, 1, 2))
        const { seen } = yield* collected(
          Policy.applyStream(stream, Policy.make({ name: "x", retry }), { isFirst: (n) => n > 0 })
        )
        assert.deepStrictEqual(seen, [-3, 1, 2])
      }))

    it.effect("a stream of such elements alone is whole", () =>
      Effect.gen(function*() {
        const { exit, seen } = yield* collected(
          Policy.applyStream(Stream.make(-1, -2), Policy.make({ name: "x", retry }), { isFirst: (n) => n > 0 })
        )
        assert.deepStrictEqual(seen, [-1, -2])
        assert.isTrue(Exit.isSuccess(exit))
      }))

    it.effect("what waits for the whole is never handed on by a stream that breaks off", () =>
      Effect.gen(function*() {
        const options = { untilWhole: (n: number) => n >= 10 }
        const policy = Policy.make({ name: "x", retry })
        const broken = yield* collected(Policy.applyStream(brokenAfter(1, 10, 2), policy, options))
        assert.deepStrictEqual(broken.seen, [1, 2])
        assert.strictEqual(broken.error, overloaded)
        const whole = yield* collected(Policy.applyStream(Stream.make(1, 10, 2), policy, options))
        assert.deepStrictEqual(whole.seen, [1, 2, 10])
      }))
  })

  describe("time", () => {
    it.effect("timeout is the time to the first element, and is tried again", () =>
      Effect.gen(function*() {
        const slow = Stream.fromEffect(Effect.as(Effect.sleep("20 seconds"), 1))
        const long = Stream.concat(Stream.make(2), Stream.fromEffect(Effect.as(Effect.sleep("20 seconds"), 3)))
        const { open, opened, stream } = yield* tries(slow, long)
        const { seen } = yield* collected(
          Policy.applyStream(stream, Policy.make({ name: "x", retry, timeout: "10 seconds" }))
        )
        assert.deepStrictEqual(seen, [2, 3])
        assert.strictEqual(yield* Ref.get(opened), 2)
        assert.strictEqual(yield* Ref.get(open), 0)
      }))

    it.effect("what is kept back is a sign of life for the watchdogs around", () =>
      Effect.gen(function*() {
        const slow = Stream.range(1, 20).pipe(Stream.mapEffect((n) => Effect.as(Effect.sleep("900 millis"), n)))
        const policy = Policy.make({ name: "x" })
        const keeping: ReadonlyArray<Policy.StreamOptions<number>> = [
          { buffer: true },
          { buffer: true, stall: "1 second" },
          { isFirst: (n) => n === 20 },
          { untilWhole: (n) => n > 1 },
          { untilWhole: (n) => n > 1, stall: "1 second" }
        ]
        for (const options of keeping) {
          const { seen } = yield* collected(
            Policy.applyStream(slow, policy, options).pipe(Deadline.stall("1 second", { maxSilence: "2 seconds" }))
          )
          assert.lengthOf(seen, 20)
        }
      }))

    it.effect("stall is the silence after it, and not the time that the reader takes", () =>
      Effect.gen(function*() {
        const policy = Policy.make({ name: "x", retry })
        const silent = yield* collected(
          Policy.applyStream(Stream.concat(Stream.make(1), Stream.never), policy, { stall: "5 seconds" })
        )
        assert.deepStrictEqual(silent.seen, [1])
        assert.deepInclude(silent.error, { _tag: "Stalled", name: "x", idle: Duration.seconds(5) })
        const slowly = Policy.applyStream(Stream.fromIterable([1, 2, 3], { chunkSize: 1 }), policy, {
          stall: "5 seconds"
        }).pipe(Stream.tap(() => Effect.sleep("1 minute")))
        assert.deepStrictEqual((yield* collected(slowly)).seen, [1, 2, 3])
      }))

    it.effect("the deadline bounds all of it, also after the first element", () =>
      Effect.gen(function*() {
        const { open, stream } = yield* tries(Stream.concat(Stream.make(1), Stream.never))
        const { error, seen } = yield* collected(
          Policy.applyStream(stream, Policy.make({ name: "x", retry, deadline: "1 minute" }))
        )
        assert.deepStrictEqual(seen, [1])
        assert.deepInclude(error, { _tag: "DeadlineExceeded", started: true })
        assert.strictEqual(yield* Ref.get(open), 0)
      }))
  })

  describe("slots", () => {
    const careful = Policy.make({
      name: "x",
      retry,
      quota: { requests: 100 },
      limit: {},
      bulkhead: { maxConcurrent: 1 },
      circuit: { failures: 1, openFor: "1 day" }
    })

    const held = Effect.gen(function*() {
      const limits = yield* AdaptiveLimit.AdaptiveLimit
      return {
        bulkhead: yield* Bulkhead.Bulkhead.use((bulkhead) => Effect.map(bulkhead.state("x"), ({ running }) => running)),
        limit: (yield* limits.state("x")).running,
        quota: (yield* Quota.state("x")).running
      }
    })

    it.effect("are held until the stream has ended, also before the kept elements are seen", () =>
      Effect.gen(function*() {
        const latch = yield* Deferred.make<void>()
        const during: Array<unknown> = []
        const stream = Stream.concat(
          Stream.make(1),
          Stream.concat(Stream.fromEffect(Effect.as(Deferred.await(latch), 2)), Stream.make(10))
        ).pipe(Policy.applyStream(careful, { untilWhole: (n: number) => n === 10 }))
        const { exit } = yield* collected(Stream.tap(stream, (n) =>
          Effect.gen(function*() {
            during.push([n, yield* held])
            if (n === 1) yield* Deferred.succeed(latch, undefined)
          })))
        assert.isTrue(Exit.isSuccess(exit))
        assert.deepStrictEqual(during[0], [1, { bulkhead: 1, limit: 1, quota: 1 }])
        assert.deepStrictEqual(during[2], [10, { bulkhead: 0, limit: 0, quota: 0 }])
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("are given back when the reader stops", () =>
      Effect.gen(function*() {
        const { open, stream } = yield* tries(Stream.concat(Stream.make(1, 2), Stream.never))
        const taken = yield* Stream.runCollect(Stream.take(Policy.applyStream(stream, careful), 1))
        assert.deepStrictEqual(taken, [1])
        assert.strictEqual(yield* Ref.get(open), 0)
        assert.deepStrictEqual(yield* held, { bulkhead: 0, limit: 0, quota: 0 })
        assert.strictEqual((yield* CircuitBreaker.state("x"))._tag, "Closed")
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("the circuit hears of a failure after the first element", () =>
      Effect.gen(function*() {
        const { error } = yield* collected(Policy.applyStream(brokenAfter(1), careful))
        assert.strictEqual(error, overloaded)
        assert.strictEqual((yield* CircuitBreaker.state("x"))._tag, "Open")
        const refused = yield* collected(Policy.applyStream(Stream.make(1), careful))
        assert.deepInclude(refused.error, { _tag: "CircuitOpen" })
        assert.deepStrictEqual(refused.seen, [])
      }).pipe(Effect.provide(Policy.layer)))

    it.effect("usage and limits are read from the beginning and the end", () =>
      Effect.gen(function*() {
        const parts = Stream.make<[object, object, object]>(
          { type: "response-metadata", metadata: { it: { rateLimits: { requests: { limit: 7, remaining: 3 } } } } },
          { type: "text" },
          { type: "finish", usage: { inputTokens: 10, outputTokens: 20 } }
        )
        const policy = Policy.make({ name: "told", quota: { outputTokens: 1_000, cost: { outputTokens: 500 } } })
        const during: Array<number | undefined> = []
        yield* collected(
          Stream.concat(parts, Stream.empty).pipe(
            Policy.applyStream(policy, {
              isFirst: (part: object) => "type" in part && part.type === "text",
              untilWhole: (part: object) => "type" in part && part.type === "finish"
            }),
            Stream.tap(() => Effect.map(Quota.state("told"), ({ limits }) => during.push(limits.requests?.limit)))
          )
        )
        const { limits } = yield* Quota.state("told")
        assert.deepStrictEqual(during, [7, 7, 7])
        assert.strictEqual(Math.round(limits.outputTokens?.available ?? 0), 1_000)
        const spent = yield* Quota.state("told")
        assert.strictEqual(spent.running, 0)
      }).pipe(Effect.provide(Policy.layer)))
  })

  describe("hedge", () => {
    it.effect("a second try of a stream that does not begin; the loser is closed", () =>
      Effect.gen(function*() {
        const slow = Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep("30 seconds"), 1)), Stream.never)
        const { open, opened, stream } = yield* tries(slow, Stream.make(2, 3))
        const hedged = Policy.make({ name: "x", hedge: { delay: "5 seconds", idempotent: true } })
        for (const buffer of [false, true]) {
          yield* Ref.set(opened, 0)
          const { seen } = yield* collected(Policy.applyStream(stream, hedged, { buffer }))
          assert.deepStrictEqual(seen, [2, 3])
          assert.strictEqual(yield* Ref.get(opened), 2)
          assert.strictEqual(yield* Ref.get(open), 0)
        }
      }))

    it.effect("of two that begin in the same moment one is handed on and the other closed", () =>
      Effect.gen(function*() {
        const after = (millis: number, n: number) =>
          Stream.concat(Stream.fromEffect(Effect.as(Effect.sleep(millis), n)), Stream.make(n))
        const { open, stream } = yield* tries(after(10, 1), after(5, 2))
        const hedged = Policy.make({ name: "x", hedge: { delay: "5 millis", idempotent: true } })
        const { seen } = yield* collected(Policy.applyStream(stream, hedged))
        assert.isTrue(seen.length === 2 && seen[0] === seen[1])
        assert.strictEqual(yield* Ref.get(open), 0)
      }))
  })

  it.effect("reports the first element to the learned limit", () =>
    Effect.gen(function*() {
      const limits = yield* AdaptiveLimit.AdaptiveLimit
      const policy = Policy.make({ name: "x", limit: { outageAfter: 1, probeInterval: "1 second" } })
      yield* Effect.flip(Stream.runDrain(Policy.applyStream(Stream.fail(overloaded), policy)))
      assert.strictEqual((yield* limits.state("x")).phase, "Out")
      const phases: Array<string> = []
      yield* run(
        Stream.concat(Stream.make(1), Stream.fromEffect(Effect.sleep("1 minute"))).pipe(
          Policy.applyStream(policy),
          Stream.runForEach(() => Effect.map(limits.state("x"), ({ phase }) => phases.push(phase)))
        )
      )
      assert.notStrictEqual(phases[0], "Out")
    }).pipe(Effect.provide(Policy.layer)))

  it.effect("a policy with a fallback is refused, and a wrong option", () =>
    Effect.sync(() => {
      const policy = Policy.make({
        name: "x",
        fallback: Fallback.step("template", Effect.succeed(1), { takes: "all" })
      })
      assert.throws(
        // @ts-expect-error: it has a fallback
        () => Policy.applyStream(Stream.make(1), policy),
        /Policy.applyStream: option "fallback" is that of policy "x"/
      )
      assert.throws(
        () => Policy.applyStream(Policy.make({ name: "x" }), { stall: "0 millis" }),
        /Policy.applyStream: option "stall" is/
      )
    }))

  describe("interruption", () => {
    const everything = Policy.make({
      name: "x",
      deadline: "10 minutes",
      retry,
      quota: { requests: 100 },
      limit: {},
      bulkhead: { maxConcurrent: 1 },
      circuit: { failures: 5 },
      hedge: { delay: "2 seconds", idempotent: true },
      timeout: "5 seconds"
    })

    for (const buffer of [false, true]) {
      const arrange = Effect.gen(function*() {
        const sleepy = Stream.fromEffect(Effect.as(Effect.sleep("3 seconds"), 1))
        const { open, stream } = yield* tries<number, typeof overloaded>(
          Stream.fail(overloaded),
          Stream.concat(sleepy, sleepy),
          Stream.concat(sleepy, sleepy)
        )
        const context = yield* Layer.build(Policy.layer)
        const limits = Context.get(context, AdaptiveLimit.AdaptiveLimit)
        return {
          effect: Effect.provide(
            Stream.runDrain(
              Policy.applyStream(stream, everything, { buffer, stall: "10 seconds" })
            ),
            context
          ),
          check: () =>
            Effect.gen(function*() {
              assert.strictEqual(yield* Ref.get(open), 0)
              assert.strictEqual(
                yield* Bulkhead.Bulkhead.use((bulkhead) => Effect.map(bulkhead.state("x"), ({ running }) => running)),
                0
              )
              assert.strictEqual((yield* limits.state("x")).running, 0)
              assert.strictEqual((yield* Quota.state("x")).running, 0)
            }).pipe(Effect.provide(context))
        }
      })

      it.effect(`leaks nothing at any step${buffer ? ", with a buffer" : ""}`, () => interruptEverywhere({ arrange }))

      it.effect(`leaks nothing, whoever cancels${buffer ? ", with a buffer" : ""}`, () =>
        everyCancelSource({ arrange, after: "4 seconds" }))
    }
  })
})
