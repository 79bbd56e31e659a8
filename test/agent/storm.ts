/**
 * A storm over many agent runs, in virtual time: an afternoon on which the provider limits, fails, is slow, garbles and
 * breaks off, the tools fail and hang, the stores fail, and people decide late or never.
 */
import { Duration, Effect, Layer, Metric, Random, Result, type Scope, Struct } from "effect"
import {
  Agent,
  AgentTools,
  Backoff,
  Bulkhead,
  CircuitBreaker,
  Deadline,
  Fallback,
  Fault,
  Policy,
  Quota,
  Telemetry
} from "effect-resilience"
import { FaultPlan, ScriptedModel } from "effect-resilience/testing"
import { LanguageModel } from "effect/ai"
import { VirtualTime } from "../../bench/goodput/virtualTime.ts"
import { virtually } from "../support/virtually.ts"
import * as BrokenStores from "./brokenStores.ts"
import {
  bump,
  decide,
  dice,
  Down,
  type End,
  type Ended,
  endOf,
  fates,
  isOfTheStore,
  isSuspended,
  type Ledger,
  Lost,
  newLedger,
  plain,
  plainScriptOf,
  type Story,
  storyOf,
  toolkit
} from "./stories.ts"

/** What the afternoon is like, one after the other, and how many minutes for. */
const phases = [
  ["calm", 8],
  ["limited", 15],
  ["outage", 20],
  ["recovery", 7],
  ["brownout", 15],
  ["garbled", 12],
  ["cut", 12],
  ["tools", 12],
  ["stores", 12],
  ["everything", 17],
  ["clearing", 10]
] as const

export type Phase = typeof phases[number][0]

const spans = new Map<Phase, { readonly from: Duration.Input; readonly to: Duration.Input }>()
let minutes = 0
for (const [phase, length] of phases) {
  spans.set(phase, { from: `${minutes} minutes`, to: `${minutes + length} minutes` })
  minutes += length
}

const during = (phase: Phase) => spans.get(phase) ?? { from: 0, to: 0 }

/** The phases that a time of so many milliseconds goes through. */
export const phasesWithin = (from: number, to: number): ReadonlySet<Phase> =>
  new Set([...spans].flatMap(([phase, span]) =>
    from < Duration.toMillis(Duration.fromInputUnsafe(span.to)) &&
      to >= Duration.toMillis(Duration.fromInputUnsafe(span.from))
      ? [phase]
      : []
  ))

const overloaded = ScriptedModel.fail(Fault.overloaded("3 seconds"))
const limited = ScriptedModel.fail(Fault.throttled("5 seconds"))
const down = ScriptedModel.fail(Fault.transient)
const brokenOff = ScriptedModel.fail(Fault.ambiguous)

const everything = during("everything")

const modelFaults = [
  FaultPlan.delay({ by: FaultPlan.logNormal({ median: "1500 millis", p99: "12 seconds" }) }),
  FaultPlan.fail({ ...during("limited"), probability: 0.5, error: limited }),
  FaultPlan.outage({ ...during("outage"), error: down }),
  FaultPlan.delay({ ...during("brownout"), by: FaultPlan.logNormal({ median: "9 seconds", p99: "2 minutes" }) }),
  FaultPlan.fail({ ...during("brownout"), probability: 0.25, error: overloaded }),
  FaultPlan.malformed({ ...during("garbled"), probability: 0.15, output: "garbage" }),
  FaultPlan.malformed({ ...during("garbled"), probability: 0.2, output: "empty" }),
  FaultPlan.malformed({ ...during("garbled"), probability: 0.3, output: "truncated" }),
  FaultPlan.fail({ ...during("cut"), probability: 0.3, after: true, error: brokenOff }),
  FaultPlan.malformed({ ...during("cut"), probability: 0.2, output: "unfinished" }),
  FaultPlan.hang({ ...during("cut"), probability: 0.05, after: true }),
  FaultPlan.fail({ ...everything, probability: 0.2, error: overloaded }),
  FaultPlan.fail({ ...everything, probability: 0.1, after: true, error: brokenOff }),
  FaultPlan.malformed({ ...everything, probability: 0.1, output: "truncated" }),
  FaultPlan.hang({ ...everything, probability: 0.05 })
] as const

const backupFaults = [
  FaultPlan.delay({ by: "4 seconds" }),
  // In the worst of the outage nobody is there.
  FaultPlan.outage({ from: "33 minutes", to: during("outage").to, error: down }),
  FaultPlan.fail({ ...everything, probability: 0.4, error: overloaded })
] as const

