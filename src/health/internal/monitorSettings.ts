import * as Duration from "effect/Duration"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import type { KeySettings } from "./healthKeys.ts"

/** @internal */
export interface GateOptions {
  readonly closeAfter?: number | undefined
  readonly reopenAfter?: number | undefined
  readonly closedFor?: Duration.Input | undefined
  readonly probeTimeout?: Duration.Input | undefined
}

/** @internal */
export interface KeyOptions {
  readonly size?: number | undefined
  readonly maxAge?: Duration.Input | undefined
  readonly minimumCalls?: number | undefined
  readonly criticalAbove?: number | undefined
  readonly degradedAbove?: number | undefined
  readonly slowAbove?: Duration.Input | undefined
  readonly countsAsFailure?: ((verdict: Fault.Verdict, error: unknown) => boolean) | undefined
  readonly required?: boolean | undefined
  readonly gate?: GateOptions | undefined
}

/** @internal */
export interface Options extends KeyOptions {
  readonly keys?: Readonly<Record<string, KeyOptions>> | undefined
  readonly interval?: Duration.Input | undefined
  readonly timeout?: Duration.Input | undefined
  readonly historySize?: number | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
  readonly maxMetricKeys?: number | undefined
}

const module = "HealthMonitor"

/** @internal */
export interface Settings extends KeySettings {
  readonly counts: (verdict: Fault.Verdict, error: unknown) => boolean
}

const gateOf = (path: string, gate: GateOptions, base: Settings["gate"]): Settings["gate"] => {
  const millis = (option: string, value: Duration.Input | undefined, otherwise: number) =>
    value === undefined
      ? otherwise
      : Duration.toMillis(config.duration(module, `${path}gate.${option}`, value, { minimum: "1 millis" }))
  return {
    closeAfter: config.integer(module, `${path}gate.closeAfter`, gate.closeAfter ?? base.closeAfter, 1),
    reopenAfter: config.integer(module, `${path}gate.reopenAfter`, gate.reopenAfter ?? base.reopenAfter, 1),
    closedFor: millis("closedFor", gate.closedFor, base.closedFor),
    probeTimeout: millis("probeTimeout", gate.probeTimeout, base.probeTimeout)
  }
}

/** @internal */
export const serviceDefaults = {
  interval: "30 seconds",
  timeout: "10 seconds",
  historySize: 2_880,
  maxMetricKeys: 100,
  maxKeys: 1_000,
  idleTimeToLive: "1 hour"
} as const

/** @internal */
export const defaults: Settings = {
  size: 100,
  maxAge: 300_000,
  minimumCalls: 5,
  criticalAbove: 0.5,
  degradedAbove: 0.1,
  slowAbove: 5_000,
  required: true,
  counts: Fault.countsAsFailure,
  gate: { closeAfter: 3, reopenAfter: 2, closedFor: 30_000, probeTimeout: 300_000 }
}

const settingsOf = (options: KeyOptions, path: string, base: Settings): Settings => {
  const { integer, numberBetween } = config
  const millis = (option: string, value: Duration.Input | undefined, otherwise: number) =>
    value === undefined
      ? otherwise
      : Duration.toMillis(config.duration(module, `${path}${option}`, value, { minimum: "1 millis" }))
  const criticalAbove = numberBetween(module, `${path}criticalAbove`, options.criticalAbove ?? base.criticalAbove, 0, 1)
  const size = integer(module, `${path}size`, options.size ?? base.size, 1, 100_000)
  return {
    size,
    maxAge: millis("maxAge", options.maxAge, base.maxAge),
    minimumCalls: options.minimumCalls === undefined
      ? Math.min(base.minimumCalls, size)
      : integer(module, `${path}minimumCalls`, options.minimumCalls, 1, size),
    criticalAbove,
    // An option that is given is looked at; a default gives way to the other one that is given.
    degradedAbove: options.degradedAbove === undefined
      ? Math.min(base.degradedAbove, criticalAbove)
      : numberBetween(module, `${path}degradedAbove`, options.degradedAbove, 0, criticalAbove),
    slowAbove: millis("slowAbove", options.slowAbove, base.slowAbove),
    required: options.required ?? base.required,
    counts: options.countsAsFailure ?? base.counts,
    gate: gateOf(path, options.gate ?? {}, base.gate)
  }
}

/**
 * The settings of a key: its own where it is named, else those of all.
 *
 * @internal
 */
export const make = (
  options: KeyOptions & { readonly keys?: Readonly<Record<string, KeyOptions>> | undefined }
): (key: string) => Settings => {
  const base = settingsOf(options, "", defaults)
  const named = new Map(
    Object.entries(options.keys ?? {}).map((
      [key, own]
    ) => [key, settingsOf(own, `keys[${JSON.stringify(key)}].`, base)])
  )
  return (key) => named.get(key) ?? base
}
