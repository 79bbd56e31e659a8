/** Faults that are planted in a worker, to see that the harness finds them. */
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"
import type { CheckpointStore, Entry, Lease, RunStatus } from "effect-resilience/durable/CheckpointStore"

export const Fault = Schema.Literals(["dropsIntents", "acknowledgesEarly", "isNotFenced", "keepsItsLease", "isNotPure"])
export type Fault = typeof Fault.Type

type Store = CheckpointStore["Service"]

/** Acknowledges the intents of at-most-once steps, and does not write them. */
const dropsIntents = (store: Store): Store => {
  let dropped = 0
  return {
    ...store,
    append: (lease, entry, status) =>
      Effect.suspend(() => {
        if (!entry.body.includes("\"StepIntended\"")) {
          return store.append(lease, { ...entry, position: entry.position - dropped }, status)
        }
        dropped++
        return Effect.void
      })
  }
}

/** Acknowledges a record, and writes it when the next one comes. */
const acknowledgesEarly = (store: Store): Store => {
  let waiting: readonly [Lease, Entry, RunStatus | undefined] | undefined
  const flush = Effect.suspend(() => {
    const last = waiting
    waiting = undefined
    return last === undefined ? Effect.void : store.append(...last)
  })
  return {
    ...store,
    append: (lease, entry, status) =>
      Effect.andThen(
        flush,
        Effect.sync(() => {
          waiting = [lease, entry, status]
        })
      ),
    release: (lease) => Effect.andThen(flush, store.release(lease))
  }
}

/** Does not mind that its lease was taken over. */
const isNotFenced = (store: Store): Store => ({
  ...store,
  append: (...args) => Effect.ignore(store.append(...args)),
  renew: (...args) => Effect.ignore(store.renew(...args))
})

const keepsItsLease = (store: Store): Store => ({ ...store, release: () => Effect.void })

export const inStore = (fault: Fault | undefined, store: Store): Store => {
  switch (fault) {
    case "dropsIntents":
      return dropsIntents(store)
    case "acknowledgesEarly":
      return acknowledgesEarly(store)
    case "isNotFenced":
      return isNotFenced(store)
    case "keepsItsLease":
      return keepsItsLease(store)
    default:
      return store
  }
}

/** Lets the result depend on the process that gave it. */
export const inProgram = <A, E, R>(fault: Fault | undefined, program: Effect.Effect<A, E, R>) =>
  fault === "isNotPure" ? Effect.map(program, (result) => ({ ...result, by: process.pid })) : program
