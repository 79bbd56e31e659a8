import { Effect, type Layer } from "effect"
import {
  Agent,
  type Checkpoint,
  type CheckpointStore,
  type Deadline,
  type EscalationQueue,
  type Fallback,
  type HealthMonitor,
  type Idempotency
} from "effect-resilience"
import { type AiError, Tool, Toolkit } from "effect/ai"
import type { LanguageModel } from "effect/ai"
import { describe, expect, test } from "tstyche"

const desk = Agent.make({ name: "desk", instructions: "", toolkit: Toolkit.make(Tool.make("Look")) })
const poet = Agent.make({ name: "poet", instructions: "" })
const ask = { runId: "run", prompt: "Hello" }

type ErrorOf<T> = T extends Effect.Effect<unknown, infer E, unknown> ? E : never
type SourceOf<T> = T extends Effect.Effect<Fallback.Answer<unknown, infer Source>, unknown, unknown> ? Source : never

describe("Agent.answer", () => {
  test("has the sources that its options give, and no others", () => {
    const alone = Agent.answer(desk, ask)
    expect<SourceOf<typeof alone>>().type.toBe<"agent">()
    const none = Agent.answer(desk, { ...ask, lastGood: undefined })
    expect<SourceOf<typeof none>>().type.toBe<"agent">()
    const remembered = Agent.answer(desk, { ...ask, lastGood: { key: "ann" } })
    expect<SourceOf<typeof remembered>>().type.toBe<"agent" | "last good">()
    const all = Agent.answer(desk, {
      ...ask,
      lastGood: { key: "ann" },
      simplified: () => "Short",
      template: () => Effect.succeed("Hello,"),
      emergency: "Soon."
    })
    expect<SourceOf<typeof all>>().type.toBe<"agent" | "last good" | "simplified" | "template" | "emergency">()
  })

  test("with an emergency fails only with what nothing stands in for", () => {
    const answer = Agent.answer(desk, { ...ask, emergency: "Soon." })
    expect<ErrorOf<typeof answer>>().type.toBe<
      | Agent.AgentError
      | Checkpoint.RunSuspended
      | Checkpoint.RunLeased
      | Checkpoint.RunCancelled
      | Checkpoint.RunConflict
      | Checkpoint.InputNotJson
    >()
    const lonely = Agent.answer(poet, { ...ask, emergency: "Soon." })
    expect<Extract<ErrorOf<typeof lonely>, Checkpoint.RunSuspended>>().type.toBe<never>()
  })

  test("with a template fails with what that fails with, too", () => {
    const answer = Agent.answer(desk, { ...ask, template: () => Effect.fail("no template" as const) })
    expect<Extract<ErrorOf<typeof answer>, string>>().type.toBe<"no template">()
    expect<Extract<ErrorOf<typeof answer>, AiError.AiError>>().type.toBe<never>()
  })

  test("with neither fails with all that a run fails with, and the gate's error", () => {
    const answer = Agent.answer(poet, { ...ask, simplified: () => "Short" })
    expect<ErrorOf<typeof answer>>().type.toBe<
      ErrorOf<ReturnType<typeof runPoet>> | HealthMonitor.HealthGateClosed | Deadline.DeadlineExceeded
    >()
    const alone = Agent.answer(poet, ask)
    expect<Extract<ErrorOf<typeof alone>, Deadline.DeadlineExceeded>>().type.toBe<never>()
  })

  test("an emergency that may be missing takes no error away", () => {
    const answer = (emergency: string | undefined) => Agent.answer(poet, { ...ask, emergency })
    expect<Extract<ErrorOf<ReturnType<typeof answer>>, AiError.AiError>>().type.toBe<AiError.AiError>()
    expect<SourceOf<ReturnType<typeof answer>>>().type.toBe<"agent" | "emergency">()
  })

  test("serves no answer again without a key that says to whom", () => {
    expect(Agent.answer).type.not.toBeCallableWith(poet, { ...ask, lastGood: {} })
    expect(Agent.answer).type.not.toBeCallableWith(poet, { ...ask, lastGood: { maxAge: "1 hour" } })
  })

  test("does not take an emergency of another type", () => {
    expect(Agent.answer).type.not.toBeCallableWith(poet, { ...ask, emergency: 7 })
  })
})

const runPoet = () => Agent.run(poet, ask)

describe("Agent.layerProduction", () => {
  interface NoModel {
    readonly _tag: "NoModel"
  }
  interface NoStore {
    readonly _tag: "NoStore"
  }
  interface Driver {
    readonly _tag: "Driver"
  }
  type Store = CheckpointStore.CheckpointStore | EscalationQueue.EscalationQueue | Idempotency.Idempotency

  test("fails with what its parts fail with, and needs what they need", () => {
    const make = (
      model: Layer.Layer<LanguageModel.LanguageModel, NoModel>,
      store: Layer.Layer<Store, NoStore, Driver>
    ) => Agent.layerProduction({ model, store })
    type Made = ReturnType<typeof make>
    expect<Extract<Layer.Error<Made>, NoModel | NoStore>>().type.toBe<NoModel | NoStore>()
    expect<Layer.Services<Made>>().type.toBe<Driver>()
  })

  test("needs a store", () => {
    expect(Agent.layerProduction).type.not.toBeCallableWith({})
  })
})
