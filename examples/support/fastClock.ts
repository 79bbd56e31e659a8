/** A clock that runs so many times as fast as the real one: for stories of minutes over real sockets. */
import { Clock, Duration, Effect } from "effect"

/** Runs an effect with every delay divided by `factor`, and the time told accordingly. */
export const withFastClock = (factor: number) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.gen(function*() {
    const clock = yield* Clock.Clock
    const wallStart = clock.currentTimeMillisUnsafe()
    const start = clock.monotonicTimeNanosUnsafe()
    const elapsed = (): bigint => (clock.monotonicTimeNanosUnsafe() - start) * BigInt(factor)
    const nanos = (): bigint => BigInt(wallStart) * 1_000_000n + elapsed()
    const millis = (): number => Math.floor(Number(nanos() / 1_000n) / 1_000)
    const fast: Clock.Clock = {
      currentTimeMillisUnsafe: millis,
      currentTimeMillis: Effect.sync(millis),
      currentTimeNanosUnsafe: nanos,
      currentTimeNanos: Effect.sync(nanos),
      monotonicTimeNanosUnsafe: elapsed,
      monotonicTimeNanos: Effect.sync(elapsed),
      sleep: (duration) => clock.sleep(Duration.isFinite(duration) ? Duration.divideUnsafe(duration, factor) : duration)
    }
    return yield* Effect.provideService(effect, Clock.Clock, fast)
  })
