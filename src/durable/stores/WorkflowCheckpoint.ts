/**
 * Runs `Checkpoint` programs on Effect's workflow engine, in memory or over a cluster.
 *
 * {@link layerWorkflow} is a `CheckpointStore` like any other: the same programs run on it, where they are called. A
 * {@link program} has a name as well, so that whichever runner of a cluster gets it can run it.
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

/** A schema that needs no services: what travels between runners has to be read anywhere. */
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
 * **When to use**
 *
 * Use it for runs that a cluster is to spread over its runners, and to finish when the process that started them is
 * gone. Where runs are worked on by the process that calls `Checkpoint.run`, {@link layerWorkflow} is enough.
 *
 * **Details**
 *
 * - `name`: under which the runners know it. It is stored with every run.
 * - `input`: the schema of what a run is about.
 * - `success` and `error`: the schemas of its result, default `Schema.Void`, and of its own errors, default
 *   `Schema.Never`.
 *
 * A schema with a `Redacted` in it throws `Fault.InvalidConfig`: the secret would be stored in clear.
 *
 * **Example** (A program that any runner can run)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
 * import { WorkflowEngine } from "effect/workflow"
 *
 * const report = WorkflowCheckpoint.program({
 *   name: "report",
 *   input: Schema.Struct({ topic: Schema.String }),
 *   success: Schema.String
 * })
 *
 * const write = WorkflowCheckpoint.implement(report, ({ topic }) =>
 *   Checkpoint.step("write", { success: Schema.String }, Effect.succeed(`About ${topic}`)))
 *
 * // On every runner, over the engine of the cluster.
 * const Runner = WorkflowCheckpoint.layerWorkflowWith({ programs: [write] }).pipe(
 *   Layer.provide(WorkflowEngine.layerMemory)
 * )
 *
 * const program = WorkflowCheckpoint.run(report, { id: "report-7", input: { topic: "tides" } })
 * await Effect.runPromise(Effect.provide(program, Runner)) // => "About tides"
 * ```
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
  const module = "WorkflowCheckpoint.program"
  // Without a schema its type parameter is the default one.
  const success = options.success ?? (Schema.Void as Plain as Success)
  const error = options.error ?? (Schema.Never as Plain as Error)
  for (const [option, schema] of Object.entries({ input: options.input, success, error })) {
    if (hasRedacted(schema)) {
      const value = "a schema with a Redacted value in it"
      throw new Fault.InvalidConfig({ module, option, value, expected: "a schema without secrets" })
    }
  }
  return { name: config.nonEmpty(module, "name", options.name), input: options.input, success, error }
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
 * The effect runs as in `Checkpoint.run`, with the same options, on the runner that the engine chose. It may have steps,
 * the services that were there where {@link layerWorkflowWith} was built, and the engine's own durable deferreds and
 * clocks between its steps: a program that waits for one is suspended by the engine, and woken by it.
 *
 * It runs from its start whenever the engine takes it up again. A step that another branch's wait cuts off is as one
 * that a crash cut off, so wait outside of branches that run side by side.
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
 * Starts programs on the runners of an engine. {@link layerWorkflowWith} provides it; use {@link run} and {@link start}.
 *
 * @category services
 * @since 0.1.0
 */
export class Programs extends Context.Service<Programs, {
  /** @internal */
  readonly run: Internal.Programs["run"]
  /** @internal */
  readonly start: Internal.Programs["start"]
}>()("effect-resilience/durable/stores/WorkflowCheckpoint/Programs") {}

/**
 * Which run of a program is meant: `id` names it, see `Checkpoint.run`, and `input` is what it is about.
 *
 * @category models
 * @since 0.1.0
 */
export interface RunOptions<out Input> {
  readonly id: string
  readonly input: Input
}

const startOf = <Input extends Plain, Success extends Plain, Error extends Plain>(
  module: string,
  self: Program<Input, Success, Error>,
  { id, input }: RunOptions<Input["Type"]>
): Effect.Effect<Internal.Start> => {
  const runId = idOf(module, id)
  return Effect.map(codecs(self).encodeInput(input), (input) => ({ runId, program: self.name, input }))
}

/**
 * Runs a program on the runner that the engine chooses, and waits for what comes of it.
 *
 * **Details**
 *
 * A run that is at work is joined, from whatever process; one that has completed gives its result; one that failed, was
 * suspended, or was begun with `Checkpoint.run`, goes on. Interrupting the caller leaves the run at work: `Checkpoint.cancel`
 * ends it. When the runner's process is gone, the engine has another runner go on with it.
 *
 * A defect of the program is a defect here. Fails with the program's own errors, with what `Checkpoint.run` and its steps
 * fail with, and with
 * - `RunConflict`: the id belongs to a run with another input, or of another program.
 * - `RunLeased`: somebody works on the run with `Checkpoint.run`.
 * - `ProgramMissing`: the runner that got it was not given the program.
 * - `CheckpointCorrupt`: also where the result does not match the program's schema.
 *
 * @category programs
 * @since 0.1.0
 */
export const run = <Input extends Plain, Success extends Plain, Error extends Plain>(
  self: Program<Input, Success, Error>,
  options: RunOptions<Input["Type"]>
): Effect.Effect<Success["Type"], Error["Type"] | Failure, Programs> => {
  const { decodeError, decodeSuccess } = codecs(self)
  const start = startOf("WorkflowCheckpoint.run", self, options)
  return Programs.use((programs) =>
    Effect.flatMap(start, programs.run).pipe(
      Effect.flatMap(
        Effect.matchEffect({
          onSuccess: (json) => decodeSuccess(options.id, json),
          onFailure: (json) => Effect.flatMap(decodeError(options.id, json), Effect.fail)
        })
      )
    )
  )
}

/**
 * Has a program run, without waiting for it. It is stored when this effect ends, and {@link run} with the same id and
 * input gives what comes of it.
 *
 * **Details**
 *
 * Fails with `CheckpointStoreError`, `InputNotJson`, and as {@link run} with `RunConflict` and
 * `RunLeased`.
 *
 * @category programs
 * @since 0.1.0
 */
export const start = <Input extends Plain, Success extends Plain, Error extends Plain>(
  self: Program<Input, Success, Error>,
  options: RunOptions<Input["Type"]>
): Effect.Effect<
  void,
  | CheckpointStoreError
  | Checkpoint.CheckpointCorrupt
  | Checkpoint.InputNotJson
  | Checkpoint.RunConflict
  | Checkpoint.RunLeased,
  Programs
> => {
  const start = startOf("WorkflowCheckpoint.start", self, options)
  return Programs.use((programs) => Effect.flatMap(start, programs.start))
}

/**
 * Options of {@link layerWorkflowWith}.
 *
 * **Details**
 *
 * - `programs`: that this runner can run, default none. Give all runners of a cluster the same.
 * - `owner`: who takes leases, default a random name per layer.
 *
 * @category models
 * @since 0.1.0
 */
export interface Options<out R = never> {
  readonly programs?: ReadonlyArray<Implementation<R>> | undefined
  readonly owner?: LeaseOwner | undefined
}

/**
 * Provides a `CheckpointStore` on the workflow engine at hand, and runs the given programs for whoever starts them.
 *
 * **Details**
 *
 * What {@link layerWorkflow} tells of the store is true here. Two programs of one name throw `Fault.InvalidConfig`.
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWorkflowWith = <R = never>(
  options: Options<R>
): Layer.Layer<CheckpointStore | Programs, never, WorkflowEngine | R> => {
  const implementations = new Map<string, Implementation<R>>()
  for (const implementation of options.programs ?? []) {
    const { name } = implementation
    if (implementations.has(name)) {
      const module = "WorkflowCheckpoint.layerWorkflowWith"
      throw new Fault.InvalidConfig({ module, option: "programs", value: name, expected: "one program of each name" })
    }
    implementations.set(name, implementation)
  }
  return Layer.effectContext(Effect.gen(function*() {
    const engine = yield* Engine.make()
    const log = Log.make(engine)
    const { close, refuseHeld, store } = yield* Store.make(engine, log, options.owner ?? (yield* anonymousOwner))
    const programs = Internal.make(engine, log, refuseHeld)
    const context = Context.make(CheckpointStore, store).pipe(Context.add(Programs, programs))
    const encode = Schema.encodeUnknownEffect(Schema.toCodecJson(Failure))
    const refused = (error: Failure) => Effect.flatMap(Effect.orDie(encode(error)), Effect.fail)
    yield* engine.register((name, runId, execution) => {
      const implementation = implementations.get(name)
      if (implementation === undefined) return refused(new ProgramMissing({ runId, program: name }))
      return programs.input(runId, execution).pipe(
        Effect.catch(refused),
        Effect.flatMap((input) => implementation.execute(runId, input)),
        Effect.provideContext(context)
      )
    })
    yield* Effect.addFinalizer(() => close)
    return context
  }))
}

/**
 * Provides a `CheckpointStore` on the workflow engine at hand: Effect's engine in memory, or that of a cluster.
 *
 * **When to use**
 *
 * Use it where a program already lives on the workflow engine or on a cluster, so that its runs need no other store.
 *
 * **Details**
 *
 * Each lease is an execution of the workflow `effect-resilience/Checkpoint`, and each record the result of an activity
 * in it that is named after the step: `plan`, `section[3]/write`; `pay~2` for the second record about a step, as
 * after an intent; `~run` for the run itself. The effect of a step runs in the fiber of its program, as with every store:
 * interruption, timeouts and spans are the program's own. The order of the records is kept in durable deferreds, which
 * take one value each: who writes behind another one's back finds the place taken, and writes nothing.
 *
 * How it differs from a store that has tables of its own:
 * - A lease lasts as long as its execution, and is not renewed in the engine's storage: another process may see an
 *   `expiresAt` that is over. A run whose process is gone is free once the engine has given its execution to another
 *   runner. `acquire` waits for that up to five seconds, and for no more than half of the lease's time.
 * - `Checkpoint.run` works where it is called. On a cluster of several runners the engine may start the execution on
 *   another one: the run then does without. Its records are kept in the deferreds, and its lease by the clock, which is
 *   renewed there. For runs that the cluster spreads over its runners, see {@link program}.
 * - The engine deletes nothing. A run that was removed is not given any more, but its rows stay in the engine's tables.
 * - `list` asks for the last link of each run that there ever was, and for nothing else of it.
 * - A transaction of the caller has no part in it: what is recorded stays when the transaction is rolled back. With a
 *   client that has a single connection, a step inside of a transaction waits for itself, and fails with `Unavailable`.
 *
 * **Example** (The same program on the workflow engine)
 *
 * ```ts import.meta.vitest
 * import { Effect, Layer, Schema } from "effect"
 * import { Checkpoint } from "effect-resilience"
 * import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
 * import { WorkflowEngine } from "effect/workflow"
 *
 * const count = (n: number) =>
 *   Checkpoint.step("count", { success: Schema.Finite }, Effect.succeed(n)).pipe(Checkpoint.run({ id: "count" }))
 *
 * // On PostgreSQL: ClusterWorkflowEngine.layer over SingleRunner.layer() and a SqlClient.
 * const Live = WorkflowCheckpoint.layerWorkflow.pipe(Layer.provide(WorkflowEngine.layerMemory))
 *
 * await Effect.runPromise(Effect.provide(Effect.all([count(1), count(2)]), Live)) // => [1, 1]
 * ```
 *
 * @category layers
 * @since 0.1.0
 */
export const layerWorkflow: Layer.Layer<CheckpointStore | Programs, never, WorkflowEngine> = layerWorkflowWith({})
