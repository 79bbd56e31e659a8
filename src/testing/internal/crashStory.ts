import type { Entry } from "../../durable/CheckpointStore.ts"

/**
 * Something that was done to the outside: by which life, where in the program, and what became of it. It is `begun`
 * until it has ended, and stays that if it never did.
 *
 * @internal
 */
export interface Done {
  readonly life: number
  readonly label: string
  readonly runId: string | undefined
  readonly scope: string
  readonly idempotencyKey: string | undefined
  readonly atMostOnce: boolean
  outcome: "begun" | "done" | "failed" | "interrupted"
}

/**
 * What outlives the processes of one story.
 *
 * @internal
 */
export class Story {
  /** By run, the life that holds its lease. */
  readonly held = new Map<string, number>()
  /** By run, the records that a process knows to be written, by their position. */
  readonly acknowledged = new Map<string, Map<number, Entry>>()
  /** The runs that were opened. */
  readonly runs = new Set<string>()
  readonly effects: Array<Done> = []
  private readonly events: Array<() => string> = []

  tell(life: number, what: string | (() => string)): void {
    this.events.push(() => `life ${life}: ${typeof what === "string" ? what : what()}`)
  }

  /** The end of what happened, for people. */
  get log(): ReadonlyArray<string> {
    const shown = 24
    const last = this.events.slice(-shown).map((event) => event())
    return this.events.length > shown ? ["…", ...last] : last
  }
}

/** @internal */
export const where = ({ runId, scope }: Pick<Done, "runId" | "scope">): string =>
  runId === undefined
    ? "outside of any run"
    : `in run "${runId}"${scope === "" ? ", outside of any step" : `, "${scope}"`}`

/** @internal */
export const describe = (effect: Done): string => `"${effect.label}" ${where(effect)}`
