import * as Effect from "effect/Effect"

/**
 * The last `limit` entries, and effects that wait until one of them is in a given state.
 *
 * @internal
 */
export const make = <Entry extends { readonly index: number }>(limit: number) => {
  const entries = new Map<number, Entry>()
  const firstWithBody = new Map<string, number>()
  const waiters = new Set<() => void>()
  let next = 0
  let closed = false

  const wakeAll = (): void => {
    for (const wake of Array.from(waiters)) wake()
  }
  const forget = (): void => {
    for (const [index] of entries) {
      if (entries.size <= limit) break
      entries.delete(index)
    }
    for (const [body, index] of firstWithBody) {
      if (entries.has(index)) break
      firstWithBody.delete(body)
    }
  }

  return {
    nextIndex: (): number => next++,
    all: (): ReadonlyArray<Entry> => Array.from(entries.values()),
    /** The entry that first had this body, if that was another one. */
    repeated: (body: string, index: number): number | undefined => {
      const first = firstWithBody.get(body)
      if (first === undefined) firstWithBody.set(body, index)
      return first
    },
    add: (entry: Entry): void => {
      entries.set(entry.index, entry)
      forget()
      wakeAll()
    },
    update: (index: number, change: Partial<Entry>): void => {
      const entry = entries.get(index)
      if (entry === undefined) return
      entries.set(index, { ...entry, ...change })
      wakeAll()
    },
    close: (): void => {
      closed = true
      wakeAll()
    },
    /** `ready` says whether the wait is over, or in a text why it never will be. */
    wait: (index: number, ready: (entry: Entry) => boolean | string): Effect.Effect<Entry> =>
      Effect.callback<Entry>((resume) => {
        const finish = (effect: Effect.Effect<Entry>): void => {
          waiters.delete(wake)
          resume(effect)
        }
        const wake = (): void => {
          const entry = entries.get(index)
          const state = entry === undefined ? index < next && "it is no longer kept: raise `history`" : ready(entry)
          if (entry !== undefined && state === true) finish(Effect.succeed(entry))
          else if (typeof state === "string") finish(Effect.die(new Error(`Waiting for request ${index}: ${state}`)))
          else if (closed) finish(Effect.die(new Error(`Waiting for request ${index}: the server has closed`)))
        }
        waiters.add(wake)
        wake()
        return Effect.sync(() => waiters.delete(wake))
      }).pipe(
        // who waits resumes in the middle of the server's own step: let that step end, so that a delay is being waited
        // for and a hang hangs before the test goes on
        Effect.tap(() => Effect.yieldNow)
      )
  }
}
