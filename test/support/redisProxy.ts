/** A way to Redis that can be cut, and that can lose an answer. */
import { Effect } from "effect"
import { redisUrl } from "./servers.ts"
import { tcpProxy } from "./tcpProxy.ts"

/**
 * A way to Redis, new with every connection. Between `cut` and `restore` nobody gets through. After `loseAnswer` the next
 * script reaches Redis, and the connection is cut when its answer comes back, before anybody sees it.
 */
export const redisProxy = Effect.gen(function*() {
  const state = { armed: false, lost: 0 }
  const proxy = yield* tcpProxy(new URL(redisUrl), 6379, ({ far, near }) => {
    let isLosing = false
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
  return {
    ...proxy,
    loseAnswer: Effect.sync(() => {
      state.armed = true
    }),
    lost: () => state.lost
  }
})
