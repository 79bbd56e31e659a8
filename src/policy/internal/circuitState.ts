import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as Fault from "../../Fault.ts"
import { rounding } from "../../internal/monotonic.ts"
import { isSameRule, partsOf, type Sample, type TripRule, type TripWindow } from "./circuitRules.ts"

/** What a `Schedule` of open times is given for each opening. */
export interface Opening {
  readonly key: string
  /** 1 for the first opening, more for those that follow before the circuit has proved itself again. */
  readonly count: number
  // Lets the schedules of Backoff, which stop on a failure that must not be repeated, serve as open times.
  readonly [Fault.verdictOf]: typeof Fault.transient
}

/** @internal */
export interface CircuitOptions {
  readonly trip?: TripRule | undefined
  readonly openFor?: Duration.Input | Schedule.Schedule<unknown, Opening> | undefined
  readonly maxOpenFor?: Duration.Input | undefined
  readonly halfOpenPermits?: number | undefined
  readonly successThreshold?: number | undefined
  readonly successOutOf?: number | undefined
  readonly probeTimeout?: Duration.Input | undefined
  readonly metricsOnly?: boolean | undefined
  readonly countsAsFailure?: ((verdict: Fault.Verdict, error: unknown) => boolean) | undefined
}

/** @internal */
export type OpenTimes = Schedule.Schedule<unknown, Opening>

/** @internal */
export interface Settings {
  readonly rule: TripRule
  readonly openFor: number | OpenTimes
  readonly maxOpenFor: number
  readonly halfOpenPermits: number
  readonly successThreshold: number
  readonly successOutOf: number
  readonly probeTimeout: number
  readonly metricsOnly: boolean
  readonly countsAsFailure: (verdict: Fault.Verdict, error: unknown) => boolean
}

/** @internal */
export type StateTag = "Closed" | "Open" | "HalfOpen" | "Isolated" | "MetricsOnly"

/** @internal */
export interface Change {
  readonly key: string
  readonly from: StateTag
  readonly to: StateTag
}

interface Closed {
  readonly _tag: "Closed"
  readonly since: number
  window: TripWindow
  calls: number
  failures: number
  wouldOpen: boolean
}

interface Open {
  readonly _tag: "Open"
  readonly until: number
}

interface HalfOpen {
  readonly _tag: "HalfOpen"
  readonly probes: Set<Ticket>
  successes: number
  failures: number
}

type Phase = Closed | Open | HalfOpen

/**
 * Leave to run one call. It names the phase that gave it: a phase is never entered twice, so a call that ends in
 * another phase than it started in is told from the others by identity, and its outcome is dropped.
 *
 * @internal
 */
export class Ticket {
  readonly _tag = "Ticket"
  readonly circuit: Circuit
  readonly phase: Closed | HalfOpen
  readonly startedAt: number
  constructor(circuit: Circuit, phase: Closed | HalfOpen, startedAt: number) {
    this.circuit = circuit
    this.phase = phase
    this.startedAt = startedAt
  }
}

/** @internal */
export interface Refusal {
  readonly state: "Open" | "HalfOpen" | "Isolated"
  readonly retryAfter: number | undefined
}

const isolated: Refusal = { state: "Isolated", retryAfter: undefined }

/** @internal */
export type Outcome =
  | { readonly _tag: "Success" }
  | { readonly _tag: "Failure"; readonly retryAfter: Duration.Duration | undefined }
  | { readonly _tag: "Ignored" }

/** @internal */
export const success: Outcome = { _tag: "Success" }

/** @internal */
export const ignored: Outcome = { _tag: "Ignored" }

/** @internal */
export type Snapshot =
  | { readonly _tag: "Closed"; readonly calls: number; readonly failures: number }
  | { readonly _tag: "Open"; readonly retryAfter: number; readonly openings: number }
  | {
    readonly _tag: "HalfOpen"
    readonly probes: number
    readonly successes: number
    readonly failures: number
    readonly openings: number
  }
  | { readonly _tag: "Isolated"; readonly holders: number }
  | { readonly _tag: "MetricsOnly"; readonly calls: number; readonly failures: number; readonly wouldOpen: boolean }

