import * as Duration from "effect/Duration"
import * as config from "../../internal/config.ts"
import { rounding } from "../../internal/monotonic.ts"

const module = "CircuitBreaker"

/** One finished call, as a trip rule sees it: times in milliseconds, `now` monotonic. */
export interface Sample {
  readonly failed: boolean
  readonly elapsed: number
  readonly now: number
}

/** What a rule remembers about one circuit while it is closed. */
export interface TripWindow {
  /** Takes a finished call in, and says whether the circuit opens. */
  readonly record: (sample: Sample) => boolean
  /** The windows inside a combined one. */
  readonly parts?: ReadonlyArray<TripWindow> | undefined
}

/** Decides when a closed circuit opens. Holds no state: each circuit gets a window of its own. */
export interface TripRule {
  /** Starts a window that goes on from the one among `previous` it understands, if any. */
  readonly window: (previous: ReadonlyArray<TripWindow>) => TripWindow
  /** Whether a probe with this outcome speaks for closing. */
  readonly healthy: (sample: Sample) => boolean
}

/** What a rule says in numbers, so that a store outside of the process can judge by it. */
export type SharedTrip =
  | { readonly _tag: "Consecutive"; readonly failures: number }
  | { readonly _tag: "Rate"; readonly threshold: number; readonly minimumCalls: number; readonly size: number }

/** A rule that circuits shared by several processes can follow. */
export interface SharedTripRule extends TripRule {
  readonly shared: SharedTrip
}

/** What a rule of this module is: its kind and its numbers, and of a combined one its rules. */
interface Description {
  readonly text: string
  readonly rules: ReadonlyArray<TripRule>
}

// Beside the rules and not in them: a copy that somebody has changed says nothing.
const descriptions = new WeakMap<TripRule, Description>()

const described = <Rule extends TripRule>(rule: Rule, text: string, rules: ReadonlyArray<TripRule> = []): Rule => {
  descriptions.set(rule, { text, rules })
  return rule
}

/**
 * Whether two rules decide the same. Rules of somebody else do only where they are one object.
 *
 * @internal
 */
export const isSameRule = (one: TripRule | undefined, other: TripRule | undefined): boolean => {
  if (one === other) return true
  const own = one && descriptions.get(one)
  const theirs = other && descriptions.get(other)
  return own !== undefined && theirs !== undefined && own.text === theirs.text &&
    own.rules.length === theirs.rules.length && own.rules.every((rule, at) => isSameRule(rule, theirs.rules[at]))
}

/** @internal */
export const partsOf = (window: TripWindow): ReadonlyArray<TripWindow> => window.parts?.flatMap(partsOf) ?? [window]

const succeeded = (sample: Sample): boolean => !sample.failed
const failed = (sample: Sample): boolean => sample.failed

class Streak implements TripWindow {
  private readonly limit: number
  length: number
  constructor(limit: number, length: number) {
    this.limit = limit
    this.length = length
  }
  record(sample: Sample): boolean {
    this.length = sample.failed ? this.length + 1 : 0
    return this.length >= this.limit
  }
}

/** @internal */
export const consecutive = (failures: number): SharedTripRule => {
  const limit = config.integer(module, "consecutive", failures, 1)
  return described({
    shared: { _tag: "Consecutive", failures: limit },
    window: (previous) => new Streak(limit, previous.find((part) => part instanceof Streak)?.length ?? 0),
    healthy: succeeded
  }, `consecutive ${limit}`)
}

/** How many of the calls remembered were hits, kept at a cost that does not depend on how many they are. */
interface Counts {
  readonly hits: number
  readonly total: number
  readonly add: (hit: boolean, now: number) => void
  /** Takes over what other counts of the same kind remember; `false` where they are of another kind. */
  readonly adopt: (previous: Counts) => boolean
}

