/** Stores in memory that fail as told, and what they have acknowledged, to see that none of it is lost. */
import { Effect, Layer, type Scope } from "effect"
import { CheckpointStore, EscalationQueue, Idempotency } from "effect-resilience"
import { FaultPlan } from "effect-resilience/testing"

/** Why a store says that it cannot. */
export type Why = "Unavailable" | "Rejected"

type Rules<E> = ReadonlyArray<FaultPlan.Rule<E>>

/** What happens to the operations of a store: `append`, `insert`, `put` and the like are their keys. */
export type Weather = <E>(error: (why: Why) => (call: FaultPlan.Call) => E) => Rules<E>

export const writes = ["acquire", "renew", "release", "append", "insert", "replace", "put"]
export const reads = ["read", "get", "find", "select"]

/** Something acknowledged that is not there. */
export interface Lost {
  readonly what: "record" | "decision" | "result"
  readonly detail: string
}

export interface Stores {
  /** What a process has of them. */
  readonly process: Layer.Layer<
    CheckpointStore.CheckpointStore | EscalationQueue.EscalationQueue | Idempotency.Idempotency
  >
  /** The same without faults, for whoever looks. */
  readonly runs: CheckpointStore.CheckpointStore["Service"]
  readonly questions: Effect.Effect<EscalationQueue.EscalationQueue["Service"], never, Scope.Scope>
  /** How often each operation failed, hung or was slow. */
  readonly faults: Effect.Effect<number>
  readonly lost: Effect.Effect<
    ReadonlyArray<Lost>,
    CheckpointStore.CheckpointStoreError | EscalationQueue.EscalationError | Idempotency.IdempotencyStoreError
  >
  /** How often a model's answer was to be recorded in a run. */
  readonly modelRecords: ReadonlyMap<string, number>
}

const cause = new Error("the disk is full")

/** A store in the place of another one, to plant a fault. */
export interface Planted {
  readonly runs?: (store: CheckpointStore.CheckpointStore["Service"]) => CheckpointStore.CheckpointStore["Service"]
  readonly results?: (store: Idempotency.Store) => Idempotency.Store
  readonly questions?: (store: EscalationQueue.Store) => EscalationQueue.Store
}

const same = <A>(store: A): A => store

