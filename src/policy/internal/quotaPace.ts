import { add, type Amounts, type Counts, counts, dimensions, each, nothing } from "./quotaAmounts.ts"

/** How far below what it is allowed a key goes on after a refusal. */
const dip = 0.15

/** How much slower it goes on where what it is allowed has not been measured: the factor of CUBIC. */
const decrease = 0.7

/**
 * In how many calls the dip is made good, and in what time at least. As long after that one or two calls are refused, and
 * that share of all calls is wasted. Where the time is what counts, all processes look for more at the same speed, and
 * those that send most are refused most often: that makes them fair.
 */
const callsToRegain = 10
const shortestRegain = 30_000
const longestRegain = 120_000

/** A key that nothing is known of starts with so many requests in a millisecond, twice as many each `firstDoubling`. */
const firstRate = 5 / 1_000
const firstDoubling = 1_500

/** After a refusal nothing is doubled sooner, nor in fewer calls; and no refusal, however long it closes the key, slows more. */
const shortestDoubling = 2_000
const longestDoubling = 10_000
const callsToDouble = 4

/** What is left of the rate before, where nothing came through for a while, at least: others may send more by now. */
const leftAtLeast = 0.25

/** After nothing came through, the rate is doubled in so many milliseconds. */
const recovery = 1_000

/** How long ago what is sent of late was sent, in milliseconds. */
const recently = 5_000

/** How much an earlier stretch between two refusals counts beside the one after it. */
const memory = 0.5

/** How many usual calls a key may save up in a dimension in which calls differ. */
const credit = 8

/** No call keeps the next one waiting for longer, however expensive it was. */
const longestPause = 300_000

/** The curves do not stop growing; beyond this they hold nothing back. */
const steepest = 1_000

/** How far apart those who wait are at least where the rate doubles, in milliseconds. */
const leastApart = 1

/** A key that nothing is known of sends no more requests in a millisecond, and so keeps that distance. */
const fastest = 0.5 / leastApart

const never = Number.NEGATIVE_INFINITY

type Phase = "free" | "starting" | "cubic"

interface Stop {
  readonly phase: Phase
  readonly base: Counts
  readonly span: number
  readonly used: number
  readonly rates: Amounts
  /** What of it is to hold again. */
  share: number
}

/** How long it takes to be allowed a cost. */
const millisFor = (cost: Amounts, rates: Amounts): number => {
  let most = 0
  for (const dimension of dimensions) {
    const rate = rates[dimension]
    if (rate < Infinity && rate > 0) most = Math.max(most, cost[dimension] / rate)
  }
  return most
}

/**
 * The learned send rate of a key: how much of each dimension it sends in a millisecond, whatever the limits are said to
 * be. It is what keeps several processes that share nothing but a limit from starving each other, and what is left to a
 * process that is told no limit at all.
 *
 * A refusal means that the provider's balance is used up. From one refusal to the next it therefore goes from nothing to
 * nothing, and what was let through in between, divided by the time, is what this process is allowed, whoever else draws
 * on the same balance, whether refused calls are charged, and whatever a call costs. This measure is the plateau of a
 * cubic curve (Ha, Rhee, Xu: CUBIC, a new TCP-friendly high-speed TCP variant, 2008; RFC 9438; the adaptive retry mode of
 * the AWS SDKs learns a send rate so): a little below it at first, then back to it, then carefully above to see
 * whether there is more. What is not sent below the plateau stays in the provider's balance and is sent above it, so that
 * the dip costs nothing. Two things are not as there. The curve is measured in calls and not in time alone, since of a
 * process that sends little most calls would be refused if it tried for more every few seconds. And where
 * nothing came through between two refusals, there is nothing to measure: what held before is kept, and come back to.
 *
 * @internal
 */
