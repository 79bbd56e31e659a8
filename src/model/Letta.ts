/**
 * The official Letta client as an Effect service: turns of an agent that are whole or a typed failure, and checks of the
 * agent's memory and tools.
 *
 * **When to use**
 *
 * Use it to talk to agents that live at a Letta server, whose memory each message changes: so a message that may have
 * arrived is not sent again without an `otid`.
 *
 * @since 0.1.0
 */
import type { ClientOptions, Letta as Client } from "@letta-ai/letta-client"
import type { MessageCreate } from "@letta-ai/letta-client/resources/agents/agents"
import type {
  ApprovalCreate,
  LettaResponse,
  LettaStreamingResponse,
  Message as ClientMessage,
  MessageCreateParams,
  MessageCreateParamsBase
} from "@letta-ai/letta-client/resources/agents/messages"
import * as Clock from "effect/Clock"
import * as Config from "effect/Config"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import type * as Redacted from "effect/Redacted"
import * as Schema from "effect/Schema"
import * as Stream from "effect/Stream"
import * as Tracer from "effect/Tracer"
import { InvalidConfig } from "../Fault.ts"
import * as config from "../internal/config.ts"
import { millisOf } from "../internal/monotonic.ts"
import { sha256 } from "../internal/sha256.ts"
import * as spans from "../internal/spans.ts"
import { reachable, secret, validateHeaders } from "./internal/clientOptions.ts"
import { configuredClient } from "./internal/lettaClient.ts"
import type { LettaError } from "./internal/lettaError.ts"
import * as errors from "./internal/lettaErrors.ts"
import * as wire from "./internal/lettaWire.ts"
import { Exchange, type Limits, watchedFetch } from "./internal/watchedFetch.ts"

export { LettaError, LettaErrorReason } from "./internal/lettaError.ts"

/**
 * A message of an agent's turn, as the client types it.
 *
 * @category models
 * @since 0.1.0
 */
export type Message = ClientMessage

/**
 * A part of a streamed turn: its messages (with `tokens`, pieces of them), and at the end `stop_reason` and
 * `usage_statistics`.
 *
 * @category models
 * @since 0.1.0
 */
export type Part = wire.Part

/**
 * How a turn ended that Letta counts as completed.
 *
 * **Details**
 *
 * `end_turn`: the agent is done. `tool_rule`: a tool ended the turn, as its rule says. `max_steps`: the limit of steps was
 * reached, and the agent is not done. `requires_approval`: it waits for the answer to its last message.
 *
 * @category models
 * @since 0.1.0
 */
export type StopReason = wire.Completed

/**
 * Tokens and steps of a turn, as the client types them.
 *
 * @category models
 * @since 0.1.0
 */
export type Usage = LettaResponse.Usage

/**
 * A whole turn of an agent. `text` is what the agent said, its assistant messages one to a line.
 *
 * @category models
 * @since 0.1.0
 */
export interface Answer {
  readonly messages: ReadonlyArray<Message>
  readonly text: string
  readonly stopReason: StopReason
  readonly usage: Usage
}

/**
 * What is sent to an agent: the text of a user, or messages, answers to approvals, and results of tools.
 *
 * @category models
 * @since 0.1.0
 */
export type Input = string | ReadonlyArray<MessageCreate | ApprovalCreate | MessageCreateParams.ToolReturnCreate>

/**
 * Further parameters of a message, in the API's own spelling: `client_tools`, `override_model`, `override_system`, …
 *
 * @category models
 * @since 0.1.0
 */
export type RequestParameters = Omit<
  MessageCreateParamsBase,
  "background" | "include_pings" | "input" | "max_steps" | "messages" | "stream_tokens" | "streaming"
>

/**
 * Options of a message.
 *
 * **Details**
 *
 * - `maxSteps`: how many steps the agent may take. Default Letta's own, 50.
 * - `request`: further parameters.
 *
 * @category models
 * @since 0.1.0
 */
export interface SendOptions {
  readonly maxSteps?: number | undefined
  readonly request?: RequestParameters | undefined
}

/**
 * Options of a streamed message.
 *
 * **Details**
 *
 * - `tokens`: parts are pieces of messages as the model writes them. Default false, whole messages.
 * - `otid`: the message's own id, given by the program. Letta then runs the turn in the background, takes a message with
 *   an id that it has seen for the same one, and keeps the turn for `resumeRun`: sending it again is safe, and no failure
 *   of it is `Ambiguous`. A list of messages has ids of its own (`<otid>`, `<otid>-1`, …) where it does not bring them.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamOptions extends SendOptions {
  readonly tokens?: boolean | undefined
  readonly otid?: string | undefined
}

/**
 * A block of an agent's memory. `limit` is in characters.
 *
 * @category models
 * @since 0.1.0
 */
