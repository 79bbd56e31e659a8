import { NodeRedis, NodeServices } from "@effect/platform-node"
import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Cause, DateTime, Effect, Equal, Exit, Fiber, FileSystem, Layer, Option, Path, Schema, Stream } from "effect"
import { CheckpointStore, EscalationQueue, Fault, Telemetry } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
import * as RedisEscalationQueue from "effect-resilience/durable/stores/RedisEscalationQueue"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import { SqlClient } from "effect/sql"
import * as TestClock from "effect/testing/TestClock"
import { excerpt, summary } from "../../src/durable/internal/escalationExcerpt.ts"
import { describeWithPostgres, suiteSchema } from "../support/postgres.ts"
import { describeWithRedis, redisPrefix } from "../support/redis.ts"
import { redisUrl } from "../support/servers.ts"
import { escalationQueueContract } from "./contracts/EscalationQueueContract.ts"

const file = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  return path.join(yield* fs.makeTempDirectoryScoped(), "runs.db")
}).pipe(Effect.provide(NodeServices.layer))

escalationQueueContract(
  "EscalationQueue in memory",
  Effect.succeed(Layer.mergeAll(EscalationQueue.layerMemory, CheckpointStore.layerMemory)),
  { shared: false }
)

escalationQueueContract(
  "EscalationQueue in SQLite",
  Effect.map(file, (filename) =>
    Layer.provide(
      Layer.mergeAll(SqlEscalationQueue.layer, SqlCheckpointStore.layer),
      NodeSqlite.layer({ filename })
    )),
  { shared: true }
)

describeWithPostgres("EscalationQueue in PostgreSQL", () => {
  const schema = suiteSchema()
  escalationQueueContract(
    "contract",
    Effect.map(schema, (options) =>
      Layer.provide(
        Layer.mergeAll(SqlEscalationQueue.layer, SqlCheckpointStore.layer),
        PgClient.layer(options)
      )),
    { shared: true }
  )
})

describeWithRedis("EscalationQueue in Redis", () => {
  escalationQueueContract(
    "contract",
    Effect.map(redisPrefix, (prefix) =>
      Layer.provide(
        Layer.mergeAll(
          RedisEscalationQueue.layer({ prefix: `${prefix}escalation:` }),
          RedisCheckpointStore.layer({ prefix: `${prefix}checkpoint:` })
        ),
        NodeRedis.layer({ url: redisUrl })
      )),
    { shared: true }
  )
})

const queue = EscalationQueue.EscalationQueue
const tagOf = (error: EscalationQueue.EscalationError) => error.reason._tag

