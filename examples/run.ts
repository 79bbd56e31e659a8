/** Lists the examples, or runs one: `npm run example -- NAME`. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Clock, Console, Effect, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import * as Approval from "./approval/story.ts"
import * as DeskOutage from "./desk-outage.ts"
import * as LettaAgent from "./letta-agent/main.ts"
import * as Outage from "./outage.ts"

class UnknownExample extends Schema.TaggedError<UnknownExample>("examples/UnknownExample")("UnknownExample", {
  name: Schema.String,
  known: Schema.Array(Schema.String)
}) {
  override get message() {
    return `there is no example "${this.name}"; there are: ${this.known.join(", ")}`
  }
}

const examples = [
  {
    name: "desk-outage",
    about: "the support desk's program through a 20-minute outage, on a scripted model and the virtual clock",
    program: Effect.asVoid(DeskOutage.program)
  },
  {
    name: "outage",
    about: "the same agents with and without the governor of their provider, through too much demand and an outage",
    program: Effect.asVoid(Outage.program)
  },
  {
    name: "letta-agent",
    about: "an agent of Letta through a bad evening: the real client against a server on loopback",
    program: Effect.asVoid(LettaAgent.program)
  },
  {
    name: "approval",
    about: "payments wait for approval while no process runs, are decided from other processes, and go on",
    program: Approval.program
  }
] as const

const run = (example: (typeof examples)[number]) =>
  Effect.gen(function*() {
    yield* Console.log(`== ${example.name}: ${example.about}`)
    const started = yield* Clock.currentTimeMillis
    yield* example.program
    yield* Console.log(`(${(yield* Clock.currentTimeMillis) - started} ms of real time)`)
  })

const main = Command.make(
  "example",
  {
    name: Argument.String("name").pipe(Argument.withDescription("the example to run"), Argument.optional),
    all: Flag.Boolean("all").pipe(Flag.withDefault(false), Flag.withDescription("run all of them"))
  },
  Effect.fnUntraced(function*({ all, name }) {
    if (all) return yield* Effect.forEach(examples, run, { discard: true })
    if (name._tag === "None") {
      yield* Console.log("npm run example -- NAME, or -- --all; `npm run demo` is the large one\n")
      return yield* Effect.forEach(examples, ({ about, name }) => Console.log(`  ${name}  ${about}`), { discard: true })
    }
    const example = examples.find((one) => one.name === name.value)
    if (example === undefined) {
      return yield* new UnknownExample({ name: name.value, known: examples.map((one) => one.name) })
    }
    return yield* run(example)
  })
)

main.pipe(Command.run({ version: "0.1.0" }), Effect.provide(NodeServices.layer), NodeRuntime.runMain)
