import type * as Context from "effect/Context"
import * as Metric from "effect/Metric"
import { severity, type Status, statuses } from "./healthStatus.ts"

const statusGauge = Metric.gauge("effect_resilience_health_status", {
  description: "Health of a key: 0 healthy, 1 slow, 2 degraded, 3 critical"
})

const gateGauge = Metric.gauge("effect_resilience_health_gate_closed", {
  description: "Whether the health gate of a key is closed: 0 or 1"
})

const keysGauge = Metric.gauge("effect_resilience_health_keys", {
  description: "Keys whose health is watched, by their status"
})

/**
 * The gauges of the health of keys. Nothing in a registry of metrics is ever forgotten, so only the first `maxKeys` keys
 * have gauges of their own; all are counted by their status.
 *
 * @internal
 */
export class HealthMetrics {
  private readonly named = new Map<
    string,
    { readonly status: Metric.Gauge<number>; readonly gate: Metric.Gauge<number> }
  >()
  private readonly totals = new Map(
    statuses.map((status) => [status, Metric.withAttributes(keysGauge, { status })])
  )
  private readonly maxKeys: number

  constructor(maxKeys: number) {
    this.maxKeys = maxKeys
  }

  status(key: string, status: Status, context: Context.Context<never>): void {
    this.gaugesOf(key)?.status.updateUnsafe(severity(status), context)
  }

  gate(key: string, closed: boolean, context: Context.Context<never>): void {
    this.gaugesOf(key)?.gate.updateUnsafe(closed ? 1 : 0, context)
  }

  /** How many keys have each status. */
  count(all: ReadonlyArray<Status>, context: Context.Context<never>): void {
    for (const [status, gauge] of this.totals) gauge.updateUnsafe(all.filter((one) => one === status).length, context)
  }

  private gaugesOf(key: string) {
    const known = this.named.get(key)
    if (known !== undefined || this.named.size >= this.maxKeys) return known
    const made = {
      status: Metric.withAttributes(statusGauge, { key }),
      gate: Metric.withAttributes(gateGauge, { key })
    }
    this.named.set(key, made)
    return made
  }
}
