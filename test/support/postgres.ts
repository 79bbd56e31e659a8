/**
 * A real PostgreSQL for tests: the one at `DATABASE_URL`, by default on loopback. Where none answers, the suites that
 * need it are skipped and say so; in CI they fail.
 */
import { PgClient } from "@effect/sql-pg"
import { afterAll, describe } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Layer, ManagedRuntime, Redacted, type Scope } from "effect"
import { SqlClient, type SqlError } from "effect/sql"
import { randomUUID } from "node:crypto"

const url = process.env["DATABASE_URL"] ?? "postgres://postgres@127.0.0.1:5432/test"

export const postgres: PgClient.PgPoolConfig = { url: Redacted.make(url), connectTimeout: "1 second" }

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
    `SKIPPED, NOT TESTED: ${name}. No PostgreSQL answers at ${new URL(url).host} (DATABASE_URL): ${
      String(Cause.squash(answer.cause))
    }`
  )
  describe.skip(name, suite)
}

/** A connection of its own, or some. */
export const connectPostgres = (
  options: PgClient.PgPoolConfig = postgres
): Effect.Effect<PgClient.PgClient, SqlError.SqlError, Scope.Scope> =>
  Effect.map(Layer.build(PgClient.layer(options)), Context.get(PgClient.PgClient))

const nameOfSchema = () => `effect_resilience_test_${randomUUID().replaceAll("-", "_")}`

// No test stops the server, so none has to wait for its disk.
const inSchema = (schema: string): PgClient.PgPoolConfig => ({
  ...postgres,
  startupParameters: { search_path: schema, client_min_messages: "warning", synchronous_commit: "off" }
})

const drop = (sql: SqlClient.SqlClient, schema: string) => sql`DROP SCHEMA IF EXISTS ${sql(schema)} CASCADE`

/** How to connect to a schema that nobody else uses. It goes when the scope does. */
export const postgresSchema: Effect.Effect<PgClient.PgPoolConfig, SqlError.SqlError, Scope.Scope> = Effect.gen(
  function*() {
    const sql = yield* connectPostgres()
    const schema = yield* Effect.acquireRelease(
      Effect.sync(nameOfSchema),
      (schema) => Effect.orDie(drop(sql, schema))
    )
    yield* sql`CREATE SCHEMA ${sql(schema)}`
    return inSchema(schema)
  }
)

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
