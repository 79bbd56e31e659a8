import * as Duration from "effect/Duration"
import { format } from "effect/Formatter"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { consecutive, type SharedTrip, type SharedTripRule, type TripRule } from "./circuitRules.ts"
import { type CircuitOptions, type Options, ServiceSettings } from "./circuitSettings.ts"
import type { Settings } from "./circuitState.ts"

/** @internal */
export interface SharedCircuitOptions
  extends Pick<CircuitOptions, "openFor" | "maxOpenFor" | "probeTimeout" | "countsAsFailure">
{
  readonly trip?: SharedTripRule | undefined
}

/** @internal */
export interface SharedOptions extends SharedCircuitOptions {
  readonly keys?: Readonly<Record<string, SharedCircuitOptions>> | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
  readonly prefix?: string | undefined
  readonly probeLease?: Duration.Input | undefined
  readonly holdLease?: Duration.Input | undefined
  readonly storeTimeout?: Duration.Input | undefined
  readonly onStoreError?: "local" | "allow" | undefined
}

/**
 * What the layer is built with, once and for all. Times in milliseconds.
 *
 * @internal
 */
export interface StoreSettings {
  readonly prefix: string
  readonly probeLease: number
  readonly holdLease: number
  readonly idleTimeToLive: number
  readonly storeTimeout: number
  readonly isLocal: boolean
}

// Redis writes the whole window of a rate with every call.
const largestSize = 10_000

const defaultRule = consecutive(5)

/** What the store does, whatever the options say. */
const fixed = [
  ["halfOpenPermits", 1],
  ["successThreshold", 1],
  ["successOutOf", 1],
  ["metricsOnly", false]
] as const

const isShared = (rule: TripRule): rule is SharedTripRule => "shared" in rule

const tripOf = (rule: TripRule): SharedTrip | undefined =>
  isShared(rule) && (rule.shared._tag === "Consecutive" || rule.shared.size <= largestSize) ? rule.shared : undefined

/** The options that circuits in Redis cannot follow, with what they do instead. */
const unsupported = (
  options: CircuitOptions
): ReadonlyArray<{ readonly option: string; readonly value: unknown; readonly expected: string }> => {
  const found = fixed.flatMap(([option, does]) => {
    const value = options[option]
    return value === undefined || value === does
      ? []
      : [{ option, value, expected: `${does}, which is what circuits in Redis do` }]
  })
  return options.trip === undefined || tripOf(options.trip) !== undefined ? found : [...found, {
    option: "trip",
    value: isShared(options.trip) ? options.trip.shared : "a rule of another kind",
    expected: `a rule that Redis can follow: consecutive, or rate with a size of at most ${largestSize}`
  }]
}

const refuse = (module: string, options: CircuitOptions, path = ""): void => {
  const [first] = unsupported(options)
  if (first === undefined) return
  const { expected, option, value } = first
  throw new Fault.InvalidConfig({
    module,
    option: `${path}${option}`,
    value: typeof value === "string" ? value : format(value),
    expected
  })
}

/** @internal */
export interface SharedSettings {
  readonly settings: Settings
  readonly trip: SharedTrip
}

/**
 * The settings of every key. What the layer says has to be something that Redis can do; what a caller says is followed
 * as far as Redis can, so that a program written for circuits of its process runs with shared ones.
 *
 * @internal
 */
export class SharedServiceSettings {
  /** For the circuits in this process, which stand in for those in Redis. */
  readonly local: ServiceSettings
  private readonly baseTrip: SharedTrip
  private readonly warned = new WeakSet<CircuitOptions>()

  constructor(module: string, options: Options, idleTimeToLive: number) {
    refuse(module, options)
    for (const [key, own] of Object.entries(options.keys ?? {})) refuse(module, own, `keys[${JSON.stringify(key)}].`)
    this.local = new ServiceSettings(module, { ...options, successThreshold: 1 })
    this.baseTrip = tripOf(options.trip ?? defaultRule) ?? defaultRule.shared
    // Redis forgets a circuit together with its running calls, and what they find out is dropped.
    config.duration(module, "idleTimeToLive", idleTimeToLive, { minimum: this.local.longestProbeTimeout })
  }

  of(key: string, caller: CircuitOptions | undefined): SharedSettings {
    const settings = this.local.of(key, caller)
    return { settings, trip: tripOf(settings.rule) ?? this.baseTrip }
  }

  /** The options of a caller that are not followed, the first time they are seen. */
  ignored(caller: CircuitOptions | undefined): ReadonlyArray<string> {
    if (caller === undefined || this.warned.has(caller)) return []
    this.warned.add(caller)
    return unsupported(caller).map(({ option }) => option)
  }
}

const positiveMillis = (module: string, option: string, value: Duration.Input): number =>
  Duration.toMillis(config.duration(module, option, value, { minimum: "1 millis" }))

/** @internal */
export const storeSettings = (module: string, options: SharedOptions): StoreSettings => {
  const { onStoreError = "local" } = options
  if (onStoreError !== "local" && onStoreError !== "allow") {
    throw new Fault.InvalidConfig({
      module,
      option: "onStoreError",
      value: format(onStoreError),
      expected: "\"local\" or \"allow\""
    })
  }
  return {
    prefix: config.nonEmpty(module, "prefix", options.prefix ?? "effect-resilience:circuit:"),
    probeLease: positiveMillis(module, "probeLease", options.probeLease ?? "10 seconds"),
    holdLease: positiveMillis(module, "holdLease", options.holdLease ?? "30 seconds"),
    idleTimeToLive: positiveMillis(module, "idleTimeToLive", options.idleTimeToLive ?? "1 hour"),
    storeTimeout: positiveMillis(module, "storeTimeout", options.storeTimeout ?? "250 millis"),
    isLocal: onStoreError === "local"
  }
}
