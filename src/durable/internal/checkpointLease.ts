import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import type { CheckpointStore, CheckpointStoreError, Lease } from "../CheckpointStore.ts"

type Store = CheckpointStore["Service"]

interface Kept {
  readonly lease: Lease
  readonly until: number
}

// The leases that this process has ended its work under and could not give back, by the store they are of. Whoever asks
// for such a run here need not wait until the lease is over: nobody works under it any more.
const kept = new WeakMap<Store, Map<string, Kept>>()

const forget = (shared: Store, lease: Lease) =>
  Effect.sync(() => {
    const leases = kept.get(shared)
    if (leases?.get(lease.runId)?.lease === lease) leases.delete(lease.runId)
  })

const keep = (shared: Store, lease: Lease, ttl: Duration.Duration) =>
  Effect.map(Clock.currentTimeMillis, (now) => {
    const leases = kept.get(shared) ?? new Map<string, Kept>()
    // What is over is of no use to anybody, so that there are never more than were kept within one time of a lease.
    for (const [runId, { until }] of leases) if (until <= now) leases.delete(runId)
    kept.set(shared, leases.set(lease.runId, { lease, until: now + Duration.toMillis(ttl) }))
  })

/**
 * Takes the lease of a run. Where this process holds it still from work that it has ended, that one is given back first.
 * `store` is how `shared` is asked.
 *
 * @internal
 */
export const acquire = (
  shared: Store,
  store: Store,
  runId: string,
  ttl: Duration.Duration,
  options?: { readonly takeOver: boolean }
): Effect.Effect<Lease, CheckpointStoreError> => {
  const taken = store.acquire(runId, ttl, options)
  return Effect.catchIf(taken, ({ reason }) => reason._tag === "LeaseHeld", (error) => {
    const left = kept.get(shared)?.get(runId)
    if (left === undefined) return Effect.fail(error)
    // Refused, it was another one's: then so it is when it is asked for again.
    return Effect.andThen(Effect.ignore(release(shared, store, left.lease, ttl)), taken)
  })
}

/**
 * Gives a lease back. One that the store could not take back is kept in mind until it is over.
 *
 * @internal
 */
export const release = (
  shared: Store,
  store: Store,
  lease: Lease,
  ttl: Duration.Duration
): Effect.Effect<void, CheckpointStoreError> =>
  Effect.matchEffect(store.release(lease), {
    onSuccess: () => forget(shared, lease),
    onFailure: (error) =>
      Effect.andThen(
        error.reason._tag === "Unavailable" ? keep(shared, lease, ttl) : forget(shared, lease),
        Effect.fail(error)
      )
  })
