import { Context, type Effect, type Layer } from "effect"
import type { CheckpointStore, Idempotency } from "effect-resilience"
import { CrashPoints, StoreContract } from "effect-resilience/testing"
import { describe, expect, it } from "tstyche"

class Bank extends Context.Service<Bank, { readonly paid: number }>()("Bank") {}
class Cache extends Context.Service<Cache, { readonly size: number }>()("Cache") {}
class Other extends Context.Service<Other, { readonly name: string }>()("Other") {}

const program = {} as Effect.Effect<number, "no", CheckpointStore.CheckpointStore | Bank | Cache | Other>
const world = {} as Layer.Layer<Bank, "world">
const process = {} as Layer.Layer<Cache, "process", Bank | CheckpointStore.CheckpointStore>

describe("CrashPoints", () => {
  it("gives the program its store, its world and its process, and asks for the rest", () => {
    expect(CrashPoints.check({ program, world, process })).type.toBe<
      Effect.Effect<
        CrashPoints.Report<number, "no">,
        CrashPoints.CannotExplore | CrashPoints.CrashDifferences | "world" | "process",
        Other
      >
    >()
  })

  it("needs no world and no process", () => {
    const alone = {} as Effect.Effect<number, "no", CheckpointStore.CheckpointStore>
    expect(CrashPoints.explore({ program: alone })).type.toBe<
      Effect.Effect<CrashPoints.Report<number, "no">, CrashPoints.CannotExplore>
    >()
  })

  it("marks an effect and leaves its type as it is", () => {
    const pay = {} as Effect.Effect<number, "no", Bank>
    expect(pay.pipe(CrashPoints.effect("pay"))).type.toBe<Effect.Effect<number, "no", Bank>>()
    expect(CrashPoints.effect(pay, "pay", { atMostOnce: true })).type.toBe<Effect.Effect<number, "no", Bank>>()
  })

  it("replays an effect and leaves its type as it is", () => {
    expect(CrashPoints.alwaysReplay(program)).type.toBe<typeof program>()
  })
})

describe("StoreContract.idempotencyStore", () => {
  it("fails and needs what opening the store does", () => {
    const open = {} as Effect.Effect<Idempotency.Store, "open", Bank>
    expect(StoreContract.idempotencyStore(open)).type.toBe<
      ReadonlyArray<StoreContract.Case<"open" | Idempotency.IdempotencyStoreError, Bank>>
    >()
  })
})