export interface MemoryBlock {
  readonly id: string | null
  readonly label: string
  readonly value: string
  readonly limit: number | null
  readonly description: string | null
  readonly readOnly: boolean
}

/**
 * A tool that is attached to an agent.
 *
 * @category models
 * @since 0.1.0
 */
export interface AttachedTool {
  readonly id: string
  readonly name: string
  readonly description: string | null
  readonly type: string | null
  readonly requiresApproval: boolean
}

/**
 * What Letta knows of an agent.
 *
 * @category models
 * @since 0.1.0
 */
export interface AgentState {
  readonly id: string
  readonly name: string
  readonly type: string | null
  readonly model: string | null
  readonly system: string | null
  readonly tags: ReadonlyArray<string>
  readonly blocks: ReadonlyArray<MemoryBlock>
  readonly tools: ReadonlyArray<AttachedTool>
}

/**
 * Service that calls Letta.
 *
 * **When to use**
 *
 * Use it where an agent of Letta is a part of a program that has to survive Letta's bad days, under the same policies as
 * any other call.
 *
 * **Details**
 *
 * The client sends nothing twice by itself: put `Retry` or a policy around the effect. Interruption closes the connection;
 * a turn that was sent goes on at Letta all the same. Every failure is a {@link LettaError}.
 *
 * A message changes the agent that it is sent to. So what is not known to have been refused is `Ambiguous` and not
 * retried: no answer in time, an answer that broke off, a 500, and a failure in the middle of a turn of which a message
 * or a tool call was already there. `Fault.idempotent` makes it retryable, and so does an `otid`. What only reads is
 * never `Ambiguous`.
 *
 * `sendMessage` and `streamMessage` have a span `invoke_agent` with the attributes of OpenTelemetry's GenAI conventions:
 * `gen_ai.provider.name` (`letta`), `gen_ai.agent.id`, and at the end the reason to stop and the tokens. What was said is
 * not in it, nor what an error says unless `Telemetry.CaptureContent` asks for that.
 *
 * @category services
 * @since 0.1.0
 */
export class Letta extends Context.Service<Letta, {
  /**
   * Runs a call of the client to its end, body included. What the client returns is passed on as it is; it validates no
   * answer, and nobody watches the end of a stream that it returns: see `streamMessage`.
   */
  readonly use: <A>(call: (client: Client, signal: AbortSignal) => PromiseLike<A>) => Effect.Effect<A, LettaError>
  /** Whether Letta answers, with its version. */
  readonly health: Effect.Effect<{ readonly status: string; readonly version: string | null }, LettaError>
  /** Sends a message and waits for the whole turn. One that ended in failure is a failure, also under HTTP 200. */
  readonly sendMessage: (agentId: string, input: Input, options?: SendOptions) => Effect.Effect<Answer, LettaError>
  /**
   * Sends a message and gives the turn part by part; it fails unless a stop reason came. Letta's signs of life keep the
   * stream from standing still, and are no parts.
   */
  readonly streamMessage: (agentId: string, input: Input, options?: StreamOptions) => Stream.Stream<Part, LettaError>
  /** Follows a run in the background, from its beginning or after the part with the number `after` (its `seq_id`). */
  readonly resumeRun: (
    runId: string,
    options?: { readonly after?: number | undefined }
  ) => Stream.Stream<Part, LettaError>
  readonly agent: (agentId: string) => Effect.Effect<AgentState, LettaError>
  /** Whether Letta knows the agent. A 404 that is not from Letta itself is a failure. */
  readonly agentExists: (agentId: string) => Effect.Effect<boolean, LettaError>
  /** The blocks in the agent's context. */
  readonly memoryBlocks: (agentId: string) => Effect.Effect<ReadonlyArray<MemoryBlock>, LettaError>
  /** The tools that are attached to the agent. */
  readonly tools: (agentId: string) => Effect.Effect<ReadonlyArray<AttachedTool>, LettaError>
}>()("effect-resilience/model/Letta") {}

