/**
 * The overloads that an `AdaptiveLimit` has answered to. A provider that has no room for so many calls at once says nothing
 * of how many it takes in a minute: where both limits are around a call, a `Quota` leaves these to the other one.
 */
const answered = new WeakSet<object>()

/** @internal */
export const answerTo = (error: unknown): void => {
  if (typeof error === "object" && error !== null) answered.add(error)
}

/** @internal */
export const isAnswered = (error: unknown): boolean =>
  typeof error === "object" && error !== null && answered.has(error)
