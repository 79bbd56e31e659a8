import * as Cause from "effect/Cause"

/**
 * The typed failure of a cause that holds nothing else. A defect is a bug and an interruption is somebody's wish, and
 * neither is undone by trying again or by answering something else.
 *
 * @internal
 */
export const onlyFailure = <E>(cause: Cause.Cause<E>): Cause.Fail<E> | undefined =>
  cause.reasons.every(Cause.isFailReason) ? cause.reasons.find(Cause.isFailReason) : undefined
