import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Option from "effect/Option"
import * as Result from "effect/Result"
import type * as Schema from "effect/Schema"
import { canonicalJson } from "../../internal/canonicalJson.ts"
import type { CheckpointStoreError } from "../CheckpointStore.ts"
import { InputNotJson, RunConflict } from "./checkpointErrors.ts"
import { leased } from "./checkpointLife.ts"
import { type Engine, executionId, failure, type Where } from "./workflowEngine.ts"
import { blank, type Last, type Log, type State } from "./workflowLog.ts"
import { patience } from "./workflowStore.ts"

/** @internal */
export interface Start {
  readonly runId: string
  readonly program: string
  readonly input: Schema.Json
}

type Announced = NonNullable<State["program"]>

/**
 * Starts programs under run ids. A program is announced in the run's log, with its input, before an execution runs it:
 * whoever asks for the same run meets the announcement, from whatever runner.
 *
 * @internal
 */
export const make = (
  engine: Engine,
  log: Log,
  refuseHeld: (
    where: Where,
    runId: string,
    last: Last | undefined,
    patience: Duration.Duration
  ) => Effect.Effect<void, CheckpointStoreError>
) => {
  const canonical = (runId: string, input: Schema.Json) =>
    Effect.mapError(
      Effect.fromResult(canonicalJson(input)),
      ({ found, path }) => new InputNotJson({ runId, path, found })
    )

  const inputOf = (where: Where, runId: string, announced: Announced) =>
    Effect.flatMap(
      log.get(where, runId, announced.input),
      (link) =>
        Option.isSome(link) && link.value.input !== undefined
          ? Effect.succeed(link.value.input)
          : Effect.fail(failure(where, { _tag: "Corrupt", detail: "the input of its program is missing" }))
    )

  const differ = (start: Start, reason: RunConflict["reason"], expected: string, found: string) =>
    new RunConflict({ runId: start.runId, reason, expected, found })

  const announce = Effect.fnUntraced(function*(where: Where, start: Start) {
    const { input, program: name, runId } = start
    const found = yield* canonical(runId, input)
    while (true) {
      const last = yield* log.last(where, runId)
      const state = last?.link.state ?? blank
      const before = state.program
      if (before !== null && before.name !== name) return yield* differ(start, "Program", before.name, name)
      const ended = before === null ? Option.none() : yield* engine.poll(where, before.execution)
      if (before !== null && (Option.isNone(ended) || Exit.isSuccess(ended.value))) {
        // What was read from JSON is JSON.
        const expected = Result.getOrThrow(canonicalJson(yield* inputOf(where, runId, before)))
        return expected === found ? before : yield* differ(start, "Input", expected, found)
      }
      // An execution that failed is over; whether its run goes with this input, its journal tells the next one.
      yield* Effect.mapError(refuseHeld(where, runId, last, patience), leased(runId))
      const position = (last?.position ?? -1) + 1
      const program = { name, execution: executionId("run", runId, String(position)), input: position }
      if (last === undefined) yield* log.addRun(where, runId)
      const { isMine } = yield* log.put(where, runId, position, { version: 1, state: { ...state, program }, input })
      if (isMine) return program
    }
  })

  const payload = (runId: string, { input, name }: Announced) => ({
    run: runId,
    session: String(input),
    program: name
  })

  return {
    run: Effect.fnUntraced(function*(start: Start) {
      const where = { operation: "run", runId: start.runId }
      const announced = yield* announce(where, start)
      return yield* engine.join(where, announced.execution, payload(start.runId, announced))
    }),

    start: Effect.fnUntraced(function*(start: Start) {
      const where = { operation: "start", runId: start.runId }
      const announced = yield* announce(where, start)
      yield* engine.start(where, announced.execution, payload(start.runId, announced))
    }),

    /** The input that an execution was started with. */
    input: Effect.fnUntraced(function*(runId: string, execution: string) {
      const where = { operation: "run", runId }
      const last = yield* log.last(where, runId)
      const program = last?.link.state.program ?? null
      if (program?.execution !== execution) {
        // It was started over after the run had been removed, or started as something else.
        return yield* failure(where, { _tag: "Fenced", token: last?.link.state.token ?? -1 })
      }
      return yield* inputOf(where, runId, program)
    })
  }
}

/** @internal */
export type Programs = ReturnType<typeof make>