class LastCalls implements Counts {
  hits = 0
  total = 0
  private next = 0
  private readonly size: number
  // Made with the first hit: until then it would hold nothing but zeros, in every circuit of everything that works.
  private ring: Uint8Array | undefined = undefined
  constructor(size: number) {
    this.size = size
  }
  add(hit: boolean): void {
    const { next, size } = this
    if (hit) this.ring ??= new Uint8Array(size)
    if (this.total < size) this.total++
    if (this.ring !== undefined) {
      this.hits += (hit ? 1 : 0) - (this.ring[next] ?? 0)
      this.ring[next] = hit ? 1 : 0
    }
    this.next = next + 1 === size ? 0 : next + 1
  }
  adopt(previous: Counts): boolean {
    if (!(previous instanceof LastCalls)) return false
    const { next, ring, size, total } = previous
    for (let age = Math.min(total, this.size); age > 0; age--) {
      this.add(ring !== undefined && ring[(next - age + size) % size] === 1)
    }
    return true
  }
}

const bucketCount = 20

const emptyBuckets = (): Array<number> => Array.from({ length: bucketCount }, () => 0)

const slotOf = (bucket: number): number => ((bucket % bucketCount) + bucketCount) % bucketCount

class RecentCalls implements Counts {
  hits = 0
  total = 0
  private newest = Number.NEGATIVE_INFINITY
  private readonly width: number
  // Plain arrays: so short a typed one is mostly overhead.
  private readonly bucketTotals = emptyBuckets()
  private bucketHits: Array<number> | undefined = undefined
  constructor(span: number) {
    this.width = span / bucketCount
  }
  add(hit: boolean, now: number): void {
    this.put(hit ? 1 : 0, 1, now)
  }
  adopt(previous: Counts): boolean {
    if (!(previous instanceof RecentCalls)) return false
    for (let age = bucketCount - 1; age >= 0; age--) {
      const bucket = previous.newest - age
      const total = previous.bucketTotals[slotOf(bucket)] ?? 0
      if (total > 0) this.put(previous.bucketHits?.[slotOf(bucket)] ?? 0, total, (bucket + 0.5) * previous.width)
    }
    return true
  }
  private put(hits: number, total: number, now: number): void {
    const bucket = Math.floor(now / this.width)
    const expired = Math.min(bucket - this.newest, bucketCount)
    for (let i = 0; i < expired; i++) this.forget(slotOf(bucket - i))
    if (expired > 0) this.newest = bucket
    const slot = slotOf(this.newest)
    if (hits > 0) {
      this.bucketHits ??= emptyBuckets()
      this.bucketHits[slot] = (this.bucketHits[slot] ?? 0) + hits
    }
    this.bucketTotals[slot] = (this.bucketTotals[slot] ?? 0) + total
    this.hits += hits
    this.total += total
  }
  private forget(slot: number): void {
    this.total -= this.bucketTotals[slot] ?? 0
    this.bucketTotals[slot] = 0
    if (this.bucketHits === undefined) return
    this.hits -= this.bucketHits[slot] ?? 0
    this.bucketHits[slot] = 0
  }
}

type Measure = "failures" | "slowness"

class Share implements TripWindow {
  readonly measure: Measure
  readonly counts: Counts
  private readonly isHit: (sample: Sample) => boolean
  private readonly limit: ShareLimit
  constructor(measure: Measure, counts: Counts, isHit: (sample: Sample) => boolean, limit: ShareLimit) {
    this.measure = measure
    this.counts = counts
    this.isHit = isHit
    this.limit = limit
  }
  record(sample: Sample): boolean {
    const { counts, limit } = this
    counts.add(this.isHit(sample), sample.now)
    return counts.total >= limit.minimumCalls && counts.hits > 0 && counts.hits / counts.total >= limit.threshold
  }
}

interface ShareLimit {
  readonly threshold: number
  readonly minimumCalls: number
}

/** @internal */
export interface ShareOptions {
  readonly threshold?: number | undefined
  readonly minimumCalls?: number | undefined
}

/** @internal */
export interface SizeOptions {
  readonly size?: number | undefined
}

const defaultMinimumCalls = 10

const limitText = ({ minimumCalls, threshold }: ShareLimit): string => `${threshold} of ${minimumCalls}`

