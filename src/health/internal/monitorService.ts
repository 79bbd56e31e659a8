import * as Cause from "effect/Cause"
import * as Clock from "effect/Clock"
import * as Context from "effect/Context"
import * as DateTime from "effect/DateTime"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as PubSub from "effect/PubSub"
import * as Schedule from "effect/Schedule"
import type * as Scope from "effect/Scope"
import * as Fault from "../../Fault.ts"
import * as config from "../../internal/config.ts"
import { millisOf } from "../../internal/monotonic.ts"
import * as Telemetry from "../../Telemetry.ts"
import * as announcer from "./announcer.ts"
import { type Check, listed } from "./checkModel.ts"
import * as checkRuns from "./checkRuns.ts"
import type { Outcome } from "./healthGate.ts"
import { HealthGateClosed } from "./healthGateClosed.ts"
import { HealthHistory } from "./healthHistory.ts"
import {
  type Change,
  type Checked,
  type GateChange,
  HealthKeys,
  type Moment,
  type ProbeTicket,
  type Ticket,
  type View
} from "./healthKeys.ts"
import { HealthMetrics } from "./healthMetrics.ts"
import { counted, type Status, worse } from "./healthStatus.ts"
import * as monitorSettings from "./monitorSettings.ts"

const module = "HealthMonitor"

type Trend =
  | {
    readonly _tag: "Trend"
    readonly over: Duration.Duration
    readonly since: DateTime.Utc
    readonly samples: number
    readonly percentages: Readonly<Record<Status, number>>
    readonly direction: "improving" | "degrading" | "steady"
  }
  | { readonly _tag: "NoData"; readonly over: Duration.Duration }

/** The keys whose probes the work here belongs to. */
const Probing = Context.Reference<ReadonlyArray<string>>("effect-resilience/health/HealthMonitor/Probing", {
  defaultValue: () => []
})

const outcomeOf = (
  exit: Exit.Exit<unknown, unknown>,
  counts: (verdict: Fault.Verdict, error: unknown) => boolean,
  context: Context.Context<never>
): Outcome => {
  if (Exit.isSuccess(exit)) return "success"
  const isFailure = (reason: Cause.Reason<unknown>): boolean =>
    Cause.isFailReason(reason)
      ? counts(Fault.classifyIn(context, reason.error), reason.error)
      : Cause.isDieReason(reason)
  return exit.cause.reasons.some(isFailure) ? "failure" : "ignored"
}

const momentOf = (context: Context.Context<never>): Moment => {
  const clock = Context.get(context, Clock.Clock)
  return { now: millisOf(clock), wall: clock.currentTimeMillisUnsafe() }
}

const healthOf = (view: View) => {
  const { calls, errors, gate, key, message, percentiles, since, status } = view
  const [p50, p95, p99] = percentiles.map((millis) => Duration.millis(millis))
  return {
    key,
    status,
    message,
    since: DateTime.makeUnsafe(since),
    calls,
    errors,
    successes: calls - errors,
    errorRate: calls === 0 ? 0 : errors / calls,
    latency: calls === 0 || p50 === undefined || p95 === undefined || p99 === undefined
      ? undefined
      : { mean: Duration.millis(view.meanMillis), p50, p95, p99 },
    gate
  }
}

const checkHealthOf = (key: string, { at, name, result, since, tookMillis }: Checked) => ({
  ...result,
  name,
  key,
  since: DateTime.makeUnsafe(since),
  checkedAt: DateTime.makeUnsafe(at),
  took: Duration.millis(tookMillis)
})

/** Halves whose mean severities differ by no more are alike. */
const margin = 0.1

/**
 * Watches keys, and runs checks as long as its scope.
 *
 * @internal
 */