/**
 * Options of {@link make} and {@link layer}.
 *
 * **Details**
 *
 * - `baseURL`: default `LETTA_BASE_URL` from `Config`, else Letta's cloud, `https://api.letta.com`.
 * - `token`: default `LETTA_API_KEY` from `Config`. A server of one's own may need none; the cloud does.
 * - `turnTimeout`: time until the answer to a request that changes something begins, default 5 minutes. Without a stream
 *   that is the whole turn, and Node's own `fetch` gives up after 300 seconds whatever is set here.
 * - `readTimeout`: the same for a request that only reads, default 30 seconds.
 * - `stallTimeout`: time without a byte of a body or stream while somebody waits for one, default 30 seconds. Each byte is
 *   a sign of life for the watchdogs around (`Deadline.stall`, `Deadline.watch`).
 * - `fetch`: default the global one.
 * - `headers`: sent with every request. The client's `LETTA_CUSTOM_HEADERS` is not read.
 * - `client`: further options of the client, such as `project`, `fetchOptions`, `logger`. Its log is off by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly baseURL?: string | undefined
  readonly token?: Redacted.Redacted | string | undefined
  readonly turnTimeout?: Duration.Input | undefined
  readonly readTimeout?: Duration.Input | undefined
  readonly stallTimeout?: Duration.Input | undefined
  readonly fetch?: typeof globalThis.fetch | undefined
  readonly headers?: Readonly<Record<string, string>> | undefined
  readonly client?:
    | Omit<
      ClientOptions,
      "apiKey" | "baseURL" | "defaultHeaders" | "environment" | "fetch" | "maxRetries" | "timeout"
    >
    | undefined
}

const moduleName = "Letta"

const cloud = "https://api.letta.com"

const invalid = (option: string, value: string, expected: string) =>
  new InvalidConfig({ module: moduleName, option, value, expected })

const validated = (options: Options) =>
  Effect.try({
    try: () => {
      validateHeaders(moduleName, options.headers)
      const limit = (option: "turnTimeout" | "readTimeout" | "stallTimeout", standard: Duration.Input) =>
        config.duration(moduleName, option, options[option] ?? standard, { minimum: "1 millis" })
      const stallTimeout = limit("stallTimeout", "30 seconds")
      const turnTimeout = limit("turnTimeout", "5 minutes")
      const readTimeout = limit("readTimeout", "30 seconds")
      return {
        turn: { answer: { option: "turnTimeout", after: turnTimeout }, stallTimeout },
        read: { answer: { option: "readTimeout", after: readTimeout }, stallTimeout }
      }
    },
    catch: (error) => error instanceof InvalidConfig ? error : invalid("options", String(error), "valid options")
  })

const baseURLOf = Effect.fnUntraced(function*(given: Options["baseURL"]) {
  const url = given ?? Option.getOrElse(yield* Effect.option(Config.String("LETTA_BASE_URL")), () => cloud)
  return URL.canParse(url) ? url : yield* invalid("baseURL", JSON.stringify(url), "an absolute URL")
})

const tokenOf = Effect.fnUntraced(function*(given: Options["token"], baseURL: string) {
  const expected = "a token in one word, as the option token or as LETTA_API_KEY in the configuration"
  const token = given ?? Option.getOrUndefined(yield* Effect.option(Config.Redacted("LETTA_API_KEY")))
  if (token !== undefined) return yield* secret(moduleName, "token", token, expected)
  return new URL(baseURL).origin === cloud ? yield* invalid("token", "missing", expected) : null
})

const pageSize = 100

const blockOf = (block: typeof wire.Block.Type): MemoryBlock => ({
  id: block.id ?? null,
  label: block.label ?? "",
  value: block.value,
  limit: block.limit ?? null,
  description: block.description ?? null,
  readOnly: block.read_only ?? false
})

const toolOf = (tool: typeof wire.Tool.Type): AttachedTool => ({
  id: tool.id,
  name: tool.name ?? "",
  description: tool.description ?? null,
  type: tool.tool_type ?? null,
  requiresApproval: tool.default_requires_approval ?? false
})

const agentOf = (agent: typeof wire.Agent.Type): AgentState => ({
  id: agent.id,
  name: agent.name,
  type: agent.agent_type ?? null,
  model: agent.model ?? null,
  system: agent.system ?? null,
  tags: agent.tags ?? [],
  blocks: agent.blocks.map(blockOf),
  tools: agent.tools.map(toolOf)
})

const named = (message: Exclude<Input, string>[number], otid: string): Exclude<Input, string>[number] =>
  message.otid ? message : { ...message, otid }

const bodyOf = (input: Input, { maxSteps, otid, request }: StreamOptions) => {
  const messages = typeof input === "string" ? [{ role: "user" as const, content: input }] : Array.from(input)
  return {
    ...request,
    messages: otid === undefined
      ? messages
      : messages.map((message, index) => named(message, index === 0 ? otid : `${otid}-${index}`)),
    ...(maxSteps === undefined ? {} : { max_steps: maxSteps })
  }
}

/** What is wrong with a request, before anything is sent. */
const unsendable = (id: string, input: Input, options: StreamOptions): string | undefined => {
  if (id === "") return "the agent's id is empty"
  if (input.length === 0) return typeof input === "string" ? "the message is empty" : "there is no message"
  if (options.otid === "") return "the otid is empty"
  const { maxSteps } = options
  return maxSteps === undefined || (Number.isSafeInteger(maxSteps) && maxSteps >= 1)
    ? undefined
    : `maxSteps is ${maxSteps}, and has to be a whole number of at least 1`
}

