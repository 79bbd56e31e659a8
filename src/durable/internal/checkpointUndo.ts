import * as Effect from "effect/Effect"
import type * as Schema from "effect/Schema"
import type * as Record from "./checkpointRecord.ts"

/** @internal */
export const TypeId = "~effect-resilience/durable/Compensation/Undo"

/**
 * A way to undo what gives an `A`: a `Compensation`. `R` is what a step needs that is undone by it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Undo<in A, out R = never> {
  readonly [TypeId]: {
    readonly name: string
    readonly hasRedacted: boolean
    /** The JSON of what it is given, or what is wrong with it. */
    readonly encode: (input: A) => Effect.Effect<Schema.Json, string, R>
  }
}

/**
 * How a step is undone that gives an `A`: by a `Compensation` that is given the same, or by one that is given something
 * else.
 *
 * **Details**
 *
 * - `by`: the compensation.
 * - `input`: what it is given, from what the step gave.
 * - `inDoubt`: what it is given where nobody knows whether the step took effect: it was cut off, or its failure says
 *   nothing about it. The compensation has to stand that nothing has happened; it is told. Default: people are asked.
 *
 * @category models
 * @since 0.1.0
 */
export type UndoBy<A, Input, R> =
  | Undo<A, R>
  | {
    readonly by: Undo<Input, R>
    readonly input: (value: A) => Input
    readonly inDoubt?: (() => Input) | undefined
  }

/** @internal */
export interface Undoer<in A, out R> {
  readonly hasRedacted: boolean
  /** What is written before the step runs, and with its value. */
  readonly attempted: Effect.Effect<Record.Undo, string, R>
  readonly succeeded: (value: A, json: Schema.Json) => Effect.Effect<Record.Undo, string, R>
}

const isSameJson = (one: Schema.Json | undefined, other: Schema.Json | undefined): boolean =>
  JSON.stringify(one) === JSON.stringify(other)

const calling = <A>(option: string, f: () => A): Effect.Effect<A, string> =>
  Effect.try({ try: f, catch: () => `the ${option} of its undo threw` })

/** @internal */
export const undoer = <A, Input, R>(undo: UndoBy<A, Input, R>): Undoer<A, R> => {
  if (TypeId in undo) {
    const { encode, hasRedacted, name } = undo[TypeId]
    return {
      hasRedacted,
      attempted: Effect.succeed({ name }),
      succeeded: (value, json) =>
        Effect.map(encode(value), (input) => isSameJson(input, json) ? { name } : { name, input })
    }
  }
  const { by, inDoubt, input } = undo
  const { encode, name } = by[TypeId]
  const { attempted, succeeded, ...rest } = undoer(by)
  return {
    ...rest,
    attempted: inDoubt === undefined
      ? attempted
      : Effect.flatMap(calling("inDoubt", inDoubt), (input) => Effect.map(encode(input), (input) => ({ name, input }))),
    succeeded: (value, json) => Effect.flatMap(calling("input", () => input(value)), (input) => succeeded(input, json))
  }
}

/**
 * What a step has done, or may have done, and how it is undone.
 *
 * @internal
 */
export interface Undoable {
  readonly step: string
  /** Where its result stands in the journal, or that it was tried. */
  readonly position: number
  readonly name: string
  readonly input: Schema.Json | undefined
  /** Whether nobody knows that it has happened. */
  readonly inDoubt: boolean
}

/**
 * What the steps of a run have done that can be undone. It holds, whatever way the program takes and whatever does not
 * count any more: what has happened has happened.
 *
 * @internal
 */
export interface Undoables {
  readonly all: () => ReadonlyArray<Undoable>
  readonly of: (step: string) => ReadonlyArray<Undoable>
  readonly track: (step: string, record: Record.WithoutTime<Record.StepRecord>, position: number) => void
  /** Forgets all of it: it is written anew, or is for another run to undo. */
  readonly clear: () => void
}

const isSame = (one: Pick<Undoable, "name" | "input">, other: Pick<Undoable, "name" | "input">): boolean =>
  one.name === other.name && isSameJson(one.input, other.input)

/**
 * Whether it is written already that a step is tried, and how it would be undone.
 *
 * @internal
 */
export const isTried = (known: ReadonlyArray<Undoable>, { input, name }: Record.Undo): boolean => {
  const last = known.at(-1)
  return last !== undefined && last.inDoubt && isSame(last, { name, input })
}

/** @internal */
export const undoables = (): Undoables => {
  const steps = new Map<string, ReadonlyArray<Undoable>>()
  const of = (step: string): ReadonlyArray<Undoable> => steps.get(step) ?? []

  const tried = (step: string, { input, name }: Record.Undo, position: number) => {
    const known = of(step)
    // Tried once more, it is the same thing. With something else it is not: an earlier life of the run has gone another
    // way, and there this was the name of something else.
    if (!isTried(known, { name, ...(input === undefined ? {} : { input }) })) {
      steps.set(step, [...known, { step, position, name, input, inDoubt: true }])
    }
  }

  const happened = (step: string, name: string, input: Schema.Json | undefined, position: number) => {
    const known = of(step)
    const earlier = known.at(-1)?.inDoubt ? known.slice(0, -1) : known
    const undoable = { step, position, name, input, inDoubt: false }
    steps.set(step, [...earlier.filter((other) => other.inDoubt || !isSame(other, undoable)), undoable])
  }

  const didNotHappen = (step: string) => {
    const known = of(step)
    if (known.at(-1)?.inDoubt) steps.set(step, known.slice(0, -1))
  }

  return {
    all: () => Array.from(steps.values()).flat(),
    of,
    clear: () => steps.clear(),
    track: (step, record, position) => {
      switch (record._tag) {
        case "StepIntended":
          if (record.undo !== undefined) tried(step, record.undo, position)
          break
        case "StepUndoable": {
          const { done, ran, undo } = record
          if (done) happened(step, undo.name, undo.input, ran ?? position)
          else tried(step, undo, position)
          break
        }
        case "StepSucceeded": {
          const { undo, value } = record
          if (undo !== undefined) happened(step, undo.name, undo.input === undefined ? value : undo.input, position)
          break
        }
        case "StepReleased":
          didNotHappen(step)
          break
        case "StepRetried":
        case "StepFailed":
          if (record.doubt !== true) didNotHappen(step)
          break
        case "StepOversized":
          break
      }
    }
  }
}