const toolFaults = (phase: "tools" | "everything", probability: number) => [
  // Signing has no failures of its own: it dies.
  FaultPlan.fail({ ...during(phase), probability, error: new Down({ at: -1 }) }),
  FaultPlan.fail({ ...during(phase), probability, after: true, keys: ["Pay", "Sign"], error: new Lost({ at: -1 }) }),
  FaultPlan.hang({ ...during(phase), probability: probability / 2 }),
  FaultPlan.hang({ ...during(phase), probability: probability / 2, after: true })
]

const storeFaults: BrokenStores.Weather = (error) =>
  (["stores", "everything"] as const).flatMap((phase) => [
    FaultPlan.fail({ ...during(phase), probability: 0.05, error: error("Unavailable") }),
    FaultPlan.fail({ ...during(phase), probability: 0.05, after: true, error: error("Unavailable") }),
    FaultPlan.hang({ ...during(phase), probability: 0.01 }),
    FaultPlan.delay({ ...during(phase), probability: 0.05, by: "20 seconds" })
  ])

/** Counts what has begun and not ended. */
class CountingTime extends VirtualTime {
  timers = 0
  override after(millis: number, run: () => void): () => void {
    let open = true
    const over = () => {
      if (open) this.timers--
      open = false
    }
    this.timers++
    const cancel = super.after(millis, () => {
      over()
      run()
    })
    return () => {
      over()
      cancel()
    }
  }
}

/** What was heard of one run. */
interface Heard {
  modelCalls: number
  toolCalls: number
  questions: number
  completed: number
}

/** How a run came to its end, and what for. */
export interface Told {
  readonly runId: string
  readonly story: Story
  readonly end: End
  readonly why: string
  readonly ended: Ended | undefined
  readonly ledger: Ledger
  readonly prompts: Array<ScriptedModel.Request>
  /** Whether it had little time. */
  readonly hurried: boolean
  /** Milliseconds since the storm began. */
  readonly from: number
  readonly to: number
  /** How often people said that a call had not happened, so that it was made. */
  readonly again: number
  /** How often a store ended it, to be resumed. */
  readonly hindered: number
  readonly heard: Heard
  readonly modelRecords: number
  readonly status: string | undefined
  readonly leased: boolean
  /** Its questions, and those that nobody has answered. */
  readonly questions: number
  readonly open: number
}

export interface Storm {
  readonly runs: ReadonlyArray<Told>
  readonly events: Readonly<Record<string, number>>
  readonly fallbacks: { readonly heard: number; readonly used: number }
  readonly lost: ReadonlyArray<BrokenStores.Lost>
  /** What is left when all is over. */
  readonly left: {
    readonly fibers: number
    readonly timers: number
    readonly running: number
    readonly reserved: number
    readonly probes: number
  }
}

/** Whether asking once more, later, may help. */
const mayPass = (error: { readonly _tag: string }): boolean =>
  error instanceof Agent.AgentError
    ? error.reason._tag === "BudgetExhausted" || error.reason._tag === "LoopDetected"
    : true

const policy = Policy.make({
  name: "provider",
  deadline: "4 minutes",
  retry: { maxAttempts: 4, backoff: Backoff.fullJitter() },
  quota: { maxWait: "1 minute" },
  bulkhead: { maxConcurrent: 100, maxQueue: 1_000, maxWait: "1 minute" },
  circuit: { failures: 10 },
  timeout: "40 seconds"
})

const agentOf = (
  { budget }: Story,
  wallTime: Duration.Input,
  backup: LanguageModel.LanguageModel,
  answered: () => void
) =>
  Agent.make({
    name: "soaked",
    instructions: "Work.",
    toolkit,
    budget: { iterations: budget, wallTime },
    concurrency: 2,
    policies: {
      model: (self) =>
        Fallback.chain(
          Fallback.step("provider", Policy.apply(self, policy)),
          Fallback.step(
            "backup",
            Effect.tap(
              Deadline.attempt(Effect.provideService(self, LanguageModel.LanguageModel, backup), "40 seconds"),
              () => Effect.sync(answered)
            )
          )
        ).pipe(Effect.map(({ value }) => value)),
      tool: (self) => Deadline.attempt(self, "20 seconds")
    }
  })