interface Ended {
  readonly stopReason?: string | undefined
  readonly usage?: {
    readonly prompt_tokens?: number | undefined
    readonly completion_tokens?: number | undefined
  } | undefined
}

const annotate = (span: Tracer.Span, { stopReason, usage }: Ended): void => {
  if (stopReason !== undefined) span.attribute("gen_ai.response.finish_reasons", [stopReason])
  if (usage?.prompt_tokens !== undefined) span.attribute("gen_ai.usage.input_tokens", usage.prompt_tokens)
  if (usage?.completion_tokens !== undefined) span.attribute("gen_ai.usage.output_tokens", usage.completion_tokens)
}

interface Request {
  readonly method: string
  readonly agentId?: string | undefined
  readonly repeatable?: boolean | undefined
}

/**
 * Creates a `Letta`. Fails with `Fault.InvalidConfig`, which names the option, where the cloud's token is missing or an
 * option is not usable.
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = Effect.fnUntraced(function*(options: Options = {}) {
  const limits = yield* validated(options)
  const baseURL = yield* baseURLOf(options.baseURL)
  const token = yield* tokenOf(options.token, baseURL)
  const fetch = options.fetch ?? globalThis.fetch
  const client = yield* Effect.try({
    try: () =>
      configuredClient({
        logLevel: "off",
        ...options.client,
        defaultHeaders: { ...options.headers },
        apiKey: token,
        baseURL,
        maxRetries: 0,
        // The client's timer runs on the machine's clock and stops at the headers. `watchedFetch` keeps the time.
        timeout: 2 ** 31 - 1
      }),
    catch: (error) => invalid("client", String(error), "options that the client accepts")
  })

  const begin = Effect.fnUntraced(function*<A>(
    request: Request,
    call: (client: Client, signal: AbortSignal) => PromiseLike<A>
  ) {
    const context = yield* Effect.context<never>()
    const exchange = new Exchange()
    const state: errors.Call = {
      method: request.method,
      agentId: request.agentId ?? null,
      exchange,
      repeatable: request.repeatable ?? false,
      progress: errors.noProgress()
    }
    const now = () => Context.get(context, Clock.Clock).currentTimeMillisUnsafe()
    const failure = (cause: unknown) => errors.fromThrown(cause, state, now())
    const within = (method: string | undefined): Limits =>
      method === undefined || method.toUpperCase() === "GET" ? limits.read : limits.turn
    const run = Effect.tryPromise({
      // A client of its own for each call is how `fetch` knows which call it works for.
      try: () =>
        call(
          client.withOptions({
            fetch: (input, init) => watchedFetch(fetch, exchange, context, within(init?.method))(input, init)
          }),
          exchange.signal
        ),
      catch: failure
    }).pipe(Effect.onInterrupt(() => Effect.sync(() => exchange.abort())))
    return { exchange, failure, now, run, state }
  })

  const call = <A>(request: Request, run: (client: Client, signal: AbortSignal) => PromiseLike<A>) =>
    Effect.flatMap(begin(request, run), (begun) => begun.run)

  const decoded = Effect.fnUntraced(function*<A>(
    request: Request,
    schema: Schema.Codec<A, unknown>,
    run: (client: Client, signal: AbortSignal) => PromiseLike<unknown>
  ) {
    const begun = yield* begin(request, run)
    return yield* Effect.mapError(
      Schema.decodeUnknownEffect(schema)(yield* begun.run),
      (error) => errors.notAnAnswer(begun.state, error.message)
    )
  })

  /** Page by page; a server that gives the same page again and again does not keep it going. */
  const listed = Effect.fnUntraced(function*<A extends { readonly id?: string | null }>(
    request: Request,
    schema: Schema.Codec<ReadonlyArray<A>, unknown>,
    page: (
      client: Client,
      query: { readonly limit: number; readonly after?: string },
      signal: AbortSignal
    ) => { readonly asResponse: () => Promise<Response> }
  ) {
    const all: Array<A> = []
    const seen = new Set<string>()
    let after: string | undefined
    while (true) {
      const query = { limit: pageSize, ...(after === undefined ? {} : { after }) }
      // The body as it is: the client takes one that is empty or no list for a list without items.
      const items = yield* decoded(
        request,
        Schema.fromJsonString(schema),
        async (client, signal) => (await page(client, query, signal).asResponse()).text()
      )
      const fresh = items.filter(({ id }) => id === undefined || id === null || !seen.has(id))
      all.push(...fresh)
      for (const { id } of fresh) if (id !== undefined && id !== null) seen.add(id)
      after = items.at(-1)?.id ?? undefined
      if (items.length < pageSize || fresh.length === 0 || after === undefined) return all
    }
  })

  const identified = <A, E, R>(agentId: string, method: string, run: Effect.Effect<A, E, R>) =>
    Effect.suspend((): Effect.Effect<A, E | LettaError, R> =>
      agentId === "" ? Effect.fail(errors.invalidRequest(method, agentId, "the agent's id is empty")) : run
    )

  // Not "invoke_agent NAME", as the conventions have it where there is a name: there is an id.
  const spanName = "invoke_agent"
  const { hostname, port } = new URL(baseURL)
  const spanAttributes = (agentId: string) => ({
    "gen_ai.operation.name": "invoke_agent",
    "gen_ai.provider.name": "letta",
    "gen_ai.agent.id": agentId,
    "server.address": hostname,
    ...(port === "" ? {} : { "server.port": Number(port) })
  })

  const sendMessage = (agentId: string, input: Input, given: SendOptions = {}) =>
    spans.around(
      spanName,
      spanAttributes(agentId),
      (span) => Effect.tap(sent(agentId, input, given), (answer) => Effect.sync(() => annotate(span, answer))),
      "client"
    )

  const sent = Effect.fnUntraced(function*(agentId: string, input: Input, given: SendOptions) {
    const method = "sendMessage"
    const wrong = unsendable(agentId, input, given)
    if (wrong !== undefined) return yield* errors.invalidRequest(method, agentId, wrong)
    const { now, run, state } = yield* begin(
      { method, agentId },
      (client, signal) =>
        client.agents.messages.create(agentId, { ...bodyOf(input, given), streaming: false }, { signal })
    )
    const response = yield* run
    yield* Effect.mapError(wire.decodeAnswer(response), (error) => errors.notAnAnswer(state, error.message))
    const reason = response.stop_reason.stop_reason
    if (!wire.isCompleted(reason)) {
      const { messages, usage } = response
      const acted = messages.some(wire.isDeed) || (usage.step_count ?? 0) > 0
      return yield* errors.runFailed(state, { type: reason, acted, runId: usage.run_ids?.at(-1) }, now())
    }
    const flaw = response.messages.map(wire.flaw).find((found) => found !== undefined)
    if (flaw !== undefined) return yield* errors.notAnAnswer(state, flaw)
    const answer: Answer = {
      messages: response.messages,
      text: wire.spokenText(response.messages),
      stopReason: reason,
      usage: response.usage
    }
    return answer
  })

  const streamed = (
    request: Request,
    open: (client: Client, signal: AbortSignal) => PromiseLike<AsyncIterable<LettaStreamingResponse>>
  ): Stream.Stream<Part, LettaError> =>
    Stream.unwrap(Effect.gen(function*() {
      const { exchange, failure, now, run, state } = yield* begin(request, open)
      yield* Effect.addFinalizer(() => Effect.sync(() => exchange.abort()))
      return Stream.fromAsyncIterable(errors.wholeTurn(yield* run, state, now), failure)
    }))

  const streamMessage = (agentId: string, input: Input, given: StreamOptions = {}): Stream.Stream<Part, LettaError> => {
    const method = "streamMessage"
    const wrong = unsendable(agentId, input, given)
    if (wrong !== undefined) return Stream.fail(errors.invalidRequest(method, agentId, wrong))
    const background = given.otid !== undefined
    const parts = streamed(
      { method, agentId, repeatable: background },
      (client, signal) =>
        client.agents.messages.create(agentId, {
          ...bodyOf(input, given),
          streaming: true,
          include_pings: true,
          stream_tokens: given.tokens ?? false,
          ...(background ? { background } : {})
        }, { signal })
    )
    return Stream.unwrap(Effect.map(
      spans.scoped(spanName, spanAttributes(agentId), "client"),
      (span) =>
        parts.pipe(
          Stream.tap((part) =>
            Effect.sync(() => {
              if (part.message_type === "usage_statistics") annotate(span, { usage: part })
              if (part.message_type === "stop_reason") annotate(span, { stopReason: part.stop_reason })
            })
          ),
          Stream.provideService(Tracer.ParentSpan, span)
        )
    ))
  }

  const retrieved = <A>(
    method: string,
    agentId: string,
    schema: Schema.Codec<A, unknown>,
    include: Array<"agent.blocks" | "agent.tools" | "agent.tags">
  ) =>
    identified(
      agentId,
      method,
      decoded({ method, agentId }, schema, (client, signal) => client.agents.retrieve(agentId, { include }, { signal }))
    )

  return Letta.of({
    use: (run) => call({ method: "use" }, run),
    health: Effect.map(
      decoded({ method: "health" }, wire.Health, (client, signal) => client.health({ signal })),
      ({ status, version }) => ({ status, version: version ?? null })
    ),
    sendMessage,
    streamMessage,
    resumeRun: (runId, { after } = {}) =>
      runId === ""
        ? Stream.fail(errors.invalidRequest("resumeRun", runId, "the run's id is empty"))
        : streamed({ method: "resumeRun", agentId: runId, repeatable: true }, (client, signal) =>
          client.runs.messages.stream(runId, {
            include_pings: true,
            ...(after === undefined ? {} : { starting_after: after })
          }, { signal })),
    agent: (agentId) =>
      Effect.map(
        retrieved("agent", agentId, wire.Agent, ["agent.blocks", "agent.tools", "agent.tags"]),
        agentOf
      ),
    agentExists: (agentId) =>
      retrieved("agentExists", agentId, wire.AnyAgent, []).pipe(
        Effect.as(true),
        Effect.catchReason("LettaError", "NotFound", () => Effect.succeed(false))
      ),
    memoryBlocks: (agentId) =>
      identified(
        agentId,
        "memoryBlocks",
        Effect.map(
          listed({ method: "memoryBlocks", agentId }, Schema.Array(wire.Block), (client, query, signal) =>
            client.agents.blocks.list(agentId, query, { signal })),
          (blocks) =>
            blocks.map(blockOf)
        )
      ),
    tools: (agentId) =>
      identified(
        agentId,
        "tools",
        Effect.map(
          listed({ method: "tools", agentId }, Schema.Array(wire.Tool), (client, query, signal) =>
            client.agents.tools.list(agentId, query, { signal })),
          (tools) =>
            tools.map(toolOf)
        )
      )
  })
})

