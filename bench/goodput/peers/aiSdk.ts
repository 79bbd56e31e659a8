/**
 * The retries of the Vercel AI SDK, after `retryWithExponentialBackoffRespectingRetryHeaders` (package `ai`, 6.0) and
 * `retryWithExponentialBackoff` (`@ai-sdk/provider-utils`): 2 retries of 408, 409, 429, 5xx and what has no status, after
 * `retry-after` if that is less than a minute, else 2 s times 2^n. Its tool loop is one call of `generateText`, so that a
 * call that fails in it fails the task.
 */
import { Effect } from "effect"
import { fetchEffect, type Implementation, orElse, type ProviderFailure } from "../client.ts"

const maxRetries = 2

const isRetryable = ({ status }: ProviderFailure): boolean =>
  status === undefined || status === 408 || status === 409 || status === 429 || status >= 500

const delayMillis = ({ retryAfterMillis: asked }: ProviderFailure, retry: number): number => {
  const backoff = 2_000 * 2 ** retry
  return asked !== undefined && asked >= 0 && (asked < 60_000 || asked < backoff) ? asked : backoff
}

export const aiSdk: Implementation = {
  name: "ai-sdk",
  repeats: "task",
  make: (world) =>
    Effect.succeed(orElse(world, (provider, { next }) => {
      const attempt = (retry: number): Effect.Effect<void, ProviderFailure> =>
        Effect.suspend(() => fetchEffect(world.time, provider, next())).pipe(Effect.catch((failure) =>
          retry < maxRetries && isRetryable(failure)
            ? Effect.andThen(Effect.sleep(delayMillis(failure, retry)), attempt(retry + 1))
            : Effect.fail(failure)
        ))
      return attempt(0)
    }))
}
