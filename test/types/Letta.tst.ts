import type { Effect, Layer, Redacted, Stream } from "effect"
import type { Fault } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import type * as LettaServer from "effect-resilience/testing/LettaServer"
import { describe, expect, it } from "tstyche"

const letta = {} as Letta.Letta["Service"]

describe("Letta", () => {
  it("a turn is an answer or one error", () => {
    expect(letta.sendMessage("agent-1", "Hello")).type.toBe<Effect.Effect<Letta.Answer, Letta.LettaError>>()
    expect(letta.streamMessage("agent-1", "Hello")).type.toBe<Stream.Stream<Letta.Part, Letta.LettaError>>()
    expect(letta.resumeRun("run-1", { after: 3 })).type.toBe<Stream.Stream<Letta.Part, Letta.LettaError>>()
  })

  it("an answer has none of the stop reasons of a failure, and a stream no sign of life and no error", () => {
    expect<Letta.StopReason>().type.toBe<"end_turn" | "max_steps" | "requires_approval" | "tool_rule">()
    expect<"ping" | "error_message">().type.not.toBeAssignableTo<Letta.Part["message_type"]>()
    expect<"stop_reason">().type.toBeAssignableTo<Letta.Part["message_type"]>()
  })

  it("use has the callback's result", () => {
    expect(letta.use((client) => client.agents.retrieve("agent-1").then(({ name }) => name))).type.toBe<
      Effect.Effect<string, Letta.LettaError>
    >()
  })

  it("an error says its verdict, and its reasons can be caught by name", () => {
    expect<Letta.LettaError[typeof Fault.verdictOf]>().type.toBe<Fault.Verdict>()
    expect<Extract<Letta.LettaErrorReason, { readonly _tag: "AgentBusy" }>["runId"]>().type.toBe<string | null>()
  })

  it("an otid belongs to a stream, which alone can be sent twice", () => {
    expect(letta.streamMessage).type.toBeCallableWith("agent-1", "Hello", { otid: "otid-1", tokens: true })
    expect(letta.sendMessage).type.not.toBeCallableWith("agent-1", "Hello", { otid: "otid-1" })
    expect(letta.sendMessage).type.not.toBeCallableWith("agent-1", "Hello", { request: { streaming: true } })
  })

  it("the layer needs nothing and fails where an option is wrong; what it owns is no option", () => {
    expect(Letta.layer()).type.toBe<Layer.Layer<Letta.Letta, Fault.InvalidConfig>>()
    expect<Letta.Options["token"]>().type.toBe<Redacted.Redacted | string | undefined>()
    expect(Letta.layer).type.not.toBeCallableWith({ client: { maxRetries: 3 } })
    expect(Letta.layer).type.not.toBeCallableWith({ client: { environment: "local" } })
  })

  it("checks need the service and say what they found", () => {
    expect(Letta.checkReachable()).type.toBe<Effect.Effect<Letta.Check, Letta.LettaError, Letta.Letta>>()
    expect(Letta.checkMemory("agent-1", { persona: {} })).type.toBe<
      Effect.Effect<Letta.MemoryCheck, Letta.LettaError, Letta.Letta>
    >()
    expect(Letta.checkTools("agent-1", ["search"])).type.toBe<
      Effect.Effect<Letta.ToolsCheck, Letta.LettaError, Letta.Letta>
    >()
    expect<Letta.MemoryCheck>().type.toBeAssignableTo<Letta.Check>()
  })
})

describe("LettaServer", () => {
  it("a fault rule gives a fault or none", () => {
    expect<LettaServer.FaultRule>().type.toBe<(request: LettaServer.FaultRequest) => LettaServer.Fault | undefined>()
  })
})