export const make = Effect.fnUntraced(function*(
  options: { readonly seed: number; readonly weather: Weather; readonly planted?: Planted | undefined }
): Effect.fn.Return<Stores> {
  const { planted = {}, seed, weather } = options
  const runs = yield* CheckpointStore.makeMemory()
  const questions = yield* EscalationQueue.makeStoreMemory()
  const results = yield* Idempotency.makeStoreMemory({ capacity: 1_000_000 })
  const runsPlan = yield* FaultPlan.make({
    seed,
    faults: weather((why) => ({ key }) =>
      new CheckpointStore.CheckpointStoreError({ operation: key, reason: { _tag: why, cause } })
    )
  })
  const questionsPlan = yield* FaultPlan.make({
    seed,
    faults: weather((why) => ({ key }) =>
      new EscalationQueue.EscalationError({ operation: key, reason: { _tag: why, cause } })
    )
  })
  const resultsPlan = yield* FaultPlan.make({
    seed,
    faults: weather((why) => ({ key }) =>
      new Idempotency.IdempotencyStoreError({
        operation: key === "put" ? "record" : "lookup",
        scope: "",
        reason: why,
        cause
      })
    )
  })

  const records = new Map<string, Map<number, string>>()
  const decisions = new Map<string, string>()
  const outcomes = new Map<string, readonly [scope: string, key: string, outcome: string]>()
  const modelRecords = new Map<string, number>()
  // A record that was not acknowledged is offered again, and is the same one.
  const offered = new WeakSet<CheckpointStore.Entry>()

  const below = (planted.runs ?? same)(runs)
  const brokenRuns = CheckpointStore.CheckpointStore.of({
    ...below,
    acquire: (...args) => FaultPlan.apply(below.acquire(...args), runsPlan, "acquire"),
    renew: (...args) => FaultPlan.apply(below.renew(...args), runsPlan, "renew"),
    release: (lease) => FaultPlan.apply(below.release(lease), runsPlan, "release"),
    read: (runId) => FaultPlan.apply(below.read(runId), runsPlan, "read"),
    get: (runId) => FaultPlan.apply(below.get(runId), runsPlan, "get"),
    append: (lease, entries, status) =>
      Effect.suspend(() => {
        const { runId } = lease
        const answers = entries.filter((entry) =>
          /[/]model(#\d+)?$/.test(entry.step) && entry.body.includes("\"StepSucceeded\"") && !offered.has(entry)
        )
        for (const entry of answers) offered.add(entry)
        modelRecords.set(runId, (modelRecords.get(runId) ?? 0) + answers.length)
        return Effect.tap(FaultPlan.apply(below.append(lease, entries, status), runsPlan, "append"), () =>
          Effect.sync(() => {
            const known = records.get(runId) ?? new Map<number, string>()
            records.set(runId, known)
            for (const { body, position } of entries) {
              known.set(position, body)
            }
          }))
      })
  })

  const askedBelow = (planted.questions ?? same)(questions)
  const brokenQuestions: EscalationQueue.Store = {
    ...askedBelow,
    insert: (record) => FaultPlan.apply(askedBelow.insert(record), questionsPlan, "insert"),
    find: (id) => FaultPlan.apply(askedBelow.find(id), questionsPlan, "find"),
    select: (filter) => FaultPlan.apply(askedBelow.select(filter), questionsPlan, "select"),
    replace: (record) =>
      Effect.tap(FaultPlan.apply(askedBelow.replace(record), questionsPlan, "replace"), (kept) =>
        Effect.sync(() => {
          if (kept?.resolution !== undefined) decisions.set(kept.id, kept.resolution.decision._tag)
        }))
  }

  const rememberedBelow = (planted.results ?? same)(results)
  const brokenResults: Idempotency.Store = {
    ...rememberedBelow,
    get: (...args) => FaultPlan.apply(rememberedBelow.get(...args), resultsPlan, "get"),
    put: (scope, key, entry) =>
      Effect.tap(
        FaultPlan.apply(rememberedBelow.put(scope, key, entry), resultsPlan, "put"),
        (kept) => Effect.sync(() => void outcomes.set(`${scope}/${key}`, [scope, key, kept.outcome]))
      )
  }

  const lost = Effect.gen(function*() {
    const found: Array<Lost> = []
    for (const [runId, known] of records) {
      const there = yield* runs.read(runId)
      for (const [position, body] of known) {
        if (there[position]?.body !== body) found.push({ what: "record", detail: `${runId} ${position}: ${body}` })
      }
    }
    for (const [id, decision] of decisions) {
      const is = (yield* questions.find(id))?.resolution?.decision._tag
      if (is !== decision) found.push({ what: "decision", detail: `${id}: ${is} instead of ${decision}` })
    }
    for (const [scope, key, outcome] of outcomes.values()) {
      const is = (yield* results.get(scope, key))?.outcome
      if (is !== outcome) found.push({ what: "result", detail: `${scope}: ${is} instead of ${outcome}` })
    }
    return found
  })

  const sum = ({ delayed, failed, hung }: FaultPlan.Counts) => delayed + failed + hung

  return {
    process: Layer.mergeAll(
      Layer.succeed(CheckpointStore.CheckpointStore, brokenRuns),
      Layer.effect(EscalationQueue.EscalationQueue, EscalationQueue.make({ store: brokenQuestions })),
      Layer.effect(Idempotency.Idempotency, Idempotency.make({ store: brokenResults }))
    ),
    runs,
    questions: EscalationQueue.make({ store: questions }),
    faults: Effect.map(
      Effect.all([runsPlan.counts, questionsPlan.counts, resultsPlan.counts]),
      (counts) => counts.reduce((total, one) => total + sum(one), 0)
    ),
    lost,
    modelRecords
  }
})
