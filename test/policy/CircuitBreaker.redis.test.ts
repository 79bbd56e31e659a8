import { NodeRedis } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import {
  Cause,
  Context,
  Deferred,
  Duration,
  Effect,
  Exit,
  Fiber,
  Latch,
  Layer,
  Schedule,
  Schema,
  Scope,
  Stream
} from "effect"
import { CircuitBreaker, Fault, Telemetry } from "effect-resilience"
import { Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { Callers } from "../../src/policy/internal/circuitRedisCallers.ts"
import { ServiceSettings } from "../../src/policy/internal/circuitSettings.ts"
import { interruptEverywhere } from "../support/interruptEverywhere.ts"
import { withLogs } from "../support/logs.ts"
import { connectRedis, describeWithRedis, keysOf, redisPrefix } from "../support/redis.ts"
import { redisProxy } from "../support/redisProxy.ts"
import { runs } from "../support/runs.ts"

type RedisService = Redis.Redis["Service"]
type Service = CircuitBreaker.CircuitBreaker["Service"]

class Told extends Schema.TaggedError<Told>()("Told", { verdict: Fault.Verdict }) {
  get [Fault.verdictOf](): Fault.Verdict {
    return this.verdict
  }
}

const fail = (verdict: Fault.Verdict) => Effect.fail(new Told({ verdict }))
const down = fail(Fault.transient)
const ok = Effect.succeed("ok")

/** A breaker on a connection, as one process has it. */
const serviceOn = (redis: RedisService, options: CircuitBreaker.RedisOptions) =>
  Effect.map(
    Layer.build(CircuitBreaker.layerRedis(options).pipe(Layer.provide(Layer.succeed(Redis.Redis, redis)))),
    Context.get(CircuitBreaker.CircuitBreaker)
  )

/** What stands for two processes: two connections, two services, one prefix. */
const twoProcesses = (options: CircuitBreaker.RedisOptions = {}) =>
  Effect.gen(function*() {
    const prefix = yield* redisPrefix
    const redis = yield* connectRedis()
    const one = yield* serviceOn(redis, { prefix, ...options })
    const two = yield* serviceOn(yield* connectRedis(), { prefix, ...options })
    return { one, two, prefix, redis }
  })

const call = <A, E>(service: Service, self: Effect.Effect<A, E>, key = "k") => Effect.exit(service.protect(key)(self))

const times = <A, E>(n: number, self: Effect.Effect<A, E>) => Effect.replicateEffect(self, n, { discard: true })

/** The error with which a circuit refuses a call; a defect if it does not. */
const refusal = (service: Service, key = "k") =>
  Effect.flip(
    Effect.andThen(service.protect(key)(Effect.void), () => Effect.die(`the circuit of ${key} let a call through`))
  )

/** A call that runs until `end` is given, and then ends like it. */
const start = (service: Service, key = "k") =>
  Effect.gen(function*() {
    const gate = yield* Deferred.make<Effect.Effect<unknown, unknown>>()
    const running = yield* Deferred.make<void>()
    const fiber = yield* Effect.andThen(Deferred.succeed(running, undefined), Effect.flatten(Deferred.await(gate)))
      .pipe(
        service.protect(key),
        Effect.exit,
        Effect.forkScoped({ startImmediately: true })
      )
    yield* Effect.raceFirst(Deferred.await(running), Fiber.await(fiber))
    return {
      fiber,
      end: (end: Effect.Effect<unknown, unknown>) => Effect.andThen(Deferred.succeed(gate, end), Fiber.join(fiber)),
      interrupt: Fiber.interrupt(fiber)
    }
  })

const until = <A>(look: Effect.Effect<A>, holds: (value: A) => boolean) => Effect.repeat(look, { until: holds })

/** Waits for the end of an open time, which the clock of the Redis server decides. */
const openTimeOver = (service: Service, key = "k") =>
  until(service.state(key), (state) => state._tag === "Open" && Duration.toMillis(state.retryAfter) === 0)

const tagOf = (service: Service, key = "k") => Effect.map(service.state(key), (state) => state._tag)

const quick: CircuitBreaker.RedisOptions = { trip: CircuitBreaker.consecutive(1), openFor: "5 millis" }
const slow: CircuitBreaker.RedisOptions = { trip: CircuitBreaker.consecutive(1), openFor: "1 minute" }

/** What a service's transitions are from now on. */
const watch = (service: Service) =>
  Effect.gen(function*() {
    const seen: Array<string> = []
    yield* service.transitions.pipe(
      Stream.runForEach(({ from, key, to }) => Effect.sync(() => seen.push(`${key}: ${from} -> ${to}`))),
      Effect.forkScoped({ startImmediately: true })
    )
    return Effect.as(Effect.yieldNow, seen)
  })

/**
 * A connection that can be made to fail, to hang, or to carry out what it is asked and keep the answer back, from the
 * operation `slowFrom` on, until `answer` is opened. `asked` counts the operations, and the one numbered `failing` fails.
 */
const unreliable = (redis: RedisService) => {
  const line = {
    mode: "up" as "up" | "down" | "hanging" | "slow",
    asked: 0,
    slowFrom: 0,
    failing: -1,
    answer: Latch.makeUnsafe(),
    /** With it a connection that hangs is lost at last: until then, the layer does not close its driver. */
    lost: Latch.makeUnsafe()
  }
  const through = <A, E>(self: Effect.Effect<A, E>): Effect.Effect<A, E | Redis.RedisError> =>
    Effect.suspend((): Effect.Effect<A, E | Redis.RedisError> => {
      line.asked++
      if (line.asked === line.failing) return Effect.fail(new Redis.RedisError({ cause: new Error("hiccup") }))
      switch (line.mode) {
        case "up":
          return self
        case "down":
          return Effect.fail(new Redis.RedisError({ cause: new Error("connection lost") }))
        case "hanging":
          return Effect.andThen(line.lost.await, Effect.fail(new Redis.RedisError({ cause: new Error("lost") })))
        case "slow":
          return line.asked < line.slowFrom ? self : Effect.tap(self, () => line.answer.await)
      }
    })
  const service = Redis.Redis.of({
    ...redis,
    send: (command, ...args) => through(redis.send(command, ...args)),
    eval: (script) => {
      const run = redis.eval(script)
      return (...params) => through(run(...params))
    }
  })
  return { line, service }
}

/** One process whose connection fails on command, and another whose connection is sound. */
const unreliableProcess = (options: CircuitBreaker.RedisOptions) =>
  Effect.gen(function*() {
    const prefix = yield* redisPrefix
    const { line, service } = unreliable(yield* connectRedis())
    const one = yield* serviceOn(service, { prefix, ...options })
    const two = yield* serviceOn(yield* connectRedis(), { prefix, ...options })
    // The scripts are loaded, so that what follows is one operation each.
    yield* call(one, ok, "warm-up")
    yield* Effect.addFinalizer(() => Effect.andThen(line.lost.open, line.answer.open))
    return { line, one, two, prefix }
  })

describeWithRedis("CircuitBreaker.layerRedis", () => {
  it.effect("one process trips, the other refuses with the remaining time", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses({ openFor: "1 minute" })
      yield* times(4, call(one, down))
      assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
      yield* times(2, call(one, down))
      yield* times(3, call(two, down))
      const error = yield* refusal(one)
      assert.instanceOf(error, CircuitBreaker.CircuitOpen)
      assert.deepStrictEqual([error.key, error.state], ["k", "Open"])
      const left = Duration.toMillis(error.retryAfter ?? Duration.zero)
      assert.isTrue(left > 50_000 && left <= 60_000, `${left}`)
      assert.deepStrictEqual(Fault.classifyIn(Context.empty(), error), Fault.rejected(error.retryAfter))
      for (const service of [one, two]) {
        const state = yield* service.state("k")
        assert.isTrue(state._tag === "Open" && state.openings === 1)
        assert.strictEqual((yield* Effect.flip(service.check("k"))).state, "Open")
      }
    }))

  it.effect("two keys never touch each other, nor two prefixes", () =>
    Effect.gen(function*() {
      const { one, prefix, redis, two } = yield* twoProcesses(slow)
      yield* call(one, down, "a")
      assert.strictEqual(yield* tagOf(two, "a"), "Open")
      assert.deepStrictEqual(yield* call(two, ok, "b"), Exit.succeed("ok"))
      const stranger = yield* serviceOn(redis, { ...slow, prefix: `${prefix}stranger:` })
      assert.deepStrictEqual(yield* call(stranger, ok, "a"), Exit.succeed("ok"))
    }))

  it.effect("of many callers in all processes exactly one probe runs, and its success closes for all", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses({ ...quick, probeTimeout: "1 minute", probeLease: "10 seconds" })
      yield* call(one, down)
      yield* openTimeOver(two)
      const calls = yield* Effect.forEach(
        Array.from({ length: 20 }, (_, i) => i % 2 === 0 ? one : two),
        (service) => start(service),
        { concurrency: "unbounded" }
      )
      const refused = calls.filter(({ fiber }) => fiber.pollUnsafe() !== undefined)
      assert.strictEqual(refused.length, 19)
      assert.deepStrictEqual(yield* two.state("k"), {
        _tag: "HalfOpen",
        key: "k",
        probes: 1,
        successes: 0,
        failures: 0,
        openings: 1
      })
      const error = yield* refusal(two)
      assert.deepStrictEqual([error.state, error.retryAfter], ["HalfOpen", Duration.seconds(70)])
      assert.strictEqual((yield* Effect.flip(one.check("k"))).state, "HalfOpen")
      yield* Effect.forEach(calls, ({ end }) => end(ok))
      assert.deepStrictEqual(yield* one.state("k"), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
      assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
    }))

  it.effect("a failed probe opens the circuit again, and a schedule of open times grows over both processes", () =>
    Effect.gen(function*() {
      const counts: Array<number> = []
      const openFor = Schedule.identity<CircuitBreaker.Opening>().pipe(
        Schedule.modifyDelay(({ input }) => {
          counts.push(input.count)
          return Effect.succeed(Duration.millis(input.count === 1 ? 1 : 60_000 * input.count))
        })
      )
      const { one, two } = yield* twoProcesses({ ...quick, openFor })
      yield* call(one, down)
      yield* openTimeOver(two)
      yield* call(two, down)
      const state = yield* one.state("k")
      assert.isTrue(state._tag === "Open" && state.openings === 2)
      assert.isTrue(state._tag === "Open" && Duration.toMillis(state.retryAfter) > 110_000)
      assert.deepStrictEqual(counts, [1, 1, 2])
    }))

  it.effect("a call started before a trip that ends after it changes nothing, in no state", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses(quick)
      const early = yield* Effect.replicateEffect(start(two), 4)
      yield* call(one, down)
      yield* early[0]?.end(ok) ?? Effect.die("none")
      assert.strictEqual(yield* tagOf(one), "Open")
      yield* openTimeOver(one)
      const probe = yield* start(one)
      yield* early[1]?.end(down) ?? Effect.die("none")
      yield* early[2]?.end(ok) ?? Effect.die("none")
      assert.strictEqual(yield* tagOf(one), "HalfOpen")
      yield* probe.end(ok)
      yield* early[3]?.end(down) ?? Effect.die("none")
      assert.strictEqual(yield* tagOf(two), "Closed")
    }))

  it.effect("a rate counts the calls of all processes, from the minimum volume on", () =>
    Effect.gen(function*() {
      const trip = CircuitBreaker.rate({ threshold: 0.5, size: 10, minimumCalls: 4 })
      const { one, two } = yield* twoProcesses({ trip })
      yield* call(one, down)
      yield* call(two, ok)
      yield* call(one, down)
      assert.strictEqual(yield* tagOf(two), "Closed")
      // A success can be the call that makes the volume.
      yield* call(two, ok)
      assert.strictEqual(yield* tagOf(one), "Open")
      yield* times(10, call(one, ok, "sound"))
      assert.strictEqual(yield* tagOf(one, "sound"), "Closed")
    }))

  it.effect("a Retry-After lengthens the open time up to maxOpenFor, and never shortens it", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses({ ...slow, maxOpenFor: "10 minutes" })
      const openedFor = (key: string, retryAfter: Duration.Input) =>
        Effect.gen(function*() {
          yield* call(one, fail(Fault.overloaded(retryAfter)), key)
          const state = yield* two.state(key)
          return state._tag === "Open" ? Math.ceil(Duration.toMillis(state.retryAfter) / 10_000) * 10 : 0
        })
      assert.deepStrictEqual(
        [yield* openedFor("longer", "5 minutes"), yield* openedFor("too long", "1 hour"), yield* openedFor("short", 1)],
        [300, 600, 60]
      )
    }))

  it.effect("verdicts that do not count, interruption and our own rejections change nothing; a defect counts", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses({ trip: CircuitBreaker.consecutive(2) })
      yield* call(one, down)
      for (const verdict of [Fault.throttled("1 minute"), Fault.permanent, Fault.rejected(), Fault.ambiguous]) {
        if (!Fault.countsAsFailure(verdict)) yield* call(two, fail(verdict))
      }
      const running = yield* start(two)
      yield* running.interrupt
      assert.strictEqual(yield* tagOf(one), "Closed")
      yield* call(two, Effect.die("a bug"))
      assert.strictEqual(yield* tagOf(one), "Open")
    }))

  it.effect("what counts is the layer's to say, for single keys too", () =>
    Effect.gen(function*() {
      const { one } = yield* twoProcesses({
        ...slow,
        keys: { strict: { countsAsFailure: () => true }, lenient: { countsAsFailure: () => false } }
      })
      yield* call(one, fail(Fault.permanent), "strict")
      yield* call(one, down, "lenient")
      assert.deepStrictEqual([yield* tagOf(one, "strict"), yield* tagOf(one, "lenient")], ["Open", "Closed"])
    }))

  it.effect("a probe that is ignored frees its slot and neither opens nor closes, also when the classifier dies", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses({
        ...quick,
        keys: {
          broken: {
            ...quick,
            countsAsFailure: (_, error) => {
              if (error === "unheard of") throw new Error("no idea")
              return true
            }
          }
        }
      })
      for (const key of ["k", "broken"]) {
        yield* call(one, down, key)
        yield* openTimeOver(one, key)
      }
      yield* call(one, fail(Fault.permanent))
      const exit = yield* call(one, Effect.fail("unheard of"), "broken")
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      for (const key of ["k", "broken"]) {
        const state = yield* two.state(key)
        assert.isTrue(state._tag === "HalfOpen" && state.probes === 0, state._tag)
        assert.deepStrictEqual(yield* call(two, ok, key), Exit.succeed("ok"))
        assert.strictEqual(yield* tagOf(one, key), "Closed")
      }
    }))

  it.effect("a probe that never returns stops blocking after probeTimeout, and its late answer is dropped", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses({ ...quick, probeTimeout: "1 minute", probeLease: "1 hour" })
      yield* call(one, down)
      yield* openTimeOver(one)
      const hanging = yield* start(one)
      yield* TestClock.adjust(59_999)
      assert.strictEqual((yield* refusal(two)).state, "HalfOpen")
      yield* TestClock.adjust(1)
      yield* until(two.state("k"), (state) => state._tag === "HalfOpen" && state.probes === 0)
      yield* hanging.end(ok)
      assert.strictEqual(yield* tagOf(two), "HalfOpen")
      yield* call(two, ok)
      assert.strictEqual(yield* tagOf(one), "Closed")
    }))

  it.effect("the probe of a process that died stops blocking when its lease is over, and its late answer is dropped", () =>
    Effect.gen(function*() {
      // The virtual clock stands still, so that nobody renews the lease: the process is as good as dead.
      const { one, two } = yield* twoProcesses({ ...quick, probeLease: "20 millis" })
      yield* call(one, down)
      yield* openTimeOver(one)
      const dead = yield* start(one)
      yield* until(two.state("k"), (state) => state._tag === "HalfOpen" && state.probes === 0)
      const probe = yield* start(two)
      yield* dead.end(down)
      assert.strictEqual(yield* tagOf(one), "HalfOpen")
      yield* probe.end(ok)
      assert.strictEqual(yield* tagOf(one), "Closed")
    }))

  it.effect("an interrupted probe frees its slot before the interruption is over", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses(quick)
      yield* call(one, down)
      yield* openTimeOver(one)
      const probe = yield* start(one)
      yield* probe.interrupt
      const state = yield* two.state("k")
      assert.isTrue(state._tag === "HalfOpen" && state.probes === 0)
    }))

  it.effect("interrupted at any step, a call leaves no probe, no fiber and no timer", () =>
    Effect.gen(function*() {
      const { prefix, redis, two } = yield* twoProcesses({ ...quick, openFor: "1 millis" })
      let run = 0
      const steps = yield* interruptEverywhere({
        moments: runs(0, 1) === 1 ? ["during", "before"] : ["during"],
        arrange: Effect.gen(function*() {
          const key = `run ${run++}`
          yield* call(two, down, key)
          yield* openTimeOver(two, key)
          const one = yield* serviceOn(redis, { ...quick, prefix, probeLease: "1 hour" })
          return {
            effect: one.protect(key)(Effect.andThen(Effect.yieldNow, ok)),
            drive: Effect.never,
            // The fiber that asks for a caller who has gone gives back what it gets, on its own.
            sleepsLeft: 2,
            check: () =>
              Effect.gen(function*() {
                // A probe that leaked would refuse every other for an hour.
                yield* until(call(two, ok, key), Exit.isSuccess)
                assert.strictEqual(yield* tagOf(two, key), "Closed")
              })
          }
        })
      })
      assert.isAbove(steps, 100)
    }))

  it.effect("transitions and the listener tell what this process caused, and only that", () =>
    Effect.gen(function*() {
      const events: Array<Telemetry.Event> = []
      const listening = Effect.provideService(Telemetry.Listener, (event) => events.push(event))
      const { one, two } = yield* twoProcesses({ ...quick, keys: { long: slow } })
      const [seenByOne, seenByTwo] = [yield* watch(one), yield* watch(two)]
      yield* call(one, down, "long")
      yield* listening(refusal(two, "long"))
      yield* call(one, down)
      yield* openTimeOver(two)
      yield* listening(call(two, ok))
      assert.deepStrictEqual(yield* seenByOne, ["long: Closed -> Open", "k: Closed -> Open"])
      assert.deepStrictEqual(yield* seenByTwo, ["k: Open -> HalfOpen", "k: HalfOpen -> Closed"])
      assert.deepStrictEqual(
        events.map((event) => event._tag === "CircuitChanged" ? `${event.from} -> ${event.to}` : event._tag),
        ["CircuitRejected", "Open -> HalfOpen", "HalfOpen -> Closed"]
      )
    }))

  it.effect("transitions end with the service", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      const scope = yield* Scope.make()
      const service = yield* Scope.provide(serviceOn(redis, { ...slow, prefix }), scope)
      const all = yield* Effect.forkChild(Stream.runCollect(service.transitions), { startImmediately: true })
      yield* call(service, down)
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* Fiber.join(all), [{ key: "k", from: "Closed", to: "Open" }])
    }))

  it.effect("a reset closes for all processes, and drops the outcomes of calls that were running", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses(slow)
      const seen = yield* watch(two)
      const early = yield* start(one)
      yield* call(one, down)
      yield* two.reset("k")
      assert.strictEqual(yield* tagOf(one), "Closed")
      yield* early.end(down)
      assert.strictEqual(yield* tagOf(one), "Closed")
      const running = yield* start(one)
      yield* two.reset("k")
      assert.deepStrictEqual(yield* call(one, ok), Exit.succeed("ok"))
      yield* running.end(down)
      assert.strictEqual(yield* tagOf(one), "Closed")
      assert.deepStrictEqual(yield* seen, ["k: Open -> Closed"])
    }))

  it.effect("a hold refuses in every process until all holds are released, and releasing twice does nothing", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses(slow)
      const [seenByOne, seenByTwo] = [yield* watch(one), yield* watch(two)]
      const first = yield* one.isolate("k")
      const second = yield* one.isolate("k")
      const third = yield* two.isolate("k")
      for (const service of [one, two]) {
        assert.deepStrictEqual(yield* service.state("k"), { _tag: "Isolated", key: "k", holders: 3 })
        const error = yield* refusal(service)
        assert.deepStrictEqual([error.state, error.retryAfter], ["Isolated", undefined])
        assert.strictEqual((yield* Effect.flip(service.check("k"))).state, "Isolated")
      }
      yield* first.release
      yield* first.release
      yield* third.release
      assert.strictEqual((yield* refusal(two)).state, "Isolated")
      yield* second.release
      assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
      assert.deepStrictEqual(yield* seenByOne, ["k: Closed -> Isolated", "k: Isolated -> Closed"])
      assert.deepStrictEqual(yield* seenByTwo, [])
    }))

  it.effect("a hold leaves the state below it as it is, and a reset leaves the hold", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses(slow)
      yield* call(one, down)
      const hold = yield* two.isolate("k")
      yield* hold.release
      assert.strictEqual(yield* tagOf(one), "Open")
      const again = yield* two.isolate("k")
      yield* one.reset("k")
      assert.strictEqual(yield* tagOf(one), "Isolated")
      yield* again.release
      assert.strictEqual(yield* tagOf(one), "Closed")
    }))

  it.effect("a hold is renewed while its process lives, ends with its service, and runs out when the process dies", () =>
    Effect.gen(function*() {
      const { prefix, redis, two } = yield* twoProcesses(slow)
      const scope = yield* Scope.make()
      const one = yield* Scope.provide(serviceOn(redis, { ...slow, prefix, holdLease: "2 hours" }), scope)
      yield* one.isolate("alive")
      yield* redis.send("DEL", `${prefix}holds:alive`)
      assert.strictEqual(yield* tagOf(two, "alive"), "Closed")
      assert.strictEqual((yield* refusal(one, "alive")).state, "Isolated")
      yield* TestClock.adjust("40 minutes")
      yield* until(tagOf(two, "alive"), (tag) => tag === "Isolated")
      yield* Scope.close(scope, Exit.void)
      assert.deepStrictEqual(yield* call(two, ok, "alive"), Exit.succeed("ok"))
      // The virtual clock stands still from here on: nobody renews.
      const mortal = yield* serviceOn(redis, { ...slow, prefix, holdLease: "20 millis" })
      yield* mortal.isolate("dead")
      yield* until(tagOf(two, "dead"), (tag) => tag === "Closed")
    }))

  it.effect("states tells of every key of every process, also under a prefix that looks like a pattern", () =>
    Effect.gen(function*() {
      const own = yield* redisPrefix
      const prefix = `${own}a*[b]?\\:`
      const one = yield* serviceOn(yield* connectRedis(), { ...slow, prefix })
      const two = yield* serviceOn(yield* connectRedis(), { ...slow, prefix })
      const stranger = yield* serviceOn(yield* connectRedis(), { ...slow, prefix: `${own}axbx:` })
      yield* call(stranger, down, "strange")
      yield* call(one, down, "open")
      yield* call(one, ok, "state:odd")
      yield* one.isolate("held")
      const states = yield* two.states
      assert.deepStrictEqual(
        states.map(({ _tag, key }) => `${key}: ${_tag}`).toSorted(),
        ["held: Isolated", "open: Open", "state:odd: Closed"]
      )
    }))

  it.effect("check and state change nothing: an open circuit whose time is over stays open", () =>
    Effect.gen(function*() {
      const { one, prefix, redis } = yield* twoProcesses(quick)
      yield* one.check("unknown")
      assert.deepStrictEqual(yield* one.state("unknown"), { _tag: "Closed", key: "unknown", calls: 0, failures: 0 })
      assert.deepStrictEqual(yield* keysOf(redis, prefix), [])
      yield* call(one, down)
      yield* openTimeOver(one)
      yield* one.check("k")
      assert.strictEqual(yield* tagOf(one), "Open")
    }))

  it.effect("leaves nothing in Redis that has no expiry", () =>
    Effect.gen(function*() {
      const { one, prefix, redis, two } = yield* twoProcesses({
        ...quick,
        idleTimeToLive: "1 minute",
        probeTimeout: "1 minute"
      })
      yield* call(one, ok, "closed")
      yield* call(one, down, "open")
      yield* call(one, down, "probing")
      yield* openTimeOver(two, "probing")
      yield* start(two, "probing")
      yield* one.isolate("held")
      yield* call(one, down, "reopened")
      yield* openTimeOver(two, "reopened")
      yield* call(two, ok, "reopened")
      const keys = yield* keysOf(redis, prefix)
      assert.deepStrictEqual(keys.map((key) => key.slice(prefix.length)), [
        "holds:held",
        "state:closed",
        "state:open",
        "state:probing",
        "state:reopened"
      ])
      for (const key of keys) {
        const left = yield* redis.send<number>("PTTL", key)
        assert.isTrue(left > 0 && left <= 70_000, `${key} expires in ${left}`)
      }
    }))

  it.effect("the options of a call hold for keys that the layer does not name, as far as Redis can follow them", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { one } = yield* twoProcesses({ ...slow, keys: { named: slow } })
        const patient: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.consecutive(2), successThreshold: 3 }
        for (const key of ["named", "k"]) yield* Effect.exit(one.protect(key, patient)(down))
        assert.deepStrictEqual([yield* tagOf(one, "named"), yield* tagOf(one)], ["Open", "Closed"])
        const foreign: CircuitBreaker.CircuitOptions = {
          trip: CircuitBreaker.slowRate({ slowerThan: "1 second" }),
          countsAsFailure: () => false
        }
        yield* Effect.exit(one.protect("other", foreign)(down))
        assert.strictEqual(yield* tagOf(one, "other"), "Closed")
        yield* Effect.exit(one.protect("another", { ...foreign, countsAsFailure: () => true })(down))
        assert.strictEqual(yield* tagOf(one, "another"), "Open")
        assert.deepStrictEqual(logs, [
          "Warn: Circuit \"named\" is shared through Redis, which has no successThreshold: the layer's settings hold",
          "Warn: Circuit \"other\" is shared through Redis, which has no trip: the layer's settings hold",
          "Warn: Circuit \"another\" is shared through Redis, which has no trip: the layer's settings hold"
        ])
      })
    ))

  it.effect("of the callers of a process the first one's options hold, and another one is warned once for each key", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { one, two } = yield* twoProcesses({ keys: { named: {} } })
        const streak: CircuitBreaker.CircuitOptions = { trip: CircuitBreaker.consecutive(4), openFor: "1 minute" }
        const share = () => ({ trip: CircuitBreaker.rate({ size: 10 }), openFor: "1 minute" }) as const
        const alternate = (service: Service, key: string) =>
          Effect.andThen(
            Effect.exit(service.protect(key, streak)(down)),
            Effect.exit(service.protect(key, share())(down))
          )
        yield* Effect.exit(one.protect("k")(down))
        yield* times(5, alternate(one, "k"))
        assert.strictEqual(yield* tagOf(one), "Open")
        yield* times(2, alternate(one, "named"))
        assert.strictEqual(yield* tagOf(one, "named"), "Closed")
        // each process has a first caller of its own
        yield* two.reset("k")
        yield* times(3, Effect.exit(two.protect("k", share())(down)))
        yield* Effect.exit(two.protect("k", { ...share(), openFor: 60_000 })(down))
        assert.strictEqual(yield* tagOf(two), "Closed")
        assert.deepStrictEqual(logs, [
          "Warn: Circuit \"k\" keeps the options of its first caller; those of another one differ in trip and do nothing: " +
          "configure the key in the layer (\"keys\"), or use another key"
        ])
      })
    ))

  it.effect("whose options hold is remembered for the keys used last", () =>
    Effect.sync(() => {
      const callers = new Callers()
      const settings = new ServiceSettings("test", {})
      const first: CircuitBreaker.CircuitOptions = { openFor: 1 }
      const second: CircuitBreaker.CircuitOptions = { openFor: 2 }
      assert.isUndefined(callers.meet("kept", first, settings))
      assert.isUndefined(callers.meet("lost", first, settings))
      for (let i = 0; i < 9_999; i++) {
        callers.meet("kept", undefined, settings)
        callers.meet(`key-${i}`, first, settings)
      }
      assert.isUndefined(callers.meet("lost", second, settings))
      assert.strictEqual(callers.of("lost", first), second)
      assert.isDefined(callers.meet("kept", second, settings))
      assert.strictEqual(callers.of("kept", second), first)
    }))

  it.effect("a held circuit tells of no transition, also when its open time is over", () =>
    Effect.gen(function*() {
      const { one, two } = yield* twoProcesses(quick)
      yield* call(one, down)
      yield* openTimeOver(two)
      const hold = yield* one.isolate("k")
      const [seenByOne, seenByTwo] = [yield* watch(one), yield* watch(two)]
      assert.strictEqual((yield* refusal(two)).state, "Isolated")
      assert.deepStrictEqual(yield* seenByTwo, [])
      yield* hold.release
      assert.deepStrictEqual(yield* seenByOne, ["k: Isolated -> HalfOpen"])
      assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
      assert.deepStrictEqual(yield* seenByTwo, ["k: HalfOpen -> Closed"])
    }))

  it.effect("settings can be changed while running, without losing counts", () =>
    Effect.gen(function*() {
      const { one } = yield* twoProcesses({ trip: CircuitBreaker.consecutive(5), openFor: "1 minute" })
      yield* times(2, call(one, down))
      yield* one.configure({ trip: CircuitBreaker.consecutive(3), openFor: "1 hour" })
      yield* call(one, down)
      const state = yield* one.state("k")
      assert.isTrue(state._tag === "Open" && Duration.toMillis(state.retryAfter) > 3_000_000)
      const exit = yield* Effect.exit(one.configure({ halfOpenPermits: 2 }))
      assert.isTrue(Exit.isFailure(exit) && Cause.hasDies(exit.cause))
      const tooLong = yield* Effect.exit(one.configure({ probeTimeout: "2 hours" }))
      assert.isTrue(Exit.isFailure(tooLong) && Cause.hasDies(tooLong.cause))
    }))

  const wrong: ReadonlyArray<readonly [option: string, options: CircuitBreaker.Options | CircuitBreaker.RedisOptions]> =
    [
      ["trip", { trip: CircuitBreaker.slowRate({ slowerThan: "1 second" }) }],
      ["trip", { trip: CircuitBreaker.any(CircuitBreaker.consecutive(1)) }],
      ["trip", { trip: CircuitBreaker.rate({ size: 10_001 }) }],
      ["keys[\"a\"].trip", { keys: { a: { trip: CircuitBreaker.rateOver({ window: "1 minute" }) } } }],
      ["keys[\"a\"].halfOpenPermits", { keys: { a: { halfOpenPermits: 2 } } }],
      ["successThreshold", { successThreshold: 2 }],
      ["metricsOnly", { metricsOnly: true }],
      ["openFor", { openFor: 0 }],
      ["prefix", { prefix: "" }],
      ["probeLease", { probeLease: 0 }],
      ["holdLease", { holdLease: Infinity }],
      ["idleTimeToLive", { idleTimeToLive: -1 }],
      ["idleTimeToLive", { idleTimeToLive: "4 minutes" }],
      ["idleTimeToLive", { idleTimeToLive: "4 minutes", probeTimeout: 1, keys: { a: { probeTimeout: "5 minutes" } } }],
      ["storeTimeout", { storeTimeout: 0 }]
    ]

  for (const [option, options] of wrong) {
    it.effect(`dies with InvalidConfig when it is built with ${JSON.stringify(options)}`, () =>
      Effect.gen(function*() {
        const redis = yield* connectRedis()
        // A caller without types can give any of these.
        const untyped: object = options
        const exit = yield* Effect.exit(serviceOn(redis, untyped))
        const defects = Exit.isFailure(exit) ? exit.cause.reasons.filter(Cause.isDieReason) : []
        const [error] = defects.map(({ defect }) => defect)
        assert.instanceOf(error, Fault.InvalidConfig)
        assert.deepStrictEqual([error.module, error.option], ["CircuitBreaker", option])
      }))
  }
})

