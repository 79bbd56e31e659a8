import {
  add,
  type Amounts,
  amountsOf,
  type Cost,
  type Counts,
  counts,
  type Dimension,
  dimensions,
  each,
  nothing,
  type PerDimension
} from "./quotaAmounts.ts"
import { Balance, type Draw } from "./quotaBalance.ts"
import { Pace } from "./quotaPace.ts"
import { Share } from "./quotaShare.ts"

/** A limit: so much in a time, and so much at once. */
export interface Limit {
  readonly limit: number
  readonly perMillis: number
  readonly burst: number
}

/** What a provider tells of one limit. */
export interface Told {
  readonly limit: number | undefined
  readonly remaining: number | undefined
  /** In how many milliseconds all of it will be back. */
  readonly resetMillis: number | undefined
}

/** @internal */
export type Limits = PerDimension<Limit | undefined>

/** @internal */
export type AllTold = PerDimension<Told | undefined>

interface Bucket {
  readonly isConfigured: boolean
  limit: number
  perMillis: number
  capacity: number
  level: number
  at: number
  /** What makes up the difference between its capacity and its level. */
  readonly balance: Balance
}

/**
 * Leave to send one call, which has its cost reserved until it is settled.
 *
 * @internal
 */
export interface Admission {
  readonly cost: Amounts
  /** What it is taken to cost by the learned rate. */
  readonly expected: Amounts
  readonly sentAt: number
  /** The calls of a key are counted; a later one knows more of the provider's balance. */
  readonly number: number
  /** What had been sent by then, this call included. */
  readonly totals: Amounts
  readonly epoch: number
  readonly restarts: number
  /** What it has drawn of each limit. */
  readonly draws: PerDimension<Draw | undefined>
  isSettled: boolean
}

/** When a call can be sent, and what holds it back until then, where that is a limit. */
interface Ready {
  at: number
  dimension: Dimension | undefined
}

/**
 * What goes before a call, in order.
 *
 * @internal
 */
export interface Ahead {
  readonly sum: Amounts
  readonly costs: Iterable<Amounts>
}

/** @internal */
export interface Refused {
  readonly isOverload: boolean
  readonly retryAfterMillis: number | undefined
}

const minute = 60_000

/** A limit is a minute's unless it is said to come back later than in this time. */
export const longReset = 600_000

/** A limit is no longer a time's than this: nobody sends anything that would show that a longer one is wrong. */
const longestReset = 86_400_000

/** How long a refusal without a time closes the key, twice as long each time until a call comes through. */
const firstGate = 100
const longestGate = 10_000

/** So many overloads in a row may be noise. */
const noisy = 2

/** Sums of fractions miss by a little. */
const slack = 1e-6

/** How much the last call counts for what calls usually cost. */
const novelty = 0.1

/** From how far above the limits on the learned rate holds nothing back any more. */
const ample = 1.5

/** So many calls that go before are looked at one by one; of what comes after them, the sum. */
const lookedAhead = 1_000

const never = Number.NEGATIVE_INFINITY

/**
 * What one key may send: the balances of its limits, the gate that a refusal closes, and the learned rate. It knows no
 * queue and no fibers, and each method is one step at the time `now`, in milliseconds.
 *
 * @internal
 */
export class Governor {
  readonly usual: Counts = { ...counts(0), requests: 1 }
  private readonly buckets: { -readonly [D in Dimension]: Bucket | undefined }
  private readonly pace = new Pace()
  private readonly share = new Share()
  private readonly totals: Counts = counts(0)
  private readonly maxGate: number
  private sent = 0
  private gate = never
  /** Calls up to this one were sent before the last gate closed, and a refusal of them is no news. */
  private gatedUpTo = 0
  /** Calls up to this one know less of the balance than what it was last corrected by. */
  private correctedUpTo = 0
  private closedBy: Admission | undefined
  /** Until when those wait whose cost is there only when what others have reserved has come back. */
  private readonly delays = new Set<{ readonly until: number }>()
  private delayedTill = never
  private strikes = 0

  constructor(limits: Limits, maxGate: number, now: number) {
    this.maxGate = maxGate
    this.buckets = each((dimension) => {
      const given = limits[dimension]
      if (given === undefined) return undefined
      const { burst, limit, perMillis } = given
      return { isConfigured: true, limit, perMillis, capacity: burst, level: burst, at: now, balance: new Balance() }
    })
    if (dimensions.every((dimension) => limits[dimension] === undefined)) this.pace.begin()
  }

  /** Until when nothing starts. */
  get gatedUntil(): number {
    return this.gate
  }

