import type * as Arr from "effect/Array"
import type * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Pull from "effect/Pull"
import * as Queue from "effect/Queue"
import * as Schedule from "effect/Schedule"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import { InvalidConfig } from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import * as AdaptiveLimit from "../AdaptiveLimit.ts"
import * as Deadline from "../Deadline.ts"
import * as Quota from "../Quota.ts"
import * as Retry from "../Retry.ts"
import * as heartbeat from "./heartbeat.ts"
import * as stack from "./policyStack.ts"

/** @internal */
export interface StreamOptions<in A> {
  readonly buffer?: boolean | undefined
  readonly stall?: Duration.Input | undefined
  readonly isFirst?: ((element: A) => boolean) | undefined
  readonly untilWhole?: ((element: A) => boolean) | undefined
}

/** Options that have been looked at. */
export interface Settings<in A> {
  readonly buffer: boolean
  readonly stall: Duration.Duration | undefined
  readonly isFirst: (element: A) => boolean
  readonly untilWhole: (element: A) => boolean
}

const module = "Policy.applyStream"

/** @internal */
export const settings = <A>(options: StreamOptions<A> = {}): Settings<A> => {
  const { buffer, isFirst, stall, untilWhole } = options
  const idle = stall === undefined
    ? undefined
    : config.duration(module, "stall", stall, { minimum: "1 millis", infinite: true })
  return {
    buffer: buffer ?? false,
    stall: idle !== undefined && Duration.isFinite(idle) ? idle : undefined,
    // what is kept back has not been handed on
    isFirst: (element) => untilWhole?.(element) !== true && isFirst?.(element) !== false,
    untilWhole: untilWhole ?? (() => false)
  }
}

/** @internal */
export const noFallback = (name: string): InvalidConfig =>
  new InvalidConfig({
    module,
    option: "fallback",
    value: `that of policy ${JSON.stringify(name)}`,
    expected: "a policy without one, since a stream cannot be an Answer"
  })

type Chunk<A> = Arr.NonEmptyReadonlyArray<A>

/** A stream that has come to its first element, and what came before it. */
interface Opened<A, R> {
  readonly scope: Scope.Closeable
  /** Where its signs of life go: to the watchdogs around its opening, and then to those around its pulls. */
  readonly relay: heartbeat.Watched
  readonly head: ReadonlyArray<A>
  readonly isOver: boolean
  readonly pull: Pull.Pull<Chunk<A>, unknown, void, R>
}

/** The next elements, or nothing where the stream has ended. */
const next = <A, E, R>(pull: Pull.Pull<Chunk<A>, E, void, R>): Effect.Effect<Chunk<A> | undefined, E, R> =>
  Pull.matchEffect(pull, {
    onSuccess: (chunk: Chunk<A>): Effect.Effect<Chunk<A> | undefined> => Effect.succeed(chunk),
    onFailure: (cause) => Effect.failCause(cause),
    onDone: () => Effect.undefined
  })

/**
 * Opens a stream and waits for its first element, in a scope of its own inside of `around`. That is closed at once where
 * it does not come to that; else it stays among the `scopes`.
 */
const open = <A, E, R>(
  self: Stream.Stream<A, E, R>,
  around: Scope.Scope,
  scopes: Set<Scope.Closeable>,
  { isFirst }: Settings<A>
): Effect.Effect<Opened<A, R>, unknown, R> =>
  Effect.suspend(() => {
    const scope = Scope.forkUnsafe(around)
    const relay = new heartbeat.Watched(undefined)
    scopes.add(scope)
    return Effect.gen(function*() {
      yield* Scope.addFinalizer(scope, Effect.sync(() => relay.end()))
      const pull = yield* Scope.provide(Stream.toPull(self), scope)
      const head: Array<A> = []
      for (;;) {
        const chunk = yield* next(pull)
        if (chunk === undefined) return { scope, relay, head, isOver: true, pull }
        head.push(...chunk)
        // What is kept back does not come as far as the watchdogs around.
        yield* heartbeat.progress
        if (chunk.some(isFirst)) return { scope, relay, head, isOver: false, pull }
      }
    }).pipe(
      Effect.updateContext((context: Context.Context<R>) => relay.enter(context)),
      Effect.onExit((exit) => {
        if (Exit.isSuccess(exit)) return Effect.void
        scopes.delete(scope)
        return Scope.close(scope, exit)
      })
    )
  })

/** Gives what is left of an opened stream to `take`, and sees to it that it does not stand still. */
const drain = Effect.fnUntraced(function*<A, R>(
  { isOver, pull, relay, scope }: Opened<A, R>,
  { stall }: Settings<A>,
  name: string,
  take: (chunk: ReadonlyArray<A>) => Effect.Effect<unknown>
) {
  if (isOver) return
  const relayed = Effect.updateContext(pull, (context: Context.Context<R>) => relay.enter(context))
  const watched: typeof pull = stall === undefined
    ? relayed
    : yield* Scope.provide(
      Stream.toPull(Deadline.stall(Stream.fromPull(Effect.succeed(relayed)), stall, { name })),
      scope
    )
  for (;;) {
    const chunk = yield* next(watched)
    if (chunk === undefined) return
    if (stall === undefined) yield* heartbeat.progress
    yield* take(chunk)
  }
})

/** Tells the guards around that the first element has come, and what it says of the provider's limits. */
const begun = (head: ReadonlyArray<unknown>, { quota }: stack.Guards): Effect.Effect<void, never, Quota.Quota> => {
  if (quota === undefined || quota.options.observe !== undefined) return AdaptiveLimit.firstToken
  return Effect.flatMap(Quota.observationOf(head), (observation) =>
    observation === undefined
      ? AdaptiveLimit.firstToken
      : Effect.andThen(Quota.observe(quota.key, observation), AdaptiveLimit.firstToken))
}

