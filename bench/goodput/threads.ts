import { Effect, Queue } from "effect"
import { availableParallelism } from "node:os"
import { Worker } from "node:worker_threads"
import type { Scenario } from "./scenarios.ts"
import type { Result } from "./simulation.ts"

/** A scenario with a seed, for all implementations. */
export interface Job {
  readonly scenario: Scenario
  readonly seed: number
}

const ask = (worker: Worker, job: Job): Effect.Effect<ReadonlyArray<Result>> =>
  Effect.callback((resume) => {
    const done = (results: ReadonlyArray<Result>) => {
      worker.off("error", failed)
      resume(Effect.succeed(results))
    }
    const failed = (error: Error) => {
      worker.off("message", done)
      resume(Effect.die(error))
    }
    worker.once("message", done)
    worker.once("error", failed)
    // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has none
    worker.postMessage(job)
  })

/** Runs the jobs in as many threads as there are processors, and gives their results in the order of the jobs. */
export const simulateAll = Effect.fnUntraced(function*(jobs: ReadonlyArray<Job>) {
  const threads = Math.min(jobs.length, availableParallelism())
  const idle = yield* Queue.unbounded<Worker>()
  for (let thread = 0; thread < threads; thread++) {
    const worker = yield* Effect.acquireRelease(
      Effect.sync(() => new Worker(new URL("worker.ts", import.meta.url))),
      (worker) => Effect.promise(() => worker.terminate())
    )
    yield* Queue.offer(idle, worker)
  }
  return yield* Effect.forEach(
    jobs,
    (job) =>
      Effect.gen(function*() {
        const worker = yield* Queue.take(idle)
        const results = yield* ask(worker, job)
        yield* Queue.offer(idle, worker)
        return results
      }),
    { concurrency: threads }
  )
})
