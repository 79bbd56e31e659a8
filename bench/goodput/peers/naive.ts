import { Effect } from "effect"
import { fetchEffect, type Implementation, orElse } from "../client.ts"

/** A loop as it is written in an afternoon: three retries of whatever failed, a second apart; then all of the task again. */
export const naive: Implementation = {
  name: "naive",
  repeats: "task",
  make: (world) =>
    Effect.succeed(orElse(world, (provider, { next }) => {
      const attempt = (left: number): Effect.Effect<void, unknown> =>
        Effect.suspend(() => fetchEffect(world.time, provider, next())).pipe(Effect.catch((failure) =>
          left === 0 ? Effect.fail(failure) : Effect.andThen(Effect.sleep(1_000), attempt(left - 1))
        ))
      return attempt(3)
    }))
}
