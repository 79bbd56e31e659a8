import { NodeServices } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Cause, Deferred, Effect, Exit, Fiber, FileSystem, Layer, Path, Ref, Schema } from "effect"
import { Fault, Idempotency } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlIdempotency from "effect-resilience/durable/stores/SqlIdempotency"
import { SqlClient } from "effect/sql"
import * as TestClock from "effect/testing/TestClock"
import { createHash } from "node:crypto"
import { sha256 } from "../../src/internal/sha256.ts"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { idempotencyContract } from "./contracts/IdempotencyContract.ts"

/** Layers over one new file. */
const file = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  return path.join(yield* fs.makeTempDirectoryScoped(), "runs.db")
}).pipe(Effect.provide(NodeServices.layer))

idempotencyContract("Idempotency in memory", Effect.succeed(Idempotency.layerMemory), { durable: false })

idempotencyContract(
  "Idempotency in SQLite",
  Effect.map(file, (filename) => Layer.provide(SqlIdempotency.layer, NodeSqlite.layer({ filename }))),
  { durable: true }
)

describeWithPostgres("Idempotency in PostgreSQL", () => {
  const schema = suiteSchema()
  idempotencyContract(
    "contract",
    Effect.map(schema, (options) => Layer.provide(SqlIdempotency.layer, PgClient.layer(options))),
    { durable: true }
  )
})

const memory: Effect.Effect<Idempotency.Store> = Idempotency.makeStoreMemory()
const broken = (operation: "get" | "put") =>
  Effect.map(memory, (store): Idempotency.Store => ({
    ...store,
    [operation]: (scope: string) =>
      Effect.fail(
        new Idempotency.IdempotencyStoreError({
          operation: operation === "get" ? "lookup" : "record",
          scope,
          reason: "Unavailable",
          cause: new Error("disk full")
        })
      )
  }))

