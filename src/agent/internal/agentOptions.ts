import type * as AiTool from "effect/ai/Tool"
import { format } from "effect/Formatter"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import { hasRedacted } from "../../internal/hasRedacted.ts"
import type { AgentBudget, Shared } from "../AgentBudget.ts"

const invalid = (option: string, value: string, expected: string) =>
  new Fault.InvalidConfig({ module: "Agent", option, value, expected })

/** @internal */
export const oneOf = <const A extends string>(option: string, value: A, allowed: ReadonlyArray<A>): A => {
  if (allowed.includes(value)) return value
  throw invalid(option, format(value), `one of ${allowed.join(", ")}`)
}

/**
 * Refuses a schema of what is written into the journal and told to the model, where it holds a secret.
 *
 * @internal
 */
export const withoutSecrets = (option: string, schema: Schema.Constraint): void => {
  if (hasRedacted(schema)) {
    throw invalid(option, "a schema that holds a Redacted", "a schema without secrets, which JSON would show in clear")
  }
}

/**
 * What a caller without types may have given instead of a toolkit or a schema.
 *
 * @internal
 */
export const checkKinds = (toolkit: unknown, result: unknown): void => {
  if (toolkit !== undefined && !Predicate.hasProperty(toolkit, "tools")) {
    throw invalid("toolkit", format(toolkit), "a Toolkit")
  }
  if (result !== undefined && !Schema.isSchema(result)) throw invalid("result", format(result), "a Schema")
}

/** @internal */
export const field = <A>(when: A): A => {
  if (Predicate.hasProperty(when, "field") && typeof when.field === "string") return when
  throw invalid("when", format(when), "a predicate, or a field and what it must not be below")
}

/** @internal */
export const checkShared = (shared: Shared | undefined, budget: AgentBudget): void => {
  if (shared !== undefined && Number.isFinite(shared.limits.cost) && budget.prices.size === 0) {
    throw invalid("budget.prices", "missing", "a price table, to count the cost of the shared budget")
  }
}

/** @internal */
export const checkTools = (tools: ReadonlyArray<AiTool.Any>, options: object): void => {
  const names = tools.map((tool) => tool.name)
  for (const name of Object.keys(options)) {
    if (!names.includes(name)) throw invalid(`tools.${name}`, "options", `a tool of the kit: ${names.join(", ")}`)
  }
  for (const tool of tools) {
    withoutSecrets(`toolkit.${tool.name}.success`, tool.successSchema)
    withoutSecrets(`toolkit.${tool.name}.failure`, tool.failureSchema)
  }
}
