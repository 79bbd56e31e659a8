/**
 * The events that every guard emits, and who hears them: metrics, structured logs, spans, and listeners of your own.
 *
 * Nothing that people or models say leaves by any of them, unless {@link CaptureContent} asks for it.
 *
 * **When to use**
 *
 * Use its layers to hear what the guards do: {@link layerMetrics} for Prometheus or OTLP, {@link layerLog} or
 * {@link layerLogJson}, {@link layerSpans}, and {@link layerListener} for anything else.
 *
 * @since 0.1.0
 */
import * as AiTelemetry from "effect/ai/Telemetry"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Logger from "effect/Logger"
import type * as LogLevel from "effect/LogLevel"
import * as Tracer from "effect/Tracer"
import * as chatSpans from "./internal/chatSpans.ts"
import * as config from "./internal/config.ts"
import * as eventLog from "./internal/eventLog.ts"
import type { Event } from "./internal/events.ts"
import * as heard from "./internal/heard.ts"
import { count, defaults, record, Recorder } from "./internal/metricRecorder.ts"
import { type Definition, labelValues, table } from "./internal/metricTable.ts"
import * as spans from "./internal/spans.ts"
import * as withheld from "./internal/withheld.ts"

export type { Event, LimitChangeReason } from "./internal/events.ts"

/**
 * Who hears the events. Default: nobody, and then an event is not even built.
 *
 * **When to use**
 *
 * Use it to hear what the guards do with `Effect.provideService`, in place of whoever listens. {@link listen} and
 * {@link layerListener} add a listener to those that are there.
 *
 * **Gotchas**
 *
 * The listener is called in the middle of the guard's own step: keep it short. It cannot change how the guarded call
 * ends: what it throws, or rejects with, is logged as a warning that names the event, and nothing else comes of it.
 * Nobody waits for a promise that it returns. An effect that it returns is run by the guarded call right after the step,
 * with the services of that call, such as its log annotations; it must not need others.
 *
 * **Example** (Counting the retries)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Backoff, Fault, Retry, Telemetry } from "effect-resilience"
 *
 * const events: Array<string> = []
 * const policy = Retry.policy({ name: "search", backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 3 })
 *
 * const program = Effect.fail({ [Fault.verdictOf]: Fault.transient }).pipe(
 *   Retry.apply(policy),
 *   Effect.ignore,
 *   Effect.provideService(Telemetry.Listener, (event) => events.push(event._tag))
 * )
 *
 * await Effect.runPromise(program)
 * events // => ["RetryScheduled", "RetryScheduled", "RetryGaveUp"]
 * ```
 *
 * @category services
 * @since 0.1.0
 */
export const Listener: Context.Reference<((event: Event) => void) | undefined> = heard.Listener

/**
 * Emits an event; the thunk is called only where there is a listener.
 *
 * **When to use**
 *
 * Use it in a guard of your own, to be heard by the same listener.
 *
 * **Example** (Telling of a cache of one's own)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Telemetry } from "effect-resilience"
 *
 * const hits: Array<string> = []
 *
 * const program = Telemetry.emit(() => ({ _tag: "IdempotencyHit", key: "weather", joined: false })).pipe(
 *   Effect.as("sunny"),
 *   Effect.provideService(Telemetry.Listener, (event) => hits.push(event._tag))
 * )
 *
 * await Effect.runPromise(program) // => "sunny"
 * hits // => ["IdempotencyHit"]
 * ```
 *
 * @category emitting
 * @since 0.1.0
 */
export const emit = (event: () => Event): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => emitIn(context, event))

/**
 * {@link emit} at once, against a context at hand, for a step that must not be divided. The effect it gives back is what
 * is left to do: nothing, what the listener gave back to be run, or the warning about one that threw.
 *
 * @category emitting
 * @since 0.1.0
 */
export const emitIn = (context: Context.Context<never>, event: () => Event): Effect.Effect<void> => {
  const listener = Context.get(context, Listener)
  return listener === undefined ? Effect.void : heard.tell(listener, event)
}

