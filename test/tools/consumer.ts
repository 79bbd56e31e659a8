import { Effect } from "effect"
import { CircuitBreaker, Fallback, Hedge, Policy, Retry } from "effect-resilience"
import * as Backoff from "effect-resilience/policy/Backoff"

declare const console: { readonly log: (line: string) => void }

let attempts = 0
const flaky = Effect.suspend(() => {
  attempts++
  return Effect.fail({ status: 529, error: { type: "error", error: { type: "overloaded_error" } } } as const)
})

export const program = flaky.pipe(
  CircuitBreaker.protect("model"),
  Retry.apply(Retry.policy({ maxAttempts: 3, backoff: Backoff.constant({ delay: "1 millis" }) })),
  Fallback.orElse("template", () => Effect.succeed("fallback"), { takes: "all" })
)

// What a consumer's own declarations say of them must not lead into the inside of the package.
export const careful = Policy.make({
  name: "model",
  deadline: "1 minute",
  retry: { budget: "model" },
  bulkhead: {},
  circuit: {},
  hedge: { delay: Hedge.percentile() },
  timeout: "10 seconds",
  fallback: Fallback.step("template", Effect.succeed("template"))
})
export const guarded = Policy.apply(flaky, careful)
export const hedged = Hedge.apply(flaky, Hedge.policy({ delay: "1 second" }))

const main = Effect.gen(function*() {
  const answer: Fallback.Answer<string, "primary" | "template"> = yield* program
  const breaker = yield* CircuitBreaker.CircuitBreaker
  const state = yield* breaker.state("model")
  console.log(`${answer.value} after ${attempts} attempts, circuit ${state._tag}`)
}).pipe(Effect.provide(CircuitBreaker.layer()))

await Effect.runPromise(main)
