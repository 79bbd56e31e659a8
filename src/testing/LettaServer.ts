/**
 * A real HTTP server on loopback that speaks Letta's wire format and misbehaves on command, so that a test or a demo runs
 * the real client against every failure a Letta server has, and sees what the agents have taken in.
 *
 * **When to use**
 *
 * Use it in tests of programs that talk to `Letta`, over real sockets and without the cloud.
 *
 * @since 0.1.0
 */
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Result from "effect/Result"
import type * as Scope from "effect/Scope"
import * as config from "../internal/config.ts"
import * as server from "./internal/faultyServer.ts"
import type { Fault, FaultTag } from "./internal/lettaFault.ts"
import { noneInjected } from "./internal/lettaFault.ts"
import * as reply from "./internal/lettaReply.ts"
import type { AnswerContent, MessageRequest } from "./internal/lettaTurn.ts"
import * as turns from "./internal/lettaTurn.ts"
import { type Reply, streamOf } from "./internal/reply.ts"
import { identifier } from "./internal/seeded.ts"

export type { Fault, FaultTag } from "./internal/lettaFault.ts"
export type { AnswerContent, Deed, MessageRequest } from "./internal/lettaTurn.ts"

/**
 * A block of an agent's memory. `limit` defaults to 20,000 characters.
 *
 * @category models
 * @since 0.1.0
 */
export interface Block {
  readonly label: string
  readonly value: string
  readonly limit?: number | undefined
  readonly description?: string | undefined
}

/**
 * What an agent is made of. `tools` are the names of those attached; `turns` the messages of users that it has taken in,
 * oldest first: one that stands there twice was sent twice.
 *
 * @category models
 * @since 0.1.0
 */
export interface Agent {
  readonly name: string
  readonly blocks: ReadonlyArray<Block>
  readonly tools: ReadonlyArray<string>
  readonly turns: ReadonlyArray<string>
}

/**
 * A message to an agent, as `answer` sees it: the text of its user, how many turns the agent has had before, and the
 * whole body.
 *
 * @category models
 * @since 0.1.0
 */
export interface Turn {
  readonly agentId: string
  readonly text: string
  readonly turnsBefore: number
  readonly body: MessageRequest
}

/**
 * A request that is about to be served, as a {@link FaultRule} sees it.
 *
 * **Details**
 *
 * `index` is its place among all requests, from 0. `attemptOf` is the index of the first request with the very same
 * body, when this one repeats it. `kind` says what is asked for, `agentId` the agent or the run. `millisSinceStart` counts
 * from the start of the server.
 *
 * @category models
 * @since 0.1.0
 */
export interface FaultRequest {
  readonly index: number
  readonly attemptOf: number | undefined
  readonly kind: "health" | "agent" | "blocks" | "tools" | "message" | "run"
  readonly agentId: string | undefined
  readonly stream: boolean
  readonly millisSinceStart: number
}

/**
 * Chooses the fault of each request; `undefined` is a healthy answer.
 *
 * @category models
 * @since 0.1.0
 */
export type FaultRule = (request: FaultRequest) => Fault | undefined

/**
 * What the server knows about one request.
 *
 * **Details**
 *
 * `body` is the decoded JSON, or the text where it is none. How it ended: `completed` once the response was sent whole,
 * whatever its status, `closedByClient` once the client closed the connection before that, `cutByServer` once a fault or
 * the end of the scope cut it. Until then all three are false.
 *
 * @category models
 * @since 0.1.0
 */
export interface RequestLog {
  readonly index: number
  readonly method: string
  readonly path: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: unknown
  readonly attemptOf: number | undefined
  readonly fault: FaultTag | undefined
  readonly completed: boolean
  readonly closedByClient: boolean
  readonly cutByServer: boolean
}

/**
 * Counts since the start of the server. `answered` counts the healthy answers that were sent whole.
 *
 * @category models
 * @since 0.1.0
 */
