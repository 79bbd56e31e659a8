/** The evening on the virtual clock: a Letta by script, without a server, that takes its time and fails as the real one. */
import { Clock, Console, Effect, Layer, Random, References, Stream } from "effect"
import { Fault, Policy } from "effect-resilience"
import * as Letta from "effect-resilience/model/Letta"
import { inVirtualTime } from "../support/virtualTime.ts"
import { agentId, answerTo, type Backstage, overwritten, persona, play, tool, type Trouble } from "./evening.ts"

interface Turn {
  readonly runId: string
  readonly parts: ReadonlyArray<Letta.Part>
}

const failure = (method: string, reason: Letta.LettaErrorReason, verdict: Fault.Verdict) =>
  new Letta.LettaError({ method, agentId, reason, verdict, requestId: null })

const badGateway = (method: string) =>
  failure(method, { _tag: "StatusError", status: 502, type: null, message: null }, Fault.transient)

const date = "2026-11-02T20:00:00Z"

const partsOf = (text: string): ReadonlyArray<Letta.Part> => [
  { id: `thought on ${text}`, date, message_type: "reasoning_message", reasoning: "A guest writes." },
  { id: `answer to ${text}`, date, message_type: "assistant_message", content: answerTo(text) },
  { message_type: "stop_reason", stop_reason: "end_turn" }
]

/** Makes the service and what is behind it. `refusals` is how often it says no before it says yes. */
const make = (refusals: number) => {
  const turns: Array<string> = []
  const runs = new Map<string, Turn>()
  let requests = 0
  let trouble: Trouble = "none"
  let times = 0

  /** Every request takes a second, and none is answered while the server is down. */
  const answered = <A>(method: string, answer: Effect.Effect<A, Letta.LettaError>) =>
    Effect.suspend(() => {
      requests++
      const failing = trouble === "down" ? Effect.fail(badGateway(method)) : answer
      return Effect.delay(failing, "1 second")
    })

  /** Takes a message in, once for its own id. */
  const take = (otid: string, text: string): Turn => {
    const turn = runs.get(otid) ?? { runId: `run-${otid}`, parts: partsOf(text) }
    if (!runs.has(otid)) turns.push(text)
    runs.set(otid, turn)
    return turn
  }

  const begin = (
    otid: string,
    text: string
  ): Effect.Effect<Stream.Stream<Letta.Part, Letta.LettaError>, Letta.LettaError> => {
    const method = "streamMessage"
    const known = runs.get(otid)
    if (known !== undefined) {
      const reason = { _tag: "AgentBusy", message: "conflict", runId: known.runId } as const
      return Effect.fail(failure(method, reason, Fault.transient))
    }
    const time = times++
    switch (trouble) {
      case "refused, then busy":
        if (time < refusals) {
          const reason = { _tag: "StatusError", status: 503, type: null, message: null } as const
          return Effect.fail(failure(method, reason, Fault.overloaded("5 seconds")))
        }
        if (time === refusals) {
          const reason = { _tag: "AgentBusy", message: "is currently being processed", runId: null } as const
          return Effect.fail(failure(method, reason, Fault.transient))
        }
        break
      case "lost after the deed": {
        const { parts, runId } = take(otid, text)
        const cut = failure(method, { _tag: "CutShort", message: "reset", runId, sequence: 0 }, Fault.transient)
        return Effect.succeed(Stream.concat(Stream.fromIterable(parts.slice(0, 1)), Stream.fail(cut)))
      }
      case "lost before the answer":
        take(otid, text)
        return Effect.fail(failure(method, { _tag: "ConnectionFailed", message: "reset" }, Fault.transient))
      case "model limited":
        if (time < refusals) {
          const reason = { _tag: "RunFailed", type: "llm_rate_limit", message: null, runId: null } as const
          return Effect.fail(failure(method, reason, Fault.throttled("20 seconds")))
        }
        break
      default:
        break
    }
    return Effect.succeed(Stream.fromIterable(take(otid, text).parts))
  }

  const block = () => ({
    id: "block-1",
    description: null,
    readOnly: false,
    ...(trouble === "persona overwritten" ? overwritten : persona)
  })
  const attached = { id: "tool-1", name: tool, description: null, type: null, requiresApproval: false }
  const notScripted = (method: string) =>
    failure(method, { _tag: "InvalidRequest", message: "the script has no such part" }, Fault.permanent)

  const letta = Letta.Letta.of({
    use: () => Effect.fail(notScripted("use")),
    sendMessage: () => Effect.fail(notScripted("sendMessage")),
    agent: () => Effect.fail(notScripted("agent")),
    agentExists: (id) => answered("agentExists", Effect.succeed(id === agentId)),
    health: answered("health", Effect.succeed({ status: "ok", version: null })),
    memoryBlocks: () => answered("memoryBlocks", Effect.sync(() => [block()])),
    tools: () => answered("tools", Effect.succeed([attached])),
    streamMessage: (_, input, options) =>
      Stream.unwrap(
        answered(
          "streamMessage",
          Effect.suspend(() => begin(options?.otid ?? "", typeof input === "string" ? input : ""))
        )
      ),
    resumeRun: (runId, options) => {
      const turn = [...runs.values()].find((one) => one.runId === runId)
      const parts = turn?.parts.slice(options?.after === undefined ? 0 : options.after + 1) ?? []
      return Stream.unwrap(answered("resumeRun", Effect.succeed(Stream.fromIterable(parts))))
    }
  })
  const backstage: Backstage = {
    arrange: (next) =>
      Effect.sync(() => {
        trouble = next
        times = 0
      }),
    requests: Effect.sync(() => requests),
    turns: Effect.sync(() => turns.slice())
  }
  return { letta, backstage }
}

export const run = Effect.fnUntraced(
  function*(seed: number) {
    const refusals = yield* Random.withSeed(Random.nextIntBetween(1, 2), seed)
    const { backstage, letta } = make(refusals)
    const world = Layer.mergeAll(Layer.succeed(Letta.Letta, letta), Policy.layer)
    const story = Effect.gen(function*() {
      const evening = yield* play(backstage)
      const seconds = (yield* Clock.currentTimeMillis) / 1_000
      yield* Console.log(`the evening took ${seconds.toFixed(0)} virtual seconds`)
      return { ...evening, seconds, requests: yield* backstage.requests, refusals }
    })
    return yield* inVirtualTime(Effect.provide(story, world), seed)
  },
  Effect.provideService(References.MinimumLogLevel, "Error")
)