export const make = Effect.fnUntraced(function*<R>(
  options: monitorSettings.Options,
  checks: ReadonlyArray<Check<R>>
) {
  checkNames(checks)
  const settingsOf = monitorSettings.make(options)
  const defaults = monitorSettings.serviceDefaults
  const interval = config.duration(module, "interval", options.interval ?? defaults.interval, { minimum: "1 millis" })
  const timeout = config.duration(module, "timeout", options.timeout ?? defaults.timeout, { minimum: "1 millis" })
  const history = new HealthHistory(
    config.integer(module, "historySize", options.historySize ?? defaults.historySize, 1, 1_000_000)
  )
  const metrics = new HealthMetrics(
    config.integer(module, "maxMetricKeys", options.maxMetricKeys ?? defaults.maxMetricKeys, 0)
  )
  const bounds = {
    maxKeys: config.integer(module, "maxKeys", options.maxKeys ?? defaults.maxKeys, 1),
    idleTimeToLive: Duration.toMillis(
      config.duration(module, "idleTimeToLive", options.idleTimeToLive ?? defaults.idleTimeToLive, {
        minimum: "1 millis"
      })
    )
  }

  const scope = yield* Effect.scope
  const context = yield* Effect.context<R>()
  const changes = yield* announcer.make<Change>()
  const gateChanges = yield* announcer.make<GateChange>()
  const touches = yield* PubSub.sliding<void>(1)
  // Who waits for a gate of a monitor that has ended is let go, with whatever it holds.
  yield* Effect.addFinalizer(() => PubSub.shutdown(touches))

  let fresh: Array<Change> = []
  let freshGates: Array<GateChange> = []
  let isTouched = false
  /** How many wait to be told of what is heard of closed gates. */
  let watchers = 0
  const keys = new HealthKeys(history, bounds, settingsOf, {
    change: (change) => fresh.push(change),
    gate: (change) => freshGates.push(change),
    touch: () => {
      isTouched = true
    }
  })
  const whole = history.lane()
  const lanes = new Map(checks.map(({ name }) => [name, history.lane()]))

  const announce = (context: Context.Context<never>): Effect.Effect<void> => {
    if (fresh.length === 0 && freshGates.length === 0 && !isTouched) return Effect.void
    const told: Array<Effect.Effect<void>> = []
    for (const change of fresh) {
      changes.push(change)
      if (change.check === undefined) metrics.status(change.key, change.to, context)
      told.push(Telemetry.emitIn(context, () => ({ _tag: "HealthChanged", ...change })))
    }
    for (const { key, message, to } of freshGates) {
      gateChanges.push({ key, message, to })
      metrics.gate(key, to === "closed", context)
      told.push(
        to === "closed"
          ? Effect.logWarning(`Health gate "${key}" has closed: ${message}`)
          : Effect.logInfo(`Health gate "${key}" has reopened: ${message}`)
      )
    }
    if (fresh.length > 0) told.unshift(changes.publish)
    if (freshGates.length > 0) told.unshift(gateChanges.publish)
    if (isTouched && watchers > 0) told.unshift(Effect.asVoid(PubSub.publish(touches, undefined)))
    fresh = []
    freshGates = []
    isTouched = false
    return Effect.all(told, { discard: true })
  }

  /** One step, and what it has changed is told. */
  const step = <A>(step: (at: Moment, context: Context.Context<never>) => A): Effect.Effect<A> =>
    Effect.uninterruptible(Effect.contextWith((context: Context.Context<never>) => {
      const result = step(momentOf(context), context)
      return Effect.as(announce(context), result)
    }))

  const runs = yield* checkRuns.make(
    checks,
    { interval, timeout },
    context,
    ({ key, name }, result, took) => step((at) => keys.checked(key, name, result, took, at))
  )

  const report = (at: Moment) => {
    const views = keys.views(at)
    const results = checks.flatMap(({ key, name, required }) => {
      const result = keys.checksOf(key).get(name)
      return result === undefined ? [] : [{ required, health: checkHealthOf(key, result) }]
    })
    const ofChecks = results.map(({ health, required }) => counted(health.status, required))
    const ofKeys = views.map(({ key }) => keys.countedFor({ key, status: keys.callsOf(key, at) }))
    const unwell = [
      ...results.filter(({ health }) => health.status !== "healthy").map(({ health }) =>
        `${health.name}: ${health.message}`
      ),
      ...views.filter(({ key }) => keys.callsOf(key, at) !== "healthy").map(({ key }) =>
        `${key}: ${keys.sayCalls(key, at)}`
      )
    ]
    const pending = runs.pending()
    const well = pending.length === 0 ? "all is well" : `waiting for the first result of: ${listed(pending)}`
    return {
      status: [...ofChecks, ...ofKeys].reduce<Status>(worse, "healthy"),
      message: unwell.length === 0 ? well : listed(unwell, "; "),
      at: DateTime.makeUnsafe(at.wall),
      checks: results.map(({ health }) => health),
      pending,
      keys: views.map(healthOf)
    }
  }

  const measured = (at: Moment, context: Context.Context<never>) => {
    const now = report(at)
    for (const { gate, key, status } of now.keys) {
      metrics.status(key, status, context)
      metrics.gate(key, gate !== "open", context)
    }
    metrics.count(now.keys.map(({ status }) => status), context)
    return now
  }

  const snapshot = step(measured)

  const round = step((at, context) => {
    const now = measured(at, context)
    history.begin(at.now)
    history.put(whole, now.status)
    for (const { name, status } of now.checks) {
      const lane = lanes.get(name)
      if (lane !== undefined) history.put(lane, status)
    }
    keys.remember()
  })

  yield* Effect.forkIn(runs.forever, scope)
  yield* Effect.forkIn(Effect.andThen(runs.ready, Effect.repeat(round, Schedule.spaced(interval))), scope)

  const track = (key: string) => {
    const { counts } = settingsOf(key)
    return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
      Effect.suspend(() => {
        let call: Ticket | undefined
        let started = 0
        // The finalizer is in place before the call begins, and not after: no interruption fits in between.
        return Effect.onExit(
          Effect.contextWith((context: Context.Context<R>) => {
            const at = momentOf(context)
            started = at.now
            call = keys.begin(key, Context.get(context, Probing).includes(key), at)
            return self
          }),
          (exit) =>
            step((at, context) => {
              if (call === undefined) return
              let outcome: Outcome = "ignored"
              try {
                outcome = outcomeOf(exit, counts, context)
              } finally {
                // Also when the user's classifier throws: the call dies of it, and is no longer running all the same.
                keys.settle(call, outcome, at.now - started, at)
              }
            })
        )
      })
  }

  const gate = (key: string) => {
    const { counts } = settingsOf(key)
    return <A, E, R>(self: Effect.Effect<A, E, R>): Effect.Effect<A, E | HealthGateClosed, R> =>
      Effect.suspend(() => {
        let probe: ProbeTicket | undefined
        const entered = Effect.contextWith((context: Context.Context<R>): Effect.Effect<A, E | HealthGateClosed, R> => {
          const at = momentOf(context)
          const { admission, ticket } = keys.enter(key, at)
          if (admission._tag === "Refused") {
            const { closedSince, gateReason } = keys.view(key, at)
            const refusal = new HealthGateClosed({
              key,
              since: DateTime.makeUnsafe(closedSince),
              reason: gateReason,
              ...(admission.waitMillis === undefined
                ? {}
                : { retryAfter: Duration.millis(Math.ceil(admission.waitMillis)) })
            })
            return Effect.andThen(announce(context), Effect.fail(refusal))
          }
          const told = announce(context)
          if (ticket === undefined) return Effect.andThen(told, self)
          probe = ticket
          return Effect.andThen(
            told,
            Effect.provideService(self, Probing, [...Context.get(context, Probing), key])
          )
        })
        return Effect.onExit(entered, (exit) =>
          probe === undefined ? Effect.void : step((at, context) => {
            if (probe === undefined) return
            let outcome: Outcome = "ignored"
            try {
              outcome = outcomeOf(exit, counts, context)
            } finally {
              keys.leave(probe, outcome, at)
            }
          }))
      })
  }

  /** Waits until the gate of a key is closed, and lets nobody through to try, or until it is not. */
  const until = (key: string, closed: boolean, heard: PubSub.Subscription<void>): Effect.Effect<void> =>
    Effect.flatMap(step((at) => keys.view(key, at)), ({ gate, gateWaitMillis }) => {
      if ((gate === "closed") === closed) return Effect.void
      const again = gateWaitMillis === undefined || closed
        ? PubSub.take(heard)
        : Effect.timeoutOption(PubSub.take(heard), Duration.millis(Math.ceil(gateWaitMillis)))
      return Effect.andThen(again, until(key, closed, heard))
    })

  const whileClosed = <R>(
    key: string,
    effect: Effect.Effect<unknown, never, R>
  ): Effect.Effect<void, never, Exclude<R, Scope.Scope> | Scope.Scope> =>
    Effect.gen(function*() {
      yield* Effect.acquireRelease(Effect.sync(() => watchers++), () => Effect.sync(() => watchers--))
      const heard = yield* PubSub.subscribe(touches)
      const once = Effect.scoped(Effect.andThen(effect, until(key, false, heard)))
      yield* Effect.forkScoped(Effect.forever(Effect.andThen(until(key, true, heard), once)), {
        startImmediately: true
      })
    })

  return {
    track,
    record: (
      key: string,
      { latency, outcome }: { readonly outcome: "success" | "failure"; readonly latency: Duration.Input }
    ) =>
      Effect.suspend(() => {
        const took = Duration.toMillis(config.duration(module, "latency", latency))
        return step((at) => keys.record(key, outcome, took, at))
      }),
    status: (key: string) => Effect.map(step((at) => keys.view(key, at)), healthOf),
    statuses: Effect.map(step((at) => keys.views(at)), (views) => views.map(healthOf)),
    snapshot,
    check: Effect.andThen(runs.now, snapshot),
    changes: changes.stream,
    gate,
    gateChanges: gateChanges.stream,
    whileClosed,
    trend: ({ check, key, over = "1 hour" }: {
      readonly over?: Duration.Input | undefined
      readonly key?: string | undefined
      readonly check?: string | undefined
    } = {}) =>
      step((at): Trend => {
        const span = config.duration(module, "over", over, { minimum: "1 millis" })
        const lane = check !== undefined ? lanes.get(check) : key !== undefined ? keys.view(key, at).lane : whole
        const trend = lane === undefined ? undefined : history.trend(lane, at.now - Duration.toMillis(span))
        if (trend === undefined) return { _tag: "NoData", over: span }
        const { counts, earlier, first, later, samples } = trend
        const share = (status: Status) => (100 * counts[status]) / samples
        return {
          _tag: "Trend",
          over: span,
          since: DateTime.makeUnsafe(Math.round(at.wall - (at.now - first))),
          samples,
          percentages: {
            healthy: share("healthy"),
            slow: share("slow"),
            degraded: share("degraded"),
            critical: share("critical")
          },
          direction: later < earlier - margin ? "improving" : later > earlier + margin ? "degrading" : "steady"
        }
      })
  }
})

const checkNames = (checks: ReadonlyArray<Check<unknown>>): void => {
  const names = checks.map(({ name }) => name)
  const twice = names.find((name, index) => names.indexOf(name) !== index)
  if (twice === undefined) return
  throw new Fault.InvalidConfig({
    module,
    option: "checks",
    value: `two with the name ${JSON.stringify(twice)}`,
    expected: "a name for each"
  })
}
