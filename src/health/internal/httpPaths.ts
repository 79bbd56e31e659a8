/**
 * Where `HealthHttp` answers, unless it is told otherwise.
 *
 * @internal
 */
export const defaults = { live: "/health/live", ready: "/health/ready", metrics: "/metrics" } as const