/**
 * One key's circuit. Every method is one synchronous step, so that no two calls can be admitted to one slot and no
 * interruption can come between a decision and its record. Times are monotonic milliseconds. What most circuits never
 * need (holders, a schedule's state) is made when it is needed: there is one circuit for each key.
 *
 * @internal
 */
export class Circuit {
  readonly key: string
  settings: Settings
  /** The options of the first caller who gave any: they hold. */
  asked: CircuitOptions | undefined
  /** Options that were looked at last, by identity: callers mostly bring the same again. */
  seen: CircuitOptions | undefined
  isWarned = false
  private readonly changed: (change: Change) => void
  private phase: Phase
  private holders: Set<object> | undefined = undefined
  private openTimes: OpenTimesOfCircuit | undefined = undefined
  private openings = 0
  private lastOpenFor = 0
  private running = 0
  lastUsed: number

  constructor(
    key: string,
    settings: Settings,
    asked: CircuitOptions | undefined,
    now: number,
    changed: (change: Change) => void
  ) {
    this.key = key
    this.settings = settings
    this.asked = asked
    this.seen = asked
    this.changed = changed
    this.phase = closed(settings.rule.window([]), now)
    this.lastUsed = now
  }

  /** Why a call under these settings would be refused at this moment. */
  refusal(settings: Settings, now: number): Refusal | undefined {
    this.lastUsed = now
    if (this.holders !== undefined) return isolated
    const { phase } = this
    if (phase._tag === "Closed" || settings.metricsOnly) return undefined
    if (phase._tag === "Open") {
      const left = phase.until - now
      return left > rounding ? { state: "Open", retryAfter: left } : undefined
    }
    const wait = waitForSlot(phase, settings, now)
    return wait > 0 ? { state: "HalfOpen", retryAfter: wait } : undefined
  }

  admit(now: number): Ticket | Refusal {
    const refused = this.refusal(this.settings, now)
    if (refused !== undefined) return refused
    const phase = this.phase._tag === "Open" ? this.startProbing() : this.phase
    const ticket = new Ticket(this, phase, now)
    if (phase._tag === "HalfOpen") {
      for (const probe of phase.probes) {
        if (!isOverdue(probe, this.settings, now)) break
        phase.probes.delete(probe)
      }
      phase.probes.add(ticket)
    }
    this.running++
    return ticket
  }

  settle(ticket: Ticket, outcome: Outcome, now: number, context: Context.Context<never>): void {
    this.running--
    this.lastUsed = now
    const { phase } = this
    if (phase !== ticket.phase) return
    if (phase._tag === "HalfOpen") {
      // A probe that has lost its slot has lost its say, also where `probeTimeout` has been made longer since.
      if (!phase.probes.delete(ticket) || outcome._tag === "Ignored" || isOverdue(ticket, this.settings, now)) return
      this.judgeProbe(phase, sample(ticket, outcome, now), outcome, now, context)
    } else if (outcome._tag !== "Ignored") {
      this.count(phase, sample(ticket, outcome, now), outcome, now, context)
    }
  }

  hold(holder: object, now: number): void {
    this.lastUsed = now
    this.change(() => {
      if (this.holders === undefined) {
        this.holders = new Set()
        this.phase = withoutRunning(this.phase, now)
      }
      this.holders.add(holder)
    })
  }

  release(holder: object, now: number): void {
    this.lastUsed = now
    this.change(() => {
      this.holders?.delete(holder)
      if (this.holders?.size === 0) this.holders = undefined
    })
  }

  reset(now: number): void {
    this.lastUsed = now
    this.openings = 0
    this.become(closed(this.settings.rule.window([]), now))
  }

