import * as Cause from "effect/Cause"
import * as Duration from "effect/Duration"
import type * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Predicate from "effect/Predicate"
import * as config from "../../internal/config.ts"
import type { Status } from "./healthStatus.ts"

/** @internal */
export interface Result {
  readonly status: Status
  readonly message: string
  readonly details?: Readonly<Record<string, unknown>> | undefined
}

/** @internal */
export interface CheckOptions {
  readonly key?: string | undefined
  readonly timeout?: Duration.Input | undefined
  readonly interval?: Duration.Input | undefined
  readonly required?: boolean | undefined
}

/** @internal */
export interface Check<out R> {
  readonly name: string
  readonly key: string
  readonly timeout: Duration.Duration | undefined
  readonly interval: Duration.Duration | undefined
  readonly required: boolean
  readonly run: Effect.Effect<Result, unknown, R>
}

/** @internal */
export const responseDefaults = { healthy: "1 second", degraded: "3 seconds" } as const

/** @internal */
export const backlogDefaults = {
  depth: { degraded: 10, critical: 100 },
  age: { degraded: "1 hour", critical: "24 hours" }
} as const

/** @internal */
export const make = <R>(
  name: string,
  run: Effect.Effect<Result, unknown, R>,
  { interval, key, required = true, timeout }: CheckOptions = {}
): Check<R> => {
  const module = "HealthCheck"
  const positive = (option: string, value: Duration.Input | undefined) =>
    value === undefined ? undefined : config.duration(module, option, value, { minimum: "1 millis" })
  return {
    name: config.nonEmpty(module, "name", name),
    key: key === undefined ? name : config.nonEmpty(module, "key", key),
    timeout: positive("timeout", timeout),
    interval: positive("interval", interval),
    required,
    run
  }
}

/** Whatever people read in it, it is short, and the password of a URL is not in it. */
const excerpt = (text: string): string => text.slice(0, 1_000).replaceAll(/\/\/[^/\s@]*@/g, "//***@").slice(0, 500)

const nameOf = (error: unknown): string =>
  Predicate.hasProperty(error, "_tag") && typeof error._tag === "string"
    ? error._tag
    : error instanceof Error
    ? error.name
    : typeof error

const failing = (what: string, error: unknown): Result => ({
  status: "critical",
  message: `the check ${what} ${nameOf(error)}`,
  details: { error: excerpt(error instanceof Error ? error.message : String(error)) }
})

/**
 * What the end of a check says. A failure is told by its name alone: its text may say what is not for everybody, and is
 * in the details.
 *
 * @internal
 */
export const resultOf = (exit: Exit.Exit<Result, unknown>): Result => {
  if (Exit.isSuccess(exit)) return exit.value
  const failed = exit.cause.reasons.find(Cause.isFailReason)
  if (failed !== undefined) return failing("failed with", failed.error)
  const died = exit.cause.reasons.find(Cause.isDieReason)
  if (died !== undefined) return failing("died of", died.defect)
  return { status: "critical", message: "the check was interrupted" }
}

/** @internal */
export const format = (duration: Duration.Duration): string =>
  Duration.format(Duration.millis(Math.round(Duration.toMillis(duration))))

/**
 * A sentence stays one however many there are.
 *
 * @internal
 */
export const listed = (names: ReadonlyArray<string>, separator = ", "): string =>
  names.length <= 10
    ? names.join(separator)
    : `${names.slice(0, 10).join(separator)}${separator}and ${names.length - 10} more`
