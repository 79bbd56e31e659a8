import * as Effect from "effect/Effect"
import * as Predicate from "effect/Predicate"
import * as Scheduler from "effect/Scheduler"
import * as SqlError from "effect/sql/SqlError"

// SQLite's IOERR and FULL, which Effect does not tell apart from lasting errors: a disk may be back or have room again.
const isDiskTrouble = ({ reason: { cause } }: SqlError.SqlError): boolean => {
  if (!Predicate.hasProperty(cause, "errcode") || typeof cause.errcode !== "number") return false
  const primary = cause.errcode & 0xff
  return primary === 10 || primary === 13
}

/**
 * Whether the database could not do it now, and may later: busy, locked, disconnected, its disk away or full.
 *
 * @internal
 */
export const isUnavailable = (cause: unknown): boolean =>
  SqlError.isSqlError(cause) && (cause.isRetryable || isDiskTrouble(cause))

/**
 * Runs a transaction without giving the thread away in its middle. A fiber whose turn ends inside a transaction leaves
 * it open while other fibers run. Where the driver is synchronous, another connection of this process would then block
 * the very thread that has to end the transaction.
 *
 * @internal
 */
export const inOneTurn = <A, E, R>(transaction: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.provideService(transaction, Scheduler.PreventSchedulerYield, true)
