/** How all documents ended, and whether the books say the same. */
import { Effect, Schema } from "effect"
import { Checkpoint, EscalationQueue } from "effect-resilience"
import { euros } from "./Invoice.ts"
import { Ledger } from "./Ledger.ts"
import type { Document } from "./Pdf.ts"
import * as Pipeline from "./Pipeline.ts"

/** The documents, the outcomes and the books do not say the same. */
export class DoesNotAddUp extends Schema.TaggedError<DoesNotAddUp>("document-pipeline/DoesNotAddUp")("DoesNotAddUp", {
  problems: Schema.Array(Schema.String)
}) {
  override get message() {
    return `the report does not add up: ${this.problems.join("; ")}`
  }
}

export type Ended = Pipeline.Outcome | { readonly _tag: "Waiting"; readonly document: string; readonly reason: string }

/** Works all documents, four at a time. What waits for a person, and what failed, does not hold up the others. */
export const workAll = (patience: Pipeline.Patience, documents: ReadonlyArray<Document>) => {
  const work = Pipeline.make(patience)
  return Effect.forEach(
    documents,
    (document) =>
      work(document).pipe(
        Effect.map((outcome): Ended => outcome),
        Effect.catchTag("RunSuspended", ({ reason }) =>
          Effect.succeed<Ended>({ _tag: "Waiting", document: document.id, reason })),
        Effect.catch((error) =>
          Effect.succeed<Ended>({ _tag: "Failed", document: document.id, reason: error.message })
        )
      ),
    { concurrency: 4 }
  )
}

export interface Report {
  readonly documents: number
  readonly written: number
  readonly byPerson: number
  readonly escalated: { readonly waiting: number; readonly rejected: number }
  readonly failed: number
  readonly cents: number
  readonly lines: ReadonlyArray<string>
}

/** Adds it all up, from the outcomes and from the books, and fails where they differ. */
export const make = Effect.fnUntraced(function*(documents: ReadonlyArray<Document>, ended: ReadonlyArray<Ended>) {
  const entries = yield* (yield* Ledger).entries
  const open = yield* EscalationQueue.EscalationQueue.use((queue) => queue.depth)
  const runs = yield* Checkpoint.list({ status: "completed" })
  const of = <Tag extends Ended["_tag"]>(tag: Tag) =>
    ended.filter((one): one is Extract<Ended, { readonly _tag: Tag }> => one._tag === tag)
  const written = of("Written")
  const [waiting, rejected, failed] = [of("Waiting"), of("Rejected"), of("Failed")]
  const cents = written.reduce((sum, one) => sum + one.cents, 0)
  const inBooks = entries.reduce((sum, entry) => sum + entry.cents, 0)
  const escalated = waiting.length + rejected.length

  const problems: Array<string> = []
  const same = (what: string, one: number, other: number) => {
    if (one !== other) problems.push(`${what}: ${one} and ${other}`)
  }
  same("documents, and written + escalated + failed", documents.length, written.length + escalated + failed.length)
  same("written, and entries in the books", written.length, entries.length)
  same("cents written, and cents in the books", cents, inBooks)
  same("waiting, and open questions", waiting.length, open)
  same("ended, and completed runs", written.length + rejected.length + failed.length, runs.length)
  if (problems.length > 0) return yield* new DoesNotAddUp({ problems })

  const byPerson = written.filter(({ approvedBy }) => approvedBy === "a person").length
  const report: Report = {
    documents: documents.length,
    written: written.length,
    byPerson,
    escalated: { waiting: waiting.length, rejected: rejected.length },
    failed: failed.length,
    cents,
    lines: [
      `documents  ${documents.length}`,
      `written    ${written.length}, ${euros(cents)}, ${byPerson} of them as a person supplied`,
      `escalated  ${escalated}: ${rejected.length} rejected, ${waiting.length} waiting for a decision`,
      ...rejected.map(({ document, reason }) => `  ${document} rejected: ${reason}`),
      ...waiting.map(({ document, reason }) => `  ${document} ${reason}`),
      `failed     ${failed.length}`,
      ...failed.map(({ reason }) => `  ${reason}`),
      `the books agree: ${entries.length} entries, ${euros(inBooks)}`
    ]
  }
  return report
})
