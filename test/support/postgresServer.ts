/** A real PostgreSQL: the one at `DATABASE_URL`, by default on loopback. Also for processes that are no tests. */
import { PgClient } from "@effect/sql-pg"
import { Context, Effect, Layer, Redacted, type Scope } from "effect"
import type { SqlClient, SqlError } from "effect/sql"
import { randomUUID } from "node:crypto"
import { databaseUrl } from "./servers.ts"

export const postgres: PgClient.PgPoolConfig = { url: Redacted.make(databaseUrl), connectTimeout: "1 second" }

/** A connection of its own, or some. */
export const connectPostgres = (
  options: PgClient.PgPoolConfig = postgres
): Effect.Effect<PgClient.PgClient, SqlError.SqlError, Scope.Scope> =>
  Effect.map(Layer.build(PgClient.layer(options)), Context.get(PgClient.PgClient))

export const nameOfSchema = () => `effect_resilience_test_${randomUUID().replaceAll("-", "_")}`

/** How to connect to a schema. No test stops the server, so none has to wait for its disk. */
export const inSchema = (schema: string): PgClient.PgPoolConfig => ({
  ...postgres,
  startupParameters: { search_path: schema, client_min_messages: "warning", synchronous_commit: "off" }
})

export const drop = (sql: SqlClient.SqlClient, schema: string) => sql`DROP SCHEMA IF EXISTS ${sql(schema)} CASCADE`

/** The name of an empty schema that nobody else uses. It goes when the scope does. */
export const makeSchema: Effect.Effect<string, SqlError.SqlError, Scope.Scope> = Effect.gen(function*() {
  const use = (statement: (sql: SqlClient.SqlClient) => Effect.Effect<unknown, SqlError.SqlError>) =>
    Effect.scoped(Effect.flatMap(connectPostgres({ ...postgres, maxConnections: 1 }), statement))
  const schema = nameOfSchema()
  yield* Effect.acquireRelease(
    use((sql) => sql`CREATE SCHEMA ${sql(schema)}`),
    () => Effect.orDie(use((sql) => drop(sql, schema)))
  )
  return schema
})

/** How to connect to a schema that nobody else uses. It goes when the scope does. */
export const postgresSchema: Effect.Effect<PgClient.PgPoolConfig, SqlError.SqlError, Scope.Scope> = Effect.map(
  makeSchema,
  inSchema
)
