import * as Clock from "effect/Clock"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Equal from "effect/Equal"
import * as Option from "effect/Option"
import * as RcMap from "effect/RcMap"
import * as Semaphore from "effect/Semaphore"
import {
  CheckpointStore,
  type CheckpointStoreError,
  type Entry,
  type Lease,
  type LeaseOwner,
  type RunStatus,
  type RunSummary
} from "../CheckpointStore.ts"
import { type Engine, type Entries, failure, type Host, Hosted, type Where } from "./workflowEngine.ts"
import { blank, type Last, type Link, type Log, type State } from "./workflowLog.ts"

/**
 * How long to wait for the engine to start an execution here, or to end one whose process may be gone.
 *
 * @internal
 */
export const patience = Duration.seconds(5)

const patienceWithin = (ttl: Duration.Duration) => Duration.min(patience, Duration.divideUnsafe(ttl, 2))

/** A lease that this process was granted. */
interface Session {
  readonly token: number
  readonly host: Host | undefined
  position: number
  state: State
  expiresAt: number
  appended: { readonly from: number; readonly entries: ReadonlyArray<Entry> } | undefined
}

const summaryOf = (runId: string, { held, run }: State): Option.Option<RunSummary> =>
  run === null
    ? Option.none()
    : Option.some({
      runId,
      ...run,
      lease: held === null ? undefined : { owner: held.owner, expiresAt: held.until }
    })

