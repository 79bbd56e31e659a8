/** What the guards did, kept in a file next to the database, so that a killed process's deeds are counted too. */
import { Effect, FileSystem, Path, Schema } from "effect"
import type { Telemetry } from "effect-resilience"
import * as fs from "node:fs"

const Entry = Schema.Struct({
  tag: Schema.String,
  label: Schema.String,
  ticket: Schema.optionalKey(Schema.String)
})
const Line = Schema.fromJsonString(Entry)
const encode = Schema.encodeSync(Line)
const decode = Schema.decodeEffect(Line)

type Recorder = (ticket: string | undefined) => (event: Telemetry.Event) => void

const labelOf = (event: Telemetry.Event): string => {
  switch (event._tag) {
    case "RetryScheduled":
      return event.verdict
    case "CircuitChanged":
      return event.to
    case "FallbackUsed":
      return event.source
    case "EscalationOpened":
      return event.reason
    case "ToolCalled":
      return event.outcome === "success" ? event.tool : `${event.tool} refused or failed`
    default:
      return ""
  }
}

/** Appends each event to `events.jsonl`: a line is one write, and survives the process. */
export const recorder = (folder: string): Recorder => {
  const file = `${folder}/events.jsonl`
  return (ticket) => (event) =>
    fs.appendFileSync(
      file,
      `${encode({ tag: event._tag, label: labelOf(event), ...(ticket === undefined ? {} : { ticket }) })}\n`
    )
}

export interface Tally {
  /** How often an event of this tag (and label) was seen, over all lives of the process. */
  readonly count: (tag: Telemetry.Event["_tag"], label?: string) => number
  readonly labels: (tag: Telemetry.Event["_tag"]) => ReadonlyArray<readonly [label: string, count: number]>
}

export const read = Effect.fn("support-desk.readTally")(function*(folder: string) {
  const files = yield* FileSystem.FileSystem
  const path = yield* Path.Path
  const file = path.join(folder, "events.jsonl")
  const text = (yield* files.exists(file)) ? yield* files.readFileString(file) : ""
  // A kill can cut the last line; a line that does not decode is that one.
  const [entries] = yield* Effect.partition(
    text.split("\n").filter((line) => line !== ""),
    (line) => decode(line)
  )
  const count: Tally["count"] = (tag, label) =>
    entries.filter((entry) => entry.tag === tag && (label === undefined || entry.label === label)).length
  const labels: Tally["labels"] = (tag) => {
    const counts = new Map<string, number>()
    for (const entry of entries) if (entry.tag === tag) counts.set(entry.label, (counts.get(entry.label) ?? 0) + 1)
    return [...counts].toSorted(([a], [b]) => a.localeCompare(b))
  }
  return { count, labels } satisfies Tally
})
