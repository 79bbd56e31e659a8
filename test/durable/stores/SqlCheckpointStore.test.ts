import { assert, describe, it } from "@effect/vitest"
import { Duration, Effect, Layer } from "effect"
import { CheckpointStore } from "effect-resilience"
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
        sql.withTransaction(store.append(lease, { position: 0, step: "", body: "{}" }))
      )
      assert.strictEqual(error.reason._tag, "InTransaction")
      yield* store.append(lease, { position: 0, step: "", body: "{}" })
    }).pipe(Effect.provide(withSqliteFile(onFile))))

  it.effect("a database that fails in the middle leaves neither a record nor a status", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const store = yield* CheckpointStore.CheckpointStore
      const lease = yield* store.acquire("a", minute)
      yield* store.append(lease, { position: 0, step: "", body: "{}" }, "running")
      yield* sql`CREATE TRIGGER full BEFORE INSERT ON effect_resilience_journal
        BEGIN SELECT RAISE(ABORT, 'no room'); END`
      const append = store.append(lease, { position: 1, step: "s", body: "{}" }, "failed")
      assert.strictEqual((yield* Effect.flip(append)).reason._tag, "Rejected")
      assert.deepStrictEqual((yield* store.list()).map((run) => [run.status, run.entries]), [["running", 1]])
      yield* sql`DROP TRIGGER full`
      yield* append
      assert.strictEqual((yield* store.read("a")).length, 2)
    }).pipe(Effect.provide(withSqliteFile(onFile))))

  it.effect("two layers over one file see one store", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const one = yield* Layer.build(onFile(filename))
      const two = yield* Layer.build(onFile(filename))
      const store = (context: typeof one) => CheckpointStore.CheckpointStore.pipe(Effect.provide(context))
      const [a, b] = [yield* store(one), yield* store(two)]
      const lease = yield* a.acquire("r", minute)
      yield* a.append(lease, { position: 0, step: "", body: "{}" }, "running")
      assert.strictEqual((yield* Effect.flip(b.acquire("r", minute))).reason._tag, "LeaseHeld")
      assert.strictEqual((yield* b.read("r")).length, 1)
      yield* a.release(lease)
      const next = yield* b.acquire("r", minute)
      assert.strictEqual(
        (yield* Effect.flip(a.append(lease, { position: 1, step: "", body: "{}" }))).reason._tag,
        "Fenced"
      )
      yield* b.append(next, { position: 1, step: "", body: "{}" })
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
})
