/** A thread that runs the simulations that it is asked for, one after the other. */
import { Effect } from "effect"
import { parentPort } from "node:worker_threads"
import { implementations } from "./implementations.ts"
import { simulate } from "./simulation.ts"
import type { Job } from "./threads.ts"

parentPort?.on("message", ({ scenario, seed }: Job) => {
  const all = Effect.forEach(implementations, (implementation) => simulate(scenario, implementation, seed))
  // A rejection ends the thread, and whoever started it hears of it.
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- a thread has none
  void Effect.runPromise(all).then((results) => parentPort?.postMessage(results))
})
