/**
 * The support desk: an agent works a folder of tickets through a provider that misbehaves, is killed half way, goes on
 * where it was, and loses nothing.
 *
 *     npm run demo                                        the whole show: storm, kill and resume
 *     npm run demo -- --seed 1 --storm none|mild|severe
 *     npm run demo -- --crash-at 40                       one life that ends with SIGKILL at its 40th boundary
 *     npm run demo -- --crash-at-refund 3                 the same, counting only the boundaries around refunds
 *     npm run demo -- --resume                            the life after it
 *     npm run demo -- --approve                           a person approves what waits, and the desk goes on
 *
 * With ANTHROPIC_API_KEY it talks to the real API, without it to a simulated model on loopback.
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Clock, Config, Console, Effect, FileSystem, Option, Path, Redacted, References, Schema } from "effect"
import * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { Command, Flag } from "effect/cli"
import * as ChildProcess from "../support/childProcess.ts"
import type { CrashPoint } from "./crash.ts"
import { answer, weather } from "./models.ts"
import * as Report from "./report.ts"
import { brisk, patient } from "./SupportDesk.ts"
import * as Tally from "./Tally.ts"
import { readFolder } from "./Ticket.ts"
import * as Worker from "./worker.ts"

class Unfinished extends Schema.TaggedError<Unfinished>("support-desk/Unfinished")("Unfinished", {
  problem: Schema.String
}) {
  override get message() {
    return this.problem
  }
}

const flags = {
  seed: Flag.Int("seed").pipe(
    Flag.withDefault(1),
    Flag.withDescription("seed of the storm, and of where the kill falls")
  ),
  storm: Flag.Literals("storm", ["none", "mild", "severe"]).pipe(
    Flag.withDefault("severe"),
    Flag.withDescription("how badly the simulated provider behaves")
  ),
  crashAt: Flag.Int("crash-at").pipe(
    Flag.optional,
    Flag.withDescription("kill this process with SIGKILL at its Nth boundary (a write of the journal, a refund)")
  ),
  crashAtRefund: Flag.Int("crash-at-refund").pipe(
    Flag.optional,
    Flag.withDescription("the same, counting only the boundaries before and after a refund")
  ),
  resume: Flag.Boolean("resume").pipe(
    Flag.withDefault(false),
    Flag.withDescription("go on where a killed life was; without it a finished or missing run starts anew")
  ),
  fresh: Flag.Boolean("fresh").pipe(
    Flag.withDefault(false),
    Flag.withDescription("throw away what an earlier run left in the data folder")
  ),
  approve: Flag.Boolean("approve").pipe(
    Flag.withDefault(false),
    Flag.withDescription("play the person: approve the refunds that wait, and go on")
  ),
  limit: Flag.Int("limit").pipe(Flag.optional, Flag.withDescription("work only the first N tickets")),
  simulated: Flag.Boolean("simulated").pipe(
    Flag.withDefault(false),
    Flag.withDescription("use the simulated model even where ANTHROPIC_API_KEY is set")
  ),
  tickets: Flag.String("tickets").pipe(
    Flag.withDefault(new URL("tickets", import.meta.url).pathname),
    Flag.withDescription("the folder of the tickets, a file ending in .md each")
  ),
  data: Flag.String("data").pipe(
    Flag.withDefault(".support-desk"),
    Flag.withDescription("the folder of the databases")
  ),
  providerUrl: Flag.String("provider-url").pipe(
    Flag.optional,
    Flag.withDescription("work one life against a simulated provider that is running already (used by the show)")
  )
}

const simulated = (baseURL: string): Worker.Provider => ({ apiKey: "simulated", baseURL, patience: brisk })

const finishedFile = "finished"

/** What went wrong in a line, and the exit code that says so. A stack trace would tell a user nothing. */
const complain = (error: Error): Effect.Effect<void> =>
  Effect.andThen(
    Console.error(`support-desk: ${error.message}`),
    Effect.sync(() => {
      process.exitCode = 1
    })
  )

type Settings = Command.Command.Config.Infer<typeof flags>

const startServer = ({ seed, storm }: Pick<Settings, "seed" | "storm">) =>
  ProviderServer.make({
    answer,
    seed,
    faults: weather(seed, storm),
    latency: { min: "10 millis", max: "60 millis" }
  })

const crashPoint = ({ crashAt, crashAtRefund }: Settings): CrashPoint | undefined =>
  Option.isSome(crashAt)
    ? { of: "all", at: crashAt.value }
    : Option.isSome(crashAtRefund)
    ? { of: "refunds", at: crashAtRefund.value }
    : undefined

const lifeOptions = (settings: Settings, provider: Worker.Provider): Worker.Options => ({
  provider,
  tickets: settings.tickets,
  data: settings.data,
  limit: Option.getOrUndefined(settings.limit),
  crashAt: crashPoint(settings),
  approve: settings.approve
})

const banner = (settings: Settings, real: boolean) =>
  Console.log(
    real
      ? "support desk · the real Anthropic API"
      : `support desk · simulated model (its answers are computed from the ticket by rules), storm ${settings.storm}, ` +
        `seed ${settings.seed}`
  )

