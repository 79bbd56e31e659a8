import * as Effect from "effect/Effect"
import * as Fiber from "effect/Fiber"
import type * as Persistence from "effect/persistence/Persistence"
import type * as Scope from "effect/Scope"
import * as Semaphore from "effect/Semaphore"
import * as SqlError from "effect/sql/SqlError"
import * as redis from "./redisStore.ts"
import * as sql from "./sqlStore.ts"

/**
 * What kind of failure a backing has. One that nothing is known about may pass.
 *
 * @internal
 */
export const kindOf = ({ cause }: Persistence.PersistenceError): "Unavailable" | "Corrupt" | "Rejected" => {
  // A value that is not JSON.
  if (cause instanceof SyntaxError) return "Corrupt"
  if (SqlError.isSqlError(cause)) return sql.isUnavailable(cause) ? "Unavailable" : "Rejected"
  if (redis.isForeign(cause)) return "Corrupt"
  return redis.isUnavailable(cause) ? "Unavailable" : "Rejected"
}

/** @internal */
export interface Turns {
  readonly take: <A, E, R>(key: string, work: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>
}

/**
 * Lets work on one key be done one after the other. Work that has begun goes on when its caller is interrupted: the
 * backing may be carrying it out, and the next one must not begin before it is known what became of it.
 *
 * @internal
 */
export const turns = (scope: Scope.Scope): Turns => {
  const byKey = new Map<string, { readonly lock: Semaphore.Semaphore; users: number }>()
  return {
    take: (key, work) =>
      Effect.uninterruptibleMask((restore) =>
        Effect.gen(function*() {
          const turn = byKey.get(key) ?? { lock: Semaphore.makeUnsafe(1), users: 0 }
          byKey.set(key, turn)
          turn.users++
          const leave = Effect.sync(() => {
            if (--turn.users === 0) byKey.delete(key)
          })
          yield* Effect.onInterrupt(restore(turn.lock.take(1)), () => leave)
          const fiber = yield* Effect.interruptible(work).pipe(
            Effect.ensuring(Effect.andThen(turn.lock.release(1), leave)),
            Effect.forkIn(scope, { startImmediately: true, uninterruptible: true })
          )
          return yield* restore(Fiber.join(fiber))
        })
      )
  }
}
