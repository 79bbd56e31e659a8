/**
 * A PostgreSQL server for benches: the one at `DATABASE_URL`, by default on loopback.
 */
import * as PgConnection from "@effect/sql-pg/PgConnection"
import { Effect, Redacted, Schedule, Schema } from "effect"
import { LeftOut } from "./journal.ts"

const server = process.env["DATABASE_URL"] ?? "postgres://postgres@127.0.0.1:5432/test"

export const connect = (url: string) => PgConnection.make({ url: Redacted.make(url) })

/** The URL of a new database, in which commits wait for the disk. It is dropped at the end of the scope. */
export const temporaryDatabase = Effect.gen(function*() {
  const admin = yield* Effect.mapError(
    connect(server),
    (error) =>
      new LeftOut({
        reason: `no PostgreSQL answers at ${new URL(server).host}: ${error.message}`,
        remedy: "start one, or set DATABASE_URL"
      })
  )
  const name = `effect_resilience_bench_${crypto.randomUUID().replaceAll("-", "_")}`
  // Who was told to close a connection may not have done so yet, and would take a forced end for a failure.
  const used = Effect.map(
    admin.queryValues("SELECT 1 FROM pg_stat_activity WHERE datname = $1", [name]),
    (sessions) => sessions.length > 0
  )
  const closed = Effect.repeat(used, { schedule: Schedule.spaced("20 millis"), times: 100, while: (inUse) => inUse })
  yield* Effect.acquireRelease(
    admin.query(`CREATE DATABASE ${name} TEMPLATE template0`),
    () => Effect.orDie(Effect.andThen(closed, admin.query(`DROP DATABASE ${name} WITH (FORCE)`)))
  )
  yield* admin.query(`ALTER DATABASE ${name} SET synchronous_commit = on`)
  const url = new URL(server)
  url.pathname = `/${name}`
  return url.href
})

const decodeSize = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Tuple([Schema.FiniteFromString])]))

/** What all tables of a database take, with their indexes. */
export const databaseBytes = (url: string) =>
  Effect.scoped(Effect.gen(function*() {
    const connection = yield* connect(url)
    const rows = yield* connection.queryValues(
      `SELECT sum(pg_total_relation_size(oid))::text FROM pg_class
        WHERE relkind = 'r' AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)`
    )
    const [[bytes]] = yield* decodeSize(rows)
    return bytes
  }))

const decodeSetting = Schema.decodeUnknownEffect(Schema.Tuple([Schema.Tuple([Schema.String])]))

/** How the server makes a commit durable. */
export const serverDurability = Effect.scoped(Effect.gen(function*() {
  const connection = yield* connect(server)
  const setting = (name: string) =>
    Effect.map(Effect.flatMap(connection.queryValues(`SHOW ${name}`), decodeSetting), ([[value]]) => value)
  return `fsync = ${yield* setting("fsync")}, synchronous_commit = on, wal_sync_method = ${yield* setting(
    "wal_sync_method"
  )}`
}))
