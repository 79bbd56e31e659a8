import { Layer } from "effect"
import { CheckpointStore } from "effect-resilience"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { CrashPoints } from "effect-resilience/testing"
import { WorkflowEngine } from "effect/workflow"
import { runs } from "../support/runs.ts"
import { suite } from "./contracts/CheckpointPrograms.ts"

suite("memory", CheckpointStore.layerMemory, { runs: 300 })
suite("memory, resumed after each step", CheckpointStore.layerMemory, {
  runs: runs(100, 1_000),
  around: CrashPoints.alwaysReplay
})
suite(
  "the workflow engine in memory",
  WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(Layer.fresh(WorkflowEngine.layerMemory))),
  { runs: runs(40, 300) }
)
