import type * as Prompt from "effect/ai/Prompt"
import * as Tool from "effect/ai/Tool"
import * as Result from "effect/Result"
import * as AgentBudget from "../AgentBudget.ts"
import * as Compaction from "../Compaction.ts"
import type { ErasedToolkit } from "./toolCall.ts"

// More tokens than any text has in practice.
const perToken = 2

/** What a picture counts at most, in characters: a provider scales it down. */
const pictureSize = 4_000

const withoutPictures = (prompt: Prompt.Prompt): number =>
  prompt.content.reduce((sum, message) => {
    if (message.role === "system") return sum
    return message.content.reduce((sum: number, part: Prompt.Part) => {
      if (part.type !== "file" || !part.mediaType.startsWith("image/")) return sum
      const size = part.data instanceof Uint8Array ? Math.ceil(part.data.length / 3) * 4 : String(part.data).length
      return sum + Math.max(0, size - pictureSize)
    }, sum)
  }, 0)

const sizeOf = (prompt: Prompt.Prompt): number => Compaction.sizeOf(prompt) - withoutPictures(prompt)

const definitions = new WeakMap<ErasedToolkit, number>()

const sizeOfTools = (kit: ErasedToolkit): number => {
  const found = definitions.get(kit)
  if (found !== undefined) return found
  const size = Object.values(kit.tools).reduce((sum, tool) => {
    // A schema that no JSON Schema says is the provider's to refuse.
    const schema = Result.try({ try: () => JSON.stringify(Tool.getJsonSchema(tool)).length, catch: () => 0 })
    return sum + tool.name.length + (tool.description?.length ?? 0) + Result.getOrElse(schema, () => 0)
  }, 0)
  definitions.set(kit, size)
  return size
}

/**
 * A conversation of which a provider has said how many tokens it has, with the tools.
 *
 * @internal
 */
export interface Metered {
  readonly size: number
  readonly inputTokens: number
}

/** @internal */
export const metered = (prompt: Prompt.Prompt, inputTokens: number): Metered => ({ size: sizeOf(prompt), inputTokens })

/**
 * Tokens that go out with a call, rather too many: one for every two characters, of the conversation and the tools, or of
 * what came since a conversation of which they are known.
 *
 * @internal
 */
export const inputTokens = (kit: ErasedToolkit, prompt: Prompt.Prompt, known: Metered | undefined): number => {
  const size = sizeOf(prompt)
  return known !== undefined && known.size <= size
    ? known.inputTokens + Math.ceil((size - known.size) / perToken)
    : Math.ceil((size + sizeOfTools(kit)) / perToken)
}

/**
 * Tokens of an answer of which nobody has said how many they are, rather too many.
 *
 * @internal
 */
export const outputTokens = (budget: AgentBudget.AgentBudget, length = 0): number =>
  Math.max(budget.outputTokensPerTurn ?? AgentBudget.defaultOutputTokens, Math.ceil(length / perToken))

/** @internal */
export type Room =
  | { readonly _tag: "Room"; readonly outputTokens: number }
  | { readonly _tag: "Gone"; readonly budget: AgentBudget.Name }

const gone = (budget: AgentBudget.Name): Room => ({ _tag: "Gone", budget })

/**
 * Whether a call that sends so many tokens fits into what is left of a budget, and how long its answer may be then.
 *
 * @internal
 */
export const roomIn = (
  budget: AgentBudget.AgentBudget,
  spent: Pick<AgentBudget.Spent, "usage" | "cost">,
  input: number
): Room => {
  if (spent.usage.inputTokens + input > budget.inputTokens) return gone("inputTokens")
  const left = budget.outputTokens - spent.usage.outputTokens
  if (left < 1) return gone("outputTokens")
  if (!Number.isFinite(budget.cost)) return { _tag: "Room", outputTokens: left }
  const costOf = (tokens: Partial<AgentBudget.Usage>) =>
    AgentBudget.costOf(budget, undefined, { ...AgentBudget.noUsage, ...tokens })
  const money = budget.cost - spent.cost - costOf({ inputTokens: input })
  const each = costOf({ outputTokens: 1 })
  // What is a whole number of tokens but for the arithmetic is one.
  const affordable = each === 0 ? (money < 0 ? 0 : Infinity) : Math.floor(money / each + 1e-6)
  return affordable < 1 ? gone("cost") : { _tag: "Room", outputTokens: Math.min(left, affordable) }
}
