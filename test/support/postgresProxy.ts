/** A way to PostgreSQL on which, from some moment on, nothing arrives any more, and nobody is told so. */
import { Effect, Redacted } from "effect"
import { databaseUrl } from "./servers.ts"
import { tcpProxy } from "./tcpProxy.ts"

export const postgresProxy = Effect.gen(function*() {
  let swallows = false
  const { cut, url } = yield* tcpProxy(new URL(databaseUrl), 5432, ({ far, near }) => {
    for (const [socket, other] of [[near, far], [far, near]] as const) {
      socket.on("data", (said) => {
        if (!swallows) other.write(said)
      })
    }
  })
  return {
    url: Redacted.make(url),
    /** From now on what is said is swallowed, on connections that are open and on new ones. */
    swallow: Effect.sync(() => {
      swallows = true
    }),
    cut
  }
})
