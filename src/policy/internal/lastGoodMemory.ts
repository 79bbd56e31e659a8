import { LruMap } from "../../internal/lruMap.ts"
import { rounding } from "../../internal/monotonic.ts"

/** @internal */
export interface Bounds {
  readonly maxEntries: number
  readonly timeToLive: number
}

/** @internal */
export interface Entry {
  readonly json: string
  readonly asOf: number
  readonly startedAt: number
}

/**
 * The last answer for each key of each slot, the one unused for longest first. Every method is one synchronous step.
 *
 * @internal
 */
export class LastGoodMemory {
  private readonly bounds: Bounds
  private readonly entries = new LruMap<Entry>()
  private sweptAt = Number.NEGATIVE_INFINITY

  constructor(bounds: Bounds) {
    this.bounds = bounds
  }

  /** Says whether the entry was kept: the answer to a call that began later is the newer one, whichever ends first. */
  put(id: string, entry: Entry, now: number): boolean {
    const known = this.entries.peek(id)
    if (known !== undefined && known.startedAt > entry.startedAt) return false
    this.sweep(now)
    this.entries.set(id, entry)
    this.entries.shrink(this.bounds.maxEntries)
    return true
  }

  get(id: string, now: number): Entry | undefined {
    const entry = this.entries.use(id)
    if (entry === undefined || !this.isExpired(entry, now)) return entry
    this.entries.delete(id)
    return undefined
  }

  /** What stands behind the prefix in every id that begins with it, the one used last first. */
  keys(prefix: string, now: number): ReadonlyArray<string> {
    this.sweep(now, true)
    const keys = Array.from(this.entries.entries(), ([id]) => id).filter((id) => id.startsWith(prefix))
    return keys.map((id) => id.slice(prefix.length)).toReversed()
  }

  delete(id: string): void {
    this.entries.delete(id)
  }

  private isExpired(entry: Entry, now: number): boolean {
    return now - entry.startedAt > this.bounds.timeToLive + rounding
  }

  /** Looks through all entries at most once per time to live, unless it must be exact. */
  private sweep(now: number, exact = false): void {
    if (!exact && now - this.sweptAt < this.bounds.timeToLive) return
    this.sweptAt = now
    for (const [id, entry] of this.entries.entries()) if (this.isExpired(entry, now)) this.entries.delete(id)
  }
}