/**
 * Runs an effect with one more listener, beside those that listen already.
 *
 * **Example** (Two listeners)
 *
 * ```ts import.meta.vitest
 * import { Effect } from "effect"
 * import { Telemetry } from "effect-resilience"
 *
 * const heard: Array<string> = []
 *
 * const program = Telemetry.emit(() => ({ _tag: "IdempotencyHit", key: "weather", joined: false })).pipe(
 *   Telemetry.listen((event) => heard.push(`one: ${event._tag}`)),
 *   Telemetry.listen((event) => heard.push(`two: ${event._tag}`))
 * )
 *
 * await Effect.runPromise(program)
 * heard // => ["two: IdempotencyHit", "one: IdempotencyHit"]
 * ```
 *
 * @category listening
 * @since 0.1.0
 */
export const listen = (listener: (event: Event) => void) => <A, E, R>(self: Effect.Effect<A, E, R>) =>
  Effect.updateService(
    self,
    Listener,
    (current) => current === undefined ? listener : heard.all([current, listener])
  )

/**
 * Adds a listener for as long as the layer lives.
 *
 * **Details**
 *
 * Layers of this module can be merged, provided one after the other and one inside the other: all of them listen. A
 * listener that was provided around them with `Effect.provideService` goes on listening too; one provided inside
 * listens alone.
 *
 * **Example** (Merging listeners)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Telemetry } from "effect-resilience"
 *
 * const heard: Array<string> = []
 * const program = Telemetry.emit(() => ({ _tag: "IdempotencyHit", key: "weather", joined: false }))
 *
 * const Listening = Layer.mergeAll(
 *   Telemetry.layerListener((event) => heard.push(`one: ${event._tag}`)),
 *   Telemetry.layerListener((event) => heard.push(`two: ${event._tag}`))
 * )
 *
 * await Effect.runPromise(Effect.provide(program, Listening))
 * heard.sort() // => ["one: IdempotencyHit", "two: IdempotencyHit"]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerListener = (listener: (event: Event) => void): Layer.Layer<never> => heard.layer(listener)

/**
 * One metric of {@link metrics}.
 *
 * **Details**
 *
 * A histogram called `x` has the series `x_bucket`, `x_sum` and `x_count` in Prometheus. The unit `1` is that of things
 * that are counted.
 *
 * @category models
 * @since 0.1.0
 */
export interface Metric {
  readonly name: string
  readonly type: "counter" | "gauge" | "histogram"
  readonly unit: "1" | "seconds" | "tokens"
  readonly labels: ReadonlyArray<string>
  /** The values of those labels that have a few fixed ones. */
  readonly values: { readonly [label: string]: ReadonlyArray<string> }
  readonly description: string
}

/**
 * Every metric that {@link layerMetrics} and `EscalationQueue.layerMetrics` update. Nothing else is updated by them.
 *
 * **Example** (Finding the labels of a metric)
 *
 * ```ts import.meta.vitest
 * import { Telemetry } from "effect-resilience"
 *
 * const found = Telemetry.metrics.find(({ name }) => name === "effect_resilience_retries_total")
 *
 * found?.labels // => ["policy", "verdict"]
 * ```
 *
 * @category metrics
 * @since 0.1.0
 */
export const metrics: ReadonlyArray<Metric> = Object.values(table).map(
  ({ description, labels, name, type, unit }: Definition) => ({
    name,
    type,
    unit,
    labels,
    values: Object.fromEntries(labels.flatMap((label) => {
      const values = labelValues[label]
      return values === undefined ? [] : [[label, values]]
    })),
    description
  })
)

/**
 * Options of {@link layerMetrics}.
 *
 * **Details**
 *
 * - `maxLabelValues`: how many values of one label, such as the keys of circuits, are counted by themselves; those that come
 *   later are counted together as `"other"`. Default 100.
 *
 * @category models
 * @since 0.1.0
 */
export interface MetricsOptions {
  readonly maxLabelValues?: number | undefined
}

