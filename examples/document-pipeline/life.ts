/** The first process of the live run: works the inbox, and kills itself right after a write that nobody knows of yet. */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Effect, Layer, Option, References } from "effect"
import { Command, Flag } from "effect/cli"
import * as Ledger from "./Ledger.ts"
import { brisk, inbox, world } from "./live.ts"
import * as Report from "./report.ts"

/** SIGKILL cannot be caught: no finalizer runs, nothing is flushed. */
const killing = (atWrite: number) => {
  let writes = 0
  const pass = Effect.sync(() => {
    if (++writes === atWrite) process.kill(process.pid, "SIGKILL")
  })
  return Layer.effect(
    Ledger.Ledger,
    Ledger.Ledger.use((ledger) =>
      Effect.succeed({ ...ledger, write: (entry) => Effect.tap(ledger.write(entry), () => pass) })
    )
  )
}

const main = Command.make(
  "document-pipeline-life",
  {
    data: Flag.String("data"),
    providerUrl: Flag.String("provider-url"),
    schema: Flag.String("schema").pipe(Flag.optional),
    killAtWrite: Flag.Int("kill-at-write")
  },
  Effect.fnUntraced(function*({ data, killAtWrite, providerUrl, schema }) {
    const place = { data, providerUrl, schema: Option.getOrUndefined(schema) }
    yield* Effect.gen(function*() {
      yield* (yield* Ledger.Ledger).open
      yield* Report.workAll(brisk, yield* inbox(data))
    }).pipe(Effect.provide(Layer.provideMerge(killing(killAtWrite), world(place))))
  })
)

main.pipe(
  Command.run({ version: "0.1.0" }),
  Effect.provide(NodeServices.layer),
  Effect.provideService(References.MinimumLogLevel, "Error"),
  NodeRuntime.runMain
)
