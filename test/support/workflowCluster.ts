/**
 * Effect's workflow engine on a real PostgreSQL, the one at `DATABASE_URL`, by default on loopback. Where none answers,
 * the suites that need it are skipped and say so; in CI they fail.
 */
import * as PgClient from "@effect/sql-pg/PgClient"
import { describe } from "@effect/vitest"
import { Effect, Layer, Redacted, type Scope } from "effect"
import { ClusterWorkflowEngine, type ShardingConfig, SingleRunner } from "effect/cluster"
import { Digest } from "effect/crypto"
import { SqlClient, type SqlError } from "effect/sql"
import type { WorkflowEngine } from "effect/workflow"
import { randomUUID } from "node:crypto"

const url = Redacted.make(process.env["DATABASE_URL"] ?? "postgres://postgres@127.0.0.1:5432/test")

const silence = await Effect.runPromise(
  SqlClient.SqlClient.use((sql) => sql`SELECT 1`).pipe(
    Effect.provide(PgClient.layer({ url, connectTimeout: "2 seconds" })),
    Effect.match({ onSuccess: () => undefined, onFailure: String })
  )
)

/** A `describe` for what needs PostgreSQL. */
export const describePostgres = (name: string, body: () => void): void => {
  if (silence === undefined || process.env["CI"] !== undefined) describe(name, body)
  else describe.skip(`${name} (no PostgreSQL: ${silence})`, body)
}

/** The name of an empty schema, which goes when the scope does. */
export const makeSchema: Effect.Effect<string, SqlError.SqlError, Scope.Scope> = Effect.suspend(() => {
  const name = `effect_resilience_${randomUUID().replaceAll("-", "")}`
  const run = (statement: (sql: SqlClient.SqlClient) => Effect.Effect<unknown, SqlError.SqlError>) =>
    Effect.provide(SqlClient.SqlClient.use(statement), PgClient.layer({ url, maxConnections: 1 }))
  return Effect.as(
    Effect.acquireRelease(
      run((sql) => sql`CREATE SCHEMA ${sql(name)}`),
      () => Effect.orDie(run((sql) => sql`DROP SCHEMA ${sql(name)} CASCADE`))
    ),
    name
  )
})

/** A client whose tables are in that schema. */
export const postgresIn = (schema: string): Layer.Layer<SqlClient.SqlClient, SqlError.SqlError> =>
  PgClient.layer({ url, startupParameters: { search_path: schema } })

/**
 * The engine of one runner. Its locks are rows in that schema: advisory locks are those of the whole database, which
 * other tests share.
 */
export const runnerIn = (
  schema: string,
  config: Partial<ShardingConfig.ShardingConfig["Service"]> = {}
): Layer.Layer<WorkflowEngine.WorkflowEngine | SqlClient.SqlClient, unknown> =>
  ClusterWorkflowEngine.layer.pipe(
    Layer.provideMerge(SingleRunner.layer({ shardingConfig: { shardLockDisableAdvisory: true, ...config } })),
    Layer.provideMerge(postgresIn(schema)),
    Layer.provide(Digest.layerWebCrypto)
  )

/** The engine of a runner that is the only one in a schema of its own. */
export const runner = Layer.unwrap(Effect.map(makeSchema, (schema) => runnerIn(schema)))
