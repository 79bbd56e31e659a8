/**
 * Kills this very process at its Nth boundary: before and after each write of the journal, and before and after each
 * refund. SIGKILL cannot be caught: no finalizer runs, nothing is flushed.
 */
import { Effect, Layer } from "effect"
import { CheckpointStore } from "effect-resilience"
import { Shop } from "./Shop.ts"

export const layer = (crashAt: number | undefined) => {
  let boundary = 0
  const pass = (where: string) =>
    Effect.sync(() => {
      boundary++
      if (boundary !== crashAt) return
      process.stdout.write(`\n*** boundary ${boundary} (${where}): killing process ${process.pid} with SIGKILL ***\n\n`)
      process.kill(process.pid, "SIGKILL")
    })
  const around = <A, E, R>(effect: Effect.Effect<A, E, R>, what: string): Effect.Effect<A, E, R> =>
    pass(`before ${what}`).pipe(Effect.andThen(effect), Effect.tap(() => pass(`after ${what}`)))

  return Layer.mergeAll(
    Layer.effect(
      CheckpointStore.CheckpointStore,
      CheckpointStore.CheckpointStore.use((store) =>
        Effect.succeed({ ...store, append: (...args) => around(store.append(...args), "a write of the journal") })
      )
    ),
    Layer.effect(
      Shop,
      Shop.use((shop) => Effect.succeed({ ...shop, refund: (refund) => around(shop.refund(refund), "a refund") }))
    )
  )
}
