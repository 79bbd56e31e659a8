/** What a worker says on its standard output: an event a line, written before it goes on. */
import * as Schema from "effect/Schema"
import * as fs from "node:fs"

export const Event = Schema.TaggedUnion({
  /** The boundary that it passes now, counted from 1, and 0 for those of renewals. */
  Passing: { at: Schema.Finite, kind: Schema.Literals(["store", "inside", "effect", "person"]), where: Schema.String },
  /** A step has given its result to the program, or the failure that it remembers. */
  Given: { step: Schema.String, as: Schema.Literals(["result", "failure"]), digest: Schema.String },
  /** What a reconcile has found out. */
  Reconciled: { step: Schema.String, happened: Schema.Boolean },
  /** A model was asked: with which conversation, and which calls and results in it have no other half. */
  Asked: { step: Schema.String, prompt: Schema.String, unpaired: Schema.Array(Schema.String) },
  /** The run waits for people. */
  Suspended: {},
  /** The store took longer than the lease, as a busy disk does, so that the run has to be taken up once more. */
  Hindered: { message: Schema.String },
  /** Another process holds the run. */
  Waiting: { holder: Schema.String, millis: Schema.Finite },
  Done: { result: Schema.String },
  Failed: { tag: Schema.String, reason: Schema.String, message: Schema.String }
})

export type Event = typeof Event.Type

const line = Schema.fromJsonString(Event)
const encode = Schema.encodeSync(line)

export const decode = Schema.decodeOption(line)

/** Where a worker says something. */
export type Say = (event: Event) => void

const pause = new Int32Array(new SharedArrayBuffer(4))

const isFull = (error: unknown): boolean => error instanceof Error && "code" in error && error.code === "EAGAIN"

// Written by the process itself and not by Node's stream, so that it is out before anything else happens. Something that
// was loaded may have made the pipe one that does not wait for its reader, so this waits.
export const aloud: Say = (event) => {
  const bytes = Buffer.from(`${encode(event)}\n`)
  let written = 0
  while (written < bytes.length) {
    try {
      written += fs.writeSync(1, bytes, written)
    } catch (error) {
      if (!isFull(error)) throw error
      Atomics.wait(pause, 0, 0, 1)
    }
  }
}
