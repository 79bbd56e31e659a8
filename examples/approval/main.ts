/**
 * Payments that people approve, each command a process of its own over one SQLite file.
 *
 *     npm run example -- approval                        the whole story
 *     D="node --conditions=effect-resilience-source examples/approval/main.ts"
 *     $D pay                                             starts a run for each invoice, and ends
 *     $D supervise                                       a program decides what it may, and ends
 *     $D questions                                       what is left to people
 *     $D approve R-2 --cents 85000 --by ann              a person approves, here with other terms
 *     $D reject R-3 --because "who is that?" --by ann
 *     $D work                                            resumes runs as they are decided, until all are done
 */
import { NodeRuntime, NodeServices } from "@effect/platform-node"
import { Console, Effect, FileSystem, Layer, References, Schema } from "effect"
import { Checkpoint, EscalationQueue } from "effect-resilience"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import { Argument, Command, Flag } from "effect/cli"
import * as Books from "./Books.ts"
import { euros, type Invoice, invoices, pay, runOf } from "./Payments.ts"
import * as Supervisor from "./Supervisor.ts"

class NoSuchQuestion extends Schema.TaggedError<NoSuchQuestion>("approval/NoSuchQuestion")("NoSuchQuestion", {
  invoice: Schema.String
}) {
  override get message() {
    return `nobody asks about invoice "${this.invoice}"; see the questions`
  }
}

const data = Flag.String("data").pipe(
  Flag.withDefault(".approval"),
  Flag.withDescription("the folder of the database")
)
const by = Flag.String("by").pipe(Flag.withDefault("somebody"), Flag.withDescription("who decides"))
const invoiceId = Argument.String("invoice").pipe(Argument.withDescription("the invoice that is asked about"))

const world = (data: string) =>
  Layer.unwrap(
    Effect.as(
      FileSystem.FileSystem.use((fs) => fs.makeDirectory(data, { recursive: true })),
      Books.layer.pipe(Layer.provideMerge(Sqlite.layer({ filename: `${data}/payments.db` })))
    )
  )

const inWorld = <A, E, R>(data: string, effect: Effect.Effect<A, E, R>) => Effect.provide(effect, world(data))

/** Runs one invoice until it is paid, refused, or waits. */
const work = (invoice: Invoice) =>
  pay(invoice).pipe(
    Effect.flatMap(Console.log),
    Effect.catchTag("RunSuspended", ({ reason }) => Console.log(`${invoice.id}: ${reason}`))
  )

const decideOn = Effect.fnUntraced(function*(
  invoice: string,
  decision: EscalationQueue.Decision,
  by: string
) {
  const queue = yield* EscalationQueue.EscalationQueue
  const [asked] = yield* queue.list({ runId: runOf(invoice), status: "open" })
  if (asked === undefined) return yield* new NoSuchQuestion({ invoice })
  yield* queue.decide(asked.id, decision, { by })
  yield* Console.log(`${by} decides: ${decision._tag}, ${asked.task}`)
})

const commands = [
  Command.make(
    "pay",
    { data },
    ({ data }) => inWorld(data, Effect.forEach(invoices, work, { discard: true }))
  ),
  Command.make("supervise", { data }, ({ data }) => inWorld(data, Supervisor.superviseOnce(Supervisor.rules))),
  Command.make("questions", { data }, ({ data }) =>
    inWorld(
      data,
      EscalationQueue.EscalationQueue.use((queue) =>
        Effect.flatMap(
          queue.list({ status: "open" }),
          Effect.forEach(({ task }) => Console.log(task), { discard: true })
        )
      )
    )),
  Command.make(
    "approve",
    { data, by, invoiceId, cents: Flag.Int("cents").pipe(Flag.withDefault(0)) },
    ({ by, cents, data, invoiceId }) =>
      inWorld(
        data,
        decideOn(invoiceId, cents === 0 ? { _tag: "Approve" } : { _tag: "Approve", arguments: { cents } }, by)
      )
  ),
  Command.make(
    "reject",
    { data, by, invoiceId, because: Flag.String("because").pipe(Flag.withDefault("no reason was given")) },
    ({ because, by, data, invoiceId }) => inWorld(data, decideOn(invoiceId, { _tag: "Reject", reason: because }, by))
  ),
  Command.make("work", { data }, ({ data }) => inWorld(data, workUntilAllAreDone))
] as const

const workUntilAllAreDone = Effect.gen(function*() {
  const invoiceOf = new Map(invoices.map((invoice) => [runOf(invoice.id), invoice]))
  const unfinished = Effect.map(Checkpoint.list(), (runs) => runs.filter(({ status }) => status !== "completed").length)
  const resuming = EscalationQueue.resumeRuns({
    only: ({ runId = "" }) => invoiceOf.has(runId),
    resume: (runId) => {
      const invoice = invoiceOf.get(runId)
      return invoice === undefined ? Effect.void : work(invoice)
    },
    interval: "1 second"
  })
  const noneLeft = unfinished.pipe(Effect.delay("100 millis"), Effect.repeat({ until: (left) => left === 0 }))
  yield* Effect.raceFirst(resuming, noneLeft)
  const payments = yield* (yield* Books.Books).payments
  yield* Console.log(`in the books: ${payments.map(({ cents, invoice }) => `${invoice} ${euros(cents)}`).join(", ")}`)
})

/** What went wrong in a line, and the exit code that says so. */
const complain = (error: Error): Effect.Effect<void> =>
  Effect.andThen(
    Console.error(`approval: ${error.message}`),
    Effect.sync(() => {
      process.exitCode = 1
    })
  )

Command.make("approval").pipe(
  Command.withSubcommands(commands),
  Command.run({ version: "0.1.0" }),
  Effect.catch(complain),
  Effect.provide(NodeServices.layer),
  Effect.provideService(References.MinimumLogLevel, "Warn"),
  NodeRuntime.runMain
)