/**
 * The journals of runs in the log of a workflow engine.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(engine: Engine, log: Log, owner: LeaseOwner) {
  const sessions = new Map<string, Session>()
  const lookup: (runId: string) => Effect.Effect<Semaphore.Semaphore> = () => Semaphore.make(1)
  const locks = yield* RcMap.make({ lookup })

  const alone = <A, E>(runId: string, effect: Effect.Effect<A, E>): Effect.Effect<A, E> =>
    Effect.scoped(Effect.flatMap(RcMap.get(locks, runId), (lock) => lock.withPermit(effect)))

  const drop = (runId: string, session: Session) =>
    Effect.suspend(() => {
      if (sessions.get(runId) === session) sessions.delete(runId)
      return session.host === undefined ? Effect.void : session.host.close
    })

  const fenced = (where: Where, token: number) => Effect.fail(failure(where, { _tag: "Fenced", token }))

  const holding = <A>(
    operation: string,
    { runId, token }: Lease,
    use: (session: Session, where: Where, now: number) => Effect.Effect<A, CheckpointStoreError>
  ) =>
    alone(
      runId,
      Effect.flatMap(Clock.currentTimeMillis, (now) => {
        const session = sessions.get(runId)
        const where = { operation, runId }
        return session === undefined || session.token !== token ? fenced(where, token) : use(session, where, now)
      })
    )

  const hostOf = ({ host }: Session) => host === undefined || host.isLost() ? undefined : host

  const keptBy = Effect.fnUntraced(function*(where: Where, { wrote }: Link) {
    if (wrote === undefined) return undefined
    return "entries" in wrote ? wrote : yield* engine.kept(where, wrote.execution, wrote.activity)
  })

  /** Takes over a link of one's own of which one did not know whether it was written. */
  const adopt = Effect.fnUntraced(function*(where: Where, session: Session, link: Link) {
    session.position++
    session.state = link.state
    const kept = yield* keptBy(where, link)
    if (kept !== undefined) session.appended = { from: kept.entries[0].position, entries: kept.entries }
  })

  /** Writes the next link of a session's log, or gives back the control if the session has moved on. */
  const advance = Effect.fnUntraced(function*(runId: string, session: Session, where: Where, link: Link) {
    const there = yield* log.put(where, runId, session.position + 1, link)
    if (there.isMine) {
      session.position++
      session.state = link.state
      return true
    }
    if (there.link.state.token === session.token) {
      yield* adopt(where, session, there.link)
      return false
    }
    yield* drop(runId, session)
    return yield* fenced(where, session.token)
  })

  const heldBy = (session: Session, until: number): State["held"] => ({
    owner: owner.id,
    until,
    execution: hostOf(session)?.execution ?? null
  })

  const holderOf = Effect.fnUntraced(function*(
    where: Where,
    runId: string,
    state: State,
    now: number,
    patience: Duration.Duration
  ) {
    const { held, program, token } = state
    if (held !== null && !(yield* owner.isGone(held.owner))) {
      const session = sessions.get(runId)
      if (session?.token === token) {
        if (session.expiresAt > now) return { owner: held.owner, expiresAt: session.expiresAt }
      } else if (held.execution === null) {
        if (held.until > now) return { owner: held.owner, expiresAt: held.until }
      } else if (!(yield* engine.ends(where, runId, held.execution, patience))) {
        return { owner: held.owner, expiresAt: Math.max(held.until, now + Duration.toMillis(patience)) }
      }
    }
    if (program !== null && Option.isNone(yield* engine.poll(where, program.execution))) {
      return { owner: `program "${program.name}"`, expiresAt: now + Duration.toMillis(patience) }
    }
    return undefined
  })

  const refuseHeld = Effect.fnUntraced(function*(
    where: Where,
    runId: string,
    last: Last | undefined,
    patience: Duration.Duration
  ) {
    if (last === undefined) return
    const now = yield* Clock.currentTimeMillis
    const holder = yield* holderOf(where, runId, last.link.state, now, patience)
    if (holder !== undefined) {
      const remaining = Duration.millis(holder.expiresAt - now)
      return yield* failure(where, { _tag: "LeaseHeld", ...holder, remaining })
    }
  })

  const grant = Effect.fnUntraced(function*(
    where: Where,
    runId: string,
    ttl: Duration.Duration,
    last: Last | undefined,
    host: Host | undefined
  ) {
    const before = last?.link.state ?? blank
    const position = (last?.position ?? -1) + 1
    const now = yield* Clock.currentTimeMillis
    const expiresAt = Math.ceil(now + Duration.toMillis(ttl))
    const state: State = {
      ...before,
      token: position,
      held: { owner: owner.id, until: expiresAt, execution: host?.execution ?? null },
      abandoned: before.held === null ? 0 : before.abandoned + 1,
      run: before.run === null ? null : { ...before.run, updatedAt: now }
    }
    const { isMine } = yield* log.put(where, runId, position, { version: 1, state })
    if (!isMine) return undefined
    const session: Session = { token: position, host, position, state, expiresAt, appended: undefined }
    const old = sessions.get(runId)
    sessions.set(runId, session)
    if (old !== undefined) yield* drop(runId, old)
    return { runId, token: position, abandoned: state.abandoned }
  })

  const acquire = Effect.fnUntraced(function*(
    runId: string,
    ttl: Duration.Duration,
    { takeOver = false }: { readonly takeOver?: boolean | undefined } = {}
  ) {
    const where = { operation: "acquire", runId }
    const patience = patienceWithin(ttl)
    const hosted = Option.filter(yield* Effect.serviceOption(Hosted), (hosted) => hosted.runId === runId)
    // The engine runs one execution of a program at a time, and this is it.
    const isGranted = takeOver || Option.isSome(hosted)
    let host = Option.getOrUndefined(Option.map(hosted, ({ host }) => host))
    let lease: Lease | undefined
    const attempt = Effect.gen(function*() {
      while (lease === undefined) {
        const last = yield* log.last(where, runId)
        if (!isGranted) yield* refuseHeld(where, runId, last, patience)
        if (last === undefined) yield* log.addRun(where, runId)
        if (host === undefined) {
          host = Option.getOrUndefined(yield* engine.open(runId, patience))
          if (host === undefined) {
            yield* Effect.logDebug(`run "${runId}": the engine started no execution here; its steps have no activities`)
          }
        }
        lease = yield* grant(where, runId, ttl, last, host)
      }
      return lease
    })
    return yield* Effect.onExit(
      attempt,
      () => lease === undefined && host !== undefined && Option.isNone(hosted) ? host.close : Effect.void
    )
  })

  /** Writes how things stand from now on. */
  const note = Effect.fnUntraced(function*(
    runId: string,
    session: Session,
    where: Where,
    change: (state: State) => State
  ) {
    let isDone = false
    while (!isDone) isDone = yield* advance(runId, session, where, { version: 1, state: change(session.state) })
  })

  const touched = (run: State["run"], now: number): State["run"] => run === null ? null : { ...run, updatedAt: now }

  // As long as its execution lives nobody needs to be told, but somebody may have taken the run over.
  const look = Effect.fnUntraced(function*(runId: string, session: Session, where: Where) {
    while (true) {
      const next = yield* log.get(where, runId, session.position + 1)
      if (Option.isNone(next)) return
      if (next.value.state.token !== session.token) {
        yield* drop(runId, session)
        return yield* fenced(where, session.token)
      }
      yield* adopt(where, session, next.value)
    }
  })

  const append = Effect.fnUntraced(function*(
    runId: string,
    session: Session,
    where: Where,
    now: number,
    entries: Entries,
    status: RunStatus | undefined
  ) {
    const { position } = entries[0]
    while (true) {
      const { run } = session.state
      const length = run?.entries ?? 0
      if (position !== length) {
        const { appended } = session
        if (appended?.from === position && Equal.equals(appended.entries, entries)) return
        return yield* failure(where, { _tag: "PositionTaken", position, length })
      }
      const kept = { token: session.token, entries, ...(status === undefined ? {} : { status }) }
      const host = hostOf(session)
      const wrote = host === undefined
        ? kept
        : { execution: host.execution, activity: yield* engine.keep(where, host, kept) }
      const state: State = {
        ...session.state,
        held: heldBy(session, session.expiresAt),
        run: {
          status: status ?? run?.status ?? "running",
          entries: length + entries.length,
          createdAt: run?.createdAt ?? now,
          updatedAt: run === null || status !== undefined ? now : run.updatedAt
        }
      }
      if (yield* advance(runId, session, where, { version: 1, state, wrote })) {
        session.appended = { from: position, entries }
        return
      }
    }
  })

  // What this process holds it knows better than the log: renewals are not written there.
  const latest = (where: Where, runId: string) => {
    const session = sessions.get(runId)
    const known: Last | undefined = session === undefined
      ? undefined
      : { position: session.position, link: { version: 1, state: session.state } }
    return log.last(where, runId, known)
  }

  const summary = (where: Where, runId: string) =>
    Effect.map(
      latest(where, runId),
      (last) => last === undefined ? Option.none() : summaryOf(runId, last.link.state)
    )

  const store = CheckpointStore.of({
    acquire: (runId, ttl, options) => alone(runId, acquire(runId, ttl, options)),
    renew: (lease, ttl, { recovered = false } = {}) =>
      holding(
        "renew",
        lease,
        Effect.fnUntraced(function*(session, where, now) {
          const expiresAt = Math.ceil(now + Duration.toMillis(ttl))
          const renewed = (state: State): State => ({
            ...state,
            held: heldBy(session, expiresAt),
            abandoned: recovered ? 0 : state.abandoned,
            run: touched(state.run, now)
          })
          const isNews = hostOf(session) === undefined || (recovered && session.state.abandoned > 0)
          if (isNews) yield* note(lease.runId, session, where, renewed)
          else {
            yield* look(lease.runId, session, where)
            session.state = renewed(session.state)
          }
          session.expiresAt = expiresAt
        })
      ),
    release: (lease) =>
      holding("release", lease, (session, where, now) =>
        note(lease.runId, session, where, (state) => ({
          ...state,
          held: null,
          abandoned: 0,
          run: touched(state.run, now)
        })).pipe(
          // What could not be written down ends with its execution.
          Effect.ensuring(drop(lease.runId, session))
        )),
    append: (lease, entries, status) =>
      holding("append", lease, (session, where, now) => append(lease.runId, session, where, now, entries, status)),
    read: Effect.fnUntraced(function*(runId) {
      const where = { operation: "read", runId }
      const last = yield* latest(where, runId)
      if (last === undefined) return []
      const links = yield* log.between(where, runId, last.link.state.base, last.position)
      const kept = yield* Effect.forEach(links, (link) => keptBy(where, link), { concurrency: 16 })
      return kept.flatMap((kept) => kept?.entries ?? [])
    }),
    get: (runId) => summary({ operation: "get", runId }, runId),
    list: Effect.fnUntraced(function*({ limit, status, updatedBefore = Infinity } = {}) {
      const where = { operation: "list" }
      const runs = yield* Effect.forEach(
        yield* log.runs(where),
        (runId) =>
          Effect.catchIf(
            summary({ ...where, runId }, runId),
            ({ reason }) => reason._tag === "Corrupt",
            (error) => Effect.as(Effect.logError("A run is left out of the list", error), Option.none())
          ),
        { concurrency: 16 }
      )
      return runs.flatMap((run) => Option.toArray(run))
        .filter((run) => (status === undefined || run.status === status) && run.updatedAt < updatedBefore)
        .toSorted((one, other) => one.createdAt - other.createdAt)
        .slice(0, limit)
    }),
    remove: (lease) =>
      holding("remove", lease, (session, where) =>
        Effect.andThen(
          note(lease.runId, session, where, ({ token }) => ({ ...blank, token, base: session.position + 2 })),
          drop(lease.runId, session)
        ))
  })

  /** Lets the executions end that this process still has: a runner that leaves would wait for them. */
  const close = Effect.suspend(() => Effect.forEach(Array.from(sessions), ([runId, session]) => drop(runId, session)))

  return { store, refuseHeld, close }
})
