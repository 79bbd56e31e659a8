import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import { Heartbeat } from "../../policy/Deadline.ts"

type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>

/** @internal */
export interface Limits {
  /** Until headers come. */
  readonly answer: { readonly option: string; readonly after: Duration.Duration }
  readonly stallTimeout: Duration.Duration
}

/**
 * What happened on the wire during one call, seen from below the SDK. The SDK forgets most of it: it drops the cause of
 * a timeout, ends the loop of an aborted stream as if the stream were complete, and throws raw network errors.
 *
 * @internal
 */
export class Exchange {
  readonly #interruption = new AbortController()
  /** Aborted when the call is interrupted; a limit that runs out ends one request, and not the call. */
  readonly signal: AbortSignal = this.#interruption.signal
  request: { readonly method: string; readonly url: string } | undefined
  response: Response | undefined
  /** The limit that ran out. */
  expired:
    | { readonly option: string; readonly waitedFor: "headers" | "body"; readonly limit: Duration.Duration }
    | undefined
  /** What broke the connection after the headers. */
  broken: unknown
  /** The request was aborted from outside while its answer was still coming. */
  aborted = false
  /** The message is whole. All that is left is the end of the connection, so that it can be used again. */
  complete = false

  /** Starts anew: a call may have recovered from what became of an earlier request of its own. */
  begin(request: { readonly method: string; readonly url: string }): void {
    this.request = request
    this.response = undefined
    this.expired = undefined
    this.broken = undefined
    this.aborted = false
    this.complete = false
  }

  abort(): void {
    this.#interruption.abort(new Error("Interrupted"))
  }
}

/** One request of a call. */
interface Watched {
  readonly exchange: Exchange
  readonly context: Context.Context<never>
  readonly limits: Limits
  /** Aborted by a limit that ran out, or by interruption. */
  readonly given: AbortSignal
  /** The same, or aborted by the caller. */
  readonly signal: AbortSignal
  readonly expire: (waitedFor: "headers" | "body", limit: Duration.Duration) => void
}

// The clock runs only while someone waits for the network: a slow consumer is not a stalled provider.
const waitFor = async <A>(
  { context, expire, given }: Watched,
  waitedFor: "headers" | "body",
  limit: Duration.Duration,
  start: () => Promise<A>
): Promise<A> => {
  given.throwIfAborted()
  const aborted = Promise.withResolvers<never>()
  const onAbort = () => aborted.reject(given.reason)
  given.addEventListener("abort", onAbort, { once: true })
  const timer = Effect.sleep(limit).pipe(
    Effect.andThen(Effect.sync(() => expire(waitedFor, limit))),
    Effect.runForkWith(context)
  )
  try {
    // A `fetch` of the user's may ignore its signal, hence the race.
    return await Promise.race([start(), aborted.promise])
  } finally {
    timer.interruptUnsafe()
    given.removeEventListener("abort", onAbort)
  }
}

// How long a connection may take to end after the last event: nobody should wait for it.
const endTimeout = Duration.seconds(1)

const nothing = () => undefined

const watchBody = (body: ReadableStream<Uint8Array>, request: Watched): ReadableStream<Uint8Array> => {
  const { context, exchange, limits, signal } = request
  const heartbeat = Context.get(context, Heartbeat)
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
        const chunk = await waitFor(request, "body", limit, () => reader.read())
        if (!chunk.done) {
          heartbeat?.alive()
          return controller.enqueue(chunk.value)
        }
        settle()
        controller.close()
      } catch (cause) {
        settle()
        if (!signal.aborted) exchange.broken = cause
        // A `fetch` that does not listen to its signal would keep the connection.
        reader.cancel(cause).catch(nothing)
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
 * connection even where the caller did not hand the signal to the SDK. What comes is a sign of life for the watchdogs
 * around the call, which see only what the SDK makes of it: no pings, for example.
 *
 * @internal
 */
export const watchedFetch =
  (fetch: Fetch, exchange: Exchange, context: Context.Context<never>, limits: Limits): Fetch => async (input, init) => {
    const limit = new AbortController()
    const given = AbortSignal.any([exchange.signal, limit.signal])
    const signal = init?.signal ? AbortSignal.any([given, init.signal]) : given
    const expire: Watched["expire"] = (waitedFor, ranOut) => {
      exchange.expired = {
        option: waitedFor === "body" ? "stallTimeout" : limits.answer.option,
        waitedFor,
        limit: ranOut
      }
      // Not an AbortError: the SDK swallows those.
      limit.abort(new Error(`Nothing received: waited for the ${waitedFor}`))
    }
    const request: Watched = { exchange, context, limits, given, signal, expire }
    exchange.begin({
      method: init?.method ?? "GET",
      url: input instanceof Request ? input.url : String(input)
    })
    let answer: Promise<Response> | undefined
    const response = await waitFor(request, "headers", limits.answer.after, () => {
      answer = fetch(input, { ...init, signal })
      return answer
    }).catch((cause: unknown) => {
      // It may come all the same, when nobody reads it any more.
      answer?.then((late) => late.body?.cancel(cause)).catch(nothing)
      throw cause
    })
    exchange.response = response
    Context.get(context, Heartbeat)?.alive()
    if (response.body === null) return response
    return new Response(watchBody(response.body, request), {
      status: response.status,
      statusText: response.statusText,
      headers: response.headers
    })
  }
