/** Effect's workflow engine on a real PostgreSQL, the one at `DATABASE_URL`, by default on loopback. */
import { NodeClusterSocket } from "@effect/platform-node"
import * as PgClient from "@effect/sql-pg/PgClient"
import { Effect, Layer, Option } from "effect"
import { ClusterWorkflowEngine, RunnerAddress, type ShardingConfig, SingleRunner } from "effect/cluster"
import { Digest } from "effect/crypto"
import type { SqlClient } from "effect/sql"
import type { WorkflowEngine } from "effect/workflow"
import { inSchema, makeSchema } from "./postgresServer.ts"

// Locks as rows of the schema: advisory locks are those of the whole database, which other tests share. They are over
// some seconds after the process that had them.
const locks: Partial<ShardingConfig.ShardingConfig["Service"]> = {
  shardLockDisableAdvisory: true,
  shardLockExpiration: "6 seconds",
  entityMessagePollInterval: "1 second"
}

/** The engine of the only runner in that schema. */
export const runnerIn = (
  schema: string
): Layer.Layer<WorkflowEngine.WorkflowEngine | SqlClient.SqlClient, unknown> =>
  ClusterWorkflowEngine.layer.pipe(
    Layer.provideMerge(SingleRunner.layer({ shardingConfig: locks })),
    Layer.provideMerge(PgClient.layer(inSchema(schema))),
    Layer.provide(Digest.layerWebCrypto)
  )

/** The engine of a runner that is the only one in a schema of its own. */
export const runner = Layer.unwrap(Effect.map(makeSchema, (schema) => runnerIn(schema)))

/** The engine of one runner of many in that schema, or of a client without a port. */
export const memberIn = (
  schema: string,
  port: number | undefined
): Layer.Layer<WorkflowEngine.WorkflowEngine, unknown> => {
  const shardingConfig: Partial<ShardingConfig.ShardingConfig["Service"]> = {
    ...locks,
    runnerAddress: Option.map(
      Option.fromUndefinedOr(port),
      (port) => RunnerAddress.make("127.0.0.1", port)
    ),
    runnerHealthCheckInterval: "1 second",
    refreshAssignmentsInterval: "1 second"
  }
  return ClusterWorkflowEngine.layer.pipe(
    Layer.provide(
      port === undefined
        ? NodeClusterSocket.layer({ clientOnly: true, storage: "sql", shardingConfig })
        : NodeClusterSocket.layer({ storage: "sql", shardingConfig })
    ),
    Layer.provide(PgClient.layer(inSchema(schema)))
  )
}
