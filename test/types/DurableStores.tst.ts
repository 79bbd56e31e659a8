import type { Effect, Layer, Scope } from "effect"
import type { CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
import * as PersistenceCheckpointStore from "effect-resilience/durable/stores/PersistenceCheckpointStore"
import * as PersistenceIdempotency from "effect-resilience/durable/stores/PersistenceIdempotency"
import * as RedisCheckpointStore from "effect-resilience/durable/stores/RedisCheckpointStore"
import * as RedisEscalationQueue from "effect-resilience/durable/stores/RedisEscalationQueue"
import * as RedisIdempotency from "effect-resilience/durable/stores/RedisIdempotency"
import type { Persistence, Redis } from "effect/persistence"
import { describe, expect, it } from "tstyche"

type Runs<R> = Layer.Layer<CheckpointStore.CheckpointStore, CheckpointStore.CheckpointStoreError, R>

describe("stores in Redis", () => {
  it("need a Redis, and fail where they are built only with what can happen there", () => {
    expect(RedisCheckpointStore.layer()).type.toBe<Runs<Redis.Redis>>()
    expect(RedisCheckpointStore.layer({ prefix: "{a}:", waitReplicas: 1 })).type.toBe<Runs<Redis.Redis>>()
    expect(RedisIdempotency.layer({ timeToLive: "1 day" })).type.toBe<
      Layer.Layer<Idempotency.Idempotency, never, Redis.Redis>
    >()
    expect(RedisEscalationQueue.layer({ prefix: "{a}:", pollInterval: "1 second" })).type.toBe<
      Layer.Layer<EscalationQueue.EscalationQueue, EscalationQueue.EscalationError, Redis.Redis>
    >()
  })
})

describe("stores in a backing of Persistence", () => {
  it("need a backing, and fail where they are built only with what can happen there", () => {
    expect(PersistenceCheckpointStore.layerPersistence()).type.toBe<Runs<Persistence.BackingPersistence>>()
    expect(PersistenceIdempotency.layerPersistence({ storeId: "a", timeToLive: "1 day" })).type.toBe<
      Layer.Layer<Idempotency.Idempotency, Idempotency.IdempotencyStoreError, Persistence.BackingPersistence>
    >()
  })

  it("live in a scope", () => {
    expect(PersistenceCheckpointStore.make()).type.toBeAssignableTo<
      Effect.Effect<
        CheckpointStore.CheckpointStore["Service"],
        CheckpointStore.CheckpointStoreError,
        Persistence.BackingPersistence | Scope.Scope
      >
    >()
  })
})
