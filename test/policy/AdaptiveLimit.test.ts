import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Deferred, Duration, Effect, Exit, Fiber, Random, Schema, type Scope } from "effect"
import { AdaptiveLimit, Deadline, Fault, Telemetry } from "effect-resilience"
import { TestClock } from "effect/testing"
import { Engine } from "../../src/policy/internal/adaptiveEngine.ts"
import { ServiceSettings } from "../../src/policy/internal/adaptiveSettings.ts"
import { everyCancelSource, interruptEverywhere } from "../support/interruptEverywhere.ts"
import { invalid } from "../support/invalid.ts"
import { withLogs } from "../support/logs.ts"

type Service = AdaptiveLimit.AdaptiveLimit["Service"]

const limits = AdaptiveLimit.AdaptiveLimit

const stateOf = (key = "k") => AdaptiveLimit.state(key)
const limitOf = (key = "k") => Effect.map(stateOf(key), ({ limit }) => limit)
const phaseOf = (key = "k") => Effect.map(stateOf(key), ({ phase }) => phase)

const withLimits = (options: AdaptiveLimit.Options = {}) =>
<A, E>(
  self: Effect.Effect<A, E, AdaptiveLimit.AdaptiveLimit | Scope.Scope>
) => Effect.provide(self, AdaptiveLimit.layer(options))

/** No jitter: intervals are as long as they can be, and pauses are halves. */
const steady = Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0 })

/** Lets what was only scheduled come to its turn. */
const settle = Effect.yieldNow.pipe(Effect.repeat({ times: 4 }))

class Failing extends Schema.TaggedError<Failing>()("Failing", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}
const failing = (verdict: Fault.Verdict) => new Failing({ verdict })

type End = Effect.Effect<void, Failing>
const overloaded: End = failing(Fault.overloaded())
const reset: End = failing(Fault.ambiguous)

/** A call that runs until it is ended, and says when it has started. */
const start = (key = "k", options?: AdaptiveLimit.LimitOptions) =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<End>()
    const first = yield* Deferred.make<number>()
    let started = false
    const work = Effect.suspend(() => {
      started = true
      const reporting = Deferred.await(first).pipe(
        Effect.andThen((tokens) => tokens === 0 ? AdaptiveLimit.firstToken : AdaptiveLimit.tokens(tokens)),
        Effect.andThen(Effect.never)
      )
      return Effect.raceFirst(Effect.flatten(Deferred.await(gate)), reporting)
    })
    const fiber = yield* work.pipe(
      AdaptiveLimit.withLimit(key, options),
      Effect.exit,
      Effect.forkChild({ startImmediately: true })
    )
    const end = (how: End = Effect.void) =>
      Deferred.succeed(gate, how).pipe(Effect.andThen(Fiber.await(fiber)), Effect.andThen(settle))
    return {
      fiber,
      gate,
      hasStarted: () => started,
      end,
      firstToken: Effect.andThen(Deferred.succeed(first, 0), settle),
      tokens: (n: number) => Effect.andThen(Deferred.succeed(first, n), settle),
      interrupt: Effect.andThen(Fiber.interrupt(fiber), settle)
    }
  })

const startMany = (n: number, key = "k", options?: AdaptiveLimit.LimitOptions) =>
  Effect.replicateEffect(start(key, options), n)

const run = (end: End = Effect.void, key = "k", options?: AdaptiveLimit.LimitOptions) =>
  Effect.exit(AdaptiveLimit.withLimit(end, key, options))

const started = (calls: ReadonlyArray<{ readonly hasStarted: () => boolean }>) =>
  calls.map(({ hasStarted }) => hasStarted())

const exceededOf = (exit: Exit.Exit<unknown, unknown> | undefined): AdaptiveLimit.LimitExceeded => {
  const error = exit !== undefined && Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
  assert.instanceOf(error, AdaptiveLimit.LimitExceeded)
  return error
}

const reasonOf = (fiber: Fiber.Fiber<Exit.Exit<unknown, unknown>>) =>
  Effect.map(Fiber.join(fiber), (exit) => exceededOf(exit).reason)

const refusal = (key = "k", options?: AdaptiveLimit.LimitOptions) =>
  Effect.void.pipe(
    AdaptiveLimit.withLimit(key, options),
    Effect.andThen(() => Effect.die(`the limit of ${key} let a call through`)),
    Effect.flip
  )

/** Ends a full round of calls, all of those that the limit allows at the same time. */
const round = (how: End = Effect.void) =>
  Effect.gen(function*() {
    const calls = yield* Effect.flatMap(limitOf(), (n) => startMany(n))
    yield* Effect.forEach(calls, ({ end }) => end(how))
    return yield* limitOf()
  })

/** Makes it fail until it is out. */
const breakIt = (key = "k") =>
  Effect.gen(function*() {
    for (let i = 0; i < 5; i++) yield* run(overloaded, key)
    assert.strictEqual(yield* phaseOf(key), "Out")
  })

const one: AdaptiveLimit.Options = { max: 1 }

