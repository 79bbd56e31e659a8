/** @internal */
export const statuses = ["healthy", "slow", "degraded", "critical"] as const

/** @internal */
export type Status = typeof statuses[number]

/**
 * How bad a status is: from 0 for `healthy` to 3 for `critical`.
 *
 * @internal
 */
export const severity = (status: Status): number => statuses.indexOf(status)

/** @internal */
export const worse = (one: Status, other: Status): Status => severity(one) >= severity(other) ? one : other

/**
 * What does not need to work makes the whole degraded at most.
 *
 * @internal
 */
export const counted = (status: Status, required: boolean): Status =>
  status === "critical" && !required ? "degraded" : status
