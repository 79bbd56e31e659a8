/**
 * An afternoon on the virtual clock: the model is overloaded and answers garbage now and then, the books are down for ten
 * minutes and lose an acknowledgement, the process is killed in the middle, and a person decides the next morning.
 */
import { Clock, Console, Deferred, Effect, Layer, References } from "effect"
import { CheckpointStore, EscalationQueue, Fault, Idempotency, Policy, Telemetry } from "effect-resilience"
import * as NodeSqlite from "effect-resilience/durable/stores/NodeSqlite"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { inVirtualTime } from "../support/virtualTime.ts"
import * as Ledger from "./Ledger.ts"
import { script } from "./model.ts"
import * as Pdf from "./Pdf.ts"
import * as Person from "./person.ts"
import * as Pipeline from "./Pipeline.ts"
import * as Report from "./report.ts"
import { make24, type Sample } from "./samples.ts"

const badModel = (seed: number) =>
  Layer.unwrap(Effect.map(
    FaultPlan.make({
      seed: `model ${seed}`,
      faults: [
        FaultPlan.delay({ by: FaultPlan.logNormal({ median: "3 seconds", p99: "20 seconds" }) }),
        FaultPlan.fail({ probability: 0.1, error: ScriptedModel.fail(Fault.overloaded("5 seconds")) }),
        FaultPlan.fail({ probability: 0.05, error: ScriptedModel.fail(Fault.transient) }),
        FaultPlan.malformed({ probability: 0.1, output: "garbage" })
      ]
    }),
    (plan) => FaultPlan.layerLanguageModel(plan)(ScriptedModel.layer(script))
  ))

const lost = new Ledger.LedgerUnavailable({ problem: "the connection broke", verdict: Fault.ambiguous })
const down = new Ledger.LedgerUnavailable({ problem: "connection refused", verdict: Fault.transient })

/** The books by themselves: what is in them outlives every process. */
const books = Ledger.layer.pipe(Layer.provide(NodeSqlite.layer({ filename: ":memory:" })))

/** What is in the books, how they fail, and when the process dies: with a write that nobody knows of yet. */
const badBooks = (seed: number, dies: { readonly atWrite: number; readonly killed: Deferred.Deferred<void> }) =>
  Layer.effect(
    Ledger.Ledger,
    Effect.gen(function*() {
      const ledger = yield* Ledger.Ledger
      const plan = yield* FaultPlan.make({
        seed: `books ${seed}`,
        faults: [
          FaultPlan.outage({ from: "20 seconds", to: "10 minutes", error: down }),
          FaultPlan.fail({ calls: [2], after: true, error: lost }),
          FaultPlan.delay({ by: "200 millis" })
        ]
      })
      let writes = 0
      return Ledger.Ledger.of({
        ...ledger,
        write: (entry) =>
          ledger.write(entry).pipe(
            Effect.tap(() =>
              Effect.suspend(() =>
                ++writes === dies.atWrite
                  ? Effect.andThen(Deferred.succeed(dies.killed, undefined), Effect.never)
                  : Effect.void
              )
            ),
            FaultPlan.apply(plan, "write")
          )
      })
    })
  ).pipe(Layer.provide(books))

const story = Effect.fnUntraced(function*(samples: ReadonlyArray<Sample>, killed: Deferred.Deferred<void>) {
  const ledger = yield* Ledger.Ledger
  yield* ledger.open
  let circuitOpened = 0
  const workAll = Report.workAll(Pipeline.patient, samples).pipe(
    Effect.provideService(Telemetry.Listener, (event) => {
      if (event._tag === "CircuitChanged" && event.key === "books" && event.to === "Open") circuitOpened++
    }),
    // Each life of the process has guards of its own, which know nothing yet.
    Effect.provide(Policy.layer, { local: true })
  )
  const minutes = Effect.map(Clock.currentTimeMillis, (now) => `${(now / 60_000).toFixed(1)} virtual minutes`)

  yield* Effect.raceFirst(workAll, Deferred.await(killed))
  const entriesAtKill = yield* ledger.entries
  const askedBeforeKill = (yield* ScriptedModel.requests).length
  yield* Console.log(
    `the process is killed after ${yield* minutes}, with ${entriesAtKill.length} entries in the books`
  )
  const second = yield* workAll
  const waiting = second.filter(({ _tag }) => _tag === "Waiting").length
  yield* Console.log(
    `a second one goes on where it was, and is done after ${yield* minutes}; the circuit of the books opened ` +
      `${circuitOpened} times, and ${waiting} documents wait for a person:`
  )
  yield* Effect.sleep("14 hours")
  yield* Person.decideAll(samples)
  const askedBeforeDecisions = (yield* ScriptedModel.requests).length
  const ended = yield* workAll
  const report = yield* Report.make(samples, ended)
  yield* Effect.forEach(report.lines, (line) => Console.log(line), { discard: true })
  const requests = yield* ScriptedModel.requests
  return {
    report,
    ended,
    entries: yield* ledger.entries,
    entriesAtKill,
    waitingBefore: waiting,
    circuitOpened,
    /** What the model was asked by the later lives, and after the decisions. */
    askedAfterKill: requests.slice(askedBeforeKill).map(({ prompt }) => JSON.stringify(prompt.content)),
    askedAfterDecisions: requests.length - askedBeforeDecisions
  }
})

export const run = Effect.fnUntraced(
  function*(seed: number) {
    const samples = yield* make24(seed)
    const killed = yield* Deferred.make<void>()
    const pages = yield* Layer.build(Pdf.layerReadBefore(samples))
    const world = Layer.mergeAll(
      badModel(seed),
      badBooks(seed, { atWrite: 4, killed }),
      CheckpointStore.layerMemory,
      EscalationQueue.layerMemory,
      Idempotency.layerMemory,
      Layer.succeedContext(pages)
    )
    const result = yield* inVirtualTime(Effect.provide(story(samples, killed), world), seed)
    return { ...result, samples }
  },
  Effect.scoped,
  Effect.provideService(References.MinimumLogLevel, "Error")
)
