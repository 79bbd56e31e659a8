/** A way to a server that a test listens in on: what passes, and whether anybody gets through. */
import { Effect } from "effect"
import * as net from "node:net"

export interface Ends {
  readonly near: net.Socket
  readonly far: net.Socket
}

/** `connected` hands on what the two ends of a new connection say. While it is cut nobody gets through. */
export const tcpProxy = Effect.fnUntraced(function*(
  target: URL,
  defaultPort: number,
  connected: (ends: Ends) => void
) {
  const sockets = new Set<net.Socket>()
  let isCut = false
  const server = net.createServer((near) => {
    if (isCut) {
      near.destroy()
      return
    }
    const far = net.connect(Number(target.port || defaultPort), target.hostname)
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      sockets.add(socket)
      socket.on("error", () => other.destroy())
      socket.on("close", () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    connected({ near, far })
  })
  const disconnect = () => {
    for (const socket of sockets) socket.destroy()
  }
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        isCut = true
        disconnect()
      })
  )
  const address = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("no port")
  const url = new URL(target)
  url.hostname = "127.0.0.1"
  url.port = String(address.port)
  return {
    url: url.href,
    /** Ends all connections, and takes no new ones. */
    cut: Effect.sync(() => {
      isCut = true
      disconnect()
    }),
    restore: Effect.sync(() => {
      isCut = false
    })
  }
})
