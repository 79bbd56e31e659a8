import { Effect } from "effect"
import { type Implementation, ProviderFailure } from "../client.ts"
import type { Provider } from "../provider.ts"

/**
 * Knows the state of the provider, and never what will come: each call is admitted in the order of arrival at the very
 * moment when it is not refused, a stalled or reset one is known at once and sent again. What it cannot know is when the
 * next outage begins.
 */
const once = (provider: Provider, call: Parameters<Provider["sendKnowing"]>[0]) =>
  Effect.callback<void, ProviderFailure>((resume) => {
    provider.sendKnowing(call, {
      end: (outcome) => resume(outcome._tag === "Answered" ? Effect.void : Effect.fail(new ProviderFailure(undefined)))
    })
  })

export const oracle: Implementation = {
  name: "oracle",
  repeats: "step",
  make: ({ fallback, provider }) =>
    Effect.succeed(({ next }) =>
      Effect.eventually(Effect.suspend(() => {
        const call = next()
        const isPrimary = fallback === undefined || provider.canAdmit(call) || !fallback.canAdmit(call)
        return once(isPrimary ? provider : fallback, call)
      }))
    )
}