const shareLimit = (rule: string, options: ShareOptions, size: number): ShareLimit => {
  const threshold = config.numberBetween(module, `${rule}.threshold`, options.threshold ?? 0.5, 0, 1)
  const minimumCalls = config.integer(
    module,
    `${rule}.minimumCalls`,
    options.minimumCalls ?? Math.min(defaultMinimumCalls, size),
    1
  )
  // More calls than the window can hold would never be seen, and the circuit would never open.
  config.numberBetween(module, `${rule}.minimumCalls`, minimumCalls, 1, size)
  return { threshold, minimumCalls }
}

const share =
  (measure: Measure, makeCounts: () => Counts, isHit: (sample: Sample) => boolean, limit: ShareLimit) =>
  (previous: ReadonlyArray<TripWindow>): TripWindow => {
    const counts = makeCounts()
    previous.some((part) => part instanceof Share && part.measure === measure && counts.adopt(part.counts))
    return new Share(measure, counts, isHit, limit)
  }

// A byte for each call, in every circuit: more is a mistake, or needs a window of time, which costs the same for any traffic.
const largestSize = 1_000_000

const windowSize = (rule: string, options: SizeOptions): number =>
  config.integer(module, `${rule}.size`, options.size ?? 100, 1, largestSize)

const windowMillis = (rule: string, window: Duration.Input): number =>
  Duration.toMillis(config.duration(module, `${rule}.window`, window, { minimum: "1 millis" }))

/** @internal */
export const rate = (options: ShareOptions & SizeOptions = {}): SharedTripRule => {
  const size = windowSize("rate", options)
  const limit = shareLimit("rate", options, size)
  return described({
    shared: { _tag: "Rate", ...limit, size },
    window: share("failures", () => new LastCalls(size), failed, limit),
    healthy: succeeded
  }, `rate ${limitText(limit)} in ${size} calls`)
}

/** @internal */
export const rateOver = (options: ShareOptions & { readonly window: Duration.Input }): TripRule => {
  const millis = windowMillis("rateOver", options.window)
  const limit = shareLimit("rateOver", options, Number.MAX_SAFE_INTEGER)
  return described(
    { window: share("failures", () => new RecentCalls(millis), failed, limit), healthy: succeeded },
    `rate ${limitText(limit)} in ${millis} ms`
  )
}

/** @internal */
export const slowRate = (
  options: ShareOptions & SizeOptions & {
    readonly slowerThan: Duration.Input
    readonly window?: Duration.Input | undefined
  }
): TripRule => {
  const bound = Duration.toMillis(config.duration(module, "slowRate.slowerThan", options.slowerThan))
  const isSlow = (sample: Sample): boolean => sample.elapsed - bound > rounding
  const healthy = (sample: Sample): boolean => !sample.failed && !isSlow(sample)
  if (options.window === undefined) {
    const size = windowSize("slowRate", options)
    const limit = shareLimit("slowRate", options, size)
    return described(
      { window: share("slowness", () => new LastCalls(size), isSlow, limit), healthy },
      `slower than ${bound} ms, ${limitText(limit)} in ${size} calls`
    )
  }
  const millis = windowMillis("slowRate", options.window)
  const limit = shareLimit("slowRate", options, Number.MAX_SAFE_INTEGER)
  return described(
    { window: share("slowness", () => new RecentCalls(millis), isSlow, limit), healthy },
    `slower than ${bound} ms, ${limitText(limit)} in ${millis} ms`
  )
}

class AnyOf implements TripWindow {
  readonly parts: ReadonlyArray<TripWindow>
  constructor(parts: ReadonlyArray<TripWindow>) {
    this.parts = parts
  }
  record(sample: Sample): boolean {
    let trips = false
    // Every part sees every call, whichever trips first.
    for (const part of this.parts) trips = part.record(sample) || trips
    return trips
  }
}

/** @internal */
export const any = (rules: ReadonlyArray<TripRule>): TripRule =>
  described(
    {
      window: (previous) => {
        // The window at the same place comes first, so that two rules of one kind go on from their own. Places are those
        // of the single windows, whatever rules are combined of which.
        let place = 0
        return new AnyOf(rules.map((rule) => {
          const window = rule.window([...previous.slice(place), ...previous])
          place += partsOf(window).length
          return window
        }))
      },
      healthy: (sample) => rules.every((rule) => rule.healthy(sample))
    },
    "any",
    rules
  )