describe("EscalationQueue", () => {
  it.effect("the memory holds at most its capacity of undecided escalations, and says so", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory({ capacity: 2 })
      const service = yield* EscalationQueue.make({ store })
      const submit = (timeToLive?: "1 minute") => service.submit({ reason: "RequiresHuman", task: "a", timeToLive })
      const first = yield* submit()
      yield* submit("1 minute")
      const error = yield* Effect.flip(submit())
      assert.deepStrictEqual(error.reason, { _tag: "QueueFull", capacity: 2 })
      assert.strictEqual((yield* Fault.classify(error))._tag, "Rejected")
      yield* service.decide(first.id, { _tag: "Retry" })
      yield* submit()
      yield* TestClock.adjust("1 minute")
      yield* submit()
      assert.strictEqual(tagOf(yield* Effect.flip(submit())), "QueueFull")
    }))

  it.effect("the memory remembers at most its history of decided escalations, the newest", () =>
    Effect.gen(function*() {
      const service = yield* EscalationQueue.make({
        store: yield* EscalationQueue.makeStoreMemory({ history: 2 })
      })
      for (const task of ["a", "b", "c", "d"]) {
        const { id } = yield* service.submit({ reason: "RequiresHuman", task })
        if (task !== "d") yield* service.decide(id, { _tag: "Retry" })
      }
      assert.deepStrictEqual((yield* service.list()).map(({ task }) => task), ["b", "c", "d"])
    }))

  it.effect("a store that fails is typed, and says whether it may work later", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory()
      const busy = new EscalationQueue.EscalationError({
        operation: "change",
        reason: { _tag: "Unavailable", cause: new Error("database is locked") }
      })
      const service = yield* EscalationQueue.make({ store: { ...store, replace: () => Effect.fail(busy) } })
      const before = yield* service.submit({ reason: "RequiresHuman", task: "a" })
      const error = yield* Effect.flip(service.decide(before.id, { _tag: "Retry" }))
      assert.strictEqual((yield* Fault.classify(error))._tag, "Transient")
      assert.include(error.message, "database is locked")
      assert.deepStrictEqual(yield* service.get(before.id), before)
    }))

  it.effect("a decision is all there or not at all, wherever the decider is interrupted", () =>
    Effect.gen(function*() {
      const service = yield* queue
      for (let n = 0; n < 40; n++) {
        const { id } = yield* service.submit({ reason: "RequiresHuman", task: `${n}` })
        const decider = yield* Effect.forkChild(service.decide(id, { _tag: "Approve" }), {
          startImmediately: n % 2 === 0
        })
        for (let k = 0; k < n % 8; k++) yield* Effect.yieldNow
        yield* Fiber.interrupt(decider)
        const { resolution, status } = yield* service.get(id)
        assert.strictEqual(status === "resolved", resolution !== undefined)
        if (status === "open") yield* service.decide(id, { _tag: "Retry" })
      }
      assert.strictEqual(yield* service.depth, 0)
    }).pipe(Effect.provide(Layer.provide(SqlEscalationQueue.layer, NodeSqlite.layer({ filename: ":memory:" })))))

  it.effect("the streams end when the queue closes", () =>
    Effect.gen(function*() {
      const reader = yield* Effect.scoped(Effect.gen(function*() {
        const service = yield* EscalationQueue.make({ store: yield* EscalationQueue.makeStoreMemory() })
        const reader = yield* Effect.forkDetach(Stream.runDrain(service.changes), { startImmediately: true })
        yield* Effect.yieldNow
        return reader
      }))
      const ended = yield* Effect.yieldNow.pipe(Effect.repeat({ times: 20 }), Effect.as(reader.pollUnsafe()))
      assert.isDefined(ended)
    }))

  it.effect("a store that never answers to a write holds nobody up", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory()
      const { id } = yield* Effect.flatMap(EscalationQueue.make({ store }), (service) =>
        service.submit({ reason: "RequiresHuman", task: "a" }))
      const silent = yield* EscalationQueue.make({
        store: {
          ...store,
          insert: () =>
            Effect.never,
          replace: () => Effect.never
        }
      })
      for (
        const write of [
          silent.submit({ reason: "RequiresHuman", task: "b" }),
          silent.decide(id, { _tag: "Approve" }),
          silent.claim(id, { by: "ann" })
        ]
      ) {
        const caller = yield* Effect.forkChild(Effect.flip(write))
        yield* TestClock.adjust("30 seconds")
        assert.strictEqual((yield* Fiber.join(caller)).reason._tag, "Unavailable")
      }
    }))

  it.effect("a store that never answers to a read holds nobody up", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory()
      const { id } = yield* Effect.flatMap(EscalationQueue.make({ store }), (service) =>
        service.submit({ reason: "RequiresHuman", task: "a" }))
      const never = () => Effect.never
      const silent = yield* EscalationQueue.make({
        store: {
          ...store,
          find: never,
          select: never,
          waiting: never,
          overdue: never,
          changedSince: never,
          revision: Effect.never,
          prune: never
        }
      })
      for (
        const [operation, read] of [
          ["get", silent.get(id)],
          ["list", silent.list()],
          ["decide", silent.decide(id, { _tag: "Approve" })],
          ["claimNext", silent.claimNext({ by: "ann" })],
          ["depth", silent.depth],
          ["oldestAge", silent.oldestAge],
          ["expire", silent.expire],
          ["changes", Stream.runDrain(silent.changes)],
          ["changes", Stream.runDrain(silent.open)],
          ["changes", Stream.runDrain(silent.undelivered)],
          ["prune", silent.prune(0)]
        ] as const
      ) {
        const caller = yield* Effect.forkChild(Effect.flip(read))
        yield* TestClock.adjust("30 seconds")
        const error = yield* Fiber.join(caller)
        assert.deepStrictEqual([error.operation, error.reason._tag], [operation, "Unavailable"])
      }
    }))

  it.effect("a store of runs that never answers does not hold up who decides", () =>
    Effect.gen(function*() {
      const runs = yield* CheckpointStore.makeMemory()
      const service = yield* EscalationQueue.make({ store: yield* EscalationQueue.makeStoreMemory() })
      const { id } = yield* service.submit({ reason: "RequiresHuman", task: "a", runId: "r" })
      const caller = yield* service.decide(id, { _tag: "Approve" }).pipe(
        Effect.provideService(CheckpointStore.CheckpointStore, { ...runs, get: () => Effect.never }),
        Effect.flip,
        Effect.forkChild
      )
      yield* TestClock.adjust("30 seconds")
      assert.strictEqual((yield* Fiber.join(caller)).reason._tag, "Unavailable")
    }))

  it.effect("several processes may open a new database at once", () =>
    Effect.gen(function*() {
      const filename = yield* file
      const process = Layer.provide(SqlEscalationQueue.layer, NodeSqlite.layer({ filename }))
      const ids = yield* Effect.forEach([1, 2, 3, 4, 5], () =>
        EscalationQueue.submit({ reason: "RequiresHuman", task: "a", dedupeKey: "one" }).pipe(
          Effect.provide(Layer.fresh(process), { local: true })
        ), { concurrency: "unbounded" })
      assert.strictEqual(
        new Set(ids.map(({ id }) =>
          id
        )).size,
        1
      )
    }))

  it.effect("a stored record that does not decode is Corrupt, and does not hide the others", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const service = yield* queue
      const broken = yield* service.submit({ reason: "RequiresHuman", task: "broken" })
      yield* TestClock.adjust("1 second")
      const sound = yield* service.submit({ reason: "RequiresHuman", task: "sound" })
      yield* sql`UPDATE effect_resilience_escalations SET record = '{}' WHERE id = ${broken.id}`
      assert.strictEqual(tagOf(yield* Effect.flip(service.get(broken.id))), "Corrupt")
      assert.strictEqual(tagOf(yield* Effect.flip(service.decide(broken.id, { _tag: "Retry" }))), "Corrupt")
      assert.deepStrictEqual(yield* service.list(), [sound])
      assert.deepStrictEqual(yield* service.open.pipe(Stream.take(1), Stream.runCollect), [sound])
      assert.strictEqual(Option.getOrThrow(yield* service.claimNext({ by: "ann" })).id, sound.id)
      assert.strictEqual(yield* service.depth, 2)
    }).pipe(
      Effect.provide(Layer.provideMerge(SqlEscalationQueue.layer, NodeSqlite.layer({ filename: ":memory:" })))
    ))

  it.effect("a listener hears once that a question is withdrawn or has expired", () =>
    Effect.gen(function*() {
      const service = yield* queue
      const events: Array<Telemetry.Event> = []
      const one = yield* service.submit({ reason: "RequiresHuman", task: "a", runId: "r" })
      const other = yield* service.submit({ reason: "RequiresHuman", task: "b", timeToLive: "1 minute" })
      yield* Effect.gen(function*() {
        yield* service.withdraw(one.id)
        yield* service.withdraw(one.id)
        yield* TestClock.adjust("1 minute")
        yield* service.expire
        yield* service.expire
      }).pipe(Effect.provideService(Telemetry.Listener, (event) => void events.push(event)))
      assert.deepStrictEqual(events, [
        { _tag: "EscalationClosed", id: one.id, runId: "r", as: "withdrawn", waitedMillis: 0 },
        { _tag: "EscalationClosed", id: other.id, runId: undefined, as: "expired", waitedMillis: 60_000 }
      ])
    }).pipe(Effect.provide(EscalationQueue.layerMemory)))

  it.effect("a table of the first release is brought up to date, with what it holds", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const before = yield* EscalationQueue.make({ store: yield* SqlEscalationQueue.makeStore })
      const open = yield* before.submit({ reason: "RequiresHuman", task: "open", runId: "r" })
      const { id } = yield* before.submit({ reason: "RequiresHuman", task: "decided" })
      const decided = yield* before.decide(id, { _tag: "Approve" })
      yield* sql`DROP INDEX effect_resilience_escalations_undelivered`
      yield* sql`DROP INDEX effect_resilience_escalations_deadlines`
      for (const column of ["outcome", "undelivered"]) {
        yield* sql`ALTER TABLE effect_resilience_escalations DROP COLUMN ${sql(column)}`
      }
      yield* sql`DELETE FROM effect_resilience_escalation_migrations WHERE migration_id = 2`
      const after = yield* EscalationQueue.make({ store: yield* SqlEscalationQueue.makeStore })
      assert.deepStrictEqual(yield* after.list({ status: "resolved" }), [decided])
      assert.deepStrictEqual(yield* after.list({ status: "open" }), [open])
      yield* after.decide(open.id, { _tag: "Approve" })
      const [told] = yield* after.undelivered.pipe(Stream.take(1), Stream.runCollect)
      assert.strictEqual(told?.id, open.id)
    }).pipe(Effect.provide(NodeSqlite.layer({ filename: ":memory:" }))))

  it.effect("options are refused when it is built", () =>
    Effect.gen(function*() {
      const store = yield* EscalationQueue.makeStoreMemory()
      const exit = yield* Effect.exit(EscalationQueue.make({ store, excerptLimit: 0 }))
      assert.isTrue(Exit.isFailure(exit) && Cause.squash(exit.cause) instanceof Fault.InvalidConfig)
      assert.throws(() => EscalationQueue.makeStoreMemory({ capacity: 0 }), /capacity/)
    }))

  it("every failure survives a journal", () => {
    const codec = Schema.toCodecJson(EscalationQueue.EscalationError)
    const error = new EscalationQueue.EscalationError({
      operation: "decide",
      id: "1",
      reason: { _tag: "Expired", at: DateTime.makeUnsafe(5) }
    })
    assert.deepStrictEqual(Schema.decodeUnknownSync(codec)(Schema.encodeSync(codec)(error)), error)
  })
})

