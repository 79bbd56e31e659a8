/**
 * The simulated model: it computes an answer from the conversation by rules, so that the demo needs no key and always
 * answers alike. It is no language model, and the demo says so on screen.
 */
import { Schema } from "effect"
import { classify, type Language, triagePrompt } from "./Desk.ts"

/** A conversation as far as the rules look at it, whatever it came in (wire format or effect/ai's Prompt). */
export interface Situation {
  readonly system: string
  /** The customer's ticket, as the program wrote it into the first message. */
  readonly ticket: string
  readonly results: ReadonlyArray<{ readonly name: string; readonly result: unknown; readonly isError: boolean }>
  /** Whether tools may still be called. */
  readonly tools: boolean
}

export type Move =
  | { readonly _tag: "Say"; readonly text: string }
  | { readonly _tag: "Call"; readonly calls: ReadonlyArray<{ readonly name: string; readonly input: unknown }> }

const CustomerFound = Schema.Struct({ name: Schema.String, plan: Schema.String })
const OrderFound = Schema.Struct({
  id: Schema.String,
  amountCents: Schema.Int,
  charges: Schema.Int,
  item: Schema.String
})
const Status = Schema.Struct({ region: Schema.String, state: Schema.String })
const Refunded = Schema.Struct({ refunded: Schema.Int })

const header = (ticket: string, name: string): string =>
  new RegExp(`^${name}: (.*)$`, "m").exec(ticket)?.[1]?.trim() ?? ""

const bodyOf = (ticket: string): string => ticket.slice(Math.max(0, ticket.indexOf("\n\n")) + 2)

const euros = (cents: number): string => `${(cents / 100).toFixed(2)} EUR`

/** What the customer asks back: a named part, an amount that a text orders us to pay, or what the order cost once. */
const amountWanted = (text: string, order: typeof OrderFound.Type): number => {
  const named = /difference of ([\d.]+) EUR/.exec(text)?.[1] ?? /refund of ([\d.]+) EUR for order/i.exec(text)?.[1]
  return named === undefined ? order.amountCents : Math.round(Number(named) * 100)
}

const phrases: Record<Language, {
  readonly hello: (name: string) => string
  readonly refunded: (amount: string, order: string) => string
  readonly notRefunded: (order: string) => string
  readonly help: Record<string, string>
  readonly bye: string
}> = {
  en: {
    hello: (name) => `Hello ${name},`,
    refunded: (amount, order) => `we have returned ${amount} for ${order}; it is on your card in three to five days.`,
    notRefunded: (order) => `we could not return the money for ${order} ourselves and have passed it to a colleague.`,
    help: {
      outage: "we see it too and are working on it. The status page is updated every ten minutes.",
      bug: "thank you for the details. A developer has them on the desk now.",
      account: "we have noted your request; for your safety a colleague confirms it with you by phone.",
      security: "please do not click anything and do not use that key again. A colleague is looking at it now.",
      billing: "we have noted it in your account; a colleague checks the invoice and writes to you.",
      question: "thank you for writing. A colleague answers you in detail by tomorrow.",
      refund: "we have looked at your order and a colleague will be in touch about it today.",
      unclear: "could you tell us a little more: what did you do, what did you see, and since when?"
    },
    bye: "Kind regards, Harbor"
  },
  de: {
    hello: (name) => `Guten Tag ${name},`,
    refunded: (amount, order) =>
      `wir haben ${amount} für ${order} zurückgezahlt, in drei bis fünf Tagen ist das Geld da.`,
    notRefunded: (order) => `die Rückzahlung für ${order} haben wir an eine Kollegin übergeben.`,
    help: { billing: "die Rechnung ist unterwegs zu Ihnen." },
    bye: "Mit freundlichen Grüßen, Harbor"
  },
  es: {
    hello: (name) => `Buenos días, ${name}:`,
    refunded: (amount, order) => `hemos devuelto ${amount} del pedido ${order}; llegará en tres a cinco días.`,
    notRefunded: (order) => `hemos pasado la devolución de ${order} a una compañera.`,
    help: { account: "confirmamos la cancelación a final de mes." },
    bye: "Un saludo, Harbor"
  },
  fr: {
    hello: (name) => `Bonjour ${name},`,
    refunded: (amount, order) => `nous avons remboursé ${amount} pour ${order} ; comptez trois à cinq jours.`,
    notRefunded: (order) => `le remboursement de ${order} est entre les mains d'une collègue.`,
    help: {},
    bye: "Cordialement, Harbor"
  },
  it: {
    hello: (name) => `Buongiorno ${name},`,
    refunded: (amount, order) => `abbiamo restituito ${amount} per ${order}.`,
    notRefunded: (order) => `il rimborso di ${order} è passato a una collega.`,
    help: { outage: "vediamo anche noi il problema e ci stiamo lavorando." },
    bye: "Cordiali saluti, Harbor"
  }
}

const found = <A>(situation: Situation, name: string, schema: Schema.Decoder<A>): A | undefined => {
  const answer = situation.results.find((result) => result.name === name && !result.isError)
  const decoded = answer === undefined ? undefined : Schema.decodeUnknownExit(schema)(answer.result)
  return decoded?._tag === "Success" ? decoded.value : undefined
}

const asked = (situation: Situation, name: string): boolean => situation.results.some((result) => result.name === name)

const compose = (situation: Situation, category: string, language: Language): string => {
  const words = phrases[language]
  const customer = found(situation, "findCustomer", CustomerFound)
  const order = /HB-\d{4}/.exec(situation.ticket)?.[0] ?? "your order"
  const refunded = found(situation, "refund", Refunded)
  const status = found(situation, "serviceStatus", Status)
  const core = refunded !== undefined
    ? words.refunded(euros(refunded.refunded), order)
    : asked(situation, "refund")
    ? words.notRefunded(order)
    : words.help[category] ?? phrases.en.help[category] ?? phrases.en.help["unclear"] ?? ""
  const more = status === undefined ? "" : ` (${status.region}: ${status.state})`
  const name = customer?.name ?? header(situation.ticket, "From").replace(/ *<.*/, "")
  return `${words.hello(name)}\n\n${core}${more}\n\n${words.bye}`
}

/** The model's next move. */
export const think = (situation: Situation): Move => {
  const ticket = { subject: header(situation.ticket, "Subject"), body: bodyOf(situation.ticket) }
  const triage = classify(ticket)
  if (situation.system.includes(triagePrompt)) return { _tag: "Say", text: JSON.stringify(triage) }

  const text = `${ticket.subject}\n${ticket.body}`
  const orderId = /HB-\d{4}/.exec(text)?.[0]
  if (situation.tools && situation.results.length === 0) {
    const email = /<([^>]+)>/.exec(header(situation.ticket, "From"))?.[1]
    const calls = [
      ...(email === undefined ? [] : [{ name: "findCustomer", input: { email } }]),
      ...(orderId === undefined ? [] : [{ name: "findOrder", input: { orderId } }]),
      ...(triage.category === "outage" ? [{ name: "serviceStatus", input: { region: "eu-central" } }] : [])
    ]
    if (calls.length > 0) return { _tag: "Call", calls }
  }
  const order = found(situation, "findOrder", OrderFound)
  if (situation.tools && triage.category === "refund" && order !== undefined && !asked(situation, "refund")) {
    const reason = ticket.subject.slice(0, 80)
    const input = { orderId: order.id, amountCents: amountWanted(text, order), reason }
    return { _tag: "Call", calls: [{ name: "refund", input }] }
  }
  return { _tag: "Say", text: compose(situation, triage.category, triage.language) }
}
