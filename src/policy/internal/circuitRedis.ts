import * as Cause from "effect/Cause"
import * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Fiber from "effect/Fiber"
import * as Layer from "effect/Layer"
import * as Option from "effect/Option"
import * as Store from "effect/persistence/CircuitBreaker"
import * as Redis from "effect/persistence/Redis"
import * as PubSub from "effect/PubSub"
import * as Random from "effect/Random"
import * as Scope from "effect/Scope"
import * as Stream from "effect/Stream"
import type * as Take from "effect/Take"
import { millisIn } from "../../internal/monotonic.ts"
import * as Telemetry from "../../Telemetry.ts"
import { circuitOpen, Circuits, guard, judge, waitMillis } from "./circuitEngine.ts"
import type { CircuitOpen } from "./circuitOpen.ts"
import { Callers } from "./circuitRedisCallers.ts"
import { Outage } from "./circuitRedisOutage.ts"
import * as scripts from "./circuitRedisScripts.ts"
import {
  type SharedOptions,
  SharedServiceSettings,
  type SharedSettings,
  storeSettings
} from "./circuitRedisSettings.ts"
import { type State, stateOf } from "./circuitService.ts"
import { checkOptions, type CircuitOptions, type Options } from "./circuitSettings.ts"
import { type Change, ignored, openTimes, type Outcome, type Refusal, success } from "./circuitState.ts"

/** A call that the store has admitted. */
interface Call extends SharedSettings {
  readonly key: string
  readonly admission: Store.Admission
  /** Keeps the lease of a probe alive until it is closed. */
  readonly lease: Scope.Closeable
  readonly context: Context.Context<never>
  ended: boolean
}

type Entered =
  | { readonly _tag: "Admitted"; readonly call: Call }
  | { readonly _tag: "Refused"; readonly refusal: Refusal }
  | { readonly _tag: "Unanswered"; readonly cause: Cause.Cause<unknown> }

type Restore = <A, E, R>(self: Effect.Effect<A, E, R>) => Effect.Effect<A, E, R>

const admitted = (call: Call): Entered => ({ _tag: "Admitted", call })

const unheard = (cause: Cause.Cause<unknown>): Entered => ({ _tag: "Unanswered", cause })

const isolated: Refusal = { state: "Isolated", retryAfter: undefined }

const closed = (key: string): State => ({ _tag: "Closed", key, calls: 0, failures: 0 })

const tagOf = (state: Option.Option<State>): State["_tag"] => Option.isSome(state) ? state.value._tag : "Closed"

/** Whether an outcome can open the circuit: a success does where it is the last call that a window lacks. */
const canOpen = (outcome: Outcome, { admission, trip }: Call): boolean =>
  outcome._tag === "Failure" || (outcome._tag === "Success" && !admission.probe && trip._tag === "Rate")

/** How long the circuit stays open if this call opens it. */
const openFor = (outcome: Outcome, { admission, context, key, settings }: Call): number => {
  const { maxOpenFor, openFor } = settings
  const own = typeof openFor === "number"
    ? openFor
    : openTimes(openFor)(key, admission.consecutiveOpenings + 1, context)
  const asked = outcome._tag === "Failure" && outcome.retryAfter !== undefined
    ? Duration.toMillis(outcome.retryAfter)
    : 0
  return Math.min(Math.max(own, asked, 1), maxOpenFor)
}

