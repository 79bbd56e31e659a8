/** The services that some stores need: where they are, and whether they are there. */
import * as Effect from "effect/Effect"
import * as Redacted from "effect/Redacted"
import * as net from "node:net"
import { databaseUrl, redisUrl } from "../support/servers.ts"

/** For processes of short lives, on a machine that is busy with them. */
export const connection = {
  url: Redacted.make(databaseUrl),
  maxConnections: 2,
  connectTimeout: "1 minute"
} as const

/** Why nobody listens there, or undefined if somebody does. */
const silence = (url: string, port: number): Effect.Effect<string | undefined> =>
  Effect.callback((resume) => {
    const { hostname, port: given } = new URL(url)
    const socket = net.connect({ host: hostname, port: given === "" ? port : Number(given), timeout: 1_000 })
    const end = (why: string | undefined) => {
      socket.destroy()
      resume(Effect.succeed(why))
    }
    socket.on("connect", () => end(undefined))
    socket.on("timeout", () => end(`Nobody answers at ${hostname}`))
    socket.on("error", (error) => end(String(error)))
  })

export type Service = "PostgreSQL" | "Redis"

/** Why a service cannot be used. In CI, where every service has to be there, it is used all the same, and fails. */
export const missing: Effect.Effect<Readonly<Partial<Record<Service, string>>>> = Effect.gen(function*() {
  if (process.env["CI"] === "true") return {}
  const postgres = yield* silence(databaseUrl, 5432)
  const redis = yield* silence(redisUrl, 6379)
  return {
    ...(postgres === undefined ? {} : { PostgreSQL: `No PostgreSQL at DATABASE_URL: ${postgres}` }),
    ...(redis === undefined ? {} : { Redis: `No Redis at REDIS_URL: ${redis}` })
  }
})
