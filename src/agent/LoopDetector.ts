/**
 * Sees from an agent's tool calls and their results that it goes round in circles.
 *
 * **When to use**
 *
 * Every agent has one. Say with the option `loops` of an agent how soon it steps in, or that it does not; use it alone
 * in a loop of your own.
 *
 * @since 0.1.0
 */
import * as Schema from "effect/Schema"
import * as config from "../internal/config.ts"

/**
 * How an agent went round in circles.
 *
 * **Details**
 *
 * - `Repeated`: the same call with the same arguments had the same result `times` times in a row.
 * - `Cycle`: the same `length` turns, results included, came `times` times one after the other.
 * - `NoProgress`: in `turns` turns in a row no call succeeded with a result that was not there before.
 *
 * `tools` are the tools of it, each named once.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Loop = Schema.TaggedUnion({
  Repeated: { tools: Schema.Array(Schema.String), times: Schema.Finite },
  Cycle: { tools: Schema.Array(Schema.String), length: Schema.Finite, times: Schema.Finite },
  NoProgress: { tools: Schema.Array(Schema.String), turns: Schema.Finite }
})

/**
 * How an agent went round in circles.
 *
 * @category models
 * @since 0.1.0
 */
export type Loop = typeof Loop.Type

/**
 * Options of {@link make}.
 *
 * **Details**
 *
 * - `repeats`: how often the same call may have the same result in a row. Default: 3.
 * - `cycles`: how often in a row the same turns, up to four of them, may come. Default: 2, at least 2.
 * - `noProgress`: turns in a row without anything new. A failure is nothing new. Default: 5.
 * - `warnings`: how often the model is told before the agent stops calling tools. After each time everything is counted
 *   anew. Default: 1.
 *
 * `Infinity` turns a rule off.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options {
  readonly repeats?: number | undefined
  readonly cycles?: number | undefined
  readonly noProgress?: number | undefined
  readonly warnings?: number | undefined
}

/**
 * The rules by which loops are found.
 *
 * @category models
 * @since 0.1.0
 */
export interface LoopDetector {
  readonly repeats: number
  readonly cycles: number
  readonly noProgress: number
  readonly warnings: number
}

/**
 * A tool call that has ended.
 *
 * **Details**
 *
 * `call` is the same text for the same arguments of the same tool, `result` for the same result. An `Agent` gives a
 * SHA-256 of the canonical JSON for each, so that the memory of a {@link State} does not grow with them.
 *
 * @category models
 * @since 0.1.0
 */
export interface Observed {
  readonly tool: string
  readonly call: string
  readonly result: string
  readonly isFailure: boolean
}

/**
 * What a detector remembers: bounded, immutable, and a function of the turns alone, so that a replay of the same turns
 * decides the same.
 *
 * @category models
 * @since 0.1.0
 */
export interface State {
  /** The last turns, oldest first: as many as the longest cycle needs. */
  readonly turns: ReadonlyArray<Seen>
  /** How often each call of the last turn has had the same result in a row. */
  readonly inARow: ReadonlyMap<string, number>
  /** The last results, oldest first. */
  readonly known: ReadonlySet<string>
  /** Turns since there was something new. */
  readonly idle: number
  /** The tools of these turns. */
  readonly idleTools: ReadonlySet<string>
  /** Loops found so far. */
  readonly found: number
}

/**
 * A turn as a {@link State} remembers it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Seen {
  readonly key: string
  readonly tools: ReadonlyArray<string>
}

/**
 * The longest cycle that is looked for, in turns.
 *
 * @category constants
 * @since 0.1.0
 */
export const longestCycle = 4

/**
 * How many results are remembered to tell a new one from an old one.
 *
 * @category constants
 * @since 0.1.0
 */
export const knownResults = 256

const module = "LoopDetector"

const atLeast = (option: string, value: number | undefined, otherwise: number, minimum: number): number =>
  value === Infinity ? value : config.integer(module, option, value ?? otherwise, minimum, 1_000)

/**
 * Makes a detector; throws `Fault.InvalidConfig` for a rule that cannot be one.
 *
 * **Example** (Finding a repeated call)
 *
 * ```ts import.meta.vitest
 * import { LoopDetector } from "effect-resilience"
 *
 * const detector = LoopDetector.make({ repeats: 2 })
 * const turn = [{ tool: "Look", call: "Look()", result: "nothing", isFailure: false }]
 *
 * const first = LoopDetector.observe(detector, LoopDetector.initial, turn)
 * first.loop // => undefined
 *
 * const second = LoopDetector.observe(detector, first.state, turn)
 * second.loop // => { _tag: "Repeated", tools: ["Look"], times: 2 }
 * ```
 *
 * @category constructors
 * @since 0.1.0
 */
