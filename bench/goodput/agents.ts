/**
 * Agents: each works through tasks of so many steps, one after the other, and the context grows with every step.
 */
import { Effect, Exit } from "effect"
import { uniform } from "../../src/testing/internal/seeded.ts"
import type { CallStep, Implementation, Step } from "./client.ts"
import type { VirtualTime } from "./virtualTime.ts"

export interface Shape {
  readonly agents: number
  /** Steps of a task. */
  readonly steps: number
}

/** A step that was answered. */
export interface Done {
  readonly agent: number
  readonly at: number
  readonly inputTokens: number
  /** When its task began anew or was given up, and the step was thrown away. */
  thrownAwayAt: number | undefined
}

/** What a simulation is told of the agents. */
export interface Work {
  readonly done: Array<Done>
  /** How long each finished task took, in milliseconds. */
  readonly taskMillis: Array<number>
  /** Tasks that were given up. */
  lost: number
  /** Answered steps that were asked for again, because their task began anew. */
  repeated: number
  /** Calls that failed for good, as their program saw it. */
  failed: number
}

export const maxOutputTokens = 1_024

/** So often a task is begun anew, or a step repeated, until the task is given up. */
const maxRuns = 10
const pauseMillis = 5_000
/** The agents begin within so many milliseconds. */
const startMillis = 10_000

const normal = (one: number, other: number): number => Math.sqrt(-2 * Math.log(1 - one)) * Math.cos(2 * Math.PI * other)

/** The context of a step: what the task begins with, and what the steps before have brought. */
export const inputTokensOf = (step: number): number => 2_000 + 700 * step

/** One agent, which works for ever. */
export const agent = (options: {
  readonly time: VirtualTime
  readonly seed: number
  readonly number: number
  readonly steps: number
  readonly repeats: Implementation["repeats"]
  readonly call: CallStep
  readonly work: Work
}): Effect.Effect<never> => {
  const { call, number, repeats, seed, steps, time, work } = options
  const draw = (id: string) => uniform(seed, number, id)
  const lognormal = (median: number, sigma: number, id: string) =>
    median * Math.exp(sigma * normal(draw(id), draw(`${id}'`)))

  const task = Effect.fnUntraced(function*(id: number) {
    const began = time.now
    let calls = 0
    let runs = 1
    let doneInRun: Array<Done> = []
    const throwAway = () => {
      for (const done of doneInRun) done.thrownAwayAt = time.now
      doneInRun = []
    }
    for (let step = 0; step < steps;) {
      const name = `${id}/${step}`
      // The tool of the step before, or what starts the task.
      yield* Effect.sleep(lognormal(3_000, 0.6, `tool ${name}`))
      const inputTokens = inputTokensOf(step)
      const outputTokens = Math.min(maxOutputTokens, Math.round(lognormal(350, 0.6, `output ${name}`)))
      const next: Step["next"] = () => ({
        id: `${number}/${name}/${calls++}`,
        inputTokens,
        maxOutputTokens,
        outputTokens
      })
      const exit = yield* Effect.exit(call({ agent: number, inputTokens, next }))
      if (Exit.isSuccess(exit)) {
        const done: Done = { agent: number, at: time.now, inputTokens, thrownAwayAt: undefined }
        doneInRun.push(done)
        work.done.push(done)
        step++
        if (repeats === "step") runs = 1
        continue
      }
      work.failed++
      if (runs >= maxRuns) {
        throwAway()
        work.lost++
        return
      }
      runs++
      yield* Effect.sleep(pauseMillis * (0.5 + draw(`pause ${name} ${calls}`)))
      if (repeats === "task") {
        work.repeated += doneInRun.length
        throwAway()
        step = 0
      }
    }
    work.taskMillis.push(time.now - began)
  })

  return Effect.gen(function*() {
    yield* Effect.sleep(startMillis * draw("start"))
    for (let id = 0;; id++) yield* task(id)
  })
}
