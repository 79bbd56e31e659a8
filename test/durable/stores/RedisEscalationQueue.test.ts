import { assert, it } from "@effect/vitest"
import { Cause, Context, Deferred, Effect, Exit, Fiber, Layer, Logger, Schedule, type Scope, Stream } from "effect"
import { Checkpoint, type CheckpointStore, EscalationQueue, Fault } from "effect-resilience"
import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
import * as RedisEscalationQueue from "effect-resilience/durable/stores/RedisEscalationQueue"
import { Redis } from "effect/persistence"
import { connectRedis, describeWithRedis, keysOf, redisPrefix } from "../../support/redis.ts"
import { redisProxy } from "../../support/redisProxy.ts"
import { describeWithRedisServer, redisServer } from "../../support/redisServer.ts"

const tagOf = <A>(effect: Effect.Effect<A, EscalationQueue.EscalationError>) =>
  Effect.map(Effect.flip(effect), ({ reason }) => reason._tag)

/** A process: a connection, and a queue and runs over it, of which only Redis knows of the others. */
const process = Effect.fnUntraced(function*(
  prefix: string,
  options: RedisEscalationQueue.Options & { readonly url?: string } = {}
): Effect.fn.Return<
  {
    readonly queue: EscalationQueue.EscalationQueue["Service"]
    readonly redis: Redis.Redis["Service"]
    readonly within: <A, E, R>(
      effect: Effect.Effect<A, E, R>
    ) => Effect.Effect<A, E, Exclude<R, EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore>>
  },
  unknown,
  Scope.Scope
> {
  const { url, ...own } = options
  const redis = yield* connectRedis(url)
  const context = yield* Layer.build(
    Layer.merge(
      // What is not told would not be found in the time of a test.
      RedisEscalationQueue.layer({ prefix: `${prefix}e:`, pollInterval: "1 day", ...own }),
      RedisCheckpointStore.layer({ prefix: `${prefix}c:` })
    ).pipe(Layer.provide(Layer.succeed(Redis.Redis, redis)))
  )
  return {
    redis,
    queue: Context.get(context, EscalationQueue.EscalationQueue),
    within: Effect.provideContext(context)
  }
})

