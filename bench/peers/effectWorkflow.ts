/**
 * Effect's own workflow engine, in memory: each step is an Activity.
 */
import { Effect, Layer, Option, Schema } from "effect"
import { Activity, Workflow, WorkflowEngine } from "effect/workflow"
import type { Implementation, Subject, Task } from "../support/journal.ts"

const Run = Workflow.make("Run", {
  payload: { id: Schema.String },
  success: Schema.Array(Schema.String),
  error: Schema.Literal("cut"),
  idempotencyKey: ({ id }) => id
}).annotate(Workflow.SuspendOnFailure, true)

const memory: Implementation = {
  name: "effect-workflow",
  open: Effect.gen(function*() {
    const tasks = new Map<string, Task>()
    const cuts = new Set<string>()

    const body = Run.toLayer(Effect.fnUntraced(function*({ id }) {
      const task = tasks.get(id)
      if (task === undefined) return yield* Effect.die(new Error(`run ${id} is unknown`))
      const messages: Array<string> = []
      for (let index = 0; index < task.steps; index++) {
        messages.push(
          yield* Activity.make({
            name: `message-${index}`,
            success: Schema.String,
            execute: Effect.sync(() => task.write(index))
          })
        )
      }
      return cuts.delete(id) ? yield* Effect.fail("cut" as const) : messages
    }))
    const engine = yield* Layer.build(Layer.provideMerge(body, Layer.fresh(WorkflowEngine.layerMemory)))

    const subject: Subject = {
      run: (id, task) => {
        tasks.set(id, task)
        return Effect.provideContext(Run.execute({ id }), engine)
      },
      cut: (id, task) =>
        Effect.provideContext(
          Effect.gen(function*() {
            tasks.set(id, task)
            cuts.add(id)
            const executionId = yield* Run.execute({ id }, { discard: true })
            while (Option.isNone(yield* Run.poll(executionId))) yield* Effect.yieldNow
            return Effect.provideContext(Effect.andThen(Run.resume(executionId), Run.execute({ id })), engine)
          }),
          engine
        )
    }
    return subject
  })
}

export const implementations: ReadonlyArray<Implementation> = [memory]