/**
 * Provides a `Letta`.
 *
 * **Example** (Sending a message)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Letta from "effect-resilience/model/Letta"
 *
 * const fetch = () =>
 *   Promise.resolve(Response.json({
 *     messages: [{ id: "message-1", message_type: "assistant_message", content: "Good morning, Ada" }],
 *     stop_reason: { message_type: "stop_reason", stop_reason: "end_turn" },
 *     usage: { message_type: "usage_statistics", step_count: 1, total_tokens: 42 }
 *   }))
 *
 * const program = Effect.gen(function*() {
 *   const letta = yield* Letta.Letta
 *   const answer = yield* letta.sendMessage("agent-1", "Good morning")
 *   return [answer.text, answer.stopReason]
 * }).pipe(Effect.provide(Letta.layer({ baseURL: "http://localhost:8283", fetch })))
 *
 * await Effect.runPromise(program) // => ["Good morning, Ada", "end_turn"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layer = (options: Options = {}): Layer.Layer<Letta, InvalidConfig> => Layer.effect(Letta, make(options))

/**
 * What the agent said, from the messages of an answer or the parts of a stream: its assistant messages, one to a line.
 *
 * **Example** (Reading a stream)
 *
 * ```ts import.meta.vitest
 * import * as Letta from "effect-resilience/model/Letta"
 *
 * const parts: ReadonlyArray<Letta.Part> = [
 *   { message_type: "assistant_message", id: "message-1", date: "2026-01-01", content: "Good " },
 *   { message_type: "assistant_message", id: "message-1", date: "2026-01-01", content: "morning" },
 *   { message_type: "stop_reason", stop_reason: "end_turn" }
 * ]
 * Letta.text(parts) // => "Good morning"
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const text = (messages: Iterable<Message | Part>): string => wire.spokenText(messages)

/**
 * How good the result of a check is: `healthy`, `degraded` (it works, and somebody should look), `critical`.
 *
 * @category models
 * @since 0.1.0
 */
