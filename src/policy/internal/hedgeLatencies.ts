import * as Duration from "effect/Duration"
import { registry } from "./engines.ts"

/** @internal */
export const defaults = { maxKeys: 10_000, idleTimeToLive: "1 hour" } as const

/** @internal */
export interface Settings {
  readonly p: number
  readonly minSamples: number
  readonly window: number
  readonly initial: Duration.Duration | undefined
  readonly min: Duration.Duration
  readonly max: Duration.Duration
}

/**
 * What a guard asks of the latencies, in steps that nothing can divide. Times are monotonic milliseconds.
 *
 * @internal
 */
export interface Engine {
  /** After how many milliseconds a call is slow; `undefined` as long as that is not known. */
  readonly delay: (name: string, settings: Settings, now: number) => number | undefined
  /** An attempt took so many milliseconds, or at least so many. */
  readonly record: (name: string, settings: Settings, millis: number, now: number) => void
}

// 0.07 of 100 is 7.000000000000001 in floating point, which is no reason to take the eighth.
const tolerance = 1e-9

/** The latest samples, in the order in which they came and in the order of their size. */
class Window {
  readonly name: string
  lastUsed: number
  private readonly ring: Float64Array
  private readonly sorted: Float64Array
  private count = 0
  private next = 0

  constructor(name: string, size: number, now: number) {
    this.name = name
    this.lastUsed = now
    this.ring = new Float64Array(size)
    this.sorted = new Float64Array(size)
  }

  get size(): number {
    return this.ring.length
  }

  get samples(): number {
    return this.count
  }

  add(sample: number): void {
    if (this.count === this.size) {
      const oldest = this.placeOf(this.ring[this.next] ?? 0)
      this.sorted.copyWithin(oldest, oldest + 1, this.count)
      this.count--
    }
    const at = this.placeOf(sample)
    this.sorted.copyWithin(at + 1, at, this.count)
    this.sorted[at] = sample
    this.count++
    this.ring[this.next] = sample
    this.next = (this.next + 1) % this.size
  }

  /** The nearest rank: the smallest sample that a share of `p` of them does not exceed. */
  quantile(p: number): number {
    return this.sorted[Math.max(0, Math.ceil(p * this.count - tolerance) - 1)] ?? 0
  }

  resized(size: number): Window {
    const larger = new Window(this.name, size, this.lastUsed)
    const oldest = this.count === this.size ? this.next : 0
    for (let i = 0; i < this.count; i++) larger.add(this.ring[(oldest + i) % this.size] ?? 0)
    return larger
  }

  /** How many samples are smaller, which is the place of the first that is not. */
  private placeOf(sample: number): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if ((this.sorted[middle] ?? 0) < sample) low = middle + 1
      else high = middle
    }
    return low
  }
}

/**
 * All windows of a service.
 *
 * @internal
 */
export class Latencies implements Engine {
  private readonly byName = new Map<string, Window>()
  private readonly maxKeys: number
  private readonly idleTimeToLive: number
  private sweptAt = Number.NEGATIVE_INFINITY

  constructor(maxKeys: number, idleTimeToLive: number) {
    this.maxKeys = maxKeys
    this.idleTimeToLive = idleTimeToLive
  }

  delay(name: string, settings: Settings, now: number): number | undefined {
    const window = this.byName.get(name)
    if (window !== undefined) window.lastUsed = now
    if (window === undefined || window.samples < settings.minSamples) {
      return settings.initial === undefined ? undefined : Duration.toMillis(settings.initial)
    }
    const slow = Math.max(window.quantile(settings.p), Duration.toMillis(settings.min))
    return Math.min(slow, Duration.toMillis(settings.max))
  }

  record(name: string, settings: Settings, millis: number, now: number): void {
    this.window(name, settings.window, now).add(millis)
  }

  samples(name: string): number {
    return this.byName.get(name)?.samples ?? 0
  }

  private window(name: string, size: number, now: number): Window {
    const known = this.byName.get(name)
    if (known !== undefined && known.size >= size) {
      known.lastUsed = now
      return known
    }
    if (known === undefined) this.makeRoom(now)
    const window = known === undefined ? new Window(name, size, now) : known.resized(size)
    window.lastUsed = now
    this.byName.set(name, window)
    return window
  }

  private makeRoom(now: number): void {
    if (now - this.sweptAt >= this.idleTimeToLive) {
      this.sweptAt = now
      for (const window of this.byName.values()) {
        if (now - window.lastUsed >= this.idleTimeToLive) this.byName.delete(window.name)
      }
    }
    if (this.byName.size < this.maxKeys) return
    // A tenth at a time, so that what a look through all of them costs is shared by as many new names.
    const surplus = this.byName.size - this.maxKeys + Math.max(1, Math.floor(this.maxKeys / 10))
    const longestUnused = Array.from(this.byName.values()).toSorted((a, b) => a.lastUsed - b.lastUsed)
    for (const window of longestUnused.slice(0, surplus)) this.byName.delete(window.name)
  }
}

/** @internal */
export const { engineOf, withEngine } = registry<Engine>()

/**
 * Learns nothing.
 *
 * @internal
 */
export const untaught: Engine = {
  delay: (_name, { initial }) => initial === undefined ? undefined : Duration.toMillis(initial),
  record: () => undefined
}
