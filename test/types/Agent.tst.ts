import { Context, Effect, flow, type Option, Schema, type Scope, type Stream } from "effect"
import {
  Agent,
  AgentBudget,
  AgentTools,
  Checkpoint,
  type CheckpointStore,
  CircuitBreaker,
  type EscalationQueue,
  type Idempotency,
  type LoopDetector,
  OutputTokens,
  Retry
} from "effect-resilience"
import { type AiError, type LanguageModel, Tool, Toolkit } from "effect/ai"
import { describe, expect, it } from "tstyche"

class Ledger
  extends Context.Service<Ledger, { readonly has: (id: string) => Effect.Effect<boolean> }>()("test/Ledger")
{}
class Clerk extends Context.Service<Clerk, { readonly name: string }>()("test/Clerk") {}

const Search = Tool.make("Search", { parameters: Schema.Struct({ query: Schema.String }), success: Schema.String })
const Refund = Tool.make("Refund", {
  parameters: Schema.Struct({ order: Schema.Int }),
  success: Schema.Struct({ refunded: Schema.Int }),
  dependencies: [Clerk]
})
const kit = Toolkit.make(Search, Refund)
const options = { runId: "run-1", prompt: "Go" }
const plain = Agent.make({ name: "plain", instructions: "" })

type ToolErrors =
  | Checkpoint.RunSuspended
  | EscalationQueue.EscalationError
  | Idempotency.IdempotencyStoreError
  | Idempotency.IdempotencyCorrupt

describe("Agent", () => {
  it("without tools needs a model and a store, and fails with nothing about tools", () => {
    expect(Agent.run(plain, options)).type.toBe<
      Effect.Effect<
        Agent.Result<string>,
        AiError.AiError | Agent.AgentError | Checkpoint.StepError | Checkpoint.RunError,
        LanguageModel.LanguageModel | CheckpointStore.CheckpointStore
      >
    >()
  })

  it("with tools needs their handlers and what these need, and the services that keep them safe", () => {
    const agent = Agent.make({ name: "support", instructions: "", toolkit: kit })
    expect(Agent.run(agent, options)).type.toBe<
      Effect.Effect<
        Agent.Result<string>,
        AiError.AiError | Agent.AgentError | Checkpoint.StepError | Checkpoint.RunError | ToolErrors,
        | LanguageModel.LanguageModel
        | CheckpointStore.CheckpointStore
        | EscalationQueue.EscalationQueue
        | Idempotency.Idempotency
        | Tool.Handler<"Search">
        | Tool.Handler<"Refund">
        | Clerk
      >
    >()
  })

  it("fails with what its model's guard fails with, and needs what it needs", () => {
    const guarded = Agent.make({
      name: "guarded",
      instructions: "",
      policies: { model: flow(CircuitBreaker.protect("anthropic"), Retry.apply(Retry.policy())) }
    })
    expect(Agent.loop(guarded, { prompt: "Go" })).type.toBe<
      Effect.Effect<
        Agent.Result<string>,
        AiError.AiError | Agent.AgentError | CircuitBreaker.CircuitOpen | Checkpoint.StepError,
        LanguageModel.LanguageModel | CircuitBreaker.CircuitBreaker | Checkpoint.Run
      >
    >()
  })

  it("loses an error that its model's guard handles", () => {
    const handled = Agent.make({
      name: "handled",
      instructions: "",
      policies: { model: (self) => Effect.catchTag(self, "AiError", () => Effect.fail("down" as const)) }
    })
    expect(Agent.loop(handled, { prompt: "Go" })).type.toBe<
      Effect.Effect<
        Agent.Result<string>,
        "down" | Agent.AgentError | Checkpoint.StepError,
        LanguageModel.LanguageModel | Checkpoint.Run
      >
    >()
  })

  it("needs what its tools' guard needs, and never fails with its errors", () => {
    const guarded = Agent.make({
      name: "guarded",
      instructions: "",
      toolkit: Toolkit.make(Search),
      policies: { tool: (self, { name }) => CircuitBreaker.protect(self, name) }
    })
    expect(Agent.loop(guarded, { prompt: "Go" })).type.toBe<
      Effect.Effect<
        Agent.Result<string>,
        AiError.AiError | Agent.AgentError | Checkpoint.StepError | ToolErrors,
        | LanguageModel.LanguageModel
        | CircuitBreaker.CircuitBreaker
        | Checkpoint.Run
        | EscalationQueue.EscalationQueue
        | Idempotency.Idempotency
        | Tool.Handler<"Search">
      >
    >()
  })

  it("needs what the guards of single tools need, and never fails with their errors", () => {
    const guarded = Agent.make({
      name: "guarded",
      instructions: "",
      toolkit: Toolkit.make(Search),
      tools: { Search: { guard: (self) => CircuitBreaker.protect(self, "search") } }
    })
    expect(Agent.loop(guarded, { prompt: "Go" })).type.toBe<
      Effect.Effect<
        Agent.Result<string>,
        AiError.AiError | Agent.AgentError | Checkpoint.StepError | ToolErrors,
        | LanguageModel.LanguageModel
        | CircuitBreaker.CircuitBreaker
        | Checkpoint.Run
        | EscalationQueue.EscalationQueue
        | Idempotency.Idempotency
        | Tool.Handler<"Search">
      >
    >()
  })

  it("types the result by its schema, which may be missing only where the budget ended the run", () => {
    const judge = Agent.make({
      name: "judge",
      instructions: "",
      result: Schema.Struct({ score: Schema.NumberFromString })
    })
    const run = Agent.run(judge, options)
    expect<Extract<Effect.Success<typeof run>, { readonly completion: "complete" }>["value"]>()
      .type.toBe<{ readonly score: number }>()
    expect<Extract<Effect.Success<typeof run>, { readonly completion: "graceful" }>["value"]>()
      .type.toBe<{ readonly score: number } | undefined>()
  })

  it("gives a tool's reconcile its parameters, wants its result, and needs what it needs", () => {
    const agent = Agent.make({
      name: "support",
      instructions: "",
      toolkit: kit,
      tools: {
        Refund: {
          reconcile: (call) => {
            expect(call.params).type.toBe<{ readonly order: number }>()
            return Ledger.use((ledger) => ledger.has(call.idempotencyKey)).pipe(
              Effect.map((has) => has ? Checkpoint.happened({ refunded: 1 }) : Checkpoint.notHappened)
            )
          }
        }
      }
    })
    expect<Effect.Services<ReturnType<typeof run>>>().type.toBe<
      | LanguageModel.LanguageModel
      | CheckpointStore.CheckpointStore
      | EscalationQueue.EscalationQueue
      | Idempotency.Idempotency
      | Tool.Handler<"Search">
      | Tool.Handler<"Refund">
      | Clerk
      | Ledger
    >()
    const run = () => Agent.run(agent, options)
  })

  it("refuses options of tools that it has not, and results that are not the tool's", () => {
    expect(Agent.make).type.not.toBeCallableWith({
      name: "a",
      instructions: "",
      toolkit: kit,
      tools: { Refund: { reconcile: () => Effect.succeed(Checkpoint.happened("no number")) } }
    })
    expect(Agent.make).type.not.toBeCallableWith({
      name: "a",
      instructions: "",
      toolkit: kit,
      tools: { Delete: { attempts: 1 } }
    })
  })

  it("starts in a scope", () => {
    expect(Agent.start(plain, options)).type.toBe<
      Effect.Effect<
        Agent.Running<
          string,
          AiError.AiError | Agent.AgentError | Checkpoint.StepError | Checkpoint.RunError
        >,
        never,
        LanguageModel.LanguageModel | CheckpointStore.CheckpointStore | Scope.Scope
      >
    >()
    expect<Agent.Running<string, never>["states"]>().type.toBe<Stream.Stream<Agent.State>>()
  })
})

