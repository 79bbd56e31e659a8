import * as DateTime from "effect/DateTime"

/** @internal */
export interface Limits {
  readonly requestsPerMinute: number
  readonly inputTokensPerMinute: number
  readonly outputTokensPerMinute: number
}

interface Bucket {
  readonly limit: number
  available: number
}

const minute = 60_000

/**
 * The provider's limits as token buckets that fill continuously. Times are milliseconds of one clock.
 *
 * @internal
 */
export const make = (limits: Limits, startedAt: number) => {
  const bucket = (limit: number): Bucket => ({ limit, available: limit })
  const requests = bucket(limits.requestsPerMinute)
  const input = bucket(limits.inputTokensPerMinute)
  const output = bucket(limits.outputTokensPerMinute)
  const buckets = [requests, input, output]
  let filledAt = startedAt

  const fill = (now: number): void => {
    for (const each of buckets) {
      each.available = Math.min(each.limit, each.available + each.limit * (now - filledAt) / minute)
    }
    filledAt = now
  }
  const millisUntil = (each: Bucket, amount: number): number =>
    Math.max(0, (Math.min(amount, each.limit) - each.available) * minute / each.limit)

  return {
    /** Milliseconds until the request fits; output is charged afterwards, so a debt of it has to be paid first. */
    wait: (now: number, inputTokens: number): number => {
      fill(now)
      return Math.max(millisUntil(requests, 1), millisUntil(input, inputTokens), millisUntil(output, 1))
    },
    charge: (
      now: number,
      used: { readonly requests: number; readonly inputTokens: number; readonly outputTokens: number }
    ): void => {
      fill(now)
      requests.available -= used.requests
      input.available -= used.inputTokens
      output.available -= used.outputTokens
    },
    headers: (now: number): Readonly<Record<string, string>> => {
      fill(now)
      const rows = (name: string, limit: number, available: number, fullIn: number) => [
        [`anthropic-ratelimit-${name}-limit`, String(limit)],
        [`anthropic-ratelimit-${name}-remaining`, String(Math.max(0, Math.floor(available)))],
        [`anthropic-ratelimit-${name}-reset`, DateTime.formatIso(DateTime.makeUnsafe(now + Math.ceil(fullIn)))]
      ]
      const row = (name: string, each: Bucket) => rows(name, each.limit, each.available, millisUntil(each, each.limit))
      return Object.fromEntries([
        ...row("requests", requests),
        ...row("input-tokens", input),
        ...row("output-tokens", output),
        ...rows(
          "tokens",
          input.limit + output.limit,
          Math.max(0, input.available) + Math.max(0, output.available),
          Math.max(millisUntil(input, input.limit), millisUntil(output, output.limit))
        )
      ])
    }
  }
}
