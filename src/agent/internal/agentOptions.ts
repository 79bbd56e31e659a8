import type * as AiTool from "effect/ai/Tool"
import type * as Duration from "effect/Duration"
import { format } from "effect/Formatter"
import type * as Schema from "effect/Schema"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { hasRedacted } from "../../internal/hasRedacted.ts"
import * as Deadline from "../../policy/Deadline.ts"
import type { AgentBudget, Shared } from "../AgentBudget.ts"
import type { Streaming } from "./modelAnswer.ts"

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

/**
 * How answers are streamed.
 *
 * **Details**
 *
 * - `idleTimeout`: how long a stream may be silent, from its opening to the first part and from one part to the next; then
 *   it is cut with `Deadline.Stalled`. Only parts count, and not the pings of a connection: a model that thinks for longer
 *   and does not show its thoughts, or a `ResilientModel` that collects its streams (`buffer`), needs more. Default: 30
 *   seconds.
 * - `onCut`: what becomes of an answer whose stream breaks off, stands still or ends without its finish part. `"askAgain"`
 *   drops what had come and asks for the answer once more; `"resume"` tells the model the text that had come, asks it to
 *   go on from there, and joins the pieces, as long as it is the same model. Either way what had come is paid for, and no
 *   tool call in it is run. Default: `"askAgain"`.
 * - `maxCuts`: how often that happens for one model call, besides what `policies.model` tries again, with the waits of
 *   `Backoff.fullJitter()`. After that the call fails with the reason `CutOff`. Default: 2.
 *
 * A stream of more than 10,000,000 characters is cut as well, and not asked for again.
 *
 * @category models
 * @since 0.1.0
 */
export interface StreamOptions {
  readonly idleTimeout?: Duration.Input | undefined
  readonly onCut?: "askAgain" | "resume" | undefined
  readonly maxCuts?: number | undefined
}

/** @internal */
export const streaming = (agent: string, options: StreamOptions = {}): Streaming => {
  const idle = config.duration("Agent", "stream.idleTimeout", options.idleTimeout ?? "30 seconds", {
    minimum: "1 millis"
  })
  return {
    stall: Deadline.stall(idle, { name: `the answer to agent "${agent}"` }),
    onCut: oneOf("stream.onCut", options.onCut ?? "askAgain", ["askAgain", "resume"]),
    maxCuts: config.integer("Agent", "stream.maxCuts", options.maxCuts ?? 2, 0, 100)
  }
}
