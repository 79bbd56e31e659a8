/**
 * DBOS Transact: a workflow whose steps are recorded in DBOS's system database.
 */
import { Effect } from "effect"
import type { Implementation, Messages, Subject, Task } from "../support/journal.ts"
import { load } from "../support/peer.ts"
import { databaseBytes, temporaryDatabase } from "../support/postgres.ts"

type Workflow = (id: string) => Promise<Messages>

interface Sdk {
  readonly DBOS: {
    readonly setConfig: (config: {
      readonly name: string
      readonly systemDatabaseUrl: string
      readonly logLevel: string
    }) => void
    readonly registerWorkflow: (workflow: Workflow, options: { readonly name: string }) => Workflow
    readonly launch: () => Promise<void>
    readonly shutdown: (options: { readonly deregister: boolean }) => Promise<void>
    readonly startWorkflow: (
      workflow: Workflow,
      options: { readonly workflowID: string }
    ) => (id: string) => Promise<{ readonly getResult: () => Promise<Messages> }>
    readonly runStep: (step: () => Promise<string>, options: { readonly name: string }) => Promise<string>
    readonly cancelWorkflow: (id: string) => Promise<void>
    readonly resumeWorkflow: (id: string) => Promise<unknown>
  }
}

/** Stops a workflow at the end of its steps, and again where it starts anew, until somebody lets it go on. */
const makeCut = () => ({
  executions: 0,
  stopped: Promise.withResolvers<void>(),
  restarted: Promise.withResolvers<void>(),
  released: Promise.withResolvers<void>(),
  ended: Promise.withResolvers<Messages>()
})

interface Run {
  readonly task: Task
  readonly cut: ReturnType<typeof makeCut> | undefined
}

const postgres: Implementation = {
  name: "dbos-postgres",
  open: Effect.gen(function*() {
    const { DBOS } = yield* load<Sdk>("@dbos-inc/dbos-sdk")
    const url = yield* temporaryDatabase
    const runs = new Map<string, Run>()

    const steps = async ({ steps, write }: Task): Promise<Messages> => {
      const messages: Array<string> = []
      for (let index = 0; index < steps; index++) {
        messages.push(await DBOS.runStep(async () => write(index), { name: "message" }))
      }
      return messages
    }

    const run: Workflow = async (id) => {
      const found = runs.get(id)
      if (found === undefined) throw new Error(`run ${id} is unknown`)
      const { cut, task } = found
      if (cut === undefined) return steps(task)
      if (cut.executions++ === 0) {
        await steps(task)
        cut.stopped.resolve()
        return new Promise(() => {})
      }
      cut.restarted.resolve()
      await cut.released.promise
      const messages = await steps(task)
      cut.ended.resolve(messages)
      return messages
    }

    const workflow = yield* Effect.acquireRelease(
      Effect.promise(async () => {
        DBOS.setConfig({ name: "bench", systemDatabaseUrl: url, logLevel: "error" })
        const workflow = DBOS.registerWorkflow(run, { name: "run" })
        await DBOS.launch()
        return workflow
      }),
      () => Effect.promise(() => DBOS.shutdown({ deregister: true }))
    )
    const start = (id: string, run: Run) => {
      runs.set(id, run)
      return DBOS.startWorkflow(workflow, { workflowID: id })(id)
    }

    const subject: Subject = {
      run: (id, task) => Effect.promise(async () => (await start(id, { task, cut: undefined })).getResult()),
      // A resumed workflow waits in a queue that is looked at every second. What is measured begins after that.
      cut: (id, task) =>
        Effect.promise(async () => {
          const cut = makeCut()
          await start(id, { task, cut })
          await cut.stopped.promise
          await DBOS.cancelWorkflow(id)
          await DBOS.resumeWorkflow(id)
          await cut.restarted.promise
          return Effect.promise(() => {
            cut.released.resolve()
            return cut.ended.promise
          })
        }),
      bytes: databaseBytes(url)
    }
    return subject
  })
}

export const implementations: ReadonlyArray<Implementation> = [postgres]
