import * as Duration from "effect/Duration"
import * as config from "../../internal/config.ts"
import type { Bounds } from "./adaptiveLearner.ts"

const module = "AdaptiveLimit"

/** What one caller wants, and what holds for the key. */
export interface LimitOptions {
  readonly min?: number | undefined
  readonly initial?: number | undefined
  readonly max?: number | undefined
  readonly latencyTolerance?: number | undefined
  readonly learnFromTotalTime?: boolean | undefined
  readonly outageAfter?: number | undefined
  readonly probeInterval?: Duration.Input | undefined
  readonly maxProbeInterval?: Duration.Input | undefined
  readonly probeTimeout?: Duration.Input | undefined
  readonly maxRetryAfter?: Duration.Input | undefined
  readonly maxQueue?: number | undefined
  readonly maxQueueInOutage?: number | undefined
  readonly maxWait?: Duration.Input | undefined
  readonly inOutage?: "wait" | "fail" | undefined
}

/** @internal */
export interface ServiceOptions extends LimitOptions {
  readonly keys?: Readonly<Record<string, LimitOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

/** Times in milliseconds. @internal */
export interface Settings extends Bounds {
  readonly learnFromTotalTime: boolean
  readonly outageAfter: number
  readonly probeInterval: number
  readonly maxProbeInterval: number
  readonly probeTimeout: number
  readonly maxRetryAfter: number
  readonly maxQueue: number
  readonly maxQueueInOutage: number
  readonly maxWait: number
  readonly inOutage: "wait" | "fail"
}

const defaults: Settings = {
  min: 1,
  initial: 10,
  max: 200,
  latencyTolerance: 5,
  learnFromTotalTime: false,
  outageAfter: 5,
  probeInterval: 1_000,
  maxProbeInterval: 20_000,
  probeTimeout: 10_000,
  maxRetryAfter: 600_000,
  maxQueue: 1_000,
  maxQueueInOutage: 10_000,
  maxWait: 1_800_000,
  inOutage: "wait"
}

/** What options mean over a base. Throws `InvalidConfig`, also where two of them exclude each other. */
const over = (base: Settings, own: LimitOptions, path = ""): Settings => {
  const count = (option: "min" | "initial" | "max" | "outageAfter", minimum: number, maximum?: number): number =>
    config.integer(module, `${path}${option}`, own[option] ?? base[option], minimum, maximum)
  const places = (option: "maxQueue" | "maxQueueInOutage"): number =>
    config.integer(module, `${path}${option}`, own[option] ?? base[option], 0)
  const millis = (
    option: "probeInterval" | "maxProbeInterval" | "probeTimeout" | "maxRetryAfter" | "maxWait",
    minimum: number
  ): number => Duration.toMillis(config.duration(module, `${path}${option}`, own[option] ?? base[option], { minimum }))
  // A bound that somebody sets moves the other values with it, as far as he does not set them himself.
  const max = own.max === undefined ? Math.max(base.max, own.min ?? 0, own.initial ?? 0) : count("max", 1)
  const min = own.min === undefined ? Math.min(base.min, max) : count("min", 1, max)
  const initial = own.initial === undefined
    ? Math.max(min, Math.min(max, base.initial))
    : count("initial", min, max)
  const longest = own.maxProbeInterval === undefined ? base.maxProbeInterval : millis("maxProbeInterval", 1)
  const probeInterval = own.probeInterval === undefined
    ? Math.min(base.probeInterval, longest)
    : millis("probeInterval", 1)
  return {
    max,
    min,
    initial,
    latencyTolerance: config.numberBetween(
      module,
      `${path}latencyTolerance`,
      own.latencyTolerance ?? base.latencyTolerance,
      1.1,
      100
    ),
    learnFromTotalTime: own.learnFromTotalTime ?? base.learnFromTotalTime,
    outageAfter: count("outageAfter", 1),
    probeInterval,
    maxProbeInterval: own.maxProbeInterval === undefined
      ? Math.max(longest, probeInterval)
      : millis("maxProbeInterval", probeInterval),
    probeTimeout: millis("probeTimeout", 1),
    maxRetryAfter: millis("maxRetryAfter", 0),
    maxQueue: places("maxQueue"),
    maxQueueInOutage: places("maxQueueInOutage"),
    maxWait: millis("maxWait", 0),
    inOutage: config.oneOf(module, `${path}inOutage`, own.inOutage ?? base.inOutage, ["wait", "fail"])
  }
}

/** The options that hold for a key and not for a single call. */
const ofKey = [
  "min",
  "initial",
  "max",
  "latencyTolerance",
  "learnFromTotalTime",
  "outageAfter",
  "probeInterval",
  "maxProbeInterval",
  "probeTimeout",
  "maxRetryAfter",
  "maxQueue",
  "maxQueueInOutage"
] as const

/**
 * Whether a caller says anything about the key.
 *
 * @internal
 */
export const speaksOfKey = (options: LimitOptions): boolean => ofKey.some((option) => options[option] !== undefined)

/** @internal */
export const differences = (one: Settings, other: Settings): ReadonlyArray<string> =>
  ofKey.filter((option) => one[option] !== other[option])

const checkedOptions = new WeakSet<LimitOptions>()

/**
 * Throws `InvalidConfig` for options of a caller that are out of range, whatever the layer says of the others.
 *
 * @internal
 */
export const check = (options: LimitOptions): void => {
  if (checkedOptions.has(options)) return
  over(defaults, options)
  checkedOptions.add(options)
}

/**
 * Throws `InvalidConfig` for what cannot work, before there is a call.
 *
 * @internal
 */
export const checkCall = (key: string, options: LimitOptions | undefined): void => {
  config.nonEmpty(module, "key", key)
  if (options !== undefined) check(config.object(module, "options", options))
}

/**
 * The settings of every key of a service.
 *
 * @internal
 */
export class ServiceSettings {
  readonly maxKeys: number
  readonly idleTimeToLive: number
  private readonly base: Settings
  private readonly named: ReadonlyMap<string, Settings>
  private readonly byCaller = new WeakMap<LimitOptions, Settings>()

  constructor(options: ServiceOptions) {
    this.base = over(defaults, config.object(module, "options", options))
    this.named = new Map(
      Object.entries(options.keys ?? {}).map(([key, own]) => [
        key,
        over(this.base, config.object(module, `keys[${JSON.stringify(key)}]`, own), `keys[${JSON.stringify(key)}].`)
      ])
    )
    this.maxKeys = config.integer(module, "maxKeys", options.maxKeys ?? 10_000, 1)
    this.idleTimeToLive = Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? "1 hour", { minimum: "1 millis" })
    )
  }

  isNamed(key: string): boolean {
    return this.named.has(key)
  }

  /** What holds for a key whose first caller brings these options. */
  of(key: string, options: LimitOptions | undefined): Settings {
    return this.named.get(key) ?? (options === undefined ? this.base : this.ofCaller(options))
  }

  /** What a caller asks for. */
  ofCaller(options: LimitOptions): Settings {
    const known = this.byCaller.get(options)
    if (known !== undefined) return known
    const found = over(this.base, options)
    this.byCaller.set(options, found)
    return found
  }
}