const stores: ReadonlyArray<
  readonly [string, Effect.Effect<EscalationQueue.Store, EscalationQueue.EscalationError, SqlClient.SqlClient>]
> = [
  ["memory", EscalationQueue.makeStoreMemory()],
  ["SQLite", SqlEscalationQueue.makeStore]
]

describe.each(stores)("races on a store: %s", (_, makeStore) => {
  /** Two queues over one store. Something is done between the loser's reading and its writing. */
  const race = (
    between: (queue: EscalationQueue.EscalationQueue["Service"], id: string) => Effect.Effect<
      unknown,
      EscalationQueue.EscalationError
    >
  ) =>
    Effect.gen(function*() {
      const store = yield* makeStore
      const winner = yield* EscalationQueue.make({ store })
      let raced = false
      const loser = yield* EscalationQueue.make({
        store: {
          ...store,
          replace: (record) =>
            Effect.suspend(() => {
              if (raced) return store.replace(record)
              raced = true
              return Effect.andThen(between(winner, record.id), store.replace(record))
            })
        }
      })
      const { id } = yield* winner.submit({ reason: "RequiresHuman", task: "a" })
      return { id, loser, winner }
    })
  const database = Effect.provide(NodeSqlite.layer({ filename: ":memory:" }))

  it.effect("who loses a compare-and-set looks again, and finds what the other did", () =>
    Effect.gen(function*() {
      const { id, loser, winner } = yield* race((queue, id) => queue.claim(id, { by: "ann" }))
      const error = yield* Effect.flip(loser.decide(id, { _tag: "Retry" }, { by: "bob" }))
      assert.strictEqual(tagOf(error), "AlreadyClaimed")
      assert.strictEqual((yield* winner.get(id)).status, "claimed")
    }).pipe(database))

  it.effect("a decision between reading and writing stands", () =>
    Effect.gen(function*() {
      const { id, loser, winner } = yield* race((queue, id) => queue.decide(id, { _tag: "Approve" }))
      assert.strictEqual(tagOf(yield* Effect.flip(loser.decide(id, { _tag: "Retry" }))), "AlreadyDecided")
      assert.strictEqual((yield* winner.get(id)).resolution?.decision._tag, "Approve")
    }).pipe(database))

  it.effect("two workers of the same name do not claim the same escalation", () =>
    Effect.gen(function*() {
      const { id, loser, winner } = yield* race((queue) => queue.claimNext({ by: "worker" }))
      const next = yield* winner.submit({ reason: "RequiresHuman", task: "b" })
      const claimed = yield* loser.claimNext({ by: "worker" })
      const ids = [id, next.id].toSorted()
      const got = [Option.getOrThrow(claimed).id, ...(yield* winner.list({ status: "claimed" })).map(({ id }) => id)]
      assert.deepStrictEqual(Array.from(new Set(got)).toSorted(), ids)
    }).pipe(database))
})

