import type { NonEmptyReadonlyArray } from "effect/Array"
import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as Deferred from "effect/Deferred"
import type * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Option from "effect/Option"
import * as Predicate from "effect/Predicate"
import * as Random from "effect/Random"
import * as Schema from "effect/Schema"
import * as Tracer from "effect/Tracer"
import * as Activity from "effect/workflow/Activity"
import * as DurableDeferred from "effect/workflow/DurableDeferred"
import * as Workflow from "effect/workflow/Workflow"
import { WorkflowEngine, WorkflowInstance } from "effect/workflow/WorkflowEngine"
import { sha256 } from "../../internal/sha256.ts"
import { CheckpointStoreError, type CheckpointStoreReason, type Entry, RunStatus } from "../CheckpointStore.ts"

/**
 * What one activity keeps: records that were written as one, and the lease that wrote them.
 *
 * @internal
 */
export const Kept = Schema.Struct({
  token: Schema.Finite,
  entries: Schema.NonEmptyArray(
    Schema.Struct({ position: Schema.Finite, step: Schema.String, body: Schema.String })
  ),
  status: Schema.optionalKey(RunStatus)
})

/** @internal */
export type Kept = typeof Kept.Type

/** @internal */
export type Entries = NonEmptyReadonlyArray<Entry>

/**
 * The workflow whose executions work on runs: with the name of a program they run it, without one they lend themselves
 * to whoever waits for them in this process. Its name is stored data.
 *
 * @internal
 */
export const workflow = Workflow.make("effect-resilience/Checkpoint", {
  payload: { run: Schema.String, session: Schema.String, program: Schema.NullOr(Schema.String) },
  success: Schema.Json,
  error: Schema.Json,
  idempotencyKey: ({ run, session }) => `${session}:${run}`
})

type Payload = typeof workflow.payloadSchema.Type

/**
 * The id of an execution: what a person can read of the run's id, and a digest that tells apart what looks the same to
 * a database that takes capital letters for small ones. `Workflow.executionId` would ask Web Crypto, which no virtual
 * clock waits for.
 *
 * @internal
 */
export const executionId = (kind: "index" | "journal" | "run", runId: string, session = ""): string => {
  const readable = runId.replaceAll(/[^\w.-]+/g, "_").slice(0, 80)
  return `${readable}${readable === "" ? "" : "-"}${kind}-${sha256(`${kind}:${session}:${runId}`).slice(0, 32)}`
}

/**
 * The end of an execution of {@link workflow}, if there is one.
 *
 * @internal
 */
export type Ended = Exit.Exit<Schema.Json, Schema.Json>

const gone: Ended = Exit.interrupt()

/**
 * An execution of {@link workflow} in this process, under which activities may run.
 *
 * @internal
 */
export interface Host {
  readonly execution: string
  /** Whether the engine has taken the execution away from this process. */
  readonly isLost: () => boolean
  /** Lets the execution end. */
  readonly close: Effect.Effect<void>
  readonly context: Context.Context<WorkflowInstance>
  /** How many activities have been named after each step. */
  readonly names: Map<string, number>
}

/**
 * The execution that a program runs in.
 *
 * @internal
 */
export class Hosted extends Context.Service<Hosted, {
  readonly runId: string
  readonly host: Host
}>()("effect-resilience/durable/internal/Hosted") {}

/** @internal */
export interface Where {
  readonly operation: string
  readonly runId?: string
}

/** @internal */
export const failure = (where: Where, reason: typeof CheckpointStoreReason.Type): CheckpointStoreError =>
  new CheckpointStoreError({ ...where, reason })

// What the cluster says when it cannot do it now: a store that is down, a runner that leaves or is overrun.
const passing: ReadonlySet<unknown> = new Set([
  "AlreadyProcessingMessage",
  "EntityNotAssignedToRunner",
  "MailboxFull",
  "PersistenceError",
  "RunnerNotRegistered",
  "RunnerUnavailable"
])

const reasonOf = (cause: Cause.Cause<unknown>): typeof CheckpointStoreReason.Type => {
  const error = Cause.squash(cause)
  const isPassing = Cause.hasInterruptsOnly(cause) || (Predicate.hasProperty(error, "_tag") && passing.has(error._tag))
  return { _tag: isPassing ? "Unavailable" : "Rejected", cause: error }
}

/** @internal */
export type Engine = Effect.Success<ReturnType<typeof make>>

