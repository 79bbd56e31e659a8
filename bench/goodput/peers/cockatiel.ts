/**
 * The real cockatiel, on virtual time by {@link withGlobals}: what its README builds, a timeout of a minute besides,
 * which it needs against stalls. One stack a provider and a process; steps are durable.
 */
import * as cockatiel from "cockatiel"
import { Effect } from "effect"
import { fetchFrom, type Implementation, orElse } from "../client.ts"
import type { Provider } from "../provider.ts"

const stack = () =>
  cockatiel.wrap(
    cockatiel.retry(cockatiel.handleAll, { maxAttempts: 4, backoff: new cockatiel.ExponentialBackoff() }),
    cockatiel.circuitBreaker(cockatiel.handleAll, {
      halfOpenAfter: 10_000,
      breaker: new cockatiel.ConsecutiveBreaker(5)
    }),
    cockatiel.bulkhead(30, Number.MAX_SAFE_INTEGER),
    cockatiel.timeout(60_000, cockatiel.TimeoutStrategy.Aggressive)
  )

export const cockatielPeer: Implementation = {
  name: "cockatiel",
  repeats: "step",
  promises: true,
  make: (world) =>
    Effect.sync(() => {
      const stacks = new Map<Provider, ReturnType<typeof stack>>()
      return orElse(world, (provider, { next }) => {
        const policy = stacks.get(provider) ?? stack()
        stacks.set(provider, policy)
        return Effect.tryPromise(() =>
          policy.execute(({ signal }) =>
            new Promise<void>((resolve, reject) => {
              const hangUp = fetchFrom(
                world.time,
                provider,
                next(),
                (failure) => failure === undefined ? resolve() : reject(failure)
              )
              signal.addEventListener("abort", hangUp, { once: true })
            })
          )
        )
      })
    })
}