export class Pace {
  /** Counts the refusals that changed the rate. What a call settles belongs to the epoch that it was sent in. */
  epoch = 0
  /** Counts how often the time of the next call was set anew. What a call sent before settles does not move it. */
  restarts = 0
  /** Whether it goes by nothing but a guess. */
  isBlind = false
  private phase: Phase = "free"
  /** The rate at which `starting` begins, or the plateau; infinite in a dimension that nothing was learned of. */
  private base: Counts = counts(Infinity)
  /** What the curve takes: a doubling, or the way back to the plateau. */
  private span = firstDoubling
  /** For how long calls had to wait since the last change, and until when that was counted. */
  private used = 0
  private seenAt = never
  /** When the next call may start. */
  private nextAt: Counts = counts(never)
  /** When it may at the latest. Where nothing is known yet, what a queue was told it waits is kept. */
  private turnAt: Counts = counts(never)
  private saving = 0
  /** What was let through since the call was sent whose refusal was the last change. */
  private passed: Counts = counts(0)
  private since: number | undefined
  /** What was sent in a millisecond of late. */
  private recent: Counts = counts(0)
  private sentAt = never
  /** What held before nothing came through any more. */
  private stop: Stop | undefined
  private measured: Counts = counts(0)
  private measuredMillis = 0

  /** Nothing is known of the key yet. */
  begin(): void {
    this.isBlind = true
    this.phase = "starting"
    this.base = { ...counts(Infinity), requests: firstRate }
    this.span = firstDoubling
  }

  free(): void {
    this.stop = undefined
    this.isBlind = false
    this.phase = "free"
  }

  /** Whether nothing holds calls back. */
  get isFree(): boolean {
    return this.phase === "free"
  }

  /** What a millisecond may cost; infinite where nothing holds calls back. */
  rates(): Amounts {
    if (this.phase === "free") return counts(Infinity)
    const factor = this.factor(this.used)
    return each((dimension) => this.base[dimension] * factor)
  }

  private factor(used: number): number {
    const time = used / this.span
    return this.phase === "starting"
      ? Math.min(2 ** time, this.ceiling())
      : Math.min(1 + dip * (time - 1) ** 3, steepest)
  }

  /** How much faster than at first it gets by doubling. */
  private ceiling(): number {
    return this.isBlind ? fastest / firstRate : steepest
  }

  /** The rate that holds again once it has been reached. */
  private before(): number {
    return this.stop === undefined ? Infinity : this.stop.rates.requests * this.stop.share
  }

  /** How long it takes to send amounts where calls wait all the time, from when calls have waited for so long. */
  private millisFor(amounts: Amounts, used: number): number {
    if (this.phase !== "starting") return millisFor(amounts, this.rates())
    const work = millisFor(amounts, this.base)
    const { requests } = this.base
    const ceiling = Math.max(1, Math.min(this.ceiling(), requests < Infinity ? this.before() / requests : steepest))
    const factor = Math.min(this.factor(used), ceiling)
    const perFactor = this.span / Math.LN2
    const doubling = Math.min(work, (ceiling - factor) * perFactor)
    return perFactor * Math.log1p(doubling / (factor * perFactor)) + (work - doubling) / ceiling
  }

  /** When the next call may start. */
  readyAt(): number {
    return this.phase === "free" ? never : this.latest(this.nextAt)
  }

  private latest(times: Amounts): number {
    let at = never
    for (const dimension of dimensions) if (this.base[dimension] < Infinity) at = Math.max(at, times[dimension])
    return at
  }

  /** Until when it takes to send amounts from a time on, if calls wait all the time and nothing is refused. */
  forecast(amounts: Amounts, from: number): number {
    if (this.phase === "free") return from
    const first = Math.max(from, this.latest(this.turnAt))
    const waited = this.seenAt > never ? Math.max(0, first - this.seenAt) : 0
    return first + this.millisFor(amounts, this.used + waited)
  }

