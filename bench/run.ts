/**
 * Runs the benches: `npm run bench` for people, `npm run -s bench -- --json` for programs.
 */
import { Cause, Effect, Exit } from "effect"
import { parseArgs } from "node:util"
import { type Bench, toJsonLines, toTable } from "./support/report.ts"

const benches: Readonly<Record<string, () => Promise<{ readonly bench: Bench }>>> = {
  overhead: () => import("./overhead.ts"),
  checkpoint: () => import("./checkpoint.ts"),
  goodput: () => import("./goodput.ts")
}

const usage = `Usage: npm run bench -- [NAME...] [--json] [--quick]

  NAME     ${Object.keys(benches).join(" | ")}; all of them if none is named
  --json   print one JSON object a measured value, one a line (npm run -s bench keeps npm's own lines out)
  --quick  run everything once or twice to show that it starts; the numbers mean nothing
  --help   print this

checkpoint also measures the peers of bench/package.json, where they are installed: npm --prefix bench ci
`

const fail = (message: string): never => {
  process.stderr.write(`bench: ${message}\n\n${usage}`)
  process.exit(2)
}

const readArguments = () => {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        json: { type: "boolean", default: false },
        quick: { type: "boolean", default: false },
        help: { type: "boolean", default: false }
      }
    })
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error))
  }
}

const { positionals, values: { help, json, quick } } = readArguments()
if (help) {
  process.stdout.write(usage)
  process.exit(0)
}
const unknown = positionals.filter((name) => !Object.hasOwn(benches, name))
if (unknown.length > 0) fail(`there is no bench named ${unknown.map((name) => JSON.stringify(name)).join(", ")}`)

const program = Effect.gen(function*() {
  if (quick) process.stderr.write("--quick: this shows that the benches start, the numbers mean nothing\n")
  for (const [name, load] of Object.entries(benches)) {
    if (positionals.length > 0 && !positionals.includes(name)) continue
    process.stderr.write(`running ${name} ...\n`)
    const { bench } = yield* Effect.promise(load)
    const report = yield* Effect.scoped(bench({ quick }))
    process.stdout.write(json ? toJsonLines(report) : `\n${toTable(report)}`)
  }
})

const stop = new AbortController()
process.once("SIGINT", () => stop.abort())
process.once("SIGTERM", () => stop.abort())
// Whoever reads the output may have seen enough, as `head` has.
process.stdout.on("error", () => stop.abort())

const exit = await Effect.runPromiseExit(program, { signal: stop.signal })
if (Exit.isFailure(exit)) {
  const interrupted = stop.signal.aborted && Cause.hasInterruptsOnly(exit.cause)
  process.stderr.write(interrupted ? "bench: interrupted\n" : `${Cause.pretty(exit.cause)}\n`)
  process.exitCode = interrupted ? 130 : 1
}
