import * as PgClient from "@effect/sql-pg/PgClient"
import * as Effect from "effect/Effect"
import * as Reactivity from "effect/reactivity/Reactivity"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import { connection } from "./services.ts"
import { Deed, type Log } from "./World.ts"

const decode = Schema.decodeUnknownEffect(Schema.Array(Deed))

const client = PgClient.make(connection).pipe(
  Effect.provide(Reactivity.layer)
)

/** Creates the table of all deeds in this schema. */
export const create = (schema: string): Effect.Effect<void, unknown> =>
  Effect.scoped(Effect.flatMap(client, (sql) =>
    sql`CREATE TABLE ${sql(`${schema}.deeds`)} (
      id BIGSERIAL PRIMARY KEY,
      run_id TEXT NOT NULL,
      step TEXT NOT NULL,
      effects TEXT NOT NULL,
      life INTEGER NOT NULL,
      key TEXT NOT NULL,
      result TEXT NOT NULL
    )`))

/** The deeds of a run in that table. */
export const make = (schema: string, runId: string): Effect.Effect<Log, unknown, Scope.Scope> =>
  Effect.map(client, (sql) => {
    const table = sql(`${schema}.deeds`)
    return {
      write: ({ effects, key, life, result, step }, points) =>
        points.pass("effect", `before ${step}`).pipe(
          Effect.andThen(sql`INSERT INTO ${table} (run_id, step, effects, life, key, result)
            VALUES (${runId}, ${step}, ${effects}, ${life}, ${key}, ${result})`),
          Effect.orDie,
          Effect.andThen(points.pass("effect", `after ${step}`))
        ),
      read: sql`SELECT step, effects, life, key, result FROM ${table} WHERE run_id = ${runId} ORDER BY id`.pipe(
        Effect.flatMap(decode),
        Effect.orDie
      )
    }
  })