describe("AdaptiveLimit", () => {
  describe("slots", () => {
    it.effect("begins with ten calls of a key, and lets others wait in order, by default", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(12)
        assert.deepStrictEqual(yield* stateOf(), {
          key: "k",
          phase: "Steady",
          limit: 10,
          running: 10,
          waiting: 2,
          givenUp: 0
        })
        yield* calls[3]?.interrupt ?? Effect.void
        assert.deepStrictEqual(started(calls), calls.map((_, i) => i < 11))
      }).pipe(withLimits()))

    it.effect("starts those who wait in the order in which they came", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(4)
        for (const [i, call] of calls.entries()) {
          assert.deepStrictEqual(started(calls), calls.map((_, at) => at <= i))
          yield* call.end()
        }
      }).pipe(withLimits(one)))

    it.effect("two keys never touch each other", () =>
      Effect.gen(function*() {
        yield* startMany(2, "a")
        yield* breakIt("c")
        const b = yield* start("b")
        assert.isTrue(b.hasStarted())
        assert.strictEqual((yield* stateOf("a")).waiting, 1)
      }).pipe(withLimits(one)))

    it.effect("a slot is free again however the work ended", () =>
      Effect.gen(function*() {
        const ends = [Effect.void, overloaded, Effect.die("bug"), Effect.interrupt]
        yield* Effect.forEach(ends, (end) => run(end))
        assert.deepInclude(yield* stateOf(), { running: 0, waiting: 0 })
        assert.deepStrictEqual(yield* run(Effect.die("bug")), Exit.die("bug"))
      }).pipe(withLimits({ ...one, maxQueue: 0 })))

    it.effect("a slot of interrupted work is free when the work has stopped", () =>
      Effect.gen(function*() {
        const stopped = yield* Deferred.make<void>()
        const slowToStop = Effect.onInterrupt(Effect.never, () => Deferred.await(stopped))
        const work = yield* Effect.forkChild(AdaptiveLimit.withLimit(slowToStop, "k"), { startImmediately: true })
        const next = yield* start()
        work.interruptUnsafe()
        yield* settle
        assert.isFalse(next.hasStarted())
        yield* Deferred.succeed(stopped, undefined)
        yield* settle
        assert.isTrue(next.hasStarted())
      }).pipe(withLimits(one)))

    it.effect("a waiter that had just been granted a slot but is interrupted before it runs passes it on", () =>
      Effect.gen(function*() {
        const [holder, first, second] = yield* Effect.all([start(), start(), start()])
        yield* Effect.withFiber(() => {
          holder.fiber.interruptUnsafe()
          assert.isFalse(first.hasStarted())
          first.fiber.interruptUnsafe()
          return Effect.void
        })
        yield* settle
        assert.deepStrictEqual(started([first, second]), [false, true])
        assert.deepInclude(yield* stateOf(), { running: 1, waiting: 0 })
      }).pipe(withLimits(one)))

    it.effect("a newcomer never overtakes a waiter, not even at the moment a slot is released", () =>
      Effect.gen(function*() {
        const order: Array<string> = []
        const gate = yield* Deferred.make<void>()
        const says = (name: string) => Effect.sync(() => order.push(name)).pipe(AdaptiveLimit.withLimit("k"))
        const holder = yield* Deferred.await(gate).pipe(
          AdaptiveLimit.withLimit("k"),
          Effect.andThen(says("again")),
          Effect.forkChild({ startImmediately: true })
        )
        yield* Effect.forkChild(says("waiter"), { startImmediately: true })
        yield* Deferred.succeed(gate, undefined)
        yield* Fiber.join(holder)
        assert.deepStrictEqual(order, ["waiter", "again"])
      }).pipe(withLimits(one)))
  })

  describe("calls inside of calls of the same key", () => {
    const nested = (depth: number): Effect.Effect<void, AdaptiveLimit.LimitExceeded, AdaptiveLimit.AdaptiveLimit> =>
      (depth === 1 ? Effect.void : Effect.suspend(() => nested(depth - 1))).pipe(
        AdaptiveLimit.withLimit("k", { maxWait: "1 second" })
      )

    it.effect("that wait for nobody but those around them are warned of, once, and fail at maxWait", () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          for (let times = 0; times < 2; times++) {
            const fiber = yield* Effect.forkChild(Effect.flip(nested(3)), { startImmediately: true })
            yield* settle
            yield* TestClock.adjust("1 second")
            assert.strictEqual((yield* Fiber.join(fiber)).reason, "WaitTooLong")
          }
          assert.strictEqual(logs.length, 1)
          assert.include(logs[0], "lets a call wait for the calls around it")
          assert.deepInclude(yield* stateOf(), { running: 0, waiting: 0 })
        }).pipe(withLimits({ initial: 2, max: 2 }))
      ))

    it.effect("are not warned of where somebody else holds a slot", () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const other = yield* start()
          const fiber = yield* Effect.forkChild(nested(2), { startImmediately: true })
          yield* settle
          yield* other.end()
          yield* Fiber.join(fiber)
          assert.strictEqual(logs.length, 0)
        }).pipe(withLimits({ initial: 2, max: 2 }))
      ))
  })

  describe("refusals", () => {
    it.effect("queue full is an immediate typed rejection that starts nothing", () =>
      Effect.gen(function*() {
        yield* startMany(2)
        const refused = yield* start()
        assert.isFalse(refused.hasStarted())
        assert.isDefined(refused.fiber.pollUnsafe())
        const error = yield* Effect.map(Fiber.join(refused.fiber), exceededOf)
        assert.deepStrictEqual(
          error,
          new AdaptiveLimit.LimitExceeded({ key: "k", reason: "QueueFull", running: 1, waiting: 1, limit: 1 })
        )
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.rejected())
        assert.strictEqual(
          error.message,
          "AdaptiveLimit \"k\" is full and started nothing (1 of 1 slots are taken, 1 call waits): try again later, or fall back"
        )
      }).pipe(withLimits({ ...one, maxQueue: 1 })))

    it.effect("gives up waiting after maxWait, which is every caller's own", () =>
      Effect.gen(function*() {
        yield* start()
        const short = yield* start("k", { maxWait: "1 second" })
        const long = yield* start()
        yield* TestClock.adjust(999)
        assert.isUndefined(short.fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        const error = yield* Effect.map(Fiber.join(short.fiber), exceededOf)
        assert.deepInclude(error, { reason: "WaitTooLong", running: 1, waiting: 1, limit: 1 })
        assert.include(
          error.message,
          "had no free slot in time and started nothing (1 of 1 slots are taken, 1 call waits)"
        )
        yield* TestClock.adjust(1_798_999)
        assert.isUndefined(long.fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        assert.strictEqual(yield* reasonOf(long.fiber), "WaitTooLong")
      }).pipe(withLimits(one)))

    it.effect("with a maxWait of zero, or a deadline that is over, nobody waits", () =>
      Effect.gen(function*() {
        yield* start()
        assert.strictEqual((yield* refusal("k", { maxWait: 0 })).reason, "WaitTooLong")
        const over = yield* refusal().pipe(
          Effect.provideService(Deadline.Current, 0),
          Effect.forkChild({ startImmediately: true })
        )
        assert.isDefined(over.pollUnsafe())
        assert.strictEqual((yield* Fiber.join(over)).reason, "WaitTooLong")
      }).pipe(withLimits(one)))

    it.effect("a refusal goes through JSON and back", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const error = yield* refusal("k", { inOutage: "fail" })
        const codec = Schema.fromJsonString(Schema.toCodecJson(AdaptiveLimit.LimitExceeded))
        const back = yield* Effect.flatMap(Schema.encodeEffect(codec)(error), Schema.decodeEffect(codec))
        assert.deepStrictEqual(back, error)
        assert.deepStrictEqual(yield* Fault.classify(back), Fault.rejected("1 second"))
        assert.strictEqual(
          back.message,
          "AdaptiveLimit \"k\" gets nothing through to its provider and started nothing: fall back, or try again in 1s"
        )
      }).pipe(steady, withLimits()))
  })

  describe("the limit", () => {
    it.effect("doubles with each round of calls while nobody has refused any", () =>
      Effect.gen(function*() {
        assert.strictEqual(yield* round(), 6)
        const calls = yield* startMany(20)
        for (const call of calls.slice(0, 6)) yield* call.end()
        assert.strictEqual(yield* limitOf(), 12)
      }).pipe(withLimits({ initial: 5 })))

    it.effect("does not grow while it is not used to the full", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 50; i++) {
          const calls = yield* startMany(i % 5)
          yield* Effect.forEach(calls, ({ end }) => end())
        }
        assert.strictEqual(yield* limitOf(), 5)
      }).pipe(withLimits({ initial: 5 })))

    it.effect("falls once for all calls that were under way, however many fail", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(10)
        yield* Effect.forEach(calls.slice(1).toReversed(), ({ end }) => end(overloaded))
        assert.deepInclude(yield* stateOf(), { limit: 9, phase: "Steady" })
        // nor does it grow for one of them
        yield* calls[0]?.end() ?? Effect.void
        assert.strictEqual(yield* limitOf(), 9)
      }).pipe(withLimits()))

    it.effect("falls to below what ran when a call was refused, and by half when none was taken since", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(10)
        yield* (yield* start()).interrupt
        yield* Effect.forEach(calls.slice(6).toReversed(), ({ end }) => end(overloaded))
        assert.strictEqual(yield* limitOf(), 9)
        yield* Effect.forEach(calls.slice(0, 4), ({ interrupt }) => interrupt)
        const others = yield* startMany(3)
        yield* others[2]?.end(overloaded) ?? Effect.void
        assert.strictEqual(yield* limitOf(), 2)
      }).pipe(withLimits()))

    it.effect("counts those that run now where an answer breaks off, and not those that ran when it began", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(10)
        yield* calls[0]?.firstToken ?? Effect.void
        yield* calls[1]?.end(overloaded) ?? Effect.void
        assert.strictEqual(yield* limitOf(), 1)
        const [first] = yield* startMany(10, "late")
        yield* TestClock.adjust(2_001)
        yield* first?.end(overloaded) ?? Effect.void
        assert.strictEqual(yield* limitOf("late"), 9)
        const [taken] = yield* startMany(10, "taken")
        yield* taken?.firstToken ?? Effect.void
        yield* taken?.end(overloaded) ?? Effect.void
        assert.strictEqual(yield* limitOf("taken"), 9)
      }).pipe(withLimits({ max: 10 })))

    it.effect("comes back to one less than was refused, rests, and then tries one more, less often each time", () =>
      Effect.gen(function*() {
        // a provider that takes five
        const busy = Effect.gen(function*() {
          const calls = yield* startMany(20)
          let refused = 0
          let at = 0
          const tries: Array<number> = []
          const running = () =>
            calls.filter(({ fiber, hasStarted }) => hasStarted() && fiber.pollUnsafe() === undefined)
          for (let second = 0; second < 75; second++) {
            yield* Effect.forEach(running().slice(5), ({ end }) => {
              refused++
              tries.push(second - at)
              at = second
              return end(overloaded)
            })
            yield* running()[0]?.end() ?? Effect.void
            calls.push(yield* start())
            yield* TestClock.adjust("1 second")
          }
          return { refused, tries }
        })
        const { refused, tries } = yield* busy
        assert.isAtMost(refused, 8)
        // longer and longer until it is 20 seconds, to the next call that ends
        assert.deepStrictEqual(tries.slice(-2), [15, 22])
      }).pipe(withLimits({ initial: 4 })))

    it.effect("grows on at once when the one more is taken", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(30)
        yield* calls[5]?.end(overloaded) ?? Effect.void
        assert.strictEqual(yield* limitOf(), 5)
        yield* TestClock.adjust("1 minute")
        for (const call of calls) yield* call.end()
        assert.isAbove(yield* limitOf(), 10)
      }).pipe(withLimits({ initial: 6 })))

    it.effect("gives way a little to a timeout or a lost connection, and is soon back", () =>
      Effect.gen(function*() {
        const verdicts = [Fault.timedOut, Fault.ambiguous, Fault.transient]
        for (const verdict of verdicts) {
          const before = yield* limitOf()
          const calls = yield* startMany(before * 3)
          yield* calls[0]?.end(failing(verdict)) ?? Effect.void
          assert.strictEqual(yield* limitOf(), Math.floor(before * 0.9))
          for (const call of calls.slice(1)) yield* call.end()
          assert.isAtLeast(yield* limitOf(), before)
        }
      }).pipe(withLimits({ initial: 20, max: 20 })))

    it.effect("ignores what says nothing of the load", () =>
      Effect.gen(function*() {
        const ends: ReadonlyArray<End> = [
          ...[
            Fault.throttled("1 minute"),
            Fault.permanent,
            Fault.unknown,
            Fault.rejected("1 second"),
            Fault.malformed,
            Fault.refused,
            Fault.contextOverflow
          ].map(failing),
          Effect.die("bug"),
          Effect.interrupt,
          Effect.failCause(Cause.combine(Cause.fail(failing(Fault.overloaded())), Cause.die("bug")))
        ]
        for (const end of ends) assert.strictEqual(yield* round(end), 4)
        const calls = yield* startMany(6)
        yield* Effect.forEach(calls, ({ interrupt }) => interrupt)
        assert.deepInclude(yield* stateOf(), { limit: 4, phase: "Steady", running: 0 })
        assert.strictEqual(yield* round(), 5)
      }).pipe(withLimits({ initial: 4 })))

    it.effect("stays between min and max", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 10; i++) assert.isAtMost(yield* round(), 7)
        assert.strictEqual(yield* limitOf(), 7)
        for (let i = 0; i < 10; i++) {
          yield* round(overloaded)
          yield* run()
          assert.isAtLeast(yield* limitOf(), 3)
        }
        assert.strictEqual(yield* limitOf(), 3)
      }).pipe(withLimits({ min: 3, initial: 5, max: 7 })))

    it.effect("frees the slot when the user's classifier throws, and learns nothing from it", () =>
      Effect.gen(function*() {
        const exit = yield* run(failing(Fault.overloaded()).pipe(Effect.mapError(() => failing(Fault.transient)))).pipe(
          Effect.provideService(Fault.Classifier, () => undefined)
        )
        assert.isTrue(Exit.isFailure(exit))
        const thrown = yield* Effect.fail("unknown").pipe(
          AdaptiveLimit.withLimit("x"),
          Effect.provideService(Fault.Classifier, () => {
            throw new Error("classifier")
          }),
          Effect.exit
        )
        assert.isTrue(Exit.hasDies(thrown))
        assert.deepInclude(yield* stateOf("x"), { running: 0, limit: 10 })
      }).pipe(withLimits()))
  })

  describe("latency", () => {
    /** Forty callers who report what they are asked to, and how long their calls take: it may change under way. */
    const callers = (report: "firstToken" | "tokens" | "nothing") =>
      Effect.gen(function*() {
        const provider = { millis: 500 }
        const call = Effect.suspend(() => Effect.sleep(provider.millis)).pipe(
          Effect.andThen(
            { firstToken: AdaptiveLimit.firstToken, tokens: AdaptiveLimit.tokens(10), nothing: Effect.void }[report]
          ),
          Effect.andThen(Effect.sleep(1))
        )
        yield* call.pipe(AdaptiveLimit.withLimit("k"), Effect.forever, Effect.forkChild, Effect.replicateEffect(40))
        return (millis: number, seconds: number) =>
          Effect.gen(function*() {
            provider.millis = millis
            yield* TestClock.adjust(seconds * 1_000)
            return yield* limitOf()
          })
      })

    for (const report of ["firstToken", "tokens"] as const) {
      it.effect(`a tenfold rise lowers the limit, and when it is over the limit recovers (${report})`, () =>
        Effect.gen(function*() {
          const at = yield* callers(report)
          assert.strictEqual(yield* at(500, 10), 20)
          assert.isAtMost(yield* at(5_000, 20), 10)
          assert.strictEqual(yield* at(500, 30), 20)
        }).pipe(withLimits({ initial: 20, max: 20 })))
    }

    it.effect("a rise within the tolerance changes nothing", () =>
      Effect.gen(function*() {
        const at = yield* callers("firstToken")
        yield* at(500, 10)
        assert.strictEqual(yield* at(2_000, 60), 20)
      }).pipe(withLimits({ initial: 20, max: 20 })))

    it.effect("the whole time counts only when asked for", () =>
      Effect.gen(function*() {
        const at = yield* callers("nothing")
        yield* at(500, 10)
        assert.strictEqual(yield* at(10_000, 60), 20)
      }).pipe(withLimits({ initial: 20, max: 20 })))

    it.effect("the whole time counts when asked for, of calls that report nothing else", () =>
      Effect.gen(function*() {
        const at = yield* callers("nothing")
        yield* at(500, 10)
        assert.isAtMost(yield* at(10_000, 25), 10)
      }).pipe(withLimits({ initial: 20, max: 20, learnFromTotalTime: true })))

    it.effect("what stays slow with fewer calls is the new normal, and no reason to go on falling", () =>
      Effect.gen(function*() {
        const at = yield* callers("firstToken")
        yield* at(500, 10)
        assert.isBelow(yield* at(5_000, 30), 15)
        assert.isAtLeast(yield* at(5_000, 60), 4)
        assert.isAtLeast(yield* at(5_000, 200), 10)
      }).pipe(withLimits({ initial: 20, max: 20 })))

    it.effect("the first token counts once, for the calls of all keys around, and for none outside of a call", () =>
      Effect.gen(function*() {
        yield* AdaptiveLimit.firstToken
        yield* AdaptiveLimit.tokens(5)
        const both = AdaptiveLimit.firstToken.pipe(
          Effect.andThen(AdaptiveLimit.firstToken),
          AdaptiveLimit.withLimit("inner"),
          AdaptiveLimit.withLimit("outer")
        )
        yield* both
        // Taken, and taken again at the end, is one.
        assert.deepStrictEqual([yield* limitOf("inner"), yield* limitOf("outer")], [2, 2])
        for (const tokens of [0, -1, NaN, Infinity]) {
          yield* AdaptiveLimit.withLimit(AdaptiveLimit.tokens(tokens), "inner")
        }
        assert.strictEqual(yield* limitOf("inner"), 2)
      }).pipe(withLimits({ initial: 1 })))

    it.effect("lets the limit grow with the first token, long before the end", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(6)
        yield* calls[0]?.firstToken ?? Effect.void
        assert.deepInclude(yield* stateOf(), { limit: 3, running: 3 })
        yield* calls[0]?.end() ?? Effect.void
        assert.deepInclude(yield* stateOf(), { limit: 3, running: 3 })
      }).pipe(withLimits({ initial: 2 })))
  })

  describe("an outage", () => {
    it.effect("begins after five failures in a row, and not where anything is taken in between", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 20; i++) {
          if (i % 4 === 3) yield* run()
          else yield* run(i % 2 === 0 ? overloaded : reset)
        }
        assert.strictEqual(yield* phaseOf(), "Steady")
        for (let i = 0; i < 4; i++) yield* run(failing(Fault.timedOut))
        // says nothing, neither way
        yield* run(failing(Fault.throttled()))
        assert.strictEqual(yield* phaseOf(), "Steady")
        yield* run(reset)
        assert.deepInclude(yield* stateOf(), { phase: "Out", limit: 1 })
      }).pipe(withLimits()))

    it.effect("does not begin because many calls of one burst fail: they say the same", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(10)
        yield* Effect.forEach(calls, ({ end }) => end(overloaded))
        assert.strictEqual(yield* phaseOf(), "Steady")
      }).pipe(withLimits()))

    it.effect("begins, too, where two have failed and what runs since then is silent and leaves no slot", () =>
      Effect.gen(function*() {
        const events: Array<string> = []
        yield* Effect.gen(function*() {
          for (let i = 0; i < 2; i++) yield* run(overloaded)
          const [hanging, next, impatient] = yield* Effect.all([start(), start(), start("k", { inOutage: "fail" })])
          assert.deepStrictEqual(started([hanging, next]), [true, false])
          yield* TestClock.adjust(9_999)
          assert.deepInclude(yield* stateOf(), { phase: "Steady", waiting: 2 })
          yield* TestClock.adjust(1)
          assert.deepInclude(yield* stateOf(), { phase: "Out", waiting: 1 })
          assert.deepStrictEqual(events, ["LimitChanged", "OutageBegan", "LimitRejected"])
          assert.strictEqual(yield* reasonOf(impatient.fiber), "Outage")
          yield* TestClock.adjust(1_000)
          yield* settle
          assert.isTrue(next.hasStarted())
        }).pipe(Effect.provideService(Telemetry.Listener, ({ _tag }) => events.push(_tag)))
      }).pipe(steady, withLimits()))

    it.effect("sends three calls at a time while it is unclear whether others get through", () =>
      Effect.gen(function*() {
        yield* run(reset)
        const calls = yield* startMany(6)
        assert.deepStrictEqual(started(calls), [true, true, true, false, false, false])
        yield* calls[0]?.end() ?? Effect.void
        assert.deepStrictEqual(started(calls), calls.map(() => true))
      }).pipe(withLimits()))

    it.effect("is careful for ten seconds and no longer", () =>
      Effect.gen(function*() {
        yield* run(reset)
        const calls = yield* startMany(5)
        yield* TestClock.adjust(9_999)
        assert.strictEqual(started(calls).filter(Boolean).length, 3)
        yield* TestClock.adjust(1)
        yield* settle
        assert.strictEqual(started(calls).filter(Boolean).length, 5)
      }).pipe(withLimits()))

    it.effect("lets one call through at a time, after intervals that double up to 20 seconds", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const calls = yield* startMany(9)
        const times: Array<number> = []
        let probes = 0
        for (let tenth = 1; tenth <= 900; tenth++) {
          yield* TestClock.adjust(100)
          yield* settle
          const running = calls.filter(({ fiber, hasStarted }) => hasStarted() && fiber.pollUnsafe() === undefined)
          assert.isAtMost(running.length, 1)
          for (const probe of running) {
            assert.strictEqual(probe, calls[probes++])
            times.push(tenth / 10)
            yield* probe.end(overloaded)
          }
        }
        assert.deepStrictEqual(times, [1, 3, 7, 15, 31, 51, 71])
      }).pipe(steady, withLimits()))

    it.effect("makes each interval up to a quarter shorter, by chance", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const { retryAfter } = yield* stateOf()
        assert.deepStrictEqual(retryAfter, Duration.millis(875))
        const call = yield* start()
        yield* TestClock.adjust(874)
        assert.isFalse(call.hasStarted())
        yield* TestClock.adjust(1)
        yield* settle
        assert.isTrue(call.hasStarted())
      }).pipe(
        Effect.provideService(Random.Random, { nextIntUnsafe: () => 0, nextDoubleUnsafe: () => 0.5 }),
        withLimits()
      ))

    it.effect("probes no earlier than a Retry-After says, and believes one of up to ten minutes", () =>
      Effect.gen(function*() {
        for (let i = 0; i < 5; i++) yield* run(failing(Fault.overloaded("7 seconds")))
        const [first, second, third] = yield* Effect.all([start(), start(), start()])
        yield* TestClock.adjust(6_999)
        assert.isFalse(first.hasStarted())
        yield* TestClock.adjust(1)
        yield* settle
        assert.isTrue(first.hasStarted())
        yield* first.end(failing(Fault.overloaded("1 hour")))
        yield* TestClock.adjust(599_999)
        assert.isFalse(second.hasStarted())
        yield* TestClock.adjust(1)
        yield* settle
        assert.isTrue(second.hasStarted())
        // also where nothing was sent, and the guard inside knows when it may be
        yield* second.end(failing(Fault.rejected("1 minute")))
        yield* TestClock.adjust(59_999)
        assert.isFalse(third.hasStarted())
        yield* TestClock.adjust(1)
        yield* settle
        assert.isTrue(third.hasStarted())
      }).pipe(steady, withLimits()))

    it.effect("waits ten seconds for a probe that hangs, then sends the next one, and interrupts nothing", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const [hanging, next, third] = yield* Effect.all([start(), start(), start()])
        yield* TestClock.adjust(1_000)
        yield* settle
        assert.deepStrictEqual(started([hanging, next]), [true, false])
        yield* TestClock.adjust(9_999)
        assert.isFalse(next.hasStarted())
        yield* TestClock.adjust(1)
        yield* settle
        assert.isTrue(next.hasStarted())
        assert.isUndefined(hanging.fiber.pollUnsafe())
        assert.isFalse(third.hasStarted())
        // what was given up may still be what ends the outage
        yield* hanging.end()
        assert.strictEqual(yield* phaseOf(), "Recovering")
      }).pipe(steady, withLimits()))

    it.effect("a probe that ends without a word on the load is followed by the next, no more often for it", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const calls = yield* startMany(3)
        yield* TestClock.adjust(1_000)
        yield* settle
        yield* calls[0]?.end(failing(Fault.permanent)) ?? Effect.void
        assert.deepStrictEqual(started(calls), [true, false, false])
        yield* TestClock.adjust(1_000)
        yield* settle
        yield* calls[1]?.interrupt ?? Effect.void
        assert.deepStrictEqual(started(calls), [true, true, false])
        yield* TestClock.adjust(1_000)
        yield* settle
        assert.isTrue(calls[2]?.hasStarted())
      }).pipe(steady, withLimits()))

    it.effect("a call from before neither ends nor prolongs it", () =>
      Effect.gen(function*() {
        const [old, older] = yield* Effect.all([start(), start()])
        for (let i = 0; i < 5; i++) yield* run(reset)
        yield* old.end()
        yield* older.end(overloaded)
        assert.strictEqual(yield* phaseOf(), "Out")
        const call = yield* start()
        yield* TestClock.adjust(1_000)
        yield* settle
        assert.isTrue(call.hasStarted())
      }).pipe(steady, withLimits({ initial: 60 })))

    it.effect("ends with the first token of a probe", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const calls = yield* startMany(3)
        yield* TestClock.adjust(1_000)
        yield* settle
        yield* calls[0]?.firstToken ?? Effect.void
        assert.deepInclude(yield* stateOf(), { phase: "Recovering", running: 1, limit: 4 })
      }).pipe(steady, withLimits()))

    it.effect("ends in slow start to what was known before, then goes on as ever", () =>
      Effect.gen(function*() {
        yield* breakIt()
        yield* TestClock.adjust("1 second")
        yield* run()
        assert.deepInclude(yield* stateOf(), { phase: "Recovering", limit: 4 })
        const calls = yield* startMany(40)
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual((yield* stateOf()).running, 4)
        for (const call of calls.slice(0, 4)) yield* call.end()
        yield* TestClock.adjust("2 seconds")
        assert.deepInclude(yield* stateOf(), { limit: 8, running: 8 })
        for (const call of calls.slice(4, 12)) yield* call.end()
        yield* TestClock.adjust("2 seconds")
        assert.deepInclude(yield* stateOf(), { phase: "Steady", limit: 10, running: 10 })
      }).pipe(withLimits({ max: 10 })))

    for (const answer of [50, 200]) {
      it.effect(`starts nobody together with many others when slow start is over: answers of ${answer} ms`, () =>
        Effect.gen(function*() {
          let isDown = true
          const times: Array<number> = []
          const once = Effect.gen(function*() {
            times.push(yield* Clock.currentTimeMillis)
            yield* Effect.sleep(answer)
            if (isDown) yield* overloaded
          }).pipe(
            AdaptiveLimit.withLimit("k", { initial: 60, max: 60, maxProbeInterval: "1 second" }),
            Effect.ignore,
            Effect.andThen(Effect.sleep(10))
          )
          for (let i = 0; i < 200; i++) yield* Effect.forkScoped(Effect.forever(once))
          yield* Effect.repeat(TestClock.adjust(100), { times: 99 })
          isDown = false
          const from = times.length
          const end = 20_000
          yield* Effect.repeat(TestClock.adjust(10), { times: 999 })
          const after = times.slice(from)
          const filled = after.findLastIndex((at, index) => at - (after[index - 59] ?? 0) > answer * 1.2)
          const together = new Map<number, number>()
          for (const at of after.slice(0, filled)) together.set(at, (together.get(at) ?? 0) + 1)
          assert.isAtMost(Math.max(...together.values()), 10)
          assert.isAbove(after.filter((at) => at > end - 2_000).length, 0.8 * 60 * 2_000 / answer, "and it is used")
        }).pipe(Effect.scoped, withLimits()))
    }

    it.effect("does not grow while calls wait for something else than a slot", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(10, "k", { initial: 10 })
        yield* calls[0]?.end(reset) ?? Effect.void
        const limit = yield* limitOf()
        const waiting = yield* startMany(40)
        yield* Effect.forEach(calls.slice(1, 9), ({ interrupt }) => interrupt)
        const { running } = yield* stateOf()
        assert.isBelow(running, limit, "few are sent until one of them is taken")
        yield* waiting.find(({ hasStarted }) => hasStarted())?.firstToken ?? Effect.void
        assert.isAtMost(yield* limitOf(), limit)
      }).pipe(Effect.scoped, withLimits()))

    it.effect("starts those who waited one after the other, none at the same instant as another", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const at = yield* Effect.clockWith((clock) => Effect.succeed(() => clock.currentTimeMillisUnsafe()))
        const times: Array<number> = []
        const call = Effect.suspend(() => {
          times.push(at())
          return Effect.sleep("100 millis")
        })
        const fibers = yield* Effect.replicateEffect(
          Effect.forkChild(AdaptiveLimit.withLimit(call, "k"), { startImmediately: true }),
          30
        )
        yield* TestClock.adjust("20 seconds")
        yield* Effect.forEach(fibers, Fiber.join)
        const recovering = times.slice(1, 12)
        assert.strictEqual(new Set(recovering).size, recovering.length)
      }).pipe(Random.withSeed(7), withLimits({ initial: 100 })))

    it.effect("gives up the slots of what hangs since before it ended", () =>
      Effect.gen(function*() {
        const hanging = yield* startMany(4)
        for (let i = 0; i < 5; i++) yield* run(reset)
        yield* TestClock.adjust("1 second")
        yield* run()
        assert.deepInclude(yield* stateOf(), { limit: 4, running: 0, givenUp: 4 })
        const calls = yield* startMany(3)
        yield* TestClock.adjust("3 seconds")
        assert.deepStrictEqual(started(calls), [true, true, true])
        // late failures of theirs say nothing any more
        yield* Effect.forEach(hanging, ({ end }) => end(failing(Fault.timedOut)))
        assert.deepInclude(yield* stateOf(), { phase: "Recovering", limit: 4, running: 3, givenUp: 0 })
      }).pipe(withLimits({ initial: 100 })))

    it.effect("refuses at once who does not wait for its end, and says when to come back", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const refused = yield* start("k", { inOutage: "fail" })
        assert.isDefined(refused.fiber.pollUnsafe())
        const error = yield* Effect.map(Fiber.join(refused.fiber), exceededOf)
        assert.deepStrictEqual(yield* Fault.classify(error), Fault.rejected("1 second"))
        assert.strictEqual(error.reason, "Outage")
        // when it is time for a probe and nobody waits it is the one
        yield* TestClock.adjust("1 second")
        const probe = yield* start("k", { inOutage: "fail" })
        assert.isTrue(probe.hasStarted())
        assert.deepStrictEqual(
          yield* Fault.classify(yield* refusal("k", { inOutage: "fail" })),
          Fault.rejected("10 seconds")
        )
      }).pipe(steady, withLimits()))

    it.effect("refuses those who wait and do not wait for its end when it begins, and leaves the others", () =>
      Effect.gen(function*() {
        const holder = yield* start()
        const [patient, impatient] = yield* Effect.all([start(), start("k", { inOutage: "fail" })])
        yield* holder.end(overloaded)
        assert.strictEqual(yield* reasonOf(impatient.fiber), "Outage")
        assert.isUndefined(patient.fiber.pollUnsafe())
        assert.deepInclude(yield* stateOf(), { phase: "Out", waiting: 1 })
      }).pipe(withLimits({ ...one, outageAfter: 1 })))

    it.effect("refuses at once who has no time to wait for the next probe", () =>
      Effect.gen(function*() {
        yield* breakIt()
        assert.strictEqual((yield* refusal("k", { maxWait: 999 })).reason, "Outage")
        const late = yield* refusal().pipe(Deadline.within("900 millis"), Effect.forkChild({ startImmediately: true }))
        assert.deepInclude(yield* Fiber.join(late), { reason: "Outage" })
        const call = yield* start("k", { maxWait: 1_001 })
        assert.isUndefined(call.fiber.pollUnsafe())
        yield* TestClock.adjust(1_000)
        yield* settle
        assert.isTrue(call.hasStarted())
      }).pipe(steady, withLimits()))

    it.effect("who has waited for maxWait is told that it is an outage", () =>
      Effect.gen(function*() {
        yield* breakIt()
        const [, second] = yield* Effect.all([start(), start("k", { maxWait: "2 seconds" })])
        yield* TestClock.adjust("2 seconds")
        assert.strictEqual(yield* reasonOf(second.fiber), "Outage")
      }).pipe(steady, withLimits()))

    it.effect("has a longer queue of its own", () =>
      Effect.gen(function*() {
        yield* breakIt()
        yield* startMany(3)
        assert.strictEqual((yield* refusal()).reason, "QueueFull")
        assert.strictEqual((yield* stateOf()).waiting, 3)
      }).pipe(withLimits({ initial: 1, maxQueue: 1, maxQueueInOutage: 3 })))
  })

  describe("telemetry", () => {
    it.effect("tells of limits, waits, refusals and outages", () =>
      Effect.gen(function*() {
        const events: Array<Telemetry.Event> = []
        yield* Effect.gen(function*() {
          const [first, second] = yield* Effect.all([start(), start()])
          yield* Effect.exit(Effect.void.pipe(AdaptiveLimit.withLimit("k", { maxWait: 0 })))
          yield* TestClock.adjust("1 second")
          yield* first.end()
          yield* second.end(overloaded)
          yield* run(reset)
          yield* run(reset, "k", { inOutage: "fail" })
          yield* TestClock.adjust("1 second")
          yield* run()
        }).pipe(Effect.provideService(Telemetry.Listener, (event) => events.push(event)))
        assert.deepStrictEqual(events, [
          { _tag: "LimitRejected", key: "k", reason: "WaitTooLong", waitedMillis: 0 },
          { _tag: "LimitChanged", key: "k", from: 1, to: 2, reason: "Used" },
          { _tag: "LimitWaited", key: "k", waitedMillis: 1_000 },
          { _tag: "LimitChanged", key: "k", from: 2, to: 1, reason: "Overloaded" },
          { _tag: "OutageBegan", key: "k", failures: 2 },
          { _tag: "LimitRejected", key: "k", reason: "Outage", waitedMillis: 0 },
          { _tag: "OutageEnded", key: "k", afterMillis: 1_000, probes: 1 },
          { _tag: "LimitChanged", key: "k", from: 1, to: 2, reason: "Recovering" }
        ])
      }).pipe(steady, withLimits({ initial: 1, outageAfter: 2 })))
  })

  describe("options", () => {
    it.effect("out of range, they are named, with the key", () =>
      Effect.gen(function*() {
        const wrong: ReadonlyArray<readonly [AdaptiveLimit.Options, string]> = [
          [{ min: 0 }, "min"],
          [{ min: 5, max: 4 }, "min"],
          [{ initial: 5, max: 4 }, "initial"],
          [{ initial: 1, min: 2 }, "initial"],
          [{ max: 1.5 }, "max"],
          [{ latencyTolerance: 1 }, "latencyTolerance"],
          [{ outageAfter: 0 }, "outageAfter"],
          [{ probeInterval: 0 }, "probeInterval"],
          [{ probeInterval: "2 seconds", maxProbeInterval: "1 second" }, "maxProbeInterval"],
          [{ probeTimeout: 0 }, "probeTimeout"],
          [{ maxRetryAfter: Infinity }, "maxRetryAfter"],
          [{ maxQueue: -1 }, "maxQueue"],
          [{ maxQueueInOutage: 0.5 }, "maxQueueInOutage"],
          [{ maxWait: Infinity }, "maxWait"],
          [{ maxKeys: 0 }, "maxKeys"],
          [{ idleTimeToLive: 0 }, "idleTimeToLive"],
          [{ keys: { a: { max: 0 } } }, "keys[\"a\"].max"]
        ]
        for (const [options, option] of wrong) {
          invalid(option)(yield* Effect.exit(AdaptiveLimit.make(options)))
        }
        assert.throws(() => AdaptiveLimit.withLimit("k", { min: 0 }), Fault.InvalidConfig)
        assert.throws(() => AdaptiveLimit.withLimit(Effect.void, "k", { min: 0 }), Fault.InvalidConfig)
        assert.throws(() => AdaptiveLimit.withLimit("k", { inOutage: "hope" as "wait" }), Fault.InvalidConfig)
        assert.throws(() => AdaptiveLimit.withLimit(""), Fault.InvalidConfig)
        const none = JSON.parse("null")
        assert.throws(() => AdaptiveLimit.withLimit("k", none), Fault.InvalidConfig)
        invalid("keys[\"a\"]")(yield* Effect.exit(AdaptiveLimit.make({ keys: { a: none } })))
      }))

    it.effect("of which one is set, the others follow", () =>
      Effect.gen(function*() {
        const first = (options: AdaptiveLimit.Options) =>
          Effect.flatMap(AdaptiveLimit.make(options), (service) => service.state("k")).pipe(
            Effect.map(({ limit }) => limit)
          )
        assert.strictEqual(yield* first({ max: 3 }), 3)
        assert.strictEqual(yield* first({ min: 30 }), 30)
        assert.strictEqual(yield* first({ min: 300 }), 300)
        assert.strictEqual(yield* first({ initial: 300 }), 300)
        assert.strictEqual(yield* first({ max: 3, keys: { k: { initial: 2 } } }), 2)
        yield* AdaptiveLimit.make({ probeInterval: "1 minute" })
        yield* AdaptiveLimit.make({ maxProbeInterval: "10 millis" })
      }))

    it.effect("a key configured by name takes nothing of callers but what is their own", () =>
      Effect.gen(function*() {
        yield* withLogs((logs) =>
          Effect.gen(function*() {
            yield* start("named", { initial: 5, max: 6 })
            assert.strictEqual(yield* limitOf("named"), 1)
            assert.strictEqual((yield* refusal("named", { maxWait: 0 })).reason, "WaitTooLong")
            assert.deepStrictEqual(logs, [])
          })
        )
      }).pipe(withLimits({ keys: { named: one } })))

    it.effect("those of the first caller who speaks of the key hold, and others are told once", () =>
      Effect.gen(function*() {
        yield* withLogs((logs) =>
          Effect.gen(function*() {
            yield* run(Effect.void, "k", { maxWait: "1 second" })
            assert.strictEqual(yield* limitOf(), 10)
            yield* run(Effect.void, "k", { initial: 3, max: 4 })
            assert.strictEqual(yield* limitOf(), 3)
            yield* run(Effect.void, "k", { initial: 3, max: 4 })
            yield* run()
            yield* run(Effect.void, "k", { inOutage: "fail" })
            assert.deepStrictEqual(logs, [])
            yield* run(Effect.void, "k", { initial: 3, max: 5, outageAfter: 2 })
            yield* run(Effect.void, "k", { initial: 3, max: 6 })
            assert.strictEqual(yield* limitOf(), 3)
            assert.deepStrictEqual(logs, [
              "Warn: AdaptiveLimit \"k\" keeps the options of its first caller; those of another one differ in max, " +
              "outageAfter and do nothing: configure the key in the layer (\"keys\"), or use another key"
            ])
          })
        )
      }).pipe(withLimits()))

    it.effect("forgets keys that nobody uses, and no others", () =>
      Effect.gen(function*() {
        const held = yield* start("held")
        yield* run(Effect.void, "idle")
        yield* TestClock.adjust("2 hours")
        yield* run(Effect.void, "new")
        const keys = Effect.map(limits.use((service) => service.states), (all) => all.map(({ key }) => key))
        assert.deepStrictEqual(yield* keys, ["held", "new"])
        yield* held.end()
      }).pipe(withLimits()))

    it.effect("remembers as many keys as it may, and those in use beyond that", () =>
      Effect.gen(function*() {
        const engine = new Engine(new ServiceSettings({ maxKeys: 10 }))
        const context = yield* Effect.context()
        const busy = Array.from({ length: 12 }, (_, i) => engine.enter(`busy ${i}`, undefined, undefined, 0, context))
        for (let i = 0; i < 1_000; i++) {
          engine.end(engine.enter(`key ${i}`, undefined, undefined, i, context), { _tag: "Success" }, i, context)
        }
        assert.isAtMost(engine.size, 16)
        assert.deepStrictEqual(
          busy.map(({ limited: { key } }) => engine.snapshot(key, 1_000).running),
          busy.map(() => 1)
        )
      }))

    it.effect("layerNoop starts everything", () =>
      Effect.gen(function*() {
        const calls = yield* startMany(50)
        assert.deepStrictEqual(started(calls), calls.map(() => true))
        assert.strictEqual(yield* limitOf(), Infinity)
        assert.deepStrictEqual(yield* limits.use((service) => service.states), [])
      }).pipe(Effect.provide(AdaptiveLimit.layerNoop)))
  })

  describe("interruption", () => {
    const idle = (service: Service) => () =>
      Effect.gen(function*() {
        assert.deepInclude(yield* service.state("k"), { running: 0, waiting: 0, givenUp: 0 })
        assert.strictEqual(yield* Effect.succeed("free").pipe(service.withLimit("k")), "free")
      })

    const second = Effect.sleep("1 second")

    it.effect("leaks nothing at whatever step a call is interrupted that need not wait", () =>
      Effect.gen(function*() {
        const runs = yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* AdaptiveLimit.make({ ...one, maxQueue: 0 })
            return {
              effect: Effect.andThen(AdaptiveLimit.firstToken, second).pipe(service.withLimit("k")),
              check: idle(service)
            }
          })
        })
        assert.isAbove(runs, 20)
      }))

    it.effect("leaks nothing at whatever step a call is interrupted that has to wait", () =>
      Effect.gen(function*() {
        const runs = yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* AdaptiveLimit.make(one)
            const holder = yield* Effect.forkScoped(second.pipe(service.withLimit("k")), { startImmediately: true })
            return {
              effect: second.pipe(service.withLimit("k")),
              sleepsLeft: 1,
              check: () => Effect.andThen(Fiber.interrupt(holder), idle(service)())
            }
          })
        })
        assert.isAbove(runs, 40)
      }))

    it.effect("leaks nothing at whatever step a call is interrupted whose wait ends in a refusal", () =>
      Effect.gen(function*() {
        yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* AdaptiveLimit.make({ ...one, maxWait: "1 second" })
            const holder = yield* Effect.forkScoped(Effect.never.pipe(service.withLimit("k")), {
              startImmediately: true
            })
            return {
              effect: Effect.flip(Effect.void.pipe(service.withLimit("k"))),
              check: () => Effect.andThen(Fiber.interrupt(holder), idle(service)())
            }
          })
        })
      }))

    it.effect("leaks neither slot nor timer nor probe at whatever step a probe is interrupted", () =>
      Effect.gen(function*() {
        const runs = yield* interruptEverywhere({
          arrange: Effect.gen(function*() {
            const service = yield* AdaptiveLimit.make({ outageAfter: 1, probeTimeout: "500 millis" })
            yield* Effect.exit(service.withLimit("k")(failing(Fault.overloaded())))
            return {
              effect: Effect.all([second, second, second].map(service.withLimit("k")), { concurrency: 3 }),
              check: () =>
                Effect.gen(function*() {
                  assert.deepInclude(yield* service.state("k"), { running: 0, waiting: 0, givenUp: 0 })
                  // Whatever was interrupted, the next probe is sent in time.
                  const probe = yield* Effect.forkChild(service.withLimit("k")(Effect.succeed("probe")), {
                    startImmediately: true
                  })
                  yield* TestClock.adjust("20 seconds")
                  assert.strictEqual(yield* Fiber.join(probe), "probe")
                })
            }
          })
        })
        assert.isAbove(runs, 60)
      }))

    it.effect("frees the slot or the place for every way of cancelling", () =>
      Effect.gen(function*() {
        yield* everyCancelSource({
          arrange: Effect.gen(function*() {
            const service = yield* AdaptiveLimit.make(one)
            return { effect: Effect.never.pipe(service.withLimit("k")), check: idle(service) }
          })
        })
        yield* everyCancelSource({
          arrange: Effect.gen(function*() {
            const service = yield* AdaptiveLimit.make({ outageAfter: 1, probeInterval: "1 second" })
            yield* Effect.exit(service.withLimit("k")(failing(Fault.overloaded())))
            return {
              effect: Effect.never.pipe(service.withLimit("k")),
              check: () =>
                Effect.gen(function*() {
                  assert.deepInclude(yield* service.state("k"), { phase: "Out", running: 0, waiting: 0 })
                })
            }
          })
        })
      }))
  })
})
