import * as Deferred from "effect/Deferred"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Scope from "effect/Scope"
import * as Waits from "../../internal/waits.ts"

/** @internal */
export const defaults = { timeToLive: "30 days", storeTimeout: "30 seconds", capacity: 10_000 } as const

interface Flight extends Waits.Awaited {
  readonly done: Deferred.Deferred<unknown, unknown>
  fiber: Fiber.Fiber<unknown, unknown> | undefined
  callers: number
}

/**
 * Executions under way, each owned by all callers that wait for it: it is interrupted when the last of them is.
 *
 * @internal
 */
export interface Flights {
  /** Runs the effect, or joins the execution that runs under the same id. */
  readonly run: <A, E, R>(id: string, effect: Effect.Effect<A, E, R>) => Effect.Effect<
    {
      readonly value: A
      readonly joined: boolean
    },
    E,
    R
  >
}

/**
 * Effect's own single flights (`Cache`, `PersistedCache`, `RequestResolver`) run a lookup that is fixed when they are
 * built, and keep its answer; here every caller brings the effect, and nothing is kept once it has ended.
 *
 * @internal
 */
export const make = (scope: Scope.Scope): Flights => {
  const flights = new Map<string, Flight>()

  const leave = (flight: Flight) =>
    Effect.suspend(() => {
      flight.callers -= 1
      return flight.callers === 0 && flight.fiber !== undefined ? Fiber.interrupt(flight.fiber) : Effect.void
    })

  const start = <A, E, R>(id: string, flight: Flight, effect: Effect.Effect<A, E, R>) =>
    effect.pipe(
      Waits.inside(flight),
      Effect.forkIn(scope, { startImmediately: true }),
      Effect.map((fiber) => {
        flight.fiber = fiber
        // An observer and not a finalizer: it also hears of a fiber that was interrupted before it began.
        fiber.addObserver((exit) => {
          flights.delete(id)
          Deferred.doneUnsafe(flight.done, exit)
        })
      })
    )

  const run = <A, E, R>(id: string, effect: Effect.Effect<A, E, R>) =>
    Effect.uninterruptibleMask((restore) => {
      const join = (flight: Flight, joined: boolean) =>
        // The map cannot know the types of its flights. Callers under one id ask for the same tool, arguments and
        // schema, so that the types of the first are those of all.
        restore(Deferred.await(flight.done) as Effect.Effect<A, E>).pipe(
          Effect.onInterrupt(() => leave(flight)),
          Effect.map((value) => ({ value, joined }))
        )
      const enter: Effect.Effect<{ readonly value: A; readonly joined: boolean }, E, R> = Effect.suspend(() => {
        const flight = flights.get(id)
        if (flight === undefined) {
          // In the map before the first operation that could give way to another caller.
          const own: Flight = { ...Waits.make(), done: Deferred.makeUnsafe(), fiber: undefined, callers: 1 }
          flights.set(id, own)
          return Waits.waiting(own, id, Effect.andThen(start(id, own, effect), join(own, false)))
        }
        if (flight.callers === 0) {
          // Given up by its callers and still stopping: never two at once.
          const stopped = restore(Effect.exit(Deferred.await(flight.done)))
          return Effect.andThen(Waits.waiting(flight, id, stopped), enter)
        }
        return Waits.waiting(
          flight,
          id,
          Effect.suspend(() => {
            flight.callers += 1
            return join(flight, true)
          })
        )
      })
      return enter
    })

  return { run }
}