describeWithRedis("CircuitBreaker.layerRedis, Redis being away", () => {
  for (const mode of ["down", "hanging"] as const) {
    it.effect(`"allow" lets calls pass, whatever their circuit says, while Redis is ${mode}`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const { line, one, two } = yield* unreliableProcess({ ...slow, onStoreError: "allow" })
          yield* call(one, down)
          line.mode = mode
          for (let i = 0; i < 3; i++) {
            const fiber = yield* Effect.forkChild(call(one, ok), { startImmediately: true })
            yield* TestClock.adjust("249 millis")
            if (mode === "hanging") assert.isUndefined(fiber.pollUnsafe())
            yield* TestClock.adjust("1 millis")
            assert.deepStrictEqual(yield* Fiber.join(fiber), Exit.succeed("ok"))
          }
          assert.deepStrictEqual(yield* one.state("k"), { _tag: "Closed", key: "k", calls: 0, failures: 0 })
          yield* one.check("k")
          assert.strictEqual(yield* tagOf(two), "Open")
          line.mode = "up"
          yield* TestClock.adjust("1 second")
          assert.strictEqual((yield* refusal(one)).state, "Open")
          assert.deepStrictEqual(logs, [
            "Warn: Redis does not answer: calls run without circuits until it does",
            "Info: Redis answers again: circuits are shared"
          ])
        })
      ))

    it.effect(`"local" goes by circuits of the process while Redis is ${mode}, closed at the start of each outage`, () =>
      withLogs((logs) =>
        Effect.gen(function*() {
          const { line, one, two } = yield* unreliableProcess({
            trip: CircuitBreaker.consecutive(4),
            openFor: "10 minutes"
          })
          const seen = yield* watch(one)
          const bounded = <A, E>(self: Effect.Effect<A, E>) =>
            Effect.gen(function*() {
              const fiber = yield* Effect.forkChild(self, { startImmediately: true })
              yield* TestClock.adjust("250 millis")
              return yield* Fiber.join(fiber)
            })
          line.mode = mode
          for (let i = 0; i < 4; i++) yield* bounded(call(one, down))
          const error = yield* bounded(refusal(one))
          assert.strictEqual(error.state, "Open")
          assert.strictEqual((yield* Effect.flip(bounded(one.check("k")))).state, "Open")
          assert.strictEqual((yield* bounded(one.state("k")))._tag, "Open")
          assert.deepStrictEqual((yield* bounded(one.states)).map(({ _tag, key }) => [key, _tag]), [["k", "Open"]])
          assert.strictEqual(yield* tagOf(two), "Closed")
          line.mode = "up"
          yield* TestClock.adjust("1 second")
          assert.deepStrictEqual(yield* call(one, ok), Exit.succeed("ok"))
          line.mode = mode
          assert.deepStrictEqual(yield* bounded(call(one, ok)), Exit.succeed("ok"))
          assert.deepStrictEqual(yield* seen, ["k: Closed -> Open"])
          assert.deepStrictEqual(logs, [
            "Warn: Redis does not answer: this process goes by circuits of its own until it does",
            "Info: Redis answers again: circuits are shared",
            "Warn: Redis does not answer: this process goes by circuits of its own until it does"
          ])
        })
      ))
  }

  it.effect("a Redis that hangs costs three calls their patience, and then one call a second", () =>
    Effect.gen(function*() {
      const { line, one } = yield* unreliableProcess(slow)
      line.mode = "hanging"
      for (let i = 0; i < 3; i++) {
        const fiber = yield* Effect.forkChild(call(one, ok), { startImmediately: true })
        yield* TestClock.adjust("250 millis")
        yield* Fiber.join(fiber)
      }
      const asked = line.asked
      yield* times(100, call(one, ok))
      yield* times(10, one.check("k"))
      assert.strictEqual(line.asked, asked)
      yield* TestClock.adjust("1 second")
      const fibers = yield* Effect.replicateEffect(Effect.forkChild(call(one, ok), { startImmediately: true }), 10)
      assert.strictEqual(fibers.filter((fiber) => fiber.pollUnsafe() === undefined).length, 1)
      // One call asks for holds and admission.
      assert.strictEqual(line.asked, asked + 2)
    }))

  it.effect("a call whose record is lost ends as it ended, in time", () =>
    Effect.gen(function*() {
      const { line, one, two } = yield* unreliableProcess(slow)
      for (const mode of ["down", "hanging"] as const) {
        line.mode = "up"
        const works = yield* start(one)
        const fails = yield* start(one)
        line.mode = mode
        const ends = yield* Effect.forkChild(Effect.all([works.end(ok), fails.end(down)]), { startImmediately: true })
        yield* TestClock.adjust("250 millis")
        yield* TestClock.adjust("250 millis")
        assert.deepStrictEqual(yield* Fiber.join(ends), [
          Exit.succeed("ok"),
          Exit.fail(new Told({ verdict: Fault.transient }))
        ])
      }
      assert.strictEqual(yield* tagOf(two), "Closed")
    }))

  it.effect("a probe slot that is granted after its caller has gone is given back", () =>
    Effect.gen(function*() {
      const { line, one, two } = yield* unreliableProcess({ ...quick, probeLease: "1 hour" })
      for (const way of ["interrupted", "tired of waiting"]) {
        yield* call(two, down)
        yield* openTimeOver(two)
        line.mode = "slow"
        line.answer = Latch.makeUnsafe()
        // After the holds comes the admission.
        line.slowFrom = line.asked + 2
        const fiber = yield* Effect.forkChild(call(one, ok), { startImmediately: true })
        yield* until(two.state("k"), (state) => state._tag === "HalfOpen" && state.probes === 1)
        if (way === "interrupted") yield* Fiber.interrupt(fiber)
        else yield* TestClock.adjust("250 millis")
        const exit = yield* Fiber.await(fiber)
        assert.strictEqual(Exit.isSuccess(exit), way !== "interrupted")
        line.mode = "up"
        yield* line.answer.open
        yield* until(two.state("k"), (state) => state._tag === "HalfOpen" && state.probes === 0)
        assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
      }
    }))

  it.effect("a probe slot that is granted while the holds cannot be read is given back, and nothing runs past a hold", () =>
    Effect.gen(function*() {
      const { line, one, two } = yield* unreliableProcess({ ...quick, probeLease: "1 hour", onStoreError: "allow" })
      yield* call(two, down)
      yield* openTimeOver(two)
      line.failing = line.asked + 1
      assert.deepStrictEqual(yield* call(one, ok), Exit.succeed("ok"))
      assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
      assert.strictEqual(yield* tagOf(two), "Closed")
      yield* two.isolate("k")
      line.failing = line.asked + 2
      assert.strictEqual((yield* refusal(one)).state, "Isolated")
    }))

  it.effect("the probe of a service that ends is given back when its lease is over", () =>
    Effect.gen(function*() {
      const { prefix, redis, two } = yield* twoProcesses(quick)
      yield* call(two, down)
      yield* openTimeOver(two)
      const scope = yield* Scope.make()
      const one = yield* Scope.provide(serviceOn(redis, { ...quick, prefix, probeLease: "20 millis" }), scope)
      yield* start(one)
      yield* Scope.close(scope, Exit.void)
      // The clock goes on, and nobody renews.
      yield* TestClock.adjust("1 minute")
      yield* until(call(two, ok), Exit.isSuccess)
    }))

  it.effect("a hold taken while Redis is away refuses here at once, and everywhere when Redis is back", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const { line, one, two } = yield* unreliableProcess({ ...slow, onStoreError: "allow" })
        line.mode = "down"
        const hold = yield* one.isolate("k")
        assert.strictEqual((yield* refusal(one)).state, "Isolated")
        assert.deepStrictEqual(yield* one.state("k"), { _tag: "Isolated", key: "k", holders: 1 })
        assert.deepStrictEqual((yield* one.states).map(({ _tag }) => _tag), ["Isolated"])
        assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
        yield* one.reset("k")
        assert.include(logs, "Warn: Redis does not answer: circuit \"k\" is not reset there, try again")
        line.mode = "up"
        yield* TestClock.adjust("10 seconds")
        yield* until(tagOf(two), (tag) => tag === "Isolated")
        yield* hold.release
        assert.deepStrictEqual(yield* call(two, ok), Exit.succeed("ok"))
      })
    ))

  it.effect("a layer is built without asking Redis, and the driver's own layer fails where it cannot connect", () =>
    Effect.gen(function*() {
      const { line, service } = unreliable(yield* connectRedis())
      line.mode = "down"
      const one = yield* serviceOn(service, slow)
      assert.strictEqual(line.asked, 0)
      assert.deepStrictEqual(yield* call(one, ok), Exit.succeed("ok"))
      const nobody = CircuitBreaker.layerRedis().pipe(Layer.provide(NodeRedis.layer({ url: "redis://127.0.0.1:1" })))
      const error = yield* Effect.flip(Layer.build(nobody))
      assert.strictEqual(error._tag, "RedisError")
    }))

  it.effect("a connection that is cut in the middle is an outage, and ends when the driver is back", () =>
    withLogs((logs) =>
      Effect.gen(function*() {
        const prefix = yield* redisPrefix
        const proxy = yield* redisProxy
        const one = yield* serviceOn(yield* connectRedis(proxy.url), { ...slow, prefix })
        const two = yield* serviceOn(yield* connectRedis(), { ...slow, prefix })
        assert.deepStrictEqual(yield* call(one, ok), Exit.succeed("ok"))
        yield* proxy.cut
        // The driver holds back what it is asked while it reconnects, or fails it.
        const during = yield* Effect.forkChild(call(one, ok), { startImmediately: true })
        yield* TestClock.adjust("250 millis")
        assert.deepStrictEqual(yield* Fiber.join(during), Exit.succeed("ok"))
        assert.strictEqual(logs.length, 1)
        yield* proxy.restore
        yield* call(two, down)
        const shared = Effect.gen(function*() {
          const fiber = yield* Effect.forkChild(one.state("k"), { startImmediately: true })
          yield* TestClock.withLive(Effect.sleep("5 millis"))
          yield* TestClock.adjust("1 second")
          return yield* Fiber.join(fiber)
        })
        yield* until(shared, (state) => state._tag === "Open")
        assert.strictEqual((yield* refusal(one)).state, "Open")
        assert.include(logs, "Info: Redis answers again: circuits are shared")
      })
    ))
})