  /** Requests in a minute that the key sends at most of its own accord. */
  get requestsPerMinute(): number {
    return this.pace.rates().requests * minute
  }

  limitOf(dimension: Dimension, now: number): { readonly limit: Limit; readonly available: number } | undefined {
    const bucket = this.buckets[dimension]
    if (bucket === undefined) return undefined
    const { capacity, limit, perMillis } = bucket
    return { limit: { limit, perMillis, burst: capacity }, available: level(bucket, now) }
  }

  /** What a call is taken to cost: what is said of it, and for the rest what calls of the key usually cost. */
  priced(cost: Cost, countCachedInput: boolean): Amounts {
    const usual = each((dimension) => {
      const bucket = this.buckets[dimension]
      return bucket?.isConfigured === true ? Math.min(this.usual[dimension], bucket.capacity) : this.usual[dimension]
    })
    return amountsOf(cost, usual, countCachedInput)
  }

  /** Whether nothing is lost when it is made anew: no limit of the user's is in use and no gate is closed. */
  isFresh(now: number): boolean {
    return now >= this.gate && dimensions.every((dimension) => {
      const bucket = this.buckets[dimension]
      return bucket === undefined || !bucket.isConfigured || level(bucket, now) >= bucket.capacity - slack
    })
  }

  /** The first limit that a cost never fits in, where somebody has set it. */
  tooLarge(cost: Amounts): { readonly dimension: Dimension; readonly capacity: number } | undefined {
    for (const dimension of dimensions) {
      const bucket = this.buckets[dimension]
      if (bucket?.isConfigured === true && cost[dimension] > bucket.capacity + slack) {
        return { dimension, capacity: bucket.capacity }
      }
    }
    return undefined
  }

  /** When a cost could be sent if what is `ahead` is sent before, by what is known now; and what holds it back until then. */
  readyAt(cost: Amounts, now: number, ahead?: Ahead): Ready {
    const from = Math.max(now, this.gate, this.delayedTill, this.pace.readyAt(), this.share.readyAt)
    if (ahead === undefined) {
      const found: Ready = { at: from, dimension: undefined }
      for (const dimension of dimensions) {
        const bucket = this.buckets[dimension]
        if (bucket === undefined) continue
        const lack = needed(bucket, cost[dimension]) - level(bucket, now)
        if (lack <= slack) continue
        const at = now + lack * bucket.perMillis / bucket.limit
        if (at <= found.at) continue
        found.at = at
        found.dimension = dimension
      }
      return found
    }
    const paced = this.pace.forecast(ahead.sum, from)
    const found = this.forecast(cost, from, ahead)
    return found.at > paced ? found : { at: paced, dimension: undefined }
  }

  /** When the limits allow a cost, from a time on, that goes after others. What is full gains nothing meanwhile. */
  private forecast(cost: Amounts, from: number, { costs, sum }: Ahead): Ready {
    const found: Ready = { at: from, dimension: undefined }
    const levels = each((dimension) => {
      const bucket = this.buckets[dimension]
      return bucket === undefined ? Infinity : level(bucket, from)
    })
    const send = (next: Amounts, isSum: boolean) => {
      let millis = 0
      for (const dimension of dimensions) {
        const bucket = this.buckets[dimension]
        if (bucket === undefined) continue
        const lack = (isSum ? next[dimension] : needed(bucket, next[dimension])) - levels[dimension]
        const wait = lack <= slack ? 0 : lack * bucket.perMillis / bucket.limit
        if (wait <= millis) continue
        millis = wait
        found.dimension = dimension
      }
      found.at += millis
      for (const dimension of dimensions) {
        const bucket = this.buckets[dimension]
        if (bucket === undefined) continue
        const gained = levels[dimension] + millis * bucket.limit / bucket.perMillis
        levels[dimension] = (isSum ? gained : Math.min(bucket.capacity, gained)) - next[dimension]
      }
    }
    const rest = { ...sum }
    let number = 0
    for (const other of costs) {
      number++
      if (number > lookedAhead) break
      send(other, false)
      add(rest, other, -1)
    }
    if (number > lookedAhead) send(rest, true)
    send(cost, false)
    return found
  }

  /** Sends a call. */
  take(cost: Amounts, now: number, hadToWait: boolean, random: number): Admission {
    this.sent++
    add(this.totals, cost)
    const draws = each((dimension) => drawn(this.buckets[dimension], cost[dimension], now))
    const expected = this.expected(cost)
    this.pace.take(expected, now, hadToWait, random)
    this.share.take(cost, now, random)
    // Not while somebody waits: who waited for one gate is never let through together.
    if (!hadToWait && !this.pace.isFree && this.hasAmpleRate()) this.pace.free()
    const { epoch, restarts } = this.pace
    const { sent: number } = this
    const totals = { ...this.totals }
    return { cost, expected, sentAt: now, number, totals, epoch, restarts, draws, isSettled: false }
  }

