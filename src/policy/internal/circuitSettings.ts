import * as Duration from "effect/Duration"
import * as Schedule from "effect/Schedule"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { consecutive, isSameRule } from "./circuitRules.ts"
import { type CircuitOptions, defaultOpenFor, type Settings } from "./circuitState.ts"

export type { CircuitOptions }

/** @internal */
export interface Options extends CircuitOptions {
  readonly keys?: Readonly<Record<string, CircuitOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

const atLeastAMilli = { minimum: "1 millis" } as const

const defaultRule = consecutive(5)

const shortestOf = (openFor: Settings["openFor"]): number => typeof openFor === "number" ? openFor : 1

/** What options mean, each by itself, with the defaults for those that are absent. Throws `InvalidConfig`. */
const read = (module: string, options: CircuitOptions, path = ""): Settings => {
  const millis = (option: string, value: Duration.Input): number =>
    Duration.toMillis(config.duration(module, `${path}${option}`, value, atLeastAMilli))
  const count = (option: string, value: number): number => config.integer(module, `${path}${option}`, value, 1)
  const { openFor = defaultOpenFor } = options
  const openTime = Schedule.isSchedule(openFor) ? openFor : millis("openFor", openFor)
  const successThreshold = count("successThreshold", options.successThreshold ?? 2)
  return {
    rule: options.trip ?? defaultRule,
    openFor: openTime,
    maxOpenFor: millis("maxOpenFor", options.maxOpenFor ?? Math.max(3_600_000, shortestOf(openTime))),
    halfOpenPermits: count("halfOpenPermits", options.halfOpenPermits ?? 1),
    successThreshold,
    successOutOf: count("successOutOf", options.successOutOf ?? successThreshold),
    probeTimeout: millis("probeTimeout", options.probeTimeout ?? "5 minutes"),
    metricsOnly: options.metricsOnly ?? false,
    countsAsFailure: options.countsAsFailure ?? Fault.countsAsFailure
  }
}

/** What options mean that somebody gave together. Throws `InvalidConfig`, also where two of them exclude each other. */
const circuitSettings = (module: string, options: CircuitOptions, path = ""): Settings => {
  const settings = read(module, options, path)
  const { maxOpenFor, openFor, successOutOf, successThreshold } = settings
  config.duration(module, `${path}maxOpenFor`, options.maxOpenFor ?? maxOpenFor, { minimum: shortestOf(openFor) })
  config.integer(module, `${path}successOutOf`, successOutOf, successThreshold)
  return settings
}

/** Where what a caller says and what the layer says exclude each other, the layer's gives way. */
const reconciled = (settings: Settings, caller: CircuitOptions): Settings => {
  const { maxOpenFor, openFor, successOutOf, successThreshold } = settings
  return {
    ...settings,
    // A shorter `maxOpenFor` of the caller cuts the layer's `openFor` when the circuit opens.
    maxOpenFor: caller.maxOpenFor === undefined ? Math.max(maxOpenFor, shortestOf(openFor)) : maxOpenFor,
    successThreshold: caller.successThreshold === undefined
      ? Math.min(successThreshold, successOutOf)
      : successThreshold,
    successOutOf: caller.successOutOf === undefined ? Math.max(successOutOf, successThreshold) : successOutOf
  }
}

const plain = [
  "openFor",
  "maxOpenFor",
  "halfOpenPermits",
  "successThreshold",
  "successOutOf",
  "probeTimeout",
  "metricsOnly",
  "countsAsFailure"
] as const

/** The options in which settings differ. Schedules, functions and foreign rules are the same only where they are one. */
const differences = (one: Settings, other: Settings): ReadonlyArray<string> => {
  if (one === other) return []
  const differing = plain.filter((option) => one[option] !== other[option])
  return isSameRule(one.rule, other.rule) ? differing : ["trip", ...differing]
}

const checked = new WeakSet<CircuitOptions>()

/**
 * Throws `InvalidConfig` for options of a caller that are out of range, whatever the layer gives for those that are
 * absent.
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
  readonly longestProbeTimeout: number
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
    this.longestProbeTimeout = Array.from(this.byKey.values()).reduce(
      (longest, { probeTimeout }) => Math.max(longest, probeTimeout),
      this.base.probeTimeout
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
      settings = reconciled(read(this.module, { ...this.options, ...given(caller) }), caller)
      this.byCaller.set(caller, settings)
    }
    return settings
  }

  /** What to tell a caller whose options mean something else than those of the first one, which hold. */
  objection(key: string, first: CircuitOptions, caller: CircuitOptions): string | undefined {
    const differing = differences(this.of(key, first), this.of(key, caller))
    return differing.length === 0
      ? undefined
      : `Circuit "${key}" keeps the options of its first caller; those of another one differ in ` +
        `${differing.join(", ")} and do nothing: configure the key in the layer ("keys"), or use another key`
  }
}