/** What the circuit of one key must do, whichever process asks: the state, and who is still listened to. */
class Model {
  state: "Closed" | "Open" | "HalfOpen" = "Closed"
  streak = 0
  holds = 0
  /** What a running call belongs to: it is listened to for as long as this lasts. */
  era = {}
  probing = false

  begin(limit: { readonly isOver: boolean }, isHeldHere: boolean): "Isolated" | "Open" | "HalfOpen" | object {
    if (this.holds > 0) {
      // A held circuit whose open time is over admits, and takes it back; the process that holds it does not even ask.
      if (!isHeldHere && this.state === "Open" && limit.isOver) this.state = "HalfOpen"
      return "Isolated"
    }
    if (this.state === "Closed") return this.era
    if (this.state === "Open" && !limit.isOver) return "Open"
    if (this.probing) return "HalfOpen"
    this.state = "HalfOpen"
    this.probing = true
    this.era = {}
    return this.era
  }

  end(era: object, how: "success" | "failure" | "ignored", trip: number): void {
    if (era !== this.era) return
    if (this.state === "HalfOpen") {
      this.era = {}
      this.probing = false
      if (how === "ignored") return
      this.state = how === "success" ? "Closed" : "Open"
      this.streak = 0
      return
    }
    if (how === "ignored") return
    this.streak = how === "failure" ? this.streak + 1 : 0
    if (this.streak < trip) return
    this.era = {}
    this.state = "Open"
    this.streak = 0
  }

