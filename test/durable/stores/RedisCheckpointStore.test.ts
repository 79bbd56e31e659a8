import { assert, describe, it } from "@effect/vitest"
import { Cause, Clock, Duration, Effect, Exit, Layer, Logger, Option } from "effect"
import { type CheckpointStore, Fault } from "effect-resilience"
import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
import { Redis } from "effect/persistence"
import { TestClock } from "effect/testing"
import { interruptEverywhere } from "../../support/interruptEverywhere.ts"
import { withMessages } from "../../support/logs.ts"
import { connectRedis, describeWithRedis, keysOf, redisPrefix } from "../../support/redis.ts"
import { redisProxy } from "../../support/redisProxy.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"
import { cutEverywhere, type Line } from "../cutEverywhere.ts"
import { elapse, onRedis, Prefix, storeOn } from "../redisRuns.ts"

type RedisService = Redis.Redis["Service"]
type Entries = Parameters<CheckpointStore.CheckpointStore["Service"]["append"]>[1]

const minute = Duration.minutes(1)
const entry = (position: number, body = "{}") => ({ position, step: position === 0 ? "" : "s", body })
const one = (position: number, body?: string): Entries => [entry(position, body)]

const many = (from: number, to: number): Entries => [
  entry(from),
  ...Array.from({ length: to - from - 1 }, (_, index) => entry(from + index + 1))
]

/** Hands every command and every script to `through`, with its name. */
const passing = (
  redis: RedisService,
  through: <A>(name: string, call: Effect.Effect<A, Redis.RedisError>) => Effect.Effect<A, Redis.RedisError>
): RedisService => ({
  ...redis,
  send: (command, ...args) => through(command, redis.send(command, ...args)),
  eval: (script) => {
    const run = redis.eval(script)
    return (...params) => through("script", run(...params))
  }
})

const lost = new Redis.RedisError({ cause: new Error("Socket closed unexpectedly") })

const reasonOf = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason)

const tagOf = <A>(effect: Effect.Effect<A, CheckpointStore.CheckpointStoreError>) =>
  Effect.map(reasonOf(effect), ({ _tag }) => _tag)

/** What stands for two processes: two connections, two stores, one prefix. */
const twoProcesses = Effect.gen(function*() {
  const prefix = yield* redisPrefix
  const redis = yield* connectRedis()
  const a = yield* storeOn(redis, { prefix })
  const b = yield* storeOn(yield* connectRedis(), { prefix })
  return { a, b, prefix, redis }
})

