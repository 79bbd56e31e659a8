import { Context, Effect, Exit, References } from "effect"
import { VirtualTime } from "../../bench/goodput/virtualTime.ts"

const minute = 60_000

/** Runs an effect to its end in virtual time, which jumps from one thing that happens to the next. */
export const virtually = <A, E>(
  effect: Effect.Effect<A, E>,
  options: { readonly within?: number; readonly time?: VirtualTime } = {}
): Effect.Effect<A, E> =>
  Effect.suspend(() => {
    const { time = new VirtualTime(), within = 30 * 24 * 60 } = options
    const fiber = time.fork(Effect.provideService(effect, References.MinimumLogLevel, "None"), Context.empty())
    // The event loop has its turn once in a while, for whoever waits for this test.
    const step = (left: number): Effect.Effect<A, E> =>
      Effect.suspend(() => {
        time.runUntil(time.now + minute)
        const exit = fiber.pollUnsafe()
        if (exit !== undefined) return Exit.isSuccess(exit) ? Effect.succeed(exit.value) : Effect.failCause(exit.cause)
        if (left === 0) return Effect.die(new Error(`it did not end in ${within} minutes of virtual time`))
        return left % 60 === 0
          ? Effect.andThen(Effect.promise(() => new Promise((resolve) => setImmediate(resolve))), step(left - 1))
          : step(left - 1)
      })
    return step(within)
  })
