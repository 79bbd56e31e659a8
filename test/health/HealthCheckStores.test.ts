import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Redacted } from "effect"
import { CheckpointStore, HealthCheck, HealthMonitor } from "effect-resilience"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlCheckpointStore from "effect-resilience/durable/stores/SqlCheckpointStore"
import { SqlClient } from "effect/sql"
import * as net from "node:net"
import { pipeline } from "node:stream"
import { sqliteFile } from "../durable/sqliteFile.ts"
import { describeWithPostgres } from "../support/postgres.ts"
import { connectPostgres, postgresSchema } from "../support/postgresServer.ts"
import { databaseUrl } from "../support/servers.ts"
import { withTemporaryFolder } from "../support/temporaryFolder.ts"

const check = HealthCheck.checkpointStoreWritable()

const result = Effect.gen(function*() {
  const monitor = yield* HealthMonitor.make({ checks: [check] })
  const [found] = (yield* monitor.check).checks
  return `${found?.status}: ${found?.message}`
}).pipe(Effect.scoped)

/** The store is writable, and nothing is left of the proof. */
const isWritable = Effect.gen(function*() {
  assert.strictEqual(yield* result, "healthy: writable")
  const store = yield* CheckpointStore.CheckpointStore
  assert.deepStrictEqual(yield* store.list(), [])
})

const failed = "critical: the check failed with CheckpointStoreError"

describe("HealthCheck.checkpointStoreWritable", () => {
  it.effect("memory is writable, and nothing is left of the proof", () =>
    Effect.provide(isWritable, CheckpointStore.layerMemory))

  it.effect("files are writable, and nothing is left of the proof", () =>
    Effect.provide(isWritable, withTemporaryFolder((folder) => FileCheckpointStore.layer({ directory: folder }))))

  it.effect("SQLite is writable until it is read-only", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const layer = Layer.provideMerge(SqlCheckpointStore.layer, NodeSqlite.layer({ filename }))
      yield* Effect.gen(function*() {
        yield* isWritable
        const sql = yield* SqlClient.SqlClient
        yield* sql`PRAGMA query_only = ON`
        assert.strictEqual(yield* result, failed)
        yield* sql`PRAGMA query_only = OFF`
        yield* isWritable
      }).pipe(Effect.provide(layer))
    }))

  it.effect("an append that fails is a failure, and the lease is not left behind", () =>
    Effect.gen(function*() {
      const store = yield* CheckpointStore.makeMemory()
      const leases = new Set<string>()
      const broken = CheckpointStore.CheckpointStore.of({
        ...store,
        acquire: (id, ttl) => Effect.tap(store.acquire(id, ttl), () => Effect.sync(() => leases.add(id))),
        remove: (lease) => Effect.tap(store.remove(lease), () => Effect.sync(() => leases.delete(lease.runId))),
        append: () =>
          Effect.fail(new CheckpointStore.CheckpointStoreError({ operation: "append", reason: { _tag: "Rejected" } }))
      })
      const service = Effect.provideService(CheckpointStore.CheckpointStore, broken)
      assert.strictEqual(yield* service(result), failed)
      assert.strictEqual(leases.size, 0)
    }))
})

/** A way to PostgreSQL that can be cut. */
const proxy = Effect.gen(function*() {
  const target = new URL(databaseUrl)
  const sockets = new Set<net.Socket>()
  const state = { isCut: false }
  const server = net.createServer((near) => {
    if (state.isCut) {
      near.destroy()
      return
    }
    sockets.add(near)
    // Either end that goes takes the other one with it.
    pipeline(near, net.connect(Number(target.port || 5432), target.hostname), near, () => sockets.delete(near))
  })
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        for (const socket of sockets) socket.destroy()
        server.close(() => resume(Effect.void))
      })
  )
  const address = server.address()
  const url = new URL(databaseUrl)
  url.port = String(typeof address === "object" ? address?.port : "")
  return {
    url: url.href,
    setCut: (isCut: boolean) =>
      Effect.sync(() => {
        state.isCut = isCut
        if (isCut) { for (const socket of sockets) socket.destroy() }
      })
  }
})

describeWithPostgres("HealthCheck.checkpointStoreWritable on PostgreSQL", () => {
  const storeOn = (client: SqlClient.SqlClient) =>
    Layer.build(Layer.provide(SqlCheckpointStore.layer, Layer.succeed(SqlClient.SqlClient, client)))

  it.effect("is writable until the database is read-only", () =>
    Effect.gen(function*() {
      const sql = yield* connectPostgres({ ...(yield* postgresSchema), maxConnections: 1 })
      const store = Effect.provide(yield* storeOn(sql))
      yield* store(isWritable)
      yield* sql`SET default_transaction_read_only = on`
      assert.strictEqual(yield* store(result), failed)
      yield* sql`SET default_transaction_read_only = off`
      yield* store(isWritable)
    }))

  it.effect("is critical while the database is away, and healthy when it is back", () =>
    Effect.gen(function*() {
      const { setCut, url } = yield* proxy
      const sql = yield* connectPostgres({ ...(yield* postgresSchema), url: Redacted.make(url) })
      const store = Effect.provide(yield* storeOn(sql))
      yield* store(isWritable)
      yield* setCut(true)
      assert.strictEqual(yield* store(result), failed)
      yield* setCut(false)
      yield* store(isWritable)
    }))
})
