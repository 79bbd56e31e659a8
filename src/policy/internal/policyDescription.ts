import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schedule from "effect/Schedule"
import type * as Hedge from "../Hedge.ts"
import type * as Retry from "../Retry.ts"
import type { Settings } from "./policyOptions.ts"

const text = (duration: Duration.Duration): string => Duration.format(duration)

const durations = new Set([
  "maxWait",
  "ageAfter",
  "maxGate",
  "openFor",
  "maxOpenFor",
  "probeTimeout",
  "probeInterval",
  "maxProbeInterval",
  "maxRetryAfter"
])

const shared = (rule: object): string | undefined => {
  if (!Predicate.hasProperty(rule, "shared") || !Predicate.isObject(rule.shared)) return undefined
  const { _tag, ...numbers } = { _tag: "", ...rule.shared }
  return `${_tag.toLowerCase()} (${
    Object.entries(numbers).map(([name, value]) => `${name} ${String(value)}`).join(", ")
  })`
}

const limit = (rule: object): string | undefined => {
  if (!Predicate.hasProperty(rule, "limit")) return undefined
  const { limit } = rule
  const per: unknown = Predicate.hasProperty(rule, "per") ? rule.per : undefined
  const burst: unknown = Predicate.hasProperty(rule, "burst") ? rule.burst : undefined
  const time = isDurationInput(per) ? Duration.fromInput(per) : Option.none()
  const atOnce = Predicate.isNumber(burst) ? ` (${burst} at once)` : ""
  return `${Number(limit)} per ${Option.isSome(time) ? text(time.value) : "1m"}${atOnce}`
}

const show = (option: string, value: unknown): string => {
  if (Schedule.isSchedule(value)) return "by a schedule"
  const duration = durations.has(option) && isDurationInput(value) ? Duration.fromInput(value) : Option.none()
  if (Option.isSome(duration)) return text(duration.value)
  if (Predicate.isFunction(value)) return "by a function"
  return Predicate.isObject(value) ? shared(value) ?? limit(value) ?? "by a rule" : String(value)
}

const isDurationInput = (value: unknown): value is Duration.Input =>
  Predicate.isString(value) || Predicate.isNumber(value) || Predicate.isObject(value)

const options = (given: object): string => {
  const parts = Object.entries(given).flatMap(([option, value]: [string, unknown]) =>
    value === undefined ? [] : [`${option} ${show(option, value)}`]
  )
  return parts.length === 0 ? "as the layer says" : parts.join(", ")
}

const retry = (policy: Retry.Policy<unknown>): string =>
  [
    `at most ${policy.maxAttempts} attempts`,
    ...(policy.maxElapsed === undefined ? [] : [`within ${text(policy.maxElapsed)}`]),
    ...(policy.budget === undefined ? [] : [`budget ${JSON.stringify(policy.budget)}`]),
    ...(policy.retryRejected ? ["also what the guards refuse"] : []),
    ...(policy.idempotent === false ? ["nothing that may have happened"] : [])
  ].join(", ")

const hedge = (policy: Hedge.Policy<unknown>): string =>
  [
    `at most ${policy.maxAttempts} attempts`,
    Duration.isDuration(policy.delay)
      ? `the next after ${text(policy.delay)}`
      : `the next after the ${Number((policy.delay.p * 100).toPrecision(12))}th percentile`,
    ...(policy.budget === undefined ? [] : [`budget ${JSON.stringify(policy.budget)}`]),
    ...(policy.idempotent === true
      ? []
      : [policy.idempotent === false ? "never: not idempotent" : "only of what is marked idempotent"])
  ].join(", ")

const quota = ({ cost, ...rest }: NonNullable<Settings["quota"]>): string =>
  options({
    ...rest,
    cost: cost === undefined || typeof cost === "function" ? cost : amounts(cost),
    observe: undefined,
    usage: undefined
  })

const amounts = (cost: object): string =>
  Object.entries(cost).map(([name, value]) => `${String(value)} ${name}`).join(" + ")

const line = <A>(guard: string, given: A | undefined, show: (given: A) => string): ReadonlyArray<string> =>
  given === undefined ? [] : [`  ${guard.padEnd(15)}  ${show(given)}`]

/** @internal */
export const describe = (policy: Settings): string =>
  [
    `policy ${JSON.stringify(policy.name)}${policy.key === policy.name ? "" : `, key ${JSON.stringify(policy.key)}`}`,
    ...line("deadline", policy.deadline, text),
    ...line(
      "fallback",
      policy.fallback.length === 0 ? undefined : policy.fallback,
      (steps) => steps.map(({ label }) => JSON.stringify(label)).join(", then ")
    ),
    ...line("retry", policy.retry, retry),
    ...line("quota", policy.quota, quota),
    ...line("limit", policy.limit, options),
    ...line("bulkhead", policy.bulkhead, options),
    ...line("circuit", policy.circuit, options),
    ...line("hedge", policy.hedge, hedge),
    ...line("attempt timeout", policy.timeout, text),
    "  work"
  ].join("\n")
