import { PgClient } from "@effect/sql-pg"
import { assert, describe, it } from "@effect/vitest"
import { Effect, Layer, Schema, type Scope } from "effect"
import { EscalationQueue, Idempotency } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import * as SqlIdempotency from "effect-resilience/durable/stores/SqlIdempotency"
import { SqlClient, type SqlError } from "effect/sql"
import { describeWithPostgres } from "../../support/postgres.ts"
import { postgresSchema } from "../../support/postgresServer.ts"
import { sqliteFile } from "../sqliteFile.ts"

const stores = Layer.mergeAll(SqlEscalationQueue.layer, SqlIdempotency.layer)
const memory = Layer.provideMerge(stores, NodeSqlite.layer({ filename: ":memory:" }))

describe("a store inside a transaction of its caller", () => {
  it.effect("executes no call that could be rolled back unseen: Idempotency", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      let sent = 0
      const send = Idempotency.once(
        { scope: "s", tool: "send", success: Schema.Int },
        Effect.sync(() => ++sent)
      )
      for (const call of [send, Idempotency.clear("s")]) {
        const error = yield* Effect.flip(sql.withTransaction(call))
        assert.isTrue(error instanceof Idempotency.IdempotencyStoreError && error.reason === "InTransaction")
      }
      assert.strictEqual(sent, 0)
      assert.strictEqual(yield* send, 1)
      assert.strictEqual(yield* send, 1)
    }).pipe(Effect.provide(memory)))

  it.effect("acknowledges nothing that could be rolled back unseen: EscalationQueue", () =>
    Effect.gen(function*() {
      const sql = yield* SqlClient.SqlClient
      const queue = yield* EscalationQueue.EscalationQueue
      const { id } = yield* queue.submit({ reason: "RequiresHuman", task: "a" })
      const calls: ReadonlyArray<Effect.Effect<unknown, EscalationQueue.EscalationError>> = [
        queue.submit({ reason: "RequiresHuman", task: "b" }),
        queue.decide(id, { _tag: "Approve" }),
        queue.claim(id, { by: "ann" }),
        queue.prune("1 day")
      ]
      for (const call of calls) {
        const error = yield* Effect.flip(sql.withTransaction(call))
        assert.isTrue(error instanceof EscalationQueue.EscalationError && error.reason._tag === "InTransaction")
      }
      assert.deepStrictEqual((yield* queue.list()).map(({ status }) => status), ["open"])
    }).pipe(Effect.provide(memory)))
})

const newerTables = (
  open: Effect.Effect<Layer.Layer<SqlClient.SqlClient, SqlError.SqlError>, unknown, Scope.Scope>
) => {
  /** A database whose tables a newer release has changed. */
  const newer = (table: string) =>
    Effect.gen(function*() {
      const database = yield* open
      yield* Effect.provide(Layer.build(Layer.provide(stores, database)), database)
      yield* SqlClient.SqlClient.use((sql) => sql`INSERT INTO ${sql(table)} (migration_id, name) VALUES (99, 'later')`)
        .pipe(Effect.provide(database))
      return database
    })

  it.effect("Idempotency", () =>
    Effect.gen(function*() {
      const database = yield* newer("effect_resilience_idempotency_migrations")
      const error = yield* Effect.flip(Effect.provide(SqlIdempotency.makeStore, database))
      assert.isTrue(error instanceof Idempotency.IdempotencyStoreError && error.reason === "SchemaTooNew")
      assert.match(error.message, /99.*1/)
    }))

  it.effect("EscalationQueue", () =>
    Effect.gen(function*() {
      const database = yield* newer("effect_resilience_escalation_migrations")
      const error = yield* Effect.flip(Effect.provide(SqlEscalationQueue.makeStore, database))
      assert.deepStrictEqual(
        error instanceof EscalationQueue.EscalationError && error.reason,
        { _tag: "SchemaTooNew", found: 99, known: 2 }
      )
    }))
}

describe("a store whose tables are of a newer release is refused with both versions", () => {
  newerTables(Effect.map(sqliteFile, (filename) => NodeSqlite.layer({ filename })))
})

describeWithPostgres("a store whose tables are of a newer release is refused with both versions, on PostgreSQL", () => {
  newerTables(Effect.map(postgresSchema, PgClient.layer))
})

describeWithPostgres("SqlIdempotency on PostgreSQL", () => {
  it.effect("of processes that record a result at once one wins, and all are told its result, also in place of an expired one", () =>
    Effect.gen(function*() {
      const database = PgClient.layer(yield* postgresSchema)
      const processes = yield* Effect.forEach([1, 2, 3, 4], () =>
        Effect.flatMap(
          Layer.build(Layer.fresh(database)),
          (context) => Effect.provideContext(SqlIdempotency.makeStore, context)
        ))
      const record = (now: number) =>
        Effect.forEach(
          processes,
          ({ put }, n) => put("s", "hash", { outcome: `${now} ${n}`, recordedAt: now, expiresAt: now + 1_000 }),
          { concurrency: "unbounded" }
        )
      const told: Array<string> = []
      for (let round = 0; round < 10; round++) {
        const [one, ...others] = yield* record(round * 1_000)
        for (const other of others) assert.deepStrictEqual(other, one)
        told.push(one?.outcome ?? "")
      }
      assert.strictEqual(new Set(told).size, 10)
    }))
})
