import { NodeRedis } from "@effect/platform-node"
import { assert, it } from "@effect/vitest"
import { Effect, Exit, Fiber, Layer, Logger, Option, Schema, Scope } from "effect"
import { Checkpoint, CircuitBreaker, EscalationQueue, Idempotency } from "effect-resilience"
import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
import * as RedisEscalationQueue from "effect-resilience/durable/stores/RedisEscalationQueue"
import * as RedisIdempotency from "effect-resilience/durable/stores/RedisIdempotency"
import { describeWithRedisServer, redisServer } from "../support/redisServer.ts"

const layers = Layer.mergeAll(
  CircuitBreaker.layerRedis(),
  RedisCheckpointStore.layer(),
  RedisEscalationQueue.layer(),
  RedisIdempotency.layer()
)

type Services = Layer.Success<typeof layers>

const operations: Readonly<Record<string, Effect.Effect<unknown, unknown, Services>>> = {
  "CircuitBreaker.layerRedis": CircuitBreaker.protect(Effect.void, "k"),
  RedisCheckpointStore: Checkpoint.run(Effect.void, { id: "r" }),
  RedisEscalationQueue: EscalationQueue.EscalationQueue.use(({ depth }) => depth),
  RedisIdempotency: Idempotency.once({ scope: "s", tool: "t", success: Schema.Void }, Effect.void)
}

const drivers = {
  // Instead of the 5 seconds that are the default.
  "that queues for a second": { commandOptions: { timeout: 1_000 } },
  "that does not queue": { disableOfflineQueue: true }
}

const cases = Object.entries(operations).flatMap(([name, operation]) =>
  Object.entries(drivers).flatMap(([queueing, options]) =>
    ["joined", "interrupted"].map((how) => ({ name, operation, queueing, options, how }))
  )
)

describeWithRedisServer("A Redis that dies", () => {
  for (const { how, name, operation, options, queueing } of cases) {
    it.live(`lets ${name} close on a driver ${queueing}, after its calls were ${how}`, () =>
      Effect.gen(function*() {
        const server = yield* redisServer()
        const scope = yield* Scope.make()
        const driver = NodeRedis.layer({ url: server.url, ...options })
        const services = yield* Layer.buildWithScope(Layer.provide(layers, driver), scope)
        const call = Effect.exit(operation)
        const calls = Effect.provide(Effect.replicateEffect(call, 20, { concurrency: "unbounded" }), services)
        yield* calls
        const before = yield* Effect.forkChild(calls, { startImmediately: true })
        yield* server.kill
        const after = yield* Effect.forkChild(calls, { startImmediately: true })
        if (how === "interrupted") yield* Fiber.interruptAll([before, after])
        else yield* Fiber.joinAll([before, after])
        const closing = yield* Effect.forkDetach(Scope.close(scope, Exit.void), { startImmediately: true })
        const closed = yield* Effect.timeoutOption(Fiber.join(closing), "9 seconds")
        assert.isTrue(Option.isSome(closed))
      }).pipe(Effect.scoped, Effect.provide(Logger.layer([]))), 60_000)
  }
})
