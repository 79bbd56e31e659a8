/**
 * A real PostgreSQL for tests. Where none answers, the suites that need it are skipped and say so; in CI they fail.
 */
import { PgClient } from "@effect/sql-pg"
import { afterAll, describe } from "@effect/vitest"
import { Cause, Effect, Exit, ManagedRuntime } from "effect"
import { SqlClient } from "effect/sql"
import { drop, inSchema, nameOfSchema, postgres } from "./postgresServer.ts"
import { databaseUrl } from "./servers.ts"

const answer = await Effect.runPromiseExit(
  SqlClient.SqlClient.use((sql) => sql`SELECT 1`).pipe(Effect.provide(PgClient.layer(postgres)))
)

/** A suite that needs PostgreSQL. */
export const describeWithPostgres = (name: string, suite: () => void): void => {
  if (Exit.isSuccess(answer) || process.env["CI"] === "true") {
    describe(name, suite)
    return
  }
  console.warn(
    `SKIPPED, NOT TESTED: ${name}. No PostgreSQL answers at ${new URL(databaseUrl).host} (DATABASE_URL): ${
      String(Cause.squash(answer.cause))
    }`
  )
  describe.skip(name, suite)
}

/**
 * Makes a schema for the suite at hand, and tells how to connect to it whenever its tables have been emptied: that takes
 * less time than to make them anew.
 */
export const suiteSchema = (): Effect.Effect<PgClient.PgPoolConfig> => {
  const schema = nameOfSchema()
  const runtime = ManagedRuntime.make(PgClient.layer(postgres))
  const use = <A, E>(f: (sql: SqlClient.SqlClient) => Effect.Effect<A, E>) =>
    Effect.promise(() => runtime.runPromise(SqlClient.SqlClient.use(f)))
  afterAll(() => Effect.runPromise(Effect.andThen(use((sql) => drop(sql, schema)), runtime.disposeEffect)))
  const create = Effect.runSync(Effect.cached(use((sql) => sql`CREATE SCHEMA ${sql(schema)}`)))
  const empty = use((sql) =>
    sql.unsafe(`DO $$ DECLARE name text; BEGIN
      FOR name IN SELECT tablename FROM pg_tables WHERE schemaname = '${schema}' AND tablename NOT LIKE '%_migrations'
      LOOP EXECUTE format('DELETE FROM ${schema}.%I', name); END LOOP;
    END $$`)
  )
  return Effect.as(Effect.andThen(create, empty), inSchema(schema))
}