const world = Effect.fnUntraced(function*(
  seed: number,
  count: number,
  planted: BrokenStores.Planted
): Effect.fn.Return<
  Omit<Storm, "left"> & { readonly left: Omit<Storm["left"], "fibers" | "timers"> },
  unknown,
  Scope.Scope
> {
  const started = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
  const now = Effect.clockWith((clock) => Effect.map(clock.currentTimeMillis, (millis) => millis - started))

  const ledgers = new Map<string, Ledger>()
  const stories = new Map<string, Story>()
  const prompts = new Map<string, Array<ScriptedModel.Request>>()
  const heard = new Map<string, Heard>()
  const events: Record<string, number> = {}
  let backups = 0

  const get = <A>(all: Map<string, A>, runId: string, make: () => A): A => {
    const known = all.get(runId) ?? make()
    all.set(runId, known)
    return known
  }
  const hear = (event: Telemetry.Event) => {
    events[event._tag] = (events[event._tag] ?? 0) + 1
    if (!("runId" in event) || event.runId === undefined) return
    const of = get(heard, event.runId, () => ({ modelCalls: 0, toolCalls: 0, questions: 0, completed: 0 }))
    if (event._tag === "ModelCalled") of.modelCalls++
    if (event._tag === "ToolCalled") of.toolCalls++
    if (event._tag === "EscalationOpened") of.questions++
    if (event._tag === "RunChanged" && event.status === "completed") of.completed++
  }

  const script = (request: ScriptedModel.Request): ScriptedModel.Answer => {
    const runId = /run-\d+/.exec(JSON.stringify(request.prompt.content.find(({ role }) => role === "user")))?.[0] ?? ""
    get(prompts, runId, () => []).push(request)
    const story = stories.get(runId)
    return story === undefined ? "Whose run is it?" : plainScriptOf(story)(request)
  }
  const modelOf = (seed: string, faults: typeof modelFaults | typeof backupFaults) =>
    FaultPlan.make({ seed, faults }).pipe(
      Effect.map((plan) => FaultPlan.layerLanguageModel(plan)(ScriptedModel.layer(script))),
      Layer.unwrap
    )
  const backup = yield* LanguageModel.LanguageModel.pipe(
    Effect.provide(yield* Layer.build(modelOf(`${seed}/backup`, backupFaults)))
  )

  const toolPlan = yield* FaultPlan.make({
    seed: `${seed}/tools`,
    faults: [...toolFaults("tools", 0.2), ...toolFaults("everything", 0.1)]
  })
  const ofRun = Effect.gen(function*() {
    const runId = (yield* AgentTools.CurrentToolCall)?.runId ?? ""
    const story = stories.get(runId)
    const ledger = get(ledgers, runId, newLedger)
    return { ledger, fate: story === undefined ? () => "works" : fates(story) }
  })
  const handlers = toolkit.toLayer({
    Look: ({ at }) =>
      Effect.flatMap(ofRun, ({ fate }) => fate(at) === "works" ? Effect.succeed(`saw ${at}`) : new Down({ at })).pipe(
        Effect.delay("1 second"),
        FaultPlan.apply(toolPlan, "Look"),
        Effect.catchTag("Lost", () => new Down({ at }))
      ),
    Pay: ({ at }) =>
      Effect.flatMap(ofRun, ({ fate, ledger }): Effect.Effect<string, Down | Lost> => {
        if (fate(at) === "down") return new Down({ at })
        if (fate(at) === "lost") return new Lost({ at })
        bump(ledger.paid, at)
        return fate(at) === "done and lost" ? new Lost({ at }) : Effect.succeed(`paid ${at}`)
      }).pipe(Effect.delay("1 second"), FaultPlan.apply(toolPlan, "Pay")),
    Sign: ({ at }) =>
      Effect.map(ofRun, ({ ledger }) => {
        bump(ledger.signed, at)
        return `signed ${at}`
      }).pipe(Effect.delay("1 second"), FaultPlan.apply(toolPlan, "Sign"), Effect.orDie)
  })

  const stores = yield* BrokenStores.make({ seed, weather: storeFaults, planted })
  const services = yield* Layer.build(
    Layer.mergeAll(stores.process, handlers, modelOf(`${seed}/model`, modelFaults), Policy.layer)
  )

  /** Works a run from its arrival to its end, as whoever operates the agents does. */
  const operate = Effect.fnUntraced(function*(number: number) {
    const runId = `run-${number}`
    const roll = dice(seed * 100_003 + number)
    const story = plain(storyOf(seed * 1_000_003 + number))
    stories.set(runId, story)
    const hurried = roll(3) === 0
    const agent = agentOf(story, hurried ? "15 seconds" : Duration.infinity, backup, () => backups++)
    const decides = (["soon", "soon", "late", "never"] as const)[roll(20) === 0 ? 3 : roll(3)]
    yield* Effect.sleep(Duration.seconds(roll(minutes * 60)))
    const from = yield* now
    let hindered = 0
    let failures = 0
    let again = 0
    let why = ""
    let ended: Ended | undefined
    while (true) {
      const result = yield* Effect.result(Agent.run(agent, { runId, prompt: `Work on ${runId}.` }))
      if (Result.isSuccess(result)) {
        ended = result
        why = result.success.completion === "graceful" ? `budget: ${result.success.budget}` : result.success.completion
        break
      }
      const error = result.failure
      if (isSuspended(error)) {
        if (decides === "never") {
          why = "nobody decides"
          break
        }
        yield* Effect.sleep(Duration.seconds(decides === "soon" ? 30 + roll(120) : 600 + roll(1_800)))
        const decided = yield* Effect.result(decide(story, get(ledgers, runId, newLedger), runId))
        if (Result.isSuccess(decided)) again += decided.success.again
        else hindered++
      } else if (isOfTheStore(error)) {
        hindered++
        yield* Effect.sleep("45 seconds")
      } else if (mayPass(error) && ++failures < 3) yield* Effect.sleep("3 minutes")
      else {
        ended = Result.fail(error)
        why = error instanceof Agent.AgentError ? error.reason._tag : error._tag
        break
      }
    }
    return { runId, story, hurried, why, ended, from, to: yield* now, again, hindered }
  })

  const operated = yield* Effect.forEach(Array.from({ length: count }, (_, n) => n), operate, {
    concurrency: "unbounded"
  }).pipe(
    Effect.provide(services),
    Effect.provideService(Telemetry.Listener, hear)
  )

  // What could not be given back is over by then.
  yield* Effect.sleep("1 hour")
  const millis = yield* Effect.clockWith((clock) => clock.currentTimeMillis)
  const queue = yield* stores.questions
  const questions = Map.groupBy(yield* queue.list({ limit: 1_000_000 }), ({ runId }) => runId)
  const statuses = new Map((yield* stores.runs.list()).map((run) => [run.runId, run]))
  const runs = operated.map((one): Told => {
    const { runId } = one
    const asked = questions.get(runId) ?? []
    const { lease, status } = statuses.get(runId) ?? {}
    return Struct.assign(one, {
      end: one.ended === undefined ? "escalated" : endOf({ asked: asked.length, end: one.ended }),
      ledger: get(ledgers, runId, newLedger),
      prompts: prompts.get(runId) ?? [],
      heard: heard.get(runId) ?? nothingHeard,
      modelRecords: stores.modelRecords.get(runId) ?? 0,
      status,
      leased: lease !== undefined && lease.expiresAt > millis,
      questions: asked.length,
      open: asked.filter(({ status }) => status === "open").length
    })
  })
  return yield* Effect.gen(function*() {
    const sum = (states: ReadonlyArray<{ readonly running: number; readonly waiting: number }>) =>
      states.reduce((total, { running, waiting }) => total + running + waiting, 0)
    const circuits = yield* CircuitBreaker.CircuitBreaker.use(({ states }) => states)
    return {
      runs,
      events,
      fallbacks: { heard: events["FallbackUsed"] ?? 0, used: backups },
      lost: yield* stores.lost,
      left: {
        running: sum(yield* Bulkhead.Bulkhead.use(({ states }) => states)),
        reserved: sum(yield* Quota.Quota.use(({ states }) => states)),
        probes: circuits.filter((state) => state._tag === "HalfOpen" && state.probes > 0).length
      }
    }
  }).pipe(Effect.provide(services))
})

const nothingHeard: Heard = { modelCalls: 0, toolCalls: 0, questions: 0, completed: 0 }

/** Lets so many runs go through the storm. The same seed tells the same story. */
export const storm = (seed: number, count: number, planted: BrokenStores.Planted = {}): Effect.Effect<Storm, unknown> =>
  Effect.suspend(() => {
    const time = new CountingTime()
    let fibers = 0
    const metrics: Metric.FiberRuntimeMetricsService = {
      recordFiberStart: () => {
        fibers++
      },
      recordFiberEnd: () => {
        fibers--
      }
    }
    return Effect.scoped(world(seed, count, planted)).pipe(
      Random.withSeed(seed),
      Effect.provideService(Metric.FiberRuntimeMetrics, metrics),
      (world) => virtually(world, { time }),
      Effect.map(({ left, ...told }) =>
        Struct.assign(told, { left: Struct.assign(left, { fibers, timers: time.timers }) })
      )
    )
  })
