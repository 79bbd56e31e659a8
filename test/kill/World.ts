/**
 * The world outside, which remembers what was done to it whatever becomes of the process that did it: a file that is
 * only appended to, and a PostgreSQL table.
 */
import * as Effect from "effect/Effect"
import * as Option from "effect/Option"
import * as Schema from "effect/Schema"
import * as fs from "node:fs"
import type { Say } from "./Event.ts"
import type { Points } from "./Points.ts"

/** One thing that was done: for which step, in which life of the run, under which idempotency key, with what result. */
export const Deed = Schema.Struct({
  step: Schema.String,
  effects: Schema.Literals(["idempotent", "atMostOnce"]),
  life: Schema.Finite,
  key: Schema.String,
  result: Schema.String
})

export type Deed = typeof Deed.Type

/** Where deeds are written. */
export interface Log {
  readonly write: (deed: Deed, points: Points) => Effect.Effect<void>
  readonly read: Effect.Effect<ReadonlyArray<Deed>>
}

const line = Schema.fromJsonString(Deed)
const encode = Schema.encodeSync(line)
const decodeLines = Schema.decodeUnknownSync(Schema.Array(line))

export const file = (path: string): Log => ({
  write: (deed, points) =>
    Effect.acquireUseRelease(
      Effect.sync(() => fs.openSync(path, "a")),
      (file) =>
        points.pass("effect", `before ${deed.step}`).pipe(
          Effect.andThen(Effect.sync(() => fs.writeSync(file, `${encode(deed)}\n`))),
          Effect.andThen(points.pass("effect", `written but not synced ${deed.step}`)),
          Effect.andThen(Effect.sync(() => fs.fsyncSync(file))),
          Effect.andThen(points.pass("effect", `after ${deed.step}`))
        ),
      (file) => Effect.sync(() => fs.closeSync(file))
    ),
  read: Effect.sync(() =>
    fs.existsSync(path) ? decodeLines(fs.readFileSync(path, "utf8").split("\n").filter((line) => line !== "")) : []
  )
})

/** The world as one life of a run meets it. */
export interface World {
  readonly file: Log
  readonly table: Log
  readonly life: number
  /** How many milliseconds it makes the program wait in a step, so that its lease is renewed meanwhile. */
  readonly linger: number
  readonly points: Points
  readonly say: Say
}

export type Where = "file" | "table"

export const act = (world: World, where: Where, deed: Omit<Deed, "life">): Effect.Effect<void> =>
  world[where].write({ ...deed, life: world.life }, world.points)

/** What a step gave, if it was done. */
export const find = (world: World, where: Where, step: string): Effect.Effect<Option.Option<string>> =>
  Effect.map(
    world[where].read,
    (deeds) => Option.map(Option.fromUndefinedOr(deeds.find((deed) => deed.step === step)), ({ result }) => result)
  )
