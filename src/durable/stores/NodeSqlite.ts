/**
 * A `SqlClient` over the SQLite that is built into Node.
 *
 * **When to use**
 *
 * Use it where a program has tables of its own beside the runs; `Sqlite` has everything durable at once.
 *
 * @since 0.1.0
 */
// No published SQLite client loads on Effect 4.1: they import modules that moved when 4.0 was finished.
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import * as Reactivity from "effect/reactivity/Reactivity"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as SqlClient from "effect/sql/SqlClient"
import type { Connection } from "effect/sql/SqlConnection"
import * as SqlError from "effect/sql/SqlError"
import * as Statement from "effect/sql/Statement"
import * as Stream from "effect/Stream"
import * as fs from "node:fs"
import * as Path from "node:path"
import { DatabaseSync, type SQLInputValue, type StatementSync } from "node:sqlite"
import * as config from "../../internal/config.ts"
import { defaults } from "../internal/nodeSqlite.ts"

/**
 * Options of {@link layer}.
 *
 * **Details**
 *
 * - `filename` of the database, or `:memory:`. It must not be empty.
 * - `busyTimeout`: how long a statement waits for another connection's lock before it fails as retryable, default 5
 *   seconds. It asks again after 1 millisecond, then ever more rarely, but every 50 milliseconds, by Effect's `Clock`:
 *   only its own fiber waits, and those with statements for the same client. `node:sqlite` is synchronous: while a
 *   statement is carried out the whole process waits.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly filename: string
  readonly busyTimeout?: Duration.Input | undefined
}

const maxStatements = 128

/** Which file stands under a name, or undefined if none does. */
const fileAt = (path: string): string | undefined => {
  const found = fs.statSync(path, { bigint: true, throwIfNoEntry: false })
  return found === undefined ? undefined : `${found.dev}:${found.ino}`
}

const reads = /^\s*(?:SELECT|EXPLAIN)\b/i

const attempt = <A>(filename: string, operation: string, f: () => A): Effect.Effect<A, SqlError.SqlError> =>
  Effect.try({
    try: f,
    catch: (cause) => {
      // The classifier looks for SQLite's result code in `errno`, node:sqlite has it in `errcode`.
      const coded = cause instanceof Error && "errcode" in cause
        ? Object.assign(cause, { errno: cause.errcode })
        : cause
      const why = cause instanceof Error ? cause.message : String(cause)
      const message = `SQLite failed to ${operation} "${filename}": ${why}`
      return new SqlError.SqlError({ reason: SqlError.classifySqliteError(coded, { message, operation }) })
    }
  })

const codeOf = ({ reason: { cause } }: SqlError.SqlError): number =>
  Predicate.hasProperty(cause, "errcode") && typeof cause.errcode === "number" ? cause.errcode : 0

// SQLITE_BUSY, but not BUSY_SNAPSHOT: what a transaction has read is out of date, however long it waits.
const isBusy = (error: SqlError.SqlError): boolean => {
  const code = codeOf(error)
  return (code & 0xff) === 5 && code !== 517
}

const longestPause = 50

// SQLite's own wait would stop the thread. What found the database locked did nothing and is asked for once more.
const waiting = (busyTimeout: number) => {
  const again = <A>(
    self: Effect.Effect<A, SqlError.SqlError>,
    pause: number,
    left: number
  ): Effect.Effect<A, SqlError.SqlError> =>
    Effect.catchIf(self, (error) => left > 0 && isBusy(error), () => {
      const next = Math.min(pause, left)
      return Effect.andThen(Effect.sleep(next), again(self, Math.min(pause * 2, longestPause), left - next))
    })
  return <A>(self: Effect.Effect<A, SqlError.SqlError>) => again(self, 1, busyTimeout)
}

const toInput = (value: unknown): SQLInputValue => {
  switch (typeof value) {
    case "string":
    case "number":
    case "bigint":
      return value
    case "boolean":
      return value ? 1 : 0
    case "undefined":
      return null
    default:
      if (value === null || value instanceof Uint8Array) return value
      if (value instanceof Date) return value.toISOString()
      throw new TypeError(
        `SQLite cannot store a parameter of type ${Predicate.isObject(value) ? "object" : typeof value}`
      )
  }
}