/**
 * What the store needs of the engine. This is the only file that asks it for anything.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*() {
  const engine = yield* WorkflowEngine
  const scope = yield* Effect.scope
  const services = yield* Effect.context<never>()
  const waiting = new Map<string, Deferred.Deferred<Host>>()

  // Of the caller's context the engine sees the span alone. In the caller's SQL transaction a record could be rolled
  // back after it was acknowledged, and under the caller's workflow an execution would be a child that ends with it.
  const apart = <A, E, R>(effect: Effect.Effect<A, E, R>, context: Context.Context<R>) =>
    effect.pipe(
      Effect.interruptible,
      Effect.updateContext((caller: Context.Context<never>) => {
        const span = Context.getOption(caller, Tracer.ParentSpan)
        return Option.isSome(span) ? Context.add(context, Tracer.ParentSpan, span.value) : context
      }),
      // In a fiber of its own: a runner that shuts down interrupts the fiber that asks it for something.
      Effect.forkIn(scope, { startImmediately: true })
    )

  // The engine has no typed failures: what its storage cannot do, it dies of.
  const call = <A, R>(where: Where, effect: Effect.Effect<A, never, R>, context: Context.Context<R>) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.flatMap(
        apart(effect, context),
        (fiber) => Effect.onInterrupt(restore(Fiber.await(fiber)), () => Fiber.interrupt(fiber))
      )
    ).pipe(
      Effect.flatMap((exit) =>
        Exit.isSuccess(exit) ? Effect.succeed(exit.value) : Effect.fail(failure(where, reasonOf(exit.cause)))
      )
    )

  const under = (execution: string) =>
    Context.add(services, WorkflowInstance, WorkflowInstance.initial(workflow, execution))

  const deferredAt = (position: number) => DurableDeferred.make(String(position), { success: Schema.Json })

  /** What stands at a position of the log that an execution keeps. */
  const get = (where: Where, execution: string, position: number) =>
    Effect.map(
      call(where, engine.deferredResult(deferredAt(position)), under(execution)),
      Option.flatMap((exit) => Exit.isSuccess(exit) ? Option.some(exit.value) : Option.none())
    )

  /** Puts a value where nothing stands yet, and gives what stands there now. The first one wins. */
  const put = (where: Where, execution: string, position: number, value: Schema.Json) =>
    Effect.andThen(
      call(
        where,
        engine.deferredDone(deferredAt(position), {
          workflowName: workflow._tag,
          executionId: execution,
          deferredName: String(position),
          exit: Exit.succeed(value)
        }),
        services
      ),
      Effect.flatMap(get(where, execution, position), (found) =>
        Option.isSome(found)
          ? Effect.succeed(found.value)
          : Effect.fail(failure(where, { _tag: "Unavailable" })))
    )

  const activity = Effect.fnUntraced(function*(
    where: Where,
    context: Context.Context<WorkflowInstance>,
    name: string,
    kept: Kept | undefined
  ) {
    const keeping = Activity.make({
      name,
      success: Kept,
      error: Schema.Literal("missing"),
      execute: kept === undefined ? Effect.fail("missing" as const) : Effect.succeed(kept)
    })
    // A cluster answers so while it delivers once more what a process that was killed had asked for: it is asked again.
    for (let attempt = 0; attempt < 10; attempt++) {
      const result = yield* call(where, engine.activityExecute(keeping, 1), context)
      if (result._tag === "Suspended") continue
      if (Exit.isSuccess(result.exit)) return result.exit.value
      return yield* failure(
        where,
        Cause.hasFails(result.exit.cause)
          ? { _tag: "Corrupt", detail: `the engine has no result of the activity "${name}"` }
          : reasonOf(result.exit.cause)
      )
    }
    const cause = new Error("the engine suspends the execution, as before it interrupts it")
    return yield* failure(where, { _tag: "Unavailable", cause })
  })

  /**
   * Keeps records as the result of an activity that is named after their step, and tells its name. An execution that is
   * started over after a crash meets the activities of its first start: a name that holds something else is passed by.
   */
  const keep = Effect.fnUntraced(function*(where: Where, host: Host, kept: Kept) {
    const step = kept.entries[0].step === "" ? "~run" : kept.entries[0].step
    while (true) {
      const count = (host.names.get(step) ?? 0) + 1
      const name = count === 1 ? step : `${step}~${count}`
      const found = yield* activity(where, host.context, name, kept)
      host.names.set(step, count)
      if (Equal.equals(found, kept)) return name
    }
  })

  /** Gives what an activity keeps. Of one whose rows somebody has deleted a cluster would ask for ever. */
  const kept = (where: Where, execution: string, name: string) =>
    Effect.timeoutOrElse(activity(where, under(execution), name, undefined), {
      duration: "30 seconds",
      orElse: () => failure(where, { _tag: "Unavailable" })
    })

  const execute = (execution: string, payload: Payload) => engine.execute(workflow, { executionId: execution, payload })

  /**
   * Starts an execution and gives it, or nothing where another runner of the cluster got it, or none did in time.
   */
  const open = (runId: string, patience: Duration.Duration) =>
    Effect.uninterruptibleMask((restore) =>
      Effect.gen(function*() {
        const now = yield* Clock.currentTimeMillis
        const nonce = yield* Random.nextIntBetween(0, Number.MAX_SAFE_INTEGER)
        const payload = { run: runId, session: `${now.toString(36)}-${nonce.toString(36)}`, program: null }
        const execution = executionId("run", runId, payload.session)
        const opened = Deferred.makeUnsafe<Host>()
        waiting.set(execution, opened)
        const running = yield* apart(execute(execution, payload), services)
        const close = Effect.suspend(() => {
          waiting.delete(execution)
          return Deferred.isDoneUnsafe(opened)
            ? Effect.flatMap(Deferred.await(opened), (host) => host.close)
            : Effect.void
        })
        const host = yield* restore(
          Effect.raceFirst(
            Effect.asSome(Deferred.await(opened)),
            Effect.as(Fiber.await(running), Option.none<Host>())
          ).pipe(Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.succeedNone }))
        ).pipe(Effect.onInterrupt(() => close))
        if (Option.isNone(host)) yield* close
        return host
      })
    )

  const poll = (where: Where, execution: string): Effect.Effect<Option.Option<Ended>, CheckpointStoreError> =>
    call(
      where,
      engine.poll(workflow, execution).pipe(
        Effect.map(Option.flatMap((result) => result._tag === "Complete" ? Option.some(result.exit) : Option.none())),
        // The engine in memory says so when an execution was cut off without a result.
        Effect.catchDefect((defect) => Cause.isCause(defect) ? Effect.succeedSome(gone) : Effect.die(defect))
      ),
      services
    )

  /** Waits a while for an execution to end. One whose process is gone is ended by its new runner. */
  const ends = (where: Where, runId: string, execution: string, patience: Duration.Duration) =>
    Effect.flatMap(poll(where, execution), (ended) =>
      Option.isSome(ended) ? Effect.succeed(true) : call(
        where,
        Effect.ignore(execute(execution, { run: runId, session: "", program: null })),
        services
      ).pipe(
        Effect.as(true),
        Effect.timeoutOrElse({ duration: patience, orElse: () => Effect.succeed(false) })
      ))

  /** Runs a program, or joins the execution that does, and tells how it ended. */
  const join = (where: Where, execution: string, payload: Payload): Effect.Effect<Ended, CheckpointStoreError> =>
    Effect.flatMap(call(where, Effect.exit(execute(execution, payload)), services), (exit) => {
      const reason = Exit.isFailure(exit) && !Cause.hasFails(exit.cause) ? reasonOf(exit.cause) : undefined
      // The defect of a program is given on as it is.
      return reason?._tag === "Unavailable" ? Effect.fail(failure(where, reason)) : Effect.succeed(exit)
    })

  /** Has a program run, without waiting for it. */
  const start = (where: Where, execution: string, payload: Payload) =>
    call(
      where,
      Effect.ignore(engine.execute(workflow, { executionId: execution, payload, discard: true })),
      services
    )

  const register = <R>(
    program: (name: string, runId: string, execution: string) => Effect.Effect<Schema.Json, Schema.Json, R>
  ) =>
    engine.register(workflow, ({ program: name, run }, execution) =>
      Effect.gen(function*() {
        const context = yield* Effect.context<WorkflowInstance>()
        const ended = Deferred.makeUnsafe<void>()
        let lost = false
        const host: Host = {
          execution,
          context,
          isLost: () => lost,
          close: Effect.asVoid(Deferred.succeed(ended, undefined)),
          names: new Map()
        }
        const lose = Effect.ensuring(Effect.sync(() => {
          lost = true
        }))
        if (name !== null) {
          return yield* lose(Effect.provideService(program(name, run, execution), Hosted, { runId: run, host }))
        }
        // An execution that nobody here waits for was started by a process that is gone, or by another runner.
        const opened = waiting.get(execution)
        if (opened === undefined) return null
        waiting.delete(execution)
        Deferred.doneUnsafe(opened, Exit.succeed(host))
        yield* lose(Deferred.await(ended))
        return null
      }))

  return { get, put, keep, kept, open, ends, poll, join, start, register }
})