  /** A call starts. The random number from 0 to 1 says how far the next one keeps from it. */
  take(cost: Amounts, now: number, hadToWait: boolean, random: number): void {
    add(this.passed, cost)
    const kept = Math.exp((this.sentAt - now) / recently)
    for (const dimension of dimensions) {
      this.recent[dimension] = this.recent[dimension] * kept + cost[dimension] / recently
    }
    this.sentAt = now
    if (this.phase === "free") return
    // It grows by the time in which calls had to wait, and so never while it is not used.
    if (hadToWait && this.seenAt > never) this.used += Math.max(0, now - this.seenAt)
    this.seenAt = Math.max(this.seenAt, now)
    this.resumed()
    const rates = this.rates()
    for (const dimension of dimensions) {
      if (rates[dimension] === Infinity) continue
      // Requests are all alike and never start together. In the others the next call may cost little, and a balance
      // that began anew with each call would let only the largest of them through at the full rate.
      const earliest = dimension === "requests" ? now : now - this.saving
      if (this.isBlind) {
        const own = { ...nothing, [dimension]: cost[dimension] }
        const turn = Math.max(this.turnAt[dimension], earliest)
        const pause = Math.min(this.millisFor(own, this.used + (hadToWait ? turn - now : 0)), longestPause)
        // A timer that is late by less than a call keeps from the next one delays nobody but its own call.
        this.turnAt[dimension] = (hadToWait ? Math.max(this.turnAt[dimension], now - pause / 2) : turn) + pause
        this.nextAt[dimension] = Math.max(this.turnAt[dimension] - pause * random / 2, now + pause / 2)
      } else {
        const pause = Math.min(cost[dimension] / rates[dimension], longestPause)
        const least = this.phase === "starting" && hadToWait && dimension === "requests" && pause > 0 ? leastApart : 0
        this.nextAt[dimension] = Math.max(
          Math.max(earliest, this.nextAt[dimension]) + pause * (0.5 + random),
          earliest + least
        )
        this.turnAt[dimension] = this.nextAt[dimension]
      }
    }
  }

  /** A call of this epoch cost so much more than was thought, or less. */
  correct(difference: Amounts, restarts: number): void {
    const rates = restarts === this.restarts ? this.rates() : counts(Infinity)
    for (const dimension of dimensions) {
      this.passed[dimension] = Math.max(0, this.passed[dimension] + difference[dimension])
      if (rates[dimension] < Infinity) {
        const millis = Math.min(difference[dimension] / rates[dimension], longestPause)
        this.nextAt[dimension] += millis
        this.turnAt[dimension] += millis
      }
    }
  }

  /**
   * The first refusal since the last change, of a call sent at `sentAt`. Nothing starts before `until`, and what starts
   * then is spread out. Where it is silent, no call has come through since the refusal before.
   */
  refused(cost: Amounts, sentAt: number, until: number, gateMillis: number, random: number, isSilent: boolean): void {
    const before = this.rates()
    const millis = sentAt - (this.since ?? sentAt)
    const hadNone = isSilent || (this.since !== undefined && this.passed.requests < 0.5)
    this.epoch++
    this.since = sentAt
    // That nothing at all comes through is no measure of a rate, however often it is said.
    if (hadNone) {
      if (this.stop !== undefined) this.stop.share = Math.max(leftAtLeast, this.stop.share * decrease)
      this.passed = counts(0)
      return this.stopped(cost, until, gateMillis, random)
    }
    if (millis <= 0) this.restart(cost, gateMillis, before)
    else if (this.used >= millis / 2) this.measure(millis)
    else this.decrease(cost, gateMillis, before)
    this.isBlind = false
    this.stop = undefined
    this.used = 0
    this.passed = counts(0)
    this.resume(cost, until, random)
  }