export const make = (options: Options = {}): LoopDetector => ({
  repeats: atLeast("repeats", options.repeats, 3, 2),
  cycles: atLeast("cycles", options.cycles, 2, 2),
  noProgress: atLeast("noProgress", options.noProgress, 5, 1),
  warnings: config.integer(module, "warnings", options.warnings ?? 1, 0, 100)
})

/**
 * A detector that has seen nothing.
 *
 * @category constructors
 * @since 0.1.0
 */
export const initial: State = {
  turns: [],
  inARow: new Map(),
  known: new Set(),
  idle: 0,
  idleTools: new Set(),
  found: 0
}

const unique = (texts: Iterable<string>): ReadonlyArray<string> => Array.from(new Set(texts)).toSorted()

const last = <A>(items: Iterable<A>, count: number): ReadonlyArray<A> => {
  const all = Array.from(items)
  return all.slice(Math.max(0, all.length - count))
}

/** The length of the cycle in which the last turns are, if they are in one. */
const cycleOf = (turns: ReadonlyArray<Seen>, times: number): number | undefined => {
  for (let length = 2; length <= longestCycle; length++) {
    const needed = length * times
    if (needed > turns.length) return undefined
    const tail = turns.slice(turns.length - needed)
    if (tail.every(({ key }, index) => index < length || key === tail[index - length]?.key)) return length
  }
  return undefined
}

/**
 * Takes in the calls of one turn, in any order, and says whether they make a loop with those before. A turn without
 * calls changes nothing.
 *
 * @category combinators
 * @since 0.1.0
 */
export const observe = (
  detector: LoopDetector,
  state: State,
  calls: ReadonlyArray<Observed>
): { readonly state: State; readonly loop: Loop | undefined } => {
  if (calls.length === 0) return { state, loop: undefined }
  const keyOf = ({ call, result }: Observed) => JSON.stringify([call, result])
  const tools = unique(calls.map(({ tool }) => tool))
  // A turn is what was asked and what came of it, and not in which order or how often.
  const key = JSON.stringify(unique(calls.map(keyOf)))
  const turns = Number.isFinite(detector.cycles)
    ? last([...state.turns, { key, tools }], longestCycle * detector.cycles)
    : []

  const inARow = new Map<string, number>()
  for (const call of calls) inARow.set(keyOf(call), (inARow.get(keyOf(call)) ?? state.inARow.get(keyOf(call)) ?? 0) + 1)
  const isNew = calls.some((call) => !call.isFailure && !state.known.has(keyOf(call)))
  const known = new Set(last([...state.known, ...calls.map(keyOf)], knownResults))
  const idle = isNew ? 0 : state.idle + 1
  const idleTools = new Set(isNew ? [] : last([...state.idleTools, ...tools], knownResults))

  const repeated = calls.filter((call) => (inARow.get(keyOf(call)) ?? 0) >= detector.repeats)
  const length = cycleOf(turns, detector.cycles)
  const loop: Loop | undefined = repeated.length > 0
    ? {
      _tag: "Repeated",
      tools: unique(repeated.map(({ tool }) => tool)),
      times: Math.max(...repeated.map((call) => inARow.get(keyOf(call)) ?? 0))
    }
    : length !== undefined
    ? {
      _tag: "Cycle",
      tools: unique(last(turns, length).flatMap(({ tools }) => tools)),
      length,
      times: detector.cycles
    }
    : idle >= detector.noProgress
    ? { _tag: "NoProgress", tools: unique(idleTools), turns: idle }
    : undefined

  return loop === undefined
    ? { loop, state: { turns, inARow, known, idle, idleTools, found: state.found } }
    // What was old stays old: only the counting begins anew.
    : { loop, state: { ...initial, known, found: state.found + 1 } }
}

/**
 * Whether the model has been told often enough: the next thing is to stop.
 *
 * @category getters
 * @since 0.1.0
 */
export const mustStop = (detector: LoopDetector, state: State): boolean => state.found > detector.warnings

/**
 * Says a loop in words.
 *
 * @category getters
 * @since 0.1.0
 */
export const describe = (loop: Loop): string => {
  const tools = loop.tools.slice(0, 8).join(", ")
  switch (loop._tag) {
    case "Repeated":
      return `the same call (${tools}) with the same arguments had the same result ${loop.times} times in a row`
    case "Cycle":
      return `the same ${loop.length} turns (${tools}) came ${loop.times} times in a row, with the same results`
    case "NoProgress":
      return `in the last ${loop.turns} turns (${tools}) no call brought anything new`
  }
}
