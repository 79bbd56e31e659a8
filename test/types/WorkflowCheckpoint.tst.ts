import { Effect, type Layer, Schema } from "effect"
import { Checkpoint, type CheckpointStore } from "effect-resilience"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { DurableDeferred, type WorkflowEngine } from "effect/workflow"
import { describe, expect, it } from "tstyche"

class SiteDown extends Schema.TaggedError<SiteDown>()("SiteDown", {}) {}
interface Db {
  readonly db: true
}

const report = WorkflowCheckpoint.program({
  name: "report",
  input: Schema.Struct({ due: Schema.Date }),
  success: Schema.BigInt,
  error: SiteDown
})
const small = WorkflowCheckpoint.program({ name: "small", input: Schema.String })

describe("WorkflowCheckpoint", () => {
  it("runs a program with what its schemas say, and what any run can fail with", () => {
    expect(WorkflowCheckpoint.run(report, { id: "r", input: { due: new Date(0) } })).type.toBe<
      Effect.Effect<bigint, SiteDown | WorkflowCheckpoint.Failure, WorkflowCheckpoint.Programs>
    >()
    expect(WorkflowCheckpoint.run(small, { id: "r", input: "a" })).type.toBe<
      Effect.Effect<void, WorkflowCheckpoint.Failure, WorkflowCheckpoint.Programs>
    >()
  })

  it("takes no other input, and no schema that needs services", () => {
    expect(WorkflowCheckpoint.run).type.not.toBeCallableWith(report, { id: "r", input: { due: "today" } })
    const served = Schema.String as Schema.Codec<string, string, Db>
    expect(WorkflowCheckpoint.program).type.not.toBeCallableWith({ name: "a", input: served })
  })

  it("takes any failure of steps and runs from an implementation, and no other error than the program's own", () => {
    const step = Checkpoint.step("a", { effects: "atMostOnce" }, Effect.void)
    expect(WorkflowCheckpoint.implement).type.toBeCallableWith(report, () => Effect.as(step, 1n))
    expect(WorkflowCheckpoint.implement).type.toBeCallableWith(report, () => new SiteDown())
    expect(WorkflowCheckpoint.implement).type.not.toBeCallableWith(report, () => Effect.fail("down"))
    expect(WorkflowCheckpoint.implement).type.not.toBeCallableWith(report, () => Effect.succeed("a"))
  })

  it("asks the layer for what programs need besides the run, the store and the engine", () => {
    const db = Effect.void as Effect.Effect<void, never, Db>
    const approval = DurableDeferred.await(DurableDeferred.make("a"))
    const one = WorkflowCheckpoint.implement(small, () => Effect.asVoid(Checkpoint.current))
    const two = WorkflowCheckpoint.implement({ ...small, name: "two" }, () => Effect.andThen(approval, db))
    expect(one).type.toBe<WorkflowCheckpoint.Implementation<never>>()
    expect(WorkflowCheckpoint.layerWorkflowWith({ programs: [one, two] })).type.toBe<
      Layer.Layer<
        CheckpointStore.CheckpointStore | WorkflowCheckpoint.Programs,
        never,
        WorkflowEngine.WorkflowEngine | Db
      >
    >()
  })
})