export interface Stats {
  readonly requests: number
  readonly answered: number
  readonly closedByClient: number
  readonly injected: Readonly<Record<FaultTag, number>>
}

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `agents`: by their ids. Default one agent, `agent-1`, with the blocks `persona` and `human` and the tool
 *   `send_message`.
 * - `answer`: the healthy turn, also as an effect, which may wait. It is not asked about a request that is refused before
 *   the agent does anything. Default: `Echo: ` and the text of the message.
 * - `faults`: a queue for the first requests, or a rule for all.
 * - `token`: asked for in every request. Default none.
 * - `pageLimit`: the most items that a page of a list has, whatever is asked for. Default 100.
 * - `seed`: of ids and latencies. Default 0.
 * - `latency`: added to every answer, drawn evenly from the range. Default none.
 * - `history`: how many requests are kept for `requests` and the waits. Default 10,000.
 * - `port`: default 0, any free one.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly agents?: Readonly<Record<string, Partial<Omit<Agent, "turns">>>> | undefined
  readonly answer?: ((turn: Turn, index: number) => AnswerContent | Effect.Effect<AnswerContent>) | undefined
  readonly faults?: ReadonlyArray<Fault> | FaultRule | undefined
  readonly token?: string | undefined
  readonly pageLimit?: number | undefined
  readonly seed?: number | string | undefined
  readonly latency?: { readonly min: Duration.Input; readonly max: Duration.Input } | undefined
  readonly history?: number | undefined
  readonly port?: number | undefined
}

/**
 * A running server.
 *
 * **Details**
 *
 * - `url`: the base URL for the client.
 * - `inject`: the next requests get these faults, one each, in order. A request that Letta would refuse as it stands (no
 *   token, no such agent, no message) gets its own error and takes no fault.
 * - `setFaults`: asked for each request while nothing is injected; `undefined` ends it.
 * - `agent`: an agent as it is now, a defect where there is none. `change`: changes it, as somebody else would.
 * - `requests`: what came in, oldest first.
 * - `awaitRequest(index)`: waits until this request, counted from 0, has come in whole and its fault is chosen.
 * - `awaitClosedByClient(index)`: waits until the client has closed the connection of this request before its answer was
 *   complete.
 * - `stats`: counts since the start.
 *
 * @category services
 * @since 0.1.0
 */
export class LettaServer extends Context.Service<LettaServer, {
  readonly url: string
  readonly port: number
  readonly inject: (...faults: ReadonlyArray<Fault>) => Effect.Effect<void>
  readonly setFaults: (rule: FaultRule | undefined) => Effect.Effect<void>
  readonly agent: (agentId: string) => Effect.Effect<Agent>
  readonly change: (agentId: string, change: (agent: Agent) => Partial<Agent>) => Effect.Effect<void>
  readonly requests: Effect.Effect<ReadonlyArray<RequestLog>>
  readonly awaitRequest: (index: number) => Effect.Effect<RequestLog>
  readonly awaitClosedByClient: (index: number) => Effect.Effect<RequestLog>
  readonly stats: Effect.Effect<Stats>
}>()("effect-resilience/testing/LettaServer/LettaServer") {}

const module = "LettaServer"

const standardAgent: Omit<Agent, "turns"> = {
  name: "Agent",
  blocks: [
    { label: "persona", value: "I help where I can." },
    { label: "human", value: "The user has not said anything about themselves yet." }
  ],
  tools: ["send_message"]
}

const wireBlock = (agentId: string, block: Block) => ({
  id: `block-${agentId}-${block.label}`,
  label: block.label,
  value: block.value,
  limit: block.limit ?? 20_000,
  description: block.description ?? null,
  read_only: false
})

const wireTool = (name: string) => ({
  id: `tool-${name}`,
  name,
  description: null,
  tool_type: "custom",
  default_requires_approval: false
})

const wireAgent = (agentId: string, agent: Agent, include: ReadonlySet<string>) => ({
  id: agentId,
  name: agent.name,
  agent_type: "letta_v1_agent",
  model: "openai/gpt-4.1",
  system: "You are an agent.",
  ...(include.has("agent.tags") ? { tags: [] } : {}),
  ...(include.has("agent.blocks") ? { blocks: agent.blocks.map((block) => wireBlock(agentId, block)) } : {}),
  ...(include.has("agent.tools") ? { tools: agent.tools.map(wireTool) } : {})
})

