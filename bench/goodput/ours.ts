/**
 * The toolkit itself: retries around the governor of a provider, which is a quota and an adaptive limit that all agents of
 * a process share, around one call that is watched for stalls. Steps are durable. No limit is configured: what is known of
 * a provider is learned.
 */
import { type Context, Effect, Layer } from "effect"
import { AdaptiveLimit, Backoff, Deadline, Fallback, Fault, Quota, Retry } from "../../src/index.ts"
import { uniform } from "../../src/testing/internal/seeded.ts"
import { type CallStep, type Implementation, ProviderFailure, send, type Step, type World } from "./client.ts"
import type { Call, Provider } from "./provider.ts"

const verdict = (error: unknown): Fault.Verdict | undefined => {
  if (!(error instanceof ProviderFailure)) return undefined
  const { retryAfterMillis, status } = error
  if (status === 429) return Fault.throttled(retryAfterMillis)
  if (status === 529 || status === 503) return Fault.overloaded(retryAfterMillis)
  return Fault.transient
}

/** One try: the answer comes in parts, and whoever is silent for half a minute has stalled. */
const once = (provider: Provider, call: Call) =>
  Deadline.watch(
    { idle: "30 seconds", name: provider.name },
    (beat) =>
      Effect.contextWith((context: Context.Context<never>) => {
        const alive = Effect.runSyncWith(context)
        return send(provider, call, {
          head: () => alive(Effect.andThen(beat, AdaptiveLimit.firstToken)),
          beat: () => alive(beat)
        })
      })
  ).pipe(Effect.map((headers) => ({ headers, usage: call })))

/** Nobody counts the tokens of a prompt before it is sent: the estimate misses by up to a tenth. */
const estimate = ({ id, inputTokens }: Call): number => Math.round(inputTokens * (0.9 + 0.2 * uniform(0, 0, id)))

const backoff = Backoff.fullJitter({ base: "500 millis", cap: "5 seconds" })

/** Without another provider, a step waits for as long as it takes. */
const patient = {
  retries: Retry.policy({ maxAttempts: 20, backoff, idempotent: true }),
  limit: { maxWait: "30 minutes", inOutage: "wait" },
  quota: { maxWait: "30 minutes" }
} as const

/** With one, it goes there soon. */
const impatient = {
  retries: Retry.policy({ maxAttempts: 2, backoff, idempotent: true }),
  limit: { maxWait: "10 seconds", inOutage: "fail" },
  quota: { maxWait: "10 seconds" }
} as const

const clientOf = (provider: Provider, { limit, quota, retries }: typeof patient | typeof impatient) => (step: Step) =>
  Effect.suspend(() => {
    const call = step.next()
    return once(provider, call).pipe(
      AdaptiveLimit.withLimit(provider.name, limit),
      Quota.withQuota(provider.name, {
        ...quota,
        cost: { inputTokens: estimate(call), outputTokens: call.maxOutputTokens }
      })
    )
  }).pipe(Retry.apply(retries))

/** What the agents of one process share. */
export const guards = Layer.mergeAll(AdaptiveLimit.layer(), Quota.layer())

export const makeWith = (
  { fallback, provider }: World,
  shared: Context.Context<Layer.Success<typeof guards>>
): CallStep => {
  const guarded = (asked: Effect.Effect<unknown, unknown, Quota.Quota | AdaptiveLimit.AdaptiveLimit>) =>
    asked.pipe(Effect.provideContext(shared), Fault.withClassifier(verdict))
  if (fallback === undefined) {
    const ask = clientOf(provider, patient)
    return (step) => guarded(ask(step))
  }
  const first = clientOf(provider, impatient)
  const second = clientOf(fallback, patient)
  return (step) => guarded(first(step).pipe(Fallback.orElse("second provider", () => second(step))))
}

export const ours: Implementation = {
  name: "effect-resilience",
  repeats: "step",
  make: (world) => Effect.map(Layer.build(guards), (shared) => makeWith(world, shared))
}
