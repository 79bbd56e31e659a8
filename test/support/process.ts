/**
 * Processes of their own that run a module of this repository from its source, heard line by line, and ended as a
 * machine ends them.
 */
import { type Cause, Deferred, Effect, Queue, type Scope } from "effect"
import { spawn } from "node:child_process"
import * as os from "node:os"
import * as path from "node:path"
import { StringDecoder } from "node:string_decoder"

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  /** What it wrote to its standard error. */
  readonly errors: string
}

export interface Process {
  /** The whole lines of its standard output. They end when nobody writes to it any more. */
  readonly lines: Queue.Dequeue<string, Cause.Done>
  readonly ended: Effect.Effect<Ended>
  readonly signal: (signal: NodeJS.Signals) => Effect.Effect<void>
}

/** Starts a process, which is killed with its scope if it still runs then. */
export const start = (
  module: string,
  args: ReadonlyArray<string>
): Effect.Effect<Process, never, Scope.Scope> =>
  Effect.gen(function*() {
    const lines = yield* Queue.unbounded<string, Cause.Done>()
    const ended = yield* Deferred.make<Ended>()
    const child = yield* Effect.acquireRelease(
      Effect.sync(() =>
        spawn(process.execPath, ["--conditions=effect-resilience-source", module, ...args], {
          stdio: ["ignore", "pipe", "pipe"],
          // Most of a short life is loading: the compiled modules are kept from one life to the next.
          env: { ...process.env, NODE_COMPILE_CACHE: path.join(os.tmpdir(), "effect-resilience-compile-cache") }
        })
      ),
      (child) =>
        Effect.andThen(
          Effect.sync(() => child.kill("SIGKILL")),
          child.pid === undefined ? Effect.void : Deferred.await(ended)
        )
    )
    let errors = ""
    let rest = ""
    const decoder = new StringDecoder("utf8")
    child.stderr.on("data", (chunk: Buffer) => errors += chunk.toString())
    child.stdout.on("data", (chunk: Buffer) => {
      const whole = (rest + decoder.write(chunk)).split("\n")
      rest = whole.pop() ?? ""
      Queue.offerAllUnsafe(lines, whole)
    })
    child.on("error", (error) => {
      Queue.endUnsafe(lines)
      Deferred.doneUnsafe(ended, Effect.die(error))
    })
    child.on("close", (code, signal) => {
      Queue.endUnsafe(lines)
      Deferred.doneUnsafe(ended, Effect.succeed({ code, signal, errors }))
    })
    return {
      lines,
      ended: Deferred.await(ended),
      signal: (signal) => Effect.sync(() => void child.kill(signal))
    }
  })
