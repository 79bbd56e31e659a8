import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Context, Duration, Effect, Layer, Option, type Scope } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { SqlClient } from "effect/sql"
import { describeWithPostgres, suiteSchema } from "../../support/postgres.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"
import { sqliteFile, withSqliteFile } from "../sqliteFile.ts"

const onFile = (filename: string) => SqlCheckpointStore.layer.pipe(Layer.provideMerge(NodeSqlite.layer({ filename })))

suite("SQLite file", withSqliteFile(onFile))

const minute = Duration.minutes(1)

const store = CheckpointStore.CheckpointStore

type Services = CheckpointStore.CheckpointStore | SqlClient.SqlClient

const record = (position: number, body = "{}"): CheckpointStore.Entry => ({
  position,
  step: position === 0 ? "" : `step#${position}`,
  body
})

/** What holds on every database. `open` gives a store without runs, and each provision of it is another process. */
const everywhere = (
  name: string,
  open: Effect.Effect<(owner: CheckpointStore.LeaseOwner) => Layer.Layer<Services, unknown>, unknown, Scope.Scope>
) => {
  const owner = (id: string, gone: ReadonlySet<string> = new Set()): CheckpointStore.LeaseOwner => ({
    id,
    isGone: (other) => Effect.sync(() => gone.has(other))
  })

  const test = (
    name: string,
    body: (
      process: (owner: CheckpointStore.LeaseOwner) => Effect.Effect<Context.Context<Services>, unknown, Scope.Scope>
    ) => Effect.Effect<void, unknown, Services | Scope.Scope>
  ) =>
    it.effect(name, () =>
      Effect.flatMap(open, (layer) =>
        body((owner) => Layer.build(Layer.fresh(layer(owner)))).pipe(
          Effect.provide(Layer.fresh(layer(owner("first"))), { local: true })
        )))

  describe(name, () => {
    test("tables of a newer release are refused with both versions", (process) =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const migrations = sql("effect_resilience_checkpoint_migrations")
        yield* sql`INSERT INTO ${migrations} (migration_id, name) VALUES (99, 'later')`
        const error = yield* Effect.flip(process(owner("second")))
        yield* sql`DELETE FROM ${migrations} WHERE migration_id = 99`
        assert.isTrue(error instanceof CheckpointStore.CheckpointStoreError)
        if (error instanceof CheckpointStore.CheckpointStoreError) {
          assert.deepStrictEqual(error.reason, { _tag: "SchemaTooNew", found: 99, known: 1 })
        }
      }))

    test("nothing is written inside a transaction of the caller, which could take it back", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const { acquire, append, release, remove, renew } = yield* store
        const lease = yield* acquire("a", minute)
        const writes: ReadonlyArray<Effect.Effect<unknown, CheckpointStore.CheckpointStoreError>> = [
          append(lease, [record(0)]),
          append(lease, [record(0)], "failed"),
          acquire("b", minute),
          renew(lease, minute),
          release(lease),
          remove(lease)
        ]
        for (const write of writes) {
          const error = yield* Effect.flip(sql.withTransaction(write))
          assert.isTrue(error instanceof CheckpointStore.CheckpointStoreError && error.reason._tag === "InTransaction")
        }
        yield* append(lease, [record(0)])
      }))

    test("a run whose row is corrupt fails alone, says why, and can be cleared", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const { acquire, append, get, list, read, release } = yield* store
        for (const id of ["a", "b"]) {
          const lease = yield* acquire(id, minute)
          yield* append(lease, [record(0)], "running")
          yield* release(lease)
        }
        yield* sql`UPDATE effect_resilience_runs SET status = 'paused' WHERE run_id = 'a'`
        assert.deepStrictEqual((yield* list()).map((run) => run.runId), ["b"])
        const error = yield* Effect.flip(get("a"))
        assert.strictEqual(error.reason._tag, "Corrupt")
        assert.include(error.message, "status")
        const run = yield* Effect.flip(Checkpoint.run(Effect.die("ran"), { id: "a" }))
        assert.strictEqual(run._tag, "CheckpointCorrupt")
        assert.strictEqual((yield* read("a")).length, 1)
        yield* Checkpoint.clear("a")
        yield* sql`UPDATE effect_resilience_runs SET status = 'running'`
        assert.deepStrictEqual((yield* list()).map((run) => run.runId), ["b"])
      }))

    test("a journal that lacks a record is corrupt, and not run again", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        let ran = 0
        const program = Checkpoint.run(Checkpoint.step("a", {}, Effect.sync(() => void ran++)), { id: "a" })
        yield* program
        yield* sql`DELETE FROM effect_resilience_journal WHERE step = 'a'`
        assert.strictEqual((yield* Effect.flip(program))._tag, "CheckpointCorrupt")
        assert.strictEqual(ran, 1)
      }))

    test("two processes see one store", (process) =>
      Effect.gen(function*() {
        const a = yield* store
        const b = Context.get(yield* process(owner("second")), store)
        const lease = yield* a.acquire("r", minute)
        yield* a.append(lease, [record(0)], "running")
        const { reason } = yield* Effect.flip(b.acquire("r", minute))
        assert.isTrue(reason._tag === "LeaseHeld" && reason.owner === "first")
        assert.strictEqual((yield* b.read("r")).length, 1)
        yield* a.release(lease)
        const next = yield* b.acquire("r", minute)
        assert.strictEqual((yield* Effect.flip(a.append(lease, [record(1)]))).reason._tag, "Fenced")
        yield* b.append(next, [record(1)])
      }))

    test("an owner known to be gone is followed at once, with a newer token", (process) =>
      Effect.gen(function*() {
        const gone = new Set<string>()
        const a = yield* store
        const b = Context.get(yield* process(owner("second", gone)), store)
        const lease = yield* a.acquire("r", minute)
        assert.strictEqual((yield* Effect.flip(b.acquire("r", minute))).reason._tag, "LeaseHeld")
        gone.add("first")
        const next = yield* b.acquire("r", minute)
        assert.isAbove(next.token, lease.token)
        assert.strictEqual(next.abandoned, 1)
        assert.strictEqual((yield* Effect.flip(a.renew(lease, minute))).reason._tag, "Fenced")
      }))

    test("processes that take a run from each other lose no record that was acknowledged", (process) =>
      Effect.gen(function*() {
        const acknowledged: Array<string> = []
        const fenced: Array<string> = []
        const work = Effect.fnUntraced(function*(name: string) {
          const { acquire, append, read } = Context.get(yield* process(owner(name)), store)
          for (let n = 0; n < 12; n++) {
            const lease = yield* acquire("r", minute, { takeOver: true })
            let position = (yield* read("r")).length
            for (let m = 0; m < 4; m++) {
              const body = JSON.stringify(`${name} ${n} ${m}`)
              const written = yield* Effect.result(append(lease, [record(position, body)]))
              if (written._tag === "Failure") {
                assert.strictEqual(written.failure.reason._tag, "Fenced")
                fenced.push(name)
                break
              }
              acknowledged.push(body)
              position++
              yield* Effect.yieldNow
            }
          }
        })
        yield* Effect.forEach(["a", "b", "c"], work, { concurrency: "unbounded" })
        const journal = yield* Effect.flatMap(store, ({ read }) => read("r"))
        assert.deepStrictEqual(journal.map(({ position }) => position), journal.map((_, index) => index))
        assert.deepStrictEqual(journal.map(({ body }) => body).toSorted(), acknowledged.toSorted())
        assert.isAbove(fenced.length, 0)
      }))

    test("a run that was given back without a record leaves nothing", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const { acquire, append, release, remove } = yield* store
        yield* release(yield* acquire("a", minute))
        const lease = yield* acquire("b", minute)
        yield* append(lease, [record(0), record(1)])
        yield* remove(lease)
        for (const table of ["effect_resilience_runs", "effect_resilience_journal"]) {
          assert.deepStrictEqual(yield* sql`SELECT * FROM ${sql(table)}`, [])
        }
      }))

    test("runs whose keys are beyond what a number can hold are kept apart like others", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const { acquire, append, get, list, read, remove } = yield* store
        const granted = 2 ** 38
        yield* sql.onDialectOrElse({
          pg: () => sql`SELECT setval('effect_resilience_tokens', ${granted})`,
          orElse: () => sql`UPDATE effect_resilience_tokens SET last = ${granted}`
        })
        const a = yield* acquire("a", minute)
        const b = yield* acquire("b", minute)
        const records = Array.from({ length: 5 }, (_, n) => record(n))
        for (const entry of records) {
          yield* append(a, [entry])
          yield* append(b, [entry])
        }
        yield* append(a, [record(5), record(6)], "suspended")
        yield* append(a, [record(5), record(6)], "suspended")
        assert.deepStrictEqual(yield* read("a"), [...records, record(5), record(6)])
        assert.deepStrictEqual((yield* list()).map(({ entries }) => entries), [7, 5])
        yield* remove(a)
        assert.deepStrictEqual(yield* read("b"), records)
        assert.strictEqual(Option.getOrUndefined(yield* get("b"))?.entries, 5)
      }))

    test("a journal that is full is Rejected, and no other run is touched", () =>
      Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        const { acquire, append, get, list } = yield* store
        const full = yield* acquire("full", minute)
        const next = yield* acquire("next", minute)
        yield* append(full, [record(0)])
        yield* append(next, [record(0)])
        const last = 16_777_215
        yield* sql`UPDATE effect_resilience_journal SET key = key + ${
          last - 1
        } WHERE key < (SELECT MAX(key) FROM effect_resilience_journal)`
        yield* append(full, [record(last)])
        assert.strictEqual((yield* Effect.flip(append(full, [record(last + 1)]))).reason._tag, "Rejected")
        assert.strictEqual(Option.getOrUndefined(yield* get("full"))?.entries, 16_777_216)
        assert.deepStrictEqual((yield* list()).map(({ entries }) => entries), [16_777_216, 1])
      }))
  })
}

