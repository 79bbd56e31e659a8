import { Layer } from "effect"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { WorkflowEngine } from "effect/workflow"
import { suite } from "../contracts/CheckpointStoreContract.ts"

suite(
  "workflow engine in memory",
  WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(WorkflowEngine.layerMemory))
)