const latencyRange = (options: Options): server.Latency => {
  if (options.latency === undefined) return { min: 0, max: 0 }
  const min = config.duration(module, "latency.min", options.latency.min)
  const max = config.duration(module, "latency.max", options.latency.max, { minimum: min })
  return { min: Duration.toMillis(min), max: Duration.toMillis(max) }
}

const pathOf =
  /^\/v1\/(?:(health)|agents\/([^/]+)(?:\/(messages|tools|core-memory\/blocks))?|runs\/([^/]+)\/stream)\/?$/

type Route = Pick<FaultRequest, "kind" | "agentId">

const routeOf = (method: string, path: string): Route | undefined => {
  const [whole, health, agent, part, run] = pathOf.exec(path) ?? []
  if (whole === undefined) return undefined
  const reading = method === "GET"
  const kind = health !== undefined && reading
    ? "health"
    : run !== undefined && method === "POST"
    ? "run"
    : part === "messages" && method === "POST"
    ? "message"
    : agent !== undefined && reading && part !== "messages"
    ? part === undefined ? "agent" : part === "tools" ? "tools" : "blocks"
    : undefined
  const agentId = agent ?? run
  return kind === undefined
    ? undefined
    : { kind, agentId: agentId === undefined ? undefined : decodeURIComponent(agentId) }
}

