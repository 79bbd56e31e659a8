import { format } from "effect/Formatter"
import * as Predicate from "effect/Predicate"
import { InvalidConfig } from "../../Fault.ts"
import * as config from "../../internal/config.ts"

/** What a limit can be about; `tokens` is input and output together. */
export const dimensions = ["requests", "inputTokens", "outputTokens", "tokens"] as const

/** @internal */
export type Dimension = (typeof dimensions)[number]

/** @internal */
export interface PerDimension<A> {
  readonly requests: A
  readonly inputTokens: A
  readonly outputTokens: A
  readonly tokens: A
}

/** So much of each. */
export type Amounts = PerDimension<number>

/** Counts that their owner changes in place. */
export type Counts = { -readonly [D in Dimension]: number }

/** @internal */
export const each = <A>(make: (dimension: Dimension) => A): { -readonly [D in Dimension]: A } => ({
  requests: make("requests"),
  inputTokens: make("inputTokens"),
  outputTokens: make("outputTokens"),
  tokens: make("tokens")
})

/** @internal */
export const counts = (value: number): Counts => each(() => value)

/** @internal */
export const nothing: Amounts = counts(0)

/** @internal */
export const add = (to: Counts, amounts: Amounts, times = 1): void => {
  for (const dimension of dimensions) to[dimension] += amounts[dimension] * times
}

/** What a call costs, as far as it is known. */
export interface Cost {
  readonly requests?: number | undefined
  readonly inputTokens?: number | undefined
  readonly cachedInputTokens?: number | undefined
  readonly outputTokens?: number | undefined
}

const parts = ["requests", "inputTokens", "cachedInputTokens", "outputTokens"] as const

/** Refuses what is no amount: one that is not a number would stay in the balance for ever. */
export const checkedCost = (cost: Cost): Cost => {
  config.object("Quota", "cost", cost)
  for (const part of parts) {
    const value = cost[part]
    if (value !== undefined && !(Number.isFinite(value) && value >= 0)) {
      throw new InvalidConfig({
        module: "Quota",
        option: `cost.${part}`,
        value: format(value),
        expected: "a finite number of at least 0"
      })
    }
  }
  return cost
}

/** What of a report can be an amount; a wrong report must not end a call that came through. */
export const saneCost = (cost: Cost): Cost => {
  const sane = (value: number | undefined) =>
    value !== undefined && Number.isFinite(value) && value >= 0 ? value : undefined
  return {
    requests: sane(cost.requests),
    inputTokens: sane(cost.inputTokens),
    cachedInputTokens: sane(cost.cachedInputTokens),
    outputTokens: sane(cost.outputTokens)
  }
}

/** What is said of a cost; in the other dimensions, the amounts that stand in for it. */
export const amountsOf = (cost: Cost, otherwise: Amounts, countCachedInput: boolean): Amounts => {
  const cached = countCachedInput ? cost.cachedInputTokens : undefined
  const inputTokens = sum(cost.inputTokens, cached) ?? otherwise.inputTokens
  const outputTokens = cost.outputTokens ?? otherwise.outputTokens
  return {
    requests: cost.requests ?? otherwise.requests,
    inputTokens,
    outputTokens,
    tokens: inputTokens + outputTokens
  }
}

const sum = (a: number | undefined, b: number | undefined): number | undefined => a === undefined ? b : a + (b ?? 0)

const amount = (from: unknown, ...names: ReadonlyArray<string>): number | undefined => {
  for (const name of names) {
    const value = Predicate.hasProperty(from, name) ? from[name] : undefined
    if (Predicate.isNumber(value) && Number.isFinite(value) && value >= 0) return value
  }
  return undefined
}

const part = (from: unknown, name: string): unknown => Predicate.hasProperty(from, name) ? from[name] : undefined

/** What a usage report says, in the forms of effect/ai, Anthropic and OpenAI. */
const reported = (usage: unknown): Cost => {
  const input = part(usage, "inputTokens")
  const output = part(usage, "outputTokens")
  if (Predicate.isObject(input) || Predicate.isObject(output)) {
    const cached = amount(input, "cacheRead")
    const total = amount(input, "total")
    return {
      // a provider that reports no parts reports a total, which holds what it read from its cache
      inputTokens: sum(amount(input, "uncached"), amount(input, "cacheWrite")) ??
        (total === undefined ? undefined : Math.max(0, total - (cached ?? 0))),
      cachedInputTokens: cached,
      outputTokens: amount(output, "total")
    }
  }
  return {
    inputTokens: sum(
      amount(usage, "inputTokens", "input_tokens", "prompt_tokens"),
      amount(usage, "cache_creation_input_tokens")
    ),
    cachedInputTokens: amount(usage, "cachedInputTokens", "cache_read_input_tokens"),
    outputTokens: amount(usage, "outputTokens", "output_tokens", "completion_tokens")
  }
}

/** @internal */
export const usageIn = (result: unknown): Cost | undefined => {
  const own = part(result, "usage")
  if (Predicate.isObject(own)) return reported(own)
  // a list of the parts of an answer: the last one that reports
  const list: unknown = Array.isArray(result) ? result : part(result, "content")
  if (!Array.isArray(list)) return undefined
  for (let at = list.length - 1; at >= 0; at--) {
    const usage = part(list[at], "usage")
    if (Predicate.isObject(usage)) return reported(usage)
  }
  return undefined
}
