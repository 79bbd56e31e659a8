/** @internal */
export const defaults = { busyTimeout: "5 seconds" } as const