  reset(): void {
    this.state = "Closed"
    this.streak = 0
    this.probing = false
    this.era = {}
  }
}

const endings = { success: ok, failure: down, ignored: fail(Fault.permanent) }

const Command = Schema.Struct({
  process: Schema.Literals([0, 1]),
  does: Schema.Literals(["begin", "begin", "begin", "end", "end", "interrupt", "time", "reset", "hold", "release"]),
  how: Schema.Literals(["success", "failure", "failure", "ignored"]),
  which: Schema.Int.check(Schema.isBetween({ minimum: 0, maximum: 7 }))
})

describeWithRedis("CircuitBreaker.layerRedis, two processes against a model", () => {
  it.effect.prop(
    "does what the model does, over random calls, ends, interruptions, resets and holds",
    [Schema.Array(Command).check(Schema.isMinLength(10), Schema.isMaxLength(60))],
    ([commands]) =>
      Effect.gen(function*() {
        const trip = 2
        // Only `time` ends an open time: it is an hour, and the model has no clock.
        const options = { trip: CircuitBreaker.consecutive(trip), openFor: "1 hour", probeLease: "1 hour" } as const
        const { one, prefix, redis, two } = yield* twoProcesses(options)
        const model = new Model()
        const limit = { isOver: false }
        const calls: Array<{ readonly era: object; readonly call: Effect.Success<ReturnType<typeof start>> }> = []
        const holds: Array<{ readonly process: number; readonly hold: CircuitBreaker.Hold }> = []
        const take = <A>(list: Array<A>, which: number) => list.splice(which % Math.max(1, list.length), 1)
        for (const { does, how, process, which } of commands) {
          const service = process === 0 ? one : two
          const wasOpen = model.state === "Open"
          switch (does) {
            case "begin": {
              const expected = model.begin(limit, holds.some((held) => held.process === process))
              const begun = yield* start(service)
              const exit = begun.fiber.pollUnsafe()
              if (typeof expected === "object") {
                assert.isUndefined(exit)
                calls.push({ era: expected, call: begun })
              } else {
                const end = exit !== undefined && Exit.isSuccess(exit) ? exit.value : undefined
                const error = end !== undefined && Exit.isFailure(end) ? Cause.squash(end.cause) : undefined
                assert.instanceOf(error, CircuitBreaker.CircuitOpen)
                assert.strictEqual(error.state, expected)
              }
              break
            }
            case "end":
              for (const { call, era } of take(calls, which)) {
                model.end(era, how, trip)
                yield* call.end(endings[how])
              }
              break
            case "interrupt":
              for (const { call, era } of take(calls, which)) {
                model.end(era, "ignored", trip)
                yield* call.interrupt
              }
              break
            case "time":
              if (model.state === "Open") {
                limit.isOver = true
                yield* redis.send("HSET", `${prefix}state:k`, "openUntil", "0")
              }
              break
            case "reset":
              model.reset()
              yield* service.reset("k")
              break
            case "hold":
              model.holds++
              holds.push({ process, hold: yield* service.isolate("k") })
              break
            case "release":
              for (const { hold } of take(holds, which)) {
                model.holds--
                yield* hold.release
              }
          }
          if (model.state === "Open" && !wasOpen) limit.isOver = false
          for (const any of [one, two]) {
            const state = yield* any.state("k")
            assert.strictEqual(state._tag, model.holds > 0 ? "Isolated" : model.state)
            if (state._tag === "HalfOpen") assert.strictEqual(state.probes, model.probing ? 1 : 0)
            if (state._tag === "Isolated") assert.strictEqual(state.holders, model.holds)
          }
        }
      }).pipe(Effect.scoped),
    { arbitrary: { runs: runs(25, 2_000), size: 60, seed: 1 }, timeout: runs(30_000, 1_800_000) }
  )
})
