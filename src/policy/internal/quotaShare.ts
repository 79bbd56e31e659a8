import { type Amounts, type Dimension, dimensions, each } from "./quotaAmounts.ts"

/** For how long it is remembered what others took, in milliseconds. */
const memory = 60_000

/** Others are there when they take as much of a limit's rate. Less, or two calls of it, may be rounded headers. */
const noticed = 0.03
const unnoticedCalls = 2

/** What is left, over what is not, times this, is the part of the rate that a process sends. */
const gain = 0.5

/** The least part of the rate, for who sees nothing left: others may be gone by the time it knows. */
const least = 0.01

/** How much one answer counts for how often the balance was full, and how often is often. */
const novelty = 0.1
const often = 0.25

/** An estimate is that near to the real cost. */
const near = 0.98

/** No call keeps the next one waiting for longer, however expensive it was. */
const longestPause = 300_000

/** What an answer said of a limit, and what had been sent by then. */
interface Seen {
  readonly remaining: number
  readonly sentAt: number
  readonly total: number
}

/** One limit, as headers show it. */
interface Watched {
  limit: number
  rate: number
  seen: Seen
  /** What others took of late, and in what time. */
  others: number
  millis: number
  /** The most that there ever was, and how often there was as much of late. */
  most: number
  full: number
  /** Whether less is kept of the limit than its size says, so that what is left tells little. */
  isShallow: boolean
}

/** @internal */
export interface Said {
  readonly remaining: number
  readonly limit: number
  /** What comes back in a millisecond. */
  readonly rate: number
}

/** @internal */
export interface Sent {
  readonly at: number
  readonly total: number
  readonly cost: number
}

/**
 * What is fair where headers show that others draw on the same limit.
 *
 * Each answer says what is left of a limit. What is gone since the answer before it, and was not sent here, others took.
 * As soon as they take a part of the rate worth mentioning, a process sends in proportion to what is left over what is
 * not. All processes see the same balance and send the same, however many there are and whoever came first, and the
 * balance comes to rest above zero, where together they send what the limit allows: nobody is refused.
 *
 * A provider that keeps less than the limit says, such as a minute's limit enforced by the second, has a balance that is
 * full when little is left. That shows when it is full again and again, and then the learned rate alone has to do.
 *
 * @internal
 */
export class Share {
  private readonly watched: { -readonly [D in Dimension]: Watched | undefined } = each(() => undefined)
  /** When the next call may start. */
  readyAt = Number.NEGATIVE_INFINITY

  see(dimension: Dimension, { limit, rate, remaining }: Said, { at, cost, total }: Sent): void {
    const before = remaining + cost
    const seen: Seen = { remaining, sentAt: at, total }
    const known = this.watched[dimension]
    if (known === undefined) {
      const fresh = { others: 0, millis: 0, most: before, full: 0, isShallow: false }
      this.watched[dimension] = { ...fresh, limit, rate, seen }
      return
    }
    const last = known.seen
    const millis = at - last.sentAt
    if (millis <= 0) return
    known.limit = limit
    known.rate = rate
    known.seen = seen
    known.most = Math.max(known.most, before)
    const isFull = before >= known.most * near
    known.full += ((isFull ? 1 : 0) - known.full) * novelty
    if (known.full > often) known.isShallow = true
    if (known.most >= limit / 2) known.isShallow = false
    const kept = Math.exp(-millis / memory)
    // A full balance does not show what would have come on top of it.
    const others = isFull ? 0 : last.remaining - remaining + rate * millis - (total - last.total)
    known.others = known.others * kept + others
    known.millis = known.millis * kept + millis
  }

  /** A call starts. The random number from 0 to 1 says how far the next one keeps from it. */
  take(cost: Amounts, now: number, random: number): void {
    let pause = 0
    for (const dimension of dimensions) {
      const watched = this.watched[dimension]
      if (watched === undefined || !isShared(watched, cost[dimension])) continue
      pause = Math.max(pause, pauseFor(watched, cost[dimension], now))
    }
    if (pause > 0) this.readyAt = Math.max(now, this.readyAt) + pause * (0.5 + random)
  }
}

const isShared = ({ isShallow, millis, others, rate }: Watched, cost: number): boolean =>
  !isShallow && others >= noticed * rate * millis + unnoticedCalls * cost

/** What a process may send in a millisecond where so much of a limit is left. */
const fair = (rate: number, left: number): number =>
  left >= 1 ? Infinity : rate * Math.max(gain * left / (1 - left), least)

const pauseFor = ({ limit, millis, others, rate, seen }: Watched, cost: number, now: number): number => {
  // What comes back from then to the middle of the pause counts, as far as others leave it.
  const gained = Math.max(0, rate - others / millis) / limit
  const left = Math.max(0, seen.remaining / limit) + gained * (now - seen.sentAt)
  const first = Math.min(cost / fair(rate, left), longestPause)
  return Math.min(first, cost / fair(rate, left + gained * first / 2))
}