/** How a stream ended whose first element was handed on: that is no failure to be tried again. */
class Broken {
  readonly cause: Cause.Cause<unknown>
  constructor(cause: Cause.Cause<unknown>) {
    this.cause = cause
  }
}

/** The end of a stream: what was kept for it, and what its guards read of it. */
class Whole<A> {
  readonly content: ReadonlyArray<A>
  readonly kept: ReadonlyArray<A>
  constructor(content: ReadonlyArray<A>, kept: ReadonlyArray<A>) {
    this.content = content
    this.kept = kept
  }
}

/** The guards around, which see the stream from its opening to its end; what is inside of them is put in by hand. */
const around = (guards: stack.Guards): stack.Guards => ({ ...guards, inner: (self) => self, attempt: undefined })

type Guarded<A> = Effect.Effect<A, unknown, unknown>

const retried = <A>(self: Guarded<A>, retry: Retry.Policy<unknown> | undefined): Guarded<A> =>
  retry === undefined ? self : Retry.apply(self, retry)

/**
 * What the guards are about while no try is under way: a queue, a learned limit, the wait before the next try. They have
 * bounds of their own, so this is no silence of the other side, and the watchdogs around hear a sign each second.
 */
class Waits {
  private tries = 0

  readonly inside = <A>(once: Guarded<A>): Guarded<A> =>
    Effect.suspend(() => {
      this.tries++
      return Effect.ensuring(once, Effect.sync(() => this.tries--))
    })

  readonly around = <A>(self: Guarded<A>): Guarded<A> =>
    Effect.contextWith((context: Context.Context<unknown>) => {
      if (Context.get(context, heartbeat.Heartbeat) === undefined) return self
      const sign = Effect.suspend(() => this.tries === 0 ? heartbeat.progress : Effect.void)
      return Effect.scoped(Effect.andThen(Effect.forkScoped(Effect.repeat(sign, everySecond)), self))
    })
}

const everySecond = Schedule.spaced("1 second")

/** Hands the elements on as they come, so that nothing is tried again after the first one. */
const live = <A, E, R>(
  self: Stream.Stream<A, E, R>,
  { guards, name, retry }: Applied,
  settings: Settings<A>
): Stream.Stream<A, unknown, unknown> =>
  Stream.unwrap(Effect.gen(function*() {
    const { untilWhole } = settings
    const queue = yield* Queue.bounded<A, unknown>(1)
    let isHandedOn = false
    const waits = new Waits()

    const once = Effect.scopedWith((scope) =>
      Effect.gen(function*() {
        const scopes = new Set<Scope.Closeable>()
        const opened = yield* guards.hedged(guards.bounded(open(self, scope, scopes, settings)))
        isHandedOn = true
        // Another try of a hedge may have come to its first element in the very step in which this one won.
        for (const other of scopes) if (other !== opened.scope) yield* Scope.close(other, Exit.void)
        yield* begun(opened.head, guards)
        const kept: Array<A> = []
        const take = (chunk: ReadonlyArray<A>) => {
          kept.push(...chunk.filter(untilWhole))
          return Queue.offerAll(queue, chunk.filter((element) => !untilWhole(element)))
        }
        yield* take(opened.head)
        yield* drain(opened, settings, name, take)
        // Usage and limits are told at the beginning or at the end.
        return new Whole([...opened.head, ...kept], kept)
      })
    )
    const ended = Effect.catchCause(
      stack.guarded(waits.inside(once), around(guards)),
      (cause) => isHandedOn ? Effect.succeed(new Broken(cause)) : Effect.failCause(cause)
    )
    const run = Effect.flatMap(
      waits.around(guards.outer(retried<Whole<A> | Broken>(ended, retry))),
      (outcome) => outcome instanceof Broken ? Effect.failCause(outcome.cause) : Queue.offerAll(queue, outcome.kept)
    )
    yield* Effect.forkScoped(Effect.matchCauseEffect(run, {
      onFailure: (cause) => Queue.failCause(queue, cause),
      onSuccess: () => Queue.end(queue)
    }))
    return Stream.fromQueue(queue)
  }))

/** Collects the whole stream first, so that all of it can be tried again. */
const buffered = <A, E, R>(
  self: Stream.Stream<A, E, R>,
  { guards, name, retry }: Applied,
  settings: Settings<A>
): Stream.Stream<A, unknown, unknown> => {
  const once = Effect.scopedWith((scope) =>
    Effect.gen(function*() {
      const opened = yield* guards.bounded(open(self, scope, new Set(), settings))
      yield* begun(opened.head, guards)
      const all = [...opened.head]
      yield* drain(opened, settings, name, (chunk) => Effect.sync(() => all.push(...chunk)))
      return all
    })
  )
  return Stream.unwrap(Effect.sync(() => {
    const waits = new Waits()
    const tried = retried(stack.guarded(waits.inside(guards.hedged(once)), around(guards)), retry)
    return Stream.fromArrayEffect(waits.around(guards.outer(tried)))
  }))
}

/** What a policy is made of, for a stream. */
export interface Applied {
  readonly name: string
  readonly guards: stack.Guards
  readonly retry: Retry.Policy<unknown> | undefined
}

/** @internal */
export const apply = <A, E, R>(
  self: Stream.Stream<A, E, R>,
  applied: Applied,
  settings: Settings<A>
): Stream.Stream<A, unknown, unknown> =>
  settings.buffer ? buffered(self, applied, settings) : live(self, applied, settings)
