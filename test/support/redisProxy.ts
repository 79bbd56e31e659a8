/** A way to Redis that loses an answer. */
import { Effect } from "effect"
import * as net from "node:net"
import { redisUrl } from "./redis.ts"

/**
 * A way to Redis, new with every connection. After `loseAnswer` the next script reaches Redis, and the connection is cut
 * when its answer comes back, before anybody sees it.
 */
export const forgetfulProxy = Effect.gen(function*() {
  const target = new URL(redisUrl)
  const sockets = new Set<net.Socket>()
  const state = { armed: false, lost: 0 }
  const server = net.createServer((near) => {
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
  yield* Effect.acquireRelease(
    Effect.callback<void>((resume) => {
      server.listen(0, "127.0.0.1", () => resume(Effect.void))
    }),
    () =>
      Effect.callback<void>((resume) => {
        server.close(() => resume(Effect.void))
        for (const socket of sockets) socket.destroy()
      })
  )
  const address = server.address()
  if (address === null || typeof address === "string") return yield* Effect.die("no port")
  const url = new URL(redisUrl)
  url.hostname = "127.0.0.1"
  url.port = String(address.port)
  return {
    url: url.href,
    loseAnswer: Effect.sync(() => {
      state.armed = true
    }),
    lost: () => state.lost
  }
})
