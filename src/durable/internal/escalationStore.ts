import * as DateTime from "effect/DateTime"
import * as Effect from "effect/Effect"
import type * as Stream from "effect/Stream"
import * as config from "../../internal/config.ts"
import { type Escalation, EscalationError, type Reason, type Status } from "./escalationModel.ts"
import * as State from "./escalationState.ts"

/**
 * Which escalations to list. Default: the oldest 100, whatever their status.
 *
 * @category models
 * @since 0.1.0
 */
export interface Filter {
  readonly status?: Status | undefined
  readonly reason?: Reason | undefined
  readonly runId?: string | undefined
  readonly limit?: number | undefined
}

/**
 * What keeps the escalations: the contract to implement for another database.
 *
 * **Details**
 *
 * Each record is kept with a `revision` that the store assigns: a number that grows with every write to the whole
 * store, in the order in which the writes become visible. Times are in milliseconds since the epoch.
 *
 * - `insert` keeps the record unless there is one with the same id, and returns the one kept.
 * - `replace` writes the record if the stored one still has its `revision`, and otherwise returns nothing.
 * - `select` returns the oldest first; status as of `now`.
 * - `waiting` counts what is neither decided, expired nor withdrawn.
 * - `overdue` returns what is undecided and whose time is over, the earliest first, as it is stored.
 * - `changedSince` returns what was written after a revision, in the order of revisions, and the last of these: everything,
 *   or only what has no recorded outcome, or only what has one that its run is still to hear of (decided or expired, with
 *   a `runId`, not `delivered`).
 * - `listen`, if there is one, says that something was written, also by other processes. What it misses is found by
 *   asking.
 *
 * Effect's `PersistedQueue` does not serve here, though it is persisted, de-duplicates and has leases, on the same
 * databases. It hands each element to one worker, who has to be done with it within that lease, and forgets it then. A
 * question is looked at by many, is listed and found by its id, is decided by somebody who holds it or by nobody in
 * particular, expires with an outcome, and keeps its answer for a run that asks for it later. To wake the run, a queue
 * beside it would do; but the offer would not be one write with the decision, and a crash between the two would lose the
 * wake-up. So what is not delivered yet is an index of this store, written together with the decision.
 *
 * A record that does not decode fails `find` as `Corrupt`; `select` and `changedSince` leave it out and log a warning, so
 * that it does not hide the others.
 *
 * @category models
 * @since 0.1.0
 */
export interface Store {
  readonly insert: (
    record: Escalation
  ) => Effect.Effect<{ readonly record: Escalation; readonly inserted: boolean }, EscalationError>
  readonly find: (id: string) => Effect.Effect<Escalation | undefined, EscalationError>
  readonly replace: (record: Escalation) => Effect.Effect<Escalation | undefined, EscalationError>
  readonly select: (
    filter: Filter & { readonly limit: number; readonly now: number }
  ) => Effect.Effect<ReadonlyArray<Escalation>, EscalationError>
  readonly waiting: (
    now: number
  ) => Effect.Effect<{ readonly count: number; readonly oldest: number | undefined }, EscalationError>
  readonly overdue: (
    now: number,
    options: { readonly limit: number }
  ) => Effect.Effect<ReadonlyArray<Escalation>, EscalationError>
  readonly revision: Effect.Effect<number, EscalationError>
  readonly changedSince: (
    revision: number,
    options: { readonly only: Changed; readonly limit: number }
  ) => Effect.Effect<{ readonly records: ReadonlyArray<Escalation>; readonly revision: number }, EscalationError>
  readonly prune: (before: number) => Effect.Effect<number, EscalationError>
  readonly listen?: Stream.Stream<unknown, EscalationError> | undefined
}

/**
 * Which changes {@link Store} is asked for.
 *
 * @category models
 * @since 0.1.0
 */
export type Changed = "all" | "undecided" | "undelivered"

/** When it was or will be over. */
const endOf = ({ closed, expiresAt, resolution }: Escalation): number => {
  const end = resolution?.at ?? closed?.at ?? expiresAt
  return end === undefined ? Infinity : DateTime.toEpochMillis(end)
}

/**
 * Creates a store in memory.
 *
 * **Details**
 *
 * - `capacity`: how many undecided escalations it holds; one more is refused with `QueueFull`. Default: 10 000.
 * - `history`: how many decided or expired ones it remembers; the oldest are forgotten. Default: 10 000.
 *
 * @category stores
 * @since 0.1.0
 */