export type CheckStatus = "healthy" | "degraded" | "critical"

/**
 * The result of a check: what was checked, how it is, one sentence for people, and how long Letta took.
 *
 * @category models
 * @since 0.1.0
 */
export interface Check {
  readonly name: "reachable" | "memory" | "tools"
  readonly status: CheckStatus
  readonly message: string
  readonly responseTime: Duration.Duration
}

/**
 * What is expected of a block of memory.
 *
 * **Details**
 *
 * - `digest`: that of {@link digest} of its value, where the value must not change. Default: it may change.
 * - `limit`: its limit in characters. Default: any.
 * - `mayBeEmpty`: default false.
 *
 * @category models
 * @since 0.1.0
 */
export interface MemoryExpectation {
  readonly digest?: string | undefined
  readonly limit?: number | undefined
  readonly mayBeEmpty?: boolean | undefined
}

/**
 * What is wrong with a block of memory. Lengths and limits are in characters.
 *
 * @category models
 * @since 0.1.0
 */
export type MemoryProblem =
  | { readonly _tag: "Missing"; readonly label: string }
  | { readonly _tag: "Duplicated"; readonly label: string }
  | { readonly _tag: "Empty"; readonly label: string }
  | { readonly _tag: "OverLimit"; readonly label: string; readonly length: number; readonly limit: number }
  | { readonly _tag: "LimitChanged"; readonly label: string; readonly expected: number; readonly limit: number | null }
  | { readonly _tag: "Changed"; readonly label: string; readonly expected: string; readonly digest: string }