/**
 * Counts the events in Effect's metrics, for `PrometheusMetrics` and `OtlpMetrics` of `effect/observability` to export.
 *
 * **Details**
 *
 * The metrics are those of {@link metrics}. Every event is also counted in `effect_resilience_events_total`. A gauge has a
 * series from the first event on that sets it: a circuit that never left `Closed` has none.
 *
 * Labels are bounded: 100 values each by default, and at most 1,000 series a metric; what is beyond is counted as
 * `"other"`. Ids of runs, sessions, escalations and calls are never labels. Keys and names of policies, agents and tools are
 * labels as you chose them, so do not put a secret into one.
 *
 * **Example** (Counting retries)
 *
 * ```ts import.meta.vitest
 * import { Effect, Metric } from "effect"
 * import { PrometheusMetrics } from "effect/observability"
 * import { Backoff, Fault, Retry, Telemetry } from "effect-resilience"
 *
 * const policy = Retry.policy({ name: "search", backoff: Backoff.constant({ delay: "1 millis" }), maxAttempts: 3 })
 *
 * const program = Effect.gen(function*() {
 *   yield* Effect.fail({ [Fault.verdictOf]: Fault.transient }).pipe(Retry.apply(policy), Effect.ignore)
 *   return (yield* PrometheusMetrics.format()).split("\n").filter((line) => line.startsWith("effect_resilience_retries_"))
 * }).pipe(Effect.provide(Telemetry.layerMetrics()), Effect.provideService(Metric.MetricRegistry, new Map()))
 *
 * const lines = await Effect.runPromise(program)
 * lines[0] // => 'effect_resilience_retries_total{policy="search",verdict="Transient"} 2'
 * lines[1] // => 'effect_resilience_retries_gave_up_total{policy="search",reason="Exhausted"} 1'
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerMetrics = (options: MetricsOptions = {}): Layer.Layer<never> => {
  const { maxLabelValues = defaults.maxLabelValues } = options
  config.integer("Telemetry.layerMetrics", "maxLabelValues", maxLabelValues, 1)
  return Layer.unwrap(Effect.contextWith((context: Context.Context<never>) => {
    const recorder = new Recorder(context, maxLabelValues)
    return Effect.succeed(heard.layer((event) => record(event, recorder), (counted) => count(counted, recorder)))
  }))
}

/**
 * Options of {@link layerLog}.
 *
 * **Details**
 *
 * - `levels`: the level of an event's line where it is not to be the default one; `"None"` for no line.
 *
 * @category models
 * @since 0.1.0
 */
export interface LogOptions {
  readonly levels?: { readonly [Tag in Event["_tag"]]?: LogLevel.Severity | "None" | undefined } | undefined
}

