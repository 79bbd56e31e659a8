import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"

type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>

/** @internal */
export interface Limits {
  readonly responseTimeout: Duration.Duration
  readonly stallTimeout: Duration.Duration
}

/**
 * What happened on the wire during one call, seen from below the SDK. The SDK forgets most of it: it drops the cause of
 * a timeout, ends the loop of an aborted stream as if the stream were complete, and throws raw network errors.
 *
 * @internal
 */
export class Exchange {
  readonly #controller = new AbortController()
  readonly signal: AbortSignal = this.#controller.signal
  request: { readonly method: string; readonly url: string } | undefined
  response: Response | undefined
  /** The limit that ran out. */
  expired: { readonly waitedFor: "headers" | "body"; readonly limit: Duration.Duration } | undefined
  /** What broke the connection after the headers. */
  broken: unknown
  /** The request was aborted from outside while its answer was still coming. */
  aborted = false
  /** The message is whole. All that is left is the end of the connection, so that it can be used again. */
  complete = false

  expire(waitedFor: "headers" | "body", limit: Duration.Duration): void {
    this.expired = { waitedFor, limit }
    // Not an AbortError: the SDK swallows those.
    this.#controller.abort(new Error(`Nothing received: waited for the ${waitedFor}`))
  }

  abort(): void {
    this.#controller.abort(new Error("Interrupted"))
  }
}

// The clock runs only while someone waits for the network: a slow consumer is not a stalled provider.
const waitFor = async <A>(
  exchange: Exchange,
  context: Context.Context<never>,
  waitedFor: "headers" | "body",
  limit: Duration.Duration,
  start: () => Promise<A>
): Promise<A> => {
  const aborted = Promise.withResolvers<never>()
  const onAbort = () => aborted.reject(exchange.signal.reason)
  exchange.signal.addEventListener("abort", onAbort, { once: true })
  const timer = Effect.sleep(limit).pipe(
    Effect.andThen(Effect.sync(() => exchange.expire(waitedFor, limit))),
    Effect.runForkWith(context)
  )
  try {
    // A `fetch` of the user's may ignore its signal, hence the race.
    return await Promise.race([start(), aborted.promise])
  } finally {
    timer.interruptUnsafe()
    exchange.signal.removeEventListener("abort", onAbort)
  }
}

// How long a connection may take to end after the last event: nobody should wait for it.
const endTimeout = Duration.seconds(1)

const watchBody = (
  body: ReadableStream<Uint8Array>,
  exchange: Exchange,
  context: Context.Context<never>,
  limits: Limits,
  signal: AbortSignal
): ReadableStream<Uint8Array> => {
  const reader = body.getReader()
  const onAbort = () => {
    exchange.aborted = true
  }
  const settle = () => signal.removeEventListener("abort", onAbort)
  signal.addEventListener("abort", onAbort, { once: true })
  return new ReadableStream<Uint8Array>({
    pull: async (controller) => {
      try {
        const limit = exchange.complete ? Duration.min(endTimeout, limits.stallTimeout) : limits.stallTimeout
        const chunk = await waitFor(exchange, context, "body", limit, () => reader.read())
        if (!chunk.done) return controller.enqueue(chunk.value)
        settle()
        controller.close()
      } catch (cause) {
        settle()
        if (!signal.aborted) exchange.broken = cause
        throw cause
      }
    },
    cancel: (reason) => {
      settle()
      return reader.cancel(reason)
    }
  }, { highWaterMark: 0 })
}

/**
 * Wraps `fetch` so that headers and every piece of a body must come in time, and so that interruption closes the
 * connection even where the caller did not hand the signal to the SDK.
 *
 * @internal
 */
export const watchedFetch =
  (fetch: Fetch, exchange: Exchange, context: Context.Context<never>, limits: Limits): Fetch => async (input, init) => {
    const signal = init?.signal ? AbortSignal.any([exchange.signal, init.signal]) : exchange.signal
    exchange.request = { method: init?.method ?? "GET", url: input instanceof Request ? input.url : String(input) }
    exchange.response = undefined
    const response = await waitFor(
      exchange,
      context,
      "headers",
      limits.responseTimeout,
      () => fetch(input, { ...init, signal })
    )
    exchange.response = response
    if (response.body === null) return response
    return new Response(watchBody(response.body, exchange, context, limits, signal), {
      status: response.status,
      statusText: response.statusText,
      headers: response.headers
    })
  }