/**
 * The result of {@link checkMemory}.
 *
 * @category models
 * @since 0.1.0
 */
export interface MemoryCheck extends Check {
  readonly name: "memory"
  readonly problems: ReadonlyArray<MemoryProblem>
}

/**
 * The result of {@link checkTools}.
 *
 * @category models
 * @since 0.1.0
 */
export interface ToolsCheck extends Check {
  readonly name: "tools"
  readonly missing: ReadonlyArray<string>
}

const timed = Effect.fnUntraced(function*<A, E, R>(run: Effect.Effect<A, E, R>) {
  const clock = yield* Clock.Clock
  const started = millisOf(clock)
  const value = yield* run
  return { value, responseTime: Duration.millis(millisOf(clock) - started) }
})

/**
 * Checks that Letta answers, and how fast.
 *
 * **Details**
 *
 * An answer within `healthy` (default 1 second) is healthy, within `degraded` (default 3 seconds) degraded, and a later
 * one critical. A server that says of itself that it is not `ok` is degraded. No answer is a {@link LettaError}.
 *
 * **Example** (Asking how Letta is)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Letta from "effect-resilience/model/Letta"
 *
 * const fetch = () => Promise.resolve(Response.json({ status: "ok", version: "1.0.0" }))
 *
 * const program = Letta.checkReachable().pipe(
 *   Effect.map((check) => check.status),
 *   Effect.provide(Letta.layer({ baseURL: "http://localhost:8283", fetch }))
 * )
 *
 * await Effect.runPromise(program) // => "healthy"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const checkReachable = (
  options: { readonly healthy?: Duration.Input | undefined; readonly degraded?: Duration.Input | undefined } = {}
): Effect.Effect<Check, LettaError, Letta> => {
  const healthy = config.duration("Letta.checkReachable", "healthy", options.healthy ?? reachable.healthy)
  const degraded = config.duration("Letta.checkReachable", "degraded", options.degraded ?? reachable.degraded, {
    minimum: healthy
  })
  return Letta.use((letta) => timed(letta.health)).pipe(
    Effect.map(({ responseTime, value }): Check => {
      const slow: CheckStatus = Duration.isLessThanOrEqualTo(responseTime, healthy)
        ? "healthy"
        : Duration.isLessThanOrEqualTo(responseTime, degraded)
        ? "degraded"
        : "critical"
      const well = value.status === "ok"
      return {
        name: "reachable",
        status: well || slow === "critical" ? slow : "degraded",
        message: `Letta${value.version === null ? "" : ` ${value.version}`} answered in ${
          Duration.format(Duration.millis(Math.round(Duration.toMillis(responseTime))))
        }${well ? "" : ` and says that it is ${JSON.stringify(value.status)}`}`,
        responseTime
      }
    })
  )
}

/**
 * Digests the value of a block, for {@link MemoryExpectation}: SHA-256 in hex.
 *
 * @category checks
 * @since 0.1.0
 */
export const digest = (block: Pick<MemoryBlock, "value">): string => sha256(block.value)

/**
 * Expects of blocks that they stay as they are, value and limit.
 *
 * **When to use**
 *
 * Use it on blocks that the agent may not change, when they are known to be right.
 *
 * **Example** (Noticing a changed persona)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Letta from "effect-resilience/model/Letta"
 *
 * let persona = "You are kind."
 * const fetch = () => Promise.resolve(Response.json([{ id: "block-1", label: "persona", value: persona, limit: 2_000 }]))
 *
 * const program = Effect.gen(function*() {
 *   const letta = yield* Letta.Letta
 *   const expected = Letta.unchanged(yield* letta.memoryBlocks("agent-1"))
 *   persona = "You are a pirate."
 *   const check = yield* Letta.checkMemory("agent-1", expected)
 *   return [check.status, check.problems.map((problem) => problem._tag)]
 * }).pipe(Effect.provide(Letta.layer({ baseURL: "http://localhost:8283", fetch })))
 *
 * await Effect.runPromise(program) // => ["critical", ["Changed"]]
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const unchanged = (blocks: Iterable<MemoryBlock>): Record<string, MemoryExpectation> =>
  Object.fromEntries(
    Array.from(blocks, (block) => [block.label, {
      digest: digest(block),
      ...(block.limit === null ? {} : { limit: block.limit }),
      mayBeEmpty: block.value === ""
    }])
  )

/** As Letta counts, which is written in Python: by code points. */
const lengthOf = (value: string): number => {
  let length = 0
  for (const _ of value) length++
  return length
}