  /**
   * What a call will most likely cost: of output that is what calls of the key usually have. What is reserved is as much
   * as there may be, and a rate that is measured by what calls cost would be far too low for that.
   */
  private expected(cost: Amounts): Amounts {
    const usual = this.usual.outputTokens
    const outputTokens = usual > 0 ? Math.min(cost.outputTokens, usual) : cost.outputTokens
    return { ...cost, outputTokens, tokens: cost.tokens - cost.outputTokens + outputTokens }
  }

  /**
   * Moves the balance by what a call really cost, once; nothing, where it was not sent or takes its leave anew. What is
   * given back is what the balance would hold more if the call had cost no more from the start.
   */
  settle(admission: Admission, used: Amounts, now: number): void {
    if (admission.isSettled) return
    admission.isSettled = true
    const { cost, draws, expected } = admission
    for (const dimension of dimensions) {
      const bucket = this.buckets[dimension]
      const more = used[dimension] - cost[dimension]
      if (bucket === undefined || more === 0) continue
      if (more > 0) drawn(bucket, more, now)
      else giveBack(bucket, draws[dimension], -more, now)
    }
    if (admission.epoch === this.pace.epoch) {
      this.pace.correct(each((dimension) => used[dimension] - expected[dimension]), admission.restarts)
    }
  }

  /** A call came through. */
  answered(used: Amounts | undefined, now: number): void {
    if (this.strikes > 0) this.pace.recovered(used ?? this.usual, now)
    this.strikes = 0
    if (used === undefined) return
    for (const dimension of dimensions) {
      const usual = this.usual[dimension]
      this.usual[dimension] = usual === 0 ? used[dimension] : usual + (used[dimension] - usual) * novelty
    }
  }

  /**
   * A call was refused, and nothing of it counts. Gives back for how long nothing starts now; nothing for a refusal that
   * is no news, of a call that was sent before the last one was heard of.
   */
  refuse(
    admission: Admission | undefined,
    { isOverload, retryAfterMillis }: Refused,
    now: number,
    random: () => number
  ): number | undefined {
    if (admission !== undefined) this.settle(admission, nothing, now)
    if (admission !== undefined && admission.number <= this.gatedUpTo) return undefined
    const own = Math.min(firstGate * 2 ** this.strikes, longestGate) * (0.75 + random() / 2)
    const millis = Math.min(retryAfterMillis ?? own, this.maxGate)
    const isNoise = this.strikes < noisy
    const isSilent = this.strikes > 0
    this.strikes++
    this.gate = Math.max(this.gate, now + millis)
    this.closedBy = admission
    this.gatedUpTo = this.sent
    this.correctedUpTo = this.sent
    if (!isOverload) this.empty(now)
    const cost = admission?.cost ?? this.usual
    // A provider without capacity refuses some calls whatever is sent. That says nothing about a rate, and a rate that
    // fell with each of them would fall to nothing. Only where none comes through in between it is felt for anew.
    if (isOverload) {
      if (isNoise) this.pace.interrupted(cost, this.gate, millis, random())
      else this.pace.stopped(cost, this.gate, millis, random())
    } else this.pace.refused(cost, admission?.sentAt ?? now, this.gate, millis, random(), isSilent)
    return this.gate - now
  }

  /** Whether the gate was closed by the refusal of this very call, and not before. */
  isGatedBy(admission: Admission): boolean {
    return this.closedBy === admission
  }

  /** Others have closed the key. Calls go on afterwards as before, spread out. */
  close(millis: number, now: number, random: number): void {
    const closedTill = now + Math.min(millis, this.maxGate)
    const isNews = closedTill > this.gate + 1
    this.gate = Math.max(this.gate, closedTill)
    if (isNews) this.pace.interrupted(this.usual, closedTill, millis, random)
  }

  /** Nothing starts before, since what is there was reserved by others. Gives back how it is over. */
  delay(until: number): () => void {
    const delay = { until }
    this.delays.add(delay)
    this.delayedTill = Math.max(this.delayedTill, until)
    return () => {
      this.delays.delete(delay)
      if (until < this.delayedTill) return
      this.delayedTill = never
      for (const other of this.delays) this.delayedTill = Math.max(this.delayedTill, other.until)
    }
  }

  get delayedCalls(): number {
    return this.delays.size
  }