describe("excerpts", () => {
  it.prop("an excerpt is JSON of bounded size, whatever it is made from", [Schema.Json, Schema.Int], ([value, n]) => {
    const limit = 50 + Math.abs(n) % 500
    const wide = Array.from({ length: 50 }, (_, i) => ({ [`key ${i}`]: value, text: "x".repeat(1000) }))
    for (const from of [value, wide, { wide, deep: [[[[wide]]]] }, "y".repeat(100_000)]) {
      const written = excerpt(from, limit)
      assert.isBelow(JSON.stringify(written).length, limit * 7 + 2000)
      // Equal and not deepStrictEqual: JSON has no -0.
      assert.isTrue(Equal.equals(JSON.parse(JSON.stringify(written)), written))
    }
  })

  it("what was left out has a marker in its place", () => {
    assert.strictEqual(excerpt("abcdef", 4), "abcd<truncated: 2 more characters>")
    assert.deepStrictEqual(excerpt(["aaaa", "bbbb", "cccc"], 7), [
      "aaaa",
      "b<truncated: 3 more characters>",
      "<truncated: 1 more items>"
    ])
  })

  it("takes whatever an agent's state may hold", () => {
    const circular: Record<string, unknown> = { date: new Date(0), big: 1n, nothing: undefined, f: () => 1 }
    circular["self"] = circular
    assert.deepStrictEqual(
      excerpt({ circular, map: new Map([["a", 1]]), error: new RangeError("r"), nan: Number.NaN }, 1000),
      {
        circular: { date: "1970-01-01T00:00:00.000Z", big: "1", self: "<circular>" },
        map: [["a", 1]],
        error: { name: "RangeError", message: "r" },
        nan: "NaN"
      }
    )
    assert.strictEqual(
      excerpt({
        get a(): number {
          throw new Error("boom")
        }
      }, 100),
      "<unreadable>"
    )
    assert.deepStrictEqual(Object.keys(Object(excerpt(JSON.parse("{\"__proto__\":1}"), 100))), ["__proto__"])
  })

  it("the value under the name of a secret is left out, however the name is written, and however long", () => {
    for (const name of ["password", "my\npassword", "API-Key", "Set-Cookie", `${"passw".repeat(200_000)}ord`]) {
      assert.notInclude(JSON.stringify(excerpt({ [name]: "hunter2" }, 100)), "hunter2")
    }
  })

  it("an error is told by its tag and message, without what looks like a secret", () => {
    assert.deepStrictEqual(summary({ _tag: "Declined", code: 7 }, 100), {
      tag: "Declined",
      message: "{\"_tag\":\"Declined\",\"code\":7}"
    })
    assert.deepStrictEqual(summary("plain", 100), { tag: "string", message: "plain" })
    assert.notInclude(summary(new Error("password=hunter2 for x"), 100).message, "hunter2")
  })
})
