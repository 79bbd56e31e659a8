/**
 * How clients of a simulation reach its providers, and what an implementation is.
 */
import { Effect, type Scope } from "effect"
import type { Call, Headers, Listener, Outcome, Provider } from "./provider.ts"
import type { VirtualTime } from "./virtualTime.ts"

/** A call that was not answered, as an SDK would report it. */
export class ProviderFailure {
  readonly _tag = "ProviderFailure"
  /** Nothing for a connection that was reset, or from which nothing came for too long. */
  readonly status: number | undefined
  readonly headers: Headers

  constructor(status: number | undefined, headers: Headers = {}) {
    this.status = status
    this.headers = headers
  }

  /** What `retry-after` says, in milliseconds. */
  get retryAfterMillis(): number | undefined {
    const seconds = Number.parseFloat(this.headers["retry-after"] ?? "")
    return Number.isNaN(seconds) ? undefined : seconds * 1_000
  }
}

/** The next call of a step. Each try is a call of its own. */
export interface Step {
  readonly agent: number
  readonly inputTokens: number
  readonly next: () => Call
}

/** What one process has of the world. */
export interface World {
  readonly time: VirtualTime
  readonly provider: Provider
  /** Takes the same calls, for more money. */
  readonly fallback: Provider | undefined
  /** Dice of the process's own, between 0 and 1. */
  readonly random: () => number
}

export type CallStep = (step: Step) => Effect.Effect<unknown, unknown>

export interface Implementation {
  readonly name: string
  /** What a program does when a call has failed for good: all of its task again, or only this step. */
  readonly repeats: "task" | "step"
  /** Works on promises, so that the event loop has to turn. */
  readonly promises?: boolean
  /** Builds the client of one process. */
  readonly make: (world: World) => Effect.Effect<CallStep, never, Scope.Scope>
}

const failureOf = (outcome: Exclude<Outcome, { readonly _tag: "Answered" }>): ProviderFailure =>
  outcome._tag === "Reset" ? new ProviderFailure(undefined) : new ProviderFailure(outcome.status, outcome.headers)

/** Sends a call and waits for its end for as long as it takes. Interruption hangs up. */
export const send = (
  provider: Provider,
  call: Call,
  listener?: Omit<Listener, "end">
): Effect.Effect<Headers, ProviderFailure> =>
  Effect.callback((resume) => {
    const hangUp = provider.send(call, {
      ...listener,
      end: (outcome) =>
        resume(outcome._tag === "Answered" ? Effect.succeed(outcome.headers) : Effect.fail(failureOf(outcome)))
    })
    return Effect.sync(hangUp)
  })

/**
 * Node's own fetch gives up on headers that do not come, and on a body that stands still, after 300 seconds (undici's
 * `headersTimeout` and `bodyTimeout`), before the timeout of any SDK.
 */
const fetchTimeoutMillis = 300_000

/** The same with Node's fetch; what is given back hangs up. */
export const fetchFrom = (
  time: VirtualTime,
  provider: Provider,
  call: Call,
  done: (failure: ProviderFailure | undefined) => void
): () => void => {
  const timedOut = () => {
    hangUp()
    done(new ProviderFailure(undefined))
  }
  let cancel = time.after(fetchTimeoutMillis, timedOut)
  const beat = () => {
    cancel()
    cancel = time.after(fetchTimeoutMillis, timedOut)
  }
  const hangUp = provider.send(call, {
    head: beat,
    beat,
    end: (outcome) => {
      cancel()
      done(outcome._tag === "Answered" ? undefined : failureOf(outcome))
    }
  })
  return () => {
    cancel()
    hangUp()
  }
}

/** The same as an effect. */
export const fetchEffect = (
  time: VirtualTime,
  provider: Provider,
  call: Call
): Effect.Effect<void, ProviderFailure> =>
  Effect.callback((resume) => {
    const hangUp = fetchFrom(
      time,
      provider,
      call,
      (failure) => resume(failure === undefined ? Effect.void : Effect.fail(failure))
    )
    return Effect.sync(hangUp)
  })

/** What everybody writes who has a second provider: when the first has failed for good, the other one is asked. */
export const orElse = (
  { fallback, provider }: World,
  call: (provider: Provider, step: Step) => Effect.Effect<unknown, unknown>
): CallStep =>
  fallback === undefined
    ? (step) => call(provider, step)
    : (step) => call(provider, step).pipe(Effect.catch(() => call(fallback, step)))
