/** Lists the examples, or runs one or all of them, live or on the virtual clock. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Clock, Console, Effect, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Approval from "./approval/example.ts"
import * as DeskOutage from "./desk-outage.ts"
import * as DocumentPipeline from "./document-pipeline/example.ts"
import * as LettaAgent from "./letta-agent/example.ts"
import * as Outage from "./outage.ts"
import * as Research from "./research/example.ts"
import * as SupportDesk from "./support-desk/example.ts"
import type { Example } from "./support/Example.ts"

class UnknownExample extends Schema.TaggedError<UnknownExample>("examples/UnknownExample")("UnknownExample", {
  name: Schema.String,
  known: Schema.Array(Schema.String)
}) {
  override get message() {
    return `there is no example "${this.name}"; there are: ${this.known.join(", ")}`
  }
}

const examples: ReadonlyArray<Example> = [
  SupportDesk.example,
  DocumentPipeline.example,
  Research.example,
  Approval.example,
  LettaAgent.example,
  DeskOutage.example,
  Outage.example
]

interface Settings {
  readonly virtual: boolean
  readonly seed: number
}

const run = ({ seed, virtual }: Settings) => (example: Example) =>
  Effect.gen(function*() {
    yield* Console.log(`== ${example.name}, ${virtual ? "in virtual time" : "live"}, seed ${seed}: ${example.about}`)
    const started = yield* Clock.currentTimeMillis
    yield* virtual ? example.virtual(seed) : example.live(seed)
    yield* Console.log(`(${(yield* Clock.currentTimeMillis) - started} ms of real time)\n`)
  })

const main = Command.make(
  "example",
  {
    name: Argument.String("name").pipe(Argument.withDescription("the example to run"), Argument.optional),
    all: Flag.Boolean("all").pipe(Flag.withDefault(false), Flag.withDescription("run all of them")),
    virtual: Flag.Boolean("virtual").pipe(
      Flag.withDefault(false),
      Flag.withDescription("on the virtual clock, with everything scripted; without it live, over loopback")
    ),
    seed: Flag.Int("seed").pipe(Flag.withDefault(1), Flag.withDescription("of everything that is drawn"))
  },
  Effect.fnUntraced(function*({ all, name, ...settings }) {
    if (all) return yield* Effect.forEach(examples, run(settings), { discard: true })
    if (name._tag === "None") {
      const width = Math.max(...examples.map((one) => one.name.length))
      yield* Console.log("npm run example -- NAME [--virtual] [--seed n], or -- --all [--virtual]\n")
      return yield* Effect.forEach(
        examples,
        ({ about, name }) => Console.log(`  ${name.padEnd(width)}  ${about}`),
        { discard: true }
      )
    }
    const example = examples.find((one) => one.name === name.value)
    if (example === undefined) {
      return yield* new UnknownExample({ name: name.value, known: examples.map((one) => one.name) })
    }
    return yield* run(settings)(example)
  })
)

/** What went wrong in a line, and the exit code that says so. A stack trace would tell a user nothing. */
const complain = (error: { readonly message: string }): Effect.Effect<void> =>
  Effect.andThen(
    Console.error(`example: ${error.message}`),
    Effect.sync(() => {
      process.exitCode = 1
    })
  )

main.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.catch(complain),
  Effect.provide(NodeServices.layer),
  NodeRuntime.runMain
)