everywhere(
  "SqlCheckpointStore on SQLite",
  Effect.map(
    sqliteFile,
    (filename) => (owner: CheckpointStore.LeaseOwner) =>
      SqlCheckpointStore.layerWith({ owner }).pipe(Layer.provideMerge(NodeSqlite.layer({ filename })))
  )
)

describeWithPostgres("SqlCheckpointStore on PostgreSQL", () => {
  everywhere(
    "everywhere",
    Effect.map(
      suiteSchema(),
      (options) => (owner: CheckpointStore.LeaseOwner) =>
        SqlCheckpointStore.layerWith({ owner }).pipe(Layer.provideMerge(PgClient.layer(options)))
    )
  )
})

describe("SqlCheckpointStore in a SQLite file", () => {
  it.effect("a database that fails in the middle leaves neither a record nor a status", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const store = yield* CheckpointStore.CheckpointStore
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, [{ position: 0, step: "", body: "{}" }], "running")
      yield* sql`CREATE TRIGGER full BEFORE INSERT ON effect_resilience_journal
        BEGIN SELECT RAISE(ABORT, 'no room'); END`
      const append = store.append(lease, [{ position: 1, step: "s", body: "{}" }], "failed")
      assert.strictEqual((yield* Effect.flip(append)).reason._tag, "Rejected")
      assert.deepStrictEqual((yield* store.list()).map((run) => [run.status, run.entries]), [["running", 1]])
      yield* sql`DROP TRIGGER full`
      yield* append
      assert.strictEqual((yield* store.read("a")).length, 2)
    }).pipe(Effect.provide(withSqliteFile(onFile))))

  it.effect("a transaction is not left open while another connection of this process has its turn", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      // With no time to wait for a lock, meeting one is a failure.
      const layer = SqlCheckpointStore.layer.pipe(Layer.provide(NodeSqlite.layer({ filename, busyTimeout: 0 })))
      const worker = (runId: string) =>
        Effect.gen(function*() {
          const store = yield* CheckpointStore.CheckpointStore
          const lease = yield* store.acquire(runId, minute)
          for (let position = 0; position < 30; position++) {
            // Any place in the transaction may be where the fiber has used up its turn.
            yield* Effect.repeat(Effect.void, { times: 1900 + position * 7 })
            yield* store.append(lease, [{ position, step: "", body: "{}" }])
          }
        }).pipe(Effect.provide(layer, { local: true }))
      yield* Effect.all([worker("a"), worker("b"), worker("c")], { concurrency: "unbounded" })
    }))

  it.effect("a file that another process writes to is unavailable, and the record can be written when it is done", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const open = Layer.build(Layer.fresh(Layer.provideMerge(
        SqlCheckpointStore.layer,
        NodeSqlite.layer({ filename, busyTimeout: 0 })
      )))
      const mine = Context.get(yield* open, store)
      const theirs = Context.get(yield* open, SqlClient.SqlClient)
      const lease = yield* mine.acquire("a", minute)
      const writes: ReadonlyArray<Effect.Effect<unknown, CheckpointStore.CheckpointStoreError>> = [
        mine.append(lease, [record(0)]),
        mine.append(lease, [record(1)], "failed"),
        mine.acquire("b", minute),
        mine.release(lease)
      ]
      yield* theirs.withTransaction(
        Effect.forEach(
          writes,
          (write) => Effect.map(Effect.flip(write), ({ reason }) => assert.strictEqual(reason._tag, "Unavailable"))
        )
      )
      yield* Effect.all(writes)
      const run = Option.getOrUndefined(yield* mine.get("a"))
      assert.deepStrictEqual([run?.entries, run?.status, run?.lease], [2, "failed", undefined])
    }))

  it.effect("a full disk is a store that is unavailable, and the record can be written when there is room", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const store = yield* CheckpointStore.CheckpointStore
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, [{ position: 0, step: "", body: "{}" }])
      yield* sql`PRAGMA max_page_count = 1`
      const large = { position: 1, step: "s", body: `"${"x".repeat(100_000)}"` }
      assert.strictEqual((yield* Effect.flip(store.append(lease, [large], "failed"))).reason._tag, "Unavailable")
      assert.deepStrictEqual((yield* store.list()).map((run) => [run.status, run.entries]), [["running", 1]])
      yield* sql`PRAGMA max_page_count = 1000000`
      yield* store.append(lease, [large])
      assert.strictEqual((yield* store.read("a")).length, 2)
    }).pipe(Effect.provide(withSqliteFile(onFile))))
})
