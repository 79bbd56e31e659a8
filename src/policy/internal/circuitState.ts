import type * as Context from "effect/Context"
import * as Duration from "effect/Duration"
import * as Effect from "effect/Effect"
import * as Exit from "effect/Exit"
import * as Schedule from "effect/Schedule"
import * as Fault from "../../Fault.ts"
import { partsOf, type Sample, type TripRule, type TripWindow } from "./circuitRules.ts"

/** What a `Schedule` of open times is given for each opening. */
export interface Opening {
  readonly key: string
  /** 1 for the first opening, more for those that follow before the circuit has proved itself again. */
  readonly count: number
  // Lets the schedules of Backoff, which stop on a failure that must not be repeated, serve as open times.
  readonly [Fault.verdictOf]: typeof Fault.transient
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
export interface Ticket {
  readonly _tag: "Ticket"
  readonly phase: Closed | HalfOpen
  readonly startedAt: number
}

/** @internal */
export interface Refusal {
  readonly _tag: "Refusal"
  readonly state: "Open" | "HalfOpen" | "Isolated"
  readonly retryAfter: number | undefined
}

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
 * Milliseconds from a clock of nanoseconds are fractions, and the sum and the difference of two of them miss the true
 * value by a little. A microsecond is more than that, and less than anybody asks for.
 *
 * @internal
 */
export const rounding = 0.001

/**
 * One key's circuit. Every method is one synchronous step, so that no two calls can be admitted to one slot and no
 * interruption can come between a decision and its record. Times are monotonic milliseconds.
 *
 * @internal
 */
export class Circuit {
  readonly key: string
  settings: Settings
  private phase: Phase
  private readonly holders = new Set<object>()
  private readonly onChange: (change: Change) => void
  private openTimes: (key: string, count: number, context: Context.Context<never>) => number
  private openings = 0
  private lastOpenFor = 0
  private running = 0
  lastUsed: number

  constructor(key: string, settings: Settings, now: number, onChange: (change: Change) => void) {
    this.key = key
    this.settings = settings
    this.openTimes = openTimes(settings)
    this.phase = closed(settings.rule.window([]), now)
    this.onChange = onChange
    this.lastUsed = now
  }

  admit(now: number): Ticket | Refusal {
    this.lastUsed = now
    if (this.holders.size > 0) return { _tag: "Refusal", state: "Isolated", retryAfter: undefined }
    let { phase } = this
    if (phase._tag === "Open") {
      const left = phase.until - now
      if (left > rounding) return { _tag: "Refusal", state: "Open", retryAfter: left }
      const halfOpen: HalfOpen = { _tag: "HalfOpen", probes: new Set(), successes: 0, failures: 0 }
      this.become(halfOpen)
      phase = halfOpen
    }
    const ticket: Ticket = { _tag: "Ticket", phase, startedAt: now }
    if (phase._tag === "HalfOpen") {
      const wait = this.waitForSlot(phase, now)
      if (wait > 0) return { _tag: "Refusal", state: "HalfOpen", retryAfter: wait }
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
      phase.probes.delete(ticket)
      if (outcome._tag === "Ignored" || this.isOverdue(ticket, now)) return
      this.judgeProbe(phase, sample(ticket, outcome, now), outcome, now, context)
    } else if (outcome._tag !== "Ignored") {
      this.count(phase, sample(ticket, outcome, now), outcome, now, context)
    }
  }

  hold(holder: object, now: number): void {
    this.lastUsed = now
    this.change(() => {
      if (this.holders.size === 0) this.phase = withoutCalls(this.phase, this.settings, now)
      this.holders.add(holder)
    })
  }

  release(holder: object, now: number): void {
    this.lastUsed = now
    this.change(() => this.holders.delete(holder))
  }

  reset(now: number): void {
    this.openings = 0
    this.become(closed(this.settings.rule.window([]), now))
  }

  configure(settings: Settings, now: number): void {
    this.change(() => {
      if (settings.openFor !== this.settings.openFor) this.openTimes = openTimes(settings)
      this.settings = settings
      if (this.phase._tag === "Closed") {
        this.phase.window = settings.rule.window(partsOf(this.phase.window))
      } else if (settings.metricsOnly) {
        this.phase = closed(settings.rule.window([]), now)
      }
    })
  }

