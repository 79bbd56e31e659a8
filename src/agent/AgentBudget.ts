/**
 * What one agent run may spend before it has to come to an end.
 *
 * **When to use**
 *
 * Every agent has one. Set it where the defaults (10 iterations, 100 tool calls, 5 minutes) are not what a run may cost,
 * name tokens and money for what is billed, and share one with `shared` between runs that pay from one purse.
 *
 * @since 0.1.0
 */
import * as Duration from "effect/Duration"
import * as Schema from "effect/Schema"
import { InvalidConfig } from "../Fault.ts"
import * as config from "../internal/config.ts"

/**
 * The name of a limit.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Name = Schema.Literals(["iterations", "toolCalls", "inputTokens", "outputTokens", "wallTime", "cost"])

/**
 * The name of a limit.
 *
 * @category models
 * @since 0.1.0
 */
export type Name = typeof Name.Type

/**
 * Tokens of one or more model calls, as the provider reported them; what it did not report counts as zero.
 *
 * **Details**
 *
 * `inputTokens` is the whole input, tokens read from and written to a cache included.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Usage = Schema.Struct({
  inputTokens: Schema.Finite,
  outputTokens: Schema.Finite,
  cacheReadTokens: Schema.Finite,
  cacheWriteTokens: Schema.Finite
})

/**
 * Tokens of one or more model calls.
 *
 * @category models
 * @since 0.1.0
 */
export type Usage = typeof Usage.Type

/**
 * No tokens.
 *
 * @category constructors
 * @since 0.1.0
 */
export const noUsage: Usage = { inputTokens: 0, outputTokens: 0, cacheReadTokens: 0, cacheWriteTokens: 0 }

/**
 * Adds up tokens.
 *
 * @category combinators
 * @since 0.1.0
 */
export const addUsage = (self: Usage, that: Usage): Usage => ({
  inputTokens: self.inputTokens + that.inputTokens,
  outputTokens: self.outputTokens + that.outputTokens,
  cacheReadTokens: self.cacheReadTokens + that.cacheReadTokens,
  cacheWriteTokens: self.cacheWriteTokens + that.cacheWriteTokens
})

/**
 * What a million tokens of a model cost, in the currency of your choice.
 *
 * **Details**
 *
 * `cacheRead` and `cacheWrite` are `input` by default.
 *
 * @category models
 * @since 0.1.0
 */
export interface Price {
  readonly input: number
  readonly output: number
  readonly cacheRead?: number | undefined
  readonly cacheWrite?: number | undefined
}

/**
 * A price with nothing left to default.
 *
 * @category models
 * @since 0.1.0
 */
export type FullPrice = { readonly [K in keyof Price]-?: number }

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `iterations`: model calls of the loop. Default: 10.
 * - `toolCalls`: calls of tools that the program runs. Default: 100.
 * - `inputTokens`, `outputTokens`: tokens of the whole run. Default: no limit.
 * - `outputTokensPerTurn`: tokens of one answer, for a provider that can be told, see `OutputTokens`. Default: what the
 *   layer of the model was told, or 4096.
 * - `wallTime`: time in which the run was active, by the `Clock`. Default: 300 seconds. Time between a crash (or a wait
 *   for a person) and the next resume is not counted.
 * - `grace`: time that the last answer, and a call that must not happen twice and is already under way, may take once
 *   `wallTime` is gone. Default: 30 seconds.
 * - `prices`: the price table by model id, as the provider reports the id. A model that is not in the table is charged
 *   the highest price in it. Default: none, and then nothing has a cost.
 * - `cost`: money for the whole run, in the currency of the table. Default: no limit.
 *
 * A limit is looked at before the spending, at each attempt at a model call: a call that would pass one is not made, and
 * the run is at its end then, see `whenSpent` of an agent. What a call will send is estimated, rather too high: what the
 * provider reported for the last call and one token for every 2 characters that came since, or, before there is a
 * report, one for every 2 characters of the conversation and the tools (a picture counts 2000). The answer may have as many tokens as
 * are left, and as can be paid at the highest price of the table: a provider that can be told (`OutputTokens`) does not pass the
 * limit, another one may by what it answers once. An answer that was cut there ends the run as the limit does. The last
 * answer of a run that is stopped is allowed beyond the limits; it counts, and is bounded by `outputTokensPerTurn` and
 * `grace`. What nobody reported counts as spent, by the same estimate. The tries that a `ResilientModel` makes below the
 * agent, its retries, hedges and other models, are attempts like those of `policies.model`: each is counted, and one that
 * there is no room for is not made.
 *
 * Tool calls of one answer are counted in its order before any of them runs, so that their limit holds however many run
 * side by side. What a run has spent is in its journal: a resumed run goes on counting, with what failed calls have cost.
 * So it does with a call that was interrupted, by its caller, a timeout around the run, or a reader of `Agent.stream` who
 * left: it is one of the `iterations`, with its time, and tokens by the same estimate. That is written when the
 * interruption comes, and takes as long as the store does. A process that is killed in the middle of a call cannot write it:
 * what is not counted then is one call each time, and bounded, because a run whose process is killed ten times without a
 * step between is dead-lettered (`Checkpoint.run`, `maxCrashes`).
 *
 * A last answer that failed or was interrupted is asked for again where the run is run again, but a run pays for at most
 * three.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly iterations?: number | undefined
  readonly toolCalls?: number | undefined
  readonly inputTokens?: number | undefined
  readonly outputTokens?: number | undefined
  readonly outputTokensPerTurn?: number | undefined
  readonly wallTime?: Duration.Input | undefined
  readonly grace?: Duration.Input | undefined
  readonly prices?: { readonly [model: string]: Price } | undefined
  readonly cost?: number | undefined
}

