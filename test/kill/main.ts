/**
 * Kills processes in the middle of their runs, and counts what comes of it.
 *
 *     npm run test:kill -- [--kills 300] [--seed 1] [--programs agent] [--store sqlite,postgres] [--pauses 3] [--concurrency 2]
 *     npm run test:kill -- --seed 1 --programs agent --store sqlite --run 17      once more what a violation was found in
 */
import { Cause, Effect, Exit } from "effect"
import { parseArgs } from "node:util"
import * as campaign from "./campaign.ts"
import { programs } from "./programs.ts"
import { available, stores } from "./stores.ts"

const usage = `Usage: npm run test:kill -- [options]

  --kills N        how many processes are killed, of all programs over all stores together, default 300
  --seed N         what is done to which run follows from it, default 1
  --programs A,B   ${Object.keys(programs).join(", ")}; all of them by default
  --store A,B      ${Object.keys(stores).join(", ")}; all of them by default
  --pauses N       how many holders of a lease are paused until it has lapsed, of each program over each
                   store, default 3
  --concurrency N  how many runs are worked at the same time, default 2
  --run N          do only the Nth run of a program over a store once more; with p before it the Nth pause; u for
                   the run that is given up
  --help           print this
`

const fail = (message: string): never => {
  process.stderr.write(`test:kill: ${message}\n\n${usage}`)
  process.exit(2)
}

const readArguments = () => {
  try {
    return parseArgs({
      options: {
        kills: { type: "string", default: "300" },
        seed: { type: "string", default: "1" },
        programs: { type: "string", default: Object.keys(programs).join(",") },
        store: { type: "string", default: Object.keys(stores).join(",") },
        pauses: { type: "string", default: "3" },
        concurrency: { type: "string", default: "2" },
        run: { type: "string" },
        help: { type: "boolean", default: false }
      }
    }).values
  } catch (error) {
    return fail(error instanceof Error ? error.message : String(error))
  }
}

const values = readArguments()
if (values.help) {
  process.stdout.write(usage)
  process.exit(0)
}

const integer = (name: "kills" | "seed" | "pauses" | "concurrency", min: number): number => {
  const value = Number(values[name])
  return Number.isSafeInteger(value) && value >= min ? value : fail(`--${name} ${values[name]} makes no sense`)
}

const names = values.store.split(",")
for (const name of names) {
  if (!Object.hasOwn(stores, name)) fail(`there is no store named ${JSON.stringify(name)}`)
}
const chosen = values.programs.split(",")
for (const name of chosen) {
  if (!Object.hasOwn(programs, name)) fail(`there is no program named ${JSON.stringify(name)}`)
}
if (values.run !== undefined && (names.length !== 1 || chosen.length !== 1)) {
  fail("--run is told of one of --programs and one --store")
}
if (values.run !== undefined && !/^(p?\d+|u)$/.test(values.run)) fail(`--run ${values.run} makes no sense`)

const row = (name: string, cells: ReadonlyArray<string | number>) =>
  `${name.padEnd(26)}${cells.map((cell) => String(cell).padStart(12)).join("")}\n`

const table = (tallies: ReadonlyArray<campaign.Tally>): string => {
  const of = (f: (tally: campaign.Tally) => number) => {
    const cells = tallies.map(f)
    return tallies.length > 1 ? [...cells, cells.reduce((sum, cell) => sum + cell, 0)] : cells
  }
  return [
    row("", [...tallies.map(({ program }) => program), ...(tallies.length > 1 ? ["together"] : [])]),
    row("over", [...tallies.map(({ store }) => store), ...(tallies.length > 1 ? [""] : [])]),
    row("runs", of(({ runs }) => runs)),
    row("lives", of(({ lives }) => lives)),
    row("kills", of(campaign.killsOf)),
    row("  around the store", of(({ kills }) => kills.store)),
    row("  inside the store", of(({ kills }) => kills.inside)),
    row("  around an effect", of(({ kills }) => kills.effect)),
    row("  around a decision", of(({ kills }) => kills.person)),
    row("  at random", of(({ kills }) => kills.random)),
    row("repeated idempotent", of(({ repeats }) => repeats)),
    row("duplicated atMostOnce", of(({ duplicated }) => duplicated)),
    row("acknowledged, then lost", of(({ lost }) => lost)),
    row("reconciled: happened", of(({ reconciled }) => reconciled.happened)),
    row("reconciled: not happened", of(({ reconciled }) => reconciled.notHappened)),
    row("waits for a dead lease", of(({ waits }) => waits)),
    row("waits for a slow store", of(({ hindered }) => hindered)),
    row("paused past their lease", of(({ pauses }) => pauses)),
    row("given up and revived", of(({ givenUp }) => givenUp)),
    row("violations", of(({ violations }) => violations))
  ].join("")
}

const report = (finding: campaign.Finding): string =>
  [
    `VIOLATION of ${finding.program} over ${finding.store}: ${finding.rule}: ${finding.detail}`,
    ...finding.lives.map((life, index) => `  life ${index + 1}: ${life}`),
    `  npm run test:kill -- --seed ${finding.seed} --programs ${finding.program} --store ${finding.store} ` +
    `--run ${finding.run}`,
    ""
  ].join("\n")

const campaigned = Effect.scoped(Effect.gen(function*() {
  const { able, schema } = yield* available(names)
  const orders: campaign.Orders = {
    programs: chosen,
    stores: able,
    seed: integer("seed", 0),
    kills: Math.ceil(integer("kills", 1) / Math.max(1, able.length * chosen.length)),
    pauses: integer("pauses", 0),
    givenUp: true,
    schema,
    concurrency: integer("concurrency", 1),
    noted: (tally, findings) => {
      process.stderr.write(
        `${tally.program} over ${tally.store}: ${tally.runs} runs, ${campaign.killsOf(tally)} kills\n`
      )
      process.stdout.write(findings.map(report).join("\n"))
    }
  }
  const [[store], [program]] = [able, chosen]
  const started = performance.now()
  const { findings, tallies } = values.run === undefined || store === undefined || program === undefined
    ? yield* campaign.run(orders)
    : yield* campaign.again(orders, program, store, values.run)
  process.stdout.write(
    `\n${table(tallies)}\nseed ${orders.seed}, ${((performance.now() - started) / 1_000).toFixed(0)} s\n`
  )
  process.exitCode = findings.length === 0 ? 0 : 1
}))

const stop = new AbortController()
process.once("SIGINT", () => stop.abort())
process.once("SIGTERM", () => stop.abort())

const exit = await Effect.runPromiseExit(campaigned, { signal: stop.signal })
if (Exit.isFailure(exit)) {
  const interrupted = Cause.hasInterruptsOnly(exit.cause)
  if (!interrupted) process.stderr.write(`${Cause.pretty(exit.cause)}\n`)
  process.exitCode = interrupted ? 130 : 1
}
