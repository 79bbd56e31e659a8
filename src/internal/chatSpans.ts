import * as Model from "effect/ai/Model"
import type * as Response from "effect/ai/Response"
import * as AiTelemetry from "effect/ai/Telemetry"
import * as Context from "effect/Context"
import * as Fiber from "effect/Fiber"
import * as Tracer from "effect/Tracer"

/** @internal */
export interface Names {
  readonly provider?: string | undefined
  readonly model?: string | undefined
}

/** What is known of the next span of effect/ai's `LanguageModel`; calls inside of it, by its tools, are others. */
interface Next {
  /** `undefined` for a loop of tools around calls that have spans of their own. */
  readonly names: Names | undefined
  isTaken: boolean
}

const Current = Context.Reference<Next | undefined>("effect-resilience/internal/chatSpans/Current", {
  defaultValue: () => undefined
})

// A span cannot be given another name once it was started, and effect/ai starts it before the provider is asked.
const spanNames: ReadonlySet<string> = new Set([
  "LanguageModel.generateText",
  "LanguageModel.generateObject",
  "LanguageModel.streamText"
])

const namesIn = (context: Context.Context<never>): Names | undefined => {
  const next = Context.get(context, Current)
  if (next !== undefined && !next.isTaken) {
    next.isTaken = true
    return next.names
  }
  return {
    provider: Context.getOrUndefined(context, Model.ProviderName),
    model: Context.getOrUndefined(context, Model.ModelName)
  }
}

const wrapped = new WeakMap<Tracer.Tracer, Tracer.Tracer>()

/**
 * A tracer that names the spans of effect/ai's models as OpenTelemetry's conventions for GenAI do.
 *
 * @internal
 */
export const naming = (tracer: Tracer.Tracer): Tracer.Tracer => {
  const known = wrapped.get(tracer)
  if (known !== undefined) return known
  const made = Tracer.make({
    span: (options) => {
      const names = spanNames.has(options.name) ? namesIn(Fiber.getCurrent()?.context ?? Context.empty()) : undefined
      if (names === undefined) return tracer.span(options)
      const { model, provider } = names
      const span = tracer.span({ ...options, name: model === undefined ? "chat" : `chat ${model}` })
      span.attribute("gen_ai.operation.name", "chat")
      if (provider !== undefined) span.attribute("gen_ai.provider.name", provider)
      if (model !== undefined) span.attribute("gen_ai.request.model", model)
      return span
    },
    context: tracer.context
  })
  wrapped.set(tracer, made)
  wrapped.set(made, made)
  return made
}

const next = <R>(context: Context.Context<R>, names: Names | undefined): Context.Context<R> => {
  const tracer = Context.getOrUndefined(context, Tracer.Tracer)
  return tracer === undefined
    ? context
    : Context.add(Context.add(context, Tracer.Tracer, naming(tracer)), Current, { names, isTaken: false })
}

/**
 * The context for one call of a model that is known.
 *
 * @internal
 */
export const forCall = (names: Names) => <R>(context: Context.Context<R>): Context.Context<R> => next(context, names)

/**
 * The context for a loop of tools, whose span is no call of a model.
 *
 * @internal
 */
export const forLoop = <R>(context: Context.Context<R>): Context.Context<R> => next(context, undefined)

type Part = Response.AnyPart | Response.PartEncoded | Response.StreamPartEncoded

/**
 * Writes into the span of a call what its answer says of itself: its id, its model, why it ended, and its tokens.
 *
 * @internal
 */
export const annotate = (span: Tracer.Span, parts: ReadonlyArray<Part>): void => {
  for (const part of parts) {
    if (part.type === "response-metadata") {
      AiTelemetry.addGenAIAnnotations(span, { response: { id: part.id, model: part.modelId } })
    }
    if (part.type === "finish") {
      AiTelemetry.addGenAIAnnotations(span, {
        response: { finishReasons: [part.reason] },
        usage: { inputTokens: part.usage.inputTokens.total, outputTokens: part.usage.outputTokens.total }
      })
    }
  }
}

/**
 * The same for the models of all providers, before what was there already.
 *
 * @internal
 */
export const transformer = (context: Context.Context<never>): AiTelemetry.SpanTransformer => {
  const before = Context.getOrUndefined(context, AiTelemetry.CurrentSpanTransformer)
  return (options) => {
    annotate(options.span, options.response)
    before?.(options)
  }
}
