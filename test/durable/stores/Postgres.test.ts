import { Duration, Effect, Layer } from "effect"
import * as Postgres from "effect-resilience/durable/stores/Postgres"
import { SqlClient } from "effect/sql"
import { describeWithPostgres, suiteSchema } from "../../support/postgres.ts"
import { suite } from "../contracts/CheckpointStoreContract.ts"

/** Lets time go by for a store that measures it by the database's clock: sets back what it has stored. */
const elapse = (duration: Duration.Duration) =>
  SqlClient.SqlClient.use((sql) =>
    Effect.orDie(sql`UPDATE effect_resilience_runs SET
      lease_expires_at = lease_expires_at - ${Duration.toMillis(duration)},
      created_at = created_at - ${Duration.toMillis(duration)},
      updated_at = updated_at - ${Duration.toMillis(duration)}`)
  )

describeWithPostgres("Postgres", () => {
  const schema = suiteSchema()
  suite("all services over one PostgreSQL database", Layer.unwrap(Effect.map(schema, Postgres.layer)), { elapse })
})
