import * as Duration from "effect/Duration"
import { format } from "effect/Formatter"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import { InvalidConfig } from "../Fault.ts"

const show = (value: unknown): string => {
  return Duration.isDuration(value) ? Duration.format(value) : format(value)
}

/** `Duration` reads what is no number as zero, and a delay of zero where one was computed wrongly is a busy loop. */
const hasNaN = (value: unknown): boolean =>
  typeof value === "object" && value !== null && !Duration.isDuration(value)
    ? Object.values(value).some(Number.isNaN)
    : Number.isNaN(value)

const invalid = (module: string, option: string, value: unknown, expected: string): InvalidConfig =>
  new InvalidConfig({ module, option, value: show(value), expected })

/** @internal */
export const duration = (
  module: string,
  option: string,
  value: Duration.Input,
  bounds: { readonly minimum?: Duration.Input; readonly infinite?: boolean } = {}
): Duration.Duration => {
  const minimum = Duration.fromInputUnsafe(bounds.minimum ?? 0)
  const expected = `a duration of at least ${Duration.format(minimum)}`
  const parsed = Duration.fromInput(value)
  if (Option.isNone(parsed) || hasNaN(value)) throw invalid(module, option, value, expected)
  if (Duration.isLessThan(parsed.value, minimum)) throw invalid(module, option, value, expected)
  if (bounds.infinite !== true && !Duration.isFinite(parsed.value)) {
    throw invalid(module, option, value, "a finite duration")
  }
  return parsed.value
}

/** @internal */
export const object = <A>(module: string, option: string, value: A): A => {
  if (Predicate.isObject(value)) return value
  throw invalid(module, option, value, "an object")
}

/** @internal */
export const integer = (
  module: string,
  option: string,
  value: number,
  minimum: number,
  maximum = Number.MAX_SAFE_INTEGER
): number => {
  if (Number.isSafeInteger(value) && value >= minimum && value <= maximum) return value
  const range = maximum === Number.MAX_SAFE_INTEGER ? `of at least ${minimum}` : `from ${minimum} to ${maximum}`
  throw invalid(module, option, value, `a whole number ${range}`)
}

/** @internal */
export const numberBetween = (
  module: string,
  option: string,
  value: number,
  minimum: number,
  maximum: number
): number => {
  if (value >= minimum && value <= maximum) return value
  throw invalid(module, option, value, `a number from ${minimum} to ${maximum}`)
}

/** @internal */
export const nonEmpty = (module: string, option: string, value: string): string => {
  // also for a caller without types, who has left it out
  if (typeof value === "string" && value.length > 0) return value
  throw invalid(module, option, value, "a text that is not empty")
}

/** @internal */
export const oneOf = <const A extends string>(
  module: string,
  option: string,
  value: A,
  allowed: ReadonlyArray<A>
): A => {
  if (allowed.includes(value)) return value
  throw invalid(module, option, value, allowed.map((one) => `"${one}"`).join(" or "))
}
