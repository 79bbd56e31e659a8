/**
 * Runs `Checkpoint` programs on Effect's workflow engine.
 *
 * {@link layerWorkflow} is a `CheckpointStore` like any other: a program that runs on it needs no change. A
 * {@link program} is one that has a name, so that whichever runner of a cluster gets it can run it.
 *
 * @since 0.1.0
 */
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import * as Schema from "effect/Schema"
import type * as Scope from "effect/Scope"
import type { WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { hasRedacted } from "../../internal/hasRedacted.ts"
import * as Checkpoint from "../Checkpoint.ts"
import { anonymousOwner, CheckpointStore, CheckpointStoreError, type LeaseOwner } from "../CheckpointStore.ts"
import { idOf } from "../internal/checkpointLife.ts"
import { where as explain } from "../internal/checkpointRecord.ts"
import * as Engine from "../internal/workflowEngine.ts"
import * as Log from "../internal/workflowLog.ts"
import * as Internal from "../internal/workflowPrograms.ts"
import * as Store from "../internal/workflowStore.ts"

/**
 * A run whose program the runner that got it does not have.
 *
 * @category errors
 * @since 0.1.0
 */
export class ProgramMissing
  extends Schema.TaggedError<ProgramMissing>("effect-resilience/durable/stores/WorkflowCheckpoint/ProgramMissing")(
    "ProgramMissing",
    { runId: Schema.String, program: Schema.String }
  )
{
  readonly [Fault.verdictOf] = Fault.permanent
  override get message() {
    return `run "${this.runId}": the runner that got it has no program "${this.program}"; ` +
      "give it to WorkflowCheckpoint.layerWorkflowWith on every runner, and run it again"
  }
}

/**
 * Schema of {@link Failure}.
 *
 * @category schemas
 * @since 0.1.0
 */
export const Failure = Schema.Union([
  CheckpointStoreError,
  ProgramMissing,
  Checkpoint.AmbiguousStep,
  Checkpoint.CheckpointCorrupt,
  Checkpoint.CheckpointMismatch,
  Checkpoint.ConcurrentSteps,
  Checkpoint.InputNotJson,
  Checkpoint.RecordTooLarge,
  Checkpoint.RunCancelled,
  Checkpoint.RunConflict,
  Checkpoint.RunDeadLettered,
  Checkpoint.RunLeased,
  Checkpoint.RunSuspended,
  Checkpoint.StepNotEncodable
])

/**
 * What the run of any {@link Program} can fail with besides its own errors.
 *
 * @category errors
 * @since 0.1.0
 */
export type Failure = typeof Failure.Type

/** A schema that needs no services, as what travels between runners has to be read anywhere. */
type Plain = Schema.Codec<unknown, unknown>

/**
 * A program that can be started by name: what it is about, and what may come of it.
 *
 * @category models
 * @since 0.1.0
 */
export interface Program<out Input extends Plain, out Success extends Plain, out Error extends Plain> {
  readonly name: string
  readonly input: Input
  readonly success: Success
  readonly error: Error
}

/**
 * Describes a program that can be started by name.
 *
 * **Details**
 *
 * - `name`: under which the runners of a cluster know it. It is stored with every run.
 * - `input`: the schema of what a run is about.
 * - `success` and `error`: the schemas of its result, default `Schema.Void`, and of its own errors, default
 *   `Schema.Never`. They must hold no `Redacted`, which would be stored in clear: that throws `Fault.InvalidConfig`.
 *
 * @category programs
 * @since 0.1.0
 */
export const program = <
  Input extends Plain,
  Success extends Plain = typeof Schema.Void,
  Error extends Plain = typeof Schema.Never
>(options: {
  readonly name: string
  readonly input: Input
  readonly success?: Success
  readonly error?: Error
}): Program<Input, Success, Error> => {
  const where = "WorkflowCheckpoint.program"
  // Without a schema its type parameter is the default one.
  const success = options.success ?? (Schema.Void as Plain as Success)
  const error = options.error ?? (Schema.Never as Plain as Error)
  for (const [option, schema] of Object.entries({ input: options.input, success, error })) {
    if (hasRedacted(schema)) {
      const value = "a schema with a Redacted value in it"
      throw new Fault.InvalidConfig({ module: where, option, value, expected: "a schema without secrets" })
    }
  }
  return {
    name: config.nonEmpty(where, "name", options.name),
    input: options.input,
    success,
    error
  }
}

/**
 * What every program is given: its store, and what the engine gives to a workflow.
 *
 * @category models
 * @since 0.1.0
 */
export type ProgramServices = CheckpointStore | Programs | Scope.Scope | WorkflowEngine | WorkflowInstance

/**
 * A {@link Program} with what it does, for the runners. `R` is what it needs besides {@link ProgramServices}.
 *
 * @category models
 * @since 0.1.0
 */
export interface Implementation<out R> {
  readonly name: string
  /** @internal */
  readonly execute: (runId: string, input: Schema.Json) => Effect.Effect<Schema.Json, Schema.Json, R | ProgramServices>
}

/**
 * Says what a program does.
 *
 * **Details**
 *
 * The effect is run as `Checkpoint.run` runs it, on the runner that the engine chose. It may have steps, and whatever
 * services the layer that it is given to finds where it is built.
 *
 * @category programs
 * @since 0.1.0
 */
export const implement = <Input extends Plain, Success extends Plain, Error extends Plain, R>(
  self: Program<Input, Success, Error>,
  execute: (input: Input["Type"]) => Effect.Effect<Success["Type"], Error["Type"] | Failure, R>,
  options?: Omit<Checkpoint.RunOptions, "id" | "input">
): Implementation<Exclude<R, Checkpoint.Run | ProgramServices>> => {
  const { decodeInput, encodeError, encodeSuccess } = codecs(self)
  const body: Implementation<Exclude<R, Checkpoint.Run> | CheckpointStore>["execute"] = (runId, input) =>
    decodeInput(runId, input).pipe(
      Effect.flatMap((decoded) => Checkpoint.run(execute(decoded), { ...options, id: runId, input })),
      Effect.flatMap(encodeSuccess),
      Effect.catch((error) => Effect.flatMap(encodeError(error), Effect.fail))
    )
  // What is excluded is what the type of `execute` adds again, which TypeScript cannot see of a type parameter.
  return { name: self.name, execute: body as never }
}

const codecs = <Input extends Plain, Success extends Plain, Error extends Plain>(
  self: Program<Input, Success, Error>
) => {
  const input = Schema.toCodecJson(self.input)
  const success = Schema.toCodecJson(self.success)
  const error = Schema.toCodecJson(Schema.Union([self.error, Failure]))
  const decoding =
    <S extends Plain>(what: string, schema: S) =>
    (runId: string, json: Schema.Json): Effect.Effect<S["Type"], Checkpoint.CheckpointCorrupt> =>
      Effect.mapError(
        Schema.decodeUnknownEffect(schema)(json),
        (error) => new Checkpoint.CheckpointCorrupt({ runId, step: "", detail: `its ${what}: ${explain(error, json)}` })
      )
  return {
    // A value that is not what the program's own schema says is a defect: its type has it otherwise.
    encodeInput: (value: Input["Type"]) => Effect.orDie(Schema.encodeUnknownEffect(input)(value)),
    encodeSuccess: (value: Success["Type"]) => Effect.orDie(Schema.encodeUnknownEffect(success)(value)),
    encodeError: (value: Error["Type"] | Failure) => Effect.orDie(Schema.encodeUnknownEffect(error)(value)),
    decodeInput: decoding("input", input),
    decodeSuccess: decoding("result", success),
    decodeError: decoding("error", error)
  }
}

/**
 * Starts programs on the runners of the engine. {@link layerWorkflowWith} provides it; use {@link run} and {@link start}.
 *
 * @category services
 * @since 0.1.0
 */
export class Programs extends Context.Service<Programs, Pick<Internal.Programs, "run" | "start">>()(
  "effect-resilience/durable/stores/WorkflowCheckpoint/Programs"
) {}

/**
 * Which run of a program is meant.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunOptions<out Input> {
  readonly id: string
  readonly input: Input
}

/**
 * Runs a program on the runner that the engine chooses, and waits for what comes of it.
 *
 * @category programs
 * @since 0.1.0
 */
export const run = <Input extends Plain, Success extends Plain, Error extends Plain>(
  self: Program<Input, Success, Error>,
  options: RunOptions<Input["Type"]>
): Effect.Effect<Success["Type"], Error["Type"] | Failure, Programs> => {
  const { decodeError, decodeSuccess } = codecs(self)
  const { id } = options
  return Programs.use((programs) =>
    started(self, options).pipe(
      Effect.flatMap(programs.run),
      Effect.flatMap(
        Effect.matchEffect({
          onSuccess: (json) => decodeSuccess(id, json),
          onFailure: (json) => Effect.flatMap(decodeError(id, json), Effect.fail)
        })
      )
    )
  )
}

export const start = <Input extends Plain, Success extends Plain, Error extends Plain>(
  self: Program<Input, Success, Error>,
  options: RunOptions<Input["Type"]>
): Effect.Effect<void, Failure, Programs> =>
  Programs.use((programs) => Effect.flatMap(started(self, options), programs.start))

const started = <Input extends Plain, Success extends Plain, Error extends Plain>(
  self: Program<Input, Success, Error>,
  { id, input }: RunOptions<Input["Type"]>
): Effect.Effect<Internal.Start> => {
  const runId = idOf("WorkflowCheckpoint.run", id)
  return Effect.map(codecs(self).encodeInput(input), (input) => ({ runId, program: self.name, input }))
}

export interface Options<R> {
  readonly programs?: ReadonlyArray<Implementation<R>> | undefined
  readonly owner?: LeaseOwner | undefined
}

export const layerWorkflowWith = <R = never>(
  options: Options<R> = {}
): Layer.Layer<CheckpointStore | Programs, never, WorkflowEngine | R> =>
  Layer.effectContext(Effect.gen(function*() {
    const engine = yield* Engine.make()
    const log = Log.make(engine)
    const { close, refuseHeld, store } = yield* Store.make(engine, log, options.owner ?? (yield* anonymousOwner))
    const programs = Internal.make(engine, log, refuseHeld)
    const known = new Map((options.programs ?? []).map((implementation) => [implementation.name, implementation]))
    const context = Context.make(CheckpointStore, store).pipe(Context.add(Programs, programs))
    const encode = Schema.encodeUnknownEffect(Schema.toCodecJson(Failure))
    yield* engine.register((name, runId, execution) => {
      const implementation = known.get(name)
      const failed = (error: Failure) => Effect.flatMap(Effect.orDie(encode(error)), Effect.fail)
      if (implementation === undefined) return failed(new ProgramMissing({ runId, program: name }))
      return programs.input(runId, execution).pipe(
        Effect.catch(failed),
        Effect.flatMap((input) => implementation.execute(runId, input)),
        Effect.provideContext(context)
      )
    })
    yield* Effect.addFinalizer(() => close)
    return context
  }))

export const layerWorkflow: Layer.Layer<CheckpointStore | Programs, never, WorkflowEngine> = layerWorkflowWith()