export const makeStoreMemory = (
  options: { readonly capacity?: number | undefined; readonly history?: number | undefined } = {}
): Effect.Effect<Store> => {
  const capacity = config.integer("EscalationQueue", "capacity", options.capacity ?? State.defaults.capacity, 1)
  const history = config.integer("EscalationQueue", "history", options.history ?? State.defaults.history, 0)
  return Effect.sync(() => {
    // In the order of submission. The decided ones are listed a second time, in the order of their decisions.
    let records = new Map<string, Escalation>()
    let newest = -Infinity
    const over = new Set<string>()
    let revision = 0

    const isOver = (record: Escalation, now: number): boolean => {
      const { status } = State.asOf(record, now)
      return status !== "open" && status !== "claimed"
    }
    const isOverdue = ({ expiresAt }: Escalation, now: number) =>
      expiresAt !== undefined && DateTime.toEpochMillis(expiresAt) <= now
    const isOf = {
      all: () => true,
      undecided: (record: Escalation) => !State.isOver(record),
      undelivered: State.isUndelivered
    }
    const write = (record: Escalation): Escalation => {
      const written = State.changed(record, { revision: ++revision })
      records.set(written.id, written)
      over.delete(written.id)
      if (State.isOver(written)) over.add(written.id)
      return written
    }
    const forget = () => {
      for (const id of over) {
        if (over.size <= history) break
        over.delete(id)
        records.delete(id)
      }
    }

    return {
      insert: (record) =>
        Effect.gen(function*() {
          const found = records.get(record.id)
          if (found !== undefined) return { record: found, inserted: false }
          if (records.size - over.size >= capacity) {
            const now = DateTime.toEpochMillis(record.submittedAt)
            for (const held of records.values()) if (isOver(held, now)) over.add(held.id)
            forget()
          }
          if (records.size - over.size >= capacity) {
            return yield* new EscalationError({ operation: "submit", reason: { _tag: "QueueFull", capacity } })
          }
          const written = write(record)
          const submittedAt = DateTime.toEpochMillis(record.submittedAt)
          // Only where a clock went back.
          if (submittedAt < newest) {
            records = new Map(
              Array.from(records).toSorted(([, one], [, other]) =>
                DateTime.toEpochMillis(one.submittedAt) - DateTime.toEpochMillis(other.submittedAt)
              )
            )
          }
          newest = Math.max(newest, submittedAt)
          return { record: written, inserted: true }
        }),
      find: (id) => Effect.sync(() => records.get(id)),
      replace: (record) =>
        Effect.sync(() => {
          if (records.get(record.id)?.revision !== record.revision) return undefined
          const written = write(record)
          forget()
          return written
        }),
      select: ({ limit, now, reason, runId, status }) =>
        Effect.sync(() => {
          const found: Array<Escalation> = []
          for (const record of records.values()) {
            if (found.length >= limit) break
            if (reason !== undefined && record.reason !== reason) continue
            if (runId !== undefined && record.runId !== runId) continue
            if (status === undefined || State.asOf(record, now).status === status) found.push(record)
          }
          return found
        }),
      waiting: (now) =>
        Effect.sync(() => {
          const waiting = Array.from(records.values()).filter((record) => !isOver(record, now))
          const [oldest] = waiting
          return { count: waiting.length, oldest: oldest && DateTime.toEpochMillis(oldest.submittedAt) }
        }),
      overdue: (now, { limit }) =>
        Effect.sync(() =>
          Array.from(records.values())
            .filter((record) => !State.isOver(record) && isOverdue(record, now))
            .toSorted((one, other) => endOf(one) - endOf(other))
            .slice(0, limit)
        ),
      revision: Effect.sync(() => revision),
      changedSince: (cursor, { limit, only }) =>
        Effect.sync(() => {
          const changed = Array.from(records.values())
            .filter((record) => record.revision > cursor && isOf[only](record))
            .toSorted((one, other) => one.revision - other.revision)
            .slice(0, limit)
          return { records: changed, revision: changed.at(-1)?.revision ?? cursor }
        }),
      prune: (before) =>
        Effect.sync(() => {
          let count = 0
          for (const record of records.values()) {
            if (endOf(record) > before) continue
            records.delete(record.id)
            over.delete(record.id)
            count += 1
          }
          return count
        })
    }
  })
}
