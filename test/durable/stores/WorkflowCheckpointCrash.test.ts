import { assert, describe, it } from "@effect/vitest"
import { Cause, Context, Effect, Exit, Fiber, Layer, Schema, Scope } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import * as WorkflowCheckpoint from "effect-resilience/durable/stores/WorkflowCheckpoint"
import { ClusterError } from "effect/cluster"
import { TestClock } from "effect/testing"
import { WorkflowEngine } from "effect/workflow"
import { runs } from "../../support/runs.ts"

type Engine = WorkflowEngine.WorkflowEngine["Service"]

/** How an engine fails: from some call on, after a last one that it did and did not answer, or just once. */
type Mode = "gone" | "unanswered" | "once"

/** An engine as a process sees it whose storage fails at some call. */
const cutAt = (engine: Engine, at: number, mode: Mode) => {
  let calls = 0
  const cut = <A, E, R>(effect: Effect.Effect<A, E, R>) =>
    Effect.suspend(() => {
      const call = calls++
      if (call < at || (mode === "once" && call > at)) return effect
      const lost = Effect.die(new ClusterError.PersistenceError({ cause: "the database is gone" }))
      return mode === "unanswered" && call === at ? Effect.andThen(effect, lost) : lost
    })
  const flaky: Engine = WorkflowEngine.WorkflowEngine.of({
    ...engine,
    execute: (workflow, options) => cut(engine.execute(workflow, options)),
    poll: (workflow, execution) => cut(engine.poll(workflow, execution)),
    activityExecute: (activity, attempt) => cut(engine.activityExecute(activity, attempt)),
    deferredResult: (deferred) => cut(engine.deferredResult(deferred)),
    deferredDone: (deferred, options) => cut(engine.deferredDone(deferred, options))
  })
  return { flaky, calls: () => calls }
}

/** The world outside, which remembers what was done to it whatever becomes of the program. */
const makeWorld = () => {
  const done: Array<string> = []
  const count = (what: string) => done.filter((other) => other === what).length
  return {
    count,
    act: (what: string) => Effect.andThen(Effect.yieldNow, Effect.sync(() => void done.push(what))),
    look: (what: string) => Effect.sync(() => count(what) > 0 ? Checkpoint.happened(undefined) : Checkpoint.notHappened)
  }
}

const text = { success: Schema.String }

const steps = (world: ReturnType<typeof makeWorld>) => {
  const once = (what: string) =>
    Checkpoint.step(what, { effects: "atMostOnce", reconcile: world.look(what) }, world.act(what))
  return Effect.gen(function*() {
    const plan = yield* Checkpoint.step("plan", text, Effect.as(world.act("plan"), "the plan"))
    yield* once("charge")
    const parts = yield* Checkpoint.forEach(
      ["a", "b"],
      (part) => Checkpoint.step("write", text, Effect.as(world.act(part), `part ${part}`)),
      { concurrency: 2 }
    )
    yield* once("publish")
    return [plan, ...parts].join(", ")
  })
}

const expected = "the plan, part a, part b"

const report = WorkflowCheckpoint.program({ name: "report", input: Schema.Null, success: Schema.String })

/** A process: a store of its own on an engine, which is gone with its scope. */
const inProcess = <A, E>(
  engine: Engine,
  world: ReturnType<typeof makeWorld>,
  effect: Effect.Effect<A, E, Layer.Success<typeof WorkflowCheckpoint.layerWorkflow>>
) =>
  Effect.gen(function*() {
    const scope = yield* Scope.make()
    const programs = [WorkflowCheckpoint.implement(report, () => steps(world))]
    const context = yield* Layer.build(
      Layer.fresh(WorkflowCheckpoint.layerWorkflowWith({ programs })).pipe(
        Layer.provide(Layer.succeed(WorkflowEngine.WorkflowEngine, engine))
      )
    ).pipe(Scope.provide(scope))
    const fiber = yield* Effect.forkChild(Effect.exit(Effect.provideContext(effect, context)))
    while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust("1 second")
    yield* Scope.close(scope, Exit.void)
    return yield* Fiber.join(fiber)
  })

const engine = Effect.map(
  Layer.build(Layer.fresh(WorkflowEngine.layerMemory)),
  (context) => Context.get(context, WorkflowEngine.WorkflowEngine)
)

type Run = (world: ReturnType<typeof makeWorld>) => Effect.Effect<
  string,
  Checkpoint.RunError | WorkflowCheckpoint.Failure,
  Layer.Success<typeof WorkflowCheckpoint.layerWorkflow>
>

const programs: Record<string, Run> = {
  "Checkpoint.run": (world) => steps(world).pipe(Checkpoint.run({ id: "r", input: { topic: "tides" } })),
  "WorkflowCheckpoint.run": () => WorkflowCheckpoint.run(report, { id: "r", input: null })
}

describe("layerWorkflow on an engine that fails", () => {
  for (const [name, run] of Object.entries(programs)) {
    for (const [offset, mode] of (["gone", "unanswered", "once"] as const).entries()) {
      it.effect(
        `${name}: ${mode === "once" ? "fails once" : `is ${mode}`} at any call, and the run ends as if it had not been`,
        () =>
          Effect.gen(function*() {
            const undisturbed = cutAt(yield* engine, Infinity, mode)
            const world = makeWorld()
            const exit = yield* inProcess(undisturbed.flaky, world, run(world))
            assert.deepStrictEqual(exit, Exit.succeed(expected))
            assert.isAbove(undisturbed.calls(), 20)
            for (let at = runs(offset, 0); at < undisturbed.calls(); at += runs(5, 1)) {
              const healthy = yield* engine
              const world = makeWorld()
              const first = yield* inProcess(cutAt(healthy, at, mode).flaky, world, run(world))
              if (Exit.isSuccess(first)) assert.strictEqual(first.value, expected)
              else {
                const error = Cause.squash(first.cause)
                assert.isTrue(
                  error instanceof CheckpointStore.CheckpointStoreError && error.reason._tag === "Unavailable",
                  `cut at call ${at}: ${String(error)}`
                )
              }
              const second = yield* inProcess(healthy, world, run(world))
              assert.deepStrictEqual(second, Exit.succeed(expected), `cut at call ${at}`)
              for (const what of ["charge", "publish"]) {
                assert.strictEqual(world.count(what), 1, `${what}, cut at call ${at}`)
              }
              const third = yield* inProcess(healthy, world, run(world))
              assert.deepStrictEqual(third, Exit.succeed(expected), `cut at call ${at}, once more`)
            }
          }).pipe(Effect.scoped)
      )
    }
  }
})