/**
 * Starts a server that runs until the scope closes, which destroys every connection at once.
 *
 * **When to use**
 *
 * Use it in a test that has to see what the real client, real sockets and a real event stream do, and what an agent has
 * taken in.
 *
 * **Details**
 *
 * It serves the health of the server, an agent with its blocks and tools, messages as JSON and as events, and the events
 * of a run in the background. A message in the background whose `otid` the agent has taken in is refused with 409 and the
 * run it belongs to. Delays run on the `Clock` of the effect that starts it. An `answer` or a rule that throws shows as a 500
 * that says so. A port in use is a defect.
 *
 * **Example** (Losing an answer, and not the turn)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Fault } from "effect-resilience"
 * import * as Letta from "effect-resilience/model/Letta"
 * import * as LettaServer from "effect-resilience/testing/LettaServer"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* LettaServer.make()
 *   yield* server.inject({ _tag: "ResetMidBody" })
 *
 *   const letta = yield* Letta.make({ baseURL: server.url })
 *   const error = yield* Effect.flip(letta.sendMessage("agent-1", "My name is Ada"))
 *   const verdict = yield* Fault.classify(error)
 *   const agent = yield* server.agent("agent-1")
 *   return [verdict._tag, agent.turns]
 * })
 *
 * await Effect.runPromise(Effect.scoped(program)) // => ["Ambiguous", ["My name is Ada"]]
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(
  options: Options = {}
): Effect.fn.Return<LettaServer["Service"], never, Scope.Scope> {
  const port = config.integer(module, "port", options.port ?? 0, 0, 65_535)
  const history = config.integer(module, "history", options.history ?? 10_000, 1)
  const pageLimit = config.integer(module, "pageLimit", options.pageLimit ?? 100, 1)
  const latency = latencyRange(options)
  const answer = options.answer ?? ((turn: Turn) => `Echo: ${turn.text}`)
  const seed = options.seed ?? 0

  const agents = new Map<string, Agent>()
  for (const [id, given] of Object.entries(options.agents ?? { "agent-1": {} })) {
    agents.set(id, { ...standardAgent, ...given, turns: [] })
  }
  const runs = new Map<string, { readonly turn: turns.Turn; readonly request: MessageRequest; readonly date: string }>()
  const runOfOtid = new Map<string, string>()

  const listed = (query: URLSearchParams, items: ReadonlyArray<{ readonly id: string }>): string => {
    const after = query.get("after")
    const from = after === null ? 0 : items.findIndex(({ id }) => id === after) + 1
    const limit = Math.min(Number(query.get("limit") ?? pageLimit), pageLimit)
    return JSON.stringify(items.slice(from, from + limit))
  }

  const reading = (kind: FaultRequest["kind"], query: URLSearchParams, agentId: string, agent: Agent): string => {
    switch (kind) {
      case "blocks":
        return listed(query, agent.blocks.map((block) => wireBlock(agentId, block)))
      case "tools":
        return listed(query, agent.tools.map(wireTool))
      default: {
        const include = new Set(
          Array.from(query).flatMap(([key, value]) => key.startsWith("include") ? value.split(",") : [])
        )
        return JSON.stringify(wireAgent(agentId, agent, include))
      }
    }
  }

  const read = (text: string, fault: Fault | undefined, index: number): Reply => {
    const met = reply.meet(fault, {}, "").refusal
    if (met !== undefined) return met
    return fault?._tag === "RunFailed" || fault?._tag === "StreamNoStopReason"
      ? reply.broken("An internal server error occurred")
      : server.later(latency, seed, reply.jsonReply(fault, text, () => streamOf([`data: ${text}\n\n`])), index)
  }

  const takeTurn = Effect.fnUntraced(function*(
    agentId: string,
    agent: Agent,
    request: MessageRequest,
    fault: Fault | undefined,
    index: number
  ) {
    const text = turns.userText(request)
    const { made, refusal } = reply.meet(fault, request, identifier("run", seed, index, "busy"))
    const keep = Effect.sync(() => {
      const now = agents.get(agentId) ?? agent
      agents.set(agentId, { ...now, turns: [...now.turns, text] })
    })
    if (refusal !== undefined && made === 0) return server.later(latency, seed, refusal, index)
    const given = answer({ agentId, text, turnsBefore: agent.turns.length, body: request }, index)
    const content = Effect.isEffect(given) ? yield* given : given
    const date = DateTime.formatIso(DateTime.makeUnsafe(yield* Clock.currentTimeMillis))
    const healthy = turns.build(request, content, seed, index, date)
    const turn = fault?._tag === "RunFailed"
      ? turns.failed(healthy, fault.stopReason, made ?? 0)
      : fault?._tag === "StreamNoStopReason"
      ? { ...healthy, stopReason: null }
      : healthy
    if (made === undefined || made > 0) {
      yield* keep
      if (request.background === true) {
        const kept = made === undefined
          ? healthy
          : turns.failed(healthy, fault?._tag === "RunFailed" ? fault.stopReason : "error", made)
        runs.set(healthy.runId, { turn: kept, request, date })
        for (const otid of turns.otidsOf(request)) runOfOtid.set(`${agentId}/${otid}`, healthy.runId)
      }
    }
    if (refusal !== undefined) return server.later(latency, seed, refusal, index)
    const planned = request.streaming === true
      ? reply.streamReply(fault, turn, request, date)
      : reply.jsonReply(fault, turns.answerJson(turn), () => reply.streamReply(undefined, turn, request, date))
    return server.later(latency, seed, planned, index)
  })

  const follow = (runId: string, after: unknown, fault: Fault | undefined, index: number): Reply => {
    const met = reply.meet(fault, {}, runId).refusal
    if (met !== undefined) return met
    const run = runs.get(runId)
    if (run === undefined) return reply.detail(404, `Run ${runId} not found`)
    const from = typeof after === "number" ? after + 1 : 0
    const request: MessageRequest = { ...run.request, include_pings: false }
    const messages = turns.eventsOf(run.turn, run.request, run.date)
      .filter(({ seq_id }) => typeof seq_id === "number" && seq_id >= from)
    const turn = { ...run.turn, messages }
    return server.later(
      latency,
      seed,
      reply.streamReply(fault, turn, { ...request, background: false, stream_tokens: false }, run.date),
      index
    )
  }

  const decide = (
    { attemptOf, exchange, index, json, millisSinceStart }: server.Arrival,
    faultFor: (request: FaultRequest) => Fault | undefined
  ): { readonly fault: Fault | undefined; readonly plan: Effect.Effect<server.Planned> } => {
    const refuse = (status: number, message: string, more?: Readonly<Record<string, unknown>>) => ({
      fault: undefined,
      plan: Effect.succeed({ planned: reply.detail(status, message, more), healthy: false })
    })
    const plan = (fault: Fault | undefined, planned: Effect.Effect<Reply>) => ({
      fault,
      plan: Effect.map(planned, (one): server.Planned => ({
        planned: one,
        healthy: fault === undefined || fault._tag === "SlowFirstByte"
      }))
    })
    const route = routeOf(exchange.method, exchange.path)
    if (route === undefined) return refuse(404, "Not Found")
    if (options.token !== undefined && exchange.headers["authorization"] !== `Bearer ${options.token}`) {
      return refuse(401, "Unauthorized")
    }
    const asked = (stream: boolean) => faultFor({ ...route, index, attemptOf, stream, millisSinceStart })
    const { agentId = "", kind } = route
    if (kind === "health") {
      const fault = asked(false)
      return plan(fault, Effect.sync(() => read(JSON.stringify({ version: "0.16.0", status: "ok" }), fault, index)))
    }
    if (kind === "run") {
      const fault = asked(true)
      const body = Result.getOrElse(json, () => ({}))
      const after = typeof body === "object" && body !== null ? Reflect.get(body, "starting_after") : undefined
      return plan(fault, Effect.sync(() => follow(agentId, after, fault, index)))
    }
    const agent = agents.get(agentId)
    if (agent === undefined) return refuse(404, `Agent not found with id='${agentId}'`)
    if (kind !== "message") {
      const fault = asked(false)
      return plan(fault, Effect.sync(() => read(reading(kind, exchange.query, agentId, agent), fault, index)))
    }
    if (Result.isFailure(json)) return refuse(422, "The body is not valid JSON")
    const request = turns.decodeRequest(json.success)
    if (Result.isFailure(request)) return refuse(422, request.failure)
    const body = request.success
    const seen = body.background === true
      ? turns.otidsOf(body).map((otid) => runOfOtid.get(`${agentId}/${otid}`)).find((runId) => runId !== undefined)
      : undefined
    if (seen !== undefined) return refuse(409, "A request with this otid was already received", { run_id: seen })
    const fault = asked(body.streaming === true)
    return plan(fault, takeTurn(agentId, agent, body, fault, index))
  }

  const running = yield* server.make<FaultTag, Fault, FaultRequest>({
    port,
    history,
    seed,
    faults: options.faults,
    noneInjected: noneInjected(),
    decide,
    headers: (requestId) => ({ "x-request-id": requestId }),
    broken: reply.broken
  })
  const known = (agentId: string): Effect.Effect<Agent> =>
    Effect.suspend(() => {
      const agent = agents.get(agentId)
      return agent === undefined
        ? Effect.die(new Error(`LettaServer has no agent ${JSON.stringify(agentId)}`))
        : Effect.succeed(agent)
    })
  return LettaServer.of({
    ...running,
    agent: known,
    change: (agentId, change) =>
      Effect.map(known(agentId), (agent) => {
        agents.set(agentId, { ...agent, ...change(agent) })
      })
  })
})

/**
 * Provides a running {@link LettaServer}, see {@link make}.
 *
 * **Example** (Asking for the health without the client)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as LettaServer from "effect-resilience/testing/LettaServer"
 *
 * const program = Effect.gen(function*() {
 *   const server = yield* LettaServer.LettaServer
 *   const response = yield* Effect.promise(() => fetch(`${server.url}/v1/health/`))
 *   const stats = yield* server.stats
 *   return [response.status, stats.requests]
 * })
 *
 * await Effect.runPromise(Effect.provide(program, LettaServer.layer())) // => [200, 1]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options?: Options): Layer.Layer<LettaServer> => Layer.effect(LettaServer, make(options))
