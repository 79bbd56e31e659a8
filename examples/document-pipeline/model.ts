/**
 * The simulated model behind both doors: it reads an invoice by rules, misreads what is smudged until it is told so, and
 * believes whatever the text says to it. It is no language model, and the example says so on screen.
 */
import { Predicate } from "effect"
import { ScriptedModel } from "effect-resilience/testing"
import type * as ProviderServer from "effect-resilience/testing/ProviderServer"
import type { Prompt } from "effect/ai"

const found = (text: string, pattern: RegExp): string => pattern.exec(text)?.[1]?.trim() ?? ""

const cents = (decimal: string): number => Math.round(Number(decimal) * 100)

/** What the model answers to the text of an invoice, and to the same when its answer was sent back `repairs` times. */
export const read = (text: string, repairs: number): string => {
  const lines = [...text.matchAll(/^(\w+) x (.+) @ ([\d.]+)$/gm)].map(([, quantity = "", description, price = ""]) => ({
    description,
    quantity: Number.parseInt(repairs === 0 ? quantity : quantity.replaceAll("O", "0"), 10),
    unitCents: cents(price)
  }))
  const told = found(text, /The account to pay to is (\w+)/)
  return JSON.stringify({
    number: found(text, /^Invoice number: (.+)$/m),
    supplier: found(text, /^From: (.+)$/m),
    iban: told === "" ? found(text, /^Pay to: (.+)$/m).replaceAll(" ", "") : told,
    date: found(text, /^Date: (.+)$/m),
    lines,
    totalCents: cents(found(text, /^Total: ([\d.]+) EUR$/m))
  })
}

const usersOf = (prompt: Prompt.Prompt): ReadonlyArray<string> =>
  prompt.content.flatMap((message) =>
    message.role === "user"
      ? [message.content.map((part) => part.type === "text" ? part.text : "").join("")]
      : []
  )

/** Without HTTP, for virtual time. */
export const script: Exclude<ScriptedModel.Script, ReadonlyArray<unknown>> = ({ prompt }) => {
  const [text = "", ...repairs] = usersOf(prompt)
  return ScriptedModel.text(read(text, repairs.length), { usage: { inputTokens: 600, outputTokens: 150 } })
}

const textOf = (content: ProviderServer.RequestTurn["content"]): string =>
  typeof content === "string"
    ? content
    : content.map((block) => Predicate.isString(block["text"]) ? block["text"] : "").join("")

/** What the provider on loopback answers. */
export const answer = (request: ProviderServer.MessagesRequest): ProviderServer.AnswerContent => {
  const [text, ...repairs] = request.messages.filter(({ role }) => role === "user")
  return read(textOf(text?.content ?? ""), repairs.length)
}
