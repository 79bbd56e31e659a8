import { type Effect, type Layer, Schema } from "effect"
import { Checkpoint, EscalationQueue } from "effect-resilience"
import * as SqlEscalationQueue from "effect-resilience/durable/stores/SqlEscalationQueue"
import type { SqlClient } from "effect/sql"
import { describe, expect, it } from "tstyche"

type Asking = EscalationQueue.EscalationError | Checkpoint.RunSuspended | Checkpoint.StepError
type Needs = EscalationQueue.EscalationQueue | Checkpoint.Run

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

  it("a decision is one of five", () => {
    expect<EscalationQueue.DecisionTag>().type.toBe<EscalationQueue.Decision["_tag"]>()
    expect<EscalationQueue.Decision>().type.not.toBeAssignableFrom<{ readonly _tag: "Reject" }>()
  })
})