/**
 * Logs the events, with the loggers of the call that emits them.
 *
 * **Details**
 *
 * Each line has what happened as its message, and the event's name and fields as annotations, beside those of the call:
 * inside an agent these are `agent`, `runId` and `sessionId`. Sessions, model calls, tool calls, changes of runs and
 * decisions are logged at `Info`; refusals, retries, time-outs and fallbacks at `Warn`; what failed for good at `Error`;
 * waits and steps at `Debug`.
 *
 * Prompts, answers, arguments and results are not in the lines, see {@link CaptureContent}.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLog = (options: LogOptions = {}): Layer.Layer<never> =>
  layerListener(eventLog.listener(options.levels ?? {}))

// Loggers of Effect that write on the console, where each line of JSON would stand twice.
const consoleLoggers: ReadonlySet<unknown> = new Set([
  Logger.defaultLogger,
  Logger.consoleLogFmt,
  Logger.consoleStructured
])

const loggersInJson = Layer.effect(
  Logger.CurrentLoggers,
  Effect.map(
    Logger.CurrentLoggers,
    (around) => new Set([...around].filter((logger) => !consoleLoggers.has(logger))).add(Logger.consoleJson)
  )
)

/**
 * {@link layerLog} in JSON on the console, one object a line, with all other log lines of the program.
 *
 * **Details**
 *
 * It takes the place of Effect's own loggers on the console and is added to all others, such as that of `Otlp`.
 *
 * **Gotchas**
 *
 * In Effect, layers of loggers that are merged replace one another: of `Layer.mergeAll(Otlp, layerLogJson())` only the
 * last one logs. Provide one to the other, with `Layer.provideMerge`, in whichever order. A `Logger.consolePretty()` around
 * cannot be told from a logger of your own and goes on writing.
 *
 * **Example** (JSON on the console, and everything by OTLP)
 *
 * ```ts import.meta.vitest
 * import { Layer } from "effect"
 * import { Telemetry } from "effect-resilience"
 * import { FetchHttpClient } from "effect/http"
 * import { Otlp } from "effect/observability"
 *
 * const Exported = Otlp.layerJson({ baseUrl: "http://localhost:4318", resource: { serviceName: "desk" } }).pipe(
 *   Layer.provide(FetchHttpClient.layer)
 * )
 *
 * export const Watching = Telemetry.layerLogJson().pipe(Layer.provideMerge(Exported))
 * ```
 *
 * **Example** (A line of an agent's session)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { TestConsole } from "effect/testing"
 * import { Agent, CheckpointStore, Telemetry } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const poet = Agent.make({ name: "poet", instructions: "You write one line." })
 *
 * const program = Effect.gen(function*() {
 *   yield* Agent.run(poet, { runId: "poem-1", prompt: "On rain" })
 *   return (yield* TestConsole.logLines).map((line) => JSON.parse(String(line)))
 * })
 *
 * const World = Layer.mergeAll(
 *   ScriptedModel.layer(["It rains."]),
 *   CheckpointStore.layerMemory,
 *   Telemetry.layerLogJson()
 * ).pipe(Layer.provideMerge(TestConsole.layer))
 *
 * const lines = await Effect.runPromise(Effect.provide(program, World))
 * const started = lines.find(({ message }) => message === "session started")
 * started.annotations // => { agent: "poet", runId: "poem-1", sessionId: "poem-1", event: "SessionStarted" }
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerLogJson = (options: LogOptions = {}): Layer.Layer<never> =>
  Layer.merge(layerLog(options), loggersInJson)

/**
 * Writes the events into the spans that the guards are in, as span events, and keeps what errors say out of all spans.
 *
 * **When to use**
 *
 * Use it inside the layer of the tracer, such as `Otlp.layerJson`, to see in a trace what circuits, bulkheads, quotas and
 * retries did.
 *
 * **Details**
 *
 * The toolkit's own spans need no layer. They are `invoke_agent NAME` and `execute_tool NAME` with the attributes of
 * OpenTelemetry's GenAI conventions, `invoke_agent` for a message to `Letta`, `retry.attempt` for each attempt of a
 * `Retry`, `checkpoint.run` and `checkpoint.step`. `retry.attempt`, `checkpoint.run` and `checkpoint.step` are made only
 * where a tracer was provided and there is a span around, so that they cost nothing without.
 *
 * The span of a model call is the one that `effect/ai` makes, under the name of the conventions: `chat MODEL`, or `chat`
 * where nobody has said which model it is. `Anthropic` says it, a `ResilientModel` with `modelName`, and effect/ai's
 * `Model`. It has `gen_ai.operation.name` (`chat`), `gen_ai.provider.name` and `gen_ai.request.model`. That is so in this
 * layer, in an agent, and in a call to `Anthropic` or a `ResilientModel`; elsewhere the span keeps the name of the method,
 * such as `LanguageModel.streamText`. The answer's model, its tokens and why it ended (`gen_ai.response.*`,
 * `gen_ai.usage.*`) are written by `Anthropic`, and in this layer for every provider, which keeps the parts of a stream
 * until it has ended.
 *
 * An error in a span has its name and its frames, and no message: a provider's may repeat the prompt. Inside an agent and
 * a `ResilientModel` that is so without this layer. {@link CaptureContent} shows them.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerSpans: Layer.Layer<never> = Layer.merge(
  layerListener(spans.listener),
  Layer.effectContext(Effect.contextWith((context: Context.Context<never>) => {
    const tracer = Context.getOrUndefined(context, Tracer.Tracer)
    const content = Context.get(context, CaptureContent)
    if (tracer === undefined) return Effect.succeed(Context.empty())
    return Effect.succeed(
      Context.make(Tracer.Tracer, spans.withholding(tracer, content)).pipe(
        Context.add(AiTelemetry.CurrentSpanTransformer, chatSpans.transformer(context))
      )
    )
  }))
)

/**
 * Whether what people and models say may be written into events, logs and spans: prompts, answers, arguments and results
 * of tools, and the messages of errors. Default `false`.
 *
 * **Details**
 *
 * Each text is cut at 2,000 characters. What a tool's schema takes as `Redacted` is never written, and messages of errors
 * are written without what looks like a key, a token or a password.
 *
 * @category services
 * @since 0.1.0
 */
export const CaptureContent: Context.Reference<boolean> = withheld.CaptureContent

/**
 * The id of the conversation that an agent's run belongs to, for events, logs and spans. Default: the id of the run.
 *
 * **When to use**
 *
 * Use it where several runs serve one conversation with a user.
 *
 * @category services
 * @since 0.1.0
 */
export const CurrentSession: Context.Reference<string | undefined> = Context.Reference<string | undefined>(
  "effect-resilience/Telemetry/CurrentSession",
  { defaultValue: () => undefined }
)
