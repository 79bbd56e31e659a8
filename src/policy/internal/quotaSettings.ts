import * as Duration from "effect/Duration"
import { format } from "effect/Formatter"
import * as Predicate from "effect/Predicate"
import { InvalidConfig } from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { lookedAt } from "./lookedAt.ts"
import { checkedCost, type Cost, type Dimension, dimensions, each } from "./quotaAmounts.ts"
import type { Limit, Limits } from "./quotaGovernor.ts"

const module = "Quota"

/** So much in a time, and so much at once. */
export interface LimitInput {
  readonly limit: number
  readonly per?: Duration.Input | undefined
  readonly burst?: number | undefined
}

/** How one key is limited. */
export interface QuotaOptions {
  readonly requests?: number | LimitInput | undefined
  readonly inputTokens?: number | LimitInput | undefined
  readonly outputTokens?: number | LimitInput | undefined
  readonly tokens?: number | LimitInput | undefined
  readonly countCachedInput?: boolean | undefined
  readonly maxWait?: Duration.Input | undefined
  readonly maxQueue?: number | undefined
  readonly ageAfter?: Duration.Input | undefined
  readonly maxGate?: Duration.Input | undefined
}

/** Who goes first. */
export type Priority = "interactive" | "batch"

/** Options of a caller, as far as they can be looked at before there is a call. */
export interface CallerOptions extends QuotaOptions {
  readonly cost?: Cost | (() => Cost) | undefined
  readonly priority?: Priority | undefined
}

/** @internal */
export interface ServiceOptions extends QuotaOptions {
  readonly keys?: Readonly<Record<string, QuotaOptions>> | undefined
  readonly maxKeys?: number | undefined
  readonly idleTimeToLive?: Duration.Input | undefined
}

/** @internal */
export interface Settings {
  readonly limits: Limits
  readonly countCachedInput: boolean
  /** In milliseconds, as all times here. */
  readonly maxWait: number
  readonly maxQueue: number
  readonly ageAfter: number
  readonly maxGate: number
}

type Given = Omit<{ readonly [Option in keyof Settings]: Settings[Option] | undefined }, "limits"> & {
  readonly limits: Limits
}

const positive = (option: string, value: number): number => {
  if (Number.isFinite(value) && value > 0) return value
  throw new InvalidConfig({ module, option, value: format(value), expected: "a finite number above 0" })
}

const limitOptions: ReadonlySet<string> = new Set(["limit", "per", "burst"] satisfies ReadonlyArray<keyof LimitInput>)

/** `least` is what every call costs. */
const limit = (option: string, given: number | LimitInput, least: number): Limit => {
  if (Predicate.isNumber(given)) {
    const value = positive(option, given)
    return { limit: value, perMillis: 60_000, burst: Math.max(value, least) }
  }
  if (!Predicate.isObject(given)) {
    throw new InvalidConfig({ module, option, value: format(given), expected: "a number, or an object with a limit" })
  }
  // A burst that is misspelt would be the whole limit at once, and the type of a policy does not look in here.
  for (const [name, value] of Object.entries(given)) {
    if (limitOptions.has(name)) continue
    const expected = `no such option: a limit has ${Array.from(limitOptions).join(", ")}`
    throw new InvalidConfig({ module, option: `${option}.${name}`, value: format(value), expected })
  }
  const value = positive(`${option}.limit`, given.limit)
  const per = config.duration(module, `${option}.per`, given.per ?? "1 minute", { minimum: "1 millis" })
  const burst = positive(`${option}.burst`, given.burst ?? Math.max(value, least))
  if (burst < least) {
    const expected = "a finite number of at least 1, or no call is ever sent"
    throw new InvalidConfig({ module, option: `${option}.burst`, value: format(burst), expected })
  }
  return { limit: value, perMillis: Duration.toMillis(per), burst }
}

const millis = (option: string, value: Duration.Input | undefined): number | undefined =>
  value === undefined ? undefined : Duration.toMillis(config.duration(module, option, value))

const given = (options: QuotaOptions, path = ""): Given => ({
  limits: each((dimension) => {
    const own = options[dimension]
    return own === undefined ? undefined : limit(`${path}${dimension}`, own, dimension === "requests" ? 1 : 0)
  }),
  countCachedInput: options.countCachedInput,
  maxWait: millis(`${path}maxWait`, options.maxWait),
  maxQueue: options.maxQueue === undefined
    ? undefined
    : config.integer(module, `${path}maxQueue`, options.maxQueue, 0),
  ageAfter: millis(`${path}ageAfter`, options.ageAfter),
  maxGate: millis(`${path}maxGate`, options.maxGate)
})