describeWithRedis("RedisEscalationQueue", () => {
  it.effect("what one process changes is heard by the streams of another at once, without any time going by", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const one = yield* process(prefix)
      const two = yield* process(prefix)
      const first = yield* one.queue.submit({ reason: "RequiresHuman", task: "a", runId: "r" })
      const listening = yield* Deferred.make<void>()
      const open = yield* two.queue.open.pipe(
        Stream.tap(() => Deferred.succeed(listening, undefined)),
        Stream.take(2),
        Stream.map(({ task }) => task),
        Stream.runCollect,
        Effect.forkChild
      )
      const outcome = yield* Effect.forkChild(Stream.runHead(two.queue.undelivered))
      yield* Deferred.await(listening)
      yield* one.queue.submit({ reason: "RequiresHuman", task: "b" })
      assert.deepStrictEqual(yield* Fiber.join(open), ["a", "b"])
      yield* one.queue.decide(first.id, { _tag: "Approve" }, { by: "ann" })
      const told = yield* Fiber.join(outcome)
      assert.deepStrictEqual(told._tag === "Some" && told.value, yield* one.queue.get(first.id))
    }))

  it.effect("decisions of another process resume the runs of this one, at once", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const worker = yield* process(prefix)
      const person = yield* process(prefix)
      const ids = Array.from({ length: 40 }, (_, n) => `run ${n}`)
      const left = new Set(ids)
      const all = yield* Deferred.make<void>()
      const program = (id: string) =>
        EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: id }).pipe(
          Effect.tap(() => {
            left.delete(id)
            return left.size === 0 ? Deferred.succeed(all, undefined) : Effect.void
          }),
          Checkpoint.run({ id })
        )
      // Decided as they are asked, which is before some of the runs are suspended.
      yield* person.queue.open.pipe(
        Stream.runForEach(({ id }) => person.queue.decide(id, { _tag: "Approve" }, { by: "ann" })),
        Effect.forkChild
      )
      yield* worker.within(EscalationQueue.resumeRuns({ resume: program, interval: "1 day" })).pipe(Effect.forkChild)
      yield* Effect.forEach(ids, (id) => Effect.exit(worker.within(program(id))), { concurrency: 8 })
      yield* Deferred.await(all)
    }).pipe(Effect.timeout("20 seconds")), 30_000)

  it.effect("removes every trace of what it prunes", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const { queue, redis } = yield* process(prefix)
      for (const runId of ["r1", "r2", undefined]) {
        const { id } = yield* queue.submit({ reason: "RequiresHuman", task: "a", runId, timeToLive: "1 hour" })
        yield* queue.decide(id, { _tag: "Approve" })
      }
      assert.strictEqual(yield* queue.prune(0), 3)
      assert.deepStrictEqual(yield* keysOf(redis, `${prefix}e:`), [`${prefix}e:store`])
    }))

  it.effect("queues with prefixes of their own know nothing of each other", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const one = yield* process(`${prefix}1:`)
      const two = yield* process(`${prefix}2:`)
      const submission = { reason: "RequiresHuman", task: "a", dedupeKey: "k" } as const
      const { id } = yield* one.queue.submit(submission)
      assert.strictEqual(yield* tagOf(two.queue.get(id)), "NotFound")
      yield* two.queue.submit(submission)
      yield* one.queue.decide(id, { _tag: "Approve" })
      assert.strictEqual((yield* two.queue.get(id)).status, "open")
    }))

  it.effect("a record that does not decode is Corrupt, and does not hide the others", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const { queue, redis } = yield* process(prefix)
      const broken = yield* queue.submit({ reason: "RequiresHuman", task: "broken", timeToLive: "1 hour" })
      const sound = yield* queue.submit({ reason: "RequiresHuman", task: "sound" })
      for (const text of ["1:{}", "scrambled", ""]) {
        yield* redis.send("HSET", `${prefix}e:records`, broken.id, text)
        assert.strictEqual(yield* tagOf(queue.get(broken.id)), "Corrupt")
        assert.strictEqual(yield* tagOf(queue.decide(broken.id, { _tag: "Approve" })), "Corrupt")
        assert.deepStrictEqual(yield* queue.list(), [sound])
        assert.deepStrictEqual(yield* queue.open.pipe(Stream.take(1), Stream.runCollect), [sound])
      }
      yield* redis.send("DEL", `${prefix}e:records`)
      yield* redis.send("SET", `${prefix}e:records`, "text")
      assert.strictEqual(yield* tagOf(queue.get(sound.id)), "Corrupt")
    }).pipe(Effect.provide(Logger.layer([]))))

  it.effect("a counter that was lost does not go back behind what is known", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const { queue, redis } = yield* process(prefix)
      const before = yield* queue.submit({ reason: "RequiresHuman", task: "a" })
      const last = yield* queue.claim(before.id, { by: "ann" })
      yield* redis.send("DEL", `${prefix}e:store`)
      assert.isAbove((yield* queue.submit({ reason: "RequiresHuman", task: "b" })).revision, last.revision)
    }))

  it.effect("a queue of a newer release is left alone", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const { redis } = yield* process(prefix)
      yield* redis.send("HSET", `${prefix}e:store`, "format", "2")
      const opened = Effect.provideService(
        RedisEscalationQueue.makeStore({ prefix: `${prefix}e:` }),
        Redis.Redis,
        redis
      )
      const error = yield* Effect.flip(opened)
      assert.deepStrictEqual(error.reason, { _tag: "SchemaTooNew", found: 2, known: 1 })
    }))

  it.effect("a change whose acknowledgement was lost may have been made, and the next reading tells", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const sound = yield* process(prefix)
      const proxy = yield* redisProxy
      const unlucky = yield* process(prefix, { url: proxy.url })
      // The scripts are known before an answer is lost.
      const other = yield* unlucky.queue.submit({ reason: "RequiresHuman", task: "a" })
      yield* unlucky.queue.decide(other.id, { _tag: "Approve" })
      const { id } = yield* unlucky.queue.submit({ reason: "RequiresHuman", task: "c" })
      // Read before, so that the next answer is that of the write.
      const record = yield* unlucky.queue.get(id)
      yield* proxy.loseAnswer
      const lost = yield* Effect.flip(unlucky.queue.confirm(record))
      assert.strictEqual((yield* Fault.classify(lost))._tag, "Transient")
      assert.isAbove((yield* sound.queue.get(id)).revision, record.revision)
      assert.isFalse(yield* sound.queue.confirm(record))
    }).pipe(Effect.provide(Logger.layer([]))))

  it.effect("options out of range are refused, and so is a change that its replicas do not get", () =>
    Effect.gen(function*() {
      const prefix = yield* redisPrefix
      const { redis } = yield* process(prefix)
      const store = (options: RedisEscalationQueue.StoreOptions) =>
        Effect.provideService(RedisEscalationQueue.makeStore(options), Redis.Redis, redis)
      for (const options of [{ prefix: "" }, { waitReplicas: -1 }, { waitTimeout: 0 }]) {
        const exit = yield* Effect.exit(store(options))
        assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
      }
      const wary = yield* process(prefix, { waitReplicas: 1, waitTimeout: "5 millis" })
      const submission = { reason: "RequiresHuman", task: "a", dedupeKey: "k" } as const
      assert.strictEqual(yield* tagOf(wary.queue.submit(submission)), "Unavailable")
      // It may be there all the same, and is asked for again.
      assert.strictEqual(yield* tagOf(wary.queue.submit(submission)), "Unavailable")
    }))
})

describeWithRedisServer("RedisEscalationQueue, on a server of its own", () => {
  it.live("the streams go on when Redis is back, and tell what they have missed", () =>
    Effect.gen(function*() {
      const server = yield* redisServer("--appendonly", "yes", "--appendfsync", "always")
      const one = yield* process("", { url: server.url, pollInterval: "100 millis" })
      const two = yield* process("", { url: server.url, pollInterval: "100 millis" })
      const { id } = yield* one.queue.submit({ reason: "RequiresHuman", task: "a", runId: "r" })
      const outcome = yield* two.queue.undelivered.pipe(
        Stream.retry(Schedule.spaced("100 millis")),
        Stream.runHead,
        Effect.forkChild
      )
      yield* server.kill
      assert.strictEqual(yield* tagOf(one.queue.decide(id, { _tag: "Approve" })), "Unavailable")
      yield* server.start
      yield* Effect.retry(one.queue.decide(id, { _tag: "Approve" }), Schedule.spaced("50 millis"))
      const told = yield* Fiber.join(outcome)
      assert.strictEqual(told._tag === "Some" && told.value.id, id)
    }).pipe(Effect.timeout("20 seconds"), Effect.provide(Logger.layer([]))), 30_000)
})
