/** A support ticket as it lies in the folder: a few header lines, an empty line, the customer's text. */
import { Effect, FileSystem, Path, Schema } from "effect"

export class Ticket extends Schema.Class<Ticket>("support-desk/Ticket")({
  id: Schema.String.check(Schema.isPattern(/^[\w-]+$/)),
  from: Schema.String,
  subject: Schema.String,
  date: Schema.String,
  body: Schema.String
}) {
  get email(): string {
    return /<([^>]*)>/.exec(this.from)?.[1] ?? this.from
  }
}

export class UnreadableTicket extends Schema.TaggedError<UnreadableTicket>("support-desk/UnreadableTicket")(
  "UnreadableTicket",
  { file: Schema.String, problem: Schema.String }
) {
  override get message() {
    return `${this.file} is no ticket: ${this.problem}`
  }
}

const decode = Schema.decodeUnknownEffect(Ticket)

export const parse = (file: string, text: string): Effect.Effect<Ticket, UnreadableTicket> => {
  const end = text.search(/\r?\n\r?\n/)
  const head = end === -1 ? text : text.slice(0, end)
  const headers: Record<string, string> = {}
  for (const line of head.split(/\r?\n/)) {
    const colon = line.indexOf(":")
    if (colon > 0) headers[line.slice(0, colon).trim().toLowerCase()] = line.slice(colon + 1).trim()
  }
  return decode({ ...headers, body: end === -1 ? "" : text.slice(end).trim() }).pipe(
    Effect.mapError((error) => new UnreadableTicket({ file, problem: error.message.replaceAll(/\s*\n\s*/g, " ") }))
  )
}

const first = (tickets: ReadonlyArray<{ readonly file: string; readonly ticket: Ticket }>) => {
  const byId = new Map<string, { readonly file: string; readonly ticket: Ticket }>()
  const again: Array<UnreadableTicket> = []
  for (const one of tickets) {
    const known = byId.get(one.ticket.id)
    if (known === undefined) byId.set(one.ticket.id, one)
    else {again.push(
        new UnreadableTicket({ file: one.file, problem: `${known.file} has the id ${one.ticket.id} already` })
      )}
  }
  return { tickets: Array.from(byId.values(), ({ ticket }) => ticket), again }
}

/** Reads the folder. A file that is no ticket is reported and not silently passed over. */
export const readFolder = Effect.fn("support-desk.readFolder")(function*(folder: string) {
  const fs = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const files = (yield* fs.readDirectory(folder)).filter((name) => name.endsWith(".md")).toSorted()
  const [read, unreadable] = yield* Effect.partition(
    files,
    (file) =>
      fs.readFileString(path.join(folder, file)).pipe(
        Effect.flatMap((text) => parse(file, text)),
        Effect.map((ticket) => ({ file, ticket }))
      ),
    { concurrency: 8 }
  )
  const { again, tickets } = first(read)
  return { tickets, unreadable: [...unreadable, ...again] }
})