  /** A refusal that says nothing about a rate: calls go on as before, spread out. */
  interrupted(cost: Amounts, until: number, gateMillis: number, random: number): void {
    this.isBlind = false
    if (this.phase === "free") {
      this.phase = "starting"
      this.used = 0
      this.base = each((dimension) =>
        cost[dimension] > 0
          ? Math.max(this.recent[dimension], cost[dimension] / Math.max(gateMillis, 1_000))
          : Infinity
      )
      this.span = shortestDoubling
    }
    this.resume(cost, until, random)
  }

  /** Nothing comes through. One call after each gate, until one does. */
  stopped(cost: Amounts, until: number, gateMillis: number, random: number): void {
    this.isBlind = false
    if (this.stop === undefined) {
      const { base, phase, span, used } = this
      this.stop = { base, phase, span, used, rates: this.rates(), share: 1 }
    }
    this.restart(cost, gateMillis, this.rates(), 0)
    this.used = 0
    this.resume(cost, until, random)
  }

  /** A call came through after nothing did: soon as many as before, but not at once. */
  recovered(cost: Amounts, now: number): void {
    if (this.stop === undefined) return
    this.base = each((dimension) =>
      cost[dimension] > 0 ? Math.max(cost[dimension] / 1_000, this.base[dimension]) : Infinity
    )
    this.span = recovery
    this.used = 0
    const pause = millisFor(cost, this.rates())
    for (const dimension of dimensions) {
      this.nextAt[dimension] = Math.min(this.nextAt[dimension], now + pause)
      this.turnAt[dimension] = this.nextAt[dimension]
    }
    this.seenAt = now
  }

  /** Where the rate before a stop has been reached again, it holds again. */
  private resumed(): void {
    const { stop } = this
    if (stop === undefined || this.before() === Infinity || this.rates().requests < this.before()) return
    this.base = each((dimension) => stop.base[dimension] * stop.share)
    this.phase = stop.phase
    this.span = stop.span
    this.used = stop.used
    this.stop = undefined
  }

  private resume(cost: Amounts, until: number, random: number): void {
    this.restarts++
    const pause = Math.min(millisFor(cost, this.rates()), longestPause)
    for (const dimension of dimensions) {
      this.nextAt[dimension] = until + pause * (0.5 + random)
      this.turnAt[dimension] = this.nextAt[dimension]
    }
    this.seenAt = until
  }

  /**
   * Begins with one call a gate, or with that part of what was sent of late, if it is more: a gate may be closed for much
   * longer than it takes until one more call is allowed. Then more and more of them.
   */
  private restart(cost: Amounts, gateMillis: number, before: Amounts, kept = 0.5): void {
    this.phase = "starting"
    this.base = each((dimension) => {
      if (cost[dimension] === 0) return before[dimension]
      const least = cost[dimension] / Math.max(gateMillis, 1_000)
      return Math.min(Math.max(least, this.recent[dimension] * kept), before[dimension] / 2)
    })
    const slow = this.since !== undefined ? callsToDouble * millisFor(cost, this.base) : 0
    this.span = Math.min(Math.max(shortestDoubling, gateMillis, slow), longestDoubling)
  }

  private measure(millis: number): void {
    this.measured = each((dimension) => this.measured[dimension] * memory + this.passed[dimension])
    this.measuredMillis = this.measuredMillis * memory + millis
    this.phase = "cubic"
    this.base = each((dimension) => {
      const sum = this.measured[dimension]
      return sum > 0 ? sum / this.measuredMillis : Infinity
    })
    this.regainIn(this.measuredMillis / this.measured.requests)
  }

  /** Most of the time it was not used, and what was let through says little. */
  private decrease(cost: Amounts, gateMillis: number, before: Amounts): void {
    if (before.requests === Infinity) return this.restart(cost, gateMillis, before)
    this.phase = "cubic"
    this.base = each((dimension) => before[dimension] * decrease)
    this.regainIn(1 / this.base.requests)
  }

  private regainIn(perCall: number): void {
    this.span = Math.min(Math.max(perCall * callsToRegain, shortestRegain), longestRegain)
    this.saving = perCall * credit
  }
}
