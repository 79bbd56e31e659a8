/** `fetch` under the control of a test: one whose body the test sends, and the real one, watched. */
import { Deferred, Effect, Queue } from "effect"

export const json = { headers: { "content-type": "application/json" } }
export const sse = { headers: { "content-type": "text/event-stream" } }

/** A `fetch` whose body comes when the test says so; `awaited` has an entry each time the client waits for a byte. */
export const controlled = Effect.fnUntraced(function*(init: ResponseInit) {
  const awaited = yield* Queue.unbounded<void>()
  const aborted = yield* Deferred.make<void>()
  let body: ReadableStreamDefaultController<Uint8Array> | undefined
  const stream = new ReadableStream<Uint8Array>({
    start: (controller) => {
      body = controller
    },
    pull: () => {
      Queue.offerUnsafe(awaited, undefined)
    }
  }, { highWaterMark: 0 })
  const fetch = (_: unknown, request?: RequestInit) => {
    request?.signal?.addEventListener("abort", () => Deferred.doneUnsafe(aborted, Effect.void))
    return Promise.resolve(new Response(stream, init))
  }
  return {
    fetch,
    aborted: Deferred.await(aborted),
    awaited: Queue.take(awaited),
    send: (text: string) => Effect.sync(() => body?.enqueue(new TextEncoder().encode(text))),
    end: Effect.sync(() => body?.close()),
    reset: Effect.sync(() => body?.error(new TypeError("terminated")))
  }
})

/** The real `fetch`; `onMore` is called when part of a body has come and the client waits for more. */
const watchedBody = (onMore: () => void): typeof globalThis.fetch => async (input, init) => {
  const response = await globalThis.fetch(input, init)
  const reader = response.body?.getReader()
  let chunks = 0
  return new Response(
    new ReadableStream({
      pull: async (controller) => {
        if (chunks++ > 0) onMore()
        const chunk = await reader?.read()
        if (chunk === undefined || chunk.done) controller.close()
        else controller.enqueue(chunk.value)
      },
      cancel: (reason) => reader?.cancel(reason)
    }, { highWaterMark: 0 }),
    response
  )
}

/** The real `fetch`; `awaited` is done when part of a body has come and the client waits for more. */
export const observed = Effect.gen(function*() {
  const awaited = yield* Deferred.make<void>()
  return { fetch: watchedBody(() => Deferred.doneUnsafe(awaited, Effect.void)), awaited: Deferred.await(awaited) }
})

/** The real `fetch`; `heard` is done when more of a body has come than when it was asked, and the client waits for more. */
export const listened = Effect.gen(function*() {
  const pulls = yield* Queue.unbounded<void>()
  const fetch = watchedBody(() => Queue.offerUnsafe(pulls, undefined))
  return { fetch, heard: Effect.andThen(Queue.clear(pulls), Queue.take(pulls)) }
})
