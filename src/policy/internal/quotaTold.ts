import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { retryAfter } from "../../internal/httpFaults.ts"
import { type Dimension, dimensions, each } from "./quotaAmounts.ts"
import { type AllTold, longReset, type Told } from "./quotaGovernor.ts"

/** What a provider told of one limit. */
export interface Observed {
  readonly limit?: number | undefined
  readonly remaining?: number | undefined
  readonly reset?: DateTime.Utc | Duration.Duration | string | undefined
}

/** What a provider told of all limits. */
export interface Observation {
  readonly requests?: Observed | undefined
  readonly inputTokens?: Observed | undefined
  readonly outputTokens?: Observed | undefined
  readonly tokens?: Observed | undefined
  readonly retryAfter?: Duration.Input | undefined
}

const property = (value: unknown, name: string): unknown => Predicate.hasProperty(value, name) ? value[name] : undefined

const number = (value: unknown): number | undefined => {
  const parsed = Predicate.isString(value) && value.trim() !== "" ? Number(value) : value
  return Predicate.isNumber(parsed) && Number.isFinite(parsed) ? parsed : undefined
}

const units: Readonly<Record<string, number>> = { d: 86_400_000, h: 3_600_000, m: 60_000, s: 1_000, ms: 1 }

/** `6m0s`, `20ms`: how OpenAI writes when a limit is back. */
const spelled = (text: string): number | undefined => {
  if (!/^(?:\d+(?:\.\d+)?(?:ms|[dhms]))+$/.test(text)) return undefined
  let millis = 0
  for (const [, value, unit] of text.matchAll(/(\d+(?:\.\d+)?)(ms|[dhms])/g)) {
    millis += Number(value) * (units[unit ?? ""] ?? 0)
  }
  return millis
}

const resetMillis = (reset: unknown, nowMillis: number): number | undefined => {
  if (Duration.isDuration(reset)) return Duration.toMillis(reset)
  if (Predicate.isString(reset)) {
    const after = spelled(reset.trim())
    if (after !== undefined) return after
  }
  const at = DateTime.isDateTime(reset)
    ? Option.some(reset)
    : Predicate.isString(reset)
    ? DateTime.make(reset)
    : Option.none()
  // A time of day is the provider's, and the clock here may be wrong by hours: it is not taken for a limit of a long time.
  return Option.isSome(at) ? Math.min(DateTime.toEpochMillis(at.value) - nowMillis, longReset) : undefined
}

const told = (observed: unknown, nowMillis: number): Told | undefined => {
  if (!Predicate.isObject(observed)) return undefined
  const limit = number(property(observed, "limit"))
  const remaining = number(property(observed, "remaining"))
  const reset = resetMillis(property(observed, "reset"), nowMillis)
  if (limit === undefined && remaining === undefined) return undefined
  return { limit, remaining, resetMillis: reset }
}

/**
 * An observation as the governor takes it. `tokens` counts where it is told alone: beside the other two it is the
 * tighter one of them once more.
 *
 * @internal
 */
export const readObservation = (observation: Observation, nowMillis: number): AllTold | undefined => {
  const all = each((dimension) => told(observation[dimension], nowMillis))
  const isApart = all.inputTokens !== undefined || all.outputTokens !== undefined
  if (isApart) return { ...all, tokens: undefined }
  return dimensions.some((dimension) => all[dimension] !== undefined) ? all : undefined
}

const header = (headers: unknown, name: string): string | undefined => {
  if (!Predicate.isObject(headers)) return undefined
  if (Predicate.hasProperty(headers, "get") && Predicate.isFunction(headers.get)) {
    const value: unknown = headers.get(name)
    return Predicate.isString(value) ? value : undefined
  }
  const value = property(headers, name)
  return Predicate.isString(value) ? value : undefined
}

const spellings: Readonly<Record<Dimension, ReadonlyArray<(field: string) => string>>> = {
  requests: [(field) => `anthropic-ratelimit-requests-${field}`, (field) => `x-ratelimit-${field}-requests`],
  inputTokens: [(field) => `anthropic-ratelimit-input-tokens-${field}`],
  outputTokens: [(field) => `anthropic-ratelimit-output-tokens-${field}`],
  tokens: [(field) => `anthropic-ratelimit-tokens-${field}`, (field) => `x-ratelimit-${field}-tokens`]
}

/** @internal */
export const observedIn = (headers: unknown, nowMillis: number): Observation | undefined => {
  const found = each((dimension) => {
    for (const spell of spellings[dimension]) {
      const limit = number(header(headers, spell("limit")))
      const remaining = number(header(headers, spell("remaining")))
      const reset = header(headers, spell("reset"))
      if (limit !== undefined || remaining !== undefined) return { limit, remaining, reset }
    }
    return undefined
  })
  const delay = retryAfter(headers, () => nowMillis)
  if (delay === undefined && dimensions.every((dimension) => found[dimension] === undefined)) return undefined
  return delay === undefined ? found : { ...found, retryAfter: delay }
}

const isObservation = (value: unknown): value is Observation =>
  Predicate.isObject(value) &&
  dimensions.some((dimension) => Predicate.hasProperty(value, dimension) && told(value[dimension], 0) !== undefined)

const inMetadata = (value: unknown): Observation | undefined => {
  const metadata = property(value, "metadata")
  if (!Predicate.isObject(metadata)) return undefined
  for (const provider of Object.values(metadata)) {
    const limits = property(provider, "rateLimits")
    if (isObservation(limits)) return limits
  }
  return undefined
}

const inOne = (value: unknown, nowMillis: number): Observation | undefined => {
  const own = property(value, "rateLimits")
  if (isObservation(own)) return own
  return inMetadata(value) ?? observedIn(property(value, "headers"), nowMillis) ??
    observedIn(property(property(value, "response"), "headers"), nowMillis)
}

/**
 * What an answer or a failure says of the limits, wherever it carries that: in `rateLimits`, in the metadata of a
 * provider (of an `AiError`'s reason, or of the parts of an answer), or in its headers.
 *
 * @internal
 */
export const observationIn = (value: unknown, nowMillis: number): Observation | undefined => {
  const found = inOne(value, nowMillis) ?? inOne(property(value, "reason"), nowMillis)
  if (found !== undefined) return found
  const list: unknown = Array.isArray(value) ? value : property(value, "content")
  if (!Array.isArray(list)) return undefined
  for (let at = list.length - 1; at >= 0; at--) {
    const inPart = inMetadata(list[at])
    if (inPart !== undefined) return inPart
  }
  return undefined
}
