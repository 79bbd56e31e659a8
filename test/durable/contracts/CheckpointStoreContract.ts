import { describe, it } from "@effect/vitest"
import { Effect, type Layer } from "effect"
import { type CheckpointStore } from "effect-resilience"
import { StoreContract } from "effect-resilience/testing"

/**
 * What every store of journals has to do. The layer is built anew, and empty, for each test; what else it provides is
 * there for `elapse`.
 */
export const suite = <R = never>(
  name: string,
  layer: Layer.Layer<CheckpointStore.CheckpointStore | R, unknown>,
  options?: StoreContract.Options<R>
) =>
  describe(`CheckpointStore contract: ${name}`, () => {
    for (const { effect, name } of StoreContract.checkpointStore(options)) {
      it.effect(name, () => Effect.provide(effect, layer))
    }
  })
