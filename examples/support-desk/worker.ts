/** One life of the desk: opens the databases, works every ticket that is not done. */
import { Clock, Console, Effect, Layer, type Redacted, References, Schema } from "effect"
import { Checkpoint, CircuitBreaker, EscalationQueue, Telemetry } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import * as Sqlite from "effect-resilience/durable/stores/Sqlite"
import * as Anthropic from "effect-resilience/model/Anthropic"
import * as Crash from "./crash.ts"
import * as Report from "./report.ts"
import * as Shop from "./Shop.ts"
import * as SupportDesk from "./SupportDesk.ts"
import * as Tally from "./Tally.ts"
import { readFolder, type Ticket } from "./Ticket.ts"

export interface Provider {
  readonly apiKey: string | Redacted.Redacted
  readonly baseURL: string | undefined
  readonly patience: SupportDesk.Patience
}

export interface Options {
  readonly provider: Provider
  readonly tickets: string
  readonly data: string
  readonly limit: number | undefined
  readonly crashAt: Crash.CrashPoint | undefined
  /** A person says yes to everything that waits. */
  readonly approve: boolean
}

const model = "claude-opus-5-5"

/** The world of the desk: a real provider over the official SDK, and two SQLite files. */
const world = ({ crashAt, data, provider }: Options) => {
  const impatient = provider.baseURL !== undefined
  const durable = Sqlite.layer({ filename: `${data}/runs.db` })
  const shop = Shop.layer.pipe(Layer.provide(NodeSqlite.layer({ filename: `${data}/shop.db` })))
  return SupportDesk.toolsLayer.pipe(
    Layer.provideMerge(Crash.layer(crashAt).pipe(Layer.provideMerge(Layer.mergeAll(durable, shop)))),
    Layer.provideMerge(CircuitBreaker.layer(impatient ? { openFor: "1 second", successThreshold: 1 } : {})),
    Layer.provideMerge(Anthropic.layer({
      model,
      apiKey: provider.apiKey,
      baseURL: provider.baseURL,
      // The simulated provider answers in milliseconds, so two seconds of silence are a hang.
      ...(impatient ? { responseTimeout: "2 seconds", stallTimeout: "1 second" } : {})
    }))
  )
}

const sign = { done: "✓", escalated: "→", waiting: "…", failed: "✗" } as const

/** The guards that acted for a ticket, in the words of the line on screen. */
const acted = (events: ReadonlyArray<Telemetry.Event>): string => {
  const counts = new Map<string, number>()
  const add = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1)
  for (const event of events) {
    const isOfCut = event._tag === "RetryScheduled" && event.policy === "agent.stream"
    if (event._tag === "RetryScheduled" && event.verdict !== "Rejected" && !isOfCut) add(`retry after ${event.verdict}`)
    if (event._tag === "AnswerCut") add("answer cut off, asked for again")
    if (event._tag === "CircuitRejected") add("circuit refused, waited or fell back")
    if (event._tag === "CircuitChanged") add(`circuit ${event.from} to ${event.to}`)
    if (event._tag === "FallbackUsed") add(`fallback to ${event.source}`)
    if (event._tag === "StepAmbiguous") add("step left unfinished by a crash: looked up, not repeated")
    if (event._tag === "StepCompleted" && event.replayed) add("step remembered")
    if (event._tag === "EscalationOpened") add(`asked a person (${event.reason})`)
  }
  return [...counts].map(([what, count]) => count === 1 ? what : `${count} × ${what}`).join(", ")
}

const isTriage = Schema.is(Schema.Struct({ source: Schema.String }))

/** A ticket that waits has no outcome yet; who did its triage is in its journal. */
const triageSource = Effect.fnUntraced(function*(runId: string) {
  const { records } = yield* Checkpoint.inspect(runId)
  const triage = records.find(({ kind, step }) => kind === "StepSucceeded" && step === "triage")?.value
  return isTriage(triage) ? triage.source : "nobody"
})

const workOne = Effect.fnUntraced(function*(
  work: ReturnType<typeof SupportDesk.make>,
  ticket: Ticket,
  record: (event: Telemetry.Event) => void
) {
  const started = yield* Clock.currentTimeMillis
  const before = yield* Checkpoint.status(`ticket-${ticket.id}`)
  const events: Array<Telemetry.Event> = []
  const ended: Report.Ended = yield* work(ticket).pipe(
    Effect.map(Report.fromOutcome),
    Effect.catchTag(
      "RunSuspended",
      (suspended) =>
        Effect.map(triageSource(suspended.runId), (triageBy): Report.Ended => ({
          ticket: ticket.id,
          status: "waiting",
          reason: /\((\w+)\)/.exec(suspended.reason)?.[1] ?? suspended.reason,
          triageBy,
          answerBy: "nobody yet",
          cost: 0
        }))
    ),
    Effect.catch((error) =>
      Effect.succeed<Report.Ended>({
        ticket: ticket.id,
        status: "failed",
        reason: error.message,
        triageBy: "nobody",
        answerBy: "nobody",
        cost: 0
      })
    ),
    Effect.provideService(Telemetry.Listener, (event) => {
      events.push(event)
      record(event)
    })
  )
  if (before._tag === "Some" && before.value === "completed") return ended
  const seconds = ((yield* Clock.currentTimeMillis) - started) / 1_000
  const guards = acted(events)
  yield* Console.log(
    `${sign[ended.status]} ${ticket.id}  ${ticket.subject.slice(0, 34).padEnd(34)}  ${ended.status.padEnd(9)} ` +
      `${ended.reason === "" ? "" : `${ended.reason}  `}${guards === "" ? "" : `[${guards}]  `}${seconds.toFixed(1)} s`
  )
  return ended
})

export const run = Effect.fn("support-desk.worker")(function*(options: Options) {
  const folder = yield* readFolder(options.tickets)
  const tickets = folder.tickets.slice(0, options.limit)
  const record = Tally.recorder(options.data)

  const program = Effect.gen(function*() {
    const queue = yield* EscalationQueue.EscalationQueue
    if (options.approve) {
      for (const { context, id, task } of yield* queue.list({ status: "open", reason: "IrreversibleAction" })) {
        yield* queue.decide(id, { _tag: "Approve" }, { by: "demo" })
        yield* Console.log(`a person approves: ${task} ${JSON.stringify(context ?? {})}`)
      }
    }
    const finished = (yield* Checkpoint.list({ status: "completed" })).length
    if (finished > 0) yield* Console.log(`${finished} tickets are done already and are not touched again`)
    const work = SupportDesk.make({ model, patience: options.provider.patience })
    const ended = yield* Effect.forEach(tickets, (ticket) => workOne(work, ticket, record(ticket.id)), {
      concurrency: 6
    })
    return { ended, waiting: yield* queue.depth, refunds: yield* (yield* Shop.Shop).refunds }
  })

  // What the warnings say stands in the line of each ticket.
  const result = yield* Effect.provide(program, world(options)).pipe(
    Effect.provideService(References.MinimumLogLevel, "Error")
  )
  return { ...result, unreadable: folder.unreadable }
})
