/**
 * The limit of a store: one prepared INSERT a step, committed by itself with the durability of our own store.
 */
import { Effect, Schema } from "effect"
import { DatabaseSync } from "node:sqlite"
import { sqliteBytes, temporaryFile } from "./files.ts"
import type { Implementation, Subject } from "./journal.ts"
import { connect, databaseBytes, temporaryDatabase } from "./postgres.ts"

const table = `CREATE TABLE steps (
  run_id TEXT NOT NULL, position INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY (run_id, position)
)`

const decodeBody = Schema.decodeUnknownSync(Schema.fromJsonString(Schema.String))

/** A subject made of an INSERT and a SELECT: nothing is kept about the run itself. */
const subject = (
  insert: (id: string, position: number, body: string) => Effect.Effect<unknown, unknown>,
  select: (id: string) => Effect.Effect<ReadonlyArray<unknown>, unknown>,
  bytes: Effect.Effect<number, unknown>
): Subject => {
  const run: Subject["run"] = Effect.fnUntraced(function*(id, task) {
    const messages: Array<string> = []
    for (let index = 0; index < task.steps; index++) {
      const message = task.write(index)
      yield* insert(id, index, JSON.stringify(message))
      messages.push(message)
    }
    return messages
  })
  return {
    run,
    cut: (id, task) =>
      Effect.as(run(id, task), Effect.map(select(id), (bodies) => bodies.map((body) => decodeBody(body)))),
    bytes
  }
}

const sqlite: Implementation = {
  name: "bare-sqlite",
  open: Effect.gen(function*() {
    const filename = yield* temporaryFile("bare.db")
    const db = yield* Effect.acquireRelease(
      Effect.sync(() => new DatabaseSync(filename)),
      (db) => Effect.sync(() => db.close())
    )
    db.exec(`PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; ${table} WITHOUT ROWID`)
    const insert = db.prepare("INSERT INTO steps (run_id, position, body) VALUES (?, ?, ?)")
    const select = db.prepare("SELECT body FROM steps WHERE run_id = ? ORDER BY position")
    return subject(
      (id, position, body) => Effect.sync(() => insert.run(id, position, body)),
      (id) => Effect.sync(() => select.all(id).map((row) => row["body"])),
      sqliteBytes(filename)
    )
  })
}

const postgres: Implementation = {
  name: "bare-postgres",
  open: Effect.gen(function*() {
    const url = yield* temporaryDatabase
    const connection = yield* connect(url)
    yield* connection.query(table)
    return subject(
      (id, position, body) =>
        connection.query("INSERT INTO steps (run_id, position, body) VALUES ($1, $2, $3)", [id, position, body]),
      (id) =>
        Effect.map(
          connection.queryValues("SELECT body FROM steps WHERE run_id = $1 ORDER BY position", [id]),
          (rows) => rows.map(([body]) => body)
        ),
      databaseBytes(url)
    )
  })
}

export const implementations: ReadonlyArray<Implementation> = [sqlite, postgres]
