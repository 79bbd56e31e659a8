import type * as LanguageModel from "effect/ai/LanguageModel"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import { format } from "effect/Formatter"
import * as Layer from "effect/Layer"
import type { CheckpointStore } from "../../durable/CheckpointStore.ts"
import type { EscalationQueue } from "../../durable/EscalationQueue.ts"
import type { Idempotency } from "../../durable/Idempotency.ts"
import { InvalidConfig } from "../../Fault.ts"
import * as HealthCheck from "../../health/HealthCheck.ts"
import * as HealthMonitor from "../../health/HealthMonitor.ts"
import * as config from "../../internal/config.ts"
import * as ResilientModel from "../../model/ResilientModel.ts"
import * as CircuitBreaker from "../../policy/CircuitBreaker.ts"
import * as LastGood from "../../policy/LastGood.ts"
import * as Policy from "../../policy/Policy.ts"

const module = "Agent.layerProduction"

/** @internal */
export const firstSource = "agent"

/**
 * What became of the answers that were asked for since the layer was built, and how the things stand that they go by.
 *
 * **Details**
 *
 * - `total`: answers that were asked for and have ended, however. Who was interrupted does not count.
 * - `successful`: those that had an answer, from whichever source; `sources` says from which, and `fallbackUses` how many
 *   were not the agent's own.
 * - `suspended`: those that wait for people; `failed`: those that had no answer.
 * - `successRate`: how many of the successful and the failed were the agent's own answers, from 0 to 1; `answerRate`: how
 *   many had an answer at all. `undefined` before the first.
 * - `circuits`, `health`: those of the `CircuitBreaker` and the `HealthMonitor` of the layer, now.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProductionMetrics {
  readonly total: number
  readonly successful: number
  readonly failed: number
  readonly suspended: number
  readonly fallbackUses: number
  readonly sources: Readonly<Record<string, number>>
  readonly successRate: number | undefined
  readonly answerRate: number | undefined
  readonly circuits: ReadonlyArray<CircuitBreaker.State>
  readonly health: HealthMonitor.Report
}

/**
 * What `Agent.answer` needs of the layer around: whose health it goes by, and where its outcomes are counted.
 *
 * @category services
 * @since 0.1.0
 */
export class Production extends Context.Service<Production, {
  readonly name: string
  readonly metrics: Effect.Effect<ProductionMetrics>
  readonly count: (outcome: { readonly source: string } | "suspended" | "failed") => Effect.Effect<void>
}>()("effect-resilience/agent/Agent/Production") {}

const makeProduction = Effect.fnUntraced(function*(name: string) {
  const breaker = yield* CircuitBreaker.CircuitBreaker
  const monitor = yield* HealthMonitor.HealthMonitor
  const sources = new Map<string, number>()
  let suspended = 0
  let failed = 0
  return Production.of({
    name,
    count: (outcome) =>
      Effect.sync(() => {
        if (outcome === "suspended") suspended++
        else if (outcome === "failed") failed++
        else sources.set(outcome.source, (sources.get(outcome.source) ?? 0) + 1)
      }),
    metrics: Effect.gen(function*() {
      const circuits = yield* breaker.states
      const health = yield* monitor.snapshot
      const successful = [...sources.values()].reduce((sum, count) => sum + count, 0)
      const own = sources.get(firstSource) ?? 0
      return {
        total: successful + suspended + failed,
        successful,
        failed,
        suspended,
        fallbackUses: successful - own,
        sources: Object.fromEntries(sources),
        successRate: successful + failed === 0 ? undefined : own / (successful + failed),
        answerRate: successful + failed === 0 ? undefined : successful / (successful + failed),
        circuits,
        health
      }
    })
  })
})

/**
 * The services of the guards that `Agent.layerProduction` provides, those of `Policy.layer`.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ProductionGuards = Layer.Success<typeof Policy.layer>

/**
 * The stores that an agent needs, as the layers in `effect-resilience/durable/stores` provide them.
 *
 * @category type-level
 * @since 0.1.0
 */
export type ProductionStores = CheckpointStore | EscalationQueue | Idempotency

/**
 * A model that stands in for the first one.
 *
 * @category models
 * @since 0.1.0
 */
export interface OtherModel<out E = never, out R = never> {
  readonly label: string
  readonly model: Layer.Layer<LanguageModel.LanguageModel, E, R>
}

