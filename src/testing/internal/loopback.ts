import * as Cause from "effect/Cause"
import * as Effect from "effect/Effect"
import * as FiberSet from "effect/FiberSet"
import type * as Scope from "effect/Scope"
import * as Http from "node:http"
import type { Reply } from "./reply.ts"

/** How an exchange ended, seen from the server. */
type Outcome = "completed" | "cutByServer" | "closedByClient"

/**
 * One request that came in whole, and the way to answer it.
 *
 * @internal
 */
export interface Exchange {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly headers: Readonly<Record<string, string>>
  /** `undefined` for a body larger than the provider takes. */
  readonly text: string | undefined
  readonly send: (reply: Reply, headers: Readonly<Record<string, string>>) => Effect.Effect<void>
  readonly onOutcome: (hear: (outcome: Outcome) => void) => void
}

const largestBody = 32 * 1024 * 1024

const write = (response: Http.ServerResponse, chunk: string) =>
  Effect.callback<void>((resume) => {
    response.write(chunk, () => resume(Effect.void))
  })

const finish = (response: Http.ServerResponse) =>
  Effect.callback<void>((resume) => {
    response.end(() => resume(Effect.void))
  })

/**
 * Serves requests on loopback until the scope closes, which destroys every connection, whatever it is waiting for.
 *
 * @internal
 */
export const listen = Effect.fnUntraced(function*(
  port: number,
  handle: (exchange: Exchange) => Effect.Effect<void>,
  broken: (message: string) => Reply
): Effect.fn.Return<number, never, Scope.Scope> {
  const run = yield* FiberSet.makeRuntime<never, void, never>()
  let closing = false

  const accept = (request: Http.IncomingMessage, response: Http.ServerResponse): void => {
    const chunks: Array<Buffer> = []
    const listeners: Array<(outcome: Outcome) => void> = []
    let size = 0
    let cut = false
    let outcome: Outcome | undefined

    const settle = (how: Outcome): void => {
      if (outcome !== undefined) return
      outcome = how
      for (const hear of listeners) hear(how)
    }
    const send = Effect.fnUntraced(function*(reply: Reply, headers: Readonly<Record<string, string>>) {
      if (reply.delayMillis > 0) yield* Effect.sleep(reply.delayMillis)
      if (reply.head !== undefined) {
        response.writeHead(reply.head.status, { ...headers, ...reply.head.headers })
        if (reply.end !== "finish") response.flushHeaders()
      }
      for (const chunk of reply.chunks) yield* write(response, chunk)
      switch (reply.end) {
        case "finish":
          return yield* finish(response)
        case "hang": {
          const { beat } = reply
          if (beat === undefined) return yield* Effect.never
          const once = Effect.andThen(Effect.sleep(beat.everyMillis), write(response, beat.text))
          if (beat.rest === undefined) return yield* Effect.forever(once)
          for (let sent = 0; sent < beat.rest.times; sent++) yield* once
          for (const chunk of beat.rest.chunks) yield* write(response, chunk)
          return yield* finish(response)
        }
        case "reset":
          cut = true
          request.socket.resetAndDestroy()
          return
        case "close":
          cut = true
          request.socket.destroySoon()
      }
    })
    // a rule or an answer of the test that throws must not look like a server that hangs
    const report = (cause: Cause.Cause<never>) =>
      response.headersSent
        ? Effect.sync(() => {
          cut = true
          request.socket.destroy()
        })
        : send(broken(`the test's own code failed: ${String(Cause.squash(cause))}`), {})

    response.on("finish", () => settle("completed"))
    response.on("close", () => settle(cut || closing ? "cutByServer" : "closedByClient"))
    // a peer that goes away is an outcome and not a crash of the test process
    request.on("error", () => undefined)
    response.on("error", () => undefined)
    request.on("data", (chunk: Buffer) => {
      size += chunk.length
      if (size <= largestBody) chunks.push(chunk)
    })
    request.on("end", () => {
      const headers = Object.entries(request.headers).flatMap(([name, value]) =>
        value === undefined ? [] : [[name, Array.isArray(value) ? value.join(", ") : value]]
      )
      const exchange: Exchange = {
        method: request.method ?? "GET",
        path: (request.url ?? "/").replace(/\?.*$/, ""),
        query: new URLSearchParams((request.url ?? "").replace(/^[^?]*/, "")),
        headers: Object.fromEntries(headers),
        text: size > largestBody ? undefined : Buffer.concat(chunks).toString("utf8"),
        send,
        onOutcome: (hear) => {
          if (outcome === undefined) listeners.push(hear)
          else hear(outcome)
        }
      }
      const fiber = run(Effect.catchCauseIf(handle(exchange), (cause) => !Cause.hasInterruptsOnly(cause), report))
      response.on("close", () => fiber.interruptUnsafe())
    })
  }

  const server = yield* Effect.acquireRelease(
    Effect.callback<Http.Server>((resume) => {
      // the timeouts of node:http would end a hang, or an idle connection that a client is about to use again
      const made = Http.createServer({ requestTimeout: 0, headersTimeout: 0, keepAliveTimeout: 0 }, accept)
      made.once("error", (error) => resume(Effect.die(error)))
      made.listen(port, "127.0.0.1", () => resume(Effect.succeed(made)))
    }),
    (made) =>
      Effect.callback<void>((resume) => {
        closing = true
        made.close(() => resume(Effect.void))
        made.closeAllConnections()
      })
  )
  const address = server.address()
  return typeof address === "object" && address !== null ? address.port : port
})
