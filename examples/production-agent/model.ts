/**
 * The simulated model behind both doors: it looks orders up, sends vouchers to who complains, and answers the rest at
 * once. It is no language model.
 */
import { ScriptedModel } from "effect-resilience/testing"
import type * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { situationOfPrompt, situationOfRequest } from "../support-desk/models.ts"
import type { Situation } from "../support-desk/simulated.ts"

type Said =
  | { readonly text: string }
  | { readonly name: string; readonly params: Readonly<Record<string, string | number>> }

const say = ({ results, ticket }: Situation, hasTools: boolean): Said => {
  const order = /H-\d+/.exec(ticket)?.[0]
  const last = results.at(-1)
  if (last !== undefined) return { text: `Good news: ${String(last.result)}.` }
  if (!hasTools) return { text: "We look into it." }
  if (order === undefined) return { text: "We are open from nine to five." }
  return ticket.includes("broken")
    ? { name: "sendVoucher", params: { order, euros: 5 } }
    : { name: "orderStatus", params: { order } }
}

/** Without HTTP, for virtual time. */
export const script = ({ index, prompt, tools }: ScriptedModel.Request): ScriptedModel.Answer => {
  const said = say(situationOfPrompt(prompt, tools.length > 0), tools.length > 0)
  return "text" in said ? said.text : ScriptedModel.toolCall({ id: `call-${index}`, ...said })
}

/** What a provider on loopback answers. */
export const answer = (request: ProviderServer.MessagesRequest): ProviderServer.AnswerContent => {
  const said = say(situationOfRequest(request), (request.tools ?? []).length > 0)
  return "text" in said ? said.text : { content: [{ type: "tool_use", name: said.name, input: said.params }] }
}
