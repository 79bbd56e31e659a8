import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Schema from "effect/Schema"
import { type CheckpointStoreError, RunStatus } from "../CheckpointStore.ts"
import { where as explain } from "./checkpointRecord.ts"
import { type Engine, executionId, failure, Kept, type Where } from "./workflowEngine.ts"

// Links are stored data: raise it when older code could not read them.
const known = 1

/**
 * All there is to know about a run without reading its journal.
 *
 * @internal
 */
export const State = Schema.Struct({
  /** Of the latest lease: where it stands in the log. */
  token: Schema.Finite,
  /** Without an execution the lease lasts until its time is over, else as long as the execution. */
  held: Schema.NullOr(
    Schema.Struct({ owner: Schema.String, until: Schema.Finite, execution: Schema.NullOr(Schema.String) })
  ),
  abandoned: Schema.Finite,
  /** Where the log of this run begins: what stands before was removed. */
  base: Schema.Finite,
  /** The program that was started under this id, the execution that runs it, and where its input stands. */
  program: Schema.NullOr(
    Schema.Struct({ name: Schema.String, execution: Schema.String, input: Schema.Finite })
  ),
  run: Schema.NullOr(
    Schema.Struct({
      status: RunStatus,
      entries: Schema.Finite,
      createdAt: Schema.Finite,
      updatedAt: Schema.Finite
    })
  )
})

/** @internal */
export type State = typeof State.Type

/**
 * One link of a run's log: what happened, and how things stand after it.
 *
 * @internal
 */
export const Link = Schema.Struct({
  version: Schema.Literal(known),
  state: State,
  /** The activity whose result the records are, or the records where no execution could be had. */
  wrote: Schema.optionalKey(
    Schema.Union([Schema.Struct({ execution: Schema.String, activity: Schema.String }), Kept])
  ),
  input: Schema.optionalKey(Schema.Json)
})

/** @internal */
export type Link = typeof Link.Type

/** @internal */
export interface Last {
  readonly position: number
  readonly link: Link
}

/** @internal */
export const blank: State = { token: -1, held: null, abandoned: 0, base: 0, program: null, run: null }

const decode = Schema.decodeUnknownEffect(Link)
const encode = Schema.encodeEffect(Link)

const isTooNew = (json: Schema.Json): json is { readonly version: number } =>
  Predicate.hasProperty(json, "version") && typeof json.version === "number" && json.version > known

const linkOf = (where: Where, position: number, json: Schema.Json): Effect.Effect<Link, CheckpointStoreError> =>
  isTooNew(json)
    ? Effect.fail(failure(where, { _tag: "SchemaTooNew", found: json.version, known }))
    : Effect.mapError(
      decode(json),
      (error) => failure(where, { _tag: "Corrupt", detail: `link ${position} of its log: ${explain(error, json)}` })
    )

/** The last position of a log without gaps at which something stands: a few questions, however long it is. */
const findLast = Effect.fnUntraced(function*<A, E>(
  get: (position: number) => Effect.Effect<Option.Option<A>, E>,
  known = -1
) {
  let low = known
  let missing: number | undefined
  let value: A | undefined
  for (let stride = 1; missing === undefined || missing - low > 1; stride *= 2) {
    const position: number = missing === undefined ? low + stride : low + Math.floor((missing - low) / 2)
    const found: Option.Option<A> = yield* get(position)
    if (Option.isSome(found)) {
      low = position
      value = found.value
    } else missing = position
  }
  return { position: low, value }
})

/**
 * The log of a run, and the index of all runs, in the durable deferreds of executions that are never started. A
 * deferred takes one value and keeps the first, and it can be read from everywhere without leaving a trace. So a writer
 * who puts a link right behind the last one that he knows finds out whether somebody else was there before him.
 *
 * @internal
 */
export const make = (engine: Engine) => {
  const home = (runId: string) => executionId("journal", runId)
  const index = executionId("index", "")

  const get = Effect.fnUntraced(function*(where: Where, runId: string, position: number) {
    const found = yield* engine.get(where, home(runId), position)
    return Option.isNone(found) ? Option.none() : Option.some(yield* linkOf(where, position, found.value))
  })

  /** The last link of a run's log. Whoever knows one of its links has less to ask. */
  const last = Effect.fnUntraced(function*(where: Where, runId: string, known?: Last) {
    const log = home(runId)
    const { position, value } = yield* findLast((position) => engine.get(where, log, position), known?.position)
    if (value === undefined) return known
    const last: Last = { position, link: yield* linkOf(where, position, value) }
    return last
  })

  /** Puts a link, and says whether it is the one that stands there now. */
  const put = Effect.fnUntraced(function*(where: Where, runId: string, position: number, link: Link) {
    // What is encoded here was decoded or made by this code.
    const json = yield* Effect.orDie(encode(link))
    const there = yield* linkOf(where, position, yield* engine.put(where, home(runId), position, json))
    return { link: there, isMine: Equal.equals(there, link) }
  })

  const between = (where: Where, runId: string, from: number, to: number) =>
    Effect.forEach(
      Array.from({ length: Math.max(0, to - from + 1) }, (_, n) => from + n),
      (position) =>
        Effect.flatMap(
          get(where, runId, position),
          Option.match({
            onNone: () => Effect.fail(failure(where, { _tag: "Corrupt", detail: `link ${position} is missing` })),
            onSome: (link) => Effect.succeed(link)
          })
        ),
      { concurrency: 16 }
    )

  let indexed = -1

  const addRun = Effect.fnUntraced(function*(where: Where, runId: string) {
    let { position } = yield* findLast((position) => engine.get(where, index, position), indexed)
    do position++
    while ((yield* engine.put(where, index, position, runId)) !== runId)
    indexed = Math.max(indexed, position)
  })

  const runs = Effect.fnUntraced(function*(where: Where) {
    const { position } = yield* findLast((position) => engine.get(where, index, position), indexed)
    const ids = yield* Effect.forEach(
      Array.from({ length: position + 1 }, (_, position) => position),
      (position) => engine.get(where, index, position),
      { concurrency: 16 }
    )
    return new Set(ids.flatMap((id) => Option.isSome(id) && typeof id.value === "string" ? [id.value] : []))
  })

  return { get, last, put, between, addRun, runs }
}

/** @internal */
export type Log = ReturnType<typeof make>
