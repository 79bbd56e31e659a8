/**
 * Decisions that land at every point around the suspension of a run.
 */
import { Effect } from "effect"
import { CheckpointStore, EscalationQueue } from "effect-resilience"

const points = [
  "when the question is stored",
  "before the suspension is written",
  "after the suspension is written",
  "before the lease is given back",
  "after the lease is given back",
  "after the run has ended",
  "a moment later",
  "much later",
  "never, so that it expires",
  "when the question is read again"
] as const

export type Point = (typeof points)[number]

/** The points in turn, by the number in a run's id: `run 7`. */
export const pointOf = (runId: string): Point | undefined => points[Number(runId.slice(4)) % points.length]

/** A queue and a store that let the decision about a run land at its point, if that is one of what the run does with them. */
export const decidingAtPoints = Effect.fnUntraced(function*(
  decision: (runId: string) => EscalationQueue.Decision,
  at: (runId: string) => Point | undefined = pointOf
) {
  const checkpoints = yield* CheckpointStore.CheckpointStore
  const held = yield* EscalationQueue.makeStoreMemory()
  const plain = yield* EscalationQueue.make({ store: held })
  const decided = new Set<string>()
  const decideAt = (runId: string, point: Point) =>
    Effect.gen(function*() {
      if (at(runId) !== point || decided.has(runId)) return
      const [open] = yield* plain.list({ runId, status: "open" })
      if (open === undefined) return
      decided.add(runId)
      yield* plain.decide(open.id, decision(runId), { by: "ann" })
    }).pipe(Effect.orDie)
  const queue = yield* EscalationQueue.make({
    store: {
      ...held,
      insert: (record) =>
        Effect.tap(
          held.insert(record),
          ({ inserted, record }) =>
            decideAt(record.runId ?? "", inserted ? "when the question is stored" : "when the question is read again")
        )
    }
  })
  const store = CheckpointStore.CheckpointStore.of({
    ...checkpoints,
    append: (lease, entries, status) =>
      decideAt(lease.runId, "before the suspension is written").pipe(
        Effect.when(Effect.succeed(status === "escalated")),
        Effect.andThen(checkpoints.append(lease, entries, status)),
        Effect.tap(status === "escalated" ? decideAt(lease.runId, "after the suspension is written") : Effect.void)
      ),
    release: (lease) =>
      decideAt(lease.runId, "before the lease is given back").pipe(
        Effect.andThen(checkpoints.release(lease)),
        Effect.tap(decideAt(lease.runId, "after the lease is given back"))
      )
  })

  /** Runs a program, and lets the decisions land that come when it has ended. */
  const through = <A, E, R>(runId: string, program: Effect.Effect<A, E, R>) =>
    program.pipe(
      Effect.exit,
      Effect.tap(decideAt(runId, "after the run has ended")),
      Effect.tap(Effect.forkScoped(Effect.andThen(Effect.sleep("5 millis"), decideAt(runId, "a moment later")))),
      Effect.tap(Effect.forkScoped(Effect.andThen(Effect.sleep("5 minutes"), decideAt(runId, "much later")))),
      Effect.tap(at(runId) === "when the question is read again" ? Effect.exit(program) : Effect.void)
    )
  return { decided, held, queue, store, through }
})