describe("Agent.reviewed", () => {
  const judge = Agent.make({
    name: "judge",
    instructions: "",
    result: Schema.Struct({ guilty: Schema.Boolean, confidence: Schema.Number })
  })

  it("adds that it may wait for people, and needs their queue", () => {
    expect(Agent.run(Agent.reviewed(judge, { when: { field: "confidence", below: 0.8 } }), options)).type.toBe<
      Effect.Effect<
        Agent.Result<{ readonly guilty: boolean; readonly confidence: number }>,
        | AiError.AiError
        | Agent.AgentError
        | Checkpoint.StepError
        | Checkpoint.RunError
        | Checkpoint.RunSuspended
        | EscalationQueue.EscalationError,
        LanguageModel.LanguageModel | CheckpointStore.CheckpointStore | EscalationQueue.EscalationQueue
      >
    >()
  })

  it("asks about values of the agent's own type, and fields that it has", () => {
    Agent.reviewed(judge, {
      when: ({ value }) => {
        expect(value).type.toBe<{ readonly guilty: boolean; readonly confidence: number }>()
        return value.guilty
      }
    })
    expect(Agent.reviewed<{}, { readonly confidence: number }, never, never>).type.not.toBeCallableWith(judge, {
      when: { field: "certainty", below: 0.8 }
    })
  })
})

