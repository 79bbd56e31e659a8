/** A way to Redis that can be cut, and that can lose an answer. */
import { Effect } from "effect"
import * as net from "node:net"
import { redisUrl } from "./servers.ts"

/**
 * A way to Redis, new with every connection. Between `cut` and `restore` nobody gets through. After `loseAnswer` the next
 * script reaches Redis, and the connection is cut when its answer comes back, before anybody sees it.
 */
export const redisProxy = Effect.gen(function*() {
  const target = new URL(redisUrl)
  const sockets = new Set<net.Socket>()
  const state = { isCut: false, armed: false, lost: 0 }
  const server = net.createServer((near) => {
    if (state.isCut) {
      near.destroy()
      return
    }
    const far = net.connect(Number(target.port || 6379), target.hostname)
    let isLosing = false
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      sockets.add(socket)
      socket.on("error", () => other.destroy())
      socket.on("close", () => {
        sockets.delete(socket)
        other.destroy()
      })
    }
    near.on("data", (request) => {
      if (state.armed && request.includes("EVALSHA")) {
        state.armed = false
        isLosing = true
      }
      far.write(request)
    })
    far.on("data", (answer) => {
      if (!isLosing) {
        near.write(answer)
        return
      }
      state.lost++
      near.destroy()
    })
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
        disconnect()
      })
  )
  const address = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("no port")
  const url = new URL(redisUrl)
  url.hostname = "127.0.0.1"
  url.port = String(address.port)
  return {
    url: url.href,
    cut: Effect.sync(() => {
      state.isCut = true
      disconnect()
    }),
    restore: Effect.sync(() => {
      state.isCut = false
    }),
    loseAnswer: Effect.sync(() => {
      state.armed = true
    }),
    lost: () => state.lost
  }
})