  snapshot(now: number): Snapshot {
    if (this.holders.size > 0) return { _tag: "Isolated", holders: this.holders.size }
    const { openings, phase } = this
    switch (phase._tag) {
      case "Closed": {
        const { calls, failures, wouldOpen } = phase
        return this.settings.metricsOnly
          ? { _tag: "MetricsOnly", calls, failures, wouldOpen }
          : { _tag: "Closed", calls, failures }
      }
      case "Open":
        return { _tag: "Open", retryAfter: Math.max(0, phase.until - now), openings }
      case "HalfOpen": {
        let probes = 0
        for (const probe of phase.probes) if (!this.isOverdue(probe, now)) probes++
        return { _tag: "HalfOpen", probes, successes: phase.successes, failures: phase.failures, openings }
      }
    }
  }

  /** Whether no call and no person depends on this circuit at the moment. */
  isUnused(): boolean {
    return this.holders.size === 0 && this.running === 0
  }

  /**
   * Whether it may be forgotten without letting through what it would refuse: a circuit that has opened has to be closed
   * by probes, however long nobody has called.
   */
  isHarmless(): boolean {
    return this.phase._tag === "Closed" && this.isUnused()
  }

  private tag(): StateTag {
    if (this.holders.size > 0) return "Isolated"
    return this.phase._tag === "Closed" && this.settings.metricsOnly ? "MetricsOnly" : this.phase._tag
  }

  private change(step: () => void): void {
    const from = this.tag()
    step()
    const to = this.tag()
    if (from !== to) this.onChange({ key: this.key, from, to })
  }

  private become(phase: Phase): void {
    this.change(() => {
      this.phase = phase
    })
  }

  private isOverdue(probe: Ticket, now: number): boolean {
    return now - probe.startedAt >= this.settings.probeTimeout
  }

  private waitForSlot(phase: HalfOpen, now: number): number {
    if (phase.probes.size < this.settings.halfOpenPermits) return 0
    for (const probe of phase.probes) {
      if (!this.isOverdue(probe, now)) break
      phase.probes.delete(probe)
    }
    if (phase.probes.size < this.settings.halfOpenPermits) return 0
    const [oldest] = phase.probes
    return oldest === undefined ? 0 : oldest.startedAt + this.settings.probeTimeout - now
  }

  private judgeProbe(phase: HalfOpen, sample: Sample, outcome: Outcome, now: number, context: Context.Context<never>) {
    const { rule, successOutOf, successThreshold } = this.settings
    if (rule.healthy(sample)) phase.successes++
    else phase.failures++
    if (phase.successes >= successThreshold) {
      this.become(closed(rule.window([]), now))
    } else if (phase.failures > successOutOf - successThreshold) {
      this.open(outcome, now, context)
    }
  }

  private count(phase: Closed, sample: Sample, outcome: Outcome, now: number, context: Context.Context<never>) {
    phase.calls++
    if (sample.failed) phase.failures++
    const trips = phase.window.record(sample)
    if (this.settings.metricsOnly) phase.wouldOpen = trips
    else if (trips) this.open(outcome, now, context)
  }

  private open(outcome: Outcome, now: number, context: Context.Context<never>): void {
    // A circuit that trips again soon after closing had not recovered: its open times go on growing. One that stayed
    // closed as long as it was last open starts from the first again.
    if (this.phase._tag === "Closed" && now - this.phase.since >= this.lastOpenFor) this.openings = 0
    this.openings++
    const own = this.openTimes(this.key, this.openings, context)
    const asked = outcome._tag === "Failure" && outcome.retryAfter !== undefined
      ? Duration.toMillis(outcome.retryAfter)
      : 0
    this.lastOpenFor = Math.min(Math.max(own, asked, shortestOpenFor), this.settings.maxOpenFor)
    this.become({ _tag: "Open", until: now + this.lastOpenFor })
  }
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
const withoutCalls = (phase: Phase, settings: Settings, now: number): Phase => {
  switch (phase._tag) {
    case "Closed":
      return closed(settings.rule.window([]), phase.since)
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

/**
 * The length of each opening. A trip is decided and dated in one synchronous step, so the schedule is stepped on the
 * spot; that no schedule waits while it computes a delay is what makes this possible. A schedule that has ended, or
 * that cannot answer at once, repeats its last delay. It measures time by the openings themselves, so that its
 * elapsed-time combinators bound the time spent open.
 */
const openTimes = (
  { openFor }: Settings
): (key: string, count: number, context: Context.Context<never>) => number => {
  if (typeof openFor === "number") return () => openFor
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
