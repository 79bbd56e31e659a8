import { it } from "@effect/vitest"
import { Effect, Fiber, Layer, Option, Schema } from "effect"
import { Checkpoint, CheckpointStore } from "effect-resilience"
import { TestClock } from "effect/testing"

/** A test with a store in memory. */
export const test = (
  name: string,
  body: () => Effect.Effect<void, unknown, CheckpointStore.CheckpointStore>,
  timeout?: number
) => it.effect(name, () => Effect.suspend(body).pipe(Effect.provide(CheckpointStore.layerMemory)), timeout)

/** An empty store in memory, also inside of a test that has one. */
export const emptyStore = Layer.fresh(CheckpointStore.layerMemory)

export const text = { success: Schema.String }

/** What a program of the next release, or the world, says no to. */
export class Stop extends Schema.TaggedError<Stop>()("Stop", {}) {}

/** Says what was really done, and how often. */
export const makeLog = () => {
  const log: Array<string> = []
  return { log, did: (what: string) => Effect.sync(() => (log.push(what), what)) }
}

export const kinds = (runId: string) =>
  Effect.map(Checkpoint.inspect(runId), ({ records }) => records.map(({ kind, step }) => `${kind} ${step}`.trim()))

export const statusOf = (runId: string) => Effect.map(Checkpoint.status(runId), Option.getOrUndefined)

/** Lets virtual time go by until the effect has ended. */
export const inVirtualTime = Effect.fnUntraced(function*<A, E, R>(effect: Effect.Effect<A, E, R>) {
  const fiber = yield* Effect.forkChild(effect)
  while (fiber.pollUnsafe() === undefined) yield* TestClock.adjust(100)
  return yield* Fiber.join(fiber)
})

/** What happens to a run whose process is killed: it ends where it is, and its lease stays until its time is over. */
export const killed = Effect.fnUntraced(function*<A, E, R>(
  program: Effect.Effect<A, E, R | CheckpointStore.CheckpointStore>
) {
  const store = yield* CheckpointStore.CheckpointStore
  const dead = { ...store, release: () => Effect.void }
  yield* Effect.exit(Effect.provideService(program, CheckpointStore.CheckpointStore, dead))
  yield* TestClock.adjust("31 seconds")
})