/** Refuses what cannot be meant, before anything is touched. */
const check = Effect.fnUntraced(function*({ crashAt, crashAtRefund, limit, tickets }: Settings) {
  for (const [flag, value] of [["limit", limit], ["crash-at", crashAt], ["crash-at-refund", crashAtRefund]] as const) {
    if (Option.isSome(value) && value.value < 1) {
      return yield* new Unfinished({ problem: `--${flag} ${value.value} makes no sense, it counts from 1` })
    }
  }
  const folder = yield* readFolder(tickets)
  if (folder.tickets.length === 0) {
    return yield* new Unfinished({ problem: `there is no ticket in "${tickets}" (a ticket is a file ending in .md)` })
  }
})

/** Chooses between going on and starting anew, and says which. */
const prepare = Effect.fnUntraced(function*({ data, fresh, resume, approve }: Settings) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const exists = yield* fs.exists(path.join(data, "runs.db"))
  const finished = yield* fs.exists(path.join(data, finishedFile))
  const goOn = resume || approve
  if (goOn && !exists) {
    return yield* new Unfinished({
      problem: `there is nothing to go on with in "${data}": run the demo without --resume`
    })
  }
  if (exists && (fresh || (finished && !goOn))) {
    yield* Console.log(`starting anew: what ${finished ? "the finished run" : "a run"} left in "${data}" is removed`)
    for (const file of yield* fs.readDirectory(data)) {
      if (/^(runs|shop)\.db|^events\.jsonl$|^finished$/.test(file)) {
        yield* fs.remove(path.join(data, file))
      }
    }
  } else if (exists) {
    yield* fs.remove(path.join(data, finishedFile), { force: true })
    yield* Console.log(`going on with what is in "${data}"`)
  }
  yield* fs.makeDirectory(data, { recursive: true })
})

const conclude = Effect.fnUntraced(function*(
  settings: Settings,
  result: Effect.Success<ReturnType<typeof Worker.run>>,
  started: number,
  server: ProviderServer.ProviderServer["Service"] | undefined
) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const seconds = ((yield* Clock.currentTimeMillis) - started) / 1_000
  const tally = yield* Tally.read(settings.data)
  yield* Console.log(
    `\n${Report.summary(result.ended, tally, result.refunds, result.waiting, result.unreadable.length, seconds)}`
  )
  for (const problem of result.unreadable) yield* Console.log(`\n${problem.message}`)
  const failed = result.ended.filter(({ status }) => status === "failed").length
  let unknown = 0
  if (server !== undefined) {
    const report = Report.faults(yield* server.requests, yield* server.stats, result.ended)
    yield* Console.log(`\nwhat the simulated provider did, and what became of it\n${report.text}`)
    unknown = report.unknown
  }
  if (failed > 0) return yield* new Unfinished({ problem: `${failed} tickets are not accounted for` })
  if (result.unreadable.length > 0) {
    return yield* new Unfinished({
      problem: `${result.unreadable.length} files could not be read as tickets, mend or remove them`
    })
  }
  if (unknown > 0) return yield* new Unfinished({ problem: `the fate of ${unknown} injected faults is not known` })
  yield* fs.writeFileString(path.join(settings.data, finishedFile), "")
  yield* Console.log("\nevery ticket is accounted for")
})

const main = Command.make(
  "support-desk",
  flags,
  Effect.fn("support-desk")(
    function*(settings) {
      const started = yield* Clock.currentTimeMillis
      const key = yield* Config.Redacted("ANTHROPIC_API_KEY").pipe(Config.option)
      const real = Option.isSome(key) && Redacted.value(key.value) !== "" && !settings.simulated
      const oneLife = (provider: Worker.Provider) => Worker.run(lifeOptions(settings, provider))

      if (Option.isSome(settings.providerUrl)) {
        yield* oneLife(simulated(settings.providerUrl.value))
        return
      }
      yield* banner(settings, real)
      yield* check(settings)
      yield* prepare(settings)
      if (real) {
        const provider: Worker.Provider = { apiKey: key.value, baseURL: undefined, patience: patient }
        return yield* conclude(
          settings,
          yield* oneLife(provider),
          started,
          undefined
        )
      }
      const server = yield* startServer(settings)
      const provider = simulated(server.url)
      if (crashPoint(settings) === undefined && !settings.resume && !settings.approve) {
        yield* killedLife(settings, server.url)
      }
      return yield* conclude(settings, yield* oneLife(provider), started, server)
    },
    Effect.scoped,
    Effect.catch(complain)
  )
)

/** The first life of the show: a process of its own, which kills itself half way. The provider lives on. */
const killedLife = Effect.fnUntraced(function*(settings: Settings, url: string) {
  const end = yield* ChildProcess.run(new URL(import.meta.url), [
    `--provider-url=${url}`,
    `--data=${settings.data}`,
    `--tickets=${settings.tickets}`,
    `--crash-at=${60 + Math.abs(settings.seed * 37) % 80}`,
    ...(Option.isSome(settings.limit) ? [`--limit=${settings.limit.value}`] : [])
  ])
  if (end.signal === "SIGKILL") {
    yield* Console.log("the first life was killed; a second one goes on where it was")
    return
  }
  if (end.code !== 0) {
    return yield* new Unfinished({ problem: `the first life ended by itself, with exit code ${end.code}` })
  }
  yield* Console.log("the first life came to its end before the kill; a second one finds nothing to do")
})

main.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provide(NodeServices.layer),
  Effect.provideService(References.MinimumLogLevel, "Warn"),
  NodeRuntime.runMain
)