  configure(settings: Settings, now: number): void {
    const before = this.settings
    if (settings === before) return
    this.change(() => {
      if (settings.openFor !== before.openFor) this.openTimes = undefined
      this.settings = settings
      if (this.phase._tag !== "Closed") {
        if (settings.metricsOnly) this.phase = closed(settings.rule.window([]), now)
      } else if (!isSameRule(settings.rule, before.rule)) {
        this.phase.window = settings.rule.window(partsOf(this.phase.window))
      }
    })
  }

  snapshot(now: number): Snapshot {
    if (this.holders !== undefined) return { _tag: "Isolated", holders: this.holders.size }
    const { openings, phase } = this
    switch (phase._tag) {
      case "Closed": {
        const { calls, failures, wouldOpen } = phase
        return this.settings.metricsOnly
          ? { _tag: "MetricsOnly", calls, failures, wouldOpen }
          : { _tag: "Closed", calls, failures }
      }
      case "Open":
        return { _tag: "Open", retryAfter: phase.until - now, openings }
      case "HalfOpen": {
        let probes = 0
        for (const probe of phase.probes) if (!isOverdue(probe, this.settings, now)) probes++
        return { _tag: "HalfOpen", probes, successes: phase.successes, failures: phase.failures, openings }
      }
    }
  }

  /** Whether no call and no person depends on this circuit at the moment. */
  isUnused(): boolean {
    return this.holders === undefined && this.running === 0
  }

  isClosed(): boolean {
    return this.phase._tag === "Closed"
  }

  /** Whether it refuses calls because its open time is not over. */
  isWaiting(now: number): boolean {
    return this.phase._tag === "Open" && this.phase.until > now
  }

  /**
   * Whether nothing is lost by forgetting it: nobody has used it for that long, nor since it would refuse a call, and what
   * it has opened so far would not make its next open time longer.
   */
  isForgettable(now: number, idleTimeToLive: number): boolean {
    if (!this.isUnused()) return false
    const idleSince = this.phase._tag === "Open" ? Math.max(this.lastUsed, this.phase.until) : this.lastUsed
    return now - idleSince >= (this.openings === 0 ? idleTimeToLive : Math.max(idleTimeToLive, this.lastOpenFor))
  }

  private tag(): StateTag {
    if (this.holders !== undefined) return "Isolated"
    return this.phase._tag === "Closed" && this.settings.metricsOnly ? "MetricsOnly" : this.phase._tag
  }

  private change(step: () => void): void {
    const from = this.tag()
    step()
    const to = this.tag()
    if (from !== to) this.changed({ key: this.key, from, to })
  }

  private become(phase: Phase): void {
    this.change(() => {
      this.phase = phase
    })
  }

  private startProbing(): HalfOpen {
    const phase: HalfOpen = { _tag: "HalfOpen", probes: new Set(), successes: 0, failures: 0 }
    this.become(phase)
    return phase
  }

  private judgeProbe(phase: HalfOpen, sample: Sample, outcome: Outcome, now: number, context: Context.Context<never>) {
    const { rule, successOutOf, successThreshold } = this.settings
    const healthy = rule.healthy(sample)
    if (healthy) phase.successes++
    else phase.failures++
    // Settings may have changed under way, and then both can be so: the last probe decides.
    const closes = phase.successes >= successThreshold
    const opens = phase.failures > successOutOf - successThreshold
    if (closes && (healthy || !opens)) {
      this.become(closed(rule.window([]), now))
    } else if (opens) {
      this.open(outcome, now, context)
    }
  }

  private count(phase: Closed, sample: Sample, outcome: Outcome, now: number, context: Context.Context<never>) {
    phase.calls++
    if (sample.failed) phase.failures++
    const trips = phase.window.record(sample)
    phase.wouldOpen = trips
    if (trips && !this.settings.metricsOnly) this.open(outcome, now, context)
  }

