/**
 * A Redis server for benches, of their own: the one for tests need not make a write durable before it acknowledges it.
 */
import { NodeRedis } from "@effect/platform-node"
import { Effect, Layer, Schedule } from "effect"
import { Redis } from "effect/persistence"
import { spawn } from "node:child_process"
import { once } from "node:events"
import { createServer } from "node:net"
import { temporaryFolder } from "./files.ts"
import { LeftOut } from "./journal.ts"

const freePort = Effect.promise(async () => {
  const server = createServer().listen(0, "127.0.0.1")
  await once(server, "listening")
  const address = server.address()
  server.close()
  await once(server, "close")
  return typeof address === "object" && address !== null ? address.port : 0
})

const start = (folder: string, port: number) =>
  Effect.tryPromise({
    try: async () => {
      const settings = { bind: "127.0.0.1", port, dir: folder, save: "", appendonly: "yes", appendfsync: "always" }
      const options = Object.entries(settings).flatMap(([name, value]) => [`--${name}`, String(value)])
      const server = spawn("redis-server", options, { stdio: "ignore" })
      await once(server, "spawn")
      return server
    },
    catch: (cause) => new LeftOut({ reason: `redis-server does not start: ${String(cause)}`, remedy: "install Redis" })
  })

/** The URL of a new server, which writes each command to the disk before it answers. It ends with the scope. */
export const temporaryServer = Effect.gen(function*() {
  const folder = yield* temporaryFolder
  const port = yield* freePort
  yield* Effect.acquireRelease(start(folder, port), (server) =>
    Effect.promise(async () => {
      const ended = once(server, "exit")
      server.kill()
      await ended
    }))
  const url = `redis://127.0.0.1:${port}`
  yield* Effect.retry(Effect.scoped(Layer.build(NodeRedis.layer({ url }))), {
    times: 100,
    schedule: Schedule.spaced("20 millis")
  })
  return url
})

/** What all keys of a server take in memory. */
export const redisBytes = (url: string) =>
  Effect.gen(function*() {
    const redis = yield* Redis.Redis
    const keys = yield* redis.send<ReadonlyArray<string>>("KEYS", "*")
    const sizes = yield* Effect.forEach(keys, (key) => redis.send<number>("MEMORY", "USAGE", key, "SAMPLES", "0"))
    return sizes.reduce((total, size) => total + size, 0)
  }).pipe(Effect.provide(NodeRedis.layer({ url })))
