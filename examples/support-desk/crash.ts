/**
 * Kills this very process at its Nth boundary: before and after each write of the journal, and before and after each
 * refund. SIGKILL cannot be caught: no finalizer runs, nothing is flushed.
 */
import { Effect, Layer } from "effect"
import { CheckpointStore } from "effect-resilience"
import { Shop } from "./Shop.ts"

export interface CrashPoint {
  /** Which of the boundaries count. */
  readonly of: "all" | "refunds"
  /** The Nth of them, counted from 1. */
  readonly at: number
}

export const layer = (point: CrashPoint | undefined) => {
  let passed = 0
  const pass = (where: string, what: "journal" | "refund") =>
    Effect.sync(() => {
      if (point === undefined || (point.of === "refunds" && what !== "refund")) return
      passed++
      if (passed !== point.at) return
      process.stdout.write(
        `\n*** boundary ${passed} (${where} ${what}): killing process ${process.pid} with SIGKILL ***\n\n`
      )
      process.kill(process.pid, "SIGKILL")
    })
  const around = <A, E, R>(effect: Effect.Effect<A, E, R>, what: "journal" | "refund"): Effect.Effect<A, E, R> =>
    pass("before the", what).pipe(Effect.andThen(effect), Effect.tap(() => pass("after the", what)))

  return Layer.mergeAll(
    Layer.effect(
      CheckpointStore.CheckpointStore,
      CheckpointStore.CheckpointStore.use((store) =>
        Effect.succeed({ ...store, append: (...args) => around(store.append(...args), "journal") })
      )
    ),
    Layer.effect(
      Shop,
      Shop.use((shop) => Effect.succeed({ ...shop, refund: (refund) => around(shop.refund(refund), "refund") }))
    )
  )
}
