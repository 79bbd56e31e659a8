/** A module of the examples as a process of its own. */
import { Effect } from "effect"
import { spawn } from "node:child_process"

/** How a process ended. (Effect's own ChildProcess does not tell by which signal one ended.) */
export interface End {
  readonly code: number | null
  readonly signal: string | null
}

/**
 * Runs a module to its end, with this process's Node options, output and environment, and what is added to that; it is
 * killed where the effect is interrupted.
 */
export const run = (
  module: URL,
  args: ReadonlyArray<string>,
  env: Readonly<Record<string, string>> = {}
): Effect.Effect<End> =>
  Effect.callback<End>((resume, signal) => {
    const life = spawn(process.execPath, [...process.execArgv, module.pathname, ...args], {
      stdio: ["ignore", "inherit", "inherit"],
      env: { ...process.env, ...env },
      signal,
      killSignal: "SIGKILL"
    })
    life.on("error", (error) => resume(signal.aborted ? Effect.interrupt : Effect.die(error)))
    life.on("close", (code, by) => resume(Effect.succeed({ code, signal: by })))
  })
