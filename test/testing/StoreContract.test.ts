import { assert, describe, it } from "@effect/vitest"
import { Clock, Duration, Effect, Exit, Layer, Option } from "effect"
import { CheckpointStore } from "effect-resilience"
import { StoreContract } from "effect-resilience/testing"

type Store = CheckpointStore.CheckpointStore["Service"]
type Lease = CheckpointStore.Lease
type Entry = CheckpointStore.Entry
type Summary = CheckpointStore.RunSummary

const cases = StoreContract.checkpointStore()

const fail = (operation: string, runId: string, reason: CheckpointStore.CheckpointStoreError["reason"]) =>
  Effect.fail(new CheckpointStore.CheckpointStoreError({ operation, runId, reason }))

const held = { _tag: "LeaseHeld", owner: "somebody", expiresAt: 0, remaining: Duration.zero } as const

/** Changes what the store tells about runs. */
const telling = (change: (run: Summary) => Summary | undefined) => (store: Store): Store => ({
  ...store,
  get: (runId) => Effect.map(store.get(runId), Option.flatMapNullishOr(change)),
  list: (options) => Effect.map(store.list(options), (runs) => runs.flatMap((run) => change(run) ?? []))
})

/** Changes what the store gives back of a record. */
const reading = (change: (entry: Entry) => Entry) => (store: Store): Store => ({
  ...store,
  read: (runId) => Effect.map(store.read(runId), (entries) => entries.map(change))
})

/** Knows runs by something else than their ids. */
const naming = (name: (id: string) => string) => (store: Store): Store => {
  const ids = new Map<string, string>()
  const known = (id: string) => {
    ids.set(name(id), id)
    return name(id)
  }
  const lease = (lease: Lease): Lease => ({ ...lease, runId: known(lease.runId) })
  const back = (run: Summary): Summary => ({ ...run, runId: ids.get(run.runId) ?? run.runId })
  return {
    acquire: (id, ttl, options) =>
      Effect.map(store.acquire(known(id), ttl, options), (lease) => ({ ...lease, runId: id })),
    renew: (own, ttl, options) => store.renew(lease(own), ttl, options),
    release: (own) => store.release(lease(own)),
    append: (own, entries, status) => store.append(lease(own), entries, status),
    remove: (own) => store.remove(lease(own)),
    read: (id) => store.read(known(id)),
    get: (id) => Effect.map(store.get(known(id)), Option.map(back)),
    list: (options) => Effect.map(store.list(options), (runs) => runs.map(back))
  }
}

/** Takes whoever asks for the last one that was granted the run. */
const unfenced = (operation: "append" | "renew" | "release" | "remove") => (store: Store): Store => {
  const latest = new Map<string, Lease>()
  const last = (lease: Lease) => latest.get(lease.runId) ?? lease
  const acquire: Store["acquire"] = (runId, ttl, options) =>
    Effect.tap(store.acquire(runId, ttl, options), (lease) => Effect.sync(() => latest.set(runId, lease)))
  switch (operation) {
    case "append":
      return { ...store, acquire, append: (lease, entries, status) => store.append(last(lease), entries, status) }
    case "renew":
      return { ...store, acquire, renew: (lease, ttl, options) => store.renew(last(lease), ttl, options) }
    case "release":
      return { ...store, acquire, release: (lease) => store.release(last(lease)) }
    case "remove":
      return { ...store, acquire, remove: (lease) => store.remove(last(lease)) }
  }
}

/** Gives leases tokens of its own. */
const numbering =
  (number: (runId: string, count: Map<string, number>) => number, forgets: boolean) => (store: Store): Store => {
    const counts = new Map<string, number>()
    const real = new Map<string, Lease>()
    const keyOf = ({ runId, token }: Lease) => `${token} ${runId}`
    const own = (lease: Lease) => real.get(keyOf(lease)) ?? { ...lease, token: -1 }
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        Effect.map(store.acquire(runId, ttl, options), (lease) => {
          const numbered = { ...lease, token: number(runId, counts) }
          real.set(keyOf(numbered), lease)
          return numbered
        }),
      renew: (lease, ttl, options) => store.renew(own(lease), ttl, options),
      release: (lease) => store.release(own(lease)),
      append: (lease, entries, status) => store.append(own(lease), entries, status),
      remove: (lease) =>
        Effect.tap(store.remove(own(lease)), () => Effect.sync(() => forgets ? counts.delete(lease.runId) : undefined))
    }
  }

