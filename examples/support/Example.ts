/**
 * The shape that all examples have: one program whose world is chosen by layers, and two worlds to run it in.
 */
import type { NodeServices } from "@effect/platform-node"
import type { Effect } from "effect"

/** A run of an example: it prints what it does, and fails where its story does not end as it should. */
export type Run = (seed: number) => Effect.Effect<unknown, Error, NodeServices.NodeServices>

export interface Example {
  readonly name: string
  readonly about: string
  /** The failure story on the virtual clock, with everything outside the program scripted: the same for a seed each time. */
  readonly virtual: Run
  /** The same program over real sockets, files and processes, against servers on loopback. */
  readonly live: Run
}