/**
 * The limits of a run; a limit that is not set is `Infinity`.
 *
 * @category models
 * @since 0.1.0
 */
export interface AgentBudget {
  readonly iterations: number
  readonly toolCalls: number
  readonly inputTokens: number
  readonly outputTokens: number
  /** `undefined`: what the layer of the model was told, or {@link defaultOutputTokens}. */
  readonly outputTokensPerTurn: number | undefined
  readonly wallTime: Duration.Duration
  readonly grace: Duration.Duration
  readonly prices: ReadonlyMap<string, FullPrice>
  readonly cost: number
}

/**
 * What a run has spent so far.
 *
 * @category models
 * @since 0.1.0
 */
export interface Spent {
  readonly iterations: number
  /** Calls that ran or were refused for this budget. */
  readonly toolCalls: number
  readonly usage: Usage
  readonly elapsedMillis: number
  readonly cost: number
}

/**
 * Tokens that one answer is expected to have at most where nothing else is said: 4096.
 *
 * @category constants
 * @since 0.1.0
 */
export const defaultOutputTokens = 4096

const module = "AgentBudget"

const limit = (option: string, value: number | undefined, otherwise: number): number => {
  if (value === undefined) return otherwise
  return value === Infinity ? value : config.integer(module, option, value, 1)
}

const amount = (option: string, value: number): number =>
  config.numberBetween(module, option, value, 0, Number.MAX_SAFE_INTEGER)

const price = (model: string, { cacheRead, cacheWrite, input, output }: Price): FullPrice => ({
  input: amount(`prices.${model}.input`, input),
  output: amount(`prices.${model}.output`, output),
  cacheRead: amount(`prices.${model}.cacheRead`, cacheRead ?? input),
  cacheWrite: amount(`prices.${model}.cacheWrite`, cacheWrite ?? input)
})

