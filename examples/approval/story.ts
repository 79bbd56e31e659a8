/** The whole story: each line is a process that starts, does its part and ends; only the SQLite file is left between. */
import { Console, Effect, FileSystem, Schema } from "effect"
import { ChildProcess, ChildProcessSpawner } from "effect/process"

class ProcessFailed extends Schema.TaggedError<ProcessFailed>("approval/ProcessFailed")("ProcessFailed", {
  command: Schema.String,
  code: Schema.Int
}) {
  override get message() {
    return `"approval ${this.command}" ended with exit code ${this.code}`
  }
}

const story = [
  ["pay"],
  ["supervise"],
  ["questions"],
  ["approve", "R-2", "--cents", "85000", "--by", "ann"],
  ["reject", "R-3", "--because", "nobody knows them", "--by", "ann"],
  ["work"]
] as const

const main = new URL("main.ts", import.meta.url).pathname

export const program = Effect.gen(function*() {
  const fs = yield* FileSystem.FileSystem
  const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
  const data = yield* fs.makeTempDirectoryScoped({ prefix: "approval-" })
  for (const args of story) {
    yield* Console.log(`$ approval ${args.join(" ")}`)
    const life = ChildProcess.make(process.execPath, [...process.execArgv, main, ...args, "--data", data], {
      stdout: "inherit",
      stderr: "inherit"
    })
    const code = yield* spawner.exitCode(life)
    if (code !== 0) return yield* new ProcessFailed({ command: args.join(" "), code })
  }
}).pipe(Effect.scoped)
