import { Latency } from "./adaptiveLatency.ts"

/** @internal */
export interface Bounds {
  readonly min: number
  readonly initial: number
  readonly max: number
  readonly latencyTolerance: number
}

/** What a latency is of; each has a base of its own. */
export type Measure = "firstToken" | "perToken" | "total"

/**
 * How long a limit that was refused at one more is left at rest, in milliseconds: first, and at most, where it is much
 * lower than it used to be, and where it is not.
 */
const firstRest = 4_000
const longestRestBelow = 10_000
const longestRest = 60_000

/** With how many calls it begins again after an outage. */
const restartWith = 4

/**
 * Finds out how many calls of one key a provider takes at the same time. It knows nothing of queues and outages, and
 * every method is one step.
 *
 * The frame is that of TCP: slow start up to a goal, multiplicative decrease, and a decrease at most once for all calls
 * that were under way (RFC 5681; Chiu and Jain 1989 for why it shares fairly between those who know nothing of each
 * other). A provider of inference slots differs from a network in that it refuses at once and exactly at its capacity, and
 * so each refusal is taken for what it is: `ceiling`, the number of calls that was one too many. As CUBIC does (RFC 9438),
 * the limit comes back fast to just below it and stays there; one call more is tried now and then, less often each time it
 * is refused. When it is taken, the ceiling is gone and slow start goes on. That doubles with each round of calls and
 * still overshoots by a few only, since every step up waits for a call that was taken and the first refusal ends it.
 *
 * @internal
 */
export class Learner {
  /** Not rounded: {@link allowed} is what may run. */
  limit: number
  /** What was started in an earlier one tells of a limit that holds no more. */
  generation: number
  private readonly bounds: Bounds
  private readonly latencies: { readonly [Kind in Measure]: Latency }
  /** Up to where the limit grows by one with each call. */
  private goal: number
  private ceiling = Infinity
  private rest = firstRest
  /** When the ceiling may be tried again. */
  private restsUntil = 0
  /** What the limit is when the provider is at ease; what it is now becomes that, too, when it stays. */
  private usual: number
  /** Whether the provider has taken a call since the limit was last lowered. */
  private isProven = true
  private recoversTo = 0
  private isWanted = false
  /** What was known when the last row of failures began. */
  private known: { readonly limit: number; readonly ceiling: number; readonly goal: number }

  constructor(bounds: Bounds, generation = 0) {
    this.bounds = bounds
    this.generation = generation
    this.limit = bounds.initial
    this.usual = bounds.min
    this.known = { limit: bounds.initial, ceiling: Infinity, goal: bounds.max }
    this.goal = bounds.max
    const { latencyTolerance } = bounds
    this.latencies = {
      firstToken: new Latency(latencyTolerance),
      perToken: new Latency(latencyTolerance),
      total: new Latency(latencyTolerance)
    }
  }

  /** How many calls may run. */
  get allowed(): number {
    return Math.floor(this.limit)
  }

  /** Whether the limit is still on its way back after an outage, and somebody waits for that. */
  get isRecovering(): boolean {
    return this.isWanted && this.limit < this.recoversTo
  }

  /**
   * The provider has taken a call, the `level`-th of those that ran then. The limit grows only where it is used to the
   * full: otherwise nobody knows whether it could be higher.
   */
  taken(level: number, isUsed: boolean, now: number): void {
    this.isProven = true
    this.usual = Math.max(this.usual, level)
    if (level >= this.ceiling) {
      this.ceiling = Infinity
      this.goal = this.bounds.max
    }
    if (!isUsed) {
      this.isWanted = false
      return
    }
    const top = this.ceiling - 1
    if (this.limit < this.goal) this.set(this.limit + 1)
    else if (top === Infinity) this.set(this.limit + 1 / this.limit)
    else if (this.limit < top) {
      // nearly all of what is missing with one round of calls
      this.set(Math.min(top, this.limit + 2 * Math.max(1, top - this.limit) / this.limit))
    } else if (now >= this.restsUntil) this.set(this.ceiling)
  }

  /** How long a call took. Whether the limit was lowered for it. */
  took(kind: Measure, millis: number): boolean {
    const latency = this.latencies[kind]
    const gradient = latency.add(millis)
    if (gradient === 1) return false
    const to = Math.max(this.bounds.min, this.limit * gradient)
    latency.lowered()
    this.goal = 0
    this.recoversTo = 0
    this.lower(to)
    return true
  }

  /** The provider had no room for the `level`-th call. */
  overloaded(level: number, now: number): void {
    if (level >= this.ceiling && this.limit >= this.ceiling) {
      // It was tried whether there is more room by now, and there is none: nothing else is new.
      this.usual -= (this.usual - this.ceiling) / 10
      this.rest = Math.min(this.ceiling < 0.7 * this.usual ? longestRestBelow : longestRest, this.rest * 1.5)
      // One less than it could be, for a moment: whoever else calls the provider and has nothing finds a place.
      this.lower(this.ceiling - 2)
      this.isProven = true
    } else {
      // One call too many is no reason to send half of them. Refused again before any was taken, it was far too many.
      const factor = this.isProven ? 0.9 : 0.5
      this.ceiling = Math.min(this.ceiling, level)
      this.rest = firstRest
      this.lower(Math.min(this.limit, level) * factor)
    }
    this.restsUntil = now + this.rest
    this.goal = 0
    this.recoversTo = 0
  }

  /** A call has failed in a way that may come from too much load, and comes from something else more often. */
  failed(): void {
    const before = this.limit
    const isRepeated = !this.isProven
    this.lower(before * (isRepeated ? 0.5 : 0.9))
    if (!isRepeated) this.goal = Math.max(this.goal, before)
  }

  /** A first failure, from which a row of them may come. */
  remember(): void {
    this.known = { limit: Math.max(this.limit, this.recoversTo), ceiling: this.ceiling, goal: this.goal }
  }

  /** Nothing gets through any more. */
  stop(): void {
    this.recoversTo = 0
    this.lower(this.bounds.min)
  }

  /** Something got through again: slow start to what was known before, since an outage teaches nothing of the load. */
  restart(): void {
    const { ceiling, goal, limit } = this.known
    this.lower(Math.min(restartWith, limit))
    this.goal = Math.max(this.limit, limit, goal)
    this.recoversTo = limit
    this.isWanted = true
    this.ceiling = ceiling
    this.rest = firstRest
    this.isProven = true
    for (const latency of Object.values(this.latencies)) latency.restart()
  }

  private lower(to: number): void {
    this.set(to)
    this.isProven = false
    this.generation++
  }

  private set(to: number): void {
    this.limit = Math.max(this.bounds.min, Math.min(this.bounds.max, to))
  }
}
