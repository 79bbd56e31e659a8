import { Effect } from "effect"
import { CircuitBreaker, Fallback, Retry } from "effect-resilience"
import * as Backoff from "effect-resilience/policy/Backoff"

declare const console: { readonly log: (line: string) => void }

let attempts = 0
const flaky = Effect.suspend(() => {
  attempts++
  return Effect.fail({ status: 529, error: { type: "error", error: { type: "overloaded_error" } } } as const)
})

const program = flaky.pipe(
  CircuitBreaker.protect("model"),
  Retry.apply(Retry.policy({ maxAttempts: 3, backoff: Backoff.constant({ delay: "1 millis" }) })),
  Fallback.orElse("template", () => Effect.succeed("fallback"), { takes: "all" })
)

const main = Effect.gen(function*() {
  const answer: Fallback.Answer<string, "primary" | "template"> = yield* program
  const breaker = yield* CircuitBreaker.CircuitBreaker
  const state = yield* breaker.state("model")
  console.log(`${answer.value} after ${attempts} attempts, circuit ${state._tag}`)
}).pipe(Effect.provide(CircuitBreaker.layer()))

await Effect.runPromise(main)
