import * as PgClient from "@effect/sql-pg/PgClient"
import { describe } from "@effect/vitest"
import { Effect } from "effect"
import { SqlClient } from "effect/sql"
import { databaseUrl } from "./workflowCluster.ts"

const silence = await Effect.runPromise(
  SqlClient.SqlClient.use((sql) => sql`SELECT 1`).pipe(
    Effect.provide(PgClient.layer({ url: databaseUrl, connectTimeout: "2 seconds" })),
    Effect.match({ onSuccess: () => undefined, onFailure: String })
  )
)

/** A suite that needs PostgreSQL: where none answers, it is skipped and says so; in CI it fails. */
export const describePostgres = (name: string, body: () => void): void => {
  if (silence === undefined || process.env["CI"] !== undefined) describe(name, body)
  else describe.skip(`${name} (no PostgreSQL: ${silence})`, body)
}
