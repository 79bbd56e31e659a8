import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import type * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Tracer from "effect/Tracer"
import { naming } from "./chatSpans.ts"
import type { Event } from "./events.ts"
import { hidden } from "./secretText.ts"
import { CaptureContent, shownCause } from "./withheld.ts"

/**
 * Whether spans go anywhere: a tracer was provided, and there is a span to be part of. Effect makes spans also without a
 * tracer, and guards on the hot path do not.
 *
 * @internal
 */
export const isTraced = ({ cache: { span, tracer } }: Fiber.Fiber<unknown, unknown>): boolean =>
  tracer !== undefined && span !== undefined

const shownExit = (exit: Exit.Exit<unknown, unknown>, content: boolean): Exit.Exit<unknown, unknown> =>
  Exit.isSuccess(exit) || Cause.hasInterruptsOnly(exit.cause) ? exit : Exit.failCause(shownCause(exit.cause, content))

const causeAttribute = "effect.cause"

// What a log line says of an error is written into the span as well.
const withoutCause = (attributes: Record<string, unknown> | undefined) =>
  attributes === undefined || !(causeAttribute in attributes)
    ? attributes
    : Object.fromEntries(Object.entries(attributes).filter(([name]) => name !== causeAttribute))

type Wrapped = WeakMap<Tracer.Tracer, Tracer.Tracer>

const wrapped: { readonly content: Wrapped; readonly none: Wrapped } = { content: new WeakMap(), none: new WeakMap() }

/**
 * A tracer whose spans say which error ended them, and not what it says: a provider's message may repeat the prompt. With
 * `content` they say it, without what looks like a secret. Those of model calls are named `chat MODEL`.
 *
 * @internal
 */
export const withholding = (tracer: Tracer.Tracer, content: boolean): Tracer.Tracer => {
  const known = content ? wrapped.content : wrapped.none
  const before = known.get(tracer)
  if (before !== undefined) return before
  const named = naming(tracer)
  const made = Tracer.make({
    span: (options) => {
      const span = named.span(options)
      const attribute = span.attribute.bind(span)
      const end = span.end.bind(span)
      const event = span.event.bind(span)
      // The arguments of a tool call, which effect/ai writes into the span around its handler as they came.
      span.attribute = (name, value) => attribute(name, name === "parameters" ? hidden : value)
      span.end = (endTime, exit) => end(endTime, shownExit(exit, content))
      span.event = (name, startTime, attributes) => event(name, startTime, withoutCause(attributes))
      return span
    },
    context: tracer.context
  })
  known.set(tracer, made)
  known.set(made, made)
  return made
}

/** @internal */
export const withholdingIn = <R>(context: Context.Context<R>): Context.Context<R> => {
  const tracer = Context.getOrUndefined(context, Tracer.Tracer)
  return tracer === undefined
    ? context
    : Context.add(context, Tracer.Tracer, withholding(tracer, Context.get(context, CaptureContent)))
}

/**
 * Runs an effect whose spans do not say what errors say, its own and those inside.
 *
 * @internal
 */
export const withheld = <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.updateContext(self, (context: Context.Context<R>) => withholdingIn(context))

/**
 * A span of the toolkit's own around an effect; what ends it is withheld, and what is inside keeps its tracer.
 *
 * @internal
 */
export const around = <A, E, R>(
  name: string,
  attributes: Readonly<Record<string, unknown>>,
  use: (span: Tracer.Span) => Effect.Effect<A, E, R>,
  kind: Tracer.SpanKind = "internal"
): Effect.Effect<A, E, Exclude<R, Tracer.ParentSpan>> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.flatMap(
      withheld(Effect.makeSpan(name, { attributes, kind })),
      (span) =>
        restore(Effect.withParentSpan(use(span), span, { captureStackTrace: false })).pipe(
          Effect.onExit((exit) => Effect.map(Clock.currentTimeNanos, (now) => span.end(now, exit)))
        )
    )
  )

/**
 * Such a span for as long as a scope is open, for a stream.
 *
 * @internal
 */
export const scoped = (
  name: string,
  attributes: Readonly<Record<string, unknown>>,
  kind: Tracer.SpanKind
): Effect.Effect<Tracer.Span, never, Scope.Scope> => withheld(Effect.makeSpanScoped(name, { attributes, kind }))

/**
 * {@link around} where spans go anywhere, and else nothing around it.
 *
 * @internal
 */
export const aroundTraced = <A, E, R>(
  name: string,
  attributes: () => Readonly<Record<string, unknown>>,
  self: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  // ParentSpan is no requirement that a caller is asked for, so that taking it out of the type changes nothing.
  Effect.withFiber((fiber) => isTraced(fiber) ? around(name, attributes(), () => self) as typeof self : self)

const attributesOf = ({ _tag, ...fields }: Event): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(fields)
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => [`effect_resilience.${name}`, value])
  )

/**
 * Writes an event into the span that the guard is in.
 *
 * @internal
 */
export const listener = (event: Event): Effect.Effect<void> =>
  Effect.contextWith((context: Context.Context<never>) => {
    const span = Context.getOrUndefined(context, Tracer.ParentSpan)
    if (span?._tag === "Span" && span.status._tag !== "Ended") {
      span.event(event._tag, Context.get(context, Clock.Clock).currentTimeNanosUnsafe(), attributesOf(event))
    }
    return Effect.void
  })