describeWithRedis("RedisCheckpointStore", () => {
  suite("Redis", onRedis, { elapse })

  it.effect("of two processes that ask for a run at the same moment one gets it, again and again", () =>
    Effect.gen(function*() {
      const { a, b } = yield* twoProcesses
      for (let turn = 0; turn < 20; turn++) {
        const asked = yield* Effect.forEach(
          [a, b, b, a],
          (store) => Effect.result(Effect.map(store.acquire("r", minute), (lease) => ({ lease, store }))),
          { concurrency: "unbounded" }
        )
        const granted = asked.flatMap((result) => result._tag === "Success" ? [result.success] : [])
        assert.strictEqual(granted.length, 1)
        for (const { lease, store } of granted) {
          yield* store.append(lease, one(turn))
          yield* store.release(lease)
        }
      }
      assert.strictEqual((yield* b.read("r")).length, 20)
    }))

  it.effect("processes whose clocks are years apart agree who holds a run, and for how long", () =>
    Effect.gen(function*() {
      const { a, b } = yield* twoProcesses
      const clock = yield* TestClock.testClockWith(Effect.succeed)
      const later = Date.now() + Duration.toMillis(Duration.days(3_650))
      const ahead = Effect.provideService(Clock.Clock, {
        ...clock,
        currentTimeMillis: Effect.succeed(later),
        currentTimeMillisUnsafe: () => later
      })
      const lease = yield* a.acquire("r", minute)
      yield* a.append(lease, one(0))
      const reason = yield* reasonOf(b.acquire("r", minute)).pipe(ahead)
      assert.isTrue(reason._tag === "LeaseHeld" && Duration.toMillis(reason.remaining) <= 60_000)
      assert.isTrue(reason._tag === "LeaseHeld" && Duration.toMillis(reason.remaining) > 40_000)
      const next = yield* b.acquire("r", minute, { takeOver: true }).pipe(ahead)
      assert.strictEqual(yield* tagOf(a.acquire("r", minute)), "LeaseHeld")
      yield* b.append(next, one(1), "suspended").pipe(ahead)
      const [run] = yield* b.list()
      assert.isTrue(run !== undefined && Math.abs(run.createdAt - Date.now()) < 60_000)
      assert.isTrue(run !== undefined && Math.abs(run.updatedAt - Date.now()) < 60_000)
    }))

  it.effect("a holder that was paused past its lease is fenced, and writes nothing", () =>
    Effect.gen(function*() {
      const { a, b, prefix, redis } = yield* twoProcesses
      const lease = yield* a.acquire("r", minute)
      yield* a.append(lease, one(0))
      yield* elapse(minute).pipe(
        Effect.provideService(Redis.Redis, redis),
        Effect.provideService(Prefix, prefix)
      )
      const next = yield* b.acquire("r", minute)
      assert.strictEqual(next.abandoned, 1)
      for (
        const deed of [
          a.append(lease, one(1), "failed"),
          a.append(lease, one(0)),
          a.renew(lease, minute),
          a.release(lease),
          a.remove(lease)
        ]
      ) assert.strictEqual(yield* tagOf(deed), "Fenced")
      yield* b.append(next, one(1, "\"b\""))
      assert.deepStrictEqual(yield* a.read("r"), [entry(0), entry(1, "\"b\"")])
    }))

  it.effect("a lease whose owner is known to be gone is taken over at once, and one granted since is not", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      const gone = new Set<string>()
      let meanwhile: Effect.Effect<unknown, CheckpointStore.CheckpointStoreError> = Effect.void
      const named = (id: string) =>
        storeOn(redis, {
          prefix,
          owner: { id, isGone: (owner) => Effect.as(Effect.orDie(meanwhile), gone.has(owner)) }
        })
      const [a, b, c] = [yield* named("a"), yield* named("b"), yield* named("c")]
      const lease = yield* a.acquire("r", minute)
      assert.strictEqual(yield* tagOf(b.acquire("r", minute)), "LeaseHeld")
      gone.add("a")
      const next = yield* b.acquire("r", minute)
      assert.isAbove(next.token, lease.token)
      assert.strictEqual(yield* tagOf(a.renew(lease, minute)), "Fenced")
      gone.add("b")
      meanwhile = Effect.suspend(() => {
        meanwhile = Effect.void
        return a.acquire("r", minute, { takeOver: true })
      })
      const reason = yield* reasonOf(c.acquire("r", minute))
      assert.isTrue(reason._tag === "LeaseHeld" && reason.owner === "a")
    }))

  it.effect("a token that a failover lost and that was granted again is good for its new owner alone", () =>
    Effect.gen(function*() {
      const { a, b, prefix, redis } = yield* twoProcesses
      const before = yield* a.acquire("r", minute)
      yield* a.append(before, one(0))
      yield* a.release(before)
      const lease = yield* a.acquire("r", minute)
      // What a replica has that did not receive the last lease.
      yield* redis.send("HSET", `${prefix}run:r`, "token", String(before.token))
      yield* redis.send("HDEL", `${prefix}run:r`, "owner", "expiresAt")
      yield* redis.send("HSET", `${prefix}store`, "token", String(before.token))
      const again = yield* b.acquire("r", minute)
      assert.strictEqual(again.token, lease.token)
      assert.strictEqual(yield* tagOf(a.append(lease, one(1))), "Fenced")
      assert.strictEqual(yield* tagOf(a.release(lease)), "Fenced")
      yield* b.append(again, one(1))
    }))

  it.effect("a counter of tokens that was lost does not go back behind what a run knows", () =>
    Effect.gen(function*() {
      const { a, prefix, redis } = yield* twoProcesses
      for (let n = 0; n < 5; n++) yield* a.acquire("r", minute, { takeOver: true })
      yield* redis.send("DEL", `${prefix}store`)
      assert.strictEqual((yield* a.acquire("r", minute, { takeOver: true })).token, 6)
      assert.strictEqual((yield* a.acquire("other", minute)).token, 7)
    }))

  it.effect("an answer lost on the way is Unavailable, and what was asked is recognised when it is asked again", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const proxy = yield* redisProxy
      const store = yield* storeOn(yield* connectRedis(proxy.url), { prefix })
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, one(0), "running")
      yield* proxy.loseAnswer
      const error = yield* Effect.flip(store.append(lease, [entry(1), entry(2)], "suspended"))
      assert.strictEqual(error.reason._tag, "Unavailable")
      assert.strictEqual((yield* Fault.classify(error))._tag, "Transient")
      assert.strictEqual(proxy.lost(), 1)
      yield* store.append(lease, [entry(1), entry(2)], "suspended")
      assert.deepStrictEqual(yield* store.read("r"), [entry(0), entry(1), entry(2)])
      // The same once more, now with a release.
      yield* proxy.loseAnswer
      assert.strictEqual(yield* tagOf(store.release(lease)), "Unavailable")
      yield* store.release(lease)
      assert.isUndefined(Option.getOrUndefined(yield* store.get("r"))?.lease)
    }).pipe(Effect.provide(Logger.layer([]))))

  it.effect("a connection that is lost at any command, before or after it, loses nothing that was acknowledged", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      const under = (name: string) => `${prefix}${name}:`
      const cuts = yield* cutEverywhere({
        open: (name: string, line: Line) =>
          storeOn(passing(redis, (_, call) => line.through(call, lost)), { prefix: under(name) }),
        elapse: (name, duration) =>
          elapse(duration).pipe(Effect.provideService(Redis.Redis, redis), Effect.provideService(Prefix, under(name))),
        left: (name) =>
          Effect.map(
            Effect.orDie(keysOf(redis, under(name))),
            (keys) => keys.filter((key) => key !== `${under(name)}store`)
          )
      })
      assert.isAbove(cuts, 25)
    }))

  it.effect("an interruption at any step leaves a run that can be taken over, read and written", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      let arranged = 0
      const steps = yield* interruptEverywhere({
        arrange: Effect.gen(function*() {
          const store = yield* storeOn(redis, { prefix: `${prefix}${arranged++}:` })
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
            // Redis answers in its own time.
            drive: Effect.never,
            check: () =>
              Effect.gen(function*() {
                const lease = yield* store.acquire("r", minute, { takeOver: true })
                const { length } = yield* store.read("r")
                assert.isTrue(length >= acknowledged && [0, 1, 4, 5].includes(length))
                yield* store.append(lease, one(length))
                yield* store.remove(lease)
                assert.deepStrictEqual(yield* store.list(), [])
              })
          }
        })
      })
      assert.isAbove(steps, 50)
    }))

  it.effect("a journal of 10,000 records is read in pages, in order, each record once", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      const sent: Array<string> = []
      const store = yield* storeOn(
        passing(redis, (name, call) => {
          sent.push(name)
          return call
        }),
        { prefix }
      )
      const lease = yield* store.acquire("r", minute)
      for (let from = 0; from < 10_000; from += 2_500) yield* store.append(lease, many(from, from + 2_500))
      sent.length = 0
      const entries = yield* store.read("r")
      assert.deepStrictEqual(entries.map(({ position }) => position), Array.from({ length: 10_000 }, (_, n) => n))
      assert.deepStrictEqual([...new Set(sent)], ["HMGET"])
      assert.strictEqual(sent.length, 101)
      yield* store.remove(lease)
    }))

  it.effect("a run that is removed and begun anew while it is read is read anew", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      let meanwhile: Effect.Effect<unknown, unknown> = Effect.void
      let commands = 0
      const reader = yield* storeOn(
        passing(redis, (_, call) => ++commands === 3 ? Effect.andThen(Effect.orDie(meanwhile), call) : call),
        { prefix }
      )
      const store = yield* storeOn(redis, { prefix })
      const lease = yield* store.acquire("r", minute)
      yield* store.append(lease, many(0, 150))
      meanwhile = Effect.gen(function*() {
        yield* store.remove(lease)
        yield* store.append(yield* store.acquire("r", minute), many(0, 250))
      })
      commands = 0
      assert.strictEqual((yield* reader.read("r")).length, 250)
      assert.strictEqual(commands, 7)
    }))

  it.effect("runs are listed in pages, the oldest first, whatever is asked for", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const redis = yield* connectRedis()
      const sent: Array<string> = []
      const store = yield* storeOn(
        passing(redis, (name, call) => {
          sent.push(name)
          return call
        }),
        { prefix }
      )
      const ids = Array.from({ length: 250 }, (_, n) => `run ${n}`)
      const leases = yield* Effect.forEach(ids, (id) => store.acquire(id, minute))
      yield* Effect.forEach(
        leases,
        (lease, n) => store.append(lease, one(0), n % 100 === 99 ? "suspended" : "completed"),
        { concurrency: "unbounded" }
      )
      const listed = (options?: CheckpointStore.ListOptions) =>
        Effect.map(store.list(options), (runs) => runs.map(({ runId }) => runId))
      assert.deepStrictEqual(yield* listed(), ids)
      assert.deepStrictEqual(yield* listed({ limit: 120 }), ids.slice(0, 120))
      assert.deepStrictEqual(yield* listed({ limit: 0 }), [])
      assert.deepStrictEqual(yield* listed({ status: "suspended" }), ["run 99", "run 199"])
      sent.length = 0
      assert.deepStrictEqual(yield* listed({ limit: 1 }), ["run 0"])
      assert.strictEqual(sent.filter((name) => name === "script").length, 1)
      assert.deepStrictEqual(new Set(sent), new Set(["script", "HMGET"]))
    }))

  it.effect("what cannot be read is Corrupt, is touched by nobody, and hides no other run", () =>
    withMessages((logs) =>
      Effect.gen(function*() {
        const { a, prefix, redis } = yield* twoProcesses
        const lease = yield* a.acquire("sound", minute)
        yield* a.append(lease, one(0), "running")
        const damages: Record<string, (key: string) => ReadonlyArray<readonly [string, ...ReadonlyArray<string>]>> = {
          "a record is missing": (key) => [["HDEL", key, "1"]],
          "a record is not one": (key) => [["HSET", key, "1", "scrambled"]],
          "a record is cut off": (key) => [["HSET", key, "1", "9:s"]],
          "the length is wrong": (key) => [["HSET", key, "entries", "many"]],
          "the status is unknown": (key) => [["HSET", key, "status", "paused"]],
          "the token is missing": (key) => [["HDEL", key, "token"]],
          "the end of the lease is missing": (key) => [["HDEL", key, "expiresAt"]],
          "another kind of value": (key) => [["DEL", key], ["SET", key, "text"]]
        }
        for (const [id, damage] of Object.entries(damages)) {
          const lease = yield* a.acquire(id, minute)
          yield* a.append(lease, many(0, 3), "running")
          for (const [command, ...args] of damage(`${prefix}run:${id}`)) yield* redis.send(command, ...args)
        }
        const found = yield* Effect.forEach(Object.keys(damages), (id) =>
          Effect.gen(function*() {
            const before = yield* redis.send<string>("DUMP", `${prefix}run:${id}`)
            const deeds: ReadonlyArray<Effect.Effect<unknown, CheckpointStore.CheckpointStoreError>> = [
              a.read(id),
              a.get(id),
              a.acquire(id, minute)
            ]
            const outcomes = yield* Effect.forEach(deeds, (deed) => Effect.exit(deed))
            for (const exit of outcomes) {
              if (Exit.isSuccess(exit)) continue
              const error = Option.getOrUndefined(Cause.findErrorOption(exit.cause))
              const reason = error?.reason._tag
              assert.isTrue(reason === "Corrupt" || reason === "LeaseHeld", `${id}: ${String(exit.cause)}`)
              if (reason === "Corrupt") assert.strictEqual((yield* Fault.classify(error))._tag, "Permanent")
            }
            assert.strictEqual(yield* redis.send<string>("DUMP", `${prefix}run:${id}`), before, id)
            return outcomes.map((exit) => {
              const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
              return error?.reason._tag ?? "ok"
            })
          }))
        assert.deepStrictEqual(Object.fromEntries(Object.keys(damages).map((id, n) => [id, found[n]])), {
          "a record is missing": ["Corrupt", "ok", "LeaseHeld"],
          "a record is not one": ["Corrupt", "ok", "LeaseHeld"],
          "a record is cut off": ["Corrupt", "ok", "LeaseHeld"],
          "the length is wrong": ["Corrupt", "Corrupt", "Corrupt"],
          "the status is unknown": ["ok", "Corrupt", "LeaseHeld"],
          "the token is missing": ["ok", "ok", "Corrupt"],
          "the end of the lease is missing": ["ok", "ok", "Corrupt"],
          "another kind of value": ["Corrupt", "Corrupt", "Corrupt"]
        })
        const listed = (yield* a.list()).map(({ runId }) => runId)
        assert.deepStrictEqual(listed.slice(0, 2), ["sound", "a record is missing"])
        assert.deepStrictEqual(logs.filter((line) => line.includes("left out")).length, 3)
        // A record that is not counted is not written over.
        yield* redis.send("HSET", `${prefix}run:sound`, "1", "0:{}")
        assert.strictEqual(yield* tagOf(a.append(lease, one(1))), "Corrupt")
      })
    ))

  it.effect("a lease without a record is forgotten some time after it ran out, and a run with one never", () =>
    Effect.gen(function*() {
      const { a, prefix, redis } = yield* twoProcesses
      const left = redis.send<number>("PTTL", `${prefix}run:r`)
      const day = Duration.toMillis(Duration.days(1))
      const lease = yield* a.acquire("r", minute)
      assert.isTrue((yield* left) > day && (yield* left) <= day + 60_000)
      yield* a.renew(lease, Duration.hours(1))
      assert.isAbove(yield* left, day + 3_000_000)
      yield* a.append(lease, one(0))
      assert.strictEqual(yield* left, -1)
      yield* a.renew(lease, minute)
      yield* a.acquire("r", minute, { takeOver: true })
      assert.strictEqual(yield* left, -1)
      // And nothing is left of a run that is released before its first record.
      yield* a.release(yield* a.acquire("none", minute))
      assert.deepStrictEqual(yield* keysOf(redis, `${prefix}run:`), [`${prefix}run:r`])
    }))

  it.effect("more records than a script can take are refused, and none is written", () =>
    Effect.gen(function*() {
      const { a } = yield* twoProcesses
      const lease = yield* a.acquire("r", minute)
      const error = yield* Effect.flip(a.append(lease, many(0, 50_001)))
      assert.strictEqual(error.reason._tag, "Rejected")
      assert.include(error.message, "50000 records at once")
      assert.deepStrictEqual(yield* a.read("r"), [])
    }))

  it.effect("a lease for ever is one", () =>
    Effect.gen(function*() {
      const { a, b } = yield* twoProcesses
      yield* a.acquire("r", Duration.infinity)
      assert.strictEqual(yield* tagOf(b.acquire("r", minute)), "LeaseHeld")
    }))

  it.effect("the runs of a newer release are refused with both versions", () =>
    Effect.gen(function*() {
      const { a, prefix, redis } = yield* twoProcesses
      yield* a.acquire("r", minute)
      yield* redis.send("HSET", `${prefix}store`, "format", "99")
      assert.deepStrictEqual(yield* reasonOf(storeOn(redis, { prefix })), {
        _tag: "SchemaTooNew",
        found: 99,
        known: 1
      })
    }))

  it.effect("an option out of range is refused by its name", () =>
    Effect.gen(function*() {
      const redis = yield* connectRedis()
      for (
        const [option, options] of [
          ["prefix", { prefix: "" }],
          ["waitReplicas", { waitReplicas: -1 }],
          ["waitTimeout", { waitReplicas: 1, waitTimeout: 0 }]
        ] as const
      ) {
        const exit = yield* Effect.exit(storeOn(redis, options))
        const error = Exit.isFailure(exit) ? Cause.squash(exit.cause) : undefined
        assert.isTrue(error instanceof Fault.InvalidConfig && error.option === option, option)
      }
    }))

  it.effect("what Redis says is typed by whether it can pass", () =>
    Effect.gen(function*() {
      const redis = yield* connectRedis()
      const prefix = yield* redisPrefix
      const store = yield* storeOn(redis, { prefix })
      const lease = yield* store.acquire("r", minute)
      const says = (cause: unknown) =>
        Effect.flatMap(
          storeOn(
            passing(
              redis,
              (name, call) => name === "script" ? Effect.fail(new Redis.RedisError({ cause })) : call
            ),
            { prefix }
          ),
          (store) => tagOf(store.append(lease, one(0)))
        )
      const of = (text: string) => new Error(text)
      for (
        const cause of [
          of("OOM command not allowed when used memory > 'maxmemory'. script: 1, on @user_script:4."),
          of("ERR Error running script (call to f_1): @user_script:4: -OOM command not allowed"),
          of("READONLY You can't write against a read only replica."),
          of("LOADING Redis is loading the dataset in memory"),
          of("BUSY Redis is busy running a script."),
          of("MASTERDOWN Link with MASTER is down"),
          of("NOREPLICAS Not enough good replicas to write."),
          of("MISCONF Redis is configured to save RDB snapshots, but it is currently unable to persist on disk."),
          of("CLUSTERDOWN The cluster is down"),
          of("MOVED 866 127.0.0.1:7002"),
          of("ERR max number of clients reached"),
          of("Socket closed unexpectedly"),
          of("The client is closed"),
          of(""),
          Object.assign(of("EPIPE: broken pipe, write"), { code: "EPIPE" }),
          "a driver that throws text"
        ]
      ) assert.strictEqual(yield* says(cause), "Unavailable", String(cause))
      for (
        const cause of [
          of("NOAUTH Authentication required."),
          of("NOPERM User x has no permissions to run the 'evalsha' command"),
          of("CROSSSLOT Keys in request don't hash to the same slot"),
          of("ERR unknown command 'EVALSHA'")
        ]
      ) assert.strictEqual(yield* says(cause), "Rejected", String(cause))
      assert.strictEqual(
        yield* says(of("WRONGTYPE Operation against a key holding the wrong kind of value")),
        "Corrupt"
      )
    }))
})

describe("RedisCheckpointStore.layer", () => {
  it.effect("fails with Unavailable when Redis does not answer", () =>
    Effect.gen(function*() {
      const away: RedisService = {
        send: () => Effect.fail(lost),
        subscribe: () => Effect.die("not asked for"),
        eval: () => () => Effect.fail(lost),
        reserve: Effect.fail(lost)
      }
      const exit = yield* Effect.exit(Layer.build(
        RedisCheckpointStore.layer().pipe(Layer.provide(Layer.succeed(Redis.Redis, away)))
      ))
      const error = Exit.isFailure(exit) ? Option.getOrUndefined(Cause.findErrorOption(exit.cause)) : undefined
      assert.deepStrictEqual([error?.operation, error?.reason._tag], ["open", "Unavailable"])
    }))
})
