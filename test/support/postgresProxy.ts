/** A way to PostgreSQL on which, from some moment on, nothing arrives any more, and nobody is told so. */
import { Effect, Redacted, type Scope } from "effect"
import * as net from "node:net"
import { databaseUrl } from "./servers.ts"

export interface PostgresProxy {
  readonly url: Redacted.Redacted<string>
  /** From now on what is said is swallowed, on connections that are open and on new ones. */
  readonly swallow: Effect.Effect<void>
  /** Ends all connections, and takes no new ones. */
  readonly cut: Effect.Effect<void>
}

export const postgresProxy: Effect.Effect<PostgresProxy, never, Scope.Scope> = Effect.gen(function*() {
  const target = new URL(databaseUrl)
  const sockets = new Set<net.Socket>()
  const state = { swallows: false, isCut: false }
  const server = net.createServer((near) => {
    if (state.isCut) {
      near.destroy()
      return
    }
    const far = net.connect(Number(target.port || 5432), target.hostname)
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      sockets.add(socket)
      socket.on("error", () => other.destroy())
      socket.on("close", () => {
        sockets.delete(socket)
        other.destroy()
      })
      socket.on("data", (said) => {
        if (!state.swallows) other.write(said)
      })
    }
  })
  const disconnect = () => {
    state.isCut = true
    for (const socket of sockets) socket.destroy()
  }
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        disconnect()
      })
  )
  const address = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("no port")
  const url = new URL(databaseUrl)
  url.hostname = "127.0.0.1"
  url.port = String(address.port)
  return {
    url: Redacted.make(url.href),
    swallow: Effect.sync(() => {
      state.swallows = true
    }),
    cut: Effect.sync(disconnect)
  }
})
