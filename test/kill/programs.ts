/** The programs that are worked to death. What a program needs is loaded with it. */
import type * as Checkpoint from "effect-resilience/durable/Checkpoint"
import * as EscalationQueue from "effect-resilience/durable/EscalationQueue"
import * as Idempotency from "effect-resilience/durable/Idempotency"
import * as Effect from "effect/Effect"
import * as Layer from "effect/Layer"
import type { Unharmed } from "./checks.ts"
import type { Fault } from "./faults.ts"
import type * as Points from "./Points.ts"
import type { Everything, Store } from "./stores.ts"
import type { World } from "./World.ts"

type Asking = EscalationQueue.EscalationQueue | Idempotency.Idempotency

interface Loaded {
  readonly input: unknown
  readonly run: (world: World, fault?: Fault) => Effect.Effect<unknown, unknown, Checkpoint.Run | Asking>
  /** Answers what the run asks people, as people would. */
  readonly answer: (world: World, runId: string) => Effect.Effect<void, unknown, Asking>
  /** How many questions of the run wait for an answer. */
  readonly unanswered: (runId: string) => Effect.Effect<number, unknown, Asking>
}

export interface Program {
  readonly load: () => Promise<Loaded>
  readonly layer: (store: Store, place: string, points: Points.Points) => Promise<Layer.Layer<Everything, unknown>>
  /** Where every process dies of a run that is given up: before its first step is in the journal. */
  readonly deadly: string
  /** Whether a process may be paused there: no other thing that must not happen twice is under way meanwhile. */
  readonly mayPause: (boundary: string, unharmed: Unharmed) => boolean
}

const turnOf = (text: string): string | undefined => /\[\w+\]\/\[turn-\d+\]\/(tools|approvals)/.exec(text)?.[0]

export const programs: Readonly<Record<string, Program>> = {
  durable: {
    load: async () => {
      const { input, program } = await import("./program.ts")
      return { input, run: program, answer: () => Effect.void, unanswered: () => Effect.succeed(0) }
    },
    // It asks nobody, and remembers no calls.
    layer: async (store, place, points) =>
      Layer.mergeAll(await store.layer(place, points), EscalationQueue.layerMemory, Idempotency.layerMemory),
    deadly: "before append StepSucceeded plan",
    mayPause: () => true
  },
  agent: {
    load: async () => {
      const { input, people, program, unanswered } = await import("./agent.ts")
      return { input, run: program, answer: people, unanswered }
    },
    layer: (store, place, points) => store.everything(place, points),
    deadly: "before append StepSucceeded [clerk]/[turn-1]/model",
    // The calls of a turn run beside each other.
    mayPause: (boundary, { deeds }) => {
      if (/recall|remember|ask |change /.test(boundary)) return false
      const turn = turnOf(boundary)
      return turn === undefined || deeds.filter((deed) => turnOf(deed.step) === turn).length < 2
    }
  }
}
