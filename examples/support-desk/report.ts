/** What the screen shows at the end: the tickets, what the guards did, and what became of each injected fault. */
import { Schema } from "effect"
import type * as ProviderServer from "effect-resilience/testing/ProviderServer"
import { triagePrompt } from "./Desk.ts"
import type { Refund } from "./Shop.ts"
import type { Outcome } from "./SupportDesk.ts"
import type { Tally } from "./Tally.ts"

/** How every ticket ended: worked to its end, or waiting for a person. */
export interface Ended {
  readonly ticket: string
  readonly status: "done" | "escalated" | "waiting" | "failed"
  readonly reason: string
  readonly triageBy: string
  readonly answerBy: string
  readonly cost: number
}

export const fromOutcome = (outcome: Outcome): Ended => ({
  ticket: outcome.ticket,
  status: outcome.status,
  reason: outcome.reason ?? "",
  triageBy: outcome.triageBy,
  answerBy: outcome.answerBy,
  cost: outcome.cost
})

const table = (rows: ReadonlyArray<readonly [string, string | number]>): string => {
  const width = Math.max(...rows.map(([name]) => name.length))
  return rows.map(([name, value]) => `  ${name.padEnd(width)}  ${value}`).join("\n")
}

const counted = (values: ReadonlyArray<string>): string => {
  const counts = new Map<string, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  const sorted = [...counts].toSorted(([a], [b]) => a.localeCompare(b))
  return sorted.length === 0 ? "none" : sorted.map(([value, count]) => `${value} ${count}`).join(", ")
}

const sumOf = (labels: ReadonlyArray<readonly [label: string, count: number]>, between: string): string => {
  const total = labels.reduce((sum, [, count]) => sum + count, 0)
  return total === 0 ? "none" : `${total}${between}${labels.map(([label, count]) => `${label} ${count}`).join(", ")}`
}

export const summary = (
  ended: ReadonlyArray<Ended>,
  tally: Tally,
  refunds: ReadonlyArray<Refund>,
  waiting: number,
  unreadable: number,
  seconds: number
): string => {
  // A refusal of the circuit is the desk's own and has a row of its own.
  const tried = tally.labels("RetryScheduled").filter(([verdict]) => verdict !== "Rejected")
  const by = (status: Ended["status"]) => ended.filter((one) => one.status === status)
  const people = [...by("escalated"), ...by("waiting")]
  const returned = refunds.reduce((sum, refund) => sum + refund.amountCents, 0)
  return table([
    ["tickets", ended.length],
    ["  done", by("done").length],
    ["  escalated", `${people.length} (${counted(people.map(({ reason }) => reason))})`],
    ["  failed", by("failed").length],
    ...(unreadable === 0 ? [] : [["  files that are no ticket", unreadable] as const]),
    ["calls tried again, by what went wrong", sumOf(tried, ": ")],
    ["answers cut off, asked for again", tally.count("AnswerCut")],
    ["circuit openings", tally.count("CircuitChanged", "Open")],
    ["  calls it refused, nothing was sent", tally.count("CircuitRejected")],
    ["triage by source", counted(ended.map(({ triageBy }) => triageBy))],
    ["answers by source", counted(ended.map(({ answerBy }) => answerBy))],
    ["tool calls", sumOf(tally.labels("ToolCalled"), ": ")],
    ["escalations waiting for a person", waiting],
    ["refunds made", `${refunds.length}, ${(returned / 100).toFixed(2)} EUR`],
    ["model cost, from tokens and list prices", `${ended.reduce((sum, one) => sum + one.cost, 0).toFixed(4)} USD`],
    ["time", `${seconds.toFixed(1)} s`]
  ])
}

const Body = Schema.Struct({
  system: Schema.optional(Schema.Unknown),
  messages: Schema.Array(Schema.Struct({ content: Schema.Unknown }))
})
const isBody = Schema.is(Body)

/** What a request asks, however long its answer may be: what a budget has left for that gets less with each attempt. */
const questionOf = ({ body, index }: ProviderServer.RequestLog): string =>
  isBody(body) ? JSON.stringify([body.system, body.messages]) : `${index}`

/** Which ticket a request is about, and whether it is to be sorted or answered. */
const subjectOf = ({ body }: ProviderServer.RequestLog) => {
  if (!isBody(body)) return undefined
  const ticket = /Id: ([\w-]+)/.exec(JSON.stringify(body.messages[0]?.content))?.[1]
  if (ticket === undefined) return undefined
  return { ticket, isTriage: JSON.stringify(body.system ?? "").includes(triagePrompt) }
}

const workOf = (entry: ProviderServer.RequestLog): string => {
  const subject = subjectOf(entry)
  return subject === undefined ? `${entry.index}` : `${subject.ticket}, ${subject.isTriage ? "sorted" : "answered"}`
}

/** The last request of each kind that was answered. */
const lastOf = (
  requests: ReadonlyArray<ProviderServer.RequestLog>,
  kind: (entry: ProviderServer.RequestLog) => string
) =>
  new Map(
    requests.flatMap((entry) =>
      entry.fault === undefined && entry.completed ? [[kind(entry), entry.index] as const] : []
    )
  )

/** What became of a request that the provider answered badly. */
const fateOf = (
  entry: ProviderServer.RequestLog,
  answered: { readonly question: ReadonlyMap<string, number>; readonly work: ReadonlyMap<string, number> },
  ended: ReadonlyMap<string, Ended>
): string => {
  if ((answered.question.get(questionOf(entry)) ?? -1) > entry.index) return "tried again and answered"
  // After an empty answer, or one that was none, the same is asked in other words.
  if ((answered.work.get(workOf(entry)) ?? -1) > entry.index) return "asked in other words and answered"
  const subject = subjectOf(entry)
  if (subject === undefined) return "unknown"
  const end = ended.get(subject.ticket)
  if (subject.isTriage) return end?.triageBy === "rules" ? "the rules took over" : "unknown"
  return end?.answerBy === "template" ? "a template answered, escalated" : "unknown"
}

/** One line for each kind of fault: how many were injected, and what became of them. */
export const faults = (
  requests: ReadonlyArray<ProviderServer.RequestLog>,
  stats: ProviderServer.Stats,
  ended: ReadonlyArray<Ended>
): { readonly text: string; readonly unknown: number } => {
  const byTicket = new Map(ended.map((one) => [one.ticket, one]))
  const answered = { question: lastOf(requests, questionOf), work: lastOf(requests, workOf) }
  const fates = requests.flatMap((entry) =>
    entry.fault === undefined ? [] : [{ fault: entry.fault, fate: fateOf(entry, answered, byTicket) }]
  )
  const rows = Object.entries(stats.injected).filter(([, count]) => count > 0).map(([fault, count]) =>
    [fault, `${count}: ${counted(fates.filter((one) => one.fault === fault).map(({ fate }) => fate))}`] as const
  )
  const total = rows.length === 0 ? "none" : table(rows)
  return {
    text: `  requests ${stats.requests}, answered ${stats.answered}\n${total}`,
    unknown: fates.filter(({ fate }) => fate === "unknown").length
  }
}