const perRun = (runId: string, counts: Map<string, number>): number => {
  const next = (counts.get(runId) ?? 0) + 1
  counts.set(runId, next)
  return next
}

type Held = Extract<CheckpointStore.CheckpointStoreError["reason"], { readonly _tag: "LeaseHeld" }>

/** Changes what a refused acquire says. */
const refusing = (change: (reason: Held) => Held) => (store: Store): Store => ({
  ...store,
  acquire: (runId, ttl, options) =>
    Effect.mapError(store.acquire(runId, ttl, options), (error) =>
      error.reason._tag === "LeaseHeld"
        ? new CheckpointStore.CheckpointStoreError({ operation: "acquire", runId, reason: change(error.reason) })
        : error)
})

const faults: Record<string, (store: Store) => Store> = {
  "append does not look at the token": unfenced("append"),
  "renew does not look at the token": unfenced("renew"),
  "release does not look at the token": unfenced("release"),
  "remove does not look at the token": unfenced("remove"),
  "a lease has the token of the one before": numbering(() => 1, false),
  "tokens begin anew for a run that was removed": numbering(perRun, true),
  "append takes any position": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.flatMap(store.read(lease.runId), ({ length }) => {
        const [first, ...rest] = entries
        const at = (entry: Entry, index: number) => ({ ...entry, position: length + index })
        return store.append(lease, [at(first, 0), ...rest.map((entry, index) => at(entry, index + 1))], status)
      })
  }),
  "append leaves a gap": (store) => {
    const gaps = new Map<string, number>()
    return {
      ...store,
      append: (lease, entries, status) =>
        Effect.gen(function*() {
          const { length } = yield* store.read(lease.runId)
          const gap = entries[0].position - length
          if (gap <= 0) return yield* store.append(lease, entries, status)
          gaps.set(lease.runId, gap)
          const [first, ...rest] = entries.map((entry) => ({ ...entry, position: entry.position - gap }))
          if (first !== undefined) yield* store.append(lease, [first, ...rest], status)
        })
    }
  },
  "append writes what is new of records whose beginning is taken": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.tapError(store.append(lease, entries, status), ({ reason }) => {
        if (reason._tag !== "PositionTaken") return Effect.void
        const [first, ...rest] = entries.filter(({ position }) => position >= reason.length)
        return first === undefined || first.position !== reason.length
          ? Effect.void
          : Effect.ignore(store.append(lease, [first, ...rest]))
      })
  }),
  "append keeps the status although it refuses the records": (store) => {
    const statuses = new Map<string, CheckpointStore.RunStatus>()
    const spoiled = telling((run) => ({ ...run, status: statuses.get(run.runId) ?? run.status }))(store)
    return {
      ...spoiled,
      append: (lease, entries, status) =>
        Effect.tapError(store.append(lease, entries, status), ({ reason }) =>
          Effect.sync(() => {
            if (status !== undefined && reason._tag === "PositionTaken") statuses.set(lease.runId, status)
          }))
    }
  },
  "append writes the first record alone": (store) => ({
    ...store,
    append: (lease, entries, status) => store.append(lease, [entries[0]], status)
  }),
  "append writes at most a thousand records": (store) => ({
    ...store,
    append: (lease, [first, ...rest], status) => store.append(lease, [first, ...rest.slice(0, 999)], status)
  }),
  "append acknowledges what it does not write": (store) => ({
    ...store,
    append: (lease, entries, status) => entries[0].position === 2 ? Effect.void : store.append(lease, entries, status)
  }),
  "append forgets the status": (store) => ({ ...store, append: (lease, entries) => store.append(lease, entries) }),
  "append forgets the status of several records": (store) => ({
    ...store,
    append: (lease, entries, status) => store.append(lease, entries, entries.length > 1 ? undefined : status)
  }),
  "append refuses what it is asked to write once more": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.flatMap(store.read(lease.runId), ({ length }) =>
        entries[0].position < length
          ? fail("append", lease.runId, { _tag: "PositionTaken", position: entries[0].position, length })
          : store.append(lease, entries, status))
  }),
  "append takes for a repetition whatever has the same position": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.catchIf(
        store.append(lease, entries, status),
        ({ reason }) => reason._tag === "PositionTaken" && entries.at(-1)?.position === reason.length - 1,
        () => Effect.void
      )
  }),
  "append takes a repetition from another lease": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.gen(function*() {
        const there = (yield* store.read(lease.runId)).slice(entries[0].position)
        const isSame = there.length === entries.length &&
          there.every(({ body }, index) => body === entries[index]?.body)
        // Only whoever holds the run.
        if (isSame) return yield* store.renew(lease, Duration.minutes(1))
        yield* store.append(lease, entries, status)
      })
  }),
  "append takes an old repetition, before the last records": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.gen(function*() {
        const there = (yield* store.read(lease.runId)).slice(entries[0].position, entries[0].position + entries.length)
        const isSame = there.length > 0 && there.every(({ body }, index) => body === entries[index]?.body)
        if (isSame) return yield* store.renew(lease, Duration.minutes(1))
        yield* store.append(lease, entries, status)
      })
  }),
  "append refuses an owner whose lease ran out": (store) => {
    const ends = new Map<number, number>()
    const until = (lease: Lease, ttl: Duration.Duration) =>
      Effect.map(Clock.currentTimeMillis, (now) => void ends.set(lease.token, now + Duration.toMillis(ttl)))
    return {
      ...store,
      acquire: (runId, ttl, options) => Effect.tap(store.acquire(runId, ttl, options), (lease) => until(lease, ttl)),
      renew: (lease, ttl, options) => Effect.tap(store.renew(lease, ttl, options), () => until(lease, ttl)),
      append: (lease, entries, status) =>
        Effect.flatMap(Clock.currentTimeMillis, (now) =>
          now >= (ends.get(lease.token) ?? 0)
            ? fail("append", lease.runId, { _tag: "Fenced", token: lease.token })
            : store.append(lease, entries, status))
    }
  },
  "acquire grants whatever is asked for": (store) => ({
    ...store,
    acquire: (runId, ttl) => store.acquire(runId, ttl, { takeOver: true })
  }),
  "acquire grants a second lease beside the first": (store) => {
    const first = new Map<string, Lease>()
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        store.acquire(runId, ttl, options).pipe(
          Effect.tap((lease) => Effect.sync(() => first.set(runId, lease))),
          Effect.catch((error) => Effect.fromNullishOr(first.get(runId)).pipe(Effect.mapError(() => error)))
        )
    }
  },
  "acquire looks first and takes then": (store) => ({
    ...store,
    acquire: (runId, ttl, options) =>
      Effect.gen(function*() {
        const probe = yield* Effect.exit(store.acquire(runId, ttl, options))
        if (Exit.isFailure(probe)) return yield* probe
        yield* store.release(probe.value)
        yield* Effect.yieldNow
        return { ...(yield* store.acquire(runId, ttl, { takeOver: true })), abandoned: probe.value.abandoned }
      })
  }),
  "acquire never grants a run whose owner is gone": (store) => {
    const taken = new Set<string>()
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        taken.has(runId) && options?.takeOver !== true
          ? fail("acquire", runId, held)
          : Effect.tap(store.acquire(runId, ttl, options), () => Effect.sync(() => taken.add(runId))),
      release: (lease) => Effect.tap(store.release(lease), () => Effect.sync(() => taken.delete(lease.runId))),
      remove: (lease) => Effect.tap(store.remove(lease), () => Effect.sync(() => taken.delete(lease.runId)))
    }
  },
  "acquire does not know how to take over": (store) => ({
    ...store,
    acquire: (runId, ttl) => store.acquire(runId, ttl)
  }),
  "acquire takes over and lets the old owner go on": (store) => {
    const latest = new Map<string, Lease>()
    const taken = new Map<number, number>()
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        Effect.map(store.acquire(runId, ttl, options), (lease) => {
          const before = latest.get(runId)
          if (options?.takeOver === true && before !== undefined) taken.set(before.token, lease.token)
          latest.set(runId, lease)
          return lease
        }),
      append: (lease, entries, status) =>
        store.append({ ...lease, token: taken.get(lease.token) ?? lease.token }, entries, status)
    }
  },
  "acquire takes over and forgets that somebody holds the run now": (store) => ({
    ...store,
    acquire: (runId, ttl, options) =>
      options?.takeOver === true
        ? store.acquire(runId, Duration.zero, options)
        : store.acquire(runId, ttl, options)
  }),
  "a refused acquire says how long the lease was at first": refusing((reason) => ({
    ...reason,
    remaining: Duration.minutes(1)
  })),
  "a refused acquire names nobody": refusing((reason) => ({ ...reason, owner: "" })),
  "abandoned leases are not counted": (store) => ({
    ...store,
    acquire: (runId, ttl, options) =>
      Effect.map(store.acquire(runId, ttl, options), (lease) => ({ ...lease, abandoned: 0 }))
  }),
  "released leases are counted as abandoned": (store) => {
    const counts = new Map<string, number>()
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        Effect.map(store.acquire(runId, ttl, options), (lease) => ({ ...lease, abandoned: perRun(runId, counts) - 1 }))
    }
  },
  "leases that were taken over are not counted as abandoned": (store) => {
    const fewer = new Map<string, number>()
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        Effect.map(store.acquire(runId, ttl, options), (lease) => {
          if (options?.takeOver === true) fewer.set(runId, (fewer.get(runId) ?? 0) + 1)
          return { ...lease, abandoned: Math.max(0, lease.abandoned - (fewer.get(runId) ?? 0)) }
        })
    }
  },
  "a run that recovered is not told from one that did not": (store) => ({
    ...store,
    renew: (lease, ttl) => store.renew(lease, ttl)
  }),
  "every renewal is a recovery": (store) => ({
    ...store,
    renew: (lease, ttl) => store.renew(lease, ttl, { recovered: true })
  }),
  "renew does nothing": (store) => ({ ...store, renew: () => Effect.void }),
  "renew lengthens a lease only while it lasts": (store) => ({
    ...store,
    renew: (lease, ttl, options) =>
      Effect.gen(function*() {
        const run = Option.getOrUndefined(yield* store.get(lease.runId))
        const now = yield* Clock.currentTimeMillis
        if (run?.lease !== undefined && run.lease.expiresAt <= now) {
          return yield* fail("renew", lease.runId, { _tag: "Fenced", token: lease.token })
        }
        yield* store.renew(lease, ttl, options)
      })
  }),
  "release does nothing": (store) => ({ ...store, release: () => Effect.void }),
  "release lets its owner go on writing": (store) => {
    const released = new Map<string, Lease>()
    return {
      ...store,
      acquire: (runId, ttl, options) => store.acquire(runId, ttl, options),
      release: (lease) => Effect.tap(store.release(lease), () => Effect.sync(() => released.set(lease.runId, lease))),
      append: (lease, entries, status) =>
        Effect.catchIf(
          store.append(lease, entries, status),
          ({ reason }) => reason._tag === "Fenced" && released.get(lease.runId)?.token === lease.token,
          () => Effect.void
        )
    }
  },
  "remove leaves the records": (store) => {
    const kept = new Map<string, ReadonlyArray<Entry>>()
    return {
      ...store,
      remove: (lease) =>
        Effect.flatMap(store.read(lease.runId), (entries) => {
          kept.set(lease.runId, entries)
          return store.remove(lease)
        }),
      read: (runId) =>
        Effect.map(store.read(runId), (entries) => entries.length === 0 ? kept.get(runId) ?? [] : entries)
    }
  },
  "remove leaves the run": (store) => {
    const kept = new Map<string, Summary>()
    return {
      ...store,
      remove: (lease) =>
        Effect.flatMap(store.get(lease.runId), (run) => {
          if (Option.isSome(run)) kept.set(lease.runId, run.value)
          return store.remove(lease)
        }),
      get: (runId) => Effect.map(store.get(runId), Option.orElse(() => Option.fromNullishOr(kept.get(runId)))),
      list: (options) => Effect.map(store.list(options), (runs) => runs.length === 0 ? [...kept.values()] : runs)
    }
  },
  "remove leaves the lease": (store) => ({
    ...store,
    remove: (lease) =>
      Effect.andThen(store.remove(lease), Effect.asVoid(store.acquire(lease.runId, Duration.minutes(1))))
  }),
  "remove leaves the history of leases": (store) => {
    const counts = new Map<string, number>()
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        Effect.map(store.acquire(runId, ttl, options), (lease) => ({
          ...lease,
          abandoned: lease.abandoned + (counts.get(runId) ?? 0)
        })),
      remove: (lease) => Effect.tap(store.remove(lease), () => Effect.sync(() => counts.set(lease.runId, 1)))
    }
  },
  "runs are known in lower case": naming((id) => id.toLowerCase()),
  "runs are known in composed characters": naming((id) => id.normalize("NFC")),
  "runs are known without blanks at the end": naming((id) => id.trimEnd() || "blank"),
  "runs are known as paths": naming((id) => new URL(`file:///runs/${id}`).pathname),
  "runs are known by 255 characters": naming((id) => id.slice(-255)),
  "runs are known decoded": naming((id) => {
    try {
      return decodeURIComponent(id)
    } catch {
      return id
    }
  }),
  "runs are known without line breaks": naming((id) => id.replaceAll("\n", "")),
  "runs are known without what is no letter": naming((id) => id.replaceAll(/[^a-z]/giu, "_")),
  "text is known in Latin 1": reading((entry) => ({
    ...entry,
    body: Buffer.from(entry.body, "latin1").toString("latin1")
  })),
  "text ends after 64 KiB": reading((entry) => ({ ...entry, body: entry.body.slice(0, 65_535) })),
  "text has no control characters": reading((entry) => ({
    ...entry,
    body: entry.body.replaceAll(/\p{Cc}/gu, "")
  })),
  "text has its lines separated as elsewhere": reading((entry) => ({
    ...entry,
    body: entry.body.replaceAll("\u2028", "\n")
  })),
  "text is written anew as JSON": reading((entry) => {
    try {
      return { ...entry, body: JSON.stringify(JSON.parse(entry.body)) }
    } catch {
      return entry
    }
  }),
  "text has blanks after colons": reading((entry) => ({ ...entry, body: entry.body.replace(":", ": ") })),
  "text has no characters beyond the first plane": reading((entry) => ({
    ...entry,
    body: entry.body.replaceAll(/[\u{10000}-\u{10ffff}]/gu, "?")
  })),
  "records have no steps": reading((entry) => ({ ...entry, step: "" })),
  "steps are known without blanks and in lower case": reading((entry) => ({
    ...entry,
    step: entry.step.trim().toLowerCase()
  })),
  "records come backwards": (store) => ({
    ...store,
    read: (runId) => Effect.map(store.read(runId), (entries) => entries.toReversed())
  }),
  "records come in the order of their positions' digits": (store) => ({
    ...store,
    read: (runId) =>
      Effect.map(
        store.read(runId),
        (entries) => entries.toSorted((one, other) => String(one.position).localeCompare(String(other.position)))
      )
  }),
  "records come in pages of a hundred, the last one alone": (store) => ({
    ...store,
    read: (runId) => Effect.map(store.read(runId), (entries) => entries.slice(-2_003).slice(0, 2_002))
  }),
  "records of one run come with those of others": (store) => {
    const written = new Array<Entry>()
    return {
      ...store,
      append: (lease, entries, status) =>
        Effect.tap(store.append(lease, entries, status), () => Effect.sync(() => written.push(...entries))),
      read: () => Effect.sync(() => written.slice())
    }
  },
  "the journal of whoever wrote last is written": (store) => {
    let last: Lease | undefined
    return {
      ...store,
      append: (lease, entries, status) =>
        Effect.suspend(() => {
          last = lease
          return Effect.andThen(Effect.yieldNow, Effect.suspend(() => store.append(last ?? lease, entries, status)))
        })
    }
  },
  "of two records at one place both are acknowledged": (store) => ({
    ...store,
    append: (lease, entries, status) =>
      Effect.gen(function*() {
        const { length } = yield* store.read(lease.runId)
        yield* Effect.yieldNow
        if (entries[0].position !== length) return yield* store.append(lease, entries, status)
        yield* Effect.catchIf(
          store.append(lease, entries, status),
          ({ reason }) => reason._tag === "PositionTaken",
          () => Effect.void
        )
      })
  }),
  "runs are listed the newest first": (store) => ({
    ...store,
    list: (options) => Effect.map(store.list(options), (runs) => runs.toReversed())
  }),
  "runs are listed by their ids": (store) => ({
    ...store,
    list: (options) =>
      Effect.map(store.list(options), (runs) => runs.toSorted((one, other) => one.runId < other.runId ? -1 : 1))
  }),
  "as many runs are listed as there are": (store) => ({
    ...store,
    list: (options) => store.list({ ...options, limit: undefined })
  }),
  "as many runs are looked at as are to be listed": (store) => ({
    ...store,
    list: ({ limit, ...options } = {}) =>
      Effect.flatMap(
        store.list({ limit }),
        (first) =>
          Effect.map(
            store.list(options),
            (runs) => runs.filter(({ runId }) => first.some((run) => run.runId === runId))
          )
      )
  }),
  "runs of every status are listed": (store) => ({
    ...store,
    list: (options) => store.list({ ...options, status: undefined })
  }),
  "runs of any time are listed": (store) => ({
    ...store,
    list: (options) => store.list({ ...options, updatedBefore: undefined })
  }),
  "runs of that very time are listed": (store) => ({
    ...store,
    list: ({ updatedBefore = Infinity, ...options } = {}) =>
      store.list({ ...options, updatedBefore: updatedBefore + 1 })
  }),
  "runs without a record are listed": (store) => {
    const empty = new Map<string, Summary>()
    const add = (runs: ReadonlyArray<Summary>) => {
      for (const { runId } of runs) empty.delete(runId)
      return [...runs, ...empty.values()]
    }
    return {
      ...store,
      acquire: (runId, ttl, options) =>
        Effect.tap(
          store.acquire(runId, ttl, options),
          () =>
            Effect.sync(() =>
              empty.set(runId, { runId, status: "running", entries: 0, createdAt: 0, updatedAt: 0, lease: undefined })
            )
        ),
      release: (lease) => Effect.tap(store.release(lease), () => Effect.sync(() => empty.delete(lease.runId))),
      list: (options) => Effect.map(store.list(options), add),
      get: (runId) => Effect.map(store.get(runId), Option.orElse(() => Option.fromNullishOr(empty.get(runId))))
    }
  },
  "a run is not found that is there": (store) => ({ ...store, get: () => Effect.succeedNone }),
  "the number of records is not told": telling((run) => ({ ...run, entries: 1 })),
  "the status is not told": telling((run) => ({ ...run, status: "running" })),
  "the lease is not told": telling((run) => ({ ...run, lease: undefined })),
  "the lease that was released is told": (store) => {
    const leases = new Map<string, Summary["lease"]>()
    return telling((run) => {
      if (run.lease !== undefined) leases.set(run.runId, run.lease)
      return { ...run, lease: run.lease ?? leases.get(run.runId) ?? { owner: "somebody", expiresAt: 0 } }
    })(store)
  },
  "a run is as old as its last change": telling((run) => ({ ...run, createdAt: run.updatedAt })),
  "a run has never changed": telling((run) => ({ ...run, updatedAt: run.createdAt })),
  "a run has changed with each record": (store) => {
    const times = new Map<string, number>()
    return {
      ...telling((run) => ({ ...run, updatedAt: Math.max(run.updatedAt, times.get(run.runId) ?? 0) }))(store),
      append: (lease, entries, status) =>
        Effect.andThen(
          store.append(lease, entries, status),
          Effect.map(Clock.currentTimeMillis, (now) => void times.set(lease.runId, now))
        )
    }
  }
}

const brokenBy = (spoil: (store: Store) => Store) =>
  Effect.gen(function*() {
    const layer = Layer.fresh(
      Layer.effect(CheckpointStore.CheckpointStore, Effect.map(CheckpointStore.makeMemory(), spoil))
    )
    const broken: Array<string> = []
    for (const { effect, name } of cases) {
      if (Exit.isFailure(yield* Effect.exit(Effect.provide(effect, layer)))) broken.push(name)
    }
    return broken
  })

describe("StoreContract.checkpointStore", () => {
  it.effect("finds nothing wrong with a store that keeps its promises", () =>
    Effect.gen(function*() {
      assert.deepStrictEqual(yield* brokenBy((store) => store), [])
    }))

  for (const [name, spoil] of Object.entries(faults)) {
    it.effect(`finds that ${name}`, () =>
      Effect.gen(function*() {
        assert.isNotEmpty(yield* brokenBy(spoil))
      }))
  }

  it.effect("has no case that nothing can break", () =>
    Effect.gen(function*() {
      const broken = new Set((yield* Effect.forEach(Object.values(faults), brokenBy)).flat())
      assert.deepStrictEqual(cases.filter(({ name }) => !broken.has(name)).map(({ name }) => name), [])
    }))
})
