import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import { InvalidConfig } from "../../Fault.ts"

/** @internal */
export const defaults = {
  maxTokens: 4096,
  responseTimeout: "5 minutes",
  streamTimeout: "30 seconds",
  stallTimeout: "30 seconds"
} as const

/**
 * Up to when an answer to the question whether somebody is there is a good one, and when it is slow.
 *
 * @internal
 */
export const reachable = { healthy: "1 second", degraded: "3 seconds" } as const

/**
 * A credential in clear. It goes into a header: what a header cannot hold is a mistake of copying, such as a line break.
 *
 * @internal
 */
export const secret = (
  module: string,
  option: string,
  given: Redacted.Redacted | string,
  expected: string
): Effect.Effect<string, InvalidConfig> => {
  const value = Redacted.isRedacted(given) ? Redacted.value(given) : given
  return value === "" || /[^\x21-\x7e]/.test(value)
    ? Effect.fail(
      new InvalidConfig({ module, option, value: value === "" ? "empty" : "not a single word of ASCII", expected })
    )
    : Effect.succeed(value)
}

/**
 * Throws where headers cannot be sent.
 *
 * @internal
 */
export const validateHeaders = (module: string, headers: Readonly<Record<string, string>> | undefined): void => {
  for (const [name, value] of Object.entries(headers ?? {})) {
    try {
      new Headers().append(name, value)
    } catch {
      // The value may be a secret.
      throw new InvalidConfig({
        module,
        option: `headers[${JSON.stringify(name)}]`,
        value: "a header that cannot be sent (its value is not shown)",
        expected: "a name of letters, digits and hyphens, and a value in one line of Latin-1"
      })
    }
  }
}
