import * as SqlError from "effect/sql/SqlError"

/**
 * Whether the database could not do it now, and may later: busy, locked, disconnected.
 *
 * @internal
 */
export const isUnavailable = (cause: unknown): boolean => SqlError.isSqlError(cause) && cause.isRetryable
