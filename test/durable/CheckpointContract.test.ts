import { Layer } from "effect"
import { CheckpointStore } from "effect-resilience"
import * as FileCheckpointStore from "effect-resilience/durable/stores/FileCheckpointStore"
import { layerPersistence } from "effect-resilience/durable/stores/PersistenceCheckpointStore"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { WorkflowEngine } from "effect/workflow"
import { describeWithPostgres } from "../support/postgres.ts"
import { describeWithRedis } from "../support/redis.ts"
import { withTemporaryFolder } from "../support/temporaryFolder.ts"
import { runner } from "../support/workflowCluster.ts"
import { keyValueStore } from "./backings.ts"
import { suite } from "./contracts/CheckpointContract.ts"
import { onRedis } from "./redisRuns.ts"

suite("memory", CheckpointStore.layerMemory)
suite("files", withTemporaryFolder((directory) => FileCheckpointStore.layer({ directory })))
suite(
  "workflow engine in memory",
  WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(WorkflowEngine.layerMemory))
)
describeWithPostgres(
  "on PostgreSQL",
  () =>
    suite("workflow engine of a cluster", WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(runner)), { orders: 2 })
)
describeWithRedis("with Redis", () => suite("Redis", onRedis))
suite("Persistence", layerPersistence().pipe(Layer.provide(keyValueStore)))
