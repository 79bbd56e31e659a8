import * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { consecutive, type TripRule } from "./circuitRules.ts"
import { defaultOpenFor, type Opening, type Settings } from "./circuitState.ts"

/** @internal */
export interface CircuitOptions {
  readonly trip?: TripRule | undefined
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown, Opening> | undefined
  readonly maxOpenFor?: Duration.Input | undefined
  readonly halfOpenPermits?: number | undefined
  readonly successThreshold?: number | undefined
  readonly successOutOf?: number | undefined
  readonly probeTimeout?: Duration.Input | undefined
  readonly metricsOnly?: boolean | undefined
  readonly countsAsFailure?: ((verdict: Fault.Verdict, error: unknown) => boolean) | undefined
}

/** @internal */
export interface Options extends CircuitOptions {
  readonly keys?: Readonly<Record<string, CircuitOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

const atLeastAMilli = { minimum: "1 millis" } as const

const defaultRule = consecutive(5)

/**
 * What options mean, with the defaults for those that are absent. Throws `InvalidConfig`.
 *
 * @internal
 */
export const circuitSettings = (module: string, options: CircuitOptions, path = ""): Settings => {
  const { openFor = defaultOpenFor } = options
  const openTime = Schedule.isSchedule(openFor)
    ? openFor
    : Duration.toMillis(config.duration(module, `${path}openFor`, openFor, atLeastAMilli))
  const shortest = typeof openTime === "number" ? openTime : 1
  const maxOpenFor = config.duration(
    module,
    `${path}maxOpenFor`,
    options.maxOpenFor ?? Math.max(3_600_000, shortest),
    { minimum: shortest }
  )
  const successThreshold = config.integer(module, `${path}successThreshold`, options.successThreshold ?? 2, 1)
  return {
    rule: options.trip ?? defaultRule,
    openFor: openTime,
    maxOpenFor: Duration.toMillis(maxOpenFor),
    halfOpenPermits: config.integer(module, `${path}halfOpenPermits`, options.halfOpenPermits ?? 1, 1),
    successThreshold,
    successOutOf: config.integer(
      module,
      `${path}successOutOf`,
      options.successOutOf ?? successThreshold,
      successThreshold
    ),
    probeTimeout: Duration.toMillis(
      config.duration(module, `${path}probeTimeout`, options.probeTimeout ?? "5 minutes", atLeastAMilli)
    ),
    metricsOnly: options.metricsOnly ?? false,
    countsAsFailure: options.countsAsFailure ?? Fault.countsAsFailure
  }
}

const checked = new WeakSet<CircuitOptions>()

/**
 * Throws `InvalidConfig` for options of a caller that are out of range, whatever the layer gives for those that are
 * absent. What they mean together with the layer's is found out where they meet.
 *
 * @internal
 */
export const checkOptions = (module: string, options: CircuitOptions | undefined, path = ""): void => {
  if (options === undefined || checked.has(options)) return
  const { openFor = 1, successThreshold = 1 } = options
  circuitSettings(module, { ...options, openFor, successThreshold }, path)
  checked.add(options)
}

const given = (options: CircuitOptions): CircuitOptions =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))

/**
 * The settings of every key of a service.
 *
 * @internal
 */
export class ServiceSettings {
  readonly maxKeys: number
  readonly idleTimeToLive: number
  readonly sweepEvery: number
  private readonly module: string
  private readonly options: Options
  private readonly base: Settings
  private readonly byKey: ReadonlyMap<string, Settings>
  private readonly byCaller = new WeakMap<CircuitOptions, Settings>()

  constructor(module: string, options: Options) {
    this.module = module
    this.options = options
    this.base = circuitSettings(module, options)
    this.byKey = new Map(
      Object.entries(options.keys ?? {}).map(([key, own]) => [
        key,
        circuitSettings(module, { ...options, ...given(own) }, `keys[${JSON.stringify(key)}].`)
      ])
    )
    this.maxKeys = config.integer(module, "maxKeys", options.maxKeys ?? 10_000, 1)
    this.idleTimeToLive = Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? "1 hour", atLeastAMilli)
    )
    // Looking through all circuits takes a millisecond where there are many of them.
    this.sweepEvery = Math.max(this.idleTimeToLive, 1_000)
  }

  of(key: string, caller: CircuitOptions | undefined): Settings {
    const named = this.byKey.get(key)
    if (named !== undefined) return named
    if (caller === undefined) return this.base
    let settings = this.byCaller.get(caller)
    if (settings === undefined) {
      settings = circuitSettings(this.module, { ...this.options, ...given(caller) })
      this.byCaller.set(caller, settings)
    }
    return settings
  }
}