/**
 * Opens a database.
 *
 * **Details**
 *
 * A file is opened with `journal_mode = WAL` and `synchronous = FULL`: what is committed survives the loss of power.
 * Foreign keys are enforced. There is one connection: a statement waits for the transaction of another fiber to end.
 *
 * A file that was deleted or replaced while it is open would take everything, and be gone with the process. Whoever writes
 * to it is told by an `SqlError` that is not retryable, one `stat` for each write outside of transactions and each commit.
 * It is too late for what was acknowledged before. The file's `-wal` has to stay beside it in the same way, and is not
 * looked at.
 *
 * Fails with `SqlError` if the file cannot be opened.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options): Effect.fn.Return<
  SqlClient.SqlClient,
  SqlError.SqlError,
  Scope.Scope | Reactivity.Reactivity
> {
  const filename = config.nonEmpty("NodeSqlite", "filename", options.filename)
  const busyTimeout = config.duration("NodeSqlite", "busyTimeout", options.busyTimeout ?? defaults.busyTimeout)
  const db = yield* Effect.acquireRelease(
    attempt(filename, "open", () => new DatabaseSync(filename)),
    (db) => Effect.sync(() => db.close())
  )
  const whenFree = waiting(Math.ceil(Duration.toMillis(busyTimeout)))
  yield* whenFree(attempt(filename, "configure", () =>
    db.exec(
      `PRAGMA busy_timeout = 0;
       PRAGMA journal_mode = WAL;
       PRAGMA synchronous = FULL;
       PRAGMA foreign_keys = ON`
    )))

  // Absolute, for a process may change its folder. What is no name of a file has none: memory, or a URI.
  const path = Path.resolve(filename)
  const opened = yield* attempt(filename, "look at", () => filename === ":memory:" ? undefined : fileAt(path))
  const checkFile = () => {
    if (opened === undefined || fileAt(path) === opened) return
    throw new Error(
      "the file was deleted or replaced while it was open, and what is written to it is lost when this process ends; " +
        "put the file back in its place and start the process again"
    )
  }

  const statements = new Map<string, StatementSync>()
  const prepared = (sql: string): StatementSync => {
    const statement = statements.get(sql) ?? db.prepare(sql)
    // A Map keeps the order of insertion, so the first key is the one that was used longest ago.
    statements.delete(sql)
    statements.set(sql, statement)
    if (statements.size > maxStatements) {
      for (const oldest of statements.keys()) {
        statements.delete(oldest)
        break
      }
    }
    return statement
  }

  const run = (
    prepare: (sql: string) => StatementSync,
    sql: string,
    params: ReadonlyArray<unknown>,
    mode: "rows" | "arrays" | "raw"
  ) =>
    Effect.flatMap(
      SqlClient.SafeIntegers,
      (safeIntegers) =>
        whenFree(attempt(filename, "execute a statement on", (): ReadonlyArray<unknown> | object => {
          const statement = prepare(sql)
          statement.setReturnArrays(mode === "arrays")
          statement.setReadBigInts(safeIntegers)
          const input = params.map(toInput)
          const result = mode === "raw" && statement.columns().length === 0
            ? statement.run(...input)
            : statement.all(...input)
          // SQLite goes on with a file that nobody will find any more.
          if (!db.isTransaction && !reads.test(sql)) checkFile()
          return result
        }))
    )

  // What `setReturnArrays` does is not in the types of node:sqlite, and a statement that gives rows gives an array.
  const rows = (sql: string, params: ReadonlyArray<unknown>, prepare = prepared) =>
    run(prepare, sql, params, "rows") as Effect.Effect<ReadonlyArray<object>, SqlError.SqlError>
  const arrays = (sql: string, params: ReadonlyArray<unknown>, prepare = prepared) =>
    run(prepare, sql, params, "arrays") as Effect.Effect<ReadonlyArray<ReadonlyArray<unknown>>, SqlError.SqlError>
  const unprepared = (sql: string) => db.prepare(sql)

  const connection: Connection = {
    execute: (sql, params, transform) => transform ? Effect.map(rows(sql, params), transform) : rows(sql, params),
    executeUnprepared: (sql, params, transform) =>
      transform ? Effect.map(rows(sql, params, unprepared), transform) : rows(sql, params, unprepared),
    executeRaw: (sql, params) => run(prepared, sql, params, "raw"),
    executeValues: (sql, params) => arrays(sql, params),
    executeValuesUnprepared: (sql, params) => arrays(sql, params, unprepared),
    executeStream: (sql, params, transform) =>
      Stream.unwrap(
        Effect.map(rows(sql, params), (all) => Stream.fromIterable(transform === undefined ? all : transform(all)))
      )
  }

  return yield* SqlClient.make({
    ...SqlClient.makeSqliteAcquirers({
      connection: Effect.succeed(connection),
      semaphore: yield* Semaphore.make(1),
      isTransaction: () => db.isTransaction
    }),
    compiler: Statement.makeCompilerSqlite(),
    // A transaction that turns from reading to writing fails when another one wrote meanwhile; this one waits instead.
    beginTransaction: "BEGIN IMMEDIATE",
    prepareTransactionControls: true,
    driver: "node:sqlite",
    spanAttributes: [["db.system.name", "sqlite"]]
  })
})

/**
 * Provides a `SqlClient` on one SQLite database, see {@link make}.
 *
 * **Example** (Asking SQLite)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { SqlClient } from "effect/sql"
 * import { layer } from "effect-resilience/durable/stores/NodeSqlite"
 *
 * const program = Effect.gen(function*() {
 *   const sql = yield* SqlClient.SqlClient
 *   const rows = yield* sql<{ readonly answer: number }>`SELECT 6 * ${7} AS answer`
 *   return rows[0]?.answer
 * })
 *
 * await Effect.runPromise(Effect.provide(program, layer({ filename: ":memory:" }))) // => 42
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> =>
  Layer.effect(SqlClient.SqlClient, make(options)).pipe(Layer.provide(Reactivity.layer))
