import { Effect, type Layer, Schema, type Scope } from "effect"
import { Checkpoint, type CheckpointStore, EscalationQueue } from "effect-resilience"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import type { SqlClient } from "effect/sql"
import { describe, expect, it } from "tstyche"

type Asking = EscalationQueue.EscalationError | Checkpoint.RunSuspended | Checkpoint.StepError
type Needs = EscalationQueue.EscalationQueue | Checkpoint.Run

declare const program: Effect.Effect<string, "declined", Scope.Scope>
declare const pay: Effect.Effect<number, "declined">

describe("EscalationQueue", () => {
  it("ask says that the run may be suspended", () => {
    expect(EscalationQueue.ask({ name: "approval", reason: "RequiresHuman", task: "?" })).type.toBe<
      Effect.Effect<EscalationQueue.Decision, Asking, Needs>
    >()
  })

  it("reconcile says that people may abandon the step, and gives the step's own type", () => {
    const reconcile = EscalationQueue.reconcile({ task: "?", success: Schema.Int })
    expect(reconcile).type.toBe<
      Effect.Effect<Checkpoint.Reconciliation<number>, Asking | EscalationQueue.Abandoned, Needs>
    >()
    expect(Checkpoint.step("pay", { success: Schema.Int, effects: "atMostOnce", reconcile }, pay)).type.toBe<
      Effect.Effect<number, "declined" | Checkpoint.AmbiguousStep | Asking | EscalationQueue.Abandoned, Needs>
    >()
  })

  it("a reconcile for another type than the step's is refused", () => {
    const reconcile = EscalationQueue.reconcile({ task: "?", success: Schema.String })
    expect(Checkpoint.step).type.not.toBeCallableWith(
      "pay",
      { success: Schema.Int, effects: "atMostOnce", reconcile },
      pay
    )
  })

  it("layers say what they need and what they can fail with", () => {
    expect(EscalationQueue.layerMemory).type.toBe<Layer.Layer<EscalationQueue.EscalationQueue>>()
    expect(SqlEscalationQueue.layer).type.toBe<
      Layer.Layer<EscalationQueue.EscalationQueue, EscalationQueue.EscalationError, SqlClient.SqlClient>
    >()
  })

  it("cancel and resumeRuns say what they need", () => {
    expect(EscalationQueue.cancel("r")).type.toBe<
      Effect.Effect<
        CheckpointStore.RunStatus,
        | EscalationQueue.EscalationError
        | Checkpoint.RunNotFound
        | Checkpoint.CheckpointCorrupt
        | CheckpointStore.CheckpointStoreError,
        EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore
      >
    >()
    type Working = EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore | Scope.Scope
    expect(EscalationQueue.resumeRuns({ resume: () => program })).type.toBe<
      Effect.Effect<never, EscalationQueue.EscalationError, Working>
    >()
    expect(EscalationQueue.layerResumeRuns({ resume: () => Effect.void })).type.toBe<
      Layer.Layer<never, never, EscalationQueue.EscalationQueue | CheckpointStore.CheckpointStore>
    >()
    expect(EscalationQueue.layerMetrics()).type.toBe<Layer.Layer<never, never, EscalationQueue.EscalationQueue>>()
  })

  it("a decision is one of five", () => {
    expect<EscalationQueue.DecisionTag>().type.toBe<EscalationQueue.Decision["_tag"]>()
    expect<EscalationQueue.Decision>().type.not.toBeAssignableFrom<{ readonly _tag: "Reject" }>()
  })
})
