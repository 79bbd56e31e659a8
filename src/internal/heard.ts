import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Predicate from "effect/Predicate"
import type { Counted, Event } from "./events.ts"

/** @internal */
export type Listening = (event: Event) => void

/**
 * Public as `Telemetry.Listener`.
 *
 * @internal
 */
export const Listener = Context.Reference<Listening | undefined>("effect-resilience/Telemetry/Listener", {
  defaultValue: () => undefined
})

const threw = (event: string, thrown: unknown): Effect.Effect<void> =>
  Effect.logWarning(`The Telemetry listener threw at ${event}; the call goes on`, Cause.die(thrown))

/**
 * Tells a listener at once. Gives what is left to do: nothing, the effect that the listener gave back, or the warning about
 * one that threw.
 *
 * @internal
 */
export const tell = (listener: Listening, event: () => Event): Effect.Effect<void> => {
  let name = "an event"
  try {
    const built = event()
    name = built._tag
    const heard: unknown = listener(built)
    if (Effect.isEffect(heard)) {
      if (heard === Effect.void) return Effect.void
      // Whatever it fails with or needs, nothing of it is the call's.
      return Effect.catchCause(
        Effect.asVoid(heard as Effect.Effect<unknown, unknown>),
        (cause) => Cause.hasInterrupts(cause) ? Effect.interrupt : threw(name, Cause.squash(cause))
      )
    }
    if (!Predicate.isPromiseLike(heard)) return Effect.void
    // An async function fits the type. Its rejection is taken up now, so that nobody's process ends of it.
    const end = Promise.resolve(heard).then(() => Effect.void, (reason: unknown) => threw(name, reason))
    return Effect.asVoid(Effect.forkDetach(Effect.flatten(Effect.promise(() => end))))
  } catch (thrown) {
    return threw(name, thrown)
  }
}

/**
 * Tells one after the other, whatever the first one does.
 *
 * @internal
 */
export const all = (listeners: Iterable<Listening>): Listening => (event) => {
  let left: Effect.Effect<void> = Effect.void
  for (const listener of listeners) {
    const next = tell(listener, () => event)
    if (next !== Effect.void) left = left === Effect.void ? next : Effect.andThen(left, next)
  }
  return left
}

type Counting = (counted: Counted) => void

/** Who counts what happens at every call. Default: nobody. */
const Counter = Context.Reference<Counting | undefined>("effect-resilience/internal/heard/Counter", {
  defaultValue: () => undefined
})

// How many of them there are in the process: where there is none, nobody is looked for.
let counters = 0

/** @internal */
export const count = (context: Context.Context<never>, counted: Counted): void => {
  if (counters > 0) Context.get(context, Counter)?.(counted)
}

/** Where the layers that are built together put their listeners, so that merged layers do not replace one another. */
interface Hub {
  readonly listeners: Set<Listening>
  readonly counting: Set<Counting>
}

const CurrentHub = Context.Reference<Hub | undefined>("effect-resilience/internal/heard/CurrentHub", {
  defaultValue: () => undefined
})

const makeHub = Effect.contextWith((outer: Context.Context<never>) => {
  const listener = Context.get(outer, Listener)
  const counter = Context.get(outer, Counter)
  const hub = {
    listeners: new Set(listener === undefined ? [] : [listener]),
    counting: new Set(counter === undefined ? [] : [counter])
  }
  const context = Context.make(CurrentHub, hub).pipe(
    Context.add(Listener, all(hub.listeners)),
    Context.add(Counter, (counted: Counted) => hub.counting.forEach((count) => count(counted)))
  )
  return Effect.succeed(context)
})

const outermost = Layer.effectContext(makeHub)
const inner = new WeakMap<Hub, typeof outermost>()

/**
 * The hub of the layers that are built where `around` is in force. It is one layer, so that it is built once for all of
 * them; and another one further in, so that a listener hears nothing from outside of where it was provided.
 */
const hubWithin = (around: Hub | undefined): typeof outermost => {
  if (around === undefined) return outermost
  const known = inner.get(around) ?? Layer.effectContext(makeHub)
  inner.set(around, known)
  return known
}

/** Each its own, also where one function is provided twice. */
const joined = <A>(members: Set<(a: A) => void>, member: (a: A) => void) => {
  const own = (a: A): void => member(a)
  return Effect.acquireRelease(
    Effect.sync(() => members.add(own)),
    () => Effect.sync(() => members.delete(own))
  )
}

/** @internal */
export const layer = (listener: Listening, counting?: Counting): Layer.Layer<never> => {
  const joining = Effect.flatMap(CurrentHub, (hub) => {
    if (hub === undefined) return Effect.void
    const listens = joined(hub.listeners, listener)
    if (counting === undefined) return listens
    const isThere = Effect.acquireRelease(Effect.sync(() => counters++), () => Effect.sync(() => counters--))
    return Effect.all([listens, isThere, joined(hub.counting, counting)])
  })
  return Layer.unwrap(
    Effect.map(CurrentHub, (around) => Layer.effectDiscard(joining).pipe(Layer.provideMerge(hubWithin(around))))
  )
}