/**
 * A circuit breaker that several processes share, on Effect's own store. Admission and record are one script each of that
 * store; what is added here is what it does not know: verdicts, a bound on probes that never return, holds, resets, and
 * what happens while it is away.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*(module: string, options: SharedOptions = {}) {
  const { holdLease, idleTimeToLive, isLocal, prefix, probeLease, storeTimeout } = storeSettings(module, options)
  let settings = new SharedServiceSettings(module, options, idleTimeToLive)
  const callers = new Callers()
  const scope = yield* Effect.scope
  const redis = yield* Redis.Redis
  const statePrefix = `${prefix}state:`
  const holdsPrefix = `${prefix}holds:`
  const store = Context.get(
    yield* Layer.build(Store.layerStoreRedis({ prefix: statePrefix, probeLease, idleTimeToLive })),
    Store.CircuitBreakerStore
  )

  const hub = yield* PubSub.sliding<Take.Take<Change>>(256)
  yield* Effect.addFinalizer(() => PubSub.end(hub, Exit.void))

  const announce = (change: Change, context: Context.Context<never>): Effect.Effect<void> =>
    Effect.andThen(
      PubSub.publish(hub, [change]),
      Telemetry.emitIn(context, () => ({ _tag: "CircuitChanged", ...change }))
    )

  const announceStored = (transition: Store.Transition | undefined, context: Context.Context<never>) =>
    transition === undefined
      ? Effect.void
      : announce({ key: transition.key, from: transition.from, to: transition.to }, context)

  const refuse = (
    key: string,
    refusal: Refusal,
    context: Context.Context<never>
  ): Effect.Effect<never, CircuitOpen> => {
    const wait = refusal.retryAfter === undefined ? undefined : waitMillis(refusal.retryAfter)
    const heard = Telemetry.emitIn(context, () => ({ _tag: "CircuitRejected", key, retryAfterMillis: wait }))
    return Effect.andThen(heard, Effect.fail(circuitOpen(key, refusal.state, wait)))
  }

  // The store may be away.

  const outage = new Outage()
  const now = Effect.contextWith((context: Context.Context<never>) => Effect.succeed(millisIn(context)))

  const localCircuits = () =>
    new Circuits(
      settings.local,
      ([first, ...rest]) => first === undefined ? Effect.void : PubSub.publish(hub, [first, ...rest])
    )
  let local = localCircuits()

  const answered = Effect.flatMap(now, (at) => {
    if (!outage.answered(at)) return Effect.void
    // Each outage starts from closed circuits: what this process saw in the last one is history.
    local = localCircuits()
    return Effect.logInfo("Redis answers again: circuits are shared")
  })

  const unanswered = (cause: Cause.Cause<unknown>): Effect.Effect<void> =>
    Effect.flatMap(now, (at) =>
      outage.failed(at)
        ? Effect.logWarning(
          isLocal
            ? "Redis does not answer: this process goes by circuits of its own until it does"
            : "Redis does not answer: calls run without circuits until it does",
          cause
        )
        : Effect.void)

  const tooLate = () => new Cause.TimeoutError(`no answer within ${storeTimeout} ms`)

  const bounded = <A>(operation: Effect.Effect<A, unknown>): Effect.Effect<A, unknown> =>
    Effect.timeoutOrElse(operation, { duration: storeTimeout, orElse: () => Effect.fail(tooLate()) })

  const heard = <A>(operation: Effect.Effect<A, unknown>): Effect.Effect<Option.Option<A>> =>
    Effect.matchCauseEffect(operation, {
      onSuccess: (value) => Effect.as(answered, Option.some(value)),
      onFailure: (cause) => Effect.as(unanswered(cause), Option.none<A>())
    })

  const unlessAway = <A>(operation: Effect.Effect<Option.Option<A>>): Effect.Effect<Option.Option<A>> =>
    Effect.flatMap(now, (at) => outage.asks(at) ? operation : Effect.succeed(Option.none<A>()))

  /** What the store answers in time, or nothing. Never fails. */
  const ask = <A>(operation: Effect.Effect<A, unknown>): Effect.Effect<Option.Option<A>> => heard(bounded(operation))

  // Holds. Those of this process refuse also while the store is away, and the store tells the other processes.

  const held = new Map<string, Set<string>>()
  const countHolds = redis.eval(scripts.countHolds)
  const addHold = redis.eval(scripts.hold)
  const removeHold = redis.eval(scripts.release)

  yield* Effect.addFinalizer(() =>
    Effect.forEach(
      Array.from(held).flatMap(([key, ids]) => Array.from(ids, (id) => removeHold(`${holdsPrefix}${key}`, id))),
      (release) => unlessAway(ask(release)),
      { concurrency: "unbounded", discard: true }
    )
  )

  const read = (key: string): Effect.Effect<State, unknown> =>
    Effect.map(
      Effect.all([countHolds(`${holdsPrefix}${key}`), store.state(key)], { concurrency: 2 }),
      ([holders, state]): State => {
        if (holders > 0) return { _tag: "Isolated", key, holders }
        switch (state._tag) {
          case "Closed":
            return closed(key)
          case "Open":
            return { _tag: "Open", key, retryAfter: state.retryAfter, openings: state.consecutiveOpenings }
          case "HalfOpen": {
            const { consecutiveOpenings, probing } = state
            const probes = probing ? 1 : 0
            return { _tag: "HalfOpen", key, probes, successes: 0, failures: 0, openings: consecutiveOpenings }
          }
        }
      }
    )

  /** A hold that the store has not heard of yet holds all the same. */
  const withOwnHolds = (state: State): State => {
    const own = held.get(state.key)
    return own === undefined || state._tag === "Isolated"
      ? state
      : { _tag: "Isolated", key: state.key, holders: own.size }
  }

  const localState = (key: string): Effect.Effect<State> =>
    Effect.map(now, (at) => withOwnHolds(isLocal ? stateOf(key, local.peek(key, at).snapshot(at)) : closed(key)))

  const hold = Effect.fnUntraced(function*(key: string, context: Context.Context<never>) {
    const halves = [yield* Random.nextIntBetween(0, 2 ** 32), yield* Random.nextIntBetween(0, 2 ** 32)]
    const id = halves.map((half) => half.toString(36)).join("-")
    const others = held.get(key)
    if (others === undefined) held.set(key, new Set([id]))
    else others.add(id)
    const from = others === undefined ? tagOf(yield* ask(read(key))) : "Isolated"
    const write = ask(addHold(`${holdsPrefix}${key}`, id, holdLease))
    yield* write
    const renewal = yield* Effect.forkIn(Effect.forever(Effect.andThen(Effect.sleep(holdLease / 3), write)), scope)
    if (from !== "Isolated") yield* announce({ key, from, to: "Isolated" }, context)

    let released = false
    const release = Effect.fnUntraced(function*(later: Context.Context<never>) {
      if (released) return
      released = true
      const own = held.get(key)
      own?.delete(id)
      if (own?.size === 0) held.delete(key)
      yield* Fiber.interrupt(renewal)
      const left = yield* ask(Effect.andThen(removeHold(`${holdsPrefix}${key}`, id), read(key)))
      const to = held.has(key) ? "Isolated" : tagOf(left)
      if (to !== "Isolated") yield* announce({ key, from: "Isolated", to }, later)
    })
    return { release: Effect.uninterruptible(Effect.contextWith(release)) }
  })

  // Calls.

  // A probe gives its slot back after `probeTimeout`; should the store not hear of that, its lease runs out.
  const probeBound = ({ settings }: SharedSettings): number => settings.probeTimeout + probeLease

  const record = (call: Call, outcome: Outcome): Effect.Effect<void> => {
    const { admission, context, key, trip } = call
    const openDuration = canOpen(outcome, call) ? openFor(outcome, call) : 0
    const recorded = store.record({
      key,
      generation: admission.generation,
      outcome: outcome._tag,
      tripPolicy: trip,
      openFor: Duration.millis(openDuration)
    })
    return Effect.flatMap(
      unlessAway(ask(recorded)),
      (transition) => announceStored(Option.getOrUndefined(transition), context)
    )
  }

  /** Ends a call for the store, once: by its outcome, or because nobody waits for it any more. */
  const end = (call: Call, outcome: Outcome): Effect.Effect<void> =>
    Effect.suspend(() => {
      if (call.ended) return Effect.void
      call.ended = true
      // An ordinary call that counts for nothing leaves nothing to write.
      const writes = call.admission.probe || outcome._tag !== "Ignored"
      return Effect.andThen(Scope.close(call.lease, Exit.void), writes ? record(call, outcome) : Effect.void)
    })

  const refused = (cause: Cause.Cause<Store.CircuitBreakerError>, own: SharedSettings): Entered => {
    const reason = Option.getOrUndefined(Cause.findErrorOption(cause))?.reason
    if (reason?._tag === "CircuitOpen") {
      return { _tag: "Refused", refusal: { state: "Open", retryAfter: Duration.toMillis(reason.retryAfter) } }
    }
    if (reason?._tag === "CircuitHalfOpen") {
      return { _tag: "Refused", refusal: { state: "HalfOpen", retryAfter: probeBound(own) } }
    }
    return unheard(cause)
  }

  const leave = (entered: Entered): Effect.Effect<void> =>
    entered._tag === "Admitted" ? end(entered.call, ignored) : Effect.void

  // Both questions go out together, for one round trip. What a held circuit admits is given back.
  const admit = (key: string, own: SharedSettings, context: Context.Context<never>): Effect.Effect<Entered> =>
    Effect.flatMap(Scope.fork(scope), (lease) =>
      Effect.gen(function*() {
        const [holders, admission] = yield* Effect.all(
          [Effect.exit(countHolds(`${holdsPrefix}${key}`)), Effect.exit(Scope.provide(store.admit(key), lease))],
          { concurrency: 2 }
        )
        const isOpen = Exit.isSuccess(holders) && holders.value === 0
        const entered = Exit.isSuccess(admission)
          ? admitted({ ...own, key, admission: admission.value, lease, context, ended: false })
          : refused(admission.cause, own)
        const isHeld = Exit.isSuccess(holders) && holders.value > 0
        // What happens below a hold is no transition: the circuit is isolated before and after.
        if (entered._tag === "Admitted" && !isHeld) yield* announceStored(entered.call.admission.transition, context)
        if (isOpen && entered._tag === "Admitted") return entered
        yield* leave(entered)
        yield* Scope.close(lease, Exit.void)
        if (isOpen) return entered
        return Exit.isFailure(holders)
          ? unheard(holders.cause)
          : { _tag: "Refused", refusal: isolated } satisfies Entered
      }).pipe(Effect.onInterrupt(() => Scope.close(lease, Exit.void))))

  /**
   * The store's decision about a call, or nothing where it does not come in time. A fiber of its own asks the store: a
   * caller who is interrupted or has waited long enough goes at once, and a slot that is granted after that is given back.
   */
  const enter = Effect.fnUntraced(function*(
    key: string,
    own: SharedSettings,
    context: Context.Context<never>,
    restore: Restore
  ) {
    const door: { gone: boolean; entered: Entered | undefined } = { gone: false, entered: undefined }
    const asking = yield* admit(key, own, context).pipe(
      Effect.flatMap((entered) => {
        if (door.gone) return leave(entered)
        door.entered = entered
        return Effect.void
      }),
      Effect.forkIn(scope, { startImmediately: true })
    )
    const waited = yield* Effect.exit(restore(Effect.timeoutOption(Fiber.await(asking), storeTimeout)))
    door.gone = true
    const { entered } = door
    if (entered === undefined) {
      // A store that never answers is given up when any lease it could have granted has run out.
      yield* Effect.timeoutOption(Fiber.await(asking), probeLease).pipe(
        Effect.andThen(Fiber.interrupt(asking)),
        Effect.forkIn(scope)
      )
    }
    if (Exit.isFailure(waited)) {
      if (entered !== undefined) yield* leave(entered)
      return yield* Effect.failCause(waited.cause)
    }
    if (entered === undefined || entered._tag === "Unanswered") {
      yield* unanswered(entered?.cause ?? Cause.fail(tooLate()))
      return undefined
    }
    yield* answered
    return entered
  })

  const settle = (call: Call, exit: Exit.Exit<unknown, unknown>): Effect.Effect<void> => {
    if (Exit.isSuccess(exit)) return end(call, success)
    try {
      return end(call, judge(exit.cause, call.settings, call.context))
    } catch (thrown) {
      // The user's classifier threw: the call dies of it, and the slot is free all the same.
      return Effect.andThen(end(call, ignored), Effect.die(thrown))
    }
  }

  const run = <A, E, R>(self: Effect.Effect<A, E, R>, call: Call, restore: Restore): Effect.Effect<A, E, R> => {
    const { admission, settings } = call
    const guarded = Effect.onExit(restore(self), (exit) => settle(call, exit))
    if (!admission.probe) return guarded
    const overdue = Effect.andThen(Effect.sleep(settings.probeTimeout), Effect.uninterruptible(end(call, ignored)))
    return Effect.flatMap(
      Effect.forkIn(overdue, scope),
      (timer) => Effect.onExit(guarded, () => Fiber.interrupt(timer))
    )
  }

  const warnOf = (key: string, own: CircuitOptions | undefined): Effect.Effect<void> => {
    const options = settings.ignored(own)
    return options.length === 0 ? Effect.void : Effect.logWarning(
      `Circuit "${key}" is shared through Redis, which has no ${options.join(", ")}: the layer's settings hold`
    )
  }

  const objectTo = (key: string, own: CircuitOptions | undefined): Effect.Effect<void> => {
    const objection = callers.meet(key, own, settings.local)
    return objection === undefined ? Effect.void : Effect.logWarning(objection)
  }

  const protect = (key: string, own?: CircuitOptions) => {
    checkOptions(module, own)
    return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | CircuitOpen, R> =>
      Effect.uninterruptibleMask((restore) =>
        Effect.contextWith((context: Context.Context<R>): Effect.Effect<A, E | CircuitOpen, R> => {
          if (held.has(key)) return refuse(key, isolated, context)
          const objected = objectTo(key, own)
          const first = callers.of(key, own)
          const unshared = Effect.suspend(() => restore(isLocal ? guard(local, self, key, first) : self))
          if (!outage.asks(millisIn(context))) return Effect.andThen(objected, unshared)
          return Effect.andThen(
            Effect.andThen(warnOf(key, own), objected),
            Effect.flatMap(
              enter(key, settings.of(key, first), context, restore),
              (entered): Effect.Effect<A, E | CircuitOpen, R> => {
                if (entered === undefined) return unshared
                return entered._tag === "Refused"
                  ? refuse(key, entered.refusal, context)
                  : run(self, entered.call, restore)
              }
            )
          )
        })
      )
  }

  const refusalIn = (state: State, own: SharedSettings): Refusal | undefined => {
    switch (state._tag) {
      case "Isolated":
        return isolated
      case "Open": {
        const left = Duration.toMillis(state.retryAfter)
        return left > 0 ? { state: "Open", retryAfter: left } : undefined
      }
      case "HalfOpen":
        return state.probes > 0 ? { state: "HalfOpen", retryAfter: probeBound(own) } : undefined
      default:
        return undefined
    }
  }

  const checkLocal = (key: string, own: CircuitOptions | undefined, context: Context.Context<never>) => {
    if (!isLocal) return Effect.void
    const error = local.check(key, own, millisIn(context), context)
    const end = error === undefined ? Effect.void : Effect.fail(error)
    return local.pending ? Effect.andThen(local.announce, end) : end
  }

  const check = (key: string, own?: CircuitOptions): Effect.Effect<void, CircuitOpen> => {
    checkOptions(module, own)
    return Effect.contextWith((context: Context.Context<never>): Effect.Effect<void, CircuitOpen> => {
      if (held.has(key)) return refuse(key, isolated, context)
      const first = callers.of(key, own)
      return Effect.flatMap(unlessAway(ask(read(key))), (state): Effect.Effect<void, CircuitOpen> => {
        if (Option.isNone(state)) return checkLocal(key, first, context)
        const refusal = refusalIn(state.value, settings.of(key, first))
        return refusal === undefined ? Effect.void : refuse(key, refusal, context)
      })
    })
  }

  // By hand.

  const everyKey = Effect.gen(function*() {
    const keys = new Set(held.keys())
    const pattern = `${prefix.replace(/[*?[\]\\]/g, "\\$&")}*`
    let cursor = "0"
    do {
      const page = redis.send<readonly [cursor: string, names: ReadonlyArray<string>]>(
        "SCAN",
        cursor,
        "MATCH",
        pattern,
        "COUNT",
        "1000"
      )
      const [next, names] = yield* bounded(page)
      for (const name of names) {
        const own = [statePrefix, holdsPrefix].find((start) => name.startsWith(start))
        if (own !== undefined) keys.add(name.slice(own.length))
      }
      cursor = next
    } while (cursor !== "0")
    return keys
  })

  const everyState = Effect.flatMap(
    everyKey,
    (keys) => Effect.forEach(keys, (key) => Effect.map(bounded(read(key)), withOwnHolds), { concurrency: 64 })
  )

  const everyLocalState = Effect.flatMap(now, (at) => {
    const known = isLocal ? Array.from(local.all(at), ({ key }) => key) : []
    return Effect.forEach(new Set([...known, ...held.keys()]), localState)
  })

  const reset = Effect.fnUntraced(function*(key: string, context: Context.Context<never>) {
    local.reset(key, millisIn(context), context)
    if (local.pending) yield* local.announce
    const before = yield* ask(
      Effect.flatMap(
        read(key),
        (state) =>
          Effect.map(
            redis.send<number>("DEL", `${statePrefix}${key}`),
            (deleted) => deleted === 0 ? closed(key) : state
          )
      )
    )
    if (Option.isNone(before)) {
      return yield* Effect.logWarning(`Redis does not answer: circuit "${key}" is not reset there, try again`)
    }
    const from = withOwnHolds(before.value)._tag
    if (from !== "Closed" && from !== "Isolated") yield* announce({ key, from, to: "Closed" }, context)
  })

  const byHand = <A>(change: (context: Context.Context<never>) => Effect.Effect<A>): Effect.Effect<A> =>
    Effect.uninterruptible(Effect.contextWith(change))

  return {
    protect,
    check,
    state: (key: string): Effect.Effect<State> =>
      Effect.flatMap(
        unlessAway(ask(read(key))),
        (state) => Option.isNone(state) ? localState(key) : Effect.succeed(withOwnHolds(state.value))
      ),
    states: Effect.flatMap(
      unlessAway(heard(everyState)),
      (states): Effect.Effect<ReadonlyArray<State>> =>
        Option.isNone(states) ? everyLocalState : Effect.succeed(states.value)
    ),
    transitions: Stream.fromPubSubTake(hub),
    reset: (key: string) => byHand((context) => reset(key, context)),
    isolate: (key: string) => byHand((context) => hold(key, context)),
    configure: (next: Options) =>
      byHand((context) =>
        Effect.suspend(() => {
          const changed = new SharedServiceSettings(module, next, idleTimeToLive)
          local.configure(changed.local, millisIn(context), context)
          settings = changed
          return local.pending ? local.announce : Effect.void
        })
      )
  }
})
