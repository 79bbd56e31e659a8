/** The boundaries of a worker's life, at one of which it kills or pauses itself. */
import type { CheckpointStore, Entry } from "effect-resilience/durable/CheckpointStore"
import type * as EscalationQueue from "effect-resilience/durable/EscalationQueue"
import type * as Idempotency from "effect-resilience/durable/Idempotency"
import * as Context from "effect/Context"
import * as Effect from "effect/Effect"
import type { Event, Say } from "./Event.ts"

type Kind = Extract<Event, { readonly _tag: "Passing" }>["kind"]

export interface Points {
  /** Passes a boundary. */
  readonly pass: (kind: Kind, where: string) => Effect.Effect<void>
  /** Passes a boundary in the middle of something: a process that is to die there dies with half of it done. */
  readonly within: <E, R>(where: string, half: Effect.Effect<unknown, E, R>) => Effect.Effect<void, E, R>
}

/** What the store is doing. */
export const Doing = Context.Reference<string>("test/kill/Points/Doing", { defaultValue: () => "open" })

/** Whoever only looks passes none. */
export const none: Points = { pass: () => Effect.void, within: () => Effect.void }

const never = new Int32Array(new SharedArrayBuffer(4))

// SIGKILL cannot be caught: no finalizer runs, nothing is flushed. Nor may anything run on while the signal makes its
// way to all threads of the process.
const die = Effect.sync(() => {
  process.kill(process.pid, "SIGKILL")
  Atomics.wait(never, 0, 0)
})

/**
 * A boundary is named by what it is before, after or in the middle of, the second one of a name with a `(2)`, or by its
 * number in this life. Renewals have no numbers: they come when they come.
 */
export const make = (
  at: { readonly kill?: string | undefined; readonly pause?: string | undefined },
  say: Say
): Points => {
  let passed = 0
  const times = new Map<string, number>()
  const next = (kind: Kind, name: string) => {
    const time = (times.get(name) ?? 0) + 1
    times.set(name, time)
    const where = time === 1 ? name : `${name} (${time})`
    const number = /\brenew\b/.test(name) ? 0 : ++passed
    say({ _tag: "Passing", at: number, kind, where })
    const is = (boundary: string | undefined) => boundary === where || boundary === String(number)
    // Whoever continues the process finds it in the middle of what it did.
    if (is(at.pause)) process.kill(process.pid, "SIGSTOP")
    return is(at.kill)
  }
  return {
    pass: (kind, where) => Effect.suspend(() => next(kind, where) ? die : Effect.void),
    within: (what, half) =>
      Effect.flatMap(Doing, (doing) => next("inside", `${doing}: ${what}`) ? Effect.andThen(half, die) : Effect.void)
  }
}

/** What an entry is, as `StepSucceeded plan`. */
const named = ({ body, step }: Entry): string => `${/"_tag":"(\w+)"/.exec(body)?.[1] ?? "?"} ${step}`.trim()

const doing = (what: string) => Effect.provideService(Doing, what)

const bounded = (points: Points) => <A, E, R>(what: string, effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  points.pass("store", `before ${what}`).pipe(
    Effect.andThen(effect),
    Effect.tap(() => points.pass("store", `after ${what}`)),
    doing(what)
  )

/** A store with a boundary before and after everything that writes. */
export const around = (points: Points, store: CheckpointStore["Service"]): CheckpointStore["Service"] => {
  const between = bounded(points)
  return {
    acquire: (...args) => between("acquire", store.acquire(...args)),
    renew: (...args) => between("renew", store.renew(...args)),
    release: (...args) => between("release", store.release(...args)),
    append: (lease, entries, status) =>
      between(`append ${entries.map(named).join(" and ")}`, store.append(lease, entries, status)),
    remove: (...args) => between("remove", store.remove(...args)),
    read: (...args) => doing("read")(store.read(...args)),
    get: (...args) => doing("get")(store.get(...args)),
    list: (...args) => doing("list")(store.list(...args))
  }
}

/** The same of what keeps the questions to people. */
export const aroundQuestions = (points: Points, store: EscalationQueue.Store): EscalationQueue.Store => {
  const between = bounded(points)
  return {
    ...store,
    insert: (record) => between(`ask ${record.reason}`, store.insert(record)),
    replace: (record) => between(`change ${record.reason}`, store.replace(record)),
    find: (id) => doing("find")(store.find(id)),
    select: (filter) => doing("select")(store.select(filter))
  }
}

/** The same of what remembers the results of calls. */
export const aroundResults = (points: Points, store: Idempotency.Store): Idempotency.Store => ({
  ...store,
  get: (scope, key) => doing("recall")(store.get(scope, key)),
  put: (scope, key, entry) => bounded(points)("remember", store.put(scope, key, entry))
})
