/** The services that some stores need: where they are, and whether they are there. */
import * as Effect from "effect/Effect"
import * as net from "node:net"

export const databaseUrl = process.env["DATABASE_URL"] ?? "postgres://postgres@127.0.0.1:5432/test"
export const redisUrl = process.env["REDIS_URL"] ?? "redis://127.0.0.1:6379"

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

export const missing = Effect.all({
  PostgreSQL: Effect.map(silence(databaseUrl, 5432), (why) => why && `No PostgreSQL at DATABASE_URL: ${why}`),
  Redis: Effect.map(silence(redisUrl, 6379), (why) => why && `No Redis at REDIS_URL: ${why}`)
})
