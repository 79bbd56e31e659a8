/**
 * The retries of the official Anthropic SDK for TypeScript, after `shouldRetry`, `retryRequest` and
 * `calculateDefaultRetryTimeoutMillis` of its `client.js` (1.12), which cannot be told to use another clock: 2 retries
 * of 408, 409, 429, 5xx and what has no status, after `retry-after` if that is positive, else 0.5 s times 2^n, at most
 * 8 s, less up to a quarter.
 */
import { Effect } from "effect"
import { type CallStep, fetchEffect, type Implementation, orElse, type ProviderFailure, type World } from "../client.ts"

const maxRetries = 2

const shouldRetry = ({ status }: ProviderFailure): boolean =>
  status === undefined || status === 408 || status === 409 || status === 429 || status >= 500

const delayMillis = ({ retryAfterMillis }: ProviderFailure, retry: number, random: number): number =>
  retryAfterMillis !== undefined && retryAfterMillis > 0 && retryAfterMillis <= 2 ** 31 - 1
    ? retryAfterMillis
    : Math.min(500 * 2 ** retry, 8_000) * (1 - random * 0.25)

const make = (world: World): Effect.Effect<CallStep> =>
  Effect.succeed(orElse(world, (provider, { next }) => {
    const attempt = (retry: number): Effect.Effect<void, ProviderFailure> =>
      Effect.suspend(() => fetchEffect(world.time, provider, next())).pipe(Effect.catch((failure) =>
        retry < maxRetries && shouldRetry(failure)
          ? Effect.andThen(Effect.sleep(delayMillis(failure, retry, world.random())), attempt(retry + 1))
          : Effect.fail(failure)
      ))
    return attempt(0)
  }))

/** As most agents are: what a failed call leaves is gone. */
export const sdkTask: Implementation = { name: "sdk-task", repeats: "task", make }

/** The same, where steps are remembered. */
export const sdkStep: Implementation = { name: "sdk-step", repeats: "step", make }