/**
 * Makes a budget; throws `Fault.InvalidConfig` for a limit that cannot be one.
 *
 * **Example** (Limiting money)
 *
 * ```ts import.meta.vitest
 * import { AgentBudget } from "effect-resilience"
 *
 * const budget = AgentBudget.make({ cost: 0.5, prices: { "claude-opus-5-5": { input: 5, output: 25 } } })
 * const usage = { ...AgentBudget.noUsage, inputTokens: 20_000, outputTokens: 2_000 }
 *
 * AgentBudget.costOf(budget, "claude-opus-5-5", usage) // => 0.15
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): AgentBudget => {
  const prices = new Map(Object.entries(options.prices ?? {}).map(([model, entry]) => [model, price(model, entry)]))
  if (options.cost !== undefined && prices.size === 0) {
    throw new InvalidConfig({
      module,
      option: "prices",
      value: "missing",
      expected: "a price table, to count the cost"
    })
  }
  return {
    iterations: limit("iterations", options.iterations, 10),
    toolCalls: limit("toolCalls", options.toolCalls, 100),
    inputTokens: limit("inputTokens", options.inputTokens, Infinity),
    outputTokens: limit("outputTokens", options.outputTokens, Infinity),
    outputTokensPerTurn: options.outputTokensPerTurn === undefined
      ? undefined
      : config.integer(module, "outputTokensPerTurn", options.outputTokensPerTurn, 1),
    wallTime: config.duration(module, "wallTime", options.wallTime ?? "300 seconds", { minimum: 1, infinite: true }),
    grace: config.duration(module, "grace", options.grace ?? "30 seconds", { minimum: 1 }),
    prices,
    cost: options.cost === undefined ? Infinity : amount("cost", options.cost)
  }
}

const highest = (prices: Iterable<FullPrice>): FullPrice => {
  let top: FullPrice = { input: 0, output: 0, cacheRead: 0, cacheWrite: 0 }
  for (const next of prices) {
    top = {
      input: Math.max(top.input, next.input),
      output: Math.max(top.output, next.output),
      cacheRead: Math.max(top.cacheRead, next.cacheRead),
      cacheWrite: Math.max(top.cacheWrite, next.cacheWrite)
    }
  }
  return top
}

/**
 * Says what a model's tokens cost by the budget's price table.
 *
 * @category getters
 * @since 0.1.0
 */
export const costOf = (budget: AgentBudget, model: string | undefined, usage: Usage): number => {
  const entry = (model === undefined ? undefined : budget.prices.get(model)) ?? highest(budget.prices.values())
  const fresh = Math.max(0, usage.inputTokens - usage.cacheReadTokens - usage.cacheWriteTokens)
  return (
    fresh * entry.input +
    usage.cacheReadTokens * entry.cacheRead +
    usage.cacheWriteTokens * entry.cacheWrite +
    usage.outputTokens * entry.output
  ) / 1_000_000
}

/**
 * Names the first limit that leaves no room for another model call.
 *
 * **Example** (Asking before the next call)
 *
 * ```ts import.meta.vitest
 * import { AgentBudget } from "effect-resilience"
 *
 * const budget = AgentBudget.make({ iterations: 3 })
 * const spent = { iterations: 3, toolCalls: 2, usage: AgentBudget.noUsage, elapsedMillis: 1_000, cost: 0 }
 *
 * AgentBudget.exceeded(budget, spent) // => "iterations"
 * ```
 *
 * @category getters
 * @since 0.1.0
 */
export const exceeded = (budget: AgentBudget, spent: Spent): Name | undefined => {
  if (spent.iterations >= budget.iterations) return "iterations"
  // Only a call that was refused: a run that used its last call may still answer with what it got.
  if (spent.toolCalls > budget.toolCalls) return "toolCalls"
  if (spent.usage.inputTokens >= budget.inputTokens) return "inputTokens"
  if (spent.usage.outputTokens >= budget.outputTokens) return "outputTokens"
  if (spent.elapsedMillis >= Duration.toMillis(budget.wallTime)) return "wallTime"
  if (spent.cost >= budget.cost) return "cost"
  return undefined
}

/**
 * Options of {@link shared}.
 *
 * **Details**
 *
 * Limits of all runs together, see {@link Options}. Default: no limit. `cost` is counted by the price tables of the agents,
 * which have to have one.
 *
 * @category models
 * @since 0.1.0
 */
export interface SharedOptions {
  readonly iterations?: number | undefined
  readonly inputTokens?: number | undefined
  readonly outputTokens?: number | undefined
  readonly cost?: number | undefined
}

/**
 * What several runs have spent together, what their calls under way may come to not included.
 *
 * @category models
 * @since 0.1.0
 */
export interface SharedSpent {
  readonly iterations: number
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cost: number
}

/**
 * A budget that several runs of this process spend together.
 *
 * @category models
 * @since 0.1.0
 */