/**
 * Options of `Agent.layerProduction`.
 *
 * **Details**
 *
 * - `name`: the key of its health, and the name of its policy. Default: `"agent"`.
 * - `model`: the model that is asked first.
 * - `others`: models that stand in for it, in this order: a smaller one, one of another provider. Default: none.
 * - `store`: journal, idempotency and escalations, `Sqlite.layer` for instance. It has no default, so that nothing is kept
 *   in memory unnoticed.
 * - `policy`: the guards around each call of a model. Default: that of `Agent.productionPolicy`.
 * - `guards`: what the guards go by, shared by several processes for instance. Default: `Policy.layer`, of this process.
 * - `lastGood`: where answers are kept that `Agent.answer` is to serve again. Default: `LastGood.layer()`, of this process.
 * - `health`: options of the `HealthMonitor`. Its checks are added to those of the store, of the escalations that wait, and
 *   of the circuits. Under the key `name` a run of the agent is slow above 5 minutes.
 * - `answers`: how a model's answers are tried again, hedged and streamed, see `ResilientModel.AnswerOptions`.
 *
 * @category models
 * @since 0.1.0
 */
export interface ProductionOptions<EM, RM, EO, RO, ES, RS, EL, RL> {
  readonly name?: string | undefined
  readonly model: Layer.Layer<LanguageModel.LanguageModel, EM, RM>
  readonly others?: ReadonlyArray<OtherModel<EO, RO>> | undefined
  readonly store: Layer.Layer<ProductionStores, ES, RS>
  readonly policy?: Policy.StreamPolicy<unknown, ProductionGuards> | undefined
  readonly guards?: Layer.Layer<ProductionGuards> | undefined
  readonly lastGood?: Layer.Layer<LastGood.LastGood, EL, RL> | undefined
  readonly health?:
    | HealthMonitor.Options<HealthCheck.HealthCheck<ProductionStores | ProductionGuards>>
    | undefined
  readonly answers?: Omit<ResilientModel.AnswerOptions, "lastGood"> | undefined
}

/** @internal */
export const productionPolicy = (name: string) =>
  Policy.make({
    name,
    timeout: "60 seconds",
    retry: { budget: name },
    quota: {},
    bulkhead: { maxQueue: 100 },
    circuit: {}
  })

/** @internal */
export const layerProduction = <EM, RM, EO, RO, ES, RS, EL, RL>(
  options: ProductionOptions<EM, RM, EO, RO, ES, RS, EL, RL>
): Layer.Layer<
  | Production
  | LanguageModel.LanguageModel
  | HealthMonitor.HealthMonitor
  | LastGood.LastGood
  | ProductionStores
  | ProductionGuards,
  EM | EO | ES | EL | InvalidConfig,
  RM | RO | RS | RL
> => {
  const name = config.nonEmpty(module, "name", options.name ?? "agent")
  for (const part of ["model", "store"] as const) {
    // Also for a caller without types, who has left it out.
    if (!Layer.isLayer(options[part])) {
      throw new InvalidConfig({ module, option: part, value: format(options[part]), expected: "a Layer" })
    }
  }
  const { answers, guards = Policy.layer, health = {}, others = [], policy = productionPolicy(name), store } = options
  const lastGood: Layer.Layer<LastGood.LastGood, EL, RL> = options.lastGood ?? LastGood.layer()
  const kept = Layer.mergeAll(guards, lastGood, store)
  const models = ResilientModel.fallback(
    [
      { label: "primary", model: options.model, policy },
      ...others.map(({ label, model }) => ({ label, model, policy }))
    ],
    answers
  )
  const monitor = HealthMonitor.layer({
    ...health,
    keys: { ...health.keys, [name]: { slowAbove: "5 minutes", ...health.keys?.[name] } },
    checks: [
      // Without a journal no run may begin.
      HealthCheck.checkpointStoreWritable({ key: name }),
      HealthCheck.escalationBacklog({ required: false }),
      HealthCheck.circuits({ required: false }),
      ...health.checks ?? []
    ]
  })
  const production = Layer.effect(Production, makeProduction(name))
  return Layer.mergeAll(models, production).pipe(
    Layer.provideMerge(monitor),
    Layer.provideMerge(kept)
  )
}