const problemsOf = (
  label: string,
  { digest: expected, limit, mayBeEmpty }: MemoryExpectation,
  blocks: ReadonlyArray<MemoryBlock>
): ReadonlyArray<MemoryProblem> => {
  const [block, twin] = blocks.filter((one) => one.label === label)
  if (block === undefined) return [{ _tag: "Missing", label }]
  const problems: Array<MemoryProblem> = []
  const length = lengthOf(block.value)
  if (twin !== undefined) problems.push({ _tag: "Duplicated", label })
  if (block.value.trim() === "" && mayBeEmpty !== true) problems.push({ _tag: "Empty", label })
  if (block.limit !== null && length > block.limit) {
    problems.push({ _tag: "OverLimit", label, length, limit: block.limit })
  }
  if (limit !== undefined && block.limit !== limit) {
    problems.push({ _tag: "LimitChanged", label, expected: limit, limit: block.limit })
  }
  if (expected !== undefined && digest(block) !== expected) {
    problems.push({ _tag: "Changed", label, expected, digest: digest(block) })
  }
  return problems
}

const sayProblem = (problem: MemoryProblem): string => {
  switch (problem._tag) {
    case "Missing":
      return `${problem.label} is missing`
    case "Duplicated":
      return `${problem.label} is there twice`
    case "Empty":
      return `${problem.label} is empty`
    case "OverLimit":
      return `${problem.label} has ${problem.length} characters, ${problem.limit} are allowed`
    case "LimitChanged":
      return `the limit of ${problem.label} is ${problem.limit}, and was ${problem.expected}`
    case "Changed":
      return `${problem.label} has changed`
  }
}

/**
 * Checks that blocks of an agent's memory are there and intact.
 *
 * **Details**
 *
 * `expected` has the labels of the blocks: each has to be there once, with a value within its limit that is not empty,
 * and as {@link MemoryExpectation} says. Other blocks are not looked at. A limit that changed alone is `degraded`, any
 * other problem `critical`. Memory that cannot be read is a {@link LettaError}.
 *
 * **Example** (Expecting two blocks)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Letta from "effect-resilience/model/Letta"
 *
 * const fetch = () => Promise.resolve(Response.json([{ id: "block-1", label: "persona", value: "You are kind.", limit: 2_000 }]))
 *
 * const program = Letta.checkMemory("agent-1", { persona: {}, human: {} }).pipe(
 *   Effect.map((check) => check.message),
 *   Effect.provide(Letta.layer({ baseURL: "http://localhost:8283", fetch }))
 * )
 *
 * await Effect.runPromise(program) // => "human is missing"
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const checkMemory = (
  agentId: string,
  expected: Readonly<Record<string, MemoryExpectation>>
): Effect.Effect<MemoryCheck, LettaError, Letta> =>
  Letta.use((letta) => timed(letta.memoryBlocks(agentId))).pipe(
    Effect.map(({ responseTime, value }): MemoryCheck => {
      const labels = Object.keys(expected)
      const problems = labels.flatMap((label) => problemsOf(label, expected[label] ?? {}, value))
      const mild = problems.every((problem) => problem._tag === "LimitChanged")
      return {
        name: "memory",
        status: problems.length === 0 ? "healthy" : mild ? "degraded" : "critical",
        message: problems.length === 0
          ? `memory intact (${labels.join(", ")})`
          : problems.map(sayProblem).join("; "),
        responseTime,
        problems
      }
    })
  )

/**
 * Checks that tools are attached to an agent, by their names.
 *
 * **Details**
 *
 * A missing tool is `critical`. Other tools are not looked at. Tools that cannot be listed are a {@link LettaError}.
 *
 * **Example** (Missing a tool)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import * as Letta from "effect-resilience/model/Letta"
 *
 * const fetch = () => Promise.resolve(Response.json([{ id: "tool-1", name: "send_message" }]))
 *
 * const program = Letta.checkTools("agent-1", ["send_message", "archival_memory_search"]).pipe(
 *   Effect.map((check) => [check.status, check.missing]),
 *   Effect.provide(Letta.layer({ baseURL: "http://localhost:8283", fetch }))
 * )
 *
 * await Effect.runPromise(program) // => ["critical", ["archival_memory_search"]]
 * ```
 *
 * @category checks
 * @since 0.1.0
 */
export const checkTools = (
  agentId: string,
  expected: ReadonlyArray<string>
): Effect.Effect<ToolsCheck, LettaError, Letta> =>
  Letta.use((letta) => timed(letta.tools(agentId))).pipe(
    Effect.map(({ responseTime, value }): ToolsCheck => {
      const attached = new Set(value.map((tool) => tool.name))
      const missing = expected.filter((name) => !attached.has(name))
      return {
        name: "tools",
        status: missing.length === 0 ? "healthy" : "critical",
        message: missing.length === 0
          ? `tools attached (${expected.join(", ")})`
          : `not attached: ${missing.join(", ")}`,
        responseTime,
        missing
      }
    })
  )
