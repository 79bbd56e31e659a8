import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import * as FiberSet from "effect/FiberSet"
import * as Layer from "effect/Layer"
import * as Redis from "effect/persistence/Redis"

/**
 * The `Redis` at hand, for a service that may end while some of its commands are on their way.
 *
 * A driver cannot take a command back, and node-redis never closes if its connection is lost with a command on its way.
 * So who does not wait for an answer any more leaves the command to end by itself, and the driver is closed only after
 * that: 10 seconds after the service at most.
 *
 * @internal
 */
export const layer: Layer.Layer<Redis.Redis, never, Redis.Redis> = Layer.effect(
  Redis.Redis,
  Effect.gen(function*() {
    const redis = yield* Redis.Redis
    const commands = yield* FiberSet.make<unknown, unknown>()
    yield* Effect.addFinalizer(() => Effect.timeoutOption(FiberSet.awaitEmpty(commands), "10 seconds"))
    const run = <A, E>(command: Effect.Effect<A, E>): Effect.Effect<A, E> =>
      Effect.flatMap(FiberSet.run(commands, command), Fiber.join)
    return Redis.Redis.of({
      ...redis,
      send: (command, ...args) => run(redis.send(command, ...args)),
      eval: (script) => (...params) => run(redis.eval(script)(...params))
    })
  })
)
