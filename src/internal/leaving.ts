import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"

/**
 * Waits for an effect for a time and no longer.
 *
 * Not `Effect.timeoutOrElse`, which waits until what it has interrupted is over: a driver that is asked to stop may have to
 * ask a server that does not answer, a transaction to roll back for instance. Here that is left behind. Who is interrupted
 * waits for it as long again at most.
 *
 * @internal
 */
export const timeoutOrElse = <B, E2, R2>(
  { duration, orElse }: { readonly duration: Duration.Duration; readonly orElse: () => Effect.Effect<B, E2, R2> }
) =>
<A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A | B, E | E2, R | R2> =>
  Effect.uninterruptibleMask((restore) =>
    Effect.gen(function*() {
      const fiber = yield* Effect.forkDetach(self, { startImmediately: true })
      const ended = fiber.pollUnsafe()
      if (ended !== undefined) return yield* ended
      const exit = yield* restore(Effect.timeoutOption(Fiber.await(fiber), duration)).pipe(
        Effect.onInterrupt(() => Effect.timeoutOption(Fiber.interrupt(fiber), duration))
      )
      if (Option.isSome(exit)) return yield* exit.value
      fiber.interruptUnsafe()
      return yield* restore(orElse())
    })
  )
