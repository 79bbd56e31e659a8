/**
 * The evening, live: the real client against a Letta server on loopback that refuses, is busy, loses its connection in the
 * middle of a turn, is limited by its model, has its memory overwritten, and goes down.
 */
import { Effect, Layer, References } from "effect"
import { Policy } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import * as LettaServer from "effect-resilience/testing/LettaServer"
import { agentId, answerTo, type Backstage, overwritten, persona, play, tool } from "./evening.ts"

/** What the agent does with a message: it notes the guest, books where it is asked to, and answers. */
const answer = ({ text, turnsBefore }: LettaServer.Turn): LettaServer.AnswerContent => ({
  deeds: [
    { type: "reasoning", text: `This is message ${turnsBefore + 1}.` },
    ...(text.includes("table")
      ? [{ type: "tool" as const, name: tool, arguments: JSON.stringify({ people: 2 }), result: "booked" }]
      : []),
    { type: "assistant", text: answerTo(text) }
  ]
})

const backstageOf = (server: LettaServer.LettaServer["Service"]): Backstage => {
  /** Faults for the next messages alone; the checks before them are answered. */
  const onMessages = (...faults: ReadonlyArray<LettaServer.Fault>) => {
    const left = [...faults]
    return server.setFaults(({ kind }) => kind === "message" ? left.shift() : undefined)
  }
  return {
    arrange: (trouble) => {
      switch (trouble) {
        case "none":
          return Effect.void
        case "refused, then busy":
          return onMessages({ _tag: "Unavailable" }, {
            _tag: "StatusError",
            status: 409,
            message: "is currently being processed"
          })
        case "lost after the deed":
          return onMessages({ _tag: "StreamClose", afterEvents: 3 })
        case "lost before the answer":
          return onMessages({ _tag: "ResetBeforeHeaders" })
        case "model limited":
          return onMessages({ _tag: "StreamError", type: "llm_rate_limit", afterEvents: 1 })
        case "persona overwritten":
          return server.change(agentId, () => ({ blocks: [overwritten] }))
        case "down":
          return Effect.andThen(
            server.change(agentId, () => ({ blocks: [persona] })),
            server.setFaults(() => ({ _tag: "ServerError", status: 502, html: true }))
          )
      }
    },
    requests: Effect.map(server.stats, ({ requests }) => requests),
    turns: Effect.map(server.agent(agentId), ({ turns }) => turns)
  }
}

export const run = Effect.fnUntraced(
  function*(seed: number) {
    const server = yield* LettaServer.make({
      answer,
      seed,
      agents: { [agentId]: { name: "Concierge", blocks: [persona], tools: [tool] } }
    })
    const live = Layer.mergeAll(Letta.layer({ baseURL: server.url }), Policy.layer)
    const evening = yield* Effect.provide(play(backstageOf(server), { pace: "10 millis" }), live)
    return { ...evening, requests: yield* server.requests }
  },
  Effect.scoped,
  Effect.provideService(References.MinimumLogLevel, "Error")
)
