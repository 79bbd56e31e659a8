/**
 * Redis servers of a test's own, for what must not be done to a shared one: filling it up, making it a replica or part of
 * a cluster, flushing its scripts. Where there is no `redis-server` on the PATH, the suites that need it are skipped and
 * say so.
 */
import { describe } from "@effect/vitest"
import { Effect, type Scope } from "effect"
import { spawn, spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as net from "node:net"
import * as os from "node:os"
import * as path from "node:path"

const isThere = spawnSync("redis-server", ["--version"]).status === 0

/** A suite that starts Redis servers. */
export const describeWithRedisServer = (name: string, suite: () => void): void => {
  if (isThere) {
    describe(name, suite)
    return
  }
  console.warn(`SKIPPED, NOT TESTED: ${name}. There is no redis-server on the PATH`)
  describe.skip(name, suite)
}

const freePort = Effect.callback<number>((resume) => {
  const server = net.createServer().listen(0, "127.0.0.1", () => {
    const address = server.address()
    server.close(() =>
      resume(address === null || typeof address === "string" ? Effect.die("no port") : Effect.succeed(address.port))
    )
  })
})

export interface RedisServer {
  readonly port: number
  readonly url: string
  /** Ends it as a crash does. */
  readonly kill: Effect.Effect<void>
  /** Starts it again on what it has left on the disk. */
  readonly start: Effect.Effect<void>
}

/** A server that ends with the scope, with these settings, as in `--maxmemory 4mb`. */
export const redisServer = Effect.fnUntraced(function*(
  ...settings: ReadonlyArray<string>
): Effect.fn.Return<RedisServer, never, Scope.Scope> {
  const port = yield* freePort
  const folder = yield* Effect.acquireRelease(
    Effect.sync(() => fs.mkdtempSync(path.join(os.tmpdir(), "effect-resilience-redis-"))),
    (folder) => Effect.sync(() => fs.rmSync(folder, { recursive: true }))
  )
  let running: ReturnType<typeof spawn> | undefined
  const start = Effect.callback<void>((resume) => {
    const server = spawn("redis-server", [
      "--port",
      String(port),
      "--bind",
      "127.0.0.1",
      "--dir",
      folder,
      "--save",
      "",
      ...settings
    ])
    running = server
    let log = ""
    server.stdout.on("data", (text) => {
      log += String(text)
      if (log.includes("Ready to accept connections")) resume(Effect.void)
    })
    server.once("exit", () => resume(Effect.die(new Error(`redis-server has ended: ${log}`))))
  })
  const kill = Effect.callback<void>((resume) => {
    if (running === undefined || running.exitCode !== null || running.signalCode !== null) return resume(Effect.void)
    running.once("exit", () => resume(Effect.void))
    running.kill("SIGKILL")
  })
  yield* Effect.acquireRelease(start, () => kill)
  return { port, url: `redis://127.0.0.1:${port}`, kill, start }
})