/**
 * The options of a caller.
 *
 * @internal
 */
export const checked = lookedAt((options: CallerOptions): Given => {
  const { cost, priority } = options
  if (priority !== undefined) config.oneOf(module, "priority", priority, ["interactive", "batch"])
  if (cost !== undefined && !Predicate.isFunction(cost)) checkedCost(cost)
  return given(options)
})

/**
 * Throws `InvalidConfig` for what cannot work, before there is a call.
 *
 * @internal
 */
export const checkCall = (key: string, options: CallerOptions | undefined): void => {
  config.nonEmpty(module, "key", key)
  if (options !== undefined) checked(config.object(module, "options", options))
}

const over = (base: Settings, own: Given): Settings => ({
  limits: each((dimension) => own.limits[dimension] ?? base.limits[dimension]),
  countCachedInput: own.countCachedInput ?? base.countCachedInput,
  maxWait: own.maxWait ?? base.maxWait,
  maxQueue: own.maxQueue ?? base.maxQueue,
  ageAfter: own.ageAfter ?? base.ageAfter,
  maxGate: own.maxGate ?? base.maxGate
})

const defaults: Settings = {
  limits: each(() => undefined),
  countCachedInput: false,
  maxWait: 60_000,
  maxQueue: 1_000,
  ageAfter: 30_000,
  maxGate: 300_000
}

const isSameLimit = (a: Limit | undefined, b: Limit | undefined): boolean =>
  a === b || (a !== undefined && b !== undefined && a.limit === b.limit && a.perMillis === b.perMillis &&
    a.burst === b.burst)

const names = ["countCachedInput", "maxQueue", "ageAfter", "maxGate"] as const

/** What the service and its callers have said of the keys. */
export class ServiceSettings {
  readonly maxKeys: number
  readonly idleTimeToLive: number
  private readonly base: Settings
  private readonly named: ReadonlyMap<string, Settings>
  /** The keys that the service itself says `maxWait` of. */
  private readonly patient: ReadonlySet<string>

  constructor(options: ServiceOptions) {
    this.base = over(defaults, given(config.object(module, "options", options)))
    this.named = new Map(
      Object.entries(options.keys ?? {}).map(([key, own]) => [
        key,
        over(
          this.base,
          given(config.object(module, `keys[${JSON.stringify(key)}]`, own), `keys[${JSON.stringify(key)}].`)
        )
      ])
    )
    this.patient = new Set(
      Object.entries(options.keys ?? {}).flatMap(([key, own]) => own.maxWait === undefined ? [] : [key])
    )
    this.maxKeys = config.integer(module, "maxKeys", options.maxKeys ?? 10_000, 1)
    this.idleTimeToLive = Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? "1 hour", { minimum: "1 millis" })
    )
  }

  isNamed(key: string): boolean {
    return this.named.has(key)
  }

  of(key: string, options: QuotaOptions | undefined): Settings {
    return this.named.get(key) ?? (options === undefined ? this.base : over(this.base, checked(options)))
  }

  /** How long this caller waits: by its own word, unless the service says otherwise for the very key. */
  maxWait(key: string, options: QuotaOptions | undefined): number {
    const own = options === undefined || this.patient.has(key) ? undefined : checked(options).maxWait
    return own ?? this.of(key, undefined).maxWait
  }

  /** In what the options of another caller differ from those that hold. */
  differences(options: QuotaOptions, held: Settings): ReadonlyArray<string> {
    const asked = over(this.base, checked(options))
    const limits = dimensions.filter((dimension: Dimension) =>
      !isSameLimit(asked.limits[dimension], held.limits[dimension])
    )
    return [...limits, ...names.filter((name) => asked[name] !== held[name])]
  }

  /** The limits of a caller that are lost, since the service names the key and says nothing of them. */
  lost(options: QuotaOptions, held: Settings): ReadonlyArray<Dimension> {
    const { limits } = checked(options)
    return dimensions.filter((dimension) => limits[dimension] !== undefined && held.limits[dimension] === undefined)
  }

  /** Whether a caller's options say anything about the key, and not about this call alone. */
  concernsKey(options: QuotaOptions): boolean {
    const { limits, maxWait: _, ...rest } = checked(options)
    return dimensions.some((dimension) => limits[dimension] !== undefined) ||
      Object.values(rest).some((value) => value !== undefined)
  }
}
