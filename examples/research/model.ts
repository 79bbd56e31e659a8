/**
 * The simulated model behind both doors: it searches once, quotes the first finding of each source that answered, and
 * makes one claim up. It is no language model, and the example says so on screen.
 */
import { Schema } from "effect"
import { ScriptedModel } from "effect-resilience/testing"
import type * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { situationOfPrompt, situationOfRequest } from "../support-desk/models.ts"
import type { Situation } from "../support-desk/simulated.ts"

const Seen = Schema.Struct({
  available: Schema.Record(
    Schema.String,
    Schema.Struct({ value: Schema.Array(Schema.Struct({ text: Schema.String, url: Schema.String })) })
  )
})
const decode = Schema.decodeUnknownOption(Seen)

const madeUp = { text: "Everybody agrees that it is so.", url: "https://everybody.example/" }

const draft = (results: Situation["results"]): string => {
  const claims = results.flatMap(({ result }) => {
    const seen = decode(result)
    return seen._tag === "None" ? [] : Object.values(seen.value.available).flatMap(({ value }) => value.slice(0, 1))
  })
  return JSON.stringify({ claims: [...claims.map(({ text, url }) => ({ text, url })), madeUp] })
}

/** Without HTTP, for virtual time. */
export const script: Exclude<ScriptedModel.Script, ReadonlyArray<unknown>> = ({ index, prompt, tools }) => {
  const { results, ticket } = situationOfPrompt(prompt, tools.length > 0)
  return results.length === 0
    ? ScriptedModel.toolCall({ id: `call-${index}`, name: "search", params: { query: ticket } })
    : ScriptedModel.text(draft(results))
}

/** What the provider on loopback answers. */
export const answer = (request: ProviderServer.MessagesRequest): ProviderServer.AnswerContent => {
  const { results, ticket } = situationOfRequest(request)
  return results.length === 0
    ? { content: [{ type: "tool_use", name: "search", input: { query: ticket } }] }
    : draft(results)
}