  private open(outcome: Outcome, now: number, context: Context.Context<never>): void {
    // A circuit that trips again soon after closing had not recovered: its open times go on growing. One that stayed
    // closed as long as it was last open starts from the first again.
    if (this.phase._tag === "Closed" && now - this.phase.since >= this.lastOpenFor - rounding) this.openings = 0
    this.openings++
    const asked = outcome._tag === "Failure" && outcome.retryAfter !== undefined
      ? Duration.toMillis(outcome.retryAfter)
      : 0
    const own = this.ownOpenTime(context)
    this.lastOpenFor = Math.min(Math.max(own, asked, shortestOpenFor), this.settings.maxOpenFor)
    this.become({ _tag: "Open", until: now + this.lastOpenFor })
  }

  private ownOpenTime(context: Context.Context<never>): number {
    const { openFor } = this.settings
    if (typeof openFor === "number") return openFor
    this.openTimes ??= openTimes(openFor)
    return this.openTimes(this.key, this.openings, context)
  }
}

const isOverdue = (probe: Ticket, settings: Settings, now: number): boolean =>
  now - probe.startedAt >= settings.probeTimeout - rounding

/** How long until a probe has ended or is overdue for certain: 0 where a slot is free. */
const waitForSlot = ({ probes }: HalfOpen, settings: Settings, now: number): number => {
  // There can be more probes than slots: some that are overdue, and some from before there were fewer slots.
  let surplus = probes.size - settings.halfOpenPermits
  if (surplus < 0) return 0
  for (const probe of probes) {
    if (surplus-- === 0) return isOverdue(probe, settings, now) ? 0 : probe.startedAt + settings.probeTimeout - now
  }
  return 0
}

const closed = (window: TripWindow, since: number): Closed => ({
  _tag: "Closed",
  since,
  window,
  calls: 0,
  failures: 0,
  wouldOpen: false
})

/** The phase to come back to, which no call that is running now can still change. */
const withoutRunning = (phase: Phase, now: number): Phase => {
  switch (phase._tag) {
    case "Closed":
      return { ...phase }
    case "HalfOpen":
      return { _tag: "Open", until: now }
    case "Open":
      return phase
  }
}

const sample = (ticket: Ticket, outcome: Outcome, now: number): Sample => ({
  failed: outcome._tag === "Failure",
  elapsed: now - ticket.startedAt,
  now
})

/** @internal */
export const defaultOpenFor = 60_000

// A schedule may give no delay at all, and a circuit that does not stay open refuses nothing.
const shortestOpenFor = 1

type OpenTimesOfCircuit = (key: string, count: number, context: Context.Context<never>) => number

/**
 * The length of each opening. A trip is decided and dated in one synchronous step, so the schedule is stepped on the
 * spot; that no schedule waits while it computes a delay is what makes this possible. A schedule that has ended, or
 * that cannot answer at once, repeats its last delay. It measures time by the openings themselves, so that its
 * elapsed-time combinators bound the time spent open.
 *
 * @internal
 */
export const openTimes = (openFor: OpenTimes): OpenTimesOfCircuit => {
  const start = Schedule.toStep(openFor)
  let step: Effect.Success<typeof start> | undefined
  let taken = 0
  let elapsed = 0
  let last = defaultOpenFor
  return (key, count, context) => {
    const run = Effect.runSyncExitWith(context)
    if (step === undefined || count <= taken) {
      const started = run(start)
      if (Exit.isFailure(started)) return last
      step = started.value
      taken = 0
      elapsed = 0
      last = defaultOpenFor
    }
    while (taken < count) {
      taken++
      const next = run(step(elapsed, { key, count: taken, [Fault.verdictOf]: Fault.transient }))
      if (Exit.isFailure(next)) continue
      last = Duration.toMillis(next.value[1])
      elapsed += last
    }
    return last
  }
}
