import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Predicate from "effect/Predicate"
import { InvalidConfig } from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import type * as AdaptiveLimit from "../AdaptiveLimit.ts"
import type * as Bulkhead from "../Bulkhead.ts"
import * as CircuitBreaker from "../CircuitBreaker.ts"
import type * as Fallback from "../Fallback.ts"
import * as Hedge from "../Hedge.ts"
import type * as Quota from "../Quota.ts"
import * as Retry from "../Retry.ts"
import * as limits from "./adaptiveSettings.ts"
import * as bulkheads from "./bulkheadEngine.ts"
import * as circuits from "./circuitSettings.ts"
import * as quotas from "./quotaSettings.ts"

/** @internal */
export interface CircuitOptions extends CircuitBreaker.CircuitOptions {
  readonly failures?: number | undefined
  readonly successes?: number | undefined
}

/** @internal */
export interface QuotaOptions extends Quota.CallOptions {
  readonly key?: string | undefined
}

/** @internal */
export interface Options {
  readonly name: string
  readonly key?: string | undefined
  readonly idempotent?: boolean | undefined
  readonly deadline?: Duration.Input | undefined
  readonly fallback?: Fallback.Step | readonly [Fallback.Step, ...Array<Fallback.Step>] | undefined
  readonly retry?: Retry.Options | Retry.Policy<unknown> | undefined
  readonly quota?: QuotaOptions | undefined
  readonly limit?: AdaptiveLimit.LimitOptions | undefined
  readonly bulkhead?: Bulkhead.LimitOptions | undefined
  readonly circuit?: CircuitOptions | undefined
  readonly hedge?: Hedge.Options | Hedge.Policy<unknown> | undefined
  readonly timeout?: Duration.Input | undefined
}

/** A policy as it is looked at once, when it is made. */
export interface Settings {
  readonly name: string
  readonly key: string
  readonly deadline: Duration.Duration | undefined
  readonly fallback: ReadonlyArray<Fallback.Step>
  readonly retry: Retry.Policy<unknown> | undefined
  readonly quota: QuotaOptions | undefined
  readonly limit: AdaptiveLimit.LimitOptions | undefined
  readonly bulkhead: Bulkhead.LimitOptions | undefined
  readonly circuit: CircuitBreaker.CircuitOptions | undefined
  readonly hedge: Hedge.Policy<unknown> | undefined
  readonly timeout: Duration.Duration | undefined
}

const positive = { minimum: "1 millis" } as const

/** Looks at the options of one guard, whose own complaints do not say which policy they are about. */
const part = <Given, Made>(
  module: string,
  option: string,
  given: Given | undefined,
  make: (given: Given) => Made
): Made | undefined => {
  if (given === undefined) return undefined
  // also for a caller without types
  if (!Predicate.isObject(given)) {
    throw new InvalidConfig({ module, option, value: format(given), expected: "an object of options" })
  }
  try {
    return make(given)
  } catch (error) {
    if (!(error instanceof InvalidConfig)) throw error
    const { expected, value } = error
    throw new InvalidConfig({ module, option: `${option}.${error.option}`, value, expected })
  }
}

const notBoth = (short: string, value: unknown, long: string): InvalidConfig =>
  new InvalidConfig({ module: "circuit", option: short, value: format(value), expected: `no value beside ${long}` })

const circuit = ({ failures, successes, ...rest }: CircuitOptions): CircuitBreaker.CircuitOptions => {
  if (failures !== undefined && rest.trip !== undefined) throw notBoth("failures", failures, "trip")
  if (successes !== undefined && rest.successThreshold !== undefined) {
    throw notBoth("successes", successes, "successThreshold")
  }
  const long = {
    ...rest,
    ...(failures === undefined
      ? undefined
      : { trip: CircuitBreaker.consecutive(config.integer("circuit", "failures", failures, 1)) }),
    ...(successes === undefined
      ? undefined
      : { successThreshold: config.integer("circuit", "successes", successes, 1) })
  }
  circuits.checkOptions("circuit", long)
  return long
}

const bulkhead = (options: Bulkhead.LimitOptions): Bulkhead.LimitOptions => {
  bulkheads.checked(options)
  return options
}

const quota = (options: QuotaOptions): QuotaOptions => {
  quotas.checked(options)
  if (options.key !== undefined) config.nonEmpty("quota", "key", options.key)
  return options
}

const limit = (options: AdaptiveLimit.LimitOptions): AdaptiveLimit.LimitOptions => {
  limits.check(options)
  return options
}

/** The source of an answer that needed no fallback. */
export const primary = "primary"

const isStep = (given: unknown): boolean =>
  Predicate.hasProperty(given, "label") && Predicate.isString(given.label) && given.label.length > 0 &&
  Predicate.hasProperty(given, "effect") && Effect.isEffect(given.effect)

const fallback = (module: string, given: Options["fallback"]): ReadonlyArray<Fallback.Step> => {
  if (given === undefined) return []
  const steps = "label" in given ? [given] : given
  const invalid = (value: unknown, expected: string) =>
    new InvalidConfig({ module, option: "fallback", value: format(value), expected })
  if (steps.length === 0 || !steps.every(isStep)) throw invalid(given, "one step of Fallback.step or a list of them")
  const labels = [primary, ...steps.map(({ label }) => label)]
  const twice = labels.find((label, at) => labels.indexOf(label) < at)
  if (twice !== undefined) throw invalid(twice, `each label once, and "${primary}" for none`)
  return steps
}

/** @internal */
export const settings = (options: Options): Settings => {
  const { idempotent } = options
  const name = config.nonEmpty("Policy.make", "name", options.name)
  const module = `Policy.make of ${JSON.stringify(name)}`
  return {
    name,
    key: config.nonEmpty(module, "key", options.key ?? name),
    deadline: options.deadline === undefined
      ? undefined
      : config.duration(module, "deadline", options.deadline, positive),
    fallback: fallback(module, options.fallback),
    retry: part(
      module,
      "retry",
      options.retry,
      (retry) => Retry.policy({ ...retry, name: retry.name ?? name, idempotent: retry.idempotent ?? idempotent })
    ),
    quota: part(module, "quota", options.quota, quota),
    limit: part(module, "limit", options.limit, limit),
    bulkhead: part(module, "bulkhead", options.bulkhead, bulkhead),
    circuit: part(module, "circuit", options.circuit, circuit),
    hedge: part(
      module,
      "hedge",
      options.hedge,
      (hedge) => Hedge.policy({ ...hedge, name: hedge.name ?? name, idempotent: hedge.idempotent ?? idempotent })
    ),
    timeout: options.timeout === undefined
      ? undefined
      : config.duration(module, "timeout", options.timeout, positive)
  }
}
