/** Time that passes as fast as the program allows. */
import { Clock, Duration, Effect, Fiber, Random, Schema } from "effect"
import { TestClock } from "effect/testing"

/** The program still waits for something when all of its time has passed: for what no clock brings. */
export class StillRunning extends Schema.TaggedError<StillRunning>("examples/StillRunning")("StillRunning", {
  after: Schema.String
}) {
  override get message() {
    return `the program has not ended after ${this.after} of virtual time`
  }
}

/**
 * Runs a program on a virtual clock of its own, which moves on until the program has ended, with everything random drawn
 * by the seed. Nothing in the program may wait for the real world: the clock would not.
 */
export const inVirtualTime = <A, E, R>(
  program: Effect.Effect<A, E, R>,
  seed: number,
  options: { readonly step?: Duration.Input | undefined; readonly atMost?: Duration.Input | undefined } = {}
): Effect.Effect<A, E | StillRunning, R> =>
  Effect.gen(function*() {
    const atMost = Duration.fromInputUnsafe(options.atMost ?? "7 days")
    const fiber = yield* Effect.forkChild(program, { startImmediately: true })
    while (fiber.pollUnsafe() === undefined) {
      if ((yield* Clock.currentTimeMillis) > Duration.toMillis(atMost)) {
        yield* Fiber.interrupt(fiber)
        return yield* new StillRunning({ after: Duration.format(atMost) })
      }
      yield* TestClock.adjust(options.step ?? "1 minute")
    }
    return yield* Fiber.join(fiber)
  }).pipe(Random.withSeed(seed), Effect.provide(TestClock.layer(), { local: true }))
