import { Effect, type Scope } from "effect"
import type { VirtualTime } from "./virtualTime.ts"

/**
 * Puts what cockatiel takes from the global object on virtual time, until the scope ends: its timers, its clock and its
 * dice. All that is read is `setTimeout`, `clearTimeout`, `Date.now`, `performance.now` and `Math.random`.
 */
export const withGlobals = (time: VirtualTime, random: () => number): Effect.Effect<void, never, Scope.Scope> =>
  Effect.asVoid(Effect.acquireRelease(
    Effect.sync(() => {
      const before = {
        setTimeout: globalThis.setTimeout,
        clearTimeout: globalThis.clearTimeout,
        dateNow: Date.now,
        performanceNow: performance.now,
        random: Math.random
      }
      const running = new Map<number, () => void>()
      let last = 0
      const start = (run: () => void, millis = 0): number => {
        const id = ++last
        running.set(
          id,
          time.after(millis, () => {
            running.delete(id)
            run()
          })
        )
        return id
      }
      const stop = (id: number): void => {
        running.get(id)?.()
        running.delete(id)
      }
      Object.assign(globalThis, { setTimeout: start, clearTimeout: stop })
      Date.now = () => time.currentTimeMillisUnsafe()
      performance.now = () => time.now
      Math.random = random
      return before
    }),
    ({ clearTimeout, dateNow, performanceNow, random, setTimeout }) =>
      Effect.sync(() => {
        Object.assign(globalThis, { setTimeout, clearTimeout })
        Date.now = dateNow
        performance.now = performanceNow
        Math.random = random
      })
  ))