describe("Idempotency", () => {
  it.effect("key is the SHA-256 of the canonical JSON of tool and arguments", () =>
    Effect.gen(function*() {
      const key = yield* Idempotency.key("send", { b: 1, a: "x" })
      // printf '["send",{"a":"x","b":1}]' | sha256sum
      assert.strictEqual(key, "1414480f8582e1e61bfdc6dcd911ecdb423ecf423d2dca18cebe914a9bc298bf")
      assert.notStrictEqual(yield* Idempotency.key("send"), yield* Idempotency.key("send", null))
      assert.notStrictEqual(yield* Idempotency.key("a", ["b"]), yield* Idempotency.key("a\",[\"b", []))
    }))

  it.prop("the digest is SHA-256", [Schema.String, Schema.Int], ([text, seed]) => {
    for (const input of [text, text.repeat(Math.abs(seed) % 50), "x".repeat(Math.abs(seed) % 300)]) {
      assert.strictEqual(sha256(input), createHash("sha256").update(input, "utf8").digest("hex"))
    }
  })

  it.effect("a store that cannot be read stops the call before it is executed", () =>
    Effect.gen(function*() {
      const service = yield* Idempotency.make({ store: yield* broken("get") })
      const error = yield* Effect.flip(
        service.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.die("must not run"))
      )
      assert.strictEqual((yield* Fault.classify(error))._tag, "Transient")
      assert.include(error.message, "nothing was executed")
    }))

  it.effect("a result that could not be recorded is ambiguous, and is not reported as done", () =>
    Effect.gen(function*() {
      const service = yield* Idempotency.make({ store: yield* broken("put") })
      const error = yield* Effect.flip(
        service.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.succeed(1))
      )
      assert.strictEqual((yield* Fault.classify(error))._tag, "Ambiguous")
      assert.include(error.message, "disk full")
    }))

  it.effect("a store that never answers to what it is to record makes the call ambiguous, and holds nobody up", () =>
    Effect.gen(function*() {
      const store = yield* memory
      const service = yield* Idempotency.make({ store: { ...store, put: () => Effect.never } })
      const call = service.once({ scope: "s", tool: "t", success: Schema.Int }, Effect.succeed(1))
      const caller = yield* Effect.forkChild(Effect.flip(call))
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(caller)
      assert.isTrue(error._tag === "IdempotencyStoreError" && error.reason === "Unavailable")
      assert.strictEqual((yield* Fault.classify(error))._tag, "Ambiguous")
    }))

  it.effect("a store that never answers to a lookup executes nothing, and holds nobody up", () =>
    Effect.gen(function*() {
      const store = yield* memory
      const service = yield* Idempotency.make({ store: { ...store, get: () => Effect.never } })
      const runs = yield* Ref.make(0)
      const call = service.once({ scope: "s", tool: "t", success: Schema.Int }, Ref.updateAndGet(runs, (n) => n + 1))
      const caller = yield* Effect.forkChild(Effect.flip(call))
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(caller)
      assert.isTrue(error._tag === "IdempotencyStoreError")
      if (error._tag !== "IdempotencyStoreError") return
      assert.deepStrictEqual([error.operation, error.reason], ["lookup", "Unavailable"])
      assert.strictEqual((yield* Fault.classify(error))._tag, "Transient")
      assert.strictEqual(yield* Ref.get(runs), 0)
    }))

  it.effect("a store that never answers to what it is to clear holds nobody up", () =>
    Effect.gen(function*() {
      const store = yield* memory
      const service = yield* Idempotency.make({ store: { ...store, clear: () => Effect.never } })
      const caller = yield* Effect.forkChild(Effect.flip(service.clear("s")))
      yield* TestClock.adjust("30 seconds")
      const error = yield* Fiber.join(caller)
      assert.deepStrictEqual([error.operation, error.reason], ["clear", "Unavailable"])
    }))

  it.effect("what has been executed is recorded, even if the last caller is interrupted meanwhile", () =>
    Effect.gen(function*() {
      const recording = yield* Deferred.make<void>()
      const gate = yield* Deferred.make<void>()
      const inner = yield* memory
      const service = yield* Idempotency.make({
        store: {
          ...inner,
          put: (scope, key, entry) =>
            Deferred.succeed(recording, undefined).pipe(
              Effect.andThen(Deferred.await(gate)),
              Effect.andThen(inner.put(scope, key, entry))
            )
        }
      })
      const runs = yield* Ref.make(0)
      const call = service.once(
        { scope: "s", tool: "t", success: Schema.Int },
        Ref.updateAndGet(runs, (n) => n + 1)
      )
      const caller = yield* Effect.forkChild(call, { startImmediately: true })
      yield* Deferred.await(recording)
      const interruption = yield* Effect.forkChild(Fiber.interrupt(caller), { startImmediately: true })
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(interruption)
      assert.strictEqual(yield* call, 1)
      assert.strictEqual(yield* Ref.get(runs), 1)
    }))

  it.effect("a call made uninterruptible ends and is recorded, although its caller is being interrupted", () =>
    Effect.gen(function*() {
      const service = yield* Idempotency.make({ store: yield* memory })
      const started = yield* Deferred.make<void>()
      const gate = yield* Deferred.make<void>()
      const runs = yield* Ref.make(0)
      const call = Effect.uninterruptible(service.once(
        { scope: "s", tool: "t", success: Schema.Int },
        Deferred.succeed(started, undefined).pipe(
          Effect.andThen(Deferred.await(gate)),
          Effect.andThen(Ref.updateAndGet(runs, (n) => n + 1))
        )
      ))
      const caller = yield* Effect.forkChild(call, { startImmediately: true })
      yield* Deferred.await(started)
      const interruption = yield* Effect.forkChild(Fiber.interrupt(caller), { startImmediately: true })
      yield* Deferred.succeed(gate, undefined)
      yield* Fiber.join(interruption)
      assert.strictEqual(yield* call, 1)
      assert.strictEqual(yield* Ref.get(runs), 1)
    }))

  it.effect("a call waits in virtual time and in no other", () =>
    Effect.gen(function*() {
      const service = yield* Idempotency.make({ store: yield* memory })
      const call = service.once(
        { scope: "s", tool: "t", success: Schema.String },
        Effect.as(Effect.sleep("1 hour"), "done")
      )
      const fibers = yield* Effect.forEach([1, 2], () => Effect.forkChild(call, { startImmediately: true }))
      yield* TestClock.adjust("1 hour")
      assert.deepStrictEqual(yield* Fiber.joinAll(fibers), ["done", "done"])
    }))

  it.effect("the memory store holds at most its capacity, and forgets what was used least recently", () =>
    Effect.gen(function*() {
      const service = yield* Idempotency.make({ store: yield* Idempotency.makeStoreMemory({ capacity: 2 }) })
      const runs = yield* Ref.make(0)
      const call = (args: number) =>
        service.once({ scope: "s", tool: "t", args, success: Schema.Int }, Ref.updateAndGet(runs, (n) => n + 1))
      yield* call(1)
      yield* call(2)
      yield* call(1)
      yield* call(3)
      assert.deepStrictEqual([yield* call(1), yield* call(3), yield* call(2)], [1, 3, 4])
    }))

  it.effect("options are refused when it is built", () =>
    Effect.gen(function*() {
      const store = yield* memory
      const exit = yield* Effect.exit(Idempotency.make({ store, timeToLive: 0 }))
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
      assert.throws(() => Idempotency.makeStoreMemory({ capacity: 0 }), /capacity/)
    }))

  it.effect("executions are interrupted when the layer closes, and their callers with them", () =>
    Effect.gen(function*() {
      const caller = yield* Effect.scoped(Effect.gen(function*() {
        const service = yield* Idempotency.make({ store: yield* memory })
        const call = service.once({ scope: "s", tool: "t", success: Schema.Void }, Effect.never)
        const fiber = yield* Effect.forkDetach(call, { startImmediately: true })
        yield* Effect.yieldNow
        return fiber
      }))
      assert.isTrue(Exit.hasInterrupts(yield* Fiber.await(caller)))
    }))

  it.effect("expired results leave the database", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const sqlite = yield* Layer.build(NodeSqlite.layer({ filename }))
      const count = Effect.flatMap(SqlClient.SqlClient, (sql) =>
        Effect.map(sql`SELECT hash FROM effect_resilience_idempotency`, (rows) => rows.length))
      yield* Effect.gen(function*() {
        const store = yield* SqlIdempotency.makeStore
        for (let at = 0; at < 10; at++) {
          yield* store.put("s", `k${at}`, { outcome: "{}", recordedAt: at, expiresAt: at + 3 })
        }
        assert.strictEqual(yield* count, 3)
        yield* store.put("s", "ever", { outcome: "{}", recordedAt: 0, expiresAt: Number.MAX_SAFE_INTEGER })
        assert.strictEqual((yield* store.get("s", "ever"))?.expiresAt, Number.MAX_SAFE_INTEGER)
      }).pipe(Effect.provide(sqlite))
    }))
})
