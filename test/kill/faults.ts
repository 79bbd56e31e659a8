/** Faults that are planted in a worker, to see that the harness finds them. */
import type { CheckpointStore } from "effect-resilience/durable/CheckpointStore"
import type { EscalationQueue } from "effect-resilience/durable/EscalationQueue"
import * as Array from "effect/Array"
import * as Effect from "effect/Effect"
import * as Schema from "effect/Schema"

export const Fault = Schema.Literals([
  "dropsIntents",
  "acknowledgesEarly",
  "isNotFenced",
  "keepsItsLease",
  "isNotPure",
  "forgetsSpending",
  "losesResults",
  "tellsItsProcess",
  "asksInVain"
])
export type Fault = typeof Fault.Type

type Store = CheckpointStore["Service"]

/** Acknowledges the intents of at-most-once steps, and does not write them. */
const dropsIntents = (store: Store): Store => {
  let dropped = 0
  return {
    ...store,
    append: (lease, entries, status) =>
      Effect.suspend(() => {
        const kept = entries.filter(({ body }) => !body.includes("\"StepIntended\""))
        const moved = Array.map(kept, (entry, index) => ({ ...entry, position: entries[0].position - dropped + index }))
        dropped += entries.length - kept.length
        return Array.isReadonlyArrayNonEmpty(moved) ? store.append(lease, moved, status) : Effect.void
      })
  }
}

/** Acknowledges a record, and writes it when the next one comes. */
const acknowledgesEarly = (store: Store): Store => {
  let waiting: Parameters<Store["append"]> | undefined
  const flush = Effect.suspend(() => {
    const last = waiting
    waiting = undefined
    return last === undefined ? Effect.void : store.append(...last)
  })
  return {
    ...store,
    append: (...args) =>
      Effect.andThen(
        flush,
        Effect.sync(() => {
          waiting = args
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

/** Gives back what a model call has spent as nothing. */
const forgetsSpending = (store: Store): Store => ({
  ...store,
  read: (runId) =>
    Effect.map(
      store.read(runId),
      Array.map(({ body, position, step }) => ({
        position,
        step,
        body: body.replace(/"inputTokens":\d+/, "\"inputTokens\":0")
      }))
    )
})

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
    case "forgetsSpending":
      return forgetsSpending(store)
    default:
      return store
  }
}

/** Asks people something more, which nobody waits for. */
const asksInVain = (queue: EscalationQueue["Service"]): EscalationQueue["Service"] => ({
  ...queue,
  decide: (id, ...args) =>
    Effect.tap(
      queue.decide(id, ...args),
      ({ runId }) => queue.submit({ reason: "RequiresHuman", task: "May I?", runId, dedupeKey: `${id}/again` })
    )
})

export const inQueue = (fault: Fault | undefined, queue: EscalationQueue["Service"]): EscalationQueue["Service"] =>
  fault === "asksInVain" ? asksInVain(queue) : queue

/** Lets the result depend on the process that gave it. */
export const inProgram = <A, E, R>(fault: Fault | undefined, program: Effect.Effect<A, E, R>) =>
  fault === "isNotPure" ? Effect.map(program, (result) => ({ result, by: process.pid })) : program
