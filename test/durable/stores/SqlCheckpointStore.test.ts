import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { SqlClient } from "effect/sql"
import { suite } from "../contracts/CheckpointStoreContract.ts"
import { sqliteFile, withSqliteFile } from "../sqliteFile.ts"

const onFile = (filename: string) => SqlCheckpointStore.layer.pipe(Layer.provideMerge(NodeSqlite.layer({ filename })))

suite("SQLite file", withSqliteFile(onFile))

const minute = Duration.minutes(1)

describe("SqlCheckpointStore", () => {
  it.effect("tables of a newer release are refused with both versions", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        yield* sql`INSERT INTO effect_resilience_checkpoint_migrations (migration_id, name) VALUES (99, 'later')`
      }).pipe(Effect.provide(onFile(filename)))
      const error = yield* CheckpointStore.CheckpointStore.pipe(Effect.provide(onFile(filename)), Effect.flip)
      assert.strictEqual(error._tag, "CheckpointStoreError")
      assert.deepStrictEqual(
        error._tag === "CheckpointStoreError" && error.reason,
        { _tag: "SchemaTooNew", found: 99, known: 1 }
      )
    }))

  it.effect("a record is refused inside a transaction of the caller, which could take it back", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const store = yield* CheckpointStore.CheckpointStore
      const lease = yield* store.acquire("a", minute)
      const error = yield* Effect.flip(
        sql.withTransaction(store.append(lease, [{ position: 0, step: "", body: "{}" }]))
      )
      assert.strictEqual(error.reason._tag, "InTransaction")
      yield* store.append(lease, [{ position: 0, step: "", body: "{}" }])
    }).pipe(Effect.provide(withSqliteFile(onFile))))

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

  it.effect("a run whose row is corrupt fails alone, and says why", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const store = yield* CheckpointStore.CheckpointStore
      for (const id of ["a", "b"]) {
        const lease = yield* store.acquire(id, minute)
        yield* store.append(lease, [{ position: 0, step: "", body: "{}" }], "running")
        yield* store.release(lease)
      }
      yield* sql`UPDATE effect_resilience_runs SET status = 'paused' WHERE run_id = 'a'`
      assert.deepStrictEqual((yield* store.list()).map((run) => run.runId), ["b"])
      for (const use of [Effect.asVoid(store.get("a")), Effect.asVoid(store.acquire("a", minute))]) {
        const error = yield* Effect.flip(use)
        assert.strictEqual(error.reason._tag, "Rejected")
        assert.include(error.message, "status")
      }
    }).pipe(Effect.provide(withSqliteFile(onFile))))

  it.effect("a journal whose run is not in the table of runs is corrupt, and not run again", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      let ran = 0
      const program = Checkpoint.run(Checkpoint.step("a", {}, Effect.sync(() => void ran++)), { id: "a" })
      yield* program
      for (
        const damage of [
          sql`DELETE FROM effect_resilience_runs`,
          sql`DELETE FROM effect_resilience_journal WHERE position = 2`
        ]
      ) {
        yield* damage
        assert.strictEqual((yield* Effect.flip(program))._tag, "CheckpointCorrupt")
      }
      assert.strictEqual(ran, 1)
    }).pipe(Effect.provide(withSqliteFile(onFile))))

  it.effect("two layers over one file see one store", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const one = yield* Layer.build(onFile(filename))
      const two = yield* Layer.build(onFile(filename))
      const store = (context: typeof one) => CheckpointStore.CheckpointStore.pipe(Effect.provide(context))
      const [a, b] = [yield* store(one), yield* store(two)]
      const lease = yield* a.acquire("r", minute)
      yield* a.append(lease, [{ position: 0, step: "", body: "{}" }], "running")
      assert.strictEqual((yield* Effect.flip(b.acquire("r", minute))).reason._tag, "LeaseHeld")
      assert.strictEqual((yield* b.read("r")).length, 1)
      yield* a.release(lease)
      const next = yield* b.acquire("r", minute)
      assert.strictEqual(
        (yield* Effect.flip(a.append(lease, [{ position: 1, step: "", body: "{}" }]))).reason._tag,
        "Fenced"
      )
      yield* b.append(next, [{ position: 1, step: "", body: "{}" }])
    }))

  it.effect("an owner known to be gone is followed at once, with a newer token", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const dead = new Set<string>()
      const layer = (id: string) =>
        SqlCheckpointStore.layerWith({
          owner: { id, isGone: (owner) => Effect.sync(() => dead.has(owner)) }
        }).pipe(Layer.provide(NodeSqlite.layer({ filename })))
      const a = yield* CheckpointStore.CheckpointStore.pipe(Effect.provide(yield* Layer.build(layer("a"))))
      const b = yield* CheckpointStore.CheckpointStore.pipe(Effect.provide(yield* Layer.build(layer("b"))))
      const lease = yield* a.acquire("r", minute)
      assert.strictEqual((yield* Effect.flip(b.acquire("r", minute))).reason._tag, "LeaseHeld")
      dead.add("a")
      const next = yield* b.acquire("r", minute)
      assert.isAbove(next.token, lease.token)
      assert.strictEqual((yield* Effect.flip(a.renew(lease, minute))).reason._tag, "Fenced")
    }))

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