describe("Agent.Result", () => {
  const result = {} as Agent.Result<number>

  it("has a value for sure only where it is complete, and says which bound ended it", () => {
    switch (result.completion) {
      case "complete":
        expect(result.value).type.toBe<number>()
        expect(result.review).type.toBe<"approved" | "supplied" | undefined>()
        return
      case "graceful":
        expect(result.value).type.toBe<number | undefined>()
        expect(result.budget).type.toBe<AgentBudget.Name>()
        return
      case "looped":
        expect(result.value).type.toBe<number | undefined>()
        expect(result.loop).type.toBe<LoopDetector.Loop>()
        return
      default:
        expect(result).type.toBe<never>()
    }
  })

  it("says what people decided about a call", () => {
    expect<Agent.TurnToolCall["decision"]>().type.toBe<
      "approved" | "edited" | "rejected" | "supplied" | undefined
    >()
  })
})

describe("Agent.reached", () => {
  it("takes any error, and says how far the run had come", () => {
    expect(Agent.reached).type.toBe<(error: unknown) => Option.Option<Agent.FailedAt>>()
    expect<Agent.FailedAt>().type.toBeAssignableTo<Agent.Reached>()
  })
})

describe("Agent.AgentError", () => {
  it("says how far the run had come, once that is known", () => {
    expect<Agent.AgentError["reached"]>().type.toBe<Agent.Reached | undefined>()
    expect<Agent.Reached["kept"]>().type.toBe<{ readonly turns: number; readonly steps: number }>()
    expect<Agent.Reached["counters"]>().type.toBeAssignableTo<Agent.Counters>()
    expect<Agent.Counters>().type.toBeAssignableTo<Agent.Reached["counters"]>()
    expect<(typeof Agent.AgentError)["Encoded"]>().type.toBeAssignableTo<{ readonly _tag: "AgentError" }>()
  })
})

describe("AgentBudget", () => {
  it("is shared by agents of all kinds, and adds nothing to what they need or fail with", () => {
    const sharedBudget = AgentBudget.shared({ iterations: 10, outputTokens: 1_000, cost: 1 })
    expect(sharedBudget).type.toBe<AgentBudget.Shared>()
    expect(sharedBudget.spent()).type.toBe<AgentBudget.SharedSpent>()
    const sharing = Agent.make({ name: "plain", instructions: "", sharedBudget })
    expect(Agent.run(sharing, options)).type.toBe<ReturnType<typeof unshared>>()
    const unshared = () => Agent.run(plain, options)
  })

  it("is shared without limits that no runs can share", () => {
    expect(AgentBudget.shared).type.not.toBeCallableWith({ wallTime: "1 second" })
  })

  it("says how long an answer may be", () => {
    expect(OutputTokens.wanted(1)).type.toBe<Effect.Effect<number | undefined>>()
    expect(AgentBudget.make({ outputTokensPerTurn: 1 }).outputTokensPerTurn).type.toBe<number | undefined>()
  })
})

describe("Agent.stream", () => {
  it("gives events and the result, and fails with and needs what a run does", () => {
    const agent = Agent.make({ name: "judge", instructions: "", result: Schema.Struct({ guilty: Schema.Boolean }) })
    expect(Agent.stream(agent, options)).type.toBe<
      Stream.Stream<
        Agent.Event<{ readonly guilty: boolean }>,
        AiError.AiError | Agent.AgentError | Checkpoint.StepError | Checkpoint.RunError,
        LanguageModel.LanguageModel | CheckpointStore.CheckpointStore
      >
    >()
    type Finished = Extract<Agent.Event<number>, { readonly _tag: "Finished" }>
    expect<Finished["result"]>().type.toBe<Agent.Result<number>>()
    expect<Agent.Progress>().type.toBeAssignableTo<Agent.Event<string>>()
  })

  it("is watched by an effect that cannot fail", () => {
    expect(Agent.run).type.toBeCallableWith(plain, { ...options, onEvent: () => Effect.void })
    expect(Agent.run).type.not.toBeCallableWith(plain, { ...options, onEvent: () => Effect.fail("no") })
  })

  it("takes options of streams, or none of them", () => {
    expect(Agent.make).type.toBeCallableWith({ name: "a", instructions: "", stream: false })
    expect(Agent.make).type.toBeCallableWith({
      name: "a",
      instructions: "",
      stream: { idleTimeout: "1 minute", onCut: "resume", maxCuts: 1 }
    })
    expect(Agent.make).type.not.toBeCallableWith({ name: "a", instructions: "", stream: { onCut: "fail" } })
    expect(Agent.make).type.not.toBeCallableWith({ name: "a", instructions: "", stream: true })
  })
})

describe("AgentTools", () => {
  it("gives handlers the call they run for", () => {
    expect(Effect.map(AgentTools.CurrentToolCall, (call) => call?.idempotencyKey)).type.toBe<
      Effect.Effect<string | undefined>
    >()
  })
})
