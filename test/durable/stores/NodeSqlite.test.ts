import { assert, describe, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Stream } from "effect"
import { Checkpoint } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import * as Reactivity from "effect/reactivity/Reactivity"
import { SqlClient } from "effect/sql"
import { TestClock } from "effect/testing"
import * as fs from "node:fs"
import * as path from "node:path"
import { DatabaseSync } from "node:sqlite"
import { sqliteFile, withSqliteFile } from "../sqliteFile.ts"

const onFile = withSqliteFile((filename) => NodeSqlite.layer({ filename }))

const test = (name: string, body: (sql: SqlClient.SqlClient) => Effect.Effect<void, unknown>) =>
  it.effect(name, () => SqlClient.SqlClient.use(body).pipe(Effect.provide(onFile)))

const plain = (rows: ReadonlyArray<object>) => rows.map((row) => ({ ...row }))

describe("NodeSqlite", () => {
  test("opens a file with a write-ahead log that is synced at every commit", (sql) =>
    Effect.gen(function*() {
      assert.deepStrictEqual(plain(yield* sql`PRAGMA journal_mode`), [{ journal_mode: "wal" }])
      assert.deepStrictEqual(plain(yield* sql`PRAGMA synchronous`), [{ synchronous: 2 }])
      assert.deepStrictEqual(plain(yield* sql`PRAGMA foreign_keys`), [{ foreign_keys: 1 }])
      // The client waits itself, so that the thread need not.
      assert.deepStrictEqual(plain(yield* sql`PRAGMA busy_timeout`), [{ timeout: 0 }])
    }))

  it.effect("a file that cannot be opened is a typed failure", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const missing = path.join(filename, "no", "folder", "x.db")
      const error = yield* Effect.flip(Effect.provide(SqlClient.SqlClient, NodeSqlite.layer({ filename: missing })))
      assert.strictEqual(error.reason._tag, "ConnectionError")
    }))

  it.effect("a failure names the file and says what SQLite said", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const missing = path.join(filename, "no", "folder", "x.db")
      const error = yield* Effect.flip(Effect.provide(SqlClient.SqlClient, NodeSqlite.layer({ filename: missing })))
      assert.include(error.message, missing)
      assert.include(error.message, "unable to open database file")
      const statement = yield* Effect.gen(function*() {
        const sql = yield* SqlClient.SqlClient
        return yield* Effect.flip(sql`SELECT * FROM nowhere`)
      }).pipe(Effect.provide(NodeSqlite.layer({ filename })))
      assert.include(statement.message, filename)
      assert.include(statement.message, "no such table: nowhere")
    }))

  it("an empty file name is InvalidConfig", () => {
    assert.throws(() => Effect.runSync(Effect.scoped(Layer.build(NodeSqlite.layer({ filename: "" })))), /filename/)
  })

  test("a statement that fails is a typed failure with its class", (sql) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT UNIQUE)`
      yield* sql`INSERT INTO t (id, name) VALUES (1, 'a')`
      assert.strictEqual(
        (yield* Effect.flip(sql`INSERT INTO t (id, name) VALUES (2, 'a')`)).reason._tag,
        "UniqueViolation"
      )
      assert.strictEqual(
        (yield* Effect.flip(sql`INSERT INTO t (id, name) VALUES (1, 'b')`)).reason._tag,
        "ConstraintError"
      )
      assert.strictEqual((yield* Effect.flip(sql`SELECT * FROM nowhere`))._tag, "SqlError")
      const failure: unknown = { not: "storable" }
      assert.strictEqual((yield* Effect.flip(sql`SELECT ${failure}`))._tag, "SqlError")
    }))

  test("a lock that another process holds too long is a retryable failure", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const open = Effect.map(Layer.build(NodeSqlite.layer({ filename, busyTimeout: 0 })), (context) =>
        SqlClient.SqlClient.pipe(Effect.provideContext(context)))
      const one = yield* yield* open
      const two = yield* yield* open
      yield* one`CREATE TABLE t (n INTEGER)`
      const error = yield* one.withTransaction(Effect.flip(two`INSERT INTO t (n) VALUES (1)`))
      assert.deepStrictEqual([error.reason._tag, error.isRetryable], ["LockTimeoutError", true])
    }).pipe(Effect.scoped))

  test("stores what SQL knows, and turns booleans and dates into it", (sql) =>
    Effect.gen(function*() {
      const rows = yield* sql`SELECT ${"text"} AS a, ${1.5} AS b, ${null} AS c, ${true} AS d, ${new Date(0)} AS e,
        ${new Uint8Array([1, 2])} AS f, ${7n} AS g`
      assert.deepStrictEqual(plain(rows), [{
        a: "text",
        b: 1.5,
        c: null,
        d: 1,
        e: "1970-01-01T00:00:00.000Z",
        f: new Uint8Array([1, 2]),
        g: 7
      }])
    }))

  test("gives whole numbers beyond 2^53 as bigint when asked, and fails rather than round them", (sql) =>
    Effect.gen(function*() {
      const query = sql`SELECT 9007199254740993 AS n`
      assert.strictEqual((yield* Effect.flip(query))._tag, "SqlError")
      const rows = yield* query.pipe(Effect.provideService(SqlClient.SafeIntegers, true))
      assert.deepStrictEqual(plain(rows), [{ n: BigInt("9007199254740993") }])
    }))

  test("gives rows as objects, as arrays, as a stream, and what a statement changed", (sql) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE t (n INTEGER)`
      assert.deepStrictEqual(yield* sql`INSERT INTO t (n) VALUES (1), (2)`.raw, { changes: 2, lastInsertRowid: 2 })
      const all = sql`SELECT n, n FROM t ORDER BY n`
      assert.deepStrictEqual(yield* all.values, [[1, 1], [2, 2]])
      assert.deepStrictEqual(plain(yield* all), [{ n: 1 }, { n: 2 }])
      assert.deepStrictEqual(plain(yield* Stream.runCollect(all.stream)), [{ n: 1 }, { n: 2 }])
      assert.deepStrictEqual(plain(yield* sql`INSERT INTO t (n) VALUES (3) RETURNING n`), [{ n: 3 }])
    }))

  test("a transaction that fails or is interrupted leaves nothing", (sql) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE t (n INTEGER)`
      const insert = sql`INSERT INTO t (n) VALUES (1)`
      yield* Effect.ignore(sql.withTransaction(Effect.andThen(insert, Effect.fail("no"))))
      yield* Effect.exit(sql.withTransaction(Effect.andThen(insert, Effect.interrupt)))
      yield* Effect.exit(sql.withTransaction(Effect.andThen(insert, Effect.die("boom"))))
      assert.deepStrictEqual(yield* sql`SELECT * FROM t`, [])
      yield* sql.withTransaction(insert)
      assert.strictEqual((yield* sql`SELECT * FROM t`).length, 1)
    }))

  test("transactions of many fibers do not mix", (sql) =>
    Effect.gen(function*() {
      yield* sql`CREATE TABLE t (n INTEGER)`
      yield* sql`INSERT INTO t (n) VALUES (0)`
      const increment = sql.withTransaction(Effect.gen(function*() {
        const [row] = yield* sql<{ readonly n: number }>`SELECT n FROM t`
        yield* Effect.yieldNow
        yield* sql`UPDATE t SET n = ${(row?.n ?? 0) + 1}`
      }))
      yield* Effect.all(Array.from({ length: 20 }, () => increment), { concurrency: "unbounded" })
      assert.deepStrictEqual(plain(yield* sql`SELECT n FROM t`), [{ n: 20 }])
    }))

  test("prepares a statement again that it had no room to keep", (sql) =>
    Effect.gen(function*() {
      for (let n = 0; n < 1000; n++) {
        assert.deepStrictEqual(plain(yield* sql.unsafe(`SELECT ${n % 300} AS n`)), [{ n: n % 300 }])
      }
    }))

  it.effect("a name or a time that cannot work is a mistake found when the layer is built", () =>
    Effect.gen(function*() {
      for (const options of [{ filename: "" }, { filename: ":memory:", busyTimeout: -1 }]) {
        const exit = yield* Effect.exit(Effect.provide(SqlClient.SqlClient, NodeSqlite.layer(options)))
        assert.isTrue(Exit.hasDies(exit))
      }
    }))
})

/** Another connection that holds the lock on writing. If SQLite waited for it, this thread could not give it back. */
const locking = Effect.gen(function*() {
  const filename = yield* sqliteFile
  const sql = yield* NodeSqlite.make({ filename })
  yield* sql`CREATE TABLE t (n INTEGER)`
  const other = yield* Effect.acquireRelease(
    Effect.sync(() => new DatabaseSync(filename)),
    (db) => Effect.sync(() => db.close())
  )
  const lock = Effect.sync(() => other.exec("BEGIN IMMEDIATE"))
  const unlock = Effect.sync(() => other.exec("COMMIT"))
  const write = Effect.sync(() => other.exec("INSERT INTO t (n) VALUES (2)"))
  const insert = Effect.asVoid(sql`INSERT INTO t (n) VALUES (1)`)
  return { sql, lock, unlock, write, insert, count: Effect.map(sql`SELECT n FROM t`, (rows) => rows.length) }
}).pipe(Effect.provide(Reactivity.layer))

describe("NodeSqlite while another connection holds the lock", () => {
  for (const kind of ["statement", "transaction"] as const) {
    it.effect(`a ${kind} waits without stopping the thread, and is carried out when the lock is free`, () =>
      Effect.gen(function*() {
        const { count, insert, lock, sql, unlock } = yield* locking
        const writing = kind === "statement" ? insert : sql.withTransaction(Effect.andThen(insert, insert))
        yield* lock
        const fiber = yield* Effect.forkChild(writing, { startImmediately: true })
        yield* TestClock.adjust("4 seconds")
        assert.isUndefined(fiber.pollUnsafe())
        yield* unlock
        yield* TestClock.adjust("50 millis")
        yield* Fiber.join(fiber)
        assert.strictEqual(yield* count, kind === "statement" ? 1 : 2)
      }))

    it.effect(`a ${kind} fails as retryable after busyTimeout, no sooner, and leaves nothing behind`, () =>
      Effect.gen(function*() {
        const { count, insert, lock, sql, unlock } = yield* locking
        const writing = kind === "statement" ? insert : sql.withTransaction(insert)
        yield* lock
        const fiber = yield* Effect.forkChild(Effect.flip(writing), { startImmediately: true })
        yield* TestClock.adjust(4999)
        assert.isUndefined(fiber.pollUnsafe())
        yield* TestClock.adjust(1)
        const error = yield* Fiber.join(fiber)
        assert.isTrue(error.isRetryable)
        assert.include(error.message, "database is locked")
        yield* unlock
        assert.strictEqual(yield* count, 0)
        yield* writing
        assert.strictEqual(yield* count, 1)
      }))
  }

  it.effect("what is interrupted while it waits is not carried out later, and holds up nobody", () =>
    Effect.gen(function*() {
      const { count, insert, lock, unlock } = yield* locking
      yield* lock
      const fiber = yield* Effect.forkChild(insert, { startImmediately: true })
      yield* TestClock.adjust("1 second")
      yield* Fiber.interrupt(fiber)
      yield* unlock
      yield* TestClock.adjust("10 seconds")
      assert.strictEqual(yield* count, 0)
      yield* insert
      assert.strictEqual(yield* count, 1)
    }))

  it.effect("a transaction that turns to writing over what another one has written fails at once", () =>
    Effect.gen(function*() {
      const { count, insert, sql, write } = yield* locking
      const error = yield* Effect.andThen(count, Effect.andThen(write, insert)).pipe(
        sql.withTransaction,
        Effect.provideService(SqlClient.BeginTransaction, "BEGIN"),
        Effect.flip
      )
      assert.include(error.message, "database is locked")
      assert.strictEqual(yield* count, 1)
    }))
})

describe("NodeSqlite whose file is gone from its place", () => {
  const taking: Record<string, (filename: string) => void> = {
    deleted: (filename) => fs.unlinkSync(filename),
    replaced: (filename) => {
      fs.copyFileSync(filename, `${filename}.copy`)
      fs.renameSync(`${filename}.copy`, filename)
    }
  }
  for (const [what, take] of Object.entries(taking)) {
    it.effect(`${what}: a write and a commit fail for good instead of being lost, and reading goes on`, () =>
      Effect.gen(function*() {
        const filename = yield* sqliteFile
        const sql = yield* NodeSqlite.make({ filename })
        yield* sql`CREATE TABLE t (n INTEGER)`
        const insert = sql`INSERT INTO t (n) VALUES (1)`
        yield* insert
        yield* sql.withTransaction(insert)
        yield* Effect.sync(() => take(filename))
        for (const write of [insert, insert.raw, sql.withTransaction(insert)]) {
          const error = yield* Effect.flip(write)
          assert.include(error.message, "deleted or replaced")
          assert.isFalse(error.isRetryable)
        }
        assert.isAtLeast((yield* sql`SELECT n FROM t`).length, 2)
      }).pipe(Effect.provide(Reactivity.layer)))
  }

  it.effect("a run over it fails instead of being lost", () =>
    Effect.gen(function*() {
      const filename = yield* sqliteFile
      const program = Checkpoint.step("a", {}, Effect.sync(() => fs.unlinkSync(filename))).pipe(
        Checkpoint.run({ id: "r" })
      )
      const error = yield* Effect.flip(Effect.provide(program, Sqlite.layer({ filename })))
      assert.isTrue(error._tag === "CheckpointStoreError" && error.reason._tag === "Rejected")
      assert.include(error.message, "deleted or replaced")
    }))
})
