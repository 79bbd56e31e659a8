import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as PubSub from "effect/PubSub"
import * as Stream from "effect/Stream"
import type * as Take from "effect/Take"
import { millisIn } from "../../internal/monotonic.ts"
import { Circuits, guard, waitMillis, withEngine } from "./circuitEngine.ts"
import type { CircuitOpen } from "./circuitOpen.ts"
import { checkOptions, type CircuitOptions, type Options, ServiceSettings } from "./circuitSettings.ts"
import type { Change, Snapshot } from "./circuitState.ts"

type Named<S extends { readonly _tag: string }> = S extends unknown ? S & { readonly key: string } : never

/** @internal */
export type State =
  | Named<Exclude<Snapshot, { readonly _tag: "Open" }>>
  | {
    readonly _tag: "Open"
    readonly key: string
    readonly retryAfter: Duration.Duration
    readonly openings: number
  }

/** @internal */
export const stateOf = (key: string, snapshot: Snapshot): State =>
  snapshot._tag === "Open"
    ? {
      _tag: "Open",
      key,
      retryAfter: Duration.millis(waitMillis(snapshot.retryAfter)),
      openings: snapshot.openings
    }
    : { key, ...snapshot }

/**
 * A circuit breaker that keeps its circuits in this process.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(module: string, options: Options = {}) {
  const hub = yield* PubSub.sliding<Take.Take<Change>>(256)
  yield* Effect.addFinalizer(() => PubSub.end(hub, Exit.void))
  const circuits = new Circuits(
    new ServiceSettings(module, options),
    ([first, ...rest]) => first === undefined ? Effect.void : PubSub.publish(hub, [first, ...rest])
  )

  const looking = <A, E>(look: (now: number, context: Context.Context<never>) => Effect.Effect<A, E>) =>
    Effect.contextWith((context: Context.Context<never>) => look(millisIn(context), context))

  /** One change made by hand, together with its announcement. */
  const byHand = <A>(step: (now: number, context: Context.Context<never>) => A): Effect.Effect<A> =>
    Effect.uninterruptible(looking((now, context) => {
      const result = step(now, context)
      return circuits.pending ? Effect.as(circuits.announce, result) : Effect.succeed(result)
    }))

  const service = {
    protect: (key: string, own?: CircuitOptions) => {
      checkOptions(module, own)
      return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> =>
        guard(circuits, self, key, own)
    },
    check: (key: string, own?: CircuitOptions): Effect.Effect<void, CircuitOpen> => {
      checkOptions(module, own)
      return looking((now, context) => {
        const refused = circuits.check(key, own, now, context)
        const end = refused === undefined ? Effect.void : Effect.fail(refused)
        return circuits.pending ? Effect.andThen(circuits.announce, end) : end
      })
    },
    state: (key: string) => looking((now) => Effect.succeed(stateOf(key, circuits.peek(key, now).snapshot(now)))),
    states: looking((now) =>
      Effect.succeed(Array.from(circuits.all(now), (circuit) => stateOf(circuit.key, circuit.snapshot(now))))
    ),
    transitions: Stream.fromPubSubTake(hub),
    reset: (key: string) => byHand((now, context) => circuits.reset(key, now, context)),
    isolate: (key: string) =>
      byHand((now, context) => {
        const holder = {}
        const circuit = circuits.hold(key, holder, now, context)
        return { release: byHand((later, context) => circuits.release(circuit, holder, later, context)) }
      }),
    configure: (next: Options) =>
      byHand((now, context) => circuits.configure(new ServiceSettings(module, next), now, context))
  }
  return withEngine(service, circuits)
})