  /**
   * Corrects the balance by what the answer to a call said, never upwards: the provider may not have seen yet what was
   * sent after that call. Limits that nobody has set are learned.
   */
  observe(admission: Admission | undefined, told: AllTold, now: number): void {
    const isNews = admission === undefined || admission.number > this.correctedUpTo
    if (isNews && admission !== undefined) this.correctedUpTo = admission.number
    const rates = this.pace.rates()
    for (const dimension of dimensions) {
      const said = told[dimension]
      if (said === undefined) continue
      const bucket = this.learn(dimension, said, isNews, now)
      if (bucket === undefined || said.remaining === undefined || !isNews) continue
      const since = admission === undefined ? 0 : this.totals[dimension] - admission.totals[dimension]
      // Of what has come back since then, no more than the share of this process is counted on.
      const rate = Math.min(bucket.limit / bucket.perMillis, rates[dimension])
      const back = admission === undefined ? 0 : rate * (now - admission.sentAt)
      lower(bucket, Math.max(0, said.remaining) + back - since, now)
      if (admission !== undefined) {
        this.share.see(
          dimension,
          { remaining: Math.max(0, said.remaining), limit: bucket.limit, rate: bucket.limit / bucket.perMillis },
          { at: admission.sentAt, total: admission.totals[dimension], cost: admission.cost[dimension] }
        )
      }
    }
  }

  private learn(dimension: Dimension, { limit, resetMillis }: Told, isNews: boolean, now: number): Bucket | undefined {
    const known = this.buckets[dimension]
    if (limit === undefined || limit < 1 || known?.isConfigured === true) return known
    const isLong = resetMillis !== undefined && resetMillis > longReset
    const perMillis = isLong ? Math.min(resetMillis, longestReset) : minute
    if (known === undefined) {
      if (this.pace.isBlind) this.pace.free()
      const balance = new Balance()
      return this.buckets[dimension] = {
        isConfigured: false,
        limit,
        perMillis,
        capacity: limit,
        level: limit,
        at: now,
        balance
      }
    }
    if (!isNews) return known
    known.level = Math.min(refilled(known, now), limit)
    const lacksMore = limit - known.capacity
    if (lacksMore > 0) known.balance.lackBefore(lacksMore)
    else known.balance.refill(-lacksMore)
    known.limit = limit
    known.capacity = limit
    known.perMillis = perMillis
    return known
  }

  /** A refusal says that something is used up, which most likely is what there is least left of. */
  private empty(now: number): void {
    let least: Bucket | undefined
    for (const dimension of dimensions) {
      const bucket = this.buckets[dimension]
      if (bucket === undefined) continue
      const share = refilled(bucket, now) / bucket.capacity
      if (least === undefined || share < least.level / least.capacity) least = bucket
    }
    if (least !== undefined) lower(least, 0, now)
  }

  private hasAmpleRate(): boolean {
    const rates = this.pace.rates()
    return dimensions.every((dimension) => {
      const bucket = this.buckets[dimension]
      return rates[dimension] === Infinity ||
        (bucket !== undefined && rates[dimension] >= ample * bucket.limit / bucket.perMillis)
    })
  }
}

/** What a provider told may be less than it takes of a single call, and then the whole of it has to do. */
const needed = ({ capacity, isConfigured }: Bucket, cost: number): number =>
  isConfigured ? cost : Math.min(cost, capacity)

const level = ({ at, capacity, level, limit, perMillis }: Bucket, now: number): number =>
  now > at ? Math.min(capacity, level + (now - at) * limit / perMillis) : level

/** The balance as it is now, written down. */
const refilled = (bucket: Bucket, now: number): number => {
  const before = bucket.level
  bucket.level = level(bucket, now)
  if (bucket.level >= bucket.capacity) bucket.balance.fill()
  else bucket.balance.refill(bucket.level - before)
  if (now > bucket.at) bucket.at = now
  return bucket.level
}

/** Takes so much of a limit, where there is one. */
const drawn = (bucket: Bucket | undefined, amount: number, now: number): Draw | undefined => {
  if (bucket === undefined) return undefined
  bucket.level = refilled(bucket, now) - amount
  return amount > 0 ? bucket.balance.draw(amount, bucket.capacity) : undefined
}

/** Who was sent before there was a limit has been counted off by what an answer told. */
const giveBack = (bucket: Bucket, draw: Draw | undefined, amount: number, now: number): void => {
  const before = refilled(bucket, now)
  bucket.level = Math.min(bucket.capacity, before + bucket.balance.giveBack(draw, amount, bucket.capacity))
}

/** So much is there, and no more. */
const lower = (bucket: Bucket, to: number, now: number): void => {
  const more = refilled(bucket, now) - to
  if (more > 0) drawn(bucket, more, now)
}