export interface Shared {
  readonly limits: SharedSpent
  readonly spent: () => SharedSpent
  /** Sets aside what a call may come to; names the limit that it would pass, and sets nothing aside then. @internal */
  readonly reserve: (estimate: SharedSpent) => Extract<Name, keyof SharedSpent> | undefined
  /** @internal */
  readonly release: (estimate: SharedSpent) => void
  /** What one run has spent so far. Said twice it counts once, and a run that is resumed does not begin anew. @internal */
  readonly report: (run: string, total: SharedSpent) => void
}

/**
 * Whether what an answer may have is set aside for it.
 *
 * @internal
 */
export const boundsAnswers = ({ limits }: Shared): boolean =>
  Number.isFinite(limits.outputTokens) || Number.isFinite(limits.cost)

const nothing: SharedSpent = { iterations: 0, inputTokens: 0, outputTokens: 0, cost: 0 }

const each = (f: (key: keyof SharedSpent) => number): SharedSpent => ({
  iterations: f("iterations"),
  inputTokens: f("inputTokens"),
  outputTokens: f("outputTokens"),
  cost: f("cost")
})

/** Of so many runs what each has spent is known; what older ones have spent stays in the sum. */
const knownRuns = 10_000

/**
 * Makes a budget for several runs together, see `sharedBudget` of an agent; throws `Fault.InvalidConfig` for a limit that
 * cannot be one.
 *
 * **Details**
 *
 * Before each model call the run sets aside what the call may come to, by an estimate that is rather too high (for the
 * answer `outputTokensPerTurn`, 4096 by default), and a call that does not fit is not made. So the limits hold for all
 * calls but last answers, however many runs spend at the same time: a run that has no room for its next call has at most
 * one last answer to pay for beyond them, which counts; with `whenSpent: "fail"` it has none. A run that has no room for its
 * first call has nothing to sum up: it fails with `BudgetExceeded`, and no call is made. A run that is resumed counts with
 * what it spent before.
 *
 * It is a budget of this process: what runs of other processes spend it does not see. Give each process its share, or
 * set a limit at the provider.
 *
 * **Example** (One budget for all runs)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer } from "effect"
 * import { Agent, AgentBudget, CheckpointStore } from "effect-resilience"
 * import { ScriptedModel } from "effect-resilience/testing"
 *
 * const budget = AgentBudget.shared({ outputTokens: 5_000 })
 * const poet = Agent.make({ name: "poet", instructions: "", sharedBudget: budget })
 *
 * const world = Layer.mergeAll(
 *   ScriptedModel.layer([ScriptedModel.text("It rains.", { usage: { inputTokens: 9, outputTokens: 3 } })]),
 *   CheckpointStore.layerMemory
 * )
 * await Effect.runPromise(Effect.provide(Agent.run(poet, { runId: "poem-1", prompt: "Rain" }), world))
 *
 * budget.spent() // => { iterations: 1, inputTokens: 9, outputTokens: 3, cost: 0 }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const shared = (options: SharedOptions = {}): Shared => {
  const limits: SharedSpent = {
    iterations: limit("shared.iterations", options.iterations, Infinity),
    inputTokens: limit("shared.inputTokens", options.inputTokens, Infinity),
    outputTokens: limit("shared.outputTokens", options.outputTokens, Infinity),
    cost: options.cost === undefined ? Infinity : amount("shared.cost", options.cost)
  }
  const runs = new Map<string, SharedSpent>()
  let sum = nothing
  let reserved = nothing
  return {
    limits,
    spent: () => sum,
    reserve: (estimate) => {
      const taken = reserved
      for (const name of ["iterations", "inputTokens", "outputTokens", "cost"] as const) {
        if (sum[name] + taken[name] + estimate[name] > limits[name]) return name
      }
      reserved = each((key) => taken[key] + estimate[key])
      return undefined
    },
    release: (estimate) => {
      const taken = reserved
      reserved = each((key) => Math.max(0, taken[key] - estimate[key]))
    },
    report: (run, total) => {
      const before = runs.get(run) ?? nothing
      const now = each((key) => Math.max(before[key], total[key]))
      const spent = sum
      sum = each((key) => spent[key] + now[key] - before[key])
      runs.delete(run)
      runs.set(run, now)
      const oldest = runs.keys().next().value
      if (runs.size > knownRuns && oldest !== undefined) runs.delete(oldest)
    }
  }
}
